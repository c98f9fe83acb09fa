"""LinuxKernel and the process around it: threads, homes, descriptors, events, children, deadlines."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from libcnm.errors import DeadlineExceeded, NotFound, Unavailable
from libcnm.kernel.base import KernelEvent, KernelEvents, no_effect_hook
from libcnm.kernel.linux import Home, LinuxKernel, pack, syscalls
from libcnm.kernel.linux.transport import Transport
from libcnm.kernel.linux.worker import HomeNamespaces, Worker
from libcnm.kernel.resources import Address, Bridge, Interface, Namespace, Neighbour, Route, Rule, Sysctl, Veth
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Change, Resource

PATIENCE = 10.0


def within(seconds: float = 30.0) -> Deadline:
    return Deadline.after(seconds, time.monotonic)


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


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[LinuxKernel]:
    """A door to a host of its own."""
    with private_host() as home:
        door = LinuxKernel(tmp_path / "run", home=home)
        yield door
        door.close()


def change(kernel: LinuxKernel, operation: str, *resources: Resource) -> None:
    steps = [Change(operation, resource) for resource in resources]  # type: ignore[arg-type]  # one of three words
    assert [None] * len(resources) == list(kernel.apply(steps, deadline=within()))


def run(kernel: LinuxKernel, *argv: str, ns: str = "") -> str:
    child = kernel.spawn(argv, ns, files={}, options={"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT})
    output = child.communicate(timeout=PATIENCE)[0].decode()
    assert (0, argv) == (child.returncode, argv), output
    return output


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        threading.Event().wait(0.002)


def namespaces_of_threads() -> set[tuple[str, str]]:
    found = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError):
            found.add((os.readlink(f"/proc/self/task/{task}/ns/net"), os.readlink(f"/proc/self/task/{task}/ns/mnt")))
    return found


def endpoint(number: int, master: str | None = "br0") -> list[Resource]:
    inside = f"s{number}"
    macs = [f"02:42:{side:02x}:00:{number >> 8:02x}:{number & 255:02x}" for side in (1, 2)]
    return [
        Namespace(inside),
        Veth("", f"ve{number}", macs[0], inside, "eth0", macs[1], master=master),
        Interface(inside, "lo"),
        Interface(inside, "eth0"),
        Address(inside, "eth0", ipaddress.ip_interface(f"10.9.{number >> 8}.{number & 255}/16")),
    ]


# -- threads and homes -------------------------------------------------------------------------------------------------


def test_hammering_threads_stay_where_they_are(tmp_path: Path) -> None:
    """32 threads attach and detach through one door; every thread of the process is in its namespaces afterwards."""
    before = namespaces_of_threads()
    descriptors = len(os.listdir("/proc/self/fd"))
    with LinuxKernel_at_process(tmp_path) as kernel:
        change(kernel, "add", Bridge("", "hammered", "02:42:00:00:00:01"))

        def attach_and_detach(number: int) -> None:
            for _ in range(3):
                change(kernel, "add", *endpoint(number, "hammered"))
                assert before == before & namespaces_of_threads()
                change(kernel, "delete", *reversed(endpoint(number, "hammered")))

        with ThreadPoolExecutor(32) as pool:
            list(pool.map(attach_and_detach, range(256, 288)))
        assert before == namespaces_of_threads()  # the worker's included: its home is the process's
        change(kernel, "delete", Bridge("", "hammered", "02:42:00:00:00:01"))
        assert () == kernel.read({""}, {Namespace, Veth}, deadline=within())
        wait_for(lambda: kernel.sweep() == 0)
    assert before == namespaces_of_threads()
    assert descriptors == len(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def LinuxKernel_at_process(tmp_path: Path) -> Iterator[LinuxKernel]:
    """A door whose home is the process's own (the test session's private) namespaces."""
    with contextlib.closing(LinuxKernel(tmp_path / "run")) as kernel:
        yield kernel


def test_two_hosts_live_in_one_process(tmp_path: Path) -> None:
    """Each door sees its own links, its own pins and its own mounts, whichever thread asks."""
    with private_host() as one, private_host() as two:
        doors = [LinuxKernel(tmp_path / "run", home=home) for home in (one, two)]
        for number, door in enumerate(doors):
            change(door, "add", Bridge("", f"br{number}", "02:42:00:00:00:01"), Namespace(f"s{number}"))
        for number, door in enumerate(doors):
            read = door.read({""}, {Bridge, Namespace}, deadline=within())
            assert {f"br{number}", f"s{number}"} == {one.resource.identity[-1] for one in read}
            assert f"br{number}" in run(door, "ip", "link")
            door.close()


def test_a_home_may_be_given_by_paths(tmp_path: Path) -> None:
    """Like ``nsenter --net=... --mount=...``."""
    with private_host() as home:
        door = LinuxKernel(tmp_path, home=Home(f"/proc/self/fd/{home.net}", f"/proc/self/fd/{home.mnt}"))
        change(door, "add", Bridge("", "br0", "02:42:00:00:00:01"))
        assert "br0" in run(door, "ip", "link")
        door.close()


def test_a_worker_that_cannot_come_home_is_not_used_again() -> None:
    """The job fails, the thread ends where it was, and the next job has a fresh thread at home."""
    with private_host() as home, private_host() as elsewhere:
        namespaces = HomeNamespaces(home)
        worker = Worker(namespaces, lambda: None)
        lost, right = int(str(elsewhere.net)), namespaces.net
        first = worker.call(threading.get_native_id, within())
        namespaces.net = os.open("/dev/null", os.O_RDONLY)  # "home" is no namespace any more
        with pytest.raises(Unavailable):
            worker.call(lambda: worker.visit(lost, lambda: None), within())
        os.close(namespaces.net)
        namespaces.net = right
        wait_for(lambda: not os.path.exists(f"/proc/self/task/{first}"))
        wait_for(lambda: works(worker))  # a thread that found no home meanwhile has given up, too
        here = worker.call(lambda: os.stat("/proc/thread-self/ns/net").st_ino, within())
        assert os.fstat(right).st_ino == here
        worker.close()
        namespaces.close()


def works(worker: Worker) -> bool:
    try:
        return worker.call(lambda: True, within())
    except Unavailable:
        return False


def test_what_a_hook_raises_reaches_the_caller_and_the_worker_is_at_home(kernel: LinuxKernel) -> None:
    """Wherever the crash is: the caller sees it, the next change works, a namespace is there whole or not at all."""
    told: list[str] = []
    kernel.on_effect = lambda name, when: told.append(f"{name} {when}")
    change(kernel, "add", Namespace("s0"))
    for number, crash in enumerate(told):

        def hook(name: str, when: str, crash: str = crash) -> None:
            if f"{name} {when}" == crash:
                raise KeyboardInterrupt

        kernel.on_effect = hook
        with pytest.raises(KeyboardInterrupt):
            kernel.apply([Change("add", Namespace(f"c{number}"))], deadline=within())
        kernel.on_effect = no_effect_hook
        pinned = kernel.namespace(f"c{number}") is not None
        assert (crash == "namespace:pin after") == pinned
        if pinned:
            ipv6 = kernel.read_one(Sysctl(f"c{number}", "net/ipv6/conf/lo/disable_ipv6", ""), deadline=within())
            assert ipv6 is not None
            assert Sysctl(f"c{number}", "net/ipv6/conf/lo/disable_ipv6", "1") == ipv6.resource
    change(kernel, "add", Namespace("s1"))


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    """Reads, refusals, sockets, children, subscriptions: after close the process holds what it held before."""
    with private_host() as home:
        before = sorted(os.listdir("/proc/self/fd"))
        kernel = LinuxKernel(tmp_path, home=home)
        change(kernel, "add", Bridge("", "br0", "02:42:00:00:00:01"))
        for number in range(2, 90):  # more than there are channels
            change(kernel, "add", *endpoint(number))
        kernel.read({"", *(f"s{number}" for number in range(2, 90))}, deadline=within())
        kernel.apply([Change("add", Namespace("s2")), Change("delete", Namespace("none"))], deadline=within())
        assert len(os.listdir("/proc/self/fd")) < 2 * 64 + 50  # however many were read, firewalls included
        kernel.open_socket("s3", socket.AF_INET, socket.SOCK_DGRAM).close()
        events = kernel.events()
        events.follow({"", "s3"})
        run(kernel, "true", ns="s3")
        kernel.close()
        kernel.close()
        assert before == sorted(os.listdir("/proc/self/fd"))


# -- sockets, children, sysctls ----------------------------------------------------------------------------------------


def test_a_socket_belongs_to_its_namespace(kernel: LinuxKernel) -> None:
    """It may be used from any thread; the address it binds is the sandbox's."""
    gateway = Address("", "br0", ipaddress.ip_interface("10.9.0.1/16"))
    change(kernel, "add", Bridge("", "br0", "02:42:00:00:00:01"), gateway, *endpoint(2))
    with kernel.open_socket("s2", socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("10.9.0.2", 53))
    with kernel.open_socket("", socket.AF_INET, socket.SOCK_DGRAM) as sock, pytest.raises(OSError, match="assign"):
        sock.bind(("10.9.0.2", 53))
    with pytest.raises(NotFound):
        kernel.open_socket("none", socket.AF_INET, socket.SOCK_DGRAM)


