"""The API on the real kernel, one host: what a user of the library does, and what then really is there."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from libcnm import AlreadyExists, Controller, Forbidden, InUse, Invalid, NotFound, NotSupported, Sandbox, Subnet
from libcnm.kernel.resources import Namespace

pytestmark = pytest.mark.kernel


def ping(sandbox: Sandbox, target: str, *options: str) -> bool:
    """One echo, one second."""
    return sandbox.run(["ping", "-c1", "-W1", *options, target], capture_output=True).returncode == 0


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Wait for a condition; True when it came."""
    end = time.monotonic() + seconds
    waiting = threading.Event()
    while not condition():
        if time.monotonic() > end:
            return False
        waiting.wait(0.02)
    return True


def test_two_containers_meet_by_name_and_address(cnm: Controller) -> None:
    """The README's first example: two sandboxes on one bridge reach each other by name, alias and address, v4 and
    v6.
    """
    blue = cnm.create_network("blue", subnets=["10.88.0.0/24", "fd00:88::/64"])
    web = blue.create_endpoint("web", aliases=["www"])
    db = blue.create_endpoint("db")
    with cnm.create_sandbox("c1") as c1, cnm.create_sandbox("c2") as c2:
        web.join(c1)
        db.join(c2)
        for target in ("db", "db.blue", str(db.addresses[0].ip)):
            assert ping(c1, target, "-4"), target
        assert ping(c2, "www", "-6")
        assert ping(c2, str(web.addresses[1].ip))
        assert [] == cnm.doctor()
        assert "10.88.0.2\tc1" in c1.run(["cat", "/etc/hosts"], capture_output=True, text=True).stdout
        assert "c2\n" == c2.run(["cat", "/etc/hostname"], capture_output=True, text=True).stdout


def test_a_reverse_name_and_an_unknown_name(cnm: Controller) -> None:
    """PTR answers with name.network; a name below the network that nobody has is unknown at once."""
    blue = cnm.create_network("blue", subnets=["10.88.0.0/24"])
    with cnm.create_sandbox("c1") as c1:
        blue.create_endpoint("web").join(c1)
        found = c1.run(["getent", "hosts", "10.88.0.2"], capture_output=True, text=True).stdout.split()
        assert "10.88.0.2" == found[0]
        assert 2 == c1.run(["getent", "hosts", "nobody.blue"], capture_output=True).returncode


def test_two_networks_are_isolated_even_without_a_firewall(cnm: Controller) -> None:
    """Containers of two bridges do not reach each other; nor after somebody has flushed the firewall; which is
    healed.
    """
    red = cnm.create_network("red", subnets=["10.81.0.0/24"])
    green = cnm.create_network("green", subnets=["10.82.0.0/24"])
    with cnm.create_sandbox("r") as r, cnm.create_sandbox("g") as g:
        red.create_endpoint("r").join(r)
        green.create_endpoint("g").join(g)
        assert ping(r, "10.81.0.1")
        assert not ping(r, "10.82.0.2")
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        assert not ping(r, "10.82.0.2")
        assert eventually(lambda: cnm.doctor() == [])
        assert not ping(r, "10.82.0.1")
        assert ping(g, "10.82.0.1")


def test_a_published_port_is_reached_on_loopback_only(cnm: Controller) -> None:
    """A port without an address binds to the host's loopback: the host gets through, inspect says who can."""
    blue = cnm.create_network("blue", subnets=["10.88.0.0/24"])
    web = blue.create_endpoint("web", ports=["8080:80/tcp"])
    with cnm.create_sandbox("c1") as c1:
        web.join(c1)
        server = c1.popen([sys.executable, "-c", _SERVE], stdout=subprocess.PIPE)
        assert server.stdout is not None
        assert b"up\n" == server.stdout.readline()
        with socket.create_connection(("127.0.0.1", 8080), timeout=5) as client:
            assert b"hello" == client.recv(16)
        server.communicate(timeout=10)
        ports: Any = web.inspect()["Ports"]
        assert ["this host only"] == [port["Reachable"] for port in ports]


_SERVE = """
import socket
with socket.create_server(("0.0.0.0", 80)) as server:
    print("up", flush=True)
    server.accept()[0].sendall(b"hello")
"""


def test_ports_clash_by_name(cnm: Controller) -> None:
    """A port is published once; one that a process of the host listens on is refused; leaving frees it."""
    blue = cnm.create_network("blue")
    one, two = blue.create_endpoint("one", ports=["9000:80"]), blue.create_endpoint("two", ports=["9000:81"])
    with cnm.create_sandbox("c1") as c1, cnm.create_sandbox("c2") as c2:
        one.join(c1)
        with pytest.raises(AlreadyExists) as clash:
            two.join(c2)
        assert "port" == clash.value.kind
        one.leave()
        two.join(c2)
        two.leave()
        with socket.create_server(("127.0.0.1", 9000)), pytest.raises(AlreadyExists, match="a process of this host"):
            one.join(c1)
        assert [] == cnm.doctor()


