"""The verbs on sandboxes: create, delete, rename, refresh. Sandboxes are local and last one boot.

A sandbox is a pinned network namespace with three files for whoever runs a container in it. One that was brought by a
runtime is known by device, inode and boot, never by its path; libcnm pins it and gives it back untouched but for what
it has put there.

Neither verb needs an intent: the record says what there should be. That of a sandbox of our own comes first, so that it
is being committed while the kernel makes the namespace; that of a brought one comes after its pin, since nobody else
could finish it (the path may lead elsewhere by then). Either goes first. All under the lock of the pin's name: what is
half-done and whose lock can be taken, a dead process has left, and :func:`settle` finishes or removes it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from libcnm.controller import attach, desired, endpoints, ledger, sandbox_files, way_out
from libcnm.controller.context import Context
from libcnm.controller.delta import delta
from libcnm.controller.repository import create, drop, retrying
from libcnm.controller.requests import UNNAMED, Request, made_before
from libcnm.dns.view import RESOLVER_ADDRESS
from libcnm.errors import AlreadyExists, CnmError, Forbidden, Invalid, NotFound
from libcnm.kernel.base import NamespaceId
from libcnm.kernel.resources import Namespace
from libcnm.model import keys, limits
from libcnm.model.addresses import IPAddress, parse_address, parse_server
from libcnm.model.arguments import flag, mapping, path, sequence
from libcnm.model.deadline import Deadline
from libcnm.model.ids import (
    check_hostname,
    check_labels,
    check_name,
    check_own_hostname,
    check_resolver_option,
    looks_like_id,
    short,
)
from libcnm.model.records import NameClaim, NetworkRecord, SandboxRecord
from libcnm.model.resource import Resource

_PIN_DIGITS: Final = 12


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
        dns: Sequence[str | IPAddress] | None,
        dns_search: Sequence[str] | None,
        dns_options: Sequence[str] | None,
        extra_hosts: Mapping[str, str | IPAddress] | None,
        labels: Mapping[str, str] | None,
    ) -> SandboxSpec:
        """The specification, or Invalid."""
        check_name(container_id, "container_id")
        if netns is not None:
            path(netns, "netns", hint="for example /proc/4242/ns/net")
            if host_network:
                raise Invalid("netns", netns, "cannot be given together with host_network")
        hosts = mapping(extra_hosts, "extra_hosts", limits.EXTRA_HOSTS)
        own, of = _or_empty(hostname, "hostname"), _or_empty(domain, "domain")
        if own or of:
            check_own_hostname(own or _hostname(container_id), of)
        return cls(
            container_id,
            netns,
            flag(host_network, "host_network"),
            own,
            of,
            tuple(str(_server(server)) for server in sequence(dns, "dns", limits.DNS_SERVERS)),
            _search(sequence(dns_search, "dns_search", limits.DNS_SEARCH)),
            tuple(check_resolver_option(option) for option in sequence(dns_options, "dns_options", limits.DNS_OPTIONS)),
            {
                check_hostname(name, "extra_hosts"): str(parse_address(ip, f"extra_hosts[{name}]"))
                for name, ip in hosts.items()
            },
            check_labels(labels),
        )


def _or_empty(name: str | None, field: str) -> str:
    """None and "" both ask for the default; whatever else is false does not."""
    return "" if name is None or name == "" else check_hostname(name, field)


def _server(value: str | IPAddress) -> IPAddress:
    server = parse_server(value, "dns")
    if server == RESOLVER_ADDRESS:
        raise Invalid("dns", str(server), "is the sandbox's own resolver, which would ask itself")
    return server


def _search(domains: Sequence[str]) -> tuple[str, ...]:
    """A root among them means "no domains" to resolv.conf(5), and is none."""
    return tuple(check_hostname(name, "dns_search") for name in domains if not (isinstance(name, str) and name == "."))


def create_sandbox(
    context: Context, spec: SandboxSpec, deadline: Deadline, request: Request = UNNAMED
) -> SandboxRecord:
    """Create a sandbox; the record as committed."""
    doors = context.doors
    known = made_before(context, request, "sandbox", lambda one: context.local.sandbox(one, deadline), deadline)
    if known is not None:
        finish_creation(context, known, deadline)
        return known
    sandbox_id = request.object_id(context)
    if spec.netns is not None:
        _refuse_in_use(context, spec.netns, deadline)
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
    )
    with doors.locks.acquire(short(sandbox_id), deadline=deadline):
        if spec.netns is not None:
            _refuse_taken(context, draft, deadline)  # before it is pinned
        try:
            if spec.netns is None:
                _commit(context, draft, request, deadline)
            _make(context, draft, deadline)
            if spec.netns is not None:
                draft = _as_pinned(context, draft)
                _commit(context, draft, request, deadline)
        except CnmError:
            _abandon(context, draft, request)
            raise
    context.follower.introduce(draft.id)
    return draft


def _make(context: Context, record: SandboxRecord, deadline: Deadline) -> None:
    """All of a sandbox to which nothing is attached yet, but its record."""
    sandbox_files.create(context, record)
    context.engine.apply(delta((), desired.sandbox_base(record)), deadline=deadline)


def _as_pinned(context: Context, draft: SandboxRecord) -> SandboxRecord:
    """With the identity of what was brought: what was pinned, whatever the path leads to by now."""
    identity = context.doors.kernel.namespace(draft.namespace)
    return draft if identity is None else attrs.evolve(draft, device=identity.device, inode=identity.inode)


def _refuse_in_use(context: Context, path: str, deadline: Deadline) -> None:
    """Refuse what is no namespace, the host's own (leaving it would take the host's links down), and one that has a
    sandbox already, before anything is touched.
    """
    try:
        identity = context.doors.kernel.identify(path)
    except Invalid as error:
        raise Invalid("netns", path, error.reason, hint=error.hint) from None  # the door knows a path of any kind
    if identity == context.doors.kernel.namespace(""):
        hint = "create_sandbox(..., host_network=True)"
        raise Invalid("netns", path, "is the host's own namespace", hint=hint, remedy="host-network")
    for stored in context.local.sandboxes(deadline):
        one = stored.record
        if one.boot_id == context.doors.kernel.boot_id and _identity(context, one) == identity:
            holder, hint = f"sandbox {short(one.id)} of {one.container_id!r}", "use that, or delete it first"
            raise AlreadyExists("sandbox of namespace", path, holder=holder, hint=hint)


def _identity(context: Context, record: SandboxRecord) -> NamespaceId | None:
    """Which namespace a sandbox has: ours is whatever is pinned under its name."""
    if record.source is not None:
        return NamespaceId(record.device, record.inode)
    return context.doors.kernel.namespace(record.namespace) if record.namespace else None


def _hostname(container_id: str) -> str:
    """A container id as a host name: Docker's containers are called by the first 12 characters of theirs."""
    cleaned = "".join(char if char.isalnum() or char == "-" else "-" for char in container_id)[:63].strip("-")
    return cleaned or "container"


