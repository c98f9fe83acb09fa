"""Forwarding, against upstreams that answer, lie, dawdle, refuse and die; and against who would like to be one.

The upstreams are real sockets on loopback, read by the test itself: nothing happens behind its back. Time is the real
clock plus a skew, as in test_dns_server.py.
"""

from __future__ import annotations

import collections
import ipaddress
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from libcnm.dns.counters import Statistics
from libcnm.dns.exchange import NEAR_MISSES, PORT_MIN, bind_randomly
from libcnm.dns.forward import ATTEMPT_SECONDS, WAITERS
from libcnm.dns.server import ResolverServer
from libcnm.dns.view import SandboxView, Upstream
from libcnm.errors import Unavailable
from libcnm.model import limits

PATIENCE = 5.0
LOOPBACK = "127.0.0.1"
Address = tuple[str, int]


class FakeUpstream:
    """A server's sockets; the test reads the queries and says what is answered."""

    def __init__(self) -> None:
        self.udp, self.tcp = sockets()
        self.udp.settimeout(PATIENCE)
        self.tcp.settimeout(PATIENCE)
        self.tcp.listen(16)
        self.port = int(self.udp.getsockname()[1])
        self.upstream = Upstream(ipaddress.ip_address(LOOPBACK), self.port)

    def query(self) -> tuple[bytes, Address]:
        return self.udp.recvfrom(4096)

    def answer(self, change: Callable[[bytes], bytes] = bytes, **how: Any) -> bytes:
        """Read one query, answer it (``change`` the reply), and return the query."""
        query, source = self.query()
        self.udp.sendto(change(reply_to(query, **how)), source)
        return query

    def answer_tcp(self, **how: Any) -> bytes:
        sock, _ = self.tcp.accept()
        with sock:
            sock.settimeout(PATIENCE)
            stream = sock.makefile("rb")
            query = stream.read(int.from_bytes(stream.read(2), "big"))
            stream.close()
            reply = reply_to(query, **how)
            for octet in len(reply).to_bytes(2, "big") + reply[:5]:
                sock.send(bytes([octet]))
            sock.sendall(reply[5:])
        return query

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()


def reply_to(query: bytes, *, addresses: int = 1, rcode: int = 0, tc: bool = False) -> bytes:
    message = dns.message.from_wire(query)
    reply = dns.message.make_response(message, recursion_available=True)
    reply.set_rcode(dns.rcode.Rcode(rcode))
    if tc:
        reply.flags |= dns.flags.TC
    elif addresses:
        texts = [f"198.51.{n // 250}.{n % 250 + 1}" for n in range(addresses)]
        reply.answer.append(dns.rrset.from_text_list(message.question[0].name, 60, "IN", "A", texts))
    return reply.to_wire(max_size=65535)


class Kit:
    """One server, sandbox "box" without networks, forwarding to the given upstreams."""

    def __init__(self, *upstreams: FakeUpstream) -> None:
        self.skew = 0.0
        self.unavailable = False
        self.opened: list[tuple[str, str, socket.SocketKind]] = []
        self.upstreams = upstreams
        self.server = ResolverServer(now=self.now, below=secrets.randbelow, open_socket=self.open_socket)
        self.server.start()
        self.view = SandboxView(forwarding=True, upstreams=[fake.upstream for fake in upstreams])
        self.port = self.attach("box")

    def now(self) -> float:
        return time.monotonic() + self.skew

    def open_socket(
        self, sandbox_id: str, via: str, family: socket.AddressFamily, kind: socket.SocketKind
    ) -> socket.socket:
        self.opened.append((sandbox_id, via, kind))
        if self.unavailable:
            raise Unavailable("the namespace", "it has gone")
        return socket.socket(family, kind)

    def attach(self, sandbox_id: str) -> int:
        udp, tcp = sockets()
        port = int(udp.getsockname()[1])
        self.server.attach(sandbox_id, udp, tcp, self.view)
        return port

    def client(self, port: int = 0) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(PATIENCE)
        sock.connect((LOOPBACK, port or self.port))
        return sock

    def pass_time(self, seconds: float) -> None:
        self.skew += seconds
        self.server._loop.call(lambda: None, PATIENCE)

    def until(self, condition: Callable[[Statistics], bool]) -> None:
        ends = time.monotonic() + PATIENCE
        while not condition(statistics := self.server.statistics()):
            assert time.monotonic() < ends, statistics
            self.server._loop.call(lambda: None, PATIENCE)


