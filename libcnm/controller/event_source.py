"""One store's changes as events: a picture of what was last shown, and what the store's watch says to look at again.

A watch is a hint, so an event is never derived from it: the records that it names are read, and what differs from the
picture is told. Several changes of one object between two looks are one difference. After a gap everything is listed
and compared; where there is no earlier picture to compare with (the reader comes back with a cursor that the store's
history does not reach), that is said, and all that there is follows.

Records are shown as far as others may know of them: a network once it is ready, an attachment while it is. One that
cannot be read is named in the log and costs itself only. It reads and never writes; it registers no host. It knows no
thread: whoever has a source calls it from one at a time, but for ``close``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import attrs

from libcnm.errors import CnmError, Corrupt
from libcnm.kv.base import Entry, Gap, Listing, Revision, Store, Watch
from libcnm.model import keys, limits
from libcnm.model.checks import check_scope
from libcnm.model.codec import decode
from libcnm.model.deadline import Deadline
from libcnm.model.event import Event, Kind, Position
from libcnm.model.ids import ID_HEX_DIGITS, looks_like_id, short
from libcnm.model.records import EndpointRecord, NameClaim, NetworkRecord, SandboxRecord, Scope
from libcnm.system.clock import Clock

log = logging.getLogger("libcnm.events")

_FOLLOWED: Final[Mapping[Scope, tuple[str, ...]]] = {
    "local": (keys.NETWORKS, keys.ENDPOINTS, keys.SANDBOXES),
    "global": (keys.NETWORKS, keys.ENDPOINTS),
}
_KINDS: Final[Mapping[str, Kind]] = {keys.NETWORKS: "network", keys.ENDPOINTS: "endpoint", keys.SANDBOXES: "sandbox"}
_APPEARING: Final[tuple[Kind, ...]] = ("network", "sandbox", "endpoint")
"""What others need comes first, and goes last."""

Record = NetworkRecord | EndpointRecord | SandboxRecord


@attrs.frozen
class Shown:
    """An object as it is shown: its state as an event without an action of its own, and the record that it is of."""

    state: Event
    record: Record

    @property
    def detached(self) -> Event:
        """Its state without a place."""
        return attrs.evolve(self.state, host=None, container_id=None) if self.state.kind == "endpoint" else self.state

    @property
    def place(self) -> tuple[str, str] | None:
        """An endpoint's host and sandbox."""
        at = self.record.attachment if isinstance(self.record, EndpointRecord) else None
        return None if at is None else (at.host, at.sandbox_id)


def show(record: Record, scope: Scope, *, network_name: str | None = None, host: str | None = None) -> Shown | None:
    """A record as others may know of it, without what only its verbs need; None while it is in the making."""
    if isinstance(record, NetworkRecord):
        if record.state == "preparing":
            return None
        plain = attrs.evolve(record, state="ready", operation="", mark=None)
        return Shown(Event(kind="network", action="update", scope=scope, id=record.id, name=record.name), plain)
    if isinstance(record, SandboxRecord):
        name = record.container_id
        state = Event(kind="sandbox", action="update", scope=scope, id=record.id, name=name)
        return Shown(attrs.evolve(state, host=host, container_id=name), record)
    place = record.attachment if record.attachment is not None and record.attachment.state == "ready" else None
    state = Event(
        kind="endpoint",
        action="update",
        scope=scope,
        id=record.id,
        name=record.name,
        network_id=record.network_id,
        network_name=network_name,
        host=None if place is None else place.host,
        container_id=None if place is None else place.container_id,
    )
    known = None if place is None else attrs.evolve(place, operation="", request_id="", boot_id="")
    return Shown(state, attrs.evolve(record, operation="", attachment=known))


def difference(before: Shown | None, after: Shown | None) -> Iterator[Event]:
    """What has changed between two looks, so that who applies it to the first has the second."""
    was, now = None if before is None else before.place, None if after is None else after.place
    if before is not None and was is not None and was != now:
        yield attrs.evolve(before.state, action="disconnect")
    if before is None and after is not None:
        yield attrs.evolve(after.detached, action="create")
    if after is not None and now is not None and was != now:
        yield attrs.evolve(after.state, action="connect")
    if before is not None and after is None:
        yield attrs.evolve(before.detached, action="destroy")
    if (
        before is not None
        and after is not None
        and _beside_place(before, moved=was != now) != _beside_place(after, moved=was != now)
    ):
        yield after.state


def _beside_place(shown: Shown, *, moved: bool) -> Record:
    """What an update is about: of an endpoint that has moved, everything but the place, which is told already."""
    if moved and isinstance(shown.record, EndpointRecord):
        return attrs.evolve(shown.record, attachment=None)
    return shown.record


@attrs.frozen
class Batch:
    """Events that belong together: who has seen all of them has read up to ``position`` (None: as far as before)."""

    events: tuple[Event, ...]
    position: Position | None = None


