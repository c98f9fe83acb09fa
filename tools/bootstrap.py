"""Make this clone ready to use: virtual environments for the project, and, as root, the few Debian packages it needs.

Run by whatever python3 (3.11 or newer) the machine has, so it uses the standard library alone. It does nothing when
nothing is missing: an environment is remade only when the tables of ``pyproject.toml`` that say what goes into it have
changed, and apt is asked only when a command is absent. What cannot be had is named, with what will be skipped for it.

    python3 tools/bootstrap.py          the oldest supported Python, with what `cnm` needs    (.venv)
    python3 tools/bootstrap.py --dev    every supported Python that is here, with the tools   (.venv, .venv-3.12, ...)
"""

from __future__ import annotations

import argparse
import fcntl
import glob
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
PYENV = os.path.join(os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv")), "versions")
STAMP = "libcnm-stamp.json"
LOCK = ".bootstrap.lock"
CACHES = (".check", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".import_linter_cache", ".hypothesis")


@dataclass(frozen=True)
class Command:
    """A program of the operating system that we run: the Debian package it is in, and what is lost without it."""

    name: str
    package: str
    reason: str


FOR_USE = (
    Command("ip", "iproute2", "the demo shows `ip a`, `ip neigh` and `bridge fdb`; tests read the kernel back with it"),
    Command("ping", "iputils-ping", "the demo and the kernel tests ping by address and by name"),
    Command("nft", "nftables", "the demo flushes the ruleset; golden tests compare with `nft list ruleset`"),
)
FOR_TESTS = (
    *FOR_USE,
    Command("setpriv", "util-linux", "tests run the ordinary user's way as root, and enter namespaces with nsenter"),
    Command("ps", "procps", "process tests"),
    Command("strace", "strace", "the count of effects per verb is compared with the system calls"),
    Command("tcpdump", "tcpdump", "an independent reader of the pcap files that the capture writes"),
)


class Stop(Exception):
    """Bootstrapping cannot go on; the message says what to do."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment of this clone: which Python, and where."""

    version: str
    path: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.path / "bin" / "python"


def say(message: str) -> None:
    """Tell the person what is going on; standard error, so that standard output stays a command's own."""
    print(message, file=sys.stderr, flush=True)


# --- interpreters


@dataclass(frozen=True)
class Interpreter:
    """A Python that was run and answered."""

    version: str
    path: Path
    has_ensurepip: bool


_PROBE = (
    "import importlib.util, sys; print('%d.%d' % sys.version_info[:2], "
    "getattr(sys, '_base_executable', sys.executable), int(importlib.util.find_spec('ensurepip') is not None))"
)


def _probe(candidate: str) -> Interpreter | None:
    try:  # a shim of pyenv exists for every version, and fails for those that are not selected: only running it tells
        done = subprocess.run([candidate, "-c", _PROBE], capture_output=True, text=True, timeout=30, check=True)
        version, path, ensurepip = done.stdout.split()
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return Interpreter(version, Path(path), ensurepip == "1")


def find_interpreter(version: str) -> Interpreter | None:
    """The best interpreter of that version: on PATH or among pyenv's, one that can make environments first."""
    named = [shutil.which(f"python{version}"), shutil.which("python3"), sys.executable]
    pyenv = sorted(glob.glob(f"{PYENV}/{version}.*/bin/python{version}"), reverse=True)
    found = []
    for candidate in dict.fromkeys([*filter(None, named), *pyenv]):
        interpreter = _probe(candidate)
        if interpreter is not None and interpreter.version == version:
            if interpreter.has_ensurepip:
                return interpreter
            found.append(interpreter)
    return found[0] if found else None


def find_oldest_interpreter(wanted: Sequence[str] = PYTHONS) -> Interpreter:
    """The oldest of the supported Pythons that is here: enough for those who only use libcnm."""
    for version in wanted:
        interpreter = find_interpreter(version)
        if interpreter is not None:
            return interpreter
    raise _no_interpreter(wanted)


def _no_interpreter(wanted: Sequence[str]) -> Stop:
    return Stop(f"none of Python {', '.join(wanted)} found; on Debian: apt-get install python3 python3-venv")


def find_interpreters(wanted: Sequence[str] = PYTHONS) -> list[Interpreter]:
    """Those of the supported Pythons that are here, oldest first; the absent ones are named.

    They are not fetched: Debian 12 packages 3.11 alone, and whatever else brings one builds it from sources or has it
    from a place of its own.
    """
    found = {version: find_interpreter(version) for version in wanted}
    absent = [version for version, interpreter in found.items() if interpreter is None]
    if absent:
        say(f"bootstrap: no Python {', '.join(absent)} on PATH or in pyenv: its tests are skipped")
    here = [interpreter for interpreter in found.values() if interpreter is not None]
    if not here:
        raise _no_interpreter(wanted)
    return here


# --- Debian packages


def search_path() -> str:
    """PATH, with the system directories that Debian leaves out of an ordinary user's."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def _apt_install(packages: Sequence[str]) -> None:
    say(f"bootstrap: apt-get install {' '.join(packages)}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        done = subprocess.run(
            ["apt-get", *arguments], env=quiet, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Stop(f"apt-get {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


def ensure_commands(commands: Sequence[Command]) -> None:
    """Install the packages of the missing commands (root on Debian), or name them with what is lost."""
    missing = [command for command in commands if shutil.which(command.name, path=search_path()) is None]
    if not missing:
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        _apt_install(sorted({command.package for command in missing}))
        return
    for command in missing:
        say(f"bootstrap: no `{command.name}` (Debian package {command.package}); skipped without it: {command.reason}")


def _ensure_ensurepip(interpreter: Interpreter) -> None:
    if interpreter.has_ensurepip:
        return
    package = f"python{interpreter.version}-venv"
    if os.geteuid() == 0 and shutil.which("apt-get"):
        _apt_install([package])
        return
    raise Stop(f"{interpreter.path} cannot make virtual environments; as root: apt-get install {package}")


# --- environments


def _ingredients() -> tuple[str, list[str]]:
    """The hash of all that decides what an environment holds, and the requirements of the ``dev`` group.

    The group's list is read here because the pip of Debian 12 does not know dependency groups.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    parts = {table: project.get(table) for table in ("build-system", "project", "dependency-groups")}
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest(), list(project["dependency-groups"]["dev"])


def _is_current(environment: Environment, stamp: dict[str, object], *, dev: bool) -> bool:
    try:
        found = json.loads((environment.path / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    with_enough = found.pop("dev", False) or not dev
    return bool(found == stamp and with_enough and os.access(environment.python, os.X_OK))


def _run_pip(environment: Environment, arguments: Sequence[str]) -> None:
    pip = [str(environment.python), "-m", "pip", "--disable-pip-version-check", "--no-input", "-qq"]
    done = subprocess.run(
        [*pip, *arguments], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Stop(f"pip install failed in {environment.path.name}; is the package index reachable?\n{done.stderr}")


def _make(interpreter: Interpreter, environment: Environment, *, dev: bool) -> None:
    """Bring one environment up to date; cheap when it is."""
    ingredients, tools = _ingredients()
    stamp: dict[str, object] = {"ingredients": ingredients, "python": str(interpreter.path), "root": str(ROOT)}
    if _is_current(environment, stamp, dev=dev):
        return
    say(f"bootstrap: Python {interpreter.version} -> {environment.path.name}")
    existing = _probe(str(environment.python))
    if existing is None or existing.path != interpreter.path or not (environment.path / STAMP).exists():
        _ensure_ensurepip(interpreter)
        shutil.rmtree(environment.path, ignore_errors=True)
        made = subprocess.run(
            [interpreter.path, "-m", "venv", environment.path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise Stop(f"{interpreter.path} -m venv {environment.path.name} failed:\n{made.stdout}{made.stderr}")
    wanted = ["-e", ".[cli,testing]", *tools] if dev else ["-e", ".[cli]"]
    # Most of what the tools bring is never imported; what is, Python compiles then.
    _run_pip(environment, ["install", "--upgrade", "--no-compile", *wanted])
    (environment.path / STAMP).write_text(json.dumps({**stamp, "dev": dev}), encoding="utf-8")


def _refuse_what_is_not_ours(*, dev: bool) -> None:
    """What another user has made in this clone, mostly root, stops us or the tools later: say so before we try."""
    if not os.access(ROOT, os.W_OK):
        raise Stop(f"{ROOT} is not writable for uid {os.geteuid()}; make a clone that is yours")
    folders = [folder for name in CACHES if dev for folder, _, _ in os.walk(ROOT / name)]
    for path in (ROOT / LOCK, *ROOT.glob(".venv*"), *map(Path, folders)):
        if path.exists() and not os.access(path, os.W_OK):
            owner = path.stat().st_uid
            maker = "root" if owner == 0 else f"uid {owner}"
            name = path.relative_to(ROOT)
            raise Stop(f"{name} was made by {maker}, and you are uid {os.geteuid()}; as {maker}, once: make clean")


@contextmanager
def _alone() -> Iterator[None]:
    """One bootstrap at a time: two `make` side by side would tear at the same environment."""
    with (ROOT / LOCK).open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def bootstrap(*, dev: bool) -> list[Environment]:
    """Make everything ready and say where it is, oldest Python first. The oldest lives in ``.venv``."""
    _refuse_what_is_not_ours(dev=dev)
    with _alone():
        ensure_commands(FOR_TESTS if dev else FOR_USE)
        interpreters = find_interpreters() if dev else [find_oldest_interpreter()]
        folders = [".venv", *(f".venv-{interpreter.version}" for interpreter in interpreters[1:])]
        environments = [
            Environment(interpreter.version, ROOT / folder)
            for interpreter, folder in zip(interpreters, folders, strict=True)
        ]
        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(partial(_make, dev=dev), interpreters, environments))  # list(): raise what a worker raised
    return environments


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make this clone ready to use.")
    parser.add_argument("--dev", action="store_true", help="every supported Python, with the development tools")
    try:
        for environment in bootstrap(dev=parser.parse_args().dev):
            print(f"{environment.version} {environment.python}")
    except Stop as stop:
        say(f"bootstrap: {stop}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
