"""One verb in a process of its own, on the real doors, that kills or stops itself at one of its effects.

    python verb_worker.py '{"installation": {...}, "verb": "join", "stop_at": 7, "signal": "KILL"}'

``stop_at`` is the number of an effect, or (where two threads have effects) the name of one, of which the first counts.
Without it, it does the verb and prints the effects it passed, before and after each, as JSON. For other tests
it also does plain verbs and says how they ended. Run by the tests of this folder, or its :func:`work` in a child that
they have forked.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any, TextIO

from libcnm.controller.controller import Controller
from libcnm.controller.doors import Doors, Paths, open_doors
from libcnm.errors import CnmError
from libcnm.kernel.linux import LinuxKernel
from libcnm.kv.base import Committed, Transaction
from libcnm.kv.sqlite import SQLiteStore
from libcnm.model.deadline import Deadline
from libcnm.system.files import Files


class Effects:
    """Counts, and ends the process at one of them."""

    def __init__(self) -> None:
        self.points: list[str] = []
        self.counting = False
        self.stop_at: int | str = -1
        self.signal = signal.SIGKILL

    def __call__(self, name: str, when: str) -> None:
        if not self.counting:
            return
        self.points.append(f"{name}:{when}")
        if self.stop_at in (len(self.points) - 1, self.points[-1]):
            self.stop_at = -1
            os.kill(os.getpid(), self.signal)


class TellingStore(SQLiteStore):
    """A store that announces its commits."""

    effects: Effects

    def transact(self, transaction: Transaction, *, deadline: Deadline, durable: bool = True) -> Committed:
        name = "commit" if durable else "note"
        self.effects(name, "before")
        committed = super().transact(transaction, deadline=deadline, durable=durable)
        self.effects(name, "after")
        return committed


def doors(paths: Paths, effects: Effects) -> Doors:
    """The real doors, each telling."""
    real = open_doors(paths, None)
    real.kernel.close()
    real.local.close()
    store = TellingStore(paths.database)
    store.effects = effects
    return Doors(LinuxKernel(paths.run_dir, on_effect=effects), store, real.locks, Files(effects))


def act(cnm: Controller, verb: str, argument: str, request: str | None) -> Any:
    """The verbs by name."""
    if verb == "create_network":
        return cnm.create_network("net", subnets=["10.88.0.0/24"], request_id=request)
    if verb == "delete_network":
        return cnm.network("net").delete(request_id=request)
    if verb == "create_sandbox":
        return cnm.create_sandbox("c1", request_id=request)
    if verb == "delete_sandbox":
        return cnm.sandbox("c1").delete(request_id=request)
    if verb == "create_endpoint":
        return cnm.network("net").create_endpoint(argument or "web", request_id=request)
    if verb == "delete_endpoint":
        return cnm.network("net").endpoint(argument or "web").delete(force=True, request_id=request)
    if verb == "join":
        return cnm.network("net").endpoint("web").join(cnm.sandbox("c1"), request_id=request)
    assert verb == "leave", verb
    return cnm.network("net").endpoint("web").leave(request_id=request)


def main() -> None:
    """Do what the command line says."""
    work(json.loads(sys.argv[1]), sys.stdout)


def work(order: dict[str, Any], out: TextIO) -> None:
    """Do it, and print how it ended."""
    effects = Effects()
    where = order["installation"]
    paths = Paths(where["state_dir"], where["run_dir"])
    cnm = Controller(**where, resident=order.get("resident", "off"), doors=doors(paths, effects))
    effects.stop_at = order.get("stop_at", -1)
    effects.signal = signal.Signals[f"SIG{order.get('signal', 'KILL')}"]
    if order.get("wait"):
        print("waiting", file=out, flush=True)
        sys.stdin.readline()
    effects.counting = True
    ending: dict[str, object] = {"done": True}
    try:
        act(cnm, order["verb"], order.get("argument", ""), order.get("request"))
    except CnmError as error:
        ending = {"done": False, "code": error.code, "message": str(error)}
    effects.counting = False
    print(json.dumps({**ending, "points": effects.points}), file=out, flush=True)
    if order.get("wait"):
        sys.stdin.readline()  # closing has effects of its own, which are not the verb's
    cnm.close()


if __name__ == "__main__":
    main()
