"""What verbs tell the follower: when that is believed, and when it is read instead."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import ClassVar

import attrs
import pytest

from libcnm.contracts.driver import Capabilities, Driver
from libcnm.controller import resident_link
from libcnm.controller.context import News, Nobody
from libcnm.controller.controller import Controller
from libcnm.controller.follower import Follower
from libcnm.controller.registry import Registry
from libcnm.controller.resident import news_of, request_of
from libcnm.kv.base import Delete, Entry, Transaction
from libcnm.model import keys, limits
from libcnm.model.deadline import Deadline
from libcnm.testing.world import FakeWorld


@attrs.define
class Scene:
    """A follower that knows an attached endpoint, and how that is written."""

    cnm: Controller
    follower: Follower
    entry: Entry

    def told(self, *entries: Entry, gone: str = "") -> list[str]:
        """Tell it; the addresses of the endpoint that it knows then."""
        changed: dict[str, Entry | None] = {one.key: one for one in entries}
        if gone:
            changed[gone] = None
        self.follower.take_in(changed, self.cnm._calls.context.doors.clock.deadline(10.0))
        known = [one for table in self.follower.endpoints.values() for one in table.values()]
        return [str(address) for one in known for address in one.addresses]

    def rewritten(self, by: int) -> Entry:
        """At another address, in another version."""
        value = self.entry.value.replace(b"10.2.0.5/24", b"10.2.0.9/24")
        return attrs.evolve(self.entry, value=value, version=self.entry.version + by)


@pytest.fixture
def scene() -> Iterator[Scene]:
    with FakeWorld(("one",)) as world, world.host("one").controller(resident="off") as cnm:
        network = cnm.create_network("red", subnets=["10.2.0.0/24"])
        endpoint = network.create_endpoint("db", address="10.2.0.5").join(cnm.create_sandbox("c1"))
        context = cnm._calls.context
        follower = Follower(context)
        follower.refresh(context.doors.clock.deadline(10.0))
        key = keys.endpoint(network.id, endpoint.id)
        entry = context.doors.local.get(key, deadline=context.doors.clock.deadline(10.0))
        assert entry is not None
        yield Scene(cnm, follower, entry)
        follower.close()


def test_what_is_told_is_believed_over_what_is_older(scene: Scene) -> None:
    """Without reading it: the store has not even been written. What is held already changes nothing."""
    assert ["10.2.0.5/24"] == scene.told(scene.rewritten(by=0))
    assert ["10.2.0.9/24"] == scene.told(scene.rewritten(by=1))


def test_what_is_older_than_what_is_held_is_read(scene: Scene) -> None:
    """It comes late, or the store was put back from a copy, whose versions are lower: then the store knows."""
    assert ["10.2.0.9/24"] == scene.told(scene.rewritten(by=5))
    assert ["10.2.0.5/24"] == scene.told(scene.rewritten(by=4))


def test_what_is_told_too_late_brings_nothing_back(scene: Scene) -> None:
    """Two verbs tell over two connections, and the note of the deletion is read first."""
    context = scene.cnm._calls.context
    gone = Transaction(writes=(Delete(scene.entry.key),))
    context.doors.local.transact(gone, deadline=context.doors.clock.deadline(10.0))
    assert [] == scene.told(gone=scene.entry.key)
    assert [] == scene.told(scene.rewritten(by=1))


class Recorder(Nobody):
    """Who is told."""

    def __init__(self) -> None:
        self.heard: list[News] = []
        self.foretold: list[set[str]] = []

    def foretell(self, sandbox_id: str, changed: News) -> None:
        self.foretold.append({*changed})

    def tell(self, sandbox_id: str, changed: News, deadline: Deadline, *, parked: bool = False) -> None:
        self.heard.append(changed)


@pytest.mark.parametrize("driver", ["bridge", "null"])
def test_a_join_tells_what_it_has_written(driver: str) -> None:
    """All of it, as it is in the store: nobody has to read it there."""
    with FakeWorld(("one",)) as world, world.host("one").controller(resident="off") as cnm:
        context, recorder = cnm._calls.context, Recorder()
        endpoint, box = cnm.create_network("red", driver).create_endpoint("db"), cnm.create_sandbox("c1")
        context.follower = recorder
        endpoint.join(box)
        (heard,) = recorder.heard
        assert [{*heard}] == recorder.foretold  # so that it is quick when it is told
        assert {keys.ENDPOINTS, keys.ATTACHMENTS} == {f"{key.partition('/')[0]}/" for key in heard}
        assert heard == context.doors.local.get_many(heard, deadline=context.doors.clock.deadline(10.0))
        endpoint.leave()
        assert {None} == {*recorder.heard[-1].values()}


class OnDemand(Driver):
    """Networks that are here while something is attached to them, and nothing in the kernel."""

    name: ClassVar[str] = "on-demand"
    capabilities: ClassVar[Capabilities] = Capabilities(presence="attached", addresses=False, gateway=False)


def test_a_presence_that_nobody_has_told_yet_is_read() -> None:
    """The join that brought the network here may have died before it told: so the next one names it, too."""
    registry = Registry({OnDemand.name: OnDemand()})
    with FakeWorld(("one",)) as world, world.host("one").controller(resident="off", registry=registry) as cnm:
        context, recorder = cnm._calls.context, Recorder()
        network, context.follower = cnm.create_network("red", OnDemand.name), recorder
        for number in range(2):
            network.create_endpoint(f"e{number}").join(cnm.create_sandbox(f"c{number}"))
        presence = keys.presence(network.id)
        first, second = recorder.heard
        assert first == context.doors.local.get_many(first, deadline=context.doors.clock.deadline(10.0))
        assert (True, None) == (presence in first, second[presence])


def test_what_the_link_sends_is_what_the_resident_hears() -> None:
    """Up to what a request may be long; of what is longer, the keys."""
    short, long = Entry("endpoint/a/b", b'{"k":"v\\n"}', 7), Entry("endpoint/a/c", b"x" * limits.REQUEST_BYTES, 8)

    def heard(*entries: Entry) -> News:
        message = resident_link._told({one.key: one for one in entries}, parked=False)
        assert len(message) <= limits.REQUEST_BYTES
        return news_of(json.loads(message)["changed"])

    assert {short.key: short} == heard(short)
    assert {short.key: None, long.key: None} == heard(short, long)


FORMS = [
    "null",
    "[7]",
    "[7, 8]",
    '["7", "{}"]',
    '[true, "{}"]',
    "{}",
    "7",
    '[7, "{}", 1]',
    '[7, "\\ud800"]',
    '[7, "é"]',
]


@pytest.mark.parametrize("written", FORMS)
def test_what_is_told_in_another_form_is_read(written: str) -> None:
    """By whomever, and whatever it is: the resident goes on serving. What no store has is not asked for."""
    assert {} == news_of({"endpoint/é": None, "": None, "/a": None})
    told = json.loads(f'{{"a": [7, "{{}}"], "b": {written}}}')
    assert {"a": Entry("a", b"{}", 7), "b": None} == news_of(told)


@pytest.mark.parametrize("line", [b"", b"[", b"[" * limits.REQUEST_BYTES, b"[1]", b"\xff", b'"told"'])
def test_what_is_no_request_is_an_empty_one(line: bytes) -> None:
    """However deep it is nested."""
    assert {} == request_of(line)
