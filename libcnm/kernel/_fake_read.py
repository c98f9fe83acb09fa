"""What the fake kernel shows: its state as resources, with whose they are, and without the kernel's own rows.

The rules are the door's (:meth:`libcnm.kernel.base.Kernel.read`). Nothing here changes anything.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator

import attrs

from libcnm.kernel._fake_links import INNER_GROUP
from libcnm.kernel._fake_routing import connected
from libcnm.kernel._fake_rows import rule_key
from libcnm.kernel._fake_settings import value_of
from libcnm.kernel._fake_state import Link, Machine, Row, Space
from libcnm.kernel.resources import (
    LINK_GROUP,
    Address,
    Bridge,
    Fdb,
    FirewallElement,
    FirewallTable,
    Interface,
    LoopbackGuard,
    Namespace,
    Neighbour,
    Route,
    Rule,
    Sysctl,
    Veth,
    Vxlan,
)
from libcnm.model.resource import Observed, Resource

_ALONE = ipaddress.IPv4Address(0)
_Rows = Callable[[Space, str, bool], Iterator[Observed]]
"""Space, the name under which it is read, and whether everything in it is ours."""


def observe_link(machine: Machine, space: Space, ns: str, link: Link) -> Observed:
    """A link as a resource. A kind that we have no word for is shown as a bridge: its name is what matters."""
    bridge = space.links[link.master] if link.master is not None else None
    master = bridge.name if bridge is not None and not bridge.parked else None
    resource: Resource
    if link.kind == "veth":
        there = machine.peer(link)
        assert there is not None
        peer_space, peer = there
        names = machine.names(peer_space.id.inode)
        peer_ns = ns if peer_space is space else (names[0] if names else "?")
        resource = Veth(
            ns,
            link.name,
            link.mac,
            peer_ns,
            peer.name,
            peer.mac,
            link.mtu,
            master,
            link.hairpin,
            link.isolated,
            link.alias,
            link.up,
        )
    elif link.kind == "vxlan":
        resource = Vxlan(ns, link.name, link.vni, link.mac, link.local or _ALONE, link.mtu, link.port, master, link.up)
    else:
        resource = Bridge(ns, link.name, link.mac, link.mtu, link.alias, link.up)
    return Observed(resource, machine.whole(ns) or link.group in (LINK_GROUP, INNER_GROUP))


def _is_interface(link: Link) -> bool:
    """A link that an :class:`Interface` would leave as it is: up, no automatic addresses, no resource by itself."""
    return link.up and not link.automatic and (link.kind == "loopback" or link.group == INNER_GROUP)


def links(machine: Machine, space: Space, ns: str, kind: type[Resource]) -> Iterator[Observed]:
    """Bridges, pairs (outer ends only) and VXLAN devices; not those that are parked."""
    for link in space.links.values():
        if link.parked or link.kind in ("loopback", "other") or link.group == INNER_GROUP:
            continue
        observed = observe_link(machine, space, ns, link)
        if isinstance(observed.resource, kind):
            yield observed


def _interfaces(space: Space, ns: str, whole: bool) -> Iterator[Observed]:
    for link in space.links.values():
        if _is_interface(link):
            yield Observed(Interface(ns, link.name), whole or link.group == INNER_GROUP)


def show(space: Space, ns: str, row: Row, whole: bool) -> Observed | None:
    """A row, under the names that its namespace and link have now; None on a parked link."""
    resource = row.resource
    ours = whole or row.marked
    if row.link == 0:
        return Observed(_within(resource, ns), ours)
    link = space.links[row.link]
    if link.parked:
        return None
    if isinstance(resource, Route):
        # IPv6 hangs prohibit routes on lo, which is its own business.
        name = link.name if resource.type == "unicast" else None
        return Observed(attrs.evolve(resource, ns=ns, link=name), ours)
    if isinstance(resource, Fdb):
        ours = whole or link.marked  # forwarding rows have no mark of their own
    if isinstance(resource, Address | Neighbour | Fdb) and (resource.ns, resource.link) != (ns, link.name):
        resource = attrs.evolve(resource, ns=ns, link=link.name)
    return Observed(resource, ours)


def _within(resource: Resource, ns: str) -> Resource:
    if isinstance(resource, Route | Rule | FirewallElement) and resource.ns != ns:
        return attrs.evolve(resource, ns=ns)
    return resource


def _rows(pick: Callable[[Space], Iterator[Row]]) -> _Rows:
    def read(space: Space, ns: str, whole: bool) -> Iterator[Observed]:
        for row in pick(space):
            observed = show(space, ns, row, whole)
            if observed is not None:
                yield observed

    return read


def _guards(space: Space, ns: str, whole: bool) -> Iterator[Observed]:
    for index, mark in space.guards.items():
        link = space.links[index]
        if link.kind == "bridge" and not link.parked and (whole or link.marked):
            yield Observed(LoopbackGuard(ns, link.name, mark), ours=True)


def _tables(space: Space, ns: str, _whole: bool) -> Iterator[Observed]:
    for name, table in space.tables.items():
        yield Observed(FirewallTable(ns, name, table.version), ours=True)


def _elements(space: Space, ns: str, _whole: bool) -> Iterator[Observed]:
    for table in space.tables.values():
        for element in table.elements.values():
            yield Observed(_within(element, ns), ours=True)


_READERS: dict[type[Resource], _Rows] = {
    Interface: _interfaces,
    Address: _rows(lambda space: iter(space.addresses.values())),
    Route: _rows(lambda space: iter(space.routes.values())),
    Rule: _rows(lambda space: iter(space.rules.values())),
    Neighbour: _rows(lambda space: iter(space.neighbours.values())),
    Fdb: _rows(lambda space: iter(space.fdb.values())),
    LoopbackGuard: _guards,
    FirewallTable: _tables,
    FirewallElement: _elements,
}
KINDS: tuple[type[Resource], ...] = (Namespace, Bridge, Veth, Vxlan, *_READERS)
"""What a read without ``kinds`` reads."""


def _namespace(machine: Machine, name: str) -> Observed:
    return Observed(Namespace(name, machine.brought.get(name)), ours=True)


def read_space(machine: Machine, ns: str, kind: type[Resource]) -> Iterator[Observed]:
    """Every resource of one kind in one namespace."""
    if kind is Namespace and not ns:
        yield from (_namespace(machine, name) for name in machine.pins)
    space = machine.space(ns)
    if space is None:
        return
    if kind in (Bridge, Veth, Vxlan):
        yield from links(machine, space, ns, kind)
    elif kind in _READERS:
        yield from _READERS[kind](space, ns, machine.whole(ns))


def read_one(machine: Machine, wanted: Resource) -> Observed | None:
    """What holds an identity; for a link whatever has the name, for a route the kernel's own too."""
    if isinstance(wanted, Namespace):
        return _namespace(machine, wanted.name) if wanted.name in machine.pins else None
    ns = wanted.identity[1]
    space = machine.space(ns)
    if space is None:
        return None
    if isinstance(wanted, Bridge | Veth | Vxlan):
        link = space.find(wanted.name)
        return observe_link(machine, space, ns, link) if link is not None and not link.parked else None
    if isinstance(wanted, Sysctl):
        value = value_of(space, wanted.key)
        held = None if value is None else Sysctl(ns, wanted.key, value, wanted.link, wanted.restore)
        return None if held is None else Observed(held, machine.whole(ns))
    if isinstance(wanted, Rule):
        row = space.rules.get(rule_key(wanted))
        return None if row is None else show(space, ns, row, machine.whole(ns))
    found = (one for one in read_space(machine, ns, type(wanted)) if one.resource.identity == wanted.identity)
    observed = next(found, None)
    if observed is None and isinstance(wanted, Route):
        return _connected_as_route(space, wanted, machine.whole(ns))
    return observed


def _connected_as_route(space: Space, wanted: Route, whole: bool) -> Observed | None:
    for hop in connected(space):
        route = Route(wanted.ns, hop.destination, space.links[hop.link].name, metric=hop.metric)
        if route.identity == wanted.identity:
            return Observed(route, whole)
    return None
