"""From URLs to stores: which are taken, which errors the others give, and that none of those shows a password."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from libcnm.errors import CnmError, DriverError, Invalid, NotSupported
from libcnm.kv.memory import MemoryStore
from libcnm.kv.open import open_store
from libcnm.kv.sqlite import SQLiteStore
from libcnm.testing.store_steps import put, value_of

ROOT = Path(__file__).parents[2]
HIDDEN = "hunter2"


def test_memory_is_new_each_time() -> None:
    """Two stores in memory have nothing in common."""
    with open_store("memory:") as one, open_store("memory:") as two:
        assert isinstance(one, MemoryStore)
        put(one, "a", b"1")
        assert None is value_of(two, "a")


@pytest.mark.parametrize("name", ["plain.db", "with%20blank.db", "odd%23%3F%25.db", "sub/dir/store.db"])
def test_sqlite_path(tmp_path: Path, name: str) -> None:
    """The path is the URL's, percent-decoded; folders are made."""
    with open_store(f"sqlite://{tmp_path}/{name}") as store:
        assert isinstance(store, SQLiteStore)
    decoded = name.replace("%20", " ").replace("%23", "#").replace("%3F", "?").replace("%25", "%")
    assert (tmp_path / decoded).is_file()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "sqlite:",
        "sqlite:relative.db",
        "sqlite://host/path.db",
        "sqlite:///folder/",
        "sqlite:///a.db?mode=ro",
        "sqlite:///a%00.db",
        "memory:x",
        "consul:",
        "consul://",
        "://x",
        "UPPER://x",
    ],
)
def test_malformed_is_invalid(url: str) -> None:
    """What is no URL of a store is Invalid, with the forms that are."""
    with pytest.raises(Invalid) as caught:
        open_store(url)
    assert caught.value.hint


@pytest.mark.parametrize(
    "url",
    [
        f"consul://user:{HIDDEN}@localhost:8500",
        f"consul://localhost:8500/?token={HIDDEN}",
        f"zookeeper:user:{HIDDEN}@localhost",
        f"sqlite://user:{HIDDEN}@host/path?key={HIDDEN}",
        f"memory://{HIDDEN}",
        f"{HIDDEN}",
        f"//user:{HIDDEN}@host",
    ],
)
def test_errors_show_no_secret(url: str) -> None:
    """No error's text, fields or causes hold more of the URL than its scheme."""
    with pytest.raises(CnmError) as caught:
        open_store(url)
    error: BaseException | None = caught.value
    while error is not None:
        assert HIDDEN not in f"{error!s} {error!r} {vars(error)}"
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(("scheme", "advice"), [("consul", "libcnm[consul]"), ("etcd", "libcnm[etcd]"), ("zk", "'zk'")])
def test_missing_package_is_named(scheme: str, advice: str, caplog: pytest.LogCaptureFixture) -> None:
    """A scheme that nothing installed knows is NotSupported, and the hint says what to install; nobody says more."""
    with pytest.raises(NotSupported) as caught:
        open_store(f"{scheme}://localhost:1")
    assert advice in str(caught.value)
    assert [] == caplog.messages


def install(folder: Path, scheme: str, body: str) -> None:
    """A package as pip would leave it, with an entry point for a scheme."""
    (folder / f"a_{scheme}_store.py").write_text(body)
    info = folder / f"a_{scheme}_store-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: a-{scheme}-store\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[libcnm.kv]\n{scheme} = a_{scheme}_store:open_it\n")


def said_by(folder: Path, code: str) -> str:
    """What a fresh interpreter with that folder on its path prints."""
    paths = os.pathsep.join([str(ROOT), str(folder)])
    environment = {**os.environ, "PYTHONPATH": paths, "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


OPENER = """
from libcnm.kv.memory import MemoryStore
def open_it(url, *, now):
    print(url)
    return MemoryStore(now=now)
"""


@pytest.mark.slow
def test_package_brings_a_scheme(tmp_path: Path) -> None:
    """An installed entry point opens its scheme, in both spellings; a broken neighbour is not even imported."""
    install(tmp_path, "good", OPENER)
    install(tmp_path, "bad", "raise RuntimeError('never import this')")
    code = "from libcnm.kv.open import open_store; open_store('good:localhost:1'); open_store('good://localhost:2/x')"
    assert "good://localhost:1\ngood://localhost:2/x" == said_by(tmp_path, code)


@pytest.mark.slow
def test_broken_package_is_named(tmp_path: Path) -> None:
    """A package that cannot be imported is a DriverError that names its distribution and keeps the original."""
    install(tmp_path, "bad", "raise RuntimeError('it is broken')")
    code = (
        "from libcnm.kv.open import open_store\n"
        "try: open_store('bad://localhost')\n"
        "except Exception as error: print(type(error).__name__, error, '|', repr(error.__cause__))"
    )
    said = said_by(tmp_path, code)
    assert said.startswith(DriverError.__name__)
    assert "a-bad-store" in said
    assert "RuntimeError('it is broken')" in said


@pytest.mark.slow
def test_half_installed_extra_is_named(tmp_path: Path) -> None:
    """When our own store's third-party package is missing, the hint is the extra."""
    install(tmp_path, "consul", "import a_package_that_is_not_there")
    code = (
        "from libcnm.kv.open import open_store\n"
        "try: open_store('consul://localhost')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    said = said_by(tmp_path, code)
    assert said.startswith(NotSupported.__name__)
    assert "libcnm[consul]" in said


def test_opening_is_lazy() -> None:
    """Importing the module loads neither sqlite3 nor stevedore."""
    code = "import sys, libcnm.kv.open; print({'sqlite3', 'stevedore'} & set(sys.modules))"
    assert "set()" == said_by(ROOT, code)
