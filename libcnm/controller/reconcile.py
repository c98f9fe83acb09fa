"""Reconcile: what should be there, what is there, and the difference: printed (``doctor``) or made so (healing).

It works in units, each under the lock of its object, taken without waiting: a verb under way is left alone and looked
at again later. The kernel is read before the records, so that nothing a verb has just made can look like a leftover.
The sandboxes' files are compared along with what is in the kernel.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Final, Literal

import attrs

from libcnm.controller import desired, host_state, requests, residency, sandbox_files, sandboxes, way_out
from libcnm.controller.context import Context
from libcnm.controller.delta import changes_in_place, delta
from libcnm.controller.sandbox_files import SandboxFile
from libcnm.errors import CnmError, Conflict, NotFound
from libcnm.kernel.firewall import routing_table
from libcnm.kernel.resources import (
    Bridge,
    Fdb,
    FirewallElement,
    FirewallTable,
    LoopbackGuard,
    Namespace,
    Neighbour,
    Route,
    Rule,
    Sysctl,
    Veth,
    link_identity,
)
from libcnm.model.deadline import Deadline
from libcnm.model.ids import short
from libcnm.model.records import Scope
from libcnm.model.resource import Identity, Observed, Resource, by_identity

log = logging.getLogger("libcnm.reconcile")

_LOCKS_AT_ONCE: Final = 64
"""Each is an open file."""


@attrs.frozen
class Difference:
    """One row of ``doctor``: what is wrong with one resource."""

    problem: Literal["missing", "different", "leftover", "in the way"]
    wanted: Resource | None
    there: Resource | None

    def __str__(self) -> str:
        one = self.wanted or self.there
        assert one is not None, "a difference is about something"
        name = " ".join(part or "host" for part in one.identity)
        if self.problem == "different":
            return f"different: {name}: {self.there} should be {self.wanted}"
        return f"{self.problem}: {name}"


@attrs.frozen
class Unit:
    """What one object wants, the locks under which that is settled, and the same as of now (None: it has gone)."""

    locks: tuple[str, ...]
    resources: tuple[Resource, ...]
    again: Callable[[], Unit | None]
    is_sandbox: bool = False


def doctor(context: Context, deadline: Deadline) -> list[Difference]:
    """Every difference between what the records want and what this host has; changes nothing."""
    # First: what the resident takes in before it answers is no difference any more.
    resident = _resident_rows(residency.missed(context, deadline))
    found, _ = units(context, deadline)
    wanted = {identity: r for unit in found for identity, r in by_identity(unit.resources).items()}
    there = observe(context, wanted.values(), deadline)
    suspects = [unit for unit in found if unit.is_sandbox and differences(unit.resources, there)]
    passed_over = {identity for unit in suspects for identity in by_identity(unit.resources)}
    settled = [resource for identity, resource in wanted.items() if identity not in passed_over]
    rows = [*resident, *differences(settled, there), *_still_different(context, suspects, deadline)]
    rows.extend(leftovers(context, wanted, there, deadline))
    return [*rows, *(_way_out(need, has) for need, has in way_out.unsettled(context, deadline))]


def _still_different(context: Context, suspects: Sequence[Unit], deadline: Deadline) -> list[Difference]:
    """Between the looks at the records and at the kernel a sandbox may have been made, changed or deleted; and one that
    is recorded first is not there at once. Looked at again under their locks, and not at all while a verb has those.
    """
    rows: list[Difference] = []
    for first in range(0, len(suspects), _LOCKS_AT_ONCE):
        with ExitStack() as held:
            fresh: dict[Identity, Resource] = {}
            for unit in suspects[first : first + _LOCKS_AT_ONCE]:
                locks = [context.doors.locks.try_acquire(name) for name in unit.locks]
                for lock in locks:
                    if lock is not None:
                        held.enter_context(lock)
                again = _again(unit) if None not in locks else None
                fresh |= by_identity(again.resources if again is not None else ())
            rows.extend(differences(fresh.values(), observe(context, fresh.values(), deadline)))
    return rows


def _again(unit: Unit) -> Unit | None:
    try:
        return unit.again()
    except CnmError as error:
        log.warning("left alone: %s", error)
        return None


def _way_out(need: Resource | None, has: Resource | None) -> Difference:
    """A sandbox's way out is no single object of the kernel; recovery settles it."""
    problem: Literal["missing", "different", "leftover"]
    problem = "missing" if has is None else "leftover" if need is None else "different"
    return Difference(problem, need, has)


def _resident_rows(row: residency.Row | None) -> list[Difference]:
    if row is None:
        return []
    wanted, there = row
    return [Difference("missing" if there is None else "different", wanted, there)]


