"""What verbs tell the follower: when that is believed, and when it is read instead."""

from __future__ import annotations

import json
from collections.abc import Iterator

import attrs
import pytest

from libcnm.controller.controller import Controller
from libcnm.controller.follower import Follower
from libcnm.controller.resident import news_of
from libcnm.kv.base import Delete, Entry, Transaction
from libcnm.model import keys
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
    """Without reading it: the store has not even been written. What is not newer than what is held changes nothing."""
    assert ["10.2.0.5/24"] == scene.told(scene.rewritten(by=0))
    assert ["10.2.0.5/24"] == scene.told(scene.rewritten(by=-1))
    assert ["10.2.0.9/24"] == scene.told(scene.rewritten(by=1))
    assert ["10.2.0.9/24"] == scene.told(scene.entry)


def test_what_is_told_too_late_brings_nothing_back(scene: Scene) -> None:
    """Two verbs tell over two connections, and the note of the deletion is read first."""
    context = scene.cnm._calls.context
    gone = Transaction(writes=(Delete(scene.entry.key),))
    context.doors.local.transact(gone, deadline=context.doors.clock.deadline(10.0))
    assert [] == scene.told(gone=scene.entry.key)
    assert [] == scene.told(scene.rewritten(by=1))


@pytest.mark.parametrize("written", ["null", "[7]", "[7, 8]", '["7", "{}"]', '[true, "{}"]', "{}", "7", '[7, "{}", 1]'])
def test_what_is_told_in_another_form_is_read(written: str) -> None:
    """By whomever, and whatever it is: the resident goes on serving."""
    told = json.loads(f'{{"a": [7, "{{}}"], "b": {written}}}')
    assert {"a": Entry("a", b"{}", 7), "b": None} == news_of(told)
