"""The one thread that changes namespaces: it lives in the home namespaces, and every trip starts and ends there.

A network namespace is a property of a thread; were a caller's thread moved, everything it does or starts meanwhile
would go along. So whatever must happen *inside* a namespace (opening a socket, writing a sysctl, making a namespace)
is handed to this thread. When it cannot come home it is discarded, never reused. While idle it watches the mount
table, so that a namespace unpinned by another process is noticed at once (an open socket of ours would keep it
alive). It never knows what the jobs are for. Sources: setns(2), unshare(2), proc_pid_mountinfo(5) on polling.
"""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar

import attrs

from libcnm.errors import CnmError, DeadlineExceeded, Forbidden, Unavailable
from libcnm.kernel.linux import syscalls
from libcnm.model.deadline import Deadline

T = TypeVar("T")

CLOSE_SECONDS: Final = 5.0
HANDOVER_SECONDS: Final = 0.0005
"""The longest that a caller waits for its job to begin: a few times as long as a sleeping thread takes to wake."""
MOUNTS_SECONDS: Final = 0.05
"""How long after a change of the mount table it is looked at: most changes are our own, and somebody waits for us
then.
"""


@attrs.frozen
class Home:
    """The namespaces that play "the host", as open descriptors or paths; None: those of the process."""

    net: int | str | None = None
    mnt: int | str | None = None


def door_failed(error: OSError, what: str = "") -> CnmError:
    """Unavailable; but Forbidden for who lacks privilege: to that there is no "later"."""
    if error.errno != errno.EPERM:
        return Unavailable("the kernel door", f"{what}{error}")
    hint = "this needs root, or a user namespace that owns the network: libcnm.lab.ensure_privileges()"
    return Forbidden(f"the kernel door is closed: {what}{error}", hint=hint, remedy="privilege")


def open_namespace(where: int | str | None, kind: str) -> int:
    """A descriptor of our own for a namespace. By ``/proc/self``, not the thread's: a caller may stand elsewhere."""
    if isinstance(where, int):
        return os.dup(where)
    return os.open(where or f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)


def same_namespace(fd: int, kind: str) -> bool:
    """Whether the calling thread is in that namespace."""
    there, here = os.fstat(fd), os.stat(f"/proc/thread-self/ns/{kind}")
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


class HomeNamespaces:
    """The open descriptors of a :class:`Home`."""

    def __init__(self, home: Home) -> None:
        self.shares_mounts = home.mnt is None
        """Paths mean the same to every thread of this process as they do at home."""
        self.net = open_namespace(home.net, "net")
        try:
            self.mnt = open_namespace(home.mnt, "mnt")
        except BaseException:
            os.close(self.net)
            raise

    def enter(self) -> None:
        """Move the calling thread, which must be one of ours, home."""
        if not same_namespace(self.mnt, "mnt"):
            # Threads share their root and working directory; the kernel refuses a move while they do.
            syscalls.unshare(syscalls.CLONE_FS)
            syscalls.setns(self.mnt, syscalls.CLONE_NEWNS)
        if not same_namespace(self.net, "net"):
            syscalls.setns(self.net, syscalls.CLONE_NEWNET)

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self.net)
        os.close(self.mnt)


class _Job(Generic[T]):
    def __init__(self, action: Callable[[], T], undo: Callable[[T], None] | None) -> None:
        self.action = action
        self.undo = undo
        self.result: T | None = None
        self.error: BaseException | None = None
        self.abandoned = False
        self.finished = threading.Lock()
        self.finished.acquire()
        self.begun = threading.Lock()
        self.begun.acquire()

    def run(self, settle: threading.Lock) -> None:
        self.begun.release()
        try:
            self.result = self.action()
        except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
            self.error = error
        with settle:
            if not self.abandoned:
                self.finished.release()
                return
        if self.error is None and self.undo is not None:
            self.undo(self.result)  # type: ignore[arg-type]  # a job without an error has its result


