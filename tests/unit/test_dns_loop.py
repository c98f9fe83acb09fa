"""What an answer waits for: calls that were posted before, and an owner who has been told of something."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from libcnm.dns.loop import BEHIND_SECONDS, Loop
from libcnm.system.clock import ManualClock


@contextmanager
def loop(behind: Callable[[], bool], now: Callable[[], float] = time.monotonic) -> Iterator[Loop]:
    """A loop whose thread is this one."""
    made = Loop(now, behind)
    try:
        yield made
    finally:
        made.close()


def test_what_was_posted_is_done_before_the_answer() -> None:
    """And in the order in which it was posted."""
    done: list[int] = []
    with loop(lambda: False) as mine:
        for number in range(3):
            mine.post(lambda number=number: done.append(number))  # type: ignore[misc]  # the default binds it
        mine.settle()
    assert [0, 1, 2] == done


def test_an_answer_waits_for_an_owner_who_is_behind_and_serves_him_meanwhile() -> None:
    """The owner may be waiting for a call himself: it is taken while the answer waits, which ends as he catches up."""
    asked: list[bool] = []
    done: list[str] = []

    def behind() -> bool:
        asked.append(bool(done))
        if len(asked) == 2:  # he asks for something, and says that he is done only when he has it
            mine.post(lambda: done.append("shown"))
            mine.caught_up()
        return not done

    with loop(behind) as mine:
        mine.settle()
        assert ["shown"] == done
        assert asked[-1]


def test_an_owner_who_does_not_get_on_costs_one_wait() -> None:
    """The first answer waits its time out, later ones do not, until he has caught up once."""
    clock = ManualClock(tick=0.001)
    state = {"behind": True}
    with loop(lambda: state["behind"], clock.monotonic) as mine:

        def waits() -> bool:
            before = clock.monotonic()
            mine.settle()
            return clock.monotonic() - before > BEHIND_SECONDS

        mine.post(lambda: clock.advance(BEHIND_SECONDS))  # so the poll need not really last
        assert waits()
        assert not waits()
        state["behind"] = False
        assert not waits()
        state["behind"] = True
        mine.post(lambda: clock.advance(BEHIND_SECONDS))
        assert waits()


def test_a_posted_call_that_fails_is_counted_and_the_next_one_is_done() -> None:
    """Nobody waits for it, so nobody could be told."""
    done: list[str] = []

    def fail() -> None:
        raise RuntimeError("a defect")

    with loop(lambda: False) as mine:
        mine.post(fail)
        mine.post(lambda: done.append("next"))
        mine.settle()
        assert (1, ["next"]) == (mine.faults, done)
