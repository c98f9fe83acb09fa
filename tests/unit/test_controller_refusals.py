"""Verbs that fail half-way, are refused, or meet what a dead process has left: what is then so, and what is said."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from libcnm.controller.context import News, Nobody
from libcnm.controller.controller import Controller
from libcnm.errors import AlreadyExists, InUse, Invalid, NotFound, Unavailable
from libcnm.kernel.resources import Sysctl
from libcnm.model.deadline import Deadline
from libcnm.testing.world import Crash, FakeHost, half_done


class Deaf(Nobody):
    """A resident that cannot be reached."""

    def announce(self, deadline: Deadline, *, parked: bool = False) -> None:
        raise Unavailable("the resident", "it does not answer")

    def tell(self, sandbox_id: str, changed: News, deadline: Deadline, *, parked: bool = False) -> None:
        self.announce(deadline)


@pytest.mark.parametrize("driver", ["bridge", "overlay"])
def test_a_join_that_nobody_can_be_told_of_is_taken_back(cnm: Controller, host: FakeHost, driver: str) -> None:
    """Attached, but without names, is not what was asked for: the error leaves nothing behind."""
    endpoint = cnm.create_network("net", driver).create_endpoint("a", ports=["8080:80"] if driver == "bridge" else ())
    box = cnm.create_sandbox("c1")
    before = host.everything()
    context = cnm._calls.context
    context.follower, kept = Deaf(), context.follower
    with pytest.raises(Unavailable, match="does not answer"):
        endpoint.join(box)
    assert {one for one in before ^ host.everything() if not one.startswith("presence/")} == set()
    context.follower = kept
    endpoint.join(box)
    assert [] == half_done(cnm)


def test_what_goes_forward_only_is_done_although_nobody_can_be_told(cnm: Controller) -> None:
    """Leaving, renaming, deleting: whoever follows finds out by itself."""
    endpoint = cnm.create_network("net").create_endpoint("a").join(cnm.create_sandbox("c1"))
    cnm._calls.context.follower = Deaf()
    endpoint.leave()
    assert endpoint.interface is None
    cnm.sandbox("c1").rename("other")
    assert "other" == cnm.sandbox("c1").hostname
    cnm.sandbox("c1").delete()
    assert [] == cnm.sandboxes()


def crashed(host: FakeHost, point: int, verb: str = "create_network") -> None:
    """Another process, which dies at an effect of a verb."""
    dying = host.controller()
    verbs: dict[str, Callable[[], object]] = {
        "create_network": lambda: dying.create_network("net", subnets=["10.1.0.0/24"]),
        "create_sandbox": lambda: dying.create_sandbox("c1"),
        "join": lambda: dying.network("net").endpoint("a").join(dying.sandbox("c1")),
    }
    host.tape.start(stop_at=point)
    with pytest.raises(Crash):
        verbs[verb]()
    host.tape.stop()
    dying._doors.close()


def test_a_dead_creators_name_and_pool_are_free_for_a_controller_that_is_open(cnm: Controller, host: FakeHost) -> None:
    """Nobody has to open another controller for it; ``ensure_network`` neither spins nor gives up."""
    crashed(host, 12)
    assert ["create_network"] == half_done(cnm)
    assert cnm.create_network("net", subnets=["10.1.0.0/24"]).name == "net"
    cnm.network("net").delete()
    crashed(host, 12)
    assert cnm.ensure_network("net", subnets=["10.1.0.0/24"]).name == "net"


@pytest.mark.parametrize("point", range(1, 12))
def test_a_sandbox_that_a_dead_process_was_making_is_made_when_it_is_needed(
    cnm: Controller, host: FakeHost, point: int
) -> None:
    """It is recorded before its namespace is there: who joins it, or wants to create it, finds it whole."""
    endpoint = cnm.create_network("net", subnets=["10.1.0.0/24"]).create_endpoint("a")
    crashed(host, point, "create_sandbox")
    endpoint.join(cnm.sandbox("c1"))
    assert [] == cnm.doctor()
    cnm.sandbox("c1").delete()
    crashed(host, point, "create_sandbox")
    with pytest.raises(AlreadyExists):
        cnm.create_sandbox("c1")
    assert ["lo"] == list(cnm.sandbox("c1").statistics())
    assert [] == cnm.doctor()


def test_a_namespace_that_somebody_has_removed_is_named_with_what_to_do(cnm: Controller, host: FakeHost) -> None:
    """Whoever looks inside is told; healing makes it anew, with what was attached in it."""
    box = cnm.create_sandbox("c1")
    cnm.create_network("net").create_endpoint("a").join(box)
    host.kernel.vandalise_delete(("namespace", "", box.id[:12]))
    with pytest.raises(NotFound, match=r"namespace of sandbox 'c1'.*healing makes it anew"):
        box.statistics()
    cnm.heal()
    assert ["lo", "eth0"] == list(box.statistics())


def test_an_endpoint_that_a_dead_process_was_joining_can_be_joined(cnm: Controller, host: FakeHost) -> None:
    """The half-done join is undone by whoever finds it in the way."""
    endpoint = cnm.create_network("net").create_endpoint("a")
    box = cnm.create_sandbox("c1")
    crashed(host, 8, "join")
    assert ["join"] == half_done(cnm)
    assert endpoint.join(box).interface == "eth0"


def test_what_another_process_did_is_noticed_although_this_one_remembers(cnm: Controller, host: FakeHost) -> None:
    """A verb may go by what it remembers, but a refusal names what is so now."""
    network = cnm.create_network("net")
    endpoint, box = network.create_endpoint("a"), cnm.create_sandbox("c1")
    with host.controller() as second:
        theirs = second.network("net").endpoint("a").join(second.create_sandbox("c2"))
        with pytest.raises(InUse, match="container c2 on host one"):
            endpoint.join(box)
        theirs.leave()
        endpoint.join(box)
        endpoint.leave()
        second.sandbox("c1").delete()
        with pytest.raises(NotFound, match="sandbox"):
            endpoint.join(box)
        second.network("net").delete(force=True)
        with pytest.raises(NotFound, match="network"):
            network.create_endpoint("b")
        second.create_sandbox("c1")
        with pytest.raises(AlreadyExists, match="c1"):
            cnm.create_sandbox("c1")


@pytest.mark.parametrize("driver", ["overlay", "bridge"])
def test_ports_that_could_not_be_published_are_refused(cnm: Controller, driver: str) -> None:
    """They would be said to be reachable, and not be."""
    network = cnm.create_network("net", driver, internal=True)
    with pytest.raises(Invalid, match="cannot be published"):
        network.create_endpoint("a", ports=["8080:80"])


def test_a_leave_keeps_what_another_publisher_of_the_bridge_needs(cnm: Controller, host: FakeHost) -> None:
    """And no more: one whose sandbox has another way out publishes nothing here."""
    net = cnm.create_network("net")
    one = net.create_endpoint("a", ports=["8080:80"]).join(cnm.create_sandbox("c1"))
    two = net.create_endpoint("b", ports=["8081:80"]).join(cnm.create_sandbox("c2"))

    bridge = f"br-{net.id[:12]}"
    switch = Sysctl("", f"net/ipv4/conf/{bridge}/route_localnet", "1", link=bridge)

    def route_localnet() -> bool:
        there = host.kernel.read_one(switch, deadline=cnm._calls.context.doors.clock.deadline(30))
        return there is not None and isinstance(there.resource, Sysctl) and there.resource.value == "1"

    assert route_localnet()
    one.leave()
    assert route_localnet()
    cnm.create_network("out").create_endpoint("o").join(cnm.sandbox("c2"), priority=5)
    one.join(cnm.sandbox("c1"))
    one.leave()
    assert not route_localnet()
    assert two.interface == "eth0"
    assert [] == cnm.doctor()


def test_the_hosts_own_namespace_cannot_be_brought(cnm: Controller, host: FakeHost) -> None:
    """Leaving it would take the host's own links down."""
    before = host.everything()
    with pytest.raises(Invalid, match="host_network=True"):
        cnm.create_sandbox("c1", netns="/proc/self/ns/net")
    assert before == host.everything()


