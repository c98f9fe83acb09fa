"""SQLiteStore's own promises: who may wait for whom, what durable means, leases and boots, the log and its end."""

from __future__ import annotations

import resource
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from libcnm.errors import DeadlineExceeded, NotFound, Unavailable
from libcnm.kv import _sqlite_tables as tables
from libcnm.kv.base import Absent, Changed, Delete, Gap, Put, Revision, Transaction
from libcnm.kv.sqlite import SQLiteStore
from libcnm.testing.store_steps import PATIENCE_SECONDS, delete, drain, put, soon, value_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    with SQLiteStore(path) as store:
        yield store


@contextmanager
def another_writer(path: Path) -> Iterator[None]:
    """Somebody else's write transaction, open."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def statements(store: SQLiteStore) -> list[str]:
    """What the writer's connection executes from now on."""
    said: list[str] = []
    handle: Any = store._writer
    handle._connection.set_trace_callback(said.append)
    return said


# -- waiting ---------------------------------------------------------------------------------------------------------


def test_wait_for_another_process_ends_by_the_deadline(store: SQLiteStore, path: Path) -> None:
    """A write that finds the database locked waits its deadline out, not longer, and has not happened."""
    with another_writer(path):
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            store.transact(Transaction(writes=(Put("a", b"1"),)), deadline=soon(0.2))
        assert 0.2 <= time.monotonic() - began < 2.0
    assert None is value_of(store, "a")


def test_stopped_clock_does_not_wait_for_ever(store: SQLiteStore, path: Path) -> None:
    """A deadline of a simulated clock that stands still ends too."""
    from libcnm.model.deadline import Deadline

    with another_writer(path), pytest.raises(DeadlineExceeded):
        store.transact(Transaction(writes=(Put("a", b"1"),)), deadline=Deadline.after(0.1, lambda: 0.0))


def test_write_goes_through_when_the_lock_is_free(store: SQLiteStore, path: Path) -> None:
    """A waiting write happens soon after the other process is done."""
    with another_writer(path):
        writer = threading.Thread(target=put, args=(store, "a", b"1"))
        writer.start()
    writer.join(PATIENCE_SECONDS)
    assert b"1" == value_of(store, "a")


@pytest.mark.slow
def test_reads_do_not_wait_for_writers(store: SQLiteStore, path: Path) -> None:
    """While a writer of this store and one of another process are stuck, reads and watches answer."""
    put(store, "a", b"1")
    with another_writer(path), store.watch("", store.list("", deadline=soon()).revision) as watch:
        stuck = threading.Thread(target=_misses_its_deadline, args=(store, 1.5))
        stuck.start()
        began = time.monotonic()
        assert b"1" == value_of(store, "a")
        assert 1 == len(store.list("", deadline=soon()).entries)
        assert None is watch.next(0)
        assert time.monotonic() - began < 1.0
        stuck.join()


def _misses_its_deadline(store: SQLiteStore, seconds: float) -> None:
    with pytest.raises(DeadlineExceeded):
        store.transact(Transaction(writes=(Put("b", b"1"),)), deadline=soon(seconds))


def test_close_ends_a_waiting_write(store: SQLiteStore, path: Path) -> None:
    """A write that waits for another process is Unavailable once its store is closed, long before its deadline."""
    with another_writer(path):
        closer = threading.Timer(0.05, store.close)
        closer.start()
        began = time.monotonic()
        with pytest.raises(Unavailable):
            put(store, "a", b"1")
        assert time.monotonic() - began < PATIENCE_SECONDS / 2
        closer.join()


@pytest.mark.slow
def test_thread_waits_for_thread_by_the_deadline(store: SQLiteStore, path: Path) -> None:
    """The second thread of a process does not wait longer than it said either, though the first one does."""
    with another_writer(path):
        first = threading.Thread(target=_misses_its_deadline, args=(store, 1.5))
        first.start()
        began = time.monotonic()
        _misses_its_deadline(store, 0.1)
        assert time.monotonic() - began < 1.2
        first.join()


# -- durability and cost ---------------------------------------------------------------------------------------------


def test_durable_is_chosen_for_each_transaction(store: SQLiteStore) -> None:
    """Only commits that ask for it are synchronous=FULL; the mode is switched outside of transactions."""
    put(store, "a", b"0")
    said = statements(store)
    for durable in (True, False, False, True):
        store.transact(Transaction(writes=(Put("a", b"1"),)), deadline=soon(), durable=durable)
    switches = [statement for statement in said if "synchronous" in statement]
    assert ["PRAGMA synchronous = NORMAL", "PRAGMA synchronous = FULL"] == switches
    assert "BEGIN IMMEDIATE" == said[said.index(switches[0]) + 1]


def test_commit_does_not_list(store: SQLiteStore) -> None:
    """A commit costs the keys it touches: no statement reads a range of entries."""
    for number in range(20):
        put(store, f"a/{number}", b"1")
    said = statements(store)
    store.transact(Transaction((Absent("b"),), (Put("b", b"1"), Delete("a/1"))), deadline=soon())
    entries = [statement for statement in said if "entries" in statement]
    assert entries
    named = ("key = '", "key IN ('")
    assert all(statement.startswith("INSERT") or any(one in statement for one in named) for statement in entries)


@pytest.mark.slow
def test_waiting_watch_sleeps(store: SQLiteStore) -> None:
    """A watch without changes wakes about once a second, and costs next to no processor time."""
    with store.watch("", store.list("", deadline=soon()).revision) as watch:
        before = resource.getrusage(resource.RUSAGE_THREAD)
        assert None is watch.next(1.5)
        after = resource.getrusage(resource.RUSAGE_THREAD)
    assert after.ru_nvcsw - before.ru_nvcsw < 15
    assert after.ru_utime - before.ru_utime < 0.1


