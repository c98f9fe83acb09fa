"""What the fake kernel promises beyond the door's contract: crash points, vandals, forks, and Linux's finer points.

That it behaves like Linux at all is tested in tests/conformance (test_kernel.py, test_kernel_differential.py).
"""

from __future__ import annotations

import copy
import ipaddress
import socket
import threading

import attrs
import pytest
from hypothesis import given, settings

from libcnm.errors import KernelError, NotFound, NotSupported
from libcnm.kernel.base import KernelEvent
from libcnm.kernel.fake import FakeKernel, Uplink
from libcnm.kernel.resources import (
    Address,
    Bridge,
    FirewallTable,
    Interface,
    Namespace,
    Route,
    Sysctl,
    Veth,
    Vxlan,
)
from libcnm.model import limits
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Change, Resource
from libcnm.testing import strategies
from libcnm.testing.kernel import Bench, FakeHand, address, bridge, ip, network, pair, vxlan

NEVER = Deadline(at=1.0, budget=1.0, now=lambda: 0.0)


class Crash(Exception):
    """The process ends here."""


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


@pytest.fixture
def bench(kernel: FakeKernel) -> Bench:
    return Bench(kernel, FakeHand(kernel))


def added(*resources: Resource) -> list[Change]:
    return [Change("add", resource) for resource in resources]


def is_ipv6(resource: Resource) -> bool:
    return isinstance(resource, Address) and resource.address.version == 6


class TestEffects:
    """Every single change is an effect; what has happened at a crash is exactly what was announced."""

    def test_each_change_is_announced_by_itself(self, bench: Bench, kernel: FakeKernel) -> None:
        """Before and after, in order, with the change's own words; refused ones too."""
        told: list[tuple[str, str]] = []
        kernel.on_effect = lambda name, when: told.append((name, when))
        bench.errnos("add", bridge(), bridge())
        one = ("+ link host b1", "before"), ("+ link host b1", "after")
        assert [*one, *one] == told

    @pytest.mark.parametrize("point", range(9))
    @pytest.mark.parametrize("side", ["before", "after"])
    def test_a_crash_leaves_what_was_done(self, bench: Bench, kernel: FakeKernel, point: int, side: str) -> None:
        """The exception reaches the caller, and the state is that of the changes announced as done."""
        steps = added(*bench.small_network())
        assert 9 == len(steps)
        reached = iter(range(100))

        def crash(_name: str, when: str) -> None:
            if when == side and next(reached) == point:
                raise Crash

        kernel.on_effect = crash
        with pytest.raises(Crash):
            kernel.apply(steps, deadline=NEVER)
        twin = FakeKernel()
        twin.apply(steps[: point + (side == "after")], deadline=NEVER)
        assert twin.snapshot() == kernel.snapshot()

    def test_a_pause_in_a_hook_stops_nobody_else(self, bench: Bench, kernel: FakeKernel) -> None:
        """Another thread works on while one stands at an effect."""
        at_it, go_on = threading.Event(), threading.Event()

        def pause(name: str, when: str) -> None:
            if when == "before" and "b1" in name:
                at_it.set()
                assert go_on.wait(10.0)

        kernel.on_effect = pause
        paused = bench.in_background(lambda: bench.add(bridge("b1")))
        assert at_it.wait(10.0)
        bench.add(bridge("b2"))
        assert ["b2"] == [one.name for one in bench.read(Bridge)]
        go_on.set()
        paused.result(timeout=10.0)
        assert {"b1", "b2"} == {one.name for one in bench.read(Bridge)}

    def test_a_hook_may_vandalise(self, bench: Bench, kernel: FakeKernel) -> None:
        """A test can let others act between two changes of one batch."""

        def delete(name: str, when: str) -> None:
            if when == "after" and name == "+ link host b1":
                kernel.vandalise_delete(("link", "", "b1"))

        kernel.on_effect = delete
        assert ["-", "ENODEV"] == bench.errnos("add", bridge(), address("b1", "10.0.0.1/24"))


