"""Two processes race, one step at a time: at every effect of either, a seeded scheduler decides who goes on.

Only one of them runs at any instant (it holds the baton), so that a seed is a schedule and a failure can be repeated.
Either on two hosts that share a store, or two processes of one host that share locks, store and kernel as well. Exactly
one wins what only one can have; the other gets the typed error; and afterwards both hosts are as their records say.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping

import attrs
import pytest

from libcnm.controller import way_out
from libcnm.controller.controller import Controller
from libcnm.errors import AlreadyExists, CnmError, Exhausted, Forbidden, InUse, NotFound
from libcnm.system.locks import Locks
from libcnm.testing.world import FakeWorld, follow, half_done

BRIEF = os.environ.get("LIBCNM_EFFORT") == "brief"
SEEDS = range(0, 24, 2 if BRIEF else 1)
PATIENCE = 30.0  # seconds; a schedule takes milliseconds
RESIDUE = ("installation", "run-dir", "lineage", "host/", "pools/", "vni-hint", "request/")


class Baton:
    """Hands the right to run from thread to thread. A point is passed on with the given probability."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._eagerness = self._chance.choice((0.05, 0.2, 0.5, 0.9))  # long runs find other races than short ones
        self._turns: dict[int, threading.Semaphore] = {}
        self._me = threading.local()
        self.switches = 0

    def point(self) -> None:
        """The running thread is about to do something, or has done it."""
        if hasattr(self._me, "number") and self._chance.random() < self._eagerness:
            self.pass_on()

    def wait(self, _seconds: float) -> None:
        """In place of a lock's pause: let the others run, they hold the lock."""
        self.pass_on()

    def pass_on(self) -> None:
        others = [number for number in self._turns if number != self._me.number]
        if others:
            self.switches += 1
            mine = self._turns[self._me.number]
            self._turns[self._chance.choice(others)].release()
            assert mine.acquire(timeout=PATIENCE), "the other one never gave it back"

    def race(self, *verbs: Callable[[], object]) -> list[object]:
        """Run them all; what each returned, or the CnmError it ended with."""
        results: list[object] = [None] * len(verbs)
        crashes: list[BaseException] = []
        self._turns = {number: threading.Semaphore(0) for number in range(len(verbs))}

        def run(number: int) -> None:
            self._me.number = number
            assert self._turns[number].acquire(timeout=PATIENCE)
            try:
                results[number] = verbs[number]()
            except CnmError as error:
                results[number] = error
            except BaseException as error:  # noqa: BLE001  # shown by the test
                crashes.append(error)
            finally:
                del self._turns[number]
                if self._turns:
                    self._turns[self._chance.choice(sorted(self._turns))].release()

        threads = [threading.Thread(target=run, args=(number,)) for number in range(len(verbs))]
        first = self._turns[self._chance.randrange(len(verbs))]
        for thread in threads:
            thread.start()
        first.release()
        for thread in threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads)
        assert [] == crashes
        return results


class PassingLocks(Locks):
    """Real locks, whose waiting lets the other process run."""

    def __init__(self, folder: str, baton: Baton) -> None:
        super().__init__(folder)
        self._wait = baton  # type: ignore[assignment]  # all that it needs of an Event is `wait`


@attrs.define
class Race:
    """Two processes ``one`` and ``two`` in a world, and the baton between them."""

    world: FakeWorld
    baton: Baton
    one: Controller
    two: Controller


def start(seed: int, world: FakeWorld) -> Race:
    """Two hosts race, or two processes of the only one."""
    baton = Baton(seed)
    names = [*world.hosts, *world.hosts][:2]
    opened = []
    for name in names:
        host = world.host(name)
        host.tape.passing = baton.point  # every effect of every door is a point
        doors = attrs.evolve(host.doors(), locks=PassingLocks(host.paths.locks, baton))
        cnm = host.controller(doors=doors)
        opened.append(cnm)
    return Race(world, baton, *opened)


