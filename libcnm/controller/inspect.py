"""Records as plain data, in the shape of ``docker network inspect`` where Docker has one. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable

from libcnm.model.addresses import IPAddress
from libcnm.model.ports import Port
from libcnm.model.records import EndpointRecord, NetworkRecord, SandboxRecord


def network_as_dict(record: NetworkRecord, endpoints: Iterable[EndpointRecord]) -> dict[str, object]:
    """One network, its endpoints under ``Endpoints`` by id, on whichever host."""
    return {
        "Name": record.name,
        "Id": record.id,
        "Created": _time(record.created),
        "Scope": record.scope,
        "Driver": record.driver,
        "State": record.state,
        "IPAM": {
            "Driver": record.ipam_driver,
            "Config": [
                {
                    "Subnet": str(pool.subnet),
                    **({"IPRange": str(pool.range)} if pool.range is not None else {}),
                    **({"Gateway": str(pool.gateway)} if pool.gateway is not None else {}),
                    **({"AuxiliaryAddresses": {k: str(v) for k, v in pool.aux.items()}} if pool.aux else {}),
                }
                for pool in record.pools
                if pool.subnet.prefixlen  # an IPAM without addresses has no subnet to show
            ],
        },
        "Internal": record.internal,
        **({"OnDemand": True} if record.on_demand else {}),
        **({"VNI": record.vni} if record.vni is not None else {}),
        "Options": dict(record.options),
        "Labels": dict(record.labels),
        "Endpoints": {endpoint.id: _short(endpoint) for endpoint in endpoints},
    }


def _short(record: EndpointRecord) -> dict[str, object]:
    place = record.attachment
    return {
        "Name": record.name,
        "MacAddress": record.mac,
        "Addresses": [str(address) for address in record.addresses],
        "Container": None if place is None else place.container_id,
        "Host": None if place is None else place.host,
    }


Here = Callable[[IPAddress], bool]
"""Whether the host of an endpoint has an address; True of those of which that is not known."""


def endpoint_as_dict(network: NetworkRecord, record: EndpointRecord, here: Here) -> dict[str, object]:
    """One endpoint; ``Ports`` says of each published port who can reach it."""
    place = record.attachment
    when = "" if place is not None else ", once attached"
    return {
        "Name": record.name,
        "Id": record.id,
        "Created": _time(record.created),
        "Network": network.name,
        "NetworkId": network.id,
        "MacAddress": record.mac,
        "Addresses": [str(address) for address in record.addresses],
        "Aliases": list(record.aliases),
        "Options": dict(record.options),
        "Labels": dict(record.labels),
        "Ports": [
            {"Port": str(port), "Reachable": reachable(port, here) + when}
            for port in (place.ports if place else record.ports)
        ],
        **({"WayOutOf": record.gateway_of} if record.gateway_of else {}),
        "Attachment": None
        if place is None
        else {
            "Host": place.host,
            "Container": place.container_id,
            "Sandbox": place.sandbox_id,
            "Interface": place.interface,
            "Priority": place.priority,
            "State": place.state,
            **({"VTEP": str(place.vtep)} if place.vtep is not None else {}),
        },
    }


def reachable(port: Port, here: Here) -> str:
    """Who can reach a published port, in words."""
    if port.host_address is None:
        return "whoever can reach the default host addresses"
    if not here(port.host_address):
        return f"nobody: the host does not have {port.host_address}"
    if port.host_address.is_loopback:
        return "this host only"
    if port.host_address.is_unspecified:
        return f"everybody who can reach any IPv{port.host_address.version} address of this host"
    return f"everybody who can reach {port.host_address}"


def sandbox_as_dict(
    record: SandboxRecord, path: str, plugs: Iterable[tuple[NetworkRecord, EndpointRecord]], here: Here
) -> dict[str, object]:
    """One sandbox with its endpoints."""
    return {
        "Id": record.id,
        "ContainerId": record.container_id,
        "Created": _time(record.created),
        "SandboxKey": path,
        "Hostname": record.hostname,
        "Domain": record.domain,
        "Dns": list(record.dns),
        "ExtraHosts": dict(record.extra_hosts),
        "Labels": dict(record.labels),
        "Endpoints": [endpoint_as_dict(network, endpoint, here) for network, endpoint in plugs],
    }


def _time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="milliseconds")
