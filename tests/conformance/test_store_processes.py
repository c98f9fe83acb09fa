"""One SQLite file, several real processes: they race, wake each other, are killed and are stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from libcnm.kv.base import Changed
from libcnm.kv.sqlite import SQLiteStore
from libcnm.testing.store_steps import PATIENCE_SECONDS, put, soon, value_of

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("store_worker.py")


class Worker:
    """A process that speaks JSON lines."""

    def __init__(self, verb: str, database: Path, argument: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), verb, str(database), str(argument)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert "ready" == self.hear()

    def begin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line.endswith("\n") else None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


Start = Callable[..., Worker]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "state" / "store.db"


@pytest.fixture
def start(database: Path) -> Iterator[Start]:
    workers: list[Worker] = []

    def start(verb: str, argument: object = "") -> Worker:
        workers.append(Worker(verb, database, argument))
        return workers[-1]

    yield start
    for worker in workers:
        worker.end()


@pytest.fixture
def store(database: Path) -> Iterator[SQLiteStore]:
    with SQLiteStore(database) as store:
        yield store


def eventually(condition: Callable[[], bool]) -> None:
    until, pause = time.monotonic() + PATIENCE_SECONDS, threading.Event()
    while not condition():
        assert time.monotonic() < until, "it did not come to be"
        pause.wait(0.005)


@pytest.mark.slow
def test_one_process_wins_each_key(start: Start) -> None:
    """Processes that claim the same absent keys at once: each key has one winner, and the winners are all."""
    workers = [start("claim", 60) for _ in range(3)]
    for worker in workers:
        worker.begin()
    won = [worker.hear() for worker in workers]
    assert list(range(60)) == sorted(number for numbers in won for number in numbers)


@pytest.mark.slow
def test_no_update_is_lost(start: Start, store: SQLiteStore) -> None:
    """Read, add one, write if unchanged, from several processes: the sum is exact."""
    workers = [start("increment", 40) for _ in range(3)]
    for worker in workers:
        worker.begin()
    for worker in workers:
        assert 0 == worker.process.wait(PATIENCE_SECONDS)
    assert b"120" == value_of(store, "sum")


@pytest.mark.slow
def test_commit_rings_the_other_process(start: Start, store: SQLiteStore) -> None:
    """A waiting watcher in another process knows of a commit long before it would have looked by itself."""
    watcher = start("watch", "a/")
    watcher.begin()
    delays = []
    for number in range(8):
        put(store, f"b/{number}", b"not watched")
        put(store, f"a/{number}", b"1")
        committed = time.monotonic()
        at, keys = watcher.hear()
        assert [f"a/{number}"] == keys
        delays.append(at - committed)
    assert sorted(delays)[4] < 0.1, delays


@pytest.mark.slow
def test_killed_writer_loses_nothing_acknowledged(start: Start, database: Path) -> None:
    """Whatever a writer killed in mid-load had been told was committed is there, and no commit is there by half."""
    for round_ in range(4):
        worker = start("load", round_)
        worker.begin()
        acknowledged = [worker.hear() for _ in range(20 + 7 * round_)]
        os.kill(worker.process.pid, signal.SIGKILL)
        while (number := worker.hear()) is not None:
            acknowledged.append(number)
        with SQLiteStore(database) as store:
            halves = [
                [
                    entry.key.rpartition("/")[2]
                    for entry in store.list(f"load/{round_}/{half}/", deadline=soon()).entries
                ]
                for half in "ab"
            ]
            store.verify(deadline=soon())
        assert halves[0] == halves[1]
        assert {f"{number:06d}" for number in acknowledged} <= set(halves[0])


@pytest.mark.slow
def test_bell_of_a_killed_watcher_is_taken_down(start: Start, store: SQLiteStore, database: Path) -> None:
    """A watcher that was killed leaves its socket; the next commit removes it."""
    watcher = start("watch", "a/")
    bells = Path(f"{database}.bells")
    assert 1 == len(list(bells.iterdir()))
    watcher.kill()
    assert 1 == len(list(bells.iterdir()))
    put(store, "a/1", b"1")
    assert [] == list(bells.iterdir())


@pytest.mark.slow
def test_stopped_watcher_holds_nobody_up(start: Start, store: SQLiteStore) -> None:
    """Commits and other watchers do not wait for a stopped one; when it goes on, it learns of everything."""
    stopped = start("watch", "a/")
    stopped.begin()
    os.kill(stopped.process.pid, signal.SIGSTOP)
    with store.watch("a/", store.list("a/", deadline=soon()).revision) as watch:
        for number in range(40):  # more than its socket's queue holds
            put(store, f"a/{number:02d}", b"1")
            hint = watch.next(PATIENCE_SECONDS)
            assert isinstance(hint, Changed)
            assert (f"a/{number:02d}",) == hint.keys
    os.kill(stopped.process.pid, signal.SIGCONT)
    learnt: set[str] = set()
    while len(learnt) < 40:
        learnt.update(stopped.hear()[1])


@pytest.mark.slow
def test_killed_watcher_in_the_crowd(start: Start, store: SQLiteStore, database: Path) -> None:
    """One dead bell among living ones: the living are rung all the same."""
    dead, living = start("watch", "a/"), start("watch", "a/")
    living.begin()
    dead.kill()
    put(store, "a/1", b"1")
    assert ["a/1"] == living.hear()[1]
    eventually(lambda: 1 == len(list(Path(f"{database}.bells").iterdir())))


@pytest.mark.slow
def test_io_error_is_survived(start: Start, store: SQLiteStore) -> None:
    """When the kernel refuses a write, the call is Unavailable, reads go on, and later writes work again."""
    worker = start("io-error")
    worker.begin()
    assert ["unavailable", "done", "done"] == worker.hear()
    assert b"1" == value_of(store, "before")
    assert b"1" == value_of(store, "after")
    store.verify(deadline=soon())
