"""The way out of sandboxes on networks without a gateway: when it comes and goes, what it is, and who may touch it.

Through the public verbs, on fakes. That real packets take it is in ``tests/kernel/test_way_out.py``, that it survives
crashes in ``tests/simulation``.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from libcnm.controller.controller import Controller
from libcnm.controller.sandbox import Sandbox
from libcnm.errors import AlreadyExists, Corrupt, Forbidden, InUse, Invalid, KernelError, NotFound
from libcnm.kernel.resources import Bridge, FirewallElement, Route, Sysctl, Veth
from libcnm.kv.base import Put, Transaction
from libcnm.model import keys
from libcnm.model.resource import Change
from libcnm.testing.world import FakeHost, FakeWorld

V4, V6 = "10.99.0.0/24", "fd00:99::/64"


@pytest.fixture
def host() -> Iterator[FakeHost]:
    with FakeWorld() as world:
        yield world.host()


@pytest.fixture
def cnm(host: FakeHost) -> Iterator[Controller]:
    with host.controller() as controller:
        yield controller


@pytest.fixture
def box(cnm: Controller) -> Sandbox:
    return cnm.create_sandbox("c1")


def overlay(cnm: Controller, name: str = "red", *subnets: str, **options: bool) -> None:
    cnm.create_network(name, "overlay", subnets=subnets, **options)  # type: ignore[arg-type]  # internal=


def inside(box: Sandbox) -> list[tuple[str, str, str | None]]:
    """What is in a sandbox, in its order: network, name but for the id in it, interface."""
    there = [*box.endpoints, *filter(None, [box.way_out])]
    return [(one.network, one.name.replace(box.id[:12], "ID"), one.interface) for one in there]


def names(cnm: Controller) -> list[str]:
    return [network.name for network in cnm.networks()]


def routes(host: FakeHost, box: Sandbox) -> dict[int, str | None]:
    """The interface of a sandbox's default route, by IP version."""
    there = [one.resource for one in host.kernel.everything()]
    return {
        one.destination.version: one.link
        for one in there
        if isinstance(one, Route) and one.ns == box.id[:12] and one.destination.prefixlen == 0
    }


def published(host: FakeHost) -> set[tuple[object, ...]]:
    """Protocol, host address and host port of everything published."""
    there = [one.resource for one in host.kernel.everything()]
    return {
        (one.key[0], str(one.key[1]), one.key[2])
        for one in there
        if isinstance(one, FirewallElement) and one.set in ("ports4", "ports6")
    }


def value(host: FakeHost, key: str) -> str:
    """What a host-wide setting is."""
    there = host.kernel.read_one(Sysctl("", key, "1"), deadline=host.world.clock.deadline(5))
    assert there is not None
    assert isinstance(there.resource, Sysctl)
    return there.resource.value


# -- coming and going ------------------------------------------------------------------------------------------------


def test_it_comes_with_the_first_that_needs_it_and_goes_with_the_last(
    cnm: Controller, host: FakeHost, box: Sandbox
) -> None:
    """Beside the overlay's interface, which stays the first, and with the default route; one for all overlays."""
    before = host.everything()
    for name in ("red", "sky"):
        overlay(cnm, name)
        cnm.network(name).create_endpoint("a").join(box)
    way_out = ("cnm_gwbridge", "gateway_ID", "eth1")
    assert [("red", "a", "eth0"), ("sky", "a", "eth2"), way_out] == inside(box)
    assert {4: "eth1"} == routes(host, box)
    assert [] == cnm.doctor()
    cnm.network("red").endpoint("a").leave()
    assert [("sky", "a", "eth2"), way_out] == inside(box)
    cnm.network("sky").endpoint("a").leave()
    assert ([], ["red", "sky"], {}) == (inside(box), names(cnm), routes(host, box))
    for name in ("red", "sky"):
        cnm.network(name).delete(force=True)
    residue = {line for line in host.everything() - before if not line.startswith(("host/", "lineage", "vni-hint"))}
    assert set() == residue


@pytest.mark.parametrize(
    ("subnets", "network"),
    [([V4], "cnm_gwbridge"), ([V6], "cnm_gwbridge6"), ([V4, V6], "cnm_gwbridge46")],
)
def test_one_interface_for_the_ip_versions_that_there_are(
    cnm: Controller, host: FakeHost, box: Sandbox, subnets: list[str], network: str
) -> None:
    """No IPv6 is forwarded for those who have none, and no IPv4."""
    overlay(cnm, "red", *subnets)
    cnm.network("red").create_endpoint("a").join(box)
    assert [("red", "a", "eth0"), (network, "gateway_ID", "eth1")] == inside(box)
    assert dict.fromkeys((4 if one == V4 else 6 for one in subnets), "eth1") == routes(host, box)
    assert str(int(V4 in subnets)) == value(host, "net/ipv4/ip_forward")
    assert str(int(V6 in subnets)) == value(host, "net/ipv6/conf/all/forwarding")


