"""A sandbox's ``hosts``, ``resolv.conf`` and ``hostname``: written in place from the records, so that a bind mount
stays.

As values (:class:`SandboxFile`) they are compared by reconcile like anything in the kernel: one that was damaged or
removed by hand is a difference, and is written again.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from typing import ClassVar, Final

import attrs

from libcnm.controller.context import Context
from libcnm.controller.desired import Plug
from libcnm.dns.files import hostname_file, hosts_file, resolv_conf_file
from libcnm.model.records import SandboxRecord
from libcnm.model.resource import Identity, Observed, Resource

_TARGETS: Final = {"hosts": "/etc/hosts", "resolv.conf": "/etc/resolv.conf", "hostname": "/etc/hostname"}
_MODE: Final = 0o644
_FOLDER_MODE: Final = 0o755
_SHOWN: Final = 200


def _shown(text: str) -> str:
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}... ({len(text)} characters)"


@attrs.frozen
class SandboxFile(Resource):
    """One of the files, as it should be or as it is."""

    kind: ClassVar[str] = "file"

    path: str
    text: str = attrs.field(repr=_shown)
    mode: int = attrs.field(default=_MODE, repr=oct)

    @property
    def identity(self) -> Identity:
        return (self.kind, "", self.path)


def create(context: Context, record: SandboxRecord) -> None:
    """Make the folder and the three files of a sandbox to which nothing is attached yet."""
    write(context, record, (), before=None)


def write(
    context: Context, record: SandboxRecord, plugs: Iterable[Plug], *, before: Iterable[Plug] | None = None
) -> None:
    """Write those files that differ from what they are (``before``: from what they were for these endpoints).

    A sandbox of the host's own namespace has the host's own files and none of ours.
    """
    if not record.namespace:
        return
    folder = context.settings.paths.sandbox(record.id)
    # Somebody may have removed the folder since: then nothing is as it was.
    anew = context.doors.files.make_folder(folder, _FOLDER_MODE)
    if anew or before is None:
        texts = contents(record, plugs)
    else:  # the others depend on the sandbox alone
        text = _hosts(record, plugs)
        texts = {} if text == _hosts(record, before) else {"hosts": text}
        anew = True  # the text is another than the file's, so that need not be read
    for name, text in texts.items():
        context.doors.files.write(f"{folder}/{name}", text, _MODE, anew=anew)


def wanted(context: Context, record: SandboxRecord, plugs: Iterable[Plug]) -> list[SandboxFile]:
    """The files as they should be for these endpoints."""
    if not record.namespace:
        return []
    folder = context.settings.paths.sandbox(record.id)
    return [SandboxFile(f"{folder}/{name}", text) for name, text in contents(record, plugs).items()]


def observe(context: Context, file: SandboxFile) -> Observed | None:
    """The file as it is; None when there is none, or something else in its place. It is ours wherever it is."""
    found = context.doors.files.look(file.path)
    return None if found is None else Observed(SandboxFile(file.path, *found), ours=True)


def restore(context: Context, file: SandboxFile) -> None:
    """Write a file again, whatever became of it or of its folder; the sandbox's lock is held."""
    files = context.doors.files
    files.make_folder(os.path.dirname(file.path), _FOLDER_MODE)
    if files.look(file.path) is None:
        files.remove(file.path)  # a link that somebody has put there, most of all
    files.write(file.path, file.text, file.mode)


def contents(record: SandboxRecord, plugs: Iterable[Plug]) -> dict[str, str]:
    """The three texts, by file name. Pure."""
    return {
        "hosts": _hosts(record, plugs),
        "resolv.conf": resolv_conf_file(record.dns_search, record.dns_options),
        "hostname": hostname_file(record.hostname),
    }


def _hosts(record: SandboxRecord, plugs: Iterable[Plug]) -> str:
    ranked = sorted((plug for plug in plugs if not plug.is_gateway), key=lambda plug: plug.order)
    own = [address.ip for plug in ranked for address in plug.endpoint.addresses]
    extra = [(name, ipaddress.ip_address(address)) for name, address in record.extra_hosts.items()]
    return hosts_file(record.hostname, own, domain=record.domain, extra=extra)


def mounts(context: Context, record: SandboxRecord) -> dict[str, str]:
    """Where a container should see each file, and the file."""
    if not record.namespace:
        return {}
    folder = context.settings.paths.sandbox(record.id)
    return {target: f"{folder}/{name}" for name, target in _TARGETS.items()}
