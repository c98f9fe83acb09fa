"""The nf_tables part of the kernel door: firewall tables and their elements, over our own netlink messages.

Consecutive changes of one namespace travel as one transaction. Only tables that the caller names are touched. There is
no nft program here, and no nft text. What the messages are: nft_send (changes), nft_table and nft_rules (the
structure), nft_elements, nft_read, nft_socket, nft_wire. Law: include/uapi/linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno
import itertools
import socket
import threading
from collections.abc import Callable, Collection, Sequence

from libcnm.errors import KernelError, NotFound, Unavailable
from libcnm.kernel.base import Effect, no_effect_hook
from libcnm.kernel.linux.nft_read import read_element_of, read_resources
from libcnm.kernel.linux.nft_send import Sender, Step
from libcnm.kernel.linux.nft_socket import NftSocket, Refused, Stale
from libcnm.kernel.resources import FirewallElement, FirewallTable
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Change, Observed, Resource


class Nft:
    """Firewall tables and elements of all namespaces. Thread-safe; one cached socket and one lock per namespace.

    ``open_socket(ns)`` gives a netlink socket of protocol NETLINK_NETFILTER in a namespace, ``""`` being the host's. It
    is kept open, because closing one after a deletion waits 16-20 ms for the kernel: call :meth:`forget` when a
    namespace goes. ``on_effect`` is told of every transaction as ``"nft"``; it may be replaced at any time.
    """

    def __init__(self, open_socket: Callable[[str], socket.socket], on_effect: Effect = no_effect_hook) -> None:
        self._open_socket = open_socket
        self.on_effect = on_effect
        self._lock = threading.Lock()
        self._doors: dict[str, tuple[threading.Lock, NftSocket]] = {}

    # -- sockets -------------------------------------------------------------------------------------------------------

    def _door(self, ns: str) -> tuple[threading.Lock, NftSocket]:
        with self._lock:
            if ns not in self._doors:
                try:
                    opened = self._open_socket(ns)
                except OSError as error:
                    raise Unavailable("nf_tables", f"{error.strerror}") from error
                self._doors[ns] = (threading.Lock(), NftSocket(opened, lambda: self.on_effect))
            return self._doors[ns]

    def forget(self, ns: str) -> None:
        """Close the namespace's socket: it keeps the namespace alive, and a new one of that name is another one."""
        with self._lock:
            door = self._doors.pop(ns, None)
        if door is not None:
            with door[0]:
                door[1].close()

    def close(self) -> None:
        """Close all sockets; changes nothing in the kernel. Idempotent."""
        for ns in list(self._doors):
            self.forget(ns)

    # -- changing ------------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change], *, deadline: Deadline) -> tuple[KernelError | None, ...]:
        """Make changes of :class:`FirewallTable` and :class:`FirewallElement` in order; one outcome each.

        Adding what is there is EEXIST, deleting what is not is ENOENT, a key that fits no set is EINVAL. Adding a table
        of another or a damaged version replaces it in place (as ``change`` does); sets that stay the same keep their
        elements.
        """
        steps = [Step(index, change) for index, change in enumerate(changes)]
        for ns, group in itertools.groupby(steps, key=lambda step: _namespace(step.change.resource)):
            together = list(group)
            try:
                lock, door = self._door(ns)
            except NotFound:
                for step in together:
                    step.refuse(errno.ENOENT, f"namespace {ns!r} is not there")
                continue
            with lock:
                Sender(door, deadline).send(together)
        return tuple(step.outcome for step in steps)

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self, ns: str, tables: Collection[str] | None = None, *, deadline: Deadline) -> tuple[Observed, ...]:
        """The tables of these names (default: all that carry our comment) and their elements, all ours, of one moment.

        A table that is not as this version makes it reads with "-damaged" behind its version. Nothing for a namespace
        that is not there.
        """
        try:
            lock, door = self._door(ns)
        except NotFound:
            return ()
        with lock:
            while True:
                deadline.check("reading nf_tables")
                try:
                    return tuple(Observed(one, ours=True) for one in read_resources(door, ns, tables, deadline))
                except Stale:
                    continue
                except Refused as refused:
                    raise Unavailable("nf_tables", f"errno {refused.errno}") from refused

    def read_one(self, resource: FirewallTable | FirewallElement, *, deadline: Deadline) -> Observed | None:
        """What holds that resource's identity now, or None."""
        if isinstance(resource, FirewallTable):
            read = self.read(resource.ns, (resource.name,), deadline=deadline)
            return next((one for one in read if one.resource.identity == resource.identity), None)
        try:
            lock, door = self._door(resource.ns)
            with lock:
                found = read_element_of(door, resource, deadline)
        except NotFound:
            return None
        except Refused as refused:
            if refused.errno == errno.ENOENT:
                return None
            raise Unavailable("nf_tables", f"errno {refused.errno}") from refused
        return None if found is None else Observed(found, ours=True)


def _namespace(resource: Resource) -> str:
    if isinstance(resource, FirewallTable | FirewallElement):
        return resource.ns
    raise TypeError(f"{type(resource).__name__} is not the firewall's")
