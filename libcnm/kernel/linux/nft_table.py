"""Our table as it was read from the kernel: is it what we mean it to be, and what turns it into that.

Pure: from attributes that were read to a judgement and to messages. Users' chains and sets (their names begin with
"user") are neither judged nor touched: a table is replaced by replacing everything else in it, inside one transaction,
and a set whose declaration is still the same keeps its elements. So packets never see a table without rules, and
published ports survive a new version of the structure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import attrs

from libcnm.kernel.firewall_rules import STRUCTURE, USER, Chain, Set
from libcnm.kernel.linux import nft_rules as rules
from libcnm.kernel.linux import nft_wire as wire

VERSION_CHAIN: Final = "forward"
"""The chain whose comment names the structure's version. (A table's comment can only be given when it is made.)"""
_VERSION_WORDS: Final = "libcnm structure "
_USER_WORDS: Final = "yours: sees every forwarded packet first; libcnm never changes it"
_ANONYMOUS: Final = 0x1
_ZERO: Final = bytes(4)
"""What the kernel leaves out of a dump: a set without flags."""


@attrs.frozen
class Found:
    """A table as it was read. ``unreadable``: sets with elements that no resource of ours can say."""

    name: str
    flags: int
    chains: Mapping[str, wire.Attributes]
    rules: Mapping[str, Sequence[bytes]]
    sets: Mapping[str, wire.Attributes]
    unreadable: frozenset[str] = frozenset()

    @property
    def our_chains(self) -> list[str]:
        """Chains that are not the users'."""
        return [name for name in self.chains if not name.startswith(USER)]

    @property
    def our_sets(self) -> list[str]:
        """Named sets that are not the users'; anonymous ones live and die with the rule that they are part of."""
        return [name for name, found in self.sets.items() if not name.startswith(USER) and not _is_anonymous(found)]

    @property
    def has_users_own(self) -> bool:
        """Whether users have put something in."""
        if any(name.startswith(USER) and name != USER for name in (*self.chains, *self.sets)):
            return True
        return bool(self.rules.get(USER))

    @property
    def version(self) -> str | None:
        """Which structure this is, with "-damaged" behind it when it is not what it says; None if nothing here is
        ours.
        """
        if not self.our_chains and not self.our_sets:
            return None
        if is_whole(self):
            return STRUCTURE.version
        comment = rules.comment_in(self.chains.get(VERSION_CHAIN, {}).get(wire.CHAIN_USERDATA, b""))
        claimed = comment.removeprefix(_VERSION_WORDS) if comment.startswith(_VERSION_WORDS) else "unknown"
        return f"{claimed}-damaged" if claimed in (STRUCTURE.version, "unknown") else claimed


def found_table(
    name: str,
    flags: int,
    chains: Sequence[bytes],
    table_rules: Sequence[bytes],
    sets: Sequence[bytes],
) -> Found:
    """The table ``name`` out of three dumps, which may speak of other tables too."""
    wanted = name.encode() + b"\0"
    found_chains: dict[str, wire.Attributes] = {}
    for payload in chains:
        found = wire.attributes(payload)
        if found[wire.CHAIN_TABLE] == wanted:
            found_chains[wire.to_text(found[wire.CHAIN_NAME])] = found
    found_rules: dict[str, list[bytes]] = {chain: [] for chain in found_chains}
    for payload in table_rules:
        found = wire.attributes(payload)
        if found[wire.RULE_TABLE] == wanted:
            chain = wire.to_text(found[wire.RULE_CHAIN])
            found_rules.setdefault(chain, []).append(found.get(wire.RULE_EXPRESSIONS, b""))
    found_sets: dict[str, wire.Attributes] = {}
    for payload in sets:
        found = wire.attributes(payload)
        if found[wire.SET_TABLE] == wanted:
            found_sets[wire.to_text(found[wire.SET_NAME])] = found
    return Found(name, flags, found_chains, found_rules, found_sets)


# -- judging -----------------------------------------------------------------------------------------------------------


def _is_anonymous(found: wire.Attributes) -> bool:
    return bool(wire.to_number(found.get(wire.SET_FLAGS, b"")) & _ANONYMOUS)


def same_set(declared: Set, found: wire.Attributes) -> bool:
    """Whether a set that was read is declared as we declare it."""
    meant = rules.set_declaration(declared)
    return all(found.get(kind, _ZERO) == value for kind, value in meant.items())


def _same_chain(meant: Chain, found: wire.Attributes, found_rules: Sequence[bytes]) -> bool:
    if (meant.hook is None) != (wire.CHAIN_HOOK not in found):
        return False
    if meant.hook is not None:
        sent = wire.attributes(bytes(rules.make_chain("", meant)), 20)
        hook = wire.attributes(found[wire.CHAIN_HOOK])
        if any(hook.get(kind) != value for kind, value in wire.attributes(sent[wire.CHAIN_HOOK]).items()):
            return False
        if any(found.get(kind) != sent[kind] for kind in (wire.CHAIN_POLICY, wire.CHAIN_TYPE)):
            return False
    return len(meant.rules) == len(found_rules) and all(
        rules.same(rules.pack_rule(rule), read) for rule, read in zip(meant.rules, found_rules, strict=True)
    )


def is_whole(found: Found) -> bool:
    """Whether everything that is ours is there as this version means it, and nothing else is."""
    chains = [chain for chain in STRUCTURE.chains if not chain.name.startswith(USER)]
    return (
        found.flags == 0
        and not found.unreadable
        and USER in found.chains
        and set(found.our_chains) == {chain.name for chain in chains}
        and set(found.our_sets) == {declared.name for declared in STRUCTURE.sets}
        and all(same_set(declared, found.sets[declared.name]) for declared in STRUCTURE.sets)
        and all(_same_chain(chain, found.chains[chain.name], found.rules[chain.name]) for chain in chains)
    )


# -- turning it into what it should be ---------------------------------------------------------------------------------


def _empty(found: Found, keep: frozenset[str]) -> Iterator[bytearray]:
    """Take away everything that is ours except the sets to ``keep``."""
    for chain in found.our_chains:
        yield rules.flush_chain(found.name, chain)
    for chain in found.our_chains:
        yield rules.delete_chain(found.name, chain)
    for name in found.our_sets:
        if name not in keep:
            yield rules.delete_set(found.name, name)


def make(name: str, found: Found | None) -> Iterator[bytearray]:
    """The messages that make the table, or make a whole one out of ``found``."""
    yield rules.make_table(name, new=found is None)
    keep: frozenset[str] = frozenset()
    if found is not None:
        same = (declared for declared in STRUCTURE.sets if declared.name in found.sets)
        keep = frozenset(
            declared.name
            for declared in same
            if declared.name not in found.unreadable and same_set(declared, found.sets[declared.name])
        )
        yield from _empty(found, keep)
    for identifier, declared in enumerate(STRUCTURE.sets, 1):
        if declared.name not in keep:
            yield rules.make_set(name, declared, identifier)
    for chain in STRUCTURE.chains:
        if chain.name == USER:
            if found is None or USER not in found.chains:
                yield rules.make_chain(name, chain, _USER_WORDS)
        else:
            comment = _VERSION_WORDS + STRUCTURE.version if chain.name == VERSION_CHAIN else ""
            yield rules.make_chain(name, chain, comment)
    for chain in STRUCTURE.chains:
        yield from rules.make_rules(name, chain)


def unmake(found: Found) -> Iterator[bytearray]:
    """The messages that take the table away; what users have put in stays."""
    if found.has_users_own:
        yield from _empty(found, frozenset())
    else:
        yield rules.delete_table(found.name)
