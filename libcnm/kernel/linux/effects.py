"""Announcing effects: the hook is told before and after each, and only after those that happened.

It knows the hook and nothing else. A hook that raises before an effect prevents it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from libcnm.kernel.base import Effect

Announce = Callable[[str], AbstractContextManager[None]]


def announcer(hook: Callable[[], Effect]) -> Announce:
    """An announcement for each effect; the hook is looked up each time, so that tests may change it."""

    @contextmanager
    def announce(name: str) -> Iterator[None]:
        tell = hook()
        tell(name, "before")
        yield
        tell(name, "after")

    return announce
