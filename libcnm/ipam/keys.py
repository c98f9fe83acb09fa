"""Where the default IPAM keeps its claims: the layout of its keys, and their values as JSON with a schema version.

    pools/<space>                                        every claim of a pool in the space compares and rewrites it
    pool/<space>/<4|6>/<first, hex>/<prefix length>/<id>  one claimed pool
    address/<pool id>/<hex>                              one address that was ever handed out, held or free
    cursor/<pool id>                                     where to look next: a hint, written blindly, never compared

A pool's id is ``<network id>.<index>``, unique per creation, so keys of an earlier network can never be taken for those
of a later one, and a pool can be given back without reading it. Sources: libnetwork's ``ipam/store.go`` (which kept one
object per space and one bitmap per pool, rewritten in full each time); design section 5.

It must never know a store, a clock, or how a claim is chosen. A value of an unknown schema is
:class:`~libcnm.errors.Corrupt`, never guessed at; only the cursor, being a hint, is ignored instead.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from typing import Final, NamedTuple, NoReturn

import attrs

from libcnm.contracts.ipam import Pool
from libcnm.errors import Corrupt, Invalid
from libcnm.kv.base import Entry
from libcnm.model.addresses import IPAddress, IPNetwork

SCHEMA: Final = 1
ENDPOINT, GATEWAY, AUX = "endpoint", "gateway", "aux"
_PREAMBLE: Final = f'{{"v":{SCHEMA},'.encode()
"""How every value of ours begins, so that a long listing can be checked without parsing each value."""
_DUMP: Final = json.JSONEncoder(separators=(",", ":")).encode
_TOKEN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_WIDTH: Final = {4: 8, 6: 32}
_POOL_KEY: Final = re.compile(rf"pool/[^/]+/(?:4/([0-9a-f]{{8}})|6/([0-9a-f]{{32}}))/([0-9]{{1,3}})/({_TOKEN.pattern})")
_SECONDS_MAX: Final = 1e12
"""Bound on stored times: keeps a hostile number from overflowing a comparison; some 30,000 years."""


class PoolKey(NamedTuple):
    """What the key of a claimed pool says by itself: its block, as first and last address, and its id.

    A tuple because a space may hold thousands, and each claim looks at all of them.
    """

    version: int
    first: int
    last: int
    length: int
    id: str

    @property
    def holder(self) -> str:
        """The network's id."""
        return self.id.rpartition(".")[0]

    @property
    def block(self) -> IPNetwork:
        """The block as a network."""
        return network(self.version, self.first, self.length)


@attrs.frozen
class SpaceValue:
    """``epoch`` counts the claims; ``last`` is, per IP version, the ordinal of the default pool handed out last."""

    epoch: int = 0
    last: Mapping[int, int] = attrs.field(factory=dict)


@attrs.frozen
class AddressValue:
    """One address: held by ``holder`` for ``purpose``, or free (``holder`` None), since ``at`` (wall-clock seconds).

    ``generation`` counts how often it was released.
    """

    holder: str | None
    purpose: str = ENDPOINT
    generation: int = 0
    at: float = 0.0


@attrs.frozen
class CursorValue:
    """``next``: no address from this offset on is known to be used. ``queue``: what to try before that.

    Offsets count from the first address of the subnet. The queue holds pairs (offset, version of its key); version 0
    stands for a key that does not exist.
    """

    next: int = 0
    queue: tuple[tuple[int, int], ...] = ()


def pool_id(holder: str, index: int) -> str:
    """The id of a network's pool; :class:`~libcnm.errors.Invalid` when they cannot be part of a key."""
    if index < 0:
        raise Invalid("index", index, "is negative")
    return f"{token('holder', holder)}.{index}"


def token(field: str, value: str) -> str:
    """``value``, if it can be one element of a key; :class:`~libcnm.errors.Invalid` otherwise."""
    if not _TOKEN.fullmatch(value):
        raise Invalid(
            field, value, "is not a key element", hint="1 to 128 of A-Z a-z 0-9 . _ -, beginning with a letter or digit"
        )
    return value


