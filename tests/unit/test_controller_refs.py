"""Endpoints and sandboxes by name, id and the beginning of an id: which is meant, and what finding it costs."""

from __future__ import annotations

import pytest

from libcnm.controller.controller import Controller
from libcnm.errors import NotFound, Unavailable
from libcnm.kv.base import Delete, Listing, Put, Transaction
from libcnm.kv.memory import MemoryStore
from libcnm.model import keys
from libcnm.model.codec import encode
from libcnm.model.deadline import Deadline
from libcnm.model.records import NameClaim


def test_a_name_wins_over_the_beginning_of_an_id_and_an_id_over_a_name(cnm: Controller) -> None:
    """As for networks. A name is as it was given: DNS knows no case, Python does."""
    network = cnm.create_network("net")
    web, box = network.create_endpoint("web"), cnm.create_sandbox("c1")
    for ref in ("web", web.id, web.id[:9]):
        assert web == network.endpoint(ref)
    for ref in ("c1", box.id, box.id[:9]):
        assert box == cnm.sandbox(ref)
    short = cnm.create_sandbox(box.id[:9])
    assert short == cnm.sandbox(box.id[:9])
    cnm.create_sandbox(box.id)  # a container that is called as another's sandbox is
    assert box == cnm.sandbox(box.id)
    for missing in ("WEB", "we", f"{web.id[:-1]}g"):
        with pytest.raises(NotFound):
            network.endpoint(missing)
    with pytest.raises(NotFound):
        cnm.sandbox("x1")


class Unlisted(MemoryStore):
    """A store that holds too much to be listed."""

    def list(self, prefix: str, *, deadline: Deadline) -> Listing:
        raise Unavailable("the store", f"listed below {prefix!r}")


def test_what_is_named_in_full_is_found_without_listing_the_others(cnm: Controller) -> None:
    """A network may have a thousand endpoints, and on a cluster's store each listing travels."""
    network = cnm.create_network("net")
    web, box = network.create_endpoint("web"), cnm.create_sandbox("c1")
    local = cnm._calls.context.local
    kept, unlisted = local.store, Unlisted()
    deadline = cnm._calls.context.doors.clock.deadline(10.0)
    for entry in kept.list("", deadline=deadline).entries:
        unlisted.transact(Transaction(writes=(Put(entry.key, entry.value),)), deadline=deadline)
    local.store = unlisted
    try:
        found = [network.endpoint("web"), network.endpoint(web.id), cnm.sandbox("c1"), cnm.sandbox(box.id)]
    finally:
        local.store = kept
    assert [web, web, box, box] == found


def test_a_damaged_claim_hides_nobody(cnm: Controller) -> None:
    """The records say what there is; a claim is the quick way to them."""
    network = cnm.create_network("net")
    web, box = network.create_endpoint("web"), cnm.create_sandbox("c1")
    context = cnm._calls.context
    deadline = context.doors.clock.deadline(10.0)
    damaged = Put(keys.endpoint_name(network.id, "web"), b"not JSON")
    context.doors.local.transact(Transaction(writes=(damaged, Delete(keys.container("c1")))), deadline=deadline)
    assert web == network.endpoint("web")
    assert box == cnm.sandbox("c1")
    astray = (
        Put(keys.container("xyz"), encode(NameClaim(box.id))),
        Put(keys.endpoint_name(network.id, "xyz"), encode(NameClaim(web.id))),
    )
    context.doors.local.transact(Transaction(writes=astray), deadline=deadline)
    for find in (network.endpoint, cnm.sandbox):
        with pytest.raises(NotFound):
            find("xyz")
