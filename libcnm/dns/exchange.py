"""One query to one upstream over one fresh socket, and the reply that is truly its own (RFC 5452 9).

A reply counts only if it comes from the very address and port asked, to the very port asked from, with the id and the
question of the query; everything else is ignored and counted. An attacker who gets the addresses and the port right but
not the id is seen as a *near miss*; after a few of them the exchange gives up as suspect, and the forwarder asks over
TCP. UDP ports are drawn from 1024 to 65535; over TCP the kernel's port and sequence number do that work.
"""

from __future__ import annotations

import enum
import errno
import ipaddress
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable

from libcnm.dns.counters import Counters
from libcnm.dns.loop import BROKEN, READABLE, WRITABLE, Loop, Timer
from libcnm.dns.question import HEADER_OCTETS
from libcnm.dns.view import Upstream
from libcnm.errors import CnmError

PORT_MIN = 1024
PORT_TRIES = 16
NEAR_MISSES = 8
_DATAGRAMS_PER_EVENT = 32
_DATAGRAM_OCTETS = 65535


class Failure(enum.Enum):
    """Why there is no reply."""

    SILENT = "no reply in time"
    UNREACHABLE = "it cannot be reached"
    SUSPECT = "somebody forges replies"


OpenSocket = Callable[[str, str, socket.AddressFamily, socket.SocketKind], socket.socket]
"""``open_socket(sandbox_id, via, family, kind)``: a new unbound socket in the host's or the sandbox's namespace.

It runs on the DNS thread, must not wait, and may raise OSError or :class:`~libcnm.errors.CnmError`.
"""
Done = Callable[[bytes | Failure], None]


def is_reply(data: bytes, query: bytes, wire: bytes) -> bool:
    """True when ``data`` is a response to ``query`` by its id and its question section ``wire`` (case set aside)."""
    end = HEADER_OCTETS + len(wire)
    return (
        len(data) >= end
        and data[:2] == query[:2]
        and data[2] & 0xF8 == 0x80
        and data[4:6] == b"\0\1"
        and data[HEADER_OCTETS : end - 4].lower() == wire[:-4].lower()
        and data[end - 4 : end] == wire[-4:]
    )


class Exchange(ABC):
    """One attempt. ``done`` is called once, with the reply as it came or the reason why there is none."""

    def __init__(self, loop: Loop, counters: Counters, query: bytes, wire: bytes, done: Done) -> None:
        self._loop = loop
        self._counters = counters
        self._query = query
        self._wire = wire
        self._done: Done | None = done
        self._sock: socket.socket | None = None
        self._timer: Timer | None = None

    def start(self, sock: socket.socket, upstream: Upstream, seconds: float) -> None:
        """Take over ``sock``, ask, wait ``seconds`` at most. Raises OSError, the socket closed, if it fails at once."""
        self._sock = sock
        self._timer = self._loop.after(seconds, lambda: self._finish(Failure.SILENT))
        try:
            sock.setblocking(False)
            self._begin(sock, (str(upstream.address), upstream.port))
        except OSError:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Close the socket; ``done`` will not be called."""
        self._done = None
        if self._timer is not None:
            self._timer.cancel()
        if self._sock is not None:
            self._loop.forget(self._sock)
            self._sock.close()
            self._sock = None

    def _finish(self, outcome: bytes | Failure) -> None:
        done = self._done
        self.cancel()
        if done is not None:
            done(outcome)

    @abstractmethod
    def _begin(self, sock: socket.socket, server: tuple[str, int]) -> None: ...


class DatagramExchange(Exchange):
    """Over UDP, from a port of its own. ``below(n)`` draws from [0, n), unpredictably."""

    def __init__(
        self, loop: Loop, counters: Counters, query: bytes, wire: bytes, done: Done, below: Callable[[int], int]
    ) -> None:
        super().__init__(loop, counters, query, wire, done)
        self._below = below
        self._misses = 0
        self._server: tuple[object, ...] = ()

    def _begin(self, sock: socket.socket, server: tuple[str, int]) -> None:
        bind_randomly(sock, self._below)
        sock.connect(server)
        # What came in between bind and connect is checked too: connect does not empty the queue.
        self._server = _comparable(sock.getpeername())
        sock.send(self._query)
        self._loop.watch(sock, self._readable)

    def _readable(self, _events: int) -> None:
        for _ in range(_DATAGRAMS_PER_EVENT):
            if self._sock is None:
                return
            try:
                data, source = self._sock.recvfrom(_DATAGRAM_OCTETS)
            except BlockingIOError:
                return
            except OSError:
                self._finish(Failure.UNREACHABLE)
                return
            near = _comparable(source) == self._server
            if near and is_reply(data, self._query, self._wire):
                self._finish(data)
                return
            self._counters.forged += 1
            self._misses += near
            if self._misses >= NEAR_MISSES:
                self._finish(Failure.SUSPECT)


class StreamExchange(Exchange):
    """Over TCP, with the two octets of length before each message."""

    def __init__(self, loop: Loop, counters: Counters, query: bytes, wire: bytes, done: Done) -> None:
        super().__init__(loop, counters, query, wire, done)
        self._unsent = len(query).to_bytes(2, "big") + query
        self._received = bytearray()

    def _begin(self, sock: socket.socket, server: tuple[str, int]) -> None:
        code = sock.connect_ex(server)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, "connect")
        self._loop.watch(sock, self._ready, WRITABLE)

    def _ready(self, events: int) -> None:
        if self._sock is None:
            return
        try:
            if self._unsent:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
                if not self._unsent:
                    self._loop.rewatch(self._sock, READABLE)
                return
            chunk = self._sock.recv(_DATAGRAM_OCTETS)
        except BlockingIOError:
            if events & BROKEN:
                self._finish(Failure.UNREACHABLE)
            return
        except OSError:
            self._finish(Failure.UNREACHABLE)
            return
        self._received += chunk
        end = 2 + int.from_bytes(self._received[:2], "big")
        if len(self._received) >= max(end, 2 + HEADER_OCTETS):
            reply = bytes(self._received[2:end])
            self._finish(reply if is_reply(reply, self._query, self._wire) else Failure.UNREACHABLE)
        elif not chunk:
            self._finish(Failure.UNREACHABLE)


def bind_randomly(sock: socket.socket, below: Callable[[int], int]) -> None:
    """Bind to a port drawn from 1024–65535; taken and forbidden ones are drawn again. Raises OSError in the end."""
    wildcard = "0.0.0.0"
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        wildcard = "::"
    for tries_left in reversed(range(PORT_TRIES)):
        try:
            sock.bind((wildcard, PORT_MIN + below(65536 - PORT_MIN)))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES) or not tries_left:
                raise
        else:
            return


def open_for(open_socket: OpenSocket, sandbox_id: str, upstream: Upstream, kind: socket.SocketKind) -> socket.socket:
    """A socket of the upstream's family; what the opener raises becomes OSError."""
    v4 = isinstance(upstream.address, ipaddress.IPv4Address)
    try:
        return open_socket(sandbox_id, upstream.via, socket.AF_INET if v4 else socket.AF_INET6, kind)
    except CnmError as error:
        raise OSError(errno.ENETUNREACH, error.message) from error


def _comparable(address: tuple[object, ...]) -> tuple[object, ...]:
    """An AF_INET or AF_INET6 socket address without the IPv6 flow label, which is no part of who somebody is."""
    return address[:2] + address[3:]
