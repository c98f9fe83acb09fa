"""The database file of a SQLite store: made whole or not at all, checked before it is trusted, reached through handles.

A :class:`DatabaseFile` creates (complete, under another name, then linked into place), refuses what is not ours, and
opens connections. A :class:`Handle` is one connection behind a lock: it waits for other processes until the caller's
deadline, turns every sqlite3 error into one of ours, and throws a connection away that can no longer be trusted.

It must never know what the tables mean, beyond the script that makes them; and it never deletes a database.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import stat
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from libcnm.errors import CnmError, Corrupt, DeadlineExceeded, Invalid, Unavailable
from libcnm.model.deadline import Deadline

APPLICATION: Final = 0x636E6D31
"""``PRAGMA application_id``: "cnm1"; tells our files from another program's."""
SCHEMA: Final = 1
"""``PRAGMA user_version``: raised when the tables change."""
_SCRIPT: Final = f"""
CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL, checksum INTEGER NOT NULL,
                      lease TEXT) WITHOUT ROWID;
CREATE INDEX entries_by_lease ON entries (lease) WHERE lease IS NOT NULL;
CREATE TABLE changes (revision INTEGER PRIMARY KEY, keys TEXT NOT NULL);
CREATE TABLE leases (id TEXT PRIMARY KEY, boot TEXT NOT NULL, ends_at REAL NOT NULL) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {SCHEMA};
"""
"""``changes`` has one row for each commit, with the keys it changed, one a line; its last row is never removed, so that
its number is the revision. An entry's version is the revision that wrote it."""
_FIRST_PAUSE_SECONDS: Final = 0.0005
_LONGEST_PAUSE_SECONDS: Final = 0.005
"""A commit takes about 1 ms: another process's lock is tried again that often, with jitter."""
_LOG_BYTES: Final = 8 * 2**20
"""What the write-ahead log is cut back to after a burst; it is checkpointed at 1000 pages (4 MiB)."""
RESERVE_BYTES: Final = 256 * 1024
"""Kept beside the database for the day the disk is full: a release must still get through. About 20 transactions."""
_FOREVER_SECONDS: Final = 86_400.0
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_SURE: Final = _BUSY | {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY}
"""Of an error while committing, those after which nothing was committed."""
_REASONS: Final = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk failed",
    sqlite3.SQLITE_READONLY: "it is read-only for this process",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_PERM: "permission denied",
    sqlite3.SQLITE_NOMEM: "out of memory",
}

T = TypeVar("T")


