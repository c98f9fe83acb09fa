"""A store whose transactions have an outcome: when a reply was lost, what would have been written is read back.

The same transaction is sent again. Either it goes through now, or its compares fail: because somebody else was first,
or because the lost one had happened. Which of the two, the keys say that it claims: records and claims carry the id of
their object or operation, so nobody else writes these values. Verbs therefore meet only success, their typed errors,
and (when the store stays away) Unavailable with ``outcome_unknown``, after which their intent is left for recovery.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from typing import ClassVar, Final

from libcnm.errors import Conflict, Unavailable
from libcnm.kv.base import (
    Absent,
    Committed,
    Delete,
    Entry,
    Lease,
    Listing,
    Put,
    Revision,
    Store,
    Transaction,
    VersionIs,
    Watch,
)
from libcnm.model.deadline import Deadline

_TRIES: Final = 8


class SettledStore(Store):
    """Another store, with every outcome settled as far as its deadline allows."""

    scheme: ClassVar[str] = "settled"

    def __init__(self, store: Store) -> None:
        self._store = store

    def transact(self, transaction: Transaction, *, deadline: Deadline, durable: bool = True) -> Committed:
        try:
            return self._store.transact(transaction, deadline=deadline, durable=durable)
        except Unavailable as error:
            if not error.outcome_unknown:
                raise
            lost = error
        for _ in range(_TRIES):
            if deadline.remaining() <= 0:
                break
            try:
                return self._store.transact(transaction, deadline=deadline, durable=durable)
            except Conflict:
                try:
                    found = self._happened(transaction, deadline)
                except Unavailable:
                    break  # it cannot be read back now: still unknown
                if found is None:
                    raise
                return found
            except Unavailable as error:
                if not error.outcome_unknown:
                    break  # out of reach by now: the first one's outcome stays unknown
        raise lost

    def _happened(self, transaction: Transaction, deadline: Deadline) -> Committed | None:
        """What the transaction made, if it has happened, although its compares do not hold (any more)."""
        evidence = _evidence(transaction)
        there = self._store.get_many([write.key for write in evidence], deadline=deadline)
        for write in evidence:
            entry = there.get(write.key)
            if isinstance(write, Delete) if entry is None else isinstance(write, Put) and write.value == entry.value:
                listing = self._store.list(write.key, deadline=deadline)
                return Committed({key: one.version for key, one in there.items()}, listing.revision)
        return None

    # -- everything else is the store's ------------------------------------------------------------------------------

    def get(self, key: str, *, deadline: Deadline) -> Entry | None:
        return self._store.get(key, deadline=deadline)

    def get_many(self, keys: Iterable[str], *, deadline: Deadline) -> dict[str, Entry]:
        return self._store.get_many(keys, deadline=deadline)

    def list(self, prefix: str, *, deadline: Deadline) -> Listing:
        return self._store.list(prefix, deadline=deadline)

    def watch(self, prefix: str, revision: Revision) -> Watch:
        return self._store.watch(prefix, revision)

    def lease(self, seconds: float, *, deadline: Deadline) -> Lease:
        return self._store.lease(seconds, deadline=deadline)

    def close(self) -> None:
        self._store.close()


def _evidence(transaction: Transaction) -> builtins.list[Put | Delete]:
    """The writes that tell whose they are: of keys that are claimed, else of records that are replaced or deleted.

    Hints are written without a compare, and two hosts may well write the same one. What is shared (the head of an
    address space) is replaced only beside claims.
    """
    claimed = {compare.key for compare in transaction.compares if isinstance(compare, Absent)}
    replaced = {compare.key for compare in transaction.compares if isinstance(compare, VersionIs)}
    for keys in (claimed, replaced):
        found = [write for write in transaction.writes if write.key in keys]
        if found:
            return found
    return []
