"""The follower: keeps a replica of the records, and makes names and overlay peers follow it.

Level-triggered: a watch only says where to look again; what is served and what is programmed is always computed from
the records as they are now. The resident runs one; with ``resident="inline"`` a controller runs one in its own
thread, which tests and simulations use. Not thread-safe: its owner holds one lock around every call.

Other hosts write the cluster's store, so none of its records is trusted with more than itself. One that cannot be read,
or that a driver or the kernel chokes on, is named once and costs itself only. What is attached *here* is said by this
host's own ledger, whatever a record claims; sandboxes and presences are read from this host's own store alone.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final, Literal, ParamSpec, TypeVar

import attrs

from libcnm.contracts.driver import NetworkView
from libcnm.controller import zones
from libcnm.controller.context import Context, News
from libcnm.controller.delta import delta
from libcnm.controller.peer_rows import FOUND, Rows, rows_there
from libcnm.controller.repository import Repository
from libcnm.dns.view import SandboxView
from libcnm.dns.zone import NetworkZone
from libcnm.errors import CnmError
from libcnm.kv.base import Entry, Gap, Watch
from libcnm.model import keys, limits
from libcnm.model.checks import check_driver_scope, check_member, check_scope
from libcnm.model.codec import decode
from libcnm.model.deadline import Deadline
from libcnm.model.records import EndpointRecord, LedgerLine, NetworkRecord, Presence, SandboxRecord, Scope
from libcnm.model.resource import Resource

log = logging.getLogger("libcnm.follower")

P = ParamSpec("P")
K = TypeVar("K")
V = TypeVar("V")

NetworkKey = tuple[Scope, str]
"""A network by its store and id: whatever the cluster's store calls by a local network's id is another one."""
EndpointKey = tuple[Scope, str, str]
"""An endpoint by its network's store, its network's id, and its own."""

_FOLLOWED: Final[Mapping[Scope, tuple[str, ...]]] = {
    "local": (keys.NETWORKS, keys.ENDPOINTS, keys.SANDBOXES, keys.PRESENCES, keys.ATTACHMENTS),
    "global": (keys.NETWORKS, keys.ENDPOINTS),
}
_REFUSALS: Final = 3
"""How often the kernel may refuse an endpoint's rows before they are left out until something changes."""


class Names:
    """Who serves a sandbox's names. The resident's serves DNS; this one, for whoever has no resident, serves nobody."""

    def show(self, record: SandboxRecord, view: SandboxView) -> bool:
        """Serve the sandbox with this view from now on; False when it has no namespace (yet) to be served in."""
        return True

    def serves(self, record: SandboxRecord) -> bool:
        """Whether it was last shown where it is now: its namespace may have gone, and another one been made."""
        return True

    def hide(self, sandbox_id: str) -> None:
        """Stop serving it."""


@attrs.define
class _Scope:
    """One store's part of the replica. ``seen``: the version that was last taken in, for each key that is there;
    ``pending``: keys that somebody has named and that were not read yet.
    """

    repository: Repository
    watch: Watch | None = None
    seen: dict[str, int] = attrs.field(factory=dict)
    pending: dict[str, None] = attrs.field(factory=dict)


