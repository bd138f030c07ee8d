"""What comes of an expression: a typed value, written as C programmers write it.

Format letters are gdb's: x hexadecimal, z the same with leading zeros, d signed, u unsigned, o
octal, t binary, c character, a address, s string.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pybpfvm.btf.types import Enum, Enum64
from pybpfvm.errors import InputError
from pybpfvm.expr.ctype import CType, Shape, ctype

if TYPE_CHECKING:
    from pybpfvm.expr.scope import Scope

FORMATS = "xzduotcas"
MAX_ELEMENTS = 200  # of an array, when it is written
MAX_CHARS = 256
MAX_TEXT = 4000
MAX_DEPTH = 8
_ESCAPES = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 27: "\\e"}


@dataclass(frozen=True, slots=True)
class Value:
    """`number` of a NUMBER or POINTER, `data` of a RECORD or ARRAY, `text` of a TEXT. `addr` is
    where it lies, None if that is nowhere in memory."""

    type: CType
    number: int = 0
    data: bytes = b""
    string: str = ""
    addr: int | None = None
    byteorder: Literal["little", "big"] = "little"
    scope: Scope | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return self.text()

    @property
    def truth(self) -> bool:
        """As a condition: not zero, not empty."""
        return bool(self.number or any(self.data) or self.string)

    def text(self, format: str = "") -> str:
        """The value by one of FORMATS, or as its type is usually written."""
        whole = self._text(format, 0)
        return whole if len(whole) <= MAX_TEXT else f"{whole[:MAX_TEXT]}..."

    def _text(self, format: str, depth: int) -> str:
        match self.type.shape:
            case Shape.NUMBER:
                return self._number(format)
            case Shape.POINTER:
                return self._pointer(format)
            case Shape.TEXT:
                return quoted(self.string.encode("utf-8", "surrogateescape"))
            case Shape.ARRAY if self.type.pointee().is_char() and format in ("", "s"):
                return _characters(self.data)
            case Shape.ARRAY | Shape.RECORD:
                return self._compound(format, depth)
            case _:
                return "void"

    def _compound(self, format: str, depth: int) -> str:
        if depth >= MAX_DEPTH:
            return "{...}"
        named = self.type.shape is Shape.RECORD
        parts = []
        for name, child in self.children(MAX_ELEMENTS):
            text = child._text(format, depth + 1)
            parts.append(f"{name} = {text}" if named and name else text)
            if sum(map(len, parts)) > MAX_TEXT:
                break
        if not named and self.type.count > len(parts):
            parts.append("...")
        return f"{{{', '.join(parts)}}}"

    def children(self, most: int = 1 << 16) -> Iterator[tuple[str, Value]]:
        """(name, value) of the members of a struct, or ([index], value) of an array's elements."""
        if self.type.shape is Shape.RECORD:
            for member in self.type.members()[:most]:
                inner = ctype(self.type.btf, member.type_id)
                at = member.bit_offset // 8
                if member.bitfield_bits:
                    number = bitfield(
                        self.data, member.bit_offset, member.bitfield_bits, self.byteorder
                    )
                    number = wrapped(number, member.bitfield_bits, inner.signed)
                    yield member.name, Value(inner, number, byteorder=self.byteorder)
                else:
                    yield member.name, self._part(inner, at)
        elif self.type.shape is Shape.ARRAY:
            inner = self.type.pointee()
            for index in range(min(self.type.count, most)):
                yield f"[{index}]", self._part(inner, index * inner.size)

    def _part(self, inner: CType, at: int) -> Value:
        addr = None if self.addr is None else self.addr + at
        return value_of(
            inner, self.data[at : at + inner.size], addr, self.byteorder, scope=self.scope
        )

    def _number(self, format: str) -> str:
        number, size = self.number, self.type.size
        if format:
            return self._formatted(format)
        found = self.type.btf.type(self.type.btf.resolve(self.type.type_id))
        if isinstance(found, Enum | Enum64):
            named = next((one.name for one in found.values if one.value == number), None)
            return named or str(number)
        if self.type.is_bool():
            return {0: "false", 1: "true"}.get(number, str(number))
        if self.type.is_char() and size == 1:
            return f"{number} {_character(number)}"
        return str(number)

    def _formatted(self, format: str) -> str:
        number, bits = self.number, 8 * self.type.size
        unsigned = number & ((1 << bits) - 1)
        match format:
            case "x":
                return f"{unsigned:#x}"
            case "z":
                return f"{unsigned:#0{2 + bits // 4}x}"
            case "d":
                return str(wrapped(unsigned, bits, True))
            case "u":
                return str(unsigned)
            case "o":
                return f"0{unsigned:o}" if unsigned else "0"
            case "t":
                return f"{unsigned:b}"
            case "c":
                low = wrapped(unsigned, 8, True)
                return f"{low} {_character(low)}"
            case "a":
                return self._address(unsigned)
            case _:
                return str(number)

    def _pointer(self, format: str) -> str:
        target = self.type.pointee()
        if format == "s" or (not format and target.is_char()):
            string = self._string()
            if string is not None:
                return f"{self.number:#x} {string}"
        if format and format not in "as":
            return self._formatted(format)
        return self._address(self.number)

    def _address(self, addr: int) -> str:
        place = "" if self.scope is None or not addr else self.scope.describe(addr)
        return f"{addr:#x} <{place}>" if place else f"{addr:#x}"

    def _string(self) -> str | None:
        """The characters that a pointer points to, as far as there is memory."""
        if self.scope is None or not self.number:
            return None
        from pybpfvm.expr.scope import Unreadable

        found = bytearray()
        try:
            while len(found) < MAX_CHARS and 0 not in found[-1:]:
                found += self.scope.read(self.number + len(found), 1)
        except Unreadable:
            if not found:
                return None
        return _characters(bytes(found))


