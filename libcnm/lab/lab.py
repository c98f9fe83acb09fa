"""The lab: hosts on one underlay, a store that they share, and the way all of it goes again.

Whatever is built is entered on a stack first and taken down in reverse: politely (sandboxes, networks, residents), then
surely (whatever process is still inside, descriptors, the folder). A second Ctrl-C waits for that. A killed lab leaves
a folder of files and nothing else: namespaces go with their last descriptor, residents with their guardian.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Final, TypeVar

from libcnm.controller.controller import Controller
from libcnm.controller.doors import Paths
from libcnm.controller.network import Network
from libcnm.controller.sandbox import Sandbox
from libcnm.errors import CnmError, Forbidden, Invalid, NotFound
from libcnm.kernel.linux import Home
from libcnm.kernel.linux.transport import Transport
from libcnm.lab import namespaces, processes, wire
from libcnm.lab.capture import Capture
from libcnm.lab.host import Host
from libcnm.lab.signals import EndingSignals
from libcnm.model.addresses import IPInterface, IPNetwork, parse_pool
from libcnm.model.arguments import sequence, text, whole
from libcnm.model.deadline import Deadline
from libcnm.model.ids import check_hostname
from libcnm.system.clock import SystemClock

log = logging.getLogger("libcnm.lab")
Thing = TypeVar("Thing", Network, Sandbox)
_Result = TypeVar("_Result")

INTERFACE: Final = "eth1"
_BRIDGE: Final = "underlay"
_BRIDGE_INDEX: Final = 2
_INTERFACE_INDEX: Final = 2
_FIRST_ADDRESS: Final = 11
_HOSTS: Final = 200
"""Addresses .11 to .210 of a /24; more hosts than one machine has patience for."""
_POLITE_SECONDS: Final = 15.0
_VERB_SECONDS: Final = 5.0
_SURE_SECONDS: Final = 5.0


class Lab:
    """Simulated hosts that share an underlay and a cluster store. A context manager; leaving the block leaves nothing.

    ``hosts``: their names, or how many (``lab-vm-1`` and so on). ``subnet`` (and ``subnet6``): the underlay's
    addresses, the first host has the eleventh; without IPv4 (None) hosts advertise IPv6. ``mtu`` in octets. ``store``:
    what the hosts share: ``"sqlite"`` for a file in the lab's folder, or a store's URL.

    Raises Invalid, NotSupported (without privilege: see :func:`~libcnm.lab.ensure_privileges`), KernelError.
    """

    def __init__(
        self,
        hosts: Sequence[str] | int = ("lab-vm-1", "lab-vm-2"),
        *,
        subnet: str | None = "192.168.33.0/24",
        subnet6: str | None = None,
        mtu: int = 1500,
        store: str = "sqlite",
    ) -> None:
        self._names = _names(hosts)
        self._subnets = _subnets(subnet, subnet6)
        self._mtu = whole(mtu, "mtu", 576, 65535)
        self._store = text(store, "store")
        self._signals = EndingSignals({Lab.__enter__.__code__, Lab.__exit__.__code__})
        self._stack = ExitStack()
        self._territory = processes.Territory(frozenset(), frozenset())
        self._held: list[socket.socket] = []
        self._running = False
        self._hosts: dict[str, Host] = {}
        self._macs: dict[str, str] = {}
        self._ports: dict[str, str] = {}
        self._underlay = Home()
        self._scissors = wire.Scissors(self._underlay)
        self.folder = ""

    def __repr__(self) -> str:
        return f"<Lab of {', '.join(self._names)}>"

    def __enter__(self) -> Lab:
        if self.folder:
            raise Invalid("lab", repr(self), "has been entered already", hint="make another")
        self._signals.__enter__()
        try:
            with self._signals.held(), ExitStack() as building:
                self._build(building)
                self._stack = building.pop_all()
                self._running = True
            self._signals.deliver()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._signals.held():
                self._running = False
                self._stack.close()
        finally:
            self._signals.__exit__(kind, error, trace)

    # -- what is in it -------------------------------------------------------------------------------------------------

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The hosts, in the order they were named."""
        return tuple(self._hosts.values())

    def host(self, name: str) -> Host:
        """The host of that name, or NotFound."""
        try:
            return self._hosts[name]
        except KeyError:
            raise NotFound("host", name, hint=f"this lab has {', '.join(self._names)}") from None

    def partition(self, one: str | Host, other: str | Host) -> None:
        """Cut the underlay between two hosts, both ways, until :meth:`heal`. The store's file is as near as before."""
        self._scissors.cut(*self._ends(one, other))

    def heal(self, one: str | Host, other: str | Host) -> None:
        """Undo :meth:`partition`. Raises KernelError when they were not cut apart."""
        self._scissors.mend(*self._ends(one, other))

    def capture(self, path: str | os.PathLike[str]) -> Capture:
        """Begin to write what crosses the underlay to a pcap file, each frame once; a context manager."""
        self._check_running()
        capture = Capture(self._underlay, os.fspath(path), ports=self._ports.values())
        self._stack.callback(capture.stop)
        return capture

    def _ends(self, one: str | Host, other: str | Host) -> tuple[str, str]:
        self._check_running()
        names = [end.name if isinstance(end, Host) else end for end in (one, other)]
        first, second = (self.host(name).name for name in names)
        if first == second:
            raise Invalid("other", second, "is the same host")
        return self._macs[first], self._macs[second]

    def _check_running(self) -> None:
        """Before and after, the underlay is no namespace of ours: it would be the caller's own, or a stranger's."""
        if not self._running:
            raise Forbidden(f"{self!r} is not running", hint="with Lab() as lab: ...")

    # -- building ------------------------------------------------------------------------------------------------------

    def _build(self, stack: ExitStack) -> None:
        self.folder = tempfile.mkdtemp(prefix="cnm-lab-")
        stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._underlay = namespaces.make_wire()
        stack.callback(namespaces.close, self._underlay)
        self._scissors = wire.Scissors(self._underlay)
        with wire.talking(self._underlay) as talk:
            wire.send(talk, "the underlay", wire.bridge(_BRIDGE_INDEX, _BRIDGE, "02:6c:61:62:00:00", self._mtu))
            for number, name in enumerate(self._names):
                self._build_host(stack, talk, number, name)
        stack.callback(self._end_processes)
        stack.callback(self._tidy_up)
        stack.callback(self._note_territory)

    def _build_host(self, stack: ExitStack, talk: Transport, number: int, name: str) -> None:
        home = namespaces.make_machine()
        stack.callback(namespaces.close, home)
        assert isinstance(home.net, int), "made as descriptors"
        self._macs[name] = f"02:6c:61:62:{(number + 1) >> 8:02x}:{(number + 1) & 0xFF:02x}"
        self._ports[name] = f"to-{number + 1}"
        cable = wire.cable(
            self._ports[name], self._mtu, _BRIDGE_INDEX, _INTERFACE_INDEX, INTERFACE, self._macs[name], home.net
        )
        wire.send(talk, f"the cable of {name}", cable)
        interfaces = [_interface(subnet, number) for subnet in self._subnets]
        with wire.talking(home) as inside:
            wire.send(inside, f"lo of {name}", wire.interface("lo", 1, ()))
            wire.send(inside, f"{INTERFACE} of {name}", wire.interface(INTERFACE, _INTERFACE_INDEX, interfaces))
        folder = os.path.join(self.folder, name)
        os.makedirs(folder, mode=0o700)
        self._hosts[name] = host = Host(name, home, folder, interfaces, self._cluster_store())
        stack.callback(host.close)

    def _cluster_store(self) -> str:
        return f"sqlite://{os.path.join(self.folder, 'cluster.db')}" if self._store == "sqlite" else self._store

    # -- the way down --------------------------------------------------------------------------------------------------

    def _tidy_up(self) -> None:
        """What libcnm itself would do: delete sandboxes, then networks, then ask the residents to go."""
        deadline = SystemClock().deadline(_POLITE_SECONDS)
        used = [host for host in self.hosts if os.path.exists(Paths(host.state_dir, host.run_dir).database)]
        controllers = [cnm for host in used if (cnm := _opened(host)) is not None]
        # Everywhere the sandboxes first: a network of the cluster goes when no host's endpoints are left in it.
        for cnm in controllers:
            _delete(cnm, cnm.sandboxes, Sandbox.delete, deadline)
        for cnm in controllers:
            _delete(cnm, cnm.networks, partial(Network.delete, force=True), deadline)
        sockets = [Paths(host.state_dir, host.run_dir).socket for host in used]
        for path in processes.stop_residents(sockets, deadline):
            log.warning("the resident at %s does not end; it will be killed", path)

    def _end_processes(self) -> None:
        for host in self.hosts:
            host.close_controllers()  # a resident that is killed would else be replaced
        try:
            left = processes.end_all(self._territory, SystemClock().deadline(_SURE_SECONDS))
        finally:
            for hold in self._held:
                hold.close()
            self._held.clear()
        if left:
            log.error("processes %s are stuck inside the lab's namespaces", ", ".join(map(str, left)))

    def _note_territory(self) -> None:
        """Which namespaces are the lab's alone: asked before any goes. A brought one is not ours to empty.

        They are held until their processes have ended: the number of one that is gone is the next one's to be made, by
        whomever on this machine.
        """
        homes = [self._underlay, *(host.home for host in self.hosts)]
        networks = {processes.key_of(home.net) for home in homes if isinstance(home.net, int)}
        mounts = {processes.key_of(home.mnt) for home in homes if isinstance(home.mnt, int)}
        for host in self.hosts:
            try:
                for pin, hold in host.hold_own_namespaces():
                    if hold is not None:
                        self._held.append(hold)
                    networks.add((pin.device, pin.inode))
            except CnmError as error:
                log.warning("%s: %s", host.name, error)
        self._territory = processes.Territory(frozenset(networks), frozenset(mounts))


