"""The verbs join and leave: an endpoint becomes, or stops being, an interface in a sandbox of this host.

Verb protocol (ARCHITECTURE.md, "join a sandbox"): the intent and the attachment are recorded as preparing; the kernel
is changed; the attachment becomes ready, and only now names and peers know of it. Leaving goes the other way round:
first no longer ready, then the kernel, then free. Every step can be the last one before a crash:
:mod:`libcnm.controller.recovery` undoes a join and finishes a leave with the functions of this file.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from libcnm.contracts.driver import Driver, NetworkView
from libcnm.controller import desired, ledger, port_claims, sandbox_files
from libcnm.controller.context import Context, News
from libcnm.controller.delta import delta
from libcnm.controller.desired import Plug
from libcnm.controller.repository import Repository, Stored, drop, optimistic, outcome_unknown, put, retrying, written
from libcnm.controller.requests import UNNAMED, Request, ended
from libcnm.errors import CnmError, Forbidden, InUse
from libcnm.kv.base import NOTHING, Transaction, together
from libcnm.model import keys, limits
from libcnm.model.addresses import overlaps
from libcnm.model.arguments import whole
from libcnm.model.deadline import Deadline
from libcnm.model.ids import short
from libcnm.model.records import Attachment, EndpointRecord, Intent, NetworkRecord, Presence, SandboxRecord
from libcnm.model.resource import Resource


@attrs.frozen
class _Join:
    """What a join works with, once everything has been read and checked under the locks."""

    driver: Driver
    repository: Repository
    network: NetworkView
    sandbox: SandboxRecord
    others: tuple[Plug, ...]
    endpoint: EndpointRecord
    presence: Presence | None
    stored: Stored[EndpointRecord]
    news: News
    """What was written in this host's store of it so far."""

    @property
    def plug(self) -> Plug:
        return Plug(self.driver, self.network, self.endpoint)

    @property
    def activates(self) -> bool:
        """True when this attachment brings the network to this host."""
        return self.presence is not None


@attrs.frozen
class Joined:
    """What a join has come to: the endpoint's record as committed, and all that its sandbox has from now on."""

    record: EndpointRecord
    plugs: tuple[Plug, ...]


def join(
    context: Context,
    network: NetworkRecord,
    endpoint: EndpointRecord,
    sandbox: SandboxRecord,
    deadline: Deadline,
    *,
    priority: int = 0,
    request: Request = UNNAMED,
) -> Joined:
    """Attach an endpoint to a sandbox of this host; returns when names and peers know of it."""
    whole(priority, "priority", -limits.PRIORITY_MAX, limits.PRIORITY_MAX)
    driver = context.driver(network)
    with context.doors.locks.acquire_all(_locks(driver, network, endpoint, sandbox.id), deadline=deadline):
        work = optimistic(
            deadline,
            f"joining endpoint {endpoint.name!r}",
            lambda careful: _prepare(
                context, driver, network, endpoint, sandbox, priority, request, deadline, careful=careful
            ),
        )
        if network.scope == "local":
            context.follower.foretell(sandbox.id, dict.fromkeys(work.news))
        made = False
        try:
            before, after = _difference(context, work, deadline)
            context.engine.apply(delta(before, after), deadline=deadline)
            made = True
            sandbox_files.write(context, work.sandbox, [*work.others, work.plug], before=work.others)
            record, news = _commit(context, work, deadline)
        except CnmError as error:
            if not outcome_unknown(error):
                _undo(context, work, made=made)
            raise
        try:
            _make_known(context, network, record, {**work.news, **news}, deadline, parked=False)
        except CnmError:
            _take_back(context, driver, network, record, request)  # attached, but without names: not what was asked for
            raise
    return Joined(record, (*work.others, Plug(work.driver, work.network, record)))


def _locks(
    driver: Driver, network: NetworkRecord, endpoint: EndpointRecord, sandbox_id: str
) -> tuple[tuple[str, bool], ...]:
    # Joins to one network run side by side, unless they bring it to the host or take it away, or publish: what that
    # needs of the network (a sysctl of its bridge) is shared with its other endpoints.
    shared = driver.capabilities.presence == "created" and not endpoint.ports
    return ((network.id, shared), (endpoint.id, False), (short(sandbox_id), False))


