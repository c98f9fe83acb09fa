"""The built-in drivers as pure functions: what they want for a record, what they refuse before anything is touched."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import attrs
import pytest

from libcnm.contracts.driver import Driver, HostFacts, NetworkView
from libcnm.controller.delta import delta
from libcnm.drivers.bridge import BridgeDriver, bridge_name
from libcnm.drivers.host import HostDriver
from libcnm.drivers.null import NullDriver
from libcnm.drivers.overlay import OverlayDriver, namespace_name
from libcnm.errors import Invalid, NotSupported
from libcnm.kernel.fake import FakeKernel
from libcnm.kernel.resources import Address, Bridge, Fdb, FirewallElement, Neighbour, Sysctl, Veth, Vxlan
from libcnm.model import options
from libcnm.model.pool import Pool
from libcnm.model.ports import Port
from libcnm.model.records import Attachment, EndpointRecord, NetworkRecord
from libcnm.system.clock import ManualClock

DRIVERS: list[Driver] = [BridgeDriver(), OverlayDriver(), NullDriver(), HostDriver()]
VTEP = ipaddress.ip_address("192.0.2.11")
HOST = HostFacts("h1", "tag", "cnm-tag", 8472, vtep=VTEP, underlay_mtu=1500)
ID = "0123456789abcdef" * 4


def network(driver: Driver, subnets: Sequence[str] = (), **fields: object) -> NetworkRecord:
    blocks = [ipaddress.ip_network(subnet) for subnet in subnets]
    pools = tuple(Pool(f"{ID}.{i}", "local", block, gateway=block[1]) for i, block in enumerate(blocks))
    record = NetworkRecord(ID, "blue", driver.name, driver.capabilities.scope, pools, vni=300)
    return attrs.evolve(record, **fields)  # type: ignore[arg-type]  # fields of a record


def endpoint(host: str = "h1", vtep: str | None = "192.0.2.11", ports: Sequence[Port] = ()) -> EndpointRecord:
    at = None if vtep is None else ipaddress.ip_address(vtep)
    place = Attachment(host, "b" * 64, "c1", "b" * 12, "eth0", vtep=at, ports=tuple(ports), state="ready")
    addresses = tuple(map(ipaddress.ip_interface, ("10.1.0.5/24", "fd01::5/64")))
    return EndpointRecord("e" * 64, "web", ID, addresses, "02:42:0a:01:00:05", attachment=place)


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
def test_a_driver_is_a_pure_function(driver: Driver) -> None:
    """Asked twice it answers equally, and every answer is a consistent set."""
    record = network(driver, ("10.1.0.0/24", "fd01::/64") if driver.capabilities.addresses else ())
    view = NetworkView(record)
    for _ in range(2):
        driver.check_network(HOST, record)
        driver.check_endpoint(HOST, record, endpoint())
        first = [*driver.network(HOST, view), *driver.endpoint(HOST, view, endpoint())]
        assert first == [*driver.network(HOST, view), *driver.endpoint(HOST, view, endpoint())]
        assert len(first) == len({one.identity for one in first})


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
def test_unknown_options_are_refused(driver: Driver) -> None:
    """By name, with those that are known."""
    with pytest.raises(Invalid, match="no\\.such"):
        driver.check_network(HOST, network(driver, options={"no.such": "1"}))
    with pytest.raises(Invalid, match="no\\.such"):
        driver.check_endpoint(HOST, network(driver), attrs.evolve(endpoint(), options={"no.such": "1"}))


@pytest.mark.parametrize("driver", [NullDriver(), HostDriver()], ids=lambda driver: driver.name)
def test_null_and_host_want_nothing(driver: Driver) -> None:
    """Nothing in the kernel, no way out, nothing published."""
    view = NetworkView(network(driver))
    assert [] == [
        *driver.network(HOST, view),
        *driver.endpoint(HOST, view, endpoint()),
        *driver.base(HOST, frozenset()),
    ]
    assert () == driver.gateways(view.record)


# -- bridge ------------------------------------------------------------------------------------------------------------


def of(kind: type, resources: Sequence[object]) -> list[object]:
    return [one for one in resources if isinstance(one, kind)]


def test_a_bridge_network() -> None:
    """A bridge named for its id, its gateway addresses, IPv6 on only if it has a subnet of that family."""
    driver = BridgeDriver()
    record = network(driver, ["10.1.0.0/24", "fd01::/64"])
    found = list(driver.network(HOST, NetworkView(record)))
    (bridge,) = of(Bridge, found)
    assert isinstance(bridge, Bridge)
    assert ("br-0123456789ab", 1500, "02:42:0a:01:00:01") == (bridge.name, bridge.mtu, bridge.mac)
    assert ["10.1.0.1/24", "fd01::1/64"] == [str(one.address) for one in found if isinstance(one, Address)]
    only_v4 = list(driver.network(HOST, NetworkView(network(driver, ["10.1.0.0/24"]))))
    switches = [one for one in (*found, *only_v4) if isinstance(one, Sysctl) and one.key.endswith("disable_ipv6")]
    assert ["0", "1"] == [one.value for one in switches]


def test_bridge_options() -> None:
    """Docker's labels, with Docker's values; those that cannot be are refused before anything is made."""
    driver = BridgeDriver()
    record = network(driver, ["10.1.0.0/24"], options={options.MTU: "1400", options.INTERFACE_PREFIX: "net"})
    (bridge,) = of(Bridge, list(driver.network(HOST, NetworkView(record))))
    assert isinstance(bridge, Bridge)
    assert (1400, "net") == (bridge.mtu, driver.interface_prefix(record))
    for label, value in ((options.MTU, "1"), (options.BRIDGE_ICC, "maybe"), (options.BRIDGE_HOST_BINDING, "fd00::1")):
        with pytest.raises(Invalid, match="options"):
            driver.check_network(HOST, network(driver, options={label: value}))
    with pytest.raises(Invalid, match="1280"):
        driver.check_network(HOST, network(driver, ["fd01::/64"], options={options.MTU: "1000"}))


def test_a_published_port_is_one_element_per_family() -> None:
    """Of the address families that endpoint and host address share; nothing on internal networks."""
    driver = BridgeDriver()
    ports = [Port(80, 8080, "tcp", ipaddress.ip_address(ip)) for ip in ("127.0.0.1", "::1")]
    view = NetworkView(network(driver, ["10.1.0.0/24", "fd01::/64"]))
    v4, v6 = ({one.identity for one in driver.publication(HOST, view, endpoint(ports=[port]))} for port in ports)
    assert v4
    assert v6
    assert not v4 & v6
    internal = NetworkView(attrs.evolve(view.record, internal=True))
    assert [] == list(driver.publication(HOST, internal, endpoint(ports=ports)))
    assert () == driver.gateways(internal.record)


def test_hairpin_only_with_ports() -> None:
    """A container reaches its own published port through its own bridge port; others need no such door."""
    driver = BridgeDriver()
    view = NetworkView(network(driver, ["10.1.0.0/24"]))
    port = Port(80, 8080, "tcp", ipaddress.ip_address("127.0.0.1"))
    pairs = [next(iter(of(Veth, list(driver.endpoint(HOST, view, endpoint(ports=ports)))))) for ports in ((), (port,))]
    assert [False, True] == [pair.hairpin for pair in pairs if isinstance(pair, Veth)]


def test_without_icc_the_bridge_keeps_its_ports_apart() -> None:
    """``enable_icc=false`` is a setting of each port, so that it holds without a firewall; true is what nobody asked
    for.
    """
    driver = BridgeDriver()
    for value, isolated in (("false", True), ("true", False), (None, False)):
        chosen = {} if value is None else {options.BRIDGE_ICC: value}
        view = NetworkView(network(driver, ["10.1.0.0/24"], options=chosen))
        (pair,) = of(Veth, list(driver.endpoint(HOST, view, endpoint())))
        assert isinstance(pair, Veth)
        assert isolated == pair.isolated


def test_networks_are_isolated_by_elements_not_by_pairs() -> None:
    """What a network adds to the firewall does not depend on how many others there are."""
    driver = BridgeDriver()
    found = of(FirewallElement, list(driver.network(HOST, NetworkView(network(driver, ["10.1.0.0/24"])))))
    assert 0 < len(found) < 12
    assert bridge_name(network(driver)) in str(found)


# -- overlay -----------------------------------------------------------------------------------------------------------


def test_an_overlay_network() -> None:
    """A namespace named for epoch and id, in it a bridge and a VXLAN device with the network's number and our VTEP."""
    driver = OverlayDriver()
    view = NetworkView(network(driver, ["10.1.0.0/24", "fd01::/64"]), epoch=7)
    found = list(driver.network(HOST, view))
    (vxlan,) = of(Vxlan, found)
    assert isinstance(vxlan, Vxlan)
    assert ("7-0123456789", 300, VTEP, 1450, "br0") == (vxlan.ns, vxlan.vni, vxlan.local, vxlan.mtu, vxlan.master)
    assert {"7-0123456789"} == {one.identity[1] for one in found if one.kind != "namespace"}
    assert "7-0123456789" == namespace_name(view)


