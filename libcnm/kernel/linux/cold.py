"""What is read seldom, decoded by pyroute2: policy rules and counters.

pyroute2 takes 0.2 s to import, so only the functions here import it, and no verb's usual way leads through them.
Nothing of pyroute2 leaves this module: callers get numbers and names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import attrs

from libcnm.kernel.base import LinkStatistics
from libcnm.kernel.linux import pack
from libcnm.kernel.resources import PARKED_GROUP

_OTHER_SELECTORS = ("FRA_SRC", "FRA_DST", "FRA_OIFNAME", "FRA_L3MDEV", "FRA_UID_RANGE", "FRA_IP_PROTO")


_ACTIONS: Mapping[int, Literal["lookup", "goto", "nop"]] = {1: "lookup", 2: "goto", 3: "nop"}


@attrs.frozen
class RuleRow:
    """One policy rule; ``simple``: it has no selector beyond these, and does what a rule of ours may do."""

    priority: int
    table: int
    iif: str | None
    mark: int | None
    mask: int
    protocol: int
    action: Literal["lookup", "goto", "nop"]
    goto: int
    simple: bool


def _decoded(message_class: Any, kind: int, bodies: Iterable[bytes]) -> Iterator[Any]:
    for body in bodies:
        message = message_class(pack.message(kind, 0, body))
        message.decode()
        yield message


def rules(bodies: Iterable[bytes]) -> Iterator[RuleRow]:
    """RTM_NEWRULE."""
    from pyroute2.netlink.rtnl.fibmsg import fibmsg

    for rule in _decoded(fibmsg, pack.RTM_NEWRULE, bodies):
        protocol = rule.get_attr("FRA_PROTOCOL")
        mark = rule.get_attr("FRA_FWMARK")
        mask = rule.get_attr("FRA_FWMASK")
        table = rule.get_attr("FRA_TABLE")
        yield RuleRow(
            priority=rule.get_attr("FRA_PRIORITY") or 0,
            table=table or rule["table"],
            iif=rule.get_attr("FRA_IIFNAME"),
            mark=(mark or 0) if mask else None,  # the kernel leaves a mark of 0 out, and without a mask there is none
            mask=mask or 0xFFFFFFFF,
            protocol=protocol if isinstance(protocol, int) else 0,
            action=_ACTIONS.get(rule["action"], "nop"),
            goto=rule.get_attr("FRA_GOTO") or 0,
            simple=rule["action"] in _ACTIONS
            and not rule["flags"] & 2  # inverted
            and not any(rule.get_attr(name) for name in _OTHER_SELECTORS),
        )


def counters(bodies: Iterable[bytes]) -> Mapping[str, LinkStatistics]:
    """RTM_NEWLINK: the counters of every link, by name."""
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    names = [field.name for field in attrs.fields(LinkStatistics)]
    found: dict[str, LinkStatistics] = {}
    for link in _decoded(ifinfmsg, pack.RTM_NEWLINK, bodies):
        if link.get_attr("IFLA_GROUP") == PARKED_GROUP:
            continue
        numbers = link.get_attr("IFLA_STATS64") or link.get_attr("IFLA_STATS") or {}
        found[link.get_attr("IFLA_IFNAME")] = LinkStatistics(**{name: numbers.get(name, 0) for name in names})
    return found
