"""Hypothesis strategies for resources and for sequences of changes, from a universe small enough that they collide.

Two links of one name, an address on a link that is not there yet, a route through somebody else's block: what happens
rarely with random names happens all the time here. Everything generated is well-formed, but little of it is allowed.
Strategies know values only; what becomes of them is for the tests that draw.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final, Literal, TypeVar

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from libcnm.kernel import firewall
from libcnm.kernel.resources import (
    MAIN_TABLE,
    Address,
    Bridge,
    Fdb,
    FirewallElement,
    Interface,
    LoopbackGuard,
    Namespace,
    Neighbour,
    Route,
    Rule,
    Sysctl,
    Veth,
    Vxlan,
    ipv6_switch,
)
from libcnm.model.resource import Change, Operation, Resource

T = TypeVar("T")

NAMESPACES: Final = ("", "s1", "s2")
LINKS: Final = ("b1", "b2", "v1", "v2", "e1")
TABLE: Final = firewall.table("cnm-any")

_MACS: Final = tuple(f"02:00:00:00:00:{number:02x}" for number in range(1, 5))
_BLOCKS: Final = ("10.1.0.0/24", "10.1.0.0/25", "10.2.0.0/24", "fd01::/64", "fd02::/64", "0.0.0.0/0", "::/0")
_INTERFACES: Final = (
    *("10.1.0.1/24", "10.1.0.2/24", "10.1.0.1/25", "10.2.0.1/24", "10.3.0.1/32"),
    *("fd01::1/64", "fd01::2/64", "fd02::1/64", "fe80::1/64"),
)
_GATEWAYS: Final = (
    "10.1.0.1",
    "10.1.0.9",
    "10.1.0.255",
    "10.2.0.9",
    "10.9.0.1",
    "fd01::1",
    "fd01::9",
    "fe80::9",
    "fd09::1",
)


def _of(*values: T) -> SearchStrategy[T]:
    return st.sampled_from(values)


_ACTIONS: SearchStrategy[Literal["lookup", "goto", "nop"]] = st.sampled_from(("lookup", "lookup", "goto", "nop"))
_PROTOCOLS: SearchStrategy[Literal["tcp", "udp"]] = st.sampled_from(("tcp", "udp"))


def namespace_names() -> SearchStrategy[str]:
    """The host's namespace and two sandboxes."""
    return _of(*NAMESPACES)


def link_names() -> SearchStrategy[str]:
    """Few enough that a bridge often wants a pair's name."""
    return _of(*LINKS)


def macs() -> SearchStrategy[str]:
    """Unicast MACs."""
    return _of(*_MACS)


def mtus() -> SearchStrategy[int]:
    """Usual ones, the bounds, IPv6's bound, and just outside."""
    return _of(1500, 1400, 9000, 1280, 1279, 68, 65535, 67, 65536)


def places() -> SearchStrategy[tuple[str, str]]:
    """A namespace and a link in it; mostly one that the network below has."""
    likely = st.sampled_from((("", "b1"), ("s1", "e1"), ("s2", "x1"), ("s2", "b1")))
    return st.one_of(likely, likely, likely, st.tuples(namespace_names(), link_names()))


def bridges() -> SearchStrategy[Bridge]:
    """Bridges anywhere."""
    return st.builds(Bridge, ns=namespace_names(), name=link_names(), mac=macs(), mtu=mtus(), alias=_of("", "text"))


def veths() -> SearchStrategy[Veth]:
    """Pairs, most of them from the host into a sandbox and with a master."""
    return st.builds(
        Veth,
        ns=_of("", "", "s1"),
        name=link_names(),
        mac=macs(),
        peer_ns=_of("s1", "s2", ""),
        peer_name=_of("e1", "e2"),
        peer_mac=macs(),
        mtu=mtus(),
        master=_of(None, "b1", "b1", "b2"),
        hairpin=st.booleans(),
        isolated=st.booleans(),
        alias=_of("", "text"),
    )


def vxlans() -> SearchStrategy[Vxlan]:
    """VXLAN devices with few VNIs, over IPv4 and IPv6."""
    return st.builds(
        Vxlan,
        ns=_of("s1", "s2", ""),
        name=_of("x1", "x1", "b2"),  # nothing else is ever named x1: forwarding rows are for VXLAN devices
        vni=_of(300, 301),
        mac=macs(),
        local=_of("192.0.2.1", "192.0.2.2", "2001:db8::1").map(ipaddress.ip_address),
        mtu=_of(1450, 1400),
        master=_of(None, "b1"),
    )


def interfaces() -> SearchStrategy[Interface]:
    """Inner ends and ``lo``."""
    return st.builds(Interface, ns=_of("s1", "s2"), link=_of("e1", "e2", "lo"))


