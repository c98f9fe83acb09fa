"""Fixtures of the kernel tier: an installation of its own for each test, on the session's private host."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from libcnm.controller.controller import Controller
from libcnm.controller.resident_start import stop_resident

OpenController = Callable[..., Controller]


@pytest.fixture
def installation(tmp_path: Path) -> dict[str, Any]:
    """Where the test's installation is; for other processes, too."""
    return {"state_dir": str(tmp_path / "state"), "run_dir": str(tmp_path / "run"), "guardian": os.getpid()}


@pytest.fixture
def open_controller(installation: dict[str, Any]) -> Iterator[OpenController]:
    """Open the test's installation, as often as the test likes; in the end everything in it is deleted."""
    opened: list[Controller] = []

    def open_one(**options: Any) -> Controller:
        controller = Controller(**{**installation, **options})
        opened.append(controller)
        return controller

    yield open_one
    last = Controller(**{**installation, "resident": "off"})
    try:
        for sandbox in last.sandboxes():
            sandbox.delete()
        for network in last.networks():
            network.delete(force=True)
        stop_resident(last._calls.context, last._calls.context.doors.clock.deadline(5))
    finally:
        for controller in [*opened, last]:
            controller.close()


@pytest.fixture
def cnm(open_controller: OpenController) -> Controller:
    """A controller on the test's installation."""
    return open_controller()


QUESTIONS = (18, 22, 26, 30, 34, 90)
"""RTM_GETLINK, _GETADDR, _GETROUTE, _GETNEIGH, _GETRULE, _GETNSID."""


@pytest.fixture
def effects_in() -> Callable[[Path], dict[str, int]]:
    """Counts the system calls with an effect in a trace of strace."""
    return count_effects


def count_effects(trace: Path) -> dict[str, int]:
    """Sends that change something, namespaces made, pinned and unpinned, sysctls written, syncs of the disk."""
    seen = {"send": 0, "make": 0, "pin": 0, "unpin": 0, "sysctl": 0, "sync": 0}
    for line in trace.read_text(encoding="utf-8", errors="replace").splitlines():
        seen["send"] += is_effect_send(line)
        seen["make"] += " unshare(CLONE_NEWNET" in line  # without ")": another thread's call may come in between
        seen["pin"] += bool(re.search(r" mount\(\"/proc/thread-self/", line))
        seen["unpin"] += bool(re.search(r" umount2\(\".*/netns/", line))
        seen["sysctl"] += bool(re.search(r'openat\(.*"/proc/sys/net/.*O_WRONLY', line))
        seen["sync"] += bool(re.search(r" f(data)?sync\(", line))
    return seen


def is_effect_send(line: str) -> bool:
    """A send with a netlink message that is no question. strace names types in its own namespace's sockets only."""
    if not re.search(r" send(msg|to)\(", line):
        return False
    shown = re.findall(r"nlmsg_type=(?:0x([0-9a-f]+)|(\w+))", line)
    if shown:
        return any(not name.startswith("RTM_GET") if name else int(number, 16) not in QUESTIONS
                   for number, name in shown)  # fmt: skip
    raw = re.search(r'iov_base="((?:[^"\\]|\\.)*)"', line)
    assert raw is not None, line
    octets: bytes = ast.literal_eval(f'b"{raw.group(1)}"')
    return any(kind not in QUESTIONS for kind in _types(octets))


def _types(octets: bytes) -> Iterator[int]:
    """Those of the netlink messages that follow each other there."""
    while octets:
        yield int.from_bytes(octets[4:6], sys.byteorder)
        octets = octets[int.from_bytes(octets[:4], sys.byteorder) :]
