"""What ``cnm`` does with words: help, mistakes, exit statuses, one JSON document. Nothing here touches the kernel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from libcnm.cli.main import cnm, run
from libcnm.cli.services import split
from libcnm.cli.session import one_after_the_other, pairs
from libcnm.errors import InUse, Invalid, NotFound

NOUNS = {
    "network": {"create", "ls", "rm", "inspect", "connect", "disconnect"},
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
    commands = {name: getattr(noun, "commands", {}) for name, noun in cnm.commands.items()}
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
        (["--timeout", "-1", "network", "ls"], "is not a number of seconds"),
        (["--state-dir", "here", "network", "ls"], "is not an absolute path"),
        (["events", "--since", "yesterday"], "is not the cursor of an event"),
        (["events", "--until-idle", "0"], "is not in the range x>0"),
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


def test_json_can_be_asked_for_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """LIBCNM_JSON, like every global option."""
    monkeypatch.setenv("LIBCNM_JSON", "1")
    monkeypatch.setenv("LIBCNM_STATE_DIR", "here")
    assert 2 == run(["network", "ls"])
    assert "state_dir" == json.loads(capsys.readouterr().out)["field"]


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
    """Each is tried; the first failure decides the exit status, the others are named."""
    failures = {"b": NotFound("network", "b"), "c": InUse("network", "c", ["x"])}
    tried: list[str] = []

    def action(ref: str) -> None:
        tried.append(ref)
        if ref in failures:
            raise failures[ref]

    with pytest.raises(NotFound):
        one_after_the_other(["a", "b", "c", "d"], action)
    assert ["a", "b", "c", "d"] == tried
    assert "cnm: network 'c' is in use by x\n" == capsys.readouterr().err
