"""Namespaces that play machines: made on a thread that lives for this alone, kept by open descriptors, pinned nowhere.

A namespace is a property of a thread, so no thread of the caller's ever moves: each trip is a thread's whole life. When
the last descriptor, process and socket is gone the kernel takes everything inside away, also when the lab was killed.
It never knows what the machines are for. Sources: namespaces(7), unshare(2), setns(2).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from libcnm.errors import KernelError, NotSupported
from libcnm.kernel.linux import Home, syscalls
from libcnm.kernel.linux.worker import HomeNamespaces
from libcnm.system.userns import enter_private_namespaces

T = TypeVar("T")

_SYSFS_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC


def ensure_privileges() -> None:
    """Move this process into private namespaces of its own, in which it may do everything and harm nothing.

    Call it first thing, before any thread is started. As root these are a network and a mount namespace, as an ordinary
    user also a user namespace with the caller as its root. A second call does nothing. Raises NotSupported.
    """
    enter_private_namespaces()


def on_a_thread(action: Callable[[], T]) -> T:
    """Do ``action`` on a thread that ends with it; the calling thread stays where it is."""
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(action())
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            failure.append(error)

    thread = threading.Thread(target=run, name="libcnm-lab", daemon=True)
    thread.start()
    thread.join()
    if failure:
        try:
            raise failure[0]
        finally:
            failure.clear()  # the traceback holds this frame, and the frame would hold the error
    return result[0]


def make_machine() -> Home:
    """A new network and mount namespace, as open descriptors; ``/sys`` shows the new network where that is allowed."""

    def made() -> Home:
        syscalls.unshare(syscalls.CLONE_FS)  # a thread that shares its root with others may not leave their mounts
        syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET)
        # Ours come from the caller's and never go back; what the caller unmounts is unmounted here, too.
        syscalls.mount(None, "/", None, syscalls.MS_SLAVE | syscalls.MS_REC)
        with suppress(OSError):  # a container that masks parts of /sys: only people who look around miss it
            syscalls.mount("sysfs", "/sys", "sysfs", _SYSFS_FLAGS)
        return Home(net=_open("net"), mnt=_open("mnt"))

    return _typed("making a host's namespaces", made)


def make_wire() -> Home:
    """A new network namespace alone, for the underlay; its mount namespace is the caller's."""

    def made() -> Home:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        # The bridge carries IPv6 and has none itself: its own router solicitations would be in every capture.
        with suppress(FileNotFoundError), open("/proc/sys/net/ipv6/conf/default/disable_ipv6", "wb") as file:
            file.write(b"1")
        return Home(net=_open("net"))

    return _typed("making the underlay's namespace", made)


def inside(home: Home, action: Callable[[], T]) -> T:
    """Do ``action`` on a thread that is in those namespaces."""
    entered = HomeNamespaces(home)
    try:

        def there() -> T:
            entered.enter()
            return action()

        return on_a_thread(there)
    finally:
        entered.close()


def close(home: Home) -> None:
    """Let go of the descriptors; the namespaces end when nobody else is in them."""
    for descriptor in (home.net, home.mnt):
        if isinstance(descriptor, int):
            os.close(descriptor)


def _open(kind: str) -> int:
    return os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)


def _typed(what: str, made: Callable[[], Home]) -> Home:
    try:
        return on_a_thread(made)
    except PermissionError as error:
        raise NotSupported(f"{what}: {error.strerror}", hint="call libcnm.lab.ensure_privileges() first") from error
    except OSError as error:
        raise KernelError(error.errno or 0, what) from error
