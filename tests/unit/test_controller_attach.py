"""Joining and leaving, sandboxes, repeated requests, and the host's own settings: through the public verbs, on fakes.

What is refused, in which words, and that a refusal changes nothing. The case names follow libnetwork's own tests.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from libcnm.controller.controller import Controller
from libcnm.controller.endpoint import Endpoint
from libcnm.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    InUse,
    Invalid,
    KernelError,
    NotFound,
)
from libcnm.kernel.resources import Address, Bridge, Sysctl
from libcnm.model.resource import Change
from libcnm.testing.world import FakeHost, FakeWorld, half_done

# -- join and leave --------------------------------------------------------------------------------------------------


def joined(cnm: Controller, name: str = "a", container: str = "c1", network: str = "net") -> Endpoint:
    return cnm.network(network).create_endpoint(name).join(cnm.create_sandbox(container))


def test_endpoint_multiple_joins(cnm: Controller, other: Controller, host: FakeHost) -> None:
    """One sandbox at a time; the error says which, on which host, and what to do."""
    cnm.create_network("net", "overlay")
    endpoint = joined(cnm)
    box = cnm.create_sandbox("c2")
    error = host.refuses(InUse, lambda: endpoint.join(box))
    assert "container c1 on host one" in str(error)
    assert "leave()" in str(error)
    theirs = other.network("net").endpoint("a")
    with pytest.raises(InUse, match="container c1 on host one"):
        theirs.join(other.create_sandbox("c2"))


def test_container_invalid_leave(cnm: Controller, other: Controller, host: FakeHost) -> None:
    """Attached to nothing; attached elsewhere; attached to another sandbox than was said."""
    network = cnm.create_network("net", "overlay")
    idle, box = network.create_endpoint("idle"), cnm.create_sandbox("c2")
    host.refuses(Forbidden, idle.leave)
    busy = joined(cnm)
    assert "c1" in str(host.refuses(Forbidden, lambda: busy.leave(box)))
    with pytest.raises(InUse, match="only host one"):
        other.network("net").endpoint("a").leave()


def test_endpoint_delete_with_active_container(cnm: Controller, other: Controller, host: FakeHost) -> None:
    """InUse, unless forced, and elsewhere even then: only its own host can detach it."""
    cnm.create_network("net", "overlay")
    endpoint = joined(cnm)
    assert "delete(force=True)" in str(host.refuses(InUse, endpoint.delete))
    with pytest.raises(InUse, match="only host one"):
        other.network("net").endpoint("a").delete(force=True)
    endpoint.delete(force=True)
    assert [] == cnm.network("net").endpoints()


def test_join_refuses_what_does_not_fit(cnm: Controller, host: FakeHost) -> None:
    """Two ways into one network; overlapping subnets; host networks and namespaces mixed; what is no sandbox."""
    cnm.create_network("net", subnets=["10.1.0.0/24"])
    wide = cnm.create_network("wide", "overlay", subnets=["10.1.0.0/16"])
    hosts = cnm.create_network("hosts", "host")
    joined(cnm)
    box, own = cnm.sandbox("c1"), cnm.create_sandbox("own", host_network=True)
    second, far, near = cnm.network("net").create_endpoint("b"), wide.create_endpoint("a"), hosts.create_endpoint("a")
    host.refuses(Forbidden, lambda: second.join(box))
    assert "10.1.0.0/24" in str(host.refuses(Forbidden, lambda: far.join(box)))
    host.refuses(Forbidden, lambda: near.join(box))
    host.refuses(Forbidden, lambda: second.join(own))
    host.refuses(Invalid, lambda: second.join("c1"))  # type: ignore[arg-type]  # what callers do
    host.refuses(Invalid, lambda: second.join(box, priority=10**9))
    near.join(own)


def test_a_sandbox_of_another_installation(cnm: Controller, other: Controller, host: FakeHost) -> None:
    """Its namespace is on another host."""
    endpoint = cnm.create_network("net", "overlay").create_endpoint("a")
    box = other.create_sandbox("c1")
    host.refuses(Invalid, lambda: endpoint.join(box))


def test_ports_clash_by_address(cnm: Controller, host: FakeHost) -> None:
    """Of one protocol and family: the same address, or one that is all of them; the holder is named and placed."""
    network = cnm.create_network("net")
    first = network.create_endpoint("a", ports=["127.0.0.1:8080:80"])
    first.join(cnm.create_sandbox("c1"))
    box = cnm.create_sandbox("c2")
    for text in ("8080:81", "0.0.0.0:8080:81"):
        loser = network.create_endpoint("b", ports=[text])
        error = host.refuses(AlreadyExists, lambda: loser.join(box))  # noqa: B023
        assert f"endpoint a ({first.id[:12]}) of network net in container c1" == vars(error)["holder"]
        assert "another host port" in str(error.hint)
        loser.delete()
    for name, text in (("udp", "8080:81/udp"), ("elsewhere", "127.0.0.2:8080:81"), ("next", "8081:81")):
        network.create_endpoint(name, ports=[text]).join(cnm.create_sandbox(name))
    host.refuses(Invalid, lambda: network.create_endpoint("v6", ports=["[::1]:9090:80"]))


def test_a_port_is_free_again(cnm: Controller) -> None:
    """With leave and with deletion; a host port that was not asked for is chosen and told."""
    network = cnm.create_network("net")
    box = cnm.create_sandbox("c1")
    for name in ("a", "b"):
        endpoint = network.create_endpoint(name, ports=["8080:80", "81"])
        endpoint.join(box)
        assert 8080 == endpoint.ports[0].host_port
        assert 49152 <= endpoint.ports[1].host_port <= 65535
        endpoint.leave()


def test_what_endpoints_publish_together_stays(cnm: Controller, host: FakeHost) -> None:
    """An endpoint stops publishing because a more important one joins its sandbox: its neighbours' ports still work."""
    network, better = cnm.create_network("net"), cnm.create_network("better")
    for name, port in (("a", "8080:80"), ("b", "8081:80")):
        network.create_endpoint(name, ports=[port]).join(cnm.create_sandbox(name))
    better.create_endpoint("c").join(cnm.sandbox("a"), priority=5)
    assert [] == cnm.doctor()
    cnm.sandbox("a").delete()
    assert [] == cnm.doctor()