def space_key(space: str) -> str:
    """The key that serialises the claims of pools in a space."""
    return f"pools/{token('space', space)}"


def pools_prefix(space: str) -> str:
    """All claimed pools of a space, of both families: an id is never given out twice."""
    return f"pool/{token('space', space)}/"


def pool_key(pool: Pool) -> str:
    """The key of a claimed pool."""
    block = pool.subnet
    first = _hex(block.version, int(block.network_address))
    return f"{pools_prefix(pool.space)}{block.version}/{first}/{block.prefixlen}/{pool.id}"


def parse_pool_key(entry: Entry) -> PoolKey:
    """What a listed pool key says; Corrupt when it is not one, or when its value is of an unknown schema."""
    if not entry.value.startswith(_PREAMBLE):
        _Fields(entry)
    found = _POOL_KEY.fullmatch(entry.key)
    if found is None:
        raise Corrupt(entry.key, "is not the key of a pool")
    four, six, prefix, identity = found.groups()
    version, bits = (4, 32) if four else (6, 128)
    first, length = int(four or six, 16), int(prefix)
    size = 1 << max(0, bits - length)
    if length > bits or first % size:
        raise Corrupt(entry.key, "is not the key of a pool")
    return PoolKey(version, first, first + size - 1, length, identity)


def address_prefix(pool: str) -> str:
    """All addresses of a pool that were ever handed out."""
    return f"address/{token('pool', pool)}/"


def address_key(pool: Pool, address: int) -> str:
    """The key of one address of a pool."""
    return f"{address_prefix(pool.id)}{_hex(pool.subnet.version, address)}"


def parse_address_key(pool: Pool, entry: Entry) -> int:
    """The address that a listed key is about."""
    return _parse_hex(entry, pool.subnet.version, entry.key.rpartition("/")[2])


def cursor_key(pool: str) -> str:
    """The key of a pool's hint."""
    return f"cursor/{token('pool', pool)}"


def network(version: int, first: int, length: int) -> IPNetwork:
    """The block of that prefix length that begins at ``first``."""
    return ipaddress.IPv4Network((first, length)) if version == 4 else ipaddress.IPv6Network((first, length))


def address(version: int, value: int) -> IPAddress:
    """The integer as an address; ``ipaddress`` alone would take a small IPv6 one for IPv4."""
    return ipaddress.IPv4Address(value) if version == 4 else ipaddress.IPv6Address(value)


def encode_space(value: SpaceValue) -> bytes:
    """The value of a space's key."""
    return _encode({"epoch": value.epoch, "last": {str(version): ordinal for version, ordinal in value.last.items()}})


def decode_space(entry: Entry) -> SpaceValue:
    """The value of a space's key, or Corrupt."""
    fields = _Fields(entry)
    last = fields.mapping("last")
    if not all(version in ("4", "6") and type(ordinal) is int for version, ordinal in last.items()):
        fields.refuse("last")
    ordinals = {int(version): ordinal for version, ordinal in last.items() if isinstance(ordinal, int)}
    return SpaceValue(fields.integer("epoch"), ordinals)


def encode_pool(pool: Pool) -> bytes:
    """The value of a pool's key: the pool as it was granted."""
    return _encode(
        {
            "subnet": str(pool.subnet),
            "range": None if pool.range is None else str(pool.range),
            "gateway": None if pool.gateway is None else str(pool.gateway),
            "aux": {name: str(value) for name, value in pool.aux.items()},
        }
    )


def decode_pool(space: str, entry: Entry) -> Pool:
    """The pool as it was granted, or Corrupt."""
    key, fields = parse_pool_key(entry), _Fields(entry)
    part, gateway = fields.optional("range"), fields.optional("gateway")
    try:
        return Pool(
            key.id,
            space,
            key.block,
            None if part is None else ipaddress.ip_network(part),
            None if gateway is None else ipaddress.ip_address(gateway),
            {name: ipaddress.ip_address(str(value)) for name, value in fields.mapping("aux").items()},
        )
    except ValueError as error:
        raise Corrupt(entry.key, str(error)) from None


