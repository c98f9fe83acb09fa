"""Records to resources: what should exist for a network, an endpoint, a sandbox. Pure, but for the drivers it asks.

What is inside a sandbox follows from its endpoints: one interface each, its addresses and on-link routes, and for
each IP version one default route, through the endpoint that comes first. The order of a sandbox's endpoints: higher
priority first, then networks that are not internal, then the network's name; the way out that libcnm has made for
networks without a gateway comes after all others (libnetwork's ``Less``, for v4 and v6 separately).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import attrs

from libcnm.contracts.driver import Driver, HostFacts, NetworkView
from libcnm.kernel.resources import Address, Interface, Namespace, Route, Sysctl, ipv6_switch
from libcnm.model.addresses import IPAddress, IPNetwork
from libcnm.model.records import Attachment, EndpointRecord, SandboxRecord
from libcnm.model.resource import Resource

DEFAULT_ROUTES: Final[dict[int, IPNetwork]] = {
    4: ipaddress.IPv4Network("0.0.0.0/0"),
    6: ipaddress.IPv6Network("::/0"),
}


@attrs.frozen
class Plug:
    """An attached endpoint with its network and driver: all that is needed to say what should be there for it."""

    driver: Driver
    network: NetworkView
    endpoint: EndpointRecord

    @property
    def place(self) -> Attachment:
        """Its attachment."""
        assert self.endpoint.attachment is not None, "a plug is attached"
        return self.endpoint.attachment

    @property
    def is_gateway(self) -> bool:
        """True for a sandbox's way out, which libcnm has made; only its own store is believed in that."""
        return bool(self.endpoint.gateway_of) and self.network.record.scope == "local"

    @property
    def order(self) -> tuple[bool, int, bool, str, str]:
        """The sort key of a sandbox's endpoints."""
        record = self.network.record
        return (self.is_gateway, -self.place.priority, record.internal, record.name, self.endpoint.id)


def sandbox_base(record: SandboxRecord) -> Iterator[Resource]:
    """What a sandbox is before anything is attached to it."""
    if record.namespace:
        yield Namespace(record.namespace, record.source)
        if record.source is None:
            yield Interface(record.namespace, "lo")


def sandbox(facts: Callable[[Driver], HostFacts], plugs: Iterable[Plug]) -> list[Resource]:
    """Everything that a sandbox's attachments ask for: links, what is inside, the way out, published ports."""
    ranked = sorted(plugs, key=lambda plug: plug.order)
    found: list[Resource] = []
    for plug in ranked:
        found.extend(plug.driver.endpoint(facts(plug.driver), plug.network, plug.endpoint))
        found.extend(inside(plug))
    way_out = gateway_plugs(ranked)
    for version, (plug, address) in way_out.items():
        if plug.place.namespace:
            found.append(Route(plug.place.namespace, DEFAULT_ROUTES[version], plug.place.interface, address))
    for plug in publishers(ranked):
        found.extend(plug.driver.publication(facts(plug.driver), plug.network, plug.endpoint))
    return unique(found)


def inside(plug: Plug) -> Iterator[Resource]:
    """The inner end of an endpoint's link: up, addressed, its on-link routes."""
    place, record = plug.place, plug.endpoint
    if not plug.driver.capabilities.addresses or not place.namespace:
        return
    yield Interface(place.namespace, place.interface)
    if any(address.version == 6 for address in record.addresses):
        yield Sysctl(place.namespace, ipv6_switch(place.interface), "0", link=place.interface)
    for address in record.addresses:
        yield Address(place.namespace, place.interface, address)
    for block in plug.driver.onlink(plug.network.record, record):
        yield Route(place.namespace, block, place.interface)


def gateway_plugs(ranked: Sequence[Plug]) -> dict[int, tuple[Plug, IPAddress]]:
    """For each IP version, the endpoint that the default route goes through, and its gateway: one that it can reach."""
    found: dict[int, tuple[Plug, IPAddress]] = {}
    for plug in ranked:
        gateways = plug.driver.gateways(plug.network.record)
        for own in plug.endpoint.addresses:
            reachable = next((gateway for gateway in gateways if gateway in own.network), None)
            if reachable is not None:
                found.setdefault(own.version, (plug, reachable))
    return found


def publishers(ranked: Sequence[Plug]) -> list[Plug]:
    """The endpoints whose ports are published: those that are a way out, since replies leave that way."""
    chosen = {plug.endpoint.id: plug for plug, _ in gateway_plugs(ranked).values()}
    return list(chosen.values())


def unique(resources: Iterable[Resource]) -> list[Resource]:
    """The resources, each once, in order."""
    return list({resource.identity: resource for resource in resources}.values())
