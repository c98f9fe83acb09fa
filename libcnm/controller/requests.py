"""Request ids: the same id gives the same result, and is good for nothing else.

A request is bound to its verb, its object and its arguments by their digest. Its note is in the host's own store, also
when its object is the cluster's: an id belongs to the installation, whatever it is used for. Each verb writes the note
in the very transaction that makes it done:

* with an intent (join, leave, creating a network here, deleting one) the intent carries the note, and whoever drops the
  intent because the verb is done writes it: the verb, or recovery after a crash. See :func:`ended`.
* without one, and in the host's own store, it is one transaction anyway.
* without one, and in the cluster's store, the note comes first, as *begun* and with the id of what is to be made; what
  an earlier attempt that died has done is then seen at its object. See :func:`commit`.

That two attempts never run at the same time is the lock's business, which :meth:`libcnm.controller.calls.Call.request`
takes. Without a request id nothing here costs a verb anything.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Literal, TypeVar

import attrs

from libcnm.controller.context import Context
from libcnm.controller.repository import Repository, Stored, drop, outcome_unknown, put
from libcnm.errors import AlreadyExists, CnmError, Corrupt, Forbidden, NotFound
from libcnm.kv.base import NOTHING, Entry, Transaction
from libcnm.model import keys, limits
from libcnm.model.codec import decode
from libcnm.model.deadline import Deadline
from libcnm.model.ids import short
from libcnm.model.records import EndpointRecord, Intent, NetworkRecord, RequestNote

log = logging.getLogger("libcnm")

Record = TypeVar("Record", bound=attrs.AttrsInstance)
OF_THE_BOOT: Final = ("create_sandbox", "join")
"""What these have made is gone after a boot; asked for once more, it is to be made once more."""


@attrs.frozen
class Request:
    """A verb's request: the note to leave of it, and the one that an earlier attempt has left."""

    note: RequestNote | None = None
    earlier: RequestNote | None = None
    withdraws: str = ""
    """The id of a request that was noted as done, and is being taken back after all."""

    @property
    def id(self) -> str:
        """The request id; empty without one."""
        return "" if self.note is None else self.note.id

    @property
    def is_done(self) -> bool:
        """True when an earlier attempt has done it."""
        return self.earlier is not None and self.earlier.state == "done"

    @property
    def taken_back(self) -> Request:
        """For the leave that undoes a join which was noted already, and failed afterwards."""
        return Request(withdraws=self.id)

    def first(self) -> Transaction:
        """The write that belongs into the first transaction of a verb with an intent."""
        return drop(keys.request(self.withdraws)) if self.withdraws else NOTHING

    def object_id(self, context: Context) -> str:
        """The id of the object to make: a new one, or the one that an earlier attempt had chosen."""
        if self.earlier is not None and self.earlier.result:
            return self.earlier.result
        return context.doors.entropy.new_id()

    def done(self, result: str = "") -> Transaction:
        """The write that belongs into the transaction which makes it so."""
        return self._noted("done", result)

    def begun(self, result: str = "") -> Transaction:
        """The write that comes before a transaction in another store."""
        return self._noted("begun", result)

    def _noted(self, state: Literal["begun", "done"], result: str) -> Transaction:
        if self.note is None:
            return NOTHING
        return put(keys.request(self.note.id), attrs.evolve(self.note, state=state, result=result))


UNNAMED: Final = Request()
"""A verb without a request id."""


# -- beginning -------------------------------------------------------------------------------------------------------


def draft(context: Context, request_id: str, verb: str, subject: str, bound: object) -> RequestNote:
    """The note of a request that asks for ``verb`` with ``bound``: its object and its arguments, whatever they are."""
    return RequestNote(
        request_id,
        verb,
        subject,
        hashlib.sha256(json.dumps([verb, bound], default=_plain, sort_keys=True).encode()).hexdigest(),
        at=round(context.doors.clock.wall(), 3),
        boot_id=context.doors.kernel.boot_id if verb in OF_THE_BOOT else "",
    )


def _plain(value: object) -> object:
    """An argument as JSON can hold it: specifications are values of attrs, whose leaves are addresses."""
    kind = type(value)
    if attrs.has(kind):
        return {field.name: getattr(value, field.name) for field in attrs.fields(kind)}
    return str(value)


def earlier(context: Context, note: RequestNote, deadline: Deadline) -> RequestNote | None:
    """What an earlier attempt of the same request has left; AlreadyExists when its id was used for something else."""
    stored = context.local.request(note.id, deadline)
    if stored is None or not _holds(context, stored.record):
        return None
    known = stored.record
    if known.digest != note.digest:
        same_object = (known.verb, known.subject) == (note.verb, note.subject)
        raise AlreadyExists(
            "request",
            note.id,
            holder=f"{known.verb.replace('_', ' ')}: {known.subject}",
            differences=["arguments" if same_object else "object" if known.verb == note.verb else "verb"],
            hint="every request needs an id of its own",
        )
    return known


