"""Basic blocks of a program, function by function, and the edges between them.

A basic block is a longest run of instructions that is entered only at its first and left only
at its last. Local calls do not end one: the callee comes back. Everything here takes time linear
in the code and does not recurse.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from pybpfvm.isa.codec import check_targets, pcs, target_pc
from pybpfvm.isa.disasm import Resolve
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind
from pybpfvm.program import Program


class EdgeKind(Enum):
    """How control goes from one block to another."""

    FALLTHROUGH = "fallthrough"  # on to the next instruction
    TAKEN = "taken"  # a jump, conditional or not
    CALL = "call"  # a local call, to the entry of a function
    CALLBACK = "callback"  # `lddw` of a function, which a helper may call


@dataclass(frozen=True, slots=True)
class Edge:
    """From block `source` to block `target` (indices), made by the instruction at `pc`.

    `back` marks the edges that close a loop: those to a block from which the depth-first walk
    of the function had come. Where a loop has several entries the walk's order decides which.
    """

    source: int
    target: int
    kind: EdgeKind
    pc: int
    back: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """A basic block: pcs [start, end) in slots, instructions [first, last) of the program.

    `reachable` says whether any path from the program's first instruction leads here, calls and
    callbacks included; `falls_off` that control would run past the end of the code.
    """

    index: int
    function: int
    start: int
    end: int
    first: int
    last: int
    reachable: bool = True
    falls_off: bool = False


@dataclass(frozen=True, slots=True)
class Function:
    """A function: its blocks are [first, last) of the graph's, the first is its entry."""

    name: str
    first: int
    last: int


class Cfg:
    """The control-flow graph of one program. Immutable once made.

    Raises InputError for a jump or call that leads nowhere. `resolve` gives instructions the
    names of what they refer to when the graph is shown.
    """

    def __init__(self, program: Program, *, resolve: Resolve | None = None) -> None:
        check_targets(program.insns, where=program.name)
        self.program = program
        self.resolve = resolve
        self.pcs: Sequence[int] = pcs(program.insns)
        made = _Maker(program, self.pcs)
        self.blocks = made.blocks
        self.functions = made.functions
        self.successors = made.successors  # per block, edges in the order of their pcs

    @property
    def edges(self) -> Iterator[Edge]:
        """All edges, by source block."""
        for edges in self.successors:
            yield from edges

    def predecessors(self) -> list[list[Edge]]:
        """The edges into each block."""
        into: list[list[Edge]] = [[] for _ in self.blocks]
        for edge in self.edges:
            into[edge.target].append(edge)
        return into

    def loop_heads(self) -> frozenset[int]:
        """The blocks that back edges lead to."""
        return frozenset(edge.target for edge in self.edges if edge.back)

    def insns(self, block: Block) -> Iterator[tuple[int, Insn]]:
        """The pcs and instructions of `block`."""
        for index in range(block.first, block.last):
            yield self.pcs[index], self.program.insns[index]

    def __repr__(self) -> str:
        return f"<Cfg of {self.program.name}: {len(self.blocks)} blocks>"

    def _repr_html_(self) -> str:
        from pybpfvm.cfg.svg import html

        return html(self)


_LEAVES = frozenset({Kind.JUMP, Kind.GOTO, Kind.MAY_GOTO, Kind.EXIT})
_NO_NEXT = frozenset({Kind.GOTO, Kind.EXIT})
_KIND_OF_EDGE = {
    Kind.JUMP: EdgeKind.TAKEN,
    Kind.GOTO: EdgeKind.TAKEN,
    Kind.MAY_GOTO: EdgeKind.TAKEN,
    Kind.CALL_LOCAL: EdgeKind.CALL,
    Kind.LDDW: EdgeKind.CALLBACK,
}
_INSIDE = frozenset({EdgeKind.FALLTHROUGH, EdgeKind.TAKEN})


# Where an edge leads, its kind, its pc: what an Edge is made of, before loops are known.
_Link = tuple[int, EdgeKind, int]


