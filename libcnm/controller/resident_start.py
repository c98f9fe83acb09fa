"""Finding an installation's resident, and starting it: one at a time, whoever needs it.

Whoever starts one holds the lock of that and hands it on to the new process, which lets go of it when it answers. So of
many who miss the resident at the same moment one starts it and the others wait; whoever starts it need not stay to see
it through; and one that dies on the way is noticed, because the kernel frees its lock.

The resident's configuration travels over its standard input, never on its command line: a store's URL may hold a
secret.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Final

from libcnm.controller.context import Context
from libcnm.errors import Unavailable
from libcnm.model.deadline import Deadline
from libcnm.system.locks import HeldLock

MODULE: Final = "libcnm.controller.resident_main"
STARTING: Final = "resident-starting"
_LAUNCH: Final = "import os,sys;os.posix_spawn(sys.argv[1],sys.argv[1:],os.environ,setsid=True)"
"""The launcher: it starts the resident in a session of its own and ends, so that nobody has to reap the resident."""
_PAUSE_SECONDS: Final = 0.002
_PAUSE_SECONDS_MAX: Final = 0.02
"""A start takes some 300 ms, most of them Python's."""


def connect(path: str, seconds: float = 10.0) -> socket.socket | None:
    """A connection to a resident's socket, or None when nobody listens. Unavailable when somebody does, but has not
    taken so many earlier ones that there is no room for ours within ``seconds``.
    """
    try:
        folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if seconds > 0:
            timeval = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6) or 1)  # 0 would be for ever
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        else:
            connection.setblocking(False)
        connection.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except BlockingIOError:
        connection.close()
        raise Unavailable("the resident", "it takes no connections", hint="it is stopped, or far too busy") from None
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(folder)
    connection.setblocking(True)
    return connection


def awaited(context: Context, deadline: Deadline, *, unless: Callable[[], bool]) -> socket.socket | None:
    """A connection to the resident, also to one that is being started at this moment; None when there is neither, or as
    soon as ``unless`` says so. Raises DeadlineExceeded, Unavailable.
    """
    path, clock, pause = context.settings.paths.socket, context.doors.clock, _PAUSE_SECONDS
    while not unless():
        found = connect(path, max(deadline.remaining(), 0.001))
        if found is not None:
            return found
        held = context.doors.locks.try_acquire(STARTING)
        if held is not None:
            held.release()
            return connect(path, 0)  # it may have let go between our two looks
        deadline.check("starting the resident")
        clock.pause(min(pause, deadline.remaining()))
        pause = min(2 * pause, _PAUSE_SECONDS_MAX)
    return None


def reach(context: Context, deadline: Deadline, *, unless: Callable[[], bool]) -> socket.socket | None:
    """A connection to the resident, which is started if need be; ``unless`` ends the waiting for it, with None.

    Raises Unavailable when one was started and has ended before it could answer, DeadlineExceeded.
    """
    path, begun = context.settings.paths.socket, False
    found = connect(path, max(deadline.remaining(), 0.001))
    while found is None:
        held = context.doors.locks.try_acquire(STARTING)
        if held is not None:  # else somebody is at it
            with held:
                found = connect(path, 0)  # or was faster
                if found is None and begun:
                    log = os.path.join(context.settings.paths.run_dir, "resident.log")
                    raise Unavailable("the resident", "it ended before it was ready", hint=f"see {log}")
                if found is None:
                    _launch(context, held).wait()
                    begun = True
        if found is None:
            found = awaited(context, deadline, unless=unless)
            if unless():
                break
    return found


def _launch(context: Context, held: HeldLock) -> subprocess.Popen[bytes]:
    settings = context.settings
    config = {
        "state_dir": settings.paths.state_dir,
        "run_dir": settings.paths.run_dir,
        "cluster_store": settings.cluster_store,
        "host": settings.host,
        "advertise": None if settings.advertise is None else str(settings.advertise),
        "default_host_ips": [str(ip) for ip in settings.default_host_ips],
        "guardian": settings.guardian,
        "starting": held.descriptor,
    }
    launcher = context.doors.kernel.spawn(
        [sys.executable, "-I", "-S", "-c", _LAUNCH, sys.executable, "-m", MODULE],
        "",
        files={},
        options={
            "stdin": subprocess.PIPE,
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
            "env": _environment(),
            "pass_fds": (held.descriptor,),
        },
    )
    held.hand_on()
    assert launcher.stdin is not None
    with launcher.stdin as pipe:
        pipe.write(json.dumps(config).encode() + b"\n")
    return launcher


def _environment() -> dict[str, str]:
    """This process's, with a module path that finds this very libcnm."""
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    found = dict(os.environ)
    known = found.get("PYTHONPATH", "").split(os.pathsep) if found.get("PYTHONPATH") else []
    found["PYTHONPATH"] = os.pathsep.join([here, *(path for path in known if path != here)])
    return found


def stop_resident(context: Context, deadline: Deadline) -> bool:
    """Ask a running resident to end; True when there was one."""
    connection = connect(context.settings.paths.socket, deadline.remaining())
    if connection is None:
        return False
    with connection:
        try:
            connection.settimeout(max(deadline.remaining(), 0.001))
            connection.sendall(b'{"op":"stop"}\n')
            connection.recv(4096)
        except OSError:
            return True  # it has ended meanwhile
    return True