def encode_address(value: AddressValue) -> bytes:
    """The value of an address's key."""
    state: dict[str, object] = {"state": "free" if value.holder is None else "held"}
    if value.holder is not None:
        state |= {"holder": value.holder, "purpose": value.purpose}
    return _encode(state | {"generation": value.generation, "at": value.at})


def decode_address(entry: Entry) -> AddressValue:
    """The value of an address's key, or Corrupt."""
    fields = _Fields(entry)
    generation, at = fields.integer("generation"), fields.seconds("at")
    match fields.text("state"):
        case "free":
            return AddressValue(None, generation=generation, at=at)
        case "held":
            return AddressValue(fields.text("holder"), fields.text("purpose"), generation, at)
        case state:
            raise Corrupt(entry.key, f"state {state!r} is not known")


def encode_cursor(value: CursorValue) -> bytes:
    """The value of a pool's hint."""
    return _encode({"next": value.next, "queue": [list(item) for item in value.queue]})


def decode_cursor(entry: Entry | None) -> CursorValue:
    """The hint; whatever cannot be read is no hint."""
    if entry is None:
        return CursorValue()
    try:
        fields = _Fields(entry)
        return CursorValue(fields.integer("next"), fields.pairs("queue"))
    except Corrupt:
        return CursorValue()


def _hex(version: int, value: int) -> str:
    return f"{value:0{_WIDTH[version]}x}"


def _parse_hex(entry: Entry, version: int, digits: str) -> int:
    if len(digits) != _WIDTH[version] or not re.fullmatch("[0-9a-f]+", digits):
        raise Corrupt(entry.key, "does not hold an address")
    return int(digits, 16)


def _encode(fields: dict[str, object]) -> bytes:
    return _DUMP({"v": SCHEMA, **fields}).encode()


class _Fields:
    """A value's fields, each checked as it is taken out."""

    def __init__(self, entry: Entry) -> None:
        self._key = entry.key
        try:
            document = json.loads(entry.value.decode())
        except (ValueError, RecursionError):
            raise Corrupt(entry.key, "is not JSON") from None
        if not isinstance(document, dict):
            raise Corrupt(entry.key, "is not a JSON object")
        version = document.get("v")
        if type(version) is not int or version != SCHEMA:
            raise Corrupt(entry.key, f"schema {version!r} is not known", hint="was it written by a newer libcnm?")
        self._fields: dict[str, object] = document

    def refuse(self, field: str) -> NoReturn:
        raise Corrupt(self._key, f"field {field!r} is not usable")

    def integer(self, field: str) -> int:
        value = self._fields.get(field)
        if type(value) is not int or value < 0:
            self.refuse(field)
        return value

    def seconds(self, field: str) -> float:
        value = self._fields.get(field)
        if type(value) not in (int, float) or not isinstance(value, int | float) or not 0 <= value <= _SECONDS_MAX:
            self.refuse(field)
        return float(value)

    def text(self, field: str) -> str:
        value = self._fields.get(field)
        if not isinstance(value, str):
            self.refuse(field)
        return value

    def optional(self, field: str) -> str | None:
        return None if self._fields.get(field) is None else self.text(field)

    def mapping(self, field: str) -> dict[str, object]:
        value = self._fields.get(field)
        if not isinstance(value, dict):
            self.refuse(field)
        return value

    def pairs(self, field: str) -> tuple[tuple[int, int], ...]:
        value = self._fields.get(field)
        if not isinstance(value, list):
            self.refuse(field)
        pairs: list[tuple[int, int]] = []
        for item in value:
            if not (isinstance(item, list) and len(item) == 2 and all(type(n) is int and n >= 0 for n in item)):
                self.refuse(field)
            pairs.append((item[0], item[1]))
        return tuple(pairs)