def sockets() -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket on one port of loopback."""
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((LOOPBACK, 0))
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
        else:
            return udp, tcp


@pytest.fixture
def kit(request: pytest.FixtureRequest) -> Iterator[Kit]:
    """With as many upstreams as ``@pytest.mark.parametrize("kit", [n], indirect=True)`` says, else one."""
    descriptors = set(os.listdir("/proc/self/fd"))
    made = Kit(*(FakeUpstream() for _ in range(getattr(request, "param", 1))))
    yield made
    made.server.close()
    for upstream in made.upstreams:
        upstream.close()
    statistics = made.server.statistics()
    assert (0, 0) == (statistics.faults, statistics.forwards_in_flight)
    assert set(os.listdir("/proc/self/fd")) <= descriptors


def several(count: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kit", [count], indirect=True)


def query(name: str = "www.example.org", message_id: int = 0x1234, **how: Any) -> bytes:
    message = dns.message.make_query(name, "A", id=message_id, **how)
    return message.to_wire()


def rcode(reply: bytes) -> int:
    return reply[3] & 15


def test_a_forwarded_query_and_its_reply(kit: Kit) -> None:
    """The client gets its own id and letters back, and all the upstream said; upstream sees an id of ours."""
    with kit.client() as client:
        seen = set()
        for _ in range(20):
            client.send(query("WWW.Example.org"))
            asked = kit.upstreams[0].answer(lambda reply: reply.replace(b"\3WWW\7Example", b"\3wwW\7eXAMPLE"))
            assert query("WWW.Example.org")[2:] == asked[2:]
            seen.add(asked[:2])
            reply = client.recv(4096)
            assert query("WWW.Example.org")[:2] == reply[:2]
            assert b"\3WWW\7Example\3org\0" in reply
            assert 1 == len(dns.message.from_wire(reply).answer[0])
        assert len(seen) > 15
    assert {("box", "host", socket.SOCK_DGRAM)} == set(kit.opened)


def test_edns_passes_as_it_is(kit: Kit) -> None:
    """DO, size and options are between the client and the upstream."""
    with kit.client() as client:
        asked = query(use_edns=0, payload=1400, want_dnssec=True, pad=64)
        client.send(asked)
        assert asked[2:] == kit.upstreams[0].answer()[2:]
        assert 0 == dns.message.from_wire(client.recv(4096)).edns


def test_nothing_from_upstream_is_kept(kit: Kit) -> None:
    """The same question is asked again."""
    with kit.client() as client:
        for _ in range(3):
            client.send(query())
            kit.upstreams[0].answer()
            client.recv(4096)
    assert (3, 0) == (kit.server.statistics().totals.forwarded, kit.server.statistics().totals.merged)


# -- forged replies ----------------------------------------------------------------------------------------------------


def test_forged_replies_are_ignored(kit: Kit) -> None:
    """Wrong id, wrong question, no question, a query, another address: the true reply still comes through."""
    upstream = kit.upstreams[0]
    with kit.client() as client, FakeUpstreamSocket() as stranger:
        client.send(query())
        asked, source = upstream.query()
        true = reply_to(asked)
        stranger.sendto(true, source)
        for forged in (
            reply_to(query("www.example.com", int.from_bytes(asked[:2], "big"))),
            true[:12],
            true[:2] + b"\x01" + true[3:],
            true[:4] + b"\0\0" + true[6:],
            true.replace(b"\0\1\0\1\xc0", b"\0\x1c\0\1\xc0"),
            bytes([true[0] ^ 1]) + true[1:],
            b"",
        ):
            upstream.udp.sendto(forged, source)
        upstream.udp.sendto(true, source)
        assert 1 == len(dns.message.from_wire(client.recv(4096)).answer[0])
    assert 7 == kit.server.statistics().totals.forged


def FakeUpstreamSocket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((LOOPBACK, 0))
    return sock


def test_who_guesses_ids_makes_us_ask_over_tcp(kit: Kit) -> None:
    """From the right address to the right port, but never the id: after a few the UDP exchange is given up."""
    upstream = kit.upstreams[0]
    with kit.client() as client:
        client.send(query())
        asked, source = upstream.query()
        for number in range(NEAR_MISSES):
            guess = (int.from_bytes(asked[:2], "big") + 1 + number) & 0xFFFF
            upstream.udp.sendto(guess.to_bytes(2, "big") + reply_to(asked)[2:], source)
        again = upstream.answer_tcp()
        upstream.udp.sendto(reply_to(asked, rcode=3), source)
        assert asked[2:] == again[2:]
        assert dns.rcode.NOERROR == rcode(client.recv(4096))


def test_a_reply_that_comes_too_late_is_nobodys(kit: Kit) -> None:
    """The next attempt has another port and another id; what was meant for the first is lost."""
    upstream = kit.upstreams[0]
    with kit.client() as client:
        client.send(query())
        first, source = upstream.query()
        kit.pass_time(ATTEMPT_SECONDS + 0.1)
        second, other = upstream.query()
        assert source != other
        upstream.udp.sendto(reply_to(first, rcode=3), other if first[:2] != second[:2] else source)
        upstream.udp.sendto(reply_to(second), other)
        assert dns.rcode.NOERROR == rcode(client.recv(4096))


def test_identical_questions_are_one(kit: Kit) -> None:
    """No birthday attack: clients share one query; each gets its own id and letters; the rest are turned away."""
    clients = [kit.client() for _ in range(WAITERS + 1)]
    for number, client in enumerate(clients):
        client.send(query("www.EXAMPLE.org" if number % 2 else "www.example.org", number))
        kit.until(lambda s, n=number: s.totals.forwarded == n + 1)  # type: ignore[misc]
    clients[0].send(query("www.example.org", 0))  # a repeated query is not another client's
    kit.until(lambda s: s.totals.forwarded == WAITERS + 2)
    assert dns.rcode.SERVFAIL == rcode(clients[-1].recv(4096))
    kit.upstreams[0].answer()
    for number, client in enumerate(clients[:-1]):
        reply = client.recv(4096)
        assert (number, number % 2) == (int.from_bytes(reply[:2], "big"), b"EXAMPLE" in reply)
    assert (1, WAITERS + 1) == (len(kit.opened), kit.server.statistics().totals.merged)
    for client in clients:
        client.close()


def test_ports_and_ids_are_spread() -> None:
    """Every port from 1024 on, uniformly: 4,000 drawn, 16 bins, chi-squared below the 0.1 % limit for 15 degrees."""
    drawn = []

    class Recorder(socket.socket):
        def bind(self, address: tuple[str, int]) -> None:  # type: ignore[override]
            drawn.append(address[1])

    with Recorder(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(4000):
            bind_randomly(sock, secrets.randbelow)
    width = (65536 - PORT_MIN) / 16
    bins = collections.Counter(int((port - PORT_MIN) / width) for port in drawn)
    assert sum((bins[n] - 250) ** 2 / 250 for n in range(16)) < 37.7
    assert min(drawn) >= PORT_MIN


def test_a_taken_port_is_drawn_again() -> None:
    """And when none is free, that is an error, not a loop."""
    with FakeUpstreamSocket() as taken, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        port = int(taken.getsockname()[1]) - PORT_MIN
        with pytest.raises(OSError, match="in use"):
            bind_randomly(sock, lambda _: port)
        with FakeUpstreamSocket() as other:
            free = int(other.getsockname()[1]) - PORT_MIN
        draws = iter([port, port, free])
        bind_randomly(sock, lambda _: next(draws))
        assert free + PORT_MIN == sock.getsockname()[1]


# -- upstreams that fail -----------------------------------------------------------------------------------------------


@several(3)
@pytest.mark.parametrize("refusal", [dns.rcode.SERVFAIL, dns.rcode.REFUSED])
def test_the_next_upstream_is_asked(kit: Kit, refusal: int) -> None:
    """SERVFAIL, REFUSED and silence, in order; the third one's word counts, and NXDOMAIN is a word."""
    first, second, third = kit.upstreams
    with kit.client() as client:
        client.send(query())
        first.answer(rcode=refusal, addresses=0)
        second.query()
        kit.pass_time(ATTEMPT_SECONDS + 0.1)
        third.answer(rcode=dns.rcode.NXDOMAIN, addresses=0)
        assert dns.rcode.NXDOMAIN == rcode(client.recv(4096))
        client.send(query())  # the silent one is now asked last
        first.answer(rcode=refusal, addresses=0)
        third.answer()
        assert dns.rcode.NOERROR == rcode(client.recv(4096))


