"""The verbs on sandboxes: create, delete, rename, refresh. Sandboxes are local and last one boot.

A sandbox is a pinned network namespace with three files for whoever runs a container in it. One that was brought by a
runtime is known by device, inode and boot, never by its path; libcnm pins it and gives it back untouched but for what
it has put there.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from libcnm.controller import attach, desired, endpoints, sandbox_files
from libcnm.controller.calls import object_id
from libcnm.controller.context import Context
from libcnm.controller.delta import delta
from libcnm.controller.repository import Stored, create, drop, retrying
from libcnm.errors import AlreadyExists, CnmError, Forbidden, Invalid, NotFound
from libcnm.model import keys
from libcnm.model.addresses import parse_address
from libcnm.model.deadline import Deadline
from libcnm.model.ids import check_hostname, check_labels, check_name, short
from libcnm.model.records import Intent, NameClaim, SandboxRecord


@attrs.frozen
class SandboxSpec:
    """What a user asked for, checked as far as that needs no kernel."""

    container_id: str
    netns: str | None = None
    host_network: bool = False
    hostname: str = ""
    domain: str = ""
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    extra_hosts: dict[str, str] = attrs.field(factory=dict)
    labels: dict[str, str] = attrs.field(factory=dict)

    @classmethod
    def checked(
        cls,
        container_id: str,
        *,
        netns: str | None,
        host_network: bool,
        hostname: str | None,
        domain: str | None,
        dns: Sequence[str],
        dns_search: Sequence[str],
        dns_options: Sequence[str],
        extra_hosts: Mapping[str, str] | None,
        labels: Mapping[str, str] | None,
    ) -> SandboxSpec:
        """The specification, or Invalid."""
        check_name(container_id, "container_id")
        if netns is not None and (not isinstance(netns, str) or not netns.startswith("/") or "\0" in netns):
            raise Invalid("netns", netns, "is not an absolute path", hint="for example /proc/4242/ns/net")
        if netns is not None and host_network:
            raise Invalid("netns", netns, "cannot be given together with host_network")
        hosts = {
            check_hostname(name, "extra_hosts"): str(parse_address(ip, "extra_hosts"))
            for name, ip in (extra_hosts or {}).items()
        }
        return cls(
            container_id,
            netns,
            bool(host_network),
            check_hostname(hostname) if hostname else "",
            check_hostname(domain, "domain") if domain else "",
            tuple(str(parse_address(server, "dns")) for server in dns),
            tuple(check_hostname(name, "dns_search") for name in dns_search if name != "."),
            tuple(_option(option) for option in dns_options),
            hosts,
            check_labels(labels),
        )


def _option(option: str) -> str:
    if not isinstance(option, str) or not option or not option.isascii() or not option.isprintable() or " " in option:
        raise Invalid("dns_options", option, "is not a resolver option", hint="for example ndots:2")
    return option


def create_sandbox(
    context: Context, spec: SandboxSpec, deadline: Deadline, request_id: str | None = None
) -> SandboxRecord:
    """Create a sandbox; the record as committed."""
    doors = context.doors
    sandbox_id = object_id(context, "sandbox", request_id)
    known = context.local.sandbox(sandbox_id, deadline) if request_id is not None else None
    if known is not None and known.record.state == "ready":
        return known.record
    if spec.netns is not None:
        doors.kernel.identify(spec.netns)  # refuses what is not a namespace before anything is touched
    draft = SandboxRecord(
        id=sandbox_id,
        container_id=spec.container_id,
        namespace="" if spec.host_network else short(sandbox_id),
        boot_id=doors.kernel.boot_id,
        source=spec.netns,
        hostname=spec.hostname or _hostname(spec.container_id),
        domain=spec.domain,
        dns=spec.dns,
        dns_search=spec.dns_search,
        dns_options=spec.dns_options,
        extra_hosts=spec.extra_hosts,
        labels=spec.labels,
        created=round(doors.clock.wall(), 3),
        operation=context.new_operation(),
    )
    with doors.locks.acquire(sandbox_id, deadline=deadline):
        version = _claim(context, draft, deadline)
        try:
            context.engine.apply(delta((), desired.sandbox_base(draft)), deadline=deadline)
            sandbox_files.create(context, draft)
            record = _commit(context, draft, version, deadline)
        except CnmError:
            _abandon(context, draft)
            raise
    context.follower.nudge()
    return record


def _hostname(container_id: str) -> str:
    """A container id as a host name: Docker's containers are called by the first 12 characters of theirs."""
    cleaned = "".join(char if char.isalnum() or char == "-" else "-" for char in container_id)[:63].strip("-")
    return cleaned or "container"


def _claim(context: Context, draft: SandboxRecord, deadline: Deadline) -> int:
    """Record the sandbox as preparing, with the intent; the version that the record then has."""
    intent = _intent(context, "create_sandbox", draft.operation, draft)

    attempts = itertools.count()

    def attempt() -> int:
        # Optimistic: the claim is compared anyway; only who lost looks for the winner's name.
        holder = context.local.holder(keys.container(draft.container_id), deadline) if next(attempts) else None
        if holder is not None:
            raise AlreadyExists("sandbox of container", draft.container_id, holder=f"sandbox {short(holder)}")
        claims = create(keys.container(draft.container_id), NameClaim(draft.id, draft.operation))
        claims += create(keys.sandbox(draft.id), draft) + context.begin(intent)
        return context.local.commit(claims, deadline, durable=False).versions[keys.sandbox(draft.id)]

    return retrying(deadline, f"creating the sandbox of {draft.container_id!r}", attempt)


