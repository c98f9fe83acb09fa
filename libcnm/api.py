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
``libcnm.api.<name>``, loaded on first use.
"""

from __future__ import annotations

from libcnm.controller.controller import Controller
from libcnm.controller.endpoint import Endpoint
from libcnm.controller.network import Network
from libcnm.controller.reconcile import Difference
from libcnm.controller.sandbox import Sandbox
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
from libcnm.model.addresses import Subnet
from libcnm.model.event import Event
from libcnm.model.ports import Port

__all__ = [
    "AlreadyExists",
    "Ambiguous",
    "CnmError",
    "Conflict",
    "Controller",
    "Corrupt",
    "DeadlineExceeded",
    "Difference",
    "DriverError",
    "Endpoint",
    "Event",
    "Exhausted",
    "Forbidden",
    "InUse",
    "Invalid",
    "KernelError",
    "Network",
    "NotFound",
    "NotSupported",
    "Port",
    "Sandbox",
    "Subnet",
    "Unavailable",
]
