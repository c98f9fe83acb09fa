"""Files as a door: in place, never through a symbolic link, each write announced."""

from __future__ import annotations

import os
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