def test_a_child_sees_its_files_and_its_links(kernel: LinuxKernel, tmp_path: Path) -> None:
    """Files are shown where both ends exist; /sys shows the sandbox's links; nothing of it is seen outside."""
    change(kernel, "add", Bridge("", "br0", "02:42:00:00:00:01"), *endpoint(2))
    hosts = tmp_path / "hosts"
    hosts.write_text("10.9.0.2 web\n")
    before = Path("/etc/hosts").read_text(encoding="utf-8")
    gone = str(tmp_path / "gone" / "hosts")  # with its folder, as a deleted sandbox's is
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    files = {"/etc/hosts": str(hosts), "/nonexistent": str(hosts), "/etc/passwd": "/nonexistent", "/etc/group": gone}
    files |= {"/etc/hosts/x": str(hosts), "/etc/shells": f"{hosts}/x", "/etc/fstab": str(tmp_path / "loop")}
    child = kernel.spawn(
        ["sh", "-c", "cat /etc/hosts; ls /sys/class/net"], "s2", files=files, options={"stdout": subprocess.PIPE}
    )
    shown = child.communicate(timeout=PATIENCE)[0].decode()
    assert (0, ["10.9.0.2 web", "eth0", "lo"]) == (
        child.returncode,
        [*shown.splitlines()[:1], *sorted(shown.split()[2:])],
    )
    assert before == Path("/etc/hosts").read_text(encoding="utf-8")
    with pytest.raises(FileNotFoundError):
        kernel.spawn(["/nonexistent"], "s2", files={}, options={})


