"""Loads, stores and atomic operations: what they give and what they leave behind.

The rules they must obey stand in `checks`; here is what happens once they hold.
"""

from __future__ import annotations

from collections.abc import Callable

from pybpfvm.bits import sign_extend
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import FRAME_POINTER, AtomicOp, Kind
from pybpfvm.profiles.base import CtxField, CtxHolds
from pybpfvm.program import BPF_F_RDONLY_PROG, MapType
from pybpfvm.verifier import arena, checks
from pybpfvm.verifier.checks import POINTER_FIELDS, check_readable
from pybpfvm.verifier.domains.scalar import Scalar, load_result
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.kernelobjects import btfptr
from pybpfvm.verifier.kernelobjects.attach import is_btf_typed
from pybpfvm.verifier.kernelobjects.kernelptr import (
    FROM_CONTEXT,
    KERNEL_MEMORY,
    SOCKETS,
    check_kernel_memory,
)
from pybpfvm.verifier.privileges.capabilities import check_ctx_field
from pybpfvm.verifier.privileges.leaks import (
    check_conceals,
    check_no_pointers,
    check_stored,
    check_whole,
)
from pybpfvm.verifier.refusal import forbidden
from pybpfvm.verifier.resources import dynptr, kptr, slices
from pybpfvm.verifier.states import stack
from pybpfvm.verifier.states.regstate import (
    NON_NULL,
    PACKET_TYPES,
    Pointer,
    Reg,
    RegType,
    Trust,
    is_null,
    mark_precise,
    scalar,
    shared,
)
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.transfer import write_frame_pointer
from pybpfvm.verifier.usermemory import usermem
from pybpfvm.verifier.verdict import Rule

Step = Callable[[State], None]

_SCALAR, _CTX, _STACK = RegType.SCALAR_VALUE, RegType.PTR_TO_CTX, RegType.PTR_TO_STACK
_MAP, _VALUE, _KEY = RegType.CONST_PTR_TO_MAP, RegType.PTR_TO_MAP_VALUE, RegType.PTR_TO_MAP_KEY
_RECORD = RegType.PTR_TO_RINGBUF_MEM

# Accesses through these are rewritten by the kernel.
_REWRITTEN = frozenset({RegType.PTR_TO_CTX, *SOCKETS})
# By the types of pointers that they have accesses of their own: those, NULL or not.
_APART = {
    kind: NON_NULL.get(kind, kind)
    for kind in RegType
    if NON_NULL.get(kind, kind) in _REWRITTEN | {arena.ARENA, btfptr.BTF_ID}
}


def _one_kind_of_rules(env: Environment, pointer: Reg, pc: int) -> None:
    """An instruction accesses the context, a socket of one kind, an arena, an object of the
    kernel's or untrusted memory always or never: the kernel rewrites those that do."""
    kind = _APART.get(pointer.type)
    if kind is None:
        if pointer.type is _SCALAR:
            return  # which is refused
        if pointer.type is btfptr.MEM and pointer.trust & Trust.UNTRUSTED:
            kind = btfptr.MEM
    if env.touches_kernel.setdefault(pc, kind) is not kind:
        raise forbidden(
            Rule.CTX_ACCESS,
            "same insn cannot be used with different pointers",
            reason="on one path this is the context, a socket, an arena or an object of the "
            "kernel's, on another it is not: such an instruction is rewritten",
            suggestion="keep the compiler from making one instruction of two: "
            'asm volatile("" ::: "memory") behind one of them',
            culprit=pointer,
        )


def prepare_load(env: Environment, insn: Insn, pc: int) -> Step:
    """The step of LDX, LDSX and LOAD_ACQ."""
    dst, src, off = insn.dst, insn.src, insn.off
    if dst == FRAME_POINTER:
        return write_frame_pointer
    size = int(insn.spec.size or 8)
    signed = insn.spec.kind is Kind.LDSX
    acquire = insn.spec.kind is Kind.LOAD_ACQ

    def step(state: State) -> None:
        regs = state.frame.regs
        pointer = regs[src]
        check_readable(pointer, src)
        if acquire:
            _atomic_memory(pointer, src, "loads from")
        _one_kind_of_rules(env, pointer, pc)
        if pointer.type is _STACK:
            regs[dst] = _load_stack(env, state, pointer, src, off, size, signed, pc)
        else:
            regs[dst] = _loaded(env, state, pointer, src, off, size, signed, pc, strict=acquire)

    return step