def test_the_default_route_follows_priority(cnm: Controller) -> None:
    """Of several networks, the one with the highest priority gives the default route; when it goes, the next does."""
    first, second = cnm.create_network("first"), cnm.create_network("second")
    with cnm.create_sandbox("c1") as c1:
        first.create_endpoint("a").join(c1)
        high = second.create_endpoint("b").join(c1, priority=5)

        def gateway() -> str:
            shown = c1.run(["ip", "route", "show", "default"], capture_output=True, text=True).stdout
            return shown.split()[2]

        assert str(second.gateways[0]) == gateway()
        high.leave()
        assert str(first.gateways[0]) == gateway()
        assert [] == cnm.doctor()


@pytest.mark.parametrize("stays", [True, False], ids=["that stays", "that has left again"])
def test_an_endpoint_has_its_own_interface_beside_another_processs(open_controller: Any, stays: bool) -> None:
    """Whoever made the sandbox joins after somebody else: address and route are not put on that one's interface."""
    mine, other = open_controller(resident="off"), open_controller(resident="off")
    blue = mine.create_network("blue", subnets=["10.88.0.0/24"])
    red = mine.create_network("red", subnets=["10.99.0.0/24"])
    c1 = mine.create_sandbox("c1")
    first = other.network("blue").create_endpoint("first").join(other.sandbox("c1"))
    if not stays:
        first.leave()
    second = (red if stays else blue).create_endpoint("second").join(c1)
    assert [] == [str(row) for row in mine.doctor()]
    name = "eth1" if stays else "eth0"
    shown = c1.run(["ip", "-o", "-4", "address", "show", name], capture_output=True, text=True).stdout
    assert str(second.addresses[0]) in shown


def test_an_internal_network_leads_nowhere(cnm: Controller) -> None:
    """Internal: containers reach each other, there is no default route, and nothing is forwarded by the resolver."""
    inner = cnm.create_network("inner", internal=True)
    with cnm.create_sandbox("c1") as c1, cnm.create_sandbox("c2") as c2:
        inner.create_endpoint("a").join(c1)
        inner.create_endpoint("b").join(c2)
        assert ping(c1, "b")
        assert "" == c1.run(["ip", "route", "show", "default"], capture_output=True, text=True).stdout


def test_a_brought_namespace_is_given_back(cnm: Controller) -> None:
    """A runtime's own namespace gets an interface, and only what is ours goes when the sandbox is deleted."""
    sleeper = subprocess.Popen(["unshare", "-n", "sleep", "60"])
    try:
        path = f"/proc/{sleeper.pid}/ns/net"
        assert eventually(lambda: os.stat(path).st_ino != os.stat("/proc/self/ns/net").st_ino)
        blue = cnm.create_network("blue")
        with cnm.create_sandbox("c1", netns=path) as c1:
            blue.create_endpoint("web").join(c1)
            assert ping(c1, str(blue.gateways[0]))
            c1.run(["ip", "link", "add", "theirs", "type", "bridge"], check=True)
            assert [] == cnm.doctor()
        left = subprocess.run(
            ["nsenter", f"--net={path}", "ip", "-br", "link"], capture_output=True, text=True, check=True
        ).stdout
        assert eventually(lambda: "eth0" not in left)
        assert "theirs" in left
    finally:
        sleeper.kill()
        sleeper.wait()


def test_bad_input_is_refused_before_anything_is_touched(cnm: Controller) -> None:
    """Each refusal is typed, names its field, and leaves no trace."""
    refused: list[tuple[type[Exception], Callable[[], object]]] = [
        (Invalid, lambda: cnm.create_network("no/slashes")),
        (Invalid, lambda: cnm.create_network("n", subnets=["10.1.2.3/24"])),
        (Invalid, lambda: cnm.create_network("n", subnets=[Subnet("10.1.0.0/24", range="10.2.0.0/25")])),
        (Invalid, lambda: cnm.create_network("n", options={"com.docker.network.bridge.nonsense": "1"})),
        (NotFound, lambda: cnm.create_network("n", "no-such-driver")),
        (NotSupported, lambda: cnm.create_network("n", "overlay")),
        (Invalid, lambda: cnm.create_sandbox("c", netns="/etc/passwd")),
        (Invalid, lambda: cnm.create_sandbox("c", netns="/no/such/path")),
    ]
    for kind, verb in refused:
        with pytest.raises(kind):
            verb()
    assert [] == cnm.networks()
    assert [] == cnm.sandboxes()
    assert [] == cnm.doctor()


