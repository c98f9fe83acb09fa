"""What a reader of events knows: a picture kept by events alone, to compare with what a controller says there is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import attrs

from libcnm.controller.controller import Controller
from libcnm.model.event import Event
from libcnm.model.records import Scope

Line = tuple[Scope, str, str | None, str | None, str | None]
"""Scope, name, network, host, container."""


@attrs.define
class Replay:
    """Objects by kind and id. A new one knows nothing; :meth:`observed` is what there is."""

    lines: dict[tuple[str, str], Line] = attrs.field(factory=dict)

    def copy(self) -> Replay:
        """An independent one."""
        return Replay(dict(self.lines))

    def apply(self, events: Iterable[Event]) -> Self:
        """Go on by these events, as any reader would."""
        for event in events:
            if event.action == "lost":
                self.lines = {key: line for key, line in self.lines.items() if line[0] != event.scope}
            elif event.kind == "store":
                continue
            elif event.exists:
                there = event.attached or event.kind == "sandbox"
                place = (event.host, event.container_id) if there else (None, None)
                self.lines[event.kind, event.id] = (event.scope, event.name, event.network_name, *place)
            else:
                self.lines.pop((event.kind, event.id), None)
        return self

    @classmethod
    def observed(cls, cnm: Controller) -> Self:
        """What the controller itself says, through the public API."""
        found = cls()
        for network in cnm.networks():
            found.lines["network", network.id] = (network.scope, network.name, None, None, None)
            for one in network.endpoints():
                place = (one.host, one.sandbox)
                found.lines["endpoint", one.id] = (network.scope, one.name, network.name, *place)
        for sandbox in cnm.sandboxes():
            name = sandbox.container_id
            found.lines["sandbox", sandbox.id] = ("local", name, None, cnm.host, name)
        return found
