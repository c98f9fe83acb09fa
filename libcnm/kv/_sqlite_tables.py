"""The tables of a SQLite store, as functions on a connection: reading entries, applying a transaction, leases, the log.

The caller opens and ends the transactions; what must be one instant is called within one. Each commit that changes
something adds one row to ``changes``, so that revisions are consecutive and a reader of the log can tell that none is
missing. A lease has ended when the boot that made it has, or its time on the shared boot clock; from that instant its
keys are absent for every reader, and the next writer removes them.

It must never know about files, locks, other processes, or what the records mean.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Final

import attrs

from libcnm.errors import Conflict, Corrupt, NotFound
from libcnm.kv._sqlite_watch import Look
from libcnm.kv.base import Absent, Committed, Compare, Delete, Entry, Listing, Put, Revision, Transaction, after_prefix
from libcnm.model.deadline import Deadline

HISTORY_TRANSACTIONS: Final = 4096
"""How many commits a watch may lie behind before it gets a Gap; about 1 MB of file."""
HISTORY_KEYS: Final = 10_000
"""More keys than that in one hint are a Gap: listing is cheaper."""
LEASE_GRACE_SECONDS: Final = 0.25
"""Between the last moment to keep a lease alive and its keys' vanishing; longer than a commit takes, so that keys
which a reader saw vanish are never brought back by a ``keep_alive`` that was just being committed."""
_PRUNE_EVERY: Final = 64
_ENTRIES: Final = (
    "SELECT key, value, version, checksum, lease,"
    " lease IS NULL OR lease IN (SELECT id FROM leases WHERE boot = ? AND ends_at > ?)"
    " FROM entries WHERE key IN"
)
_RANGE: Final = (
    "SELECT key, value, version, checksum, lease,"
    " lease IS NULL OR lease IN (SELECT id FROM leases WHERE boot = ? AND ends_at > ?), newest"
    " FROM (SELECT max(revision) AS newest FROM changes) LEFT JOIN entries ON key >= ? AND key < ?"
)
"""One statement, so one instant. An empty range is one row without a key. (To have it sorted, SQLite would copy it.)"""
_BEFORE: Final = (
    "SELECT NULL, count(*) FROM leases WHERE boot <> ? OR ends_at <= ?"
    " UNION ALL SELECT key, version FROM entries WHERE key IN"
)
"""What a transaction asks before it writes, in one statement: how many leases have ended, and the versions of keys."""
_DELETE: Final = "DELETE FROM entries WHERE key = ?"
_PUT: Final = "INSERT OR REPLACE INTO entries (key, value, version, checksum, lease) VALUES (?, ?, ?, ?, ?)"
_ENDED: Final = "SELECT id FROM leases WHERE boot <> ? OR ends_at <= ?"
_CHANGES: Final = "SELECT revision, keys FROM changes WHERE revision >= ? ORDER BY revision"
_ROWS_AT_ONCE: Final = 1000
_KEYS_AT_ONCE: Final = 500
"""Some builds of SQLite take 999 variables in a statement."""
_INTEGER_MAX: Final = 2**63 - 1

Row = tuple[str, bytes, int, int, str | None]


@attrs.frozen
class BootClock:
    """What leases end by: seconds since boot (``now``), and which boot that was."""

    boot: str
    now: Callable[[], float]


def read_entries(connection: sqlite3.Connection, keys: Sequence[str], clock: BootClock) -> dict[str, Entry]:
    """Those of the keys that are there; in the order of ``keys``."""
    rows = []
    for at in range(0, len(keys), _KEYS_AT_ONCE):
        some = keys[at : at + _KEYS_AT_ONCE]
        rows += connection.execute(f"{_ENTRIES} ({_placeholders(some)})", (clock.boot, clock.now(), *some)).fetchall()
    found = {entry.key: entry for row in rows if (entry := _trusted(row)) is not None}
    return {key: found[key] for key in keys if key in found}


def read_range(connection: sqlite3.Connection, prefix: str, clock: BootClock, deadline: Deadline) -> Listing:
    """All that begins with ``prefix``, and the newest revision, as of one instant."""
    cursor = connection.execute(_RANGE, (clock.boot, clock.now(), prefix, after_prefix(prefix)))
    entries: list[Entry] = []
    newest: object = None
    try:
        while rows := cursor.fetchmany(_ROWS_AT_ONCE):
            deadline.check("store list")
            newest = rows[0][-1]
            if rows[0][0] is not None:
                entries += (entry for *row, _ in rows if (entry := _trusted(tuple(row))) is not None)
    finally:
        cursor.close()  # an error's traceback would keep it, and with it the connection at this instant
    entries.sort(key=attrgetter("key"))
    return Listing(tuple(entries), _revision(newest))


def verify(connection: sqlite3.Connection, clock: BootClock, deadline: Deadline) -> None:
    """Read everything once; Corrupt for the first thing that is wrong. It finds keys that a lookup would miss."""
    (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if said != "ok":
        raise Corrupt("store", str(said), hint="restore the database from a copy")
    read_range(connection, "", clock, deadline)


def newest_revision(connection: sqlite3.Connection) -> Revision:
    (revision,) = connection.execute("SELECT max(revision) FROM changes").fetchone()
    return _revision(revision)


def _revision(revision: object) -> Revision:
    """The last row of the log is never removed, so its absence means a damaged file."""
    if not isinstance(revision, int):
        raise Corrupt("store", "its log of changes is empty", hint="restore the database from a copy")
    return Revision(revision)


def apply(transaction: Transaction, clock: BootClock, connection: sqlite3.Connection) -> tuple[Committed, bool]:
    """Do the transaction within the open write transaction; also whether anything changed. Raises Conflict or
    NotFound.
    """
    execute = connection.execute
    changed: list[str] = []
    ended, versions = _before(connection, transaction.compares, clock)
    if ended:
        changed = end_leases(connection, clock)
        _, versions = _before(connection, transaction.compares, clock)
    failed = _failed(transaction.compares, versions)
    if failed:
        raise Conflict(failed)
    puts: list[Put] = []
    for write in transaction.writes:
        if isinstance(write, Delete):
            if execute(_DELETE, (write.key,)).rowcount:
                changed.append(write.key)
        else:
            puts.append(write)
            changed.append(write.key)
            if write.lease is not None and not _lives(connection, write.lease):
                raise NotFound("lease", write.lease)
    if not changed:
        return Committed({}, newest_revision(connection)), False
    revision = record(connection, changed)
    connection.executemany(_PUT, [_row(put, revision) for put in puts])
    return Committed({put.key: revision for put in puts}, revision), True


def record(connection: sqlite3.Connection, keys: Iterable[str]) -> Revision:
    """Add a row to the log; its number is the revision, and the version of what this transaction writes."""
    revision = connection.execute("INSERT INTO changes (keys) VALUES (?)", ("\n".join(keys),)).lastrowid or 0
    if revision % _PRUNE_EVERY == 0:
        connection.execute("DELETE FROM changes WHERE revision <= ?", (revision - HISTORY_TRANSACTIONS,))
    return Revision(revision)


def changes_since(connection: sqlite3.Connection, prefix: str, since: Revision) -> Look:
    """The row of ``since`` itself must be there: else the log was cut, or that revision is another database's."""
    rows = []
    if 0 <= since < _INTEGER_MAX:
        rows = connection.execute(_CHANGES, (since,)).fetchall()
    if not rows or rows[0][0] != since:
        return Look(None, newest_revision(connection))
    lines = "\n".join(keys for _, keys in rows[1:])
    found = frozenset(key for key in lines.split("\n") if key and key.startswith(prefix))
    return Look(found if len(found) <= HISTORY_KEYS else None, Revision(rows[-1][0]))


