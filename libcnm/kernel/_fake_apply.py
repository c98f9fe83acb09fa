"""One change to the fake kernel's state, of any kind: who makes it, and which events it causes.

Every function either makes its change whole or raises the refusal (a pair whose master refuses excepted: see
:func:`libcnm.kernel._fake_links.add_veth`). Knows no effects, deadlines or locks.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from typing import Any, Literal

from libcnm.errors import KernelError
from libcnm.kernel import _fake_links as link_law
from libcnm.kernel import _fake_routing as routing
from libcnm.kernel import _fake_rows as row_law
from libcnm.kernel import _fake_settings as setting_law
from libcnm.kernel._fake_state import NSFS_DEVICE, Link, Machine, Space, refuse
from libcnm.kernel.base import KernelEvent, NamespaceId
from libcnm.kernel.resources import (
    LINK_GROUP,
    Address,
    Bridge,
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
    Veth,
    Vxlan,
    link_identity,
)
from libcnm.model.resource import Change, Identity, Resource

_NOT_THERE = frozenset({errno.EADDRNOTAVAIL, errno.ESRCH, errno.ENODEV})
What = Literal["links", "addresses", "routes", "rules", "neighbours", "filters", "firewall", "lost"]
EVERYTHING: tuple[What, ...] = ("links", "addresses", "routes", "neighbours", "filters")
"""What a link going down or away may announce."""


def new_space(machine: Machine, *, made: bool, inode: int | None = None) -> Space:
    """A namespace with ``lo`` and nothing else; one that we make (``made``) has it up."""
    if inode is None:
        inode = machine.last_inode = machine.last_inode + 1
    space = Space(NamespaceId(NSFS_DEVICE, inode), settings=setting_law.new_settings(made=made))
    machine.spaces[space.id.inode] = space
    loopback = link_law.new_link(space, "lo", "loopback", "00:00:00:00:00:00", 65536, 0)
    loopback.up, loopback.automatic = made, not made
    return space


def check_name(name: str, subject: str) -> None:
    """A namespace's name is a file's name that we may use."""
    if not name or name.startswith(".") or "/" in name or "\0" in name or len(name.encode()) > 255:
        refuse(errno.EINVAL, subject, "it is not a name for a namespace")


def add_namespace(machine: Machine, namespace: Namespace, subject: str, source: int | None) -> None:
    """Pin a namespace: a new one, or the one that ``source`` names by its inode."""
    check_name(namespace.name, subject)
    if namespace.name in machine.pins:
        refuse(errno.EEXIST, subject)
    inode = new_space(machine, made=True).id.inode if source is None else source
    machine.pins[namespace.name] = inode
    if namespace.source is not None:
        machine.brought[namespace.name] = namespace.source


def delete_namespace(machine: Machine, name: str, subject: str) -> None:
    """Take a pin away; without any other the namespace goes, with its links and with the other ends of its pairs."""
    inode = machine.pins.pop(name, None)
    if inode is None:
        refuse(errno.ENOENT, subject)
    machine.brought.pop(name, None)
    if inode in machine.pins.values() or inode in machine.paths.values() or machine.spaces[inode] is machine.host:
        return
    space = machine.spaces[inode]
    for link in list(space.links.values()):
        if link.index in space.links:
            link_law.remove(machine, space, link)
    del machine.spaces[inode]


def vouch(machine: Machine, step: Change, refused: set[Identity], subject: str) -> None:
    """Whoever could not make a link in this batch must not go on with somebody else's of that name, as with its own."""
    resource = step.resource
    name = getattr(resource, "link", None) or getattr(resource, "master", None)
    ns = resource.identity[1]
    if name is None or link_identity(ns, name) not in refused or machine.whole(ns):
        return
    space = machine.space(ns)
    link = None if space is None else space.find(name)
    if isinstance(resource, Sysctl) or (isinstance(resource, Interface) and step.operation == "delete"):
        return
    if link is not None and link.group not in (LINK_GROUP, link_law.INNER_GROUP):
        number = errno.ENOENT if step.operation == "delete" else errno.ENODEV
        refuse(number, subject, f"the link {name!r} there is not ours")


def make(machine: Machine, resource: Resource, subject: str, *, marked: bool) -> None:
    """Add a resource other than a namespace, with our mark or (as somebody else's hand would) without."""
    group = LINK_GROUP if marked else 0
    if isinstance(resource, Bridge):
        link_law.add_bridge(machine, resource, subject, group=group)
    elif isinstance(resource, Veth):
        link_law.add_veth(machine, resource, subject, group=group)
    elif isinstance(resource, Vxlan):
        link_law.add_vxlan(machine, resource, subject, group=group)
    elif isinstance(resource, Interface):
        link_law.configure(machine, resource, subject, up=True)
    elif type(resource) in _ROWS:
        _ROWS[type(resource)][0](machine.need(resource.identity[1], subject), resource, subject, marked=marked)
    elif type(resource) in _SETTINGS:
        _apply_setting(machine, "add", resource, subject)
    else:
        refuse(errno.EOPNOTSUPP, subject)