@several(2)
def test_when_all_fail_the_client_is_told(kit: Kit) -> None:
    """SERVFAIL, at once when nobody can be reached, before a client's 5 s when all are silent."""
    with kit.client() as client:
        client.send(query("silent.example"))
        for fake in (kit.upstreams[0], kit.upstreams[1], kit.upstreams[0]):
            fake.query()
            kit.pass_time(ATTEMPT_SECONDS)
        assert dns.rcode.SERVFAIL == rcode(client.recv(4096))
        for fake in kit.upstreams:
            fake.close()
        client.send(query("closed.example"))
        assert dns.rcode.SERVFAIL == rcode(client.recv(4096))
        kit.unavailable = True
        client.send(query("gone.example"))
        assert dns.rcode.SERVFAIL == rcode(client.recv(4096))


@several(0)
def test_without_upstreams(kit: Kit) -> None:
    """Forwarding is allowed, but there is nobody to ask."""
    with kit.client() as client:
        client.send(query())
        assert dns.rcode.SERVFAIL == rcode(client.recv(4096))


# -- sizes and TCP -----------------------------------------------------------------------------------------------------


def test_truncated_replies_are_relayed_and_tcp_stays_tcp(kit: Kit) -> None:
    """The client comes again over TCP and gets all of it, over TCP from upstream too."""
    with kit.client() as client, socket.create_connection((LOOPBACK, kit.port), PATIENCE) as stream:
        client.send(query())
        kit.upstreams[0].answer(tc=True)
        assert dns.message.from_wire(client.recv(4096)).flags & dns.flags.TC
        stream.sendall(len(query()).to_bytes(2, "big") + query())
        kit.upstreams[0].answer_tcp(addresses=2000)
        with stream.makefile("rb") as file:
            reply = file.read(int.from_bytes(file.read(2), "big"))
        assert 2000 == len(dns.message.from_wire(reply).answer[0])
    assert [socket.SOCK_DGRAM, socket.SOCK_STREAM] == [kind for *_, kind in kit.opened]


