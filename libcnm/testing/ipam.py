"""What every IPAM driver must do, as a pytest class: inherit from it, say how to make your driver, and run pytest.

    class TestMyIpam(IpamConformance):
        @pytest.fixture
        def ipam(self) -> IpamDriver:
            return MyIpam()

It speaks to the driver only through :mod:`libcnm.contracts.ipam`, as the controller does (ask, commit, on a conflict
ask again), so it fits declarative and imperative drivers alike. It must never know a driver's keys. The promises are
the contract's; many of them answer an issue of libnetwork (moby#46756, moby#49781, docker/compose#11899).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network
from typing import ClassVar

import attrs
import pytest

from libcnm.contracts.ipam import AddressRequest as Request
from libcnm.contracts.ipam import Avoid, IpamDriver, PoolRequest
from libcnm.errors import AlreadyExists, CnmError, Conflict, Exhausted, Invalid
from libcnm.kv.base import Store
from libcnm.kv.memory import MemoryStore
from libcnm.model import limits
from libcnm.model.addresses import IPAddress, Subnet
from libcnm.model.deadline import Deadline
from libcnm.model.pool import Pool


def within(seconds: float = 60.0) -> Deadline:
    """A deadline that no passing test reaches."""
    return Deadline.after(seconds, time.monotonic)


def network_id(number: int) -> str:
    """A holder like the controller's: 64 hexadecimal digits, different in the first 12."""
    return f"{number:012x}".ljust(64, "0")


def claim_pools(ipam: IpamDriver, store: Store, requests: Sequence[PoolRequest]) -> tuple[Pool, ...]:
    """Ask and commit, as the controller does."""
    for _ in range(limits.CONFLICT_RETRIES):
        grant = ipam.request_pools(store, requests, deadline=within())
        try:
            store.transact(grant.transaction, deadline=within())
        except Conflict:
            continue
        return grant.pools
    raise AssertionError("every attempt met a conflict")


def claim_addresses(ipam: IpamDriver, store: Store, requests: Sequence[Request]) -> tuple[IPAddress, ...]:
    """Ask and commit, as the controller does, counting the attempts."""
    for attempt in range(limits.CONFLICT_RETRIES):
        asked = [attrs.evolve(request, attempt=attempt) for request in requests]
        grant = ipam.request_addresses(store, asked, deadline=within())
        try:
            store.transact(grant.transaction, deadline=within())
        except Conflict:
            continue
        return grant.addresses
    raise AssertionError("every attempt met a conflict")


def claim_any(ipam: IpamDriver, store: Store, pool: Pool, holder: str) -> IPAddress:
    """Any one address."""
    return claim_addresses(ipam, store, [Request(pool, holder)])[0]


def release(ipam: IpamDriver, store: Store, pool: Pool, addresses: Sequence[IPAddress], holder: str) -> None:
    """Give addresses back, as the controller does when an endpoint goes."""
    for _ in range(limits.CONFLICT_RETRIES):
        try:
            store.transact(ipam.release_addresses(store, pool, addresses, holder, deadline=within()), deadline=within())
        except Conflict:
            continue
        return
    raise AssertionError("every attempt met a conflict")


def remove(ipam: IpamDriver, store: Store, pools: Sequence[Pool], holder: str) -> None:
    """Give pools back, as the controller does when a network goes."""
    ipam.purge(store, pools, deadline=within())
    store.transact(ipam.release_pools(store, pools, holder, deadline=within()), deadline=within())