# -- the log ---------------------------------------------------------------------------------------------------------


def test_log_is_bounded(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """The log keeps its last transactions only; a watch from before is a Gap, one from within misses nothing."""
    monkeypatch.setattr(tables, "HISTORY_TRANSACTIONS", 100)
    old = store.list("", deadline=soon()).revision
    for number in range(300):
        store.transact(Transaction(writes=(Put(f"{number}", b""),)), deadline=soon(), durable=False)
    recent = store.transact(Transaction(writes=(Put("last", b""),)), deadline=soon()).revision
    put(store, "more", b"1")
    with store.watch("", old) as behind, store.watch("", recent) as near:
        assert isinstance(behind.next(0), Gap)
        assert None is behind.next(0)
        assert {"more"} == drain(near)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM changes").fetchone()[0] < 200


def test_too_many_keys_at_once_are_a_gap(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than a hint without end; listing is cheaper then."""
    monkeypatch.setattr(tables, "HISTORY_KEYS", 50)
    with store.watch("", store.list("", deadline=soon()).revision) as watch:
        for page in range(2):
            store.transact(Transaction(writes=[Put(f"{page}/{key}", b"") for key in range(40)]), deadline=soon())
        assert isinstance(watch.next(0), Gap)


@pytest.mark.parametrize("revision", [-1, 0, 2**62, 2**63, 2**80])
def test_absurd_revisions_are_gaps(store: SQLiteStore, revision: int) -> None:
    """A revision that no store gave is a Gap, whatever its size."""
    with store.watch("", Revision(revision)) as watch:
        assert isinstance(watch.next(0), Gap)


def test_idle_delete_is_not_hinted(store: SQLiteStore) -> None:
    """Deleting what is not there wakes nobody: two reconcilers must not keep each other busy."""
    before = store.list("", deadline=soon()).revision
    delete(store, "a")
    assert before == store.list("", deadline=soon()).revision


# -- leases ----------------------------------------------------------------------------------------------------------


class Host:
    """A boot whose clock the test moves."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds = 100.0

    def open(self, boot: str = "first") -> SQLiteStore:
        return SQLiteStore(self.path, lease_clock=lambda: self.seconds, boot=boot)


def test_reboot_ends_all_leases(path: Path) -> None:
    """Keys of leases from another boot are absent, whatever the clocks say; other keys stay."""
    host = Host(path)
    with host.open() as store:
        put(store, "stays", b"1")
        put(store, "goes", b"1", store.lease(1000, deadline=soon()))
    host.seconds = 0.0
    with host.open("second") as store:
        assert None is value_of(store, "goes")
        assert ["stays"] == [entry.key for entry in store.list("", deadline=soon()).entries]


def test_lease_ends_for_every_reader_at_once(path: Path) -> None:
    """Keys of one lease are all there or all gone, in every kind of read, before anybody removed them."""
    host = Host(path)
    with host.open() as store, host.open() as other:
        lease = store.lease(10, deadline=soon())
        for number in range(5):
            put(store, f"a/{number}", b"1", lease)
        host.seconds += 10 + tables.LEASE_GRACE_SECONDS - 0.01
        assert 5 == len(other.list("a/", deadline=soon()).entries)
        host.seconds += 0.02
        assert () == other.list("a/", deadline=soon()).entries
        assert {} == other.get_many([f"a/{number}" for number in range(5)], deadline=soon())


def test_lease_is_not_revived_in_its_grace(path: Path) -> None:
    """After its time it cannot be kept alive, though readers see its keys a moment longer: never the reverse."""
    host = Host(path)
    with host.open() as store:
        lease = store.lease(10, deadline=soon())
        put(store, "a", b"1", lease)
        host.seconds += 10 + tables.LEASE_GRACE_SECONDS / 2
        with pytest.raises(NotFound):
            lease.keep_alive(deadline=soon())
        assert b"1" == value_of(store, "a")


@pytest.mark.slow
def test_watch_learns_of_an_ended_lease_by_itself(path: Path) -> None:
    """Nobody writes: the watch's own look within a second removes the keys and tells of them."""
    host = Host(path)
    with host.open() as store, host.open() as other:
        put(store, "a", b"1", store.lease(10, deadline=soon()))
        with other.watch("", other.list("", deadline=soon()).revision) as watch:
            timer = threading.Timer(0.05, lambda: setattr(host, "seconds", host.seconds + 11))
            timer.start()
            hint = watch.next(PATIENCE_SECONDS)
            timer.join()
        assert isinstance(hint, Changed)
        assert ("a",) == hint.keys


@pytest.mark.slow
def test_ended_lease_on_a_locked_database_is_a_gap(path: Path) -> None:
    """When the keys cannot be removed, watchers are told to list, once, as readers miss the keys already."""
    host = Host(path)
    with host.open() as store:
        put(store, "a", b"1", store.lease(10, deadline=soon()))
        with store.watch("", store.list("", deadline=soon()).revision) as watch:
            host.seconds += 11
            with another_writer(path):
                assert isinstance(watch.next(0), Gap)
                assert None is watch.next(0)
            assert {"a"} == drain(watch)


def test_put_without_lease_frees_the_key(path: Path) -> None:
    """A key belongs to the lease of its last put."""
    host = Host(path)
    with host.open() as store:
        lease = store.lease(10, deadline=soon())
        put(store, "a", b"1", lease)
        put(store, "a", b"2")
        lease.revoke(deadline=soon())
        assert b"2" == value_of(store, "a")
