"""The shapes of what users hand in: a sequence, a mapping, a text, a flag, a number. What each *means* is checked
beside its type (:mod:`libcnm.model.ports`, :mod:`~libcnm.model.addresses`, :mod:`~libcnm.model.ids`).

Python would take a string for a sequence of characters, True for 1 and "no" for True, and complain of the rest far from
here, in words that name no argument. Each function answers with the plain value, or raises
:class:`~libcnm.errors.Invalid` for ``field``. Decided once: for every sequence and mapping that is empty by default,
None means "none".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from libcnm.errors import Invalid
from libcnm.model import limits

_NO_SEQUENCES: Final = (str, bytes, bytearray, memoryview, Mapping)
"""Collections all the same: but whoever hands one in meant something else by it."""
_FOREVER_SECONDS: Final = 1e9
"""Thirty years. Poll and its kin take no more milliseconds than an int has."""


def sequence(value: Any, field: str, most: int) -> tuple[Any, ...]:
    """The elements of a list, a tuple or the like. Generators are refused: what is only there once cannot be checked
    and then used.
    """
    if value is None or (type(value) is tuple and not value):
        return ()
    if isinstance(value, str | bytes):
        shown = repr(value)
        raise Invalid(field, value, "is no list", hint=f"[{shown}]" if len(shown) <= limits.NAME_CHARS else None)
    if not isinstance(value, Collection) or isinstance(value, _NO_SEQUENCES):
        raise Invalid(field, value, "is no list")
    _bounded(value, field, most)
    return tuple(value)


def mapping(value: Any, field: str, most: int) -> dict[str, Any]:
    """The pairs of a mapping whose keys are texts."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Invalid(field, value, "is no mapping", hint="a dict, like {'name': 'value'}")
    _bounded(value, field, most)
    return {text(key, f"{field} key"): item for key, item in value.items()}


def _bounded(value: Collection[Any], field: str, most: int) -> None:
    try:
        size = len(value)
    except OverflowError:  # a range may be longer than len() can say
        size = most + 1
    if size > most:
        raise Invalid(field, value, f"has more than {most} elements")


def text(value: Any, field: str) -> str:
    """A str that can be written down: one with half a surrogate pair cannot."""
    if not isinstance(value, str):
        raise Invalid(field, value, "is not a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Invalid(field, value, "holds half a surrogate pair, which UTF-8 cannot say") from None
    return value


def flag(value: Any, field: str) -> bool:
    """True or False, and nothing that merely counts as such."""
    if value is not True and value is not False:
        raise Invalid(field, value, "is neither True nor False")
    return bool(value)


def whole(value: Any, field: str, low: int, high: int) -> int:
    """An int between the bounds, both included. True is none."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise Invalid(field, value, f"is not an integer between {low} and {high}")
    return value


def seconds(value: Any, field: str = "timeout") -> float:
    """A budget in seconds, more than none and at most an hour."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= limits.TIMEOUT_SECONDS_MAX:
        raise Invalid(field, value, f"is not a number of seconds between 0 and {limits.TIMEOUT_SECONDS_MAX}")
    return float(value)


def patience(value: Any, field: str = "timeout") -> float | None:
    """How long to wait for what may never come, in seconds: as long as one likes, and for ever when None."""
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= _FOREVER_SECONDS:
        raise Invalid(field, value, "is not a number of seconds")
    return float(value)


def path(value: Any, field: str, *, hint: str | None = None) -> str:
    """An absolute path that the kernel could be told."""
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise Invalid(field, value, "is not an absolute path", hint=hint)
    try:
        octets = value.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise Invalid(field, value, "is no path: it cannot be encoded", hint=hint) from None
    if len(octets) > limits.PATH_BYTES:
        raise Invalid(field, value, f"is longer than {limits.PATH_BYTES} bytes", hint=hint)
    return value
