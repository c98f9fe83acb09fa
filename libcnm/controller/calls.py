"""What surrounds every verb: its deadline, its request, and the check that the controller is still open."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, Protocol
from weakref import WeakSet

import attrs

from libcnm.controller import requests
from libcnm.controller.context import Context
from libcnm.controller.recovery import recover
from libcnm.controller.requests import Request
from libcnm.errors import CnmError, Forbidden
from libcnm.model import limits
from libcnm.model.arguments import seconds
from libcnm.model.deadline import Deadline
from libcnm.model.ids import check_name

_PAUSE_SECONDS: Final = 0.01
_PAUSE_SECONDS_MAX: Final = 0.25


@attrs.frozen
class Call:
    """One verb under way."""

    context: Context
    deadline: Deadline
    request_id: str | None = None
    number: int = 0

    def request(self, verb: str, subject: str, *bound: object) -> AbstractContextManager[Request]:
        """The verb's request, from the moment it begins until it has ended. ``subject`` names its object for people;
        ``bound`` are the object's id and the arguments: what makes it the same request.
        """
        if self.request_id is None:
            return nullcontext(requests.UNNAMED)
        return self._request(self.request_id, verb, subject, bound)

    @contextmanager
    def _request(self, request_id: str, verb: str, subject: str, bound: object) -> Iterator[Request]:
        """Under the lock of its id, so that of two who ask at once one does it and the other finds it done."""
        context, deadline = self.context, self.deadline
        note = requests.draft(context, request_id, verb, subject, bound)
        with context.doors.locks.acquire(f"request-{request_id}", deadline=deadline):
            if self.number % limits.REQUEST_NOTES_UNCOUNTED == 0:
                self._forget_old()
            self._settle(request_id)
            yield Request(note, requests.earlier(context, note, deadline))

    def _settle(self, request_id: str) -> None:
        """We hold the lock, so an attempt that is half-done is a dead one's. Its own locks may be busy for a while."""
        clock, pause = self.context.doors.clock, _PAUSE_SECONDS
        while self._half_done(request_id):
            recover(self.context, self.deadline)
            if not self._half_done(request_id):
                return
            self.deadline.check(f"settling an earlier attempt of request {request_id!r}")
            clock.pause(min(pause, self.deadline.remaining()))
            pause = min(2 * pause, _PAUSE_SECONDS_MAX)

    def _half_done(self, request_id: str) -> bool:
        notes = (stored.record.request for stored in self.context.local.intents(self.deadline))
        return any(note is not None and note.id == request_id for note in notes)

    def _forget_old(self) -> None:
        try:
            requests.forget_old(self.context, self.deadline, counted_only=True)
        except CnmError as error:  # no reason not to do the verb
            self.context.log.warning("old requests are not forgotten yet: %s", error)


class Held(Protocol):
    """What lives on after its verb, at most as long as its controller."""

    def close(self) -> None:
        """End it; idempotent."""


class Calls:
    """The one thing that live objects share: a way to begin a verb."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._open = True
        self._requests = itertools.count()
        self._holding = threading.Lock()
        self._held: WeakSet[Held] = WeakSet()

    @property
    def installation(self) -> str:
        """The installation's id."""
        return self.context.installation.id

    def verb(self, timeout: float | None, request_id: str | None = None) -> AbstractContextManager[Call]:
        """Begin a verb with a budget of ``timeout`` seconds (the controller's default when None)."""
        if not self._open:
            raise Forbidden("this controller is closed", hint="open another")
        budget = self.context.settings.timeout if timeout is None else seconds(timeout)
        deadline = self.context.doors.clock.deadline(budget)
        if request_id is None:
            return nullcontext(Call(self.context, deadline))
        return nullcontext(Call(self.context, deadline, check_name(request_id, "request_id"), next(self._requests)))

    def hold(self, one: Held) -> None:
        """Have it closed with the controller, at the latest; Forbidden (and closed at once) if that has happened."""
        with self._holding:
            if self._open:
                self._held.add(one)
                return
        one.close()
        raise Forbidden("this controller is closed", hint="open another")

    def close(self) -> bool:
        """No verb begins any more, and what is held ends; False when that was so already."""
        with self._holding:
            was_open, self._open = self._open, False
            held = list(self._held)
        for one in held:
            one.close()
        return was_open
