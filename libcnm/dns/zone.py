"""The names of one network: a table from names to addresses and back. Pure: no I/O, no messages, no clock.

It is a function of the endpoint records alone, so it can be thrown away and filled again at any time.

One thread writes (:meth:`NetworkZone.put`, :meth:`~NetworkZone.remove`), another may read meanwhile. A snapshot per
change would cost O(endpoints), so a lock guards the table; it is held for the time of one record or one look-up.
``generation`` grows with each change and is read without the lock: a cache that notes it *before* it looks up can only
be too careful.

Every name is kept once, without the network's name; ``<name>.<network>`` is found by taking the suffix off.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TypeVar

import attrs

from libcnm.dns.names import encodable, normal
from libcnm.model.addresses import IPAddress, IPNetwork

_K = TypeVar("_K")
_V = TypeVar("_V")

SHORT_ID_CHARS = 12
"""Docker's short form of an id, which it publishes as a name."""


@attrs.frozen
class NameRecord:
    """One endpoint's names and addresses. ``hostnames`` are its sandbox's host and container name, if it has them.

    Names may come from another host's records: what cannot be said in DNS is not served, and nothing is raised.
    """

    endpoint_id: str
    name: str
    network_id: str
    network_name: str
    aliases: tuple[str, ...] = ()
    hostnames: tuple[str, ...] = ()
    addresses: tuple[IPAddress, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Every name in normal form, without repeats; the first one is the PTR's, as in libnetwork."""
        short = self.endpoint_id[:SHORT_ID_CHARS]
        return tuple(dict.fromkeys(map(normal, (self.name, *self.aliases, *self.hostnames, short))))


@attrs.frozen
class _Entry:
    """A record as it stands in the tables: its usable names, and what its addresses are called."""

    record: NameRecord
    names: tuple[str, ...]
    pointer: str | None


class NetworkZone:
    """The table of one network. ``put`` and ``remove`` cost O(names of that record), however many endpoints it has."""

    def __init__(self, network_id: str, network_name: str, subnets: tuple[IPNetwork, ...] = ()) -> None:
        self.network_id = network_id
        self.network_name = network_name
        self.subnets = subnets
        self.apex = normal(network_name)
        self.suffix = "." + self.apex
        self.generation = 0
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._by_name: dict[str, dict[str, NameRecord]] = {}
        self._by_address: dict[IPAddress, dict[str, str]] = {}
        self._interior: dict[str, int] = {}

    def put(self, record: NameRecord) -> bool:
        """Add or replace the endpoint's record; False (and no new generation) when it stood there already."""
        with self._lock:
            known = self._entries.get(record.endpoint_id)
            if known is not None and known.record == record:
                return False
            if known is not None:
                self._take_out(known)
            self._take_in(self._entry(record))
            self.generation += 1
            return True

    def remove(self, endpoint_id: str) -> bool:
        """Forget the endpoint; False when there was nothing to forget."""
        with self._lock:
            known = self._entries.get(endpoint_id)
            if known is None:
                return False
            self._take_out(known)
            self.generation += 1
            return True

    def addresses(self, name: str) -> tuple[IPAddress, ...] | None:
        """All addresses of every endpoint called ``name`` (normal form, without the network), or None if none is."""
        with self._lock:
            bucket = self._by_name.get(name)
            if bucket is None:
                return None
            return tuple(dict.fromkeys(address for record in bucket.values() for address in record.addresses))

    def pointer(self, address: IPAddress) -> str | None:
        """``<name>.<network>`` of the endpoint with that address; the one put last while two overlap."""
        with self._lock:
            holders = self._by_address.get(address)
            return next(reversed(holders.values())) if holders else None

    def is_interior(self, name: str) -> bool:
        """True when ``name`` itself is nobody's, but a name below it is: it exists, without records (RFC 8020)."""
        with self._lock:
            return name in self._interior

    def records(self) -> tuple[NameRecord, ...]:
        """Every record, in the order of arrival; for ``doctor``."""
        with self._lock:
            return tuple(entry.record for entry in self._entries.values())

    def _entry(self, record: NameRecord) -> _Entry:
        names = tuple(filter(encodable, record.names()))
        qualified = [name + self.suffix for name in names]
        pointer = next(filter(encodable, qualified), names[0] if names else None)
        return _Entry(record, names, pointer)

    def _take_in(self, entry: _Entry) -> None:
        holder = entry.record.endpoint_id
        self._entries[holder] = entry
        for name in entry.names:
            self._by_name.setdefault(name, {})[holder] = entry.record
            for parent in _parents(name):
                self._interior[parent] = self._interior.get(parent, 0) + 1
        if entry.pointer is not None:
            for address in entry.record.addresses:
                self._by_address.setdefault(address, {})[holder] = entry.pointer

    def _take_out(self, entry: _Entry) -> None:
        holder = entry.record.endpoint_id
        del self._entries[holder]
        for name in entry.names:
            _drop(self._by_name, name, holder)
            for parent in _parents(name):
                self._interior[parent] -= 1
                if not self._interior[parent]:
                    del self._interior[parent]
        if entry.pointer is not None:
            for address in set(entry.record.addresses):
                _drop(self._by_address, address, holder)


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.partition(".")[2]
        yield name


def _drop(table: dict[_K, dict[str, _V]], key: _K, holder: str) -> None:
    bucket = table[key]
    del bucket[holder]
    if not bucket:
        del table[key]
