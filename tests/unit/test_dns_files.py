"""hosts, resolv.conf, hostname: what is written, what is refused, and what is read of the host's."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libcnm.dns.files import (
    RESOLV_CONF_CHARS,
    host_upstreams,
    hostname_file,
    hosts_file,
    read_resolv_conf,
    resolv_conf_file,
)
from libcnm.errors import Invalid
from libcnm.model import limits

IP4, IP6 = ipaddress.ip_address("10.88.0.2"), ipaddress.ip_address("fd00:88::2")


def test_hosts() -> None:
    """localhost, extra hosts, then one line for each own address."""
    text = hosts_file("web", [IP4, IP6], domain="example.org", extra=[("db", ipaddress.ip_address("192.0.2.1"))])
    assert text.startswith("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
    assert text.endswith("192.0.2.1\tdb\n10.88.0.2\tweb.example.org web\nfd00:88::2\tweb.example.org web\n")
    assert "127.0.0.1\tlocalhost\n10.88.0.2\ta.b a\n" == hosts_file("a.b", [IP4], ipv6=False)


def test_resolv_conf() -> None:
    """Our resolver, the search list, one ndots: the user's last, else 0."""
    assert "nameserver 127.0.0.11\noptions ndots:0\n" == resolv_conf_file()
    assert (
        "nameserver 127.0.0.11\nsearch a.example b\noptions rotate timeout:1 ndots:2\n"
        == resolv_conf_file(["A.example.", "b"], ["ndots:5", "rotate", "timeout:1", "ndots:2", "rotate"])
    )  # fmt: skip
    assert "search" not in resolv_conf_file(["."])


@pytest.mark.parametrize(
    "option", ["", "ndots", "ndots:", "ndots:-1", "ndots:x", "a b", "rotate\nnameserver 192.0.2.1", "ndots:٣"]
)
def test_options_that_are_none(option: str) -> None:
    """Refused, above all what would begin a line."""
    with pytest.raises(Invalid):
        resolv_conf_file(options=[option])


@given(st.text(max_size=80))
def test_nothing_can_be_injected(value: str) -> None:
    """Whatever the value, a file has the lines and words it should have, or is not written."""
    cases = [
        (lambda: hostname_file(value), 1),
        (lambda: hosts_file(value, [IP4], ipv6=False), 2),
        (lambda: hosts_file("web", [IP4], domain=value, ipv6=False), 2),
        (lambda: hosts_file("web", extra=[(value, IP4)], ipv6=False), 2),
        (lambda: resolv_conf_file([value]), 3),
        (lambda: resolv_conf_file(options=[value]), 2),
    ]
    for write, lines in cases:
        try:
            text = write()
        except Invalid:
            continue
        assert text.endswith("\n")
        assert text.isascii()
        assert len(text.splitlines()) <= lines
        assert all(" " <= character or character in "\t\n" for character in text)


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "a..b", "a b", "a\n", "\ta", "a" * 65, "é", "a/b", "a#b", "a.", "\x00"]
)
def test_names_that_are_no_host_names(name: str) -> None:
    """An Invalid that names the field."""
    with pytest.raises(Invalid) as caught:
        hostname_file(name)
    assert "hostname" == caught.value.field


def test_the_longest_host_name() -> None:
    """Linux takes 64 characters; a label has 63."""
    assert limits.HOSTNAME_CHARS + 1 == len(hostname_file("a" * 60 + ".abc"))


HOST = """\
# made by hand
; also a comment
domain old.example
search example.org  lab
nameserver 192.0.2.1
nameserver 127.0.0.11
nameserver nonsense
nameserver 2001:db8::1
 nameserver\tfe80::1%eth0
nameserver 192.0.2.1
nameserver 0.0.0.0
nameserver 192.0.2.3
nameserver 192.0.2.4
options ndots:2 rotate
unknown words
nameserver
"""


def test_the_hosts_resolv_conf() -> None:
    """What makes sense is taken in order, the last search wins, the rest is skipped."""
    conf = read_resolv_conf(HOST)
    assert ("example.org", "lab") == conf.search
    assert ("ndots:2", "rotate") == conf.options
    upstreams = host_upstreams(HOST)
    assert ["192.0.2.1", "2001:db8::1", "fe80::1%eth0"] == [str(upstream.address) for upstream in upstreams]
    assert {("host", 53)} == {(upstream.via, upstream.port) for upstream in upstreams}


def test_the_stub_of_systemd() -> None:
    """Only when it stands alone, and only when the file behind it was readable."""
    stub, behind = "nameserver 127.0.0.53\n", "nameserver 192.0.2.9\n"
    assert ["192.0.2.9"] == [str(u.address) for u in host_upstreams(stub, behind)]
    assert ["127.0.0.53"] == [str(u.address) for u in host_upstreams(stub)]
    assert ["127.0.0.53", "192.0.2.1"] == [
        str(u.address) for u in host_upstreams(stub + "nameserver 192.0.2.1", behind)
    ]


@given(st.text(st.sampled_from("nameserver search options 0123456789.:%#;\n\t\r\x00é")))
def test_any_text_is_read(text: str) -> None:
    """No exception, at most three servers, never our own address."""
    upstreams = host_upstreams(text, text)
    assert len(upstreams) <= 3
    assert "127.0.0.11" not in {str(upstream.address) for upstream in upstreams}


def test_a_text_without_bounds() -> None:
    """Is refused before it is read."""
    with pytest.raises(Invalid):
        read_resolv_conf("#" * (RESOLV_CONF_CHARS + 1))
