"""Default pools, and the arithmetic on blocks of addresses: what is usable, what is taken, which pool comes next.

Everything is done on integers and sorted intervals: the cost follows the pools in use, never the size of a pool or the
number of candidates (a /8 cut into /24s has 65,536). It must never know a store or a network record. Sources:
libnetwork's ``ipamutils`` (the ranges), moby's ``ipam/defaultipam`` (merging sorted intervals), RFC 4193 (unique local
IPv6 prefixes), RFC 3021 and RFC 6164 (prefixes of two addresses), RFC 4291 2.6.1 (the subnet-router anycast address).
"""

from __future__ import annotations

import hashlib
import ipaddress
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import attrs

from libcnm.errors import Invalid
from libcnm.ipam.keys import network
from libcnm.model.addresses import IPAddress, IPNetwork, overlaps, parse_pool

_SHOWN: Final = 3
"""How many holders of one default pool an error names."""


_UNUSABLE: Final = tuple(
    (ipaddress.ip_network(block), reason)
    for block, reason in (
        ("0.0.0.0/8", "is or holds 'this network' (RFC 1122)"),
        ("127.0.0.0/8", "is or holds loopback"),
        ("224.0.0.0/4", "is or holds multicast"),
        ("255.255.255.255/32", "is or holds the limited broadcast address"),
        ("::/127", "is or holds the unspecified and loopback addresses"),
        ("::ffff:0:0/96", "is or holds IPv4-mapped addresses"),
        ("fe80::/10", "is or holds link-local addresses, which every interface has by itself"),
        ("ff00::/8", "is or holds multicast"),
    )
)


def check_usable(block: IPNetwork) -> None:
    """Raise :class:`~libcnm.errors.Invalid` for a block that cannot be a container network at all."""
    for unusable, reason in _UNUSABLE:
        if overlaps(block, unusable):
            raise Invalid("subnet", str(block), reason)


def _base(value: str | IPNetwork) -> IPNetwork:
    return parse_pool(value, "default pool")


@attrs.frozen
class DefaultPool:
    """A block that automatic pools are cut from, and the prefix length of a piece: Docker's ``default-address-pools``.

    Raises :class:`~libcnm.errors.Invalid` when ``size`` is not between the block's own prefix length and /32 (/128).
    """

    base: IPNetwork = attrs.field(converter=_base)
    size: int

    def __attrs_post_init__(self) -> None:
        check_usable(self.base)
        if not self.base.prefixlen <= self.size <= self.base.max_prefixlen:
            raise Invalid(
                "default pool", f"{self.base} size {self.size}", "cannot be cut into pieces of that prefix length"
            )

    @property
    def count(self) -> int:
        """How many pieces there are."""
        return 1 << (self.size - self.base.prefixlen)

    @property
    def step(self) -> int:
        """Addresses per piece."""
        return 1 << (self.base.max_prefixlen - self.size)

    def for_room(self, endpoints: int) -> DefaultPool:
        """The same block in pieces with addresses for that many, its own pieces' where the block has not got them."""
        needed = endpoints + 3  # the gateway's, and what IPv4 reserves
        size = self.base.max_prefixlen - (needed - 1).bit_length()
        return attrs.evolve(self, size=max(size, self.base.prefixlen)) if size < self.size else self

    def piece(self, number: int) -> IPNetwork:
        """The piece of that number, counted from 0."""
        return network(self.base.version, int(self.base.network_address) + number * self.step, self.size)


DEFAULT_POOLS: Final[Mapping[str, Sequence[DefaultPool]]] = {
    "local": (
        *(DefaultPool(f"172.{second}.0.0/16", 24) for second in range(17, 32)),
        DefaultPool("192.168.0.0/16", 24),
    ),
    "global": (DefaultPool("10.0.0.0/8", 24),),
}
"""Docker's ranges, cut into /24s: 4,096 local and 65,536 global networks instead of Docker's 31 local ones."""


class Taken(NamedTuple):
    """An interval that no automatic pool may touch, because of the network with that id or for the reason ``why``.

    A tuple because thousands are sorted for each claim.
    """

    first: int
    last: int
    network: str = ""
    why: str = ""


def ula_pool(seed: str) -> DefaultPool:
    """The IPv6 default: a /48 of RFC 4193 whose 40-bit global id is the SHA-256 of ``seed``, cut into /64s."""
    global_id = hashlib.sha256(seed.encode()).digest()[:5]
    return DefaultPool(ipaddress.IPv6Network((int.from_bytes(b"\xfd" + global_id + bytes(10), "big"), 48)), 64)


