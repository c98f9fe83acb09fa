"""One netlink socket as a batch transport: many messages in one send, one outcome each, bounded by a deadline.

Only the last message of a send asks for an acknowledgement: the kernel answers every *refused* message anyway, in
order, so silence up to the last answer means success, and acknowledgements can neither overflow the receive buffer
nor cost a system call each. The transport never knows what its messages mean, nor in which namespace its socket
lives; it is used by one thread at a time. Sources: netlink(7), Documentation/userspace-api/netlink/intro.rst.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from libcnm.errors import DeadlineExceeded, Unavailable
from libcnm.kernel.linux import unpack
from libcnm.model import limits
from libcnm.model.deadline import Deadline

SOL_NETLINK: Final = 270
NETLINK_ADD_MEMBERSHIP, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 1, 10, 11, 12
SO_RCVBUFFORCE: Final = 33
RECEIVE_BUFFER_BYTES: Final = 1 << 20
RECEIVE_BYTES: Final = 1 << 16
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_MULTI, NLM_F_ACK, NLM_F_DUMP_INTR = 0x02, 0x04, 0x10
DUMP_ATTEMPTS: Final = 4
LONGEST_WAIT_SECONDS: Final = 3600.0
_NUMBER: Final = struct.Struct("=I")
_FLAGS: Final = struct.Struct("=H")


@attrs.frozen
class Refusal:
    """What the kernel said against one message."""

    errno: int
    extack: str | None = None


def prepare(sock: socket.socket) -> None:
    """Bind the socket and switch on what every netlink socket of ours wants."""
    sock.bind((0, 0))
    for option in (NETLINK_EXT_ACK, NETLINK_CAP_ACK, NETLINK_GET_STRICT_CHK):
        sock.setsockopt(SOL_NETLINK, option, 1)
    enlarge(sock, RECEIVE_BUFFER_BYTES)


def enlarge(sock: socket.socket, octets: int) -> None:
    """A receive buffer beyond the administrator's limit where we may (not in a user namespace), else up to it."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, octets)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, octets)


class Transport:
    """Owns a prepared netlink socket and its sequence numbers."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sequence = 0
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def close(self) -> None:
        """Close the socket; idempotent."""
        self._socket.close()

    def send(
        self, batch: Sequence[bytes], deadline: Deadline, *, heard: dict[int, bytes] | None = None
    ) -> list[Refusal | None]:
        """Send at most ``limits.BATCH_MESSAGES`` messages at once; what was refused, in order. In ``heard`` is put what
        the kernel says of a message beside that (an echo, an answer): the last body, by the message's position.

        Raises DeadlineExceeded (with ``outcome_unknown``) when the answers do not come in time, Unavailable when
        they were lost.
        """
        assert 0 < len(batch) <= limits.BATCH_MESSAGES
        first = self._sequence + 1
        last = self._sequence = self._sequence + len(batch)
        deadline.check("the kernel")
        try:
            self._socket.sendmsg([self._numbered(batch, first)])
        except OSError as error:
            raise Unavailable("netlink", str(error)) from error
        outcomes: list[Refusal | None] = [None] * len(batch)
        while True:
            for kind, flags, sequence, body in self._receive(deadline):
                # Earlier numbers are answers to a batch whose deadline ran out.
                if not first <= sequence <= last:
                    continue
                if kind == NLMSG_ERROR:
                    code, words = unpack.refusal(flags, body)
                    outcomes[sequence - first] = Refusal(code, words) if code else None
                    if sequence == last:
                        return outcomes
                elif heard is not None:
                    heard[sequence - first] = body

    def ask(self, request: bytes, deadline: Deadline) -> tuple[bytes | None, Refusal | None]:
        """One question with one answer: its body, or the refusal."""
        return self.ask_all([request], deadline)[0]

    def ask_all(self, requests: Sequence[bytes], deadline: Deadline) -> list[tuple[bytes | None, Refusal | None]]:
        """Questions with one answer each, in one send and answered in their order."""
        assert 0 < len(requests) <= limits.BATCH_MESSAGES
        first = self._sequence + 1
        self._sequence += len(requests)
        self._question(self._joined(requests, first), deadline)
        answers: list[tuple[bytes | None, Refusal | None]] = []
        while True:
            for kind, flags, sequence, body in self._receive(deadline):
                if sequence != first + len(answers):
                    continue
                refused = Refusal(*unpack.refusal(flags, body)) if kind == NLMSG_ERROR else None
                answers.append((None if refused else body, refused))
                if len(answers) == len(requests):
                    return answers

    def dump(self, request: bytes, deadline: Deadline) -> list[bytes]:
        """Everything of a kind. Asked again when the kernel says that the answer was torn by a change meanwhile."""
        rows, torn = self._dump_once(request, deadline)
        for _again in range(DUMP_ATTEMPTS - 1):
            if not torn:
                break
            rows, torn = self._dump_once(request, deadline)
        return rows  # even a torn dump only misses or repeats what is changing right now: an event makes us look again

    def _dump_once(self, request: bytes, deadline: Deadline) -> tuple[list[bytes], bool]:
        self._sequence += 1
        self._question(self._joined([request], self._sequence), deadline)
        rows: list[bytes] = []
        torn = False
        while True:
            for kind, flags, sequence, body in self._receive(deadline):
                if sequence != self._sequence:
                    continue
                torn = torn or bool(flags & NLM_F_DUMP_INTR)
                if kind == NLMSG_DONE:
                    return rows, torn
                if kind == NLMSG_ERROR:
                    code, words = unpack.refusal(flags, body)
                    if code in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.ENOENT, errno.ENODEV):
                        return [], False  # a family, table or link that is not there holds no rows
                    raise Unavailable("netlink dump", words or errno.errorcode.get(code, str(code)))
                rows.append(body)

    def _question(self, messages: bytearray, deadline: Deadline) -> None:
        deadline.check("the kernel")
        try:
            self._socket.send(messages)
        except OSError as error:
            raise Unavailable("netlink", str(error)) from error

    def _joined(self, batch: Sequence[bytes], first: int) -> bytearray:
        """The batch as one buffer, numbered from ``first``."""
        buffer = bytearray(b"".join(batch))
        at = 8
        for number, message in enumerate(batch, first):
            _NUMBER.pack_into(buffer, at, number)
            at += len(message)
        return buffer

    def _numbered(self, batch: Sequence[bytes], first: int) -> bytearray:
        """The batch as one buffer: numbered from ``first``, the last message asking for an acknowledgement."""
        buffer = self._joined(batch, first)
        last = len(buffer) - len(batch[-1])
        _FLAGS.pack_into(buffer, last + 6, _FLAGS.unpack_from(buffer, last + 6)[0] | NLM_F_ACK)
        return buffer

    def _receive(self, deadline: Deadline) -> Iterator[tuple[int, int, int, bytes]]:
        try:
            data = self._socket.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            # Answers are there when the send returns, so this is the rare way.
            if not self._poll.poll(min(deadline.remaining(), LONGEST_WAIT_SECONDS) * 1000):
                raise DeadlineExceeded("the kernel's answer", deadline.budget, outcome_unknown=True) from None
            return iter(())
        except OSError as error:
            raise Unavailable("netlink", str(error), outcome_unknown=True) from error
        if not data:
            raise Unavailable("netlink", "the socket was closed", outcome_unknown=True)
        return unpack.messages(data)
