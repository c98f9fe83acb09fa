"""Ports of this host that endpoints publish: chosen, claimed in the host's own store, and given back.

One key per protocol and port holds who published it at which host address; a wildcard address clashes with every
other of its family. A port that some process of the host listens on is refused too: the firewall would take its
traffic away.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import attrs

from libcnm.contracts.driver import Driver
from libcnm.controller.context import Context
from libcnm.controller.repository import create
from libcnm.errors import AlreadyExists, Exhausted, Invalid, NotSupported
from libcnm.kv.base import NOTHING, Transaction
from libcnm.model import keys
from libcnm.model.addresses import IPAddress
from libcnm.model.deadline import Deadline
from libcnm.model.ports import Port, Protocol
from libcnm.model.records import EndpointRecord, NetworkRecord, PortClaim

_DYNAMIC_FIRST: Final = 49152
_DYNAMIC_LAST: Final = 65535
"""RFC 6335's dynamic ports, from which one is chosen when the user gives none."""
_FOREIGN: Final = "a process of this host"
_TRIES: Final = 64


def check(context: Context, driver: Driver, network: NetworkRecord, ports: Sequence[Port]) -> None:
    """Refuse, when an endpoint is created, the ports that could never be bound together, or not on this host; on which
    host an endpoint of the cluster will be is not known yet. Raises Invalid.
    """
    _refuse_clashes(ports)
    here = network.scope == "local"
    versions = {subnet.version for subnet in network.subnets}
    if ports and not versions:
        raise Invalid(
            "ports", [str(port) for port in ports], f"lead nowhere: network {network.name!r} has no addresses"
        )
    known = [port for port in ports if here or port.host_address is not None]
    bound = [one for port in known for one in _placed(context, driver, network, port, versions)]
    _refuse_clashes(bound)
    for address, port in {port.host_address: port for port in bound}.items():
        if here and address is not None and not is_here(context, address):
            raise _elsewhere(port)


def choose(
    context: Context, driver: Driver, network: NetworkRecord, record: EndpointRecord, deadline: Deadline
) -> tuple[Port, ...]:
    """The ports as they will be bound: an address and a host port each. Raises AlreadyExists, Invalid, Exhausted.

    Those of an endpoint that has no way out of its own network are published by the sandbox's.
    """
    if record.gateway_of:
        return record.ports
    if not record.ports or not publishes(driver, network):
        return ()
    versions = {interface.version for interface in record.addresses}
    placed = [_placed(context, driver, network, port, versions) for port in record.ports]
    given = [one for some in placed for one in some if one.host_port]
    bound: list[Port] = []
    for some in placed:
        number = some[0].host_port or _free(context, some, [*given, *bound], deadline)
        for one in (attrs.evolve(port, host_port=number) for port in some):
            _refuse_taken(context, one, record.id, deadline)
            bound.append(one)
    _refuse_clashes(bound)
    return tuple(dict.fromkeys(bound))


def publishes(driver: Driver, network: NetworkRecord) -> bool:
    """True when ports of the network's endpoints can be published: through it, or through a way out beside it."""
    return not network.internal and (not driver.capabilities.gateway or bool(driver.gateways(network)))


def _placed(
    context: Context, driver: Driver, network: NetworkRecord, port: Port, versions: AbstractSet[int]
) -> tuple[Port, ...]:
    """The port at each host address that it will be bound to."""
    addresses = [ip for ip in _addresses(context, driver, network, port) if ip.version in versions]
    if not addresses:
        raise Invalid("port", str(port), "has no host address of an IP version that the endpoint has")
    return tuple(attrs.evolve(port, host_address=address) for address in addresses)


def _refuse_clashes(ports: Sequence[Port]) -> None:
    known: dict[tuple[str, int], list[Port]] = {}
    for port in ports:
        same = known.setdefault((port.protocol, port.host_port), [])
        for other in same:
            if port.clashes(other):
                raise Invalid("ports", [str(other), str(port)], "lead one host port to two ports of the container")
        same.append(port)


def _addresses(context: Context, driver: Driver, network: NetworkRecord, port: Port) -> tuple[IPAddress, ...]:
    if port.host_address is not None:
        return (port.host_address,)
    return driver.default_host_ips(network) or context.settings.default_host_ips


def _free(context: Context, wanted: Sequence[Port], siblings: Sequence[Port], deadline: Deadline) -> int:
    """A host port that is free at every address of ``wanted``; what the endpoint's other ports have is not."""
    span = _DYNAMIC_LAST - _DYNAMIC_FIRST + 1
    start = context.doors.entropy.below(span)
    for step in range(_TRIES):
        number = _DYNAMIC_FIRST + (start + step) % span
        candidates = [attrs.evolve(port, host_port=number) for port in wanted]
        if any(one.clashes(sibling) for one in candidates for sibling in siblings):
            continue
        if all(_holder(context, one, deadline) is None for one in candidates):
            return number
    raise Exhausted("host port", [f"{_TRIES} ports from {_DYNAMIC_FIRST + start % span} on are taken"])


