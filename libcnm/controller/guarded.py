"""Plug-ins at arm's length: whatever a driver or an IPAM raises, or answers that is no answer, is a DriverError that
names it.

They are other people's code, and the verbs undo, recover and heal with their help. Only an error of ours is undone,
logged and left for later; anything else would end a verb half-way, and the next opening of the installation with it.
This file never knows what they are asked for.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, ParamSpec, TypeVar

from libcnm.contracts.driver import Capabilities, Driver, HostFacts, NetworkView, ResourceDoor
from libcnm.contracts.ipam import AddressGrant, AddressRequest, IpamDriver, PoolGrant, PoolRequest
from libcnm.controller.delta import ordered
from libcnm.errors import CnmError, DriverError, KernelError
from libcnm.kv.base import Store, Transaction
from libcnm.model.addresses import IPAddress, IPNetwork
from libcnm.model.deadline import Deadline
from libcnm.model.pool import Pool
from libcnm.model.records import EndpointRecord, NetworkRecord
from libcnm.model.resource import Change, Observed, Resource, by_identity

P = ParamSpec("P")
T = TypeVar("T")

_OURS: Final = "libcnm."
_ADDRESSES: Final = (ipaddress.IPv4Address, ipaddress.IPv6Address)
_NETWORKS: Final = (ipaddress.IPv4Network, ipaddress.IPv6Network)


class GuardedDriver(Driver):
    """``driver`` as the controller sees it, by the ``name`` it was asked for; ``distribution`` is where it is from."""

    def __init__(self, driver: Driver, name: str, *, distribution: str | None = None) -> None:
        self.driver = driver
        self.name = name  # type: ignore[misc]  # of this very driver: what its networks' records and locks say
        self._guard = _Guard(name, distribution)
        capabilities = self._guard.call("capabilities", lambda: driver.capabilities)
        self._guard.check("capabilities", [capabilities], Capabilities)
        if capabilities.scope == "global" and capabilities.presence == "created":
            # Recovery looks for half-done creations in a host's own store alone.
            why = "its networks are the cluster's, so they cannot be on each host from their creation on"
            hint = "Capabilities(scope='global', presence='attached')"
            raise DriverError(name, why, distribution=distribution or type(driver).__module__, hint=hint)
        self.capabilities = capabilities  # type: ignore[misc]  # as above
        # What ours answer is their own tests' business; each verb asks several times.
        self._trusted = type(driver).__module__.startswith(_OURS)

    def check_network(self, host: HostFacts, network: NetworkRecord) -> None:
        self._guard.call("check_network", self.driver.check_network, host, network)

    def check_endpoint(self, host: HostFacts, network: NetworkRecord, endpoint: EndpointRecord) -> None:
        self._guard.call("check_endpoint", self.driver.check_endpoint, host, network, endpoint)

    def base(self, host: HostFacts, versions: frozenset[int]) -> tuple[Resource, ...]:
        return self._resources("base", self.driver.base, host, versions)

    def network(self, host: HostFacts, network: NetworkView) -> tuple[Resource, ...]:
        return self._resources("network", self.driver.network, host, network)

    def endpoint(self, host: HostFacts, network: NetworkView, endpoint: EndpointRecord) -> tuple[Resource, ...]:
        return self._resources("endpoint", self.driver.endpoint, host, network, endpoint)

    def publication(self, host: HostFacts, network: NetworkView, endpoint: EndpointRecord) -> tuple[Resource, ...]:
        return self._resources("publication", self.driver.publication, host, network, endpoint)

    def peer(self, host: HostFacts, network: NetworkView, endpoint: EndpointRecord) -> tuple[Resource, ...]:
        return self._resources("peer", self.driver.peer, host, network, endpoint)

    def gateways(self, network: NetworkRecord) -> tuple[IPAddress, ...]:
        return self._each("gateways", _ADDRESSES, self.driver.gateways, network)

    def own_macs(self, network: NetworkRecord) -> Mapping[str, str]:
        found = self._guard.call("own_macs", lambda: dict(self.driver.own_macs(network)))
        self._guard.check("own_macs", [*found, *found.values()], str)
        return found

    def onlink(self, network: NetworkRecord, endpoint: EndpointRecord) -> tuple[IPNetwork, ...]:
        return self._each("onlink", _NETWORKS, self.driver.onlink, network, endpoint)

    def interface_prefix(self, network: NetworkRecord) -> str:
        prefix = self._guard.call("interface_prefix", self.driver.interface_prefix, network)
        self._guard.check("interface_prefix", [prefix], str)
        return prefix

    def default_host_ips(self, network: NetworkRecord) -> tuple[IPAddress, ...]:
        return self._each("default_host_ips", _ADDRESSES, self.driver.default_host_ips, network)

    def doors(self) -> Mapping[type[Resource], ResourceDoor]:
        doors = self._guard.call("doors", lambda: dict(self.driver.doors()))
        for kind in doors:
            if not (isinstance(kind, type) and issubclass(kind, Resource)) or kind.__module__.startswith(_OURS):
                raise self._guard.error(f"doors() has one for {kind!r}, which is no resource kind of its own")
        return {kind: _GuardedDoor(door, self._guard) for kind, door in doors.items()}

    def _each(
        self, what: str, kinds: tuple[type, ...], method: Callable[P, Iterable[T]], *given: P.args, **named: P.kwargs
    ) -> tuple[T, ...]:
        found = self._guard.call(what, lambda: tuple(method(*given, **named)))
        self._guard.check(what, found, *kinds)
        return found

    def _resources(
        self, what: str, method: Callable[P, Iterable[Resource]], *given: P.args, **named: P.kwargs
    ) -> tuple[Resource, ...]:
        if self._trusted:
            return self._guard.call(what, lambda: tuple(method(*given, **named)))
        found = self._each(what, (Resource,), method, *given, **named)
        self._guard.call(what, lambda: ordered(by_identity(found)))  # two of one identity, or a circle of needs
        kinds = {type(one) for one in found if not type(one).__module__.startswith(_OURS)}
        for kind in kinds - self.doors().keys() if kinds else ():
            raise self._guard.error(f"{what} gave a {kind.__name__}, and doors() has no door for that kind")
        return found


class GuardedIpam(IpamDriver):
    """``ipam`` as the controller sees it."""

    def __init__(self, ipam: IpamDriver, name: str, *, distribution: str | None = None) -> None:
        self.ipam = ipam
        self.name = name  # type: ignore[misc]  # of this very one
        self._guard = _Guard(name, distribution)

    def request_pools(self, store: Store, requests: Sequence[PoolRequest], *, deadline: Deadline) -> PoolGrant:
        grant = self._guard.call("request_pools", self.ipam.request_pools, store, requests, deadline=deadline)
        self._guard.check("request_pools", [grant], PoolGrant)
        return grant

    def release_pools(self, store: Store, pools: Sequence[Pool], holder: str, *, deadline: Deadline) -> Transaction:
        gone = self._guard.call("release_pools", self.ipam.release_pools, store, pools, holder, deadline=deadline)
        self._guard.check("release_pools", [gone], Transaction)
        return gone

    def purge(self, store: Store, pools: Sequence[Pool], *, deadline: Deadline) -> None:
        self._guard.call("purge", self.ipam.purge, store, pools, deadline=deadline)

    def request_addresses(
        self, store: Store, requests: Sequence[AddressRequest], *, deadline: Deadline
    ) -> AddressGrant:
        grant = self._guard.call("request_addresses", self.ipam.request_addresses, store, requests, deadline=deadline)
        self._guard.check("request_addresses", [grant], AddressGrant)
        return grant

    def release_addresses(
        self, store: Store, pool: Pool, addresses: Sequence[IPAddress], holder: str, *, deadline: Deadline
    ) -> Transaction:
        release = self.ipam.release_addresses
        gone = self._guard.call("release_addresses", release, store, pool, addresses, holder, deadline=deadline)
        self._guard.check("release_addresses", [gone], Transaction)
        return gone


class _GuardedDoor:
    """A third party's door: one outcome for each change, and every failure a DriverError."""

    def __init__(self, door: ResourceDoor, guard: _Guard) -> None:
        self._door = door
        self._guard = guard

    def apply(self, changes: tuple[Change, ...], *, deadline: Deadline) -> tuple[KernelError | None, ...]:
        outcomes = self._guard.call("apply", lambda: tuple(self._door.apply(changes, deadline=deadline)))
        self._guard.check("apply", outcomes, KernelError, type(None))
        if len(outcomes) != len(changes):
            raise self._guard.error(f"apply() has {len(outcomes)} outcomes of {len(changes)} changes")
        return outcomes

    def read_one(self, resource: Resource, *, deadline: Deadline) -> Observed | None:
        found = self._guard.call("read_one", self._door.read_one, resource, deadline=deadline)
        self._guard.check("read_one", [found], Observed, type(None))
        return found


class _Guard:
    """What is raised and answered, turned into DriverErrors of one plug-in."""

    def __init__(self, name: str, distribution: str | None) -> None:
        self._name = name
        self._distribution = distribution

    def call(self, what: str, method: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
        try:
            return method(*given, **named)
        except CnmError:
            raise  # its own refusals are part of the contract
        except Exception as error:
            raise self.error(f"{what} failed: {error!r}") from error

    def check(self, what: str, found: Iterable[object], *kinds: type) -> None:
        for one in found:
            if not isinstance(one, kinds):
                raise self.error(f"{what} gave {one!r}, which is no {' or '.join(kind.__name__ for kind in kinds)}")

    def error(self, reason: str) -> DriverError:
        hint = "it has to be mended; until then its networks stay as they are"
        return DriverError(self._name, reason, distribution=self._distribution, hint=hint)