def _holds(context: Context, note: RequestNote) -> bool:
    return note.boot_id in ("", context.doors.kernel.boot_id)


def made_before(
    context: Context, request: Request, kind: str, read: Callable[[str], Stored[Record] | None], deadline: Deadline
) -> Record | None:
    """What an earlier attempt has made; NotFound when it has been deleted since: no retry brings it back."""
    if request.earlier is None:
        return None
    result = request.earlier.result
    stored = read(result)
    if stored is not None:
        if not request.is_done:
            context.local.commit(request.done(result), deadline, durable=False)
        return stored.record
    if request.is_done:
        raise NotFound(kind, short(result), hint=f"request {request.id!r} made it, and it has been deleted since")
    return None


def attached_before(
    context: Context, network: NetworkRecord, endpoint: EndpointRecord, request: Request, deadline: Deadline
) -> EndpointRecord:
    """The endpoint as an earlier attempt has attached it; Forbidden when it has left since: no retry brings it back."""
    known = context.endpoint(network.scope, network.id, endpoint.id, deadline, name=endpoint.name).record
    if known.attachment is None or known.attachment.request_id != request.id:
        raise Forbidden(
            f"request {request.id!r} attached endpoint {known.name!r}, which has left since",
            hint="join with another request id",
        )
    return known


# -- ending ----------------------------------------------------------------------------------------------------------


def ended(context: Context, operation: str, verb: str, deadline: Deadline) -> Transaction:
    """The operation's intent gone and, if it was ``verb`` that is done by that, the note of its request written.

    To be committed to the host's own store. A verb remembers its intent; only recovery reads it.
    """
    gone = drop(keys.intent(operation))
    stored = context.local.recall(Intent, keys.intent(operation), deadline)
    if stored is None or stored.record.verb != verb or stored.record.request is None:
        return gone
    note = attrs.evolve(stored.record.request, state="done")
    return gone + put(keys.request(note.id), note)


def commit(
    context: Context,
    repository: Repository,
    transaction: Transaction,
    request: Request,
    deadline: Deadline,
    *,
    result: str = "",
    durable: bool = True,
) -> None:
    """The one transaction of a verb without an intent, and the note of its request."""
    if repository is context.local:
        repository.commit(transaction + request.done(result), deadline, durable=durable)
        return
    with apart(context, repository, request, result, deadline):
        repository.commit(transaction, deadline, durable=durable)


@contextmanager
def apart(
    context: Context, repository: Repository, request: Request, result: str, deadline: Deadline
) -> Iterator[None]:
    """Around what a verb does in another store than its request's note is in."""
    if request.note is None or repository is context.local:
        yield
        return
    context.local.commit(request.begun(result), deadline)  # synced: the cluster remembers a power failure's work, too
    try:
        yield
    except CnmError as error:
        if not outcome_unknown(error):
            context.local.commit(drop(keys.request(request.id)), deadline, durable=False)
        raise
    context.local.commit(request.done(result), deadline, durable=False)


# -- forgetting ------------------------------------------------------------------------------------------------------


def forget_old(context: Context, deadline: Deadline, *, counted_only: bool = False) -> int:
    """Drop the notes that are too many, and unless ``counted_only`` those that are too old; how many."""
    entries = context.local.store.list(keys.REQUESTS, deadline=deadline).entries
    if counted_only and len(entries) <= limits.REQUEST_NOTES:
        return 0
    oldest = context.doors.clock.wall() - limits.REQUEST_SECONDS
    newest_first = sorted(((_written(context, entry), entry.key) for entry in entries), reverse=True)
    gone = [key for number, (at, key) in enumerate(newest_first) if number >= limits.REQUEST_NOTES or at < oldest]
    for first in range(0, len(gone), limits.TRANSACTION_OPERATIONS):
        some = gone[first : first + limits.TRANSACTION_OPERATIONS]
        context.local.commit(drop(*some), deadline, durable=False)
    return len(gone)


def _written(context: Context, entry: Entry) -> float:
    """When; never, of one that nobody can read, or that ended with an earlier boot."""
    try:
        note = decode(RequestNote, entry.value, entry.key)  # not by way of the repository: it would remember them all
    except Corrupt as error:
        log.warning("dropped: %s", error)
        return -math.inf
    return note.at if _holds(context, note) else -math.inf
