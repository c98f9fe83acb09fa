"""One process of the tests in test_store_processes.py: it opens the store and does what its arguments say.

It says "ready" when the store is open and begins when a line arrives on its standard input: so several begin together.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import sys
import time
from collections.abc import Callable

from libcnm.errors import CnmError
from libcnm.kv.base import Changed, Put, Transaction
from libcnm.kv.sqlite import SQLiteStore
from libcnm.testing.store_steps import put, soon, try_claim, try_increment, value_of


def say(what: object) -> None:
    print(json.dumps(what), flush=True)


def begin() -> None:
    say("ready")
    sys.stdin.readline()


def claim(store: SQLiteStore, count: str) -> None:
    """Claim absent keys; say which were won."""
    begin()
    say([number for number in range(int(count)) if try_claim(store, f"claim/{number}", b"%d" % os.getpid())])


def increment(store: SQLiteStore, rounds: str) -> None:
    """Add one to a number so many times."""
    begin()
    done = 0
    while done < int(rounds):
        done += try_increment(store, "sum")


def load(store: SQLiteStore, name: str) -> None:
    """Commit without end, two keys a time; say each number when its commit has returned."""
    begin()
    for number in itertools.count():
        writes = [Put(f"load/{name}/{half}/{number:06d}", b"%d" % number * 50) for half in "ab"]
        store.transact(Transaction(writes=writes), deadline=soon())
        say(number)


def watch(store: SQLiteStore, prefix: str) -> None:
    """Say each hint's keys, with the monotonic time at which it was there."""
    with store.watch(prefix, store.list(prefix, deadline=soon()).revision) as watching:
        watching.next(0.001)  # hangs up the bell
        begin()
        while True:
            hint = watching.next(60)
            say([time.monotonic(), list(hint.keys) if isinstance(hint, Changed) else None])


def io_error(store: SQLiteStore, _: str) -> None:
    """Let the kernel refuse writes beyond a file size, then allow them again; say what each step gave."""
    put(store, "before", b"1")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    begin()
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    refused = outcome(lambda: put(store, "during", b"x" * 100_000))
    read = outcome(lambda: value_of(store, "before"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    say([refused, read, outcome(lambda: put(store, "after", b"1"))])


def outcome(step: Callable[[], object]) -> str:
    try:
        step()
    except CnmError as error:
        return error.code
    return "done"


if __name__ == "__main__":
    verb = {"claim": claim, "increment": increment, "load": load, "watch": watch, "io-error": io_error}[sys.argv[1]]
    with SQLiteStore(sys.argv[2]) as opened:
        verb(opened, sys.argv[3])
