"""The default IPAM: it reads the store and answers with the transaction that makes its grant true, without any lock.

Pools are claimed in :mod:`libcnm.ipam.claims`, addresses in :mod:`libcnm.ipam.search`, the keys are in
:mod:`libcnm.ipam.keys`. Only :meth:`DefaultIpam.purge` writes. It must never know networks, endpoints or drivers; clock
and chance are given to it. Sources: libnetwork ``ipamapi`` and ``ipam``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import ClassVar, Self

from libcnm.contracts.ipam import AddressGrant, AddressRequest, IpamDriver, IpamFacts, Pool, PoolGrant, PoolRequest
from libcnm.ipam import keys
from libcnm.ipam.claims import Claims, check_requests
from libcnm.ipam.pools import DEFAULT_POOLS, DefaultPool, ula_pool
from libcnm.ipam.search import Search, reserved
from libcnm.kv.base import Compare, Delete, Put, Store, Transaction, VersionIs, Write
from libcnm.model import limits
from libcnm.model.addresses import IPAddress
from libcnm.model.deadline import Deadline


class DefaultIpam(IpamDriver):
    """Docker's address management over any store.

    ``pools``: per address space, the blocks that automatic pools are cut from (replace them whole, as Docker's
    ``default-address-pools`` does). ``ula_seeds``: per space, the text whose hash makes the IPv6 default /48: the
    installation's id for "local", the cluster's lineage for "global"; used when the space has no IPv6 pool of its own.
    ``now_wall``: seconds since the epoch, used for order only. ``choice(n)``: an integer from 0 to n - 1, evenly drawn.
    """

    name: ClassVar[str] = "default"

    def __init__(
        self,
        *,
        now_wall: Callable[[], float],
        choice: Callable[[int], int],
        ula_seeds: Mapping[str, str],
        pools: Mapping[str, Sequence[DefaultPool]] = DEFAULT_POOLS,
    ) -> None:
        self._now_wall = now_wall
        self._choice = choice
        self._pools = _with_ula(pools, ula_seeds)

    @classmethod
    def open(cls, facts: IpamFacts) -> Self:
        return cls(now_wall=facts.now_wall, choice=facts.choice, ula_seeds={facts.space: facts.seed})

    def request_pools(self, store: Store, requests: Sequence[PoolRequest], *, deadline: Deadline) -> PoolGrant:
        if not requests:
            return PoolGrant(())
        check_requests(requests)
        space = requests[0].space
        # The order matters: whatever commits between these two reads moves the space key, and our compare fails.
        head = store.get(keys.space_key(space), deadline=deadline)
        listed = store.list(keys.pools_prefix(space), deadline=deadline).entries
        claims = Claims(space, head, listed, self._pools.get(space, ()), self._now_wall())
        return claims.grant(requests)

    def release_pools(self, store: Store, pools: Sequence[Pool], holder: str, *, deadline: Deadline) -> Transaction:
        doomed: list[str] = []
        for pool in pools:
            if pool.id.rpartition(".")[0] == holder:
                doomed += [keys.pool_key(pool), keys.cursor_key(pool.id)]
                doomed += [keys.address_key(pool, value) for value in reserved(pool)]
        return Transaction(writes=tuple(Delete(key) for key in dict.fromkeys(doomed)))

    def purge(self, store: Store, pools: Sequence[Pool], *, deadline: Deadline) -> None:
        """Gateway and auxiliary addresses stay until :meth:`release_pools`: the network may yet live on."""
        for pool in pools:
            kept = {keys.address_key(pool, value) for value in reserved(pool)}
            listed = store.list(keys.address_prefix(pool.id), deadline=deadline).entries
            doomed = iter([keys.cursor_key(pool.id), *(entry.key for entry in listed if entry.key not in kept)])
            while chunk := tuple(islice(doomed, limits.TRANSACTION_OPERATIONS)):
                store.transact(Transaction(writes=tuple(Delete(key) for key in chunk)), deadline=deadline)

    def request_addresses(
        self, store: Store, requests: Sequence[AddressRequest], *, deadline: Deadline
    ) -> AddressGrant:
        return Search(store, deadline, self._choice, self._now_wall()).grant(requests)

    def release_addresses(
        self, store: Store, pool: Pool, addresses: Sequence[IPAddress], holder: str, *, deadline: Deadline
    ) -> Transaction:
        compares: list[Compare] = []
        writes: list[Write] = []
        wanted = [
            keys.address_key(pool, int(address)) for address in dict.fromkeys(addresses) if address in pool.subnet
        ]
        for key, entry in store.get_many(wanted, deadline=deadline).items():
            value = keys.decode_address(entry)
            if value.holder == holder:
                freed = keys.AddressValue(None, generation=value.generation + 1, at=self._now_wall())
                compares.append(VersionIs(key, entry.version))
                writes.append(Put(key, keys.encode_address(freed)))
        return Transaction(tuple(compares), tuple(writes))


def _with_ula(
    given: Mapping[str, Sequence[DefaultPool]], seeds: Mapping[str, str]
) -> dict[str, tuple[DefaultPool, ...]]:
    spaces = {space: tuple(given.get(space, ())) for space in {**given, **seeds}}
    for space, seed in seeds.items():
        if not any(pool.base.version == 6 for pool in spaces[space]):
            spaces[space] += (ula_pool(seed),)
    return spaces
