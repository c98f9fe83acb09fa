"""Netlink attributes and messages of nf_tables, as bytes: packing and taking apart, and the kernel's numbers for them.

Knows the wire and nothing else: no sockets, none of our chains. Law: include/uapi/linux/netfilter/nf_tables.h,
include/uapi/linux/netfilter/nfnetlink.h, include/uapi/linux/netlink.h. Attributes are in network byte order, headers in
the host's.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Final

INET: Final = 1
"""NFPROTO_INET: a table for IPv4 and IPv6."""
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x200, 0x400, 0x800
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSG_ERROR, NLMSG_DONE = 2, 3
BATCH_BEGIN, BATCH_END = 0x10, 0x11
NLA_TYPE_MASK: Final = 0x3FFF
NESTED: Final = 0x8000

(
    NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN, DELCHAIN, NEWRULE, GETRULE, DELRULE,
    NEWSET, GETSET, DELSET, NEWSETELEM, GETSETELEM, DELSETELEM, NEWGEN, GETGEN,
) = range(17)  # fmt: skip

TABLE_NAME, TABLE_FLAGS, TABLE_USERDATA = 1, 2, 6
CHAIN_TABLE, CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE, CHAIN_USERDATA = 1, 3, 4, 5, 7, 12
HOOK_HOOKNUM, HOOK_PRIORITY = 1, 2
RULE_TABLE, RULE_CHAIN, RULE_EXPRESSIONS = 1, 2, 4
LIST_ELEM, EXPR_NAME, EXPR_DATA, DATA_VALUE, DATA_VERDICT = 1, 1, 2, 1, 2
SET_TABLE, SET_NAME, SET_FLAGS, SET_KEY_TYPE, SET_KEY_LEN, SET_DATA_TYPE, SET_DATA_LEN = 1, 2, 3, 4, 5, 6, 7
SET_DESC, SET_ID, SET_USERDATA, SET_DESC_CONCAT, SET_FIELD_LEN = 9, 10, 13, 2, 1
ELEM_LIST_TABLE, ELEM_LIST_SET, ELEM_LIST_ELEMENTS = 1, 2, 3
ELEM_KEY, ELEM_DATA, ELEM_FLAGS, ELEM_KEY_END = 1, 2, 3, 10
GEN_ID: Final = 1
BATCH_GENID: Final = 1
NLMSGERR_ATTR_MSG: Final = 1

_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_GENERIC: Final = struct.Struct("!BBH")  # struct nfgenmsg: family, version, res_id
_SUBSYSTEM: Final = 10  # NFNL_SUBSYS_NFTABLES
_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")

Attributes = dict[int, bytes]
"""Payloads by attribute type, flags stripped. A type that repeats (lists) is read with :func:`items` instead."""


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four octets."""
    length = len(payload)
    return _ATTRIBUTE.pack(length + 4, kind) + payload + _PADDING[length & 3]


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute made of attributes."""
    return attribute(kind | NESTED, b"".join(parts))


def number(kind: int, value: int) -> bytes:
    """A 32-bit number; negative ones (priorities, verdicts) as two's complement."""
    return attribute(kind, struct.pack("!I", value & 0xFFFFFFFF))


def text(kind: int, value: str) -> bytes:
    """A string with its terminating NUL."""
    return attribute(kind, value.encode() + b"\0")


def message(operation: int, body: bytes, flags: int = 0, family: int = INET) -> bytearray:
    """One nf_tables request, its sequence number still 0: see :func:`number_message`."""
    header = _HEADER.pack(20 + len(body), _SUBSYSTEM << 8 | operation, NLM_F_REQUEST | flags, 0, 0)
    return bytearray(header + _GENERIC.pack(family, 0, 0) + body)


def batch_edge(kind: int, body: bytes = b"") -> bytearray:
    """The message that begins or ends a transaction."""
    return bytearray(
        _HEADER.pack(20 + len(body), kind, NLM_F_REQUEST, 0, 0) + _GENERIC.pack(socket.AF_UNSPEC, 0, _SUBSYSTEM) + body
    )


def number_message(packed: bytearray, sequence: int, *, acknowledge: bool = False) -> None:
    """Write the sequence number, by which replies are told apart, and if wanted the request for a reply."""
    struct.pack_into("=I", packed, 8, sequence)
    if acknowledge:
        [flags] = struct.unpack_from("=H", packed, 6)
        struct.pack_into("=H", packed, 6, flags | NLM_F_ACK)


def messages(datagram: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence and body of each message in a datagram."""
    offset, end = 0, len(datagram)
    while offset + 16 <= end:
        length, kind, flags, sequence, _ = _HEADER.unpack_from(datagram, offset)
        if length < 16 or offset + length > end:
            return
        yield kind, flags, sequence, datagram[offset + 16 : offset + length]
        offset += length + 3 & ~3


def items(payload: bytes, offset: int = 0, *, keep_flags: bool = False) -> Iterator[tuple[int, bytes]]:
    """Type (without its flags, unless they are to be kept) and payload of each attribute from ``offset`` on, in
    order.
    """
    mask = 0xFFFF if keep_flags else NLA_TYPE_MASK
    end = len(payload)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < 4 or offset + length > end:
            return
        yield kind & mask, payload[offset + 4 : offset + length]
        offset += length + 3 & ~3


def attributes(payload: bytes, offset: int = 0) -> Attributes:
    """The attributes by type."""
    return dict(items(payload, offset))


def covers(read: bytes, meant: bytes) -> bool:
    """Whether every attribute that was ``meant`` is in what was ``read``, with the same payload.

    The kernel leaves out the flag for nesting in what it writes, so ours says where to look deeper. Not for lists.
    """
    found = attributes(read)
    for kind, payload in items(meant, keep_flags=True):
        held = found.get(kind & NLA_TYPE_MASK)
        if held is None or not (covers(held, payload) if kind & NESTED else held == payload):
            return False
    return True


def to_text(payload: bytes) -> str:
    """A string attribute without its NUL; what is not UTF-8 is kept readable, it is somebody else's anyway."""
    return payload.rstrip(b"\0").decode(errors="backslashreplace")


def to_number(payload: bytes) -> int:
    """An unsigned number in network byte order."""
    return int.from_bytes(payload, "big")


def error_of(flags: int, body: bytes) -> tuple[int, str | None]:
    """Errno (0: acknowledged) and the kernel's own words out of an NLMSG_ERROR."""
    errno = -struct.unpack_from("=i", body)[0]
    if not flags & NLM_F_ACK_TLVS:
        return errno, None
    asked = struct.unpack_from("=I", body, 4)[0]
    start = 20 if flags & NLM_F_CAPPED else 4 + (asked + 3 & ~3)
    words = attributes(body, start).get(NLMSGERR_ATTR_MSG)
    return errno, None if words is None else to_text(words)
