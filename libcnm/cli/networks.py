"""``cnm network``: Docker's words, as far as the library does what they say."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import click

from libcnm.cli import pairing
from libcnm.cli.session import Group, Session, command, id_of, pairs, undo
from libcnm.errors import CnmError, Forbidden, InUse, Invalid, NotFound
from libcnm.model.ids import ID_HEX_DIGITS, looks_like_id, short

if TYPE_CHECKING:
    from libcnm.controller.controller import Controller
    from libcnm.controller.network import Network

COLUMNS = ("NETWORK ID", "NAME", "DRIVER", "SCOPE")


@click.group(cls=Group)
def network() -> None:
    """Networks: create, list, inspect, connect containers to them."""


@command(network, "create")
@click.argument("name")
@click.option(
    "-d", "--driver", default="bridge", show_default=True, help="null, host, bridge, overlay, or a plug-in's."
)
@click.option("--subnet", multiple=True, metavar="CIDR", help="A subnet; may be repeated.")
@click.option("--ip-range", multiple=True, metavar="CIDR", help="The part of a subnet that addresses are taken from.")
@click.option("--gateway", multiple=True, metavar="ADDRESS", help="A subnet's gateway.")
@click.option("--aux-address", multiple=True, metavar="NAME=ADDRESS", help="An address that is never given out.")
@click.option("--ipv6", is_flag=True, help="Also an IPv6 subnet, from the default pools if none is given.")
@click.option("--internal", is_flag=True, help="Nothing leads out of the network.")
@click.option("--ipam-driver", default="default", show_default=True)
@click.option("-o", "--opt", multiple=True, metavar="KEY=VALUE", help="A driver option.")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="A label of your own.")
def create(
    session: Session,
    name: str,
    driver: str,
    subnet: tuple[str, ...],
    ip_range: tuple[str, ...],
    gateway: tuple[str, ...],
    aux_address: tuple[str, ...],
    ipv6: bool,
    internal: bool,
    ipam_driver: str,
    opt: tuple[str, ...],
    label: tuple[str, ...],
) -> None:
    """Create a network; prints its id."""
    pools = pairing.subnets(subnet, ip_range, gateway, pairs(aux_address, "--aux-address"), ipv6=ipv6)
    options, labels = pairs(opt, "--opt"), pairs(label, "--label")
    with session.controller() as cnm:
        made = cnm.create_network(
            name,
            driver,
            subnets=pools,
            ipam_driver=ipam_driver,
            internal=internal,
            options=options,
            labels=labels,
        )
        session.say(made.inspect() if session.json else None, made.id)


@command(network, "ls")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
@click.option(
    "-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="driver=, id=, label=, name=, scope="
)
def ls(session: Session, quiet: bool, no_trunc: bool, filters: tuple[str, ...]) -> None:
    """List the networks of this host and of the cluster."""
    wanted = [_filter(word) for word in filters]
    with session.controller() as cnm:
        found = [one for one in cnm.networks() if all(matches(one) for matches in wanted)]
        rows = [(id_of(one.id, whole=no_trunc), one.name, one.driver, one.scope) for one in found]
        session.table(COLUMNS, rows, [one.inspect() for one in found] if session.json else [], quiet=quiet)


def _filter(word: str) -> Callable[[Network], bool]:
    key, valued, value = word.partition("=")
    known: Mapping[str, Callable[[Network], bool]] = {
        "driver": lambda network: network.driver == value,
        "id": lambda network: network.id.startswith(value),
        "label": lambda network: _has_label(network.labels, value),
        "name": lambda network: value in network.name,
        "scope": lambda network: network.scope == value,
    }
    if key not in known or not valued:
        raise Invalid("--filter", word, "is not a filter", hint=f"one of {', '.join(f'{name}=' for name in known)}")
    return known[key]


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    key, valued, value = wanted.partition("=")
    return key in labels and (not valued or labels[key] == value)


@command(network, "inspect")
@click.argument("refs", metavar="NETWORK...", nargs=-1, required=True)
def inspect(session: Session, refs: tuple[str, ...]) -> None:
    """Show networks in full: always as JSON, in the shape of `docker network inspect`."""
    with session.controller() as cnm:
        print(json.dumps([cnm.network(ref).inspect() for ref in refs], indent=2, default=str))


@command(network, "rm")
@click.argument("refs", metavar="NETWORK...", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="A network that is not there is no error.")
@click.option("--with-endpoints", is_flag=True, help="Detach and delete its endpoints of this host first.")
def rm(session: Session, refs: tuple[str, ...], force: bool, with_endpoints: bool) -> None:
    """Delete networks; prints the name of each."""
    with session.controller() as cnm:

        def delete(ref: str) -> None:
            try:
                cnm.network(ref).delete(force=with_endpoints)
            except NotFound:
                if not force:
                    raise
                return
            if not session.json:
                print(ref)

        session.each("deleted", refs, delete)


@command(network, "prune")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
def prune(session: Session, force: bool) -> int:
    """Delete the networks that have no endpoints, on whichever host; prints the name of each."""
    if session.json and not force:
        raise click.UsageError("with --json nobody is asked: give --force", click.get_current_context())
    with session.controller() as cnm:
        unused = [one for one in cnm.networks() if not one.endpoints()]
        if unused and not force and not _agreed([one.name for one in unused]):
            click.echo("cnm: nothing has been deleted", err=True)
            return 1

        def delete(one: Network) -> bool:
            try:
                one.delete()
            except (InUse, NotFound):
                return False  # used by now, or somebody was faster
            if not session.json:
                print(one.name)
            return True

        session.each("deleted", unused, delete, name=lambda one: one.name)
    return 0


def _agreed(names: list[str]) -> bool:
    """Ask on stderr, as stdout is for the result; where nobody answers, that is a no."""
    click.echo(f"Delete {', '.join(names)}? [y/N] ", err=True, nl=False)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


@command(network, "connect")
@click.argument("ref", metavar="NETWORK")
@click.argument("container")
@click.option("--ip", multiple=True, metavar="ADDRESS", help="The address; one of each IP version at most.")
@click.option("--alias", multiple=True, metavar="NAME", help="A further name; may be repeated.")
@click.option("-p", "--publish", multiple=True, metavar="PORT", help="[[ADDRESS:]HOST_PORT:]PORT[/PROTOCOL]")
@click.option("--gw-priority", default=0, metavar="N", help="The highest provides the default route.")
def connect(
    session: Session,
    ref: str,
    container: str,
    ip: tuple[str, ...],
    alias: tuple[str, ...],
    publish: tuple[str, ...],
    gw_priority: int,
) -> None:
    """Connect a container to a network, as an endpoint with the container's name (12 digits of a long id)."""
    with session.controller() as cnm:
        sandbox = cnm.sandbox(container)
        target = cnm.network(ref)
        name = sandbox.container_id
        name = (
            short(name) if len(name) == ID_HEX_DIGITS and looks_like_id(name) else name
        )  # DNS could not say the whole
        endpoint = target.create_endpoint(name, aliases=alias, ports=publish, address=ip or None)
        try:
            endpoint.join(sandbox, priority=gw_priority)
        except CnmError:
            undo(endpoint.delete)
            raise
        if session.json:
            session.say(endpoint.inspect(), "")


@command(network, "disconnect")
@click.argument("ref", metavar="NETWORK")
@click.argument("container")
def disconnect(session: Session, ref: str, container: str) -> None:
    """Disconnect a container from a network, and delete the endpoints that connected it."""
    with session.controller() as cnm:
        deleted = _disconnect(cnm, ref, container)
    if session.json:
        session.say({"deleted": deleted}, "")


def _disconnect(cnm: Controller, ref: str, container: str) -> list[str]:
    sandbox = cnm.sandbox(container)
    target = cnm.network(ref)
    inside = (*sandbox.endpoints, sandbox.way_out)  # of which the last refuses, and says why
    attached = [one for one in inside if one is not None and one.network_id == target.id]
    if not attached:
        raise Forbidden(f"container {sandbox.container_id!r} is not connected to network {target.name!r}")
    for endpoint in attached:
        endpoint.delete(force=True)
    return [endpoint.id for endpoint in attached]
