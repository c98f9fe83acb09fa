"""``cnm`` on a real host, in processes of its own: what it prints, what it returns, what it leaves."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from libcnm.lab import Host, Lab

pytestmark = pytest.mark.kernel


@pytest.fixture
def host() -> Iterator[Host]:
    with Lab(hosts=1) as lab:
        yield lab.hosts[0]


def out(host: Host, *words: str) -> str:
    """What a command printed; it must have worked."""
    done = host.cnm(*words, timeout=30)
    assert 0 == done.returncode, (words, done.stdout, done.stderr)
    return done.stdout


def document(host: Host, *words: str) -> Any:
    return json.loads(out(host, "--json", *words))


def failed(host: Host, *words: str) -> tuple[int, str]:
    """Status and message of a command that must not work; its stdout stays empty."""
    done = host.cnm(*words, timeout=30)
    assert "" == done.stdout, words
    return done.returncode, done.stderr


def test_the_life_of_a_network(host: Host) -> None:
    """create prints the id; ls has Docker's columns; inspect Docker's shape; rm prints the name."""
    words = ["--subnet", "10.88.0.0/16", "--ip-range", "10.88.4.0/24", "--gateway", "10.88.0.9"]
    identifier = out(
        host, "network", "create", "blue", *words, "--aux-address", "r=10.88.4.1", "--label", "a=b"
    ).strip()
    assert 64 == len(identifier)
    out(host, "network", "create", "alone", "--internal", "--ipv6")
    rows = [line.split() for line in out(host, "network", "ls").splitlines()]
    assert ["NETWORK", "ID", "NAME", "DRIVER", "SCOPE"] == rows[0]
    assert [["alone", "bridge", "local"], [identifier[:12], "blue", "bridge", "local"]] == [rows[1][1:], rows[2]]
    assert f"{identifier}\n" == out(host, "network", "ls", "-q", "--no-trunc", "--filter", "label=a=b")
    assert ["alone"] == [one["Name"] for one in document(host, "network", "ls", "-f", "name=alo")]
    [blue] = json.loads(out(host, "network", "inspect", identifier[:8]))
    pool = {
        "Subnet": "10.88.0.0/16",
        "IPRange": "10.88.4.0/24",
        "Gateway": "10.88.0.9",
        "AuxiliaryAddresses": {"r": "10.88.4.1"},
    }
    assert [pool] == blue["IPAM"]["Config"]
    status, message = failed(host, "network", "create", "blue")
    assert (4, True) == (status, message.startswith("cnm: network 'blue' already exists"))
    assert "blue\nalone\n" == out(host, "network", "rm", "blue", "alone")
    assert (3, "cnm: network 'blue' not found\n") == failed(host, "network", "rm", "blue")
    assert {"deleted": ["blue"]} == document(host, "network", "rm", "-f", "blue")


def test_services_and_containers(host: Host) -> None:
    """Publish, attach, list, look inside, detach, unpublish: the words of 2015, on both sides of a container."""
    out(host, "network", "create", "blue", "--subnet", "10.88.0.0/24")
    web = out(host, "service", "publish", "web.blue", "--alias", "www", "-p", "8080:80").strip()
    out(host, "container", "create", "c1")
    out(host, "container", "create", "c2", "--publish-service", "db.blue", "--add-host", "outside:192.0.2.1")
    out(host, "service", "attach", "c1", "web")
    lines = [line.split() for line in out(host, "service", "ls", "--net", "blue").splitlines()]
    assert ["SERVICE", "ID", "NAME", "NETWORK", "CONTAINER", "HOST"] == lines[0]
    assert [["db", "blue", "c2", host.name], ["web", "blue", "c1", host.name]] == [line[1:] for line in lines[1:]]
    assert f"Service Id: {web}\nName: web\nNetwork: blue\n" in out(host, "service", "info", "web.blue")
    assert "c1          " in out(host, "container", "ls")
    hosts = out(host, "container", "exec", "c2", "cat", "/etc/hosts")
    assert "192.0.2.1\toutside" in hosts
    assert " 0% packet loss" in out(host, "container", "exec", "c2", "--", "ping", "-c1", "-W2", "www")
    status, message = failed(host, "service", "unpublish", "web")
    assert (4, True) == (status, "c1" in message)
    out(host, "service", "detach", "c1", "web")
    assert [None, "c2"] == [
        one["Attachment"] and one["Attachment"]["Container"]
        for one in sorted(document(host, "service", "ls"), key=lambda one: str(one["Name"]), reverse=True)
    ]
    out(host, "service", "unpublish", "web")
    assert "c1\nc2\n" == out(host, "container", "rm", "c1", "c2")
    assert [] == document(host, "service", "ls")


def test_connect_and_disconnect(host: Host) -> None:
    """Docker's words: the endpoint has the container's name, and goes when it is disconnected."""
    out(host, "network", "create", "blue", "--subnet", "10.88.0.0/24")
    out(host, "container", "create", "c1")
    out(host, "network", "connect", "blue", "c1", "--ip", "10.88.0.77", "--alias", "web", "-p", "127.0.0.1:8080:80/tcp")
    [endpoint] = document(host, "service", "ls")
    assert ("c1", ["10.88.0.77/24"], ["web"]) == (endpoint["Name"], endpoint["Addresses"], endpoint["Aliases"])
    assert ["127.0.0.1:8080:80/tcp"] == [port["Port"] for port in endpoint["Ports"]]
    status, message = failed(host, "network", "disconnect", "blue", "nobody")
    assert (3, "cnm: sandbox 'nobody' not found\n") == (status, message)
    out(host, "network", "disconnect", "blue", "c1")
    assert [] == document(host, "service", "ls")
    assert 5 == failed(host, "network", "disconnect", "blue", "c1")[0]


def test_a_container_with_a_long_id_is_connected_by_a_short_one(host: Host) -> None:
    """DNS could not say the whole; Docker's containers are called by these 12 digits as well."""
    container = "0123456789abcdef" * 4
    out(host, "network", "create", "blue", "--subnet", "10.88.0.0/24")
    out(host, "container", "create", container)
    out(host, "network", "connect", "blue", container)
    assert "0123456789ab" in out(host, "service", "ls", "--net", "blue")
    out(host, "network", "disconnect", "blue", container)


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (["true"], 0),
        (["--", "sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -9 $$"], 137),
        (["no-such-program"], 127),
        (["/etc/hosts"], 126),
        (["/etc/hosts/below"], 126),
        (["x" * 5000], 126),
    ],
)
def test_exec_returns_what_the_program_returns(host: Host, argv: list[str], status: int) -> None:
    """As shells do: 128 and the number for a signal, 127 and 126 for what cannot be run."""
    host.controller(resident="off").create_sandbox("c1")
    done = host.cnm("container", "exec", "c1", *argv, timeout=30)
    assert (status, False) == (done.returncode, "Traceback" in done.stderr)