def heal(
    context: Context, deadline: Deadline, *, skipped: Callable[[Unit], object] = lambda _: None
) -> list[Difference]:
    """Make good what is missing or different, and remove what is ours and wanted by nobody; returns what was found.

    One look at everything finds the objects that need it; each of these is looked at again under its lock. One whose
    lock is held is ``skipped``: its verb is under way, or somebody else is looking.
    """
    wanted, whole = units(context, deadline)
    everything = {i: r for unit in wanted for i, r in by_identity(unit.resources).items()}
    there = observe(context, everything.values(), deadline)
    healed: list[Difference] = []
    for unit in wanted:
        if differences(unit.resources, there):
            rows = _heal_unit(context, unit, deadline)
            if rows is None:
                skipped(unit)
            healed.extend(rows or ())
    gone = leftovers(context, everything, there, deadline) if whole else []
    if gone:
        sandboxes.settle(context, deadline)
        removed = [row.there for row in gone if row.there is not None and not sandboxes.is_pin(row.there)]
        context.engine.carry_out(delta(removed, ()), deadline=deadline)
        context.doors.kernel.sweep()
        healed.extend(gone)
    if whole:
        _forget_absences(context, deadline)
    requests.forget_old(context, deadline)
    context.doors.locks.sweep()
    healed.extend(_resident_rows(residency.replaced(context, deadline)))
    for row in healed:
        log.warning("healed: %s", row)
    return healed


def _forget_absences(context: Context, deadline: Deadline) -> None:
    """Drop the notes about networks that were here once and that another host has deleted since."""
    if context.cluster is None:
        return
    for stored in context.local.presences(deadline):
        network_id = stored.record.network_id
        if not stored.record.active and context.repository("global").network(network_id, deadline) is None:
            with suppress(Conflict):  # somebody writes it at this moment: then it is no absence
                context.local.commit(stored.delete(), deadline, durable=False)


def _heal_unit(context: Context, unit: Unit, deadline: Deadline) -> list[Difference] | None:
    """What was found; None when a lock is held."""
    held = []
    try:
        for name in unit.locks:
            lock = context.doors.locks.try_acquire(name)
            if lock is None:
                return None
            held.append(lock)
        fresh = unit.again()
        if fresh is None:
            return []
        found = differences(fresh.resources, observe(context, fresh.resources, deadline))
        repairable = [row for row in found if row.problem != "in the way" and not isinstance(row.wanted, SandboxFile)]
        wanted = [row.wanted for row in repairable if row.wanted is not None]
        there = [row.there for row in repairable if row.there is not None]
        if wanted:
            context.engine.carry_out(delta(there, wanted), deadline=deadline)
        files = [row.wanted for row in found if isinstance(row.wanted, SandboxFile)]
        lost = {file.identity for file in files if not _restored(context, file)}
        return [row for row in found if row.wanted is None or row.wanted.identity not in lost]
    finally:
        for lock in reversed(held):
            lock.release()


def _restored(context: Context, file: SandboxFile) -> bool:
    try:
        sandbox_files.restore(context, file)
    except CnmError as error:  # one file that cannot be written must not keep all else from being healed
        log.warning("not restored: %s", error)
        return False
    return True


# -- what should be there --------------------------------------------------------------------------------------------


def units(context: Context, deadline: Deadline) -> tuple[list[Unit], bool]:
    """Every object of this host that has something in the kernel, networks first; and whether that is all.

    What cannot be read now (the cluster store is away, a driver is not installed) costs its own unit only. But then
    nobody knows what is wanted by nobody.
    """
    networks, whole = context.all_networks(deadline)
    makers: list[Callable[[], Unit | None]] = [
        partial(_driver_unit, context, name, deadline) for name in sorted({one.record.driver for one in networks})
    ]
    makers += [partial(_network_unit, context, one.record.scope, one.record.id, deadline) for one in networks]
    makers += [partial(_sandbox_unit, context, one.record.id, deadline) for one in context.local.sandboxes(deadline)]
    found: list[Unit] = []
    for make in makers:
        try:
            unit = make()
        except CnmError as error:
            log.warning("left alone: %s", error)
            whole = False
            continue
        if unit is not None and unit.resources:
            found.append(unit)
    return found, whole


def _driver_unit(context: Context, name: str, deadline: Deadline) -> Unit | None:
    """What a driver's networks share; nothing while the first of them is still being made."""
    driver = context.registry.driver(name)
    if driver.capabilities.presence != "created":
        return None
    base = tuple(host_state.base(context, driver, deadline, ready=True))

    def again() -> Unit | None:
        # After a boot the settings are what they were before libcnm; what they are now is what will be restored.
        host_state.remember_settings(context, driver, f"driver {name}", deadline)
        return _driver_unit(context, name, deadline)

    return Unit((host_state.lock_name(driver),), base, again)


def _network_unit(context: Context, scope: Scope, network_id: str, deadline: Deadline) -> Unit | None:
    repository = context.repository(scope)
    stored = repository.network(network_id, deadline)
    if stored is None or stored.record.state != "ready":
        return None
    record = stored.record
    driver = context.driver(record)
    facts = context.facts(driver)
    if driver.capabilities.presence == "attached":
        found = context.local.presence(record.id, deadline)
        if found is None or not found.record.ready or found.record.boot_id != context.doors.kernel.boot_id:
            return None
    view = context.view(record, deadline)
    resources = list(driver.network(facts, view))
    if driver.capabilities.presence == "attached":
        for endpoint in repository.endpoints(record.id, deadline):
            resources.extend(context.peer_rows(driver, view, endpoint.record))
    return Unit(
        (record.id,),
        tuple(desired.unique(resources)),
        lambda: _network_unit(context, scope, network_id, deadline),
    )