def addresses() -> SearchStrategy[Address]:
    """Addresses that overlap, repeat, and differ in the length alone."""
    return st.builds(
        lambda place, text: Address(place[0], place[1], ipaddress.ip_interface(text)), places(), _of(*_INTERFACES)
    )


def routes() -> SearchStrategy[Route]:
    """On-link, through gateways near and far, and prohibit routes, in two tables. Never both lengths of nothing."""

    def build(
        place: tuple[str, str],
        block: str,
        anywhere: bool,
        gateway: str | None,
        table: int,
        metric: int,
        kind: Literal["unicast", "prohibit"],
    ) -> Route:
        destination = ipaddress.ip_network(block)
        ns, link = place
        via = None if gateway is None else ipaddress.ip_address(gateway)
        if via is not None and via.version != destination.version:
            via = None
        if kind == "prohibit":
            return Route(ns, destination, table=table, metric=metric, type=kind)
        return Route(ns, destination, None if anywhere and via else link, via, table, metric)

    return st.builds(
        build,
        places(),
        _of(*_BLOCKS),
        st.booleans(),
        _of(None, *_GATEWAYS),
        _of(MAIN_TABLE, MAIN_TABLE, 8472),
        _of(0, 0, 1, 7),
        _of("unicast", "unicast", "prohibit"),
    )


def rules() -> SearchStrategy[Rule]:
    """Rules with and without conditions, and those that only lead past others."""
    return st.builds(
        Rule,
        ns=namespace_names(),
        version=_of(4, 6),
        priority=_of(7000, 8000),
        table=_of(MAIN_TABLE, 8472),
        iif=_of(None, "b1"),
        mark=_of(None, 0x1000, 0),
        mask=_of(0x1000, 0xFFFFFFFF),
        action=_ACTIONS,
        goto=_of(8000, 9000),
    ).map(_possible_rule)


def _possible_rule(rule: Rule) -> Rule:
    """No mask without a mark, no destination without a goto, and none that lies behind."""
    if rule.action != "goto":
        rule = attrs.evolve(rule, goto=0)
    elif rule.goto <= rule.priority:
        rule = attrs.evolve(rule, goto=rule.priority + 1)
    return rule if rule.mark is not None else attrs.evolve(rule, mask=0xFFFFFFFF)


def guards() -> SearchStrategy[LoopbackGuard]:
    """Guards on links of any kind; only those of bridges are looked for."""
    return st.builds(lambda place, mark: LoopbackGuard(place[0], place[1], mark), places(), _of(0x1000, 0x2000))


def neighbours() -> SearchStrategy[Neighbour]:
    """Permanent neighbours of both families."""
    return st.builds(
        lambda place, text, mac: Neighbour(place[0], place[1], ipaddress.ip_address(text), mac),
        places(),
        _of("10.1.0.7", "10.1.0.8", "fd01::7"),
        macs(),
    )


def fdbs() -> SearchStrategy[Fdb]:
    """Forwarding rows; only VXLAN devices have any, so mostly of such a name."""
    return st.builds(
        Fdb,
        ns=_of("s2", "s2", "s2", "s1", ""),
        link=_of("x1"),
        mac=macs(),
        vtep=_of("192.0.2.7", "192.0.2.7", "192.0.2.8", "2001:db8::7").map(ipaddress.ip_address),
    )


def sysctls() -> SearchStrategy[Sysctl]:
    """Settings of links, of namespaces, of nothing, and values that are none."""
    keys = (
        *(ipv6_switch(link) for link in ("b1", "e1", "x1", "all", "default")),
        *(f"net/ipv4/conf/{link}/{name}" for link in ("b1", "all") for name in ("forwarding", "route_localnet")),
        "net/ipv4/ip_forward",
        "net/ipv6/conf/all/forwarding",
        "net/ipv4/no_such_key",
    )
    return st.builds(
        Sysctl, ns=namespace_names(), key=_of(*keys), value=_of("0", "1", "many"), restore=_of(None, "0", "1")
    )


def firewall_elements() -> SearchStrategy[FirewallElement]:
    """Elements of a network and of ports, on the host."""
    networks = st.builds(
        lambda bridge, block, icc, internal: firewall.network_elements(
            TABLE,
            bridge=bridge,
            subnets=[ipaddress.ip_network(block)],
            gateways=[ipaddress.ip_network(block)[1]],
            masquerade=True,
            internal=internal,
            icc=icc,
        ),
        _of("b1", "b2"),
        _of("10.1.0.0/24", "10.1.0.0/25", "fd01::/64"),
        st.booleans(),
        st.booleans(),
    )
    ports = st.builds(
        lambda protocol, host, port: firewall.port_elements(
            TABLE,
            bridge="b1",
            protocol=protocol,
            host_address=None if host is None else ipaddress.ip_address(host),
            host_port=port,
            address=ipaddress.ip_address("10.1.0.2"),
            port=port + 1,
        ),
        _PROTOCOLS,
        _of(None, "192.0.2.1"),
        _of(80, 8080),
    )
    return st.one_of(networks, ports).flatmap(st.sampled_from)


