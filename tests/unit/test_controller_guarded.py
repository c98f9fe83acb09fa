"""Somebody else's driver, with a resource kind of its own: planned, healed, and no danger to anything but itself."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import attrs
import pytest

from libcnm.contracts.driver import Capabilities, Driver, HostFacts, NetworkView
from libcnm.contracts.ipam import PoolGrant, PoolRequest
from libcnm.controller.controller import Controller
from libcnm.controller.guarded import GuardedDriver
from libcnm.controller.registry import Registry
from libcnm.errors import DriverError, Forbidden, KernelError
from libcnm.ipam.null import NullIpam
from libcnm.kernel.resources import Bridge, Veth
from libcnm.kv.base import Store
from libcnm.model.deadline import Deadline
from libcnm.model.pool import Pool
from libcnm.model.records import EndpointRecord, NetworkRecord
from libcnm.model.resource import Change, Identity, Observed, Resource
from libcnm.testing.world import FakeHost, half_done

HOST = HostFacts("one", "tag", "cnm-tag", 8472)
NETWORK = NetworkRecord("a" * 64, "net", "switch", "local")
ENDPOINT = EndpointRecord("e" * 64, "a", "a" * 64)
VIEW = NetworkView(NETWORK)


@attrs.frozen
class Port(Resource):
    """A port of a switch that the kernel knows nothing of."""

    kind: ClassVar[str] = "switch-port"
    name: str
    after: str = ""

    @property
    def identity(self) -> Identity:
        return (self.kind, "", self.name)

    @property
    def needs(self) -> tuple[Identity, ...]:
        return ((self.kind, "", self.after),) if self.after else ()


class Switch:
    """The door to it: what it has, and how often it was changed."""

    def __init__(self) -> None:
        self.ports: dict[Identity, Resource] = {}
        self.asked = 0

    def apply(self, changes: Sequence[Change], *, deadline: Deadline) -> tuple[KernelError | None, ...]:
        self.asked += 1
        return tuple(self._apply(change) for change in changes)

    def _apply(self, change: Change) -> KernelError | None:
        identity = change.resource.identity
        if change.operation == "delete":
            return None if self.ports.pop(identity, None) else KernelError(errno.ENOENT, str(change))
        self.ports[identity] = change.resource
        return None

    def read_one(self, resource: Resource, *, deadline: Deadline) -> Observed | None:
        found = self.ports.get(resource.identity)
        return None if found is None else Observed(found, ours=True)


class SwitchDriver(Driver):
    """A bridge, a pair, and a port of the switch for each endpoint. ``broken`` names what fails."""

    name: ClassVar[str] = "switch"

    def __init__(self) -> None:
        self.switch = Switch()
        self.broken = ""

    def network(self, host: HostFacts, network: NetworkView) -> Iterator[Resource]:
        self._fail("network")
        yield Bridge("", "sw0", "02:00:00:00:00:01")

    def endpoint(self, host: HostFacts, network: NetworkView, endpoint: EndpointRecord) -> Iterator[Resource]:
        self._fail("endpoint")
        place = endpoint.attachment
        assert place is not None
        name = f"sw-{endpoint.id[:12]}"
        yield Veth("", name, "02:00:00:00:00:02", place.namespace, place.interface, endpoint.mac, master="sw0")
        yield Port(name)

    def doors(self) -> Mapping[type[Resource], Switch]:
        return {Port: self.switch}

    def _fail(self, what: str) -> None:
        if what == self.broken:
            raise ZeroDivisionError(what)


@pytest.fixture
def driver() -> SwitchDriver:
    return SwitchDriver()


@pytest.fixture
def cnm(host: FakeHost, driver: SwitchDriver) -> Iterator[Controller]:
    with opened(host, driver) as controller:
        yield controller


def opened(host: FakeHost, driver: Driver) -> Controller:
    return host.controller(registry=Registry({"switch": driver}))


def attach(cnm: Controller) -> object:
    box = cnm.create_sandbox("c1")
    return cnm.create_network("net", "switch", subnets=["10.1.0.0/24"]).create_endpoint("a").join(box)


# -- its own kind ------------------------------------------------------------------------------------------------------


def test_its_resources_are_made_healed_and_removed(cnm: Controller, driver: SwitchDriver) -> None:
    """Through its own door, as ours are through the kernel's."""
    attach(cnm)
    made = dict(driver.switch.ports)
    assert ["switch-port"] == [resource.kind for resource in made.values()]
    driver.switch.ports.clear()
    assert ["missing"] == [row.problem for row in cnm.doctor()]
    cnm.heal()
    assert made == driver.switch.ports
    cnm.sandbox("c1").delete()
    assert {} == driver.switch.ports


