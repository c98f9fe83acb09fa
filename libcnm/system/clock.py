"""Time as a door. Decisions use the monotonic clock; the wall clock is for people and for ordering preferences only."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod

from libcnm.model.deadline import Deadline


class Clock(ABC):
    """What the rest of libcnm knows of time, in seconds."""

    @abstractmethod
    def monotonic(self) -> float:
        """Never goes back; the zero is arbitrary."""

    @abstractmethod
    def wall(self) -> float:
        """Seconds since the epoch; may jump."""

    @abstractmethod
    def pause(self, seconds: float) -> None:
        """Let that much time pass: for what others have to finish first and nobody announces."""

    def deadline(self, seconds: float) -> Deadline:
        """The deadline ``seconds`` from now."""
        return Deadline.after(seconds, self.monotonic)


class SystemClock(Clock):
    """The machine's."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)


class ManualClock(Clock):
    """A clock that a test moves. Every reading advances it by ``tick``, so that a loop against a deadline ends."""

    def __init__(self, start: float = 1000.0, *, tick: float = 0.0) -> None:
        self._now = start
        self._tick = tick
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        with self._lock:
            self._now += self._tick
            return self._now

    def wall(self) -> float:
        return self.monotonic()

    def pause(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move it forward."""
        with self._lock:
            self._now += seconds
