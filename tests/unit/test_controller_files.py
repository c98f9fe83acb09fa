"""What a host keeps beside its stores and its kernel: the sandboxes' files, the locks' files. Damaged, they are healed.

Through the public verbs, on fakes with real files.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from libcnm.controller.controller import Controller
from libcnm.controller.sandbox import Sandbox
from libcnm.errors import Forbidden, Invalid
from libcnm.kernel.resources import Address, Bridge, Vxlan
from libcnm.model import limits, options
from libcnm.system.clock import ManualClock
from libcnm.testing.world import FakeHost, FakeWorld


@pytest.fixture
def world() -> Iterator[FakeWorld]:
    with FakeWorld() as world:
        yield world


@pytest.fixture
def host(world: FakeWorld) -> FakeHost:
    return world.host()


@pytest.fixture
def cnm(host: FakeHost) -> Iterator[Controller]:
    with host.controller() as controller:
        yield controller


def joined(cnm: Controller) -> Sandbox:
    sandbox = cnm.create_sandbox("c1")
    cnm.create_network("net", subnets=["10.88.0.0/24"]).create_endpoint("web").join(sandbox)
    return sandbox


def texts(sandbox: Sandbox) -> dict[str, str]:
    return {path: Path(path).read_text() for path in sandbox.files.values()}


# -- sandboxes' files --------------------------------------------------------------------------------------------------


def _truncate(path: Path) -> None:
    path.write_text("")


def _fill(path: Path) -> None:
    path.write_text("garbage\n" * 1000)


def _hide(path: Path) -> None:
    path.chmod(0o600)


def _remove(path: Path) -> None:
    path.unlink()


def _divert(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent.parent / "elsewhere")


def _block(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _remove_all(path: Path) -> None:
    for one in path.parent.iterdir():
        one.unlink()
    path.parent.rmdir()


@pytest.mark.parametrize(
    "damage", [_truncate, _fill, _hide, _remove, _divert, _block, _remove_all], ids=lambda damage: damage.__name__
)
@pytest.mark.parametrize("name", ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"])
def test_a_damaged_file_is_written_again(cnm: Controller, name: str, damage: Callable[[Path], None]) -> None:
    """Whatever was done to it by hand; what was healed is named; nothing else is touched."""
    sandbox = joined(cnm)
    before, path = texts(sandbox), Path(sandbox.files[name])
    others = {other: os.stat(other).st_ino for other in before if other != str(path)}
    damage(path)
    assert any(str(path) in str(row) for row in cnm.heal())
    assert before == texts(sandbox)
    assert 0o644 == path.lstat().st_mode & 0o777
    assert damage is _remove_all or others == {other: os.stat(other).st_ino for other in others}
    assert not (path.parent.parent / "elsewhere").exists()
    assert [] == cnm.heal()


def test_a_damaged_file_keeps_its_inode(cnm: Controller) -> None:
    """A container sees it by a bind mount: healed elsewhere, it would be healed for nobody."""
    sandbox = joined(cnm)
    path = sandbox.files["/etc/hosts"]
    inode = os.stat(path).st_ino
    _truncate(Path(path))
    cnm.heal()
    assert inode == os.stat(path).st_ino


def test_a_file_that_cannot_be_written_keeps_nothing_else_from_being_healed(cnm: Controller) -> None:
    """Somebody made a folder of it: that is theirs to undo, and said; the other files are healed all the same."""
    sandbox = joined(cnm)
    hosts, name = Path(sandbox.files["/etc/hosts"]), Path(sandbox.files["/etc/hostname"])
    hosts.unlink()
    hosts.mkdir()
    (hosts / "precious").write_text("mine")
    name.unlink()
    assert [f"missing: file host {name}"] == [str(row) for row in cnm.heal()]
    assert ("mine", "c1\n") == ((hosts / "precious").read_text(), name.read_text())


def test_a_verb_makes_a_lost_folder_again(cnm: Controller) -> None:
    """Nobody has to wait for healing: the next join finds the folder gone and writes all three files."""
    sandbox = joined(cnm)
    before = set(texts(sandbox))
    _remove_all(Path(sandbox.files["/etc/hosts"]))
    cnm.create_network("more", subnets=["10.89.0.0/24"]).create_endpoint("web").join(sandbox)
    assert before == set(texts(sandbox))
    assert [] == cnm.heal()


def test_a_sandbox_of_the_host_has_no_files(cnm: Controller) -> None:
    """The host's own are not libcnm's to heal."""
    assert {} == cnm.create_sandbox("c1", host_network=True).files
    assert [] == cnm.heal()


def test_locks_that_nobody_holds_are_swept(cnm: Controller, host: FakeHost) -> None:
    """A join shares its network's lock, and a killed verb leaves all of its own: healing removes the files."""
    joined(cnm)
    Path(host.paths.locks, "of-a-killed-process").touch()
    cnm.heal()
    assert [] == os.listdir(host.paths.locks)


