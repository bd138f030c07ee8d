"""What every engine makes of a program's code before it runs it: its functions, which jumps leave
it, which instructions it refuses. Said once, so that engines stop for the same reasons.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

from pybpfvm.errors import TrapKind
from pybpfvm.helpers.proto import ArgType, Helper
from pybpfvm.isa.codec import pcs, target_pc
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import FRAME_POINTER, Kind
from pybpfvm.isa.semantics import FETCHES
from pybpfvm.program import Program

# Why an instruction is not executed: the kind of trap, and what to say.
Refusal = tuple[TrapKind, str]

_WRITES_DST = frozenset({Kind.ALU, Kind.LDX, Kind.LDSX, Kind.LOAD_ACQ, Kind.LDDW})
_NOT_EXECUTABLE = frozenset({Kind.ADDR_SPACE_CAST, Kind.CALL_KFUNC})


class Outline:
    """`starts`: the pc of each instruction; `functions`: the pcs where functions begin (those
    that the object names, and whatever is called), ascending; `framed`: those of them that name
    r10, so begin with a zeroed frame."""

    def __init__(self, program: Program) -> None:
        self.starts = pcs(program.insns)
        self._valid = frozenset(self.starts)
        found = {0, *(sub.start for sub in program.subprogs)}
        named: list[int] = []
        for pc, insn in zip(self.starts, program.insns, strict=True):
            if FRAME_POINTER in (insn.dst, insn.src):
                named.append(pc)
            if insn.spec.kind in (Kind.CALL_LOCAL, Kind.LDDW):
                target = target_pc(insn, pc)
                if target is not None:
                    found.add(target)
        self.functions = sorted(found)
        self.framed = frozenset(self.functions[self._function(pc)] for pc in named)

    def _function(self, pc: int) -> int:
        return bisect_right(self.functions, pc) - 1

    def astray(self, pc: int, target: int, *, is_call: bool = False) -> str | None:
        """Why control may not go from `pc` to `target`, None if it may."""
        if target not in self._valid:
            return f"pc {target} is no instruction"
        if is_call or self._function(target) == self._function(pc):
            return None
        return f"pc {target} is another function"


def written(insn: Insn) -> int | None:
    """The register that `insn` names to be written, r0 of calls aside."""
    if insn.spec.kind in _WRITES_DST:
        return insn.dst
    return insn.src if insn.spec.op in FETCHES else None


def refusal(insn: Insn, helpers: Mapping[int, Helper]) -> Refusal | None:
    """Why no engine executes the instruction, None if they do."""
    kind = insn.spec.kind
    if written(insn) == FRAME_POINTER:
        return TrapKind.BAD_INSN, "the frame pointer r10 is read-only"
    if kind in _NOT_EXECUTABLE:
        return TrapKind.UNSUPPORTED, kind.value
    if kind is Kind.CALL:
        helper = helpers.get(insn.imm)
        if helper is None:
            return TrapKind.BAD_HELPER, f"helper {insn.imm}"
        if helper.impl is None:
            return TrapKind.UNSUPPORTED, f"helper {helper.name}"
    return None


def context_arguments(helper: Helper) -> tuple[int, ...]:
    """The numbers (from 1) of the arguments that must be the context pointer."""
    return tuple(n for n, kind in enumerate(helper.args, 1) if kind is ArgType.PTR_TO_CTX)
