"""The verbs on networks: create and delete, and the transactions that make their names, pools and VNIs unique.

Order of validation (libnetwork's NewNetwork): name, then driver and scope, then options, then IPAM; nothing is touched
before all of it has passed. A network whose driver is present only while attached (overlay) costs one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from libcnm.contracts.driver import Driver, NetworkView
from libcnm.contracts.ipam import Avoid, IpamDriver, PoolRequest
from libcnm.controller import endpoints, host_state
from libcnm.controller.context import Context
from libcnm.controller.delta import delta
from libcnm.controller.repository import Repository, Stored, create, drop, outcome_unknown, retrying
from libcnm.controller.requests import UNNAMED, Request, apart, ended, made_before
from libcnm.errors import AlreadyExists, CnmError, Corrupt, Exhausted, Forbidden, InUse, Invalid, NotFound
from libcnm.kv.base import NOTHING, Put, Transaction
from libcnm.model import keys, limits, options
from libcnm.model.addresses import IPNetwork, Subnet, assignable
from libcnm.model.arguments import flag, sequence
from libcnm.model.codec import encode
from libcnm.model.deadline import Deadline
from libcnm.model.ids import check_labels, check_name
from libcnm.model.pool import Pool
from libcnm.model.records import EndpointRecord, Intent, Mark, NameClaim, NetworkRecord
from libcnm.model.resource import Change

_ELSEWHERE: Final = "detach them there first: only their own host can"


@attrs.frozen
class NetworkSpec:
    """What a user asked for, checked as far as that needs no store."""

    name: str
    driver: str
    subnets: tuple[Subnet, ...]
    ipam_driver: str
    internal: bool
    options: dict[str, str]
    labels: dict[str, str]
    on_demand: bool = False
    avoid: tuple[Avoid, ...] = ()
    room: int = 0

    @classmethod
    def checked(
        cls,
        name: str,
        driver: str,
        subnets: Sequence[str | Subnet | IPNetwork] | None,
        ipam_driver: str,
        internal: bool,
        chosen: Mapping[str, str] | None,
        labels: Mapping[str, str] | None,
    ) -> NetworkSpec:
        """The specification, or Invalid."""
        return cls(
            check_name(name),
            check_name(driver, "driver"),
            tuple(Subnet.of(subnet) for subnet in sequence(subnets, "subnets", limits.SUBNETS_PER_NETWORK)),
            check_name(ipam_driver, "ipam_driver"),
            flag(internal, "internal"),
            check_labels(chosen, "options"),
            check_labels(labels),
        )


# -- create ----------------------------------------------------------------------------------------------------------


def create_network(
    context: Context, spec: NetworkSpec, deadline: Deadline, request: Request = UNNAMED
) -> NetworkRecord:
    """Create a network; the record as committed."""
    driver = context.registry.driver(spec.driver)
    scope = driver.capabilities.scope
    draft = _draft(context, spec, driver, request)
    driver.check_network(context.facts(driver), draft)
    repository = context.repository(scope)
    ipam = context.ipam(spec.ipam_driver, scope)
    known = made_before(context, request, "network", lambda one: repository.network(one, deadline), deadline)
    if known is not None:
        return known
    with apart(context, repository, request, draft.id, deadline):
        if driver.capabilities.presence == "attached":
            ready = attrs.evolve(draft, state="ready")
            return _claim(context, repository, driver, ipam, spec, ready, request, deadline)
        return _make(context, repository, driver, ipam, spec, draft, request, deadline)


def _make(
    context: Context,
    repository: Repository,
    driver: Driver,
    ipam: IpamDriver,
    spec: NetworkSpec,
    draft: NetworkRecord,
    request: Request,
    deadline: Deadline,
) -> NetworkRecord:
    """A network that is here as long as it exists."""
    names = ((host_state.lock_name(driver), False), (draft.id, False))
    with context.doors.locks.acquire_all(names, deadline=deadline):
        # Everything that is there already is there on purpose: only what this network adds is the verb's business. What
        # a network whose deletion is half-done needed may be there or not: the engine adopts it, or makes it.
        before = host_state.base(context, driver, deadline, ready=True)
        record = _claim(context, repository, driver, ipam, spec, draft, request, deadline)
        made: tuple[Change, ...] = ()
        try:
            host_state.remember_settings(context, driver, f"network {record.name}", deadline)
            after = [
                *host_state.base(context, driver, deadline),
                *driver.network(context.facts(driver), NetworkView(record)),
            ]
            changes = delta(before, after)
            context.engine.apply(changes, deadline=deadline)
            made = changes
            return _publish(context, repository, record, deadline)
        except CnmError:
            context.engine.undo(made)
            _abandon(context, repository, record)
            raise


def _draft(context: Context, spec: NetworkSpec, driver: Driver, request: Request) -> NetworkRecord:
    if not driver.capabilities.addresses and spec.subnets:
        raise Invalid(
            "subnets", [str(subnet.pool) for subnet in spec.subnets], f"mean nothing to driver {spec.driver!r}"
        )
    return NetworkRecord(
        id=request.object_id(context),
        name=spec.name,
        driver=spec.driver,
        scope=driver.capabilities.scope,
        ipam_driver=spec.ipam_driver,
        internal=spec.internal,
        options=spec.options,
        labels=spec.labels,
        created=round(context.doors.clock.wall(), 3),
        state="preparing",
        operation=context.new_operation(),
        on_demand=spec.on_demand,
    )


def _claim(
    context: Context,
    repository: Repository,
    driver: Driver,
    ipam: IpamDriver,
    spec: NetworkSpec,
    draft: NetworkRecord,
    request: Request,
    deadline: Deadline,
) -> NetworkRecord:
    """The transaction that makes the name, pools and VNI this network's, and its record preparing (or ready)."""
    avoid = (*_avoid(context), *spec.avoid) if driver.capabilities.addresses and draft.scope == "local" else ()

    def attempt() -> NetworkRecord:
        _refuse_taken_names(repository, driver, draft, deadline)
        record, claims = draft, NOTHING
        if driver.capabilities.addresses:
            wanted = spec.subnets or (Subnet(),)
            requests = [
                PoolRequest(draft.scope, subnet, draft.id, index, avoid, True, ipam_options(spec.options), spec.room)
                for index, subnet in enumerate(wanted)
            ]
            grant = ipam.request_pools(repository.store, requests, deadline=deadline)
            for pool in grant.pools:
                _refuse_full(pool)
            record, claims = attrs.evolve(record, pools=grant.pools), grant.transaction
            driver.check_network(context.facts(driver), record)
        if driver.capabilities.vni:
            record, more = _claim_vni(repository, record, deadline)
            claims += more
        claims += create(keys.network_name(record.name), NameClaim(record.id, record.operation))
        claims += create(keys.network(record.id), record)
        if driver.capabilities.singleton:
            claims += create(keys.singleton(driver.name), NameClaim(record.id, record.operation))
        if record.state == "preparing":
            claims += context.begin(_intent(context, "create_network", record, request, record.id))
        elif repository is context.local:
            claims += request.done(record.id)
        repository.commit(claims, deadline, durable=record.state == "ready")
        return record

    return retrying(deadline, f"creating network {draft.name!r}", attempt)


