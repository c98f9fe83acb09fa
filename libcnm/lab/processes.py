"""What still runs inside a lab's namespaces, found by the namespaces and ended by descriptor, never by name.

A process is the lab's when its network namespace is one of the lab's, or its mount namespace one of its hosts'. It
never touches anything else, whatever it is called. Sources: pidfd_open(2), proc(5).
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress

import attrs

from libcnm.controller.resident_start import connect
from libcnm.errors import CnmError
from libcnm.model.deadline import Deadline

NamespaceKey = tuple[int, int]
"""Device and inode."""


@attrs.frozen
class Territory:
    """The namespaces that belong to a lab alone."""

    networks: frozenset[NamespaceKey]
    mounts: frozenset[NamespaceKey]

    def residents(self) -> Iterator[int]:
        """The ids of the processes that are in them; this one, whose threads only visit, is none."""
        for name in os.listdir("/proc"):
            if name.isdecimal() and int(name) != os.getpid() and self._holds(int(name)):
                yield int(name)

    def _holds(self, pid: int) -> bool:
        with suppress(OSError):  # gone meanwhile, or another user's
            return _key(f"/proc/{pid}/ns/net") in self.networks or _key(f"/proc/{pid}/ns/mnt") in self.mounts
        return False


def _key(path: str) -> NamespaceKey:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def key_of(descriptor: int) -> NamespaceKey:
    """The identity of the namespace that an open descriptor refers to."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def stop_residents(sockets: Collection[str], deadline: Deadline) -> list[str]:
    """Ask the resident that listens at each path to end, and wait until all have; the paths of those that did not."""
    with ExitStack() as stack:
        asked: list[tuple[str, int | None]] = []
        for path in sockets:
            try:
                connection = connect(path, max(deadline.remaining(), 0.001))
            except (OSError, CnmError):
                asked.append((path, None))  # it is stopped, and has not taken earlier ones
                continue
            if connection is None:
                continue  # there is none, or it is at the end of its own
            with connection:
                pid = _ask(connection, "statistics", deadline).get("pid")
                handle = stack.enter_context(_handle(pid)) if isinstance(pid, int) else None
                _ask(connection, "stop", deadline)
            asked.append((path, handle))
        return [path for path, handle in asked if handle is None or not _ended(handle, deadline)]


def _ask(connection: socket.socket, operation: str, deadline: Deadline) -> dict[str, object]:
    """One question to the resident; empty when it does not answer in time, or not sensibly."""
    reply = b""
    try:
        connection.settimeout(max(deadline.remaining(), 0.001))
        connection.sendall(json.dumps({"op": operation}).encode() + b"\n")
        while not reply.endswith(b"\n") and (data := connection.recv(4096)):
            reply += data
        answer = json.loads(reply)
    except (OSError, ValueError):
        return {}
    return answer if isinstance(answer, dict) else {}


def end_all(territory: Territory, deadline: Deadline) -> list[int]:
    """Kill every process inside and wait for each; again until there is none, or time is up. Those left over."""
    left = list(territory.residents())
    while left and deadline.remaining() > 0:
        for pid in left:
            with _handle(pid) as handle:
                # Looked at again now that the handle holds it: a pid alone may have been given to a stranger meanwhile.
                if handle is not None and pid in territory.residents():
                    with suppress(ProcessLookupError):
                        signal.pidfd_send_signal(handle, signal.SIGKILL)
                    _ended(handle, deadline)
        left = list(territory.residents())
    return left


@contextmanager
def _handle(pid: int) -> Iterator[int | None]:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def _ended(handle: int, deadline: Deadline) -> bool:
    """A pidfd becomes readable when its process has ended."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(max(0.0, deadline.remaining()) * 1000))
