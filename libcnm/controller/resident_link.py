"""From a controller to its installation's resident: find it, start it when it is needed, tell it what changed.

The resident's configuration travels over its standard input, never on its command line: a store's URL may hold a
secret.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Final

from libcnm.controller.context import Context, Link
from libcnm.errors import CnmError, DeadlineExceeded, Unavailable
from libcnm.model import keys
from libcnm.model.deadline import Deadline

log = logging.getLogger("libcnm.resident")

MODULE: Final = "libcnm.controller.resident_main"
_LAUNCH: Final = "import os,sys;os.posix_spawn(sys.argv[1],sys.argv[1:],os.environ,setsid=True)"
"""The launcher: it starts the resident in a session of its own and ends, so that nobody has to reap the resident."""
_SYNC: Final = b'{"op":"sync"}\n'
_SYNC_AND_SWEEP: Final = b'{"op":"sync","parked":true}\n'
_REPLY_OCTETS: Final = 65536


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

    def introduce(self, sandbox_id: str) -> None:
        """Nothing: it follows in the caller's own thread, when that waits for it."""

    def foretell(self, sandbox_id: str, changed: Sequence[str]) -> None:
        """Nothing, for the same reason."""

    def tell(self, sandbox_id: str, changed: Sequence[str], deadline: Deadline, *, parked: bool = False) -> None:
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

    def introduce(self, sandbox_id: str) -> None:
        self._link.introduce(sandbox_id)

    def foretell(self, sandbox_id: str, changed: Sequence[str]) -> None:
        self._link.foretell(sandbox_id, changed)

    def tell(self, sandbox_id: str, changed: Sequence[str], deadline: Deadline, *, parked: bool = False) -> None:
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
    """

    def __init__(self, context: Context, *, starts: bool = True) -> None:
        self._context = context
        self._starts = starts
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._owed = 0
        self._received = b""
        self._introduced: set[str] = set()

    def announce(self, deadline: Deadline, *, parked: bool = False) -> None:
        """Sync; a resident that is not there is started if there is a sandbox for it to serve."""
        with self._lock:
            self._sync(deadline, _SYNC_AND_SWEEP if parked else _SYNC)

    def introduce(self, sandbox_id: str) -> None:
        with self._lock:
            if self._connection is not None and self._sent(_SYNC):  # else the first endpoint's join starts it
                self._owed += 1
                self._introduced.add(sandbox_id)

    def foretell(self, sandbox_id: str, changed: Sequence[str]) -> None:
        with self._lock:
            if self._connection is not None and sandbox_id in self._introduced:
                self._sent(_told(changed, parked=False))

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

    def tell(self, sandbox_id: str, changed: Sequence[str], deadline: Deadline, *, parked: bool = False) -> None:
        with self._lock:
            if self._connection is not None and sandbox_id in self._introduced:
                try:
                    self._settle(deadline)
                    self._connection.sendall(_told(changed, parked=parked))
                except (OSError, CnmError) as error:
                    log.debug("telling the resident: %s", error)  # the sync finds out what is wrong with it
                else:
                    return
            self._sync(deadline, _SYNC_AND_SWEEP if parked else _SYNC)
            self._introduced.add(sandbox_id)

    def close(self) -> None:
        with self._lock:
            self._disconnect()

    def _sync(self, deadline: Deadline, request: bytes) -> None:
        for attempt in range(3):
            try:
                if self._connection is None:
                    self._connection = self._connect(deadline)
                if self._connection is None:
                    return
                self._connection.settimeout(max(deadline.remaining(), 0.001))
                self._connection.sendall(request)
                self._owed += 1
                self._settle(deadline)
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

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._owed, self._received = 0, b""
        self._introduced.clear()

    def _connect(self, deadline: Deadline) -> socket.socket | None:
        found = connect(self._context.settings.paths.socket)
        if found is not None:
            return found
        if not self._starts or not self._wanted(deadline):
            return None
        while True:
            self._start(deadline)
            found = connect(self._context.settings.paths.socket)
            if found is not None:
                return found
            deadline.check("starting the resident")

    def _wanted(self, deadline: Deadline) -> bool:
        return bool(self._context.doors.local.list(keys.SANDBOXES, deadline=deadline).entries)

    def _start(self, deadline: Deadline) -> None:
        """Start one and wait until it says that it is ready, or that another one is."""
        settings = self._context.settings
        config = {
            "state_dir": settings.paths.state_dir,
            "run_dir": settings.paths.run_dir,
            "cluster_store": settings.cluster_store,
            "host": settings.host,
            "advertise": None if settings.advertise is None else str(settings.advertise),
            "default_host_ips": [str(ip) for ip in settings.default_host_ips],
            "guardian": settings.guardian,
        }
        argv = [sys.executable, "-I", "-S", "-c", _LAUNCH, sys.executable, "-m", MODULE]
        launcher = self._context.doors.kernel.spawn(
            argv,
            "",
            files={},
            options={"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._log(), "env": _environment()},
        )
        with launcher:
            assert launcher.stdin is not None
            assert launcher.stdout is not None
            launcher.stdin.write(json.dumps(config).encode() + b"\n")
            launcher.stdin.close()
            said = _read_line(launcher.stdout.fileno(), deadline)
        if said not in (b"ready", b"taken"):
            raise Unavailable(
                "the resident",
                "it ended before it was ready",
                hint=f"see {os.path.join(settings.paths.run_dir, 'resident.log')}",
            )

    def _log(self) -> int:
        return subprocess.DEVNULL


def _told(changed: Sequence[str], *, parked: bool) -> bytes:
    request = {"op": "told", "changed": list(changed), "parked": parked}
    return json.dumps(request, separators=(",", ":")).encode() + b"\n"


def _environment() -> dict[str, str]:
    """This process's, with a module path that finds this very libcnm."""
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    found = dict(os.environ)
    known = found.get("PYTHONPATH", "").split(os.pathsep) if found.get("PYTHONPATH") else []
    found["PYTHONPATH"] = os.pathsep.join([here, *(path for path in known if path != here)])
    return found


def connect(path: str) -> socket.socket | None:
    """A connection to a resident's socket, or None when nobody listens."""
    try:
        folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    finally:
        os.close(folder)
    return connection


def _check(reply: bytes) -> None:
    answer = json.loads(reply)
    if not answer.get("ok"):
        raise Unavailable("the resident", str(answer.get("message")))


def _read_line(descriptor: int, deadline: Deadline) -> bytes:
    """One line from a pipe; what came so far when the pipe ends; DeadlineExceeded when neither happens in time."""
    import select

    found = b""
    while not found.endswith(b"\n"):
        readable, _, _ = select.select([descriptor], [], [], deadline.remaining())
        if not readable:
            raise DeadlineExceeded("starting the resident", deadline.budget)
        data = os.read(descriptor, 64)
        if not data:
            break
        found += data
    return found.strip()


def stop_resident(context: Context, deadline: Deadline) -> bool:
    """Ask a running resident to end; True when there was one."""
    connection = connect(context.settings.paths.socket)
    if connection is None:
        return False
    with connection:
        try:
            connection.settimeout(max(deadline.remaining(), 0.001))
            connection.sendall(b'{"op":"stop"}\n')
            connection.recv(_REPLY_OCTETS)
        except OSError as error:
            log.debug("stopping the resident: %s", error)
    return True