def _refuse_taken_names(repository: Repository, driver: Driver, draft: NetworkRecord, deadline: Deadline) -> None:
    holder = repository.holder(keys.network_name(draft.name), deadline)
    if holder is not None:
        raise AlreadyExists("network", draft.name, holder=holder[:12], hint="use that, or choose another name")
    if driver.capabilities.singleton and repository.holder(keys.singleton(driver.name), deadline) is not None:
        raise Forbidden(f"there is a network of driver {driver.name!r} already", hint="there can be only one; use that")


def _refuse_full(pool: Pool) -> None:
    """A pool whose every address is its gateway's or reserved would make a network that no endpoint fits in."""
    reserved = {pool.gateway, *pool.aux.values()}
    if pool.gateway is not None and assignable(pool.subnet) <= len(reserved):
        raise Invalid(
            "subnet", str(pool.subnet), "has no address left for an endpoint", hint="a shorter prefix, like /24"
        )


def ipam_options(chosen: Mapping[str, str]) -> dict[str, str]:
    """Those of a network's options that are its IPAM's."""
    return {label: value for label, value in chosen.items() if label.startswith(options.IPAM_PREFIX)}


def _avoid(context: Context) -> tuple[Avoid, ...]:
    return tuple(Avoid(one.block, one.reason, one.on_link) for one in context.doors.kernel.host_networks())


