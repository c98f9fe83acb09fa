"""What the lab says over netlink: a bridge, veth pairs, addresses, a cut between two MACs. Messages and sockets only.

These things are the lab's machines, not libcnm's work, so they must not bear libcnm's mark: what is marked, the
installations inside would take for their own. That is why the resource kinds are not used here. Law: rtnetlink(7),
include/uapi/linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from libcnm.errors import KernelError
from libcnm.kernel.base import no_effect_hook
from libcnm.kernel.linux import Home, nft_wire, pack
from libcnm.kernel.linux.channels import open_transport
from libcnm.kernel.linux.nft_socket import NftSocket
from libcnm.kernel.linux.transport import Transport
from libcnm.lab.namespaces import inside
from libcnm.model.addresses import IPInterface
from libcnm.model.deadline import Deadline
from libcnm.system.clock import SystemClock

PATIENCE_SECONDS = 5.0
_BRIDGE_FAMILY = 7  # NFPROTO_BRIDGE
_FORWARD_HOOK = 2
_TABLE, _CHAIN, _SET = "lab", "forward", "cut"
_ETHER_PAIR = 9 << 6 | 9  # nft's number for the type "ether_addr . ether_addr", for whoever lists it
_NETLINK_NETFILTER = 12


def patience() -> Deadline:
    """Long enough for the kernel, and short enough to notice that something is wrong."""
    return SystemClock().deadline(PATIENCE_SECONDS)


@contextmanager
def talking(home: Home) -> Iterator[Transport]:
    """A netlink socket of those namespaces, usable from the calling thread."""
    transport = inside(home, open_transport)
    try:
        yield transport
    finally:
        transport.close()


def send(transport: Transport, subject: str, messages: Sequence[bytes]) -> None:
    """All messages in one send; KernelError names ``subject`` for the first that was refused."""
    for refusal in transport.send(messages, patience()):
        if refusal is not None:
            raise KernelError(refusal.errno, subject, extack=refusal.extack)


def bridge(index: int, name: str, mac: str, mtu: int) -> list[bytes]:
    """A bridge that is up. Equivalent to: ``ip link add NAME address MAC type bridge``, then mtu and up."""
    made = pack.ifinfo(index) + pack.text(pack.IFLA_IFNAME, name)
    made += pack.attribute(pack.IFLA_ADDRESS, pack.mac_octets(mac)) + pack.link_kind("bridge")
    up = pack.set_link(name, pack.u32(pack.IFLA_MTU, mtu), up=True)
    return [pack.message(pack.RTM_NEWLINK, pack.ADD, made), up]


def cable(name: str, mtu: int, master: int, peer_index: int, peer: str, peer_mac: str, peer_net: int) -> list[bytes]:
    """A port of the bridge and the interface at the other end, in another namespace; the port is up, the peer not."""
    size = pack.u32(pack.IFLA_MTU, mtu)
    there = pack.ifinfo(peer_index) + pack.text(pack.IFLA_IFNAME, peer) + size
    there += pack.attribute(pack.IFLA_ADDRESS, pack.mac_octets(peer_mac)) + pack.u32(pack.IFLA_NET_NS_FD, peer_net)
    kind = pack.link_kind("veth", pack.attribute(pack.VETH_INFO_PEER, there))
    made = pack.create_link(pack.text(pack.IFLA_IFNAME, name) + size + kind)
    return [made, pack.set_link(name, pack.u32(pack.IFLA_MASTER, master), up=True)]


def interface(name: str, index: int, addresses: Sequence[IPInterface]) -> list[bytes]:
    """Addresses (an administrator's: without a mark) and up."""
    return [*(_address(index, address) for address in addresses), pack.set_link(name, up=True)]


def _address(index: int, value: IPInterface) -> bytes:
    body = struct.pack("=BBBBI", pack.family_of(value.version), value.network.prefixlen, 0, 0, index)
    body += pack.attribute(pack.IFA_LOCAL, value.ip.packed) + pack.attribute(pack.IFA_ADDRESS, value.ip.packed)
    if value.version == 6:
        body += pack.u32(pack.IFA_FLAGS, pack.IFA_F_NODAD)  # nobody else has it; each lab would wait a second
    return pack.message(pack.RTM_NEWADDR, pack.ADD, body)


# -- cutting the wire --------------------------------------------------------------------------------------------------


class Scissors:
    """Drops what one MAC of the underlay sends to another, by an nftables set of the bridge family."""

    def __init__(self, underlay: Home) -> None:
        self._underlay = underlay
        self._laid = False

    def cut(self, one: str, other: str) -> None:
        """From now on neither hears the other; again is fine."""
        messages = [] if self._laid else _structure()
        self._transact([*messages, self._elements(nft_wire.NEWSETELEM, one, other)], "cutting the underlay")
        self._laid = True

    def mend(self, one: str, other: str) -> None:
        """They hear each other again; KernelError when they did anyway."""
        self._transact([self._elements(nft_wire.DELSETELEM, one, other)], "mending the underlay")

    def _transact(self, messages: Sequence[bytearray], subject: str) -> None:
        def opened() -> socket.socket:
            return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)

        door = NftSocket(inside(self._underlay, opened), lambda: no_effect_hook)
        try:
            refusals = door.transact(messages, patience())
        finally:
            door.close()
        for errno, extack in refusals.values():
            raise KernelError(errno, subject, extack=extack)

    def _elements(self, operation: int, one: str, other: str) -> bytearray:
        # Each field of a concatenation takes whole registers of four octets.
        keys = [_padded(first) + _padded(second) for first, second in ((one, other), (other, one))]
        listed = [
            nft_wire.nested(
                nft_wire.LIST_ELEM,
                nft_wire.nested(nft_wire.ELEM_KEY, nft_wire.attribute(nft_wire.DATA_VALUE, key)),
            )
            for key in keys
        ]
        body = nft_wire.text(nft_wire.ELEM_LIST_TABLE, _TABLE) + nft_wire.text(nft_wire.ELEM_LIST_SET, _SET)
        body += nft_wire.nested(nft_wire.ELEM_LIST_ELEMENTS, *listed)
        flags = nft_wire.NLM_F_CREATE if operation == nft_wire.NEWSETELEM else 0
        return nft_wire.message(operation, body, flags, _BRIDGE_FAMILY)


