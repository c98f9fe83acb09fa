"""What networks and ports are to the firewall: pure functions from values to resources, and from there to octets and
back.
"""

from __future__ import annotations

import ipaddress
from typing import get_args

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libcnm.kernel import firewall
from libcnm.kernel.firewall_rules import STRUCTURE, Chain, Dnat, Field, Member, Set, Verdict
from libcnm.kernel.linux import nft_rules as rules
from libcnm.kernel.linux import nft_wire as wire
from libcnm.kernel.linux.nft_elements import Unreadable, codec
from libcnm.kernel.resources import FirewallElement, KeyPart, LoopbackGuard, Route, Rule, Sysctl
from libcnm.model.addresses import IPAddress, IPNetwork
from libcnm.model.resource import by_identity

TABLE = firewall.table("cnm-0123456789ab")
FOUR, SIX = ipaddress.ip_network("10.88.0.0/24"), ipaddress.ip_network("fd00:88::/64")
GATE4, GATE6 = ipaddress.ip_address("10.88.0.1"), ipaddress.ip_address("fd00:88::1")


def network(
    *,
    subnets: tuple[IPNetwork, ...] = (FOUR, SIX),
    gateways: tuple[IPAddress, ...] = (GATE4, GATE6),
    masquerade: bool = True,
    internal: bool = False,
    icc: bool = True,
) -> set[tuple[str, tuple[KeyPart, ...]]]:
    elements = firewall.network_elements(
        TABLE,
        bridge="br-a",
        subnets=subnets,
        gateways=gateways,
        masquerade=masquerade,
        internal=internal,
        icc=icc,
    )
    assert {(TABLE.ns, TABLE.name, ())} == {(one.ns, one.table, one.data) for one in elements}
    return {(one.set, one.key) for one in elements}


def port(host_address: IPAddress | None, address: IPAddress) -> FirewallElement:
    [element] = firewall.port_elements(
        TABLE, bridge="br-a", protocol="tcp", host_address=host_address, host_port=8080, address=address, port=80
    )
    return element


def test_a_network_is_elements_in_both_families_alike() -> None:
    """A dual-stack network is the same elements twice, and those that are of no family once."""
    assert network() == {
        ("bridges", ("br-a",)),
        ("pairs", ("br-a", "br-a")),
        ("masq", ("br-a",)),
        ("subnets4", ("br-a", FOUR)),
        ("networks4", ("ipv4", FOUR)),
        ("gateways4", ("br-a", GATE4)),
        ("allgateways4", (GATE4,)),
        ("subnets6", ("br-a", SIX)),
        ("gateways6", ("br-a", GATE6)),
        ("allgateways6", (GATE6,)),
    }


@pytest.mark.parametrize(
    ("difference", "options"),
    [
        ({("masq", ("br-a",))}, {"masquerade": False}),
        ({("pairs", ("br-a", "br-a"))}, {"icc": False}),
        ({("masq", ("br-a",)), ("internal", ("br-a",))}, {"internal": True}),
        ({("internal", ("br-a",)), ("masq", ("br-a",))}, {"internal": True, "masquerade": False}),
    ],
)
def test_an_option_is_the_presence_of_an_element(
    difference: set[tuple[str, tuple[KeyPart, ...]]], options: dict[str, bool]
) -> None:
    """Each option of a network adds or leaves out one element; an internal one is never masqueraded."""
    assert difference == network() ^ network(**options)  # type: ignore[arg-type]  # the parameters' own types


def test_a_network_of_one_family_says_nothing_of_the_other() -> None:
    """IPv6-only is IPv4-only with other digits, and without what IPv4's reverse path filter needs."""
    four = network(subnets=(FOUR,), gateways=(GATE4,)) - {("networks4", ("ipv4", FOUR))}
    six = network(subnets=(SIX,), gateways=(GATE6,))
    assert sorted(name.replace("6", "4") for name, _ in six) == sorted(name for name, _ in four)


