"""Whose a run_dir is. Locks, pins and the resident's socket are in it: two installations in one, or one installation in
two, would each take the other for dead.

The installation at work in a folder is named by a file in it, and the installation's own store names the folder, for as
long as the host is up. Both are read before anything is made, and claimed when an installation is opened.
"""

from __future__ import annotations

import os
import time

from libcnm.controller.repository import Repository, Stored, create
from libcnm.errors import Conflict, Forbidden
from libcnm.kv.base import Store
from libcnm.model import keys, limits
from libcnm.model.deadline import Deadline
from libcnm.model.records import Installation, NameClaim
from libcnm.system.files import Files


def refuse_without_state(run_dir: str, database: str, files: Files) -> None:
    """Forbidden for a run_dir that is somebody's, when there is no database yet: it cannot be ours."""
    owner = files.read(_note(run_dir))
    if owner is not None and not os.path.exists(database):
        raise _anothers(run_dir, owner, f"and {os.path.dirname(database)} holds none yet")


def refuse(run_dir: str, files: Files, store: Store, boot_id: str) -> None:
    """Forbidden for a run_dir of another installation, or another than this installation has; writes nothing."""
    local, deadline = Repository(store, "local"), Deadline.after(limits.VERB_SECONDS, time.monotonic)
    installation = local.read(Installation, keys.INSTALLATION, deadline)
    _refuse(run_dir, files, local, "" if installation is None else installation.record.id, boot_id, deadline)


def claim(run_dir: str, files: Files, local: Repository, installation: str, boot_id: str, deadline: Deadline) -> None:
    """Make the run_dir the installation's, or raise Forbidden as :func:`refuse` does."""
    known, owned = _refuse(run_dir, files, local, installation, boot_id, deadline)
    if known is None or known.record.operation != boot_id:
        ours = NameClaim(run_dir, boot_id)
        try:
            written = create(keys.RUN_DIR, ours) if known is None else known.replace(ours)
            local.commit(written, deadline, durable=False)
        except Conflict:  # somebody was faster, perhaps with another run_dir
            claim(run_dir, files, local, installation, boot_id, deadline)
            return
    if not owned and not files.write_new(_note(run_dir), installation + "\n", 0o600):
        claim(run_dir, files, local, installation, boot_id, deadline)  # somebody was faster: ours only if one of us


def _refuse(
    run_dir: str, files: Files, local: Repository, installation: str, boot_id: str, deadline: Deadline
) -> tuple[Stored[NameClaim] | None, bool]:
    """Which run_dir the installation has been at work in, and whether this one says that it is its own."""
    owner = files.read(_note(run_dir))
    if owner is not None and owner.strip() != installation:
        raise _anothers(run_dir, owner, f"not to {installation[:12]}" if installation else "not to a new one")
    stored = local.read(NameClaim, keys.RUN_DIR, deadline)
    found = None if stored is None else stored.record
    if found is not None and found.operation == boot_id and found.holder != run_dir:
        raise Forbidden(
            f"this installation is at work in {found.holder} since the host was booted, not in {run_dir}",
            hint="open it with the same run_dir everywhere",
        )
    return stored, owner is not None


def _note(run_dir: str) -> str:
    return os.path.join(run_dir, "installation")


def _anothers(run_dir: str, owner: str, why: str) -> Forbidden:
    return Forbidden(
        f"{run_dir} belongs to installation {owner.strip()[:12]}, {why}",
        hint="give each state_dir a run_dir of its own",
    )
