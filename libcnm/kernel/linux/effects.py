"""Announcing effects: the hook is told before and after each, and only after those that happened.

It knows the hook and nothing else. A hook that raises before an effect prevents it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from libcnm.kernel.base import Effect

Announce = Callable[[str], AbstractContextManager[None]]


def announcer(hook: Callable[[], Effect]) -> Announce:
    """An announcement for each effect; the hook is looked up each time, so that tests may change it."""
    return lambda name: _Announcement(hook(), name)


class _Announcement(AbstractContextManager[None]):
    def __init__(self, tell: Effect, name: str) -> None:
        self._tell = tell
        self._name = name

    def __enter__(self) -> None:
        self._tell(self._name, "before")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._tell(self._name, "after")
