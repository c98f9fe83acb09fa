"""Addresses, subnets and MACs as values; the arithmetic on them is on integers and never walks a pool."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import attrs

from libcnm.errors import Invalid
from libcnm.model import limits
from libcnm.model.arguments import mapping

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

_A_SUBNET = "for example 10.88.0.0/24 or fd00:88::/64"
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_BLOCK = re.compile(r"[^/]*(/[0-9]{1,3})?")
_UNICAST_MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")


def _spans(*blocks: str) -> tuple[tuple[int, int], ...]:
    found = [ipaddress.ip_network(block) for block in blocks]
    return tuple((int(block.network_address), int(block.broadcast_address)) for block in found)


_NOBODYS = {
    4: _spans("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32"),
    6: _spans("::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8"),
}
"""First and last addresses of what no interface on a wire has. IPv4 link-local is left to those who want it."""
_NEVER_BOUND: Final = {
    4: ((1, 2**24 - 1), *_spans("224.0.0.0/4", "255.255.255.255/32")),
    6: _spans("::ffff:0:0/96", "fe80::/10", "ff00::/8"),
}
"""What no port is bound to; unlike an interface's address, it may be loopback, or stand for every address."""


def parse_address(value: str | IPAddress, field: str) -> IPAddress:
    """``value`` as an address without scope; :class:`~libcnm.errors.Invalid` names ``field``."""
    address: object = value
    if isinstance(value, str):
        with suppress(ValueError):
            address = ipaddress.ip_address(value)
    # An int or four bytes are none, whatever the standard library says; and an interface's has a network, too.
    if not isinstance(address, IPAddress) or isinstance(address, IPInterface):
        raise Invalid(field, value, "is not an IPv4 or IPv6 address")
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        raise Invalid(field, value, "has a scope id", hint="leave out the part after '%'")
    return address


def parse_pool(value: str | IPNetwork, field: str) -> IPNetwork:
    """``value`` as a CIDR block; host bits are refused, with the block that was probably meant in the hint."""
    if isinstance(value, IPNetwork):
        value = str(value)  # which shows a scope id, if it has one
    # Numbers, bytes, pairs, masks and scopes are blocks to the standard library, too.
    if not isinstance(value, str) or "%" in value or not _BLOCK.fullmatch(value):
        raise Invalid(field, value, "is not a subnet in CIDR form", hint=_A_SUBNET)
    try:
        found = ipaddress.ip_network(value)
    except ValueError:
        pass
    else:
        if "/" not in value:
            usual = 24 if found.version == 4 else 64
            raise Invalid(field, value, "has no prefix length", hint=f"for example {value}/{usual}")
        return found
    try:
        meant = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise Invalid(field, value, "is not a subnet in CIDR form", hint=_A_SUBNET) from None
    raise Invalid(field, value, "has host bits set", hint=f"did you mean {meant}?")


def parse_mac(value: str, field: str = "mac") -> str:
    """A unicast MAC in lower case with colons; group and all-zero addresses are refused."""
    mac = value.lower().replace("-", ":") if isinstance(value, str) else ""
    if not _MAC.fullmatch(mac):
        raise Invalid(field, value, "is not a MAC address", hint="six octets, like 02:42:ac:11:00:02")
    if int(mac[:2], 16) & 1:
        raise Invalid(field, value, "is a group address")
    if mac == "00:00:00:00:00:00":
        raise Invalid(field, value, "is all zero")
    return mac


def is_canonical_mac(value: str) -> bool:
    """True for a MAC as :func:`parse_mac` gives it: unicast, in lower case, not zero."""
    return _UNICAST_MAC.fullmatch(value) is not None and value != "00:00:00:00:00:00"


def check_unicast(value: IPAddress | IPNetwork, field: str) -> None:
    """Refuse an address that no interface on a wire can have, or a block that holds one: loopback, multicast and such.

    Raises :class:`~libcnm.errors.Invalid`. Compares integers: it runs for every address that is read from a store.
    """
    if isinstance(value, ipaddress.IPv4Address | ipaddress.IPv6Address):
        first = last = int(value)
    else:
        first, last = int(value.network_address), int(value.broadcast_address)
    for low, high in _NOBODYS[value.version]:
        if first <= high and low <= last:
            raise Invalid(field, str(value), "is or holds loopback, multicast, unspecified or other special addresses")


def check_bindable(value: IPAddress, field: str) -> None:
    """Refuse what no server can be at: multicast, broadcast, link-local IPv6 (without a scope), IPv4 as IPv6."""
    number = int(value)
    for low, high in _NEVER_BOUND[value.version]:
        if low <= number <= high:
            raise Invalid(field, str(value), "is an address that no server can have")


def parse_server(value: str | IPAddress, field: str) -> IPAddress:
    """The address of a server that can be asked: one, and not many's (multicast, broadcast) or nobody's (0.0.0.0)."""
    server = parse_address(value, field)
    if server.is_unspecified:
        raise Invalid(field, str(server), "is nobody's address")
    check_bindable(server, field)
    return server


