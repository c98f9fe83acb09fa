"""The default IPAM's own promises: what it costs, in which order it gives, what it says when it refuses."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network

import pytest

from libcnm.contracts.ipam import AddressRequest, Avoid, IpamFacts, PoolRequest
from libcnm.errors import AlreadyExists, Conflict, Corrupt, Exhausted, Invalid
from libcnm.ipam import keys
from libcnm.ipam.claims import ALLOW_HOST_OVERLAP, SERIAL
from libcnm.ipam.default import DefaultIpam
from libcnm.ipam.pools import DEFAULT_POOLS, DefaultPool, ula_pool
from libcnm.kv.base import Delete, Put, Transaction, VersionIs
from libcnm.kv.memory import MemoryStore
from libcnm.model.addresses import IPAddress, Subnet
from libcnm.model.pool import Pool
from libcnm.system.clock import ManualClock
from libcnm.testing.ipam import claim_addresses, claim_any, claim_pools, network_id, release, remove, within

SEEDS = {"local": "an installation", "global": "a cluster"}


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def ipam() -> DefaultIpam:
    return make_ipam()


def make_ipam(pools: Mapping[str, Sequence[DefaultPool]] = DEFAULT_POOLS) -> DefaultIpam:
    return DefaultIpam(
        now_wall=ManualClock(tick=1.0).wall, choice=random.Random(1).randrange, ula_seeds=SEEDS, pools=pools
    )


def claim(ipam: DefaultIpam, store: MemoryStore, subnet: Subnet | str, number: int = 1, space: str = "local") -> Pool:
    return claim_pools(ipam, store, [PoolRequest(space, Subnet.of(subnet), network_id(number))])[0]


def put(store: MemoryStore, key: str, value: bytes) -> None:
    """Write as a stranger would."""
    store.transact(Transaction(writes=(Put(key, value),)), deadline=within())


# -- order


def test_never_used_first_then_longest_free(ipam: DefaultIpam, store: MemoryStore) -> None:
    """An address just released is the last to be handed out again."""
    pool = claim(ipam, store, "10.88.0.0/29")
    first = [claim_any(ipam, store, pool, f"e{number}") for number in range(3)]
    assert [ip_address(f"10.88.0.{last}") for last in (2, 3, 4)] == first
    for number in (1, 0):
        release(ipam, store, pool, [first[number]], f"e{number}")
    rest = [claim_any(ipam, store, pool, f"f{number}") for number in range(4)]
    assert [ip_address(f"10.88.0.{last}") for last in (5, 6, 3, 2)] == rest


def test_a_lost_or_wrong_cursor_changes_nothing(ipam: DefaultIpam, store: MemoryStore) -> None:
    """Deleted, garbled, of a newer schema, far too high or too low: every address is still found, and none twice."""
    pool = claim(ipam, store, "10.88.0.0/27")
    cursors = [
        None, b"\xff", b'{"v":9}', b'{"v":1,"next":99999999999999999999999,"queue":[]}', b'{"v":1,"next":0,"queue":[]}',
        b'{"v":1,"next":3,"queue":[[0,0],[1,0],[31,0],[32,0],[400,7],[5,3],[4,0]]}',
    ]  # fmt: skip
    got: set[IPAddress] = set()
    for number in range(29):
        cursor = cursors[number % len(cursors)]
        key = keys.cursor_key(pool.id)
        if cursor is None:
            store.transact(Transaction(writes=(Delete(key),)), deadline=within())
        else:
            put(store, key, cursor)
        got.add(claim_any(ipam, store, pool, f"e{number}"))
    assert {pool.subnet[last] for last in range(2, 31)} == got
    with pytest.raises(Exhausted):
        claim_any(ipam, store, pool, "more")


def used_up(ipam: DefaultIpam, store: MemoryStore) -> Pool:
    """A /28 whose 13 addresses were all used once and are free, longest first; the cursor's queue holds all but one."""
    pool = claim(ipam, store, "10.88.0.0/28")
    for number in range(13):
        release(ipam, store, pool, [claim_any(ipam, store, pool, f"e{number}")], f"e{number}")
    release(ipam, store, pool, [claim_any(ipam, store, pool, "first")], "first")
    return pool