def test_a_plan_tells_of_them_and_leaves_them_alone(cnm: Controller, driver: SwitchDriver) -> None:
    """A dry run changes nothing outside, whoever's outside it is; and what there is, it sees."""
    plan = cnm.plan(attach)
    assert "+ switch-port host sw-" in str(plan)
    assert (0, {}) == (driver.switch.asked, driver.switch.ports)
    attach(cnm)
    asked = driver.switch.asked
    plan = cnm.plan(lambda dry: dry.sandbox("c1").delete())
    assert "- switch-port host sw-" in str(plan)
    assert asked == driver.switch.asked
    assert () == cnm.plan(lambda dry: dry.heal()).changes


# -- failing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["network", "endpoint"])
def test_a_driver_that_fails_leaves_nothing_behind(
    cnm: Controller, host: FakeHost, driver: SwitchDriver, what: str
) -> None:
    """Its failure is a DriverError with the cause; the verb is undone as after any refusal."""
    there = cnm.create_network("there", "switch", subnets=["10.1.0.0/24"])
    endpoint, box = there.create_endpoint("a"), cnm.create_sandbox("c1")
    driver.broken = what
    verbs: dict[str, Callable[[], object]] = {
        "network": lambda: cnm.create_network("new", "switch", subnets=["10.2.0.0/24"]),
        "endpoint": lambda: endpoint.join(box),
    }
    error = host.refuses(DriverError, verbs[what])
    assert f"driver 'switch': {what} failed" in str(error)
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert [] == half_done(cnm)


def test_a_driver_that_fails_costs_its_own_networks_only(cnm: Controller, host: FakeHost, driver: SwitchDriver) -> None:
    """What it cannot take away stays half-done; opening, other networks and healing go on; mended, it is finished."""
    attach(cnm)
    driver.broken = "endpoint"
    with pytest.raises(DriverError):
        cnm.network("net").endpoint("a").leave()
    assert ["leave"] == half_done(cnm)
    with opened(host, driver) as another:
        box = another.create_sandbox("c2")
        another.create_network("other", subnets=["10.2.0.0/24"]).create_endpoint("b").join(box)
        another.heal()
        box.delete()
        assert ["leave"] == half_done(another)
    driver.broken = ""
    with opened(host, driver) as mended:
        assert [] == half_done(mended)
        assert [] == mended.doctor()
        assert {} == driver.switch.ports


class Odd(SwitchDriver):
    """A driver whose next answer, whatever it is asked, is this."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def network(self, host: HostFacts, network: NetworkView) -> Any:
        return self.answer

    def gateways(self, network: NetworkRecord) -> Any:
        return self.answer

    def own_macs(self, network: NetworkRecord) -> Any:
        return self.answer

    def onlink(self, network: NetworkRecord, endpoint: EndpointRecord) -> Any:
        return self.answer

    def interface_prefix(self, network: NetworkRecord) -> Any:
        return self.answer

    def doors(self) -> Any:
        return self.answer if isinstance(self.answer, dict) else super().doors()


def asked(answer: Any, method: Callable[[GuardedDriver], object]) -> str:
    guarded = GuardedDriver(Odd(answer), "odd", distribution="theirs")
    with pytest.raises(DriverError) as raised:
        method(guarded)
    assert ("odd", "theirs") == (raised.value.driver, raised.value.distribution)
    return raised.value.reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "network failed"),
        ([7], "which is no Resource"),
        ([Bridge("", "b", "02:00:00:00:00:01"), Bridge("", "b", "02:00:00:00:00:02")], "two different resources"),
        ([Port("a", after="b"), Port("b", after="a")], "need each other"),
        ([attrs.make_class("Stray", [], bases=(Resource,))()], "has no identity"),
    ],
    ids=["nothing", "a-number", "two-of-one-name", "a-circle", "no-identity"],
)
def test_resources_that_are_none(answer: Iterable[object], reason: str) -> None:
    """Found out where they are given, before anything is touched with them."""
    assert reason in asked(answer, lambda driver: driver.network(HOST, VIEW))


def test_a_kind_without_a_door() -> None:
    """Named with what is missing: the kernel would only say that it is not supported."""

    class Homeless(SwitchDriver):
        def network(self, host: HostFacts, network: NetworkView) -> Iterator[Resource]:
            yield Port("p")

        def doors(self) -> Mapping[type[Resource], Switch]:
            return {}

    with pytest.raises(DriverError, match=r"gave a Port, and doors\(\) has no door"):
        GuardedDriver(Homeless(), "odd").network(HOST, VIEW)


@pytest.mark.parametrize(
    "method",
    [
        lambda driver: driver.gateways(NETWORK),
        lambda driver: driver.own_macs(NETWORK),
        lambda driver: driver.onlink(NETWORK, ENDPOINT),
        lambda driver: driver.interface_prefix(NETWORK),
    ],
    ids=["gateways", "own_macs", "onlink", "interface_prefix"],
)
@pytest.mark.parametrize("answer", [None, [7], {7: 7}], ids=["nothing", "numbers", "table"])
def test_facts_of_another_type(answer: object, method: Callable[[GuardedDriver], object]) -> None:
    """The same for what the controller asks beside resources."""
    asked(answer, method)


@pytest.mark.parametrize("kind", [Bridge, int, "Port"], ids=["ours", "no-resource", "no-type"])
def test_a_door_for_what_is_not_its_own(kind: object) -> None:
    """A driver that answered for bridges would have every network's."""
    assert "no resource kind of its own" in asked({kind: Switch()}, lambda driver: driver.doors())


