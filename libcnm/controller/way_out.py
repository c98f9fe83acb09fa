"""The way out of a sandbox whose networks have none: libnetwork's default gateway service (``docker_gwbridge``).

An overlay carries traffic between its endpoints and nothing else. So a sandbox with such an endpoint gets one more, on
an ordinary bridge network of this host: it holds the default route, and publishes what the others have to publish. It
has no name. Both are made on demand and go with the last who needs them.

What is needed follows from what is attached, and nothing is remembered about it: :func:`settle` compares the two under
a lock of its own, taken before all others, and does what differs with the ordinary verbs. So it may be killed anywhere,
and called as often as one likes: by the verbs of :mod:`libcnm.controller.membership`, and by recovery for the dead
(:func:`sweep`). It never knows a driver by name, except the one that it uses, and never the cluster's store.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import ClassVar, Final

import attrs

from libcnm.contracts.driver import Driver
from libcnm.contracts.ipam import Avoid
from libcnm.controller import attach, desired, endpoints, networks
from libcnm.controller.context import Context
from libcnm.controller.desired import Plug
from libcnm.controller.endpoints import EndpointSpec
from libcnm.controller.networks import NetworkSpec
from libcnm.controller.repository import Stored, retrying
from libcnm.errors import AlreadyExists, CnmError, Corrupt, Forbidden, InUse, NotFound
from libcnm.model import keys, limits, options
from libcnm.model.addresses import Subnet
from libcnm.model.deadline import Deadline
from libcnm.model.ids import short
from libcnm.model.ports import Port
from libcnm.model.records import EndpointRecord, NetworkRecord
from libcnm.model.resource import Identity, Resource
from libcnm.system.locks import HeldLock

NETWORKS: Final = {
    frozenset((4,)): "cnm_gwbridge",
    frozenset((6,)): "cnm_gwbridge6",
    frozenset((4, 6)): "cnm_gwbridge46",
}
"""One for each need, so that a sandbox has one interface for it, and no host forwards IPv6 for those who have none."""
_DRIVER: Final = "bridge"
_OPTIONS: Final = {options.BRIDGE_ICC: "false"}
"""Sandboxes of different owners share these networks: they must not reach each other over them."""
_ROOM: Final = 1000
"""So many sandboxes of a host can have one: a bridge has no more than 1,023 ports (BR_MAX_PORTS)."""
_SWEEP_SECONDS: Final = 1.0
"""How long recovery waits for what others hold for moments: locks of networks. It waits for no verb."""


@attrs.frozen
class WayOut(Resource):
    """What a sandbox needs: a way out for these IP versions, through which these ports are published.

    A resource only so that ``doctor`` can name it: what it is in the kernel, its network and its endpoint say.
    """

    kind: ClassVar[str] = "way-out"

    ns: str
    versions: frozenset[int]
    ports: tuple[Port, ...] = ()

    @property
    def identity(self) -> Identity:
        return (self.kind, self.ns)

    @property
    def network(self) -> str:
        """The name of the network that it is on."""
        return NETWORKS[self.versions]


def wanted(plugs: Iterable[Plug]) -> WayOut | None:
    """What a sandbox with these endpoints needs, if anything. Those on their way in or out do not count. Pure."""
    others = [plug for plug in plugs if not plug.is_gateway and plug.place.state == "ready" and plug.place.namespace]
    ranked = sorted(others, key=lambda plug: plug.order)
    dry = [plug for plug in ranked if leads_nowhere(plug.driver, plug.network.record)]
    served = frozenset(desired.gateway_plugs(ranked))
    versions = frozenset(address.version for plug in dry for address in plug.endpoint.addresses) - served
    if not versions:
        return None
    ports = (port for plug in dry for port in plug.place.ports)
    return WayOut(dry[0].place.namespace, versions, tuple(port for port in ports if _version(port) in versions))


def leads_nowhere(driver: Driver, network: NetworkRecord) -> bool:
    """True for a network with addresses that may be left, and whose driver offers no gateway."""
    return driver.capabilities.addresses and not driver.capabilities.gateway and not network.internal


def present(plugs: Iterable[Plug]) -> WayOut | None:
    """What a sandbox with these endpoints has. Pure."""
    there = [plug for plug in plugs if plug.is_gateway]
    if not there:
        return None
    place, name = there[0].place, there[0].network.record.name
    whole = len(there) == 1 and place.state == "ready"
    versions = next((versions for versions, known in NETWORKS.items() if whole and known == name), frozenset[int]())
    return WayOut(place.namespace, versions, there[0].endpoint.ports)


def is_settled(plugs: Iterable[Plug]) -> bool:
    """True when a sandbox with these endpoints has the way out that it needs, and none that it does not. Pure."""
    known = list(plugs)
    return wanted(known) == present(known)


def _version(port: Port) -> int:
    assert port.host_address is not None, "ports are bound to an address when they are attached"
    return port.host_address.version


def _serves(need: WayOut, network: NetworkRecord, endpoint: EndpointRecord) -> bool:
    place = endpoint.attachment
    return network.name == need.network and place is not None and place.state == "ready"


# -- need and deed ---------------------------------------------------------------------------------------------------


def settle(context: Context, sandbox_id: str, deadline: Deadline) -> None:
    """Give a sandbox the way out that it needs, and take away what it does not need, or no longer as it is.

    Raises what the verbs raise: AlreadyExists (something else has the name), Forbidden (a subnet of the sandbox
    overlaps the way out's), Exhausted, KernelError. Then nothing half-made is left.
    """
    with turn(context, sandbox_id, deadline):
        settle_held(context, sandbox_id, deadline)


def sweep(context: Context, deadline: Deadline) -> int:
    """Settle what dead processes have not, a sandbox that has ended included; how many there were."""
    settled = 0
    for sandbox_id in _concerned(context, deadline):
        if _is_settled_in_store(context, sandbox_id, deadline):
            continue
        lock = context.doors.locks.try_acquire(_lock(sandbox_id))
        if lock is None:
            continue  # its verb is alive: running, or paused
        with lock:
            if _under_way(context, sandbox_id):
                continue
            try:
                settle_held(context, sandbox_id, _share(context, deadline))
                settled += 1
            except CnmError as error:
                context.log.warning("the way out of sandbox %s cannot be settled yet: %s", short(sandbox_id), error)
    for network in _networks(context, deadline):
        try:
            settled += _remove_if_empty(context, network, _share(context, deadline))
        except CnmError as error:
            context.log.warning("network %s cannot be removed yet: %s", network.name, error)
    return settled


def unsettled(context: Context, deadline: Deadline) -> list[tuple[WayOut | None, WayOut | None]]:
    """For ``doctor``: what sandboxes need, and what they have instead. Those about which a verb is under way are left
    out.
    """
    found = []
    for sandbox_id in _concerned(context, deadline):
        lock = context.doors.locks.try_acquire(_lock(sandbox_id))
        if lock is None:
            continue
        with lock:
            if _under_way(context, sandbox_id) or _is_settled_in_store(context, sandbox_id, deadline):
                continue
            plugs = _plugs(context, sandbox_id, deadline)
            found.append((wanted(plugs), present(plugs)))
    return [(need, has) for need, has in found if need != has]


def turn(context: Context, sandbox_id: str, deadline: Deadline) -> HeldLock:
    """The right to settle a sandbox's way out, which others may be waiting for. Before all other locks."""
    return context.doors.locks.acquire(_lock(sandbox_id), deadline=deadline)


def _lock(sandbox_id: str) -> str:
    return f"gateway-{short(sandbox_id)}"


def _share(context: Context, deadline: Deadline) -> Deadline:
    return context.doors.clock.deadline(min(_SWEEP_SECONDS, deadline.remaining()))


def _under_way(context: Context, sandbox_id: str) -> bool:
    """True while some verb holds the sandbox: it settles what it changes, and recovery waits for nobody."""
    lock = context.doors.locks.try_acquire(short(sandbox_id))
    if lock is None:
        return True
    lock.release()
    return False


def _concerned(context: Context, deadline: Deadline) -> list[str]:
    """The sandboxes that have a way out, or something attached that may need one: few, on most hosts none."""
    found = {
        one.record.gateway_of
        for network in _networks(context, deadline)
        for one in context.local.endpoints(network.id, deadline)
    }
    leads_out: dict[tuple[str, str], bool] = {}
    for entry in context.local.store.list(keys.ATTACHMENTS, deadline=deadline).entries:
        sandbox_id, scope, network_id, _ = keys.parse_attachment(entry.key)
        if (scope, network_id) not in leads_out:
            leads_out[scope, network_id] = scope != "global" and _leads_out(context, network_id, deadline)
        if not leads_out[scope, network_id]:
            found.add(sandbox_id)
    return sorted(found - {""})


def _leads_out(context: Context, network_id: str, deadline: Deadline) -> bool:
    """True also for what cannot be told: then there is nothing to be done about it either."""
    try:
        stored = context.local.network(network_id, deadline)
        return stored is None or context.driver(stored.record).capabilities.gateway
    except CnmError:
        return True


def _is_settled_in_store(context: Context, sandbox_id: str, deadline: Deadline) -> bool:
    try:
        plugs = _plugs(context, sandbox_id, deadline)
        return is_settled(plugs) and len(_there(context, sandbox_id, deadline)) == sum(one.is_gateway for one in plugs)
    except CnmError as error:
        context.log.warning("what sandbox %s needs cannot be told: %s", short(sandbox_id), error)
        return True


def _plugs(context: Context, sandbox_id: str, deadline: Deadline) -> list[Plug]:
    """What is attached to a sandbox of this boot; nothing when it has ended."""
    stored = context.local.sandbox(sandbox_id, deadline)
    if stored is None or stored.record.boot_id != context.doors.kernel.boot_id:
        return []
    return context.plugs(sandbox_id, deadline)


def settle_held(context: Context, sandbox_id: str, deadline: Deadline) -> None:
    """The same for who has the :func:`turn`. Until nothing differs: others who attach something meanwhile look at what
    there is before it is settled.
    """
    for _ in range(limits.CONFLICT_RETRIES):
        deadline.check(f"the way out of sandbox {short(sandbox_id)}")
        if not _changed(context, sandbox_id, deadline):
            return
    raise Forbidden(f"what is attached to sandbox {short(sandbox_id)} changes again and again", hint="try again")


def _changed(context: Context, sandbox_id: str, deadline: Deadline) -> bool:
    need = wanted(_plugs(context, sandbox_id, deadline))
    kept: tuple[NetworkRecord, EndpointRecord] | None = None
    removed = False
    for network, endpoint in _there(context, sandbox_id, deadline):
        if need is not None and kept is None and _serves(need, network, endpoint):
            kept = network, endpoint
        else:
            _remove(context, network, endpoint, deadline)
            removed = True
    if need is None or (kept is not None and kept[1].ports == need.ports):
        return removed
    try:
        network, endpoint = kept or _made(context, sandbox_id, need, deadline)
        if endpoint.attachment is not None:  # the address stays its own, and with it the connections
            attach.leave(context, network, endpoint, deadline)
        endpoint = _with_ports(context, network, endpoint, need.ports, deadline)
        attach.join(context, network, endpoint, context.sandbox(sandbox_id, deadline).record, deadline)
    except CnmError:
        _abandon(context, sandbox_id)
        raise
    return True


def _abandon(context: Context, sandbox_id: str) -> None:
    deadline = context.doors.clock.deadline(context.settings.timeout)
    try:
        for network, endpoint in _there(context, sandbox_id, deadline):
            _remove(context, network, endpoint, deadline)
        for network in _networks(context, deadline):
            _remove_if_empty(context, network, deadline)
    except CnmError as error:
        context.log.warning("the way out of sandbox %s could not be undone yet: %s", short(sandbox_id), error)


# -- the endpoint ----------------------------------------------------------------------------------------------------


def _name(sandbox_id: str) -> str:
    return f"gateway_{short(sandbox_id)}"


def _there(context: Context, sandbox_id: str, deadline: Deadline) -> list[tuple[NetworkRecord, EndpointRecord]]:
    """The ways out that were made for a sandbox, attached or not."""
    found = []
    for network in _networks(context, deadline):
        holder = context.local.holder(keys.endpoint_name(network.id, _name(sandbox_id)), deadline)
        stored = None if holder is None else context.local.endpoint(network.id, holder, deadline)
        if stored is not None and stored.record.gateway_of == sandbox_id:
            found.append((network, stored.record))
    return found


def _made(context: Context, sandbox_id: str, need: WayOut, deadline: Deadline) -> tuple[NetworkRecord, EndpointRecord]:
    """A new endpoint, attached to nothing, on the network that serves; the network, too, if need be."""
    spec = EndpointSpec(_name(sandbox_id), ports=need.ports, gateway_of=sandbox_id)
    for _ in range(limits.CONFLICT_RETRIES):
        network = _network(context, sandbox_id, need, deadline)
        # Somebody who found the network empty may be taking it away: then another is made.
        with suppress(NotFound, Forbidden):
            return network, endpoints.create_endpoint(context, network, spec, deadline)
    raise Forbidden(f"network {need.network!r} is deleted again and again", hint="try again")


def _with_ports(
    context: Context, network: NetworkRecord, endpoint: EndpointRecord, ports: tuple[Port, ...], deadline: Deadline
) -> EndpointRecord:
    def attempt() -> EndpointRecord:
        stored = context.endpoint(network.scope, network.id, endpoint.id, deadline)
        if stored.record.ports == ports:
            return stored.record
        changed = attrs.evolve(stored.record, ports=ports)
        context.local.commit(stored.replace(changed), deadline, durable=False)
        return changed

    return retrying(deadline, f"changing the ports of {endpoint.name!r}", attempt)


def _remove(context: Context, network: NetworkRecord, endpoint: EndpointRecord, deadline: Deadline) -> None:
    with suppress(NotFound):
        endpoints.delete_endpoint(context, network, endpoint, deadline, force=True)
    _remove_if_empty(context, network, deadline)


# -- the network -----------------------------------------------------------------------------------------------------


def _networks(context: Context, deadline: Deadline) -> list[NetworkRecord]:
    """The networks of those names that there are, whoever has made them. One that cannot be read costs itself only."""
    found = []
    for name in NETWORKS.values():
        try:
            stored = _by_name(context, name, deadline)
        except Corrupt as error:
            context.log.warning("left out: %s", error)
            continue
        if stored is not None:
            found.append(stored.record)
    return found


def _by_name(context: Context, name: str, deadline: Deadline) -> Stored[NetworkRecord] | None:
    holder = context.local.holder(keys.network_name(name), deadline)
    return None if holder is None else context.local.network(holder, deadline)


def _network(context: Context, sandbox_id: str, need: WayOut, deadline: Deadline) -> NetworkRecord:
    """The network of that name, which may be a user's (as with ``docker_gwbridge``); else a new one."""
    stored = _by_name(context, need.network, deadline)
    if stored is None or stored.record.state != "ready":
        taken = "is a network of the sandbox"
        plugs = context.plugs(sandbox_id, deadline)
        avoid = tuple(Avoid(block, taken) for plug in plugs for block in plug.network.record.subnets)
        subnets = tuple(Subnet(version=version) for version in sorted(need.versions))
        spec = NetworkSpec(
            need.network, _DRIVER, subnets, "default", False, _OPTIONS, {}, on_demand=True, avoid=avoid, room=_ROOM
        )
        try:
            return networks.create_network(context, spec, deadline)
        except AlreadyExists:
            # Whoever was making or deleting it has ended by now; what a dead process has left, recovery must settle.
            stored = _by_name(context, need.network, deadline)
            if stored is None or stored.record.state != "ready":
                raise
    record = stored.record
    driver = context.driver(record)
    if not need.versions <= {gateway.version for gateway in driver.gateways(record)}:
        raise Forbidden(
            f"network {record.name!r} ({record.id[:12]}) is the way out by its name, and does not lead out",
            hint="delete it, or make it again with a gateway of each IP version",
        )
    return record


def _remove_if_empty(context: Context, network: NetworkRecord, deadline: Deadline) -> bool:
    """Take away a network that was made for ways out and has no endpoint left; True when that was so."""
    if not network.on_demand or network.state != "ready" or context.local.endpoints(network.id, deadline):
        return False
    try:
        networks.delete_network(context, network, deadline)
    except (InUse, NotFound):  # somebody needs it again, or was faster
        return False
    return True
