"""Networks and endpoints through the public verbs, on fakes: what is refused, in which words; refusals change nothing.

The case names follow libnetwork's own tests where it has them.
"""

from __future__ import annotations

import pytest

from libcnm.controller.controller import Controller
from libcnm.errors import (
    AlreadyExists,
    Ambiguous,
    CnmError,
    Exhausted,
    Forbidden,
    InUse,
    Invalid,
    NotFound,
    NotSupported,
)
from libcnm.kernel.resources import Route
from libcnm.model.addresses import Subnet
from libcnm.testing.world import FakeHost, FakeWorld

# -- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (Invalid, {"name": "a/b"}), (Invalid, {"subnets": "10.1.0.0/24"}), (Invalid, {"subnets": ["10.1.0.1/24"]}),
        (Invalid, {"subnets": ["10.1.0.0/24", "10.1.0.128/25"]}), (Invalid, {"subnets": ["ipv4"] * 17}),
        (Invalid, {"options": {"no.such": "1"}}), (Invalid, {"labels": {"a": 1}}), (Invalid, {"timeout": 0}),
        (Invalid, {"timeout": "soon"}), (Invalid, {"request_id": "a b"}), (Invalid, {"driver": "a/b"}),
        (NotFound, {"driver": "no-such"}), (NotFound, {"ipam_driver": "no-such"}),
        (Invalid, {"driver": "null", "subnets": ["10.1.0.0/24"]}), (NotSupported, {"driver": "overlay",
                                                                     "options": {"encrypted": ""}}),
        (AlreadyExists, {"subnets": ["192.0.2.0/25"]}),
    ],
    ids=str,
)  # fmt: skip
def test_a_network_that_cannot_be(
    cnm: Controller, host: FakeHost, kind: type[CnmError], arguments: dict[str, object]
) -> None:
    """A typed error before anything is touched."""
    host.refuses(kind, lambda: cnm.create_network(**{"name": "net", **arguments}))  # type: ignore[arg-type]


def test_network_name(cnm: Controller, host: FakeHost) -> None:
    """A name is taken once on a host, and the error says who has it."""
    first = cnm.create_network("net")
    error = host.refuses(AlreadyExists, lambda: cnm.create_network("net"))
    assert first.id.startswith(vars(error)["holder"])
    assert "another name" in str(error.hint)


def test_overlapping_pools_name_the_holder(cnm: Controller, host: FakeHost) -> None:
    """Networks of one host do not share addresses, nor do they take the host's own."""
    first = cnm.create_network("net", subnets=["10.1.0.0/24"])
    error = host.refuses(AlreadyExists, lambda: cnm.create_network("other", subnets=["10.1.0.128/25"]))
    assert first.id[:12] in str(error)
    assert "eth0" in str(host.refuses(AlreadyExists, lambda: cnm.create_network("x", subnets=["192.0.2.0/24"])))


@pytest.mark.parametrize("driver", ["null", "host"])
def test_only_one_null_or_host_network(cnm: Controller, host: FakeHost, driver: str) -> None:
    """libnetwork: "only one instance of this network is allowed"."""
    cnm.create_network("net", driver)
    assert "only one" in str(host.refuses(Forbidden, lambda: cnm.create_network("again", driver)))


def test_delete_network_with_active_endpoints(cnm: Controller, other: Controller, host: FakeHost) -> None:
    """InUse names each endpoint, its container and its host, and says what to do: what helps where it is said."""
    network = cnm.create_network("net", "overlay")
    network.create_endpoint("idle")
    assert "delete(force=True)" in str(host.refuses(InUse, network.delete))
    theirs = other.network("net").create_endpoint("busy")
    theirs.join(other.create_sandbox("c2"))
    error = host.refuses(InUse, network.delete)
    text = str(error)
    assert "endpoint idle (" in text
    assert "endpoint busy (" in text
    assert "in container c2 on host two" in text
    assert "only their own host can" in text
    error = host.refuses(InUse, lambda: network.delete(force=True))
    assert "endpoint busy in container c2 on host two" in str(error)


