"""The host driver: sandboxes that share the host's own network namespace. Nothing is made; the host is never
touched.
"""

from __future__ import annotations

from typing import ClassVar

from libcnm.contracts.driver import Capabilities, Driver


class HostDriver(Driver):
    """libnetwork's ``host``: one network; only sandboxes created with ``host_network=True`` join it."""

    name: ClassVar[str] = "host"
    capabilities: ClassVar[Capabilities] = Capabilities(
        addresses=False, singleton=True, gateway=False, host_namespace=True
    )
