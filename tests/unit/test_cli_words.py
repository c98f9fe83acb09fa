"""What ``cnm`` does with words: help, mistakes, exit statuses, one JSON document. Nothing here touches the kernel."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import pytest

from libcnm.cli.containers import _join_as
from libcnm.cli.main import cnm as program
from libcnm.cli.main import run
from libcnm.cli.services import split
from libcnm.cli.session import PartlyDone, Session, pairs
from libcnm.cli.wording import ADVICE, say_it_here
from libcnm.errors import AlreadyExists, CnmError, Forbidden, InUse, Invalid, NotFound, NotSupported, Remedy
from libcnm.testing.world import FakeWorld

NOUNS = {
    "network": {"create", "ls", "rm", "inspect", "connect", "disconnect", "prune"},
    "service": {"publish", "unpublish", "attach", "detach", "ls", "info"},
    "container": {"create", "rm", "exec", "ls", "inspect"},
    "lab": {"demo", "shell"},
}


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No word may open an installation; one that did would leave its folders here."""
    monkeypatch.setenv("LIBCNM_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("LIBCNM_RUN_DIR", str(tmp_path / "run"))
    yield
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["--help"], *([noun, "--help"] for noun in NOUNS), ["network", "create", "-h"]])
def test_help_is_printed_and_is_no_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Every level explains itself on stdout."""
    assert 0 == run(words)
    printed = capsys.readouterr()
    assert printed.out.startswith("Usage: cnm")
    assert "" == printed.err


def test_every_noun_has_its_verbs() -> None:
    """The words of Docker's command line and the original's are there, and each has a line of help."""
    commands = {name: getattr(noun, "commands", {}) for name, noun in program.commands.items()}
    assert NOUNS == {name: set(verbs) for name, verbs in commands.items() if verbs}
    assert [] == [f"{name} {verb}" for name, verbs in commands.items() for verb in verbs if not verbs[verb].help]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "No such command 'nonsense'."),
        (["network", "create"], "Missing argument 'NAME'."),
        (["network", "ls", "--colour"], "No such option '--colour'"),
        (["--timeout", "soon", "network", "ls"], "'soon' is not a valid float."),
        (["network", "create", "x", "--subnet", "10.0.0.1/8"], "has host bits set"),
        (["network", "create", "x", "--label", "=v"], "is not KEY=VALUE"),
        (["network", "create", "x", "--gateway", "10.0.0.1"], "is in none of the subnets"),
        (["network", "ls", "--filter", "colour=red"], "is not a filter"),
        (["network", "create", "x", "--subnet", "junk"], "     for example 10.88.0.0/24"),
        (["--timeout", "-1", "network", "ls"], "is not a number of seconds"),
        (["--state-dir", "here", "network", "ls"], "cnm: --state-dir: 'here' is not an absolute path"),
        (["events", "--since", "yesterday"], "is not the cursor of an event"),
        (["events", "--until-idle", "0"], "is not in the range x>0"),
        (["events", "--until-idle", "nan"], "cnm: --until-idle: nan is not a number of seconds"),
        (["network", "ls", "--filter", "name"], "'name' is not a filter"),
        (["container", "exec", "c1", "--"], "-- is followed by no program"),
    ],
)
def test_a_mistake_is_status_2_with_a_message(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr as ``cnm: ...``; stdout stays empty, so that nobody takes it for a result."""
    assert 2 == run(words)
    printed = capsys.readouterr()
    assert printed.err.startswith("cnm: ")
    assert message in printed.err
    assert "" == printed.out


