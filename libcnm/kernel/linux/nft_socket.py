"""One nf_tables netlink socket: transactions, dumps and single questions, with every reply accounted for.

A transaction is one sendmsg from BATCH_BEGIN to BATCH_END; the kernel makes all of it or nothing, and reports every
message that failed. Only the last message asks for an acknowledgement, so that replies are few however long the
transaction is. Knows nothing of our table. Law: net/netfilter/nfnetlink.c (nfnetlink_rcv_batch),
include/uapi/linux/netlink.h.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final

from libcnm.errors import DeadlineExceeded, Unavailable
from libcnm.kernel.base import Effect
from libcnm.kernel.linux import nft_wire as wire
from libcnm.model.deadline import Deadline

_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_BUFFER_BYTES: Final = 4 * 1024 * 1024
"""Room for a transaction with tens of thousands of elements, and for as many refusals."""
_DATAGRAM_BYTES: Final = 128 * 1024
_REPLY_BYTES: Final = 1024
"""What a reply takes of the receive buffer, bookkeeping included."""
ERESTART: Final = 85
"""The ruleset is no longer of the generation that the transaction was made for (the errno module lacks the name)."""
WHOLE: Final = -1
"""Stands for the transaction itself among the messages that failed."""

Refusal = tuple[int, str | None]
"""Errno, and the kernel's own words if it had some."""


class Refused(Exception):
    """The kernel refused a question: nothing was read. Internal to the nft modules."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.errno = number


class Stale(Exception):
    """The ruleset changed while it was being read. Internal to the nft modules."""


class NftSocket:
    """Not thread-safe: its owner lets one thread in at a time."""

    def __init__(self, opened: socket.socket, effect: Callable[[], Effect]) -> None:
        self._socket = opened
        self._effect = effect
        self._sequence = 0
        opened.setblocking(False)
        for force, plain in ((_SO_SNDBUFFORCE, socket.SO_SNDBUF), (_SO_RCVBUFFORCE, socket.SO_RCVBUF)):
            try:
                opened.setsockopt(socket.SOL_SOCKET, force, _BUFFER_BYTES)
            except PermissionError:  # a user namespace is bound to the host's limits
                opened.setsockopt(socket.SOL_SOCKET, plain, _BUFFER_BYTES)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
            with contextlib.suppress(OSError):  # older than Linux 4.12: no words, but it works
                opened.setsockopt(_SOL_NETLINK, option, 1)
        self.limit = min(opened.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF), _BUFFER_BYTES) - 1024
        """The largest transaction in octets; the kernel refuses a send that exceeds the buffer."""

        self.replies = max(8, opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // _REPLY_BYTES)
        """How many refusals the socket can hold until they are read; more are lost, which is noticed and costs time."""

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()

    # -- transactions --------------------------------------------------------------------------------------------------

    def transact(
        self, packed: Sequence[bytearray], deadline: Deadline, generation: int | None = None
    ) -> dict[int, Refusal]:
        """Send the messages as one transaction; what failed by position (or :data:`WHOLE`). Empty: all of it is done.

        With ``generation`` it happens only if the ruleset is still of that generation (else WHOLE: ERESTART).
        """
        edge = wire.number(wire.BATCH_GENID, generation) if generation is not None else b""
        whole = [wire.batch_edge(wire.BATCH_BEGIN, edge), *packed, wire.batch_edge(wire.BATCH_END)]
        first = self._sequence + 1
        self._sequence += len(whole)
        for position, message in enumerate(whole):
            wire.number_message(message, first + position, acknowledge=position == len(packed))
        self._drain()
        effect = self._effect()
        effect("nft", "before")
        try:
            self._socket.send(b"".join(whole))
        except OSError as error:
            raise Unavailable("nf_tables", f"send: {error.strerror}") from error
        refusals = self._refusals(first, len(packed), deadline)
        effect("nft", "after")
        return refusals

    def _refusals(self, first: int, count: int, deadline: Deadline) -> dict[int, Refusal]:
        """Collect replies until the last message's; the kernel had written all of them when the send returned."""
        refusals: dict[int, Refusal] = {}
        lost = False
        while True:
            try:
                datagram = self._receive(deadline, wait=not refusals and not lost)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise Unavailable("nf_tables", f"receive: {error.strerror}", outcome_unknown=True) from error
                # Only refusals can be that many, and one refusal is enough for the kernel to have undone everything.
                lost = True
                continue
            if datagram is None:
                break
            for kind, flags, sequence, body in wire.messages(datagram):
                position = sequence - first
                if kind != wire.NLMSG_ERROR or not 0 <= position <= count + 1:
                    continue
                number, words = wire.error_of(flags, body)
                if number:
                    refusals[position - 1 if 0 < position <= count else WHOLE] = (number, words)
                elif position == count and not refusals and not lost:
                    return {}
        if not refusals:
            raise Unavailable("nf_tables", "the kernel's replies were lost", outcome_unknown=True)
        return refusals

    # -- questions -----------------------------------------------------------------------------------------------------

    def generation(self, deadline: Deadline) -> int:
        """Number of the ruleset's generation: another one after every transaction of anybody."""
        [body] = self.ask(wire.GETGEN, b"", deadline, dump=False, family=socket.AF_UNSPEC)
        return wire.to_number(wire.attributes(body)[wire.GEN_ID])

    def ask(
        self, operation: int, body: bytes, deadline: Deadline, *, dump: bool = True, family: int = wire.INET
    ) -> list[bytes]:
        """The answers' attributes. :class:`Refused` with the kernel's errno; :class:`Stale` when it says
        "inconsistent".
        """
        self._sequence += 1
        question = wire.message(operation, body, wire.NLM_F_DUMP if dump else 0, family)
        wire.number_message(question, self._sequence)
        self._drain()
        try:
            self._socket.send(question)
        except OSError as error:
            raise Unavailable("nf_tables", f"send: {error.strerror}") from error
        answers: list[bytes] = []
        stale = False
        while True:
            try:
                datagram = self._receive(deadline, wait=True)
            except OSError as error:
                raise Unavailable("nf_tables", f"receive: {error.strerror}") from error
            for kind, flags, sequence, payload in wire.messages(datagram or b""):
                if sequence != self._sequence:
                    continue
                stale = stale or bool(flags & wire.NLM_F_DUMP_INTR)
                if kind in (wire.NLMSG_ERROR, wire.NLMSG_DONE):
                    number = -struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else 0
                    if number:
                        raise Refused(number)
                    if stale:
                        raise Stale
                    return answers
                answers.append(payload[4:])  # after struct nfgenmsg
            if answers and not dump:
                return answers

    # -- receiving -----------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Throw away what a call that was interrupted has left unread."""
        while True:
            try:
                self._socket.recv(_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS is told once, then reading goes on
                continue

    def _receive(self, deadline: Deadline, *, wait: bool) -> bytes | None:
        """One datagram; None when there is none and we do not ``wait``."""
        while True:
            try:
                return self._socket.recv(_DATAGRAM_BYTES)
            except BlockingIOError:
                if not wait:
                    return None
            if deadline.remaining() <= 0:
                raise DeadlineExceeded("nf_tables", deadline.budget, outcome_unknown=True)
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            poll.poll(max(1, int(deadline.remaining() * 1000)))