def test_a_namespace_has_one_sandbox(cnm: Controller, host: FakeHost) -> None:
    """Two would each take the other's links for leftovers; one that libcnm made counts as well."""
    host.kernel.make_foreign_namespace("/run/mine")
    mine = cnm.create_sandbox("c1", netns="/run/mine")
    ours = cnm.create_sandbox("c2")
    for path in ("/run/mine", mine.path, ours.path):
        with pytest.raises(AlreadyExists, match="sandbox"):
            cnm.create_sandbox("c3", netns=path)
    mine.delete()
    cnm.create_sandbox("c3", netns="/run/mine")


def test_deleting_a_sandbox_frees_what_can_be_freed(cnm: Controller) -> None:
    """One endpoint that cannot leave does not keep the others; the error says which it was."""
    box = cnm.create_sandbox("c1")
    cnm.create_network("away", "overlay").create_endpoint("a").join(box)
    cnm.create_network("near").create_endpoint("b").join(box)
    context = cnm._calls.context
    cluster, context.cluster = context.cluster, None
    with pytest.raises(Exception, match="global"):
        box.delete()
    assert [] == cnm.network("near").endpoints()
    context.cluster = cluster
    box.delete()
    assert [] == cnm.network("away").endpoints()


def test_local_work_on_a_sandbox_does_not_need_the_cluster(cnm: Controller) -> None:
    """Although an endpoint of the cluster is in it: what that is, and what it needs, this host remembers by itself."""
    box = cnm.create_sandbox("c1")
    cnm.create_network("away", "overlay").create_endpoint("a").join(box)
    near = cnm.create_network("near").create_endpoint("b")
    context = cnm._calls.context
    cluster, context.cluster = context.cluster, None
    assert near.join(box).interface == "eth2"
    assert (["a", "b"], None) == ([one.name for one in box.endpoints], box.way_out)
    near.leave()
    assert ["a"] == [one.name for one in box.endpoints]
    assert box.way_out is not None
    context.cluster = cluster
    box.rename("other")
    assert {"other"} == {one.place.hostname for one in context.plugs(box.id, context.doors.clock.deadline(30))}


