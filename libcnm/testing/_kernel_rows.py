"""The kernel conformance kit's promises about addresses, routes, rules, rows, settings and the firewall."""

from __future__ import annotations

import attrs
import pytest

from libcnm.kernel import firewall
from libcnm.kernel.resources import (
    Address,
    Fdb,
    FirewallElement,
    FirewallTable,
    Interface,
    LoopbackGuard,
    Namespace,
    Neighbour,
    Route,
    Rule,
    Sysctl,
    ipv6_switch,
)
from libcnm.model.resource import Change, Resource
from libcnm.testing._kernel_bench import INNER, Bench, address, bridge, ip, network, pair, vxlan, within

MAC = "02:00:00:00:04:01"


class RowConformance:
    """Addresses, neighbours and forwarding rows."""

    @pytest.mark.parametrize("text", ["10.0.0.1/24", "10.0.0.1/32", "fd00::1/64", "fe80::1/64"])
    def test_an_address_comes_and_goes(self, bench: Bench, text: str) -> None:
        """IPv4 and IPv6 alike: read back, EEXIST twice, ENOENT when it is gone."""
        wanted = address("b1", text)
        bench.add(bridge(), wanted)
        assert [wanted] == bench.read(Address)
        assert bench.one(wanted) is not None
        assert "EEXIST" == bench.errno("add", wanted)
        bench.delete(wanted)
        assert ([], None) == (bench.read(Address), bench.one(wanted))
        assert "ENOENT" == bench.errno("delete", wanted)

    def test_an_address_needs_its_link(self, bench: Bench) -> None:
        """ENODEV to add, ENOENT to delete."""
        wanted = address("b1", "10.0.0.1/24")
        assert ("ENODEV", "ENOENT") == (bench.errno("add", wanted), bench.errno("delete", wanted))

    def test_ipv6_waits_for_its_switch(self, bench: Bench) -> None:
        """In a namespace of ours IPv6 is off: EACCES, until the same batch switches it on before the address."""
        bench.add(Namespace("s1"), *pair(), Interface("s1", INNER))
        wanted = address(INNER, "fd00::2/64", ns="s1")
        assert "EACCES" == bench.errno("add", wanted)
        bench.add(Sysctl("s1", ipv6_switch(INNER), "0", link=INNER), wanted)
        assert [wanted] == bench.read(Address, "s1")

    def test_an_address_where_ipv6_is_gone_is_not_there(self, bench: Bench) -> None:
        """Under 1,280 octets a link has no IPv6 at all; deleting an address from it is ENOENT as anywhere."""
        wanted = address("b1", "fd00::1/64")
        bench.add(bridge(), wanted)
        bench.change(bridge(), bridge(mtu=1279))
        assert ([], "ENOENT") == (bench.read(Address), bench.errno("delete", wanted))

    def test_switching_ipv6_off_takes_addresses_along(self, bench: Bench) -> None:
        """IPv6 addresses are gone, IPv4 ones stay."""
        bench.add(bridge(), address("b1", "10.0.0.1/24"), address("b1", "fd00::1/64"))
        bench.add(Sysctl("", ipv6_switch("b1"), "1", link="b1"))
        assert [address("b1", "10.0.0.1/24")] == bench.read(Address)

    def test_an_address_given_by_hand_is_not_ours(self, bench: Bench) -> None:
        """Not even on a link of ours in the host's namespace."""
        bench.add(bridge())
        bench.hand.add_address("", "b1", "10.0.0.9/24")
        theirs = address("b1", "10.0.0.9/24")
        assert ([], True) == (bench.read(Address), theirs in bench.read(Address, ours=False))

    def test_neighbours_are_put(self, bench: Bench) -> None:
        """Added or replaced, whichever it takes; permanent; ENOENT when it is gone."""
        rows = [Neighbour("", "b1", ip("10.0.0.7"), MAC), Neighbour("", "b1", ip("fd00::7"), MAC)]
        bench.add(bridge(), *rows)
        assert set(rows) == set(bench.read(Neighbour))
        moved = attrs.evolve(rows[0], mac="02:00:00:00:04:02")
        bench.add(moved)
        bench.change(rows[1], attrs.evolve(rows[1], mac="02:00:00:00:04:02"))
        assert {moved.mac} == {one.mac for one in bench.read(Neighbour)}
        bench.delete(*rows)
        assert ([], "ENOENT") == (bench.read(Neighbour), bench.errno("delete", rows[0]))
        assert bench.one(rows[0]) is None

    def test_a_neighbour_needs_its_link(self, bench: Bench) -> None:
        """ENODEV to add, ENOENT to delete."""
        wanted = Neighbour("", "b1", ip("10.0.0.7"), MAC)
        assert ("ENODEV", "ENOENT") == (bench.errno("add", wanted), bench.errno("delete", wanted))

    def test_a_neighbour_given_by_hand_is_not_ours(self, bench: Bench) -> None:
        """Told apart on our own bridge."""
        bench.add(bridge())
        bench.hand.add_neighbour("", "b1", "10.0.0.8", MAC)
        assert [] == bench.read(Neighbour)
        assert [Neighbour("", "b1", ip("10.0.0.8"), MAC)] == bench.read(Neighbour, ours=False)

    @pytest.mark.parametrize(
        ("local", "vtep", "other"),
        [("192.0.2.1", "192.0.2.7", "192.0.2.8"), ("2001:db8::1", "2001:db8::7", "2001:db8::8")],
    )
    def test_forwarding_rows_are_put(self, bench: Bench, local: str, vtep: str, other: str) -> None:
        """Added or replaced; ENOENT when it is gone; the device's own rows are not shown."""
        row = Fdb("o1", "x1", MAC, ip(vtep))
        bench.add(Namespace("o1"), bridge(ns="o1"), vxlan(local=local, master="b1"), row)
        assert [row] == bench.read(Fdb, "o1")
        moved = attrs.evolve(row, vtep=ip(other))
        bench.add(moved)
        assert [moved] == bench.read(Fdb, "o1")
        bench.change(moved, row)
        found = bench.one(row)
        assert found is not None
        assert (row, True) == (found.resource, found.ours)
        bench.delete(row)
        assert ([], "ENOENT") == (bench.read(Fdb, "o1"), bench.errno("delete", row))

    def test_a_forwarding_row_speaks_the_devices_family(self, bench: Bench) -> None:
        """An IPv6 VTEP behind an IPv4 device is refused."""
        bench.add(Namespace("o1"), vxlan())
        assert "EAFNOSUPPORT" == bench.errno("add", Fdb("o1", "x1", MAC, ip("2001:db8::7")))

    def test_rows_go_with_their_link(self, bench: Bench) -> None:
        """Deleting the device is enough, and it is new when it is made again."""
        rows: list[Resource] = [Fdb("o1", "x1", MAC, ip("192.0.2.7")), Neighbour("o1", "x1", ip("10.0.0.7"), MAC)]
        bench.add(Namespace("o1"), vxlan(), *rows)
        bench.delete(vxlan())
        bench.add(vxlan())
        assert ([], []) == (bench.read(Fdb, "o1"), bench.read(Neighbour, "o1"))


