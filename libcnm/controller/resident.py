"""The resident: one process per installation that serves names, follows the stores, heals, and sweeps.

Elected by a lock file, started by the first controller that needs one, gone shortly after the last sandbox. Verbs run
in their callers' processes; a caller that has changed something says ``told``, and no name is answered until that is
taken in, or says ``sync`` and gets its answer when everything committed before is. It keeps nothing that is not in the
stores: killed, it is replaced by the next. One that ends on purpose removes its socket, so a socket at which nobody
listens says that one was killed.
"""

from __future__ import annotations

import json
import logging
import os
import select
import selectors
import socket
import stat
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from libcnm.controller.context import Context, News
from libcnm.controller.dns_names import DnsNames
from libcnm.controller.follower import Follower
from libcnm.controller.healer import Healer
from libcnm.controller.recovery import recover
from libcnm.errors import CnmError, Invalid
from libcnm.kv.base import Entry, Gap, Store, Watch, check_key
from libcnm.model import limits
from libcnm.model.deadline import Deadline
from libcnm.model.ids import network_namespace

log = logging.getLogger("libcnm.resident")

LOCK: Final = "resident"
LINGER_SECONDS: Final = 1.0
"""How long it stays when there is no sandbox: scripts that make one after the other keep one resident."""
WATCH_SECONDS: Final = 1.0


