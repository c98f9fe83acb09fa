"""From a controller to its installation's resident: see to it that there is one while one is needed, and tell it what
changed. How one is started is in :mod:`libcnm.controller.resident_start`.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

from libcnm.controller.context import Attendance, Context, Link, News
from libcnm.controller.resident_start import awaited, connect, reach
from libcnm.errors import CnmError, DeadlineExceeded, Unavailable
from libcnm.model import limits
from libcnm.model.deadline import Deadline

log = logging.getLogger("libcnm.resident")

_DUMP: Final = json.JSONEncoder(separators=(",", ":")).encode
_SYNC: Final = b'{"op":"sync"}\n'
_SYNC_AND_SWEEP: Final = b'{"op":"sync","parked":true}\n'
_REPLY_OCTETS: Final = 65536
_STEADY_SECONDS: Final = 10.0
"""A resident that ends sooner than that after it was reached is started again after a pause only, a longer one each
time: whatever ends it is perhaps still there."""
_PAUSE_SECONDS: Final = 0.5
_PAUSE_SECONDS_MAX: Final = 60.0


def announcer(context: Context) -> Link:
    """The link that the settings ask for."""
    mode = context.settings.resident
    if mode == "process":
        return ProcessLink(context)
    if mode == "thread":
        return ThreadLink(context)
    return InlineLink(context, follows=mode == "inline")


class InlineLink:
    """No resident: the caller's own thread follows (peers, and names as far as ``resolve_name`` goes), or nobody
    does.
    """

    def __init__(self, context: Context, *, follows: bool) -> None:
        from libcnm.controller.follower import Follower

        self._context = context
        self._follower = Follower(context) if follows else None
        self._lock = threading.Lock()

    def announce(self, deadline: Deadline, *, parked: bool = False) -> None:
        with self._lock:
            if self._follower is not None:
                self._follower.refresh(deadline)

    def wake(self, deadline: Deadline) -> None:
        """Nothing: it follows in the caller's own thread, when that waits for it."""

    def attendance(self, deadline: Deadline) -> Attendance:
        return "unneeded"  # who asked for none misses none

    def introduce(self, sandbox_id: str) -> None:
        """Nothing, for the same reason."""

    def foretell(self, sandbox_id: str, changed: News) -> None:
        """Nothing either."""

    def tell(self, sandbox_id: str, changed: News, deadline: Deadline, *, parked: bool = False) -> None:
        self.announce(deadline)

    def close(self) -> None:
        with self._lock:
            if self._follower is not None:
                self._follower.close()
                self._follower = None
        self._context.doors.kernel.sweep()


class ThreadLink:
    """A resident in this process, for tests: it dies with it, and a busy caller starves it."""

    def __init__(self, context: Context) -> None:
        from libcnm.controller.resident import LOCK, Resident

        deadline = context.doors.clock.deadline(context.settings.timeout)
        self._election = context.doors.locks.acquire(LOCK, deadline=deadline)
        self._resident = Resident(context, linger=None)
        up = threading.Event()
        self._thread = threading.Thread(
            target=self._resident.serve, args=(up.set,), name="libcnm-resident", daemon=True
        )
        self._thread.start()
        self._link = ProcessLink(context, starts=False)
        if not up.wait(deadline.remaining()):
            raise DeadlineExceeded("the resident thread", deadline.budget)

    def announce(self, deadline: Deadline, *, parked: bool = False) -> None:
        self._link.announce(deadline, parked=parked)

    def wake(self, deadline: Deadline) -> None:
        """Nothing: it is awake for as long as this is open."""

    def attendance(self, deadline: Deadline) -> Attendance:
        return self._link.attendance(deadline)

    def introduce(self, sandbox_id: str) -> None:
        self._link.introduce(sandbox_id)

    def foretell(self, sandbox_id: str, changed: News) -> None:
        self._link.foretell(sandbox_id, changed)

    def tell(self, sandbox_id: str, changed: News, deadline: Deadline, *, parked: bool = False) -> None:
        self._link.tell(sandbox_id, changed, deadline, parked=parked)

    def close(self) -> None:
        self._link.close()
        self._resident.stop()
        self._thread.join()
        self._election.release()


