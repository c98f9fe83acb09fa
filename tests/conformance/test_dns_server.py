"""The server as its clients meet it, over loopback sockets: what it says, how soon it knows, and how it bears abuse.

Time is the real monotonic clock plus a skew that a test may add, so time-outs are tested without waiting for them.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import random
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest

from libcnm.dns.counters import Statistics
from libcnm.dns.server import ResolverServer
from libcnm.dns.stream import IDLE_SECONDS, TOTAL_SECONDS
from libcnm.dns.view import SandboxView
from libcnm.dns.zone import NameRecord, NetworkZone
from libcnm.errors import AlreadyExists, Invalid, NotFound, Unavailable
from libcnm.model import limits

PATIENCE = 5.0
LOOPBACK = "127.0.0.1"


class Kit:
    """One server, one network "blue" with web at 10.88.0.2, one sandbox "box" on loopback."""

    def __init__(self) -> None:
        self.skew = 0.0
        self.server = ResolverServer(now=self.now, below=secrets.randbelow, open_socket=self.open_socket)
        self.opened: list[tuple[str, str]] = []
        self.zone = NetworkZone("b" * 64, "blue", (ipaddress.ip_network("10.88.0.0/24"),))
        self.put("web", "10.88.0.2")
        self.server.start()
        self.port = self.attach("box", SandboxView((self.zone,)))

    def now(self) -> float:
        return time.monotonic() + self.skew

    def open_socket(
        self, sandbox_id: str, via: str, family: socket.AddressFamily, kind: socket.SocketKind
    ) -> socket.socket:
        self.opened.append((sandbox_id, via))
        return socket.socket(family, kind)

    def put(self, name: str, *addresses: str) -> NameRecord:
        number = name.encode().hex().ljust(64, "0")
        record = NameRecord(number, name, "b" * 64, "blue", addresses=tuple(map(ipaddress.ip_address, addresses)))
        self.zone.put(record)
        return record

    def attach(self, sandbox_id: str, view: SandboxView) -> int:
        udp, tcp = sockets()
        port = int(udp.getsockname()[1])
        self.server.attach(sandbox_id, udp, tcp, view)
        return port

    def ask(self, name: str, qtype: str = "A", tcp: bool = False, port: int = 0) -> dns.message.Message:
        return self.exchange(dns.message.make_query(name, qtype), tcp, port)

    def exchange(self, query: dns.message.Message, tcp: bool = False, port: int = 0) -> dns.message.Message:
        exchange = dns.query.tcp if tcp else dns.query.udp
        return exchange(query, LOOPBACK, PATIENCE, port or self.port)

    def addresses(self, name: str) -> list[str]:
        return [record.to_text() for rrset in self.ask(name).answer for record in rrset]

    def connect(self) -> socket.socket:
        sock = socket.create_connection((LOOPBACK, self.port), PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def pass_time(self, seconds: float) -> None:
        """The clock jumps, and the server takes notice."""
        self.skew += seconds
        self.server._loop.call(lambda: None, PATIENCE)

    def until(self, condition: Callable[[Statistics], bool]) -> Statistics:
        """Keep the server's loop turning until its statistics say so."""
        ends = time.monotonic() + PATIENCE
        while not condition(statistics := self.server.statistics()):
            assert time.monotonic() < ends, statistics
            self.server._loop.call(lambda: None, PATIENCE)
        return statistics


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
def kit() -> Iterator[Kit]:
    descriptors = set(os.listdir("/proc/self/fd"))
    made = Kit()
    yield made
    made.server.close()
    assert 0 == made.server.statistics().faults
    assert set(os.listdir("/proc/self/fd")) <= descriptors


