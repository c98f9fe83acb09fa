"""What the Makefile's targets do: find or make the environments, run the tools, say what happened.

    python3 tools/check.py test      lint, types, layers, and every test tier on every Python that is here
    python3 tools/check.py help      the other words

Checks run four at a time: CI has two cores, and tests that program a kernel wait a good deal. A check that passes is
one line; one that fails is printed whole. The last lines say what was not run, for want of a Python, and add up what
all the runs of pytest counted.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field

from bootstrap import CACHES, LOCK, PYENV, PYTHONS, ROOT, Environment, Stop, bootstrap, search_path

LIMIT = 900.0  # seconds for one check; a hang must end with its output, well before CI's own limit
NEWS = 60.0  # seconds of silence after which we say what is still running
AT_ONCE = 5
BYTECODE = ROOT / ".check" / "bytecode"
PORTABLE = ("unit", "conformance", "simulation")  # run on every Python
KERNEL = ("kernel", "cluster", "docs")  # on the oldest and the newest; in two halves, since they wait half of the time
CLOSING_LINE = re.compile(r"^=*\s*((?:\d+ [a-z]+(?:, )?)+) in [\d.]+s.*?=*$|^=*\s*no tests ran in .*$")


@dataclass
class Check:
    """One command that can fail, and what became of it."""

    name: str
    argv: list[str]
    is_pytest: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    status: int = -1
    output: str = ""

    def run(self, running: set[subprocess.Popen[bytes]]) -> Check:
        """Run it to its end or to the time limit, in a process session of its own, so that it can be ended whole."""
        started = time.monotonic()
        with tempfile.TemporaryFile() as log:
            child = subprocess.Popen(
                self.argv,
                cwd=ROOT,
                env={**_environment(), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            running.add(child)
            try:
                self.status = child.wait(LIMIT)
            except subprocess.TimeoutExpired:
                end(child)
                self.status = -1
            finally:
                running.discard(child)
            self.seconds = time.monotonic() - started
            log.seek(0)
            self.output = log.read().decode("utf-8", "replace")
        if self.status == -1:
            self.output += f"\n(ended after {LIMIT:g} s)\n"
        return self

    def closing_line(self) -> str:
        """Pytest's own last word."""
        found = [line for line in self.output.splitlines() if CLOSING_LINE.match(line)]
        return found[-1] if found else ""

    def notes(self) -> list[str]:
        """What a passed check should still tell: the skipped tests."""
        return [line for line in self.output.splitlines() if line.startswith("SKIPPED")] if self.is_pytest else []


def end(*children: subprocess.Popen[bytes]) -> None:
    """End checks with everything in their sessions: politely, so that tests tidy up, then for good."""
    for number, patience in ((signal.SIGINT, 15), (signal.SIGKILL, 5)):
        for child in children:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, number)
        deadline = time.monotonic() + patience
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.1, deadline - time.monotonic()))


def run_all(checks: Sequence[Check]) -> bool:
    """Run the checks, a few at a time in the given order, and report each as it ends; true when all passed."""
    running: set[subprocess.Popen[bytes]] = set()
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        futures: dict[Future[Check], str] = {pool.submit(check.run, running): check.name for check in checks}
        pending = set(futures)
        try:
            while pending:
                done, pending = wait(pending, timeout=NEWS, return_when=FIRST_COMPLETED)
                for future in done:
                    report(future.result())
                if not done:
                    say("still at it: " + ", ".join(futures[future] for future in pending if future.running()))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            end(*running)
            raise
    return all(check.status == 0 for check in checks)


def say(line: str) -> None:
    """One line for the person, at once."""
    print(line, flush=True)


def report(check: Check) -> None:
    """A line for a check that passed, everything for one that did not."""
    if check.status == 0:
        say(f"  ok   {check.name:<30} {check.seconds:6.1f} s  {check.closing_line().strip('= ')}")
        for note in check.notes():
            say(f"         {note}")
    else:
        say(f"FAILED {check.name}: {' '.join(check.argv)}\n{check.output.rstrip()}\n")


# --- which checks there are


