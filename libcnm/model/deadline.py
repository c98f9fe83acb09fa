"""A time budget that a verb shares out to the store, the driver and the kernel. Monotonic; it reads a clock it is
given.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from libcnm.errors import DeadlineExceeded


@attrs.frozen
class Deadline:
    """``at`` is an instant of ``now`` (monotonic seconds); ``budget`` is what the caller asked for, for messages."""

    at: float
    budget: float
    now: Callable[[], float] = attrs.field(eq=False, repr=False)

    @classmethod
    def after(cls, seconds: float, now: Callable[[], float]) -> Deadline:
        """The deadline ``seconds`` from now."""
        return cls(now() + seconds, seconds, now)

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - self.now())

    def check(self, what: str) -> None:
        """Raise :class:`DeadlineExceeded` if the budget is spent; ``what`` names the step about to begin."""
        if self.now() >= self.at:
            raise DeadlineExceeded(what, self.budget)
