"""Every effect is announced: the system calls that strace sees against what the hook was told, and who imports what."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = """
import ipaddress, json, subprocess, sys, time
from libcnm.kernel.linux import LinuxKernel
from libcnm.kernel.resources import *
from libcnm.model.deadline import Deadline
from libcnm.model.resource import Change

def within():
    return Deadline.after(30.0, time.monotonic)

told = []
kernel = LinuxKernel(sys.argv[1], on_effect=lambda name, when: told.append(name) if when == "before" else None)
made = [
    Bridge("", "br0", "02:42:00:00:00:01", 1400, alias="blue"),
    Address("", "br0", ipaddress.ip_interface("10.9.0.1/24")),
    Namespace("s1"),
    Namespace("s2"),
    Veth("", "ve1", "02:42:00:00:01:01", "s1", "eth0", "02:42:00:00:02:01", master="br0", alias="web"),
    Veth("", "ve2", "02:42:00:00:01:02", "s2", "eth0", "02:42:00:00:02:02", master="br0", hairpin=True),
    Interface("s1", "lo"),
    Interface("s1", "eth0"),
    Sysctl("s1", "net/ipv6/conf/eth0/disable_ipv6", "0"),
    Address("s1", "eth0", ipaddress.ip_interface("10.9.0.2/24")),
    Address("s1", "eth0", ipaddress.ip_interface("fd00::2/64")),
    Route("s1", ipaddress.ip_network("0.0.0.0/0"), "eth0", ipaddress.ip_address("10.9.0.1")),
    Rule("", 4, 7000, 8472, mark=1, mask=1),
    Namespace("1-blue"),
    Bridge("1-blue", "br0", "02:42:00:00:00:01", 1450),
    Vxlan("1-blue", "vxlan0", 4097, "02:42:00:00:00:02", ipaddress.ip_address("127.0.0.1"), master="br0"),
    Neighbour("1-blue", "vxlan0", ipaddress.ip_address("10.9.0.7"), "02:42:00:00:02:07"),
    Fdb("1-blue", "vxlan0", "02:42:00:00:02:07", ipaddress.ip_address("192.0.2.7")),
]
outcomes = list(kernel.apply([Change("add", each) for each in made], deadline=within()))
kernel.read({"", "s1", "1-blue"}, set(type(each) for each in made) - {Rule}, deadline=within())
outcomes += kernel.apply([Change("change", Bridge("", "br0", "02:42:00:00:00:03"), made[0])], deadline=within())
outcomes += kernel.apply([Change("delete", each) for each in reversed(made)], deadline=within())
kernel.sweep()
assert not any(outcomes), outcomes
kernel.host_networks(), kernel.local_addresses()
assert not [name for name in sys.modules if name.startswith("pyroute2")]
kernel.close()
print(json.dumps(told))
"""


@pytest.fixture
def script(tmp_path: Path) -> list[str]:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return ["unshare", "-nm", sys.executable, str(path), str(tmp_path / "run")]


@pytest.mark.skipif(shutil.which("strace") is None, reason="no `strace` on this machine (Debian package strace)")
def test_each_system_call_with_an_effect_was_announced(
    script: list[str], tmp_path: Path, effects_in: Callable[[Path], dict[str, int]]
) -> None:
    """Each send that changes something, each namespace made, pinned, unpinned, each sysctl; no pyroute2 needed."""
    trace = tmp_path / "trace"
    calls = "trace=sendmsg,sendto,unshare,mount,umount2,openat"
    traced = subprocess.run(
        ["strace", "-f", "-qq", "-s", "4096", "-o", str(trace), "-e", calls, *script],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        check=True,
        timeout=50,
    )
    told: list[str] = json.loads(traced.stdout)
    seen = effects_in(trace)
    made = told.count("namespace:make")  # each begins with two sysctls and lo up, before anybody can see it
    expected = {
        "send": sum(name.startswith("send:") or name == "sweep" for name in told) + made,
        "make": made,
        "pin": told.count("namespace:pin"),
        "unpin": told.count("namespace:unpin"),
        "sysctl": sum(name.startswith("sysctl:") for name in told) + 2 * made,
    }
    assert expected == {name: seen[name] for name in expected}
    assert 3 == expected["make"]


def test_the_hot_way_is_short(script: list[str]) -> None:
    """One endpoint in a namespace of its own: two sends in the host's, one in its own; one trip to make and pin it."""
    told = json.loads(subprocess.run(script, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], check=True).stdout)
    first = told[told.index("namespace:make") :]
    assert ["namespace:make", "namespace:pin"] * 2 + ["send:host"] * 3 + ["send:s1"] == first[:8]
