"""Starting a process inside a namespace, with files of ours shown to it in a private mount namespace.

Everything happens on a thread that lives for this alone: it goes home, takes its own copy of the mounts, enters the
network namespace, starts the process, and ends; the child inherits what the thread was. No fork of ours, no code
between fork and exec. The copy of the mounts is a slave: an unpinned namespace is unmounted in it, too. Source:
ip-netns(8) on /sys.
"""

from __future__ import annotations

import errno
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress

from libcnm.kernel.linux import syscalls
from libcnm.kernel.linux.worker import HomeNamespaces


def spawn(
    home: HomeNamespaces,
    namespace: int | None,
    argv: Sequence[str],
    files: Mapping[str, str],
    options: Mapping[str, object],
) -> subprocess.Popen[bytes]:
    """Start ``argv``; ``namespace`` None is the host's. Raises what :class:`subprocess.Popen` raises."""
    result: list[subprocess.Popen[bytes]] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            home.enter()
            if files or namespace is not None:
                _own_mounts(files)
            if namespace is not None:
                syscalls.setns(namespace, syscalls.CLONE_NEWNET)
                _own_sysfs()
            result.append(subprocess.Popen(argv, **options))  # type: ignore[call-overload]  # the caller's options
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            failure.append(error)

    thread = threading.Thread(target=run, name="libcnm-spawn", daemon=True)
    thread.start()
    thread.join()
    if failure:
        try:
            raise failure[0]
        finally:
            failure.clear()
    return result[0]


def _own_mounts(files: Mapping[str, str]) -> None:
    syscalls.unshare(syscalls.CLONE_NEWNS)  # and with it the thread's own root and working directory
    syscalls.mount(None, "/", None, syscalls.MS_SLAVE | syscalls.MS_REC)
    for there, here in files.items():
        try:
            syscalls.mount(here, there, None, syscalls.MS_BIND)
        except OSError as error:
            # One of the two may not be there, or go at this moment with its sandbox: no reason for "no such program".
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise


def _own_sysfs() -> None:
    """``/sys/class/net`` belongs to the mount, not to the reader; where it may not be mounted, it stays the host's."""
    with suppress(OSError):
        syscalls.mount("sysfs", "/sys", "sysfs", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