def test_exec_passes_on_stdin_and_stdout(host: Host) -> None:
    """The program has the terminal's ends, not copies of ours."""
    host.controller(resident="off").create_sandbox("c1")
    done = host.cnm("container", "exec", "c1", "--", "tr", "a-z", "A-Z", input="through", timeout=30)
    assert "THROUGH" == done.stdout


def test_a_container_that_cannot_be_attached_is_not_created(host: Host) -> None:
    """``--publish-service`` that fails leaves neither sandbox nor service, and keeps one that was there."""
    out(host, "network", "create", "blue", "--subnet", "10.88.0.0/24")
    assert 3 == failed(host, "container", "create", "c1", "--publish-service", "web.nowhere")[0]
    out(host, "container", "create", "c2", "--publish-service", "web.blue")
    assert 4 == failed(host, "container", "create", "c3", "--publish-service", "web.blue")[0]
    assert ["c2"] == [one["ContainerId"] for one in document(host, "container", "ls")]
    assert ["web"] == [one["Name"] for one in document(host, "service", "ls")]


def test_a_service_by_its_name_alone_must_be_the_only_one(host: Host) -> None:
    """Two networks may have a service each of one name; the error lists them as they must be written."""
    for name, subnet in (("blue", "10.88.0.0/24"), ("green", "10.89.0.0/24")):
        out(host, "network", "create", name, "--subnet", subnet)
        out(host, "service", "publish", f"web.{name}")
    status, message = failed(host, "service", "info", "web")
    assert (3, True) == (status, "web.blue, web.green" in message)
    assert "Network: green" in out(host, "service", "info", "web.green")


