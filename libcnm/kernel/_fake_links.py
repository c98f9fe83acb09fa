"""Links of the fake kernel: how they come to be, change, go down and vanish, and what goes with them.

Facts with "probed" were tried on Linux 6.18 in a private namespace with iproute2 6.1 and pyroute2 0.9.7. Knows the
whole machine, because a pair has its ends in two namespaces; knows no marks beyond the group, and nothing of the door.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection

from libcnm.errors import KernelError
from libcnm.kernel._fake_routing import forget_routes
from libcnm.kernel._fake_settings import link_settings
from libcnm.kernel._fake_state import Link, LinkKind, Machine, Space, parked_name, refusal, refuse
from libcnm.kernel.resources import LINK_GROUP, PARKED_GROUP, Bridge, Interface, Veth, Vxlan
from libcnm.model import limits
from libcnm.model.resource import Resource

INNER_GROUP = LINK_GROUP + 2
"""Group of a pair's inner end, which :class:`LinuxKernel` uses to tell the two ends apart."""
_BRIDGE_MTU_ALONE = 1500
_NAME_FORBIDDEN = frozenset("/: \t\n\v\f\r")


def _check_name(name: str, subject: str) -> None:
    if len(name.encode()) > limits.INTERFACE_NAME_BYTES:
        refuse(errno.ERANGE, subject, "Attribute failed policy validation")  # probed


def _check_mac(mac: str, subject: str) -> None:
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        refuse(errno.EADDRNOTAVAIL, subject)


def _check_mtu(mtu: int, subject: str) -> None:
    if mtu < limits.MTU_MIN:
        refuse(errno.EINVAL, subject, "mtu less than device minimum")
    if mtu > limits.MTU_MAX:
        refuse(errno.EINVAL, subject, "mtu greater than device maximum")


def _free(space: Space, name: str, subject: str) -> None:
    """A name that is taken is noticed before one that cannot be."""
    if space.find(name) is not None:
        refuse(errno.EEXIST, subject)
    if name in ("", ".", "..") or _NAME_FORBIDDEN & set(name):
        refuse(errno.EINVAL, subject)


def new_link(space: Space, name: str, kind: LinkKind, mac: str, mtu: int, group: int) -> Link:
    """A link that is down, with its own sysctls, at the next index of its namespace."""
    space.last_index += 1
    link = Link(space.last_index, name, kind, mac, mtu, group, settings=link_settings(space))
    space.links[link.index] = link
    return link


def add_bridge(machine: Machine, bridge: Bridge, subject: str, *, group: int) -> None:
    """A bridge, up. Its MTU is set after it is made, and thereby pinned, unless it is what a bridge has anyway."""
    space = machine.need(bridge.ns, subject)
    _check_name(bridge.name, subject)
    _check_mac(bridge.mac, subject)
    _free(space, bridge.name, subject)
    _check_mtu(bridge.mtu, subject)
    link = new_link(space, bridge.name, "bridge", bridge.mac, bridge.mtu, group)
    link.alias, link.up, link.automatic = bridge.alias, bridge.up, group == 0
    link.mtu_pinned = bridge.mtu != _BRIDGE_MTU_ALONE


def add_veth(machine: Machine, veth: Veth, subject: str, *, group: int) -> None:
    """A pair; only the outer end is brought up. A master that refuses leaves nothing behind."""
    outer = machine.need(veth.ns, subject)
    master = None if veth.master is None else outer.link(veth.master, subject)
    inner = machine.need(veth.peer_ns, subject)
    _check_name(veth.name, subject)
    _check_mac(veth.mac, subject)
    _check_mtu(veth.mtu, subject)
    _free(outer, veth.name, subject)
    _check_name(veth.peer_name, subject)
    _check_mac(veth.peer_mac, subject)
    _free(inner, veth.peer_name, subject)
    if outer is inner and veth.name == veth.peer_name:
        refuse(errno.EEXIST, subject)  # probed
    if master is not None:
        _check_port(outer, "veth", master, subject)
    # The peer is registered first, which shows in the indexes.
    there = new_link(inner, veth.peer_name, "veth", veth.peer_mac, veth.mtu, INNER_GROUP if group else 0)
    here = new_link(outer, veth.name, "veth", veth.mac, veth.mtu, group)
    here.peer, there.peer = (inner.id.inode, there.index), (outer.id.inode, here.index)
    here.alias, here.automatic = veth.alias, group == 0
    if master is not None:
        enslave(outer, here, master, subject)
        here.hairpin, here.isolated = veth.hairpin, veth.isolated
    here.up = veth.up