@pytest.mark.parametrize("kind", [Bridge, Address])
def test_a_refusal_of_the_kernel_leaves_nothing(cnm: Controller, host: FakeHost, kind: type) -> None:
    """ENOMEM for one object: the verb fails as a whole, and can be repeated."""
    real = host.kernel._attempt

    def refuse(change: Change, refused: set[tuple[str, ...]]) -> KernelError | None:
        if isinstance(change.resource, kind) and change.operation == "add":
            return KernelError(errno.ENOMEM, str(change))
        return real(change, refused)

    host.kernel._attempt = refuse  # type: ignore[method-assign]  # a kernel that runs out of memory
    host.refuses(KernelError, lambda: cnm.create_network("net"))
    assert [] == half_done(cnm)
    host.kernel._attempt = real  # type: ignore[method-assign]
    network = cnm.create_network("net")
    endpoint, box = network.create_endpoint("a"), cnm.create_sandbox("c1")
    if kind is Address:
        host.kernel._attempt = refuse  # type: ignore[method-assign]
        host.refuses(KernelError, lambda: endpoint.join(box))
        host.kernel._attempt = real  # type: ignore[method-assign]
    endpoint.join(box)


@pytest.mark.parametrize("driver", ["bridge", "overlay"])
def test_a_join_that_cannot_be_committed_is_undone(cnm: Controller, host: FakeHost, driver: str) -> None:
    """Somebody wrote the endpoint's record while the kernel was being changed: links and records are taken back."""
    endpoint, box = cnm.create_network("net", driver).create_endpoint("a"), cnm.create_sandbox("c1")
    endpoint.join(box).leave()  # what is noted of a network's first presence stays
    context = cnm._calls.context
    repository = context.repository(endpoint._network.scope)
    meddled: list[str] = []

    def meddle() -> None:
        deadline = context.doors.clock.deadline(5)
        stored = repository.endpoint(endpoint._network.id, endpoint.id, deadline)
        assert stored is not None
        if stored.record.attachment is not None and not meddled:
            meddled.append(stored.record.attachment.state)
            repository.commit(stored.replace(stored.record), deadline)

    def join() -> object:
        host.tape.passing = meddle
        try:
            return endpoint.join(box)
        finally:
            host.tape.passing = lambda: None

    host.refuses(Conflict, join)
    assert ["preparing"] == meddled
    endpoint.join(box)
    assert [] == cnm.doctor()


