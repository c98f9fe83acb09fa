"""From a join on one host until a ping from another gets through, over an overlay on a lab's two hosts.

    python bench/reach.py [rounds]

Host A's verbs run in A's own process. In each round A makes a container and joins it to the network; from the instant
at which ``join`` is called, a container on B asks its resolver for the new name, in a tight loop, and sends an echo
as soon as it has an address (a name is not answered before its endpoint can be reached, so the first echo is the one
that gets through). Measured with one clock (CLOCK_MONOTONIC): until the reply to that echo. *first*: A has nothing on
the network, so that its namespace and VXLAN device are made, too. *later*: A has a container there already.
"""

from __future__ import annotations

import json
import socket
import statistics
import struct
import subprocess
import sys
import time

from libcnm.controller.sandbox import Sandbox
from libcnm.lab import Lab, ensure_privileges
from libcnm.lab.host import Host

JOINER = """
import os, sys, time, json, libcnm
cnm = libcnm.Controller(
    state_dir=os.environ["LIBCNM_STATE_DIR"], run_dir=os.environ["LIBCNM_RUN_DIR"],
    cluster_store=os.environ["LIBCNM_CLUSTER_STORE"], host=os.environ["LIBCNM_HOST"],
    advertise=os.environ["LIBCNM_ADVERTISE"], guardian=int(os.environ["LIBCNM_GUARDIAN"]),
)
network = cnm.network("wide")
keep = cnm.create_sandbox("keep")
for line in sys.stdin:
    name, first = json.loads(line)
    if first:
        for endpoint in keep.endpoints:
            endpoint.delete(force=True)
    elif not keep.endpoints:
        network.create_endpoint("keep").join(keep)
    endpoint, sandbox = network.create_endpoint(name), cnm.create_sandbox(name)
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    endpoint.join(sandbox)
    print(json.dumps([began, time.monotonic()]), flush=True)
    sys.stdin.readline()
    sandbox.delete()
"""


class Pinger:
    """A container on B: its sockets, and the two questions it asks."""

    def __init__(self, host: Host, sandbox: Sandbox) -> None:
        namespace = sandbox.path.rsplit("/", 1)[1]
        self.resolver = host.kernel.open_socket(namespace, socket.AF_INET, socket.SOCK_DGRAM)
        self.resolver.connect(("127.0.0.11", 53))
        self.resolver.settimeout(1.0)
        self.echoes = host.kernel.open_socket(namespace, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self.echoes.settimeout(5.0)

    def address(self, name: str) -> str | None:
        """What the resolver says now."""
        label = name.encode()
        self.resolver.send(
            b"\x12\x34\x01\0\0\x01" + bytes(6) + bytes((len(label),)) + label + b"\x04wide\0\0\x01\0\x01"
        )
        reply = self.resolver.recv(512)
        return socket.inet_ntoa(reply[-4:]) if reply[3] & 15 == 0 and reply[7] else None

    def reach(self, name: str) -> float:
        """Ask until the name is known, then ping; the instant of the reply."""
        end = time.monotonic() + 10
        while (address := self.address(name)) is None:
            assert time.monotonic() < end, f"{name} was not known within 10 s"
        header = struct.pack("!BBHHH", 8, 0, 0, 7, 7)
        total = sum(struct.unpack("!4H", header))
        self.echoes.sendto(struct.pack("!BBHHH", 8, 0, ~(total + (total >> 16)) & 0xFFFF, 7, 7), (address, 0))
        while True:
            data, (sender, _) = self.echoes.recvfrom(256)
            if data[20] == 0 and sender == address:
                return time.monotonic()


def say(child: subprocess.Popen[bytes], line: str) -> None:
    """One line to the joiner."""
    assert child.stdin is not None
    child.stdin.write(line.encode() + b"\n")
    child.stdin.flush()


def heard(child: subprocess.Popen[bytes]) -> bytes:
    """One line from it."""
    assert child.stdout is not None
    return child.stdout.readline().strip()


def main() -> None:
    """Measure and print."""
    ensure_privileges()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    with Lab(hosts=2) as lab:
        here, there = lab.hosts
        cnm = there.controller()
        network = cnm.create_network("wide", "overlay", subnets=["10.77.0.0/16"])
        sandbox = cnm.create_sandbox("pinger")
        network.create_endpoint("pinger").join(sandbox)
        pinger = Pinger(there, sandbox)
        joiner = here.popen([sys.executable, "-c", JOINER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        found: dict[str, list[tuple[float, float]]] = {"first": [], "later": []}
        for number in range(rounds + 2):
            for kind, sample in found.items():
                name = f"{kind}{number}"
                say(joiner, json.dumps([name, kind == "first"]))
                assert heard(joiner) == b"ready"
                say(joiner, "go")
                reached = pinger.reach(name)
                began, joined = json.loads(heard(joiner))
                say(joiner, "next")
                if number >= 2:  # what is loaded or made once
                    sample.append(((reached - began) * 1e3, (joined - began) * 1e3))
        joiner.kill()
        print(f"join on A -> ping from B, {rounds} rounds, ms (median / p95); must be at most 50 at the median")
        for kind, sample in found.items():
            reach, join = (sorted(one[part] for one in sample) for part in (0, 1))
            tail = int(len(sample) * 0.95)
            print(
                f"  {kind:6} reached {statistics.median(reach):7.2f} / {reach[tail]:7.2f}"
                f"   join returned {statistics.median(join):7.2f} / {join[tail]:7.2f}"
            )


if __name__ == "__main__":
    main()
