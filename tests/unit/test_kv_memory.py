"""MemoryStore's own promises: the faults it makes on demand, each within what the contract allows."""

from __future__ import annotations

import random
import time

import attrs
import pytest

from libcnm.errors import Invalid, Unavailable
from libcnm.kv.base import Changed, Gap, Put, Transaction
from libcnm.kv.memory import CONSUL_LIKE, ETCD_LIKE, PLAIN, MemoryStore, Profile
from libcnm.model.deadline import Deadline
from libcnm.testing.store_steps import delete, put, soon, value_of


def test_lost_reply_has_happened() -> None:
    """The transaction is applied, and the caller is told only that the outcome is unknown."""
    store = MemoryStore(attrs.evolve(PLAIN, lose_replies=1.0))
    with pytest.raises(Unavailable) as caught:
        put(store, "a", b"1")
    assert caught.value.outcome_unknown
    assert b"1" == value_of(store, "a")


def test_lost_request_has_not_happened() -> None:
    """The caller is told the same, and nothing was done; a read has no outcome to be unknown."""
    store = MemoryStore()
    lossy = store.connect(profile=attrs.evolve(PLAIN, lose_requests=1.0))
    with pytest.raises(Unavailable) as written:
        put(lossy, "a", b"1")
    with pytest.raises(Unavailable) as read:
        value_of(lossy, "a")
    assert (True, False) == (written.value.outcome_unknown, read.value.outcome_unknown)
    assert None is value_of(store, "a")


def test_same_seed_same_faults() -> None:
    """A failing run can be repeated from its seed."""

    def run(seed: int) -> list[bool]:
        store = MemoryStore(attrs.evolve(PLAIN, lose_replies=0.3, lose_requests=0.2), random=random.Random(seed))
        told = []
        for number in range(50):
            try:
                put(store, f"{number}", b"")
            except Unavailable:
                told.append(False)
            else:
                told.append(True)
        return told

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_chance_must_be_given() -> None:
    """A profile with probabilities and nothing to draw from would be a run that nobody can repeat."""
    with pytest.raises(Invalid):
        MemoryStore(attrs.evolve(PLAIN, drop_events=0.5))


def test_dropped_event_is_admitted() -> None:
    """A hint that is lost is a Gap, once; then the watch goes on."""
    store = MemoryStore(attrs.evolve(PLAIN, drop_events=1.0))
    with store.watch("", store.list("", deadline=soon()).revision) as watch:
        put(store, "a", b"1")
        assert isinstance(watch.next(0), Gap)
        assert None is watch.next(0)


def test_one_hint_for_each_commit_unless_coalesced() -> None:
    """Plain: as many hints as commits. Coalesced: one, covering all."""
    for coalesce, expected in ((0.0, [("a",), ("b",)]), (1.0, [("a", "b")])):
        store = MemoryStore(attrs.evolve(PLAIN, coalesce_events=coalesce))
        revision = store.list("", deadline=soon()).revision
        put(store, "a", b"1")
        last = store.transact(Transaction(writes=(Put("b", b"1"),)), deadline=soon()).revision
        with store.watch("", revision) as watch:
            hints = [hint for hint in iter(lambda: watch.next(0), None) if isinstance(hint, Changed)]
        assert expected == [hint.keys for hint in hints]
        assert last == hints[-1].revision


def test_compaction_is_a_gap() -> None:
    """A watch that lies further behind than the history reaches has to list again."""
    store = MemoryStore(attrs.evolve(ETCD_LIKE, compaction=2))
    revision = store.list("", deadline=soon()).revision
    near, far = store.watch("", revision), store.watch("", revision)
    put(store, "a", b"1")
    put(store, "b", b"1")
    assert isinstance(near.next(0), Changed)
    put(store, "c", b"1")
    assert isinstance(far.next(0), Gap)
    assert isinstance(near.next(0), Changed)


def test_consul_names_the_whole_prefix() -> None:
    """Its hints name everything under the prefix, what was deleted too, and nothing else."""
    store = MemoryStore(CONSUL_LIKE)
    for key in ("in/a", "in/b", "out"):
        put(store, key, b"1")
    with store.watch("in/", store.list("in/", deadline=soon()).revision) as watch:
        delete(store, "in/a")
        hint = watch.next(0)
        assert isinstance(hint, Changed)
        assert ("in/a", "in/b") == hint.keys


def test_index_that_goes_back() -> None:
    """Revisions begin lower than before, versions do not come back, and a watch from before is a Gap."""
    store = MemoryStore(attrs.evolve(CONSUL_LIKE, reset_index=1.0))
    before = store.list("", deadline=soon()).revision
    with store.watch("", before) as watch:
        versions = [put(store, "a", b"1"), put(store, "a", b"2")]
        assert store.list("", deadline=soon()).revision < before
        assert sorted(set(versions)) == versions
        assert isinstance(watch.next(0), Gap)


def test_effects_can_be_counted_and_crash() -> None:
    """The hook hears of every effect before and after; what it raises reaches the caller at that very point."""

    class Crash(Exception):
        pass

    heard: list[str] = []

    def crash(what: str) -> None:
        heard.append(what)
        if what == "transact:after":
            raise Crash

    store = MemoryStore(on_effect=crash)
    with pytest.raises(Crash):
        put(store, "a", b"1")
    lease = store.lease(10, deadline=soon())
    lease.keep_alive(deadline=soon())
    lease.revoke(deadline=soon())
    assert b"1" == value_of(store, "a")
    verbs = ("transact", "lease", "keep_alive", "revoke")
    assert [f"{verb}:{when}" for verb in verbs for when in ("before", "after")] == heard


def test_cut_off_handle() -> None:
    """Its calls are Unavailable and its watch says Gap once; others go on; healed, it sees what it missed."""
    store = MemoryStore()
    cut = store.connect()
    with cut.watch("", cut.list("", deadline=soon()).revision) as watch:
        cut.reachable = False
        with pytest.raises(Unavailable):
            value_of(cut, "a")
        put(store, "a", b"1")
        assert isinstance(watch.next(0), Gap)
        assert None is watch.next(0)
        cut.reachable = True
        hint = watch.next(0)
        assert isinstance(hint, Changed)
        assert ("a",) == hint.keys


def test_profile_limits_hold() -> None:
    """A profile's limits are enforced where they are narrower than the contract's."""
    store = MemoryStore(Profile("narrow", operations=2, bytes=10))
    for writes in ([Put("a", b""), Put("b", b""), Put("c", b"")], [Put("a", b"x" * 10)]):
        with pytest.raises(Invalid):
            store.transact(Transaction(writes=writes), deadline=soon())


def test_simulated_time_does_not_wait() -> None:
    """``next(0)`` and deadlines of a stopped clock cost no real time."""
    store = MemoryStore(now=lambda: 5.0)
    deadline = Deadline.after(1.0, lambda: 5.0)
    began = time.monotonic()
    with store.watch("", store.list("", deadline=deadline).revision) as watch:
        assert None is watch.next(0)
    assert time.monotonic() - began < 1.0
