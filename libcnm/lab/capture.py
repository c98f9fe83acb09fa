"""What crosses the underlay, written to a pcap file while it happens; the lab's own tcpdump.

A packet socket in the underlay's namespace sees each frame once, where it enters from a host; a thread empties it. It
never sends anything. Sources: packet(7), Documentation/networking/timestamping.rst.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections.abc import Collection
from types import TracebackType
from typing import BinaryIO

from libcnm.errors import KernelError, Unavailable
from libcnm.kernel.linux import Home
from libcnm.lab.namespaces import inside
from libcnm.lab.packets import SNAP_OCTETS, Packet, decode, write_pcap_frame, write_pcap_header

_EVERY_PROTOCOL = 0x0300  # ETH_P_ALL in network byte order
_PACKET_OUTGOING = 4
_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35
_BUFFER_OCTETS = 8 << 20
_TIME = struct.Struct("@ll")


class Capture:
    """A capture under way; a context manager. ``packets`` are those so far, decoded; after the block, all of them."""

    def __init__(self, underlay: Home, path: str, *, ports: Collection[str]) -> None:
        self.path = path
        self._ports = frozenset(ports)
        self._frames: list[bytes] = []
        self._file = _create(path)
        try:
            write_pcap_header(self._file)
            self._socket = inside(underlay, _listen)
        except BaseException:
            self._file.close()
            raise
        self._stopping = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread: threading.Thread | None = threading.Thread(target=self._run, name="libcnm-capture", daemon=True)
        self._thread.start()

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def packets(self) -> list[Packet]:
        """What was seen, in order."""
        return [decode(frame) for frame in list(self._frames)]

    def stop(self) -> None:
        """Take what has arrived by now, then end; the file is complete afterwards. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        os.eventfd_write(self._stopping, 1)
        thread.join()
        os.close(self._stopping)
        self._socket.close()
        self._file.close()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._stopping, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            self._take()
            if self._stopping in ready:
                return

    def _take(self) -> None:
        while True:
            try:
                frame, extra, _, sender = self._socket.recvmsg(SNAP_OCTETS, 64, socket.MSG_DONTWAIT | socket.MSG_TRUNC)
            except BlockingIOError:
                return
            except OSError:
                continue  # a port went down: told once
            port, _, kind, *_ = sender
            if kind == _PACKET_OUTGOING or port not in self._ports:
                continue
            self._frames.append(frame)
            write_pcap_frame(self._file, _time(extra), frame, len(frame))


def _time(extra: list[tuple[int, int, bytes]]) -> int:
    """The kernel's own time stamp, in nanoseconds since the epoch."""
    for level, kind, data in extra:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(data) >= _TIME.size:
            seconds, rest = _TIME.unpack_from(data)
            return int(seconds * 1_000_000_000 + rest)
    return 0


def _create(path: str) -> BinaryIO:
    try:
        return open(path, "wb")
    except OSError as error:
        raise Unavailable(path, error.strerror or str(error)) from None


def _listen() -> socket.socket:
    try:
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _EVERY_PROTOCOL)
    except OSError as error:
        raise KernelError(error.errno or 0, "a packet socket on the underlay") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_OCTETS)
    except PermissionError:  # in a user namespace the administrator's limit holds
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_OCTETS)
    listener.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    return listener