def test_several_objects_are_told_of_one_by_one(host: Host) -> None:
    """For people a line each on stderr, for programs one document: the first error, what was done, all errors."""
    for name, subnet in (("blue", "10.88.0.0/24"), ("green", "10.89.0.0/24"), ("red", "10.90.0.0/24")):
        out(host, "network", "create", name, "--subnet", subnet)
    out(host, "service", "publish", "web.red")
    done = host.cnm("network", "rm", "nope", "blue", "neither", timeout=30)
    assert (3, "blue\n") == (done.returncode, done.stdout)
    assert "cnm: network 'nope' not found\ncnm: network 'neither' not found\n" == done.stderr
    done = host.cnm("--json", "network", "rm", "red", "green", "nope", timeout=30)
    assert (4, "") == (done.returncode, done.stderr)
    told = json.loads(done.stdout)
    assert ("in-use", ["green"]) == (told["code"], told["deleted"])
    assert [("red", "in-use"), ("nope", "not-found")] == [(one["argument"], one["code"]) for one in told["errors"]]
    assert "`cnm network rm --with-endpoints red`" in told["hint"]
    for words in (("container", "rm", "nope"), ("service", "unpublish", "nope.red")):
        done = host.cnm("--json", *words, timeout=30)
        told = json.loads(done.stdout)
        assert (3, "not-found", []) == (done.returncode, told["code"], told["deleted"])


def test_unused_networks_are_pruned(host: Host) -> None:
    """Asked for by name, on stderr; without an answer nothing goes. What has an endpoint, attached or not, stays."""
    for name, subnet in (("blue", "10.88.0.0/24"), ("green", "10.89.0.0/24"), ("red", "10.90.0.0/24")):
        out(host, "network", "create", name, "--subnet", subnet)
    out(host, "service", "publish", "web.red")
    for answer in ("", "n\n", "\n"):
        done = host.cnm("network", "prune", input=answer, timeout=30)
        assert (1, "") == (done.returncode, done.stdout)
        assert "Delete blue, green? [y/N] cnm: nothing has been deleted\n" == done.stderr
    done = host.cnm("network", "prune", input="y\n", timeout=30)
    assert (0, "blue\ngreen\n") == (done.returncode, done.stdout)
    assert {"deleted": []} == document(host, "network", "prune", "--force")
    out(host, "service", "unpublish", "web.red")
    assert {"deleted": ["red"]} == document(host, "network", "prune", "-f")
    assert "" == out(host, "network", "prune")


