"""Events beside random verbs, crashes and reboots: a picture kept by events alone is what there is, however the stores'
watches behave, and from whichever cursor somebody goes on.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import ClassVar

import attrs
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

from libcnm.controller.controller import Controller
from libcnm.controller.events import Events
from libcnm.kv.memory import CONSUL_LIKE, ETCD_LIKE, PLAIN, MemoryStore, Profile
from libcnm.model.event import Event
from libcnm.testing._watched import HOSTS
from libcnm.testing.machine import ControllerMachine
from libcnm.testing.replay import Replay

SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
PHASES = tuple(Phase) if SOAK else (Phase.explicit, Phase.reuse, Phase.generate)
MANNERS = tuple(
    attrs.evolve(base, drop_events=drop, coalesce_events=coalesce, compaction=compaction)
    for base in (PLAIN, CONSUL_LIKE, ETCD_LIKE)
    for drop, coalesce, compaction in ((0.0, 0.0, 10_000), (0.2, 0.5, 10_000), (0.0, 0.5, 12))
)
LEAST = 5
SEEN = (
    "network create", "network destroy", "endpoint create", "endpoint connect", "endpoint disconnect",
    "endpoint destroy", "sandbox create", "sandbox destroy", "store lost since", "endpoint update since", "resumed",
)  # fmt: skip
"""What runs of any interpreter have by the dozen; the rare ones have tests of their own."""


@attrs.define
class Reader:
    """A process on a host that reads events, and all cursors that it had, with what it knew then."""

    cnm: Controller
    events: Events
    known: Replay
    cursors: list[tuple[str, Replay]] = attrs.field(factory=list)


def drain(events: Events) -> list[Event]:
    """All that was committed before this call; without threads, so that every run is the same."""
    found = []
    for source in events._sources:
        while True:
            while (event := events.next(0)) is not None:
                found.append(event)
            before = source._revision, source._watch
            events._put(source, source.take(0))
            if before == (source._revision, source._watch) and not events._queue:
                break
    return found


class EventsMachine(ControllerMachine):
    """The rules of the machine, a reader on each host, and readers that come back."""

    told: ClassVar[Counter[str]] = Counter()
    readers: dict[str, Reader]

    def _reader(self, host: str) -> Reader:
        if host not in self.__dict__.setdefault("readers", {}):
            machine = self.world.host(host)
            chance = random.Random(self.world.entropy.below(2**32))
            doors = machine.doors()
            assert isinstance(doors.cluster, MemoryStore)
            doors = attrs.evolve(
                doors,
                local=machine._local.connect(profile=self.manners, random=chance),
                cluster=doors.cluster.connect(profile=self.manners, random=chance, on_effect=None),
            )
            cnm = machine.controller("off", doors)
            events = Events(cnm._calls.context, None, None, threads=False)
            self.readers[host] = Reader(cnm, events, Replay.observed(self._cnm(host)))
        found: Reader = self.readers[host]
        return found

    @property
    def manners(self) -> Profile:
        """How the readers' stores behave: chosen once, by the seed of the world."""
        if "_manners" not in self.__dict__:
            self._manners = MANNERS[self.world.entropy.below(len(MANNERS))]
        return self._manners

    @invariant()
    def readers_know_what_there_is(self) -> None:
        if not hasattr(self, "world"):
            return
        for host in HOSTS:
            reader = self._reader(host)
            for event in drain(reader.events):
                reader.known.apply([event])
                reader.cursors.append((event.cursor, reader.known.copy()))
                self.told[f"{event.kind} {event.action}"] += 1
            assert Replay.observed(self._cnm(host)) == reader.known
            assert [] == drain(reader.events), "what was told is not told again"

    @precondition(lambda self: any(reader.cursors for reader in self.__dict__.get("readers", {}).values()))
    @rule(data=st.data(), host=st.sampled_from(HOSTS), stay=st.booleans())
    def come_back(self, data: st.DataObject, host: str, stay: bool) -> None:
        """A reader that was away, for any time, goes on by its cursor and ends up with the same picture."""
        reader = self._reader(host)
        if not reader.cursors:
            return
        cursor, known = data.draw(st.sampled_from(reader.cursors), label="cursor")
        events = Events(reader.cnm._calls.context, cursor, None, threads=False)
        since = drain(events)
        self.told.update(f"{event.kind} {event.action} since" for event in since)
        known = known.copy().apply(since)
        assert Replay.observed(self._cnm(host)) == known
        self.told["resumed"] += 1
        if stay:
            reader.events.close()
            reader.events, reader.known = events, known
        else:
            events.close()

    def teardown(self) -> None:
        for reader in self.__dict__.get("readers", {}).values():
            reader.events.close()
            reader.cnm.close()
        super().teardown()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_picture_kept_by_events_is_what_there_is(stride: int) -> None:
    """Replayed from the beginning or from any cursor, events end in what networks, endpoints and sandboxes say."""
    quick = settings(
        max_examples=60 // stride,
        stateful_step_count=30,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        derandomize=not SOAK,
        phases=PHASES,
    )
    run_state_machine_as_test(EventsMachine, settings=quick)
    rare = {what: EventsMachine.told[what] for what in SEEN if EventsMachine.told[what] < LEAST}
    assert {} == rare or stride > 1, "a machine that hardly ever tells something does not test it"
