"""From a URL to a store: ``sqlite:///path``, ``memory:``, and whatever the installed packages register.

A package adds a scheme by an entry point of that name in the group ``libcnm.kv``, which names a :data:`Opener`. The
2015 spelling of libnetwork's configuration, ``consul:localhost:8500``, means ``consul://localhost:8500``.

It must never know a particular cluster store, and never show a URL beyond its scheme: the rest may hold a password.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol, cast
from urllib.parse import unquote

from libcnm.errors import DriverError, Invalid, NotSupported
from libcnm.kv.base import Store

GROUP: Final = "libcnm.kv"
EXTRAS: Final = {"consul": "consul", "etcd": "etcd"}
"""Schemes that libcnm itself brings, and the extra that installs what each needs."""
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*):(.*)", re.DOTALL)
_FORMS: Final = "sqlite:///absolute/path, memory:, or scheme://host:port"


class Opener(Protocol):
    """What an entry point of the group names: it returns a store, or raises Invalid without quoting the URL."""

    def __call__(self, url: str, *, now: Callable[[], float]) -> Store: ...


def open_store(url: str, *, now: Callable[[], float] = time.monotonic) -> Store:
    """The store at ``url``; ``now`` is a monotonic clock in seconds. Raises what :func:`find_store` does, and what
    opening that store raises.
    """
    return find_store(url, now=now)()


def find_store(url: str, *, now: Callable[[], float] = time.monotonic) -> Callable[[], Store]:
    """What will open the store at ``url``; nothing has been opened or made yet.

    Raises Invalid for a malformed URL, NotSupported when no installed package knows the scheme, DriverError when the
    package that does cannot be loaded.
    """
    scheme, rest = _split(url)
    if scheme == "memory":
        return _memory(rest, now)
    if scheme == "sqlite":
        return _sqlite(rest, now)
    if not rest.strip("/"):
        raise Invalid("store", f"{scheme}:…", "names no host", hint=_FORMS)
    if not rest.startswith("//"):
        rest = f"//{rest}"
    return partial(_load(scheme), f"{scheme}:{rest}", now=now)


def file_of(url: str) -> str | None:
    """The file of a store that is one; None for a store of another kind."""
    scheme, rest = _split(url)
    return _sqlite_path(rest) if scheme == "sqlite" else None


def _split(url: str) -> tuple[str, str]:
    match = _SCHEME.fullmatch(url) if isinstance(url, str) else None
    if match is None or any("\ud800" <= char <= "\udfff" for char in url):
        raise Invalid("store", "…", "is not the URL of a store", hint=_FORMS)
    return match[1], match[2]


def _memory(rest: str, now: Callable[[], float]) -> Callable[[], Store]:
    if rest.strip("/"):
        raise Invalid("store", "memory:…", "takes nothing after the colon", hint="memory:")
    from libcnm.kv.memory import MemoryStore

    return partial(MemoryStore, now=now)


def _sqlite(rest: str, now: Callable[[], float]) -> Callable[[], Store]:
    path = _sqlite_path(rest)
    from libcnm.kv.sqlite import SQLiteStore

    return partial(SQLiteStore, path, now=now)


def _sqlite_path(rest: str) -> str:
    path = unquote(rest.removeprefix("//"), errors="surrogateescape")
    if not path.startswith("/") or path.endswith("/") or "?" in rest or "#" in rest or "\0" in path:
        hint = "sqlite:///absolute/path, with ?, # and % as %3F, %23 and %25"
        raise Invalid("store", "sqlite:…", "names no absolute path of a file", hint=hint)
    return path


def _load(scheme: str) -> Opener:
    """The opener of that name; stevedore loads that entry point and no other."""
    from importlib.metadata import entry_points

    from stevedore import DriverManager, ExtensionManager
    from stevedore.exception import MultipleMatches

    # stevedore would read a cache file in the home folder otherwise: whoever can write that chooses what root imports.
    points = list(entry_points(group=GROUP))
    ExtensionManager.ENTRY_POINT_CACHE[GROUP] = points
    if scheme not in {point.name for point in points}:  # stevedore would log that beside our error
        raise NotSupported(f"no installed package knows the store {scheme!r}", hint=_advice(scheme))
    origins = sorted(point.dist.name for point in points if point.name == scheme and point.dist)
    origin = origins[0] if origins else None
    try:
        opener: object = DriverManager(GROUP, scheme).driver
    except MultipleMatches:
        reason = f"is provided by several distributions: {', '.join(origins)}"
        raise DriverError(scheme, reason, hint="remove one") from None
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and scheme in EXTRAS:
            reason = f"the store {scheme!r} needs the package {error.name!r}"
            raise NotSupported(reason, hint=_advice(scheme)) from error
        raise DriverError(scheme, f"cannot be loaded: {error!r}", distribution=origin) from error
    if not callable(opener):
        raise DriverError(scheme, "its entry point is not a function that opens a store", distribution=origin)
    return cast("Opener", opener)


def _advice(scheme: str) -> str:
    if scheme in EXTRAS:
        return f"pip install 'libcnm[{EXTRAS[scheme]}]'"
    return f"install a package with an entry point {scheme!r} in the group {GROUP!r}"
