"""The shipped kit, run on the fake kernel and, in a private namespace, on Linux.

Each Linux test gets a host of its own: a fresh network namespace that plays it (``home``), so nothing is left to clean
but pins. The hand is iproute2's and nft's.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from libcnm.kernel.fake import FakeKernel
from libcnm.kernel.linux.kernel import LinuxKernel
from libcnm.kernel.linux.worker import Home
from libcnm.kernel.resources import Namespace
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Change
from libcnm.testing.kernel import FakeHand, Hand, KernelConformance


class TestFakeKernel(KernelConformance):
    """The fake keeps the door's promises."""

    @pytest.fixture
    def kernel(self) -> FakeKernel:
        return FakeKernel()

    @pytest.fixture
    def hand(self, kernel: FakeKernel) -> FakeHand:
        return FakeHand(kernel)


class LinuxHand(Hand):
    """An administrator with a shell in the namespace that plays the host."""

    def __init__(self, kernel: LinuxKernel, home: str) -> None:
        self._kernel = kernel
        self._home = home
        self._sleepers: list[subprocess.Popen[bytes]] = []

    def _run(self, ns: str, command: str) -> None:
        where = self._kernel.namespace_path(ns) if ns else self._home
        subprocess.run(["nsenter", f"--net={where}", *command.split()], check=True, capture_output=True)

    def add_link(self, ns: str, name: str) -> None:
        self._run(ns, f"ip link add {name} address 02:00:00:00:0f:01 up type bridge")

    def delete_link(self, ns: str, name: str) -> None:
        self._run(ns, f"ip link delete {name}")

    def add_address(self, ns: str, link: str, interface: str) -> None:
        self._run(ns, f"ip address add {interface} dev {link}")

    def add_route(self, ns: str, destination: str, link: str) -> None:
        self._run(ns, f"ip route add {destination} dev {link}")

    def add_rule(self, ns: str, priority: int, table: int) -> None:
        self._run(ns, f"ip rule add pref {priority} lookup {table}")

    def add_neighbour(self, ns: str, link: str, neighbour: str, mac: str) -> None:
        self._run(ns, f"ip neigh add {neighbour} lladdr {mac} dev {link} nud permanent")

    def flush_firewall(self, ns: str) -> None:
        self._run(ns, "nft flush ruleset")

    def make_namespace(self) -> str:
        sleeper = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self._sleepers.append(sleeper)
        path = f"/proc/{sleeper.pid}/ns/net"
        mine = os.stat("/proc/self/ns/net").st_ino
        end = time.monotonic() + 10.0
        while os.stat(path).st_ino == mine:
            assert time.monotonic() < end, "unshare did not"
            os.sched_yield()
        return path

    def close(self) -> None:
        for sleeper in self._sleepers:
            sleeper.kill()
            sleeper.wait()


@pytest.mark.kernel
class TestLinuxKernel(KernelConformance):
    """Linux keeps the door's promises."""

    @pytest.fixture
    def home(self) -> Iterator[str]:
        """A namespace that plays the host: ``lo`` is up in it, and there is nothing else."""
        hand = LinuxHand.__new__(LinuxHand)
        hand._sleepers = []
        path = hand.make_namespace()
        try:
            subprocess.run(["nsenter", f"--net={path}", "ip", "link", "set", "lo", "up"], check=True)
            yield path
        finally:
            hand.close()

    @pytest.fixture
    def kernel(self, home: str, tmp_path: Path) -> Iterator[LinuxKernel]:
        kernel = LinuxKernel(tmp_path, home=Home(net=home))
        yield kernel
        kernel.close()
        unpin_all(tmp_path, home)

    @pytest.fixture
    def hand(self, kernel: LinuxKernel, home: str) -> Iterator[LinuxHand]:
        hand = LinuxHand(kernel, home)
        yield hand
        hand.close()


def unpin_all(run_dir: Path, home: str) -> None:
    """Take away what a test has pinned, through a door of its own: the test may have closed the first."""
    kernel = LinuxKernel(run_dir, home=Home(net=home))
    deadline = Deadline.after(30.0, time.monotonic)
    pinned = [one.resource for one in kernel.read({""}, {Namespace}, deadline=deadline)]
    kernel.apply([Change("delete", namespace) for namespace in pinned], deadline=deadline)
    kernel.close()
