"""A program made ready for the interpreter: instructions to steps, once, at first use."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

from pybpfvm.bits import U64
from pybpfvm.errors import TrapKind
from pybpfvm.helpers.proto import ArgType, Helper
from pybpfvm.image import Image
from pybpfvm.isa.codec import pcs, target_pc
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import FRAME_POINTER, AluOp, AtomicOp, JmpOp, Kind, Operand
from pybpfvm.isa.semantics import (
    CONCRETE_ALU,
    CONCRETE_ALU_BIG_ENDIAN,
    CONCRETE_ATOMIC,
    CONCRETE_JMP,
    FETCHES,
)
from pybpfvm.program import Program
from pybpfvm.vm import operations
from pybpfvm.vm.step import Handler, Step

HANDLERS: Mapping[Kind, Handler] = {
    Kind.ALU: operations.alu_k,
    Kind.ADDR_SPACE_CAST: operations.refuse,
    Kind.JUMP: operations.jump_k,
    Kind.GOTO: operations.goto,
    Kind.MAY_GOTO: operations.may_goto,
    Kind.CALL: operations.call,
    Kind.CALL_LOCAL: operations.call_local,
    Kind.CALL_KFUNC: operations.refuse,
    Kind.EXIT: operations.leave,
    Kind.LDX: operations.ldx,
    Kind.LDSX: operations.ldsx,
    Kind.ST: operations.st,
    Kind.STX: operations.stx,
    Kind.ATOMIC: operations.atomic,
    Kind.LOAD_ACQ: operations.load_acquire,
    Kind.STORE_REL: operations.store_release,
    Kind.LDDW: operations.lddw,
    Kind.LD_ABS: operations.ld_abs,
    Kind.LD_IND: operations.ld_ind,
}
# Those of them whose operand may be a register.
REGISTER_HANDLERS: Mapping[Kind, Handler] = {
    Kind.ALU: operations.alu_x,
    Kind.JUMP: operations.jump_x,
}

_WRITES_DST = frozenset({Kind.ALU, Kind.LDX, Kind.LDSX, Kind.LOAD_ACQ, Kind.LDDW})
_ENDS = frozenset({Kind.EXIT, Kind.GOTO})


def prepare(program: Program, image: Image, helpers: Mapping[int, Helper]) -> list[Step]:
    """The steps of `program`, indexed by pc.

    What is wrong with an instruction shows when it is executed, not here. Raises InputError for
    an `lddw` whose map or function the image does not have.
    """
    starts = pcs(program.insns)
    functions = _function_starts(program, starts)
    steps = [
        _step(program, image, helpers, insn, pc)
        for pc, insn in zip(starts, program.insns, strict=True)
    ]
    table: list[Step] = []
    for step in steps:
        # The hole behind an lddw is never an index; any step may fill it.
        table.extend([step] * step.insn.slots)
    valid = set(starts)

    def place(step: Step, pc: int, *, is_call: bool = False) -> int:
        """Index of the step at `pc`, or of a new way out of the program if none may be there."""
        same = bisect_right(functions, pc) == bisect_right(functions, step.pc)
        if pc in valid and (pc in functions if is_call else same):
            return pc
        where = "another function" if pc in valid else "no instruction"
        way_out = Step(operations.refuse, step.insn, step.pc)
        way_out.meaning = (TrapKind.BAD_PC, f"pc {pc} is {where}")
        table.append(way_out)
        return len(table) - 1

    for step in steps:
        kind = step.insn.spec.kind
        if kind not in _ENDS:
            step.next = place(step, step.pc + step.insn.slots)
        target = target_pc(step.insn, step.pc)
        if target is not None and kind is not Kind.LDDW:
            step.target = place(step, target, is_call=kind is Kind.CALL_LOCAL)
    return table


def _function_starts(program: Program, starts: list[int]) -> list[int]:
    """Where functions begin: those that the object names, and whatever is called."""
    found = {0, *(sub.start for sub in program.subprogs)}
    for pc, insn in zip(starts, program.insns, strict=True):
        if insn.spec.kind in (Kind.CALL_LOCAL, Kind.LDDW):
            target = target_pc(insn, pc)
            if target is not None:
                found.add(target)
    return sorted(found)


def _step(
    program: Program, image: Image, helpers: Mapping[int, Helper], insn: Insn, pc: int
) -> Step:
    spec = insn.spec
    by_register = spec.operand is Operand.X and spec.kind in REGISTER_HANDLERS
    handler = (REGISTER_HANDLERS if by_register else HANDLERS)[spec.kind]
    step = Step(handler, insn, pc)
    step.imm = insn.imm & U64
    step.width = spec.size if spec.size is not None else spec.width
    if isinstance(spec.op, AluOp):
        table = CONCRETE_ALU_BIG_ENDIAN if program.big_endian else CONCRETE_ALU
        step.meaning = table[spec.op]
    elif isinstance(spec.op, JmpOp):
        step.meaning = CONCRETE_JMP[spec.op]
    elif isinstance(spec.op, AtomicOp):
        step.meaning = CONCRETE_ATOMIC[spec.op]
    elif spec.kind is Kind.LDDW:
        step.imm = image.constant(program, pc, insn)
    elif spec.kind is Kind.CALL:
        _bind_helper(step, helpers)
    elif handler is operations.refuse:
        step.meaning = (TrapKind.UNSUPPORTED, spec.kind.value)
    if _written(insn) == FRAME_POINTER:
        step.handler = operations.refuse
        step.meaning = (TrapKind.BAD_INSN, "the frame pointer r10 is read-only")
    return step


def _bind_helper(step: Step, helpers: Mapping[int, Helper]) -> None:
    helper = helpers.get(step.insn.imm)
    if helper is None:
        step.handler = operations.refuse
        step.meaning = (TrapKind.BAD_HELPER, f"helper {step.insn.imm}")
    elif helper.impl is None:
        step.handler = operations.refuse
        step.meaning = (TrapKind.UNSUPPORTED, f"helper {helper.name}")
    else:
        ctx_args = [n for n, kind in enumerate(helper.args, 1) if kind is ArgType.PTR_TO_CTX]
        step.meaning = (helper, tuple(ctx_args))


def _written(insn: Insn) -> int | None:
    """The register that `insn` names to be written, r0 of calls aside."""
    if insn.spec.kind in _WRITES_DST:
        return insn.dst
    return insn.src if insn.spec.op in FETCHES else None
