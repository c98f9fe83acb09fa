"""One sandbox's part of the server: its two sockets, view, cache and TCP connections. On the DNS thread only.

Decides whose turn it is and what is kept; knows neither names nor message formats. Over UDP a sandbox that floods has a
few replies' worth of the thread at a time; over TCP it has a quota of connections (RFC 7766 6.2.2), the idlest of which
makes room.
"""

from __future__ import annotations

import socket
from collections.abc import Hashable
from functools import partial

import attrs

from libcnm.dns.answer import TCP_OCTETS, Reply, say, say_raw
from libcnm.dns.cache import ReplyCache
from libcnm.dns.counters import Counters
from libcnm.dns.forward import Forwarder, Waiter
from libcnm.dns.loop import Loop
from libcnm.dns.question import BadQuery, Question, parse, quick_key
from libcnm.dns.responder import Responder
from libcnm.dns.stream import Connection
from libcnm.dns.view import SandboxView
from libcnm.model import limits

UDP_QUERY_OCTETS = 4096
"""What a query over UDP may have; the rest of a longer one is cut off, and then it is malformed."""
_DATAGRAMS_PER_EVENT = 32
"""Then it is the next sandbox's turn."""
_DATAGRAMS_AT_ONCE = 8
"""What is received before any of it is answered; what was posted before is done once for all of them."""
_PARSED_COUNTS_AS = 8
"""What a query that is not in the cache takes of them; it takes about as many times as long."""
_ACCEPTS_PER_EVENT = 16
_LISTEN_BACKLOG = 128
_ACCEPT_PAUSE_SECONDS = 0.2
_TCP_KEY = b"tcp"
"""Before the key of a reply over TCP. One over UDP begins with the flags, whose first octet is below 8."""

_Peer = tuple[object, ...]


@attrs.frozen
class Shared:
    """What all sandboxes of one server have in common."""

    loop: Loop
    counters: Counters
    responder: Responder
    forwarder: Forwarder


