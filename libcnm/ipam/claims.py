"""Which pools a network gets: one call's view of an address space, and the claims that it adds.

A claim compares and rewrites the one small key of its space, which was read before the space's pools were listed: two
claims that did not see each other cannot both commit. A release only deletes, so it needs no compare.

Explicit pools may overlap neither another network's (libnetwork skipped that check when there was a range, moby#46756)
nor a subnet on this host's own links. Automatic ones keep clear of everything that the caller says, and go round, so
that a pool just given back is the last to be handed out again.

It must never know a store or a clock: it is given what was read, and answers with a transaction. Sources: libnetwork
``ipamapi``, ``ipam/allocator.go``, ``network.go`` (``ipamAllocate``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from libcnm.contracts.ipam import Avoid, Pool, PoolGrant, PoolRequest
from libcnm.errors import AlreadyExists, Exhausted, Invalid
from libcnm.ipam import keys, pools
from libcnm.ipam.pools import DefaultPool, Taken
from libcnm.kv.base import Absent, Compare, Entry, Put, Transaction, VersionIs, Write
from libcnm.model import limits
from libcnm.model.addresses import IPAddress, IPNetwork, overlaps
from libcnm.model.options import boolean

SERIAL: Final = "com.docker.network.ipam.serial"
"""libnetwork's switch for "do not reuse an address at once". Accepted; this IPAM never does, so it changes nothing."""
ALLOW_HOST_OVERLAP: Final = "com.docker.network.ipam.allow_host_overlap"
"""``"true"`` lets an explicit pool overlap a subnet of this host's own interfaces."""
CALLER_OPERATIONS: Final = 12
"""What a grant leaves of a transaction's operations for the network's own record, name and feed."""


def check_requests(requests: Sequence[PoolRequest]) -> None:
    """Refuse what no space could grant; raises :class:`~libcnm.errors.Invalid`."""
    if len({request.space for request in requests}) > 1:
        raise Invalid(
            "space", sorted({request.space for request in requests}), "must be one for all subnets of a network"
        )
    ids = [keys.pool_id(request.holder, request.index) for request in requests]
    if len(set(ids)) != len(ids):
        raise Invalid("index", [request.index for request in requests], "must differ between the subnets of a network")
    for request in requests:
        for option, value in request.options.items():
            if option not in (SERIAL, ALLOW_HOST_OVERLAP):
                raise Invalid(
                    "ipam option", option, "is not known", hint=f"known are {SERIAL} and {ALLOW_HOST_OVERLAP}"
                )
            boolean(option, value)