def add_vxlan(machine: Machine, vxlan: Vxlan, subject: str, *, group: int) -> None:
    """A VXLAN device; VNI and port are taken host-wide, because its socket lives in the host's namespace."""
    space = machine.need(vxlan.ns, subject)
    master = None if vxlan.master is None else space.link(vxlan.master, subject)
    _check_name(vxlan.name, subject)
    _check_mac(vxlan.mac, subject)
    _check_mtu(vxlan.mtu, subject)
    if not 0 <= vxlan.vni < 1 << 24:
        refuse(errno.ERANGE, subject, "Invalid VXLAN network identifier")
    _free(space, vxlan.name, subject)
    if vxlan.local.is_multicast:
        refuse(errno.EINVAL, subject, "Local address cannot be multicast")
    for _, other in machine.all_links():
        if other.kind != "vxlan" or (other.vni, other.port) != (vxlan.vni, vxlan.port):
            continue
        # Probed: another local address is no excuse, another family is (the sockets differ).
        if other.local is None or other.local.version == vxlan.local.version:
            refuse(errno.EEXIST, subject, "A VXLAN device with the specified VNI already exists")
    if master is not None:
        _check_port(space, "vxlan", master, subject)
    link = new_link(space, vxlan.name, "vxlan", vxlan.mac, vxlan.mtu, group)
    link.vni, link.local, link.port, link.automatic = vxlan.vni, vxlan.local, vxlan.port, group == 0
    if master is not None:
        enslave(space, link, master, subject)
    link.up = vxlan.up


def _check_port(space: Space, kind: LinkKind, bridge: Link, subject: str) -> None:
    if bridge.kind != "bridge":
        refuse(errno.EOPNOTSUPP, subject)
    if kind == "bridge":
        refuse(errno.ELOOP, subject, "Can not enslave a bridge to a bridge")
    if len(space.ports(bridge)) >= limits.BRIDGE_PORTS:
        refuse(errno.EXFULL, subject)  # probed: 1,023 ports fit, the 1,024th is refused


def enslave(space: Space, link: Link, bridge: Link, subject: str) -> None:
    """Make a link a bridge's port, taking it from another bridge if need be."""
    if link.master == bridge.index:
        return
    release(space, link)
    _check_port(space, link.kind, bridge, subject)
    link.master = bridge.index
    _follow_ports(space, bridge)


def release(space: Space, link: Link) -> None:
    """A port no longer; what was set on the port (hairpin, isolation) is forgotten."""
    if link.master is None:
        return
    bridge = space.links[link.master]
    link.master, link.hairpin, link.isolated = None, False, False
    _follow_ports(space, bridge)


def _follow_ports(space: Space, bridge: Link) -> None:
    """Unless pinned, a bridge takes the smallest MTU of its ports, and 1,500 without any (probed)."""
    if not bridge.mtu_pinned:
        set_mtu(space, bridge, min((port.mtu for port in space.ports(bridge)), default=_BRIDGE_MTU_ALONE))


def set_mtu(space: Space, link: Link, mtu: int) -> None:
    """A new MTU; below 1,280 octets IPv6 leaves the device, with everything that it had."""
    had_ipv6, link.mtu = link.has_ipv6, mtu
    if had_ipv6 and not link.has_ipv6:
        forget_ipv6(space, link)
    if link.has_ipv6 and not had_ipv6:
        link.settings.update({key: value for key, value in link_settings(space).items() if key.startswith("ipv6/")})
    if link.master is not None:
        _follow_ports(space, space.links[link.master])


def forget_ipv6(space: Space, link: Link) -> None:
    """Addresses, routes and neighbours of IPv6 go when it is switched off on a link (probed)."""
    for held in [held for held in space.addresses if held[0] == link.index and held[1].version == 6]:
        del space.addresses[held]
    for there in [there for there in space.neighbours if there[0] == link.index and there[1].version == 6]:
        del space.neighbours[there]
    forget_routes(space, link, 6)


def set_up(space: Space, link: Link, up: bool) -> None:
    """Going down takes routes, neighbours (permanent ones too) and IPv6 addresses along; IPv4 ones stay (probed)."""
    if link.up and not up:
        forget_neighbours(space, link)
        forget_ipv6(space, link)
        forget_routes(space, link)
    link.up = up


def forget_neighbours(space: Space, link: Link) -> None:
    for held in [held for held in space.neighbours if held[0] == link.index]:
        del space.neighbours[held]


def change_link(machine: Machine, wanted: Bridge | Veth | Vxlan, previous: Resource | None, subject: str) -> None:
    """What of a link can change in place. Sent is what differs from ``previous``, whatever is there.

    As in a batch, each message is tried whatever became of the one before, and the first refusal is told.
    """
    space = machine.need(wanted.ns, subject)
    before = previous if isinstance(previous, type(wanted)) else None
    refused = [_attempt(lambda: _set_fields(space, wanted, before, subject))]
    if not isinstance(wanted, Bridge) and wanted.master is not None and space.find(wanted.master) is None:
        raise refused[0] or refusal(errno.ENODEV, subject)  # nothing after this is sent
    refused.append(_attempt(lambda: _set_port(space, wanted, before, subject)))
    if isinstance(wanted, Veth) and not (
        isinstance(before, Veth) and (before.peer_mac, before.mtu) == (wanted.peer_mac, wanted.mtu)
    ):
        refused.append(_attempt(lambda: _change_peer(machine, wanted, subject)))
    first = next((error for error in refused if error is not None), None)
    if first is not None:
        raise first


def _attempt(action: Callable[[], None]) -> KernelError | None:
    try:
        action()
    except KernelError as error:
        return error
    return None


