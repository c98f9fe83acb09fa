"""The live :class:`Controller`: one opened installation, and the verbs that begin with no object at hand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal

from libcnm.controller import networks as network_verbs
from libcnm.controller import sandboxes as sandbox_verbs
from libcnm.controller.calls import Calls
from libcnm.controller.context import Context, Settings
from libcnm.controller.doors import Doors, Paths, open_doors
from libcnm.controller.network import Network
from libcnm.controller.networks import NetworkSpec
from libcnm.controller.recovery import after_recovery, forget_earlier_boots, recover
from libcnm.controller.registry import Registry
from libcnm.controller.repository import find
from libcnm.controller.resident_link import announcer
from libcnm.controller.sandbox import Sandbox
from libcnm.controller.sandboxes import SandboxSpec
from libcnm.errors import AlreadyExists, Ambiguous, Invalid
from libcnm.model.addresses import IPAddress, IPNetwork, Subnet
from libcnm.model.deadline import Deadline
from libcnm.model.ids import check_name
from libcnm.model.options import same_value
from libcnm.model.records import NetworkRecord, SandboxRecord

if TYPE_CHECKING:
    from libcnm.controller.events import Events
    from libcnm.controller.plan import Plan
    from libcnm.controller.reconcile import Difference
    from libcnm.controller.topology import Topology

_ENSURE_PAUSE_SECONDS: Final = 0.01


class Controller:
    """One installation, opened. Any number of processes may have the same one open at once. A context manager.

    ``state_dir`` survives a boot, ``run_dir`` does not. ``cluster_store``: the URL of the store that the hosts share
    (``sqlite:///path`` on one machine; ``consul://``, ``etcd://``, or the 2015 spelling ``consul:localhost:8500``).
    ``host``: this host's name in the cluster. ``advertise``: the address other hosts reach it by (VTEP).
    ``default_host_ips``: what published ports bind to when they name no address; () for nothing, so that each has to.
    ``timeout``: the default budget of a verb, in seconds.
    ``resident``: names are served by a detached process of this installation (``"process"``), by a thread of this one
    (``"thread"``, for tests), or followed but not served (``"inline"``), or neither (``"off"``). ``guardian``: a
    process id; the resident process ends when that process does, whatever is still attached (labs, tests).
    A resident process that was killed is started again: by this controller while it is open, and by opening one where
    there are sandboxes, which does not wait for it.

    ``request_id`` of any verb: asked for again with the same id, it gives the same result and does nothing twice, also
    when the first attempt was killed. An id belongs to one verb, one object and one set of arguments; with anything
    else it is AlreadyExists (kind ``request``). What was done and has been undone since stays undone (NotFound,
    Forbidden). It is remembered for a day, and for as many requests as :data:`libcnm.model.limits.REQUEST_NOTES`.

    Opening settles what an earlier process left half-done. Raises Invalid, Unavailable, Corrupt, NotSupported.
    """

    def __init__(
        self,
        *,
        state_dir: str = "/var/lib/libcnm",
        run_dir: str = "/run/libcnm",
        cluster_store: str | None = None,
        host: str | None = None,
        advertise: str | None = None,
        default_host_ips: Sequence[str | IPAddress] = ("127.0.0.1", "::1"),
        timeout: float = 10.0,
        resident: Literal["process", "thread", "inline", "off"] = "process",
        guardian: int | None = None,
        doors: Doors | None = None,
        registry: Registry | None = None,
    ) -> None:
        settings = Settings.checked(
            Paths.checked(state_dir, run_dir),
            cluster_store=cluster_store,
            host=host,
            advertise=advertise,
            default_host_ips=default_host_ips,
            timeout=timeout,
            resident=resident,
            guardian=guardian,
        )
        self._doors = doors or open_doors(settings.paths, cluster_store)
        try:
            context = Context(settings, self._doors, registry or Registry())
            self._calls = Calls(context)
            self._link = context.follower = announcer(context)
            try:
                deadline = context.doors.clock.deadline(settings.timeout)
                forget_earlier_boots(context, deadline)
                recover(context, deadline)
                self._link.wake(deadline)  # who followed for these sandboxes was killed, perhaps
            except BaseException:
                self._link.close()  # it may have a thread already, or be one
                raise
        except BaseException:
            self._doors.close()
            raise

    def __repr__(self) -> str:
        return f"<Controller of installation {self.id[:12]} on {self.host!r}>"

    def __enter__(self) -> Controller:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def id(self) -> str:
        """The installation's id, which names and marks everything that it makes."""
        return self._calls.installation

    @property
    def host(self) -> str:
        """This host's name in the cluster."""
        return self._calls.context.host_name

    # -- networks ----------------------------------------------------------------------------------------------------

    def create_network(
        self,
        name: str,
        driver: str = "bridge",
        *,
        subnets: Sequence[str | Subnet | IPNetwork] | None = (),
        ipam_driver: str = "default",
        internal: bool = False,
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> Network:
        """Create a network.

        ``subnets``: CIDR strings, :class:`Subnet` or ``ip_network``; ``"ipv4"`` and ``"ipv6"`` ask for a default pool
        of that family; none given means one IPv4 pool. ``internal``: nothing leads out. ``options``: driver options by
        Docker's labels.
        ``timeout`` in seconds. The same ``request_id`` gives the same network. Raises Invalid, NotFound (driver),
        AlreadyExists (name; ``pool``: overlaps), Exhausted (with why each pool was refused), Forbidden, NotSupported,
        DriverError, KernelError. libnetwork: NewNetwork.
        """
        spec = NetworkSpec.checked(name, driver, subnets, ipam_driver, internal, options, labels)
        with (
            self._calls.verb(timeout, request_id) as call,
            call.request("create_network", f"network {name!r}", spec) as request,
        ):
            record = after_recovery(
                call.context,
                call.deadline,
                lambda: network_verbs.create_network(call.context, spec, call.deadline, request),
            )
        return Network(self._calls, record)

    def ensure_network(
        self,
        name: str,
        driver: str = "bridge",
        *,
        subnets: Sequence[str | Subnet | IPNetwork] | None = (),
        ipam_driver: str = "default",
        internal: bool = False,
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Network:
        """The network of that name if it is as described (subnets only if given; values of options by what they mean:
        an MTU of 01400 is one of 1400), else a new one.

        Raises AlreadyExists with ``differences`` when there is one that is different, and what :meth:`create_network`
        does.
        """
        spec = NetworkSpec.checked(name, driver, subnets, ipam_driver, internal, options, labels)
        with self._calls.verb(timeout) as call:
            while True:
                known = [
                    record for record in self._records(call.deadline) if record.name == name and record.driver == driver
                ]
                known = known or [record for record in self._records(call.deadline) if record.name == name]
                if known:
                    differing = _differences(spec, known[0])
                    if differing:
                        raise AlreadyExists("network", name, holder=known[0].id[:12], differences=differing)
                    return Network(self._calls, known[0])
                try:
                    record = after_recovery(
                        call.context,
                        call.deadline,
                        lambda: network_verbs.create_network(call.context, spec, call.deadline),
                    )
                    return Network(self._calls, record)
                except AlreadyExists as error:
                    if error.kind != "network":
                        raise
                # Somebody is making it at this moment.
                call.deadline.check(f"network {name!r}")
                call.context.doors.clock.pause(_ENSURE_PAUSE_SECONDS)

    def network(self, ref: str, *, timeout: float | None = None) -> Network:
        """The network with that name, id, or unambiguous id prefix. Raises NotFound, Ambiguous (listing them)."""
        check_name(ref, "network")
        with self._calls.verb(timeout) as call:
            found = find("network", ref, self._records(call.deadline), _network_id, _network_name)
        if len(found) > 1:
            raise Ambiguous("network", ref, [f"{record.id[:12]} ({record.scope})" for record in found])
        return Network(self._calls, found[0])

    def networks(self, *, timeout: float | None = None) -> list[Network]:
        """All networks of this host and of the cluster, by name."""
        with self._calls.verb(timeout) as call:
            records = self._records(call.deadline)
        return [Network(self._calls, record) for record in sorted(records, key=lambda record: (record.name, record.id))]

    def _records(self, deadline: Deadline) -> list[NetworkRecord]:
        stored, _ = self._calls.context.all_networks(deadline)
        return [one.record for one in stored if one.record.state != "preparing"]

    # -- sandboxes ---------------------------------------------------------------------------------------------------

    def create_sandbox(
        self,
        container_id: str,
        *,
        netns: str | None = None,
        host_network: bool = False,
        hostname: str | None = None,
        domain: str | None = None,
        dns: Sequence[str | IPAddress] | None = (),
        dns_search: Sequence[str] | None = (),
        dns_options: Sequence[str] | None = (),
        extra_hosts: Mapping[str, str | IPAddress] | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> Sandbox:
        """Create a container's sandbox: a new network namespace, or with ``netns`` a path's (``/proc/4242/ns/net``,
        which stays its owner's), or with ``host_network`` the host's own.

        ``hostname``: the container id by default. ``dns``: servers asked from inside the sandbox instead of the host's.
        ``extra_hosts``: names and their addresses, for ``/etc/hosts``. :attr:`Sandbox.files` are the files that a
        runtime mounts. ``timeout`` in seconds. The same ``request_id`` gives the same sandbox. Raises Invalid
        (``netns`` is not one), AlreadyExists (the container, or the namespace, has a sandbox), KernelError. libnetwork:
        NewSandbox.
        """
        spec = SandboxSpec.checked(
            container_id,
            netns=netns,
            host_network=host_network,
            hostname=hostname,
            domain=domain,
            dns=dns,
            dns_search=dns_search,
            dns_options=dns_options,
            extra_hosts=extra_hosts,
            labels=labels,
        )
        if netns is None and not host_network:
            # It takes half of the time. Nobody can see it yet; one that turns out not to be needed serves the next.
            self._calls.context.doors.kernel.anticipate()
        with (
            self._calls.verb(timeout, request_id) as call,
            call.request("create_sandbox", f"sandbox of container {container_id!r}", spec) as request,
        ):
            record = after_recovery(
                call.context,
                call.deadline,
                lambda: sandbox_verbs.create_sandbox(call.context, spec, call.deadline, request),
            )
        return Sandbox(self._calls, record)

    def sandbox(self, ref: str, *, timeout: float | None = None) -> Sandbox:
        """The sandbox of that container id, or with that id or unambiguous id prefix. Raises NotFound, Ambiguous."""
        check_name(ref, "sandbox")
        with self._calls.verb(timeout) as call:
            local = call.context.local
            known = local.sandbox_called(ref, call.deadline)
            stored = [known] if known is not None else local.sandboxes(call.deadline)
        found = find("sandbox", ref, [one.record for one in stored], _sandbox_id, _container_id)
        if len(found) > 1:
            raise Ambiguous("sandbox", ref, [record.id[:12] for record in found])
        return Sandbox(self._calls, found[0])

    def sandboxes(self, *, timeout: float | None = None) -> list[Sandbox]:
        """All sandboxes of this host, by container id."""
        with self._calls.verb(timeout) as call:
            records = [stored.record for stored in call.context.local.sandboxes(call.deadline)]
        return [Sandbox(self._calls, record) for record in sorted(records, key=_container_id)]

    # -- the whole host ----------------------------------------------------------------------------------------------

    def plan(self, rehearse: Callable[[Controller], object], *, timeout: float | None = None) -> Plan:
        """What verbs would do, without doing it: ``rehearse`` gets a controller of this installation whose doors only
        remember, and calls verbs on it and on the objects it finds there.

            print(cnm.plan(lambda dry: dry.network("blue").create_endpoint("web").join(dry.sandbox("c1"))))

        Raises whatever the verbs raise. What only the kernel knows (that it would refuse a change) no plan can tell.
        """
        from libcnm.controller.plan import Rehearsal

        if not callable(rehearse):
            raise Invalid("rehearse", rehearse, "cannot be called", hint="a function of a controller: lambda dry: ...")
        with self._calls.verb(timeout) as call, Rehearsal(self._doors, call.deadline) as rehearsal:
            settings = call.context.settings
            with Controller(
                state_dir=settings.paths.state_dir,
                run_dir=settings.paths.run_dir,
                cluster_store=settings.cluster_store,
                host=settings.host,
                advertise=None if settings.advertise is None else str(settings.advertise),
                default_host_ips=tuple(map(str, settings.default_host_ips)),
                timeout=settings.timeout,
                resident="off",
                doors=rehearsal.doors,
                registry=call.context.registry,
            ) as dry:
                dry._calls.context.log = logging.getLogger("libcnm.plan")  # what it says is not so
                rehearsal.begin()
                rehearse(dry)
                return rehearsal.plan()

    def doctor(self, *, timeout: float | None = None) -> list[Difference]:
        """Every difference between what the records want and what this host has, row by row; changes nothing.

        One row is about the resident: ``missing`` when there is none and sandboxes need it, ``different`` when it does
        not follow (names and peers are then as they were). Asking it takes 2 s at most.
        """
        from libcnm.controller.reconcile import doctor

        with self._calls.verb(timeout) as call:
            return doctor(call.context, call.deadline)

    def heal(self, *, timeout: float | None = None) -> list[Difference]:
        """Make good what :meth:`doctor` finds, now, and start the resident if it is missing; returns what was found.

        All else the resident does by itself.
        """
        from libcnm.controller.reconcile import heal

        with self._calls.verb(timeout) as call:
            recover(call.context, call.deadline)
            return heal(call.context, call.deadline)

    def topology(self, *, timeout: float | None = None) -> Topology:
        """Hosts, networks, sandboxes and endpoints of this host and of the cluster, as values; read from the
        records.
        """
        from libcnm.controller.topology import topology

        with self._calls.verb(timeout) as call:
            return topology(call.context, call.deadline)

    def events(self, since: str | None = None, *, timeout: float | None = None) -> Events:
        """What changes from now on, by whichever process and (in the cluster) on whichever host: an iterator of
        :class:`~libcnm.Event`.

            with cnm.events() as events:
                for event in events:
                    print(event.action, event.kind, event.name, event.cursor)

        An event says what is true of an object now; what changes twice between two looks is told once, and nothing is
        told twice but after ``since``. Look at the objects after opening it, not before, and nothing is missed. Objects
        in the making are not shown. ``since``: an event's ``cursor``, to go on from there, also in another process;
        where the store does not reach back that far, an event of action ``lost`` comes first, then all that there is.
        A cluster store that does not answer is an event, too; those of this host go on. ``timeout``: seconds that the
        iterator waits for one event before it ends (None: for ever). Raises Invalid before anything is opened,
        Unavailable or Corrupt if the host's own store cannot be read. Docker: ``GET /events``.
        """
        from libcnm.controller.events import Events

        with self._calls.verb(None) as call:
            events = Events(call.context, since, timeout)
        self._calls.hold(events)
        return events

    def close(self) -> None:
        """Release what this process holds; networks, sandboxes and names live on. Idempotent."""
        if self._calls.close():
            try:
                self._link.close()
            finally:
                self._doors.close()


def _differences(spec: NetworkSpec, record: NetworkRecord) -> list[str]:
    same = {
        "driver": spec.driver == record.driver,
        "ipam_driver": spec.ipam_driver == record.ipam_driver,
        "internal": spec.internal == record.internal,
        "options": _same_options(spec.options, record.options),
        "labels": spec.labels == record.labels,
        "subnets": not spec.subnets or _same_subnets(spec.subnets, record),
    }
    return [field for field, equal in same.items() if not equal]


def _same_options(asked: Mapping[str, str], there: Mapping[str, str]) -> bool:
    return asked.keys() == there.keys() and all(same_value(label, asked[label], there[label]) for label in asked)


def _same_subnets(asked: Sequence[Subnet], record: NetworkRecord) -> bool:
    """Whether these describe those pools. Order counts among subnets of one IP version: the first gives its addresses
    first.
    """
    if len(asked) != len(record.pools):
        return False
    subnets = sorted(asked, key=lambda subnet: subnet.version)
    pools = sorted(record.pools, key=lambda pool: pool.subnet.version)
    return all(
        subnet.version == pool.subnet.version
        and subnet.pool in (None, pool.subnet)
        and subnet.range == pool.range
        and subnet.gateway in (None, pool.gateway)
        and dict(subnet.aux) == dict(pool.aux)
        for subnet, pool in zip(subnets, pools, strict=True)
    )


def _network_id(record: NetworkRecord) -> str:
    return record.id


def _network_name(record: NetworkRecord) -> str:
    return record.name


def _sandbox_id(record: SandboxRecord) -> str:
    return record.id


def _container_id(record: SandboxRecord) -> str:
    return record.container_id