def finish(race: Race, before: Mapping[str, object]) -> None:
    """Nothing half-done, kernels as the records say, no address twice; and all of it can be deleted."""
    for cnm in (race.one, race.two):
        follow(cnm)
    for cnm in (race.one, race.two):
        assert [] == half_done(cnm)
        assert [] == [str(row) for row in cnm.doctor()]
        for network in cnm.networks():
            addresses = Counter(ip for endpoint in network.endpoints() for ip in endpoint.addresses)
            assert not addresses or 1 == max(addresses.values())
        context = cnm._calls.context
        for sandbox in cnm.sandboxes():
            assert way_out.is_settled(context.plugs(sandbox.id, context.doors.clock.deadline(PATIENCE)))
    for cnm in (race.one, race.two):
        for sandbox in cnm.sandboxes():
            sandbox.delete()
    for cnm in (race.one, race.two):
        assert [] == [network.name for network in cnm.networks() if network.on_demand]
        for network in cnm.networks():
            network.delete(force=True)
    for cnm in (race.one, race.two):
        cnm.heal()  # what one host deleted, the other forgets now
        cnm.close()
    assert before == {name: host.kernel.snapshot() for name, host in race.world.hosts.items()}
    left = [*race.world.stored_keys(), *(key for host in race.world.hosts.values() for key in host.stored_keys())]
    assert [] == [key for key in left if not key.startswith(RESIDUE)]


def kinds(results: list[object]) -> list[type]:
    return [type(result) if isinstance(result, CnmError) else object for result in results]


Prepare = Callable[[Race], tuple[Callable[[], object], Callable[[], object]]]


def races(
    driver: str, prepare: Prepare, allowed: set[tuple[type, type]], *, one_host: bool = False
) -> Counter[tuple[type, type]]:
    """How often each pair of endings came, over all seeds; each must be allowed, and every check must hold.

    Overlay networks are raced for by two hosts, unless ``one_host``, bridge networks by two processes of one host.
    """
    seen: Counter[tuple[type, type]] = Counter()
    switches = 0
    for seed in SEEDS:
        with FakeWorld(("one", "two") if driver == "overlay" and not one_host else ("one",), seed=seed) as world:
            before = {name: host.kernel.snapshot() for name, host in world.hosts.items()}
            race = start(seed, world)
            one, two = prepare(race)
            first, second = kinds(race.baton.race(one, two))
            assert (first, second) in allowed, f"seed {seed}: {first.__name__} and {second.__name__}"
            seen[first, second] += 1
            switches += race.baton.switches
            finish(race, before)
    assert switches > len(SEEDS) // 2, "schedules that never switch test nothing"
    return seen


DRIVERS = pytest.mark.parametrize("driver", ["overlay", "bridge"])


def mirrored(winner: type, loser: type) -> set[tuple[type, type]]:
    return {(winner, loser), (loser, winner)}


@DRIVERS
def test_one_name(driver: str) -> None:
    """Two create a network of one name: one gets it, the other AlreadyExists; either may win."""

    def prepare(race: Race) -> tuple[Callable[[], object], Callable[[], object]]:
        return lambda: race.one.create_network("net", driver), lambda: race.two.create_network("net", driver)

    assert 2 == len(races(driver, prepare, mirrored(object, AlreadyExists)))


@DRIVERS
def test_one_pool(driver: str) -> None:
    """Two ask for overlapping subnets under different names: one gets its own, the other is told who has it."""

    def prepare(race: Race) -> tuple[Callable[[], object], Callable[[], object]]:
        return (
            lambda: race.one.create_network("a", driver, subnets=["10.7.0.0/24"]),
            lambda: race.two.create_network("b", driver, subnets=["10.7.0.128/25"]),
        )

    assert 2 == len(races(driver, prepare, mirrored(object, AlreadyExists)))


@DRIVERS
def test_many_default_pools(driver: str) -> None:
    """Two create networks without saying where: both get one, and (``finish``) everything of theirs differs."""

    def prepare(race: Race) -> tuple[Callable[[], object], Callable[[], object]]:
        return lambda: race.one.create_network("a", driver), lambda: race.two.create_network("b", driver)

    races(driver, prepare, {(object, object)})


