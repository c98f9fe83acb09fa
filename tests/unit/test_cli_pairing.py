"""Docker's loose words for pools: which range, gateway and auxiliary address belongs to which subnet."""

from __future__ import annotations

import pytest

from libcnm.cli.pairing import subnets
from libcnm.errors import Invalid
from libcnm.model.addresses import Subnet


def test_each_word_goes_to_the_subnet_that_contains_it() -> None:
    """Whatever the order in which they are typed."""
    found = subnets(
        ["10.1.0.0/16", "fd01::/64"],
        ["fd01::8:0/112", "10.1.4.0/24"],
        ["10.1.0.9", "fd01::9"],
        {"router": "10.1.0.7", "v6": "fd01::7"},
    )
    expected = [
        Subnet("10.1.0.0/16", range="10.1.4.0/24", gateway="10.1.0.9", aux={"router": "10.1.0.7"}),
        Subnet("fd01::/64", range="fd01::8:0/112", gateway="fd01::9", aux={"v6": "fd01::7"}),
    ]
    assert expected == found


@pytest.mark.parametrize(
    ("pools", "expected"),
    [
        ([], [Subnet(version=4), Subnet(version=6)]),
        (["10.1.0.0/16"], [Subnet("10.1.0.0/16"), Subnet(version=6)]),
        (["fd01::/64"], [Subnet("fd01::/64")]),
        (["10.1.0.0/16", "fd01::/64"], [Subnet("10.1.0.0/16"), Subnet("fd01::/64")]),
    ],
)
def test_ipv6_asks_for_a_default_pool_only_where_none_is_given(pools: list[str], expected: list[Subnet]) -> None:
    """``--ipv6`` means that there is an IPv6 subnet, from the defaults if need be."""
    assert expected == subnets(pools, ipv6=True)


def test_no_words_leave_the_choice_to_the_library() -> None:
    """No subnet asked for: the API's own default."""
    assert [] == subnets([])


@pytest.mark.parametrize(
    ("words", "field", "reason"),
    [
        ((["10.1.0.0/16"], [], ["10.2.0.1"]), "--gateway", "is in none of the subnets"),
        ((["10.1.0.0/16"], ["10.2.0.0/24"]), "--ip-range", "is in none of the subnets"),
        (([], [], [], {"a": "10.1.0.1"}), "--aux-address", "is in none of the subnets"),
        ((["10.1.0.0/16"], [], ["10.1.0.1", "10.1.0.2"]), "--gateway", "is the second for subnet 10.1.0.0/16"),
        (
            (["10.1.0.0/16"], ["10.1.1.0/24", "10.1.2.0/24"]),
            "--ip-range",
            "is the second for subnet 10.1.0.0/16",
        ),
        ((["10.1.0.0/16", "10.1.2.0/24"],), "--subnet", "overlaps 10.1.0.0/16"),
        ((["10.1.0.1/16"],), "--subnet", "has host bits set"),
        ((["10.1.0.0/16"], [], ["router"]), "--gateway", "is not an IPv4 or IPv6 address"),
    ],
)
def test_what_cannot_be_paired_is_refused_with_the_word(words: tuple[list[str], ...], field: str, reason: str) -> None:
    """The error names the option as it was typed."""
    with pytest.raises(Invalid) as caught:
        subnets(*words)  # type: ignore[arg-type]  # the fourth is a mapping
    assert (field, reason) == (caught.value.field, caught.value.reason)
