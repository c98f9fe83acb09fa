"""Private namespaces for a whole process: tests, labs and the demo work in them, so the host is never touched.

As root that is a network and a mount namespace; as an ordinary user also a user namespace, in which the caller is root
and may do all that libcnm does. It happens once, at the very start, while the process has one thread: a user namespace
is refused to a process with more, and the others belong to the calling thread alone. It knows nothing of libcnm's own
sandboxes, which come and go while the process lives (:mod:`libcnm.kernel`). The law: unshare(2), user_namespaces(7).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

from libcnm.errors import Forbidden, KernelError, NotSupported

# From <linux/sched.h>, <linux/mount.h>, <linux/if.h> and <linux/sockios.h>: the same on every architecture.
CLONE_NEWNS = 0x0002_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWNET = 0x4000_0000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x8, 0x4000, 0x4_0000
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 0x1
IFREQ_FLAGS = struct.Struct("16sH22x")  # struct ifreq: the name, then the union, here a short

_REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EUSERS, errno.EINVAL, errno.ENOSYS)
_SWITCHES = (
    Path("/proc/sys/user/max_user_namespaces"),
    Path("/proc/sys/kernel/unprivileged_userns_clone"),
    Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
)

_POWERS = 1 << 12 | 1 << 21
"""CAP_NET_ADMIN and CAP_SYS_ADMIN, from <linux/capability.h>: to change networks, and to make and enter namespaces."""

_entered_by: int | None = None  # the pid: a forked child inherits the namespaces, yet must not be taken for us


def in_private_namespaces() -> bool:
    """Whether this process has moved itself into private namespaces with :func:`enter_private_namespaces`."""
    return _entered_by == os.getpid()


def rules_its_network() -> bool:
    """Whether this process may change the network that it is in, and make and enter namespaces beside it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16) & _POWERS == _POWERS
    return False


def check_privilege() -> None:
    """Forbidden where :func:`rules_its_network` is false: no attempt would end well, nor a later one."""
    if not rules_its_network():
        raise Forbidden(
            "this process may not change the network it is in: that takes CAP_NET_ADMIN and CAP_SYS_ADMIN",
            hint="run it as root, or in namespaces of its own: libcnm.lab.ensure_privileges(), before any thread",
            remedy="privilege",
        )


def enter_private_namespaces(*, user: bool | None = None) -> None:
    """Move this process into a new network and mount namespace; call it first thing, before any thread is started.

    ``user``: also a user namespace, with the caller as its root. ``None`` means "if it is needed": as an ordinary user,
    and as a root that lacks the capabilities. Afterwards ``lo`` is up and nothing else is there, mounts made here stay
    here, ``/run`` is an empty file system that ends with the last process in it, and ``/sys`` shows the new network
    namespace where the kernel allows that. A second call does nothing.

    Equivalent to: ``unshare --net --mount [--user --map-root-user]``, ``ip link set lo up``.

    Raises NotSupported, with the kernel's reason and the switch to look at, when the kernel refuses; the process may
    then be half moved and should give up what it wanted the namespaces for.
    """
    global _entered_by
    if in_private_namespaces():
        return
    _refuse_threads()
    _unshare_all(user=user)
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    _mount_fresh_sysfs()
    _mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    _bring_loopback_up()
    _entered_by = os.getpid()


def _refuse_threads() -> None:
    tasks = len(os.listdir("/proc/self/task"))
    if tasks > 1:
        raise NotSupported(
            f"private namespaces: this process has {tasks} threads, and a namespace would move only one of them",
            hint="call enter_private_namespaces() before anything starts a thread",
        )


def _unshare_all(*, user: bool | None) -> None:
    uid, gid = os.geteuid(), os.getegid()
    if user is False or (user is None and uid == 0):
        try:
            _unshare(CLONE_NEWNET | CLONE_NEWNS)
        except OSError as error:
            if user is False or error.errno != errno.EPERM:
                raise _refusal("unshare", error) from error
        else:
            return  # otherwise root in name only, a container without CAP_SYS_ADMIN: go the ordinary user's way
    try:
        _unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS)
        _map_to_root(uid, gid)
    except OSError as error:
        raise _refusal("unshare with a user namespace", error) from error


def _map_to_root(uid: int, gid: int) -> None:
    """Be root in the new user namespace. Without CAP_SETGID outside, the kernel wants setgroups(2) given up first."""
    Path("/proc/self/setgroups").write_text("deny", encoding="utf-8")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1", encoding="utf-8")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1", encoding="utf-8")


def _mount_fresh_sysfs() -> None:
    """Show the new network namespace below /sys/class/net. Where a container masks parts of /sys it is not allowed."""
    try:
        _mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except NotSupported:
        return  # nothing of libcnm reads /sys; only people who look around miss it


def _bring_loopback_up() -> None:
    """Equivalent to: ip link set lo up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as door:
        try:
            answer = fcntl.ioctl(door, SIOCGIFFLAGS, IFREQ_FLAGS.pack(b"lo", 0))
            _, flags = IFREQ_FLAGS.unpack(answer)
            fcntl.ioctl(door, SIOCSIFFLAGS, IFREQ_FLAGS.pack(b"lo", flags | IFF_UP))
        except OSError as error:
            raise _refusal("bringing lo up", error) from error


def _refusal(what: str, error: OSError) -> NotSupported | KernelError:
    """The typed error for a failed step: NotSupported when the machine's owner can change it, else KernelError."""
    number = error.errno or 0
    if number not in _REFUSED:
        return KernelError(number, f"private namespaces: {what}")
    switches = [_sysctl(path) for path in _SWITCHES if path.exists()]
    return NotSupported(
        f"private namespaces: {what}: {os.strerror(number)}",
        hint=f"run as root, or look at sysctl {', '.join(switches)}" if switches else "run as root",
    )


def _sysctl(path: Path) -> str:
    """The file of a sysctl as ``name=value``."""
    return f"{'.'.join(path.relative_to('/proc/sys').parts)}={path.read_text('utf-8').strip()}"


# --- system calls that the os module of Python 3.11 lacks

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _unshare(flags: int) -> None:
    _check(_libc.unshare(ctypes.c_int(flags)))


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    text = [None if part is None else part.encode() for part in (source, target, kind, data)]
    try:
        _check(_libc.mount(text[0], text[1], text[2], ctypes.c_ulong(flags), text[3]))
    except OSError as error:
        raise _refusal(f"mounting {kind or 'private'} on {target}", error) from error
