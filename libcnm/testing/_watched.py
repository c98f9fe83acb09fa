"""What :mod:`libcnm.testing.machine` stands on: the world, the model, and what must hold after every step.

No rules here: only how hosts are asked, how they are compared with the model, and how everything is deleted in the end.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import ClassVar, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant

from libcnm.controller.controller import Controller
from libcnm.controller.network import Network
from libcnm.controller.way_out import NETWORKS
from libcnm.errors import CnmError
from libcnm.kernel.fake import FakeKernel
from libcnm.kernel.resources import Fdb, Neighbour, Route
from libcnm.kv.memory import PLAIN, Profile
from libcnm.model.addresses import IPAddress
from libcnm.model.resource import Identity
from libcnm.testing.model import Ep, Model, Net, Refusal
from libcnm.testing.world import FakeHost, FakeWorld, follow, half_done

HOSTS: Final = ("one", "two")


class Nothing(Exception):
    """There is nothing for a rule to act on."""


def need(what: object) -> None:
    if not what:
        raise Nothing


def if_possible(act: Callable[..., None]) -> Callable[..., None]:
    """A rule that does nothing when there is nothing to act on: Hypothesis would throw the whole run away."""

    @functools.wraps(act)
    def attempt(*args: object, **drawn: object) -> None:
        with suppress(Nothing):
            act(*args, **drawn)

    return attempt


class Watched(RuleBasedStateMachine):
    """A world of several hosts beside a model. ``counts`` says, over all runs, how often each verb ended how."""

    counts: ClassVar[Counter[str]] = Counter()

    def open_world(self, seed: int, profile: Profile) -> None:
        """A new world with nothing in it."""
        self.world = FakeWorld(HOSTS, seed=seed, profile=PLAIN)
        self.world.profile = profile
        self.controllers: dict[tuple[str, int], Controller] = {}
        self.pristine = {name: host.kernel.snapshot() for name, host in self.world.hosts.items()}
        self.model = Model()

    def teardown(self) -> None:
        """Delete everything: nothing may be left."""
        if not hasattr(self, "world"):
            return
        with self.world:
            self._delete_everything()

    # -- at hand -----------------------------------------------------------------------------------------------------

    def _cnm(self, host: str, process: int = 0) -> Controller:
        """That process's controller on a host, opened when it is first needed."""
        if (host, process) not in self.controllers:
            self.controllers[host, process] = self.world.host(host).controller()
        return self.controllers[host, process]

    def _expect(self, what: str, refusal: Refusal, verb: Callable[[], object]) -> object:
        """Do it; it must succeed when the model says so, else end with that very class, and a message that helps."""
        error: CnmError | None = None
        result: object = None
        try:
            result = verb()
        except CnmError as raised:
            error = raised
        if error is not None:
            self.counts[f"{what}: {error.code}"] += 1
            assert refusal is not None, f"{what}: {error!r}, and the model says that it succeeds"
            assert refusal is type(error), f"{what}: {error!r}, and the model says {refusal.__name__}"
            self._agree(f"before and after {what}, which was refused,")
            return None
        self.counts[what] += 1
        assert refusal is None, f"{what} succeeded, and the model says {refusal and refusal.__name__}"
        return result

    def _agree(self, what: str) -> None:
        seen = self._observed()
        for field in ("networks", "endpoints", "sandboxes"):
            wanted, there = set(getattr(self.model, field).items()), set(getattr(seen, field).items())
            _same(wanted, there, f"{what} differ in {field}")
        _same(self.model.to_be_made(), seen.made, f"{what} differ in ways out")

    def _observed(self) -> Model:
        return Model.observed({host: self._cnm(host) for host in HOSTS})

    def _request(self) -> str:
        return f"request-{self.world.entropy.below(2**48)}"

    def _network(self, net: Net, host: str, process: int = 0) -> Network:
        return self._cnm(net.home or host, process).network(net.id)

    def _some_network(self, data: st.DataObject, *drivers: str) -> Net:
        found = [one for one in self.model.networks.values() if not drivers or one.driver in drivers]
        need(found)
        return data.draw(st.sampled_from(sorted(found, key=lambda one: (one.home, one.name))), label="network")

    def _some_endpoint(self, data: st.DataObject, attached: bool | None = None) -> tuple[Net, Ep]:
        found = [one for one in self.model.endpoints.values() if attached is None or bool(one.host) == attached]
        need(found)
        by_name = sorted(found, key=lambda one: (self.model.networks[one.network].name, one.network, one.name))
        one = data.draw(st.sampled_from(by_name), label="endpoint")
        return self.model.networks[one.network], one

    def _learn(self) -> None:
        """Take in the endpoints that were just made (ids, addresses); the invariants compare everything else."""
        seen = self._observed()
        self.model.endpoints |= {i: one for i, one in seen.endpoints.items() if i not in self.model.endpoints}

    # -- what always holds -------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Every process follows the stores: peers are programmed wherever a network is."""
        for cnm in self.controllers.values():
            follow(cnm)

    @invariant()
    def hosts_agree_with_the_model(self) -> None:
        if not hasattr(self, "world"):
            return
        for host in HOSTS:
            self._cnm(host)
        self._settle()
        self._agree("the hosts and the model")
        networks, endpoints = self.model.networks.values(), self.model.endpoints.values()
        _all_different((one.home, one.name) for one in networks)
        _all_different((one.network, one.name) for one in endpoints)
        _all_different((one.network, one.mac) for one in endpoints if one.mac)
        _all_different((one.network, ip) for one in endpoints for ip in one.addresses)
        cluster = self._cnm(HOSTS[0]).networks()
        _all_different(one.inspect()["VNI"] for one in cluster if one.driver == "overlay")

    @invariant()
    def kernels_agree_with_the_model(self) -> None:
        if not hasattr(self, "world"):
            return
        for host in HOSTS:
            cnm = self._cnm(host)
            _same([], half_done(cnm), f"what is half-done on {host}")
            _same([], [str(row) for row in cnm.doctor()], f"the doctor of {host}")
            _same(self._wanted_peers(host), _peers(self.world.host(host).kernel), f"the peers on {host}")
            for on, container in self.model.sandboxes:
                if on == host and not self.model.sandboxes[on, container]:
                    self._check_default_routes(host, container)

    def _wanted_peers(self, host: str) -> set[tuple[str, str]]:
        found = set()
        for net in self.model.networks.values():
            inside = self.model.of(net.id)
            if net.driver == "overlay" and any(one.host == host for one in inside):
                for one in inside:
                    if one.host not in ("", host):
                        found.add((one.mac, self.world.host(one.host).address))
                        found |= {(str(ip), one.mac) for ip in one.addresses}
        return found

    def _check_default_routes(self, host: str, container: str) -> None:
        namespace = self._cnm(host).sandbox(container).path.rpartition("/")[2]
        there: dict[int, IPAddress | None] = {}
        for seen in self.world.host(host).kernel.everything():
            route = seen.resource
            if isinstance(route, Route) and route.ns == namespace and route.destination.prefixlen == 0:
                there[route.destination.version] = route.via
        wanted = self.model.default_routes(host, container)
        versions = self.model.way_out(host, container)
        if versions:
            gateways = self._cnm(host).network(NETWORKS[versions]).gateways
            wanted |= {version: frozenset(ip for ip in gateways if ip.version == version) for version in versions}
        assert wanted.keys() == there.keys(), (host, container)
        assert all(gateway in wanted[version] for version, gateway in there.items()), (host, container)

    def _delete_everything(self) -> None:
        for host in HOSTS:
            for sandbox in self._cnm(host).sandboxes():
                sandbox.delete()
        for host in HOSTS:
            for network in self._cnm(host).networks():
                assert not network.on_demand, f"{network.name} is on {host}, and no sandbox"
                network.delete(force=True)
        self._settle()
        for name, machine in self.world.hosts.items():
            self._cnm(name).heal()
            for key in [key for key in self.controllers if key[0] == name]:
                self.controllers.pop(key).close()
            machine.kernel.sweep()
            _same(_lines(self.pristine[name]), _lines(machine.kernel.snapshot()), f"the kernel of {name}")
            _same([], [key for key in machine.stored_keys() if not key.startswith(_RESIDUE)], f"the store of {name}")
            _same([], _files(machine), f"the files of {name}")
        _same([], [key for key in self.world.stored_keys() if not key.startswith(_RESIDUE)], "the cluster's store")


