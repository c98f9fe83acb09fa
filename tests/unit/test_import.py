"""`import libcnm` costs nothing; each public name is there when it is asked for."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import libcnm

HEAVY = {
    "pyroute2",
    "asyncio",
    "stevedore",
    "importlib.metadata",
    "requests",
    "grpc",
    "sqlite3",
    "dnslib",
    "click",
    "rich",
    "libcnm.api",
}


def modules_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after one statement."""
    script = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "statement",
    ["import libcnm", "from libcnm import errors", "import libcnm.model", "import libcnm.testing", "import libcnm.cli"],
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    """Programs that only check a version, complete a command line or handle our errors do not pay for netlink."""
    assert modules_after(statement) & HEAVY == modules_after("pass") & HEAVY


def test_every_name_of_the_api_is_a_name_of_the_package() -> None:
    """`libcnm.Controller` is `libcnm.api.Controller`, and `dir()` shows it."""
    from libcnm import api

    assert {name: getattr(libcnm, name) for name in api.__all__} == {name: getattr(api, name) for name in api.__all__}
    assert set(api.__all__) <= set(dir(libcnm))


@pytest.mark.parametrize("name", ["nothing_of_that_name", "_private", "__wrapped__"])
def test_other_names_are_missing_as_in_any_module(name: str) -> None:
    """hasattr, getattr with a default, inspect and doctest all rely on AttributeError."""
    with pytest.raises(AttributeError, match=f"module 'libcnm' has no attribute '{name}'"):
        getattr(libcnm, name)
