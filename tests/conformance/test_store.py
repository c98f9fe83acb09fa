"""The store contract on each store that needs no server: in memory, with either cluster store's manners, and SQLite."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from libcnm.kv.base import Store
from libcnm.kv.memory import CONSUL_LIKE, ETCD_LIKE, PLAIN, MemoryStore, Profile
from libcnm.kv.sqlite import SQLiteStore
from libcnm.testing.stores import StoreConformance


class _OnSimulatedTime(StoreConformance):
    """Leases end by a clock that the test moves."""

    def setup_method(self) -> None:
        self.clock = 1000.0

    def now(self) -> float:
        return self.clock

    def pass_time(self, seconds: float) -> None:
        self.clock += seconds


class _InMemory(_OnSimulatedTime):
    profile = PLAIN

    @pytest.fixture
    def make_store(self) -> Callable[[], Store]:
        first = MemoryStore(self.profile, random=random.Random(7), now=self.now)
        seeds = itertools.count(8)
        return lambda: first.connect(random=random.Random(next(seeds)))


class TestMemory(_InMemory):
    """No faults: one hint for each commit."""


class TestMemoryLikeConsul(_InMemory):
    """Whole prefixes in hints, and an index that often goes back."""

    profile = attrs.evolve(CONSUL_LIKE, reset_index=0.2)


class TestMemoryLikeEtcd(_InMemory):
    """Compacted after a few commits."""

    profile = attrs.evolve(ETCD_LIKE, compaction=2)


class TestMemoryWithHardHints(_InMemory):
    """Hints are dropped (with a Gap) and coalesced at random."""

    profile = Profile("hard", drop_events=0.3, coalesce_events=0.5, compaction=5)


class TestSQLite(_OnSimulatedTime):
    """One file, several stores on it."""

    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Callable[[], Store]:
        return lambda: SQLiteStore(tmp_path / "state" / "store.db", lease_clock=self.now)
