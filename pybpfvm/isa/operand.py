"""Operands of assembly text: registers, numbers, addresses and targets, from parsed tokens.

Everything here takes nodes of the tree that `asm.lark` describes and raises `Mistake` at the
node that is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from lark import Token, Tree

from pybpfvm.bits import s32, u32, u64
from pybpfvm.errors import InputError
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import MemSize, Pseudo
from pybpfvm.isa.table import SPECS

Node = Token | Tree[Token]


class Mistake(Exception):
    """Something wrong at `place` of the current line; `assemble` makes an InputError of it."""

    def __init__(self, place: Node | int, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.column = place if isinstance(place, int) else column_of(place)
        self.reason = reason
        self.remedy = remedy

    def located(self, where: str, line: int) -> InputError:
        """The error, with the place in the text."""
        place = f"line {line}, column {self.column}"
        return InputError(
            self.reason, where=f"{where}, {place}" if where else place, remedy=self.remedy
        )


@dataclass(frozen=True, slots=True)
class Draft:
    """An instruction, perhaps with a name instead of the number that `_finish` fills in.

    `name` is a label (jumps, calls, `func`), a helper (calls) or a map, as the instruction says.
    """

    insn: Insn
    place: Node | int = 1
    name: Token | None = None
    line: int = 0
    pc: int = 0


def pointer_of(node: Node) -> tuple[MemSize, bool, int, int]:
    """(size, signed, base register, offset) of `*(type *)(reg + off)` or its pointer."""
    assert isinstance(node, Tree)
    type_, addr = node.children
    size, signed = type_of(token_of(type_))
    return size, signed, *address_of(addr)


def unsigned_pointer_of(node: Node) -> tuple[MemSize, int, int]:
    """(size, base register, offset) of a pointer that something is stored to. Raises Mistake."""
    size, signed, base, off = pointer_of(node)
    if signed:
        raise Mistake(node, "only loads have signed types", f"write u{size * 8}")
    return size, base, off


def address_of(node: Node) -> tuple[int, int]:
    """(register, offset) of `reg + off`. Raises Mistake."""
    assert isinstance(node, Tree)
    base, off = node.children
    if off is not None and token_of(off)[0] not in "+-":
        raise Mistake(off, "expected + or - before the offset")
    return reg64(token_of(base)), 0 if off is None else integer(token_of(off))


def index_of(tree: Tree[Token]) -> tuple[Token | None, Token | None]:
    """(register, number) of what stands in brackets; each may be missing."""
    tokens = [token_of(node) for node in tree.children if node is not None]
    base = tokens.pop(0) if tokens[0].type == "REG" else None
    return base, tokens[0] if tokens else None


def type_of(token: Token) -> tuple[MemSize, bool]:
    """(size, signed) of a type like `u8` or `s32 *`."""
    text = token.rstrip("* \t")
    return MemSize(int(text[1:]) // 8), text[0] == "s"


def target_of(node: Node) -> tuple[int, Token | None]:
    """(offset in slots, label); the offset is 0 where there is a label."""
    if isinstance(node, Tree):
        if node.data != "pc_relative":
            raise Mistake(node, "expected a target here: a label, +3 or pc+3")
        node = node.children[0]
    token = token_of(node)
    if token.type == "NAME":
        return 0, token
    if token.type != "INT" or token[0] not in "+-":
        raise Mistake(token, f"{quote(token)} is no target", "write a label, or +3 to skip 3 slots")
    return integer(token), None


def address_space(token: Token) -> int:
    """The number of an address space, 16 bits. Raises Mistake."""
    value = integer(token)
    if not 0 <= value <= 0xFFFF:
        raise Mistake(token, f"address space {quote(token)}", "it must lie between 0 and 65535")
    return value


def width_of(token: Token) -> int:
    """64 for `r1`, 32 for `w1`."""
    return 64 if token[0] == "r" else 32


def reg(token: Token) -> int:
    """The register's number, whichever half is named."""
    return int(token[1:])


def reg64(token: Token) -> int:
    """The number of a whole register. Raises Mistake for a low half."""
    if width_of(token) != 64:
        raise Mistake(token, f"{token} is the low half of a register", f"write r{token[1:]}")
    return reg(token)


def value_reg(token: Token, size: MemSize) -> int:
    """A register that holds what memory of `size` does: its low half may be named."""
    return reg64(token) if size is MemSize.DW else reg(token)


def require_same_width(dst: Token, src: Token) -> None:
    """Raise Mistake unless both are whole registers, or both low halves."""
    if width_of(dst) != width_of(src):
        raise Mistake(src, f"{dst} and {src} differ in width", "use two r or two w registers")


def require_same(dst: Token, src: Token) -> None:
    """Raise Mistake unless the operation works in place."""
    if dst != src:
        raise Mistake(src, f"this operation works in place, on {dst}", f"write {dst} here")


