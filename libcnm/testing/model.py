"""A plain model of the CNM, to run beside real controllers: what exists, and which typed error a verb must end with.

It keeps values only and follows libnetwork's rules (order of validation included), so that it can be read as their
short form. It knows neither stores nor kernels: what those should hold is computed from it by whoever compares.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import attrs

from libcnm.controller.controller import Controller
from libcnm.controller.way_out import NETWORKS
from libcnm.errors import AlreadyExists, CnmError, Exhausted, Forbidden, InUse, Invalid
from libcnm.model.addresses import IPAddress, IPNetwork, overlaps
from libcnm.model.ports import Port

Refusal = type[CnmError] | None
"""The class that a verb must raise; None when it must succeed."""


@attrs.frozen
class Net:
    """A network. ``home``: the host of a local one, "" for a global one."""

    id: str
    name: str
    driver: str
    home: str
    subnets: tuple[IPNetwork, ...] = ()
    gateways: frozenset[IPAddress] = frozenset()
    internal: bool = False

    @property
    def leads_out(self) -> bool:
        """True when sandboxes on it get a default route through it."""
        return self.driver == "bridge" and not self.internal

    @property
    def publishes(self) -> bool:
        """True when its endpoints' ports are published: through it, or through the way out beside it."""
        return self.driver in ("bridge", "overlay") and not self.internal


@attrs.frozen
class Ep:
    """An endpoint, and where it is attached (``host`` is "" when it is nowhere)."""

    id: str
    network: str
    name: str
    addresses: frozenset[IPAddress]
    mac: str
    host: str = ""
    container: str = ""

    @property
    def versions(self) -> frozenset[int]:
        """The IP versions it has."""
        return frozenset(address.version for address in self.addresses)

    def detached(self) -> Ep:
        """The same, attached to nothing."""
        return attrs.evolve(self, host="", container="")


