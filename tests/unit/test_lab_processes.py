"""The residents of a lab's hosts are asked to end within the lab's time, whatever state they are in."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from libcnm.lab.processes import stop_residents
from libcnm.model.deadline import Deadline


def test_one_that_takes_no_connection_is_told_of(tmp_path: Path) -> None:
    """It is stopped and its backlog full: its path comes back, so that it is killed instead; no error, no waiting."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stopped:
        stopped.bind(path)
        stopped.listen(0)
        waiting = []
        try:
            while True:
                waiting.append(one := socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                one.setblocking(False)
                one.connect(path)
        except BlockingIOError:
            pass
        try:
            assert [path] == stop_residents([path], Deadline.after(0.05, time.monotonic))
        finally:
            for one in waiting:
                one.close()


def test_one_that_is_not_there_has_ended(tmp_path: Path) -> None:
    """Nothing to wait for, nothing to kill."""
    assert [] == stop_residents([str(tmp_path / "s"), str(tmp_path / "none" / "s")], Deadline.after(5, time.monotonic))
