"""A cluster as a picture: racks, nodes and GPUs, coloured by what a plan does there.

The picture is SVG with every text escaped. GPUs carry a tooltip; NVLink islands are
framed; lines above the racks are links with their rates, as wide as they are fast.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from clusters.cluster import Cluster
from clusters.units import GB
from planner.report.gpu_marks import GpuMark, pools_of
from planner.report.svg import FAINT, Box, ink_on, line_to, rect_of, text_at

PALETTES: Mapping[str, tuple[str, ...]] = {
    "prefill": ("#1f6fb4", "#5ba3d9", "#0b4a80", "#8cc3ea"),
    "decode": ("#d9730d", "#f2a65a", "#a85407", "#f7c795"),
    "aggregated": ("#2e8b57", "#7cc79a", "#1d5e3a", "#a9dfc0"),
    "shared": ("#7a4fa3", "#c06bb5", "#4b3a8c", "#b39ddb", "#8e3b6e", "#9fa8da"),
    "dedicated": ("#2e8b57", "#00838f", "#7cb342", "#5d4037", "#90a4ae", "#c0a500"),
}
"""Hue by kind of pool, shade by pool; readable without red against green."""
IDLE = "#e6e6e6"

LARGE = 20
"""Pixels of a GPU of a small cluster; GPUs of large ones are smaller, without text."""
SMALL = 6
MOST_LARGE_GPUS = 512
MOST_NAMED_GPUS = 4096
"""GPUs beyond which none has a tooltip, so that the file stays small."""
WIDEST = 1180
LETTER = 6.4
"""Pixels of a letter of the title, about."""
SMALL_LETTER = 5.6
MARGIN, GAP = 20, 14
TOP, BARE_TOP = 76, 30
"""Height of a rack's part of the network, and of its leaf alone."""


def cluster_svg(
    cluster: Cluster, marks: Mapping[int, GpuMark], *, title: str = ""
) -> str:
    """Draw a cluster.

    Parameters
    ----------
    cluster
        Its nodes and network.
    marks
        What GPUs in use do, by index; the others are idle.
    title
        Text above the picture, folded where it is long.

    Returns
    -------
    str
        An SVG document.
    """
    size = LARGE if cluster.num_gpus <= MOST_LARGE_GPUS else SMALL
    colours = _colours(marks)
    racks = _racks(cluster, size)
    width, height = _arranged(racks)
    width = max(width, 520)
    parts = [text_at(MARGIN, 26, cluster.name, size_px=16, weight="bold")]
    lines = textwrap.wrap(title, int((width - 2 * MARGIN) / LETTER))
    for row, line in enumerate(lines):
        parts.append(text_at(MARGIN, 46 + 15 * row, line, size_px=12, fill="#555555"))
    top = 40.0 + 15 * len(lines)
    rows = _legend_rows(marks, colours, cluster.num_gpus)
    legend, legend_height = _legend(rows, top, width)
    shift = top + legend_height
    parts += legend
    body = _network(cluster, racks)
    for rack in racks:
        body += rack.drawn(cluster, marks, colours)
    parts.append(f'<g transform="translate(0,{shift})">{"".join(body)}</g>')
    height += shift + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" font-family="Helvetica, Arial, '
        f'sans-serif"><rect width="100%" height="100%" fill="#ffffff"/>'
        f"{''.join(parts)}</svg>\n"
    )


