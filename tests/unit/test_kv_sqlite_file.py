"""The database file: how it is made and what is refused. Damage is told, never answered wrongly."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from libcnm.errors import CnmError, Corrupt, Invalid, Unavailable
from libcnm.kv.base import Delete, Gap, Put, Transaction
from libcnm.kv.sqlite import SQLiteStore
from libcnm.model.deadline import Deadline
from libcnm.testing.store_steps import delete, put, soon, value_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# -- making it -------------------------------------------------------------------------------------------------------


def test_only_the_owner_can_read(tmp_path: Path) -> None:
    """Files are 0600 and folders that were made 0700, whatever the umask; folders that were there stay as they are."""
    before = mode_of(tmp_path)
    umask = os.umask(0)
    try:
        with SQLiteStore(tmp_path / "a" / "b" / "store.db") as store:
            put(store, "a", b"1")
            with store.watch("", store.list("", deadline=soon()).revision) as watch:
                watch.next(0.001)
            made = [tmp_path / "a", *(tmp_path / "a").rglob("*")]
            modes = {path.name: mode_of(path) for path in made if not path.is_socket()}
    finally:
        os.umask(umask)
    folders = {"a": 0o700, "b": 0o700, "store.db.bells": 0o700}
    files = dict.fromkeys(("store.db", "store.db-wal", "store.db-shm", "store.db.reserve"), 0o600)
    assert folders | files == modes
    assert before == mode_of(tmp_path)


def test_open_file_is_closed_to_others(path: Path) -> None:
    """A database whose mode somebody loosened is made 0600 again."""
    SQLiteStore(path).close()
    path.chmod(0o644)
    SQLiteStore(path).close()
    assert 0o600 == mode_of(path)


def test_nothing_but_the_database_is_left(path: Path) -> None:
    """A closed store leaves one file, its reserve, and no drafts, logs or sockets."""
    with SQLiteStore(path) as store, store.watch("", store.list("", deadline=soon()).revision) as watch:
        put(store, "a", b"1")
        watch.next(0.001)
    left = sorted(str(each.relative_to(path.parent)) for each in path.parent.rglob("*"))
    assert ["store.db", "store.db.bells", "store.db.reserve"] == left


@pytest.mark.parametrize("bad", ["relative.db", "", "nul\0.db"])
def test_path_must_be_absolute(bad: str) -> None:
    """What a relative path means depends on who runs; it is Invalid."""
    with pytest.raises(Invalid):
        SQLiteStore(bad)


def test_parent_that_is_a_file_is_unavailable(tmp_path: Path) -> None:
    """The operating system's reason, as our error."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable):
        SQLiteStore(tmp_path / "file" / "store.db")


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_links_are_not_followed(path: Path, suffix: str) -> None:
    """A link in the place of the database or its companions is refused, and what it points to untouched."""
    target = path.with_name("target")
    target.write_bytes(b"precious")
    if suffix:
        SQLiteStore(path).close()
    path.with_name(path.name + suffix).symlink_to(target)
    with pytest.raises(Corrupt):
        SQLiteStore(path)
    assert b"precious" == target.read_bytes()


def test_versions_of_a_lost_database_do_not_come_back(path: Path) -> None:
    """Somebody removed the file: versions begin elsewhere, so nothing that was read from the old one matches."""
    versions = set()
    for _ in range(3):
        with SQLiteStore(path) as store:
            versions.add(put(store, "a", b"1"))
        path.unlink()
    assert 3 == len(versions)


# -- refusing --------------------------------------------------------------------------------------------------------


def test_other_files_are_refused_and_kept(path: Path) -> None:
    """Garbage, an empty file, another program's database: Corrupt with what to do, and the file as it was."""

    def other_program() -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE precious (data)")

    makers = (lambda: path.write_bytes(b"garbage" * 1000), lambda: path.write_bytes(b""), other_program)
    for make in makers:
        make()
        before = path.read_bytes()
        with pytest.raises(Corrupt) as caught:
            SQLiteStore(path)
        assert caught.value.hint
        assert before == path.read_bytes()
        path.unlink()


