"""``cnm doctor`` and ``cnm topology``: the whole host at once, and the whole cluster as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from libcnm.cli.session import JSON_OPTION, Command, Session
from libcnm.errors import Unavailable

if TYPE_CHECKING:
    from libcnm.controller.reconcile import Difference


@click.command(cls=Command)
@click.option("--heal", is_flag=True, help="Put right what is found.")
@JSON_OPTION
@click.pass_obj
def doctor(session: Session, heal: bool) -> int:
    """Compare what the records want with what the kernel has, row by row. Exit status 1 when they differ.

    A resident that was killed while nobody had this installation open is started by this command, as by any other: till
    then names and peers stand still. What dead processes left half-done is settled first.
    """
    with session.controller() as cnm:
        found = cnm.heal() if heal else cnm.doctor()
    text = "\n".join(map(str, found)) if found else "everything is as it should be"
    session.say([_row(one) for one in found], text)
    return 1 if found and not heal else 0


def _row(difference: Difference) -> dict[str, object]:
    one = difference.wanted or difference.there
    return {
        "problem": difference.problem,
        "resource": [] if one is None else list(one.identity),
        "wanted": None if difference.wanted is None else str(difference.wanted),
        "there": None if difference.there is None else str(difference.there),
    }


@click.command(cls=Command)
@click.option("--svg", metavar="FILE", help="Draw it into an SVG file.")
@click.option("--mermaid", is_flag=True, help="Print it as a Mermaid flow chart.")
@JSON_OPTION
@click.pass_obj
def topology(session: Session, svg: str | None, mermaid: bool) -> None:
    """Hosts, networks, containers and services: as text, as an SVG picture, or as a Mermaid chart."""
    if mermaid and session.json:
        raise click.UsageError(
            "--mermaid and --json exclude each other: both are for stdout", click.get_current_context()
        )
    from libcnm.cli import draw  # it needs the library's values, which other commands may never load

    with session.controller() as cnm:
        found = cnm.topology()
    if svg is not None:
        save(svg, draw.svg(found))
    if mermaid:
        print(draw.mermaid(found), end="")
    elif session.json or svg is None:
        session.say(found.as_dict(), draw.text(found))


def save(path: str, text: str) -> None:
    """Write a file that a person asked for."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise Unavailable(path, error.strerror or str(error)) from None