def _loaded(
    env: Environment,
    state: State,
    pointer: Reg,
    number: int,
    off: int,
    size: int,
    signed: bool,
    pc: int,
    *,
    strict: bool,
) -> Reg:
    kind = pointer.type
    if kind is _VALUE:
        checks.check_alignment(pointer, off, size, strict=strict)
        checks.check_map_value(env, pointer, number, off, size, store=False, direct=True)
        held = kptr.field_at(env, pointer, off)
        if held is not None:
            return kptr.load(env, state, held, plain=not strict and not signed, pc=pc)
        constant = _constant_load(env, pointer, off, size, signed)
        value = scalar(load_result(size, signed) if constant is None else constant, pc)
        return usermem.from_map(env, pointer, off, value) if env.traces else value
    if kind is btfptr.BTF_ID:
        return btfptr.load(env, state, pointer, number, off, size, signed, pc)
    if kind is _MAP and env.profile.ring is None:
        raise btfptr.load_map(env, pointer, number, off, size, pc)
    if kind is _CTX and is_btf_typed(env.profile):
        return btfptr.load_argument(env, pointer, number, off, size, pc)
    if kind is _CTX:
        field = checks.check_ctx(
            env, pointer, number, off, size, store=False, plain=True, signed=signed
        )
        value = _load_ctx(env, field, size, signed, pc)
        check_ctx_field(env, field, off, size)
        return value if field is None else usermem.from_ctx(env, field.name, value)
    if kind in PACKET_TYPES:
        checks.check_packet(pointer, number, off, size)
    elif kind is _RECORD:
        checks.check_alignment(pointer, off, size, strict=strict)
        checks.check_mem(pointer, number, off, size)
    elif kind is _KEY:
        checks.check_map_key(pointer, number, off, size)
    elif kind is btfptr.MEM:
        checks.check_alignment(pointer, off, size, strict=strict)
        btfptr.check_memory(env, pointer, number, off, size, store=False)
        if env.traces:
            value = scalar(load_result(size, signed), pc)
            return usermem.from_block(env, pointer, off, size, value)
    elif kind is arena.ARENA:
        arena.check_load(env, signed=signed)
    elif kind in KERNEL_MEMORY:
        check_kernel_memory(pointer, number, off, size, store=False)
    else:
        raise checks.not_memory(pointer, number)
    return scalar(load_result(size, signed), pc)


def _load_stack(
    env: Environment,
    state: State,
    pointer: Reg,
    number: int,
    off: int,
    size: int,
    signed: bool,
    pc: int,
) -> Reg:
    low, high = checks.check_stack_bounds(env, state, pointer, number, off, size, " read from")
    checks.check_alignment(pointer, off, size, strict=True)
    frame = state.frames[pointer.frame]
    slot = frame.stack.get(low)
    if low == high and size == 8 and slot is not None and slot.spilled == 8:
        # A register was spilled there, whole.
        assert slot.reg is not None
        stack.note_read(frame, low, size)
        return usermem.from_stack(env, frame, low, size, slot.reg) if env.traces else slot.reg
    if low != high:
        shown = f"read from stack R{number} var"
        checks.check_stack_init(env, state, pointer, number, low, high + size - low, shown)
        return scalar(load_result(size, signed), pc)
    checks.check_stack_init(env, state, pointer, number, low, size, "read from stack")
    held = stack.spilled_pointer(frame, low, size)
    if held is not None and (size != 8 or low & 7):
        raise forbidden(
            Rule.STACK_ACCESS,
            "invalid size of register fill",
            reason="part of a spilled pointer is loaded",
            suggestion="load spilled pointers with all their 8 bytes",
            culprit=held,
        )
    as_kernel = not env.rules.tracks_all
    value = stack.read(
        frame, low, size, signed=signed, at=pc, little=env.little, as_kernel=as_kernel
    )
    return usermem.from_stack(env, frame, low, size, value) if env.traces else value


def _constant_load(
    env: Environment, pointer: Reg, off: int, size: int, signed: bool
) -> Scalar | None:
    """What a load at a known place of a frozen, read-only array gives: its bytes are known."""
    spec = pointer.map
    assert spec is not None
    if (
        pointer.var.mask
        or spec.data is None
        or not spec.frozen
        or not spec.flags & BPF_F_RDONLY_PROG
        or spec.type != MapType.ARRAY
        or spec.max_entries != 1
    ):
        return None
    at = pointer.off + off + pointer.var.value
    data = spec.data[at : at + size]
    if len(data) != size:
        return None
    word = int.from_bytes(data, "little" if env.little else "big")
    return Scalar.const(sign_extend(word, size * 8) if signed else word)


def _load_ctx(env: Environment, field: CtxField | None, size: int, signed: bool, pc: int) -> Reg:
    if field is None:
        return scalar(load_result(size, signed), pc)
    if field.holds is CtxHolds.USER_BLOCK:
        return usermem.user_block(env, pc)
    found = POINTER_FIELDS.get(field.holds)
    if field.pointer is not None:
        found = FROM_CONTEXT[field.pointer]
    if found is not None:
        return Pointer(found, pc, id=env.new_id() if found in NON_NULL else 0)
    return scalar(load_result(size, signed), pc)


