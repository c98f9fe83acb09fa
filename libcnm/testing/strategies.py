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
LINKS: Final = ("b1", "b2", "v1", "v2", "e1", "x1")
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


_PROTOCOLS: SearchStrategy[Literal["tcp", "udp"]] = st.sampled_from(("tcp", "udp"))
_AGAIN: SearchStrategy[Operation] = st.sampled_from(("delete", "delete", "change", "add"))


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
        alias=_of("", "text"),
    )


def vxlans() -> SearchStrategy[Vxlan]:
    """VXLAN devices with few VNIs, over IPv4 and IPv6."""
    return st.builds(
        Vxlan,
        ns=_of("s1", "s2", ""),
        name=_of("x1", "x1", "v1"),
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
        Address, ns=namespace_names(), link=link_names(), address=_of(*_INTERFACES).map(ipaddress.ip_interface)
    )


def routes() -> SearchStrategy[Route]:
    """On-link, through gateways near and far, and prohibit routes, in two tables. Never both lengths of nothing."""

    def build(
        ns: str,
        block: str,
        link: str | None,
        gateway: str | None,
        table: int,
        metric: int,
        kind: Literal["unicast", "prohibit"],
    ) -> Route:
        destination = ipaddress.ip_network(block)
        via = None if gateway is None else ipaddress.ip_address(gateway)
        if via is not None and via.version != destination.version:
            via = None
        if kind == "prohibit":
            return Route(ns, destination, table=table, metric=metric, type=kind)
        return Route(ns, destination, link or (None if via else "b1"), via, table, metric)

    return st.builds(
        build,
        namespace_names(),
        _of(*_BLOCKS),
        _of("b1", "b1", "e1", "v1", None),
        _of(None, *_GATEWAYS),
        _of(MAIN_TABLE, MAIN_TABLE, 8472),
        _of(0, 0, 1, 7),
        _of("unicast", "unicast", "prohibit"),
    )


def rules() -> SearchStrategy[Rule]:
    """Rules with and without conditions."""
    return st.builds(
        Rule,
        ns=namespace_names(),
        version=_of(4, 6),
        priority=_of(7000, 8000),
        table=_of(MAIN_TABLE, 8472),
        iif=_of(None, "b1"),
        mark=_of(None, 0x1000, 0),
        mask=_of(0x1000, 0xFFFFFFFF),
    ).map(lambda rule: rule if rule.mark is not None else attrs.evolve(rule, mask=0xFFFFFFFF))


def neighbours() -> SearchStrategy[Neighbour]:
    """Permanent neighbours of both families."""
    return st.builds(
        Neighbour,
        ns=namespace_names(),
        link=link_names(),
        address=_of("10.1.0.7", "10.1.0.8", "fd01::7").map(ipaddress.ip_address),
        mac=macs(),
    )


def fdbs() -> SearchStrategy[Fdb]:
    """Forwarding rows; only VXLAN devices have any, so mostly of such a name."""
    return st.builds(
        Fdb,
        ns=_of("s1", "s1", "s2", ""),
        link=_of("x1"),
        mac=macs(),
        vtep=_of("192.0.2.7", "192.0.2.8", "2001:db8::7").map(ipaddress.ip_address),
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


@st.composite
def changes(draw: st.DrawFn, made: Sequence[Resource] = ()) -> Change:
    """One change: mostly something new, else something that was drawn before is changed, deleted or added again."""
    if not made or draw(st.integers(0, 9)) < 6:
        return Change("add", draw(resources()))
    resource = draw(st.sampled_from(made))
    operation = draw(_AGAIN)
    if operation != "change":
        return Change(operation, resource)
    changeable = isinstance(resource, Bridge | Veth | Vxlan | Neighbour)
    after = _changed(resource, draw(macs()), draw(mtus())) if changeable else resource
    return Change("change", after, resource)


@st.composite
def change_sequences(draw: st.DrawFn, max_size: int = 20) -> list[Change]:
    """Changes that refer to each other; half of the sequences begin with a small network that works."""
    found = [Change("add", resource) for resource in SMALL_NETWORK] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, max_size))):
        made = list(dict.fromkeys(change.resource for change in found))
        found.append(draw(changes(made)))
    return found


SMALL_NETWORK: Final[tuple[Resource, ...]] = (
    Namespace("s1"),
    Bridge("", "b1", _MACS[0]),
    Veth("", "v1", _MACS[1], "s1", "e1", _MACS[2], master="b1"),
    Interface("s1", "e1"),
    Address("", "b1", ipaddress.ip_interface("10.1.0.1/24")),
    Address("s1", "e1", ipaddress.ip_interface("10.1.0.2/24")),
)
