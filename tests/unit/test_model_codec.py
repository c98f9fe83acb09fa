"""Records to JSON and back; what cannot be trusted is Corrupt, with its key, and never half-read."""

from __future__ import annotations

import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libcnm.errors import Corrupt
from libcnm.model import keys
from libcnm.model.codec import SCHEMA, decode, encode
from libcnm.model.records import EndpointRecord, Mark, NameClaim, NetworkRecord
from libcnm.testing.records import key_of, records

NETWORK = NetworkRecord("a" * 64, "blue", "bridge", "local", mark=Mark("0f" * 16, "host"))
KEY = keys.network(NETWORK.id)


@given(records())
def test_a_record_comes_back_as_it_was(record: attrs.AttrsInstance) -> None:
    """Any record of any kind: encoded, decoded, equal; encoded again, the same bytes."""
    value = encode(record)
    again = decode(type(record), value, key_of(record))
    assert record == again
    assert value == encode(again)


@given(records(), st.text(min_size=1))
def test_unknown_fields_are_not_dropped_silently(record: attrs.AttrsInstance, field: str) -> None:
    """A field that this version does not know is a newer record: Corrupt names it and the key."""
    known = {one.name for one in attrs.fields(type(record))} | {"k", "v"}
    body = {**json.loads(encode(record)), f"x-{field}": 1}
    assert f"x-{field}" not in known
    with pytest.raises(Corrupt, match=r"some/key.*unknown fields"):
        decode(type(record), json.dumps(body).encode(), "some/key")


@given(records(), st.one_of(st.integers().filter(lambda number: number != SCHEMA), st.none(), st.text()))
def test_another_schema_version_is_not_guessed_at(record: attrs.AttrsInstance, version: object) -> None:
    """A record of a newer (or no) version is Corrupt, and the error says what to do."""
    body = {**json.loads(encode(record)), "v": version}
    with pytest.raises(Corrupt) as raised:
        decode(type(record), json.dumps(body).encode(), key_of(record))
    assert "upgrade this host's libcnm" == raised.value.hint


@given(st.binary(max_size=64))
def test_garbage_is_corrupt(value: bytes) -> None:
    """Whatever lies at a key, reading it raises Corrupt or gives a record, nothing else."""
    try:
        decode(NameClaim, value, "key")
    except Corrupt as error:
        assert "key" == error.what  # noqa: PT017  # a record is as good an answer


@given(records(), st.data())
def test_a_field_of_another_type_is_corrupt(record: attrs.AttrsInstance, data: st.DataObject) -> None:
    """Each field's type is checked: a number for a text, a text for a list, a list for an object."""
    body = json.loads(encode(record))
    fields = sorted(body.keys() - {"k", "v"})
    if fields:
        field = data.draw(st.sampled_from(fields))
        body[field] = {"no such": [object.__name__]} if not isinstance(body[field], dict) else 7
        with pytest.raises(Corrupt):
            decode(type(record), json.dumps(body).encode(), key_of(record))


@pytest.mark.parametrize(
    "change",
    [
        {"id": 7}, {"id": None}, {"internal": 1}, {"internal": "yes"}, {"vni": True}, {"vni": "7"}, {"pools": {}},
        {"pools": [{"id": "x"}]}, {"options": []}, {"options": {"a": 1}}, {"state": "odd"}, {"scope": "swarm"},
        {"created": "now"}, {"mark": {"operation": "x"}},
        {"pools": [{"id": "x", "space": "local", "subnet": "10.0.0.1/24"}]},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_network_record_may_not_hold(change: dict[str, object]) -> None:
    """Values of other types, states that do not exist, blocks with host bits."""
    body = {**json.loads(encode(NETWORK)), **change}
    with pytest.raises(Corrupt):
        decode(NetworkRecord, json.dumps(body).encode(), KEY)


def test_a_record_of_another_kind_is_corrupt() -> None:
    """An endpoint is not read as a network, whatever its fields."""
    with pytest.raises(Corrupt, match="not a EndpointRecord"):
        decode(EndpointRecord, encode(NETWORK), KEY)


def test_a_missing_field_is_corrupt() -> None:
    """A field without a default must be there."""
    body = json.loads(encode(NETWORK))
    del body["name"]
    with pytest.raises(Corrupt, match="name"):
        decode(NetworkRecord, json.dumps(body).encode(), KEY)


def test_defaults_take_no_room() -> None:
    """Only what differs from its default is written: a transaction's bytes are counted."""
    assert {"k", "v", "holder"} == json.loads(encode(NameClaim("x"))).keys()
