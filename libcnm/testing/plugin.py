"""The pytest plugin for those who build on libcnm: fixtures, loaded by pytest itself once libcnm is installed.

    def test_my_runtime(cnm_controller, cnm_no_leaks):
        network = cnm_controller.create_network("blue")
        ...

``cnm_world`` makes worlds of fake hosts, ``cnm_controller`` is a controller on one, ``cnm_lab`` is two real hosts in
namespaces, ``cnm_no_leaks`` fails a test that leaves something behind. Loading the plugin imports nothing else of
libcnm: a test run that uses no fixture pays for none.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from libcnm.controller.controller import Controller
    from libcnm.kv.memory import Profile
    from libcnm.lab import Lab
    from libcnm.testing.snapshot import Difference, Snapshot
    from libcnm.testing.world import FakeWorld

WATCHED: Final = ("/run/libcnm*/**", "/run/netns/**", "/var/lib/libcnm*/**")
_PATIENCE: Final = 5.0
"""Seconds for detached processes (a resident) to notice that their work is over."""


@pytest.fixture
def cnm_world() -> Iterator[Callable[..., FakeWorld]]:
    """``cnm_world(hosts=("host-1",), seed=0, profile=PLAIN)``: a :class:`~libcnm.testing.world.FakeWorld`.

    Hosts with fake kernels and stores in memory, without root; the world's files go when the test ends. The same seed
    makes the same world. ``profile``: ``CONSUL_LIKE`` or ``ETCD_LIKE`` of :mod:`libcnm.kv.memory`, for a store that
    behaves as those do. Under Hypothesis' ``@given`` a fixture serves all examples of a test: take
    ``with FakeWorld() as world:`` inside it instead.
    """
    from libcnm.kv.memory import PLAIN
    from libcnm.testing.world import FakeWorld

    with ExitStack() as stack:

        def make(hosts: Sequence[str] = ("host-1",), *, seed: int = 0, profile: Profile = PLAIN) -> FakeWorld:
            return stack.enter_context(FakeWorld(hosts, seed=seed, profile=profile))

        yield make


@pytest.fixture
def cnm_controller(cnm_world: Callable[..., FakeWorld]) -> Iterator[Controller]:
    """A :class:`libcnm.Controller` on a fake host, with a cluster store: everything but real packets, in no time."""
    with cnm_world().host().controller() as controller:
        yield controller


@pytest.fixture
def cnm_lab() -> Iterator[Lab]:
    """A :class:`libcnm.lab.Lab` of two hosts on the real kernel; skipped, with the reason, where that is impossible.

    For an ordinary user it is possible once the session has called :func:`libcnm.lab.ensure_privileges`, which must be
    before any thread is started: in ``pytest_configure`` of ``conftest.py``.
    """
    from libcnm.errors import KernelError, NotSupported
    from libcnm.lab import Lab

    with ExitStack() as stack:
        try:
            lab = stack.enter_context(Lab())
        except (NotSupported, KernelError) as error:
            pytest.skip(f"no namespaces here: {error}")
        yield lab


@pytest.fixture
def cnm_no_leaks() -> Iterator[None]:
    """Fails a test after which there are other links, namespaces, mounts, processes, threads, open files or nft tables
    than before it, and shows the difference.
    """
    from libcnm.testing.snapshot import Snapshot

    before = Snapshot.take(WATCHED)
    yield
    left = _left_behind(before)
    if left:
        pytest.fail(f"the test has left behind:\n{left}", pytrace=False)


def _left_behind(before: Snapshot) -> Difference:
    from libcnm.testing.snapshot import Snapshot, difference

    until = time.monotonic() + _PATIENCE
    while True:
        gc.collect()  # what only garbage holds open is no leak
        left = difference(before, Snapshot.take(WATCHED))
        if not left or time.monotonic() > until:
            return left
        threading.Event().wait(0.05)
