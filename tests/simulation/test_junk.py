"""Whatever is handed to whichever argument of whichever verb: a typed error and nothing touched, or it was good."""

from __future__ import annotations

import datetime as dt
import inspect
import ipaddress
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libcnm.controller.controller import Controller
from libcnm.controller.endpoint import Endpoint
from libcnm.controller.network import Network
from libcnm.controller.registry import Registry
from libcnm.controller.sandbox import Sandbox
from libcnm.errors import CnmError, DeadlineExceeded
from libcnm.model.addresses import Subnet
from libcnm.model.ports import Port
from libcnm.testing.world import FakeHost, FakeWorld

SOAK, BRIEF = os.environ.get("HYPOTHESIS_PROFILE") == "soak", os.environ.get("LIBCNM_EFFORT") == "brief"
EXAMPLES = 300 if SOAK else 3 if BRIEF else 10
"""For each argument."""
CLASSES = (Controller, Network, Endpoint, Sandbox)
NOT_ASKED = {"doors", "registry", "options", "self"}
"""What tests put in place of the host, and what goes to subprocess as it is."""


def verbs() -> Iterator[tuple[str, str]]:
    """Every public method, by its class: a new one is under test as soon as it is there."""
    for one in CLASSES:
        for name, member in vars(one).items():
            if inspect.isfunction(member) and not name.startswith("_") and name not in ("close", "record_for"):
                yield one.__name__, name


def arguments(of: Callable[..., object]) -> dict[str, inspect.Parameter]:
    return {name: one for name, one in inspect.signature(of).parameters.items() if name not in NOT_ASKED}


class Scene:
    """A host with one of each: ``endpoint`` is attached to ``sandbox``, ``spare`` is free."""

    def __init__(self, host: FakeHost) -> None:
        self.host = host
        self.before_all = host.everything()
        self.cnm = host.controller()
        self.cnm.networks()  # registers the host with the cluster
        self.network = self.cnm.create_network("net")
        self.sandbox = self.cnm.create_sandbox("c1")
        self.endpoint = self.network.create_endpoint("one").join(self.sandbox)
        self.spare = self.network.create_endpoint("two")
        self.good: dict[str, Any] = {
            "name": "fresh", "ref": "one", "container_id": "c2", "sandbox": self.sandbox, "argv": ["true"],
            "hostname": "other", "rehearse": lambda _: None,
        }  # fmt: skip

    def call(self, cls: str, verb: str, argument: str, junk: object) -> None:
        subjects: dict[str, object] = {"Controller": self.cnm, "Network": self.network, "Sandbox": self.sandbox}
        subject = subjects.get(cls) or (self.spare if verb == "join" else self.endpoint)
        method = getattr(subject, verb)
        required = {
            name: self.good[name] for name, one in arguments(method).items() if one.default is inspect.Parameter.empty
        }
        result = method(**{**required, argument: junk})
        if verb == "events":
            result.close()

    def check_whole(self) -> None:
        """What there is can be read, is as it should be, and can go."""
        with self.host.controller() as again:
            assert [] == again.doctor()
            for network in again.networks():
                json.dumps([network.inspect(), *(one.inspect() for one in network.endpoints())])
            for sandbox in again.sandboxes():
                json.dumps(sandbox.inspect())
                sandbox.delete()
            for network in again.networks():
                network.delete(force=True)
        kept = ("installation", "run-dir", "host/", "lineage", "vni-hint", "request/", "presence/")
        assert {one for one in self.host.everything() - self.before_all if not one.startswith(kept)} == set()


def touched(host: FakeHost) -> set[str]:
    """All that is there, but for the notes that a request has been heard of."""
    return {one for one in host.everything() if not one.startswith("request/")}


@contextmanager
def scene() -> Iterator[Scene]:
    with FakeWorld(("one",)) as world:
        made = Scene(world.host("one"))
        try:
            yield made
        finally:
            made.cnm.close()


