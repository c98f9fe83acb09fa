"""What one invocation of ``cnm`` has at hand: its options, the controller they open, and the way it prints.

It knows no command. A command either prints one JSON document or text for people, never both.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from libcnm.errors import CnmError, Invalid
from libcnm.model.ids import short

if TYPE_CHECKING:
    from libcnm.controller.controller import Controller

log = logging.getLogger("libcnm.cli")
F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
_ANY_WIDTH: Final = 10_000


class PartlyDone(Exception):
    """Of several objects some could not be dealt with: ``failed`` says which and why, ``done`` has the others.

    ``word`` is what has been done to those, and the document's name for their list.
    """

    def __init__(self, word: str, done: list[str], failed: list[tuple[str, CnmError]]) -> None:
        super().__init__(f"{len(failed)} failed")
        self.word = word
        self.done = done
        self.failed = failed


class Session:
    """One invocation. ``context`` is the command's that is carried out, as soon as that is known."""

    def __init__(self) -> None:
        self.options: dict[str, object] = {}
        self.json = False
        self.json_indent: int | None = 2
        self.context: click.Context | None = None

    @contextmanager
    def controller(self) -> Iterator[Controller]:
        """The installation that the global options name, open for the length of the block."""
        from libcnm.controller.controller import Controller

        options: dict[str, Any] = dict(self.options)
        with Controller(**options) as opened:
            yield opened

    def say(self, document: object, text: str) -> None:
        """Print a result: the document for programs, or the text for people."""
        print(json.dumps(document, indent=self.json_indent, default=str) if self.json else text)

    def each(
        self, word: str, things: Iterable[T], action: Callable[[T], object], *, name: Callable[[T], str] = str
    ) -> None:
        """Do ``action`` for each, and tell a program of which: a list of names under ``word``. An action that returns
        False had nothing to do.

        A failure does not stop the rest; all of them are raised at the end, as one PartlyDone.
        """
        done: list[str] = []
        failed: list[tuple[str, CnmError]] = []
        for one in things:
            try:
                if action(one) is not False:
                    done.append(name(one))
            except CnmError as error:
                failed.append((name(one), error))
        if failed:
            raise PartlyDone(word, done, failed)
        if self.json:
            self.say({word: done}, "")

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[str]], documents: Sequence[object], *, quiet: bool
    ) -> None:
        """Print a list: documents for programs, a table for people, with ``quiet`` the first column alone."""
        if self.json:
            print(json.dumps(documents, indent=2, default=str))
        elif quiet:
            for row in rows:
                print(row[0])
        else:
            print_table(columns, list(rows))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table in Docker's manner: no lines, headings in capitals; as wide as it needs where nobody looks at it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _ANY_WIDTH
    with console.capture() as printed:
        console.print(table)
    print("\n".join(line.rstrip() for line in printed.get().splitlines()))


def _set_json(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.find_root().obj.json = True


JSON_OPTION = click.option(
    "--json",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    envvar="LIBCNM_JSON",
    callback=_set_json,
    help="Print one JSON document.",
)


def asks_for_json(words: Sequence[str]) -> bool:
    """The same for a command line that click has given up: at the first word that is wrong, wherever ``--json`` is."""
    if "--json" in takewhile(lambda word: word != "--", words):
        return True
    with suppress(click.BadParameter):
        return bool(os.environ.get("LIBCNM_JSON") and click.BOOL.convert(os.environ["LIBCNM_JSON"], None, None))
    return False


class Command(click.Command):
    """A command that says which it is, for whoever reports what becomes of it."""

    def invoke(self, ctx: click.Context) -> object:
        ctx.find_root().obj.context = ctx
        return super().invoke(ctx)


class Stream(Command):
    """A command that prints a JSON object a line; an error is one of them."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if parent is not None:
            parent.find_root().obj.json_indent = None  # before its options are read: they may be the mistake
        return super().make_context(info_name, args, parent, **extra)


class Group(click.Group):
    """A noun, or ``cnm`` itself."""

    command_class = Command
    group_class = type


def command(group: click.Group, name: str, **attributes: Any) -> Callable[[F], click.Command]:
    """A command of a group; ``--json`` may stand after its name, too."""

    def decorate(function: F) -> click.Command:
        made: click.Command = group.command(name, **attributes)(click.pass_obj(JSON_OPTION(function)))
        return made

    return decorate


def undo(step: Callable[[], object]) -> None:
    """A part of taking back what has failed: if that fails, too, it is in the log, and no reason not to do the rest.
    What came first is what is to be told.
    """
    try:
        step()
    except CnmError as error:
        log.warning("it could not all be taken back: %s", error)


def id_of(identifier: str, *, whole: bool) -> str:
    """An id as tables show it."""
    return identifier if whole else short(identifier)


def pairs(values: Sequence[str], field: str, separator: str = "=") -> dict[str, str]:
    """``KEY=VALUE`` words as a mapping; a key alone has an empty value where ``=`` separates."""
    found: dict[str, str] = {}
    for value in values:
        key, present, rest = value.partition(separator)
        if not key or (not present and separator != "="):
            raise Invalid(field, value, f"is not KEY{separator}VALUE")
        found[key] = rest
    return found
