"""The bridge driver: one Linux bridge per network on one host, veth pairs to its sandboxes, the way out through the
host.

A pure function from records to resources; what the firewall's elements mean is :mod:`libcnm.kernel.firewall`'s.
Behaviour and option names follow libnetwork's bridge driver (``drivers/bridge``), with these differences: published
ports bind to loopback unless told otherwise, isolation also holds without nftables, and IPv6 is treated as IPv4 is.

``enable_icc=false`` isolates the bridge's ports from each other, which no firewall is needed for. Where br_netfilter is
on, the kernel takes what a container sends to a port that is published from the same bridge for a bridged frame, so
there isolation holds even for that: a published port is reached from everywhere but the bridge's own containers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from libcnm.contracts.driver import Capabilities, Driver, HostFacts, NetworkView, refuse_option
from libcnm.errors import Invalid
from libcnm.kernel import firewall
from libcnm.kernel.resources import Address, Bridge, Sysctl, Veth, ipv6_switch
from libcnm.model import limits, options
from libcnm.model.addresses import IPAddress, mac_from_address
from libcnm.model.records import EndpointRecord, NetworkRecord
from libcnm.model.resource import Resource

_OPTIONS = {
    options.MTU: options.mtu,
    options.BRIDGE_ICC: options.boolean,
    options.BRIDGE_MASQUERADE: options.boolean,
    options.BRIDGE_HOST_BINDING: options.host_binding,
    options.INTERFACE_PREFIX: options.interface_prefix,
}


class BridgeDriver(Driver):
    """Scope local. Networks are present from creation on."""

    name: ClassVar[str] = "bridge"
    capabilities: ClassVar[Capabilities] = Capabilities()

    def check_network(self, host: HostFacts, network: NetworkRecord) -> None:
        self._options(network)

    def base(self, host: HostFacts, versions: frozenset[int]) -> Iterator[Resource]:
        yield firewall.table(host.firewall)
        yield from firewall.isolation_base(host.routing_table)
        if 4 in versions:
            yield Sysctl("", "net/ipv4/ip_forward", "1")
        if 6 in versions:
            yield Sysctl("", "net/ipv6/conf/all/forwarding", "1")

    def network(self, host: HostFacts, network: NetworkView) -> Iterator[Resource]:
        record = network.record
        found = self._options(record)
        bridge = bridge_name(record)
        gateways = [pool.gateway for pool in record.pools if pool.gateway is not None]
        yield Bridge(
            "", bridge, bridge_mac(record), found.get(options.MTU, 1500), alias=f"libcnm:{host.tag}:{record.name}"[:255]
        )
        yield firewall.loopback_guard(bridge)
        has_ipv6 = any(pool.subnet.version == 6 for pool in record.pools)
        yield Sysctl("", ipv6_switch(bridge), "0" if has_ipv6 else "1", link=bridge)
        for pool in record.pools:
            if pool.gateway is not None:
                yield Address("", bridge, ipaddress.ip_interface((pool.gateway, pool.subnet.prefixlen)))
        yield from firewall.network_elements(
            firewall.table(host.firewall),
            bridge=bridge,
            subnets=record.subnets,
            gateways=gateways,
            masquerade=found.get(options.BRIDGE_MASQUERADE, True),
            internal=record.internal,
            icc=found.get(options.BRIDGE_ICC, True),
        )
        yield from firewall.isolation_resources(
            bridge=bridge, subnets=record.subnets, internal=record.internal, routing=host.routing_table
        )

    def endpoint(self, host: HostFacts, network: NetworkView, endpoint: EndpointRecord) -> Iterator[Resource]:
        place = endpoint.attachment
        assert place is not None, "the controller asks for attached endpoints only"
        chosen = self._options(network.record)
        yield Veth(
            "",
            f"ve-{endpoint.id[:12]}",
            host_side_mac(endpoint.id),
            peer_ns=place.namespace,
            peer_name=place.interface,
            peer_mac=endpoint.mac,
            mtu=chosen.get(options.MTU, 1500),
            master=bridge_name(network.record),
            # A container that reaches its own published port goes out and in by the same bridge port.
            hairpin=bool(place.ports),
            isolated=not chosen.get(options.BRIDGE_ICC, True),
            alias=f"libcnm:{host.tag}:{endpoint.name}"[:255],
        )

    def publication(self, host: HostFacts, network: NetworkView, endpoint: EndpointRecord) -> Iterator[Resource]:
        place = endpoint.attachment
        assert place is not None, "the controller asks for attached endpoints only"
        if network.record.internal:
            return
        bridge = bridge_name(network.record)
        for port in place.ports:
            host_address = port.host_address
            assert host_address is not None, "ports are bound to an address when they are attached"
            for interface in endpoint.addresses:
                if interface.version == host_address.version:
                    yield from firewall.port_elements(
                        firewall.table(host.firewall),
                        bridge=bridge,
                        protocol=port.protocol,
                        host_address=host_address,
                        host_port=port.host_port,
                        address=interface.ip,
                        port=port.port,
                    )
                    yield from firewall.loopback_resources(
                        bridge=bridge, host_address=host_address, address=interface.ip
                    )

    def gateways(self, network: NetworkRecord) -> tuple[IPAddress, ...]:
        if network.internal:
            return ()
        return tuple(pool.gateway for pool in network.pools if pool.gateway is not None)

    def own_macs(self, network: NetworkRecord) -> Mapping[str, str]:
        return {bridge_mac(network): "the gateway"}

    def interface_prefix(self, network: NetworkRecord) -> str:
        prefix: str = self._options(network).get(options.INTERFACE_PREFIX, "eth")
        return prefix

    def default_host_ips(self, network: NetworkRecord) -> tuple[IPAddress, ...]:
        address = self._options(network).get(options.BRIDGE_HOST_BINDING)
        return () if address is None else (address,)

    def _options(self, network: NetworkRecord) -> dict[str, Any]:
        found = options.parse(network.options, _OPTIONS, lambda label: refuse_option(self.name, label, _OPTIONS))
        has_ipv6 = any(pool.subnet.version == 6 for pool in network.pools)
        if has_ipv6 and found.get(options.MTU, 1500) < limits.MTU_MIN_IPV6:
            raise Invalid(
                f"options[{options.MTU}]", found[options.MTU], f"is below IPv6's minimum of {limits.MTU_MIN_IPV6}"
            )
        return found


def bridge_name(network: NetworkRecord) -> str:
    """The bridge of a network: a function of its id, so that the name itself says whose it is."""
    return f"br-{network.id[:12]}"


def bridge_mac(network: NetworkRecord) -> str:
    """The MAC of the network's bridge, and so its gateway's."""
    gateway = next((pool.gateway for pool in network.pools if pool.gateway is not None), None)
    return mac_from_address(gateway) if gateway is not None else "02:42:" + ":".join(_pairs(network.id[:8]))


def host_side_mac(endpoint_id: str) -> str:
    """The MAC of the host's end of a pair; nobody talks to it, it only has to be unique and stable."""
    return "06:42:" + ":".join(_pairs(endpoint_id[:8]))


def _pairs(digits: str) -> Iterable[str]:
    return (digits[i : i + 2] for i in range(0, len(digits), 2))
