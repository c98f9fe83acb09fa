"""The stream that :meth:`libcnm.Controller.events` returns: both stores' events, one after the other, with cursors.

A thread for each store reads it (:mod:`libcnm.controller.event_source`), so that one that does not answer keeps nobody
from the other's events. A reader's thread goes on only when what it has brought was taken: a slow consumer costs no
memory, its store's watch keeps count or admits a gap. It runs in the caller's process and needs no resident.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from types import TracebackType
from typing import Final, Self

import attrs

from libcnm.controller.context import Context
from libcnm.controller.event_source import Batch, Source
from libcnm.errors import CnmError, Invalid
from libcnm.model.arguments import patience
from libcnm.model.event import Cursor, Event, Position
from libcnm.model.ids import short
from libcnm.model.records import Scope

log = logging.getLogger("libcnm.events")

_WATCH_SECONDS: Final = 60.0
"""How long a thread waits in a store's watch at a time: closing ends it, so nothing depends on this."""
_PAUSE_SECONDS: Final = 1.0
"""How long a store in trouble is left alone before it is asked again."""
_OPENING_SECONDS: Final = 1.0
"""What the cluster's store has to answer for the first time; then the stream begins without it, and says so."""
_ENDING_SECONDS: Final = 1.0
"""How long closing waits for a thread; one that a store holds up goes when the store lets it."""


@attrs.frozen
class _Waiting:
    """An event that nobody has taken yet; ``position``: how far its store is read by who takes it."""

    scope: Scope
    event: Event
    position: Position | None


class Events:
    """Events of one installation and its cluster, from ``since`` (an event's cursor) or from now on. An iterator and a
    context manager; obtained from :meth:`libcnm.Controller.events`.

    Any thread may ask for the next event; each event is given out once. Close it, from any thread, when it is not
    needed any more; closing the controller does so too. Iteration then ends, as it does when ``timeout`` seconds have
    brought nothing.
    """

    def __init__(self, context: Context, since: str | None, timeout: float | None, *, threads: bool = True) -> None:
        self._installation = short(context.installation.id)
        cursor = self._checked(since, timeout)
        self._timeout = timeout
        self._turn = threading.Condition()
        self._queue: deque[_Waiting] = deque()
        self._not_taken: Counter[Scope] = Counter()
        self._reached: dict[Scope, Position | None] = {"local": cursor.local, "global": cursor.cluster}
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._sources = self._begun(context, cursor, fresh=since is None)
        if threads:
            for source in self._sources:
                name = f"libcnm-events-{source.scope}"
                thread = threading.Thread(target=self._read, args=(source,), name=name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _checked(self, since: str | None, timeout: float | None) -> Cursor:
        patience(timeout)
        if since is None:
            return Cursor(self._installation)
        cursor = Cursor.parse(since)
        if cursor.installation != self._installation:
            raise Invalid("since", since, f"is not of this installation, {self._installation}")
        return cursor

    def _begun(self, context: Context, cursor: Cursor, *, fresh: bool) -> list[Source]:
        """The host's own store must answer; the cluster's may, for what is committed once we have returned is told."""
        host, clock, budget = context.host_name, context.doors.clock, context.settings.timeout
        local = Source(
            context.local.store, "local", host, clock, budget, cursor.local, anew=not fresh and cursor.local is None
        )
        self._put(local, local.begin(clock.deadline(budget)))
        if context.cluster is None:
            return [local]
        cluster = Source(
            context.cluster.store, "global", host, clock, budget, cursor.cluster,
            anew=not fresh and cursor.cluster is None,
        )  # fmt: skip
        try:
            batch = cluster.begin(clock.deadline(min(budget, _OPENING_SECONDS)))
        except CnmError as error:
            batch = cluster.failed(error)
        self._put(cluster, batch)
        return [local, cluster]

    # -- taking ------------------------------------------------------------------------------------------------------

    @property
    def cursor(self) -> str:
        """For ``since=``: everything that was taken from here, and nothing else, lies before it."""
        with self._turn:
            return str(self._cursor())

    def next(self, timeout: float | None = None) -> Event | None:
        """Wait up to ``timeout`` seconds (None: for ever) for an event; None when there was none, or after ``close``.

        Its cursor stands after it, but for events that belong together: who resumes amid those has them again.
        """
        seconds = patience(timeout)
        with self._turn:
            self._turn.wait_for(lambda: self._queue or self._closed, seconds)
            if self._closed or not self._queue:
                return None
            taken = self._queue.popleft()
            self._not_taken[taken.scope] -= 1
            if taken.position is not None:
                self._reached[taken.scope] = taken.position
            self._turn.notify_all()
            return attrs.evolve(taken.event, cursor=str(self._cursor()))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = self.next(self._timeout)
        if event is None:
            raise StopIteration
        return event

    def _cursor(self) -> Cursor:
        return Cursor(self._installation, self._reached["local"], self._reached["global"])

    # -- reading -----------------------------------------------------------------------------------------------------

    def _read(self, source: Source) -> None:
        try:
            while self._wanted(source):
                self._put(source, source.take(_WATCH_SECONDS))
                if source.failing:
                    with self._turn:
                        self._turn.wait_for(lambda: self._closed, _PAUSE_SECONDS)
        finally:
            source.close()

    def _wanted(self, source: Source) -> bool:
        """Wait until what it has brought was taken; False when the stream is closed."""
        with self._turn:
            self._turn.wait_for(lambda: self._closed or not self._not_taken[source.scope])
            return not self._closed

    def _put(self, source: Source, batch: Batch) -> None:
        """Only the last event of a batch moves the cursor: who was interrupted amid a batch has it again."""
        with self._turn:
            for event in batch.events[:-1]:
                self._queue.append(_Waiting(source.scope, event, None))
            for event in batch.events[-1:]:
                self._queue.append(_Waiting(source.scope, event, batch.position))
            if not batch.events and batch.position is not None:
                self._reached[source.scope] = batch.position
            self._not_taken[source.scope] += len(batch.events)
            self._turn.notify_all()

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End it: whoever waits for an event gets none. From any thread; idempotent."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()
        for source in self._sources:
            source.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_ENDING_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
