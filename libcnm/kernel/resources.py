"""Our resource kinds: what libcnm can want from a Linux kernel. Values only; how they are made is the door's business.

Marks, so that what is ours can be told from what is not: links carry group :data:`LINK_GROUP` in the message that
creates them, routes, rules, addresses and neighbours carry protocol :data:`PROTOCOL`, a firewall table is known by its
name. Inside a namespace that libcnm made, everything is ours.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar, Final, Literal

import attrs

from libcnm.model import limits
from libcnm.model.addresses import IPAddress, IPInterface, IPNetwork
from libcnm.model.resource import Identity, Resource

LINK_GROUP: Final = 0x636E6D
"""IFLA_GROUP of our links: the letters "cnm"."""
PARKED_GROUP: Final = 0x636E6E
"""IFLA_GROUP of links that were taken out of use and wait for the sweep."""
PROTOCOL: Final = 0xC4
"""Protocol number of our routes (rtm_protocol), rules, addresses (IFA_PROTO) and neighbours (NDA_PROTOCOL)."""
MAIN_TABLE: Final = 254


def namespace_identity(name: str) -> tuple[Identity, ...]:
    """What something inside namespace ``name`` needs; the host's own namespace is always there."""
    return (("namespace", "", name),) if name else ()


def link_identity(ns: str, name: str) -> Identity:
    """What something on the link ``name`` in ``ns`` needs."""
    return ("link", ns, name)


def guard_identity(ns: str, link: str) -> Identity:
    """The guard of a link, which is there before anything opens what it guards."""
    return ("loopback-guard", ns, link)


def ipv6_switch(link: str) -> str:
    """The sysctl that turns IPv6 off (1) or on (0) on one link."""
    return f"net/ipv6/conf/{link}/disable_ipv6"


def _ipv6_on(ns: str, link: str, version: int) -> tuple[Identity, ...]:
    """A namespace of ours is born with IPv6 off: where the same change switches it on, that comes first."""
    return (("sysctl", ns, ipv6_switch(link)),) if version == 6 else ()


@attrs.frozen
class Namespace(Resource):
    """A network namespace pinned at ``<run_dir>/netns/<name>``.

    With ``source`` it is one that somebody else made, pinned from that path (``/proc/4242/ns/net``), and only what is
    marked in it is ours. Without, it is made, with ``lo`` up, IPv6 disabled until an address asks for it and router
    advertisements off. Equivalent to: ``ip netns add NAME; ip -n NAME link set lo up`` (``ip netns attach NAME PID``).
    """

    kind: ClassVar[str] = "namespace"
    fixed: ClassVar[frozenset[str]] = frozenset({"source"})
    name: str
    source: str | None = attrs.field(default=None, eq=False)

    @property
    def identity(self) -> Identity:
        return ("namespace", "", self.name)


@attrs.frozen
class _InNamespace(Resource):
    """The shared part of what needs nothing but its namespace."""

    ns: str

    @property
    def needs(self) -> tuple[Identity, ...]:
        return namespace_identity(self.ns)

    @property
    def dies_with(self) -> tuple[Identity, ...]:
        return namespace_identity(self.ns)


@attrs.frozen
class Bridge(_InNamespace):
    """A bridge, up, with its MAC from the start and without multicast snooping (both for reasons: kernel/README.md).

    Equivalent to: ``ip link add NAME address MAC mtu MTU group GROUP up type bridge mcast_snooping 0``.
    """

    kind: ClassVar[str] = "bridge"
    name: str
    mac: str
    mtu: int = 1500
    alias: str = attrs.field(default="", eq=False)
    up: bool = True
    """False only when it was read back so: somebody set it down."""

    @property
    def identity(self) -> Identity:
        return link_identity(self.ns, self.name)


@attrs.frozen
class Veth(Resource):
    """A pair: ``name`` in ``ns``, up, a port of ``master``; its peer in ``peer_ns`` (an :class:`Interface` brings
    that up).

    Equivalent to: ``ip link add NAME address MAC mtu MTU group GROUP type veth peer name PEER netns NS address MAC``,
    then
    ``ip link set NAME master BRIDGE up``, and ``bridge link set dev NAME hairpin on isolated on`` where these are asked
    for (an isolated port exchanges frames with the bridge itself and with ports that are not isolated). Deleting it
    parks both ends at once and removes them in a later sweep, because the kernel takes 20 ms to delete a link.
    """

    kind: ClassVar[str] = "veth"
    fixed: ClassVar[frozenset[str]] = frozenset({"peer_ns", "peer_name"})
    ns: str
    name: str
    mac: str
    peer_ns: str
    peer_name: str
    peer_mac: str
    mtu: int = 1500
    master: str | None = None
    hairpin: bool = False
    isolated: bool = False
    alias: str = attrs.field(default="", eq=False)
    up: bool = True
    """False only when it was read back so: somebody set it down."""

    @property
    def identity(self) -> Identity:
        return link_identity(self.ns, self.name)

    @property
    def needs(self) -> tuple[Identity, ...]:
        master = (link_identity(self.ns, self.master),) if self.master else ()
        return (*namespace_identity(self.ns), *namespace_identity(self.peer_ns), *master)

    @property
    def provides(self) -> tuple[Identity, ...]:
        return (self.identity, link_identity(self.peer_ns, self.peer_name))


