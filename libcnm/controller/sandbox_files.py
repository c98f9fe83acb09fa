"""A sandbox's ``hosts``, ``resolv.conf`` and ``hostname``: written in place from the records, so that a bind mount
stays.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from typing import Final

from libcnm.controller.context import Context
from libcnm.controller.desired import Plug
from libcnm.dns.files import hostname_file, hosts_file, resolv_conf_file
from libcnm.model.records import SandboxRecord

_TARGETS: Final = {"hosts": "/etc/hosts", "resolv.conf": "/etc/resolv.conf", "hostname": "/etc/hostname"}


def create(context: Context, record: SandboxRecord) -> None:
    """Make the folder and the three files of a sandbox to which nothing is attached yet."""
    if record.namespace:
        folder = context.settings.paths.sandbox(record.id)
        context.doors.files.make_folder(folder, 0o755)
        for name, text in contents(record, ()).items():
            context.doors.files.write(os.path.join(folder, name), text)


def write(
    context: Context, record: SandboxRecord, plugs: Iterable[Plug], *, before: Iterable[Plug] | None = None
) -> None:
    """Write those files that differ from what they are (``before``: from what they were for these endpoints).

    A sandbox of the host's own namespace has the host's own files and none of ours.
    """
    if not record.namespace:
        return
    folder = context.settings.paths.sandbox(record.id)
    known = _there(context, folder) if before is None else contents(record, before)
    if not known:
        context.doors.files.make_folder(folder, 0o755)
    for name, text in contents(record, plugs).items():
        if known.get(name) != text:
            context.doors.files.write(os.path.join(folder, name), text)


def _there(context: Context, folder: str) -> dict[str, str]:
    found = {name: context.doors.files.read(os.path.join(folder, name)) for name in _TARGETS}
    return {name: text for name, text in found.items() if text is not None}


def contents(record: SandboxRecord, plugs: Iterable[Plug]) -> dict[str, str]:
    """The three texts, by file name. Pure."""
    ranked = sorted(plugs, key=lambda plug: plug.order)
    own = [address.ip for plug in ranked for address in plug.endpoint.addresses]
    extra = [(name, ipaddress.ip_address(address)) for name, address in record.extra_hosts.items()]
    return {
        "hosts": hosts_file(record.hostname, own, domain=record.domain, extra=extra),
        "resolv.conf": resolv_conf_file(record.dns_search, record.dns_options),
        "hostname": hostname_file(record.hostname),
    }


def mounts(context: Context, record: SandboxRecord) -> dict[str, str]:
    """Where a container should see each file, and the file."""
    if not record.namespace:
        return {}
    folder = context.settings.paths.sandbox(record.id)
    return {target: os.path.join(folder, name) for name, target in _TARGETS.items()}
