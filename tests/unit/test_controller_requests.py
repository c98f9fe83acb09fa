"""Request ids: the same id gives the same result, is good for nothing else, and undoes nothing that came later."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from libcnm.controller import requests
from libcnm.controller.context import News, Nobody
from libcnm.controller.controller import Controller
from libcnm.errors import AlreadyExists, CnmError, DeadlineExceeded, Forbidden, InUse, NotFound, Unavailable
from libcnm.kv.base import Put, Transaction
from libcnm.model import keys, limits
from libcnm.model.deadline import Deadline
from libcnm.model.records import RequestNote
from libcnm.testing.world import FakeHost, FakeWorld

DRIVERS = pytest.mark.parametrize("driver", ["bridge", "overlay"])


def notes(host: FakeHost) -> list[str]:
    return [key for key in host.stored_keys() if key.startswith(keys.REQUESTS)]


def refused(act: Callable[[], object]) -> AlreadyExists:
    with pytest.raises(AlreadyExists) as raised:
        act()
    assert "request" == raised.value.kind
    return raised.value


# -- bound to verb, object and arguments -----------------------------------------------------------------------------


def test_an_id_is_good_for_one_network(cnm: Controller) -> None:
    """In both scopes together; the error says what it was used for, and nothing was made."""
    cnm.create_network("ra", request_id="r1")
    error = refused(lambda: cnm.create_network("rb", "overlay", request_id="r1"))
    assert ("r1", "create network: network 'ra'", ("object",)) == (error.name, error.holder, error.differences)
    assert ["ra"] == [network.name for network in cnm.networks()]
    cnm.create_network("rc", "overlay", request_id="r2")
    assert ("object",) == refused(lambda: cnm.create_network("rd", request_id="r2")).differences


@DRIVERS
def test_an_id_is_good_for_one_endpoint(cnm: Controller, driver: str) -> None:
    """Not for one of another network, nor for one of another name, nor with other arguments."""
    one, other = cnm.create_network("one", driver), cnm.create_network("other", driver)
    mine = one.create_endpoint("x", labels={"a": "1", "b": "2"}, request_id="r1")
    assert mine == one.create_endpoint("x", labels={"b": "2", "a": "1"}, request_id="r1")
    assert ("object",) == refused(lambda: other.create_endpoint("x", request_id="r1")).differences
    assert ("object",) == refused(lambda: one.create_endpoint("y", request_id="r1")).differences
    assert ("arguments",) == refused(lambda: one.create_endpoint("x", request_id="r1")).differences
    assert ("verb",) == refused(lambda: mine.delete(request_id="r1")).differences
    assert [["x"], []] == [[one.name for one in network.endpoints()] for network in (one, other)]


def test_arguments_are_what_they_mean(cnm: Controller) -> None:
    """However they were written."""
    made = cnm.create_network("net", subnets=["10.7.0.0/24"], request_id="r1")
    from libcnm.model.addresses import Subnet

    assert made == cnm.create_network("net", subnets=[Subnet("10.7.0.0/24")], request_id="r1")
    assert ("arguments",) == refused(
        lambda: cnm.create_network("net", subnets=["10.7.0.0/25"], request_id="r1")
    ).differences


@DRIVERS
def test_an_id_is_good_for_one_sandbox_to_join(cnm: Controller, driver: str) -> None:
    """Joining another one with it is refused, whether or not the endpoint is still in the first."""
    endpoint = cnm.create_network("net", driver).create_endpoint("a")
    first, second = cnm.create_sandbox("c1"), cnm.create_sandbox("c2")
    endpoint.join(first, request_id="j1")
    assert ("arguments",) == refused(lambda: endpoint.join(second, request_id="j1")).differences
    assert "c1" == endpoint.join(first, request_id="j1").sandbox
    endpoint.leave()
    refused(lambda: endpoint.join(second, request_id="j1"))
    with pytest.raises(Forbidden, match="has left since"):
        endpoint.join(first, request_id="j1")
    assert endpoint.join(first, request_id="j2").sandbox == "c1"
    with pytest.raises(Forbidden, match="has left since"):
        endpoint.join(first, request_id="j1")


@DRIVERS
def test_an_id_that_was_used_hides_no_failure(cnm: Controller, driver: str) -> None:
    """Not even that something is not there."""
    network = cnm.create_network("net", driver)
    a, b = network.create_endpoint("a"), network.create_endpoint("b")
    box = cnm.create_sandbox("c1")
    a.join(box)
    a.leave(request_id="z")
    for act in (
        lambda: b.leave(request_id="z"),
        lambda: b.delete(request_id="z"),
        lambda: network.delete(request_id="z"),
        lambda: box.delete(request_id="z"),
        lambda: cnm.create_network("other", request_id="z"),
        lambda: a.leave(box, request_id="z"),
    ):
        refused(act)
    a.leave(request_id="z")
    with pytest.raises(Forbidden, match="attached to no sandbox"):
        b.leave(request_id="z2")
    with pytest.raises(Forbidden, match="attached to no sandbox"):
        b.leave(request_id="z2")


# -- repeated --------------------------------------------------------------------------------------------------------


@DRIVERS
def test_a_late_retry_undoes_nothing_newer(cnm: Controller, driver: str) -> None:
    """A leave that was done does not end the attachment that came after it; a deletion not the successor."""
    network = cnm.create_network("net", driver)
    endpoint, box = network.create_endpoint("a"), cnm.create_sandbox("c1")
    endpoint.join(box)
    endpoint.leave(request_id="l1")
    endpoint.join(box)
    endpoint.leave(request_id="l1")
    assert "c1" == endpoint.sandbox
    assert ["a"] == [one.name for one in box.endpoints]
    endpoint.delete(force=True, request_id="d1")
    endpoint.leave(request_id="l1")  # it was done, and the endpoint has gone
    successor = network.create_endpoint("a")
    endpoint.delete(force=True, request_id="d1")
    assert [successor] == network.endpoints()
    box.delete(request_id="d2")
    again = cnm.create_sandbox("c1")
    box.delete(request_id="d2")
    assert [again] == cnm.sandboxes()
    network.delete(force=True, request_id="d3")
    anew = cnm.create_network("net", driver)
    network.delete(force=True, request_id="d3")
    assert [anew] == cnm.networks()


@DRIVERS
def test_a_late_retry_makes_nothing_anew(cnm: Controller, driver: str) -> None:
    """What a request has made, and somebody has deleted, stays deleted; the error says so. Another id is another."""
    network = cnm.create_network("net", driver, request_id="r1")
    endpoint = network.create_endpoint("a", request_id="r2")
    box = cnm.create_sandbox("c1", request_id="r3")
    endpoint.delete()
    with pytest.raises(NotFound, match="it has been deleted since"):
        network.create_endpoint("a", request_id="r2")
    box.delete()
    with pytest.raises(NotFound, match="it has been deleted since"):
        cnm.create_sandbox("c1", request_id="r3")
    network.delete()
    with pytest.raises(NotFound, match="it has been deleted since"):
        cnm.create_network("net", driver, request_id="r1")
    assert network.id != cnm.create_network("net", driver, request_id="r4").id


@DRIVERS
def test_a_request_that_failed_is_free(cnm: Controller, host: FakeHost, driver: str) -> None:
    """It has done nothing, so the same id may ask for something better; nothing is noted."""
    network = cnm.create_network("net", driver)
    endpoint, box = network.create_endpoint("a"), cnm.create_sandbox("c1")
    endpoint.join(box)
    failures: list[tuple[type[CnmError], Callable[[], object]]] = [
        (AlreadyExists, lambda: cnm.create_network("net", driver, request_id="r")),
        (AlreadyExists, lambda: network.create_endpoint("a", request_id="r")),
        (AlreadyExists, lambda: cnm.create_sandbox("c1", request_id="r")),
        (InUse, lambda: endpoint.join(box, request_id="r")),
        (InUse, lambda: endpoint.delete(request_id="r")),
        (InUse, lambda: network.delete(request_id="r")),
    ]
    for expected, act in failures:
        with pytest.raises(expected):
            act()
        assert [] == notes(host)
    assert "b" == network.create_endpoint("b", request_id="r").name


class Deaf(Nobody):
    """A resident that cannot be reached."""

    def tell(self, sandbox_id: str, changed: News, deadline: Deadline, *, parked: bool = False) -> None:
        raise Unavailable("the resident", "it does not answer")

    def announce(self, deadline: Deadline, *, parked: bool = False) -> None:
        raise Unavailable("the resident", "it does not answer")


@DRIVERS
def test_a_join_that_was_taken_back_is_no_result(cnm: Controller, host: FakeHost, driver: str) -> None:
    """It was committed, but nobody could serve its names: the request is free, and its retry attaches."""
    endpoint = cnm.create_network("net", driver).create_endpoint("a")
    box = cnm.create_sandbox("c1")
    context = cnm._calls.context
    link, context.follower = context.follower, Deaf()
    with pytest.raises(Unavailable):
        endpoint.join(box, request_id="j1")
    assert [] == notes(host)
    context.follower = link
    assert "c1" == endpoint.join(box, request_id="j1").sandbox
    assert ["request/j1"] == notes(host)


def test_a_join_without_its_way_out_is_no_result(cnm: Controller, host: FakeHost) -> None:
    """An overlay endpoint was attached, and what it publishes turned out to be taken: likewise."""
    holder = cnm.create_network("net").create_endpoint("b", ports=["8080:80"])
    holder.join(cnm.create_sandbox("c2"))
    endpoint = cnm.create_network("over", "overlay").create_endpoint("a", ports=["8080:80"])
    box = cnm.create_sandbox("c1")
    with pytest.raises(AlreadyExists, match="8080"):
        endpoint.join(box, request_id="j1")
    assert [] == notes(host)
    holder.leave()
    assert "c1" == endpoint.join(box, request_id="j1").sandbox
    assert ["request/j1"] == notes(host)


def test_what_ends_with_the_boot_is_made_anew_after_it(cnm: Controller, host: FakeHost) -> None:
    """A sandbox and an attachment; a network and an endpoint are still the same ones. What has left stays so."""
    network = cnm.create_network("net", request_id="r1")
    endpoint = network.create_endpoint("a", request_id="r2")
    box = cnm.create_sandbox("c1", request_id="r3")
    endpoint.join(box, request_id="r4")
    endpoint.leave(request_id="r5")
    host.reboot()
    with host.controller() as again:
        again.heal()
        assert network == again.create_network("net", request_id="r1")
        assert endpoint == again.network("net").create_endpoint("a", request_id="r2")
        new = again.create_sandbox("c1", request_id="r3")
        assert box != new
        attached = again.network("net").endpoint("a").join(new, request_id="r4")
        again.network("net").endpoint("a").leave(request_id="r5")
        assert "c1" == attached.sandbox == again.network("net").endpoint("a").sandbox


# -- a cluster store that fails --------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["transact:before", "transact:after"])
def test_an_unknown_outcome_is_found_out_by_the_next_attempt(host: FakeHost, lost: str) -> None:
    """The store goes away with a request, before or after doing it: the id stays bound, and the retry knows."""
    cluster = host.world.cluster.connect()
    armed = False

    def going(name: str) -> None:
        nonlocal armed
        if armed and name == lost:
            armed, told.reachable = False, False
            raise Unavailable("store", "the reply was lost", outcome_unknown=True)

    told = cluster.connect(on_effect=going)
    with host.controller(doors=attrs.evolve(host.doors(), cluster=told)) as cnm:

        def lose(act: Callable[[], object]) -> None:
            nonlocal armed
            armed = True
            with pytest.raises(Unavailable) as raised:
                act()
            assert raised.value.outcome_unknown
            told.reachable = True

        cnm.networks()  # registers the host with the cluster
        lose(lambda: cnm.create_network("net", "overlay", request_id="n"))
        refused(lambda: cnm.create_network("other", request_id="n"))
        network = cnm.create_network("net", "overlay", request_id="n")
        lose(lambda: network.create_endpoint("a", request_id="e"))
        refused(lambda: network.create_endpoint("b", request_id="e"))
        endpoint = network.create_endpoint("a", request_id="e")
        assert endpoint == network.create_endpoint("a", request_id="e")
        lose(lambda: endpoint.delete(request_id="d"))
        endpoint.delete(request_id="d")
        endpoint.delete(request_id="d")
        assert [] == network.endpoints()


def test_local_requests_do_not_need_the_cluster(world: FakeWorld, host: FakeHost) -> None:
    """Its store is away: an id is bound, refused and repeated all the same."""
    doors = host.doors()
    cluster = world.cluster.connect()
    with host.controller(doors=attrs.evolve(doors, cluster=cluster)) as cnm:
        cluster.reachable = False
        network = cnm.create_network("net", request_id="r1")
        assert network == cnm.create_network("net", request_id="r1")
        refused(lambda: cnm.create_network("other", request_id="r1"))
        assert ["request/r1"] == notes(host)


# -- side by side ----------------------------------------------------------------------------------------------------


def test_whoever_asks_while_it_is_being_done_waits(cnm: Controller, host: FakeHost) -> None:
    """Until its own budget is spent; a stopped process keeps the id."""
    held = cnm._calls.context.doors.locks.try_acquire("request-r1")
    assert held is not None
    with held, pytest.raises(DeadlineExceeded):
        cnm.create_network("net", timeout=0.02, request_id="r1")
    assert "net" == cnm.create_network("net", request_id="r1").name
    assert ["request/r1"] == notes(host)


# -- what it costs ---------------------------------------------------------------------------------------------------


def commits(host: FakeHost, act: Callable[[], object]) -> int:
    host.tape.start()
    act()
    return sum(point == "transact:before" for point in host.tape.stop())


@DRIVERS
def test_local_verbs_note_their_request_in_passing(cnm: Controller, driver: str, host: FakeHost) -> None:
    """No verb has a transaction more for its request id, but for those of the cluster that have no intent: two."""
    more = {"create_network": 2, "create_endpoint": 2, "delete_endpoint": 2} if driver == "overlay" else {}
    found: list[dict[str, int]] = []
    for request in (None, "r"):

        def id_of(verb: str, request: str | None = request) -> str | None:
            return request and f"{request}-{verb}"

        counts = {}
        counts["create_network"] = commits(
            host, lambda: cnm.create_network("net", driver, request_id=id_of("create_network"))
        )
        network = cnm.network("net")
        counts["create_endpoint"] = commits(
            host,
            lambda: network.create_endpoint("a", request_id=id_of("create_endpoint")),  # noqa: B023
        )
        counts["create_sandbox"] = commits(host, lambda: cnm.create_sandbox("c1", request_id=id_of("create_sandbox")))
        endpoint, box = network.endpoint("a"), cnm.sandbox("c1")
        counts["join"] = commits(host, lambda: endpoint.join(box, request_id=id_of("join")))  # noqa: B023
        counts["leave"] = commits(host, lambda: endpoint.leave(request_id=id_of("leave")))  # noqa: B023
        counts["delete_endpoint"] = commits(host, lambda: endpoint.delete(request_id=id_of("delete_endpoint")))  # noqa: B023
        counts["delete_sandbox"] = commits(host, lambda: box.delete(request_id=id_of("delete_sandbox")))  # noqa: B023
        counts["delete_network"] = commits(host, lambda: network.delete(request_id=id_of("delete_network")))  # noqa: B023
        found.append(counts)
    plain, named = found
    assert {verb: count + more.get(verb, 0) for verb, count in plain.items()} == named


def fill(cnm: Controller, number: int, at: float = 1.0) -> None:
    """As many notes of others."""
    local, deadline = cnm._calls.context.local, cnm._calls.context.doors.clock.deadline(30)
    from libcnm.model.codec import encode

    made = [
        Put(keys.request(f"n{one}"), encode(RequestNote(f"n{one}", "join", "", "d" * 64, state="done", at=at + one)))
        for one in range(number)
    ]
    for first in range(0, number, limits.TRANSACTION_OPERATIONS):
        local.store.transact(Transaction((), made[first : first + limits.TRANSACTION_OPERATIONS]), deadline=deadline)


def test_notes_are_counted_when_they_are_written(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the first request of a process and now and then; the oldest go."""
    monkeypatch.setattr(limits, "REQUEST_NOTES", 100)
    monkeypatch.setattr(limits, "REQUEST_NOTES_UNCOUNTED", 4)
    with host.controller() as cnm:
        fill(cnm, 150)
        cnm.create_network("net", request_id="mine")
        left = notes(host)
        assert (101, False, True) == (len(left), "request/n49" in left, "request/n50" in left)
        for number in range(1, 4):
            cnm.network("net").create_endpoint(f"e{number}", request_id=f"e{number}")
        assert 104 == len(notes(host))
        cnm.network("net").create_endpoint("e4", request_id="e4")
        assert 101 == len(notes(host))


def test_notes_that_are_too_old_go_when_the_host_is_healed(cnm: Controller, host: FakeHost) -> None:
    """And those that nobody can read, and those that ended with an earlier boot."""
    context = cnm._calls.context
    now, deadline = context.doors.clock.wall(), context.doors.clock.deadline(30)
    fill(cnm, 3, at=max(0.0, now - 10))
    context.local.store.transact(Transaction((), (Put(keys.request("bad"), b"{}"),)), deadline=deadline)
    box = cnm.create_sandbox("c1", request_id="of-the-boot")
    host.reboot()
    with host.controller() as again:
        again.heal()
        assert ["request/n0", "request/n1", "request/n2"] == notes(host)
        assert box not in again.sandboxes()
        host.world.clock.pause(limits.REQUEST_SECONDS)
        assert 3 == requests.forget_old(again._calls.context, again._calls.context.doors.clock.deadline(30))
    assert [] == notes(host)
