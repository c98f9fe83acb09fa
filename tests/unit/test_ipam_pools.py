"""The arithmetic of pools, against the slow and obvious way: ``ipaddress`` objects, one candidate after the other."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libcnm.errors import Invalid
from libcnm.ipam.pools import (
    DEFAULT_POOLS,
    DefaultPool,
    Taken,
    check_assignable,
    choose,
    dynamic,
    refusals,
    ula_pool,
    usable,
)
from libcnm.model.addresses import IPNetwork, overlaps

BASES = (DefaultPool("10.0.0.0/26", 29), DefaultPool("10.0.0.128/27", 28), DefaultPool("10.0.1.0/30", 32))
BASES6 = (DefaultPool("fd00:1::/60", 64), DefaultPool("fd00:2::/127", 128))


@st.composite
def blocks(draw: st.DrawFn, within: IPNetwork, smallest: int) -> IPNetwork:
    """A block that overlaps ``within``, or lies beside it."""
    length = draw(st.integers(within.prefixlen, smallest))
    size = 1 << (within.max_prefixlen - length)
    number = draw(st.integers(0, within.num_addresses // size))
    return type(within)((int(within.network_address) + number * size, length))


def taken(blocks: Sequence[IPNetwork]) -> list[Taken]:
    return [Taken(int(block[0]), int(block[-1]), network=f"{number:064}") for number, block in enumerate(blocks)]


def _pieces(pool: DefaultPool) -> list[IPNetwork]:
    return list(pool.base.subnets(new_prefix=pool.size))


def _inside(inner: IPNetwork, outer: IPNetwork) -> bool:
    return int(outer[0]) <= int(inner[0]) <= int(inner[-1]) <= int(outer[-1])


def slowly(defaults: Sequence[DefaultPool], start: int, used: Sequence[IPNetwork]) -> tuple[int, IPNetwork] | None:
    """What ``choose`` promises, candidate by candidate."""
    pieces = [piece for pool in defaults for piece in _pieces(pool)]
    for step in range(len(pieces)):
        at = (start + step) % len(pieces)
        if not any(overlaps(pieces[at], block) for block in used):
            return at, pieces[at]
    return None


@given(st.lists(blocks(ipaddress.ip_network("10.0.0.0/23"), 32), max_size=12), st.integers(0, 40))
def test_choose_agrees_with_ipaddress(used: list[IPNetwork], start: int) -> None:
    """The first free piece from the start on, round and round, whatever overlaps whatever."""
    assert slowly(BASES, start, used) == choose(BASES, start, taken(used))


@given(st.lists(blocks(ipaddress.ip_network("fd00:1::/58"), 70), max_size=8), st.integers(0, 40))
def test_choose_agrees_with_ipaddress_in_ipv6(used: list[IPNetwork], start: int) -> None:
    """The same, on 128 bits."""
    assert slowly(BASES6, start, used) == choose(BASES6, start, taken(used))


@given(st.lists(blocks(ipaddress.ip_network("10.0.0.0/23"), 32), max_size=12))
def test_refusals_count_the_taken_pieces(used: list[IPNetwork]) -> None:
    """Each default pool has one line, with the exact number of its pieces that something overlaps."""
    for pool, line in zip(BASES, refusals(BASES, taken(used)), strict=True):
        count = sum(any(overlaps(piece, block) for block in used) for piece in _pieces(pool))
        assert line.startswith(f"{pool.base}: {count} of {pool.count} /{pool.size}s taken")


def test_refusals_name_networks_and_reasons() -> None:
    """The line says who is in the way, the first few by name."""
    base = 0x0A000000
    used = [Taken(base + n * 16, base + n * 16 + 15, network=f"{n}" * 64) for n in range(1, 5)]
    used.append(Taken(base, base + 2**20, why="route via eth0"))
    holders = "networks 111111111111, 222222222222, 333333333333 and 1 more and overlapping route via eth0"
    line = f"10.0.0.0/24: 16 of 16 /28s taken, in use by {holders}"
    assert [line] == refusals([DefaultPool("10.0.0.0/24", 28)], used)


def test_an_untouched_pool_is_described_too() -> None:
    """A line without holders does not end in a comma."""
    assert ["10.0.0.0/24: 0 of 16 /28s taken"] == refusals([DefaultPool("10.0.0.0/24", 28)], [])


@given(st.integers(0, 2**32 - 1), st.integers(20, 32))
def test_usable_agrees_with_ipaddress(address: int, length: int) -> None:
    """What may be assigned in an IPv4 block is what ``hosts()`` yields (for /31 and /32 all of it)."""
    block = ipaddress.ip_network((address, length), strict=False)
    hosts = [int(host) for host in block.hosts()]
    assert (min(hosts), max(hosts)) == usable(block)


@given(st.integers(0, 2**128 - 1), st.integers(116, 128))
def test_usable_agrees_with_ipaddress_in_ipv6(address: int, length: int) -> None:
    """In IPv6 only the routers' anycast address is reserved, and nothing in a /127 or /128."""
    block = ipaddress.IPv6Network((address, length), strict=False)
    hosts = [int(host) for host in block.hosts()]
    assert (min(hosts), max(hosts)) == usable(block)


