"""`import libcnm` costs nothing; each public name is there when it is asked for."""

from __future__ import annotations

import builtins
import collections.abc
import inspect
import json
import re
import subprocess
import sys
import types
import typing

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


def test_the_names_are_told_without_loading_them() -> None:
    """``__all__`` and ``dir()`` are true and cheap; ``import *`` gives the public names and no others."""
    from libcnm import api

    assert api.__all__ == libcnm.__all__
    assert len(set(api.__all__)) == len(api.__all__)
    assert "libcnm.api" not in modules_after("import libcnm; dir(libcnm), libcnm.__all__")
    script = "before = set(globals()); from libcnm import *; print(*sorted(set(globals()) - before - {'before'}))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert sorted(api.__all__) == done.stdout.split()


def test_the_fakes_are_where_one_looks_for_them() -> None:
    """By name in `libcnm.testing`, loaded when they are asked for; what is not there is missing."""
    import libcnm.testing
    from libcnm.kernel.fake import FakeKernel
    from libcnm.kv.memory import MemoryStore
    from libcnm.testing.world import FakeWorld

    assert [FakeKernel, FakeWorld, MemoryStore] == [getattr(libcnm.testing, name) for name in libcnm.testing.__all__]
    assert set(libcnm.testing.__all__) <= set(dir(libcnm.testing))
    with pytest.raises(AttributeError, match="'FakeNews'"):
        libcnm.testing.FakeNews  # type: ignore[attr-defined]  # noqa: B018


WORDS = re.compile(r"[A-Za-z_][A-Za-z_0-9.]*")
NOT_OURS = {name for module in (builtins, typing, collections.abc, types, subprocess) for name in vars(module)}
UNNAMED = {"Action", "Identity", "Kind", "Operation", "SandboxHandle", "Scope"}
"""What users meet as text, ``"local"``, as a tuple of texts, or under another name, a Sandbox."""


def test_what_public_methods_take_and_give_is_public() -> None:
    """Every type in their signatures can be imported from libcnm, so that a user can write it down."""
    from libcnm import api

    texts = []
    offered = {getattr(api, name) for name in api.__all__} - {api.Doors, api.Registry}  # what is in those, tests make
    classes = [one for one in offered if inspect.isclass(one)]
    for one in classes:
        texts += vars(one).get("__annotations__", {}).values()  # the fields of a value
        for name, member in vars(one).items():
            function = member.fget if isinstance(member, property) else member
            if inspect.isfunction(function) and (name[0] != "_" or (one, name) == (api.Controller, "__init__")):
                texts += function.__annotations__.values()
    words = {word for text in texts for word in WORDS.findall(re.sub("'[^']*'", "", text)) if "." not in word}
    assert UNNAMED == words - set(libcnm.__all__) - NOT_OURS


def test_a_program_that_sets_up_no_logging_reads_nothing_of_ours() -> None:
    """Unlike the bare lines of logging's last resort."""
    script = "import libcnm, logging; libcnm.Controller; logging.getLogger('libcnm.engine').error('said')"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert "" == done.stdout + done.stderr


@pytest.mark.parametrize("name", ["nothing_of_that_name", "_private", "__wrapped__"])
def test_other_names_are_missing_as_in_any_module(name: str) -> None:
    """hasattr, getattr with a default, inspect and doctest all rely on AttributeError."""
    with pytest.raises(AttributeError, match=f"module 'libcnm' has no attribute '{name}'"):
        getattr(libcnm, name)
