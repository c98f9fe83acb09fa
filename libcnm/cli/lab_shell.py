"""``cnm lab shell``: a shell on the first of some simulated hosts, with a command for each of the others.

Beside ``cnm`` itself, the folder that is put in front of PATH holds one small script per host, ``lab-vm-2 COMMAND...``,
which enters that host as nsenter does. All of it goes with the lab when the shell ends.
"""

from __future__ import annotations

import os
import shlex
import sys

from libcnm.errors import Invalid
from libcnm.lab import Host, Lab, ensure_privileges


def lab_shell(hosts: int) -> int:
    """Run it; the shell's exit status."""
    if not sys.stdin.isatty():
        raise Invalid("stdin", "", "is not a terminal", hint="for scripts there is libcnm.lab")
    ensure_privileges()
    with Lab(hosts=hosts) as lab:
        first, *others = lab.hosts
        folder = os.path.join(lab.folder, "bin")
        os.mkdir(folder)
        _script(os.path.join(folder, "cnm"), [sys.executable, "-m", "libcnm.cli"])
        for host in lab.hosts:
            _script(os.path.join(folder, host.name), _entering(host))
        print(f"This is {first.name}. `cnm` works on it; `exit` ends the lab.")
        for host in others:
            print(f"`{host.name} COMMAND...` runs a command on {host.name} ({host.address}).")
        shell = os.environ.get("SHELL", "/bin/sh")
        env = {**os.environ, "PATH": f"{folder}:{os.environ.get('PATH', os.defpath)}", "PS1": rf"{first.name}:\w\$ "}
        return first.popen([shell, *_quiet(shell)], env=env).wait()


def _quiet(shell: str) -> list[str]:
    """Without the user's start files, which would set another prompt and PATH."""
    return ["--noprofile", "--norc"] if os.path.basename(shell) == "bash" else []


def _entering(host: Host) -> list[str]:
    own = f"/proc/{os.getpid()}/fd"
    variables = [f"{name}={value}" for name, value in host.environment.items()]
    return ["env", *variables, "nsenter", f"--net={own}/{host.home.net}", f"--mount={own}/{host.home.mnt}"]


def _script(path: str, argv: list[str]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nexec {shlex.join(argv)} "$@"\n')
    os.chmod(path, 0o700)