def change(machine: Machine, resource: Resource, previous: Resource | None, subject: str) -> None:
    """Change in place what can be; what is told apart by all that it is can only be added, and is refused if there."""
    if isinstance(resource, Bridge | Veth | Vxlan):
        link_law.change_link(machine, resource, previous, subject)
    elif isinstance(resource, FirewallElement):
        space = machine.need(resource.ns, subject)
        setting_law.replace_element(space, resource, previous, subject)
    elif type(resource) in _SETTINGS:
        _apply_setting(machine, "change", resource, subject)
    else:
        make(machine, resource, subject, marked=True)


def unmake(machine: Machine, resource: Resource, subject: str) -> None:
    """Delete a resource other than a namespace; links are parked."""
    if isinstance(resource, Bridge | Veth | Vxlan):
        link_law.delete_link(machine, resource, subject)
    elif isinstance(resource, Interface):
        link_law.configure(machine, resource, subject, up=False)
    elif type(resource) in _ROWS:
        space = machine.need(resource.identity[1], subject)
        try:
            _ROWS[type(resource)][1](space, resource, subject)
        except KernelError as error:
            # Linux has a word for each kind; the door says ENOENT for all.
            number = errno.ENOENT if error.errno in _NOT_THERE else error.errno
            raise KernelError(number, subject, extack=error.extack) from None
    elif type(resource) in _SETTINGS:
        _apply_setting(machine, "delete", resource, subject)
    else:
        refuse(errno.EOPNOTSUPP, subject)


def _apply_setting(machine: Machine, operation: str, resource: Resource, subject: str) -> None:
    if isinstance(resource, Sysctl) and operation == "delete" and resource.restore is None:
        return  # nothing is written, wherever
    space = machine.need(resource.identity[1], subject)
    for link in _SETTINGS[type(resource)][operation](space, resource, subject) or ():
        link_law.forget_ipv6(space, link)


# The law takes each kind by its own type, which a table over kinds cannot say: Any stands for "the kind in the key".
_ROWS: dict[type[Resource], tuple[Callable[..., None], Callable[[Space, Any, str], None]]] = {
    Address: (row_law.add_address, row_law.delete_address),
    Route: (routing.add, routing.delete),
    Rule: (row_law.add_rule, row_law.delete_rule),
    Neighbour: (row_law.put_neighbour, row_law.delete_neighbour),
    Fdb: (row_law.put_fdb, row_law.delete_fdb),
    LoopbackGuard: (row_law.add_guard, row_law.delete_guard),
}
_SETTINGS: dict[type[Resource], dict[str, Callable[[Space, Any, str], Iterable[Link] | None]]] = {
    Sysctl: {"add": setting_law.set_value, "change": setting_law.set_value, "delete": setting_law.restore_value},
    FirewallTable: {
        "add": setting_law.add_table,
        "change": setting_law.replace_table,
        "delete": setting_law.delete_table,
    },
    FirewallElement: {"add": setting_law.add_element, "delete": setting_law.delete_element},
}
_WHAT: dict[type[Resource], tuple[What, ...]] = {
    Address: ("addresses", "routes"),
    Route: ("routes",),
    Rule: ("rules",),
    Neighbour: ("neighbours",),
    Fdb: ("neighbours",),
    LoopbackGuard: ("filters",),
    FirewallTable: ("firewall",),
    FirewallElement: ("firewall",),
}


def events_of(machine: Machine, step: Change) -> set[KernelEvent]:
    """Where to look again after (or before: ask twice) a change, by every name that its namespaces have."""
    resource = step.resource
    if isinstance(resource, Sysctl):
        # A sysctl announces nothing; switching IPv6 off announces what goes with it.
        what: tuple[What, ...] = ("addresses", "routes") if resource.key.endswith("disable_ipv6") else ()
    else:
        what = _WHAT.get(type(resource), EVERYTHING)
    spaces = [machine.space(resource.identity[1])]
    if isinstance(resource, Namespace):
        spaces = [machine.space(resource.name)]
        held = spaces[0]
        if held is not None:  # the other ends of pairs go with a namespace
            spaces += [machine.spaces[link.peer[0]] for link in held.links.values() if link.peer is not None]
    if isinstance(resource, Veth):
        spaces.append(machine.space(resource.peer_ns))
    names = {name for space in spaces if space is not None for name in machine.names(space.id.inode)}
    return {KernelEvent(name, one) for name in names for one in what}
