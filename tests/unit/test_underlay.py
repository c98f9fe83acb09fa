"""Where a host is on the network between hosts: looked at again, and the user's address believed only if it is one."""

from __future__ import annotations

import ipaddress

import pytest

from libcnm.controller.underlay import FRESH_SECONDS, Place, Underlay
from libcnm.errors import Invalid, NotFound
from libcnm.kernel.fake import FakeKernel, Uplink
from libcnm.kernel.resources import Address, Bridge
from libcnm.model.addresses import IPAddress
from libcnm.system.clock import ManualClock

ip = ipaddress.ip_address
FIRST, SECOND = ip("192.0.2.11"), ip("198.51.100.7")


class Host:
    """A host whose uplink is a bridge that somebody has made, so that a test can change it by hand."""

    def __init__(self, advertise: IPAddress | None = None, *, in_use: bool = False) -> None:
        self.kernel = FakeKernel(uplinks=())
        self.clock = ManualClock()
        self.in_use = in_use
        self.underlay = Underlay(self.kernel, self.clock, advertise, lambda: self.in_use)
        self.kernel.vandalise_add(Bridge("", "up0", "02:00:00:00:00:01", 1500))
        self.address = self.give(FIRST)

    def give(self, address: IPAddress) -> Address:
        given = Address("", "up0", ipaddress.ip_interface(f"{address}/24"))
        self.kernel.vandalise_add(given)
        return given

    def later(self) -> Place:
        self.clock.advance(FRESH_SECONDS)
        return self.underlay.place()


def test_it_is_not_looked_at_for_every_verb() -> None:
    """One look is good for a while."""
    host = Host()
    assert Place(FIRST, 1500) == host.underlay.place()
    host.kernel.vandalise_change(Bridge("", "up0", "02:00:00:00:00:01", 1400))
    assert Place(FIRST, 1500) == host.underlay.place()


def test_an_mtu_that_changed_is_seen() -> None:
    """What a process saw when it began is not what is so for ever."""
    host = Host()
    host.underlay.place()
    host.kernel.vandalise_change(Bridge("", "up0", "02:00:00:00:00:01", 1400))
    assert Place(FIRST, 1400) == host.later()


def test_an_address_that_changed_is_seen() -> None:
    """A lease ended, and the next one is another address. A mere newcomer changes nothing: peers know the old one."""
    host = Host()
    host.underlay.place()
    host.give(SECOND)
    assert Place(FIRST, 1500) == host.later()
    host.kernel.vandalise_delete(host.address.identity)
    assert Place(SECOND, 1500) == host.later()


def test_an_address_of_another_host_is_refused() -> None:
    """The error says which addresses there are."""
    host = Host(ip("203.0.113.9"))
    host.give(SECOND)
    with pytest.raises(Invalid, match=r"203\.0\.113\.9.*192\.0\.2\.11, 198\.51\.100\.7") as raised:
        host.underlay.place()
    assert "advertise" == raised.value.field
    host.give(ip("203.0.113.9"))
    assert Place(ip("203.0.113.9"), 1500) == host.underlay.place()


def test_a_host_without_addresses_says_so() -> None:
    """Not an empty list."""
    underlay = Underlay(FakeKernel(uplinks=()), ManualClock(), FIRST, lambda: False)
    with pytest.raises(Invalid, match="none that is up"):
        underlay.place()
    assert Place(None, 1500) == Underlay(FakeKernel(uplinks=()), ManualClock(), None, lambda: False).place()


def test_what_is_here_can_still_be_left() -> None:
    """The address has gone while networks that were made with it are here: they are not stuck; a new one is refused."""
    host = Host(FIRST, in_use=True)
    host.kernel.vandalise_change(Bridge("", "up0", "02:00:00:00:00:01", 1400))
    assert Place(FIRST, 1400) == host.underlay.place()
    host.kernel.vandalise_delete(host.address.identity)
    assert Place(FIRST, 1400) == host.later()
    host.in_use = False
    with pytest.raises(Invalid):
        host.later()


class Silent(FakeKernel):
    """A kernel that has nothing to say about MTUs when asked to be silent."""

    silent = False

    def mtu_towards(self, address: IPAddress) -> int:
        if self.silent:
            raise NotFound("route", str(address))
        return super().mtu_towards(address)


def test_a_look_that_fails_changes_nothing() -> None:
    """Later looks may fail, verbs need not; the first one has nothing to fall back on."""
    kernel, clock = Silent(uplinks=(Uplink(addresses=("192.0.2.11/24",)),)), ManualClock()
    underlay = Underlay(kernel, clock, None, lambda: False)
    kernel.silent = True
    with pytest.raises(NotFound):
        underlay.place()
    kernel.silent = False
    assert Place(FIRST, 1500) == underlay.place()
    kernel.silent = True
    clock.advance(FRESH_SECONDS)
    assert Place(FIRST, 1500) == underlay.place()