def test_a_container_on_the_host_s_own_network(host: Host) -> None:
    """The network of driver host takes containers that were created for it, and those only."""
    out(host, "network", "create", "-d", "host", "hostly")
    out(host, "container", "create", "c1", "--host-network")
    out(host, "network", "connect", "hostly", "c1")
    assert str(host.address) in out(host, "container", "exec", "c1", "--", "ip", "-br", "address")
    own = f"/proc/{os.getpid()}/fd/{host.home.net}"
    assert (2, f"cnm: --netns: '{own}' is the host's own namespace\n     give --host-network\n") == failed(
        host, "container", "create", "c2", "--netns", own
    )


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (
            ["network", "create", "x", "-d", "nope"],
            3,
            "driver 'nope' not found\n     known: bridge, host, null, overlay",
        ),
        (
            ["network", "create", "x", "--ipam-driver", "nope"],
            3,
            "IPAM driver 'nope' not found\n     known: default, null",
        ),
        (["--cluster-store", "nope://x", "network", "ls"], 10, "no installed package knows the store 'nope'"),
        (["container", "create", "x", "--netns", "/etc/hosts"], 2, "--netns: '/etc/hosts' is not a network namespace"),
        (
            ["network", "connect", "blue", "c1", "--ip", "nonsense"],
            2,
            "--ip: 'nonsense' is not an IPv4 or IPv6 address",
        ),
        (["container", "inspect", "nope"], 3, "sandbox 'nope' not found"),
        (["service", "attach", "c2", "c1.blue"], 4, "endpoint 'c1' is in use by container c1 on host "),
        (["service", "unpublish", "c1.blue"], 4, "endpoint 'c1' is in use by container c1 on host "),
    ],
    ids=str,
)
def test_an_error_speaks_the_language_of_the_command_line(host: Host, words: list[str], status: int, said: str) -> None:
    """One error and its advice, once, in words that can be typed: no other library's log, no parameter, no method."""
    cnm = host.controller(resident="off")
    cnm.create_network("blue", subnets=["10.88.0.0/24"]).create_endpoint("c1").join(cnm.create_sandbox("c1"))
    cnm.create_sandbox("c2")
    found, text = failed(host, *words)
    assert (status, True) == (found, text.startswith(f"cnm: {said}")), text
    assert not re.search(r"\w\(|\w=\S|_\w+:", text), text
    assert 1 == text.count("cnm: ")


def test_what_is_lived_with_is_told_in_the_same_words() -> None:
    """The log's advice is an option, too; and to empty a network from here is advised only where that can be done."""
    with Lab() as lab:
        one, two = lab.hosts
        out(one, "network", "create", "-d", "overlay", "multi")
        out(one, "container", "create", "c1", "--publish-service", "web.multi")
        out(two, "network", "ls")
        done = one.cnm("--host", two.name, "network", "ls", timeout=30)
        assert (0, True) == (done.returncode, done.stderr.endswith("(give --host another name)\n")), done.stderr
        assert "rm --with-endpoints multi" in failed(one, "network", "rm", "multi")[1]
        assert "     detach them there first: only their own host can\n" in failed(two, "network", "rm", "multi")[1]


def test_a_way_out_is_shown_and_not_disconnected(host: Host) -> None:
    """``container ls`` lists it as the interface that it is; who would disconnect it is told whose it is."""
    out(host, "network", "create", "-d", "overlay", "multi")
    out(host, "container", "create", "c1", "--publish-service", "web.multi")
    assert ".cnm_gwbridge " in out(host, "container", "ls")
    status, message = failed(host, "network", "disconnect", "cnm_gwbridge", "c1")
    assert (4, True) == (status, "container c1, whose way out it is" in message)


def test_a_network_of_the_cluster_without_a_store(host: Host) -> None:
    """The advice is an option, not an argument of a constructor."""
    without = ["env", "-u", "LIBCNM_CLUSTER_STORE", sys.executable, "-m", "libcnm.cli"]
    done = host.run([*without, "network", "create", "-d", "overlay", "x"], capture_output=True, text=True, timeout=30)
    assert 10 == done.returncode
    assert "\n     give --cluster-store URL; " in done.stderr


def test_a_reader_that_has_gone_after_a_long_answer(host: Host) -> None:
    """The pipe breaks in the middle of the output: nothing is said, and the status is that of SIGPIPE."""
    cnm = host.controller(resident="off")
    network = cnm.create_network("blue", subnets=["10.88.0.0/16"])
    for number in range(100):  # in all more than a pipe takes, so that the writer is still there when the reader goes
        network.create_endpoint(f"service-{number}", labels={"long": "x" * 1000})
    line = f"{sys.executable} -m libcnm.cli --json service ls | head -c 10; echo ${{PIPESTATUS[0]}}"
    done = host.run(["bash", "-c", line], capture_output=True, text=True, timeout=30)
    assert (0, "", "141") == (done.returncode, done.stderr, done.stdout[10:].strip())
    full = host.run(
        ["bash", "-c", f"{sys.executable} -m libcnm.cli service ls >/dev/full"], capture_output=True, text=True
    )
    assert (1, "cnm: the output cannot be written: No space left on device\n") == (full.returncode, full.stderr)