def test_unknown_network(cnm: Controller) -> None:
    """Every verb of a deleted network says NotFound, with its name or id."""
    network = cnm.create_network("net")
    network.delete()
    for verb in (network.inspect, network.delete, lambda: network.create_endpoint("a"), lambda: cnm.network("net")):
        with pytest.raises(NotFound):
            verb()
    assert [] == cnm.networks()


def test_controller_query(cnm: Controller) -> None:
    """By name, by id, by the beginning of an id; a name wins over the beginning of an id."""
    one = cnm.create_network("net")
    assert one == cnm.network("net") == cnm.network(one.id) == cnm.network(one.id[:7])
    named = cnm.create_network(one.id[:7])
    assert named == cnm.network(one.id[:7])
    with pytest.raises(Invalid):
        cnm.network("")
    with pytest.raises(NotFound):
        cnm.network(one.id + "0")


def test_one_name_in_two_scopes_is_ambiguous(cnm: Controller) -> None:
    """Both are listed with their scopes; an id tells them apart."""
    local, wide = cnm.create_network("net"), cnm.create_network("net", "overlay")
    with pytest.raises(Ambiguous) as raised:
        cnm.network("net")
    assert {f"{local.id[:12]} (local)", f"{wide.id[:12]} (global)"} == set(raised.value.candidates)
    assert local == cnm.network(local.id)


def test_global_networks_need_a_shared_store(world: FakeWorld) -> None:
    """And the error shows how to name one."""
    import attrs

    host = world.host("one")
    with host.controller(doors=attrs.evolve(host.doors(), cluster=None)) as alone:
        with pytest.raises(NotSupported, match="cluster_store="):
            alone.create_network("net", "overlay")
        assert [] == alone.networks()


def test_two_hosts_of_one_name(world: FakeWorld, cnm: Controller) -> None:
    """They would free each other's attachments: the second is refused at its first use of the cluster."""
    cnm.create_network("net", "overlay")
    imposter = world.host("two")
    imposter.name = "one"
    with imposter.controller() as second, pytest.raises(AlreadyExists, match="host="):
        second.create_network("x", "overlay")


# -- ensure_network --------------------------------------------------------------------------------------------------


def test_ensure_gives_the_equal_one(cnm: Controller) -> None:
    """As described, or without saying which subnets."""
    made = cnm.ensure_network("net", subnets=["10.1.0.0/24"], labels={"a": "1"})
    assert made == cnm.ensure_network("net", subnets=["10.1.0.0/24"], labels={"a": "1"})
    assert made == cnm.ensure_network("net", labels={"a": "1"})
    assert made == cnm.ensure_network("net", subnets=["ipv4"], labels={"a": "1"})
    assert 1 == len(cnm.networks())


def test_ensure_compares_what_is_meant(cnm: Controller) -> None:
    """IP versions in any order, options in any notation. Among subnets of one version the first comes first."""
    mtu, icc = "com.docker.network.driver.mtu", "com.docker.network.bridge.enable_icc"
    made = cnm.ensure_network("net", subnets=["fd01::/64", "10.7.0.0/24"], options={mtu: "1400", icc: "true"})
    assert made == cnm.ensure_network("net", subnets=["10.7.0.0/24", "fd01::/64"], options={icc: "1", mtu: "01400"})
    two = cnm.ensure_network("two", subnets=["10.8.0.0/24", "10.9.0.0/24"], labels={"a": "1"})
    assert two == cnm.ensure_network("two", subnets=["10.8.0.0/24", "10.9.0.0/24"], labels={"a": "1"})
    for different in (
        {"subnets": ["10.9.0.0/24", "10.8.0.0/24"], "labels": {"a": "1"}},
        {"labels": {"a": "01"}},
    ):
        with pytest.raises(AlreadyExists):
            cnm.ensure_network("two", **different)
    with pytest.raises(AlreadyExists, match="options"):
        cnm.ensure_network("net", options={icc: "maybe", mtu: "1400"})


