"""What a stored record must mean to be believed: values of the right type that no verb would write are Corrupt."""

from __future__ import annotations

import inspect
import ipaddress
import json
from typing import Any

import attrs
import pytest
from hypothesis import given

from libcnm.errors import Corrupt, Invalid
from libcnm.model import checks, keys, limits, records
from libcnm.model.addresses import Subnet
from libcnm.model.codec import decode, encode
from libcnm.model.pool import Pool
from libcnm.model.ports import Port
from libcnm.model.records import (
    Attachment,
    EndpointRecord,
    HostClaim,
    HostSetting,
    Installation,
    Intent,
    LedgerLine,
    Mark,
    NameClaim,
    NetworkRecord,
    PortClaim,
    Presence,
    RequestNote,
    SandboxRecord,
)
from libcnm.testing.records import KINDS, key_of
from libcnm.testing.records import records as any_records

NET, END, BOX, OPERATION = "a" * 64, "e" * 64, "5" * 64, "0f" * 16
POOL = Pool(
    f"{NET}.0", "global", ipaddress.ip_network("10.1.0.0/24"), None, ipaddress.ip_address("10.1.0.1"),
    {"router": ipaddress.ip_address("10.1.0.9")},
)  # fmt: skip
PLACE = Attachment(
    "two", BOX, "c1", BOX[:12], "eth0", "web", 3, ipaddress.ip_address("192.0.2.12"), (Port(80, 8080),), "ready",
    OPERATION, "r1", "boot-1",
)  # fmt: skip
NETWORK = NetworkRecord(
    NET, "blue", "overlay", "global", (POOL,), options={"x": "y"}, labels={"a": "b"}, created=1.5, vni=300,
    operation=OPERATION, mark=Mark(OPERATION, "two"),
)  # fmt: skip
ENDPOINT = EndpointRecord(
    END, "web", NET, (ipaddress.ip_interface("10.1.0.5/24"),), "02:42:0a:01:00:05", ("www",), (Port(80),),
    created=1.5, attachment=PLACE, operation=OPERATION,
)  # fmt: skip
SANDBOX = SandboxRecord(
    BOX, "c1", BOX[:12], "boot-1", 4, 4026531840, None, "web", "example", ("192.0.2.53",), ("example.org",),
    ("ndots:2",), {"db": "192.0.2.7"}, {"a": "b"}, 1.5,
)  # fmt: skip
NOTE = RequestNote("r1", "join", "endpoint 'web' of network 'blue'", "d" * 64, BOX, "done", 1.5, "boot-1")
INTENT = Intent(OPERATION, "join", "global", (NET, END, "driver-overlay"), NET, END, BOX, PLACE, 1.5, "boot-1", NOTE)
GOOD: dict[str, Any] = {
    "network": NETWORK, "endpoint": ENDPOINT, "sandbox": SANDBOX, "attachment": PLACE, "intent": INTENT,
    "presence": Presence(NET, 3, boot_id="boot-1"), "ports": PortClaim({"127.0.0.1": END, "::": END}),
    "installation": Installation(NET, "two", 1.5), "setting": HostSetting("net/ipv4/ip_forward", "0", "boot-1"),
    "request": NOTE, "host": HostClaim("two", NET, "192.0.2.12"),
    "mark": Mark(OPERATION, "two"), "claim": NameClaim(END, OPERATION),
}  # fmt: skip

PATHS = ("../../etc", "/", "a/b", "a\nb", "a b", "ä", "\0", "-x", ".", "x" * 300)
NO_IDS: tuple[object, ...] = ("", "A" * 64, "a" * 63, "a" * 65, f"{'a' * 64}\n", "g" * 64, *PATHS)
NO_NAMES: tuple[object, ...] = ("", *PATHS)
NO_HOSTNAMES: tuple[object, ...] = ("a..b", "a.", "-a", "x" * 64, "a\nnameserver 192.0.2.66", "a b", "ä")
NO_MACS: tuple[object, ...] = (
    "", "02-42-0A-01-00-05", "02:42:0A:01:00:05", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00",
    "02:42:0a:01:00", "02:42:0a:01:00:05:06", "x", "02:42:0a:01:00:05\n",
)  # fmt: skip
NO_UNICAST: tuple[object, ...] = (
    "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1", "fe80::1", "fd00::1%eth0",
    "::ffff:192.0.2.1",
)  # fmt: skip
NO_SECONDS: tuple[object, ...] = (-1.0, 1e300, 10**400, True, limits.EPOCH_SECONDS_MAX + 1)
MANY = {str(number): "x" for number in range(limits.LABELS + 1)}


