"""What a bridge network and a published port are in our firewall table, and in the policy routing behind it.

Pure functions from values to resources; drivers call them and never spell out a set or a rule. What the table does with
the elements is in :mod:`libcnm.kernel.firewall_rules`; how it gets into a kernel is the door's business. In short, and
for IPv4 and IPv6 alike:

* A network reaches out (masqueraded if it wants) and nothing reaches in, except answers and published ports. Two
  networks never reach each other's containers, nor each other's gateway addresses on the host.
* An internal network reaches itself and the host at its own gateway addresses. Nothing is forwarded into or out of it,
  not even to a published port.
* ``icc=False``: containers of the network do not reach each other, only the gateway and the outside. The rules see such
  frames only where br_netfilter is on: the ports must also be isolated by the bridge (``bridge link set dev NAME
  isolated on``). A published port is reached through the host's address even so, but where both are the case: with
  br_netfilter on, a translated frame to the same bridge stays a bridged one, and isolation ends it.
* A published port is reached from neighbours, from the host (also over loopback, if published there) and from every
  container of a network that is not internal, its own container included. One published on a loopback address is
  reached from the host alone.

Users add rules to the chain ``user``, which sees every forwarded packet first, and helpers of their own (chains, sets)
whose names begin with ``user``. These are kept when the structure is replaced, and when the table is deleted.

What must hold while somebody has flushed the firewall is said a second time without it. Policy routing keeps everybody
out of the networks but the host itself (:func:`isolation_base`): a packet that may enter is marked by the firewall; no
firewall, no mark, no way in, and no answers from outside either. A filter on the bridge keeps containers from the
host's loopback addresses (:func:`loopback_guard`). So whoever opens a way in with an "accept" in ``user`` must also
mark what comes by it, before it is routed: in a table of his own, ``type filter hook prerouting priority -99``, ``meta
mark set meta mark | 0x1000``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final, Literal

from libcnm.kernel.firewall_rules import FORWARD_MARK, FORWARD_MASK, STRUCTURE, USER
from libcnm.kernel.resources import FirewallElement, FirewallTable, KeyPart, LoopbackGuard, Route, Rule, Sysctl
from libcnm.model.addresses import IPAddress, IPNetwork

__all__ = [
    "FORWARD_MARK",
    "FORWARD_MASK",
    "ISOLATION_PRIORITY",
    "ISOLATION_TABLE",
    "USER",
    "isolation_base",
    "isolation_resources",
    "loopback_guard",
    "loopback_resources",
    "network_elements",
    "port_elements",
    "routing_table",
    "table",
]

ISOLATION_TABLE: Final = 0x636E0000
"""Routing table with a ``prohibit`` route for every subnet of every network; each installation has one of its own, from
:func:`routing_table`. The next number is its table with nothing but ``prohibit``, for what comes out of internal
networks.
"""
ISOLATION_PRIORITY: Final = 8000
"""After the local table (0), before main (32766) and before whatever users usually add. Two more are ours: the rules
that keep out, and the place where those go on who are not asked.
"""
_METRIC: Final = 1
"""Given, because IPv6 turns a missing one into 1024 and IPv4 into 0."""


def table(name: str, ns: str = "") -> FirewallTable:
    """The table of one installation, in the structure that this version of libcnm knows."""
    return FirewallTable(ns=ns, name=name, version=STRUCTURE.version)


def network_elements(
    table: FirewallTable,
    *,
    bridge: str,
    subnets: Sequence[IPNetwork],
    gateways: Sequence[IPAddress],
    masquerade: bool,
    internal: bool,
    icc: bool = True,
) -> tuple[FirewallElement, ...]:
    """What tells the table about one network. ``gateways`` are the host's own addresses on ``bridge``.

    ``masquerade`` means nothing for an internal network, from which nothing leaves.
    """

    def element(set_name: str, *key: KeyPart) -> FirewallElement:
        return FirewallElement(ns=table.ns, table=table.name, set=set_name, key=key)

    elements = [element("bridges", bridge)]
    if icc:
        elements.append(element("pairs", bridge, bridge))
    if internal:
        elements.append(element("internal", bridge))
    elif masquerade:
        elements.append(element("masq", bridge))
    elements.extend(element(f"subnets{subnet.version}", bridge, subnet) for subnet in subnets)
    elements.extend(element("networks4", "ipv4", subnet) for subnet in subnets if subnet.version == 4)
    for gateway in gateways:
        elements.append(element(f"gateways{gateway.version}", bridge, gateway))
        elements.append(element(f"allgateways{gateway.version}", gateway))
    return tuple(elements)


def port_elements(
    table: FirewallTable,
    *,
    bridge: str,
    protocol: Literal["tcp", "udp"],
    host_address: IPAddress | None,
    host_port: int,
    address: IPAddress,
    port: int,
) -> tuple[FirewallElement, ...]:
    """What publishes ``port`` at ``address`` as ``host_port`` at ``host_address``.

    ``host_address`` None, 0.0.0.0 or ``::`` is every address of the host, of the family of ``address``; an address that
    the host does not have (yet) captures nothing. ``bridge`` is the network's; the table does not need to be told (a
    port's network follows from the route to ``address``). ValueError when the addresses are of two families.
    """
    del bridge  # part of the contract, so that a structure that keeps ports by network would need no new drivers
    if host_address is not None and host_address.version != address.version:
        raise ValueError(f"{host_address} cannot be translated to {address}: another family")
    data: tuple[KeyPart, ...] = (address, port)
    if host_address is None or host_address.is_unspecified:
        key: tuple[KeyPart, ...] = (protocol, host_port)
        return (FirewallElement(table.ns, table.name, f"wild{address.version}", key, data),)
    key = (protocol, host_address, host_port)
    return (FirewallElement(table.ns, table.name, f"ports{address.version}", key, data),)


def loopback_guard(bridge: str, ns: str = "") -> LoopbackGuard:
    """What keeps containers from the host's own services on 127.0.0.0/8 while the firewall is flushed.

    They would reach them over a bridge with ``route_localnet`` on, and over every bridge of a host that has it on for
    all interfaces, as kube-proxy does (measured): hence one on each, whatever is published there and whatever addresses
    it has. A routing rule could do that only if the local table, which is asked before all of them, were moved, for the
    whole host. IPv6 has neither the switch nor the hole.
    """
    return LoopbackGuard(ns, bridge, FORWARD_MARK)


def loopback_resources(
    *, bridge: str, host_address: IPAddress | None, address: IPAddress, ns: str = ""
) -> tuple[Sysctl, ...]:
    """What the network's bridge needs for :func:`port_elements`, behind its :func:`loopback_guard`: ``route_localnet``
    for what 127.0.0.0/8 can reach.
    """
    if address.version == 6 or not (host_address is None or host_address.is_unspecified or host_address.is_loopback):
        return ()
    return (Sysctl(ns, f"net/ipv4/conf/{bridge}/route_localnet", "1", link=bridge, restore="0"),)


def routing_table(installation: str) -> int:
    """The number of an installation's isolation table, an even one, from its id (hexadecimal)."""
    return ISOLATION_TABLE + (int(installation[:4], 16) & 0xFFFE)


