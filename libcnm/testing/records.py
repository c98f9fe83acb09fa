"""Hypothesis strategies for the records, and for what users pass to the API: names, subnets, ports, labels.

Valid ones, and for each kind of argument hostile ones that must be refused as Invalid. The records are any that may be
read from a store (:mod:`libcnm.model.checks`), also such as no verb of today would write.
"""

from __future__ import annotations

import ipaddress
import string
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from libcnm.errors import Invalid
from libcnm.model import keys, limits
from libcnm.model.addresses import IPAddress, IPInterface, IPNetwork, check_bindable, check_unicast
from libcnm.model.checks import own_key
from libcnm.model.pool import Pool
from libcnm.model.ports import Port
from libcnm.model.records import (
    Attachment,
    EndpointRecord,
    HostClaim,
    HostSetting,
    Installation,
    Intent,
    LedgerLine,
    Mark,
    NameClaim,
    NetworkRecord,
    PortClaim,
    Presence,
    RequestNote,
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
    protocols = st.sampled_from(("tcp", "udp"))
    return st.builds(Port, st.integers(1, 65535), st.integers(0, 65535), protocols, st.none() | bindable())


def bindable() -> SearchStrategy[IPAddress]:
    """Addresses that a server may have, or a port be bound to."""
    return addresses().filter(lambda value: _passes(check_bindable, value))


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
    return st.dictionaries(st.text(min_size=1, max_size=12), st.text(max_size=12), max_size=4)


# -- records -----------------------------------------------------------------------------------------------------------


def records() -> SearchStrategy[attrs.AttrsInstance]:
    """Any record of any kind."""
    return st.one_of(*map(_record, KINDS))


def key_of(record: attrs.AttrsInstance) -> str:
    """Where a record of :func:`records` lies: at the key that it names itself, or else anywhere."""
    if isinstance(record, LedgerLine):
        return keys.attachment("0" * 64, "local", "1" * 64, "2" * 64)
    return own_key(record) or "some/key"


def hostnames() -> SearchStrategy[str]:
    """Host names of up to three labels."""
    label = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,20}[A-Za-z0-9_])?", fullmatch=True)
    return st.lists(label, min_size=1, max_size=3).map(".".join)


def unicast(version: int | None = None) -> SearchStrategy[IPAddress]:
    """Addresses that an interface on a wire may have."""
    return addresses(version).filter(_is_unicast)


def _is_unicast(value: IPAddress | IPNetwork) -> bool:
    return _passes(check_unicast, value)


def _passes(check: Callable[[Any, str], None], value: object) -> bool:
    try:
        check(value, "address")
    except Invalid:
        return False
    return True


def _servers() -> SearchStrategy[str]:
    return bindable().filter(lambda address: not address.is_unspecified).map(str)


def _operations() -> SearchStrategy[str]:
    return st.just("") | _operation_ids()


def _operation_ids() -> SearchStrategy[str]:
    return st.text("0123456789abcdef", min_size=32, max_size=32)


def _printable() -> SearchStrategy[str]:
    return st.text(max_size=12).filter(str.isprintable)


def _interfaces() -> SearchStrategy[IPInterface]:
    def interface(address: IPAddress, hidden: int) -> IPInterface:
        return ipaddress.ip_interface((address, address.max_prefixlen - hidden % (address.max_prefixlen + 1)))

    return st.builds(interface, unicast(), st.integers(0, 128))


def _tuples(of: SearchStrategy[Any]) -> SearchStrategy[tuple[Any, ...]]:
    return st.lists(of, max_size=3).map(tuple)


def _or_empty(of: SearchStrategy[str]) -> SearchStrategy[str]:
    return st.just("") | of


@st.composite
def _pools(draw: st.DrawFn) -> Pool:
    subnet = draw(subnets().filter(lambda block: not block.prefixlen or _is_unicast(block)))
    size = subnet.num_addresses - 1

    def inside() -> SearchStrategy[IPAddress]:
        return st.integers(0, size).map(lambda offset: subnet[offset])

    address, longer = draw(inside()), draw(st.integers(subnet.prefixlen, subnet.max_prefixlen))
    part = ipaddress.ip_network((address, longer), strict=False)
    return Pool(
        draw(names()),
        draw(names()),
        subnet,
        draw(st.none() | st.just(part)),
        draw(st.none() | inside()),
        draw(st.dictionaries(st.text(max_size=12), inside(), max_size=2)),
    )


def _intervals() -> SearchStrategy[float]:
    return st.floats(0, limits.EPOCH_SECONDS_MAX)