_RESIDUE: Final = ("installation", "run-dir", "lineage", "host/", "pools/", "vni-hint", "request/")
"""What outlives everything that was ever made: who is who, and where to look next."""


def _same(expected: object, actual: object, what: str) -> None:
    """Like an assert, but with both sides in the message wherever this file is run."""
    if isinstance(expected, set) and isinstance(actual, set):
        assert expected == actual, f"{what}: missing {expected - actual}, too much {actual - expected}"
    assert expected == actual, f"{what}: {actual}, and should be {expected}"


def _lines(snapshot: tuple[object, ...]) -> set[str]:
    return {str(one) for part in snapshot for one in part}  # type: ignore[attr-defined]  # three tuples


def _all_different(values: Iterable[object]) -> None:
    listed = list(values)
    assert len(listed) == len(set(listed)), listed


def ours(kernel: FakeKernel) -> list[Identity]:
    """What carries our mark on a host and could be taken away by hand."""
    return [one.resource.identity for one in kernel.everything() if one.ours and one.resource.identity[0] != "sysctl"]


def _peers(kernel: FakeKernel) -> set[tuple[str, str]]:
    rows = [one.resource for one in kernel.everything() if one.ours]
    fdb = {(row.mac, str(row.vtep)) for row in rows if isinstance(row, Fdb)}
    return fdb | {(str(row.address), row.mac) for row in rows if isinstance(row, Neighbour)}


def _files(host: FakeHost) -> list[str]:
    """What is left below the run folder, but for empty folders and the note whose folder it is."""
    return [
        os.path.join(root, name)
        for root, _, names in os.walk(host.paths.run_dir)
        for name in names
        if name != "installation"
    ]