# -- join, step by step ----------------------------------------------------------------------------------------------


def _prepare(
    context: Context,
    driver: Driver,
    network: NetworkRecord,
    endpoint: EndpointRecord,
    sandbox: SandboxRecord,
    priority: int,
    request: Request,
    deadline: Deadline,
    *,
    careful: bool,
) -> _Join:
    """Read (or remember, unless ``careful``), check, and record the attachment as preparing, with the intent."""
    repository = context.repository(network.scope)
    remembered = not careful
    stored_network = context.network(network.scope, network.id, deadline, name=network.name, remembered=remembered)
    stored = context.endpoint(
        network.scope, network.id, endpoint.id, deadline, name=endpoint.name, remembered=remembered
    )
    stored_sandbox = context.sandbox(sandbox.id, deadline, name=sandbox.container_id, remembered=remembered)
    place = stored_sandbox.record
    others = tuple(context.plugs(sandbox.id, deadline))
    _check(driver, stored_network.record, stored.record, place, others)
    operation = context.new_operation()
    presence, view = _presence(context, driver, stored_network.record, deadline)
    attachment = Attachment(
        host=context.host_name,
        sandbox_id=place.id,
        container_id=place.container_id,
        namespace=place.namespace,
        interface=_interface(driver, stored_network.record, others),
        hostname=place.hostname,
        priority=priority,
        vtep=context.facts(driver).vtep if network.scope == "global" else None,
        ports=port_claims.choose(context, driver, stored_network.record, stored.record, deadline),
        operation=operation,
        request_id=request.id,
        boot_id=context.doors.kernel.boot_id,
    )
    record = attrs.evolve(stored.record, attachment=attachment)
    intent = _intent(context, "join", network, endpoint.id, attachment, request)
    here = together(
        stored_sandbox.same,
        context.begin(intent),
        ledger.line(network, record),
        port_claims.claim(context, record, attachment.ports, deadline),
    )
    if presence is not None:
        here += put(keys.presence(network.id), presence)
    theirs = stored.replace(record) + stored_network.same
    version, news = _begin(context, driver, network, record, here, theirs, deadline)
    preparing = Stored(stored.key, version, record)
    return _Join(driver, repository, view, place, others, record, presence, preparing, news)


def _begin(
    context: Context,
    driver: Driver,
    network: NetworkRecord,
    record: EndpointRecord,
    here: Transaction,
    theirs: Transaction,
    deadline: Deadline,
) -> tuple[int, News]:
    """Commit what this host notes of the attachment and what its network's store does; the record's version there."""
    repository, key = context.repository(network.scope), keys.endpoint(network.id, record.id)
    if repository is context.local:
        both = here + theirs
        committed = context.local.commit(both, deadline, durable=False)
        news: News = dict.fromkeys(ledger.places(driver, network, record))
        return committed.versions[key], {**news, **written(both, committed, news)}
    # Synced: after a power failure only this says that the cluster's record of this attachment is to be ended.
    context.local.commit(here, deadline)
    try:
        return repository.commit(theirs, deadline).versions[key], {}
    except CnmError as error:
        if not outcome_unknown(error):
            assert record.attachment is not None, "it is being attached"
            gone = withdrawn(context, network, record, record.attachment.operation, deadline)
            context.local.commit(gone, deadline, durable=False)
        raise


def _check(
    driver: Driver,
    network: NetworkRecord,
    endpoint: EndpointRecord,
    sandbox: SandboxRecord,
    others: Iterable[Plug],
) -> None:
    """Libnetwork's order: the sandbox, then whether the endpoint is free, then whether the two fit."""
    held = endpoint.attachment
    if held is not None:
        holders = [f"container {held.container_id} on host {held.host}"]
        raise InUse("endpoint", endpoint.name, holders, hint="leave() it first", remedy="detach")
    if network.state == "deleting":
        raise Forbidden(f"network {network.name!r} is being deleted")
    wants_host = driver.capabilities.host_namespace
    if wants_host is not None and wants_host != (sandbox.namespace == ""):
        kind = "only sandboxes of the host's own namespace" if wants_host else "no sandbox of the host's own namespace"
        raise Forbidden(f"network {network.name!r} of driver {driver.name!r} takes {kind}")
    for plug in others:
        for one in plug.network.record.subnets:
            for other in network.subnets:
                if overlaps(one, other):
                    raise Forbidden(
                        f"{network.name!r} ({other}) overlaps {plug.network.record.name!r} ({one}) in this sandbox",
                        hint="leave the other network first",
                    )