def test_what_was_used_since_the_listing_goes_to_the_end(ipam: DefaultIpam, store: MemoryStore) -> None:
    """The queue is trusted only for keys that have not changed: a newly freed address waits for its turn."""
    pool = used_up(ipam, store)
    claim_addresses(ipam, store, [AddressRequest(pool, "static", pool.subnet[3])])
    release(ipam, store, pool, [pool.subnet[3]], "static")
    got = [claim_any(ipam, store, pool, f"f{number}") for number in range(13)]
    assert [*(pool.subnet[last] for last in range(4, 15)), pool.subnet[2], pool.subnet[3]] == got


def test_a_preferred_address_leaves_the_queue(ipam: DefaultIpam, store: MemoryStore) -> None:
    """Asked for by name and at once with any other, an address that the queue offers is given once."""
    pool = used_up(ipam, store)
    got = claim_addresses(ipam, store, [AddressRequest(pool, "e1"), AddressRequest(pool, "e1", pool.subnet[3])])
    assert (pool.subnet[4], pool.subnet[3]) == got


def test_a_queue_that_lies(ipam: DefaultIpam, store: MemoryStore) -> None:
    """It names a held address with its right version: still nobody gets it."""
    pool = claim(ipam, store, "10.88.0.0/28")
    claim_addresses(ipam, store, [AddressRequest(pool, "static", pool.subnet[2])])
    entry = store.get(keys.address_key(pool, int(pool.subnet[2])), deadline=within())
    assert entry is not None
    put(store, keys.cursor_key(pool.id), keys.encode_cursor(keys.CursorValue(3, ((2, entry.version),))))
    assert pool.subnet[3] == claim_any(ipam, store, pool, "e1")


def test_one_address_is_not_enough_for_two(ipam: DefaultIpam, store: MemoryStore) -> None:
    """Two of one pool in one request, when one is left: Exhausted, and the one stays free."""
    pool = claim(ipam, store, "10.88.0.0/30")
    with pytest.raises(Exhausted):
        claim_addresses(ipam, store, [AddressRequest(pool, "e1"), AddressRequest(pool, "e1")])
    address = claim_any(ipam, store, pool, "e1")
    release(ipam, store, pool, [address], "e1")
    with pytest.raises(Exhausted):
        claim_addresses(ipam, store, [AddressRequest(pool, "e1"), AddressRequest(pool, "e1")])


def test_attempts_spread(ipam: DefaultIpam, store: MemoryStore) -> None:
    """After a conflict other candidates are offered, without ever leaving the range or finding the pool exhausted."""
    pool = claim(ipam, store, Subnet("10.88.0.0/24", range="10.88.0.64/26"))
    offered = {
        ipam.request_addresses(store, [AddressRequest(pool, "e1", attempt=attempt)], deadline=within()).addresses[0]
        for attempt in range(60)
    }
    assert pool.range is not None
    assert len(offered) > 20
    assert all(address in pool.range for address in offered)


def test_attempts_spread_over_a_listing(ipam: DefaultIpam, store: MemoryStore) -> None:
    """Also where the cursor is of no use, and everybody lists."""
    pool = claim(ipam, store, "10.88.0.0/24")
    put(store, keys.cursor_key(pool.id), keys.encode_cursor(keys.CursorValue(255)))
    asked = [AddressRequest(pool, "e1", attempt=attempt) for attempt in (0, 0, *[1] * 40)]
    offered = [ipam.request_addresses(store, [request], deadline=within()).addresses[0] for request in asked]
    assert [pool.subnet[2]] * 2 == offered[:2]
    assert len(set(offered)) > 10


def test_a_grant_is_repeated_without_writing(ipam: DefaultIpam, store: MemoryStore) -> None:
    """The same holder asking for what it has gets it again: only compares, so a verb may be run twice."""
    request = PoolRequest("local", Subnet.of("ipv4"), network_id(1))
    pool = claim_pools(ipam, store, [request])[0]
    again = ipam.request_pools(store, [request], deadline=within())
    assert ((pool,), ()) == (again.pools, again.transaction.writes)
    address = claim_any(ipam, store, pool, "e1")
    repeated = ipam.request_addresses(store, [AddressRequest(pool, "e1", address)], deadline=within())
    assert ((address,), ()) == (repeated.addresses, repeated.transaction.writes)
    assert [VersionIs] == [type(compare) for compare in repeated.transaction.compares]
    with pytest.raises(AlreadyExists, match="differs in: subnet"):
        claim(ipam, store, "10.99.0.0/24", 1)