# -- sandboxes -------------------------------------------------------------------------------------------------------


def test_one_sandbox_a_container(cnm: Controller, host: FakeHost) -> None:
    """The second is told the first."""
    first = cnm.create_sandbox("c1")
    assert first.id[:12] in str(host.refuses(AlreadyExists, lambda: cnm.create_sandbox("c1")))
    first.delete()
    host.refuses(NotFound, first.delete)
    cnm.create_sandbox("c1")


@pytest.mark.parametrize(
    "arguments",
    [
        {"container_id": "a b"}, {"netns": "relative"}, {"netns": "/no/such"}, {"netns": "/x", "host_network": True},
        {"hostname": "a b"}, {"domain": "-"}, {"dns": ["x"]}, {"dns_search": ["a..b"]}, {"dns_options": ["a b"]},
        {"extra_hosts": {"a": "x"}}, {"extra_hosts": {"a b": "10.0.0.1"}}, {"labels": {"a": None}},
    ],
    ids=str,
)  # fmt: skip
def test_a_sandbox_that_cannot_be(cnm: Controller, host: FakeHost, arguments: dict[str, object]) -> None:
    """A typed error before anything is touched, a namespace path that is none included."""
    host.refuses(Invalid, lambda: cnm.create_sandbox(**{"container_id": "c1", **arguments}))  # type: ignore[arg-type]


def test_deleting_a_sandbox_takes_its_endpoints(cnm: Controller) -> None:
    """Or, if asked to, leaves them with their addresses, attached to nothing."""
    network = cnm.create_network("net")
    joined(cnm)
    cnm.sandbox("c1").delete()
    assert [] == network.endpoints()
    kept = joined(cnm, "b", "c2")
    cnm.sandbox("c2").delete(keep_endpoints=True)
    assert [(kept.addresses, None)] == [(one.addresses, one.sandbox) for one in network.endpoints()]


def test_a_namespace_deleted_by_hand(cnm: Controller, host: FakeHost) -> None:
    """Delete still succeeds and frees everything."""
    before = (sorted(host.stored_keys()), host.kernel.snapshot())
    network = cnm.create_network("net")
    joined(cnm)
    box = cnm.sandbox("c1")
    host.kernel.vandalise_delete(("namespace", "", box.path.rpartition("/")[2]))
    box.delete()
    network.delete()
    host.kernel.sweep()
    left = [key for key in host.stored_keys() if not key.startswith("pools/")]
    assert (before[0], before[1]) == (sorted(left), host.kernel.snapshot())


# -- request ids -----------------------------------------------------------------------------------------------------


def test_the_same_request_gives_the_same_result(cnm: Controller, host: FakeHost) -> None:
    """Any number of times, by any process of the installation; another request is another object."""
    network = cnm.create_network("net", request_id="r1")
    endpoint = network.create_endpoint("a", request_id="r2")
    box = cnm.create_sandbox("c1", request_id="r3")
    endpoint.join(box, request_id="r4")
    with host.controller() as again:
        assert network == again.create_network("net", request_id="r1")
        assert endpoint == again.network("net").create_endpoint("a", request_id="r2")
        assert box == again.create_sandbox("c1", request_id="r3")
        assert "c1" == again.network("net").endpoint("a").join(again.sandbox("c1"), request_id="r4").sandbox
        with pytest.raises(AlreadyExists):
            again.create_network("net", request_id="r5")
        with pytest.raises(InUse):
            again.network("net").endpoint("a").join(again.sandbox("c1"), request_id="r6")


