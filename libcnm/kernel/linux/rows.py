"""What lives on links, as messages: interfaces' state, addresses, routes, rules, neighbours, forwarding rows.

Each function turns one change into what :class:`~libcnm.kernel.linux.batch.Batch` sends; none of them sends.
"""

from __future__ import annotations

import errno

from libcnm.kernel.linux import pack
from libcnm.kernel.linux.batch import NO_FAMILY, Batch, Refused
from libcnm.kernel.resources import Address, Fdb, Interface, Neighbour, Route, Rule
from libcnm.model.resource import Change


def index_to_delete_on(batch: Batch, ns: str, link: str) -> int:
    """The index of a link; where there is no link, there is nothing on it."""
    try:
        return batch.index(ns, link)
    except Refused as refused:
        raise Refused(errno.ENOENT, refused.words) from None


def interface(batch: Batch, at: int, change: Change, resource: Interface) -> None:
    """Up without automatic addresses, or down."""
    if change.operation == "delete":
        batch.post(resource.ns, pack.set_link(resource.link, up=False), at)
        return
    if resource.link == "lo" and batch.fresh(resource.ns):
        return  # made with lo up, and without IPv6
    batch.vouch(resource.ns, resource.link)
    batch.post(resource.ns, pack.set_link(resource.link, pack.NO_AUTOMATIC_ADDRESSES), at, tolerated=NO_FAMILY)
    batch.post(resource.ns, pack.set_link(resource.link, up=True), at)
    if resource.link != "lo":
        batch.raised(resource.ns, resource.link, at)


def address(batch: Batch, at: int, change: Change, resource: Address) -> None:
    """An address has nothing that changes in place."""
    if change.operation == "delete":
        index = index_to_delete_on(batch, resource.ns, resource.link)
        batch.post(resource.ns, pack.address(pack.RTM_DELADDR, 0, index, resource.address), at)
    else:
        index = batch.index(resource.ns, resource.link)
        batch.post(resource.ns, pack.address(pack.RTM_NEWADDR, pack.ADD, index, resource.address), at)


def route(batch: Batch, at: int, change: Change, resource: Route) -> None:
    """A route has nothing that changes in place."""
    adding = change.operation != "delete"
    find = batch.index if adding else lambda ns, link: index_to_delete_on(batch, ns, link)
    index = find(resource.ns, resource.link) if resource.link is not None else None
    message = pack.route(
        pack.RTM_NEWROUTE if adding else pack.RTM_DELROUTE,
        pack.ADD if adding else 0,
        resource.destination,
        index=index,
        via=resource.via,
        table=resource.table,
        metric=resource.metric,
        prohibit=resource.type == "prohibit",
    )
    batch.post(resource.ns, message, at)


def rule(batch: Batch, at: int, change: Change, resource: Rule) -> None:
    """A rule has nothing that changes in place."""
    adding = change.operation != "delete"
    message = pack.rule(
        pack.RTM_NEWRULE if adding else pack.RTM_DELRULE,
        pack.ADD if adding else 0,
        resource.version,
        resource.priority,
        resource.table,
        iif=resource.iif,
        mark=resource.mark,
        mask=resource.mask,
        action=resource.action,
        goto=resource.goto,
    )
    batch.post(resource.ns, message, at)


def neighbour(batch: Batch, at: int, change: Change, resource: Neighbour) -> None:
    """Made or replaced, whichever it takes."""
    if change.operation == "delete":
        index = index_to_delete_on(batch, resource.ns, resource.link)
        batch.post(resource.ns, pack.neighbour(pack.RTM_DELNEIGH, 0, index, resource.address, None), at)
    else:
        index = batch.index(resource.ns, resource.link)
        message = pack.neighbour(pack.RTM_NEWNEIGH, pack.PUT, index, resource.address, resource.mac)
        batch.post(resource.ns, message, at)


def fdb(batch: Batch, at: int, change: Change, resource: Fdb) -> None:
    """Made or replaced, whichever it takes."""
    if change.operation == "delete":
        index = index_to_delete_on(batch, resource.ns, resource.link)
        batch.post(resource.ns, pack.fdb(pack.RTM_DELNEIGH, 0, index, resource.mac, None), at)
    else:
        index = batch.index(resource.ns, resource.link)
        message = pack.fdb(pack.RTM_NEWNEIGH, pack.PUT, index, resource.mac, resource.vtep)
        batch.post(resource.ns, message, at)
