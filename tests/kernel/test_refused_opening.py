"""What only a real host can refuse: folders and stores that are somebody else's, addresses that it does not have."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import attrs
import pytest

from libcnm import CnmError, Controller, Forbidden, Invalid, NotSupported, Unavailable
from libcnm.controller.doors import Paths, open_doors
from libcnm.kv.base import Listing
from libcnm.kv.sqlite import SQLiteStore
from libcnm.model import keys
from libcnm.model.deadline import Deadline
from tests.kernel.conftest import OpenController

pytestmark = pytest.mark.kernel


def tree(folder: Path) -> dict[str, int]:
    """Everything below a folder, by path, with its inode."""
    return {
        str(path): path.lstat().st_ino for path in sorted(folder.rglob("*")) if not path.name.endswith(("-shm", "-wal"))
    }


def refused(tmp_path: Path, kind: type[CnmError], **arguments: Any) -> CnmError:
    """No controller: nothing is made, and no descriptor is left open."""
    before, open_before = tree(tmp_path), len(os.listdir("/proc/self/fd"))
    with pytest.raises(kind) as raised:
        Controller(**{"state_dir": f"{tmp_path}/state", "run_dir": f"{tmp_path}/run", "resident": "off", **arguments})
    assert kind is type(raised.value)
    assert before == tree(tmp_path)
    assert open_before == len(os.listdir("/proc/self/fd"))
    return raised.value


@pytest.mark.parametrize(
    ("url", "kind"),
    [("nonsense", Invalid), ("", Invalid), ("sqlite:relative", Invalid), ("memory:x", Invalid), ("consul:", Invalid),
     ("sqlite:///a\ud800", Invalid), ("zk://host:1", NotSupported)],
    ids=repr,
)  # fmt: skip
def test_a_cluster_store_that_is_none(tmp_path: Path, url: str, kind: type[CnmError]) -> None:
    """Found out before a folder is made."""
    refused(tmp_path, kind, cluster_store=url)


def test_the_hosts_own_database_is_not_the_clusters(tmp_path: Path, open_controller: OpenController) -> None:
    """Neither while it is not there yet, nor by another path, nor by another name of the file."""
    database = tmp_path / "state" / "libcnm.db"
    refused(tmp_path, Invalid, cluster_store=f"sqlite://{database}")
    open_controller(resident="off").close()
    (tmp_path / "link").symlink_to(tmp_path / "state")
    os.link(database, tmp_path / "second")
    for path in (database, tmp_path / "link" / "libcnm.db", tmp_path / "second"):
        assert "host's own" in str(refused(tmp_path, Invalid, cluster_store=f"sqlite://{path}"))


def test_a_run_dir_of_another_installation(tmp_path: Path, open_controller: OpenController) -> None:
    """Nothing is put into it, and no state is begun, or changed."""
    open_controller(resident="off").close()
    other = {"state_dir": f"{tmp_path}/other", "run_dir": f"{tmp_path}/other-run", "resident": "off"}
    Controller(**other).close()  # type: ignore[arg-type]
    refused(tmp_path, Forbidden, state_dir=f"{tmp_path}/new")
    refused(tmp_path, Forbidden, state_dir=f"{tmp_path}/other")
    assert "at work in" in str(refused(tmp_path, Forbidden, run_dir=f"{tmp_path}/new-run"))


def test_folders_that_cannot_be_ours(tmp_path: Path) -> None:
    """A file, a folder that others may write to, one that is in no file system that takes any."""
    (tmp_path / "file").write_text("")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for name in ("file", "open"):
        refused(tmp_path, Forbidden, run_dir=f"{tmp_path}/{name}")
        refused(tmp_path, Forbidden, state_dir=f"{tmp_path}/{name}")
    refused(tmp_path, Unavailable, state_dir="/proc/nope")
    refused(tmp_path, Unavailable, state_dir="/proc/nope/deeper")


def test_a_port_at_an_address_that_the_host_does_not_have(cnm: Controller) -> None:
    """Refused when the endpoint is created; and when the address goes later, nobody is said to reach it."""
    network = cnm.create_network("net")
    with pytest.raises(Invalid, match="no address of this host"):
        network.create_endpoint("a", ports=["198.51.100.7:8080:80"])
    assert [] == network.endpoints()
    subprocess.run(["ip", "address", "add", "198.51.100.7/32", "dev", "lo"], check=True)
    try:
        endpoint = network.create_endpoint("a", ports=["198.51.100.7:8080:80"])
        assert ["everybody who can reach 198.51.100.7, once attached"] == reachable(endpoint.inspect())
        sandbox = cnm.create_sandbox("c1")
        endpoint.join(sandbox)
        assert ["everybody who can reach 198.51.100.7"] == reachable(endpoint.inspect())
    finally:
        subprocess.run(["ip", "address", "del", "198.51.100.7/32", "dev", "lo"], check=True)
    assert ["nobody: the host does not have 198.51.100.7"] == reachable(endpoint.inspect())
    endpoints: Any = sandbox.inspect()["Endpoints"]
    assert ["nobody: the host does not have 198.51.100.7"] == reachable(endpoints[0])


def reachable(shown: dict[str, Any]) -> list[str]:
    """What is said of each port."""
    return [port["Reachable"] for port in shown["Ports"]]


def test_a_bridge_without_addresses(cnm: Controller) -> None:
    """A segment that its users number themselves; it is nobody's way out, and in nobody's way."""
    wire = cnm.create_network("wire", ipam_driver="null")
    with cnm.create_sandbox("c1") as one, cnm.create_sandbox("c2") as two:
        for number, sandbox in enumerate((one, two), 1):
            wire.create_endpoint(f"e{number}").join(sandbox)
            sandbox.run(["ip", "address", "add", f"10.77.0.{number}/24", "dev", "eth0"], check=True)
        assert [] == cnm.doctor()
        assert 0 == one.run(["ping", "-c1", "-W1", "10.77.0.2"], capture_output=True).returncode
        cnm.create_network("blue").create_endpoint("web").join(one)
        assert ["e1", "web"] == sorted(endpoint.name for endpoint in one.endpoints)


class Forgetful(SQLiteStore):
    """A store whose listings fail for the main thread, which is the one that opens the controller."""

    def list(self, prefix: str, *, deadline: Deadline) -> Listing:
        if prefix == keys.ATTACHMENTS and threading.current_thread() is threading.main_thread():
            raise Unavailable("the store", "it is being moved")
        return super().list(prefix, deadline=deadline)


def test_an_opening_that_fails_late_leaves_no_thread(tmp_path: Path, open_controller: OpenController) -> None:
    """Recovery cannot read the store: whoever follows for this controller ends with it, and the next one is served."""
    paths = Paths(f"{tmp_path}/state", f"{tmp_path}/run")
    open_controller(resident="off").close()
    before, doors = threading.enumerate(), open_doors(paths, None)
    doors.local.close()
    doors = attrs.evolve(doors, local=Forgetful(paths.database))
    with pytest.raises(Unavailable, match="being moved"):
        Controller(state_dir=paths.state_dir, run_dir=paths.run_dir, resident="thread", doors=doors)
    assert before == threading.enumerate()
    open_controller(resident="thread").close()
