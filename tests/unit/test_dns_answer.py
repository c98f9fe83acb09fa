"""Replies: as dnspython reads them, to the octet; size limits, truncation, turns, and what is never set."""

from __future__ import annotations

import ipaddress

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libcnm.contracts.resolver import Answer, Rcode
from libcnm.dns.answer import TCP_OCTETS, compose, say, say_raw, say_truncated
from libcnm.dns.cache import ReplyCache
from libcnm.dns.question import parse
from libcnm.errors import Invalid
from libcnm.model import limits


def ask(name: str = "Web.Blue", qtype: str = "A", edns: int | None = None, do: bool = False) -> bytes:
    query = dns.message.make_query(name, qtype, use_edns=edns is not None, payload=edns or 0, want_dnssec=do)
    return query.to_wire()


def addresses(count: int, version: int = 4) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...]:
    first = ipaddress.ip_address("10.0.0.1" if version == 4 else "fd00::1")
    return tuple(first + number for number in range(count))


def reply(data: bytes, answer: Answer, octets: int | None = None, start: int = 0) -> dns.message.Message:
    question = parse(data)
    wire = compose(question, answer, octets or question.udp_octets(), start).fill(question.id, question.wire)
    message = dns.message.from_wire(wire)
    assert dns.message.from_wire(data).is_response(message)
    return message


def texts(message: dns.message.Message) -> list[str]:
    return [record.to_text() for rrset in message.answer for record in rrset]


def test_an_address() -> None:
    """AA and RA and the client's RD, our TTL, the question in the client's case."""
    message = reply(ask(), Answer(addresses=addresses(1)))
    assert "QR AA RD RA" == dns.flags.to_text(message.flags)
    assert (["10.0.0.1"], limits.DNS_TTL_SECONDS) == (texts(message), message.answer[0].ttl)
    assert b"\3Web\4Blue" in message.to_wire()


def test_the_flags_of_a_query_are_not_echoed() -> None:
    """AD, CD, AA, TC, RA and Z of a query say nothing about the reply (RFC 8906 8.1)."""
    data = bytearray(ask())
    data[2] |= 0x06
    data[3] |= 0xF0
    message = reply(bytes(data), Answer(addresses=addresses(1)))
    assert "QR AA RD RA" == dns.flags.to_text(message.flags)
    assert not message.to_wire()[3] & 0x40


def test_only_the_type_asked_for_is_sent() -> None:
    """A backend may say all it knows."""
    everything = Answer(addresses=addresses(2) + addresses(2, 6), names=("web.blue",))
    assert ["10.0.0.1", "10.0.0.2"] == texts(reply(ask(), everything))
    assert ["fd00::1", "fd00::2"] == texts(reply(ask(qtype="AAAA"), everything))
    assert ["web.blue."] == texts(reply(ask("1.0.0.10.in-addr.arpa", "PTR"), everything))
    assert [] == texts(reply(ask(qtype="MX"), everything))


def test_a_name_that_dns_cannot_say() -> None:
    """Is refused with our error, for the responder to catch."""
    with pytest.raises(Invalid):
        reply(ask(qtype="PTR"), Answer(names=("a" * 64,)))


@pytest.mark.parametrize("rcode", list(Rcode))
def test_every_code_is_sent_as_dnspython_reads_it(rcode: Rcode) -> None:
    """BADVERS in two halves; without EDNS in the query there is no OPT."""
    data = ask(edns=1232, do=True)
    message = dns.message.from_wire(say(parse(data), rcode))
    assert (int(rcode), 0, limits.DNS_UDP_BYTES) == (message.rcode(), message.edns, message.payload)
    assert message.ednsflags & dns.flags.DO
    assert not message.flags & dns.flags.AA
    if rcode != Rcode.BADVERS:
        assert -1 == dns.message.from_wire(say(parse(ask()), rcode)).edns


def test_a_header_alone() -> None:
    """For a question that could not be read: id, opcode and RD come back, nothing else."""
    message = dns.message.from_wire(say_raw(b"\xab\xcd\x79\xff" + bytes(8), Rcode.NOTIMP))
    assert (0xABCD, 15, dns.rcode.NOTIMP, []) == (message.id, message.opcode(), message.rcode(), message.question)
    assert "QR RD RA" == dns.flags.to_text(message.flags)


@given(st.integers(0, 120), st.sampled_from([None, 0, 512, 700, 1232, 4096]), st.sampled_from([4, 6]))
def test_a_datagram_never_exceeds_the_limit(count: int, edns: int | None, version: int) -> None:
    """As many whole records as fit; TC exactly when some did not."""
    data = ask(qtype="A" if version == 4 else "AAAA", edns=edns)
    message = reply(data, Answer(addresses=addresses(count, version)))
    limit = 512 if edns is None else max(512, min(edns, limits.DNS_UDP_BYTES))
    record = 16 if version == 4 else 28
    room = (limit - len(data)) // record
    assert min(count, room) == len(texts(message))
    assert (count > room) == bool(message.flags & dns.flags.TC)
    assert len(message.to_wire()) <= limit


def test_tcp_takes_a_thousand_addresses() -> None:
    """64 KiB hold all endpoints of the largest bridge."""
    message = reply(ask(qtype="AAAA"), Answer(addresses=addresses(1000, 6)), TCP_OCTETS)
    assert (1000, False) == (len(texts(message)), bool(message.flags & dns.flags.TC))


def test_addresses_take_turns() -> None:
    """One kept reply gives each address its turn at being first, from the given start, also when not all fit."""
    question = parse(ask())
    kept = compose(question, Answer(addresses=addresses(50)), 512, start=48)
    firsts = []
    for _ in range(4):
        message = dns.message.from_wire(kept.fill(question.id, question.wire))
        firsts.append(message.answer[0][0].to_text())
        assert message.flags & dns.flags.TC
    assert ["10.0.0.49", "10.0.0.50", "10.0.0.1", "10.0.0.2"] == firsts


def test_an_upstream_reply_cut_for_udp() -> None:
    """The client's id, question and OPT, no records, TC: it comes again over TCP."""
    data = ask(edns=600, do=True)
    upstream = dns.message.make_response(dns.message.from_wire(data), recursion_available=True)
    message = dns.message.from_wire(say_truncated(parse(data), upstream.to_wire()))
    assert dns.message.from_wire(data).is_response(message)
    assert message.flags & dns.flags.TC
    assert (0, limits.DNS_UDP_BYTES) == (message.edns, message.payload)


def test_the_cache_is_bounded_and_stamped() -> None:
    """At most two halves; what is used stays; nothing outlives its stamp."""
    cache = ReplyCache(2)
    replies = [compose(parse(ask()), Answer(addresses=addresses(n)), 512) for n in range(1, 10)]
    for number, kept in enumerate(replies):
        cache.put(bytes([number]), 1, kept)
        assert replies[0] is cache.get(b"\0", 1)
        assert len(cache) <= 4
    assert cache.get(b"\1", 1) is None
    assert replies[8] is cache.get(b"\x08", 1)
    assert cache.get(b"\x08", 2) is None
    cache.clear()
    assert 0 == len(cache)
