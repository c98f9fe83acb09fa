"""The public names of libcnm: everything a user imports, and nothing else.

    import libcnm

    with libcnm.Controller() as cnm:                       # embedded store; this host's kernel
        blue = cnm.create_network("blue", subnets=["10.88.0.0/24"])
        web = blue.create_endpoint("web", aliases=["www"], ports=["8080:80/tcp"])
        with cnm.create_sandbox("c1") as c1:
            web.join(c1)
            c1.run(["ip", "address"], check=True)

A controller opens an installation. A network is a segment, an endpoint a place in it with a name and addresses, a
sandbox a container's network namespace; joining puts an endpoint into a sandbox. ``libcnm.<name>`` is
``libcnm.api.<name>``, loaded on first use. Beside the four live classes there are the errors, and every value that
these take or give.
"""

from __future__ import annotations

from libcnm.controller.controller import Controller
from libcnm.controller.doors import Doors
from libcnm.controller.endpoint import Endpoint
from libcnm.controller.events import Events
from libcnm.controller.network import Network
from libcnm.controller.plan import Plan
from libcnm.controller.reconcile import Difference
from libcnm.controller.registry import Registry
from libcnm.controller.sandbox import Sandbox
from libcnm.controller.topology import EndpointNode, HostNode, NetworkNode, SandboxNode, Topology
from libcnm.errors import (
    AlreadyExists,
    Ambiguous,
    CnmError,
    Conflict,
    Corrupt,
    DeadlineExceeded,
    DriverError,
    Exhausted,
    Forbidden,
    InUse,
    Invalid,
    KernelError,
    NotFound,
    NotSupported,
    Unavailable,
)
from libcnm.kernel.base import LinkStatistics
from libcnm.model.addresses import IPAddress, IPInterface, IPNetwork, Subnet
from libcnm.model.event import Event
from libcnm.model.ports import Port
from libcnm.model.resource import Change, Resource

__all__ = [
    "AlreadyExists",
    "Ambiguous",
    "Change",
    "CnmError",
    "Conflict",
    "Controller",
    "Corrupt",
    "DeadlineExceeded",
    "Difference",
    "Doors",
    "DriverError",
    "Endpoint",
    "EndpointNode",
    "Event",
    "Events",
    "Exhausted",
    "Forbidden",
    "HostNode",
    "IPAddress",
    "IPInterface",
    "IPNetwork",
    "InUse",
    "Invalid",
    "KernelError",
    "LinkStatistics",
    "Network",
    "NetworkNode",
    "NotFound",
    "NotSupported",
    "Plan",
    "Port",
    "Registry",
    "Resource",
    "Sandbox",
    "SandboxNode",
    "Subnet",
    "Topology",
    "Unavailable",
]