@pytest.mark.parametrize(
    ("differing", "arguments"),
    [
        (["driver"], {"driver": "null", "subnets": ()}),
        (["internal"], {"internal": True}),
        (["labels"], {"labels": {"a": "1"}}),
        (["options"], {"options": {"com.docker.network.driver.mtu": "1400"}}),
        (["ipam_driver"], {"ipam_driver": "null"}),
        (["subnets"], {"subnets": ["10.1.1.0/24"]}),
        (["subnets"], {"subnets": ["10.1.0.0/24", "ipv6"]}),
        (["subnets"], {"subnets": [Subnet("10.1.0.0/24", gateway="10.1.0.9")]}),
        (["subnets"], {"subnets": [Subnet("10.1.0.0/24", range="10.1.0.0/25")]}),
        (["subnets"], {"subnets": [Subnet("10.1.0.0/24", aux={"x": "10.1.0.7"})]}),
        (["internal", "labels"], {"internal": True, "labels": {"a": "1"}}),
    ],
    ids=str,
)
def test_ensure_names_the_differences(
    cnm: Controller, host: FakeHost, differing: list[str], arguments: dict[str, object]
) -> None:
    """Each field in which the network that is there differs."""
    cnm.create_network("net", subnets=["10.1.0.0/24"])
    wanted = {"subnets": ["10.1.0.0/24"], **arguments}
    error = host.refuses(AlreadyExists, lambda: cnm.ensure_network("net", **wanted))  # type: ignore[arg-type]
    assert tuple(differing) == vars(error)["differences"]


# -- endpoints -------------------------------------------------------------------------------------------------------


def test_duplicate_endpoint(cnm: Controller, host: FakeHost) -> None:
    """Unique within its network; another network may have the same name."""
    network, second = cnm.create_network("net"), cnm.create_network("other")
    first = network.create_endpoint("web")
    error = host.refuses(AlreadyExists, lambda: network.create_endpoint("web"))
    assert ("endpoint", first.id[:12]) == (vars(error)["kind"], vars(error)["holder"])
    second.create_endpoint("web")
    full = cnm.create_network("full", subnets=["10.1.0.0/30"])
    full.create_endpoint("web")
    for address in (None, "10.1.0.2", "10.1.0.3"):
        error = host.refuses(AlreadyExists, lambda: full.create_endpoint("web", address=address))  # noqa: B023
        assert "endpoint" == vars(error)["kind"], "the name is looked at before the address"


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (Invalid, {"name": ""}), (Invalid, {"aliases": "www"}), (Invalid, {"aliases": ["a b"]}),
        (Invalid, {"ports": "80"}), (Invalid, {"ports": ["0"]}), (NotSupported, {"ports": ["80/sctp"]}),
        (Invalid, {"address": "10.9.0.5"}), (Invalid, {"address": ["10.1.0.5", "10.1.0.6"]}),
        (Invalid, {"address": "10.1.0.0"}), (Invalid, {"address": "10.1.0.7"}), (Invalid, {"address": "fd00::1"}),
        (AlreadyExists, {"address": "10.1.0.1"}), (Invalid, {"mac": "x"}), (Invalid, {"mac": "01:00:00:00:00:01"}),
        (Invalid, {"options": {"no.such": ""}}), (Invalid, {"labels": {"": ""}}),
    ],
    ids=str,
)  # fmt: skip
def test_an_endpoint_that_cannot_be(
    cnm: Controller, host: FakeHost, kind: type[CnmError], arguments: dict[str, object]
) -> None:
    """A typed error before anything is touched."""
    network = cnm.create_network("net", subnets=["10.1.0.0/29"])
    host.refuses(kind, lambda: network.create_endpoint(**{"name": "web", **arguments}))  # type: ignore[arg-type]


