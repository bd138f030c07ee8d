"""Instructions to text, in the three forms that `pybpfvm.isa.asm` reads back.

"clang"     pseudo-C as `llvm-objdump -d --mcpu=v4` prints it:  `r1 = *(u64 *)(r2 + 0x8)`
"kernel"    pseudo-C as the verifier's log prints it:           `r1 = *(u64 *)(r2 +8)`
"mnemonic"  one name per row of the table:                      `ldxdw r1, [r2+8]`

Where a dialect has no way to say something, or says two things alike, ours adds the missing
word: docs/isa.md lists these cases.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from pybpfvm.bits import s32, s64, u32
from pybpfvm.errors import SourceLine
from pybpfvm.isa.codec import pcs
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.notation import (
    ALU_SIGN,
    CAST,
    JUMP_SIGN,
    LOCK_SIGN,
    SIGNED_TYPE,
    UNSIGNED_TYPE,
    written_mnemonic,
)
from pybpfvm.isa.opcodes import AluOp, AtomicOp, JmpOp, Kind, MemSize, Operand, Pseudo

Style = Literal["clang", "kernel", "mnemonic"]

# Given an instruction and its pc, the name of what it calls, loads the address of or jumps to;
# None where there is none.
Resolve = Callable[[Insn, int], str | None]


def format_insn(
    insn: Insn, pc: int = 0, *, style: Style = "clang", resolve: Resolve | None = None
) -> str:
    """The text of one instruction, on one line, without its pc."""
    name = resolve(insn, pc) if resolve is not None else None
    if name is not None:
        name = _identifier(name)
    if style == "mnemonic":
        text = _mnemonic(insn)
    else:
        text = _pseudo_c(insn, _CLANG if style == "clang" else _KERNEL, name or "unknown")
        if style == "kernel" and insn.spec.kind in (Kind.CALL, Kind.CALL_KFUNC):
            return text
    return text if name is None else f"{text} <{name}>"


def format_program(
    insns: Sequence[Insn],
    *,
    style: Style = "clang",
    resolve: Resolve | None = None,
    lines: Mapping[int, SourceLine] | None = None,
    labels: Mapping[int, str] | None = None,
) -> list[str]:
    """A listing, one entry per line of text, which `asm.assemble` reads back.

    `lines` (C source by pc) come as comments before the instruction they start at, `labels`
    (names by pc) as lines of their own. The kernel style puts `pc: (opcode)` before the
    instruction as the verifier's log does, the clang style `pc:`.
    """
    lines = lines or {}
    labels = labels or {}
    out: list[str] = []
    shown: SourceLine | None = None
    for pc, insn in zip(pcs(insns), insns, strict=True):
        if pc in labels:
            out.append(f"{_identifier(labels[pc])}:")
        source = lines.get(pc)
        if source is not None and source != shown:
            shown = source
            out.append(_one_line(f"; {source.text.strip()} @ {source}"))
        text = format_insn(insn, pc, style=style, resolve=resolve)
        match style:
            case "kernel":
                out.append(f"{pc}: ({insn.spec.opcode:02x}) {text}")
            case "clang":
                out.append(f"{pc:8}:\t{text}")
            case _:
                out.append(f"\t{text}")
    return out


class _Clang:
    """Numbers and addresses as llvm-objdump writes them: all hexadecimal."""

    kernel = False

    def imm(self, value: int) -> str:
        return f"{value:#x}"

    def compared(self, value: int) -> str:
        return f"{value:#x}"

    def addr(self, base: int, off: int) -> str:
        return f"r{base} {'-' if off < 0 else '+'} {abs(off):#x}"

    def target(self, off: int) -> str:
        return f"{off:+#x}"


class _Kernel(_Clang):
    """Numbers and addresses as the kernel's log writes them: mostly decimal."""

    kernel = True

    def imm(self, value: int) -> str:
        return str(value)

    def compared(self, value: int) -> str:
        return f"{u32(value):#x}"

    def addr(self, base: int, off: int) -> str:
        return f"r{base} {off:+d}"

    def target(self, off: int) -> str:
        return f"pc{off:+d}"


_CLANG = _Clang()
_KERNEL = _Kernel()


