"""Rows to resources: what is in a namespace, whose it is, and which rows are the kernel's own business.

The rules are the door's (:meth:`libcnm.kernel.base.Kernel.read`). Nothing here changes anything; where rows come
from is view.py's.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Collection, Iterator, Mapping

from libcnm.kernel.linux import cold, guards, pack, unpack
from libcnm.kernel.linux.view import View
from libcnm.kernel.resources import (
    PROTOCOL,
    Address,
    Bridge,
    Fdb,
    Interface,
    LoopbackGuard,
    Neighbour,
    Route,
    Rule,
    Veth,
    Vxlan,
)
from libcnm.model.addresses import IPAddress
from libcnm.model.resource import Observed, Resource

_LOCAL_TABLE = 255
_KERNEL = 2
"""RTPROT_KERNEL, of routes and rules."""
_KERNEL_ADDRESSES = (1, 2, 3)
"""IFAPROT_KERNEL_LO, _RA, _LL: loopback's own, from router advertisements, link-local."""
_V6_METRIC = 1024
"""IP6_RT_PRIO_USER: what the kernel makes of a metric of 0."""
_NO_ADDRESS = ipaddress.IPv4Address(0)


def observe_link(view: View, link: unpack.Link, expected_ns: str | None = None) -> Observed:
    """A link as a resource. A kind that we have no word for is shown as a bridge: its name is what matters."""
    master = view.name_of(link.master) if link.master else None
    resource: Resource
    if link.kind == "veth":
        peer = view.peer(link, expected_ns)
        resource = Veth(
            view.ns,
            link.name,
            link.mac,
            peer.ns,
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
        resource = Vxlan(
            view.ns,
            link.name,
            unpack.u32_of(link.data, pack.IFLA_VXLAN_ID),
            link.mac,
            _vtep(link),
            link.mtu,
            int.from_bytes(link.data.get(pack.IFLA_VXLAN_PORT, b"")),
            master,
            link.up,
        )
    else:
        resource = Bridge(view.ns, link.name, link.mac, link.mtu, link.alias, link.up)
    return Observed(resource, view.marked(link))


def _vtep(link: unpack.Link) -> IPAddress:
    for kind in (pack.IFLA_VXLAN_LOCAL, pack.IFLA_VXLAN_LOCAL6):
        address = unpack.address_of(link.data.get(kind))
        if address is not None and not address.is_unspecified:
            return address
    return _NO_ADDRESS


def is_interface(link: unpack.Link) -> bool:
    """A link that an :class:`Interface` would leave as it is: up, no automatic addresses, no other resource."""
    return link.up and not link.automatic and (link.loopback or link.group == pack.INNER_GROUP)


def _links(kernel_kind: str) -> Callable[[View], Iterator[Observed]]:
    def read(view: View) -> Iterator[Observed]:
        for link in view.links.values():
            if link.kind == kernel_kind and link.group != pack.INNER_GROUP:
                yield observe_link(view, link)

    return read


def _interfaces(view: View) -> Iterator[Observed]:
    for link in view.links.values():
        if is_interface(link):
            yield Observed(Interface(view.ns, link.name), view.ours or link.group == pack.INNER_GROUP)


def _addresses(view: View) -> Iterator[Observed]:
    yield from addresses(view, pack.dump_addresses())


def addresses(view: View, request: bytes) -> Iterator[Observed]:
    """The addresses of a dump that are not the kernel's own."""
    for row in map(unpack.address, view.dump(request)):
        link = None if row is None else view.links.get(row.index)
        if (
            row is None
            or link is None
            or row.protocol in _KERNEL_ADDRESSES
            or (link.loopback and row.address.ip.is_loopback)
        ):
            continue
        yield Observed(Address(view.ns, link.name, row.address), view.ours or row.protocol == PROTOCOL)


def _routes(view: View) -> Iterator[Observed]:
    for version in (4, 6):
        for row in map(unpack.route, view.dump(pack.dump_routes(version))):
            if row is not None and row.protocol != _KERNEL and row.table != _LOCAL_TABLE:
                yield from as_route(view, row)


def as_route(view: View, row: unpack.RouteRow) -> Iterator[Observed]:
    """A route, if it is of a type that we have a word for and on a link in use."""
    if row.cloned or row.type not in (pack.RTN_UNICAST, pack.RTN_PROHIBIT):
        return
    prohibit = row.type == pack.RTN_PROHIBIT
    # IPv6 hangs prohibit routes on lo, which is its own business.
    name = None if prohibit or not row.index else view.name_of(row.index)
    if name is None and row.index and not prohibit:
        return
    v6 = row.destination.version == 6
    metric = 0 if v6 and row.metric == _V6_METRIC else row.metric
    route = Route(view.ns, row.destination, name, row.via, row.table, metric, "prohibit" if prohibit else "unicast")
    yield Observed(route, view.ours or row.protocol == PROTOCOL)


def _rules(view: View) -> Iterator[Observed]:
    for version in (4, 6):
        for row in cold.rules(view.dump(pack.dump_rules(version))):
            if row.protocol != _KERNEL and row.simple:
                selector = (row.priority, row.table, row.iif, row.mark, row.mask)
                rule = Rule(view.ns, version, *selector, row.action, row.goto)
                yield Observed(rule, view.ours or row.protocol == PROTOCOL)


def _neighbours(view: View) -> Iterator[Observed]:
    for family in (socket.AF_INET, socket.AF_INET6):
        for body in view.dump(pack.dump_neighbours(family)):
            yield from as_neighbour(view, unpack.neighbour(body))


def as_neighbour(view: View, row: unpack.NeighbourRow) -> Iterator[Observed]:
    """A neighbour, if it is permanent and on a link in use."""
    link = view.links.get(row.index)
    if link is None or row.address is None or not row.state & pack.NUD_PERMANENT or not row.mac:
        return
    yield Observed(Neighbour(view.ns, link.name, row.address, row.mac), view.ours or row.protocol == PROTOCOL)


def _fdb(view: View) -> Iterator[Observed]:
    if any(link.kind == "vxlan" for link in view.links.values()):
        for body in view.dump(pack.dump_neighbours(socket.AF_BRIDGE)):
            yield from as_fdb(view, unpack.neighbour(body))


def as_fdb(view: View, row: unpack.NeighbourRow) -> Iterator[Observed]:
    """A forwarding row, if it is static, of one host and on a VXLAN device in use; it has no mark but its device's."""
    link = view.links.get(row.index)
    if link is None or link.kind != "vxlan" or row.address is None or not row.state & pack.NUD_PERMANENT:
        return
    if row.mac and not int(row.mac[:2], 16) & 1 and row.mac != "00:00:00:00:00:00":
        yield Observed(Fdb(view.ns, link.name, row.mac, row.address), view.marked(link))


READERS: Mapping[type[Resource], Callable[[View], Iterator[Observed]]] = {
    Bridge: _links("bridge"),
    Veth: _links("veth"),
    Vxlan: _links("vxlan"),
    Interface: _interfaces,
    Address: _addresses,
    Route: _routes,
    Rule: _rules,
    Neighbour: _neighbours,
    Fdb: _fdb,
    LoopbackGuard: guards.read,
}


def read(view: View, kinds: Collection[type[Resource]]) -> Iterator[Observed]:
    """Everything of those kinds that is read through rtnetlink."""
    for kind, reader in READERS.items():
        if kind in kinds:
            yield from reader(view)


# -- one thing ---------------------------------------------------------------------------------------------------------


def read_one(view: View, wanted: Resource) -> Observed | None:
    """What holds an identity; for a link whatever has the name, for a route the kernel's own too."""
    if isinstance(wanted, Bridge | Veth | Vxlan):
        link = view.find(wanted.name)
        expected = wanted.peer_ns if isinstance(wanted, Veth) else None
        return None if link is None else observe_link(view, link, expected)
    return next((one for one in _candidates(view, wanted) if one.resource.identity == wanted.identity), None)


def _candidates(view: View, wanted: Resource) -> Iterator[Observed]:
    if isinstance(wanted, Route):
        for row in map(unpack.route, view.dump(pack.dump_routes(wanted.destination.version, wanted.table))):
            if row is not None and row.destination == wanted.destination:
                yield from as_route(view, row)
    elif isinstance(wanted, Rule):
        yield from _rules(view)
    elif isinstance(wanted, Interface | LoopbackGuard | Address | Neighbour | Fdb):
        link = view.find(wanted.link)
        if link is None:
            return
        view.links = {link.index: link}
        if isinstance(wanted, Interface):
            yield from _interfaces(view)
        elif isinstance(wanted, LoopbackGuard):
            yield from guards.read(view)
        elif isinstance(wanted, Address):
            yield from addresses(view, pack.dump_addresses(link.index))
        elif isinstance(wanted, Neighbour):
            answer = view.ask(pack.get_neighbour(link.index, wanted.address))
            yield from () if answer is None else as_neighbour(view, unpack.neighbour(answer))
        else:
            answer = view.ask(pack.get_fdb(link.index, wanted.mac))
            yield from () if answer is None else as_fdb(view, unpack.neighbour(answer))
