"""``cnm container``: a sandbox by its container's name, and programs inside it."""

from __future__ import annotations

import json
import signal
import subprocess
from functools import partial
from typing import TYPE_CHECKING

import click

from libcnm.cli.services import find_service, publish_service
from libcnm.cli.session import Group, Session, command, id_of, pairs, undo
from libcnm.errors import CnmError, NotFound

if TYPE_CHECKING:
    from libcnm.controller.controller import Controller
    from libcnm.controller.sandbox import Sandbox

COLUMNS = ("CONTAINER", "SANDBOX ID", "HOSTNAME", "ENDPOINTS")
NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""The exit statuses that shells and Docker give for these."""


@click.group(cls=Group)
def container() -> None:
    """Containers' networks: create, list, look and act inside."""


@command(container, "create")
@click.argument("name")
@click.option("--netns", metavar="PATH", help="Bring a network namespace, like /proc/4242/ns/net.")
@click.option("--host-network", is_flag=True, help="The host's own namespace, for networks of driver host.")
@click.option("--hostname", metavar="NAME")
@click.option("--dns", multiple=True, metavar="ADDRESS", help="A server to ask instead of the host's; may be repeated.")
@click.option("--dns-search", multiple=True, metavar="DOMAIN")
@click.option("--add-host", multiple=True, metavar="NAME:ADDRESS", help="A further line of /etc/hosts.")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="A label of your own.")
@click.option("--publish-service", metavar="SERVICE.NETWORK", help="Attach it as this service, published if need be.")
def create(
    session: Session,
    name: str,
    netns: str | None,
    host_network: bool,
    hostname: str | None,
    dns: tuple[str, ...],
    dns_search: tuple[str, ...],
    add_host: tuple[str, ...],
    label: tuple[str, ...],
    publish_service: str | None,
) -> None:
    """Create a container's sandbox; prints its id."""
    hosts, labels = pairs(add_host, "--add-host", ":"), pairs(label, "--label")
    with session.controller() as cnm:
        sandbox = cnm.create_sandbox(
            name,
            netns=netns,
            host_network=host_network,
            hostname=hostname,
            dns=dns,
            dns_search=dns_search,
            extra_hosts=hosts,
            labels=labels,
        )
        if publish_service is not None:
            _join_as(cnm, sandbox, publish_service)
        session.say(sandbox.inspect() if session.json else None, sandbox.id)


def _join_as(cnm: Controller, sandbox: Sandbox, text: str) -> None:
    """The 2015 flag: the service is used if it is there, and published otherwise. On failure nothing new stays."""
    published = None
    try:
        try:
            endpoint = find_service(cnm, text)
        except NotFound:
            endpoint = published = publish_service(cnm, text)
        endpoint.join(sandbox)
    except CnmError:
        undo(partial(sandbox.delete, keep_endpoints=True))
        if published is not None:
            undo(published.delete)
        raise


@command(container, "rm")
@click.argument("refs", metavar="CONTAINER...", nargs=-1, required=True)
@click.option("--keep-services", is_flag=True, help="Detach its endpoints instead of deleting them.")
def rm(session: Session, refs: tuple[str, ...], keep_services: bool) -> None:
    """Delete containers' sandboxes; prints the name of each."""
    with session.controller() as cnm:

        def delete(ref: str) -> None:
            cnm.sandbox(ref).delete(keep_endpoints=keep_services)
            if not session.json:
                print(ref)

        session.each("deleted", refs, delete)


@command(container, "ls")
@click.option("-q", "--quiet", is_flag=True, help="Only names.")
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
def ls(session: Session, quiet: bool, no_trunc: bool) -> None:
    """List the containers of this host."""
    with session.controller() as cnm:
        found = cnm.sandboxes()
        rows = [(one.container_id, id_of(one.id, whole=no_trunc), one.hostname, _endpoints(one)) for one in found]
        session.table(COLUMNS, rows, [one.inspect() for one in found] if session.json else [], quiet=quiet)


def _endpoints(sandbox: Sandbox) -> str:
    return ", ".join(
        f"{one.name}.{one.network} {' '.join(str(address.ip) for address in one.addresses)}".rstrip()
        for one in (*sandbox.endpoints, sandbox.way_out)
        if one is not None
    )


@command(container, "inspect")
@click.argument("ref", metavar="CONTAINER")
def inspect(session: Session, ref: str) -> None:
    """Show a container's sandbox in full: always as JSON."""
    with session.controller() as cnm:
        print(json.dumps(cnm.sandbox(ref).inspect(), indent=2, default=str))


@command(container, "exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("ref", metavar="CONTAINER")
@click.argument("argv", metavar="[--] PROGRAM [ARGUMENT]...", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(session: Session, ref: str, argv: tuple[str, ...]) -> int:
    """Run a program inside a container's network, with its own hosts, resolv.conf and hostname files.

    The exit status is the program's (128 and the signal's number, if one ended it).
    """
    words = argv[1:] if argv[0] == "--" else argv
    if not words:
        raise click.UsageError("-- is followed by no program", click.get_current_context())
    with session.controller() as cnm:
        sandbox = cnm.sandbox(ref)
        try:
            process = sandbox.popen(list(words))
        except FileNotFoundError:
            click.echo(f"cnm: no program {words[0]!r}", err=True)
            return NOT_FOUND
        except OSError as error:
            click.echo(f"cnm: {words[0]!r} cannot be run: {error.strerror}", err=True)
            return NOT_EXECUTABLE
    return _wait(process)


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Ctrl-C is for the program, which has it from the terminal as we do; we only wait for what it makes of it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        status = process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    return status if status >= 0 else 128 - status