@given(blocks(ipaddress.ip_network("10.0.0.0/22"), 32), st.data())
def test_dynamic_is_the_usable_part_of_the_range(block: IPNetwork, data: st.DataObject) -> None:
    """Exactly the addresses that are both usable and in the range, as an interval; empty when there is none."""
    part = data.draw(st.none() | blocks(block, 32).filter(lambda part: _inside(part, block)))
    first, last = dynamic(block, part)
    expected = {int(host) for host in block.hosts() if host in (part or block)}
    assert expected == set(range(first, last + 1))


def test_addresses_at_the_edge() -> None:
    """The error says which address it is."""
    block, six = ipaddress.ip_network("10.0.0.0/24"), ipaddress.ip_network("fd00::/64")
    for address, kind in (("10.0.0.0", "network"), ("10.0.0.255", "broadcast")):
        with pytest.raises(Invalid, match=kind):
            check_assignable(block, ipaddress.ip_address(address), "address")
    with pytest.raises(Invalid, match="anycast"):
        check_assignable(six, ipaddress.ip_address("fd00::"), "address")
    check_assignable(six, ipaddress.ip_address("fd00::ffff:ffff:ffff:ffff"), "address")
    check_assignable(ipaddress.ip_network("10.0.0.0/31"), ipaddress.ip_address("10.0.0.0"), "address")


def test_thousands_of_networks_fit_by_default() -> None:
    """Docker's ranges, in /24s: disjoint, and far more than Docker's 31."""
    counts = {space: sum(pool.count for pool in pools) for space, pools in DEFAULT_POOLS.items()}
    assert {"local": 4096, "global": 65536} == counts
    bases = [pool.base for pools in DEFAULT_POOLS.values() for pool in pools]
    assert not any(overlaps(one, other) for one in bases for other in bases if one is not other)


def test_the_ula_pool_follows_from_its_seed() -> None:
    """RFC 4193: fd00::/8, a /48, the same for the same seed, another for another."""
    pool = ula_pool("an installation")
    assert (48, 64, 65536) == (pool.base.prefixlen, pool.size, pool.count)
    assert _inside(pool.base, ipaddress.ip_network("fd00::/8"))
    assert ula_pool("an installation") == pool
    assert ula_pool("another") != pool


@pytest.mark.parametrize(
    ("base", "size"),
    [
        ("10.0.0.0/24", 23),
        ("10.0.0.0/24", 33),
        ("10.0.0.1/24", 28),
        ("127.0.0.0/16", 24),
        ("fe80::/10", 64),
        ("0.0.0.0/0", 8),
    ],
)
def test_unusable_default_pools(base: str, size: int) -> None:
    """A pool that cannot be cut, or cannot be a network's, is refused when it is configured."""
    with pytest.raises(Invalid):
        DefaultPool(base, size)