def test_a_run_dir_that_others_may_write_to_is_refused(host: FakeHost) -> None:
    """Locks, pins and the resident's socket are there."""
    locks = Path(host.paths.locks)
    locks.mkdir(mode=0o700, parents=True, exist_ok=True)
    locks.chmod(0o777)
    with pytest.raises(Forbidden, match="chmod go-w"):
        host.controller()


# -- the underlay ------------------------------------------------------------------------------------------------------


def test_an_address_of_no_link_is_refused(world: FakeWorld, host: FakeHost) -> None:
    """A typing error in advertise= would send other hosts' packets elsewhere: refused before anything is touched."""
    host.address = "203.0.113.9"
    with host.controller() as cnm:
        before = world.stored_keys()
        with pytest.raises(Invalid, match=r"advertise.*203\.0\.113\.9.*192\.0\.2\.11"):
            cnm.create_network("net", "overlay")
        assert before == world.stored_keys()
        cnm.create_network("local")  # needs no other host


def test_a_changed_mtu_reaches_what_is_there(world: FakeWorld, host: FakeHost, cnm: Controller) -> None:
    """A long-lived process does not go on with the MTU it began with: what it makes next, and heals, has the new."""
    host.kernel.vandalise_add(Bridge("", "wan0", "02:00:00:00:00:99", 1400))
    host.kernel.vandalise_add(_address("wan0", "198.51.100.1/24"))
    with host.controller() as second:
        second.create_network("one", "overlay").create_endpoint("a").join(second.create_sandbox("c1"))
        assert {1450} == _mtus(host)
        host.address = "198.51.100.1"
    with host.controller() as third:
        third.heal()
        assert {1350} == _mtus(host)
        host.kernel.vandalise_change(Bridge("", "wan0", "02:00:00:00:00:99", 1300))
        assert isinstance(world.clock, ManualClock)
        world.clock.advance(60)
        third.heal()
        assert {1250} == _mtus(host)


def _address(link: str, text: str) -> Address:
    return Address("", link, ipaddress.ip_interface(text))


def _mtus(host: FakeHost) -> set[int]:
    return {one.resource.mtu for one in host.kernel.everything() if isinstance(one.resource, Vxlan)}


# -- a VNI of the user's choice ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["1", "255", "256", "16777215"])
def test_a_vni_of_the_users_choice(cnm: Controller, value: str) -> None:
    """The original takes every number but 0, those included that neither it nor libcnm would pick."""
    network = cnm.create_network("net", "overlay", options={options.OVERLAY_VNIS: value})
    assert int(value) == network.inspect()["VNI"]
    assert limits.VNI_MIN <= int(str(cnm.create_network("other", "overlay").inspect()["VNI"]))


@pytest.mark.parametrize(
    ("value", "words"),
    [("0", "between 1"), ("16777216", "between 1"), ("-1", "between 1"), ("", "between 1"), ("x", "between 1"),
     ("000000000001999999999999", "between 1"), ("9" * 60, "between 1"), ("256,257", "one VNI"), ("256,", "one VNI")],
)  # fmt: skip
def test_a_vni_that_there_is_not(cnm: Controller, world: FakeWorld, value: str, words: str) -> None:
    """Refused with its reason, and nothing is claimed; a list is told what to do instead."""
    before = world.stored_keys()
    with pytest.raises(Invalid, match=words):
        cnm.create_network("net", "overlay", options={options.OVERLAY_VNIS: value})
    assert before == world.stored_keys()
