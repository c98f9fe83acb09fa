"""Serves sandboxes' names over DNS: opens the sockets inside each sandbox and hands them to the names server."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Final

from libcnm.contracts.resolver import Resolver
from libcnm.controller.follower import Names
from libcnm.dns.loop import never
from libcnm.dns.server import ResolverServer
from libcnm.dns.view import RESOLVER_ADDRESS, RESOLVER_PORT, SandboxView
from libcnm.errors import CnmError
from libcnm.kernel.base import Kernel, NamespaceId
from libcnm.model.records import SandboxRecord
from libcnm.system.clock import Clock
from libcnm.system.entropy import Entropy

log = logging.getLogger("libcnm.dns")

_KINDS: Final = (socket.SOCK_DGRAM, socket.SOCK_STREAM)


class DnsNames(Names):
    """One names server for all sandboxes of the host."""

    def __init__(
        self,
        kernel: Kernel,
        clock: Clock,
        entropy: Entropy,
        backends: tuple[Resolver, ...] = (),
        behind: Callable[[], bool] = never,
    ) -> None:
        self._kernel = kernel
        self._namespaces: dict[str, str] = {}
        self._bound: dict[str, NamespaceId | None] = {}
        self._tried: dict[str, NamespaceId | None] = {}
        self.server = ResolverServer(
            now=clock.monotonic, below=entropy.below, open_socket=self._open_upstream, backends=backends, behind=behind
        )

    def start(self) -> None:
        """Start answering."""
        self.server.start()

    def show(self, record: SandboxRecord, view: SandboxView) -> bool:
        here = self._kernel.namespace(record.namespace)
        if self._bound.get(record.id, _NOWHERE) == here and here is not None:
            self.server.update(record.id, view)
            return True
        self.hide(record.id)
        self._tried[record.id] = here
        if here is None:
            return False  # its namespace is still being made, or was deleted by hand; then reconcile says so
        try:
            udp, tcp = self._open(record.namespace)
        except (OSError, CnmError) as error:
            log.warning("no names for the container %s: %s:53: %s", record.container_id, RESOLVER_ADDRESS, error)
            return self._kernel.namespace(record.namespace) == here
        try:
            self._namespaces[record.id] = record.namespace
            self.server.attach(record.id, udp, tcp, view)
            self._bound[record.id] = here
        except CnmError as error:
            udp.close()
            tcp.close()
            log.warning("no names for the container %s: %s", record.container_id, error)
        return True

    def serves(self, record: SandboxRecord) -> bool:
        return self._tried.get(record.id, _NOWHERE) == self._kernel.namespace(record.namespace)

    def hide(self, sandbox_id: str) -> None:
        if self._bound.pop(sandbox_id, None) is not None:
            self.server.detach(sandbox_id)
        self._namespaces.pop(sandbox_id, None)
        self._tried.pop(sandbox_id, None)

    def caught_up(self) -> None:
        """What was told has been shown: answers that wait for it may go out."""
        self.server.caught_up()

    def close(self) -> None:
        """Stop answering."""
        self.server.close()
        self._bound.clear()

    def _open(self, namespace: str) -> tuple[socket.socket, socket.socket]:
        opened: list[socket.socket] = []
        try:
            for kind in _KINDS:
                one = self._kernel.open_socket(namespace, socket.AF_INET, kind)
                opened.append(one)
                # A server of the container's own that binds 0.0.0.0:53 with this option set coexists with ours.
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind((str(RESOLVER_ADDRESS), RESOLVER_PORT))
        except BaseException:
            for one in opened:
                one.close()
            raise
        return opened[0], opened[1]

    def _open_upstream(self, sandbox_id: str, via: str, family: int, kind: int) -> socket.socket:
        namespace = "" if via == "host" else self._namespaces[sandbox_id]
        return self._kernel.open_socket(namespace, family, kind)


_NOWHERE: Final = NamespaceId(-1, -1)
