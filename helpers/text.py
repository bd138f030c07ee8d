"""Text in and out: trace_printk, snprintf, strtol, strtoul, strncmp. bpf-helpers(7)."""

from __future__ import annotations

from collections.abc import Sequence
from errno import EINVAL, ERANGE

from pybpfvm.bits import u32
from pybpfvm.helpers.context import HelperContext
from pybpfvm.helpers.format import FormatError, parse, render
from pybpfvm.helpers.proto import ArgType, Helper, RetType
from pybpfvm.memory import PAGE, AddressSpace, MemoryFault, UserFault

_TRACE_ARGS = 3
_SNPRINTF_ARGS = 12
_STRING_MAX = 512  # of a %s, with its NUL: what a kernel's buffer has room for
_BASE_MASK = 0x1F
_NUMBER_DIGITS_MAX = 63
_SPACE = b" \t\n\v\f\r\xa0"


def _format(ctx: HelperContext, text: bytes, args: Sequence[int]) -> bytes:
    """The formatted text; unreadable strings and addresses print as nothing and as zeroes."""

    def read_string(addr: int, in_user: bool) -> bytes:
        try:
            if in_user:
                return ctx.user_memory.user_cstring(addr, _STRING_MAX)[: _STRING_MAX - 1]
            return cstring(ctx.memory, addr, _STRING_MAX - 1, truncate=True)
        except (MemoryFault, UserFault):
            return b""

    def read_bytes(addr: int, size: int) -> bytes:
        try:
            return ctx.memory.program_read(addr, size)
        except MemoryFault:
            return bytes(size)

    return render(parse(text, len(args)), args, read_string, read_bytes)


def cstring(memory: AddressSpace, addr: int, limit: int, *, truncate: bool = False) -> bytes:
    """The NUL-terminated string at `addr`, of program memory, without its NUL.

    Raises MemoryFault when its region ends, or `limit` is reached, before a NUL; `truncate`
    takes `limit` bytes instead in the second case.
    """
    region, view, offset = memory.check(addr, 1, write=False)
    data = bytes(view[offset : offset + limit])
    end = data.find(b"\0")
    if end >= 0:
        return data[:end]
    if truncate and len(data) == limit:
        return data
    memory.check(region.start, region.size + 1, write=False)  # faults: past the end
    return data


def trace_printk(ctx: HelperContext, fmt: int, size: int, a1: int, a2: int, a3: int) -> int:
    """Bytes printed, or -EINVAL for a format without NUL or with what is not allowed."""
    raw = ctx.memory.program_read(fmt, u32(size))
    text, nul, _ = raw.partition(b"\0")
    if not nul:
        return -EINVAL
    try:
        line = _format(ctx, text, (a1, a2, a3)[:_TRACE_ARGS])
    except FormatError as error:
        return -error.errno
    ctx.log(line.decode("utf-8", "backslashreplace").removesuffix("\n"))
    return len(line)


def snprintf(ctx: HelperContext, out: int, size: int, fmt: int, data: int, data_len: int) -> int:
    """Bytes the whole text needs with its NUL; -EINVAL for a bad format or argument array.

    What does not fit `size` (u32) is cut, with a NUL at the end. `data` holds u64 arguments.
    """
    memory = ctx.memory
    size, data_len = u32(size), u32(data_len)
    if data_len % 8 or data_len > 8 * _SNPRINTF_ARGS or (data_len and not data):
        return -EINVAL
    raw = memory.program_read(data, data_len)
    args = [int.from_bytes(raw[at : at + 8], memory.byteorder) for at in range(0, data_len, 8)]
    if size:
        memory.check(out, size, write=True)
    try:
        text = _format(ctx, cstring(memory, fmt, PAGE), args)
    except FormatError as error:
        return -error.errno
    if size:
        memory.program_write(out, text[: size - 1] + b"\0")
    return len(text) + 1


def _number(text: bytes, flags: int) -> tuple[int, bool, int]:
    """(magnitude, whether a minus is before it, bytes consumed); -errno as magnitude < 0."""
    base = flags & _BASE_MASK
    if flags & ~_BASE_MASK or base not in (0, 8, 10, 16):
        return -EINVAL, False, 0
    at = len(text) - len(text.lstrip(_SPACE))
    negative = text[at : at + 1] == b"-"
    at += negative
    digits = text[at : at + _NUMBER_DIGITS_MAX]
    prefix = 0
    hexadecimal = digits[:2].lower() == b"0x" and digits[2:3].isalnum() and _is_hex(digits[2])
    if base == 0:
        base = 16 if hexadecimal else 8 if digits[:1] == b"0" else 10
    if base == 16 and digits[:2].lower() == b"0x":
        prefix = 2
    end = prefix
    while end < len(digits) and _digit(digits[end]) < base:
        end += 1
    if end == prefix:
        return -EINVAL, negative, 0
    return int(digits[prefix:end], base), negative, at + end


