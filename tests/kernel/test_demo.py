"""The demo: it ends well with everything shown and saved, and when a step fails it says which, and why."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from libcnm.lab import decode, read_pcap

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


def demo(folder: Path, *, path: str = "", prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run ``cnm lab demo`` in a folder, with another PATH if one is given."""
    env = {**os.environ, "TMPDIR": str(folder / "tmp")} | ({"PATH": path} if path else {})
    (folder / "tmp").mkdir()
    argv = [*prefix, sys.executable, "-m", "libcnm.cli", "lab", "demo"]
    return subprocess.run(argv, capture_output=True, text=True, cwd=folder, env=env, timeout=55, check=False)


POWERLESS = ("setpriv", "--bounding-set=-sys_admin,-net_admin", "--inh-caps=-sys_admin,-net_admin")


@pytest.mark.parametrize("prefix", [(), POWERLESS], ids=["root", "powerless"])
def test_the_demo_tells_the_whole_story(prefix: tuple[str, ...], tmp_path: Path) -> None:
    """Status 0; every step with its commands; a capture, a picture and a chart; nothing else stays."""
    done = demo(tmp_path, prefix=prefix)
    assert 0 == done.returncode, done.stdout + done.stderr
    for shown in (
        "lab-vm-1$ cnm network create -d overlay multihost",
        "lab-vm-2$ cnm container create container_node2 --publish-service svc2.multihost",
        "lab-vm-2$ cnm service ls",
        ": eth1@",
        "lab-vm-2$ cnm container exec container_node2 -- ping -c 1 -W 2 svc1",
        "192.168.33.12.",
        "192.168.33.11.4789: VXLAN, vni ",
        "dst 192.168.33.12 ",
        "lab-vm-1$ nft flush ruleset",
        "lab-vm-1$ cnm container exec container_node1 -- ping -c 1 -W 2 192.168.33.12",
        "flowchart TB",
    ):
        assert shown in done.stdout
    artefacts = tmp_path / "libcnm-demo"
    assert ["capture.pcap", "topology.mmd", "topology.svg"] == sorted(path.name for path in artefacts.iterdir())
    packets = [decode(frame) for _, frame in read_pcap(str(artefacts / "capture.pcap"))]
    assert any(packet.inner and "ICMP echo reply" in packet.inner.what for packet in packets)
    texts = {"".join(text.itertext()) for text in ET.parse(artefacts / "topology.svg").iter()}  # noqa: S314 - our own
    assert {"lab-vm-1", "lab-vm-2", "container_node1", "container_node2", "multihost"} <= texts
    assert "container_node1" in (artefacts / "topology.mmd").read_text(encoding="utf-8")
    assert [] == list((tmp_path / "tmp").iterdir())


def test_a_step_that_fails_ends_the_demo(tmp_path: Path) -> None:
    """A ping that gets no answer: the step, the command, what it said, a status that is not 0, and nothing left."""
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "ping").write_text("#!/bin/sh\necho no route to nowhere\nexit 1\n", encoding="utf-8")
    (broken / "ping").chmod(0o755)
    done = demo(tmp_path, path=f"{broken}:{os.environ['PATH']}")
    assert 1 == done.returncode
    assert "FAILED in step 6, Ping across hosts" in done.stdout
    assert "ended with status 1" in done.stdout
    assert done.stdout.rstrip().endswith("no route to nowhere")
    assert [] == list((tmp_path / "tmp").iterdir())


def test_a_program_that_is_missing_is_named(tmp_path: Path) -> None:
    """Before anything is made: which, and the Debian package that has it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("ip", "bridge", "nsenter", "nft"):
        (programs / name).symlink_to("/bin/true")
    done = demo(tmp_path, path=str(programs))
    assert 10 == done.returncode
    assert "cnm: the demo needs ping\n     on Debian: apt-get install iputils-ping\n" == done.stderr
    assert not (tmp_path / "libcnm-demo").exists()
