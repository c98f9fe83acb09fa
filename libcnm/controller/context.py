"""What every verb has at hand: the doors, the two repositories, the plug-ins, the engine, and who this host is.

A network of scope "local" lives in the host's own store, one of scope "global" in the cluster's. Local work never
touches the cluster store: :meth:`Context.repository` is the only way to it.
"""

from __future__ import annotations

import ipaddress
import logging
import platform
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

import attrs

from libcnm.contracts.driver import Driver, HostFacts, NetworkView, ResourceDoor
from libcnm.contracts.ipam import IpamDriver, IpamFacts
from libcnm.controller import run_dir
from libcnm.controller.desired import Plug
from libcnm.controller.doors import Doors, Paths, ThirdPartyDoors
from libcnm.controller.engine import Engine
from libcnm.controller.registry import Registry
from libcnm.controller.repository import Repository, Stored, create, put, retrying
from libcnm.controller.settled import SettledStore
from libcnm.controller.underlay import Underlay
from libcnm.errors import AlreadyExists, CnmError, Invalid, NotFound, NotSupported
from libcnm.kernel.firewall import routing_table
from libcnm.kv.base import Entry, Transaction
from libcnm.model import keys, limits
from libcnm.model.addresses import IPAddress, check_bindable, check_unicast, parse_address
from libcnm.model.arguments import seconds, sequence, whole
from libcnm.model.checks import check_driver_scope, check_member
from libcnm.model.deadline import Deadline
from libcnm.model.ids import check_name, network_namespace
from libcnm.model.records import (
    EndpointRecord,
    HostClaim,
    Installation,
    Intent,
    NameClaim,
    NetworkRecord,
    SandboxRecord,
    Scope,
)
from libcnm.model.resource import Resource

log = logging.getLogger("libcnm")


Attendance = Literal["unneeded", "present", "behind", "absent"]
"""Whether somebody follows: nobody needs to; it has taken in everything committed before the question; it is there and
has not; it is not there."""


News: TypeAlias = "Mapping[str, Entry | None]"
"""Keys of the host's own store that were committed, each with what was written there, or None: that is to be read."""


class Link(Protocol):
    """What verbs need of whoever follows this installation's records: the resident, above all."""

    def wake(self, deadline: Deadline) -> None:
        """Have somebody follow if there is a sandbox to follow for. Waits for nobody to begin, never fails."""

    def attendance(self, deadline: Deadline) -> Attendance:
        """Whether somebody follows. Starts nobody, never fails."""

    def announce(self, deadline: Deadline, *, parked: bool = False) -> None:
        """Records have changed; returns when that has been taken note of. ``parked``: links wait for a sweep."""

    def introduce(self, sandbox_id: str) -> None:
        """A sandbox was made, and somebody will soon :meth:`tell` of it; wakes. Never waits, never fails."""

    def foretell(self, sandbox_id: str, changed: News) -> None:
        """:meth:`tell` will soon tell of these keys: whoever looks at them now, while the kernel is at work, will be
        quick then. Never waits, never fails.
        """

    def tell(self, sandbox_id: str, changed: News, deadline: Deadline, *, parked: bool = False) -> None:
        """What is attached to a sandbox has changed, at these keys of the host's own store: names asked for from now on
        know it.
        """

    def close(self) -> None:
        """Let go; idempotent."""


class Nobody:
    """Until there is a link."""

    def wake(self, deadline: Deadline) -> None:
        """Nobody follows."""

    def attendance(self, deadline: Deadline) -> Attendance:
        return "unneeded"

    def announce(self, deadline: Deadline, *, parked: bool = False) -> None:
        """Nobody follows."""

    def introduce(self, sandbox_id: str) -> None:
        """Nobody follows."""

    def foretell(self, sandbox_id: str, changed: News) -> None:
        """Nobody follows."""

    def tell(self, sandbox_id: str, changed: News, deadline: Deadline, *, parked: bool = False) -> None:
        """Nobody follows."""

    def close(self) -> None:
        """Nothing to let go of."""


