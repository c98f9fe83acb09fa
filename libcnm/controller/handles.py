"""The part of a live sandbox that live endpoints need, so that the two do not import each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from libcnm.errors import Invalid
from libcnm.model.records import SandboxRecord

if TYPE_CHECKING:
    from libcnm.controller.calls import Calls


class SandboxHandle:
    """A sandbox's identity and the last record read."""

    def __init__(self, calls: Calls, record: SandboxRecord) -> None:
        self._calls = calls
        self._record = record

    @property
    def id(self) -> str:
        """64 hexadecimal digits."""
        return self._record.id

    @property
    def container_id(self) -> str:
        """The container that it belongs to."""
        return self._record.container_id


def own_record(sandbox: object, calls: Calls) -> SandboxRecord:
    """The record of a sandbox that somebody handed in; Invalid when it is none, or another installation's."""
    if not isinstance(sandbox, SandboxHandle):
        raise Invalid("sandbox", sandbox, "is not a Sandbox", hint="Controller.sandbox(ref) finds one")
    if sandbox._calls.installation != calls.installation:
        raise Invalid("sandbox", sandbox.container_id, "belongs to another installation")
    return sandbox._record
