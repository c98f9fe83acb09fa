"""The conformance kit of the store contract: inherit :class:`StoreConformance`, say how to make your store, run pytest.

    class TestMyStore(StoreConformance):
        @pytest.fixture
        def make_store(self):
            return lambda: MyStore("my://localhost:1234")

``make_store()`` returns a handle; every handle that one test makes is on the same data, as several hosts would have it.
The data need not be empty: each test keeps to a prefix of its own. Override :meth:`~StoreConformance.pass_time` when
your leases run on a clock that a test can move. :mod:`libcnm.testing.store_machine` compares a store with a plain dict,
in random order; it is part of the kit.

The kit must never know a particular store, nor ask for more than :mod:`libcnm.kv.base` promises.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from libcnm.errors import Conflict, DeadlineExceeded, Invalid, NotFound, Unavailable
from libcnm.kv.base import (
    Absent,
    Delete,
    Entry,
    Put,
    Revision,
    Store,
    Transaction,
    VersionIs,
)
from libcnm.model import limits
from libcnm.model.deadline import Deadline
from libcnm.testing.store_machine import check_against_dict
from libcnm.testing.store_steps import (
    PATIENCE_SECONDS,
    MakeStore,
    delete,
    drain,
    put,
    soon,
    together,
    try_claim,
    try_increment,
    value_of,
)

NEIGHBOURS = (
    "a",
    "a/",
    "a/1",
    "a/~",
    "a0",
    "a%",
    "a%b",
    "a_",
    "a_b",
    "axb",
    "a\\",
    "a\\b",
    "A",
    "b",
    "a*",
    "a[x]",
    "~",
)
"""Keys that a store which takes a prefix for a pattern, or orders by locale, would mix up."""


class StoreConformance:
    """Inherit it, and give it a fixture ``make_store``. Every test states one promise of the contract."""

    lease_seconds = limits.LEASE_SECONDS_MIN

    @pytest.fixture
    def make_store(self) -> MakeStore:
        """A function that opens one more handle on this test's store."""
        raise NotImplementedError("a conformance class defines the fixture make_store")

    def pass_time(self, seconds: float) -> None:
        """Move the clock that leases end by. The default does nothing: the kit then waits in real time."""

    @pytest.fixture
    def store(self, make_store: MakeStore) -> Iterator[Store]:
        with make_store() as store:
            yield store

    @pytest.fixture
    def other(self, make_store: MakeStore) -> Iterator[Store]:
        """Another host's handle."""
        with make_store() as store:
            yield store

    @pytest.fixture
    def home(self) -> str:
        """A prefix of this test's own."""
        return f"conformance/{secrets.token_hex(6)}/"

    # -- reading and writing ------------------------------------------------------------------------------------------

    def test_absent_key_is_none(self, store: Store, home: str) -> None:
        """A key that was never written is None, not an error."""
        assert None is store.get(f"{home}a", deadline=soon())

    def test_other_handles_read_at_once(self, store: Store, other: Store, home: str) -> None:
        """What a transaction that returned has written, every handle reads."""
        version = put(store, f"{home}a", b"1")
        assert Entry(f"{home}a", b"1", version) == other.get(f"{home}a", deadline=soon())

    @pytest.mark.parametrize("value", [b"", bytes(range(256)), b"\0", b"x" * (200 * 1024)], ids=len)
    def test_values_are_any_bytes(self, store: Store, home: str, value: bytes) -> None:
        """Empty, binary and large values come back as they were."""
        put(store, f"{home}a", value)
        assert value == value_of(store, f"{home}a")

    def test_versions_never_come_back(self, store: Store, home: str) -> None:
        """Each write gives a key another version, also when it was deleted in between."""
        versions = []
        for round_ in range(6):
            versions.append(put(store, f"{home}a", b"same"))
            if round_ % 2:
                delete(store, f"{home}a")
        assert 6 == len(set(versions))
        assert all(version > 0 for version in versions)

    def test_deleting_nothing_is_fine(self, store: Store, home: str) -> None:
        """A delete says how it shall be afterwards; an absent key already is so."""
        delete(store, f"{home}a")
        assert None is value_of(store, f"{home}a")

    def test_get_many_gives_those_that_exist(self, store: Store, home: str) -> None:
        """Absent keys are simply not in the answer."""
        put(store, f"{home}a", b"1")
        put(store, f"{home}c", b"3")
        found = store.get_many([f"{home}{name}" for name in "abc"], deadline=soon())
        assert {f"{home}a": b"1", f"{home}c": b"3"} == {key: entry.value for key, entry in found.items()}

    # -- listing ------------------------------------------------------------------------------------------------------

    def test_list_is_sorted_and_exact(self, store: Store, home: str) -> None:
        """A prefix is plain text: no character in it is a pattern, and its neighbours in the order are not under it."""
        for name in NEIGHBOURS:
            put(store, home + name, name.encode())
        for prefix in ["", "a", "a/", "a%", "a_", "a\\", "a~", "a*", "a[", "b", "~", "A"]:
            listed = [entry.key.removeprefix(home) for entry in store.list(home + prefix, deadline=soon()).entries]
            assert sorted(name for name in NEIGHBOURS if name.startswith(prefix)) == listed

    def test_empty_prefix_lists_everything(self, store: Store, home: str) -> None:
        """Every key begins with nothing."""
        put(store, f"{home}a", b"1")
        assert f"{home}a" in {entry.key for entry in store.list("", deadline=soon()).entries}

    def test_list_is_one_instant(self, store: Store, other: Store, home: str) -> None:
        """Keys written together are listed together, whatever is written meanwhile."""
        both, stop = (f"{home}a", f"{home}z"), threading.Event()

        def write() -> None:
            for number in itertools.count():
                value = b"%d" % number
                other.transact(Transaction(writes=[Put(key, value) for key in both]), deadline=soon(), durable=False)
                if stop.is_set():
                    return

        writer = threading.Thread(target=write)
        writer.start()
        try:
            seen = [{entry.value for entry in store.list(home, deadline=soon()).entries} for _ in range(50)]
        finally:
            stop.set()
            writer.join()
        assert [] == [values for values in seen if len(values) > 1]

    # -- transactions -------------------------------------------------------------------------------------------------

    def test_transaction_reports_the_versions(self, store: Store, home: str) -> None:
        """The versions it returns are those that are read."""
        keys = [f"{home}{number}" for number in range(5)]
        committed = store.transact(Transaction(writes=[Put(key, b"x") for key in keys]), deadline=soon())
        assert committed.versions == {entry.key: entry.version for entry in store.list(home, deadline=soon()).entries}

    def test_conflict_names_the_keys_and_does_nothing(self, store: Store, home: str) -> None:
        """One compare that fails stops everything; the error names exactly the keys whose compare failed."""
        here, gone = f"{home}here", f"{home}gone"
        version = put(store, here, b"old")
        compares = (Absent(here), VersionIs(gone, 1), VersionIs(here, version), Absent(gone))
        with pytest.raises(Conflict) as caught:
            store.transact(Transaction(compares, (Put(here, b"new"), Put(gone, b"new"))), deadline=soon())
        assert {here, gone} == set(caught.value.keys)
        assert [Entry(here, b"old", version)] == list(store.list(home, deadline=soon()).entries)

    def test_compares_that_hold_let_it_happen(self, store: Store, home: str) -> None:
        """Puts and deletes of one transaction are all there afterwards."""
        version = put(store, f"{home}old", b"1")
        compares = (VersionIs(f"{home}old", version), Absent(f"{home}new"))
        store.transact(Transaction(compares, (Delete(f"{home}old"), Put(f"{home}new", b"2"))), deadline=soon())
        assert [f"{home}new"] == [entry.key for entry in store.list(home, deadline=soon()).entries]

    def test_old_version_conflicts_after_delete_and_new(self, store: Store, home: str) -> None:
        """A key that was deleted and made anew is not the key that was read (no ABA)."""
        version = put(store, f"{home}a", b"1")
        delete(store, f"{home}a")
        put(store, f"{home}a", b"1")
        with pytest.raises(Conflict):
            store.transact(Transaction((VersionIs(f"{home}a", version),), (Delete(f"{home}a"),)), deadline=soon())

    def test_compares_alone_are_a_question(self, store: Store, home: str) -> None:
        """A transaction without writes checks, and changes nothing."""
        version = put(store, f"{home}a", b"1")
        store.transact(Transaction((VersionIs(f"{home}a", version),)), deadline=soon())
        with pytest.raises(Conflict):
            store.transact(Transaction((Absent(f"{home}a"),)), deadline=soon())
        assert Entry(f"{home}a", b"1", version) == store.get(f"{home}a", deadline=soon())

    def test_as_large_as_allowed(self, store: Store, home: str) -> None:
        """60 operations and 256 KiB are taken, by every store."""
        keys = [f"{home}{number:02d}" for number in range(limits.TRANSACTION_OPERATIONS // 2)]
        share = limits.TRANSACTION_BYTES // len(keys) - len(keys[0])
        writes = [Put(key, b"x" * share) for key in keys]
        store.transact(Transaction([Absent(key) for key in keys], writes), deadline=soon())
        assert keys == [entry.key for entry in store.list(home, deadline=soon()).entries]

    def test_larger_is_refused_untouched(self, store: Store, home: str) -> None:
        """One operation, one byte more, a key written twice or no key at all: Invalid, and nothing happened."""
        too_many = [Put(f"{home}{number}", b"") for number in range(limits.TRANSACTION_OPERATIONS + 1)]
        too_big = [Put(f"{home}a", b"x" * limits.TRANSACTION_BYTES)]
        twice = [Put(f"{home}a", b"1"), Delete(f"{home}a")]
        for writes in (too_many, too_big, twice, [Put("", b"")], [Put("/a", b"")], [Put("a b", b"")], [Put("ä", b"")]):
            with pytest.raises(Invalid):
                store.transact(Transaction(writes=(Put(f"{home}ok", b""), *writes)), deadline=soon())
        assert () == store.list(home, deadline=soon()).entries

    def test_bad_keys_are_refused_by_reads(self, store: Store) -> None:
        """Reads are as strict as writes, so a typing error is not an absent key."""
        for key in ("", "/a", "a b", "a\n", "ä", "x" * (limits.KEY_BYTES + 1)):
            with pytest.raises(Invalid):
                store.get(key, deadline=soon())

    def test_spent_deadline_does_nothing(self, store: Store, home: str) -> None:
        """A call whose time is over raises DeadlineExceeded and has not happened."""
        spent = Deadline.after(-1.0, time.monotonic)
        for call in (
            lambda: store.transact(Transaction(writes=(Put(f"{home}a", b"1"),)), deadline=spent),
            lambda: store.get(f"{home}a", deadline=spent),
            lambda: store.list(home, deadline=spent),
        ):
            with pytest.raises(DeadlineExceeded):
                call()
        assert None is value_of(store, f"{home}a")

    def test_durable_or_not_reads_the_same(self, store: Store, other: Store, home: str) -> None:
        """``durable=False`` is about power failures only."""
        for number, durable in enumerate((True, False, True, False)):
            transaction = Transaction(writes=(Put(f"{home}{number}", b"x"),))
            store.transact(transaction, deadline=soon(), durable=durable)
            assert number + 1 == len(other.list(home, deadline=soon()).entries)

    # -- several at once ----------------------------------------------------------------------------------------------

    def test_one_winner_for_an_absent_key(self, make_store: MakeStore, home: str) -> None:
        """Of many that claim the same absent key, exactly one succeeds; the others get Conflict."""
        claims = [f"{home}{number}" for number in range(20)]
        won: dict[int, list[str]] = {}

        def claim(worker: int, store: Store) -> None:
            won[worker] = [key for key in claims if try_claim(store, key, b"%d" % worker)]

        together(make_store, 4, claim)
        assert sorted(claims) == sorted(key for keys in won.values() for key in keys)

    def test_no_update_is_lost(self, make_store: MakeStore, home: str) -> None:
        """Read, add one, write if unchanged: the sum is exact with several at it."""
        workers, rounds = 4, 15

        def count(_: int, store: Store) -> None:
            done = 0
            while done < rounds:
                done += try_increment(store, f"{home}sum")

        together(make_store, workers, count)
        with make_store() as store:
            assert b"%d" % (workers * rounds) == value_of(store, f"{home}sum")

    # -- watching -----------------------------------------------------------------------------------------------------

    def test_next_looks_first(self, store: Store, other: Store, home: str) -> None:
        """``next(0)`` gives whatever any handle has committed before the call: puts, changes and deletes."""
        put(other, f"{home}old", b"1")
        with store.watch(home, store.list(home, deadline=soon()).revision) as watch:
            for change in (
                lambda: put(other, f"{home}new", b"1"),
                lambda: put(store, f"{home}old", b"2"),
                lambda: delete(other, f"{home}old"),
            ):
                before = {entry.key: entry.version for entry in store.list(home, deadline=soon()).entries}
                change()
                after = {entry.key: entry.version for entry in store.list(home, deadline=soon()).entries}
                changed = {key for key, _ in before.items() ^ after.items()}
                keys = drain(watch)
                assert keys is None or changed <= keys

    def test_quiet_watch_says_nothing(self, store: Store, home: str) -> None:
        """Without a change there is no hint, and after a hint there is none again."""
        with store.watch(home, store.list(home, deadline=soon()).revision) as watch:
            assert None is watch.next(0)
            put(store, f"{home}a", b"1")
            drain(watch)
            assert None is watch.next(0)

    def test_hints_keep_to_the_prefix(self, store: Store, home: str) -> None:
        """No hint names a key outside the prefix."""
        with store.watch(f"{home}in/", store.list(f"{home}in/", deadline=soon()).revision) as watch:
            writes = (Put(f"{home}in/a", b"1"), Put(f"{home}in", b"1"), Put(f"{home}in0", b"1"))
            store.transact(Transaction(writes=writes), deadline=soon())
            keys = drain(watch)
            assert keys is None or {f"{home}in/a"} == keys

    def test_watch_from_a_commit_misses_nothing(self, store: Store, other: Store, home: str) -> None:
        """What was committed after the revision and before the watch was opened is hinted too."""
        revision = store.transact(Transaction(writes=(Put(f"{home}a", b"1"),)), deadline=soon()).revision
        put(other, f"{home}b", b"1")
        with store.watch(home, revision) as watch:
            keys = drain(watch)
            assert keys is None or f"{home}b" in keys

    def test_unknown_revision_is_a_gap(self, store: Store, home: str) -> None:
        """A revision that the store does not know gives a Gap (or all keys), never silence; then the watch goes on."""
        put(store, f"{home}a", b"1")
        with store.watch(home, Revision(1)) as watch:
            keys = drain(watch)
            assert keys is None or f"{home}a" in keys
            put(store, f"{home}b", b"1")
            keys = drain(watch)
            assert keys is None or f"{home}b" in keys

    def test_change_wakes_a_waiting_watch(self, store: Store, other: Store, home: str) -> None:
        """A ``next`` that waits returns when another handle commits, long before its time is over."""
        with store.watch(home, store.list(home, deadline=soon()).revision) as watch:
            writer = threading.Thread(target=put, args=(other, f"{home}a", b"1"))
            began = time.monotonic()
            writer.start()
            hint = watch.next(PATIENCE_SECONDS)
            writer.join()
            assert hint is not None
            assert time.monotonic() - began < PATIENCE_SECONDS / 2

    @pytest.mark.parametrize("what", ["watch", "store"])
    def test_close_ends_a_waiting_next(self, make_store: MakeStore, home: str, what: str) -> None:
        """Closing the watch, or its store, from another thread ends ``next`` with None; so does any later ``next``."""
        with make_store() as store:
            watch = store.watch(home, store.list(home, deadline=soon()).revision)
            closer = threading.Timer(0.05, watch.close if what == "watch" else store.close)
            began = time.monotonic()
            closer.start()
            assert None is watch.next(PATIENCE_SECONDS)
            closer.join()
            assert time.monotonic() - began < PATIENCE_SECONDS / 2
            assert None is watch.next(PATIENCE_SECONDS)
            watch.close()

    # -- leases -------------------------------------------------------------------------------------------------------

    def test_keys_vanish_with_their_lease(self, store: Store, other: Store, home: str) -> None:
        """When a lease is not kept alive its keys are absent, for reads, listings, compares and watchers."""
        put(store, f"{home}stays", b"1")
        lease = store.lease(self.lease_seconds, deadline=soon())
        put(store, f"{home}goes", b"1", lease)
        with other.watch(home, other.list(home, deadline=soon()).revision) as watch:
            self._wait_until(lambda: value_of(other, f"{home}goes") is None)
            assert [f"{home}stays"] == [entry.key for entry in other.list(home, deadline=soon()).entries]
            keys = drain(watch, PATIENCE_SECONDS)
            assert keys is None or f"{home}goes" in keys
        with pytest.raises(NotFound):
            lease.keep_alive(deadline=soon())
        store.transact(Transaction((Absent(f"{home}goes"),), (Put(f"{home}goes", b"2"),)), deadline=soon())
        assert b"2" == value_of(other, f"{home}goes")

    def test_kept_alive_it_lives(self, store: Store, other: Store, home: str) -> None:
        """Each ``keep_alive`` starts its time anew."""
        lease = store.lease(self.lease_seconds, deadline=soon())
        put(store, f"{home}a", b"1", lease)
        for _ in range(4):
            self.pass_time(self.lease_seconds * 0.6)
            lease.keep_alive(deadline=soon())
        assert b"1" == value_of(other, f"{home}a")
        lease.revoke(deadline=soon())

    def test_revoking_takes_the_keys(self, store: Store, other: Store, home: str) -> None:
        """``revoke`` ends a lease now, with its keys and no others; again is fine."""
        lease, another = (store.lease(self.lease_seconds, deadline=soon()) for _ in range(2))
        put(store, f"{home}a", b"1", lease)
        put(store, f"{home}b", b"1", another)
        with other.watch(home, other.list(home, deadline=soon()).revision) as watch:
            lease.revoke(deadline=soon())
            lease.revoke(deadline=soon())
            keys = drain(watch)
            assert keys is None or {f"{home}a"} <= keys
        assert [f"{home}b"] == [entry.key for entry in other.list(home, deadline=soon()).entries]
        another.revoke(deadline=soon())

    def test_ended_lease_cannot_be_used(self, store: Store, home: str) -> None:
        """A put with a lease that has ended is NotFound, and the whole transaction has not happened."""
        lease = store.lease(self.lease_seconds, deadline=soon())
        lease.revoke(deadline=soon())
        writes = (Put(f"{home}a", b"1"), Put(f"{home}b", b"1", lease.id))
        with pytest.raises(NotFound):
            store.transact(Transaction(writes=writes), deadline=soon())
        assert () == store.list(home, deadline=soon()).entries

    def test_too_short_a_lease_is_refused(self, store: Store) -> None:
        """Below 10 s (Consul's least) it is Invalid, in every store."""
        with pytest.raises(Invalid):
            store.lease(limits.LEASE_SECONDS_MIN - 0.1, deadline=soon())

    # -- closing ------------------------------------------------------------------------------------------------------

    def test_closed_store_is_unavailable(self, make_store: MakeStore, home: str) -> None:
        """After ``close``, which may be called again, every call raises Unavailable; other handles go on."""
        with make_store() as other:
            store = make_store()
            store.close()
            store.close()
            for call in (
                lambda: store.get(f"{home}a", deadline=soon()),
                lambda: store.list(home, deadline=soon()),
                lambda: store.transact(Transaction(writes=(Put(f"{home}a", b"1"),)), deadline=soon()),
                lambda: store.watch(home, Revision(1)),
                lambda: store.lease(self.lease_seconds, deadline=soon()),
            ):
                with pytest.raises(Unavailable):
                    call()
            assert None is value_of(other, f"{home}a")

    # -- everything, in any order -------------------------------------------------------------------------------------

    def test_behaves_like_a_dict(self, make_store: MakeStore) -> None:
        """Random transactions, reads, listings and watches on two handles agree with a plain dict."""
        check_against_dict(make_store)

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        """Pass time in small steps until it holds; at most three lease times and some patience."""
        until = time.monotonic() + 3 * self.lease_seconds + PATIENCE_SECONDS
        pause = threading.Event()
        while not condition():
            assert time.monotonic() < until, "a lease did not end"
            self.pass_time(self.lease_seconds / 8)
            pause.wait(0.01)