def test_overlapping_networks_and_strange_addresses_are_refused(cnm: Controller) -> None:
    """Overlapping pools, addresses outside the pool, taken ones, and a sandbox on two overlapping networks."""
    blue = cnm.create_network("blue", subnets=["10.88.0.0/24"])
    with pytest.raises(AlreadyExists):
        cnm.create_network("red", subnets=["10.88.0.128/25"])
    with pytest.raises(Invalid):
        blue.create_endpoint("e", address="10.99.0.1")
    blue.create_endpoint("e", address="10.88.0.9")
    with pytest.raises(AlreadyExists):
        blue.create_endpoint("f", address="10.88.0.9")
    with pytest.raises(AlreadyExists):
        blue.create_endpoint("e")
    with pytest.raises(InUse, match="endpoint e "):
        blue.delete()
    assert [] == cnm.doctor()


def test_what_was_deleted_by_hand_can_be_deleted(open_controller: Any) -> None:
    """Somebody removed the link, the bridge, the namespace: delete succeeds all the same and frees everything."""
    cnm = open_controller(resident="off")
    blue = cnm.create_network("blue", subnets=["10.88.0.0/24"])
    sandboxes = [cnm.create_sandbox(f"c{number}") for number in range(3)]
    endpoints = [blue.create_endpoint(f"e{number}").join(sandbox) for number, sandbox in enumerate(sandboxes)]
    subprocess.run(["ip", "link", "delete", f"ve-{endpoints[0].id[:12]}"], check=True)
    subprocess.run(["ip", "link", "delete", f"br-{blue.id[:12]}"], check=True)
    subprocess.run(["umount", sandboxes[2].path], check=True)
    endpoints[0].delete(force=True)
    for sandbox in sandboxes:
        sandbox.delete()
    blue.delete()
    assert [] == cnm.networks()
    assert [] == cnm.doctor()


def test_what_was_deleted_by_hand_is_healed(cnm: Controller) -> None:
    """Somebody removed a link, an address, a route and the bridge: the resident puts them back, and traffic flows."""
    blue = cnm.create_network("blue", subnets=["10.88.0.0/24"])
    with cnm.create_sandbox("c1") as c1, cnm.create_sandbox("c2") as c2:
        web = blue.create_endpoint("web").join(c1)
        blue.create_endpoint("db").join(c2)
        for argv in (
            ["ip", "link", "delete", f"ve-{web.id[:12]}"],
            ["ip", "link", "delete", f"br-{blue.id[:12]}"],
        ):
            subprocess.run(argv, check=True)
            assert eventually(lambda: cnm.doctor() == [])
            assert eventually(lambda: ping(c1, "db"))


def test_a_sandbox_that_is_refused_begins_no_namespace(cnm: Controller) -> None:
    """Nothing is touched, neither what anybody could see nor what only this process has."""
    context = cnm._calls.context
    told: list[str] = []
    context.doors.kernel.on_effect = lambda name, _: told.append(name)
    with pytest.raises(Invalid):
        cnm.create_sandbox("c1", labels={"": "x"})
    context.doors.kernel.read({""}, [Namespace], deadline=context.doors.clock.deadline(5))  # by the same thread, later
    assert [] == told


def test_names_live_on_when_the_script_was_killed(open_controller: Any, installation: dict[str, Any]) -> None:
    """A process makes two containers and is killed: they still find each other, since the resident serves on."""
    script = _SCRIPT.format(**installation)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert b"ready\n" == process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    cnm = open_controller(resident="off")
    assert ping(cnm.sandbox("c1"), "db")
    cnm.sandbox("c1").delete()
    assert ["c2"] == [one.container_id for one in cnm.sandboxes()]


_SCRIPT = """
import libcnm, signal
cnm = libcnm.Controller(state_dir={state_dir!r}, run_dir={run_dir!r}, guardian={guardian!r})
blue = cnm.create_network("blue")
for container, name in (("c1", "web"), ("c2", "db")):
    blue.create_endpoint(name).join(cnm.create_sandbox(container))
print("ready", flush=True)
signal.pause()
"""


def test_null_and_host_networks(cnm: Controller) -> None:
    """None: a sandbox with loopback only. Host: the host's own namespace, untouched; the two kinds do not mix."""
    none, host = cnm.create_network("none", "null"), cnm.create_network("host", "host")
    with cnm.create_sandbox("alone") as alone, cnm.create_sandbox("shared", host_network=True) as shared:
        none.create_endpoint("a").join(alone)
        host.create_endpoint("b").join(shared)
        assert 1 == len(alone.run(["ip", "-br", "link"], capture_output=True, text=True).stdout.splitlines())
        with pytest.raises(Forbidden):
            host.create_endpoint("c").join(alone)
        with pytest.raises(Forbidden):
            cnm.create_network("none2", "null")
    assert [] == cnm.doctor()