def folders_with_python() -> list[str]:
    """Those of the tree's folders that hold Python; mypy refuses empty ones."""
    return [name for name in ("libcnm", "tools", "tests", "examples", "bench") if any((ROOT / name).rglob("*.py"))]


def lint_checks(environment: Environment) -> list[Check]:
    """Style, types and layers, all on the oldest Python."""
    tool = environment.path / "bin"
    return [
        Check("ruff check", [str(tool / "ruff"), "check", "--quiet", *folders_with_python()]),
        Check("ruff format", [str(tool / "ruff"), "format", "--diff", "--quiet", *folders_with_python()]),
        Check("import-linter", [str(tool / "lint-imports")], environment={"NO_COLOR": "1"}),
        Check("mypy --strict", [str(tool / "mypy"), "--no-error-summary", *folders_with_python()]),
    ]


def pytest_check(
    environment: Environment,
    tiers: Sequence[str] = PORTABLE,
    *,
    part: int | None = None,
    whole: bool = True,
    arguments: Sequence[str] = (),
) -> Check:
    """One run of pytest, of every second file if a ``part`` (0 or 1) is given. Each has a cache of its own, because
    several run at once.

    Not ``whole``: every test, but the exhaustive ones try every eighth case only, and properties a fourth of their
    examples. Once is enough for those.
    """
    files = {tier: sorted((ROOT / "tests" / tier).rglob("test_*.py")) for tier in tiers}
    places = [f"tests/{tier}" for tier in tiers if files[tier]]
    if part is not None:
        places = [str(path.relative_to(ROOT)) for tier in tiers for path in files[tier]][part::2]
    half = "" if part is None else f", half {part + 1}"
    cache = f"cache_dir=.pytest_cache/{environment.version}-{tiers[0]}{'' if part is None else part}"
    return Check(
        f"pytest on Python {environment.version} ({', '.join(tiers)}{half})",
        [str(environment.python), "-m", "pytest", "-o", cache, *places, *arguments],
        is_pytest=True,
        environment={} if whole else {"LIBCNM_EFFORT": "brief"},
    )


def summary(checks: Sequence[Check]) -> str:
    """All runs of pytest added up, in the words that readers of test results look for."""
    total: Counter[str] = Counter()
    for check in checks:
        for number, word in re.findall(r"(\d+) ([a-z]+)", check.closing_line().split(" in ")[0]):
            total[{"errors": "failed", "error": "failed"}.get(word, word)] += int(number)
    line = f"Total: {total['passed']} passed, {total['failed']} failed"
    return f"{line}, {total['skipped']} skipped" if total["skipped"] else line


def not_run(environments: Sequence[Environment]) -> str:
    """What supported Pythons would have run if they were here, and why they have not; empty when they have."""
    here = {environment.version for environment in environments}
    absent = [version for version in PYTHONS if version not in here]
    if not absent:
        return ""
    tiers = f"{', '.join(PORTABLE[:-1])} and {PORTABLE[-1]}"
    return f"{tiers} on Python {', '.join(absent)}: no such interpreter, neither on PATH nor below {PYENV}"


def skips_are_failures() -> bool:
    """In CI, as root: nothing keeps such a machine from having all that the tests need. As in tests/conftest.py."""
    return os.environ.get("CI") == "true" and os.geteuid() == 0


def _environment() -> dict[str, str]:
    """For what is run. Whoever wants no bytecode beside the sources still wants each of the tests' many short processes
    to start quickly: half of the time that takes is compiling.
    """
    environment = {**os.environ, "PATH": search_path()}
    if environment.pop("PYTHONDONTWRITEBYTECODE", ""):
        environment["PYTHONPYCACHEPREFIX"] = str(BYTECODE)
    return environment


# --- the words of the command line