# -- claims that race


def test_claims_of_one_space_are_serialised(ipam: DefaultIpam, store: MemoryStore) -> None:
    """Of two grants made from the same view only one commits, also where one contains the other."""
    asked = [
        PoolRequest("local", Subnet(cidr), network_id(n)) for n, cidr in enumerate(["10.88.0.0/16", "10.88.3.0/24"])
    ]
    grants = [ipam.request_pools(store, [request], deadline=within()) for request in asked]
    store.transact(grants[0].transaction, deadline=within())
    with pytest.raises(Conflict) as caught:
        store.transact(grants[1].transaction, deadline=within())
    entry = store.get(keys.space_key("local"), deadline=within())
    assert entry is not None
    assert 1 == keys.decode_space(entry).epoch
    assert (keys.space_key("local"),) == caught.value.keys
    with pytest.raises(AlreadyExists):
        claim_pools(ipam, store, asked[1:])


def test_two_grants_of_one_address_do_not_both_commit(ipam: DefaultIpam, store: MemoryStore) -> None:
    """Never used or free again: the second commit is a Conflict, and asking again gives another address."""
    pool = claim(ipam, store, "10.88.0.0/30")
    for _ in range(2):
        grants = [
            ipam.request_addresses(store, [AddressRequest(pool, name)], deadline=within()) for name in ("e1", "e2")
        ]
        store.transact(grants[0].transaction, deadline=within())
        with pytest.raises(Conflict):
            store.transact(grants[1].transaction, deadline=within())
        with pytest.raises(Exhausted, match="1 held as endpoint; 1 held as gateway"):
            claim_any(ipam, store, pool, "e2")
        release(ipam, store, pool, grants[0].addresses, "e1")


def test_a_release_that_lost_its_address_frees_nothing(ipam: DefaultIpam, store: MemoryStore) -> None:
    """A release computed before the address changed hands conflicts, even when the same endpoint holds it again."""
    pool = claim(ipam, store, "10.88.0.0/30")
    address = claim_any(ipam, store, pool, "e1")
    stale = ipam.release_addresses(store, pool, [address], "e1", deadline=within())
    release(ipam, store, pool, [address], "e1")
    claim_addresses(ipam, store, [AddressRequest(pool, "e1", address)])
    with pytest.raises(Conflict):
        store.transact(stale, deadline=within())


def test_generations_count_releases(ipam: DefaultIpam, store: MemoryStore) -> None:
    """Each release adds one, so a history of an address can be told from its values."""
    pool = claim(ipam, store, "10.88.0.0/30")
    for generation in range(3):
        address = claim_any(ipam, store, pool, "e1")
        entry = store.get(keys.address_key(pool, int(address)), deadline=within())
        assert entry is not None
        assert generation == keys.decode_address(entry).generation
        release(ipam, store, pool, [address], "e1")


# -- automatic pools


def test_both_spaces_have_both_families(ipam: DefaultIpam, store: MemoryStore) -> None:
    """/24s from Docker's ranges and /64s from the space's own ULA prefix."""
    pools = [claim(ipam, store, family, 1, space) for space in ("local", "global") for family in ("ipv4",)]
    assert ["172.17.0.0/24", "10.0.0.0/24"] == [str(pool.subnet) for pool in pools]
    for space, seed in SEEDS.items():
        pool = claim(ipam, store, "ipv6", 2, space)
        assert ula_pool(seed).piece(0) == pool.subnet
        assert pool.subnet[1] == pool.gateway


def test_pools_are_rotated(store: MemoryStore) -> None:
    """A pool given back is handed out again only after all the others, whichever host asks."""
    pools = {"local": [DefaultPool("10.0.0.0/30", 32), DefaultPool("10.0.1.0/31", 32)]}
    got = []
    for number in range(8):
        pool = claim(make_ipam(pools), store, "ipv4", number)
        got.append(str(pool.subnet[0]))
        remove(make_ipam(pools), store, [pool], network_id(number))
    order = ["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.0", "10.0.1.1"]
    assert [*order, *order[:2]] == got


