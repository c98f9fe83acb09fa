"""The names server of one host: one thread for the sockets of all sandboxes. The only door of this package with a
thread.

It never enters a namespace and never reads a file: the resident opens the sockets inside each sandbox, at
:data:`~libcnm.dns.view.RESOLVER_ADDRESS`, and hands them over with what the sandbox may see. Changes of a
:class:`~libcnm.dns.zone.NetworkZone` need no call: they are in force when ``put`` or ``remove`` returns. Changes of
views are in force for whatever is asked after :meth:`ResolverServer.update` has returned, and after
:meth:`~ResolverServer.detach` no reply leaves.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

import attrs

from libcnm.contracts.resolver import Resolver
from libcnm.dns.counters import Counters, Statistics
from libcnm.dns.exchange import OpenSocket
from libcnm.dns.forward import Forwarder
from libcnm.dns.loop import Loop, never
from libcnm.dns.responder import Responder
from libcnm.dns.service import SandboxService, Shared
from libcnm.dns.view import SandboxView
from libcnm.errors import AlreadyExists, Invalid, NotFound
from libcnm.model import limits

CALL_SECONDS = 5.0
"""How long a caller waits for the DNS thread; its rounds take milliseconds."""
_CACHE_FLOOR = 64


class ResolverServer:
    """Serves names to every attached sandbox. All methods may be called from any thread.

    ``now`` is a monotonic clock in seconds. ``below(n)`` draws unpredictably from [0, n): ids and ports depend on it
    (``secrets.randbelow``). ``open_socket`` makes the sockets towards upstreams, see
    :data:`~libcnm.dns.exchange.OpenSocket`. ``backends`` are asked, in order, for what no network knows. ``behind``,
    asked before each answer, says whether the owner has been told of a commit that it has not taken in yet; answers
    wait a little for :meth:`caught_up`.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float],
        below: Callable[[int], int],
        open_socket: OpenSocket,
        backends: Sequence[Resolver] = (),
        behind: Callable[[], bool] = never,
    ) -> None:
        counters = Counters()
        self._loop = Loop(now, behind)
        forwarder = Forwarder(self._loop, counters, below, open_socket)
        self._shared = Shared(self._loop, counters, Responder(now, below, backends, counters), forwarder)
        self._services: dict[str, SandboxService] = {}
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False

    def start(self) -> None:
        """Start the thread; once is enough."""
        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._loop.run, name="libcnm-dns", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop the thread and close every socket, those handed over included. Closing twice is closing once."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._loop.stop()
            if self._thread is not None:
                self._thread.join()
            for service in self._services.values():
                service.close()
            self._services.clear()
            self._loop.close()

    def __enter__(self) -> ResolverServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def attach(self, sandbox_id: str, udp: socket.socket, tcp: socket.socket, view: SandboxView) -> None:
        """Serve a sandbox on these two bound sockets (``tcp`` need not listen yet); they are ours when this returns.

        Raises :class:`~libcnm.errors.AlreadyExists` when the sandbox is served already, :class:`~libcnm.errors.Invalid`
        when a socket is unfit, :class:`~libcnm.errors.Unavailable` when the thread does not run; the sockets are the
        caller's then.
        """

        def attach() -> None:
            if sandbox_id in self._services:
                raise AlreadyExists("resolver of sandbox", sandbox_id)
            service = SandboxService(sandbox_id, udp, tcp, view, self._shared)
            try:
                service.open()
            except OSError as error:
                raise Invalid("sockets", sandbox_id, f"cannot be served: {error.strerror or error}") from error
            self._services[sandbox_id] = service
            self._share_cache()

        self._loop.call(attach, CALL_SECONDS)

    def update(self, sandbox_id: str, view: SandboxView) -> None:
        """Serve the sandbox by another view: networks, order, hosts, upstreams. Only its own cache is dropped.

        Raises :class:`~libcnm.errors.NotFound` for a sandbox that is not attached, :class:`~libcnm.errors.Unavailable`.
        """
        if sandbox_id not in self._services:
            raise NotFound("resolver of sandbox", sandbox_id)

        def update() -> None:
            service = self._services.get(sandbox_id)
            if service is not None:  # detached meanwhile
                service.update(view)

        self._loop.post(update)

    def caught_up(self) -> None:
        """The owner has taken in all it was told; from any thread."""
        self._loop.caught_up()

    def detach(self, sandbox_id: str) -> None:
        """Stop serving the sandbox and close its sockets. One that is not attached is detached already.

        Raises :class:`~libcnm.errors.Unavailable` when the thread does not run.
        """

        def detach() -> None:
            service = self._services.pop(sandbox_id, None)
            if service is not None:
                service.close()
                self._share_cache()

        self._loop.call(detach, CALL_SECONDS)

    def statistics(self) -> Statistics:
        """How it goes; never waits."""
        shared, services = self._shared, list(self._services.values())
        return Statistics(
            running=self._thread is not None and self._thread.is_alive() and not self._closed,
            sandboxes=len(services),
            connections_open=sum(len(service.connections) for service in services),
            forwards_in_flight=shared.forwarder.in_flight,
            faults=self._loop.faults,
            totals=attrs.evolve(shared.counters),
        )

    def _share_cache(self) -> None:
        """The entries of :data:`~libcnm.model.limits.DNS_CACHE_ENTRIES` are shared evenly, with a floor for each."""
        half = max(_CACHE_FLOOR, limits.DNS_CACHE_ENTRIES // (2 * max(1, len(self._services))))
        for service in self._services.values():
            service.cache.half = half