@attrs.frozen
class Vxlan(Resource):
    """A VXLAN device in ``ns`` whose UDP socket lives in the host's namespace; no learning, ARP and ND answered by
    proxy.

    Equivalent to: ``ip link add NAME netns NS address MAC mtu MTU type vxlan id VNI local VTEP dstport PORT nolearning
    proxy``, then ``ip -n NS link set NAME master BRIDGE up``. RFC 7348.
    """

    kind: ClassVar[str] = "vxlan"
    fixed: ClassVar[frozenset[str]] = frozenset({"vni", "local", "port"})
    ns: str
    name: str
    vni: int
    mac: str
    local: IPAddress
    mtu: int = 1450
    port: int = limits.VXLAN_PORT
    master: str | None = None
    up: bool = True
    """False only when it was read back so: somebody set it down."""

    @property
    def identity(self) -> Identity:
        return link_identity(self.ns, self.name)

    @property
    def needs(self) -> tuple[Identity, ...]:
        master = (link_identity(self.ns, self.master),) if self.master else ()
        return (*namespace_identity(self.ns), *master)

    # It does not simply die with its namespace: that ends 40 ms after the last hand has let go of it, and until then
    # its VNI is taken on this host. Deleting it costs 20 ms, but a leave may take them; the next join may not.


@attrs.frozen
class _OnLink(Resource):
    """The shared part of what lives on a link."""

    ns: str
    link: str

    @property
    def needs(self) -> tuple[Identity, ...]:
        return (*namespace_identity(self.ns), link_identity(self.ns, self.link))

    @property
    def dies_with(self) -> tuple[Identity, ...]:
        return (*namespace_identity(self.ns), link_identity(self.ns, self.link))


@attrs.frozen
class Interface(_OnLink):
    """The state of a link that is there anyway: ``lo``, or the inner end of a :class:`Veth`: up, no automatic
    addresses.

    Equivalent to: ``ip link set NAME up addrgenmode none``. Deleting it sets the link down.
    """

    kind: ClassVar[str] = "interface"

    @property
    def identity(self) -> Identity:
        return ("interface", self.ns, self.link)

    @property
    def needs(self) -> tuple[Identity, ...]:
        return namespace_identity(self.ns) if self.link == "lo" else super().needs


@attrs.frozen
class Address(_OnLink):
    """An address on a link, without duplicate address detection (the address has one owner by transaction).

    Equivalent to: ``ip address add ADDRESS/LENGTH dev LINK proto 196 nodad``.
    """

    kind: ClassVar[str] = "address"
    fixed: ClassVar[frozenset[str]] = frozenset({"address"})
    address: IPInterface

    @cached_property
    def _identity(self) -> Identity:
        return ("address", self.ns, self.link, str(self.address.ip))

    @property
    def identity(self) -> Identity:
        return self._identity  # made once: its texts cost more than all else that is asked of it

    @property
    def needs(self) -> tuple[Identity, ...]:
        return (*super().needs, *_ipv6_on(self.ns, self.link, self.address.version))


@attrs.frozen
class Route(Resource):
    """A route. With ``via`` through a gateway, else on-link over ``link``; ``prohibit`` needs neither.

    Equivalent to: ``ip route add [prohibit] DST [via VIA] [dev LINK] table TABLE metric METRIC proto 196``.
    """

    kind: ClassVar[str] = "route"
    fixed: ClassVar[frozenset[str]] = frozenset({"link", "via", "type"})
    ns: str
    destination: IPNetwork
    link: str | None = None
    via: IPAddress | None = None
    table: int = MAIN_TABLE
    metric: int = 0
    type: Literal["unicast", "prohibit"] = "unicast"

    @cached_property
    def _identity(self) -> Identity:
        return ("route", self.ns, str(self.table), str(self.destination), str(self.metric))

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def needs(self) -> tuple[Identity, ...]:
        if not self.link:
            return namespace_identity(self.ns)
        link = (link_identity(self.ns, self.link), ("interface", self.ns, self.link))
        return (*namespace_identity(self.ns), *link, *_ipv6_on(self.ns, self.link, self.destination.version))

    @property
    def dies_with(self) -> tuple[Identity, ...]:
        link = (link_identity(self.ns, self.link),) if self.link else ()
        return (*namespace_identity(self.ns), *link)


