"""Names as text and on the wire: what is equal, what can be said, and which block a reverse name stands for."""

from __future__ import annotations

import ipaddress

import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libcnm.dns.names import decode, encodable, normal, reverse_block
from libcnm.dns.rdata import pointer
from libcnm.errors import Invalid

LABELS = st.lists(st.text("abcXYZ019-_", min_size=1, max_size=63), min_size=1, max_size=6)


@given(LABELS)
def test_a_pointer_is_what_dnspython_says(labels: list[str]) -> None:
    """What we call encodable, and how we write it, is what an independent implementation says."""
    name = ".".join(labels)
    try:
        expected: bytes | None = dns.name.from_text(name).to_wire()
    except dns.name.NameTooLong:
        expected = None
    assert (expected is not None) == encodable(name)
    if expected is not None:
        assert expected == pointer(name)


@pytest.mark.parametrize(
    "name", ["", ".", "a..b", ".a", "a.", "a" * 64, "a b", "ä", "a\nb", "a\\b", ".".join("a" * 128)]
)
def test_names_that_dns_cannot_say_are_refused(name: str) -> None:
    """Empty and long labels, blanks, control characters, non-ASCII: no exception but our own."""
    assert not encodable(name)
    with pytest.raises(Invalid):
        pointer(name)


@given(
    st.lists(st.binary(min_size=1, max_size=63), max_size=4), st.lists(st.binary(min_size=1, max_size=63), max_size=4)
)
def test_decoded_names_are_equal_only_for_equal_labels(one: list[bytes], other: list[bytes]) -> None:
    """A dot inside a label is no label border: two different names never get one text (but for the case of letters)."""
    same = [label.lower() for label in one] == [label.lower() for label in other]
    assert same == (decode(one) == decode(other))


def test_a_dot_inside_a_label_is_escaped() -> None:
    """The single label "a.b" does not read as the endpoint name a.b."""
    assert "a\\046b.blue" == decode([b"A.b", b"blue"])


def test_normal_form() -> None:
    """Lower case and one trailing dot less; letters beyond ASCII stay themselves (K is not the Kelvin sign)."""
    assert "web.blue" == normal("Web.BLUE.")
    assert "k" != normal("\u212a")


@given(st.ip_addresses())
def test_reverse_names_of_addresses(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """A full reverse name is the block of exactly that address."""
    block = reverse_block(address.reverse_pointer)
    assert block is not None
    assert (address, block.max_prefixlen) == (block.network_address, block.prefixlen)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("88.10.in-addr.arpa", "10.88.0.0/16"),
        ("8.b.d.0.1.0.0.2.ip6.arpa", "2001:db8::/32"),
        ("in-addr.arpa", None),
        ("256.10.in-addr.arpa", None),
        ("01.10.in-addr.arpa", None),
        ("1.2.3.4.5.in-addr.arpa", None),
        ("0-25.2.0.192.in-addr.arpa", None),
        ("²3.10.in-addr.arpa", None),
        ("x.ip6.arpa", None),
        (".".join("0" * 33) + ".ip6.arpa", None),
        ("web.blue", None),
    ],
)
def test_partial_and_broken_reverse_names(name: str, expected: str | None) -> None:
    """A shorter name is the block below it; what is no octet or nibble makes it an ordinary name."""
    assert (expected and ipaddress.ip_network(expected)) == reverse_block(name)
