"""Why a corpus stays shallow: the branches of a program that went one way only, and what lies
behind the other."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pybpfvm.isa.codec import pcs, target_pc
from pybpfvm.isa.disasm import format_insn
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind
from pybpfvm.program import Program


@dataclass(frozen=True, slots=True)
class Guard:
    """A branch of `program` at `pc` that was always or never `taken`, so that `behind` (pcs) was
    never reached through it."""

    program: Program
    pc: int
    insn: Insn
    taken: bool
    behind: frozenset[int]

    def __str__(self) -> str:
        line = self.program.line_at(self.pc)
        text = "" if line is None or not line.text else f" `{line.text.strip()}`"
        place = "" if line is None else f"{line}{text}, "
        often = "always" if self.taken else "never"
        count = len(self.behind)
        return (
            f"{place}pc {self.pc} `{format_insn(self.insn, self.pc)}`: {often} taken; "
            f"behind it {count} instruction{'s' if count != 1 else ''} "
            f"{'were' if count != 1 else 'was'} never executed{self._lines()}"
        )

    def _lines(self) -> str:
        """The lines of C that those are, as far as they are of the branch's file."""
        here = self.program.line_at(self.pc)
        found = {line for pc in self.behind if (line := self.program.line_at(pc)) is not None}
        numbers = sorted({one.line for one in found if here is not None and one.file == here.file})
        if not numbers:
            return ""
        first, last = numbers[0], numbers[-1]
        return f" (line {first})" if first == last else f" (lines {first} to {last})"


def guards(program: Program, executed: Collection[int]) -> list[Guard]:
    """The branches that were executed and went one way only, those with most behind them first.
    `executed` are pcs."""
    insns = dict(zip(pcs(program.insns), program.insns, strict=True))
    found = []
    for pc, insn in insns.items():
        if insn.spec.kind is not Kind.JUMP or pc not in executed:
            continue
        target = target_pc(insn, pc)
        assert target is not None
        for way, taken in ((target, False), (pc + 1, True)):
            behind = _behind(insns, way, executed)
            if behind:
                found.append(Guard(program, pc, insn, taken, behind))
    return sorted(found, key=lambda guard: (-len(guard.behind), guard.pc))


def _behind(insns: dict[int, Insn], start: int, executed: Collection[int]) -> frozenset[int]:
    """What can be reached from `start` without anything that was executed."""
    found: set[int] = set()
    ahead = [start]
    while ahead:
        pc = ahead.pop()
        insn = insns.get(pc)
        if insn is None or pc in executed or pc in found:
            continue
        found.add(pc)
        target = target_pc(insn, pc)
        if target is not None:
            ahead.append(target)
        if insn.spec.kind not in (Kind.GOTO, Kind.EXIT):
            ahead.append(pc + insn.slots)
    return frozenset(found)
