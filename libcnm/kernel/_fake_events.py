"""Subscriptions to the fake kernel's events: hints, coalesced, for the namespaces that are followed.

A subscription only remembers *that* something changed, as the contract wants. It knows nothing of the kernel's state.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable

from libcnm.kernel.base import KernelEvent, KernelEvents


class FakeEvents(KernelEvents):
    """One subscription; the kernel calls :meth:`notify`, tests may call :meth:`lose`."""

    def __init__(self, forget: Callable[[FakeEvents], None]) -> None:
        self._forget = forget
        self._condition = threading.Condition()
        self._followed: frozenset[str] = frozenset()
        self._pending: dict[KernelEvent, None] = {}
        self._closed = False

    def next(self, timeout: float) -> tuple[KernelEvent, ...]:
        end = time.monotonic() + timeout
        with self._condition:
            while not self._pending and not self._closed:
                remaining = end - time.monotonic()
                if remaining <= 0 or not self._condition.wait(remaining):
                    break
            happened = tuple(self._pending)
            self._pending.clear()
        return happened

    def follow(self, namespaces: Collection[str]) -> None:
        with self._condition:
            self._followed = frozenset(namespaces)
            self._pending = {event: None for event in self._pending if event.ns in self._followed}

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._pending.clear()
            self._condition.notify_all()
        self._forget(self)

    def notify(self, events: Iterable[KernelEvent]) -> None:
        """Remember what is followed, and wake up who waits."""
        with self._condition:
            if self._closed:
                return
            for event in events:
                if event.ns in self._followed:
                    self._pending[event] = None
            if self._pending:
                self._condition.notify_all()

    def lose(self) -> None:
        """As if the socket had overflowed: whatever was pending is gone, and "lost" says so for each namespace."""
        with self._condition:
            self._pending = {KernelEvent(ns, "lost"): None for ns in sorted(self._followed)}
            self._condition.notify_all()
