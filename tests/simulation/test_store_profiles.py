"""Verbs over a cluster store that behaves like Consul or etcd on a bad day: events lost, replies lost, requests lost.

Each verb either succeeds or ends with a typed error; afterwards (one recovery, the faults over) it is done or undone,
nothing is there twice and nothing is left over. A lost reply alone is never seen by the caller: the outcome is read
back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs
import pytest

from libcnm.controller.controller import Controller
from libcnm.controller.settled import SettledStore
from libcnm.errors import AlreadyExists, CnmError, Conflict, Exhausted, NotFound, Unavailable
from libcnm.kv.base import Absent, Delete, Put, Transaction, VersionIs
from libcnm.kv.memory import CONSUL_LIKE, ETCD_LIKE, PLAIN, MemoryStore, Profile
from libcnm.model.deadline import Deadline
from libcnm.system.clock import ManualClock
from libcnm.testing.world import FakeHost, FakeWorld, follow, half_done

FAULTS = {
    "replies": Profile("", lose_replies=0.5),
    "requests": Profile("", lose_requests=0.1),
    "events": Profile("", drop_events=0.3, coalesce_events=0.5),
    "everything": Profile("", drop_events=0.3, coalesce_events=0.3, lose_replies=0.3, lose_requests=0.1),
}
RESIDUE = ("host/", "lineage", "pools/", "vni-hint")
HOST_RESIDUE = ("installation", "run-dir", "pools/", "request/")


def profile(base: Profile, fault: str) -> Profile:
    bad = FAULTS[fault]
    return attrs.evolve(
        base,
        drop_events=bad.drop_events,
        coalesce_events=bad.coalesce_events,
        lose_replies=bad.lose_replies,
        lose_requests=bad.lose_requests,
    )


def within(seconds: float = 10.0) -> Deadline:
    return ManualClock(tick=0.001).deadline(seconds)


def pair(seed: int) -> FakeWorld:
    return FakeWorld(("one", "two"), seed=seed)


def check_whole(world: FakeWorld) -> None:
    """With the faults over, one recovery on each host: nothing half-done, nothing missing, nothing left over."""
    world.profile = PLAIN
    for name in world.hosts:
        with world.host(name).controller() as cnm:
            cnm.heal()
            follow(cnm)
    for name in world.hosts:
        with world.host(name).controller() as cnm:
            follow(cnm)
            assert [] == half_done(cnm)
            assert [] == [str(row) for row in cnm.doctor()]
            check_claims(cnm)


def check_claims(cnm: Controller) -> None:
    """Every claim belongs to a record, and every endpoint holds all of its own."""
    networks = {network.id: network for network in cnm.networks() if network.scope == "global"}
    endpoints = {one.id: one for network in networks.values() for one in network.endpoints()}
    assert all(one.sandbox is None or one.host is not None for one in endpoints.values())
    world_keys = [entry.key for entry in cnm._calls.context.doors.cluster.list("", deadline=within()).entries]  # type: ignore[union-attr]  # a world has one
    assert {network.name for network in networks.values()} == {
        key.rpartition("/")[2] for key in world_keys if key.startswith("name/network/")
    }
    assert {one.name for one in endpoints.values()} == {
        key.rpartition("/")[2] for key in world_keys if key.startswith("name/endpoint/")
    }
    assert {one.mac for one in endpoints.values()} == {
        key.rpartition("/")[2] for key in world_keys if key.startswith("mac/")
    }
    assert len(networks) == len([key for key in world_keys if key.startswith("vni/")])


def tear_down(world: FakeWorld, before: dict[str, object]) -> None:
    """Delete everything from healthy controllers: the kernels are as they were, the stores hold the known residue."""
    for host in world.hosts.values():
        with host.controller() as cnm:
            for sandbox in cnm.sandboxes():
                sandbox.delete()
    for host in world.hosts.values():
        with host.controller() as cnm:
            for network in cnm.networks():
                network.delete(force=True)
    for name, host in world.hosts.items():
        with host.controller() as cnm:
            cnm.heal()
        assert before[name] == host.kernel.snapshot()
        assert [] == [key for key in host.stored_keys() if not key.startswith(HOST_RESIDUE)]
    assert [] == [key for key in world.stored_keys() if not key.startswith(RESIDUE)]


def snapshots(world: FakeWorld) -> dict[str, object]:
    return {name: host.kernel.snapshot() for name, host in world.hosts.items()}


def opened(host: FakeHost) -> Controller:
    """A controller, however often the store must be asked."""
    for _ in range(50):
        try:
            return host.controller()
        except Unavailable:
            continue
    raise AssertionError("the store never answered")


def tried(verb: Callable[[], object]) -> CnmError | None:
    try:
        verb()
    except CnmError as error:
        return error
    return None


def scenario(one: Controller, two: Controller) -> Iterator[CnmError | None]:
    """An overlay used from two hosts, all verbs of its life; each may fail, later ones then find nothing to act on."""
    yield tried(lambda: one.create_network("net", "overlay", subnets=["10.9.0.0/28", "fd09::/64"]))
    for cnm, name in ((one, "a"), (two, "b"), (one, "c")):
        yield tried(lambda: cnm.network("net").create_endpoint(name))  # noqa: B023  # called at once
        yield tried(lambda: cnm.create_sandbox(f"box-{name}"))  # noqa: B023
        yield tried(lambda: cnm.network("net").endpoint(name).join(cnm.sandbox(f"box-{name}")))  # noqa: B023
    yield tried(lambda: one.network("net").endpoint("a").leave())
    yield tried(lambda: two.network("net").endpoint("a").delete())
    yield tried(lambda: one.network("net").delete())
    yield tried(lambda: two.sandbox("box-b").rename("renamed"))
    yield tried(lambda: two.sandbox("box-b").delete(keep_endpoints=True))
    yield tried(lambda: one.network("net").delete(force=True))


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("base", [CONSUL_LIKE, ETCD_LIKE], ids=lambda base: base.name)
def test_verbs_survive_a_bad_store(base: Profile, fault: str) -> None:
    """Whatever is lost, verbs succeed or say so with a typed error, and after a recovery nothing is doubled or left."""
    for seed in range(12):
        with pair(seed) as world:
            before = snapshots(world)
            world.profile = profile(base, fault)
            one, two = opened(world.host("one")), opened(world.host("two"))
            ended = list(scenario(one, two))
            assert all(error is None or type(error) is not CnmError for error in ended)
            one.close()
            two.close()
            check_whole(world)
            tear_down(world, before)


@pytest.mark.parametrize("base", [CONSUL_LIKE, ETCD_LIKE], ids=lambda base: base.name)
def test_a_lost_reply_is_not_an_error(base: Profile) -> None:
    """When only replies are lost, every verb ends exactly as it would have: the outcome is read back, never guessed."""
    with pair(0) as world:
        wanted = [type(error) for error in scenario(world.host("one").controller(), world.host("two").controller())]
    for seed in range(8):
        with pair(seed) as world:
            world.profile = profile(base, "replies")
            one, two = opened(world.host("one")), opened(world.host("two"))
            assert wanted == [type(error) for error in scenario(one, two)], seed
            check_whole(world)


@pytest.mark.slow
def test_a_store_that_goes_away_at_any_transaction() -> None:
    """Cut off at the k-th transaction of a join, a leave or a deletion: typed, at once, and whole after a recovery."""
    for verb in ("join", "leave", "delete", "create", "network"):
        for number in range(12):
            with pair(number) as world:
                before = snapshots(world)
                cnm = world.host("one").controller()
                network = cnm.create_network("net", "overlay")
                endpoint, box = network.create_endpoint("a"), cnm.create_sandbox("box")
                if verb in ("leave", "delete"):
                    endpoint.join(box)
                cluster = cnm._calls.context.doors.cluster
                assert isinstance(cluster, MemoryStore)
                acts: dict[str, Callable[[], object]] = {
                    "join": lambda: endpoint.join(box),  # noqa: B023  # called in this very turn
                    "leave": endpoint.leave,
                    "delete": lambda: network.delete(force=True),  # noqa: B023
                    "create": lambda: network.create_endpoint("b"),  # noqa: B023
                    "network": lambda: cnm.create_network("other", "overlay"),  # noqa: B023
                }
                world.host("one").tape.start(number, lambda: setattr(cluster, "reachable", False))  # noqa: B023
                error = tried(acts[verb])
                world.host("one").tape.stop()
                assert error is None or isinstance(error, Unavailable), f"{verb} cut off at {number}: {error!r}"
                check_whole(world)
                tear_down(world, before)


def test_a_local_verb_does_not_notice() -> None:
    """Local work never touches, waits for, or fails with the cluster store."""
    with pair(0) as world:
        world.profile = attrs.evolve(PLAIN, lose_requests=1.0)
        with world.host("one").controller() as cnm:
            network = cnm.create_network("net")
            endpoint = network.create_endpoint("a")
            with cnm.create_sandbox("box") as box:
                endpoint.join(box)
                endpoint.leave()
            network.delete(force=True)


# -- the settling store alone ----------------------------------------------------------------------------------------


class Lossy(MemoryStore):
    """Loses exactly the next reply (or request), and lets something happen meanwhile."""

    request = False
    armed = True
    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def transact(self, transaction: Transaction, *, deadline: Deadline, durable: bool = True):  # type: ignore[no-untyped-def]
        if not self.armed:
            return super().transact(transaction, deadline=deadline, durable=durable)
        self.armed = False
        if not self.request:
            super().transact(transaction, deadline=deadline, durable=durable)
        self.meanwhile()
        raise Unavailable("store", "lost", outcome_unknown=True)


def claim(key: str, value: bytes) -> Transaction:
    return Transaction((Absent(key),), (Put(key, value), Put("hint", b"2")))


@pytest.mark.parametrize("request_lost", [False, True])
def test_a_claim_is_settled(request_lost: bool) -> None:
    """Whether request or reply was lost, the claim is there once, with the version that a later write needs."""
    store = Lossy()
    store.request = request_lost
    made = SettledStore(store).transact(claim("a", b"mine"), deadline=within())
    entry = store.get("a", deadline=within())
    assert entry is not None
    assert b"mine" == entry.value
    assert entry.version == made.versions["a"]


def test_somebody_elses_claim_is_not_taken_for_ours() -> None:
    """The request was lost and another host was first, writing the same hint: that is a conflict."""
    store = Lossy()
    store.request = True
    store.meanwhile = lambda: store.transact(claim("a", b"theirs"), deadline=within())
    with pytest.raises(Conflict):
        SettledStore(store).transact(claim("a", b"mine"), deadline=within())


def test_a_deletion_is_settled() -> None:
    """A record that is gone after a lost reply was deleted."""
    store = Lossy()
    store.armed = False
    version = store.transact(claim("a", b"mine"), deadline=within()).versions["a"]
    store.armed = True
    SettledStore(store).transact(Transaction((VersionIs("a", version),), (Delete("a"),)), deadline=within())
    assert None is store.get("a", deadline=within())


def test_an_outcome_that_stays_unknown_says_so() -> None:
    """When the store stays away, the error still says that it may have happened."""
    store = Lossy()
    store.meanwhile = lambda: setattr(store, "reachable", False)
    with pytest.raises(Unavailable) as raised:
        SettledStore(store).transact(claim("a", b"mine"), deadline=within())
    assert raised.value.outcome_unknown


def test_typed_errors_pass_through() -> None:
    """Losing a race or asking for too much is told as ever on a lossy store."""
    with pair(3) as world:
        world.profile = profile(ETCD_LIKE, "replies")
        one, two = opened(world.host("one")), opened(world.host("two"))
        one.create_network("net", "overlay", subnets=["10.9.0.0/30"])
        with pytest.raises(AlreadyExists):
            two.create_network("net", "overlay")
        two.network("net").create_endpoint("a")
        with pytest.raises(Exhausted):
            one.network("net").create_endpoint("b")
        with pytest.raises(NotFound):
            one.network("net").endpoint("b")
