"""Writes replies. Pure; knows the message format and no names.

A reply begins with what the client said (id, question in the client's own case) and goes on with what everybody with
the same question gets, so the second part can be kept: :class:`Reply`. Flags: QR; AA for names of ours; RA always
(glibc takes an empty reply without it for a referral); RD as asked; AD, CD and Z never (RFC 4035 3.1.6, RFC 8906). The
TTL is :data:`~libcnm.model.limits.DNS_TTL_SECONDS`. Negative replies carry no SOA, hence nobody keeps them (RFC 2308
5): a name appears the moment it exists. OPT is answered with OPT, DO echoed, options not (RFC 6891 6.1.1).
"""

from __future__ import annotations

import struct

from libcnm.contracts.resolver import Answer, Rcode, RecordType
from libcnm.dns.question import CLASS_IN, DO, HEADER_OCTETS, OPT, Question
from libcnm.dns.rdata import pointer
from libcnm.model import limits

TCP_OCTETS = 65535
"""The two-octet length before a message over TCP (RFC 1035 4.2.2)."""

_COUNTS = struct.Struct("!HHHHH")
_QR, _AA, _TC, _RD, _RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
_OPCODE_RD = 0x7900


class Reply:
    """Everything of a reply but id and question. Several addresses take turns at being first, one step for each use."""

    __slots__ = ("_body", "_head", "_opt", "_step", "_turn", "_turns", "_window")

    def __init__(
        self, head: bytes, records: bytes, opt: bytes, *, step: int = 0, window: int = 0, start: int = 0
    ) -> None:
        """``records`` of ``step`` octets each take turns, ``window`` octets at a time; without ``step`` they stand."""
        self._head = head
        self._opt = opt
        self._step = step
        self._turns = len(records)
        self._turn = start * step
        self._window = window
        self._body = records + records if step else records + opt

    def fill(self, message_id: bytes, wire: bytes) -> bytes:
        """The whole message for a client that sent this id and this question section."""
        if not self._step:
            return b"".join((message_id, self._head, wire, self._body))
        turn = self._turn
        self._turn = (turn + self._step) % self._turns
        return b"".join((message_id, self._head, wire, self._body[turn : turn + self._window], self._opt))


def compose(question: Question, answer: Answer, octets: int, start: int = 0) -> Reply:
    """The reply of at most ``octets`` octets; records that do not fit are left out, and TC says so.

    ``start`` (from 0) says which of several addresses comes first the first time; it is taken modulo their number.
    Raises :class:`~libcnm.errors.Invalid` for an answer whose names cannot be said in DNS.
    """
    records = _records(question, answer)
    opt = _opt(question, answer.rcode)
    room = octets - HEADER_OCTETS - len(question.wire) - len(opt)
    fitting, used = 0, 0
    for record in records:
        if used + len(record) > room:
            break
        fitting, used = fitting + 1, used + len(record)
    flags = _QR | _RA | (question.flags & _RD) | (answer.rcode & 15)
    flags |= (_AA if answer.authoritative else 0) | (_TC if fitting < len(records) else 0)
    head = _COUNTS.pack(flags, 1, fitting, 0, 1 if opt else 0)
    if len(records) > 1 and not answer.names and len({len(record) for record in records}) == 1:
        step = len(records[0])
        return Reply(head, b"".join(records), opt, step=step, window=used, start=start % len(records))
    return Reply(head, b"".join(records[:fitting]), opt)


def say(question: Question, rcode: Rcode) -> bytes:
    """A reply with nothing but a code, not authoritative."""
    answer = Answer(rcode=rcode, authoritative=False)
    return compose(question, answer, TCP_OCTETS).fill(question.id, question.wire)


def say_raw(data: bytes, rcode: Rcode) -> bytes:
    """A header alone, for a query whose question was not understood; ``data`` has a readable header."""
    flags = _QR | _RA | (int.from_bytes(data[2:4], "big") & _OPCODE_RD) | rcode
    return data[:2] + _COUNTS.pack(flags, 0, 0, 0, 0)


def say_truncated(question: Question, reply: bytes) -> bytes:
    """``reply`` (a whole message) without its records and with TC, for a client that cannot take all of it over UDP."""
    opt = _opt(question, Rcode.NOERROR)
    flags = int.from_bytes(reply[2:4], "big") | _TC
    return question.id + _COUNTS.pack(flags, 1, 0, 0, 1 if opt else 0) + question.wire + opt


def _records(question: Question, answer: Answer) -> list[bytes]:
    """The answer section; what is not of the type asked for is left out, so that a backend need not sort."""
    asked = question.type
    records: list[bytes] = []
    for version, rtype, start in ((4, RecordType.A, _A_START), (6, RecordType.AAAA, _AAAA_START)):
        if asked in (rtype, RecordType.ANY):
            records += [start + address.packed for address in answer.addresses if address.version == version]
    if asked in (RecordType.PTR, RecordType.ANY):
        targets = map(pointer, answer.names)
        records += [_record_start(RecordType.PTR, len(target)) + target for target in targets]
    return list(dict.fromkeys(records))


def _record_start(rtype: RecordType, octets: int) -> bytes:
    return b"\xc0\x0c" + struct.pack("!HHIH", rtype, CLASS_IN, limits.DNS_TTL_SECONDS, octets)


# The owner is a pointer to the question's name, which always stands right after the header.
_A_START = _record_start(RecordType.A, 4)
_AAAA_START = _record_start(RecordType.AAAA, 16)


def _opt(question: Question, rcode: int) -> bytes:
    """Our OPT record: nothing if the client sent none; its second field is the size of datagram that *we* take."""
    if question.edns is None:
        return b""
    return OPT.pack(0, RecordType.OPT, limits.DNS_UDP_BYTES, rcode >> 4, 0, DO if question.edns.dnssec_ok else 0, 0)
