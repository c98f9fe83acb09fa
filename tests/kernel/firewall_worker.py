"""A process inside one namespace of the packet tests: it answers on its ports, and it tries to reach others' on
request.

Started by path, spoken to over its own stdin and stdout, one JSON value per line. To any connection or datagram it
answers "<its name> <whom it saw>". A request is a list of [key, protocol, address, port, seconds]; the answer maps each
key to what was answered there, or to null. All attempts of a request run at once.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import threading
import time

WILDCARD = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def listening(family: socket.AddressFamily, kind: socket.SocketKind, port: int) -> socket.socket:
    opened = socket.socket(family, kind)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    opened.bind((WILDCARD[family], port))
    if kind == socket.SOCK_STREAM:
        opened.listen(64)
    return opened


def serve(name: str, ports: list[int]) -> None:
    sockets = [listening(family, kind, port) for family in WILDCARD for kind in KINDS.values() for port in ports]

    def answer() -> None:
        while True:
            for ready in select.select(sockets, [], [])[0]:
                if ready.type == socket.SOCK_STREAM:
                    connection, peer = ready.accept()
                    connection.sendall(f"{name} {peer[0]}".encode())
                    connection.close()
                else:
                    _, peer = ready.recvfrom(100)
                    ready.sendto(f"{name} {peer[0]}".encode(), peer)

    threading.Thread(target=answer, daemon=True).start()


def attempt(protocol: str, address: str, port: int, seconds: float) -> str | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    until = time.monotonic() + seconds
    with socket.socket(family, KINDS[protocol]) as opened:
        while (left := until - time.monotonic()) > 0:
            # A datagram may be lost while a neighbour is being found: say it again.
            opened.settimeout(left if protocol == "tcp" else min(left, 0.2))
            try:
                opened.connect((address, port))
                if protocol == "udp":
                    opened.send(b"?")
                return opened.recv(100).decode() or None
            except TimeoutError:
                continue
            except OSError:
                return None
    return None


def main() -> None:
    name, *ports = sys.argv[1:]
    serve(name, [int(port) for port in ports])
    print(json.dumps({}), flush=True)  # ready
    for line in sys.stdin:
        answers: dict[str, str | None] = {}

        def one(key: str, *what: object, into: dict[str, str | None] = answers) -> None:
            into[key] = attempt(*what)  # type: ignore[arg-type]  # as in the request

        threads = [threading.Thread(target=one, args=request) for request in json.loads(line)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
