"""What libcnm's own tests stand on, shipped to those who test drivers, runtimes and plug-ins of theirs.

``FakeKernel``, ``MemoryStore`` and ``FakeWorld`` are here by name. Importing this package loads nothing: the rest are
modules of their own.

    plugin         pytest fixtures: cnm_world, cnm_controller, cnm_lab, cnm_no_leaks
    world          FakeWorld, FakeHost: controllers without root, with drivers of yours, crashed at any effect
    kernel         the conformance kit of the kernel door      (the fake: libcnm.kernel.fake.FakeKernel)
    stores         the conformance kit of the store contract   (the fake: libcnm.kv.memory.MemoryStore, with the
                   profiles PLAIN, CONSUL_LIKE and ETCD_LIKE beside it)
    store_machine  any store beside a plain dict
    ipam           the conformance kit of address management
    resolver       the conformance kit of resolver backends
    machine        Hypothesis against controllers on several hosts, beside the plain model in ``model``
    replay         a picture kept by events alone, beside what a controller says there is
    strategies     Hypothesis strategies for kernel resources and changes
    records        Hypothesis strategies for records, and for what users pass to the API
    snapshot       what is on this machine, before and after; finds what was left behind

The fakes pass the same kits as the real thing. What they do not promise is in the kits, too.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from libcnm.kernel.fake import FakeKernel
    from libcnm.kv.memory import MemoryStore
    from libcnm.testing.world import FakeWorld

__all__ = ["FakeKernel", "FakeWorld", "MemoryStore"]

_HOMES: Final = {
    "FakeKernel": "libcnm.kernel.fake",
    "FakeWorld": "libcnm.testing.world",
    "MemoryStore": "libcnm.kv.memory",
}


if not TYPE_CHECKING:  # as in libcnm itself

    def __getattr__(name):
        if name not in _HOMES:  # also what `from libcnm.testing import world` asks first: it finds the module then
            raise AttributeError(f"module 'libcnm.testing' has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
