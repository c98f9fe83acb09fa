"""Sysctls and firewall tables of the fake kernel.

Sysctls: those that libcnm, its tests and its users' labs touch, with Linux's defaults, its fan-out (``all`` reaches
every link) and its refusals; any other key is "not there". Tables: their existence, their sets and their elements,
never what they do to a packet. "Probed" facts were tried on Linux 6.18. Knows one namespace at a time, and no effects.
"""

from __future__ import annotations

import errno
from collections.abc import Hashable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from libcnm.errors import KernelError
from libcnm.kernel._fake_state import Link, Space, Table, refuse
from libcnm.kernel.firewall_rules import STRUCTURE, Datatype
from libcnm.kernel.resources import FirewallElement, FirewallTable, KeyPart, Sysctl
from libcnm.model.addresses import IPNetwork, overlaps
from libcnm.model.limits import INTERFACE_NAME_BYTES
from libcnm.model.resource import Resource

_CONF_DEFAULTS = {
    "ipv4": {
        **dict.fromkeys(("accept_local", "arp_announce", "arp_ignore", "arp_notify", "forwarding"), "0"),
        **dict.fromkeys(("log_martians", "promote_secondaries", "proxy_arp", "route_localnet", "rp_filter"), "0"),
        "src_valid_mark": "0",
        **dict.fromkeys(("accept_redirects", "send_redirects", "secure_redirects"), "1"),
    },
    "ipv6": {
        **dict.fromkeys(("accept_ra", "accept_dad", "accept_redirects", "autoconf", "dad_transmits"), "1"),
        **dict.fromkeys(("addr_gen_mode", "disable_ipv6", "forwarding", "keep_addr_on_down", "proxy_ndp"), "0"),
    },
}
_GLOBAL_DEFAULTS = {
    "net/ipv4/ip_forward": "0",
    "net/ipv4/ip_local_port_range": "32768\t60999",
    "net/ipv4/ip_nonlocal_bind": "0",
    "net/ipv4/ip_unprivileged_port_start": "1024",
    "net/ipv4/icmp_echo_ignore_all": "0",
    "net/ipv4/ping_group_range": "1\t0",
    "net/ipv4/tcp_syncookies": "1",
    "net/ipv6/bindv6only": "0",
    "net/ipv6/ip_nonlocal_bind": "0",
    "net/core/somaxconn": "4096",
    # Built in and on in every new namespace of the kernel that was probed.
    "net/bridge/bridge-nf-call-iptables": "1",
    "net/bridge/bridge-nf-call-ip6tables": "1",
    "net/bridge/bridge-nf-call-arptables": "1",
}
IPV4_FORWARD, IPV4_ALL_FORWARD = "net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding"


def new_settings(*, made: bool) -> dict[str, str]:
    """The sysctls of a new namespace; one that we make has IPv6 and router advertisements off."""
    settings = dict(_GLOBAL_DEFAULTS)
    for family, names in _CONF_DEFAULTS.items():
        for where in ("all", "default"):
            settings.update({f"net/{family}/conf/{where}/{name}": value for name, value in names.items()})
    if made:
        for where in ("all", "default"):
            settings[f"net/ipv6/conf/{where}/disable_ipv6"] = "1"
        settings["net/ipv6/conf/default/accept_ra"] = "0"
    return settings


def link_settings(space: Space) -> dict[str, str]:
    """What a new link starts with: a copy of ``default``."""
    return {
        f"{family}/{name}": space.settings[f"net/{family}/conf/default/{name}"]
        for family, names in _CONF_DEFAULTS.items()
        for name in names
    }


def _of_link(space: Space, key: str) -> tuple[Link, str] | None:
    """The link and the short key behind ``net/<family>/conf/<link>/<name>``; a link's name may hold dots."""
    parts = key.split("/")
    if len(parts) != 5 or parts[0] != "net" or parts[2] != "conf":
        return None
    link, short = space.find(parts[3]), f"{parts[1]}/{parts[4]}"
    if link is None or short not in link.settings or (parts[1] == "ipv6" and not link.has_ipv6):
        return None
    return link, short


def value_of(space: Space, key: str) -> str | None:
    """What ``/proc/sys/<key>`` reads, or None when there is no such file."""
    if key in space.settings:
        return space.settings[key]
    held = _of_link(space, key)
    return None if held is None else held[0].settings[held[1]]


def write(space: Space, key: str, value: str, subject: str) -> list[Link]:
    """Write a setting; the links on which this has just switched IPv6 off are returned, for what goes with it."""
    _check_key(key, subject)
    before = value_of(space, key)
    if before is None:
        refuse(errno.ENOENT, subject)
    value = _parsed(before, value, subject)
    enabled = {link.index for link in space.links.values() if link.ipv6_enabled}
    held = _of_link(space, key) if key not in space.settings else None
    if held is not None:
        held[0].settings[held[1]] = value
    else:
        space.settings[key] = value
        _fan_out(space, key, value)
    return [link for link in space.links.values() if link.index in enabled and not link.ipv6_enabled]


def _parsed(before: str, value: str, subject: str) -> str:
    """Whole 32-bit numbers, as many as the file has; Linux ignores space around them (probed)."""
    words = value.split()
    try:
        numbers = [int(word) for word in words]
    except ValueError:
        refuse(errno.EINVAL, subject)
    if len(numbers) != len(before.split()) or any(not -(2**31) <= number < 2**31 for number in numbers):
        refuse(errno.EINVAL, subject)
    return "\t".join(str(number) for number in numbers)


