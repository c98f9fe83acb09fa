"""What many unit tests begin with: a world of two fake hosts, and a controller on the first. A test whose host is more
than that has its own fixture of the same name.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from libcnm.controller.controller import Controller
from libcnm.testing.world import FakeHost, FakeWorld


@pytest.fixture
def world() -> Iterator[FakeWorld]:
    with FakeWorld(("one", "two")) as world:
        yield world


@pytest.fixture
def host(world: FakeWorld) -> FakeHost:
    return world.host("one")


@pytest.fixture
def cnm(host: FakeHost) -> Iterator[Controller]:
    with host.controller() as controller:
        controller.networks()  # registers the host with the cluster
        yield controller


@pytest.fixture
def other(world: FakeWorld) -> Iterator[Controller]:
    with world.host("two").controller() as controller:
        yield controller
