"""The resident as a process: ``python -m libcnm.controller.resident_main``, configured by one line of JSON on stdin.

It holds the lock of whoever started it until it answers, or finds that another resident of the installation does: see
:mod:`libcnm.controller.resident_start`. What it has to say is in ``resident.log`` of the run_dir, which only its user
can read: names and addresses are nobody else's.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import stat
import sys
from io import TextIOWrapper
from typing import Final

from libcnm.controller.context import Context, Settings
from libcnm.controller.doors import Paths, open_doors
from libcnm.controller.registry import Registry
from libcnm.controller.resident import LOCK, Resident
from libcnm.errors import DeadlineExceeded
from libcnm.system.files import Files

LOG_OCTETS: Final = 1 << 20
"""Some 8000 lines. One earlier file is kept; both are in the run_dir, which as a rule is memory."""


class ResidentLog(logging.FileHandler):
    """A log of at most ``2 * LOG_OCTETS``: mode 0600, only ever appended to, and never a file that a link leads to."""

    def __init__(self, path: str, octets: int = LOG_OCTETS) -> None:
        self._octets = octets
        super().__init__(path, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        try:
            descriptor = _open_log(self.baseFilename)
        except FileExistsError:
            # Only we write here, so it was put here by mistake; the log is what people look for under this name.
            os.unlink(self.baseFilename)
            descriptor = _open_log(self.baseFilename)
        return open(descriptor, "a", encoding="utf-8")

    def emit(self, record: logging.LogRecord) -> None:
        try:
            stream = self.stream
            if stream is not None and os.fstat(stream.fileno()).st_size >= self._octets:
                self.stream = None  # the next line opens a new one
                stream.close()
                os.replace(self.baseFilename, f"{self.baseFilename}.1")
            super().emit(record)
        except OSError:
            self.handleError(record)  # its folder has gone, perhaps: no reason to stop serving


def _open_log(path: str) -> int:
    """FileExistsError: something else than a plain file is there."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise FileExistsError(error.errno, error.strerror, path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    os.fchmod(descriptor, 0o600)
    return descriptor


def main() -> int:
    """Run until not needed; 0 also when another resident was first."""
    config = json.loads(sys.stdin.readline())
    sys.stdin.close()
    settings = Settings.checked(
        Paths.checked(config["state_dir"], config["run_dir"]),
        cluster_store=config["cluster_store"],
        host=config["host"],
        advertise=config["advertise"],
        default_host_ips=config["default_host_ips"],
        timeout=10.0,
        resident="off",
        guardian=config["guardian"],
    )
    Files().make_folder(settings.paths.run_dir, 0o755)  # ours alone, or nothing of us is written there
    logging.basicConfig(
        handlers=[_log_to(os.path.join(settings.paths.run_dir, "resident.log"))],
        level=level_named(os.environ.get("LIBCNM_LOG_LEVEL", "")),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        return _run(settings, config["starting"])
    except Exception:
        # Whoever started us is told that we ended, and where to look for the reason: here.
        logging.getLogger("libcnm.resident").exception("the resident cannot start")
        return 1


def level_named(name: str) -> int:
    """A level of logging by its name; INFO for what is none. A word mistyped somewhere must not cost all names."""
    found = getattr(logging, name.upper(), None) if name.isalpha() else None
    return found if isinstance(found, int) else logging.INFO


def _log_to(path: str) -> logging.Handler:
    try:
        return ResidentLog(path)
    except OSError:
        return logging.NullHandler()  # names are served all the same


def _run(settings: Settings, starting: int) -> int:
    doors = open_doors(settings.paths, settings.cluster_store)
    try:
        try:
            # A predecessor that is about to go holds the lock for a moment more.
            election = doors.locks.acquire(LOCK, deadline=doors.clock.deadline(2.0))
        except DeadlineExceeded:
            return 0
        with election:
            try:
                _serve(Context(settings, doors, Registry()), starting)
            except Exception:
                logging.getLogger("libcnm.resident").exception("the resident ends")
                return 1
    finally:
        doors.close()
    return 0


def _serve(context: Context, starting: int) -> None:
    def stop(_number: int, _frame: object) -> None:
        resident.stop(on_purpose=False)  # whoever ends a process knows nothing of names: they live on

    resident = Resident(context)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resident.serve(lambda: _let_go(starting))
    while resident.is_needed_again():
        resident = Resident(context)
        resident.serve()


def _let_go(starting: int) -> None:
    """Of the lock of whoever started us, and of the folder that they did it in."""
    os.close(starting)
    os.chdir("/")


if __name__ == "__main__":
    sys.exit(main())
