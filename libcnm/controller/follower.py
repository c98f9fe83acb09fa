"""The follower: keeps a replica of the records, and makes names and overlay peers follow it.

Level-triggered: a watch only says where to look again; what is served and what is programmed is always computed from
the records as they are now. The resident runs one; with ``resident="inline"`` a controller runs one in its own
thread, which tests and simulations use. Not thread-safe: its owner holds one lock around every call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from libcnm.contracts.driver import NetworkView
from libcnm.controller import zones
from libcnm.controller.context import Context
from libcnm.controller.delta import delta
from libcnm.controller.repository import Repository
from libcnm.dns.view import SandboxView
from libcnm.dns.zone import NetworkZone
from libcnm.errors import CnmError, Corrupt
from libcnm.kv.base import Entry, Gap, Watch
from libcnm.model import keys
from libcnm.model.codec import decode
from libcnm.model.deadline import Deadline
from libcnm.model.records import EndpointRecord, NetworkRecord, Presence, SandboxRecord, Scope
from libcnm.model.resource import Resource

log = logging.getLogger("libcnm.follower")

_FOLLOWED: Final = (keys.NETWORKS, keys.ENDPOINTS, keys.SANDBOXES, keys.PRESENCES)


class Names:
    """Who serves a sandbox's names. The resident's serves DNS; this one, for whoever has no resident, serves nobody."""

    def show(self, record: SandboxRecord, view: SandboxView) -> None:
        """Serve the sandbox with this view from now on."""

    def hide(self, sandbox_id: str) -> None:
        """Stop serving it."""


@attrs.define
class _Scope:
    """One store's part of the replica."""

    repository: Repository
    watch: Watch | None = None
    seen: set[str] = attrs.field(factory=set)