class IpamConformance:
    """The kit. Override ``ipam``, and say with the flags what your driver leaves out.

    ``ipv6``, ``automatic``: it has IPv6, and default pools. ``declarative``: it writes nothing by itself.
    ``checks_host``: it refuses pools on the host's own subnets. ``checks_options``: it refuses unknown options.
    """

    space: ClassVar[str] = "local"
    ipv6: ClassVar[bool] = True
    automatic: ClassVar[bool] = True
    declarative: ClassVar[bool] = True
    checks_host: ClassVar[bool] = True
    checks_options: ClassVar[bool] = True

    @pytest.fixture
    def ipam(self) -> IpamDriver:
        """The driver under test, fresh."""
        raise NotImplementedError("override the fixture `ipam`")

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        """The store it is given, empty."""
        with MemoryStore() as store:
            yield store

    def pool(self, ipam: IpamDriver, store: Store, subnet: Subnet | str = "10.88.0.0/24", number: int = 1) -> Pool:
        """One claimed pool of network ``number``."""
        request = PoolRequest(self.space, Subnet.of(subnet), network_id(number))
        return claim_pools(ipam, store, [request])[0]

    def needs(self, power: str) -> None:
        """Skip where the driver says that it leaves this out."""
        if not getattr(self, power):
            pytest.skip(f"this driver says {power} = False")

    # -- pools

    def test_it_has_a_name(self, ipam: IpamDriver) -> None:
        """A driver is known by a name."""
        assert ipam.name

    def test_an_explicit_pool_is_granted_as_asked(self, ipam: IpamDriver, store: Store) -> None:
        """Subnet, range, gateway and auxiliary addresses come back as they were given."""
        aux = {"router": ip_address("10.88.0.9")}
        pool = self.pool(ipam, store, Subnet("10.88.0.0/24", range="10.88.0.128/25", gateway="10.88.0.254", aux=aux))
        assert ip_network("10.88.0.0/24") == pool.subnet
        assert ip_network("10.88.0.128/25") == pool.range
        assert ip_address("10.88.0.254") == pool.gateway
        assert aux == dict(pool.aux)
        assert self.space == pool.space

    def test_a_gateway_is_chosen_inside_the_range(self, ipam: IpamDriver, store: Store) -> None:
        """Unasked, the gateway lies in the range, and is not an auxiliary address."""
        aux = {"a": "10.88.0.128", "b": "10.88.0.129"}
        pool = self.pool(ipam, store, Subnet("10.88.0.0/24", range="10.88.0.128/25", aux=aux))
        assert pool.range is not None
        assert pool.gateway is not None
        assert pool.gateway in pool.range
        assert pool.gateway not in pool.aux.values()

    @pytest.mark.parametrize("taken_range", [None, "10.88.0.0/26"])
    @pytest.mark.parametrize("asked", ["10.88.0.0/24", "10.88.0.128/25", "10.88.0.0/16"])
    def test_an_overlap_names_the_holder(
        self, ipam: IpamDriver, store: Store, asked: str, taken_range: str | None
    ) -> None:
        """Equal, smaller or larger, with a range or without (moby#46756): AlreadyExists, and whose it is."""
        self.pool(ipam, store, Subnet("10.88.0.0/24", range=taken_range), 1)
        for subnet in (Subnet(asked), Subnet(asked, range="10.88.0.192/26")):
            with pytest.raises(AlreadyExists) as caught:
                self.pool(ipam, store, subnet, 2)
            assert ("pool", asked) == (caught.value.kind, caught.value.name)
            assert network_id(1)[:12] in str(caught.value.holder)

    def test_subnets_of_one_network_must_not_overlap(self, ipam: IpamDriver, store: Store) -> None:
        """Two overlapping subnets in one request are refused, and neither is claimed."""
        asked = [PoolRequest(self.space, Subnet(cidr), network_id(1), i) for i, cidr in enumerate(self.OVERLAPPING)]
        with pytest.raises((Invalid, AlreadyExists)):
            claim_pools(ipam, store, asked)
        assert ip_network(self.OVERLAPPING[0]) == self.pool(ipam, store, self.OVERLAPPING[0], 2).subnet

    OVERLAPPING: ClassVar[tuple[str, str]] = ("10.88.0.0/24", "10.88.0.0/25")

    def test_both_families_in_one_request(self, ipam: IpamDriver, store: Store) -> None:
        """The pools come in the order they were asked for, with different ids."""
        self.needs("ipv6")
        wanted = ["fd00:88::/64", "10.88.0.0/24", "fd00:89::/64"]
        asked = [PoolRequest(self.space, Subnet(cidr), network_id(1), index) for index, cidr in enumerate(wanted)]
        pools = claim_pools(ipam, store, asked)
        assert wanted == [str(pool.subnet) for pool in pools]
        assert len({pool.id for pool in pools}) == len(wanted)

    def test_automatic_pools_differ(self, ipam: IpamDriver, store: Store) -> None:
        """Each network gets a pool of its own, and a pool given back is not handed out again at once."""
        self.needs("automatic")
        pools = [self.pool(ipam, store, "ipv4", number) for number in range(1, 6)]
        assert len({pool.subnet for pool in pools}) == len(pools)
        remove(ipam, store, [pools[4]], network_id(5))
        assert self.pool(ipam, store, "ipv4", 6).subnet not in {pool.subnet for pool in pools}

    def test_automatic_pools_keep_clear(self, ipam: IpamDriver, store: Store) -> None:
        """An automatic pool overlaps neither an explicit one nor what the caller says to avoid."""
        self.needs("automatic")
        first = self.pool(ipam, store, "ipv4", 1).subnet
        remove(ipam, store, [Pool(f"{network_id(1)}.0", self.space, first)], network_id(1))
        avoid = [Avoid(first.supernet(8), "route via eth0", on_link=on_link) for on_link in (True, False)]
        for number, block in enumerate(avoid, 2):
            asked = PoolRequest(self.space, Subnet(version=4), network_id(number), avoid=[block])
            assert not claim_pools(ipam, store, [asked])[0].subnet.overlaps(block.block)

    def test_a_host_subnet_refuses_an_explicit_pool(self, ipam: IpamDriver, store: Store) -> None:
        """A pool on a foreign interface's own subnet would cut the host off; a mere route through a gateway is fine."""
        self.needs("checks_host")
        route = Avoid(ip_network("10.88.0.0/16"), "route via eth0")
        asked = PoolRequest(self.space, Subnet("10.88.7.0/24"), network_id(1), avoid=[route])
        with pytest.raises(AlreadyExists, match="route via eth0"):
            claim_pools(ipam, store, [asked])
        allowed = attrs.evolve(asked, avoid=[attrs.evolve(route, on_link=False)])
        assert ip_network("10.88.7.0/24") == claim_pools(ipam, store, [allowed])[0].subnet

    def test_unknown_options_are_refused(self, ipam: IpamDriver, store: Store) -> None:
        """A misspelled option is an error, not silence."""
        self.needs("checks_options")
        options = {"no.such.option": "1"}
        with pytest.raises(Invalid):
            claim_pools(ipam, store, [PoolRequest(self.space, Subnet("10.88.0.0/24"), network_id(1), options=options)])

    def test_a_released_pool_is_free(self, ipam: IpamDriver, store: Store) -> None:
        """After purge and release the subnet can be claimed by another, and no address of it is held."""
        pool = self.pool(ipam, store)
        address = claim_any(ipam, store, pool, "e1")
        remove(ipam, store, [pool], network_id(1))
        again = self.pool(ipam, store, number=2)
        assert pool.subnet == again.subnet
        assert pool.id != again.id
        assert (address,) == claim_addresses(ipam, store, [Request(again, "e2", address)])

    def test_only_the_holder_releases_a_pool(self, ipam: IpamDriver, store: Store) -> None:
        """A release in another's name leaves the pool alone."""
        pool = self.pool(ipam, store)
        store.transact(ipam.release_pools(store, [pool], network_id(2), deadline=within()), deadline=within())
        with pytest.raises(AlreadyExists):
            self.pool(ipam, store, number=2)

    def test_asking_is_not_claiming(self, ipam: IpamDriver, store: Store) -> None:
        """A declarative driver writes nothing: what was not committed is still free."""
        self.needs("declarative")
        before = store.list("", deadline=within()).entries
        request = PoolRequest(self.space, Subnet("10.88.0.0/24"), network_id(1))
        ipam.request_pools(store, [request], deadline=within())
        assert before == store.list("", deadline=within()).entries
        pool = self.pool(ipam, store, number=2)
        before = store.list("", deadline=within()).entries
        ipam.request_addresses(store, [Request(pool, "e1")], deadline=within())
        assert before == store.list("", deadline=within()).entries

    # -- addresses

    def test_addresses_differ_and_lie_in_the_range(self, ipam: IpamDriver, store: Store) -> None:
        """A dynamic address lies in the range, and is neither the gateway nor an auxiliary one, until none is left."""
        pool = self.pool(ipam, store, Subnet("10.88.0.0/24", range="10.88.0.16/28", aux={"a": "10.88.0.20"}))
        got = [claim_any(ipam, store, pool, f"e{number}") for number in range(14)]
        assert pool.range is not None
        assert len(set(got)) == len(got)
        assert set(pool.range) - {pool.gateway, *pool.aux.values()} == set(got)
        with pytest.raises(Exhausted):
            claim_any(ipam, store, pool, "one-too-many")

    def test_the_range_is_kept(self, ipam: IpamDriver, store: Store) -> None:
        """A preferred address outside the range, once given back, is not handed out unasked."""
        pool = self.pool(ipam, store, Subnet("10.88.0.0/24", range="10.88.0.16/30"))
        outside = ip_address("10.88.0.200")
        claim_addresses(ipam, store, [Request(pool, "static", outside)])
        release(ipam, store, pool, [outside], "static")
        assert outside not in {claim_any(ipam, store, pool, f"e{number}") for number in range(3)}
        with pytest.raises(Exhausted):
            claim_any(ipam, store, pool, "one-too-many")

    def test_every_free_address_is_reached(self, ipam: IpamDriver, store: Store) -> None:
        """Fill, free some, fill again: all of them come back."""
        pool = self.pool(ipam, store, "10.88.0.0/28")
        held = {claim_any(ipam, store, pool, f"e{number}"): f"e{number}" for number in range(13)}
        freed = sorted(held, key=int)[::3]
        for address in freed:
            release(ipam, store, pool, [address], held[address])
        assert set(freed) == {claim_any(ipam, store, pool, f"f{number}") for number in range(len(freed))}
        with pytest.raises(Exhausted):
            claim_any(ipam, store, pool, "one-too-many")

    def test_a_preferred_address_is_reserved(self, ipam: IpamDriver, store: Store) -> None:
        """It may lie outside the range; dynamic requests skip it; its holder may ask again; others hear whose it is."""
        pool = self.pool(ipam, store, Subnet("10.88.0.0/24", range="10.88.0.8/29"))
        inside, outside = ip_address("10.88.0.10"), ip_address("10.88.0.200")
        for address in (inside, outside, inside):
            assert (address,) == claim_addresses(ipam, store, [Request(pool, "static", address)])
        assert inside not in {claim_any(ipam, store, pool, f"e{number}") for number in range(6)}
        for address in (inside, outside):
            with pytest.raises(AlreadyExists) as caught:
                claim_addresses(ipam, store, [Request(pool, "other", address)])
            assert ("address", str(address)) == (caught.value.kind, caught.value.name)
            assert "static" in str(caught.value.holder)

    @pytest.mark.parametrize("address", ["10.88.0.0", "10.88.0.255", "10.88.1.1", "fd00::1"])
    def test_addresses_that_no_interface_may_have(self, ipam: IpamDriver, store: Store, address: str) -> None:
        """Network address, broadcast address, and what lies outside the subnet, are Invalid."""
        pool = self.pool(ipam, store)
        with pytest.raises(Invalid):
            claim_addresses(ipam, store, [Request(pool, "e1", ip_address(address))])

    def test_the_gateway_and_auxiliary_addresses_are_held(self, ipam: IpamDriver, store: Store) -> None:
        """No endpoint gets them, even when it asks for them by name."""
        pool = self.pool(ipam, store, Subnet("10.88.0.0/24", aux={"a": "10.88.0.77"}))
        for address in (pool.gateway, ip_address("10.88.0.77")):
            with pytest.raises(AlreadyExists, match=network_id(1)[:12]):
                claim_addresses(ipam, store, [Request(pool, "e1", address)])

    def test_a_stale_release_frees_nothing(self, ipam: IpamDriver, store: Store) -> None:
        """Once the address is another's, a late or repeated release by its earlier holder leaves it held."""
        pool = self.pool(ipam, store)
        address = claim_any(ipam, store, pool, "e1")
        release(ipam, store, pool, [address], "e1")
        claim_addresses(ipam, store, [Request(pool, "e2", address)])
        release(ipam, store, pool, [address], "e1")
        with pytest.raises(AlreadyExists, match="e2"):
            claim_addresses(ipam, store, [Request(pool, "e3", address)])

    def test_several_addresses_in_one_request(self, ipam: IpamDriver, store: Store) -> None:
        """All or nothing, in the order asked for, each of its own pool."""
        self.needs("ipv6")
        four, six = self.pool(ipam, store, number=1), self.pool(ipam, store, "fd00:88::/64", 2)
        got = claim_addresses(ipam, store, [Request(six, "e1"), Request(four, "e1"), Request(four, "e1")])
        assert [6, 4, 4] == [address.version for address in got]
        assert len(set(got)) == 3
        with pytest.raises(CnmError):
            claim_addresses(ipam, store, [Request(six, "e2", ip_address("fd00:88::99")), Request(four, "e2", got[1])])
        assert (ip_address("fd00:88::99"),) == claim_addresses(
            ipam, store, [Request(six, "e3", ip_address("fd00:88::99"))]
        )

    @pytest.mark.parametrize(("subnet", "usable"), [("10.88.0.4/30", 2), ("10.88.0.4/31", 2), ("10.88.0.4/32", 1)])
    def test_small_subnets(self, ipam: IpamDriver, store: Store, subnet: str, usable: int) -> None:
        """A /30 has two addresses, a /31 both of its (RFC 3021), a /32 its one."""
        request = PoolRequest(self.space, Subnet(subnet), network_id(1), needs_gateway=False)
        pool = claim_pools(ipam, store, [request])[0]
        got = {claim_any(ipam, store, pool, f"e{number}") for number in range(usable)}
        assert usable == len(got)
        with pytest.raises(Exhausted):
            claim_any(ipam, store, pool, "one-too-many")