def add_lease(lease: str, seconds: float, clock: BootClock, connection: sqlite3.Connection) -> tuple[None, bool]:
    ends_at = clock.now() + seconds + LEASE_GRACE_SECONDS
    connection.execute("INSERT INTO leases (id, boot, ends_at) VALUES (?, ?, ?)", (lease, clock.boot, ends_at))
    return None, False


def extend_lease(lease: str, seconds: float, clock: BootClock, connection: sqlite3.Connection) -> tuple[None, bool]:
    """Raises NotFound when it has ended, or is within its grace."""
    now = clock.now()
    cursor = connection.execute(
        "UPDATE leases SET ends_at = ? WHERE id = ? AND boot = ? AND ends_at > ?",
        (now + seconds + LEASE_GRACE_SECONDS, lease, clock.boot, now + LEASE_GRACE_SECONDS),
    )
    if not cursor.rowcount:
        raise NotFound("lease", lease)
    return None, False


def end_leases_now(clock: BootClock, also: str | None, connection: sqlite3.Connection) -> tuple[None, bool]:
    """Remove what has ended, and ``also``; whether that took any key."""
    gone = end_leases(connection, clock, also=also)
    if gone:
        record(connection, gone)
    return None, bool(gone)


def ended_leases(connection: sqlite3.Connection, clock: BootClock) -> frozenset[str]:
    return frozenset(row[0] for row in connection.execute(_ENDED, (clock.boot, clock.now())))