def _padded(mac: str) -> bytes:
    return pack.mac_octets(mac) + b"\0\0"


def _structure() -> list[bytearray]:
    """Equivalent to: ``nft -f`` of a bridge table with a set ``cut`` of MAC pairs and a chain that drops them."""
    table = nft_wire.text(nft_wire.TABLE_NAME, _TABLE)
    pairs = nft_wire.text(nft_wire.SET_TABLE, _TABLE) + nft_wire.text(nft_wire.SET_NAME, _SET)
    pairs += nft_wire.number(nft_wire.SET_KEY_TYPE, _ETHER_PAIR) + nft_wire.number(nft_wire.SET_KEY_LEN, 16)
    pairs += nft_wire.number(nft_wire.SET_ID, 1)
    hook = nft_wire.number(nft_wire.HOOK_HOOKNUM, _FORWARD_HOOK) + nft_wire.number(nft_wire.HOOK_PRIORITY, 0)
    chain = nft_wire.text(nft_wire.CHAIN_TABLE, _TABLE) + nft_wire.text(nft_wire.CHAIN_NAME, _CHAIN)
    chain += nft_wire.nested(nft_wire.CHAIN_HOOK, hook) + nft_wire.text(nft_wire.CHAIN_TYPE, "filter")
    rule = nft_wire.text(nft_wire.RULE_TABLE, _TABLE) + nft_wire.text(nft_wire.RULE_CHAIN, _CHAIN)
    rule += nft_wire.nested(nft_wire.RULE_EXPRESSIONS, *_drop_pairs())
    made = [
        (nft_wire.NEWTABLE, table),
        (nft_wire.NEWSET, pairs),
        (nft_wire.NEWCHAIN, chain),
        (nft_wire.NEWRULE, rule),
    ]
    return [nft_wire.message(operation, body, nft_wire.NLM_F_CREATE, _BRIDGE_FAMILY) for operation, body in made]


def _drop_pairs() -> list[bytes]:
    """``ether saddr . ether daddr @cut drop``: two loads into neighbouring registers, a lookup, a verdict."""
    lookup = nft_wire.text(1, _SET) + nft_wire.number(2, 1)
    verdict = nft_wire.nested(nft_wire.DATA_VERDICT, nft_wire.number(1, 0))
    return [
        _expression("payload", _load(offset=6, register=1)),
        _expression("payload", _load(offset=0, register=10)),
        _expression("lookup", lookup),
        _expression("immediate", nft_wire.number(1, 0) + nft_wire.nested(2, verdict)),
    ]


def _load(*, offset: int, register: int) -> bytes:
    link_header = 0
    parts = (register, link_header, offset, 6)
    return b"".join(nft_wire.number(kind, value) for kind, value in enumerate(parts, 1))


def _expression(name: str, data: bytes) -> bytes:
    named = nft_wire.text(nft_wire.EXPR_NAME, name)
    return nft_wire.nested(nft_wire.LIST_ELEM, named, nft_wire.nested(nft_wire.EXPR_DATA, data))
