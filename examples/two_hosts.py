"""Two hosts, one overlay network: containers on different machines share a segment, and find each other by name.

The hosts are simulated (libcnm.lab) but real to the kernel: VXLAN crosses the wire between them, as the capture shows.
"""

from __future__ import annotations

import os

from libcnm.lab import Lab, ensure_privileges


def main() -> None:
    with Lab(hosts=["lab-vm-1", "lab-vm-2"]) as lab:
        one, two = (host.controller() for host in lab.hosts)

        multihost = one.create_network("multihost", driver="overlay")
        svc1 = multihost.create_endpoint("svc1")
        svc2 = two.network("multihost").create_endpoint("svc2")  # the same network, through the store

        with one.create_sandbox("container_node1") as c1, two.create_sandbox("container_node2") as c2:
            svc1.join(c1)
            svc2.join(c2)
            with lab.capture(os.path.join(lab.folder, "underlay.pcap")) as capture:
                c1.run(["ping", "-c1", "svc2"], check=True)
                c2.run(["ping", "-c1", "svc1"], check=True)
            for packet in capture.packets:
                print(packet)


if __name__ == "__main__":
    ensure_privileges()  # before anything starts a thread
    main()
