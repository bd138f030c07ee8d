"""What arithmetic and moves do to registers, pointers among them.

`prepare` turns an instruction into a step once, so that the explorer's loop only calls it.
Numbers are the domains' business; here are moves, identities, and the rules of pointer arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable

from pybpfvm.bits import U32, U64, s32
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.notation import ALU_SIGN
from pybpfvm.isa.opcodes import FRAME_POINTER, AluOp, Operand, Pseudo
from pybpfvm.program import ARENA_PAGE_BYTES, MapType
from pybpfvm.verifier.checks import MAX_VAR_OFF, check_readable
from pybpfvm.verifier.domains.alu import transfer_of
from pybpfvm.verifier.domains.scalar import UNKNOWN32, Scalar, remembering
from pybpfvm.verifier.domains.word import S32_MIN, S64_MIN
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.kernelobjects import ksym
from pybpfvm.verifier.kernelobjects.kernelptr import SOCKETS
from pybpfvm.verifier.mapuse import check_map_for_sleepable
from pybpfvm.verifier.privileges.leaks import check_conceals
from pybpfvm.verifier.privileges.speculation import check_moved, is_masked, note_numbers
from pybpfvm.verifier.refusal import Refused, forbidden, unsupported
from pybpfvm.verifier.states.regstate import (
    NON_NULL,
    PACKET_TYPES,
    Pointer,
    Reg,
    RegType,
    Shift,
    Trust,
    mark_precise,
    scalar,
    shared,
    unknown,
)
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.verdict import Rule

Step = Callable[[State], None]

_SCALAR, _STACK, _FLOW_KEYS = (
    RegType.SCALAR_VALUE,
    RegType.PTR_TO_STACK,
    RegType.PTR_TO_FLOW_KEYS,
)
_MEM, _UNTRUSTED, _ARENA = RegType.PTR_TO_MEM, Trust.UNTRUSTED, RegType.PTR_TO_ARENA
_MOV, _ADD, _SUB, _NEG = AluOp.MOV, AluOp.ADD, AluOp.SUB, AluOp.NEG
_IMMEDIATE, _REGISTER = Operand.K, Operand.X
_SHIFTS = frozenset({AluOp.LSH, AluOp.RSH, AluOp.ARSH})
_DIVISIONS = frozenset({AluOp.DIV, AluOp.SDIV, AluOp.MOD, AluOp.SMOD})
_SIGN_EXTENDING = {AluOp.MOVSX8: 8, AluOp.MOVSX16: 16, AluOp.MOVSX32: 32}
_BITWISE = {AluOp.AND: "&=", AluOp.OR: "|=", AluOp.XOR: "^="}
_SWAPS = frozenset(op for op in AluOp if op.name.startswith(("LE", "BE", "BSWAP")))


def prepare_alu(env: Environment, insn: Insn, pc: int) -> Step:
    """The step of an ALU instruction."""
    op = insn.spec.op
    assert isinstance(op, AluOp)
    _check_immediate(insn, op)
    if insn.dst == FRAME_POINTER:
        return write_frame_pointer
    if op is _MOV or op in _SIGN_EXTENDING:
        if insn.spec.operand is _IMMEDIATE:
            return _move_constant(insn, pc)
        return _move(env, insn, pc, op)
    return _arithmetic(env, insn, pc, op)


def _check_immediate(insn: Insn, op: AluOp) -> None:
    if insn.spec.operand is not _IMMEDIATE:
        return
    if op in _SHIFTS and not 0 <= insn.imm < insn.spec.width:
        raise forbidden(
            Rule.ILLEGAL_INSN,
            f"invalid shift {insn.imm}",
            reason=f"a shift by a constant must be by 0 to {insn.spec.width - 1}",
        )
    if op in _DIVISIONS and insn.imm == 0:
        raise forbidden(Rule.ILLEGAL_INSN, "div by zero", reason="the constant divisor is 0")


def write_frame_pointer(_: State) -> None:
    """The step of an instruction that writes r10."""
    raise forbidden(
        Rule.FRAME_POINTER,
        "frame pointer is read only",
        reason="r10 can not be written",
        suggestion="copy r10 to another register and change that",
    )


def _move_constant(insn: Insn, pc: int) -> Step:
    dst = insn.dst
    var = Scalar.const(insn.imm if insn.spec.width == 64 else insn.imm & U32)

    def step(state: State) -> None:
        state.frame.regs[dst] = Reg(_SCALAR, var, pc)

    return step


def _move(env: Environment, insn: Insn, pc: int, op: AluOp) -> Step:
    """dst = src, whole, its low half, or its low bits sign-extended.

    A number gets an id when it is first copied, so that what a branch tells of one copy is known
    of all. Parts of pointers are numbers of which nothing is known. That extending a sign changes
    nothing kernels only see of numbers that are small enough.
    """
    dst, src, width = insn.dst, insn.src, insn.spec.width
    as_kernel = not env.rules.tracks_all
    transfer = remembering(transfer_of(op, width, as_kernel=as_kernel))
    whole = op is _MOV and width == 64
    bits = _SIGN_EXTENDING.get(op)
    part = "partial copy" if bits is None else "sign-extension part"
    positive = (1 << (bits - 1)) - 1 if bits is not None and as_kernel else None

    def step(state: State) -> None:
        regs = state.frame.regs
        value = regs[src]
        if value.type is not _SCALAR:
            check_readable(value, src)
            if not whole:
                check_conceals(env, value, f"R{src} {part} of pointer")
            regs[dst] = value if whole else scalar(UNKNOWN32 if width == 32 else _ANY, pc)
            return
        var = value.var if whole else transfer(value.var, value.var)
        same = var is value.var or var == value.var
        if not same if positive is None else value.var.umax > positive:
            regs[dst] = Reg(_SCALAR, var, pc, (value,))
            return
        copied = regs[src] = shared(value, env.new_id)
        regs[dst] = copied if same else copied.like(var, (copied,), copied.id, copied.shift)

    return step


_ANY = Scalar.UNKNOWN


def _arithmetic(env: Environment, insn: Insn, pc: int, op: AluOp) -> Step:
    dst, src, width = insn.dst, insn.src, insn.spec.width
    transfer = remembering(transfer_of(op, width, as_kernel=not env.rules.tracks_all))
    register = insn.spec.operand is _REGISTER
    constant = scalar(Scalar.const(insn.imm), pc)
    moves = op is _ADD or op is _SUB
    unary = op is _NEG or op in _SWAPS
    lost = not env.rules.tracks_all and op in _DIVISIONS
    shifts = not env.rules.tracks_all and register and op in _SHIFTS

    def step(state: State) -> None:
        regs = state.frame.regs
        a = regs[dst]
        b = regs[src] if register else constant
        if a.type is not _SCALAR or b.type is not _SCALAR:
            check_readable(b, src)
            check_readable(a, dst)
            if unary:
                check_conceals(env, a, f"R{dst} pointer arithmetic prohibited")
                regs[dst] = unknown(pc)
            elif a.type is _ARENA or b.type is _ARENA:
                regs[dst] = Pointer(_ARENA, pc)
            else:
                regs[dst] = pointer_arithmetic(env, insn, op, pc, a, b)
            return
        if lost or (shifts and (b.var.mask or b.var.value >= width)):
            regs[dst] = Reg(_SCALAR, _ANY, pc)
            return
        var = transfer(a.var, b.var)
        shift = _shift(op, width, a, b) if moves and a.id and a.shift is None else None
        if shift is None and var.mask == _ALL_BITS and var == _ANY:
            deps: tuple[Reg, ...] = ()
        else:
            deps = (a, b) if register else (a,)
        regs[dst] = Reg(_SCALAR, var, pc, deps, 0 if shift is None else a.id, shift)

    if is_masked(env, insn):
        return _masked(env, insn, pc, step)
    return (
        _of_one_kind(env, insn, pc, step) if env.has_arena and width == 64 and not unary else step
    )


def _of_one_kind(env: Environment, insn: Insn, pc: int, step: Step) -> Step:
    """The step, where the kernel makes it one of 32 bits if a pointer into the arena is computed by
    it: on every path then, so it computes such pointers always or never."""
    dst, src, register = insn.dst, insn.src, insn.spec.operand is _REGISTER

    def watched(state: State) -> None:
        regs = state.frame.regs
        arena = regs[dst].type is _ARENA or (register and regs[src].type is _ARENA)
        kind = _ARENA if arena else None
        if env.touches_kernel.setdefault(pc, kind) is not kind:
            raise forbidden(
                Rule.ARENA,
                "same insn computes a pointer into the arena, and something else",
                reason="a kernel computes pointers into the arena with 32 bits: whatever else "
                "comes this way loses its upper half",
                suggestion="keep the compiler from making one instruction of two: "
                'asm volatile("" ::: "memory") behind one of them',
                culprit=regs[dst],
            )
        step(state)

    return watched


def _shift(op: AluOp, width: int, a: Reg, b: Reg) -> Shift | None:
    """What a ± b is, as a copy of a; None if that is not known. Additions of 32 bits only tell
    where a has no more."""
    bits = U32 if width == 32 else U64
    if b.var.mask & bits or (width == 32 and a.var.umax > U32):
        return None
    delta = s32(b.var.value)
    if (width == 64 and delta != b.var.smin) or (op is _SUB and delta == S32_MIN):
        return None
    return Shift(-delta if op is _SUB else delta, width)


def _masked(env: Environment, insn: Insn, pc: int, step: Step) -> Step:
    """The step, where the kernel masks what is added to pointers: so it must be one here on
    every path, or on none."""
    dst, src = insn.dst, insn.src

    def masked(state: State) -> None:
        regs = state.frame.regs
        numbers = regs[dst].type is _SCALAR and regs[src].type is _SCALAR
        step(state)
        if numbers:
            note_numbers(env, insn, pc)

    return masked


_ALL_BITS = (1 << 64) - 1


def pointer_arithmetic(env: Environment, insn: Insn, op: AluOp, pc: int, a: Reg, b: Reg) -> Reg:
    """dst op src, where one of them at least is a pointer (`a` in dst, `b` in src or imm)."""
    dst, src = insn.dst, insn.src
    subtracts = op is _SUB
    if a.type is not _SCALAR and b.type is not _SCALAR:
        if subtracts and env.options.caps.perfmon:
            return unknown(pc)
        raise _prohibited(f"R{dst} pointer {ALU_SIGN.get(op, op.value)} pointer prohibited", a)
    if a.type is _SCALAR:
        pointer, number, ptr_no = b, a, src
    else:
        pointer, number, ptr_no = a, b, dst
    mark_precise(number)
    assert isinstance(pointer, Pointer)
    if insn.spec.width == 32:
        if subtracts and env.options.caps.perfmon:
            return unknown(pc)
        raise _prohibited(f"R{ptr_no} 32-bit pointer arithmetic prohibited", pointer)
    if pointer.type is _MEM and pointer.trust & _UNTRUSTED:
        # Loads through it are probed, wherever it points. Where it is added to a number, the
        # kernel goes on as if the number were what it was: it is not.
        return pointer if pointer is a else unknown(pc)
    kind = pointer.type
    if kind in NON_NULL:
        raise Refused(
            Rule.POINTER_ARITH,
            f"R{ptr_no} pointer arithmetic on {kind.value} prohibited, null-check it first",
            reason="NULL plus a number would pass for a pointer that is not NULL",
            suggestion=f"compare r{ptr_no} with 0 before adding to it",
            culprit=pointer,
        )
    var = number.var
    if kind is _FLOW_KEYS and var.mask:
        raise _prohibited(f"R{ptr_no} pointer arithmetic on {kind.value} prohibited", pointer)
    if kind in SOCKETS:
        raise _prohibited(f"R{ptr_no} pointer arithmetic on {kind.value} prohibited", pointer)
    nothing = op is _ADD and not var.mask and var.value == 0
    if kind is RegType.PTR_TO_PACKET_END or (kind in _FIXED and not nothing):
        raise _prohibited(f"R{ptr_no} pointer arithmetic on {kind.value} prohibited", pointer)
    _check_sane(number, pointer, var.mask == 0, var.smin, number)
    _check_sane(pointer, pointer, pointer.var.mask == 0, pointer.var.smin, pointer)
    if op is _ADD:
        moved = _added(env, pc, pointer, var)
    elif subtracts:
        if pointer is b:
            raise _prohibited(f"R{dst} tried to subtract pointer from scalar", pointer)
        if kind is _STACK:
            raise _prohibited(f"R{dst} subtraction from stack pointer prohibited", pointer)
        moved = _subtracted(env, pc, pointer, var)
    elif op in _BITWISE:
        text = f"R{dst} bitwise operator {_BITWISE[op]} on pointer prohibited"
        raise _prohibited(text, pointer)
    else:
        text = f"R{dst} pointer arithmetic with {ALU_SIGN.get(op, op.value)} operator prohibited"
        raise _prohibited(text, pointer)
    _check_sane(moved, pointer, moved.var.mask == 0, moved.var.smin, number)
    check_moved(env, insn, pc, pointer, number, moved, in_dst=pointer is a)
    return moved


# Pointers that nothing but 0 may be added to.
_FIXED = frozenset({RegType.CONST_PTR_TO_MAP, RegType.PTR_TO_FUNC})


_add, _subtract = (transfer_of(op, 64, as_kernel=True) for op in (_ADD, _SUB))


def _added(env: Environment, pc: int, pointer: Pointer, var: Scalar) -> Pointer:
    if not var.mask and _fits(pointer.off + var.smin):
        return pointer.moved(pc, pointer.off + var.smin, pointer.var)
    total = _add(pointer.var, var)
    if pointer.type in PACKET_TYPES:
        # Nothing is known any more of how far the packet reaches beyond it.
        return pointer.moved(pc, pointer.off, total, id=env.new_id(), range=0)
    return pointer.moved(pc, pointer.off, total)


def _subtracted(env: Environment, pc: int, pointer: Pointer, var: Scalar) -> Pointer:
    if not var.mask and _fits(pointer.off - var.smin):
        return pointer.moved(pc, pointer.off - var.smin, pointer.var)
    total = _subtract(pointer.var, var)
    if pointer.type in PACKET_TYPES:
        return pointer.moved(pc, pointer.off, total, id=env.new_id(), range=0)
    return pointer.moved(pc, pointer.off, total)


def _fits(off: int) -> bool:
    return s32(off) == off


def _check_sane(reg: Reg, pointer: Reg, known: bool, smin: int, culprit: Reg) -> None:
    """Offsets stay far from where sums of them could wrap."""
    # Kernels keep the distance between two linked numbers where pointers have their offset.
    off = reg.shift.delta if reg.shift is not None and reg.var.mask else reg.off
    if abs(off) < MAX_VAR_OFF and abs(smin) < MAX_VAR_OFF:
        return
    name = pointer.type.value
    if known and abs(smin) >= MAX_VAR_OFF:
        text = f"math between {name} pointer and {smin} is not allowed"
        raise forbidden(Rule.POINTER_BOUNDS, text, reason=_FAR, culprit=culprit)
    if abs(off) >= MAX_VAR_OFF:
        raise _out_of_bounds(f"{name} pointer offset {off} is not allowed", culprit)
    if smin == S64_MIN:
        raise _out_of_bounds(
            f"math between {name} pointer and register with unbounded min value is not allowed",
            culprit,
        )
    if abs(smin) >= MAX_VAR_OFF:
        raise _out_of_bounds(f"value {smin} makes {name} pointer be out of bounds", culprit)


_FAR = f"what is added to a pointer must lie within +-{MAX_VAR_OFF}"


def _out_of_bounds(message: str, culprit: Reg) -> Refused:
    return Refused(
        Rule.POINTER_BOUNDS,
        message,
        reason=_FAR,
        suggestion="bound the index from below and above before adding it",
        culprit=culprit,
        bounds=(-MAX_VAR_OFF + 1, MAX_VAR_OFF - 1),
    )


def _prohibited(message: str, culprit: Reg) -> Refused:
    return forbidden(
        Rule.POINTER_ARITH,
        message,
        reason="only numbers can be added to or subtracted from pointers, in 64 bits",
        culprit=culprit,
    )


def prepare_lddw(env: Environment, insn: Insn, pc: int) -> Step:
    """The step of a 64-bit load of a constant, a map, an address in a map value, a function."""
    dst = insn.dst
    if dst == FRAME_POINTER:
        return write_frame_pointer
    if insn.src == Pseudo.NONE:
        var = Scalar.const(insn.imm)

        def constant(state: State) -> None:
            state.frame.regs[dst] = Reg(_SCALAR, var, pc)

        return constant
    named = _named(env, insn, pc)

    def step(state: State) -> None:
        state.frame.regs[dst] = named

    return step


def _check_callback(env: Environment, target: int) -> None:
    """The function may be called back: what else would its address be for?"""
    if env.obj.btf is None or not all(sub.btf_type_id for sub in env.functions.values()):
        raise forbidden(
            Rule.HELPER_ARG,
            "missing btf func_info",
            reason="kernels take addresses of functions in programs with types only",
            suggestion="compile with -g, so that the object has BTF",
        )
    if env.functions[target].is_global:
        raise forbidden(
            Rule.HELPER_ARG,
            "callback function not static",
            reason="callbacks are verified where they are used, global functions by themselves",
        )


def _named(env: Environment, insn: Insn, pc: int) -> Reg:
    low, high = insn.imm & U32, insn.imm >> 32
    if insn.src == Pseudo.FUNC:
        target = pc + 1 + s32(low)
        if target not in env.functions:
            raise Refused(
                Rule.BAD_JUMP, f"no function starts at {target}", reason="lddw names a function"
            )
        _check_callback(env, target)
        return Pointer(RegType.PTR_TO_FUNC, pc, subprog=target)
    if insn.src == Pseudo.BTF_ID:
        return ksym.address(env, insn, pc)
    if insn.src not in (Pseudo.MAP_IDX, Pseudo.MAP_IDX_VALUE):
        raise unsupported(f"lddw of {Pseudo(insn.src).name}")
    if low >= len(env.maps):
        raise Refused(
            Rule.ILLEGAL_INSN,
            f"map index {low} of {len(env.maps)} maps",
            reason="the instruction names a map that the object does not have",
            certain=True,
        )
    spec = env.maps[low]
    if env.sleepable and env.profile.ring is None:
        check_map_for_sleepable(spec)
    if insn.src == Pseudo.MAP_IDX:
        return Pointer(RegType.CONST_PTR_TO_MAP, pc, map=spec, map_index=low)
    if spec.type == MapType.ARENA and high <= spec.max_entries * ARENA_PAGE_BYTES:
        return unknown(pc)  # user space's address
    if spec.type != MapType.ARRAY or spec.max_entries != 1 or high >= spec.value_size:
        raise forbidden(
            Rule.MAP_VALUE_ACCESS,
            f"invalid access to map value pointer, value_size={spec.value_size} off={high}",
            reason="only the value of an array with one element, and an arena, have an address of "
            "their own",
        )
    return Pointer(RegType.PTR_TO_MAP_VALUE, pc, off=high, map=spec, map_index=low)