def _pool(**changes: object) -> list[dict[str, object]]:
    return [{"id": f"{NET}.0", "space": "global", "subnet": "10.1.0.0/24", **changes}]


BAD: dict[str, dict[str, tuple[object, ...]]] = {
    "network": {
        "id": NO_IDS, "name": NO_NAMES, "driver": NO_NAMES, "ipam_driver": NO_NAMES, "vni": (0, -1, 2**24),
        "created": NO_SECONDS, "operation": ("x", "0F" * 16, "0f" * 15), "labels": (MANY, {"": "x"}, {"a": "x" * 5000}),
        "options": (MANY, {"": "x"}), "mark": ({"operation": OPERATION, "host": "../x"},
                                               {"operation": "/", "host": "two"}),
        "pools": (
            _pool() * (limits.SUBNETS_PER_NETWORK + 1), _pool(id="../x"), _pool(space="a/b"),
            _pool(gateway="10.2.0.1"), _pool(gateway="fd00::1"), _pool(range="10.2.0.0/25"), _pool(range="fd00::/64"),
            _pool(range="10.0.0.0/8"), _pool(aux={"a": "10.2.0.1"}), _pool(aux={"x" * 5000: "10.1.0.7"}),
            _pool(aux={str(number): "10.1.0.7" for number in range(61)}),
            *(_pool(subnet=block) for block in ("127.0.0.0/24", "224.0.0.0/8", "fe80::/64", "0.0.0.0/1", "ff00::/8")),
        ),
    },
    "endpoint": {
        "id": NO_IDS, "network_id": NO_IDS, "name": NO_NAMES, "mac": NO_MACS, "operation": ("x",),
        "aliases": (["a/b"], [""], ["x"] * (limits.ALIASES + 1)), "created": NO_SECONDS,
        "addresses": (*([f"{address}/24"] for address in NO_UNICAST), ["10.1.0.5/24"] * 17),
        "ports": ([{"port": 0}], [{"port": 65536}], [{"port": 80, "host_port": -1}], [{"port": 80, "protocol": "x"}],
                  [{"port": 80, "host_address": "fe80::1%eth0"}], [{"port": 80}] * (limits.BOUND_PORTS + 1)),
        "labels": (MANY,), "options": (MANY,),
    },
    "attachment": {
        "host": NO_NAMES, "sandbox_id": NO_IDS, "container_id": NO_NAMES, "hostname": NO_HOSTNAMES,
        "namespace": ("x", "../../proc/1/ns/net", "1-aaaaaaaaaa", "5" * 11, "5" * 64, "a" * 12),
        "interface": ("lo", "all", "default", "eth", "0", "a/b0", "../0", "eth0\n", "e" * 15 + "0", "eth 0", "é0"),
        "priority": (10**7, -(10**7)), "vtep": NO_UNICAST, "operation": ("x",), "request_id": PATHS, "boot_id": PATHS,
        "ports": ([{"port": 80}] * (limits.BOUND_PORTS + 1),), "state": ("gone",),
    },
    "sandbox": {
        "id": NO_IDS, "container_id": NO_NAMES, "namespace": ("x", "../x", "a" * 12), "boot_id": PATHS,
        "source": ("relative", "/a\0b", ""), "hostname": NO_HOSTNAMES, "domain": NO_HOSTNAMES,
        "dns": (["x"], ["fe80::1%eth0"]), "dns_search": (["a b"],), "dns_options": ([""], ["a b"], ["a\n"]),
        "extra_hosts": ({"a b": "192.0.2.1"}, {"a": "x"}), "labels": (MANY,), "created": NO_SECONDS,
    },
    "intent": {
        "operation": ("", "x", "../x"), "verb": ("", "join\n", "../x", "J"), "locks": (["../x"], ["x"] * 9),
        "network_id": ("x",), "endpoint_id": ("x",), "sandbox_id": ("x",), "started": NO_SECONDS, "boot_id": PATHS,
        "attachment": ({**json.loads(encode(PLACE)), "interface": "lo"},),
        "request": ({**json.loads(encode(NOTE)), "id": "a/b"},),
    },
    "presence": {"network_id": NO_IDS, "epoch": (-1, 2**31), "boot_id": PATHS},
    "ports": {"holders": ({"127.0.0.1": "x"}, {"a b": END}, {"../": END})},
    "installation": {"id": NO_IDS, "host": NO_NAMES, "created": NO_SECONDS},
    "setting": {
        "key": ("", "net", "/net/x", "net/../x", "net//x", "net/x\n", "net/" + "x" * 300),
        "before": ("a\0", "x" * 5000), "boot_id": PATHS,
    },
    "request": {
        "id": NO_NAMES, "verb": ("", "a\nb", "J"), "subject": ("a\nb", "x" * 5000), "digest": NO_IDS, "result": ("x",),
        "state": ("gone",), "at": NO_SECONDS, "boot_id": PATHS,
    },
    "host": {"name": NO_NAMES, "installation": NO_IDS, "vtep": ("x", *NO_UNICAST)},
    "mark": {"operation": ("x",), "host": NO_NAMES},
    "claim": {"holder": ("a\nb", "x" * 5000), "operation": ("a\nb",)},
}  # fmt: skip


