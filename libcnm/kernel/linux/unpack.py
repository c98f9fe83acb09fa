"""rtnetlink messages read back: bytes to small frozen rows, for what verbs and large dumps need.

pyroute2 decodes a link in 0.2 ms and takes 0.2 s to import; 10,000 forwarding rows would take it seconds. So links,
addresses, routes and neighbours are read here, and what is rare (rules, counters) by pyroute2 in cold.py. A row says
what the kernel said, in numbers and names; it knows neither resources nor whose a thing is. Law: as for pack.py.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from typing import Final

import attrs

from libcnm.kernel.linux import pack
from libcnm.model.addresses import IPAddress, IPInterface, IPNetwork

_NLA_TYPE: Final = 0x3FFF
"""The two highest bits of an attribute's type are flags (nested, network byte order)."""
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
_U32 = struct.Struct("=I")
_I32 = struct.Struct("=i")
LINK_OCTETS: Final = _IFINFO.size
"""What comes before the attributes of RTM_NEWLINK."""

Attributes = dict[int, bytes]


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The messages of one datagram: type, flags, sequence number, body."""
    at, end = 0, len(data)
    while at + 16 <= end:
        length, kind, flags, sequence, _port = _HEADER.unpack_from(data, at)
        if length < 16 or at + length > end:
            return
        yield kind, flags, sequence, data[at + 16 : at + length]
        at += (length + 3) & ~3


def attributes(data: bytes, start: int = 0) -> Attributes:
    """The attributes in ``data`` by type; of repeated ones the last."""
    found: Attributes = {}
    end = len(data)
    while start + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < 4 or start + length > end:
            break
        found[kind & _NLA_TYPE] = data[start + 4 : start + length]
        start += (length + 3) & ~3
    return found


def first_u32(data: bytes, kind: int, start: int) -> int | None:
    """The first attribute of that type, of 32 bits; the others are only passed over (a link has some sixty)."""
    header, last = _ATTRIBUTE.unpack_from, len(data) - 8
    while start <= last:
        length, found = header(data, start)
        if found == kind:
            value: int = _U32.unpack_from(data, start + 4)[0]
            return value
        start += (length + 3) & ~3 or 4
    return None


def u32_of(found: Attributes, kind: int, default: int = 0) -> int:
    """A 32-bit attribute."""
    raw = found.get(kind)
    value: int = default if raw is None else _U32.unpack(raw)[0]
    return value


def text_of(found: Attributes, kind: int) -> str:
    """A text attribute without its NUL."""
    return found.get(kind, b"").rstrip(b"\0").decode(errors="replace")


def mac_of(raw: bytes) -> str:
    """Six octets with colons; empty for devices without such an address."""
    return raw.hex(":") if len(raw) == 6 else ""


def address_of(raw: bytes | None) -> IPAddress | None:
    """Four or sixteen octets as an address."""
    return ipaddress.ip_address(raw) if raw is not None and len(raw) in (4, 16) else None


@attrs.frozen
class Link:
    """One device. ``automatic``: the kernel gives it an IPv6 link-local address by itself. ``link`` is the index of
    what it sits on (a veth's other end), in the namespace numbered ``nsid`` (None: the same namespace).
    """

    index: int
    name: str
    up: bool
    loopback: bool
    kind: str
    mac: str
    mtu: int
    group: int
    alias: str
    automatic: bool
    master: int
    link: int
    nsid: int | None
    data: Attributes = attrs.field(repr=False)
    port: Attributes = attrs.field(repr=False)

    @property
    def hairpin(self) -> bool:
        """Whether its bridge port is in hairpin mode."""
        return self.port.get(pack.IFLA_BRPORT_MODE, b"\0") != b"\0"

    @property
    def isolated(self) -> bool:
        """Whether its bridge port exchanges no frames with other isolated ones."""
        return self.port.get(pack.IFLA_BRPORT_ISOLATED, b"\0") != b"\0"


def index(body: bytes) -> int:
    """The index alone, of RTM_NEWLINK."""
    value: int = _IFINFO.unpack_from(body)[2]
    return value


def link(body: bytes) -> Link:
    """RTM_NEWLINK."""
    _family, _type, index, flags, _change = _IFINFO.unpack_from(body)
    found = attributes(body, 16)
    info = attributes(found.get(pack.IFLA_LINKINFO, b""))
    nsid = found.get(pack.IFLA_LINK_NETNSID)
    ipv6 = attributes(attributes(found.get(pack.IFLA_AF_SPEC, b"")).get(socket.AF_INET6, b""))
    mode = ipv6.get(pack.IFLA_INET6_ADDR_GEN_MODE)
    return Link(
        index=index,
        name=text_of(found, pack.IFLA_IFNAME),
        up=bool(flags & pack.IFF_UP),
        loopback=bool(flags & 8),
        kind=text_of(info, pack.IFLA_INFO_KIND),
        mac=mac_of(found.get(pack.IFLA_ADDRESS, b"")),
        mtu=u32_of(found, pack.IFLA_MTU),
        group=u32_of(found, pack.IFLA_GROUP),
        alias=text_of(found, pack.IFLA_IFALIAS),
        automatic=mode is not None and mode[0] != pack.ADDR_GEN_MODE_NONE,
        master=u32_of(found, pack.IFLA_MASTER),
        link=u32_of(found, pack.IFLA_LINK),
        nsid=None if nsid is None else _I32.unpack(nsid)[0],
        data=attributes(info.get(pack.IFLA_INFO_DATA, b"")),
        port=attributes(info.get(pack.IFLA_INFO_SLAVE_DATA, b"")),
    )


@attrs.frozen
class AddressRow:
    """One address on the link ``index``. ``protocol`` 1-3 are the kernel's own (loopback, RA, link-local)."""

    index: int
    address: IPInterface
    scope: int
    flags: int
    protocol: int


def address(body: bytes) -> AddressRow | None:
    """RTM_NEWADDR; None for families other than IP."""
    _family, length, flags, scope, index = _IFADDR.unpack_from(body)
    found = attributes(body, 8)
    value = address_of(found.get(pack.IFA_LOCAL) or found.get(pack.IFA_ADDRESS))
    if value is None:
        return None
    protocol = found.get(pack.IFA_PROTO, b"\0")[0]
    interface: IPInterface = (
        ipaddress.IPv4Interface((int(value), length))
        if value.version == 4
        else ipaddress.IPv6Interface((int(value), length))
    )
    return AddressRow(index, interface, scope, u32_of(found, pack.IFA_FLAGS, flags), protocol)


@attrs.frozen
class RouteRow:
    """One route; ``index`` 0 when it has no (single) device."""

    destination: IPNetwork
    table: int
    protocol: int
    type: int
    index: int
    via: IPAddress | None
    metric: int
    mtu: int
    cloned: bool


def route(body: bytes) -> RouteRow | None:
    """RTM_NEWROUTE; None for families other than IP."""
    family, length, _src, _tos, table, protocol, _scope, kind, flags = _RTMSG.unpack_from(body)
    if family not in (2, 10):
        return None
    found = attributes(body, 12)
    raw = found.get(pack.RTA_DST, bytes(4 if family == 2 else 16))
    destination: IPNetwork = (
        ipaddress.IPv4Network((int.from_bytes(raw), length))
        if family == 2
        else ipaddress.IPv6Network((int.from_bytes(raw), length))
    )
    via = address_of(found.get(pack.RTA_GATEWAY)) or address_of(found.get(pack.RTA_VIA, b"")[2:])
    metrics = attributes(found.get(pack.RTA_METRICS, b""))
    return RouteRow(
        destination=destination,
        table=u32_of(found, pack.RTA_TABLE, table),
        protocol=protocol,
        type=kind,
        index=u32_of(found, pack.RTA_OIF),
        via=via,
        metric=u32_of(found, pack.RTA_PRIORITY),
        mtu=u32_of(metrics, 2),
        cloned=bool(flags & 0x200),
    )


@attrs.frozen
class NeighbourRow:
    """One neighbour (``mac`` of ``address``) or forwarding row (``address`` is the VTEP)."""

    family: int
    index: int
    state: int
    flags: int
    mac: str
    address: IPAddress | None
    protocol: int


def neighbour(body: bytes) -> NeighbourRow:
    """RTM_NEWNEIGH."""
    family, index, state, flags, _type = _NDMSG.unpack_from(body)
    found = attributes(body, 12)
    return NeighbourRow(
        family,
        index,
        state,
        flags,
        mac_of(found.get(pack.NDA_LLADDR, b"")),
        address_of(found.get(pack.NDA_DST)),
        found.get(pack.NDA_PROTOCOL, b"\0")[0],
    )


def nsid(body: bytes) -> int:
    """RTM_NEWNSID: the number, -1 for none."""
    raw = attributes(body, 4).get(pack.NETNSA_NSID, b"\xff\xff\xff\xff")
    value: int = _I32.unpack(raw)[0]
    return value


def refusal(flags: int, body: bytes) -> tuple[int, str | None]:
    """NLMSG_ERROR: errno (0: an acknowledgement) and the kernel's own words (NLMSGERR_ATTR_MSG), if it had any."""
    code = -_I32.unpack_from(body)[0]
    if not flags & 0x200:
        return code, None
    # With NLM_F_CAPPED only the header of the request comes back before the attributes, else all of it.
    echoed = 16 if flags & 0x100 else (_U32.unpack_from(body, 4)[0] + 3) & ~3
    words = text_of(attributes(body, 4 + echoed), 1)
    return code, words or None