@pytest.mark.parametrize("address", [ipaddress.ip_address("10.88.0.2"), ipaddress.ip_address("fd00:88::2")])
def test_a_port_on_every_address_is_in_the_wild_map(address: IPAddress) -> None:
    """No host address and the unspecified one of the family are the same element."""
    unspecified = ipaddress.ip_address("0.0.0.0" if address.version == 4 else "::")
    wanted = FirewallElement("", TABLE.name, f"wild{address.version}", ("tcp", 8080), (address, 80))
    assert [wanted, wanted] == [port(None, address), port(unspecified, address)]


def test_a_port_on_one_address_is_in_the_exact_map() -> None:
    """The host's address is part of the key, so two addresses can publish one port differently."""
    bound = ipaddress.ip_address("127.0.0.1")
    wanted = FirewallElement("", TABLE.name, "ports4", ("tcp", bound, 8080), (GATE4, 80))
    assert wanted == port(bound, GATE4)


def test_no_port_between_families() -> None:
    """The kernel cannot translate IPv4 to IPv6; saying so is not left to it."""
    with pytest.raises(ValueError, match="another family"):
        port(ipaddress.ip_address("127.0.0.1"), GATE6)


@pytest.mark.parametrize(
    ("host_address", "address", "needed"),
    [
        ("127.0.0.1", "10.88.0.2", True),
        ("127.1.2.3", "10.88.0.2", True),
        ("0.0.0.0", "10.88.0.2", True),
        (None, "10.88.0.2", True),
        ("192.0.2.1", "10.88.0.2", False),
        ("::1", "fd00::2", False),
        (None, "fd00::2", False),
    ],
)
def test_route_localnet_only_where_loopback_is_published(host_address: str | None, address: str, needed: bool) -> None:
    """The setting opens a hole while the firewall is flushed: no bridge has it without need, nor before its guard."""
    found = firewall.loopback_resources(
        bridge="br-a",
        host_address=None if host_address is None else ipaddress.ip_address(host_address),
        address=ipaddress.ip_address(address),
    )
    wanted = Sysctl("", "net/ipv4/conf/br-a/route_localnet", "1", link="br-a", restore="0")
    guard = firewall.loopback_guard("br-a")
    assert LoopbackGuard("", "br-a", firewall.FORWARD_MARK) == guard
    assert ((wanted,) if needed else ()) == found
    assert (guard.identity in wanted.needs, guard.identity in wanted.dies_with) == (True, False)


def test_a_network_is_one_route_a_subnet_and_no_rule() -> None:
    """Never a rule per network, let alone per pair: what a routed packet pays is the same for one and for many."""
    found = firewall.isolation_resources(bridge="br-a", subnets=[FOUR, SIX])
    shows_marks = Sysctl("", "net/ipv4/conf/br-a/src_valid_mark", "1", link="br-a")
    four = Route("", FOUR, table=firewall.ISOLATION_TABLE, metric=1, type="prohibit")
    six = Route("", SIX, table=firewall.ISOLATION_TABLE, metric=1, type="prohibit")
    assert (shows_marks, four, six) == found
    assert (six,) == firewall.isolation_resources(bridge="br-a", subnets=[SIX])


def test_the_rules_are_three_a_family() -> None:
    """Past the host's own packets, then what has no mark, then on with whatever rules users have; in both families."""
    found = [one for one in firewall.isolation_base(routing=1000) if isinstance(one, Rule)]
    four = [
        Rule("", 4, 8000, 1000, "lo", action="goto", goto=8002),
        Rule("", 4, 8001, 1000, mark=0, mask=firewall.FORWARD_MASK),
        Rule("", 4, 8002, 1000, action="nop"),
    ]
    assert [*four, *(attrs.evolve(rule, version=6) for rule in four)] == found


