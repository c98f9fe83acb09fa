"""Two containers on one host: a bridge network, a name for each, and a ping by name.

Run it as root or as an ordinary user: it moves into namespaces of its own first, so the machine is never touched.
"""

from __future__ import annotations

import os

import libcnm
from libcnm.system.userns import enter_private_namespaces


def main() -> None:
    # In the private namespaces /run is empty, and gone at the end. On a real host, leave both folders out.
    with libcnm.Controller(state_dir="/run/state", run_dir="/run/libcnm", guardian=os.getpid()) as cnm:
        blue = cnm.create_network("blue", subnets=["10.88.0.0/24"])
        web = blue.create_endpoint("web", aliases=["www"], ports=["8080:80/tcp"])
        db = blue.create_endpoint("db")
        with cnm.create_sandbox("c1") as c1, cnm.create_sandbox("c2") as c2:
            web.join(c1)
            db.join(c2)
            c1.run(["ping", "-c1", "db"], check=True)
            c2.run(["ping", "-c1", "www.blue"], check=True)
            print(f"web is {web.addresses[0].ip}, published as {', '.join(map(str, web.ports))}")
            print(f"db is {db.addresses[0].ip}")
        blue.delete()


if __name__ == "__main__":
    enter_private_namespaces()  # before anything starts a thread
    main()
