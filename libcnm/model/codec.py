"""Records to bytes and back: JSON with the record's kind and a schema version; strict on what it does not know.

The mapping follows the records' type annotations, compiled once per class to plain functions. A record of a newer
version, with fields this version does not know, or with values that no verb would have written
(:mod:`libcnm.model.checks`), is :class:`~libcnm.errors.Corrupt`, never half-read.
"""

from __future__ import annotations

import ipaddress
import json
import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs

from libcnm.errors import CnmError, Corrupt, Invalid
from libcnm.model import checks, limits

SCHEMA = 1
_DUMP = json.JSONEncoder(separators=(",", ":")).encode

Record = TypeVar("Record", bound=attrs.AttrsInstance)
_Convert = Callable[[Any], Any]


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_PARSE = json.JSONDecoder(parse_constant=_no_constant).decode


def _address(text: str) -> Any:
    return ipaddress.ip_address(_unscoped(text))


def _interface(text: str) -> Any:
    return ipaddress.ip_interface(_unscoped(text))


def _unscoped(text: str) -> str:
    if "%" in text:  # what follows would be any text at all, and no address of ours has a scope
        raise ValueError(f"{text!r} has a scope id")
    return text


_ADDRESSES: Mapping[type, Callable[[str], Any]] = {
    ipaddress.IPv4Address: _address,
    ipaddress.IPv6Address: _address,
    ipaddress.IPv4Interface: _interface,
    ipaddress.IPv6Interface: _interface,
    ipaddress.IPv4Network: ipaddress.ip_network,
    ipaddress.IPv6Network: ipaddress.ip_network,
}


_Mistakes: Final = (CnmError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError)
"""What reading, or checking, a value of any type and form may raise."""


_PLAIN: Final = {str: str, int: int, bool: bool}
"""Types that are their own JSON: no call for each of these fields."""


def encode(record: attrs.AttrsInstance, key: str | None = None) -> bytes:
    """The record as compact JSON, without fields at their defaults. Invalid for one that could not be read again (from
    ``key``, if given): with a value of another type than its field's, or that no verb would write.
    """
    cls = type(record)
    try:
        body = _encoder(cls)(record)
        if key is None:
            checks.check_values(record)
        else:
            checks.check(record, key)
    except CnmError:
        raise
    except _Mistakes as error:
        raise Invalid(cls.__name__, record, f"could not be read again: {_reason(error)}") from error
    value = _DUMP({"k": cls.__name__, "v": SCHEMA, **body}).encode()
    if len(value) > limits.VALUE_BYTES:
        raise Invalid(cls.__name__, len(value), f"bytes are more than {limits.VALUE_BYTES}")
    return value


def decode(cls: type[Record], value: bytes, key: str) -> Record:
    """The record of that class that lies at ``key``, or :class:`~libcnm.errors.Corrupt`, which names the key.

    Records that say what they are (by id, by name) are believed only at their own key.
    """
    if len(value) > limits.VALUE_BYTES:
        raise Corrupt(key, f"{len(value)} bytes are more than {limits.VALUE_BYTES}")
    try:
        body = _PARSE(value.decode())
    except (ValueError, RecursionError) as error:
        raise Corrupt(key, f"not JSON: {_reason(error)}") from None
    if not isinstance(body, dict) or body.pop("k", None) != cls.__name__:
        raise Corrupt(key, f"not a {cls.__name__}")
    version = body.pop("v", None)
    if type(version) is not int or version != SCHEMA:
        told = _shortened(repr(version))
        raise Corrupt(key, f"schema version {told}, this libcnm reads {SCHEMA}", hint="upgrade this host's libcnm")
    try:
        record = _decoder(cls)(body)
        checks.check(record, key)
    except _Mistakes as error:
        raise Corrupt(key, _reason(error)) from error
    return record  # type: ignore[no-any-return]  # the decoder is compiled for cls


def _reason(error: Exception) -> str:
    return _shortened(str(error))


def _shortened(text: str) -> str:
    """Whoever wrote the value must not fill our log: with text that is not ASCII escaped, and not beyond a line."""
    text = text.encode("ascii", "backslashreplace").decode()
    return text if len(text) <= limits.REASON_CHARS else f"{text[: limits.REASON_CHARS - 3]}..."