def _opened(host: Host) -> Controller | None:
    try:
        return host.controller(resident="off", timeout=_VERB_SECONDS)
    except CnmError as error:
        log.warning("%s: %s", host.name, error)
        return None


def _delete(
    cnm: Controller, listed: Callable[[], Sequence[Thing]], delete: Callable[[Thing], None], deadline: Deadline
) -> None:
    """Delete what is listed, as far as time allows; what does not go politely goes with its namespaces."""

    def attempt(action: Callable[[], _Result]) -> _Result | None:
        try:
            return action()
        except CnmError as error:
            # A network of the cluster may have been deleted by another host just now.
            gone = isinstance(error, NotFound) and error.kind in ("network", "endpoint", "sandbox")
            log.log(logging.DEBUG if gone else logging.WARNING, "%s: %s", cnm.host, error)
        return None

    for thing in attempt(listed) or ():
        if deadline.remaining() > 0:
            attempt(partial(delete, thing))


def _names(hosts: Sequence[str] | int) -> list[str]:
    if isinstance(hosts, int):
        return [f"lab-vm-{number}" for number in range(1, whole(hosts, "hosts", 1, _HOSTS) + 1)]
    names = [check_hostname(name, "hosts") for name in sequence(hosts, "hosts", _HOSTS)]
    if not names or len(set(names)) != len(names):
        raise Invalid("hosts", hosts, f"are not 1 to {_HOSTS} different names")
    return names


def _subnets(subnet: str | None, subnet6: str | None) -> list[IPNetwork]:
    given = {"subnet": subnet, "subnet6": subnet6}
    found = [parse_pool(value, field) for field, value in given.items() if value is not None]
    if not found or [(pool.version == 6) for pool in found] != [
        name == "subnet6" for name, one in given.items() if one
    ]:
        raise Invalid("subnet", subnet, "and subnet6 are not an IPv4 and an IPv6 subnet, or one of them")
    for pool in found:
        if pool.num_addresses < _FIRST_ADDRESS + _HOSTS + 1:
            raise Invalid("subnet", str(pool), "is too small", hint="a /24 or larger, or a /64")
    return found


def _interface(subnet: IPNetwork, number: int) -> IPInterface:
    return ipaddress.ip_interface(f"{subnet[_FIRST_ADDRESS + number]}/{subnet.prefixlen}")
