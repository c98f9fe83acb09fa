"""A host's kernel in memory, with Linux's semantics and Linux's errnos, for tests and simulations without root.

Deterministic: no clock, no randomness. Every single change is an effect of its own, finer than Linux, so that a crash
can be placed after any subset of a batch; a hook that raises leaves the state as it is at that instant. Vandals
(``vandalise_*``, :meth:`FakeKernel.flush_firewall`, :meth:`FakeKernel.reboot`) do what other people do to a host. What
Linux allows is in the ``_fake_*`` modules; what is known to differ from Linux is listed in
``tests/conformance/kernel_differences.md``. It never knows networks, endpoints or stores.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import subprocess
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs

from libcnm.errors import Invalid, KernelError, NotFound, NotSupported
from libcnm.kernel import _fake_apply, _fake_host, _fake_links, _fake_read, _fake_routing
from libcnm.kernel._fake_events import FakeEvents
from libcnm.kernel._fake_state import HOST_INODE, NSFS_DEVICE, Machine, Row, Space, Table
from libcnm.kernel.base import (
    Effect,
    HostNetwork,
    Kernel,
    KernelEvent,
    KernelEvents,
    LinkStatistics,
    NamespaceId,
    no_effect_hook,
)
from libcnm.kernel.resources import Address, FirewallTable, Interface, Namespace, Route
from libcnm.model.addresses import IPAddress
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Change, Identity, Observed, Resource

_HOST_PATHS = frozenset({"/proc/self/ns/net", "/proc/thread-self/ns/net", "/proc/1/ns/net"})
_NO_STATISTICS = LinkStatistics(0, 0, 0, 0, 0, 0, 0, 0)


@attrs.frozen
class Uplink:
    """A link of the host that is not ours: up, with addresses, and perhaps the way to everywhere else."""

    name: str = "eth0"
    addresses: Sequence[str] = ("192.0.2.10/24", "2001:db8::10/64")
    mtu: int = 1500
    gateway: str | None = "192.0.2.1"


class FakeKernel(Kernel):
    """One host. Create several for several hosts; they do not reach each other."""

    def __init__(
        self,
        *,
        uplinks: Sequence[Uplink] = (Uplink(),),
        run_dir: str = "/run/libcnm",
        host: str = "fake",
        lo_up: bool = True,
        on_effect: Effect = no_effect_hook,
    ) -> None:
        self.on_effect = on_effect
        self.run_dir = run_dir
        self.host = host
        self._lo_up = lo_up
        self._uplinks = tuple(uplinks)
        self._lock = threading.RLock()
        self._subscriptions: list[FakeEvents] = []
        self._boots = 0
        self._machine = Machine()
        self._boot()

    def _boot(self) -> None:
        self._boots += 1
        self.boot_id = f"{self.host}-boot-{self._boots}"
        # Inodes go on from where they were: a test finds out when somebody remembers one across a reboot.
        self._machine = Machine(last_inode=self._machine.last_inode)
        space = _fake_apply.new_space(self._machine, made=False, inode=HOST_INODE)
        space.links[1].up = self._lo_up
        for uplink in self._uplinks:
            self._plug(space, uplink)

    @staticmethod
    def _plug(space: Space, uplink: Uplink) -> None:
        mac = f"52:54:00:00:00:{space.last_index:02x}"
        link = _fake_links.new_link(space, uplink.name, "other", mac, uplink.mtu, 0)
        link.up = True
        for text in uplink.addresses:
            address = Address("", uplink.name, ipaddress.ip_interface(text))
            space.addresses[link.index, address.address] = Row(address, link.index, marked=False)
        if uplink.gateway is not None:
            gateway = ipaddress.ip_address(uplink.gateway)
            everywhere = ipaddress.ip_network("0.0.0.0/0" if gateway.version == 4 else "::/0")
            route = Route("", everywhere, uplink.name, gateway)
            space.routes[_fake_routing.key(route)] = Row(route, link.index, marked=False)

    # -- changing -----------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change], *, deadline: Deadline) -> tuple[KernelError | None, ...]:
        outcomes: list[KernelError | None] = []
        refused: set[Identity] = set()
        for change in changes:
            deadline.check(f"the kernel: {change}")
            # The hook is called without the lock: one that pauses must not stop other threads, as it does not on Linux.
            self.on_effect(str(change), "before")
            outcomes.append(self._attempt(change, refused))
            self.on_effect(str(change), "after")
        return tuple(outcomes)

    def _attempt(self, change: Change, refused: set[Identity]) -> KernelError | None:
        with self._lock:
            events = _fake_apply.events_of(self._machine, change)
            try:
                _fake_apply.vouch(self._machine, change, refused, str(change)[2:])
                self._one(change)
            except KernelError as error:
                if change.operation == "add" and error.errno == errno.EEXIST:
                    refused.update(change.resource.provides)
                return error
            finally:
                self._announce(events | _fake_apply.events_of(self._machine, change))
        return None

    def _one(self, change: Change) -> None:
        resource, subject = change.resource, str(change)[2:]
        if isinstance(resource, Namespace):
            self._change_namespace(change, resource, subject)
        elif change.operation == "add":
            _fake_apply.make(self._machine, resource, subject, marked=True)
        elif change.operation == "change":
            _fake_apply.change(self._machine, resource, change.previous, subject)
        else:
            _fake_apply.unmake(self._machine, resource, subject)

    def _change_namespace(self, change: Change, namespace: Namespace, subject: str) -> None:
        if change.operation == "delete":
            _fake_apply.delete_namespace(self._machine, namespace.name, subject)
        elif change.operation == "change":
            raise KernelError(errno.EOPNOTSUPP, subject)
        else:
            source = None
            if namespace.source is not None:
                source = self._inode_behind(namespace.source)
                if source is None:
                    raise KernelError(errno.ENOENT, subject)
            _fake_apply.add_namespace(self._machine, namespace, subject, source)

    def sweep(self, namespaces: Collection[str] | None = None) -> int:
        self.on_effect("sweep", "before")
        with self._lock:
            spaces = None if namespaces is None else [self._machine.space(name) for name in namespaces]
            swept = _fake_links.sweep(self._machine, spaces)
            self._announce({KernelEvent(name, "links") for inode in swept for name in self._machine.names(inode)})
        self.on_effect("sweep", "after")
        return len(swept)

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(
        self, namespaces: Collection[str], kinds: Collection[type[Resource]] | None = None, *, deadline: Deadline
    ) -> tuple[Observed, ...]:
        deadline.check("reading the kernel")
        wanted = _fake_read.KINDS if kinds is None else tuple(kinds)
        with self._lock:
            return tuple(
                observed
                for ns in sorted(set(namespaces))
                for kind in wanted
                for observed in _fake_read.read_space(self._machine, ns, kind)
            )

    def read_one(self, resource: Resource, *, deadline: Deadline) -> Observed | None:
        deadline.check("reading the kernel")
        with self._lock:
            return _fake_read.read_one(self._machine, resource)

    def identify(self, path: str) -> NamespaceId:
        with self._lock:
            inode = self._inode_behind(path)
        if inode is None:
            raise Invalid("path", path, "is not a network namespace")
        return NamespaceId(NSFS_DEVICE, inode)

    def _inode_behind(self, path: str) -> int | None:
        if path in _HOST_PATHS:
            return HOST_INODE
        directory, _, name = path.rpartition("/")
        if directory == f"{self.run_dir}/netns" and name in self._machine.pins:
            return self._machine.pins[name]
        return self._machine.paths.get(path)

    def namespace(self, name: str) -> NamespaceId | None:
        with self._lock:
            inode = self._machine.pins.get(name) if name else HOST_INODE
        return None if inode is None else NamespaceId(NSFS_DEVICE, inode)

    def namespace_path(self, name: str) -> str:
        try:
            _fake_apply.check_name(name, name)
        except KernelError:
            raise Invalid("namespace", name, "is not a name for a namespace") from None
        return f"{self.run_dir}/netns/{name}"

    def host_networks(self) -> tuple[HostNetwork, ...]:
        with self._lock:
            return _fake_host.networks(self._machine.host)

    def mtu_towards(self, address: IPAddress) -> int:
        with self._lock:
            return _fake_host.mtu_towards(self._machine.host, address)

    def local_addresses(self) -> tuple[IPAddress, ...]:
        with self._lock:
            return _fake_host.addresses(self._machine.host)

    def statistics(self, ns: str) -> Mapping[str, LinkStatistics]:
        with self._lock:
            space = self._machine.space(ns)
            if space is None:
                raise NotFound("namespace", ns)
            return {link.name: _NO_STATISTICS for link in space.links.values() if not link.parked}

    def events(self) -> KernelEvents:
        subscription = FakeEvents(self._unsubscribe)
        with self._lock:
            self._subscriptions.append(subscription)
        return subscription

    def _unsubscribe(self, subscription: FakeEvents) -> None:
        with self._lock:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)

    def _announce(self, events: Collection[KernelEvent]) -> None:
        in_order = sorted(events, key=lambda event: (event.ns, event.what))
        for subscription in tuple(self._subscriptions):
            subscription.notify(in_order)

    # -- acting inside a namespace ------------------------------------------------------------------------------------

    def open_socket(self, ns: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Refused: a socket of the real host would leave the fake."""
        raise NotSupported("the fake kernel has no sockets", hint="use LinuxKernel, in a private namespace")

    def spawn(
        self, argv: Sequence[str], ns: str, *, files: Mapping[str, str], options: Mapping[str, object]
    ) -> subprocess.Popen[bytes]:
        """Refused: a process would run on the real host."""
        raise NotSupported("the fake kernel has no processes", hint="use LinuxKernel, in a private namespace")

    def close(self) -> None:
        for subscription in tuple(self._subscriptions):
            subscription.close()

    # -- what tests compare -------------------------------------------------------------------------------------------

    def everything(self) -> tuple[Observed, ...]:
        """All that can be read, whosever it is, sorted by identity."""
        with self._lock:
            found = [
                observed
                for ns in ("", *self._machine.pins)
                for kind in _fake_read.KINDS
                for observed in _fake_read.read_space(self._machine, ns, kind)
            ]
        return tuple(sorted(found, key=lambda observed: observed.resource.identity))

    def snapshot(self) -> tuple[object, ...]:
        """The state as one comparable value: all that can be read, the sysctls, links waiting for the sweep."""
        with self._lock:
            settings: list[tuple[str, str, str]] = []
            parked: list[tuple[str, str]] = []
            for ns in ("", *sorted(self._machine.pins)):
                space = self._machine.need(ns, ns)
                settings += [(ns, key, value) for key, value in space.settings.items()]
                for link in space.links.values():
                    if link.parked:
                        parked.append((ns, link.name))
                    else:
                        settings += [(ns, f"{link.name}:{key}", value) for key, value in link.settings.items()]
                        settings.append((ns, f"{link.name}:up", str(link.up)))
            return self.everything(), tuple(sorted(settings)), tuple(sorted(parked))

    def fork(self) -> FakeKernel:
        """An independent copy, without subscriptions and without the hook."""
        with self._lock:
            twin = FakeKernel(uplinks=self._uplinks, run_dir=self.run_dir, host=self.host, lo_up=self._lo_up)
            twin._machine, twin._boots, twin.boot_id = self._machine.copy(), self._boots, self.boot_id
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> FakeKernel:
        return self.fork()

    # -- what other people do to a host -------------------------------------------------------------------------------

    def make_foreign_namespace(self, path: str) -> NamespaceId:
        """Somebody else's namespace, kept by them at ``path``; bring it with ``Namespace(name, source=path)``."""
        with self._lock:
            space = _fake_apply.new_space(self._machine, made=False)
            self._machine.paths[path] = space.id.inode
            return space.id

    def remove_foreign_namespace(self, path: str) -> None:
        """They let go of it; it ends unless we have it pinned."""
        with self._lock:
            self._machine.pins["?"] = self._machine.paths.pop(path)
            _fake_apply.delete_namespace(self._machine, "?", path)

    def vandalise_add(self, resource: Resource) -> None:
        """Somebody makes this by hand: the same thing without our mark. KernelError when the kernel refuses."""
        with self._lock:
            _fake_apply.make(self._machine, resource, f"by hand: {resource.identity}", marked=False)
            self._announce(_fake_apply.events_of(self._machine, Change("add", resource)))

    def vandalise_change(self, resource: Resource) -> None:
        """Somebody changes what is there to this by hand; the marks stay as they are."""
        with self._lock:
            _fake_apply.change(self._machine, resource, None, f"by hand: {resource.identity}")
            self._announce(_fake_apply.events_of(self._machine, Change("change", resource)))

    def vandalise_delete(self, identity: Identity) -> None:
        """Somebody deletes what holds that identity, links for good; NotFound when nothing does."""
        with self._lock:
            found = next((one.resource for one in self.everything() if one.resource.identity == identity), None)
            if found is None:
                raise NotFound(identity[0], " ".join(identity[1:]))
            step = Change("delete", found)
            events = _fake_apply.events_of(self._machine, step)
            space = self._machine.space(identity[1])
            link = space.find(identity[2]) if space is not None and identity[0] == "link" else None
            if link is not None and space is not None:
                _fake_links.remove(self._machine, space, link)
            elif isinstance(found, Interface) or not _forget_row(space, found):
                self._one(step)
            self._announce(events)

    def vandalise_table(self, table: FirewallTable) -> None:
        """The table is of that version now (another libcnm's, or damaged); its elements stay."""
        with self._lock:
            space = self._machine.need(table.ns, table.name)
            space.tables.setdefault(table.name, Table(table.version)).version = table.version
            self._announce({KernelEvent(table.ns, "firewall")})

    def flush_firewall(self, ns: str = "") -> None:
        """Somebody runs ``nft flush ruleset``."""
        with self._lock:
            self._machine.need(ns, ns).tables.clear()
            self._announce({KernelEvent(ns, "firewall")})

    def reboot(self) -> None:
        """The power went: every namespace, link, rule and pin is gone, the uplinks are back, ``boot_id`` is another."""
        with self._lock:
            self._boot()
        for subscription in tuple(self._subscriptions):
            subscription.lose()


def _forget_row(space: Space | None, resource: Resource) -> bool:
    """Drop a row whosever it is; False when the resource is not one."""
    if space is None:
        return False
    held: dict[Any, Row] = {**space.routes, **space.rules}
    key = next((key for key, row in held.items() if row.resource.identity == resource.identity), None)
    removed = (space.routes.pop(key, None), space.rules.pop(key, None)) if key is not None else (None,)
    return any(removed)
