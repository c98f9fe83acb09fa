"""Routes of the fake kernel: what may be added, which routes the kernel makes by itself, and how an address is reached.

The kernel's own routes (to what is on-link because of an address, to local addresses) are never stored: they follow
from addresses and links at each look. Facts with "probed" were tried on Linux 6.18 in a private namespace (iproute2 6.1
and pyroute2 0.9.7); the differential test repeats most of them. Knows one namespace at a time and nothing of the door.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterator

import attrs

from libcnm.kernel._fake_state import Link, Row, Space, refusal, refuse
from libcnm.kernel.resources import MAIN_TABLE, Address, Route, Rule
from libcnm.model.addresses import IPAddress, IPNetwork

LOCAL_TABLE = 255
_V6_METRIC = 1024
"""IP6_RT_PRIO_USER: what IPv6 makes of a metric of 0."""
_V6_CONNECTED_METRIC = 256


@attrs.frozen
class Hop:
    """How a block is reached: over ``link``, through ``via`` unless on-link. ``own``: the kernel made it."""

    destination: IPNetwork
    link: int
    via: IPAddress | None
    metric: int
    own: bool


def key(route: Route) -> tuple[int, IPNetwork, int]:
    """What the kernel tells two routes of a namespace apart by: the next hop is not in it (probed: EEXIST)."""
    metric = route.metric or (_V6_METRIC if route.destination.version == 6 else 0)
    return route.table, route.destination, metric


def primaries(space: Space, link: Link) -> list[Address]:
    """IPv4 addresses in order, without secondaries (a later address of the same block), and all IPv6 ones."""
    found: list[Address] = []
    for (index, interface), row in space.addresses.items():
        assert isinstance(row.resource, Address)
        same = (one for one in found if interface.version == 4 and one.address.network == interface.network)
        if index == link.index and next(same, None) is None:
            found.append(row.resource)
    return found


def connected(space: Space) -> Iterator[Hop]:
    """The routes of protocol "kernel" in the main table. A link that is down has none."""
    for link in space.links.values():
        if not link.up:
            continue
        for address in primaries(space, link):
            network = address.address.network
            if network.version == 4 and (network.prefixlen == 32 or int(network.network_address) >> 24 == 0):
                continue  # inet: a single address makes no block, and 0.0.0.0/8 is "zeronet"
            metric = _V6_CONNECTED_METRIC if network.version == 6 else 0
            yield Hop(network, link.index, None, metric, own=True)


def _stored(space: Space, table: int) -> Iterator[Hop]:
    for (held, destination, metric), row in space.routes.items():
        route = row.resource
        assert isinstance(route, Route)
        if held == table and route.type == "unicast":
            yield Hop(destination, row.link, route.via, metric, own=False)


def hops(space: Space, table: int) -> Iterator[Hop]:
    """Every way out that a table offers, the kernel's own included."""
    yield from _stored(space, table)
    if table == MAIN_TABLE:
        yield from connected(space)


def best(space: Space, address: IPAddress) -> Hop | None:
    """The main table's longest match: the lowest metric wins, then whoever came first."""
    fitting = [hop for hop in hops(space, MAIN_TABLE) if address in hop.destination]
    return min(fitting, key=lambda hop: (-hop.destination.prefixlen, hop.metric), default=None)


def add(space: Space, route: Route, subject: str, *, marked: bool) -> None:
    """Make a route; the next hop is judged before a duplicate is noticed (probed)."""
    index = _next_hop(space, route, _device(space, route, subject), subject)
    held = key(route)
    taken = (table_key for table_key in _own_keys(space, route.destination) if table_key == held)
    if held in space.routes or next(taken, None) is not None:
        refuse(errno.EEXIST, subject)
    space.routes[held] = Row(route, index, marked)


def _own_keys(space: Space, destination: IPNetwork) -> Iterator[tuple[int, IPNetwork, int]]:
    for hop in connected(space):
        if hop.destination == destination:
            yield MAIN_TABLE, hop.destination, hop.metric


def _device(space: Space, route: Route, subject: str) -> Link | None:
    if route.link is None:
        if route.via is None and route.type == "unicast":
            refuse(errno.ENODEV, subject)  # probed for both families
        return None
    return space.link(route.link, subject)


def _next_hop(space: Space, route: Route, link: Link | None, subject: str) -> int:
    if route.type == "unicast":
        find = _next_hop_v4 if route.destination.version == 4 else _next_hop_v6
        return find(space, route, link, subject)
    if route.destination.version == 6:
        return 1  # IPv6 hangs what leads nowhere on lo, and loses it when lo goes down or its IPv6 off (probed)
    if link is not None or route.via is not None:
        refuse(errno.EINVAL, subject, "Routes with a nexthop cannot have type prohibit")
    return 0


def _next_hop_v4(space: Space, route: Route, link: Link | None, subject: str) -> int:
    if route.via is None:
        assert link is not None
        if not link.up:
            refuse(errno.ENETDOWN, subject, "Device for nexthop is not up")
        return link.index
    if _is_broadcast(space, route.via, link):
        refuse(errno.EINVAL, subject, "Nexthop has invalid gateway")
    for table in dict.fromkeys((route.table, LOCAL_TABLE, *_tables_asked(space, 4))):
        found = _on_link_v4(space, table, route.via, link)
        if found is not None:
            if not space.links[found].up:  # a local address outlives its link's going down (probed)
                refuse(errno.ENETDOWN, subject)
            return found
    raise refusal(errno.ENETUNREACH, subject, "Nexthop has invalid gateway")