def test_doctor_tells_drift_and_heals_it(host: Host) -> None:
    """Status 0 and a word of comfort, or status 1 and a row for each difference; --heal puts it right."""
    cnm = host.controller(resident="off")
    network = cnm.create_network("blue", subnets=["10.88.0.0/24"])
    assert "everything is as it should be\n" == out(host, "doctor")
    host.run(["ip", "address", "del", "10.88.0.1/24", "dev", f"br-{network.id[:12]}"], check=True)
    done = host.cnm("doctor", timeout=30)
    assert (1, f"missing: address host br-{network.id[:12]} 10.88.0.1\n") == (done.returncode, done.stdout)
    found = json.loads(host.cnm("--json", "doctor", "--heal", timeout=30).stdout)
    assert [("missing", "address")] == [(row["problem"], row["resource"][0]) for row in found]
    assert [] == document(host, "doctor")


def test_topology_in_all_its_forms(host: Host) -> None:
    """Text and Mermaid on stdout, SVG into a file, JSON with hosts, networks, sandboxes and endpoints."""
    cnm = host.controller(resident="off")
    cnm.create_network("blue", subnets=["10.88.0.0/24"]).create_endpoint("web").join(cnm.create_sandbox("c1"))
    assert f"host {host.name} {host.address}\n  c1\n    eth0 10.88.0.2 web.blue\n" in out(host, "topology")
    picture = f"{host.state_dir}/x.svg"
    assert out(host, "topology", "--svg", picture, "--mermaid").startswith("flowchart TB\n")
    with open(picture, encoding="utf-8") as file:
        assert file.read().startswith("<svg ")
    whole = document(host, "topology")
    assert [host.name] == [one["name"] for one in whole["hosts"]]
    assert [("web", "c1")] == [
        (endpoint["name"], sandbox["container_id"])
        for endpoint in whole["endpoints"]
        for sandbox in whole["sandboxes"]
        if sandbox["id"] == endpoint["sandbox_id"]
    ]
    assert 7 == failed(host, "topology", "--svg", "/nowhere/x.svg")[0]


def test_the_topology_of_a_cluster_is_the_same_on_each_host() -> None:
    """Hosts, networks, containers and endpoints of both, but for which of the hosts is "here", and what is its own: the
    network for ways out, and the endpoints on it.
    """
    with Lab() as lab:
        for number, host in enumerate(lab.hosts):
            cnm = host.controller()
            network = cnm.ensure_network("multihost", "overlay")
            network.create_endpoint(f"svc{number}").join(cnm.create_sandbox(f"c{number}"))
        seen = [document(host, "topology") for host in lab.hosts]
        for one, whole in zip(lab.hosts, seen, strict=True):
            assert [one.name] == [node["name"] for node in whole["hosts"] if node.pop("here")]
            own = [node["id"] for node in whole["networks"] if node["scope"] == "local"]
            assert ["cnm_gwbridge"] == [node["name"] for node in whole["networks"] if node["id"] in own]
            whole["networks"] = [node for node in whole["networks"] if node["id"] not in own]
            whole["endpoints"] = [node for node in whole["endpoints"] if node["network_id"] not in own]
        assert [{**host, "here": False} for host in seen[0]["hosts"]] == [
            {**host, "here": False} for host in seen[1]["hosts"]
        ]
        assert [seen[0][kind] for kind in ("networks", "endpoints", "sandboxes")] == [
            seen[1][kind] for kind in ("networks", "endpoints", "sandboxes")
        ]
        assert ["lab-vm-1", "lab-vm-2"] == [sandbox["host"] for sandbox in seen[0]["sandboxes"]]
