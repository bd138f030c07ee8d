"""Which registers may still be read: a backward walk over each function, before exploring.

A register is live at a pc if some path from there reads it before writing it. What a dead
register holds can not matter, so states that differ there only count as equal.
"""

from __future__ import annotations

from collections.abc import Mapping

from pybpfvm.helpers.table import HELPERS
from pybpfvm.isa.codec import target_pc
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import AluOp, AtomicOp, Kind, Operand
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.structure import successors

_ARGUMENTS = 0b111110  # r1 to r5
_CLOBBERED = 0b111111  # r0 to r5
_ALL = (1 << 10) - 1
_MOVES = frozenset({AluOp.MOV, AluOp.MOVSX8, AluOp.MOVSX16, AluOp.MOVSX32})


class Liveness:
    """Live registers, r10 left out. Functions are assumed to be structurally sound."""

    def __init__(self, env: Environment) -> None:
        self._masks = _live(env)
        self._numbers: dict[int, tuple[int, ...]] = {
            mask: tuple(n for n in range(10) if mask >> n & 1) for mask in set(self._masks.values())
        }
        for mask in list(self._numbers):
            kept = mask & ~_CLOBBERED
            self._numbers[kept] = tuple(n for n in range(10) if kept >> n & 1)

    def at(self, pc: int) -> tuple[int, ...]:
        """Registers live before the instruction at `pc`."""
        return self._numbers[self._masks[pc]]

    def across(self, call_pc: int) -> tuple[int, ...]:
        """Registers of a caller that are live while the function called at `call_pc` runs."""
        return self._numbers[self._masks.get(call_pc + 1, 0) & ~_CLOBBERED]


def _live(env: Environment) -> Mapping[int, int]:
    uses: dict[int, int] = {}
    defines: dict[int, int] = {}
    before: dict[int, list[int]] = {pc: [] for pc in env.code}
    callers: dict[int, list[int]] = {}
    for pc, insn in env.code.items():
        uses[pc], defines[pc] = _use_and_define(env, insn)
        for successor in successors(env, pc):
            before[successor].append(pc)
        if insn.spec.kind is Kind.CALL_LOCAL:
            target = target_pc(insn, pc)
            assert target is not None
            callers.setdefault(target, []).append(pc)
    live = dict.fromkeys(env.code, 0)
    work = list(env.code)
    queued = set(work)
    while work:
        pc = work.pop()
        queued.discard(pc)
        out = 0
        for successor in successors(env, pc):
            out |= live[successor]
        used = uses[pc]
        insn = env.code[pc]
        if insn.spec.kind is Kind.CALL_LOCAL:
            target = target_pc(insn, pc)
            assert target is not None
            used = live[target] & _ARGUMENTS
        new = used | (out & ~defines[pc])
        if new == live[pc]:
            continue
        live[pc] = new
        for other in (*before[pc], *callers.get(pc, ())):
            if other not in queued:
                queued.add(other)
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
