"""One namespace as it is now: its dumps, taken when first asked for, and names for what only has a number.

Reading goes through it, so that a read takes each dump once and every kind sees the same links. It knows rows, and
which namespace a pair's other end is in; which row is a resource of ours is read.py's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

import attrs

from libcnm.kernel.linux import pack, unpack
from libcnm.kernel.linux.batch import OUR_GROUPS
from libcnm.kernel.linux.channels import Channel
from libcnm.kernel.linux.links import parked_name
from libcnm.kernel.resources import PARKED_GROUP
from libcnm.model.deadline import Deadline

UNKNOWN: str = "?"
"""The name of a namespace that we have not pinned."""

Pins = Callable[[Sequence[str]], Iterable[tuple[str, int]]]
"""Names of namespaces with a descriptor of each (the caller closes it), those named first coming first."""


@attrs.frozen
class Peer:
    """The other end of a pair."""

    ns: str
    name: str
    mac: str


def parked(link: unpack.Link) -> bool:
    """Whether a link waits for the sweep: the outer ends are in the group, the inner ones have only the name."""
    return link.group == PARKED_GROUP or link.name == parked_name(link.index)


class View:
    """A namespace being read."""

    def __init__(self, channel: Channel, deadline: Deadline, pins: Pins) -> None:
        self.ns = channel.name
        self.ours = channel.ours
        self._channel = channel
        self._deadline = deadline
        self._pins = pins
        self._namespaces: dict[int, str] = {}
        self._all_known = False

    def dump(self, request: bytes) -> list[bytes]:
        """The bodies of a dump's messages."""
        with self._channel.wire(self._deadline) as wire:
            return wire.dump(request, self._deadline)

    def ask(self, request: bytes) -> bytes | None:
        """The answer to one question; None when the kernel has none."""
        with self._channel.wire(self._deadline) as wire:
            return wire.ask(request, self._deadline)[0]

    @cached_property
    def links(self) -> Mapping[int, unpack.Link]:
        """All links that are in use, by index."""
        found = [unpack.link(body) for body in self.dump(pack.dump_links())]
        return {link.index: link for link in found if not parked(link)}

    def find(self, name: str) -> unpack.Link | None:
        """A link by name, without a dump."""
        body = self.ask(pack.get_link(name))
        link = None if body is None else unpack.link(body)
        return None if link is None or parked(link) else link

    def marked(self, link: unpack.Link) -> bool:
        """Whether a link is ours."""
        return self.ours or link.group in OUR_GROUPS

    def name_of(self, index: int) -> str | None:
        """A link's name, by the dump if there was one."""
        if "links" in self.__dict__:
            link = self.links.get(index)
        else:
            body = self.ask(pack.get_link(index)) if index else None
            link = None if body is None else unpack.link(body)
        return None if link is None or link.group == PARKED_GROUP else link.name

    def peer(self, link: unpack.Link, expected: str | None = None) -> Peer:
        """The other end of a veth; ``expected`` is the namespace to look in first."""
        body = self.ask(pack.get_link(link.link, nsid=link.nsid))
        if body is None:
            return Peer(UNKNOWN, "", "")
        other = unpack.link(body)
        return Peer(self._namespace(link.nsid, expected), other.name, other.mac)

    def _namespace(self, nsid: int | None, expected: str | None) -> str:
        """The name of the namespace that the kernel calls ``nsid`` here (it only answers the reverse question)."""
        if nsid is None:
            return self.ns
        if nsid not in self._namespaces and not self._all_known:
            for name, fd in self._pins([] if expected is None else [expected]):
                try:
                    body = self.ask(pack.get_nsid(fd))
                finally:
                    os.close(fd)
                if body is not None:
                    self._namespaces.setdefault(unpack.nsid(body), name)
                if nsid in self._namespaces and expected is not None:
                    break
            else:  # others' containers are in namespaces that we have not pinned: look for none of them twice
                self._all_known = True
        return self._namespaces.get(nsid, UNKNOWN)
