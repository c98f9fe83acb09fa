"""One TCP connection of a client (RFC 7766): framing, pipelining, time-outs. Knows nothing of names.

A connection ends when its peer has said everything and got its replies; on any error; when it has been idle, or has not
finished a query, or has not read its replies, for :data:`IDLE_SECONDS`; and in any case after :data:`TOTAL_SECONDS`.
Each read is small, so a client with a thousand pipelined queries takes its turns like everybody else; and nothing is
read while it has not taken the replies it asked for. An end of file or an error always closes or stops reading: a
truncated query followed by a reset must not find a loop to spin in (CVE-2026-35406).
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from libcnm.dns.counters import Counters
from libcnm.dns.loop import BROKEN, READABLE, WRITABLE, Loop, Timer
from libcnm.dns.question import HEADER_OCTETS

IDLE_SECONDS = 10.0
TOTAL_SECONDS = 120.0
QUERY_OCTETS = 4096
"""The longest query accepted: a name, a type and some options. A longer one ends the connection, and so does one that
is shorter than a header: octets without sense must not keep it alive."""
_READ_OCTETS = 512
"""Some 20 queries: well below a millisecond of the thread."""
_UNREAD_OCTETS = 64 * 1024
_OWED = 64
"""Replies that may wait for an upstream at a time."""

Answering = Callable[["Connection", bytes], None]


class Connection:
    """``on_query`` gets each whole message, and calls :meth:`send` or :meth:`skip` once for it, at once or later."""

    def __init__(
        self,
        loop: Loop,
        counters: Counters,
        sock: socket.socket,
        on_query: Answering,
        on_close: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._counters = counters
        self._sock = sock
        self._on_query = on_query
        self._on_close = on_close
        self._received = bytearray()
        self._unsent = bytearray()
        self._owed = 0
        self._ended = False
        self._closed = False
        self._going_on = False
        self._events = READABLE
        self._opened = self._progress = loop.now()
        self._timer: Timer = loop.after(IDLE_SECONDS, self._check_time)
        loop.watch(sock, self._ready)

    @property
    def evictable(self) -> bool:
        """True when no reply is owed and none is on its way out."""
        return not self._owed and not self._unsent

    @property
    def progress(self) -> float:
        """When the connection last did something useful: came in, finished a query, or took all its replies."""
        return self._progress

    def send(self, message: bytes) -> None:
        """The reply to one query. Nothing happens when the connection has gone meanwhile."""
        if self._closed:
            return
        self._owed -= 1
        self._unsent += len(message).to_bytes(2, "big") + message
        self._go_on()

    def skip(self) -> None:
        """The query will have no reply (it was none)."""
        self._owed -= 1

    def close(self) -> None:
        """Close now; what is not sent is lost."""
        if not self._closed:
            self._closed = True
            self._timer.cancel()
            self._loop.forget(self._sock)
            self._sock.close()
            self._on_close(self)

    def _ready(self, events: int) -> None:
        if events & BROKEN:
            self.close()
            return
        if events & READABLE and self._has_room() and not self._ended:
            try:
                chunk = self._sock.recv(_READ_OCTETS)
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            self._ended = not chunk
            self._received += chunk
        self._go_on()

    def _has_room(self) -> bool:
        """True while it may be asked more: it takes its replies, and is not owed too many."""
        return len(self._unsent) <= _UNREAD_OCTETS and self._owed < _OWED

    def _go_on(self) -> None:
        """Take queries and send replies until there is nothing to do, or the peer must do something first."""
        if self._going_on:
            return
        self._going_on = True
        try:
            while not self._closed and self._take_queries() | self._flush():
                pass
            if not self._closed and self._ended and self.evictable:
                self.close()
        finally:
            self._going_on = False
        if self._closed:
            return
        events = (READABLE if self._has_room() and not self._ended else 0) | (WRITABLE if self._unsent else 0)
        if events != self._events:
            self._events = events
            self._loop.rewatch(self._sock, events)

    def _take_queries(self) -> bool:
        """Hand on the whole messages received, as long as there is room; True if there was one."""
        at = 0
        while not self._closed and self._has_room() and len(self._received) - at >= 2:
            length = int.from_bytes(self._received[at : at + 2], "big")
            if not HEADER_OCTETS <= length <= QUERY_OCTETS:
                self.close()
                break
            if len(self._received) - at - 2 < length:
                break
            query = bytes(self._received[at + 2 : at + 2 + length])
            at += 2 + length
            self._progress = self._loop.now()
            self._owed += 1
            self._on_query(self, query)
        del self._received[:at]
        return at > 0

    def _flush(self) -> bool:
        """Send what the socket takes; True if it took something."""
        if self._closed or not self._unsent:
            return False
        try:
            sent = self._sock.send(self._unsent)
        except BlockingIOError:
            return False
        except OSError:
            self.close()
            return False
        del self._unsent[:sent]
        if not self._unsent:
            self._progress = self._loop.now()
        return True

    def _check_time(self) -> None:
        now = self._loop.now()
        ends = min(self._opened + TOTAL_SECONDS, self._progress + IDLE_SECONDS)
        if now >= ends:
            self._counters.timed_out += 1
            self.close()
            return
        self._timer = self._loop.after(ends - now, self._check_time)
