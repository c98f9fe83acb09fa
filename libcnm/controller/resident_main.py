"""The resident as a process: ``python -m libcnm.controller.resident_main``, configured by one line of JSON on stdin.

It says ``ready`` on stdout once it answers, or ``taken`` when another resident of the installation does.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from contextlib import suppress

from libcnm.controller.context import Context, Settings
from libcnm.controller.doors import Paths, open_doors
from libcnm.controller.registry import Registry
from libcnm.controller.resident import LOCK, Resident
from libcnm.errors import DeadlineExceeded


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
    logging.basicConfig(
        filename=os.path.join(settings.paths.run_dir, "resident.log"),
        level=os.environ.get("LIBCNM_LOG_LEVEL", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    doors = open_doors(settings.paths, settings.cluster_store)
    try:
        try:
            # A predecessor that is about to go holds the lock for a moment more.
            election = doors.locks.acquire(LOCK, deadline=doors.clock.deadline(2.0))
        except DeadlineExceeded:
            _say("taken")
            return 0
        with election:
            resident = Resident(Context(settings, doors, Registry()))
            signal.signal(signal.SIGTERM, lambda *_: resident.stop())
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                resident.serve(lambda: _say("ready"))
            except Exception:
                logging.getLogger("libcnm.resident").exception("the resident ends")
                return 1
    finally:
        doors.close()
    return 0


def _say(word: str) -> None:
    """One word to whoever started us, who may have gone; then let go of its pipes and its folder."""
    with suppress(BrokenPipeError):
        os.write(1, word.encode() + b"\n")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    if nowhere > 2:
        os.close(nowhere)
    os.chdir("/")


if __name__ == "__main__":
    sys.exit(main())