def _refuse_taken(context: Context, port: Port, endpoint_id: str, deadline: Deadline) -> None:
    holder = _holder(context, port, deadline)
    if holder is not None and holder != endpoint_id:
        raise AlreadyExists(
            "port",
            f"{port.host_address} {port.host_port}/{port.protocol}",
            holder=holder if holder == _FOREIGN else _described(context, holder, deadline),
            hint="choose another host port (0 for any that is free), or end what holds it",
        )


def _described(context: Context, endpoint_id: str, deadline: Deadline) -> str:
    """An endpoint that publishes a port here, and where it is: its id alone leads nowhere."""
    for entry in context.local.store.list(keys.ATTACHMENTS, deadline=deadline).entries:
        sandbox_id, _, _, attached = keys.parse_attachment(entry.key)
        for plug in context.plugs(sandbox_id, deadline) if attached == endpoint_id else ():
            if plug.endpoint.id == endpoint_id:
                where = f"of network {plug.network.record.name} in container {plug.place.container_id}"
                return f"endpoint {plug.endpoint.name} ({endpoint_id[:12]}) {where}"
    return f"endpoint {endpoint_id[:12]}"


def _holder(context: Context, port: Port, deadline: Deadline) -> str | None:
    """Who has the port at that address (or at one that includes it), or None."""
    stored = context.local.port(port.protocol, port.host_port, deadline)
    for text, holder in (stored.record.holders if stored is not None else {}).items():
        if _clash(text, port.host_address):
            return holder
    return _FOREIGN if _listened_on(context, port) else None


def _clash(text: str, address: IPAddress | None) -> bool:
    if address is None or (":" in text) != (address.version == 6):
        return False
    return text == str(address) or address.is_unspecified or text in ("0.0.0.0", "::")  # compared, not bound


def _listened_on(context: Context, port: Port) -> bool:
    address = port.host_address
    assert address is not None, "ports are asked about by address"
    refusal = _bind(context, address, port.host_port, port.protocol)
    if refusal == errno.EADDRNOTAVAIL and not address.is_loopback:
        raise _elsewhere(port)
    return refusal == errno.EADDRINUSE


def is_here(context: Context, address: IPAddress) -> bool:
    """True unless this host is known not to have the address. Loopback counts as had, with or without IPv6."""
    if address.is_loopback or address.is_unspecified:
        return True
    return _bind(context, address, 0, "udp") != errno.EADDRNOTAVAIL


def _elsewhere(port: Port) -> Invalid:
    return Invalid("port", str(port), f"binds to {port.host_address}, which is no address of this host")


def _bind(context: Context, address: IPAddress, number: int, protocol: Protocol) -> int:
    """Why a socket of this host could not be bound there (an errno), or 0."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    try:
        probe = context.doors.kernel.open_socket("", family, kind)
    except NotSupported:
        return 0
    except OSError as error:  # a kernel without IPv6 has no IPv6 address
        return errno.EADDRNOTAVAIL if error.errno == errno.EAFNOSUPPORT else error.errno or errno.EIO
    with probe:
        if kind == socket.SOCK_STREAM:  # so that connections in TIME_WAIT are not taken for a listener
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind((str(address), number))
        except OSError as error:
            return error.errno or errno.EIO
    return 0


def claim(context: Context, record: EndpointRecord, ports: tuple[Port, ...], deadline: Deadline) -> Transaction:
    """The writes that make the ports this endpoint's; part of the join's first transaction.

    A way out claims none: they belong to the endpoints that it publishes them for.
    """
    found = NOTHING
    if record.gateway_of:
        return found
    for (protocol, number), addresses in _grouped(ports).items():
        stored = context.local.port(protocol, number, deadline)
        mine = {str(address): record.id for address in addresses}
        if stored is None:
            found += create(keys.port(protocol, number), PortClaim(mine))
        else:
            found += stored.replace(PortClaim({**stored.record.holders, **mine}))
    return found


def release(context: Context, record: EndpointRecord, ports: tuple[Port, ...], deadline: Deadline) -> Transaction:
    """The writes that give them back; those that somebody else holds by now are left alone."""
    found = NOTHING
    if record.gateway_of:
        return found
    for protocol, number in _grouped(ports):
        stored = context.local.port(protocol, number, deadline)
        if stored is None:
            continue
        left = {address: holder for address, holder in stored.record.holders.items() if holder != record.id}
        found += stored.replace(PortClaim(left)) if left else stored.delete()
    return found


def _grouped(ports: tuple[Port, ...]) -> dict[tuple[str, int], list[IPAddress | None]]:
    found: dict[tuple[str, int], list[IPAddress | None]] = {}
    for port in ports:
        found.setdefault((port.protocol, port.host_port), []).append(port.host_address)
    return found