class RouteConformance:
    """Routes and rules."""

    @pytest.mark.parametrize(
        ("own", "gateway", "far"), [("10.0.0.1/24", "10.0.0.9", "10.9.0.0/24"), ("fd00::1/64", "fd00::9", "fd09::/64")]
    )
    def test_routes_come_and_go(self, bench: Bench, own: str, gateway: str, far: str) -> None:
        """On-link and through a gateway; EEXIST twice, ENOENT when it is gone."""
        near = Route("", network(far), "b1", metric=7)
        through = Route("", network(far), "b1", ip(gateway), metric=8)
        bench.add(bridge(), address("b1", own), near, through)
        assert {near, through} == set(bench.read(Route))
        assert bench.one(near) is not None
        assert ["EEXIST", "EEXIST"] == bench.errnos("add", near, attrs.evolve(through, via=None))
        bench.delete(near, through)
        assert [] == bench.read(Route)
        assert ["ENOENT", "ENOENT"] == bench.errnos("delete", near, through)
        assert bench.one(near) is None

    @pytest.mark.parametrize("destination", ["0.0.0.0/0", "::/0"])
    def test_a_default_route_needs_no_metric(self, bench: Bench, destination: str) -> None:
        """It reads back as it was asked for, in both families."""
        version = network(destination).version
        default = Route("s1", network(destination), "b1", ip("10.0.0.9" if version == 4 else "fd00::9"))
        bench.add(Namespace("s1"), bridge(ns="s1"), address("b1", "10.0.0.1/24", ns="s1"))
        bench.add(Sysctl("s1", ipv6_switch("b1"), "0", link="b1"), address("b1", "fd00::1/64", ns="s1"), default)
        assert [default] == bench.read(Route, "s1")
        bench.delete(default)

    def test_connected_routes_are_the_kernels(self, bench: Bench) -> None:
        """What an address brings along is neither ours nor shown."""
        bench.add(bridge(), address("b1", "10.0.0.1/24"), address("b1", "fd00::1/64"))
        assert ([], []) == (bench.read(Route), [one for one in bench.read(Route, ours=False) if one.link == "b1"])

    def test_a_gateway_must_be_near(self, bench: Bench) -> None:
        """A gateway that is not on-link is refused."""
        bench.add(bridge(), address("b1", "10.0.0.1/24"), address("b1", "fd00::1/64"))
        assert ["ENETUNREACH", "EHOSTUNREACH"] == bench.errnos(
            "add",
            Route("", network("10.9.0.0/24"), "b1", ip("10.8.0.1")),
            Route("", network("fd09::/64"), "b1", ip("fd08::1")),
        )

    def test_a_route_needs_its_link_up(self, bench: Bench) -> None:
        """ENODEV without a link, ENETDOWN over one that is down."""
        bench.add(Namespace("s1"), *pair(), Sysctl("s1", ipv6_switch(INNER), "0", link=INNER))
        far = [Route("s1", network("10.9.0.0/24"), INNER), Route("s1", network("fd09::/64"), INNER)]
        assert ["ENETDOWN", "ENETDOWN"] == bench.errnos("add", *far)
        assert "ENODEV" == bench.errno("add", Route("s1", network("10.9.0.0/24"), "absent"))

    def test_a_prohibit_route_needs_nothing(self, bench: Bench) -> None:
        """Neither link nor gateway, in any table, in both families."""
        far = [
            Route("", network(block), table=8472, metric=1, type="prohibit") for block in ("10.9.0.0/24", "fd09::/64")
        ]
        bench.add(*far)
        assert set(far) == set(bench.read(Route))
        assert ["EEXIST", "EEXIST"] == bench.errnos("add", *far)
        bench.delete(*far)
        assert ["ENOENT", "ENOENT"] == bench.errnos("delete", *far)

    def test_a_link_that_goes_down_loses_its_routes(self, bench: Bench) -> None:
        """The IPv4 address stays, the routes must be made again."""
        resources = [address(INNER, "10.0.0.2/24", ns="s1"), Route("s1", network("0.0.0.0/0"), INNER, ip("10.0.0.1"))]
        bench.add(Namespace("s1"), *pair(), Interface("s1", INNER), *resources)
        bench.delete(Interface("s1", INNER))
        assert ([resources[0]], []) == (bench.read(Address, "s1"), bench.read(Route, "s1"))
        bench.add(Interface("s1", INNER), resources[1])
        assert [resources[1]] == bench.read(Route, "s1")

    def test_a_route_made_by_hand_is_not_ours(self, bench: Bench) -> None:
        """Told apart over a link of ours, and not deleted in its place."""
        bench.add(bridge(), address("b1", "10.0.0.1/24"))
        bench.hand.add_route("", "10.9.0.0/24", "b1")
        theirs = Route("", network("10.9.0.0/24"), "b1")
        assert ([], True) == (bench.read(Route), theirs in bench.read(Route, ours=False))
        assert ("EEXIST", "ENOENT") == (bench.errno("add", theirs), bench.errno("delete", theirs))
        held = bench.one(theirs)
        assert held is not None
        assert not held.ours

    @pytest.mark.parametrize("version", [4, 6])
    def test_rules_come_and_go(self, bench: Bench, version: int) -> None:
        """With every condition there is; EEXIST twice, ENOENT when it is gone."""
        rules = [
            Rule("", version, 7000, 8472),
            Rule("", version, 7000, 8473),
            Rule("", version, 7001, 254, mark=0x1000, mask=0x1000),
            Rule("", version, 7002, 8472, iif="br-none", mark=0, mask=0x1000),
            Rule("", version, 6999, 8472, iif="lo", action="goto", goto=7003),
            Rule("", version, 7003, 8472, action="nop"),
        ]
        bench.add(*rules)
        assert set(rules) == set(bench.read(Rule))
        assert ["EEXIST"] * 6 == bench.errnos("add", *rules)
        assert bench.one(rules[3]) is not None
        bench.delete(*rules)
        assert ["ENOENT"] * 6 == bench.errnos("delete", *rules)
        assert ([], None) == (bench.read(Rule), bench.one(rules[0]))

    @pytest.mark.parametrize("version", [4, 6])
    def test_a_rule_only_leads_forward(self, bench: Bench, version: int) -> None:
        """EINVAL for one that leads back; and two that differ in where they lead are one (EEXIST)."""
        leads = Rule("", version, 7000, 8472, action="goto", goto=7001)
        assert "EINVAL" == bench.errno("add", attrs.evolve(leads, goto=7000))
        bench.add(leads)
        assert "EEXIST" == bench.errno("add", attrs.evolve(leads, goto=7002))
        assert [leads] == bench.read(Rule)

    def test_a_rule_made_by_hand_is_not_ours(self, bench: Bench) -> None:
        """Told apart."""
        bench.hand.add_rule("", 7000, 8472)
        assert [] == bench.read(Rule)
        assert Rule("", 4, 7000, 8472) in bench.read(Rule, ours=False)


