"""``cnm service``: the words of 2015, in which a service is an endpoint with a name of its own: publish it, attach a
container to it, and both hosts list it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from libcnm.cli.session import Group, Session, command, id_of, pairs
from libcnm.errors import Ambiguous, Invalid, NotFound

if TYPE_CHECKING:
    from libcnm.controller.controller import Controller
    from libcnm.controller.endpoint import Endpoint

COLUMNS = ("SERVICE ID", "NAME", "NETWORK", "CONTAINER", "HOST")


@click.group(cls=Group)
def service() -> None:
    """Services: named endpoints, written SERVICE.NETWORK; the network may be left out where the name is unique."""


def split(text: str) -> tuple[str, str]:
    """``svc1.multihost`` as service and network: the last dot separates."""
    name, _, net = text.rpartition(".")
    if not name or not net:
        raise Invalid("service", text, "names no network", hint=f"{text.strip('.') or 'SERVICE'}.NETWORK")
    return name, net


def publish_service(
    cnm: Controller,
    text: str,
    aliases: tuple[str, ...] = (),
    address: tuple[str, ...] = (),
    ports: tuple[str, ...] = (),
    labels: dict[str, str] | None = None,
) -> Endpoint:
    """Create the endpoint that ``SERVICE.NETWORK`` names."""
    name, net = split(text)
    return cnm.network(net).create_endpoint(name, aliases=aliases, address=address or None, ports=ports, labels=labels)


def find_service(cnm: Controller, text: str) -> Endpoint:
    """The endpoint that ``SERVICE.NETWORK``, or ``SERVICE`` alone (a name, an id or its beginning), names."""
    name, _, net = text.rpartition(".")
    if name:
        try:
            return cnm.network(net).endpoint(name)
        except NotFound:
            pass  # the whole may be a name that has dots
    found = []
    for network in cnm.networks():
        try:
            found.append(network.endpoint(text))
        except NotFound:
            continue
    if not found:
        raise NotFound("service", text, hint="`cnm service ls` lists them")
    if len(found) > 1:
        raise Ambiguous("service", text, [f"{one.name}.{one.network}" for one in found])
    return found[0]


@command(service, "publish")
@click.argument("text", metavar="SERVICE.NETWORK")
@click.option("--alias", multiple=True, metavar="NAME", help="A further name; may be repeated.")
@click.option("--ip", multiple=True, metavar="ADDRESS", help="The address; one of each IP version at most.")
@click.option("-p", "--publish", "ports", multiple=True, metavar="PORT", help="[[ADDRESS:]HOST_PORT:]PORT[/PROTOCOL]")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="A label of your own.")
def publish(
    session: Session,
    text: str,
    alias: tuple[str, ...],
    ip: tuple[str, ...],
    ports: tuple[str, ...],
    label: tuple[str, ...],
) -> None:
    """Publish a service: give a name and an address in a network, not yet to any container; prints its id."""
    split(text)
    labels = pairs(label, "--label")
    with session.controller() as cnm:
        endpoint = publish_service(cnm, text, alias, ip, ports, labels)
        session.say(endpoint.inspect() if session.json else None, endpoint.id)


@command(service, "unpublish")
@click.argument("texts", metavar="SERVICE[.NETWORK]...", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="Detach it first, if it is attached on this host.")
def unpublish(session: Session, texts: tuple[str, ...], force: bool) -> None:
    """Delete services, and free their names and addresses."""
    with session.controller() as cnm:
        session.each("deleted", texts, lambda text: find_service(cnm, text).delete(force=force))


@command(service, "attach")
@click.argument("container")
@click.argument("text", metavar="SERVICE[.NETWORK]")
@click.option("--priority", default=0, metavar="N", help="The highest provides the default route.")
def attach(session: Session, container: str, text: str, priority: int) -> None:
    """Put a service into a container of this host."""
    with session.controller() as cnm:
        endpoint = find_service(cnm, text).join(cnm.sandbox(container), priority=priority)
        if session.json:
            session.say(endpoint.inspect(), "")


@command(service, "detach")
@click.argument("container")
@click.argument("text", metavar="SERVICE[.NETWORK]")
def detach(session: Session, container: str, text: str) -> None:
    """Take a service out of a container; it keeps its name and address."""
    with session.controller() as cnm:
        endpoint = find_service(cnm, text)
        endpoint.leave(cnm.sandbox(container))
        if session.json:
            session.say(endpoint.inspect(), "")


@command(service, "ls")
@click.option("--net", metavar="NETWORK", help="Only this network's.")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
def ls(session: Session, net: str | None, quiet: bool, no_trunc: bool) -> None:
    """List services, on whichever host."""
    with session.controller() as cnm:
        networks = cnm.networks() if net is None else [cnm.network(net)]
        found = sorted(
            (endpoint for network in networks for endpoint in network.endpoints() if not endpoint.is_way_out),
            key=lambda endpoint: (endpoint.name, endpoint.network, endpoint.id),
        )
        rows = [
            (id_of(one.id, whole=no_trunc), one.name, one.network, one.sandbox or "", one.host or "") for one in found
        ]
        session.table(COLUMNS, rows, [one.inspect() for one in found] if session.json else [], quiet=quiet)


@command(service, "info")
@click.argument("text", metavar="SERVICE[.NETWORK]")
def info(session: Session, text: str) -> None:
    """Show one service."""
    with session.controller() as cnm:
        endpoint = find_service(cnm, text)
        lines = {
            "Service Id": endpoint.id,
            "Name": endpoint.name,
            "Network": endpoint.network,
            "Addresses": ", ".join(map(str, endpoint.addresses)),
            "Aliases": ", ".join(endpoint.aliases),
            "MAC": endpoint.mac,
            "Ports": ", ".join(map(str, endpoint.ports)),
            "Container": endpoint.sandbox or "",
            "Host": endpoint.host or "",
        }
        text = "\n".join(f"{name}: {value}" for name, value in lines.items() if value)
        session.say(endpoint.inspect() if session.json else None, text)