class _Rack:
    """The nodes below one leaf, stacked in columns."""

    def __init__(
        self, cluster: Cluster, leaf: str, nodes: list[int], size: int
    ) -> None:
        self.leaf, self.nodes, self.size = leaf, nodes, size
        self.head = TOP if len(cluster.leaves) > 1 else BARE_TOP
        self.shows_text = size == LARGE
        most = max(cluster.nodes[node].type.num_gpus for node in nodes)
        self.gpus_a_row = min(most, 8)
        gap = 3 if self.shows_text else 1
        self.pitch = size + gap
        self.node_width = self.gpus_a_row * self.pitch + 8
        rows = math.ceil(most / self.gpus_a_row)
        label = 16 if self.shows_text else 0
        self.node_height = rows * self.pitch + label + 8
        deepest = 8 if self.shows_text else 24
        self.columns = math.ceil(len(nodes) / deepest)
        self.rows = math.ceil(len(nodes) / self.columns)
        self.width = max(self.columns * (self.node_width + 6) + 10, 96)
        self.height = self.head + self.rows * (self.node_height + 6) + 10
        self.left = self.top = 0.0

    @property
    def port(self) -> tuple[float, float]:
        """Where links to the leaf end."""
        return self.left + self.width / 2, self.top + self.head - 26

    def drawn(
        self,
        cluster: Cluster,
        marks: Mapping[int, GpuMark],
        colours: Mapping[str, str],
    ) -> list[str]:
        """The rack with its leaf, nodes and GPUs."""
        x, y = self.left, self.top + self.head - 8
        frame = Box(left=x, top=y, width=self.width, height=self.height - self.head + 4)
        parts = [rect_of(frame, fill="#fafafa", stroke="#c8c8c8", radius=5)]
        leaf = Box(left=x, top=y - 22, width=self.width, height=18)
        parts.append(rect_of(leaf, fill="#4a4a4a", radius=3))
        name = self.leaf if len(self.leaf) <= 18 else self.leaf[:17] + "…"
        middle = x + self.width / 2
        parts.append(text_at(middle, y - 9, name, fill="#ffffff", anchor="middle"))
        for place, node in enumerate(self.nodes):
            column, row = divmod(place, self.rows)
            left = x + 8 + column * (self.node_width + 6)
            top = y + 8 + row * (self.node_height + 6)
            parts += self._node(cluster, node, left, top, marks, colours)
        return parts

    def _node(
        self,
        cluster: Cluster,
        node: int,
        left: float,
        top: float,
        marks: Mapping[int, GpuMark],
        colours: Mapping[str, str],
    ) -> list[str]:
        topology = cluster.topology
        parts = []
        offset = 4.0
        if self.shows_text:
            about = f"{cluster.nodes[node].name} {cluster.nodes[node].type.name}"
            most = max(4, int((self.node_width - 4) / SMALL_LETTER))
            short = about if len(about) <= most else about[: most - 1] + "…"
            parts.append(text_at(left + 4, top + 11, short, fill="#555555"))
            offset = 18.0
        gpus = topology.gpus_of_node(node)
        boxes = {}
        for place, gpu in enumerate(gpus):
            row, column = divmod(place, self.gpus_a_row)
            boxes[gpu] = Box(
                left=left + 4 + column * self.pitch,
                top=top + offset + row * self.pitch,
                width=self.size,
                height=self.size,
            )
        if self.shows_text:
            for island in topology.islands(node):
                if len(island) > 1:
                    parts.append(_frame([boxes[gpu] for gpu in island]))
        for gpu in gpus:
            parts.append(self._gpu(cluster, gpu, boxes[gpu], marks, colours))
        return parts

    def _gpu(
        self,
        cluster: Cluster,
        gpu: int,
        box: Box,
        marks: Mapping[int, GpuMark],
        colours: Mapping[str, str],
    ) -> str:
        mark = marks.get(gpu)
        fill = IDLE if mark is None else colours[mark.pool]
        drawn = rect_of(box, fill=fill, radius=2 if self.shows_text else 0)
        if cluster.num_gpus > MOST_NAMED_GPUS:
            return drawn
        if mark is not None and self.shows_text:
            x, y = box.left + box.width / 2, box.top + box.height / 2 + 3
            size_px = 9 if len(mark.label) <= 3 else 7
            drawn += text_at(
                x, y, mark.label, fill=ink_on(fill), anchor="middle", size_px=size_px
            )
        hardware = cluster.topology.gpu(gpu)
        doing = "idle" if mark is None else mark.about
        tip = f"{hardware.name} ({hardware.type.name}): {doing}"
        return f"<g><title>{escape(tip)}</title>{drawn}</g>"


def _racks(cluster: Cluster, size: int) -> list[_Rack]:
    nodes: dict[str, list[int]] = {}
    for index, node in enumerate(cluster.nodes):
        nodes.setdefault(cluster.leaf_of(node), []).append(index)
    return [_Rack(cluster, leaf, members, size) for leaf, members in nodes.items()]


def _arranged(racks: Sequence[_Rack]) -> tuple[float, float]:
    """Put the racks beside and below each other; width and height of them all."""
    left, top, deepest, widest = float(MARGIN), 0.0, 0.0, 0.0
    for rack in racks:
        if left > MARGIN and left + rack.width > WIDEST:
            left, top, deepest = float(MARGIN), top + deepest + GAP, 0.0
        rack.left, rack.top = left, top
        left += rack.width + GAP
        deepest = max(deepest, rack.height)
        widest = max(widest, left - GAP + MARGIN)
    return widest, top + deepest


