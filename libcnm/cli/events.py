"""``cnm events``: what changes, as it does; a line for each event, or a JSON object a line. Ctrl-C ends it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import click

from libcnm.cli.session import JSON_OPTION, Session, Stream, id_of
from libcnm.model.arguments import patience
from libcnm.model.event import Cursor

if TYPE_CHECKING:
    from libcnm.model.event import Event

_WIDTHS: Final = {"KIND": 10, "ACTION": 13, "ID": 14, "NAME": 24, "CONTAINER": 16, "HOST": 14}
"""Columns of a table that is never finished: what is longer pushes the rest aside. The cursor comes last."""


@click.command(cls=Stream)
@click.option("--since", metavar="CURSOR", help="Go on after the event that had this cursor.")
@click.option(
    "--until-idle",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End when nothing has happened for that long. Without it, Ctrl-C ends.",
)
@JSON_OPTION
@click.pass_obj
def events(session: Session, since: str | None, until_idle: float | None) -> None:
    """Show what changes from now on, on this host and in the cluster; with --json, one object a line."""
    if since is not None:
        Cursor.parse(since)  # before an installation is opened for it
    patience(until_idle, "--until-idle")
    with session.controller() as cnm, cnm.events(since, timeout=until_idle) as stream:
        if not session.json:
            print(_line([*_WIDTHS, "CURSOR"]), flush=True)
        for event in stream:
            print(json.dumps(event.as_dict()) if session.json else _row(event), flush=True)


def _row(event: Event) -> str:
    name = event.name
    if event.kind == "endpoint" and name:
        name = f"{name}.{event.network_name or id_of(event.network_id or '', whole=False)}"
    elif event.kind == "store":
        name = event.scope
    cells = [event.kind, event.action, id_of(event.id, whole=False), name, event.container_id or "", event.host or ""]
    return _line([*cells, f"{event.cursor}  {event.reason or ''}".rstrip()])


def _line(cells: list[str]) -> str:
    *columns, last = cells
    fixed = "".join(f"{cell:<{width - 1}} " for cell, width in zip(columns, _WIDTHS.values(), strict=True))
    return f"{fixed}{last}"
