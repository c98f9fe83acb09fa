"""What the fake kernel remembers: namespaces with their links, rows, settings and firewall tables, as plain values.

Only the shape is here, and what follows from it (which link holds a name, what a copy is); the law, what Linux allows
and what it takes along, lives in the ``_fake_*`` modules beside it. Rows keep the interface *index*, as Linux does, so
that renaming a link takes its rows along. Nothing here knows the door, effects, events or threads.
"""

from __future__ import annotations

import errno
from collections.abc import Hashable, Iterator
from typing import Literal, NoReturn

import attrs

from libcnm.errors import KernelError
from libcnm.kernel.base import NamespaceId
from libcnm.kernel.resources import LINK_GROUP, PARKED_GROUP, FirewallElement
from libcnm.model.addresses import IPAddress, IPInterface, IPNetwork
from libcnm.model.limits import MTU_MIN_IPV6
from libcnm.model.resource import Resource

LinkKind = Literal["loopback", "bridge", "veth", "vxlan", "other"]

NSFS_DEVICE = 4
"""st_dev of every namespace file: they all live on one nsfs."""
HOST_INODE = 0xF0000000 - 104
"""Where PROC_DYNAMIC_FIRST puts the first network namespace on most kernels; any constant would do."""


def refusal(number: int, subject: str, extack: str | None = None) -> KernelError:
    """The kernel's no: an errno, and sometimes words."""
    return KernelError(number, subject, extack=extack)


def refuse(number: int, subject: str, extack: str | None = None) -> NoReturn:
    """Say no as the kernel does."""
    raise refusal(number, subject, extack)


def parked_name(index: int) -> str:
    """A name that is free, because the index is."""
    return f"pk-{index}"


@attrs.define
class Link:
    """One network device. ``peer`` is (inode of its namespace, index there); ``master`` is an index beside it."""

    index: int
    name: str
    kind: LinkKind
    mac: str
    mtu: int
    group: int = 0
    up: bool = False
    automatic: bool = True
    """Makes its own IPv6 link-local address (addrgenmode is not "none")."""
    master: int | None = None
    peer: tuple[int, int] | None = None
    hairpin: bool = False
    isolated: bool = False
    alias: str = ""
    vni: int = 0
    local: IPAddress | None = None
    port: int = 0
    mtu_pinned: bool = False
    """A bridge whose MTU was set after its creation no longer follows its ports (BROPT_MTU_SET_BY_USER)."""
    settings: dict[str, str] = attrs.Factory(dict)
    """Its sysctls: ``ipv6/disable_ipv6`` for ``net/ipv6/conf/<name>/disable_ipv6``."""

    @property
    def marked(self) -> bool:
        return self.group == LINK_GROUP

    @property
    def parked(self) -> bool:
        """Waits for the sweep: the outer end of a pair is in the group, the inner one has only the name."""
        return self.group == PARKED_GROUP or self.name == parked_name(self.index)

    @property
    def has_ipv6(self) -> bool:
        """IPv6 needs 1,280 octets; with less the kernel takes the whole per-device IPv6 state away."""
        return self.mtu >= MTU_MIN_IPV6

    @property
    def ipv6_enabled(self) -> bool:
        return self.has_ipv6 and self.settings.get("ipv6/disable_ipv6", "0") == "0"

    def copy(self) -> Link:
        return attrs.evolve(self, settings=dict(self.settings))


@attrs.frozen
class Row:
    """A row that is not a link: the resource as it was asked for, the device it is on (0: none), and our mark."""

    resource: Resource
    link: int
    marked: bool


@attrs.define
class Table:
    """An nftables table of the shape :mod:`libcnm.kernel.firewall` defines."""

    version: str
    elements: dict[tuple[str, tuple[Hashable, ...]], FirewallElement] = attrs.Factory(dict)

    def copy(self) -> Table:
        return Table(self.version, dict(self.elements))


@attrs.define
class Space:
    """One network namespace."""

    id: NamespaceId
    links: dict[int, Link] = attrs.Factory(dict)
    last_index: int = 0
    addresses: dict[tuple[int, IPInterface], Row] = attrs.Factory(dict)
    routes: dict[tuple[int, IPNetwork, int], Row] = attrs.Factory(dict)
    rules: dict[Hashable, Row] = attrs.Factory(dict)
    neighbours: dict[tuple[int, IPAddress], Row] = attrs.Factory(dict)
    fdb: dict[tuple[int, str], Row] = attrs.Factory(dict)
    guards: dict[int, int] = attrs.Factory(dict)
    """What the guard of a link lets pass, by the link's index."""
    settings: dict[str, str] = attrs.Factory(dict)
    """Sysctls of the whole namespace, ``net/ipv4/conf/all`` and ``default`` among them, by full key."""
    tables: dict[str, Table] = attrs.Factory(dict)

    def find(self, name: str) -> Link | None:
        """The link of that name; parked ones have lost theirs."""
        return next((link for link in self.links.values() if link.name == name), None)

    def link(self, name: str, subject: str) -> Link:
        """The link of that name, or ENODEV."""
        return self.find(name) or refuse(errno.ENODEV, subject)

    def ports(self, bridge: Link) -> list[Link]:
        return [link for link in self.links.values() if link.master == bridge.index]

    def copy(self) -> Space:
        return Space(
            self.id,
            {index: link.copy() for index, link in self.links.items()},
            self.last_index,
            dict(self.addresses),
            dict(self.routes),
            dict(self.rules),
            dict(self.neighbours),
            dict(self.fdb),
            dict(self.guards),
            dict(self.settings),
            {name: table.copy() for name, table in self.tables.items()},
        )


@attrs.define
class Machine:
    """The whole host: every namespace by inode, and the names under which they can be reached."""

    spaces: dict[int, Space] = attrs.Factory(dict)
    pins: dict[str, int] = attrs.Factory(dict)
    brought: dict[str, str] = attrs.Factory(dict)
    """Pins of namespaces that somebody else made, and from where: inside, only what is marked is ours."""
    paths: dict[str, int] = attrs.Factory(dict)
    """Paths that somebody else keeps (``/proc/4242/ns/net``)."""
    last_inode: int = HOST_INODE

    @property
    def host(self) -> Space:
        return self.spaces[HOST_INODE]

    def space(self, ns: str) -> Space | None:
        if not ns:
            return self.host
        inode = self.pins.get(ns)
        return None if inode is None else self.spaces[inode]

    def need(self, ns: str, subject: str) -> Space:
        """The namespace, or ENOENT: opening its path is what fails."""
        return self.space(ns) or refuse(errno.ENOENT, subject, f"no network namespace {ns!r}")

    def whole(self, ns: str) -> bool:
        """Everything inside is ours, because we made it."""
        return ns in self.pins and ns not in self.brought

    def names(self, inode: int) -> tuple[str, ...]:
        """Every name under which a namespace is known to the door."""
        pinned = tuple(name for name, held in self.pins.items() if held == inode)
        return ("", *pinned) if inode == HOST_INODE else pinned

    def peer(self, link: Link) -> tuple[Space, Link] | None:
        """The other end of a pair, and where it is."""
        if link.peer is None:
            return None
        space = self.spaces[link.peer[0]]
        return space, space.links[link.peer[1]]

    def all_links(self) -> Iterator[tuple[Space, Link]]:
        for space in self.spaces.values():
            for link in space.links.values():
                yield space, link

    def copy(self) -> Machine:
        spaces = {inode: space.copy() for inode, space in self.spaces.items()}
        return Machine(spaces, dict(self.pins), dict(self.brought), dict(self.paths), self.last_inode)
