"""Published ports: Docker's notation and the value it stands for."""

from __future__ import annotations

import re
from typing import Literal

import attrs

from libcnm.errors import Invalid, NotSupported
from libcnm.model.addresses import IPAddress, parse_address

Protocol = Literal["tcp", "udp"]

_SPEC = re.compile(
    r"""(?:(?P<host>\[[^\]]*\]|[^:\[\]]*):(?=[^:]*:))?   # an address, in brackets if it is IPv6
        (?:(?P<published>[0-9-]*):)?
        (?P<port>[0-9-]+)
        (?:/(?P<protocol>[a-z]+))?""",
    re.VERBOSE,
)


@attrs.frozen
class Port:
    """``port`` of the container, reachable as ``host_port`` (0: one is chosen) at ``host_address``.

    ``host_address`` None means the controller's ``default_host_ips`` (loopback unless told otherwise); ``0.0.0.0`` or
    ``::`` means every address of that family.
    """

    port: int
    host_port: int = 0
    protocol: Protocol = "tcp"
    host_address: IPAddress | None = None

    @classmethod
    def of(cls, value: str | int | Port) -> Port:
        """Docker's ``[[ADDRESS:]HOST_PORT:]PORT[/PROTOCOL]``; raises Invalid, or NotSupported for ranges and sctp."""
        if isinstance(value, Port):
            return value
        text = str(value)
        match = _SPEC.fullmatch(text)
        if match is None:
            raise Invalid(
                "port", value, "is not a port", hint="[[ADDRESS:]HOST_PORT:]PORT[/PROTOCOL], like 127.0.0.1:8080:80/tcp"
            )
        protocol = match["protocol"] or "tcp"
        if protocol not in ("tcp", "udp"):
            raise NotSupported(f"port {text!r}: protocol {protocol!r} is not published yet", hint="tcp and udp are")
        host = match["host"]
        address = parse_address(host.strip("[]"), "port address") if host else None
        port = _number(text, match["port"])
        host_port = _number(text, match["published"]) if match["published"] else 0
        return cls(port, host_port, "tcp" if protocol == "tcp" else "udp", address)

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise Invalid("port", self.port, "is not between 1 and 65535")
        if not 0 <= self.host_port <= 65535:
            raise Invalid("host port", self.host_port, "is not between 0 and 65535")

    def __str__(self) -> str:
        host = ""
        if self.host_address is not None:
            host = f"[{self.host_address}]:" if self.host_address.version == 6 else f"{self.host_address}:"
        published = f"{self.host_port or ''}:" if self.host_port or host else ""
        return f"{host}{published}{self.port}/{self.protocol}"


def _number(spec: str, digits: str) -> int:
    if "-" in digits:
        raise NotSupported(f"port {spec!r}: ranges are not published yet", hint="give one port each")
    return int(digits[:6])
