"""A true other user of the machine: a uid that is not root's, no capability, and a checkout and a home of its own.

Elsewhere a root without capabilities stands in for an ordinary user, but that one still owns root's files, and the
kernel's answer to "who are you" is still 0. Here it is not.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
WORKER = str(Path(__file__).with_name("other_user_worker.py"))
OTHER = 12345  # an id needs no name: nothing may depend on an entry in passwd(5)

TELL = """
import runpy
def tell(name, *keys):
    for line in open(f"/proc/self/{name}"):
        if not keys or line.split(":")[0] in keys:
            print("told:", *line.split())
tell("status", "Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapAmb")
tell("uid_map")
runpy.run_path("examples/two_hosts.py", run_name="__main__")
tell("uid_map")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What git would give that user, without what was made in this one."""
    if Path("/proc/self/uid_map").read_text(encoding="ascii").split()[2] == "1":
        pytest.skip("becoming another user takes the machine's CAP_SETUID; this session is an ordinary user's already")
    home = tmp_path / "home"
    for name in ("libcnm", "examples", "tests"):
        shutil.copytree(ROOT / name, home / "libcnm" / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", home / "libcnm")
    (home / "tmp").mkdir()
    return home / "libcnm"


def as_other_user(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run this Python with these words as that user, in its checkout."""
    home = checkout.parent
    order = {
        "uid": OTHER,
        "home": str(home),
        "reach": sorted({sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix)}),
        "environment": {"PYTHONPATH": str(checkout), "TMPDIR": str(home / "tmp")},
        "argv": ["/usr/bin/env", "--chdir", str(checkout), sys.executable, *words],
    }
    started = ["unshare", "--mount", sys.executable, WORKER, json.dumps(order)]
    return subprocess.run(started, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50, check=False)


def test_two_hosts_of_an_ordinary_user_reach_each_other(checkout: Path) -> None:
    """The example: at first a uid without power, then the root of a user namespace of its own; nothing stays."""
    done = as_other_user(checkout, "-c", TELL)
    assert 0 == done.returncode, done.stdout + done.stderr
    ids, none = " ".join([str(OTHER)] * 4), "0" * 16
    assert [
        f"Uid: {ids}", f"Gid: {ids}", "Groups:", f"CapPrm: {none}", f"CapEff: {none}", f"CapAmb: {none}",
        f"0 0 {2**32 - 1}", f"0 {OTHER} 1",
    ] == [line.removeprefix("told: ") for line in done.stdout.splitlines() if line.startswith("told: ")]  # fmt: skip
    for shown in ("bytes from svc1.multihost", "bytes from svc2.multihost", ".4789: VXLAN, vni ", "ICMP echo reply"):
        assert shown in done.stdout
    assert "" == done.stderr
    assert [] == list((checkout.parent / "tmp").iterdir())


def test_the_tests_of_an_ordinary_user_run(checkout: Path) -> None:
    """A session of pytest enters its namespaces by itself and skips nothing; its files are the user's own."""
    test = "tests/kernel/test_lab.py::test_controllers_of_two_hosts_make_one_overlay"
    done = as_other_user(checkout, "-m", "pytest", test)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "= 1 passed in " in done.stdout
    assert {OTHER} == {path.stat().st_uid for path in checkout.parent.rglob("*")}
    assert [f"libcnm-tests-of-{OTHER}"] == [path.name for path in (checkout.parent / "tmp").iterdir()]


def test_an_ordinary_user_is_told_what_it_lacks(checkout: Path) -> None:
    """Outside of private namespaces: an error with a status, and where to go instead."""
    done = as_other_user(checkout, "-m", "libcnm.cli", "network", "ls")
    assert (5, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("cnm: this process may not change the network it is in: that takes CAP_NET_ADMIN")
    assert "\n     cnm changes this machine's network, which takes root; " in done.stderr
    assert "`cnm lab shell`" in done.stderr