def isolation_base(routing: int = ISOLATION_TABLE, ns: str = "") -> tuple[Rule | Route, ...]:
    """What keeps everybody out of all networks, without a firewall: per host, whatever the number of networks.

    "Without the mark: look here first", where :func:`isolation_resources` puts a ``prohibit`` route for every subnet.
    It holds for containers and for neighbours that route to us, in both families whatever the networks have: one
    without IPv6 must not reach into one that has it. What this host itself sends is not asked, nor is what has the
    mark: both go on with whatever rules users have, say for a second uplink. Then the dead end of internal networks.
    """
    found: list[Rule | Route] = []
    skip_to = ISOLATION_PRIORITY + 2
    for version in (4, 6):
        found += [
            Rule(ns, version, ISOLATION_PRIORITY, routing, iif="lo", action="goto", goto=skip_to),
            Rule(ns, version, ISOLATION_PRIORITY + 1, routing, mark=0, mask=FORWARD_MASK),
            Rule(ns, version, skip_to, routing, action="nop"),
        ]
    for everything in (ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv6Network("::/0")):
        found.append(Route(ns=ns, destination=everything, table=routing + 1, metric=_METRIC, type="prohibit"))
    return tuple(found)


def isolation_resources(
    *,
    bridge: str,
    subnets: Sequence[IPNetwork],
    internal: bool = False,
    routing: int = ISOLATION_TABLE,
    ns: str = "",
) -> tuple[Rule | Route | Sysctl, ...]:
    """Keeps others out of ``subnets``, and containers of an internal network in, without a firewall.

    One ``prohibit`` route per subnet. Per family one rule if the network is ``internal``: from there nothing is routed
    anywhere, with or without the mark. And for a network with IPv4 the switch by which the kernel's reverse path filter
    sees the mark as well: with ``rp_filter`` on, as many distributions have it, it would else drop what containers send
    to published ports and to the outside (measured). IPv6 has no such filter.
    """
    found: list[Rule | Route | Sysctl] = []
    if any(subnet.version == 4 for subnet in subnets):
        found.append(Sysctl(ns, f"net/ipv4/conf/{bridge}/src_valid_mark", "1", link=bridge))
    if internal:
        found += [Rule(ns, version, ISOLATION_PRIORITY + 1, routing + 1, iif=bridge) for version in (4, 6)]
    for subnet in subnets:
        found.append(Route(ns=ns, destination=subnet, table=routing, metric=_METRIC, type="prohibit"))
    return tuple(found)
