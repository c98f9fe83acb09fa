"""A store in memory, for tests and simulation: the contract, with either cluster store's manners and faults on demand.

A :class:`Profile` says how hard to make its user's life: Consul's hints that name the whole prefix, its index that may
go back, etcd's compaction, lost requests and replies. No profile breaks the contract of :mod:`libcnm.kv.base`; each
only uses the freedom it leaves. Faults are drawn from a ``random.Random`` that the caller seeds, so a failing run can
be repeated.

It must never know what the records mean, and never touch a file, a socket or a clock of its own choosing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar, Final

from libcnm.errors import Invalid, NotFound, Unavailable
from libcnm.kv._memory import (
    CONSUL_LIKE,
    ETCD_LIKE,
    HISTORY_TRANSACTIONS,
    PLAIN,
    RESETS,
    Chance,
    Ending,
    Link,
    Memory,
    Profile,
)
from libcnm.kv.base import (
    Changed,
    Committed,
    Entry,
    Gap,
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

__all__ = ["CONSUL_LIKE", "ETCD_LIKE", "PLAIN", "Chance", "MemoryStore", "Profile"]

_LOOK_SECONDS: Final = 0.25
"""How often a waiting watch looks for ended leases: an injected clock cannot wake it."""


class MemoryStore(Store):
    """One handle on a store in memory. ``connect`` gives another host's handle on the same data, with faults of its
    own.

    ``now`` drives the leases (seconds, any origin). ``on_effect`` is called with ``"transact:before"``,
    ``"transact:after"`` and likewise for ``lease``, ``keep_alive`` and ``revoke``; whatever it raises goes to the
    caller (a simulated crash). ``reachable = False`` cuts this handle off: every call raises Unavailable, its watches
    say Gap once.
    """

    scheme: ClassVar[str] = "memory"

    def __init__(
        self,
        profile: Profile = PLAIN,
        *,
        random: Chance | None = None,
        now: Callable[[], float] = time.monotonic,
        on_effect: Callable[[str], None] | None = None,
    ) -> None:
        self._link = _link(Memory(now), profile, random, on_effect)

    @property
    def profile(self) -> Profile:
        """Its manners."""
        return self._link.profile

    @property
    def reachable(self) -> bool:
        """Whether calls get through; assign False to cut this handle off, True to heal it."""
        return self._link.reachable

    @reachable.setter
    def reachable(self, reachable: bool) -> None:
        with self._link.memory.changed:
            self._link.reachable = reachable
            self._link.memory.changed.notify_all()

    def connect(
        self,
        *,
        profile: Profile | None = None,
        random: Chance | None = None,
        on_effect: Callable[[str], None] | None = None,
    ) -> MemoryStore:
        """Another handle on the same data. Faults, reachability and ``close`` are its own; the clock is shared."""
        other = MemoryStore()
        other._link = _link(self._link.memory, profile or self.profile, random or self._link.chance, on_effect)
        return other

    def get(self, key: str, *, deadline: Deadline) -> Entry | None:
        check_key(key)
        self._link.begin("get", deadline)
        with self._link.memory.changed:
            self._link.memory.end_leases()
            return self._link.memory.entries.get(key)

    def list(self, prefix: str, *, deadline: Deadline) -> Listing:
        check_prefix(prefix)
        self._link.begin("list", deadline)
        with self._link.memory.changed:
            memory = self._link.memory
            memory.end_leases()
            entries = tuple(memory.entries[key] for key in memory.under(prefix))
            return Listing(entries, memory.revision(memory.sequence))

    def transact(self, transaction: Transaction, *, deadline: Deadline, durable: bool = True) -> Committed:
        transaction.check()
        self._link.check_size(transaction)
        self._link.begin("transact", deadline, effect=True)
        with self._link.memory.changed:
            self._link.memory.end_leases()
            self._link.memory.refuse(transaction)
            if self._link.happens(self.profile.reset_index) and self._link.memory.resets < RESETS:
                self._link.memory.resets += 1
            committed = self._link.memory.apply(transaction)
        self._link.end("transact")
        return committed

    def watch(self, prefix: str, revision: Revision) -> Watch:
        check_prefix(prefix)
        if self._link.closed:
            raise Unavailable("store", "it is closed")
        return _MemoryWatch(self._link, prefix, revision)

    def lease(self, seconds: float, *, deadline: Deadline) -> Lease:
        if not limits.LEASE_SECONDS_MIN <= seconds < float("inf"):
            raise Invalid("lease", seconds, f"is not a number of seconds from {limits.LEASE_SECONDS_MIN:g} up")
        self._link.begin("lease", deadline, effect=True)
        with self._link.memory.changed:
            self._link.memory.leases_made += 1
            lease = _MemoryLease(self._link, f"lease-{self._link.memory.leases_made}", seconds)
            self._link.memory.leases[lease.id] = Ending(self._link.memory.now() + seconds, seconds)
        self._link.end("lease")
        return lease

    def close(self) -> None:
        with self._link.memory.changed:
            self._link.closed = True
            self._link.memory.changed.notify_all()


class _MemoryLease(Lease):
    def __init__(self, link: Link, lease_id: str, seconds: float) -> None:
        self.id = lease_id
        self.seconds = seconds
        self._link = link

    def keep_alive(self, *, deadline: Deadline) -> None:
        self._link.begin("keep_alive", deadline, effect=True)
        memory = self._link.memory
        with memory.changed:
            memory.end_leases()
            ending = memory.leases.get(self.id)
            if ending is None:
                raise NotFound("lease", self.id)
            ending.at = memory.now() + self.seconds
        self._link.end("keep_alive")

    def revoke(self, *, deadline: Deadline) -> None:
        self._link.begin("revoke", deadline, effect=True)
        memory = self._link.memory
        with memory.changed:
            memory.end_leases()
            if self.id in memory.leases:
                memory.drop_leases({self.id})
        self._link.end("revoke")


class _MemoryWatch(Watch):
    def __init__(self, link: Link, prefix: str, revision: Revision) -> None:
        self._link = link
        self._prefix = prefix
        self._revision = revision
        self._closed = False
        self._said_unreachable = False

    def next(self, timeout: float) -> Changed | Gap | None:
        memory = self._link.memory
        until = time.monotonic() + timeout
        with memory.changed:
            while not (self._closed or self._link.closed):
                hint = self._look()
                left = until - time.monotonic()
                if hint is not None or left <= 0:
                    return hint
                memory.changed.wait(min(left, _LOOK_SECONDS))
        return None

    def close(self) -> None:
        with self._link.memory.changed:
            self._closed = True
            self._link.memory.changed.notify_all()

    def _look(self) -> Changed | Gap | None:
        if not self._link.reachable:
            said, self._said_unreachable = self._said_unreachable, True
            return None if said else Gap("the store cannot be reached")
        self._said_unreachable = False
        memory, profile = self._link.memory, self._link.profile
        memory.end_leases()
        since = memory.sequence_of(self._revision)
        if since is None:
            return self._gap("the index went back")
        if since < memory.sequence - min(profile.compaction, HISTORY_TRANSACTIONS):
            return self._gap("the history was compacted")
        return self._hint(since)

    def _hint(self, since: int) -> Changed | Gap | None:
        memory, profile = self._link.memory, self._link.profile
        keys: set[str] = set()
        reached = memory.sequence
        for sequence in range(since + 1, memory.sequence + 1):
            found = {key for key in memory.history[sequence] if key.startswith(self._prefix)}
            if keys and found and not self._link.happens(profile.coalesce_events):
                reached = sequence - 1
                break
            keys |= found
        if keys and self._link.happens(profile.drop_events):
            return self._gap("events were dropped")
        self._revision = memory.revision(reached)
        if not keys:
            return None
        if profile.whole_prefix:
            keys.update(memory.under(self._prefix))
        return Changed(tuple(sorted(keys)), self._revision)

    def _gap(self, reason: str) -> Gap:
        self._revision = self._link.memory.revision(self._link.memory.sequence)
        return Gap(reason)


def _link(memory: Memory, profile: Profile, chance: Chance | None, on_effect: Callable[[str], None] | None) -> Link:
    if chance is None and profile.needs_chance():
        raise Invalid("random", None, f"is not given, and the profile {profile.name!r} has probabilities")
    return Link(memory, profile, chance, on_effect)
