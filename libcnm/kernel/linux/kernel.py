"""The real kernel behind the door: the parts of this folder put together, one instance for each host that is played.

Callers' threads never change namespace: what must happen inside one happens on the worker's thread, and netlink
sockets, once opened there, may be used from anywhere. It decides nothing about networks. The law is
:class:`libcnm.kernel.base.Kernel`; README.md in the folder above tells about threads and namespaces.
"""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final, Literal

from libcnm.errors import Invalid, KernelError, NotFound
from libcnm.kernel.base import Effect, HostNetwork, Kernel, KernelEvents, LinkStatistics, NamespaceId, no_effect_hook
from libcnm.kernel.linux import apply, cold, host, pack, read, spawn, syscalls
from libcnm.kernel.linux.batch import Batch, Refused
from libcnm.kernel.linux.channels import Channels
from libcnm.kernel.linux.effects import announcer
from libcnm.kernel.linux.events import LinuxEvents
from libcnm.kernel.linux.namespaces import Namespaces, identity_of
from libcnm.kernel.linux.settings import Settings, sysctl_key
from libcnm.kernel.linux.view import View
from libcnm.kernel.linux.worker import Home, HomeNamespaces, Worker
from libcnm.kernel.resources import PARKED_GROUP, FirewallElement, FirewallTable, Namespace, Sysctl
from libcnm.model import limits
from libcnm.model.addresses import IPAddress
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Change, Observed, Resource

if TYPE_CHECKING:
    from libcnm.kernel.linux.nft import Nft

_KINDS: Final[tuple[type[Resource], ...]] = (Namespace, *read.READERS, FirewallTable, FirewallElement)
_NETLINK_NETFILTER: Final = 12


def _patience() -> Deadline:
    """For what is asked without a deadline."""
    return Deadline.after(limits.VERB_SECONDS, time.monotonic)


