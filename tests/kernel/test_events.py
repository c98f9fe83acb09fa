"""Events between real processes: one reads them, others do verbs, on SQLite files and the real kernel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from libcnm.lab import Host, Lab
from libcnm.testing.replay import Replay

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

PATIENCE = 30.0


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def run(host: Host, *words: str) -> str:
    done = host.cnm(*words, timeout=PATIENCE)
    assert 0 == done.returncode, (words, done.stderr)
    found: str = done.stdout
    return found


def reading(host: Host, *words: str) -> subprocess.Popen[str]:
    """``cnm events`` in a process of its own."""
    argv = [sys.executable, "-m", "libcnm.cli", "events", *words]
    return host.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_rows(process: subprocess.Popen[str], count: int) -> list[list[str]]:
    assert process.stdout is not None
    return [process.stdout.readline().split() for _ in range(count)]


def test_what_other_processes_do_is_printed_as_it_happens(lab: Lab) -> None:
    """A heading when it listens, then a line for each event; Ctrl-C ends it, quietly, with the status that it has."""
    one, two = lab.hosts
    with reading(one) as process:
        assert [["KIND", "ACTION", "ID", "NAME", "CONTAINER", "HOST", "CURSOR"]] == read_rows(process, 1)
        run(one, "network", "create", "near", "--subnet", "10.88.0.0/24")
        assert [["network", "create", "near"]] == [[*row[:2], row[3]] for row in read_rows(process, 1)]
        run(one, "container", "create", "c1", "--publish-service", "web.near")
        rows = read_rows(process, 3)
        assert [
            ["sandbox", "create", "c1"], ["endpoint", "create", "web.near"], ["endpoint", "connect", "web.near"]
        ] == [[*row[:2], row[3]] for row in rows]  # fmt: skip
        assert ["c1", one.name] == rows[2][4:6]
        run(two, "network", "create", "-d", "overlay", "far")
        assert [["network", "create", "far"]] == [[*row[:2], row[3]] for row in read_rows(process, 1)]
        os.kill(process.pid, signal.SIGINT)
        rest, complaint = process.communicate(timeout=PATIENCE)
        assert (130, "", "") == (process.returncode, rest, complaint.strip())


def test_a_script_goes_on_where_another_process_has_stopped(lab: Lab) -> None:
    """JSON, an object a line; with a cursor, what happened since, by whatever processes; it ends when nothing does."""
    one, two = lab.hosts
    cnm = one.controller(resident="off")
    with cnm.events() as events:
        cursor = events.cursor
    known = Replay.observed(cnm)
    run(one, "network", "create", "near", "--subnet", "10.88.0.0/24")
    for host in lab.hosts:
        with host.controller(resident="off") as each:
            far = each.ensure_network("far", "overlay")
            far.create_endpoint(f"on-{host.name}").join(each.create_sandbox("c1"))
    way_out = f"gateway_{cnm.sandbox('c1').id[:12]}"  # that of the other host is its own affair
    run(two, "container", "rm", "c1", "--keep-services")
    lines = [
        json.loads(line) for line in run(one, "events", "--json", "--since", cursor, "--until-idle", "1").splitlines()
    ]
    told = {(line["kind"], line["name"], line["host"]) for line in lines if line["kind"] != "store"}
    assert {
        ("network", "near", None), ("network", "far", None), ("sandbox", "c1", one.name),
        ("endpoint", f"on-{one.name}", one.name), ("endpoint", f"on-{two.name}", None),
        ("network", "cnm_gwbridge", None), ("endpoint", way_out, one.name),
    } == told  # fmt: skip
    assert "" == run(one, "events", "--json", "--since", lines[-1]["cursor"], "--until-idle", "0.2")
    with cnm.events(cursor, timeout=0.5) as events:
        assert Replay.observed(cnm) == known.apply(events)


WORKER = """
import os, libcnm
where = {name: os.environ[f"LIBCNM_{name.upper()}"] for name in ("state_dir", "run_dir", "host")}
with libcnm.Controller(**where, resident="off") as cnm:
    box = cnm.create_sandbox("c1")
    for number in range(1000):
        endpoint = cnm.network("blue").create_endpoint(f"s{number}")
        print(endpoint.name, flush=True)
        endpoint.join(box)
        endpoint.leave()
"""


def test_a_killed_process_leaves_no_event_behind(lab: Lab) -> None:
    """A reader in this process, a worker that is killed amid its verbs: what is told is what is there."""
    host = lab.hosts[0]
    cnm = host.controller(resident="off")
    cnm.create_network("blue", subnets=["10.88.0.0/24"])
    with cnm.events(timeout=0.5) as events:
        known = Replay.observed(cnm)
        with host.popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            assert ["s0\n", "s1\n", "s2\n"] == [worker.stdout.readline() for _ in range(3)]
            worker.kill()
        known.apply(events)
        host.controller(resident="off").close()  # settles what the worker has left half-done
        known.apply(events)
        assert Replay.observed(cnm) == known
        assert len(known.lines) >= len(["blue", "c1", "s0", "s1", "s2"])
