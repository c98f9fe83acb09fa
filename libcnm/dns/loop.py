"""One thread's loop: readable and writable sockets by epoll, timers, and calls from other threads. Knows nothing of
DNS.

Not asyncio: its datagram protocol halves the speed (16.6 k replies a second against 28 k with one outstanding) and the
library must not care whether the caller runs an event loop. Everything but :meth:`Loop.call` and :meth:`Loop.stop`
belongs to the loop's own thread.

A handler that raises is a defect; it is logged and counted, and the loop goes on, so that one sandbox's bad luck is not
everybody's.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from libcnm.errors import Unavailable

log = logging.getLogger(__name__)

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
BROKEN = select.EPOLLERR | select.EPOLLHUP
"""What epoll reports without being asked; whoever sees it on a stream must close it, or the loop spins."""

_EVENTS_PER_ROUND = 256
BEHIND_SECONDS = 0.1
"""How long an answer waits for its owner to take in what has been committed; then it says what is known."""
_TIMERS_BEFORE_SWEEP = 256
"""Cancelled timers are swept out when there are this many, and again whenever their number has doubled since."""

_T = TypeVar("_T")
Handler = Callable[[int], None]


class Timer:
    """One call in the future; ``cancel`` may come at any time, also when it is past."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Never call it; what it holds on to is let go at once."""
        self.action = None


class _Call(Generic[_T]):
    """A call on its way from another thread: either the loop takes it or its caller takes it back, never both."""

    def __init__(self, action: Callable[[], _T], *, posted: bool = False) -> None:
        self.action = action
        self.posted = posted
        self.taken = threading.Lock()
        self.done = threading.Event()
        self.result: list[_T] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result.append(self.action())
        except BaseException as error:  # noqa: BLE001 - it is raised again, on the caller's thread
            self.error = error
        self.done.set()

    def refuse(self) -> None:
        self.error = Unavailable("the DNS thread", "it has ended")
        self.done.set()


def never() -> bool:
    """For whoever is never behind."""
    return False