@pytest.mark.parametrize(
    ("room", "got"),
    [
        (0, ["10.0.0.0/28", "10.0.0.16/28"]),
        (13, ["10.0.0.0/28", "10.0.0.16/28"]),
        (14, ["10.0.0.0/27", "10.0.0.32/27"]),
        (60, ["10.0.0.0/26", "10.0.0.64/28"]),
        (1000, ["10.0.0.0/25", "10.0.0.128/26"]),
    ],
)
def test_room_is_a_wish(store: MemoryStore, room: int, got: list[str]) -> None:
    """A larger piece while a default pool has one, and what there is otherwise."""
    ipam = make_ipam({"local": [DefaultPool("10.0.0.0/25", 28), DefaultPool("10.0.0.128/26", 28)]})
    if room == 60:
        claim(ipam, store, "10.0.0.128/28", 9)
        claim(ipam, store, "10.0.0.80/28", 8)
    asked = [PoolRequest("local", Subnet(), network_id(number), room=room) for number in (1, 2)]
    assert got == [str(claim_pools(ipam, store, [one])[0].subnet) for one in asked]


def test_automatic_pools_run_out_with_reasons(store: MemoryStore) -> None:
    """The error lists every default pool, how much of it is taken, and by what."""
    ipam = make_ipam({"local": [DefaultPool("10.0.0.0/23", 24), DefaultPool("192.168.0.0/24", 24)]})
    avoid = [Avoid(ip_network("192.168.0.7/32"), "nameserver in /etc/resolv.conf", on_link=False)]
    request = PoolRequest(
        "local", Subnet(), network_id(2), avoid=[*avoid, Avoid(ip_network("0.0.0.0/0"), "default route")]
    )
    claim(ipam, store, "10.0.0.128/25")
    assert "10.0.1.0/24" == str(claim_pools(ipam, store, [request])[0].subnet)
    with pytest.raises(Exhausted) as caught:
        claim_pools(ipam, store, [PoolRequest("local", Subnet(), network_id(3), avoid=avoid)])
    assert (
        "10.0.0.0/23: 2 of 2 /24s taken, in use by networks 000000000001, 000000000002",
        "192.168.0.0/24: 1 of 1 /24s taken, overlapping nameserver in /etc/resolv.conf",
    ) == caught.value.refusals


def test_an_explicit_pool_is_placed_before_an_automatic_one(store: MemoryStore) -> None:
    """In one request the automatic pool keeps clear of the explicit one, in whatever order they are asked for."""
    ipam = make_ipam({"local": [DefaultPool("10.0.0.0/23", 24)]})
    asked = [PoolRequest("local", Subnet.of(s), network_id(1), i) for i, s in enumerate(["ipv4", "10.0.0.0/24"])]
    assert ["10.0.1.0/24", "10.0.0.0/24"] == [str(pool.subnet) for pool in claim_pools(ipam, store, asked)]


def test_a_space_without_defaults(ipam: DefaultIpam, store: MemoryStore) -> None:
    """It takes explicit pools; an automatic one is Invalid, and the error names the space."""
    assert "10.1.0.0/24" == str(claim(ipam, store, "10.1.0.0/24", space="mine").subnet)
    with pytest.raises(Invalid, match="mine"):
        claim(ipam, store, "ipv4", 2, space="mine")


def test_spaces_do_not_meet(ipam: DefaultIpam, store: MemoryStore) -> None:
    """The same subnet may be claimed once in each space, and neither claim conflicts with the other."""
    asked = [PoolRequest(space, Subnet("10.1.0.0/24"), network_id(n)) for n, space in enumerate(SEEDS)]
    for grant in [ipam.request_pools(store, [request], deadline=within()) for request in asked]:
        store.transact(grant.transaction, deadline=within())


def test_it_opens_from_facts(store: MemoryStore) -> None:
    """As the registry makes it, for one space: the seed decides the IPv6 prefix, clock and chance are used as given."""
    facts = IpamFacts("global", "a cluster", ManualClock(tick=1.0).wall, random.Random(1).randrange)
    ipam = DefaultIpam.open(facts)
    assert "10.0.0.0/24" == str(claim(ipam, store, "ipv4", 1, "global").subnet)
    assert ula_pool("a cluster").piece(0) == claim(ipam, store, "ipv6", 2, "global").subnet


# -- refusals


