"""``cnm lab demo``: the walk-through that libnetwork's multi-host networking was introduced with in 2015, retold.

Two simulated hosts, one overlay network, a container on each; names, pings, the packets between the hosts, and what
lies behind the scenes. Every command is run as it is shown, on its own host, in a process of its own; nothing is
staged.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

from libcnm.cli import draw
from libcnm.cli.transcript import PATIENCE_SECONDS, StoryFailed, Transcript
from libcnm.cli.whole import save
from libcnm.errors import CnmError, NotSupported, Unavailable
from libcnm.lab import Capture, Host, Lab, Packet, ensure_privileges
from libcnm.model import limits
from libcnm.system.clock import SystemClock

NETWORK: Final = "multihost"
PROGRAMS: Final = {
    "ip": "iproute2", "bridge": "iproute2", "ping": "iputils-ping", "nft": "nftables", "nsenter": "util-linux"
}  # fmt: skip
"""What the demo runs beside `cnm`, and the Debian package of each."""
ARTEFACTS: Final = ("capture.pcap", "topology.mmd", "topology.svg")
PING: Final = ("ping", "-c", "1", "-W", "2")


def demo(out: str) -> int:
    """Tell it; 0, or 1 when a step failed. Artefacts go to the folder ``out``."""
    _check_programs()
    ensure_privileges()
    _make_folder(out)
    clock = SystemClock()
    began = clock.monotonic()
    with Transcript(len(_Story.STEPS)) as told:
        try:
            with Lab(hosts=["lab-vm-1", "lab-vm-2"]) as lab:
                _Story(lab, told, out).tell()
        except (StoryFailed, CnmError) as error:
            told.failed(str(error), getattr(error, "output", ""))
            return 1
        seconds = clock.monotonic() - began
        told.end(f"All of it was real, took {seconds:.1f} s, and is gone again. What stays: {', '.join(_left(out))}")
    return 0


def _make_folder(out: str) -> None:
    """Where the artefacts go; refused now, not in the seventh step, if another user's demo has left its own there."""
    try:
        os.makedirs(out, exist_ok=True)
        for path in (out, *(os.path.join(out, name) for name in ARTEFACTS)):
            if os.path.lexists(path) and not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    except OSError as error:
        hint = "with --out DIR the artefacts go elsewhere"
        raise Unavailable(str(error.filename or out), error.strerror or str(error), hint=hint) from None


def _left(out: str) -> list[str]:
    return [os.path.join(out, name) for name in sorted(os.listdir(out))]


def _check_programs() -> None:
    missing = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    if missing:
        packages = sorted({PROGRAMS[program] for program in missing})
        raise NotSupported(
            f"the demo needs {', '.join(missing)}", hint=f"on Debian: apt-get install {' '.join(packages)}"
        )


