"""A cluster of hosts on one machine: real network and mount namespaces, real processes, one wire between them.

    from libcnm.lab import Lab, ensure_privileges

    ensure_privileges()                                    # before anything starts a thread
    with Lab(hosts=["lab-vm-1", "lab-vm-2"]) as lab:
        one, two = lab.hosts
        cnm = one.controller()                             # a libcnm.Controller of that host
        two.cnm("network", "ls")                           # the same host's command line, in its own process

Each host has its own installation, its own resident process, an ``eth1`` on the underlay and nothing else in common
with the others but the store's address. Leaving the block removes all of it. It is a front door: nothing below knows
it.
"""

from __future__ import annotations

from libcnm.lab.capture import Capture
from libcnm.lab.host import Host
from libcnm.lab.lab import Lab
from libcnm.lab.namespaces import ensure_privileges
from libcnm.lab.packets import Packet, decode, read_pcap

__all__ = ["Capture", "Host", "Lab", "Packet", "decode", "ensure_privileges", "read_pcap"]