def _spoiled(kind: str, **changes: object) -> tuple[type[Any], bytes, str]:
    """A good record with other values, at the key that it would have itself."""
    record = GOOD[kind]
    body = json.loads(encode(record))
    identity = {name: value for name, value in changes.items() if isinstance(value, type(getattr(record, name)))}
    return type(record), json.dumps({**body, **changes}).encode(), key_of(attrs.evolve(record, **identity))


@pytest.mark.parametrize("kind", GOOD)
def test_what_a_verb_writes_is_believed(kind: str) -> None:
    """The records that the others are spoiled from are good: decoded at their key, they are equal."""
    record = GOOD[kind]
    assert record == decode(type(record), encode(record), key_of(record))


@pytest.mark.parametrize(("kind", "field"), [(kind, field) for kind, fields in BAD.items() for field in fields])
def test_values_that_no_verb_would_write_are_corrupt(kind: str, field: str) -> None:
    """Right by type, wrong by meaning: paths for names, loopback for a tunnel's end, too many of anything."""
    for value in BAD[kind][field]:
        cls, written, key = _spoiled(kind, **{field: value})
        with pytest.raises(Corrupt) as raised:
            decode(cls, written, key)
        assert key == raised.value.what
        assert len(raised.value.reason) <= limits.REASON_CHARS
        assert raised.value.reason.isascii()


@pytest.mark.parametrize("name", ["network", "endpoint", "sandbox", "intent", "presence", "installation", "setting",
                                  "host"])  # fmt: skip
def test_a_record_is_believed_at_its_own_key_only(name: str) -> None:
    """One that was copied to another key, or names another one's id, is Corrupt and not taken for that other one."""
    record = GOOD[name]
    other = key_of(record)[:-1] + "9"
    with pytest.raises(Corrupt, match="lies elsewhere") as raised:
        decode(type(record), encode(record), other)
    assert other == raised.value.what


def test_a_line_of_the_ledger_keeps_the_records_that_its_key_is_about() -> None:
    """Of an endpoint of the cluster, and only of those; it must be a member of the network."""
    key = keys.attachment(BOX, "global", NET, END)
    line = LedgerLine(NETWORK, ENDPOINT)
    assert line == decode(LedgerLine, encode(line), key)
    assert LedgerLine() == decode(LedgerLine, encode(LedgerLine()), keys.attachment(BOX, "local", NET, END))
    stranger = attrs.evolve(ENDPOINT, addresses=(ipaddress.ip_interface("10.9.0.5/24"),))
    for record, where in (
        (line, keys.attachment(BOX, "global", NET, BOX)),
        (line, keys.attachment(BOX, "local", NET, END)),
        (LedgerLine(), key),
    ):
        with pytest.raises(Corrupt):
            decode(LedgerLine, encode(record), where)
    with pytest.raises(Corrupt):
        encode(LedgerLine(NETWORK, stranger))


def test_an_endpoint_does_not_move_to_another_network() -> None:
    """Its key says both ids: a record below another network's prefix is Corrupt."""
    with pytest.raises(Corrupt, match="lies elsewhere"):
        decode(EndpointRecord, encode(ENDPOINT), keys.endpoint("b" * 64, END))


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        (keys.network_name("blue"), NET, "blue"), (keys.mac(NET, "02:00:00:00:00:01"), END, "x"),
        (keys.vni(300), NET, "../x"), (keys.LINEAGE, NET, "x"), (keys.VNI_HINT, "300", "²"),
        (keys.VNI_HINT, "300", "9" * 5000), (keys.RUN_DIR, "/run/libcnm", "/run/\n"),
    ],
)  # fmt: skip
def test_a_claim_is_held_by_what_its_key_is_about(key: str, good: str, bad: str) -> None:
    """Names, MACs and VNIs by ids, the hint by a number."""
    assert NameClaim(good) == decode(NameClaim, encode(NameClaim(good)), key)
    with pytest.raises(Corrupt):
        decode(NameClaim, encode(NameClaim(good)).replace(good.encode(), json.dumps(bad)[1:-1].encode()), key)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400, "true"])
