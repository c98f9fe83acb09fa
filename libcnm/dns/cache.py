"""Replies kept for the next time they are asked for. Pure; one per sandbox, so that nobody throws out another's.

An entry carries the stamp that the zones had before it was made, and is worth nothing under any other: a change of one
endpoint costs nothing here, whatever the number of sandboxes. Least recently used goes first, by halves: entries are
found in the young half or the old one, move to the young one when used, and when that is full it becomes the old one.
So a hit costs one look-up in a dict, and no list is kept in order.
"""

from __future__ import annotations

from libcnm.dns.answer import Reply


class ReplyCache:
    """At most twice ``half`` entries; ``half`` may be changed at any time."""

    def __init__(self, half: int) -> None:
        self.half = half
        self._young: dict[bytes, tuple[int, Reply]] = {}
        self._old: dict[bytes, tuple[int, Reply]] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: bytes, stamp: int) -> Reply | None:
        """The reply kept under ``key`` if it was made under this very ``stamp``."""
        entry = self._young.get(key)
        if entry is None:
            entry = self._old.pop(key, None)
            if entry is None:
                return None
            self._add(key, entry)
        return entry[1] if entry[0] == stamp else None

    def put(self, key: bytes, stamp: int, reply: Reply) -> None:
        """Keep ``reply``; ``stamp`` must have been read before the look-up it came from."""
        self._add(key, (stamp, reply))

    def clear(self) -> None:
        """Forget everything."""
        self._young = {}
        self._old = {}

    def _add(self, key: bytes, entry: tuple[int, Reply]) -> None:
        if len(self._young) >= self.half and key not in self._young:
            self._old = self._young
            self._young = {}
        self._young[key] = entry