@pytest.mark.parametrize("edns", [None, 4096])
def test_no_datagram_is_larger_than_it_may_be(kit: Kit, edns: int | None) -> None:
    """An upstream's large reply becomes TC: no more than 512 octets, or 1232 with EDNS."""
    with kit.client() as client:
        client.send(query(use_edns=edns is not None, payload=edns or 0))
        kit.upstreams[0].answer(addresses=90)
        reply = client.recv(65535)
        message = dns.message.from_wire(reply)
        assert message.flags & dns.flags.TC
        assert len(reply) <= (512 if edns is None else limits.DNS_UDP_BYTES)
        assert (edns is None) == (message.edns == -1)


def test_a_client_that_left_before_the_reply(kit: Kit) -> None:
    """Its connection is closed, the reply goes nowhere, and nothing breaks."""
    stream = socket.create_connection((LOOPBACK, kit.port), PATIENCE)
    stream.sendall(len(query()).to_bytes(2, "big") + query())
    kit.until(lambda s: s.forwards_in_flight == 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    stream.close()
    kit.until(lambda s: s.connections_open == 0)
    kit.upstreams[0].answer_tcp()
    kit.until(lambda s: s.forwards_in_flight == 0)


# -- bounds and ends ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_sandbox_cannot_take_all_places(kit: Kit) -> None:
    """Who asks into the void gets half of the places and then SERVFAIL; the next sandbox is still served."""
    other = kit.attach("other")
    flood = 600
    with kit.client() as client, kit.client(other) as calm:
        for number in range(flood):
            client.send(query(f"x{number}.example", number))
            kit.until(lambda s, n=number: s.totals.forwarded == n + 1)  # type: ignore[misc]
        statistics = kit.server.statistics()
        half = limits.DNS_FORWARDS_IN_FLIGHT // 2
        assert (half, flood - half) == (statistics.forwards_in_flight, statistics.totals.overloaded)
        assert dns.rcode.SERVFAIL == rcode(client.recv(4096))
        calm.send(query("calm.example"))
        while b"\4calm" not in (asked := kit.upstreams[0].query())[0]:
            pass
        kit.upstreams[0].udp.sendto(reply_to(asked[0]), asked[1])
        assert dns.rcode.NOERROR == rcode(calm.recv(4096))


def test_a_sandbox_that_may_no_longer_forward(kit: Kit) -> None:
    """What is in flight is given up when update returns; what comes back later is not passed on."""
    with kit.client() as client:
        client.send(query())
        asked, source = kit.upstreams[0].query()
        kit.server.update("box", SandboxView())
        assert dns.rcode.SERVFAIL == rcode(client.recv(4096))
        kit.upstreams[0].udp.sendto(reply_to(asked), source)
        client.send(query())
        assert dns.rcode.NXDOMAIN == rcode(client.recv(4096))


def test_detach_gives_up_what_is_in_flight(kit: Kit) -> None:
    """No socket is left when detach returns."""
    with kit.client() as client:
        client.send(query())
        kit.upstreams[0].query()
        kit.server.detach("box")
    assert 0 == kit.server.statistics().forwards_in_flight