class ProcessLink:
    """A connection to the resident process, made and made anew when it is needed.

    Each sync is answered, in order; a sandbox is *introduced* once a sync that was sent after its creation is
    answered: then its names are served, and only what changes has to be told.

    While there is a connection, or a resident is being started, a thread of ours (the *keeper*) waits for its end: one
    that was killed is replaced, also when no verb comes that would miss it. Everything else is under the lock; whoever
    must not wait takes it only when it is free, and leaves word for who has it.
    """

    def __init__(self, context: Context, *, starts: bool = True) -> None:
        self._context = context
        self._starts = starts
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._owed = 0
        self._received = b""
        self._introduced: set[str] = set()
        self._newcomers: set[str] = set()
        self._closing = threading.Event()
        self._nudge = threading.Event()
        self._missed = False
        self._keeper: threading.Thread | None = None

    # -- what verbs say ----------------------------------------------------------------------------------------------

    def wake(self, deadline: Deadline) -> None:
        try:
            with self._turn(deadline):
                if self._connection is None and self._wanted(deadline):
                    self._approach()
                    if self._connection is None:
                        log.info("nobody serves the sandboxes of this installation yet; a resident is started")
        except (OSError, CnmError) as error:
            log.warning("the resident cannot be woken now: %s", error)

    def attendance(self, deadline: Deadline) -> Attendance:
        try:
            with self._turn(deadline):
                if self._answers(deadline):
                    return "present"
                return "absent" if self._wanted(deadline) else "unneeded"
        except DeadlineExceeded as error:  # somebody else waits for it
            log.warning("the resident: %s", error)
            return "absent" if self._connection is None else "behind"
        except (TimeoutError, CnmError) as error:
            log.warning("the resident does not follow: %s", error)
            return "behind"

    def _answers(self, deadline: Deadline) -> bool:
        for _ in range(2):  # ours may have ended, and another be there
            try:
                if self._connection is None:
                    self._adopt(awaited(self._context, deadline, unless=self._closing.is_set))
                if self._connection is None:
                    return False
                self._ask(deadline, _SYNC)
                return True
            except DeadlineExceeded:  # it is being started, and is not ready yet
                return False
            except TimeoutError:
                self._disconnect()
                raise
            except OSError as error:
                self._disconnect()
                log.debug("the resident has ended: %s", error)
        return False

    def announce(self, deadline: Deadline, *, parked: bool = False) -> None:
        """Sync; a resident that is not there is started if there is a sandbox for it to serve."""
        with self._turn(deadline):
            self._sync(deadline, _SYNC_AND_SWEEP if parked else _SYNC)

    def introduce(self, sandbox_id: str) -> None:
        self._newcomers.add(sandbox_id)
        self._introduce_newcomers()

    def foretell(self, sandbox_id: str, changed: News) -> None:
        if self._lock.acquire(blocking=False):  # else it is told soon enough
            try:
                if self._connection is not None and sandbox_id in self._introduced:
                    self._sent(_told(changed, parked=False))
            finally:
                self._lock.release()

    def tell(self, sandbox_id: str, changed: News, deadline: Deadline, *, parked: bool = False) -> None:
        with self._turn(deadline):
            if self._connection is not None and sandbox_id in self._introduced:
                try:
                    self._settle(deadline)
                    self._connection.settimeout(max(deadline.remaining(), 0.001))
                    self._connection.sendall(_told(changed, parked=parked))
                except (OSError, CnmError) as error:
                    self._disconnect()  # half a message may be on its way; a new connection tells what is wrong
                    log.debug("telling the resident: %s", error)
                else:
                    return
            self._sync(deadline, _SYNC_AND_SWEEP if parked else _SYNC)
            self._know({sandbox_id})

    def close(self) -> None:
        self._closing.set()
        self._nudge.set()
        with self._lock:
            self._disconnect()
            keeper = self._keeper
        if keeper is not None:
            keeper.join()

    # -- turns -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _turn(self, deadline: Deadline) -> Iterator[None]:
        if not self._lock.acquire(timeout=deadline.remaining()):
            raise DeadlineExceeded("the resident", deadline.budget, hint="another thread waits for it, too")
        try:
            yield
        finally:
            self._lock.release()
            self._introduce_newcomers()

    def _introduce_newcomers(self) -> None:
        """Whoever has the lock looks once more when it has let go: so nobody is forgotten, and nobody waits."""
        while self._newcomers and self._lock.acquire(blocking=False):
            try:
                some = {self._newcomers.pop() for _ in range(len(self._newcomers))}
                if self._connection is None or not self._sent(_SYNC):
                    self._approach()
                    if self._connection is None or not self._sent(_SYNC):
                        continue  # the first join makes them known
                self._owed += 1
                self._know(some)
            except (OSError, CnmError) as error:
                log.warning("the resident cannot be woken now: %s", error)
            finally:
                self._lock.release()

    def _know(self, some: set[str]) -> None:
        """As introduced. Nobody says when a sandbox has gone: at some point all are forgotten, and a sync each is all
        that it costs those that are there.
        """
        if len(self._introduced) >= limits.DECODED_RECORDS:
            self._introduced.clear()
        self._introduced |= some

    def _sent(self, message: bytes) -> bool:
        """Send without waiting; a connection that does not take it is given up, and made anew when it is needed."""
        assert self._connection is not None, "the caller has looked"
        try:
            self._collect(socket.MSG_DONTWAIT)
            self._connection.send(message, socket.MSG_DONTWAIT)
        except (OSError, CnmError) as error:
            log.debug("a note to the resident: %s", error)
            self._disconnect()
            return False
        return True

    def _sync(self, deadline: Deadline, request: bytes) -> None:
        for attempt in range(3):
            try:
                if self._connection is None:
                    self._adopt(self._reached(deadline))
                if self._connection is not None:
                    self._ask(deadline, request)
                return
            except TimeoutError:
                self._disconnect()  # a late reply would be taken for the next request's
                raise DeadlineExceeded("the resident's acknowledgement", deadline.budget) from None
            except OSError as error:
                self._disconnect()
                if attempt == 2:
                    raise Unavailable("the resident", str(error), hint="see its log for why it ends") from None
            except BaseException:
                self._disconnect()
                raise

    def _ask(self, deadline: Deadline, request: bytes) -> None:
        assert self._connection is not None, "the caller has looked"
        self._connection.settimeout(max(deadline.remaining(), 0.001))
        self._connection.sendall(request)
        self._owed += 1
        self._settle(deadline)

    def _settle(self, deadline: Deadline) -> None:
        """Wait for every reply that is still owed."""
        while self._owed:
            assert self._connection is not None, "replies are owed by somebody"
            self._connection.settimeout(max(deadline.remaining(), 0.001))
            self._collect(0)

    def _collect(self, flags: int) -> None:
        """Take replies that have come; with no flags, wait for one."""
        if not self._owed:
            return
        assert self._connection is not None, "replies are owed by somebody"
        try:
            data = self._connection.recv(_REPLY_OCTETS, flags)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionResetError("the resident ended")
        *replies, self._received = (self._received + data).split(b"\n")
        self._owed -= len(replies)  # all of them, also when one is a refusal
        for reply in replies:
            _check(reply)

    # -- the connection ----------------------------------------------------------------------------------------------

    def _wanted(self, deadline: Deadline) -> bool:
        """Whether there is a sandbox to serve; those of an earlier boot are only not forgotten yet."""
        boot_id = self._context.doors.kernel.boot_id
        return any(one.record.boot_id == boot_id for one in self._context.local.sandboxes(deadline))

    def _approach(self) -> None:
        """A connection if that takes no waiting; else the keeper starts a resident, also if we are closed meanwhile."""
        self._adopt(connect(self._context.settings.paths.socket, 0))
        if self._connection is None and self._starts and not self._closing.is_set():
            self._missed = True
            self._nudge.set()
            self._keep()

    def _reached(self, deadline: Deadline) -> socket.socket | None:
        found = connect(self._context.settings.paths.socket, max(deadline.remaining(), 0.001))
        if found is not None or not self._starts or not self._wanted(deadline):
            return found
        return reach(self._context, deadline, unless=self._closing.is_set)

    def _adopt(self, connection: socket.socket | None) -> None:
        if connection is None:
            return
        if self._closing.is_set():
            connection.close()
            return
        self._connection = connection
        if self._starts:
            self._keep()

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)  # wakes the keeper, who has a descriptor of its own
            self._connection.close()
            self._connection = None
        self._owed, self._received = 0, b""
        self._introduced.clear()

    # -- the keeper --------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._watch_over, name="libcnm-keeper", daemon=True)
            self._keeper.start()

    def _watch_over(self) -> None:
        """Until this link is closed, or no resident is needed: wait for the end of the one there is, and replace it."""
        clock, early, ended = self._context.doors.clock, 0, None
        while True:
            self._nudge.clear()
            try:
                with self._lock:
                    found = self._hold(ended)
                self._introduce_newcomers()
                if found is None:
                    return
                since = clock.monotonic()
                ended, descriptor = found
                _wait_for_the_end(descriptor)
                early = early + 1 if clock.monotonic() - since < _STEADY_SECONDS else 0
            except Exception as error:  # noqa: BLE001 - a keeper that ended would replace nobody any more
                log.warning("the resident cannot be replaced now: %s", error)
                early += 1
            if early > 1 and not self._closing.is_set():
                self._nudge.wait(min(_PAUSE_SECONDS * 2 ** min(early - 2, 16), _PAUSE_SECONDS_MAX))

    def _hold(self, ended: socket.socket | None) -> tuple[socket.socket, int] | None:
        """The connection, and a descriptor of it that is the keeper's own; made if need be. None: the keeper goes."""
        if self._connection is not None and self._connection is ended:
            self._disconnect()
        missed, self._missed = self._missed, False
        if self._connection is None and (missed or not self._closing.is_set()):
            gone = ended is not None and not os.path.lexists(self._context.settings.paths.socket)
            if missed or not gone:  # one that ends on purpose removes its path
                deadline = self._context.doors.clock.deadline(self._context.settings.timeout)
                self._adopt(self._reached(deadline))
        if self._connection is None:
            self._keeper = None
            return None
        return self._connection, os.dup(self._connection.fileno())


def _wait_for_the_end(descriptor: int) -> None:
    """Until the other side of a connection is gone, or this one is shut down; the descriptor is closed then."""
    try:
        hangup = select.poll()
        hangup.register(descriptor, select.POLLRDHUP)
        hangup.poll()
    finally:
        os.close(descriptor)


def _told(changed: News, *, parked: bool) -> bytes:
    written = {key: None if one is None else (one.version, one.value.decode()) for key, one in changed.items()}
    message = _request(written, parked)
    return message if len(message) <= limits.REQUEST_BYTES else _request(dict.fromkeys(changed), parked)


def _request(written: Mapping[str, object], parked: bool) -> bytes:
    request = {"op": "told", "changed": written, "parked": parked}
    return _DUMP(request).encode() + b"\n"


def _check(reply: bytes) -> None:
    answer = json.loads(reply)
    if not answer.get("ok"):
        raise Unavailable("the resident", str(answer.get("message")))
