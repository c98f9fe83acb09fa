"""Addresses, rules, neighbours and forwarding rows of the fake kernel.

Facts with "probed" were tried on Linux 6.18 in a private namespace with iproute2 6.1 and pyroute2 0.9.7. Knows one
namespace at a time; which rows are read back, and as whose, is decided elsewhere.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Hashable

from libcnm.kernel._fake_routing import forget_routes, primaries
from libcnm.kernel._fake_state import Link, Row, Space, refuse
from libcnm.kernel.resources import Address, Fdb, LoopbackGuard, Neighbour, Rule
from libcnm.model.addresses import IPAddress, IPInterface
from libcnm.model.limits import INTERFACE_NAME_BYTES

# -- addresses --------------------------------------------------------------------------------------------------------


def add_address(space: Space, address: Address, subject: str, *, marked: bool) -> None:
    """IPv4 tells addresses of a link apart with their length, IPv6 without (probed)."""
    link = space.link(address.link, subject)
    if address.address.version == 6:
        _check_v6(space, link, address.address, subject)
    elif (link.index, address.address) in space.addresses:
        refuse(errno.EEXIST, subject, "ipv4: Address already assigned")
    space.addresses[link.index, address.address] = Row(address, link.index, marked)


def _check_v6(space: Space, link: Link, interface: IPInterface, subject: str) -> None:
    ip = interface.ip
    if ip.is_unspecified:
        refuse(errno.EADDRNOTAVAIL, subject, "ipv6: Invalid address")
    if ip.is_multicast:
        refuse(errno.EADDRNOTAVAIL, subject, 'ipv6: Cannot assign multicast address without "IFA_F_MCAUTOJOIN" flag')
    if not link.has_ipv6:
        refuse(errno.EINVAL, subject)  # probed with an MTU of 1,279
    if not link.ipv6_enabled:
        refuse(errno.EACCES, subject, "ipv6: IPv6 is disabled on this device")
    if ip.is_loopback and link.kind != "loopback":
        refuse(errno.EADDRNOTAVAIL, subject, "ipv6: Cannot assign loopback address on this device")
    if any(held.ip == ip for index, held in space.addresses if index == link.index):
        refuse(errno.EEXIST, subject, "ipv6: address already assigned")


def delete_address(space: Space, address: Address, subject: str) -> None:
    """The last IPv4 address takes the IPv4 routes and neighbours of its link along, a primary one its secondaries."""
    link = space.link(address.link, subject)
    held = (link.index, address.address)
    if held not in space.addresses:
        refuse(errno.EADDRNOTAVAIL, subject, f"ipv{address.address.version}: address not found")
    was_primary = any(one.address == address.address for one in primaries(space, link))
    del space.addresses[held]
    if address.address.version == 6:
        return
    if was_primary and link.settings["ipv4/promote_secondaries"] == space.settings[_PROMOTE_ALL] == "0":
        _delete_secondaries(space, link, address.address)
    if not any(index == link.index and interface.version == 4 for index, interface in space.addresses):
        forget_routes(space, link, 4)
        for there in [there for there in space.neighbours if there[0] == link.index and there[1].version == 4]:
            del space.neighbours[there]


_PROMOTE_ALL = "net/ipv4/conf/all/promote_secondaries"


def _delete_secondaries(space: Space, link: Link, primary: IPInterface) -> None:
    for held in [held for held in space.addresses if held[0] == link.index and held[1].network == primary.network]:
        del space.addresses[held]


# -- rules ------------------------------------------------------------------------------------------------------------


def rule_key(rule: Rule) -> Hashable:
    """Where a rule goes on is not in it (probed: EEXIST)."""
    mask = rule.mask if rule.mark is not None else None
    return rule.version, rule.priority, rule.table, rule.iif, rule.mark, mask, rule.action


def add_rule(space: Space, rule: Rule, subject: str, *, marked: bool) -> None:
    if rule.iif is not None and len(rule.iif.encode()) > INTERFACE_NAME_BYTES:
        refuse(errno.ERANGE, subject, "Attribute failed policy validation")
    if rule.action == "goto" and rule.goto <= rule.priority:
        refuse(errno.EINVAL, subject, "Backward goto not supported")
    if rule_key(rule) in space.rules:
        refuse(errno.EEXIST, subject)
    space.rules[rule_key(rule)] = Row(rule, 0, marked)


def delete_rule(space: Space, rule: Rule, subject: str) -> None:
    held = space.rules.get(rule_key(rule))
    if held is None or not held.marked:  # the message asks for our protocol
        refuse(errno.ENOENT, subject)
    del space.rules[rule_key(rule)]


# -- neighbours -------------------------------------------------------------------------------------------------------


def put_neighbour(space: Space, neighbour: Neighbour, subject: str, *, marked: bool) -> None:
    """Replace or make; the link need not be up, nor the address be on-link (probed)."""
    link = space.link(neighbour.link, subject)
    if neighbour.address.version == 6 and not link.ipv6_enabled:
        refuse(errno.EINVAL, subject, "IPv6 is disabled on this device")
    space.neighbours[link.index, neighbour.address] = Row(neighbour, link.index, marked)


def delete_neighbour(space: Space, neighbour: Neighbour, subject: str) -> None:
    link = space.link(neighbour.link, subject)
    if space.neighbours.pop((link.index, neighbour.address), None) is None:
        refuse(errno.ENOENT, subject)


# -- forwarding rows --------------------------------------------------------------------------------------------------


def put_fdb(space: Space, fdb: Fdb, subject: str, *, marked: bool) -> None:
    """Replace or make, for one unicast MAC; broadcast and unknown unicast cannot be replaced (probed)."""
    link = space.link(fdb.link, subject)
    if link.kind != "vxlan":
        refuse(errno.EOPNOTSUPP, subject)
    if _family(fdb.vtep) != _family(link.local or ipaddress.IPv4Address(0)):
        refuse(errno.EAFNOSUPPORT, subject)
    if int(fdb.mac[:2], 16) & 1 or fdb.mac == "00:00:00:00:00:00":
        refuse(errno.EOPNOTSUPP, subject)
    space.fdb[link.index, fdb.mac] = Row(fdb, link.index, marked)


def _family(address: IPAddress) -> int:
    return address.version


def delete_fdb(space: Space, fdb: Fdb, subject: str) -> None:
    link = space.link(fdb.link, subject)
    if link.kind != "vxlan" or space.fdb.pop((link.index, fdb.mac), None) is None:
        refuse(errno.ENOENT, subject)


# -- guards -----------------------------------------------------------------------------------------------------------


def add_guard(space: Space, guard: LoopbackGuard, subject: str, *, marked: bool) -> None:
    """One for each link; whoever has made it, it is known by its number."""
    del marked
    link = space.link(guard.link, subject)
    if link.index in space.guards:
        refuse(errno.EEXIST, subject, "Filter already exists")
    space.guards[link.index] = guard.mark


def delete_guard(space: Space, guard: LoopbackGuard, subject: str) -> None:
    link = space.link(guard.link, subject)
    if space.guards.pop(link.index, None) is None:
        refuse(errno.ENOENT, subject)