def usable(block: IPNetwork) -> tuple[int, int]:
    """First and last address that an interface may have, as integers.

    IPv4 reserves the network and the broadcast address, IPv6 the first (the routers' anycast address); blocks of one or
    two addresses reserve nothing (RFC 3021, RFC 6164).
    """
    first, last = int(block.network_address), int(block.broadcast_address)
    if block.max_prefixlen - block.prefixlen < 2:
        return first, last
    return first + 1, last - (block.version == 4)


def check_assignable(block: IPNetwork, address: IPAddress, field: str) -> None:
    """Raise :class:`~libcnm.errors.Invalid`, naming ``field``, for what no interface in the block may have."""
    if address not in block:
        raise Invalid(field, str(address), f"is not inside the subnet {block}")
    first, last = usable(block)
    if not first <= int(address) <= last:
        kind = "broadcast" if int(address) > last else "network" if block.version == 4 else "subnet-router anycast"
        raise Invalid(field, str(address), f"is the {kind} address of {block}")


def dynamic(block: IPNetwork, part: IPNetwork | None) -> tuple[int, int]:
    """First and last address that may be handed out unasked: the usable ones of the range. Empty when first > last."""
    first, last = usable(block)
    if part is None:
        return first, last
    return max(first, int(part.network_address)), min(last, int(part.broadcast_address))


def choose(defaults: Sequence[DefaultPool], start: int, taken: Iterable[Taken]) -> tuple[int, IPNetwork] | None:
    """The first free piece from ordinal ``start`` on, round and round, and its ordinal; None when all are taken.

    Ordinals count the pieces of all ``defaults`` in turn. Each step skips a whole taken interval.
    """
    starts, ends = _merged(taken)
    total = sum(pool.count for pool in defaults)
    for low, high in ((start % total, total), (0, start % total)) if total else ():
        offset = 0
        for pool in defaults:
            number = _free_piece(pool, max(0, low - offset), min(pool.count, high - offset), starts, ends)
            if number is not None:
                return offset + number, pool.piece(number)
            offset += pool.count
    return None


def refusals(defaults: Sequence[DefaultPool], taken: Iterable[Taken]) -> list[str]:
    """For each default pool, one line: how many of its pieces are taken, and by whom."""
    intervals = sorted(taken)
    return [_refusal(pool, intervals) for pool in defaults]


def _free_piece(pool: DefaultPool, low: int, high: int, starts: list[int], ends: list[int]) -> int | None:
    base, step, number = int(pool.base.network_address), pool.step, low
    while number < high:
        first = base + number * step
        at = bisect_left(ends, first)
        if at == len(ends) or starts[at] > first + step - 1:
            return number
        number = (ends[at] - base) // step + 1
    return None


def _merged(taken: Iterable[Taken]) -> tuple[list[int], list[int]]:
    starts: list[int] = []
    ends: list[int] = []
    for interval in sorted(taken):
        if ends and interval.first <= ends[-1] + 1:
            ends[-1] = max(ends[-1], interval.last)
        else:
            starts.append(interval.first)
            ends.append(interval.last)
    return starts, ends


def _refusal(pool: DefaultPool, intervals: list[Taken]) -> str:
    base, step = int(pool.base.network_address), pool.step
    pieces, reached = 0, 0
    networks: dict[str, None] = {}
    reasons: dict[str, None] = {}
    for interval in intervals:
        low, high = max(0, (interval.first - base) // step), min(pool.count - 1, (interval.last - base) // step)
        if low > high:
            continue
        pieces += max(0, high + 1 - max(low, reached))
        reached = max(reached, high + 1)
        if interval.network:
            networks[interval.network[:12]] = None
        else:
            reasons[interval.why] = None
    words = [f"in use by {_listed('network', networks)}"] if networks else []
    words += [f"overlapping {_listed('', reasons)}"] if reasons else []
    return f"{pool.base}: {pieces} of {pool.count} /{pool.size}s taken{', ' if words else ''}{' and '.join(words)}"


def _listed(noun: str, names: Mapping[str, None]) -> str:
    shown = ", ".join(list(names)[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{noun + 's' if noun and len(names) > 1 else noun} {shown}{more}".strip()
