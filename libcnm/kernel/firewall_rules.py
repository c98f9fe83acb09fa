"""The structure of our nftables table as data: sets, chains and rules, in nft's own words but without its text.

One table of family ``inet`` serves IPv4 and IPv6. Networks and ports are elements of its sets and maps, so the rules
below are all the rules there ever are, and a packet pays for none of the networks that it has nothing to do with. This
module is pure: it knows nothing of netlink, registers or the kernel's numbers (:mod:`libcnm.kernel.linux.nft_rules`
does), nor of networks and endpoints. Law: nft(8); the hooks and their order: include/uapi/linux/netfilter.h.
"""

from __future__ import annotations

import hashlib
import ipaddress
from functools import cached_property
from typing import Final, Literal

import attrs

from libcnm.model.addresses import IPNetwork

FORWARD_MARK: Final = 0x1000
"""Bit that says "the firewall has seen this packet, and it is no intruder": policy routing lets it into a network.

One bit, so that users' marks survive; not one of kube-proxy's (0x4000, 0x8000), CNI portmap's (0x2000), Cilium's
(0xf00), Tailscale's (0xff0000) or Calico's (0xffff0000).
"""
FORWARD_MASK: Final = FORWARD_MARK
USER: Final = "user"
"""Chains and sets whose name begins so are the users': never flushed, replaced or judged by us."""

Field = Literal[
    "iifname", "oifname", "nfproto", "l4proto", "ip saddr", "ip daddr", "ip6 saddr", "ip6 daddr", "th dport"
]
Datatype = Literal["ifname", "nf_proto", "inet_proto", "inet_service", "ipv4_addr", "ipv6_addr"]
Version = Literal[4, 6]


@attrs.frozen
class Family:
    """``meta nfproto ipv4``: the rule goes on for this family only. Fields of one family (``ip daddr``) imply it."""

    version: Version


@attrs.frozen
class Differs:
    """``iifname != "lo"``: an interface's name is another one."""

    field: Literal["iifname", "oifname"]
    name: str


@attrs.frozen
class Within:
    """``ip daddr 127.0.0.0/8``: an address lies in a block."""

    field: Field
    block: IPNetwork


@attrs.frozen
class Member:
    """``iifname . ip daddr @set``: the fields together are an element of the set (``negate``: are not)."""

    fields: tuple[Field, ...]
    set: str
    negate: bool = False


@attrs.frozen
class CtState:
    """``ct state established,related``: the packet's connection is in one of these states."""

    states: tuple[Literal["established", "related"], ...]


@attrs.frozen
class CtTranslated:
    """``ct status dnat``: the destination of the packet's connection was translated; true in both directions."""


@attrs.frozen
class LocalDestination:
    """``fib daddr type local``: the destination is an address of this host."""


@attrs.frozen
class SetMark:
    """``meta mark set meta mark | bits``."""

    bits: int


@attrs.frozen
class Dnat:
    """``dnat ip to l4proto . ip daddr . th dport map @map``: translate if the map knows the fields, else go on."""

    version: Version
    fields: tuple[Field, ...]
    map: str


@attrs.frozen
class Masquerade:
    """``masquerade``: the source becomes the leaving interface's address."""


@attrs.frozen
class Verdict:
    """``accept``, ``drop``, ``jump chain`` or ``goto chain``."""

    verdict: Literal["accept", "drop", "jump", "goto"]
    chain: str = ""


Expression = (
    Family
    | Differs
    | Within
    | Member
    | CtState
    | CtTranslated
    | LocalDestination
    | SetMark
    | Dnat
    | Masquerade
    | Verdict
)
RuleBody = tuple[Expression, ...]


@attrs.frozen
class Set:
    """A set, or with ``data`` a map; ``interval``: its last key part is a block."""

    name: str
    key: tuple[Datatype, ...]
    data: tuple[Datatype, ...] = ()
    interval: bool = False


