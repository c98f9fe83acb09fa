"""A sandbox that is recorded, and whose namespace is not there: its creator is at it, is paused, has died, or was
refused. What each verb of another process makes of it.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import attrs
import pytest

from libcnm.controller.controller import Controller
from libcnm.controller.sandbox import Sandbox
from libcnm.errors import AlreadyExists, CnmError, DeadlineExceeded, KernelError, Unavailable
from libcnm.system.clock import ManualClock
from libcnm.system.locks import HeldLock, Locks
from libcnm.testing.world import Crash, FakeHost, FakeWorld

RECORDED = 1
"""The second point of creating a sandbox: its record was committed, and nothing else was done."""
PATIENCE = 30.0


@pytest.fixture
def host() -> Iterator[FakeHost]:
    with FakeWorld(clock=ManualClock(tick=0.01)) as world:
        yield world.host()


def create(cnm: Controller) -> Sandbox:
    return cnm.create_sandbox("c1", request_id="r1")


def killed(host: FakeHost) -> None:
    """A process that has died when the sandbox c1 was recorded and nothing of it was made."""
    cnm = host.controller()
    host.tape.start(stop_at=RECORDED)
    with pytest.raises(Crash, match="transact:after"):
        create(cnm)
    host.tape.stop()


@attrs.define
class Creator:
    """A process that is at it; :meth:`finish` lets it go on, and returns when it has ended."""

    go_on: threading.Event
    thread: threading.Thread

    def finish(self) -> None:
        self.go_on.set()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


@contextmanager
def paused(host: FakeHost) -> Iterator[Creator]:
    """A process that stands still when the sandbox c1 is recorded and nothing of it is made."""
    recorded, go_on = threading.Event(), threading.Event()

    def stand_still() -> None:
        recorded.set()
        assert go_on.wait(PATIENCE)

    def work() -> None:
        with suppress(DeadlineExceeded):  # others spend its time, too
            create(cnm)

    with host.controller() as cnm:
        host.tape.start(RECORDED, stand_still)
        creator = Creator(go_on, threading.Thread(target=work))
        creator.thread.start()
        assert recorded.wait(PATIENCE)
        host.tape.stop()
        try:
            yield creator
        finally:
            creator.finish()


def rows(cnm: Controller) -> list[str]:
    return [str(row) for row in cnm.doctor()]


# -- its creator has died ----------------------------------------------------------------------------------------------


def join(cnm: Controller) -> None:
    cnm.network("net").endpoint("web").join(cnm.sandbox("c1"))


@pytest.mark.parametrize(
    "verb", [join, lambda cnm: cnm.sandbox("c1").statistics(), create], ids=["join", "statistics", "create again"]
)
def test_who_needs_it_makes_it(host: FakeHost, verb: Callable[[Controller], object]) -> None:
    """A controller that was open before, which recovers nothing by itself, has no worse luck than a new one."""
    with host.controller() as cnm:
        cnm.create_network("net").create_endpoint("web")
        killed(host)
        verb(cnm)
        assert [] == rows(cnm)


def test_it_is_told_and_deleted(host: FakeHost) -> None:
    """It is shown as any other, doctor names what is missing, and deleting it leaves nothing."""
    with host.controller() as cnm:
        assert [] == rows(cnm)
        before = host.everything()
        killed(host)
        [sandbox] = cnm.sandboxes()
        assert "c1" == sandbox.inspect()["ContainerId"]
        assert f"missing: namespace host {sandbox.id[:12]}" in rows(cnm)
        sandbox.delete()
        assert before == {line for line in host.everything() if "request/" not in line}


# -- its creator is at it, or paused -----------------------------------------------------------------------------------


def test_it_is_left_to_its_creator(host: FakeHost) -> None:
    """Whoever opens, heals, or asks for a diagnosis meanwhile neither makes nor misses anything of it."""
    with paused(host) as creator, host.controller() as other:
        assert [] == rows(other)
        assert [] == other.heal()
        assert None is host.kernel.namespace(other.sandbox("c1").id[:12])
        creator.finish()
        assert [] == rows(other)


@pytest.mark.parametrize(
    "verb",
    [lambda cnm: cnm.sandbox("c1").statistics(), lambda cnm: cnm.sandbox("c1").delete(), create],
    ids=["statistics", "delete", "create again"],
)
def test_who_needs_it_waits_for_its_creator(host: FakeHost, verb: Callable[[Controller], object]) -> None:
    """As long as its budget; then it is told whom for."""
    locks = Locks(host.paths.locks)
    locks._wait.set()  # asks again and again, without a pause
    doors = attrs.evolve(host.doors(), locks=locks)
    with paused(host), host.controller(doors=doors) as other, pytest.raises(DeadlineExceeded, match="lock of"):
        verb(other)


def test_its_container_has_a_sandbox(host: FakeHost) -> None:
    """Another one for the same container is refused, and what is refused takes nothing of the first one away."""
    with paused(host) as creator, host.controller() as other:
        with pytest.raises(AlreadyExists):
            other.create_sandbox("c1")
        creator.finish()
        assert {"lo"} == set(other.sandbox("c1").statistics())
        assert [] == rows(other)


def test_a_retry_of_the_request_does_not_wait_for_what_is_done_with_it(host: FakeHost) -> None:
    """It is whole: that somebody has its lock, for a join that is paused perhaps, is no reason to wait."""
    with host.controller() as cnm:
        sandbox = create(cnm)
        with Locks(host.paths.locks).acquire(sandbox.id[:12], deadline=host.world.clock.deadline(1.0)):
            assert sandbox == create(cnm)


class Obliging(Locks):
    """Before the lock of a sandbox is tried for, its creator comes to an end."""

    creator: Creator | None = None

    def try_acquire(self, name: str, *, shared: bool = False) -> HeldLock | None:
        if self.creator is not None and len(name) == 12:
            self.creator.finish()
        return super().try_acquire(name, shared=shared)


def test_doctor_misses_nothing_of_what_is_made_while_it_looks(host: FakeHost) -> None:
    """The records were read before the namespace was there, and its creator had ended when doctor asked for it."""
    locks = Obliging(host.paths.locks)
    with host.controller(doors=attrs.evolve(host.doors(), locks=locks)) as other, paused(host) as creator:
        locks.creator = creator
        assert [] == rows(other)


# -- its creator was refused -------------------------------------------------------------------------------------------


def refusals(host: FakeHost, refuse: Callable[[], None]) -> Iterator[None]:
    """One after the other, every effect of creating a sandbox is refused."""
    number = 0
    while True:
        with host.controller() as cnm:
            host.tape.start(number, refuse)
            try:
                sandbox = create(cnm)
            except CnmError:
                host.tape.stop()
                yield
            else:
                host.tape.stop()
                sandbox.delete()
                return
        number += 1


def no_space() -> None:
    raise KernelError(errno.ENOSPC, "no more namespaces")


def test_what_is_refused_leaves_nothing(host: FakeHost) -> None:
    """Neither the kernel's objects nor records, and the same request may be made again."""
    with host.controller() as cnm:
        assert [] == rows(cnm)
        before = host.everything()
    refused = 0
    for _ in refusals(host, no_space):
        refused += 1
        with host.controller() as cnm:
            assert [] == rows(cnm)
            assert before == host.everything(), refused
    assert refused > RECORDED


def test_what_can_neither_be_made_nor_taken_back_is_made_later(host: FakeHost) -> None:
    """Its record says that it is wanted: whoever comes next makes it, and the same request finds it."""

    def away() -> None:
        raise Unavailable("the store", "away")

    def refuse() -> None:
        host.tape.passing = away
        no_space()

    with host.controller() as cnm:
        host.tape.start(RECORDED + 1, refuse)
        with pytest.raises(KernelError):
            create(cnm)
        host.tape.stop()
        host.tape.passing = lambda: None
    with host.controller() as cnm:
        assert [] == rows(cnm)
        assert [create(cnm)] == cnm.sandboxes()
