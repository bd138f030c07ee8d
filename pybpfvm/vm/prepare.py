"""A program made ready for the interpreter: instructions to steps, once, at first use."""

from __future__ import annotations

from collections.abc import Mapping

from pybpfvm.bits import U64
from pybpfvm.errors import TrapKind
from pybpfvm.helpers.proto import Helper
from pybpfvm.image import Image
from pybpfvm.isa.codec import target_pc
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import FRAME_POINTER, AluOp, JmpOp, Kind, Operand
from pybpfvm.isa.semantics import (
    CONCRETE_ALU,
    CONCRETE_ALU_BIG_ENDIAN,
    CONCRETE_JMP,
)
from pybpfvm.outline import REFUSABLE, context_arguments, outline_of, refusal
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

_ENDS = frozenset({Kind.EXIT, Kind.GOTO})
_LEADS = frozenset({Kind.JUMP, Kind.GOTO, Kind.MAY_GOTO, Kind.CALL_LOCAL})


def prepare(program: Program, image: Image, helpers: Mapping[int, Helper]) -> list[Step]:
    """The steps of `program`, indexed by pc.

    What is wrong with an instruction shows when it is executed, not here. Raises InputError for
    an `lddw` whose map or function the image does not have.
    """
    outline = outline_of(program)
    starts, framed = outline.starts, outline.framed
    steps = [
        _step(program, image, helpers, insn, pc)
        for pc, insn in zip(starts, program.insns, strict=True)
    ]
    table: list[Step] = []
    for step in steps:
        step.framed = step.pc in framed
        table.append(step)
        if step.insn.spec.kind is Kind.LDDW:
            table.append(step)  # the hole behind it is never an index; any step may fill it

    def place(step: Step, pc: int, *, is_call: bool = False) -> int:
        """Index of the step at `pc`, or of a new way out of the program if none may be there."""
        astray = outline.astray(step.pc, pc, is_call=is_call)
        if astray is None:
            return pc
        way_out = Step(operations.refuse, step.insn, step.pc)
        way_out.meaning = (TrapKind.BAD_PC, astray)
        table.append(way_out)
        return len(table) - 1

    others = {*outline.functions, len(table)}  # where what comes before does not lead
    for step in steps:
        kind = step.insn.spec.kind
        if kind not in _ENDS:
            behind = step.pc + (2 if kind is Kind.LDDW else 1)
            step.next = place(step, behind) if behind in others else behind
        if kind in _LEADS:
            target = target_pc(step.insn, step.pc)
            assert target is not None
            step.target = place(step, target, is_call=kind is Kind.CALL_LOCAL)
    return table


def _step(
    program: Program, image: Image, helpers: Mapping[int, Helper], insn: Insn, pc: int
) -> Step:
    spec = insn.spec
    kind, op = spec.kind, spec.op
    by_register = spec.operand is Operand.X and kind in REGISTER_HANDLERS
    step = Step((REGISTER_HANDLERS if by_register else HANDLERS)[kind], insn, pc)
    step.imm = insn.imm & U64
    step.width = spec.size if spec.size is not None else spec.width
    if kind is Kind.ALU:
        assert isinstance(op, AluOp)
        step.meaning = (CONCRETE_ALU_BIG_ENDIAN if program.big_endian else CONCRETE_ALU)[op]
    elif kind is Kind.JUMP:
        assert isinstance(op, JmpOp)
        step.meaning = CONCRETE_JMP[op]
    elif kind is Kind.LDDW:
        step.imm = image.constant(program, pc, insn)
    elif kind is Kind.CALL and insn.imm in helpers:
        helper = helpers[insn.imm]
        step.meaning = (helper, context_arguments(helper))
    if kind in REFUSABLE or insn.dst == FRAME_POINTER or insn.src == FRAME_POINTER:
        refused = refusal(insn, helpers)
        if refused is not None:
            step.handler = operations.refuse
            step.meaning = refused
    return step
