"""The difference of two sets of resources, as changes in an order that is safe to stop anywhere. Pure.

Order: what is no longer wanted goes first, dependents before what they need; then what is new or different, needs
first. Among what is ready, changes through the same door and namespace stay together, so that they travel in one
send.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from typing import Final

from libcnm.model.resource import Change, Identity, Resource, by_identity

_RANKS: Final = {
    kind: rank
    for rank, kind in enumerate(
        (
            "namespace",
            "firewall-table",
            "bridge",
            "vxlan",
            "veth",
            "loopback-guard",
            "sysctl",
            "interface",
            "address",
            "route",
            "rule",
            "neighbour",
            "fdb",
            "firewall-element",
        )
    )
}
"""Links before what is on them, connections before publication. Kinds of third parties come last."""

_CHANNELS: Final = {"namespace": "namespace", "sysctl": "sysctl", "firewall-table": "nft", "firewall-element": "nft"}
"""Kinds that do not travel by route netlink; changes of one channel and namespace can share a send."""


def delta(before: Iterable[Resource], after: Iterable[Resource]) -> tuple[Change, ...]:
    """The changes that lead from one set to the other; empty when they are equal."""
    old, new = by_identity(before), by_identity(after)
    removed: dict[Identity, Resource] = {}
    added: dict[Identity, Resource] = {}
    changed: dict[Identity, Resource] = {}
    for identity, resource in old.items():
        wanted = new.get(identity)
        if wanted is None or not changes_in_place(resource, wanted):
            removed[identity] = resource
    for identity, resource in new.items():
        known = old.get(identity)
        if known is None or identity in removed:
            added[identity] = resource
        elif known != resource:
            changed[identity] = resource
    goes = [Change("delete", resource) for resource in reversed(ordered(removed)) if not _goes_along(resource, removed)]
    # What changes may need what is new (a port that gets another master), and the other way round: one order for both.
    comes = [
        Change("change", resource, old[resource.identity]) if resource.identity in changed else Change("add", resource)
        for resource in ordered({**added, **changed})
    ]
    return (*goes, *comes)


def changes_in_place(old: Resource, new: Resource) -> bool:
    """True when the kernel can turn one into the other without deleting it first."""
    return type(old) is type(new) and all(getattr(old, field) == getattr(new, field) for field in type(old).fixed)


def _goes_along(resource: Resource, removed: Mapping[Identity, Resource]) -> bool:
    providers = {provided for gone in removed.values() for provided in gone.provides} if resource.dies_with else ()
    return any(identity in providers for identity in resource.dies_with)


def ordered(resources: Mapping[Identity, Resource]) -> list[Resource]:
    """Needs first. A cycle is a driver's bug and raises ValueError."""
    if not resources:
        return []
    provider = {provided: identity for identity, resource in resources.items() for provided in resource.provides}
    waiting: dict[Identity, set[Identity]] = {}
    dependents: dict[Identity, list[Identity]] = {}
    for identity, resource in resources.items():
        needs = {provider[need] for need in resource.needs if need in provider} - {identity}
        waiting[identity] = needs
        for need in needs:
            dependents.setdefault(need, []).append(identity)
    ready: dict[tuple[str, str], list[tuple[int, Identity]]] = {}

    def is_ready(identity: Identity) -> None:
        heapq.heappush(ready.setdefault(_channel(identity), []), (_rank(resources[identity]), identity))

    for identity, needs in waiting.items():
        if not needs:
            is_ready(identity)
    done: list[Resource] = []
    while ready:
        channel = min(ready, key=lambda one: ready[one][0])
        while heap := ready.get(channel):
            _, identity = heapq.heappop(heap)
            done.append(resources[identity])
            for dependent in dependents.get(identity, ()):
                waiting[dependent].discard(identity)
                if not waiting[dependent]:
                    is_ready(dependent)
        del ready[channel]
    if len(done) != len(resources):
        stuck = sorted(identity for identity, needs in waiting.items() if needs)
        raise ValueError(f"resources need each other: {stuck}")
    return done


def _channel(identity: Identity) -> tuple[str, str]:
    return (_CHANNELS.get(identity[0], "route"), identity[1])


def _rank(resource: Resource) -> int:
    return _RANKS.get(resource.kind, len(_RANKS))
