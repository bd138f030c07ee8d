"""trace_printk, snprintf, strtol and strtoul: text, errno, and bad memory."""

from __future__ import annotations

from collections.abc import Iterator
from errno import EINVAL, ERANGE

import pytest

from pybpfvm.memory import MemoryFault
from tests.support.fake_context import FakeContext


@pytest.fixture
def ctx() -> Iterator[FakeContext]:
    with FakeContext() as context:
        yield context


def printk(ctx: FakeContext, text: bytes, *args: int) -> int:
    return ctx.run("trace_printk", ctx.put(text), len(text), *args)


def test_trace_printk_prints_a_line(ctx: FakeContext) -> None:
    assert printk(ctx, b"%d of %llu: %x\n\0", 0xFFFF_FFFF, 1 << 40, 255) == 24
    assert ctx.lines == ["-1 of 1099511627776: ff"]


@pytest.mark.parametrize(
    "text",
    [b"no end", b"", b"%d %d %d %d\0", b"%f\0", b"%\0", b"bell \x07\0", b"%hd\0", b"%pq\0"],
)
def test_trace_printk_refuses(ctx: FakeContext, text: bytes) -> None:
    assert printk(ctx, text, 1, 2, 3) == -EINVAL
    assert ctx.lines == []


def test_trace_printk_from_nowhere_faults(ctx: FakeContext) -> None:
    for fmt, size in ((0, 4), (ctx.scratch.end - 2, 4), (ctx.scratch.start, 0xFFFF_FFFF)):
        with pytest.raises(MemoryFault):
            ctx.run("trace_printk", fmt, size)


def test_strings_and_addresses(ctx: FakeContext) -> None:
    kernel = ctx.put(b"kernel\0", 256)
    ctx.memory.user_write(ctx.user.start, b"user\0")
    octets = ctx.put(bytes((10, 0, 0, 255)), 300)
    printk(ctx, b"%s|%pks|%pus\0", kernel, kernel, ctx.user.start)
    printk(ctx, b"%s|%pus|%10s\0", ctx.user.start, kernel, kernel)
    printk(ctx, b"%pI4|%pi4|%pI6\0", octets, octets, 0)
    printk(ctx, b"%p|%px\0", 0xABC, ctx.ctx_addr)
    assert ctx.lines == [
        "kernel|kernel|user",
        "||    kernel",
        "10.0.0.255|010.000.000.255|0000:0000:0000:0000:0000:0000:0000:0000",
        f"0000000000000abc|{ctx.ctx_addr:016x}",
    ]


def test_long_strings_are_cut(ctx: FakeContext) -> None:
    assert printk(ctx, b"%s\0", ctx.put(b"x" * 3000 + b"\0", 512)) == 511
    ctx.memory.user_write(ctx.user.start, b"y" * 3000 + b"\0")
    assert len(ctx.lines[0]) == 511


def snprintf(ctx: FakeContext, size: int, text: bytes, args: bytes) -> int:
    return ctx.run(
        "snprintf", ctx.scratch.start, size, ctx.put(text, 512), ctx.put(args, 1024), len(args)
    )


def test_snprintf_cuts_and_says_what_it_needs(ctx: FakeContext) -> None:
    args = (7).to_bytes(8, "little")
    assert snprintf(ctx, 64, b"seven: %d\0", args) == 9
    assert ctx.get(9) == b"seven: 7\0"
    assert snprintf(ctx, 4, b"SEVEN: %d\0", args) == 9
    assert ctx.get(9) == b"SEV\0n: 7\0"
    assert snprintf(ctx, 0, b"XXXX\0", b"") == 5
    assert ctx.get(4) == b"SEV\0"


def test_snprintf_arguments_are_in_the_programs_byte_order(ctx: FakeContext) -> None:
    ctx.memory.byteorder = "big"
    assert snprintf(ctx, 64, b"%d\0", (7).to_bytes(8, "big")) == 2
    assert ctx.get(2) == b"7\0"


def test_snprintf_refuses(ctx: FakeContext) -> None:
    assert snprintf(ctx, 64, b"%d\0", bytes(7)) == -EINVAL
    assert snprintf(ctx, 64, b"%d\0", b"") == -EINVAL
    assert snprintf(ctx, 64, b"%d\0", bytes(13 * 8)) == -EINVAL
    assert snprintf(ctx, 64, b"%q\0", bytes(8)) == -EINVAL
    assert ctx.run("snprintf", ctx.scratch.start, 8, ctx.put(b"a\0", 512), 0, 8) == -EINVAL
    with pytest.raises(MemoryFault):
        ctx.run("snprintf", ctx.scratch.end - 4, 8, ctx.put(b"a\0", 512), 0, 0)
    ctx.memory.write(ctx.scratch.end - 4, b"aaaa")
    with pytest.raises(MemoryFault):
        ctx.run("snprintf", ctx.scratch.start, 8, ctx.scratch.end - 4, 0, 0)


def test_a_huge_width_stays_bounded(ctx: FakeContext) -> None:
    assert snprintf(ctx, 8, b"%99999999999d\0", bytes(8)) == 1 << 23
    assert ctx.get(8) == b" " * 7 + b"\0"
    assert printk(ctx, b"%" + b"9" * 4090 + b"d\0", 1) == (1 << 23) - 1


@pytest.mark.parametrize(
    ("name", "text", "flags", "result", "value"),
    [
        ("strtol", b" -42 rest", 0, 4, -42),
        ("strtol", b"0x1F", 0, 4, 31),
        ("strtol", b"0x", 0, 1, 0),
        ("strtol", b"ff", 16, 2, 255),
        ("strtol", b"-9223372036854775808", 10, 20, -(1 << 63)),
        ("strtol", b"9223372036854775808", 10, -ERANGE, 0),
        ("strtol", b"-", 0, -EINVAL, 0),
        ("strtol", b"7", 7, -EINVAL, 0),
        ("strtol", b"7", 1 << 5, -EINVAL, 0),
        ("strtoul", b"18446744073709551615", 0, 20, (1 << 64) - 1),
        ("strtoul", b"18446744073709551616", 0, -ERANGE, 0),
        ("strtoul", b"-1", 0, -EINVAL, 0),
        ("strtoul", b"\xff", 0, -EINVAL, 0),
    ],
)
def test_strto(
    ctx: FakeContext, name: str, text: bytes, flags: int, result: int, value: int
) -> None:
    res = ctx.put(b"\x77" * 8, 64)
    assert ctx.run(name, ctx.put(text, 256), len(text), flags, res) == result
    assert ctx.get(8, 64) == (value & ((1 << 64) - 1)).to_bytes(8, "little")
    with pytest.raises(MemoryFault):
        ctx.run(name, ctx.put(text, 256), len(text), flags, ctx.scratch.end - 7)
