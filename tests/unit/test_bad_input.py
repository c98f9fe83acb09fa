"""Bad input, verb by verb: which argument is named, and that neither stores nor kernel have changed.

What each value means is tested beside its type; that no junk at all gets through, in ``simulation/test_junk.py``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from libcnm.controller.context import Settings
from libcnm.controller.controller import Controller
from libcnm.controller.doors import Paths
from libcnm.controller.network import Network
from libcnm.controller.registry import Registry
from libcnm.controller.sandbox import Sandbox
from libcnm.errors import AlreadyExists, CnmError, Forbidden, Invalid
from libcnm.model import limits, options
from libcnm.model.addresses import Subnet, mac_from_address
from libcnm.model.codec import encode
from libcnm.model.ports import Port
from libcnm.model.records import EndpointRecord, SandboxRecord
from libcnm.testing.world import FakeHost

NAN = float("nan")
ENDPOINT = EndpointRecord("e" * 64, "a", "a" * 64)
SANDBOX = SandboxRecord("5" * 64, "c", "", "b")


def shortly(value: object) -> str:
    return repr(value)[:20]


@pytest.fixture
def net(cnm: Controller) -> Network:
    return cnm.create_network("net", subnets=["10.1.0.0/24"])


@pytest.fixture
def box(cnm: Controller) -> Sandbox:
    return cnm.create_sandbox("box")


def refused(host: FakeHost, field: str, verb: Callable[..., object], /, *words: Any, **named: Any) -> CnmError:
    """It is Invalid, it says of which argument, and nothing was touched."""
    before = host.everything()
    with pytest.raises(Invalid) as raised:
        verb(*words, **named)
    assert raised.value.field.startswith(field), raised.value
    assert before == host.everything()
    return raised.value


# -- networks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [5, "10.9.0.0/24", b"x", ipaddress.ip_network("10.9.0.0/24"), (block for block in ["10.9.0.0/24"]), [()], [None],
     [5], [b"10.9.0.0/24"], {"10.9.0.0/24": 1}, ["10.9.0.0/0.0.0.255"], ["10.9.0.0/255.255.255.0"], ["10.9.0.0/32"],
     ["fd00::/128"], ["ipv4"] * 17, [Subnet("10.9.0.0/31", aux={"a": "10.9.0.1"})]],
    ids=repr,
)  # fmt: skip
def test_subnets(cnm: Controller, host: FakeHost, value: object) -> None:
    """A list of blocks in CIDR form, each with room for a gateway and an endpoint."""
    refused(host, "subnet", cnm.create_network, "x", subnets=value)
    refused(host, "subnet", cnm.ensure_network, "x", subnets=value)


def test_subnets_that_are_good(cnm: Controller) -> None:
    """None is none; a block and a Subnet are elements like their texts. A /31 has room for two (RFC 3021)."""
    assert 1 == len(cnm.create_network("a", subnets=None).subnets)
    block = ipaddress.ip_network("10.9.0.0/24")
    assert [block] * 2 == [cnm.ensure_network("b", subnets=[one]).subnets[0] for one in (block, Subnet("10.9.0.0/24"))]
    pair = cnm.create_network("c", subnets=["10.9.1.0/31"])
    assert "10.9.1.1/31" == str(pair.create_endpoint("a").addresses[0])


@pytest.mark.parametrize("value", ["a=b", ["a"], 5, {"a": 1}, {1: "a"}, {"": "x"}, {"a": "\ud800"}, {"\ud800": "a"},
                                   {"a": "x" * 5000}, {str(n): "x" for n in range(65)},
                                   {str(n): "x" * 4000 for n in range(9)}, {str(n): "\0" * 2000 for n in range(3)}],
                         ids=shortly)  # fmt: skip
@pytest.mark.parametrize("field", ["labels", "options"])
def test_labels_and_options(cnm: Controller, net: Network, host: FakeHost, field: str, value: object) -> None:
    """Mappings of texts, bounded in number, each and in all as they are stored; wherever they are taken."""
    refused(host, field, cnm.create_network, "x", **{field: value})
    refused(host, field, net.create_endpoint, "x", **{field: value})
    if field == "labels":
        refused(host, field, cnm.create_sandbox, "x", labels=value)


@pytest.mark.parametrize("value", ["no", 0, 1, None, "false", []], ids=repr)
def test_flags(cnm: Controller, net: Network, box: Sandbox, host: FakeHost, value: object) -> None:
    """True or False. "no" would be true, and force a deletion."""
    endpoint = net.create_endpoint("a")
    refused(host, "internal", cnm.create_network, "x", internal=value)
    refused(host, "host_network", cnm.create_sandbox, "x", host_network=value)
    refused(host, "keep_endpoints", box.delete, keep_endpoints=value)
    refused(host, "force", net.delete, force=value)
    refused(host, "force", endpoint.delete, force=value)


@pytest.mark.parametrize("prefix", ["lo", "tunl", "sit", "gre", "eth0", "a b", "", "a/b", "abcdefghijklmn"])
@pytest.mark.parametrize("driver", ["bridge", "overlay"])
def test_interface_prefixes(cnm: Controller, host: FakeHost, driver: str, prefix: str) -> None:
    """Not such as the kernel itself begins names with, in every namespace."""
    refused(host, "options", cnm.create_network, "x", driver, options={options.INTERFACE_PREFIX: prefix})


def test_an_overlay_that_is_not_encrypted(cnm: Controller) -> None:
    """To say so is not to ask for it."""
    assert cnm.create_network("x", "overlay", options={"encrypted": "false"}).driver == "overlay"


# -- endpoints ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("name", {"name": "x" * 64}), ("name", {"name": "a.."}), ("name", {"name": "a..b"}), ("name", {"name": None}),
        ("alias", {"aliases": ["x" * 64]}), ("alias", {"aliases": [5]}), ("aliases", {"aliases": "www"}),
        ("aliases", {"aliases": 5}), ("aliases", {"aliases": {"a": 1}}), ("aliases", {"aliases": iter(["a"])}),
        ("ports", {"ports": 80}), ("ports", {"ports": "80"}), ("port", {"ports": [True]}), ("port", {"ports": [80.5]}),
        ("port", {"ports": [None]}), ("port", {"ports": [b"80"]}), ("port", {"ports": ["224.0.0.1:8090:80"]}),
        ("port", {"ports": ["255.255.255.255:8090:80"]}), ("port", {"ports": ["0000080:00000443"]}),
        ("ports", {"ports": ["8090:80", "8090:81"]}), ("ports", {"ports": ["8090:80", "127.0.0.1:8090:81"]}),
        ("ports", {"ports": ["0.0.0.0:8090:80", "127.0.0.1:8090:81"]}),
        ("ports", {"ports": list(range(1, limits.PORTS_PER_ENDPOINT + 2))}),
        ("port", {"ports": ["[::1]:8090:80"]}),
        ("address", {"address": 5}), ("address", {"address": b"\n\1\0\5"}), ("address", {"address": [5]}),
        ("address", {"address": "10.2.0.1"}), ("address", {"address": {"10.1.0.7": 1}}),
        ("mac", {"mac": 5}), ("mac", {"mac": "01:00:5e:00:00:01"}), ("mac", {"mac": "00:00:00:00:00:00"}),
        ("mac", {"mac": "ff:ff:ff:ff:ff:ff"}), ("timeout", {"timeout": True}), ("timeout", {"timeout": NAN}),
        ("timeout", {"timeout": 0}), ("timeout", {"timeout": "1"}), ("timeout", {"timeout": 10**400}),
        ("request_id", {"request_id": 5}),
    ],
    ids=shortly,
)  # fmt: skip
def test_endpoints(net: Network, host: FakeHost, field: str, arguments: dict[str, Any]) -> None:
    """Each argument of one."""
    refused(host, field, net.create_endpoint, **{"name": "x", **arguments})


def test_endpoints_that_are_good(net: Network, box: Sandbox) -> None:
    """None is none; the longest label of DNS; one host port for two protocols, two addresses, or twice the same."""
    endpoint = net.create_endpoint("x" * 63, aliases=None, ports=None, address=None)
    assert ((), ()) == (endpoint.aliases, endpoint.ports)
    ports = ["8090:80", "8090:81/udp", "127.0.0.2:8090:82", "0.0.0.0:8090:82", "8091:80", "81"]
    net.create_endpoint("y", ports=ports[:3]).join(box)
    net.create_endpoint("z", ports=ports[3:4] + ports[2:3])


def test_ports_on_an_overlay(cnm: Controller, host: FakeHost) -> None:
    """On which host they will be bound is not known yet; what is known, is refused."""
    wide = cnm.create_network("wide", "overlay", subnets=["10.9.0.0/24"])
    for ports in (["8090:80", "8090:81"], ["0.0.0.0:8090:80", "127.0.0.1:8090:81"], ["[::1]:8090:80"]):
        refused(host, "port", wide.create_endpoint, "a", ports=ports)
    bare = cnm.create_network("bare", "overlay", ipam_driver="null")
    refused(host, "ports", bare.create_endpoint, "a", ports=[80])
    endpoint = wide.create_endpoint("a", ports=[f"{number}:{number}" for number in range(1, 25)])
    assert limits.PORTS_PER_ENDPOINT == len(endpoint.join(cnm.create_sandbox("c1"), request_id="r").ports)
    assert [] == cnm.doctor()


def test_as_many_ports_as_there_may_be(net: Network, box: Sandbox) -> None:
    """What is taken at creation can be joined: the limit is the transaction's."""
    endpoint = net.create_endpoint("a", ports=[f"{number}:{number}" for number in range(1, 25)])
    assert limits.PORTS_PER_ENDPOINT == len(endpoint.join(box, request_id="r").ports)


