"""The rows that lead to a network's endpoints on other hosts: those programmed so far, and those found at first sight.

A network may have some before its follower sees it for the first time: those that the join made with which it came, and
those of a predecessor that was killed. Whose endpoints are gone by then has no record left that would say so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from libcnm.contracts.driver import Driver, HostFacts, NetworkView
from libcnm.controller.context import Context
from libcnm.kernel.resources import Fdb, Neighbour
from libcnm.model.deadline import Deadline
from libcnm.model.ids import network_namespace
from libcnm.model.resource import Identity, Resource

FOUND: Final = ""
"""In place of an endpoint's id: nobody's yet. Every endpoint's own rows go before it."""


@attrs.define
class Rows:
    """A network's peer rows as programmed, by endpoint, since its namespace was made for the ``epoch``-th time.

    Two endpoints may name one address: for an instant, one going and one coming, or because a host lies. The one with
    the higher id has the row then, as in reconcile, which reads them in that order: the two must not take turns.
    """

    epoch: int
    of: dict[str, tuple[Resource, ...]] = attrs.field(factory=dict)
    _named: dict[Identity, dict[str, Resource]] = attrs.field(factory=dict)

    def put(self, endpoint_id: str, rows: tuple[Resource, ...]) -> None:
        """An endpoint's rows from now on."""
        for one in self.of.pop(endpoint_id, ()):
            named = self._named.get(one.identity, {})
            named.pop(endpoint_id, None)
            if not named:
                self._named.pop(one.identity, None)
        if rows:
            self.of[endpoint_id] = rows
        for one in rows:
            self._named.setdefault(one.identity, {})[endpoint_id] = one

    def at(self, identities: Iterable[Identity]) -> list[Resource]:
        """Those of the rows that there are."""
        found = (self._named.get(identity) for identity in identities)
        return [named[max(named)] for named in found if named]


def rows_there(
    context: Context, driver: Driver, facts: HostFacts, network: NetworkView, deadline: Deadline
) -> tuple[Resource, ...]:
    """Those in the network's own namespace, but for what belongs to the network itself."""
    own = {resource.identity for resource in driver.network(facts, network)}
    place = network_namespace(network.epoch, network.record.id)
    there = context.doors.kernel.read({place}, (Fdb, Neighbour), deadline=deadline)
    return tuple(one.resource for one in there if one.ours and one.resource.identity not in own)