def test_claims_are_told_apart(cnm: Controller, host: FakeHost) -> None:
    """Address and MAC: which of them is taken, and by whom."""
    network = cnm.create_network("net", subnets=["10.1.0.0/29"])
    first = network.create_endpoint("a", address="10.1.0.5", mac="02:00:00:00:00:01")
    error = host.refuses(AlreadyExists, lambda: network.create_endpoint("b", address="10.1.0.5"))
    assert "address" == vars(error)["kind"]
    assert first.id[:12] in str(error)
    error = host.refuses(AlreadyExists, lambda: network.create_endpoint("b", mac="02:00:00:00:00:01"))
    assert "MAC" == vars(error)["kind"]
    assert first.id[:12] in str(error)


def test_a_mac_that_somebody_chose_does_not_block_an_address(cnm: Controller) -> None:
    """The MAC that follows from the next address is taken: the endpoint gets another one."""
    network = cnm.create_network("net", subnets=["10.1.0.0/29"])
    network.create_endpoint("a", address="10.1.0.5", mac="02:42:0a:01:00:02")
    for last in (3, 4, 6):
        network.create_endpoint(f"x{last}", address=f"10.1.0.{last}")
    second = network.create_endpoint("b")
    assert "10.1.0.2/29" == str(second.addresses[0])
    assert "02:42:0a:01:00:02" != second.mac


def test_a_full_subnet_is_not_a_full_network(cnm: Controller) -> None:
    """libnetwork goes on to the next pool; when all are full, each is named."""
    network = cnm.create_network("net", subnets=["10.1.0.0/30", "10.2.0.0/30"])
    got = [str(network.create_endpoint(name).addresses[0]) for name in ("a", "b")]
    assert ["10.1.0.2/30", "10.2.0.2/30"] == got
    with pytest.raises(Exhausted, match=r"10\.1\.0\.0/30.*10\.2\.0\.0/30"):
        network.create_endpoint("c")


@pytest.mark.parametrize("taken", ["10.1.0.2", "fd01::2"])
def test_an_address_that_was_chosen_scatters_no_others(cnm: Controller, taken: str) -> None:
    """The search goes on behind it, and in the other version as if nothing had been in the way."""
    network = cnm.create_network("net", subnets=["10.1.0.0/24", "fd01::/64"])
    network.create_endpoint("chosen", address=taken)
    rest = [network.create_endpoint(f"e{number}").addresses for number in range(3)]
    first = next(one.ip for one in network.endpoint("chosen").addresses if str(one.ip) != taken)
    assert str(first) in ("10.1.0.2", "fd01::2")
    assert [[f"10.1.0.{n}/24", f"fd01::{n}/64"] for n in (3, 4, 5)] == [list(map(str, each)) for each in rest]


def test_the_way_out_of_the_second_subnet(cnm: Controller, host: FakeHost) -> None:
    """Its sandbox's default route goes through its own subnet's gateway, the only one it can reach."""
    network = cnm.create_network("net", subnets=["10.1.0.0/30", "10.2.0.0/29"])
    network.create_endpoint("a", address="10.2.0.3").join(cnm.create_sandbox("c1"))
    routes = [one.resource for one in host.kernel.everything() if isinstance(one.resource, Route) and one.resource.via]
    assert ["10.2.0.1"] == [str(route.via) for route in routes]


def test_an_address_is_free_again(cnm: Controller) -> None:
    """Deleted with its endpoint, also the only one there was."""
    network = cnm.create_network("net", subnets=["10.1.0.0/30"])
    for _ in range(3):
        network.create_endpoint("a").delete()
    assert "10.1.0.2/30" == str(network.create_endpoint("b").addresses[0])


def test_null_and_host_endpoints_have_no_address(cnm: Controller, host: FakeHost) -> None:
    """And asking for one is Invalid, not silently forgotten."""
    for driver in ("null", "host"):
        network = cnm.create_network(driver, driver)
        assert ((), "") == ((one := network.create_endpoint("a")).addresses, one.mac)
        for arguments in ({"address": "10.1.0.5"}, {"mac": "02:00:00:00:00:01"}, {"ports": ["80"]}):
            host.refuses(Invalid, lambda: network.create_endpoint("b", **arguments))  # noqa: B023
