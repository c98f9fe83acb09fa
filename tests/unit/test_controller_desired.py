"""From records to what a sandbox should hold: links, addresses, and for each IP version one way out."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import pytest

from libcnm.contracts.driver import Driver, HostFacts, NetworkView
from libcnm.controller import desired
from libcnm.controller.desired import Plug
from libcnm.drivers.bridge import BridgeDriver
from libcnm.drivers.host import HostDriver
from libcnm.drivers.null import NullDriver
from libcnm.drivers.overlay import OverlayDriver
from libcnm.kernel.resources import Address, FirewallElement, Interface, Namespace, Route, Sysctl, Veth
from libcnm.model.pool import Pool
from libcnm.model.ports import Port
from libcnm.model.records import Attachment, EndpointRecord, NetworkRecord, SandboxRecord

HOST = HostFacts("h1", "tag", "cnm-tag", 8472, vtep=ipaddress.ip_address("192.0.2.11"))


def plug(
    name: str, subnets: Sequence[str] = ("10.1.0.0/24",), *, driver: Driver | None = None, priority: int = 0,
    internal: bool = False, at: int = 5, ports: Sequence[Port] = (), namespace: str = "box",
) -> Plug:  # fmt: skip
    """An endpoint attached as ``<name>0``, with address ``at`` in each subnet; gateways are the first addresses."""
    blocks = [ipaddress.ip_network(subnet) for subnet in subnets]
    pools = tuple(Pool(f"{name}.{i}", "local", block, gateway=block[1]) for i, block in enumerate(blocks))
    kind = driver or BridgeDriver()
    network = NetworkRecord(name * 8, name, kind.name, kind.capabilities.scope, pools, internal=internal, vni=300)
    addresses = tuple(ipaddress.ip_interface((block[at], block.prefixlen)) for block in blocks)
    place = Attachment(
        "h1", "box" * 4, "c1", namespace, f"{name}0", priority=priority, ports=tuple(ports), state="ready"
    )
    endpoint = EndpointRecord(name * 6, name, network.id, addresses, "02:00:00:00:00:05", attachment=place)
    return Plug(kind, NetworkView(network), endpoint)


def facts(_: Driver) -> HostFacts:
    """The same for every driver."""
    return HOST


def ways_out(*plugs: Plug) -> dict[int, tuple[str | None, str]]:
    """By IP version: the interface and the gateway of the default route."""
    routes = [one for one in desired.sandbox(facts, plugs) if isinstance(one, Route) and one.destination.prefixlen == 0]
    return {route.destination.version: (route.link, str(route.via)) for route in routes}


def test_one_endpoint() -> None:
    """A pair, its inner end up, its address, and the way out."""
    found = desired.sandbox(facts, [plug("aa")])
    assert {Veth, Interface, Address, Route} == {type(one) for one in found}
    assert {4: ("aa0", "10.1.0.1")} == ways_out(plug("aa"))


@pytest.mark.parametrize(
    ("plugs", "expected"),
    [
        ([plug("bb", ["10.2.0.0/24"]), plug("aa")], {4: ("aa0", "10.1.0.1")}),
        ([plug("aa"), plug("bb", ["10.2.0.0/24"], priority=1)], {4: ("bb0", "10.2.0.1")}),
        ([plug("aa", priority=-1), plug("bb", ["10.2.0.0/24"])], {4: ("bb0", "10.2.0.1")}),
        ([plug("aa", internal=True, priority=9), plug("bb", ["10.2.0.0/24"])], {4: ("bb0", "10.2.0.1")}),
        ([plug("aa", internal=True)], {}),
        ([plug("aa", driver=OverlayDriver(), priority=9), plug("bb", ["10.2.0.0/24"])], {4: ("bb0", "10.2.0.1")}),
        ([plug("aa", driver=OverlayDriver())], {}),
        ([plug("aa", ["fd01::/64"]), plug("bb", ["10.2.0.0/24"])], {4: ("bb0", "10.2.0.1"), 6: ("aa0", "fd01::1")}),
        (
            [plug("aa", ["10.1.0.0/24", "fd01::/64"]), plug("bb", ["10.2.0.0/24", "fd02::/64"], priority=3)],
            {4: ("bb0", "10.2.0.1"), 6: ("bb0", "fd02::1")},
        ),
        (
            [plug("aa", ["10.1.0.0/24", "fd01::/64"]), plug("bb", ["10.2.0.0/24"], priority=3)],
            {4: ("bb0", "10.2.0.1"), 6: ("aa0", "fd01::1")},
        ),
        ([plug("aa", [], driver=NullDriver(), priority=9)], {}),
    ],
    ids=["by-name", "priority", "negative", "internal-not", "internal-alone", "overlay-not", "overlay-alone",
         "v4-and-v6-apart", "both", "mixed", "null"],
)  # fmt: skip
def test_the_way_out(plugs: list[Plug], expected: dict[int, tuple[str, str]]) -> None:
    """Highest priority, then not internal, then by name; for IPv4 and IPv6 each on its own; in whatever order given."""
    assert expected == ways_out(*plugs) == ways_out(*reversed(plugs))


def test_the_gateway_is_in_the_endpoints_own_subnet() -> None:
    """A network of two subnets, an endpoint in the second: the first's gateway could not be reached."""
    one = plug("aa", ["10.1.0.0/24", "10.2.0.0/24"])
    second = Plug(one.driver, one.network, _with_addresses(one.endpoint, "10.2.0.5/24"))
    assert {4: ("aa0", "10.2.0.1")} == ways_out(second)


