"""``nft flush ruleset``, and nobody there to heal it: what containers and neighbours can reach then, through the API.

The test's host has a neighbour on its LAN that routes container subnets to it. Whatever is closed is opened by the one
removal that should open it, to prove that the test would have noticed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from libcnm import Controller, Sandbox

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

LAN = "/run/netns/lan"
FAR = "203.0.113.9"
"""An address of the neighbour's that the host's main table has no route to."""
SUBNETS = ["10.88.0.0/24", "fd00:88::/64"]
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3])).close()
except OSError:
    sys.exit(1)
"""
SERVE = """
import socket
listener = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)
print("up", flush=True)
while True:
    listener.accept()[0].close()
"""
TAGGED_TWICE = """
import socket, struct, sys
gateway, own = bytes.fromhex("02420a580001"), bytes.fromhex("020000000099")
datagram = struct.pack("!HHHH", 4242, int(sys.argv[1]), 9, 0) + b"!"
ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 29, 0, 0, 64, 17, 0, bytes((10, 88, 0, 2)), bytes((127, 0, 0, 1)))
total = sum(struct.unpack("!10H", ip))
ip = ip[:10] + struct.pack("!H", 0xFFFF ^ ((total & 0xFFFF) + (total >> 16))) + ip[12:]
tag = b"\\x81\\x00\\x00\\x00"
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("eth0", 0))
raw.send(gateway + own + tag + tag + b"\\x08\\x00" + ip + datagram)
"""


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


Start = Callable[..., subprocess.CompletedProcess[bytes]]


def reaches(start: Start, target: str, port: int) -> bool:
    """Whether a TCP connection is made; what is closed is told apart from what is slow by a second."""
    return start(sys.executable, "-c", CONNECT, target, str(port), "1.0").returncode == 0


def on_lan(*argv: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["nsenter", f"--net={LAN}", *argv], check=False, capture_output=True)