class Resident:
    """The resident of one installation; ``serve`` runs it until it is not needed, ``stop`` ends it early."""

    def __init__(self, context: Context, *, linger: float | None = LINGER_SECONDS) -> None:
        self._context = context
        self._linger = linger
        self._names = DnsNames(context.doors.kernel, context.doors.clock, context.doors.entropy, behind=self._is_behind)
        self._follower = Follower(context, self._names)
        self._following = threading.Lock()
        self._stopping = threading.Event()
        self._stopped = False
        self._on_purpose = False
        self._needed = context.doors.clock.monotonic()
        self._selector = selectors.EpollSelector()
        self._unread = select.poll()  # for the names' thread alone: readable while a request is not read
        self._unread.register(self._selector.fileno(), select.POLLIN)
        self._working = False
        self._wake_in, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._guardian = -1
        self._watches: list[Watch] = []
        self._partial: dict[socket.socket, bytes] = {}
        self.healer = Healer(context, self._looked)

    # -- life --------------------------------------------------------------------------------------------------------

    def serve(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until stopped or not needed any more. ``ready`` is called once requests are answered."""
        listener = self._listen()
        threads = self._threads()
        try:
            self._names.start()
            recover(self._context, self._deadline())
            self._sync()
            for thread in threads:
                thread.start()
            self.healer.start()
            ready()
            while not self._stopping.is_set():
                self._turn()
                if self._unneeded():
                    self._on_purpose = True
                    break
        finally:
            self._close(listener, threads)

    def stop(self, *, on_purpose: bool = True) -> None:
        """End :meth:`serve`; from any thread. Not ``on_purpose``: whoever misses it replaces it."""
        self._stopped, self._on_purpose = True, on_purpose
        self._stopping.set()
        self._wake()

    def is_needed_again(self) -> bool:
        """After :meth:`serve`: it has ended for want of a sandbox, and somebody made one at that very moment, and told
        us when we did not listen any more.
        """
        boot_id = self._context.doors.kernel.boot_id
        found = self._context.local.sandboxes(self._deadline())
        return not self._stopped and any(one.record.boot_id == boot_id for one in found)

    def _close(self, listener: socket.socket, threads: list[threading.Thread]) -> None:
        # The path goes first: whoever finds no socket starts a successor, who waits for our lock.
        if self._on_purpose:
            with suppress(FileNotFoundError):
                os.unlink(self._context.settings.paths.socket)
        self._stopping.set()
        listener.close()
        for connection in list(self._partial):
            self._drop(connection)
        for watch in self._watches:
            watch.close()
        self.healer.close()
        with self._following:
            self._follower.close()
        self._names.close()
        for thread in threads:
            if thread.is_alive():
                thread.join()
        self._selector.close()
        if self._guardian >= 0:
            os.close(self._guardian)
        os.close(self._wake_in)
        os.close(self._wake_out)
        try:
            self._context.doors.kernel.sweep()
        except CnmError as error:
            log.warning("sweep: %s", error)

    def _unneeded(self) -> bool:
        if self._linger is None:
            return False
        now = self._context.doors.clock.monotonic()
        if self._follower.sandboxes:
            self._needed = now
        return now - self._needed > self._linger

    def _listen(self) -> socket.socket:
        path = self._context.settings.paths.socket
        try:
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)  # a dead predecessor's: we hold the lock
                self.healer.look()  # what went, or left another host, since it died
        except FileNotFoundError:
            pass
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # By descriptor: a socket's path has 107 octets at most, a folder's has more.
            listener.bind(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
        finally:
            os.close(folder)
        os.chmod(path, 0o600)
        listener.listen(64)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake_in, selectors.EVENT_READ, self._woken)
        self._watch_guardian()
        return listener

    def _watch_guardian(self) -> None:
        """A lab's resident ends with the lab, even when that was killed: a pidfd is readable once its process is
        gone.
        """
        guardian = self._context.settings.guardian
        if guardian is None:
            return
        try:
            self._guardian = os.pidfd_open(guardian)
        except ProcessLookupError:
            self.stop()
            return
        self._selector.register(self._guardian, selectors.EVENT_READ, lambda _: self.stop())

    # -- following ---------------------------------------------------------------------------------------------------

    def _sync(self) -> None:
        """Take in everything that was committed before this call."""
        with self._following:
            self._follower.refresh(self._deadline())
        self._follow_links()

    def _follow_links(self) -> None:
        """Have the kernel tell of what goes in the namespaces that hold links' outer ends."""
        with self._following:
            here = [one for one in self._follower.presences.values() if one.ready]
        self.healer.follow({"", *(network_namespace(one.epoch, one.network_id) for one in here)})

    def _looked(self, *, healed: bool) -> None:
        """Reconcile has put rows back behind the follower's back, or may have; it programs its peers anew. Whoever made
        a namespace anew, names are served there from now on.
        """
        with self._following:
            for network_id, presence in list(self._follower.presences.items()):
                if healed and presence.ready:
                    self._follower.forget_peers(network_id)
            self._follower.look_at_namespaces()
            self._follower.settle(self._deadline())

    def _threads(self) -> list[threading.Thread]:
        stores: list[Store] = [self._context.doors.local]
        if self._context.doors.cluster is not None:
            stores.append(self._context.doors.cluster)
        return [
            threading.Thread(target=self._watch, args=(store,), name=f"libcnm-watch-{store.scheme}", daemon=True)
            for store in stores
        ]

    def _watch(self, store: Store) -> None:
        """Wake the follower when a store changes, until the end; a store that fails is asked again after a while.

        Verbs of this host tell what they commit. Its own store is looked at for those that died in between, and without
        a bell, which every commit would have to ring.
        """
        local = store is self._context.doors.local
        while not self._stopping.is_set():
            try:
                revision = store.list("", deadline=self._deadline()).revision
                self._sync()
                with store.watch("", revision) as watch:
                    self._watches.append(watch)
                    while not self._stopping.is_set():
                        if local:
                            self._stopping.wait(WATCH_SECONDS)
                        hint = watch.next(0 if local else WATCH_SECONDS)
                        if hint is None:
                            if local:
                                with self._following:
                                    self._follower.show_again()
                            continue
                        self._sync()
                        if isinstance(hint, Gap):
                            break
            except Exception as error:  # noqa: BLE001 - whoever follows must not stop: names would go stale for good
                log.warning("watching the %s store: %s", store.scheme, error)
                self._stopping.wait(WATCH_SECONDS)

    def _deadline(self) -> Deadline:
        return self._context.doors.clock.deadline(self._context.settings.timeout)

    # -- requests ----------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        ready = self._selector.select(0.25)
        if not ready:
            return
        self._working = True  # before any request is read: see _is_behind
        try:
            for key, _ in ready:
                key.data(key.fileobj)
        finally:
            self._working = False
            self._names.caught_up()

    def _is_behind(self) -> bool:
        """Asked by the names' thread before each answer: has anybody told us something that we have not taken in?

        A verb tells us of its commit before it returns, and the kernel delivers that at once. So a name asked for
        after the verb has returned finds the request unread, or us at work on it, or done; and a verb need not wait
        for us.
        """
        return bool(self._unread.poll(0)) or self._working

    def _wake(self) -> None:
        with suppress(OSError):
            os.write(self._wake_out, b"\0")

    def _woken(self, descriptor: int) -> None:
        with suppress(BlockingIOError):
            os.read(descriptor, 4096)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        if not _trusted(connection):
            log.warning("refused a connection of another user")
            connection.close()
            return
        connection.setblocking(False)
        self._partial[connection] = b""
        self._selector.register(connection, selectors.EVENT_READ, self._receive)

    def _receive(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(limits.REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, rest = (self._partial[connection] + data).split(b"\n")
        if not data or len(rest) > limits.REQUEST_BYTES:  # one request may be too long; many that wait are none
            self._drop(connection)
            return
        self._partial[connection] = rest
        for line in lines:
            answer = self._answer(line)
            if answer is None:
                continue
            try:
                connection.sendall(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
            except OSError:
                self._drop(connection)
                return

    def _answer(self, line: bytes) -> dict[str, object] | None:
        self._needed = self._context.doors.clock.monotonic()
        request = request_of(line)
        operation = request.get("op")
        try:
            if operation == "sync":
                self._sync()
                self._sweep_for(request)
                return {"ok": True}
            if operation == "told":
                self._told(request)
                return None
            if operation == "statistics":
                return {"ok": True, "pid": os.getpid(), "sandboxes": len(self._follower.sandboxes)}
            if operation == "stop":
                self.stop()
                return {"ok": True}
            return {"ok": False, "code": "invalid", "message": "no such operation"}
        except CnmError as error:
            return {"ok": False, "code": error.code, "message": str(error)}

    def _told(self, request: Mapping[str, object]) -> None:
        """Nobody waits for an answer to this, so nobody may get one."""
        changed = request.get("changed")
        try:
            if isinstance(changed, dict):
                with self._following:
                    self._follower.take_in(news_of(changed), self._deadline())
                self._follow_links()
            else:
                self._sync()
            self._sweep_for(request)
        except CnmError as error:
            log.warning("told of a change: %s", error)

    def _sweep_for(self, request: Mapping[str, object]) -> None:
        if request.get("parked"):
            self.healer.swept_soon()

    def _drop(self, connection: socket.socket) -> None:
        self._partial.pop(connection, None)
        self._selector.unregister(connection)
        connection.close()


def request_of(line: bytes) -> Mapping[str, object]:
    """A line as a request; an empty one for whatever is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def news_of(changed: Mapping[str, object]) -> News:
    """What is not as our own link writes it is to be read."""
    found: dict[str, Entry | None] = {}
    for key, written in changed.items():
        with suppress(Invalid):  # no store has such a key, so there is nothing to read either
            check_key(key)
            found[key] = _entry(key, written)
    return found


def _entry(key: str, written: object) -> Entry | None:
    match written:
        case [int(version), str(value)] if type(version) is int and value.isascii():
            return Entry(key, value.encode(), version)
    return None


def _trusted(connection: socket.socket) -> bool:
    """The same user as ours, or root (SO_PEERCRED); the socket's mode says so too."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return uid in (0, os.geteuid())