def _pseudo_c(insn: Insn, dialect: _Clang, name: str) -> str:
    spec = insn.spec
    dst, src, off, imm = insn.dst, insn.src, insn.off, insn.imm
    match spec.kind:
        case Kind.ALU:
            return _alu(insn, dialect)
        case Kind.ADDR_SPACE_CAST:
            spaces = f"{dialect.imm(u32(imm) >> 16)}, {dialect.imm(imm & 0xFFFF)}"
            return f"r{dst} = addr_space_cast(r{src}, {spaces})"
        case Kind.JUMP:
            assert isinstance(spec.op, JmpOp)
            letter = _letter(spec.width)
            right = dialect.compared(imm) if spec.operand is Operand.K else f"{letter}{src}"
            sign = JUMP_SIGN[spec.op]
            return f"if {letter}{dst} {sign} {right} goto {dialect.target(off)}"
        case Kind.GOTO | Kind.MAY_GOTO:
            return f"{spec.mnemonic} {dialect.target(off)}"
        case Kind.CALL:
            return f"call {name}#{imm}" if dialect.kernel else f"call {imm:#x}"
        case Kind.CALL_LOCAL:
            return f"call pc{imm:+d}"
        case Kind.CALL_KFUNC:
            return f"call kfunc {name}#{imm}" + (f", {off}" if off else "")
        case Kind.EXIT:
            return "exit"
        case Kind.LDDW:
            if insn.src != Pseudo.NONE:
                return f"r{dst} = {_pseudo_source(insn)}" + ("" if dialect.kernel else " ll")
            if dialect.kernel:
                return f"r{dst} = {imm:#x}"
            return f"r{dst} = {s64(imm):#x} ll"
        case Kind.LD_ABS:
            return f"r0 = *({_type(insn)} *)skb[{dialect.imm(imm)}]"
        case Kind.LD_IND:
            # llvm-objdump leaves the immediate out, as if it were always 0.
            index = f"r{src} + {dialect.imm(imm)}" if dialect.kernel or imm else f"r{src}"
            return f"r0 = *({_type(insn)} *)skb[{index}]"
    return _memory(insn, dialect)


def _alu(insn: Insn, dialect: _Clang) -> str:
    spec = insn.spec
    assert isinstance(spec.op, AluOp)
    letter = _letter(spec.width)
    dst = f"{letter}{insn.dst}"
    if spec.op in ALU_SIGN:
        right = dialect.imm(insn.imm) if spec.operand is Operand.K else f"{letter}{insn.src}"
        return f"{dst} {ALU_SIGN[spec.op]} {right}"
    if spec.op in CAST:
        return f"{dst} = ({CAST[spec.op]}){letter}{insn.src}"
    if spec.op is AluOp.NEG:
        return f"{dst} = -{dst}"
    return f"{dst} = {spec.op.value} {dst}"


def _memory(insn: Insn, dialect: _Clang) -> str:
    spec = insn.spec
    kind = spec.kind
    base = insn.src if kind in (Kind.LDX, Kind.LDSX, Kind.LOAD_ACQ) else insn.dst
    addr = dialect.addr(base, insn.off)
    typed = f"({_type(insn)} *)({addr})"
    # llvm-objdump names the 32-bit half of a register that narrow accesses go through.
    narrow = not dialect.kernel and spec.size is not MemSize.DW
    value = "w" if narrow else "r"
    match kind:
        case Kind.LDX:
            return f"{value}{insn.dst} = *{typed}"
        case Kind.LDSX:
            return f"r{insn.dst} = *{typed}"
        case Kind.LOAD_ACQ:
            return f"{value}{insn.dst} = load_acquire({typed})"
        case Kind.STORE_REL:
            return f"store_release({typed}, {value}{insn.src})"
        case Kind.ST:
            return f"*{typed} = {dialect.imm(insn.imm)}"
        case Kind.STX:
            return f"*{typed} = {value}{insn.src}"
    assert kind is Kind.ATOMIC
    assert isinstance(spec.op, AtomicOp)
    src = f"{value}{insn.src}"
    if spec.op in LOCK_SIGN:
        return f"lock *{typed} {LOCK_SIGN[spec.op]} {src}"
    result, args = (f"{value}0", f"{value}0, {src}") if spec.op is AtomicOp.CMPXCHG else (src, src)
    if dialect.kernel:
        bits = "64" if spec.size is MemSize.DW else ""
        return f"{result} = atomic{bits}_{spec.op.value}({typed}, {args})"
    if spec.op in (AtomicOp.XCHG, AtomicOp.CMPXCHG):
        suffix = "_64" if spec.size is MemSize.DW else "32_32"
        return f"{result} = {spec.op.value}{suffix}({addr}, {args})"
    return f"{result} = atomic_{spec.op.value}({typed}, {args})"


