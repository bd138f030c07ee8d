"""Numbers, characters and texts as C writes them."""

from __future__ import annotations

import re

from pybpfvm.bits import U64 as MASK
from pybpfvm.expr.ctype import CHAR, U64
from pybpfvm.expr.mistake import Mistake
from pybpfvm.expr.node import Node, constant
from pybpfvm.expr.parse import Span
from pybpfvm.expr.value import wrapped

_DIGITS = re.compile(
    r"(0[xX][0-9a-fA-F]+|0[bB][01]+|0[0-7]*|[1-9][0-9]*)([uU]?[lL]{0,2}|[lL]{1,2}[uU])"
)
_ESCAPE = re.compile(r"x([0-9a-fA-F]{1,2})|([0-7]{1,3})|(.)", re.DOTALL)
_SIMPLE = {
    "n": 10, "t": 9, "r": 13, "a": 7, "b": 8, "f": 12, "v": 11, "e": 27,
    "\\": 92, "'": 39, '"': 34, "?": 63,
}  # fmt: skip


def number(text: str, span: Span) -> Node:
    """`10`, `0x1f`, `0b11`, `017`, `1'000'000`, with suffixes; `u` makes it unsigned."""
    found = _DIGITS.fullmatch(text.replace("'", ""))
    if found is None:
        raise Mistake(span, f"{text!r} is no integer", "10, 0x1f, 0b11, 017, 10u and 10ull are")
    digits = found[1]
    octal = len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()
    value = int(digits, 8 if octal else 0)
    if value > MASK:
        raise Mistake(span, "more than 64 bits")
    return constant(value, span, U64 if "u" in found[2].lower() else None)


def character(text: str, span: Span) -> Node:
    """`'a'`, `'\\n'`."""
    data = _unescaped(text[1:-1], span)
    if len(data) != 1:
        raise Mistake(span, "not one character of one byte", 'a text is written "so"')
    return constant(wrapped(data[0], 8, True), span, CHAR)


def string(text: str, span: Span) -> bytes:
    """`"abc"`, or `b"\\x01"`: the bytes, without a NUL."""
    return _unescaped(text.removeprefix("b")[1:-1], span)


def _unescaped(text: str, span: Span) -> bytes:
    out, at = bytearray(), 0
    while at < len(text):
        if text[at] != "\\":
            out += text[at].encode("utf-8", "surrogatepass")
            at += 1
            continue
        found = _ESCAPE.match(text, at + 1)
        if found is None:
            raise Mistake(span, "a \\ without anything behind it")
        at = found.end()
        if found[3] is None:
            byte = int(found[1], 16) if found[1] is not None else int(found[2], 8)
            if byte > 255:
                raise Mistake(span, f"\\{found[2]} is more than a byte")
            out.append(byte)
        elif found[3] in _SIMPLE:
            out.append(_SIMPLE[found[3]])
        else:
            raise Mistake(span, f"\\{found[3]} stands for nothing", "a backslash is \\\\")
    return bytes(out)
