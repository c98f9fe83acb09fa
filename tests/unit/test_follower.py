"""The follower among hosts that lie: what one bad record costs, and what another host's records can make this one do.

Two hosts share a store; the second one, or whoever has stolen its credentials, writes there what it likes. Records are
written past the verbs, so they need not be such as any verb would write.
"""

from __future__ import annotations

import ipaddress
import json
import logging
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import attrs
import pytest

from libcnm.contracts.driver import Driver, HostFacts, NetworkView
from libcnm.contracts.resolver import Answer, RecordType
from libcnm.controller.context import Context
from libcnm.controller.controller import Controller
from libcnm.controller.endpoint import Endpoint
from libcnm.controller.follower import Follower, Names
from libcnm.controller.network import Network
from libcnm.controller.reconcile import heal
from libcnm.controller.registry import Registry
from libcnm.controller.sandbox import Sandbox
from libcnm.controller.settled import SettledStore
from libcnm.dns.view import SandboxView, lookup
from libcnm.drivers.overlay import OverlayDriver
from libcnm.errors import DeadlineExceeded, Unavailable
from libcnm.kernel.resources import Fdb, Neighbour
from libcnm.kv.base import Delete, Entry, Listing, Put, Store, Transaction, Write
from libcnm.model import keys
from libcnm.model.codec import encode
from libcnm.model.deadline import Deadline
from libcnm.model.records import Attachment, EndpointRecord, LedgerLine, NetworkRecord, Presence, SandboxRecord
from libcnm.model.resource import Resource
from libcnm.system.clock import ManualClock
from libcnm.testing.world import FakeWorld

FAKE, BOX = "f" * 64, "b" * 64


class Shown(Names):
    """What is served to whom; ``refuses`` names a sandbox that cannot be served."""

    def __init__(self) -> None:
        self.views: dict[str, SandboxView] = {}
        self.refuses = ""

    def show(self, record: SandboxRecord, view: SandboxView) -> bool:
        if record.id == self.refuses:
            raise ValueError("no socket there")
        self.views[record.id] = view
        return True

    def hide(self, sandbox_id: str) -> None:
        self.views.pop(sandbox_id, None)

    def ask(self, sandbox: Sandbox, name: str) -> list[str]:
        """What that sandbox is told."""
        answer = lookup(self.views[sandbox.id], name, RecordType.A)
        return [str(address) for address in answer.addresses] if isinstance(answer, Answer) else []


@attrs.define
class Scene:
    """Host one, with ``web`` in an overlay network; host two, with ``far`` in the same one; a follower on host one."""

    world: FakeWorld
    one: Controller
    two: Controller
    network: Network
    web: Endpoint
    box: Sandbox
    far: Endpoint
    names: Shown
    follower: Follower

    @property
    def context(self) -> Context:
        return self.one._calls.context

    def refresh(self) -> None:
        self.follower.refresh(self.context.doors.clock.deadline(10.0))

    def write(self, *writes: Write, local: bool = False) -> None:
        """Past every verb, and past what they check."""
        with self.world.host("one").doors().local if local else self.world.cluster.connect() as store:
            store.transact(Transaction((), writes), deadline=self.context.doors.clock.deadline(10.0))

    def record(self, endpoint: Endpoint) -> EndpointRecord:
        repository, deadline = self.context.repository("global"), self.context.doors.clock.deadline(10.0)
        found = repository.endpoint(self.network.id, endpoint.id, deadline)
        assert found is not None
        return found.record

    def rows(self) -> set[str]:
        """The peers that the kernel of host one has: MACs of forwarding rows, addresses of neighbours."""
        kernel = self.world.host("one").kernel
        deadline = self.context.doors.clock.deadline(10.0)
        found = [one.resource for one in kernel.read({f"1-{self.network.id[:10]}"}, deadline=deadline)]
        neighbours = {str(one.address) for one in found if isinstance(one, Neighbour)}
        return neighbours | {one.mac for one in found if isinstance(one, Fdb)}


@pytest.fixture
def scene() -> Iterator[Scene]:
    with FakeWorld(("one", "two")) as world:
        one, two = world.host("one").controller(resident="off"), world.host("two").controller(resident="off")
        with one, two:
            network = one.create_network("blue", "overlay", subnets=["10.1.0.0/24"])
            box = one.create_sandbox("c1")
            web = network.create_endpoint("web", address="10.1.0.5")
            web.join(box)
            far = two.network("blue").create_endpoint("far", address="10.1.0.6")
            far.join(two.create_sandbox("c2"))
            names = Shown()
            follower = Follower(one._calls.context, names)
            found = Scene(world, one, two, network, web, box, far, names, follower)
            found.refresh()
            yield found
            follower.close()


