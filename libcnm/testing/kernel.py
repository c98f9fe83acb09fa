"""What every kernel door must do, as a pytest class: inherit from it, give it a kernel and a hand, and run pytest.

    class TestMyKernel(KernelConformance):
        @pytest.fixture
        def kernel(self) -> Iterator[Kernel]:
            ...

        @pytest.fixture
        def hand(self, kernel: Kernel) -> Hand:
            return MyHand(kernel)

The promises are those of :class:`libcnm.kernel.base.Kernel` and of the resource kinds. The *hand* does by other means
what administrators and other programs do to a host; each test gets a host of its own. The kit speaks to the kernel
only through the door; it must never know how a change is made.
"""

from __future__ import annotations

import pytest

from libcnm.errors import DeadlineExceeded
from libcnm.kernel.base import Kernel
from libcnm.kernel.resources import Bridge, LoopbackGuard, Namespace, Neighbour
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Change, Observed
from libcnm.testing._kernel_bench import (
    INNER,
    Bench,
    FakeHand,
    Hand,
    address,
    bridge,
    ip,
    network,
    pair,
    vxlan,
    within,
)
from libcnm.testing._kernel_links import LinkConformance, NamespaceConformance
from libcnm.testing._kernel_rows import (
    FirewallConformance,
    GuardConformance,
    RouteConformance,
    RowConformance,
    SysctlConformance,
)

__all__ = [
    "Bench",
    "FakeHand",
    "Hand",
    "KernelConformance",
    "address",
    "bridge",
    "ip",
    "network",
    "pair",
    "vxlan",
    "within",
]


class EventConformance:
    """Events are hints: where something went, never what."""

    def test_a_removal_is_announced_where_it_happened(self, bench: Bench) -> None:
        """A followed namespace's removal is reported with its name and a kind to look at again."""
        bench.add(bridge(), address("b1", "10.1.0.1/24"))
        events = bench.kernel.events()
        events.follow({""})
        bench.hand.delete_link("", "b1")
        happened = bench.wait_for(lambda: events.next(0.2))
        assert {"": True} == {event.ns: True for event in happened}
        assert {"links"} <= {event.what for event in happened}
        events.close()

    def test_a_namespace_is_followed_by_its_name(self, bench: Bench) -> None:
        """What happens inside a sandbox carries its name; the host, not followed, is silent."""
        bench.add(Namespace("s1"), bridge("quiet"), bridge("loud", ns="s1"))
        events = bench.kernel.events()
        events.follow({"s1"})
        bench.hand.delete_link("", "quiet")
        bench.hand.delete_link("s1", "loud")
        happened = bench.wait_for(lambda: events.next(0.2))
        assert {"s1"} == {event.ns for event in happened}
        events.close()

    def test_the_firewall_is_announced(self, bench: Bench) -> None:
        """Somebody's flush of the firewall is noticed by event."""
        bench.add(bench.table())
        events = bench.kernel.events()
        events.follow({""})
        bench.hand.flush_firewall("")
        happened = bench.wait_for(lambda: events.next(0.2))
        assert {"firewall"} == {event.what for event in happened}
        events.close()

    def test_the_end_of_a_guard_is_announced(self, bench: Bench) -> None:
        """A filter that somebody takes away from a bridge is noticed by event."""
        guard = LoopbackGuard("", "b1", 0x1000)
        bench.add(bridge(), guard)
        events = bench.kernel.events()
        events.follow({""})
        bench.delete(guard)
        happened = bench.wait_for(lambda: events.next(0.2))
        assert {"filters"} == {event.what for event in happened}
        events.close()

    def test_nothing_happens_within_the_timeout(self, bench: Bench) -> None:
        """Without news ``next`` returns empty, and a subscription that follows nothing hears nothing."""
        events = bench.kernel.events()
        bench.add(bridge())
        assert () == events.next(0.0)
        events.close()

    def test_closing_ends_a_running_next(self, bench: Bench) -> None:
        """``close`` may come from another thread; it is idempotent."""
        events = bench.kernel.events()
        events.follow({""})
        running = bench.in_background(lambda: events.next(30.0))
        events.close()
        assert () == running.result(timeout=10.0)
        events.close()


