"""Files as a door: written in place or made at once, never through a symbolic link, readable by others only if asked;
and the folders they are in, which must be ours alone.

A file that containers see by a bind mount has to keep its inode, so it is written in place, and as safely as that
allows: the new text goes over the old one before anything is cut off, so a reader never finds the file empty, and a
crash leaves no less than was there. Every write is announced to ``on_effect`` before and after it, as the kernel door
does; a file that is as it should be is not written. Linux's rules: open(2), link(2), user_namespaces(7).
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal

from libcnm.errors import Forbidden, Unavailable

Effect = Callable[[str, Literal["before", "after"]], None]

_READ_OCTETS: Final = 1 << 20
"""What a file of ours may have at most: far more than a hosts file of all endpoints of a sandbox."""
_OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_PARENT_MODE: Final = 0o755
_OVERFLOW_UID: Final = "/proc/sys/kernel/overflowuid"


def no_effect(name: str, when: Literal["before", "after"]) -> None:
    """The hook of production: nothing."""


class Files:
    """The host's files, below folders that this installation owns."""

    def __init__(self, on_effect: Effect = no_effect) -> None:
        self.on_effect = on_effect

    def make_folder(self, path: str, mode: int = 0o700) -> bool:
        """The folder, with its parents; True when it had to be made.

        Forbidden when something else than a folder is there, or a folder in which somebody else could put something:
        one that is neither ours nor root's, or that its group or others may write to.
        """
        try:
            made = _make_folder(path, mode)
            status = os.lstat(path)
        except OSError as error:
            raise Unavailable(path, error.strerror or str(error)) from None
        _check_folder(path, status)
        return made

    def check_folder(self, path: str) -> None:
        """Refuse what :meth:`make_folder` would refuse, and make nothing: what is not there is no trouble."""
        try:
            _check_folder(path, os.lstat(path))
        except FileNotFoundError:
            return
        except OSError as error:
            raise Unavailable(path, error.strerror or str(error)) from None

    def write(self, path: str, text: str, mode: int = 0o644, *, anew: bool = False) -> None:
        """Write in place (a bind-mounted file keeps its inode), creating it if need be. Forbidden when something else
        than a plain file is there. ``anew``: do not look whether it is right already, for it should not be.
        """
        octets = text.encode()
        if not anew and _plain(path, len(octets) + 1) == (octets, mode):
            return
        self.on_effect("file", "before")
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, mode)
            try:
                _overwrite(path, descriptor, octets, mode)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise _no_plain_file(path) from None
            raise Unavailable(path, error.strerror or str(error)) from None
        self.on_effect("file", "after")

    def write_new(self, path: str, text: str, mode: int = 0o600) -> bool:
        """Make a file that nobody bind-mounts, at once: under its name it is there whole, or not at all, even after a
        power failure. False, and nothing is changed, when something of that name is there already; of several who try
        this at once, one gets True.
        """
        self.on_effect("file", "before")
        draft = f"{path}.{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(draft, flags, mode)
            try:
                _overwrite(draft, descriptor, text.encode(), mode)
                os.fsync(descriptor)
                os.link(draft, path, follow_symlinks=False)
                made = True
            except FileExistsError:
                made = False
            finally:
                os.close(descriptor)
                with suppress(FileNotFoundError):
                    os.unlink(draft)
        except OSError as error:
            raise Unavailable(path, error.strerror or str(error)) from None
        self.on_effect("file", "after")
        return made

    def read(self, path: str, limit: int = _READ_OCTETS) -> str | None:
        """The text, or None when there is no such file; at most ``limit`` octets are read. Links are followed: the
        host's own files are often some. What is in our folders, :meth:`look` reads.
        """
        try:
            with open(path, "rb") as file:
                return file.read(limit).decode(errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(path, error.strerror or str(error)) from None

    def look(self, path: str, limit: int = _READ_OCTETS) -> tuple[str, int] | None:
        """The text (at most ``limit`` octets of it) and the mode of a plain file; None when there is none: a link or a
        pipe in its place is not it.
        """
        found = _plain(path, limit)
        return None if found is None else (found[0].decode(errors="replace"), found[1])

    def names(self, path: str) -> tuple[str, ...]:
        """What is in a folder, sorted; nothing when it is not there."""
        try:
            return tuple(sorted(os.listdir(path)))
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise Unavailable(path, error.strerror or str(error)) from None

    def remove(self, path: str) -> None:
        """Remove a file, or a link in its place; not there is fine."""
        self.on_effect("remove-file", "before")
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise Unavailable(path, error.strerror or str(error)) from None
        self.on_effect("remove-file", "after")

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


# -- plain files -----------------------------------------------------------------------------------------------------


def _plain(path: str, limit: int) -> tuple[bytes, int] | None:
    """What a plain file begins with, and its mode; None when there is none."""
    try:
        # Without O_NONBLOCK, whoever puts a pipe here would stop us for good.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return None
            found = b""
            while len(found) < limit and (more := os.read(descriptor, limit - len(found))):
                found += more
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            return None
        raise Unavailable(path, error.strerror or str(error)) from None
    return found, stat.S_IMODE(status.st_mode)


def _overwrite(path: str, descriptor: int, octets: bytes, mode: int) -> None:
    """Put the text over the one that is there, then cut off what is left of that."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise _no_plain_file(path)
    if stat.S_IMODE(status.st_mode) != mode:
        os.fchmod(descriptor, mode)  # whatever the caller's umask: a container's ordinary users read it, too
    # A longer old text is blanked out in the same write: until it is cut off, a reader sees empty lines after the new
    # text and not the end of the old one.
    blank = status.st_size - len(octets) if status.st_size <= _READ_OCTETS else 0
    _write_all(descriptor, octets + b"\n" * blank)
    os.ftruncate(descriptor, len(octets))


def _write_all(descriptor: int, octets: bytes) -> None:
    """From the file's beginning; a write may take less than it is given."""
    written = 0
    while written < len(octets):
        written += os.pwrite(descriptor, octets[written:], written)


def _no_plain_file(path: str) -> Forbidden:
    return Forbidden(f"{path} is not a plain file", hint="remove it; libcnm follows no links in its own folders")


# -- folders ---------------------------------------------------------------------------------------------------------


def _make_folder(path: str, mode: int) -> bool:
    """True when it had to be made. Its parents get a mode of their own: a umask of 0 must not open them to all."""
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return False
    except FileNotFoundError:
        parent = os.path.dirname(path)
        if os.path.isdir(parent):
            raise  # it takes no folders, like /proc
        _make_folder(parent, _PARENT_MODE)
        return _make_folder(path, mode)
    return True


def _check_folder(path: str, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise Forbidden(f"{path} is a symbolic link", hint="remove it; libcnm follows none in its own folders")
    if not stat.S_ISDIR(status.st_mode):
        raise Forbidden(f"{path} is not a folder")
    if not _is_ours(path, status.st_uid):
        raise Forbidden(
            f"{path} belongs to user {status.st_uid}, who could change what libcnm (user {os.geteuid()}) keeps there",
            hint="use another folder, or give this one away: chown",
        )
    if status.st_mode & _OTHERS_MAY_WRITE:
        raise Forbidden(
            f"{path} has mode {stat.S_IMODE(status.st_mode):04o}: its group or others could put something there",
            hint=f"chmod go-w {path}, after a look at what is in it",
        )


def _is_ours(path: str, owner: int) -> bool:
    """Whether a folder is ours, or root's, who may do anything anyway."""
    if owner not in (0, os.geteuid()):
        return False
    if not owner or owner != _overflow_uid():
        return True
    # Where we are no user that the user namespace knows, everybody unknown has this one number. The kernel can tell us
    # apart: a mode is its owner's to set.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode))
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True


def _overflow_uid() -> int:
    try:
        with open(_OVERFLOW_UID, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 65534


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