def namespaces() -> SearchStrategy[Namespace]:
    """The two sandboxes."""
    return st.builds(Namespace, name=_of("s1", "s2"))


def resources() -> SearchStrategy[Resource]:
    """One of any kind of ours; the kinds that much depends on come more often."""
    return st.one_of(
        namespaces(),
        bridges(),
        bridges(),
        veths(),
        veths(),
        vxlans(),
        interfaces(),
        interfaces(),
        addresses(),
        addresses(),
        routes(),
        routes(),
        rules(),
        guards(),
        neighbours(),
        fdbs(),
        sysctls(),
        st.just(TABLE),
        firewall_elements(),
    )


def _changed(resource: Resource, mac: str, mtu: int) -> Resource:
    """Another resource of the same identity, where the kind has fields that change in place."""
    fields = {"mac": mac, "mtu": mtu, "peer_mac": mac}
    has = {field.name for field in attrs.fields(type(resource))}
    return attrs.evolve(resource, **{name: value for name, value in fields.items() if name in has})


@attrs.frozen
class _Step:
    """What one step is drawn as: something new, or something to do again with what came before."""

    new: Resource
    again: Operation | None
    which: int
    mac: str
    mtu: int

    def on(self, made: Sequence[Resource]) -> Change:
        """The change, after ``made`` was drawn."""
        if self.again is None or not made:
            return Change("add", self.new)
        resource = made[self.which % len(made)]
        if self.again != "change":
            return Change(self.again, resource)
        changeable = isinstance(resource, Bridge | Veth | Vxlan | Neighbour)
        return Change("change", _changed(resource, self.mac, self.mtu) if changeable else resource, resource)


def _sequence(steps: Sequence[_Step], begin: Sequence[Resource]) -> list[Change]:
    found = [Change("add", resource) for resource in begin]
    made = {change.resource: None for change in found}
    for step in steps:
        found.append(step.on(tuple(made)))
        made[found[-1].resource] = None
    return found


def change_sequences(max_size: int = 20) -> SearchStrategy[list[Change]]:
    """Changes that refer to each other; most of the sequences begin with a network that works.

    Drawn as one flat list and put together afterwards: drawing each step by what came before is a hundred times slower.
    """
    again: SearchStrategy[Operation | None] = _of(None, None, None, None, None, "delete", "delete", "change", "add")
    steps = st.builds(_Step, new=resources(), again=again, which=st.integers(0, 255), mac=macs(), mtu=mtus())
    return st.builds(_sequence, st.lists(steps, min_size=1, max_size=max_size), _of((), SMALL_NETWORK, RICH_NETWORK))


SMALL_NETWORK: Final[tuple[Resource, ...]] = (
    Namespace("s1"),
    Bridge("", "b1", _MACS[0]),
    Veth("", "v1", _MACS[1], "s1", "e1", _MACS[2], master="b1"),
    Interface("s1", "e1"),
    Address("", "b1", ipaddress.ip_interface("10.1.0.1/24")),
    Address("s1", "e1", ipaddress.ip_interface("10.1.0.2/24")),
)
"""A bridge with one sandbox on it."""
RICH_NETWORK: Final[tuple[Resource, ...]] = (
    *SMALL_NETWORK,
    Address("", "b1", ipaddress.ip_interface("fd01::1/64")),
    Sysctl("s1", ipv6_switch("e1"), "0", restore="1"),
    Address("s1", "e1", ipaddress.ip_interface("fd01::2/64")),
    Route("s1", ipaddress.ip_network("0.0.0.0/0"), "e1", ipaddress.ip_address("10.1.0.1")),
    Route("s1", ipaddress.ip_network("::/0"), "e1", ipaddress.ip_address("fd01::1")),
    Namespace("s2"),
    Bridge("s2", "b1", _MACS[3], mtu=1450),
    Vxlan("s2", "x1", 300, _MACS[3], ipaddress.ip_address("192.0.2.1"), master="b1"),
    Fdb("s2", "x1", _MACS[0], ipaddress.ip_address("192.0.2.7")),
    Neighbour("s2", "x1", ipaddress.ip_address("10.1.0.7"), _MACS[0]),
    TABLE,
)
"""The same with IPv6, routes, an overlay's namespace beside it, and the firewall table."""
