"""What the DNS server counts. The DNS thread alone writes; others read copies."""

from __future__ import annotations

import attrs


@attrs.define
class Counters:
    """Totals since the server was made."""

    queries: int = 0
    """Datagrams and TCP messages received, well-formed or not."""
    cached: int = 0
    """Answered from the cache."""
    answered: int = 0
    """Answered from the zones or by a backend, not from the cache."""
    forwarded: int = 0
    """Asked upstream, merged ones included."""
    merged: int = 0
    """Forwarded queries that joined one already under way."""
    refused: int = 0
    """Answered with FORMERR, NOTIMP, REFUSED or BADVERS for what they were."""
    ignored: int = 0
    """Not answered: responses, fragments of headers."""
    overloaded: int = 0
    """Answered SERVFAIL because too many forwards are in flight."""
    upstream_failures: int = 0
    """One upstream failed: silent, unreachable, or SERVFAIL or REFUSED."""
    forged: int = 0
    """Datagrams on an upstream socket that are no reply to our query."""
    unsent: int = 0
    """Replies that the socket did not take."""
    connections: int = 0
    """TCP connections accepted."""
    evicted: int = 0
    """TCP connections closed to make room."""
    timed_out: int = 0
    """TCP connections closed because they were idle, too slow or too old."""
    backend_failures: int = 0
    """A backend raised, was slow or broke its contract."""


@attrs.frozen
class Statistics:
    """One reading of the server."""

    running: bool
    sandboxes: int
    connections_open: int
    forwards_in_flight: int
    faults: int
    """Defects caught in handlers; anything but 0 deserves a report to us."""
    totals: Counters
