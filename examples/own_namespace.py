"""A runtime brings its own namespace: it starts the container's process itself, and libcnm connects that.

The namespace is known by what it is, not by its path, and it stays the runtime's: only what libcnm put in is taken out.
"""

from __future__ import annotations

import os
import subprocess
import sys

import libcnm
from libcnm.system.userns import enter_private_namespaces

CONTAINER = ["unshare", "--net", sys.executable, "-c", "print('ready', flush=True); input()"]


def main() -> None:
    with subprocess.Popen(CONTAINER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin, "a pipe"
        assert process.stdout, "a pipe"
        process.stdout.readline()  # it is in its namespace now
        connect(process.pid)
        process.stdin.write("done\n")


def connect(pid: int) -> None:
    with libcnm.Controller(state_dir="/run/state", run_dir="/run/libcnm", guardian=os.getpid()) as cnm:
        blue = cnm.create_network("blue", subnets=["10.89.0.0/24", "fd89::/64"])
        with cnm.create_sandbox("brought", netns=f"/proc/{pid}/ns/net") as brought, cnm.create_sandbox("ours") as ours:
            blue.create_endpoint("app").join(brought)
            blue.create_endpoint("tester").join(ours)
            subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-brief", "address"], check=True)
            ours.run(["ping", "-c1", "app"], check=True)
            ours.run(["ping", "-6", "-c1", "app"], check=True)
        subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-brief", "address"], check=True)
        blue.delete()


if __name__ == "__main__":
    enter_private_namespaces()  # before anything starts a thread
    main()