def test_a_deletion_asked_for_twice_is_one(cnm: Controller) -> None:
    """With a request id "not there" means "done", the second time; the first time it is NotFound."""
    network = cnm.create_network("net")
    endpoint, box = network.create_endpoint("a"), cnm.create_sandbox("c1")
    endpoint.join(box)
    for _ in range(2):
        endpoint.leave(request_id="r1")
        endpoint.delete(request_id="r2") if _ else None
    endpoint_again = network.create_endpoint("a")
    for _ in range(2):
        endpoint_again.delete(request_id="r3")
        box.delete(request_id="r4")
    for _ in range(2):
        network.delete(request_id="r5")
    with pytest.raises(NotFound):
        network.delete(request_id="r6")


# -- the host --------------------------------------------------------------------------------------------------------


def forwarding(host: FakeHost) -> str | None:
    there = host.kernel.read_one(Sysctl("", "net/ipv4/ip_forward", "1"), deadline=host.world.clock.deadline(5))
    assert there is not None
    assert isinstance(there.resource, Sysctl)
    return there.resource.value


def test_a_host_wide_setting_is_restored(cnm: Controller, host: FakeHost) -> None:
    """With the last network that needs it, not before."""
    assert "0" == forwarding(host)
    one, two = cnm.create_network("a"), cnm.create_network("b")
    one.delete()
    assert "1" == forwarding(host)
    two.delete()
    assert "0" == forwarding(host)


def test_a_host_wide_setting_is_restored_after_a_reboot(cnm: Controller, host: FakeHost) -> None:
    """Healing changes it again, for networks that have outlived the boot; what it was in this boot is remembered."""
    cnm.create_network("net")
    host.reboot()
    with host.controller() as again:
        again.heal()
        assert "1" == forwarding(host)
        again.network("net").delete()
    assert "0" == forwarding(host)


def test_a_setting_that_was_on_stays_on(host: FakeHost) -> None:
    """It is not libcnm's to switch off."""
    host.kernel.vandalise_change(Sysctl("", "net/ipv4/ip_forward", "1"))
    with host.controller() as cnm:
        cnm.create_network("net").delete()
    assert "1" == forwarding(host)


def test_what_another_host_deleted_is_forgotten(cnm: Controller, other: Controller, host: FakeHost) -> None:
    """A network that was here once leaves no note behind when it is gone everywhere."""
    network = cnm.create_network("net", "overlay")
    joined(cnm)
    cnm.sandbox("c1").delete()
    assert [key for key in host.stored_keys() if key.startswith("presence/")]
    other.network("net").delete()
    cnm.heal()
    assert [] == [key for key in host.stored_keys() if key.startswith("presence/")]
    with pytest.raises(NotFound):
        network.inspect()


def test_a_closed_controller(cnm: Controller) -> None:
    """No verb begins any more, and closing again is fine."""
    network = cnm.create_network("net")
    cnm.close()
    cnm.close()
    for verb in (cnm.networks, network.inspect, cnm.doctor):
        with pytest.raises(Forbidden, match="closed"):
            verb()


def test_several_controllers_with_the_same_store(world: FakeWorld, cnm: Controller) -> None:
    """What one process does, another of the same host sees at once, and can undo."""
    with world.host("one").controller() as second:
        assert cnm.id == second.id
        cnm.create_network("net").create_endpoint("a")
        second.network("net").delete(force=True)
        assert [] == cnm.networks()


def test_an_endpoint_leads_to_its_network_and_sandbox(cnm: Controller, world: FakeWorld) -> None:
    """By id, also where another network has the same name. Out of a sandbox it names none."""
    cnm.create_network("net")
    twin = cnm.create_network("net", "overlay")
    endpoint = twin.create_endpoint("a")
    assert twin == cnm.network(endpoint.network_id)
    assert ("net", None, None) == (endpoint.network, endpoint.sandbox, endpoint.sandbox_id)
    sandbox = cnm.create_sandbox("c1")
    endpoint.join(sandbox)
    assert sandbox == cnm.sandbox(endpoint.sandbox_id or "")
    endpoint.leave()
    assert None is endpoint.sandbox_id


