"""Following namespaces: what went from them, by whomever, as soon as the kernel says so.

One socket for each followed namespace, in the groups of links, addresses, routes, rules and neighbours; in the
host's a second one for nf_tables. An event says where to look again and is coalesced with its like; when the kernel
had to drop some, it says "lost". The mount table is watched, too: a namespace that is followed is let go of when it
is unpinned, and taken up when it is pinned. It never looks at what is left. Sources: rtnetlink(7),
<linux/rtnetlink.h>.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Collection
from typing import Final, Literal, TypeVar

import attrs

from libcnm.kernel.base import KernelEvent, KernelEvents, NamespaceId
from libcnm.kernel.linux import guards, pack, transport, unpack
from libcnm.kernel.linux.namespaces import Namespaces, identity_of
from libcnm.kernel.linux.worker import HomeNamespaces, Worker
from libcnm.kernel.resources import LINK_GROUP, PROTOCOL
from libcnm.model import limits
from libcnm.model.deadline import Deadline

T = TypeVar("T")
What = Literal["links", "addresses", "routes", "rules", "neighbours", "filters", "firewall", "lost"]

_GROUPS: Final = (1, 3, 4, 5, 7, 8, 9, 11, 19)
"""RTNLGRP_LINK, NEIGH, TC, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE."""
_NFNLGRP_NFTABLES: Final = 7
_NETLINK_NETFILTER: Final = 12
_BUFFER_BYTES: Final = 1 << 21
_WHAT: Final[dict[int, What]] = {
    pack.RTM_DELLINK: "links",
    pack.RTM_DELADDR: "addresses",
    pack.RTM_DELROUTE: "routes",
    pack.RTM_DELRULE: "rules",
    pack.RTM_DELNEIGH: "neighbours",
    guards.RTM_DELTFILTER: "filters",
}
_NFT_REMOVALS: Final = frozenset({2, 5, 8, 11, 14})
"""NFT_MSG_DELTABLE, DELCHAIN, DELRULE, DELSET, DELSETELEM."""
_SO_ATTACH_FILTER: Final = 26
_TYPE_BYTE: Final = 4 if sys.byteorder == "little" else 5
_REMOVALS_ONLY: Final = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, _TYPE_BYTE),  # A = the low octet of nlmsg_type
        (0x54, 0, 0, 3),  # A &= 3: each kind of rtnetlink object has four types, NEW, DEL, GET, SET
        (0x15, 0, 1, 1),  # DEL?
        (0x06, 0, 0, 0xFFFFFFFF),  # take it
        (0x06, 0, 0, 0),  # leave it
    )
)
"""A socket filter: whatever is made on the host would else wake this process only to be looked at and forgotten."""
MOUNTS_SECONDS: Final = 0.02
"""How long after a change of the mount table it is looked at: making a sandbox changes it, and needs the time."""


@attrs.frozen
class _Followed:
    identity: NamespaceId
    sockets: tuple[socket.socket, ...]

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


def _subscribed(protocol: int, groups: Collection[int]) -> socket.socket:
    """In the namespace that the calling thread is in."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    try:
        sock.bind((0, 0))
        transport.enlarge(sock, _BUFFER_BYTES)
        if protocol == 0:
            _take_removals_only(sock)
        for group in groups:
            sock.setsockopt(transport.SOL_NETLINK, transport.NETLINK_ADD_MEMBERSHIP, group)
    except BaseException:
        sock.close()
        raise
    return sock


