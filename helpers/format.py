"""The kernel's format strings for programs: which are accepted, and what they print.

    % [0 + - space]* [width] directive
    directive: d i u x X, with l or ll · c · s · p · p{K,x,s,S,B} · p{k,u}s · p{i,I}{4,6}

The text must be printable or white space; bytes above ASCII pass, as they do in kernels of today
(those of the 2021 ABIs refused them). `%p` prints the number: pointers of a program
are no secret here, where a kernel would hash them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from errno import EINVAL

from pybpfvm.bits import sign_extend

_FLAGS = b"0+- "
_INTEGERS = b"diuxX"
_DIGITS = b"0123456789"
_SYMBOLIC = b"KxsSB"
_WIDTH_MAX = (1 << 23) - 1
_WIDTH_DIGITS = 8  # enough to exceed the maximum
_ADDRESS_DIGITS = 16

ReadString = Callable[[int, bool], bytes]  # (address, in user memory) -> without its NUL
ReadBytes = Callable[[int, int], bytes]  # (address, size)


class FormatError(Exception):
    """A format that the kernel refuses with `errno` (positive)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.errno = EINVAL


@dataclass(frozen=True, slots=True)
class Directive:
    """One `%`: flags and width as written, `kind` one of d u x X c s p i, `bits` of the number.

    `detail` tells strings ("k", "u", "") and addresses ("i4", "I6", ...) apart.
    """

    flags: bytes
    width: int
    kind: str
    bits: int = 64
    detail: str = ""


Piece = bytes | Directive


def parse(text: bytes, most: int) -> list[Piece]:
    """Literal text and directives, at most `most` of them. Raises FormatError."""
    pieces: list[Piece] = []
    literal = bytearray()
    directives = 0
    at = 0
    while at < len(text):
        byte = text[at]
        if not (0x20 <= byte < 0x7F or 0x09 <= byte <= 0x0D or byte >= 0x80):
            raise FormatError(f"byte {byte:#x} at {at} is neither printable nor white space")
        at += 1
        if byte != ord("%"):
            literal.append(byte)
            continue
        if text[at : at + 1] == b"%":
            literal.append(byte)
            at += 1
            continue
        if directives == most:
            raise FormatError(f"more than {most} directives")
        directives += 1
        if literal:
            pieces.append(bytes(literal))
            literal.clear()
        directive, at = _directive(text, at)
        pieces.append(directive)
    if literal:
        pieces.append(bytes(literal))
    return pieces


def _skip(text: bytes, at: int, among: bytes) -> int:
    while at < len(text) and text[at] in among:
        at += 1
    return at


def _directive(text: bytes, start: int) -> tuple[Directive, int]:
    """The directive whose `%` is before `start`, and where it ends."""
    at = _skip(text, start, _FLAGS)
    flags = text[start:at]
    digits = at
    at = _skip(text, at, _DIGITS)
    width = min(int(text[digits:at][:_WIDTH_DIGITS] or b"0"), _WIDTH_MAX)
    kind = text[at : at + 1]
    if kind == b"p":
        detail, at = _pointer(text, at + 1)
        if detail in ("ks", "us"):
            return Directive(flags, width, "s", detail=detail[0]), at
        return Directive(flags, width, "i" if detail else "p", detail=detail), at
    if kind in (b"s", b"c"):
        return Directive(flags, width, kind.decode()), at + 1
    bits = 32
    for _ in range(2):
        if text[at : at + 1] == b"l":
            bits = 64
            at += 1
    kind = text[at : at + 1]
    if not kind or kind not in _INTEGERS:
        raise FormatError(f"unknown directive %{text[start : at + 1].decode('latin-1')}")
    name = "d" if kind in b"di" else kind.decode()
    return Directive(flags, width, name, bits=bits), at + 1


def _pointer(text: bytes, at: int) -> tuple[str, int]:
    """What follows `%p`: "" for a plain address, "ks", "us", or "i4", "I4", "i6", "I6"."""
    following = text[at : at + 1]
    if text[at : at + 2] in (b"ks", b"us", b"i4", b"I4", b"i6", b"I6"):
        return text[at : at + 2].decode(), at + 2
    if following and following in _SYMBOLIC:
        return "", at + 1
    if not following or not following.isalnum():
        return "", at
    raise FormatError(f"unknown directive %p{following.decode('latin-1')}")


def render(
    pieces: Sequence[Piece], args: Sequence[int], read_string: ReadString, read_bytes: ReadBytes
) -> bytes:
    """The text; strings and addresses are read through the functions given."""
    values = iter(args)
    out = bytearray()
    for piece in pieces:
        if isinstance(piece, bytes):
            out += piece
            continue
        out += _one(piece, next(values), read_string, read_bytes)
    return bytes(out)


def _one(directive: Directive, value: int, read_string: ReadString, read_bytes: ReadBytes) -> bytes:
    kind = directive.kind
    if kind == "s":
        return _padded(read_string(value, directive.detail == "u"), directive, zero=False)
    if kind == "c":
        return _padded(bytes((value & 0xFF,)), directive, zero=False)
    if kind == "i":
        size = 4 if directive.detail[1] == "4" else 16
        return _padded(_inet(read_bytes(value, size), directive.detail), directive, zero=False)
    if kind == "p":
        return _padded(f"{value:0{_ADDRESS_DIGITS}x}".encode(), directive, zero=False)
    mask = (1 << directive.bits) - 1
    if kind == "d":
        return _signed(sign_extend(value & mask, directive.bits), directive)
    spelled = {"u": "d", "x": "x", "X": "X"}[kind]
    return _padded(format(value & mask, spelled).encode(), directive, zero=True)


def _signed(number: int, directive: Directive) -> bytes:
    sign = b"-" if number < 0 else b"+" if b"+" in directive.flags else b""
    if not sign and b" " in directive.flags:
        sign = b" "
    return _padded(str(abs(number)).encode(), directive, zero=True, sign=sign)


def _padded(text: bytes, directive: Directive, *, zero: bool, sign: bytes = b"") -> bytes:
    missing = directive.width - len(sign) - len(text)
    if missing <= 0:
        return sign + text
    if b"-" in directive.flags:
        return sign + text + b" " * missing
    if zero and b"0" in directive.flags:
        return sign + b"0" * missing + text
    return b" " * missing + sign + text


def _inet(raw: bytes, detail: str) -> bytes:
    """An IPv4 address with dots (i4: three digits each), or an IPv6 one (i6: without colons)."""
    if detail[1] == "4":
        spelled = "{:03d}" if detail[0] == "i" else "{}"
        return ".".join(spelled.format(byte) for byte in raw).encode()
    groups = [raw[at : at + 2].hex() for at in range(0, 16, 2)]
    return ("" if detail[0] == "i" else ":").join(groups).encode()