class TestState:
    """Snapshots compare, forks are independent, and nothing depends on chance."""

    @settings(max_examples=50)
    @given(sequence=strategies.change_sequences())
    def test_it_is_deterministic(self, sequence: list[Change]) -> None:
        """The same changes give the same outcomes, inodes and snapshots."""
        outcomes = []
        for _ in range(2):
            kernel = FakeKernel()
            refused = [str(error) for error in kernel.apply(sequence, deadline=NEVER)]
            outcomes.append((refused, kernel.snapshot(), kernel.namespace("s1"), kernel.boot_id))
        assert outcomes[0] == outcomes[1]

    @settings(max_examples=50)
    @given(before=strategies.change_sequences(8), after=strategies.change_sequences(8))
    def test_a_fork_goes_its_own_way(self, before: list[Change], after: list[Change]) -> None:
        """What happens to one is not seen by the other, and both would have gone on alike."""
        kernel = FakeKernel()
        kernel.apply(before, deadline=NEVER)
        twin, kept = copy.deepcopy(kernel), kernel.snapshot()
        twin.apply(after, deadline=NEVER)
        assert kept == kernel.snapshot()
        kernel.apply(after, deadline=NEVER)
        assert twin.snapshot() == kernel.snapshot()

    @settings(max_examples=100)
    @given(sequence=strategies.change_sequences())
    def test_nothing_dangles(self, sequence: list[Change]) -> None:
        """Whatever was tried: what is read has its namespace and link, and deleting it all leaves the first state.

        But for the host's IPv6 addresses once IPv6 was switched off there: no deletion brings them back, nor on Linux.
        """
        kernel = FakeKernel()
        first = kernel.everything()
        kernel.apply(sequence, deadline=NEVER)
        for one in kernel.everything():
            if isinstance(one.resource, Address):
                assert one.resource.link in kernel.statistics(one.resource.ns)
        kernel.apply([Change("delete", one.resource) for one in kernel.everything() if one.ours], deadline=NEVER)
        kernel.sweep()
        kernel.apply([Change("delete", one.resource) for one in kernel.everything() if one.ours], deadline=NEVER)
        touched = (change.resource for change in sequence)
        switched = any(isinstance(one, Sysctl) and one.ns == "" and "disable_ipv6" in one.key for one in touched)
        kept = [one for one in first if not (switched and is_ipv6(one.resource))]
        there = [one for one in kernel.everything() if not (switched and is_ipv6(one.resource))]
        assert kept == there

    def test_undone_is_as_before(self, bench: Bench, kernel: FakeKernel) -> None:
        """A snapshot forgets counters: after undo and sweep it is the first one."""
        first, steps = kernel.snapshot(), added(*bench.small_network())
        kernel.apply(steps, deadline=NEVER)
        assert first != kernel.snapshot()
        kernel.apply([step.reversed() for step in reversed(steps)], deadline=NEVER)
        kernel.sweep()
        assert first == kernel.snapshot()

    def test_what_waits_for_the_sweep_is_in_the_snapshot(self, bench: Bench, kernel: FakeKernel) -> None:
        """A forgotten sweep shows as a difference."""
        first = kernel.snapshot()
        bench.add(bridge())
        bench.delete(bridge())
        assert first != kernel.snapshot()
        kernel.sweep()
        assert first == kernel.snapshot()


