"""The shipped kit for resolver backends, run on a small one; and that it finds what is wrong with bad ones."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

from libcnm.contracts.resolver import Answer, Rcode, Resolver, View
from libcnm.dns.responder import BACKEND_SECONDS
from libcnm.testing.resolver import ResolverConformance

NAMES = {"printer.corp.example": ("192.0.2.5", "192.0.2.6", "2001:db8::5"), "v6.corp.example": ("2001:db8::6",)}
BACK = {"5.2.0.192.in-addr.arpa": ("printer.corp.example",)}


class Directory(Resolver):
    """Names in a dict."""

    def answer(self, view: View, name: str, qtype: int) -> Answer | None:
        if name in BACK:
            return Answer(names=BACK[name])
        if name in NAMES:
            return Answer(addresses=tuple(map(ipaddress.ip_address, NAMES[name])))
        return None


class TestDirectory(ResolverConformance):
    """A backend as its author would test it."""

    KNOWN = NAMES
    REVERSE = BACK

    @pytest.fixture
    def resolver(self) -> Resolver:
        return Directory()


class Asked(NamedTuple):
    """A question, and what would be right."""

    name: str
    qtype: int
    right: Answer | None


class Bad(Directory):
    """A directory with one thing wrong."""

    def __init__(self, wrong: Callable[[Asked], object]) -> None:
        self.wrong = wrong

    def answer(self, view: View, name: str, qtype: int) -> Answer | None:
        return self.wrong(Asked(name, qtype, super().answer(view, name, qtype)))  # type: ignore[return-value]  # so bad


def _one_of_several(asked: Asked) -> object:
    return asked.right and Answer(addresses=asked.right.addresses[:1])


def _dawdle(asked: Asked) -> object:
    ends = time.monotonic() + 2 * BACKEND_SECONDS
    while time.monotonic() < ends:
        pass
    return asked.right


@pytest.mark.parametrize(
    ("test", "wrong"),
    [
        ("it_knows_what_it_is_said_to_know", lambda _: None),
        ("it_knows_what_it_is_said_to_know", lambda _: 7),
        ("it_knows_what_it_is_said_to_know", _one_of_several),
        ("it_knows_the_way_back", lambda _: Answer(names=("a" * 64,))),
        ("a_known_name_exists_for_every_type", lambda asked: asked.right if asked.qtype in (1, 28) else None),
        ("a_known_name_exists_for_every_type", lambda _: Answer(rcode=Rcode.NXDOMAIN)),
        ("other_names_are_left_to_others", lambda asked: asked.right or Answer(rcode=Rcode.NXDOMAIN)),
        ("no_question_is_too_odd", lambda asked: asked.name.encode("ascii") and None),
        ("it_keeps_nobody_waiting", _dawdle),
        ("the_same_question_has_the_same_answer", lambda _: object()),
    ],
)
def test_the_kit_finds_it(test: str, wrong: Callable[[Asked], object]) -> None:
    """Each of its tests fails for a reason of its own."""
    with pytest.raises((AssertionError, UnicodeEncodeError)):
        getattr(TestDirectory(), f"test_{test}")(Bad(wrong))
