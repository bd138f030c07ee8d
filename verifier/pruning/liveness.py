"""Which registers may still be read: a backward walk over each function, before exploring.

A register is live at a pc if some path from there reads it before writing it. What a dead
register holds can not matter, so states that differ there only count as equal.
"""

from __future__ import annotations

from array import array

from pybpfvm.helpers.table import HELPERS
from pybpfvm.isa.codec import target_pc
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import AluOp, AtomicOp, Kind, Operand
from pybpfvm.verifier.environment import Environment

_ARGUMENTS = 0b111110  # r1 to r5
_CLOBBERED = 0b111111  # r0 to r5
_ENDS = frozenset({Kind.EXIT, Kind.GOTO})
_JUMPS = frozenset({Kind.JUMP, Kind.GOTO, Kind.MAY_GOTO})
_ALL = (1 << 10) - 1
_MOVES = frozenset({AluOp.MOV, AluOp.MOVSX8, AluOp.MOVSX16, AluOp.MOVSX32})


class Liveness:
    """Live registers, r10 left out. Functions are assumed to be structurally sound."""

    def __init__(self, env: Environment) -> None:
        self._masks = _live(env)
        self._numbers: dict[int, tuple[int, ...]] = {
            mask: tuple(n for n in range(10) if mask >> n & 1) for mask in set(self._masks)
        }
        for mask in list(self._numbers):
            kept = mask & ~_CLOBBERED
            self._numbers[kept] = tuple(n for n in range(10) if kept >> n & 1)

    def at(self, pc: int) -> tuple[int, ...]:
        """Registers live before the instruction at `pc`."""
        return self._numbers[self._masks[pc]]

    def across(self, call_pc: int) -> tuple[int, ...]:
        """Registers of a caller that are live while the function called at `call_pc` runs."""
        return self._numbers[self._masks[call_pc + 1] & ~_CLOBBERED]


def _live(env: Environment) -> array[int]:
    """A mask for each slot of the program (and one behind it). Plain arrays: programs have up to a
    million instructions."""
    slots = env.program.slots
    live = array("H", bytes(2 * (slots + 1)))
    uses, defines = array("H", live), array("H", live)
    target = array("i", [-1]) * (slots + 1)  # where a jump leads, or a call
    follows = array("i", [-1]) * (slots + 1)  # what an instruction may go on to, the slot behind it
    sources: dict[int, list[int]] = {}
    calls = bytearray(slots + 1)
    for pc, insn in env.code.items():
        uses[pc], defines[pc] = _use_and_define(env, insn)
        kind = insn.spec.kind
        if kind not in _ENDS:
            follows[pc] = pc + insn.slots
        to = target_pc(insn, pc) if kind in _JUMPS or kind is Kind.CALL_LOCAL else None
        if to is not None:
            target[pc] = to
            calls[pc] = kind is Kind.CALL_LOCAL
            sources.setdefault(to, []).append(pc)
    work = array("i", env.code)
    queued = bytearray(b"\1") * (slots + 1)
    while work:
        pc = work.pop()
        queued[pc] = 0
        out = live[follows[pc]] if follows[pc] >= 0 else 0
        used, to = uses[pc], target[pc]
        if to >= 0:
            if calls[pc]:
                used = live[to] & _ARGUMENTS
            else:
                out |= live[to]
        new = used | (out & ~defines[pc])
        if new == live[pc]:
            continue
        live[pc] = new
        for other in (pc - 1, pc - 2, *sources.get(pc, ())):
            if other >= 0 and not queued[other] and (follows[other] == pc or target[other] == pc):
                queued[other] = 1
                work.append(other)
    return live


def _use_and_define(env: Environment, insn: Insn) -> tuple[int, int]:
    """Masks of the registers that an instruction reads, and of those it surely overwrites."""
    kind, dst, src = insn.spec.kind, 1 << insn.dst & _ALL, 1 << insn.src & _ALL
    if kind is Kind.ALU:
        read = src if insn.spec.operand is Operand.X else 0
        return (read if insn.spec.op in _MOVES else read | dst), dst
    if kind is Kind.JUMP:
        return dst | (src if insn.spec.operand is Operand.X else 0), 0
    if kind in (Kind.LDX, Kind.LDSX, Kind.LOAD_ACQ):
        return src, dst
    if kind is Kind.ST:
        return dst, 0
    if kind in (Kind.STX, Kind.STORE_REL):
        return dst | src, 0
    if kind is Kind.ATOMIC:
        if insn.spec.op is AtomicOp.CMPXCHG:
            return dst | src | 1, 0
        return dst | src, 0
    if kind is Kind.LDDW:
        return 0, dst
    if kind is Kind.EXIT:
        return 1, 0
    if kind is Kind.CALL:
        helper = HELPERS.get(env.profile.helpers.get(insn.imm, ""))
        profile = env.profile
        args = None if helper is None else helper.args_for(profile.name, profile.attach_type)
        count = 5 if args is None else len(args)
        return ((1 << count) - 1) << 1, _CLOBBERED
    if kind is Kind.CALL_KFUNC:
        return _ARGUMENTS, _CLOBBERED
    if kind is Kind.CALL_LOCAL:
        return 0, _CLOBBERED
    if kind in (Kind.LD_ABS, Kind.LD_IND):
        return 1 << 6 | (src if kind is Kind.LD_IND else 0), _CLOBBERED
    if kind in (Kind.GOTO, Kind.MAY_GOTO):
        return 0, 0
    return _ALL, 0
