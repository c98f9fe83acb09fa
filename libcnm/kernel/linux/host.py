"""What the host itself is attached to: blocks it reaches, its addresses, the MTU towards a peer.

Asked before networks are made (so that no pool overlaps what the host needs) and when an overlay is; it never
changes anything and leaves out what is ours.
"""

from __future__ import annotations

from collections.abc import Iterator

from libcnm.errors import NotFound
from libcnm.kernel.base import HostNetwork
from libcnm.kernel.linux import pack, unpack
from libcnm.kernel.linux.view import View
from libcnm.kernel.resources import PROTOCOL
from libcnm.model.addresses import IPAddress, IPNetwork

_LOCAL_TABLE = 255
_KERNEL = 2
_TENTATIVE_OR_WORSE = 0x40 | 0x20 | 0x08
"""IFA_F_TENTATIVE, IFA_F_DEPRECATED, IFA_F_DADFAILED: not an address to build on."""
_TEMPORARY = 0x01


def _routes(view: View) -> Iterator[unpack.RouteRow]:
    """The host's unicast routes that are not ours."""
    for version in (4, 6):
        for row in map(unpack.route, view.dump(pack.dump_routes(version))):
            if row is None or row.cloned or row.type != pack.RTN_UNICAST or row.table == _LOCAL_TABLE:
                continue
            link = view.links.get(row.index)
            if row.protocol != PROTOCOL and (link is None or not view.marked(link)):
                yield row


def _usable(address: IPAddress) -> bool:
    return not (address.is_link_local or address.is_loopback or address.is_unspecified or address.is_multicast)


def networks(view: View) -> tuple[HostNetwork, ...]:
    """Blocks that the host reaches by itself, each once."""
    found: dict[IPNetwork, tuple[str, bool]] = {}
    for row in _routes(view):
        if not row.destination.prefixlen or not _usable(row.destination.network_address):
            continue
        link = view.links.get(row.index)
        name = link.name if link is not None else "several links"
        if row.via is not None:
            found.setdefault(row.destination, (f"a route via {row.via} over {name}", False))
        elif row.protocol == _KERNEL:
            found.setdefault(row.destination, (f"on-link at {name}", True))
        else:
            found.setdefault(row.destination, (f"a route over {name}", True))
    for link, address in _own_addresses(view):
        # An address may come without a route to its block (a /32, or "noprefixroute").
        found.setdefault(address.address.network, (f"an address of {link.name}", True))
    return tuple(HostNetwork(block, reason, on_link) for block, (reason, on_link) in found.items())


def _own_addresses(view: View) -> Iterator[tuple[unpack.Link, unpack.AddressRow]]:
    for row in map(unpack.address, view.dump(pack.dump_addresses())):
        link = None if row is None else view.links.get(row.index)
        if row is None or link is None or view.marked(link) or row.protocol == PROTOCOL:
            continue
        if _usable(row.address.ip) and row.scope == pack.RT_SCOPE_UNIVERSE:
            yield link, row


def addresses(view: View) -> tuple[IPAddress, ...]:
    """Global addresses of links that are up, best VTEP first: on a way out, IPv4, lasting, in the kernel's order."""
    ways_out = {row.index for row in _routes(view) if not row.destination.prefixlen}
    found = [
        (
            link.loopback,
            link.index not in ways_out,
            row.address.version != 4,
            bool(row.flags & _TEMPORARY),
            order,
            row.address.ip,
        )
        for order, (link, row) in enumerate(_own_addresses(view))
        if link.up and not (row.address.version == 6 and row.flags & _TENTATIVE_OR_WORSE)
    ]
    return tuple(dict.fromkeys(ip for *_, ip in sorted(found, key=lambda one: one[:5])))


def mtu_towards(view: View, address: IPAddress) -> int:
    """The MTU of the route, or else of its link; of an own address, that of the link which has it, not loopback's."""
    for link, own in _own_addresses(view):
        if own.address.ip == address:
            return link.mtu
    body = view.ask(pack.get_route(address))
    row = None if body is None else unpack.route(body)
    if row is None or not row.index:
        raise NotFound("route", str(address), hint="the host cannot reach this address")
    if row.mtu:
        return row.mtu
    answer = view.ask(pack.get_link(row.index))
    if answer is None:
        raise NotFound("route", str(address), hint="its link has just gone")
    return unpack.link(answer).mtu
