"""The row of ``doctor`` that no look at the kernel shows: whether somebody serves names here and follows the stores.

Without a resident, or with one that does not follow, names and overlay peers are as they were when it was last well:
whatever else is as it should be, this is not. A controller that was opened without one asks for none.
"""

from __future__ import annotations

import logging
from typing import ClassVar, Final

import attrs

from libcnm.controller.context import Attendance, Context
from libcnm.errors import CnmError
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Identity, Resource

log = logging.getLogger("libcnm.reconcile")

ANSWER_SECONDS: Final = 2.0
"""How long the question may take: a resident that is well answers within milliseconds, one that has a burst of changes
to take in within a second. No verb waits for this, only whoever asks how things are."""


@attrs.frozen
class ResidentProcess(Resource):
    """The resident of an installation, as it should be or as it is; ``follows``: it knows all that was committed."""

    kind: ClassVar[str] = "resident"

    installation: str
    follows: bool = True

    @property
    def identity(self) -> Identity:
        return (self.kind, "", self.installation)


Row = tuple[ResidentProcess, ResidentProcess | None]
"""What is wanted, and what is there instead."""


def missed(context: Context, deadline: Deadline) -> Row | None:
    """What is wrong with the resident, if anything. One that is well has taken in everything afterwards."""
    return _row(context, _attendance(context, deadline))


def replaced(context: Context, deadline: Deadline) -> Row | None:
    """Start a resident that is missing; the row if that was so, and is not any more."""
    found = _attendance(context, deadline)
    row = _row(context, found)
    if row is None:
        return None
    try:
        if found == "absent":
            context.follower.announce(deadline)
            return row
    except CnmError as error:  # all else has been healed
        log.warning("the resident is not back yet: %s", error)
        return None
    log.warning("the resident is there, and does not follow; its log may say why")
    return None


def _attendance(context: Context, deadline: Deadline) -> Attendance:
    patience = min(ANSWER_SECONDS, deadline.remaining() / 2)
    return context.follower.attendance(context.doors.clock.deadline(patience))


def _row(context: Context, found: Attendance) -> Row | None:
    if found in ("unneeded", "present"):
        return None
    wanted = ResidentProcess(context.installation.id[:12])
    return wanted, None if found == "absent" else attrs.evolve(wanted, follows=False)
