"""Plug-ins by name: missing, provided twice, broken in several ways; each error names the distribution.

The distributions are real ones as far as ``importlib.metadata`` can tell: a module and its ``.dist-info`` in a folder
on ``sys.path`` of a child process, so that nothing of it stays in this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from libcnm.contracts.driver import Capabilities
from libcnm.controller.guarded import GuardedDriver
from libcnm.controller.registry import DRIVERS, IPAM, Registry, names
from libcnm.drivers.null import NullDriver
from libcnm.errors import DriverError, NotFound

ROOT = Path(__file__).resolve().parents[2]
ASK = """
import json, sys
from libcnm.controller.guarded import GuardedDriver
from libcnm.controller.registry import Registry
from libcnm.errors import CnmError
try:
    found = Registry().driver(sys.argv[1])
    answer = {"found": type(found.driver).__name__}
except CnmError as error:
    answer = {"error": type(error).__name__, "text": str(error), "cause": type(error.__cause__).__name__,
              **{name: value for name, value in error.as_dict().items() if name == "distribution"}}
answer["loaded"] = sorted(name for name in sys.modules if name.startswith("theirs"))
print(json.dumps(answer))
"""


def provide(folder: Path, distribution: str, code: str, **points: str) -> None:
    """An installed distribution with one module and some entry points."""
    module = distribution.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    listed = "\n".join(f"{name} = {module}:{target}" for name, target in points.items())
    (info / "entry_points.txt").write_text(f"[libcnm.drivers]\n{listed}\n")


def ask(folder: Path, name: str) -> dict[str, object]:
    """What a process that has these distributions gets for a driver's name."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", ASK, name], env=environment, capture_output=True, text=True, check=False, timeout=50
    )
    assert (0, "") == (done.returncode, done.stderr)  # our error is all that is said, also where logging is not set up
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


GOOD = "from libcnm.contracts.driver import Driver\nclass Mine(Driver):\n    name = 'mine'\n"


def test_a_third_partys_driver_is_found(tmp_path: Path) -> None:
    """By its name; and loading it imports no other."""
    provide(tmp_path, "theirs-good", GOOD, mine="Mine")
    provide(tmp_path, "theirs-broken", "raise RuntimeError('at import')", broken="Mine")
    assert {"found": "Mine", "loaded": ["theirs_good"]} == ask(tmp_path, "mine")


def test_a_name_that_nobody_provides(tmp_path: Path) -> None:
    """NotFound, with the names that there are."""
    provide(tmp_path, "theirs-good", GOOD, mine="Mine")
    answer = ask(tmp_path, "other")
    assert "NotFound" == answer["error"]
    assert "mine" in str(answer["text"])
    assert "bridge" in str(answer["text"])


def test_a_name_that_two_provide(tmp_path: Path) -> None:
    """Nobody chooses silently: both distributions are named."""
    provide(tmp_path, "theirs-one", GOOD, mine="Mine")
    provide(tmp_path, "theirs-two", GOOD, mine="Mine")
    answer = ask(tmp_path, "mine")
    assert "DriverError" == answer["error"]
    assert "theirs-one, theirs-two" in str(answer["text"])


@pytest.mark.parametrize(
    ("code", "cause", "words"),
    [
        ("raise RuntimeError('at import')", "RuntimeError", "at import"),
        ("import no_such_module", "ModuleNotFoundError", "no_such_module"),
        ("class Other: pass", "AttributeError", "Mine"),
        ("class Mine: pass", "NoneType", "is not a libcnm.contracts.driver.Driver"),
        ("Mine = 7", "NoneType", "is not a libcnm.contracts.driver.Driver"),
        (f"{GOOD}    def __init__(self):\n        raise OSError('no daemon')\n", "OSError", "no daemon"),
        (f"{GOOD}    def __init__(self, needed): pass\n", "TypeError", "needed"),
        ("def broken(:", "SyntaxError", "invalid syntax"),
    ],
    ids=["raises", "imports", "lacks", "other-class", "no-class", "constructor", "arguments", "syntax"],
)
def test_a_broken_driver(tmp_path: Path, code: str, cause: str, words: str) -> None:
    """A DriverError that says what is wrong and keeps the cause; the others go on working."""
    provide(tmp_path, "theirs-broken", code, mine="Mine")
    provide(tmp_path, "theirs-good", GOOD, good="Mine")
    answer = ask(tmp_path, "mine")
    assert ("DriverError", cause) == (answer["error"], answer["cause"])
    assert words in str(answer["text"])
    assert "theirs" in str(answer["distribution"])
    assert {"found": "Mine", "loaded": ["theirs_good"]} == ask(tmp_path, "good")


def test_a_cache_in_the_home_folder_is_not_believed(tmp_path: Path) -> None:
    """Whoever can write there must not choose what root imports."""
    provide(tmp_path, "theirs-good", GOOD, mine="Mine")
    ask(tmp_path, "mine")
    cached = [path for path in tmp_path.rglob("*") if "entry" in path.name and path.is_file()]
    assert ["entry_points.txt"] == [path.name for path in cached]


EVERYWHERE = f"""
from libcnm.contracts.driver import Capabilities
{GOOD}    capabilities = Capabilities(scope="global")
"""


def test_a_driver_of_the_cluster_that_is_there_from_creation_on(tmp_path: Path) -> None:
    """Refused before any network of it is made, found or given: nobody would settle a half-done creation."""
    provide(tmp_path, "theirs-everywhere", EVERYWHERE, mine="Mine")
    answer = ask(tmp_path, "mine")
    assert ("DriverError", "theirs-everywhere") == (answer["error"], answer["distribution"])
    assert "presence='attached'" in str(answer["text"])

    class Given(NullDriver):
        capabilities = Capabilities(scope="global")

    with pytest.raises(DriverError, match=r"'given'.*presence='attached'"):
        Registry(drivers={"given": Given()})


def test_given_ones_come_first() -> None:
    """A test, or a program that embeds libcnm, brings its own; the same one is given each time."""
    mine = NullDriver()
    registry = Registry(drivers={"bridge": mine})
    given = registry.driver("bridge")
    assert isinstance(given, GuardedDriver)
    assert mine is given.driver
    assert (given,) == registry.loaded_drivers()
    assert registry.driver("host") is registry.driver("host")


def test_what_comes_with_libcnm() -> None:
    """The built-in names are entry points as anybody's are."""
    assert {"bridge", "host", "null", "overlay"} <= set(names(DRIVERS))
    assert {"default", "null"} <= set(names(IPAM))
    with pytest.raises(NotFound, match=r"known: .*bridge"):
        Registry().driver("none-such")
