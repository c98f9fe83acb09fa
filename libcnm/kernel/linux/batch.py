"""One call of ``apply`` while it runs: its borrowed channels, the messages waiting to be sent, and each change's
outcome.

Messages wait until another namespace's turn comes, the batch is full, or somebody must know how they went. It knows
sockets, batches and refusals; what a change means is written in links.py, rows.py and settings.py, which post to it.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Final

import attrs

from libcnm.errors import Invalid, KernelError, Unavailable
from libcnm.kernel.linux import pack, unpack
from libcnm.kernel.linux.channels import Channel, Channels
from libcnm.kernel.linux.effects import Announce
from libcnm.kernel.linux.transport import Refusal
from libcnm.kernel.resources import LINK_GROUP, Address, Fdb, Namespace, Neighbour, Route, Rule
from libcnm.model import limits
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Change

NO_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EOPNOTSUPP})
"""A link without IPv6 (a kernel without it, an MTU under 1,280) has no automatic addresses to switch off."""
NEEDS_PRIVILEGE: Final = "this needs root, or a user namespace of its own"
OUR_GROUPS: Final = frozenset({LINK_GROUP, pack.INNER_GROUP})
NOT_THERE: Final = frozenset({errno.EADDRNOTAVAIL, errno.ESRCH, errno.ENODEV, errno.ENXIO})
"""How the kernel says of a row, differently for each kind, that there is nothing to delete: ENOENT to our callers."""
_ROWS: Final = (Address, Route, Rule, Neighbour, Fdb)


class Refused(Exception):
    """A change cannot be made: the errno and, if there are any, words."""

    def __init__(self, code: int, words: str | None = None) -> None:
        super().__init__(code, words)
        self.errno = code
        self.words = words


def subject_of(change: Change) -> str:
    """The object of a change, for messages: its kind, its place and what tells it apart."""
    kind, ns, *rest = change.resource.identity
    place = f" in {ns}" if ns else ""
    vni = getattr(change.resource, "vni", None)
    return f"{change.operation} {kind} {' '.join(rest)}{place}{f' (VNI {vni})' if vni is not None else ''}"


@attrs.frozen
class _Posted:
    message: bytes
    change: int
    tolerated: Collection[int]
    undo: bytes | None


class Batch:
    """The state of one ``apply``."""

    def __init__(self, changes: Sequence[Change], channels: Channels, announce: Announce, deadline: Deadline) -> None:
        self.changes = changes
        self.deadline = deadline
        self.channels = channels
        self.outcomes: list[KernelError | None] = [None] * len(changes)
        self.doomed = {
            change.resource.name
            for change in changes
            if change.operation == "delete" and isinstance(change.resource, Namespace)
        }
        self._announce = announce
        self._lent: dict[str, Channel] = {}
        self._indexes: dict[tuple[str, str], int] = {}
        self._refused_links: set[tuple[str, str]] = set()
        self._ns = ""
        self._posted: list[_Posted] = []
        self._raised: list[tuple[str, str]] = []
        self._pairs: dict[tuple[str, str], tuple[str, str]] = {}

    # -- channels ------------------------------------------------------------------------------------------------------

    def channel(self, ns: str) -> Channel:
        """The namespace's channel, borrowed until the end of the call; refused with ENOENT when there is no such
        namespace.
        """
        channel = self._lent.get(ns)
        if channel is None:
            try:
                channel = self.channels.lend(ns, self.deadline)
            except FileNotFoundError:
                raise Refused(errno.ENOENT, f"there is no namespace {ns!r}") from None
            except Invalid as error:
                raise Refused(errno.EINVAL, str(error)) from None
            except OSError as error:
                raise Unavailable("the kernel door", str(error)) from error
            self._lent[ns] = channel
        return channel

    def made(self, ns: str, channel: Channel) -> None:
        """A namespace was made in this call: it holds ``lo`` and nothing else."""
        self._lent[ns] = channel

    def release(self, ns: str) -> None:
        """Give a namespace's channel back now; it is about to go."""
        channel = self._lent.pop(ns, None)
        if channel is not None:
            self.channels.give_back(channel)
        self._indexes = {key: index for key, index in self._indexes.items() if key[0] != ns}

    def close(self) -> None:
        """Give everything back."""
        for ns in list(self._lent):
            self.release(ns)

    # -- outcomes ------------------------------------------------------------------------------------------------------

    def refuse(self, at: int, code: int, words: str | None = None) -> None:
        """Record the first refusal of a change."""
        change = self.changes[at]
        if change.operation == "delete" and code in NOT_THERE and isinstance(change.resource, _ROWS):
            code = errno.ENOENT
        if self.outcomes[at] is None:
            hint = NEEDS_PRIVILEGE if code == errno.EPERM and words is None else None
            self.outcomes[at] = KernelError(code, subject_of(change), extack=words, hint=hint)

    def link_refused(self, ns: str, name: str) -> None:
        """A link could not be made. Whatever has its name is not it, unless it turns out to be ours."""
        self._refused_links.add((ns, name))

    # -- messages ------------------------------------------------------------------------------------------------------

    def post(
        self, ns: str, message: bytes, change: int, *, tolerated: Collection[int] = (), undo: bytes | None = None
    ) -> None:
        """Send a message with its neighbours in the list. ``undo`` is sent after it when it is refused."""
        if self._posted and (ns != self._ns or len(self._posted) == limits.BATCH_MESSAGES):
            self.flush()
        self.channel(ns)
        self._ns = ns
        self._posted.append(_Posted(message, change, tolerated, undo))

    def flush(self) -> None:
        """Send what waits, and record what was refused."""
        if not self._posted:
            return
        posted, self._posted = self._posted, []
        undone: list[bytes] = []
        for each, refusal in zip(posted, self._send([each.message for each in posted]), strict=True):
            if refusal is None or refusal.errno in each.tolerated:
                continue
            self.refuse(each.change, refusal.errno, refusal.extack)
            if each.undo is not None and each.undo not in undone:
                undone.append(each.undo)
        if undone:
            self._send(undone)

    def _send(self, messages: Sequence[bytes]) -> Sequence[Refusal | None]:
        with self._announce(f"send:{self._ns or 'host'}"), self.channel(self._ns).wire(self.deadline) as wire:
            return wire.send(messages, self.deadline)

    def done(self, change: int) -> bool:
        """Send what waits; whether all of this change so far was accepted."""
        self.flush()
        return self.outcomes[change] is None

    def paired(self, inner: tuple[str, str], outer: tuple[str, str]) -> None:
        """A pair was made in this call: the namespace and name of each end."""
        self._pairs[inner] = outer

    def raised(self, ns: str, name: str) -> None:
        """A link was brought up: see to it at the end that it carries packets when the call returns."""
        self._raised.append((ns, name))

    def settle(self) -> None:
        """Make the kernel notice now that the links brought up have a carrier, on both ends of each pair.

        It notices by a work queue, and until then a bridge port forwards nothing, so that a first packet sent at
        once is lost and ARP tries again a second later (seen in one attach of ten). Asking about a link does its
        work at once (linkwatch_sync_dev in rtnl_getlink, Linux 6.7); older kernels merely answer.
        """
        self.flush()
        for ns, name in self._raised:
            outer = self._pairs.get((ns, name))
            with suppress(Refused):  # a later change of the same call has taken the namespace away
                if outer is not None:
                    self._ask_about(*outer)
                body = self._ask_about(ns, name)
                link = None if body is None or outer is not None else unpack.link(body)
                if link is not None and link.kind == "veth" and link.link:
                    self._ask_about(ns, link.link, link.nsid)

    def _ask_about(self, ns: str, name: str | int, nsid: int | None = None) -> bytes | None:
        with self.channel(ns).wire(self.deadline) as wire:
            return wire.ask(pack.get_link(name, nsid=nsid), self.deadline)[0]

    # -- looking -------------------------------------------------------------------------------------------------------

    def look(self, ns: str, link: str) -> unpack.Link:
        """A link as it is now; refused with ENODEV when it is not there."""
        return unpack.link(self._ask(ns, link))

    def _ask(self, ns: str, link: str) -> bytes:
        self.flush()
        with self.channel(ns).wire(self.deadline) as wire:
            body, refusal = wire.ask(pack.get_link(link), self.deadline)
        if body is None:
            assert refusal is not None
            raise Refused(refusal.errno, refusal.extack or f"there is no link {link!r}")
        return body

    def ports(self, ns: str, bridge: int) -> list[int]:
        """The indexes of a bridge's ports."""
        self.flush()
        with self.channel(ns).wire(self.deadline) as wire:
            rows = wire.dump(pack.dump_links(master=bridge), self.deadline)
        return [link.index for link in map(unpack.link, rows) if link.master == bridge]

    def vni_holder(self, vni: int) -> str | None:
        """Which device of the host or of a pinned namespace has a VNI, in words; None when it is about to go with its
        own.
        """
        for ns in self.channels.names(self.deadline):
            try:
                with self.channels.lent(ns, self.deadline) as channel, channel.wire(self.deadline) as wire:
                    rows = wire.dump(pack.dump_links(), self.deadline)
            except FileNotFoundError:
                continue
            for link in map(unpack.link, rows):
                if link.kind == "vxlan" and unpack.u32_of(link.data, pack.IFLA_VXLAN_ID) == vni:
                    return f"{link.name} in {ns}" if ns else f"{link.name} of the host"
        return None

    def index(self, ns: str, name: str) -> int:
        """A link's index. Remembered for this call only: others may rename links and make new ones of the same name."""
        known = self._indexes.get((ns, name))
        if known is not None:
            return known
        if name == "lo" and self.channel(ns).next_index:
            return 1
        self.vouch(ns, name)
        index = unpack.index(self._ask(ns, name))
        self._indexes[ns, name] = index
        return index

    def know(self, ns: str, name: str, index: int) -> None:
        """A link was made at this index, in this call."""
        self._indexes[ns, name] = index

    def forget(self, ns: str, name: str) -> None:
        """The name no longer leads to that link."""
        self._indexes.pop((ns, name), None)

    def vouch(self, ns: str, name: str) -> None:
        """Refuse to touch somebody else's link that has the name of one we could not make."""
        if (ns, name) not in self._refused_links or self.channel(ns).ours:
            return
        if self.look(ns, name).group not in OUR_GROUPS:
            raise Refused(errno.ENODEV, f"the link {name!r} there is not ours")
