"""The kernel conformance kit's promises about namespaces and links."""

from __future__ import annotations

import errno

import attrs
import pytest

from libcnm.errors import Invalid
from libcnm.kernel.resources import Address, Bridge, Interface, Namespace, Sysctl, Veth, Vxlan, ipv6_switch
from libcnm.model.limits import MTU_MAX, MTU_MIN
from libcnm.model.resource import Change
from libcnm.testing._kernel_bench import INNER, Bench, address, bridge, pair, vxlan, within


class NamespaceConformance:
    """Pinned namespaces: made ones are ours as a whole, brought ones are not."""

    def test_a_namespace_comes_and_goes(self, bench: Bench) -> None:
        """It is read, by name and among all, until it is deleted."""
        bench.add(Namespace("s1"))
        assert [Namespace("s1")] == bench.read(Namespace)
        assert bench.one(Namespace("s1")) is not None
        bench.delete(Namespace("s1"))
        assert ([], None) == (bench.read(Namespace), bench.kernel.namespace("s1"))

    def test_a_name_is_pinned_once(self, bench: Bench) -> None:
        """A second one of the name is EEXIST; deleting what is not pinned is ENOENT."""
        assert ["-", "EEXIST"] == bench.errnos("add", Namespace("s1"), Namespace("s1"))
        assert ["-", "ENOENT"] == bench.errnos("delete", Namespace("s1"), Namespace("s1"))

    def test_its_path_leads_to_it(self, bench: Bench) -> None:
        """What is known of a namespace is its device and inode, by whichever path."""
        bench.add(Namespace("s1"), Namespace("s2"))
        assert bench.kernel.namespace("s1") == bench.kernel.identify(bench.kernel.namespace_path("s1"))
        assert bench.kernel.namespace("s1") != bench.kernel.namespace("s2")

    @pytest.mark.parametrize("path", ["/dev/null", "/nowhere/at/all"])
    def test_another_path_is_invalid(self, bench: Bench, path: str) -> None:
        """A path that leads to something else is told apart."""
        with pytest.raises(Invalid):
            bench.kernel.identify(path)

    def test_ours_begins_without_ipv6(self, bench: Bench) -> None:
        """IPv6 is off for every link to come, and routers are not listened to."""
        bench.add(Namespace("s1"))
        off = bench.one(Sysctl("s1", ipv6_switch("default"), "?"))
        ra = bench.one(Sysctl("s1", "net/ipv6/conf/default/accept_ra", "?"))
        assert off is not None
        assert ra is not None
        assert ["1", "0"] == [one.resource.value for one in (off, ra) if isinstance(one.resource, Sysctl)]

    def test_everything_in_ours_is_ours(self, bench: Bench) -> None:
        """Whatever is found in a namespace that we made, by whomever."""
        bench.add(Namespace("s1"))
        bench.hand.add_link("s1", "theirs")
        assert ["theirs"] == [one.name for one in bench.read(Bridge, "s1")]

    def test_in_a_brought_one_only_what_is_marked_is_ours(self, bench: Bench) -> None:
        """A namespace of somebody else is pinned, and stays theirs."""
        path = bench.hand.make_namespace()
        bench.add(Namespace("s1", source=path))
        assert bench.kernel.identify(path) == bench.kernel.namespace("s1")
        bench.hand.add_link("s1", "theirs")
        bench.add(bridge(ns="s1"))
        assert ["b1"] == [one.name for one in bench.read(Bridge, "s1")]
        assert ["theirs"] == [one.name for one in bench.read(Bridge, "s1", ours=False)]

    def test_a_brought_one_outlives_its_pin(self, bench: Bench) -> None:
        """Deleting takes our pin away, not their namespace; it can be brought again."""
        path = bench.hand.make_namespace()
        bench.add(Namespace("s1", source=path), bridge(ns="s1"))
        before = bench.kernel.namespace("s1")
        bench.delete(Namespace("s1"))
        bench.add(Namespace("s2", source=path))
        assert before == bench.kernel.namespace("s2")
        assert ["b1"] == [one.name for one in bench.read(Bridge, "s2")]

    def test_only_a_namespace_can_be_brought(self, bench: Bench) -> None:
        """Another path is refused, and nothing is pinned."""
        assert bench.errno("add", Namespace("s1", source="/nowhere/at/all")) in ("ENOENT", "EINVAL")
        assert bench.kernel.namespace("s1") is None

    @pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "n" * 256])
    def test_a_name_is_a_file_name(self, bench: Bench, name: str) -> None:
        """What cannot be the name of a pin is refused, never a path elsewhere."""
        assert "EINVAL" == bench.errno("add", Namespace(name))
        with pytest.raises(Invalid):
            bench.kernel.namespace_path(name)

    def test_one_that_is_not_there(self, bench: Bench) -> None:
        """Changes in it are ENOENT; reading it finds nothing."""
        assert ["ENOENT"] * 3 == bench.errnos(
            "add", bridge(ns="s9"), address("b1", "10.0.0.1/24", ns="s9"), Sysctl("s9", "net/ipv4/ip_forward", "1")
        )
        assert "ENOENT" == bench.errno("add", pair(peer_ns="s9")[0])
        assert [] == bench.read(Bridge, "s9")
        assert bench.one(bridge(ns="s9")) is None

    def test_it_takes_its_links_along(self, bench: Bench) -> None:
        """A pair ends with the namespace of either end, in the kernel's own time."""
        bench.add(Namespace("s1"), bridge(), *pair(master="b1"))
        bench.delete(Namespace("s1"))
        bench.wait_for(lambda: bench.one(pair()[0]) is None)
        assert [] == bench.read(Veth)


