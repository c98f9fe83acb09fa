"""The embedded store: one SQLite file that any number of processes of this host share.

WAL, ``synchronous=FULL``: a transaction that returned survives a power failure. Writers queue behind ``BEGIN
IMMEDIATE`` until their deadline; readers have connections of their own, so a read never waits for an fsync. Every
commit adds one row of changed keys, whose number is the revision, and rings the watchers' bells. Each entry carries a
checksum, as SQLite has none: a flipped bit is Corrupt, never a wrong answer. Leases end by CLOCK_BOOTTIME, which all
processes share and no administrator turns back; a reboot ends them all. (A process in a time namespace of its own must
not share the file.)

A full disk refuses what grows; a transaction that deletes something has a reserve (``<path>.reserve``) to get through.

It must never know what the records mean. ``sqlite3`` is imported only here and in the ``_sqlite`` modules behind it.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import ClassVar, Final, TypeVar

import attrs

from libcnm.errors import CnmError, Invalid, Unavailable
from libcnm.kv import _sqlite_tables as tables
from libcnm.kv._bells import Bells
from libcnm.kv._sqlite_file import DatabaseFile, Handle, is_full
from libcnm.kv._sqlite_watch import Look, SQLiteWatch
from libcnm.kv.base import (
    Committed,
    Delete,
    Entry,
    Lease,
    Listing,
    Revision,
    Store,
    Transaction,
    Watch,
    check_key,
    check_prefix,
)
from libcnm.model import limits
from libcnm.model.deadline import Deadline

T = TypeVar("T")
Change = Callable[[sqlite3.Connection], tuple[T, bool]]
"""What to do in a write transaction: the result, and whether watchers have something to see."""
_LOOK_SECONDS: Final = 0.5
"""How long a watch's look waits for other processes before it gives up until the next."""


def boot_time() -> float:
    """Seconds since this host booted, sleep included; the same in all its processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """The kernel's name for this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class SQLiteStore(Store):
    """A store in the file ``path`` (absolute; made with its parents when absent). Thread-safe; not for use across fork.

    ``now`` measures waiting for other processes; ``lease_clock`` and ``boot`` say when leases end (tests give their
    own). ``deadline`` bounds the opening (default: 10 s). Raises Invalid, Unavailable, DeadlineExceeded, and Corrupt
    for a file that is not a store of ours or of a newer libcnm; it is left as it is.
    """

    scheme: ClassVar[str] = "sqlite"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        now: Callable[[], float] = time.monotonic,
        lease_clock: Callable[[], float] = boot_time,
        boot: str | None = None,
        deadline: Deadline | None = None,
    ) -> None:
        self._clock = tables.BootClock(boot_id() if boot is None else boot, lease_clock)
        self._file = DatabaseFile(os.fspath(path), now)
        self._file.prepare()
        self._handles = tuple(Handle(self._file) for _ in range(4))
        self._writer, self._getter, self._lister, self._looker = self._handles
        self._bells = Bells(f"{self._file.path}.bells")
        try:
            self._lister.run(deadline or Deadline.after(limits.VERB_SECONDS, now), tables.newest_revision)
        except BaseException:
            self.close()
            raise

    def get(self, key: str, *, deadline: Deadline) -> Entry | None:
        return self.get_many((key,), deadline=deadline).get(key)

    def get_many(self, keys: Iterable[str], *, deadline: Deadline) -> dict[str, Entry]:
        wanted = tuple(keys)
        for key in wanted:
            check_key(key)
        # On the writer's connection while nobody writes: the pages that its last commit has changed are in its cache
        # alone. (Not so listings, which may be long: nobody here could write meanwhile.)
        return self._getter.run_rather(
            self._writer, deadline, lambda connection: tables.read_entries(connection, wanted, self._clock)
        )

    def list(self, prefix: str, *, deadline: Deadline) -> Listing:
        check_prefix(prefix)
        return self._lister.run(
            deadline, lambda connection: tables.read_range(connection, prefix, self._clock, deadline)
        )

    def transact(self, transaction: Transaction, *, deadline: Deadline, durable: bool = True) -> Committed:
        transaction.check()
        body = partial(tables.apply, transaction, self._clock)
        try:
            return self._write(deadline, body, durable=durable)
        except Unavailable as error:
            releases = any(isinstance(write, Delete) for write in transaction.writes)
            if not (releases and is_full(error) and self._file.spend_reserve()):
                raise
        return self._write(deadline, body, durable=durable)

    def watch(self, prefix: str, revision: Revision) -> Watch:
        check_prefix(prefix)
        if self._lister.closed:
            raise Unavailable(self._file.what, "it is closed")
        return SQLiteWatch(self._bells, partial(self._look, prefix), lambda: not self._lister.closed, revision)

    def _look(self, prefix: str, since: Revision) -> Look:
        """What changed, after removing the keys of leases that ended: that is how watchers learn of those."""

        def body(connection: sqlite3.Connection) -> tuple[frozenset[str], Look]:
            return tables.ended_leases(connection, self._clock), tables.changes_since(connection, prefix, since)

        soon = partial(Deadline.after, _LOOK_SECONDS, time.monotonic)
        ended, look = self._looker.run(soon(), body)
        if not ended:
            return look
        try:
            self._write(soon(), partial(tables.end_leases_now, self._clock, None), durable=False)
        except CnmError:
            return attrs.evolve(look, stuck=ended)
        return self._looker.run(soon(), body)[1]

    def lease(self, seconds: float, *, deadline: Deadline) -> Lease:
        if not limits.LEASE_SECONDS_MIN <= seconds < float("inf"):
            raise Invalid("lease", seconds, f"is not a number of seconds from {limits.LEASE_SECONDS_MIN:g} up")
        lease_id = secrets.token_hex(8)
        self._write(deadline, partial(tables.add_lease, lease_id, seconds, self._clock), durable=False)
        extend = partial(tables.extend_lease, lease_id, seconds, self._clock)
        end = partial(tables.end_leases_now, self._clock, lease_id)
        return _SQLiteLease(
            lease_id,
            seconds,
            lambda deadline: self._write(deadline, extend, durable=False),
            lambda deadline: self._write(deadline, end, durable=False),
        )

    def verify(self, *, deadline: Deadline) -> None:
        """Read the whole database once and raise Corrupt if anything is damaged, such as a key that lookups now miss.

        For the resident's start and the doctor: about 3 ms for each thousand keys.
        """
        self._lister.run(deadline, lambda connection: tables.verify(connection, self._clock, deadline))

    def close(self) -> None:
        for handle in self._handles:
            handle.close_soon()
        self._bells.close()
        for handle in self._handles:
            handle.close()

    def _write(self, deadline: Deadline, change: Change[T], *, durable: bool) -> T:
        """One write transaction around ``change``; rings the bells when it is committed."""

        def body(connection: sqlite3.Connection) -> tuple[T, bool]:
            self._writer.set_durable(connection, durable)
            connection.execute("BEGIN IMMEDIATE")
            outcome = change(connection)
            self._writer.commit(connection)
            return outcome

        result, changed = self._writer.run(deadline, body)
        if changed:
            self._bells.ring()
        return result


class _SQLiteLease(Lease):
    def __init__(
        self, lease_id: str, seconds: float, extend: Callable[[Deadline], None], end: Callable[[Deadline], None]
    ) -> None:
        self.id = lease_id
        self.seconds = seconds
        self._extend = extend
        self._end = end

    def keep_alive(self, *, deadline: Deadline) -> None:
        self._extend(deadline)

    def revoke(self, *, deadline: Deadline) -> None:
        self._end(deadline)
