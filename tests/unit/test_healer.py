"""When the healer looks again: the looking itself is reconcile's."""

from __future__ import annotations

import threading

from libcnm.controller.controller import Controller
from libcnm.controller.healer import AGAIN_SECONDS, PERIOD_SECONDS, Healer
from libcnm.model.ids import short
from libcnm.system.clock import ManualClock
from libcnm.testing.world import FakeHost


def test_what_somebody_had_the_lock_of_is_looked_at_again_soon(cnm: Controller, host: FakeHost) -> None:
    """Not only when the next period comes: it was nothing but a verb under way, or somebody who looked just then."""
    context, clock = cnm._calls.context, host.world.clock
    assert isinstance(clock, ManualClock)
    box = cnm.create_sandbox("c1")
    endpoint = cnm.create_network("net").create_endpoint("a").join(box)
    host.kernel.vandalise_delete(("link", "", f"ve-{short(endpoint.id)}"))
    assert cnm.doctor()
    looks = threading.Semaphore(0)

    def looked(*, healed: bool) -> None:
        looks.release()

    healer = Healer(context, looked)
    try:
        with context.doors.locks.acquire(short(box.id), deadline=clock.deadline(10.0)):
            healer.start()
            healer.look()
            assert looks.acquire(timeout=10.0)
        began = clock.monotonic()
        while cnm.doctor():
            assert clock.monotonic() - began < PERIOD_SECONDS / 2
            clock.advance(AGAIN_SECONDS)
            assert looks.acquire(timeout=10.0)
    finally:
        healer.close()