def _sandbox_unit(context: Context, sandbox_id: str, deadline: Deadline) -> Unit | None:
    stored = context.local.sandbox(sandbox_id, deadline)
    if stored is None or stored.record.boot_id != context.doors.kernel.boot_id:
        return None
    if stored.record.source is not None and not sandboxes.namespace_is_ours(context, stored.record):
        # A path may lead anywhere by now, even to the host: what was brought is known by device and inode, or not at
        # all.
        raise NotFound("namespace of sandbox", stored.record.container_id, hint="it ended; delete the sandbox")
    plugs = [plug for plug in context.plugs(sandbox_id, deadline) if plug.place.state == "ready"]
    resources: list[Resource] = list(desired.sandbox_base(stored.record))
    if plugs:
        resources.extend(desired.sandbox(context.facts, plugs))
    resources.extend(sandbox_files.wanted(context, stored.record, plugs))
    return Unit(
        (short(sandbox_id),),
        tuple(desired.unique(resources)),
        lambda: _sandbox_unit(context, sandbox_id, deadline),
        is_sandbox=True,
    )


# -- what is there ---------------------------------------------------------------------------------------------------


def observe(context: Context, wanted: Iterable[Resource], deadline: Deadline) -> dict[Identity, Observed]:
    """The host's namespace and those that ``wanted`` mentions, by identity. Sysctls are read one by one."""
    kernel = context.doors.kernel
    resources = tuple(wanted)
    namespaces = {"", *(resource.identity[1] for resource in resources)}
    namespaces |= {resource.name for resource in resources if isinstance(resource, Namespace)}
    found = {one.resource.identity: one for one in kernel.read(namespaces, deadline=deadline)}
    for resource in resources:
        if isinstance(resource, Sysctl):
            one = kernel.read_one(resource, deadline=deadline)
            if one is not None:
                found[resource.identity] = one
        elif isinstance(resource, SandboxFile):
            one = sandbox_files.observe(context, resource)
            if one is not None:
                found[resource.identity] = one
    doors = context.engine.doors()
    for resource in resources:
        door = doors.get(type(resource))
        if door is not None:
            one = door.read_one(resource, deadline=deadline)
            if one is not None:
                found[resource.identity] = one
    return found


def differences(wanted: Iterable[Resource], there: dict[Identity, Observed]) -> list[Difference]:
    """Row by row: missing, different, or in the way (there, different, and not ours)."""
    rows: list[Difference] = []
    for resource in wanted:
        one = there.get(resource.identity)
        if one is None:
            rows.append(Difference("missing", resource, None))
        elif one.resource == resource:
            continue
        elif isinstance(resource, Sysctl) or one.ours:
            rows.append(Difference("different", resource, one.resource))
        elif changes_in_place(one.resource, resource) or not one.ours:
            rows.append(Difference("in the way", resource, one.resource))
    return rows


def leftovers(
    context: Context, wanted: dict[Identity, Resource], there: dict[Identity, Observed], deadline: Deadline
) -> list[Difference]:
    """What carries our mark in the host's namespace, or leads to a peer from a network's, and nobody wants. None are
    named while a verb is under way.
    """
    if context.local.intents(deadline):
        return []
    networks = {one.name for one in wanted.values() if isinstance(one, Namespace) and not sandboxes.is_pin(one)}
    suspects = [
        one
        for identity, one in there.items()
        if identity[1] == "" or (identity[1] in networks and isinstance(one.resource, Fdb | Neighbour))
        if one.ours and identity not in wanted and not isinstance(one.resource, Sysctl)
        if not sandboxes.in_the_making(context, one.resource)
    ]
    if not suspects:
        return []
    now, whole = units(context, deadline)
    if not whole:
        return []
    wanted_now = {i for unit in now for i in by_identity(unit.resources)}
    provided = {p for unit in now for r in unit.resources for p in r.provides}
    return [
        Difference("leftover", None, one.resource)
        for one in suspects
        if one.resource.identity not in wanted_now | provided and _belongs_to(context, one.resource, wanted_now)
    ]


def _belongs_to(context: Context, resource: Resource, wanted: Collection[Identity]) -> bool:
    """True when this very installation made it: others on this host mark theirs with the same group and protocol."""
    tag = context.installation.id[:12]
    if isinstance(resource, FirewallTable):
        return resource.name == f"cnm-{tag}"
    if isinstance(resource, FirewallElement):
        return resource.table == f"cnm-{tag}"
    if isinstance(resource, Route | Rule):
        return resource.table in (routing_table(tag), routing_table(tag) + 1)
    if isinstance(resource, LoopbackGuard):
        return link_identity("", resource.link) in wanted  # on a bridge of ours; one that goes takes it along
    if isinstance(resource, Bridge | Veth):
        return resource.alias.startswith(f"libcnm:{tag}:")
    return isinstance(resource, Namespace | Fdb | Neighbour)  # pinned in our own folder, and what is in one of these
