"""The resident killed, stopped and missed: who needs it has it back, and whoever must not wait does not."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from libcnm import Controller, Sandbox
from libcnm.controller.context import Context
from libcnm.controller.controller import Controller as RealController
from libcnm.controller.resident import LOCK, Resident
from libcnm.controller.resident_link import ProcessLink, ThreadLink
from libcnm.controller.resident_start import STARTING, connect, stop_resident
from libcnm.errors import DeadlineExceeded, Unavailable
from libcnm.lab import Host, Lab
from libcnm.model import limits

pytestmark = pytest.mark.kernel

PATIENCE = 15.0
Open = Callable[..., RealController]


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for it, as long as a start may take on a busy machine."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        threading.Event().wait(0.005)


def socket_of(cnm: Controller) -> str:
    return cnm._calls.context.settings.paths.socket


def pid_of(cnm: Controller) -> int | None:
    """The resident's process id, from itself; None when nobody answers."""
    connection = connect(socket_of(cnm))
    if connection is None:
        return None
    with connection:
        connection.settimeout(PATIENCE)
        try:
            connection.sendall(b'{"op":"statistics"}\n')
            reply = connection.recv(4096)
        except OSError:
            return None
    return int(json.loads(reply)["pid"]) if reply else None


def one_of(cnm: Controller) -> int:
    """The same, of one that is there or on its way."""
    until(lambda: pid_of(cnm) is not None, "there is no resident")
    found = pid_of(cnm)
    assert found is not None
    return found


