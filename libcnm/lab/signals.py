"""Ctrl-C and SIGTERM around a lab: turned into exceptions while it lives, held back while it is built or torn down.

Half a lab is worse than a moment's patience. Only the main thread may set handlers (signal(7), Python's rule); a lab of
another thread leaves the process's handlers alone.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(SystemExit):
    """The process was told to end by a signal; unwinding tears the lab down; the status says which."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise Terminated(number)


class EndingSignals:
    """While entered, a SIGTERM or SIGHUP that would kill the process raises :class:`Terminated` instead."""

    def __init__(self) -> None:
        self._before: dict[int, object] = {}

    def __enter__(self) -> EndingSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is signal.SIG_DFL:
                    self._before[number] = signal.signal(number, _terminate)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in self._before:
            if signal.getsignal(number) is _terminate:
                signal.signal(number, signal.SIG_DFL)
        self._before.clear()


@contextmanager
def held_back() -> Iterator[None]:
    """What ends the process waits until the block is through, then does what it would have done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    noted: list[int] = []
    before = {number: signal.signal(number, lambda got, _frame: noted.append(got)) for number in _ENDINGS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if noted:
            signal.raise_signal(noted[0])
