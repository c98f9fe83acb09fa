"""Real packets against the firewall: who reaches whom, over IPv4 and IPv6, with br_netfilter on and off, and after a
flush.

The test's host is the session's private namespace. It has two bridge networks, a and b (containers a1, a2, b1), an
internal one (i1), and a neighbour on its LAN that routes container subnets to it, as an attacker there would.
Everything but the firewall is made with the ``ip`` program, so that nothing here leans on what is tested.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import attrs
import pytest

from libcnm.kernel import firewall
from libcnm.kernel.linux.guards import program
from libcnm.kernel.linux.nft import Nft
from libcnm.kernel.resources import FirewallElement, Route, Rule, Sysctl
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Change

WORKER = Path(__file__).with_name("firewall_worker.py")
TABLE = firewall.table("cnm-packets")
NETFILTER_NETLINK = 12
LAN = {4: ("192.0.2.1", "192.0.2.9"), 6: ("2001:db8::1", "2001:db8::9")}
SUBNETS = {"a": ("10.88.0", "fd00:88:"), "b": ("10.89.0", "fd00:89:"), "i": ("10.90.0", "fd00:90:")}
CONTAINERS = {"a1": ("a", 2), "a2": ("a", 3), "b1": ("b", 2), "i1": ("i", 2)}
OPEN, UNPUBLISHED, HOST_SERVICE = 80, 81, 9999
EXACT, LOOPBACK, WILD = 8080, 8081, 8082
PROTOCOLS: tuple[Literal["tcp", "udp"], ...] = ("tcp", "udp")
SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/autoconf": "0",
    "net/ipv6/conf/default/accept_ra": "0",
}
BLOCKED_SECONDS, REACHED_SECONDS = 0.35, 5.0


def bridge(network: str) -> str:
    return f"br-fw{network}"


def address(who: str, version: int) -> str:
    """The address of a container, or of the host on a network ("a", "b", "i"), or on the LAN ("host", "lan")."""
    if who in ("host", "lan"):
        return LAN[version][who == "lan"]
    network, last = CONTAINERS.get(who, (who, 1))
    return f"{SUBNETS[network][0]}.{last}" if version == 4 else f"{SUBNETS[network][1]}:{last}"


def subnets(network: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    four, six = SUBNETS[network]
    return [ipaddress.ip_network(f"{four}.0/24"), ipaddress.ip_network(f"{six}:/64")]


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


def sysctl(key: str, value: str) -> None:
    Path("/proc/sys", key).write_text(value, encoding="ascii")


class Worker:
    """The worker process of one namespace."""

    def __init__(self, name: str, namespace: str | None) -> None:
        enter = ["nsenter", f"--net=/run/netns/{namespace}"] if namespace else []
        ports = [str(port) for port in ((OPEN, UNPUBLISHED) if namespace else (HOST_SERVICE,))]
        argv = [*enter, sys.executable, str(WORKER), name, *ports]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, requests: list[tuple[str, str, str, int, float]] | None = None) -> Mapping[str, str | None]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if requests is not None:
            with contextlib.suppress(BrokenPipeError):
                print(json.dumps(requests), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, ("ended with", self.process.wait())
        return dict(json.loads(line))

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()


@attrs.frozen
class Probe:
    """``source`` tries ``port`` at ``target``; ``answers`` names who should answer and whom it should see ("":
    anyone).
    """

    source: str
    protocol: str
    target: str
    port: int
    answers: str | None = None
    seen: str = ""

    def __str__(self) -> str:
        return f"{self.source} -> {self.protocol} {self.target} {self.port}"


class Place:
    """The topology."""

    def __init__(self) -> None:
        self.nft = Nft(lambda _: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER_NETLINK))
        self.workers: dict[str, Worker] = {}
        self.before: dict[str, str] = {}

    def build(self) -> None:
        for key, value in SYSCTLS.items():
            self.before[key] = Path("/proc/sys", key).read_text(encoding="ascii")
            sysctl(key, value)
        self._wire("lan", "fw-lan", LAN[4][1], LAN[6][1])
        for version in (4, 6):
            run("ip", "address", "add", f"{LAN[version][0]}/{24 if version == 4 else 64}", "dev", "fw-lan", "nodad")
        for network in SUBNETS:
            name = bridge(network)
            mac = f"02:42:00:00:00:{ord(network):02x}"
            run("ip", "link", "add", name, "address", mac, "type", "bridge", "mcast_snooping", "0")
            run("ip", "link", "set", name, "up")
            for subnet, version in zip(subnets(network), (4, 6), strict=True):
                run("ip", "address", "add", f"{address(network, version)}/{subnet.prefixlen}", "dev", name, "nodad")
                run("ip", "-n", "fw-lan", "route", "add", str(subnet), "via", LAN[version][0])
        for container, (network, _) in CONTAINERS.items():
            self._wire(container, f"fw-{container}", address(container, 4), address(container, 6))
            run("ip", "link", "set", f"fw-{container}", "master", bridge(network))
            run("bridge", "link", "set", "dev", f"fw-{container}", "hairpin", "on")
            for version in (4, 6):
                run("ip", "-n", f"fw-{container}", "route", "add", "default", "via", address(network, version))
        self.workers = {name: Worker(name, f"fw-{name}") for name in ("lan", *CONTAINERS)}
        self.workers["host"] = Worker("host", None)
        for worker in self.workers.values():
            worker.ask()

    @staticmethod
    def _wire(name: str, link: str, four: str, six: str) -> None:
        run("ip", "netns", "add", f"fw-{name}")
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", f"fw-{name}")
        run("ip", "link", "set", link, "up")
        inside = ("ip", "-n", f"fw-{name}")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "address", "add", f"{four}/24", "dev", "eth0")
        run(*inside, "address", "add", f"{six}/64", "dev", "eth0", "nodad")
        run(*inside, "link", "set", "eth0", "up")

    def destroy(self) -> None:
        for worker in self.workers.values():
            worker.close()
        self.nft.close()
        for name in ("lan", *CONTAINERS):
            subprocess.run(["ip", "netns", "delete", f"fw-{name}"], check=False, capture_output=True)
            subprocess.run(["ip", "link", "delete", f"fw-{name}"], check=False, capture_output=True)
        for network in SUBNETS:
            subprocess.run(["ip", "link", "delete", bridge(network)], check=False, capture_output=True)
        for key, value in self.before.items():
            sysctl(key, value)
        # "ip netns add" has made the folder and bound it to itself.
        subprocess.run(["umount", "/run/netns"], check=False, capture_output=True)
        with contextlib.suppress(OSError):
            os.rmdir("/run/netns")

    # -- policy --------------------------------------------------------------------------------------------------------

    def elements(self, *, icc: bool = True) -> tuple[FirewallElement, ...]:
        found: list[FirewallElement] = []
        for network in SUBNETS:
            found += firewall.network_elements(
                TABLE,
                bridge=bridge(network),
                subnets=subnets(network),
                gateways=[ipaddress.ip_address(address(network, version)) for version in (4, 6)],
                masquerade=True,
                internal=network == "i",
                icc=icc,
            )
        for version in (4, 6):
            published = {EXACT: address("host", version), LOOPBACK: "127.0.0.1" if version == 4 else "::1", WILD: None}
            for host_port, bound in published.items():
                for protocol in PROTOCOLS:
                    found += firewall.port_elements(
                        TABLE,
                        bridge=bridge("a"),
                        protocol=protocol,
                        host_address=None if bound is None else ipaddress.ip_address(bound),
                        host_port=host_port,
                        address=ipaddress.ip_address(address("a1", version)),
                        port=OPEN,
                    )
        return tuple(found)

    def apply(self, *changes: Change) -> None:
        refused = [error for error in self.nft.apply(changes, deadline=Deadline.after(10, time.monotonic)) if error]
        assert refused == []

    def protect(self, *, icc: bool = True) -> None:
        run("nft", "flush", "ruleset")
        self.apply(Change("add", TABLE), *(Change("add", element) for element in self.elements(icc=icc)))

    def probe(self, probes: list[Probe]) -> dict[str, str]:
        """What did not go as it should, by probe."""
        answers: dict[str, str | None] = {}
        for source, worker in self.workers.items():
            requests = [
                (str(one), one.protocol, one.target, one.port, REACHED_SECONDS if one.answers else BLOCKED_SECONDS)
                for one in probes
                if one.source == source
            ]
            answers.update(worker.ask(requests))
        wrong = {}
        for one in probes:
            got = answers[str(one)] or "nobody"
            fine = got == "nobody" if one.answers is None else f"{got} ".startswith(f"{one.answers} {one.seen}")
            if not fine:
                wrong[str(one)] = got
        return wrong


@contextlib.contextmanager
def policy_routing() -> Iterator[None]:
    """The rules, routes and sysctls of the three networks, made as the resources' docstrings say."""
    wanted: list[Rule | Route | Sysctl] = [*firewall.isolation_base()]
    for network in SUBNETS:
        wanted += firewall.isolation_resources(
            bridge=bridge(network), subnets=subnets(network), internal=network == "i"
        )
    with contextlib.ExitStack() as undo:
        for resource in wanted:
            if isinstance(resource, Sysctl):
                sysctl(resource.key, resource.value)
                undo.callback(sysctl, resource.key, "0")
                continue
            before, after = equivalent(resource)
            run("ip", *before, "add", *after)
            undo.callback(run, "ip", *before, "delete", *after)
        yield


