"""Reads a query: the hot path's own parser. Pure; never loops, never looks outside the datagram, never trusts a count.

The law: RFC 1035 4.1, RFC 6891 6 (EDNS), RFC 9619 (exactly one question), RFC 9267 (how parsers go wrong). A response
is never answered, whatever else is wrong with it, so two servers cannot be set at each other.

What one query asks is also said by its *key*: the header after the id, the question in lower case, and the OPT record
without options. Equal keys get equal answers. :func:`quick_key` makes the key of an ordinary query without parsing it.
"""

from __future__ import annotations

import struct

import attrs

from libcnm.contracts.resolver import Rcode, RecordType
from libcnm.dns.names import NAME_OCTETS, decode
from libcnm.errors import CnmError
from libcnm.model import limits

HEADER_OCTETS = 12
CLASS_IN = 1
PLAIN_UDP_OCTETS = 512
"""What a client without EDNS takes over UDP (RFC 1035 2.3.4); EDNS sizes below it count as this (RFC 6891 6.2.3)."""

_HEADER = struct.Struct("!HHHHHH")
_TYPE_CLASS = struct.Struct("!HH")
OPT = struct.Struct("!BHHBBHH")
"""Root name, type, UDP size, extended code, version, flags (DO is the highest), length of the options."""
_RESPONSE = 0x8000
_OPCODE = 0x7800
DO = 0x8000


class BadQuery(CnmError):
    """A datagram that is no query we answer. ``rcode`` is what to say about it; None: say nothing at all."""

    code, http_status = "bad-query", 400

    def __init__(self, reason: str, rcode: Rcode | None, question: Question | None = None) -> None:
        super().__init__(reason)
        self.rcode = rcode
        self.question = question


@attrs.frozen
class Edns:
    """The OPT record of a query (RFC 6891): the UDP size the client takes, DO, the version; options are not read."""

    size: int
    dnssec_ok: bool
    version: int


@attrs.frozen
class Question:
    """One well-formed query. ``wire`` is the question section as it came (its case is echoed), ``flags`` the 16 bits.

    ``name`` is the text form (see :mod:`libcnm.dns.names`). ``key`` is empty when answers to it must not be kept.
    """

    id: bytes
    flags: int
    name: str
    type: int
    wire: bytes
    edns: Edns | None
    key: bytes

    def udp_octets(self) -> int:
        """The largest datagram to answer with: what the client takes, at most ours, at least RFC 1035's."""
        if self.edns is None:
            return PLAIN_UDP_OCTETS
        return max(PLAIN_UDP_OCTETS, min(self.edns.size, limits.DNS_UDP_BYTES))


def quick_key(data: bytes) -> bytes:
    """What :attr:`Question.key` would be for a query without options; for anything else, bytes equal to no key.

    The first zero octet ends the name, unless a label holds one; such a name never has a key. Length octets are below
    64 and so no letters: lower() on the whole name changes only letters. The type must stay as it is (65 is not 97).
    """
    cut = data.find(0, HEADER_OCTETS)
    return data[2:HEADER_OCTETS] + data[HEADER_OCTETS:cut].lower() + data[cut:]


def parse(data: bytes) -> Question:
    """The query in ``data``. Raises :class:`BadQuery` and nothing else."""
    if len(data) < HEADER_OCTETS:
        raise BadQuery("shorter than a header", None)
    _, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(data)
    if flags & _RESPONSE:
        raise BadQuery("a response", None)
    if flags & _OPCODE:
        raise BadQuery("an opcode other than QUERY", Rcode.NOTIMP)
    if questions != 1 or answers or authorities or additionals > 1:
        raise BadQuery("not one question alone", Rcode.FORMERR)
    labels, end = _labels(data)
    if len(data) < end + _TYPE_CLASS.size:
        raise BadQuery("the question is cut short", Rcode.FORMERR)
    qtype, qclass = _TYPE_CLASS.unpack_from(data, end)
    end += _TYPE_CLASS.size
    edns = _edns(data, end) if additionals else None
    if edns is None and len(data) != end:
        raise BadQuery("octets after the end", Rcode.FORMERR)
    question = Question(
        id=data[:2],
        flags=flags,
        name=decode(labels),
        type=qtype,
        wire=data[HEADER_OCTETS:end],
        edns=edns,
        key=b"" if any(0 in label for label in labels) else _key(data, end, edns),
    )
    _refuse(question, qclass)
    return question


def _labels(data: bytes) -> tuple[list[bytes], int]:
    """The labels of the question's name, and where it ends. Compression makes no sense in a first name: refused."""
    labels: list[bytes] = []
    at = HEADER_OCTETS
    while True:
        if at >= len(data):
            raise BadQuery("the name is cut short", Rcode.FORMERR)
        length = data[at]
        at += 1
        if length == 0:
            return labels, at
        if length > 63:
            raise BadQuery("a pointer or an unknown kind of label", Rcode.FORMERR)
        labels.append(data[at : at + length])
        at += length
        if at - HEADER_OCTETS >= NAME_OCTETS:
            raise BadQuery("a name of more than 255 octets", Rcode.FORMERR)


def _edns(data: bytes, at: int) -> Edns:
    if len(data) < at + OPT.size:
        raise BadQuery("the additional record is cut short", Rcode.FORMERR)
    root, qtype, size, _, version, flags, length = OPT.unpack_from(data, at)
    if root != 0 or qtype != RecordType.OPT:
        raise BadQuery("an additional record other than OPT", Rcode.FORMERR)
    if len(data) != at + OPT.size + length:
        raise BadQuery("the length of the options is wrong", Rcode.FORMERR)
    end = len(data)
    at += OPT.size
    while at < end:
        at += 4 + int.from_bytes(data[at + 2 : at + 4], "big")
    if at != end:
        raise BadQuery("an option is cut short", Rcode.FORMERR)
    return Edns(size, bool(flags & DO), version)


def _key(data: bytes, end: int, edns: Edns | None) -> bytes:
    name_end = end - _TYPE_CLASS.size
    opt = b"" if edns is None else data[end : end + OPT.size - 2] + b"\0\0"
    return data[2:HEADER_OCTETS] + data[HEADER_OCTETS:name_end].lower() + data[name_end:end] + opt


def _refuse(question: Question, qclass: int) -> None:
    """Well-formed, and still not for us. The version comes first: the rest may mean something else in another one."""
    if question.edns is not None and question.edns.version:
        raise BadQuery("an EDNS version that we do not speak", Rcode.BADVERS, question)
    if question.type == RecordType.OPT:
        raise BadQuery("OPT is no type to ask for", Rcode.FORMERR)
    if qclass != CLASS_IN:
        raise BadQuery("a class other than IN", Rcode.REFUSED, question)
    if question.type in (RecordType.AXFR, RecordType.IXFR):
        raise BadQuery("zone transfers are not served", Rcode.REFUSED, question)
