"""Any store beside a plain dict: Hypothesis does random things to both, and they must agree.

The strategies make keys that are each other's neighbours and prefixes, and transactions whose compares sometimes hold.
The machine has two handles and some watches: a watch that was drained must have named, or covered by a Gap, every key
that changed. :func:`check_against_dict` runs it; each example keeps to a prefix of its own, so any store will do.

It must never know a particular store.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any, Final

import attrs
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from libcnm.errors import Conflict
from libcnm.kv.base import Absent, Changed, Compare, Delete, Gap, Put, Store, Transaction, VersionIs, Watch, Write
from libcnm.model.deadline import Deadline

_SECONDS: Final = 10.0
NAMES: Final = ("a", "a/", "a/b", "a/b/c", "a0", "a%", "a_c", "b", "~")
"""Few, so that they collide; some begin others, and some are patterns elsewhere."""


def keys(prefix: str = "") -> st.SearchStrategy[str]:
    """Keys under ``prefix`` that are each other's neighbours and prefixes."""
    return st.sampled_from(NAMES).map(lambda name: prefix + name)


def values() -> st.SearchStrategy[bytes]:
    """Small values, the empty one among them."""
    return st.binary(max_size=12)


def writes(prefix: str = "") -> st.SearchStrategy[list[Write]]:
    """Puts and deletes, no key twice."""
    write: st.SearchStrategy[Write] = st.one_of(st.builds(Put, keys(prefix), values()), st.builds(Delete, keys(prefix)))
    return st.lists(write, max_size=5, unique_by=lambda one: one.key)


def compares(prefix: str = "", versions: tuple[int, ...] = (1,)) -> st.SearchStrategy[list[Compare]]:
    """Compares with absence, or with one of ``versions``."""
    is_version = st.builds(VersionIs, keys(prefix), st.sampled_from(versions))
    compare: st.SearchStrategy[Compare] = st.one_of(st.builds(Absent, keys(prefix)), is_version)
    return st.lists(compare, max_size=3)


def transactions(prefix: str = "", versions: tuple[int, ...] = (1,)) -> st.SearchStrategy[Transaction]:
    """Transactions within every store's limits."""
    return st.builds(Transaction, compares(prefix, versions), writes(prefix))


@attrs.define
class _Watching:
    watch: Watch
    changed: set[str]


class StoreMachine(RuleBasedStateMachine):
    """Subclass it with ``make_store``; :func:`check_against_dict` does."""

    make_store: Callable[[], Store]

    @initialize()
    def open(self) -> None:
        make_store = type(self).make_store
        self.home = f"machine/{secrets.token_hex(6)}/"
        self.stores = (make_store(), make_store())
        self.model: dict[str, tuple[bytes, int]] = {}
        self.seen: dict[str, set[int]] = {}
        self.watching: list[_Watching] = []

    def teardown(self) -> None:
        for watching in getattr(self, "watching", ()):
            watching.watch.close()
        for store in getattr(self, "stores", ()):
            store.close()

    @rule(data=st.data(), which=st.integers(0, 1), durable=st.booleans(), guarded=st.booleans())
    def transact(self, data: st.DataObject, which: int, durable: bool, guarded: bool) -> None:
        known = tuple(sorted({version for versions in self.seen.values() for version in versions})) or (1,)
        wanted = data.draw(transactions(self.home, known))
        if guarded:  # random compares seldom hold: read first, as a verb does
            wanted = Transaction([self._as_it_is(compare.key) for compare in wanted.compares], wanted.writes)
        failing = {compare.key for compare in wanted.compares if compare != self._as_it_is(compare.key)}
        conflicting: set[str] = set()
        try:
            self._apply(wanted, self.stores[which].transact(wanted, deadline=_soon(), durable=durable).versions)
        except Conflict as conflict:
            conflicting.update(conflict.keys)
        assert failing == conflicting

    def _as_it_is(self, key: str) -> Compare:
        return VersionIs(key, self.model[key][1]) if key in self.model else Absent(key)

    def _apply(self, done: Transaction, versions: dict[str, int]) -> None:
        assert {write.key for write in done.writes if isinstance(write, Put)} == set(versions)
        for write in done.writes:
            was_there = self.model.pop(write.key, None) is not None
            if isinstance(write, Put):
                version = versions[write.key]
                assert version not in self.seen.setdefault(write.key, set()), "a version came back"
                self.seen[write.key].add(version)
                self.model[write.key] = (write.value, version)
            if was_there or isinstance(write, Put):
                for watching in self.watching:
                    watching.changed.add(write.key)

    @rule(which=st.integers(0, 1), name=st.sampled_from(NAMES))
    def get(self, which: int, name: str) -> None:
        entry = self.stores[which].get(self.home + name, deadline=_soon())
        assert self.model.get(self.home + name) == (None if entry is None else (entry.value, entry.version))

    @rule(which=st.integers(0, 1), name=st.sampled_from(("", *NAMES)))
    def list(self, which: int, name: str) -> None:
        prefix = self.home + name
        entries = self.stores[which].list(prefix, deadline=_soon()).entries
        expected = [(key, *self.model[key]) for key in sorted(self.model) if key.startswith(prefix)]
        assert expected == [(entry.key, entry.value, entry.version) for entry in entries]

    @precondition(lambda self: len(self.watching) < 3)
    @rule(which=st.integers(0, 1))
    def watch(self, which: int) -> None:
        store = self.stores[which]
        revision = store.list(self.home, deadline=_soon()).revision
        self.watching.append(_Watching(store.watch(self.home, revision), set()))

    @precondition(lambda self: self.watching)
    @rule(data=st.data())
    def drain(self, data: st.DataObject) -> None:
        watching = data.draw(st.sampled_from(self.watching))
        hinted: set[str] = set()
        while (hint := watching.watch.next(0)) is not None:
            if isinstance(hint, Gap):
                hinted |= watching.changed
            else:
                assert isinstance(hint, Changed)
                hinted.update(hint.keys)
        assert set() == watching.changed - hinted
        watching.changed.clear()

    @invariant()
    def both_handles_see_the_same(self) -> None:
        if hasattr(self, "stores"):
            first, second = (store.list(self.home, deadline=_soon()).entries for store in self.stores)
            assert first == second


def check_against_dict(make_store: Callable[[], Store], *, examples: int = 25, steps: int = 20) -> None:
    """Run the machine; raises AssertionError with the shortest story that the store and the dict tell differently."""
    machine: Any = type("StoreMachineHere", (StoreMachine,), {"make_store": staticmethod(make_store)})
    few = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    run_state_machine_as_test(machine, settings=few)


def _soon() -> Deadline:
    return Deadline.after(_SECONDS, time.monotonic)