def _digit(byte: int) -> int:
    """The digit's value, or 99."""
    return int(chr(byte), 36) if chr(byte).isascii() and chr(byte).isalnum() else 99


def _is_hex(byte: int) -> bool:
    return _digit(byte) < 16


def _strto(
    ctx: HelperContext, buf: int, buf_len: int, flags: int, res: int, *, signed: bool
) -> int:
    memory = ctx.memory
    memory.check(res, 8, write=True)
    magnitude, negative, consumed = _number(memory.program_read(buf, buf_len), flags)
    limit = (1 << 63) - (not negative) if signed else (1 << 64) - 1
    error = 0
    if magnitude < 0:
        error = magnitude
    elif magnitude > limit:
        error = -ERANGE
    elif negative and not signed:
        error = -EINVAL
    memory.store(res, 8, 0 if error else -magnitude if negative else magnitude)
    return error or consumed


def strtol(ctx: HelperContext, buf: int, buf_len: int, flags: int, res: int, _5: int) -> int:
    """Bytes consumed, and the number in *res; -EINVAL or -ERANGE, and 0 in *res.

    The low five bits of flags are the base: 0 (by prefix), 8, 10 or 16.
    """
    return _strto(ctx, buf, buf_len, flags, res, signed=True)


def strtoul(ctx: HelperContext, buf: int, buf_len: int, flags: int, res: int, _5: int) -> int:
    """As strtol, unsigned: a minus is -EINVAL."""
    return _strto(ctx, buf, buf_len, flags, res, signed=False)


def strncmp(ctx: HelperContext, s1: int, size: int, s2: int, _4: int, _5: int) -> int:
    """Below, equal to or above 0 as the at most `size` bytes of s1, up to its NUL, are to s2."""
    size &= 0xFFFF_FFFF
    one = ctx.memory.program_read(s1, size)
    other = cstring(ctx.memory, s2, size, truncate=True) + b"\0"
    for a, b in zip(one, other, strict=False):
        if a != b or a == 0:
            return (a > b) - (a < b)
    return 0


_STRTO = (ArgType.PTR_TO_MEM, ArgType.CONST_SIZE, ArgType.ANYTHING, ArgType.PTR_TO_LONG)

ROWS = (
    Helper(
        "trace_printk",
        (
            ArgType.PTR_TO_MEM,
            ArgType.CONST_SIZE,
            ArgType.ANYTHING,
            ArgType.ANYTHING,
            ArgType.ANYTHING,
        ),
        RetType.INTEGER,
        trace_printk,
        "Print a line to the trace output, with up to three arguments.",
        gpl_only=True,
        checked_args=2,
    ),
    Helper(
        "snprintf",
        (
            ArgType.PTR_TO_MEM_OR_NULL,
            ArgType.CONST_SIZE_OR_ZERO,
            ArgType.PTR_TO_CONST_STR,
            ArgType.PTR_TO_MEM_OR_NULL,
            ArgType.CONST_SIZE_OR_ZERO,
        ),
        RetType.INTEGER,
        snprintf,
        "Print into memory, with up to twelve arguments.",
        gpl_only=True,
        writes=frozenset({1}),
    ),
    Helper(
        "snprintf_btf",
        (
            ArgType.PTR_TO_MEM,
            ArgType.CONST_SIZE,
            ArgType.PTR_TO_MEM,
            ArgType.CONST_SIZE,
            ArgType.ANYTHING,
        ),
        RetType.INTEGER,
        None,
        "Print kernel data by its BTF type: there are no kernel data here.",
        writes=frozenset({1}),
    ),
    Helper("strtol", _STRTO, RetType.INTEGER, strtol, "Parse a signed number."),
    Helper("strtoul", _STRTO, RetType.INTEGER, strtoul, "Parse an unsigned number."),
    Helper(
        "strncmp",
        (ArgType.PTR_TO_MEM, ArgType.CONST_SIZE, ArgType.PTR_TO_CONST_STR),
        RetType.INTEGER,
        strncmp,
        "Compare memory with a constant string.",
    ),
)
