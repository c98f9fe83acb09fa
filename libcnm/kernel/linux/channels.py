"""The open netlink sockets, one per namespace in use: kept by name and inode, lent out, closed when unpinned.

An open socket keeps its namespace alive, with all its devices (a VXLAN device would hold its VNI). So a namespace
that is no longer pinned under its name, by whomever's doing, is closed here as soon as nobody uses it, and at most
``CHANNELS`` stay open. It knows how to open, never what is sent. Opening happens on the worker's thread; what is
lent may be used from any thread, by one at a time, under its lock.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from libcnm.errors import DeadlineExceeded
from libcnm.kernel.base import NamespaceId
from libcnm.kernel.linux import pack, transport
from libcnm.kernel.linux.namespaces import Namespaces, identity_of
from libcnm.kernel.linux.transport import Transport
from libcnm.kernel.linux.worker import HomeNamespaces, Worker, door_failed
from libcnm.model import limits
from libcnm.model.deadline import Deadline

CHANNELS: Final = 64
"""Each costs two descriptors; the shell's usual limit is 1024, and the resolver wants two for each sandbox."""


class Channel:
    """A namespace's netlink socket and descriptor, lent out until :meth:`Channels.give_back`."""

    def __init__(self, name: str, identity: NamespaceId, fd: int, wire: Transport, brought: bool) -> None:
        self.name = name
        self.identity = identity
        self.fd = fd
        self.brought = brought
        self.made_here = False
        """Whether this process has made the namespace: then its lo has the index 1, as always, and nobody asks."""
        self.users = 0
        self._wire = wire
        self._lock = threading.Lock()

    @property
    def ours(self) -> bool:
        """Whether everything inside is ours: a namespace that we made."""
        return bool(self.name) and not self.brought

    @contextmanager
    def wire(self, deadline: Deadline) -> Iterator[Transport]:
        """The socket, for this thread alone."""
        if not self._lock.acquire(timeout=min(deadline.remaining(), threading.TIMEOUT_MAX)):
            raise DeadlineExceeded(f"the netlink socket of {self.name or 'the host'}", deadline.budget)
        try:
            yield self._wire
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close both descriptors. Only when nobody uses them."""
        self._wire.close()
        os.close(self.fd)


def open_transport() -> Transport:
    """A netlink socket in the namespace that the calling thread is in."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        transport.prepare(sock)
    except BaseException:
        sock.close()
        raise
    return Transport(sock)


def _with_lo_up(wire: Transport) -> Transport:
    """The only socket of a namespace that nobody else knows yet."""
    up = [pack.set_link(1, pack.NO_AUTOMATIC_ADDRESSES), pack.set_link(1, up=True)]
    try:
        _, refusal = wire.send(up, Deadline.after(limits.VERB_SECONDS, time.monotonic))
        if refusal is not None:
            raise OSError(refusal.errno, os.strerror(refusal.errno), "lo")
    except BaseException:
        wire.close()
        raise
    return wire