def _path() -> str:
    """Where programs are looked for; Debian leaves the system's own out of an ordinary user's."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


class _Story:
    """One telling; each method is a step."""

    def __init__(self, lab: Lab, told: Transcript, out: str) -> None:
        self.lab = lab
        self.told = told
        self.out = out
        self.one, self.two = lab.hosts
        self.network_id = ""
        self.addresses: dict[str, str] = {}

    def tell(self) -> None:
        """All steps."""
        for step in self.STEPS:
            step(self)

    # -- how things are typed ------------------------------------------------------------------------------------------

    def cnm(self, host: Host, *words: str, shows: Iterable[str] = ()) -> str:
        """A command line of ``cnm``, in a process of that host's own."""
        return self.told.run(
            host.name, ["cnm", *words], lambda: host.cnm(*words, timeout=PATIENCE_SECONDS), shows=shows
        )

    def inside(self, host: Host, container: str, *words: str, shows: Iterable[str] = ()) -> str:
        """A program in a container."""
        return self.cnm(host, "container", "exec", container, "--", *words, shows=shows)

    def typed(self, host: Host, *words: str, shows: Iterable[str] = (), cwd: str | None = None) -> str:
        """Any other program on a host."""

        def action() -> subprocess.CompletedProcess[Any]:
            env = {**os.environ, "PATH": _path()}
            options: dict[str, Any] = {"env": env, "text": True} | ({} if cwd is None else {"cwd": cwd})
            return host.run(list(words), capture_output=True, timeout=PATIENCE_SECONDS, **options)

        return self.told.run(host.name, list(words), action, shows=shows)

    def behind(self, host: Host, namespace: str, *words: str, shows: Iterable[str] = ()) -> str:
        """A program in a namespace of libcnm's, from the folder where they are pinned."""
        return self.typed(host, "nsenter", f"--net={namespace}", *words, shows=shows, cwd=f"{host.run_dir}/netns")

    # -- the steps -----------------------------------------------------------------------------------------------------

    def hosts(self) -> None:
        self.told.step(
            "A store and two hosts",
            "The store is one SQLite file, as the hosts share a disk. Each host has its own network, mounts, state and"
            " resident process; eth1 joins them.",
        )
        self.told.output(f"store    {self.one.cluster_store}")
        for host in self.lab.hosts:
            self.typed(host, "ip", "-brief", "address", "show", "dev", "eth1", shows=[str(host.address)])

    def network(self) -> None:
        self.told.step("An overlay network", "Made on one host; it is in the store, so it is there on both.")
        self.network_id = self.cnm(self.one, "network", "create", "-d", "overlay", NETWORK).strip()

    def containers(self) -> None:
        self.told.step(
            "A container on each host",
            "Each is attached to the network as a service: a name, an address, and a place.",
        )
        self.cnm(self.one, "container", "create", "container_node1", "--publish-service", f"svc1.{NETWORK}")
        self.cnm(self.two, "container", "create", "container_node2", "--publish-service", f"svc2.{NETWORK}")

    def lists(self) -> None:
        self.told.step("The same networks and services on both hosts", "What one host made, the other lists.")
        for host in self.lab.hosts:
            self.cnm(host, "network", "ls", shows=[NETWORK, "overlay", "global"])
            printed = self.cnm(host, "service", "ls", shows=["svc1", "container_node1", "svc2", "container_node2"])
            if [self.one.name, self.two.name] != [line.split()[-1] for line in printed.splitlines()[1:]]:
                raise StoryFailed(f"`cnm service ls` on {host.name} places the services wrongly", printed)

    def files(self) -> None:
        self.told.step(
            "Inside a container",
            "Its own /etc/hosts and resolver; lo, the overlay's interface with room for VXLAN's header in the MTU, and"
            " one more for the way out.",
        )
        self.inside(self.two, "container_node2", "cat", "/etc/hosts", shows=["container-node2"])
        self.inside(self.two, "container_node2", "cat", "/etc/resolv.conf", shows=["127.0.0.11"])
        for host, container in ((self.one, "container_node1"), (self.two, "container_node2")):
            printed = self.inside(host, container, "ip", "a", shows=["lo:", "eth0@", "eth1@"])
            lines = [line.split() for line in printed.splitlines() if line.strip().startswith("inet ")]
            self.addresses[container] = next(words[1] for words in lines if words[-1] == "eth0").split("/")[0]

    def pings(self) -> None:
        self.told.step(
            "Ping across hosts, both ways", "By address, and by name: the resolver in each sandbox knows both."
        )
        answered = [" 0% packet loss"]
        self.inside(self.two, "container_node2", *PING, self.addresses["container_node1"], shows=answered)
        self.inside(self.one, "container_node1", *PING, self.addresses["container_node2"], shows=answered)
        self.inside(self.two, "container_node2", *PING, "svc1", shows=[*answered, self.addresses["container_node1"]])
        self.inside(self.one, "container_node1", *PING, "svc2", shows=[*answered, self.addresses["container_node2"]])
        self.told.note("And out of the overlay: the other host itself, which sees the first host's address.")
        self.inside(self.one, "container_node1", *PING, str(self.two.address), shows=answered)

    def capture(self) -> None:
        self.told.step(
            "What crosses the underlay",
            f"The lab's own capture of the same ping: between the hosts it is UDP to port {limits.VXLAN_PORT}, the VNI"
            " in front of the container's packet.",
        )
        path = os.path.join(self.out, "capture.pcap")
        with self.lab.capture(path) as capture:
            self.inside(self.two, "container_node2", *PING, "svc1")
        seen = [packet for packet in capture.packets if packet.vni is not None]
        self.told.output("\n".join(map(str, seen)))
        self._check_capture(capture, seen)
        self.told.note(f"Saved as {path}; `tcpdump -r` and Wireshark read it.")

    def _check_capture(self, capture: Capture, seen: list[Packet]) -> None:
        hosts = {self.one.address, self.two.address}
        containers = set(self.addresses.values())
        for what in ("echo request", "echo reply"):
            if not any(
                {packet.source, packet.destination} == hosts
                and packet.inner is not None
                and {str(packet.inner.source), str(packet.inner.destination)} == containers
                and what in packet.inner.what
                for packet in seen
            ):
                everything = "\n".join(map(str, capture.packets))
                raise StoryFailed(f"the capture holds no {what} of the containers' inside VXLAN", everything)

    def scenes(self) -> None:
        self.told.step(
            "Behind the scenes",
            "One namespace per container, and one per overlay network: how often it was made here, and its id.",
        )
        overlay = f"1-{self.network_id[:10]}"
        self.typed(self.one, "ls", shows=[overlay], cwd=f"{self.one.run_dir}/netns")
        self.told.note("A bridge, the VXLAN device, and one port per local endpoint:")
        self.behind(self.one, overlay, "ip", "-brief", "link", "show", shows=["br0", "vxlan1"])
        self.told.note("A permanent neighbour per remote endpoint, and behind which host its MAC is:")
        there = self.addresses["container_node2"]
        self.behind(self.one, overlay, "ip", "neigh", "show", shows=[there, "PERMANENT"])
        self.behind(self.one, overlay, "bridge", "fdb", "show", "dev", "vxlan1", shows=[f"dst {self.two.address}"])

    def rejoin(self) -> None:
        self.told.step(
            "Leave, and join again",
            "With its last endpoint the network leaves the host; with the next it is made a second time.",
        )
        self.cnm(self.one, "service", "detach", "container_node1", f"svc1.{NETWORK}")
        self.cnm(self.one, "service", "attach", "container_node1", f"svc1.{NETWORK}")
        self.typed(self.one, "ls", shows=[f"2-{self.network_id[:10]}"], cwd=f"{self.one.run_dir}/netns")
        self.inside(self.two, "container_node2", *PING, "svc1", shows=[" 0% packet loss"])

    def flush(self) -> None:
        self.told.step(
            "Somebody flushes the firewall",
            "Neither the path between the hosts nor the names depend on a rule; for the way out, the resident notices.",
        )
        self.typed(self.one, "nft", "flush", "ruleset")
        self.inside(self.one, "container_node1", *PING, "svc2", shows=[" 0% packet loss"])
        self.inside(self.two, "container_node2", *PING, "svc1", shows=[" 0% packet loss"])
        self._await_healing()
        self.cnm(self.one, "doctor")
        self.inside(self.one, "container_node1", *PING, str(self.two.address), shows=[" 0% packet loss"])

    def _await_healing(self) -> None:
        """The resident looks when the kernel says that something went, within a second."""
        clock, waiting = SystemClock(), threading.Event()
        until = clock.monotonic() + PATIENCE_SECONDS
        with self.one.controller(resident="off") as cnm:
            while (found := cnm.doctor()) and clock.monotonic() < until:
                waiting.wait(0.02)
        if found:
            raise StoryFailed("nobody has healed the firewall", "\n".join(map(str, found)))

    def picture(self) -> None:
        self.told.step("The picture", "The same records, drawn.")
        self.cnm(self.one, "topology", shows=["svc1", "svc2", self.one.name, self.two.name])
        svg = os.path.join(self.out, "topology.svg")
        self.cnm(self.one, "topology", "--svg", svg, "--mermaid", shows=["flowchart", "container_node1"])
        with self.one.controller(resident="off") as cnm:
            save(os.path.join(self.out, "topology.mmd"), draw.mermaid(cnm.topology()))

    STEPS: Final[tuple[Callable[[_Story], None], ...]] = (
        hosts, network, containers, lists, files, pings, capture, scenes, rejoin, flush, picture
    )  # fmt: skip
