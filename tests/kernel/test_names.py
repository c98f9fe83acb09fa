"""Names at the very moment a verb returns: nobody waits for the resident, and no answer is older than the verb."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest

from libcnm import Controller, Sandbox
from libcnm.controller.resident_start import connect

pytestmark = pytest.mark.kernel

NAME_ERROR = 3
ROUNDS = 20


class Asking:
    """A client inside a sandbox, whose socket is open before there is anything to ask for."""

    def __init__(self, cnm: Controller, sandbox: Sandbox) -> None:
        kernel = cnm._calls.context.doors.kernel
        self._socket = kernel.open_socket(os.path.basename(sandbox.path), socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(5.0)
        self._socket.connect(("127.0.0.11", 53))

    def close(self) -> None:
        self._socket.close()

    def __call__(self, name: str) -> int:
        """How many addresses a name has; -1 when the resolver says that there is no such name."""
        labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
        self._socket.send(b"\x12\x34\x01\0\0\x01" + bytes(6) + labels + b"\0\0\x01\0\x01")
        reply = self._socket.recv(512)
        return -1 if reply[3] & 15 == NAME_ERROR else reply[7]


@pytest.fixture
def asking() -> Any:
    opened: list[Asking] = []

    def ask(cnm: Controller, sandbox: Sandbox) -> Asking:
        opened.append(Asking(cnm, sandbox))
        return opened[-1]

    yield ask
    for one in opened:
        one.close()


def resident_of(cnm: Controller) -> int:
    """The resident's process id, from itself."""
    connection = connect(cnm._calls.context.settings.paths.socket)
    assert connection is not None
    with connection:
        connection.sendall(b'{"op":"statistics"}\n')
        pid: int = json.loads(connection.recv(4096))["pid"]
        return pid


def test_a_name_is_answered_as_soon_as_join_has_returned(cnm: Controller, asking: Callable[..., Asking]) -> None:
    """From the joining sandbox and from another one, at once; and no more as soon as leave has."""
    blue = cnm.create_network("blue", subnets=["10.88.0.0/24"])
    observer = cnm.create_sandbox("observer")
    blue.create_endpoint("watch").join(observer)
    look = asking(cnm, observer)
    for number in range(ROUNDS):
        sandbox = cnm.create_sandbox(f"c{number}")
        mine = asking(cnm, sandbox)
        endpoint = blue.create_endpoint(f"e{number}")
        endpoint.join(sandbox)
        assert 1 == mine(f"e{number}")
        assert 1 == look(f"e{number}.blue")
        endpoint.leave()
        assert -1 == look(f"e{number}.blue")


def test_the_first_join_of_all_starts_who_answers(cnm: Controller, asking: Callable[..., Asking]) -> None:
    """There is no resident before it, and one when it returns."""
    blue = cnm.create_network("blue", subnets=["10.88.0.0/24"])
    sandbox = cnm.create_sandbox("c1")
    mine = asking(cnm, sandbox)
    blue.create_endpoint("web").join(sandbox)
    assert 1 == mine("web")


def test_a_join_after_the_resident_was_killed_starts_another(cnm: Controller, asking: Callable[..., Asking]) -> None:
    """What was told to the dead one is known to its successor."""
    blue = cnm.create_network("blue", subnets=["10.88.0.0/24"])
    first, second = cnm.create_sandbox("c1"), cnm.create_sandbox("c2")
    blue.create_endpoint("web").join(first)
    pid = resident_of(cnm)
    descriptor = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    with open(descriptor, "rb"):
        select.select([descriptor], [], [], 10.0)  # readable once it is gone
    blue.create_endpoint("db").join(second)
    assert pid != resident_of(cnm)
    for sandbox in (first, second):
        ask = asking(cnm, sandbox)
        assert (1, 1) == (ask("web"), ask("db"))


def test_a_second_process_need_not_wait_either(
    open_controller: Callable[..., Controller], asking: Callable[..., Asking]
) -> None:
    """One that has not made the sandbox says so once, and waits then; afterwards it only tells."""
    first, second = open_controller(), open_controller()
    blue = first.create_network("blue", subnets=["10.88.0.0/24"])
    sandbox = first.create_sandbox("c1")
    mine = asking(first, sandbox)
    second.network("blue").create_endpoint("web").join(second.sandbox("c1"))
    assert 1 == mine("web")
    second.network("blue").endpoint("web").leave()
    second.network("blue").endpoint("web").join(second.sandbox("c1"))
    assert 1 == mine("web")
    assert 1 == len(blue.endpoints())
