"""A granted address pool, as it is kept in a network's record."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from libcnm.model.addresses import IPAddress, IPNetwork


@attrs.frozen
class Pool:
    """``id`` scopes the pool's address keys and is never used again; ``range`` is the part that addresses are taken
    from.
    """

    id: str
    space: str
    subnet: IPNetwork
    range: IPNetwork | None = None
    gateway: IPAddress | None = None
    aux: Mapping[str, IPAddress] = attrs.field(factory=dict)