def mac_from_address(address: IPAddress) -> str:
    """A locally administered MAC that follows from the address, as libnetwork makes it: 02:42 and the IPv4 address.

    For IPv6 (libnetwork has no such rule) the last four octets are used.
    """
    tail = int(address) & 0xFFFFFFFF
    return ":".join(["02", "42", *(f"{byte:02x}" for byte in tail.to_bytes(4, "big"))])


def link_local_from_mac(mac: str) -> ipaddress.IPv6Address:
    """The modified EUI-64 link-local address of a MAC (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    host = bytes((octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]))
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + host)


def _subnet_or_none(value: str | IPNetwork | None) -> IPNetwork | None:
    return None if value is None else parse_pool(value, "subnet")


def _range_or_none(value: str | IPNetwork | None) -> IPNetwork | None:
    return None if value is None else parse_pool(value, "range")


def _gateway_or_none(value: str | IPAddress | None) -> IPAddress | None:
    return None if value is None else parse_address(value, "gateway")


def _aux_addresses(value: Mapping[str, str | IPAddress] | None) -> dict[str, IPAddress]:
    found = mapping(value, "aux", limits.AUX_PER_SUBNET)
    for name in found:
        if not 1 <= len(name) <= limits.NAME_CHARS:
            raise Invalid("aux", name, f"is not a name of 1 to {limits.NAME_CHARS} characters")
    return {name: parse_address(address, f"aux[{name}]") for name, address in found.items()}


@attrs.frozen
class Subnet:
    """What a user asks for: a pool, and optionally the part to allocate from, the gateway, and reserved addresses.

    ``pool`` None means "one of the defaults" of family ``version``. Raises :class:`~libcnm.errors.Invalid` on host
    bits, on a range outside the pool, on a gateway or auxiliary address outside the pool, on mixed families.
    """

    pool: IPNetwork | None = attrs.field(default=None, converter=_subnet_or_none)
    range: IPNetwork | None = attrs.field(default=None, kw_only=True, converter=_range_or_none)
    gateway: IPAddress | None = attrs.field(default=None, kw_only=True, converter=_gateway_or_none)
    aux: Mapping[str, IPAddress] = attrs.field(factory=dict, kw_only=True, converter=_aux_addresses)
    version: int = attrs.field(default=0, kw_only=True)

    def __attrs_post_init__(self) -> None:
        version = self.pool.version if self.pool is not None else (self.version or 4)
        if type(self.version) is not int or version not in (4, 6) or self.version not in (0, version):
            raise Invalid("version", self.version, "is not the IP version of the subnet")
        object.__setattr__(self, "version", version)
        if self.pool is None:
            if self.range is not None or self.gateway is not None or self.aux:
                raise Invalid("subnet", None, "is needed when a range, gateway or auxiliary address is given")
            return
        if self.range is not None and not _inside(self.range, self.pool):
            raise Invalid("range", str(self.range), f"is not inside the subnet {self.pool}")
        named = {"gateway": self.gateway, **{f"aux[{name}]": address for name, address in self.aux.items()}}
        for field, address in named.items():
            if address is not None and address not in self.pool:
                raise Invalid(field, str(address), f"is not inside the subnet {self.pool}")

    @classmethod
    def of(cls, value: str | Subnet | IPNetwork) -> Subnet:
        """A CIDR string, ``"ipv4"`` or ``"ipv6"`` (a default pool of that family), or a Subnet as it is."""
        if isinstance(value, Subnet):
            return value
        if isinstance(value, str) and value in ("ipv4", "ipv6"):
            return cls(version=int(value[-1]))
        return cls(parse_pool(value, "subnet"))  # here already: None is no way to ask for "any"


def address_within(address: IPAddress, block: IPNetwork) -> IPInterface:
    """The address with its block's prefix length."""
    if isinstance(address, ipaddress.IPv4Address):
        return ipaddress.IPv4Interface((int(address), block.prefixlen))
    return ipaddress.IPv6Interface((int(address), block.prefixlen))


def assignable(block: IPNetwork) -> int:
    """How many addresses an interface in the block may have. IPv4 reserves the first and the last, IPv6 the first
    (RFC 4291 2.6.1); blocks of one or two addresses reserve nothing (RFC 3021, RFC 6164).
    """
    if block.max_prefixlen - block.prefixlen < 2:
        return block.num_addresses
    return block.num_addresses - (2 if block.version == 4 else 1)


def _inside(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.version == outer.version and int(inner[0]) >= int(outer[0]) and int(inner[-1]) <= int(outer[-1])


def overlaps(one: IPNetwork, other: IPNetwork) -> bool:
    """True when the blocks share an address; blocks of different families never do."""
    return one.version == other.version and int(one[0]) <= int(other[-1]) and int(other[0]) <= int(one[-1])
