"""The graph for a terminal: blocks in the order of the code, each with where it leads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pybpfvm.cfg.graph import Block, Cfg, Edge, EdgeKind
from pybpfvm.cfg.rows import BlockRows

_MOST_PREDECESSORS = 6


def lines(cfg: Cfg, *, source: bool = True) -> Iterator[str]:
    """The graph as lines of text; `source` shows the C lines."""
    rows = BlockRows(cfg, source=source)
    heads = cfg.loop_heads()
    into = cfg.predecessors()
    yield f"{cfg.program.name}  ({cfg.program.section}, {cfg.program.slots} slots)"
    for function in cfg.functions:
        blocks = cfg.blocks[function.first : function.last]
        loops = sum(block.index in heads for block in blocks)
        yield ""
        yield f"{function.name}: {_count(len(blocks), 'block')}, {_count(loops, 'loop')}"
        for block in blocks:
            yield ""
            entry = block.index == function.first
            yield f"┌ B{block.index}{_notes(cfg, block, into[block.index], heads, entry=entry)}"
            for row in rows(block):
                if row.pc is None:
                    yield f"│       ; {row.text} @ {row.source}"
                else:
                    yield f"│ {row.pc:5}: {row.text}"
            yield f"└─ {_exits(cfg, block)}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _notes(
    cfg: Cfg, block: Block, into: Sequence[Edge], heads: frozenset[int], *, entry: bool
) -> str:
    notes = []
    if entry:
        notes.append(f"entry of {cfg.functions[block.function].name}")
    if block.index in heads:
        notes.append("loop head")
    for kind, words in (
        (EdgeKind.CALL, "called from"),
        (EdgeKind.CALLBACK, "callback of"),
        (None, "from"),
    ):
        sources = [
            f"B{edge.source}" + (" (loop)" if edge.back else "")
            for edge in into
            if (edge.kind is kind if kind else edge.kind in (EdgeKind.FALLTHROUGH, EdgeKind.TAKEN))
        ]
        if sources:
            more = len(sources) - _MOST_PREDECESSORS
            shown = ", ".join(sources[:_MOST_PREDECESSORS])
            notes.append(f"{words} {shown}" + (f" and {more:,} more" if more > 0 else ""))
    if not block.reachable:
        notes.append("unreachable")
    return "".join(f"  · {note}" for note in notes)


def _exits(cfg: Cfg, block: Block) -> str:
    words = []
    branches = [
        e for e in cfg.successors[block.index] if e.kind in (EdgeKind.TAKEN, EdgeKind.FALLTHROUGH)
    ]
    for edge in branches:
        arrow = "↺" if edge.back else "→"
        when = ""
        if len(branches) == 2 or block.falls_off:
            when = " if taken" if edge.kind is EdgeKind.TAKEN else " else"
        words.append(f"{arrow} B{edge.target}{when}")
    if block.falls_off:
        words.append("past the end of the code")
    elif not branches:
        words.append("exit")
    for edge in cfg.successors[block.index]:
        if edge.kind in (EdgeKind.CALL, EdgeKind.CALLBACK):
            name = cfg.functions[cfg.blocks[edge.target].function].name
            verb = "calls" if edge.kind is EdgeKind.CALL else "passes"
            words.append(f"{verb} {name} (B{edge.target}) at {edge.pc}")
    return "   ".join(words)
