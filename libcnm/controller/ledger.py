"""The ledger: this host's own note of what is attached to its sandboxes, one line for each attachment.

Whoever changes an attachment writes its line in the same transaction. A line of a network of the cluster holds the
records as this host has made them: what the cluster's store says is no other host's to decide.
"""

from __future__ import annotations

from libcnm.contracts.driver import Driver
from libcnm.controller.context import Context
from libcnm.controller.repository import put
from libcnm.kv.base import Transaction
from libcnm.model import keys
from libcnm.model.deadline import Deadline
from libcnm.model.records import Attachment, EndpointRecord, LedgerLine, NetworkRecord


def key(network: NetworkRecord, record: EndpointRecord) -> str:
    """Where the line of an attachment is."""
    assert record.attachment is not None, "only attachments are in the ledger"
    return keys.attachment(record.attachment.sandbox_id, network.scope, network.id, record.id)


def line(network: NetworkRecord, record: EndpointRecord) -> Transaction:
    """Write the line of an attachment, whatever was there."""
    known = LedgerLine(network, record) if network.scope == "global" else LedgerLine()
    return put(key(network, record), known)


def places(driver: Driver, network: NetworkRecord, record: EndpointRecord) -> tuple[str, ...]:
    """Where an attachment of a local network is written; the presence perhaps by an earlier one's verb, which has died
    before it could tell.
    """
    presence = (keys.presence(network.id),) if driver.capabilities.presence == "attached" else ()
    return (*presence, keys.endpoint(network.id, record.id), key(network, record))


def own_place(context: Context, place: Attachment, endpoint_id: str, deadline: Deadline) -> Attachment | None:
    """The attachment as this host made it: what namespace and interface to take away is no other host's to say."""
    known = (one.record.endpoint for one in context.local.ledger(place.sandbox_id, deadline))
    return next((one.attachment for one in known if one is not None and one.id == endpoint_id), None)
