"""How near libcnm's kernel door comes to the floor: one endpoint attached to a bridge, three ways, in interleaved
rounds.

    PYTHONPATH=. python bench/attach_floor.py [rounds]

Each way makes the same kernel objects: a namespace (pinned, IPv6 off), a veth pair, its outer end a port of the
bridge, lo and eth0 up, an address, a default route; then one echo request goes to the gateway. *floor*: messages
packed beforehand, one send for each namespace, nothing looked at but the acknowledgements. *libcnm*:
LinuxKernel.apply of the resources. *ip*: two runs of ``ip -batch`` (which leaves IPv6 on, having no cheap way to
write a sysctl). Everything happens in private namespaces; what a round made is removed after it, outside the clock.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from libcnm.kernel.linux import LinuxKernel, namespaces, pack, syscalls
from libcnm.kernel.linux.channels import open_transport
from libcnm.kernel.resources import Address, Bridge, Interface, Namespace, Route, Veth
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Change, Resource
from libcnm.system.userns import enter_private_namespaces

GATEWAY = "10.99.0.1"
FD_MARK = 0x7A7A7A7A
SIZES = (10, 500)


def within() -> Deadline:
    return Deadline.after(30.0, time.monotonic)


def quiet() -> None:
    """Let the kernel finish with the namespaces that were removed: it does so in the background, for some 20 ms.

    Without sleeping: a virtual processor that has slept runs the next millisecond at half its speed.
    """
    until = time.perf_counter() + 0.03
    while time.perf_counter() < until:
        pass


def mac(kind: int, number: int) -> str:
    return f"02:42:{kind:02x}:00:{number >> 8:02x}:{number & 255:02x}"


def resources(number: int) -> list[Resource]:
    ns = f"b{number}"
    inside = ipaddress.ip_interface(f"10.99.{(number + 256) >> 8}.{number & 255}/16")
    return [
        Namespace(ns),
        Veth("", f"ve{number}", mac(1, number), ns, "eth0", mac(2, number), master="br0"),
        Interface(ns, "lo"),
        Interface(ns, "eth0"),
        Address(ns, "eth0", inside),
        Route(ns, ipaddress.ip_network("0.0.0.0/0"), "eth0", ipaddress.ip_address(GATEWAY)),
    ]


def echo(sock: socket.socket, gateway: str = GATEWAY) -> None:
    """One ICMP echo, awaited."""
    header = struct.pack("!BBHHH", 8, 0, 0, 1, 1)
    total = sum(struct.unpack("!4H", header))
    request = struct.pack("!BBHHH", 8, 0, ~(total + (total >> 16)) & 0xFFFF, 1, 1)
    sock.settimeout(1.0)
    for _ in range(10):  # a first packet may be lost while a port's carrier is not noticed yet
        sock.sendto(request, (gateway, 0))
        with suppress(TimeoutError):
            while sock.recv(256)[20] != 0:
                pass
            return
    raise TimeoutError("no echo")


class Floor:
    """What the kernel itself costs, from a thread of its own."""

    def __init__(self, pins: str, bridge: int) -> None:
        self.pins = pins
        self.bridge = bridge
        self.wire = open_transport()

    def prepare(self, number: int) -> Callable[[], None]:
        """Everything that can be packed beforehand; the returned function is what is timed."""
        _, veth, _, _, address, route = resources(number)
        assert isinstance(veth, Veth)
        assert isinstance(address, Address)
        assert isinstance(route, Route)
        path = f"{self.pins}/{veth.peer_ns}"
        create = pack.create_veth(veth.name, veth.mac, 1500, "eth0", veth.peer_mac, peer_ns_fd=FD_MARK)
        outside = [
            pack.set_link(veth.name, pack.NO_AUTOMATIC_ADDRESSES),
            pack.set_link(veth.name, pack.u32(pack.IFLA_MASTER, self.bridge), up=True),
        ]
        inside = [
            pack.set_link(1, up=True),
            pack.set_link(2, pack.NO_AUTOMATIC_ADDRESSES),
            pack.set_link(2, up=True),
            pack.address(pack.RTM_NEWADDR, pack.ADD, 2, address.address),
            pack.route(
                pack.RTM_NEWROUTE,
                pack.ADD,
                route.destination,
                index=2,
                via=route.via,
                table=route.table,
                metric=0,
                prohibit=False,
            ),
        ]
        return lambda: self._attach(path, create, outside, inside)

    def _attach(self, path: str, create: bytes, outside: list[bytes], inside: list[bytes]) -> None:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        syscalls.unshare(syscalls.CLONE_NEWNET)
        for key, value in namespaces._BEGINNINGS:
            namespaces.write_sysctl(key, value)
        os.close(os.open(path, os.O_CREAT | os.O_RDONLY))
        syscalls.mount("/proc/thread-self/ns/net", path, None, syscalls.MS_BIND)
        there = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        wire = open_transport()
        syscalls.setns(home, syscalls.CLONE_NEWNET)
        first = create.replace(struct.pack("=I", FD_MARK), struct.pack("=I", there))
        refused = self.wire.send([first, *outside], within()) + wire.send(inside, within())
        assert not any(refused), refused
        wire.close()
        os.close(there)
        os.close(home)


def ip_batch(number: int) -> Callable[[], None]:
    """The same by iproute2: one run outside, one inside."""
    _, veth, _, _, address, _ = resources(number)
    assert isinstance(veth, Veth)
    assert isinstance(address, Address)
    ns = veth.peer_ns
    outside = f"""netns add {ns}