def test() -> int:
    """Everything that CI asks: lint, types, layers, and all tests on every supported Python that is here."""
    environments = bootstrap(dev=True)
    oldest, *others = environments
    ends = dict.fromkeys((oldest, environments[-1]))
    # The longest first, and those that mostly wait beside those that compute: so the last to end is a short one.
    tests = [
        *(pytest_check(each, KERNEL, part=1, whole=each == oldest) for each in ends),
        pytest_check(oldest),
        *(pytest_check(each, KERNEL, part=0, whole=each == oldest) for each in ends),
        *(pytest_check(each, whole=False) for each in others),
    ]
    checks = [*lint_checks(environments[0]), *tests]
    run_all(checks)
    for check in tests:
        say(check.closing_line())
    failed = [check.name for check in checks if check.status]
    absent = not_run(environments)
    if absent and skips_are_failures():
        failed.append(absent)
    elif absent:
        say(f"skipped: {absent}")
    if failed:
        say(f"failed: {'; '.join(failed)}")
    say(summary(tests))
    return 1 if failed else 0


def lint() -> int:
    """Style, types and layers."""
    return 0 if run_all(lint_checks(bootstrap(dev=True)[0])) else 1


def tidy_up() -> int:
    """Format the code and mend what ruff can mend."""
    tool = str(bootstrap(dev=True)[0].path / "bin" / "ruff")
    fixed = run_here([tool, "check", "--fix-only", "--quiet", *folders_with_python()])
    return run_here([tool, "format", *folders_with_python()]) or fixed


def unit() -> int:
    """The tiers that need no privilege, on the oldest Python, in the foreground."""
    check = pytest_check(bootstrap(dev=True)[0], arguments=["-m", "not kernel and not slow"])
    return run_here(check.argv)


def demo() -> int:
    """The main job, told step by step: two hosts, one overlay network, names that answer, proven by ping."""
    return run_here([str(bootstrap(dev=False)[0].path / "bin" / "cnm"), "lab", "demo"])


def bench() -> int:
    """Measurements side by side, as ratios within one run: every program of bench/, one after the other."""
    python = str(bootstrap(dev=True)[0].python)
    programs = sorted(path for path in (ROOT / "bench").glob("*.py") if not path.name.startswith("_"))
    return max([run_here([python, str(program)]) for program in programs], default=0)


def soak() -> int:
    """Conformance and simulation again and again with many more examples, until a failure or Ctrl-C."""
    check = pytest_check(bootstrap(dev=True)[0], arguments=["-x", "-q", "-o", "timeout=0"])
    os.environ["HYPOTHESIS_PROFILE"] = "soak"
    while (status := run_here([argument for argument in check.argv if argument != "tests/unit"])) == 0:
        say("soak: one more round")
    return status


def clean() -> int:
    """Remove what the other words made: environments, caches, logs."""
    made = [*ROOT.glob(".venv*"), *(ROOT / name for name in CACHES), *ROOT.glob("*.egg-info"), ROOT / LOCK]
    for name in ("libcnm", "tests", "tools", "examples", "bench"):
        made += (ROOT / name).rglob("__pycache__")
    for path in made:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(FileNotFoundError, PermissionError):
                path.unlink()
    left = [str(path.relative_to(ROOT)) for path in made if path.exists()]
    if left:
        say(f"not removed, another user (root?) has made it: {', '.join(left)}")
    return 1 if left else 0


def show_help() -> int:
    """This list."""
    for word, action in WORDS.items():
        say(f"make {word:<8} {(action.__doc__ or '').strip()}")
    return 0


WORDS: dict[str, Callable[[], int]] = {
    "demo": demo,
    "test": test,
    "lint": lint,
    "format": tidy_up,
    "unit": unit,
    "bench": bench,
    "soak": soak,
    "clean": clean,
    "help": show_help,
}


def run_here(argv: Sequence[str]) -> int:
    """Run a command in the foreground, on this terminal, and give back its status."""
    return subprocess.run(argv, cwd=ROOT, env=_environment(), check=False).returncode


def main() -> int:
    """Find the word and do it."""
    word = sys.argv[1] if len(sys.argv) > 1 else "help"
    if word not in WORDS:
        say(f"no such word: {word}")
        return show_help() or 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a CI that gives up ends us as a person would: whole
    try:
        return WORDS[word]()
    except Stop as stop:
        say(f"bootstrap: {stop}")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