def test_it_follows_the_need(cnm: Controller, host: FakeHost, box: Sandbox) -> None:
    """More IP versions, fewer, and one of them through a network with a gateway of its own."""
    overlay(cnm, "four", V4)
    overlay(cnm, "both", "10.98.0.0/24", V6)
    cnm.create_network("blue", subnets=["10.97.0.0/24"])
    networks = []
    for name in ("four", "both", "blue"):
        cnm.network(name).create_endpoint("a").join(box)
        networks.append(box.way_out and box.way_out.network)
        assert [] == cnm.doctor()
    assert ["cnm_gwbridge", "cnm_gwbridge46", "cnm_gwbridge6"] == networks
    interfaces = {network: interface for network, _, interface in inside(box)}
    assert {4: interfaces["blue"], 6: interfaces["cnm_gwbridge6"]} == routes(host, box)
    cnm.network("both").endpoint("a").delete(force=True)
    assert (2, None) == (len(box.endpoints), box.way_out)
    cnm.network("blue").delete(force=True)
    assert ["both", "cnm_gwbridge", "four"] == names(cnm)


def test_what_leads_out_by_itself_or_nowhere_needs_none(cnm: Controller, box: Sandbox) -> None:
    """Bridges, internal networks, null and host networks."""
    overlay(cnm, "closed", V4, internal=True)
    for name, driver in (("blue", "bridge"), ("none", "null"), ("hosts", "host")):
        cnm.create_network(name, driver)
    for name in ("closed", "blue", "none"):
        cnm.network(name).create_endpoint("a").join(box)
        cnm.network(name).endpoint("a").leave()
        cnm.network(name).endpoint("a").join(box)
    cnm.network("hosts").create_endpoint("a").join(cnm.create_sandbox("own", host_network=True))
    assert ["blue", "closed", "hosts", "none"] == names(cnm)


def test_a_bridge_takes_its_place(cnm: Controller, host: FakeHost, box: Sandbox) -> None:
    """Whatever the priorities: a way out comes after all others."""
    overlay(cnm)
    cnm.network("red").create_endpoint("a").join(box, priority=7)
    blue = cnm.create_network("blue").create_endpoint("b").join(box, priority=-7)
    assert [("red", "a", "eth0"), ("blue", "b", "eth2")] == inside(box)
    assert {4: "eth2"} == routes(host, box)
    blue.leave()
    assert [("red", "a", "eth0"), ("cnm_gwbridge", "gateway_ID", "eth1")] == inside(box)
    assert {4: "eth1"} == routes(host, box)
    assert [] == cnm.doctor()


def test_sandboxes_share_its_network_and_nothing_else(cnm: Controller, host: FakeHost, box: Sandbox) -> None:
    """One bridge for all, with ports that are isolated from each other; it stays until the last has gone."""
    overlay(cnm)
    other = cnm.create_sandbox("c2")
    for sandbox in (box, other):
        cnm.network("red").create_endpoint(sandbox.container_id).join(sandbox)
    network = cnm.network("cnm_gwbridge")
    assert {"com.docker.network.bridge.enable_icc": "false"} == network.options
    assert {"c1", "c2"} == {one.sandbox for one in network.endpoints()}
    pairs = [one.resource for one in host.kernel.everything() if isinstance(one.resource, Veth)]
    assert {False: 2, True: 2} == {one: [pair.isolated for pair in pairs].count(one) for one in (False, True)}
    box.delete()
    assert ["cnm_gwbridge", "red"] == names(cnm)
    other.delete(keep_endpoints=True)
    assert ["red"] == names(cnm)
    assert ["c2"] == [one.name for one in cnm.network("red").endpoints()]


@pytest.mark.parametrize("taken", [False, True])
def test_its_network_has_room_for_as_many_as_a_bridge_takes(cnm: Controller, box: Sandbox, taken: bool) -> None:
    """All of a host's sandboxes share it, so another network's /24 will do only where there is nothing else."""
    if taken:
        blocks = [f"172.{second}.0.0/16" for second in range(17, 32)]
        blocks += [f"192.168.{third}.0/24" for third in range(0, 256, 4)]
        for number in range(0, len(blocks), 8):
            cnm.create_network(f"n{number}", subnets=blocks[number : number + 8])
    overlay(cnm)
    cnm.network("red").create_endpoint("a").join(box)
    assert [24 if taken else 22] == [subnet.prefixlen for subnet in cnm.network("cnm_gwbridge").subnets]


