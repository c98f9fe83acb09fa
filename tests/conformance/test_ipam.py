"""The shipped kit, run on the default IPAM over each store that needs no server; and what the null IPAM promises."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from libcnm.contracts.ipam import AddressRequest, IpamDriver, PoolRequest
from libcnm.errors import Invalid
from libcnm.ipam.default import DefaultIpam
from libcnm.ipam.null import NullIpam
from libcnm.kv.base import Store, Transaction
from libcnm.kv.memory import CONSUL_LIKE, ETCD_LIKE, PLAIN, MemoryStore
from libcnm.kv.sqlite import SQLiteStore
from libcnm.model.addresses import Subnet, parse_address
from libcnm.system.clock import ManualClock
from libcnm.testing.ipam import IpamConformance, network_id, within

SEEDS = {"local": "an installation", "global": "a cluster"}


class TestDefaultIpam(IpamConformance):
    """The default IPAM keeps the contract on every store."""

    @pytest.fixture
    def ipam(self) -> IpamDriver:
        return DefaultIpam(now_wall=ManualClock(tick=1.0).wall, choice=random.Random(1).randrange, ula_seeds=SEEDS)

    @pytest.fixture(params=[PLAIN, CONSUL_LIKE, ETCD_LIKE, None], ids=lambda p: p.name if p else "sqlite")
    def store(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
        opened: Store = MemoryStore(request.param) if request.param else SQLiteStore(tmp_path / "store.db")
        with opened as store:
            yield store


class TestNullIpam:
    """The null IPAM has one pool, no addresses, and keeps nothing."""

    def test_every_network_gets_the_same_pool(self) -> None:
        """0.0.0.0/0 without a gateway, for as many networks as ask, and nothing to commit."""
        ipam, store = NullIpam(), MemoryStore()
        asked = [PoolRequest("local", Subnet(), network_id(number)) for number in (1, 2)]
        grants = [ipam.request_pools(store, [request], deadline=within()) for request in asked]
        assert ["0.0.0.0/0", "0.0.0.0/0"] == [str(grant.pools[0].subnet) for grant in grants]
        assert {None} == {grant.pools[0].gateway for grant in grants}
        assert {Transaction()} == {grant.transaction for grant in grants}

    @pytest.mark.parametrize("subnet", ["10.0.0.0/24", "ipv6"])
    def test_it_takes_no_subnet(self, subnet: str) -> None:
        """An explicit subnet and IPv6 are Invalid, as in libnetwork."""
        with pytest.raises(Invalid):
            NullIpam().request_pools(
                MemoryStore(), [PoolRequest("local", Subnet.of(subnet), network_id(1))], deadline=within()
            )

    def test_it_takes_no_options(self) -> None:
        """A misspelled or misplaced option is an error, not silence."""
        request = PoolRequest("local", Subnet(), network_id(1), options={"com.docker.network.ipam.serial": "true"})
        with pytest.raises(Invalid):
            NullIpam().request_pools(MemoryStore(), [request], deadline=within())

    def test_it_grants_no_addresses(self) -> None:
        """Asking for any gives none; asking for one is Invalid; releasing is nothing."""
        ipam, store = NullIpam(), MemoryStore()
        pool = ipam.request_pools(store, [PoolRequest("local", Subnet(), network_id(1))], deadline=within()).pools[0]
        assert () == ipam.request_addresses(store, [AddressRequest(pool, "e1")], deadline=within()).addresses
        address = parse_address("10.0.0.1", "address")
        with pytest.raises(Invalid):
            ipam.request_addresses(store, [AddressRequest(pool, "e1", address)], deadline=within())
        assert Transaction() == ipam.release_addresses(store, pool, [address], "e1", deadline=within())
        assert Transaction() == ipam.release_pools(store, [pool], network_id(1), deadline=within())
        ipam.purge(store, [pool], deadline=within())
        assert () == store.list("", deadline=within()).entries
