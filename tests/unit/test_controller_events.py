"""The stream of events: what is told of each object, how it ends, and what a store in trouble costs.

Most tests read without the stream's own threads, so that each look happens when the test says so.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence

import attrs
import pytest

from libcnm.controller.controller import Controller
from libcnm.controller.events import Events
from libcnm.errors import DeadlineExceeded, Forbidden, Invalid
from libcnm.kv.base import Delete, Listing, Put, Transaction, Write
from libcnm.kv.memory import MemoryStore, Profile
from libcnm.model import keys
from libcnm.model.codec import encode
from libcnm.model.deadline import Deadline
from libcnm.model.event import Cursor, Event, Position
from libcnm.model.records import NameClaim, NetworkRecord
from libcnm.testing.world import FakeWorld

PATIENCE = 20.0
ID = "a" * 64


@pytest.fixture
def cnm(world: FakeWorld) -> Iterator[Controller]:
    with world.host("one").controller() as controller:
        yield controller


def quiet(cnm: Controller, since: str | None = None) -> Events:
    """A stream that looks only when it is told to."""
    return Events(cnm._calls.context, since, None, threads=False)


def look(events: Events, *scopes: str) -> list[Event]:
    """One look at each store, several commits at a time as a busy reader has them."""
    for source in events._sources:
        if source.scope in (scopes or ("local", "global")):
            batch = source.take(0)
            while True:
                events._put(source, batch)
                batch = source.take(0)
                if not batch.events:
                    break
            events._put(source, batch)
    return list(iter(lambda: events.next(0), None))


def told(events: Sequence[Event]) -> list[str]:
    return [f"{one.kind} {one.action} {one.name or one.scope}" for one in events]


def write(store: MemoryStore, *writes: Write) -> None:
    """Past every verb."""
    store.transact(Transaction((), writes), deadline=within())


def within() -> Deadline:
    return Deadline.after(10.0, itertools.count().__next__)


def local_of(world: FakeWorld, profile: Profile | None = None) -> MemoryStore:
    return world.host("one")._local.connect(profile=profile)


# -- what is told ------------------------------------------------------------------------------------------------------


def test_the_life_of_everything_is_told(cnm: Controller, world: FakeWorld) -> None:
    """Each change once, as it happens, with what the object is: names, network, host and container."""
    with cnm.events(timeout=PATIENCE) as events:
        blue = cnm.create_network("blue", subnets=["10.1.0.0/24"])
        made = next(events)
        assert Event(kind="network", action="create", scope="local", id=blue.id, name="blue") == plain(made)
        web, box = blue.create_endpoint("web"), cnm.create_sandbox("c1")
        assert ["endpoint create web", "sandbox create c1"] == told([next(events), next(events)])
        web.join(box)
        place = {"network_id": blue.id, "network_name": "blue", "host": "one", "container_id": "c1"}
        connected = Event(kind="endpoint", action="connect", scope="local", id=web.id, name="web", **place)
        joined = next(events)
        assert (connected, True) == (plain(joined), joined.attached)
        box.rename("other")
        assert {"sandbox update c1", "endpoint update web"} == {*told([next(events), next(events)])}
        web.leave()
        left = next(events)
        assert (attrs.evolve(connected, action="disconnect"), False) == (plain(left), left.attached)
        web.delete()
        box.delete()
        blue.delete()
        gone = [next(events), next(events), next(events)]
        assert ["endpoint destroy web", "sandbox destroy c1", "network destroy blue"] == told(gone)
        assert [None, "c1", None] == [one.container_id for one in gone]
        assert None is events.next(0)


def plain(event: Event) -> Event:
    return attrs.evolve(event, cursor="")


def test_the_cluster_is_told_on_every_host(cnm: Controller, world: FakeWorld) -> None:
    """What another host does to the cluster's networks, but nothing of its own."""
    with world.host("two").controller() as other, cnm.events(timeout=PATIENCE) as events:
        far = other.create_network("far", "overlay", subnets=["10.2.0.0/24"])
        far.create_endpoint("web").join(other.create_sandbox("c2"))
        other.create_network("near", subnets=["10.1.0.0/24"])
        found = [next(events), next(events), next(events)]
        assert ["network create far", "endpoint create web", "endpoint connect web"] == told(found)
        assert ("global", "two", "c2", "far") == (
            found[2].scope, found[2].host, found[2].container_id, found[2].network_name
        )  # fmt: skip
        assert [] == told(look(quiet(cnm)))


