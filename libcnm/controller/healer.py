"""The healer: looks again when the kernel says that something went, and now and then anyway; sweeps parked links.

It runs on two threads of the resident, so that neither a dump nor a sweep delays a name or a verb. An event says
where to look, never what to believe; bursts are taken together.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from typing import Final, Protocol

from libcnm.controller.context import Context
from libcnm.controller.reconcile import Unit, heal
from libcnm.controller.recovery import recover
from libcnm.errors import CnmError
from libcnm.system.processes import be_patient

log = logging.getLogger("libcnm.healer")

DEBOUNCE_SECONDS: Final = 0.05
"""Long enough for one ``nft flush ruleset`` or ``ip link del`` to have sent all its events."""
PERIOD_SECONDS: Final = 60.0
AGAIN_SECONDS: Final = 0.2
"""After which it looks again when somebody had a lock; twice as long each time, a paused verb may keep one for ever."""
SWEEP_SECONDS: Final = 0.2
_TURN_SECONDS: Final = 1.0


class Looked(Protocol):
    """Called after each look at everything."""

    def __call__(self, *, healed: bool) -> None:
        """``healed``: something was put right, or may have been."""


class Healer:
    """``start`` and ``close`` once each; everything else from any thread."""

    def __init__(self, context: Context, looked: Looked) -> None:
        self._context = context
        self._looked = looked
        self._events = context.doors.kernel.events()
        self._alarm = threading.Event()
        self._sweep = threading.Event()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._listen, name="libcnm-events", daemon=True),
            threading.Thread(target=self._work, name="libcnm-healer", daemon=True),
        ]
        self._followed: frozenset[str] = frozenset()

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End; waits for what is under way."""
        self._stopping.set()
        self._alarm.set()
        self._events.close()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def follow(self, namespaces: Collection[str]) -> None:
        """Listen to these namespaces from now on."""
        wanted = frozenset(namespaces)
        if wanted != self._followed:
            self._followed = wanted
            try:
                self._events.follow(wanted)
            except CnmError as error:
                log.warning("following %s: %s", sorted(wanted), error)

    def look(self) -> None:
        """Look at everything, soon: nobody has listened for a while."""
        self._alarm.set()

    def swept_soon(self) -> None:
        """Links may have been parked: sweep in a moment."""
        self._sweep.set()

    def _listen(self) -> None:
        be_patient()
        while not self._stopping.is_set():
            try:
                events = self._events.next(_TURN_SECONDS)
            except CnmError as error:
                log.warning("kernel events: %s", error)
                self._stopping.wait(_TURN_SECONDS)
                continue
            if events:
                log.debug("kernel events: %s", events)
                self._alarm.set()

    def _work(self) -> None:
        be_patient()
        clock = self._context.doors.clock
        due, pause = clock.monotonic() + PERIOD_SECONDS, AGAIN_SECONDS
        while not self._stopping.is_set():
            turn = SWEEP_SECONDS if self._sweep.is_set() else _TURN_SECONDS
            alarmed = self._alarm.wait(min(turn, max(0.0, due - clock.monotonic())))
            if self._stopping.is_set():
                return
            if alarmed or clock.monotonic() >= due:
                self._stopping.wait(DEBOUNCE_SECONDS)
                self._alarm.clear()
                began = clock.monotonic()
                busy = self._heal()
                self._guarded(self._swept)
                due = clock.monotonic() + (pause if busy else PERIOD_SECONDS)
                pause = min(2 * pause, PERIOD_SECONDS) if busy else AGAIN_SECONDS
                # A host that is torn at all the time gets a fifth of one core, not all of it.
                self._stopping.wait(4 * (clock.monotonic() - began))
            elif self._sweep.is_set():
                self._sweep.clear()
                self._guarded(self._swept)

    def _heal(self) -> bool:
        """Whether something had to be left for later, because somebody holds its lock."""
        skipped: list[Unit] = []

        def once() -> None:
            deadline = self._context.doors.clock.deadline(self._context.settings.timeout)
            settled = recover(self._context, deadline)
            healed = heal(self._context, deadline, skipped=skipped.append)
            self._looked(healed=bool(settled or healed))

        self._guarded(once)
        return bool(skipped)

    def _swept(self) -> None:
        """Where the outer ends are, each of which takes its pair along: sandboxes may be many, and hold none alone."""
        self._context.doors.kernel.sweep(self._followed)

    def _guarded(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - the healer must outlive whatever one record or driver does
            log.warning("healing: %s", error)