def test_chosen_ports_differ(net: Network, box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one endpoint from each other and from those that were asked for, wherever chance begins."""
    monkeypatch.setattr("libcnm.controller.port_claims._DYNAMIC_LAST", 49155)
    endpoint = net.create_endpoint("a", ports=["80", "81", "49152:82", "83"]).join(box)
    assert {49152, 49153, 49154, 49155} == {port.host_port for port in endpoint.ports}


@pytest.mark.parametrize("driver", ["bridge", "overlay"])
def test_the_gateways_mac_is_taken(cnm: Controller, host: FakeHost, driver: str) -> None:
    """Who had it would draw all that leaves the network."""
    network = cnm.create_network("x", driver, subnets=["10.9.0.0/24"])
    before = host.everything()
    with pytest.raises(AlreadyExists, match="the gateway of network x"):
        network.create_endpoint("a", mac=mac_from_address(network.gateways[0]).upper())
    assert before == host.everything()


def test_a_mac_that_follows_from_an_address_is_not_the_gateways(cnm: Controller) -> None:
    """An IPv6 gateway's last four octets may be an IPv4 address of the same network."""
    network = cnm.create_network("x", subnets=[Subnet("fd00::/64", gateway="fd00::a09:5"), "10.9.0.0/24"])
    taken = mac_from_address(network.gateways[0])
    assert "02:42:0a:09:00:05" == taken
    assert taken != network.create_endpoint("a", address="10.9.0.5").mac


def test_names_are_one_whatever_their_case(net: Network, host: FakeHost) -> None:
    """DNS compares so (RFC 4343): which of the two would "web" be?"""
    web = net.create_endpoint("Web")
    before = host.everything()
    with pytest.raises(AlreadyExists, match=web.id[:12]):
        net.create_endpoint("wEB")
    assert before == host.everything()
    web.delete()
    assert "wEB" == net.create_endpoint("wEB").name


@pytest.mark.parametrize("priority", [True, None, "1", 1.0, NAN, limits.PRIORITY_MAX + 1], ids=repr)
def test_priorities(net: Network, box: Sandbox, host: FakeHost, priority: object) -> None:
    """An integer; with any other, a record would be written that nobody can read."""
    refused(host, "priority", net.create_endpoint("a").join, box, priority=priority)


@pytest.mark.parametrize("value", ["box", 5, object()], ids=["text", "number", "object"])
def test_what_is_no_sandbox(net: Network, box: Sandbox, host: FakeHost, value: object) -> None:
    """To join or to leave."""
    endpoint = net.create_endpoint("a")
    refused(host, "sandbox", endpoint.join, value)
    refused(host, "sandbox", endpoint.join(box).leave, value)


# -- sandboxes ---------------------------------------------------------------------------------------------------------

SETTINGS: dict[str, tuple[Any, ...]] = {
    "dns": ("10.0.0.1", b"x", 5, [5], [b"\n\0\0\1"], ["ff02::1"], ["0.0.0.0"], ["x"], ["255.255.255.255"],
            ["127.0.0.11"], ["10.0.0.1"] * 17),
    "dns_search": ("abc", 5, [5], ["a b"], ["a"] * 33),
    "dns_options": ("rotate", 5, [5], ["a" * 70_000], ["NDOTS:1"], ["ndots:x"], ["a b"], ["a"] * 33),
    "extra_hosts": (["a:10.0.0.1"], 5, {"a": 5}, {"a b": "10.0.0.1"}, {1: "10.0.0.1"},
                    {f"h{n}": "10.0.0.1" for n in range(513)}),
    "hostname": (5, b"x", False, "a b", ".".join(["x" * 32] * 2)),
    "domain": (5, [], "a b"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in SETTINGS.items() for value in values], ids=shortly
)
def test_sandboxes(cnm: Controller, box: Sandbox, host: FakeHost, field: str, value: object) -> None:
    """Each setting, at creation and afterwards: no file is written, no namespace made."""
    refused(host, field, cnm.create_sandbox, "x", **{field: value})
    refused(host, field, box.refresh, **{field: value})
    if field == "hostname":
        refused(host, field, box.rename, value)


@pytest.mark.parametrize("value", [5, "x", "", "/a\0b", "/\ud800", "/" + "x" * 5000, b"/x"],
                         ids=shortly)  # fmt: skip
def test_namespaces_paths(cnm: Controller, host: FakeHost, value: object) -> None:
    """An absolute path that Linux could be told."""
    refused(host, "netns", cnm.create_sandbox, "x", netns=value)


def test_a_name_is_no_longer_than_dns_with_its_domain(cnm: Controller, host: FakeHost) -> None:
    """Also when the host name alone changes."""
    domain = ".".join(["y" * 60] * 4)
    box = cnm.create_sandbox("x", domain=domain)
    refused(host, "hostname and domain", box.rename, "h" * 20)
    refused(host, "hostname and domain", cnm.create_sandbox, "h" * 20, domain=domain)


def test_a_sandbox_with_as_much_as_there_may_be(cnm: Controller, net: Network) -> None:
    """What passes the limits fits into a transaction, and can be read again."""
    long = ".".join(["x" * 60] * 4)
    box = cnm.create_sandbox(
        "a" * 64,
        dns=["2001:db8:1111:2222:3333:4444:5555:6666"] * limits.DNS_SERVERS,
        dns_search=[long] * limits.DNS_SEARCH,
        dns_options=["o" * limits.DNS_OPTION_CHARS] * limits.DNS_OPTIONS,
        extra_hosts={f"h{n}.{long}": "2001:db8:1111:2222:3333:4444:5555:6666" for n in range(limits.EXTRA_HOSTS)},
        labels={str(n): "\0" * 600 for n in range(9)},
    )
    assert limits.EXTRA_HOSTS == len(dict(cnm.sandbox("a" * 64).inspect()["ExtraHosts"]))  # type: ignore[call-overload]
    net.create_endpoint("a").join(box)
    box.delete()


@pytest.mark.parametrize("name", [None, 5, b"x", ["x"]], ids=repr)
def test_names_to_resolve(box: Sandbox, host: FakeHost, name: object) -> None:
    """A text; of one that nobody can have, nothing is known."""
    refused(host, "name", box.resolve_name, name)
    assert () == box.resolve_name("x" * 300)


@pytest.mark.parametrize("argv", [[], (), None, "ping", b"ping", 5, [5], [None], ["a\0b"], ["\ud800"], {"a": 1}],
                         ids=repr)  # fmt: skip
def test_commands(box: Sandbox, host: FakeHost, argv: object) -> None:
    """A list of arguments that names a program."""
    refused(host, "argv", box.run, argv)
    refused(host, "argv", box.popen, argv)


@pytest.mark.parametrize(("field", "value"), [("timeout", True), ("timeout", "1"), ("timeout", NAN), ("timeout", -1),
                                              ("input", 5), ("input", ["x"])])  # fmt: skip
def test_what_a_command_is_given(box: Sandbox, host: FakeHost, field: str, value: object) -> None:
    """Refused before the program is started."""
    refused(host, field, box.run, ["true"], **{field: value})


# -- the controller ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("default_host_ips", value) for value in (None, 5, "127.0.0.1", [5], ["224.0.0.1"], ["x"],
                                                    ["127.0.0.1"] * 17)],
        *[("cluster_store", value) for value in (5, b"sqlite:///x")],
        *[("timeout", value) for value in (True, None, NAN, 0, -1, "1", 10**400, float("inf"))],
        *[("guardian", value) for value in ("x", True, 0, -1, 1.5, 2**40)],
        *[("state_dir", value) for value in (5, None, "x", "/mnt/\ud800", "/a\0b", "/" + "x" * 5000, b"/x")],
        *[("run_dir", value) for value in (5, None, "x", "/mnt/\ud800")],
        *[("advertise", value) for value in (5, "x", "127.0.0.1", b"\n\0\0\1")],
        ("resident", True), ("host", 5), ("host", "a b"),
    ],
    ids=shortly,
)  # fmt: skip
def test_controllers(cnm: Controller, host: FakeHost, field: str, value: object) -> None:
    """Each argument; the secret in a store's URL is not shown."""
    good: dict[str, Any] = {
        "state_dir": host.paths.state_dir, "run_dir": host.paths.run_dir, "host": host.name, "resident": "off",
    }  # fmt: skip
    error = refused(host, field, Controller, **{**good, field: value}, doors=host.doors(), registry=Registry())
    assert "sqlite:///x" not in str(error)


