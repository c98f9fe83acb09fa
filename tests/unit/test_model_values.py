"""Names, ids, labels, subnets, addresses, options, deadlines: what may be said, and what is refused, with why."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libcnm.errors import DeadlineExceeded, Invalid
from libcnm.ipam.pools import usable
from libcnm.model import limits, options
from libcnm.model.addresses import (
    IPNetwork,
    Subnet,
    assignable,
    link_local_from_mac,
    mac_from_address,
    overlaps,
    parse_address,
    parse_mac,
    parse_pool,
)
from libcnm.model.deadline import Deadline
from libcnm.model.ids import check_hostname, check_labels, check_name, check_service, looks_like_id, short
from libcnm.system.clock import ManualClock
from libcnm.testing import records

MOBY = re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9_.-]*$")


# -- names -------------------------------------------------------------------------------------------------------------


@given(records.names())
def test_names_are_kept_as_they_are(name: str) -> None:
    """A valid name is returned unchanged."""
    assert name == check_name(name)


@given(records.hostile_names())
def test_hostile_names_are_refused(name: str) -> None:
    """Each with the field and the rule."""
    with pytest.raises(Invalid) as raised:
        check_name(name, "alias")
    assert ("alias", name) == (raised.value.field, raised.value.value)
    assert raised.value.hint is not None


@given(st.text(max_size=140))
def test_names_follow_mobys_pattern(text: str) -> None:
    """The rule is moby's pattern and a length, no more and no less; a line feed at the end is no exception."""
    allowed = bool(MOBY.match(text)) and not text.endswith("\n") and len(text) <= limits.NAME_CHARS
    try:
        check_name(text)
        accepted = True
    except Invalid:
        accepted = False
    assert allowed == accepted


@pytest.mark.parametrize("value", [None, 7, b"name", ["a"]])
def test_a_name_is_a_string(value: object) -> None:
    """Anything else is Invalid, not a TypeError."""
    with pytest.raises(Invalid):
        check_name(value)  # type: ignore[arg-type]  # what callers do


@pytest.mark.parametrize("good", ["web", "web.1", "x" * 63, f"{'x' * 63}.{'y' * 63}"])
def test_names_that_dns_can_say(good: str) -> None:
    """An endpoint's and its aliases: each label within 63 characters."""
    assert good == check_service(good)


@pytest.mark.parametrize("bad", ["x" * 64, f"a.{'x' * 64}", "a..b", "a.", "", None, 5, "-a", "x" * 129])
def test_names_that_dns_cannot_say(bad: str) -> None:
    """libnetwork takes them, and then nobody can resolve them."""
    with pytest.raises(Invalid) as raised:
        check_service(bad, "alias")
    assert "alias" == raised.value.field


@pytest.mark.parametrize("good", ["a", "web-1", "a.b.example", "x" * 63, "_srv._tcp.example"])
def test_host_names(good: str) -> None:
    """Labels of 1 to 63 characters."""
    assert good == check_hostname(good)


@pytest.mark.parametrize("bad", ["", ".", "a..b", "-a", "a-", "x" * 64, ".".join(["abcdefg"] * 40), "a b", "a\n", "ä"])
def test_bad_host_names(bad: str) -> None:
    """RFC 1123 section 2.1, RFC 1035 section 2.3.4."""
    with pytest.raises(Invalid):
        check_hostname(bad)


def test_ids() -> None:
    """Prefixes of hexadecimal digits look like ids; people meet 12 of them."""
    assert all(map(looks_like_id, ("0", "abc", "f" * 64)))
    assert not any(map(looks_like_id, ("", "g", "F", "0" * 65, "ab-c")))
    assert "0" * 12 == short("0" * 64)


# -- labels ------------------------------------------------------------------------------------------------------------


@given(records.labels())
def test_labels_are_kept(labels: dict[str, str]) -> None:
    """Any text on both sides."""
    assert labels == check_labels(labels)


@pytest.mark.parametrize(
    "labels",
    [{"a": 1}, {1: "a"}, {"": "a"}, {"a": None}, {"a": "x" * 4096}, {f"k{number}": "" for number in range(65)}],
    ids=lambda labels: str(labels)[:20],
)
def test_bad_labels(labels: dict[str, str]) -> None:
    """Other types, no key, too long, too many."""
    with pytest.raises(Invalid):
        check_labels(labels)


# -- subnets -----------------------------------------------------------------------------------------------------------


@given(records.subnets())
def test_subnets_are_kept(block: IPNetwork) -> None:
    """As a value and as text."""
    assert block == parse_pool(str(block), "subnet") == parse_pool(block, "subnet")
    assert block.version == Subnet(block).version