def equivalent(resource: Rule | Route) -> tuple[list[str], list[str]]:
    if isinstance(resource, Rule):
        words = ["pref", str(resource.priority), "table", str(resource.table)]
        words += [] if resource.iif is None else ["iif", resource.iif]
        words += [] if resource.mark is None else ["fwmark", f"{resource.mark:#x}/{resource.mask:#x}"]
        words += {"lookup": [], "goto": ["goto", str(resource.goto)], "nop": ["nop"]}[resource.action]
        return [f"-{resource.version}", "rule"], words
    words = ["prohibit", str(resource.destination), "table", str(resource.table), "metric", str(resource.metric)]
    return [f"-{resource.destination.version}", "route"], words


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    built = Place()
    try:
        built.build()
        yield built
        run("nft", "flush", "ruleset")
    finally:
        built.destroy()


@pytest.fixture
def routing(place: Place) -> Iterator[None]:
    """Policy routing, the second layer."""
    with policy_routing():
        yield


@pytest.fixture(params=["1", "0"], ids=["br_netfilter-on", "br_netfilter-off"])
def br_netfilter(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Both settings of the namespace: bridged frames pass the IP hooks, or do not."""
    keys = [f"net/bridge/bridge-nf-call-{family}tables" for family in ("ip", "ip6")]
    before = [Path("/proc/sys", key).read_text(encoding="ascii") for key in keys]
    for key in keys:
        sysctl(key, request.param)
    yield request.param == "1"
    for key, value in zip(keys, before, strict=True):
        sysctl(key, value)


@pytest.fixture
def loopback_routing(place: Place) -> Iterator[None]:
    """What :func:`~libcnm.kernel.firewall.loopback_resources` wants for what is published on network a."""
    code = list(struct.iter_unpack("=HBBI", program(firewall.FORWARD_MARK)))
    words = ",".join([str(len(code)), *(" ".join(map(str, instruction)) for instruction in code)])
    run("tc", "qdisc", "add", "dev", bridge("a"), "clsact")
    run("tc", "filter", "add", "dev", bridge("a"), "ingress", "pref", "1", "bpf", "direct-action", "bytecode", words)
    sysctl(f"net/ipv4/conf/{bridge('a')}/route_localnet", "1")
    yield
    sysctl(f"net/ipv4/conf/{bridge('a')}/route_localnet", "0")
    run("tc", "qdisc", "delete", "dev", bridge("a"), "clsact")


def isolation(version: int) -> list[Probe]:
    """What holds with and without a firewall."""
    probes = []
    for protocol in PROTOCOLS:
        probes += [
            Probe("a1", protocol, address("a2", version), UNPUBLISHED, "a2", address("a1", version)),
            Probe("host", protocol, address("a1", version), UNPUBLISHED, "a1"),
            Probe("host", protocol, address("i1", version), UNPUBLISHED, "i1"),
        ]
        pairs = [("a1", "b1"), ("b1", "a1"), ("a1", "i1"), ("i1", "a1"), ("i1", "lan")]
        pairs += [("lan", "a1"), ("lan", "b1"), ("lan", "i1")]
        probes += [Probe(one, protocol, address(other, version), OPEN) for one, other in pairs]
        probes.append(Probe("lan", protocol, address("a1", version), UNPUBLISHED))
    return probes


def published(version: int) -> list[Probe]:
    host = address("host", version)
    probes = []
    for protocol in PROTOCOLS:
        for port in (EXACT, WILD):
            probes += [
                Probe("lan", protocol, host, port, "a1", address("lan", version)),
                *(Probe(source, protocol, host, port, "a1") for source in ("host", "a1", "a2", "b1")),
                Probe("i1", protocol, host, port),
                Probe("i1", protocol, address("i", version), port),
            ]
        probes += [
            Probe("host", protocol, address("a", version), WILD, "a1"),
            Probe("host", protocol, address("b", version), WILD, "a1"),
            Probe("b1", protocol, address("b", version), WILD, "a1"),
            Probe("a2", protocol, address("a", version), EXACT),
            *(Probe(source, protocol, host, LOOPBACK) for source in ("lan", "host", "a2", "b1")),
            Probe("a2", protocol, address("a", version), LOOPBACK),
        ]
        if version == 4:
            probes += [Probe("host", protocol, "127.0.0.1", port, "a1") for port in (LOOPBACK, WILD)]
    return probes


def outside(version: int) -> list[Probe]:
    host, lan = address("host", version), address("lan", version)
    # The host's own service: over the network's own gateway address or the LAN's, never over another network's.
    return [
        *(Probe("a1", protocol, lan, OPEN, "lan", host) for protocol in PROTOCOLS),
        Probe("a1", "tcp", address("a", version), HOST_SERVICE, "host"),
        Probe("a1", "tcp", host, HOST_SERVICE, "host"),
        Probe("a1", "tcp", address("b", version), HOST_SERVICE),
        Probe("b1", "tcp", address("a", version), HOST_SERVICE),
        Probe("i1", "tcp", address("i", version), HOST_SERVICE, "host"),
        Probe("i1", "tcp", address("a", version), HOST_SERVICE),
        Probe("i1", "tcp", host, HOST_SERVICE),
    ]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("layers", ["firewall", "firewall-and-routing"])
@pytest.mark.usefixtures("br_netfilter", "loopback_routing")
def test_who_reaches_whom(place: Place, layers: str, version: int) -> None:
    """Each source reaches each form of publication, and nothing else; the second layer takes nothing away."""
    place.protect()
    with policy_routing() if "routing" in layers else contextlib.nullcontext():
        assert place.probe([*isolation(version), *published(version), *outside(version)]) == {}


@pytest.mark.parametrize(("version", "rp_filter"), [(4, "0"), (4, "1"), (4, "2"), (6, "0")])
@pytest.mark.usefixtures("br_netfilter", "loopback_routing", "routing")
def test_isolation_holds_without_the_firewall(place: Place, version: int, rp_filter: str) -> None:
    """After a flush nobody but the host gets in. Applying again restores the rest, which ``rp_filter`` lets pass."""
    place.protect()
    run("nft", "flush", "ruleset")
    assert place.probe(isolation(version)) == {}
    place.apply(Change("add", TABLE), *(Change("add", element) for element in place.elements()))
    sysctl("net/ipv4/conf/all/rp_filter", rp_filter)
    try:
        assert place.probe([*isolation(version), *published(version), *outside(version)]) == {}
    finally:
        sysctl("net/ipv4/conf/all/rp_filter", "0")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.usefixtures("routing")
def test_without_icc_containers_do_not_meet(place: Place, br_netfilter: bool, version: int) -> None:
    """``icc=False``: gateway, outside and published ports are reached, the network's other containers are not: by the
    bridge's isolation of its ports, with and without a firewall. With br_netfilter on, not even their published ports.
    """
    place.protect(icc=False)
    ports = [f"fw-{name}" for name, (network, _) in CONTAINERS.items() if network == "a"]
    host = address("host", version)
    apart = [Probe("a1", protocol, address("a2", version), OPEN) for protocol in PROTOCOLS]
    reached = [Probe("a2", protocol, host, EXACT, None if br_netfilter else "a1") for protocol in PROTOCOLS]
    reached += [Probe("lan", protocol, host, EXACT, "a1") for protocol in PROTOCOLS]
    reached.append(Probe("a1", "tcp", address("a", version), HOST_SERVICE, "host"))
    reached.append(Probe("a1", "tcp", address("lan", version), OPEN, "lan", host))
    with contextlib.ExitStack() as stack:
        for port in ports:
            run("bridge", "link", "set", "dev", port, "isolated", "on")
            stack.callback(run, "bridge", "link", "set", "dev", port, "isolated", "off")
        assert place.probe([*apart, *reached]) == {}
        run("nft", "flush", "ruleset")
        assert place.probe(apart) == {}


@pytest.mark.usefixtures("br_netfilter")
def test_loopback_addresses_never_come_in(place: Place) -> None:
    """A neighbour that sends to 127.0.0.1 reaches no port published there, even if the uplink would let it
    (CVE-2020-8558).
    """
    place.protect()
    inside = ("nsenter", "--net=/run/netns/fw-lan")
    hole = ("ip", "-n", "fw-lan", "route")
    run(*inside, "ip", "address", "delete", "127.0.0.1/8", "dev", "lo")
    run(*hole, "add", "127.0.0.0/8", "via", LAN[4][0], "dev", "eth0")
    run(*inside, "sysctl", "-q", "-w", "net.ipv4.conf.eth0.route_localnet=1")
    sysctl("net/ipv4/conf/fw-lan/route_localnet", "1")
    try:
        ports = (LOOPBACK, WILD, HOST_SERVICE)
        assert place.probe([Probe("lan", one, "127.0.0.1", port) for one in PROTOCOLS for port in ports]) == {}
        run("nft", "flush", "ruleset")
        leaked = place.probe([Probe("lan", "tcp", "127.0.0.1", HOST_SERVICE, "host")])
        assert leaked == {}, "the hole that the rule closes was not there: this test proved nothing"
    finally:
        sysctl("net/ipv4/conf/fw-lan/route_localnet", "0")
        run(*hole, "delete", "127.0.0.0/8")
        run(*inside, "ip", "address", "add", "127.0.0.1/8", "dev", "lo")


def test_a_port_on_a_foreign_address_captures_nothing(place: Place) -> None:
    """Traffic to an address that is not the host's goes to its owner, whatever is published "on" it."""
    place.protect()
    theft = firewall.port_elements(
        TABLE,
        bridge=bridge("a"),
        protocol="tcp",
        host_address=ipaddress.ip_address(address("lan", 4)),
        host_port=OPEN,
        address=ipaddress.ip_address(address("a1", 4)),
        port=OPEN,
    )
    place.apply(*(Change("add", element) for element in theft))
    lan = address("lan", 4)
    assert place.probe([Probe(source, "tcp", lan, OPEN, "lan") for source in ("host", "b1")]) == {}


def test_nothing_is_published_into_an_internal_network(place: Place) -> None:
    """Even where a port leads there, the network stays closed."""
    place.protect()
    inner, host = ipaddress.ip_address(address("i1", 4)), ipaddress.ip_address(address("host", 4))
    lead_in = firewall.port_elements(
        TABLE,
        bridge=bridge("i"),
        protocol="tcp",
        host_address=host,
        host_port=8090,
        address=inner,
        port=OPEN,
    )
    place.apply(*(Change("add", element) for element in lead_in))
    assert place.probe([Probe(source, "tcp", str(host), 8090) for source in ("lan", "a1")]) == {}


def test_the_users_chain_decides_first(place: Place) -> None:
    """A drop in ``user`` closes a published port; an accept there opens what we would have dropped."""
    place.protect()
    host, inner = address("host", 4), address("b1", 4)
    chain = ("inet", TABLE.name, "user")
    from_lan = ("nft", "add", "rule", *chain, "ip", "saddr", address("lan", 4))
    run(*from_lan, "meta", "l4proto", "tcp", "ct", "original", "proto-dst", str(EXACT), "drop")
    run(*from_lan, "ip", "daddr", inner, "accept")
    probes = [
        Probe("lan", "tcp", host, EXACT),
        Probe("lan", "tcp", host, WILD, "a1"),
        Probe("lan", "tcp", inner, OPEN, "b1"),
    ]
    assert place.probe(probes) == {}
    place.apply(Change("change", TABLE, TABLE))
    assert place.probe(probes) == {}


def test_users_marks_survive(place: Place) -> None:
    """Our mark is one bit: what users have set in the others is still there behind it."""
    place.protect()
    run("nft", "add", "table", "inet", "user-marks")
    marks = ("inet", "user-marks")
    run("nft", "add", "chain", *marks, "before", "{ type filter hook prerouting priority -150; }")
    run("nft", "add", "rule", *marks, "before", "meta", "mark", "set", "0x42")
    run("nft", "add", "chain", *marks, "after", "{ type filter hook forward priority -10; }")
    both = f"{0x42 | firewall.FORWARD_MARK:#x}"
    run("nft", "add", "rule", *marks, "after", "ct", "status", "dnat", "meta", "mark", "!=", both, "drop")
    assert place.probe([Probe("lan", "tcp", address("host", 4), EXACT, "a1")]) == {}
