"""A topology as text, as a Mermaid flow chart, and (:mod:`libcnm.cli.svg`) as a picture. Pure: values in, text out."""

from __future__ import annotations

from collections.abc import Iterator

from libcnm.cli.svg import svg
from libcnm.controller.topology import EndpointNode, NetworkNode, SandboxNode, Topology

__all__ = ["mermaid", "svg", "text"]


def about(network: NetworkNode) -> str:
    """A network in a few words: its driver, subnets and VNI."""
    parts = [network.driver, *map(str, network.subnets)]
    if network.vni is not None:
        parts.append(f"VNI {network.vni}")
    if network.internal:
        parts.append("internal")
    return ", ".join(parts)


def addresses(endpoint: EndpointNode) -> str:
    """An endpoint's addresses, without prefix lengths."""
    return " ".join(str(address.ip) for address in endpoint.addresses)


# -- text --------------------------------------------------------------------------------------------------------------


def text(topology: Topology) -> str:
    """An indented list, for terminals."""
    return "\n".join(_lines(topology))


def _lines(topology: Topology) -> Iterator[str]:
    names = {network.id: network.name for network in topology.networks}
    yield "networks"
    for network in topology.networks:
        yield f"  {network.name} ({about(network)})" + (f" on {network.host}" if network.host else "")
    if not topology.networks:
        yield "  none"
    for host in topology.hosts:
        yield f"host {host.name}" + (f" {host.address}" if host.address else "")
        for sandbox in topology.sandboxes:
            if sandbox.host == host.name:
                yield f"  {sandbox.container_id}"
                for endpoint in _inside(topology, sandbox):
                    words = (endpoint.interface, addresses(endpoint), f"{endpoint.name}.{names[endpoint.network_id]}")
                    yield f"    {' '.join(filter(None, words))}"
    loose = [endpoint for endpoint in topology.endpoints if not endpoint.sandbox_id]
    if loose:
        yield "not attached"
        for endpoint in loose:
            yield f"  {endpoint.name}.{names[endpoint.network_id]} {addresses(endpoint)}".rstrip()


def _inside(topology: Topology, sandbox: SandboxNode) -> list[EndpointNode]:
    return [endpoint for endpoint in topology.endpoints if endpoint.sandbox_id == sandbox.id]


# -- Mermaid -----------------------------------------------------------------------------------------------------------


def mermaid(topology: Topology) -> str:
    """A flow chart: hosts as subgraphs, containers and networks as nodes, endpoints as the edges between them."""
    lines = ["flowchart TB"]
    for number, host in enumerate(topology.hosts):
        lines.append(f'  subgraph host{number}["{_quoted(" ".join(filter(None, (host.name, host.address))))}"]')
        for sandbox in topology.sandboxes:
            if sandbox.host == host.name:
                lines.append(f'    s{sandbox.id[:12]}["{_quoted(sandbox.container_id)}"]')
        for network in topology.networks:
            if network.host == host.name:
                lines.append(f"    {_network(network)}")
        lines.append("  end")
    lines += [f"  {_network(network)}" for network in topology.networks if not network.host]
    for endpoint in topology.endpoints:
        label = _quoted(" ".join(filter(None, (endpoint.name, addresses(endpoint)))))
        if endpoint.sandbox_id:
            lines.append(f'  s{endpoint.sandbox_id[:12]} ---|"{label}"| n{endpoint.network_id[:12]}')
        else:
            lines.append(f'  e{endpoint.id[:12]}(["{label}"]) -.- n{endpoint.network_id[:12]}')
    return "\n".join(lines) + "\n"


def _network(network: NetworkNode) -> str:
    return f'n{network.id[:12]}[["{_quoted(network.name)}<br/>{_quoted(about(network))}"]]'


def _quoted(value: str) -> str:
    """Mermaid's own way to write what would end a quoted text, or begin markup."""
    codes = {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "`": "#96;"}
    return "".join(codes.get(char, char) for char in value)
