"""Which addresses an endpoint gets: one call's search, and the claims that it makes.

Each address has a key of its own and a claim compares that key alone, so claims of different addresses never meet.
The cursor only says where to look; it is written blindly, and a lost or wrong one costs reads, never correctness.
Never-used addresses come first, ascending, then those that have been free longest (a preference: the last free one is
handed out all the same).

*Exhausted* is answered only from a listing taken during the call. A listing is one instant, never stale: at that
instant every address of the range was held (or unreadable). A release that committed before the call is in the listing;
one that commits after the listing overlaps the call, and may be counted as having come after it. As nothing is written,
there is nothing to compare.

*Cost.* One read, one compare, two writes for an address, whatever the size of the pool. A wrong cursor costs the first
attempt. When the next addresses are taken, too, or all of the range was used once, one listing of the used addresses
fills the cursor's queue for the next :data:`QUEUE` requests.

It must never know endpoints, drivers or a clock. Sources: libnetwork ``ipam/allocator.go`` and ``bitseq`` (whose bitmap
was one hot key, and gave the address just released out again).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Final

import attrs

from libcnm.contracts.ipam import AddressGrant, AddressRequest, Pool
from libcnm.errors import AlreadyExists, Corrupt, Exhausted, Invalid
from libcnm.ipam import keys, pools
from libcnm.kv.base import Absent, Compare, Entry, Put, Store, Transaction, VersionIs, Write
from libcnm.model.addresses import IPAddress
from libcnm.model.deadline import Deadline

QUEUE: Final = 64
"""How many candidates one listing leaves for later requests: spreads its cost; the cursor's value stays below 3 KB."""
PROBES: Final = 8
"""How many candidates are read one by one before a listing is the cheaper way."""
SPREAD: Final = 16
"""After a conflict the candidate is drawn from this many (doubling with each further one, four times at most)."""
HINTS: Final = 8
"""How many cursors one transaction writes at most: 16 subnets then need 40 of its 60 operations."""


def reserved(pool: Pool) -> list[int]:
    """The addresses that are the network's own: gateway and auxiliary ones."""
    return [int(address) for address in (pool.gateway, *pool.aux.values()) if address is not None]


@attrs.define
class _Hint:
    """What is known about one pool during one call. As CursorValue, but with addresses in place of offsets.

    ``explained``: the conflict that this attempt follows was the cursor's fault, so there is nobody to keep clear of.
    """

    pool: Pool
    low: int
    high: int
    skip: set[int]
    next: int
    queue: list[tuple[int, int]]
    reads: int = 0
    moved: bool = False
    explained: bool = False