def on_host(*argv: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(argv, check=False, capture_output=True)


def inside(sandbox: Sandbox) -> Start:
    return lambda *argv: sandbox.run(list(argv), capture_output=True)


@contextlib.contextmanager
def serving(server: subprocess.Popen[bytes]) -> Iterator[None]:
    """Until the end of the block."""
    assert server.stdout is not None
    try:
        assert b"up\n" == server.stdout.readline()
        yield
    finally:
        server.kill()
        server.communicate()


@pytest.fixture
def lan() -> Iterator[None]:
    """A neighbour that serves port 80 and sends what is for our subnets to us."""
    run("ip", "netns", "add", "lan")
    try:
        run("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "eth0", "netns", "lan")
        for own, theirs in (("192.0.2.1/24", "192.0.2.9/24"), ("fd01::1/64", "fd01::9/64")):
            no_dad = ["nodad"] if ":" in own else []
            run("ip", "address", "add", own, "dev", "lan0", *no_dad)
            run("ip", "-n", "lan", "address", "add", theirs, "dev", "eth0", *no_dad)
        run("ip", "-n", "lan", "address", "add", FAR, "dev", "lo")
        run("ip", "link", "set", "lan0", "up")
        for link in ("lo", "eth0"):
            run("ip", "-n", "lan", "link", "set", link, "up")
        for block, gateway in zip(SUBNETS, ("192.0.2.1", "fd01::1"), strict=True):
            run("ip", "-n", "lan", "route", "add", block, "via", gateway)

        argv = ["nsenter", f"--net={LAN}", sys.executable, "-c", SERVE]
        with serving(subprocess.Popen(argv, stdout=subprocess.PIPE)):
            yield
    finally:
        subprocess.run(["ip", "link", "delete", "lan0"], check=False, capture_output=True)
        run("ip", "netns", "delete", "lan")
        # "ip netns add" has made the folder and bound it to itself.
        subprocess.run(["umount", "/run/netns"], check=False, capture_output=True)
        with contextlib.suppress(OSError):
            os.rmdir("/run/netns")


@attrs.frozen
class Web:
    """A sandbox that serves port 80, published on the host's loopback as 8080, on a network of both families."""

    cnm: Controller
    sandbox: Sandbox
    bridge: str

    def inside(self, *argv: str) -> subprocess.CompletedProcess[bytes]:
        return inside(self.sandbox)(*argv)


@pytest.fixture
def web(open_controller: Callable[..., Controller], lan: None) -> Iterator[Web]:
    """Made without a resident: nobody heals."""
    cnm = open_controller(resident="off")
    blue = cnm.create_network("blue", subnets=SUBNETS)
    endpoint = blue.create_endpoint("web", ports=["8080:80/tcp"])
    with cnm.create_sandbox("c1") as sandbox:
        endpoint.join(sandbox)
        with serving(sandbox.popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE)):
            yield Web(cnm, sandbox, f"br-{blue.id[:12]}")


@pytest.fixture(params=["1", "0"], ids=["br_netfilter-on", "br_netfilter-off"])
def br_netfilter(request: pytest.FixtureRequest) -> Iterator[None]:
    """Bridged frames pass the IP hooks, or do not."""
    switch = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    before = switch.read_text(encoding="ascii")
    switch.write_text(request.param, encoding="ascii")
    yield
    switch.write_text(before, encoding="ascii")


@pytest.mark.usefixtures("br_netfilter")
def test_loopback_stays_the_hosts_own(web: Web) -> None:
    """Root in a container does not reach what listens on the host's 127.0.0.1, before a flush and after it."""
    web.inside("ip", "address", "delete", "127.0.0.1/8", "dev", "lo")
    web.inside("ip", "route", "add", "127.0.0.1", "via", "10.88.0.1")
    web.inside("sysctl", "-q", "-w", "net.ipv4.conf.eth0.route_localnet=1")
    with socket.create_server(("127.0.0.1", 0)) as private:
        port = private.getsockname()[1]
        assert reaches(on_host, "127.0.0.1", 8080)
        assert not reaches(web.inside, "127.0.0.1", port)
        run("nft", "flush", "ruleset")
        assert not reaches(web.inside, "127.0.0.1", port)
        run("tc", "filter", "delete", "dev", web.bridge, "ingress")
        assert reaches(web.inside, "127.0.0.1", port), "the hole that the guard closes was not there"
    assert "loopback-guard" in {row.wanted.kind for row in web.cnm.doctor() if row.wanted is not None}
    web.cnm.heal()
    assert [] == web.cnm.doctor()
    assert reaches(on_host, "127.0.0.1", 8080)


def test_loopback_stays_the_hosts_own_where_the_host_routes_it_everywhere(
    open_controller: Callable[..., Controller],
) -> None:
    """As kube-proxy has it: then each bridge needs its guard, whether something is published on it or not."""
    switch = Path("/proc/sys/net/ipv4/conf/all/route_localnet")
    cnm = open_controller(resident="off")
    blue = cnm.create_network("blue", subnets=[SUBNETS[0]])
    switch.write_text("1", encoding="ascii")
    try:
        with cnm.create_sandbox("c1") as box, socket.create_server(("127.0.0.1", 0)) as private:
            blue.create_endpoint("a").join(box)
            box.run(["ip", "address", "delete", "127.0.0.1/8", "dev", "lo"], check=True)
            box.run(["ip", "route", "add", "127.0.0.1", "via", "10.88.0.1"], check=True)
            box.run(["sysctl", "-q", "-w", "net.ipv4.conf.eth0.route_localnet=1"], check=True)
            run("nft", "flush", "ruleset")
            assert not reaches(inside(box), "127.0.0.1", private.getsockname()[1])
            run("tc", "filter", "delete", "dev", f"br-{blue.id[:12]}", "ingress")
            assert reaches(inside(box), "127.0.0.1", private.getsockname()[1]), "there was nothing to close"
            assert "loopback-guard" in {row.wanted.kind for row in cnm.doctor() if row.wanted is not None}
            cnm.heal()
    finally:
        switch.write_text("0", encoding="ascii")


def test_no_frame_is_hidden_behind_two_tags(web: Web) -> None:
    """The kernel takes off two VLAN tags that mean no VLAN, the second one after the guard has looked."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as private:
        private.bind(("127.0.0.1", 0))
        private.settimeout(0.5)
        run("nft", "flush", "ruleset")

        def arrives() -> bool:
            sent = web.inside(sys.executable, "-c", TAGGED_TWICE, str(private.getsockname()[1]))
            assert (0, b"") == (sent.returncode, sent.stderr)
            try:
                return private.recv(1) == b"!"
            except TimeoutError:
                return False

        assert not arrives()
        run("tc", "filter", "delete", "dev", web.bridge, "ingress")
        assert arrives(), "the kernel drops such frames by itself: this test proved nothing"


def test_neighbours_stay_outside(web: Web) -> None:
    """A host of the LAN that routes to us gets no packet to a container, over IPv4 or IPv6; the host itself does."""
    containers = ("10.88.0.2", "fd00:88::2")
    neighbours = ("192.0.2.9", "fd01::9")
    assert [True, True] == [reaches(web.inside, one, 80) for one in neighbours]
    run("nft", "flush", "ruleset")
    assert [False, False] == [reaches(on_lan, one, 80) for one in containers]
    assert [True, True] == [reaches(on_host, one, 80) for one in containers]
    for version in ("-4", "-6"):
        run("ip", version, "rule", "delete", "pref", "8001")
    assert [True, True] == [reaches(on_lan, one, 80) for one in containers], "nothing was closed"
    web.cnm.heal()
    assert [False, False] == [reaches(on_lan, one, 80) for one in containers]
    assert reaches(web.inside, neighbours[0], 80)


def test_a_way_in_of_the_users_own(web: Web) -> None:
    """An "accept" in the users' chain and our mark, set before routing: the neighbour gets in while both are there."""
    [table] = [line.split()[2] for line in run("nft", "list", "tables").splitlines()]
    run("nft", "add", "rule", "inet", table, "user", "ip", "saddr", "192.0.2.0/24", "accept")
    assert not reaches(on_lan, "10.88.0.2", 80)
    run("nft", "add", "table", "inet", "mine")
    run("nft", "add", "chain", "inet", "mine", "early", "{ type filter hook prerouting priority -99; }")
    marked = ("meta", "mark", "set", "meta", "mark", "|", "0x1000")
    run("nft", "add", "rule", "inet", "mine", "early", "ip", "saddr", "192.0.2.0/24", *marked)
    assert reaches(on_lan, "10.88.0.2", 80)
    run("nft", "flush", "ruleset")
    assert not reaches(on_lan, "10.88.0.2", 80)


def policy() -> list[str]:
    """The host's rules and routes, as ``ip`` prints them."""
    printed = [
        run("ip", family, *what) for family in ("-4", "-6") for what in (["rule"], ["route", "show", "table", "all"])
    ]
    return [line for one in printed for line in one.splitlines()]


@pytest.mark.usefixtures("lan")
def test_a_hosts_own_policy_is_kept(open_controller: Callable[..., Controller]) -> None:
    """Rules of the host's own, before and behind ours, decide as they did, for containers and for the host; and with
    the last network everything of ours is gone.
    """
    second_uplink = [
        ["rule", "add", "pref", "5000", "fwmark", "0x42", "lookup", "101"],
        ["rule", "add", "pref", "9000", "from", SUBNETS[0], "lookup", "100"],
        ["rule", "add", "pref", "9001", "iif", "lo", "to", FAR, "lookup", "100"],
        ["route", "add", "default", "via", "192.0.2.9", "table", "100"],
    ]
    cnm = open_controller(resident="off")
    try:
        for command in second_uplink:
            run("ip", *command)
        before = policy()
        blue = cnm.create_network("blue", subnets=[*SUBNETS])
        cnm.create_network("closed", subnets=["10.89.0.0/24"], internal=True)
        with cnm.create_sandbox("c1") as sandbox:
            blue.create_endpoint("web").join(sandbox)
            assert [True, True] == [reaches(on_host, FAR, 80), reaches(inside(sandbox), FAR, 80)]
            assert set(before) < set(policy())
        for network in cnm.networks():
            network.delete(force=True)
        assert before == policy()
    finally:
        for what, _, *rest in reversed(second_uplink):
            subprocess.run(["ip", what, "delete", *rest], check=False, capture_output=True)


def test_two_installations_side_by_side(web: Web, tmp_path: Path) -> None:
    """Their rules have the same priorities and lead past each other's: what one takes away does not miss the other."""
    other = Controller(state_dir=str(tmp_path / "other"), run_dir=str(tmp_path / "other-run"), resident="off")
    try:
        other.create_network("red", subnets=["10.87.0.0/24"])
        assert [] == [*other.doctor(), *web.cnm.doctor()]
        assert [True, False] == [reaches(start, "10.88.0.2", 80) for start in (on_host, on_lan)]
        other.heal()
        assert [] == web.cnm.doctor(), "healing the one has taken something of the other's"
    finally:
        for network in other.networks():
            network.delete(force=True)
        other.close()
    run("nft", "flush", "ruleset")
    assert [True, False] == [reaches(start, "10.88.0.2", 80) for start in (on_host, on_lan)]