def texts() -> st.SearchStrategy[str]:
    """Any, also such as UTF-8 cannot say, and those that nearly mean something."""
    nearly = (
        "", ".", "..", "/", "a/b", "a..b", "a.", "Net", "x" * 64, "x" * 129, "10.9.0.0/32", "10.9.0.0/0.0.0.255",
        "::/0", "ff02::1", "0.0.0.0", "fe80::1%eth0", "01:00:5e:00:00:01", "00:00:00:00:00:00", "\ud800", "/a\0b",
        "80:0", "-1", "true", "no", "lo", "memory:", "0000080:00000443", "/proc/self/ns/net", "2" * 5000,
    )  # fmt: skip
    return st.text(st.characters(), max_size=8) | st.sampled_from(nearly)


def scalars() -> st.SearchStrategy[object]:
    odd: list[object] = [
        10**5000, -(10**5000), Decimal(1), 1j, dt.date(2020, 1, 1), object(), NotImplemented, ..., Port(80), Subnet(),
        ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("ff02::1"), ipaddress.ip_network("10.0.0.0/8"),
        ipaddress.ip_interface("10.0.0.1/8"), range(10**30),
    ]  # fmt: skip
    numbers = st.integers() | st.floats() | st.booleans()
    return st.none() | numbers | texts() | st.binary(max_size=8) | st.sampled_from(odd)


def hashables() -> st.SearchStrategy[Any]:
    return texts() | st.integers() | st.none() | st.booleans()


def junk() -> st.SearchStrategy[object]:
    some = st.lists(scalars(), max_size=3)
    return st.one_of(
        scalars(),
        some,
        some.map(tuple),
        some.map(iter),
        st.frozensets(hashables(), max_size=3),
        st.dictionaries(hashables(), scalars() | some, max_size=3),
        st.lists(texts(), min_size=1, max_size=100),
        st.lists(some, max_size=2),
    )


def raised_by(call: Callable[[], object]) -> CnmError | None:
    """The error of ours, which can be shown to people and programs; any other one is the test's failure."""
    try:
        call()
    except CnmError as error:
        json.dumps(error.as_dict(), allow_nan=False)
        return error
    return None


CALLS = [
    (cls, verb, argument)
    for cls, verb in verbs()
    for argument in arguments(getattr({one.__name__: one for one in CLASSES}[cls], verb))
]


def test_every_verb_is_asked() -> None:
    """The table is made from the classes themselves."""
    assert len(CALLS) > 60
    assert {"create_network", "create_endpoint", "join", "refresh"} <= {verb for _, verb, _ in CALLS}


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "verb", "argument"), CALLS)
@given(value=junk())
@settings(max_examples=EXAMPLES)
def test_junk_is_refused_before_anything_is_touched(cls: str, verb: str, argument: str, value: object) -> None:
    """Only errors of ours, which can be shown; after one, store and kernel are as they were. What is taken is whole."""
    with scene() as here:
        before = touched(here.host)
        error = raised_by(lambda: here.call(cls, verb, argument, value))
        if error is not None and not isinstance(error, DeadlineExceeded):  # no time at all is a good budget
            assert before == touched(here.host)
        here.check_whole()


@pytest.mark.slow
@pytest.mark.parametrize("argument", arguments(Controller.__init__))
@given(value=junk())
@settings(max_examples=EXAMPLES)
def test_junk_opens_no_controller(argument: str, value: object) -> None:
    """Nor does it change the host, or keep the doors open."""
    with FakeWorld(("one",)) as world:
        host = world.host("one")
        with host.controller():
            before = host.everything()
        good: dict[str, Any] = {
            "state_dir": host.paths.state_dir, "run_dir": host.paths.run_dir, "host": host.name, "resident": "inline",
        }  # fmt: skip
        arguments = {**good, argument: value}
        if raised_by(lambda: Controller(**arguments, doors=host.doors(), registry=Registry()).close()) is not None:
            assert before == host.everything()
