"""The verbs on endpoints that are not attached: create and delete. No kernel effect, so each is one transaction.

An endpoint's name, addresses and MAC are claimed with its record; whoever loses the race gets the typed error of the
claim that was lost. A network that is being deleted takes no new endpoint: its record is compared.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import attrs

from libcnm.contracts.driver import Driver
from libcnm.contracts.ipam import AddressGrant, AddressRequest, IpamDriver
from libcnm.controller import attach, port_claims, requests
from libcnm.controller.context import Context
from libcnm.controller.repository import Repository, Stored, create, drop, retrying
from libcnm.controller.requests import UNNAMED, Request
from libcnm.errors import AlreadyExists, Conflict, Exhausted, Forbidden, InUse, Invalid, NotFound
from libcnm.kv.base import NOTHING, Transaction, together
from libcnm.model import keys, limits
from libcnm.model.addresses import IPAddress, IPInterface, address_within, mac_from_address, parse_address, parse_mac
from libcnm.model.arguments import sequence
from libcnm.model.deadline import Deadline
from libcnm.model.ids import check_labels, check_service
from libcnm.model.pool import Pool
from libcnm.model.ports import Port
from libcnm.model.records import EndpointRecord, NameClaim, NetworkRecord


@attrs.frozen
class EndpointSpec:
    """What a user asked for, checked as far as that needs no store."""

    name: str
    aliases: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    addresses: tuple[IPAddress, ...] = ()
    mac: str = ""
    options: dict[str, str] = attrs.field(factory=dict)
    labels: dict[str, str] = attrs.field(factory=dict)
    gateway_of: str = ""

    @classmethod
    def checked(
        cls,
        name: str,
        aliases: Sequence[str] | None,
        ports: Sequence[str | int | Port] | None,
        address: str | IPAddress | Sequence[str | IPAddress] | None,
        mac: str | None,
        options: Mapping[str, str] | None,
        labels: Mapping[str, str] | None,
    ) -> EndpointSpec:
        """The specification, or Invalid."""
        further = sequence(aliases, "aliases", limits.ALIASES)
        published = sequence(ports, "ports", limits.PORTS_PER_ENDPOINT)
        one = isinstance(address, str | IPAddress)
        wanted = (address,) if one else sequence(address, "address", limits.SUBNETS_PER_NETWORK)
        return cls(
            check_service(name),
            tuple(dict.fromkeys(check_service(alias, "alias") for alias in further)),
            tuple(dict.fromkeys(Port.of(port) for port in published)),
            tuple(parse_address(one, "address") for one in wanted),
            "" if mac is None else parse_mac(mac),
            check_labels(options, "options"),
            check_labels(labels),
        )


# -- create ----------------------------------------------------------------------------------------------------------


def create_endpoint(
    context: Context, network: NetworkRecord, spec: EndpointSpec, deadline: Deadline, request: Request = UNNAMED
) -> EndpointRecord:
    """Create an endpoint; the record as committed."""
    driver = context.driver(network)
    repository = context.repository(network.scope)
    known = requests.made_before(
        context, request, "endpoint", lambda one: repository.endpoint(network.id, one, deadline), deadline
    )
    if known is not None:
        return known
    _check(context, driver, network, spec)
    draft = EndpointRecord(
        id=request.object_id(context),
        name=spec.name,
        network_id=network.id,
        aliases=spec.aliases,
        ports=spec.ports,
        options=spec.options,
        labels=spec.labels,
        created=round(context.doors.clock.wall(), 3),
        operation=context.new_operation(),
        gateway_of=spec.gateway_of,
    )
    driver.check_endpoint(context.facts(driver), network, draft)

    attempts = itertools.count()
    tries = _Tries()

    def attempt() -> EndpointRecord:
        # Optimistic: the network and the claims are compared anyway; only who lost looks why.
        number = next(attempts)
        stored = _open_network(repository, network, deadline, remembered=number == 0)
        if number:
            _refuse_taken_name(repository, network, spec, deadline)
        try:
            addresses, claims = _addresses(context, repository, stored.record, draft, spec, tries, deadline)
        except (AlreadyExists, Exhausted, Invalid):
            _refuse_taken_name(repository, network, spec, deadline)  # that is said first: libnetwork's order
            raise
        mac = _mac(driver, network, draft, spec, addresses)
        if mac and number:
            mac = _free_mac(repository, network, draft, spec, mac, deadline)
        record = attrs.evolve(draft, addresses=addresses, mac=mac)
        ours = NameClaim(record.id, record.operation)
        claims = together(
            claims,
            stored.same,
            create(keys.endpoint_name(network.id, spec.name), ours),
            create(keys.mac(network.id, mac), ours) if mac else NOTHING,
            create(keys.endpoint(network.id, record.id), record),
        )
        # A way out does not outlive the boot: it need not survive a power failure.
        durable = not record.gateway_of
        with tries.counted():
            requests.commit(context, repository, claims, request, deadline, result=record.id, durable=durable)
        return record

    return retrying(deadline, f"creating endpoint {spec.name!r}", attempt)


class _Tries:
    """How often what each pool granted has met a conflict. One about another pool, or about the name, is no reason to
    keep clear of anybody in this.
    """

    def __init__(self) -> None:
        self.of: Counter[str] = Counter()
        self._compared: dict[str, frozenset[str]] = {}

    def granted(self, pool: Pool, grant: AddressGrant) -> None:
        """Remember what the pool's grant depends on."""
        self._compared[pool.id] = frozenset(compare.key for compare in grant.transaction.compares)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Around the commit."""
        try:
            yield
        except Conflict as conflict:
            self.of.update(pool for pool, keys in self._compared.items() if not keys.isdisjoint(conflict.keys))
            raise


def _refuse_taken_name(repository: Repository, network: NetworkRecord, spec: EndpointSpec, deadline: Deadline) -> None:
    holder = repository.holder(keys.endpoint_name(network.id, spec.name), deadline)
    if holder is not None:
        raise AlreadyExists("endpoint", spec.name, holder=holder[:12], hint=f"in network {network.name!r}")


def _check(context: Context, driver: Driver, network: NetworkRecord, spec: EndpointSpec) -> None:
    if driver.capabilities.addresses:
        for address in spec.addresses:
            if not any(address in subnet for subnet in network.subnets if subnet.version == address.version):
                listed = ", ".join(map(str, network.subnets)) or "it has none"
                raise Invalid("address", str(address), f"is in none of the network's subnets ({listed})")
        if spec.ports and not port_claims.publishes(driver, network):
            why = "is internal" if network.internal else "has no gateway"
            raise Invalid(
                "ports",
                [str(port) for port in spec.ports],
                f"cannot be published: network {network.name!r} {why}",
                hint="publish from an endpoint on a bridge network in the same sandbox",
            )
        if not spec.gateway_of:  # a way out's are bound already
            port_claims.check(context, driver, network, spec.ports)
        _refuse_own_mac(driver, network, spec.mac)
        return
    for field, value in (("address", spec.addresses), ("mac", spec.mac), ("ports", spec.ports)):
        if value:
            raise Invalid(field, str(value), f"means nothing on a network of driver {driver.name!r}")


def _open_network(
    repository: Repository, network: NetworkRecord, deadline: Deadline, *, remembered: bool
) -> Stored[NetworkRecord]:
    known = repository.recall(NetworkRecord, keys.network(network.id), deadline) if remembered else None
    if known is not None and known.record.state == "ready":
        return known
    stored = repository.network(network.id, deadline)
    if stored is None or stored.record.state == "preparing":
        raise NotFound("network", network.id[:12], name=network.name)
    if stored.record.state == "deleting":
        raise Forbidden(f"network {network.name!r} is being deleted", hint="try again when that has ended")
    return stored


def _addresses(
    context: Context,
    repository: Repository,
    network: NetworkRecord,
    draft: EndpointRecord,
    spec: EndpointSpec,
    tries: _Tries,
    deadline: Deadline,
) -> tuple[tuple[IPInterface, ...], Transaction]:
    """One address of each IP version that the network has: from the pool of the preferred one, else from the first with
    room (libnetwork goes on to the next pool, too).
    """
    preferred = {}
    for address in spec.addresses:
        if address.version in preferred:
            raise Invalid("address", str(address), f"is the second of IPv{address.version}", hint="one of each version")
        preferred[address.version] = address
    ipam = context.ipam(network.ipam_driver, network.scope)
    granted: dict[int, IPInterface] = {}
    claims = NOTHING
    # Preferred ones first: that one is refused is said before another version turns out to be exhausted.
    for version in sorted({pool.subnet.version for pool in network.pools}, key=lambda one: (one not in preferred, one)):
        wanted = preferred.get(version)
        pools = [
            pool
            for pool in network.pools
            if pool.subnet.version == version and (wanted is None or wanted in pool.subnet)
        ]
        requests = [AddressRequest(pool, draft.id, wanted, spec.mac or None, tries.of[pool.id]) for pool in pools]
        request, grant = _first_granted(ipam, repository, requests, deadline)
        tries.granted(request.pool, grant)
        claims += grant.transaction
        for address in grant.addresses:  # the null IPAM grants none
            granted[version] = address_within(address, request.pool.subnet)
    return tuple(granted[version] for version in sorted(granted)), claims


def _first_granted(
    ipam: IpamDriver, repository: Repository, requests: Sequence[AddressRequest], deadline: Deadline
) -> tuple[AddressRequest, AddressGrant]:
    refusals: list[str] = []
    for request in requests:
        try:
            return request, ipam.request_addresses(repository.store, [request], deadline=deadline)
        except Exhausted as error:
            if len(requests) == 1:
                raise
            refusals += [f"{request.pool.subnet}: {why}" for why in error.refusals]
    raise Exhausted(f"address in any of {', '.join(str(request.pool.subnet) for request in requests)}", refusals)


def _refuse_own_mac(driver: Driver, network: NetworkRecord, mac: str) -> None:
    holder = driver.own_macs(network).get(mac)
    if holder is not None:
        raise AlreadyExists("MAC", mac, holder=f"{holder} of network {network.name}")


def _mac(
    driver: Driver,
    network: NetworkRecord,
    draft: EndpointRecord,
    spec: EndpointSpec,
    addresses: tuple[IPInterface, ...],
) -> str:
    if not driver.capabilities.addresses:
        return ""
    if spec.mac:
        return spec.mac
    if addresses and addresses[0].version == 4:
        mac = mac_from_address(addresses[0].ip)
        if mac not in driver.own_macs(network):  # an IPv6 gateway may end like our IPv4 address
            return mac
    return _mac_from_id(draft.id)


def _free_mac(
    repository: Repository,
    network: NetworkRecord,
    draft: EndpointRecord,
    spec: EndpointSpec,
    mac: str,
    deadline: Deadline,
) -> str:
    """That MAC, or another if nobody asked for it and somebody has chosen the one that follows from our address."""
    taken = repository.holder(keys.mac(network.id, mac), deadline)
    if taken is not None and not spec.mac:
        mac = _mac_from_id(draft.id)
        taken = repository.holder(keys.mac(network.id, mac), deadline)
    if taken is not None:
        raise AlreadyExists("MAC", mac, holder=f"endpoint {taken[:12]}")
    return mac


def _mac_from_id(endpoint_id: str) -> str:
    return ":".join(["02", "42", *(endpoint_id[i : i + 2] for i in range(0, 8, 2))])


# -- delete ----------------------------------------------------------------------------------------------------------


def delete_endpoint(
    context: Context,
    network: NetworkRecord,
    endpoint: EndpointRecord,
    deadline: Deadline,
    *,
    force: bool = False,
    request: Request = UNNAMED,
) -> None:
    """Delete an endpoint; attached, it is InUse unless ``force``, which detaches it first (on its own host only)."""
    repository = context.repository(network.scope)
    stored = repository.endpoint(network.id, endpoint.id, deadline)
    if stored is None:
        if request.earlier is not None:  # begun and not heard of again: so it was done
            context.local.commit(request.done(), deadline, durable=False)
            return
        raise NotFound("endpoint", endpoint.id[:12], name=endpoint.name)
    if stored.record.attachment is not None:
        _refuse_attached(context, stored.record, force)
        attach.leave(context, network, stored.record, deadline)
    with context.doors.locks.acquire(endpoint.id, deadline=deadline):
        retrying(
            deadline,
            f"deleting endpoint {endpoint.name!r}",
            lambda: _forget(context, repository, network, endpoint, request, deadline),
        )


def _refuse_attached(context: Context, record: EndpointRecord, force: bool) -> None:
    place = record.attachment
    assert place is not None, "the caller has looked"
    elsewhere = place.host != context.host_name
    if force and not elsewhere:
        return
    holders = [f"container {place.container_id} on host {place.host}"]
    if elsewhere:
        hint = f"only host {place.host} can detach it: run this there"
        raise InUse("endpoint", record.name, holders, hint=hint)
    hint = "leave() first, or delete(force=True)"
    raise InUse("endpoint", record.name, holders, hint=hint, remedy="detach-or-force")


def _forget(
    context: Context,
    repository: Repository,
    network: NetworkRecord,
    endpoint: EndpointRecord,
    request: Request,
    deadline: Deadline,
) -> None:
    stored = repository.endpoint(network.id, endpoint.id, deadline)
    if stored is None:
        raise NotFound("endpoint", endpoint.id[:12], name=endpoint.name)
    if stored.record.attachment is not None:
        _refuse_attached(context, stored.record, force=False)
    record = stored.record
    gone = stored.delete() + drop(keys.endpoint_name(network.id, record.name))
    if record.mac:
        gone += drop(keys.mac(network.id, record.mac))
    ipam = context.ipam(network.ipam_driver, network.scope)
    for pool in network.pools:
        own = [interface.ip for interface in record.addresses if interface.ip in pool.subnet]
        if own:
            gone += ipam.release_addresses(repository.store, pool, own, record.id, deadline=deadline)
    requests.commit(context, repository, gone, request, deadline)
