"""A topology as an SVG picture: hosts are boxes, containers cards inside them, networks coloured bars.

A network of the cluster is one bar below all hosts, because it is one segment; a local one lies inside its host. Each
endpoint is a line from its card down to its bar, in the bar's colour. Pure: a value in, text out. The law: SVG 1.1.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from libcnm.controller.topology import EndpointNode, HostNode, NetworkNode, SandboxNode, Topology

COLOURS: Final = ("#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#0891b2", "#65a30d", "#dc2626")
MARGIN, GAP, PADDING = 28, 28, 16
CARD_WIDTH, CARD_HEAD, ROW, CARD_GAP = 216, 34, 38, 16
HOST_HEAD, HOST_LEAST = 58, 260
BAR, BAR_GAP, NOTE = 40, 14, 20
INK, SOFT, FRAME, PAPER, BOX = "#0f172a", "#64748b", "#cbd5e1", "#ffffff", "#f8fafc"
SANS: Final = "ui-sans-serif, system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
MONO: Final = "ui-monospace, SFMono-Regular, Menlo, 'DejaVu Sans Mono', monospace"


@attrs.frozen
class _Card:
    sandbox: SandboxNode
    endpoints: tuple[EndpointNode, ...]
    left: int
    top: int

    @property
    def height(self) -> int:
        return CARD_HEAD + ROW * max(1, len(self.endpoints)) + 6

    def drop(self, index: int) -> int:
        """Where the line of the n-th endpoint leaves the card."""
        return self.left + 22 + index * 18


@attrs.frozen
class _Bar:
    network: NetworkNode
    loose: tuple[EndpointNode, ...]
    left: int
    top: int
    width: int

    @property
    def height(self) -> int:
        return BAR + (NOTE if self.loose else 0)


@attrs.frozen
class _Box:
    host: HostNode
    cards: tuple[_Card, ...]
    bars: tuple[_Bar, ...]
    left: int
    top: int
    width: int
    height: int


def svg(topology: Topology) -> str:
    """The picture as the text of an SVG file."""
    boxes, bars, width, height = _layout(topology)
    colour = {network.id: COLOURS[i % len(COLOURS)] for i, network in enumerate(topology.networks)}
    every_bar = [*bars, *(bar for box in boxes for bar in box.bars)]
    tops = {bar.network.id: bar.top for bar in every_bar}
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{SANS}" role="img" aria-label="topology">',
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
    ]
    for box in boxes:
        parts += _draw_box(box)
    for box in boxes:
        for card in box.cards:
            parts += _draw_lines(card, tops, colour)
    for bar in every_bar:
        parts += _draw_bar(bar, colour[bar.network.id])
    for box in boxes:
        for card in box.cards:
            parts += _draw_card(card, colour)
    return "\n".join([*parts, "</svg>"]) + "\n"


# -- where everything goes ---------------------------------------------------------------------------------------------


def _layout(topology: Topology) -> tuple[list[_Box], list[_Bar], int, int]:
    shared = [network for network in topology.networks if not network.host]
    tallest = max([0, *(_cards_height(topology, host) for host in topology.hosts)])
    most_bars = max([0, *(_bars_height(topology, host) for host in topology.hosts)])
    height = HOST_HEAD + tallest + PADDING + most_bars
    boxes: list[_Box] = []
    left = MARGIN
    for host in topology.hosts:
        box = _box(topology, host, left, height)
        boxes.append(box)
        left += box.width + GAP
    width = max(left - GAP + MARGIN, MARGIN * 2 + HOST_LEAST * 2)
    top = MARGIN + (height + GAP if boxes else 0)
    bars = []
    for network in shared:
        bar = _Bar(network, _loose(topology, network), MARGIN, top, width - 2 * MARGIN)
        bars.append(bar)
        top += bar.height + BAR_GAP
    return boxes, bars, width, top - (BAR_GAP if bars else GAP) + MARGIN


def _cards_height(topology: Topology, host: HostNode) -> int:
    counts = [len(_of(topology, one)) for one in topology.sandboxes if one.host == host.name]
    return max([0, *(CARD_HEAD + ROW * max(1, count) + 6 for count in counts)])


def _bars_height(topology: Topology, host: HostNode) -> int:
    local = [network for network in topology.networks if network.host == host.name]
    notes = sum(NOTE for network in local if _loose(topology, network))
    return len(local) * (BAR + BAR_GAP) + notes + (PADDING if local else 0)


def _box(topology: Topology, host: HostNode, left: int, height: int) -> _Box:
    sandboxes = [one for one in topology.sandboxes if one.host == host.name]
    width = max(HOST_LEAST, 2 * PADDING + len(sandboxes) * (CARD_WIDTH + CARD_GAP) - CARD_GAP)
    cards = tuple(
        _Card(one, _of(topology, one), left + PADDING + index * (CARD_WIDTH + CARD_GAP), MARGIN + HOST_HEAD)
        for index, one in enumerate(sandboxes)
    )
    bars = []
    bottom = MARGIN + height - PADDING
    for network in reversed([one for one in topology.networks if one.host == host.name]):
        bar = _Bar(network, _loose(topology, network), left + PADDING, 0, width - 2 * PADDING)
        bottom -= bar.height
        bars.append(attrs.evolve(bar, top=bottom))
        bottom -= BAR_GAP
    return _Box(host, cards, tuple(bars), left, MARGIN, width, height)


def _of(topology: Topology, sandbox: SandboxNode) -> tuple[EndpointNode, ...]:
    found = [endpoint for endpoint in topology.endpoints if endpoint.sandbox_id == sandbox.id]
    return tuple(sorted(found, key=lambda endpoint: (endpoint.interface, endpoint.name)))


def _loose(topology: Topology, network: NetworkNode) -> tuple[EndpointNode, ...]:
    return tuple(one for one in topology.endpoints if one.network_id == network.id and not one.sandbox_id)


# -- what it looks like ------------------------------------------------------------------------------------------------


def _draw_box(box: _Box) -> Iterator[str]:
    yield _rectangle(box.left, box.top, box.width, box.height, 12, BOX, FRAME)
    yield _text(box.left + PADDING, box.top + 28, box.host.name, 17, INK, bold=True, room=box.width - 2 * PADDING)
    yield _text(box.left + PADDING, box.top + 46, box.host.address, 12, SOFT, mono=True)
    if not box.cards:
        yield _text(box.left + PADDING, box.top + HOST_HEAD + 18, "no containers", 12, SOFT)


def _draw_lines(card: _Card, tops: dict[str, int], colour: dict[str, str]) -> Iterator[str]:
    for index, endpoint in enumerate(card.endpoints):
        if endpoint.network_id in tops:
            x, end = card.drop(index), tops[endpoint.network_id]
            yield (
                f'<path d="M{x} {card.top + card.height} V{end}" stroke="{colour[endpoint.network_id]}"'
                ' stroke-width="3" fill="none"/>'
            )
            yield f'<circle cx="{x}" cy="{end}" r="5" fill="{colour[endpoint.network_id]}"/>'


def _draw_card(card: _Card, colour: dict[str, str]) -> Iterator[str]:
    yield _rectangle(card.left, card.top, CARD_WIDTH, card.height, 8, PAPER, FRAME)
    yield _text(card.left + 14, card.top + 23, card.sandbox.container_id, 14, INK, bold=True, room=CARD_WIDTH - 28)
    if not card.endpoints:
        yield _text(card.left + 14, card.top + CARD_HEAD + 16, "no endpoints", 12, SOFT)
    for index, endpoint in enumerate(card.endpoints):
        top = card.top + CARD_HEAD + index * ROW
        shade = colour.get(endpoint.network_id, SOFT)
        yield f'<rect x="{card.left + 14}" y="{top + 3}" width="4" height="28" rx="2" fill="{shade}"/>'
        words = " ".join(filter(None, (endpoint.interface, endpoint.name)))
        yield _text(card.left + 26, top + 14, words, 12, INK, room=CARD_WIDTH - 40)
        numbers = " ".join(str(address) for address in endpoint.addresses)
        yield _text(card.left + 26, top + 29, numbers, 11, SOFT, mono=True, room=CARD_WIDTH - 40)


def _draw_bar(bar: _Bar, colour: str) -> Iterator[str]:
    network = bar.network
    yield _rectangle(bar.left, bar.top, bar.width, bar.height, 8, colour, colour)
    facts = [network.driver, *map(str, network.subnets)]
    facts += [f"VNI {network.vni}"] if network.vni is not None else []
    facts += ["internal"] if network.internal else []
    room = bar.width - 28
    yield _text(bar.left + 14, bar.top + 25, network.name, 14, PAPER, bold=True, room=room)
    taken = 14 + _width(network.name, 14, bold=True) + 14
    if bar.width - taken > 60:
        yield _text(bar.left + taken, bar.top + 25, "  ·  ".join(facts), 12, PAPER, room=bar.width - taken - 14)
    if bar.loose:
        names = ", ".join(
            f"{one.name} {' '.join(str(address.ip) for address in one.addresses)}".strip() for one in bar.loose
        )
        yield _text(bar.left + 14, bar.top + BAR + 6, f"not attached: {names}", 11, PAPER, room=room)


def _rectangle(left: int, top: int, width: int, height: int, corner: int, fill: str, stroke: str) -> str:
    return (
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="{corner}" fill="{fill}" stroke="{stroke}"/>'
    )


def _text(
    x: int, y: int, words: str, size: int, colour: str, *, bold: bool = False, mono: bool = False, room: int = 0
) -> str:
    """A line of text; what is wider than its room is cut, and whole in the tool tip."""
    shown, tip = words, ""
    if room and _width(words, size, bold=bold, mono=mono) > room:
        shown = words[: _fitting(size, room, bold=bold, mono=mono)].rstrip() + "…"
        tip = f"<title>{_escaped(words)}</title>"
    weight = ' font-weight="600"' if bold else ""
    family = f' font-family="{MONO}"' if mono else ""
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}"{weight}{family} xml:space="preserve">'
        f"{tip}{_escaped(shown)}</text>"
    )


def _width(words: Sequence[str], size: int, *, bold: bool = False, mono: bool = False) -> int:
    """About how wide a text is; fonts differ, so it errs on the wide side."""
    return round(len(words) * size * (0.66 if bold else 0.61 if mono else 0.56))


def _fitting(size: int, room: int, *, bold: bool, mono: bool) -> int:
    one = _width("m" * 100, size, bold=bold, mono=mono) / 100
    return max(1, int(room / one) - 1)


def _escaped(words: str) -> str:
    """For XML: markup as entities; characters that XML has no way to write are left out."""
    kept = "".join(char for char in words if char.isprintable())
    return html.escape(kept, quote=True)
