"""Files as a door: written atomically or in place, never through a symbolic link, never readable by others unless
asked.

Every write is announced to ``on_effect`` before and after it, as the kernel door does.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Literal

from libcnm.errors import Forbidden, Unavailable

Effect = Callable[[str, Literal["before", "after"]], None]


def no_effect(name: str, when: Literal["before", "after"]) -> None:
    """The hook of production: nothing."""


class Files:
    """The host's files, below folders that this installation owns."""

    def __init__(self, on_effect: Effect = no_effect) -> None:
        self.on_effect = on_effect

    def make_folder(self, path: str, mode: int = 0o700) -> None:
        """The folder, with its parents; Forbidden when something else than a folder is there."""
        try:
            os.makedirs(path, mode=mode, exist_ok=True)
        except FileExistsError:
            raise Forbidden(f"{path} is not a folder") from None
        except OSError as error:
            raise Unavailable(path, error.strerror or str(error)) from None
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise Forbidden(f"{path} is a symbolic link", hint="remove it; libcnm follows none in its own folders")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write in place (a bind-mounted file keeps its inode), creating it if need be."""
        self.on_effect("file", "before")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, mode)
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise Unavailable(path, error.strerror or str(error)) from None
        self.on_effect("file", "after")

    def read(self, path: str, limit: int = 1 << 20) -> str | None:
        """The text, or None when there is no such file; at most ``limit`` octets are read."""
        try:
            with open(path, "rb") as file:
                return file.read(limit).decode(errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(path, error.strerror or str(error)) from None

    def remove_folder(self, path: str) -> None:
        """Remove a folder and the plain files in it; not there is fine. Of a link in its place, the link is removed."""
        self.on_effect("remove-folder", "before")
        try:
            _remove_folder(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise Unavailable(path, error.strerror or str(error)) from None
        self.on_effect("remove-folder", "after")


def _remove_folder(path: str) -> None:
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        os.unlink(path)
        return
    try:
        for name in os.listdir(folder):
            os.unlink(name, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(path)
