"""Copies between program and user memory, and the reads that may fail."""

from __future__ import annotations

from collections.abc import Iterator
from errno import EFAULT

import pytest

from pybpfvm.memory import MemoryFault
from tests.support.fake_context import FakeContext

READS = ("copy_from_user", "probe_read_user")
DIRTY = b"\xee" * 32


@pytest.fixture
def ctx() -> Iterator[FakeContext]:
    with FakeContext() as context:
        context.memory.user_write(context.user.start, b"hello\0" + b"x" * 100)
        context.memory.user_write(context.user.end - 8, b"no end..")
        yield context


@pytest.mark.parametrize("name", READS)
def test_reading_user_memory(ctx: FakeContext, name: str) -> None:
    out = ctx.put(DIRTY)
    assert ctx.run(name, out, (1 << 32) | 5, ctx.user.start) == 0
    assert ctx.get(8) == b"hello\xee\xee\xee"
    assert ctx.run(name, out, 0, 0) == 0


@pytest.mark.parametrize("name", READS)
def test_a_fault_zeroes_the_whole_destination(ctx: FakeContext, name: str) -> None:
    for src in (0, ctx.user.end - 4, ctx.scratch.start, (1 << 64) - 8):
        out = ctx.put(DIRTY)
        assert ctx.run(name, out, 16, src) == -EFAULT
        assert ctx.get(32) == bytes(16) + b"\xee" * 16


def test_kernel_reads_reach_program_memory_only(ctx: FakeContext) -> None:
    out = ctx.put(DIRTY)
    source = ctx.put(b"program memory", 100)
    assert ctx.run("probe_read_kernel", out, 14, source) == 0
    assert ctx.get(14) == b"program memory"
    task = ctx.run("get_current_task")
    assert task != 0
    for src in (ctx.user.start, task, 0, ctx.scratch.end - 1):
        ctx.put(DIRTY)
        assert ctx.run("probe_read_kernel", out, 8, src) == -EFAULT
        assert ctx.get(9) == bytes(8) + b"\xee"


@pytest.mark.parametrize(
    ("name", "user"), [("probe_read_user_str", True), ("probe_read_kernel_str", False)]
)
def test_strings(ctx: FakeContext, name: str, user: bool) -> None:
    source = ctx.user.start if user else ctx.put(b"hello\0tail", 100)
    out = ctx.put(DIRTY)
    assert ctx.run(name, out, 32, source) == 6
    assert ctx.get(7) == b"hello\0\xee"
    assert ctx.run(name, out, 4, source) == 4
    assert ctx.get(4) == b"hel\0"
    assert ctx.run(name, out, 1, source) == 1
    assert ctx.get(1) == b"\0"
    assert ctx.run(name, out, 0, source) == 0
    ctx.memory.write(ctx.scratch.end - 8, b"no end..")
    for src in ((ctx.user if user else ctx.scratch).end - 8, 0):
        ctx.put(DIRTY)
        assert ctx.run(name, out, 16, src) == -EFAULT
        assert ctx.get(17) == bytes(16) + b"\xee"


def test_copy_to_user(ctx: FakeContext) -> None:
    source = ctx.put(b"0123456789")
    assert ctx.run("bpf_copy_to_user", ctx.user.start, source, (7 << 32) | 4) == 0
    assert ctx.memory.user_read(ctx.user.start, 6) == b"0123o\0"
    assert ctx.run("bpf_copy_to_user", ctx.user.end - 4, source, 10) == -EFAULT
    assert ctx.memory.user_read(ctx.user.end - 4, 4) == b"0123", "what fits is written"
    for dst in (0, ctx.scratch.start, (1 << 64) - 1):
        assert ctx.run("bpf_copy_to_user", dst, source, 4) == -EFAULT
    assert ctx.run("bpf_copy_to_user", 0, source, 0) == 0


def test_the_programs_own_side_must_be_its_memory(ctx: FakeContext) -> None:
    for name in (*READS, "probe_read_kernel", "probe_read_user_str", "probe_read_kernel_str"):
        for out in (ctx.user.start, ctx.scratch.end - 8, 0):
            with pytest.raises(MemoryFault):
                ctx.run(name, out, 16, ctx.user.start)
    with pytest.raises(MemoryFault):
        ctx.run("bpf_copy_to_user", ctx.user.start, ctx.scratch.end - 8, 16)
    with pytest.raises(MemoryFault):
        ctx.run("copy_from_user", ctx.scratch.start, 0xFFFF_FFFF, ctx.user.start)
