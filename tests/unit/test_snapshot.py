"""The leak witness: it notices each kind of thing that can be left behind, and nothing when nothing happened."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from libcnm.testing.snapshot import Difference, Snapshot, difference


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


@contextmanager
def a_thread() -> Iterator[None]:
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="left-behind")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def a_child() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        yield
        child.communicate(b"\n")


@contextmanager
def a_listener() -> Iterator[None]:
    with socket.create_server(("127.0.0.1", 0)):
        yield


@contextmanager
def undone(do: str, undo: str) -> Iterator[None]:
    run(*do.split())
    try:
        yield
    finally:
        run(*undo.split())


@contextmanager
def netns_folder() -> Iterator[None]:
    """The first `ip netns add` makes its folder a mount point for good, which is not what is tested here."""
    try:
        with undone("ip netns add first", "ip netns del first"):
            yield
    finally:
        run("umount", "/run/netns")
        Path("/run/netns").rmdir()


ANYWHERE: dict[str, tuple[Callable[[], AbstractContextManager[None]], str]] = {
    "thread": (a_thread, "threads: left-behind"),
    "process": (a_child, "processes: "),
    "listener": (a_listener, "listening: tcp 127.0.0.1 port "),
    "socket": (a_listener, "fds: socket AF_INET"),
}
IN_THE_KERNEL = {
    "link": ("ip link add left0 type bridge", "ip link del left0", "links: left0 bridge down in own"),
    "address": ("ip addr add 10.9.8.7/32 dev lo", "ip addr del 10.9.8.7/32 dev lo", "addresses: 10.9.8.7/32 dev lo"),
    "address v6": ("ip addr add fd09::7/128 dev lo", "ip addr del fd09::7/128 dev lo", "addresses: fd09::7/128 dev lo"),
    "route": ("ip route add prohibit 10.9.0.0/16", "ip route del prohibit 10.9.0.0/16", "routes: 10.9.0.0/16 type 8"),
    "rule": (
        "ip rule add to 10.9.0.0/16 lookup 99",
        "ip rule del to 10.9.0.0/16 lookup 99",
        "rules: family 2 action 1 to",
    ),
    "nft": ("nft add table inet left", "nft delete table inet left", "nft tables: inet left in own"),
    "sysctl": (
        "sysctl -q -w net.ipv4.conf.all.route_localnet=1",
        "sysctl -q -w net.ipv4.conf.all.route_localnet=0",
        "sysctls: net.ipv4.conf.all.route_localnet=1 in own",
    ),
    "namespace": ("ip netns add left", "ip netns del left", "network namespaces: net:["),
    "mount": ("ip netns add left", "ip netns del left", "mounts: /run/netns/left nsfs"),
    "pinned": ("ip netns add left", "ip netns del left", "links: lo device down in /run/netns/left"),
}


def assert_noticed(what: AbstractContextManager[None], begins: str) -> None:
    before = Snapshot.take()
    with what:
        during = difference(before, Snapshot.take())
        assert any(item.startswith(begins) for item in during.appeared), f"{begins!r} not among:\n{during}"
    assert not difference(before, Snapshot.take())


@pytest.mark.parametrize("kind", ANYWHERE)
def test_a_leak_is_noticed(kind: str) -> None:
    """Each thing that a process can leave behind appears in the difference, and is gone from it when it is gone."""
    make, begins = ANYWHERE[kind]
    assert_noticed(make(), begins)


@pytest.mark.kernel
@pytest.mark.parametrize("kind", IN_THE_KERNEL)
def test_a_leak_in_the_kernel_is_noticed(kind: str) -> None:
    """And so does each thing that it can leave in the kernel, also in a namespace that only a mount keeps alive."""
    do, undo, begins = IN_THE_KERNEL[kind]
    if not shutil.which(do.split()[0]):
        pytest.skip(f"no `{do.split()[0]}` on this machine")
    with netns_folder():
        assert_noticed(undone(do, undo), begins)


def test_a_zombie_is_noticed() -> None:
    """A child that ended and was not waited for is a leak too."""
    before = Snapshot.take()
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert [item for item in difference(before, Snapshot.take()).appeared if item.endswith("(zombie)")]
    child.wait()
    assert not difference(before, Snapshot.take())


def test_a_detached_process_is_noticed_by_its_mark() -> None:
    """A daemon whose parent has gone and that has left our session is still ours: it carries the session's mark."""
    reader, writer = os.pipe()
    before = Snapshot.take()
    script = "import subprocess, sys; subprocess.Popen(['cat'], stdin=0, start_new_session=True)"
    run_daemon = subprocess.run([sys.executable, "-c", script], stdin=reader, check=False)
    assert run_daemon.returncode == 0
    assert [item for item in difference(before, Snapshot.take()).appeared if item.endswith(": cat")]
    os.close(writer)
    os.close(reader)


def test_files_are_listed_by_pattern(tmp_path: Path) -> None:
    """Hidden files and sub-folders included."""
    pattern = f"{tmp_path}/**"
    before = Snapshot.take([pattern])
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".hidden").touch()
    seen = difference(before, Snapshot.take([pattern]))
    assert seen.appeared == (f"files: {tmp_path}/deep", f"files: {tmp_path}/deep/.hidden")


def test_a_difference_counts_and_prints() -> None:
    """The same item twice is one more than once; what vanished is told as well; nothing is false and prints nothing."""
    before = Snapshot({"links": {"a": 1, "b": 1}})
    after = Snapshot({"links": {"a": 3}, "mounts": {"c": 1}})
    seen = difference(before, after)
    assert str(seen) == "+ links: a (x2)\n+ mounts: c\n- links: b"
    assert not difference(before, before)
    assert str(difference(before, before)) == ""


def test_what_is_known_can_be_taken_out() -> None:
    """Regular expressions match from an item's beginning."""
    seen = Difference(("links: a", "mounts: a"), ("links: b",))
    assert seen.without([r"links: [ab]$"]) == Difference(("mounts: a",), ())