def _mnemonic(insn: Insn) -> str:
    spec = insn.spec
    dst, src = f"r{insn.dst}", f"r{insn.src}"
    operands: tuple[str, ...]
    match spec.kind:
        case Kind.ALU if spec.operand is None:
            operands = (dst,)
        case Kind.ALU:
            operands = (dst, _right(insn))
        case Kind.ADDR_SPACE_CAST:
            operands = (dst, src, str(u32(insn.imm) >> 16), str(insn.imm & 0xFFFF))
        case Kind.JUMP:
            operands = (dst, _right(insn), f"{insn.off:+d}")
        case Kind.GOTO | Kind.MAY_GOTO:
            operands = (f"{insn.off:+d}",)
        case Kind.CALL:
            operands = (str(insn.imm),)
        case Kind.CALL_LOCAL:
            operands = (f"{insn.imm:+d}",)
        case Kind.CALL_KFUNC:
            operands = (str(insn.imm), str(insn.off)) if insn.off else (str(insn.imm),)
        case Kind.EXIT:
            operands = ()
        case Kind.LDX | Kind.LDSX | Kind.LOAD_ACQ:
            operands = (dst, f"[{src}{insn.off:+d}]")
        case Kind.ST:
            operands = (f"[{dst}{insn.off:+d}]", str(insn.imm))
        case Kind.STX | Kind.STORE_REL | Kind.ATOMIC:
            operands = (f"[{dst}{insn.off:+d}]", src)
        case Kind.LDDW:
            operands = (dst, f"{insn.imm:#x}" if insn.src == Pseudo.NONE else _pseudo_source(insn))
        case Kind.LD_ABS:
            operands = (f"[{insn.imm}]",)
        case Kind.LD_IND:
            operands = (f"[{src}{insn.imm:+d}]",)
    return f"{written_mnemonic(spec)} {', '.join(operands)}".rstrip()


def _right(insn: Insn) -> str:
    return str(insn.imm) if insn.spec.operand is Operand.K else f"r{insn.src}"


def _pseudo_source(insn: Insn) -> str:
    """What an lddw names, when it is not a number."""
    low, high = u32(insn.imm), insn.imm >> 32
    match Pseudo(insn.src):
        case Pseudo.MAP_FD:
            return f"map[fd:{low}]"
        case Pseudo.MAP_VALUE:
            return f"map[fd:{low}][0]+{high}"
        case Pseudo.BTF_ID:
            return f"btf[{low}][{high}]" if high else f"btf[{low}]"
        case Pseudo.FUNC:
            return f"func pc{s32(low):+d}"
        case Pseudo.MAP_IDX:
            return f"map[{low}]"
        case Pseudo.MAP_IDX_VALUE:
            return f"map[{low}][0]+{high}"
    raise AssertionError(f"no text for a plain number: {insn}")


def _type(insn: Insn) -> str:
    size = insn.spec.size
    assert size is not None
    return SIGNED_TYPE[size] if insn.spec.kind is Kind.LDSX else UNSIGNED_TYPE[size]


def _letter(width: int) -> str:
    return "r" if width == 64 else "w"


def _identifier(name: str) -> str:
    """`name` with what the assembler would not take for a part of a name replaced by `_`."""
    text = re.sub(r"[^A-Za-z0-9_.$]", "_", name)
    return text if re.match(r"(?![rw]([0-9]|10)$)[A-Za-z_.$]", text) else f"_{text}"


def _one_line(text: str) -> str:
    return "".join(ch if ch.isprintable() or ch == "\t" else "?" for ch in text)
