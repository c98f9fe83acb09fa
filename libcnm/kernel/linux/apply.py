"""Changes in order: each kind to the function that knows it, runs of sysctls and of firewall changes as one.

It knows which function a kind belongs to; what the functions send, and when it is sent, is theirs and batch.py's.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from libcnm.errors import KernelError
from libcnm.kernel.linux import guards, links, rows
from libcnm.kernel.linux.batch import Batch, Refused
from libcnm.kernel.linux.settings import Settings
from libcnm.kernel.resources import (
    Address,
    Bridge,
    Fdb,
    FirewallElement,
    FirewallTable,
    Interface,
    LoopbackGuard,
    Namespace,
    Neighbour,
    Route,
    Rule,
    Sysctl,
    Veth,
    Vxlan,
)
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Change, Resource

# Each function takes its own kind of resource, which a table over kinds cannot say: Any stands for "the kind in the
# key".
_FUNCTIONS: Mapping[type[Resource], Callable[[Batch, int, Change, Any], None]] = {
    Bridge: links.bridge,
    Veth: links.veth,
    Vxlan: links.vxlan,
    Interface: rows.interface,
    LoopbackGuard: guards.guard,
    Address: rows.address,
    Route: rows.route,
    Rule: rows.rule,
    Neighbour: rows.neighbour,
    Fdb: rows.fdb,
}


class Firewall(Protocol):
    """What is asked of the nf_tables part."""

    def apply(self, changes: Sequence[Change], *, deadline: Deadline) -> tuple[KernelError | None, ...]: ...


def run(batch: Batch, settings: Settings, firewall: Callable[[], Firewall]) -> tuple[KernelError | None, ...]:
    """Make all changes of a batch."""
    at = 0
    while at < len(batch.changes):
        end = _end_of_run(batch.changes, at)
        try:
            _do(batch, at, end, settings, firewall)
        except Refused as refused:
            for each in range(at, end):
                batch.refuse(each, refused.errno, refused.words)
        at = end
    batch.settle()
    return tuple(batch.outcomes)


def _do(batch: Batch, at: int, end: int, settings: Settings, firewall: Callable[[], Firewall]) -> None:
    change = batch.changes[at]
    resource = change.resource
    if isinstance(resource, Namespace):
        settings.namespace(batch, at, change, resource)
    elif isinstance(resource, Sysctl):
        settings.sysctls(
            batch, at, [each.resource for each in batch.changes[at:end] if isinstance(each.resource, Sysctl)]
        )
    elif isinstance(resource, FirewallTable | FirewallElement):
        batch.flush()
        batch.outcomes[at:end] = firewall().apply(batch.changes[at:end], deadline=batch.deadline)
    elif type(resource) in _FUNCTIONS:
        _FUNCTIONS[type(resource)](batch, at, change, resource)
    else:
        raise Refused(errno.EOPNOTSUPP, f"this kernel door knows no {resource.kind!r}")


def _end_of_run(changes: Sequence[Change], at: int) -> int:
    """Where the run of changes that go together ends."""
    first = changes[at].resource
    end = at + 1
    if isinstance(first, Sysctl):
        while end < len(changes) and isinstance(other := changes[end].resource, Sysctl) and other.ns == first.ns:
            end += 1
    elif isinstance(first, FirewallTable | FirewallElement):
        while end < len(changes) and isinstance(changes[end].resource, FirewallTable | FirewallElement):
            end += 1
    return end
