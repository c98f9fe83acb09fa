r"""Domain names as text and on the wire. Pure; knows no records, no messages.

The text form is lower case (RFC 4343) without the trailing dot; the root is "". A dot or backslash *inside* a label is
escaped as ``\046`` or ``\092`` (RFC 4343 2.1), so that the one label ``a.b`` never passes for the two labels ``a`` and
``b``.
"""

from __future__ import annotations

import ipaddress
import re

from libcnm.model.addresses import IPNetwork

NAME_OCTETS = 255
"""RFC 1035 2.3.4; the length octets and the root's zero count."""

_LABEL = re.compile(r"[!-\[\]-~]{1,63}")
"""Printable ASCII but for the backslash (and the dot, at which names are split)."""
_V4_OCTET = re.compile(r"0|[1-9][0-9]{0,2}")
_NIBBLE = re.compile(r"[0-9a-f]")


def normal(name: str) -> str:
    """``name`` in the form in which names are compared: lower case (ASCII only), one trailing dot trimmed."""
    return (name if name.isascii() else name.encode("ascii", "backslashreplace").decode()).lower().removesuffix(".")


def encodable(name: str) -> bool:
    """True when ``name`` can be said in DNS: labels of 1 to 63 octets, 255 in all. The root is nobody's name."""
    return 0 < len(name) <= NAME_OCTETS - 2 and all(map(_LABEL.fullmatch, name.split(".")))


def decode(labels: list[bytes]) -> str:
    """The text form of labels as they came over the wire; any octets are allowed (RFC 2181 11)."""
    return ".".join(
        label.decode("latin-1").replace("\\", "\\092").replace(".", "\\046") if b"." in label or b"\\" in label
        else label.decode("latin-1")
        for label in (label.lower() for label in labels)
    )  # fmt: skip


def reverse_block(name: str) -> IPNetwork | None:
    """The block of addresses that a name below ``in-addr.arpa`` or ``ip6.arpa`` stands for; None for any other name.

    A full reverse name gives a /32 or /128, a shorter one the block of everything below it. ``name`` is in normal form.
    """
    if name.endswith(".in-addr.arpa"):
        octets = name.removesuffix(".in-addr.arpa").split(".")
        if len(octets) > 4 or not all(_V4_OCTET.fullmatch(octet) and int(octet) < 256 for octet in octets):
            return None
        packed = bytes(int(octet) for octet in reversed(octets))
        return ipaddress.IPv4Network((packed + bytes(4 - len(packed)), 8 * len(packed)))
    if name.endswith(".ip6.arpa"):
        nibbles = name.removesuffix(".ip6.arpa").split(".")
        if len(nibbles) > 32 or not all(map(_NIBBLE.fullmatch, nibbles)):
            return None
        digits = "".join(reversed(nibbles)).ljust(32, "0")
        return ipaddress.IPv6Network((bytes.fromhex(digits), 4 * len(nibbles)))
    return None