@given(records.bad_subnets())
def test_bad_subnets(text: str) -> None:
    """Each refused with the field; host bits with the block that was probably meant."""
    with pytest.raises(Invalid) as raised:
        Subnet.of(text)
    assert "subnet" == raised.value.field


def test_host_bits_say_what_was_meant() -> None:
    """The hint can be pasted."""
    with pytest.raises(Invalid, match=re.escape("did you mean 10.1.0.0/24?")):
        Subnet("10.1.0.7/24")
    for text, example in (
        ("10.1.0.0", "10.1.0.0/24"), ("fd00::", "fd00::/64"), ("junk", "10.88.0.0/24"), ("10.1.0.0/99", "10.88.0.0/24")
    ):  # fmt: skip
        with pytest.raises(Invalid) as raised:
            Subnet(text)
        assert raised.value.hint is not None
        assert raised.value.hint.startswith(f"for example {example}")


@given(records.subnets(), records.subnets())
def test_overlap_is_a_shared_address(one: IPNetwork, other: IPNetwork) -> None:
    """The same as the standard library says, for blocks of either family; it is symmetric."""
    expected = one.version == other.version and one.overlaps(other)
    assert expected == overlaps(one, other) == overlaps(other, one)


@pytest.mark.parametrize(
    "arguments",
    [
        {"range": "10.2.0.0/25"}, {"range": "10.1.0.0/23"}, {"range": "fd00::/64"}, {"gateway": "10.2.0.1"},
        {"gateway": "fd00::1"}, {"gateway": "x"}, {"aux": {"a": "10.2.0.1"}}, {"version": 6}, {"version": 5},
        {"version": True}, {"version": "4"}, {"aux": [1]}, {"aux": {1: "10.1.0.2"}}, {"aux": {"a": 5}}, {"aux": "a"},
        {"aux": {"": "10.1.0.2"}}, {"aux": {"x" * 129: "10.1.0.2"}}, {"aux": {str(n): "10.1.0.2" for n in range(61)}},
        {"gateway": 5}, {"gateway": b"\n\1\0\1"}, {"range": 5}, {"range": "10.1.0.0/0.0.0.127"},
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_a_subnet(arguments: dict[str, object]) -> None:
    """Ranges, gateways and auxiliary addresses outside it; another family."""
    with pytest.raises(Invalid):
        Subnet("10.1.0.0/24", **arguments)  # type: ignore[arg-type]  # one of each


@pytest.mark.parametrize("pool", [5, 2**33, b"\n\1\0\0", ("10.1.0.0", 24), ["10.1.0.0/24"], True, "10.1.0.0/0.0.0.255",
                                  "10.1.0.0/255.255.255.0", "10.1.0.0/", "10.1.0.0/+24", "fd00::%1/64",
                                  ipaddress.ip_address("10.1.0.0"), ipaddress.ip_interface("10.1.0.0/24")],
                         ids=repr)  # fmt: skip
def test_what_is_no_block(pool: object) -> None:
    """The standard library takes numbers, bytes, pairs and masks, those of hosts too, for a block."""
    with pytest.raises(Invalid) as raised:
        Subnet(pool)  # type: ignore[arg-type]  # what callers do
    assert "subnet" == raised.value.field
    with pytest.raises(Invalid):
        Subnet.of(None)  # type: ignore[arg-type]  # "ipv4" asks for any


def test_no_auxiliary_addresses() -> None:
    """None is none; a block is as good as its text."""
    assert {} == Subnet("10.1.0.0/24", aux=None).aux
    assert Subnet("10.1.0.0/24") == Subnet(ipaddress.ip_network("10.1.0.0/24"))


@pytest.mark.parametrize(("block", "room"), [("10.1.0.0/24", 254), ("10.1.0.0/30", 2), ("10.1.0.0/31", 2),
                                             ("10.1.0.0/32", 1), ("fd00::/126", 3), ("fd00::/127", 2),
                                             ("fd00::/128", 1)])  # fmt: skip
def test_room_in_a_block(block: str, room: int) -> None:
    """As much as the default IPAM hands out: the same rules."""
    first, last = usable(ipaddress.ip_network(block))
    assert room == assignable(ipaddress.ip_network(block)) == last - first + 1


def test_parts_of_no_subnet() -> None:
    """A gateway of "any pool" means nothing."""
    with pytest.raises(Invalid, match="needed"):
        Subnet(gateway="10.1.0.1")


def test_families_by_name() -> None:
    """``"ipv6"`` asks for a default pool of that family; a Subnet is itself."""
    assert (6, None) == (Subnet.of("ipv6").version, Subnet.of("ipv6").pool)
    assert 4 == Subnet.of("ipv4").version == Subnet().version
    one = Subnet("10.1.0.0/24", gateway="10.1.0.1", aux={"a": "10.1.0.2"})
    assert one is Subnet.of(one)


# -- addresses and MACs ------------------------------------------------------------------------------------------------


@given(records.macs())
def test_macs_in_any_notation(mac: str) -> None:
    """Upper case and hyphens are taken; what is kept is lower case with colons."""
    assert mac == parse_mac(mac) == parse_mac(mac.upper()) == parse_mac(mac.replace(":", "-"))


@pytest.mark.parametrize("mac", ["", "02:00:00:00:00", "02:00:00:00:00:0g", "0200.0000.0001", "01:00:5e:00:00:01",
                                 "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "02:00:00:00:00:01\n", None, 5, b"x",
                                 ["02:00:00:00:00:01"]], ids=repr)  # fmt: skip
def test_bad_macs(mac: str) -> None:
    """Group addresses and zero are no interface's."""
    with pytest.raises(Invalid):
        parse_mac(mac)


def test_a_mac_follows_from_an_address() -> None:
    """libnetwork's rule: 02:42 and the four octets."""
    assert "02:42:0a:58:00:02" == mac_from_address(ipaddress.ip_address("10.88.0.2"))
    assert "fe80::42:aff:fe58:2" == str(link_local_from_mac("02:42:0a:58:00:02"))


@pytest.mark.parametrize(
    "address",
    ["", "10.0.0", "10.0.0.256", "fe80::1%eth0", "x", "10.0.0.1/24", 5, True, None, b"\n\0\0\1",
     ipaddress.ip_network("10.0.0.1"), ipaddress.ip_interface("10.0.0.1/8"), ipaddress.ip_address("fe80::1%eth0")],
    ids=repr,
)  # fmt: skip
def test_bad_addresses(address: str) -> None:
    """A scope id belongs to a host, not to a record."""
    with pytest.raises(Invalid):
        parse_address(address, "address")


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "value"), [("1", True), ("t", True), ("True", True), ("0", False), ("FALSE", False)])
def test_booleans_are_gos(text: str, value: bool) -> None:
    """Docker's labels follow strconv.ParseBool."""
    assert value == options.boolean("label", text)


