"""What has changed, as a value: an :class:`Event`, and the :class:`Cursor` that says how far somebody has read.

Level-triggered like everything here: an event names an object and says what is true of it now. It carries no time: who
reads the records learns that something has changed, not when. Pure: no store, no clock.
"""

from __future__ import annotations

import re
from typing import Final, Literal, Self

import attrs

from libcnm.errors import Invalid
from libcnm.model.records import Scope

Kind = Literal["network", "endpoint", "sandbox", "store"]
Action = Literal["create", "connect", "update", "disconnect", "destroy", "lost", "unavailable", "available"]

_CURSOR: Final = re.compile(r"cnm1\.([0-9a-f]{12})\.(?:([0-9]{1,19})|-)\.(?:([0-9]{1,19})\.([0-9a-f]{12}|-)|-)")
_POSITION_END: Final = 2**63
"""SQLite numbers its commits in 63 bits; nobody else needs more."""


@attrs.frozen(kw_only=True)
class Event:
    """One object that has changed, and what is true of it now. ``libcnm.Controller.events`` yields them.

    ``create``, ``update`` and ``destroy`` are of all objects, ``connect`` and ``disconnect`` of endpoints. ``update``
    also stands for "it is there, and what it was before is not known" (after ``since=``): take its state as it is.
    ``disconnect`` and ``destroy`` name what is no more, the place or the object, as it was last seen; of what is only
    known to be gone that is its id. Events of kind ``store`` are about reading: ``lost`` (forget what you know of that
    scope: all that there is follows, as updates), ``unavailable`` with a ``reason``, ``available``.

    ``name`` of a sandbox is its container's id. ``network_id`` and ``network_name`` are an endpoint's, ``host`` and
    ``container_id`` an attached endpoint's or a sandbox's; None where they mean nothing. ``cursor`` is opaque text for
    ``since=``.
    """

    kind: Kind
    action: Action
    scope: Scope
    id: str = ""
    name: str = ""
    network_id: str | None = None
    network_name: str | None = None
    host: str | None = None
    container_id: str | None = None
    reason: str | None = None
    cursor: str = ""

    @property
    def exists(self) -> bool:
        """Whether the object is there."""
        return self.kind != "store" and self.action != "destroy"

    @property
    def attached(self) -> bool:
        """Whether it is an endpoint that is attached now: on ``host``, in ``container_id``."""
        return self.kind == "endpoint" and self.host is not None and self.action not in ("disconnect", "destroy")

    def as_dict(self) -> dict[str, str | None]:
        """The same as plain data, by field."""
        return attrs.asdict(self)


@attrs.frozen
class Position:
    """How far one store has been read: its revision, and the first digits of its lineage as far as it has one."""

    revision: int
    lineage: str = ""


@attrs.frozen
class Cursor:
    """How far somebody has read, in each store that was ever reached; of one installation (12 digits of its id)."""

    installation: str
    local: Position | None = None
    cluster: Position | None = None

    def __str__(self) -> str:
        local = "-" if self.local is None else str(self.local.revision)
        cluster = "-" if self.cluster is None else f"{self.cluster.revision}.{self.cluster.lineage or '-'}"
        return f"cnm1.{self.installation}.{local}.{cluster}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The cursor that an event had; Invalid for any other text."""
        found = _CURSOR.fullmatch(text) if isinstance(text, str) else None
        if found is None or any(number is not None and int(number) >= _POSITION_END for number in found.group(2, 3)):
            raise Invalid("since", text, "is not the cursor of an event")
        installation, local, cluster, lineage = found.groups()
        return cls(
            installation,
            None if local is None else Position(int(local)),
            None if cluster is None else Position(int(cluster), "" if lineage == "-" else lineage),
        )
