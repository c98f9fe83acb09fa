"""Locks between processes and threads: who waits, who is told, and what a dead holder leaves (nothing)."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from libcnm.errors import DeadlineExceeded, Forbidden, Unavailable
from libcnm.model.deadline import Deadline
from libcnm.system.clock import ManualClock
from libcnm.system.locks import Locks

HOLDER = """
import sys
from libcnm.system.locks import Locks
held = Locks(sys.argv[1]).try_acquire(sys.argv[2], shared=len(sys.argv) > 3)
print("held" if held else "refused", flush=True)
sys.stdin.read()
"""


def within(seconds: float = 10.0) -> Deadline:
    return Deadline.after(seconds, time.monotonic)


@pytest.fixture
def locks(tmp_path: Path) -> Locks:
    return Locks(str(tmp_path / "locks"))


@contextmanager
def other_process(tmp_path: Path, name: str, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has tried to take the lock and now waits; ``with`` ends it."""
    argv = [sys.executable, "-c", HOLDER, str(tmp_path / "locks"), name, *flags]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdin is not None
        try:
            yield process
        finally:
            process.kill()


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_one_holder(locks: Locks) -> None:
    """Exclusive means exclusive, also within one process; released, it is free."""
    with locks.acquire("a", deadline=within()):
        assert None is locks.try_acquire("a")
        assert None is locks.try_acquire("a", shared=True)
    again = locks.try_acquire("a")
    assert again is not None
    again.release()
    again.release()


def test_shared_holders(locks: Locks) -> None:
    """Any number share it, and keep an exclusive one out until the last has gone."""
    one, two = locks.acquire("a", deadline=within(), shared=True), locks.acquire("a", deadline=within(), shared=True)
    assert None is locks.try_acquire("a")
    one.release()
    assert None is locks.try_acquire("a")
    two.release()
    with locks.acquire("a", deadline=within()):
        pass


def test_names_are_independent(locks: Locks) -> None:
    """Another object's lock is another lock."""
    with locks.acquire("a", deadline=within()), locks.acquire("b", deadline=within()):
        pass


def test_a_killed_holder_frees_it(locks: Locks, tmp_path: Path) -> None:
    """kill -9: the kernel frees the lock, and nobody has to find out that it is stale."""
    with other_process(tmp_path, "a") as process:
        assert "held" == answer(process)
        assert None is locks.try_acquire("a")
        process.kill()
        with locks.acquire("a", deadline=within()):
            pass


def test_a_paused_holder_keeps_it(locks: Locks, tmp_path: Path) -> None:
    """SIGSTOP: it is alive, so its verb is not half-done."""
    with other_process(tmp_path, "a") as process:
        assert "held" == answer(process)
        process.send_signal(19)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert None is locks.try_acquire("a")


def test_the_deadline_names_lock_and_holder(locks: Locks, tmp_path: Path) -> None:
    """Whoever waits in vain learns what for, and which process to look at."""
    with other_process(tmp_path, "a" * 64) as process:
        assert "held" == answer(process)
        deadline = ManualClock(tick=0.5).deadline(1.0)
        with pytest.raises(DeadlineExceeded, match="a" * 12) as raised:
            locks.acquire("a" * 64, deadline=deadline)
        assert str(process.pid) in str(raised.value)


def test_others_processes_are_refused(locks: Locks, tmp_path: Path) -> None:
    """What this process holds, another cannot take; what it shares, another may share."""
    with locks.acquire("a", deadline=within()), other_process(tmp_path, "a") as process:
        assert "refused" == answer(process)
    with locks.acquire("a", deadline=within(), shared=True), other_process(tmp_path, "a", "shared") as process:
        assert "held" == answer(process)


def test_several_are_all_or_none(locks: Locks) -> None:
    """When the last of several cannot be had, the others are let go."""
    with locks.acquire("c", deadline=within()), pytest.raises(DeadlineExceeded):
        locks.acquire_all((("a", False), ("b", True), ("c", False)), deadline=ManualClock(tick=0.5).deadline(1.0))
    with locks.acquire_all((("a", False), ("b", False), ("c", False)), deadline=within()):
        assert [None] * 3 == [locks.try_acquire(name) for name in "abc"]
    with locks.acquire_all((("a", False), ("b", False), ("c", False)), deadline=within()):
        pass


def test_the_given_order_is_kept(locks: Locks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network before endpoint before sandbox: two verbs that take several cannot wait for each other."""
    taken: list[str] = []
    real = Locks.try_acquire

    def noted(self: Locks, name: str, *, shared: bool = False) -> object:
        taken.append(name)
        return real(self, name, shared=shared)

    monkeypatch.setattr(Locks, "try_acquire", noted)
    with locks.acquire_all((("network", True), ("endpoint", False), ("sandbox", False)), deadline=within()):
        pass
    assert ["network", "endpoint", "sandbox"] == taken


def test_no_files_are_left(locks: Locks, tmp_path: Path) -> None:
    """The folder holds the locks that are held, not those that ever were."""
    with locks.acquire("a", deadline=within()):
        assert ["a"] == os.listdir(tmp_path / "locks")
    assert [] == os.listdir(tmp_path / "locks")


def test_what_nobody_holds_is_swept(locks: Locks, tmp_path: Path) -> None:
    """A shared holder and a killed process leave their files; a sweep removes these, and no lock that is held."""
    locks.acquire("shared", deadline=within(), shared=True).release()
    with other_process(tmp_path, "killed") as process:
        assert "held" == answer(process)
        process.kill()
    with (
        locks.acquire("mine", deadline=within()),
        locks.acquire("ours", deadline=within(), shared=True),
        other_process(tmp_path, "theirs") as process,
    ):
        assert "held" == answer(process)
        assert {"shared", "killed", "mine", "ours", "theirs"} == set(os.listdir(tmp_path / "locks"))
        locks.sweep()
        assert {"mine", "ours", "theirs"} == set(os.listdir(tmp_path / "locks"))
        assert [None, None] == [locks.try_acquire(name) for name in ("mine", "theirs")]


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    """Whoever may open the files in it could hold every lock."""
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks").chmod(0o777)
    with pytest.raises(Forbidden, match="chmod"):
        Locks(str(tmp_path / "locks"))


def test_many_threads_take_turns(locks: Locks) -> None:
    """Whatever happens between opening, locking and removing the file: never two at once, and everybody gets it."""
    inside, most, turns = 0, 0, 0

    def work() -> None:
        nonlocal inside, most, turns
        for _ in range(40):
            with locks.acquire("a", deadline=within(50)):
                inside += 1
                most = max(most, inside)
                turns += 1
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(55)
    assert (1, 240) == (most, turns)


def test_a_removed_file_is_no_lock(locks: Locks, tmp_path: Path) -> None:
    """Who holds a file that was removed (its holder has just released it) holds nothing: the next one is not misled."""
    path = tmp_path / "locks" / "a"
    stale = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(stale, fcntl.LOCK_EX)
        path.unlink()
        with locks.acquire("a", deadline=within()):
            assert None is locks.try_acquire("a")
    finally:
        os.close(stale)


def test_a_symbolic_link_is_not_followed(locks: Locks, tmp_path: Path) -> None:
    """A lock file that somebody made a link of is refused, and its target stays as it is."""
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / "locks" / "a").symlink_to(target)
    with pytest.raises(Unavailable):
        locks.try_acquire("a")
    assert "mine" == target.read_text()