class DatabaseFile:
    """Where the database is and which file it was when it was first opened. ``mistrust`` makes every handle reopen."""

    def __init__(self, path: str, now: Callable[[], float]) -> None:
        if not os.path.isabs(path) or "\0" in path:
            raise Invalid("path", path, "is not an absolute path")
        self.path = os.path.normpath(path)
        self.what = f"store {self.path}"
        self.now = now
        self.generation = 0
        self.identity = (0, 0)

    def prepare(self) -> None:
        """Make parents (0700) and database (0600) where absent; refuse links, strangers' and newer files."""
        try:
            _make_parents(os.path.dirname(self.path))
            if _look(self.path) is None:
                self._create()
            status = self._check_kind()
            if stat.S_IMODE(status.st_mode) & 0o077 and status.st_uid == os.geteuid():
                os.chmod(self.path, 0o600)
        except OSError as error:
            raise Unavailable(self.what, error.strerror or str(error)) from error
        self.identity = (status.st_dev, status.st_ino)
        self.keep_reserve()

    def keep_reserve(self) -> None:
        """Set some disk space aside, if that is not done yet and there is any."""
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self.path + ".reserve", flags, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            finally:
                os.close(descriptor)

    def spend_reserve(self) -> bool:
        """Give that space to the next commit; whether there was any. The next opening sets it aside again."""
        try:
            os.unlink(self.path + ".reserve")
        except OSError:
            return False
        return True

    def is_same(self) -> bool:
        """Whether the path still names the file that was opened; a deleted one would take writes and lose them."""
        try:
            status = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self.identity

    def recognise(self) -> None:
        """After the file at the path has changed: trust the new one (a restored copy), never create one."""
        try:
            status = self._check_kind()
        except OSError as error:
            reason = f"the database file is gone: {error.strerror}"
            raise Unavailable(self.what, reason, hint="restore it, or open the store anew") from error
        self.identity = (status.st_dev, status.st_ino)
        self.generation += 1

    def mistrust(self) -> None:
        """No connection that exists now is used again."""
        self.generation += 1

    def connect(self) -> sqlite3.Connection:
        """A connection to a checked file; raises sqlite3.Error (the handle's to translate) or Corrupt."""
        connection = _connect(self.path)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA cell_size_check = ON")
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
            application, schema = _pragma(connection, "application_id"), _pragma(connection, "user_version")
            if application != APPLICATION:
                raise Corrupt(self.what, "it is a database of another application", hint="give another path")
            if not isinstance(schema, int) or schema > SCHEMA:
                raise Corrupt(
                    self.what,
                    f"its schema is {schema}, this libcnm knows {SCHEMA}",
                    hint="upgrade libcnm on this host, or give another path",
                )
            if _pragma(connection, "journal_mode = WAL") != "wal":
                raise Unavailable(self.what, "its file system cannot share memory", hint="use a local file system")
        except BaseException:
            connection.close()
            raise
        return connection

    def _create(self) -> None:
        """Build a complete database beside the path, then link it there: nobody ever sees half of one."""
        if _look(self.path + "-wal") is not None and _look(self.path) is None:
            raise Corrupt(
                self.what, "it is gone but its write-ahead log is there", hint="restore it, or remove the log too"
            )
        folder = os.path.dirname(self.path)
        draft = os.path.join(folder, f".{os.path.basename(self.path)[:64]}.{secrets.token_hex(6)}")
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        try:
            with contextlib.closing(_connect(draft)) as connection:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(_SCRIPT)
                # A random beginning: versions of a database that was lost do not come back in its successor.
                connection.execute("INSERT INTO changes VALUES (?, '')", (1 + secrets.randbits(32),))
            with contextlib.suppress(FileExistsError):  # another process was faster: its file is as good
                os.link(draft, self.path)
            _sync_directory(folder)
        except sqlite3.Error as error:
            raise translate(error, self.what) from error
        finally:
            for name in (draft, draft + "-wal", draft + "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name)

    def _check_kind(self) -> os.stat_result:
        """Never opens the file: closing a descriptor of it would drop this process's POSIX locks on it.

        See "How To Corrupt An SQLite Database File", 2.2.
        """
        for path in (self.path, self.path + "-wal", self.path + "-shm"):
            status = _look(path)
            if status is not None and not stat.S_ISREG(status.st_mode):
                raise Corrupt(
                    f"store {path}", "it is not a regular file", hint="links are not followed; give the real path"
                )
        status = os.lstat(self.path)
        if status.st_size == 0:
            raise Corrupt(self.what, "it is empty", hint="restore it from a copy; to begin anew, move it away")
        return status


class Handle:
    """One connection and its lock. After an error that costs its trust, it is opened anew for the next call."""

    def __init__(self, file: DatabaseFile) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._generation = -1
        self._durable = True
        self._committing = False
        self._closing = threading.Event()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closing.is_set()

    def close_soon(self) -> None:
        """Let calls that wait for another process give up, and refuse new ones."""
        self._closing.set()

    def run(self, deadline: Deadline, body: Callable[[sqlite3.Connection], T]) -> T:
        """``body`` with the connection to itself. It is run again when another process's lock stopped it.

        Raises what ``body`` raises, sqlite3's errors as ours; whatever transaction it left open is rolled back.
        """
        if not self._lock.acquire(timeout=min(deadline.remaining(), _FOREVER_SECONDS)):
            raise DeadlineExceeded(f"{self._file.what}: wait for another thread", deadline.budget)
        return self._run_locked(deadline, body)

    def run_rather(self, other: Handle, deadline: Deadline, body: Callable[[sqlite3.Connection], T]) -> T:
        """:meth:`run` on the ``other`` handle if nobody uses that now, else on this one."""
        if other._lock.acquire(blocking=False):
            return other._run_locked(deadline, body)
        return self.run(deadline, body)

    def _run_locked(self, deadline: Deadline, body: Callable[[sqlite3.Connection], T]) -> T:
        try:
            deadline.check(self._file.what)
            return self._run(deadline, body)
        finally:
            self._lock.release()

    def _run(self, deadline: Deadline, body: Callable[[sqlite3.Connection], T]) -> T:
        until: float | None = None
        pause = _FIRST_PAUSE_SECONDS
        while True:
            self._committing = False
            try:
                return body(self._open())
            except sqlite3.Error as error:
                self._undo()
                if _primary(error) not in _BUSY:
                    raise self._judge(error) from error
            except BaseException:
                self._undo()
                raise
            if until is None:  # by our own clock from here on: the deadline's may be a simulated one
                until = self._file.now() + deadline.remaining()
            left = until - self._file.now()
            if left <= 0:
                raise DeadlineExceeded(f"{self._file.what}: wait for another process", deadline.budget)
            self._closing.wait(min(left, pause * (0.5 + secrets.randbelow(100) / 200)))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def set_durable(self, connection: sqlite3.Connection, durable: bool) -> None:
        """With False, the next commits skip the fsync: a power failure may lose them, the end of a process cannot."""
        if durable != self._durable:
            connection.execute("PRAGMA synchronous = FULL" if durable else "PRAGMA synchronous = NORMAL")
            self._durable = durable

    def commit(self, connection: sqlite3.Connection) -> None:
        """COMMIT; an I/O error in here leaves the outcome unknown."""
        self._committing = True
        connection.execute("COMMIT")
        self._committing = False

    def close(self) -> None:
        """Idempotent; waits for the call that is running."""
        self._closing.set()
        with self._lock:
            self._drop()

    def _open(self) -> sqlite3.Connection:
        if self.closed:
            raise Unavailable(self._file.what, "it is closed")
        if not self._file.is_same():
            self._file.recognise()
        if self._connection is None or self._generation != self._file.generation:
            self._drop()
            self._generation = self._file.generation
            self._connection = self._file.connect()
            self._durable = True
        return self._connection

    def _undo(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                self._drop()

    def _judge(self, error: sqlite3.Error) -> CnmError:
        primary = _primary(error)
        if primary == sqlite3.SQLITE_IOERR or primary in _CORRUPT:
            self._drop()
            self._file.mistrust()
        return translate(error, self._file.what, outcome_unknown=self._committing and primary not in _SURE)

    def _drop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def translate(error: sqlite3.Error, what: str, *, outcome_unknown: bool = False) -> CnmError:
    """One of our errors for one of sqlite3's."""
    primary = _primary(error)
    if primary in _CORRUPT or primary is None:  # without a code: text that is not UTF-8, a module of another version
        return Corrupt(
            what, str(error), hint="it was left as it is; restore it from a copy, or move it away to begin anew"
        )
    reason = _REASONS.get(primary, "SQLite failed")
    return Unavailable(what, f"{reason} ({error})", outcome_unknown=outcome_unknown)


def is_full(error: CnmError) -> bool:
    """Whether the disk had no room for it."""
    return isinstance(error.__cause__, sqlite3.Error) and _primary(error.__cause__) == sqlite3.SQLITE_FULL


def _primary(error: sqlite3.Error) -> int | None:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _connect(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False, cached_statements=64)


def _pragma(connection: sqlite3.Connection, text: str) -> object:
    row = connection.execute(f"PRAGMA {text}").fetchone()
    return None if row is None else row[0]


def _look(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def _make_parents(folder: str) -> None:
    missing = []
    while not os.path.isdir(folder) and folder not in ("", "/"):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for path in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)


def _sync_directory(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
