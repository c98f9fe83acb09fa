"""A world without root: hosts with fake kernels and stores in memory, on which real controllers run, and can be
crashed.

Everything outside goes through doors, and every effect of a door is a point at which :class:`Tape` can stop the
process: the crash is an exception that no code of libcnm catches, so locks are freed and nothing else is done, as
after ``kill -9``.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Literal

import attrs

from libcnm.controller.controller import Controller
from libcnm.controller.doors import Doors, Paths
from libcnm.controller.registry import Registry
from libcnm.errors import CnmError, NotFound
from libcnm.kernel.fake import FakeKernel, Uplink
from libcnm.kv.memory import PLAIN, MemoryStore, Profile
from libcnm.model.deadline import Deadline
from libcnm.system.clock import Clock, ManualClock
from libcnm.system.entropy import Entropy, SeededEntropy
from libcnm.system.files import Files
from libcnm.system.locks import Locks


class Crash(BaseException):
    """The process ends here. Not an :class:`Exception`: nothing may catch it."""


def _nothing() -> None:
    """What happens at a point where nothing else does."""


class Tape:
    """Counts the crash points (before and after each effect) and crashes at one of them, or runs something there.

    ``passing`` is called at every point, by whichever thread is there: a scheduler, for instance.
    """

    def __init__(self) -> None:
        self.points: list[str] = []
        self._stop_at: int | None = None
        self._action: Callable[[], None] | None = None
        self.passing: Callable[[], None] = _nothing

    def start(self, stop_at: int | None = None, action: Callable[[], None] | None = None) -> None:
        """Begin to count; crash at point ``stop_at`` (0 is the first), or call ``action`` there."""
        self.points = []
        self._stop_at = stop_at
        self._action = action

    def stop(self) -> list[str]:
        """End counting; the points that were passed."""
        self._stop_at = None
        return self.points

    def point(self, name: str) -> None:
        """A door announces an effect."""
        self.passing()
        self.points.append(name)
        if self._stop_at is not None and len(self.points) - 1 == self._stop_at:
            self._stop_at = None
            if self._action is None:
                raise Crash(name)
            self._action()

    def effect(self, name: str, when: Literal["before", "after"]) -> None:
        """The hook for the kernel and file doors."""
        self.point(f"{name}:{when}")


class FakeHost:
    """One host: a kernel, a store of its own, two folders; controllers come and go on it."""

    def __init__(self, world: FakeWorld, name: str, address: str) -> None:
        self.world = world
        self.name = name
        self.address = address
        self.tape = Tape()
        self.paths = Paths(os.path.join(world.folder, name, "state"), os.path.join(world.folder, name, "run"))
        self.kernel = FakeKernel(
            uplinks=(Uplink(addresses=(f"{address}/24",), gateway=None),), host=name, run_dir=self.paths.run_dir
        )
        self.kernel.on_effect = self.tape.effect
        self._local = MemoryStore(now=world.clock.monotonic)
        self._files = Files(self.tape.effect)
        for folder in (self.paths.run_dir, os.path.join(self.paths.run_dir, "sandboxes")):
            os.makedirs(folder, exist_ok=True)

    def doors(self) -> Doors:
        """The doors, as a new process would open them; closing them leaves the host as it is."""
        return Doors(
            _Kept(self.kernel),
            self._local.connect(on_effect=self.tape.point),
            Locks(self.paths.locks),
            self._files,
            self.world.cluster.connect(profile=self.world.profile, on_effect=self.tape.point),
            self.world.clock,
            self.world.entropy,
        )

    def controller(
        self,
        resident: Literal["inline", "off"] = "inline",
        doors: Doors | None = None,
        registry: Registry | None = None,
        **options: object,
    ) -> Controller:
        """A new process on this host; with ``doors`` of the caller's making, or some of :meth:`doors` replaced, with
        the drivers of ``registry`` (``Registry({"mine": MyDriver()})``: no entry point is needed), and with the other
        ``options`` of :class:`libcnm.Controller`.
        """
        return Controller(
            state_dir=self.paths.state_dir,
            run_dir=self.paths.run_dir,
            cluster_store="memory:",
            host=self.name,
            advertise=self.address,
            resident=resident,
            doors=doors or self.doors(),
            registry=registry or Registry(),
            **options,  # type: ignore[arg-type]  # the controller checks them
        )

    def stored_keys(self) -> list[str]:
        """The keys in the host's own store."""
        return _keys(self._local)

    def everything(self) -> set[str]:
        """All that is in the host's store, in the cluster's and in the kernel, as lines: to compare before and after.

        But for the heads of the address spaces, which remember where the next pool will come from.
        """
        self.kernel.sweep()
        held = {key for key in (*self.stored_keys(), *self.world.stored_keys()) if not key.startswith("pools/")}
        rows, settings, parked = self.kernel.snapshot()
        return held | {str(one) for part in (rows, settings, parked) if isinstance(part, tuple) for one in part}

    def refuses(self, kind: type[CnmError], verb: Callable[[], object]) -> CnmError:
        """The error of a verb that is refused with exactly that kind, after which everything is as before it."""
        before, refusal = self.everything(), None
        try:
            verb()
        except CnmError as error:
            refusal = error
        assert refusal is not None, f"it was not refused: {kind.__name__} was expected"
        assert kind is type(refusal), repr(refusal)
        assert set() == before ^ self.everything()
        return refusal

    def reboot(self) -> None:
        """Everything of this boot is gone: kernel state, run folder."""
        self.kernel.reboot()
        for root, folders, files in os.walk(self.paths.run_dir, topdown=False):
            for name in files:
                os.unlink(os.path.join(root, name))
            for name in folders:
                os.rmdir(os.path.join(root, name))
        os.makedirs(os.path.join(self.paths.run_dir, "sandboxes"), exist_ok=True)


