"""Zones first, then backends; and what a backend does wrong costs its own names and nobody else's."""

from __future__ import annotations

import ipaddress

import dns.message
import pytest

from libcnm.contracts.resolver import Answer, Resolver, View
from libcnm.dns.counters import Counters
from libcnm.dns.question import parse
from libcnm.dns.responder import BACKEND_PAUSE_SECONDS, BACKEND_SECONDS, Responder
from libcnm.dns.view import SandboxView
from libcnm.dns.zone import NameRecord, NetworkZone

WEB, CORP = ipaddress.ip_address("10.88.0.2"), ipaddress.ip_address("192.0.2.5")


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Backend(Resolver):
    """Knows every name below "corp", and misbehaves on some."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.asked: list[str] = []

    def answer(self, view: View, name: str, qtype: int) -> Answer | None:
        self.asked.append(name)
        assert (("b", "blue"),) == view.networks
        if name == "raise.corp":
            raise ValueError(name)
        if name == "nonsense.corp":
            return 7  # type: ignore[return-value]  # that is the nonsense
        if name == "unsayable.corp":
            return Answer(names=("a" * 64,))
        if name == "slow.corp":
            self.clock.seconds += BACKEND_SECONDS * 2
        return Answer(addresses=(CORP,)) if name.endswith(".corp") else None


class Asker:
    """A responder with one backend and one network, asked by name; answers as text, "forward", and whether kept."""

    def __init__(self, forwarding: bool) -> None:
        zone = NetworkZone("b", "blue")
        zone.put(NameRecord("e", "web", "b", "blue", addresses=(WEB,)))
        self.view = SandboxView((zone,), forwarding=forwarding)
        self.clock = Clock()
        self.backend = Backend(self.clock)
        self.counters = Counters()
        self.responder = Responder(self.clock, lambda _: 0, [self.backend], self.counters)

    def ask(self, name: str, qtype: str = "A") -> tuple[str, bool]:
        question = parse(dns.message.make_query(name, qtype).to_wire())
        reply, keep = self.responder.respond(self.view, question, 512)
        if reply is None:
            return "forward", keep
        message = dns.message.from_wire(reply.fill(question.id, question.wire))
        return " ".join(record.to_text() for rrset in message.answer for record in rrset) or message.rcode().name, keep


def test_the_order() -> None:
    """What the networks know, or know not to exist, no backend is asked for; the rest it is, before anything leaves."""
    asker = Asker(forwarding=True)
    assert ("10.88.0.2", True) == asker.ask("web")
    assert ("NXDOMAIN", True) == asker.ask("x.blue")
    assert [] == asker.backend.asked
    assert ("192.0.2.5", False) == asker.ask("A.corp")
    assert ("forward", False) == asker.ask("www.example.org")
    assert ["a.corp", "www.example.org"] == asker.backend.asked


@pytest.mark.parametrize(
    ("name", "qtype", "expected"),
    [
        ("raise.corp", "A", "NXDOMAIN"),
        ("nonsense.corp", "A", "NXDOMAIN"),
        ("unsayable.corp", "PTR", "NXDOMAIN"),
        ("slow.corp", "A", "192.0.2.5"),
    ],
)
def test_a_backend_that_misbehaves_is_passed_over(name: str, qtype: str, expected: str) -> None:
    """For a while, and what is said meanwhile is not kept: its names are back when it is."""
    asker = Asker(forwarding=False)
    assert (expected, False) == asker.ask(name, qtype)
    assert 1 == asker.counters.backend_failures
    assert ("NXDOMAIN", False) == asker.ask("b.corp")
    assert ("10.88.0.2", True) == asker.ask("web")
    asker.clock.seconds += BACKEND_PAUSE_SECONDS + 1
    assert ("192.0.2.5", False) == asker.ask("b.corp")
