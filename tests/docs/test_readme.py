"""The README's Python examples are programs: each is run as it stands, in private namespaces of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
PRIVATELY = "from libcnm.system.userns import enter_private_namespaces\nenter_private_namespaces()\n"


def test_there_are_examples() -> None:
    """One host and two hosts."""
    assert 2 == len(EXAMPLES)


@pytest.mark.kernel
@pytest.mark.parametrize("example", EXAMPLES, ids=["one host", "two hosts"])
def test_an_example_of_the_readme_runs(example: str, tmp_path: Path) -> None:
    """Copied from the page into a file, it does what it says. Only where the state is kept is the test's own."""
    assert "Controller()" in example or "Lab(" in example
    own = f"Controller(state_dir={str(tmp_path / 'state')!r}, run_dir={str(tmp_path / 'run')!r})"
    path = tmp_path / "example.py"
    path.write_text(PRIVATELY + example.replace("Controller()", own), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, cwd=ROOT, timeout=50, check=False
    )
    assert (0, "") == (done.returncode, done.stderr.replace("\n", "") and _expected(done.stderr))
    assert "1 received" in done.stdout


def _expected(stderr: str) -> str:
    """What is on stderr beside the announced change of a host-wide setting."""
    return "\n".join(line for line in stderr.splitlines() if not line.startswith("host setting "))