class Search:
    """One call's search. It keeps its own claims apart, so that a call may ask for several addresses of one pool."""

    def __init__(self, store: Store, deadline: Deadline, choice: Callable[[int], int], now: float) -> None:
        self._store = store
        self._deadline = deadline
        self._choice = choice
        self._now = now
        self._hints: dict[str, _Hint] = {}
        self._claimed: dict[str, int] = {}
        self._believing = False
        self._compares: list[Compare] = []
        self._writes: list[Write] = []

    def grant(self, requests: Sequence[AddressRequest]) -> AddressGrant:
        granted: dict[int, int] = {}
        self._believing = len(requests) <= HINTS  # of more, the cursors are behind
        for at in sorted(range(len(requests)), key=lambda index: requests[index].preferred is None):
            request = requests[at]
            keys.token("holder", request.holder)
            granted[at] = (
                self._any(request) if request.preferred is None else self._preferred(request, request.preferred)
            )
        # Hints are only hints: when there are many, those that cost most reads are put right first.
        moved = sorted((hint for hint in self._hints.values() if hint.moved), key=lambda hint: -hint.reads)
        self._writes += [_cursor(hint) for hint in moved[:HINTS]]
        addresses = [keys.address(request.pool.subnet.version, granted[at]) for at, request in enumerate(requests)]
        return AddressGrant(tuple(addresses), Transaction(self._compares, self._writes))

    def _preferred(self, request: AddressRequest, address: IPAddress) -> int:
        pool = request.pool
        pools.check_assignable(pool.subnet, address, "address")
        key = keys.address_key(pool, int(address))
        if key in self._claimed:
            raise Invalid("address", str(address), "is asked for twice")
        entry = self._store.get(key, deadline=self._deadline)
        value = keys.AddressValue(None) if entry is None else keys.decode_address(entry)
        if entry is not None and value.holder == request.holder:
            self._claimed[key] = int(address)
            self._compares.append(VersionIs(key, entry.version))
        elif value.holder is not None:
            since = datetime.fromtimestamp(value.at, UTC).isoformat(timespec="seconds") if value.at < 2**37 else "?"
            hint = f"held in {pool.subnet} since {since}; choose another address, or delete that holder"
            raise AlreadyExists("address", str(address), holder=_holder(value), hint=hint)
        else:
            self._claim(request, int(address), entry)
        return int(address)

    def _claim(self, request: AddressRequest, value: int, entry: Entry | None) -> None:
        key = keys.address_key(request.pool, value)
        generation = 0 if entry is None else keys.decode_address(entry).generation
        held = keys.AddressValue(request.holder, keys.ENDPOINT, generation, self._now)
        self._claimed[key] = value
        self._compares.append(Absent(key) if entry is None else VersionIs(key, entry.version))
        self._writes.append(Put(key, keys.encode_address(held)))

    def _any(self, request: AddressRequest) -> int:
        hint = self._hint(request.pool)
        value, entry = self._queued(hint, request) or self._frontier(hint, request) or self._listed(hint, request)
        hint.skip.add(value)
        hint.moved = True
        self._claim(request, value, entry)
        return value

    def _hint(self, pool: Pool) -> _Hint:
        if pool.id not in self._hints:
            cursor = keys.decode_cursor(self._store.get(keys.cursor_key(pool.id), deadline=self._deadline))
            base, (low, high) = int(pool.subnet.network_address), pools.dynamic(pool.subnet, pool.range)
            queue = [(base + offset, version) for offset, version in cursor.queue if low <= base + offset <= high]
            mine = {value for key, value in self._claimed.items() if key.startswith(keys.address_prefix(pool.id))}
            self._hints[pool.id] = _Hint(
                pool, low, high, mine.union(reserved(pool)), max(low, base + cursor.next), queue
            )
        return self._hints[pool.id]

    def _spread(self, hint: _Hint, request: AddressRequest, among: int) -> int:
        """Which of the next candidates to try: the first, unless others wanted it too."""
        if not request.attempt or hint.explained or among < 2:
            return 0
        return self._choice(min(SPREAD << min(request.attempt - 1, 4), among))

    def _queued(self, hint: _Hint, request: AddressRequest) -> tuple[int, Entry | None] | None:
        """A candidate left by an earlier listing, if its key is still what it was then."""
        for _ in range(PROBES):
            if not hint.queue:
                break
            # Spread among the never-used ones before the free ones begin.
            alike = next(
                (i for i, item in enumerate(hint.queue) if (item[1] == 0) != (hint.queue[0][1] == 0)), len(hint.queue)
            )
            value, version = hint.queue.pop(self._spread(hint, request, alike))
            if value in hint.skip:
                continue
            entry = self._read(hint, value)
            if entry is None and version == 0:
                return value, None
            if entry is not None and entry.version == version and _is_free(entry):
                return value, entry
        return None

    def _frontier(self, hint: _Hint, request: AddressRequest) -> tuple[int, Entry | None] | None:
        """The next never-used address in ascending order; None when that is not found within a few reads.

        At the first attempt the cursor is believed: whether it was right, the compare says. At the second it may turn
        out that it was wrong, and that nobody else wanted what we did.
        """
        if hint.queue or hint.next > hint.high:
            return None
        start = next((value for value in range(hint.next, hint.high + 1) if value not in hint.skip), hint.high + 1)
        if request.attempt == 1 and start <= hint.high and self._read(hint, start) is not None:
            hint.explained = True
        start += self._spread(hint, request, hint.high + 1 - start)
        candidates = (value for value in range(start, hint.high + 1) if value not in hint.skip)
        for value in islice(candidates, 1 + PROBES):
            if (self._believing and not request.attempt) or self._read(hint, value) is None:
                hint.next = value + 1
                return value, None
        return None

    def _listed(self, hint: _Hint, request: AddressRequest) -> tuple[int, Entry | None]:
        """The full truth: never-used addresses first, then the longest free; what is left over becomes the queue."""
        hint.reads += PROBES
        listed = self._store.list(keys.address_prefix(hint.pool.id), deadline=self._deadline).entries
        entries = dict(_addresses(hint.pool, listed))
        gaps = list(islice(_gaps(hint.low, hint.high, sorted(entries.keys() | hint.skip)), QUEUE))
        values = {value: _readable(entry) for value, entry in entries.items() if hint.low <= value <= hint.high}
        free = (
            (known.at, value)
            for value, known in values.items()
            if known and known.holder is None and value not in hint.skip
        )
        oldest = heapq.nsmallest(QUEUE - len(gaps), free)
        if not gaps and not oldest:
            raise Exhausted(f"address in {hint.pool.range or hint.pool.subnet}", _held(values))
        hint.next = gaps[-1] + 1 if len(gaps) == QUEUE else hint.high + 1
        hint.queue = [(value, 0) for value in gaps] + [(value, entries[value].version) for _, value in oldest]
        value, _ = hint.queue.pop(self._spread(hint, request, len(gaps) or len(oldest)))
        return value, entries.get(value)

    def _read(self, hint: _Hint, value: int) -> Entry | None:
        hint.reads += 1
        return self._store.get(keys.address_key(hint.pool, value), deadline=self._deadline)


