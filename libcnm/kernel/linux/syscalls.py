"""The few system calls that Python 3.11 lacks: unshare, setns, mount, umount2, and asking a descriptor for its
namespace kind.

They act on the calling *thread*; whoever calls them owns that thread and brings it home again (namespaces.py). This
module knows no paths and no policy. Sources: unshare(2), setns(2), mount(2), ioctl_ns(2).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from typing import Final

CLONE_FS: Final = 0x0000_0200
CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWNET: Final = 0x4000_0000

MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_SLAVE: Final = 1 << 19
MS_SHARED: Final = 1 << 20
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MNT_DETACH: Final = 2

NS_GET_NSTYPE: Final = 0xB703

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)


def unshare(flags: int) -> None:
    """Give the calling thread its own copy of what ``flags`` name."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, kind: int) -> None:
    """Move the calling thread into the namespace that ``fd`` refers to; ``kind`` guards against the wrong sort of
    file.
    """
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")


def mount(source: str | None, target: str, filesystem: str | None, flags: int) -> None:
    """Attach a file system or a part of the tree, without file-system options."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, filesystem)]
    _check(_libc.mount(*encoded, ctypes.c_ulong(flags), None), target)


def umount(target: str) -> None:
    """Detach a mount at once; it ends when nobody uses it any more."""
    _check(_libc.umount2(os.fsencode(target), ctypes.c_int(MNT_DETACH)), target)


def is_network_namespace(fd: int) -> bool:
    """Whether an open file is a network namespace, whatever its path looked like."""
    try:
        return fcntl.ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False
