"""One run_dir for one installation, also when two processes open it at the same moment with different ones."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from libcnm.controller import run_dir
from libcnm.controller.repository import Repository
from libcnm.errors import Forbidden
from libcnm.kv.base import Store
from libcnm.kv.memory import MemoryStore
from libcnm.model.deadline import Deadline
from libcnm.system.files import Files

INSTALLATION = "a" * 64


def claim(store: Store, folder: Path) -> None:
    run_dir.claim(
        str(folder), Files(), Repository(store, "local"), INSTALLATION, "boot", Deadline.after(10, time.monotonic)
    )


@pytest.mark.parametrize(("second", "refused"), [("two", True), ("one", False)])
def test_of_two_at_once_one_has_it(tmp_path: Path, second: str, refused: bool) -> None:
    """The other is refused before anything is in its folder; with the same folder both have it."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    store = MemoryStore()
    others = [store.connect(on_effect=None)]

    def meanwhile(point: str) -> None:
        if point == "transact:before" and others:
            claim(others.pop(), tmp_path / second)

    first = store.connect(on_effect=meanwhile)
    if refused:
        with pytest.raises(Forbidden, match=r"is at work in .*two"):
            claim(first, tmp_path / "one")
    else:
        claim(first, tmp_path / "one")
    assert [f"{second}/installation"] == [str(one.relative_to(tmp_path)) for one in tmp_path.glob("*/*")]
    claim(store, tmp_path / second)