@pytest.mark.parametrize(("underlay", "vtep", "mtu"), [(1500, "192.0.2.11", 1450), (1500, "2001:db8::1", 1430),
                                                       (9000, "192.0.2.11", 8950)])  # fmt: skip
def test_the_mtu_leaves_room_for_the_encapsulation(underlay: int, vtep: str, mtu: int) -> None:
    """50 octets over IPv4, 70 over IPv6; on the bridge, the device and the sandbox's end alike."""
    driver, host = OverlayDriver(), attrs.evolve(HOST, vtep=ipaddress.ip_address(vtep), underlay_mtu=underlay)
    view = NetworkView(network(driver, ["10.1.0.0/24"]))
    links = [*driver.network(host, view), *driver.endpoint(host, view, endpoint())]
    assert {mtu} == {one.mtu for one in links if isinstance(one, Bridge | Vxlan | Veth)}


def test_an_mtu_that_cannot_fit() -> None:
    """Refused with the arithmetic; below IPv6's minimum as well."""
    driver = OverlayDriver()
    with pytest.raises(Invalid, match="1500 - VXLAN over IPv4 50 = 1450"):
        driver.check_network(HOST, network(driver, options={options.MTU: "1451"}))
    with pytest.raises(Invalid, match="1280"):
        driver.check_network(HOST, network(driver, ["fd01::/64"], options={options.MTU: "1279"}))