def _cursor(hint: _Hint) -> Put:
    base = int(hint.pool.subnet.network_address)
    value = keys.CursorValue(hint.next - base, tuple((address - base, version) for address, version in hint.queue))
    return Put(keys.cursor_key(hint.pool.id), keys.encode_cursor(value))


def _gaps(low: int, high: int, used: Sequence[int]) -> Iterator[int]:
    """The addresses from ``low`` to ``high`` that are not among the sorted ``used``, ascending."""
    position = low
    for value in used:
        yield from range(position, min(value, high + 1))
        position = max(position, value + 1)
    yield from range(position, high + 1)


def _addresses(pool: Pool, listed: Sequence[Entry]) -> Iterator[tuple[int, Entry]]:
    """The listed entries by address; a key that is no address's cannot stand in the way of one."""
    for entry in listed:
        with suppress(Corrupt):
            yield keys.parse_address_key(pool, entry), entry


def _readable(entry: Entry) -> keys.AddressValue | None:
    """The value, or None: what cannot be read is not handed out, and does not keep the others from being so."""
    try:
        return keys.decode_address(entry)
    except Corrupt:
        return None


def _is_free(entry: Entry) -> bool:
    value = _readable(entry)
    return value is not None and value.holder is None


def _held(values: Mapping[int, keys.AddressValue | None]) -> list[str]:
    purposes = [("unreadable" if value is None else value.purpose) for value in values.values()]
    return [f"{purposes.count(purpose)} held as {purpose}" for purpose in dict.fromkeys(sorted(purposes))]


def _holder(value: keys.AddressValue) -> str:
    if value.purpose == keys.ENDPOINT:
        return f"endpoint {str(value.holder)[:12]}"
    return f"network {str(value.holder)[:12]} ({'gateway' if value.purpose == keys.GATEWAY else 'auxiliary address'})"