def _take_removals_only(sock: socket.socket) -> None:
    program = ctypes.create_string_buffer(_REMOVALS_ONLY, len(_REMOVALS_ONLY))
    # struct sock_fprog: the number of instructions, of 8 octets each, and where they are.
    described = struct.pack("@HP", len(_REMOVALS_ONLY) // 8, ctypes.addressof(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)


def _is_worth_telling(kind: int, body: bytes) -> bool:
    """What carries our mark: not a port that leaves its bridge, nor a parked link; and, of rows, VTEPs' and permanent
    neighbours'.
    """
    if kind == pack.RTM_DELLINK:
        return body[0] != socket.AF_BRIDGE and unpack.link(body).group in (LINK_GROUP, pack.INNER_GROUP)
    if kind == pack.RTM_DELADDR:
        address = unpack.address(body)
        return address is not None and address.protocol == PROTOCOL
    if kind == pack.RTM_DELROUTE:
        route = unpack.route(body)
        return route is not None and route.protocol == PROTOCOL
    if kind == guards.RTM_DELTFILTER:
        return guards.is_ours(body)
    if kind != pack.RTM_DELNEIGH:
        return True
    row = unpack.neighbour(body)
    if row.family == socket.AF_BRIDGE:
        return row.address is not None
    return bool(row.state & pack.NUD_PERMANENT) or row.protocol == PROTOCOL


class LinuxEvents(KernelEvents):
    """A subscription. ``next`` is for one thread at a time; ``follow`` and ``close`` may be called from others."""

    def __init__(
        self, home: HomeNamespaces, worker: Worker, namespaces: Namespaces, on_close: Callable[[LinuxEvents], None]
    ) -> None:
        self._home = home
        self._worker = worker
        self._namespaces = namespaces
        self._on_close = on_close
        self._lock = threading.RLock()
        self._wanted: frozenset[str] = frozenset()
        self._followed: dict[str, _Followed] = {}
        self._owner: dict[int, tuple[str, socket.socket]] = {}
        self._pending: set[KernelEvent] = set()
        self._closed = False
        self._waiting = False
        self._look_at: float | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.epoll()
        self._poll.register(self._wake, select.EPOLLIN)
        # Of the worker's mount namespace, which may not be this thread's.
        self._mounts = self._call(lambda: os.open("/proc/thread-self/mountinfo", os.O_RDONLY | os.O_CLOEXEC))
        self._poll.register(self._mounts, select.EPOLLPRI)

    def next(self, timeout: float) -> tuple[KernelEvent, ...]:
        until = time.monotonic() + timeout
        while True:
            with self._lock:
                if self._closed or self._pending:
                    told, self._pending = self._pending, set()
                    return tuple(sorted(told, key=lambda event: (event.ns, event.what)))
                self._waiting = True
            due = until if self._look_at is None else min(until, self._look_at)
            ready = self._poll.poll(max(0.0, due - time.monotonic()))
            with self._lock:
                self._waiting = False
                if self._closed:
                    self._release()
                    return ()
                self._collect([fd for fd, _ in ready])
                if self._look_at is not None and time.monotonic() >= self._look_at:
                    self._look_at = None
                    self._look_again(announce=True)
                if not self._pending and time.monotonic() >= until:
                    return ()

    def follow(self, namespaces: Collection[str]) -> None:
        with self._lock:
            if self._closed:
                return
            self._wanted = frozenset(namespaces)
            self._look_again(announce=False)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for ns in list(self._followed):
                self._let_go(ns)
            if self._waiting:
                os.eventfd_write(self._wake, 1)  # closing what somebody waits on does not wake him: he closes the rest
            else:
                self._release()
        self._on_close(self)

    def _release(self) -> None:
        self._poll.close()
        os.close(self._mounts)
        os.close(self._wake)

    # -- with the lock held --------------------------------------------------------------------------------------------

    def _collect(self, ready: Collection[int]) -> None:
        for fd in ready:
            if fd == self._wake:
                os.eventfd_read(self._wake)
            elif fd == self._mounts:
                self._look_at = self._look_at or time.monotonic() + MOUNTS_SECONDS
            elif fd in self._owner:
                self._drain(*self._owner[fd])

    def _drain(self, ns: str, sock: socket.socket) -> None:
        firewall = sock.proto == _NETLINK_NETFILTER
        while True:
            try:
                data = sock.recv(transport.RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._pending.add(KernelEvent(ns, "lost"))
                continue
            for kind, _flags, _sequence, body in unpack.messages(data):
                if firewall:
                    if kind & 0xFF in _NFT_REMOVALS:
                        self._pending.add(KernelEvent(ns, "firewall"))
                    continue
                what = _WHAT.get(kind)
                if what is not None and _is_worth_telling(kind, body):
                    self._pending.add(KernelEvent(ns, what))

    def _look_again(self, *, announce: bool) -> None:
        """Follow what is wanted and pinned, and nothing else."""
        for ns in list(self._followed):
            if ns not in self._wanted:
                self._let_go(ns)
        now = self._call(lambda: {ns: self._identity(ns) for ns in self._wanted})
        for ns, identity in now.items():
            held = self._followed.get(ns)
            if held is not None and held.identity != identity:
                self._let_go(ns)
                held = None
                self._pending.add(KernelEvent(ns, "lost"))
            if held is None and identity is not None and self._take_up(ns) and announce:
                self._pending.add(KernelEvent(ns, "lost"))

    def _let_go(self, ns: str) -> None:
        held = self._followed.pop(ns)
        for sock in held.sockets:
            self._poll.unregister(sock)
            del self._owner[sock.fileno()]
        held.close()

    def _take_up(self, ns: str) -> bool:
        try:
            held = self._call(lambda: self._opened(ns))
        except OSError:
            return False  # gone again
        self._followed[ns] = held
        for sock in held.sockets:
            self._owner[sock.fileno()] = (ns, sock)
            self._poll.register(sock, select.EPOLLIN)
        return True

    # -- on the worker's thread ----------------------------------------------------------------------------------------

    def _identity(self, ns: str) -> NamespaceId | None:
        return self._namespaces.pinned(ns) if ns else identity_of(os.fstat(self._home.net))

    def _opened(self, ns: str) -> _Followed:
        fd = os.open(self._namespaces.path(ns), os.O_RDONLY | os.O_CLOEXEC) if ns else os.dup(self._home.net)
        try:
            rtnetlink = self._worker.visit(fd, lambda: _subscribed(0, _GROUPS))
            if ns:
                return _Followed(identity_of(os.fstat(fd)), (rtnetlink,))
            firewall = self._worker.visit(fd, lambda: _subscribed(_NETLINK_NETFILTER, (_NFNLGRP_NFTABLES,)))
            return _Followed(identity_of(os.fstat(fd)), (rtnetlink, firewall))
        finally:
            os.close(fd)

    def _call(self, action: Callable[[], T]) -> T:
        return self._worker.call(action, Deadline.after(limits.VERB_SECONDS, time.monotonic))
