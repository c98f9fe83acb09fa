"""Our table's structure in the kernel's terms: expressions over registers, and the messages that make and unmake it.

Expressions are packed in the form in which the kernel gives them back (registers, order), so that what was read can be
compared with what was meant attribute by attribute: :func:`same`. The meaning of the rules is
:mod:`libcnm.kernel.firewall_rules`' business. Law: include/uapi/linux/netfilter/nf_tables.h; what a rule looks like in
nft's own hands: ``nft --debug=netlink``.
"""

from __future__ import annotations

import functools
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from libcnm.kernel.firewall_rules import (
    Chain,
    CtState,
    CtTranslated,
    Datatype,
    Differs,
    Dnat,
    Expression,
    Family,
    Field,
    LocalDestination,
    Masquerade,
    Member,
    RuleBody,
    Set,
    SetMark,
    Verdict,
    Version,
    Within,
)
from libcnm.kernel.linux import nft_wire as wire

COMMENT: Final = "libcnm: all of this table is replaced at will, except chains and sets named user..."

WIDTHS: Final[dict[Datatype, int]] = {
    "ifname": 16, "nf_proto": 1, "inet_proto": 1, "inet_service": 2, "ipv4_addr": 4, "ipv6_addr": 16
}  # fmt: skip
_TYPE_NUMBERS: Final[dict[Datatype, int]] = {
    "nf_proto": 2, "ipv4_addr": 7, "ipv6_addr": 8, "inet_proto": 12, "inet_service": 13, "ifname": 41
}  # fmt: skip
_HOOKS: Final = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
_FAMILIES: Final[dict[Version, int]] = {4: socket.AF_INET, 6: socket.AF_INET6}
_CT_STATES: Final = {"established": 0x2, "related": 0x4}
_CT_STATE, _CT_STATUS, _IPS_DST_NAT = 0, 2, 0x20
_META_MARK, _META_NFPROTO = 3, 15
_META: Final[dict[Field, int]] = {"iifname": 6, "oifname": 7, "nfproto": _META_NFPROTO, "l4proto": 16}
_NETWORK, _TRANSPORT = 1, 2
_PAYLOAD: Final[dict[Field, tuple[int, int, int]]] = {
    "ip saddr": (_NETWORK, 12, 4),
    "ip daddr": (_NETWORK, 16, 4),
    "ip6 saddr": (_NETWORK, 8, 16),
    "ip6 daddr": (_NETWORK, 24, 16),
    "th dport": (_TRANSPORT, 2, 2),
}
_SET_INTERVAL, _SET_MAP, _SET_CONCAT = 0x4, 0x8, 0x80
_BYTEORDER_HOST, _BYTEORDER_BIG = 1, 2
_CMP_EQ, _CMP_NEQ = 0, 1
_HTON: Final = 1
_LOOKUP_FLAGS: Final = 5
_VERDICTS: Final = {"drop": 0, "accept": 1, "jump": -3, "goto": -4}


def register(slot: int) -> int:
    """The number of the 32-bit register ``slot`` (0-15), named by its 128-bit one where it begins it, as in dumps."""
    return 1 + slot // 4 if slot % 4 == 0 else 8 + slot


def slots(width: int) -> int:
    """How many 32-bit registers hold that many octets."""
    return (width + 3) // 4


# -- expressions -------------------------------------------------------------------------------------------------------


def _expression(name: str, *parts: bytes) -> bytes:
    return wire.nested(wire.LIST_ELEM, wire.text(wire.EXPR_NAME, name), wire.nested(wire.EXPR_DATA, *parts))


def _meta(key: int, slot: int = 0) -> bytes:
    return _expression("meta", wire.number(2, key), wire.number(1, register(slot)))


def _payload(base: int, offset: int, length: int, slot: int = 0) -> bytes:
    return _expression(
        "payload",
        wire.number(1, register(slot)),
        wire.number(2, base),
        wire.number(3, offset),
        wire.number(4, length),
    )


def _compare(value: bytes, operation: int = _CMP_EQ) -> bytes:
    data = wire.nested(3, wire.attribute(wire.DATA_VALUE, value))
    return _expression("cmp", wire.number(1, register(0)), wire.number(2, operation), data)