def _set_fields(space: Space, wanted: Bridge | Veth | Vxlan, before: Resource | None, subject: str) -> None:
    link = space.link(wanted.name, subject)
    if not isinstance(before, Bridge | Veth | Vxlan) or before.mac != wanted.mac:
        _check_mac(wanted.mac, subject)
        _set_mac(space, link, wanted.mac)
    if not isinstance(before, Bridge | Veth | Vxlan) or before.mtu != wanted.mtu:
        _check_mtu(wanted.mtu, subject)
        _ask_mtu(space, link, wanted.mtu)
    if not isinstance(wanted, Vxlan) and wanted.alias:
        link.alias = wanted.alias


def _set_port(space: Space, wanted: Bridge | Veth | Vxlan, before: Resource | None, subject: str) -> None:
    link = space.link(wanted.name, subject)
    if not isinstance(wanted, Bridge):
        if wanted.master is None:
            release(space, link)
        else:
            enslave(space, link, space.link(wanted.master, subject), subject)
    set_up(space, link, wanted.up)
    if isinstance(wanted, Veth) and link.master is not None:
        kept = isinstance(before, Veth) and before.master == wanted.master
        was = (before.hairpin, before.isolated) if isinstance(before, Veth) and kept else (False, False)
        if (wanted.hairpin, wanted.isolated) != was:
            link.hairpin, link.isolated = wanted.hairpin, wanted.isolated


def _change_peer(machine: Machine, veth: Veth, subject: str) -> None:
    space = machine.need(veth.peer_ns, subject)
    peer = space.link(veth.peer_name, subject)
    _check_mac(veth.peer_mac, subject)
    _set_mac(space, peer, veth.peer_mac)
    _check_mtu(veth.mtu, subject)
    _ask_mtu(space, peer, veth.mtu)


def _ask_mtu(space: Space, link: Link, mtu: int) -> None:
    if link.mtu != mtu:  # asked for the MTU that it has, Linux does nothing: neither pins a bridge
        link.mtu_pinned = link.kind == "bridge"
        set_mtu(space, link, mtu)


def _set_mac(space: Space, link: Link, mac: str) -> None:
    link.mac = mac
    forget_neighbours(space, link)  # probed: permanent ones too, and even if the MAC stays the same


def configure(machine: Machine, interface: Interface, subject: str, *, up: bool) -> None:
    """Bring a link that is there up (without automatic addresses), or down."""
    space = machine.need(interface.ns, subject)
    link = space.link(interface.link, subject)
    if up:
        link.automatic = False
    set_up(space, link, up)


def delete_link(machine: Machine, wanted: Bridge | Veth | Vxlan, subject: str) -> None:
    """Park, both ends of a pair; a VXLAN device goes at once, because its VNI must be free."""
    space = machine.space(wanted.ns)
    if space is None:
        raise refusal(errno.ENODEV, subject)
    link = space.link(wanted.name, subject)
    if link.group not in (LINK_GROUP, INNER_GROUP) and not machine.whole(wanted.ns):
        refuse(errno.EPERM, subject, f"the link {wanted.name!r} is not ours")
    if link.kind == "loopback":
        refuse(errno.EOPNOTSUPP, subject)
    if isinstance(wanted, Vxlan):
        remove(machine, space, link)
        return
    _park(space, link)
    link.group = PARKED_GROUP
    if isinstance(wanted, Bridge):
        for port in space.ports(link):
            release(space, port)
    other = machine.peer(link)
    if other is not None and isinstance(wanted, Veth):
        there, inner = other
        # A pair whose inner end is not where it is said to be keeps it until the sweep.
        if there is machine.space(wanted.peer_ns) and inner.name == wanted.peer_name:
            _park(there, inner)


def _park(space: Space, link: Link) -> None:
    release(space, link)
    set_up(space, link, False)
    link.name = parked_name(link.index)


def remove(machine: Machine, space: Space, link: Link) -> None:
    """Gone for good, with the other end of a pair and every row on it."""
    other = machine.peer(link)
    _remove(space, link)
    if other is not None:
        _remove(*other)


def _remove(space: Space, link: Link) -> None:
    if link.index not in space.links:
        return
    release(space, link)
    for port in space.ports(link):
        port.master, port.hairpin, port.isolated = None, False, False
    set_up(space, link, False)
    for held in [held for held in space.addresses if held[0] == link.index]:
        del space.addresses[held]
    for there in [there for there in space.neighbours if there[0] == link.index]:
        del space.neighbours[there]
    for row in [row for row in space.fdb if row[0] == link.index]:
        del space.fdb[row]
    space.guards.pop(link.index, None)
    del space.links[link.index]


def sweep(machine: Machine, spaces: Collection[Space | None] | None) -> set[int]:
    """Remove every parked link (in these namespaces, or in all); the inodes of those that had some."""
    places = None if spaces is None else {space.id.inode for space in spaces if space is not None}
    swept: set[int] = set()
    for space, link in list(machine.all_links()):
        if places is not None and space.id.inode not in places:
            continue
        if link.group == PARKED_GROUP and space.links.get(link.index) is link:
            swept.add(space.id.inode)
            remove(machine, space, link)
    return swept