def test_newer_schema_is_refused(path: Path) -> None:
    """A file of a newer libcnm is Corrupt, and the hint says to upgrade."""
    SQLiteStore(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(Corrupt) as caught:
        SQLiteStore(path)
    assert "upgrade" in str(caught.value)


def test_log_without_database_is_refused(path: Path) -> None:
    """A new database beside an old write-ahead log would swallow it: Corrupt, nothing made."""
    path.with_name("store.db-wal").write_bytes(b"log")
    with pytest.raises(Corrupt):
        SQLiteStore(path)
    assert not path.exists()


# -- losing it -------------------------------------------------------------------------------------------------------


def test_removed_file_is_noticed(path: Path) -> None:
    """Writes to a deleted file would be lost: they are Unavailable instead, and so are reads."""
    with SQLiteStore(path) as store:
        put(store, "a", b"1")
        path.unlink()
        for step in (lambda: put(store, "a", b"2"), lambda: value_of(store, "a")):
            with pytest.raises(Unavailable):
                step()


def test_restored_copy_is_taken_and_admitted(path: Path) -> None:
    """A copy put in the file's place is read from then on, and watches say Gap: their revision is not in its log."""
    copy = path.with_name("copy")
    with SQLiteStore(path) as store:
        put(store, "a", b"old")
    shutil.copy(path, copy)
    with SQLiteStore(path) as store:
        put(store, "a", b"new")
        with store.watch("", store.list("", deadline=soon()).revision) as watch:
            copy.replace(path)
            for companion in ("-wal", "-shm"):
                path.with_name(path.name + companion).unlink()
            assert b"old" == value_of(store, "a")
            assert isinstance(watch.next(0), Gap)


# -- damage ----------------------------------------------------------------------------------------------------------

CONTENT = {f"key/{number:03d}": (b"%d:" % number) * (1 + number * 7 % 300) for number in range(120)}


@pytest.fixture
def filled(path: Path) -> Path:
    with SQLiteStore(path) as store:
        for number in range(0, len(CONTENT), 40):
            chunk = list(CONTENT.items())[number : number + 40]
            store.transact(Transaction(writes=[Put(*item) for item in chunk]), deadline=soon())
    return path


def test_flipped_bit_in_a_value_is_told(filled: Path) -> None:
    """SQLite would return it; we name the key. The others are still read, and the damaged one can be deleted."""
    content = bytearray(filled.read_bytes())
    content[content.index(CONTENT["key/007"]) + 1] ^= 4
    filled.write_bytes(content)
    with SQLiteStore(filled) as store:
        for damaged in (lambda: value_of(store, "key/007"), lambda: store.list("key/", deadline=soon())):
            with pytest.raises(Corrupt) as caught:
                damaged()
            assert "key/007" in str(caught.value)
        assert CONTENT["key/008"] == value_of(store, "key/008")
        delete(store, "key/007")
        assert len(CONTENT) - 1 == len(store.list("key/", deadline=soon()).entries)


@pytest.mark.slow
def test_damage_is_never_answered_wrongly(filled: Path) -> None:
    """Flipped bits, zeroed pages, cut ends, anywhere: each is Corrupt or harmless; no answer is ever wrong."""
    chance, sound = random.Random(20), filled.read_bytes()
    told = 0
    for _ in range(150):
        filled.write_bytes(damaged(sound, chance))
        try:
            with SQLiteStore(filled) as store:
                store.verify(deadline=soon())
                listed = {entry.key: entry.value for entry in store.list("", deadline=soon()).entries}
                assert CONTENT == listed
                assert CONTENT == {key: value_of(store, key) for key in CONTENT}
        except Corrupt:
            told += 1
        for companion in ("-wal", "-shm"):
            filled.with_name(filled.name + companion).unlink(missing_ok=True)
    assert told > 50


def damaged(sound: bytes, chance: random.Random) -> bytes:
    content = bytearray(sound)
    match chance.randrange(4):
        case 0 | 1:
            for _ in range(chance.choice((1, 8))):
                content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        case 2:
            page = chance.randrange(len(content) // 4096) * 4096
            content[page : page + 4096] = bytes(4096)
        case 3:
            del content[chance.randrange(len(content)) :]
    return bytes(content)


# -- a full disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB; every test runs in a mount namespace of the session's own."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(mounted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")
    yield mounted
    subprocess.run(["umount", str(mounted)], check=True)


def test_full_disk_refuses_and_still_deletes(small_disk: Path) -> None:
    """Writes are Unavailable with the reason and have not happened; reads go on; a delete still gets through."""
    with SQLiteStore(small_disk / "store.db") as store:
        put(store, "first", b"1")
        written = fill(store)
        (small_disk / "rest").write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize))
        with pytest.raises(Unavailable) as caught:
            put(store, "big", b"x" * 100_000)
        assert "full" in caught.value.reason
        assert not caught.value.outcome_unknown
        assert written == len(store.list("big/", deadline=soon()).entries)
        release = Transaction(writes=(Delete("first"), Put("free", b"1")))
        store.transact(release, deadline=soon())
        assert (None, b"1") == (value_of(store, "first"), value_of(store, "free"))
        (small_disk / "rest").unlink()
        delete(store, "big/0")
        store.verify(deadline=soon())


def fill(store: SQLiteStore) -> int:
    """Write until it is refused; how many there are then."""
    for number in range(1000):
        try:
            put(store, f"big/{number}", b"x" * 50_000)
        except CnmError:
            return number
    raise AssertionError("the disk never got full")


def test_an_error_in_the_middle_of_a_listing_keeps_no_instant(path: Path) -> None:
    """Whoever holds it still, with all its frames, reads what others commit, and can write."""
    with SQLiteStore(path) as store, SQLiteStore(path) as other:
        for number in range(0, 2000, 40):
            writes = [Put(f"a/{number + more:05}", b"v") for more in range(40)]
            store.transact(Transaction(writes=writes), deadline=soon())
        now = iter([0.0] * 3)  # of the first thousand rows
        with pytest.raises(CnmError) as held:
            store.list("a/", deadline=Deadline(0.5, 1.0, lambda: next(now, 1.0)))
        put(other, "b", b"1")
        assert b"1" == value_of(store, "b")
        assert 2001 == len(store.list("", deadline=soon()).entries)
        put(store, "c", b"1")
        assert isinstance(held.value, CnmError)


def test_failed_disk_costs_every_connection_its_trust(filled: Path) -> None:
    """After an I/O error on one connection, no connection of that store is used again; the next call opens new ones."""

    def fail(_: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error

    def same(connection: sqlite3.Connection) -> sqlite3.Connection:
        return connection

    with SQLiteStore(filled) as store:
        put(store, "a", b"1")
        before = [handle.run(soon(), same) for handle in store._handles]
        with pytest.raises(Unavailable):
            store._writer.run(soon(), fail)
        after = [handle.run(soon(), same) for handle in store._handles]
        assert not set(map(id, before)) & set(map(id, after))
        assert b"1" == value_of(store, "a")
