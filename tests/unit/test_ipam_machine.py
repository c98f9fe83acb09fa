"""A model of the default IPAM, run beside it: any sequence of requests and releases by two clients that interleave.

Each client asks first and commits later, so that grants and releases are made from views that have gone stale. The
model keeps plain sets; after each step the store must agree with it, and nothing may be held twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from ipaddress import ip_network

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from libcnm.contracts.ipam import AddressRequest, PoolRequest
from libcnm.errors import AlreadyExists, Conflict, Exhausted, Invalid
from libcnm.ipam import keys
from libcnm.ipam.default import DefaultIpam
from libcnm.ipam.pools import DefaultPool
from libcnm.kv.base import Transaction
from libcnm.kv.memory import MemoryStore
from libcnm.model.addresses import IPAddress, Subnet, overlaps
from libcnm.model.pool import Pool
from libcnm.system.clock import ManualClock
from libcnm.testing.ipam import network_id, within

CLIENTS = st.integers(0, 1)
POOLS = {"local": (DefaultPool("10.0.0.0/26", 28), DefaultPool("fd00::/126", 127))}
SUBNETS = (
    "ipv4", "ipv6", "10.0.0.0/28", "10.0.0.8/29", "10.0.0.0/25", "10.0.0.20/30", "10.0.0.64/31", "10.0.0.65/32",
    "fd00::/124", "fd00::4/127",
)  # fmt: skip


@attrs.define
class Network:
    """What the model knows about a pool: which addresses are held and by whom, and since when others are free."""

    pool: Pool
    holder: str
    held: dict[IPAddress, str] = attrs.field(factory=dict)
    freed: dict[IPAddress, int] = attrs.field(factory=dict)
    contended: bool = False

    def dynamic(self) -> list[IPAddress]:
        """All that may be handed out unasked, the slow way."""
        block, part = self.pool.subnet, self.pool.range
        hosts = list(block.hosts())
        return [keys.address(block.version, int(host)) for host in hosts if part is None or host in part]

    def free(self) -> list[IPAddress]:
        return [address for address in self.dynamic() if address not in self.held]

    def due(self) -> IPAddress:
        """Which free address is next: the lowest never used one, else the longest free."""
        never = [address for address in self.free() if address not in self.freed]
        return never[0] if never else min(self.free(), key=lambda address: (self.freed[address], int(address)))


@attrs.frozen
class Pending:
    """A transaction that was answered and is not committed yet, and what the model does when it is."""

    transaction: Transaction
    commit: Callable[[], None]
    lost: Callable[[], None] = lambda: None


Answer = Pending | MultipleResults[Pending]


class IpamMachine(RuleBasedStateMachine):
    """Two clients, one store."""

    networks = Bundle("networks")
    pendings = Bundle("pendings")

    @initialize()
    def begin(self) -> None:
        self.clock = ManualClock(tick=1.0)
        self.step = 0
        self.store = MemoryStore()
        self.ipams = [
            DefaultIpam(now_wall=self.clock.wall, choice=random.Random(seed).randrange, ula_seeds={}, pools=POOLS)
            for seed in (1, 2)
        ]
        self.live: dict[str, Network] = {}
        self.made = 0

    def tell(self, pending: Pending, now: bool) -> Answer:
        """Commit at once, or leave it for later."""
        if not now:
            return pending
        self.conclude(pending)
        return multiple()

    @rule(pending=consumes(pendings))
    def commit(self, pending: Pending) -> None:
        """A commit happens as a whole or not at all."""
        self.conclude(pending)

    def conclude(self, pending: Pending) -> None:
        try:
            self.store.transact(pending.transaction, deadline=within())
        except Conflict:
            pending.lost()
        else:
            pending.commit()

    @rule(pending=consumes(pendings))
    def abandon(self, pending: Pending) -> None:
        """A grant that is never committed claims nothing."""

    # -- pools

    @rule(target=networks, client=CLIENTS, subnet=st.sampled_from(SUBNETS), ranged=st.booleans())
    def create(self, client: int, subnet: str, ranged: bool) -> Network | MultipleResults[Network]:
        """A pool overlaps no other; it is refused only when another is in the way."""
        asked = Subnet.of(subnet)
        if ranged and asked.pool is not None and asked.pool.prefixlen < 29:
            asked = attrs.evolve(asked, range=type(asked.pool)((int(asked.pool[4]), asked.pool.max_prefixlen - 2)))
        self.made += 1
        holder = network_id(self.made)
        taken = [network.pool.subnet for network in self.live.values()]
        try:
            grant = self.ipams[client].request_pools(
                self.store, [PoolRequest("local", asked, holder)], deadline=within()
            )
        except AlreadyExists:
            assert asked.pool is not None
            assert any(overlaps(asked.pool, other) for other in taken)
            return multiple()
        except Exhausted:
            cut = [piece for pool in POOLS["local"] for piece in pool.base.subnets(new_prefix=pool.size)]
            mine = [ip_network(str(piece)) for piece in cut]
            assert all(any(overlaps(p, other) for other in taken) for p in mine if p.version == asked.version)
            return multiple()
        pool = grant.pools[0]
        assert not any(overlaps(pool.subnet, other) for other in taken)
        network = Network(pool, holder)
        assert pool.gateway is not None
        network.held[pool.gateway] = holder
        self.store.transact(grant.transaction, deadline=within())
        self.live[pool.id] = network
        return network

    @rule(one=CLIENTS, first=st.sampled_from(SUBNETS), second=st.sampled_from(SUBNETS))
    def create_at_once(self, one: int, first: str, second: str) -> None:
        """Of two grants made from one view, exactly the one that commits first is true."""
        grants = []
        for subnet in (first, second):
            self.made += 1
            request = PoolRequest("local", Subnet.of(subnet), network_id(self.made))
            try:
                grants.append((request, self.ipams[one].request_pools(self.store, [request], deadline=within())))
            except (AlreadyExists, Exhausted):
                return
        (request, won), (_, lost) = grants
        self.store.transact(won.transaction, deadline=within())
        self.live[won.pools[0].id] = network = Network(won.pools[0], request.holder)
        assert network.pool.gateway is not None
        network.held[network.pool.gateway] = request.holder
        try:
            self.store.transact(lost.transaction, deadline=within())
        except Conflict:
            return
        raise AssertionError("both committed")

    @rule(network=consumes(networks), client=CLIENTS)
    def delete(self, network: Network, client: int) -> None:
        """A network's end leaves none of its keys; so does a second, stale one."""
        for _ in range(2):
            self.ipams[client].purge(self.store, [network.pool], deadline=within())
            transaction = self.ipams[client].release_pools(
                self.store, [network.pool], network.holder, deadline=within()
            )
            self.store.transact(transaction, deadline=within())
        del self.live[network.pool.id]
        network.held.clear()

    # -- addresses

    @rule(
        target=pendings, network=networks, client=CLIENTS, attempt=st.sampled_from([0, 0, 0, 1, 3]), now=st.booleans()
    )
    def request(self, network: Network, client: int, attempt: int, now: bool) -> Answer:
        """Any address: free in the model, the one that is due; Exhausted exactly when there is none."""
        if network.pool.id not in self.live:
            return multiple()
        self.made += 1
        holder = f"e{self.made}"
        asked = AddressRequest(network.pool, holder, attempt=attempt)
        free = network.free()
        never = {candidate for candidate in free if candidate not in network.freed}
        try:
            grant = self.ipams[client].request_addresses(self.store, [asked], deadline=within())
            if not attempt and grant.addresses[0] not in (never or free):
                with pytest.raises(Conflict):  # a cursor that was wrongly believed is found out by the compare
                    self.store.transact(grant.transaction, deadline=within())
                again = attrs.evolve(asked, attempt=1)
                grant = self.ipams[client].request_addresses(self.store, [again], deadline=within())
        except Exhausted:
            assert not free
            return multiple()
        address = grant.addresses[0]
        assert address in (never or free)
        network.contended |= attempt > 0 or not now
        if not network.contended:
            assert network.due() == address
        return self.tell(self.claims(network, grant.transaction, address, holder), now)

    @rule(target=pendings, network=networks, client=CLIENTS, offset=st.integers(0, 15), now=st.booleans())
    def prefer(self, network: Network, client: int, offset: int, now: bool) -> Answer:
        """One address by name: given when it is free, refused with its holder when it is not."""
        block = network.pool.subnet
        if network.pool.id not in self.live or offset >= block.num_addresses:
            return multiple()
        self.made += 1
        holder, address = f"e{self.made}", block[offset]
        asked = AddressRequest(network.pool, holder, address)
        try:
            grant = self.ipams[client].request_addresses(self.store, [asked], deadline=within())
        except Invalid:
            assert address not in set(block.hosts())
            return multiple()
        except AlreadyExists as error:
            self.blames(error, network.held[address])
            return multiple()
        assert address not in network.held
        network.contended |= not now
        return self.tell(self.claims(network, grant.transaction, address, holder), now)

    def blames(self, error: AlreadyExists, holder: str) -> None:
        assert holder[:12] in str(error.holder)

    def claims(self, network: Network, transaction: Transaction, address: IPAddress, holder: str) -> Pending:
        def commit() -> None:
            if network.pool.id in self.live:
                assert address not in network.held
                network.held[address] = holder

        def lost() -> None:
            assert address in network.held or address in network.freed or network.pool.id not in self.live

        return Pending(transaction, commit, lost)

    @rule(
        target=pendings,
        network=networks,
        client=CLIENTS,
        pick=st.integers(0, 15),
        now=st.booleans(),
        mine=st.booleans(),
    )
    def release(self, network: Network, client: int, pick: int, now: bool, mine: bool) -> Answer:
        """The holder's release frees it; another's, or one made before it changed hands, frees nothing."""
        endpoints = {address: holder for address, holder in network.held.items() if address != network.pool.gateway}
        if network.pool.id not in self.live or not endpoints:
            return multiple()
        address, holder = sorted(endpoints.items(), key=lambda item: int(item[0]))[pick % len(endpoints)]
        transaction = self.ipams[client].release_addresses(
            self.store, network.pool, [address], holder if mine else "stranger", deadline=within()
        )
        if not mine:
            assert Transaction() == transaction
            return multiple()
        stamp = self.clock.monotonic()  # the order of answers is the order in which addresses became free

        def commit() -> None:
            if network.pool.id in self.live:
                assert holder == network.held.pop(address)
                network.freed[address] = int(stamp)

        network.contended |= not now
        return self.tell(Pending(transaction, commit), now)

    # -- what must hold at every moment

    @invariant()
    def store_agrees(self) -> None:
        """Held in the store = held in the model, no two pools overlap, and no key belongs to a network that is gone."""
        pools = [keys.parse_pool_key(entry) for entry in self.store.list("pool/", deadline=within()).entries]
        assert sorted(self.live) == sorted(pool.id for pool in pools)
        assert not any(overlaps(one.block, two.block) for one in pools for two in pools if one is not two)
        for network in self.live.values():
            entries = self.store.list(keys.address_prefix(network.pool.id), deadline=within()).entries
            values = {keys.parse_address_key(network.pool, entry): keys.decode_address(entry) for entry in entries}
            held = {address: value.holder for address, value in values.items() if value.holder is not None}
            assert {int(address): holder for address, holder in network.held.items()} == held


TestIpamMachine = IpamMachine.TestCase
TestIpamMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
