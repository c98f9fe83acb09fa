"""Verbs with a request id, killed before and after every one of their effects, and asked for again.

Whatever the point, the same request succeeds in a new process and has one result, however often it is asked for; any
other request with that id is refused as soon as anything of the first one has lasted; and when what was done has been
undone since, a late retry leaves it so.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from libcnm.controller.controller import Controller
from libcnm.errors import AlreadyExists, CnmError, Forbidden, NotFound
from libcnm.testing.world import Crash, FakeHost, FakeWorld, half_done

ID = "r1"
Act = Callable[[Controller], object]


@attrs.frozen
class Asked:
    """A verb with a request id: what must be there before, the verb, what is then so, and what somebody does later."""

    name: str
    driver: str
    prepare: Callable[[Controller, str], object]
    act: Callable[[Controller, str], object]
    state: Callable[[Controller], object]
    later: Callable[[Controller], object]
    gone: type[CnmError] | None = None
    """How a retry ends after that; None: as if it was done again, without being so."""


def _nothing(_cnm: Controller, _driver: str) -> None:
    """The empty preparation."""


def _network(cnm: Controller, driver: str) -> object:
    return cnm.create_network("net", driver, subnets=["10.88.0.0/24"], request_id="n1")


def _endpoint(cnm: Controller, driver: str) -> object:
    _network(cnm, driver)
    cnm.create_sandbox("c1")
    return cnm.network("net").create_endpoint("web")


def _joined(cnm: Controller, driver: str) -> object:
    _endpoint(cnm, driver)
    return _join(cnm)


def _join(cnm: Controller) -> object:
    return cnm.network("net").endpoint("web").join(cnm.sandbox("c1"))


def _networks(cnm: Controller) -> object:
    return sorted(one.id for one in cnm.networks())


def _endpoints(cnm: Controller) -> object:
    return sorted((one.id, one.sandbox) for one in cnm.network("net").endpoints())


def _sandboxes(cnm: Controller) -> object:
    return sorted(one.id for one in cnm.sandboxes())


def _requests(driver: str) -> list[Asked]:
    def create_network(cnm: Controller, request: str) -> object:
        return cnm.create_network("net", driver, subnets=["10.88.0.0/24"], request_id=request)

    def delete_web(cnm: Controller) -> None:
        cnm.network("net").endpoint("web").delete(force=True)

    def leave(cnm: Controller, request: str) -> None:
        cnm.network("net").endpoint("web").leave(request_id=request)

    return [
        Asked("create network", driver, _nothing, create_network, _networks,
              lambda cnm: cnm.network("net").delete(), NotFound),
        Asked("create endpoint", driver, _network,
              lambda cnm, request: cnm.network("net").create_endpoint("web", request_id=request),
              _endpoints, delete_web, NotFound),
        Asked("join", driver, _endpoint,
              lambda cnm, request: cnm.network("net").endpoint("web").join(cnm.sandbox("c1"), request_id=request),
              _endpoints, lambda cnm: cnm.network("net").endpoint("web").leave(), Forbidden),
        Asked("leave", driver, _joined, leave, _endpoints, _join),
    ]  # fmt: skip


ASKED = [
    *_requests("bridge"),
    *_requests("overlay"),
    Asked(
        "create sandbox", "bridge", _nothing,
        lambda cnm, request: cnm.create_sandbox("c1", request_id=request),
        _sandboxes, lambda cnm: cnm.sandbox("c1").delete(), NotFound,
    ),
]  # fmt: skip


def points_of(asked: Asked) -> list[str]:
    with FakeWorld(seed=1) as world:
        host = world.host()
        cnm = host.controller()
        asked.prepare(cnm, asked.driver)
        host.tape.start()
        asked.act(cnm, ID)
        return host.tape.stop()


def crashed(host: FakeHost, number: int, prepare: Act, act: Act) -> None:
    cnm = host.controller()
    prepare(cnm)
    host.tape.start(stop_at=number)
    with pytest.raises(Crash):
        act(cnm)
    host.tape.stop()


def bound(host: FakeHost) -> bool:
    return f"request/{ID}" in host.stored_keys()


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: f"{asked.driver}: {asked.name}")
def test_a_request_that_died_is_done_by_its_retry(asked: Asked, stride: int) -> None:
    """Once; then it is known, whatever becomes of what it did."""
    points = points_of(asked)
    assert points, "a verb without effects tests nothing"
    for number, point in list(enumerate(points))[::stride]:
        where = f"{asked.name}: crash at {number} ({point})"
        with FakeWorld(seed=1) as world:
            host = world.host()
            crashed(host, number, lambda cnm: asked.prepare(cnm, asked.driver), lambda cnm: asked.act(cnm, ID))
            with host.controller() as cnm:
                if bound(host):
                    with pytest.raises(AlreadyExists):
                        cnm.create_network("other", asked.driver, request_id=ID)
                asked.act(cnm, ID)
                assert bound(host), where
                done = asked.state(cnm)
                asked.act(cnm, ID)
                assert done == asked.state(cnm), where
                with pytest.raises(AlreadyExists):
                    cnm.create_network("other", asked.driver, request_id=ID)
                asked.later(cnm)
                later = asked.state(cnm)
                assert done != later, where
            with host.controller() as cnm:
                if asked.gone is None:
                    asked.act(cnm, ID)
                else:
                    with pytest.raises(asked.gone):
                        asked.act(cnm, ID)
                assert later == asked.state(cnm), where
                assert [] == half_done(cnm), where
                assert [] == [str(row) for row in cnm.doctor()], where


def deletion(cnm: Controller, what: str) -> Callable[[], object]:
    """The deletion of an object that this process has found before."""
    if what == "sandbox":
        sandbox = cnm.sandbox("c1")
        return lambda: sandbox.delete(request_id=ID)
    network = cnm.network("net")
    if what == "network":
        return lambda: network.delete(force=True, request_id=ID)
    endpoint = network.endpoint("web")
    return lambda: endpoint.delete(force=True, request_id=ID)


def everything(cnm: Controller) -> object:
    endpoints = [(one, one.sandbox) for network in cnm.networks() for one in network.endpoints()]
    return cnm.networks(), cnm.sandboxes(), endpoints


@pytest.mark.parametrize("driver", ["bridge", "overlay"])
@pytest.mark.parametrize("what", ["endpoint", "sandbox", "network"])
def test_a_deletion_that_died_is_done_by_its_retry(what: str, driver: str, stride: int) -> None:
    """By another process, which had found the object before; afterwards the object's successor is left alone."""
    number, crash = 0, True
    while crash:
        where = f"delete {what}: crash at {number}"
        with FakeWorld(seed=1) as world:
            host = world.host()
            with host.controller() as cnm:
                _joined(cnm, driver)
            with host.controller() as second:
                again = deletion(second, what)
                first = deletion(host.controller(), what)
                host.tape.start(stop_at=number)
                try:
                    first()
                except Crash:
                    pass
                else:
                    crash = False
                host.tape.stop()
                again()
                assert bound(host), where
                with pytest.raises(NotFound):
                    deletion(second, what)
                with host.controller() as third:
                    for one in third.networks():
                        one.delete(force=True)
                    for box in third.sandboxes():
                        box.delete()
                    _network_anew(third, driver)
                left = everything(second)
                again()
                assert left == everything(second), where
                assert [] == half_done(second), where
                assert [] == [str(row) for row in second.doctor()], where
        number += stride


def _network_anew(cnm: Controller, driver: str) -> None:
    cnm.create_network("net", driver).create_endpoint("web").join(cnm.create_sandbox("c1"))
