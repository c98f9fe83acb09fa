"""Verbs killed and paused at every one of their effects, on the real kernel, each in a real process of its own."""

from __future__ import annotations

import errno
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest

from libcnm import CnmError, Controller
from libcnm.controller.controller import Controller as RealController
from libcnm.kernel.resources import Sysctl

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.timeout(180)]

WORKER = str(Path(__file__).with_name("verb_worker.py"))
VERBS = (
    "create_network",
    "delete_network",
    "create_sandbox",
    "delete_sandbox",
    "create_endpoint",
    "join",
    "leave",
)


def start(order: dict[str, Any]) -> subprocess.Popen[bytes]:
    """A worker with that order."""
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, WORKER, json.dumps(order)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root
    )


class Child:
    """A worker that was forked off this process, which has imported all that it needs: a tenth of a second instead of
    a third, some two hundred times. For tests whose own controllers are closed.
    """

    def __init__(self, order: dict[str, Any]) -> None:
        assert 1 == threading.active_count(), "only the thread that forks would be in the child"
        self.returncode = 0
        self._out, out = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            _work(order, out)
        os.close(out)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float) -> tuple[bytes, None]:
        with open(self._out, "rb") as out:
            said = out.read()  # pytest has a time limit of its own
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return said, None


def _work(order: dict[str, Any], out: int) -> NoReturn:
    status = 1
    try:
        worker = runpy.run_path(WORKER)
        with open(out, "w", encoding="utf-8") as stream:
            worker["work"](order, stream)
        status = 0
    except BaseException:  # noqa: BLE001 - whoever waits for the child sees what it was
        traceback.print_exc()
    finally:
        os._exit(status)  # nothing of pytest's ends twice


def ended(worker: subprocess.Popen[bytes] | Child) -> dict[str, Any]:
    """How a worker says that it ended."""
    out, _ = worker.communicate(timeout=60)
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def prepare(cnm: Controller, verb: str) -> None:
    """What must be there before the verb."""
    needs = {
        "delete_network": ("net",),
        "create_endpoint": ("net",),
        "delete_sandbox": ("net", "web", "c1", "joined"),
        "join": ("net", "web", "c1"),
        "leave": ("net", "web", "c1", "joined"),
    }.get(verb, ())
    if "net" in needs:
        cnm.create_network("net", subnets=["10.88.0.0/24"])
    if "web" in needs:
        cnm.network("net").create_endpoint("web", ports=["8080:80"])
    if "c1" in needs:
        cnm.create_sandbox("c1")
    if "joined" in needs:
        cnm.network("net").endpoint("web").join(cnm.sandbox("c1"))


def clear(cnm: Controller) -> None:
    """Delete everything, and see that nothing of ours is left."""
    for sandbox in cnm.sandboxes():
        sandbox.delete()
    for network in cnm.networks():
        network.delete(force=True)
    context = cnm._calls.context
    context.doors.kernel.sweep()
    left = context.doors.kernel.read({""}, deadline=context.doors.clock.deadline(5))
    assert [] == [one.resource for one in left if one.ours and not isinstance(one.resource, Sysctl)]


def settled(open_controller: Callable[..., RealController], where: str) -> RealController:
    """A new controller: no intent is left, nothing is missing, nothing is left over."""
    cnm = open_controller(resident="off")
    context = cnm._calls.context
    assert [] == context.local.intents(context.doors.clock.deadline(5)), where
    assert [] == [str(row) for row in cnm.doctor()], where
    return cnm


def points_of(open_controller: Callable[..., RealController], installation: dict[str, Any], verb: str) -> list[str]:
    """The effects of a verb, by doing it once."""
    cnm = open_controller(resident="off")
    prepare(cnm, verb)
    cnm.close()
    found = ended(Child({"installation": installation, "verb": verb}))
    assert found["done"], found
    cnm = open_controller(resident="off")
    clear(cnm)
    cnm.close()
    points: list[str] = found["points"]
    return points


