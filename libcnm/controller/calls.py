"""What surrounds every verb: its deadline, its request id, and the check that the controller is still open."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol
from weakref import WeakSet

import attrs

from libcnm.controller.context import Context
from libcnm.controller.repository import put
from libcnm.errors import Forbidden, Invalid, NotFound
from libcnm.model import keys
from libcnm.model.deadline import Deadline
from libcnm.model.ids import check_name
from libcnm.model.records import RequestResult


@attrs.frozen
class Call:
    """One verb under way."""

    context: Context
    deadline: Deadline
    request_id: str | None = None

    @contextmanager
    def gone_is_done(self) -> Iterator[None]:
        """For verbs that take something away: asked again with the same request id, "not found" means "done".

        The request is noted before the verb begins. If it is known already, an earlier attempt may have done the work.
        """
        if self.request_id is None:
            yield
            return
        known = self.context.local.request(self.request_id, self.deadline) is not None
        if not known:
            note = RequestResult("gone", "", "", round(self.context.doors.clock.wall(), 3))
            self.context.local.commit(put(keys.request(self.request_id), note), self.deadline, durable=False)
        try:
            yield
        except (NotFound, Forbidden):
            if not known:
                raise


class Held(Protocol):
    """What lives on after its verb, at most as long as its controller."""

    def close(self) -> None:
        """End it; idempotent."""


class Calls:
    """The one thing that live objects share: a way to begin a verb."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._open = True
        self._holding = threading.Lock()
        self._held: WeakSet[Held] = WeakSet()

    @property
    def installation(self) -> str:
        """The installation's id."""
        return self.context.installation.id

    @contextmanager
    def verb(self, timeout: float | None, request_id: str | None = None) -> Iterator[Call]:
        """Begin a verb with a budget of ``timeout`` seconds (the controller's default when None)."""
        if not self._open:
            raise Forbidden("this controller is closed", hint="open another")
        if timeout is not None and (not isinstance(timeout, int | float) or not 0 < timeout <= 3600):
            raise Invalid("timeout", timeout, "is not a number of seconds between 0 and 3600")
        if request_id is not None:
            check_name(request_id, "request_id")
        budget = self.context.settings.timeout if timeout is None else float(timeout)
        yield Call(self.context, self.context.doors.clock.deadline(budget), request_id)

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


def object_id(context: Context, kind: str, request_id: str | None) -> str:
    """A new object's id; with a request id it follows from that, so that a repeated request meets its own object."""
    if request_id is None:
        return context.doors.entropy.new_id()
    return hashlib.sha256(f"{kind}\0{context.installation.id}\0{request_id}".encode()).hexdigest()
