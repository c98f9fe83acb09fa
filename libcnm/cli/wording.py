"""Errors of the API in the words of the command line: options for parameters, commands for calls.

What an error is about is told by its field, what it advises by its remedy; its text is never searched. It never knows
what a command does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click

from libcnm.errors import CnmError, InUse, Invalid, Remedy

OTHER_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "address": ("ip",),
    "aliases": ("alias",),
    "dns option": ("dns_option",),
    "extra_hosts": ("add_host",),
    "labels": ("label",),
    "options": ("opt",),
    "ipam option": ("opt",),
    "port": ("publish", "ports"),
    "host port": ("publish", "ports"),
    "port address": ("publish", "ports"),
    "ports": ("publish",),
    "priority": ("gw_priority",),
    "store": ("cluster_store",),
    "subnets": ("subnet",),
}
"""What the API calls in another way than the options that lead to it, and what click knows these by."""

ADVICE: Final[Mapping[Remedy, str]] = {
    "advertise": "give --advertise ADDRESS, by which other hosts reach this one",
    "cluster-store": "give --cluster-store URL; sqlite:///PATH serves hosts that are simulated on one machine",
    "delete-endpoints": "`cnm network rm --with-endpoints {name}` deletes them as well",
    "detach": "`cnm service detach CONTAINER {name}` takes it out of there",
    "detach-or-force": "`cnm service detach CONTAINER {name}` first, or `cnm service unpublish --force {name}`",
    "host-network": "give --host-network",
    "privilege": "cnm changes this machine's network, which takes root; without, there is `cnm lab shell`",
    "rename-host": "give --host another name",
}


def say_it_here(error: CnmError, context: click.Context | None) -> CnmError:
    """The same error, as somebody should read it who has typed the command of ``context``."""
    hint = error.hint
    if error.remedy is not None:
        hint = ADVICE[error.remedy].format(name=error.name if isinstance(error, InUse) else "")
    if isinstance(error, Invalid):
        return Invalid(_option(error.field, context), error.value, error.reason, hint=hint, remedy=error.remedy)
    error.hint = hint
    return error


def _option(field: str, context: click.Context | None) -> str:
    """``--label 'a'`` for ``labels['a']``; what is no option stays as it is."""
    base, _, key = field.partition("[")
    known = _options(context)
    for name in (base, *OTHER_NAMES.get(base, ())):
        if name in known:
            return f"{known[name]} {key.removesuffix(']')}".rstrip()
    return field


def _options(context: click.Context | None) -> dict[str, str]:
    """The longest way to write each option of a command and of those above it, by click's name for it."""
    found: dict[str, str] = {}
    while context is not None:
        for one in context.command.params:
            if isinstance(one, click.Option) and one.name is not None:
                found.setdefault(one.name, max(one.opts, key=len))
        context = context.parent
    return found