class Channels:
    """All channels of a door."""

    def __init__(self, namespaces: Namespaces, worker: Worker, home: HomeNamespaces) -> None:
        self._namespaces = namespaces
        self._worker = worker
        self._home = home
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Channel] = OrderedDict()
        self._spare: Channel | None = None

    def lend(self, name: str, deadline: Deadline) -> Channel:
        """The channel of what is pinned under ``name`` now (``""``: home). FileNotFoundError when nothing is."""
        if not name:
            with self._lock:
                home = self._open.get("")
                if home is not None:
                    home.users += 1
                    return home
        else:
            known = self._worker.look(lambda: self._known(name), deadline)
            if known is not None:
                return known
        return self._worker.call(lambda: self._find(name), deadline, undo=self.give_back)

    def give_back(self, channel: Channel) -> None:
        """End a loan; a channel that was dropped meanwhile closes with its last one."""
        with self._lock:
            channel.users -= 1
            self._close_if_dropped(channel)

    @contextmanager
    def lent(self, name: str, deadline: Deadline) -> Iterator[Channel]:
        """:meth:`lend` and :meth:`give_back`; Unavailable when it cannot be opened for want of descriptors and the
        like, Forbidden when for want of privilege.
        """
        try:
            channel = self.lend(name, deadline)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise door_failed(error) from error
        try:
            yield channel
        finally:
            self.give_back(channel)

    def names(self, deadline: Deadline) -> tuple[str, ...]:
        """The host and every pinned namespace."""
        return ("", *self._worker.look(self._namespaces.names, deadline))

    def make(self, name: str, deadline: Deadline) -> Channel:
        """Make a namespace and lend its channel, in one trip."""
        return self._worker.call(lambda: self._made(name), deadline, undo=self.give_back)

    def drop_unpinned(self) -> None:
        """On the worker's thread: forget what is no longer pinned under its name."""
        with self._lock:
            names = [name for name in self._open if name]
        for name in names:
            now = self._namespaces.pinned(name)
            with self._lock:
                channel = self._open.get(name)
                if channel is not None and channel.identity != now:
                    self._drop(name)

    def close(self) -> None:
        """Drop all; those lent close when they come back. Nothing is made any more: the worker has ended."""
        spare = self._take_spare()
        if spare is not None:
            spare.close()
        with self._lock:
            for name in list(self._open):
                self._drop(name)

    def _known(self, name: str) -> Channel | None:
        identity = self._namespaces.pinned(name)
        with self._lock:
            channel = self._open.get(name)
            if channel is None or channel.identity != identity:
                return None
            channel.users += 1
            self._open.move_to_end(name)
            return channel

    def _find(self, name: str) -> Channel:
        identity = self._namespaces.pinned(name) if name else identity_of(os.fstat(self._home.net))
        if identity is None:
            self.drop(name)
            raise FileNotFoundError(name)
        with self._lock:
            channel = self._open.get(name)
            if channel is not None and channel.identity == identity:
                channel.users += 1
                self._open.move_to_end(name)
                return channel
        fd = os.open(self._namespaces.path(name), os.O_RDONLY | os.O_CLOEXEC) if name else os.dup(self._home.net)
        try:
            wire = self._worker.visit(fd, open_transport)
        except BaseException:
            os.close(fd)
            raise
        # Of the descriptor that was opened, not of the path looked at before.
        return self._keep(Channel(name, identity_of(os.fstat(fd)), fd, wire, self._brought(name)))

    def _made(self, name: str) -> Channel:
        self._namespaces.path(name)  # refused before anything is made
        channel = self._take_spare() or self._begin()
        channel.name = name
        try:
            self._namespaces.pin(name, channel.fd)
        except BaseException:
            channel.close()
            raise
        return self._keep(channel)

    def anticipate(self) -> None:
        """Begin a namespace for the next :meth:`make`, while the caller does something else."""
        self._worker.post(self._begin_spare)

    def _begin_spare(self) -> None:
        if self._spare is None:
            made = self._begin()
            with self._lock:
                self._spare = made

    def _take_spare(self) -> Channel | None:
        with self._lock:
            spare, self._spare = self._spare, None
            return spare

    def _begin(self) -> Channel:
        def inside() -> Channel:
            fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                channel = Channel("", identity_of(os.fstat(fd)), fd, _with_lo_up(open_transport()), brought=False)
            except BaseException:
                os.close(fd)
                raise
            channel.made_here = True
            return channel

        return self._namespaces.begin(inside)

    def _brought(self, name: str) -> bool:
        return bool(name) and self._namespaces.source(name) is not None

    def _keep(self, channel: Channel) -> Channel:
        with self._lock:
            if channel.name in self._open:
                self._drop(channel.name)
            channel.users += 1
            self._open[channel.name] = channel
            for name in list(self._open):
                if len(self._open) <= CHANNELS:
                    break
                if name and not self._open[name].users:
                    self._drop(name)
        return channel

    def drop(self, name: str) -> None:
        """Forget a name's channel; it closes when nobody uses it."""
        with self._lock:
            self._drop(name)

    def _drop(self, name: str) -> None:
        channel = self._open.pop(name, None)
        if channel is not None:
            self._close_if_dropped(channel)

    def _close_if_dropped(self, channel: Channel) -> None:
        if not channel.users and self._open.get(channel.name) is not channel:
            channel.close()