class Follower:
    """The replica, the zones, and the peers programmed so far."""

    def __init__(self, context: Context, names: Names | None = None) -> None:
        self._context = context
        self._names = names or Names()
        self._scopes: dict[Scope, _Scope] = {}
        self.networks: dict[str, NetworkRecord] = {}
        self.endpoints: dict[str, dict[str, EndpointRecord]] = {}
        self.sandboxes: dict[str, SandboxRecord] = {}
        self.presences: dict[str, Presence] = {}
        self._zones: dict[str, NetworkZone] = {}
        self._peers: dict[str, dict[str, tuple[Resource, ...]]] = {}
        self._made: dict[str, int] = {}
        self._stale_views: set[str] = set()
        self._stale_names: set[tuple[str, str]] = set()
        self._stale_peers: dict[str, set[str]] = {}
        self._shown: set[str] = set()
        self._attached: dict[str, set[tuple[str, str]]] = {}
        self._host_upstreams = zones.HostUpstreams(context.doors.files, context.doors.clock)

    # -- following ---------------------------------------------------------------------------------------------------

    def refresh(self, deadline: Deadline) -> None:
        """Take in everything that was committed before this call, in every store that answers, and act on it.

        A cluster store that does not answer is logged and tried again at the next call; local names never wait for it.
        """
        self._refresh_scope("local", deadline)
        if self._context.doors.cluster is not None:
            try:
                self._refresh_scope("global", deadline)
            except CnmError as error:
                log.warning("cluster store: %s", error)
        self.settle(deadline)

    def settle(self, deadline: Deadline) -> None:
        """Make peers, names and views follow what has been taken in, in this order.

        A name is not answered before its endpoint can be reached: whoever asks and then sends would else lose a second
        to the retransmission of an unanswered ARP request.
        """
        for network_id in list(self._stale_peers):
            self._program_peers(network_id, deadline)
        for network_id, endpoint_id in self._stale_names:
            self._name(network_id, endpoint_id)
        self._stale_names.clear()
        for sandbox_id in list(self._stale_views):
            self._show(sandbox_id)
        self._stale_views.clear()

    def forget_peers(self, network_id: str) -> None:
        """Somebody may have changed a network's rows behind our back: program all of them again at the next settle."""
        self._peers.pop(network_id, None)
        self._stale_peers[network_id] = set(self.endpoints.get(network_id, ()))

    def close(self) -> None:
        """End the watches; what is served and programmed stays."""
        for scope in self._scopes.values():
            if scope.watch is not None:
                scope.watch.close()
        self._scopes.clear()

    def _refresh_scope(self, name: Scope, deadline: Deadline) -> None:
        scope = self._scopes.get(name)
        if scope is None:
            scope = self._scopes[name] = _Scope(self._context.repository(name))
        if scope.watch is None:
            self._list(name, scope, deadline)
        while True:
            assert scope.watch is not None, "a listing opens a watch"
            hint = scope.watch.next(0)
            if hint is None:
                return
            if isinstance(hint, Gap):
                log.info("listing the %s store again: %s", name, hint.reason)
                self._list(name, scope, deadline)
                continue
            changed = [key for key in hint.keys if key.startswith(_FOLLOWED)]
            found = scope.repository.store.get_many(changed, deadline=deadline)
            for key in changed:
                self._take(scope, key, found.get(key))

    def _list(self, name: Scope, scope: _Scope, deadline: Deadline) -> None:
        if scope.watch is not None:
            scope.watch.close()
            scope.watch = None
        store = scope.repository.store
        listing = store.list("", deadline=deadline)
        here = {entry.key: entry for entry in listing.entries if entry.key.startswith(_FOLLOWED)}
        # Networks first: an endpoint means nothing without its own.
        for key in sorted(here, key=lambda one: not one.startswith(keys.NETWORKS)):
            self._take(scope, key, here[key])
        for key in scope.seen - here.keys():
            self._take(scope, key, None)
        scope.watch = store.watch("", listing.revision)

    # -- taking in ---------------------------------------------------------------------------------------------------

    def _take(self, scope: _Scope, key: str, entry: Entry | None) -> None:
        if entry is None:
            scope.seen.discard(key)
        else:
            scope.seen.add(key)
        takers: dict[str, Callable[[str, Entry | None], None]] = {
            keys.NETWORKS: self._take_network,
            keys.ENDPOINTS: self._take_endpoint,
            keys.SANDBOXES: self._take_sandbox,
            keys.PRESENCES: self._take_presence,
        }
        try:
            for prefix, taker in takers.items():
                if key.startswith(prefix):
                    taker(key, entry)
        except Corrupt as error:
            # One bad record costs itself only; it is named, left alone, and its last good version stays in force.
            log.warning("%s", error)

    def _take_network(self, key: str, entry: Entry | None) -> None:
        network_id = key.removeprefix(keys.NETWORKS)
        if entry is None:
            self.networks.pop(network_id, None)
            self._zones.pop(network_id, None)
            self._peers.pop(network_id, None)
            self._stale_peers.pop(network_id, None)
            return
        record = decode(NetworkRecord, entry.value, key)
        first = network_id not in self.networks
        self.networks[network_id] = record
        if first:
            self._zones[network_id] = zones.new_zone(record)
            self._stale_names.update((network_id, endpoint_id) for endpoint_id in self.endpoints.get(network_id, ()))

    def _take_endpoint(self, key: str, entry: Entry | None) -> None:
        network_id, _, endpoint_id = key.removeprefix(keys.ENDPOINTS).partition("/")
        table = self.endpoints.setdefault(network_id, {})
        old = table.get(endpoint_id)
        new = None if entry is None else decode(EndpointRecord, entry.value, key)
        if new is None:
            table.pop(endpoint_id, None)
        else:
            table[endpoint_id] = new
        self._stale_names.add((network_id, endpoint_id))
        self._stale_peers.setdefault(network_id, set()).add(endpoint_id)
        for record in (old, new):
            place = None if record is None else record.attachment
            if place is not None and place.host == self._context.host_name:
                self._stale_views.add(place.sandbox_id)
                attached = self._attached.setdefault(place.sandbox_id, set())
                if record is new:
                    attached.add((network_id, endpoint_id))
                else:
                    attached.discard((network_id, endpoint_id))

    def _take_sandbox(self, key: str, entry: Entry | None) -> None:
        sandbox_id = key.removeprefix(keys.SANDBOXES)
        if entry is None:
            self.sandboxes.pop(sandbox_id, None)
            self._attached.pop(sandbox_id, None)
        else:
            self.sandboxes[sandbox_id] = decode(SandboxRecord, entry.value, key)
        self._stale_views.add(sandbox_id)

    def _take_presence(self, key: str, entry: Entry | None) -> None:
        network_id = key.removeprefix(keys.PRESENCES)
        if entry is None:
            self.presences.pop(network_id, None)
        else:
            self.presences[network_id] = decode(Presence, entry.value, key)
        self.forget_peers(network_id)

    # -- acting ------------------------------------------------------------------------------------------------------

    def _name(self, network_id: str, endpoint_id: str) -> None:
        network, zone = self.networks.get(network_id), self._zones.get(network_id)
        if network is None or zone is None:
            return
        record = self.endpoints.get(network_id, {}).get(endpoint_id)
        named = None if record is None else zones.name_record(network, record)
        if named is None:
            zone.remove(endpoint_id)
        else:
            zone.put(named)

    def _show(self, sandbox_id: str) -> None:
        record = self.sandboxes.get(sandbox_id)
        if record is None or record.state != "ready" or not record.namespace:
            if sandbox_id in self._shown:
                self._shown.discard(sandbox_id)
                self._names.hide(sandbox_id)
            return
        seen = zones.view(record, self._networks_of(sandbox_id), self._host_upstreams.of(record))
        self._shown.add(sandbox_id)
        self._names.show(record, seen)

    def _networks_of(self, sandbox_id: str) -> list[tuple[NetworkRecord, NetworkZone]]:
        found = []
        for network_id, endpoint_id in self._attached.get(sandbox_id, ()):
            network = self.networks.get(network_id)
            endpoint = self.endpoints.get(network_id, {}).get(endpoint_id)
            place = None if endpoint is None else endpoint.attachment
            if network is not None and place is not None and place.sandbox_id == sandbox_id and place.state == "ready":
                order = (-place.priority, network.internal, network.name, endpoint_id)
                found.append((order, network, self._zones[network_id]))
        return [(network, zone) for _, network, zone in sorted(found, key=lambda one: one[0])]

    def _program_peers(self, network_id: str, deadline: Deadline) -> None:
        changed = self._stale_peers.pop(network_id, set())
        network, presence = self.networks.get(network_id), self.presences.get(network_id)
        active = presence is not None and presence.ready and presence.boot_id == self._context.doors.kernel.boot_id
        if network is None or presence is None or not active:
            self._peers.pop(network_id, None)
            return
        driver = self._context.registry.driver(network.driver)
        made = self._peers.get(network_id)
        if made is None or self._made.get(network_id) != presence.epoch:
            made = self._peers[network_id] = {}
            self._made[network_id] = presence.epoch
            changed = set(self.endpoints.get(network_id, ()))
        facts, view = self._context.facts(driver), NetworkView(network, presence.epoch)
        wanted: dict[str, tuple[Resource, ...]] = {}
        for endpoint_id in changed:
            record = self.endpoints.get(network_id, {}).get(endpoint_id)
            place = None if record is None else record.attachment
            remote = place is not None and place.state == "ready" and place.host != self._context.host_name
            wanted[endpoint_id] = tuple(driver.peer(facts, view, record)) if record is not None and remote else ()
        before = _flat(made.get(endpoint_id, ()) for endpoint_id in changed)
        after = _flat(wanted.values())
        changes = delta(before, after)
        if changes:
            log.debug("network %s: %s", network_id[:12], "; ".join(map(str, changes)))
            try:
                failed = bool(self._context.engine.carry_out(changes, deadline=deadline))
            except CnmError as error:
                log.warning("peers of network %s: %s", network_id[:12], error)
                failed = True
            if failed:
                # The same difference again next time: replacing a row that is there, or deleting none, does no harm.
                self._stale_peers.setdefault(network_id, set()).update(changed)
                return
        made.update(wanted)

    def peers(self, network_id: str) -> list[Resource]:
        """The rows that should be there for a network's remote endpoints, as of the last refresh."""
        return _flat(self._peers.get(network_id, {}).values())


def _flat(groups: Iterable[tuple[Resource, ...]]) -> list[Resource]:
    # Two endpoints may name one address for an instant (one going, one coming); the last one read wins.
    return list({resource.identity: resource for group in groups for resource in group}.values())