def frame(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


def read_frames(sock: socket.socket, count: int) -> list[bytes]:
    """That many messages, or fewer if the server closes."""
    received = b""
    frames: list[bytes] = []
    while len(frames) < count:
        if len(received) >= 2 and len(received) >= 2 + int.from_bytes(received[:2], "big"):
            end = 2 + int.from_bytes(received[:2], "big")
            frames.append(received[2:end])
            received = received[end:]
        elif chunk := sock.recv(65536):
            received += chunk
        else:
            break
    return frames


# -- RFC 8906, section 8 -----------------------------------------------------------------------------------------------

PLAIN = "QR AA RD RA"
DO = int(dns.flags.DO)


def generic(code: int, data: bytes) -> dns.edns.Option:
    return dns.edns.GenericOption(dns.edns.OptionType.make(code), data)


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize(
    ("name", "qtype", "flags", "edns", "rcode", "answers"),
    [
        ("web.blue", "A", 0x0100, None, "NOERROR", 1),
        ("web.blue", "SOA", 0x0100, None, "NOERROR", 0),
        ("web.blue", "TYPE1000", 0x0100, None, "NOERROR", 0),
        ("web.blue", "TYPE65535", 0x0100, None, "NOERROR", 0),
        ("nobody.blue", "A", 0x0100, None, "NXDOMAIN", 0),
        ("nobody.blue", "TYPE1000", 0x0100, None, "NXDOMAIN", 0),
        ("web.blue", "A", 0x0110, None, "NOERROR", 1),  # CD
        ("web.blue", "A", 0x0120, None, "NOERROR", 1),  # AD
        ("web.blue", "A", 0x0140, None, "NOERROR", 1),  # the reserved bit
        ("web.blue", "A", 0x0100, (0, 0, b""), "NOERROR", 1),
        ("web.blue", "A", 0x0100, (0, DO, b""), "NOERROR", 1),
        ("web.blue", "A", 0x0100, (0, 0x40, b""), "NOERROR", 1),  # an unknown flag
        ("web.blue", "A", 0x0100, (0, 0, b"option"), "NOERROR", 1),
        ("web.blue", "A", 0x0100, (1, 0, b""), "BADVERS", 0),
        ("web.blue", "A", 0x0100, (1, 0x40, b""), "BADVERS", 0),
        ("web.blue", "A", 0x0100, (1, 0, b"option"), "BADVERS", 0),
        ("web.blue", "A", 0x0100, (1, DO, b""), "BADVERS", 0),
    ],
)
def test_compliance(
    kit: Kit,
    name: str,
    qtype: str,
    flags: int,
    edns: tuple[int, int, bytes] | None,
    rcode: str,
    answers: int,
    tcp: bool,
) -> None:
    """No probe is left unanswered; codes, OPT and flags are what ISC's checker calls ok."""
    query = dns.message.make_query(name, qtype)
    query.flags = dns.flags.Flag(flags)
    if edns is not None:
        options: list[dns.edns.Option] = [generic(100, edns[2]), generic(65001, b"")] if edns[2] else []
        query.use_edns(edns[0], edns[1], 1232, options=options)
    for _ in range(2):  # the second time from the cache
        reply = kit.exchange(query, tcp)
        assert (rcode, answers) == (dns.rcode.to_text(reply.rcode()), sum(len(rrset) for rrset in reply.answer))
        assert dns.flags.to_text(reply.flags) == (PLAIN if rcode != "BADVERS" else "QR RD RA")
        assert not reply.to_wire()[3] & 0x40
        assert (edns is None) == (reply.edns == -1)
        if edns is not None:
            assert (0, limits.DNS_UDP_BYTES, (), edns[1] & DO) == (
                reply.edns,
                reply.payload,
                reply.options,
                reply.ednsflags & DO,
            )


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("opcode", [1, 2, 4, 5, 6, 15])
def test_other_opcodes(kit: Kit, opcode: int, tcp: bool) -> None:
    """NOTIMP, with the opcode that was asked for."""
    query = dns.message.make_query("web.blue", "A")
    wire = bytearray(query.to_wire())
    wire[2] = opcode << 3 | 1
    sock = kit.connect() if tcp else udp_client(kit.port)
    with sock:
        sock.sendall(frame(bytes(wire)) if tcp else bytes(wire))
        reply = read_frames(sock, 1)[0] if tcp else sock.recv(4096)
    assert (bytes(wire[:2]), opcode, 4) == (reply[:2], reply[2] >> 3 & 15, reply[3] & 15)


def test_other_classes_and_transfers(kit: Kit) -> None:
    """REFUSED: CHAOS, ANY, and what would be a zone transfer."""
    for query in (
        dns.message.make_query("version.bind", "TXT", dns.rdataclass.CH),
        dns.message.make_query("web.blue", "A", dns.rdataclass.ANY),
        dns.message.make_query("blue", "AXFR"),
    ):
        assert dns.rcode.REFUSED == kit.exchange(query, tcp=True).rcode()


def test_truncation(kit: Kit) -> None:
    """More addresses than fit: TC over UDP, all of them over TCP, never more than the client takes."""
    kit.put("many", *(f"10.88.1.{n}" for n in range(200)))
    assert kit.ask("many").flags & dns.flags.TC
    assert 200 == len(kit.ask("many", tcp=True).answer[0])
    big = dns.message.make_query("many", "A", use_edns=0, payload=4096)
    with udp_client(kit.port) as sock:
        sock.send(big.to_wire())
        assert len(sock.recv(65535)) <= limits.DNS_UDP_BYTES


def udp_client(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((LOOPBACK, port))
    sock.settimeout(PATIENCE)
    return sock


# -- change ------------------------------------------------------------------------------------------------------------


def test_a_change_is_in_force_when_the_call_returns(kit: Kit) -> None:
    """No kept answer survives its endpoint, or hides a new address."""
    for number in range(200):
        assert ["10.88.0.2"] == kit.addresses("web")
        record = kit.put("web", f"10.88.2.{number}")
        assert [f"10.88.2.{number}"] == kit.addresses("WEB.blue")
        kit.zone.remove(record.endpoint_id)
        assert dns.rcode.NXDOMAIN == kit.ask("web").rcode()
        kit.put("web", "10.88.0.2")
    assert kit.server.statistics().totals.answered >= 400


def test_answers_are_kept(kit: Kit) -> None:
    """The second client with the same question is served from the cache, in its own letters."""
    other = NetworkZone("r", "red")
    for name in ("web.blue", "WEB.blue", "web.BLUE"):
        reply = kit.ask(name)
        assert name + "." == reply.question[0].name.to_text()
        other.put(NameRecord(name, name, "r", "red"))
    assert (2, 1) == (kit.server.statistics().totals.cached, kit.server.statistics().totals.answered)


def test_addresses_take_turns(kit: Kit) -> None:
    """Round robin over a shared name, from the cache too."""
    kit.put("pool", "10.88.0.5", "10.88.0.6", "10.88.0.7")
    firsts = [kit.addresses("pool")[0] for _ in range(6)]
    assert 3 == len(set(firsts[:3]))
    assert firsts[:3] == firsts[3:]


def test_views_change_when_update_returns(kit: Kit) -> None:
    """A network that was left is not seen any more, kept answers included; a joined one is."""
    red = NetworkZone("r" * 64, "red")
    red.put(NameRecord("r" * 64, "web", "r" * 64, "red", addresses=(ipaddress.ip_address("10.99.0.2"),)))
    for _ in range(3):
        assert ["10.88.0.2"] == kit.addresses("web")
        kit.server.update("box", SandboxView((red, kit.zone)))
        assert ["10.99.0.2"] == kit.addresses("web")
        kit.server.update("box", SandboxView((kit.zone,)))


def test_sandboxes_see_their_own(kit: Kit) -> None:
    """One server, two sandboxes, two truths."""
    other = kit.attach("other", SandboxView())
    assert ["10.88.0.2"] == kit.addresses("web")
    assert dns.rcode.NXDOMAIN == kit.ask("web", port=other).rcode()


def test_detach_ends_it(kit: Kit) -> None:
    """After detach the port is free; detaching again is nothing."""
    idle = kit.connect()
    kit.ask("web", tcp=True)
    kit.server.detach("box")
    kit.server.detach("box")
    assert (0, 0) == (kit.server.statistics().sandboxes, kit.server.statistics().connections_open)
    with idle, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert b"" == idle.recv(1)
        sock.bind((LOOPBACK, kit.port))


def test_misuse(kit: Kit) -> None:
    """Typed errors, and what was refused stays the caller's."""
    udp, tcp = sockets()
    with udp, tcp:
        with pytest.raises(AlreadyExists):
            kit.server.attach("box", udp, tcp, SandboxView())
        with pytest.raises(NotFound):
            kit.server.update("nobody", SandboxView())
        with pytest.raises(Invalid):
            kit.server.attach("new", udp, udp, SandboxView())
        kit.server.close()
        kit.server.close()
        for call in (lambda: kit.server.attach("new", udp, tcp, SandboxView()), lambda: kit.server.detach("box")):
            with pytest.raises(Unavailable):
                call()
        assert udp.fileno() >= 0
    assert not kit.server.statistics().running


def test_attach_and_detach_from_many_threads(kit: Kit) -> None:
    """The calls of several threads are taken one after the other; nothing is lost or left."""

    def churn(name: str) -> None:
        for round_ in range(20):
            kit.attach(f"{name}{round_}", SandboxView((kit.zone,)))
            kit.server.detach(f"{name}{round_}")

    threads = [threading.Thread(target=churn, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == kit.server.statistics().sandboxes


# -- TCP ---------------------------------------------------------------------------------------------------------------

QUERY = dns.message.make_query("web.blue", "A").to_wire()


def test_pipelined_queries(kit: Kit) -> None:
    """Any number of queries on one connection, in one piece or octet by octet, each with its own reply."""
    queries = [struct.pack("!H", number) + QUERY[2:] for number in range(300)]
    with kit.connect() as sock:
        sock.sendall(b"".join(map(frame, queries)))
        assert list(range(300)) == [int.from_bytes(reply[:2], "big") for reply in read_frames(sock, 300)]
        for octet in frame(QUERY):
            sock.send(bytes([octet]))
        assert QUERY[:2] == read_frames(sock, 1)[0][:2]
    kit.until(lambda s: s.connections_open == 0)


def test_a_client_that_ends_its_side_first_gets_its_replies(kit: Kit) -> None:
    """Half-closed is not closed; half a query at the end is nothing."""
    with kit.connect() as sock:
        sock.sendall(frame(QUERY) * 5 + frame(QUERY)[:-3])
        sock.shutdown(socket.SHUT_WR)
        assert 5 == len(read_frames(sock, 6))


@pytest.mark.parametrize("piece", [b"", b"\0", frame(QUERY)[:7], frame(QUERY) + b"\0"])
def test_a_truncated_query_and_a_reset(kit: Kit, piece: bytes) -> None:
    """CVE-2026-35406: the connection is gone at once, and the thread does not spin."""
    sock = kit.connect()
    sock.sendall(piece)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    kit.until(lambda s: s.connections_open == 0 and s.totals.connections == 1)
    assert ["10.88.0.2"] == kit.addresses("web")


@pytest.mark.parametrize("length", [0, 11, 4097, 65535])
def test_a_length_that_no_query_has_ends_the_connection(kit: Kit, length: int) -> None:
    """No memory is held for 64 KiB, and empty messages keep nothing alive."""
    with kit.connect() as sock:
        sock.sendall(length.to_bytes(2, "big") + bytes(100))
        with contextlib.suppress(ConnectionResetError):
            assert b"" == sock.recv(1)


@pytest.mark.parametrize("piece", [b"", frame(QUERY)[:1], frame(QUERY)[:9]])
def test_idle_and_slow_connections_are_closed(kit: Kit, piece: bytes) -> None:
    """An octet now and then does not keep a connection (slow loris)."""
    with kit.connect() as sock:
        kit.until(lambda s: s.connections_open == 1)
        for _ in range(3):
            sock.sendall(piece[:1])
            piece = piece[1:]
            kit.pass_time(IDLE_SECONDS / 4)
        assert 1 == kit.server.statistics().connections_open
        kit.pass_time(IDLE_SECONDS / 2)
        kit.until(lambda s: s.totals.timed_out == 1)


def test_a_busy_connection_ends_too(kit: Kit) -> None:
    """Queries keep it, until its time is over."""
    with kit.connect() as sock:
        for _ in range(int(TOTAL_SECONDS / 8) - 1):
            sock.sendall(frame(QUERY))
            assert read_frames(sock, 1)
            kit.pass_time(8)
        assert 1 == kit.server.statistics().connections_open
        kit.pass_time(17)
        kit.until(lambda s: s.totals.timed_out == 1)


def test_a_client_that_does_not_read(kit: Kit) -> None:
    """It is not read from any more, and closed in time; it never costs more memory than a bounded buffer."""
    kit.put("many", *(f"10.88.{net}.{n}" for net in range(4) for n in range(1, 250)))
    query = frame(dns.message.make_query("many.blue", "A").to_wire())
    with kit.connect() as sock:
        sock.setblocking(False)
        poller = select.poll()
        poller.register(sock, select.POLLOUT)
        while poller.poll(200):
            sock.send(query * 100)
        kit.pass_time(IDLE_SECONDS + 1)
        kit.until(lambda s: s.totals.timed_out == 1)
    assert ["10.88.0.2"] == kit.addresses("web")


def test_the_oldest_idle_connection_makes_room(kit: Kit) -> None:
    """At most the quota for a sandbox; who comes last is served, who did nothing longest goes."""
    clients = [kit.connect() for _ in range(limits.DNS_TCP_CONNECTIONS)]
    kit.until(lambda s: s.connections_open == limits.DNS_TCP_CONNECTIONS)
    clients[0].sendall(frame(QUERY))
    assert read_frames(clients[0], 1)
    clients.append(kit.connect())
    clients[-1].sendall(frame(QUERY))
    assert read_frames(clients[-1], 1)
    assert (limits.DNS_TCP_CONNECTIONS, 1) == (
        kit.server.statistics().connections_open,
        kit.server.statistics().totals.evicted,
    )
    assert b"" == clients[1].recv(1)
    clients[0].sendall(frame(QUERY))
    assert read_frames(clients[0], 1)
    for client in clients:
        client.close()


# -- abuse -------------------------------------------------------------------------------------------------------------


def test_noise(kit: Kit) -> None:
    """Garbage, stumps and responses cost nothing but their own time; a clean query is answered in between."""
    rng = random.Random(7)
    with udp_client(kit.port) as sock:
        for number in range(2000):
            noise = bytearray(QUERY + rng.randbytes(rng.randrange(20)))
            noise[rng.randrange(len(noise))] = rng.randrange(256)
            sock.send(
                bytes(noise)[: rng.randrange(1, len(noise) + 1)] if number % 2 else rng.randbytes(rng.randrange(1, 600))
            )
            if number % 100 == 0:
                assert ["10.88.0.2"] == kit.addresses("web")
    assert 0 == kit.server.statistics().faults


def test_internal_sandboxes_send_nothing_upstream(kit: Kit) -> None:
    """No name whatever makes a sandbox without forwarding open a socket (CVE-2024-29018)."""
    for number in range(300):
        assert dns.rcode.NXDOMAIN == kit.ask(f"x{number}.example.org").rcode()
    assert [] == kit.opened
