"""The doorbell of a SQLite store: how a commit in one process wakes the watchers in others, in a quarter millisecond.

Beside the database lies a directory of unix datagram sockets, one for each store instance that watches. Who commits
sends each one a byte, never waiting: a full queue means that it is rung already, a refused connection that its owner
died, so the socket is removed. A bell only says "look"; a lost one costs a second, as watchers look that often anyway.
Measured: inotify on the database wakes before the row is visible, polling costs processor time.

It must never know what a store, a key or a database is.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import select
import socket
import stat
import threading
import time
from typing import Final

_SUN_PATH_BYTES: Final = 100
"""sun_path has 108 bytes with the NUL (unix(7)); longer paths go through /proc/self/fd."""
_NAME_PREFIX: Final = "b"


class Bells:
    """One store instance's place in the directory: it rings all bells, and has one of its own once it listens.

    All methods are thread-safe and none raises for a directory that cannot be used: then there are just no bells.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._sender: socket.socket | None = None
        self._bell: socket.socket | None = None
        self._name = ""
        self._wake = -1
        self._turn = threading.Condition()
        self._rings = 0
        self._listening = False
        self._closed = False

    def ring(self) -> None:
        """Tell every listener, in any process, to look; never waits."""
        try:
            names = os.listdir(self._directory)
        except OSError:
            return
        if names:
            with contextlib.suppress(OSError), _Reach(self._directory) as reach:
                sender = self._sending()
                for name in names:
                    self._ring_one(sender, name, reach.address(name))

    def _ring_one(self, sender: socket.socket, name: str, address: str) -> None:
        try:
            sender.sendto(b".", address)
        except ConnectionRefusedError:
            if name.startswith(_NAME_PREFIX):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(self._directory, name))
        except OSError:
            pass  # EAGAIN: rung already; ENOENT: gone meanwhile; anything else: its owner looks once a second

    def _sending(self) -> socket.socket:
        with self._turn:
            if self._sender is None:
                self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            return self._sender

    def rings(self) -> int:
        """Hang up the bell if it is not there; how often it rang. Take this, look, then :meth:`wait` with it."""
        with self._turn:
            if not (self._closed or self._listening or self._is_hanging()):
                self._take_down()
                with contextlib.suppress(OSError):
                    self._hang_up()
            return self._rings

    def wait(self, seen: int, timeout: float) -> None:
        """Return when it rang after ``seen`` was taken, or after ``timeout`` seconds, or on :meth:`nudge`."""
        until = time.monotonic() + timeout
        with self._turn:
            while True:
                left = until - time.monotonic()
                if self._closed or self._rings != seen or left <= 0:
                    return
                if not self._listening:
                    self._listening = True
                    break
                self._turn.wait(left)
        rang = True
        try:
            rang = self._listen(left)
        finally:
            with self._turn:
                self._listening = False
                self._rings += rang
                self._turn.notify_all()

    def nudge(self) -> None:
        """Let every :meth:`wait` of this instance return."""
        with self._turn:
            self._rings += 1
            self._turn.notify_all()
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Take the bell down; every :meth:`wait` returns. Idempotent."""
        with self._turn:
            self._closed = True
        self.nudge()
        with self._turn:
            self._turn.wait_for(lambda: not self._listening)
            self._take_down()
            if self._sender is not None:
                self._sender.close()
                self._sender = None
            if self._wake >= 0:
                os.close(self._wake)
                self._wake = -1

    def _listen(self, timeout: float) -> bool:
        """One waiter at a time listens for all (a thread of its own would be one more switch on the way)."""
        poll = select.poll()
        bell, wake = self._bell, self._wake
        if wake >= 0:
            poll.register(wake, select.POLLIN)
        if bell is not None:
            poll.register(bell, select.POLLIN)
        ready = poll.poll(math.ceil(timeout * 1000))
        with contextlib.suppress(BlockingIOError):
            while bell is not None:
                bell.recv(16)
        if wake >= 0:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(wake)
        return bool(ready)

    def _is_hanging(self) -> bool:
        """Whether the bell's name is still there: who clears the directory must not leave us deaf."""
        if self._bell is None:
            return False
        try:
            return stat.S_ISSOCK(os.lstat(os.path.join(self._directory, self._name)).st_mode)
        except OSError:
            return False

    def _hang_up(self) -> None:
        if self._wake < 0:
            self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._directory, 0o700)
        bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            name = _NAME_PREFIX + secrets.token_hex(6)
            with _Reach(self._directory) as reach:
                bell.bind(reach.address(name))
        except BaseException:
            bell.close()
            raise
        self._bell, self._name = bell, name

    def _take_down(self) -> None:
        if self._bell is None:
            return
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._directory, self._name))
        self._bell.close()
        self._bell = None


class _Reach:
    """Addresses of the sockets in a directory, however long its path; a directory that is a symlink is refused
    (OSError).
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._descriptor = -1

    def __enter__(self) -> _Reach:
        if len(os.fsencode(self._directory)) > _SUN_PATH_BYTES - 16:
            self._descriptor = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        elif os.path.islink(self._directory):
            raise NotADirectoryError(self._directory)
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def address(self, name: str) -> str:
        where = self._directory if self._descriptor < 0 else f"/proc/self/fd/{self._descriptor}"
        return f"{where}/{name}"