def _with_addresses(record: EndpointRecord, *addresses: str) -> EndpointRecord:
    import attrs

    return attrs.evolve(record, addresses=tuple(map(ipaddress.ip_interface, addresses)))


def test_only_the_way_out_publishes() -> None:
    """Replies leave by the default route: ports of an endpoint that does not provide it would not work."""
    port = Port(80, 8080, "tcp", ipaddress.ip_address("127.0.0.1"))
    first, second = (
        plug("aa", ports=[port]),
        plug("bb", ["10.2.0.0/24"], ports=[Port(81, 8081, "tcp", port.host_address)]),
    )
    published = [one for one in desired.sandbox(facts, [first, second]) if isinstance(one, FirewallElement)]
    assert published
    assert any("8080" in str(one) for one in published)
    assert not any("8081" in str(one) for one in published)


def test_internal_networks_publish_nothing() -> None:
    """Nothing leads in, either."""
    port = Port(80, 8080, "tcp", ipaddress.ip_address("127.0.0.1"))
    found = desired.sandbox(facts, [plug("aa", internal=True, ports=[port])])
    assert [] == [one for one in found if isinstance(one, FirewallElement)]


def test_ipv6_is_switched_on_where_it_is_used() -> None:
    """Per interface, and only with an IPv6 address."""
    assert not any(isinstance(one, Sysctl) for one in desired.sandbox(facts, [plug("aa")]))
    assert any(
        isinstance(one, Sysctl) and one.value == "0" for one in desired.sandbox(facts, [plug("aa", ["fd01::/64"])])
    )


def test_the_hosts_own_namespace_is_not_touched() -> None:
    """Networks without addresses want nothing; a sandbox of the host's namespace has no base."""
    assert [] == desired.sandbox(facts, [plug("aa", [], driver=HostDriver(), namespace="")])
    assert [] == list(desired.sandbox_base(SandboxRecord("x", "c1", "", "boot")))


def test_a_brought_namespace_keeps_its_loopback() -> None:
    """What a runtime brings is pinned and nothing more; one of ours gets its loopback up."""
    ours = list(desired.sandbox_base(SandboxRecord("x", "c1", "box", "boot")))
    brought = list(desired.sandbox_base(SandboxRecord("x", "c1", "box", "boot", source="/proc/7/ns/net")))
    assert [Namespace("box"), Interface("box", "lo")] == ours
    assert [Namespace("box", "/proc/7/ns/net")] == brought


def test_overlay_sandboxes_reach_every_subnet_on_link() -> None:
    """All subnets of an overlay are one segment: the other ones are on-link too, those of other families are not."""
    one = plug("aa", ["10.1.0.0/24", "10.2.0.0/24", "fd01::/64"], driver=OverlayDriver())
    only_first = Plug(one.driver, one.network, _with_addresses(one.endpoint, "10.1.0.5/24"))
    routes = [str(route.destination) for route in desired.sandbox(facts, [only_first]) if isinstance(route, Route)]
    assert ["10.2.0.0/24"] == routes