def test_it_has_no_name(cnm: Controller, box: Sandbox) -> None:
    """Neither in DNS nor in the hosts file; the overlay's endpoint has, as ever."""
    overlay(cnm)
    endpoint = cnm.network("red").create_endpoint("a").join(box)
    own = cnm.network("cnm_gwbridge").endpoints()[0]
    assert () == box.resolve_name(own.name) + box.resolve_name(f"{own.name}.cnm_gwbridge")
    assert (endpoint.addresses[0].ip,) == box.resolve_name("a")
    with open(box.files["/etc/hosts"], encoding="utf-8") as file:
        text = file.read()
    assert str(endpoint.addresses[0].ip) in text
    assert str(own.addresses[0].ip) not in text


def test_a_sandboxs_own_endpoints_can_be_deleted_one_by_one(cnm: Controller, box: Sandbox) -> None:
    """The way out, which goes with the last that needs it, is listed apart; ``inspect`` shows it, as what it is."""
    for name in ("red", "sky"):
        overlay(cnm, name)
        cnm.network(name).create_endpoint("a").join(box)
    assert ["red", "sky", "cnm_gwbridge"] == [network for network, _, _ in inside(box)]
    shown = box.inspect()["Endpoints"]
    assert isinstance(shown, list)
    assert [None, None, box.id] == [one.get("WayOutOf") for one in shown]
    for endpoint in box.endpoints:
        endpoint.delete(force=True)
    assert ([], None, []) == (box.endpoints, box.way_out, box.inspect()["Endpoints"])


# -- ports -----------------------------------------------------------------------------------------------------------


def test_ports_of_overlays_are_published_through_it(cnm: Controller, host: FakeHost, box: Sandbox) -> None:
    """Those of all of them together; each endpoint says what is bound for it, and takes its own away."""
    for name, port in (("red", "8080:80"), ("sky", "8081:81/udp")):
        overlay(cnm, name)
        cnm.network(name).create_endpoint("a", ports=[port]).join(box)
    red, sky = (cnm.network(name).endpoint("a") for name in ("red", "sky"))
    address = cnm.network("cnm_gwbridge").endpoints()[0].addresses
    assert {("tcp", "127.0.0.1", 8080), ("udp", "127.0.0.1", 8081)} == published(host)
    assert ["127.0.0.1:8080:80/tcp"] == [str(port) for port in red.ports]
    assert [{"Port": "127.0.0.1:8081:81/udp", "Reachable": "this host only"}] == sky.inspect()["Ports"]
    assert [] == cnm.doctor()
    red.leave()
    assert {("udp", "127.0.0.1", 8081)} == published(host)
    assert address == cnm.network("cnm_gwbridge").endpoints()[0].addresses, "its connections live on"
    assert [] == cnm.doctor()
    box.delete()
    assert set() == published(host)
    assert [] == [key for key in host.stored_keys() if key.startswith("port/")]


def test_ports_of_an_ip_version_that_leads_out_elsewhere_wait(cnm: Controller, host: FakeHost, box: Sandbox) -> None:
    """A port is published by whoever holds the default route of its IP version, as between bridges."""
    overlay(cnm, "red", V4, V6)
    cnm.network("red").create_endpoint("a", ports=["8080:80"]).join(box)
    assert {("tcp", "127.0.0.1", 8080), ("tcp", "::1", 8080)} == published(host)
    blue = cnm.create_network("blue", subnets=["10.97.0.0/24"]).create_endpoint("b").join(box)
    assert {("tcp", "::1", 8080)} == published(host)
    blue.leave()
    assert {("tcp", "127.0.0.1", 8080), ("tcp", "::1", 8080)} == published(host)


def test_a_port_that_is_taken_fails_the_join(cnm: Controller, host: FakeHost, box: Sandbox) -> None:
    """Before anything is made; the error names who has it. One of an IP version that the endpoint could not have is
    refused with the endpoint.
    """
    overlay(cnm, "red", V4)
    red = cnm.network("red")
    holder = red.create_endpoint("a", ports=["8080:80"]).join(box)
    loser = red.create_endpoint("b", ports=["8080:81"])
    other = cnm.create_sandbox("c2")
    before = host.everything()
    with pytest.raises(AlreadyExists, match=holder.id[:12]):
        loser.join(other)
    with pytest.raises(Invalid, match="IP version"):
        red.create_endpoint("c", ports=["[::1]:8082:80"])
    assert set() == before ^ host.everything()