def _intent(context: Context, verb: str, operation: str, record: SandboxRecord) -> Intent:
    return Intent(
        operation=operation,
        verb=verb,
        scope="local",
        locks=(record.id,),
        sandbox_id=record.id,
        started=round(context.doors.clock.wall(), 3),
        boot_id=context.doors.kernel.boot_id,
    )


def _commit(context: Context, draft: SandboxRecord, version: int, deadline: Deadline) -> SandboxRecord:
    identity = context.doors.kernel.namespace(draft.namespace) if draft.namespace else None
    ready = attrs.evolve(
        draft,
        state="ready",
        operation="",
        device=identity.device if identity is not None else 0,
        inode=identity.inode if identity is not None else 0,
    )
    preparing = Stored(keys.sandbox(draft.id), version, draft)
    # Not synced to disk: a sandbox does not outlive the boot, and a crash of this process loses no commit.
    context.local.commit(preparing.replace(ready) + drop(keys.intent(draft.operation)), deadline, durable=False)
    return ready


def _abandon(context: Context, draft: SandboxRecord) -> None:
    deadline = context.doors.clock.deadline(context.settings.timeout)
    try:
        finish_delete(context, draft, draft.operation, deadline)
    except CnmError as error:
        context.log.warning("sandbox %s could not be undone yet: %s", short(draft.id), error)


# -- delete ----------------------------------------------------------------------------------------------------------
# ----------------------------------------------------------------------------------------------------------------


def delete_sandbox(
    context: Context, record: SandboxRecord, deadline: Deadline, *, keep_endpoints: bool = False
) -> None:
    """Detach all its endpoints (and delete them, unless told to keep them), then remove the sandbox.

    The endpoints' deletion follows libnetwork's Sandbox.Delete. A namespace that somebody has removed already is no
    error.
    """
    for plug in context.plugs(record.id, deadline):
        network = plug.network.record
        attach.leave(context, network, plug.endpoint, deadline)
        if not keep_endpoints:
            endpoints.delete_endpoint(context, network, plug.endpoint, deadline)
    with context.doors.locks.acquire(record.id, deadline=deadline):
        stored = context.local.sandbox(record.id, deadline)
        if stored is None:
            raise NotFound("sandbox", record.container_id)
        if context.plugs(record.id, deadline):
            raise Forbidden(
                f"an endpoint joined sandbox {record.container_id!r} while it was being deleted", hint="try again"
            )
        operation = context.new_operation()
        deleting = attrs.evolve(stored.record, state="deleting", operation=operation)
        intent = context.begin(_intent(context, "delete_sandbox", operation, deleting))
        context.local.commit(stored.replace(deleting) + intent, deadline, durable=False)
        finish_delete(context, deleting, operation, deadline)
    context.follower.announce(deadline)


def finish_delete(context: Context, record: SandboxRecord, operation: str, deadline: Deadline) -> None:
    """The part of a deletion that can only go forward, and the undoing of a creation; also what recovery calls."""
    context.engine.carry_out(delta(desired.sandbox_base(record), ()), deadline=deadline)
    if record.source is not None:
        context.doors.kernel.sweep()  # a parked link would else be seen for a moment in a namespace that is not ours
    context.doors.files.remove_folder(context.settings.paths.sandbox(record.id))
    context.local.commit(
        drop(keys.sandbox(record.id), keys.container(record.container_id), keys.intent(operation)),
        deadline,
        durable=False,
    )


# -- rename and refresh ----------------------------------------------------------------------------------------------
# ----------------------------------------------------------------------------------------------------


def rename(context: Context, record: SandboxRecord, hostname: str, deadline: Deadline) -> SandboxRecord:
    """Give the sandbox another host name; its files follow, and its endpoints' names do (libnetwork's
    Sandbox.Rename).
    """
    return refresh(context, record, deadline, hostname=check_hostname(hostname))


def refresh(context: Context, record: SandboxRecord, deadline: Deadline, **changes: Any) -> SandboxRecord:
    """Change the sandbox's settings in place; endpoints stay attached (libnetwork detaches and rejoins them)."""
    with context.doors.locks.acquire(record.id, deadline=deadline):

        def attempt() -> SandboxRecord:
            stored = context.sandbox(record.id, deadline)
            changed = attrs.evolve(stored.record, **changes)
            context.local.commit(stored.replace(changed), deadline)
            return changed

        changed = retrying(deadline, f"refreshing sandbox {record.container_id!r}", attempt)
        for plug in context.plugs(record.id, deadline):
            _rename_attachment(
                context, plug.network.record.scope, plug.endpoint.network_id, plug.endpoint.id, changed, deadline
            )
        sandbox_files.write(context, changed, context.plugs(record.id, deadline))
    context.follower.announce(deadline)
    return changed


def _rename_attachment(
    context: Context, scope: str, network_id: str, endpoint_id: str, sandbox: SandboxRecord, deadline: Deadline
) -> None:
    repository = context.repository("global" if scope == "global" else "local")

    def attempt() -> None:
        stored = repository.endpoint(network_id, endpoint_id, deadline)
        if stored is None or stored.record.attachment is None:
            return
        place = attrs.evolve(stored.record.attachment, hostname=sandbox.hostname)
        if place != stored.record.attachment:
            repository.commit(stored.replace(attrs.evolve(stored.record, attachment=place)), deadline)

    retrying(deadline, "renaming an attachment", attempt)


def namespace_is_ours(context: Context, record: SandboxRecord) -> bool:
    """True while the pinned namespace is still the one that the sandbox was made with."""
    identity = context.doors.kernel.namespace(record.namespace)
    return identity is not None and (identity.device, identity.inode) == (record.device, record.inode)