def test_between_two_looks_only_the_difference_counts(cnm: Controller) -> None:
    """What came and went was never there; what moved has left one place and is in another; order: last use first."""
    blue = cnm.create_network("blue", subnets=["10.1.0.0/24"])
    web, one, two = blue.create_endpoint("web"), cnm.create_sandbox("c1"), cnm.create_sandbox("c2")
    web.join(one)
    events = quiet(cnm)
    events._sources[0]._watch.close()  # type: ignore[union-attr]  # hints come one for each commit: so it lists instead
    events._sources[0]._watch = None
    cnm.create_network("brief", subnets=["10.3.0.0/24"]).delete()
    web.leave()
    web.join(two)
    one.delete()
    cnm.create_network("red", subnets=["10.2.0.0/24"]).create_endpoint("db").join(cnm.create_sandbox("c3"))
    assert [
        "sandbox destroy c1", "network create red", "sandbox create c3", "endpoint create db", "endpoint connect db",
        "endpoint disconnect web", "endpoint connect web",
    ] == told(found := look(events, "local"))  # fmt: skip
    assert ["c1", "c2"] == [one.container_id for one in found[-2:]]
    assert [] == look(events)


def test_what_is_in_the_making_is_not_shown(cnm: Controller, world: FakeWorld) -> None:
    """At no point of a creation or a join is anything told that is not ready."""
    events, tape, told_at = quiet(cnm), world.host("one").tape, []

    def peek() -> None:
        told_at.extend(look(events))
        for one in cnm._calls.context.local.networks(within()):
            if one.record.state == "preparing":
                assert [] == [event for event in told_at if event.id == one.record.id]
            for endpoint in cnm._calls.context.local.endpoints(one.record.id, within()):
                place = endpoint.record.attachment
                if place is None or place.state == "preparing":
                    assert [] == [event for event in told_at if event.id == endpoint.record.id and event.attached]

    tape.passing = peek
    box = cnm.create_sandbox("c1")
    cnm.create_network("blue", subnets=["10.1.0.0/24"]).create_endpoint("web").join(box)
    tape.passing = lambda: None
    told_at.extend(look(events))
    assert [
        "sandbox create c1", "network create blue", "endpoint create web", "endpoint connect web",
    ] == told(told_at)  # fmt: skip


