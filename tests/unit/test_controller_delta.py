"""The difference of two sets of resources: complete, in an order that the kernel takes, safe to stop anywhere."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import attrs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from libcnm.controller.delta import changes_in_place, delta, ordered
from libcnm.kernel.fake import FakeKernel, Uplink
from libcnm.kernel.resources import Address, Bridge, Interface, Namespace, Route, Veth, Vxlan
from libcnm.model.resource import Change, Resource, by_identity
from libcnm.system.clock import ManualClock
from libcnm.testing import strategies

MAC = "02:00:00:00:00:01"
BRIDGE = Bridge("", "b1", MAC)
BOX = Namespace("s1")
VETH = Veth("", "v1", MAC, "s1", "e1", "02:00:00:00:00:02", master="b1")
INNER = Interface("s1", "e1")
ADDRESS = Address("s1", "e1", ipaddress.ip_interface("10.1.0.2/24"))
ROUTE = Route("s1", ipaddress.ip_network("0.0.0.0/0"), "e1", ipaddress.ip_address("10.1.0.1"))
EVERYTHING = (BOX, BRIDGE, VETH, INNER, ADDRESS, ROUTE)

subsets = st.sets(st.sampled_from(EVERYTHING))


def within() -> object:
    return ManualClock(tick=0.0001).deadline(60)


def consistent(resources: Iterable[Resource]) -> set[Resource]:
    """Only those whose needs are in the set."""
    found = set(resources)
    while True:
        provided = {provided for one in found for provided in one.provides}
        kept = {
            one
            for one in found
            if all(need in provided or (need[0] == "link" and need[-1] == "lo") for need in one.needs)
        }
        if kept == found:
            return found
        found = kept


def carried_out(before: Iterable[Resource], changes: Iterable[Change]) -> set[Resource]:
    """What a set becomes, what dies with something included."""
    found = {one.identity: one for one in before}
    for change in changes:
        if change.operation == "delete":
            gone = found.pop(change.resource.identity)
            found = {i: one for i, one in found.items() if not set(one.dies_with) & set(gone.provides)}
        else:
            found[change.resource.identity] = change.resource
    return set(found.values())


@given(subsets, subsets)
def test_it_leads_from_one_set_to_the_other(one: set[Resource], other: set[Resource]) -> None:
    """Applied to the first it makes the second; between equal sets there is nothing."""
    before, after = consistent(one), consistent(other)
    assert after == carried_out(before, delta(before, after))
    assert () == delta(before, before)


@given(st.lists(strategies.resources(), max_size=12, unique_by=lambda one: one.identity), st.randoms())
def test_the_order_does_not_depend_on_the_callers(resources: list[Resource], chance: object) -> None:
    """Any permutation of the sets gives the same changes, so a plan can be compared."""
    assume(len({link for one in resources for link in one.provides}) == sum(len(one.provides) for one in resources))
    shuffled = list(resources)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]  # a random.Random
    assert planned((), resources) == planned((), shuffled)
    assert planned(resources, ()) == planned(shuffled, ())


def planned(before: Iterable[Resource], after: Iterable[Resource]) -> tuple[Change, ...] | str:
    """The delta, or that there is none because some resources need each other (two links, each the other's master)."""
    try:
        return delta(before, after)
    except ValueError:
        return "need each other"


@given(subsets, subsets)
def test_needs_come_first_and_go_last(one: set[Resource], other: set[Resource]) -> None:
    """Nothing is added before, or outlives, what it needs."""
    before, after = consistent(one), consistent(other)
    there = {provided for resource in before for provided in resource.provides}
    for change in delta(before, after):
        resource = change.resource
        if change.operation == "delete":
            there -= set(resource.provides)
        else:
            managed = {provided for known in {*before, *after} for provided in known.provides}
            assert set(resource.needs) & managed <= there, change
            there |= set(resource.provides)


def test_the_kernel_takes_it_in_one_go() -> None:
    """A small network, made and removed on the fake: no refusal, and nothing is left."""
    kernel = FakeKernel(uplinks=(Uplink(),))
    pristine = kernel.snapshot()
    for changes in (delta((), EVERYTHING), delta(EVERYTHING, ())):
        outcomes = kernel.apply(changes, deadline=ManualClock(tick=0.0001).deadline(60))
        assert [] == [outcome for outcome in outcomes if outcome is not None]
    kernel.sweep()
    assert pristine == kernel.snapshot()


def test_what_dies_anyway_is_not_deleted() -> None:
    """Deleting the namespace takes its addresses and routes along: nobody sends messages for them."""
    sent = [change.resource for change in delta(EVERYTHING, ())]
    assert ADDRESS not in sent
    assert ROUTE not in sent
    assert BRIDGE in sent


def test_a_change_waits_for_what_it_needs() -> None:
    """A port that gets a new bridge for a master is changed after the bridge has been made, not before."""
    lost = attrs.evolve(VETH, master=None)
    operations = [str(change) for change in delta([BOX, lost], [BOX, BRIDGE, VETH])]
    assert ["+ link host b1", "~ link host v1"] == operations


def test_a_fixed_field_means_delete_and_add() -> None:
    """A VXLAN device's VNI cannot be changed in place; deletion comes first, as both have one name."""
    old = Vxlan("s1", "x1", 300, MAC, ipaddress.ip_address("192.0.2.1"))
    new = attrs.evolve(old, vni=301)
    assert not changes_in_place(old, new)
    assert [Change("delete", old), Change("add", new)] == list(delta([old], [new]))
    other = attrs.evolve(old, mtu=1400)
    assert [Change("change", other, old)] == list(delta([old], [other]))


def test_every_change_can_be_reversed() -> None:
    """Undoing is the same changes, backwards."""
    old = attrs.evolve(BRIDGE, mtu=1400)
    for change in (Change("add", BRIDGE), Change("delete", BRIDGE), Change("change", BRIDGE, old)):
        assert change == change.reversed().reversed()
    assert Change("delete", BRIDGE) == Change("add", BRIDGE).reversed()


def test_drivers_that_contradict_themselves() -> None:
    """Two different resources of one identity, or resources that need each other, are a driver's bug and said to be."""
    with pytest.raises(ValueError, match="two different resources"):
        by_identity([BRIDGE, attrs.evolve(BRIDGE, mtu=9000)])

    @attrs.frozen
    class Loop(Resource):
        kind = "loop"
        name: str
        need: str

        @property
        def identity(self) -> tuple[str, ...]:
            return ("loop", "", self.name)

        @property
        def needs(self) -> tuple[tuple[str, ...], ...]:
            return (("loop", "", self.need),)

    with pytest.raises(ValueError, match="need each other"):
        ordered(by_identity([Loop("a", "b"), Loop("b", "a")]))
    alone = Loop("a", "a")
    assert [alone] == ordered(by_identity([alone])), "what provides its own need waits for nobody"
