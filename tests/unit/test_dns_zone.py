"""A network's table of names: what a record adds, what removing it leaves, and what a reader sees meanwhile."""

from __future__ import annotations

import ipaddress
import threading

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from libcnm.dns.names import encodable
from libcnm.dns.zone import NameRecord, NetworkZone

NETWORK = ("n" * 64, "Blue")


def record(
    number: int, name: str, *addresses: str, aliases: tuple[str, ...] = (), hostnames: tuple[str, ...] = ()
) -> NameRecord:
    return NameRecord(
        endpoint_id=f"{number:064x}",
        name=name,
        network_id=NETWORK[0],
        network_name=NETWORK[1],
        aliases=aliases,
        hostnames=hostnames,
        addresses=tuple(map(ipaddress.ip_address, addresses)),
    )


def test_every_name_of_a_record_leads_to_its_addresses() -> None:
    """Endpoint name, aliases, host names and the short id, in any case."""
    zone = NetworkZone(*NETWORK)
    web = record(1, "Web", "10.0.0.2", "fd00::2", aliases=("WWW",), hostnames=("box",))
    assert zone.put(web)
    for name in ("web", "www", "box", "000000000000"):
        assert web.addresses == zone.addresses(name)
    assert zone.addresses("db") is None
    assert "web.blue" == zone.pointer(ipaddress.ip_address("fd00::2"))


def test_a_shared_alias_has_all_addresses_until_each_goes() -> None:
    """Two endpoints of one alias both answer to it; removing one leaves the other's."""
    zone = NetworkZone(*NETWORK)
    zone.put(record(1 << 240, "a", "10.0.0.2", aliases=("db",)))
    zone.put(record(2 << 240, "b", "10.0.0.3", aliases=("db",)))
    assert ("10.0.0.2", "10.0.0.3") == tuple(map(str, zone.addresses("db") or ()))
    assert zone.remove(f"{1 << 240:064x}")
    assert ("10.0.0.3",) == tuple(map(str, zone.addresses("db") or ()))


def test_an_address_that_moves_keeps_its_pointer() -> None:
    """The new holder may come before the old one goes: the name is the new one's, before and after."""
    zone = NetworkZone(*NETWORK)
    address = ipaddress.ip_address("10.0.0.2")
    zone.put(record(1, "old", "10.0.0.2"))
    zone.put(record(2, "new", "10.0.0.2"))
    assert "new.blue" == zone.pointer(address)
    zone.remove(f"{1:064x}")
    assert "new.blue" == zone.pointer(address)
    zone.remove(f"{2:064x}")
    assert zone.pointer(address) is None


def test_the_generation_grows_only_with_changes() -> None:
    """Reconcile puts every record again and again: what stood there already throws no cache away."""
    zone = NetworkZone(*NETWORK)
    web = record(1, "web", "10.0.0.2")
    assert [True, False] == [zone.put(web), zone.put(attrs.evolve(web))]
    assert 1 == zone.generation
    assert zone.put(attrs.evolve(web, addresses=()))
    assert [True, False] == [zone.remove(web.endpoint_id), zone.remove(web.endpoint_id)]
    assert 3 == zone.generation


def test_names_that_dns_cannot_say_cost_only_themselves() -> None:
    """A hostile or overlong name from another host's record is not served; the record's others are."""
    zone = NetworkZone(*NETWORK)
    zone.put(record(1, "a" * 64, "10.0.0.2", aliases=("evil\nname", "ü", "good", "")))
    assert zone.addresses("good") is not None
    assert zone.addresses("a" * 64) is None
    assert "good.blue" == zone.pointer(ipaddress.ip_address("10.0.0.2"))


def test_a_network_that_dns_cannot_say_leaves_bare_names() -> None:
    """The PTR then points to the endpoint's own name."""
    zone = NetworkZone("n", "x" * 100)
    zone.put(record(1, "web", "10.0.0.2"))
    assert "web" == zone.pointer(ipaddress.ip_address("10.0.0.2"))


NAMES = st.sampled_from(["a", "b", "c.d", "d", "e.c.d", "x" * 64, "A"])
ADDRESSES = st.sampled_from(["10.0.0.2", "10.0.0.3", "fd00::2"])


class ZoneMachine(RuleBasedStateMachine):
    """Whatever was put and removed before, the table is the one that the records alone would make."""

    def __init__(self) -> None:
        super().__init__()
        self.zone = NetworkZone(*NETWORK)
        self.model: dict[str, NameRecord] = {}

    @rule(
        number=st.integers(0, 3),
        name=NAMES,
        aliases=st.lists(NAMES, max_size=2),
        addresses=st.lists(ADDRESSES, max_size=3),
    )
    def put(self, number: int, name: str, aliases: list[str], addresses: list[str]) -> None:
        new = record(number << 240, name, *addresses, aliases=tuple(aliases))
        assert (self.model.get(new.endpoint_id) != new) == self.zone.put(new)
        self.model[new.endpoint_id] = new

    @rule(number=st.integers(0, 3))
    def remove(self, number: int) -> None:
        endpoint_id = f"{number << 240:064x}"
        assert (self.model.pop(endpoint_id, None) is not None) == self.zone.remove(endpoint_id)

    @invariant()
    def equals_the_model(self) -> None:
        everything = {name for known in self.model.values() for name in known.names()} | {
            "a",
            "b",
            "c.d",
            "d",
            "x" * 64,
        }
        for name in everything:
            holders = [known for known in self.model.values() if name in known.names() and encodable(name)]
            expected = {address for known in holders for address in known.addresses} if holders else None
            actual = self.zone.addresses(name)
            assert expected == (None if actual is None else set(actual))
        below = {name.partition(".")[2] for name in everything if "." in name}
        alive = {n for known in self.model.values() for n in known.names()}
        for name in below:
            assert any(other.endswith("." + name) for other in alive) == self.zone.is_interior(name)
        for text in ("10.0.0.2", "10.0.0.3", "fd00::2"):
            address = ipaddress.ip_address(text)
            assert any(address in known.addresses for known in self.model.values()) == (
                self.zone.pointer(address) is not None
            )


TestZoneMachine = ZoneMachine.TestCase
TestZoneMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


@given(st.integers(1, 3))
def test_a_reader_never_sees_half_a_change(rounds: int) -> None:
    """While one thread replaces a record, another sees all its old addresses or all its new ones."""
    zone = NetworkZone(*NETWORK)
    old, new = (record(1, "web", f"10.0.{net}.2", f"10.0.{net}.3") for net in (1, 2))
    zone.put(old)
    seen = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(zone.addresses("web"))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(rounds * 20):
        zone.put(new)
        zone.put(old)
    stop.set()
    reader.join()
    assert seen <= {old.addresses, new.addresses}
