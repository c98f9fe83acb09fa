"""The engine: makes changes so, optimistically; looks only when the kernel objects; undoes all of it when one cannot
be.

It knows resources and doors, never networks or stores. An ``add`` that meets something: equal and ours is adopted, ours
but different is replaced, not ours is an error that names it. A ``delete`` of what is not there is done already.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from libcnm.contracts.driver import ResourceDoor
from libcnm.controller.delta import changes_in_place
from libcnm.errors import AlreadyExists, CnmError, KernelError
from libcnm.kernel.base import Kernel
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Change, Observed, Resource
from libcnm.system.clock import Clock

log = logging.getLogger("libcnm.engine")

GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENXIO})
"""What the kernel says, by kind, of something that is not there."""

_ROUNDS = 3
_UNDO_SECONDS = 5.0


class Engine:
    """Applies changes through the kernel door, and through third parties' doors for the kinds they bring."""

    def __init__(
        self, kernel: Kernel, clock: Clock, doors: Callable[[], Mapping[type[Resource], ResourceDoor]] = dict
    ) -> None:
        self._kernel = kernel
        self._clock = clock
        self.doors = doors

    def apply(self, changes: Sequence[Change], *, deadline: Deadline) -> None:
        """All of the changes, or none: after a failure everything that was done is reversed, and the failure raised.

        Raises KernelError, AlreadyExists (something that is not ours is in the way), DeadlineExceeded, Unavailable.
        """
        done: list[Change] = []
        unsettled: list[Change] = []
        try:
            failure = self._attempt(changes, done, unsettled, deadline)
            if failure is not None:
                raise failure
        except CnmError:
            self.undo([*done, *self._happened(unsettled)])
            raise

    def carry_out(self, resources: Iterable[Change], *, deadline: Deadline) -> list[KernelError]:
        """Changes that must not stop at the first refusal (leave, delete, undo, peers): what is not there counts as
        gone.
        """
        changes = tuple(resources)
        outcomes = self._send(changes, deadline)
        failed = [
            outcome
            for change, outcome in zip(changes, outcomes, strict=True)
            if outcome is not None and not (change.operation == "delete" and outcome.errno in GONE)
        ]
        for outcome in failed:
            log.warning("could not: %s", outcome)
        return failed

    def undo(self, done: Sequence[Change]) -> None:
        """Reverse changes that were made, last first; the budget is the engine's own, since the caller's may be
        spent.
        """
        if not done:
            return
        deadline = self._clock.deadline(_UNDO_SECONDS)
        try:
            self.carry_out([change.reversed() for change in reversed(done)], deadline=deadline)
        except CnmError as error:
            log.warning("undo failed; the next reconcile finishes it: %s", error)

    def _happened(self, changes: Sequence[Change]) -> list[Change]:
        """Those of the changes that were made although the door failed and did not say so."""
        deadline = self._clock.deadline(_UNDO_SECONDS)
        found: list[Change] = []
        try:
            for change in changes:
                there = self._read_one(change.resource, deadline)
                gone = there is None
                if gone if change.operation == "delete" else there is not None and there.ours:
                    found.append(change)
        except CnmError as error:
            log.warning("undo is incomplete; the next reconcile finishes it: %s", error)
        return found

    def _attempt(
        self, changes: Sequence[Change], done: list[Change], unsettled: list[Change], deadline: Deadline
    ) -> CnmError | None:
        pending = list(changes)
        failure: CnmError | None = None
        for _ in range(_ROUNDS):
            unsettled.extend(pending)
            outcomes = self._send(pending, deadline)
            unsettled.clear()
            again: list[Change] = []
            failure = None
            # All successes first: whatever is raised while the refusals are looked at, they have to be undone.
            done += [change for change, outcome in zip(pending, outcomes, strict=True) if outcome is None]
            for change, outcome in zip(pending, outcomes, strict=True):
                if outcome is None:
                    continue
                verdict = self._settle(change, outcome, deadline)
                if verdict is None:
                    continue
                failure = failure or outcome
                again.extend(verdict)
            if not again:
                return None
            if len(again) == len(pending) and again == pending:
                return failure
            pending = again
        return failure

    def _settle(self, change: Change, outcome: KernelError, deadline: Deadline) -> list[Change] | None:
        """None: nothing more to do. Else what to try next round (the change itself, maybe with a deletion before
        it).
        """
        if change.operation == "delete":
            return None if outcome.errno in GONE else [change]
        if change.operation == "change":
            return [Change("add", change.resource)] if outcome.errno in GONE else [change]
        if outcome.errno != errno.EEXIST:
            return [change]
        there = self._read_one(change.resource, deadline)
        if there is None:
            return [change]
        if not there.ours:
            name = " ".join(part for part in change.resource.identity[2:])
            raise AlreadyExists(
                change.resource.kind,
                name,
                holder="somebody else",
                hint="it is not libcnm's, so libcnm does not touch it",
            ) from outcome
        if there.resource == change.resource:
            return None
        log.info("replacing %s, which is there but different", change)
        if changes_in_place(there.resource, change.resource):
            return [Change("change", change.resource, there.resource)]
        return [Change("delete", there.resource), change]

    def _send(self, changes: Sequence[Change], deadline: Deadline) -> list[KernelError | None]:
        doors = self.doors()
        if not doors:
            return list(self._kernel.apply(changes, deadline=deadline)) if changes else []
        outcomes: list[KernelError | None] = []
        run: list[Change] = []
        for position, change in enumerate(changes):
            run.append(change)
            door = doors.get(type(change.resource), self._kernel)
            following = changes[position + 1] if position + 1 < len(changes) else None
            if following is None or doors.get(type(following.resource), self._kernel) is not door:
                outcomes.extend(door.apply(tuple(run), deadline=deadline))
                run = []
        return outcomes

    def _read_one(self, resource: Resource, deadline: Deadline) -> Observed | None:
        door = self.doors().get(type(resource), self._kernel)
        return door.read_one(resource, deadline=deadline)