@pytest.mark.parametrize("text", ["yes", "", "tRue", "2", " 1"])
def test_no_booleans(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(Invalid, match="label"):
        options.boolean("label", text)


@pytest.mark.parametrize("text", ["67", "65536", "-1", "1e3", "", "١٥٠٠", "15 00", "9" * 30])
def test_bad_mtus(text: str) -> None:
    """Out of bounds, or not decimal digits of ASCII."""
    with pytest.raises(Invalid):
        options.mtu(options.MTU, text)


def test_options_are_parsed_by_label() -> None:
    """Unknown labels go to the caller, the IPAM's are left to the IPAM."""
    refused: list[str] = []
    given_options = {options.MTU: "1400", "x": "1", f"{options.IPAM_PREFIX}serial": "true"}
    assert {options.MTU: 1400} == options.parse(given_options, {options.MTU: options.mtu}, refused.append)
    assert ["x"] == refused


@pytest.mark.parametrize("text", ["eth", "abcdefghijkl"])
def test_interface_prefixes(text: str) -> None:
    """Room for a number is left within IFNAMSIZ."""
    assert text == options.interface_prefix("label", text)


@pytest.mark.parametrize(
    "text", ["", "eth0", "a/b", "abcdefghijklm", "ä", "lo", "tunl", "sit", "gre", "gretap", "erspan"]
)
def test_bad_interface_prefixes(text: str) -> None:
    """Letters only: a digit at the end would make two names one. And no name that the kernel makes by itself."""
    with pytest.raises(Invalid):
        options.interface_prefix("label", text)


# -- deadlines ---------------------------------------------------------------------------------------------------------


def test_a_deadline_shares_out_one_budget() -> None:
    """What is left shrinks with the clock it was given, never below zero; then it says what was about to begin."""
    clock = ManualClock()
    deadline = Deadline.after(2.0, clock.monotonic)
    deadline.check("first")
    clock.advance(1.5)
    assert 0.5 == deadline.remaining()
    clock.advance(1.0)
    assert 0.0 == deadline.remaining()
    with pytest.raises(DeadlineExceeded, match=r"second.*2 s"):
        deadline.check("second")
