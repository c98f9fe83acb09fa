"""What the fake host is attached to: blocks it reaches, its addresses, the MTU towards a peer; ours is left out."""

from __future__ import annotations

from collections.abc import Iterator

from libcnm.errors import NotFound
from libcnm.kernel._fake_links import INNER_GROUP
from libcnm.kernel._fake_routing import Hop, best, connected
from libcnm.kernel._fake_state import Link, Space
from libcnm.kernel.base import HostNetwork
from libcnm.kernel.resources import Route
from libcnm.model.addresses import IPAddress, IPInterface, IPNetwork


def _theirs(link: Link) -> bool:
    return not (link.marked or link.group == INNER_GROUP or link.parked)


def _usable(address: IPAddress) -> bool:
    return not (address.is_link_local or address.is_loopback or address.is_unspecified or address.is_multicast)


def _hops(space: Space) -> Iterator[Hop]:
    """Unicast routes over links that are not ours, and not made by us."""
    yield from (hop for hop in connected(space) if _theirs(space.links[hop.link]))
    for row in space.routes.values():
        route = row.resource
        assert isinstance(route, Route)
        if not row.marked and route.type == "unicast" and _theirs(space.links[row.link]):
            yield Hop(route.destination, row.link, route.via, route.metric, own=False)


def _own_addresses(space: Space) -> Iterator[tuple[Link, IPInterface]]:
    for (index, interface), row in space.addresses.items():
        if not row.marked and _theirs(space.links[index]) and _usable(interface.ip):
            yield space.links[index], interface


def networks(space: Space) -> tuple[HostNetwork, ...]:
    """Blocks that the host reaches by itself, each once."""
    found: dict[IPNetwork, tuple[str, bool]] = {}
    for hop in _hops(space):
        if not hop.destination.prefixlen or not _usable(hop.destination.network_address):
            continue
        name = space.links[hop.link].name
        if hop.via is not None:
            found.setdefault(hop.destination, (f"a route via {hop.via} over {name}", False))
        else:
            found.setdefault(hop.destination, (f"on-link at {name}" if hop.own else f"a route over {name}", True))
    for link, interface in _own_addresses(space):
        found.setdefault(interface.network, (f"an address of {link.name}", True))
    return tuple(HostNetwork(block, reason, on_link) for block, (reason, on_link) in found.items())


def addresses(space: Space) -> tuple[IPAddress, ...]:
    """Global addresses of links that are up, best VTEP first: on a way out, IPv4, in the order of their making."""
    ways_out = {hop.link for hop in _hops(space) if not hop.destination.prefixlen}
    found = [
        (link.kind == "loopback", link.index not in ways_out, interface.version != 4, order, interface.ip)
        for order, (link, interface) in enumerate(_own_addresses(space))
        if link.up
    ]
    return tuple(dict.fromkeys(ip for *_, ip in sorted(found, key=lambda one: one[:4])))


def mtu_towards(space: Space, address: IPAddress) -> int:
    """The MTU of the link that the main table's route leads over."""
    hop = best(space, address)
    if hop is None:
        raise NotFound("route", str(address), hint="the host cannot reach this address")
    return space.links[hop.link].mtu