def test_a_child_does_not_keep_other_namespaces_alive(kernel: LinuxKernel) -> None:
    """Its copy of the mounts is a slave of ours: what is unpinned ends, although it was started before."""
    change(kernel, "add", Bridge("", "br0", "02:42:00:00:00:01"), *endpoint(2), Namespace("s3"))
    child = kernel.spawn(["sleep", "60"], "s3", files={}, options={})
    change(kernel, "delete", Namespace("s2"))
    wait_for(lambda: "ve2" not in run(kernel, "ip", "link"))
    child.kill()
    child.wait()


def test_sysctls_stay_below_net(kernel: LinuxKernel) -> None:
    """A key with a way out of it, or of the whole machine's, is refused before anything is opened."""
    change(kernel, "add", Namespace("s1"))
    for key in ("kernel/hostname", "net/../kernel/hostname", "net", "net//ipv4", "/net/ipv4/ip_forward", "net/ipv4/."):
        (outcome,) = kernel.apply([Change("add", Sysctl("s1", key, "1"))], deadline=within())
        assert outcome is not None
        assert errno.EINVAL == outcome.errno
    change(kernel, "add", Sysctl("s1", "net/ipv4/ip_forward", " 1\n"))
    assert ("1\n", "0\n") == tuple(run(kernel, "cat", "/proc/sys/net/ipv4/ip_forward", ns=ns) for ns in ("s1", ""))


# -- events ------------------------------------------------------------------------------------------------------------


def told(events: KernelEvents, wanted: KernelEvent) -> float:
    """Seconds until that event."""
    began = time.monotonic()
    while wanted not in events.next(PATIENCE):
        assert time.monotonic() < began + PATIENCE, f"{wanted} was not announced"
    return time.monotonic() - began


def test_a_deletion_by_hand_is_known_within_100_ms(kernel: LinuxKernel) -> None:
    """In the host and in the sandbox, where the other end went."""
    change(kernel, "add", Bridge("", "br0", "02:42:00:00:00:01"), *endpoint(2))
    events = kernel.events()
    events.follow({"", "s2"})
    while events.next(0.05):
        pass  # carriers are noticed late
    run(kernel, "ip", "link", "delete", "ve2")
    assert told(events, KernelEvent("", "links")) < 0.1
    events.close()