class FakeWorld:
    """Hosts that share one store. A context manager; the same seed makes the same world.

    ``profile``: the cluster store's manners towards controllers that are opened from now on; assign another one to
    change them.
    """

    def __init__(
        self, hosts: Sequence[str] = ("host-1",), *, seed: int = 0, profile: Profile = PLAIN, clock: Clock | None = None
    ) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="libcnm-fake-")
        self.folder = self._temporary.name
        self.profile = profile
        self.clock = clock or ManualClock(tick=0.0001)
        self.entropy = SeededEntropy(seed)
        self.cluster = MemoryStore(PLAIN, random=_Chance(SeededEntropy(~seed)), now=self.clock.monotonic)
        self.hosts = {name: FakeHost(self, name, f"192.0.2.{number}") for number, name in enumerate(hosts, 11)}

    def __enter__(self) -> FakeWorld:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._temporary.cleanup()

    def host(self, name: str | None = None) -> FakeHost:
        """The host of that name, or NotFound; without one the first."""
        if name is None:
            return next(iter(self.hosts.values()))
        try:
            return self.hosts[name]
        except KeyError:
            raise NotFound("host", name, hint=f"this world has {', '.join(self.hosts)}") from None

    def stored_keys(self) -> list[str]:
        """The keys in the store that the hosts share."""
        return _keys(self.cluster)


def follow(cnm: Controller) -> None:
    """Have a controller with ``resident="inline"`` take in what others have committed; peers are then programmed."""
    cnm._link.announce(cnm._calls.context.doors.clock.deadline(30.0))  # noqa: SLF001  # a test plays the resident


def half_done(cnm: Controller) -> list[str]:
    """The verbs that have begun on this host and not ended."""
    context = cnm._calls.context  # noqa: SLF001  # only tests ask this
    return [stored.record.verb for stored in context.local.intents(context.doors.clock.deadline(30.0))]


@attrs.frozen
class _Chance:
    """Where the cluster store's faults are drawn from; apart from the ids, so that a fault changes none of them."""

    entropy: Entropy

    def random(self) -> float:
        return self.entropy.below(2**32) / 2**32


def _keys(store: MemoryStore) -> list[str]:
    with store.connect(profile=PLAIN, on_effect=None) as handle:
        return [entry.key for entry in handle.list("", deadline=Deadline.after(60.0, time.monotonic)).entries]


class _Kept(FakeKernel):
    """The host's kernel behind a handle that a process may close: the kernel outlives it."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.__dict__ = kernel.__dict__  # one state, two handles

    def close(self) -> None:
        """Nothing: the kernel is not the process's."""
