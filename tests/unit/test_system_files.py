"""Files as a door: in place, never through a symbolic link, each write announced."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from libcnm.errors import CnmError, Forbidden, Unavailable
from libcnm.system.entropy import SeededEntropy, SystemEntropy
from libcnm.system.files import Files


def test_a_write_keeps_the_inode(tmp_path: Path) -> None:
    """A container sees a bind-mounted file: its inode must stay, and the old text must be gone."""
    path = tmp_path / "hosts"
    files = Files()
    files.write(str(path), "a long line\n")
    inode = path.stat().st_ino
    files.write(str(path), "short\n")
    assert ("short\n", inode) == (files.read(str(path)), path.stat().st_ino)


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    """Somebody planted a link: refused, and what it points to is untouched."""
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / "hosts").symlink_to(target)
    with pytest.raises(CnmError):
        Files().write(str(tmp_path / "hosts"), "theirs")
    assert "mine" == target.read_text()


@pytest.fixture
def seen_by_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Writes take three octets at a time, as they may; what a reader of ``hosts`` finds after each step is noted."""
    seen: list[str] = []
    write, cut = os.pwrite, os.ftruncate

    def short(descriptor: int, octets: bytes, offset: int) -> int:
        written = write(descriptor, octets[:3], offset)
        seen.append((tmp_path / "hosts").read_text())
        return written

    def noted(descriptor: int, length: int) -> None:
        cut(descriptor, length)
        seen.append((tmp_path / "hosts").read_text())

    monkeypatch.setattr(os, "pwrite", short)
    monkeypatch.setattr(os, "ftruncate", noted)
    return seen


def test_a_short_write_is_continued(tmp_path: Path, seen_by_readers: list[str]) -> None:
    """write(2) may take less than it is given: the rest follows, nothing is lost."""
    Files().write(str(tmp_path / "hosts"), "127.0.0.1 localhost\n")
    assert "127.0.0.1 localhost\n" == (tmp_path / "hosts").read_text()
    assert len(seen_by_readers) > 5


@pytest.mark.parametrize("new", ["10.0.0.2 c1\n", "127.0.0.1 localhost\n10.0.0.2 c1\n"], ids=["shorter", "longer"])
def test_a_reader_never_finds_it_empty(tmp_path: Path, seen_by_readers: list[str], new: str) -> None:
    """At every step (a crash could be the next) each line there is one of the old text or of the new one, or blank;
    at the end nothing of the old one is left.
    """
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    Files().write(str(tmp_path / "hosts"), new)
    assert "" not in seen_by_readers
    assert all(len("127.0.0.1 localhost\n") <= len(text) for text in seen_by_readers[:-1])
    assert new.ljust(20, "\n") in seen_by_readers  # all is written, nothing is cut off yet
    assert new == seen_by_readers[-1]


def test_what_is_as_it_should_be_is_not_written(tmp_path: Path) -> None:
    """No effect, no new time of change; another mode counts as a difference."""
    seen: list[str] = []
    files = Files(lambda name, when: seen.append(f"{name}:{when}"))
    path = tmp_path / "hosts"
    files.write(str(path), "text\n")
    os.utime(path, ns=(0, 0))
    files.write(str(path), "text\n")
    assert (2, 0) == (len(seen), path.stat().st_mtime_ns)
    path.chmod(0o600)
    files.write(str(path), "text\n")
    assert (4, 0o644) == (len(seen), stat.S_IMODE(path.stat().st_mode))


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    """A hosts file that only root can read is none to a container's ordinary users."""
    before = os.umask(0o077)
    try:
        Files().write(str(tmp_path / "hosts"), "text\n")
    finally:
        os.umask(before)
    assert 0o644 == stat.S_IMODE((tmp_path / "hosts").stat().st_mode)


@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, put: Callable[[str], None]) -> None:
    """A pipe in its place would stop us for good: it is neither read nor written."""
    put(str(tmp_path / "hosts"))
    assert None is Files().look(str(tmp_path / "hosts"))
    with pytest.raises(Forbidden, match="plain file"):
        Files().write(str(tmp_path / "hosts"), "text\n")


