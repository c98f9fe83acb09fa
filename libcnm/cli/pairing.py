"""Docker's loose words for pools, brought together: which range, gateway and auxiliary address belongs to which subnet.

``--subnet``, ``--ip-range``, ``--gateway`` and ``--aux-address`` are given in any order and any number; each is matched
to the subnet that contains it. Pure. The law: ``docker network create`` (libnetwork's reference, 9.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from libcnm.errors import Invalid
from libcnm.model.addresses import IPAddress, IPNetwork, Subnet, overlaps, parse_address, parse_pool

Value = TypeVar("Value", IPNetwork, IPAddress)


def subnets(
    pools: Sequence[str],
    ranges: Sequence[str] = (),
    gateways: Sequence[str] = (),
    aux: Mapping[str, str] | None = None,
    *,
    ipv6: bool = False,
) -> list[Subnet]:
    """The subnets to ask for. ``ipv6``: also one from the default pools of IPv6, unless one is given.

    Raises Invalid: no subnet contains it, two of a kind for one subnet, subnets that overlap.
    """
    known = [parse_pool(pool, "--subnet") for pool in pools]
    for index, one in enumerate(known):
        for other in known[:index]:
            if overlaps(one, other):
                raise Invalid("--subnet", str(one), f"overlaps {other}")
    range_of: dict[IPNetwork, IPNetwork] = {}
    for text in ranges:
        block = parse_pool(text, "--ip-range")
        _claim(range_of, _home(known, block[0], "--ip-range", text), block, "--ip-range")
    gateway_of: dict[IPNetwork, IPAddress] = {}
    for text in gateways:
        address = parse_address(text, "--gateway")
        _claim(gateway_of, _home(known, address, "--gateway", text), address, "--gateway")
    aux_of: dict[IPNetwork, dict[str, IPAddress]] = {}
    for name, text in (aux or {}).items():
        address = parse_address(text, "--aux-address")
        aux_of.setdefault(_home(known, address, "--aux-address", text), {})[name] = address
    found = [
        Subnet(pool, range=range_of.get(pool), gateway=gateway_of.get(pool), aux=aux_of.get(pool, {})) for pool in known
    ]
    if ipv6 and all(pool.version == 4 for pool in known):
        found = [*(found or [Subnet(version=4)]), Subnet(version=6)]
    return found


def _home(known: Sequence[IPNetwork], address: IPAddress, option: str, text: str) -> IPNetwork:
    for pool in known:
        if address in pool:
            return pool
    raise Invalid(option, text, "is in none of the subnets", hint="give the --subnet that contains it")


def _claim(taken: dict[IPNetwork, Value], pool: IPNetwork, value: Value, option: str) -> None:
    if pool in taken:
        raise Invalid(option, str(value), f"is the second for subnet {pool}")
    taken[pool] = value