class GuardConformance:
    """The filter that keeps loopback addresses from coming in over a bridge."""

    def test_a_guard_comes_and_goes(self, bench: Bench) -> None:
        """EEXIST twice, whatever it lets pass; ENOENT when it is gone, or never was, or its link is not there."""
        wanted = LoopbackGuard("", "b1", 0x1000)
        assert ("ENODEV", "ENOENT") == (bench.errno("add", wanted), bench.errno("delete", wanted))
        bench.add(bridge())
        assert ([], "ENOENT") == (bench.read(LoopbackGuard), bench.errno("delete", wanted))
        bench.add(wanted)
        assert ["EEXIST"] * 2 == bench.errnos("add", wanted, attrs.evolve(wanted, mark=0x2000))
        found = bench.one(wanted)
        assert found is not None
        assert (wanted, True) == (found.resource, found.ours)
        assert [wanted] == bench.read(LoopbackGuard)
        bench.delete(wanted)
        assert ([], None, "ENOENT") == (bench.read(LoopbackGuard), bench.one(wanted), bench.errno("delete", wanted))
        bench.add(wanted)
        assert [wanted] == bench.read(LoopbackGuard)

    def test_a_guard_goes_with_its_bridge(self, bench: Bench) -> None:
        """Not to be seen on a parked one, and not on the next of that name."""
        bench.add(bridge(), LoopbackGuard("", "b1", 0x1000))
        bench.delete(bridge())
        assert [] == bench.read(LoopbackGuard)
        bench.add(bridge())
        assert [] == bench.read(LoopbackGuard)

    def test_a_guard_in_a_sandbox(self, bench: Bench) -> None:
        """In whatever namespace."""
        wanted = LoopbackGuard("s1", "b1", 0x1000)
        bench.add(Namespace("s1"), bridge(ns="s1"), wanted)
        assert [wanted] == bench.read(LoopbackGuard, "s1")


