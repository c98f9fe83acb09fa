"""Rows that lead to endpoints which have gone while nobody looked: found at first sight, told by doctor, healed."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import pytest

from libcnm.controller.controller import Controller
from libcnm.controller.endpoint import Endpoint
from libcnm.kernel.resources import Fdb, Neighbour
from libcnm.testing.world import FakeWorld, follow


@attrs.define
class Scene:
    """Host one has ``near`` in an overlay network and knows of ``far`` and ``gone`` on host two."""

    world: FakeWorld
    one: Controller
    two: Controller
    far: Endpoint
    gone: Endpoint

    def peers(self) -> set[str]:
        """The addresses and MACs of peers in the kernel of host one."""
        kernel, deadline = self.world.host("one").kernel, self.world.clock.deadline(10.0)
        network = self.one.network("net")
        found = [one.resource for one in kernel.read({f"1-{network.id[:10]}"}, deadline=deadline)]
        return {str(one.address) if isinstance(one, Neighbour) else one.mac for one in found
                if isinstance(one, Neighbour | Fdb)}  # fmt: skip

    def rows_of(self, *endpoints: Endpoint) -> set[str]:
        return {text for one in endpoints for text in (str(one.addresses[0].ip), one.mac)}


@pytest.fixture
def scene() -> Iterator[Scene]:
    with FakeWorld(("one", "two")) as world:
        one, two = world.host("one").controller(), world.host("two").controller()
        with two:
            network = one.create_network("net", "overlay")
            far, gone = two.network("net").create_endpoint("far"), two.network("net").create_endpoint("gone")
            far.join(two.create_sandbox("c2"))
            gone.join(two.create_sandbox("c3"))
            network.create_endpoint("near").join(one.create_sandbox("c1"))
            found = Scene(world, one, two, far, gone)
            assert found.rows_of(far, gone) == found.peers()
            yield found


@pytest.mark.parametrize("deleted", [False, True])
def test_a_successor_removes_what_its_predecessor_has_left(scene: Scene, deleted: bool) -> None:
    """An endpoint left, or was deleted, after the one died and before the other began."""
    scene.one.close()
    scene.gone.delete(force=True) if deleted else scene.gone.leave()
    with scene.world.host("one").controller() as again:
        scene.one = again
        assert scene.rows_of(scene.far, scene.gone) == scene.peers()
        follow(again)
        assert scene.rows_of(scene.far) == scene.peers()
        assert [] == again.doctor()


def test_without_the_store_nothing_is_removed(scene: Scene) -> None:
    """Whose a row is may be written there; afterwards it is removed."""
    scene.one.close()
    scene.gone.leave()
    cluster = scene.world.cluster.connect()
    with scene.world.host("one").controller(
        doors=attrs.evolve(scene.world.host("one").doors(), cluster=cluster)
    ) as again:
        scene.one = again
        networks = scene.rows_of(scene.far, scene.gone)
        cluster.reachable = False
        follow(again)
        cluster.reachable = True
        assert networks == scene.peers()
        follow(again)
        assert scene.rows_of(scene.far) == scene.peers()


def test_doctor_tells_of_them_and_heal_removes_them(scene: Scene) -> None:
    """Also where nobody follows."""
    scene.one.close()
    scene.gone.leave()
    with scene.world.host("one").controller(resident="off") as again:
        scene.one = again
        expected = sorted(["leftover: fdb", "leftover: neighbour"])
        assert expected == sorted(" ".join(str(row).split()[:2]) for row in again.doctor())
        assert expected == sorted(" ".join(str(row).split()[:2]) for row in again.heal())
        assert scene.rows_of(scene.far) == scene.peers()
        assert [] == again.doctor()
