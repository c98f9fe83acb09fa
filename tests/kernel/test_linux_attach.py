"""LinuxKernel on the real kernel: attach, park, sweep, brought namespaces, overlays; each host a pair of namespaces."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from libcnm.errors import Invalid
from libcnm.kernel.linux import Home, LinuxKernel, syscalls
from libcnm.kernel.resources import (
    PARKED_GROUP,
    Address,
    Bridge,
    Fdb,
    Interface,
    Namespace,
    Neighbour,
    Route,
    Sysctl,
    Veth,
    Vxlan,
    ipv6_switch,
)
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Change, Operation, Resource

PATIENCE = 10.0


def within() -> Deadline:
    return Deadline.after(30.0, time.monotonic)


@contextlib.contextmanager
def private_host() -> Iterator[Home]:
    """A network and a mount namespace that play a host, made on a thread that ends."""
    fds: list[int] = []

    def make() -> None:
        syscalls.unshare(syscalls.CLONE_FS | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET)
        fds.extend(os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY) for kind in ("net", "mnt"))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    try:
        yield Home(*fds)
    finally:
        for fd in fds:
            os.close(fd)


class Host:
    """A kernel door and short words for what the tests do with it."""

    def __init__(self, kernel: LinuxKernel) -> None:
        self.kernel = kernel

    def outcomes(self, operation: Operation, *resources: Resource) -> list[str]:
        changes = [Change(operation, resource) for resource in resources]
        return ["-" if one is None else str(one) for one in self.kernel.apply(changes, deadline=within())]

    def add(self, *resources: Resource) -> None:
        assert ["-"] * len(resources) == self.outcomes("add", *resources)

    def delete(self, *resources: Resource) -> None:
        assert ["-"] * len(resources) == self.outcomes("delete", *resources)

    def run(self, *argv: str, ns: str = "") -> str:
        child = self.kernel.spawn(argv, ns, files={}, options={"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT})
        output = child.communicate(timeout=PATIENCE)[0].decode()
        assert (0, argv) == (child.returncode, argv), output
        return output

    def links(self, ns: str = "") -> set[str]:
        """The names in ``ip link``, without what follows the @."""
        lines = self.run("ip", "-o", "link", "show", ns=ns).splitlines()
        return {line.split(": ")[1].split("@")[0] for line in lines}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host of its own for each test."""
    with private_host() as home:
        kernel = LinuxKernel(tmp_path / "run", home=home)
        yield Host(kernel)
        kernel.close()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        threading.Event().wait(0.005)


def bridge(name: str = "br0", ns: str = "") -> list[Resource]:
    return [Bridge(ns, name, "02:42:00:00:00:01"), Address(ns, name, ipaddress.ip_interface("10.9.0.1/24"))]


def endpoint(number: int, ns: str = "", master: str = "br0") -> list[Resource]:
    """A sandbox with one endpoint, in the order in which the engine adds it."""
    inside = f"s{number}"
    veth = Veth(
        ns, f"ve{number}", f"02:42:00:00:01:{number:02x}", inside, "eth0", f"02:42:00:00:02:{number:02x}", master=master
    )
    return [
        Namespace(inside),
        veth,
        Interface(inside, "lo"),
        Interface(inside, "eth0"),
        Address(inside, "eth0", ipaddress.ip_interface(f"10.9.0.{number}/24")),
        Route(inside, ipaddress.ip_network("0.0.0.0/0"), "eth0", ipaddress.ip_address("10.9.0.1")),
    ]


# -- attaching ---------------------------------------------------------------------------------------------------------


def test_an_attached_sandbox_reaches_the_others_at_once(host: Host) -> None:
    """The first packet passes as soon as apply has returned: a lost one would cost ARP a second."""
    host.add(*bridge())
    for number in range(2, 12):
        host.add(*endpoint(number))
        began = time.monotonic()
        host.run("ping", "-c1", "-W1", "10.9.0.1", ns=f"s{number}")
        assert time.monotonic() - began < 0.9
    host.run("ping", "-c1", "-W1", "10.9.0.11", ns="s2")