def _bitwise(mask: bytes, xor: bytes) -> bytes:
    return _expression(
        "bitwise",
        wire.number(1, register(0)),
        wire.number(2, register(0)),
        wire.number(3, len(mask)),
        wire.nested(4, wire.attribute(wire.DATA_VALUE, mask)),
        wire.nested(5, wire.attribute(wire.DATA_VALUE, xor)),
    )


def _any_bit(key: int, bits: int) -> bytes:
    load = _expression("ct", wire.number(2, key), wire.number(1, register(0)))
    return load + _bitwise(struct.pack("=I", bits), bytes(4)) + _compare(bytes(4), _CMP_NEQ)


def _load(field: Field, slot: int) -> tuple[bytes, int]:
    """The expression that loads a field, and the slot after it."""
    if field in _META:
        width = 16 if field.endswith("ifname") else 1
        loaded = _meta(_META[field], slot)
        if field == "nfproto":
            # nft takes it for a number of two octets and turns it round, which turns nothing round in one of one octet.
            numbers = (register(slot), register(slot), _HTON, 1, 2)  # from, to, how, the length, of each number
            loaded += _expression("byteorder", *(wire.number(1 + at, number) for at, number in enumerate(numbers)))
        return loaded, slot + slots(width)
    base, offset, width = _PAYLOAD[field]
    return _payload(base, offset, width, slot), slot + slots(width)


def _load_all(fields: Sequence[Field]) -> bytes:
    slot, packed = 0, b""
    for field in fields:
        loaded, slot = _load(field, slot)
        packed += loaded
    return packed


def _within(expression: Within) -> bytes:
    base, offset, width = _PAYLOAD[expression.field]
    block = expression.block
    octets, odd_bits = divmod(block.prefixlen, 8)
    if odd_bits:
        masked = _payload(base, offset, width) + _bitwise(block.netmask.packed, bytes(width))
        return masked + _compare(block.network_address.packed)
    return _payload(base, offset, octets) + _compare(block.network_address.packed[:octets])


def _lookup(set_name: str, *parts: bytes) -> bytes:
    return _expression("lookup", wire.text(1, set_name), wire.number(2, register(0)), *parts)


def _dnat(expression: Dnat) -> bytes:
    address, port = register(0), register(slots(4 if expression.version == 4 else 16))
    translate = _expression(
        "nat",
        wire.number(1, 1),  # NFT_NAT_DNAT
        wire.number(2, _FAMILIES[expression.version]),
        wire.number(3, address),
        wire.number(4, address),
        wire.number(5, port),
        wire.number(6, port),
    )
    return _load_all(expression.fields) + _lookup(expression.map, wire.number(3, register(0))) + translate


def _verdict(expression: Verdict) -> bytes:
    chain = wire.text(2, expression.chain) if expression.chain else b""
    data = wire.nested(wire.DATA_VERDICT, wire.number(1, _VERDICTS[expression.verdict]), chain)
    return _expression("immediate", wire.number(1, 0), wire.nested(2, data))


def _set_mark(bits: int) -> bytes:
    merge = _bitwise(struct.pack("=I", ~bits & 0xFFFFFFFF), struct.pack("=I", bits))
    return _meta(_META_MARK) + merge + _expression("meta", wire.number(2, _META_MARK), wire.number(3, register(0)))


def _pack(expression: Expression) -> bytes:
    match expression:
        case Family(version):
            return _meta(_META_NFPROTO) + _compare(bytes((_FAMILIES[version],)))
        case Differs(field, name):
            return _load(field, 0)[0] + _compare(name.encode().ljust(16, b"\0"), _CMP_NEQ)
        case Within():
            return _within(expression)
        case Member(fields, set_name, negate):
            return _load_all(fields) + _lookup(set_name, *([wire.number(_LOOKUP_FLAGS, 1)] if negate else []))
        case CtState(states):
            return _any_bit(_CT_STATE, sum(_CT_STATES[state] for state in states))
        case CtTranslated():
            return _any_bit(_CT_STATUS, _IPS_DST_NAT)
        case LocalDestination():
            # Flags: the destination; result: the address type; 2 is RTN_LOCAL.
            fib = _expression("fib", wire.number(1, register(0)), wire.number(2, 3), wire.number(3, 2))
            return fib + _compare(struct.pack("=I", 2))
        case SetMark(bits):
            return _set_mark(bits)
        case Dnat():
            return _dnat(expression)
        case Masquerade():
            return _expression("masq")
        case Verdict():
            return _verdict(expression)


