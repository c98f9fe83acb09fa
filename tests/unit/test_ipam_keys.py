"""Keys and values of the default IPAM: each survives the way out and back, and what is not ours is never guessed at."""

from __future__ import annotations

import ipaddress
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libcnm.errors import Corrupt, Invalid
from libcnm.ipam import keys
from libcnm.kv.base import Entry, check_key
from libcnm.model.addresses import IPNetwork
from libcnm.model.pool import Pool

POOL = Pool("ab" * 32 + ".0", "local", ipaddress.ip_network("10.88.0.0/24"))
networks = st.builds(
    lambda value, length: ipaddress.ip_network((value, length), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
) | st.builds(
    lambda value, length: ipaddress.IPv6Network((value, length), strict=False),
    st.integers(0, 2**128 - 1),
    st.integers(0, 128),
)
counts = st.integers(0, 2**64)


@given(networks, st.booleans(), st.booleans())
def test_a_pool_survives(block: IPNetwork, with_range: bool, with_gateway: bool) -> None:
    """A pool's key holds its block and id, its value the rest."""
    pool = Pool(
        "n.3", "global", block, block if with_range else None, block[-1] if with_gateway else None, {"a": block[0]}
    )
    entry = Entry(keys.pool_key(pool), keys.encode_pool(pool), 7)
    check_key(entry.key)
    assert entry.key.startswith(keys.pools_prefix("global"))
    assert pool == keys.decode_pool("global", entry)
    parsed = keys.parse_pool_key(entry)
    assert (block, "n.3", "n", int(block[-1])) == (parsed.block, parsed.id, parsed.holder, parsed.last)


@given(counts, st.dictionaries(st.sampled_from([4, 6]), counts))
def test_a_space_survives(epoch: int, last: dict[int, int]) -> None:
    """Epoch and rotation hints come back."""
    value = keys.SpaceValue(epoch, last)
    assert value == keys.decode_space(Entry(keys.space_key("local"), keys.encode_space(value), 1))


@given(
    st.one_of(st.none(), st.text(min_size=1)),
    st.sampled_from(["endpoint", "gateway", "aux"]),
    counts,
    st.floats(0, 1e10),
)
def test_an_address_survives(holder: str | None, purpose: str, generation: int, at: float) -> None:
    """Holder, purpose, generation and time come back; a free address has no purpose."""
    value = keys.AddressValue(holder, purpose if holder is not None else keys.ENDPOINT, generation, at)
    entry = Entry(keys.address_key(POOL, 0x0A580005), keys.encode_address(value), 1)
    assert value == keys.decode_address(entry)
    assert keys.parse_address_key(POOL, entry) == 0x0A580005


@given(counts, st.lists(st.tuples(counts, counts)))
def test_a_cursor_survives(position: int, queue: list[tuple[int, int]]) -> None:
    """The hint comes back."""
    value = keys.CursorValue(position, tuple(queue))
    assert value == keys.decode_cursor(Entry(keys.cursor_key("n.0"), keys.encode_cursor(value), 1))


@pytest.mark.parametrize(
    "value", [b"", b"\xff", b"[]", b"null", b"{}", b'{"v":2}', b'{"v":true}', b'{"v":"1"}', b"[" * 100_000]
)
def test_an_unknown_schema_is_corrupt(value: bytes) -> None:
    """Not JSON, not an object, no schema, a newer schema: Corrupt, and the key is named. A cursor is merely no hint."""
    for decode in (keys.decode_space, keys.decode_address, keys.parse_pool_key):
        with pytest.raises(Corrupt) as caught:
            decode(Entry("pool/local/4/0a580000/24/n.0", value, 1))
        assert caught.value.what == "pool/local/4/0a580000/24/n.0"
    assert keys.CursorValue() == keys.decode_cursor(Entry("cursor/n.0", value, 1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("state", "lent"), ("state", None), ("holder", 5), ("holder", None), ("purpose", None), ("generation", -1),
        ("generation", True), ("generation", "1"), ("at", float("nan")), ("at", float("inf")), ("at", -1),
        ("at", 10**400), ("at", True), ("at", None),
    ],
)  # fmt: skip
def test_a_bad_field_is_corrupt(field: str, value: object) -> None:
    """Every field of an address is checked, also against numbers that would upset a comparison."""
    good = json.loads(keys.encode_address(keys.AddressValue("e1", keys.ENDPOINT, 1, 2.0)))
    with pytest.raises(Corrupt):
        keys.decode_address(Entry("address/n.0/0a580001", json.dumps(good | {field: value}).encode(), 1))


@pytest.mark.parametrize(
    "key",
    [
        "pool/local/4/0a580000/24", "pool/local/5/0a580000/24/n.0", "pool/local/4/0a58000/24/n.0",
        "pool/local/4/0A580000/24/n.0", "pool/local/4/0a580001/24/n.0", "pool/local/4/0a580000/33/n.0",
        "pool/local/4/0a580000/x/n.0", "pool/local/4/0a580000/24/", "pool/local/6/0a580000/24/n.0",
        "pool/local/4/0a580000/24/n.0/more",
    ],
)  # fmt: skip
def test_a_strange_key_is_corrupt(key: str) -> None:
    """A claim that cannot be read is an error: overlooked, it could be granted to a second network."""
    with pytest.raises(Corrupt):
        keys.parse_pool_key(Entry(key, keys.encode_pool(POOL), 1))


@pytest.mark.parametrize("field", ["range", "gateway"])
def test_a_bad_pool_value_is_corrupt(field: str) -> None:
    """What is no address is not passed on."""
    value = json.loads(keys.encode_pool(POOL)) | {field: "10.88.0.300"}
    with pytest.raises(Corrupt):
        keys.decode_pool("local", Entry(keys.pool_key(POOL), json.dumps(value).encode(), 1))


def test_a_bad_space_value_is_corrupt() -> None:
    """So are rotation hints of an unknown family, and a cursor's crooked queue is dropped."""
    with pytest.raises(Corrupt):
        keys.decode_space(Entry("pools/local", b'{"v":1,"epoch":1,"last":{"5":1}}', 1))
    for queue in (b"[[1]]", b'[["1",2]]', b"[1]", b"{}", b"[[-1,0]]"):
        entry = Entry("cursor/n.0", b'{"v":1,"next":3,"queue":' + queue + b"}", 1)
        assert keys.CursorValue() == keys.decode_cursor(entry)


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "-a", "é", "x" * 129, "a\n"])
def test_names_that_would_break_a_key(name: str) -> None:
    """A space or holder that could reach into another's keys is refused."""
    with pytest.raises(Invalid):
        keys.space_key(name)
    with pytest.raises(Invalid):
        keys.pool_id(name, 0)
    with pytest.raises(Invalid):
        keys.pool_id("n", -1)