@attrs.define
class Model:
    """Everything that exists, on all hosts, but for what libcnm makes by itself: sandboxes' ways out, which follow from
    the rest. ``ports`` and ``priority`` by endpoint id; ``made``: the ways out that were seen, and their networks.
    """

    networks: dict[str, Net] = attrs.field(factory=dict)
    endpoints: dict[str, Ep] = attrs.field(factory=dict)
    sandboxes: dict[tuple[str, str], bool] = attrs.field(factory=dict)
    ports: dict[str, tuple[Port, ...]] = attrs.field(factory=dict, eq=False)
    priority: dict[str, int] = attrs.field(factory=dict, eq=False)
    made: set[tuple[str, str, str]] = attrs.field(factory=set, eq=False)

    def copy(self) -> Model:
        """An independent one."""
        return Model(
            dict(self.networks), dict(self.endpoints), dict(self.sandboxes), dict(self.ports), dict(self.priority)
        )

    @classmethod
    def observed(cls, controllers: Mapping[str, Controller]) -> Self:
        """What the hosts themselves say exists, through the public API."""
        found = cls()
        for host, cnm in controllers.items():
            for network in cnm.networks():
                if network.on_demand:
                    found.made.add((host, network.name, ""))
                    found.made |= {(host, network.name, one.sandbox or "?") for one in network.endpoints()}
                    continue
                home = host if network.scope == "local" else ""
                gateways = frozenset(network.gateways)
                found.networks[network.id] = Net(
                    network.id, network.name, network.driver, home, network.subnets, gateways, network.internal
                )
                for one in network.endpoints():
                    addresses = frozenset(interface.ip for interface in one.addresses)
                    place = (one.host or "", one.sandbox or "")
                    found.endpoints[one.id] = Ep(one.id, network.id, one.name, addresses, one.mac, *place)
            for sandbox in cnm.sandboxes():
                found.sandboxes[host, sandbox.container_id] = sandbox.path == ""
        return found

    # -- questions ---------------------------------------------------------------------------------------------------

    def of(self, network_id: str) -> list[Ep]:
        """A network's endpoints."""
        return [one for one in self.endpoints.values() if one.network == network_id]

    def attached(self, host: str, container: str | None = None) -> list[Ep]:
        """The endpoints attached on a host (in one sandbox), in the order that libnetwork gives a sandbox's."""
        found = [one for one in self.endpoints.values() if one.host == host and container in (None, one.container)]
        return sorted(found, key=self._order)

    def _order(self, one: Ep) -> tuple[int, bool, str, str]:
        network = self.networks[one.network]
        return (-self.priority.get(one.id, 0), network.internal, network.name, one.id)

    def default_routes(self, host: str, container: str) -> dict[int, frozenset[IPAddress]]:
        """By IP version, the gateway that must be the sandbox's: of the subnet that its first endpoint is in."""
        found: dict[int, frozenset[IPAddress]] = {}
        for one in self.attached(host, container):
            network = self.networks[one.network]
            for subnet in network.subnets if network.leads_out else ():
                if any(address in subnet for address in one.addresses):
                    found.setdefault(subnet.version, frozenset(ip for ip in network.gateways if ip in subnet))
        return found

    def way_out(self, host: str, container: str) -> frozenset[int]:
        """The IP versions for which a sandbox has only networks without a gateway."""
        inside = [one for one in self.attached(host, container) if self.networks[one.network].driver == "overlay"]
        versions = {version for one in inside if self.networks[one.network].publishes for version in one.versions}
        return frozenset(versions - self.default_routes(host, container).keys())

    def to_be_made(self) -> set[tuple[str, str, str]]:
        """The ways out that there must be, as ``made`` has them."""
        needs = {place: self.way_out(*place) for place in self.sandboxes}
        return {
            (host, NETWORKS[versions], who)
            for (host, container), versions in needs.items()
            for who in ("", container)
            if versions
        }

    def bound(self, one: Ep, ports: Iterable[Port]) -> set[tuple[str, int, IPAddress]]:
        """Where an endpoint's ports bind: protocol, number, host address."""
        if not self.networks[one.network].publishes:
            return set()
        loopback: tuple[IPAddress, ...] = (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))
        return {
            (port.protocol, port.host_port, address)
            for port in ports
            for address in ((port.host_address,) if port.host_address is not None else loopback)
            if address.version in one.versions
        }

    # -- what must be refused, in the order of validation ------------------------------------------------------------

    def create_network(self, host: str, name: str, driver: str, subnets: Sequence[IPNetwork]) -> Refusal:
        """For names and subnets that are well-formed."""
        home = "" if driver == "overlay" else host
        same_store = [one for one in self.networks.values() if one.home == home]
        if driver in ("null", "host") and subnets:
            return Invalid
        if any(one.name == name for one in same_store):
            return AlreadyExists
        if driver in ("null", "host"):
            return Forbidden if any(one.driver == driver for one in same_store) else None
        for number, block in enumerate(subnets):
            if any(overlaps(block, other) for other in subnets[:number]):
                return Invalid
            if any(overlaps(block, other) for net in same_store for other in net.subnets):
                return AlreadyExists
        return None

    def create_endpoint(
        self, net: Net, name: str, address: IPAddress | None, mac: str | None, ports: Iterable[Port] = ()
    ) -> Refusal:
        """For a name that is well-formed, and subnets small enough to be exhausted."""
        plain = net.driver in ("null", "host")
        versions = {subnet.version for subnet in net.subnets}
        if plain and (address is not None or mac is not None):
            return Invalid
        if address is not None and not any(address in subnet for subnet in net.subnets):
            return Invalid
        if not self.publishable(net, ports):
            return Invalid
        if any(one.name == name for one in self.of(net.id)):
            return AlreadyExists
        if plain:
            return None
        held = {ip for one in self.of(net.id) for ip in one.addresses} | net.gateways
        if address is not None:
            subnet = next(one for one in net.subnets if address in one)
            if address == subnet[0] or (address == subnet[-1] and address.version == 4):
                return Invalid
            if address in held:
                return AlreadyExists
        asked = None if address is None else address.version
        for version in versions - {asked}:
            if all(ip in held for subnet in net.subnets if subnet.version == version for ip in subnet.hosts()):
                return Exhausted
        return AlreadyExists if mac is not None and any(one.mac == mac for one in self.of(net.id)) else None

    def publishable(self, net: Net, ports: Iterable[Port]) -> bool:
        """Whether an endpoint there may have them: it leads out, and has the IP version of each port's own address."""
        versions: set[int | None] = {None, *(subnet.version for subnet in net.subnets)}
        own = [None if port.host_address is None else port.host_address.version for port in ports]
        return not own or (net.publishes and versions.issuperset(own))

    def join(self, one: Ep, host: str, container: str) -> Refusal:
        """For an endpoint and a sandbox that exist."""
        net = self.networks[one.network]
        if one.host:
            return InUse
        if net.driver != "null" and (net.driver == "host") != self.sandboxes[host, container]:
            return Forbidden
        if net.driver == "null" and self.sandboxes[host, container]:
            return Forbidden
        for other in self.attached(host, container):
            if any(overlaps(a, b) for a in self.networks[other.network].subnets for b in net.subnets):
                return Forbidden
        wanted = self.bound(one, self.ports.get(one.id, ()))
        for other in self.attached(host):
            if any(_clash(a, b) for a in wanted for b in self.bound(other, self.ports.get(other.id, ()))):
                return AlreadyExists
        return None

    def delete_network(self, host: str, net: Net, *, force: bool) -> Refusal:
        """From that host."""
        inside = self.of(net.id)
        if not force:
            return InUse if inside else None
        return InUse if any(one.host not in ("", host) for one in inside) else None


def _clash(one: tuple[str, int, IPAddress], other: tuple[str, int, IPAddress]) -> bool:
    same_socket = one[:2] == other[:2] and one[2].version == other[2].version
    return same_socket and (one[2] == other[2] or one[2].is_unspecified or other[2].is_unspecified)