@pytest.mark.parametrize("verb", VERBS)
def test_killed_at_any_effect(
    verb: str, open_controller: Callable[..., RealController], installation: dict[str, Any], stride: int
) -> None:
    """kill -9 at every effect: the next controller finds or makes everything consistent, and the verb can be done."""
    points = points_of(open_controller, installation, verb)
    for number, point in list(enumerate(points))[::stride]:
        where = f"{verb} killed at {number} ({point})"
        cnm = open_controller(resident="off")
        prepare(cnm, verb)
        cnm.close()
        worker = Child({"installation": installation, "verb": verb, "stop_at": number})
        worker.communicate(timeout=60)
        assert -signal.SIGKILL == worker.returncode, where
        cnm = settled(open_controller, where)
        clear(cnm)
        cnm.close()


@pytest.mark.parametrize("verb", ["create_network", "create_sandbox", "join", "leave"])
def test_paused_at_any_effect_while_another_works(
    verb: str, open_controller: Callable[..., RealController], installation: dict[str, Any], stride: int
) -> None:
    """SIGSTOP at an effect: another process starts, reconciles, and is refused or served; then the first one ends
    well.
    """
    points = points_of(open_controller, installation, verb)
    for number in range(0, len(points), 2 * stride):  # before each effect: after one is before the next
        where = f"{verb} paused at {number} ({points[number]})"
        cnm = open_controller(resident="off")
        prepare(cnm, verb)
        cnm.close()
        worker = Child({"installation": installation, "verb": verb, "stop_at": number, "signal": "STOP"})
        os.waitpid(worker.pid, os.WUNTRACED)
        other = open_controller(resident="off", timeout=0.5)
        other.heal()
        outcome = ""
        try:
            _conflicting(other, verb)
        except CnmError as error:
            outcome = error.code
        other.close()
        worker.send_signal(signal.SIGCONT)
        first = ended(worker)
        assert first["done"] or first["code"] in ("not-found", "conflict", "already-exists", "forbidden"), (
            where,
            first,
        )
        assert first["done"] or not outcome, (where, first, outcome)
        cnm = settled(open_controller, where)
        clear(cnm)
        cnm.close()


def _conflicting(cnm: Controller, verb: str) -> None:
    if verb == "create_network":
        cnm.create_network("net", subnets=["10.88.0.0/24"])
    elif verb == "create_sandbox":
        cnm.create_sandbox("c1")
    else:
        cnm.network("net").endpoint("web").join(cnm.sandbox("c1"))


def test_two_processes_want_one_name(
    open_controller: Callable[..., RealController], installation: dict[str, Any]
) -> None:
    """Two processes create the same network at once: one has it, the other is told who has."""
    open_controller(resident="off")
    workers = [start({"installation": installation, "verb": "create_network", "wait": True}) for _ in range(2)]
    endings = _released(workers)
    assert [False, True] == sorted(one["done"] for one in endings)
    assert ["already-exists"] == [one["code"] for one in endings if not one["done"]]


@pytest.mark.parametrize("verb", ["create_network", "create_sandbox", "join", "leave"])
def test_two_processes_ask_for_one_thing(
    verb: str, open_controller: Callable[..., RealController], installation: dict[str, Any]
) -> None:
    """With one request id, at once: it is done once, and both say that it was."""
    cnm = open_controller(resident="off")
    prepare(cnm, verb)
    order = {"installation": installation, "verb": verb, "wait": True, "request": "r1"}
    assert [True, True] == [one["done"] for one in _released([start(order), start(order)])]
    assert [] == [str(row) for row in cnm.doctor()]


@pytest.mark.parametrize("verb", ["create_network", "create_sandbox", "join", "leave"])
def test_a_killed_request_is_done_by_its_retry(
    verb: str, open_controller: Callable[..., RealController], installation: dict[str, Any], stride: int
) -> None:
    """kill -9 at every third effect: whoever asks with the same id has it done, and twice is once."""
    points = points_of(open_controller, installation, verb)
    for number in range(0, len(points), 3 * stride):
        where = f"{verb} killed at {number} ({points[number]})"
        cnm = open_controller(resident="off")
        prepare(cnm, verb)
        cnm.close()
        request = {"installation": installation, "verb": verb, "request": f"r{number}"}
        worker = Child({**request, "stop_at": number})
        worker.communicate(timeout=60)
        assert -signal.SIGKILL == worker.returncode, where
        for _ in range(2):
            assert ended(Child(request))["done"], where
        cnm = settled(open_controller, where)
        clear(cnm)
        cnm.close()


