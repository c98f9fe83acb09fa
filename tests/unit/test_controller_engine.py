"""The engine: all changes or none, whatever is met on the way, and what is not ours is never touched."""

from __future__ import annotations

import errno
import ipaddress

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libcnm.controller.delta import delta
from libcnm.controller.engine import Engine
from libcnm.errors import AlreadyExists, DeadlineExceeded, KernelError
from libcnm.kernel.fake import FakeKernel
from libcnm.kernel.resources import Address, Bridge, Interface, Namespace, Route, Veth
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Change, Observed, Resource
from libcnm.system.clock import ManualClock

MAC = "02:00:00:00:00:01"
BRIDGE = Bridge("", "b1", MAC)
BOX = Namespace("s1")
VETH = Veth("", "v1", MAC, "s1", "e1", "02:00:00:00:00:02", master="b1")
EVERYTHING: tuple[Resource, ...] = (
    BOX,
    BRIDGE,
    VETH,
    Interface("s1", "e1"),
    Address("s1", "e1", ipaddress.ip_interface("10.1.0.2/24")),
    Route("s1", ipaddress.ip_network("0.0.0.0/0"), "e1", ipaddress.ip_address("10.1.0.1")),
)


def within() -> Deadline:
    return ManualClock(tick=0.0001).deadline(60)


def engine(kernel: FakeKernel) -> Engine:
    return Engine(kernel, ManualClock(tick=0.0001))


def make(kernel: FakeKernel, *resources: Resource) -> None:
    assert all(outcome is None for outcome in kernel.apply(delta((), resources), deadline=within()))


class Refusing(FakeKernel):
    """A fake that refuses one change (the k-th, or one each time), and does what it can of the rest, as Linux does."""

    at = -1
    always: Resource | None = None
    seen = 0
    error = errno.ENOMEM

    def _attempt(self, change: Change, refused: set[tuple[str, ...]]) -> KernelError | None:
        self.seen += 1
        if self.seen - 1 == self.at or (change.operation == "add" and change.resource == self.always):
            return KernelError(self.error, str(change))
        return super()._attempt(change, refused)


# -- meeting something -----------------------------------------------------------------------------------------------


def test_equal_and_ours_is_adopted() -> None:
    """A crash came between kernel and records: what is there is taken as done, not made again."""
    kernel = FakeKernel()
    make(kernel, BRIDGE)
    index = kernel.snapshot()
    engine(kernel).apply([Change("add", BRIDGE)], deadline=within())
    assert index == kernel.snapshot()


def test_different_and_ours_is_made_right() -> None:
    """Changed in place where that is possible."""
    kernel = FakeKernel()
    make(kernel, attrs.evolve(BRIDGE, mtu=1400))
    engine(kernel).apply([Change("add", BRIDGE)], deadline=within())
    there = kernel.read_one(BRIDGE, deadline=within())
    assert Observed(BRIDGE, ours=True) == there


def test_different_in_a_fixed_field_is_replaced() -> None:
    """Where that is not possible: deleted and made anew."""
    kernel = FakeKernel()
    make(kernel, BOX, Namespace("s2"), BRIDGE, attrs.evolve(VETH, peer_ns="s2"))
    engine(kernel).apply([Change("add", VETH)], deadline=within())
    assert Observed(VETH, ours=True) == kernel.read_one(VETH, deadline=within())


def test_not_ours_is_named_and_left_alone() -> None:
    """Somebody else's bridge of that name stays as it is, and the error says whose it is not."""
    kernel = FakeKernel()
    kernel.vandalise_add(attrs.evolve(BRIDGE, mtu=1400))
    before = kernel.snapshot()
    with pytest.raises(AlreadyExists, match="b1") as raised:
        engine(kernel).apply(delta((), EVERYTHING), deadline=within())
    assert "somebody else" == raised.value.holder
    kernel.sweep()
    assert before == kernel.snapshot()


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENODEV, errno.ESRCH])
def test_deleting_what_is_gone_is_done(code: int) -> None:
    """Whoever removed it first: it is gone."""
    kernel = Refusing()
    kernel.at, kernel.error = 0, code
    engine(kernel).apply([Change("delete", BRIDGE)], deadline=within())
    kernel.seen = 0
    assert [] == engine(kernel).carry_out([Change("delete", BRIDGE)], deadline=within())


def test_changing_what_is_gone_makes_it() -> None:
    """It was removed by hand meanwhile."""
    kernel = FakeKernel()
    engine(kernel).apply([Change("change", BRIDGE, attrs.evolve(BRIDGE, mtu=1400))], deadline=within())
    assert Observed(BRIDGE, ours=True) == kernel.read_one(BRIDGE, deadline=within())


