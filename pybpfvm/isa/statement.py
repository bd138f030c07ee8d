"""Statements of assembly text: one parsed statement to one instruction.

`BUILDERS` has a function for each alternative of the rule `insn` in `asm.lark`; it takes the
statement's tree and the opcode that a line of the kernel's log gives before it (else None).
Names of labels, helpers and maps stay names here; `asm` fills them in when it has seen all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lark import Token, Tree

from pybpfvm.bits import s32
from pybpfvm.isa.insn import Insn, InsnSpec
from pybpfvm.isa.mnemonic import mnemonic
from pybpfvm.isa.notation import ALU_SIGN, CAST, JUMP_SIGN, LOCK_SIGN
from pybpfvm.isa.opcodes import AluOp, AtomicOp, JmpOp, Kind, MemSize, Operand
from pybpfvm.isa.operand import (
    Draft,
    Mistake,
    Node,
    address_of,
    address_space,
    imm32,
    imm64,
    index_of,
    integer,
    known,
    lddw_source,
    offset32,
    pointer_of,
    quote,
    reg,
    reg64,
    require_same,
    require_same_width,
    target_of,
    token_of,
    type_of,
    unsigned_pointer_of,
    value_reg,
    width_of,
)
from pybpfvm.isa.table import SPECS, TABLE


def _alu(tree: Tree[Token], opcode: int | None) -> Draft:
    dst, sign, value = tree.children
    return _alu_row(_ALU_OF_SIGN[str(sign)], token_of(dst), token_of(value))


def _move(tree: Tree[Token], opcode: int | None) -> Draft:
    dst, value = map(token_of, tree.children)
    if opcode == SPECS["lddw"].opcode and value.type == "INT":
        return _wide(tree, opcode)  # the kernel's log has no ll; its opcode tells
    return _alu_row(AluOp.MOV, dst, value)


def _alu_row(op: AluOp, dst: Token, value: Token) -> Draft:
    width = width_of(dst)
    if value.type == "REG":
        require_same_width(dst, value)
        spec = _row(Kind.ALU, op, width=width, operand=Operand.X)
        return Draft(Insn(spec, reg(dst), reg(value)))
    spec = _row(Kind.ALU, op, width=width, operand=Operand.K)
    return Draft(Insn(spec, reg(dst), imm=imm32(value, wraps=width == 32)))


def _negate(tree: Tree[Token], opcode: int | None) -> Draft:
    dst, src = map(token_of, tree.children)
    require_same(dst, src)
    return Draft(Insn(_row(Kind.ALU, AluOp.NEG, width=width_of(dst)), reg(dst)))


def _move_sx(tree: Tree[Token], opcode: int | None) -> Draft:
    dst, cast, src = map(token_of, tree.children)
    require_same_width(dst, src)
    op = _OP_OF_CAST[cast.strip("( \t)")]
    spec = _find(Kind.ALU, op, width=width_of(dst), operand=Operand.X)
    if spec is None:
        raise Mistake(cast, "a w register cannot take a 32-bit cast", "write w1 = w2")
    return Draft(Insn(spec, reg(dst), reg(src)))


def _swap(tree: Tree[Token], opcode: int | None) -> Draft:
    dst, name, src = map(token_of, tree.children)
    require_same(dst, src)
    spec = SPECS.get(name)
    if spec is None or spec.op not in _SWAPS:
        raise Mistake(
            name,
            f"{quote(name)} is no byte swap",
            f"one of {', '.join(op.value for op in _SWAPS)}",
        )
    return Draft(Insn(spec, reg64(dst)))


def _wide(tree: Tree[Token], opcode: int | None) -> Draft:
    dst, value = map(token_of, tree.children)
    return Draft(Insn(SPECS["lddw"], reg64(dst), imm=imm64(value)))


def _named_source(tree: Tree[Token], opcode: int | None) -> Draft:
    dst, source = tree.children[:2]
    assert isinstance(source, Tree)
    return lddw_source(reg64(token_of(dst)), source)


def _load(tree: Tree[Token], opcode: int | None) -> Draft:
    dst, mem = tree.children
    size, signed, base, off = pointer_of(mem)
    if signed:
        spec = _find(Kind.LDSX, size=size)
        if spec is None:
            raise Mistake(mem, "there is no sign-extending 64-bit load", "write u64")
        return Draft(Insn(spec, reg64(token_of(dst)), base, off))
    return Draft(Insn(_row(Kind.LDX, size=size), value_reg(token_of(dst), size), base, off))


def _packet(tree: Tree[Token], opcode: int | None) -> Draft:
    dst, type_, index = tree.children
    if str(dst) not in ("r0", "w0"):
        raise Mistake(dst, f"packet loads go to r0, not {dst}", "write r0")
    size, signed = type_of(token_of(type_))
    assert isinstance(index, Tree)
    base, offset = index_of(index)
    kind = Kind.LD_ABS if base is None else Kind.LD_IND
    spec = _find(kind, size=size)
    if signed or spec is None:
        raise Mistake(type_, "packet loads are of u8, u16 or u32")
    return Draft(Insn(spec, src=0 if base is None else reg64(base), imm=offset32(offset)))


def _store(tree: Tree[Token], opcode: int | None) -> Draft:
    mem, value = tree.children
    size, base, off = unsigned_pointer_of(mem)
    value = token_of(value)
    if value.type == "REG":
        return Draft(Insn(_row(Kind.STX, size=size), base, value_reg(value, size), off))
    imm = imm32(value, wraps=size is not MemSize.DW)
    return Draft(Insn(_row(Kind.ST, size=size), base, off=off, imm=imm))


def _lock(tree: Tree[Token], opcode: int | None) -> Draft:
    mem, sign, src = tree.children
    size, base, off = unsigned_pointer_of(mem)
    op = _ATOMIC_OF_SIGN.get(str(sign))
    if op is None:
        raise Mistake(sign, f"no atomic operation {sign}", f"one of {' '.join(_ATOMIC_OF_SIGN)}")
    return _atomic(op, mem, size, base, off, token_of(src))


def _atomic(op: AtomicOp, at: Node, size: MemSize, base: int, off: int, src: Token) -> Draft:
    spec = _find(Kind.ATOMIC, op, size=size)
    if spec is None:
        raise Mistake(at, "atomic operations are 32 or 64 bits wide", "write u32 or u64")
    return Draft(Insn(spec, base, value_reg(src, size), off))


def _assigned_call(tree: Tree[Token], opcode: int | None) -> Draft:
    """`r0 = name(…)`: fetching atomics, load-acquire and address space casts."""
    dst, name, *args = tree.children
    dst, name = token_of(dst), token_of(name)
    if name == "addr_space_cast":
        src, to, from_ = map(token_of, _arguments(name, args, "REG", "INT", "INT"))
        spaces = address_space(to) << 16 | address_space(from_)
        spec = _row(Kind.ADDR_SPACE_CAST)
        return Draft(Insn(spec, reg64(dst), reg64(src), imm=s32(spaces)))
    if name == "load_acquire":
        (pointer,) = _arguments(name, args, "typed")
        size, base, off = unsigned_pointer_of(pointer)
        return Draft(Insn(_row(Kind.LOAD_ACQ, size=size), value_reg(dst, size), base, off))
    if name not in _ATOMIC_CALL:
        raise Mistake(name, f"no operation is called {quote(name)}", known(name, _ASSIGNED_CALLS))
    op, fixed_size, has_type = _ATOMIC_CALL[name]
    shape = ("typed" if has_type else "addr_arg",) + ("REG",) * (1 + (op is AtomicOp.CMPXCHG))
    pointer, *registers = _arguments(name, args, *shape)
    if has_type:
        size, base, off = unsigned_pointer_of(pointer)
        if fixed_size is not None and size is not fixed_size:
            raise Mistake(pointer, f"{name} works on u64", "write u64, or atomic_ for u32")
    else:
        assert fixed_size is not None
        size, (base, off) = fixed_size, address_of(pointer)
    for register in registers:
        value_reg(token_of(register), size)
    value_reg(dst, size)
    if op is AtomicOp.CMPXCHG:
        for register in (dst, registers[0]):
            if reg(token_of(register)) != 0:
                raise Mistake(register, "compare and exchange uses r0", "write r0 or w0")
    elif reg(dst) != reg(token_of(registers[-1])):
        raise Mistake(dst, f"the old value goes to {registers[-1]}", "use one register for both")
    return _atomic(op, pointer, size, base, off, token_of(registers[-1]))


def _bare_call(tree: Tree[Token], opcode: int | None) -> Draft:
    name = token_of(tree.children[0])
    args = tree.children[1:]
    if name != "store_release":
        raise Mistake(name, f"{quote(name)} is not a statement", known(name, ["store_release"]))
    pointer, src = _arguments(name, args, "typed", "REG")
    size, base, off = unsigned_pointer_of(pointer)
    spec = _row(Kind.STORE_REL, size=size)
    return Draft(Insn(spec, base, value_reg(token_of(src), size), off))


def _condition(tree: Tree[Token], opcode: int | None) -> Draft:
    dst, sign, value, target = tree.children
    dst, value = token_of(dst), token_of(value)
    op, width = _JUMP_OF_SIGN[str(sign)], width_of(dst)
    # The kernel prints the immediate of every comparison as an unsigned 32-bit number.
    wraps = width == 32 or opcode is not None or isinstance(target, Tree)
    if value.type == "REG":
        require_same_width(dst, value)
        spec = _row(Kind.JUMP, op, width=width, operand=Operand.X)
        insn = Insn(spec, reg(dst), reg(value))
    else:
        spec = _row(Kind.JUMP, op, width=width, operand=Operand.K)
        insn = Insn(spec, reg(dst), imm=imm32(value, wraps=wraps))
    return _jump(insn, target)


def _goto(tree: Tree[Token], opcode: int | None) -> Draft:
    return _jump(Insn(SPECS["goto"]), tree.children[0])


def _jump(insn: Insn, target: Node) -> Draft:
    off, name = target_of(target)
    return Draft(replace(insn, off=off), name=name)


def _call_number(tree: Tree[Token], opcode: int | None) -> Draft:
    return Draft(Insn(SPECS["call"], imm=imm32(token_of(tree.children[0]), wraps=True)))


def _call_helper(tree: Tree[Token], opcode: int | None) -> Draft:
    return Draft(Insn(SPECS["call"], imm=_callee(tree.children[0])))


def _call_kfunc(tree: Tree[Token], opcode: int | None) -> Draft:
    callee, off = tree.children
    slot = 0 if off is None else integer(token_of(off))
    return Draft(Insn(SPECS["call_kfunc"], off=slot, imm=_callee(callee)))


def _callee(node: Node) -> int:
    token = token_of(node)
    return imm32(token, text=token.rpartition("#")[2], wraps=True)


def _call_target(tree: Tree[Token], opcode: int | None) -> Draft:
    off, name = target_of(tree.children[0])
    return Draft(Insn(SPECS["call_local"], imm=off), name=name)


def _arguments(name: Token, args: list[Node], *shape: str) -> list[Node]:
    """`args`, checked to be of the kinds (token types or rule names) in `shape`."""
    kinds = tuple(str(a.data) if isinstance(a, Tree) else a.type for a in args)
    if kinds != shape:
        words = ", ".join(_ARGUMENT_WORDS[kind] for kind in shape)
        raise Mistake(name, f"wrong arguments of {name}", f"it takes ({words})")
    return args


_ARGUMENT_WORDS = {
    "REG": "register",
    "INT": "number",
    "typed": "(type *)(register + offset)",
    "addr_arg": "register + offset",
}


# --- tables ---

_ROWS = {(row.kind, row.op, row.width, row.operand, row.size): row for row in TABLE}
_ALU_OF_SIGN = {sign: op for op, sign in ALU_SIGN.items()}
_JUMP_OF_SIGN = {sign: op for op, sign in JUMP_SIGN.items()}
_ATOMIC_OF_SIGN = {sign: op for op, sign in LOCK_SIGN.items()}
_OP_OF_CAST = {cast: op for op, cast in CAST.items()}
_SWAPS = [op for op in AluOp if op.value.startswith(("le", "be", "bswap"))]


def _atomic_calls() -> dict[str, tuple[AtomicOp, MemSize | None, bool]]:
    """Function names of atomics: operation, the size the name fixes, whether a type is given."""
    calls: dict[str, tuple[AtomicOp, MemSize | None, bool]] = {}
    for op in AtomicOp:
        if op not in LOCK_SIGN:
            calls[f"atomic_{op.value}"] = (op, None, True)
            calls[f"atomic64_{op.value}"] = (op, MemSize.DW, True)
    for op in (AtomicOp.XCHG, AtomicOp.CMPXCHG):
        calls[f"{op.value}_64"] = (op, MemSize.DW, False)
        calls[f"{op.value}32_32"] = (op, MemSize.W, False)
    return calls


_ATOMIC_CALL = _atomic_calls()
_ASSIGNED_CALLS = (*_ATOMIC_CALL, "load_acquire", "addr_space_cast")


def _find(
    kind: Kind,
    op: AluOp | JmpOp | AtomicOp | None = None,
    *,
    width: int = 0,
    operand: Operand | None = None,
    size: MemSize | None = None,
) -> InsnSpec | None:
    return _ROWS.get((kind, op, width, operand, size))


def _row(
    kind: Kind,
    op: AluOp | JmpOp | AtomicOp | None = None,
    *,
    width: int = 0,
    operand: Operand | None = None,
    size: MemSize | None = None,
) -> InsnSpec:
    """The one row of the table that these select."""
    return _ROWS[kind, op, width, operand, size]


BUILDERS: dict[str, Callable[[Tree[Token], int | None], Draft]] = {
    "mnemonic": mnemonic,
    "alu": _alu,
    "move": _move,
    "negate": _negate,
    "move_sx": _move_sx,
    "swap": _swap,
    "wide": _wide,
    "named": _named_source,
    "load": _load,
    "packet": _packet,
    "assigned_call": _assigned_call,
    "bare_call": _bare_call,
    "store": _store,
    "lock": _lock,
    "condition": _condition,
    "goto": _goto,
    "call_number": _call_number,
    "call_helper": _call_helper,
    "call_kfunc": _call_kfunc,
    "call_target": _call_target,
}