class Loop:
    """``now`` is monotonic seconds. :meth:`run` is the body of the thread and returns after :meth:`stop`.

    ``behind``, asked on the loop's thread, says whether the owner has been told something that it has not finished
    taking in; see :meth:`settle`.
    """

    def __init__(self, now: Callable[[], float], behind: Callable[[], bool] = never) -> None:
        self.now = now
        self.faults = 0
        self._behind = behind
        self._overdue = False
        self._settling = False
        self._epoll = select.epoll()
        self._doorbell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._doorbell, READABLE)
        self._doorbell_alone = select.poll()
        self._doorbell_alone.register(self._doorbell, select.POLLIN)
        self._handlers: dict[int, Handler] = {self._doorbell: self._take_calls}
        self._gone: set[int] = set()
        self._timers: list[tuple[float, int, Timer]] = []
        self._sweep_at = _TIMERS_BEFORE_SWEEP
        self._order = itertools.count()
        self._calls: deque[_Call[Any]] = deque()
        self._lock = threading.Lock()
        self._stopping = False
        self._ended = False
        self._thread: int | None = None

    # -- for the loop's own thread -----------------------------------------------------------------------------------

    def watch(self, sock: socket.socket, handler: Handler, events: int = READABLE) -> None:
        """Call ``handler`` with the event bits whenever the non-blocking ``sock`` is ready (level-triggered)."""
        self._epoll.register(sock.fileno(), events)
        self._handlers[sock.fileno()] = handler

    def rewatch(self, sock: socket.socket, events: int) -> None:
        """Wait for other events of a watched socket."""
        self._epoll.modify(sock.fileno(), events)

    def forget(self, sock: socket.socket) -> None:
        """Stop watching; nothing happens if it is not watched. Call it before closing the socket."""
        fd = sock.fileno()
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)
            self._gone.add(fd)

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Call ``action`` once, ``seconds`` from now."""
        timer = Timer(action)
        heapq.heappush(self._timers, (self.now() + seconds, next(self._order), timer))
        return timer

    def settle(self) -> None:
        """With something received in hand: return when all that was posted, or told to the owner, before it came is
        done.

        So whoever commits, tells the owner and only then asks (or lets somebody ask) gets an answer that knows the
        commit, without anybody having waited for an acknowledgement. An owner that does not get on costs
        :data:`BEHIND_SECONDS` once; then it is not waited for until it has caught up.
        """
        if self._behind():
            self._await_owner()
        else:
            self._overdue = False
        if self._calls:
            self._run_calls()

    def _await_owner(self) -> None:
        if self._overdue:
            return
        until = self.now() + BEHIND_SECONDS
        self._settling = True
        try:
            while self._behind():
                left = until - self.now()
                if left <= 0:
                    self._overdue = True
                    return
                self._doorbell_alone.poll(left * 1000)
                self._take_calls(0)  # the owner may be waiting for one of them
        finally:
            self._settling = False

    def run(self) -> None:
        """Serve until :meth:`stop`. Whatever ends it, callers who wait are told."""
        self._thread = threading.get_ident()
        try:
            while not self._stopping:
                self._round()
        finally:
            with self._lock:
                self._ended = True
            self._refuse_calls()

    def _round(self) -> None:
        self._gone.clear()
        for fd, events in self._epoll.poll(self._wait(), _EVENTS_PER_ROUND):
            # A number closed in this round may already be another socket's: its events are the old one's.
            handler = None if fd in self._gone else self._handlers.get(fd)
            if handler is not None:
                try:
                    handler(events)
                except Exception as error:  # noqa: BLE001 - one sandbox's defect is not everybody's
                    self._fault("a socket's handler failed", error)
        self._run_timers()

    def _wait(self) -> float:
        if len(self._timers) > self._sweep_at:
            self._timers = [entry for entry in self._timers if entry[2].action is not None]
            heapq.heapify(self._timers)
            self._sweep_at = max(_TIMERS_BEFORE_SWEEP, 2 * len(self._timers))
        while self._timers and self._timers[0][2].action is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - self.now()) if self._timers else -1.0

    def _run_timers(self) -> None:
        if not self._timers:
            return
        now = self.now()
        while self._timers and self._timers[0][0] <= now:
            action = heapq.heappop(self._timers)[2].action
            if action is not None:
                try:
                    action()
                except Exception as error:  # noqa: BLE001 - likewise
                    self._fault("a timer's action failed", error)

    def _fault(self, what: str, error: Exception) -> None:
        """Count, and log the 1st, 2nd, 4th, 8th… so that whoever found the defect cannot fill the disk with it."""
        self.faults += 1
        if self.faults & (self.faults - 1) == 0:
            log.error("%s (%d times so far)", what, self.faults, exc_info=error)

    # -- for every thread ----------------------------------------------------------------------------------------------

    def call(self, action: Callable[[], _T], seconds: float) -> _T:
        """Run ``action`` on the loop's thread and return what it returns, or raise what it raises.

        Raises :class:`~libcnm.errors.Unavailable` when the loop has ended, or does not begin with it in ``seconds``:
        then it will never run.
        """
        if threading.get_ident() == self._thread:
            return action()
        call = _Call(action)
        with self._lock:
            if self._ended:
                raise Unavailable("the DNS thread", "it has ended")
            self._calls.append(call)
            os.eventfd_write(self._doorbell, 1)
        if not call.done.wait(seconds) and call.taken.acquire(blocking=False):
            raise Unavailable("the DNS thread", f"it did not answer in {seconds:g} s")
        call.done.wait()
        if call.error is not None:
            raise call.error
        return call.result[0]

    def post(self, action: Callable[[], None]) -> None:
        """Run ``action`` on the loop's thread, before anything that is received from now on is answered."""
        with self._lock:
            if self._ended:
                raise Unavailable("the DNS thread", "it has ended")
            self._calls.append(_Call(action, posted=True))
            if not self._settling:  # else it is done when the owner has caught up, and that rings
                os.eventfd_write(self._doorbell, 1)

    def caught_up(self) -> None:
        """The owner is not behind any more; whoever waits for that may go on."""
        if self._settling:
            with self._lock:
                if self._doorbell >= 0:
                    os.eventfd_write(self._doorbell, 1)

    def stop(self) -> None:
        """Make :meth:`run` return after the round it is in."""
        self._stopping = True
        with self._lock:
            if self._doorbell >= 0:
                os.eventfd_write(self._doorbell, 1)

    def close(self) -> None:
        """Release epoll and the doorbell. Only when :meth:`run` has returned, or was never called."""
        with self._lock:
            self._ended = True
            doorbell, self._doorbell = self._doorbell, -1
        self._refuse_calls()
        if doorbell >= 0:
            self._epoll.close()
            os.close(doorbell)

    def _take_calls(self, _events: int) -> None:
        with suppress(BlockingIOError):  # settle() may have answered the bell already
            os.eventfd_read(self._doorbell)
        self._run_calls()

    def _run_calls(self) -> None:
        while self._calls:
            call = self._calls.popleft()
            if call.taken.acquire(blocking=False):
                call.run()
                if call.posted and call.error is not None:
                    assert isinstance(call.error, Exception)
                    self._fault("a posted call failed", call.error)

    def _refuse_calls(self) -> None:
        while self._calls:
            call = self._calls.popleft()
            if call.taken.acquire(blocking=False):
                call.refuse()