# -- failing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(len(EVERYTHING)))
def test_a_failure_anywhere_leaves_nothing(at: int) -> None:
    """Whichever change is refused for good, what the others did is reversed, and the refusal itself is raised."""
    kernel = Refusing()
    pristine = kernel.snapshot()
    kernel.always = delta((), EVERYTHING)[at].resource
    with pytest.raises(KernelError) as raised:
        engine(kernel).apply(delta((), EVERYTHING), deadline=within())
    assert errno.ENOMEM == raised.value.errno
    kernel.sweep()
    assert pristine == kernel.snapshot()


@pytest.mark.parametrize("at", range(len(EVERYTHING)))
def test_a_passing_refusal_is_retried(at: int) -> None:
    """What was refused once, while others went through, is asked for again; so is what it kept from happening."""
    kernel = Refusing()
    kernel.at = at
    engine(kernel).apply(delta((), EVERYTHING), deadline=within())
    assert [] == [
        one for one in EVERYTHING if (there := kernel.read_one(one, deadline=within())) is None or not there.ours
    ]


@given(st.integers(0, len(EVERYTHING)))
def test_any_prefix_can_be_undone(length: int) -> None:
    """A batch stopped anywhere, its changes reversed: the kernel is as it was."""
    kernel = FakeKernel()
    pristine = kernel.snapshot()
    prefix = delta((), EVERYTHING)[:length]
    assert all(outcome is None for outcome in kernel.apply(prefix, deadline=within()))
    engine(kernel).undo(prefix)
    kernel.sweep()
    assert pristine == kernel.snapshot()


def test_carrying_out_goes_on_after_a_refusal() -> None:
    """Leaving must not stop at the first thing that cannot be removed; what failed is returned."""
    kernel = Refusing()
    make(kernel, *EVERYTHING)
    kernel.seen, kernel.at = 0, 0
    failed = engine(kernel).carry_out(delta(EVERYTHING, ()), deadline=within())
    assert [errno.ENOMEM] == [outcome.errno for outcome in failed]
    assert None is kernel.read_one(BRIDGE, deadline=within())


def test_what_went_well_beside_a_conflict_is_undone() -> None:
    """The first of two is somebody else's, the second was made already: it goes again."""
    kernel = FakeKernel()
    kernel.vandalise_add(BRIDGE)
    before = kernel.snapshot()
    with pytest.raises(AlreadyExists):
        engine(kernel).apply(delta((), [BRIDGE, attrs.evolve(BRIDGE, name="b2")]), deadline=within())
    kernel.sweep()
    assert before == kernel.snapshot()


def test_a_spent_budget_is_undone_too() -> None:
    """The deadline ends in the middle: typed, and what was made is removed with the engine's own budget."""
    kernel = FakeKernel()
    pristine = kernel.snapshot()
    clock = ManualClock(tick=1.0)
    with pytest.raises(DeadlineExceeded):
        engine(kernel).apply(delta((), EVERYTHING), deadline=clock.deadline(3.5))
    kernel.sweep()
    assert pristine == kernel.snapshot()


# -- third parties' kinds --------------------------------------------------------------------------------------------


@attrs.frozen
class Port(Resource):
    """A resource kind that a driver package brings along."""

    kind = "their-port"
    name: str

    @property
    def identity(self) -> tuple[str, ...]:
        return ("their-port", "", self.name)


@attrs.define
class TheirDoor:
    """Its door."""

    there: list[Port] = attrs.field(factory=list)
    refuse: bool = False

    def apply(self, changes: tuple[Change, ...], *, deadline: Deadline) -> tuple[KernelError | None, ...]:
        for change in changes:
            assert isinstance(change.resource, Port)
            if not self.refuse:
                (self.there.append if change.operation == "add" else self.there.remove)(change.resource)
        return tuple(KernelError(errno.EIO, "theirs") if self.refuse else None for _ in changes)

    def read_one(self, resource: Resource, *, deadline: Deadline) -> Observed | None:
        return Observed(resource, ours=True) if resource in self.there else None


def test_other_kinds_go_through_their_own_door() -> None:
    """Theirs and ours in one delta, made and undone together."""
    kernel, door = FakeKernel(), TheirDoor()
    one = Engine(kernel, ManualClock(tick=0.0001), lambda: {Port: door})
    one.apply(delta((), [BRIDGE, Port("p")]), deadline=within())
    assert [Port("p")] == door.there
    one.apply(delta([BRIDGE, Port("p")], ()), deadline=within())
    assert [] == door.there
    door.refuse = True
    kernel.sweep()
    pristine = kernel.snapshot()
    with pytest.raises(KernelError, match="theirs"):
        one.apply(delta((), [BRIDGE, Port("p")]), deadline=within())
    kernel.sweep()
    assert pristine == kernel.snapshot()