def test_an_internal_network_has_no_way_out_even_with_the_mark() -> None:
    """Its rules ask for no mark and lead to where everything is prohibited; others still stay out of it."""
    *found_rules, route = firewall.isolation_resources(bridge="br-a", subnets=[SIX], internal=True)
    internal = firewall.ISOLATION_TABLE + 1
    assert [Rule("", version, 8001, internal, "br-a") for version in (4, 6)] == found_rules
    assert Route("", SIX, table=firewall.ISOLATION_TABLE, metric=1, type="prohibit") == route
    everything = {str(one.destination) for one in firewall.isolation_base() if isinstance(one, Route)}
    assert {"0.0.0.0/0", "::/0"} == everything


def test_resources_of_many_networks_do_not_collide() -> None:
    """Ten networks with ports have as many identities as resources."""
    resources: list[FirewallElement | Rule | Route | Sysctl] = []
    for index in range(10):
        gateway = ipaddress.ip_address(f"10.0.{index}.1")
        subnet = ipaddress.ip_network(f"10.0.{index}.0/24")
        resources += firewall.network_elements(
            TABLE, bridge=f"br-{index}", subnets=[subnet], gateways=[gateway], masquerade=True, internal=False
        )
        resources += firewall.isolation_resources(bridge=f"br-{index}", subnets=[subnet])
        resources += firewall.port_elements(
            TABLE, bridge=f"br-{index}", protocol="udp", host_address=None, host_port=index + 1, address=gateway, port=1
        )
    assert len(resources) == len(by_identity(resources))


# -- the structure -----------------------------------------------------------------------------------------------------


def test_the_version_follows_the_structure() -> None:
    """Any change of a rule, a chain or a set is another version; the same structure is the same version everywhere."""
    other = attrs.evolve(STRUCTURE, chains=(*STRUCTURE.chains, Chain("more", ())))
    assert STRUCTURE.version == attrs.evolve(STRUCTURE).version == TABLE.version
    assert STRUCTURE.version != other.version


def test_the_structure_refers_to_itself_only() -> None:
    """Every set and chain that a rule names is declared, and every lookup has the fields of its set's key."""
    sets = {declared.name: declared for declared in STRUCTURE.sets}
    chains = {chain.name for chain in STRUCTURE.chains}
    types = {
        "iifname": "ifname", "oifname": "ifname", "nfproto": "nf_proto", "l4proto": "inet_proto",
        "th dport": "inet_service",
        "ip saddr": "ipv4_addr", "ip daddr": "ipv4_addr", "ip6 saddr": "ipv6_addr", "ip6 daddr": "ipv6_addr",
    }  # fmt: skip
    assert set(get_args(Field)) == set(types)
    for expression in (one for chain in STRUCTURE.chains for rule in chain.rules for one in rule):
        match expression:
            case Member(fields, name, _) | Dnat(_, fields, name):
                assert sets[name].key == tuple(types[field] for field in fields)
            case Verdict(_, chain) if chain:
                assert chain in chains


# -- octets ------------------------------------------------------------------------------------------------------------

_interface_names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=15)
_parts: dict[str, st.SearchStrategy[KeyPart]] = {
    "ifname": _interface_names,
    "nf_proto": st.sampled_from(["ipv4", "ipv6"]),
    "inet_proto": st.sampled_from(["tcp", "udp", 132]),
    "inet_service": st.integers(0, 65535),
    "ipv4_addr": st.ip_addresses(v=4),
    "ipv6_addr": st.ip_addresses(v=6),
}


def _blocks(version: int) -> st.SearchStrategy[KeyPart]:
    lengths = st.integers(0, 32 if version == 4 else 128)
    return st.builds(
        lambda address, length: ipaddress.ip_network((address, length), strict=False),
        st.ip_addresses(v=4 if version == 4 else 6),
        lengths,
    )