def value_of(
    type_: CType,
    data: bytes,
    addr: int | None,
    byteorder: Literal["little", "big"],
    scope: Scope | None = None,
) -> Value:
    """The value of a type that these bytes are."""
    if type_.shape in (Shape.NUMBER, Shape.POINTER):
        number = int.from_bytes(data[: type_.size], byteorder, signed=type_.signed)
        return Value(type_, number, addr=addr, byteorder=byteorder, scope=scope)
    return Value(type_, data=data, addr=addr, byteorder=byteorder, scope=scope)


def wrapped(number: int, bits: int, signed: bool) -> int:
    """The low `bits` bits, as an unsigned number or in two's complement."""
    low = number & ((1 << bits) - 1)
    return low - (1 << bits) if signed and low >> (bits - 1) else low


def bitfield(data: bytes, bit_offset: int, bits: int, order: Literal["little", "big"]) -> int:
    """The bits of a bitfield in the bytes of its struct, unsigned."""
    first, last = bit_offset // 8, (bit_offset + bits + 7) // 8
    whole = int.from_bytes(data[first:last], order)
    low = bit_offset - 8 * first
    if order == "big":
        low = 8 * (last - first) - low - bits
    return whole >> low & ((1 << bits) - 1)


def _characters(data: bytes) -> str:
    """As a string literal without the NULs at its end."""
    return quoted(data.rstrip(b"\0"))


def quoted(data: bytes) -> str:
    """As a C string literal, cut behind MAX_CHARS."""
    inner = "".join(_escaped(byte, '"') for byte in data[:MAX_CHARS])
    return f'"{inner}"' + ("..." if len(data) > MAX_CHARS else "")


def _character(number: int) -> str:
    return f"'{_escaped(number & 0xFF, chr(39))}'"


def _escaped(byte: int, quote: str) -> str:
    if byte in _ESCAPES:
        return _ESCAPES[byte]
    if chr(byte) in (quote, "\\"):
        return f"\\{chr(byte)}"
    return chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}"


def size_or_none(type_: CType) -> int | None:
    """What sizeof says, None where there is no such thing."""
    if type_.shape in (Shape.NOTHING, Shape.TEXT):
        return None
    try:
        return type_.btf.size(type_.type_id) if type_.target is None else type_.size
    except InputError:
        return None
