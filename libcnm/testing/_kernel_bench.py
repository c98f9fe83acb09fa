"""The words in which the kernel conformance kit is written: small resources, what a hand can do, and a bench.

Nothing here promises anything; the promises are in the ``_kernel_*`` modules beside it and in
:mod:`libcnm.testing.kernel`.
"""

from __future__ import annotations

import errno
import ipaddress
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import attrs

from libcnm.kernel import firewall
from libcnm.kernel.base import Kernel
from libcnm.kernel.fake import FakeKernel
from libcnm.kernel.resources import (
    Address,
    Bridge,
    FirewallTable,
    Interface,
    Namespace,
    Neighbour,
    Route,
    Rule,
    Veth,
    Vxlan,
)
from libcnm.model.addresses import IPAddress, IPNetwork
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Change, Observed, Operation, Resource

T = TypeVar("T")
R = TypeVar("R", bound=Resource)

INNER = "eth0"
"""The inner end of the pairs below."""
_NAMES = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP"}
"""95 has two names."""
PATIENCE_SECONDS = 10.0
"""How long the kernel may take for what it does in its own time (removing what a namespace held takes 40 ms)."""


def within(seconds: float = 30.0) -> Deadline:
    """A deadline that no passing test reaches."""
    return Deadline.after(seconds, time.monotonic)


def ip(text: str) -> IPAddress:
    """An address."""
    return ipaddress.ip_address(text)


def network(text: str) -> IPNetwork:
    """A block."""
    return ipaddress.ip_network(text)


def bridge(name: str = "b1", *, ns: str = "", mac: str = "02:00:00:00:00:b1", mtu: int = 1500) -> Bridge:
    """A bridge in the host's namespace."""
    return Bridge(ns, name, mac, mtu)


def pair(
    name: str = "v1", *, ns: str = "", peer_ns: str = "s1", peer: str = INNER, master: str | None = None
) -> tuple[Veth]:
    """A pair from the host into a sandbox (a tuple, to be unpacked among others)."""
    return (Veth(ns, name, "02:00:00:00:01:01", peer_ns, peer, "02:00:00:00:01:02", master=master),)


def vxlan(
    name: str = "x1", *, ns: str = "o1", vni: int = 300, local: str = "192.0.2.1", master: str | None = None
) -> Vxlan:
    """A VXLAN device in an overlay's namespace."""
    return Vxlan(ns, name, vni, "02:00:00:00:03:01", ip(local), master=master)


def address(link: str, text: str, *, ns: str = "") -> Address:
    """An address on a link."""
    return Address(ns, link, ipaddress.ip_interface(text))


class Hand(ABC):
    """Somebody else on the same host. Links are bridges; everything is made without our marks."""

    @abstractmethod
    def add_link(self, ns: str, name: str) -> None:
        """``ip link add NAME up type bridge``."""

    @abstractmethod
    def delete_link(self, ns: str, name: str) -> None:
        """``ip link delete NAME``."""

    @abstractmethod
    def add_address(self, ns: str, link: str, interface: str) -> None:
        """``ip address add INTERFACE dev LINK``."""

    @abstractmethod
    def add_route(self, ns: str, destination: str, link: str) -> None:
        """``ip route add DESTINATION dev LINK``."""

    @abstractmethod
    def add_rule(self, ns: str, priority: int, table: int) -> None:
        """``ip rule add pref PRIORITY lookup TABLE``."""

    @abstractmethod
    def add_neighbour(self, ns: str, link: str, neighbour: str, mac: str) -> None:
        """``ip neigh add NEIGHBOUR lladdr MAC dev LINK nud permanent``."""

    @abstractmethod
    def flush_firewall(self, ns: str) -> None:
        """``nft flush ruleset``."""

    @abstractmethod
    def make_namespace(self) -> str:
        """A network namespace of their own; the path by which it can be brought."""


class FakeHand(Hand):
    """The hand of :class:`~libcnm.kernel.fake.FakeKernel`: its vandals."""

    def __init__(self, kernel: FakeKernel) -> None:
        self._kernel = kernel
        self._made = 0

    def add_link(self, ns: str, name: str) -> None:
        self._kernel.vandalise_add(Bridge(ns, name, "02:00:00:00:0f:01"))

    def delete_link(self, ns: str, name: str) -> None:
        self._kernel.vandalise_delete(("link", ns, name))

    def add_address(self, ns: str, link: str, interface: str) -> None:
        self._kernel.vandalise_add(address(link, interface, ns=ns))

    def add_route(self, ns: str, destination: str, link: str) -> None:
        self._kernel.vandalise_add(Route(ns, network(destination), link))

    def add_rule(self, ns: str, priority: int, table: int) -> None:
        self._kernel.vandalise_add(Rule(ns, 4, priority, table))

    def add_neighbour(self, ns: str, link: str, neighbour: str, mac: str) -> None:
        self._kernel.vandalise_add(Neighbour(ns, link, ip(neighbour), mac))

    def flush_firewall(self, ns: str) -> None:
        self._kernel.flush_firewall(ns)

    def make_namespace(self) -> str:
        self._made += 1
        path = f"/proc/{4241 + self._made}/ns/net"
        self._kernel.make_foreign_namespace(path)
        return path


