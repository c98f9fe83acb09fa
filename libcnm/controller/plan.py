"""A dry run: the verbs themselves, through doors that only remember. Nothing on the host or in a store is touched.

The kernel is the real one to read, with what the rehearsed verbs have changed on top of it; every change is accepted,
as no look can tell what the kernel would refuse. The stores are copies in memory; files are not written. So what a verb
would do is said by the very code that would do it.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
from collections.abc import Collection, Mapping, Sequence

import attrs

from libcnm.controller.doors import Doors, ThirdPartyDoors
from libcnm.errors import Forbidden, KernelError, NotSupported
from libcnm.kernel.base import HostNetwork, Kernel, KernelEvents, LinkStatistics, NamespaceId, no_effect_hook
from libcnm.kernel.resources import Namespace
from libcnm.kv.base import Put, Store, Transaction
from libcnm.kv.memory import MemoryStore
from libcnm.model import limits
from libcnm.model.addresses import IPAddress
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Change, Identity, Observed, Resource
from libcnm.system.files import Files
from libcnm.system.locks import Locks


@attrs.frozen
class Plan:
    """What verbs would do on this host: ``changes`` of the kernel, in order, and the store keys they would leave
    ``written`` and ``deleted``. Ids in it are drawn for the rehearsal: the real run draws its own.
    """

    changes: tuple[Change, ...]
    written: tuple[str, ...]
    deleted: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(str(change) for change in self.changes)


class RehearsedKernel(Kernel):
    """The kernel as it would be, and whatever third parties' doors lead to."""

    def __init__(self, real: Kernel) -> None:
        self.boot_id = real.boot_id
        self.on_effect = no_effect_hook
        self.changes: list[Change] = []
        self._real = real
        self._changed: dict[Identity, Resource | None] = {}
        self._theirs: ThirdPartyDoors = {}

    def instead_of(self, doors: ThirdPartyDoors) -> ThirdPartyDoors:
        """This kernel in the place of third parties' doors, which it only asks what is there."""
        self._theirs = doors
        return dict.fromkeys(doors, self)

    def apply(self, changes: Sequence[Change], *, deadline: Deadline) -> tuple[KernelError | None, ...]:
        deadline.check("the rehearsal")
        self.changes.extend(changes)
        for change in changes:
            self._changed[change.resource.identity] = None if change.operation == "delete" else change.resource
        return (None,) * len(changes)

    def sweep(self, namespaces: Collection[str] | None = None) -> int:
        return 0

    def read(
        self, namespaces: Collection[str], kinds: Collection[type[Resource]] | None = None, *, deadline: Deadline
    ) -> tuple[Observed, ...]:
        real = self._real.read(namespaces, kinds, deadline=deadline)
        there = {one.resource.identity: one for one in real if one.resource.identity not in self._changed}
        for identity, resource in self._changed.items():
            place = "" if isinstance(resource, Namespace) else identity[1]
            if resource is not None and place in namespaces and (kinds is None or type(resource) in kinds):
                there[identity] = Observed(resource, ours=True)
        return tuple(there.values())

    def read_one(self, resource: Resource, *, deadline: Deadline) -> Observed | None:
        if resource.identity in self._changed:
            known = self._changed[resource.identity]
            return None if known is None else Observed(known, ours=True)
        return self._theirs.get(type(resource), self._real).read_one(resource, deadline=deadline)

    def identify(self, path: str) -> NamespaceId:
        return self._real.identify(path)

    def namespace(self, name: str) -> NamespaceId | None:
        if not name:
            return self._real.namespace(name)
        identity = Namespace(name).identity
        if identity not in self._changed:
            return self._real.namespace(name)
        known = self._changed[identity]
        if not isinstance(known, Namespace):
            return None
        return NamespaceId(0, 1) if known.source is None else self._real.identify(known.source)

    def namespace_path(self, name: str) -> str:
        return self._real.namespace_path(name)

    def host_networks(self) -> tuple[HostNetwork, ...]:
        return self._real.host_networks()

    def mtu_towards(self, address: IPAddress) -> int:
        return self._real.mtu_towards(address)

    def local_addresses(self) -> tuple[IPAddress, ...]:
        return self._real.local_addresses()

    def statistics(self, ns: str) -> Mapping[str, LinkStatistics]:
        return self._real.statistics(ns)

    def events(self) -> KernelEvents:
        raise NotSupported("a rehearsal has no events")

    def open_socket(self, ns: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        if ns:
            raise NotSupported("a rehearsal opens no socket in a sandbox")
        return self._real.open_socket(ns, family, kind, protocol)

    def spawn(
        self, argv: Sequence[str], ns: str, *, files: Mapping[str, str], options: Mapping[str, object]
    ) -> subprocess.Popen[bytes]:
        raise Forbidden("a rehearsal starts no process", hint="plan verbs only, and run programs when they are done")

    def close(self) -> None:
        """Nothing: the real one is not ours."""


class RehearsedFiles(Files):
    """Files to read only."""

    def make_folder(self, path: str, mode: int = 0o700) -> bool:
        return False

    def write(self, path: str, text: str, mode: int = 0o644, *, anew: bool = False) -> None:
        """Nothing."""

    def write_new(self, path: str, text: str, mode: int = 0o600) -> bool:
        return True

    def remove(self, path: str) -> None:
        """Nothing."""

    def remove_folder(self, path: str) -> None:
        """Nothing."""


class RehearsedStore(MemoryStore):
    """A copy of a store, which knows what was written to it since."""

    def __init__(self, real: Store, deadline: Deadline) -> None:
        super().__init__()
        entries = real.list("", deadline=deadline).entries
        for at in range(0, len(entries), limits.TRANSACTION_OPERATIONS):
            some = entries[at : at + limits.TRANSACTION_OPERATIONS]
            super().transact(Transaction((), tuple(Put(one.key, one.value) for one in some)), deadline=deadline)
        self.before = self._values(deadline)

    def _values(self, deadline: Deadline) -> dict[str, bytes]:
        return {entry.key: entry.value for entry in self.list("", deadline=deadline).entries}

    def note(self, deadline: Deadline) -> None:
        """What is there now counts as having been there."""
        self.before = self._values(deadline)

    def differences(self, deadline: Deadline) -> tuple[set[str], set[str]]:
        """The keys whose values are new or different, and those that are gone."""
        now = self._values(deadline)
        return {key for key, value in now.items() if self.before.get(key) != value}, self.before.keys() - now.keys()


class Rehearsal:
    """The doors of one dry run; a context manager around it. What is done before :meth:`begin` is not part of it."""

    def __init__(self, real: Doors, deadline: Deadline) -> None:
        self._kernel = RehearsedKernel(real.kernel)
        self._stores = [RehearsedStore(store, deadline) for store in (real.local, real.cluster) if store is not None]
        self._folder = tempfile.TemporaryDirectory(prefix="libcnm-plan-")  # after what may raise
        self._deadline = deadline
        self._begun = 0
        self.doors = attrs.evolve(
            real,
            kernel=self._kernel,
            local=self._stores[0],
            locks=Locks(self._folder.name),
            files=RehearsedFiles(),
            cluster=self._stores[1] if len(self._stores) > 1 else None,
            third_party=self._kernel.instead_of,
        )

    def __enter__(self) -> Rehearsal:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def begin(self) -> None:
        """From here on it counts."""
        self._begun = len(self._kernel.changes)
        for store in self._stores:
            store.note(self._deadline)

    def plan(self) -> Plan:
        """What has been done since."""
        found = [store.differences(self._deadline) for store in self._stores]
        written = sorted({key for some, _ in found for key in some})
        deleted = sorted({key for _, some in found for key in some})
        return Plan(tuple(self._kernel.changes[self._begun :]), tuple(written), tuple(deleted))
