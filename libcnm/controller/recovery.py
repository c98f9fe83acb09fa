"""After a crash, and after a boot: verbs that were left half-done are undone or finished, by whoever comes next.

An intent is half-done exactly when its locks can be taken: the kernel frees the locks of a dead process, and a paused
one keeps them. Creations and joins are undone, leaves and deletions are finished, with the same functions that the
verbs use.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

import attrs

from libcnm.contracts.driver import NetworkView
from libcnm.controller import attach, host_state, ledger, networks, sandboxes, way_out
from libcnm.controller.context import Context
from libcnm.controller.delta import delta
from libcnm.controller.repository import Stored, drop
from libcnm.controller.requests import ended
from libcnm.errors import AlreadyExists, CnmError, Conflict, Exhausted, Forbidden, InUse, KernelError
from libcnm.model import keys
from libcnm.model.deadline import Deadline
from libcnm.model.ids import short
from libcnm.model.records import EndpointRecord, Intent, SandboxRecord

log = logging.getLogger("libcnm.recovery")

Result = TypeVar("Result")


def recover(context: Context, deadline: Deadline) -> int:
    """Settle every half-done verb of this host; returns how many there were. One that cannot be settled now is left."""
    settled = 0
    for stored in context.local.intents(deadline):
        try:
            settled += _settle(context, stored, deadline)
        except CnmError as error:
            log.warning("%s %s cannot be settled yet: %s", stored.record.verb, stored.record.operation[:12], error)
    return settled + sandboxes.settle(context, deadline) + way_out.sweep(context, deadline)


def after_recovery(context: Context, deadline: Deadline, verb: Callable[[], Result]) -> Result:
    """The verb; refused, once more after the half-done verbs of the dead are settled, if there were any: what it was
    refused for may have been one of them. The kernel refuses what a sandbox needs that was recorded and not made.
    """
    try:
        return verb()
    except (AlreadyExists, InUse, Exhausted, Forbidden, KernelError):
        if not recover(context, deadline):
            raise
    return verb()


def forget_earlier_boots(context: Context, deadline: Deadline) -> None:
    """Drop what did not survive the reboot: sandboxes, this host's attachments, presences, port claims, settings.

    What the cluster store must be asked for and cannot be is left in the ledger, for the next time.
    """
    boot_id = context.doors.kernel.boot_id
    current = {one.record.id for one in context.local.sandboxes(deadline) if one.record.boot_id == boot_id}
    for entry in context.local.store.list(keys.ATTACHMENTS, deadline=deadline).entries:
        sandbox_id, scope, network_id, endpoint_id = keys.parse_attachment(entry.key)
        if sandbox_id not in current:
            try:
                _detach_after_boot(context, scope, network_id, endpoint_id, deadline)
            except CnmError as error:
                log.warning("an attachment of an earlier boot cannot be ended yet: %s", error)
    for stored in context.local.sandboxes(deadline):
        if stored.record.boot_id != boot_id:
            _forget_sandbox(context, stored.record, deadline)
    for presence in context.local.presences(deadline):
        if presence.record.active and presence.record.boot_id != boot_id:
            away = attrs.evolve(presence.record, active=False, ready=False)
            with suppress(Conflict):  # somebody else was faster
                context.local.commit(presence.replace(away), deadline)
    for setting in context.local.host_settings(deadline):
        if setting.record.boot_id != boot_id:
            with suppress(Conflict):
                context.local.commit(setting.delete(), deadline)


def _forget_sandbox(context: Context, record: SandboxRecord, deadline: Deadline) -> None:
    """Under its lock, and only what is still its own: another process may be doing the same, or be further."""
    lock = context.doors.locks.try_acquire(short(record.id))
    if lock is None:
        return
    with lock:
        stored = context.local.sandbox(record.id, deadline)
        if stored is None or stored.record.boot_id == context.doors.kernel.boot_id:
            return
        log.info("sandbox of %s ended with an earlier boot", record.container_id)
        context.doors.files.remove_folder(context.settings.paths.sandbox(record.id))
        gone = stored.delete()
        if context.local.holder(keys.container(record.container_id), deadline) == record.id:
            gone += drop(keys.container(record.container_id))
        context.local.commit(gone, deadline)


def _detach_after_boot(context: Context, scope: str, network_id: str, endpoint_id: str, deadline: Deadline) -> None:
    repository = context.repository("global" if scope == "global" else "local")
    network = repository.network(network_id, deadline)
    endpoint = repository.endpoint(network_id, endpoint_id, deadline)
    if network is None or endpoint is None or endpoint.record.attachment is None:
        return
    place = endpoint.record.attachment
    if place.host == context.host_name and place.boot_id != context.doors.kernel.boot_id:
        attach.release(context, network.record, endpoint.record, place, deadline)


def _settle(context: Context, stored: Stored[Intent], deadline: Deadline) -> bool:
    intent = stored.record
    held = []
    try:
        for name in intent.locks:
            lock = context.doors.locks.try_acquire(name)
            if lock is None:
                return False  # its verb is alive: running, or paused
            held.append(lock)
        if context.local.read(Intent, stored.key, deadline) is None:
            return False  # it ended between our list and our lock
        log.info("settling a half-done %s (operation %s)", intent.verb, intent.operation[:12])
        if intent.boot_id != context.doors.kernel.boot_id:
            log.info("it began in an earlier boot")
        _VERBS[intent.verb](context, intent, deadline)
        return True
    finally:
        for lock in reversed(held):
            lock.release()


def _undo_create_network(context: Context, intent: Intent, deadline: Deadline) -> None:
    repository = context.repository(intent.scope)
    stored = repository.network(intent.network_id, deadline)
    if stored is None or stored.record.operation != intent.operation:
        context.local.commit(drop(keys.intent(intent.operation)), deadline)
        return
    driver = context.driver(stored.record)
    shared = host_state.base(context, driver, deadline, without=stored.record.id)
    made = [
        *host_state.base(context, driver, deadline),
        *driver.network(context.facts(driver), NetworkView(stored.record)),
    ]
    context.engine.carry_out(delta(made, shared), deadline=deadline)
    host_state.forget_settings(context, driver, stored.record, deadline)
    networks.forget(context, repository, stored.record, intent.operation, deadline)


def _finish_delete_network(context: Context, intent: Intent, deadline: Deadline) -> None:
    repository = context.repository(intent.scope)
    stored = repository.network(intent.network_id, deadline)
    if stored is None:
        gone = ended(context, intent.operation, "delete_network", deadline) + drop(keys.presence(intent.network_id))
        context.local.commit(gone, deadline)
    elif stored.record.operation != intent.operation:
        context.local.commit(drop(keys.intent(intent.operation)), deadline)
    elif repository.endpoints(intent.network_id, deadline):
        networks.unmark(context, repository, stored, deadline)
    else:
        driver = context.driver(stored.record)
        networks.finish_delete(context, driver, repository, stored.record, intent.operation, deadline)


def _undo_attachment(context: Context, intent: Intent, deadline: Deadline) -> None:
    """Undo a join, finish a leave: either way the endpoint ends attached to nothing."""
    repository = context.repository(intent.scope)
    network = repository.network(intent.network_id, deadline)
    stored = repository.endpoint(intent.network_id, intent.endpoint_id, deadline)
    assert intent.attachment is not None, "joins and leaves say what they attach"
    if network is None:
        line = keys.attachment(intent.sandbox_id, intent.scope, intent.network_id, intent.endpoint_id)
        context.local.commit(ended(context, intent.operation, "leave", deadline) + drop(line), deadline)
        return
    place = None if stored is None else stored.record.attachment
    if place is not None and place.operation != intent.operation:
        # A join that was committed, or an attachment that is none of this verb's business: only the note is stale. A
        # leave that never got as far as the endpoint's record has changed nothing either.
        assert stored is not None
        if place.host != context.host_name or place.sandbox_id != intent.sandbox_id:
            # Somebody else's by now: of ours, only this host's own notes are left.
            ours = attrs.evolve(stored.record, attachment=intent.attachment)
            gone = attach.withdrawn(context, network.record, ours, intent.operation, deadline)
            context.local.commit(gone, deadline)
            return
        cleared = drop(keys.intent(intent.operation))
        if intent.request is not None and intent.request.id == place.request_id:
            cleared = ended(context, intent.operation, "join", deadline)
        if intent.scope == "global":
            cleared += ledger.line(network.record, stored.record)
        presence = context.local.presence(intent.network_id, deadline)
        if intent.verb == "join" and presence is not None and presence.record.active and not presence.record.ready:
            cleared += presence.replace(attrs.evolve(presence.record, ready=True))
        context.local.commit(cleared, deadline)
        return
    record = stored.record if stored is not None else EndpointRecord(intent.endpoint_id, "", intent.network_id)
    driver = context.driver(network.record)
    with_place = attrs.evolve(record, attachment=intent.attachment)
    attach.finish_leave(context, driver, network.record, with_place, deadline)


_VERBS: Final[dict[str, Callable[[Context, Intent, Deadline], None]]] = {
    "create_network": _undo_create_network,
    "delete_network": _finish_delete_network,
    "join": _undo_attachment,
    "leave": _undo_attachment,
}
