"""Frames decoded, and the pcap format written and read back."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libcnm.errors import Corrupt
from libcnm.lab.packets import Packet, decode, read_pcap, write_pcap_frame, write_pcap_header

MACS = bytes.fromhex("0242c0a8210c 0242c0a8210b".replace(" ", ""))


def ethernet(kind: int, body: bytes) -> bytes:
    return MACS + struct.pack("!H", kind) + body


def ipv4(source: str, destination: str, protocol: int, body: bytes) -> bytes:
    ends = bytes(map(int, source.split("."))) + bytes(map(int, destination.split(".")))
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0) + ends + body


def udp(source: int, destination: int, body: bytes) -> bytes:
    return struct.pack("!HHHH", source, destination, 8 + len(body), 0) + body


ECHO = struct.pack("!BBHHH", 8, 0, 0, 4242, 7)
INNER = ethernet(0x0800, ipv4("10.0.0.3", "10.0.0.2", 1, ECHO))
VXLAN = struct.pack("!II", 0x0800_0000, 256 << 8) + INNER
OUTER = ethernet(0x0800, ipv4("192.168.33.12", "192.168.33.11", 17, udp(36332, 4789, VXLAN)))


def test_vxlan_is_decoded_to_the_ping_inside() -> None:
    """Outer addresses and ports, the VNI, and the inner packet, also in one line for people."""
    packet = decode(OUTER)
    assert ("192.168.33.12", "192.168.33.11", 36332, 4789, 256) == (
        str(packet.source),
        str(packet.destination),
        packet.source_port,
        packet.port,
        packet.vni,
    )
    assert packet.inner is not None
    inner = "10.0.0.3 > 10.0.0.2: ICMP echo request, id 4242, seq 7"
    assert inner == str(packet.inner)
    assert f"192.168.33.12.36332 > 192.168.33.11.4789: VXLAN, vni 256 | {inner}" == str(packet)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (
            ethernet(0x0806, bytes.fromhex("00010800060400010242c0a8210bc0a8210b000000000000c0a8210c")),
            "ARP who has 192.168.33.12, tell 192.168.33.11",
        ),
        (
            ethernet(0x0806, bytes.fromhex("00010800060400020242c0a8210cc0a8210c0242c0a8210bc0a8210b")),
            "ARP 192.168.33.12 is at 02:42:c0:a8:21:0c",
        ),
        (
            ethernet(0x0800, ipv4("10.0.0.1", "10.0.0.2", 17, udp(1, 53, b"x"))),
            "10.0.0.1.1 > 10.0.0.2.53: UDP, 1 octets",
        ),
        (ethernet(0x0800, ipv4("10.0.0.1", "10.0.0.2", 6, struct.pack("!HH", 1, 80))), "10.0.0.1.1 > 10.0.0.2.80: TCP"),
        (ethernet(0x0800, ipv4("10.0.0.1", "10.0.0.2", 89, b"")), "10.0.0.1 > 10.0.0.2: protocol 89"),
        (ethernet(0x88CC, b""), "other (ethertype 0x88cc)"),
        (b"short", "other (cut short)"),
        (
            ethernet(
                0x86DD,
                struct.pack("!IHBB", 6 << 28, 8, 58, 64) + bytes(15) + b"\1" + bytes(15) + b"\2" + b"\x80" + bytes(7),
            ),
            "::1 > ::2: ICMPv6 echo request, id 0, seq 0",
        ),
    ],
)
def test_other_frames_are_named(frame: bytes, expected: str) -> None:
    """What people meet in a capture has a name, the rest is "other"."""
    assert expected == str(decode(frame))


@given(st.binary(max_size=120), st.sampled_from([0x0800, 0x86DD, 0x0806]))
def test_no_frame_is_an_error(body: bytes, kind: int) -> None:
    """A capture holds anything: whatever is in a frame, decoding it says something."""
    assert str(decode(ethernet(kind, body)))


@given(st.integers(0, len(OUTER)))
def test_a_frame_that_was_cut_is_no_error(length: int) -> None:
    """Snapped anywhere."""
    assert isinstance(decode(OUTER[:length]), Packet)


def test_pcap_reads_back_what_was_written(tmp_path: Path) -> None:
    """Times to the nanosecond, frames octet by octet."""
    path = tmp_path / "x.pcap"
    frames = [(1_700_000_000_123_456_789, OUTER), (1_700_000_001_000_000_000, INNER)]
    with path.open("wb") as file:
        write_pcap_header(file)
        for nanoseconds, frame in frames:
            write_pcap_frame(file, nanoseconds, frame, len(frame))
    assert frames == list(read_pcap(str(path)))


@pytest.mark.parametrize("cut", [3, 30, 50])
def test_a_damaged_file_is_corrupt(cut: int, tmp_path: Path) -> None:
    """No header, half a record, half a frame: the typed error, not struct's."""
    whole = io.BytesIO()
    write_pcap_header(whole)
    write_pcap_frame(whole, 0, OUTER, len(OUTER))
    path = tmp_path / "x.pcap"
    path.write_bytes(whole.getvalue()[:cut])
    with pytest.raises(Corrupt):
        list(read_pcap(str(path)))