def _presence(
    context: Context, driver: Driver, record: NetworkRecord, deadline: Deadline
) -> tuple[Presence | None, NetworkView]:
    """The presence to write when this attachment brings the network here, and the network as its driver sees it."""
    if driver.capabilities.presence == "created":
        return None, NetworkView(record)
    found = context.local.presence(record.id, deadline)
    boot_id = context.doors.kernel.boot_id
    if found is not None and found.record.active and found.record.boot_id == boot_id:
        return None, NetworkView(record, found.record.epoch)
    epoch = 1 if found is None else found.record.epoch + 1
    return Presence(record.id, epoch, active=True, boot_id=boot_id), NetworkView(record, epoch)


def _interface(driver: Driver, network: NetworkRecord, others: Iterable[Plug]) -> str:
    if not driver.capabilities.addresses:
        return ""
    prefix = driver.interface_prefix(network)
    used = {plug.place.interface for plug in others}
    return next(name for name in (f"{prefix}{number}" for number in range(len(used) + 1)) if name not in used)


def _intent(
    context: Context, verb: str, network: NetworkRecord, endpoint_id: str, attachment: Attachment, request: Request
) -> Intent:
    return Intent(
        operation=attachment.operation,
        verb=verb,
        scope=network.scope,
        locks=(network.id, endpoint_id, short(attachment.sandbox_id)),
        network_id=network.id,
        endpoint_id=endpoint_id,
        sandbox_id=attachment.sandbox_id,
        attachment=attachment,
        started=round(context.doors.clock.wall(), 3),
        boot_id=context.doors.kernel.boot_id,
        request=request.note,
    )


def _difference(context: Context, work: _Join, deadline: Deadline) -> tuple[list[Resource], list[Resource]]:
    facts = context.facts(work.driver)
    before = desired.sandbox(context.facts, work.others)
    after = desired.sandbox(context.facts, [*work.others, work.plug])
    lost = {resource.identity for resource in before} - {resource.identity for resource in after}
    for other in work.others if lost else ():
        # The newcomer is the way out from now on: what others published here is withdrawn, but for what is shared.
        shared = still_published(context, other.driver, other.network, other.endpoint, deadline)
        after.extend(resource for resource in shared if resource.identity in lost)
    if work.activates:
        after.extend(work.driver.network(facts, work.network))
        # Peers are the resident's business, but a network that has just been made needs them before others learn of its
        # first endpoint: their first packet would else wait for an answer that nobody here knows.
        for stored in work.repository.endpoints(work.network.record.id, deadline):
            after.extend(context.peer_rows(work.driver, work.network, stored.record))
    return before, desired.unique(after)


def _commit(context: Context, work: _Join, deadline: Deadline) -> tuple[EndpointRecord, News]:
    """The record as it is now, and what was written of it in this host's store."""
    place = work.plug.place
    ready = attrs.evolve(work.endpoint, attachment=attrs.evolve(place, state="ready", operation=""))
    cleared = ended(context, place.operation, "join", deadline)
    if work.presence is not None:
        cleared += put(keys.presence(work.presence.network_id), attrs.evolve(work.presence, ready=True))
    here = work.stored.replace(ready)
    if work.repository is not context.local:
        work.repository.commit(here, deadline)
        here = ledger.line(work.network.record, ready)
    here += cleared
    # Not synced to disk: an attachment does not outlive the boot, and a crash of this process loses no commit.
    committed = context.local.commit(here, deadline, durable=False)
    return ready, written(here, committed, work.news)


