"""``cnm lab shell``: a person's lab, on a terminal."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.kernel

SHELL = [sys.executable, "-m", "libcnm.cli", "lab", "shell"]
TYPED = b"cnm network create -d overlay multihost >/dev/null\nlab-vm-2 cnm network ls\nlab-vm-2 ip -br a\nexit 3\n"


def test_a_shell_has_cnm_and_a_command_for_each_host(tmp_path: Path) -> None:
    """What is made on the first host is listed on the second; the shell's status is ours; nothing stays."""
    env = {**os.environ, "SHELL": "/bin/sh", "TMPDIR": str(tmp_path)}
    terminal, inner = os.openpty()
    with subprocess.Popen(SHELL, stdin=inner, stdout=inner, stderr=inner, start_new_session=True, env=env) as process:
        os.close(inner)
        os.write(terminal, TYPED)
        shown = read_all(terminal)
    os.close(terminal)
    assert 3 == process.returncode, shown
    assert "This is lab-vm-1." in shown
    assert "multihost" in shown.split("NETWORK ID")[1]
    assert "192.168.33.12/24" in shown
    assert [] == list(tmp_path.iterdir())


def read_all(terminal: int) -> str:
    """Everything until the other side is closed, or nothing comes any more."""
    shown = b""
    while select.select([terminal], [], [], 30)[0]:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # EIO: nobody holds the other side
            break
        shown += data
    return shown.decode("utf-8", "replace")


def test_a_shell_needs_a_terminal() -> None:
    """A script is told what it wants instead, before anything is made."""
    done = subprocess.run(SHELL, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
    assert 2 == done.returncode
    assert "for scripts there is libcnm.lab" in done.stderr
