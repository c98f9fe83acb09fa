"""Become another user of this machine for good, and run a command as that user: by id, so no such user need exist.

    unshare --mount python other_user_worker.py '{"uid": 12345, "home": "...", "reach": ["..."], "argv": ["..."]}'

``home`` and all in it is given to the user. ``reach`` are folders that it needs to look into: where one of their
parents is closed to others, as /root is, an open folder that holds nothing else is mounted over that parent, in this
mount namespace alone; what lies in them keeps its own permissions. It must never keep a privilege: an exec ends it.
Never imported; run by the tests of this folder. The law: setresuid(2), capabilities(7), mount_namespaces(7).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

OTHERS_MAY_PASS = 0o001


def closed_parent(path: Path) -> Path | None:
    """The topmost of its parents that others cannot pass through."""
    for parent in reversed(path.parents):
        if not parent.stat().st_mode & OTHERS_MAY_PASS:
            return parent
    return None


def mount(*words: str | Path) -> None:
    subprocess.run(["mount", *words], check=True)


def open_up(paths: Sequence[Path]) -> None:
    """Let others reach these folders, and nothing beside them."""
    found = {path: closed_parent(path) for path in paths}
    for number, closed in enumerate(sorted({parent for parent in found.values() if parent is not None})):
        kept = Path("/run", f"covered-{number}")  # what is below ``closed``, reachable while its own place is covered
        kept.mkdir(mode=0o700)
        mount("--rbind", closed, kept)
        mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", closed)
        for path in sorted(path for path, parent in found.items() if parent == closed):
            path.mkdir(parents=True, exist_ok=True)
            mount("--rbind", kept / path.relative_to(closed), path)


def give(folder: Path, uid: int) -> None:
    for path, _, files in os.walk(folder):
        for name in (path, *(os.path.join(path, file) for file in files)):
            os.lchown(name, uid, uid)


def main() -> None:
    order = json.loads(sys.argv[1])
    uid, home = order["uid"], Path(order["home"])
    mount("-t", "tmpfs", "tmpfs", "/run")
    give(home, uid)
    open_up([home, *map(Path, order["reach"])])
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.chdir(home)
    # As Debian gives it to a new user: no folder of system programs in PATH, and nothing of the caller's.
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "LANG": "C.UTF-8", **order["environment"]}
    os.execve(order["argv"][0], order["argv"], environment)  # noqa: S606 - no shell, on purpose


if __name__ == "__main__":
    main()
