"""Driver options: Docker's label names, parsed to typed values. Unknown labels and unreadable values are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address
from typing import Any, Final

from libcnm.errors import Invalid
from libcnm.model import limits
from libcnm.model.addresses import check_bindable

MTU: Final = "com.docker.network.driver.mtu"
BRIDGE_NAME: Final = "com.docker.network.bridge.name"
BRIDGE_ICC: Final = "com.docker.network.bridge.enable_icc"
BRIDGE_MASQUERADE: Final = "com.docker.network.bridge.enable_ip_masquerade"
BRIDGE_HOST_BINDING: Final = "com.docker.network.bridge.host_binding_ipv4"
INTERFACE_PREFIX: Final = "com.docker.network.container_iface_prefix"
OVERLAY_VNIS: Final = "com.docker.network.driver.overlay.vxlanid_list"
OVERLAY_ENCRYPTED: Final = "encrypted"
IPAM_PREFIX: Final = "com.docker.network.ipam."

_KERNELS_OWN: Final = frozenset({"lo", "tunl", "sit", "gre", "gretap", "erspan"})
"""The loopback, and what the tunnel modules make in every namespace, numbered from 0, unless the sysctl
net.core.fb_tunnels_only_for_init_net says otherwise."""


def boolean(label: str, value: str) -> bool:
    """Go's strconv.ParseBool, which Docker's labels follow."""
    if value in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if value in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise Invalid(f"options[{label}]", value, "is not a boolean", hint="true or false")


def mtu(label: str, value: str) -> int:
    """An MTU in octets."""
    return integer(label, value, limits.MTU_MIN, limits.MTU_MAX)


def vni(label: str, value: str) -> int:
    """One VXLAN network identifier (Docker's list has one per subnet; ours is one per network)."""
    return integer(label, value, 1, limits.VNI_MAX)


def integer(label: str, value: str, low: int, high: int) -> int:
    """A decimal integer between the bounds, both included."""
    if not value.isascii() or not value.isdigit() or len(value) > 12 or not low <= int(value) <= high:
        raise Invalid(f"options[{label}]", value, f"is not an integer between {low} and {high}")
    return int(value)


def host_binding(label: str, value: str) -> IPv4Address:
    """An IPv4 address that ports can be bound to."""
    try:
        address = IPv4Address(value)
    except ValueError:
        raise Invalid(f"options[{label}]", value, "is not an IPv4 address") from None
    check_bindable(address, f"options[{label}]")
    return address


def interface_prefix(label: str, value: str) -> str:
    """What names of interfaces begin with: letters alone, so that with a number they are a name to the kernel
    (dev_valid_name) and no path to sysctls; room for that number must be left.
    """
    if not value.isascii() or not value.isalpha() or len(value) > limits.INTERFACE_NAME_BYTES - 3:
        raise Invalid(f"options[{label}]", value, "is not an interface prefix", hint="a few letters")
    if value in _KERNELS_OWN:
        raise Invalid(f"options[{label}]", value, "begins names of the kernel's own interfaces", hint="for example eth")
    return value


_MEANINGS: Final[Mapping[str, Callable[[str, str], object]]] = {
    MTU: mtu,
    BRIDGE_ICC: boolean,
    BRIDGE_MASQUERADE: boolean,
    BRIDGE_HOST_BINDING: host_binding,
    OVERLAY_VNIS: vni,
    OVERLAY_ENCRYPTED: boolean,
}
"""What can be written in several ways, and how it is read."""


def same_value(label: str, one: str, other: str) -> bool:
    """Whether two values of an option mean the same: ``true`` and ``1`` to a switch, not to an option unknown here."""
    if one == other:
        return True
    read = boolean if label.startswith(IPAM_PREFIX) else _MEANINGS.get(label)
    try:
        return read is not None and read(label, one) == read(label, other)
    except Invalid:
        return False


def parse(
    options: Mapping[str, str], known: Mapping[str, Callable[[str, str], Any]], refuse: Callable[[str], None]
) -> dict[str, Any]:
    """The options by label, each through its parser; ``refuse`` is called with a label that is not known."""
    found = {}
    for label, value in options.items():
        if label.startswith(IPAM_PREFIX):
            continue  # the IPAM driver's; it refuses what it does not know
        if label not in known:
            refuse(label)
        else:
            found[label] = known[label](label, value)
    return found
