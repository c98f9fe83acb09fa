"""The null driver: a network with nothing in it, for ``--net=none``. A sandbox on it has its loopback interface
only.
"""

from __future__ import annotations

from typing import ClassVar

from libcnm.contracts.driver import Capabilities, Driver


class NullDriver(Driver):
    """libnetwork's ``null``: one network, no addresses, nothing in the kernel."""

    name: ClassVar[str] = "null"
    capabilities: ClassVar[Capabilities] = Capabilities(addresses=False, singleton=True, gateway=False)