def test_a_remote_endpoint_is_static_rows() -> None:
    """One forwarding row and a neighbour row for each address, pointing at its host; none for this host's own."""
    driver = OverlayDriver()
    view = NetworkView(network(driver, ["10.1.0.0/24", "fd01::/64"]))
    remote = endpoint("h2", "192.0.2.12")
    mac, far = "02:42:0a:01:00:05", ipaddress.ip_address("192.0.2.12")
    rows = list(driver.peer(HOST, view, remote))
    assert Fdb("1-0123456789", "vxlan1", mac, far) in rows
    assert {"10.1.0.5", "fd01::5"} == {str(row.address) for row in rows if isinstance(row, Neighbour)}
    assert [] == list(driver.peer(HOST, view, endpoint("h1", "192.0.2.11")))
    assert [] == list(driver.peer(HOST, view, endpoint("h3", None)))
    assert [] == list(driver.peer(HOST, view, attrs.evolve(remote, attachment=None)))


def test_encryption_is_not_pretended() -> None:
    """Plain text under the name of encryption is worse than an error. Who says "false" has not asked for any."""
    for value in ("", "true", "1"):
        with pytest.raises(NotSupported, match="encryption"):
            OverlayDriver().check_network(HOST, network(OverlayDriver(), options={options.OVERLAY_ENCRYPTED: value}))
    OverlayDriver().check_network(HOST, network(OverlayDriver(), options={options.OVERLAY_ENCRYPTED: "false"}))
    with pytest.raises(Invalid, match="boolean"):
        OverlayDriver().check_network(HOST, network(OverlayDriver(), options={options.OVERLAY_ENCRYPTED: "maybe"}))


def test_without_a_vtep_there_is_no_overlay() -> None:
    """And the error says which argument is missing."""
    driver, nowhere = OverlayDriver(), attrs.evolve(HOST, vtep=None)
    with pytest.raises(Invalid, match="advertise"):
        list(driver.network(nowhere, NetworkView(network(driver, ["10.1.0.0/24"]))))


@pytest.mark.parametrize("driver", [BridgeDriver(), OverlayDriver()], ids=lambda driver: driver.name)
def test_the_kernel_takes_what_drivers_want(driver: Driver) -> None:
    """Network and endpoint are made and removed on the fake without one refusal."""
    from libcnm.controller.desired import Plug, sandbox
    from libcnm.kernel.resources import Namespace

    view = NetworkView(network(driver, ["10.1.0.0/24", "fd01::/64"]))
    wanted = [*driver.base(HOST, frozenset((4, 6))), *driver.network(HOST, view), Namespace("b" * 12)]
    wanted += sandbox(lambda _: HOST, [Plug(driver, view, endpoint())])
    kernel = FakeKernel()
    for changes in (delta((), wanted), delta(wanted, ())):
        outcomes = kernel.apply(changes, deadline=ManualClock(tick=0.0001).deadline(60))
        assert [] == [outcome for outcome in outcomes if outcome is not None]
