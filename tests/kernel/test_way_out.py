"""The way out of containers on overlay networks, in real packets: out of it, back through it, and not across it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from libcnm.controller.controller import Controller
from libcnm.controller.sandbox import Sandbox
from libcnm.lab import Host, Lab

pytestmark = pytest.mark.kernel

SERVE = """
import socket, sys
with socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    print("up", flush=True)
    while True:
        with server.accept()[0] as client:
            client.sendall(b"hello")
"""
CONNECT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3) as server:
    print(server.recv(16).decode())
"""


class Place:
    """Two hosts, a dual-stack overlay, containers c1 and c2 on the first host and c3 on the second."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.one, self.two = lab.hosts
        self.cnm: Controller = self.one.controller()
        self.there: Controller = self.two.controller()
        network = self.cnm.create_network("red", "overlay", subnets=["10.99.0.0/24", "fd00:99::/64"])
        self.c1, self.c2 = self.cnm.create_sandbox("c1"), self.cnm.create_sandbox("c2")
        self.c3 = self.there.create_sandbox("c3")
        network.create_endpoint("svc1", ports=["8080:80", "0.0.0.0:8081:80"]).join(self.c1)
        network.create_endpoint("svc2").join(self.c2)
        self.there.network("red").create_endpoint("svc3").join(self.c3)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with Lab(hosts=["one", "two"], subnet6="fd33::/64") as lab:
        yield Place(lab)


def addresses(box: Sandbox) -> dict[int, str]:
    """Of its way out, by IP version."""
    assert box.way_out is not None
    return {interface.version: str(interface.ip) for interface in box.way_out.addresses}


def pings(box: Sandbox, target: object) -> bool:
    """Within 3 s: neighbour discovery may lose a probe and ask again a second later."""
    done = box.run(["ping", "-c", "1", "-w", "3", str(target)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return done.returncode == 0


def cut_off(box: Sandbox, target: object) -> bool:
    done = box.run(["ping", "-c", "2", "-i", "0.2", "-w", "1", str(target)], capture_output=True)
    return done.returncode == 1


def connects(whence: Host | Sandbox, address: object, port: int) -> bool:
    done = whence.run([sys.executable, "-c", CONNECT, str(address), str(port)], capture_output=True, text=True)
    return done.stdout == "hello\n"


def shown(box: Sandbox) -> list[str]:
    """The interfaces in ``ip a``, in its order."""
    text = box.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    return [line.split(": ")[1].partition("@")[0] for line in text.splitlines()]


@pytest.fixture
def serving(place: Place) -> Iterator[None]:
    """Somebody answers on port 80 of c1."""
    server = place.c1.popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE)
    with server:
        assert server.stdout is not None
        assert b"up\n" == server.stdout.readline()
        yield
        server.kill()


def test_the_container_has_one_more_interface(place: Place) -> None:
    """lo, the overlay's, and one more for the way out; with the default routes of both families."""
    assert ["lo", "eth0", "eth1"] == shown(place.c1)
    for version in ("-4", "-6"):
        routes = place.c1.run(["ip", version, "route", "show", "default"], capture_output=True, text=True).stdout
        assert "dev eth1" in routes
    assert [] == place.cnm.doctor()


def test_it_leads_to_the_world_behind_the_hosts_own_address(place: Place) -> None:
    """The host is reached, and the underlay, where the source is the host's; the overlay stays within the overlay."""
    for interface in (*place.one.interfaces, *place.two.interfaces):
        assert pings(place.c1, interface.ip), interface
    with place.lab.capture(Path(place.lab.folder, "out.pcap")) as capture:
        assert pings(place.c1, place.two.address)
        assert pings(place.c1, "svc3")
    plain = {(p.source, p.destination) for p in capture.packets if p.vni is None and "echo request" in p.what}
    assert {(place.one.address, place.two.address)} == plain


@pytest.mark.parametrize("bridge_netfilter", ["1", "0"])
def test_containers_do_not_meet_on_it(place: Place, bridge_netfilter: str) -> None:
    """Only on the overlay: with the firewall and after a flush, whether or not bridged frames pass its hooks."""
    for family in ("ip", "ip6"):
        setting = f"net.bridge.bridge-nf-call-{family}tables={bridge_netfilter}"
        place.one.run(["sysctl", "-q", "-w", setting], check=True)
    for flushed in (False, True):
        if flushed:
            place.one.run(["nft", "flush", "ruleset"], check=True)
        assert all(cut_off(place.c1, address) for address in addresses(place.c2).values())
        assert pings(place.c1, "svc2")
    place.cnm.heal()


@pytest.mark.usefixtures("serving")
def test_ports_of_the_overlay_are_published(place: Place) -> None:
    """On this host over its loopback; to others, and their containers, where that was asked for."""
    assert connects(place.one, "127.0.0.1", 8080)
    assert [False, True] == [connects(place.two, place.one.address, port) for port in (8080, 8081)]
    assert connects(place.c3, place.one.address, 8081)
    assert connects(place.c2, "svc1", 80)


@pytest.mark.usefixtures("serving")
def test_a_neighbour_reaches_a_published_port_where_bridged_frames_pass_by_the_firewall(place: Place) -> None:
    """With br_netfilter on, what is published from the same bridge is as far as everything else on it."""
    for value, reached in (("0", True), ("1", False)):
        for family in ("ip", "ip6"):
            place.one.run(["sysctl", "-q", "-w", f"net.bridge.bridge-nf-call-{family}tables={value}"], check=True)
        assert reached == connects(place.c2, place.one.address, 8081)


def test_a_bridge_takes_its_place(place: Place) -> None:
    """Joining a network with a gateway removes it, leaving that brings it back; what was published goes and comes."""
    blue = place.cnm.create_network("blue", subnets=["10.88.0.0/24", "fd00:88::/64"])
    endpoint = blue.create_endpoint("b").join(place.c2)
    place.one.kernel.sweep()  # as the resident does in a moment
    assert ["lo", "eth0", "eth2"] == shown(place.c2)
    assert pings(place.c2, place.two.address)
    assert pings(place.c2, "svc3")
    endpoint.leave()
    place.one.kernel.sweep()
    assert ["lo", "eth0", "eth1"] == shown(place.c2)
    assert pings(place.c2, place.two.address)
    blue.delete(force=True)
    assert [] == place.cnm.doctor()


def test_nothing_of_it_stays(place: Place) -> None:
    """With the last container its bridge goes, and what its host forwards is as before."""

    def there(*words: str) -> Any:
        return place.two.run(list(words), capture_output=True, text=True, check=True).stdout

    assert "br-" in there("ip", "-o", "link", "show", "type", "bridge")
    assert "1\n" == there("sysctl", "-n", "net.ipv4.ip_forward")
    place.c3.delete()
    place.two.kernel.sweep()
    assert "" == there("ip", "-o", "link", "show", "type", "bridge")
    assert "0\n" == there("sysctl", "-n", "net.ipv4.ip_forward")
    assert ["red"] == [network.name for network in place.there.networks()]
