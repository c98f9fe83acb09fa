"""One host of a lab: namespaces that play its machine, and an installation of libcnm of its own.

Programs are started inside it, its controllers work on it, its command line runs in a process of its own. It shares
the file system with the lab's process, so that state and logs can be looked at, and nothing else. It never knows the
other hosts: :mod:`libcnm.lab.lab` joins them.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from libcnm.controller.controller import Controller
from libcnm.controller.doors import Paths, open_doors
from libcnm.errors import CnmError, Forbidden, NotFound, NotSupported
from libcnm.kernel.base import NamespaceId
from libcnm.kernel.linux import Home, LinuxKernel
from libcnm.kernel.linux.spawn import spawn
from libcnm.kernel.linux.worker import HomeNamespaces
from libcnm.kernel.resources import Namespace
from libcnm.lab.wire import patience
from libcnm.model.addresses import IPAddress, IPInterface
from libcnm.system import processes
from libcnm.system.processes import checked_argv

log = logging.getLogger("libcnm.lab")


class Host:
    """A simulated machine, obtained from :class:`~libcnm.lab.Lab`; never constructed by users.

    ``name``; ``interfaces``: its addresses on ``eth1``; ``state_dir`` and ``run_dir``: its installation's folders;
    ``home``: its namespaces, as :class:`libcnm.kernel.linux.LinuxKernel` takes them.
    """

    def __init__(
        self, name: str, home: Home, folder: str, interfaces: Sequence[IPInterface], cluster_store: str
    ) -> None:
        self.name = name
        self.home = home
        self.interfaces = tuple(interfaces)
        self.cluster_store = cluster_store
        self.state_dir = os.path.join(folder, "state")
        self.run_dir = os.path.join(folder, "run")
        self.controllers: list[Controller] = []
        self._running = True
        self._kernel: LinuxKernel | None = None
        self._children: list[subprocess.Popen[Any]] = []

    def __repr__(self) -> str:
        return f"<Host {self.name!r} {self.address}>"

    @property
    def address(self) -> IPAddress:
        """The address it advertises: its first on the underlay."""
        return self.interfaces[0].ip

    @property
    def kernel(self) -> LinuxKernel:
        """The door to this host's kernel, with the pins of its installation; closed with the lab."""
        self._check_running()
        if self._kernel is None:
            self._kernel = LinuxKernel(self.run_dir, home=self.home)
        return self._kernel

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to know to work on this host's installation: variables of ``cnm``'s options."""
        return {
            "LIBCNM_STATE_DIR": self.state_dir,
            "LIBCNM_RUN_DIR": self.run_dir,
            "LIBCNM_CLUSTER_STORE": self.cluster_store,
            "LIBCNM_HOST": self.name,
            "LIBCNM_ADVERTISE": str(self.address),
            "LIBCNM_GUARDIAN": str(os.getpid()),
        }

    # -- libcnm on it --------------------------------------------------------------------------------------------------

    def controller(self, **overrides: Any) -> Controller:
        """A controller of this host's installation; ``overrides`` are :class:`~libcnm.Controller`'s own arguments.

        Its resident is a process in this host that ends with the lab's process, however that ends. The lab closes it.
        """
        self._check_running()
        chosen: dict[str, Any] = {
            "state_dir": self.state_dir,
            "run_dir": self.run_dir,
            "cluster_store": self.cluster_store,
            "host": self.name,
            "advertise": str(self.address),
            "guardian": os.getpid(),
            **overrides,
        }
        if "doors" not in chosen:
            paths = Paths.checked(chosen["state_dir"], chosen["run_dir"])
            chosen["doors"] = open_doors(paths, chosen["cluster_store"], home=self.home)
        try:
            controller = Controller(**chosen)
        except BaseException:
            chosen["doors"].close()
            raise
        self.controllers.append(controller)
        return controller

    def cnm(self, *words: str, check: bool = False, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run this host's command line, ``cnm words...``, in a process of its own; output is collected as text."""
        options = {"capture_output": True, "text": True, **options}
        return self.run([sys.executable, "-m", "libcnm.cli", *words], check=check, **options)

    # -- programs in it ------------------------------------------------------------------------------------------------

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program inside this host, as :class:`subprocess.Popen` does, with :attr:`environment` added.

        It starts in the caller's working directory. Whatever still runs inside the host when the lab ends is killed.
        """
        argv = checked_argv(argv, options)
        self._check_running()
        home = HomeNamespaces(self.home)
        try:
            process = spawn(home, None, argv, {}, self._options(options))
        except FileNotFoundError as error:
            raise _missing(argv, error) from None
        finally:
            home.close()
        self._children = [*(child for child in self._children if child.poll() is None), process]
        return process

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = False,
        capture_output: bool = False,
        timeout: float | None = None,
        input: bytes | str | None = None,  # noqa: A002  # subprocess.run's name
        **options: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """Run a program inside this host, as :func:`subprocess.run` does."""
        return processes.run(
            self.popen, argv, check=check, capture_output=capture_output, timeout=timeout, given=input, **options
        )

    def inside(
        self,
        namespace: str,
        argv: Sequence[str],
        *,
        check: bool = False,
        capture_output: bool = True,
        timeout: float | None = None,
        **options: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """Run a program inside a network namespace that is pinned on this host, as ``nsenter --net=`` does; output is
        collected as text unless told otherwise. Raises NotFound.
        """
        options = {"text": True, **self._options(options)}

        def start(argv: Sequence[str], **chosen: Any) -> subprocess.Popen[Any]:
            command = checked_argv(argv, chosen)
            try:
                return self.kernel.spawn(command, namespace, files={}, options=chosen)
            except FileNotFoundError as error:
                raise _missing(command, error) from None

        return processes.run(start, argv, check=check, capture_output=capture_output, timeout=timeout, **options)

    def namespaces(self) -> tuple[str, ...]:
        """The names of the network namespaces pinned on this host: one per sandbox, one per overlay network present."""
        found = self.kernel.read({""}, {Namespace}, deadline=patience())
        return tuple(sorted(one.resource.name for one in found if isinstance(one.resource, Namespace)))

    def hold_own_namespaces(self) -> tuple[tuple[NamespaceId, socket.socket | None], ...]:
        """Those of them that libcnm made, not the ones that a runtime brought; each with a socket in it, for the caller
        to close: until then the kernel gives its number to no other namespace. None where there could be no socket.
        """
        found = self.kernel.read({""}, {Namespace}, deadline=patience())
        made = [
            one.resource.name for one in found if isinstance(one.resource, Namespace) and one.resource.source is None
        ]
        held: list[tuple[NamespaceId, socket.socket | None]] = []
        for name in made:
            pin = self.kernel.namespace(name)
            if pin is None:
                continue
            try:
                held.append((pin, self.kernel.open_socket(name, socket.AF_UNIX, socket.SOCK_DGRAM)))
            except CnmError as error:
                log.warning("namespace %s is not held: %s", name, error)
                held.append((pin, None))  # its processes are the lab's all the same
        return tuple(held)

    def close_controllers(self) -> None:
        """From now on nobody misses the host's resident."""
        for controller in self.controllers:
            try:
                controller.close()
            except CnmError as error:
                log.debug("closing %r: %s", controller, error)  # its user has closed it before
        self.controllers.clear()

    def close(self) -> None:
        """Release what this process holds of the host, except its namespaces; nothing is begun on it any more."""
        self._running = False
        self.close_controllers()
        for child in self._children:
            child.wait()  # killed by now: whoever started it need not know, and no zombie stays
        self._children.clear()
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            kernel.close()

    def _check_running(self) -> None:
        """The numbers of its descriptors are others' by now, perhaps another lab's."""
        if not self._running:
            raise Forbidden(f"host {self.name!r} has ended with its lab")

    def _options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Popen's options; the child finds this very libcnm, and the thread that starts it stands in ``/``."""
        env = {**(os.environ if options.get("env") is None else options["env"]), **self.environment}
        here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        known = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path and path != here]
        env["PYTHONPATH"] = os.pathsep.join([here, *known])
        if env.pop("PYTHONDONTWRITEBYTECODE", ""):
            # Whoever wants no caches in the tree still wants each of many short processes to start quickly.
            env["PYTHONPYCACHEPREFIX"] = os.path.join(os.path.dirname(self.state_dir), "bytecode")
        return {"cwd": os.getcwd(), **options, "env": env}


def _missing(argv: Sequence[str], error: FileNotFoundError) -> NotFound | NotSupported:
    if error.filename == argv[0]:
        return NotSupported(f"the program {argv[0]!r} is not on this machine", hint="install it, or look at PATH")
    return NotFound("file", str(error.filename))