def _undo(context: Context, work: _Join, *, made: bool) -> None:
    """Give back the records, and what was ``made`` (a batch that failed, the engine has reversed); recovery does what
    fails here.
    """
    deadline = context.doors.clock.deadline(context.settings.timeout)
    try:
        if made:
            finish_leave(context, work.driver, work.network.record, work.endpoint, deadline)
            return
        sandbox_files.write(context, work.sandbox, work.others)
        release(context, work.network.record, work.endpoint, work.plug.place, deadline)
    except CnmError as error:
        context.log.warning("join of endpoint %s could not be undone yet: %s", work.endpoint.id[:12], error)


def _take_back(
    context: Context, driver: Driver, network: NetworkRecord, record: EndpointRecord, request: Request
) -> None:
    deadline = context.doors.clock.deadline(context.settings.timeout)
    try:
        leaving = _withdraw(context, network, record, deadline, request.taken_back)
        finish_leave(context, driver, network, leaving, deadline)
    except CnmError as error:
        context.log.warning("join of endpoint %s could not be undone yet: %s", record.id[:12], error)


# -- leave -----------------------------------------------------------------------------------------------------------


def leave(
    context: Context, network: NetworkRecord, endpoint: EndpointRecord, deadline: Deadline, request: Request = UNNAMED
) -> list[Plug]:
    """Detach an endpoint from its sandbox on this host; returns what that has left. Addresses and name stay its own."""
    place = endpoint.attachment
    if place is None:
        raise Forbidden(f"endpoint {endpoint.name!r} is attached to no sandbox")
    if place.host != context.host_name:
        raise InUse(
            "endpoint",
            endpoint.name,
            [f"container {place.container_id} on host {place.host}"],
            hint=f"only host {place.host} can detach it: run this there",
        )
    driver = context.driver(network)
    with context.doors.locks.acquire_all(_locks(driver, network, endpoint, place.sandbox_id), deadline=deadline):
        record = retrying(
            deadline,
            f"leaving endpoint {endpoint.name!r}",
            lambda: _withdraw(context, network, endpoint, deadline, request),
        )
        remaining = finish_leave(context, driver, network, record, deadline)
    try:
        _make_known(
            context, network, record, dict.fromkeys(ledger.places(driver, network, record)), deadline, parked=True
        )
    except CnmError as error:
        context.log.warning("endpoint %s has left; the resident does not know it yet: %s", endpoint.id[:12], error)
    return remaining


def _make_known(
    context: Context, network: NetworkRecord, record: EndpointRecord, news: News, deadline: Deadline, *, parked: bool
) -> None:
    """Let whoever follows know that ``record``, as it was when it was attached, is or is no longer so."""
    if network.scope == "global":
        context.follower.announce(deadline, parked=parked)
        return
    place = record.attachment
    assert place is not None, "it says where it was attached"
    context.follower.tell(place.sandbox_id, news, deadline, parked=parked)


def _withdraw(
    context: Context, network: NetworkRecord, endpoint: EndpointRecord, deadline: Deadline, request: Request
) -> EndpointRecord:
    """Record that the endpoint is leaving: from now on no name and no peer row leads to it."""
    repository = context.repository(network.scope)
    stored = context.endpoint(network.scope, network.id, endpoint.id, deadline, name=endpoint.name)
    place = stored.record.attachment
    if place is not None and network.scope == "global":
        place = ledger.own_place(context, endpoint.attachment or place, endpoint.id, deadline)
    if place is None or place.host != context.host_name:
        raise Forbidden(f"endpoint {endpoint.name!r} is attached to no sandbox of this host")
    operation = context.new_operation()
    leaving = attrs.evolve(place, state="leaving", operation=operation)
    record = attrs.evolve(stored.record, attachment=leaving)
    first = context.begin(_intent(context, "leave", network, endpoint.id, leaving, request)) + request.first()
    if repository is context.local:
        context.local.commit(first + stored.replace(record), deadline, durable=False)
    else:
        here = first + ledger.line(network, record)
        context.local.commit(here, deadline, durable=False)
        try:
            repository.commit(stored.replace(record), deadline)
        except CnmError as error:
            if not outcome_unknown(error):
                back = drop(keys.intent(operation)) + ledger.line(network, stored.record)
                context.local.commit(back, deadline, durable=False)
            raise
    return record


