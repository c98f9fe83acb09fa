"""Docker's Container Network Model as a library: controllers, networks, endpoints and sandboxes on real Linux.

``import libcnm`` is all that a user writes: every name of :mod:`libcnm.api` is here too, fetched when it is first asked
for. So importing the package costs nothing, and a program pays for netlink, stores and plug-ins when it uses them.
"""

from __future__ import annotations

import importlib.machinery
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libcnm.api import *

__version__ = "0.1.0"
_HERE = __file__.rpartition("/")[0]


if not TYPE_CHECKING:  # type checkers read the imports above; to them a __getattr__ would make every name exist

    def __getattr__(name):
        missing = AttributeError(f"module 'libcnm' has no attribute {name!r}")
        # `from libcnm import errors` asks here first, and must find the module without loading all of the API for it.
        if name.startswith("_") or importlib.machinery.PathFinder.find_spec(f"{__name__}.{name}", [_HERE]):
            raise missing
        api = importlib.import_module("libcnm.api")
        if name not in api.__all__:
            raise missing
        value = globals()[name] = getattr(api, name)
        return value

    def __dir__():
        return sorted({*globals(), *importlib.import_module("libcnm.api").__all__})
