"""Every error that libcnm raises: one root, one class per category, named fields.

A category says what the caller can do about it; the fields say about what. Errors of third parties (``sqlite3``,
``OSError``, netlink) never cross a layer: the door that meets one turns it into one of these. Each class has a stable
``code`` (for programs), an ``http_status`` (libnetwork's ``dnet`` used the same numbers) and an ``exit_code`` (for the
command line). The message says what, where and what to do; ``hint`` is the "what to do" alone, in the words of the
Python API. Where a front door has other words for it, ``remedy`` names the same advice for programs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar, Final, Literal

_SHOWN_CHARS: Final = 120
"""How much of a wrong value a message quotes."""
_NUMBER_END: Final = 2**63
"""What a wrong number may be, to be told as a number: JSON's readers take no longer ones."""

Remedy = Literal[
    "advertise",  # say by which address other hosts reach this one
    "cluster-store",  # name the store that the hosts share
    "delete-endpoints",  # delete what is in the network first, or have that done
    "detach",  # take the endpoint out of its sandbox first
    "detach-or-force",  # the same, or have the deletion do it
    "host-network",  # ask for a sandbox of the host's own namespace
    "privilege",  # be root, or go where one is: private namespaces
    "rename-host",  # give this host another name
]
"""What can be advised in other words than Python's."""


class CnmError(Exception):
    """The root: ``except CnmError`` catches everything that libcnm raises on purpose."""

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None, remedy: Remedy | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def as_dict(self) -> dict[str, object]:
        """The error as plain data, for ``--json`` and the REST API: ``code``, ``message``, ``hint`` and the fields."""
        fields = {name: _plain(value) for name, value in vars(self).items() if not name.startswith("_")}
        return {"code": self.code, **fields}


def _shown(value: object) -> str:
    """A value of a caller's as part of a message: whatever it is, and however long."""
    try:
        shown = repr(value[:_SHOWN_CHARS] if isinstance(value, str | bytes) else value)
    except Exception:  # noqa: BLE001 - an int of 5,000 digits has no decimal form, and a caller's class any repr
        shown = f"<{type(value).__name__}>"
    return shown if len(shown) <= _SHOWN_CHARS else f"{shown[: _SHOWN_CHARS - 3]}..."


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return value if abs(value) < _NUMBER_END else _shown(value)  # a NaN, too, is no number to JSON
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a caller's class
        return _shown(value)


class Invalid(CnmError):
    """An argument cannot be used. Nothing has been touched. libnetwork: BadRequest."""

    code, http_status, exit_code = "invalid", 400, 2

    def __init__(
        self, field: str, value: object, reason: str, *, hint: str | None = None, remedy: Remedy | None = None
    ) -> None:
        super().__init__(f"{field}: {_shown(value)} {reason}", hint=hint, remedy=remedy)
        self.field = field
        self.value = value
        self.reason = reason


class NotFound(CnmError):
    """No object of this kind has that name, id or id prefix. libnetwork: NotFound.

    ``name`` is what the object was called, where ``ref`` is its id and it was known once.
    """

    code, http_status, exit_code = "not-found", 404, 3

    def __init__(self, kind: str, ref: str, *, name: str | None = None, hint: str | None = None) -> None:
        shown = f"{ref!r}" if name is None else f"{name!r} ({ref})"
        super().__init__(f"{kind} {shown} not found", hint=hint)
        self.kind = kind
        self.ref = ref
        self.name = name


class Ambiguous(CnmError):
    """Several objects answer to that reference; ``candidates`` lists their ids."""

    code, http_status, exit_code = "ambiguous", 409, 3

    def __init__(self, kind: str, ref: str, candidates: Sequence[str]) -> None:
        listed = ", ".join(candidates)
        super().__init__(f"{kind} {ref!r} is ambiguous: {listed}", hint="use a longer id")
        self.kind = kind
        self.ref = ref
        self.candidates = tuple(candidates)


class AlreadyExists(CnmError):
    """The name, address or other claim is taken. ``differences`` names the fields in which the holder differs."""

    code, http_status, exit_code = "already-exists", 409, 4

    def __init__(
        self,
        kind: str,
        name: str,
        *,
        holder: str | None = None,
        differences: Sequence[str] = (),
        hint: str | None = None,
        remedy: Remedy | None = None,
    ) -> None:
        by = f" (held by {holder})" if holder else ""
        other = f"; it differs in: {', '.join(differences)}" if differences else ""
        super().__init__(f"{kind} {name!r} already exists{by}{other}", hint=hint, remedy=remedy)
        self.kind = kind
        self.name = name
        self.holder = holder
        self.differences = tuple(differences)


