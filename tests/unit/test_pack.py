"""Our packed messages against pyroute2's encoding of the same, octet by octet; and our decoder against its decoder."""

from __future__ import annotations

import ipaddress
import socket
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from libcnm.kernel.linux import pack, unpack
from libcnm.kernel.resources import LINK_GROUP, PROTOCOL

MACS = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
NAMES = st.text(st.characters(codec="ascii", exclude_categories=["C", "Z"]), min_size=1, max_size=15)
MTUS = st.integers(68, 65535)
INDEXES = st.integers(1, 2**31 - 1)
ADDRESSES = st.ip_addresses()


def encoded(message_class: Any, kind: int, flags: int, fields: dict[str, Any], attrs: list[Any]) -> bytes:
    """The message as pyroute2 packs it, padded as it has to be among others."""
    message = message_class()
    message.update(fields)
    message["attrs"] = attrs
    message["header"]["type"] = kind
    message["header"]["flags"] = flags | pack.NLM_F_REQUEST
    message.encode()
    data = bytes(message.data)
    return data + bytes(-len(data) % 4)


def naming(name: str, mac: str, group: int) -> list[Any]:
    return [("IFLA_IFNAME", name), ("IFLA_ADDRESS", mac), ("IFLA_GROUP", group)]


QUEUES = [("IFLA_NUM_TX_QUEUES", 1), ("IFLA_NUM_RX_QUEUES", 1)]


@given(NAMES, MACS, MTUS, NAMES, MACS, st.integers(3, 2**31 - 1))
def test_a_pair_is_packed_as_pyroute2_packs_it(
    name: str, mac: str, mtu: int, peer: str, peer_mac: str, fd: int
) -> None:
    """The nested peer included."""
    both = [("IFLA_MTU", mtu), *QUEUES]
    inner = {"attrs": [*naming(peer, peer_mac, pack.INNER_GROUP), *both, ("IFLA_NET_NS_FD", fd)]}
    info = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", inner)]})]}
    outer = [*naming(name, mac, LINK_GROUP), *both, ("IFLA_LINKINFO", info)]
    expected = unpack.attributes(encoded(ifinfmsg, pack.RTM_NEWLINK, pack.ADD, {}, outer)[32:])
    packed = pack.create_veth(name, mac, mtu, peer, peer_mac, peer_ns_fd=fd)
    assert without_nul(expected) == without_nul(unpack.attributes(packed[32:]))


def without_nul(found: Any) -> Any:
    """pyroute2 ends IFLA_INFO_KIND with a NUL, iproute2 and we do not; the kernel takes both. All else is equal."""
    info = unpack.attributes(found[pack.IFLA_LINKINFO])
    kind = info[pack.IFLA_INFO_KIND].rstrip(b"\0")
    return {**found, pack.IFLA_LINKINFO: {**info, pack.IFLA_INFO_KIND: kind}}


