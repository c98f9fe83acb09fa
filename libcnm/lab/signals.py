"""Ctrl-C and SIGTERM around a lab: turned into exceptions while it lives, held back while it is built or torn down.

Half a lab is worse than a moment's patience. Only the main thread may set handlers (signal(7), Python's rule); a lab of
another thread leaves the process's handlers alone.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, TracebackType
from typing import Final

_ENDINGS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(SystemExit):
    """The process was told to end by a signal; unwinding tears the lab down; the status says which."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class EndingSignals:
    """While entered, a SIGTERM or SIGHUP that would kill the process raises :class:`Terminated` instead.

    A signal that finds the main thread in one of the functions ``busy``, or in a :meth:`held` block, is noted. It may
    come before such a function's first statement: two in a row do, when the first has just begun to unwind the lab.
    """

    def __init__(self, busy: Collection[CodeType]) -> None:
        self._busy = frozenset(busy)
        self._before: dict[int, object] = {}
        self._noted: list[int] = []

    def __enter__(self) -> EndingSignals:
        if threading.current_thread() is threading.main_thread():
            for number in _ENDINGS:
                before = signal.getsignal(number)
                if callable(before) or (before is signal.SIG_DFL and number != signal.SIGINT):
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As it was before; what was noted has its effect now, unless its like is what ends the lab anyway."""
        before, self._before = self._before, {}
        for number, handler in before.items():
            # Compared, not identified: each mention of a method is another object. A user's newer one stays.
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler)  # type: ignore[arg-type]  # what getsignal has answered
        if self._noted and not (kind is not None and issubclass(kind, KeyboardInterrupt | Terminated)):
            _act(self._noted[0], before.get(self._noted[0]), None)

    @contextmanager
    def held(self) -> Iterator[None]:
        """What ends the process is noted until the block is through, whatever handlers there are by now."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, lambda got, _frame: self._noted.append(got)) for number in _ENDINGS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def deliver(self) -> None:
        """Let what was noted have its effect."""
        if self._noted:
            number = self._noted.pop(0)
            _act(number, self._before.get(number), None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        outer = frame
        while outer is not None:
            if outer.f_code in self._busy:
                self._noted.append(number)
                return
            outer = outer.f_back
        _act(number, self._before.get(number), frame)


def _act(number: int, before: object, frame: FrameType | None) -> None:
    """What a signal does to a process with a lab."""
    if callable(before):
        before(number, frame)
    elif before is signal.SIG_DFL:
        raise Terminated(number)
    else:
        signal.raise_signal(number)  # its handler was set while the lab was there, or belongs to another language