def _elements(declared: Set) -> st.SearchStrategy[FirewallElement]:
    key = [_parts[name] for name in declared.key]
    if declared.interval:
        key[-1] = _blocks(4 if declared.key[-1] == "ipv4_addr" else 6)
    data = st.tuples(*(_parts[name] for name in declared.data))
    return st.builds(FirewallElement, st.just(""), st.just("t"), st.just(declared.name), st.tuples(*key), data)


@given(st.one_of([_elements(declared) for declared in STRUCTURE.sets]))
def test_an_element_survives_the_wire(element: FirewallElement) -> None:
    """What is packed reads back equal, for every set, every type and both families."""
    [(kind, payload)] = wire.items(codec(element.set).pack(element))
    assert (wire.LIST_ELEM, element) == (kind, codec(element.set).read("", "t", payload))


@pytest.mark.parametrize(
    ("set_name", "key", "data"),
    [
        ("bridges", ("a-name-that-is-too-long",), ()),
        ("bridges", ("",), ()),
        ("bridges", (GATE4,), ()),
        ("bridges", ("br-a",), (80,)),
        ("bridges", ("br-a", "br-b"), ()),
        ("allgateways4", (GATE6,), ()),
        ("allgateways6", (GATE4,), ()),
        ("subnets4", ("br-a", GATE4), ()),
        ("networks4", ("ipx", FOUR), ()),
        ("networks4", (2, FOUR), ()),
        ("wild4", ("tcp", 65536), (GATE4, 80)),
        ("wild4", ("sctp", 80), (GATE4, 80)),
        ("wild4", ("tcp", 80), ()),
        ("no-such-set", ("br-a",), ()),
    ],
)
def test_what_does_not_fit_is_refused_before_the_kernel_sees_it(
    set_name: str, key: tuple[KeyPart, ...], data: tuple[KeyPart, ...]
) -> None:
    """A key of other types than the set's never becomes octets that mean something else."""
    with pytest.raises(Unreadable):
        codec(set_name).pack(FirewallElement("", "t", set_name, key, data))


def test_octets_are_those_of_the_nft_program() -> None:
    """An element in a concatenation with a block, as nft 1.0.6 sent ``"br-a" . fd00::/64`` (strace)."""
    name = b"br-a" + bytes(12)
    first, last = bytes.fromhex("fd00") + bytes(14), bytes.fromhex("fd00") + bytes(6) + b"\xff" * 8
    key = bytes.fromhex("2800018024000100") + name + first
    key_end = bytes.fromhex("28000a8024000100") + name + last
    element = FirewallElement("", "x", "subnets6", ("br-a", ipaddress.ip_network("fd00::/64")))
    assert bytes.fromhex("54000180") + key + key_end == codec("subnets6").pack(element)


def test_rules_are_those_of_the_nft_program() -> None:
    """A verdict, as nft 1.0.6 sent ``accept`` (strace)."""
    sent = bytes.fromhex(
        "300001800e000100696d6d6564696174650000001c0002800800010000000000100002800c0002800800010000000001"
    )
    assert rules.pack_rule((Verdict("accept"),)) == sent


def test_a_rule_is_the_same_whatever_the_kernel_adds() -> None:
    """Attributes that only the reader has do not count; one that differs, or an inverted lookup, does."""
    plain, inverted = Member(("iifname",), "masq"), Member(("iifname",), "masq", negate=True)
    meant = rules.pack_rule((plain,))
    [*_, (_, lookup)] = wire.items(meant)
    richer = wire.attributes(lookup)[wire.EXPR_DATA] + wire.number(99, 1)
    read = meant[: -len(lookup) - 4] + wire.nested(
        wire.LIST_ELEM, wire.text(wire.EXPR_NAME, "lookup"), wire.nested(wire.EXPR_DATA, richer)
    )
    assert rules.same(meant, read)
    assert not rules.same(meant, rules.pack_rule((inverted,)))
    assert not rules.same(rules.pack_rule((inverted,)), meant)
    assert not rules.same(meant, rules.pack_rule((Member(("oifname",), "masq"),)))
