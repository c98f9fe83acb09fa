"""The tree, tested as data: what the house rules say and no linter checks. CONTRIBUTING.md says why."""

from __future__ import annotations

import ast
import inspect
import re
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "libcnm"
FOLDERS = ("libcnm", "tests", "tools", "examples", "bench")

FILE_LINES = 500
MEDIAN_LINES = 200
FUNCTION_LINES = 60


def python_files(*folders: str) -> Iterator[Path]:
    for folder in folders or FOLDERS:
        yield from sorted((ROOT / folder).rglob("*.py"))


def text_files() -> Iterator[Path]:
    yield from (path for path in sorted(ROOT.iterdir()) if path.suffix in (".md", ".toml") or path.name == "Makefile")
    yield from sorted((ROOT / ".ci").iterdir())
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in (".py", ".md", ".txt", ".toml", ".sh", ".nft", ".json"):
                yield path


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def at(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def calls(path: Path) -> Iterator[tuple[ast.Call, str]]:
    """Every call in a file, with the dotted name of what is called."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""


def test_files_are_small() -> None:
    """At most 500 lines, and half of the library's at most 200: one job each."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    assert [] == [at(path, length) for path, length in lengths.items() if length > FILE_LINES]
    in_library = [length for path, length in lengths.items() if path.is_relative_to(LIBRARY) and length]
    assert statistics.median(in_library) <= MEDIAN_LINES


def test_functions_are_short() -> None:
    """At most 60 lines, docstring and all: a screen."""
    assert [] == [
        f"{at(path, node.lineno)} {node.name}"
        for path in python_files()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES
    ]


def test_every_file_opens_with_its_purpose() -> None:
    """A module's docstring says what it is for; a stranger reads that first."""
    assert [] == [str(path.relative_to(ROOT)) for path in python_files() if not ast.get_docstring(parsed(path))]


def test_no_package_is_an_empty_shell() -> None:
    """A package exists because there is something in it."""
    packages = [path.parent for path in LIBRARY.rglob("__init__.py")]
    assert [] == [str(package.relative_to(ROOT)) for package in packages if len(list(package.rglob("*.py"))) == 1]


def test_nothing_is_put_off() -> None:
    """Work to do is an issue; a note in the code is found by nobody."""
    marks = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
    assert [] == [
        at(path, number)
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if marks.search(line)
    ]


def test_tests_wait_for_conditions() -> None:
    """A sleep is either too short, and the test lies, or too long, and everybody waits."""
    assert [] == [
        at(path, call.lineno)
        for path in python_files("tests", "libcnm/testing", "examples")
        for call, name in calls(path)
        if name.rpartition(".")[2] == "sleep"
    ]


def test_children_come_from_subprocess_without_a_shell() -> None:
    """No shell to inject into; no fork that copies locks which other threads hold (crash tests see that there are no
    other threads).
    """
    forbidden = {"os.system", "os.popen", "os.fork", "os.forkpty", "pty.fork", "subprocess.getoutput"}
    assert [] == [
        at(path, call.lineno)
        for path in python_files()
        for call, name in calls(path)
        if (name in forbidden and (name, path.name) != ("os.fork", "test_crashes.py"))
        or any(key.arg == "shell" and ast.unparse(key.value) != "False" for key in call.keywords)
        or any(key.arg == "preexec_fn" for key in call.keywords)
    ]
    assert [] == [
        at(path, node.lineno)
        for path in python_files()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Import | ast.ImportFrom) and "multiprocessing" in ast.unparse(node)
    ]


def test_nothing_knows_the_machine_it_was_written_on() -> None:
    """Neither somebody's folders, nor the place that packages came from."""
    folders = re.compile(r"(?<![\w.~-])/(wo" r"rk|fa" r"rm|ro" r"ot|ho" r"me)/")
    hosts = re.compile("py" r"pi\.org|python" r"hosted\.org|deb\." r"debian\.org|npm" r"js\.org")
    assert [] == [
        at(path, number)
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if folders.search(line) or hosts.search(line)
    ]


def test_every_public_name_is_documented() -> None:
    """What libcnm.api offers has a docstring, and so have its public methods."""
    from libcnm import api

    undocumented = [name for name in api.__all__ if not inspect.getdoc(getattr(api, name))]
    for name in api.__all__:
        if inspect.isclass(offered := getattr(api, name)):
            methods = inspect.getmembers(
                offered, lambda member: inspect.isfunction(member) or isinstance(member, property)
            )
            undocumented += [
                f"{name}.{method}" for method, it in methods if method[0] != "_" and not inspect.getdoc(it)
            ]
    assert [] == undocumented
