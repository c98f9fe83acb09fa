"""The lab: hosts that are real to the kernel, joined by a wire that can be cut and watched, gone without a trace."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from libcnm.controller.registry import Registry
from libcnm.drivers.null import NullDriver
from libcnm.errors import Forbidden, Invalid, KernelError, NotFound, NotSupported
from libcnm.lab import Host, Lab, decode, namespaces, read_pcap
from libcnm.lab.processes import key_of
from libcnm.testing.snapshot import Snapshot, difference

pytestmark = pytest.mark.kernel

PATIENCE = 15.0


@contextmanager
def nothing_left() -> Iterator[None]:
    """Whatever happens inside: links, namespaces, mounts, processes, threads, descriptors, files are as before."""
    gc.collect()
    before = Snapshot.take([f"{os.environ['TMPDIR']}/**"])
    with suppress(_Expected):
        yield
    deadline = time.monotonic() + PATIENCE
    while True:
        gc.collect()
        left = difference(before, Snapshot.take([f"{os.environ['TMPDIR']}/**"]))
        if not left or time.monotonic() > deadline:
            break
        threading.Event().wait(0.02)
    assert "" == str(left)


class _Expected(Exception):
    """What a test raises inside a lab."""


def reaches(host: Host, address: object) -> bool:
    """Within 3 s: where neighbour discovery is under way already, the kernel's next probe comes a second later."""
    done = host.run(["ping", "-c", "1", "-w", "3", str(address)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return done.returncode == 0


def cut_off(host: Host, address: object) -> bool:
    done = host.run(["ping", "-c", "2", "-i", "0.2", "-w", "1", str(address)], stdout=subprocess.DEVNULL)
    return done.returncode == 1


def test_hosts_share_a_wire_and_nothing_else() -> None:
    """Both families reach across eth1; each host has its own network, /sys and mounts."""
    with Lab(hosts=["a", "b"], subnet6="fd33::/64") as lab:
        one, two = lab.hosts
        assert ["192.168.33.11/24", "fd33::b/64"] == list(map(str, one.interfaces))
        assert [True, True] == [reaches(one, interface.ip) for interface in two.interfaces]
        assert ["eth1", "lo"] == sorted(
            one.run(["ls", "/sys/class/net"], capture_output=True, text=True).stdout.split()
        )
        folder = Path(lab.folder, "mounted-on-b")
        folder.mkdir()
        keeper = two.popen(["sh", "-c", f"mount -t tmpfs x {folder} && touch {folder}/y && ls {folder} && read z"],
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
        with keeper:
            assert keeper.stdout is not None
            assert "y\n" == keeper.stdout.readline()
            assert [] == list(folder.iterdir())
            assert "" == one.run(["ls", str(folder)], capture_output=True, text=True).stdout
            keeper.communicate("\n")


def test_programs_run_where_and_how_they_were_told() -> None:
    """run takes subprocess.run's words; the working directory and the environment are the caller's, and the host's."""
    with Lab(hosts=1) as lab:
        [host] = lab.hosts
        echoed = host.run(["cat"], input="hello", capture_output=True, text=True)
        assert ("hello", 0) == (echoed.stdout, echoed.returncode)
        assert f"{os.getcwd()}\n" == host.run(["pwd"], capture_output=True, text=True).stdout
        variables = host.run(["env"], capture_output=True, text=True, env={"PATH": os.environ["PATH"]}).stdout
        assert f"LIBCNM_HOST={host.name}\n" in variables
        assert 3 == host.run(["sh", "-c", "exit 3"]).returncode
        with pytest.raises(subprocess.CalledProcessError):
            host.run(["false"], check=True)
        with pytest.raises(subprocess.TimeoutExpired):
            host.run(["sleep", "1000"], timeout=0.05)
        with pytest.raises(NotSupported, match="no-such-program"):
            host.run(["no-such-program"])
        with pytest.raises(Invalid, match="not a list"):
            host.run("ls")


def test_controllers_of_two_hosts_make_one_overlay() -> None:
    """Each host has its own installation; through the store they see one network, and their containers meet by name."""
    with Lab() as lab:
        one, two = lab.hosts
        here, there = one.controller(), two.controller()
        assert here.id != there.id
        network = here.create_network("multihost", "overlay")
        network.create_endpoint("svc1").join(here.create_sandbox("c1"))
        there.network("multihost").create_endpoint("svc2").join(there.create_sandbox("c2"))
        with lab.capture(Path(lab.folder, "x.pcap")) as capture:
            there.sandbox("c2").run(["ping", "-c1", "-W2", "svc1"], check=True, stdout=subprocess.DEVNULL)
        inner = [str(packet.inner) for packet in capture.packets if packet.vni is not None]
        assert ["echo request", "echo reply"] == [
            next(w for w in ("echo request", "echo reply") if w in i) for i in inner
        ]
        overlay = f"1-{network.id[:10]}"
        assert [True, True] == [overlay in host.namespaces() for host in lab.hosts]
        neighbours = one.inside(overlay, ["ip", "neigh", "show"]).stdout
        assert "svc2" in there.network("multihost").endpoint("svc2").name
        assert f"{there.network('multihost').endpoint('svc2').addresses[0].ip} dev vxlan1" in neighbours
        with pytest.raises(NotFound):
            one.inside("1-nothing", ["ip", "link"])


def test_a_host_s_command_line_works_on_its_installation() -> None:
    """``Host.cnm`` runs in a process of the host's own, on the same records as its controllers."""
    with Lab(hosts=1) as lab:
        [host] = lab.hosts
        cnm = host.controller(resident="off")
        created = host.cnm("network", "create", "blue", "--subnet", "10.88.0.0/24", check=True)
        assert cnm.network("blue").id == created.stdout.strip()
        assert 4 == host.cnm("network", "create", "blue").returncode


def test_a_partition_cuts_two_hosts_and_no_third() -> None:
    """Both ways, IPv4 and IPv6, until healed; cutting twice is fine, healing what is whole is an error."""
    with Lab(hosts=3, subnet6="fd33::/64") as lab:
        one, two, three = lab.hosts
        assert reaches(one, two.address)
        lab.partition(one, two)
        lab.partition("lab-vm-1", "lab-vm-2")
        assert [True] * 4 == [
            cut_off(here, interface.ip) for here, there in ((one, two), (two, one)) for interface in there.interfaces
        ]
        assert [True, True] == [reaches(one, three.address), reaches(three, two.address)]
        lab.heal(one, two)
        assert [True, True] == [reaches(one, two.address), reaches(two, one.interfaces[1].ip)]
        with pytest.raises(KernelError):
            lab.heal(one, two)
        with pytest.raises(NotFound, match="lab-vm-1, lab-vm-2, lab-vm-3"):
            lab.partition(one, "lab-vm-9")
        with pytest.raises(Invalid):
            lab.partition(one, one)


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="no `tcpdump` on this machine (Debian package tcpdump)")
def test_a_capture_is_a_pcap_file_that_others_read(tmp_path: Path) -> None:
    """Each frame once, in order, with the kernel's times; tcpdump, an independent reader, sees the same."""
    path = tmp_path / "underlay.pcap"
    with Lab() as lab:
        one, two = lab.hosts
        with lab.capture(path) as capture:
            assert reaches(one, two.address)
        frames = list(read_pcap(str(path)))
    assert capture.packets == [decode(frame) for _, frame in frames]
    echoes = [packet.what for packet in capture.packets if packet.what.startswith("ICMP echo")]
    assert ["ICMP echo request", "ICMP echo reply"] == [what.split(",")[0] for what in echoes]
    times = [nanoseconds for nanoseconds, _ in frames]
    assert times == sorted(times)
    assert abs(times[-1] / 1e9 - time.time()) < 60
    # As uid 0 tcpdump insists on becoming somebody else, which an ordinary user's namespace cannot: it may be nobody.
    reader = ["unshare", "--user", "tcpdump", "-nr", str(path)]
    read = subprocess.run(reader, check=True, capture_output=True, text=True).stdout
    assert len(frames) == len(read.splitlines())
    assert f"{one.address} > {two.address}: ICMP echo request" in read


def test_the_underlay_has_the_mtu_that_was_asked_for() -> None:
    """On every host's eth1, and it fits: the largest packet passes, one octet more does not."""
    with Lab(mtu=1400) as lab:
        one, two = lab.hosts
        assert reaches(one, two.address)  # so that no packet below waits for a neighbour to be found
        ping = ["ping", "-c1", "-W3", "-M", "do", str(two.address), "-s"]
        assert [0, 1] == [one.run([*ping, size], capture_output=True).returncode for size in ("1372", "1373")]


@pytest.mark.parametrize(
    "options",
    [
        {"hosts": []},
        {"hosts": ["a", "a"]},
        {"hosts": ["no spaces"]},
        {"hosts": 0},
        {"hosts": 10**10},
        {"hosts": True},
        {"hosts": "lab"},
        {"subnet": "192.168.33.1/24"},
        {"subnet": "192.168.33.0/28"},
        {"subnet": "fd33::/64"},
        {"subnet": None},
        {"mtu": 10},
        {"mtu": "1500"},
        {"store": 7},
    ],
)
def test_a_lab_that_cannot_be_is_refused_before_anything_is_made(options: dict[str, object]) -> None:
    """The typed error names the field."""
    with nothing_left(), pytest.raises(Invalid):
        Lab(**options)  # type: ignore[arg-type]  # that is the point


@contextmanager
def ended(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """When the block is through, each was killed."""
    yield
    assert [-9] * len(processes) == [process.wait(PATIENCE) for process in processes]


def test_nothing_is_left_of_a_lab() -> None:
    """With networks, sandboxes, residents, programs still running in hosts and sandboxes, and an open capture."""
    sleepers: list[subprocess.Popen[bytes]] = []
    with nothing_left(), ended(sleepers), Lab() as lab:
        for number, host in enumerate(lab.hosts):
            cnm = host.controller()
            network = cnm.ensure_network("multihost", "overlay")
            network.create_endpoint(f"svc{number}").join(cnm.create_sandbox(f"c{number}"))
            cnm.create_network("blue", subnets=["10.88.0.0/24"]).create_endpoint("web").join(cnm.sandbox(f"c{number}"))
            host.popen(["sleep", "1000"])
            sleepers.append(cnm.sandbox(f"c{number}").popen(["sleep", "1000"]))
        lab.capture(Path(lab.folder, "x.pcap"))
        lab.partition(*lab.hosts)


def test_a_lab_ends_without_complaints(caplog: pytest.LogCaptureFixture) -> None:
    """Endpoints that are in no sandbox, of local networks and of the cluster's, are no reason for a warning."""
    with nothing_left(), Lab() as lab:
        one, two = (host.controller() for host in lab.hosts)
        multihost = one.create_network("multihost", "overlay")
        multihost.create_endpoint("s1").join(one.create_sandbox("c1"))
        two.network("multihost").create_endpoint("s2")
        two.create_network("blue").create_endpoint("web")
    assert [] == [record.getMessage() for record in caplog.records if record.name == "libcnm.lab"]


def test_nothing_is_left_after_an_exception() -> None:
    """The exception goes on; the lab is gone."""
    with nothing_left(), Lab() as lab:
        cnm = lab.hosts[0].controller()
        cnm.create_network("blue").create_endpoint("web").join(cnm.create_sandbox("c1"))
        raise _Expected


def test_a_controller_closed_by_its_user_is_no_trouble() -> None:
    """``with host.controller() as cnm`` closes it before the lab does."""
    with nothing_left(), Lab(hosts=1) as lab:
        for resident in ("process", "inline", "off"):
            with lab.hosts[0].controller(resident=resident) as cnm:
                assert [] == cnm.networks()


def test_a_lab_that_is_not_running_has_no_wire_and_no_machines(tmp_path: Path) -> None:
    """Before, its wire would be the caller's own network; after, its descriptors' numbers are anybody's."""
    lab = Lab(hosts=2)
    with pytest.raises(Forbidden, match="not running"):
        lab.capture(tmp_path / "x.pcap")
    with nothing_left(), lab:
        one, two = lab.hosts
    for verb in (one.controller, one.namespaces, lambda: one.run(["true"]), lambda: one.inside("x", ["true"])):
        with pytest.raises(Forbidden, match="lab-vm-1"):
            verb()
    for wire in (lambda: lab.partition(one, two), lambda: lab.heal(one, two), lambda: lab.capture(tmp_path / "x.pcap")):
        with pytest.raises(Forbidden, match="not running"):
            wire()
    assert [] == list(tmp_path.iterdir())


class MineDriver(NullDriver):
    """A third party's, given to one controller and known to nobody else."""

    name = "mine"


def test_what_does_not_go_politely_keeps_nothing_else_from_it(caplog: pytest.LogCaptureFixture) -> None:
    """Here a network whose driver the lab does not know: it is named, once, and the lab ends as ever."""
    with nothing_left(), Lab(hosts=1) as lab:
        cnm = lab.hosts[0].controller(registry=Registry(drivers={"mine": MineDriver()}))
        cnm.create_network("a", "mine")
    assert 1 == len([line for line in caplog.messages if "driver 'mine' not found" in line])


def test_a_brought_namespace_is_left_alone() -> None:
    """Its process belongs to whoever started it: the lab takes out what libcnm put in, and ends nothing."""
    words = ["unshare", "--net", "sh", "-c", "echo ready; read x; ip -o link"]
    with nothing_left():
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as runtime:
            assert runtime.stdout is not None
            runtime.stdout.readline()
            with Lab(hosts=1) as lab:
                cnm = lab.hosts[0].controller()
                sandbox = cnm.create_sandbox("c1", netns=f"/proc/{runtime.pid}/ns/net")
                cnm.create_network("blue").create_endpoint("web").join(sandbox)
            assert runtime.poll() is None
            seen, _ = runtime.communicate("\n")
        assert 1 == len(seen.splitlines())


# -- processes that end badly ------------------------------------------------------------------------------------------

SCRIPT = """
    import os, sys
    from libcnm.lab import Lab, ensure_privileges
    ensure_privileges()
    try:
        with Lab() as lab:
            cnm = lab.hosts[0].controller()
            cnm.create_network("multihost", "overlay").create_endpoint("svc1").join(cnm.create_sandbox("c1"))
            lab.hosts[1].popen(["sleep", "1000"])
            print("up", flush=True)
            sys.stdin.readline()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(130)
"""


@contextmanager
def lab_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with a running lab, whose temporary files go to ``folder``."""
    env = {**os.environ, "TMPDIR": str(folder)}
    argv = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    with process:
        try:
            assert process.stdout is not None
            assert "up\n" == process.stdout.readline()
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("name", "status", "said"), [("SIGINT", 130, "interrupted\n"), ("SIGTERM", 143, ""), ("SIGHUP", 129, "")]
)
def test_nothing_is_left_after_a_signal(name: str, status: int, said: str, tmp_path: Path) -> None:
    """Ctrl-C, SIGTERM and a closed terminal unwind the lab; the status says what it was, a second changes nothing."""
    import signal

    number = signal.Signals[name]
    with nothing_left(), lab_process(tmp_path) as process:
        process.send_signal(number)
        process.send_signal(number)
        out, _ = process.communicate(timeout=PATIENCE)
        assert (status, said) == (process.returncode, out)
        assert [] == list(tmp_path.iterdir())


IMPATIENT = """
    import signal, sys
    from libcnm.lab import Lab, ensure_privileges
    ensure_privileges()
    number, at, calls = int(sys.argv[1]), int(sys.argv[2]), -1

    def again(frame, event, _):
        # The n-th call from the lab's end on, its very first instant included.
        global calls
        if event == "call" and (calls >= 0 or frame.f_code is Lab.__exit__.__code__):
            calls += 1
            if calls == at:
                signal.raise_signal(number)

    try:
        with Lab(hosts=1) as lab:
            lab.hosts[0].popen(["sleep", "1000"])
            sys.setprofile(again)
            signal.raise_signal(number)
    finally:
        sys.setprofile(None)
"""


@pytest.mark.parametrize("at", [0, 1, 2, 3, 5, 8])
@pytest.mark.parametrize(("name", "status"), [("SIGINT", -2), ("SIGTERM", 143)])
def test_a_second_signal_does_not_interrupt_the_lab_s_end(name: str, status: int, at: int, tmp_path: Path) -> None:
    """Wherever it finds it, even before its first statement: nobody is left behind by pressing Ctrl-C twice."""
    import signal

    argv = [sys.executable, "-c", textwrap.dedent(IMPATIENT), str(int(signal.Signals[name])), str(at)]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    with nothing_left():
        done = subprocess.run(argv, env=env, check=False, stderr=subprocess.DEVNULL, timeout=PATIENCE)
    assert status == done.returncode
    assert [] == list(tmp_path.iterdir())


def test_a_killed_lab_leaves_files_alone(tmp_path: Path) -> None:
    """kill -9 cannot be caught: namespaces go with the descriptors, residents with their guardian, a folder stays."""
    with nothing_left(), lab_process(tmp_path) as process:
        process.kill()
        process.wait(PATIENCE)
        sleeper_parent_is_gone(process.pid)
    assert 1 == len(list(tmp_path.iterdir()))


def sleeper_parent_is_gone(pid: int) -> None:
    """The program that was started inside a host is nobody's child now: end it, as the machine's owner would."""
    mark = f"LIBCNM_GUARDIAN={pid}".encode()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError):
                is_sleep = Path(f"/proc/{name}/comm").read_text("ascii") == "sleep\n"
                if is_sleep and mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    os.kill(int(name), 9)


def test_without_privilege_the_error_says_what_to_call() -> None:
    """Not root and in no namespace of its own: NotSupported, with the helper's name."""
    script = """
        from libcnm.errors import NotSupported
        from libcnm.lab import Lab
        try:
            with Lab():
                pass
        except NotSupported as error:
            print(error)
    """
    powerless = ["setpriv", "--bounding-set=-sys_admin,-net_admin", "--inh-caps=-sys_admin,-net_admin"]
    argv = [*powerless, sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert "ensure_privileges()" in done.stdout


def test_a_lab_needs_no_privilege_of_the_machine(tmp_path: Path) -> None:
    """A root without capabilities, like an ordinary user, gets a user namespace, and the same lab in it."""
    powerless = ["setpriv", "--bounding-set=-sys_admin,-net_admin", "--inh-caps=-sys_admin,-net_admin"]
    argv = [*powerless, sys.executable, "-c", textwrap.dedent(SCRIPT)]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    with nothing_left():
        done = subprocess.run(argv, input="\n", capture_output=True, text=True, env=env, check=False, timeout=PATIENCE)
        assert ("up\n", "", 0) == (done.stdout, done.stderr, done.returncode)
        assert [] == list(tmp_path.iterdir())


def test_a_lab_s_end_kills_no_stranger_in_a_namespace_of_a_number_that_was_its_own() -> None:
    """A namespace's number is given to the next one made on the machine: the lab holds its own until it has ended."""
    with Lab(hosts=1) as lab:
        cnm = lab.hosts[0].controller(resident="off")
        sandboxes = [cnm.create_sandbox(f"c{number}") for number in range(5)]
        lab._note_territory()
        for sandbox in sandboxes:
            sandbox.delete()
        strangers = []
        try:
            for _ in range(20):
                strangers.append(namespaces.make_machine())
                threading.Event().wait(0.01)  # the kernel lets go of a namespace in the background
            numbers = {key_of(home.net) for home in strangers if isinstance(home.net, int)}
            assert not numbers & lab._territory.networks
        finally:
            for home in strangers:
                namespaces.close(home)