@attrs.frozen
class Settings:
    """What a controller was opened with."""

    paths: Paths
    cluster_store: str | None = attrs.field(default=None, repr=False)  # its URL may hold a password
    host: str | None = None
    advertise: IPAddress | None = None
    default_host_ips: tuple[IPAddress, ...] = (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))
    timeout: float = 10.0
    resident: Literal["process", "thread", "inline", "off"] = "process"
    guardian: int | None = None

    @classmethod
    def checked(
        cls,
        paths: Paths,
        *,
        cluster_store: str | None,
        host: str | None,
        advertise: str | IPAddress | None,
        default_host_ips: Sequence[str | IPAddress],
        timeout: float,
        resident: str,
        guardian: int | None = None,
    ) -> Settings:
        """The settings, or Invalid."""
        if cluster_store is not None and not isinstance(cluster_store, str):  # not shown: it may hold a password
            raise Invalid("cluster_store", "…", "is not a string", hint="the URL of a store, like sqlite:///path")
        if resident not in ("process", "thread", "inline", "off"):
            raise Invalid("resident", resident, "is none of process, thread, inline, off")
        name = check_name(host if host is not None else (platform.node() or "localhost"), "host")
        vtep = None if advertise is None else parse_address(advertise, "advertise")
        if vtep is not None:
            check_unicast(vtep, "advertise")
        if default_host_ips is None:  # it could mean none, or the default ones
            raise Invalid("default_host_ips", None, "is no list", hint="() for none: then each port names its address")
        given = sequence(default_host_ips, "default_host_ips", limits.HOST_IPS)
        ips = tuple(dict.fromkeys(parse_address(ip, "default_host_ips") for ip in given))
        for ip in ips:
            check_bindable(ip, "default_host_ips")
        if guardian is not None:
            whole(guardian, "guardian", 1, limits.PROCESS_ID_MAX)
        mode: Literal["process", "thread", "inline", "off"] = resident  # type: ignore[assignment]  # checked above
        return cls(paths, cluster_store, name, vtep, ips, seconds(timeout), mode, guardian)


