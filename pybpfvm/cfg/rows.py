"""The lines a block is shown with: C source where it changes, then the instructions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pybpfvm.cfg.graph import Block, Cfg
from pybpfvm.errors import SourceLine
from pybpfvm.isa.disasm import format_insn


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a block: an instruction at `pc`, or a line of C (`pc` is None)."""

    text: str
    pc: int | None = None
    source: SourceLine | None = None


class BlockRows:
    """The rows of blocks, which must be asked for in order: the C line in force carries over."""

    def __init__(self, cfg: Cfg, *, source: bool = True) -> None:
        self._cfg = cfg
        self._lines = cfg.program.lines if source else {}
        self._function = -1
        self._line: SourceLine | None = None

    def __call__(self, block: Block) -> Iterator[Row]:
        if block.function != self._function:
            self._function, self._line = block.function, None
        shown: SourceLine | None = None
        for pc, insn in self._cfg.insns(block):
            self._line = line = self._lines.get(pc, self._line)
            if line is not None and (
                shown is None or (line.file, line.line) != (shown.file, shown.line)
            ):
                shown = line
                yield Row(" ".join(line.text.split()), source=line)
            yield Row(format_insn(insn, pc, resolve=self._cfg.resolve), pc)
