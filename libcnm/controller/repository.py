"""Records in a store: typed reading and writing, and the search by name, id or id prefix. The only place that knows
keys.

The same code serves the host's own store and the cluster's. A transaction is built from small pieces (``put``,
``create``, ``same``) that add up with ``+``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, Generic, TypeVar

import attrs

from libcnm.errors import CnmError, Conflict, Corrupt, DeadlineExceeded, NotFound, Unavailable
from libcnm.kv.base import Absent, Committed, Delete, Entry, Put, Store, Transaction, VersionIs
from libcnm.model import keys, limits
from libcnm.model.checks import check_scope
from libcnm.model.codec import decode, encode
from libcnm.model.deadline import Deadline
from libcnm.model.ids import ID_HEX_DIGITS, looks_like_id
from libcnm.model.records import (
    EndpointRecord,
    HostSetting,
    Intent,
    LedgerLine,
    NameClaim,
    NetworkRecord,
    PortClaim,
    Presence,
    RequestNote,
    SandboxRecord,
    Scope,
)

log = logging.getLogger("libcnm")

Record = TypeVar("Record", bound=attrs.AttrsInstance)
Result = TypeVar("Result")


@attrs.frozen
class _RecordPut(Put):
    """A write that still knows what it writes, so that its committer need not read it back."""

    record: Any = attrs.field(default=None, eq=False, repr=False)


@attrs.frozen
class Stored(Generic[Record]):
    """A record as it was read, with what a later write compares."""

    key: str
    version: int
    record: Record

    @property
    def same(self) -> Transaction:
        """The compare that nobody has written it since."""
        return Transaction((VersionIs(self.key, self.version),))

    def replace(self, record: Record) -> Transaction:
        """Write a successor, if nobody has written since."""
        return Transaction((VersionIs(self.key, self.version),), (_put(self.key, record),))

    def delete(self) -> Transaction:
        """Delete it, if nobody has written since."""
        return Transaction((VersionIs(self.key, self.version),), (Delete(self.key),))


def create(key: str, record: attrs.AttrsInstance) -> Transaction:
    """Write a record where there must be none: a claim."""
    return Transaction((Absent(key),), (_put(key, record),))


def put(key: str, record: attrs.AttrsInstance) -> Transaction:
    """Write a record whatever is there."""
    return Transaction((), (_put(key, record),))


def _put(key: str, record: attrs.AttrsInstance) -> Put:
    return _RecordPut(key, encode(record, key), record=record)


def drop(*dropped: str) -> Transaction:
    """Delete keys, there or not."""
    return Transaction((), tuple(Delete(key) for key in dropped))


class Repository:
    """One store's records."""

    def __init__(self, store: Store, scope: Scope) -> None:
        self.store = store
        self.scope = scope
        self._decoded: dict[str, Stored[Any]] = {}

    # -- one record --------------------------------------------------------------------------------------------------

    def read(self, cls: type[Record], key: str, deadline: Deadline) -> Stored[Record] | None:
        """The record at a key, or None; Corrupt when it is not one."""
        entry = self.store.get(key, deadline=deadline)
        return None if entry is None else self._stored(cls, entry)

    def recall(self, cls: type[Record], key: str, deadline: Deadline) -> Stored[Record] | None:
        """The record as this process has last read or written it, else as it is.

        Only for what a transaction compares, so that one who remembers wrongly loses nothing but the attempt; and never
        for the reason of a refusal.
        """
        known: Stored[Record] | None = self._decoded.get(key)
        return known if known is not None and type(known.record) is cls else self.read(cls, key, deadline)

    def _stored(self, cls: type[Record], entry: Entry) -> Stored[Record]:
        """Decoded once for each version: records are values, and a verb reads the same ones several times."""
        known: Stored[Record] | None = self._decoded.get(entry.key)
        if known is not None and known.version == entry.version and type(known.record) is cls:
            return known
        record = decode(cls, entry.value, entry.key)
        if isinstance(record, NetworkRecord | EndpointRecord):
            check_scope(record, self.scope)
        found = Stored(entry.key, entry.version, record)
        self._remember(found)
        return found

    def _remember(self, stored: Stored[Any]) -> None:
        if len(self._decoded) >= limits.DECODED_RECORDS:
            self._decoded.clear()
        self._decoded[stored.key] = stored

    def network(self, network_id: str, deadline: Deadline) -> Stored[NetworkRecord] | None:
        """A network by its full id."""
        return self.read(NetworkRecord, keys.network(network_id), deadline)

    def endpoint(self, network_id: str, endpoint_id: str, deadline: Deadline) -> Stored[EndpointRecord] | None:
        """An endpoint by its full id."""
        return self.read(EndpointRecord, keys.endpoint(network_id, endpoint_id), deadline)

    def sandbox(self, sandbox_id: str, deadline: Deadline) -> Stored[SandboxRecord] | None:
        """A sandbox by its full id."""
        return self.read(SandboxRecord, keys.sandbox(sandbox_id), deadline)

    def endpoint_called(self, network_id: str, ref: str, deadline: Deadline) -> Stored[EndpointRecord] | None:
        """The endpoint with that full id, else that name, without a listing; None: it takes one to say."""
        claim = keys.endpoint_name(network_id, ref)
        found = self._called(EndpointRecord, ref, claim, partial(keys.endpoint, network_id), deadline)
        return found if found is not None and ref in (found.record.id, found.record.name) else None

    def sandbox_called(self, ref: str, deadline: Deadline) -> Stored[SandboxRecord] | None:
        """The sandbox with that full id, else of that container, likewise."""
        found = self._called(SandboxRecord, ref, keys.container(ref), keys.sandbox, deadline)
        return found if found is not None and ref in (found.record.id, found.record.container_id) else None

    def _called(
        self, cls: type[Record], ref: str, claim: str, place: Callable[[str], str], deadline: Deadline
    ) -> Stored[Record] | None:
        try:
            found = self.read(cls, place(ref), deadline) if len(ref) == ID_HEX_DIGITS and looks_like_id(ref) else None
            if found is not None:
                return found
            holder = self.holder(claim, deadline)
            return None if holder is None else self.read(cls, place(holder), deadline)
        except Corrupt as error:
            log.warning("left out: %s", error)
            return None

    def presence(self, network_id: str, deadline: Deadline) -> Stored[Presence] | None:
        """A network's presence on this host."""
        return self.read(Presence, keys.presence(network_id), deadline)

    def port(self, protocol: str, number: int, deadline: Deadline) -> Stored[PortClaim] | None:
        """Who published a port."""
        return self.read(PortClaim, keys.port(protocol, number), deadline)

    def request(self, request_id: str, deadline: Deadline) -> Stored[RequestNote] | None:
        """What a request id is used for."""
        return self.read(RequestNote, keys.request(request_id), deadline)

    def holder(self, key: str, deadline: Deadline) -> str | None:
        """Whose a claimed name is."""
        found = self.read(NameClaim, key, deadline)
        return None if found is None else found.record.holder

    # -- many --------------------------------------------------------------------------------------------------------

    def networks(self, deadline: Deadline) -> list[Stored[NetworkRecord]]:
        """All networks, those being made or deleted included."""
        return self._all(NetworkRecord, keys.NETWORKS, deadline)

    def endpoints(self, network_id: str, deadline: Deadline) -> list[Stored[EndpointRecord]]:
        """All endpoints of a network."""
        return self._all(EndpointRecord, keys.endpoints(network_id), deadline)

    def sandboxes(self, deadline: Deadline) -> list[Stored[SandboxRecord]]:
        """All sandboxes of this host."""
        return self._all(SandboxRecord, keys.SANDBOXES, deadline)

    def intents(self, deadline: Deadline) -> list[Stored[Intent]]:
        """Verbs that have begun and not ended."""
        return self._all(Intent, keys.INTENTS, deadline)

    def presences(self, deadline: Deadline) -> list[Stored[Presence]]:
        """Networks that are, or have been, present on this host."""
        return self._all(Presence, keys.PRESENCES, deadline)

    def host_settings(self, deadline: Deadline) -> list[Stored[HostSetting]]:
        """Host-wide sysctls that were changed."""
        return self._all(HostSetting, keys.HOST_SETTINGS, deadline)

    def ledger(self, sandbox_id: str, deadline: Deadline) -> list[Stored[LedgerLine]]:
        """What is attached to a sandbox of this host, or on its way in or out."""
        return self._all(LedgerLine, keys.attachments(sandbox_id), deadline)

    def _all(self, cls: type[Record], prefix: str, deadline: Deadline) -> list[Stored[Record]]:
        found = []
        for entry in self.store.list(prefix, deadline=deadline).entries:
            try:
                found.append(self._stored(cls, entry))
            except Corrupt as error:
                log.warning("left out: %s", error)  # one bad record costs itself only; reading it alone says so
        return found

    # -- writing -----------------------------------------------------------------------------------------------------

    def commit(self, transaction: Transaction, deadline: Deadline, *, durable: bool = True) -> Committed:
        """One transaction; see :meth:`libcnm.kv.base.Store.transact`."""
        committed = self.store.transact(transaction, deadline=deadline, durable=durable)
        for write in transaction.writes:
            if isinstance(write, _RecordPut):
                self._remember(Stored(write.key, committed.versions[write.key], write.record))
            else:
                self._decoded.pop(write.key, None)
        return committed