class DoorConformance:
    """The door itself: outcomes, effects, deadlines."""

    def test_one_outcome_for_each_change(self, bench: Bench) -> None:
        """In the order of the changes; nothing to do is nothing done."""
        assert () == bench.kernel.apply((), deadline=within())
        assert (None, None) == bench.kernel.apply(
            (Change("add", Namespace("s1")), Change("add", bridge(ns="s1"))), deadline=within()
        )

    def test_a_refusal_does_not_stop_the_rest(self, bench: Bench) -> None:
        """What follows a refused change in a batch is tried, as the kernel does with a batch."""
        outcomes = bench.errnos("add", bridge("b1"), address("nowhere", "10.0.0.1/24"), bridge("b1"), bridge("b2"))
        assert ["-", "ENODEV", "EEXIST", "-"] == outcomes
        assert {"b1", "b2"} == {one.name for one in bench.read(Bridge)}

    def test_a_refusal_names_its_subject(self, bench: Bench) -> None:
        """The error says which object was refused."""
        (error,) = bench.kernel.apply((Change("delete", bridge("absent")),), deadline=within())
        assert error is not None
        assert "absent" in error.subject

    def test_independent_changes_commute(self, bench: Bench) -> None:
        """Resources that do not need each other may be added in any order."""
        bench.add(Namespace("s1"), Namespace("s2"))
        for ns, step in (("s1", 1), ("s2", -1)):
            links = [bridge("b1", ns=ns), bridge("b2", ns=ns, mac="02:00:00:00:00:22")]
            rows = [address("b1", "10.1.0.1/24", ns=ns), address("b2", "10.2.0.1/24", ns=ns)]
            bench.add(*links[::step], *rows[::step])
        first, second = bench.unnamed("s1"), bench.unnamed("s2")
        assert first == second

    def test_a_change_and_its_reverse_leave_nothing(self, bench: Bench) -> None:
        """Undoing a batch backwards leaves what was there before, apart from the sweep."""
        before = bench.everything()
        steps = [Change("add", resource) for resource in bench.small_network()]
        assert {None} == set(bench.kernel.apply(steps, deadline=within()))
        undo = [step.reversed() for step in reversed(steps)]
        assert {None} == set(bench.kernel.apply(undo, deadline=within()))
        bench.kernel.sweep()
        bench.wait_for(lambda: bench.everything() == before)

    def test_a_batch_may_be_long(self, bench: Bench) -> None:
        """However many changes: the door sees to what one send can carry."""
        bench.add(bridge())
        rows = [
            Neighbour("", "b1", ip(f"10.9.{n // 250}.{n % 250 + 1}"), f"02:00:00:00:{n // 256:02x}:{n % 256:02x}")
            for n in range(600)
        ]
        bench.add(*rows)
        assert set(rows) == set(bench.read(Neighbour))

    def test_a_spent_deadline_prevents_every_effect(self, bench: Bench) -> None:
        """DeadlineExceeded comes before the first effect, not after it."""
        told: list[str] = []
        bench.kernel.on_effect = lambda name, _when: told.append(name)
        spent = Deadline(at=0.0, budget=1.0, now=lambda: 1.0)
        with pytest.raises(DeadlineExceeded):
            bench.kernel.apply((Change("add", bridge()),), deadline=spent)
        assert ([], []) == (told, bench.read(Bridge))
        with pytest.raises(DeadlineExceeded):
            bench.kernel.read({""}, deadline=spent)

    def test_effects_are_announced_in_pairs(self, bench: Bench) -> None:
        """Before and after each, under the same name, without overlap."""
        told: list[tuple[str, str]] = []
        bench.kernel.on_effect = lambda name, when: told.append((name, when))
        bench.add(Namespace("s1"), bridge(), *pair(master="b1"), address("b1", "10.0.0.1/24"))
        befores, afters = told[::2], told[1::2]
        assert [name for name, _ in befores] == [name for name, _ in afters]
        assert ({"before"}, {"after"}) == ({when for _, when in befores}, {when for _, when in afters})

    def test_a_hook_that_raises_before_prevents_the_effect(self, bench: Bench) -> None:
        """A crash before the first effect leaves the kernel as it was, and reaches the caller."""

        def crash(_name: str, when: str) -> None:
            if when == "before":
                raise _Crash

        before = bench.everything()
        bench.kernel.on_effect = crash
        with pytest.raises(_Crash):
            bench.kernel.apply((Change("add", bridge()),), deadline=within())
        bench.kernel.on_effect = lambda _name, _when: None
        assert before == bench.everything()

    def test_reading_is_by_kind_and_namespace(self, bench: Bench) -> None:
        """Only the kinds and namespaces asked for; one that is not there yields nothing."""
        bench.add(*bench.small_network())
        observed = bench.kernel.read({"", "s1", "absent"}, {Bridge}, deadline=within())
        assert [Observed(bridge(), ours=True)] == list(observed)

    def test_our_blocks_are_not_the_hosts(self, bench: Bench) -> None:
        """host_networks is what a new subnet must not collide with; our own networks are known elsewhere."""
        bench.hand.add_link("", "theirs")
        bench.hand.add_address("", "theirs", "198.51.100.1/24")
        bench.add(bridge(), address("b1", "10.0.0.1/24"))
        blocks = [one.block for one in bench.kernel.host_networks()]
        assert network("198.51.100.0/24") in blocks
        assert network("10.0.0.0/24") not in blocks

    def test_our_addresses_are_not_the_hosts(self, bench: Bench) -> None:
        """local_addresses leaves ours out; mtu_towards follows the route."""
        bench.hand.add_link("", "theirs")
        bench.hand.add_address("", "theirs", "198.51.100.1/24")
        bench.add(bridge(mtu=1400), address("b1", "10.0.0.1/24"))
        assert ip("198.51.100.1") in bench.kernel.local_addresses()
        assert ip("10.0.0.1") not in bench.kernel.local_addresses()
        assert 1400 == bench.kernel.mtu_towards(ip("10.0.0.9"))
        assert 1500 == bench.kernel.mtu_towards(ip("198.51.100.9"))

    def test_counters_are_by_interface_name(self, bench: Bench) -> None:
        """Every link of the namespace has a row."""
        bench.add(Namespace("s1"), *pair())
        counters = bench.kernel.statistics("s1")
        assert {"lo", INNER} == set(counters)
        assert 0 <= counters[INNER].rx_bytes

    def test_the_boot_id_stays(self, bench: Bench) -> None:
        """It is there, and the same at each look."""
        first, second = bench.kernel.boot_id, bench.kernel.boot_id
        assert first
        assert first == second

    def test_closing_twice_is_closing(self, bench: Bench) -> None:
        """Idempotent, and the kernel keeps what was made."""
        bench.kernel.close()
        bench.kernel.close()


class _Crash(Exception):
    """What a test's hook raises."""


class KernelConformance(
    NamespaceConformance,
    LinkConformance,
    RowConformance,
    RouteConformance,
    GuardConformance,
    SysctlConformance,
    FirewallConformance,
    EventConformance,
    DoorConformance,
):
    """Inherit, and override :meth:`kernel` and :meth:`hand`."""

    @pytest.fixture
    def kernel(self) -> Kernel:
        """A door to a host on which nothing is ours."""
        raise NotImplementedError("say how to make your kernel")

    @pytest.fixture
    def hand(self, kernel: Kernel) -> Hand:
        """Who changes that host behind the door's back."""
        raise NotImplementedError("say how things are made by hand")

    @pytest.fixture
    def bench(self, kernel: Kernel, hand: Hand) -> Bench:
        """Both, with the words that the tests are written in."""
        return Bench(kernel, hand)
