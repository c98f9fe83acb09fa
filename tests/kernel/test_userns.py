"""Private namespaces, entered by real processes: as root, with a user namespace, and as an ordinary user."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.kernel

NOBODY = 65534

ENTER = """
    import ctypes, json, os, socket, sys
    from libcnm.errors import NotSupported
    from libcnm.system.userns import enter_private_namespaces, in_private_namespaces
    def namespaces():
        return {kind: os.stat(f"/proc/self/ns/{kind}").st_ino for kind in ("net", "mnt", "user")}
    def first_run():
        return "AGAIN" not in os.environ
    def run_again():
        os.environ["AGAIN"] = "yes"
        with open("/proc/self/cmdline", "rb") as argv:
            os.execv(sys.executable, argv.read().split(b"\\0")[:-1])
"""

BE_AN_ORDINARY_USER = """
    # From inside, because nobody may not even read the interpreter of root's virtual environment.
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    PR_SET_DUMPABLE = 4  # a process that changed its user does not own its /proc/self until it says so
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
"""

REPORT = """
    before = namespaces()
    assert not in_private_namespaces()
    enter_private_namespaces(user=USER)
    first = namespaces()
    enter_private_namespaces(user=USER)
    assert namespaces() == first, "the second call moved the process again"
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.socket() as client:
            client.connect(server.getsockname())
    print(json.dumps({
        "moved": sorted(kind for kind in first if first[kind] != before[kind]),
        "uid": os.geteuid(),
        "links": sorted(name for _, name in socket.if_nameindex()),
        "sysfs": sorted(os.listdir("/sys/class/net")),
        "run": sorted(os.listdir("/run")),
        "shared mounts": [line for line in open("/proc/self/mountinfo") if " shared:" in line],
        "private": in_private_namespaces(),
    }))
"""


def run_python(*parts: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run Python text in a fresh process of this interpreter."""
    script = "".join(textwrap.dedent(part) for part in parts).replace("NOBODY", str(NOBODY))
    return subprocess.run(
        [*prefix, sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30
    )


def report(*parts: str, prefix: tuple[str, ...] = ()) -> dict[str, Any]:
    done = run_python(*parts, prefix=prefix)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def ids_are_limited() -> bool:
    """Whether this session runs in an ordinary user's user namespace, where root is the only user there is."""
    return Path("/proc/self/uid_map").read_text(encoding="ascii").split()[2] == "1"


IN_A_USER_NAMESPACE = {
    "moved": ["mnt", "net", "user"],
    "uid": 0,
    "links": ["lo"],
    "sysfs": ["lo"],
    "run": [],
    "shared mounts": [],
    "private": True,
}


def test_a_user_namespace_makes_the_caller_root_of_an_empty_network() -> None:
    """The process is root in it, sees a working lo and no other link, and has an empty /run."""
    assert report(ENTER, REPORT.replace("USER", "True")) == IN_A_USER_NAMESPACE


@pytest.mark.parametrize("user", ["None", "False"])
def test_root_keeps_its_user_namespace(user: str) -> None:
    """Root needs no user namespace: it stays the machine's root; the rest is the same."""
    assert report(ENTER, REPORT.replace("USER", user)) == {**IN_A_USER_NAMESPACE, "moved": ["mnt", "net"]}


def test_an_ordinary_user_enters_too() -> None:
    """The same from a process without any privilege."""
    if ids_are_limited():
        pytest.skip("this whole session is an ordinary user's, who can become nobody else; it entered at its start")
    assert report(ENTER, BE_AN_ORDINARY_USER, REPORT.replace("USER", "None")) == IN_A_USER_NAMESPACE


def test_root_without_capabilities_takes_a_user_namespace() -> None:
    """Root in name only (a container) is refused the direct way and goes the ordinary user's."""
    powerless = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    assert report(ENTER, REPORT.replace("USER", "None"), prefix=powerless) == IN_A_USER_NAMESPACE


def test_a_process_with_threads_is_refused() -> None:
    """A namespace would move one thread and leave the others, so the call says so and moves nothing."""
    seen = report(
        ENTER,
        """
        import threading
        before, done = namespaces(), threading.Event()
        thread = threading.Thread(target=done.wait)
        thread.start()
        try:
            enter_private_namespaces()
        except NotSupported as error:
            moved = namespaces() != before
            print(json.dumps({"error": str(error), "moved": moved, "private": in_private_namespaces()}))
        finally:
            done.set()
        """,
    )
    assert "2 threads" in seen.pop("error")
    assert seen == {"moved": False, "private": False}


def test_a_refusal_names_the_reason_and_the_switch() -> None:
    """When the kernel refuses, the error carries its words and the sysctl that an administrator would look at."""
    seen = report(
        ENTER,
        """
        if first_run():
            enter_private_namespaces(user=True)  # the limit is per user namespace, so lowering it here harms nobody
            with open("/proc/sys/user/max_user_namespaces", "w") as limit:
                limit.write("0")
            run_again()
        try:
            enter_private_namespaces(user=True)
        except NotSupported as error:
            print(json.dumps({"error": str(error), "private": in_private_namespaces()}))
        """,
    )
    assert "No space left on device" in seen["error"]
    assert "user.max_user_namespaces=0" in seen["error"]
    assert not seen["private"]


def test_a_child_is_not_taken_for_its_parent() -> None:
    """A child lives in its parent's private namespaces, yet has entered none itself, and may."""
    seen = report(
        ENTER,
        """
        enter_private_namespaces(user=True)
        if first_run():
            run_again()
        print(json.dumps({"uid": os.geteuid(), "links": [name for _, name in socket.if_nameindex()]}))
        """,
    )
    assert seen == {"uid": 0, "links": ["lo"]}


def test_a_controller_without_privilege_is_forbidden(tmp_path: Path) -> None:
    """Not "unavailable", which would ask for another try: it says what is missing and where it is to be had, and has
    touched nothing.
    """
    for lacks in ("net_admin", "sys_admin", "net_admin,-sys_admin"):
        done = run_python(
            f"""
            import libcnm
            try:
                libcnm.Controller(state_dir="{tmp_path}/state", run_dir="{tmp_path}/run")
            except libcnm.Forbidden as error:
                print(error.retryable, error.remedy, error)
            """,
            prefix=("setpriv", f"--bounding-set=-{lacks}", f"--inh-caps=-{lacks}"),
        )
        assert ("", True) == (done.stderr, done.stdout.startswith("False privilege this process may not change"))
        assert "libcnm.lab.ensure_privileges()" in done.stdout
    assert [] == list(tmp_path.iterdir())


def test_root_over_a_network_that_is_not_its_own_is_forbidden(tmp_path: Path) -> None:
    """A user namespace alone: every capability, and none that counts for the network it came from."""
    done = run_python(
        f"""
        import libcnm
        try:
            libcnm.Controller(state_dir="{tmp_path}/state", run_dir="{tmp_path}/run")
        except libcnm.Forbidden as error:
            print(error.retryable, error.remedy, error)
        """,
        prefix=("unshare", "--user", "--map-root-user", "--mount"),
    )
    assert ("", True) == (done.stderr, done.stdout.startswith("False privilege the kernel door is closed: "))
    assert "libcnm.lab.ensure_privileges()" in done.stdout
