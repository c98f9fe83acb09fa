"""Docker's Container Network Model as a library: controllers, networks, endpoints and sandboxes on real Linux.

``import libcnm`` is all that a user writes: every name of :mod:`libcnm.api` is here too, fetched when it is first asked
for. So importing the package costs nothing, and a program pays for netlink, stores and plug-ins when it uses them.

What libcnm has to say beside its results and errors goes to the logger ``libcnm`` and those below it. It is silent
until the program sets up logging, as every library's should be.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libcnm.api import *

__version__ = "0.1.0"

# Those of libcnm.api, which is not loaded to be asked; tests/unit/test_import.py compares.
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


if not TYPE_CHECKING:  # type checkers read the imports above; to them a __getattr__ would make every name exist

    def __getattr__(name):
        if name not in __all__:  # also what `from libcnm import errors` asks first: it finds the module then
            raise AttributeError(f"module 'libcnm' has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module("libcnm.api"), name)
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
