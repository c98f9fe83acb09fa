"""A watch on a SQLite store: it looks at the log of changes, then waits for the bell, and looks again.

Looking comes first, so ``next(0)`` sees whatever any process has committed. The bell is only the fast way: once a
second it looks anyway, which also is when leases that ended are noticed. Errors of the database are a Gap, said once:
the listing that follows a Gap raises the error itself.

It must never know the tables or sqlite3; it is given functions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import attrs

from libcnm.errors import CnmError
from libcnm.kv._bells import Bells
from libcnm.kv.base import Changed, Gap, Revision, Watch

LOOK_SECONDS: Final = 1.0
"""The longest a lost bell or an ended lease goes unnoticed; one wake-up a second is not to be seen in ``top``."""


@attrs.frozen
class Look:
    """What one look found. ``keys`` is None where the log does not reach back. ``stuck`` are leases that have ended but
    whose keys could not be removed (a full disk): readers miss them already, the log does not say so.
    """

    keys: frozenset[str] | None
    revision: Revision
    stuck: frozenset[str] = frozenset()


class SQLiteWatch(Watch):
    """``look`` takes the revision reached; ``is_open`` tells whether the store is."""

    def __init__(
        self, bells: Bells, look: Callable[[Revision], Look], is_open: Callable[[], bool], revision: Revision
    ) -> None:
        self._bells = bells
        self._look_since = look
        self._is_open = is_open
        self._revision = revision
        self._closed = False
        self._failed = False
        self._stuck: frozenset[str] = frozenset()

    def next(self, timeout: float) -> Changed | Gap | None:
        until = time.monotonic() + timeout
        while not self._closed and self._is_open():
            seen = self._bells.rings() if timeout > 0 else 0
            hint = self._look()
            left = until - time.monotonic()
            if hint is not None or left <= 0:
                return hint
            self._bells.wait(seen, min(left, LOOK_SECONDS))
        return None

    def close(self) -> None:
        self._closed = True
        self._bells.nudge()

    def _look(self) -> Changed | Gap | None:
        try:
            look = self._look_since(self._revision)
        except CnmError as error:
            said, self._failed = self._failed, True
            return None if said else Gap(str(error))
        self._failed = False
        self._revision = look.revision
        newly_stuck, self._stuck = look.stuck - self._stuck, look.stuck
        if look.keys is None:
            return Gap("the log of changes does not reach back that far")
        if newly_stuck:
            return Gap("a lease has ended")
        return Changed(tuple(sorted(look.keys)), look.revision) if look.keys else None
