"""Many at once: threads over SQLite, and hosts that take turns in every order a seed can think of."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from libcnm.contracts.ipam import AddressGrant, AddressRequest, PoolRequest
from libcnm.errors import AlreadyExists, CnmError, Conflict, Exhausted
from libcnm.ipam.default import DefaultIpam
from libcnm.kv.base import Store
from libcnm.kv.memory import MemoryStore
from libcnm.kv.sqlite import SQLiteStore
from libcnm.model.addresses import IPAddress, Subnet
from libcnm.model.pool import Pool
from libcnm.system.clock import ManualClock
from libcnm.testing.ipam import claim_addresses, claim_any, claim_pools, network_id, release, within

HOSTS = 8


def make_ipam(seed: int) -> DefaultIpam:
    return DefaultIpam(now_wall=ManualClock(tick=1.0).wall, choice=random.Random(seed).randrange, ula_seeds={})


def one_pool(store: Store, subnet: str) -> Pool:
    return claim_pools(make_ipam(0), store, [PoolRequest("local", Subnet(subnet), network_id(1))])[0]


def together(path: Path, work: Callable[[SQLiteStore, DefaultIpam, int], IPAddress | Pool]) -> list[object]:
    """What each of several threads got, or the error it met; each has a handle on the file of its own."""
    barrier = threading.Barrier(HOSTS, timeout=60)
    got: list[object] = [None] * HOSTS

    def run(number: int) -> None:
        store = SQLiteStore(path)
        with store:
            barrier.wait()
            try:
                got[number] = work(store, make_ipam(number), number)
            except CnmError as error:
                got[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(HOSTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return got


def test_the_last_address_has_one_winner(tmp_path: Path) -> None:
    """Eight threads race for it: one gets it, seven are told that none is left."""
    with SQLiteStore(tmp_path / "store.db") as store:
        pool = one_pool(store, "10.88.0.0/30")
    got = together(tmp_path / "store.db", lambda store, ipam, n: claim_any(ipam, store, pool, f"e{n}"))
    assert {pool.subnet[2]: 1, Exhausted: HOSTS - 1} == Counter(
        type(one) if isinstance(one, CnmError) else one for one in got
    )


def test_a_static_address_has_one_winner(tmp_path: Path) -> None:
    """The losers are told who won."""
    with SQLiteStore(tmp_path / "store.db") as store:
        pool = one_pool(store, "10.88.0.0/24")
    wanted = pool.subnet[50]

    def work(store: SQLiteStore, ipam: DefaultIpam, number: int) -> IPAddress:
        return claim_addresses(ipam, store, [AddressRequest(pool, f"e{number}", wanted)])[0]

    got = together(tmp_path / "store.db", work)
    losers = [one for one in got if isinstance(one, AlreadyExists)]
    assert {f"endpoint e{got.index(wanted)}"} == {loser.holder for loser in losers}
    assert HOSTS - 1 == len(losers)


def test_networks_made_at_once_get_different_pools(tmp_path: Path) -> None:
    """Eight threads, eight pools."""
    got = together(
        tmp_path / "store.db",
        lambda store, ipam, n: claim_pools(ipam, store, [PoolRequest("local", Subnet(), network_id(n))])[0],
    )
    assert HOSTS == len({pool.subnet for pool in got if isinstance(pool, Pool)})


def rounds(seed: int, subnet: str, wanted: int, churn: bool) -> tuple[list[IPAddress], list[int]]:
    """Hosts take ``wanted`` addresses in all, asking and committing in a seeded order; also each one's conflicts."""
    chance, store = random.Random(seed), MemoryStore()
    pool = one_pool(store, subnet)
    ipams = [make_ipam(seed * HOSTS + host) for host in range(HOSTS)]
    asked: dict[int, tuple[AddressRequest, AddressGrant]] = {}
    got: list[IPAddress] = []
    conflicts: list[int] = []
    started = 0
    while len(got) < wanted:
        host = chance.randrange(HOSTS)
        if host in asked:
            request, grant = asked.pop(host)
            try:
                store.transact(grant.transaction, deadline=within())
            except Conflict:
                request = AddressRequest(pool, request.holder, attempt=request.attempt + 1)
            else:
                got.extend(grant.addresses)
                conflicts.append(request.attempt)
                if churn:
                    release(ipams[host], store, pool, [got[-1]], request.holder)
                continue
        elif started < wanted:
            started += 1
            request = AddressRequest(pool, f"e{started}")
        else:
            continue
        asked[host] = (request, ipams[host].request_addresses(store, [request], deadline=within()))
    return got, conflicts


@pytest.mark.parametrize("seed", range(4))
def test_hosts_that_race_make_progress(seed: int) -> None:
    """A /24 is filled to the last address by eight hosts; all differ, and hardly anyone meets many conflicts."""
    got, conflicts = rounds(seed, "10.88.0.0/24", 253, churn=False)
    assert 253 == len(set(got))
    assert sorted(conflicts)[-3] <= 5


@pytest.mark.parametrize("seed", range(4))
def test_hosts_that_race_over_used_addresses(seed: int) -> None:
    """The same when each address is given back at once, so that all of them are second-hand."""
    got, conflicts = rounds(seed, "10.88.0.0/26", 600, churn=True)
    assert 61 == len(set(got))
    assert sorted(conflicts)[-6] <= 5
