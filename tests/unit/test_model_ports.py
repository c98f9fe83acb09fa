"""Docker's notation for published ports, read and written."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given

from libcnm.errors import Invalid, NotSupported
from libcnm.model.ports import Port
from libcnm.testing import records


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("80", Port(80)),
        ("80/udp", Port(80, protocol="udp")),
        ("8080:80", Port(80, 8080)),
        ("8080:80/tcp", Port(80, 8080)),
        (":80", Port(80)),
        ("::80", Port(80)),
        ("127.0.0.1:8080:80", Port(80, 8080, host_address=ipaddress.ip_address("127.0.0.1"))),
        ("127.0.0.1::80", Port(80, host_address=ipaddress.ip_address("127.0.0.1"))),
        ("0.0.0.0:53:53/udp", Port(53, 53, "udp", ipaddress.ip_address("0.0.0.0"))),
        ("[::1]:8080:80", Port(80, 8080, host_address=ipaddress.ip_address("::1"))),
        ("[::]:8080:80/udp", Port(80, 8080, "udp", ipaddress.ip_address("::"))),
        ("[2001:db8::1]::80", Port(80, host_address=ipaddress.ip_address("2001:db8::1"))),
    ],
)
def test_notation(text: str, port: Port) -> None:
    """``[[ADDRESS:]HOST_PORT:]PORT[/PROTOCOL]``; without a host port one is chosen."""
    assert port == Port.of(text)


@given(records.ports())
def test_a_port_reads_back_as_it_is_written(port: Port) -> None:
    """Text and value say the same."""
    assert port == Port.of(str(port)) == Port.of(port)


@pytest.mark.parametrize("text", ["0", "65536", "99999999999999999999", "70000:80", "80:0", "1.2.3:80:80", "[::1:80:80",
                                  "", "x", "/tcp", "80/", "1:2:3:4", " 80", "80 ", "80\n", "0x50", "８０"])  # fmt: skip
def test_no_ports(text: str) -> None:
    """Refused, naming the port."""
    with pytest.raises(Invalid) as raised:
        Port.of(text)
    assert raised.value.field in ("port", "host port", "port address")


@given(records.bad_ports())
def test_hostile_ports(text: str) -> None:
    """None of the texts that are offered to others is taken either."""
    with pytest.raises(Invalid):
        Port.of(text)


@pytest.mark.parametrize("numbers", [(0, 0), (80, -1), (65536, 0), (80, 65536)], ids=str)
def test_values_are_checked_too(numbers: tuple[int, int]) -> None:
    """A Port that is made by hand is held to the same bounds."""
    with pytest.raises(Invalid):
        Port(*numbers)


@pytest.mark.parametrize("text", ["80/sctp", "8000-8010:8000-8010", "80-90"])
def test_not_yet(text: str) -> None:
    """Ranges and sctp are not published yet: said as such, not as a mistake of the caller's."""
    with pytest.raises(NotSupported):
        Port.of(text)


def test_a_number_is_a_port() -> None:
    """``ports=[80]`` reads well."""
    assert Port(80) == Port.of(80)
