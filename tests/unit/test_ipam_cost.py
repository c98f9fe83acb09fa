"""What the default IPAM costs: calls to the store are counted, and do not depend on the size of a pool."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from libcnm.contracts.ipam import AddressRequest, PoolRequest
from libcnm.ipam import keys
from libcnm.ipam.claims import CALLER_OPERATIONS
from libcnm.ipam.default import DefaultIpam
from libcnm.ipam.search import HINTS, PROBES, QUEUE
from libcnm.kv.base import Committed, Entry, Listing, Put, Transaction
from libcnm.kv.memory import MemoryStore
from libcnm.model import limits
from libcnm.model.addresses import Subnet
from libcnm.model.deadline import Deadline
from libcnm.model.pool import Pool
from libcnm.system.clock import ManualClock
from libcnm.testing.ipam import claim_addresses, claim_any, claim_pools, network_id, release, within


class CountingStore(MemoryStore):
    """A store that counts what is asked of it, and the entries that listings return."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def get(self, key: str, *, deadline: Deadline) -> Entry | None:
        self.calls["get"] += 1
        return super().get(key, deadline=deadline)

    def list(self, prefix: str, *, deadline: Deadline) -> Listing:
        listing = super().list(prefix, deadline=deadline)
        self.calls["list"] += 1
        self.calls["listed"] += len(listing.entries)
        return listing

    def transact(self, transaction: Transaction, *, deadline: Deadline, durable: bool = True) -> Committed:
        self.calls["compares"] += len(transaction.compares)
        self.calls["writes"] += len(transaction.writes)
        return super().transact(transaction, deadline=deadline, durable=durable)


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
def ipam() -> DefaultIpam:
    return DefaultIpam(now_wall=ManualClock(tick=1.0).wall, choice=random.Random(1).randrange, ula_seeds={})


def claim(ipam: DefaultIpam, store: MemoryStore, subnet: Subnet | str, number: int = 1, space: str = "local") -> Pool:
    return claim_pools(ipam, store, [PoolRequest(space, Subnet.of(subnet), network_id(number))])[0]


@pytest.mark.parametrize("subnet", ["10.0.0.0/8", "10.88.0.0/24", "fd00:88::/64", "fd00::/16", "10.88.0.0/28"])
def test_an_address_costs_the_same_in_every_pool(ipam: DefaultIpam, store: CountingStore, subnet: str) -> None:
    """One read, one compare, two writes, no listing: in a /8 and a /64 as in a /28, at first and in the middle."""
    pool = claim(ipam, store, subnet)
    for number in range(9):
        store.calls.clear()
        claim_any(ipam, store, pool, f"e{number}")
        assert Counter(get=1, compares=1, writes=2) == store.calls


def test_a_release_costs_one_read(ipam: DefaultIpam, store: CountingStore) -> None:
    """One read, one compare, one write."""
    pool = claim(ipam, store, "10.0.0.0/8")
    address = claim_any(ipam, store, pool, "e1")
    store.calls.clear()
    release(ipam, store, pool, [address], "e1")
    assert Counter(get=1, compares=1, writes=1) == store.calls


def test_a_used_up_pool_lists_once_for_many_requests(ipam: DefaultIpam, store: CountingStore) -> None:
    """When every address was used once, one listing serves the next 64 requests, each of which reads two keys."""
    pool = claim(ipam, store, "10.88.0.0/24")
    for number in range(253):
        release(ipam, store, pool, [claim_any(ipam, store, pool, f"e{number}")], f"e{number}")
    store.calls.clear()
    for number in range(2 * QUEUE):
        claim_any(ipam, store, pool, f"f{number}")
    assert 2 == store.calls["list"]
    assert 4 * QUEUE == store.calls["get"] + store.calls["list"]


def test_a_dense_block_of_static_addresses_is_skipped_once(ipam: DefaultIpam, store: CountingStore) -> None:
    """A thousand reserved addresses in the way cost one listing, not a read each, and not again."""
    pool = claim(ipam, store, "10.88.0.0/16")
    for offset in range(2, 1002):
        claim_addresses(ipam, store, [AddressRequest(pool, "static", pool.subnet[offset])])
    store.calls.clear()
    got = [claim_any(ipam, store, pool, f"e{number}") for number in range(2 * QUEUE)]
    assert [pool.subnet[1002 + number] for number in range(2 * QUEUE)] == got
    assert 1 == store.calls["list"]


def test_a_pool_costs_one_read_and_one_listing(ipam: DefaultIpam, store: CountingStore) -> None:
    """Whatever the number of candidates; the transaction is one compare and three writes: space, pool, gateway."""
    for number in range(1, 200):
        store.calls.clear()
        claim(ipam, store, "ipv4", number, "global")
        assert Counter(get=1, list=1, listed=number - 1, compares=1, writes=3) == store.calls


def test_a_pool_given_back_costs_nothing_to_look_up(ipam: DefaultIpam, store: CountingStore) -> None:
    """Its id is never used again, so there is nothing to read or compare, and nothing to conflict with."""
    pool = claim(ipam, store, "ipv4")
    store.calls.clear()
    transaction = ipam.release_pools(store, [pool], network_id(1), deadline=within())
    assert Counter() == store.calls
    assert () == transaction.compares


def test_the_widest_network_fits_one_transaction(ipam: DefaultIpam, store: CountingStore) -> None:
    """16 subnets with gateways, and an endpoint with an address in each, leave room for the caller's own operations."""
    subnets = [f"10.{second}.0.0/16" for second in range(8)] + [f"fd00:{second}::/64" for second in range(8)]
    asked = [PoolRequest("local", Subnet(cidr), network_id(1), index) for index, cidr in enumerate(subnets)]
    grant = ipam.request_pools(store, asked, deadline=within())
    room = limits.TRANSACTION_OPERATIONS - CALLER_OPERATIONS
    assert room >= len(grant.transaction.compares + grant.transaction.writes)
    store.transact(grant.transaction, deadline=within())
    store.calls.clear()
    for number in range(100):
        requests = [AddressRequest(pool, f"e{number}") for pool in grant.pools]
        granted = ipam.request_addresses(store, requests, deadline=within())
        assert 16 + 16 + HINTS == len(granted.transaction.compares + granted.transaction.writes)
        store.transact(granted.transaction, deadline=within())
        assert {pool.subnet[2 + number] for pool in grant.pools} == set(granted.addresses)
    assert 0 == store.calls["list"]  # the cursors take turns, so none falls far behind
    store.transact(ipam.release_pools(store, grant.pools, network_id(1), deadline=within()), deadline=within())


def test_a_stale_queue_is_given_up_soon(ipam: DefaultIpam, store: CountingStore) -> None:
    """When its candidates are gone, a few reads are spent on it, then one listing."""
    pool = claim(ipam, store, "10.88.0.0/24")
    taken = [claim_any(ipam, store, pool, f"e{number}") for number in range(QUEUE)]
    offsets = [int(address) - int(pool.subnet[0]) for address in taken]
    cursor = keys.CursorValue(250, tuple((offset, 0) for offset in offsets))
    put = Put(keys.cursor_key(pool.id), keys.encode_cursor(cursor))
    store.transact(Transaction(writes=(put,)), deadline=within())
    store.calls.clear()
    assert pool.subnet[2 + QUEUE] == claim_any(ipam, store, pool, "next")
    assert (1 + PROBES, 1) == (store.calls["get"], store.calls["list"])
