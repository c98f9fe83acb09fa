"""A topology drawn: as text, as Mermaid, as SVG."""

from __future__ import annotations

import ipaddress
import xml.etree.ElementTree as ET

import pytest

from libcnm.cli import draw
from libcnm.controller.topology import EndpointNode, HostNode, NetworkNode, SandboxNode, Topology

A, B, C, D, E, F = (letter * 64 for letter in "abcdef")
SVG = "{http://www.w3.org/2000/svg}"


def endpoint(
    name: str, network: str, address: str, sandbox: str = "", host: str = "", interface: str = ""
) -> EndpointNode:
    identifier = (name.encode().hex() * 64)[:64]
    return EndpointNode(
        identifier, name, network, (ipaddress.ip_interface(address),), "02:42:00:00:00:01", (), sandbox, host, interface
    )


def network(identifier: str, name: str, subnet: str, *, host: str = "", vni: int | None = None) -> NetworkNode:
    driver, scope = ("bridge", "local") if host else ("overlay", "global")
    pools = (ipaddress.ip_network(subnet),)
    return NetworkNode(identifier, name, driver, "local" if scope == "local" else "global", pools, vni, False, host)


CLUSTER = Topology(
    (HostNode("lab-vm-1", "192.0.2.11", here=True), HostNode("lab-vm-2", "192.0.2.12", here=False)),
    (network(A, "multihost", "10.0.0.0/24", vni=256), network(B, "blue", "10.88.0.0/24", host="lab-vm-1")),
    (SandboxNode(C, "c1", "lab-vm-1"), SandboxNode(D, "c2", "lab-vm-1"), SandboxNode(E, "c3", "lab-vm-2")),
    (
        endpoint("svc1", A, "10.0.0.2/24", C, "lab-vm-1", "eth0"),
        endpoint("svc2", A, "10.0.0.3/24", E, "lab-vm-2", "eth0"),
        endpoint("spare", A, "10.0.0.4/24"),
        endpoint("web", B, "10.88.0.2/24", C, "lab-vm-1", "eth1"),
    ),
)


def test_text_shows_who_is_where() -> None:
    """Networks first, then each host with its containers, then what is attached to nothing."""
    expected = """\
networks
  multihost (overlay, 10.0.0.0/24, VNI 256)
  blue (bridge, 10.88.0.0/24) on lab-vm-1
host lab-vm-1 192.0.2.11
  c1
    eth0 10.0.0.2 svc1.multihost
    eth1 10.88.0.2 web.blue
  c2
host lab-vm-2 192.0.2.12
  c3
    eth0 10.0.0.3 svc2.multihost
not attached
  spare.multihost 10.0.0.4"""
    assert expected == draw.text(CLUSTER)


def test_mermaid_is_a_flow_chart_of_it() -> None:
    """Hosts are subgraphs, a local network lies in its host's, and every endpoint is an edge with its address."""
    lines = draw.mermaid(CLUSTER).splitlines()
    assert "flowchart TB" == lines[0]
    inside = lines[1 : lines.index("  end")]
    assert [
        '  subgraph host0["lab-vm-1 192.0.2.11"]',
        '    scccccccccccc["c1"]',
        '    sdddddddddddd["c2"]',
        '    nbbbbbbbbbbbb[["blue<br/>bridge, 10.88.0.0/24"]]',
    ] == inside
    assert '  naaaaaaaaaaaa[["multihost<br/>overlay, 10.0.0.0/24, VNI 256"]]' in lines
    assert '  scccccccccccc ---|"svc1 10.0.0.2"| naaaaaaaaaaaa' in lines
    assert ['(["spare 10.0.0.4"]) -.- naaaaaaaaaaaa'] == [line[15:] for line in lines if "spare" in line]


def drawn(topology: Topology) -> tuple[ET.Element, list[str]]:
    """The picture, parsed as XML, and its texts."""
    picture = ET.fromstring(draw.svg(topology))  # noqa: S314 - our own text
    return picture, ["".join(text.itertext()) for text in picture.iter(f"{SVG}text")]


def test_svg_shows_every_name_and_address() -> None:
    """Whatever is in the records is in the picture."""
    _, texts = drawn(CLUSTER)
    for word in (
        "lab-vm-1",
        "192.0.2.12",
        "c1",
        "c2",
        "c3",
        "eth0 svc1",
        "10.0.0.2/24",
        "eth1 web",
        "multihost",
        "blue",
    ):
        assert word in texts
    assert "not attached: spare 10.0.0.4" in texts
    assert "overlay  ·  10.0.0.0/24  ·  VNI 256" in texts


def test_svg_stays_inside_its_frame() -> None:
    """Every box lies within the picture, and the cluster's network spans both hosts."""
    picture, _ = drawn(CLUSTER)
    width, height = int(picture.attrib["width"]), int(picture.attrib["height"])
    boxes = [
        {key: int(box.attrib.get(key, 0)) for key in ("x", "y", "width", "height")}
        for box in picture.iter(f"{SVG}rect")
    ]
    assert [] == [box for box in boxes if box["x"] + box["width"] > width or box["y"] + box["height"] > height]
    spanning = [box for box in boxes if box["width"] == width - 56]
    hosts = [box for box in boxes if box["y"] == 28 and box["x"] >= 28]
    assert 1 == len(spanning)
    assert spanning[0]["x"] == min(box["x"] for box in hosts)
    assert spanning[0]["x"] + spanning[0]["width"] == max(box["x"] + box["width"] for box in hosts)


def test_each_network_has_its_colour_and_each_endpoint_its_line() -> None:
    """A line is in the colour of its network's bar, and there is one per attached endpoint."""
    picture, _ = drawn(CLUSTER)
    strokes = [path.attrib["stroke"] for path in picture.iter(f"{SVG}path")]
    assert 3 == len(strokes)
    assert 2 == len(set(strokes))
    assert set(strokes) <= {box.attrib["fill"] for box in picture.iter(f"{SVG}rect")}


def test_names_cannot_break_the_picture() -> None:
    """Markup in a name is text, a control character is left out, a long one is cut and whole in its tool tip."""
    long = "a-very-long-container-name-" * 8
    names = ('<script>&"', "bell\x07", long)
    sandboxes = tuple(SandboxNode(f"{number:064x}", name, "h") for number, name in enumerate(names))
    picture, texts = drawn(Topology((HostNode("h", "", here=True),), (), sandboxes, ()))
    assert '<script>&"' in texts
    assert "bell" in texts
    assert [long] == [title.text for title in picture.iter(f"{SVG}title")]
    assert any(text.endswith("…") for text in texts)


@pytest.mark.parametrize("topology", [Topology(), Topology((HostNode("h", "", here=True),))])
def test_nothing_can_be_drawn_too(topology: Topology) -> None:
    """An empty installation has an empty picture, and no error."""
    picture, _ = drawn(topology)
    assert int(picture.attrib["width"]) > 0
    assert draw.mermaid(topology).startswith("flowchart TB\n")
    assert draw.text(topology).startswith("networks\n  none")


def test_mermaid_names_cannot_end_their_quotes() -> None:
    """Mermaid has its own codes for what would end a text or begin markup."""
    chart = draw.mermaid(Topology((), (), (), (endpoint('a"#<b>', A, "10.0.0.2/24"),)))
    assert '(["a#quot;#35;#lt;b#gt; 10.0.0.2"])' in chart