def test_a_new_file_is_there_whole_or_not_at_all(tmp_path: Path, seen_by_readers: list[str]) -> None:
    """Its name appears with all of its text; who comes second changes nothing; no draft is left behind."""
    files, path = Files(), tmp_path / "installation"
    (tmp_path / "hosts").write_text("what the fixture reads\n")
    there: list[bool] = []
    link = os.link

    def noted(source: str, target: str, **options: bool) -> None:
        there.append(path.exists())
        assert "an id, longer than one write\n" == Path(source).read_text()
        link(source, target, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", noted)
        assert files.write_new(str(path), "an id, longer than one write\n")
    assert not files.write_new(str(path), "another\n")
    assert [False] == there
    assert ("an id, longer than one write\n", 0o600) == files.look(str(path))
    assert {"hosts", "installation"} == set(os.listdir(tmp_path))


def test_a_new_file_is_not_made_through_a_link(tmp_path: Path) -> None:
    """A link of that name counts as something that is there, even one that leads nowhere."""
    (tmp_path / "installation").symlink_to(tmp_path / "target")
    assert not Files().write_new(str(tmp_path / "installation"), "text\n")
    assert ["installation"] == os.listdir(tmp_path)


def test_of_many_who_make_it_one_does(tmp_path: Path) -> None:
    """Two installations that begin in one run_dir at once: one of them owns it, and both can read which."""
    made: list[str] = []
    path = str(tmp_path / "installation")

    def work(name: str) -> None:
        if Files().write_new(path, name):
            made.append(name)

    threads = [threading.Thread(target=work, args=(f"installation {number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [Files().read(path)]


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    """Whoever may put a file there could put a link, a socket or a lock there; and the error says what to do."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(mode)
    with pytest.raises(Forbidden, match="chmod go-w"):
        Files().make_folder(str(tmp_path / "run"))
    with pytest.raises(Forbidden):
        Files().make_folder(str(tmp_path / "run"), 0o755)
    assert mode == stat.S_IMODE((tmp_path / "run").stat().st_mode)


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """Its owner could change everything in it, whatever its mode."""
    (tmp_path / "run").mkdir()
    try:
        os.chown(tmp_path / "run", 12345, -1)
    except OSError:
        pytest.skip("an ordinary user cannot give a folder away")
    with pytest.raises(Forbidden, match="belongs to user 12345"):
        Files().make_folder(str(tmp_path / "run"))


UNKNOWN_USER = """
import ctypes, os, sys
from libcnm.errors import Forbidden
from libcnm.system.files import Files
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x1000_0000):
    sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
for path in sys.argv[1:]:
    assert (os.geteuid(),) * 2 == (os.stat(path).st_uid, int(open("/proc/sys/kernel/overflowuid").read()))
    try:
        Files().make_folder(path)
        print("ours")
    except Forbidden:
        print("refused")
"""


@pytest.mark.kernel
def test_an_unknown_user_is_told_from_others(tmp_path: Path) -> None:
    """In a user namespace that maps nobody, all owners have one number: our own folder is used, others' is refused."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "theirs").mkdir()
    try:
        os.chown(tmp_path / "theirs", 12345, -1)
    except OSError:
        pytest.skip("an ordinary user cannot give a folder away")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    argv = [sys.executable, "-c", UNKNOWN_USER, str(tmp_path / "mine"), str(tmp_path / "theirs")]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert ("ours\nrefused\n", "") == (done.stdout, done.stderr)


def test_parents_are_not_open_to_all(tmp_path: Path) -> None:
    """Whoever may write to the folder above could put another one in its place; a umask of 0 must not allow it."""
    before = os.umask(0)
    try:
        assert Files().make_folder(str(tmp_path / "a" / "b" / "c"))
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / path).stat().st_mode) for path in ("a", "a/b", "a/b/c")]
    assert [0o755, 0o755, 0o700] == modes
    assert not Files().make_folder(str(tmp_path / "a" / "b" / "c"))


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """The run folder is ours, or it is not used."""
    (tmp_path / "real").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "real")
    with pytest.raises(Forbidden, match="symbolic link"):
        Files().make_folder(str(tmp_path / "run"))


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """The same for anything else that is in its place."""
    (tmp_path / "run").write_text("")
    with pytest.raises(Forbidden):
        Files().make_folder(str(tmp_path / "run"))


def test_folders_are_private_unless_asked(tmp_path: Path) -> None:
    """State is nobody else's business; parents are made on the way."""
    Files().make_folder(str(tmp_path / "a" / "b"))
    assert 0o700 == (tmp_path / "a" / "b").stat().st_mode & 0o777
    Files().make_folder(str(tmp_path / "a" / "b"))


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    """No file is None; a folder is an error; octets that are no UTF-8 are shown as such; the limit holds."""
    files = Files()
    assert None is files.read(str(tmp_path / "none"))
    with pytest.raises(Unavailable):
        files.read(str(tmp_path))
    (tmp_path / "odd").write_bytes(b"a\xff" * 1000)
    text = files.read(str(tmp_path / "odd"), limit=10)
    assert text is not None
    assert text.startswith("a�")
    assert 10 == len(text)


def test_a_folder_goes_with_its_files(tmp_path: Path) -> None:
    """Files and links in it are removed, targets are not; a second removal is none."""
    target = tmp_path / "target"
    target.write_text("mine")
    folder = tmp_path / "box"
    folder.mkdir()
    (folder / "hosts").write_text("")
    (folder / "link").symlink_to(target)
    files = Files()
    files.remove_folder(str(folder))
    files.remove_folder(str(folder))
    assert not folder.exists()
    assert "mine" == target.read_text()


def test_a_linked_folder_is_not_emptied(tmp_path: Path) -> None:
    """The sandbox's folder was replaced by a link to somebody's home: the link goes, their files stay."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "precious").write_text("mine")
    (tmp_path / "box").symlink_to(home)
    Files().remove_folder(str(tmp_path / "box"))
    assert ["precious"] == os.listdir(home)
    assert not (tmp_path / "box").is_symlink()


def test_effects_are_announced(tmp_path: Path) -> None:
    """Each write and removal is a crash point, before and after."""
    seen: list[tuple[str, str]] = []
    files = Files(lambda name, when: seen.append((name, when)))
    files.write(str(tmp_path / "a"), "")
    files.remove_folder(str(tmp_path / "none"))
    assert [("file", "before"), ("file", "after"), ("remove-folder", "before"), ("remove-folder", "after")] == seen


def test_entropy() -> None:
    """Ids are 64 hexadecimal digits; seeded ones repeat, the system's do not; ``below`` stays below."""
    assert [SeededEntropy(1).new_id()] * 2 == [SeededEntropy(1).new_id(), SeededEntropy(1).new_id()]
    assert SystemEntropy().new_id() != SystemEntropy().new_id()
    assert 64 == len(SystemEntropy().new_id())
    assert set(range(7)) == {SeededEntropy(seed).below(7) for seed in range(200)}
