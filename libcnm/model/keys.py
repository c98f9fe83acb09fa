"""Where each record lives in a store. The same layout in the host's own store and in the cluster's."""

from __future__ import annotations

INSTALLATION = "installation"
LINEAGE = "lineage"
RUN_DIR = "run-dir"
ATTACHMENTS = "attached/"
NETWORKS = "network/"
SANDBOXES = "sandbox/"
INTENTS = "intent/"
REQUESTS = "request/"
PRESENCES = "presence/"
HOST_SETTINGS = "host-setting/"
ENDPOINTS = "endpoint/"
CLAIMS = ("name/", "mac/", "vni/")
"""Where the value says whose something is, by the id of its object."""


def network(network_id: str) -> str:
    """A network's record."""
    return f"{NETWORKS}{network_id}"


def network_name(name: str) -> str:
    """The claim of a network's name; one key per name makes it unique by transaction."""
    return f"name/network/{name}"


def endpoints(network_id: str) -> str:
    """The prefix of a network's endpoints."""
    return f"{ENDPOINTS}{network_id}/"


def endpoint(network_id: str, endpoint_id: str) -> str:
    """An endpoint's record."""
    return f"{ENDPOINTS}{network_id}/{endpoint_id}"


def endpoint_name(network_id: str, name: str) -> str:
    """The claim of an endpoint's name within its network; DNS knows no case (RFC 4343), so "web" and "Web" are one."""
    return f"name/endpoint/{network_id}/{name.lower()}"


def mac(network_id: str, address: str) -> str:
    """The claim of a MAC within a network."""
    return f"mac/{network_id}/{address}"


def vni(number: int) -> str:
    """The claim of a VXLAN network identifier."""
    return f"vni/{number:08d}"


VNIS = "vni/"
VNI_HINT = "vni-hint"


def sandbox(sandbox_id: str) -> str:
    """A sandbox's record."""
    return f"{SANDBOXES}{sandbox_id}"


def container(container_id: str) -> str:
    """The claim of a container id: a container has one sandbox on a host."""
    return f"name/container/{container_id}"


def intent(operation: str) -> str:
    """A verb under way on this host."""
    return f"{INTENTS}{operation}"


def presence(network_id: str) -> str:
    """A network's presence on this host."""
    return f"{PRESENCES}{network_id}"


def port(protocol: str, number: int) -> str:
    """Who published a port of this host."""
    return f"port/{protocol}/{number}"


def host_setting(key: str) -> str:
    """What a host-wide sysctl was before libcnm changed it."""
    return f"{HOST_SETTINGS}{key.replace('/', '.')}"


def request(request_id: str) -> str:
    """What a request id is used for."""
    return f"{REQUESTS}{request_id}"


def attachments(sandbox_id: str) -> str:
    """The ledger of a sandbox's attachments on this host."""
    return f"attached/{sandbox_id}/"


def attachment(sandbox_id: str, scope: str, network_id: str, endpoint_id: str) -> str:
    """One line of that ledger."""
    return f"{attachments(sandbox_id)}{scope}/{network_id}/{endpoint_id}"


def parse_attachment(key: str) -> tuple[str, str, str, str]:
    """Sandbox id, scope, network id and endpoint id of a ledger line."""
    _, sandbox_id, scope, network_id, endpoint_id = key.split("/")
    return sandbox_id, scope, network_id, endpoint_id


def needed(key: str) -> tuple[str, ...]:
    """What an endpoint's record, or a ledger line, means nothing without."""
    if key.startswith(ENDPOINTS):
        return (network(key.removeprefix(ENDPOINTS).partition("/")[0]),)
    if key.startswith(ATTACHMENTS):
        return (sandbox(key.removeprefix(ATTACHMENTS).partition("/")[0]),)
    return ()


def singleton(driver: str) -> str:
    """The claim of the only network that a driver allows (null, host)."""
    return f"name/singleton/{driver}"


def host(name: str) -> str:
    """A host of the cluster."""
    return f"host/{name}"
