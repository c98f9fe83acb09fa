"""The doors that one installation works through, as one value: what tests and the lab replace."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

import attrs

from libcnm.contracts.driver import ResourceDoor
from libcnm.errors import Invalid
from libcnm.kernel.base import Kernel
from libcnm.kv.base import Store
from libcnm.model.arguments import path
from libcnm.model.resource import Resource
from libcnm.system.clock import Clock, SystemClock
from libcnm.system.entropy import Entropy, SystemEntropy
from libcnm.system.files import Files
from libcnm.system.locks import Locks

if TYPE_CHECKING:
    from libcnm.kernel.linux import Home

DATABASE = "libcnm.db"
ThirdPartyDoors = Mapping[type[Resource], ResourceDoor]
"""By the resource kinds that they are for."""


@attrs.frozen
class Paths:
    """The two folders of an installation: ``state_dir`` outlives a boot, ``run_dir`` does not."""

    state_dir: str
    run_dir: str

    @property
    def database(self) -> str:
        """The host's own store."""
        return f"{self.state_dir}/{DATABASE}"

    @property
    def locks(self) -> str:
        """Where the locks are."""
        return f"{self.run_dir}/locks"

    @property
    def socket(self) -> str:
        """Where the resident listens."""
        return f"{self.run_dir}/resident.sock"

    @property
    def sandboxes(self) -> str:
        """Where the sandboxes' folders are."""
        return f"{self.run_dir}/sandboxes"

    def sandbox(self, sandbox_id: str) -> str:
        """A sandbox's folder, with ``hosts``, ``resolv.conf`` and ``hostname``."""
        return f"{self.sandboxes}/{sandbox_id[:12]}"

    @classmethod
    def checked(cls, state_dir: str, run_dir: str) -> Paths:
        """Both absolute and different, or Invalid."""
        path(state_dir, "state_dir")
        path(run_dir, "run_dir")
        if os.path.normpath(state_dir) == os.path.normpath(run_dir):
            raise Invalid(
                "run_dir", run_dir, "is the state_dir too", hint="run_dir must be empty after a boot, state_dir not"
            )
        return cls(os.path.normpath(state_dir), os.path.normpath(run_dir))


def _as_they_are(doors: ThirdPartyDoors) -> ThirdPartyDoors:
    return doors


@attrs.frozen
class Doors:
    """Everything outside. ``cluster`` None: no networks of global scope. ``third_party``: what stands for the doors
    that drivers bring along; themselves, but for a rehearsal.
    """

    kernel: Kernel
    local: Store
    locks: Locks
    files: Files
    cluster: Store | None = None
    clock: Clock = attrs.field(factory=SystemClock)
    entropy: Entropy = attrs.field(factory=SystemEntropy)
    third_party: Callable[[ThirdPartyDoors], ThirdPartyDoors] = _as_they_are

    def close(self) -> None:
        """Close all that can be closed, whatever the others say."""
        try:
            self.kernel.close()
        finally:
            try:
                self.local.close()
            finally:
                if self.cluster is not None:
                    self.cluster.close()


def open_doors(paths: Paths, cluster_store: str | None, *, home: Home | None = None) -> Doors:
    """The real ones. ``home`` names the namespaces that play the host (:class:`libcnm.kernel.linux.Home`), for labs.

    What is refused, is refused before anything is made: who may not use the kernel's, a URL of no store, folders that
    are not ours alone, a run_dir of another installation. Raises Invalid, Forbidden, Unavailable, Corrupt, DriverError,
    NotSupported.
    """
    # Imported here: `import libcnm` loads neither sqlite3 nor anything of the kernel's.
    from libcnm.controller import run_dir
    from libcnm.kernel.linux import LinuxKernel
    from libcnm.kv.open import find_store
    from libcnm.kv.sqlite import SQLiteStore, boot_id
    from libcnm.system.userns import check_privilege

    check_privilege()
    open_cluster = None if cluster_store is None else find_store(cluster_store)
    _refuse_own_database(paths, cluster_store)
    files = Files()
    for folder in (paths.state_dir, paths.run_dir, paths.sandboxes, paths.locks):
        files.check_folder(folder)
    run_dir.refuse_without_state(paths.run_dir, paths.database, files)
    with ExitStack() as opened:
        files.make_folder(paths.state_dir)
        local = opened.enter_context(SQLiteStore(paths.database))
        run_dir.refuse(paths.run_dir, files, local, boot_id())
        files.make_folder(paths.run_dir, 0o755)
        files.make_folder(paths.sandboxes, 0o755)
        cluster = None if open_cluster is None else opened.enter_context(open_cluster())
        doors = Doors(LinuxKernel(paths.run_dir, home=home), local, Locks(paths.locks), files, cluster)
        opened.pop_all()
    return doors


def _refuse_own_database(paths: Paths, cluster_store: str | None) -> None:
    """What is this host's alone, and what is the cluster's, would each be taken for the other's."""
    from libcnm.kv.open import file_of

    shared = None if cluster_store is None else file_of(cluster_store)
    if shared is None:
        return
    own = paths.database
    same = os.path.realpath(shared) == os.path.realpath(own)
    if not same and os.path.exists(shared) and os.path.exists(own):
        same = os.path.samefile(shared, own)
    if same:
        raise Invalid("cluster_store", "sqlite:…", f"is the host's own database, {own}", hint="a file of its own")
