"""The verbs that change what is attached to sandboxes, as users call them: with the way out that follows from it.

A join is given back when its sandbox cannot have the way out that it needs from then on; what takes something away is
done in any case, and a way out that cannot be settled now is left to recovery. A way out itself is nobody's to take
away while it is needed. It never knows how anything is attached, which is :mod:`libcnm.controller.attach`'s.
"""

from __future__ import annotations

from contextlib import ExitStack

from libcnm.controller import attach, endpoints, networks, way_out
from libcnm.controller.context import Context
from libcnm.controller.requests import UNNAMED, Request
from libcnm.errors import CnmError, Forbidden, InUse
from libcnm.model.deadline import Deadline
from libcnm.model.ids import short
from libcnm.model.records import EndpointRecord, NetworkRecord, SandboxRecord


def join(
    context: Context,
    network: NetworkRecord,
    endpoint: EndpointRecord,
    sandbox: SandboxRecord,
    deadline: Deadline,
    *,
    priority: int = 0,
    request: Request = UNNAMED,
) -> EndpointRecord:
    """Attach an endpoint, and give its sandbox the way out that it needs from now on; or neither."""
    if _is_way_out(network, endpoint):
        raise Forbidden(f"endpoint {endpoint.name!r} is a way out: it joins its own sandbox by itself")
    joined: attach.Joined | None = None
    try:
        with ExitStack() as held:
            first = way_out.leads_nowhere(context.driver(network), network)
            if first:
                # It waits for the resident with the sandbox's lock held. Whoever recovers, above all that resident,
                # must see that somebody is at it, and not wait for that lock to do what is about to be done here.
                held.enter_context(way_out.turn(context, sandbox.id, deadline))
            joined = attach.join(context, network, endpoint, sandbox, deadline, priority=priority, request=request)
            if not way_out.is_settled(joined.plugs):
                if not first:
                    held.enter_context(way_out.turn(context, sandbox.id, deadline))
                way_out.settle_held(context, sandbox.id, deadline)
    except CnmError:
        if joined is not None:
            _take_back(context, network, joined.record, sandbox.id, request)
        raise
    return joined.record


def _take_back(
    context: Context, network: NetworkRecord, record: EndpointRecord, sandbox_id: str, request: Request
) -> None:
    deadline = context.doors.clock.deadline(context.settings.timeout)
    try:
        attach.leave(context, network, record, deadline, request.taken_back)
    except CnmError as error:
        context.log.warning("join of endpoint %s could not be undone yet: %s", record.id[:12], error)
    _settle(context, [sandbox_id], deadline)


def leave(
    context: Context, network: NetworkRecord, endpoint: EndpointRecord, deadline: Deadline, request: Request = UNNAMED
) -> None:
    """Detach an endpoint; its sandbox keeps, gets or loses its way out as it needs one."""
    _refuse_way_out(network, endpoint)
    left = [endpoint.attachment.sandbox_id] if endpoint.attachment is not None else []
    if not way_out.is_settled(attach.leave(context, network, endpoint, deadline, request)):
        _settle(context, left, deadline)


def delete_endpoint(
    context: Context,
    network: NetworkRecord,
    endpoint: EndpointRecord,
    deadline: Deadline,
    *,
    force: bool = False,
    request: Request = UNNAMED,
) -> None:
    """Delete an endpoint, and what only it needed. See :func:`libcnm.controller.endpoints.delete_endpoint`."""
    left: list[str] = []
    if force or _is_way_out(network, endpoint):
        stored = context.repository(network.scope).endpoint(network.id, endpoint.id, deadline)
        if stored is not None:
            _refuse_way_out(network, stored.record)
            left = _sandboxes(context, [stored.record])
    try:
        endpoints.delete_endpoint(context, network, endpoint, deadline, force=force, request=request)
    finally:
        _settle(context, left, deadline)


def delete_network(
    context: Context, record: NetworkRecord, deadline: Deadline, *, force: bool = False, request: Request = UNNAMED
) -> None:
    """Delete a network, and what only its endpoints needed. See :func:`libcnm.controller.networks.delete_network`."""
    left: list[str] = []
    if force or record.name in way_out.NETWORKS.values():
        inside = [stored.record for stored in context.repository(record.scope).endpoints(record.id, deadline)]
        holders = [_held(one) for one in inside if _is_way_out(record, one) and one.attachment is not None]
        if holders:
            raise InUse("network", record.name, holders, hint="it goes with the last container that needs it")
        left = _sandboxes(context, inside) if force else []
    try:
        networks.delete_network(context, record, deadline, force=force, request=request)
    finally:
        _settle(context, left, deadline)


def _sandboxes(context: Context, records: list[EndpointRecord]) -> list[str]:
    """The sandboxes of this host that endpoints are attached to."""
    places = [record.attachment for record in records if record.attachment is not None]
    return sorted({place.sandbox_id for place in places if place.host == context.host_name})


def _settle(context: Context, sandbox_ids: list[str], deadline: Deadline) -> None:
    """After what cannot be taken back."""
    for sandbox_id in sandbox_ids:
        try:
            if not way_out.is_settled(context.plugs(sandbox_id, deadline)):
                way_out.settle(context, sandbox_id, deadline)
        except CnmError as error:
            context.log.warning("the way out of sandbox %s is not settled yet: %s", short(sandbox_id), error)


# -- whose a way out is ----------------------------------------------------------------------------------------------


def _is_way_out(network: NetworkRecord, endpoint: EndpointRecord) -> bool:
    return bool(endpoint.gateway_of) and network.scope == "local"


def _refuse_way_out(network: NetworkRecord, endpoint: EndpointRecord) -> None:
    """It would come again, or leave a sandbox without."""
    if _is_way_out(network, endpoint) and endpoint.attachment is not None:
        hint = "it goes when nothing in the container needs it, or with the container"
        raise InUse("endpoint", endpoint.name, [_held(endpoint)], hint=hint)


def _held(endpoint: EndpointRecord) -> str:
    assert endpoint.attachment is not None, "the caller has looked"
    return f"container {endpoint.attachment.container_id}, whose way out it is"