def test_settings_keep_the_secret_of_a_stores_url() -> None:
    """They stand in tracebacks with local variables, and in whatever shows an object whole."""
    url = "consul://user:hunter2@192.0.2.1:8500"
    settings = Settings(Paths("/a", "/b"), cluster_store=url)
    assert (url, False) == (settings.cluster_store, "hunter2" in repr(settings))


@pytest.mark.parametrize("value", [None, 5, "x"])
def test_plans(cnm: Controller, host: FakeHost, value: object) -> None:
    """A plan needs something to rehearse."""
    refused(host, "rehearse", cnm.plan, value)


def test_paths_are_told_apart() -> None:
    """The two folders of an installation."""
    with pytest.raises(Invalid, match="state_dir too"):
        Paths.checked("/a/b", "/a/../a/b")


# -- the null IPAM -----------------------------------------------------------------------------------------------------


def test_a_network_without_addresses_has_no_subnet(cnm: Controller, net: Network, box: Sandbox, host: FakeHost) -> None:
    """Whose addresses are somebody else's business: it overlaps nothing, asks for no firewall rule about "everything",
    and its endpoints are links with a MAC.
    """
    wire = cnm.create_network("wire", ipam_driver="null")
    assert () == wire.subnets
    assert {"Driver": "null", "Config": []} == wire.inspect()["IPAM"]
    net.create_endpoint("a").join(box)
    plain = wire.create_endpoint("b").join(box)
    assert ((), "eth1") == (plain.addresses, plain.interface)
    assert plain.mac.startswith("02:42:")
    assert [] == cnm.doctor()
    refused(host, "address", wire.create_endpoint, "c", address="10.9.0.5")
    refused(host, "ports", wire.create_endpoint, "c", ports=[80])
    assert [] == [line for line in host.everything() if "subnets4" in line and "0.0.0.0/0" in line]
    plain.leave()
    wire.delete(force=True)
    assert [] == cnm.doctor()