def _on_link_v4(space: Space, table: int, gateway: IPAddress, link: Link | None) -> int | None:
    """A gateway must be on-link or local (its own address will do, probed); routes through gateways do not count."""
    if table == LOCAL_TABLE:
        own = (index for index, interface in space.addresses if interface.ip == gateway)
        return next((index for index in own if link is None or index == link.index), None)
    fitting = [
        hop
        for hop in hops(space, table)
        if hop.via is None and gateway in hop.destination and (link is None or hop.link == link.index)
    ]
    nearest = min(fitting, key=lambda hop: (-hop.destination.prefixlen, hop.metric), default=None)
    return None if nearest is None else nearest.link


def _tables_asked(space: Space, version: int) -> list[int]:
    """The tables that are asked, in order, for a packet without a mark that did not come in from anywhere: to IPv4 that
    is one from ``lo``, to IPv6 one from no interface at all.
    """
    own = (None, "lo") if version == 4 else (None,)
    rules = [row.resource for row in space.rules.values() if isinstance(row.resource, Rule)]
    before = [rule for rule in rules if rule.version == version and rule.priority < 32766]
    places = {rule.priority for rule in before}
    asked: list[int] = []
    skip_to = 0
    for rule in sorted(before, key=lambda rule: rule.priority):
        if rule.priority < skip_to or rule.iif not in own or rule.mark:
            continue
        if rule.action == "lookup":
            asked.append(rule.table)
        elif rule.action == "goto" and rule.goto in places:
            skip_to = rule.goto
    return [*asked, MAIN_TABLE]


def _is_broadcast(space: Space, gateway: IPAddress, link: Link | None) -> bool:
    for up in space.links.values():
        if not up.up or (link is not None and up is not link):
            continue
        for address in primaries(space, up):
            network = address.address.network
            if network.version == 4 and network.prefixlen < 31 and gateway == network.broadcast_address:
                return True
    return False


def _next_hop_v6(space: Space, route: Route, link: Link | None, subject: str) -> int:
    index = link.index if link is not None else 0
    if route.via is not None:
        index = _gateway_v6(space, route, link, subject)
    device = space.links[index]
    if not device.has_ipv6:
        refuse(errno.ENODEV, subject)
    if not device.ipv6_enabled:
        refuse(errno.EACCES, subject, "IPv6 is disabled on nexthop device")
    if not device.up:
        refuse(errno.ENETDOWN, subject, "Nexthop device is not up")
    return index


def _gateway_v6(space: Space, route: Route, link: Link | None, subject: str) -> int:
    gateway = route.via
    assert isinstance(gateway, ipaddress.IPv6Address)
    if any(interface.ip == gateway for _, interface in space.addresses):
        refuse(errno.EINVAL, subject, "Gateway can not be a local address")
    if gateway.is_link_local:
        return link.index if link is not None else refuse(errno.EINVAL, subject, "Egress device not specified")
    if gateway.is_multicast:
        refuse(errno.EINVAL, subject, "Invalid gateway address")
    for table in dict.fromkeys((route.table, *_tables_asked(space, 6))):
        fitting = [hop for hop in hops(space, table) if gateway in hop.destination]
        # Unlike IPv4, the longest match decides, and a route through a gateway spoils it (probed).
        nearest = min(fitting, key=lambda hop: (-hop.destination.prefixlen, hop.metric), default=None)
        if nearest is not None and nearest.via is None and (link is None or nearest.link == link.index):
            return nearest.link
    raise refusal(errno.EHOSTUNREACH, subject)


def delete(space: Space, route: Route, subject: str) -> None:
    """Take a route away. A field that the message leaves out matches any: metric 0 does, and no link, and no gateway.

    Ours are deleted with our protocol number in the message, so that a row made by hand is "not there" (ESRCH).
    """
    fitting = [
        held
        for held, row in space.routes.items()
        if row.marked and held[:2] == key(route)[:2] and route.metric in (0, held[2]) and _fits(space, row, route)
    ]
    if not fitting:
        refuse(errno.ESRCH, subject)
    del space.routes[min(fitting, key=lambda held: held[2])]


def _fits(space: Space, row: Row, asked: Route) -> bool:
    route = row.resource
    assert isinstance(route, Route)
    link = None if asked.link is None else space.find(asked.link)
    if asked.link is not None and (link is None or link.index != row.link):
        return False
    same_way = route.via == asked.via if asked.via is not None or route.destination.version == 4 else True
    return route.type == asked.type and same_way


def forget_routes(space: Space, link: Link, *versions: int) -> None:
    """What Linux does when a link goes down, or loses its last address of a family: every route over it goes."""
    gone = [
        held for held, row in space.routes.items() if row.link == link.index and held[1].version in (versions or (4, 6))
    ]
    for held in gone:
        del space.routes[held]
