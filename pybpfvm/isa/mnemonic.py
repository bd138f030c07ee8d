"""The mnemonic form of assembly text: one name per row of the table, then its operands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from lark import Token, Tree

from pybpfvm.bits import s32
from pybpfvm.isa.insn import Insn, InsnSpec
from pybpfvm.isa.notation import written_mnemonic
from pybpfvm.isa.opcodes import Kind, Operand
from pybpfvm.isa.operand import (
    SOURCES,
    Draft,
    Mistake,
    Node,
    address_space,
    imm32,
    imm64,
    index_of,
    integer,
    known,
    lddw_source,
    offset32,
    quote,
    reg64,
    target_of,
    token_of,
)
from pybpfvm.isa.table import TABLE

_Setter = Callable[[Draft, Node], Draft]


def mnemonic(tree: Tree[Token], opcode: int | None) -> Draft:
    """The instruction of a line in mnemonics; `opcode` is not looked at. Raises Mistake."""
    name = token_of(tree.children[0])
    operands = tree.children[1:]
    rows = _WRITTEN.get(str(name))
    if rows is None:
        raise Mistake(name, f"no instruction is called {quote(name)}", known(name, _WRITTEN))
    if len(rows) == 1:
        spec = rows[0]
    else:
        second = operands[1] if len(operands) > 1 else None
        operand = Operand.X if isinstance(second, Token) and second.type == "REG" else Operand.K
        spec = next(row for row in rows if row.operand is operand)
    setters = list(_setters(spec))
    if spec.kind is Kind.CALL_KFUNC and len(operands) == 1:
        setters.pop()
    if len(operands) != len(setters):
        raise Mistake(name, f"{name} takes {len(setters)} operands, not {len(operands)}")
    draft = Draft(Insn(spec))
    for setter, operand_node in zip(setters, operands, strict=True):
        draft = setter(draft, operand_node)
    return draft


def _setters(spec: InsnSpec) -> Iterator[_Setter]:
    """What each operand of the mnemonic form sets, in order."""
    match spec.kind:
        case Kind.ALU:
            yield _set_dst
            if spec.operand is not None:
                yield _set_src if spec.operand is Operand.X else _set_imm
        case Kind.ADDR_SPACE_CAST:
            yield from (_set_dst, _set_src, _set_to_space, _set_from_space)
        case Kind.JUMP:
            yield from (_set_dst, _set_src if spec.operand is Operand.X else _set_imm, _set_target)
        case Kind.GOTO | Kind.MAY_GOTO | Kind.CALL_LOCAL:
            yield _set_target
        case Kind.CALL:
            yield _set_imm
        case Kind.CALL_KFUNC:
            yield from (_set_imm, _set_off)
        case Kind.LDX | Kind.LDSX | Kind.LOAD_ACQ:
            yield from (_set_dst, _set_src_addr)
        case Kind.ST:
            yield from (_set_dst_addr, _set_imm)
        case Kind.STX | Kind.STORE_REL | Kind.ATOMIC:
            yield from (_set_dst_addr, _set_src)
        case Kind.LDDW:
            yield from (_set_dst, _set_source)
        case Kind.LD_ABS | Kind.LD_IND:
            yield _set_index


def _set_dst(draft: Draft, node: Node) -> Draft:
    return replace(draft, insn=replace(draft.insn, dst=_operand_reg(node)))


def _set_src(draft: Draft, node: Node) -> Draft:
    return replace(draft, insn=replace(draft.insn, src=_operand_reg(node)))


def _set_imm(draft: Draft, node: Node) -> Draft:
    spec = draft.insn.spec
    imm = imm32(_operand(node, "INT", "a number"), wraps=spec.width == 32)
    return replace(draft, insn=replace(draft.insn, imm=imm))


def _set_off(draft: Draft, node: Node) -> Draft:
    off = integer(_operand(node, "INT", "a number"))
    return replace(draft, insn=replace(draft.insn, off=off))


def _set_to_space(draft: Draft, node: Node) -> Draft:
    space = address_space(_operand(node, "INT", "a number"))
    return replace(draft, insn=replace(draft.insn, imm=s32(space << 16)))


def _set_from_space(draft: Draft, node: Node) -> Draft:
    space = address_space(_operand(node, "INT", "a number"))
    return replace(draft, insn=replace(draft.insn, imm=draft.insn.imm | space))


def _set_target(draft: Draft, node: Node) -> Draft:
    off, name = target_of(node)
    insn = draft.insn
    local = insn.spec.kind is Kind.CALL_LOCAL
    insn = replace(insn, imm=off) if local else replace(insn, off=off)
    return replace(draft, insn=insn, name=name)


def _set_src_addr(draft: Draft, node: Node) -> Draft:
    base, off = _operand_addr(node)
    return replace(draft, insn=replace(draft.insn, src=base, off=off))


def _set_dst_addr(draft: Draft, node: Node) -> Draft:
    base, off = _operand_addr(node)
    return replace(draft, insn=replace(draft.insn, dst=base, off=off))


def _set_source(draft: Draft, node: Node) -> Draft:
    if isinstance(node, Tree) and node.data in SOURCES:
        return lddw_source(draft.insn.dst, node)
    value = _operand(node, "INT", "a number or what it names")
    return replace(draft, insn=replace(draft.insn, imm=imm64(value)))


def _set_index(draft: Draft, node: Node) -> Draft:
    base, offset = _operand_index(node)
    insn = replace(draft.insn, imm=offset32(offset))
    if insn.spec.kind is Kind.LD_IND:
        if base is None:
            raise Mistake(node, "ld_ind needs a register", "write [r1+4], or use ld_abs")
        insn = replace(insn, src=reg64(base))
    elif base is not None:
        raise Mistake(base, "ld_abs takes no register", "write [4], or use ld_ind")
    return replace(draft, insn=insn)


def _operand(node: Node, kind: str, what: str) -> Token:
    if not isinstance(node, Token) or node.type != kind:
        raise Mistake(node, f"expected {what} here")
    return node


def _operand_reg(node: Node) -> int:
    return reg64(_operand(node, "REG", "a register"))


def _operand_index(node: Node) -> tuple[Token | None, Token | None]:
    if not isinstance(node, Tree) or node.data != "indexed":
        raise Mistake(node, "expected a place in brackets here, like [r1+8]")
    index = node.children[0]
    assert isinstance(index, Tree)
    return index_of(index)


def _operand_addr(node: Node) -> tuple[int, int]:
    base, offset = _operand_index(node)
    if base is None:
        raise Mistake(node, "an address needs a register", "write [r1+8]")
    return reg64(base), 0 if offset is None else integer(offset)


def _written() -> dict[str, list[InsnSpec]]:
    rows: dict[str, list[InsnSpec]] = {}
    for row in TABLE:
        rows.setdefault(written_mnemonic(row), []).append(row)
    return rows


_WRITTEN = _written()