@DRIVERS
def test_the_last_address(driver: str) -> None:
    """A /30 has one address beside its gateway: one endpoint gets it, the other is told that none is left."""

    def prepare(race: Race) -> tuple[Callable[[], object], Callable[[], object]]:
        race.one.create_network("net", driver, subnets=["10.7.0.0/30"])
        mine, theirs = race.one.network("net"), race.two.network("net")
        return lambda: mine.create_endpoint("a"), lambda: theirs.create_endpoint("b")

    assert 2 == len(races(driver, prepare, mirrored(object, Exhausted)))


@DRIVERS
def test_one_endpoint_two_sandboxes(driver: str) -> None:
    """Two join one endpoint: it is in one sandbox, and the other is told in which."""

    def prepare(race: Race) -> tuple[Callable[[], object], Callable[[], object]]:
        endpoint = race.one.create_network("net", driver).create_endpoint("a")
        theirs = race.two.network("net").endpoint("a")
        mine, other = race.one.create_sandbox("c1"), race.two.create_sandbox("c2")
        return lambda: endpoint.join(mine), lambda: theirs.join(other)

    assert 2 == len(races(driver, prepare, mirrored(object, InUse)))


@DRIVERS
def test_deleting_a_network_while_an_endpoint_comes(driver: str) -> None:
    """Either the endpoint is there first and the network stays, or the deletion is first and it is refused."""

    def prepare(race: Race) -> tuple[Callable[[], object], Callable[[], object]]:
        network = race.one.create_network("net", driver)
        theirs = race.two.network("net")
        return network.delete, lambda: theirs.create_endpoint("a")

    # Both may fail: the endpoint because of the mark, the deletion because of an endpoint that it saw go again.
    seen = races(driver, prepare, {(object, NotFound), (object, Forbidden), (InUse, object)})
    assert 2 <= len(seen)


@DRIVERS
def test_deleting_a_network_while_an_endpoint_joins(driver: str) -> None:
    """A network with an endpoint is InUse whatever the endpoint does, and the join is refused at most for the mark."""

    def prepare(race: Race) -> tuple[Callable[[], object], Callable[[], object]]:
        network = race.one.create_network("net", driver)
        endpoint = race.two.network("net").create_endpoint("a")
        sandbox = race.two.create_sandbox("c1")
        return network.delete, lambda: endpoint.join(sandbox)

    races(driver, prepare, {(InUse, object), (InUse, Forbidden)})


@DRIVERS
def test_force_deleting_a_network_while_an_endpoint_joins(driver: str) -> None:
    """With force, the deletion wins or is told who holds it; an endpoint never survives its network."""

    def prepare(race: Race) -> tuple[Callable[[], object], Callable[[], object]]:
        network = race.one.create_network("net", driver)
        endpoint = race.two.network("net").create_endpoint("a")
        sandbox = race.two.create_sandbox("c1")
        return lambda: network.delete(force=True), lambda: endpoint.join(sandbox)

    races(driver, prepare, {(object, NotFound), (object, Forbidden), (InUse, object), (object, object)})


@DRIVERS
def test_deleting_an_endpoint_while_it_joins(driver: str) -> None:
    """It is deleted, and the join finds nothing; or it is attached, and the deletion says where."""

    def prepare(race: Race) -> tuple[Callable[[], object], Callable[[], object]]:
        endpoint = race.one.create_network("net", driver).create_endpoint("a")
        theirs = race.two.network("net").endpoint("a")
        sandbox = race.two.create_sandbox("c1")
        return endpoint.delete, lambda: theirs.join(sandbox)

    assert 2 == len(races(driver, prepare, {(object, NotFound), (InUse, object)}))


@DRIVERS
def test_leaving_while_others_join(driver: str) -> None:
    """Two endpoints of one network come and go on their own: neither disturbs the other."""

    def prepare(race: Race) -> tuple[Callable[[], object], Callable[[], object]]:
        network = race.one.create_network("net", driver)
        one, two = network.create_endpoint("a"), race.two.network("net").create_endpoint("b")
        one.join(race.one.create_sandbox("c1"))
        sandbox = race.two.create_sandbox("c2")
        return one.leave, lambda: two.join(sandbox)

    races(driver, prepare, {(object, object)})