def _network(cluster: Cluster, racks: Sequence[_Rack]) -> list[str]:
    """Links above the leaves: to a spine, or those that the file names."""
    fabric = cluster.fabric
    if len(racks) < 2:
        return []
    if fabric.links:
        return _named_links(cluster, racks)
    rates = [_uplink_bytes_per_s(cluster, rack) for rack in racks]
    most = max(rates)
    parts = []
    rows = sorted({rack.top for rack in racks})
    for top in rows:
        row = [rack for rack in racks if rack.top == top]
        ends = [rack.port[0] for rack in row]
        spine = Box(
            left=min(ends) - 20,
            top=top + 4,
            width=max(ends) - min(ends) + 40,
            height=14,
        )
        parts.append(rect_of(spine, fill="#222222", radius=3))
        middle = (min(ends) + max(ends)) / 2
        parts.append(
            text_at(middle, top + 14.5, "spine", fill="#ffffff", anchor="middle")
        )
    for rack, rate in zip(racks, rates, strict=True):
        x, y = rack.port
        width = 1.0 + 5.0 * rate / most if most > 0 else 1.0
        parts.append(line_to((x, rack.top + 18), (x, y - 4), width))
        label = f"{rate / GB:,.0f} GB/s"
        parts.append(text_at(x + 7, rack.top + 36, label, fill="#555555"))
    return parts


def _uplink_bytes_per_s(cluster: Cluster, rack: _Rack) -> float:
    """Rate of a leaf to the spine."""
    below = sum(
        cluster.nodes[node].type.num_nics * cluster.nodes[node].type.nic_bytes_per_s
        for node in rack.nodes
    )
    return below / cluster.fabric.oversubscription_ratio


def _named_links(cluster: Cluster, racks: Sequence[_Rack]) -> list[str]:
    """Explicit links, as arcs between the leaves they join."""
    ports = {rack.leaf: rack.port for rack in racks}
    links = cluster.fabric.links
    most = max(link.bytes_per_s for link in links)
    parts = []
    for index, link in enumerate(links):
        (x1, y1), (x2, y2) = (ports[end] for end in link.between)
        lift = 26 + 12 * (index % 3)
        width = 1.0 + 4.0 * link.bytes_per_s / most
        middle = (x1 + x2) / 2, min(y1, y2) - lift
        parts.append(
            f'<path d="M{x1:g},{y1 - 4:g} Q{middle[0]:g},{middle[1]:g} '
            f'{x2:g},{y2 - 4:g}" fill="none" stroke="{FAINT}" '
            f'stroke-width="{width:.1f}"/>'
        )
        label = f"{link.bytes_per_s / GB:,.3g} GB/s"
        at = middle[0], (y1 + y2) / 4 + middle[1] / 2 - 3
        parts.append(text_at(*at, label, fill="#555555", anchor="middle"))
    return parts


def _colours(marks: Mapping[int, GpuMark]) -> dict[str, str]:
    """A shade for each pool, within the hue of its kind."""
    seen: dict[str, int] = {}
    colours = {}
    for pool, (kind, _) in pools_of(marks).items():
        palette = PALETTES[kind]
        colours[pool] = palette[seen.get(kind, 0) % len(palette)]
        seen[kind] = seen.get(kind, 0) + 1
    return colours


def _legend_rows(
    marks: Mapping[int, GpuMark], colours: Mapping[str, str], num_gpus: int
) -> list[tuple[str, str]]:
    """Colour and meaning of every pool, and of idle GPUs if there are any."""
    rows = [
        (colours[pool], f"{pool}: {_gpus(num)}")
        for pool, (_, num) in pools_of(marks).items()
    ]
    idle = num_gpus - len(marks)
    return [*rows, (IDLE, f"idle: {_gpus(idle)}")] if idle else rows


def _legend(
    rows: Sequence[tuple[str, str]], top: float, width: float
) -> tuple[list[str], float]:
    """The legend, its lines folded to the picture's width, and its height."""
    left = MARGIN + 19
    letters = int((width - left - MARGIN) / LETTER)
    parts = []
    y = top
    for colour, text in rows:
        box = Box(left=MARGIN, top=y, width=12, height=12)
        parts.append(rect_of(box, fill=colour, radius=2))
        for line in textwrap.wrap(text, letters):
            parts.append(text_at(left, y + 10, line, size_px=12))
            y += 15
        y += 3
    return parts, y - top + 8


def _gpus(num: int) -> str:
    return f"{num:,} GPU" + ("" if num == 1 else "s")


def _frame(boxes: Sequence[Box]) -> str:
    """A thin frame around the GPUs of an NVLink island, row by row."""
    parts = []
    for top in sorted({box.top for box in boxes}):
        row = [box for box in boxes if box.top == top]
        left = min(box.left for box in row)
        right = max(box.left + box.width for box in row)
        frame = Box(
            left=left - 2, top=top - 2, width=right - left + 4, height=row[0].height + 4
        )
        parts.append(rect_of(frame, fill="none", stroke="#76b900", radius=3))
    return "".join(parts)