def test_both_families_are_attached_alike(host: Host) -> None:
    """An IPv6 address is usable at once, without duplicate detection; the sandbox had IPv6 off until then."""
    host.add(*bridge(), Address("", "br0", ipaddress.ip_interface("fd00:9::1/64")))
    host.add(*endpoint(2))
    assert "1\n" == host.run("cat", "/proc/sys/net/ipv6/conf/eth0/disable_ipv6", ns="s2")
    host.add(
        Sysctl("s2", ipv6_switch("eth0"), "0", link="eth0"),
        Address("s2", "eth0", ipaddress.ip_interface("fd00:9::2/64")),
        Route("s2", ipaddress.ip_network("::/0"), "eth0", ipaddress.ip_address("fd00:9::1")),
    )
    host.run("ping", "-c1", "-W2", "fd00:9::1", ns="s2")
    assert "fe80" not in host.run("ip", "-6", "address", "show", "dev", "eth0", ns="s2")


def test_a_bridge_is_made_as_the_recipes_say(host: Host) -> None:
    """Its MAC stays when ports come, no snooping, no address of its own making, its MTU kept without ports."""
    host.add(Bridge("", "br0", "02:42:00:00:00:01", 1400, alias="blue"), *endpoint(2))
    shown = host.run("ip", "-d", "link", "show", "br0")
    for part in ("02:42:00:00:00:01", "mcast_snooping 0", "mtu 1400", "alias blue", "addrgenmode none", ",UP"):
        assert part in shown
    host.delete(endpoint(2)[1])
    host.kernel.sweep()
    assert "mtu 1400" in host.run("ip", "link", "show", "br0")


def test_another_endpoint_joins_a_sandbox_that_exists(host: Host) -> None:
    """The index that is chosen for a fresh namespace is not assumed elsewhere."""
    host.add(*bridge(), *endpoint(2))
    second = Veth("", "ve99", "02:42:00:00:01:99", "s2", "eth1", "02:42:00:00:02:99", master="br0")
    host.add(second, Interface("s2", "eth1"), Address("s2", "eth1", ipaddress.ip_interface("10.8.0.2/24")))
    assert {"lo", "eth0", "eth1"} == host.links("s2")


def test_a_failure_in_the_middle_does_not_stop_the_rest(host: Host) -> None:
    """Of one batch, what can be done is; the refused ones carry the kernel's errno and words."""
    host.add(*bridge())
    wanted = [Neighbour("", "br0", ipaddress.ip_address(f"10.9.0.{n}"), f"02:00:00:00:00:{n:02x}") for n in range(2, 6)]
    wrong = Route("", ipaddress.ip_network("10.77.0.0/24"), "br0", ipaddress.ip_address("10.66.0.1"))
    changes = [Change("add", each) for each in (*wanted[:2], wrong, *wanted[2:])]
    outcomes = host.kernel.apply(changes, deadline=within())
    assert [None, None, None, None] == [*outcomes[:2], *outcomes[3:]]
    refused = outcomes[2]
    assert refused is not None
    assert (errno.ENETUNREACH, "Nexthop has invalid gateway") == (refused.errno, refused.extack)
    assert "10.77.0.0/24" in str(refused)
    assert 4 == host.run("ip", "neigh", "show", "dev", "br0").count("PERMANENT")


def test_a_pair_that_cannot_be_a_port_is_not_left_behind(host: Host) -> None:
    """An add that was refused leaves nothing, whichever of its messages it was."""
    host.add(Namespace("s1"), Bridge("", "br0", "02:42:00:00:00:01"))
    host.run("ip", "link", "add", "dummy0", "type", "veth", "peer", "name", "dummy1")
    refused = Veth("", "v1", "02:00:00:00:00:01", "s1", "eth0", "02:00:00:00:00:02", master="dummy0")
    (outcome,) = host.kernel.apply([Change("add", refused)], deadline=within())
    assert outcome is not None
    assert (set(), {"lo"}) == (host.links() & {"v1"}, host.links("s1"))


