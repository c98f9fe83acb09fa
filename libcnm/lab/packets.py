"""Frames as values: Ethernet, IP, VXLAN and what is inside, decoded for people; and the pcap file format. Pure, but for
reading and writing a file object.

It decodes what the lab's demonstrations show and says "other" to the rest. Law: RFC 7348 (VXLAN), RFC 791, 8200, 792,
4443, 826; the pcap format of draft-ietf-opsawg-pcap.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from typing import BinaryIO, Final

import attrs

from libcnm.errors import Corrupt
from libcnm.model import limits
from libcnm.model.addresses import IPAddress

_NANOSECOND_MAGIC: Final = 0xA1B2_3C4D
_ETHERNET: Final = 1
SNAP_OCTETS: Final = 262_144
_FILE = struct.Struct("=IHHiIII")
_RECORD = struct.Struct("=IIII")
_ICMP: Final = {0: "echo reply", 3: "unreachable", 8: "echo request", 11: "time exceeded"}
_ICMP6: Final = {
    1: "unreachable", 2: "packet too big", 128: "echo request", 129: "echo reply",
    133: "router solicitation", 134: "router advertisement", 135: "neighbour solicitation",
    136: "neighbour advertisement", 143: "multicast listener report",
}  # fmt: skip


@attrs.frozen
class Packet:
    """One frame. ``source`` and ``destination`` are None where there is no IP; ports are 0 where there are none.

    ``what`` says in words what it carries (``ICMP echo request``, ``UDP``, ``ARP who has 10.0.0.1``). ``vni`` and
    ``inner`` are there when it is VXLAN.
    """

    source: IPAddress | None
    destination: IPAddress | None
    what: str
    source_port: int = 0
    port: int = 0
    vni: int | None = None
    inner: Packet | None = None

    def __str__(self) -> str:
        if self.source is None or self.destination is None:
            return self.what
        ends = f"{_end(self.source, self.source_port)} > {_end(self.destination, self.port)}"
        if self.inner is not None:
            return f"{ends}: VXLAN, vni {self.vni} | {self.inner}"
        return f"{ends}: {self.what}"


def _end(address: IPAddress, port: int) -> str:
    return f"{address}.{port}" if port else str(address)


def decode(frame: bytes) -> Packet:
    """What a frame is; whatever cannot be read is ``other`` (a capture holds anything, so nothing is refused)."""
    try:
        return _ethernet(frame)
    except (struct.error, IndexError, ValueError):
        return Packet(None, None, "other (cut short)")


def _ethernet(frame: bytes) -> Packet:
    kind = struct.unpack_from("!H", frame, 12)[0]
    if kind == 0x0800:
        return _ipv4(frame[14:])
    if kind == 0x86DD:
        return _ipv6(frame[14:])
    if kind == 0x0806:
        return _arp(frame[14:])
    return Packet(None, None, f"other (ethertype {kind:#06x})")


def _arp(data: bytes) -> Packet:
    operation = struct.unpack_from("!H", data, 6)[0]
    sender, target = ipaddress.IPv4Address(data[14:18]), ipaddress.IPv4Address(data[24:28])
    if operation == 1:
        return Packet(None, None, f"ARP who has {target}, tell {sender}")
    return Packet(None, None, f"ARP {sender} is at {data[8:14].hex(':')}")


def _ipv4(data: bytes) -> Packet:
    header = (data[0] & 0xF) * 4
    total = struct.unpack_from("!H", data, 2)[0]
    if struct.unpack_from("!H", data, 6)[0] & 0x1FFF:
        body, protocol = b"", -1
    else:
        body, protocol = data[header:total], data[9]
    return _transport(ipaddress.IPv4Address(data[12:16]), ipaddress.IPv4Address(data[16:20]), protocol, body)


def _ipv6(data: bytes) -> Packet:
    length, following = struct.unpack_from("!HB", data, 4)
    body = data[40 : 40 + length]
    while following in (0, 43, 60):  # hop-by-hop options (multicast listener reports have one), routing, destination
        following, octets = body[0], 8 + body[1] * 8
        body = body[octets:]
    return _transport(ipaddress.IPv6Address(data[8:24]), ipaddress.IPv6Address(data[24:40]), following, body)


def _transport(source: IPAddress, destination: IPAddress, protocol: int, body: bytes) -> Packet:
    if protocol == 17:
        source_port, port = struct.unpack_from("!HH", body)
        if port == limits.VXLAN_PORT and len(body) >= 16 and body[8] & 0x08:
            vni = int.from_bytes(body[12:15], "big")
            return Packet(source, destination, "VXLAN", source_port, port, vni, decode(body[16:]))
        return Packet(source, destination, f"UDP, {len(body) - 8} octets", source_port, port)
    if protocol == 6:
        source_port, port = struct.unpack_from("!HH", body)
        return Packet(source, destination, "TCP", source_port, port)
    if protocol in (1, 58):
        return Packet(source, destination, _icmp(protocol, body))
    return Packet(source, destination, "a fragment" if protocol < 0 else f"protocol {protocol}")


def _icmp(protocol: int, body: bytes) -> str:
    name, known = ("ICMP", _ICMP) if protocol == 1 else ("ICMPv6", _ICMP6)
    kind = known.get(body[0], f"type {body[0]}")
    if kind.startswith("echo"):
        identifier, sequence = struct.unpack_from("!HH", body, 4)
        return f"{name} {kind}, id {identifier}, seq {sequence}"
    return f"{name} {kind}"


# -- pcap --------------------------------------------------------------------------------------------------------------


def write_pcap_header(file: BinaryIO) -> None:
    """The beginning of a file of Ethernet frames with times in nanoseconds."""
    file.write(_FILE.pack(_NANOSECOND_MAGIC, 2, 4, 0, 0, SNAP_OCTETS, _ETHERNET))


def write_pcap_frame(file: BinaryIO, nanoseconds: int, frame: bytes, length: int) -> None:
    """One frame, taken at ``nanoseconds`` since the epoch; ``length`` is what it had on the wire."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    file.write(_RECORD.pack(seconds, rest, len(frame), length) + frame)


def read_pcap(path: str) -> Iterator[tuple[int, bytes]]:
    """Time (nanoseconds since the epoch) and frame of each record of a file that the lab wrote. Raises Corrupt."""
    with open(path, "rb") as file:
        head = file.read(_FILE.size)
        if len(head) < _FILE.size or _FILE.unpack(head)[0] != _NANOSECOND_MAGIC:
            raise Corrupt(path, "it is not a capture of this lab's", hint="tcpdump -r reads the other kinds")
        while record := file.read(_RECORD.size):
            if len(record) < _RECORD.size:
                raise Corrupt(path, "it ends in the middle of a record")
            seconds, rest, length, _ = _RECORD.unpack(record)
            frame = file.read(length)
            if len(frame) < length:
                raise Corrupt(path, "it ends in the middle of a frame")
            yield seconds * 1_000_000_000 + rest, frame
