"""Published ports: Docker's notation and the value it stands for."""

from __future__ import annotations

import re
from typing import Any, Final, Literal, get_args

import attrs

from libcnm.errors import Invalid, NotSupported
from libcnm.model.addresses import IPAddress, check_bindable, parse_address
from libcnm.model.arguments import whole

Protocol = Literal["tcp", "udp"]
_PROTOCOLS: Final = get_args(Protocol)

_MOST: Final = 65535
_DIGITS: Final = len(str(_MOST))

_SPEC = re.compile(
    r"""(?:(?P<host>\[[^\]]*\]|[^:\[\]]*):(?=[^:]*:))?   # an address, in brackets if it is IPv6
        (?:(?P<published>[0-9-]*):)?
        (?P<port>[0-9-]+)
        (?:/(?P<protocol>[a-z]+))?""",
    re.VERBOSE,
)


def _address_or_none(value: str | IPAddress | None) -> IPAddress | None:
    return None if value is None else parse_address(value, "port address")


@attrs.frozen
class Port:
    """``port`` of the container, reachable as ``host_port`` (0: one is chosen) at ``host_address``.

    ``host_address`` None means the controller's ``default_host_ips`` (loopback unless told otherwise); ``0.0.0.0`` or
    ``::`` means every address of that family. Raises Invalid, and NotSupported for sctp.
    """

    port: int
    host_port: int = 0
    protocol: Protocol = "tcp"
    host_address: IPAddress | None = attrs.field(default=None, converter=_address_or_none)

    @classmethod
    def of(cls, value: str | int | Port) -> Port:
        """Docker's ``[[ADDRESS:]HOST_PORT:]PORT[/PROTOCOL]``; raises Invalid, or NotSupported for ranges and sctp."""
        if isinstance(value, Port):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return cls(value)
        match = _SPEC.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise Invalid(
                "port", value, "is not a port", hint="[[ADDRESS:]HOST_PORT:]PORT[/PROTOCOL], like 127.0.0.1:8080:80/tcp"
            )
        host, published = match["host"], match["published"]
        protocol: Any = match["protocol"] or "tcp"
        address = host[1:-1] if host and host.startswith("[") else host
        return cls(
            _number(value, match["port"], "port"),
            _number(value, published, "host port") if published else 0,
            protocol,
            parse_address(address or "", "port address") if host else None,
        )

    def __attrs_post_init__(self) -> None:
        whole(self.port, "port", 1, _MOST)
        whole(self.host_port, "host port", 0, _MOST)
        protocol: object = self.protocol
        if protocol not in _PROTOCOLS:
            if protocol == "sctp":
                raise NotSupported(f"port {self.port}: protocol 'sctp' is not published yet", hint="tcp and udp are")
            raise Invalid("protocol", protocol, "is not published", hint="tcp or udp, in lower case")
        if self.host_address is not None:
            check_bindable(self.host_address, "port address")

    def clashes(self, other: Port) -> bool:
        """True when one host port would lead to two ports of the container. Two that are still to be chosen do not, nor
        do an address and the default ones, which are not known here.
        """
        if (self.protocol, self.host_port) != (other.protocol, other.host_port) or not self.host_port:
            return False
        one, two = self.host_address, other.host_address
        if one is None or two is None:
            return self.port != other.port and one == two
        everywhere = one.is_unspecified or two.is_unspecified
        return self.port != other.port and one.version == two.version and (one == two or everywhere)

    def __str__(self) -> str:
        host = ""
        if self.host_address is not None:
            host = f"[{self.host_address}]:" if self.host_address.version == 6 else f"{self.host_address}:"
        published = f"{self.host_port or ''}:" if self.host_port or host else ""
        return f"{host}{published}{self.port}/{self.protocol}"


def _number(spec: object, digits: str, field: str) -> int:
    if "-" in digits:
        raise NotSupported(f"port {spec!r}: ranges are not published yet", hint="give one port each")
    if len(digits) > _DIGITS:
        raise Invalid(field, spec, f"has a number of more than {_DIGITS} digits")
    return int(digits)