def _refuse_taken(context: Context, draft: SandboxRecord, deadline: Deadline) -> None:
    holder = context.local.holder(keys.container(draft.container_id), deadline)
    if holder is not None:
        hint = "use that, or delete it first"
        raise AlreadyExists("sandbox of container", draft.container_id, holder=f"sandbox {short(holder)}", hint=hint)


def _commit(context: Context, draft: SandboxRecord, request: Request, deadline: Deadline) -> None:
    claims = create(keys.container(draft.container_id), NameClaim(draft.id)) + create(keys.sandbox(draft.id), draft)
    claims += request.done(draft.id)
    attempts = itertools.count()

    def attempt() -> None:
        if next(attempts):
            _refuse_taken(context, draft, deadline)  # who lost the race looks who has won it
        # Not synced to disk: a sandbox does not outlive the boot, and a crash of this process loses no commit.
        context.local.commit(claims, deadline, durable=False)

    retrying(deadline, f"creating the sandbox of {draft.container_id!r}", attempt)


def _abandon(context: Context, draft: SandboxRecord, request: Request) -> None:
    deadline = context.doors.clock.deadline(context.settings.timeout)
    try:
        finish_delete(context, draft, deadline, request.taken_back)
    except CnmError as error:
        context.log.warning("sandbox %s could not be undone yet: %s", short(draft.id), error)


# -- delete ----------------------------------------------------------------------------------------------------------


