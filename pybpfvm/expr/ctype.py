"""C types of expressions: a BTF type with what arithmetic asks of it at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final

from pybpfvm.btf.types import (
    POINTER_BYTES,
    Array,
    Btf,
    BtfKind,
    Enum64,
    Int,
    Member,
    Ptr,
    Struct,
    Union,
)
from pybpfvm.btf.types import Enum as EnumType
from pybpfvm.errors import InputError
from pybpfvm.uring_backend.abi import SQE_BYTES


class Shape(Enum):
    """What can be done with values of a type."""

    NUMBER = "a number"
    POINTER = "a pointer"
    RECORD = "a struct"
    ARRAY = "an array"
    TEXT = "a text"
    NOTHING = "nothing that has a value"


@dataclass(frozen=True, slots=True)
class CType:
    """The type `type_id` of `btf`, or a pointer to `target` where that is not None.

    `size` in bytes; `signed` and `size` say what a NUMBER can be. `count` is an array's.
    """

    shape: Shape
    size: int
    signed: bool
    btf: Btf
    type_id: int
    target: CType | None = None
    count: int = 0

    @property
    def name(self) -> str:
        """As C writes it, without the brackets of an array."""
        if self.target is not None:
            inner = self.target.name
            return f"{inner}*" if inner.endswith("*") else f"{inner} *"
        return type_name(self.btf, self.type_id)

    def pointee(self) -> CType:
        """What a pointer points to, or an array has as elements."""
        if self.target is not None:
            return self.target
        found = self.btf.type(self.btf.resolve(self.type_id))
        if isinstance(found, Array):
            return ctype(self.btf, found.element_id)
        assert isinstance(found, Ptr)
        return ctype(self.btf, found.type_id)

    def pointer(self) -> CType:
        """A pointer to this type."""
        return CType(Shape.POINTER, POINTER_BYTES, False, self.btf, 0, self)

    def members(self) -> Sequence[Member]:
        """Of a struct or union."""
        found = self.btf.type(self.btf.resolve(self.type_id))
        return found.members if isinstance(found, Struct | Union) else ()

    def is_char(self) -> bool:
        """Whether it is a character of one byte."""
        found = self.btf.type(self.btf.resolve(self.type_id)) if self.target is None else None
        return (
            isinstance(found, Int)
            and found.size == 1
            and (found.char or found.name in ("char", "unsigned char"))
        )

    def is_bool(self) -> bool:
        """Whether it is `_Bool`."""
        found = self.btf.type(self.btf.resolve(self.type_id)) if self.target is None else None
        return isinstance(found, Int) and (found.boolean or found.name in ("_Bool", "bool"))


@lru_cache(maxsize=4096)
def ctype(btf: Btf, type_id: int) -> CType:
    """The type; NOTHING for what has no value that an expression could have."""
    found = btf.type(btf.resolve(type_id))
    match found:
        case Int() | EnumType() | Enum64() if 0 < found.size <= POINTER_BYTES:
            return CType(Shape.NUMBER, found.size, found.signed, btf, type_id)
        case Ptr():
            return CType(Shape.POINTER, POINTER_BYTES, False, btf, type_id)
        case Struct() | Union():
            return CType(Shape.RECORD, found.size, False, btf, type_id)
        case Array():
            try:
                size = btf.size(type_id)
            except InputError:
                return CType(Shape.NOTHING, 0, False, btf, type_id)
            return CType(Shape.ARRAY, size, False, btf, type_id, count=found.count)
        case _:
            return CType(Shape.NOTHING, 0, False, btf, type_id)


_WRITTEN = {BtfKind.STRUCT: "struct ", BtfKind.UNION: "union ", BtfKind.FWD: "struct "}
_ENUMS = (BtfKind.ENUM, BtfKind.ENUM64)
_MODIFIER_TEXT = {BtfKind.CONST: "const ", BtfKind.VOLATILE: "volatile "}


def type_name(btf: Btf, type_id: int, depth: int = 0) -> str:
    """As C writes it."""
    if not type_id:
        return "void"
    if depth > 8:
        return "..."
    kind = btf.kind(type_id)
    name = btf.name(type_id)
    if kind in _WRITTEN:
        return _WRITTEN[kind] + (name or "{...}")
    if kind in _ENUMS:
        return f"enum {name or '{...}'}"
    if kind is BtfKind.PTR:
        found = btf.type(type_id)
        assert isinstance(found, Ptr)
        inner = type_name(btf, found.type_id, depth + 1)
        return f"{inner}*" if inner.endswith("*") else f"{inner} *"
    if kind is BtfKind.ARRAY:
        array = btf.type(type_id)
        assert isinstance(array, Array)
        return f"{type_name(btf, array.element_id, depth + 1)}[{array.count}]"
    if kind is BtfKind.FUNC_PROTO:
        return "function"
    target = getattr(btf.type(type_id), "type_id", 0)
    if kind in _MODIFIER_TEXT:
        return _MODIFIER_TEXT[kind] + type_name(btf, target, depth + 1)
    return name or type_name(btf, target, depth + 1)


# --- types that every expression knows ----------------------------------------------------------

_BUILTIN = (
    Int("u8", 1, 8),
    Int("u16", 2, 16),
    Int("u32", 4, 32),
    Int("u64", 8, 64),
    Int("s8", 1, 8, signed=True),
    Int("s16", 2, 16, signed=True),
    Int("s32", 4, 32, signed=True),
    Int("s64", 8, 64, signed=True),
    Int("char", 1, 8, signed=True, char=True),
    Int("unsigned char", 1, 8, char=True),
    Int("_Bool", 1, 8, boolean=True),
    Array(4, 3, 2),
    Struct(
        "io_uring_cqe",
        32,
        (
            Member("user_data", 4, 0),
            Member("res", 7, 64),
            Member("flags", 3, 96),
            Member("big_cqe", 12, 128),
        ),
    ),
    Struct(
        "io_uring_sqe",
        SQE_BYTES,
        tuple(
            Member(name, type_id, 8 * at)
            for at, type_id, names in (
                (0, 1, "opcode"),
                (1, 1, "flags"),
                (2, 2, "ioprio"),
                (4, 7, "fd"),
                (8, 4, "off addr2"),
                (16, 4, "addr splice_off_in"),
                (24, 3, "len poll_flags"),
                (
                    28,
                    3,
                    "op_flags rw_flags fsync_flags poll32_events msg_flags timeout_flags "
                    "accept_flags cancel_flags open_flags statx_flags fadvise_advice "
                    "splice_flags bpf_flags",
                ),
                (32, 4, "user_data"),
                (40, 2, "buf_index buf_group"),
                (42, 2, "personality"),
                (44, 7, "file_index splice_fd_in"),
                (48, 4, "addr3"),
                (48, 2, "cq_idx"),
            )
            for name in names.split()
        ),
    ),
)
BUILTIN: Final = Btf.of(_BUILTIN, where="types of expressions")
U8, U16, U32, U64, S8, S16, S32, S64, CHAR, UCHAR, BOOL = (ctype(BUILTIN, i) for i in range(1, 12))
CQE, SQE = ctype(BUILTIN, 13), ctype(BUILTIN, 14)
VOID: Final = ctype(BUILTIN, 0)
TEXT: Final = CType(Shape.TEXT, 0, False, BUILTIN, 0)

_BY_SIZE = {(1, False): U8, (2, False): U16, (4, False): U32, (8, False): U64}
_BY_SIZE |= {(1, True): S8, (2, True): S16, (4, True): S32, (8, True): S64}


def integer_type(words: Sequence[str]) -> CType | None:
    """The type that words like `unsigned long` name, None if they name none. `long` has 64 bits."""
    left = [word for word in words if word not in ("const", "volatile")]
    if left == ["void"]:
        return VOID
    if len(left) == 1:
        word = left[0].removeprefix("__")
        if word in ("_Bool", "bool"):
            return BOOL
        if word == "size_t":
            return U64
        digits = word.lstrip("usint").removesuffix("_t")
        if digits.isdigit() and word[0] in "usi":
            return _BY_SIZE[int(digits) // 8, word[0] in "si"]
    counts = {word: left.count(word) for word in left}
    unsigned, signed = counts.pop("unsigned", 0), counts.pop("signed", 0)
    if unsigned + signed > 1:
        return None
    bare = tuple(sorted(counts.items()))
    if bare == (("char", 1),):
        return UCHAR if unsigned else CHAR
    sizes = {
        (): 4 if unsigned + signed else 0,
        (("int", 1),): 4,
        (("short", 1),): 2,
        (("int", 1), ("short", 1)): 2,
        (("long", 1),): 8,
        (("long", 2),): 8,
        (("int", 1), ("long", 1)): 8,
        (("int", 1), ("long", 2)): 8,
    }
    size = sizes.get(bare, 0)
    return _BY_SIZE[size, not unsigned] if size else None
