"""Which registers may still be read: a backward walk over each function, before exploring.

A register is live at a pc if some path from there reads it before writing it. What a dead
register holds can not matter, so states that differ there only count as equal.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping

from pybpfvm.helpers.table import HELPERS
from pybpfvm.isa.codec import target_pc
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import AluOp, AtomicOp, Kind, Operand
from pybpfvm.verifier.environment import Environment

_ARGUMENTS = 0b111110  # r1 to r5
_CLOBBERED = 0b111111  # r0 to r5
_ENDS = frozenset({Kind.EXIT, Kind.GOTO})
_JUMPS = (Kind.JUMP, Kind.GOTO, Kind.MAY_GOTO)
_ALL = (1 << 10) - 1
_MOVES = frozenset({AluOp.MOV, AluOp.MOVSX8, AluOp.MOVSX16, AluOp.MOVSX32})

# Registers that an instruction reads, and those that it surely overwrites.
Masks = tuple[int, int]

# By a mask: the registers in it.
_NUMBERS: list[tuple[int, ...]] = [()]
for _register in range(10):
    _NUMBERS += [(*lower, _register) for lower in _NUMBERS]


class Liveness:
    """Live registers, r10 left out. Functions are assumed to be structurally sound."""

    def __init__(self, env: Environment) -> None:
        self._masks = _live(env)

    def at(self, pc: int) -> tuple[int, ...]:
        """Registers live before the instruction at `pc`."""
        return _NUMBERS[self._masks[pc]]

    def across(self, call_pc: int) -> tuple[int, ...]:
        """Registers of a caller that are live while the function called at `call_pc` runs."""
        return _NUMBERS[self._masks[call_pc + 1] & ~_CLOBBERED]


def _live(env: Environment) -> array[int]:
    """A mask for each slot of the program (and one behind it). Plain arrays: programs have up to a
    million instructions."""
    slots = env.program.slots
    live = array("H", bytes(2 * (slots + 1)))
    uses, defines = array("H", live), array("H", live)
    target = array("i", [-1]) * (slots + 1)  # where a jump leads, or a call
    follows = array("i", [slots]) * (slots + 1)  # what an instruction may go on to, behind it
    sources: dict[int, list[int]] = {}
    calls = bytearray(slots + 1)
    code = env.code
    for kind, pcs in env.by_kind.items():
        masks, goes_on, after = _MASKS[kind], kind not in _ENDS, 2 if kind is Kind.LDDW else 1
        for pc in pcs:
            used, defined = masks(env, code[pc])
            uses[pc], defines[pc] = used & _ALL, defined & _ALL
            if goes_on:
                follows[pc] = pc + after
    for pc in env.pcs(*_JUMPS, Kind.CALL_LOCAL):
        to = target_pc(code[pc], pc)
        assert to is not None
        target[pc] = to
        calls[pc] = code[pc].spec.kind is Kind.CALL_LOCAL
        sources.setdefault(to, []).append(pc)
    work = array("i", env.code)
    queued = bytearray(b"\1") * (slots + 1)
    while work:
        pc = work.pop()
        queued[pc] = 0
        out = live[follows[pc]]
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
        if pc not in sources and queued[pc - 1] and queued[pc - 2]:
            continue
        for other in (pc - 1, pc - 2, *sources.get(pc, ())):
            if other >= 0 and not queued[other] and (follows[other] == pc or target[other] == pc):
                queued[other] = 1
                work.append(other)
    return live


def _alu(env: Environment, insn: Insn) -> Masks:
    read = 1 << insn.src if insn.spec.operand is Operand.X else 0
    return (read if insn.spec.op in _MOVES else read | 1 << insn.dst), 1 << insn.dst


def _jump(env: Environment, insn: Insn) -> Masks:
    return 1 << insn.dst | (1 << insn.src if insn.spec.operand is Operand.X else 0), 0


def _load(env: Environment, insn: Insn) -> Masks:
    return 1 << insn.src, 1 << insn.dst


def _store_immediate(env: Environment, insn: Insn) -> Masks:
    return 1 << insn.dst, 0


def _store(env: Environment, insn: Insn) -> Masks:
    return 1 << insn.dst | 1 << insn.src, 0


def _atomic(env: Environment, insn: Insn) -> Masks:
    return 1 << insn.dst | 1 << insn.src | (insn.spec.op is AtomicOp.CMPXCHG), 0


def _constant(env: Environment, insn: Insn) -> Masks:
    return 0, 1 << insn.dst


def _exit(env: Environment, insn: Insn) -> Masks:
    return 1, 0


def _helper_call(env: Environment, insn: Insn) -> Masks:
    profile = env.profile
    helper = HELPERS.get(profile.helpers.get(insn.imm, ""))
    args = None if helper is None else helper.args_for(profile.name, profile.attach_type)
    count = 5 if args is None else len(args)
    return ((1 << count) - 1) << 1, _CLOBBERED


def _kfunc_call(env: Environment, insn: Insn) -> Masks:
    return _ARGUMENTS, _CLOBBERED


def _local_call(env: Environment, insn: Insn) -> Masks:
    return 0, _CLOBBERED  # what the function reads is found where it is


def _packet_load(env: Environment, insn: Insn) -> Masks:
    return 1 << 6 | (1 << insn.src if insn.spec.kind is Kind.LD_IND else 0), _CLOBBERED


def _goto(env: Environment, insn: Insn) -> Masks:
    return 0, 0


_MASKS: Mapping[Kind, Callable[[Environment, Insn], Masks]] = {
    Kind.ALU: _alu,
    Kind.ADDR_SPACE_CAST: _load,
    Kind.JUMP: _jump,
    Kind.LDX: _load,
    Kind.LDSX: _load,
    Kind.LOAD_ACQ: _load,
    Kind.ST: _store_immediate,
    Kind.STX: _store,
    Kind.STORE_REL: _store,
    Kind.ATOMIC: _atomic,
    Kind.LDDW: _constant,
    Kind.EXIT: _exit,
    Kind.CALL: _helper_call,
    Kind.CALL_KFUNC: _kfunc_call,
    Kind.CALL_LOCAL: _local_call,
    Kind.LD_ABS: _packet_load,
    Kind.LD_IND: _packet_load,
    Kind.GOTO: _goto,
    Kind.MAY_GOTO: _goto,
}