def _claim_vni(repository: Repository, record: NetworkRecord, deadline: Deadline) -> tuple[NetworkRecord, Transaction]:
    """A VNI: the one asked for, or the next after the last given out; the key of each number decides."""
    asked = record.options.get(options.OVERLAY_VNIS)
    if asked is not None:
        number = options.vni(options.OVERLAY_VNIS, asked)
        holder = repository.holder(keys.vni(number), deadline)
        if holder is not None:
            raise AlreadyExists("VNI", str(number), holder=f"network {holder[:12]}")
        return attrs.evolve(record, vni=number), create(keys.vni(number), NameClaim(record.id))
    try:
        hint = repository.read(NameClaim, keys.VNI_HINT, deadline)
    except Corrupt:  # it is no more than a hint
        hint = None
    start = int(hint.record.holder) if hint is not None else limits.VNI_MIN
    taken = None
    for step in range(limits.VNI_MAX - limits.VNI_MIN + 1):
        number = limits.VNI_MIN + (start - limits.VNI_MIN + step) % (limits.VNI_MAX - limits.VNI_MIN + 1)
        if step == 1 and taken is None:  # the hint was stale: one listing says which are free
            listing = repository.store.list(keys.VNIS, deadline=deadline)
            numbers = [entry.key.removeprefix(keys.VNIS) for entry in listing.entries]
            taken = {int(number) for number in numbers if len(number) == 8 and number.isdecimal()}
        if (taken is None and repository.holder(keys.vni(number), deadline) is None) or (
            taken is not None and number not in taken
        ):
            claim = create(keys.vni(number), NameClaim(record.id))
            hint_write = Put(keys.VNI_HINT, encode(NameClaim(str(number + 1)), keys.VNI_HINT))  # others write it, too
            return attrs.evolve(record, vni=number), claim + Transaction((), (hint_write,))
    raise Exhausted("VXLAN network identifier")


def _intent(context: Context, verb: str, record: NetworkRecord, request: Request, result: str = "") -> Intent:
    return Intent(
        operation=record.operation,
        verb=verb,
        scope=record.scope,
        locks=(host_state.lock_name(context.driver(record)), record.id),
        network_id=record.id,
        started=round(context.doors.clock.wall(), 3),
        boot_id=context.doors.kernel.boot_id,
        request=None if request.note is None else attrs.evolve(request.note, result=result),
    )


def _publish(context: Context, repository: Repository, record: NetworkRecord, deadline: Deadline) -> NetworkRecord:
    ready = attrs.evolve(record, state="ready", operation="")
    stored = repository.network(record.id, deadline)
    if stored is None or stored.record.operation != record.operation:
        raise NotFound(
            "network", record.id[:12], name=record.name, hint="it was taken for half-done and removed meanwhile"
        )
    repository.commit(stored.replace(ready) + ended(context, record.operation, "create_network", deadline), deadline)
    return ready


def _abandon(context: Context, repository: Repository, record: NetworkRecord) -> None:
    """Undo the claims of a creation that failed; whatever fails here is recovery's to finish."""
    deadline = context.doors.clock.deadline(context.settings.timeout)
    try:
        host_state.forget_settings(context, context.driver(record), record, deadline)
        forget(context, repository, record, record.operation, deadline)
    except CnmError as error:
        context.log.warning("network %s could not be undone yet: %s", record.id[:12], error)


# -- delete ----------------------------------------------------------------------------------------------------------


def delete_network(
    context: Context, record: NetworkRecord, deadline: Deadline, *, force: bool = False, request: Request = UNNAMED
) -> None:
    """Delete a network: mark it, make sure that nothing is in it, take it away, free its claims.

    With ``force``, its endpoints are detached and deleted first; one that is attached on another host still refuses.
    """
    driver = context.driver(record)
    repository = context.repository(record.scope)
    if force:
        inside = repository.endpoints(record.id, deadline)
        _refuse_attached_elsewhere(context, record, inside)
        for stored in inside:
            endpoints.delete_endpoint(context, record, stored.record, deadline, force=True)
    with context.doors.locks.acquire_all(
        ((host_state.lock_name(driver), False), (record.id, False)), deadline=deadline
    ):
        operation = context.new_operation()
        marked = _mark(context, repository, record, operation, request, deadline)
        _refuse_endpoints(context, repository, marked, deadline)
        finish_delete(context, driver, repository, marked.record, operation, deadline)


def _refuse_attached_elsewhere(
    context: Context, record: NetworkRecord, inside: Iterable[Stored[EndpointRecord]]
) -> None:
    """Before anything is deleted: what another host holds, only that host can detach."""
    places = [(one.record.name, one.record.attachment) for one in inside if one.record.attachment is not None]
    holders = [
        f"endpoint {name} in container {place.container_id} on host {place.host}"
        for name, place in places
        if place.host != context.host_name
    ]
    if holders:
        raise InUse("network", record.name, holders, hint=_ELSEWHERE)