def end_leases(connection: sqlite3.Connection, clock: BootClock, *, also: str | None = None) -> list[str]:
    """Remove the leases that ended (and ``also``) with their keys, which it returns; the caller records them."""
    ended = ended_leases(connection, clock) | ({also} if also is not None else set())
    gone: list[str] = []
    for lease in ended:
        gone.extend(row[0] for row in connection.execute("SELECT key FROM entries WHERE lease = ?", (lease,)))
        connection.execute("DELETE FROM entries WHERE lease = ?", (lease,))
        connection.execute("DELETE FROM leases WHERE id = ?", (lease,))
    return gone


def checksum(key: str, value: bytes, version: int, lease: str | None) -> int:
    """CRC-32 over all of an entry: SQLite itself would not notice a flipped bit."""
    return zlib.crc32(value, zlib.crc32(f"{key} {version} {lease or ''}".encode()))


def _row(put: Put, version: int) -> Row:
    return put.key, put.value, version, checksum(put.key, put.value, version, put.lease), put.lease


def _trusted(row: tuple[str, bytes, int, int, str | None, int]) -> Entry | None:
    """The checksum comes first: a damaged entry must not pass for one whose lease has ended, that is, for none."""
    key, value, version, expected, lease, is_alive = row
    if type(value) is not bytes or checksum(key, value, version, lease) != expected:
        raise Corrupt(f"store key {key!r}", "its checksum is wrong", hint="restore the database, or delete the key")
    return Entry(key, value, version) if is_alive else None


def _before(
    connection: sqlite3.Connection, compares: tuple[Compare, ...], clock: BootClock
) -> tuple[int, dict[str, int]]:
    """How many leases have ended, and which of the compared keys are there, with their versions."""
    keys = [compare.key for compare in compares]
    found = dict(connection.execute(f"{_BEFORE} ({_placeholders(keys)})", (clock.boot, clock.now(), *keys)).fetchall())
    return found.pop(None), found


def _placeholders(keys: Sequence[str]) -> str:
    return ", ".join("?" * len(keys))


def _failed(compares: tuple[Compare, ...], versions: dict[str, int]) -> list[str]:
    """The keys of the compares that do not hold."""
    return [
        compare.key
        for compare in compares
        if versions.get(compare.key) != (None if isinstance(compare, Absent) else compare.version)
    ]


def _lives(connection: sqlite3.Connection, lease: str) -> bool:
    return connection.execute("SELECT 1 FROM leases WHERE id = ?", (lease,)).fetchone() is not None
