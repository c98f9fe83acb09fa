"""Elements of our sets and maps, to and from the kernel's octets, guided by the types that the structure declares.

Knows nothing of rules or sockets. Elements of one set travel together in one message of at most 64 KiB (an attribute's
length has 16 bits); the parts of a key are padded to four octets each, blocks are a first and a last key. Law:
include/uapi/linux/netfilter/nf_tables.h (NFTA_SET_ELEM_*), net/netfilter/nft_set_pipapo.c for blocks in concatenations.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from libcnm.kernel.firewall_rules import STRUCTURE, Datatype, Set
from libcnm.kernel.linux import nft_wire as wire
from libcnm.kernel.resources import FirewallElement, KeyPart

_PROTOCOLS: Final = {"tcp": 6, "udp": 17}
_PROTOCOL_NAMES: Final = {number: name for name, number in _PROTOCOLS.items()}
_FORMATS: Final[dict[Datatype, str]] = {
    "ifname": "16s", "nf_proto": "B3x", "inet_proto": "B3x", "inet_service": "H2x",
    "ipv4_addr": "4s", "ipv6_addr": "16s",
}  # fmt: skip
_FAMILIES: Final = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
_FAMILY_NAMES: Final = {number: name for name, number in _FAMILIES.items()}
_HEADER: Final = struct.Struct("=HH")  # struct nlattr
_LIST_BYTES: Final = 60_000


class Unreadable(ValueError):
    """An element that is not of our making (a catch-all, a range that is no block), or a key that fits no set of
    ours.
    """


# -- the parts of a key: to what struct takes, and back ----------------------------------------------------------------


def _from_ifname(part: KeyPart) -> bytes:
    if isinstance(part, str) and 0 < len(name := part.encode()) < 16:
        return name
    raise ValueError(part)


def _from_family(part: KeyPart) -> int:
    if isinstance(part, str):
        return _FAMILIES[part]
    raise ValueError(part)


def _from_protocol(part: KeyPart) -> int:
    if isinstance(part, str):
        return _PROTOCOLS[part]
    return _from_port(part)


def _from_port(part: KeyPart) -> int:
    if isinstance(part, int):
        return part
    raise ValueError(part)


def _from_ipv4(part: KeyPart) -> bytes:
    if isinstance(part, ipaddress.IPv4Address):
        return part.packed
    raise ValueError(part)


def _from_ipv6(part: KeyPart) -> bytes:
    if isinstance(part, ipaddress.IPv6Address):
        return part.packed
    raise ValueError(part)


_ENCODERS: Final[dict[Datatype, Callable[[KeyPart], bytes | int]]] = {
    "ifname": _from_ifname,
    "nf_proto": _from_family,
    "inet_proto": _from_protocol,
    "inet_service": _from_port,
    "ipv4_addr": _from_ipv4,
    "ipv6_addr": _from_ipv6,
}
_DECODERS: Final[dict[Datatype, Callable[[Any], KeyPart]]] = {
    "ifname": wire.to_text,
    "nf_proto": lambda number: _FAMILY_NAMES[number],
    "inet_proto": lambda number: _PROTOCOL_NAMES.get(number, number),
    "inet_service": int,
    "ipv4_addr": ipaddress.IPv4Address,
    "ipv6_addr": ipaddress.IPv6Address,
}


class _Tuple:
    """A key or data of certain types: each part of several fills whole registers."""

    def __init__(self, types: Sequence[Datatype]) -> None:
        self._struct = struct.Struct("!" + "".join(_FORMATS[name] for name in types))
        self._encoders = [_ENCODERS[name] for name in types]
        self._decoders = [_DECODERS[name] for name in types]
        self.width = self._struct.size

    def pack(self, parts: Sequence[KeyPart]) -> bytes:
        """The octets; ValueError, LookupError or struct.error when a part is not of its type."""
        encoded = [encode(part) for encode, part in zip(self._encoders, parts, strict=True)]
        return self._struct.pack(*encoded)

    def unpack(self, octets: bytes) -> tuple[KeyPart, ...]:
        """The parts; struct.error when there are too many or too few octets."""
        raw = self._struct.unpack(octets)
        return tuple([decode(part) for decode, part in zip(self._decoders, raw, strict=True)])


class Codec:
    """Elements of one set, packed and read. All have one length, so what stands around the octets is made once."""

    def __init__(self, declared: Set) -> None:
        self._name = declared.name
        self._interval = declared.interval
        self._key = _Tuple(declared.key)
        self._data = _Tuple(declared.data) if declared.data else None
        key, end = _head(wire.ELEM_KEY, self._key), _head(wire.ELEM_KEY_END, self._key) if declared.interval else b""
        data = _head(wire.ELEM_DATA, self._data) if self._data else b""
        size = 4 + sum(len(head) + one.width for head, one in ((key, self._key), (end, self._key)) if head)
        whole = size + len(data) + (self._data.width if self._data else 0)
        self._key_only = _HEADER.pack(size, wire.LIST_ELEM | wire.NESTED) + key
        self._whole = _HEADER.pack(whole, wire.LIST_ELEM | wire.NESTED) + key
        self._end, self._data_head = end, data

    def pack(self, element: FirewallElement, *, data: bool = True) -> bytes:
        """One attribute of an element list; :class:`Unreadable` when the element does not fit. Deletion goes by key."""
        try:
            packed = self._pack_key(element.key)
            if not data:
                return self._key_only + packed
            if self._data is None:
                if element.data:
                    raise ValueError(element.data)
                return self._whole + packed
            return self._whole + packed + self._data_head + self._data.pack(element.data)
        except Unreadable:
            raise
        except (ValueError, LookupError, struct.error) as error:
            raise Unreadable(f"set {self._name!r} has no place for {element.key} {element.data}") from error

    def _pack_key(self, key: Sequence[KeyPart]) -> bytes:
        if not self._interval:
            return self._key.pack(key)
        *before, last = key
        if not isinstance(last, ipaddress.IPv4Network | ipaddress.IPv6Network):
            raise Unreadable(f"{last!r} is not a block")
        first, end = (*before, last.network_address), (*before, last.broadcast_address)
        return self._key.pack(first) + self._end + self._key.pack(end)

    def read(self, ns: str, table: str, payload: bytes) -> FirewallElement:
        """One element out of a dump; :class:`Unreadable` when no resource of ours can say what it is."""
        found = wire.attributes(payload)
        try:
            key = self._key.unpack(_value(found[wire.ELEM_KEY]))
            if self._interval:
                end = self._key.unpack(_value(found[wire.ELEM_KEY_END])) if wire.ELEM_KEY_END in found else key
                key = (*key[:-1], _block(key[-1], end[-1]))
            data = self._data.unpack(_value(found[wire.ELEM_DATA])) if self._data else ()
        except (LookupError, struct.error) as error:
            raise Unreadable(f"an element of set {self._name!r} is not of our making") from error
        return FirewallElement(ns, table, self._name, key, data)


def _head(kind: int, of: _Tuple) -> bytes:
    """What stands before the octets: the attribute, and in it the value."""
    return _HEADER.pack(of.width + 8, kind | wire.NESTED) + _HEADER.pack(of.width + 4, wire.DATA_VALUE)


def _value(attribute: bytes) -> bytes:
    return wire.attributes(attribute)[wire.DATA_VALUE]


def _block(first: KeyPart, last: KeyPart) -> KeyPart:
    if isinstance(first, ipaddress.IPv4Address | ipaddress.IPv6Address) and type(first) is type(last):
        length = first.max_prefixlen - (int(first) ^ int(last)).bit_length()
        block = ipaddress.ip_network((first, length), strict=False)
        if (block.network_address, block.broadcast_address) == (first, last):
            return block
    raise Unreadable(f"{first} to {last} is not a block")


_CODECS: Final = {declared.name: Codec(declared) for declared in STRUCTURE.sets}


def codec(set_name: str) -> Codec:
    """The codec of one of our sets; :class:`Unreadable` if our structure has none of that name."""
    try:
        return _CODECS[set_name]
    except KeyError:
        raise Unreadable(f"there is no set {set_name!r}") from None


def element_messages(operation: int, table: str, set_name: str, packed: Sequence[bytes]) -> list[tuple[bytearray, int]]:
    """Messages that add or delete these elements, each with how many of them it carries. Adding refuses what exists."""
    flags = wire.NLM_F_CREATE | wire.NLM_F_EXCL if operation == wire.NEWSETELEM else 0
    place = wire.text(wire.ELEM_LIST_TABLE, table) + wire.text(wire.ELEM_LIST_SET, set_name)
    found: list[tuple[bytearray, int]] = []
    start, size = 0, 0
    for index, element in enumerate(packed):
        if size + len(element) > _LIST_BYTES:
            body = place + wire.nested(wire.ELEM_LIST_ELEMENTS, *packed[start:index])
            found.append((wire.message(operation, body, flags), index - start))
            start, size = index, 0
        size += len(element)
    if start < len(packed):
        body = place + wire.nested(wire.ELEM_LIST_ELEMENTS, *packed[start:])
        found.append((wire.message(operation, body, flags), len(packed) - start))
    return found
