"""The kernel door: everything that libcnm asks of Linux goes through this class, and nothing else does.

Two implementations, :class:`libcnm.kernel.linux.LinuxKernel` and :class:`libcnm.kernel.fake.FakeKernel`, pass one
conformance suite. The door knows resources and namespaces; it never knows networks, endpoints or stores. Every effect
(a send, a mount, a file write) is announced to ``on_effect`` before and after it happens, so that tests can fail, crash
or pause exactly there.
"""

from __future__ import annotations

import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import attrs

from libcnm.errors import KernelError
from libcnm.model.addresses import IPAddress, IPNetwork
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Change, Observed, Resource

Effect = Callable[[str, Literal["before", "after"]], None]
"""Told of each effect by name, before and after it; may raise, to fail or crash there."""


def no_effect_hook(name: str, when: Literal["before", "after"]) -> None:
    """The hook of production: nothing."""


@attrs.frozen
class NamespaceId:
    """What a network namespace is known by: never its path."""

    device: int
    inode: int


@attrs.frozen
class KernelEvent:
    """Something went, by whomever. ``what`` says where to look again; it never says what to believe.

    Told is at least each removal of what carries our mark, and of firewall rules: that is what needs healing at once.
    A host that attaches a thousand endpoints need not be told a thousand times.
    """

    ns: str
    what: Literal["links", "addresses", "routes", "rules", "neighbours", "filters", "firewall", "lost"]


@attrs.frozen
class LinkStatistics:
    """One interface's counters, as ``ip -s link`` shows them: octets (``_bytes``) and packets since it was made."""

    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


@attrs.frozen
class HostNetwork:
    """A block that the host reaches by itself, how in words, and whether directly (else through a gateway)."""

    block: IPNetwork
    reason: str
    on_link: bool


class KernelEvents(ABC):
    """An open subscription. ``close`` may be called from any thread and ends a running ``next``."""

    @abstractmethod
    def next(self, timeout: float) -> tuple[KernelEvent, ...]:
        """What went within ``timeout`` seconds (coalesced, own removals included); empty when nothing did.

        ``what="lost"`` means that events were lost (ENOBUFS): look at everything.
        """

    @abstractmethod
    def follow(self, namespaces: Collection[str]) -> None:
        """From now on, follow exactly these namespaces (``""`` is the host's)."""

    @abstractmethod
    def close(self) -> None:
        """Release the sockets; idempotent."""


class Kernel(ABC):
    """One host's kernel, as seen from one installation. Thread-safe. ``boot_id`` changes with every boot of the
    host.
    """

    boot_id: str
    on_effect: Effect

    # -- changing ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def apply(self, changes: Sequence[Change], *, deadline: Deadline) -> tuple[KernelError | None, ...]:
        """Make the changes in the given order, in as few sends as the order allows; one outcome each.

        A refusal does not stop the rest. ``add`` refuses what exists (EEXIST), except neighbours, fdb rows and
        sysctls, which are replaced; ``delete`` of what is not there is ENOENT (a link: ENODEV). Deleted links are
        parked: out of use and out of name at once, gone after :meth:`sweep`. Raises only DeadlineExceeded and
        Unavailable (the door itself failed).
        """

    def anticipate(self) -> None:
        """A namespace will be asked for in a moment: begin with what leaves nothing behind. A hint, never an error."""
        return

    @abstractmethod
    def sweep(self, namespaces: Collection[str] | None = None) -> int:
        """Remove parked links for good (20 ms each time, however many); returns how many namespaces had some.

        Looked for in those namespaces (default: the host's and every pinned one); a pair goes whole, whichever end it
        is found by.
        """

    # -- reading -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def read(
        self, namespaces: Collection[str], kinds: Collection[type[Resource]] | None = None, *, deadline: Deadline
    ) -> tuple[Observed, ...]:
        """Everything of those kinds (default: all of ours) in those namespaces, except the kernel's own rows.

        The kernel's own: link-local addresses it made itself, routes of protocol kernel, local tables, a device's own
        FDB and multicast rows, neighbours that are not permanent. A namespace that is not there yields nothing.
        ``Namespace`` resources of all pinned namespaces are read when ``""`` is among the namespaces. Sysctls are not
        listed (there are thousands): :meth:`read_one` reads one.
        """

    @abstractmethod
    def read_one(self, resource: Resource, *, deadline: Deadline) -> Observed | None:
        """What holds that resource's identity now, or None."""

    @abstractmethod
    def identify(self, path: str) -> NamespaceId:
        """Which network namespace a path leads to; :class:`~libcnm.errors.Invalid` when it is not one."""

    @abstractmethod
    def namespace(self, name: str) -> NamespaceId | None:
        """Which namespace is pinned under that name, or None; the host's own for ``""``."""

    @abstractmethod
    def namespace_path(self, name: str) -> str:
        """The path a pinned namespace has (or would have), for ``nsenter --net=``."""

    @abstractmethod
    def host_networks(self) -> tuple[HostNetwork, ...]:
        """Blocks that the host reaches by itself: on-link networks and routes (not the default routes, not ours)."""

    @abstractmethod
    def mtu_towards(self, address: IPAddress) -> int:
        """MTU of the route (or else the link) by which the host reaches ``address``, in octets."""

    @abstractmethod
    def local_addresses(self) -> tuple[IPAddress, ...]:
        """Global addresses of the host's own links, ours left out, best VTEP first."""

    @abstractmethod
    def statistics(self, ns: str) -> Mapping[str, LinkStatistics]:
        """Counters of every link in a namespace, by interface name."""

    @abstractmethod
    def events(self) -> KernelEvents:
        """A new subscription, following nothing yet."""

    # -- acting inside a namespace

    @abstractmethod
    def open_socket(self, ns: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A fresh socket that belongs to the namespace (not bound, not connected). NotFound when the namespace is
        gone.
        """

    @abstractmethod
    def spawn(
        self, argv: Sequence[str], ns: str, *, files: Mapping[str, str], options: Mapping[str, object]
    ) -> subprocess.Popen[bytes]:
        """Start a process inside a namespace; ``files`` (path there -> file here) are shown to it in a private mount
        namespace, where both exist. In the host's own namespace and without files it shares the host's mounts.
        ``options`` go to :class:`subprocess.Popen`.
        """

    @abstractmethod
    def close(self) -> None:
        """Release threads and sockets; changes nothing in the kernel. Idempotent."""