class Context:
    """One opened installation."""

    def __init__(self, settings: Settings, doors: Doors, registry: Registry) -> None:
        self.settings = settings
        self.doors = doors
        self.registry = registry
        self.local = Repository(doors.local, "local")
        self.cluster = None if doors.cluster is None else Repository(SettledStore(doors.cluster), "global")
        self.engine = Engine(doors.kernel, doors.clock, self._third_party_doors)
        self.log = log
        self.follower: Link = Nobody()
        self.host_name = settings.host or "localhost"
        self.installation = self._installation(doors.clock.deadline(settings.timeout))
        tag = self.installation.id[:12]
        self._local_facts = HostFacts(
            self.host_name, tag, f"cnm-{tag}", routing_table(tag), default_host_ips=settings.default_host_ips
        )
        deadline = doors.clock.deadline(settings.timeout)
        place, boot_id = settings.paths.run_dir, doors.kernel.boot_id
        run_dir.claim(place, doors.files, self.local, self.installation.id, boot_id, deadline)
        self._underlay = Underlay(doors.kernel, doors.clock, settings.advertise, self._overlays_here)
        self._registered = False
        self._lineage = ""

    # -- who we are --------------------------------------------------------------------------------------------------

    def _installation(self, deadline: Deadline) -> Installation:
        def attempt() -> Installation:
            found = self.local.read(Installation, keys.INSTALLATION, deadline)
            if found is not None:
                return found.record
            made = Installation(self.doors.entropy.new_id(), self.host_name, self.doors.clock.wall())
            self.local.commit(create(keys.INSTALLATION, made), deadline)
            return made

        return retrying(deadline, "installation", attempt)

    def facts(self, driver: Driver) -> HostFacts:
        """What drivers may know of this host. The cluster's part is found out when a global driver asks; Invalid when
        the host has not got the address that it is to advertise.
        """
        if driver.capabilities.scope == "local":
            return self._local_facts
        place = self._underlay.place()
        return attrs.evolve(self._local_facts, vtep=place.vtep, underlay_mtu=place.mtu)

    def _overlays_here(self) -> bool:
        """Whether a network of the cluster has been brought to this host and is still here."""
        found = self.local.presences(self.doors.clock.deadline(self.settings.timeout))
        return any(one.record.active and one.record.boot_id == self.doors.kernel.boot_id for one in found)

    def ipam(self, name: str, scope: Scope) -> IpamDriver:
        """The IPAM of that name for the address space of that scope."""
        seed = self.installation.id if scope == "local" else self._lineage
        entropy = self.doors.entropy
        return self.registry.ipam(name, IpamFacts(scope, seed, self.doors.clock.wall, entropy.below))

    def _third_party_doors(self) -> ThirdPartyDoors:
        found: dict[type[Resource], ResourceDoor] = {}
        for driver in self.registry.loaded_drivers():
            found.update(driver.doors())
        return self.doors.third_party(found) if found else found

    # -- stores ------------------------------------------------------------------------------------------------------

    def repository(self, scope: Scope) -> Repository:
        """The store of that scope; NotSupported when there is no cluster store."""
        if scope == "local":
            return self.local
        if self.cluster is None:
            raise NotSupported(
                "networks of global scope need a store that the hosts share",
                hint="Controller(cluster_store='sqlite:///path') for hosts simulated on one machine",
                remedy="cluster-store",
            )
        self._register()
        return self.cluster

    def all_networks(self, deadline: Deadline) -> tuple[list[Stored[NetworkRecord]], bool]:
        """The networks of every scope, and whether that is all: local work does not fail with the cluster store."""
        found = self.local.networks(deadline)
        if self.cluster is None:
            return found, True
        try:
            return [*found, *self.repository("global").networks(deadline)], True
        except CnmError as error:
            log.warning("networks of the cluster are left out: %s", error)
            return found, False

    def _register(self) -> None:
        """Claim this host's name in the cluster: two hosts of one name would free each other's attachments."""
        if self._registered or self.cluster is None:
            return
        deadline = self.doors.clock.deadline(self.settings.timeout)
        cluster = self.cluster
        vtep = str(self.settings.advertise or "")
        wanted = HostClaim(self.host_name, self.installation.id, vtep)

        def attempt() -> None:
            found = cluster.read(HostClaim, keys.host(self.host_name), deadline)
            if found is None:
                cluster.commit(create(keys.host(self.host_name), wanted), deadline)
            elif found.record.installation != self.installation.id:
                raise AlreadyExists(
                    "host",
                    self.host_name,
                    holder=f"installation {found.record.installation[:12]}",
                    hint="give host= another name",
                    remedy="rename-host",
                )
            elif found.record != wanted:
                cluster.commit(found.replace(wanted), deadline)

        retrying(deadline, "host registration", attempt)
        self._lineage = retrying(deadline, "cluster lineage", lambda: self._found_lineage(cluster, deadline))
        self._registered = True

    def _found_lineage(self, cluster: Repository, deadline: Deadline) -> str:
        """The cluster's own id, made by whoever comes first."""
        found = cluster.read(NameClaim, keys.LINEAGE, deadline)
        if found is not None:
            return found.record.holder
        made = NameClaim(self.doors.entropy.new_id())
        cluster.commit(create(keys.LINEAGE, made), deadline)
        return made.holder

    # -- objects -----------------------------------------------------------------------------------------------------

    def network(
        self, scope: Scope, network_id: str, deadline: Deadline, *, name: str | None = None, remembered: bool = False
    ) -> Stored[NetworkRecord]:
        """The record, or NotFound, with the ``name`` that it had. ``remembered``: see :meth:`Repository.recall`."""
        repository = self.repository(scope)
        find = repository.recall if remembered else repository.read
        found = find(NetworkRecord, keys.network(network_id), deadline)
        if found is None or found.record.state == "preparing":
            raise NotFound("network", network_id[:12], name=name)
        return found

    def endpoint(
        self,
        scope: Scope,
        network_id: str,
        endpoint_id: str,
        deadline: Deadline,
        *,
        name: str | None = None,
        remembered: bool = False,
    ) -> Stored[EndpointRecord]:
        """The record, or NotFound, with the ``name`` that it had. ``remembered``: see :meth:`Repository.recall`."""
        repository = self.repository(scope)
        find = repository.recall if remembered else repository.read
        found = find(EndpointRecord, keys.endpoint(network_id, endpoint_id), deadline)
        if found is None:
            raise NotFound("endpoint", endpoint_id[:12], name=name)
        return found

    def sandbox(
        self, sandbox_id: str, deadline: Deadline, *, name: str | None = None, remembered: bool = False
    ) -> Stored[SandboxRecord]:
        """The record, or NotFound, with the ``name`` (of its container) that it had. ``remembered``: see
        :meth:`Repository.recall`.
        """
        find = self.local.recall if remembered else self.local.read
        found = find(SandboxRecord, keys.sandbox(sandbox_id), deadline)
        if found is None:
            raise NotFound("sandbox", sandbox_id[:12], name=name)
        return found

    def driver(self, record: NetworkRecord) -> Driver:
        """The driver of a network; Corrupt when the network is not of its scope: no verb has made that one."""
        found = self.registry.driver(record.driver)
        check_driver_scope(record, found.capabilities.scope)
        return found

    def view(self, record: NetworkRecord, deadline: Deadline) -> NetworkView:
        """The network as its driver sees it on this host."""
        if self.driver(record).capabilities.presence == "created":
            return NetworkView(record)
        found = self.local.presence(record.id, deadline)
        return NetworkView(record, found.record.epoch if found is not None else 1)

    def peer_rows(self, driver: Driver, network: NetworkView, endpoint: EndpointRecord) -> list[Resource]:
        """What must be here for an endpoint attached on another host; nothing, and a line in the log, for one that
        cannot be believed or that its driver chokes on: another host's record must not fail a verb of ours.
        """
        place = endpoint.attachment
        if place is None or place.state != "ready" or place.host == self.host_name:
            return []
        try:
            check_member(network.record, endpoint)
            return list(driver.peer(self.facts(driver), network, endpoint))
        except Exception as error:  # noqa: BLE001 - a third party's driver, on another host's record
            log.warning("endpoint %s is left out: %s", endpoint.id[:12], error)
            return []

    def link_homes(self, deadline: Deadline) -> frozenset[str]:
        """The namespaces that hold the outer ends of sandboxes' links: the host's, and those of networks here."""
        found = self.local.presences(deadline)
        here = (one.record for one in found if one.record.active)
        return frozenset({"", *(network_namespace(one.epoch, one.network_id) for one in here)})

    def plugs(self, sandbox_id: str, deadline: Deadline) -> list[Plug]:
        """The endpoints attached to a sandbox of this host, those on their way in or out included."""
        found = []
        for stored in self.local.ledger(sandbox_id, deadline):
            network, endpoint = stored.record.network, stored.record.endpoint
            if network is None or endpoint is None:
                _, _, network_id, endpoint_id = keys.parse_attachment(stored.key)
                here = self.local.endpoint(network_id, endpoint_id, deadline)
                of = self.local.network(network_id, deadline)
                if here is None or of is None:
                    continue
                network, endpoint = of.record, here.record
            place = endpoint.attachment
            if place is not None and place.sandbox_id == sandbox_id and place.host == self.host_name:
                found.append(Plug(self.driver(network), self.view(network, deadline), endpoint))
        return found

    def announce(self, what: str, deadline: Deadline, *, parked: bool = False) -> None:
        """Have the resident take in what a verb has done that cannot be undone; one that cannot be reached finds out by
        itself, so that is no failure of the verb.
        """
        try:
            self.follower.announce(deadline, parked=parked)
        except CnmError as error:
            log.warning("%s; the resident does not know it yet: %s", what, error)

    # -- intents -----------------------------------------------------------------------------------------------------

    def begin(self, intent: Intent) -> Transaction:
        """The write that records a verb as begun; without a compare, so that an attempt can be repeated."""
        return put(keys.intent(intent.operation), intent)

    def new_operation(self) -> str:
        """An operation id; it sorts by nothing."""
        return self.doors.entropy.token(16).hex()