def written(transaction: Transaction, committed: Committed, keys: Collection[str]) -> dict[str, Entry]:
    """What a transaction has put at some of its keys."""
    puts = [one for one in transaction.writes if one.key in keys and isinstance(one, Put)]
    return {put.key: Entry(put.key, put.value, committed.versions[put.key]) for put in puts}


def optimistic(deadline: Deadline, what: str, attempt: Callable[[bool], Result]) -> Result:
    """Call ``attempt(False)``, which may go by what is remembered; unless that succeeds, ``attempt(True)`` as
    :func:`retrying` does, which reads: so no refusal has a memory for its reason.
    """
    try:
        return attempt(False)
    except (DeadlineExceeded, Unavailable):
        raise
    except CnmError:
        return retrying(deadline, what, lambda: attempt(True))


def retrying(deadline: Deadline, what: str, attempt: Callable[[], Result]) -> Result:
    """Call ``attempt`` (which reads, decides and commits) until no compare fails; its own typed errors end it."""
    for _ in range(limits.CONFLICT_RETRIES):
        deadline.check(what)
        try:
            return attempt()
        except Conflict:
            continue
    return attempt()


def outcome_unknown(error: CnmError) -> bool:
    """True when what failed may have happened all the same: then the verb's intent is left for recovery to settle."""
    return isinstance(error, Unavailable) and error.outcome_unknown


def find(
    kind: str, ref: str, records: Iterable[Record], identity: Callable[[Record], str], name: Callable[[Record], str]
) -> list[Record]:
    """Who answers to ``ref``: a full id, else a name, else an id prefix. NotFound when nobody does."""
    known = list(records)
    for answers in (
        [record for record in known if identity(record) == ref],
        [record for record in known if name(record) == ref],
        [record for record in known if looks_like_id(ref) and identity(record).startswith(ref)],
    ):
        if answers:
            return answers
    raise NotFound(kind, ref)