class InUse(CnmError):
    """The object cannot go (or move) because ``holders`` hold it. libnetwork: ActiveEndpointsError,
    ActiveContainerError.
    """

    code, http_status, exit_code = "in-use", 409, 4

    def __init__(
        self, kind: str, name: str, holders: Sequence[str], *, hint: str | None = None, remedy: Remedy | None = None
    ) -> None:
        shown = ", ".join(holders[:8]) + (f" and {len(holders) - 8} more" if len(holders) > 8 else "")
        super().__init__(f"{kind} {name!r} is in use by {shown}", hint=hint, remedy=remedy)
        self.kind = kind
        self.name = name
        self.holders = tuple(holders)


class Forbidden(CnmError):
    """The request is well-formed and never allowed. libnetwork: Forbidden."""

    code, http_status, exit_code = "forbidden", 403, 5


class Exhausted(CnmError):
    """Nothing free is left. ``refusals`` says why each candidate was refused. libnetwork: NoService."""

    code, http_status, exit_code = "exhausted", 503, 6

    def __init__(self, what: str, refusals: Sequence[str] = (), *, hint: str | None = None) -> None:
        why = f": {'; '.join(refusals[:6])}" if refusals else ""
        more = f"; and {len(refusals) - 6} more" if len(refusals) > 6 else ""
        super().__init__(f"no free {what} left{why}{more}", hint=hint)
        self.what = what
        self.refusals = tuple(refusals)


class Unavailable(CnmError):
    """A store, plug-in or process cannot be reached now. With ``outcome_unknown`` the request may have been carried
    out.
    """

    code, http_status, exit_code, retryable = "unavailable", 503, 7, True

    def __init__(self, what: str, reason: str, *, outcome_unknown: bool = False, hint: str | None = None) -> None:
        super().__init__(f"{what} is unavailable: {reason}", hint=hint)
        self.what = what
        self.reason = reason
        self.outcome_unknown = outcome_unknown


class DeadlineExceeded(Unavailable):
    """The verb's time budget ran out while doing ``what``; whatever it had begun was undone or is recorded for
    recovery.
    """

    code, http_status, exit_code, retryable = "deadline-exceeded", 408, 8, True

    def __init__(self, what: str, budget: float, *, outcome_unknown: bool = False, hint: str | None = None) -> None:
        super().__init__(what, f"not done within {budget:g} s", outcome_unknown=outcome_unknown, hint=hint)
        self.budget = budget


class Conflict(CnmError):
    """A compare of a store transaction failed because somebody else wrote first. The verbs retry it; users rarely
    see it.
    """

    code, http_status, exit_code, retryable = "conflict", 409, 9, True

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(f"changed by somebody else meanwhile: {', '.join(keys)}", hint="try again")
        self.keys = tuple(keys)


class NotSupported(CnmError):
    """This kernel, store or driver cannot do that. libnetwork: NotImplemented."""

    code, http_status, exit_code = "not-supported", 501, 10


class Corrupt(CnmError):
    """A stored record cannot be trusted; it is left as it is and named."""

    code, http_status, exit_code = "corrupt", 500, 11

    def __init__(self, what: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"{what} cannot be read: {reason}", hint=hint)
        self.what = what
        self.reason = reason


class DriverError(CnmError):
    """A driver or plug-in failed or broke its contract; ``__cause__`` keeps the original."""

    code, http_status, exit_code = "driver-error", 502, 12

    def __init__(self, driver: str, reason: str, *, distribution: str | None = None, hint: str | None = None) -> None:
        origin = f" (from {distribution})" if distribution else ""
        super().__init__(f"driver {driver!r}{origin}: {reason}", hint=hint)
        self.driver = driver
        self.reason = reason
        self.distribution = distribution


class KernelError(CnmError):
    """The kernel refused a change. ``errno`` is the kernel's, ``extack`` its own words, ``subject`` the object."""

    code, http_status, exit_code = "kernel-error", 500, 13

    def __init__(self, errno: int, subject: str, *, extack: str | None = None, hint: str | None = None) -> None:
        words = extack or os.strerror(errno)
        super().__init__(f"kernel: {subject}: {words} [errno {errno}]", hint=hint)
        self.errno = errno
        self.subject = subject
        self.extack = extack