def prepare_store(env: Environment, insn: Insn, pc: int) -> Step:
    """The step of ST, STX and STORE_REL."""
    dst, src, off = insn.dst, insn.src, insn.off
    size = int(insn.spec.size or 8)
    constant = Scalar.const(insn.imm) if insn.spec.kind is Kind.ST else None
    plain, release = insn.spec.kind is Kind.STX, insn.spec.kind is Kind.STORE_REL

    def step(state: State) -> None:
        regs = state.frame.regs
        pointer = regs[dst]
        if constant is not None:
            value = Reg(_SCALAR, constant, pc)
        else:
            value = regs[src]
            check_readable(value, src)
        check_readable(pointer, dst)
        if release:
            _atomic_memory(pointer, dst, "stores into")
        _one_kind_of_rules(env, pointer, pc)
        check_stored(env, pointer, value, src)
        check_store(env, state, pointer, dst, off, size, plain=plain, strict=release)
        if pointer.type is _STACK:
            fits = value.type is _SCALAR and not value.var.umax >> (size * 8)
            if fits and constant is None:
                value = regs[src] = shared(value, env.new_id)
            _store_stack(env, state, pointer, off, size, value)
            return
        held = kptr.field_at(env, pointer, off)
        if held is not None:
            number = src if constant is None else None
            kptr.check_store(env, held, value, number, plain=not release)

    return step


def check_store(
    env: Environment,
    state: State,
    pointer: Reg,
    number: int,
    off: int,
    size: int,
    *,
    plain: bool,
    strict: bool = False,
) -> None:
    """A store of `size` bytes may be made. `plain`: from a register."""
    kind = pointer.type
    if kind is _STACK:
        checks.check_stack_bounds(env, state, pointer, number, off, size, " write to")
        checks.check_alignment(pointer, off, size, strict=True)
    elif kind is _VALUE:
        checks.check_alignment(pointer, off, size, strict=strict)
        checks.check_map_value(env, pointer, number, off, size, store=True, direct=True)
    elif kind is _CTX and is_btf_typed(env.profile):
        raise btfptr.context_store(pointer, number, off, size)
    elif kind is _CTX:
        checks.check_ctx(env, pointer, number, off, size, store=True, plain=plain)
        usermem.to_ctx(env, off)
    elif kind is btfptr.BTF_ID:
        btfptr.check_store(env, pointer, number, off, size)
    elif kind is btfptr.MEM:
        checks.check_alignment(pointer, off, size, strict=strict)
        btfptr.check_memory(env, pointer, number, off, size, store=True)
        slices.stored_through(env, state, pointer)
    elif kind in PACKET_TYPES:
        checks.check_packet_writable(env)
        checks.check_packet(pointer, number, off, size)
    elif kind is _RECORD:
        checks.check_alignment(pointer, off, size, strict=strict)
        checks.check_mem(pointer, number, off, size)
    elif kind is _KEY:
        raise forbidden(
            Rule.READ_ONLY,
            f"write to change key R{number} not allowed",
            reason="keys of a map can not be changed in place",
        )
    elif kind is arena.ARENA:
        pass
    elif kind in KERNEL_MEMORY:
        check_kernel_memory(pointer, number, off, size, store=True)
    elif kind is _MAP:
        raise forbidden(
            Rule.READ_ONLY,
            "only read from map_ptr is supported",
            reason="a map pointer is a handle of the kernel's",
        )
    else:
        raise checks.not_memory(pointer, number)


def _store_stack(
    env: Environment, state: State, pointer: Reg, off: int, size: int, value: Reg
) -> None:
    frame = state.frames[pointer.frame]
    off += pointer.off
    low = off + pointer.var.smin
    check_whole(env, frame, low, size)
    high = off + (pointer.var.smax if pointer.var.mask else pointer.var.smin) + size
    dynptr.overwrite(state, frame, low, high, value.at)
    if pointer.var.mask:
        zero = is_null(value)
        if zero:
            mark_precise(value)
        stack.write_somewhere(frame, low, high, zero=zero, trust=env.rules.uninit_stack)
        return
    if value.type is _SCALAR:
        if low & 7 == 0 and env.options.caps.bpf:
            stack.spill(frame, low, size, value)
            return
        if is_null(value):
            mark_precise(value)
            stack.write(frame, low, size, stack.ZERO)
        else:
            stack.write(frame, low, size, stack.MISC)
        return
    if size != 8:
        raise forbidden(
            Rule.STACK_ACCESS,
            "invalid size of register spill",
            reason="part of a pointer is stored to the stack",
            suggestion="store pointers with all their 8 bytes",
            culprit=value,
        )
    if value.type is _STACK and frame is not state.frame:
        raise forbidden(
            Rule.STACK_ACCESS,
            "cannot spill pointers to stack into stack frame of the caller",
            reason="the pointer may outlive the frame that it points into",
            culprit=value,
        )
    stack.spill(frame, low, size, value)