# -- a sandbox that is recorded, and whose namespace is still to be made ----------------------------------------------


def halfway(installation: dict[str, Any], name: str, **more: Any) -> subprocess.Popen[bytes]:
    """A process that creates c1, and has been killed or stopped once c1 was recorded; its namespace is not there."""
    order = {"installation": installation, "verb": "create_sandbox", "stop_at": "note:after", "signal": name, **more}
    worker = start(order)
    if name == "KILL":
        worker.communicate(timeout=60)
        assert -signal.SIGKILL == worker.returncode
    else:
        os.waitpid(worker.pid, os.WUNTRACED)
    return worker


def is_answered(cnm: RealController, container: str) -> bool:
    """Whether somebody answers at the resolver's address in a sandbox."""
    name = os.path.basename(cnm.sandbox(container).path)
    with cnm._calls.context.doors.kernel.open_socket(name, socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(10.0)
        try:
            asking.connect(("127.0.0.11", 53))
            asking.send(b"\x12\x34\x01\0\0\x01" + bytes(6) + b"\3web\0\0\x01\0\x01")
            return asking.recv(512)[:2] == b"\x12\x34"
        except ConnectionRefusedError:
            return False


def sync(cnm: RealController) -> None:
    """Have the resident take in everything."""
    context = cnm._calls.context
    context.follower.announce(context.doors.clock.deadline(10.0))


def test_names_are_served_in_a_sandbox_that_the_resident_had_seen_before_its_namespace(
    open_controller: Callable[..., RealController], installation: dict[str, Any]
) -> None:
    """It looks at the records at any moment; those of a sandbox do not change any more once its namespace is there."""
    cnm = open_controller(resident="thread")
    worker = halfway(installation, "STOP", resident="process")
    sync(cnm)
    worker.send_signal(signal.SIGCONT)
    assert ended(worker)["done"]
    sync(cnm)
    assert is_answered(cnm, "c1")


def test_names_are_served_in_a_sandbox_whose_creator_was_killed(
    open_controller: Callable[..., RealController], installation: dict[str, Any]
) -> None:
    """Whoever makes its namespace later."""
    cnm = open_controller(resident="thread")
    halfway(installation, "KILL")
    sync(cnm)
    other = open_controller(resident="off")
    deadline = time.monotonic() + 10.0
    while not is_answered(other, "c1"):
        assert time.monotonic() < deadline, "nobody answers"
        threading.Event().wait(0.01)


def test_a_program_waits_for_the_namespace_that_another_process_is_making(
    open_controller: Callable[..., RealController], installation: dict[str, Any]
) -> None:
    """And an endpoint joins one whose creator was killed, without anybody having recovered."""
    cnm = open_controller(resident="off")
    worker = halfway(installation, "STOP")
    argv = [sys.executable, "-c", "import socket; print(socket.if_nameindex())"]
    with ThreadPoolExecutor() as pool:
        running = pool.submit(cnm.sandbox("c1").run, argv, capture_output=True, text=True, check=True)
        worker.send_signal(signal.SIGCONT)
        assert "[(1, 'lo')]\n" == running.result(30).stdout
    assert ended(worker)["done"]
    cnm.sandbox("c1").delete()
    web = cnm.create_network("net", subnets=["10.88.0.0/24"]).create_endpoint("web")
    halfway(installation, "KILL")
    web.join(cnm.sandbox("c1"))
    assert [] == [str(row) for row in cnm.doctor()]


REFUSED = """
import json, os, sys
from libcnm import CnmError, Controller
state, run = sys.argv[1:]
cnm = Controller(state_dir=state, run_dir=run, resident="off")
with open("/proc/sys/user/max_net_namespaces", "w") as limit:  # this user namespace's own
    limit.write("1")
code = ""
try:
    cnm.create_sandbox("c1", request_id="r1")
except CnmError as error:
    code = f"{error.code} {error.errno}"
left = [*map(str, [*cnm.sandboxes(), *cnm.doctor()]), *os.listdir(f"{run}/sandboxes"), *os.listdir(f"{run}/locks")]
with open("/proc/sys/user/max_net_namespaces", "w") as limit:
    limit.write("10")
with cnm.create_sandbox("c1", request_id="r1") as c1:
    print(json.dumps([code, left, sorted(c1.statistics())]))
cnm.close()
"""


def test_a_namespace_that_the_kernel_refuses_leaves_nothing(tmp_path: Path) -> None:
    """No more of them are allowed: the record that was there first is taken back, and so is the request's note."""
    argv = ["unshare", "--user", "--map-root-user", "--net", "--mount", sys.executable, "-c", REFUSED]
    done = subprocess.run(
        [*argv, str(tmp_path / "state"), str(tmp_path / "run")], capture_output=True, text=True, check=False, timeout=60
    )
    assert 0 == done.returncode, done.stderr
    assert [f"kernel-error {errno.ENOSPC}", [], ["lo"]] == json.loads(done.stdout)


def test_processes_race_for_the_last_address(
    open_controller: Callable[..., RealController], installation: dict[str, Any]
) -> None:
    """Three processes, one address left: one has it, the others are told that there is none."""
    cnm = open_controller(resident="off")
    cnm.create_network("net", subnets=["10.88.0.0/30"])
    order = {"installation": installation, "verb": "create_endpoint", "wait": True}
    endings = _released([start({**order, "argument": f"e{number}"}) for number in range(3)])
    assert [False, False, True] == sorted(one["done"] for one in endings)
    assert ["exhausted", "exhausted"] == [one["code"] for one in endings if not one["done"]]


def _released(workers: list[subprocess.Popen[bytes]]) -> list[dict[str, Any]]:
    for worker in workers:
        assert worker.stdout is not None
        assert b"waiting\n" == worker.stdout.readline()
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(b"\n")
        worker.stdin.flush()
    return [ended(worker) for worker in workers]


@pytest.mark.skipif(shutil.which("strace") is None, reason="no `strace` on this machine (Debian package strace)")
@pytest.mark.parametrize("verb", ["create_sandbox", "create_endpoint", "join", "leave", "delete_sandbox"])
def test_the_effects_of_a_verb_are_those_that_strace_sees(
    verb: str,
    open_controller: Callable[..., RealController],
    installation: dict[str, Any],
    effects_in: Callable[[Path], dict[str, int]],
    tmp_path: Path,
) -> None:
    """No crash point hides: sends, namespaces, sysctls and syncs of the verb are as many as its doors announced."""
    prepare(open_controller(resident="off"), verb)
    trace, root = tmp_path / "trace", Path(__file__).parents[2]
    order = {"installation": installation, "verb": verb, "wait": True}
    calls = "trace=sendmsg,sendto,unshare,mount,umount2,openat,fdatasync,fsync"
    worker = subprocess.Popen(
        ["strace", "-f", "-qq", "-s", "4096", "-o", str(trace), "-e", calls, sys.executable, WORKER, json.dumps(order)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=root,
    )
    assert worker.stdout is not None
    assert b"waiting\n" == worker.stdout.readline()
    before = effects_in(trace)
    assert worker.stdin is not None
    worker.stdin.write(b"\n")
    worker.stdin.flush()
    ending = json.loads(worker.stdout.readline())
    after = effects_in(trace)
    worker.communicate(b"\n", timeout=60)
    assert ending["done"], ending
    told = [point.removesuffix(":before") for point in ending["points"] if point.endswith(":before")]
    seen = {name: after[name] - before[name] for name in after}
    made = told.count("namespace:make")  # each begins with two sysctls and lo up, before anybody can see it
    expected = {
        "send": sum(name.startswith("send:") or name in ("sweep", "nft") for name in told) + made,
        "make": made,
        "pin": told.count("namespace:pin"),
        "unpin": told.count("namespace:unpin"),
        "sysctl": sum(name.startswith("sysctl:") for name in told) + 2 * made,
    }
    # One more when it is the first commit of a new write-ahead log, whose header is synced by itself.
    assert seen.pop("sync") - told.count("commit") in (0, 1)
    assert expected == seen
