"""From a well-formed question to its reply, or to "ask upstream": zones first, then the backends. No sockets here.

A backend is somebody else's code on the only DNS thread. Whatever it does wrong (raises, dawdles, returns nonsense)
costs its own names for a while and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from libcnm.contracts.resolver import Answer, Resolver
from libcnm.dns.answer import Reply, compose
from libcnm.dns.counters import Counters
from libcnm.dns.question import Question
from libcnm.dns.view import Forward, SandboxView, lookup

log = logging.getLogger(__name__)

BACKEND_SECONDS = 0.05
"""A backend that takes longer holds up every sandbox of the host."""
BACKEND_PAUSE_SECONDS = 10.0


class Responder:
    """``now`` is monotonic seconds; ``below(n)`` draws from [0, n) and decides which of several addresses begins."""

    def __init__(
        self,
        now: Callable[[], float],
        below: Callable[[int], int],
        backends: Sequence[Resolver] = (),
        counters: Counters | None = None,
    ) -> None:
        self._now = now
        self._below = below
        self._backends = tuple(backends)
        self._paused_until = [0.0] * len(self._backends)
        self._counters = Counters() if counters is None else counters

    def respond(self, view: SandboxView, question: Question, octets: int) -> tuple[Reply | None, bool]:
        """The reply of at most ``octets`` octets (None: ask upstream), and whether it may be kept."""
        known = lookup(view, question.name, question.type)
        ours = isinstance(known, Answer) and known.authoritative
        if not ours:
            for index, backend in enumerate(self._backends):
                reply = self._ask(index, backend, view, question, octets)
                if reply is not None:
                    return reply, False
        if isinstance(known, Forward):
            return None, False
        several = len(known.addresses) > 1
        start = self._below(len(known.addresses)) if several else 0
        return compose(question, known, octets, start), ours or not self._backends

    def _ask(self, index: int, backend: Resolver, view: SandboxView, question: Question, octets: int) -> Reply | None:
        began = self._now()
        if self._paused_until[index] > began:
            return None
        reply = None
        try:
            answer = backend.answer(view, question.name, question.type)
            if answer is not None:
                reply = compose(question, answer, octets)
        except Exception as error:  # noqa: BLE001 - somebody else's code: anything may come
            self._pass_over(index, "it failed", error)
            return None
        if self._now() - began > BACKEND_SECONDS:
            self._pass_over(index, f"it took more than {BACKEND_SECONDS} s")
        return reply

    def _pass_over(self, index: int, reason: str, error: Exception | None = None) -> None:
        self._counters.backend_failures += 1
        self._paused_until[index] = self._now() + BACKEND_PAUSE_SECONDS
        name = type(self._backends[index]).__qualname__
        log.warning("resolver %s is passed over for %g s: %s", name, BACKEND_PAUSE_SECONDS, reason, exc_info=error)