def test_a_bad_record_costs_itself_only(cnm: Controller, world: FakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    """It is named once; the others are told; once it can be read again it is there, whatever it was before."""
    with local_of(world) as store:
        write(store, Put(keys.network(ID), b"{}"))
        events = quiet(cnm)
        write(store, Put(keys.network(ID), b"{}"))
        cnm.create_network("blue", subnets=["10.1.0.0/24"])
        assert ["network create blue"] == told(look(events))
        assert 1 == len([line for line in caplog.records if line.name == "libcnm.events"])
        write(store, Put(keys.network(ID), encode(NetworkRecord(ID, "old", "bridge", "local"))))
        assert ["network update old"] == told(look(events))
        write(store, Put(keys.network(ID), b"{}"))
        assert [] == look(events), "its last good version stays in force"
        write(store, Delete(keys.network(ID)))
        assert ["network destroy old"] == told(look(events))


# -- going on ----------------------------------------------------------------------------------------------------------


def test_a_cursor_goes_on_in_another_process(cnm: Controller, world: FakeWorld) -> None:
    """Nothing that was seen is told again, nothing since is missed; its earlier state is not made up."""
    blue = cnm.create_network("blue", subnets=["10.1.0.0/24"])
    old = blue.create_endpoint("old")
    first = quiet(cnm)
    cnm.create_sandbox("c1")
    cursor = look(first)[-1].cursor
    assert cursor == first.cursor
    old.delete()
    blue.create_endpoint("web").join(cnm.sandbox("c1"))
    far = cnm.create_network("far", "overlay")
    with world.host("one").controller() as later:
        found = look(quiet(later, cursor))
        assert ["endpoint destroy local", "endpoint update web", "network update far"] == told(found)
        assert (old.id, blue.id, "blue") == (found[0].id, found[0].network_id, found[0].network_name)
        assert ("c1", True, True) == (found[1].container_id, found[1].attached, found[1].exists)
        assert [] == look(quiet(later, found[-1].cursor))
        far.delete()
        assert ["network destroy global"] == told(look(quiet(later, found[-1].cursor)))


def test_who_is_interrupted_amid_a_batch_has_it_again(cnm: Controller) -> None:
    """Only the last of several events of one look moves the cursor: better twice than never."""
    blue = cnm.create_network("blue", subnets=["10.1.0.0/24"])
    blue.create_endpoint("web").join(cnm.create_sandbox("c1"))
    events = quiet(cnm)
    before = events.cursor
    context = cnm._calls.context
    endpoint, box = context.local.endpoints(blue.id, within())[0], context.local.sandboxes(within())[0]
    context.local.commit(endpoint.delete() + box.delete(), within())
    events._put(events._sources[0], events._sources[0].take(0))
    first = events.next(0)
    assert first is not None
    assert ("endpoint", "disconnect", before) == (first.kind, first.action, first.cursor)
    rest = look(events)
    assert ["endpoint destroy web", "sandbox destroy c1"] == told(rest)
    assert before != rest[-1].cursor == events.cursor


@pytest.mark.parametrize("compaction", [0, 2])
def test_what_the_history_does_not_reach_is_admitted(cnm: Controller, world: FakeWorld, compaction: int) -> None:
    """With an earlier picture a gap is compared away; without one it is "lost", and all that there is follows."""
    kept = quiet(cnm)
    kept._sources[0]._store = local_of(world, Profile("compacting", compaction=compaction))
    kept._sources[0]._watch = None
    look(kept)
    cursor = kept.cursor
    blue = cnm.create_network("blue", subnets=["10.1.0.0/24"])
    blue.create_endpoint("web")
    cnm.create_network("brief", subnets=["10.2.0.0/24"]).delete()
    assert ["network create blue", "endpoint create web"] == told(look(kept))
    back = quiet(cnm)
    back._sources = [_with_store(back, kept._sources[0]._store, cursor)]
    assert ["store lost local", "network update blue", "endpoint update web"] == told(look(back))


def _with_store(events: Events, store: object, cursor: str):  # type: ignore[no-untyped-def]
    source = events._sources[0]
    source._store, source._watch = store, None  # type: ignore[assignment]
    source._since, source._new = Cursor.parse(cursor).local, False
    source._picture.clear()
    return source


def test_another_clusters_cursor_is_recognised(cnm: Controller, world: FakeWorld) -> None:
    """A store that was replaced has another lineage: whatever its revisions say, nothing of before is believed."""
    cnm.create_network("far", "overlay")
    cursor = quiet(cnm).cursor
    assert [] == look(quiet(cnm, cursor))
    with world.cluster.connect() as store:
        write(store, Put(keys.LINEAGE, encode(NameClaim("b" * 64))))
    assert ["store lost global", "network update far"] == told(look(quiet(cnm, cursor)))


@pytest.mark.parametrize("since", ["", "now", "cnm1", "cnm1.x.1.-", f"cnm1.{'0' * 12}.1.-", 7])
def test_a_bad_cursor_is_refused(cnm: Controller, since: str) -> None:
    """Any text that no event of this installation had; no thread, no watch was begun."""
    before = threading.active_count()
    with pytest.raises(Invalid, match="since"):
        cnm.events(since)
    assert before == threading.active_count()


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), "1"])
def test_a_bad_timeout_is_refused(cnm: Controller, timeout: float) -> None:
    """It is a number of seconds, of the whole stream and of one event; nobody waits for ever who has mistaken it."""
    with pytest.raises(Invalid, match="timeout"):
        cnm.events(timeout=timeout)
    with cnm.events() as events, pytest.raises(Invalid, match="timeout"):
        events.next(timeout)


@pytest.mark.parametrize(
    ("local", "cluster"), [(None, None), (Position(7), None), (Position(0), Position(9)), (None, Position(9, "b" * 12))]
)
def test_a_cursor_is_read_as_it_was_written(local: Position | None, cluster: Position | None) -> None:
    """With either store, both or none, with and without a lineage."""
    cursor = Cursor("a" * 12, local, cluster)
    assert cursor == Cursor.parse(str(cursor))


# -- trouble -----------------------------------------------------------------------------------------------------------