class TestVandals:
    """What other people do to a host."""

    def test_anything_can_be_deleted(self, bench: Bench, kernel: FakeKernel) -> None:
        """By identity, whosever it is; a second time it is not found."""
        bench.add(*bench.small_network())
        for one in reversed(kernel.everything()):
            identity = one.resource.identity
            if any(identity == left.resource.identity for left in kernel.everything()):
                kernel.vandalise_delete(identity)
        assert () == kernel.everything()
        with pytest.raises(NotFound):
            kernel.vandalise_delete(("link", "", "b1"))

    def test_the_kernel_refuses_vandals_too(self, kernel: FakeKernel) -> None:
        """The law is the same for everybody."""
        with pytest.raises(KernelError):
            kernel.vandalise_add(address("absent", "10.0.0.1/24"))

    def test_a_link_can_be_set_down(self, bench: Bench, kernel: FakeKernel) -> None:
        """It stays ours and is read as down; a change puts it right."""
        bench.add(bridge(), address("b1", "10.0.0.1/24"))
        kernel.vandalise_change(attrs.evolve(bridge(), up=False))
        down = attrs.evolve(bridge(), up=False)
        assert [down] == bench.read(Bridge)
        bench.change(down, bridge())
        assert [bridge()] == bench.read(Bridge)

    def test_an_older_table_is_replaced(self, bench: Bench, kernel: FakeKernel) -> None:
        """A table of another version is not in the way of ours."""
        bench.add(bench.table())
        kernel.vandalise_table(attrs.evolve(bench.table(), version="older"))
        assert ["older"] == [one.version for one in bench.read(FirewallTable)]
        bench.add(bench.table())
        assert [bench.table()] == bench.read(FirewallTable)

    def test_a_reboot_leaves_nothing_but_uplinks(self, bench: Bench, kernel: FakeKernel) -> None:
        """Another boot id, no namespaces, no links of ours; who followed is told to look at everything."""
        first, boot, events = kernel.snapshot(), kernel.boot_id, kernel.events()
        bench.add(*bench.small_network(), bench.table(), Sysctl("", "net/ipv4/ip_forward", "1"))
        remembered = kernel.namespace("s1")
        events.follow({""})
        kernel.reboot()
        assert first == kernel.snapshot()
        assert boot != kernel.boot_id
        assert (KernelEvent("", "lost"),) == events.next(0.0)
        bench.add(Namespace("s1"))
        assert remembered != kernel.namespace("s1")

    def test_a_brought_namespace_can_vanish(self, bench: Bench, kernel: FakeKernel) -> None:
        """Its owner lets go: our pin keeps it alive until we let go, too."""
        path = "/proc/4242/ns/net"
        identity = kernel.make_foreign_namespace(path)
        bench.add(Namespace("s1", source=path), bridge(ns="s1"))
        kernel.remove_foreign_namespace(path)
        assert (identity, [bridge(ns="s1")]) == (kernel.namespace("s1"), bench.read(Bridge, "s1"))
        bench.delete(Namespace("s1"))
        assert "ENOENT" == bench.errno("add", Namespace("s1", source=path))

    def test_sockets_and_processes_are_refused(self, kernel: FakeKernel) -> None:
        """Either would be the real host's."""
        with pytest.raises(NotSupported):
            kernel.open_socket("", socket.AF_INET, socket.SOCK_DGRAM)
        with pytest.raises(NotSupported):
            kernel.spawn(["true"], "", files={}, options={})


class TestHost:
    """Uplinks are the host's own."""

    def test_uplinks_are_what_the_host_reaches(self) -> None:
        """Blocks on-link and by route, addresses best VTEP first, the MTU of the way."""
        kernel = FakeKernel(
            uplinks=(
                Uplink("lan0", ("198.51.100.7/24",), gateway=None),
                Uplink("wan0", ("203.0.113.7/24",), 9000, "203.0.113.1"),
            )
        )
        assert {network("198.51.100.0/24"), network("203.0.113.0/24")} == {one.block for one in kernel.host_networks()}
        assert (ip("203.0.113.7"), ip("198.51.100.7")) == kernel.local_addresses()
        assert (1500, 9000) == (kernel.mtu_towards(ip("198.51.100.9")), kernel.mtu_towards(ip("192.0.2.1")))

    def test_a_host_may_be_alone(self) -> None:
        """Without uplinks there is no way anywhere."""
        kernel = FakeKernel(uplinks=())
        assert ((), ()) == (kernel.host_networks(), kernel.local_addresses())
        with pytest.raises(NotFound):
            kernel.mtu_towards(ip("192.0.2.1"))