@pytest.mark.parametrize(
    "words",
    [
        ["--json", "network", "create", "x", "--gateway", "10.0.0.1"],
        ["network", "create", "--json", "x", "--gateway", "10.0.0.1"],
    ],
)
def test_with_json_an_error_is_a_document(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One document on stdout with the error's code, message, hint and fields, wherever ``--json`` stands."""
    assert 2 == run(words)
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert ("invalid", "--gateway", "10.0.0.1") == (document["code"], document["field"], document["value"])
    assert "" == printed.err


@pytest.mark.parametrize("mistake", [["--since", "yesterday"], ["--until-idle", "0"], ["--colour"]])
def test_where_each_line_is_an_object_an_error_is_one_line(
    mistake: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """``cnm events --json``: whoever reads it line by line need not know what a line is about."""
    for words in (["--json", "events", *mistake], ["events", "--json", *mistake], ["events", *mistake, "--json"]):
        assert 2 == run(words)
        (line,) = capsys.readouterr().out.splitlines()
        assert "invalid" == json.loads(line)["code"]


@pytest.mark.parametrize("words", [["network", "prune", "--json"], ["--json", "topology", "--mermaid"]])
def test_what_a_document_cannot_hold_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A question to a person, a chart for a page: better a mistake than half of what was asked for."""
    assert 2 == run(words)
    document = json.loads(capsys.readouterr().out)
    assert ("invalid", True) == (document["code"], "--json" in document["message"])


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["network", "ls", "--colour", "--json"], True),
        (["network", "ls", "--json", "--colour"], True),
        (["--tiemout", "5", "network", "ls", "--json"], True),
        (["--json", "nonsense"], True),
        (["network", "ls", "--colour"], False),
        (["--tiemout", "5", "container", "exec", "c1", "--", "program", "--json"], False),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else None,
)
@pytest.mark.parametrize("environment", ["", "1", "0", "nonsense"])
def test_with_json_a_mistyped_word_is_a_document_too(
    words: list[str], asked: bool, environment: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever the two stand; a ``--json`` after ``--`` is another program's."""
    monkeypatch.setenv("LIBCNM_JSON", environment)
    assert 2 == run(words)
    printed = capsys.readouterr()
    if asked or environment == "1":
        assert ("invalid", "") == (json.loads(printed.out)["code"], printed.err)
    else:
        assert ("", True) == (printed.out, printed.err.startswith("cnm: "))


def test_json_can_be_asked_for_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """LIBCNM_JSON, like every global option."""
    monkeypatch.setenv("LIBCNM_JSON", "1")
    monkeypatch.setenv("LIBCNM_STATE_DIR", "here")
    assert 2 == run(["network", "ls"])
    assert "--state-dir" == json.loads(capsys.readouterr().out)["field"]


@pytest.mark.parametrize(("text", "expected"), [("svc1.multihost", ("svc1", "multihost")), ("a.b.net", ("a.b", "net"))])
def test_the_last_dot_separates_service_and_network(text: str, expected: tuple[str, str]) -> None:
    """A service's name may hold dots."""
    assert expected == split(text)


@pytest.mark.parametrize("text", ["svc1", "svc1.", ".net", ""])
def test_a_service_to_publish_needs_a_network(text: str) -> None:
    """There is no default network to guess."""
    with pytest.raises(Invalid, match="names no network"):
        split(text)


def test_pairs_keep_what_follows_the_first_separator() -> None:
    """Values may hold the separator; a label may have no value; a host must have an address."""
    assert {"a": "b=c", "d": ""} == pairs(["a=b=c", "d"], "--label")
    assert {"db": "fd00::1"} == pairs(["db:fd00::1"], "--add-host", ":")
    with pytest.raises(Invalid, match="is not KEY:VALUE"):
        pairs(["db"], "--add-host", ":")


def test_one_failure_does_not_stop_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    """Each is tried; what could be done and what could not are told together. False means there was nothing to do."""
    failures = {"b": NotFound("network", "b"), "c": InUse("network", "c", ["x"])}
    tried: list[str] = []

    def action(ref: str) -> bool:
        tried.append(ref)
        if ref in failures:
            raise failures[ref]
        return ref != "d"

    session = Session()
    session.json = True
    with pytest.raises(PartlyDone) as raised:
        session.each("deleted", ["a", "b", "c", "d", "e"], action)
    assert ["a", "b", "c", "d", "e"] == tried
    assert ("deleted", ["a", "e"], list(failures.items())) == (
        raised.value.word, raised.value.done, raised.value.failed
    )  # fmt: skip
    session.each("deleted", ["a", "d"], action)
    assert {"deleted": ["a"]} == json.loads(capsys.readouterr().out)


def test_what_cannot_be_taken_back_keeps_nothing_else_from_it(caplog: pytest.LogCaptureFixture) -> None:
    """A container that somebody deletes while it is created: its new service goes; the first error is told."""
    with FakeWorld() as world, world.host().controller() as cnm:
        blue, box = cnm.create_network("blue"), cnm.create_sandbox("c1")
        box.delete()
        with pytest.raises(NotFound, match="sandbox"):
            _join_as(cnm, box, "web.blue")
        assert [] == blue.endpoints()
        assert 1 == len([line for line in caplog.messages if line.startswith("it could not all be taken back: ")])


def command_line(*words: str) -> click.Context:
    """The context of a command, as a command line leads to it."""
    context = click.Context(program)
    for word in words:
        assert isinstance(context.command, click.Group)
        inner = context.command.get_command(context, word)
        assert inner is not None
        context = click.Context(inner, parent=context)
    return context


@pytest.mark.parametrize(
    ("words", "field", "shown"),
    [
        ("container create", "netns", "--netns"),
        ("container create", "extra_hosts", "--add-host"),
        ("container create", "labels['a']", "--label 'a'"),
        ("container create", "container_id", "container_id"),
        ("network create", "options[encrypted]", "--opt encrypted"),
        ("network create", "address", "address"),
        ("network connect", "address", "--ip"),
        ("network connect", "port address", "--publish"),
        ("network connect", "priority", "--gw-priority"),
        ("service publish", "ports", "--publish"),
        ("service attach", "priority", "--priority"),
        ("doctor", "run_dir", "--run-dir"),
        ("doctor", "store", "--cluster-store"),
        ("lab shell", "hosts", "--hosts"),
    ],
)
def test_a_parameter_is_named_by_its_option(words: str, field: str, shown: str) -> None:
    """By the option of that command, or of ``cnm`` itself; what is no option of it keeps its name."""
    error = say_it_here(Invalid(field, "x", "is wrong"), command_line(*words.split()))
    assert isinstance(error, Invalid)
    assert (shown, f"{shown}: 'x' is wrong") == (error.field, error.message)


ADVISED: list[CnmError] = [
    InUse("network", "blue", ["x"], hint="delete(force=True)", remedy="delete-endpoints"),
    InUse("endpoint", "web", ["x"], hint="leave() it first", remedy="detach"),
    InUse("endpoint", "web", ["x"], hint="leave(), or delete(force=True)", remedy="detach-or-force"),
    Invalid("netns", "x", "is the host's", hint="create_sandbox(..., host_network=True)", remedy="host-network"),
    Invalid("advertise", None, "is needed", hint="Controller(advertise='192.0.2.11')", remedy="advertise"),
    NotSupported("x", hint="Controller(cluster_store='x')", remedy="cluster-store"),
    AlreadyExists("host", "x", hint="give host= another name", remedy="rename-host"),
    Forbidden("x", hint="ensure_privileges()", remedy="privilege"),
]


def test_advice_is_given_in_words_that_can_be_typed() -> None:
    """Nobody at a shell is told to call a method, whatever the API advises."""
    assert set(get_args(Remedy)) == set(ADVICE) == {error.remedy for error in ADVISED}
    for error in ADVISED:
        hint = say_it_here(error, None).hint
        assert hint is not None
        assert not re.search(r"\w\(|=\S", hint), hint
    assert "`cnm network rm --with-endpoints blue`" in (ADVISED[0].hint or "")
    assert "`cnm service detach CONTAINER web`" in (ADVISED[1].hint or "")


def cnm_process(*words: str, **ends: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "libcnm.cli", *words],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **ends,
    )  # fmt: skip


@pytest.mark.parametrize("words", [("--help",), ("network", "--help"), ("--version",)])
def test_a_reader_that_has_gone(words: tuple[str, ...]) -> None:
    """Ends it silently, as SIGPIPE ends other programs: 141, whoever notices first, click or we."""
    reading, writing = os.pipe()
    os.close(reading)
    with cnm_process(*words, stdout=writing) as process:
        os.close(writing)
        assert ("", 141) == (process.communicate(timeout=50)[1], process.returncode)


@pytest.mark.parametrize("words", [("--help",), ("network", "--help"), ("--json", "--state-dir", "x", "doctor")])
def test_a_full_device(words: tuple[str, ...]) -> None:
    """One line and a status that is no success, for results and for documents of errors alike."""
    with open("/dev/full", "w", encoding="ascii") as full, cnm_process(*words, stdout=full) as process:
        said = process.communicate(timeout=50)[1]
    assert (1, "cnm: the output cannot be written: No space left on device\n") == (process.returncode, said)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_when_nobody_can_be_told_the_status_tells(unbuffered: str) -> None:
    """Also where stderr is full, which a buffer notices last."""
    argv = [sys.executable, "-m", "libcnm.cli", "nonsense"]
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w", encoding="ascii") as full:
        done = subprocess.run(argv, env=env, stdout=full, stderr=full, timeout=50, check=False)
    assert 2 == done.returncode