@attrs.frozen
class Rule(_InNamespace):
    """A policy routing rule, which looks a table up, or goes on at the rule of priority ``goto``, or does nothing
    ("nop": a place to go on at). The last two keep their table too, unused: it says whose they are.

    Equivalent to: ``ip rule add pref PRIORITY [iif IIF] [fwmark MARK/MASK] lookup TABLE`` (``table TABLE goto GOTO``,
    ``table TABLE nop``).
    """

    kind: ClassVar[str] = "rule"
    fixed: ClassVar[frozenset[str]] = frozenset({"goto"})
    version: int
    priority: int
    table: int
    iif: str | None = None
    mark: int | None = None
    mask: int = 0xFFFFFFFF
    action: Literal["lookup", "goto", "nop"] = "lookup"
    goto: int = 0

    @property
    def identity(self) -> Identity:
        mark = "" if self.mark is None else f"{self.mark:#x}/{self.mask:#x}"
        how = () if self.action == "lookup" else (self.action,)
        return ("rule", self.ns, str(self.version), str(self.priority), self.iif or "", mark, str(self.table), *how)


@attrs.frozen
class Neighbour(_OnLink):
    """A permanent neighbour: ``address`` is at ``mac``. Equivalent to: ``ip neigh replace ADDRESS lladdr MAC dev LINK
    nud permanent``.
    """

    kind: ClassVar[str] = "neighbour"
    address: IPAddress
    mac: str

    @property
    def identity(self) -> Identity:
        return ("neighbour", self.ns, self.link, str(self.address))

    @property
    def needs(self) -> tuple[Identity, ...]:
        return (*super().needs, *_ipv6_on(self.ns, self.link, self.address.version))


@attrs.frozen
class Fdb(_OnLink):
    """A static forwarding entry of a VXLAN device: ``mac`` is behind the VTEP ``vtep``.

    Equivalent to: ``bridge fdb replace MAC dev LINK dst VTEP self permanent``.
    """

    kind: ClassVar[str] = "fdb"
    mac: str
    vtep: IPAddress

    @property
    def identity(self) -> Identity:
        return ("fdb", self.ns, self.link, self.mac)


@attrs.frozen
class LoopbackGuard(_OnLink):
    """What comes in over ``link`` is neither from nor to 127.0.0.0/8, unless a bit of ``mark`` is set on the packet
    (which lets pass what is *to* it). It is a filter of the link's own: no firewall need be there for it.

    The mark is for br_netfilter, with which translated answers have their true destination before they come by here.
    Equivalent to: ``tc qdisc add dev LINK clsact``, then ``tc filter add dev LINK ingress pref 25454 handle 0x636e6d
    bpf direct-action bytecode ...``. The qdisc, which may have other filters too, stays until the link goes.
    """

    kind: ClassVar[str] = "loopback-guard"
    fixed: ClassVar[frozenset[str]] = frozenset({"mark"})
    mark: int

    @property
    def identity(self) -> Identity:
        return guard_identity(self.ns, self.link)


@attrs.frozen
class Sysctl(Resource):
    """A kernel setting. ``link`` names the link that must be there first, if it is one link's. Deleting it writes
    ``restore`` (None: leaves it as it is). Equivalent to: ``sysctl -w KEY=VALUE`` with slashes, below ``/proc/sys``.
    """

    kind: ClassVar[str] = "sysctl"
    ns: str
    key: str
    value: str
    link: str | None = attrs.field(default=None, eq=False)
    restore: str | None = attrs.field(default=None, eq=False)

    @property
    def identity(self) -> Identity:
        return ("sysctl", self.ns, self.key)

    @property
    def needs(self) -> tuple[Identity, ...]:
        guarded = self.link is not None and self.key.endswith("/route_localnet")
        return (*self.dies_with, *((guard_identity(self.ns, self.link or ""),) if guarded else ()))

    @property
    def dies_with(self) -> tuple[Identity, ...]:
        link = (link_identity(self.ns, self.link),) if self.link else ()
        return (*namespace_identity(self.ns), *link)


@attrs.frozen
class FirewallTable(_InNamespace):
    """The structure of our nftables table (chains, rules, empty sets and maps), defined in
    :mod:`libcnm.kernel.firewall`.

    ``version`` names the structure; a table of another version is replaced as a whole in one batch. Equivalent to:
    ``nft -f`` of the golden file.
    """

    kind: ClassVar[str] = "firewall-table"
    name: str
    version: str

    @property
    def identity(self) -> Identity:
        return ("firewall-table", self.ns, self.name)


KeyPart = str | int | IPAddress | IPNetwork
"""An interface name, protocol or verdict as text; a port as int; an address; a block (interval sets)."""


@attrs.frozen
class FirewallElement(Resource):
    """One element of a set (``data`` empty) or map of our table. Equivalent to: ``nft add element inet TABLE SET
    {...}``.
    """

    kind: ClassVar[str] = "firewall-element"
    fixed: ClassVar[frozenset[str]] = frozenset({"data"})
    ns: str
    table: str
    set: str
    key: tuple[KeyPart, ...]
    data: tuple[KeyPart, ...] = ()

    @cached_property
    def _identity(self) -> Identity:
        return ("firewall-element", self.ns, self.table, self.set, *map(str, self.key))

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def needs(self) -> tuple[Identity, ...]:
        return (("firewall-table", self.ns, self.table),)

    @property
    def dies_with(self) -> tuple[Identity, ...]:
        return self.needs
