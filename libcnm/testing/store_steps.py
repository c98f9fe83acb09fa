"""The small steps that tests of stores are made of; :mod:`libcnm.testing.stores` is written in them.

They must never know a particular store.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from libcnm.errors import Conflict
from libcnm.kv.base import Absent, Delete, Gap, Lease, Put, Store, Transaction, VersionIs, Watch
from libcnm.model.deadline import Deadline

PATIENCE_SECONDS = 10.0
"""How long a test waits for what a store promises to do at once."""

MakeStore = Callable[[], Store]


def soon(seconds: float = PATIENCE_SECONDS) -> Deadline:
    """A deadline that no healthy store misses."""
    return Deadline.after(seconds, time.monotonic)


def put(store: Store, key: str, value: bytes, lease: Lease | None = None) -> int:
    """Write one key whatever it was; its version."""
    writes = (Put(key, value, None if lease is None else lease.id),)
    return store.transact(Transaction(writes=writes), deadline=soon()).versions[key]


def delete(store: Store, key: str) -> None:
    """Delete one key whatever it was."""
    store.transact(Transaction(writes=(Delete(key),)), deadline=soon())


def value_of(store: Store, key: str) -> bytes | None:
    """The value of a key, or None."""
    entry = store.get(key, deadline=soon())
    return None if entry is None else entry.value


def drain(watch: Watch, timeout: float = 0.0) -> set[str] | None:
    """All hints there are, waiting ``timeout`` seconds for the first; None when one was a Gap: that covers anything."""
    keys: set[str] | None = set()
    hint = watch.next(timeout)
    while hint is not None:
        keys = None if isinstance(hint, Gap) or keys is None else keys | set(hint.keys)
        hint = watch.next(0)
    return keys


def try_claim(store: Store, key: str, value: bytes) -> bool:
    """Write a key if it is absent; whether it was."""
    try:
        store.transact(Transaction((Absent(key),), (Put(key, value),)), deadline=soon())
    except Conflict:
        return False
    return True


def try_increment(store: Store, key: str) -> bool:
    """Read a decimal number and write the next if nobody else did meanwhile; whether that worked."""
    entry = store.get(key, deadline=soon())
    compare = Absent(key) if entry is None else VersionIs(key, entry.version)
    number = 0 if entry is None else int(entry.value)
    try:
        store.transact(Transaction((compare,), (Put(key, b"%d" % (number + 1)),)), deadline=soon(), durable=False)
    except Conflict:
        return False
    return True


def together(make_store: MakeStore, workers: int, work: Callable[[int, Store], None]) -> None:
    """Run ``work`` in that many threads, each with a handle of its own, all starting at once; raise what one raised."""
    barrier = threading.Barrier(workers)

    def run(worker: int) -> None:
        with make_store() as store:
            barrier.wait(PATIENCE_SECONDS)
            work(worker, store)

    with ThreadPoolExecutor(workers) as threads:
        for done in [threads.submit(run, worker) for worker in range(workers)]:
            done.result()