def _family_of(expression: Expression) -> Version | None:
    match expression:
        case Within(field, _):
            fields: tuple[Field, ...] = (field,)
        case Member(fields, _, _):
            pass
        case Dnat(version, _, _):
            return version
        case _:
            return None
    if any(field.startswith("ip6 ") for field in fields):
        return 6
    return 4 if any(field.startswith("ip ") for field in fields) else None


@functools.cache
def pack_rule(rule: RuleBody) -> bytes:
    """The expressions of a rule. What names a field of one family is preceded by the question which family this is."""
    packed, known = b"", None
    for expression in rule:
        family = _family_of(expression)
        if family is not None and family != known:
            known = family
            packed += _pack(Family(family))
        packed += _pack(expression)
    return packed


# -- comparing what was read with what was meant -----------------------------------------------------------------------


def same(meant: bytes, read: bytes) -> bool:
    """Whether an expression list read from the kernel is the one that was sent.

    Attributes that the kernel adds (defaults that we do not send, and more with every release) do not count; whatever
    was sent must have come back as it was.
    """
    ours, theirs = list(wire.items(meant)), list(wire.items(read))
    return len(ours) == len(theirs) and all(
        _same_expression(one, other) for (_, one), (_, other) in zip(ours, theirs, strict=True)
    )


def _same_expression(meant: bytes, read: bytes) -> bool:
    if not wire.covers(read, meant):
        return False
    if wire.attributes(meant)[wire.EXPR_NAME] != b"lookup\0":
        return True
    # An inverted lookup differs from a plain one by an attribute that we leave out and the kernel gives as 0.
    return _lookup_flags(meant) == _lookup_flags(read)


def _lookup_flags(expression: bytes) -> bytes:
    return wire.attributes(wire.attributes(expression)[wire.EXPR_DATA]).get(_LOOKUP_FLAGS, bytes(4))


# -- messages that make and unmake -------------------------------------------------------------------------------------


def _comment(kind: int, words: str) -> bytes:
    """User data in libnftnl's form: type, length, value; type 0 is the comment of a table or chain."""
    value = words.encode() + b"\0"
    return wire.attribute(kind, bytes((0, len(value))) + value)


def comment_in(userdata: bytes) -> str:
    """The comment in a table's or chain's user data; empty if there is none."""
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == 0:
            return wire.to_text(userdata[offset + 2 : offset + 2 + length])
        offset += 2 + length
    return ""


def make_table(table: str, *, new: bool) -> bytearray:
    """Make the table, or clear the flags (dormant) of the one that is there, whose comment cannot change any more."""
    body = wire.text(wire.TABLE_NAME, table) + wire.number(wire.TABLE_FLAGS, 0)
    if not new:
        return wire.message(wire.NEWTABLE, body)
    comment = _comment(wire.TABLE_USERDATA, COMMENT)
    return wire.message(wire.NEWTABLE, body + comment, wire.NLM_F_CREATE | wire.NLM_F_EXCL)


def delete_table(table: str) -> bytearray:
    """Delete the table with everything in it."""
    return wire.message(wire.DELTABLE, wire.text(wire.TABLE_NAME, table))


def make_chain(table: str, chain: Chain, comment: str = "") -> bytearray:
    """Make a chain, empty. ``comment`` is what ``nft list`` shows with it."""
    body = wire.text(wire.CHAIN_TABLE, table) + wire.text(wire.CHAIN_NAME, chain.name)
    if chain.hook is not None:
        body += wire.nested(
            wire.CHAIN_HOOK,
            wire.number(wire.HOOK_HOOKNUM, _HOOKS[chain.hook.hook]),
            wire.number(wire.HOOK_PRIORITY, chain.hook.priority),
        )
        body += wire.number(wire.CHAIN_POLICY, 1) + wire.text(wire.CHAIN_TYPE, chain.hook.type)
    if comment:
        body += _comment(wire.CHAIN_USERDATA, comment)
    return wire.message(wire.NEWCHAIN, body, wire.NLM_F_CREATE | wire.NLM_F_EXCL)