def test_numbers_that_are_none_are_corrupt(text: str) -> None:
    """What Python's JSON reads beyond the standard, or cannot turn into a number of seconds."""
    value = encode(NETWORK).replace(b'"created":1.5', b'"created":' + text.encode())
    with pytest.raises(Corrupt):
        decode(NetworkRecord, value, keys.network(NET))


def test_a_value_that_no_store_takes_is_not_even_parsed() -> None:
    """Larger than a store's values may be: Corrupt, with its size."""
    with pytest.raises(Corrupt, match="bytes are more than"):
        decode(NetworkRecord, b" " * limits.VALUE_BYTES + encode(NETWORK), keys.network(NET))


def test_every_kind_of_record_has_a_check() -> None:
    """A new kind of record needs one too, and a place among the strategies."""
    kinds = {
        found
        for _, found in inspect.getmembers(records, attrs.has)
        if found.__module__ == records.__name__ and found is not Port
    }
    assert kinds == set(KINDS)
    assert kinds == set(checks._CHECKS)


def test_what_could_not_be_read_again_is_not_written() -> None:
    """A driver's odd interface name, an IPAM's odd gateway: Invalid before anything is written, not Corrupt after."""
    with pytest.raises(Invalid, match="interface"):
        encode(attrs.evolve(ENDPOINT, attachment=attrs.evolve(PLACE, interface="a/b0")))
    outside = attrs.evolve(POOL, gateway=ipaddress.ip_address("10.2.0.1"))
    with pytest.raises(Invalid, match="gateway"):
        encode(attrs.evolve(NETWORK, pools=(outside,)))


@given(any_records())
def test_the_strategies_are_believed(record: attrs.AttrsInstance) -> None:
    """Whatever the strategies make is valid, so that tests on them are about something else."""
    checks.check(record, key_of(record))


# -- what one record alone does not say --------------------------------------------------------------------------------


def test_a_network_lies_in_the_store_of_its_scope() -> None:
    """A local network in the cluster's store is another host's invention, and the other way round a mistake."""
    checks.check_scope(NETWORK, "global")
    with pytest.raises(Corrupt) as raised:
        checks.check_scope(attrs.evolve(NETWORK, scope="local"), "global")
    assert keys.network(NET) == raised.value.what
    with pytest.raises(Corrupt):
        checks.check_scope(NETWORK, "local")


def test_a_way_out_lies_in_its_hosts_own_store() -> None:
    """It publishes ports that it has not claimed: no other host says so of an endpoint."""
    way_out = attrs.evolve(ENDPOINT, gateway_of="5" * 64)
    checks.check_scope(way_out, "local")
    with pytest.raises(Corrupt) as raised:
        checks.check_scope(way_out, "global")
    assert keys.endpoint(NET, ENDPOINT.id) == raised.value.what


def test_a_network_has_the_scope_of_its_driver() -> None:
    """A bridge network in the cluster's store would make every host build bridges."""
    checks.check_driver_scope(NETWORK, "global")
    with pytest.raises(Corrupt, match="has local ones"):
        checks.check_driver_scope(attrs.evolve(NETWORK, driver="bridge"), "local")


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {"addresses": (ipaddress.ip_interface(text),)}
            for text in ("10.2.0.5/24", "10.1.0.5/16", "fd00::5/64", "10.1.0.1/24")
        ),
        {"network_id": "b" * 64},
    ],
)  # fmt: skip
def test_an_endpoint_has_its_networks_addresses(changes: dict[str, Any]) -> None:
    """Another subnet's, another prefix, the gateway's, another network: Corrupt, naming the endpoint."""
    checks.check_member(NETWORK, ENDPOINT)
    changed = attrs.evolve(ENDPOINT, **changes)
    with pytest.raises(Corrupt) as raised:
        checks.check_member(NETWORK, changed)
    assert keys.endpoint(changed.network_id, END) == raised.value.what


def test_a_subnet_has_so_many_auxiliary_addresses() -> None:
    """What could be written and never read again is refused beforehand."""
    with pytest.raises(Invalid, match="aux"):
        Subnet("10.1.0.0/24", aux={f"a{number}": "10.1.0.7" for number in range(limits.AUX_PER_SUBNET + 1)})