@attrs.frozen
class Hook:
    """Where a base chain is called from. Policy is always accept: what is not ours is not ours to drop."""

    type: Literal["filter", "nat"]
    hook: Literal["prerouting", "input", "forward", "output", "postrouting"]
    priority: int


@attrs.frozen
class Chain:
    """A chain and its rules; a base chain when it has a ``hook``."""

    name: str
    rules: tuple[RuleBody, ...]
    hook: Hook | None = None


@attrs.frozen
class Structure:
    """Everything in the table except elements and what belongs to the users."""

    sets: tuple[Set, ...]
    chains: tuple[Chain, ...]

    @cached_property
    def version(self) -> str:
        """Changes with every change of the structure, on all hosts alike."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:12]

    def set(self, name: str) -> Set | None:
        """The set of that name, if the structure has it."""
        return next((declared for declared in self.sets if declared.name == name), None)


ACCEPT: Final = Verdict("accept")
DROP: Final = Verdict("drop")
_KNOWN: Final = CtState(("established", "related"))
_LOOPBACK: Final[tuple[tuple[Field, Field, IPNetwork], ...]] = (
    ("ip saddr", "ip daddr", ipaddress.IPv4Network("127.0.0.0/8")),
    ("ip6 saddr", "ip6 daddr", ipaddress.IPv6Network("::1/128")),
)

_SETS: Final = (
    Set("bridges", ("ifname",)),
    Set("pairs", ("ifname", "ifname")),
    Set("internal", ("ifname",)),
    Set("masq", ("ifname",)),
    Set("gateways4", ("ifname", "ipv4_addr")),
    Set("gateways6", ("ifname", "ipv6_addr")),
    Set("allgateways4", ("ipv4_addr",)),
    Set("allgateways6", ("ipv6_addr",)),
    Set("subnets4", ("ifname", "ipv4_addr"), interval=True),
    Set("subnets6", ("ifname", "ipv6_addr"), interval=True),
    # Blocks can only be in a concatenation; every element says "ipv4".
    Set("networks4", ("nf_proto", "ipv4_addr"), interval=True),
    Set("ports4", ("inet_proto", "ipv4_addr", "inet_service"), ("ipv4_addr", "inet_service")),
    Set("ports6", ("inet_proto", "ipv6_addr", "inet_service"), ("ipv6_addr", "inet_service")),
    Set("wild4", ("inet_proto", "inet_service"), ("ipv4_addr", "inet_service")),
    Set("wild6", ("inet_proto", "inet_service"), ("ipv6_addr", "inet_service")),
)

_REGULAR: Final = (
    # The users' own chain. Ours come after it, so both "drop" and "accept" here have the last word on forwarding.
    Chain(USER, ()),
    # An exact address beats the wildcard.
    Chain(
        "published",
        (
            (Dnat(4, ("l4proto", "ip daddr", "th dport"), "ports4"),),
            (Dnat(6, ("l4proto", "ip6 daddr", "th dport"), "ports6"),),
            (Dnat(4, ("l4proto", "th dport"), "wild4"),),
            (Dnat(6, ("l4proto", "th dport"), "wild6"),),
        ),
    ),
    # What reaches a container from outside its network was addressed to a published port, or it is dropped: this one
    # rule is both "networks are isolated" and "unpublished ports are closed to neighbours that route to us".
    Chain("into_bridge", ((CtTranslated(), ACCEPT), (DROP,))),
    # A container may talk to its own gateway addresses, never to those of another network. Other addresses of the host
    # (and its multicast and link-local ones, without which there is no neighbour discovery) stay the host's own
    # business.
    Chain(
        "from_bridge",
        (
            (_KNOWN, ACCEPT),
            (Member(("iifname", "ip daddr"), "gateways4"), ACCEPT),
            (Member(("iifname", "ip6 daddr"), "gateways6"), ACCEPT),
            (Member(("ip daddr",), "allgateways4"), DROP),
            (Member(("ip6 daddr",), "allgateways6"), DROP),
            (Member(("iifname",), "internal"), Verdict("goto", "from_internal")),
        ),
    ),
    # What a container sends out of all networks. It needs no mark to get there; but where the host filters by reverse
    # path (rp_filter), the kernel asks whether an answer could come back, and that question looks like an intruder.
    # IPv6 has no such filter. Not loopback addresses: the guard on them goes by the same mark.
    Chain(
        "leaving",
        (
            (Within("ip daddr", ipaddress.IPv4Network("127.0.0.0/8")), ACCEPT),
            (Member(("nfproto", "ip daddr"), "networks4", negate=True), SetMark(FORWARD_MARK)),
        ),
    ),
    # From an internal network the host is its gateway address and nothing else.
    Chain(
        "from_internal",
        (
            (Within("ip6 daddr", ipaddress.IPv6Network("fe80::/10")), ACCEPT),
            (LocalDestination(), DROP),
        ),
    ),
)

_BASE: Final = (
    # Loopback addresses never come in over a wire. The kernel drops them too, but not where route_localnet is on, which
    # ports published on 127.0.0.1 need. Before connection tracking, so that nothing is translated (CVE-2020-8558).
    Chain(
        "raw",
        tuple((Differs("iifname", "lo"), Within(daddr, block), DROP) for _, daddr, block in _LOOPBACK),
        Hook("filter", "prerouting", -300),
    ),
    # "local" first: a port published on an address that is not this host's must not capture traffic to its true owner.
    Chain("prerouting", ((LocalDestination(), Verdict("jump", "published")),), Hook("nat", "prerouting", -100)),
    Chain("output", ((LocalDestination(), Verdict("jump", "published")),), Hook("nat", "output", -100)),
    # Right after destination translation and before routing: see isolation_base. Published ports, in both directions;
    # answers from outside. Not what merely looks like an answer and comes from a neighbouring network.
    Chain(
        "marking",
        (
            (CtTranslated(), SetMark(FORWARD_MARK), ACCEPT),
            (Member(("iifname",), "bridges"), Verdict("goto", "leaving")),
            (_KNOWN, SetMark(FORWARD_MARK)),
        ),
        Hook("filter", "prerouting", -99),
    ),
    Chain(
        "forward",
        (
            (Verdict("jump", USER),),
            (_KNOWN, ACCEPT),
            # Frames between two ports of one bridge come by here too wherever br_netfilter is on.
            (Member(("iifname", "oifname"), "pairs"), ACCEPT),
            (Member(("iifname",), "internal"), DROP),
            (Member(("oifname",), "internal"), DROP),
            (Member(("oifname",), "bridges"), Verdict("goto", "into_bridge")),
        ),
        Hook("filter", "forward", 0),
    ),
    Chain("input", ((Member(("iifname",), "bridges"), Verdict("jump", "from_bridge")),), Hook("filter", "input", 0)),
    Chain(
        "postrouting",
        (
            # From the host over its loopback address: the container could not answer to that.
            *((Member(("oifname",), "bridges"), Within(saddr, block), Masquerade()) for saddr, _, block in _LOOPBACK),
            # From a container to a published port of its own network, itself included: the answer must come back
            # through the host. By source address and not by interface, because with br_netfilter on a translated frame
            # may stay a bridged one.
            (CtTranslated(), Member(("oifname", "ip saddr"), "subnets4"), Masquerade()),
            (CtTranslated(), Member(("oifname", "ip6 saddr"), "subnets6"), Masquerade()),
            (Member(("iifname",), "masq"), Member(("oifname",), "bridges", negate=True), Masquerade()),
        ),
        Hook("nat", "postrouting", 100),
    ),
)

STRUCTURE: Final = Structure(_SETS, (*_REGULAR, *_BASE))