_HOLDERS = st.dictionaries(addresses().map(str), ids(), max_size=3)
_SETTINGS = st.from_regex(r"net(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,9}){1,4}", fullmatch=True)
_FIELDS: dict[str, Callable[[], SearchStrategy[Any]]] = {
    "id": ids, "network_id": ids, "sandbox_id": ids, "endpoint_id": ids, "installation": ids,
    "name": names, "driver": names, "ipam_driver": names, "host": names, "container_id": names,
    "operation": _operations, "request_id": lambda: _or_empty(names()), "boot_id": lambda: _or_empty(names()),
    "gateway_of": lambda: _or_empty(ids()),
    "pools": lambda: _tuples(_pools()), "ports": lambda: _tuples(ports()), "aliases": lambda: _tuples(names()),
    "addresses": lambda: _tuples(_interfaces()), "mac": macs, "vtep": lambda: st.none() | unicast(),
    "vni": lambda: st.none() | st.integers(1, limits.VNI_MAX), "epoch": lambda: st.integers(0, limits.EPOCH_MAX),
    "interface": lambda: _or_empty(st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,13}[0-9]", fullmatch=True)),
    "hostname": lambda: _or_empty(hostnames()), "domain": lambda: _or_empty(hostnames()),
    "priority": lambda: st.integers(-limits.PRIORITY_MAX, limits.PRIORITY_MAX),
    "source": lambda: st.none() | st.from_regex(r"/[a-z0-9/]{0,20}", fullmatch=True),
    "dns": lambda: _tuples(_servers()), "dns_search": lambda: _tuples(hostnames()),
    "dns_options": lambda: _tuples(st.from_regex(r"[a-m0-9]{1,9}(-[a-z0-9]{1,9})?(:[0-9])?", fullmatch=True)),
    "extra_hosts": lambda: st.dictionaries(hostnames(), addresses().map(str), max_size=3),
    "locks": lambda: _tuples(names()), "holders": lambda: _HOLDERS, "holder": _printable,
    "labels": labels, "options": labels,
    "created": _intervals, "started": _intervals, "at": _intervals,
    "mark": lambda: st.none() | _record(Mark), "attachment": lambda: st.none() | _record(Attachment),
    "digest": ids, "request": lambda: st.none() | _record(RequestNote),
}  # fmt: skip
_SPECIAL: dict[tuple[type, str], Callable[[], SearchStrategy[Any]]] = {
    (Intent, "operation"): _operation_ids,
    (Intent, "verb"): lambda: st.from_regex(r"[a-z_]{1,32}", fullmatch=True),
    (HostSetting, "key"): lambda: _SETTINGS,
    (RequestNote, "id"): names,
    (RequestNote, "verb"): lambda: st.from_regex(r"[a-z_]{1,32}", fullmatch=True),
    (RequestNote, "result"): lambda: _or_empty(ids()),
    (LedgerLine, "network"): st.none,  # that of a local endpoint; one of the cluster holds records that fit its key
    (LedgerLine, "endpoint"): st.none,
    (HostClaim, "vtep"): lambda: _or_empty(unicast().map(str)),
}
KINDS: tuple[type[attrs.AttrsInstance], ...] = (
    NetworkRecord, EndpointRecord, SandboxRecord, Attachment, Intent, Presence, NameClaim, PortClaim, Installation,
    LedgerLine, HostSetting, RequestNote, HostClaim, Mark,
)  # fmt: skip


def _record(kind: type[attrs.AttrsInstance]) -> SearchStrategy[attrs.AttrsInstance]:
    hints = get_type_hints(kind)
    chosen: dict[str, SearchStrategy[Any]] = {}
    for field in attrs.fields(kind):
        special = _SPECIAL.get((kind, field.name)) or _FIELDS.get(field.name)
        if special is not None:
            chosen[field.name] = special()
        elif choices := get_args(hints[field.name]):
            chosen[field.name] = st.sampled_from(choices)
        else:
            chosen[field.name] = _of_type(hints[field.name])
    found = st.builds(kind, **chosen)
    if kind in (Attachment, SandboxRecord):
        return st.builds(_with_namespace, found, st.booleans())
    return found


def _of_type(hint: object) -> SearchStrategy[Any]:
    by_type: dict[object, SearchStrategy[Any]] = {
        str: _printable(), int: st.integers(0, 2**63), bool: st.booleans()
    }  # fmt: skip
    return by_type[hint]


def _with_namespace(record: Any, own: bool) -> Any:
    """The host's own namespace, or the one that is called by the sandbox's id."""
    identity = record.id if isinstance(record, SandboxRecord) else record.sandbox_id
    return attrs.evolve(record, namespace=identity[:12] if own else "")
