"""How many bytes the frame of a function has, which clang's DWARF needs and does not tell.

Code says it: the lowest place below r10 that the function names. So does DWARF: nothing lies past
the frame's end. The larger of the two is taken.
"""

from __future__ import annotations

from pybpfvm.bits import align_up
from pybpfvm.isa.codec import pcs
from pybpfvm.isa.opcodes import FRAME_POINTER, AluOp, Kind, Operand
from pybpfvm.program import Program, Subprog

_LOADS = frozenset({Kind.LDX, Kind.LDSX, Kind.LOAD_ACQ})
_STORES = frozenset({Kind.ST, Kind.STX, Kind.ATOMIC, Kind.STORE_REL})
_WRITES_DST = _LOADS | {Kind.ALU, Kind.LDDW}
_STACK_ALIGNMENT = 8


def frame_bytes(program: Program, function: Subprog) -> int:
    """The bytes below r10 that its code names, as whole 8-byte slots.

    One pass in the order of the code: of a register only what was added to r10 since it was copied
    counts, and where jumps lead to nothing is known.
    """
    targets = _targets(program)
    lowest = 0
    known: dict[int, int] = {}
    for pc, insn in zip(pcs(program.insns), program.insns):
        if not function.start <= pc < function.end:
            continue
        if pc in targets:
            known = {}
        kind, spec = insn.spec.kind, insn.spec
        known[FRAME_POINTER] = 0
        base = insn.src if kind in _LOADS else insn.dst if kind in _STORES else None
        if base is not None and base in known:
            lowest = min(lowest, known[base] + insn.off)
        if kind is Kind.ALU and spec.width == 64:
            if spec.op is AluOp.MOV and spec.operand is Operand.X and insn.src in known:
                known[insn.dst] = known[insn.src]
                continue
            if spec.op is AluOp.ADD and spec.operand is Operand.K and insn.dst in known:
                known[insn.dst] += insn.imm
                lowest = min(lowest, known[insn.dst])
                continue
        if kind in _WRITES_DST:
            known.pop(insn.dst, None)
        elif kind in (Kind.CALL, Kind.CALL_LOCAL, Kind.CALL_KFUNC):
            for register in range(6):
                known.pop(register, None)
    return align_up(-lowest, _STACK_ALIGNMENT)


def _targets(program: Program) -> set[int]:
    kinds = (Kind.JUMP, Kind.GOTO, Kind.MAY_GOTO)
    return {
        pc + 1 + insn.off
        for pc, insn in zip(pcs(program.insns), program.insns)
        if insn.spec.kind in kinds
    }