def test_what_neighbours_publish_stays(cnm: Controller, host: FakeHost, box: Sandbox) -> None:
    """The setting of the bridge that ports on loopback need is shared by the sandboxes on it."""
    overlay(cnm)
    other = cnm.create_sandbox("c2")
    for number, sandbox in enumerate((box, other)):
        cnm.network("red").create_endpoint(f"e{number}", ports=[f"{8080 + number}:80"]).join(sandbox)
    box.delete()
    assert {("tcp", "127.0.0.1", 8081)} == published(host)
    assert [] == cnm.doctor()


# -- what fails ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Bridge, Veth, Route])
def test_a_join_whose_way_out_cannot_be_made_leaves_nothing(
    cnm: Controller, host: FakeHost, box: Sandbox, kind: type
) -> None:
    """The endpoint is taken out again, and can join when whatever was in the way has gone."""
    overlay(cnm)
    endpoint = cnm.network("red").create_endpoint("a", ports=["8080:80"])
    endpoint.join(box)
    endpoint.leave()  # what a first time leaves behind is no matter here
    before, real = host.everything(), host.kernel._attempt

    def refuse(change: Change, refused: set[tuple[str, ...]]) -> KernelError | None:
        # Of the way out: its network, its pair, the default route through it.
        one = change.resource
        ours = isinstance(one, Bridge) or getattr(one, "isolated", False) or getattr(one, "via", None) is not None
        if change.operation == "add" and isinstance(one, kind) and one.identity[1] in ("", box.id[:12]) and ours:
            return KernelError(errno.ENOMEM, str(change))
        return real(change, refused)

    host.kernel._attempt = refuse  # type: ignore[method-assign]  # a kernel that runs out of memory
    with pytest.raises(KernelError):
        endpoint.join(box)
    host.kernel._attempt = real  # type: ignore[method-assign]
    assert set() == before ^ host.everything()
    endpoint.join(box)
    assert [("red", "a", "eth0"), ("cnm_gwbridge", "gateway_ID", "eth1")] == inside(box)
    assert [] == cnm.doctor()


def test_a_subnet_in_the_way_is_avoided_or_refused(cnm: Controller, box: Sandbox) -> None:
    """A new network for ways out keeps clear of the sandbox's own subnets; one that is there cannot."""
    overlay(cnm, "red", "172.17.0.0/16")
    cnm.network("red").create_endpoint("a").join(box)
    assert not cnm.network("cnm_gwbridge").subnets[0].overlaps(cnm.network("red").subnets[0])
    block = str(cnm.network("cnm_gwbridge").subnets[0])
    overlay(cnm, "sky", block)
    endpoint = cnm.network("sky").create_endpoint("a")
    with pytest.raises(Forbidden, match=f"overlaps.*{block}"):
        endpoint.join(cnm.create_sandbox("c2"))
    assert None is cnm.network("sky").endpoint("a").sandbox
    assert [] == cnm.doctor()


# -- whose it is -----------------------------------------------------------------------------------------------------


def test_users_do_not_take_it_away(cnm: Controller, host: FakeHost, box: Sandbox) -> None:
    """Neither the endpoint nor the network, not even by force: the error says which container holds it."""
    overlay(cnm)
    cnm.network("red").create_endpoint("a").join(box)
    network = cnm.network("cnm_gwbridge")
    (endpoint,) = network.endpoints()
    assert (True, True) == (network.on_demand, endpoint.is_way_out)
    before = host.everything()
    for verb in (endpoint.leave, endpoint.delete, network.delete):
        with pytest.raises(InUse, match="container c1, whose way out it is"):
            verb()
    for force in (endpoint.delete, network.delete):
        with pytest.raises(InUse, match="container c1, whose way out it is"):
            force(force=True)
    with pytest.raises(Forbidden, match="way out"):
        endpoint.join(cnm.create_sandbox("c2"))
    cnm.sandbox("c2").delete()
    assert set() == before ^ host.everything()
    shown = endpoint.inspect()
    assert (box.id, True) == (shown["WayOutOf"], network.inspect()["OnDemand"])


def test_a_users_own_network_of_that_name_is_taken(cnm: Controller, box: Sandbox) -> None:
    """As with ``docker_gwbridge``: that is how one chooses its subnet. It is not taken away."""
    cnm.create_network("cnm_gwbridge", subnets=["10.77.0.0/24"])
    overlay(cnm)
    cnm.network("red").create_endpoint("a").join(box)
    assert [("red", "a", "eth0"), ("cnm_gwbridge", "gateway_ID", "eth1")] == inside(box)
    box.delete()
    assert ["cnm_gwbridge", "red"] == names(cnm)


