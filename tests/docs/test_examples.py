"""The examples, run as a newcomer runs them: as they are, from the command line, as root and without its powers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHOWS = {
    "two_containers": ["bytes from db.blue", "bytes from web.blue", "published as 127.0.0.1:8080:80/tcp"],
    "two_hosts": ["bytes from svc1.multihost", "bytes from svc2.multihost", ".4789: VXLAN, vni ", "ICMP echo reply"],
    "own_driver": ["missing: plug host lan/db", "Plug(socket='lan/db')", "- plug host lan/db"],
    "own_namespace": ["eth0@", "10.89.0.2/24", "bytes from app.blue (fd89::"],
}
POWERLESS = ["setpriv", "--bounding-set=-sys_admin,-net_admin", "--inh-caps=-sys_admin,-net_admin"]
"""Root in name only: the kernel refuses it as it refuses an ordinary user, and it can still read this interpreter."""


def test_every_example_is_run_here() -> None:
    """None is forgotten."""
    assert set(SHOWS) == {path.stem for path in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("name", SHOWS)
def test_an_example_fits_on_a_screen(name: str) -> None:
    """Under 60 lines, and its first line says what it shows."""
    lines = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 60
    assert lines[0].startswith('"""')


@pytest.mark.kernel
@pytest.mark.parametrize("prefix", [[], POWERLESS], ids=["root", "powerless"])
@pytest.mark.parametrize("name", SHOWS)
def test_an_example_does_what_it_says(name: str, prefix: list[str], tmp_path: Path) -> None:
    """It ends well, shows what it is about, and leaves no file behind."""
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*prefix, sys.executable, str(EXAMPLES / f"{name}.py")],
        capture_output=True,
        text=True,
        timeout=45,
        cwd=tmp_path,
        env=env,
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    assert [] == [wanted for wanted in SHOWS[name] if wanted not in done.stdout]
    assert "Traceback" not in done.stderr
    assert [] == list(tmp_path.iterdir())