class SandboxService:
    """Owns both sockets from :meth:`open` on."""

    def __init__(
        self, sandbox_id: str, udp: socket.socket, tcp: socket.socket, view: SandboxView, shared: Shared
    ) -> None:
        self.sandbox_id = sandbox_id
        self.cache = ReplyCache(limits.DNS_CACHE_ENTRIES)
        self.view = view
        self.connections: dict[Connection, None] = {}
        self._udp = udp
        self._tcp = tcp
        self._shared = shared
        self._loop = shared.loop
        self._counters = shared.counters
        self._tcp_queries = 0
        self._closed = False

    def open(self) -> None:
        """Begin to serve. Raises OSError when a socket is not what it should be; then neither is watched."""
        self._udp.setblocking(False)
        self._tcp.setblocking(False)
        self._tcp.listen(_LISTEN_BACKLOG)
        self._loop.watch(self._udp, self._datagrams)
        try:
            self._loop.watch(self._tcp, self._accept)
        except OSError:
            self._loop.forget(self._udp)
            raise

    def update(self, view: SandboxView) -> None:
        """Serve by another view from now on; a sandbox that may no longer forward gives up what is in flight."""
        self.view = view
        self.cache.clear()
        if not view.forwarding:
            self._shared.forwarder.cancel(self.sandbox_id)

    def close(self) -> None:
        """Stop serving: no reply leaves after this."""
        self._closed = True
        # The connections first: one that gets a SERVFAIL from the forwarder might ask the next thing.
        for connection in list(self.connections):
            connection.close()
        self._shared.forwarder.cancel(self.sandbox_id)
        for sock in (self._udp, self._tcp):
            self._loop.forget(sock)
            sock.close()

    # -- UDP -----------------------------------------------------------------------------------------------------------

    def _datagrams(self, _events: int) -> None:
        """Some are received, then what was posted before they came is done, then they are answered."""
        turns = _DATAGRAMS_PER_EVENT
        while turns > 0 and not self._closed:
            received = self._receive()
            if not received:
                return
            self._loop.settle()
            if self._closed:
                return  # what was posted took this sandbox away
            turns -= self._answer(received)
            if len(received) < _DATAGRAMS_AT_ONCE:
                return  # there were no more; the socket stays watched

    def _receive(self) -> list[tuple[bytes, _Peer]]:
        receive = self._udp.recvfrom
        received: list[tuple[bytes, _Peer]] = []
        for _ in range(_DATAGRAMS_AT_ONCE):
            try:
                received.append(receive(UDP_QUERY_OCTETS))
            except BlockingIOError:
                break
            except OSError:
                continue
        return received

    def _answer(self, received: list[tuple[bytes, _Peer]]) -> int:
        """The hot path; what it cost in turns. A datagram whose question has been answered under the same stamp is not
        even parsed.
        """
        send, cached = self._udp.sendto, self.cache.get
        zones, counters = self.view.zones, self._counters
        turns = 0
        for data, peer in received:
            counters.queries += 1
            stamp = 0
            for zone in zones:
                stamp += zone.generation
            kept = cached(quick_key(data), stamp)
            if kept is None:
                self._datagram(data, peer, stamp)
                turns += _PARSED_COUNTS_AS
                continue
            turns += 1
            counters.cached += 1
            try:
                send(kept.fill(data[:2], data[12 : data.find(0, 12) + 5]), peer)
            except OSError:
                counters.unsent += 1
        return turns

    def _datagram(self, data: bytes, peer: _Peer, stamp: int) -> None:
        """A query that the quick key did not find."""
        try:
            question = parse(data)
        except BadQuery as bad:
            self._send(peer, self._refusal(data, bad))
            return
        octets = question.udp_octets()
        reply = self._reply(question, octets, question.key, stamp)
        if reply is None:
            waiter = Waiter(question, octets, partial(self._send, peer))
            self._forward(data, socket.SOCK_DGRAM, (peer, question.id), waiter)
        else:
            self._send(peer, reply.fill(question.id, question.wire))

    def _reply(self, question: Question, octets: int, key: bytes, stamp: int) -> Reply | None:
        """The reply kept under ``key`` and ``stamp``, or made now (and kept, where it may be); None: ask upstream."""
        reply = self.cache.get(key, stamp) if key else None
        if reply is not None:
            self._counters.cached += 1
            return reply
        reply, keep = self._shared.responder.respond(self.view, question, octets)
        if reply is not None:
            self._counters.answered += 1
            if keep and key:
                self.cache.put(key, stamp, reply)
        return reply

    def _forward(self, data: bytes, kind: socket.SocketKind, who: Hashable, waiter: Waiter) -> None:
        self._shared.forwarder.ask(self.sandbox_id, self.view.upstreams, data, kind, who, waiter)

    def _send(self, peer: _Peer, message: bytes | None) -> None:
        if message is None or self._closed:
            return
        try:
            self._udp.sendto(message, peer)
        except OSError:
            self._counters.unsent += 1

    def _refusal(self, data: bytes, bad: BadQuery) -> bytes | None:
        if bad.rcode is None:
            self._counters.ignored += 1
            return None
        self._counters.refused += 1
        return say_raw(data, bad.rcode) if bad.question is None else say(bad.question, bad.rcode)

    # -- TCP -----------------------------------------------------------------------------------------------------------

    def _accept(self, _events: int) -> None:
        for _ in range(_ACCEPTS_PER_EVENT):
            try:
                sock, _ = self._tcp.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError:
                # Mostly no descriptor is left. The listener stays readable: without a pause the thread would spin.
                self._make_room()
                self._loop.forget(self._tcp)
                self._loop.after(_ACCEPT_PAUSE_SECONDS, self._accept_again)
                return
            if len(self.connections) >= limits.DNS_TCP_CONNECTIONS and not self._make_room():
                sock.close()
                continue
            self._counters.connections += 1
            sock.setblocking(False)
            connection = Connection(self._loop, self._counters, sock, self._tcp_query, self._forget_connection)
            self.connections[connection] = None

    def _accept_again(self) -> None:
        if not self._closed:
            self._loop.watch(self._tcp, self._accept)

    def _make_room(self) -> bool:
        """Close the connection that has been idle longest; False when all of them wait for a reply."""
        idle = min((c for c in self.connections if c.evictable), key=lambda c: c.progress, default=None)
        if idle is None:
            return False
        self._counters.evicted += 1
        idle.close()
        return True

    def _forget_connection(self, connection: Connection) -> None:
        self.connections.pop(connection, None)

    def _tcp_query(self, connection: Connection, data: bytes) -> None:
        self._counters.queries += 1
        self._loop.settle()
        if self._closed:
            return
        try:
            question = parse(data)
        except BadQuery as bad:
            refusal = self._refusal(data, bad)
            if refusal is None:
                connection.skip()
            else:
                connection.send(refusal)
            return
        key = question.key and _TCP_KEY + question.key
        reply = self._reply(question, TCP_OCTETS, key, self.view.stamp())
        if reply is not None:
            connection.send(reply.fill(question.id, question.wire))
            return
        self._tcp_queries += 1
        self._forward(data, socket.SOCK_STREAM, self._tcp_queries, Waiter(question, TCP_OCTETS, connection.send))
