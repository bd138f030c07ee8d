"""Places for the blocks of one function, in layers from top to bottom.

Sugiyama, Tagawa, Toda, "Methods for Visual Understanding of Hierarchical System Structures",
1981, in its simplest form: back edges set aside, longest paths give the layers, barycentres the
order inside a layer, and the x coordinates are the least-squares ones that keep that order.
Edges over several layers pass through joints, narrow places in the layers between; the edges to
one block share its joints, so that twenty jumps to one exit are one trunk and not twenty lines.
Lengths are in the units of the picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pybpfvm.errors import InputError

MAX_JOINTS = 20_000

_SWEEPS = 8
_NODE_GAP = 36.0
_JOINT_GAP = 18.0
_JOINT_WEIGHT = 4.0


@dataclass(slots=True)
class Node:
    """A block (`key` >= 0), or a joint of the trunk to a block (`key` < 0)."""

    key: int
    layer: int
    width: float
    height: float
    x: float = 0.0  # of the centre
    y: float = 0.0  # of the top

    @property
    def is_joint(self) -> bool:
        """Whether edges only pass through."""
        return self.key < 0


@dataclass(frozen=True, slots=True)
class Layout:
    """`layers` hold the nodes from left to right; `routes` name, for every forward edge
    (source, target), the joints it passes, and `bottoms` the lower edge of each layer."""

    nodes: Mapping[int, Node]
    layers: Sequence[Sequence[Node]]
    routes: Mapping[tuple[int, int], Sequence[Node]]
    tops: Sequence[float]
    bottoms: Sequence[float]


def layout(
    sizes: Mapping[int, tuple[float, float]],
    edges: Iterable[tuple[int, int]],
    gap: float,
) -> Layout:
    """Place the blocks whose (width, height) are `sizes`, `gap` apart from layer to layer.

    `edges` has no cycles. Raises InputError when more than `MAX_JOINTS` joints would be needed.
    """
    links = sorted(set(edges))
    depth = _layers(sizes, links)
    nodes = {key: Node(key, depth[key], *size) for key, size in sizes.items()}
    layers: list[list[Node]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for key in sizes:
        layers[depth[key]].append(nodes[key])
    routes = _joints(nodes, layers, links)
    up, down = _neighbours(nodes, links, routes)
    _order(layers, up, down)
    _set_x(layers, up, down)
    tops, bottoms = [], []
    y = 0.0
    for layer in layers:
        height = max(node.height for node in layer)
        for node in layer:
            node.y = y
        tops.append(y)
        bottoms.append(y + height)
        y += height + gap
    return Layout(nodes, layers, routes, tops, bottoms)


def _layers(keys: Iterable[int], links: Sequence[tuple[int, int]]) -> dict[int, int]:
    """The length of the longest path to each block."""
    depth = dict.fromkeys(keys, 0)
    missing = dict.fromkeys(depth, 0)
    after: dict[int, list[int]] = {key: [] for key in depth}
    for source, target in links:
        after[source].append(target)
        missing[target] += 1
    ready = [key for key, count in missing.items() if not count]
    while ready:
        key = ready.pop()
        for target in after[key]:
            depth[target] = max(depth[target], depth[key] + 1)
            missing[target] -= 1
            if not missing[target]:
                ready.append(target)
    return depth


def _joints(
    nodes: Mapping[int, Node], layers: list[list[Node]], links: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], list[Node]]:
    """Add the joints to `layers`; which of them each edge passes."""
    trunks: dict[int, list[Node]] = {}  # target -> joints, from the one above the target upwards
    routes = {}
    made = 0
    for source, target in links:
        trunk = trunks.setdefault(target, [])
        last = nodes[target].layer
        length = last - nodes[source].layer - 1
        while len(trunk) < length:
            made += 1
            if made > MAX_JOINTS:
                raise InputError(
                    "the graph has too many long edges to be drawn",
                    remedy="--cfg text lists the blocks of graphs of any size",
                )
            joint = Node(-made, last - 1 - len(trunk), 2.0, 0.0)
            trunk.append(joint)
            layers[joint.layer].append(joint)
        routes[source, target] = trunk[:length][::-1]
    return routes


_Links = dict[int, list[Node]]


def _neighbours(
    nodes: Mapping[int, Node],
    links: Sequence[tuple[int, int]],
    routes: Mapping[tuple[int, int], Sequence[Node]],
) -> tuple[_Links, _Links]:
    """Above and below every node, the nodes that it is connected to."""
    pairs: dict[tuple[int, int], tuple[Node, Node]] = {}
    for source, target in links:
        path = [nodes[source], *routes[source, target], nodes[target]]
        for a, b in pairwise(path):
            pairs[a.key, b.key] = a, b
    up: _Links = {}
    down: _Links = {}
    for a, b in pairs.values():
        down.setdefault(a.key, []).append(b)
        up.setdefault(b.key, []).append(a)
    return up, down


def _order(layers: list[list[Node]], up: _Links, down: _Links) -> None:
    """Sort each layer by the mean place of its neighbours, downwards and upwards in turn."""
    place = {node.key: float(i) for layer in layers for i, node in enumerate(layer)}
    for sweep in range(_SWEEPS):
        links = down if sweep % 2 else up
        for layer in reversed(layers) if sweep % 2 else layers:
            wish = {
                node.key: _mean([place[n.key] for n in links.get(node.key, ())], place[node.key])
                for node in layer
            }
            keyed = sorted((wish[node.key], place[node.key], node.key) for node in layer)
            by_key = {node.key: node for node in layer}
            layer[:] = [by_key[key] for _, _, key in keyed]
            for i, node in enumerate(layer):
                place[node.key] = float(i)


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _set_x(layers: Sequence[Sequence[Node]], up: _Links, down: _Links) -> None:
    """Pull every node towards its neighbours, keeping order and distance; leftmost edge at 0."""
    for layer in layers:
        _settle(layer, [0.0] * len(layer))
    for sweep in range(2 * _SWEEPS):
        last = sweep >= 2 * _SWEEPS - 2
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wishes = []
            for node in layer:
                near = up.get(node.key, []) if sweep % 2 == 0 else down.get(node.key, [])
                if last:
                    near = up.get(node.key, []) + down.get(node.key, [])
                wishes.append(_mean([n.x for n in near], node.x))
            _settle(layer, wishes)
    left = min((n.x - n.width / 2 for layer in layers for n in layer), default=0.0)
    for layer in layers:
        for node in layer:
            node.x -= left


def _settle(layer: Sequence[Node], wishes: Sequence[float]) -> None:
    """The places nearest to `wishes` (weighted least squares) that keep order and distances.

    Minus the distances this is isotonic regression: pool adjacent violators.
    """
    offsets = [0.0]
    for a, b in pairwise(layer):
        gap = _JOINT_GAP if a.is_joint or b.is_joint else _NODE_GAP
        offsets.append(offsets[-1] + (a.width + b.width) / 2 + gap)
    pools: list[tuple[float, float, int]] = []  # mean, weight, members
    for node, wish, offset in zip(layer, wishes, offsets, strict=True):
        mean, weight, members = wish - offset, _JOINT_WEIGHT if node.is_joint else 1.0, 1
        while pools and pools[-1][0] > mean:
            other, more, count = pools.pop()
            mean = (mean * weight + other * more) / (weight + more)
            weight, members = weight + more, members + count
        pools.append((mean, weight, members))
    index = 0
    for mean, _, members in pools:
        for _ in range(members):
            layer[index].x = mean + offsets[index]
            index += 1
