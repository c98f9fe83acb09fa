"""The store contract: what Consul and etcd both can, and no more.

A store is a flat, ordered map of string keys to byte values. Each key carries a *version*, a positive integer that
is different after every write of that key and never comes back. One transaction compares and writes at most
:data:`~libcnm.model.limits.TRANSACTION_OPERATIONS` keys, all or nothing. A watch is a hint only: on any error, gap or
compaction the reader lists again. Revisions are opaque and belong to the prefix they were read for.

What a store must never know: what the records mean. Every call takes a :class:`~libcnm.model.deadline.Deadline` and
ends by it, with :class:`~libcnm.errors.DeadlineExceeded` or :class:`~libcnm.errors.Unavailable`; a write whose reply
was lost says ``outcome_unknown=True``.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from types import TracebackType
from typing import ClassVar, Final, NewType, Self

import attrs

from libcnm.errors import Invalid
from libcnm.model import limits
from libcnm.model.deadline import Deadline

Revision = NewType("Revision", int)
"""An opaque point in a prefix's history. Compare only for equality, or as the store's own ``reached``."""


@attrs.frozen
class Entry:
    """One key as it was read."""

    key: str
    value: bytes
    version: int


@attrs.frozen
class Listing:
    """Everything under a prefix at one instant, sorted by key, and the revision to watch from."""

    entries: tuple[Entry, ...]
    revision: Revision


@attrs.frozen
class Absent:
    """Compare: the key does not exist."""

    key: str


@attrs.frozen
class VersionIs:
    """Compare: the key exists and has exactly this version."""

    key: str
    version: int


@attrs.frozen
class Put:
    """Write: the key has this value afterwards. With ``lease`` it vanishes when that lease ends."""

    key: str
    value: bytes
    lease: str | None = None


@attrs.frozen
class Delete:
    """Write: the key does not exist afterwards (also if it did not before)."""

    key: str


Compare = Absent | VersionIs
Write = Put | Delete


def _compares(compares: Iterable[Compare]) -> tuple[Compare, ...]:
    return tuple(compares)


def _writes(writes: Iterable[Write]) -> tuple[Write, ...]:
    return tuple(writes)


@attrs.frozen
class Transaction:
    """Compares and writes that happen together or not at all. ``a + b`` is both."""

    compares: tuple[Compare, ...] = attrs.field(default=(), converter=_compares)
    writes: tuple[Write, ...] = attrs.field(default=(), converter=_writes)

    def __add__(self, other: Transaction) -> Transaction:
        if not (other.compares or other.writes):
            return self
        if not (self.compares or self.writes):
            return other
        return Transaction(self.compares + other.compares, self.writes + other.writes)

    def check(self) -> None:
        """Refuse what one of the stores could not take; raises :class:`~libcnm.errors.Invalid`."""
        operations = len(self.compares) + len(self.writes)
        if operations > limits.TRANSACTION_OPERATIONS:
            raise Invalid("transaction", operations, f"operations are more than {limits.TRANSACTION_OPERATIONS}")
        written = [write.key for write in self.writes]
        if len(set(written)) != len(written):
            raise Invalid("transaction", written, "writes a key twice")
        size = sum(len(w.key) + len(w.value) for w in self.writes if isinstance(w, Put))
        if size > limits.TRANSACTION_BYTES:
            raise Invalid("transaction", size, f"bytes are more than {limits.TRANSACTION_BYTES}")
        for key in {*written, *(compare.key for compare in self.compares)}:
            check_key(key)


NOTHING: Final = Transaction()
"""For whoever has nothing to add."""


def together(*parts: Transaction) -> Transaction:
    """All of the parts as one: ``a + b + c`` without those in between."""
    return Transaction([one for part in parts for one in part.compares], [one for part in parts for one in part.writes])


_is_key = re.compile(rf"(?!/)[!-~]{{1,{limits.KEY_BYTES}}}").fullmatch


def check_key(key: str) -> None:
    """Keys are printable ASCII without blanks, at most 512 bytes, not empty, no leading slash (Consul's rule)."""
    if not _is_key(key):
        hint = "1 to 512 printable ASCII characters, not starting with '/'"
        raise Invalid("key", key, "is not a store key", hint=hint)


def check_prefix(prefix: str) -> None:
    """A prefix is empty (everything) or could begin a key; raises :class:`~libcnm.errors.Invalid`."""
    if len(prefix) > limits.KEY_BYTES or not _is_plain(prefix):
        raise Invalid("prefix", prefix, "cannot begin a store key", hint="printable ASCII, not starting with '/'")


def after_prefix(prefix: str) -> str:
    """The end (exclusive) of the range of keys that start with ``prefix``: DEL sorts after all that a key may hold."""
    return prefix + "\x7f"


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text and not text.startswith("/")


@attrs.frozen
class Committed:
    """A transaction that happened: the new version of each key that was put, and the revision it made."""

    versions: dict[str, int]
    revision: Revision


@attrs.frozen
class Changed:
    """A watch's hint: these keys may have changed; everything up to ``revision`` is covered."""

    keys: tuple[str, ...]
    revision: Revision


@attrs.frozen
class Gap:
    """A watch's admission that it may have missed something: list again, then watch from that listing's revision."""

    reason: str


class Watch(ABC):
    """An open watch on one prefix. Not thread-safe; ``close`` may be called from any thread and ends a running
    ``next``.
    """

    @abstractmethod
    def next(self, timeout: float) -> Changed | Gap | None:
        """Wait up to ``timeout`` seconds for a hint; None when there was none (also after ``close``).

        It looks before it waits: ``next(0)`` answers None only if nothing under the prefix was committed, by any
        process, between what this watch has covered and the call. A store may give one hint for each commit, so call
        it until None. After a :class:`Gap` the watch goes on from then: list, and either keep it or open another.
        Never raises an error of the store; a store out of reach is a Gap, and the listing that follows says why.
        """

    @abstractmethod
    def close(self) -> None:
        """Release what the watch holds; idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Lease(ABC):
    """Keys written with ``Put(lease=lease.id)`` vanish when it is not kept alive for its time to live."""

    id: str
    seconds: float

    @abstractmethod
    def keep_alive(self, *, deadline: Deadline) -> None:
        """Start its time to live anew; :class:`~libcnm.errors.NotFound` when it has already ended."""

    @abstractmethod
    def revoke(self, *, deadline: Deadline) -> None:
        """End it now, its keys with it; idempotent."""


class Store(ABC):
    """One store. All methods are thread-safe. Errors: Unavailable, DeadlineExceeded, Conflict, Invalid, Corrupt."""

    scheme: ClassVar[str]
    """The URL scheme it answers to."""

    @abstractmethod
    def get(self, key: str, *, deadline: Deadline) -> Entry | None:
        """The key as of now (never stale), or None."""

    def get_many(self, keys: Iterable[str], *, deadline: Deadline) -> dict[str, Entry]:
        """Those of the keys that exist. Not one instant: a decision made from it compares versions."""
        found = ((key, self.get(key, deadline=deadline)) for key in keys)
        return {key: entry for key, entry in found if entry is not None}

    @abstractmethod
    def list(self, prefix: str, *, deadline: Deadline) -> Listing:
        """All keys that start with ``prefix``, as of one instant, never stale."""

    @abstractmethod
    def transact(self, transaction: Transaction, *, deadline: Deadline, durable: bool = True) -> Committed:
        """Do it, or raise :class:`~libcnm.errors.Conflict` with the keys whose compare failed, having done nothing.

        :class:`~libcnm.errors.NotFound` when a ``Put`` names a lease that has ended; nothing is done then either.
        ``durable=False`` allows a store to let a power failure (never a crash of a process) lose it: for what does not
        outlive the boot anyway. A store for many hosts ignores that.
        """

    @abstractmethod
    def watch(self, prefix: str, revision: Revision) -> Watch:
        """Hints about changes under ``prefix`` after ``revision`` (of a listing or a commit)."""

    @abstractmethod
    def lease(self, seconds: float, *, deadline: Deadline) -> Lease:
        """A lease that lives ``seconds`` (at least 10) after its creation or last ``keep_alive``."""

    @abstractmethod
    def close(self) -> None:
        """Release everything; open watches end. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