def test_every_kind_of_removal_has_its_word(kernel: LinuxKernel) -> None:
    """What says where to look again; what comes or changes is not told."""
    change(kernel, "add", Bridge("", "br0", "02:42:00:00:00:01"))
    events = kernel.events()
    events.follow({""})
    block = ipaddress.ip_network("10.8.0.0/24")
    steps: dict[str, tuple[Resource, list[str]]] = {
        "addresses": (
            Address("", "br0", ipaddress.ip_interface("10.9.0.1/24")),
            ["address", "delete", "10.9.0.1/24", "dev", "br0"],
        ),
        "routes": (Route("", block, table=77, metric=1, type="prohibit"), ["route", "flush", "table", "77"]),
        "rules": (Rule("", 4, 77, 77), ["rule", "delete", "pref", "77"]),
        "neighbours": (
            Neighbour("", "br0", ipaddress.ip_address("10.9.0.9"), "02:00:00:00:00:09"),
            ["neigh", "delete", "10.9.0.9", "dev", "br0"],
        ),
        "links": (Bridge("", "br1", "02:42:00:00:00:02"), ["link", "delete", "br1"]),
    }
    for what, (resource, argv) in steps.items():
        change(kernel, "add", resource)
        assert () == events.next(0)
        run(kernel, "ip", *argv)
        told(events, KernelEvent("", what))  # type: ignore[arg-type]  # the words of the keys above
    events.close()


def test_lost_events_are_announced(kernel: LinuxKernel) -> None:
    """When more happens than the socket holds: look at everything."""
    change(kernel, "add", Bridge("", "br0", "02:42:00:00:00:01"))
    events = kernel.events()
    events.follow({""})
    for sock in events._followed[""].sockets:  # type: ignore[attr-defined]  # of LinuxEvents
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    rows = [Neighbour("", "br0", ipaddress.ip_address(f"10.9.0.{n}"), "02:00:00:00:00:01") for n in range(1, 200)]
    change(kernel, "add", *rows)
    change(kernel, "delete", *rows)
    told(events, KernelEvent("", "lost"))
    events.close()


def test_a_followed_namespace_may_come_and_go(kernel: LinuxKernel) -> None:
    """It is taken up when it is pinned, let go of when it is unpinned, and the subscription does not keep it alive."""
    change(kernel, "add", Bridge("", "br0", "02:42:00:00:00:01"))
    events = kernel.events()
    events.follow({"", "s2"})
    for _ in range(2):
        change(kernel, "add", *endpoint(2))
        told(events, KernelEvent("s2", "lost"))
        run(kernel, "ip", "address", "flush", "dev", "eth0", ns="s2")
        told(events, KernelEvent("s2", "addresses"))
        change(kernel, "delete", Namespace("s2"))
        told(events, KernelEvent("s2", "lost"))
        wait_for(lambda: "ve2" not in run(kernel, "ip", "link"))
    events.close()


# -- deadlines ---------------------------------------------------------------------------------------------------------


def test_a_stalled_socket_costs_no_more_than_the_deadline() -> None:
    """When no answer comes: DeadlineExceeded, outcome unknown; a late answer is not taken for another's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        wire = Transport(ours)
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded) as raised:
            wire.send([pack.delete_group(7)], within(0.05))
        assert (True, True) == (raised.value.outcome_unknown, time.monotonic() - began < 1.0)
        theirs.send(refusal(errno.ENODEV, sequence=1))  # what came too late
        theirs.send(refusal(0, sequence=2))
        assert [None] == wire.send([pack.delete_group(7)], within(1.0))


def refusal(code: int, sequence: int) -> bytes:
    body = (-code).to_bytes(4, "little", signed=True) + bytes(16)
    return pack._HEADER.pack(16 + len(body), 2, 0, sequence, 0) + body


def test_a_busy_worker_costs_no_more_than_the_deadline(kernel: LinuxKernel) -> None:
    """A caller does not wait for others' jobs beyond its own budget; what its job made meanwhile is given back."""
    blocked, done = threading.Event(), threading.Event()

    def hook(name: str, when: str) -> None:
        if (name, when) == ("namespace:pin", "before"):
            blocked.set()
            done.wait(PATIENCE)

    kernel.on_effect = hook
    other = threading.Thread(target=change, args=(kernel, "add", Namespace("s1")))
    other.start()
    assert blocked.wait(PATIENCE)
    with pytest.raises(DeadlineExceeded):
        kernel.apply([Change("add", Namespace("s2"))], deadline=within(0.05))
    done.set()
    other.join()
    change(kernel, "add", Route("s1", ipaddress.ip_network("10.0.0.0/8"), type="prohibit"))
