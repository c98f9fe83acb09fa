"""The real kernel: :class:`LinuxKernel` implements the door over netlink, ``setns`` and bind mounts."""

from libcnm.kernel.linux.kernel import LinuxKernel
from libcnm.kernel.linux.worker import Home

__all__ = ["Home", "LinuxKernel"]