class _Maker:
    """Finds the leaders, cuts the code at them, links the pieces, finds loops and dead code."""

    def __init__(self, program: Program, starts: Sequence[int]) -> None:
        self._insns = program.insns
        self._starts = starts
        self.blocks: tuple[Block, ...] = ()
        self.functions: tuple[Function, ...] = ()
        self.successors: tuple[tuple[Edge, ...], ...] = ()
        if not self._insns:
            return
        # By list index, for the few instructions that name a place.
        self._targets = {
            index: target
            for index, insn in enumerate(self._insns)
            if insn.spec.kind in _KIND_OF_EDGE
            and (target := target_pc(insn, starts[index])) is not None
        }
        names = {0: program.name, **{sub.start: sub.name for sub in program.subprogs}}
        entries, leaders = self._leaders(set(names))
        cuts = [index for index, pc in enumerate(starts) if pc in leaders]
        self._pieces = list(pairwise([*cuts, len(self._insns)]))
        self._block_at = {starts[first]: number for number, first in enumerate(cuts)}
        links = [self._links(number) for number in range(len(cuts))]
        back = _back_links(links)
        self.successors = tuple(
            tuple(
                Edge(source, target, kind, pc, (source, number) in back)
                for number, (target, kind, pc) in enumerate(some)
            )
            for source, some in enumerate(links)
        )
        self.blocks = tuple(self._make_blocks(entries, _reachable(links)))
        bounds = [self._block_at[pc] for pc in sorted(entries)] + [len(cuts)]
        self.functions = tuple(
            Function(names.get(self.blocks[a].start, f"func_{self.blocks[a].start}"), a, b)
            for a, b in pairwise(bounds)
        )

    def _leaders(self, entries: set[int]) -> tuple[set[int], set[int]]:
        """The pcs where functions start and where blocks start."""
        leaders = {
            pc + 1
            for pc, insn in zip(self._starts, self._insns, strict=True)
            if insn.spec.kind in _LEAVES
        }
        for index, target in self._targets.items():
            jump = self._insns[index].spec.kind in _LEAVES
            (leaders if jump else entries).add(target)
        # A function that the object places inside an lddw or past the code starts no block.
        entries &= set(self._starts)
        return entries, leaders | entries

    def _links(self, number: int) -> list[_Link]:
        first, last = self._pieces[number]
        links = []
        for index in range(first, last):
            target = self._targets.get(index)
            if target is not None:
                kind = _KIND_OF_EDGE[self._insns[index].spec.kind]
                links.append((self._block_at[target], kind, self._starts[index]))
        if last < len(self._insns) and self._insns[last - 1].spec.kind not in _NO_NEXT:
            links.append((number + 1, EdgeKind.FALLTHROUGH, self._starts[last - 1]))
        return links

    def _make_blocks(self, entries: set[int], reachable: Sequence[int]) -> Iterator[Block]:
        function = -1
        for number, (first, last) in enumerate(self._pieces):
            start, tail = self._starts[first], self._insns[last - 1]
            function += start in entries
            yield Block(
                number,
                function,
                start,
                self._starts[last - 1] + tail.slots,
                first,
                last,
                reachable=bool(reachable[number]),
                falls_off=last == len(self._insns) and tail.spec.kind not in _NO_NEXT,
            )


def _back_links(links: Sequence[Sequence[_Link]]) -> set[tuple[int, int]]:
    """The (block, number of its link) that lead to a block still open in a depth-first walk.

    The walk follows jumps and fallthroughs, from every block not yet seen in order of pc, so
    each function's starts at its entry.
    """
    fresh, open_, closed = 0, 1, 2
    state = bytearray(len(links))
    back = set()
    for root in range(len(links)):
        if state[root] != fresh:
            continue
        state[root] = open_
        path = [(root, iter(enumerate(links[root])))]
        while path:
            block, rest = path[-1]
            for number, (target, kind, _) in rest:
                if kind not in _INSIDE:
                    continue
                if state[target] == open_:
                    back.add((block, number))
                elif state[target] == fresh:
                    state[target] = open_
                    path.append((target, iter(enumerate(links[target]))))
                    break
            else:
                state[block] = closed
                path.pop()
    return back


def _reachable(links: Sequence[Sequence[_Link]]) -> bytearray:
    """Per block, 1 if the first block leads to it."""
    seen = bytearray(len(links))
    seen[0] = 1
    work = [0]
    while work:
        for target, _, _ in links[work.pop()]:
            if not seen[target]:
                seen[target] = 1
                work.append(target)
    return seen