def test_one_port() -> None:
    """Two processes publish one host port: one gets it, the other is told who has it."""

    def prepare(race: Race) -> tuple[Callable[[], object], Callable[[], object]]:
        network = race.one.create_network("net", "bridge")
        one, two = network.create_endpoint("a", ports=["8080:80"]), network.create_endpoint("b", ports=["8080:81"])
        mine, other = race.one.create_sandbox("c1"), race.two.create_sandbox("c2")
        theirs = race.two.network("net").endpoint("b")
        assert two == theirs
        return lambda: one.join(mine), lambda: theirs.join(other)

    assert 2 == len(races("bridge", prepare, mirrored(object, AlreadyExists)))


def test_one_container() -> None:
    """Two processes create a sandbox for one container: one gets it."""

    def prepare(race: Race) -> tuple[Callable[[], object], Callable[[], object]]:
        return lambda: race.one.create_sandbox("c1"), lambda: race.two.create_sandbox("c1")

    assert 2 == len(races("bridge", prepare, mirrored(object, AlreadyExists)))


def test_deleting_a_sandbox_while_an_endpoint_joins_it() -> None:
    """The endpoint ends attached to a sandbox that is there, or to none."""

    def prepare(race: Race) -> tuple[Callable[[], object], Callable[[], object]]:
        endpoint = race.one.create_network("net", "bridge").create_endpoint("a")
        sandbox = race.one.create_sandbox("c1")
        theirs, other = race.two.network("net").endpoint("a"), race.two.sandbox("c1")
        assert endpoint == theirs
        return sandbox.delete, lambda: theirs.join(other)

    races("bridge", prepare, {(object, object), (object, NotFound), (object, Forbidden), (Forbidden, object)})


def test_two_deletions() -> None:
    """Two processes delete one network: it is gone, one did it, the other finds nothing."""

    def prepare(race: Race) -> tuple[Callable[[], object], Callable[[], object]]:
        race.one.create_network("net", "bridge")
        return race.one.network("net").delete, race.two.network("net").delete

    races("bridge", prepare, mirrored(object, NotFound))


@DRIVERS
@pytest.mark.parametrize("verb", ["create_network", "create_endpoint", "join", "leave", "delete_network"])
def test_one_request(driver: str, verb: str) -> None:
    """Two processes ask for the same thing with one request id: it is done once, and both are told so."""

    def prepare(race: Race) -> tuple[Callable[[], object], Callable[[], object]]:
        if verb != "create_network":
            race.one.create_network("net", driver)
        if verb in ("join", "leave"):
            race.one.create_sandbox("c1")
            race.one.network("net").create_endpoint("a")
        if verb == "leave":
            _ask(race.one, driver, "join", "r0")()
        return _ask(race.one, driver, verb, "r1"), _ask(race.two, driver, verb, "r1")

    races(driver, prepare, {(object, object)}, one_host=True)


@DRIVERS
def test_one_request_id_for_two_things(driver: str) -> None:
    """Whoever is first has the id; the other is told what it was used for, whatever it wanted."""

    def prepare(race: Race) -> tuple[Callable[[], object], Callable[[], object]]:
        race.one.create_network("other", driver)
        theirs = race.two.network("other")
        return _ask(race.one, driver, "create_network", "r1"), lambda: theirs.create_endpoint("a", request_id="r1")

    assert 2 == len(races(driver, prepare, mirrored(object, AlreadyExists), one_host=True))


def _ask(cnm: Controller, driver: str, verb: str, request: str) -> Callable[[], object]:
    """The verb on live objects that are found now."""
    if verb == "create_network":
        return lambda: cnm.create_network("net", driver, request_id=request)
    network = cnm.network("net")
    if verb == "delete_network":
        return lambda: network.delete(request_id=request)
    if verb == "create_endpoint":
        return lambda: network.create_endpoint("a", request_id=request)
    endpoint, sandbox = network.endpoint("a"), cnm.sandbox("c1")
    if verb == "join":
        return lambda: endpoint.join(sandbox, request_id=request)
    return lambda: endpoint.leave(request_id=request)