def delete_sandbox(
    context: Context,
    record: SandboxRecord,
    deadline: Deadline,
    *,
    keep_endpoints: bool = False,
    request: Request = UNNAMED,
) -> None:
    """Detach all its endpoints (and delete them, unless told to keep them), then remove the sandbox.

    The endpoints' deletion follows libnetwork's Sandbox.Delete. A namespace that somebody has removed already is no
    error. Its way out is never kept.
    """
    failed: list[CnmError] = []
    plugs = context.plugs(record.id, deadline)
    for plug in plugs:
        if plug.is_gateway:
            continue
        network = plug.network.record
        try:
            attach.leave(context, network, plug.endpoint, deadline)
            if not keep_endpoints:
                endpoints.delete_endpoint(context, network, plug.endpoint, deadline)
        except CnmError as error:
            failed.append(error)  # the others are freed all the same
    if any(plug.is_gateway for plug in plugs):
        try:
            way_out.settle(context, record.id, deadline)
        except CnmError as error:
            failed.append(error)
    if failed:
        for other in failed[1:]:
            failed[0].add_note(f"and: {other}")
        raise failed[0]
    with context.doors.locks.acquire(short(record.id), deadline=deadline):
        stored = context.local.sandbox(record.id, deadline)
        if stored is None:
            raise NotFound("sandbox", short(record.id), name=record.container_id)
        if context.plugs(record.id, deadline):
            raise Forbidden(
                f"an endpoint joined sandbox {record.container_id!r} while it was being deleted", hint="try again"
            )
        finish_delete(context, stored.record, deadline, request)
    context.announce(f"sandbox {short(record.id)} is deleted", deadline, parked=True)


def finish_delete(context: Context, record: SandboxRecord, deadline: Deadline, request: Request = UNNAMED) -> None:
    """End a sandbox, or undo its creation; its lock is held. What a crash leaves is a pin without a record."""
    gone = drop(keys.sandbox(record.id)) + request.first() + request.done()
    if context.local.holder(keys.container(record.container_id), deadline) == record.id:
        gone += drop(keys.container(record.container_id))
    context.local.commit(gone, deadline, durable=False)
    _remove(context, record, deadline)


def _remove(context: Context, record: SandboxRecord, deadline: Deadline) -> None:
    context.engine.carry_out(delta(desired.sandbox_base(record), ()), deadline=deadline)
    if record.source is not None:
        # A parked link would else be seen for a moment in a namespace that is not ours.
        context.doors.kernel.sweep(context.link_homes(deadline))
    context.doors.files.remove_folder(context.settings.paths.sandbox(record.id))


# -- half-done -------------------------------------------------------------------------------------------------------


def settle(context: Context, deadline: Deadline) -> int:
    """Remove what a dead process had made of a sandbox that is not recorded (not yet, or not any more), and make what
    it had recorded and not made; how many.
    """
    folders = [Namespace(name) for name in context.doors.files.names(context.settings.paths.sandboxes)]
    pins = [one.resource for one in context.doors.kernel.read([""], [Namespace], deadline=deadline)]
    found = {one.name: one for one in (*folders, *pins) if isinstance(one, Namespace) and is_pin(one)}
    known = {one.record.namespace: one.record for one in context.local.sandboxes(deadline)}
    unpinned = known.keys() - {one.name for one in pins if isinstance(one, Namespace)} - {""}
    removed = sum(_removed(context, pin, deadline) for name, pin in found.items() if name not in known)
    return removed + sum(_finished(context, known[name], deadline) for name in unpinned)


def is_pin(resource: Resource) -> bool:
    """True for the pin of a sandbox: those of networks have other names."""
    return isinstance(resource, Namespace) and len(resource.name) == _PIN_DIGITS and looks_like_id(resource.name)


def in_the_making(context: Context, resource: Resource) -> bool:
    """True for the pin of a sandbox whose creation or deletion is under way."""
    if not is_pin(resource):
        return False
    lock = context.doors.locks.try_acquire(resource.identity[-1])
    if lock is None:
        return True
    lock.release()
    return False


def _removed(context: Context, pin: Namespace, deadline: Deadline) -> bool:
    lock = context.doors.locks.try_acquire(pin.name)
    if lock is None:
        return False  # its verb is alive: running, or paused
    with lock:
        # Under the lock: it may have been recorded since the pins were listed.
        if any(one.record.namespace == pin.name for one in context.local.sandboxes(deadline)):
            return False
        orphan = SandboxRecord(pin.name, "", pin.name, context.doors.kernel.boot_id, source=pin.source)
        context.log.info("unpinning %s: nobody has a sandbox of that name", pin.name)
        _remove(context, orphan, deadline)
        return True


