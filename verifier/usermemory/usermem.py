"""User memory: what reads and writes it, and what a contract says of that.

User addresses are numbers; the copy helpers alone take them, and answer -EFAULT to a bad one. So
no copy is unsafe. A contract (`contract`) makes it a matter of proof all the same: a copy whose
address comes from a declared block lies inside that block and goes the declared way, or is
refused (USER_RANGE) where it can not, or is warned of (USER_UNPROVEN) where it may not. Without a
contract verdicts are as if this module did not exist.
"""

from __future__ import annotations

from collections.abc import Mapping

from pybpfvm.helpers.proto import Helper
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import AluOp, Operand
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.refusal import Refused, forbidden, unsupported
from pybpfvm.verifier.states.regstate import Pointer, Reg, RegType, Trust, mark_precise
from pybpfvm.verifier.states.state import Frame, State
from pybpfvm.verifier.usermemory.contract import Block
from pybpfvm.verifier.usermemory.origin import (
    Copied,
    Origin,
    Source,
    Status,
    Traced,
    carried,
    derived,
    fresh,
    put_copied,
)
from pybpfvm.verifier.usermemory.usernames import FROM_USER, REAP, TO_USER
from pybpfvm.verifier.verdict import Finding, Kind, Rule

_SLOT = 8
USER = "user"  # in keys of origins: a pinned block
_MOVES = frozenset({AluOp.MOV, AluOp.MOVSX8, AluOp.MOVSX16, AluOp.MOVSX32})
_UNARY = frozenset(op for op in AluOp if op.name.startswith(("LE", "BE", "BSWAP"))) | {AluOp.NEG}
_CQE_BYTES = 16
# (offset, size) of a completion's fields.
_CQE_FIELDS: Mapping[tuple[int, int], Source] = {
    (0, 8): Source.CQE_USER_DATA,
    (8, 4): Source.CQE_RES,
}


def follow_alu(env: Environment, insn: Insn) -> bool:
    """Whether results of this instruction may come from user space."""
    op = insn.spec.op
    return env.traces and not (op in _MOVES and insn.spec.operand is Operand.K)


def alu_result(insn: Insn, a: Reg, b: Reg, result: Reg) -> Reg:
    """`result` of the ALU instruction on what was in dst and src, with its origin."""
    op = insn.spec.op
    assert isinstance(op, AluOp)
    if op in _MOVES:
        if b.origin is None:
            return result
        keeps = op is AluOp.MOV and insn.spec.width == 64
        if keeps or b.origin.source in (Source.CQE_RES, Source.RESULT):
            return result if result.origin is not None else _same(result, b.origin)
        return derived(result, b.origin)
    if a.origin is None and b.origin is None:
        return result
    if op in _UNARY:
        return result if a.origin is None else derived(result, a.origin)
    return carried(op, insn.spec.width, a, b, result)


def _same(result: Reg, origin: Origin) -> Reg:
    """The low half of a number that 32 bits hold: still that number."""
    return Traced(result, origin) if result.type is RegType.SCALAR_VALUE else result


def from_ctx(env: Environment, field: str, value: Reg) -> Reg:
    """A field of the context that was loaded."""
    if field != "user_data" or env.profile.ring is None:
        return value
    contract = env.options.contract
    block = None if contract is None else contract.user_data_block(env.program.name)
    return fresh(value, Source.USER_DATA, ("user_data",), block=block, name="user_data")


def user_block(env: Environment, pc: int) -> Reg:
    """What a load of the context's `user` gives: the block that the contract says."""
    contract = env.options.contract
    block = None if contract is None else contract.pinned_block(env.program.name)
    if block is None:
        raise forbidden(
            Rule.USER_POINTER,
            "user pointer without a declared block",
            reason="no contract says that user_data of this program points to a pinned block",
            suggestion="declare the block, with pinned = true, and name it as user_data of the "
            "program (docs/contracts.md)",
        )
    trust = Trust.NONE if block.writable else Trust.RDONLY
    return Pointer(RegType.PTR_TO_MEM, pc, mem_size=block.size, trust=trust)


