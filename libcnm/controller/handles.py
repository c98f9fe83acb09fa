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

    def record_for(self, calls: Calls) -> SandboxRecord:
        """The record, for an endpoint of the same installation; Invalid for another's. Not for users."""
        if self._calls.installation != calls.installation:
            raise Invalid("sandbox", self.container_id, "belongs to another installation")
        return self._record


def own_record(sandbox: object, calls: Calls) -> SandboxRecord:
    """The record of a sandbox that somebody handed in; Invalid when it is none, or another installation's."""
    if not isinstance(sandbox, SandboxHandle):
        raise Invalid("sandbox", sandbox, "is not a Sandbox", hint="Controller.sandbox(ref) finds one")
    return sandbox.record_for(calls)
