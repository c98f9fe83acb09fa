"""Docker's notation for published ports, read and written."""

from __future__ import annotations

import ipaddress
from typing import Any

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
                                  "", "x", "/tcp", "80/", "1:2:3:4", " 80", "80 ", "80\n", "0x50", "８０",
                                  "0000080:00000443", "000080", "[]:80:80", "[[::1]:80:80", "224.0.0.1:80:80",
                                  "255.255.255.255:80:80", "0.0.0.7:80:80", "[ff02::1]:80:80", "[fe80::1]:80:80",
                                  "[::ffff:10.0.0.1]:80:80", "80/TCP", "80/icmp"])  # fmt: skip
def test_no_ports(text: str) -> None:
    """Refused, naming the port."""
    with pytest.raises(Invalid) as raised:
        Port.of(text)
    assert raised.value.field in ("port", "host port", "port address", "protocol")


@given(records.bad_ports())
def test_hostile_ports(text: str) -> None:
    """None of the texts that are offered to others is taken either."""
    with pytest.raises(Invalid):
        Port.of(text)


@pytest.mark.parametrize(
    "arguments",
    [(0, 0), (80, -1), (65536, 0), (80, 65536), (True,), (80, True), (80.5,), ("80",), (None,), (10**5000,),
     (80, 0, "TCP"), (80, 0, None), (80, 0, []), (80, 0, "tcp", "junk"), (80, 0, "tcp", 5), (80, 0, "tcp", b"\x7f\0"),
     (80, 0, "tcp", "224.0.0.1"), (80, 0, "tcp", "fe80::1%eth0"), (80, 0, "tcp", ipaddress.ip_interface("10.0.0.1/8"))],
    ids=range(19),
)  # fmt: skip
def test_values_are_checked_too(arguments: tuple[Any, ...]) -> None:
    """A Port that is made by hand is held to the same bounds, and to the types that a record of it can be read as."""
    with pytest.raises(Invalid):
        Port(*arguments)


def test_an_address_may_be_a_text() -> None:
    """As in the notation; what is kept is the address."""
    assert Port.of("127.0.0.1:8080:80") == Port(80, 8080, host_address="127.0.0.1")


@pytest.mark.parametrize("value", [True, 80.0, None, b"80", ["80"], -80, 10**5000], ids=range(7))
def test_what_is_no_port_at_all(value: object) -> None:
    """Neither a text nor a number of one."""
    with pytest.raises(Invalid):
        Port.of(value)  # type: ignore[arg-type]  # what callers do


@pytest.mark.parametrize(
    ("one", "two", "clash"),
    [
        ("8090:80", "8090:81", True), ("127.0.0.1:8090:80", "0.0.0.0:8090:81", True),
        ("[::]:8090:80", "[::1]:8090:81", True), ("127.0.0.1:8090:80", "127.0.0.1:8090:81", True),
        ("8090:80", "8090:80", False), ("8090:80", "8090:81/udp", False), ("8090:80", "8091:81", False),
        ("127.0.0.1:8090:80", "127.0.0.2:8090:81", False), ("[::]:8090:80", "0.0.0.0:8090:81", False),
        ("80", "81", False), ("127.0.0.1:8090:80", "0.0.0.0:8090:80", False),
    ],
)  # fmt: skip
def test_ports_that_clash(one: str, two: str, clash: bool) -> None:
    """One host port that would lead to two ports of the container; whichever is asked."""
    assert clash == Port.of(one).clashes(Port.of(two)) == Port.of(two).clashes(Port.of(one))


@pytest.mark.parametrize("text", ["80/sctp", "8000-8010:8000-8010", "80-90"])
def test_not_yet(text: str) -> None:
    """Ranges and sctp are not published yet: said as such, not as a mistake of the caller's."""
    with pytest.raises(NotSupported):
        Port.of(text)


def test_a_number_is_a_port() -> None:
    """``ports=[80]`` reads well."""
    assert Port(80) == Port.of(80)
