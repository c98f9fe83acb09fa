"""The null IPAM: for networks whose addresses are somebody else's business (a DHCP server on the wire, or nobody's).

Its one pool is 0.0.0.0/0, in any number of networks at once; it hands out no addresses and keeps nothing, so it must
never know a store's keys. Source: libnetwork ``ipams/null``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import ClassVar, Final

from libcnm.contracts.ipam import AddressGrant, AddressRequest, IpamDriver, Pool, PoolGrant, PoolRequest
from libcnm.errors import Invalid
from libcnm.kv.base import NOTHING, Store, Transaction
from libcnm.model.addresses import IPAddress
from libcnm.model.deadline import Deadline

EVERYTHING: Final = ipaddress.IPv4Network("0.0.0.0/0")


class NullIpam(IpamDriver):
    """No addresses. A subnet, IPv6, an option or a preferred address is :class:`~libcnm.errors.Invalid`."""

    name: ClassVar[str] = "null"

    def request_pools(self, store: Store, requests: Sequence[PoolRequest], *, deadline: Deadline) -> PoolGrant:
        for request in requests:
            if request.subnet.pool is not None:
                raise Invalid(
                    "subnet", str(request.subnet.pool), "cannot be given to the null IPAM, which has no addresses"
                )
            if request.subnet.version != 4:
                raise Invalid("subnet", "ipv6", "is not known to the null IPAM")
            for option in request.options:
                raise Invalid("ipam option", option, "is not known to the null IPAM")
        return PoolGrant(
            tuple(Pool(f"{request.holder}.{request.index}", request.space, EVERYTHING) for request in requests)
        )

    def release_pools(self, store: Store, pools: Sequence[Pool], holder: str, *, deadline: Deadline) -> Transaction:
        return NOTHING

    def request_addresses(
        self, store: Store, requests: Sequence[AddressRequest], *, deadline: Deadline
    ) -> AddressGrant:
        """An empty grant, whatever the number of requests."""
        for request in requests:
            if request.preferred is not None:
                raise Invalid(
                    "address", str(request.preferred), "cannot be asked of the null IPAM, which has no addresses"
                )
        return AddressGrant(())

    def release_addresses(
        self, store: Store, pool: Pool, addresses: Sequence[IPAddress], holder: str, *, deadline: Deadline
    ) -> Transaction:
        return NOTHING
