"""What every resolver backend must do, as a pytest class: inherit from it, say how to make yours and what it knows.

    class TestMyDirectory(ResolverConformance):
        KNOWN = {"printer.corp.example": ("192.0.2.5", "2001:db8::5")}

        @pytest.fixture
        def resolver(self) -> Resolver:
            return MyDirectory()

The backend is asked as the resident asks it, and what comes of it is read by a decoder of its own, dnslib: an answer
that is right as a value and wrong on the wire is of use to nobody. It knows the backend through
:mod:`libcnm.contracts.resolver` alone. The law: RFC 1035, RFC 2181 11 (any octets are a name), RFC 8020 (a name exists
for every type).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import ClassVar, Final

import dnslib
import pytest

from libcnm.contracts.resolver import Answer, Rcode, RecordType, Resolver
from libcnm.dns.answer import TCP_OCTETS
from libcnm.dns.counters import Counters
from libcnm.dns.question import parse
from libcnm.dns.responder import BACKEND_SECONDS, Responder
from libcnm.dns.view import SandboxView

EVERY_TYPE: Final = (1, 2, 5, 6, 12, 15, 16, 28, 33, 64, 65, 255, 1000, 65535)
ODD_NAMES: Final = ("", "a", "_dns-sd._udp", "*", "x" * 63, ".".join(["y" * 61] * 4), "a\\046b", "caf\xe9", "\0\xff")
"""Names in their text form (:mod:`libcnm.dns.names`), as a workload may ask for them."""
VIEWS: Final = (SandboxView(forwarding=True), SandboxView(forwarding=False))


class ResolverConformance:
    """``KNOWN``: some names that the backend knows, lower case and without the trailing dot, and all their addresses.
    ``REVERSE``: addresses' reverse names and the names they lead to, if it has such. ``UNKNOWN``: a name of others.
    """

    KNOWN: ClassVar[Mapping[str, tuple[str, ...]]]
    REVERSE: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    UNKNOWN: ClassVar[str] = "nobody-has-this.invalid"

    @pytest.fixture
    def resolver(self) -> Resolver:
        """The backend under test."""
        raise NotImplementedError("override the fixture `resolver`")

    def test_it_knows_what_it_is_said_to_know(self, resolver: Resolver) -> None:
        """All addresses of the version asked for and no other record, under the name as the client wrote it."""
        for name, addresses in self.KNOWN.items():
            for rtype, mark in ((RecordType.A, "."), (RecordType.AAAA, ":")):
                reply = asked(resolver, name.title(), rtype)
                assert reply is not None, f"{name} is known, and it said None"
                assert Rcode.NOERROR == reply.header.rcode
                assert {(name.title(), int(rtype))} >= {(str(rr.rname).rstrip("."), rr.rtype) for rr in reply.rr}
                wanted = {address for address in addresses if mark in address}
                assert wanted == {str(rr.rdata) for rr in reply.rr}

    def test_it_knows_the_way_back(self, resolver: Resolver) -> None:
        """A reverse name leads to the names that it is said to lead to."""
        for name, targets in self.REVERSE.items():
            reply = asked(resolver, name, RecordType.PTR)
            assert reply is not None
            assert set(targets) == {str(rr.rdata).rstrip(".") for rr in reply.rr}

    def test_a_known_name_exists_for_every_type(self, resolver: Resolver) -> None:
        """NOERROR without a record, where it has none of that type: NXDOMAIN would say that the name does not exist."""
        for name in self.KNOWN:
            for rtype in EVERY_TYPE:
                reply = asked(resolver, name, rtype)
                assert reply is not None, f"{name} is known, and of type {rtype} it said None"
                assert Rcode.NOERROR == reply.header.rcode

    def test_other_names_are_left_to_others(self, resolver: Resolver) -> None:
        """None, not an error: somebody else may know it."""
        for rtype in EVERY_TYPE:
            assert asked(resolver, self.UNKNOWN, rtype) is None

    def test_no_question_is_too_odd(self, resolver: Resolver) -> None:
        """Any octets are a name and any number a type; whatever it makes of them, it does not raise."""
        for name in ODD_NAMES:
            for rtype in EVERY_TYPE:
                for view in VIEWS:
                    assert isinstance(resolver.answer(view, name, rtype), Answer | None)

    def test_it_keeps_nobody_waiting(self, resolver: Resolver) -> None:
        """It answers from memory: every sandbox of the host waits meanwhile. The best of some times counts."""
        for name in (*self.KNOWN, self.UNKNOWN):
            times = []
            for _ in range(5):
                began = time.monotonic()
                resolver.answer(VIEWS[0], name, RecordType.A)
                times.append(time.monotonic() - began)
            assert min(times) < BACKEND_SECONDS

    def test_the_same_question_has_the_same_answer(self, resolver: Resolver) -> None:
        """As long as nothing changes, asking changes nothing."""
        for name in (*self.KNOWN, *self.REVERSE, self.UNKNOWN):
            first = resolver.answer(VIEWS[0], name, RecordType.ANY)
            assert first == resolver.answer(VIEWS[0], name, RecordType.ANY)


def asked(resolver: Resolver, name: str, rtype: int) -> dnslib.DNSRecord | None:
    """What a client reads when it asks for ``name``; None when the backend leaves the question to others.

    Time stands still for the responder: how long the backend takes is another question.
    """
    counters = Counters()
    responder = Responder(lambda: 0.0, lambda _: 0, [resolver], counters)
    query = dnslib.DNSRecord(q=dnslib.DNSQuestion(name, rtype))
    question = parse(bytes(query.pack()))
    reply, _ = responder.respond(VIEWS[0], question, TCP_OCTETS)
    assert 0 == counters.backend_failures, f"it failed, or gave what cannot be said in DNS, when asked for {name}"
    if reply is None:
        return None
    read = dnslib.DNSRecord.parse(reply.fill(question.id, question.wire))
    assert (query.header.id, query.q) == (read.header.id, read.q)
    return read
