"""The whole picture, read from the records: hosts, networks, sandboxes, endpoints, as frozen values to draw or print.

What other hosts have is known by the attachments in the cluster's store, so every host sees the same of the cluster,
and its own local networks beside that. It reads; it never asks the kernel, and never knows how a picture is drawn.
"""

from __future__ import annotations

import attrs

from libcnm.controller.context import Context
from libcnm.errors import Corrupt
from libcnm.model import keys
from libcnm.model.addresses import IPInterface, IPNetwork
from libcnm.model.codec import decode
from libcnm.model.deadline import Deadline
from libcnm.model.ports import Port
from libcnm.model.records import EndpointRecord, HostClaim, NetworkRecord, Scope


@attrs.frozen
class HostNode:
    """A host of the cluster; ``address`` is where the others reach it (its VTEP), empty when it has said none."""

    name: str
    address: str
    here: bool


@attrs.frozen
class NetworkNode:
    """A network; ``host`` is the one that a local network is on, empty for the cluster's."""

    id: str
    name: str
    driver: str
    scope: Scope
    subnets: tuple[IPNetwork, ...]
    vni: int | None
    internal: bool
    host: str


@attrs.frozen
class SandboxNode:
    """A container's sandbox."""

    id: str
    container_id: str
    host: str


@attrs.frozen
class EndpointNode:
    """An endpoint; ``sandbox_id``, ``host`` and ``interface`` are empty while it is attached to nothing."""

    id: str
    name: str
    network_id: str
    addresses: tuple[IPInterface, ...]
    mac: str
    ports: tuple[Port, ...]
    sandbox_id: str
    host: str
    interface: str


@attrs.frozen
class Topology:
    """Everything, each kind in an order that does not change between two readings of the same state."""

    hosts: tuple[HostNode, ...] = ()
    networks: tuple[NetworkNode, ...] = ()
    sandboxes: tuple[SandboxNode, ...] = ()
    endpoints: tuple[EndpointNode, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """The same as plain data, addresses and ports as text."""

        def plain(_instance: object, _field: object, value: object) -> object:
            if isinstance(value, tuple):
                return [str(one) for one in value]
            return value

        kinds: dict[str, tuple[attrs.AttrsInstance, ...]] = {
            "hosts": self.hosts,
            "networks": self.networks,
            "sandboxes": self.sandboxes,
            "endpoints": self.endpoints,
        }
        return {name: [attrs.asdict(node, value_serializer=plain) for node in nodes] for name, nodes in kinds.items()}


def topology(context: Context, deadline: Deadline) -> Topology:
    """Read it, from this host's store and the cluster's if there is one."""
    networks: list[NetworkNode] = []
    endpoints: list[EndpointNode] = []
    sandboxes = {
        stored.record.id: SandboxNode(stored.record.id, stored.record.container_id, context.host_name)
        for stored in context.local.sandboxes(deadline)
    }
    for network in context.all_networks(deadline)[0]:
        record = network.record
        if record.state == "preparing":
            continue
        networks.append(_network(record, context.host_name if record.scope == "local" else ""))
        for one in context.repository(record.scope).endpoints(record.id, deadline):
            endpoints.append(_endpoint(one.record))
            place = one.record.attachment
            if place is not None and place.state == "ready":
                node = SandboxNode(place.sandbox_id, place.container_id, place.host)
                sandboxes.setdefault(place.sandbox_id, node)
    return Topology(
        tuple(sorted(_hosts(context, deadline), key=lambda host: host.name)),
        tuple(sorted(networks, key=lambda network: (network.scope, network.name, network.id))),
        tuple(sorted(sandboxes.values(), key=lambda sandbox: (sandbox.host, sandbox.container_id))),
        tuple(sorted(endpoints, key=lambda endpoint: (endpoint.network_id, endpoint.name))),
    )


def _hosts(context: Context, deadline: Deadline) -> list[HostNode]:
    own = HostNode(context.host_name, str(context.settings.advertise or ""), here=True)
    if context.cluster is None:
        return [own]
    entries = context.repository("global").store.list(keys.host(""), deadline=deadline).entries
    claims: list[HostClaim] = []
    for entry in entries:
        try:
            claims.append(decode(HostClaim, entry.value, entry.key))
        except Corrupt as error:
            context.log.warning("left out: %s", error)
    others = [HostNode(claim.name, claim.vtep, here=False) for claim in claims if claim.name != own.name]
    return [own, *others]


def _network(record: NetworkRecord, host: str) -> NetworkNode:
    return NetworkNode(
        record.id, record.name, record.driver, record.scope, record.subnets, record.vni, record.internal, host
    )


def _endpoint(record: EndpointRecord) -> EndpointNode:
    place = record.attachment
    attached = place is not None and place.state == "ready"
    return EndpointNode(
        record.id,
        record.name,
        record.network_id,
        record.addresses,
        record.mac,
        place.ports if place is not None and attached else record.ports,
        place.sandbox_id if place is not None and attached else "",
        place.host if place is not None and attached else "",
        place.interface if place is not None and attached else "",
    )