def forged(scene: Scene, number: int = 66, **changes: Any) -> EndpointRecord:
    """An endpoint of the second host that no verb has made, ready at once."""
    address = ipaddress.ip_address(f"10.1.0.{number}")
    place = Attachment("two", BOX, "c9", BOX[:12], "eth0", vtep=ipaddress.ip_address("192.0.2.12"), state="ready")
    place_changes = {name: changes.pop(name) for name in list(changes) if name in attrs.fields_dict(Attachment)}
    record = EndpointRecord(
        f"{number:064x}", f"forged{number}", scene.network.id, (ipaddress.ip_interface(f"{address}/24"),),
        f"02:66:0a:01:00:{number:02x}", attachment=attrs.evolve(place, **place_changes),
    )  # fmt: skip
    return attrs.evolve(record, **changes)


def put(record: EndpointRecord, **raw: object) -> Put:
    """A record's write; ``raw`` replaces fields by what no record could hold."""
    body = {**json.loads(encode(record)), **raw}
    return Put(keys.endpoint(record.network_id, record.id), json.dumps(body).encode())


def warnings(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING and text in line.message]


FAR = {"10.1.0.6", "02:42:0a:01:00:06"}


# -- one bad record costs itself only ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        {"mac": "junk"}, {"mac": "ff:ff:ff:ff:ff:ff"}, {"name": "../x"}, {"aliases": ["a\nb"]},
        {"addresses": ["10.9.0.9/24"]}, {"addresses": ["10.1.0.1/24"]}, {"addresses": ["224.0.0.1/24"]},
        {"id": FAKE}, {"network_id": FAKE}, {"no such field": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_bad_record_costs_itself_only(scene: Scene, raw: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    """Neither named nor programmed, told of once however often is looked; the good one beside it is both."""
    bad, good = forged(scene, 66), forged(scene, 67)
    scene.write(put(bad, **raw), put(good))
    for _ in range(3):
        scene.refresh()
        scene.follower.forget_peers(scene.network.id)
    scene.refresh()
    assert FAR | {"10.1.0.67", "02:66:0a:01:00:43"} == scene.rows()
    assert ["10.1.0.67"] == scene.names.ask(scene.box, "forged67")
    assert [] == scene.names.ask(scene.box, "forged66")
    assert len(warnings(caplog, bad.id)) in (1, 2)  # when only its network tells that it is bad: once for each use


def test_the_last_good_version_stays(scene: Scene) -> None:
    """A record that becomes unreadable has not gone: what is served and programmed is what it last said."""
    scene.write(put(scene.record(scene.far), mac="junk"))
    scene.refresh()
    assert FAR == scene.rows()
    assert ["10.1.0.6"] == scene.names.ask(scene.box, "far")


class Stubborn(OverlayDriver):
    """An overlay whose :meth:`peer` fails for one endpoint, with whatever it is told to raise or to answer."""

    name: ClassVar[str] = "overlay"

    def __init__(self, trouble: Exception | list[Resource]) -> None:
        self.trouble = trouble

    def peer(self, host: HostFacts, network: NetworkView, endpoint: EndpointRecord) -> Iterator[Resource]:
        if endpoint.name == "forged66":
            if isinstance(self.trouble, Exception):
                raise self.trouble
            yield from self.trouble
        yield from super().peer(host, network, endpoint)


@attrs.frozen
class Unpackable(Resource):
    """What no door can make."""

    kind: ClassVar[str] = "unpackable"

    @property
    def identity(self) -> tuple[str, ...]:
        return ("unpackable", "")

    @property
    def needs(self) -> tuple[tuple[str, ...], ...]:
        raise ValueError("neither can it be sorted")


@pytest.mark.parametrize(
    "trouble",
    [ZeroDivisionError("a driver's defect"), Unavailable("plug-in", "gone"), [Unpackable()],
     [Fdb("no-such-namespace", "x", "02:00:00:00:00:01", ipaddress.ip_address("192.0.2.12"))]],
    ids=repr,
)  # fmt: skip
def test_what_a_driver_chokes_on_costs_itself_only(scene: Scene, trouble: Exception | list[Resource]) -> None:
    """A driver that raises, rows that cannot be ordered, rows that the kernel refuses: the other endpoints have theirs,
    and lose them when they go.
    """
    scene.context.registry = Registry({"overlay": Stubborn(trouble)})
    good = forged(scene, 67)
    scene.write(put(forged(scene, 66)), put(good))
    for _ in range(5):
        scene.refresh()
    assert FAR | {"10.1.0.67", "02:66:0a:01:00:43"} == scene.rows()
    scene.write(Delete(keys.endpoint(scene.network.id, good.id)))
    scene.refresh()
    assert FAR == scene.rows()


class Missing(Registry):
    """The driver's distribution has been removed, and left something that cannot be imported."""

    def driver(self, name: str) -> Driver:
        raise ImportError(name)


def test_rows_of_a_driver_that_is_not_there_wait_for_it(scene: Scene) -> None:
    """Nothing is raised, names go on, and the rows come when the driver does."""
    there, scene.context.registry = scene.context.registry, Missing()
    scene.write(put(forged(scene, 67)))
    scene.refresh()
    assert ["10.1.0.67"] == scene.names.ask(scene.box, "forged67")
    assert FAR == scene.rows()
    scene.context.registry = there
    scene.refresh()
    assert FAR | {"10.1.0.67", "02:66:0a:01:00:43"} == scene.rows()


def test_a_sandbox_that_cannot_be_served_does_not_keep_others_from_it(scene: Scene) -> None:
    """Names.show may raise anything: the others are shown, and it is tried again."""
    other = scene.one.create_sandbox("c3")
    scene.names.refuses = other.id
    scene.network.create_endpoint("db", address="10.1.0.7").join(other)
    third = scene.one.create_sandbox("c4")
    scene.network.create_endpoint("app", address="10.1.0.8").join(third)
    scene.refresh()
    assert ["10.1.0.7"] == scene.names.ask(third, "db")
    assert other.id not in scene.names.views
    scene.names.refuses = ""
    scene.refresh()
    assert ["10.1.0.8"] == scene.names.ask(other, "app")


def test_an_address_that_has_moved_keeps_its_row(scene: Scene) -> None:
    """The old holder's record goes after the new one's came: the row is the new one's by then, and stays."""
    first = forged(scene, 66)
    second = attrs.evolve(forged(scene, 67), addresses=first.addresses)
    scene.write(put(first))
    scene.refresh()
    scene.write(put(second))
    scene.refresh()
    scene.write(Delete(keys.endpoint(scene.network.id, first.id)))
    scene.refresh()
    assert FAR | {"10.1.0.66", second.mac} == scene.rows()


@pytest.mark.parametrize("order", [(66, 67), (67, 66)])
def test_an_address_that_two_endpoints_name_is_not_fought_over(scene: Scene, order: tuple[int, int]) -> None:
    """The follower and reconcile choose the same one, in whichever order the two came: there is nothing to heal."""
    for number in order:
        same = forged(scene, 66).addresses
        scene.write(put(attrs.evolve(forged(scene, number), addresses=same)))
        scene.refresh()
    assert [] == heal(scene.context, scene.context.doors.clock.deadline(10.0))
    scene.write(Delete(keys.endpoint(scene.network.id, forged(scene, 67).id)))
    scene.refresh()
    assert [] == heal(scene.context, scene.context.doors.clock.deadline(10.0))
    assert FAR | {"10.1.0.66", forged(scene, 66).mac} == scene.rows()


# -- the host's own part never waits for the cluster's -----------------------------------------------------------------


class Slow(SettledStore):
    """A cluster store that takes all the time it is given, and then has no answer; ``asked`` is how much that was."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        super().__init__(store)
        self.clock = clock
        self.hangs = False
        self.asked: list[float] = []

    def _wait(self, deadline: Deadline) -> None:
        if self.hangs:
            self.asked.append(deadline.remaining())
            self.clock.advance(deadline.remaining() + 0.001)
            raise DeadlineExceeded("store", deadline.budget)

    def get(self, key: str, *, deadline: Deadline) -> Entry | None:
        self._wait(deadline)
        return super().get(key, deadline=deadline)

    def get_many(self, keys: Iterable[str], *, deadline: Deadline) -> dict[str, Entry]:
        self._wait(deadline)
        return super().get_many(keys, deadline=deadline)

    def list(self, prefix: str, *, deadline: Deadline) -> Listing:
        self._wait(deadline)
        return super().list(prefix, deadline=deadline)


def _slow(world: FakeWorld) -> tuple[Controller, Slow]:
    assert isinstance(world.clock, ManualClock)
    doors = world.host("one").doors()
    assert doors.cluster is not None
    slow = Slow(doors.cluster, world.clock)
    return world.host("one").controller(resident="off", doors=attrs.evolve(doors, cluster=slow)), slow


@pytest.mark.parametrize("known", [False, True], ids=["from the start", "later"])
def test_local_names_do_not_wait_for_a_slow_cluster_store(known: bool) -> None:
    """They are served before the cluster's store is asked, which has half of the budget at most; nothing is raised."""
    with FakeWorld(("one", "two")) as world:
        cnm, slow = _slow(world)
        with cnm:
            names = Shown()
            context = cnm._calls.context
            follower = Follower(context, names)
            if known:
                follower.refresh(context.doors.clock.deadline(10.0))
                world.host("two").controller(resident="off").create_network("far", "overlay")
            slow.hangs = True
            box = cnm.create_sandbox("c1")
            cnm.create_network("near", subnets=["10.2.0.0/24"]).create_endpoint("web", address="10.2.0.5").join(box)
            began = context.doors.clock.monotonic()
            follower.refresh(context.doors.clock.deadline(10.0))
            assert ["10.2.0.5"] == names.ask(box, "web")
            assert all(seconds <= 5.0 for seconds in slow.asked)
            assert 5.0 < context.doors.clock.monotonic() - began < 6.0
            follower.close()


def test_what_was_announced_is_read_when_the_store_answers_again(scene: Scene) -> None:
    """A watch names a key once: when the store fails at that moment, the next look reads it all the same."""
    cluster = scene.context.cluster
    assert cluster is not None
    assert isinstance(scene.world.clock, ManualClock)
    slow = Slow(cluster.store, scene.world.clock)
    cluster.store = slow
    scene.write(put(forged(scene, 67)))
    slow.hangs = True
    scene.refresh()
    assert [] == scene.names.ask(scene.box, "forged67")
    slow.hangs = False
    scene.refresh()
    assert ["10.1.0.67"] == scene.names.ask(scene.box, "forged67")


# -- what is attached here, this host knows best -----------------------------------------------------------------------


def _green(scene: Scene) -> NetworkRecord:
    """Another overlay network, made by the second host, in which nothing of ours is."""
    made = scene.two.create_network("green", "overlay", subnets=["10.3.0.0/24"])
    found = scene.context.repository("global").network(made.id, scene.context.doors.clock.deadline(10.0))
    assert found is not None
    return found.record


@pytest.mark.parametrize("host", ["one", "two"])
def test_nobody_else_attaches_to_our_sandboxes(scene: Scene, host: str) -> None:
    """An endpoint of another network that claims to be in our sandbox does not bring that network's names there."""
    green = _green(scene)
    inside = EndpointRecord(
        "d" * 64, "evil", green.id, (ipaddress.ip_interface("10.3.0.9/24"),), "02:42:0a:03:00:09",
        attachment=Attachment(host, scene.box.id, "c1", scene.box.id[:12], "eth1", priority=9, state="ready"),
    )  # fmt: skip
    scene.write(put(inside))
    scene.refresh()
    assert ("blue",) == tuple(name for _, name in scene.names.views[scene.box.id].networks)
    assert [] == scene.names.ask(scene.box, "evil")


@pytest.mark.parametrize("changes", [{"host": "one"}, {"host": "one", "sandbox": True}, {"sandbox": True}], ids=str)
def test_an_attachment_here_that_we_do_not_know_of_is_none(scene: Scene, changes: dict[str, Any]) -> None:
    """In a network of ours, a record that names this host, or one of its sandboxes: neither a name nor a row."""
    sandbox = {"sandbox_id": scene.box.id, "namespace": scene.box.id[:12]} if changes.pop("sandbox", False) else {}
    scene.write(put(forged(scene, 66, **changes, **sandbox)))
    scene.refresh()
    assert [] == scene.names.ask(scene.box, "forged66")
    assert FAR == scene.rows()


def test_what_is_attached_here_is_not_programmed_elsewhere(scene: Scene) -> None:
    """Another host writes that our endpoint is attached there: no row leads its traffic away, and no name."""
    record = scene.record(scene.web)
    place = record.attachment
    assert place is not None
    away = attrs.evolve(place, host="two", sandbox_id=BOX, namespace="", vtep=ipaddress.ip_address("192.0.2.12"))
    scene.write(put(attrs.evolve(record, attachment=away)))
    scene.refresh()
    assert FAR == scene.rows()
    assert [] == scene.names.ask(scene.box, "web")


def test_an_endpoint_that_has_left_is_named_and_programmed_elsewhere(scene: Scene) -> None:
    """The same endpoint, detached here and attached on the other host: the ledger says so, and it is a peer."""
    scene.web.leave()
    scene.network.create_endpoint("other", address="10.1.0.7").join(scene.box)
    scene.refresh()
    moved = scene.two.network("blue").endpoint("web")
    moved.join(scene.two.create_sandbox("c5"))
    scene.refresh()
    kernel = scene.world.host("one").kernel
    found = kernel.read({f"2-{scene.network.id[:10]}"}, deadline=scene.context.doors.clock.deadline(10.0))
    assert {"10.1.0.5", "10.1.0.6"} == {
        str(one.resource.address) for one in found if isinstance(one.resource, Neighbour)
    }
    assert ["10.1.0.5"] == scene.names.ask(scene.box, "web")


# -- each store has its own kinds, and networks of its own scope -------------------------------------------------------


def test_sandboxes_and_presences_are_not_read_from_the_cluster(scene: Scene) -> None:
    """Otherwise another host could have us serve names in a namespace, or program one, of its choice."""
    sandbox = SandboxRecord(BOX, "c9", BOX[:12], "boot")
    boot_id = scene.context.doors.kernel.boot_id
    scene.write(
        Put(keys.sandbox(BOX), encode(sandbox)),
        Put(keys.presence(FAKE), encode(Presence(FAKE, 7, active=True, ready=True, boot_id=boot_id))),
        Put(keys.attachment(scene.box.id, "global", FAKE, BOX), encode(LedgerLine())),
        Delete(keys.sandbox(scene.box.id)),
        Delete(keys.attachment(scene.box.id, "global", scene.network.id, scene.web.id)),
    )
    scene.refresh()
    assert {scene.box.id} == scene.names.views.keys() == scene.follower.sandboxes.keys()
    assert FAKE not in scene.follower.presences
    assert ["10.1.0.6"] == scene.names.ask(scene.box, "far")


def test_a_local_network_has_no_endpoints_in_the_cluster(scene: Scene) -> None:
    """Nor a second record: what lies there under a local network's id does not reach the sandboxes in it."""
    near = scene.one.create_network("near", subnets=["10.2.0.0/24"])
    near.create_endpoint("db", address="10.2.0.5").join(scene.box)
    evil = attrs.evolve(forged(scene), network_id=near.id, addresses=(ipaddress.ip_interface("10.2.0.66/24"),))
    record = NetworkRecord(near.id, "near", "overlay", "global", vni=4000)
    scene.write(put(evil), Put(keys.network(near.id), encode(record)))
    scene.refresh()
    assert ["10.2.0.5"] == scene.names.ask(scene.box, "db")
    assert [] == scene.names.ask(scene.box, "forged66")


def test_a_local_network_in_the_cluster_is_ignored(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Its record is left alone, and named once."""
    scene.write(Put(keys.network(FAKE), encode(NetworkRecord(FAKE, "evil", "bridge", "local"))))
    for _ in range(3):
        scene.refresh()
    assert FAKE not in {network_id for _, network_id in scene.follower.networks}
    assert 1 == len(warnings(caplog, FAKE))


def test_peers_are_programmed_for_drivers_of_that_scope_only(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """A global network that says "bridge" by now: skipped, with one warning."""
    found = scene.context.repository("global").network(scene.network.id, scene.context.doors.clock.deadline(10.0))
    assert found is not None
    scene.write(Put(found.key, encode(attrs.evolve(found.record, driver="bridge"))), put(forged(scene, 67)))
    for _ in range(3):
        scene.refresh()
    assert FAR == scene.rows()
    assert 1 == len(warnings(caplog, "has local ones"))


def test_the_world_is_as_the_tests_believe(scene: Scene) -> None:
    """A forged record that is good in every way is a peer with a name: what the other tests see vanish."""
    assert FAR == scene.rows()
    scene.write(put(forged(scene, 67)))
    scene.refresh()
    assert FAR | {"10.1.0.67", "02:66:0a:01:00:43"} == scene.rows()
    assert ["10.1.0.67"] == scene.names.ask(scene.box, "forged67")
    assert ["10.1.0.5"] == scene.names.ask(scene.box, "web")