class Follower:
    """The replica, the zones, and the peers programmed so far."""

    def __init__(self, context: Context, names: Names | None = None) -> None:
        self._context = context
        self._names = names or Names()
        self._scopes: dict[Scope, _Scope] = {}
        self.networks: dict[NetworkKey, NetworkRecord] = {}
        self.endpoints: dict[NetworkKey, dict[str, EndpointRecord]] = {}
        self.sandboxes: dict[str, SandboxRecord] = {}
        self.presences: dict[str, Presence] = {}
        self._zones: dict[NetworkKey, NetworkZone] = {}
        self._peers: dict[NetworkKey, Rows] = {}
        self._refused: Counter[EndpointKey] = Counter()
        self._stale_views: set[str] = set()
        self._stale_names: set[EndpointKey] = set()
        self._stale_peers: dict[NetworkKey, set[str]] = {}
        self._whole: AbstractSet[Scope] = frozenset()
        self._shown: set[str] = set()
        self._ledger: dict[str, set[EndpointKey]] = {}
        self._holders: dict[EndpointKey, set[str]] = {}
        self._complaints: dict[tuple[str, ...], str] = {}
        self._host_upstreams = zones.HostUpstreams(context.doors.files, context.doors.clock)

    # -- following ---------------------------------------------------------------------------------------------------

    def refresh(self, deadline: Deadline) -> None:
        """Take in everything that was committed before this call, in every store that answers, and act on it.

        The host's own store comes first and is acted on before the cluster's is asked, which gets half of the budget at
        most. A cluster store that does not answer is logged and tried again at the next call.
        """
        self._refresh_scope("local", deadline)
        self._settle_whole({"local"}, deadline)
        if self._context.doors.cluster is not None:
            share = Deadline.after(min(deadline.remaining(), deadline.budget / 2), deadline.now)
            whole = self._attempt(("cluster store",), self._refresh_scope, "global", share)
            self._settle_whole({"local", "global"} if whole else {"local"}, deadline)

    def _settle_whole(self, whole: AbstractSet[Scope], deadline: Deadline) -> None:
        self._whole = whole
        self.settle(deadline)
        self._whole = frozenset()

    def take_in(self, changed: News, deadline: Deadline) -> None:
        """Take in what was committed at these keys of the host's own store, with the networks and sandboxes that they
        mean something to, and act on it. What else was committed waits for the next :meth:`refresh`.

        What is said to have been written is believed of a key that is here in an older version. Any other is read: what
        is not here may have been deleted since, and where this is older than what is here, a store was put back.
        """
        scope = self._scopes.get("local")
        if scope is None:
            self.refresh(deadline)
            return
        for key, entry in changed.items():
            seen = scope.seen.get(key)
            if not key.startswith(_FOLLOWED["local"]):
                continue
            if entry is None or seen is None or seen > entry.version:
                first = (one for one in keys.needed(key) if one not in scope.seen)
                scope.pending.update(dict.fromkeys((*first, key)))
            elif seen < entry.version:
                self._take("local", scope, key, entry)
        self._fetch("local", scope, deadline)
        self.settle(deadline)

    def settle(self, deadline: Deadline) -> None:
        """Make peers, names and views follow what has been taken in, in this order. Never fails: what cannot be done is
        logged, and tried again the next time where that may help.

        A name is not answered before its endpoint can be reached: whoever asks and then sends would else lose a second
        to the retransmission of an unanswered ARP request.
        """
        for where in list(self._stale_peers):
            changed = self._stale_peers.pop(where)
            if not self._attempt(("peers of network", where[1][:12]), self._program_peers, where, changed, deadline):
                self._stale_peers.setdefault(where, set()).update(changed)
        for named in self._stale_names:
            if not self._attempt(("name of endpoint", *named), self._name, named):
                self._unname(named)
        self._stale_names.clear()
        self.show_again()

    def show_again(self) -> None:
        """Show what could not be shown: above all sandboxes that are recorded while their namespaces are being made."""
        stale, self._stale_views = self._stale_views, set()
        for sandbox_id in stale:
            if not self._attempt(("names of sandbox", sandbox_id[:12]), self._show, sandbox_id):
                self._stale_views.add(sandbox_id)

    def look_at_namespaces(self) -> None:
        """Some may have been made anew, by whomever; what is not served where it is now is shown at the next settle."""
        here = [one for one in self.sandboxes.values() if one.namespace]
        self._stale_views.update(one.id for one in here if not self._names.serves(one))

    def forget_peers(self, network_id: str) -> None:
        """Somebody may have changed a network's rows behind our back: program all of them again at the next settle."""
        for where in _places(network_id):
            self._peers.pop(where, None)
            self._stale_peers[where] = set(self.endpoints.get(where, ()))
            for endpoint_id in self._stale_peers[where]:
                self._refused.pop((*where, endpoint_id), None)

    def close(self) -> None:
        """End the watches; what is served and programmed stays."""
        for scope in self._scopes.values():
            if scope.watch is not None:
                scope.watch.close()
        self._scopes.clear()

    def _refresh_scope(self, name: Scope, deadline: Deadline) -> None:
        scope = self._scopes.get(name)
        if scope is None:
            scope = self._scopes[name] = self._open(name, deadline)
        if scope.watch is None:
            self._list(name, scope, deadline)
        while True:
            assert scope.watch is not None, "a listing opens a watch"
            self._fetch(name, scope, deadline)
            hint = scope.watch.next(0)
            if hint is None:
                return
            if isinstance(hint, Gap):
                log.info("listing the %s store again: %s", name, hint.reason)
                self._list(name, scope, deadline)
                continue
            # Kept until they have been read: a watch names them once, and the store may not answer now.
            scope.pending.update(dict.fromkeys(key for key in hint.keys if key.startswith(_FOLLOWED[name])))

    def _open(self, name: Scope, deadline: Deadline) -> _Scope:
        cluster = self._context.cluster
        if name == "global" and cluster is not None:
            # Registering this host has a verb's whole budget: first see, on our own, whether the store answers at all.
            cluster.store.get(keys.host(self._context.host_name), deadline=deadline)
        return _Scope(self._context.repository(name))

    def _fetch(self, name: Scope, scope: _Scope, deadline: Deadline) -> None:
        if scope.pending:
            found = scope.repository.store.get_many(scope.pending, deadline=deadline)
            for key in scope.pending:
                entry = found.get(key)
                if (None if entry is None else entry.version) != scope.seen.get(key):
                    self._take(name, scope, key, entry)
            scope.pending.clear()

    def _list(self, name: Scope, scope: _Scope, deadline: Deadline) -> None:
        if scope.watch is not None:
            scope.watch.close()
            scope.watch = None
        store = scope.repository.store
        listing = store.list("", deadline=deadline)
        here = {entry.key: entry for entry in listing.entries if entry.key.startswith(_FOLLOWED[name])}
        # Networks first: an endpoint means nothing without its own.
        for key in sorted(here, key=lambda one: not one.startswith(keys.NETWORKS)):
            self._take(name, scope, key, here[key])
        for key in scope.seen.keys() - here.keys():
            self._take(name, scope, key, None)
        scope.pending.clear()
        scope.watch = store.watch("", listing.revision)

    # -- one thing's trouble is its own ------------------------------------------------------------------------------

    def _attempt(self, what: tuple[str, ...], act: Callable[P, object], *args: P.args, **named: P.kwargs) -> bool:
        """Do it; False when it failed, which is logged once for as long as it fails in the same way.

        Whatever is raised: an unreadable record, a driver's or a zone's defect, an object that the kernel cannot pack.
        """
        try:
            act(*args, **named)
        except Exception as error:  # noqa: BLE001 - what one record does must not end the service of all others
            self._complain(what, error)
            return False
        self._complaints.pop(what, None)
        return True

    def _complain(self, what: tuple[str, ...], error: Exception) -> None:
        reason = (str(error) if isinstance(error, CnmError) else repr(error))[: limits.REASON_CHARS]
        if self._complaints.get(what) == reason:
            return
        if len(self._complaints) >= limits.DECODED_RECORDS:
            self._complaints.clear()
        self._complaints[what] = reason
        log.warning("%s: %s", " ".join(what), reason)
        log.debug("%s", what, exc_info=error)

    # -- taking in ---------------------------------------------------------------------------------------------------

    def _take(self, name: Scope, scope: _Scope, key: str, entry: Entry | None) -> None:
        """A record that cannot be believed is named, left alone, and its last good version stays in force."""
        if entry is None:
            scope.seen.pop(key, None)
        else:
            scope.seen[key] = entry.version
        self._attempt((name, key), self._take_one, name, key, entry)

    def _take_one(self, name: Scope, key: str, entry: Entry | None) -> None:
        if key.startswith(keys.NETWORKS):
            self._take_network((name, key.removeprefix(keys.NETWORKS)), key, entry)
        elif key.startswith(keys.ENDPOINTS):
            network_id, _, endpoint_id = key.removeprefix(keys.ENDPOINTS).partition("/")
            self._take_endpoint((name, network_id, endpoint_id), key, entry)
        elif key.startswith(keys.SANDBOXES):
            self._take_sandbox(key.removeprefix(keys.SANDBOXES), key, entry)
        elif key.startswith(keys.PRESENCES):
            self._take_presence(key.removeprefix(keys.PRESENCES), key, entry)
        else:
            self._take_attachment(key, entry)

    def _take_network(self, where: NetworkKey, key: str, entry: Entry | None) -> None:
        if entry is None:
            self.networks.pop(where, None)
            self._zones.pop(where, None)
            self._peers.pop(where, None)
            self._stale_peers.pop(where, None)
            return
        record = decode(NetworkRecord, entry.value, key)
        check_scope(record, where[0])
        if where not in self.networks:
            self._zones[where] = zones.new_zone(record)
            self._stale_names.update((*where, endpoint_id) for endpoint_id in self.endpoints.get(where, ()))
        self.networks[where] = record

    def _take_endpoint(self, one: EndpointKey, key: str, entry: Entry | None) -> None:
        where: NetworkKey = one[:2]
        if entry is None:
            table = self.endpoints.get(where, {})
            table.pop(one[2], None)
            if not table:
                self.endpoints.pop(where, None)
        else:
            record = decode(EndpointRecord, entry.value, key)
            self.endpoints.setdefault(where, {})[one[2]] = record
        self._changed(one)

    def _changed(self, one: EndpointKey) -> None:
        """An endpoint's record, or what this host's ledger says of it."""
        self._stale_names.add(one)
        self._stale_peers.setdefault(one[:2], set()).add(one[2])
        self._stale_views.update(self._holders.get(one, ()))
        self._refused.pop(one, None)

    def _take_sandbox(self, sandbox_id: str, key: str, entry: Entry | None) -> None:
        if entry is None:
            self.sandboxes.pop(sandbox_id, None)
        else:
            self.sandboxes[sandbox_id] = decode(SandboxRecord, entry.value, key)
        self._stale_views.add(sandbox_id)

    def _take_presence(self, network_id: str, key: str, entry: Entry | None) -> None:
        if entry is None:
            self.presences.pop(network_id, None)
        else:
            self.presences[network_id] = decode(Presence, entry.value, key)
        self.forget_peers(network_id)

    def _take_attachment(self, key: str, entry: Entry | None) -> None:
        sandbox_id, scope, network_id, endpoint_id = keys.parse_attachment(key)
        one: EndpointKey = ("global" if scope == "global" else "local", network_id, endpoint_id)
        if entry is not None:
            decode(LedgerLine, entry.value, key)
            self._ledger.setdefault(sandbox_id, set()).add(one)
            self._holders.setdefault(one, set()).add(sandbox_id)
            self._changed(one)
            return
        self._changed(one)
        _drop(self._ledger, sandbox_id, one)
        _drop(self._holders, one, sandbox_id)

    # -- acting ------------------------------------------------------------------------------------------------------

    def _placed(self, where: NetworkKey, record: EndpointRecord) -> Literal["here", "elsewhere", "nowhere"]:
        """Where an endpoint is attached and ready, as far as that can be believed.

        Here: this host's ledger says so, and the record does not deny it. A record that names this host, or one of its
        sandboxes, without being in the ledger is another host's invention, and one that moves elsewhere what is in the
        ledger is too: only its own host ends an attachment.
        """
        place = record.attachment
        if place is None or place.state != "ready":
            return "nowhere"
        holders = self._holders.get((*where, record.id), ())
        if place.host == self._context.host_name:
            return "here" if place.sandbox_id in holders else "nowhere"
        return "nowhere" if holders or place.sandbox_id in self.sandboxes else "elsewhere"

    def _name(self, one: EndpointKey) -> None:
        where: NetworkKey = one[:2]
        network, zone = self.networks.get(where), self._zones.get(where)
        record = self.endpoints.get(where, {}).get(one[2])
        if network is None or zone is None:
            return
        if record is None or self._placed(where, record) == "nowhere":
            zone.remove(one[2])
            return
        check_member(network, record)
        named = zones.name_record(network, record)
        if named is None:
            zone.remove(one[2])
        else:
            zone.put(named)

    def _unname(self, one: EndpointKey) -> None:
        zone = self._zones.get(one[:2])
        if zone is not None:
            zone.remove(one[2])

    def _show(self, sandbox_id: str) -> None:
        record = self.sandboxes.get(sandbox_id)
        if record is None or not record.namespace:
            if sandbox_id in self._shown:
                self._shown.discard(sandbox_id)
                self._names.hide(sandbox_id)
            return
        seen = zones.view(record, self._networks_of(sandbox_id), self._host_upstreams.of(record))
        self._shown.add(sandbox_id)
        if not self._names.show(record, seen):
            self._stale_views.add(sandbox_id)  # no record changes once its namespace is there

    def _networks_of(self, sandbox_id: str) -> list[tuple[NetworkRecord, NetworkZone]]:
        found = []
        for scope, network_id, endpoint_id in self._ledger.get(sandbox_id, ()):
            where: NetworkKey = (scope, network_id)
            network, endpoint = self.networks.get(where), self.endpoints.get(where, {}).get(endpoint_id)
            if network is None or endpoint is None or self._placed(where, endpoint) != "here":
                continue
            place = endpoint.attachment
            way_out = scope == "local" and endpoint.gateway_of  # what has a name there cannot be reached
            if place is not None and place.sandbox_id == sandbox_id and not way_out:
                found.append(((-place.priority, network.internal, network.name, endpoint_id), where))
        return [(self.networks[where], self._zones[where]) for _, where in sorted(found)]

    # -- peers -------------------------------------------------------------------------------------------------------

    def _program_peers(self, where: NetworkKey, changed: set[str], deadline: Deadline) -> None:
        network, presence = self.networks.get(where), self.presences.get(where[1])
        active = presence is not None and presence.ready and presence.boot_id == self._context.doors.kernel.boot_id
        if network is None or presence is None or not active:
            self._peers.pop(where, None)
            return
        if where[0] == "global" and ("local", where[1]) in self.networks:
            return  # the presence is the local one's: ids are never used twice, but by whoever means harm
        driver = self._context.registry.driver(network.driver)
        check_driver_scope(network, driver.capabilities.scope)
        facts, view = self._context.facts(driver), NetworkView(network, presence.epoch)
        made = self._peers.get(where)
        if made is None or made.epoch != presence.epoch:
            made = Rows(presence.epoch)
            made.put(FOUND, rows_there(self._context, driver, facts, view, deadline))
            self._peers[where] = made
            changed.update(self.endpoints.get(where, ()), (FOUND,))
        if FOUND in changed and where[0] not in self._whole:
            # Whose they are may not have been read yet: what is nobody's is known only when all has been.
            changed.discard(FOUND)
            self._stale_peers.setdefault(where, set()).add(FOUND)
        wanted: dict[str, tuple[Resource, ...]] = dict.fromkeys(changed, ())

        def ask(record: EndpointRecord) -> None:
            if self._placed(where, record) == "elsewhere" and self._refused[*where, record.id] < _REFUSALS:
                check_member(network, record)
                wanted[record.id] = tuple(driver.peer(facts, view, record))

        for endpoint_id in changed:
            known = self.endpoints.get(where, {}).get(endpoint_id)
            if known is not None:
                self._attempt(("peer", *where, endpoint_id), ask, known)
        self._carry_out(where, made, wanted, deadline)

    def _carry_out(
        self, where: NetworkKey, made: Rows, wanted: dict[str, tuple[Resource, ...]], deadline: Deadline
    ) -> None:
        if self._attempt(("peer rows of network", where[1][:12]), self._change_rows, made, wanted, deadline):
            return
        if deadline.remaining() <= 0:
            self._stale_peers.setdefault(where, set()).update(wanted)
            return
        # Somebody's are refused, or cannot even be packed: each endpoint's alone, so that the others have theirs.
        for endpoint_id, rows in wanted.items():
            what = ("peer rows", *where, endpoint_id)
            if self._attempt(what, self._change_rows, made, {endpoint_id: rows}, deadline):
                continue
            made.put(endpoint_id, (*made.of.get(endpoint_id, ()), *rows))
            self._attempt(("withdrawing", *what), self._change_rows, made, {endpoint_id: ()}, deadline)
            made.put(endpoint_id, ())
            self._refused[*where, endpoint_id] += 1
            if self._refused[*where, endpoint_id] < _REFUSALS:
                self._stale_peers.setdefault(where, set()).add(endpoint_id)

    def _change_rows(self, made: Rows, wanted: dict[str, tuple[Resource, ...]], deadline: Deadline) -> None:
        known = {endpoint_id: made.of.get(endpoint_id, ()) for endpoint_id in wanted}
        touched = dict.fromkeys(one.identity for rows in (*known.values(), *wanted.values()) for one in rows)
        before = made.at(touched)
        for endpoint_id, rows in wanted.items():
            made.put(endpoint_id, rows)
        try:
            changes = delta(before, made.at(touched))
            if changes:
                log.debug("peers: %s", "; ".join(map(str, changes)))
                failed = self._context.engine.carry_out(changes, deadline=deadline)
                if failed:
                    raise failed[0]
        except BaseException:
            for endpoint_id, rows in known.items():
                made.put(endpoint_id, rows)
            raise


def _places(network_id: str) -> tuple[NetworkKey, ...]:
    return (("local", network_id), ("global", network_id))


def _drop(table: dict[K, set[V]], key: K, value: V) -> None:
    held = table.get(key, set())
    held.discard(value)
    if not held:
        table.pop(key, None)