class Worker:
    """Runs jobs one after the other on its thread, in the home namespaces."""

    def __init__(self, home: HomeNamespaces, on_mounts_changed: Callable[[], None]) -> None:
        self._home = home
        self._on_mounts_changed = on_mounts_changed
        self._jobs: deque[_Job[object]] = deque()
        self._lock = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread: threading.Thread | None = None
        self._lost = False
        self._closed = False

    def call(self, action: Callable[[], T], deadline: Deadline, *, undo: Callable[[T], None] | None = None) -> T:
        """Run ``action`` on the worker and return what it returns or raise what it raises.

        When the deadline comes first the caller gets DeadlineExceeded, and ``undo`` the result, later.
        """
        job = _Job(action, undo)
        with self._lock:
            if self._closed:
                raise Unavailable("the kernel door", "it was closed")
            self._jobs.append(job)  # type: ignore[arg-type]  # a queue of jobs of any result
            if self._thread is None:
                self._start()
            os.eventfd_write(self._wake, 1)
        if not job.finished.acquire(timeout=min(deadline.remaining(), threading.TIMEOUT_MAX)):
            with self._lock:
                job.abandoned = not job.finished.acquire(blocking=False)
            if job.abandoned:
                raise DeadlineExceeded("the kernel door", deadline.budget, outcome_unknown=True)
        if job.error is not None:
            try:
                raise job.error
            finally:
                del job  # the traceback holds this frame, and the frame would hold the error
        return job.result  # type: ignore[return-value]  # a job without an error has its result

    def post(self, action: Callable[[], object]) -> None:
        """Run ``action`` on the worker when its turn comes; nobody waits for it, and nobody hears of an error.

        Only for its beginning is waited a moment: the worker would else wait for the interpreter's lock, which the
        caller may keep for longer than that.
        """
        job: _Job[object] = _Job(action, None)
        with self._lock:
            if self._closed:
                return
            self._jobs.append(job)
            if self._thread is None:
                self._start()
            os.eventfd_write(self._wake, 1)
        job.begun.acquire(timeout=HANDOVER_SECONDS)

    def look(self, action: Callable[[], T], deadline: Deadline) -> T:
        """What only reads paths: on the calling thread, where that sees the home's mounts (to hand over costs 0.1
        ms).
        """
        return action() if self._home.shares_mounts else self.call(action, deadline)

    def visit(self, namespace: int, action: Callable[[], T]) -> T:
        """On the worker's thread only: do ``action`` inside a network namespace."""

        def inside() -> T:
            syscalls.setns(namespace, syscalls.CLONE_NEWNET)
            return action()

        return self.away(inside)

    def away(self, action: Callable[[], T]) -> T:
        """On the worker's thread only: do ``action``, which leaves home, and come home after it."""
        try:
            return action()
        finally:
            self._return()

    def close(self) -> None:
        """Let the thread finish what was asked, and end it. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            thread = self._thread
            os.eventfd_write(self._wake, 1)
        if thread is not None:
            thread.join(CLOSE_SECONDS)
            if thread.is_alive():
                return  # stuck in the kernel: it is a daemon, and keeps what it uses
        os.close(self._wake)

    def _start(self) -> None:
        """With the lock held. The new thread goes home by itself, from wherever its creator stands."""
        self._lost = False
        self._thread = threading.Thread(target=self._run, name="libcnm-namespaces", daemon=True)
        self._thread.start()

    def _return(self) -> None:
        try:
            syscalls.setns(self._home.net, syscalls.CLONE_NEWNET)
        except OSError as error:
            if same_namespace(self._home.net, "net"):
                return  # it never left: without privilege every trip is refused, the one home as well
            self._lost = True
            raise door_failed(error, "its thread could not come home: ") from error

    def _run(self) -> None:
        try:
            self._home.enter()
            mounts = os.open("/proc/thread-self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self._give_up(error)
            return
        try:
            self._serve(mounts)
        finally:
            os.close(mounts)

    def _serve(self, mounts: int) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(mounts, select.POLLPRI)
        look_at: float | None = None
        while True:
            wait = None if look_at is None else max(0.0, look_at - time.monotonic()) * 1000
            ready = dict(poll.poll(wait))
            # The jobs first, and only then what need not be now: each system call lets go of the interpreter's lock,
            # and to get that back from a busy thread takes as long as half of a job.
            if not self._work():
                return
            if self._wake in ready:
                with suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
                if not self._work():  # what was asked for before the bell was silenced
                    return
            if mounts in ready and look_at is None:
                look_at = time.monotonic() + MOUNTS_SECONDS
            if look_at is not None and time.monotonic() >= look_at:
                look_at = None
                with suppress(OSError):  # whatever is wrong with the pins, the next job will say it to somebody
                    self._on_mounts_changed()
            with self._lock:
                if self._closed and not self._jobs:
                    return

    def _work(self) -> bool:
        """Do the jobs there are; False when the thread cannot come home: another one goes on."""
        while (job := self._next()) is not None:
            job.run(self._lock)
            del job
            if self._lost:
                with self._lock:
                    self._start()  # somebody may be waiting already
                    os.eventfd_write(self._wake, 1)
                return False
        return True

    def _next(self) -> _Job[object] | None:
        with self._lock:
            return self._jobs.popleft() if self._jobs else None

    def _give_up(self, error: OSError) -> None:
        with self._lock:
            self._thread = None
            waiting = list(self._jobs)
            self._jobs.clear()
        for job in waiting:
            job.action = _raiser(door_failed(error, "its thread cannot enter its home: "))
            job.run(self._lock)


def _raiser(error: BaseException) -> Callable[[], object]:
    def fail() -> object:
        raise error

    return fail
