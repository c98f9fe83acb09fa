"""The doorbell: rung across instances, whatever lies in its directory and however long its path."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from libcnm.kv._bells import Bells
from libcnm.kv.base import Changed
from libcnm.kv.sqlite import SQLiteStore
from libcnm.testing.store_steps import PATIENCE_SECONDS, put, soon


@pytest.fixture(params=["short", "long-" * 30], ids=["short", "long"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / str(request.param)
    folder.mkdir()
    return folder / "bells"


@pytest.fixture
def bells(directory: Path) -> Iterator[Bells]:
    with closing(Bells(str(directory))) as bells:
        yield bells


def wakes(bells: Bells, seen: int) -> bool:
    """Whether a wait that began with ``seen`` returns long before its time."""
    began = time.monotonic()
    bells.wait(seen, PATIENCE_SECONDS)
    return time.monotonic() - began < PATIENCE_SECONDS / 2


def test_ring_wakes_all_listeners(directory: Path, bells: Bells) -> None:
    """One ring wakes every instance, on a path longer than a socket address too."""
    with closing(Bells(str(directory))) as other, closing(Bells(str(directory))) as ringer:
        seen = bells.rings(), other.rings()
        ringer.ring()
        assert wakes(bells, seen[0])
        assert wakes(other, seen[1])


def test_ring_before_the_wait_counts(directory: Path, bells: Bells) -> None:
    """What rang between ``rings`` and ``wait`` is not lost."""
    seen = bells.rings()
    bells.ring()
    assert wakes(bells, seen)


def test_several_threads_wait_at_one_bell(bells: Bells) -> None:
    """All waiting threads of one instance are woken by one ring."""
    seen, woken = bells.rings(), list[bool]()
    threads = [threading.Thread(target=lambda: woken.append(wakes(bells, seen))) for _ in range(4)]
    for thread in threads:
        thread.start()
    bells.ring()
    for thread in threads:
        thread.join()
    assert [True] * 4 == woken


def test_ringing_nobody_makes_nothing(directory: Path) -> None:
    """Without a listener there is not even a directory."""
    with closing(Bells(str(directory))) as bells:
        bells.ring()
    assert not directory.exists()


def test_ringing_never_waits(directory: Path, bells: Bells) -> None:
    """A listener that does not listen has a full queue soon; ringing goes on at its pace."""
    bells.rings()
    began = time.monotonic()
    with closing(Bells(str(directory))) as ringer:
        for _ in range(500):
            ringer.ring()
    assert time.monotonic() - began < PATIENCE_SECONDS / 2


def test_dead_bell_is_taken_down(directory: Path, bells: Bells) -> None:
    """A socket whose owner is gone is removed by the next ring; the living stay."""
    bells.rings()
    stale = Bells(str(directory))
    stale.rings()
    assert stale._bell is not None
    stale._bell.close()  # as the kernel does when its process dies
    assert 2 == len(list(directory.iterdir()))
    bells.ring()
    assert 1 == len(list(directory.iterdir()))
    stale.close()


def test_strange_files_are_left_alone(directory: Path, bells: Bells) -> None:
    """What is not a bell of ours is neither removed nor in the way."""
    seen = bells.rings()
    (directory / "a-file").write_text("precious")
    (directory / "a-folder").mkdir()
    bells.ring()
    assert wakes(bells, seen)
    assert "precious" == (directory / "a-file").read_text()


def test_bell_is_hung_up_again(directory: Path, bells: Bells) -> None:
    """Somebody cleared the directory away: the next look hangs the bell up anew."""
    bells.rings()
    shutil.rmtree(directory)
    seen = bells.rings()
    bells.ring()
    assert wakes(bells, seen)


def test_link_is_not_followed(directory: Path, tmp_path: Path) -> None:
    """A link in the directory's place gets no sockets."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    directory.symlink_to(elsewhere)
    with closing(Bells(str(directory))) as bells:
        bells.rings()
        bells.ring()
    assert [] == list(elsewhere.iterdir())


def test_close_ends_all_waits(bells: Bells) -> None:
    """Closing returns only when nobody listens any more, and everybody's wait has ended."""
    seen = bells.rings()
    threads = [threading.Thread(target=bells.wait, args=(seen, PATIENCE_SECONDS)) for _ in range(3)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    bells.close()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < PATIENCE_SECONDS / 2


@pytest.mark.slow
def test_store_without_bells_still_hints(tmp_path: Path) -> None:
    """Where no socket can be bound, a watch notices a change by its look once a second."""
    path = tmp_path / "store.db"
    Path(f"{path}.bells").write_text("in the way")
    with SQLiteStore(path) as store, SQLiteStore(path) as other:
        with store.watch("", store.list("", deadline=soon()).revision) as watch:
            timer = threading.Timer(0.05, put, (other, "a", b"1"))
            timer.start()
            hint = watch.next(PATIENCE_SECONDS)
            timer.join()
        assert isinstance(hint, Changed)
