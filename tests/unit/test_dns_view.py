"""The rule from a question to its answer, as the table that users are told."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libcnm.contracts.resolver import Answer, Rcode, RecordType
from libcnm.dns.view import FORWARD, Forward, SandboxView, Upstream, lookup
from libcnm.dns.zone import NameRecord, NetworkZone
from libcnm.errors import Invalid

A, AAAA, PTR, SRV, MX, TXT, ANY = RecordType.A, RecordType.AAAA, RecordType.PTR, RecordType.SRV, 15, 16, RecordType.ANY


def zone(name: str, subnets: str, **endpoints: str) -> NetworkZone:
    """Endpoints as name="address address"; a double underscore in a name is a dot."""
    made = NetworkZone(name * 12, name, tuple(map(ipaddress.ip_network, subnets.split())))
    for number, (endpoint, addresses) in enumerate(endpoints.items()):
        made.put(
            NameRecord(
                endpoint_id=f"{name.encode().hex()}{number:04}".ljust(64, "f"),
                name=endpoint.replace("__", "."),
                network_id=made.network_id,
                network_name=name,
                addresses=tuple(map(ipaddress.ip_address, addresses.split())),
            )
        )
    return made


BLUE = zone("blue", "10.88.0.0/24 fd00:88::/64", web="10.88.0.2 fd00:88::2", db="10.88.0.3", empty="", a__b="10.88.0.4")
RED = zone("red", "10.99.0.0/16", db="10.99.0.3", web="10.99.0.2", only="10.99.0.9", b__blue="10.99.0.8")
VIEW = SandboxView((BLUE, RED), {"Printer": [ipaddress.ip_address("192.0.2.7")]}, forwarding=True)


def said(name: str, qtype: int = A, view: SandboxView = VIEW) -> str:
    """The answer in a word: addresses or names, "empty", "nxdomain", "refer" (not ours, not asked) or "forward"."""
    answer = lookup(view, name, qtype)
    if isinstance(answer, Forward):
        return "forward"
    if answer.rcode == Rcode.NXDOMAIN:
        return "nxdomain" if answer.authoritative else "not asked"
    assert answer.authoritative
    return " ".join(map(str, answer.addresses + answer.names)) or "empty"


@pytest.mark.parametrize(
    ("name", "qtype", "expected"),
    [
        ("web", A, "10.88.0.2"),
        ("WEB.", AAAA, "fd00:88::2"),
        ("web.blue", A, "10.88.0.2"),
        ("web.red", A, "10.99.0.2"),
        ("only", A, "10.99.0.9"),
        # the first network that knows the name answers alone, also with nothing
        ("db", A, "10.88.0.3"),
        ("db", AAAA, "empty"),
        # a name that exists has every type
        *[("web", qtype, "empty") for qtype in (MX, TXT, SRV, PTR, 0, 65, 65535)],
        ("empty", A, "empty"),
        ("web", ANY, "10.88.0.2"),
        # dotted names: whole, then split from the right
        ("a.b", A, "10.88.0.4"),
        ("a.b.blue", A, "10.88.0.4"),
        ("b.blue", A, "10.99.0.8"),
        # ours and unknown is never asked upstream
        ("nobody.blue", A, "nxdomain"),
        ("nobody.blue", MX, "nxdomain"),
        ("x.nobody.red", A, "nxdomain"),
        # exists without records
        ("blue", A, "empty"),
        ("_http._tcp.web", SRV, "empty"),
        ("_http._tcp.web.blue", SRV, "empty"),
        ("_tcp.web.blue", TXT, "empty"),
        ("_http._tcp.nobody.blue", SRV, "nxdomain"),
        ("_http._tcp.example.org", SRV, "forward"),
        # not ours
        ("nobody", A, "forward"),
        ("b", A, "forward"),
        ("www.example.org", A, "forward"),
        ("", 2, "forward"),
        ("xblue", A, "forward"),
        ("printer", A, "192.0.2.7"),
        ("printer", AAAA, "empty"),
        ("localhost", A, "127.0.0.1"),
        ("x.localhost", AAAA, "::1"),
        # reverse
        ("2.0.88.10.in-addr.arpa", PTR, "web.blue"),
        ("2.0.88.10.in-addr.arpa", TXT, "empty"),
        ("9.0.88.10.in-addr.arpa", PTR, "nxdomain"),
        ("0.88.10.in-addr.arpa", 2, "empty"),
        ("88.10.in-addr.arpa", 2, "forward"),
        ("1.2.0.192.in-addr.arpa", PTR, "forward"),
        ("x.0.88.10.in-addr.arpa", PTR, "forward"),
    ],
)
def test_the_truth_table(name: str, qtype: int, expected: str) -> None:
    """Name exists, type exists, name is ours, name is somebody else's."""
    assert expected == said(name, qtype)