class LinkConformance:
    """Bridges, pairs, VXLAN devices and interfaces."""

    def test_a_bridge_reads_back(self, bench: Bench) -> None:
        """As it was asked for, among all and by itself, and as ours."""
        wanted = bridge(mtu=1400)
        bench.add(wanted)
        found = bench.one(wanted)
        assert found is not None
        assert (wanted, True) == (found.resource, found.ours)
        assert [wanted] == bench.read(Bridge)

    def test_a_name_is_taken_once(self, bench: Bench) -> None:
        """A second link of the name is EEXIST, of any kind; the first one is untouched."""
        bench.add(bridge(), Namespace("s1"))
        assert ["EEXIST", "EEXIST"] == bench.errnos("add", bridge(mac="02:00:00:00:00:99"), *pair("b1"))
        assert [bridge()] == bench.read(Bridge)
        assert [] == bench.read(Veth)

    def test_what_is_not_there_is_enodev(self, bench: Bench) -> None:
        """Deleting and changing a link that is not there."""
        assert ["ENODEV"] * 2 == bench.errnos("delete", bridge(), *pair(ns="", peer_ns=""))
        assert "ENODEV" == bench.errno("change", bridge())

    def test_a_bridge_changes_in_place(self, bench: Bench) -> None:
        """MAC and MTU; addresses on it stay."""
        before, after = bridge(), bridge(mac="02:00:00:00:00:b2", mtu=1400)
        bench.add(before, address("b1", "10.0.0.1/24"))
        bench.change(before, after)
        assert [after] == bench.read(Bridge)
        assert [address("b1", "10.0.0.1/24")] == bench.read(Address)

    def test_an_alias_is_for_people(self, bench: Bench) -> None:
        """It is there from the beginning and changes in place."""
        before = attrs.evolve(bridge(), alias="network blue")
        bench.add(before)
        assert ["network blue"] == [one.alias for one in bench.read(Bridge)]
        bench.change(before, attrs.evolve(before, alias="network red"))
        assert ["network red"] == [one.alias for one in bench.read(Bridge)]

    def test_a_pair_reads_back(self, bench: Bench) -> None:
        """The outer end, up, a port of its master; the inner end is no resource of its own."""
        (wanted,) = pair(master="b1")
        bench.add(Namespace("s1"), bridge(), wanted)
        assert ([wanted], []) == (bench.read(Veth), bench.read(Veth, "s1"))

    def test_a_pair_may_lie_within_a_namespace(self, bench: Bench) -> None:
        """Both ends in one namespace, and an outer end outside the host's."""
        (one,) = pair(peer_ns="", peer="v2")
        (other,) = pair(ns="o1", peer_ns="s1")
        bench.add(one, Namespace("o1"), Namespace("s1"), other)
        assert ([one], [other]) == (bench.read(Veth), bench.read(Veth, "o1"))

    def test_a_taken_inner_name_leaves_nothing(self, bench: Bench) -> None:
        """EEXIST for the inner end means that there is no outer end either."""
        bench.add(Namespace("s1"), bridge(INNER, ns="s1"))
        assert "EEXIST" == bench.errno("add", pair()[0])
        assert [] == bench.read(Veth)

    def test_a_missing_master_leaves_nothing(self, bench: Bench) -> None:
        """ENODEV, and no pair or device without its bridge."""
        bench.add(Namespace("s1"), Namespace("o1"))
        assert ["ENODEV", "ENODEV"] == bench.errnos("add", *pair(master="absent"), vxlan(master="absent"))
        assert ([], []) == (bench.read(Veth), bench.read(Vxlan, "o1"))

    def test_a_master_must_be_a_bridge(self, bench: Bench) -> None:
        """EOPNOTSUPP, and nothing left behind."""
        bench.add(Namespace("s1"), *pair("v2", peer="eth1"))
        assert "EOPNOTSUPP" == bench.errno("add", pair(master="v2")[0])
        assert ["v2"] == [one.name for one in bench.read(Veth)]

    def test_a_pair_changes_in_place(self, bench: Bench) -> None:
        """Master, hairpin mode, isolation, both MACs and the MTU."""
        (before,) = pair(master="b1")
        bench.add(Namespace("s1"), bridge(), bridge("b2", mac="02:00:00:00:00:b2"), before)
        macs = attrs.evolve(before, mac="02:00:00:00:02:01", peer_mac="02:00:00:00:02:02")
        after = attrs.evolve(macs, master="b2", hairpin=True, isolated=True, mtu=1400)
        bench.change(before, after)
        assert [after] == bench.read(Veth)
        loose = attrs.evolve(after, master=None, hairpin=False, isolated=False)
        bench.change(after, loose)
        assert [loose] == bench.read(Veth)

    @pytest.mark.parametrize(("hairpin", "isolated"), [(True, False), (False, True), (True, True)])
    def test_a_port_has_its_settings_from_the_start(self, bench: Bench, hairpin: bool, isolated: bool) -> None:
        """Hairpin mode and isolation come with the pair, each without the other, and can be taken back alone."""
        (before,) = pair(master="b1")
        wanted = attrs.evolve(before, hairpin=hairpin, isolated=isolated)
        bench.add(Namespace("s1"), bridge(), wanted)
        assert [wanted] == bench.read(Veth)
        plain = attrs.evolve(wanted, hairpin=False)
        bench.change(wanted, plain)
        assert [plain] == bench.read(Veth)

    def test_an_interface_is_a_state(self, bench: Bench) -> None:
        """The inner end is there anyway: it comes up, goes down, and comes up again; ``lo`` is up from the first."""
        states = [Interface("s1", "lo"), Interface("s1", INNER)]
        bench.add(Namespace("s1"), *pair())
        assert states[:1] == bench.read(Interface, "s1")
        bench.add(*states)
        bench.add(*states)
        assert set(states) == set(bench.read(Interface, "s1"))
        bench.delete(states[1])
        assert states[:1] == bench.read(Interface, "s1")
        assert bench.one(states[1]) is None

    def test_an_interface_needs_its_link(self, bench: Bench) -> None:
        """ENODEV where there is none."""
        bench.add(Namespace("s1"))
        assert "ENODEV" == bench.errno("add", Interface("s1", INNER))

    def test_a_parked_name_is_free_at_once(self, bench: Bench) -> None:
        """Deleting takes both ends out of sight and out of name; the sweep removes them for good, once."""
        resources = [bridge(), *pair(master="b1"), Interface("s1", INNER), address(INNER, "10.0.0.2/24", ns="s1")]
        bench.add(Namespace("s1"), *resources)
        bench.delete(resources[1], resources[0])
        assert ([], [], []) == (bench.read(Veth), bench.read(Bridge), bench.read(Address, "s1"))
        bench.add(*resources)
        assert (1, 0) == (bench.kernel.sweep(), bench.kernel.sweep())
        assert [resources[1]] == bench.read(Veth)
        assert [resources[3]] == bench.read(Address, "s1")

    def test_a_sweep_looks_where_it_is_told(self, bench: Bench) -> None:
        """One end is enough for the pair, and what is parked elsewhere stays for another sweep."""
        bench.add(Namespace("s1"), Namespace("s2"), bridge(), *pair(master="b1"))
        bench.delete(pair(master="b1")[0])
        assert (0, 1, 0) == (bench.kernel.sweep(["s2"]), bench.kernel.sweep([""]), bench.kernel.sweep())

    def test_a_sandbox_may_come_and_go_in_one_batch(self, bench: Bench) -> None:
        """An interface brought up in a namespace that is gone at the end of the batch is no trouble."""
        steps = [Change("add", resource) for resource in (Namespace("s1"), *pair(), Interface("s1", INNER))]
        steps += [Change("delete", resource) for resource in (*pair(), Namespace("s1"))]
        assert {None} == set(bench.kernel.apply(steps, deadline=within()))
        assert ([], []) == (bench.read(Namespace), bench.read(Veth))

    def test_a_link_is_gone_before_its_namespace_is(self, bench: Bench) -> None:
        """Its inner end, too, and what is written to that meanwhile is refused, in one batch as in several."""
        bench.add(Namespace("s1"), *pair())
        steps = [
            Change("delete", *pair()),
            Change("add", Sysctl("s1", ipv6_switch(INNER), "0")),
            Change("delete", Namespace("s1")),
        ]
        refused = [None if error is None else error.errno for error in bench.kernel.apply(steps, deadline=within())]
        assert [None, errno.ENOENT, None] == refused

    def test_a_name_is_free_when_its_namespace_went_after_it(self, bench: Bench) -> None:
        """Leave and join again: the pair deleted, the namespace deleted, both made again in one batch."""
        bench.add(Namespace("s1"), bridge(), *pair(master="b1"))
        bench.delete(*pair(master="b1"), Namespace("s1"))
        bench.add(Namespace("s1"), *pair(master="b1"))
        assert [*pair(master="b1")] == bench.read(Veth)

    def test_a_deleted_bridge_frees_its_ports(self, bench: Bench) -> None:
        """A port goes on without a master, and can have another."""
        (port,) = pair(master="b1")
        bench.add(Namespace("s1"), bridge(), bridge("b2", mac="02:00:00:00:00:b2"), port)
        bench.delete(bridge())
        assert ["b2"] == [one.name for one in bench.read(Bridge)]
        bench.kernel.sweep()
        assert [attrs.evolve(port, master=None)] == bench.read(Veth)
        bench.change(attrs.evolve(port, master=None), attrs.evolve(port, master="b2"))
        assert [attrs.evolve(port, master="b2")] == bench.read(Veth)

    def test_a_vxlan_device_reads_back(self, bench: Bench) -> None:
        """In its own namespace, a port of the bridge there; IPv4 and IPv6 underlays."""
        wanted = [vxlan(master="b1"), vxlan("x2", vni=301, local="2001:db8::1")]
        bench.add(Namespace("o1"), bridge(ns="o1", mtu=1450), *wanted)
        assert set(wanted) == set(bench.read(Vxlan, "o1"))

    def test_a_vni_is_taken_host_wide(self, bench: Bench) -> None:
        """A second device of the VNI is EEXIST in any namespace; deleted, the VNI is free at once."""
        bench.add(Namespace("o1"), Namespace("o2"), vxlan())
        assert "EEXIST" == bench.errno("add", vxlan(ns="o2", local="192.0.2.2"))
        bench.add(vxlan(ns="o2", vni=301))
        bench.delete(vxlan())
        bench.add(vxlan("x3", ns="o2"))

    def test_a_vxlan_device_changes_in_place(self, bench: Bench) -> None:
        """MAC, MTU and master."""
        before, after = vxlan(), attrs.evolve(vxlan(master="b1"), mac="02:00:00:00:03:09", mtu=1400)
        bench.add(Namespace("o1"), bridge(ns="o1"), before)
        bench.change(before, after)
        assert [after] == bench.read(Vxlan, "o1")

    @pytest.mark.parametrize("name", ["n" * 16, "a/b", "a b", "a:b", "."])
    def test_a_bad_name_is_refused(self, bench: Bench, name: str) -> None:
        """More than 15 octets, and what the kernel does not take in a name."""
        assert bench.errno("add", bridge(name)) in ("ERANGE", "EINVAL")
        assert [] == bench.read(Bridge)

    @pytest.mark.parametrize("mtu", [MTU_MIN - 1, MTU_MAX + 1])
    def test_a_bad_mtu_is_refused(self, bench: Bench, mtu: int) -> None:
        """Under 68 octets and over 65,535."""
        assert "EINVAL" == bench.errno("add", bridge(mtu=mtu))
        assert "-" == bench.errno("add", bridge(mtu=MTU_MIN))

    @pytest.mark.parametrize("mac", ["01:00:00:00:00:01", "00:00:00:00:00:00"])
    def test_a_bad_mac_is_refused(self, bench: Bench, mac: str) -> None:
        """A link's own MAC is unicast and not zero."""
        assert "EADDRNOTAVAIL" == bench.errno("add", bridge(mac=mac))

    def test_a_link_made_by_hand_is_not_ours(self, bench: Bench) -> None:
        """It is seen, and told apart."""
        bench.hand.add_link("", "theirs")
        assert (["theirs"], []) == ([one.name for one in bench.read(Bridge, ours=False)], bench.read(Bridge))

    def test_a_name_taken_by_hand_stays_theirs(self, bench: Bench) -> None:
        """EEXIST; what holds the name is shown as not ours, and what follows in the batch does not touch it."""
        bench.hand.add_link("", "b1")
        assert ["EEXIST", "ENODEV"] == bench.errnos("add", bridge(), address("b1", "10.0.0.1/24"))
        held = bench.one(bridge())
        assert held is not None
        assert not held.ours
        assert "EPERM" == bench.errno("delete", bridge())
        assert [] == bench.read(Address)

    def test_what_others_delete_is_gone(self, bench: Bench) -> None:
        """A link of ours deleted by hand is seen to be gone, with what was on it, and can be made again."""
        bench.add(bridge(), address("b1", "10.0.0.1/24"))
        bench.hand.delete_link("", "b1")
        assert ([], []) == (bench.read(Bridge), bench.read(Address))
        bench.add(bridge())