link add {veth.name} address {veth.mac} type veth peer name eth0 netns {ns} address {veth.peer_mac}
link set {veth.name} master br0 up
"""
    inside = f"""link set lo up
link set eth0 up
address add {address.address} dev eth0
route add default via {GATEWAY}
"""

    def attach() -> None:
        subprocess.run(["ip", "-batch", "-"], input=outside.encode(), check=True)
        subprocess.run(["ip", "-n", ns, "-batch", "-"], input=inside.encode(), check=True)

    return attach


class Bench:
    """One bridge, and the three ways to attach to it."""

    def __init__(self, run_dir: str) -> None:
        self.kernel = LinuxKernel(run_dir)
        self.pins = f"{run_dir}/floor"
        os.mkdir(self.pins)
        self._must([Change("add", Bridge("", "br0", mac(0, 1)))])
        self._must([Change("add", Address("", "br0", ipaddress.ip_interface(f"{GATEWAY}/16")))])
        self.floor = Floor(self.pins, socket.if_nametoindex("br0"))
        self.number = 1

    def _must(self, changes: list[Change]) -> None:
        refused = [outcome for outcome in self.kernel.apply(changes, deadline=within()) if outcome is not None]
        assert not refused, refused

    def next(self) -> int:
        self.number += 1
        return self.number

    def libcnm(self, number: int) -> Callable[[], None]:
        changes = [Change("add", resource) for resource in resources(number)]
        return lambda: self._must(changes)

    def fill(self, size: int) -> None:
        while self.number <= size:
            self.libcnm(self.next())()

    def echo_socket(self, path: str) -> socket.socket:
        made: list[socket.socket] = []

        def inside() -> None:
            with open(path, "rb") as file:
                syscalls.setns(file.fileno(), syscalls.CLONE_NEWNET)
            made.append(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        return made[0]

    def round(self) -> dict[str, tuple[float, float]]:
        """Each way once; ms for the kernel objects, and for those and the echo."""
        times: dict[str, tuple[float, float]] = {}
        ways = {"floor": self.floor.prepare, "libcnm": self.libcnm, "ip": ip_batch}
        places = {"floor": self.pins, "libcnm": self.kernel.namespace_path("x")[:-2], "ip": "/run/netns"}
        for name, prepare in ways.items():
            for _warming in range(2):  # the second time counts: what ran before each way is then that way itself
                number = self.next()
                attach = prepare(number)
                path = f"{places[name]}/b{number}"
                quiet()
                began = time.perf_counter()
                attach()
                attached = time.perf_counter()
                with self.echo_socket(path) as sock:
                    pinging = time.perf_counter()
                    echo(sock)
                    ended = time.perf_counter()
                times[name] = ((attached - began) * 1e3, (attached - began + ended - pinging) * 1e3)
                self._remove(name, number, path)
        return times

    def _remove(self, name: str, number: int, path: str) -> None:
        if name == "libcnm":
            self._must([Change("delete", each) for each in resources(number)[1::-1]])
            self.kernel.sweep()
            return
        subprocess.run(["ip", "link", "delete", f"ve{number}"], check=True)
        syscalls.umount(path)
        os.unlink(path)


def table(size: int, rounds: list[dict[str, tuple[float, float]]]) -> None:
    print(f"\n{size} endpoints on the bridge, {len(rounds)} rounds, ms (median / p95)")
    print(f"{'':8}{'kernel objects':>18}{'x floor':>9}{'with first echo':>18}{'x floor':>9}")
    base = [statistics.median(each["floor"][part] for each in rounds) for part in (0, 1)]
    for name in rounds[0]:
        line = f"{name:8}"
        for part in (0, 1):
            sample = sorted(each[name][part] for each in rounds)
            median, p95 = statistics.median(sample), sample[int(len(sample) * 0.95)]
            line += f"{f'{median:.2f} / {p95:.2f}':>18}{median / base[part]:>9.2f}"
        print(line)


def main() -> None:
    enter_private_namespaces()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    with tempfile.TemporaryDirectory(dir="/run") as run_dir:
        bench = Bench(run_dir)
        for size in SIZES:
            bench.fill(size)
            bench.round()  # what is loaded or made once
            table(size, [bench.round() for _ in range(rounds)])
        for number in range(2, SIZES[-1] + 2):
            bench.kernel.apply([Change("delete", each) for each in resources(number)[1::-1]], deadline=within())
        bench.kernel.close()


if __name__ == "__main__":
    main()
