"""The whole test session: private namespaces, what may be skipped, and what must not be left behind.

The "host" of every test is a private namespace, entered before anything else: no test can touch the machine. Fixtures
for single tests come from :mod:`libcnm.testing.plugin`; here is only what concerns the session.
"""

from __future__ import annotations

import gc
import os
import resource
import shutil
import tempfile
import threading
import time
from pathlib import Path

import hypothesis
import pytest

from libcnm.errors import CnmError
from libcnm.kernel.linux import syscalls
from libcnm.system.userns import enter_private_namespaces
from libcnm.testing.snapshot import SESSION_MARK, Difference, Snapshot, difference

HERE = Path(__file__).parent
KNOWN_LEFTOVERS = HERE / "known_leftovers.txt"
WATCHED = ("/run/libcnm*/**", "/run/netns/**", "/var/lib/libcnm*/**")
PATIENCE = 5.0  # seconds for detached processes to notice that their work is over
NEEDS_NAMESPACES = ("kernel", "cluster")
PROGRAMS = {"ip": "iproute2", "ping": "iputils-ping", "nft": "nftables", "setpriv": "util-linux"}
"""What those tests run throughout, and the Debian package of each: nothing can install it for an ordinary user."""
OUTER_UID = os.geteuid()  # asked before namespaces make everybody root
MEMORY = 4 << 30  # bytes; a test that runs away gets a MemoryError instead of the whole machine
SKIPS_ARE_FAILURES = os.environ.get("CI") == "true" and OUTER_UID == 0

hypothesis.settings.register_profile("default", deadline=None)  # a busy machine is no failure
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("soak", deadline=None, max_examples=2_000)
BRIEF = os.environ.get("LIBCNM_EFFORT") == "brief"


@pytest.fixture
def stride() -> int:
    """Exhaustive tests try every ``stride``-th case: each one on one Python, every eighth on the others."""
    return 8 if BRIEF else 1


def pytest_configure(config: pytest.Config) -> None:
    os.environ["PATH"] += (
        ":/usr/sbin:/sbin"  # Debian leaves them out of an ordinary user's, and `ip` and `nft` are there
    )
    profile = "ci" if os.environ.get("CI") == "true" else "default"
    hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", profile))
    if BRIEF:
        chosen = hypothesis.settings()
        hypothesis.settings.register_profile("brief", chosen, max_examples=chosen.max_examples // 4)
        hypothesis.settings.load_profile("brief")
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY if most == resource.RLIM_INFINITY else min(MEMORY, most), most))
    config.pluginmanager.register(WholeSession(), "libcnm-whole-session")


class WholeSession:
    """The hooks of one session: it moves away from the machine, then watches what is skipped and what is left."""

    def __init__(self) -> None:
        os.environ[SESSION_MARK] = f"{os.getpid()}-{time.monotonic_ns()}"
        self.no_kernel = self._move_away() or self._missing_programs()
        self.outer_temporary, self.temporary = self._separate_temporary_files()
        if self.no_kernel is None:  # fake hosts make very many small files; those of tmp_path stay on a disk
            syscalls.mount("tmpfs", self.temporary, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV)
        self.before: Snapshot | None = None
        self.left_behind = Difference((), ())
        self.skipped: dict[str, str] = {}

    @staticmethod
    def _move_away() -> str | None:
        """Enter private namespaces; if that is impossible here, the reason."""
        try:
            enter_private_namespaces()
        except CnmError as error:
            return str(error)
        return None

    @staticmethod
    def _missing_programs() -> str | None:
        missing = [f"`{name}` (Debian package {package})" for name, package in PROGRAMS.items()
                   if shutil.which(name) is None]  # fmt: skip
        return f"no {', '.join(missing)} on this machine" if missing else None

    @staticmethod
    def _separate_temporary_files() -> tuple[str, str]:
        """Give this session and its children a folder of their own, so that leftovers can be told from others'.

        pytest's own folders stay outside: they are kept on purpose, to look at after a failure. They need a name that
        says who we are, because to pytest everybody is root by now.
        """
        outer = tempfile.gettempdir()
        kept = Path(outer, f"libcnm-tests-of-{OUTER_UID}")
        kept.mkdir(mode=0o700, exist_ok=True)
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(kept))
        inner = tempfile.mkdtemp(prefix="cnm-")
        os.environ["TMPDIR"] = tempfile.tempdir = inner
        return outer, inner

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Everything below tests/kernel is a kernel test; where there is no kernel to test on, say why."""
        for item in items:
            folder = item.path.relative_to(HERE).parts[0] if item.path.is_relative_to(HERE) else ""
            if folder in NEEDS_NAMESPACES:
                item.add_marker(folder)
            if self.no_kernel and any(map(item.get_closest_marker, NEEDS_NAMESPACES)):
                item.add_marker(pytest.mark.skip(reason=self.no_kernel))

    def pytest_collection_finish(self) -> None:
        """All imports are done and no test has run: what is here now was not left by a test."""
        self.before = self._picture()

    def _picture(self) -> Snapshot:
        return Snapshot.take([*WATCHED, f"{self.temporary}/**"])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note_skip(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note_skip(report)

    def _note_skip(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            where = report.longrepr
            self.skipped[report.nodeid] = where[2] if isinstance(where, tuple) else str(where)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """After the last fixture is gone: compare, and turn the session red if it was not before."""
        if self.before is not None:
            self.left_behind = self._leftovers(self.before)
        if session.exitstatus == pytest.ExitCode.OK and (self.left_behind or self._forbidden_skips()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _leftovers(self, before: Snapshot) -> Difference:
        known = known_leftovers()
        deadline = time.monotonic() + PATIENCE
        while True:
            gc.collect()  # what only garbage holds open is not a leak
            left = difference(before, self._picture()).without(known)
            if not left or time.monotonic() > deadline:
                return left
            threading.Event().wait(0.05)

    def _forbidden_skips(self) -> dict[str, str]:
        return self.skipped if SKIPS_ARE_FAILURES else {}

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.left_behind:
            terminalreporter.section("left behind by the whole session", red=True)
            terminalreporter.write_line(str(self.left_behind))
            terminalreporter.write_line(
                f"(what is meant to stay is listed, with its reason, in {KNOWN_LEFTOVERS.name})"
            )
        if self._forbidden_skips():
            terminalreporter.section("skipped, although CI runs as root", red=True)
            for test, reason in self.skipped.items():
                terminalreporter.write_line(f"{test}: {reason}")

    def pytest_unconfigure(self) -> None:
        os.environ["TMPDIR"] = tempfile.tempdir = self.outer_temporary
        if self.no_kernel is None:
            syscalls.umount(self.temporary)
        shutil.rmtree(self.temporary, ignore_errors=True)


def known_leftovers() -> list[str]:
    """The patterns of the written list."""
    lines = KNOWN_LEFTOVERS.read_text(encoding="utf-8").splitlines()
    return [line for line in map(str.strip, lines) if line and not line.startswith("#")]