def test_ipv6_reverse() -> None:
    """Nibbles work as octets do."""
    known = ipaddress.ip_address("fd00:88::2").reverse_pointer
    unknown = ipaddress.ip_address("fd00:88::3").reverse_pointer
    assert ("web.blue", "nxdomain") == (said(known, PTR), said(unknown, PTR))


def test_without_forwarding_other_names_do_not_exist() -> None:
    """musl waits out REFUSED; NXDOMAIN ends a look-up at once. It is policy, so it does not claim authority."""
    inside = SandboxView((BLUE,))
    for name in ("example.org", "nobody", "1.2.0.192.in-addr.arpa"):
        assert "not asked" == said(name, view=inside)
    assert "10.88.0.2" == said("web", view=inside)
    assert "127.0.0.1" == said("localhost", view=inside)


def test_the_sandbox_decides_the_order() -> None:
    """The same two networks the other way round."""
    assert "10.99.0.3" == said("db", view=SandboxView((RED, BLUE)))


def test_the_longest_left_part_is_tried_first() -> None:
    """a.b.c: a.b in network c comes before a in network b.c, whatever the order of the networks (libnetwork 7.4)."""
    short, long = zone("c", "", a__b="10.0.0.1"), zone("b.c", "", a="10.0.0.2")
    assert "10.0.0.1" == said("a.b.c", view=SandboxView((long, short)))
    assert "10.0.0.2" == said("a.b.c", view=SandboxView((long,)))


def test_a_dotted_network_does_not_own_what_is_above_it() -> None:
    """A network called example.org answers for names below it; org is still the world's."""
    dotted = SandboxView((zone("example.org", "", www="10.0.0.1"),), forwarding=True)
    assert ["10.0.0.1", "nxdomain", "forward"] == [said(n, view=dotted) for n in ("www", "x.example.org", "x.org")]


@given(st.text(max_size=40), st.integers(0, 65535))
def test_lookup_takes_any_text(name: str, qtype: int) -> None:
    """No exception, and never an address that is no endpoint's."""
    answer = lookup(VIEW, name, qtype)
    assert answer == FORWARD or isinstance(answer, Answer)


def test_no_more_than_three_upstreams() -> None:
    """As in libnetwork; the rest is not used."""
    many = [Upstream(ipaddress.ip_address(f"192.0.2.{n}")) for n in range(1, 6)]
    assert tuple(many[:3]) == SandboxView(upstreams=many).upstreams


@pytest.mark.parametrize(
    ("address", "port", "via"),
    [
        ("0.0.0.0", 53, "host"),
        ("224.0.0.1", 53, "host"),
        ("127.0.0.11", 53, "sandbox"),
        ("192.0.2.1", 0, "host"),
        ("192.0.2.1", 53, "x"),
    ],
)
def test_upstreams_that_cannot_be(address: str, port: int, via: str) -> None:
    """Above all our own resolver: it would ask itself for ever."""
    with pytest.raises(Invalid):
        Upstream(ipaddress.ip_address(address), port, via)