class SysctlConformance:
    """Settings are there anyway: they are written, and written back."""

    def test_a_setting_is_written_and_restored(self, bench: Bench) -> None:
        """Deleting writes what was before; without that it leaves the setting alone."""
        wanted = Sysctl("", "net/ipv4/conf/b1/route_localnet", "1", link="b1", restore="0")
        bench.add(bridge(), wanted)
        assert "1" == self._value(bench, wanted)
        bench.delete(attrs.evolve(wanted, restore=None))
        assert "1" == self._value(bench, wanted)
        bench.delete(wanted)
        assert "0" == self._value(bench, wanted)

    def test_settings_belong_to_their_namespace(self, bench: Bench) -> None:
        """Forwarding in a sandbox is not forwarding on the host."""
        bench.add(Namespace("s1"), Sysctl("s1", "net/ipv4/ip_forward", "1"))
        assert ("1", "0") == (
            self._value(bench, Sysctl("s1", "net/ipv4/ip_forward", "?")),
            self._value(bench, Sysctl("", "net/ipv4/ip_forward", "?")),
        )

    def test_one_for_all_reaches_every_link(self, bench: Bench) -> None:
        """``all`` of forwarding sets each link's own."""
        bench.add(bridge(), Sysctl("", "net/ipv4/conf/all/forwarding", "1"))
        assert "1" == self._value(bench, Sysctl("", "net/ipv4/conf/b1/forwarding", "?"))
        bench.add(Sysctl("", "net/ipv4/conf/all/forwarding", "0"))
        assert "0" == self._value(bench, Sysctl("", "net/ipv4/conf/b1/forwarding", "?"))

    def test_what_cannot_be_set(self, bench: Bench) -> None:
        """ENOENT for what is not there, EINVAL for a bad value and for keys outside ``net``."""
        assert ["ENOENT", "ENOENT", "EINVAL", "EINVAL", "EINVAL"] == bench.errnos(
            "add",
            Sysctl("", "net/ipv4/no_such_key", "1"),
            Sysctl("", "net/ipv4/conf/absent/forwarding", "1"),
            Sysctl("", "net/ipv4/ip_forward", "many"),
            Sysctl("", "kernel/hostname", "mine"),
            Sysctl("", "net/../kernel/hostname", "mine"),
        )
        assert bench.one(Sysctl("", "net/ipv4/no_such_key", "1")) is None

    def test_settings_are_not_listed(self, bench: Bench) -> None:
        """There are thousands; they are read one at a time."""
        assert [] == bench.read(Sysctl)

    @staticmethod
    def _value(bench: Bench, sysctl: Sysctl) -> str:
        found = bench.one(sysctl)
        assert found is not None
        assert isinstance(found.resource, Sysctl)
        return found.resource.value


