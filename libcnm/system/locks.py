"""Locks between processes and threads of one host: ``flock`` on a file per object, freed by the kernel when its
holder dies.

Order, always: network before endpoint before sandbox. A lock file is removed by whoever held it exclusively last. One
that was last shared, or whose holder was killed, stays, and is no lock; :meth:`Locks.sweep` (each healing calls it)
removes it. So the folder holds the files of the verbs under way, and of what was shared or killed since. Fake and real
are one: ``flock`` works in any folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from contextlib import ExitStack, suppress
from types import TracebackType

import attrs

from libcnm.errors import DeadlineExceeded, Unavailable
from libcnm.model.deadline import Deadline
from libcnm.system.files import Files

_STEP_SECONDS = 0.002
_STEP_SECONDS_MAX = 0.05


@attrs.define(eq=False)
class HeldLock:
    """A lock that is held until :meth:`release`; a context manager."""

    path: str
    descriptor: int
    exclusive: bool

    def release(self) -> None:
        """Let go; idempotent."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor < 0:
            return
        if self.exclusive:
            # Only the exclusive holder may remove the file: whoever waits on the old inode notices and opens anew.
            _unlink(self.path)
        os.close(descriptor)

    def hand_on(self) -> None:
        """Let go of it here alone: a child that has inherited the descriptor holds it, as long as it has that open."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> HeldLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Locks:
    """The locks of one installation, below ``folder``."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._wait = threading.Event()  # never set: a wait that close() could end one day, and no sleep
        Files().make_folder(folder)  # where others could put files, they could hold our locks

    def acquire(self, name: str, *, deadline: Deadline, shared: bool = False) -> HeldLock:
        """Wait for the lock; :class:`~libcnm.errors.DeadlineExceeded` names it and its holder when the budget is
        spent.
        """
        step = _STEP_SECONDS
        while True:
            held = self.try_acquire(name, shared=shared)
            if held is not None:
                return held
            left = deadline.remaining()
            if left <= 0:
                raise DeadlineExceeded(
                    f"lock of {name[:12]}",
                    deadline.budget,
                    hint=f"another verb holds it{self._holder(name)}; try again",
                )
            self._wait.wait(min(step, left))
            step = min(step * 2, _STEP_SECONDS_MAX)

    def acquire_all(self, names: tuple[tuple[str, bool], ...], *, deadline: Deadline) -> ExitStack:
        """Several ``(name, shared)`` locks in the given order; the stack releases them in reverse."""
        with ExitStack() as stack:
            for name, shared in names:
                stack.enter_context(self.acquire(name, deadline=deadline, shared=shared))
            return stack.pop_all()

    def try_acquire(self, name: str, *, shared: bool = False) -> HeldLock | None:
        """The lock, or None when somebody holds it against us."""
        path = f"{self._folder}/{name}"
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                raise Unavailable("locks", error.strerror or str(error), hint=f"look at {self._folder}") from None
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    return None
                raise Unavailable("locks", error.strerror or str(error)) from None
            if os.fstat(descriptor).st_nlink:
                return HeldLock(path, descriptor, not shared)
            os.close(descriptor)  # its last holder removed it between our open and our flock: open the new one

    def sweep(self) -> None:
        """Remove the files that nobody holds. Each is taken exclusively for a moment, as a verb would take it: whoever
        waits for it meanwhile has it a moment later.
        """
        try:
            names = os.listdir(self._folder)
        except OSError as error:
            raise Unavailable("locks", error.strerror or str(error), hint=f"look at {self._folder}") from None
        for name in names:
            held = self.try_acquire(name)
            if held is not None:
                held.release()

    def _holder(self, name: str) -> str:
        """Who holds it, as proc_locks(5) tells; nothing where that is not to be seen (another PID namespace)."""
        try:
            status = os.stat(os.path.join(self._folder, name), follow_symlinks=False)
            with open("/proc/locks", encoding="ascii") as file:
                rows = [line.split() for line in file if " FLOCK " in line and "->" not in line]  # those wait
        except (OSError, ValueError):
            return ""
        place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        pids = sorted({row[4] for row in rows if row[5] == place and int(row[4]) > 0}, key=int)
        return f" (process {', '.join(pids)})" if pids else ""


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
