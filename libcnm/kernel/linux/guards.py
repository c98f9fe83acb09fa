"""The guard of a link as messages: a classic BPF program on its ingress hook, sent and read back.

A qdisc ``clsact`` has two hooks and queues nothing; a filter ``bpf`` in direct-action mode is its own verdict. Classic
programs go through netlink like any other attribute: whoever may program the network may also do this, in a user
namespace too. It knows octets, and nothing of when a guard is wanted. Law: net/sched/cls_bpf.c and the kernel's
``include/uapi/linux/{rtnetlink,pkt_sched,pkt_cls,filter}.h``.
"""

from __future__ import annotations

import errno
import functools
import struct
from collections.abc import Iterator
from typing import Final

from libcnm.kernel.linux import pack, unpack
from libcnm.kernel.linux.batch import Batch
from libcnm.kernel.linux.rows import index_to_delete_on
from libcnm.kernel.linux.view import View
from libcnm.kernel.resources import LINK_GROUP, LoopbackGuard
from libcnm.model.resource import Change, Observed

RTM_NEWQDISC: Final = 36
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46
HANDLE: Final = LINK_GROUP
"""Our mark: of all filters at one hook, ours is the one of this number."""
_PREFERENCE: Final = LINK_GROUP >> 8
_CLSACT, _CLSACT_HANDLE, _INGRESS = 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF2
_ALL_PROTOCOLS: Final = 0x0300
"""ETH_P_ALL in network byte order, as it stands in the low half of tcm_info."""
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_OPS_LEN, _TCA_BPF_OPS, _TCA_BPF_FLAGS = 4, 5, 8
_DIRECT_ACTION: Final = 1
_TCMSG = struct.Struct("=BxxxiIII")
_INSTRUCTION = struct.Struct("=HBBI")

_LOAD, _LOAD_OCTET, _IF_EQUAL, _IF_ANY_BIT, _RETURN = 0x20, 0x30, 0x15, 0x45, 0x06
_PROTOCOL, _PACKET_MARK = 0xFFFFF000, 0xFFFFF014
"""SKF_AD_OFF + SKF_AD_PROTOCOL (what the stack goes by), + SKF_AD_MARK: what is not in the packet itself."""
_IP_SOURCE, _IP_DESTINATION = 0xFFF0000C, 0xFFF00010
"""SKF_NET_OFF + where the addresses begin."""
_IPV4, _VLAN, _SERVICE_VLAN = 0x0800, 0x8100, 0x88A8
_GO_ON, _DROP = 0xFFFFFFFF, 2
"""TC_ACT_UNSPEC (the next filter is asked), TC_ACT_SHOT."""


@functools.cache
def program(mark: int) -> bytes:
    """What a guard does. Jumps count from the next instruction.

    A frame that is still tagged when it comes by here had two tags. The kernel strips the second one later, if it means
    no VLAN, and takes what is inside for a packet like any other: nobody sends such frames to his gateway in earnest.
    """
    instructions = (
        (_LOAD, 0, 0, _PROTOCOL),
        (_IF_EQUAL, 10, 0, _VLAN),
        (_IF_EQUAL, 9, 0, _SERVICE_VLAN),
        (_IF_EQUAL, 0, 7, _IPV4),
        (_LOAD_OCTET, 0, 0, _IP_SOURCE),
        (_IF_EQUAL, 6, 0, 127),
        (_LOAD_OCTET, 0, 0, _IP_DESTINATION),
        (_IF_EQUAL, 0, 3, 127),
        (_LOAD, 0, 0, _PACKET_MARK),
        (_IF_ANY_BIT, 1, 0, mark),
        (_RETURN, 0, 0, _DROP),
        (_RETURN, 0, 0, _GO_ON),
        (_RETURN, 0, 0, _DROP),
    )
    return b"".join(_INSTRUCTION.pack(*one) for one in instructions)


_MARK_AT: Final = 9 * _INSTRUCTION.size + 4


def _where(index: int, handle: int, parent: int, info: int = 0) -> bytes:
    return _TCMSG.pack(0, index, handle, parent, info)


def make_hook(index: int) -> bytes:
    """The qdisc, which somebody may have made already."""
    return pack.message(RTM_NEWQDISC, pack.ADD, _where(index, _CLSACT_HANDLE, _CLSACT) + pack.text(_TCA_KIND, "clsact"))


def make_filter(index: int, mark: int) -> bytes:
    """The filter, at the hook that is there."""
    octets = program(mark)
    options = (
        pack.attribute(_TCA_BPF_OPS_LEN, struct.pack("=H", len(octets) // _INSTRUCTION.size))
        + pack.attribute(_TCA_BPF_OPS, octets)
        + pack.u32(_TCA_BPF_FLAGS, _DIRECT_ACTION)
    )
    body = _where(index, HANDLE, _INGRESS, _PREFERENCE << 16 | _ALL_PROTOCOLS)
    body += pack.text(_TCA_KIND, "bpf") + pack.attribute(_TCA_OPTIONS, options)
    return pack.message(RTM_NEWTFILTER, pack.ADD, body)


def delete_filter(index: int) -> bytes:
    """Our filter alone."""
    body = _where(index, HANDLE, _INGRESS, _PREFERENCE << 16 | _ALL_PROTOCOLS) + pack.text(_TCA_KIND, "bpf")
    return pack.message(RTM_DELTFILTER, 0, body)


def dump_filters(index: int) -> bytes:
    """What is at a link's hook; nothing where there is no hook."""
    return pack.message(RTM_GETTFILTER, pack.NLM_F_DUMP, _where(index, 0, _INGRESS))


def is_ours(body: bytes) -> bool:
    """Whether a message about a filter is about a guard."""
    _family, _index, handle, _parent, info = _TCMSG.unpack_from(body)
    return bool(handle == HANDLE and info >> 16 == _PREFERENCE)


def mark_of(body: bytes) -> int | None:
    """The mark that a filter lets pass; 0, which no guard has, when it is another program."""
    if not is_ours(body):
        return None
    options = unpack.attributes(unpack.attributes(body, _TCMSG.size).get(_TCA_OPTIONS, b""))
    octets = options.get(_TCA_BPF_OPS, b"")
    mark: int = struct.unpack_from("=I", octets, _MARK_AT)[0] if len(octets) >= _MARK_AT + 4 else 0
    in_force = unpack.u32_of(options, _TCA_BPF_FLAGS) & _DIRECT_ACTION
    return mark if in_force and octets == program(mark) else 0


# -- changes and reads -------------------------------------------------------------------------------------------------


def guard(batch: Batch, at: int, change: Change, resource: LoopbackGuard) -> None:
    """A guard has nothing that changes in place."""
    if change.operation == "delete":
        index = index_to_delete_on(batch, resource.ns, resource.link)
        batch.post(resource.ns, delete_filter(index), at)
        return
    index = batch.index(resource.ns, resource.link)
    batch.post(resource.ns, make_hook(index), at, tolerated=(errno.EEXIST,))
    batch.post(resource.ns, make_filter(index, resource.mark), at)


def read(view: View) -> Iterator[Observed]:
    """The guards of our own links: a filter of our number elsewhere is nobody's business."""
    for link in view.links.values():
        if link.kind == "bridge" and view.marked(link):
            for body in view.dump(dump_filters(link.index)):
                mark = mark_of(body)
                if mark is not None:
                    yield Observed(LoopbackGuard(view.ns, link.name, mark), ours=True)