def _fan_out(space: Space, key: str, value: str) -> None:
    """``all`` of forwarding and disable_ipv6 sets ``default`` and every link; of others it is a value of its own"""
    family, name = "ipv4", "forwarding"
    if key in ("net/ipv6/conf/all/disable_ipv6", "net/ipv6/conf/all/forwarding"):
        family, name = "ipv6", key.rpartition("/")[2]
    elif key not in (IPV4_FORWARD, IPV4_ALL_FORWARD):
        return
    if family == "ipv4":
        space.settings[IPV4_FORWARD] = space.settings[IPV4_ALL_FORWARD] = value
    space.settings[f"net/{family}/conf/default/{name}"] = value
    for link in space.links.values():
        link.settings[f"{family}/{name}"] = value


def _check_key(key: str, subject: str) -> None:
    """Below ``net`` only; everything else is the whole machine's."""
    head, *rest = key.split("/")
    if head != "net" or not rest or {"", ".", ".."} & set(rest):
        refuse(errno.EINVAL, subject, "it is not the name of a network sysctl")


def set_value(space: Space, sysctl: Sysctl, subject: str) -> list[Link]:
    """Add or change: a setting is always there already."""
    return write(space, sysctl.key, sysctl.value, subject)


def restore_value(space: Space, sysctl: Sysctl, subject: str) -> list[Link]:
    """Delete: back to ``restore``."""
    assert sysctl.restore is not None, "without it there is nothing to write"
    return write(space, sysctl.key, sysctl.restore, subject)


# -- firewall ---------------------------------------------------------------------------------------------------------


def add_table(space: Space, table: FirewallTable, subject: str) -> None:
    """A table of another version is replaced, which is no refusal."""
    held = space.tables.get(table.name)
    if held is not None and held.version == table.version == STRUCTURE.version:
        refuse(errno.EEXIST, subject)
    replace_table(space, table, subject)


def replace_table(space: Space, table: FirewallTable, subject: str) -> None:
    """The structure of this version; sets that stay the same (here: all) keep their elements."""
    if table.version != STRUCTURE.version:
        refuse(errno.EOPNOTSUPP, subject, f"this libcnm only knows structure {STRUCTURE.version}")
    space.tables.setdefault(table.name, Table(table.version)).version = table.version


def delete_table(space: Space, table: FirewallTable, subject: str) -> None:
    if space.tables.pop(table.name, None) is None:
        refuse(errno.ENOENT, subject)


def _key(element: FirewallElement) -> tuple[str, tuple[Hashable, ...]]:
    return element.set, element.key


def _table(space: Space, element: FirewallElement, subject: str, *, data: bool) -> Table:
    declared = STRUCTURE.set(element.set)
    if declared is None or not _typed(declared.key, element.key, interval=declared.interval):
        refuse(errno.EINVAL, subject)
    if data and not _typed(declared.data, element.data, interval=False):
        refuse(errno.EINVAL, subject)
    return space.tables.get(element.table) or refuse(errno.ENOENT, subject)


def _typed(types: Sequence[Datatype], parts: Sequence[KeyPart], *, interval: bool) -> bool:
    if len(types) != len(parts):
        return False
    blocks = [False] * (len(types) - 1) + [interval]
    return all(map(_is_part, types, parts, blocks))


def _is_part(datatype: Datatype, part: KeyPart, block: bool) -> bool:
    if datatype == "ifname":
        return isinstance(part, str) and 0 < len(part.encode()) <= INTERFACE_NAME_BYTES
    if datatype == "nf_proto":
        return part in ("ipv4", "ipv6")
    if datatype == "inet_proto":
        return part in ("tcp", "udp") or (isinstance(part, int) and 0 <= part < 256)
    if datatype == "inet_service":
        return isinstance(part, int) and 0 <= part < 65536
    address, network = (IPv4Address, IPv4Network) if datatype == "ipv4_addr" else (IPv6Address, IPv6Network)
    return isinstance(part, network if block else address)


def add_element(space: Space, element: FirewallElement, subject: str) -> None:
    """One element; a block that overlaps another of an interval set counts as being there already."""
    table = _table(space, element, subject, data=True)
    if _key(element) in table.elements or _overlaps(table, element):
        refuse(errno.EEXIST, subject)
    table.elements[_key(element)] = element


def _overlaps(table: Table, element: FirewallElement) -> bool:
    block = element.key[-1]
    if not isinstance(block, IPNetwork):
        return False
    others = (one.key for one in table.elements.values() if (one.set, one.key[:-1]) == (element.set, element.key[:-1]))
    return any(isinstance(key[-1], IPNetwork) and overlaps(key[-1], block) for key in others)


def delete_element(space: Space, element: FirewallElement, subject: str) -> None:
    if _table(space, element, subject, data=False).elements.pop(_key(element), None) is None:
        refuse(errno.ENOENT, subject)


def replace_element(space: Space, element: FirewallElement, previous: Resource | None, subject: str) -> None:
    """The previous one out, this one in, or neither."""
    if not isinstance(previous, FirewallElement):
        refuse(errno.EINVAL, subject)
    _table(space, element, subject, data=True)
    delete_element(space, previous, subject)
    try:
        add_element(space, element, subject)
    except KernelError:
        add_element(space, previous, subject)
        raise