def test_what_another_host_writes_of_our_attachment_is_not_obeyed(cnm: Controller, host: FakeHost) -> None:
    """Which interface of which namespace goes with a leave is what this host has made there."""
    box, other = cnm.create_sandbox("c1"), cnm.create_sandbox("c2")
    away = cnm.create_network("away", "overlay")
    endpoint = away.create_endpoint("a").join(box)
    victim = cnm.create_network("near").create_endpoint("b").join(other)
    context = cnm._calls.context
    deadline = context.doors.clock.deadline(30)
    stored = context.endpoint("global", away.id, endpoint.id, deadline)
    place = stored.record.attachment
    assert place is not None
    there = attrs.evolve(place, sandbox_id=other.id, namespace=other.id[:12], interface="eth0")
    context.repository("global").commit(stored.replace(attrs.evolve(stored.record, attachment=there)), deadline)
    box.delete()
    assert victim.inspect()["Attachment"] is not None
    assert [] == cnm.doctor()
    assert {"lo", "eth0"} == host.kernel.statistics(other.id[:12]).keys()


def test_what_went_wrong_in_the_block_is_not_hidden_by_its_end(cnm: Controller) -> None:
    """The sandbox's own failure to go is a note on it."""
    context = cnm._calls.context
    cnm.create_network("away", "overlay").create_endpoint("a")
    cluster = context.cluster

    def block() -> None:
        with cnm.create_sandbox("c1") as box:
            cnm.network("away").endpoint("a").join(box)
            context.cluster = None
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as raised:
        block()
    context.cluster = cluster
    assert "could not be deleted" in raised.value.__notes__[0]


@pytest.mark.parametrize("driver", ["bridge", "overlay"])
def test_the_same_request_gives_the_same_network_and_sandbox(cnm: Controller, driver: str) -> None:
    """However often it is repeated."""
    made = [cnm.create_network("net", driver, request_id="r1") for _ in range(3)]
    assert 1 == len({one.id for one in made})
    boxes = [cnm.create_sandbox("c1", request_id="r2") for _ in range(3)]
    assert 1 == len({one.id for one in boxes})
