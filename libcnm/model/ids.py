"""The syntax of names and ids. Ids are made by the entropy door; here it only says what one looks like."""

from __future__ import annotations

import re
from collections.abc import Mapping

from libcnm.errors import Invalid
from libcnm.model import limits

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{limits.NAME_CHARS - 1}}}")
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOSTNAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
ID_HEX_DIGITS = 64


def check_name(value: str, field: str = "name") -> str:
    """Moby's pattern for names; raises :class:`~libcnm.errors.Invalid`."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise Invalid(
            field,
            value,
            "is not a valid name",
            hint=f"1 to {limits.NAME_CHARS} of letters, digits, '_', '.' and '-', beginning with a letter or digit",
        )
    return value


def check_hostname(value: str, field: str = "hostname") -> str:
    """A host name: labels of 1 to 63 letters, digits and hyphens (and '_'), 253 in all (RFC 1123 2.1)."""
    if not isinstance(value, str) or len(value) > 253 or not _HOSTNAME.fullmatch(value):
        raise Invalid(field, value, "is not a host name")
    return value


def check_labels(labels: Mapping[str, str] | None, field: str = "labels") -> dict[str, str]:
    """At most 64 labels, strings on both sides, 4 KiB each."""
    found = dict(labels or {})
    if len(found) > limits.LABELS:
        raise Invalid(field, len(found), f"labels are more than {limits.LABELS}")
    for key, value in found.items():
        if not isinstance(key, str) or not key or not isinstance(value, str):
            raise Invalid(f"{field}[{key!r}]", value, "is not a string", hint="labels map strings to strings")
        if len(key.encode()) + len(value.encode()) > limits.LABEL_BYTES:
            raise Invalid(f"{field}[{key[:40]!r}]", len(value), f"is longer than {limits.LABEL_BYTES} bytes")
    return found


def short(identifier: str, digits: int = 12) -> str:
    """The form in which people meet an id."""
    return identifier[:digits]


def network_namespace(epoch: int, network_id: str) -> str:
    """A network's own namespace on a host, as the original named it: ``1-3aa4e1aa64``."""
    return f"{epoch}-{network_id[:10]}"


def looks_like_id(ref: str) -> bool:
    """True for something that could be an id or the beginning of one."""
    return 0 < len(ref) <= ID_HEX_DIGITS and all(char in "0123456789abcdef" for char in ref)
