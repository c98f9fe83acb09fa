"""What is behind a store in memory: the data that all handles share, and each handle's link to it, with its faults.

It must never know what the records mean, and never touch a file, a socket, or a clock of its own choosing.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Callable
from typing import Final, Protocol

import attrs

from libcnm.errors import Conflict, Invalid, NotFound, Unavailable
from libcnm.kv.base import Absent, Committed, Compare, Delete, Entry, Put, Revision, Transaction, after_prefix
from libcnm.model import limits
from libcnm.model.deadline import Deadline

HISTORY_TRANSACTIONS: Final = 10_000
"""How many transactions a watch may lie behind before it gets a Gap; a bound on memory."""
_ERA: Final = 2**32
"""Distance between the revisions before and after an index reset; far more than one run commits."""
RESETS: Final = 256
"""How often the index may go back in one run."""


@attrs.frozen
class Profile:
    """A store's manners. Probabilities lie in 0..1; each draws from the handle's own ``random``.

    ``drop_events``: the hint is lost and a Gap admits it. ``coalesce_events``: the next commit's hint is merged into
    this one. ``lose_requests``: the call fails and nothing happened. ``lose_replies``: the transaction happened and
    the call fails. Both say ``outcome_unknown``, as a caller cannot tell them apart. ``reset_index``: a commit after
    which revisions begin lower than before. ``compaction``: how many transactions a watch may lie behind.
    """

    name: str
    operations: int = limits.TRANSACTION_OPERATIONS
    bytes: int = limits.TRANSACTION_BYTES
    compaction: int = HISTORY_TRANSACTIONS
    whole_prefix: bool = False
    drop_events: float = 0.0
    coalesce_events: float = 0.0
    lose_requests: float = 0.0
    lose_replies: float = 0.0
    reset_index: float = 0.0

    def needs_chance(self) -> bool:
        """Whether it leaves anything to chance."""
        probabilities = (
            self.drop_events,
            self.coalesce_events,
            self.lose_requests,
            self.lose_replies,
            self.reset_index,
        )
        return any(0.0 < probability < 1.0 for probability in probabilities)


PLAIN: Final = Profile("plain")
CONSUL_LIKE: Final = Profile("consul-like", operations=64, bytes=512 * 1024, whole_prefix=True, coalesce_events=1.0)
"""Consul: 64 operations, a blocking query returns the prefix, and (with ``reset_index``) its index may go back."""
ETCD_LIKE: Final = Profile("etcd-like", operations=128, bytes=1536 * 1024, compaction=100)
"""etcd: 128 operations, exact keys, history is compacted."""


class Chance(Protocol):
    """Where faults are drawn from: a seeded ``random.Random``."""

    def random(self) -> float:
        """A number from 0 up to, not including, 1."""


@attrs.define
class Ending:
    """A lease as the store sees it: when it ends, in seconds of the store's clock."""

    at: float
    seconds: float