@pytest.mark.parametrize(
    "subnet",
    [
        Subnet("127.0.0.0/24"), Subnet("0.0.0.0/0"), Subnet("224.0.0.0/24"), Subnet("ff00::/64"), Subnet("fe80::/64"),
        Subnet("::/0"), Subnet("255.255.255.255/32"), Subnet("::ffff:10.0.0.0/120"),
        Subnet("10.0.0.0/24", gateway="10.0.0.0"), Subnet("10.0.0.0/24", gateway="10.0.0.255"),
        Subnet("fd00::/64", gateway="fd00::"), Subnet("10.0.0.0/24", aux={"a": "10.0.0.255"}),
        Subnet("10.0.0.0/24", gateway="10.0.0.5", aux={"a": "10.0.0.5"}),
        Subnet("10.0.0.0/24", aux={"a": "10.0.0.5", "b": "10.0.0.5"}), Subnet("10.0.0.0/24", range="10.0.0.0/32"),
        Subnet("10.0.0.0/16", aux={f"a{n}": f"10.0.1.{n}" for n in range(50)}),
    ],
    ids=repr,
)  # fmt: skip
def test_subnets_that_cannot_be(ipam: DefaultIpam, store: MemoryStore, subnet: Subnet) -> None:
    """Blocks that no network may have, and gateways or auxiliary addresses that no interface may have, are Invalid."""
    with pytest.raises(Invalid):
        claim(ipam, store, subnet)
    assert () == store.list("", deadline=within()).entries


def test_options(ipam: DefaultIpam, store: MemoryStore) -> None:
    """Docker's serial option is accepted, in all of Go's spellings; what is neither true nor false is not."""
    for number, value in enumerate(("true", "false", "1")):
        claim_pools(ipam, store, [PoolRequest("local", Subnet(), network_id(number), options={SERIAL: value})])
    with pytest.raises(Invalid, match=SERIAL):
        claim_pools(ipam, store, [PoolRequest("local", Subnet(), network_id(9), options={SERIAL: "maybe"})])


def test_a_host_subnet_can_be_allowed(ipam: DefaultIpam, store: MemoryStore) -> None:
    """The refusal names the option that permits it; an automatic pool keeps clear all the same."""
    avoid = [Avoid(ip_network("172.16.0.0/12"), "route via eth0")]
    options = {ALLOW_HOST_OVERLAP: "true"}
    with pytest.raises(AlreadyExists, match=f"{ALLOW_HOST_OVERLAP}=true") as caught:
        claim_pools(ipam, store, [PoolRequest("local", Subnet("172.20.0.0/24"), network_id(1), avoid=avoid)])
    assert "route via eth0 (172.16.0.0/12)" == caught.value.holder
    allowed = PoolRequest("local", Subnet("172.20.0.0/24"), network_id(1), avoid=avoid, options=options)
    assert "172.20.0.0/24" == str(claim_pools(ipam, store, [allowed])[0].subnet)
    automatic = PoolRequest("local", Subnet(), network_id(2), avoid=avoid, options=options)
    assert "192.168.0.0/24" == str(claim_pools(ipam, store, [automatic])[0].subnet)


def test_a_taken_address_says_by_whom_and_since_when(ipam: DefaultIpam, store: MemoryStore) -> None:
    """The holder's kind and short id, the pool, the time: it cannot be mistaken for a conflict of ports."""
    pool = claim(ipam, store, "10.88.0.0/24")
    claim_addresses(ipam, store, [AddressRequest(pool, "e" * 64, pool.subnet[9])])
    with pytest.raises(AlreadyExists) as caught:
        claim_addresses(ipam, store, [AddressRequest(pool, "other", pool.subnet[9])])
    assert ("address", "10.88.0.9", "endpoint eeeeeeeeeeee") == (
        caught.value.kind,
        caught.value.name,
        caught.value.holder,
    )
    assert "held in 10.88.0.0/24 since 1970-01-01T00:16:4" in str(caught.value.hint)


def test_ids_must_be_new(ipam: DefaultIpam, store: MemoryStore) -> None:
    """Two subnets of one network with the same index, or of two spaces, are a mistake of the caller."""
    one, two = (PoolRequest("local", Subnet(f"10.{n}.0.0/24"), network_id(1)) for n in range(2))
    with pytest.raises(Invalid, match="index"):
        ipam.request_pools(store, [one, two], deadline=within())
    with pytest.raises(Invalid, match="space"):
        ipam.request_pools(store, [one, PoolRequest("global", Subnet(), network_id(1), 1)], deadline=within())
    assert ((), Transaction()) == (
        ipam.request_pools(store, [], deadline=within()).pools,
        ipam.request_addresses(store, [], deadline=within()).transaction,
    )