class Claims:
    """One call's view of a space, and the claims it adds to it."""

    def __init__(
        self, space: str, head: Entry | None, listed: Sequence[Entry], defaults: Sequence[DefaultPool], now: float
    ) -> None:
        self._space = space
        self._head = head
        self._state = keys.SpaceValue() if head is None else keys.decode_space(head)
        self._last = dict(self._state.last)
        self._claimed = [keys.parse_pool_key(entry) for entry in listed]
        self._entries = {claim.id: entry for claim, entry in zip(self._claimed, listed, strict=True)}
        self._defaults = defaults
        self._now = now
        self._compares: list[Compare] = []
        self._writes: list[Write] = []

    def grant(self, requests: Sequence[PoolRequest]) -> PoolGrant:
        granted: dict[int, Pool] = {}
        # Explicit ones first, so that an automatic one of the same network does not take their place.
        for at in sorted(range(len(requests)), key=lambda index: requests[index].subnet.pool is None):
            granted[at] = self._again(requests[at]) or self._claim(requests[at], [granted[i].subnet for i in granted])
        if self._writes:
            key = keys.space_key(self._space)
            self._compares.insert(0, Absent(key) if self._head is None else VersionIs(key, self._head.version))
            self._writes.insert(0, Put(key, keys.encode_space(keys.SpaceValue(self._state.epoch + 1, self._last))))
        operations = len(self._compares) + len(self._writes)
        room = limits.TRANSACTION_OPERATIONS - CALLER_OPERATIONS
        if operations > room:
            raise Invalid("aux", operations - room, "auxiliary addresses are more than one network can reserve",
                          hint="give the network a range and leave the rest of its subnet out")  # fmt: skip
        return PoolGrant(tuple(granted[at] for at in range(len(requests))), Transaction(self._compares, self._writes))

    def _again(self, request: PoolRequest) -> Pool | None:
        """The pool that this very request was granted before; nothing new is written for it."""
        entry = self._entries.get(keys.pool_id(request.holder, request.index))
        if entry is None:
            return None
        pool, asked = keys.decode_pool(self._space, entry), request.subnet
        given = {
            "subnet": (asked.pool, pool.subnet),
            "range": (asked.range, pool.range),
            "gateway": (asked.gateway, pool.gateway),
        }
        differing = [field for field, (wanted, has) in given.items() if wanted is not None and wanted != has]
        if differing or asked.version != pool.subnet.version or dict(asked.aux) != dict(pool.aux):
            raise AlreadyExists(
                "pool", pool.id, holder=_network(pool.id, pool.subnet), differences=differing or ["subnet"]
            )
        self._compares.append(VersionIs(entry.key, entry.version))
        return pool

    def _claim(self, request: PoolRequest, siblings: Sequence[IPNetwork]) -> Pool:
        asked = request.subnet
        if asked.pool is None:
            block = self._automatic(request, siblings)
        else:
            block = self._explicit(request, asked.pool, siblings)
        gateway = _gateway(request, block)
        pool = Pool(
            keys.pool_id(request.holder, request.index), self._space, block, asked.range, gateway, dict(asked.aux)
        )
        self._writes.append(Put(keys.pool_key(pool), keys.encode_pool(pool)))
        purposes = {int(address): keys.AUX for address in pool.aux.values()}
        if gateway is not None:
            purposes[int(gateway)] = keys.GATEWAY
        # No compare: the id is new, so nobody else can know these keys.
        for value, purpose in purposes.items():
            held = keys.AddressValue(request.holder, purpose, at=self._now)
            self._writes.append(Put(keys.address_key(pool, value), keys.encode_address(held)))
        return pool

    def _explicit(self, request: PoolRequest, block: IPNetwork, siblings: Sequence[IPNetwork]) -> IPNetwork:
        pools.check_usable(block)
        for sibling in siblings:
            if overlaps(block, sibling):
                raise Invalid("subnet", str(block), f"overlaps {sibling} of the same network")
        first, last = int(block.network_address), int(block.broadcast_address)
        for claim in self._claimed:
            if claim.version == block.version and claim.first <= last and first <= claim.last:
                raise AlreadyExists(
                    "pool", str(block), holder=_network(claim.id, claim.block), hint="choose another subnet"
                )
        if not boolean(ALLOW_HOST_OVERLAP, request.options.get(ALLOW_HOST_OVERLAP, "false")):
            for avoid in _avoided(request, block.version):
                if avoid.on_link and overlaps(block, avoid.block):
                    raise AlreadyExists(
                        "pool",
                        str(block),
                        holder=f"{avoid.reason} ({avoid.block})",
                        hint=f"this host would lose its connection to {avoid.block}; choose another subnet, or set the"
                        f" ipam option {ALLOW_HOST_OVERLAP}=true",
                    )
        return block

    def _automatic(self, request: PoolRequest, siblings: Sequence[IPNetwork]) -> IPNetwork:
        version = request.subnet.version
        defaults = [pool for pool in self._defaults if pool.base.version == version]
        if not defaults:
            raise Invalid("subnet", None, f"is needed: address space {self._space!r} has no IPv{version} default pools")
        taken = [
            Taken(claim.first, claim.last, network=claim.holder) for claim in self._claimed if claim.version == version
        ]
        taken += [_taken(block, network=request.holder) for block in siblings if block.version == version]
        taken += [_taken(avoid.block, why=avoid.reason) for avoid in _avoided(request, version)]
        roomy = [pool.for_room(request.room) for pool in defaults] if request.room else defaults
        if roomy != defaults and (larger := pools.choose(roomy, 0, taken)) is not None:
            return larger[1]
        chosen = pools.choose(defaults, self._last.get(version, -1) + 1, taken)
        if chosen is None:
            raise Exhausted(
                f"IPv{version} default pool", pools.refusals(defaults, taken), hint="give a subnet, or delete a network"
            )
        self._last[version], block = chosen
        return block


def _avoided(request: PoolRequest, version: int) -> list[Avoid]:
    return [avoid for avoid in request.avoid if avoid.block.version == version and avoid.block.prefixlen > 0]


def _taken(block: IPNetwork, *, network: str = "", why: str = "") -> Taken:
    return Taken(int(block.network_address), int(block.broadcast_address), network, why)


def _network(pool_id: str, block: IPNetwork) -> str:
    return f"network {pool_id.rpartition('.')[0][:12]} ({block})"


def _gateway(request: PoolRequest, block: IPNetwork) -> IPAddress | None:
    """The gateway asked for, or the lowest address of the range that is free; None when none is needed."""
    asked = request.subnet
    aux = {int(address): name for name, address in asked.aux.items()}
    if len(aux) != len(asked.aux):
        raise Invalid("aux", {name: str(address) for name, address in asked.aux.items()}, "name one address twice")
    for name, address in asked.aux.items():
        pools.check_assignable(block, address, f"aux[{name}]")
    first, last = pools.dynamic(block, asked.range)
    if first > last:
        raise Invalid("range", str(asked.range), f"holds no address of {block} that an interface may have")
    if asked.gateway is not None:
        pools.check_assignable(block, asked.gateway, "gateway")
        if int(asked.gateway) in aux:
            raise Invalid("gateway", str(asked.gateway), f"is also aux[{aux[int(asked.gateway)]}]")
        return asked.gateway
    if not request.needs_gateway:
        return None
    free = next((value for value in range(first, min(last, first + len(aux)) + 1) if value not in aux), None)
    if free is None:
        raise Exhausted(
            f"address for the gateway of {asked.range or block}", [f"all {len(aux)} are auxiliary addresses"]
        )
    return keys.address(block.version, free)
