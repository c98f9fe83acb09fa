"""What ``make`` says about what it could not run: nothing is left out silently, and in CI nothing at all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
TEST = """
import sys
import check
from bootstrap import Environment, ROOT
check.bootstrap = lambda dev: [Environment(version, ROOT) for version in sys.argv[1:]]
check.lint_checks = lambda environment: []
check.pytest_check = lambda environment, *tiers, **options: check.Check(
    f"pytest on {environment.version}", [sys.executable, "-c", "print('=== 3 passed in 0.1s ===')"], is_pytest=True)
sys.exit(check.test())
"""


def make_test(*versions: str, ci: bool) -> tuple[int, list[str]]:
    """Its status and last lines, with these Pythons at hand and checks that pass at once."""
    env = {**os.environ, "PYTHONPATH": str(TOOLS), "CI": "true" if ci else "", "PYENV_ROOT": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", TEST, *versions], env=env, capture_output=True, text=True, timeout=50, check=False
    )
    return done.returncode, done.stdout.splitlines()[runs(versions) :]


def runs(versions: Sequence[str]) -> int:
    """The portable tiers on each Python, the others on the oldest and the newest, in two halves."""
    return len(versions) + 2 * len({versions[0], versions[-1]})


ABSENT = (
    "unit, conformance and simulation on Python 3.12, 3.13: no such interpreter, neither on PATH nor below /nowhere"
)


@pytest.mark.parametrize(
    ("versions", "ci", "status", "said"),
    [
        (["3.11", "3.12", "3.13"], True, 0, []),
        (["3.11"], False, 0, [f"skipped: {ABSENT}/versions"]),
        (["3.11"], True, 1, [f"failed: {ABSENT}/versions"]),
    ],
)
def test_a_missing_python_is_named_at_the_end(versions: list[str], ci: bool, status: int, said: list[str]) -> None:
    """After pytest's closing lines, with the reason. In CI, as root, it is a failure like any other skip."""
    if os.geteuid() != 0:
        pytest.skip("the session is root only where it could enter namespaces")
    found, lines = make_test(*versions, ci=ci)
    closing = ["=== 3 passed in 0.1s ==="] * runs(versions)
    assert (status, [*closing, *said, f"Total: {3 * runs(versions)} passed, 0 failed"]) == (found, lines)