@attrs.frozen
class Bench:
    """A kernel, a hand, and short ways to say what a test does."""

    kernel: Kernel
    hand: Hand

    def table(self, ns: str = "") -> FirewallTable:
        """Our firewall table."""
        return firewall.table("cnm-test", ns)

    def small_network(self) -> list[Resource]:
        """A bridge with one sandbox on it, in an order in which it can be made."""
        return [
            Namespace("s1"),
            bridge(),
            *pair(master="b1"),
            Interface("s1", "lo"),
            Interface("s1", INNER),
            address("b1", "10.0.0.1/24"),
            address(INNER, "10.0.0.2/24", ns="s1"),
            Route("s1", network("0.0.0.0/0"), INNER, ip("10.0.0.1")),
            Route("", network("10.0.0.0/24"), table=8472, metric=1, type="prohibit"),
        ]

    def errnos(self, operation: Operation, *resources: Resource) -> list[str]:
        """Make the changes in one batch; each outcome as the name of its errno, or ``-``."""
        steps = [Change(operation, resource, resource if operation == "change" else None) for resource in resources]
        outcomes = self.kernel.apply(steps, deadline=within())
        return ["-" if error is None else _NAMES.get(error.errno, str(error.errno)) for error in outcomes]

    def errno(self, operation: Operation, resource: Resource) -> str:
        """The only outcome of a batch of one."""
        (outcome,) = self.errnos(operation, resource)
        return outcome

    def add(self, *resources: Resource) -> None:
        """Add all; none may be refused."""
        self._all("add", resources)

    def delete(self, *resources: Resource) -> None:
        """Delete all; none may be refused."""
        self._all("delete", resources)

    def change(self, before: Resource, after: Resource) -> None:
        """Change one in place; it may not be refused."""
        assert (None,) == self.kernel.apply((Change("change", after, before),), deadline=within())

    def _all(self, operation: Operation, resources: tuple[Resource, ...]) -> None:
        outcomes = self.kernel.apply([Change(operation, resource) for resource in resources], deadline=within())
        refused = [str(outcome) for outcome in outcomes if outcome is not None]
        assert [] == refused

    def one(self, resource: Resource) -> Observed | None:
        """What holds the identity."""
        return self.kernel.read_one(resource, deadline=within())

    def read(self, kind: type[R], ns: str = "", *, ours: bool = True) -> list[R]:
        """What is ours (or what is not) of one kind in one namespace."""
        observed = self.kernel.read({ns}, {kind}, deadline=within())
        return [one.resource for one in observed if one.ours is ours and isinstance(one.resource, kind)]

    def everything(self) -> set[tuple[Resource, bool]]:
        """All that can be read on the host and in the sandboxes of these tests."""
        observed = self.kernel.read({"", "s1", "s2", "o1", "o2"}, deadline=within())
        return {(one.resource, one.ours) for one in observed}

    def unnamed(self, ns: str) -> set[Resource]:
        """All of one namespace, as if it were the host, to compare two of them."""
        observed = self.kernel.read({ns}, {Bridge, Address, Route}, deadline=within())
        found = (one.resource for one in observed)
        return {attrs.evolve(one, ns="") for one in found if isinstance(one, Bridge | Address | Route)}

    def wait_for(self, condition: Callable[[], T]) -> T:
        """The condition's first true value; what the kernel does in its own time is done by then."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not (value := condition()):
            assert time.monotonic() < end, "the kernel did not do it in time"
            threading.Event().wait(0.005)
        return value

    def in_background(self, action: Callable[[], T]) -> Future[T]:
        """The action's result, from a thread of its own that has begun."""
        future: Future[T] = Future()
        begun = threading.Event()

        def run() -> None:
            begun.set()
            try:
                future.set_result(action())
            except BaseException as error:  # noqa: BLE001 - handed to whoever asks for the result
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        assert begun.wait(PATIENCE_SECONDS)
        return future
