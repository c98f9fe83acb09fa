"""The resident's log: for its user's eyes only, appended to, bounded, and never written through a link."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from libcnm.controller.resident_main import ResidentLog, level_named


@contextmanager
def log(path: Path, octets: int = 1 << 20) -> Iterator[Callable[[str], None]]:
    handler = ResidentLog(str(path), octets)

    def write(text: str) -> None:
        handler.handle(logging.makeLogRecord({"msg": text}))

    try:
        yield write
    finally:
        handler.close()


def test_only_its_user_reads_it(tmp_path: Path) -> None:
    """Mode 0600, whatever the umask and whatever it was; what an earlier resident wrote stays."""
    path = tmp_path / "resident.log"
    path.write_text("earlier\n")
    path.chmod(0o644)
    before = os.umask(0)
    try:
        with log(path) as write:
            write("later")
    finally:
        os.umask(before)
    assert (0o600, "earlier\nlater\n") == (stat.S_IMODE(path.stat().st_mode), path.read_text())


def test_two_residents_do_not_overwrite_each_other(tmp_path: Path) -> None:
    """A successor opens it while its predecessor still writes: each line goes to the end."""
    path = tmp_path / "resident.log"
    with log(path) as one, log(path) as other:
        for number in range(3):
            one(f"one {number}")
            other(f"other {number}")
    assert [f"{who} {number}" for number in range(3) for who in ("one", "other")] == path.read_text().splitlines()


def test_it_is_not_written_through_a_link(tmp_path: Path) -> None:
    """The link goes, what it led to stays as it was."""
    target = tmp_path / "precious"
    target.write_text("mine")
    (tmp_path / "resident.log").symlink_to(target)
    with log(tmp_path / "resident.log") as write:
        write("text")
    assert ("mine", "text\n") == (target.read_text(), (tmp_path / "resident.log").read_text())
    assert not (tmp_path / "resident.log").is_symlink()


def test_a_pipe_in_its_place_stops_nobody(tmp_path: Path) -> None:
    """Opening a pipe that nobody reads would wait for ever."""
    os.mkfifo(tmp_path / "resident.log")
    with log(tmp_path / "resident.log") as write:
        write("text")
    assert "text\n" == (tmp_path / "resident.log").read_text()


def test_it_is_bounded(tmp_path: Path) -> None:
    """Two files of about the size asked for, the newest lines in them, both private; a link in place of the second is
    replaced, not followed.
    """
    path, target = tmp_path / "resident.log", tmp_path / "precious"
    target.write_text("mine")
    (tmp_path / "resident.log.1").symlink_to(target)
    with log(path, 1000) as write:
        for number in range(1000):
            write(f"line {number:04}")
    files = [tmp_path / "resident.log.1", path]
    assert {"precious", "resident.log", "resident.log.1"} == set(os.listdir(tmp_path))
    assert all(file.stat().st_size <= 1010 for file in files)
    assert [0o600, 0o600] == [stat.S_IMODE(file.lstat().st_mode) for file in files]
    lines = [line for file in files for line in file.read_text().splitlines()]
    assert [f"line {number:04}" for number in range(1000 - len(lines), 1000)] == lines
    assert "mine" == target.read_text()


def test_a_folder_that_has_gone_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lab's folder goes before its resident does: there is nothing to write to, and nothing to fail at."""
    monkeypatch.setattr(logging, "raiseExceptions", False)  # it would print what it could not write
    (tmp_path / "run").mkdir()
    with log(tmp_path / "run" / "resident.log", 10) as write:
        write("a line that fills it")
        (tmp_path / "run" / "resident.log").unlink()
        (tmp_path / "run").rmdir()
        write("another")
        write("and another")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_why_it_did_not_start_is_in_it(tmp_path: Path) -> None:
    """Who started it is told to look there: so the reason is there, whatever it is."""
    config: dict[str, object] = {
        "state_dir": str(tmp_path / "state"),
        "run_dir": str(tmp_path / "run"),
        "cluster_store": "nosuch://store",
        "host": "h1",
        "advertise": None,
        "default_host_ips": [],
        "guardian": None,
        "starting": 0,
    }
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "libcnm.controller.resident_main"],
        input=json.dumps(config) + "\n",
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (1, "") == (done.returncode, done.stdout)
    text = (tmp_path / "run" / "resident.log").read_text()
    assert "cannot start" in text
    assert "nosuch" in text


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("", logging.INFO),
        ("debug", logging.DEBUG),
        ("WARNING", logging.WARNING),
        ("verbose", logging.INFO),
        ("7", logging.INFO),
    ],
)
def test_a_level_mistyped_costs_nobody_his_names(name: str, level: int) -> None:
    """What the environment says is for the log alone: the resident starts with whatever it is."""
    assert level == level_named(name)