def end(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to that process, and wait for its end."""
    descriptor = os.pidfd_open(pid)
    try:
        os.kill(pid, number)
        assert select.select([descriptor], [], [], PATIENCE)[0], f"process {pid} does not end"
    finally:
        os.close(descriptor)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """As a debugger, or a frozen cgroup, does it."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def addresses(cnm: Controller, sandbox: Sandbox, name: str) -> int:
    """How many the sandbox's resolver has for a name; -1 when there is no such name, -2 when nobody answers."""
    kernel = cnm._calls.context.doors.kernel
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    with kernel.open_socket(os.path.basename(sandbox.path), socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(0.5)
        try:
            asking.connect(("127.0.0.11", 53))
            asking.send(b"\x12\x34\x01\0\0\x01" + bytes(6) + labels + b"\0\0\x01\0\x01")
            reply = asking.recv(512)
        except OSError:
            return -2
    return -1 if reply[3] & 15 == 3 else reply[7]


def attached(cnm: Controller, container: str = "c1", name: str = "web") -> Sandbox:
    """A sandbox with an endpoint of network blue."""
    known = [one for one in cnm.networks() if one.name == "blue"]
    blue = known[0] if known else cnm.create_network("blue", subnets=["10.88.0.0/24"])
    sandbox = cnm.create_sandbox(container)
    blue.create_endpoint(name).join(sandbox)
    return sandbox


def keepers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "libcnm-keeper"]


def rows(cnm: Controller) -> list[str]:
    return [str(row) for row in cnm.doctor()]


# -- who starts it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_one_that_was_killed_is_replaced_while_a_controller_is_open(cnm: Controller, number: int) -> None:
    """No verb comes, and names answer again."""
    sandbox = attached(cnm)
    pid = one_of(cnm)
    end(pid, number)
    until(lambda: addresses(cnm, sandbox, "web") == 1, "names do not answer")
    assert pid != one_of(cnm)
    assert [] == rows(cnm)


def test_opening_a_controller_starts_it_for_the_sandboxes_that_are_there(open_controller: Open) -> None:
    """The one who made them has gone, and then the resident was killed."""
    first = open_controller()
    sandbox = attached(first)
    first.close()
    end(one_of(first))
    off = open_controller(resident="off")
    assert [] == rows(off)  # who asks for no resident misses none
    assert None is pid_of(off)
    second = open_controller()
    until(lambda: addresses(off, sandbox, "web") == 1, "names do not answer")
    assert [] == rows(second)


def test_one_that_only_comes_by_starts_it_too(open_controller: Open) -> None:
    """A command line that opens and closes: whoever has found it missing has started it when it is closed."""
    first = open_controller()
    attached(first)
    first.close()
    end(one_of(first))
    open_controller().close()
    one_of(first)


def test_where_there_is_no_sandbox_nobody_starts_anything(open_controller: Open) -> None:
    """No process, no connection, no thread."""
    before = keepers()
    cnm = open_controller()
    cnm.create_network("blue")
    cnm.networks()
    assert [] == rows(cnm)
    assert [] == cnm.heal()
    assert (False, before) == (os.path.exists(socket_of(cnm)), keepers())


def test_a_sandbox_starts_it_before_anything_is_joined(cnm: Controller) -> None:
    """And once more, when it was asked to end in between."""
    cnm.create_sandbox("c1")
    pid = one_of(cnm)
    context = cnm._calls.context
    assert stop_resident(context, context.doors.clock.deadline(PATIENCE))
    until(lambda: not os.path.exists(socket_of(cnm)), "it does not end")
    cnm.create_sandbox("c2")
    until(lambda: pid_of(cnm) not in (None, pid), "nobody starts another")


def test_what_is_told_to_one_that_was_killed_is_not_lost(cnm: Controller) -> None:
    """Between two verbs: whoever replaces it knows what each of them did, and is there without another verb."""
    first, second = attached(cnm), attached(cnm, "c2", "db")
    endpoint = cnm.network("blue").endpoint("db")
    for number in range(4):
        pid = one_of(cnm)
        os.kill(pid, signal.SIGKILL)  # and no waiting: it may or may not be dead when it is told
        if number % 2:
            endpoint.join(second)
        else:
            endpoint.leave()
        expected = 1 if number % 2 else -1
        until(lambda: addresses(cnm, first, "db.blue") == expected, f"round {number}")  # noqa: B023  # called at once


# -- doctor and heal -------------------------------------------------------------------------------------------------


def test_doctor_misses_one_that_was_asked_to_end_and_heal_starts_it(cnm: Controller) -> None:
    """A row of its own; nobody starts another behind the back of whoever has stopped it."""
    sandbox = attached(cnm)
    context = cnm._calls.context
    assert stop_resident(context, context.doors.clock.deadline(PATIENCE))
    until(lambda: not os.path.exists(socket_of(cnm)) and not keepers(), "it does not end")
    expected = [f"missing: resident host {cnm.id[:12]}"]
    assert expected == rows(cnm)
    assert None is pid_of(cnm)
    assert expected == [str(row) for row in cnm.heal()]
    assert 1 == addresses(cnm, sandbox, "web")
    assert [] == rows(cnm)


def test_doctor_says_that_one_does_not_follow(cnm: Controller) -> None:
    """It is there, but stopped: names are as they were, which is not as it should be, and heal cannot help that."""
    attached(cnm)
    with stopped(one_of(cnm)):
        [row] = rows(cnm)
        assert row.startswith(f"different: resident host {cnm.id[:12]}")
        assert [] == cnm.heal()
    assert [] == rows(cnm)


def test_one_that_cannot_start_is_said_to_be_missing(cnm: Controller) -> None:
    """Whatever keeps it from starting: verbs say so, and once that has gone it is back."""
    attached(cnm)
    pid = one_of(cnm)
    locks, clock = cnm._calls.context.doors.locks, cnm._calls.context.doors.clock
    end_it = threading.Thread(target=end, args=(pid,))
    end_it.start()
    with locks.acquire(LOCK, deadline=clock.deadline(PATIENCE)):  # before its successor has it
        end_it.join()
        with pytest.raises(Unavailable, match="ended before it was ready"):
            attached(cnm, "c2", "db")
        assert [f"missing: resident host {cnm.id[:12]}"] == rows(cnm)
    cnm.heal()
    assert [] == rows(cnm)


def test_names_are_served_in_a_namespace_that_was_made_anew(open_controller: Open) -> None:
    """Somebody removed it, another process made it again, and the resident looks at everything."""
    cnm = open_controller(resident="thread")
    sandbox = attached(cnm)
    until(lambda: addresses(cnm, sandbox, "web") == 1, "names do not answer")
    subprocess.run(["umount", "--lazy", sandbox.path], check=True)
    other = open_controller(resident="off")
    other.heal()
    link = cnm._link
    assert isinstance(link, ThreadLink)
    link._resident.healer.look()
    until(lambda: addresses(other, sandbox, "web") == 1, "names do not answer")


# -- side by side ----------------------------------------------------------------------------------------------------


def test_of_many_who_miss_it_one_starts_another(open_controller: Open) -> None:
    """All of them are connected to the same one afterwards; nobody has started a second."""
    first = open_controller()
    attached(first)
    others = [open_controller() for _ in range(5)]
    started: list[str] = []
    for one in (first, *others):
        one._calls.context.doors.kernel.on_effect = lambda name, when: (
            started.append(name) if (name, when) == ("spawn", "before") else None
        )
    end(one_of(first))
    until(lambda: all(one._link.attendance(_soon(one)) == "present" for one in (first, *others)), "not all have it")
    assert ["spawn"] == started


def _soon(cnm: RealController) -> Any:
    return cnm._calls.context.doors.clock.deadline(PATIENCE)


def test_closing_does_not_wait_for_one_that_is_being_started(open_controller: Open) -> None:
    """It is started all the same, and nothing of ours is left behind."""
    before = keepers()
    cnm = open_controller()
    cnm.create_sandbox("c1")
    cnm.close()
    assert before == keepers()
    one_of(cnm)


def test_whoever_must_not_wait_does_not_wait_for_one_that_is_stopped(open_controller: Open) -> None:
    """Opening, creating a sandbox, closing; also while as many others as it can hold wait for it to take them."""
    first = open_controller()
    attached(first)
    with stopped(one_of(first)):
        began = time.monotonic()
        waiting: list[socket.socket] = []
        until(lambda: not _one_more(first, waiting), "it takes them all")
        second = open_controller()
        second.create_sandbox("c2")
        first.create_sandbox("c3")
        second.close()
        assert time.monotonic() - began < first._calls.context.settings.timeout / 2
        for one in waiting:
            one.close()
    until(lambda: rows(first) == [], "it does not recover")


def _one_more(cnm: RealController, waiting: list[socket.socket]) -> bool:
    try:
        found = connect(socket_of(cnm), 0)
    except Unavailable:
        return False
    assert found is not None
    waiting.append(found)
    return True


def test_one_that_has_no_sandbox_left_looks_once_more(open_controller: Open, tmp_path: Path) -> None:
    """A sandbox that is made at the very moment of its end is served; one that was asked to end does not come back."""
    cnm = open_controller(resident="off")
    context = Context(cnm._calls.context.settings, cnm._calls.context.doors, cnm._calls.context.registry)
    resident = Resident(context, linger=0.0)
    resident.serve()
    assert not resident.is_needed_again()
    cnm.create_sandbox("c1")
    assert resident.is_needed_again()
    resident.stop()
    assert not resident.is_needed_again()
    assert not os.path.exists(socket_of(cnm))


def test_the_lock_of_starting_is_free_when_it_answers(cnm: Controller) -> None:
    """And the file of it goes like those of other locks."""
    cnm.create_sandbox("c1")
    one_of(cnm)
    context = cnm._calls.context
    context.doors.locks.acquire(STARTING, deadline=context.doors.clock.deadline(PATIENCE)).release()


# -- many hosts ------------------------------------------------------------------------------------------------------


def test_peers_follow_again_on_a_host_whose_resident_was_killed() -> None:
    """Endpoints come and go elsewhere meanwhile: the host's rows and names are what the cluster says, untouched."""
    with Lab() as lab:
        one, two = lab.hosts
        here, there = one.controller(), two.controller()
        network = here.create_network("multihost", "overlay", subnets=["10.0.9.0/24"])
        gone = network.create_endpoint("gone")
        gone.join(here.create_sandbox("c1"))
        there.network("multihost").create_endpoint("stays").join(there.create_sandbox("c2"))
        c2 = there.sandbox("c2")
        until(lambda: addresses(there, c2, "gone") == 1, "the peer is not known")
        end(one_of(there))
        gone.leave()
        network.create_endpoint("new").join(here.create_sandbox("c3"))
        overlay = f"1-{network.id[:10]}"
        new = str(network.endpoint("new").addresses[0].ip)
        until(lambda: (addresses(there, c2, "gone.multihost"), addresses(there, c2, "new")) == (-1, 1), "names")
        old = str(gone.addresses[0].ip)

        def peers() -> tuple[bool, bool]:
            listed = two.inside(overlay, ["ip", "neigh", "show"]).stdout
            return new in listed, old in listed

        until(lambda: peers() == (True, False), "peers")
        until(lambda: rows(there) == [], "doctor")


def test_the_command_line_starts_it() -> None:
    """``cnm doctor --heal`` on a host whose resident was killed, and nobody's controller is open."""
    with Lab(hosts=1) as lab:
        [host] = lab.hosts
        cnm = host.controller()
        attached(cnm)
        cnm.close()
        pid = one_of(cnm)
        end(pid)
        host.cnm("doctor", "--heal", check=True)
        assert _another(host, cnm, pid)
        assert 0 == host.cnm("doctor").returncode


def _another(host: Host, cnm: Controller, pid: int) -> bool:
    return host.name == cnm.host and one_of(cnm) != pid


def told(number: int) -> dict[str, None]:
    """What a verb tells of, as long as it is: two keys of the host's own store."""
    named = (f"endpoint/{number:064x}/{number:064x}", f"attached/{number:064x}/local/{number:064x}/{number:064x}")
    return dict.fromkeys(named)


def test_many_notes_that_wait_are_all_taken(open_controller: Open) -> None:
    """A resident that was busy finds more at once than one request may hold: whoever sent them is not hung up on."""
    cnm = open_controller()
    cnm.create_sandbox("c1")
    connection = connect(socket_of(cnm)) if one_of(cnm) else None
    assert connection is not None
    with connection:
        with stopped(one_of(cnm)):
            for number in range(40):
                connection.sendall(json.dumps({"op": "told", "changed": told(number)}).encode() + b"\n")
            connection.sendall(b'{"op":"sync"}\n')
        connection.settimeout(PATIENCE)
        assert b'{"ok":true}\n' == connection.recv(4096)


def test_telling_one_that_takes_nothing_ends_in_time(open_controller: Open) -> None:
    """It is stopped and its socket full: the verb's deadline counts, and what was half sent garbles nothing later."""
    cnm = open_controller()
    box = cnm.create_sandbox("c1")
    cnm.create_network("blue").create_endpoint("a").join(box)
    clock, link = cnm._calls.context.doors.clock, cnm._link
    began = time.monotonic()

    def tell_on() -> None:
        for number in range(10_000):
            link.tell(box.id, told(number), clock.deadline(0.5))

    with stopped(one_of(cnm)), pytest.raises(DeadlineExceeded):
        tell_on()
    assert time.monotonic() - began < cnm._calls.context.settings.timeout / 2
    link.announce(clock.deadline(PATIENCE))
    assert 1 == addresses(cnm, box, "a")


def test_a_link_does_not_grow_with_the_sandboxes_that_there_were(open_controller: Open) -> None:
    """While one is always there, so that the resident never goes; the next ones are introduced as ever."""
    cnm = open_controller()
    box = cnm.create_sandbox("c1")
    endpoint = cnm.create_network("blue").create_endpoint("a").join(box)
    link = cnm._link
    assert isinstance(link, ProcessLink)
    link._introduced.update(f"{number:064x}" for number in range(2 * limits.DECODED_RECORDS))
    with cnm.create_sandbox("c2") as other:
        endpoint.leave()
        endpoint.join(other)
        assert 1 == addresses(cnm, other, "a")
    assert len(link._introduced) < limits.DECODED_RECORDS