def test_an_address_asked_for_twice_at_once(ipam: DefaultIpam, store: MemoryStore) -> None:
    """A dynamic request keeps clear of a preferred one beside it; two preferred ones are Invalid."""
    pool = claim(ipam, store, "10.88.0.0/29")
    wanted = pool.subnet[2]
    got = claim_addresses(ipam, store, [AddressRequest(pool, "e1"), AddressRequest(pool, "e1", wanted)])
    assert (pool.subnet[3], wanted) == got
    with pytest.raises(Invalid, match="twice"):
        claim_addresses(ipam, store, [AddressRequest(pool, "e2", pool.subnet[5])] * 2)


# -- a damaged store


def test_a_damaged_claim_stops_claims_of_its_space(ipam: DefaultIpam, store: MemoryStore) -> None:
    """Granting beside a claim that cannot be read might grant it twice; other spaces go on."""
    put(store, "pool/local/4/0a580000/24/n.0", b'{"v":2,"subnet":"10.88.0.0/24"}')
    with pytest.raises(Corrupt, match=r"pool/local/4/0a580000/24/n\.0.*newer"):
        claim(ipam, store, "ipv4")
    claim(ipam, store, "ipv4", space="global")


def test_a_damaged_address_is_left_alone(ipam: DefaultIpam, store: MemoryStore) -> None:
    """It is never handed out and never in the way of others; who asks for it by name is told; purge removes it."""
    pool = claim(ipam, store, "10.88.0.0/29")
    damaged = keys.address_key(pool, int(pool.subnet[3]))
    put(store, damaged, b"{}")
    put(store, f"{keys.address_prefix(pool.id)}what-is-this", b"{}")
    got = {claim_any(ipam, store, pool, f"e{number}") for number in range(4)}
    assert {pool.subnet[last] for last in (2, 4, 5, 6)} == got
    with pytest.raises(Exhausted, match="1 held as unreadable"):
        claim_any(ipam, store, pool, "more")
    with pytest.raises(Corrupt):
        claim_addresses(ipam, store, [AddressRequest(pool, "e9", pool.subnet[3])])
    with pytest.raises(Corrupt):
        release(ipam, store, pool, [pool.subnet[3]], "e9")
    remove(ipam, store, [pool], network_id(1))
    assert [keys.space_key("local")] == [entry.key for entry in store.list("", deadline=within()).entries]


# -- the end of a network


def test_purge_and_release_leave_nothing(ipam: DefaultIpam, store: MemoryStore) -> None:
    """In transactions of the allowed size; repeatable; another network's keys, one of a similar id too, stay."""
    asked = [
        PoolRequest("local", Subnet(f"10.{n}.0.0/16", aux={"a": f"10.{n}.9.9"}), network_id(1), n) for n in range(11)
    ]
    pools = claim_pools(ipam, store, asked)
    for number in range(150):
        claim_any(ipam, store, pools[1], f"e{number}")
    kept = claim_any(ipam, store, pools[10], "kept")
    ipam.purge(store, pools[:10], deadline=within())
    ipam.purge(store, pools[:10], deadline=within())
    with pytest.raises(AlreadyExists, match="gateway"):
        claim_addresses(ipam, store, [AddressRequest(pools[1], "e1", pools[1].gateway)])
    store.transact(ipam.release_pools(store, pools[:10], network_id(1), deadline=within()), deadline=within())
    left = [entry.key for entry in store.list("", deadline=within()).entries if entry.key != keys.space_key("local")]
    assert {keys.pool_key(pools[10]), keys.cursor_key(pools[10].id)} == {
        k for k in left if not k.startswith("address/")
    }
    assert {keys.address_key(pools[10], int(kept))} < {k for k in left if k.startswith("address/")}


def test_releasing_what_is_not_there(ipam: DefaultIpam, store: MemoryStore) -> None:
    """Addresses outside the pool, never used, twice in the list, or another's: nothing to do."""
    pool = claim(ipam, store, "10.88.0.0/24")
    address = claim_any(ipam, store, pool, "e1")
    for holder, addresses in (("e2", [address]), ("e1", [ip_address("fd00::1"), pool.subnet[77]])):
        assert Transaction() == ipam.release_addresses(store, pool, addresses, holder, deadline=within())
    assert 1 == len(ipam.release_addresses(store, pool, [address, address], "e1", deadline=within()).writes)
