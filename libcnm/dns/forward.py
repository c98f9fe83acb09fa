"""Asks upstream what is not ours, and gives each client its own reply back. Knows no names; never waits.

Each attempt has a fresh socket, port and id (RFC 5452 9.2). Identical questions of one sandbox that are in flight
together are one query upstream (RFC 5452 5; DNSpooq), and nothing that came from upstream is kept. Three attempts of
:data:`ATTEMPT_SECONDS` end before a client's usual 5 s: over three servers in order, or the same one again where there
are fewer. A server that answers SERVFAIL or REFUSED, or cannot be reached, is not asked again for that question. One
that was silent is asked last for a while, by the sandbox that noticed. When all fail, the client gets SERVFAIL.

Of the :data:`~libcnm.model.limits.DNS_FORWARDS_IN_FLIGHT` places a sandbox may hold as many as are still free, so one
that asks into the void takes half of them and no more, and the next still finds room.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Hashable
from functools import partial

import attrs

from libcnm.contracts.resolver import Rcode
from libcnm.dns.answer import say, say_truncated
from libcnm.dns.counters import Counters
from libcnm.dns.exchange import DatagramExchange, Exchange, Failure, OpenSocket, StreamExchange, open_for
from libcnm.dns.loop import Loop
from libcnm.dns.question import HEADER_OCTETS, Question
from libcnm.dns.view import Upstream
from libcnm.model import limits

ATTEMPTS = 3
ATTEMPT_SECONDS = 1.5
SILENT_SECONDS = 10.0
"""For how long a server that did not answer is asked after the others."""
WAITERS = 64
"""Clients that may wait for one query upstream; a resolver library retries, it does not come 64 times at once."""

_TRY_NEXT = (Rcode.SERVFAIL, Rcode.REFUSED)


@attrs.frozen
class Waiter:
    """A client that waits. ``octets`` is the largest message it takes; ``deliver`` gets the message, exactly once."""

    question: Question
    octets: int
    deliver: Callable[[bytes], None]


@attrs.define(eq=False)
class _Client:
    """One sandbox's forwards, by what they ask, and until when which of its servers counts as silent."""

    forwards: dict[bytes, _Forward] = attrs.Factory(dict)
    silent: dict[Upstream, float] = attrs.Factory(dict)


@attrs.define(eq=False)
class _Forward:
    """One question under way for all who asked it. ``attempts`` are those still to make."""

    sandbox_id: str
    key: bytes
    query: bytes
    question: Question
    attempts: list[tuple[Upstream, socket.SocketKind]]
    deadline: float
    waiters: dict[Hashable, Waiter]
    exchange: Exchange | None = None