def from_block(env: Environment, pointer: Reg, off: int, size: int, value: Reg) -> Reg:
    """What was loaded from memory that is not on the stack: of a pinned block it is known where."""
    contract = env.options.contract
    block = None if contract is None else contract.pinned_block(env.program.name)
    if contract is None or block is None or pointer.mem_size != block.size or pointer.var.mask:
        return value
    at = pointer.off + off + pointer.var.value
    found = contract.pointed_by(block, at) if size == _SLOT else None
    if found is None:
        name = f"byte {at} of {block.name}"
        return fresh(value, Source.SHARED, (USER, at, size), name=name)
    field, target = found
    name = f"{block.name}.{field.name}"
    return fresh(value, Source.SHARED, (USER, at, size), block=target, name=name)


def to_ctx(env: Environment, off: int) -> None:
    """The context is written at `off`: a contract speaks of the `user_data` that was given."""
    contract = env.options.contract
    if off == 0 and contract is not None and contract.user_data_block(env.program.name):
        raise unsupported("a contract for a program that overwrites its user_data")


def from_map(env: Environment, pointer: Reg, off: int, value: Reg) -> Reg:
    """What was loaded from a map value."""
    contract = env.options.contract
    spec = pointer.map
    if contract is None or spec is None or spec.name not in contract.user_writes:
        return value
    at = None if pointer.var.mask else pointer.off + off + pointer.var.value
    return fresh(value, Source.SHARED, (spec.name, at), name=f"map {spec.name}")


def from_stack(env: Environment, frame: Frame, low: int, size: int, value: Reg) -> Reg:
    """What was loaded from the stack at `low`: bytes that a helper put there have its origin."""
    slot = frame.stack.get(low & -_SLOT)
    if slot is None or value.origin is not None:
        return value
    held = slot.reg
    if held is not None and held.origin is not None:
        return derived(value, held.origin)
    copied = slot.copied
    if copied is None:
        return value
    index = low - copied.low
    if index < 0 or index + size > copied.size or value.type is not RegType.SCALAR_VALUE:
        return value
    if copied.cqe:
        source = _CQE_FIELDS.get((index, size), Source.CQE)
        return fresh(value, source, ("cqe", copied.call, index), copied=copied)
    return _fetched(env, copied, index, size, value)


def _fetched(env: Environment, copied: Copied, index: int, size: int, value: Reg) -> Reg:
    """Bytes `index` and on of what was copied from user memory."""
    addr, addr_off = copied.addr, copied.addr_off
    if addr is None or addr_off is None:
        return fresh(value, Source.COPIED, ("copied", copied.call, index), copied=copied)
    offset = addr_off + index
    key = ("at", addr.key, offset, size)
    contract = env.options.contract
    if contract is None or addr.block is None or size != _SLOT:
        return fresh(value, Source.COPIED, key, name=f"byte {offset}", copied=copied)
    found = contract.pointed_by(addr.block, offset)
    if found is None:
        name = f"byte {offset} of {addr.block.name}"
        return fresh(value, Source.COPIED, key, name=name, copied=copied)
    field, block = found
    name = f"{addr.block.name}.{field.name}"
    return fresh(value, Source.COPIED, key, block=block, name=name, copied=copied)


def called(
    env: Environment, state: State, helper: Helper, pc: int, args: tuple[Reg, ...], result: Reg
) -> Reg:
    """A helper was called with `args` (r1 to r5) and gave `result`: check and note what it does
    with user memory and completions. Gives the result with its origin."""
    name = helper.name
    call = env.new_id()
    if name in FROM_USER:
        out, size, addr = args[0], args[1], args[2]
        check_copy(env, pc, addr, 3, size, writes=False)
        off = None if addr.origin is None else addr.origin.off
        fixed = off is not None and not off.var.mask
        copied = Copied(
            pc,
            call,
            0,
            size.var.umax,
            False,
            addr.origin,
            off.var.smin if off is not None and fixed else None,
        )
        _note(state, out, size, copied)
    elif name in TO_USER:
        addr, size = args[TO_USER[name][0]], args[TO_USER[name][1]]
        check_copy(env, pc, addr, TO_USER[name][0] + 1, size, writes=True)
    elif name in REAP:
        _note(state, args[2], args[3], Copied(pc, call, 0, _CQE_BYTES, True))
    if result.type is not RegType.SCALAR_VALUE:
        return result
    return fresh(result, Source.RESULT, ("result", name), call=call, status=Status.UNTESTED)