class FirewallConformance:
    """Our table and its elements."""

    def test_a_table_comes_and_goes(self, bench: Bench) -> None:
        """EEXIST twice, ENOENT when it is gone."""
        table = bench.table()
        bench.add(table)
        assert [table] == bench.read(FirewallTable)
        assert "EEXIST" == bench.errno("add", table)
        bench.delete(table)
        assert ([], None) == (bench.read(FirewallTable), bench.one(table))
        assert "ENOENT" == bench.errno("delete", table)

    def test_elements_come_and_go(self, bench: Bench) -> None:
        """A network's and a port's: all of them back, EEXIST twice, ENOENT when they are gone."""
        elements = self._elements(bench)
        bench.add(bench.table(), *elements)
        assert set(elements) == set(bench.read(FirewallElement))
        assert bench.one(elements[0]) is not None
        assert {"EEXIST"} == set(bench.errnos("add", *elements))
        bench.delete(*elements)
        assert ([], None) == (bench.read(FirewallElement), bench.one(elements[0]))
        assert {"ENOENT"} == set(bench.errnos("delete", *elements))

    def test_an_element_needs_its_table(self, bench: Bench) -> None:
        """ENOENT without the table, EINVAL for a set or a key that the structure does not have."""
        element = FirewallElement("", bench.table().name, "bridges", ("b1",))
        assert "ENOENT" == bench.errno("add", element)
        bench.add(bench.table())
        assert ["EINVAL", "EINVAL"] == bench.errnos(
            "add", attrs.evolve(element, set="unheard-of"), attrs.evolve(element, key=("b1", "b2"))
        )

    def test_one_refusal_in_many(self, bench: Bench) -> None:
        """The kernel takes a transaction whole or not at all; the door still tells which element was refused."""
        elements = self._elements(bench)
        bench.add(bench.table(), elements[2])
        expected = ["EEXIST" if element == elements[2] else "-" for element in elements]
        assert expected == bench.errnos("add", *elements)
        assert set(elements) == set(bench.read(FirewallElement))

    def test_overlapping_blocks_are_refused(self, bench: Bench) -> None:
        """Two networks cannot claim one block of one bridge."""
        bench.add(bench.table())
        wide, narrow = (
            FirewallElement("", bench.table().name, "subnets4", ("b1", network(block)))
            for block in ("10.0.0.0/16", "10.0.1.0/24")
        )
        assert ["-", "EEXIST"] == bench.errnos("add", wide, narrow)

    def test_a_key_with_other_data_is_taken(self, bench: Bench) -> None:
        """One port leads to one place; a change moves it."""
        here, there = (self._port(bench, target) for target in ("10.0.0.2", "10.0.0.3"))
        bench.add(bench.table(), here)
        assert "EEXIST" == bench.errno("add", there)
        assert (None,) == bench.kernel.apply((Change("change", there, here),), deadline=within())
        assert [there] == bench.read(FirewallElement)

    def test_a_deleted_table_takes_its_elements(self, bench: Bench) -> None:
        """Made again, it is empty."""
        bench.add(bench.table(), *self._elements(bench))
        bench.delete(bench.table())
        bench.add(bench.table())
        assert [] == bench.read(FirewallElement)

    def test_a_flush_by_hand_is_seen(self, bench: Bench) -> None:
        """After somebody's flush nothing of ours is there."""
        bench.add(bench.table(), *self._elements(bench))
        bench.hand.flush_firewall("")
        assert ([], []) == (bench.read(FirewallTable), bench.read(FirewallElement))

    def test_tables_belong_to_their_namespace(self, bench: Bench) -> None:
        """One in a sandbox is not one on the host."""
        bench.add(Namespace("s1"), bench.table("s1"))
        assert ([], [bench.table("s1")]) == (bench.read(FirewallTable), bench.read(FirewallTable, "s1"))

    @staticmethod
    def _port(bench: Bench, target: str) -> FirewallElement:
        (element,) = firewall.port_elements(
            bench.table(),
            bridge="b1",
            protocol="tcp",
            host_address=ip("192.0.2.1"),
            host_port=8080,
            address=ip(target),
            port=80,
        )
        return element

    def _elements(self, bench: Bench) -> tuple[FirewallElement, ...]:
        return (
            *firewall.network_elements(
                bench.table(),
                bridge="b1",
                subnets=[network("10.0.0.0/24"), network("fd00::/64")],
                gateways=[ip("10.0.0.1"), ip("fd00::1")],
                masquerade=True,
                internal=False,
            ),
            self._port(bench, "10.0.0.2"),
            *firewall.port_elements(
                bench.table(),
                bridge="b1",
                protocol="udp",
                host_address=None,
                host_port=53,
                address=ip("fd00::2"),
                port=53,
            ),
        )