def test_a_cluster_that_is_away_from_the_beginning(cnm: Controller) -> None:
    """Said once, with the reason; this host's events go on; when it is back, what it has, as its past is not known."""
    cnm.create_network("far", "overlay")
    cluster = cnm._calls.context.doors.cluster
    assert isinstance(cluster, MemoryStore)
    cluster.reachable = False
    events = quiet(cnm)
    cnm.create_network("near", subnets=["10.1.0.0/24"])
    found = look(events)
    assert ["store unavailable global", "network create near"] == told(found)
    assert "cannot be reached" in str(found[0].reason)
    assert [] == look(events)
    cluster.reachable = True
    assert ["store available global", "store lost global", "network update far"] == told(look(events))


def test_a_cluster_that_goes_and_comes(cnm: Controller, world: FakeWorld) -> None:
    """What happened meanwhile is compared with what was there before: nothing is lost."""
    cnm.create_network("far", "overlay").create_endpoint("web")
    events = quiet(cnm)
    cluster = cnm._calls.context.doors.cluster
    assert isinstance(cluster, MemoryStore)
    cluster.reachable = False
    assert ["store unavailable global"] == told(look(events))
    with world.host("two").controller() as other:
        other.network("far").endpoint("web").delete()
    assert [] == look(events)
    cluster.reachable = True
    assert ["store available global", "endpoint destroy web"] == told(look(events))


class Hanging(MemoryStore):
    """A store whose answers do not come: not in time at first, and then only when the test is over."""

    over: threading.Event

    def list(self, prefix: str, *, deadline: Deadline) -> Listing:
        if deadline.budget <= 1.0:
            raise DeadlineExceeded("store list", deadline.budget)
        assert self.over.wait(PATIENCE)
        return super().list(prefix, deadline=deadline)


@pytest.mark.slow
def test_a_cluster_that_hangs_holds_nobody_up(world: FakeWorld) -> None:
    """Opening, this host's events and closing go on while the cluster's store is silent in the middle of a call."""
    host, hanging = world.host("one"), Hanging()
    hanging.over = threading.Event()
    with host.controller(doors=attrs.evolve(host.doors(), cluster=hanging)) as cnm:
        events = cnm.events(timeout=PATIENCE)
        cnm.create_sandbox("c1")
        assert ["store unavailable global", "sandbox create c1"] == told([next(events), next(events)])
        events.close()
        assert [] == list(events)
        hanging.over.set()
        for thread in events._threads:
            thread.join(PATIENCE)
        assert [False, False] == [thread.is_alive() for thread in events._threads]


# -- the end -----------------------------------------------------------------------------------------------------------


def waiting(events: Events) -> tuple[threading.Thread, list[Event | None]]:
    """A thread in ``next``, and what it gets."""
    got: list[Event | None] = []
    thread = threading.Thread(target=lambda: got.append(events.next()))
    thread.start()
    return thread, got


@pytest.mark.parametrize("whole", [False, True], ids=["the stream", "the controller"])
def test_closing_ends_whoever_waits(world: FakeWorld, whole: bool) -> None:
    """From another thread; the threads of the stream go with it, and iteration ends."""
    before = threading.active_count()
    cnm = world.host("one").controller()
    events = cnm.events()
    thread, got = waiting(events)
    (cnm if whole else events).close()
    thread.join(PATIENCE)
    assert ([None], before) == (got, threading.active_count())
    assert [] == list(events)
    events.close()
    cnm.close()
    with pytest.raises(Forbidden):
        cnm.events()


def test_the_iterator_ends_when_nothing_happens(cnm: Controller) -> None:
    """``timeout`` is for each event anew; the stream stays open, and who asks again goes on."""
    with cnm.events(timeout=0.05) as events:
        assert [] == list(events)
        cnm.create_sandbox("c1")
        found = events.next(PATIENCE)
        assert found is not None
        assert "c1" == found.name


def test_each_event_is_given_out_once(cnm: Controller) -> None:
    """Several threads may share a stream."""
    with cnm.events() as events:
        threads = [waiting(events) for _ in range(4)]
        for number in range(4):
            cnm.create_sandbox(f"c{number}")
        for thread, _ in threads:
            thread.join(PATIENCE)
    assert [f"c{number}" for number in range(4)] == sorted(one.name for _, got in threads for one in got if one)
