"""Links as messages: making, changing, parking bridges, pairs and VXLAN devices.

A link is made, looked at, and only then configured: a batch goes on after a refusal, and a message by name would hit
somebody else's link of that name. Deleting a link costs 20 ms, so links are parked (down, free, in the sweep's
group, renamed); only a VXLAN device goes at once, because its VNI must be free. It knows one change at a time.
"""

from __future__ import annotations

import errno
import threading
import time
from typing import Final

from libcnm.kernel.linux import pack, unpack
from libcnm.kernel.linux.batch import NO_FAMILY, OUR_GROUPS, Batch, Refused
from libcnm.kernel.resources import PARKED_GROUP, Bridge, Veth, Vxlan
from libcnm.model.resource import Change

VNI_PATIENCE_SECONDS: Final = 2.0
"""A namespace lets go of its VXLAN device 4-60 ms after it was removed, later on a busy machine; then the VNI is free.
"""
VNI_PAUSE_SECONDS: Final = 0.004
DEFAULT_MTU: Final = 1500
_DOWN_AND_FREE: Final = pack.u32(pack.IFLA_MASTER, 0) + pack.u32(pack.IFLA_GROUP, PARKED_GROUP)


def parked_name(index: int) -> str:
    """Free in its namespace, because the index is; and known again after a crash."""
    return f"pk-{index}"


def bridge(batch: Batch, at: int, change: Change, resource: Bridge) -> None:
    """A bridge, up."""
    if change.operation == "delete":
        index = _park(batch, at, resource.ns, resource.name)
        for port in batch.ports(resource.ns, index):
            batch.post(resource.ns, pack.set_link(port, pack.u32(pack.IFLA_MASTER, 0)), at, tolerated=(errno.ENODEV,))
        return
    if change.operation == "add":
        batch.post(resource.ns, pack.create_bridge(resource.name, resource.mac), at)
        if not _made(batch, at, resource):
            return
    _settle(batch, at, change, resource, _differing(change, resource, "mac", "mtu", "alias"))


def vxlan(batch: Batch, at: int, change: Change, resource: Vxlan) -> None:
    """A VXLAN device, made from the host's namespace into its own."""
    if change.operation == "delete":
        _ours(batch, resource.ns, resource.name)
        batch.post(resource.ns, pack.delete_link(resource.name), at)
        batch.forget(resource.ns, resource.name)
        return
    if change.operation == "add":
        if resource.master is not None:
            batch.index(resource.ns, resource.master)
        if not _create_vxlan(batch, at, resource):
            return
    _settle(batch, at, change, resource, _differing(change, resource, "mac", "mtu"))


def veth(batch: Batch, at: int, change: Change, resource: Veth) -> None:
    """A pair; its outer end up, a port of its master."""
    if change.operation == "delete":
        _park_pair(batch, at, resource)
        return
    if change.operation == "add" and not _create_veth(batch, at, resource):
        return
    _settle(batch, at, change, resource, _differing(change, resource, "mac", "mtu", "alias"))
    previous = change.previous
    if change.operation == "change" and not (
        isinstance(previous, Veth) and (previous.peer_mac, previous.mtu) == (resource.peer_mac, resource.mtu)
    ):
        inner = pack.attribute(pack.IFLA_ADDRESS, pack.mac_octets(resource.peer_mac)) + pack.u32(
            pack.IFLA_MTU, resource.mtu
        )
        batch.post(resource.peer_ns, pack.set_link(resource.peer_name, inner), at)


# -- making ------------------------------------------------------------------------------------------------------------


def _made(batch: Batch, at: int, resource: Bridge | Veth | Vxlan) -> bool:
    if batch.done(at):
        return True
    for _kind, ns, name in resource.provides:
        batch.link_refused(ns, name)
    return False


def _create_veth(batch: Batch, at: int, resource: Veth) -> bool:
    same = resource.peer_ns == resource.ns
    inner = (resource.peer_ns, resource.peer_name)
    batch.forget(*inner)

    def heard(body: bytes) -> None:
        index = unpack.first_u32(body, pack.IFLA_LINK, unpack.LINK_OCTETS)
        if index:
            batch.know(*inner, index)

    if resource.master is not None:
        batch.seek(resource.ns, resource.master, at)
    message = pack.create_veth(
        resource.name,
        resource.mac,
        resource.mtu,
        resource.peer_name,
        resource.peer_mac,
        peer_ns_fd=None if same else batch.channel(resource.peer_ns).fd,
        echo=True,
    )
    pair = batch.post(resource.ns, message, at, heard=heard)
    made = _made(batch, at, resource)
    if pair.accepted and not made:
        batch.post(resource.ns, pack.delete_link(resource.name), at)  # there is no such bridge
        batch.forget(*inner)
    if made:
        # What is configured inside wants it. Where the kernel has not told it, it is asked for now, when nothing waits
        # to be sent there. To wish for one is no use: it is ignored unless the outer end's is wished for, too.
        batch.index(*inner)
        batch.paired(inner, (resource.ns, resource.name, resource.master))
    return made


