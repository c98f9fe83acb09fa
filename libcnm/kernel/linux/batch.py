"""One call of ``apply`` while it runs: its borrowed channels, the messages waiting to be sent, and each change's
outcome.

Messages wait until another namespace's turn comes, the batch is full, or somebody must know how they went. It knows
sockets, batches and refusals; what a change means is written in links.py, rows.py and settings.py, which post to it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Sequence
from typing import Final

import attrs

from libcnm.errors import Invalid, KernelError
from libcnm.kernel.linux import pack, unpack
from libcnm.kernel.linux.channels import Channel, Channels
from libcnm.kernel.linux.effects import Announce
from libcnm.kernel.linux.transport import Refusal
from libcnm.kernel.linux.worker import door_failed
from libcnm.kernel.resources import LINK_GROUP, Address, Fdb, LoopbackGuard, Namespace, Neighbour, Route, Rule
from libcnm.model import limits
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Change

NO_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EOPNOTSUPP})
"""A link without IPv6 (a kernel without it, an MTU under 1,280) has no automatic addresses to switch off."""
NEEDS_PRIVILEGE: Final = "this needs root, or a user namespace of its own"
OUR_GROUPS: Final = frozenset({LINK_GROUP, pack.INNER_GROUP})
NOT_THERE: Final = frozenset({errno.EADDRNOTAVAIL, errno.ESRCH, errno.ENODEV, errno.ENXIO})
"""How the kernel says of a row, differently for each kind, that there is nothing to delete: ENOENT to our callers."""
_ANY: Final = frozenset(errno.errorcode)
"""For what is only asked."""
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


def _doomed(changes: Sequence[Change]) -> frozenset[str]:
    """The namespaces that the changes only take away: no need to tidy up in there."""
    gone = (one.resource for one in changes if one.operation == "delete")
    used = {one.resource.identity[1] for one in changes if one.operation != "delete"}
    return frozenset(one.name for one in gone if isinstance(one, Namespace)) - used


@attrs.define
class Posted:
    """One message on its way; ``accepted`` once the kernel has done it."""

    message: bytes
    change: int
    tolerated: Collection[int]
    undo: bytes | None
    heard: Callable[[bytes], None] | None
    words: str | None
    accepted: bool = False


def _no_link(name: str) -> str:
    return f"there is no link {name!r}"


class Batch:
    """The state of one ``apply``."""

    def __init__(self, changes: Sequence[Change], channels: Channels, announce: Announce, deadline: Deadline) -> None:
        self.changes = changes
        self.deadline = deadline
        self.channels = channels
        self.outcomes: list[KernelError | None] = [None] * len(changes)
        self.doomed = _doomed(changes)
        self._announce = announce
        self._lent: dict[str, Channel] = {}
        self._fresh: set[str] = set()
        self._indexes: dict[tuple[str, str], int] = {}
        self._refused_links: set[tuple[str, str]] = set()
        self._ns = ""
        self._posted: list[Posted] = []
        self._raised: list[tuple[str, str]] = []
        self._pairs: dict[tuple[str, str], tuple[str, str, str | None]] = {}

    # -- channels ------------------------------------------------------------------------------------------------------

    def channel(self, ns: str) -> Channel:
        """The namespace's channel, borrowed until the end of the call; refused with ENOENT when there is no such
        namespace.
        """
        channel = self._lent.get(ns)
        if channel is None:
            try:
                channel = self.channels.lend(ns, self.deadline)
            except (FileNotFoundError, Invalid) as error:
                self.flush()  # what waits comes first, and so do its refusals
                if isinstance(error, FileNotFoundError):
                    raise Refused(errno.ENOENT, f"there is no namespace {ns!r}") from None
                raise Refused(errno.EINVAL, str(error)) from None
            except OSError as error:
                raise door_failed(error) from error
            self._lent[ns] = channel
        return channel

    def made(self, ns: str, channel: Channel) -> None:
        """A namespace was made in this call: it holds ``lo``, which is up, and nothing else."""
        self._lent[ns] = channel
        self._fresh.add(ns)

    def fresh(self, ns: str) -> bool:
        """Whether a namespace was made in this call."""
        return ns in self._fresh

    def release(self, ns: str) -> None:
        """Give a namespace's channel back now; it is about to go."""
        self._fresh.discard(ns)
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
        if change.operation == "delete" and (
            (code in NOT_THERE and isinstance(change.resource, _ROWS))
            or (code == errno.EINVAL and isinstance(change.resource, LoopbackGuard))  # not even a hook is there
        ):
            code = errno.ENOENT
        if self.outcomes[at] is None:
            hint = NEEDS_PRIVILEGE if code == errno.EPERM and words is None else None
            self.outcomes[at] = KernelError(code, subject_of(change), extack=words, hint=hint)

    def link_refused(self, ns: str, name: str) -> None:
        """A link could not be made. Whatever has its name is not it, unless it turns out to be ours."""
        self._refused_links.add((ns, name))

    # -- messages ------------------------------------------------------------------------------------------------------

    def post(
        self,
        ns: str,
        message: bytes,
        change: int,
        *,
        tolerated: Collection[int] = (),
        undo: bytes | None = None,
        heard: Callable[[bytes], None] | None = None,
        words: str | None = None,
    ) -> Posted:
        """Send a message with its neighbours in the list. ``undo`` is sent after it when it is refused; ``heard`` is
        given what the kernel says of it beside yes or no, if it does; ``words`` say why it was refused where the kernel
        does not.
        """
        if self._posted and (ns != self._ns or len(self._posted) == limits.BATCH_MESSAGES):
            self.flush()
        self.channel(ns)
        self._ns = ns
        posted = Posted(message, change, tolerated, undo, heard, words)
        self._posted.append(posted)
        return posted

    def flush(self) -> None:
        """Send what waits, and record what was refused."""
        if not self._posted:
            return
        posted, self._posted = self._posted, []
        undone: list[bytes] = []
        said: dict[int, bytes] = {}
        refusals = self._send([each.message for each in posted], said)
        for at, (each, refusal) in enumerate(zip(posted, refusals, strict=True)):
            if each.heard is not None and at in said:
                each.heard(said[at])
            each.accepted = refusal is None
            if refusal is None or refusal.errno in each.tolerated:
                continue
            self.refuse(each.change, refusal.errno, refusal.extack or each.words)
            if each.undo is not None and each.undo not in undone:
                undone.append(each.undo)
        if undone:
            self._send(undone)

    def _send(self, messages: Sequence[bytes], said: dict[int, bytes] | None = None) -> Sequence[Refusal | None]:
        with self._announce(f"send:{self._ns or 'host'}"), self.channel(self._ns).wire(self.deadline) as wire:
            return wire.send(messages, self.deadline, heard=said)

    def done(self, change: int) -> bool:
        """Send what waits; whether all of this change so far was accepted."""
        self.flush()
        return self.outcomes[change] is None

    def paired(self, inner: tuple[str, str], outer: tuple[str, str, str | None]) -> None:
        """A pair was made in this call: namespace and name of its inner end; those of its outer end, and its bridge."""
        self._pairs[inner] = outer

    def raised(self, ns: str, name: str, change: int) -> None:
        """A link was brought up: see to it that it carries packets when the call returns (:meth:`settle`)."""
        self.post(ns, pack.get_link(name), change, tolerated=_ANY)
        self._raised.append((ns, name))

    def settle(self) -> None:
        """Make the kernel notice now that the links brought up have a carrier: both ends of each pair, and the bridge.

        It notices by a work queue. Until then an end drops what it should send, a port forwards nothing, and a bridge
        that has just got its first port sends nothing itself, so that a first packet sent at once is lost and ARP
        tries again a second later (seen in one attach of ten). Asking about a link does its work at once
        (linkwatch_sync_dev in rtnl_getlink, Linux 6.7); older kernels merely answer.
        """
        self.flush()
        asked: dict[str, dict[bytes, None]] = {}
        for ns, name in self._raised:
            if (ns, name) not in self._pairs:
                self._settle_from_inside(ns, name)
                continue
            outer_ns, outer, bridge = self._pairs[ns, name]
            wanted = asked.setdefault(outer_ns, {})
            wanted[pack.get_link(outer)] = None
            if bridge is not None:
                wanted[pack.get_link(bridge)] = None  # after its port: only that gives it a carrier
        for ns, questions in asked.items():
            self._ask_all(ns, list(questions))

    def _settle_from_inside(self, ns: str, name: str) -> None:
        """The outer end of a pair that was there before, wherever it is, and the bridge it is a port of."""
        inner = self._answer(ns, pack.get_link(name))
        if inner is None or inner.kind != "veth" or not inner.link:
            return
        outer = self._answer(ns, pack.get_link(inner.link, nsid=inner.nsid))
        if outer is not None and outer.master:
            self._answer(ns, pack.get_link(outer.master, nsid=inner.nsid))

    def _answer(self, ns: str, question: bytes) -> unpack.Link | None:
        body = self._ask_all(ns, [question])[0]
        return None if body is None else unpack.link(body)

    def _ask_all(self, ns: str, questions: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for at in range(0, len(questions), limits.BATCH_MESSAGES):
            some = questions[at : at + limits.BATCH_MESSAGES]
            try:
                with self.channel(ns).wire(self.deadline) as wire:
                    found += [body for body, _ in wire.ask_all(some, self.deadline)]
            except Refused:  # a later change of the same call has taken the namespace away
                found += [None] * len(some)
        return found

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
            raise Refused(refusal.errno, refusal.extack or _no_link(link))
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
        if name == "lo" and self.channel(ns).made_here:
            return 1
        self.vouch(ns, name)
        index = unpack.index(self._ask(ns, name))
        self._indexes[ns, name] = index
        return index

    def seek(self, ns: str, name: str, change: int) -> None:
        """Have a link's index told with what waits to be sent; where there is no such link, the change is refused."""
        if (ns, name) not in self._indexes:
            self.vouch(ns, name)
            self.post(
                ns,
                pack.get_link(name),
                change,
                heard=lambda body: self.know(ns, name, unpack.index(body)),
                words=_no_link(name),
            )

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