class Source:
    """One store, read from ``since`` on; without it from :meth:`begin` on, or ``anew``: all that there is, as lost.

    ``budget``: seconds that the store has for one look. ``host``: this host's name.
    """

    def __init__(
        self, store: Store, scope: Scope, host: str, clock: Clock, budget: float, since: Position | None, *, anew: bool
    ) -> None:
        self.scope: Scope = scope
        self.failing = False
        self._store = store
        self._host = host
        self._clock = clock
        self._budget = budget
        self._since = since
        self._lost = anew
        self._new = not anew and since is None
        self._watch: Watch | None = None
        self._closed = False
        self._revision = Revision(0)
        self._lineage = ""
        self._picture: dict[str, Shown] = {}
        self._pending: dict[str, None] = {}
        self._unknown: set[str] = set()
        self._complaints: dict[str, str] = {}

    # -- reading on --------------------------------------------------------------------------------------------------

    def begin(self, deadline: Deadline) -> Batch:
        """Look for the first time; raises what the store raises. Whatever is committed from now on is told."""
        return self._resume(self._since, deadline) if self._since is not None else self._list(deadline)

    def take(self, seconds: float) -> Batch:
        """What has changed, waiting for it up to ``seconds``. Never raises: a store in trouble is an event, once."""
        try:
            batch = self._look(seconds)
        except Exception as error:  # noqa: BLE001 - the reader of the other store must not go without, whatever it is
            return self.failed(error)
        if not self.failing:
            return batch
        self.failing = False
        back = Event(kind="store", action="available", scope=self.scope)
        return attrs.evolve(batch, events=(back, *batch.events))

    def failed(self, error: Exception) -> Batch:
        """The store is in trouble. If it has never been read, what it had meanwhile is not known when it comes back."""
        if self._new:
            self._new, self._lost = False, True
        log.debug("reading the %s store", self.scope, exc_info=error)
        if self.failing:
            return Batch(())
        self.failing = True
        reason = (str(error) if isinstance(error, CnmError) else repr(error))[: limits.REASON_CHARS]
        return Batch((Event(kind="store", action="unavailable", scope=self.scope, reason=reason),))

    def close(self) -> None:
        """End a running :meth:`take`; from any thread, idempotent."""
        self._closed = True
        watch = self._watch
        if watch is not None:
            watch.close()

    def _look(self, seconds: float) -> Batch:
        if self._pending:
            return self._fetch(self._deadline())
        if self._watch is None:
            return self.begin(self._deadline())
        hint = self._watch.next(seconds)
        if hint is None:
            return Batch(())
        if isinstance(hint, Gap):
            log.info("listing the %s store again: %s", self.scope, hint.reason)
            return self._list(self._deadline())
        self._note(hint.keys)
        self._revision = hint.revision
        return self._fetch(self._deadline())

    def _note(self, hinted: Iterable[str]) -> None:
        """Kept until they have been read: a watch names them once, and the store may not answer now."""
        self._pending.update(dict.fromkeys(key for key in hinted if key.startswith(_FOLLOWED[self.scope])))

    def _deadline(self) -> Deadline:
        return self._clock.deadline(self._budget)

    def _open(self, revision: Revision) -> Watch:
        self._end_watch()
        watch = self._watch = self._store.watch("", revision)
        if self._closed:
            watch.close()  # who closes us has looked for a watch before there was this one
        return watch

    def _end_watch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    # -- looks -------------------------------------------------------------------------------------------------------

    def _resume(self, since: Position, deadline: Deadline) -> Batch:
        """What the watch does not name is as it was at ``since``; of what it names only the present is known."""
        self._end_watch()
        watch = self._store.watch("", Revision(since.revision))
        with watch:
            listing = self._store.list("", deadline=deadline)
            lineage = _lineage(listing)
            hinted: dict[str, None] = {}
            revision = Revision(since.revision)
            gone = since.lineage not in ("", lineage)
            while not gone and (hint := watch.next(0)) is not None:
                gone = isinstance(hint, Gap)
                if not isinstance(hint, Gap):
                    hinted.update(dict.fromkeys(hint.keys))
                    revision = hint.revision
        self._since = None
        if gone:
            self._lost = True
            return self._list(deadline)
        self._lineage, self._revision = lineage, revision
        here = {entry.key: entry for entry in self._followed(listing) if entry.key not in hinted}
        for _ in self._compare(here, here):
            pass  # as it was: nothing to tell
        self._note(hinted)
        self._unknown.update(self._pending)
        self._open(revision)
        return self._fetch(deadline)

    def _list(self, deadline: Deadline) -> Batch:
        self._end_watch()
        listing = self._store.list("", deadline=deadline)
        here = {entry.key: entry for entry in self._followed(listing)}
        known: list[Event] = []
        if self._lost:
            self._picture.clear()
            self._unknown = set(here)
            known.append(Event(kind="store", action="lost", scope=self.scope))
        events = self._compare({*here, *self._picture}, here)
        told = () if self._new else (*known, *events)
        self._pending.clear()
        self._lost = self._new = False
        self._lineage, self._revision = _lineage(listing), listing.revision
        self._open(listing.revision)
        return self._batch(told)

    def _fetch(self, deadline: Deadline) -> Batch:
        """Networks first: where one has gone, what was in it has gone before, so that is looked at in the same look."""
        networks = [key for key in self._pending if key.startswith(keys.NETWORKS)]
        found = self._store.get_many(networks, deadline=deadline)
        gone = tuple(
            keys.endpoints(key.removeprefix(keys.NETWORKS))
            for key in networks
            if key not in found and key in self._picture
        )
        inside = [key for key in self._picture if key.startswith(gone)] if gone else []
        rest = dict.fromkeys([*inside, *(key for key in self._pending if not key.startswith(keys.NETWORKS))])
        found |= self._store.get_many(rest, deadline=deadline)
        events = self._compare([*networks, *rest], found)
        self._pending.clear()
        return self._batch(events)

    def _followed(self, listing: Listing) -> Iterator[Entry]:
        return (entry for entry in listing.entries if entry.key.startswith(_FOLLOWED[self.scope]))

    def _batch(self, events: Iterable[Event]) -> Batch:
        return Batch(tuple(events), Position(self._revision, self._lineage))

    # -- comparing ---------------------------------------------------------------------------------------------------

    def _compare(self, looked_at: Iterable[str], found: Mapping[str, Entry]) -> list[Event]:
        """Bring the picture up to date; what has changed, in an order in which nothing is named before it is there."""
        gone: list[tuple[Event, ...]] = []
        come: list[tuple[Event, ...]] = []
        for key in sorted(looked_at, key=lambda one: not one.startswith(keys.NETWORKS)):
            events = self._compare_one(key, found.get(key))
            if events:
                (come if events[-1].exists else gone).append(events)
        gone.sort(key=lambda events: (-_APPEARING.index(_kind(events)), events[-1].name, events[-1].id))
        come.sort(key=lambda events: (_APPEARING.index(_kind(events)), events[-1].name, events[-1].id))
        return [event for events in (*gone, *come) for event in events]

    def _compare_one(self, key: str, entry: Entry | None) -> tuple[Event, ...]:
        before = self._picture.get(key)
        unknown = before is None and key in self._unknown
        try:
            after = None if entry is None else self._read(key, entry)
        except Corrupt as error:
            # The last good version stays in force; where there is none, what it was is not known once it can be read.
            if before is None:
                self._unknown.add(key)
            self._complain(key, str(error))
            return ()
        self._complaints.pop(key, None)
        self._unknown.discard(key)
        if after is None:
            self._picture.pop(key, None)
        else:
            self._picture[key] = after
        if not unknown:
            return tuple(difference(before, after))
        if after is not None:
            return (after.state,)
        return self._gone(key) if entry is None else ()

    def _read(self, key: str, entry: Entry) -> Shown | None:
        if key.startswith(keys.NETWORKS):
            network = decode(NetworkRecord, entry.value, key)
            check_scope(network, self.scope)
            return show(network, self.scope)
        if key.startswith(keys.SANDBOXES):
            return show(decode(SandboxRecord, entry.value, key), self.scope, host=self._host)
        endpoint = decode(EndpointRecord, entry.value, key)
        return show(endpoint, self.scope, network_name=self._network_name(endpoint.network_id))

    def _network_name(self, network_id: str) -> str | None:
        known = self._picture.get(keys.network(network_id))
        return None if known is None else known.state.name

    def _gone(self, key: str) -> tuple[Event, ...]:
        """What is only known not to be there: its key says what it was."""
        prefix = next(one for one in _FOLLOWED[self.scope] if key.startswith(one))
        network_id, _, identity = key.removeprefix(prefix).rpartition("/")
        if not all(len(one) == ID_HEX_DIGITS and looks_like_id(one) for one in (identity, network_id or identity)):
            return ()
        event = Event(kind=_KINDS[prefix], action="destroy", scope=self.scope, id=identity)
        if network_id:
            event = attrs.evolve(event, network_id=network_id, network_name=self._network_name(network_id))
        return (event,)

    def _complain(self, key: str, reason: str) -> None:
        if self._complaints.get(key) == reason:
            return
        if len(self._complaints) >= limits.DECODED_RECORDS:
            self._complaints.clear()
        self._complaints[key] = reason
        log.warning("%s: %s", self.scope, reason)


def _kind(events: tuple[Event, ...]) -> Kind:
    return events[-1].kind


def _lineage(listing: Listing) -> str:
    """The first digits of a cluster store's own id; "" as long as it has none that can be read."""
    for entry in listing.entries:
        if entry.key == keys.LINEAGE:
            try:
                return short(decode(NameClaim, entry.value, entry.key).holder)
            except Corrupt:
                return ""
    return ""
