"""Turning changes into transactions, and the kernel's all-or-nothing into an outcome for each change.

Elements that are added (or deleted) in a row travel in one message per set. When a message with several fails, each of
them is sent alone in the next attempt; when a message with one fails, that is its outcome and the rest is sent again.
Order is kept wherever it can matter. A table change opens a transaction, because what it sends depends on what is
there.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from libcnm.errors import KernelError
from libcnm.kernel.firewall_rules import STRUCTURE
from libcnm.kernel.linux import nft_elements as elements
from libcnm.kernel.linux import nft_table
from libcnm.kernel.linux import nft_wire as wire
from libcnm.kernel.linux.nft_read import read_table
from libcnm.kernel.linux.nft_rules import make_table
from libcnm.kernel.linux.nft_socket import ERESTART, WHOLE, NftSocket, Refusal, Refused, Stale
from libcnm.kernel.resources import FirewallElement, FirewallTable
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Change

_MESSAGE_BYTES: Final = 160
"""What a message takes beside its elements: header and names, which are a few octets here."""
_TABLE_BYTES: Final = 64 * 1024
"""Room for replacing the structure (some 20 KiB) and for the messages around groups of elements."""


@attrs.define(eq=False)
class Step:
    """One change on its way. ``alone``: it failed in company, and whose fault that was is not known yet."""

    index: int
    change: Change
    outcome: KernelError | None = None
    done: bool = False
    alone: bool = False
    woken: bool = False
    """The table had been put to sleep, and that was mended."""
    packed: list[tuple[int, FirewallElement, bytes]] = attrs.field(factory=list)
    """What the change comes to for an element: delete this, add that."""
    is_table: bool = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.is_table = isinstance(self.change.resource, FirewallTable)

    def refuse(self, number: int, words: str | None = None) -> None:
        """This is how it ended."""
        self.outcome = KernelError(number, str(self.change), extack=words)
        self.done = True

    def pack(self) -> None:
        """Encode an element's change; EINVAL if our table has no place for it."""
        change = self.change
        wanted = [(wire.DELSETELEM, change.previous)] if change.operation == "change" else []
        wanted.append((wire.DELSETELEM if change.operation == "delete" else wire.NEWSETELEM, change.resource))
        try:
            for operation, element in wanted:
                if not isinstance(element, FirewallElement):
                    raise elements.Unreadable(f"{element!r} is not the firewall's")
                packed = elements.codec(element.set).pack(element, data=operation == wire.NEWSETELEM)
                self.packed.append((operation, element, packed))
        except elements.Unreadable as error:
            self.refuse(errno.EINVAL, str(error))


@attrs.define(eq=False)
class _Message:
    packed: bytearray
    steps: list[Step]


def _groups(steps: Sequence[Step]) -> Iterator[tuple[int, str, str, list[tuple[Step, bytes]]]]:
    """What goes into one message list: operation, table, set, and the elements."""
    groups: dict[tuple[str, str], list[tuple[Step, bytes]]] = {}
    running = 0
    for step in steps:
        for operation, element, packed in step.packed:
            if operation != running or step.alone:
                yield from ((running, *place, members) for place, members in groups.items())
                groups, running = {}, operation
            groups.setdefault((element.table, element.set), []).append((step, packed))
            if step.alone:
                yield operation, element.table, element.set, [(step, packed)]
                groups = {}
    yield from ((running, *place, members) for place, members in groups.items())


def _element_messages(steps: Sequence[Step]) -> Iterator[_Message]:
    for operation, table, set_name, members in _groups(steps):
        start = 0
        for packed, count in elements.element_messages(operation, table, set_name, [one for _, one in members]):
            yield _Message(packed, [step for step, _ in members[start : start + count]])
            start += count


class Sender:
    """Carries out steps of one namespace over its socket."""

    def __init__(self, door: NftSocket, deadline: Deadline) -> None:
        self._door = door
        self._deadline = deadline

    def send(self, steps: Sequence[Step]) -> None:
        """Do them all, in order; each is done afterwards, with its outcome."""
        for step in steps:
            if not step.is_table:
                step.pack()
        while waiting := [step for step in steps if not step.done]:
            self._deadline.check("changing nf_tables")
            self._attempt(self._transaction(waiting))

    def _transaction(self, waiting: Sequence[Step]) -> list[Step]:
        """The next steps that fit into one transaction: a table only as the first, and few that may be refused."""
        taken, size, room = [waiting[0]], 0, self._door.limit - _TABLE_BYTES
        replies = 0
        for step in waiting[1:]:
            replies += step.alone
            for _, _, packed in step.packed:
                size += len(packed) + _MESSAGE_BYTES if step.alone else len(packed)
            if step.is_table or size > room or replies > self._door.replies:
                break
            taken.append(step)
        return taken

    def _attempt(self, steps: list[Step]) -> None:
        messages: list[_Message] = []
        generation: int | None = None
        if steps[0].is_table:
            try:
                packed, generation = self._table_messages(steps[0])
            except Stale:
                return
            except Refused as refused:
                steps[0].refuse(refused.errno)
                return
            messages.extend(_Message(one, [steps[0]]) for one in packed)
        messages.extend(_element_messages([step for step in steps if not step.is_table]))
        if not messages:
            return
        refusals = self._door.transact([message.packed for message in messages], self._deadline, generation)
        if not refusals:
            for step in steps:
                step.done = True
        elif WHOLE in refusals:
            if refusals[WHOLE][0] != ERESTART:
                for step in steps:
                    if not step.done:
                        step.refuse(*refusals[WHOLE])
        else:
            for position, refusal in refusals.items():
                _blame(messages[position].steps, refusal)

    def _table_messages(self, step: Step) -> tuple[list[bytearray], int]:
        """What a table change comes to now; nothing when it is refused right away."""
        table = step.change.resource
        assert isinstance(table, FirewallTable)
        deletes = step.change.operation == "delete"
        found, generation = read_table(self._door, table.name, self._deadline, elements=not deletes)
        version = None if found is None else found.version
        if deletes:
            if found is None or version is None:
                step.refuse(errno.ENOENT)
                return [], generation
            return list(nft_table.unmake(found)), generation
        if table.version != STRUCTURE.version:
            step.refuse(errno.EOPNOTSUPP, f"this libcnm only knows structure {STRUCTURE.version}")
            return [], generation
        if step.change.operation == "add" and version == table.version:
            if step.woken:
                step.done = True
            else:
                step.refuse(errno.EEXIST)
            return [], generation
        if found is not None and found.flags:
            # A table that sleeps cannot be changed in the transaction that wakes it.
            woken = self._door.transact([make_table(table.name, new=False)], self._deadline, generation)
            if not woken or woken.get(WHOLE, (0, None))[0] == ERESTART:
                step.woken = not woken
                raise Stale
            step.refuse(*next(iter(woken.values())))
            return [], generation
        return list(nft_table.make(table.name, found)), generation


def _blame(steps: Sequence[Step], refusal: Refusal) -> None:
    number, words = refusal
    if len(steps) > 1:
        for step in steps:
            step.alone = True
        return
    [step] = steps
    if step.done:
        return
    if number == errno.EBUSY and not step.is_table and step.change.operation != "delete":
        number = errno.EEXIST  # the key is there, with other data
    step.refuse(number, words)