class Forwarder:
    """All forwards of all sandboxes. ``below(n)`` draws from [0, n), unpredictably (``secrets.randbelow``)."""

    def __init__(self, loop: Loop, counters: Counters, below: Callable[[int], int], open_socket: OpenSocket) -> None:
        self._loop = loop
        self._counters = counters
        self._below = below
        self._open_socket = open_socket
        self._clients: dict[str, _Client] = {}
        self.in_flight = 0

    def ask(
        self,
        sandbox_id: str,
        upstreams: tuple[Upstream, ...],
        query: bytes,
        kind: socket.SocketKind,
        who: Hashable,
        waiter: Waiter,
    ) -> None:
        """Ask for ``waiter``. ``who`` tells a repeated query from another client's; a repeated one changes nothing."""
        self._counters.forwarded += 1
        client = self._clients.setdefault(sandbox_id, _Client())
        key = _key(query, waiter.question, kind)
        known = client.forwards.get(key)
        if known is not None:
            self._counters.merged += 1
            if who in known.waiters:
                return
            if len(known.waiters) < WAITERS:
                known.waiters[who] = waiter
                return
        if known is not None or len(client.forwards) >= limits.DNS_FORWARDS_IN_FLIGHT - self.in_flight:
            self._counters.overloaded += 1
            waiter.deliver(say(waiter.question, Rcode.SERVFAIL))
            return
        now = self._loop.now()
        order = sorted(upstreams, key=lambda upstream: client.silent.get(upstream, now) > now)
        forward = _Forward(
            sandbox_id=sandbox_id,
            key=key,
            query=query,
            question=waiter.question,
            attempts=[(order[turn % len(order)], kind) for turn in range(max(ATTEMPTS, len(order)))] if order else [],
            deadline=now + ATTEMPTS * ATTEMPT_SECONDS,
            waiters={who: waiter},
        )
        client.forwards[key] = forward
        self.in_flight += 1
        self._attempt(forward)

    def cancel(self, sandbox_id: str) -> None:
        """Give up everything the sandbox has asked; its clients get SERVFAIL, its sockets are closed on return."""
        client = self._clients.pop(sandbox_id, None)
        for forward in list(client.forwards.values()) if client else ():
            self._end(forward, None)

    def close(self) -> None:
        """Cancel for every sandbox."""
        for sandbox_id in list(self._clients):
            self.cancel(sandbox_id)

    def _attempt(self, forward: _Forward) -> None:
        while forward.attempts:
            upstream, kind = forward.attempts.pop(0)
            seconds = min(ATTEMPT_SECONDS, forward.deadline - self._loop.now())
            if seconds <= 0:
                break
            query = self._below(65536).to_bytes(2, "big") + forward.query[2:]
            done = partial(self._done, forward, upstream, kind)
            wire = forward.question.wire
            exchange: Exchange
            if kind == socket.SOCK_DGRAM:
                exchange = DatagramExchange(self._loop, self._counters, query, wire, done, self._below)
            else:
                exchange = StreamExchange(self._loop, self._counters, query, wire, done)
            try:
                exchange.start(open_for(self._open_socket, forward.sandbox_id, upstream, kind), upstream, seconds)
            except OSError:
                self._give_up_on(forward, upstream, kind)
                continue
            forward.exchange = exchange
            return
        self._end(forward, None)

    def _done(self, forward: _Forward, upstream: Upstream, kind: socket.SocketKind, outcome: bytes | Failure) -> None:
        forward.exchange = None
        client = self._clients[forward.sandbox_id]
        if isinstance(outcome, bytes):
            client.silent.pop(upstream, None)
            if outcome[3] & 15 not in _TRY_NEXT:
                self._end(forward, outcome)
                return
            self._give_up_on(forward, upstream, *socket.SocketKind)
        elif outcome is Failure.SUSPECT:
            forward.attempts.insert(0, (upstream, socket.SOCK_STREAM))
        elif outcome is Failure.SILENT:
            self._counters.upstream_failures += 1
            client.silent = {u: until for u, until in client.silent.items() if until > self._loop.now()}
            client.silent[upstream] = self._loop.now() + SILENT_SECONDS
        else:
            self._give_up_on(forward, upstream, kind)
        self._attempt(forward)

    def _give_up_on(self, forward: _Forward, upstream: Upstream, *kinds: socket.SocketKind) -> None:
        self._counters.upstream_failures += 1
        forward.attempts = [(u, kind) for u, kind in forward.attempts if u != upstream or kind not in kinds]

    def _end(self, forward: _Forward, reply: bytes | None) -> None:
        """Take it out of the books, then tell everybody who waits."""
        self.in_flight -= 1
        client = self._clients.get(forward.sandbox_id)
        if client is not None:
            client.forwards.pop(forward.key, None)
        if forward.exchange is not None:
            forward.exchange.cancel()
        for waiter in forward.waiters.values():
            waiter.deliver(say(waiter.question, Rcode.SERVFAIL) if reply is None else _for(waiter, reply))


def _for(waiter: Waiter, reply: bytes) -> bytes:
    """An upstream's reply with the id and the letters of the client's own question, cut to what the client takes.

    The two question sections have the same length, so compression pointers into and past them stay right.
    """
    wire = waiter.question.wire
    if len(reply) > waiter.octets:
        return say_truncated(waiter.question, reply)
    return b"".join((waiter.question.id, reply[2:HEADER_OCTETS], wire, reply[HEADER_OCTETS + len(wire) :]))


def _key(query: bytes, question: Question, kind: socket.SocketKind) -> bytes:
    """Equal for queries that a server must answer alike: all but the id and the case of the name, options included."""
    name_end = HEADER_OCTETS + len(question.wire) - 4
    lower = query[HEADER_OCTETS:name_end].lower()
    return bytes((kind,)) + query[2:HEADER_OCTETS] + lower + query[name_end:]
