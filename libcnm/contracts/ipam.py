"""What an IPAM driver promises.

A *declarative* IPAM (the default one, the null one) never writes: it reads the store and answers with the transaction
that would make its grant true. The controller adds that transaction to the verb's own, so a name, its addresses and its
record appear together or not at all; on :class:`~libcnm.errors.Conflict` it asks again. An *imperative* one (a remote
plug-in) acts at once, answers with an empty transaction, and is told to release when the verb fails.

The terms are libnetwork's ``ipamapi``: an address space ("local" for one host, "global" for the cluster), a pool, a
sub-pool (``range``), a gateway, auxiliary addresses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Self

import attrs

from libcnm.kv.base import NOTHING, Store, Transaction
from libcnm.model.addresses import IPAddress, IPNetwork, Subnet
from libcnm.model.deadline import Deadline
from libcnm.model.pool import Pool

__all__ = [
    "AddressGrant",
    "AddressRequest",
    "Avoid",
    "IpamDriver",
    "IpamFacts",
    "Pool",
    "PoolGrant",
    "PoolRequest",
]


@attrs.frozen
class Avoid:
    """A block that an automatic pool must not overlap, and why, in words for the error ("route via eth0").

    ``on_link`` says that it is a foreign interface's own subnet: a pool there would cut the host off, so an explicit
    pool is refused as well. False for what only steers automatic pools: a route through a gateway or a tunnel (a VPN's
    10.0.0.0/8 is no reason to refuse 10.88.0.0/24), a nameserver. A default route is never an overlap.
    """

    block: IPNetwork
    reason: str
    on_link: bool = True


@attrs.frozen
class PoolRequest:
    """One subnet of a network to be. ``holder`` is the network's id, never used again; ``index`` counts its subnets.

    ``room``: for how many endpoints an automatic pool had better have addresses. A wish: less will do.
    """

    space: str
    subnet: Subnet
    holder: str
    index: int = 0
    avoid: Sequence[Avoid] = ()
    needs_gateway: bool = True
    options: Mapping[str, str] = attrs.field(factory=dict)
    room: int = 0


@attrs.frozen
class AddressRequest:
    """One address of one pool. ``preferred`` None means any. ``holder`` is the endpoint's id.

    ``attempt`` says how often what this pool has granted met a :class:`~libcnm.errors.Conflict` so far: hosts that want
    any address all begin with the same candidate, and spread out from the second attempt on.
    """

    pool: Pool
    holder: str
    preferred: IPAddress | None = None
    mac: str | None = None
    attempt: int = 0


@attrs.frozen
class PoolGrant:
    """The pools asked for, in order, and the transaction that claims them, their gateways and auxiliary addresses."""

    pools: tuple[Pool, ...]
    transaction: Transaction = NOTHING


@attrs.frozen
class AddressGrant:
    """The addresses asked for, in order, and the transaction that claims them all. The null IPAM grants none."""

    addresses: tuple[IPAddress, ...]
    transaction: Transaction = NOTHING


@attrs.frozen
class IpamFacts:
    """What an IPAM may know of where it runs. ``seed`` is the same wherever the address space is shared (the
    installation's id, the cluster's lineage); ``now_wall`` gives seconds since the epoch, ``choice(n)`` an even draw
    from 0 to n - 1.
    """

    space: str
    seed: str
    now_wall: Callable[[], float]
    choice: Callable[[int], int]


class IpamDriver(ABC):
    """One IPAM. Stateless between calls; what it keeps is in the store. All methods may be called from any thread.

    Found by name in the entry-point group ``libcnm.ipam`` and opened once per address space. What it raises beside
    :class:`~libcnm.errors.CnmError`, or answers that is no answer, is made a DriverError that names it.
    """

    name: ClassVar[str]

    @classmethod
    def open(cls, facts: IpamFacts) -> Self:
        """The IPAM for one address space; override it to use the facts."""
        del facts
        return cls()

    @abstractmethod
    def request_pools(self, store: Store, requests: Sequence[PoolRequest], *, deadline: Deadline) -> PoolGrant:
        """Pools for all the subnets of one network, in one transaction.

        Raises :class:`~libcnm.errors.Invalid` (not usable at all), :class:`~libcnm.errors.AlreadyExists` (kind
        ``"pool"``: overlaps another network's, or this host's own subnet; ``holder`` names it),
        :class:`~libcnm.errors.Exhausted` (no default pool is left; ``refusals`` says why each candidate was refused).
        """

    @abstractmethod
    def release_pools(self, store: Store, pools: Sequence[Pool], holder: str, *, deadline: Deadline) -> Transaction:
        """The transaction that gives the pools back; a pool that ``holder`` does not hold is left alone.

        Address keys may be more than one transaction takes: :meth:`purge` removes them first, while the network is
        marked as being deleted and no endpoint can appear.
        """

    def purge(self, store: Store, pools: Sequence[Pool], *, deadline: Deadline) -> None:
        """Remove what :meth:`release_pools` could not fit; called after the last endpoint is gone. May be repeated."""
        return

    @abstractmethod
    def request_addresses(
        self, store: Store, requests: Sequence[AddressRequest], *, deadline: Deadline
    ) -> AddressGrant:
        """One address per request (an endpoint's v4 and v6 together), in one transaction.

        A preferred address may lie outside the pool's range but not outside its subnet; one that ``holder`` already
        holds is granted again. Raises :class:`~libcnm.errors.Invalid` (outside the subnet; network or broadcast
        address), :class:`~libcnm.errors.AlreadyExists` (kind ``"address"``), :class:`~libcnm.errors.Exhausted`.
        """

    @abstractmethod
    def release_addresses(
        self, store: Store, pool: Pool, addresses: Sequence[IPAddress], holder: str, *, deadline: Deadline
    ) -> Transaction:
        """The transaction that frees those of the addresses that ``holder`` holds; a stale release frees nothing."""