class Memory:
    """What all handles share. Everything is done under ``changed``, which is notified after each change."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.changed = threading.Condition()
        self.entries: dict[str, Entry] = {}
        self.lease_of: dict[str, str] = {}
        self.keys: list[str] = []
        self.leases: dict[str, Ending] = {}
        self.leases_made = 0
        self.sequence = 0
        self.resets = 0
        self.history: dict[int, tuple[str, ...]] = {}

    def revision(self, sequence: int) -> Revision:
        return Revision((RESETS - self.resets) * _ERA + sequence)

    def sequence_of(self, revision: Revision) -> int | None:
        """Where in the history it is; None for a revision of another era or of another store."""
        sequence = revision - self.revision(0)
        return sequence if 0 <= sequence <= self.sequence else None

    def under(self, prefix: str) -> list[str]:
        return self.keys[bisect_left(self.keys, prefix) : bisect_left(self.keys, after_prefix(prefix))]

    def end_leases(self) -> None:
        """Take away the keys of leases that ended; every call begins with it, so no reader ever sees one."""
        if not self.leases:
            return
        now = self.now()
        ended = {lease for lease, ending in self.leases.items() if ending.at <= now}
        if ended:
            self.drop_leases(ended)

    def drop_leases(self, ended: set[str]) -> None:
        gone = [key for key, lease in self.lease_of.items() if lease in ended]
        for lease in ended:
            del self.leases[lease]
        for key in gone:
            self.remove(key)
        if gone:
            self.record(gone)

    def remove(self, key: str) -> bool:
        if self.entries.pop(key, None) is None:
            return False
        self.lease_of.pop(key, None)
        del self.keys[bisect_left(self.keys, key)]
        return True

    def place(self, put: Put, version: int) -> None:
        if put.key not in self.entries:
            insort(self.keys, put.key)
        self.entries[put.key] = Entry(put.key, put.value, version)
        self.lease_of.pop(put.key, None)
        if put.lease is not None:
            self.lease_of[put.key] = put.lease

    def record(self, keys: list[str]) -> None:
        self.sequence += 1
        self.history[self.sequence] = tuple(keys)
        self.history.pop(self.sequence - HISTORY_TRANSACTIONS, None)
        self.changed.notify_all()

    def refuse(self, transaction: Transaction) -> None:
        failed = [compare.key for compare in transaction.compares if not self._holds(compare)]
        if failed:
            raise Conflict(failed)
        for write in transaction.writes:
            if isinstance(write, Put) and write.lease is not None and write.lease not in self.leases:
                raise NotFound("lease", write.lease)

    def _holds(self, compare: Compare) -> bool:
        entry = self.entries.get(compare.key)
        if isinstance(compare, Absent):
            return entry is None
        return entry is not None and entry.version == compare.version

    def apply(self, transaction: Transaction) -> Committed:
        changed = [write.key for write in transaction.writes if isinstance(write, Delete) and self.remove(write.key)]
        puts = [write for write in transaction.writes if isinstance(write, Put)]
        changed.extend(put.key for put in puts)
        if changed:
            self.record(changed)
        for put in puts:
            self.place(put, self.sequence)
        return Committed({put.key: self.sequence for put in puts}, self.revision(self.sequence))


@attrs.define
class Link:
    """One handle's way to the data: it may be closed, cut, lossy, or crash its user."""

    memory: Memory
    profile: Profile
    chance: Chance | None
    on_effect: Callable[[str], None] | None
    reachable: bool = True
    closed: bool = False

    def begin(self, verb: str, deadline: Deadline, *, effect: bool = False) -> None:
        """What every call goes through first; ``effect``: it changes the store, so it may crash, or be lost."""
        if self.closed:
            raise Unavailable("store", "it is closed")
        deadline.check(f"store {verb}")
        if not self.reachable:
            raise Unavailable("store", "it cannot be reached")
        if effect:
            self.effect(f"{verb}:before")
        if self.happens(self.profile.lose_requests):
            raise Unavailable("store", "the request was lost", outcome_unknown=effect)

    def end(self, verb: str) -> None:
        """What every effect goes through last."""
        self.effect(f"{verb}:after")
        if self.happens(self.profile.lose_replies):
            raise Unavailable("store", "the reply was lost", outcome_unknown=True)

    def effect(self, what: str) -> None:
        if self.on_effect is not None:
            self.on_effect(what)

    def happens(self, probability: float) -> bool:
        """Draws only where there is something to decide, so that an unused fault does not change a seeded run."""
        if self.chance is None or not 0.0 < probability < 1.0:
            return probability >= 1.0
        return self.chance.random() < probability

    def check_size(self, transaction: Transaction) -> None:
        operations = len(transaction.compares) + len(transaction.writes)
        size = sum(len(write.key) + len(write.value) for write in transaction.writes if isinstance(write, Put))
        if operations > self.profile.operations or size > self.profile.bytes:
            reason = f"(operations, bytes) are too many for {self.profile.name}"
            raise Invalid("transaction", (operations, size), reason)