def flush_chain(table: str, chain: str) -> bytearray:
    """Delete every rule of a chain."""
    return wire.message(wire.DELRULE, wire.text(wire.RULE_TABLE, table) + wire.text(wire.RULE_CHAIN, chain))


def delete_chain(table: str, chain: str) -> bytearray:
    """Delete an empty chain."""
    return wire.message(wire.DELCHAIN, wire.text(wire.CHAIN_TABLE, table) + wire.text(wire.CHAIN_NAME, chain))


def make_rules(table: str, chain: Chain) -> Iterator[bytearray]:
    """Append the chain's rules."""
    place = wire.text(wire.RULE_TABLE, table) + wire.text(wire.RULE_CHAIN, chain.name)
    for rule in chain.rules:
        body = place + wire.nested(wire.RULE_EXPRESSIONS, pack_rule(rule))
        yield wire.message(wire.NEWRULE, body, wire.NLM_F_CREATE | wire.NLM_F_APPEND)


def concatenated(types: Sequence[Datatype]) -> int:
    """The number that nft has for a key or data of these types: six bits each."""
    return functools.reduce(lambda so_far, name: so_far << 6 | _TYPE_NUMBERS[name], types, 0)


def width_of(types: Sequence[Datatype]) -> int:
    """Octets of a key or data: each part of several padded to whole registers."""
    return WIDTHS[types[0]] if len(types) == 1 else sum(4 * slots(WIDTHS[name]) for name in types)


def _byteorder(types: Sequence[Datatype]) -> int:
    """What nft needs to know to print a key; parts of a concatenation say it themselves."""
    if len(types) > 1:
        return 0
    return _BYTEORDER_HOST if types[0] == "ifname" else _BYTEORDER_BIG


def set_declaration(declared: Set) -> wire.Attributes:
    """The attributes that make a set what it is, as they are sent and as they are read back."""
    flags = (_SET_MAP if declared.data else 0) | (_SET_INTERVAL | _SET_CONCAT if declared.interval else 0)
    found = {
        wire.SET_FLAGS: flags,
        wire.SET_KEY_TYPE: concatenated(declared.key),
        wire.SET_KEY_LEN: width_of(declared.key),
    }
    if declared.data:
        found[wire.SET_DATA_TYPE] = concatenated(declared.data)
        found[wire.SET_DATA_LEN] = width_of(declared.data)
    return {kind: struct.pack("!I", value) for kind, value in found.items()}


def make_set(table: str, declared: Set, identifier: int) -> bytearray:
    """Make a set or map, empty. ``identifier`` tells it apart within the transaction."""
    body = wire.text(wire.SET_TABLE, table) + wire.text(wire.SET_NAME, declared.name)
    body += b"".join(wire.attribute(kind, value) for kind, value in set_declaration(declared).items())
    body += wire.number(wire.SET_ID, identifier)
    if declared.interval:
        lengths = (wire.number(wire.SET_FIELD_LEN, 4 * slots(WIDTHS[name])) for name in declared.key)
        fields = (wire.nested(wire.LIST_ELEM, length) for length in lengths)
        body += wire.nested(wire.SET_DESC, wire.nested(wire.SET_DESC_CONCAT, *fields))
    userdata = struct.pack("=BBI", 0, 4, _byteorder(declared.key))
    if declared.data:
        userdata += struct.pack("=BBI", 1, 4, _byteorder(declared.data))
    body += wire.attribute(wire.SET_USERDATA, userdata)
    return wire.message(wire.NEWSET, body, wire.NLM_F_CREATE | wire.NLM_F_EXCL)


def delete_set(table: str, name: str) -> bytearray:
    """Delete a set with its elements."""
    return wire.message(wire.DELSET, wire.text(wire.SET_TABLE, table) + wire.text(wire.SET_NAME, name))
