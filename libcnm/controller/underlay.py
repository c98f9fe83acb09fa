"""This host on the network between the hosts: the address others reach it by (VTEP), and the MTU towards them.

Both may change while a process lives: a lease ends, somebody sets another MTU. So they are looked at again every few
seconds, when somebody asks: a verb has the present values without a dump of its own, and the resident's healing brings
what was made with earlier ones up to date. It knows nothing of drivers and records.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from libcnm.errors import CnmError, Invalid
from libcnm.kernel.base import Kernel
from libcnm.model.addresses import IPAddress
from libcnm.system.clock import Clock

log = logging.getLogger("libcnm")

FRESH_SECONDS: Final = 5.0
"""How long a look is good for: longer than a verb takes, so that it rarely sees two; it costs a few dumps."""
_MTU_ALONE: Final = 1500


@attrs.frozen
class Place:
    """Where this host is: ``vtep`` None when it has no address; ``mtu`` in octets."""

    vtep: IPAddress | None
    mtu: int


class Underlay:
    """``advertise``: the address that the user has given, if any. ``in_use``: whether a network of the cluster is
    present on this host, made with an address that was right when it was.
    """

    def __init__(self, kernel: Kernel, clock: Clock, advertise: IPAddress | None, in_use: Callable[[], bool]) -> None:
        self._kernel = kernel
        self._clock = clock
        self._advertise = advertise
        self._in_use = in_use
        self._known: Place | None = None
        self._until = 0.0

    def place(self) -> Place:
        """The host's place now, or a moment ago. Invalid, naming those there are, when the user's address is none of
        this host's; but not while networks that were made with it are here: they have to be left and healed all the
        same.
        """
        known, now = self._known, self._clock.monotonic()
        if known is not None and now < self._until:
            return known
        try:
            found = self._look(known)
        except Invalid:
            raise
        except CnmError as error:
            if known is None:
                raise
            log.warning("the underlay cannot be looked at, and is taken for what it was: %s", error)
            found = known
        if known is not None and found != known:
            log.warning("the underlay has changed: %s, before %s", found, known)
        self._known, self._until = found, now + FRESH_SECONDS
        return found

    def _look(self, known: Place | None) -> Place:
        here = self._kernel.local_addresses()
        vtep = self._advertise
        if vtep is None:
            # The one that peers know already stays as long as we have it, even if a better one comes.
            vtep = known.vtep if known is not None and known.vtep in here else next(iter(here), None)
        elif vtep not in here:
            self._refuse(vtep, here)
            return Place(vtep, _MTU_ALONE if known is None else known.mtu)
        return Place(vtep, _MTU_ALONE if vtep is None else self._kernel.mtu_towards(vtep))

    def _refuse(self, vtep: IPAddress, here: Sequence[IPAddress]) -> None:
        if self._in_use():
            log.warning("advertise: %s is no address of this host any more; it has %s", vtep, _listed(here))
            return
        raise Invalid(
            "advertise",
            str(vtep),
            f"is no address of this host, which has {_listed(here)}",
            hint="give one of these, or bring its link up",
        )


def _listed(addresses: Sequence[IPAddress]) -> str:
    return ", ".join(map(str, addresses)) or "none that is up and global"
