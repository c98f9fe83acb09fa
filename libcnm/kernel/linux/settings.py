"""Namespaces and sysctls: the changes that happen on the worker's thread, not through a netlink socket.

It turns changes into trips and their refusals into outcomes; how a namespace is pinned is namespaces.py's.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Sequence
from typing import Final

from libcnm.errors import Invalid
from libcnm.kernel.linux.batch import Batch, Refused
from libcnm.kernel.linux.channels import Channels
from libcnm.kernel.linux.effects import Announce
from libcnm.kernel.linux.namespaces import Namespaces, write_sysctl
from libcnm.kernel.linux.worker import Worker
from libcnm.kernel.resources import Namespace, Sysctl
from libcnm.model.resource import Change

_KEY: Final = re.compile(r"net(/[^/\0]+)+")
"""Below ``net`` only: everything else is the whole machine's, whichever namespace it is written from."""


def sysctl_key(key: str) -> str:
    """The key, if it is one that may be touched."""
    if not _KEY.fullmatch(key) or any(part in (".", "..") for part in key.split("/")):
        raise Refused(errno.EINVAL, f"{key!r} is not the name of a network sysctl")
    return key


class Settings:
    """The changes of one door that need its worker."""

    def __init__(
        self,
        worker: Worker,
        namespaces: Namespaces,
        channels: Channels,
        announce: Announce,
        on_gone: Callable[[str], None],
    ) -> None:
        self._worker = worker
        self._namespaces = namespaces
        self._channels = channels
        self._announce = announce
        self._on_gone = on_gone

    def namespace(self, batch: Batch, at: int, change: Change, resource: Namespace) -> None:
        """Make, bring or let go of a namespace."""
        batch.flush()
        try:
            if change.operation == "delete":
                batch.release(resource.name)
                self._on_gone(resource.name)
                self._worker.call(lambda: self._unpin(resource.name), batch.deadline)
            elif change.operation == "change":
                raise Refused(errno.EOPNOTSUPP, "a namespace has nothing to change")
            elif resource.source is None:
                batch.made(resource.name, batch.channels.make(resource.name, batch.deadline))
            else:
                source = resource.source
                self._worker.call(lambda: self._namespaces.adopt(resource.name, source), batch.deadline)
        except Invalid as error:
            raise Refused(errno.EINVAL, str(error)) from None
        except OSError as error:
            words = None if error.errno == errno.EPERM else f"{error.strerror}: {error.filename}"
            raise Refused(error.errno or errno.EIO, words) from None

    def _unpin(self, name: str) -> None:
        self._namespaces.unpin(name)
        self._channels.drop_unpinned()

    def sysctls(self, batch: Batch, first: int, run: Sequence[Sysctl]) -> None:
        """Write consecutive settings of one namespace in one trip."""
        batch.flush()
        writes: list[tuple[int, str, str]] = []
        for at, resource in enumerate(run, first):
            value = resource.restore if batch.changes[at].operation == "delete" else resource.value
            try:
                if value is not None:
                    writes.append((at, sysctl_key(resource.key), value.strip()))
            except Refused as refused:
                batch.refuse(at, refused.errno, refused.words)
        if not writes:
            return
        namespace = batch.channel(run[0].ns)

        def write() -> list[tuple[int, OSError]]:
            refused: list[tuple[int, OSError]] = []
            for at, key, value in writes:
                with self._announce(f"sysctl:{key}"):
                    try:
                        write_sysctl(key, value)
                    except OSError as error:
                        refused.append((at, error))
            return refused

        for at, error in self._worker.call(lambda: self._worker.visit(namespace.fd, write), batch.deadline):
            batch.refuse(at, error.errno or errno.EIO, f"{error.strerror}: {batch.changes[at].resource.identity[2]}")