def test_a_link_of_somebody_else_is_left_alone(host: Host) -> None:
    """Where a pair is refused because its inner name is taken, nothing that follows touches the link of that name."""
    with somebodys_namespace() as path:
        host.add(*bridge(), Namespace("c1", source=path))
        host.run("ip", "link", "add", "eth0", "type", "bridge", ns="c1")
        veth = Veth("", "v1", "02:00:00:00:00:01", "c1", "eth0", "02:00:00:00:00:02", master="br0")
        inside = [Interface("c1", "eth0"), Address("c1", "eth0", ipaddress.ip_interface("10.9.0.2/24"))]
        outcomes = host.kernel.apply([Change("add", each) for each in (veth, *inside)], deadline=within())
        assert [errno.EEXIST, errno.ENODEV, errno.ENODEV] == [one.errno for one in outcomes if one is not None]
        shown = host.run("ip", "address", "show", "eth0", ns="c1")
        assert ("UP" in shown, "10.9.0.2" in shown) == (False, False)


# -- parking -----------------------------------------------------------------------------------------------------------


def test_a_parked_pair_frees_its_names_at_once(host: Host) -> None:
    """Delete takes no 20 ms, both names can be used again at once, and the sweep removes what is left."""
    host.add(*bridge(), *endpoint(2))
    veth = endpoint(2)[1]
    for _ in range(5):
        host.delete(veth)
        assert not {"ve2"} & host.links()
        assert {"eth0"} & host.links("s2") == set()
        host.add(veth)
    host.delete(veth)
    assert 1 == host.kernel.sweep()
    assert 0 == host.kernel.sweep()
    assert ({"lo", "br0"}, {"lo"}) == (host.links(), host.links("s2"))


def test_what_a_dead_process_parked_is_swept_by_another(host: Host, tmp_path: Path) -> None:
    """Parked links are known by their group, not by the memory of whoever parked them."""
    host.add(*bridge(), *endpoint(2))
    host.run("ip", "link", "set", "ve2", "down", "nomaster", "group", str(PARKED_GROUP))
    assert () == host.kernel.read({""}, {Veth}, deadline=within())
    assert 1 == host.kernel.sweep()


def test_deletion_by_hand_in_between_is_no_harm(host: Host) -> None:
    """What somebody deleted is "not there", in every order."""
    host.add(*bridge(), *endpoint(2))
    host.run("ip", "link", "delete", "ve2")
    outcomes = host.kernel.apply([Change("delete", each) for each in reversed(endpoint(2))], deadline=within())
    codes = [None if one is None else one.errno for one in outcomes]
    assert [errno.ENOENT, errno.ENOENT, errno.ENODEV, None, errno.ENODEV, None] == codes


def test_a_bridge_goes_with_ports_on_it(host: Host) -> None:
    """Its ports are free then, and it may be made again under the same name at once."""
    host.add(*bridge(), *endpoint(2))
    host.delete(bridge()[0])
    assert "master" not in host.run("ip", "link", "show", "ve2")
    host.add(*bridge())
    host.kernel.sweep()
    assert {"lo", "br0", "ve2"} == host.links()