class TestLaw:
    """Finer points of Linux that random sequences meet rarely."""

    def test_a_bridge_has_1023_ports(self, bench: Bench) -> None:
        """The next one is EXFULL and leaves no pair."""
        ports = [
            Veth("", f"p{n}", "02:00:00:00:09:01", "", f"q{n}", "02:00:00:00:09:02", master="b1")
            for n in range(limits.BRIDGE_PORTS + 1)
        ]
        bench.add(bridge(), *ports[:-1])
        assert "EXFULL" == bench.errno("add", ports[-1])
        assert limits.BRIDGE_PORTS == len(bench.read(Veth))

    def test_a_loose_bridge_follows_its_ports(self, bench: Bench) -> None:
        """1,500 until a smaller port comes, 1,500 again without it; an MTU that was set stays."""
        bench.add(Namespace("s1"), bridge(), bridge("b2", mtu=1450))
        for master, expected in (("b1", (1400, 1500)), ("b2", (1450, 1450))):
            port = attrs.evolve(pair(master=master)[0], mtu=1400)
            bench.add(port)
            with_port = bench.one(bridge(master))
            bench.delete(port)
            without = bench.one(bridge(master))
            assert expected == tuple(
                one.resource.mtu for one in (with_port, without) if one is not None and isinstance(one.resource, Bridge)
            )

    def test_the_last_ipv4_address_takes_routes_along(self, bench: Bench) -> None:
        """As long as there is another one they stay."""
        first, second = address("b1", "10.1.0.1/24"), address("b1", "10.2.0.1/24")
        far = Route("", network("10.9.0.0/24"), "b1", ip("10.1.0.9"))
        bench.add(bridge(), first, second, far)
        bench.delete(first)
        assert [far] == bench.read(Route)
        bench.delete(second)
        assert [] == bench.read(Route)

    def test_a_primary_address_takes_its_secondaries_along(self, bench: Bench) -> None:
        """Unless promote_secondaries is on."""
        first, second = address("b1", "10.1.0.1/24"), address("b1", "10.1.0.2/24")
        bench.add(bridge(), first, second)
        bench.delete(first)
        assert [] == bench.read(Address)
        bench.add(first, second, Sysctl("", "net/ipv4/conf/b1/promote_secondaries", "1"))
        bench.delete(first)
        assert [second] == bench.read(Address)

    def test_a_new_mac_forgets_neighbours(self, bench: Bench) -> None:
        """Permanent ones, too: the reason why bridges have a MAC of their own from the start."""
        bench.add(bridge())
        bench.hand.add_neighbour("", "b1", "10.0.0.8", "02:00:00:00:04:01")
        bench.change(bridge(), bridge(mac="02:00:00:00:00:b2"))
        assert () == bench.kernel.read({""}, {type(strategies.SMALL_NETWORK[0])}, deadline=NEVER)
        assert [] == [one for one in bench.everything() if one[0].kind == "neighbour"]

    def test_a_namespace_frees_its_vni(self, bench: Bench) -> None:
        """With its namespace the device is gone, and the VNI is free."""
        bench.add(Namespace("o1"), Namespace("o2"), vxlan())
        bench.delete(Namespace("o1"))
        bench.add(vxlan(ns="o2"))
        assert [300] == [one.vni for one in bench.read(Vxlan, "o2")]

    def test_one_namespace_may_have_two_names(self, bench: Bench) -> None:
        """Rows are read under the name that was asked for, and live until the last name goes."""
        bench.add(Namespace("s1"), bridge(ns="s1"), address("b1", "10.0.0.1/24", ns="s1"))
        bench.add(Namespace("s2", source=bench.kernel.namespace_path("s1")))
        assert [address("b1", "10.0.0.1/24", ns="s2")] == bench.read(Address, "s2")
        bench.delete(Namespace("s1"))
        assert [bridge(ns="s2")] == bench.read(Bridge, "s2")

    def test_a_third_kind_is_refused(self, bench: Bench) -> None:
        """A resource of somebody else's package is not this door's."""

        @attrs.frozen
        class Port(Resource):
            kind = "switch-port"

            @property
            def identity(self) -> tuple[str, ...]:
                return ("switch-port", "", "p1")

        assert ["EOPNOTSUPP", "EOPNOTSUPP"] == [bench.errno("add", Port()), bench.errno("delete", Port())]
        assert bench.one(Port()) is None

    def test_prohibit_routes_of_ipv6_hang_on_lo(self, bench: Bench) -> None:
        """Setting lo down loses them, unlike those of IPv4."""
        bench.add(Namespace("s1"), Interface("s1", "lo"))
        far = [
            Route("s1", ipaddress.ip_network(block), table=8472, metric=1, type="prohibit")
            for block in ("10.9.0.0/24", "fd09::/64")
        ]
        bench.add(*far)
        bench.delete(Interface("s1", "lo"))
        assert far[:1] == bench.read(Route, "s1")