def integer(token: Token, text: str | None = None) -> int:
    """The value of a number; at most 64 bits."""
    digits = "".join((text or token).split()).lower()
    # Longer ones cannot be meant, and converting them takes time that grows with the square.
    if len(digits) > 40 or not -(1 << 63) <= (value := int(digits, _base(digits))) < 1 << 64:
        raise Mistake(token, f"{quote(token)} does not fit in 64 bits")
    return value


def _base(digits: str) -> int:
    return 16 if "x" in digits else 10


def imm32(token: Token, text: str | None = None, *, wraps: bool) -> int:
    """A signed 32-bit number. With `wraps`, one that fits unsigned stands for the same bits."""
    value = integer(token, text)
    if -(1 << 31) <= value < 1 << 31:
        return value
    if value < 1 << 32 and value > 0:
        if wraps:
            return s32(value)
        raise Mistake(
            token,
            f"{quote(token)} does not fit in the immediate, which is signed",
            f"write {s32(value)} if you mean its sign extension, or load it with ll",
        )
    raise Mistake(
        token, f"{quote(token)} does not fit in a 32-bit immediate", "load it with ll first"
    )


def offset32(token: Token | None) -> int:
    """A signed 32-bit offset, 0 if there is none. Raises Mistake."""
    return 0 if token is None else imm32(token, wraps=True)


def imm64(token: Token) -> int:
    """A 64-bit number as the bits of an LDDW. Raises Mistake."""
    return u64(integer(token))


def unsigned32(token: Token) -> int:
    """A number of 32 bits without sign. Raises Mistake."""
    value = integer(token)
    if not 0 <= value < 1 << 32:
        raise Mistake(token, f"{quote(token)} is not an unsigned 32-bit number")
    return value


def token_of(node: Node) -> Token:
    """The node, where the grammar has no tree."""
    assert isinstance(node, Token), node
    return node


def lddw_source(dst: int, tree: Tree[Token]) -> Draft:
    """What `lddw` loads besides numbers; the name of a map or function is filled in later."""
    pseudo: Pseudo
    low, *rest = tree.children
    if tree.data == "func":
        off, name = target_of(low)
        return Draft(Insn(SPECS["lddw"], dst, Pseudo.FUNC, imm=u32(off)), name=name)
    high = 0
    if tree.data == "btf_id":
        pseudo = Pseudo.BTF_ID
        if rest[0] is not None:
            high = unsigned32(token_of(rest[0]))
    else:
        element, offset = rest
        by_fd = tree.data == "map_fd"
        pseudo = Pseudo.MAP_FD if by_fd else Pseudo.MAP_IDX
        if element is not None:
            if integer(token_of(element)) != 0:
                raise Mistake(element, "only element 0 has a constant address", "write [0]")
            pseudo = Pseudo.MAP_VALUE if by_fd else Pseudo.MAP_IDX_VALUE
            if token_of(offset)[0] != "+":
                raise Mistake(offset, "expected + before the offset into the value")
            high = unsigned32(token_of(offset))
    name = token_of(low) if token_of(low).type == "NAME" else None
    number = 0 if name is not None else unsigned32(token_of(low))
    return Draft(Insn(SPECS["lddw"], dst, pseudo, imm=high << 32 | number), name=name)


SOURCES = frozenset({"map_index", "map_fd", "btf_id", "func"})


def column_of(node: Node) -> int:
    """1-based column where a token, or the first token of a tree, starts."""
    while isinstance(node, Tree):
        first = next((child for child in node.children if child is not None), None)
        if first is None:
            return 1
        node = first
    return node.column or 1


def quote(token: str) -> str:
    """The token in quotes, cut if it is long."""
    return repr(str(token) if len(token) <= 40 else f"{token[:37]}...")


def known(name: str, names: object) -> str:
    """A hint at the known name closest to `name`."""
    assert isinstance(names, (Mapping, list, tuple))
    close = get_close_matches(name[:64], [str(n) for n in names][:2000], n=1)
    return f"did you mean {close[0]}?" if close else ""


def check_size(text: str, where: str, chars: int, lines: int) -> None:
    """Refuse a text of more characters or lines. Raises InputError."""
    if len(text) > chars or text.count("\n") >= lines:
        raise InputError(
            f"text of {len(text)} characters, {text.count(chr(10)) + 1} lines",
            where=where,
            remedy=f"at most {chars} characters and {lines} lines",
        )


def define(labels: dict[str, int], found: Iterable[Token], place: int) -> None:
    """Let the labels that were found mean this place. Raises Mistake for one that has another."""
    for label in found:
        if label in labels:
            raise Mistake(label, f"label {quote(label)} is defined twice", "rename one")
        labels[str(label)] = place