def test_a_network_of_that_name_that_does_not_lead_out(cnm: Controller, box: Sandbox) -> None:
    """The join fails, says why, and leaves nothing in the sandbox."""
    cnm.create_network("cnm_gwbridge", internal=True)
    overlay(cnm)
    endpoint = cnm.network("red").create_endpoint("a")
    with pytest.raises(Forbidden, match=r"cnm_gwbridge.*does not lead out"):
        endpoint.join(box)
    assert [] == inside(box)
    cnm.network("cnm_gwbridge").delete()
    endpoint.join(box)


def test_what_others_have_on_its_network_stays(cnm: Controller, box: Sandbox) -> None:
    """An endpoint of a user's own keeps the network, which then goes with the next way out."""
    overlay(cnm)
    cnm.network("red").create_endpoint("a").join(box)
    mine = cnm.network("cnm_gwbridge").create_endpoint("mine")
    box.delete()
    assert ["cnm_gwbridge", "red"] == names(cnm)
    mine.delete()
    cnm.heal()
    assert ["red"] == names(cnm)
    with pytest.raises(NotFound):
        mine.inspect()


def test_a_plan_tells_of_it(cnm: Controller, host: FakeHost, box: Sandbox) -> None:
    """What it would make, and nothing of it made."""
    overlay(cnm)
    cnm.network("red").create_endpoint("a")
    before = host.everything()
    plan = cnm.plan(lambda dry: dry.network("red").endpoint("a").join(dry.sandbox("c1")))
    made = [change.resource for change in plan.changes if change.operation == "add"]
    assert [True] == [one.isolated for one in made if isinstance(one, Veth) and one.ns == ""]
    assert ["eth1"] == [one.link for one in made if isinstance(one, Route) and one.ns and one.via is not None]
    assert set() == before ^ host.everything()


def test_topology_shows_it(cnm: Controller, box: Sandbox) -> None:
    """As what it is: an endpoint of the container on a network of the host."""
    overlay(cnm)
    cnm.network("red").create_endpoint("a").join(box)
    seen = cnm.topology()
    network = next(one for one in seen.networks if one.name == "cnm_gwbridge")
    assert ("local", "host-1") == (network.scope, network.host)
    assert [("eth1", box.id)] == [(e.interface, e.sandbox_id) for e in seen.endpoints if e.network_id == network.id]


def test_a_reboot_takes_it(cnm: Controller, host: FakeHost, box: Sandbox) -> None:
    """With the sandbox, which does not outlive the boot either."""
    overlay(cnm)
    cnm.network("red").create_endpoint("a").join(box)
    host.reboot()
    with host.controller() as again:
        again.heal()
        assert (["red"], []) == (names(again), again.sandboxes())
        assert ["a"] == [one.name for one in again.network("red").endpoints()]
        assert [] == again.doctor()


def test_doctor_names_a_way_out_that_could_not_be_made(cnm: Controller, host: FakeHost, box: Sandbox) -> None:
    """After a leave, which is done in any case; healing gives it as soon as it can."""
    cnm.create_network("cnm_gwbridge", internal=True)
    blue = cnm.create_network("blue").create_endpoint("b").join(box)
    overlay(cnm)
    cnm.network("red").create_endpoint("a").join(box)
    assert [] == cnm.doctor()
    blue.leave()
    assert [f"missing: way-out {box.id[:12]}"] == [str(row) for row in cnm.doctor()]
    cnm.heal()
    assert [("red", "a", "eth1")] == inside(box)
    cnm.network("cnm_gwbridge").delete()
    cnm.heal()
    assert [("red", "a", "eth1"), ("cnm_gwbridge", "gateway_ID", "eth0")] == inside(box)
    assert [] == cnm.doctor()


def test_a_damaged_network_of_that_name_costs_itself_only(cnm: Controller, host: FakeHost) -> None:
    """The installation opens, other joins work, and the one that needs it says what is wrong."""
    damaged = cnm.create_network("cnm_gwbridge")
    overlay(cnm)
    endpoint, blue = cnm.network("red").create_endpoint("a"), cnm.create_network("blue").create_endpoint("b")
    store = cnm._calls.context.local.store
    write = Transaction((), (Put(keys.network(damaged.id), b"{}"),))
    store.transact(write, deadline=cnm._calls.context.doors.clock.deadline(5))
    with host.controller() as again:
        box = again.create_sandbox("c1")
        again.network("blue").endpoint(blue.name).join(box)
        again.network("blue").endpoint(blue.name).leave()
        with pytest.raises(Corrupt, match=damaged.id[:12]):
            again.network("red").endpoint(endpoint.name).join(box)
        assert [] == inside(box)
