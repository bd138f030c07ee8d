"""The graph as one SVG that needs nothing else: no script, no font, no style from outside.

Each function is drawn in layers (`pybpfvm.cfg.layout`), the functions side by side; loops run up
along the left of their function, calls are dashed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from pybpfvm.cfg.graph import Block, Cfg, Edge, EdgeKind, Function
from pybpfvm.cfg.layout import Layout, Node, layout
from pybpfvm.cfg.rows import BlockRows, Row
from pybpfvm.errors import InputError

MAX_BLOCKS = 2_000

_CHAR = 7.25  # width of a character at 12 px
_ROW = 16.0
_HEAD = 18.0
_PAD = 8.0
_LAYER_GAP = 46.0
_LANE = 9.0
_MARGIN = 24.0
_TITLE = 34.0
_MOST_CHARS = 72
_MOST_ROWS = 48  # a longer block shows its first and last rows
_LAST_ROWS = 12

# Edge class -> colour, dash; the text of the legend.
_EDGES = {
    "taken": ("#1a5fb4", "", "taken"),
    "fall": ("#4a4a4a", "", "fallthrough"),
    "back": ("#c64600", "", "back edge (loop)"),
    "call": ("#813d9c", "5 3", "call"),
    "mixed": ("#7a8794", "", "several together"),
}


def svg(cfgs: Sequence[Cfg], *, source: bool = True) -> str:
    """One picture of the graphs, one below the other; `source` shows the C lines.

    Raises InputError for more than `MAX_BLOCKS` blocks, or edges too many to be routed.
    """
    blocks = sum(len(cfg.blocks) for cfg in cfgs)
    if blocks > MAX_BLOCKS:
        raise InputError(
            f"{blocks:,} blocks are too many for a picture (at most {MAX_BLOCKS:,})",
            where=cfgs[0].program.name,
            remedy="--cfg text lists the blocks of graphs of any size, or choose one program",
        )
    y = _MARGIN + _ROW
    width = 560.0
    parts: list[str] = []
    for cfg in cfgs:
        drawing = _Drawing(cfg, y, source)
        parts.append(drawing.text())
        y += drawing.height + _MARGIN
        width = max(width, drawing.width)
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{y:.0f}"'
            f' viewBox="0 0 {width:.0f} {y:.0f}" role="img" class="bpf-cfg">',
            f"<title>Control-flow graph of {_xml(', '.join(c.program.name for c in cfgs))}</title>",
            f"<style>{_style()}</style>",
            f"<defs>{''.join(map(_marker, _EDGES))}</defs>",
            f'<rect class="ground" width="{width:.0f}" height="{y:.0f}"/>',
            *_legend(cfgs),
            *parts,
            "</svg>\n",
        )
    )


def html(cfg: Cfg) -> str:
    """The picture for a notebook, or why there is none."""
    try:
        return f'<div style="overflow:auto">{svg([cfg])}</div>'
    except InputError as error:
        return f"<pre>{escape(str(error))}</pre>"


def _style() -> str:
    edges = "".join(
        f".bpf-cfg .e-{name}{{stroke:{colour};stroke-dasharray:{dash or 'none'};"
        f"marker-end:url(#bpf-cfg-{name})}}.bpf-cfg .trunk{{marker-end:none}}"
        for name, (colour, dash, _) in _EDGES.items()
    )
    return (
        ".bpf-cfg text{font:12px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;"
        "fill:#1c1c1c;white-space:pre}"
        ".bpf-cfg .ground{fill:#ffffff}"
        ".bpf-cfg .block{fill:#f7f8fa;stroke:#8a94a0}"
        ".bpf-cfg .head{fill:#e6eaef}"
        ".bpf-cfg .loop .block{stroke:#c64600;stroke-width:1.5}"
        ".bpf-cfg .loop .head{fill:#fbe3d3}"
        ".bpf-cfg .dead{opacity:.55}"
        ".bpf-cfg .dead .block{stroke-dasharray:4 3}"
        ".bpf-cfg .c{fill:#2a6b35}"
        ".bpf-cfg .pc{fill:#76808b}"
        ".bpf-cfg .note{fill:#55606c}"
        ".bpf-cfg .fn{font-size:15px;font-weight:bold}"
        ".bpf-cfg path{fill:none;stroke-width:1.4}" + edges
    )


def _marker(name: str) -> str:
    return (
        f'<marker id="bpf-cfg-{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8"'
        f' markerHeight="8" markerUnits="userSpaceOnUse" orient="auto">'
        f'<path d="M0 0L8 4L0 8Z" style="fill:{_EDGES[name][0]};stroke:none"/></marker>'
    )


def _class(edge: Edge) -> str:
    if edge.back:
        return "back"
    return {EdgeKind.FALLTHROUGH: "fall", EdgeKind.TAKEN: "taken"}.get(edge.kind, "call")


def _legend(cfgs: Sequence[Cfg]) -> Iterator[str]:
    drawn = {_class(edge) for cfg in cfgs for edge in cfg.edges}
    x = _MARGIN
    for name, (_, _, words) in _EDGES.items():
        if name not in drawn:
            continue
        yield f'<path class="e-{name}" d="M{x:.0f} 18H{x + 30:.0f}"/>'
        yield f'<text class="note" x="{x + 36:.0f}" y="22">{words}</text>'
        x += 60 + _CHAR * len(words)


@dataclass(slots=True)
class _Box:
    """A block with its text and, once placed, its node."""

    block: Block
    rows: list[Row]
    notes: str
    width: float
    height: float
    row_y: dict[int, float] = field(default_factory=dict)  # pc -> y of its row inside the box


class _Drawing:
    """One program, its functions side by side, the upper left corner at (0, `top`)."""

    def __init__(self, cfg: Cfg, top: float, source: bool) -> None:
        self._cfg = cfg
        self._heads = cfg.loop_heads()
        self._into = cfg.predecessors()
        self._lines: list[str] = []  # edges lie under the blocks
        self._shapes: list[str] = []
        self._place: dict[int, tuple[float, float]] = {}  # block -> middle of its upper edge
        self._calls: list[tuple[Edge, float, float]] = []  # with where they leave
        self._right: list[float] = []  # of each function
        self._top = top + _TITLE
        calls = sum(e.kind in (EdgeKind.CALL, EdgeKind.CALLBACK) for e in cfg.edges)
        # Calls run above the functions, each in a lane of its own as far as there is room.
        self._call_lanes = min(calls, 12)
        self._blocks_top = self._top + self._call_lanes * _LANE
        if len(cfg.functions) > 1:
            self._blocks_top += _TITLE
        self._rows = BlockRows(cfg, source=source)
        title = f"{cfg.program.name}  ({cfg.program.section}, {cfg.program.slots} slots)"
        self._shapes.append(_text(_MARGIN, top + 20, title, "fn"))
        x, bottom = _MARGIN, self._top
        for function in cfg.functions:
            x, low = self._function(function, x)
            bottom = max(bottom, low)
        self._draw_calls()
        self.width = max(x, _MARGIN * 2 + len(title) * _CHAR * 1.3)
        self.height = bottom - top

    def text(self) -> str:
        return "\n".join((*self._lines, *self._shapes))

    def _function(self, function: Function, left: float) -> tuple[float, float]:
        """Draw one function; the x after it and the y below it."""
        cfg = self._cfg
        boxes = {b.index: self._box(b) for b in cfg.blocks[function.first : function.last]}
        inside = [
            edge
            for key in boxes
            for edge in cfg.successors[key]
            if edge.kind in (EdgeKind.FALLTHROUGH, EdgeKind.TAKEN) and edge.target in boxes
        ]
        back = [edge for edge in inside if edge.back]
        forward = [edge for edge in inside if not edge.back]
        placed = layout(
            {key: (box.width, box.height) for key, box in boxes.items()},
            [(edge.source, edge.target) for edge in forward],
            _LAYER_GAP,
        )
        lanes = _lanes(back, placed)
        shift = left + (max(lanes.values(), default=-1) + 1) * _LANE + (_PAD if lanes else 0)
        for layer in placed.layers:
            for node in layer:
                node.x += shift
                node.y += self._blocks_top
        tops = [y + self._blocks_top for y in placed.tops]
        bottoms = [y + self._blocks_top for y in placed.bottoms]
        ports = _Ports(placed, forward, back)
        self._forward(placed, forward, ports, bottoms)
        for edge in back:
            x = _left_of_loop(edge, placed) - _PAD - lanes[edge] * _LANE
            self._back(edge, placed, ports, x, lanes[edge], tops, bottoms)
        for key, box in boxes.items():
            self._draw(box, placed.nodes[key])
        entry = placed.nodes[function.first]
        if len(cfg.functions) > 1:
            name_y = entry.y - _LANE * 2
            self._shapes.append(_text(entry.x - entry.width / 2, name_y, function.name, "fn"))
        right = max(n.x + n.width / 2 for n in placed.nodes.values())
        self._right.append(right)
        right = max(right, entry.x - entry.width / 2 + len(function.name) * _CHAR * 1.3)
        return right + _MARGIN * 2, bottoms[-1] + _LAYER_GAP / 2

    def _box(self, block: Block) -> _Box:
        rows = list(self._rows(block))
        if len(rows) > _MOST_ROWS:
            hidden = len(rows) - _MOST_ROWS
            between = Row(f"… {hidden:,} more lines …")
            rows = [*rows[: _MOST_ROWS - _LAST_ROWS], between, *rows[-_LAST_ROWS:]]
        last = self._cfg.pcs[block.last - 1]
        where = f"{block.start}–{last}" if last > block.start else f"{block.start}"
        notes = [f"B{block.index}  {where}"]
        if block.index in self._heads:
            notes.append("loop head")
        if not block.reachable:
            notes.append("unreachable")
        if block.falls_off:
            notes.append("runs past the end of the code")
        head = " · ".join(notes)
        longest = max(len(head), *(min(len(_row_text(row)), _MOST_CHARS) for row in rows))
        height = _HEAD + _ROW * len(rows) + _PAD
        return _Box(block, rows, head, longest * _CHAR + 2 * _PAD, height)

    def _draw(self, box: _Box, node: Node) -> None:
        block = box.block
        x, y = node.x - node.width / 2, node.y
        self._place[block.index] = (node.x, y)
        state = "loop" if block.index in self._heads else ""
        state += "" if block.reachable else " dead"
        size = f'x="{x:.1f}" y="{y:.1f}" width="{node.width:.1f}"'
        out = [
            f'<g class="{state.strip()}">',
            f'<rect class="block" {size} height="{node.height:.1f}" rx="3"/>',
            f'<rect class="head" x="{x + 1:.1f}" y="{y + 1:.1f}" width="{node.width - 2:.1f}"'
            f' height="{_HEAD - 2:.1f}" rx="2"/>',
            _text(x + _PAD, y + 13, box.notes, "note"),
        ]
        at = y + _HEAD + 12
        for row in box.rows:
            out.append(_row(x + _PAD, at, row))
            if row.pc is not None:
                box.row_y[row.pc] = at - 4
            at += _ROW
        out.append("</g>")
        self._shapes += out
        for edge in self._cfg.successors[block.index]:
            inner = edge.kind in (EdgeKind.FALLTHROUGH, EdgeKind.TAKEN)
            if not inner or self._cfg.blocks[edge.target].function != block.function:
                leave = box.row_y.get(edge.pc, y + node.height / 2)
                self._calls.append((edge, x + node.width, leave))

    def _forward(
        self, placed: Layout, edges: Sequence[Edge], ports: _Ports, bottoms: Sequence[float]
    ) -> None:
        """Draw forward edges; the trunk that several share is drawn once."""
        trunk: dict[tuple[int, int], set[str]] = {}
        segments: dict[tuple[int, int], tuple[Node, Node]] = {}
        for edge in edges:
            source, target = placed.nodes[edge.source], placed.nodes[edge.target]
            joints = placed.routes[edge.source, edge.target]
            name = _class(edge)
            x = ports.leave[edge]
            start = f"M{x:.1f} {source.y + source.height:.1f}V{bottoms[source.layer]:.1f}"
            if not joints:
                end_x = ports.enter[edge.target, edge.source]
                curve = _curve(x, bottoms[source.layer], end_x, target.y)
                self._lines.append(f'<path class="e-{name}" d="{start}{curve}"/>')
                continue
            first = joints[0]
            curve = _curve(x, bottoms[source.layer], first.x, first.y)
            self._lines.append(f'<path class="e-{name} trunk" d="{start}{curve}"/>')
            for a, b in zip(joints, [*joints[1:], target], strict=True):
                trunk.setdefault((a.key, b.key), set()).add(name)
                segments[a.key, b.key] = a, b
        for pair, (a, b) in segments.items():
            names = trunk[pair]
            name = next(iter(names)) if len(names) == 1 else "mixed"
            end_x = b.x if b.is_joint else ports.enter[b.key, a.key]
            low = bottoms[a.layer]
            shape = f"M{a.x:.1f} {a.y:.1f}V{low:.1f}{_curve(a.x, low, end_x, b.y)}"
            kind = f"e-{name} trunk" if b.is_joint else f"e-{name}"
            self._lines.append(f'<path class="{kind}" d="{shape}"/>')

    def _back(
        self,
        edge: Edge,
        placed: Layout,
        ports: _Ports,
        lane_x: float,
        lane: int,
        tops: Sequence[float],
        bottoms: Sequence[float],
    ) -> None:
        """Draw a back edge: down from its block, left, up along the function, into the head."""
        source, target = placed.nodes[edge.source], placed.nodes[edge.target]
        step = 3.0 * (lane % 5)
        low = bottoms[source.layer] + 10 + step
        high = tops[target.layer] - 12 - step
        points = [
            (ports.leave[edge], source.y + source.height),
            (ports.leave[edge], low),
            (lane_x, low),
            (lane_x, high),
            (ports.enter[edge.target, None], high),
            (ports.enter[edge.target, None], target.y),
        ]
        self._lines.append(f'<path class="e-back" d="{_rounded(points)}"/>')

    def _draw_calls(self) -> None:
        """Draw calls from their row, up beside their function, and over to the one called."""
        for number, (edge, x, y) in enumerate(self._calls):
            to_x, to_y = self._place[edge.target]
            lane = number % max(self._call_lanes, 1)
            high = self._top + 4 + lane * _LANE
            out = self._right[self._cfg.blocks[edge.source].function] + 8 + lane * 3.0
            to_x += -6 + lane * 3.0
            points = [(x, y), (out, y), (out, high), (to_x, high), (to_x, to_y)]
            self._lines.append(f'<path class="e-call" d="{_rounded(points)}"/>')


class _Ports:
    """Where edges leave and enter blocks, side by side in the order of their other ends."""

    def __init__(self, placed: Layout, forward: Sequence[Edge], back: Sequence[Edge]) -> None:
        self.leave: dict[Edge, float] = {}
        self.enter: dict[tuple[int, int | None], float] = {}  # (block, from node; None: loops)
        leaving: dict[int, list[tuple[float, Edge]]] = {}
        entering: dict[int, set[tuple[float, int | None]]] = {}
        for edge in forward:
            joints = placed.routes[edge.source, edge.target]
            first = joints[0] if joints else placed.nodes[edge.target]
            last = joints[-1] if joints else placed.nodes[edge.source]
            leaving.setdefault(edge.source, []).append((first.x, edge))
            entering.setdefault(edge.target, set()).add((last.x, last.key))
        for edge in back:
            leaving.setdefault(edge.source, []).append((-1.0, edge))
            entering.setdefault(edge.target, set()).add((-1.0, None))
        for key, ends in leaving.items():
            ordered = sorted(ends, key=lambda end: (end[0], end[1].pc, end[1].kind.value))
            for place, (_, edge) in zip(
                _spread(placed.nodes[key], len(ordered)), ordered, strict=True
            ):
                self.leave[edge] = place
        for key, comers in entering.items():
            arrivals = sorted(comers, key=lambda end: (end[0], end[1] or 0))
            for place, (_, origin) in zip(
                _spread(placed.nodes[key], len(arrivals)), arrivals, strict=True
            ):
                self.enter[key, origin] = place


def _spread(node: Node, count: int) -> Iterator[float]:
    step = min(28.0, (node.width - 20) / max(count, 1))
    for number in range(count):
        yield node.x + (number - (count - 1) / 2) * step


def _lanes(back: Iterable[Edge], placed: Layout) -> dict[Edge, int]:
    """Lanes beside the function for its back edges: short loops inside, none over another."""
    spans = sorted(
        (placed.nodes[e.source].layer - placed.nodes[e.target].layer, e.source, e.pc, e.target, e)
        for e in back
    )
    taken: list[list[tuple[int, int]]] = []
    lanes = {}
    for _, _, _, _, edge in spans:
        high, low = placed.nodes[edge.target].layer, placed.nodes[edge.source].layer
        lane = next(
            (
                number
                for number, used in enumerate(taken)
                if all(low < a or b < high for a, b in used)
            ),
            len(taken),
        )
        if lane == len(taken):
            taken.append([])
        taken[lane].append((high, low))
        lanes[edge] = lane
    return lanes


def _left_of_loop(edge: Edge, placed: Layout) -> float:
    """The left side of all that lies between the two ends of a back edge."""
    head, tail = placed.nodes[edge.target].layer, placed.nodes[edge.source].layer
    between = placed.layers[head : tail + 1]
    return min(layer[0].x - layer[0].width / 2 for layer in between)


def _curve(x: float, y: float, to_x: float, to_y: float) -> str:
    middle = (y + to_y) / 2
    return f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}"


def _rounded(points: Sequence[tuple[float, float]], radius: float = 6.0) -> str:
    """A path along `points` with its corners rounded."""
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (ax, ay), (bx, by), (cx, cy) in zip(points, points[1:], points[2:], strict=False):
        before, after = abs(bx - ax) + abs(by - ay), abs(cx - bx) + abs(cy - by)
        r = min(radius, before / 2, after / 2)
        if before and after:
            path += f"L{bx + (ax - bx) * r / before:.1f} {by + (ay - by) * r / before:.1f}"
            path += f"Q{bx:.1f} {by:.1f} {bx + (cx - bx) * r / after:.1f}"
            path += f" {by + (cy - by) * r / after:.1f}"
    return f"{path}L{points[-1][0]:.1f} {points[-1][1]:.1f}"


def _row_text(row: Row) -> str:
    if row.source is not None:
        return f"{row.source.line}: {row.text}"
    return f"{row.pc:4}  {row.text}" if row.pc is not None else row.text


def _row(x: float, y: float, row: Row) -> str:
    whole = _row_text(row)
    shown = whole if len(whole) <= _MOST_CHARS else whole[: _MOST_CHARS - 1] + "…"
    tip = ""
    if row.source is not None:
        tip = f"<title>{_xml(f'{row.source}: {row.text}')}</title>"
    elif shown != whole:
        tip = f"<title>{_xml(whole)}</title>"
    if row.pc is not None:
        number, rest = shown[:4], shown[4:]
        body = f'<tspan class="pc">{_xml(number)}</tspan>{_xml(rest)}'
        return f'<text xml:space="preserve" x="{x:.1f}" y="{y:.1f}">{tip}{body}</text>'
    kind = "c" if row.source is not None else "note"
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{tip}{_xml(shown)}</text>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    body = _xml(text)
    return f'<text xml:space="preserve" class="{kind}" x="{x:.1f}" y="{y:.1f}">{body}</text>'


# What XML 1.0 can not hold, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _xml(text: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", text))
