"""Pinned network namespaces: ``<run_dir>/netns/<name>`` is a bind mount of each, ours or brought by somebody.

The directory is a mount of its own, shared, while it holds pins: then an unmount reaches every copy that another
mount namespace took of it (a service started meanwhile, a process we spawned), and no copy keeps a removed namespace
alive. A pin is published by its mount, after the namespace is complete; what a crash leaves before that is an empty
file, which the next one reuses. That a namespace was brought is recorded in ``.brought/<name>`` before its mount and
forgotten after its unmount, so a brought one is never mistaken for ours. It never knows what is inside a namespace.
Methods marked so run on the worker's thread. Sources: ip-netns(8), mount_namespaces(7).
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

from libcnm.errors import Invalid
from libcnm.kernel.base import NamespaceId
from libcnm.kernel.linux import syscalls
from libcnm.kernel.linux.effects import Announce
from libcnm.kernel.linux.worker import Worker

T = TypeVar("T")

_BEGINNINGS: Final = (
    ("net/ipv6/conf/all/disable_ipv6", "1"),  # reaches "default" and lo, too
    ("net/ipv6/conf/default/accept_ra", "0"),  # what is in "all" means nothing: links copy "default" when they are made
)


def identity_of(status: os.stat_result) -> NamespaceId:
    """A namespace's identity from its file."""
    return NamespaceId(status.st_dev, status.st_ino)


def write_sysctl(key: str, value: str) -> None:
    """Write ``/proc/sys/<key>`` of the namespace that the calling thread is in."""
    fd = os.open(f"/proc/sys/{key}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


class Namespaces:
    """The pins of one run directory, as seen from the worker's mount namespace."""

    def __init__(self, directory: str, worker: Worker, announce: Announce) -> None:
        self.directory = directory
        self._worker = worker
        self._announce = announce
        self._nsfs = os.stat("/proc/self/ns/net").st_dev

    def path(self, name: str) -> str:
        """Where a namespace of that name is pinned; Invalid for what cannot be a file name of ours."""
        if not name or name.startswith(".") or "/" in name or "\0" in name or len(os.fsencode(name)) > 255:
            raise Invalid("namespace", name, "is not a name for a namespace")
        return f"{self.directory}/{name}"

    # -- on the worker's thread ----------------------------------------------------------------------------------------

    def pinned(self, name: str) -> NamespaceId | None:
        """What is pinned under that name; a plain file left by a crash is nothing."""
        try:
            status = os.stat(self.path(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return identity_of(status) if status.st_dev == self._nsfs else None

    def names(self) -> tuple[str, ...]:
        """Every name under which something is pinned."""
        try:
            found = os.listdir(self.directory)
        except FileNotFoundError:
            return ()
        return tuple(sorted(name for name in found if not name.startswith(".") and self.pinned(name)))

    def source(self, name: str) -> str | None:
        """From where a namespace was brought; None for one that we made."""
        try:
            with open(self._record(name), encoding="utf-8") as record:
                return record.read()
        except FileNotFoundError:
            return None

    def begin(self, opened: Callable[[], T]) -> T:
        """Make a namespace, IPv6 and router advertisements off; ``opened`` is called inside it, and what that opens is
        all that keeps it.
        """

        def inside() -> T:
            with self._announce("namespace:make"):
                syscalls.unshare(syscalls.CLONE_NEWNET)
            for key, value in _BEGINNINGS:
                with suppress(FileNotFoundError):  # a kernel without IPv6 has none to switch off
                    write_sysctl(key, value)
            return opened()

        return self._worker.away(inside)

    def pin(self, name: str, descriptor: int) -> None:
        """Publish a namespace that was begun under a name."""
        self._pin(f"/proc/thread-self/fd/{descriptor}", name, brought_from=None)

    def adopt(self, name: str, source: str) -> None:
        """Pin a namespace that somebody else made; OSError EINVAL when the path leads to anything else."""
        if self.pinned(name) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self.path(name))
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not syscalls.is_network_namespace(fd):
                raise OSError(errno.EINVAL, "it is not a network namespace", source)
            # By the open descriptor, not by the path: what was verified is what is pinned.
            self._pin(f"/proc/thread-self/fd/{fd}", name, brought_from=source)
        finally:
            os.close(fd)

    def unpin(self, name: str) -> None:
        """Let go of a namespace; it ends when nobody uses it any more. FileNotFoundError when nothing is pinned."""
        path = self.path(name)
        was_pinned = self.pinned(name) is not None
        if not was_pinned and not os.path.lexists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        with self._announce("namespace:unpin"), self._locked():
            with suppress(OSError):  # another process was faster, or somebody unmounted it by hand
                syscalls.umount(path)
            with suppress(FileNotFoundError):
                os.unlink(path)
            self._forget_record(name)
            if not any(not entry.startswith(".") for entry in os.listdir(self.directory)):
                with suppress(OSError):
                    syscalls.umount(self.directory)
        if not was_pinned:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    # -- the parts -----------------------------------------------------------------------------------------------------

    def _record(self, name: str) -> str:
        return f"{self.directory}/.brought/{name}"

    def _forget_record(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._record(name))

    def _pin(self, source: str, name: str, *, brought_from: str | None) -> None:
        path = self.path(name)
        with self._announce("namespace:pin"), self._locked():
            if self.pinned(name) is not None:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
            self._share_directory()
            if brought_from is None:
                self._forget_record(name)
            else:
                os.makedirs(f"{self.directory}/.brought", mode=0o711, exist_ok=True)
                with open(self._record(name), "w", encoding="utf-8") as record:
                    record.write(brought_from)
            os.close(os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o444))
            syscalls.mount(source, path, None, syscalls.MS_BIND)

    def _share_directory(self) -> None:
        """Make the directory a shared mount if it is none: only a mount can be shared."""
        try:
            syscalls.mount(None, self.directory, None, syscalls.MS_SHARED)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            syscalls.mount(self.directory, self.directory, None, syscalls.MS_BIND)
            syscalls.mount(None, self.directory, None, syscalls.MS_SHARED)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Other processes of this installation pin and unpin, too; the kernel frees the lock of a dead one.

        No hook is called while it is held: a paused process must not stop the others.
        """
        try:
            fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            os.makedirs(self.directory, mode=0o711, exist_ok=True)
            fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
