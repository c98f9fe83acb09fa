"""What a *resource* is: one thing that should exist in the kernel (or in a third party's data plane), as a frozen
value.

Drivers map records to resources; the engine turns the difference of two sets of resources into changes; a door makes
the changes. A resource says what it is (``identity``), what else must be there first (``needs``), what it makes
available to others (``provides``), with what it vanishes (``dies_with``) and which of its fields cannot be changed in
place (``fixed``). It never says how it is made.

``ns`` names the network namespace it lives in: ``""`` is the host's own, anything else is a name below
``<run_dir>/netns``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

import attrs

Identity = tuple[str, ...]
"""Kind first, then the namespace through which it is changed, then whatever tells two of a kind apart."""

Operation = Literal["add", "change", "delete"]


@attrs.frozen
class Resource:
    """The base of every resource kind, ours and third parties'."""

    kind: ClassVar[str]
    fixed: ClassVar[frozenset[str]] = frozenset()
    """Fields that cannot change in place: a difference in one of them means delete and add."""

    @property
    def identity(self) -> Identity:
        """Two resources of one identity cannot exist at once."""
        raise TypeError(f"{type(self).__name__} has no identity")

    @property
    def needs(self) -> tuple[Identity, ...]:
        """What must be there before it is added, and outlives it."""
        return ()

    @property
    def provides(self) -> tuple[Identity, ...]:
        """What others may need; its own identity unless a kind says more."""
        return (self.identity,)

    @property
    def dies_with(self) -> tuple[Identity, ...]:
        """Providers whose deletion takes this one along, so that its own deletion need not be sent."""
        return ()


@attrs.frozen
class Change:
    """One step for a door. For ``change``, ``previous`` is what is (believed to be) there now."""

    operation: Operation
    resource: Resource
    previous: Resource | None = None

    def reversed(self) -> Change:
        """The step that undoes this one."""
        if self.operation == "add":
            return Change("delete", self.resource)
        if self.operation == "delete":
            return Change("add", self.resource)
        assert self.previous is not None, "a change knows what it replaced"
        return Change("change", self.previous, self.resource)

    def __str__(self) -> str:
        sign = {"add": "+", "change": "~", "delete": "-"}[self.operation]
        return f"{sign} {' '.join(part or 'host' for part in self.resource.identity)}"


@attrs.frozen
class Observed:
    """A resource as it was read back. ``ours``: it carries our mark, or lies in a namespace that is ours as a whole."""

    resource: Resource
    ours: bool


def by_identity(resources: Iterable[Resource]) -> Mapping[Identity, Resource]:
    """The resources by identity; the same resource twice is one, two different ones of one identity are a driver's
    bug.
    """
    found: dict[Identity, Resource] = {}
    for resource in resources:
        known = found.setdefault(resource.identity, resource)
        if known != resource:
            raise ValueError(f"two different resources claim {resource.identity}: {known} and {resource}")
    return found