def _note(state: State, out: Reg, size: Reg, copied: Copied) -> None:
    """Mark the bytes on the stack that a helper wrote, if it is known which they are."""
    if out.type is not RegType.PTR_TO_STACK or out.var.mask or size.var.mask:
        return
    low = out.off + out.var.smin
    placed = Copied(
        copied.at,
        copied.call,
        low,
        min(copied.size, size.var.umax),
        copied.cqe,
        copied.addr,
        copied.addr_off,
    )
    put_copied(state.frames[out.frame], placed)


def check_copy(
    env: Environment, pc: int, addr: Reg, number: int, size: Reg, *, writes: bool
) -> None:
    """A copy of `size` bytes between the program and the user address in `addr` is one that the
    contract allows, if it speaks of that address. `writes`: into user memory."""
    origin = addr.origin
    if origin is None or origin.block is None or size.var.umax == 0:
        return
    block = origin.block
    if not (block.writable if writes else block.readable):
        raise _outside(
            f"R{number} user copy {'writes' if writes else 'reads'} block {block.name}, "
            f"declared {'read' if writes else 'write'}-only",
            f"the contract declares {_shown(block)} as "
            f"{'read' if writes else 'write'}-only for programs",
            f'declare access = "rw" for blocks.{block.name} if that is meant',
            addr,
        )
    off = origin.off
    if off is None:
        _unproven(env, pc, number, origin, block, "how far into it is not followed", writes)
        return
    mark_precise(off)
    low, high = off.var.smin, off.var.smax
    least, most = max(size.var.umin, 1), size.var.umax
    if low >= 0 and high + most <= block.size:
        broken = block.pointer_in(low, high + most) if writes else None
        if broken is not None:
            reach = f"the copy may overwrite {broken.name}, a promised address of {broken.target}"
            _unproven(env, pc, number, origin, block, reach, writes)
        return
    if low + least > block.size or high < 0:
        where = f"bytes {low} to {low + most - 1}" if not off.var.mask else f"{low} bytes in or on"
        raise _outside(
            f"R{number} user copy outside block {block.name}: off={low} size={most} "
            f"block_size={block.size}",
            f"{origin.name} points to {_shown(block)}; the copy is of {where}",
            "keep offset + size inside the block, or declare a larger one",
            addr,
        )
    reach = f"the copy may reach bytes {low} to {high + most - 1} of {block.size}"
    _unproven(env, pc, number, origin, block, reach, writes)


def _shown(block: Block) -> str:
    kind = f"{block.type}, " if block.type else ""
    return f"{block.name} ({kind}{block.size} bytes)"


def _outside(message: str, reason: str, suggestion: str, culprit: Reg) -> Refused:
    return Refused(
        Rule.USER_RANGE,
        message,
        reason=reason,
        suggestion=suggestion,
        culprit=culprit,
        kind=Kind.POLICY,
    )


def _unproven(
    env: Environment,
    pc: int,
    number: int,
    origin: Origin,
    block: Block,
    reach: str,
    writes: bool,
) -> None:
    verb = "write" if writes else "read"
    env.warn(
        Finding(
            Rule.USER_UNPROVEN,
            Kind.LINT,
            pc,
            f"R{number} user copy may {verb} what block {block.name} does not declare",
            reason=f"{origin.name} points to {_shown(block)}; {reach}",
            suggestion="bound the index (and the size) by what may be copied before the copy",
            source=env.program.line_at(pc),
        )
    )
