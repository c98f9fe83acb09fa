"""Endpoint records to names: what each network's zone holds, and what a sandbox sees of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

from libcnm.contracts.resolver import Answer, RecordType
from libcnm.controller.context import Context
from libcnm.controller.desired import Plug
from libcnm.dns.files import host_upstreams
from libcnm.dns.view import SandboxView, Upstream, lookup
from libcnm.dns.zone import NameRecord, NetworkZone
from libcnm.model.addresses import IPAddress
from libcnm.model.deadline import Deadline
from libcnm.model.records import EndpointRecord, NetworkRecord, SandboxRecord
from libcnm.system.clock import Clock
from libcnm.system.files import Files

HOST_RESOLV_CONF: Final = "/etc/resolv.conf"
SYSTEMD_RESOLV_CONF: Final = "/run/systemd/resolve/resolv.conf"
_UPSTREAMS_SECONDS: Final = 5.0


def name_record(network: NetworkRecord, endpoint: EndpointRecord) -> NameRecord | None:
    """What an endpoint is called, once it is attached and ready; None before and after, and for ways out."""
    place = endpoint.attachment
    if place is None or place.state != "ready" or not endpoint.addresses:
        return None
    if endpoint.gateway_of and network.scope == "local":
        return None
    return NameRecord(
        endpoint_id=endpoint.id,
        name=endpoint.name,
        network_id=network.id,
        network_name=network.name,
        aliases=endpoint.aliases,
        hostnames=(place.hostname,) if place.hostname else (),
        addresses=tuple(interface.ip for interface in endpoint.addresses),
    )


def new_zone(network: NetworkRecord) -> NetworkZone:
    """The empty zone of a network."""
    return NetworkZone(network.id, network.name, network.subnets)


def view(
    record: SandboxRecord, ranked: Sequence[tuple[NetworkRecord, NetworkZone]], upstreams: Iterable[Upstream]
) -> SandboxView:
    """What a sandbox sees, its networks in its own order. Nothing is forwarded from internal networks alone."""
    hosts = {name: (ipaddress.ip_address(address),) for name, address in record.extra_hosts.items()}
    forwarding = any(not network.internal for network, _ in ranked)
    return SandboxView(tuple(zone for _, zone in ranked), hosts, forwarding, tuple(upstreams))


class HostUpstreams:
    """Whom sandboxes' resolvers ask: the servers a sandbox was given, from its own namespace; else the host's, from the
    host. The host's file is read at most once in a few seconds.
    """

    def __init__(self, files: Files, clock: Clock) -> None:
        self._files = files
        self._clock = clock
        self._known: tuple[Upstream, ...] = ()
        self._until = -1.0

    def of(self, record: SandboxRecord) -> tuple[Upstream, ...]:
        """The servers for one sandbox."""
        if record.dns:
            return tuple(Upstream(ipaddress.ip_address(server), via="sandbox") for server in record.dns)
        if self._clock.monotonic() > self._until:
            text = self._files.read(HOST_RESOLV_CONF) or ""
            self._known = host_upstreams(text, self._files.read(SYSTEMD_RESOLV_CONF))
            self._until = self._clock.monotonic() + _UPSTREAMS_SECONDS
        return self._known


def resolve(context: Context, sandbox: SandboxRecord, name: str, deadline: Deadline) -> tuple[IPAddress, ...]:
    """A sandbox's view of one name, straight from the records."""
    record = context.sandbox(sandbox.id, deadline, name=sandbox.container_id).record
    plugs = sorted(context.plugs(sandbox.id, deadline), key=lambda plug: plug.order)
    ranked = [
        (plug.network.record, _zone(context, plug, deadline))
        for plug in plugs
        if plug.place.state == "ready" and not plug.is_gateway
    ]
    seen = view(record, ranked, ())
    found: list[IPAddress] = []
    for kind in (RecordType.A, RecordType.AAAA):
        answer = lookup(seen, name, kind)
        if isinstance(answer, Answer):
            found.extend(answer.addresses)
    return tuple(found)


def _zone(context: Context, plug: Plug, deadline: Deadline) -> NetworkZone:
    network = plug.network.record
    zone = new_zone(network)
    for stored in context.repository(network.scope).endpoints(network.id, deadline):
        named = name_record(network, stored.record)
        if named is not None:
            zone.put(named)
    return zone