def _mark(
    context: Context,
    repository: Repository,
    record: NetworkRecord,
    operation: str,
    request: Request,
    deadline: Deadline,
) -> Stored[NetworkRecord]:
    """The mark that keeps endpoints from appearing. A dead holder's mark is taken over; it is ours while we hold
    the lock.
    """

    def attempt() -> None:
        stored = repository.network(record.id, deadline)
        if stored is None:
            raise NotFound("network", record.id[:12], name=record.name)
        held = stored.record.mark
        if held is not None and held.host != context.host_name:
            raise InUse("network", record.name, [f"its deletion on host {held.host}"], hint="try again")
        marked = attrs.evolve(
            stored.record, state="deleting", operation=operation, mark=Mark(operation, context.host_name)
        )
        intent = context.begin(_intent(context, "delete_network", marked, request))
        if repository is context.local:
            repository.commit(stored.replace(marked) + intent, deadline, durable=False)
        else:
            context.local.commit(intent, deadline)
            try:
                repository.commit(stored.replace(marked), deadline)
            except CnmError as error:
                if not outcome_unknown(error):
                    context.local.commit(drop(keys.intent(operation)), deadline, durable=False)
                raise

    retrying(deadline, f"deleting network {record.name!r}", attempt)
    stored = repository.network(record.id, deadline)
    assert stored is not None, "only the holder of its lock deletes a marked network"
    return stored


def _refuse_endpoints(
    context: Context, repository: Repository, marked: Stored[NetworkRecord], deadline: Deadline
) -> None:
    """A list taken after the mark: some endpoints mean unmark and InUse, naming each, where it is and what to do."""
    remaining = repository.endpoints(marked.record.id, deadline)
    if not remaining:
        return
    unmark(context, repository, marked, deadline)
    holders = []
    for stored in remaining:
        place = stored.record.attachment
        where = f" in container {place.container_id} on host {place.host}" if place is not None else ""
        holders.append(f"endpoint {stored.record.name} ({stored.record.id[:12]}){where}")
    places = [stored.record.attachment for stored in remaining]
    if any(place is not None and place.host != context.host_name for place in places):
        raise InUse("network", marked.record.name, holders, hint=_ELSEWHERE)
    hint = "delete its endpoints first, or delete(force=True)"
    raise InUse("network", marked.record.name, holders, hint=hint, remedy="delete-endpoints")


def unmark(context: Context, repository: Repository, marked: Stored[NetworkRecord], deadline: Deadline) -> None:
    """Make a marked network an ordinary one again."""
    operation = marked.record.operation
    ready = attrs.evolve(marked.record, state="ready", operation="", mark=None)
    if repository is context.local:
        repository.commit(marked.replace(ready) + drop(keys.intent(operation)), deadline)
    else:
        repository.commit(marked.replace(ready), deadline)
        context.local.commit(drop(keys.intent(operation)), deadline, durable=False)


def finish_delete(
    context: Context, driver: Driver, repository: Repository, record: NetworkRecord, operation: str, deadline: Deadline
) -> None:
    """The part of a deletion that can only go forward; also what recovery calls."""
    if driver.capabilities.presence == "created":
        facts = context.facts(driver)
        shared = host_state.base(context, driver, deadline, without=record.id)
        before = [*host_state.base(context, driver, deadline), *driver.network(facts, NetworkView(record))]
        changes = delta(before, shared)
        context.engine.carry_out(changes, deadline=deadline)
        host_state.forget_settings(context, driver, record, deadline)
        context.doors.kernel.sweep({change.resource.identity[1] for change in changes})
    forget(context, repository, record, operation, deadline)


def forget(context: Context, repository: Repository, record: NetworkRecord, operation: str, deadline: Deadline) -> None:
    """Free a network's claims and delete its record and the operation's intent. Repeating it does no harm."""
    ipam = context.ipam(record.ipam_driver, record.scope)
    driver = context.driver(record)
    if record.pools:
        ipam.purge(repository.store, record.pools, deadline=deadline)

    def attempt() -> None:
        stored = repository.network(record.id, deadline)
        gone = NOTHING
        if stored is not None:
            gone += stored.delete() + drop(keys.network_name(record.name))
            if record.pools:
                gone += ipam.release_pools(repository.store, record.pools, record.id, deadline=deadline)
            if record.vni is not None:
                gone += drop(keys.vni(record.vni))
            if driver.capabilities.singleton:
                gone += drop(keys.singleton(driver.name))
        here = ended(context, operation, "delete_network", deadline) + drop(keys.presence(record.id))
        if repository is context.local:
            repository.commit(gone + here, deadline)
        else:
            if stored is not None:
                repository.commit(gone, deadline)
            context.local.commit(here, deadline, durable=False)

    retrying(deadline, f"deleting network {record.name!r}", attempt)