@given(NAMES, MACS)
def test_a_bridge_is_packed_as_pyroute2_packs_it(name: str, mac: str) -> None:
    """With its MAC and without multicast snooping."""
    data = {"attrs": [("IFLA_BR_MCAST_SNOOPING", 0)]}
    info = {"attrs": [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", data)]}
    attrs = [*naming(name, mac, LINK_GROUP), ("IFLA_LINKINFO", info)]
    expected = unpack.attributes(encoded(ifinfmsg, pack.RTM_NEWLINK, pack.ADD, {}, attrs)[32:])
    assert without_nul(expected) == without_nul(unpack.attributes(pack.create_bridge(name, mac)[32:]))


@given(NAMES, MACS, MTUS, st.integers(0, 2**24 - 1), ADDRESSES, st.integers(1, 65535))
def test_a_vxlan_device_is_packed_as_pyroute2_packs_it(
    name: str, mac: str, mtu: int, vni: int, local: Any, port: int
) -> None:
    """For an underlay of either family; the port in network byte order."""
    where = "IFLA_VXLAN_LOCAL" if local.version == 4 else "IFLA_VXLAN_LOCAL6"
    data = [("IFLA_VXLAN_ID", vni), (where, str(local)), ("IFLA_VXLAN_LEARNING", 0)]
    data += [("IFLA_VXLAN_PORT", port), ("IFLA_VXLAN_PROXY", 1)]
    info = {"attrs": [("IFLA_INFO_KIND", "vxlan"), ("IFLA_INFO_DATA", {"attrs": data})]}
    attrs = [*naming(name, mac, LINK_GROUP), ("IFLA_MTU", mtu), ("IFLA_NET_NS_FD", 9), ("IFLA_LINKINFO", info)]
    expected = unpack.attributes(encoded(ifinfmsg, pack.RTM_NEWLINK, pack.ADD, {}, attrs)[32:])
    packed = pack.create_vxlan(name, mac, mtu, vni=vni, local=local, port=port, ns_fd=9)
    assert without_nul(expected) == without_nul(unpack.attributes(packed[32:]))


@given(NAMES, INDEXES)
def test_a_port_is_packed_as_pyroute2_packs_it(name: str, master: int) -> None:
    """Up, with a master; and parking by index, with another name."""
    attrs = [("IFLA_IFNAME", name), ("IFLA_MASTER", master)]
    expected = encoded(ifinfmsg, pack.RTM_NEWLINK, 0, {"flags": 1, "change": 1}, attrs)
    assert expected == pack.set_link(name, pack.u32(pack.IFLA_MASTER, master), up=True)
    renamed = encoded(ifinfmsg, pack.RTM_NEWLINK, 0, {"index": master}, [("IFLA_IFNAME", name)])
    assert renamed == pack.set_link(master, pack.text(pack.IFLA_IFNAME, name))


@given(NAMES, st.booleans(), st.booleans())
def test_a_ports_settings_are_packed_as_pyroute2_packs_them(name: str, hairpin: bool, isolated: bool) -> None:
    """Hairpin mode and isolation, nested in the link's own information."""
    port = {"attrs": [("IFLA_BRPORT_MODE", int(hairpin)), ("IFLA_BRPORT_ISOLATED", int(isolated))]}
    info = {"attrs": [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", port)]}
    attrs = [("IFLA_IFNAME", name), ("IFLA_LINKINFO", info)]
    expected = unpack.link(encoded(ifinfmsg, pack.RTM_NEWLINK, 0, {}, attrs)[16:])
    read = unpack.link(pack.set_port(name, hairpin=hairpin, isolated=isolated)[16:])
    assert (expected.port, hairpin, isolated) == (read.port, read.hairpin, read.isolated)


def test_no_automatic_addresses_is_packed_as_pyroute2_packs_it() -> None:
    """IFLA_AF_SPEC, AF_INET6, mode "none"."""
    spec = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", 1)]})]}
    expected = encoded(ifinfmsg, pack.RTM_NEWLINK, 0, {}, [("IFLA_IFNAME", "eth0"), ("IFLA_AF_SPEC", spec)])
    assert expected == pack.set_link("eth0", pack.NO_AUTOMATIC_ADDRESSES)


@given(st.integers(1, 2**31), NAMES)
def test_removals_are_packed_as_pyroute2_packs_them(group: int, name: str) -> None:
    """By group, by name."""
    assert encoded(ifinfmsg, pack.RTM_DELLINK, 0, {}, [("IFLA_GROUP", group)]) == pack.delete_group(group)
    assert encoded(ifinfmsg, pack.RTM_DELLINK, 0, {}, [("IFLA_IFNAME", name)]) == pack.delete_link(name)


@given(INDEXES, ADDRESSES, st.data())
def test_an_address_is_packed_as_pyroute2_packs_it(index: int, address: Any, data: st.DataObject) -> None:
    """Both families; IPv6 without duplicate detection, link-local ones in their scope."""
    length = data.draw(st.integers(0, address.max_prefixlen))
    interface = ipaddress.ip_interface(f"{address}/{length}")
    v6 = address.version == 6
    fields = {
        "family": socket.AF_INET6 if v6 else socket.AF_INET,
        "prefixlen": length,
        "scope": 253 if v6 and address.is_link_local else 0,
        "index": index,
    }
    attrs = [("IFA_LOCAL", str(address)), ("IFA_ADDRESS", str(address)), ("IFA_PROTO", PROTOCOL)]
    attrs += [("IFA_FLAGS", 2)] if v6 else []
    expected = encoded(ifaddrmsg, pack.RTM_NEWADDR, pack.ADD, fields, attrs)
    assert expected == pack.address(pack.RTM_NEWADDR, pack.ADD, index, interface)


@given(ADDRESSES, INDEXES, st.integers(1, 2**32 - 1), st.integers(0, 2**32 - 1), st.booleans(), st.data())
def test_a_route_is_packed_as_pyroute2_packs_it(
    address: Any, index: int, table: int, metric: int, gateway: bool, data: st.DataObject
) -> None:
    """Through a gateway or on-link, in any table, with any metric."""
    length = data.draw(st.integers(0, address.max_prefixlen))
    network = ipaddress.ip_network(f"{address}/{length}", strict=False)
    via = address if gateway else None
    fields = {
        "family": socket.AF_INET if address.version == 4 else socket.AF_INET6,
        "dst_len": length,
        "table": table if table < 256 else 0,
        "proto": PROTOCOL,
        "scope": 253 if address.version == 4 and not gateway else 0,
        "type": 1,
    }
    attrs: list[Any] = [("RTA_TABLE", table)]
    attrs += [("RTA_DST", str(network.network_address))] if length else []
    attrs += [("RTA_GATEWAY", str(via))] if gateway else []
    attrs += [("RTA_OIF", index)]
    attrs += [("RTA_PRIORITY", metric)] if metric else []
    expected = encoded(rtmsg, pack.RTM_NEWROUTE, pack.ADD, fields, attrs)
    packed = pack.route(
        pack.RTM_NEWROUTE, pack.ADD, network, index=index, via=via, table=table, metric=metric, prohibit=False
    )
    assert expected == packed


@given(INDEXES, ADDRESSES, MACS)
def test_neighbours_are_packed_as_pyroute2_packs_them(index: int, address: Any, mac: str) -> None:
    """Permanent neighbours, and forwarding rows."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    fields = {"family": family, "ifindex": index, "state": 0x80}
    attrs = [("NDA_DST", str(address)), ("NDA_LLADDR", mac), ("NDA_PROTOCOL", PROTOCOL)]
    expected = encoded(ndmsg, pack.RTM_NEWNEIGH, pack.PUT, fields, attrs)
    assert expected == pack.neighbour(pack.RTM_NEWNEIGH, pack.PUT, index, address, mac)
    # pyroute2 takes NDA_DST of an AF_BRIDGE row for IPv4 only.
    fields = {"family": socket.AF_BRIDGE, "ifindex": index, "state": 0xC0, "flags": 2}
    rows = [("NDA_LLADDR", mac), *([("NDA_DST", str(address))] if address.version == 4 else [])]
    expected = encoded(ndmsg, pack.RTM_NEWNEIGH, pack.PUT, fields, rows)
    assert expected == pack.fdb(pack.RTM_NEWNEIGH, pack.PUT, index, mac, address if address.version == 4 else None)


@pytest.mark.parametrize("version", [4, 6])
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 2**32 - 1),
    NAMES,
    st.integers(0, 2**32 - 1),
    st.sampled_from(["lookup", "goto", "nop"]),
)
def test_a_rule_is_packed_as_pyroute2_packs_it(
    version: int, priority: int, table: int, iif: str, mark: int, action: str
) -> None:
    """With every selector and action that we use."""
    number = {"lookup": 1, "goto": 2, "nop": 3}[action]
    fields = {"family": pack.family_of(version), "table": table if table < 256 else 0, "action": number}
    attrs: list[Any] = [("FRA_TABLE", table), ("FRA_PRIORITY", priority), ("FRA_PROTOCOL", PROTOCOL)]
    attrs += [("FRA_IIFNAME", iif), ("FRA_FWMARK", mark), ("FRA_FWMASK", 0xFF)]
    attrs += [("FRA_GOTO", 9000)] if action == "goto" else []
    expected = encoded(fibmsg, pack.RTM_NEWRULE, pack.ADD, fields, attrs)
    packed = pack.rule(
        *(pack.RTM_NEWRULE, pack.ADD, version, priority, table), iif=iif, mark=mark, mask=0xFF, action=action, goto=9000
    )
    assert expected == packed


# -- reading -----------------------------------------------------------------------------------------------------------


@given(NAMES, MACS, MTUS, INDEXES, INDEXES, st.booleans())
def test_a_link_is_read_as_pyroute2_wrote_it(name: str, mac: str, mtu: int, index: int, master: int, up: bool) -> None:
    """Every field that we use."""
    spec = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", 1)]})]}
    info = {"attrs": [("IFLA_INFO_KIND", "veth")]}
    attrs = [*naming(name, mac, LINK_GROUP), ("IFLA_MTU", mtu), ("IFLA_MASTER", master), ("IFLA_LINK", 7)]
    attrs += [("IFLA_LINK_NETNSID", 3), ("IFLA_IFALIAS", "web"), ("IFLA_AF_SPEC", spec), ("IFLA_LINKINFO", info)]
    body = encoded(ifinfmsg, pack.RTM_NEWLINK, 0, {"index": index, "flags": int(up)}, attrs)[16:]
    expected = (index, name, up, False, "veth", mac, mtu, LINK_GROUP, "web", False, master, 7, 3)
    link = unpack.link(body)
    read = (link.index, link.name, link.up, link.loopback, link.kind, link.mac, link.mtu, link.group, link.alias)
    assert expected == (*read, link.automatic, link.master, link.link, link.nsid)
    assert 7 == unpack.first_u32(body, pack.IFLA_LINK, unpack.LINK_OCTETS)


@given(st.lists(st.tuples(st.integers(1, 9), st.binary(min_size=4, max_size=9)), max_size=9), st.integers(1, 9))
def test_one_number_is_found_among_others(attributes: list[tuple[int, bytes]], wanted: int) -> None:
    """The first of that type, whatever stands before it; None where there is none."""
    body = b"head" + b"".join(pack.attribute(kind, value) for kind, value in attributes)
    first = next((value[:4] for kind, value in attributes if kind == wanted), None)
    assert (None if first is None else int.from_bytes(first, sys.byteorder)) == unpack.first_u32(body, wanted, 4)


@given(st.binary(max_size=64), st.integers(0, 9))
def test_no_octets_make_that_endless(body: bytes, start: int) -> None:
    """An attribute that says it has no length is passed over, too."""
    unpack.first_u32(bytes(start) + body, 9, start)


@given(ADDRESSES, INDEXES, st.integers(256, 2**32 - 1), st.integers(1, 2**32 - 1))
def test_what_is_packed_is_read_back(address: Any, index: int, table: int, metric: int) -> None:
    """Addresses, routes and neighbours survive the way to the kernel's form and back."""
    interface = ipaddress.ip_interface(f"{address}/{address.max_prefixlen}")
    row = unpack.address(pack.address(pack.RTM_NEWADDR, pack.ADD, index, interface)[16:])
    assert row is not None
    assert (index, interface, PROTOCOL) == (row.index, row.address, row.protocol)
    packed = pack.route(
        pack.RTM_NEWROUTE, 0, interface.network, index=index, via=address, table=table, metric=metric, prohibit=False
    )
    way = unpack.route(packed[16:])
    assert way is not None
    assert (interface.network, table, index, address, metric, PROTOCOL) == (
        way.destination,
        way.table,
        way.index,
        way.via,
        way.metric,
        way.protocol,
    )
    near = unpack.neighbour(pack.neighbour(pack.RTM_NEWNEIGH, 0, index, address, "02:00:00:00:00:01")[16:])
    assert (index, address, "02:00:00:00:00:01", PROTOCOL) == (near.index, near.address, near.mac, near.protocol)


@given(st.binary(max_size=200))
def test_garbage_is_read_without_an_exception(data: bytes) -> None:
    """A datagram that is cut off or nonsense yields what there is in it; never an exception or an endless loop."""
    for _kind, _flags, _sequence, body in unpack.messages(data):
        unpack.attributes(body)
    unpack.attributes(data)