def test_what_is_gone_is_named_as_it_was_called(cnm: Controller) -> None:
    """A handle that somebody else's verb has emptied: the error has the name that a person knows, and the id."""
    network, sandbox = cnm.create_network("net"), cnm.create_sandbox("c1")
    endpoint = network.create_endpoint("a")
    cnm.sandbox("c1").delete()
    cnm.network("net").delete(force=True)
    verbs: list[tuple[str, str, str, Callable[[], object]]] = [
        ("sandbox", "c1", sandbox.id, sandbox.delete),
        ("sandbox", "c1", sandbox.id, sandbox.inspect),
        ("sandbox", "c1", sandbox.id, lambda: sandbox.rename("x")),
        ("sandbox", "c1", sandbox.id, lambda: sandbox.resolve_name("x")),
        ("namespace of sandbox", "c1", sandbox.id, sandbox.statistics),
        ("network", "net", network.id, network.delete),
        ("network", "net", network.id, network.inspect),
        ("network", "net", network.id, lambda: network.create_endpoint("b")),
        ("endpoint", "a", endpoint.id, endpoint.delete),
        ("endpoint", "a", endpoint.id, endpoint.inspect),
        ("endpoint", "a", endpoint.id, endpoint.leave),
        ("network", "net", network.id, lambda: endpoint.join(cnm.create_sandbox("c2"))),
    ]
    for kind, name, identity, verb in verbs:
        with pytest.raises(NotFound) as raised:
            verb()
        assert f"{kind} {name!r} ({identity[:12]}) not found" == raised.value.message


def test_a_refresh_changes_what_it_is_told(cnm: Controller) -> None:
    """What is left out stays, an empty value takes away; the endpoint stays attached. Nothing bad is half done."""
    sandbox = cnm.create_sandbox(
        "c1",
        hostname="first",
        domain="example",
        dns=["192.0.2.1"],
        dns_search=["a.example"],
        dns_options=["ndots:2"],
        extra_hosts={"out": "192.0.2.9"},
        labels={"a": "1"},
    )
    cnm.create_network("net").create_endpoint("b").join(sandbox)
    before = sandbox.inspect()
    sandbox.refresh(hostname="second")
    assert {**before, "Hostname": "second"} == {**sandbox.inspect(), "Endpoints": before["Endpoints"]}
    assert ["b"] == [one.name for one in sandbox.endpoints]
    sandbox.refresh(dns=(), domain="", extra_hosts={}, labels={"b": "2"})
    after = sandbox.inspect()
    assert ("second", "", [], {}, {"b": "2"}) == tuple(
        after[key] for key in ("Hostname", "Domain", "Dns", "ExtraHosts", "Labels")
    )
    assert (("a.example",), ("ndots:2",)) == (sandbox._record.dns_search, sandbox._record.dns_options)
    for wrong in ({"hostname": ""}, {"dns": ["x"], "hostname": "third"}):
        with pytest.raises(Invalid):
            sandbox.refresh(**wrong)
    assert after == sandbox.inspect()


def test_inspect_and_live_objects_agree(cnm: Controller) -> None:
    """What a person reads and what a program reads is one thing."""
    network = cnm.create_network("net", subnets=["10.1.0.0/24"], labels={"a": "1"})
    endpoint = network.create_endpoint("a", aliases=["www"], ports=["8080:80"])
    endpoint.join(cnm.create_sandbox("c1"))
    shown = endpoint.inspect()
    assert (endpoint.id, endpoint.mac, ["www"]) == (shown["Id"], shown["MacAddress"], shown["Aliases"])
    assert [{"Port": "127.0.0.1:8080:80/tcp", "Reachable": "this host only"}] == shown["Ports"]
    assert {endpoint.id} == set(network.inspect()["Endpoints"])  # type: ignore[call-overload]  # a dict
    assert "c1" == cnm.sandbox("c1").inspect()["ContainerId"]
    assert (endpoint.addresses[0].ip,) == cnm.sandbox("c1").resolve_name("www")