# -- the belt ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "field", "value"),
    [
        (ENDPOINT, "created", True), (ENDPOINT, "aliases", "www"), (ENDPOINT, "ports", ("80",)),
        (ENDPOINT, "mac", b"x"), (ENDPOINT, "addresses", ("10.0.0.1/8",)), (ENDPOINT, "labels", {"a": 1}),
        (ENDPOINT, "name", None), (ENDPOINT, "attachment", "c1"), (SANDBOX, "device", 1.5), (SANDBOX, "inode", True),
        (SANDBOX, "source", 5), (SANDBOX, "dns", ("ff02::1",)), (SANDBOX, "extra_hosts", {"a": None}),
        (SANDBOX, "extra_hosts", [("a", "b")]), (SANDBOX, "labels", {1: "a"}),
    ],
    ids=shortly,
)  # fmt: skip
def test_what_could_not_be_read_is_not_written(record: Any, field: str, value: object) -> None:
    """Third parties have their part in what verbs write: a wrong type is found before the commit, too."""
    with pytest.raises(Invalid):
        encode(attrs.evolve(record, **{field: value}))


def test_a_record_is_not_written_where_it_does_not_belong() -> None:
    """It would not be believed there."""
    with pytest.raises(Invalid, match="belongs"):
        encode(ENDPOINT, "endpoint/x/y")


def test_a_port_is_what_it_was_asked_for(net: Network, box: Sandbox, cnm: Controller) -> None:
    """Made by hand, with its address as text; stored, bound, and read again by another process."""
    endpoint = net.create_endpoint("a", ports=[Port(80, 8080, host_address="127.0.0.1")]).join(box)
    assert [Port.of("127.0.0.1:8080:80")] == list(cnm.network("net").endpoint("a").ports) == list(endpoint.ports)


def test_an_installation_has_one_run_dir(host: FakeHost) -> None:
    """Two processes in two of them would each take the other for dead."""
    with host.controller():
        pass
    elsewhere = {"state_dir": host.paths.state_dir, "run_dir": host.paths.run_dir + "-2"}
    with pytest.raises(Forbidden, match="at work in"):
        Controller(**elsewhere, resident="off", doors=host.doors(), registry=Registry())  # type: ignore[arg-type]
