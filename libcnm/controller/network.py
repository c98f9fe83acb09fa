"""The live :class:`Network`: an identity, the last record read, and the verbs on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from libcnm.controller import endpoints as endpoint_verbs
from libcnm.controller import membership
from libcnm.controller.endpoint import Endpoint
from libcnm.controller.endpoints import EndpointSpec
from libcnm.controller.recovery import after_recovery
from libcnm.controller.repository import find
from libcnm.errors import Ambiguous
from libcnm.model.addresses import IPAddress, IPNetwork
from libcnm.model.arguments import flag
from libcnm.model.ids import check_name
from libcnm.model.ports import Port
from libcnm.model.records import EndpointRecord, NetworkRecord, Scope

if TYPE_CHECKING:
    from libcnm.controller.calls import Calls


class Network:
    """A segment that endpoints connect to. Obtained from :class:`~libcnm.Controller`; never constructed by users."""

    def __init__(self, calls: Calls, record: NetworkRecord) -> None:
        self._calls = calls
        self._record = record

    def __repr__(self) -> str:
        return f"<Network {self.name!r} {self.id[:12]} {self.driver}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Network) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def id(self) -> str:
        """64 hexadecimal digits."""
        return self._record.id

    @property
    def name(self) -> str:
        """Unique among the networks of its scope."""
        return self._record.name

    @property
    def driver(self) -> str:
        """The driver's name."""
        return self._record.driver

    @property
    def scope(self) -> Scope:
        """``local`` (this host) or ``global`` (all hosts that share the cluster store)."""
        return self._record.scope

    @property
    def subnets(self) -> tuple[IPNetwork, ...]:
        """Its subnets."""
        return self._record.subnets

    @property
    def gateways(self) -> tuple[IPAddress, ...]:
        """The gateway of each subnet that has one."""
        return tuple(pool.gateway for pool in self._record.pools if pool.gateway is not None)

    @property
    def internal(self) -> bool:
        """True when nothing leads out of it."""
        return self._record.internal

    @property
    def on_demand(self) -> bool:
        """True when libcnm has made it for the ways out of sandboxes; it goes with the last of them."""
        return self._record.on_demand

    @property
    def options(self) -> Mapping[str, str]:
        """Driver and IPAM options, by Docker's label names."""
        return dict(self._record.options)

    @property
    def labels(self) -> Mapping[str, str]:
        """The user's own labels."""
        return dict(self._record.labels)

    def create_endpoint(
        self,
        name: str,
        *,
        aliases: Sequence[str] | None = (),
        ports: Sequence[str | int | Port] | None = (),
        address: str | IPAddress | Sequence[str | IPAddress] | None = None,
        mac: str | None = None,
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> Endpoint:
        """Create an endpoint: a name and addresses in this network, not yet anywhere.

        ``name`` and ``aliases`` are for DNS: labels of at most 63 characters, and no two names that differ in case
        alone. ``aliases``: further names, which endpoints may share. ``ports``: Docker's notation or :class:`Port`.
        ``address``: one of each IP version at most, else one is allocated. ``timeout`` in seconds. The same
        ``request_id`` gives the same endpoint. Raises Invalid, AlreadyExists (kind ``endpoint``, ``address`` or
        ``MAC``), Exhausted, NotFound, Forbidden (the network is being deleted). libnetwork: CreateEndpoint.
        """
        spec = EndpointSpec.checked(name, aliases, ports, address, mac, options, labels)
        with (
            self._calls.verb(timeout, request_id) as call,
            call.request("create_endpoint", f"endpoint {name!r} of network {self.name!r}", self.id, spec) as request,
        ):
            record = endpoint_verbs.create_endpoint(call.context, self._record, spec, call.deadline, request)
        return Endpoint(self._calls, self._record, record)

    def endpoint(self, ref: str, *, timeout: float | None = None) -> Endpoint:
        """The endpoint with that name, id, or unambiguous id prefix. Raises NotFound, Ambiguous."""
        check_name(ref, "endpoint")
        with self._calls.verb(timeout) as call:
            repository = call.context.repository(self.scope)
            known = repository.endpoint_called(self.id, ref, call.deadline)
            stored = [known] if known is not None else repository.endpoints(self.id, call.deadline)
        found = find("endpoint", ref, [one.record for one in stored], _id, _name)
        if len(found) > 1:
            raise Ambiguous("endpoint", ref, [record.id[:12] for record in found])
        return Endpoint(self._calls, self._record, found[0])

    def endpoints(self, *, timeout: float | None = None) -> list[Endpoint]:
        """All its endpoints, on every host, by name."""
        with self._calls.verb(timeout) as call:
            stored = call.context.repository(self.scope).endpoints(self.id, call.deadline)
        records = sorted((one.record for one in stored), key=lambda record: record.name)
        return [Endpoint(self._calls, self._record, record) for record in records]

    def inspect(self, *, timeout: float | None = None) -> dict[str, object]:
        """The network as plain data, in the shape of ``docker network inspect``."""
        with self._calls.verb(timeout) as call:
            self._record = call.context.network(self.scope, self.id, call.deadline, name=self.name).record
            stored = call.context.repository(self.scope).endpoints(self.id, call.deadline)
        from libcnm.controller.inspect import network_as_dict

        return network_as_dict(self._record, [one.record for one in stored])

    def delete(self, *, force: bool = False, timeout: float | None = None, request_id: str | None = None) -> None:
        """Delete the network. With endpoints it is InUse; ``force`` detaches and deletes those of this host first.

        Raises InUse (every holder with its host, and what to do), NotFound. libnetwork: Network.Delete.
        """
        forced = flag(force, "force")
        with (
            self._calls.verb(timeout, request_id) as call,
            call.request("delete_network", f"network {self.name!r}", self.id, forced) as request,
        ):
            if request.is_done:
                return
            record = call.context.network(self.scope, self.id, call.deadline, name=self.name).record
            after_recovery(
                call.context,
                call.deadline,
                lambda: membership.delete_network(call.context, record, call.deadline, force=forced, request=request),
            )


def _id(record: EndpointRecord) -> str:
    return record.id


def _name(record: EndpointRecord) -> str:
    return record.name
