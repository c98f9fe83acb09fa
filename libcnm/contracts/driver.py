"""What a network driver promises.

A driver maps records to resources and does nothing itself: the controller compares what a driver wants before and after
a verb and has the engine make the difference so. The same functions serve creation, join, leave, deletion, undo,
recovery, self-healing, ``plan`` and ``doctor``. A driver gets everything it needs in its arguments, never calls back,
keeps no state, and must be a pure function of them: called twice with equal arguments, it answers equally. What it
raises beside :class:`~libcnm.errors.CnmError`, or answers that is no answer, is made a DriverError that names it; its
networks then stay as they are until it is mended.

The moments mirror libnetwork's ``driverapi``: :meth:`Driver.network` is CreateNetwork/DeleteNetwork,
:meth:`Driver.endpoint` is Join/Leave, :meth:`Driver.publication` is
ProgramExternalConnectivity/RevokeExternalConnectivity, :meth:`Driver.peer` is EventNotify/DiscoverNew. What lives
*inside* a sandbox (addresses, routes, interface up) follows from the records and is the controller's.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal, Protocol

import attrs

from libcnm.errors import Invalid, KernelError
from libcnm.model.addresses import IPAddress, IPNetwork
from libcnm.model.deadline import Deadline
from libcnm.model.records import EndpointRecord, NetworkRecord, Scope
from libcnm.model.resource import Change, Observed, Resource


@attrs.frozen
class Capabilities:
    """What a driver is like. ``scope`` decides which store holds its networks (libnetwork's DataScope).

    ``presence``: its network exists on a host from creation on, or only while an endpoint is attached there; of scope
    "global" it must be the latter (else DriverError).
    ``addresses``: endpoints have addresses (null and host networks do not). ``singleton``: at most one such network.
    ``gateway``: a sandbox can reach the world through it. ``host_namespace``: only sandboxes in the host's own
    namespace join (None: no sandbox of either kind is refused). ``vni``: its networks each need a VXLAN network
    identifier.
    """

    scope: Scope = "local"
    presence: Literal["created", "attached"] = "created"
    addresses: bool = True
    singleton: bool = False
    gateway: bool = True
    host_namespace: bool | None = False
    vni: bool = False


@attrs.frozen
class HostFacts:
    """What a driver may know of the host.

    ``tag`` marks what the installation makes, ``firewall`` is the name of its nftables table, ``routing_table`` the
    first of its two routing tables; ``vtep`` is the address other hosts reach this one by; ``underlay_mtu`` is the
    MTU towards them, in octets.
    """

    name: str
    tag: str
    firewall: str
    routing_table: int
    vtep: IPAddress | None = None
    underlay_mtu: int = 1500
    default_host_ips: tuple[IPAddress, ...] = ()


@attrs.frozen
class NetworkView:
    """A network as a driver sees it: the record, and how many times its namespace was made on this host."""

    record: NetworkRecord
    epoch: int = 1


class ResourceDoor(Protocol):
    """Whoever makes and reads resources of some kinds: the kernel door for ours, a driver package's own for its
    kinds. ``plan`` asks it what there is, and changes nothing through it.
    """

    def apply(self, changes: tuple[Change, ...], *, deadline: Deadline) -> tuple[KernelError | None, ...]:
        """See :meth:`libcnm.kernel.base.Kernel.apply`."""

    def read_one(self, resource: Resource, *, deadline: Deadline) -> Observed | None:
        """See :meth:`libcnm.kernel.base.Kernel.read_one`."""


class Driver(ABC):
    """One network driver. Found by name in the entry-point group ``libcnm.drivers``; constructed without arguments."""

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities] = Capabilities()

    # -- refusing, before anything is touched

    def check_network(self, host: HostFacts, network: NetworkRecord) -> None:
        """Raise Invalid, NotSupported or Forbidden for what this driver cannot make. Addresses are not yet
        allocated.
        """
        for label in network.options:
            refuse_option(self.name, label, ())

    def check_endpoint(self, host: HostFacts, network: NetworkRecord, endpoint: EndpointRecord) -> None:
        """The same for an endpoint."""
        for label in endpoint.options:
            refuse_option(self.name, label, ())

    # -- what should be there

    def base(self, host: HostFacts, versions: frozenset[int]) -> Iterable[Resource]:
        """What must be there while this host has any network of this driver; ``versions`` are the IP versions in
        use.
        """
        return ()

    def network(self, host: HostFacts, network: NetworkView) -> Iterable[Resource]:
        """What must be there while the network is present on this host."""
        return ()

    def endpoint(self, host: HostFacts, network: NetworkView, endpoint: EndpointRecord) -> Iterable[Resource]:
        """What must be there while the endpoint (its ``attachment`` is set) is attached on this host: its link above
        all, whose inner end is ``attachment.interface`` in ``attachment.namespace``.
        """
        return ()

    def publication(self, host: HostFacts, network: NetworkView, endpoint: EndpointRecord) -> Iterable[Resource]:
        """What must be there while the endpoint is its sandbox's way to the world: ``attachment.ports``."""
        return ()

    def peer(self, host: HostFacts, network: NetworkView, endpoint: EndpointRecord) -> Iterable[Resource]:
        """What must be there, while the network is present here, for an endpoint attached on another host.

        A forwarding or neighbour row in the network's own namespace that is neither one of these nor of
        :meth:`network` led to an endpoint that has gone: it is removed.
        """
        return ()

    # -- facts that the controller needs

    def gateways(self, network: NetworkRecord) -> tuple[IPAddress, ...]:
        """The default gateways that endpoints' sandboxes may use: each uses the first that is in its own subnet."""
        return ()

    def own_macs(self, network: NetworkRecord) -> Mapping[str, str]:
        """MACs in the network's segment that no endpoint may have, and whose each is, in words ("the gateway")."""
        return {}

    def onlink(self, network: NetworkRecord, endpoint: EndpointRecord) -> tuple[IPNetwork, ...]:
        """Blocks that the sandbox reaches directly over the endpoint's interface, beside its own subnets."""
        return ()

    def interface_prefix(self, network: NetworkRecord) -> str:
        """Interfaces in the sandbox are called this and a number."""
        return "eth"

    def default_host_ips(self, network: NetworkRecord) -> tuple[IPAddress, ...]:
        """What ports without an address bind to on this network; () for what the controller was opened with."""
        return ()

    def doors(self) -> Mapping[type[Resource], ResourceDoor]:
        """Doors for resource kinds that this driver brings along; ours need none, and are nobody else's to bring."""
        return {}


def refuse_option(driver: str, label: str, known: Iterable[str]) -> None:
    """Raise Invalid for an option that a driver does not know, naming those that it does."""
    listed = ", ".join(sorted(known))
    raise Invalid(
        "options",
        label,
        f"is not an option of driver {driver!r}",
        hint=f"known: {listed}" if listed else "it has no options",
    )
