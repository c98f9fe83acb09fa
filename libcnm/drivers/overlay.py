"""The overlay driver: one layer-2 segment across hosts, over VXLAN (RFC 7348).

On each host where an endpoint is attached, the network has a namespace of its own, ``<epoch>-<first 10 of its id>``,
with a bridge ``br0`` (which holds the gateway addresses), a VXLAN device ``vxlan1`` and one port per local endpoint.
The remote endpoints of the store's table are static forwarding and neighbour rows on ``vxlan1``: they are state, the
device learns nothing. Broadcast is answered locally (ARP, neighbour discovery) or not carried.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

from libcnm.contracts.driver import Capabilities, Driver, HostFacts, NetworkView, refuse_option
from libcnm.errors import Invalid, NotSupported
from libcnm.kernel.resources import (
    Address,
    Bridge,
    Fdb,
    Interface,
    Namespace,
    Neighbour,
    Sysctl,
    Veth,
    Vxlan,
    ipv6_switch,
)
from libcnm.model import limits, options
from libcnm.model.addresses import IPNetwork, mac_from_address
from libcnm.model.ids import network_namespace
from libcnm.model.records import EndpointRecord, NetworkRecord
from libcnm.model.resource import Resource

BRIDGE: Final = "br0"
DEVICE: Final = "vxlan1"
_VNI_DIGITS: Final = len(str(limits.VNI_MAX))


def _no_encryption(label: str, value: str) -> None:
    # Plain text under the name of encryption is worse than an error (CVE-2023-28841). As in the original, the option
    # alone asks for it; only who says "false" has not.
    if value and not options.boolean(label, value):
        return
    raise NotSupported(
        f"{label}={value}: overlay encryption is not available: this libcnm cannot set up IPsec",
        hint="leave the option out and keep the underlay private",
    )


def _vni(label: str, value: str) -> int:
    """A VNI of the user's choice: 1 to 2^24-1, all that RFC 7348 has but 0, which to the original means "any".

    The original's manager takes every number from users and begins at 4096 (standalone: 256) only when it picks one
    itself. So 1 to 255 are theirs alone: what we pick begins at ``limits.VNI_MIN`` and never collides with them.
    """
    if "," in value:
        raise Invalid(
            f"options[{label}]", value, "is a list", hint="give one VNI: a network's subnets share its segment"
        )
    if len(value) > _VNI_DIGITS:
        raise Invalid(f"options[{label}]", value, f"is not an integer between 1 and {limits.VNI_MAX}")
    return options.vni(label, value)


_OPTIONS = {
    options.MTU: options.mtu,
    options.OVERLAY_VNIS: _vni,
    options.OVERLAY_ENCRYPTED: _no_encryption,
    options.INTERFACE_PREFIX: options.interface_prefix,
}


class OverlayDriver(Driver):
    """Scope global. A network is present on a host while one of its endpoints is attached there."""

    name: ClassVar[str] = "overlay"
    capabilities: ClassVar[Capabilities] = Capabilities(scope="global", presence="attached", gateway=False, vni=True)

    def check_network(self, host: HostFacts, network: NetworkRecord) -> None:
        self._options(network)
        self._mtu(host, network)

    def network(self, host: HostFacts, network: NetworkView) -> Iterator[Resource]:
        record = network.record
        ns = namespace_name(network)
        mtu = self._mtu(host, record)
        if host.vtep is None:
            raise Invalid(
                "advertise",
                None,
                "is needed for an overlay network",
                hint="Controller(advertise='192.0.2.11')",
                remedy="advertise",
            )
        assert record.vni is not None, "an overlay network has a VNI"
        yield Namespace(ns)
        yield Interface(ns, "lo")
        yield Bridge(ns, BRIDGE, _bridge_mac(record), mtu)
        yield Vxlan(ns, DEVICE, record.vni, _device_mac(record), host.vtep, mtu, limits.VXLAN_PORT, BRIDGE)
        if any(pool.subnet.version == 6 for pool in record.pools):
            yield Sysctl(ns, ipv6_switch(BRIDGE), "0", link=BRIDGE)
            yield Sysctl(ns, ipv6_switch(DEVICE), "0", link=DEVICE)
        for pool in record.pools:
            if pool.gateway is not None:
                yield Address(ns, BRIDGE, ipaddress.ip_interface((pool.gateway, pool.subnet.prefixlen)))

    def endpoint(self, host: HostFacts, network: NetworkView, endpoint: EndpointRecord) -> Iterator[Resource]:
        place = endpoint.attachment
        assert place is not None, "the controller asks for attached endpoints only"
        yield Veth(
            namespace_name(network),
            f"ve-{endpoint.id[:12]}",
            f"06:42:{_tail(endpoint.id)}",
            peer_ns=place.namespace,
            peer_name=place.interface,
            peer_mac=endpoint.mac,
            mtu=self._mtu(host, network.record),
            master=BRIDGE,
            alias=f"libcnm:{host.tag}:{endpoint.name}"[:255],
        )

    def peer(self, host: HostFacts, network: NetworkView, endpoint: EndpointRecord) -> Iterator[Resource]:
        place = endpoint.attachment
        if place is None or place.vtep is None or place.vtep == host.vtep:
            return
        ns = namespace_name(network)
        yield Fdb(ns, DEVICE, endpoint.mac, place.vtep)
        for interface in endpoint.addresses:
            yield Neighbour(ns, DEVICE, interface.ip, endpoint.mac)

    def own_macs(self, network: NetworkRecord) -> Mapping[str, str]:
        return {_bridge_mac(network): "the gateway", _device_mac(network): "the VXLAN device"}

    def onlink(self, network: NetworkRecord, endpoint: EndpointRecord) -> tuple[IPNetwork, ...]:
        own = {interface.network for interface in endpoint.addresses}
        versions = {interface.version for interface in endpoint.addresses}
        return tuple(subnet for subnet in network.subnets if subnet not in own and subnet.version in versions)

    def interface_prefix(self, network: NetworkRecord) -> str:
        prefix: str = self._options(network).get(options.INTERFACE_PREFIX, "eth")
        return prefix

    def _mtu(self, host: HostFacts, network: NetworkRecord) -> int:
        """The underlay's MTU less the encapsulation; an explicit one is refused, with the arithmetic, when it
        cannot fit.
        """
        ipv6 = host.vtep is not None and host.vtep.version == 6
        overhead = limits.VXLAN_OVERHEAD_IPV6 if ipv6 else limits.VXLAN_OVERHEAD_IPV4
        most = host.underlay_mtu - overhead
        chosen: int = self._options(network).get(options.MTU, most)
        if chosen > most:
            raise Invalid(
                f"options[{options.MTU}]",
                chosen,
                f"does not fit: underlay {host.underlay_mtu} - VXLAN over IPv{6 if ipv6 else 4} {overhead} = {most}",
            )
        least = limits.MTU_MIN_IPV6 if any(subnet.version == 6 for subnet in network.subnets) else limits.MTU_MIN
        if chosen < least:
            raise Invalid(f"options[{options.MTU}]", chosen, f"is below the minimum of {least}")
        return chosen

    def _options(self, network: NetworkRecord) -> dict[str, Any]:
        return options.parse(network.options, _OPTIONS, lambda label: refuse_option(self.name, label, _OPTIONS))


def _bridge_mac(network: NetworkRecord) -> str:
    gateway = next((pool.gateway for pool in network.pools if pool.gateway is not None), None)
    return mac_from_address(gateway) if gateway is not None else f"02:42:{_tail(network.id)}"


def _device_mac(network: NetworkRecord) -> str:
    return f"06:43:{_tail(network.id)}"


def _tail(identifier: str) -> str:
    return ":".join(identifier[i : i + 2] for i in range(0, 8, 2))


def namespace_name(network: NetworkView) -> str:
    """The network's namespace on this host."""
    return network_namespace(network.epoch, network.record.id)
