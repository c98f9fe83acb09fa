"""Every verb, crashed before and after every one of its effects; then a new controller on the same host.

The effects are enumerated by running the verb once. After the crash a new process opens the installation; whatever the
point, the verb is then entirely done or entirely undone, nothing is leaked, and doing it again and undoing it works.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from libcnm.controller import way_out
from libcnm.controller.controller import Controller
from libcnm.errors import CnmError, NotFound
from libcnm.testing.world import Crash, FakeHost, FakeWorld


@attrs.frozen
class Verb:
    """A verb under test: what must be there before, the verb itself, and the way back to nothing."""

    name: str
    prepare: Callable[[Controller], object]
    act: Callable[[Controller], object]


def _nothing(cnm: Controller) -> None:
    """The empty preparation."""


def _network(cnm: Controller) -> object:
    return cnm.create_network("net", subnets=["10.88.0.0/24", "fd00:88::/64"])


def _overlay(cnm: Controller) -> object:
    return cnm.create_network("net", "overlay", subnets=["10.99.0.0/24", "fd00:99::/64"])


def _endpoint(make: Callable[[Controller], object]) -> Callable[[Controller], object]:
    def prepare(cnm: Controller) -> None:
        make(cnm)
        cnm.network("net").create_endpoint("web", aliases=["www"], ports=["8080:80"])
        cnm.create_sandbox("c1")

    return prepare


def _joined(make: Callable[[Controller], object]) -> Callable[[Controller], object]:
    def prepare(cnm: Controller) -> None:
        _endpoint(make)(cnm)
        _join(cnm)

    return prepare


def _join(cnm: Controller) -> None:
    cnm.network("net").endpoint("web").join(cnm.sandbox("c1"))


def _beside(driver: str, *, joined: bool) -> Callable[[Controller], object]:
    """An endpoint on an overlay, with its way out; and one on another network, for the same sandbox."""

    def prepare(cnm: Controller) -> None:
        _joined(_overlay)(cnm)
        cnm.create_network("beside", driver, subnets=["10.77.0.0/24"]).create_endpoint("b", ports=["8081:81"])
        if joined:
            _join_beside(cnm)

    return prepare


def _join_beside(cnm: Controller) -> None:
    cnm.network("beside").endpoint("b").join(cnm.sandbox("c1"))


VERBS = [
    Verb("create bridge network", _nothing, _network),
    Verb("create overlay network", _nothing, _overlay),
    Verb("create sandbox", _nothing, lambda cnm: cnm.create_sandbox("c1")),
    Verb("create endpoint", _network, lambda cnm: cnm.network("net").create_endpoint("web")),
    Verb("join bridge", _endpoint(_network), _join),
    Verb("join overlay", _endpoint(_overlay), _join),
    Verb("leave bridge", _joined(_network), lambda cnm: cnm.network("net").endpoint("web").leave()),
    Verb("leave overlay", _joined(_overlay), lambda cnm: cnm.network("net").endpoint("web").leave()),
    Verb("delete endpoint", _joined(_network), lambda cnm: cnm.network("net").endpoint("web").delete(force=True)),
    Verb("delete sandbox", _joined(_network), lambda cnm: cnm.sandbox("c1").delete()),
    Verb("delete bridge network", _network, lambda cnm: cnm.network("net").delete()),
    Verb("delete overlay network", _overlay, lambda cnm: cnm.network("net").delete()),
    Verb("force-delete network", _joined(_network), lambda cnm: cnm.network("net").delete(force=True)),
]
WAYS = [
    Verb("join bridge beside overlay", _beside("bridge", joined=False), _join_beside),
    Verb(
        "leave bridge beside overlay",
        _beside("bridge", joined=True),
        lambda cnm: cnm.network("beside").endpoint("b").leave(),
    ),
    Verb("join overlay beside overlay", _beside("overlay", joined=False), _join_beside),
    Verb(
        "leave overlay beside overlay",
        _beside("overlay", joined=True),
        lambda cnm: cnm.network("net").endpoint("web").leave(),
    ),
    Verb("delete sandbox with a way out", _joined(_overlay), lambda cnm: cnm.sandbox("c1").delete()),
    Verb("force-delete overlay network", _joined(_overlay), lambda cnm: cnm.network("net").delete(force=True)),
]
"""What gives a sandbox a way out, or another one, or takes it away: up to 200 points, of which every third is tried
(before one effect, after the next).
"""

EVERY = pytest.mark.parametrize(
    "verb", [*VERBS, *(pytest.param(verb, marks=pytest.mark.slow) for verb in WAYS)], ids=lambda verb: verb.name
)


def _ours(host: FakeHost) -> list[object]:
    return [one.resource for one in host.kernel.everything() if one.ours and one.resource.identity[0] != "sysctl"]


def _step(verb: Verb, stride: int) -> int:
    return 3 * stride if verb in WAYS else stride


def _crash_points(verb: Verb) -> list[str]:
    with FakeWorld(seed=1) as world:
        host = world.host()
        cnm = host.controller()
        verb.prepare(cnm)
        host.tape.start()
        verb.act(cnm)
        return host.tape.stop()


def _check_after(host: FakeHost, where: str) -> None:
    """A new process: nothing half-done is left, and what the records want is exactly what is there."""
    with host.controller() as cnm:
        context = cnm._calls.context
        assert [] == context.local.intents(context.doors.clock.deadline(5)), where
        assert [] == [str(row) for row in cnm.doctor()], where
        made = {network.name: network.endpoints() for network in cnm.networks() if network.on_demand}
        there = {sandbox.way_out for sandbox in cnm.sandboxes()} - {None}
        assert ({one for some in made.values() for one in some}, True) == (there, all(made.values())), where
        for sandbox in cnm.sandboxes():
            plugs = context.plugs(sandbox.id, context.doors.clock.deadline(5))
            assert way_out.is_settled(plugs), where


def _tear_down(host: FakeHost) -> None:
    with host.controller() as cnm:
        for sandbox in cnm.sandboxes():
            sandbox.delete()
        assert [] == [one.name for one in cnm.networks() if one.on_demand]
        for network in cnm.networks():
            network.delete(force=True)


@EVERY
def test_a_crash_at_any_effect_is_recovered_from(verb: Verb, stride: int) -> None:
    """Killed at any effect, a verb is afterwards done or undone; nothing is leaked; and it can be done again."""
    points = _crash_points(verb)
    assert points, "a verb without effects tests nothing"
    for number, point in list(enumerate(points))[:: _step(verb, stride)]:
        where = f"{verb.name}: crash at {number} ({point})"
        with FakeWorld(seed=1) as world:
            host = world.host()
            cnm = host.controller()
            before = host.kernel.snapshot()
            verb.prepare(cnm)
            host.tape.start(stop_at=number)
            with pytest.raises(Crash):
                verb.act(cnm)
            host.tape.stop()
            _check_after(host, where)
            codes: list[str] = []
            with host.controller() as again:
                try:
                    verb.act(again)
                except CnmError as error:
                    # It had been done: then the same again is refused as such.
                    codes.append(error.code)
            assert set(codes) <= {"already-exists", "in-use", "forbidden", "not-found"}, where
            _check_after(host, f"{where}, done again")
            _tear_down(host)
            assert before == host.kernel.snapshot(), where
            assert [] == _ours(host), where


@EVERY
def test_a_crash_during_recovery_is_recovered_from(verb: Verb, stride: int) -> None:
    """Killed at the middle of the verb, and again at any effect of the recovery: the next recovery still gets there."""
    points = _crash_points(verb)
    middle = len(points) // 2
    number = 0
    while True:
        with FakeWorld(seed=2) as world:
            host = world.host()
            cnm = host.controller()
            verb.prepare(cnm)
            host.tape.start(stop_at=middle)
            with pytest.raises(Crash):
                verb.act(cnm)
            host.tape.start(stop_at=number)
            try:
                host.controller().close()
            except Crash:
                _check_after(host, f"{verb.name}: crash {number} of the recovery")
                _tear_down(host)
                assert [] == _ours(host)
                number += _step(verb, stride)
                continue
            host.tape.stop()
            break


@pytest.mark.parametrize("verb", VERBS[4:6], ids=lambda verb: verb.name)
def test_a_reboot_in_the_middle_of_any_verb_leaves_networks_and_endpoints(verb: Verb) -> None:
    """After a boot, sandboxes and attachments are gone, networks stand again with their endpoints' addresses kept."""
    points = _crash_points(verb)
    for number in range(len(points)):
        with FakeWorld(seed=3) as world:
            host = world.host()
            cnm = host.controller()
            verb.prepare(cnm)
            kept = cnm.network("net").endpoint("web").addresses
            host.tape.start(stop_at=number)
            with pytest.raises(Crash):
                verb.act(cnm)
            host.tape.stop()
            host.reboot()
            with host.controller() as again:
                again.heal()
                assert ([], ["net"]) == (again.sandboxes(), [one.name for one in again.networks()])
                assert kept == again.network("net").endpoint("web").addresses
                assert None is again.network("net").endpoint("web").sandbox
                assert [] == [str(row) for row in again.doctor()]


def test_a_deleted_object_is_not_found() -> None:
    """The live object of a deleted network says NotFound, typed and with its name."""
    with FakeWorld() as world, world.host().controller() as cnm:
        network = cnm.create_network("net")
        network.delete()
        with pytest.raises(NotFound):
            network.inspect()