@cache
def _encoder(cls: type[attrs.AttrsInstance]) -> _Convert:
    hints = get_type_hints(cls)
    fields = [
        (field.name, _default(field), _PLAIN.get(hints[field.name]), _to_plain(hints[field.name]))
        for field in attrs.fields(cls)
    ]

    def convert(record: Any) -> dict[str, Any]:
        plain = {}
        for name, default, kind, to_plain in fields:
            value = getattr(record, name)
            if value is not default and (value != default or default is attrs.NOTHING):
                plain[name] = value if type(value) is kind else to_plain(value)
        return plain

    return convert


def _default(field: attrs.Attribute[Any]) -> Any:
    default: Any = field.default
    return default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]  # is a class


@cache
def _decoder(cls: type[attrs.AttrsInstance]) -> _Convert:
    hints = get_type_hints(cls)
    fields = {field.name: _from_plain(hints[field.name]) for field in attrs.fields(cls)}

    def convert(plain: Any) -> Any:
        if not isinstance(plain, dict):
            raise TypeError(f"{cls.__name__} is not an object")
        unknown = plain.keys() - fields.keys()
        if unknown:
            raise ValueError(f"unknown fields {sorted(unknown)}")
        return cls(**{name: fields[name](value) for name, value in plain.items()})

    return convert


def _members(hint: Any) -> tuple[Any, ...]:
    """A union's members without None; a plain type is its own."""
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(member for member in get_args(hint) if member is not type(None))
    return (hint,)


def _to_plain(hint: Any) -> _Convert:
    """What makes JSON of a value, and refuses what :func:`_from_plain` would refuse: a wrong type must not be found out
    by whoever reads the record, when it is too late.
    """
    members = _members(hint)
    convert = _to_plain_member(members[0], members)
    if type(None) not in get_args(hint):
        return convert
    return lambda value: None if value is None else convert(value)


def _to_plain_member(member: Any, members: tuple[Any, ...]) -> _Convert:
    origin = get_origin(member)
    if origin is tuple:
        inner = _to_plain(get_args(member)[0])
        return lambda values: [inner(value) for value in _checked(tuple, values)]
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        each = _to_plain(get_args(member)[1])
        return lambda values: {_checked(str, key): each(value) for key, value in _mapped(values).items()}
    if origin is Literal:
        allowed = get_args(member)
        return lambda value: value if value in allowed else _one_of(allowed, value)
    if member in _ADDRESSES:
        return lambda value: str(value if type(value) in members else _checked(members, value))
    if isinstance(member, type) and attrs.has(member):
        encoder = _encoder(member)
        return lambda value: encoder(value if type(value) is member else _checked(member, value))
    if member is float:
        return _seconds
    return lambda value: value if type(value) is member else _checked(member, value)


def _mapped(values: Any) -> Any:
    return values if type(values) is dict else _checked(Mapping, values)


def _from_plain(hint: Any) -> _Convert:
    members = _members(hint)
    optional = type(None) in get_args(hint)
    convert = _from_plain_member(members[0])
    if not optional:
        return convert
    return lambda value: None if value is None else convert(value)


def _from_plain_member(member: Any) -> _Convert:
    origin = get_origin(member)
    if origin is tuple:
        inner = _from_plain(get_args(member)[0])
        return lambda values: tuple(inner(value) for value in _checked(list, values))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        inner = _from_plain(get_args(member)[1])
        return lambda values: {key: inner(value) for key, value in _checked(dict, values).items()}
    if origin is Literal:
        return lambda value: _one_of(get_args(member), value)
    if member in _ADDRESSES:
        parse = _ADDRESSES[member]
        return lambda value: parse(_checked(str, value))
    if isinstance(member, type) and attrs.has(member):
        return _decoder(member)
    if member is float:
        return _seconds
    return lambda value: _checked(member, value)


def _checked(expected: Any, value: Any) -> Any:
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is int):
        raise TypeError(f"{value!r} is not {expected}")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def _one_of(allowed: tuple[Any, ...], value: Any) -> Any:
    if value not in allowed:
        raise ValueError(f"{value!r} is none of {allowed}")
    return value
