"""How many cached names a second the DNS server answers on loopback, and how soon: one process serves, one asks.

    PYTHONPATH=. python bench/dns_loopback.py [seconds]

Server thread and client are pinned to different CPUs where there are two. The client is a closed loop over a connected
UDP socket with 1 or 32 queries outstanding; it checks each reply's id and answer count. Beside it runs the floor: a
bare ``recvfrom``/``sendto`` loop in the same process layout, which says what this machine gives a Python loop at best.
"""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import threading
import time

ROUNDS = 3
NAMES = 16


def query(message_id: int, name: str) -> bytes:
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    return message_id.to_bytes(2, "big") + b"\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"


def client(port: int, outstanding: int, seconds: float, names: list[str]) -> dict[str, float]:
    """Closed loop; queries a second, and round trips in microseconds."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", port))
    sock.settimeout(2.0)
    queries = [query(number, names[number % len(names)]) for number in range(1024)]
    sent_at = [0.0] * 1024
    trips: list[float] = []
    now, send, receive = time.perf_counter, sock.send, sock.recv
    number = answered = 0
    for number in range(outstanding):
        sent_at[number] = now()
        send(queries[number])
    began = now()
    ends = began + seconds
    at = began
    while at < ends:
        reply = receive(2048)
        at = now()
        which = (reply[0] << 8) | reply[1]
        if reply[7] != 1:
            raise SystemExit(f"not an answer: {reply!r}")
        trips.append(at - sent_at[which])
        answered += 1
        number = (number + 1) & 1023
        sent_at[number] = now()
        send(queries[number])
    trips.sort()
    return {
        "qps": answered / (at - began),
        "p50_us": trips[len(trips) // 2] * 1e6,
        "p99_us": trips[len(trips) * 99 // 100] * 1e6,
    }


def run_client(port: int, outstanding: int, seconds: float, names: list[str]) -> dict[str, float]:
    argv = [sys.executable, __file__, "client", str(port), str(outstanding), str(seconds), *names]
    result = subprocess.run(argv, check=True, capture_output=True, text=True)
    return dict(json.loads(result.stdout))


def floor() -> int:
    """A thread that answers every datagram with the same octets and one answer counted; the port it listens on."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))

    def serve() -> None:
        pin(0)
        while True:
            data, peer = sock.recvfrom(4096)
            sock.sendto(data[:7] + b"\1" + data[8:], peer)

    threading.Thread(target=serve, daemon=True).start()
    return int(sock.getsockname()[1])


def ours(names: list[str]) -> int:
    from libcnm.dns.server import ResolverServer
    from libcnm.dns.view import SandboxView
    from libcnm.dns.zone import NameRecord, NetworkZone

    zone = NetworkZone("n" * 12, "blue")
    for index, name in enumerate(names):
        address = ipaddress.IPv4Address("10.88.0.2") + index
        zone.put(NameRecord(f"{index:064x}", name, "n" * 12, "blue", addresses=(address,)))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    tcp = socket.create_server(("127.0.0.1", 0))

    def no_upstream(*_: object) -> socket.socket:
        raise OSError

    server = ResolverServer(now=time.monotonic, below=secrets.randbelow, open_socket=no_upstream)
    server.start()
    server._loop.call(lambda: pin(0), 1)
    server.attach("s", udp, tcp, SandboxView(zones=(zone,)))
    return int(udp.getsockname()[1])


def pin(cpu: int) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 1:
        os.sched_setaffinity(0, {cpus[cpu]})


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    names = [f"web{index}.blue" for index in range(NAMES)]
    servers = {"floor": floor(), "libcnm": ours([name.partition(".")[0] for name in names])}
    print(f"{'server':8} {'outstanding':>11} {'replies/s':>10} {'p50 us':>8} {'p99 us':>8}   (medians of {ROUNDS})")
    for outstanding in (1, 32):
        runs: dict[str, list[dict[str, float]]] = {server: [] for server in servers}
        for _ in range(ROUNDS):
            for server, port in servers.items():
                runs[server].append(run_client(port, outstanding, seconds, names))
        for server, results in runs.items():
            qps, p50, p99 = (statistics.median(r[key] for r in results) for key in ("qps", "p50_us", "p99_us"))
            print(f"{server:8} {outstanding:11} {qps:10,.0f} {p50:8.1f} {p99:8.1f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["client"]:
        pin(1)
        print(json.dumps(client(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5:])))
    else:
        main()
