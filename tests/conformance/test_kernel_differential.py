"""The fake kernel against Linux: the same changes, the same refusals, and the same things to read afterwards.

Nothing is forgiven here. What is known to differ lies outside of what is drawn, and is told in kernel_differences.md.
"""

from __future__ import annotations

import errno
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libcnm.kernel.base import Kernel
from libcnm.kernel.fake import FakeKernel
from libcnm.kernel.linux import syscalls
from libcnm.kernel.linux.kernel import LinuxKernel
from libcnm.kernel.linux.worker import Home
from libcnm.kernel.resources import Bridge, Namespace, Sysctl, Veth, Vxlan
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Change, Observed
from libcnm.testing import strategies

PATIENCE_SECONDS = 5.0
EVERYWHERE = frozenset(strategies.NAMESPACES)


pytestmark = pytest.mark.kernel


def within() -> Deadline:
    return Deadline.after(30.0, time.monotonic)


def fresh_host() -> int:
    """A descriptor of a new network namespace with ``lo`` down; a thread that ends at once goes there to open it."""
    opened: list[int] = []

    def go() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        opened.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    return opened[0]


@contextmanager
def linux() -> Iterator[LinuxKernel]:
    """A door to a host of its own; its pins are gone afterwards."""
    home = fresh_host()
    try:
        with tempfile.TemporaryDirectory() as run_dir:
            kernel = LinuxKernel(run_dir, home=Home(net=home))
            try:
                yield kernel
            finally:
                pinned = [one.resource for one in kernel.read({""}, {Namespace}, deadline=within())]
                kernel.apply([Change("delete", namespace) for namespace in pinned], deadline=within())
                kernel.close()
    finally:
        os.close(home)


def outcomes(kernel: Kernel, batch: Sequence[Change]) -> list[str]:
    """``-`` or the name of the errno, for each change."""
    refused = kernel.apply(batch, deadline=within())
    names = ["-" if error is None else errno.errorcode.get(error.errno, str(error.errno)) for error in refused]
    # A setting that is not written back is left alone, or not there: either way nothing happens (see the page).
    return ["-" if is_left_alone(change) else name for change, name in zip(batch, names, strict=True)]


def is_left_alone(change: Change) -> bool:
    return change.operation == "delete" and isinstance(change.resource, Sysctl) and change.resource.restore is None


def state(kernel: Kernel) -> dict[str, str]:
    """Everything that can be read, in a form that compares and prints well."""
    observed = kernel.read(EVERYWHERE, deadline=within())
    return {" ".join((*one.resource.identity, _fields(one))): "ours" if one.ours else "theirs" for one in observed}


def _fields(one: Observed) -> str:
    """What equality is about: an alias is for people, and a namespace's source is history."""
    return str(
        {field.name: getattr(one.resource, field.name) for field in attrs.fields(type(one.resource)) if field.eq}
    )


def agree(fake: Kernel, real: Kernel) -> tuple[dict[str, str], dict[str, str]]:
    """Both states, once they are equal or Linux has had time for what it does in its own (removing a namespace)."""
    expected = state(fake)
    end = time.monotonic() + PATIENCE_SECONDS
    while (actual := state(real)) != expected and time.monotonic() < end:
        threading.Event().wait(0.01)
    return expected, actual


def batches(fake: FakeKernel, sequence: Sequence[Change], sizes: Sequence[int]) -> Iterator[list[Change]]:
    """The sequence in pieces, which the fake is about to be given.

    Two things end a piece, because Linux needs a moment for what follows: a namespace's end takes its links along,
    and a link that was made but could not be configured is only taken away after the batch.
    """
    rest = list(sequence)
    for size in itertools.cycle(sizes):
        if not rest:
            return
        piece = rest[:size]
        foreseen = outcomes(fake.fork(), piece)
        ends = (at for at, (change, error) in enumerate(zip(piece, foreseen, strict=True), 1) if is_end(change, error))
        cut = next(ends, size)
        yield rest[:cut]
        rest = rest[cut:]


def is_end(change: Change, error: str) -> bool:
    if isinstance(change.resource, Namespace):
        return change.operation == "delete"
    return isinstance(change.resource, Bridge | Veth | Vxlan) and error not in ("-", "EEXIST", "ENODEV", "ENOENT")


@given(sequence=strategies.change_sequences(), sizes=st.lists(st.integers(1, 12), min_size=1, max_size=3))
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_fake_is_like_linux(sequence: list[Change], sizes: list[int]) -> None:
    """In whatever batches: each change has the same outcome on both, and then both read alike."""
    fake = FakeKernel(uplinks=(), lo_up=False)
    with linux() as real:
        for batch in batches(fake, sequence, sizes):
            expected, actual = outcomes(fake, batch), outcomes(real, batch)
            assert expected == actual, [f"{change} {change.resource}" for change in batch]
            expected_state, actual_state = agree(fake, real)
            assert expected_state == actual_state, [f"{change} {change.resource}" for change in batch]
        for change in sequence:
            held, there = (kernel.read_one(change.resource, deadline=within()) for kernel in (fake, real))
            assert held == there, f"reading {change.resource}"
