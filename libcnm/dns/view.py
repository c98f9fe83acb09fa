"""What one sandbox may see, and the rule from a question to its answer. Pure: no I/O, no messages, no clock.

The order in which a name is looked for (documented for users; the first that knows it decides, and alone answers):

1. the sandbox's extra hosts;
2. reverse names: an endpoint's address, else, inside a subnet of an attached network, "no such name";
3. the whole name in each attached network, in the sandbox's order;
4. the name with the last label taken as the network's name, then the last two, and so on (libnetwork's order);
5. names of ours without records: a network's own name, one with others below it, ``_port._proto.<name>``;
6. anything else below an attached network's name: NXDOMAIN, never asked upstream;
7. ``localhost`` and what is below it: loopback (RFC 6761 6.3);
8. forwarded; or, from a sandbox that may not forward, NXDOMAIN, not authoritative. musl ignores REFUSED and waits for
   its time-out, glibc turns to a next server that is not there; NXDOMAIN ends the look-up at once in both.

A name that exists has NOERROR for every type (RFC 4074 3). ANY is answered with one set of addresses (RFC 8482 4.1).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

import attrs

from libcnm.contracts.resolver import Answer, Rcode, RecordType
from libcnm.dns.names import normal, reverse_block
from libcnm.dns.zone import NetworkZone
from libcnm.errors import Invalid
from libcnm.model import limits
from libcnm.model.addresses import IPAddress, IPNetwork

RESOLVER_ADDRESS = ipaddress.IPv4Address("127.0.0.11")
"""Where every sandbox finds its resolver, as in Docker."""
RESOLVER_PORT = 53
VIAS = ("host", "sandbox")

_LOCALHOST = (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))
_EMPTY = Answer()
_NO_SUCH_NAME = Answer(rcode=Rcode.NXDOMAIN)
_NOT_ASKED = Answer(rcode=Rcode.NXDOMAIN, authoritative=False)


@attrs.frozen
class Upstream:
    """A server to forward to, and from where: ``via`` is "host" or "sandbox", the namespace that the query leaves from.

    Raises :class:`~libcnm.errors.Invalid` for an address that no server can have, and for our own resolver.
    """

    address: IPAddress
    port: int = RESOLVER_PORT
    via: str = "host"

    def __attrs_post_init__(self) -> None:
        if self.via not in VIAS:
            raise Invalid("via", self.via, f"is not one of {', '.join(VIAS)}")
        if not 0 < self.port < 65536:
            raise Invalid("port", self.port, "is not a port")
        if self.address.is_multicast or self.address.is_unspecified:
            raise Invalid("upstream", str(self.address), "is not a server's address")
        if self.address == RESOLVER_ADDRESS and self.via == "sandbox":
            raise Invalid("upstream", str(self.address), "is the sandbox's own resolver")


def _hosts(given: Mapping[str, Iterable[IPAddress]]) -> Mapping[str, tuple[IPAddress, ...]]:
    return {normal(name): tuple(addresses) for name, addresses in given.items()}


def _upstreams(given: Iterable[Upstream]) -> tuple[Upstream, ...]:
    return tuple(given)[: limits.DNS_UPSTREAMS]


def _zones(given: Iterable[NetworkZone]) -> tuple[NetworkZone, ...]:
    return tuple(given)


@attrs.frozen(eq=False)
class SandboxView:
    """What one sandbox sees: its networks in its order, its extra hosts, and where its other questions go.

    ``forwarding`` is false when only internal networks are attached. With ``forwarding`` and no upstream, names that
    are not ours get SERVFAIL. More upstreams than :data:`~libcnm.model.limits.DNS_UPSTREAMS` are not used.
    """

    zones: tuple[NetworkZone, ...] = attrs.field(default=(), converter=_zones)
    hosts: Mapping[str, tuple[IPAddress, ...]] = attrs.field(factory=dict, converter=_hosts)
    forwarding: bool = False
    upstreams: tuple[Upstream, ...] = attrs.field(default=(), converter=_upstreams)
    by_depth: tuple[NetworkZone, ...] = attrs.field(init=False, repr=False)
    """The zones by the number of labels in their network's name, in the sandbox's order where that is the same."""

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "by_depth", tuple(sorted(self.zones, key=lambda zone: zone.apex.count("."))))

    @property
    def networks(self) -> tuple[tuple[str, str], ...]:
        return tuple((zone.network_id, zone.network_name) for zone in self.zones)

    def stamp(self) -> int:
        """Grows with every change of any of the zones."""
        return sum(zone.generation for zone in self.zones)


@attrs.frozen
class Forward:
    """The name is not ours: ask upstream."""


FORWARD = Forward()


def lookup(view: SandboxView, name: str, qtype: int) -> Answer | Forward:
    """What ``view``'s sandbox is told about ``name`` (text, any case, with or without a trailing dot)."""
    name = normal(name)
    known = view.hosts.get(name)
    if known is None:
        block = reverse_block(name)
        answer = None if block is None else _reverse(view, block, qtype)
        if answer is not None:
            return answer
        known = _find(view, name)
    if known is not None:
        return _addresses(known, qtype)
    if _exists_empty(view, name):
        return _EMPTY
    if any(name.endswith(zone.suffix) for zone in view.zones):
        return _NO_SUCH_NAME
    if name == "localhost" or name.endswith(".localhost"):
        return _addresses(_LOCALHOST, qtype)
    return FORWARD if view.forwarding else _NOT_ASKED


def _find(view: SandboxView, name: str) -> tuple[IPAddress, ...] | None:
    for zone in view.zones:
        known = zone.addresses(name)
        if known is not None:
            return known
    for zone in view.by_depth:
        if name.endswith(zone.suffix):
            known = zone.addresses(name.removesuffix(zone.suffix))
            if known is not None:
                return known
    return None


def _addresses(known: tuple[IPAddress, ...], qtype: int) -> Answer:
    if qtype == RecordType.ANY:
        first = min((address.version for address in known), default=4)
        return Answer(addresses=tuple(address for address in known if address.version == first))
    version = 4 if qtype == RecordType.A else 6 if qtype == RecordType.AAAA else None
    return Answer(addresses=tuple(address for address in known if address.version == version))


def _reverse(view: SandboxView, block: IPNetwork, qtype: int) -> Answer | None:
    """The answer for a reverse name; None when the block is no business of ours."""
    if block.prefixlen == block.max_prefixlen:
        for zone in view.zones:
            name = zone.pointer(block.network_address)
            if name is not None:
                return Answer(names=(name,) if qtype in (RecordType.PTR, RecordType.ANY) else ())
    inside = any(_covers(subnet, block) for zone in view.zones for subnet in zone.subnets)
    if not inside:
        return None
    return _NO_SUCH_NAME if block.prefixlen == block.max_prefixlen else _EMPTY


def _covers(subnet: IPNetwork, block: IPNetwork) -> bool:
    return subnet.version == block.version and subnet.prefixlen <= block.prefixlen and block.network_address in subnet


def _exists_empty(view: SandboxView, name: str) -> bool:
    """True for a name of ours that exists without addresses: see 5 in the module's text. SRV will be answered here."""
    for zone in view.zones:
        if name == zone.apex or (name.endswith(zone.suffix) and zone.is_interior(name.removesuffix(zone.suffix))):
            return True
    service = name
    for _ in range(2):
        if service.startswith("_") and "." in service:
            service = service.partition(".")[2]
    return service != name and _find(view, service) is not None
