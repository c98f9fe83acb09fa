"""Hypothesis strategies for the records, and for what users pass to the API: names, subnets, ports, labels.

Valid ones, and for each kind of argument hostile ones that must be refused as Invalid. The records are any that their
types allow, also such as no verb would write: whoever reads a store may meet them.
"""

from __future__ import annotations

import ipaddress
import string
from typing import get_args, get_type_hints

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from libcnm.model import limits
from libcnm.model.addresses import IPAddress, IPInterface, IPNetwork
from libcnm.model.pool import Pool
from libcnm.model.ports import Port
from libcnm.model.records import (
    Attachment,
    EndpointRecord,
    HostClaim,
    HostSetting,
    Installation,
    Intent,
    Mark,
    NameClaim,
    NetworkRecord,
    PortClaim,
    Presence,
    RequestResult,
    SandboxRecord,
)

_FIRST = string.ascii_letters + string.digits
_REST = _FIRST + "_.-"

# -- arguments ---------------------------------------------------------------------------------------------------------


def names() -> SearchStrategy[str]:
    """Names that every object may have."""
    first, rest = st.sampled_from(_FIRST), st.text(_REST, max_size=limits.NAME_CHARS - 1)
    return st.builds(str.__add__, first, rest)


def hostile_names() -> SearchStrategy[str]:
    """Texts that no object may have for a name: paths, blanks, control characters, other scripts, too long ones."""
    inside = st.builds("{}{}{}".format, names(), st.sampled_from("/\\ \0\n\t:;'\"|&$*?äß…"), names())
    ahead = st.builds("{}{}".format, st.sampled_from(("-", ".", "_", "..", " ")), names())
    return st.one_of(st.just(""), inside, ahead, st.just("x" * (limits.NAME_CHARS + 1)))


def ids() -> SearchStrategy[str]:
    """Object ids: 64 hexadecimal digits."""
    return st.text("0123456789abcdef", min_size=64, max_size=64)


def addresses(version: int | None = None) -> SearchStrategy[IPAddress]:
    """Addresses of one family, or of either."""
    return st.ip_addresses(v=4 if version == 4 else 6 if version == 6 else None)


def subnets() -> SearchStrategy[IPNetwork]:
    """CIDR blocks of either family, from a single address to everything."""

    def block(address: IPAddress, hidden: int) -> IPNetwork:
        return ipaddress.ip_network(
            (address, address.max_prefixlen - hidden % (address.max_prefixlen + 1)), strict=False
        )

    return st.builds(block, addresses(), st.integers(0, 128))


def bad_subnets() -> SearchStrategy[str]:
    """Texts that are not blocks: host bits set, no length, a length that cannot be, no address."""
    host_bits = st.builds("10.{}.{}.1/{}".format, st.integers(0, 255), st.integers(0, 255), st.integers(8, 31))
    return st.one_of(host_bits, st.sampled_from(("10.0.0.0", "10.0.0.0/33", "fd00::/129", "x/24", "/", "10.0.0/24")))


def macs() -> SearchStrategy[str]:
    """Unicast MACs, in lower case with colons."""
    octets = st.binary(min_size=6, max_size=6).map(lambda raw: bytes((raw[0] & 0xFE, *raw[1:])))
    return octets.filter(any).map(lambda raw: raw.hex(":"))


def ports() -> SearchStrategy[Port]:
    """Published ports, with and without host port and address."""
    return st.builds(
        Port, st.integers(1, 65535), st.integers(0, 65535), st.sampled_from(("tcp", "udp")), st.none() | addresses()
    )


def bad_ports() -> SearchStrategy[str]:
    """Texts that are no port in Docker's notation."""
    return st.sampled_from(
        (
            "",
            "x",
            "80/",
            "/tcp",
            "0",
            "65536",
            "1:2:3:4:5",
            "1.2.3:80:80",
            "[::1:80:80",
            "80:0",
            "99999:80",
            " 80",
        )
    )


def labels() -> SearchStrategy[dict[str, str]]:
    """Labels: any text on both sides, no empty key."""
    return st.dictionaries(_text(1), _text(), max_size=4)


# -- records -----------------------------------------------------------------------------------------------------------


def _text(least: int = 0) -> SearchStrategy[str]:
    return st.text(min_size=least, max_size=12)


def _interfaces() -> SearchStrategy[IPInterface]:
    def interface(address: IPAddress, hidden: int) -> IPInterface:
        return ipaddress.ip_interface((address, address.max_prefixlen - hidden % (address.max_prefixlen + 1)))

    return st.builds(interface, addresses(), st.integers(0, 128))


def _tuples(of: SearchStrategy[object]) -> SearchStrategy[tuple[object, ...]]:
    return st.lists(of, max_size=3).map(tuple)


def _pools() -> SearchStrategy[Pool]:
    return st.builds(
        Pool, _text(), _text(), subnets(), st.none() | subnets(), st.none() | addresses(),
        st.dictionaries(_text(), addresses(), max_size=2),
    )  # fmt: skip


def records() -> SearchStrategy[attrs.AttrsInstance]:
    """Any record of any kind."""
    kinds = (
        NetworkRecord, EndpointRecord, SandboxRecord, Attachment, Intent, Presence, NameClaim, PortClaim, Installation,
        HostSetting, RequestResult, HostClaim, Mark,
    )  # fmt: skip
    return st.one_of(*(_record(kind) for kind in kinds))


def _record(kind: type[attrs.AttrsInstance]) -> SearchStrategy[attrs.AttrsInstance]:
    special: dict[str, SearchStrategy[object]] = {
        "pools": _tuples(_pools()),
        "ports": _tuples(ports()),
        "addresses": _tuples(_interfaces()),
        "vtep": st.none() | addresses(),
        "attachment": st.none() | st.deferred(lambda: _record(Attachment)),
        "mark": st.none() | st.deferred(lambda: _record(Mark)),
        "created": _seconds(),
        "started": _seconds(),
        "at": _seconds(),
    }
    fields = {field.name for field in attrs.fields(kind)}
    if "state" in fields:
        special["state"] = st.sampled_from(get_args(get_type_hints(kind)["state"]))
    chosen = {**special, **_plain(kind)}
    return st.builds(kind, **{name: strategy for name, strategy in chosen.items() if name in fields})


def _seconds() -> SearchStrategy[float]:
    return st.floats(allow_nan=False, allow_infinity=False)


def _plain(kind: type[attrs.AttrsInstance]) -> dict[str, SearchStrategy[object]]:
    """Strategies for the fields whose types say it all."""
    by_type: dict[object, SearchStrategy[object]] = {
        "str": _text(),
        "int": st.integers(),
        "bool": st.booleans(),
        "dict[str, str]": labels(),
        "tuple[str, ...]": _tuples(_text()),
        "str | None": st.none() | _text(),
        "int | None": st.none() | st.integers(),
        "Scope": st.sampled_from(("local", "global")),
    }
    return {field.name: by_type[field.type] for field in attrs.fields(kind) if field.type in by_type}