# -- ways out: overlay networks, and two processes of one host -------------------------------------------------------


@pytest.mark.slow
def test_the_last_way_out_goes_while_another_comes() -> None:
    """Their network is kept, or taken away and made again: neither verb notices."""

    def prepare(race: Race) -> tuple[Callable[[], object], Callable[[], object]]:
        network = race.one.create_network("net", "overlay")
        one, two = network.create_endpoint("a"), race.two.network("net").create_endpoint("b", ports=["8080:80"])
        one.join(race.one.create_sandbox("c1"))
        sandbox = race.two.create_sandbox("c2")
        return one.leave, lambda: two.join(sandbox)

    races("bridge", prepare, {(object, object)})


@pytest.mark.slow
def test_two_first_ways_out() -> None:
    """Two processes need the network that neither has made: one makes it, both use it."""

    def prepare(race: Race) -> tuple[Callable[[], object], Callable[[], object]]:
        network = race.one.create_network("net", "overlay")
        one, two = network.create_endpoint("a"), race.two.network("net").create_endpoint("b")
        mine, other = race.one.create_sandbox("c1"), race.two.create_sandbox("c2")
        return lambda: one.join(mine), lambda: two.join(other)

    races("bridge", prepare, {(object, object)})


@pytest.mark.slow
@DRIVERS
def test_one_sandbox_two_ways(driver: str) -> None:
    """One process joins an overlay endpoint, the other one of an overlay or bridge network: one way out, or none."""

    def prepare(race: Race) -> tuple[Callable[[], object], Callable[[], object]]:
        one = race.one.create_network("net", "overlay", subnets=["10.1.0.0/24"]).create_endpoint("a", ports=["8080:80"])
        race.two.create_network("beside", driver, subnets=["10.2.0.0/24"]).create_endpoint("b", ports=["8081:80"])
        mine, two = race.one.create_sandbox("c1"), race.two.network("beside").endpoint("b")
        other = race.two.sandbox("c1")
        return lambda: one.join(mine), lambda: two.join(other)

    races("bridge", prepare, {(object, object)})


def busy(cnm: Controller) -> None:
    """Heal at three moments; in between there is something to do, so that the other one gets on."""
    for number in range(3):
        cnm.heal()
        cnm.create_network(f"n{number}")
    cnm.heal()


@pytest.mark.slow
def test_healing_while_a_way_out_is_made() -> None:
    """Whoever recovers leaves it to the verb, which is alive, or does it himself: once."""

    def prepare(race: Race) -> tuple[Callable[[], object], Callable[[], object]]:
        endpoint = race.one.create_network("net", "overlay").create_endpoint("a", ports=["8080:80"])
        sandbox = race.one.create_sandbox("c1")
        return lambda: endpoint.join(sandbox), lambda: busy(race.two)

    races("bridge", prepare, {(object, object)})


@pytest.mark.slow
def test_a_bridge_leaves_while_somebody_heals() -> None:
    """The way out comes back once."""

    def prepare(race: Race) -> tuple[Callable[[], object], Callable[[], object]]:
        sandbox = race.one.create_sandbox("c1")
        race.one.create_network("net", "overlay").create_endpoint("a").join(sandbox)
        endpoint = race.one.create_network("beside").create_endpoint("b").join(sandbox)
        return endpoint.leave, lambda: busy(race.two)

    races("bridge", prepare, {(object, object)})


@pytest.mark.slow
def test_deleting_a_sandbox_while_an_overlay_endpoint_joins_it() -> None:
    """As with any other; and no way out is left of it."""

    def prepare(race: Race) -> tuple[Callable[[], object], Callable[[], object]]:
        race.one.create_network("net", "overlay").create_endpoint("a")
        sandbox = race.one.create_sandbox("c1")
        theirs, other = race.two.network("net").endpoint("a"), race.two.sandbox("c1")
        return sandbox.delete, lambda: theirs.join(other)

    races("bridge", prepare, {(object, object), (object, NotFound), (object, Forbidden), (Forbidden, object)})