# -- namespaces --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def somebodys_namespace() -> Iterator[str]:
    """The namespace of a process that is not ours."""
    child = subprocess.Popen(
        ["unshare", "-n", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert child.stdout is not None
    child.stdout.readline()
    try:
        yield f"/proc/{child.pid}/ns/net"
    finally:
        child.kill()
        child.communicate()


def test_a_brought_namespace_keeps_what_is_its_own(host: Host, tmp_path: Path) -> None:
    """It is known by its identity; only what is marked in it is ours; letting go of it does not end it."""
    with somebodys_namespace() as path:
        host.add(Namespace("c1", source=path), *bridge())
        assert host.kernel.identify(path) == host.kernel.namespace("c1")
        host.run("ip", "link", "add", "theirs", "up", "type", "bridge", ns="c1")
        veth = Veth("", "v1", "02:00:00:00:00:01", "c1", "eth0", "02:00:00:00:00:02", master="br0")
        host.add(veth, Interface("c1", "eth0"))
        observed = {one.resource.identity: one.ours for one in host.kernel.read({"c1"}, deadline=within())}
        assert {("link", "c1", "theirs"): False, ("interface", "c1", "eth0"): True} == observed
        with private_door(host, tmp_path) as another:
            read = another.read({"", "c1"}, {Namespace, Bridge}, deadline=within())
            assert path in [one.resource.source for one in read if isinstance(one.resource, Namespace)]
            assert [False] == [one.ours for one in read if one.resource.identity == ("link", "c1", "theirs")]
        (refused,) = host.kernel.apply([Change("delete", Bridge("c1", "theirs", ""))], deadline=within())
        assert refused is not None
        assert errno.EPERM == refused.errno
        host.delete(veth, Namespace("c1"))
        assert os.path.exists(path)


@contextlib.contextmanager
def private_door(host: Host, tmp_path: Path) -> Iterator[LinuxKernel]:
    """Another process's door to the same host."""
    home = host.kernel._home
    with contextlib.closing(LinuxKernel(tmp_path / "run", home=Home(home.net, home.mnt))) as kernel:
        yield kernel


def test_only_network_namespaces_are_brought(host: Host, tmp_path: Path) -> None:
    """Another kind of namespace or a plain file is Invalid; nothing is pinned."""
    plain = tmp_path / "plain"
    plain.write_text("")
    for path in ("/proc/self/ns/mnt", str(plain), "/nonexistent"):
        with pytest.raises(Invalid):
            host.kernel.identify(path)
        (refused,) = host.kernel.apply([Change("add", Namespace("c1", source=path))], deadline=within())
        assert refused is not None
        assert host.kernel.namespace("c1") is None


def test_a_half_made_namespace_is_made(host: Host) -> None:
    """A crash before the mount leaves a plain file: it is nothing, and the next one uses it."""
    host.add(Namespace("s1"))
    host.delete(Namespace("s1"))
    path = host.kernel.namespace_path("s1")
    Path(path).write_text("")
    assert host.kernel.namespace("s1") is None
    host.add(Namespace("s1"))
    assert host.kernel.namespace("s1") is not None
    host.delete(Namespace("s1"))
    (refused,) = host.kernel.apply([Change("delete", Namespace("s1"))], deadline=within())
    assert refused is not None
    assert errno.ENOENT == refused.errno
    assert not os.path.exists(path)


def test_a_remade_namespace_is_another_one(host: Host, tmp_path: Path) -> None:
    """A door that has an open socket in the old one of that name does not use it, and does not keep it alive."""
    host.add(*bridge(), *endpoint(2))
    with private_door(host, tmp_path) as another:
        assert another.read({"s2"}, {Address}, deadline=within())
        host.delete(Namespace("s2"))
        wait_for(lambda: "ve2" not in host.links())
        host.add(Namespace("s2"))
        assert () == another.read({"s2"}, {Address}, deadline=within())


def test_no_mount_is_left_when_the_last_namespace_goes(host: Host) -> None:
    """The directory is a shared mount while it holds pins, and a plain one again afterwards."""
    before = host.run("cat", "/proc/self/mountinfo")
    host.add(Namespace("s1"), Namespace("s2"))
    assert 1 == sum("/netns rw" in line and " shared:" in line for line in mounts(host))
    host.delete(Namespace("s1"), Namespace("s2"))
    assert before == host.run("cat", "/proc/self/mountinfo")


def mounts(host: Host) -> list[str]:
    return host.run("cat", "/proc/self/mountinfo").replace("/netns / ", "/netns ").splitlines()


# -- overlays ----------------------------------------------------------------------------------------------------------


def overlay(ns: str = "1-blue", vni: int = 4097) -> list[Resource]:
    return [
        Namespace(ns),
        Interface(ns, "lo"),
        Bridge(ns, "br0", "02:42:00:00:00:01", 1450),
        Vxlan(ns, "vxlan0", vni, "02:42:00:00:00:02", ipaddress.ip_address("127.0.0.1"), master="br0"),
    ]


def test_an_overlay_carries_packets_between_hosts(tmp_path: Path) -> None:
    """Two hosts with a cable between them: static rows alone lead a ping across, without broadcast."""
    with private_host() as one, private_host() as two:
        hosts = [Host(LinuxKernel(tmp_path / str(n), home=home)) for n, home in enumerate((one, two), 1)]
        cable(hosts[0], hosts[1], two)
        for number, this in enumerate(hosts, 1):
            other = 3 - number
            vtep = ipaddress.ip_address(f"192.0.2.{number}")
            here = overlay()[:3]
            here += [Vxlan("1-blue", "vxlan0", 4097, f"02:42:00:00:00:0{number}", vtep, master="br0")]
            there = ipaddress.ip_address(f"10.9.0.{10 + other}")
            mac = f"02:42:00:00:02:{10 + other:02x}"
            here += [Neighbour("1-blue", "vxlan0", there, mac)]
            here += [Fdb("1-blue", "vxlan0", mac, ipaddress.ip_address(f"192.0.2.{other}"))]
            this.add(*here, *endpoint(10 + number, "1-blue")[:-1])
        hosts[0].run("ping", "-c1", "-W2", "10.9.0.12", ns="s11")
        for this in hosts:
            this.kernel.close()


def cable(here: Host, there: Host, home: Home) -> None:
    """A veth pair between two hosts, with addresses."""
    here.add(Namespace("other", source=f"/proc/self/fd/{home.net}"))
    veth = Veth("", "up0", "02:00:00:00:aa:01", "other", "up0", "02:00:00:00:aa:02")
    here.add(veth, Address("", "up0", ipaddress.ip_interface("192.0.2.1/24")))
    there.add(Interface("", "up0"), Address("", "up0", ipaddress.ip_interface("192.0.2.2/24")))


def test_a_vni_clash_names_the_vni(host: Host) -> None:
    """The kernel's words, the number, and the other device."""
    host.add(*overlay())
    (outcome,) = host.outcomes("add", Vxlan("", "x2", 4097, "02:00:00:00:00:09", ipaddress.ip_address("127.0.0.1")))
    assert "already exists (VNI 4097 is vxlan0 in 1-blue's)" in outcome


def test_a_vni_is_free_again_at_once(host: Host, tmp_path: Path) -> None:
    """After its device was deleted, and after its namespace was, even if another process had looked into it."""
    host.add(*overlay())
    device = overlay()[-1]
    host.delete(device)
    host.add(device)
    with private_door(host, tmp_path) as another:
        for epoch in range(2, 6):
            assert another.read({f"{epoch - 1}-blue"}, {Vxlan}, deadline=within())
            host.delete(Namespace(f"{epoch - 1}-blue"))
            host.add(*overlay(f"{epoch}-blue"))


def test_peer_rows_are_state_not_events(host: Host) -> None:
    """A row is replaced by another for the same MAC or address, and read back as it was asked for."""
    host.add(*overlay())
    rows: list[Resource] = []
    for vtep in ("192.0.2.7", "192.0.2.8"):
        rows = [
            Fdb("1-blue", "vxlan0", "02:42:00:00:02:07", ipaddress.ip_address(vtep)),
            Neighbour("1-blue", "vxlan0", ipaddress.ip_address("10.9.0.7"), f"02:42:00:00:02:0{vtep[-1]}"),
        ]
        host.add(*rows)
    read = host.kernel.read({"1-blue"}, {Fdb, Neighbour}, deadline=within())
    assert set(rows) == {one.resource for one in read}
    assert rows == [one.resource for row in rows if (one := host.kernel.read_one(row, deadline=within())) is not None]
    host.delete(*rows)
    assert () == host.kernel.read({"1-blue"}, {Fdb, Neighbour}, deadline=within())