def finish_leave(
    context: Context, driver: Driver, network: NetworkRecord, record: EndpointRecord, deadline: Deadline
) -> list[Plug]:
    """The part of a leave that can only go forward, and the undoing of a join; also what recovery calls.

    ``record`` still has its attachment. The locks are held. Returns what the sandbox still has.
    """
    place = record.attachment
    assert place is not None, "there is something to leave"
    facts = context.facts(driver)
    view = context.view(network, deadline)
    plugs = context.plugs(place.sandbox_id, deadline)
    others = [plug for plug in plugs if plug.endpoint.id != record.id]
    before = desired.sandbox(context.facts, [*others, Plug(driver, view, record)])
    if driver.capabilities.presence == "attached" and not _others_here(context, network, record, deadline):
        before.extend(driver.network(facts, view))
    known = {resource.identity for resource in before}
    shared = still_published(context, driver, view, record, deadline)
    after = [*desired.sandbox(context.facts, others), *(resource for resource in shared if resource.identity in known)]
    context.engine.carry_out(delta(before, desired.unique(after)), deadline=deadline)
    sandbox = context.local.sandbox(place.sandbox_id, deadline)
    if sandbox is not None:
        sandbox_files.write(context, sandbox.record, others)
    release(context, network, record, place, deadline)
    return others


def still_published(
    context: Context, driver: Driver, view: NetworkView, record: EndpointRecord, deadline: Deadline
) -> list[Resource]:
    """What other endpoints of the network publish here: parts of it (a bridge's sysctl) may be shared with
    ``record``.
    """
    place = record.attachment
    if place is None or not place.ports:
        return []
    found: list[Resource] = []
    for stored in context.repository(view.record.scope).endpoints(view.record.id, deadline):
        other = stored.record.attachment
        if stored.record.id == record.id or other is None or other.host != context.host_name or not other.ports:
            continue
        ranked = sorted(context.plugs(other.sandbox_id, deadline), key=lambda plug: plug.order)
        if any(plug.endpoint.id == stored.record.id for plug in desired.publishers(ranked)):
            found.extend(driver.publication(context.facts(driver), view, stored.record))
    return desired.unique(found)


def _others_here(context: Context, network: NetworkRecord, record: EndpointRecord, deadline: Deadline) -> bool:
    others = (one.record for one in context.repository(network.scope).endpoints(network.id, deadline))
    places = (other.attachment for other in others if other.id != record.id)
    return any(place is not None and place.host == context.host_name for place in places)


def release(
    context: Context, network: NetworkRecord, record: EndpointRecord, place: Attachment, deadline: Deadline
) -> None:
    """The attachment ends in the records: free for any host, the ledger line, ports, presence and intent gone."""
    repository = context.repository(network.scope)

    def attempt() -> None:
        stored = repository.endpoint(network.id, record.id, deadline)
        theirs = NOTHING
        if (
            stored is not None
            and stored.record.attachment is not None
            and stored.record.attachment.operation == place.operation
        ):
            theirs = stored.replace(attrs.evolve(stored.record, attachment=None))
        here = withdrawn(context, network, attrs.evolve(record, attachment=place), place.operation, deadline)
        if repository is context.local:
            context.local.commit(theirs + here, deadline, durable=False)
        else:
            if theirs.writes:
                repository.commit(theirs, deadline)
            context.local.commit(here, deadline, durable=False)

    retrying(deadline, f"releasing endpoint {record.name!r}", attempt)


def withdrawn(
    context: Context, network: NetworkRecord, record: EndpointRecord, operation: str, deadline: Deadline
) -> Transaction:
    """This host's side of an attachment that is no more."""
    place = record.attachment
    assert place is not None, "it was attached"
    here = ended(context, operation, "leave", deadline) + drop(ledger.key(network, record))
    here += port_claims.release(context, record, place.ports, deadline)
    driver = context.driver(network)
    if driver.capabilities.presence == "attached" and not _others_here(context, network, record, deadline):
        found = context.local.presence(network.id, deadline)
        if found is not None and found.record.active:
            here += found.replace(attrs.evolve(found.record, active=False, ready=False))
    return here
