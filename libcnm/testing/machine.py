"""Real controllers beside a plain model: Hypothesis does random things on several hosts, crashes included.

Every rule asks :class:`~libcnm.testing.model.Model` first whether the verb must succeed or which typed error it must
end with, does it, and compares what the hosts then say with the model. Whatever happened, each host's doctor finds
nothing once all have followed the store, and after deleting everything the kernels are as they were.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Final, Literal

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from libcnm.controller.endpoint import Endpoint
from libcnm.controller.network import Network
from libcnm.controller.sandbox import Sandbox
from libcnm.errors import AlreadyExists, Ambiguous, Forbidden, InUse, Invalid, NotFound
from libcnm.kv.memory import CONSUL_LIKE, ETCD_LIKE, PLAIN, Profile
from libcnm.model.addresses import IPAddress, IPNetwork
from libcnm.model.ports import Port
from libcnm.testing._watched import HOSTS, Nothing, Watched, if_possible, need, ours
from libcnm.testing.model import Ep, Model, Net, Refusal
from libcnm.testing.world import Crash

PROCESSES: Final = (0, 1)
NAMES: Final = ("red", "sky", "x.y")  # no name may look like the beginning of an id
HOSTILE: Final = ("", " ", "../x", "-a", "a b", "a/b", "a\0", "ä", "x" * 129)
CONTAINERS: Final = ("c1", "c2")
MOST_NETWORKS: Final = 8
DRIVERS: Final = ("bridge", "bridge", "bridge", "overlay", "overlay", "overlay", "null", "host")
SUBNETS: Final = (  # the smallest twice: it is soon exhausted
    (), ("10.1.0.0/29",), ("10.1.0.0/30",), ("10.1.0.0/30",), ("10.2.0.0/29", "fd02::/125"), ("fd02::/124",),
    ("10.3.0.0/30", "10.4.0.0/29"), ("10.2.0.0/29", "10.2.0.4/30"),
)  # fmt: skip
BAD_SUBNETS: Final = ("10.1.0.1/24", "10.1.0.0", "fd01::/129", "x")
ADDRESSES: Final = ("10.1.0.1", "10.1.0.2", "10.1.0.3", "10.2.0.5", "10.4.0.2", "fd02::", "fd02::2", "10.9.0.1")
MACS: Final = ("02:00:00:00:00:01", "02:42:0a:01:00:02")
PORTS: Final = ((), (), ("8080:80",), ("0.0.0.0:8080:80", "8081:81/udp"), ("[::1]:8080:80",), ("8081:80",))

POINTS: Final = {
    "create_network bridge": 30, "create_network overlay": 2, "create_endpoint": 3, "create_sandbox": 14, "join": 32,
    "leave": 20, "delete_endpoint": 16, "delete_network": 24, "delete_sandbox": 8,
}  # fmt: skip
"""About how many effects each verb has at least, before and after counted apart; it depends on what is there. With a
way out to make or to take away, or with something attached, they are three times as many and more.
"""

hosts = st.sampled_from(HOSTS)
processes = st.sampled_from(PROCESSES)

Moment = tuple[int, int]
moments: st.SearchStrategy[Moment] = st.tuples(st.integers(0, 40), st.sampled_from((1, 1, 3)))
"""When to crash: at which effect, within a verb of the usual length or within a long one."""


Furniture = tuple[str, str, tuple[str, ...], tuple[str, ...], int]
furniture: st.SearchStrategy[Furniture] = st.tuples(
    st.sampled_from(("bridge", "bridge", "overlay")),
    st.sampled_from(CONTAINERS),
    st.sampled_from(SUBNETS[:-1]),
    st.sampled_from(PORTS),
    st.sampled_from((0, 5, -3)),
)
"""An endpoint to connect: its driver, container, the subnets of its network if that is new, ports and priority."""


class ControllerMachine(Watched):
    """The rules."""

    @initialize(
        seed=st.integers(0, 2**16), profile=st.sampled_from((PLAIN, CONSUL_LIKE, ETCD_LIKE)),
        furnished=st.lists(st.tuples(hosts, processes, furniture), max_size=8),
    )  # fmt: skip
    def begin(self, seed: int, profile: Profile, furnished: list[tuple[str, int, Furniture]]) -> None:
        """A world, with some endpoints attached: an empty one takes too many steps to become interesting."""
        self.open_world(seed, profile)
        for host, process, one in furnished:
            self.connect(host, process, one)

    # -- networks ----------------------------------------------------------------------------------------------------

    @rule(host=hosts, process=processes, name=st.sampled_from(NAMES), driver=st.sampled_from(DRIVERS),
          subnets=st.sampled_from(SUBNETS), internal=st.sampled_from((False, False, True)),
          way=st.sampled_from(("create", "create", "ensure", "twice")))  # fmt: skip
    @if_possible
    def create_network(
        self, host: str, process: int, name: str, driver: str, subnets: tuple[str, ...], internal: bool, way: str
    ) -> None:
        cnm = self._cnm(host, process)
        blocks: list[IPNetwork] = [ipaddress.ip_network(one) for one in subnets]
        refusal = self.model.create_network(host, name, driver, blocks)
        if way == "ensure":
            visible = (one.name for one in self.model.networks.values() if one.home in ("", host))
            need(refusal is None and name not in visible)  # what differs is told in the tests of ensure_network
            make: Callable[[], Network] = lambda: cnm.ensure_network(name, driver, subnets=subnets, internal=internal)  # noqa: E731
        else:
            request = None if way == "create" else self._request()
            make = lambda: cnm.create_network(  # noqa: E731
                name, driver, subnets=subnets, internal=internal, request_id=request
            )
        made = self._expect("create_network", refusal, make)
        if not isinstance(made, Network):
            return
        assert way == "create" or made == make(), "asked again, it is the same network"
        home = "" if made.scope == "global" else host
        gateways = frozenset(made.gateways)
        self.model.networks[made.id] = Net(made.id, name, driver, home, made.subnets, gateways, internal)
        if blocks:
            assert tuple(blocks) == made.subnets

    @rule(host=hosts, name=st.sampled_from(HOSTILE), subnet=st.sampled_from(BAD_SUBNETS))
    def create_hostile(self, host: str, name: str, subnet: str) -> None:
        cnm = self._cnm(host)
        self._expect("hostile", Invalid, lambda: cnm.create_network(name))
        self._expect("hostile", Invalid, lambda: cnm.create_network("fine", subnets=[subnet]))
        self._expect("hostile", Invalid, lambda: cnm.create_network("fine", options={"no.such": "1"}))
        self._expect("hostile", NotFound, lambda: cnm.create_network("fine", "no-such-driver"))
        self._expect("hostile", Invalid, lambda: cnm.create_sandbox(name))
        for net in list(self.model.networks.values())[:1]:
            self._expect("hostile", Invalid, lambda: self._network(net, host).create_endpoint(name))  # noqa: B023

    @precondition(lambda self: self.model.networks)
    @rule(data=st.data(), host=hosts, process=processes, force=st.booleans())
    @if_possible
    def delete_network(self, data: st.DataObject, host: str, process: int, force: bool) -> None:
        net = self._some_network(data)
        live = self._network(net, host, process)
        refusal = self.model.delete_network(net.home or host, net, force=force)
        self._expect("delete_network", refusal, lambda: live.delete(force=force))
        if refusal is None:
            for one in self.model.of(net.id):
                del self.model.endpoints[one.id]
            del self.model.networks[net.id]
            self._expect("deleted", NotFound, live.inspect)
            self._expect("deleted", NotFound, lambda: live.create_endpoint("x"))
            self._expect("deleted", NotFound, live.delete)

    # -- endpoints ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.model.networks)
    @rule(data=st.data(), host=hosts, process=processes, name=st.sampled_from(NAMES),
          address=st.sampled_from((None, None, None, *ADDRESSES)), mac=st.sampled_from((None, None, None, *MACS)),
          ports=st.sampled_from(PORTS), twice=st.booleans())  # fmt: skip
    @if_possible
    def create_endpoint(
        self, data: st.DataObject, host: str, process: int, name: str, address: str | None, mac: str | None,
        ports: tuple[str, ...], twice: bool,
    ) -> None:  # fmt: skip
        net = self._some_network(data)
        wanted: IPAddress | None = None if address is None else ipaddress.ip_address(address)
        refusal = self.model.create_endpoint(net, name, wanted, mac, map(Port.of, ports))
        live = self._network(net, host, process)
        request = self._request() if twice else None

        def make() -> Endpoint:
            return live.create_endpoint(name, address=address, mac=mac, ports=ports, request_id=request)

        if self._expect("create_endpoint", refusal, make) is None:
            return
        made = live.endpoint(name)
        assert not twice or made == make(), "the same request gives the same endpoint"
        addresses = frozenset(interface.ip for interface in made.addresses)
        assert {subnet.version for subnet in net.subnets} == {ip.version for ip in addresses}
        assert wanted is None or wanted in addresses
        assert mac is None or mac == made.mac
        self.model.endpoints[made.id] = Ep(made.id, net.id, name, addresses, made.mac)
        self.model.ports[made.id] = tuple(Port.of(port) for port in ports)

    @precondition(lambda self: self.model.endpoints)
    @rule(data=st.data(), host=hosts, process=processes, force=st.booleans())
    @if_possible
    def delete_endpoint(self, data: st.DataObject, host: str, process: int, force: bool) -> None:
        net, one = self._some_endpoint(data)
        live = self._network(net, host, process).endpoint(one.id)
        here = one.host in ("", net.home or host)
        refusal = None if not one.host or (force and here) else InUse
        self._expect("delete_endpoint", refusal, lambda: live.delete(force=force))
        if refusal is None:
            del self.model.endpoints[one.id]
            self._expect("deleted", NotFound, live.delete)
            self._expect("deleted", NotFound, live.inspect)

    # -- sandboxes ---------------------------------------------------------------------------------------------------

    @rule(
        host=hosts, process=processes, container=st.sampled_from(CONTAINERS), own=st.sampled_from((True, True, False))
    )
    def create_sandbox(self, host: str, process: int, container: str, own: bool) -> None:
        there = (host, container) in self.model.sandboxes
        cnm = self._cnm(host, process)
        refusal: Refusal = AlreadyExists if there else None
        self._expect("create_sandbox", refusal, lambda: cnm.create_sandbox(container, host_network=not own))
        if not there:
            self.model.sandboxes[host, container] = not own

    @precondition(lambda self: self.model.sandboxes)
    @rule(data=st.data(), process=processes, keep=st.booleans())
    @if_possible
    def delete_sandbox(self, data: st.DataObject, process: int, keep: bool) -> None:
        host, container, live = self._some_sandbox(data, process)
        self._expect("delete_sandbox", None, lambda: live.delete(keep_endpoints=keep))
        del self.model.sandboxes[host, container]
        for one in self.model.attached(host, container):
            if keep:
                self.model.endpoints[one.id] = one.detached()
            else:
                del self.model.endpoints[one.id]
        self._expect("deleted", NotFound, live.delete)

    def _some_sandbox(self, data: st.DataObject, process: int, on: Sequence[str] = HOSTS) -> tuple[str, str, Sandbox]:
        found = sorted(key for key in self.model.sandboxes if key[0] in on)
        need(found)
        host, container = data.draw(st.sampled_from(found), label="sandbox")
        return host, container, self._cnm(host, process).sandbox(container)

    # -- joining and leaving -----------------------------------------------------------------------------------------

    @precondition(lambda self: self.model.endpoints and self.model.sandboxes)
    @rule(data=st.data(), process=processes, priority=st.sampled_from((0, 0, 5, -3)), twice=st.booleans())
    @if_possible
    def join(self, data: st.DataObject, process: int, priority: int, twice: bool) -> None:
        net, one = self._some_endpoint(data, attached=data.draw(st.sampled_from((False, False, False, None))))
        host, container, live = self._some_sandbox(data, process, (net.home,) if net.home else HOSTS)
        endpoint = self._network(net, host, process).endpoint(one.id)
        refusal = self.model.join(one, host, container)
        request = self._request() if twice else None
        do: Callable[[], Endpoint] = lambda: endpoint.join(live, priority=priority, request_id=request)  # noqa: E731
        self._expect("join", refusal, do)
        if refusal is None:
            if twice:
                do()
            self.model.endpoints[one.id] = self._attached(one, host, container, priority)

    @rule(host=hosts, process=processes, furniture=furniture)
    @if_possible
    def connect(self, host: str, process: int, furniture: Furniture) -> None:
        """All the way from nothing to an attached endpoint, on whatever is there: what users do most of the time."""
        driver, container, subnets, ports, priority = furniture
        there = {one.network for one in self.model.attached(host, container)}
        usable = [
            one for one in self.model.networks.values()
            if one.driver == driver and one.home in ("", host) and one.id not in there
        ]  # fmt: skip
        if not usable:
            need(len(self.model.networks) < MOST_NETWORKS)
            name = f"n{self.world.entropy.below(2**32)}"
            self.create_network(host, process, name, driver, subnets, internal=False, way="create")
            usable = [one for one in self.model.networks.values() if one.name == name]
        need(usable)
        if (host, container) not in self.model.sandboxes:
            self.create_sandbox(host, process, container, own=True)
        name = f"e{self.world.entropy.below(2**32)}"
        net = usable[0]
        ports = ports if self.model.publishable(net, map(Port.of, ports)) else ()
        if self.model.create_endpoint(net, name, None, None) is None:
            endpoint = self._network(net, host, process).create_endpoint(name, ports=ports)
            addresses = frozenset(interface.ip for interface in endpoint.addresses)
            one = self.model.endpoints[endpoint.id] = Ep(endpoint.id, net.id, name, addresses, endpoint.mac)
            self.model.ports[endpoint.id] = tuple(Port.of(port) for port in ports)
            refusal = self.model.join(one, host, container)
            sandbox = self._cnm(host, process).sandbox(container)
            self._expect("join", refusal, lambda: endpoint.join(sandbox, priority=priority))
            if refusal is None:
                self.model.endpoints[one.id] = self._attached(one, host, container, priority)

    def _attached(self, one: Ep, host: str, container: str, priority: int) -> Ep:
        self.model.priority[one.id] = priority
        return Ep(one.id, one.network, one.name, one.addresses, one.mac, host, container)

    @precondition(lambda self: self.model.endpoints)
    @rule(data=st.data(), host=hosts, process=processes, twice=st.booleans())
    @if_possible
    def leave(self, data: st.DataObject, host: str, process: int, twice: bool) -> None:
        net, one = self._some_endpoint(data, attached=data.draw(st.sampled_from((True, True, None))))
        here = net.home or host
        endpoint = self._network(net, host, process).endpoint(one.id)
        refusal = Forbidden if not one.host else InUse if one.host != here else None
        request = self._request() if twice and refusal is None else None
        self._expect("leave", refusal, lambda: endpoint.leave(request_id=request))
        if refusal is None:
            self.model.endpoints[one.id] = one.detached()
            if request is not None:
                endpoint.leave(request_id=request)

    # -- looking up --------------------------------------------------------------------------------------------------

    @rule(host=hosts, process=processes, name=st.sampled_from(NAMES))
    def look_up(self, host: str, process: int, name: str) -> None:
        known = [one for one in self.model.networks.values() if one.name == name and one.home in ("", host)]
        refusal: Refusal = None if len(known) == 1 else Ambiguous if known else NotFound
        found = self._expect("look_up", refusal, lambda: self._cnm(host, process).network(name))
        assert refusal is not None or (isinstance(found, Network) and found.id == known[0].id)

    # -- faults ------------------------------------------------------------------------------------------------------

    @rule(data=st.data(), process=processes, when=moments,
          verb=st.sampled_from(("create_network", "create_endpoint", "create_endpoint", "create_sandbox")))  # fmt: skip
    @if_possible
    def crash_creating(self, data: st.DataObject, process: int, when: Moment, verb: str) -> None:
        """Kill the process at an effect of a verb; the next process finds it done or undone, and every object whole."""
        self._crash(data, process, when, verb)

    @rule(data=st.data(), process=processes, when=moments, verb=st.sampled_from(("join", "leave")))
    @if_possible
    def crash_attaching(self, data: st.DataObject, process: int, when: Moment, verb: str) -> None:
        self._crash(data, process, when, verb)

    @rule(data=st.data(), process=processes, when=moments,
          verb=st.sampled_from(("delete_endpoint", "delete_network", "delete_sandbox")))  # fmt: skip
    @if_possible
    def crash_deleting(self, data: st.DataObject, process: int, when: Moment, verb: str) -> None:
        self._crash(data, process, when, verb)

    def _crash(self, data: st.DataObject, process: int, when: Moment, verb: str) -> None:
        number, further = when
        driver = data.draw(st.sampled_from(("bridge", "overlay")), label="driver") if verb == "create_network" else ""
        host, act, after = self._crashable(data, process, verb, driver)
        before = self.model.copy()
        tape = self.world.host(host).tape
        tape.start(stop_at=number % POINTS[f"{verb} {driver}".rstrip()] * further)
        crashed = False
        try:
            act()
        except Crash:
            crashed = True
        finally:
            tape.stop()
        self.counts[f"crash {verb}" if crashed else f"no crash {verb}"] += 1
        if crashed:
            self.controllers.pop((host, process))
            self.world.host(host).controller().close()  # recovers
        seen = self._observed()
        self.model = seen
        self.model.ports, self.model.priority = before.ports, before.priority
        after(before, crashed)

    def _crashable(
        self, data: st.DataObject, process: int, verb: str, driver: str
    ) -> tuple[str, Callable[[], object], Callable[[Model, bool], None]]:
        """A verb that must succeed: where, what, and the check that it is done or undone afterwards."""
        host = data.draw(hosts, label="host")
        if verb == "create_network":
            name = f"n{self.world.entropy.below(2**32)}"
            return host, lambda: self._cnm(host, process).create_network(name, driver), self._changed_at_most(1)
        if verb == "create_sandbox":
            container = next((one for one in CONTAINERS if (host, one) not in self.model.sandboxes), None)
            need(container is not None)
            return host, lambda: self._cnm(host, process).create_sandbox(str(container)), self._changed_at_most(1)
        if verb == "delete_sandbox":
            host, _, live = self._some_sandbox(data, process)
            return host, live.delete, self._changed_at_most(1 + len(self.model.endpoints))
        if verb in ("create_endpoint", "delete_network"):
            net = self._some_network(data)
            host = net.home or host
            network = self._network(net, host, process)
            if verb == "delete_network":
                need(self.model.delete_network(host, net, force=True) is None)
                most = 1 + len(self.model.of(net.id))
                return host, lambda: network.delete(force=True), self._changed_at_most(most)
            name = f"e{self.world.entropy.below(2**32)}"
            need(self.model.create_endpoint(net, name, None, None) is None)
            return host, lambda: network.create_endpoint(name), self._changed_at_most(1)
        if verb == "join":
            host, container, live = self._some_sandbox(data, process)
            endpoint = self._joinable(host, container)
            return host, lambda: endpoint.join(live), self._changed_at_most(1)
        net, one = self._some_endpoint(data, attached=True)
        endpoint = self._network(net, one.host, process).endpoint(one.id)
        if verb == "leave":
            return one.host, endpoint.leave, self._changed_at_most(1)
        return one.host, lambda: endpoint.delete(force=True), self._changed_at_most(1)

    def _joinable(self, host: str, container: str) -> Endpoint:
        """An endpoint that may join that sandbox: one that is there, or else a new one."""
        for net in self.model.networks.values():
            if net.home not in ("", host):
                continue
            name = f"e{self.world.entropy.below(2**32)}"
            if not any(not one.host for one in self.model.of(net.id)):
                if self.model.create_endpoint(net, name, None, None) is not None:
                    continue
                self._network(net, host).create_endpoint(name)
                self._learn()
            for one in self.model.of(net.id):
                if self.model.join(one, host, container) is None:
                    self.model.priority[one.id] = 0
                    return self._network(net, host).endpoint(one.id)
        raise Nothing

    def _changed_at_most(self, most: int) -> Callable[[Model, bool], None]:
        def check(before: Model, crashed: bool) -> None:
            pairs = ((before.networks, self.model.networks), (before.endpoints, self.model.endpoints))
            changed = [i for old, new in pairs for i in old.keys() | new.keys() if old.get(i) != new.get(i)]
            changed += [str(key) for key in before.sandboxes.keys() ^ self.model.sandboxes.keys()]
            assert (0 if crashed else 1) <= len(changed) <= most, changed

        return check

    @precondition(lambda self: len(self.model.sandboxes) > 1)
    @rule(host=hosts, now=st.booleans())
    @if_possible
    def reboot(self, host: str, now: bool) -> None:
        """The power went: networks and endpoints stay, with their addresses; what belongs to a boot is gone."""
        need(now)
        for key in [key for key in self.controllers if key[0] == host]:
            del self.controllers[key]
        self.world.host(host).reboot()
        self._cnm(host).heal()
        self.counts["reboot"] += 1
        for one in self.model.attached(host):
            self.model.endpoints[one.id] = one.detached()
        self.model.sandboxes = {key: own for key, own in self.model.sandboxes.items() if key[0] != host}

    @precondition(lambda self: self.model.networks)
    @rule(data=st.data(), host=hosts, act=st.sampled_from(("delete", "delete", "delete", "flush")))
    @if_possible
    def vandalise(self, data: st.DataObject, host: str, act: Literal["delete", "flush"]) -> None:
        """Somebody removes something of ours by hand; it is noticed, and healed."""
        machine = self.world.host(host)
        cnm = self._cnm(host)
        if act == "flush":
            machine.kernel.flush_firewall()
        else:
            victims = ours(machine.kernel)
            need(victims)
            identity = data.draw(st.sampled_from(victims), label="victim")
            self.counts[f"vandalise {identity[0]}"] += 1
            machine.kernel.vandalise_delete(identity)
        self.counts[act] += 1
        cnm.heal()