def atomic(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """Read-modify-write. The old value, where it is fetched, is a number,
    or the pointer that was spilled there."""
    regs = state.frame.regs
    size = int(insn.spec.size or 8)
    check_readable(regs[insn.src], insn.src)
    pointer = regs[insn.dst]
    check_readable(pointer, insn.dst)
    op = insn.spec.op
    assert isinstance(op, AtomicOp)
    if op is AtomicOp.CMPXCHG:
        check_readable(regs[0], 0)
    check_conceals(env, regs[insn.src], f"R{insn.src} leaks addr into mem")
    if op is AtomicOp.CMPXCHG:
        check_conceals(env, regs[0], "R0 leaks addr into mem")
    _atomic_memory(pointer, insn.dst, "stores into")
    _one_kind_of_rules(env, pointer, pc)  # kernels forget to look, and take all for the arena
    if pointer.type is RegType.PTR_TO_MAP_VALUE:
        checks.check_map_value(env, pointer, insn.dst, insn.off, size, store=False, direct=True)
        if kptr.field_at(env, pointer, insn.off) is not None:
            raise kptr.not_plain(pointer)
    elif pointer.type is arena.ARENA:
        arena.check_atomic(env, insn.dst, op)
    elif pointer.type is btfptr.BTF_ID:
        btfptr.check_access(env, pointer, insn.dst, insn.off, size)
    check_store(env, state, pointer, insn.dst, insn.off, size, plain=False, strict=True)
    old = scalar(load_result(size, False), pc)
    if pointer.type is RegType.PTR_TO_STACK:
        old = _atomic_stack(env, state, pointer, insn, size, pc) or old
    if not _fetches(op):
        return
    fetched = 0 if op is AtomicOp.CMPXCHG else insn.src
    if fetched == insn.dst:
        checks.check_alignment(old, insn.off, size, strict=True)
        raise forbidden(
            Rule.NOT_A_POINTER,
            f"R{fetched} invalid mem access '{old.type.value}'",
            reason="what is fetched takes the place of the address, and kernels check by it what "
            "is written",
            suggestion="keep the address in another register",
            culprit=pointer,
        )
    regs[fetched] = old


def _fetches(op: AtomicOp) -> bool:
    return op in (AtomicOp.CMPXCHG, AtomicOp.XCHG) or op.name.startswith("FETCH_")


def _atomic_stack(
    env: Environment, state: State, pointer: Reg, insn: Insn, size: int, pc: int
) -> Reg | None:
    """Change the stack; what was there, None if that is not known."""
    frame = state.frames[pointer.frame]
    low = pointer.off + insn.off + pointer.var.smin
    high = pointer.off + insn.off + (pointer.var.smax if pointer.var.mask else pointer.var.smin)
    checks.check_stack_init(
        env, state, pointer, insn.dst, low, high + size - low, "read from stack"
    )
    held = stack.spilled_pointer(frame, low, high + size - low)
    if held is not None and (size != 8 and not pointer.var.mask):
        raise forbidden(
            Rule.STACK_ACCESS,
            "invalid size of register fill",
            reason="part of a spilled pointer is changed",
            culprit=held,
        )
    op = insn.spec.op
    assert isinstance(op, AtomicOp)
    if not _fetches(op):
        check_no_pointers(env, frame, low, size, f"leaking pointer from stack off {low}")
    if low != high:
        trust = env.rules.uninit_stack
        stack.write_somewhere(frame, low, high + size, zero=False, trust=trust)
        return None
    old = stack.read(frame, low, size, signed=False, at=pc, little=env.little, as_kernel=True)
    stack.write(frame, low, size, stack.MISC)
    return old


def _atomic_memory(pointer: Reg, number: int, what: str) -> None:
    """Atomic operations work on stack, map values and other plain memory only."""
    kind = pointer.type
    if kind in _REWRITTEN or kind in PACKET_TYPES or kind is RegType.PTR_TO_FLOW_KEYS:
        raise forbidden(
            Rule.NOT_A_POINTER,
            f"BPF_ATOMIC {what} R{number} {pointer.type.value} is not allowed",
            reason="atomic operations do not work on the context or the packet",
            culprit=pointer,
        )
