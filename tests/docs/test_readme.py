"""The README's Python examples are programs: each is run as it stands, in private namespaces of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
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
    assert (0, "") == (done.returncode, done.stderr)
    assert "1 received" in done.stdout


@pytest.mark.kernel
def test_the_first_example_can_be_run_again(tmp_path: Path) -> None:
    """Whatever went wrong in it the first time, here the ping: nothing of it is in the way."""
    own = f"Controller(state_dir={str(tmp_path / 'state')!r}, run_dir={str(tmp_path / 'run')!r})"
    example = EXAMPLES[0].replace("Controller()", own)
    failing = example.replace('["ping", "-c1", "db"]', '["ping", "-c1", "nobody"]')
    assert failing != example
    path = tmp_path / "example.py"
    path.write_text(
        f"{PRIVATELY}import subprocess\ntry:\n{textwrap.indent(failing, '    ')}\n"
        f"except subprocess.CalledProcessError:\n    print('failed')\n{example}",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, cwd=ROOT, timeout=50, check=False
    )
    assert (0, ["failed"]) == (done.returncode, [line for line in done.stdout.splitlines() if line == "failed"])
    assert "1 received" in done.stdout
