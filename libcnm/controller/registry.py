"""Plug-ins by name, through entry points (stevedore). Loading one never imports the others.

A name that nobody provides, two distributions that provide one name, and a plug-in that cannot be imported are three
different errors, each naming the distribution. What is found is given out guarded (:mod:`libcnm.controller.guarded`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from libcnm.contracts.driver import Driver
from libcnm.contracts.ipam import IpamDriver, IpamFacts
from libcnm.controller.guarded import GuardedDriver, GuardedIpam
from libcnm.errors import DriverError, NotFound

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

DRIVERS = "libcnm.drivers"
IPAM = "libcnm.ipam"

Plugin = TypeVar("Plugin")


class Registry:
    """Drivers and IPAMs by name, loaded on first use and kept. Thread-safe.

    ``drivers`` and ``ipams`` are used under these names instead of what is installed: for tests, and for programs that
    bring their own. A resident in another process does not know them.
    """

    def __init__(
        self, drivers: Mapping[str, Driver] | None = None, ipams: Mapping[str, IpamDriver] | None = None
    ) -> None:
        self._drivers = {name: GuardedDriver(driver, name) for name, driver in (drivers or {}).items()}
        self._ipams: dict[tuple[str, str], IpamDriver] = {}
        self._given_ipams = {name: GuardedIpam(ipam, name) for name, ipam in (ipams or {}).items()}
        self._lock = threading.Lock()

    def driver(self, name: str) -> Driver:
        """The network driver of that name; NotFound or DriverError."""
        with self._lock:
            if name not in self._drivers:
                found, origin = _load(DRIVERS, "driver", name, Driver)
                self._drivers[name] = GuardedDriver(_construct(name, found, found), name, distribution=origin)
            return self._drivers[name]

    def ipam(self, name: str, facts: IpamFacts) -> IpamDriver:
        """The IPAM of that name for one address space; NotFound or DriverError."""
        with self._lock:
            known = self._given_ipams.get(name) or self._ipams.get((name, facts.space))
            if known is None:
                found, origin = _load(IPAM, "IPAM driver", name, IpamDriver)
                made = _construct(name, found, lambda: found.open(facts))
                known = self._ipams[name, facts.space] = GuardedIpam(made, name, distribution=origin)
            return known

    def loaded_drivers(self) -> tuple[Driver, ...]:
        """Those drivers that have been used so far."""
        with self._lock:
            return tuple(self._drivers.values())


def names(group: str) -> tuple[str, ...]:
    """The names that some distribution provides in a group, sorted; nothing is imported."""
    return tuple(sorted({point.name for point in _points(group)}))


@cache
def _points(group: str) -> tuple[EntryPoint, ...]:
    """What is installed, looked up once in a process: the scan reads the metadata of every distribution."""
    from importlib.metadata import entry_points

    return tuple(entry_points(group=group))


@cache
def _owners(group: str, name: str) -> tuple[str, ...]:
    """The distributions that provide it, as :func:`_points` has found them; each name costs a parse of its metadata."""
    return tuple(point.dist.name for point in _points(group) if point.name == name and point.dist)


def _load(group: str, kind: str, name: str, base: type) -> tuple[Any, str | None]:
    """The class, and the distribution that it is from."""
    # Imported here: stevedore costs 75 ms, which `import libcnm` must not pay.
    from stevedore import DriverManager, ExtensionManager
    from stevedore.exception import MultipleMatches

    # stevedore would read a cache file in the home folder otherwise: whoever can write that chooses what root imports.
    points = list(_points(group))
    ExtensionManager.ENTRY_POINT_CACHE[group] = points
    if name not in names(group):  # asked for it all the same, stevedore would log that beside our error
        raise NotFound(kind, name, hint=f"known: {', '.join(names(group))}")
    owners = _owners(group, name)
    origin = owners[0] if owners else None
    try:
        found: Any = DriverManager(group, name, invoke_on_load=False).driver
    except MultipleMatches:
        raise DriverError(
            name, f"is provided by several distributions: {', '.join(sorted(owners))}", hint="remove one"
        ) from None
    except Exception as error:
        raise DriverError(name, f"cannot be loaded: {error!r}", distribution=origin) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise DriverError(name, f"is not a {base.__module__}.{base.__qualname__}", distribution=origin)
    return found, origin


def _construct(name: str, found: type, make: Callable[[], Plugin]) -> Plugin:
    try:
        return make()
    except Exception as error:
        raise DriverError(name, f"cannot be constructed: {error!r}", distribution=found.__module__) from error
