"""What a resolver backend promises, and the values that cross that border.

A backend (entry-point group ``libcnm.resolvers``) knows names that the endpoint records do not: a service catalogue, a
company's directory. It is asked after the sandbox's own networks and before the upstream servers. It must never know
sockets, messages or who else is asked. Codes and types are those of RFC 1035, RFC 3596, RFC 2782, RFC 6891.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from typing import Protocol

import attrs

from libcnm.model.addresses import IPAddress


class Rcode(enum.IntEnum):
    """Response codes that we send or act upon. BADVERS needs the extended code of an OPT record (RFC 6891 6.1.3)."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


class RecordType(enum.IntEnum):
    """Record types that are treated in a way of their own. Any other 16-bit number is a type too."""

    A = 1
    PTR = 12
    AAAA = 28
    SRV = 33
    OPT = 41
    IXFR = 251
    AXFR = 252
    ANY = 255


@attrs.frozen
class Answer:
    """What is known about one name and one type.

    ``NOERROR`` with neither addresses nor names says "the name exists, but has no record of that type". ``addresses``
    become A and AAAA records, ``names`` PTR records (text, without the trailing dot). ``authoritative`` is false for a
    policy answer about names that are not ours.
    """

    rcode: Rcode = Rcode.NOERROR
    addresses: tuple[IPAddress, ...] = ()
    names: tuple[str, ...] = ()
    authoritative: bool = True


class View(Protocol):
    """What a backend may know of the asking sandbox."""

    @property
    def networks(self) -> tuple[tuple[str, str], ...]:
        """Id and name of each attached network, in the sandbox's order."""

    @property
    def forwarding(self) -> bool:
        """False when the sandbox has only internal networks: then nothing may leave the host on its behalf."""


class Resolver(ABC):
    """A resolver backend. One object serves every sandbox of the host.

    ``answer`` runs on the only DNS thread: it must answer from memory, within
    :data:`libcnm.dns.responder.BACKEND_SECONDS`. One that is slower, raises or returns anything but an
    :class:`Answer` or None is passed over for :data:`~libcnm.dns.responder.BACKEND_PAUSE_SECONDS`.
    """

    @abstractmethod
    def answer(self, view: View, name: str, qtype: int) -> Answer | None:
        """The answer for ``name`` (lower case, no trailing dot), or None: "not mine, ask the next"."""
