"""Reading tables and elements back from the kernel, all of one moment.

The kernel has no "give me this table": it is five dumps and one more per set. So the ruleset's generation is asked
before and after; a caller that meets :class:`~libcnm.kernel.linux.nft_socket.Stale` reads again. Law:
net/netfilter/nf_tables_api.c.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import attrs

from libcnm.kernel.firewall_rules import STRUCTURE
from libcnm.kernel.linux import nft_wire as wire
from libcnm.kernel.linux.nft_elements import Unreadable, codec
from libcnm.kernel.linux.nft_rules import COMMENT, comment_in
from libcnm.kernel.linux.nft_socket import NftSocket, Refused, Stale
from libcnm.kernel.linux.nft_table import Found, found_table, same_set
from libcnm.kernel.resources import FirewallElement, FirewallTable
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Resource


@contextmanager
def _one_moment(door: NftSocket, deadline: Deadline) -> Iterator[int]:
    """The generation during which the block ran; :class:`Stale` if it ran into another one."""
    generation = door.generation(deadline)
    try:
        yield generation
    except Refused as refused:
        if refused.errno == errno.ENOENT:  # what one dump told of was gone when the next one asked
            raise Stale from refused
        raise
    if door.generation(deadline) != generation:
        raise Stale


def _elements(
    door: NftSocket, ns: str, found: Found, deadline: Deadline
) -> tuple[frozenset[str], list[FirewallElement]]:
    """Elements of the sets whose types we know, and the names of sets that hold something unreadable."""
    unreadable: set[str] = set()
    read: list[FirewallElement] = []
    for declared in STRUCTURE.sets:
        if declared.name not in found.sets or not same_set(declared, found.sets[declared.name]):
            continue
        read_element = codec(declared.name).read
        body = wire.text(wire.ELEM_LIST_TABLE, found.name) + wire.text(wire.ELEM_LIST_SET, declared.name)
        for answer in door.ask(wire.GETSETELEM, body, deadline):
            for _, payload in wire.items(wire.attributes(answer).get(wire.ELEM_LIST_ELEMENTS, b"")):
                try:
                    read.append(read_element(ns, found.name, payload))
                except Unreadable:
                    unreadable.add(declared.name)
    return frozenset(unreadable), read


def _tables(door: NftSocket, deadline: Deadline) -> dict[str, wire.Attributes]:
    dumped = map(wire.attributes, door.ask(wire.GETTABLE, b"", deadline))
    return {wire.to_text(found[wire.TABLE_NAME]): found for found in dumped}


def _structure(door: NftSocket, name: str, about: wire.Attributes, deadline: Deadline) -> Found:
    chains = door.ask(wire.GETCHAIN, b"", deadline)
    rules = door.ask(wire.GETRULE, wire.text(wire.RULE_TABLE, name), deadline)
    sets = door.ask(wire.GETSET, wire.text(wire.SET_TABLE, name), deadline)
    return found_table(name, wire.to_number(about.get(wire.TABLE_FLAGS, b"")), chains, rules, sets)


def read_table(door: NftSocket, name: str, deadline: Deadline, *, elements: bool) -> tuple[Found | None, int]:
    """The table as it is, None if it is not there, and of which generation that is.

    Without ``elements`` it is not known whether all of them can be read, which takes a millisecond per hundred.
    """
    found = None
    with _one_moment(door, deadline) as generation:
        about = _tables(door, deadline).get(name)
        if about is not None:
            found = _structure(door, name, about, deadline)
            if elements:
                found = attrs.evolve(found, unreadable=_elements(door, "", found, deadline)[0])
    return found, generation


def read_resources(door: NftSocket, ns: str, names: Collection[str] | None, deadline: Deadline) -> list[Resource]:
    """Tables of these names (None: those that carry our comment) and their elements."""
    resources: list[Resource] = []
    with _one_moment(door, deadline):
        for name, about in _tables(door, deadline).items():
            ours = comment_in(about.get(wire.TABLE_USERDATA, b"")) == COMMENT if names is None else name in names
            if not ours:
                continue
            found = _structure(door, name, about, deadline)
            unreadable, elements = _elements(door, ns, found, deadline)
            version = attrs.evolve(found, unreadable=unreadable).version
            if version is not None:
                resources.append(FirewallTable(ns, name, version))
                resources.extend(elements)
    return resources


def read_element_of(door: NftSocket, wanted: FirewallElement, deadline: Deadline) -> FirewallElement | None:
    """The element that has the identity of ``wanted``, asked for by its key."""
    with contextlib.suppress(Unreadable):
        known = codec(wanted.set)
        body = wire.text(wire.ELEM_LIST_TABLE, wanted.table) + wire.text(wire.ELEM_LIST_SET, wanted.set)
        body += wire.nested(wire.ELEM_LIST_ELEMENTS, known.pack(wanted, data=False))
        for answer in door.ask(wire.GETSETELEM, body, deadline, dump=False):
            for _, payload in wire.items(wire.attributes(answer).get(wire.ELEM_LIST_ELEMENTS, b"")):
                found = known.read(wanted.ns, wanted.table, payload)
                if found.identity == wanted.identity:
                    return found
    return None