def _create_vxlan(batch: Batch, at: int, resource: Vxlan) -> bool:
    message = pack.create_vxlan(
        resource.name,
        resource.mac,
        resource.mtu,
        vni=resource.vni,
        local=resource.local,
        port=resource.port,
        ns_fd=batch.channel(resource.ns).fd if resource.ns else None,
    )
    until = time.monotonic() + VNI_PATIENCE_SECONDS
    while True:
        batch.post("", message, at)
        if _made(batch, at, resource):
            return True
        error = batch.outcomes[at]
        words = error.extack if error is not None and error.errno == errno.EEXIST else None
        if words is None or "VNI" not in words or time.monotonic() > until or not batch.deadline.remaining():
            return False
        batch.outcomes[at] = None
        holder = batch.vni_holder(resource.vni)
        if holder is not None:
            raise Refused(errno.EEXIST, f"{words} (VNI {resource.vni} is {holder}'s)")
        threading.Event().wait(VNI_PAUSE_SECONDS)


def _differing(change: Change, resource: Bridge | Veth | Vxlan, *fields: str) -> bytes:
    """The attributes to set in place; after making only those that the creating message does not take."""
    pack_field = {
        "mac": lambda value: pack.attribute(pack.IFLA_ADDRESS, pack.mac_octets(value)),
        "mtu": lambda value: pack.u32(pack.IFLA_MTU, value),
        "alias": lambda value: pack.attribute(pack.IFLA_IFALIAS, value.encode()) if value else b"",
    }
    previous = change.previous if isinstance(change.previous, type(resource)) else None
    # A bridge whose MTU is not set after it was made follows its ports' (and a loose 1,500 is what it has anyway).
    loose = ("alias", "mtu") if isinstance(resource, Bridge) and resource.mtu != DEFAULT_MTU else ("alias",)
    wanted = loose if change.operation == "add" else fields
    return b"".join(
        pack_field[field](getattr(resource, field))
        for field in wanted
        if field in fields and (previous is None or getattr(previous, field) != getattr(resource, field))
    )


def _settle(batch: Batch, at: int, change: Change, resource: Bridge | Veth | Vxlan, attributes: bytes) -> None:
    """The configuring messages. What cannot be configured after it was made is removed again."""
    ns, name = resource.ns, resource.name
    adding = change.operation == "add"
    undo = pack.delete_link(name) if adding else None
    if adding:
        # Were there no IPv6 to refuse, the rest of the message would have been done by then.
        attributes += pack.NO_AUTOMATIC_ADDRESSES
    if attributes:
        batch.post(ns, pack.set_link(name, attributes), at, tolerated=NO_FAMILY if adding else (), undo=undo)
    batch.post(ns, pack.set_link(name, _port(batch, change, resource), up=resource.up), at, undo=undo)
    if isinstance(resource, Veth):
        previous = change.previous if isinstance(change.previous, Veth) else None
        kept = previous is not None and previous.master == resource.master
        was = (previous.hairpin, previous.isolated) if previous is not None and kept else (False, False)
        if (resource.hairpin, resource.isolated) != was and resource.master is not None:
            port = pack.set_port(name, hairpin=resource.hairpin, isolated=resource.isolated)
            batch.post(ns, port, at, undo=undo)


def _port(batch: Batch, change: Change, resource: Bridge | Veth | Vxlan) -> bytes:
    if isinstance(resource, Bridge):
        return b""
    if resource.master is not None:
        return pack.u32(pack.IFLA_MASTER, batch.index(resource.ns, resource.master))
    return pack.u32(pack.IFLA_MASTER, 0) if change.operation == "change" else b""


# -- parking -----------------------------------------------------------------------------------------------------------


def _ours(batch: Batch, ns: str, name: str) -> int:
    """The index of a link that is ours to remove."""
    try:
        link = batch.look(ns, name)
    except Refused as refused:
        raise Refused(errno.ENODEV, refused.words) from None
    if link.group not in OUR_GROUPS and not batch.channel(ns).ours:
        raise Refused(errno.EPERM, f"the link {name!r} is not ours")
    if link.loopback:
        raise Refused(errno.EOPNOTSUPP, "the loopback link stays")
    return link.index


def _park(batch: Batch, at: int, ns: str, name: str) -> int:
    """Out of use, and out of its name; two messages because older kernels rename only what is down."""
    index = _ours(batch, ns, name)
    batch.post(ns, pack.set_link(index, _DOWN_AND_FREE, up=False), at)
    batch.post(ns, pack.set_link(index, pack.text(pack.IFLA_IFNAME, parked_name(index))), at)
    batch.forget(ns, name)
    return index


def _park_pair(batch: Batch, at: int, resource: Veth) -> None:
    outer = _park(batch, at, resource.ns, resource.name)
    if resource.peer_ns in batch.doomed:
        return  # it goes with its namespace
    try:
        inner = batch.look(resource.peer_ns, resource.peer_name)
    except Refused:
        return  # somebody was faster, or moved or renamed it: the sweep of the outer end takes it along
    if inner.kind != "veth" or inner.link != outer:
        return
    gone = (errno.ENODEV,)
    name = parked_name(inner.index)
    batch.post(resource.peer_ns, pack.set_link(inner.index, up=False), at, tolerated=gone)
    batch.post(resource.peer_ns, pack.set_link(inner.index, pack.text(pack.IFLA_IFNAME, name)), at, tolerated=gone)
    batch.forget(resource.peer_ns, resource.peer_name)