def _finished(context: Context, record: SandboxRecord, deadline: Deadline) -> bool:
    lock = context.doors.locks.try_acquire(short(record.id))
    if lock is None:
        return False
    with lock:
        try:
            return _made_whole(context, record, deadline)
        except CnmError as error:
            context.log.warning("sandbox %s cannot be made yet: %s", short(record.id), error)
            return False


def finish_creation(context: Context, record: SandboxRecord, deadline: Deadline) -> None:
    """Wait for a sandbox that is recorded and whose namespace is not there: its creator is at it, or has died, and then
    it is made here. Raises DeadlineExceeded (with who has it), KernelError.
    """
    if not record.namespace or context.doors.kernel.namespace(record.namespace) is not None:
        return  # what a verb does with it now, it does with one that is whole
    with context.doors.locks.acquire(short(record.id), deadline=deadline):
        _made_whole(context, record, deadline)


def _made_whole(context: Context, record: SandboxRecord, deadline: Deadline) -> bool:
    """Make the namespace that is not there, and the files; its lock is held. False when there is nothing to do. One
    that somebody has removed with what was attached in there is not for us, but for reconcile.
    """
    stored = context.local.sandbox(record.id, deadline)
    if stored is None or stored.record.boot_id != context.doors.kernel.boot_id or context.plugs(record.id, deadline):
        return False
    one = stored.record
    if not one.namespace or one.source is not None or context.doors.kernel.namespace(one.namespace) is not None:
        return False
    context.log.info("making the namespace of sandbox %s, which is recorded and not there", short(one.id))
    _make(context, one, deadline)
    context.follower.introduce(one.id)
    return True


# -- rename and refresh ----------------------------------------------------------------------------------------------


def rename(context: Context, record: SandboxRecord, hostname: str, deadline: Deadline) -> SandboxRecord:
    """Give the sandbox another host name; its files follow, and its endpoints' names do (libnetwork's
    Sandbox.Rename).
    """
    return refresh(context, record, deadline, hostname=hostname)


def refresh(context: Context, record: SandboxRecord, deadline: Deadline, **changes: Any) -> SandboxRecord:
    """Change the sandbox's settings in place; endpoints stay attached (libnetwork detaches and rejoins them)."""
    with context.doors.locks.acquire(short(record.id), deadline=deadline):

        def attempt() -> SandboxRecord:
            stored = context.sandbox(record.id, deadline, name=record.container_id)
            changed = attrs.evolve(stored.record, **changes)
            check_own_hostname(changed.hostname, changed.domain)  # each may be right, and together too long
            context.local.commit(stored.replace(changed), deadline)
            return changed

        changed = retrying(deadline, f"refreshing sandbox {record.container_id!r}", attempt)
        for plug in context.plugs(record.id, deadline):
            _rename_attachment(context, plug.network.record, plug.endpoint.id, changed, deadline)
        sandbox_files.write(context, changed, context.plugs(record.id, deadline))
    context.announce(f"sandbox {short(record.id)} has other settings", deadline)
    return changed


def _rename_attachment(
    context: Context, network: NetworkRecord, endpoint_id: str, sandbox: SandboxRecord, deadline: Deadline
) -> None:
    repository = context.repository(network.scope)

    def attempt() -> None:
        stored = repository.endpoint(network.id, endpoint_id, deadline)
        if stored is None or stored.record.attachment is None:
            return
        place = attrs.evolve(stored.record.attachment, hostname=sandbox.hostname)
        if place != stored.record.attachment:
            renamed = attrs.evolve(stored.record, attachment=place)
            repository.commit(stored.replace(renamed), deadline)
            if network.scope == "global":
                context.local.commit(ledger.line(network, renamed), deadline, durable=False)

    retrying(deadline, "renaming an attachment", attempt)


def namespace_is_ours(context: Context, record: SandboxRecord) -> bool:
    """True while what is pinned for a sandbox is what it was made with: of a brought one, that very namespace."""
    pinned = context.doors.kernel.namespace(record.namespace)
    return pinned is not None and pinned == _identity(context, record)
