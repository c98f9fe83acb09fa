"""What an attach costs as a whole, beside the floor and beside ``ip -batch``, at 10 and at 500 endpoints on one
network.

    python bench/attach.py [rounds]

Attach = create_sandbox + create_endpoint + join + the name answered by the sandbox's resolver + one echo from the
gateway, records on a disk file system, nothing made beforehand. Floor = the same kernel objects by prebuilt
messages, one send for each namespace, and the same echo. ``ip`` does the kernel part only. Rounds are interleaved,
each way on a bridge with as many ports; quote the ratios.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from contextlib import suppress

from attach_floor import Bench, echo, quiet, resources, within

from libcnm.controller.controller import Controller
from libcnm.controller.doors import Doors, Paths, open_doors
from libcnm.controller.sandbox import Sandbox
from libcnm.kv.base import Committed, Transaction
from libcnm.kv.sqlite import SQLiteStore
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Change
from libcnm.system.userns import enter_private_namespaces

SIZES = tuple(int(size) for size in os.environ.get("SIZES", "10,500").split(","))
GATEWAY = "10.88.0.1"


class CountingStore(SQLiteStore):
    """Counts what goes to the disk."""

    durable_commits = 0

    def transact(self, transaction: Transaction, *, deadline: Deadline, durable: bool = True) -> Committed:
        self.durable_commits += durable
        return super().transact(transaction, deadline=deadline, durable=durable)


def doors(paths: Paths) -> Doors:
    """The real doors, with a store that counts."""
    found = open_doors(paths, None)
    found.local.close()
    return Doors(found.kernel, CountingStore(paths.database), found.locks, found.files)


class Attach:
    """libcnm's side: one installation, one network."""

    def __init__(self, folder: str, run_dir: str) -> None:
        self.paths = Paths(f"{folder}/state", f"{run_dir}/whole")
        self.doors = doors(self.paths)
        self.cnm = Controller(
            state_dir=self.paths.state_dir, run_dir=self.paths.run_dir, guardian=os.getpid(), doors=self.doors
        )
        self.network = self.cnm.create_network("bench", subnets=["10.88.0.0/16"])
        self.number = 0
        self.parts: list[tuple[float, ...]] = []

    def attach(self) -> Sandbox:
        """The three verbs."""
        return self.joined(self.made())

    def made(self) -> Sandbox:
        """The first of them."""
        self.number += 1
        return self.cnm.create_sandbox(f"c{self.number}")

    def joined(self, sandbox: Sandbox) -> Sandbox:
        """The other two."""
        began = time.perf_counter()
        endpoint = self.network.create_endpoint(f"e{self.number}")
        named = time.perf_counter()
        endpoint.join(sandbox)
        self.parts.append((named - began, time.perf_counter() - named))
        return sandbox

    def commits_in_one(self) -> int:
        """How many transactions one attach makes durable."""
        assert isinstance(self.doors.local, CountingStore)
        before = self.doors.local.durable_commits
        sandbox = self.attach()
        made = self.doors.local.durable_commits - before
        sandbox.delete()
        return made

    def fill(self, size: int) -> None:
        """Attach until the network has that many endpoints."""
        while self.number < size:
            self.attach()

    def timed(self, bench: Bench) -> tuple[float, float]:
        """Milliseconds for the verbs, and for those, the name and the echo.

        The sockets to ask with are opened in between, off the clock: so the name is asked for at once after the join.
        """
        quiet()
        began = time.perf_counter()
        sandbox = self.made()
        made = time.perf_counter() - began
        with (
            self.doors.kernel.open_socket(os.path.basename(sandbox.path), socket.AF_INET, socket.SOCK_DGRAM) as asking,
            bench.echo_socket(sandbox.path) as pinging,
        ):
            began = time.perf_counter()
            self.joined(sandbox)
            attached = time.perf_counter()
            ask(asking, f"e{self.number}")
            answered = time.perf_counter()
            echo(pinging, GATEWAY)
            ended = time.perf_counter()
        self.parts[-1] = (made, *self.parts[-1], answered - attached, ended - answered)
        sandbox.delete()
        return (made + attached - began) * 1e3, (made + ended - began) * 1e3


def ask(sock: socket.socket, name: str) -> None:
    """One A query to the sandbox's resolver; the name must be known."""
    label = name.encode()
    query = b"\x12\x34\x01\0\0\x01" + bytes(6) + bytes((len(label),)) + label + b"\0\0\x01\0\x01"
    sock.settimeout(1.0)
    for _ in range(10):  # one ARP request on a bridge of 500 ports fills the kernel's queue, which then drops anything
        sock.sendto(query, ("127.0.0.11", 53))
        with suppress(TimeoutError):
            reply = sock.recv(512)
            assert reply[3] & 15 == 0, reply
            assert reply[7] == 1, reply
            return
    raise TimeoutError("no answer")


def table(size: int, rounds: list[dict[str, tuple[float, float]]], commits: int) -> float:
    """Print one size; the ratio of the whole attach to the floor."""
    print(f"\n{size} endpoints on each bridge, {len(rounds)} rounds, ms (median / p95)")
    base = statistics.median(each["floor"][1] for each in rounds)
    ratio = 0.0
    for name in rounds[0]:
        sample = sorted(each[name][1] for each in rounds)
        median = statistics.median(sample)
        paired = statistics.median(each[name][1] / each["floor"][1] for each in rounds)
        p95 = sample[int(len(sample) * 0.95)]
        print(f"  {name:10} {median:8.2f} / {p95:8.2f}   {median / base:6.2f} x floor   (paired {paired:.2f})")
        ratio = median / base
    print(f"  durable commits in one attach: {commits}")
    return ratio


def main() -> None:
    """Measure and print."""
    enter_private_namespaces()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    folder = tempfile.mkdtemp(prefix="libcnm-bench-", dir="/var/tmp")
    try:
        with tempfile.TemporaryDirectory(dir="/run") as run_dir:
            bench, whole = Bench(run_dir), Attach(folder, run_dir)
            ratios = []
            for size in SIZES:
                bench.fill(size)
                whole.fill(size)
                bench.round()
                whole.timed(bench)  # what is loaded or made once
                whole.parts.clear()
                found = []
                for _ in range(rounds):
                    sample = bench.round()
                    whole.timed(bench)
                    sample["attach"] = whole.timed(bench)
                    found.append(sample)
                counted = whole.parts[1::2]  # what comes first warms up
                parts = [statistics.median(part) * 1e3 for part in zip(*counted, strict=True)]
                ratios.append(table(size, found, whole.commits_in_one()))
                print(
                    "  of which create_sandbox {:.2f}, create_endpoint {:.2f}, join {:.2f}, name {:.2f},"
                    " echo {:.2f}".format(*parts)
                )
            quoted = ", ".join(f"{ratio:.2f} at {size}" for ratio, size in zip(ratios, SIZES, strict=True))
            print(f"\nattach / floor: {quoted}; must be at most 3, and not grow")
            for sandbox in whole.cnm.sandboxes():
                sandbox.delete()
            whole.network.delete()
            whole.cnm.close()
            for number in range(2, SIZES[-1] + 2):
                bench.kernel.apply([Change("delete", each) for each in resources(number)[1::-1]], deadline=within())
            bench.kernel.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