def test_capabilities_that_are_none() -> None:
    """Said when it is loaded."""
    odd = SwitchDriver()
    odd.capabilities = "local"  # type: ignore[assignment, misc]
    with pytest.raises(DriverError, match="which is no Capabilities"):
        GuardedDriver(odd, "odd")


@pytest.mark.parametrize("outcomes", [(), (None, None), (7,), None], ids=["few", "many", "numbers", "nothing"])
def test_a_door_that_does_not_say_what_it_did(outcomes: object) -> None:
    """One outcome for each change, or nobody knows what is to be undone."""

    class Vague(Switch):
        def apply(self, changes: Sequence[Change], *, deadline: Deadline) -> Any:
            return outcomes

        def read_one(self, resource: Resource, *, deadline: Deadline) -> Any:
            return "there"

    door = GuardedDriver(Odd({Port: Vague()}), "odd").doors()[Port]
    within = Deadline.after(60, lambda: 0.0)
    with pytest.raises(DriverError, match="apply"):
        door.apply((Change("add", Port("p")),), deadline=within)
    with pytest.raises(DriverError, match="read_one"):
        door.read_one(Port("p"), deadline=within)


class Careless(NullIpam):
    """An IPAM that cannot give back what it has given."""

    broken = True

    def request_pools(self, store: Store, requests: Sequence[PoolRequest], *, deadline: Deadline) -> PoolGrant:
        wanted = [(one, one.subnet.pool) for one in requests]
        return PoolGrant(tuple(Pool(one.space, str(one.index), block) for one, block in wanted if block is not None))

    def purge(self, store: Store, pools: Sequence[Pool], *, deadline: Deadline) -> None:
        if self.broken:
            raise LookupError("lost")


class Silent(NullIpam):
    """One that answers nothing."""

    def request_pools(self, store: Store, requests: Sequence[PoolRequest], *, deadline: Deadline) -> Any:
        return None


def test_an_ipam_that_fails_costs_its_own_networks_only(host: FakeHost) -> None:
    """What it raises or answers is a DriverError; what it has kept from being deleted is, once it is mended."""
    ipam = Careless()
    registry = Registry(ipams={"careless": ipam, "silent": Silent()})
    with host.controller(registry=registry) as cnm:
        error = host.refuses(DriverError, lambda: cnm.create_network("net", ipam_driver="silent"))
        assert "'silent': request_pools gave None" in str(error)
        network = cnm.create_network("net", ipam_driver="careless", subnets=["10.1.0.0/24"])
        with pytest.raises(DriverError, match=r"'careless': purge failed: LookupError\('lost'\)"):
            network.delete()
    with host.controller(registry=registry) as cnm:
        cnm.create_network("other").delete()
        assert ["delete_network"] == half_done(cnm)
        ipam.broken = False
        cnm.heal()
        assert ([], []) == (half_done(cnm), cnm.networks())


def test_its_own_refusals_pass() -> None:
    """An error of ours is an answer; and what is right passes as it is."""

    class Refusing(SwitchDriver):
        capabilities: ClassVar[Capabilities] = Capabilities(gateway=False)

        def check_network(self, host: HostFacts, network: NetworkRecord) -> None:
            raise Forbidden("not today")

        def gateways(self, network: NetworkRecord) -> tuple[ipaddress.IPv4Address, ...]:
            return (ipaddress.IPv4Address("10.1.0.1"),)

    guarded = GuardedDriver(Refusing(), "refusing")
    with pytest.raises(Forbidden, match="not today"):
        guarded.check_network(HOST, NETWORK)
    assert (ipaddress.IPv4Address("10.1.0.1"),) == guarded.gateways(NETWORK)
    assert ("refusing", Capabilities(gateway=False)) == (guarded.name, guarded.capabilities)
    assert (Bridge("", "sw0", "02:00:00:00:00:01"),) == guarded.network(HOST, VIEW)
