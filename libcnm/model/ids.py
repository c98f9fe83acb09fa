"""The syntax of names and ids. Ids are made by the entropy door; here it only says what one looks like."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from libcnm.errors import Invalid
from libcnm.model import limits
from libcnm.model.arguments import mapping, text

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{limits.NAME_CHARS - 1}}}")
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOSTNAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_RESOLVER_OPTION = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*(:[0-9]{1,5})?")
_NDOTS = re.compile(r"ndots:[0-9]{1,5}")
_JSON_ESCAPE = 6
"""What JSON makes of one byte at most: a control character becomes \\u and four digits."""
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


def check_service(value: str, field: str = "name") -> str:
    """A name that others resolve: an endpoint's, or an alias. It is a name, and DNS can say each of its labels."""
    check_name(value, field)
    if any(not 1 <= len(label) <= limits.DNS_LABEL_CHARS for label in value.split(".")):
        most = f"DNS has no label of 0 or more than {limits.DNS_LABEL_CHARS} characters"
        hint = f"{most}: use a shorter one; a container's long id goes into create_sandbox(container_id)"
        raise Invalid(field, value, "is not a name that could be resolved", hint=hint)
    return value


def check_hostname(value: str, field: str = "hostname") -> str:
    """A host name: labels of 1 to 63 letters, digits and hyphens (and '_'), 253 in all (RFC 1123 2.1)."""
    if not isinstance(value, str) or len(value) > 253 or not _HOSTNAME.fullmatch(value):
        raise Invalid(field, value, "is not a host name")
    return value


def check_own_hostname(hostname: str, domain: str) -> None:
    """What a sandbox may call itself: Linux takes 64 characters, and with its domain (or "") it is still a name."""
    check_hostname(hostname)
    if len(hostname) > limits.HOSTNAME_CHARS:
        raise Invalid("hostname", hostname, f"has more than {limits.HOSTNAME_CHARS} characters")
    if domain:
        check_hostname(domain, "domain")
        check_hostname(f"{hostname}.{domain}", "hostname and domain")


def check_resolver_option(value: str, field: str = "dns_options") -> str:
    """A word of resolv.conf(5)'s ``options``."""
    if (
        not isinstance(value, str)
        or len(value) > limits.DNS_OPTION_CHARS
        or not _RESOLVER_OPTION.fullmatch(value)
        or (value.startswith("ndots") and not _NDOTS.fullmatch(value))
    ):
        raise Invalid(field, value, "is not a resolver option", hint="for example ndots:1 or rotate")
    return value


def check_labels(labels: Mapping[str, str] | None, field: str = "labels") -> dict[str, str]:
    """At most 64 labels, texts on both sides, 4 KiB each and 32 KiB in all."""
    found = mapping(labels, field, limits.LABELS)
    size = 0
    for key, value in found.items():
        if not key or not isinstance(value, str):
            raise Invalid(f"{field}[{key[:40]!r}]", value, "is not a string", hint=f"{field} map strings to strings")
        octets = len(key.encode()) + len(text(value, f"{field}[{key[:40]!r}]").encode())
        if octets > limits.LABEL_BYTES:
            raise Invalid(f"{field}[{key[:40]!r}]", octets, f"bytes are more than {limits.LABEL_BYTES}")
        size += octets
    if size * _JSON_ESCAPE > limits.LABELS_BYTES and (stored := len(json.dumps(found))) > limits.LABELS_BYTES:
        raise Invalid(field, stored, f"bytes, as they are stored, are more than {limits.LABELS_BYTES}")
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