class LinuxKernel(Kernel):
    """One host's kernel; ``run_dir`` holds the pins; ``home`` plays the host (default: the process's namespaces)."""

    def __init__(
        self, run_dir: str | os.PathLike[str], *, home: Home | None = None, on_effect: Effect = no_effect_hook
    ) -> None:
        self.on_effect = on_effect
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            self.boot_id = file.read().strip()
        self._announce = announcer(lambda: self.on_effect)
        self._home = HomeNamespaces(home or Home())
        self._worker = Worker(self._home, self._mounts_changed)
        self._namespaces = Namespaces(f"{os.path.abspath(run_dir)}/netns", self._worker, self._announce)
        self._channels = Channels(self._namespaces, self._worker, self._home)
        self._settings = Settings(self._worker, self._namespaces, self._channels, self._announce, self._forget_firewall)
        self._lock = threading.Lock()
        self._nft: Nft | None = None
        self._firewalled: dict[str, NamespaceId] = {}  # where the nf_tables part has a socket open
        self._subscriptions: list[LinuxEvents] = []
        self._closed = False

    # -- changing ------------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change], *, deadline: Deadline) -> tuple[KernelError | None, ...]:
        deadline.check("the kernel")
        batch = Batch(changes, self._channels, self._announce, deadline)
        try:
            return apply.run(batch, self._settings, self._firewall)
        finally:
            batch.close()

    def anticipate(self) -> None:
        self._channels.anticipate()

    def sweep(self, namespaces: Collection[str] | None = None) -> int:
        deadline = _patience()
        swept = 0
        for ns in self._channels.names(deadline) if namespaces is None else sorted(set(namespaces)):
            with self._announce("sweep"):
                swept += self._swept(ns, deadline)
        return swept

    def _swept(self, ns: str, deadline: Deadline) -> bool:
        try:
            with self._channels.lent(ns, deadline) as channel, channel.wire(deadline) as wire:
                return wire.send([pack.delete_group(PARKED_GROUP)], deadline) == [None]
        except (FileNotFoundError, Invalid):
            return False  # gone meanwhile, or a place that only a third party's resources know

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(
        self, namespaces: Collection[str], kinds: Collection[type[Resource]] | None = None, *, deadline: Deadline
    ) -> tuple[Observed, ...]:
        deadline.check("reading the kernel")
        wanted = _KINDS if kinds is None else tuple(kinds)
        found: list[Observed] = []
        for ns in sorted(set(namespaces)):
            if not ns and Namespace in wanted:
                found += self._worker.call(self._pinned, deadline)
            try:
                with self._view(ns, deadline) as view:
                    found += read.read(view, wanted)
            except FileNotFoundError:
                continue
            if FirewallTable in wanted or FirewallElement in wanted:
                known = ns in self._firewalled
                found += (one for one in self._firewall().read(ns, deadline=deadline) if type(one.resource) in wanted)
                if not known:
                    self._forget_firewall(ns)  # most sandboxes have none: no socket for each of them
        return tuple(found)

    def _pinned(self) -> list[Observed]:
        return [
            Observed(Namespace(name, self._namespaces.source(name)), ours=True) for name in self._namespaces.names()
        ]

    def read_one(self, resource: Resource, *, deadline: Deadline) -> Observed | None:
        deadline.check("reading the kernel")
        if isinstance(resource, Namespace):
            found = self._worker.call(lambda: self._namespaces.pinned(resource.name), deadline)
            source = (
                None if found is None else self._worker.call(lambda: self._namespaces.source(resource.name), deadline)
            )
            return None if found is None else Observed(Namespace(resource.name, source), ours=True)
        if isinstance(resource, FirewallTable | FirewallElement):
            return self._firewall().read_one(resource, deadline=deadline)
        try:
            if isinstance(resource, Sysctl):
                return self._read_sysctl(resource, deadline)
            with self._view(resource.identity[1], deadline) as view:
                return read.read_one(view, resource)
        except FileNotFoundError:
            return None

    def _read_sysctl(self, resource: Sysctl, deadline: Deadline) -> Observed | None:
        try:
            path = f"/proc/sys/{sysctl_key(resource.key)}"
        except Refused as refused:
            raise Invalid("key", resource.key, str(refused.words)) from None

        def content() -> str:
            with open(path, encoding="utf-8") as file:
                return file.read().strip()

        with self._channels.lent(resource.ns, deadline) as channel:
            value = self._worker.call(lambda: self._worker.visit(channel.fd, content), deadline)
            return Observed(Sysctl(resource.ns, resource.key, value, resource.link, resource.restore), channel.ours)

    def identify(self, path: str) -> NamespaceId:
        def look() -> NamespaceId:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                if not syscalls.is_network_namespace(fd):
                    raise Invalid("path", path, "is not a network namespace")
                return identity_of(os.fstat(fd))
            finally:
                os.close(fd)

        try:
            return self._worker.call(look, _patience())
        except OSError as error:
            raise Invalid("path", path, f"is not a network namespace: {error.strerror}") from None

    def namespace(self, name: str) -> NamespaceId | None:
        if not name:
            return identity_of(os.fstat(self._home.net))
        return self._worker.look(lambda: self._namespaces.pinned(name), _patience())

    def namespace_path(self, name: str) -> str:
        return self._namespaces.path(name)

    def host_networks(self) -> tuple[HostNetwork, ...]:
        with self._view("", _patience()) as view:
            return host.networks(view)

    def mtu_towards(self, address: IPAddress) -> int:
        with self._view("", _patience()) as view:
            return host.mtu_towards(view, address)

    def local_addresses(self) -> tuple[IPAddress, ...]:
        with self._view("", _patience()) as view:
            return host.addresses(view)

    def statistics(self, ns: str) -> Mapping[str, LinkStatistics]:
        try:
            with self._view(ns, _patience()) as view:
                return cold.counters(view.dump(pack.dump_links(statistics=True)))
        except FileNotFoundError:
            raise NotFound("namespace", ns) from None

    def events(self) -> KernelEvents:
        subscription = LinuxEvents(self._home, self._worker, self._namespaces, self._unsubscribe)
        with self._lock:
            self._subscriptions.append(subscription)
        return subscription

    def _unsubscribe(self, subscription: LinuxEvents) -> None:
        with self._lock, suppress(ValueError):
            self._subscriptions.remove(subscription)

    # -- acting inside a namespace -------------------------------------------------------------------------------------

    def open_socket(self, ns: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        deadline = _patience()

        def opened() -> socket.socket:
            return socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)

        try:
            with self._channels.lent(ns, deadline) as channel:
                visit = self._worker.visit
                return self._worker.call(lambda: visit(channel.fd, opened), deadline, undo=socket.socket.close)
        except FileNotFoundError:
            raise NotFound("namespace", ns) from None

    def spawn(
        self, argv: Sequence[str], ns: str, *, files: Mapping[str, str], options: Mapping[str, object]
    ) -> subprocess.Popen[bytes]:
        with ExitStack() as stack:
            try:
                channel = stack.enter_context(self._channels.lent(ns, _patience()))
            except FileNotFoundError:
                raise NotFound("namespace", ns) from None
            stack.enter_context(self._announce("spawn"))
            return spawn.spawn(self._home, channel.fd if ns else None, argv, files, options)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            nft = self._nft
        for subscription in tuple(self._subscriptions):
            subscription.close()
        if nft is not None:
            nft.close()
        self._worker.close()
        self._channels.close()
        self._home.close()

    # -- the parts -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _view(self, ns: str, deadline: Deadline) -> Iterator[View]:
        with self._channels.lent(ns, deadline) as channel:
            yield View(channel, deadline, lambda first: self._open_pins(first, deadline))

    def _open_pins(self, first: Sequence[str], deadline: Deadline) -> Iterator[tuple[str, int]]:
        """A descriptor of every namespace, the expected one first; whoever takes one closes it."""
        yield "", os.dup(self._home.net)
        names = self._worker.call(self._namespaces.names, deadline)
        for name in dict.fromkeys([*(name for name in first if name in names), *names]):
            opening = functools.partial(os.open, self._namespaces.path(name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                yield name, self._worker.call(opening, deadline, undo=os.close)
            except FileNotFoundError:
                continue

    def _firewall(self) -> Nft:
        """The nf_tables part, imported when it is first needed."""
        with self._lock:
            if self._nft is None:
                from libcnm.kernel.linux.nft import Nft

                self._nft = Nft(self._open_firewall, self._tell)
            return self._nft

    def _tell(self, name: str, when: Literal["before", "after"]) -> None:
        self.on_effect(name, when)  # whichever it is then

    def _open_firewall(self, ns: str) -> socket.socket:
        if ns:
            identity = self.namespace(ns)
            if identity is None:
                raise NotFound("namespace", ns)
            self._firewalled[ns] = identity
        return self.open_socket(ns, socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)

    def _forget_firewall(self, ns: str) -> None:
        if self._firewalled.pop(ns, None) is not None:
            self._firewall().forget(ns)

    def _mounts_changed(self) -> None:
        """On the worker's thread: somebody mounted or unmounted something."""
        self._channels.drop_unpinned()
        for ns, identity in list(self._firewalled.items()):
            if self._namespaces.pinned(ns) != identity:
                # Not here: closing waits for the kernel, and for whoever waits for this thread.
                threading.Thread(target=self._forget_firewall, args=(ns,), daemon=True).start()
