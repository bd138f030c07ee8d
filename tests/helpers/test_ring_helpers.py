"""Submit, emit and reap: truncation of arguments, lengths, zeroed results, wild pointers.
iouring-bpf-2021, section 2.4."""

from __future__ import annotations

from errno import EINVAL, ENOENT, ENOMEM

import pytest

from pybpfvm.helpers.context import BadArgument
from pybpfvm.memory import MemoryFault
from tests.support.fake_context import FakeContext, FakeRing

SUBMITS = ("iouring_queue_sqe", "io_uring_submit")
EMITS = ("iouring_emit_cqe", "io_uring_emit_cqe")
REAPS = ("iouring_reap_cqe", "io_uring_reap_cqe")
SQE = bytes(range(64))
CQE = bytes(range(100, 116))


@pytest.mark.parametrize("name", SUBMITS)
@pytest.mark.parametrize("answer", [1, 0, -ENOMEM])
def test_submit_hands_the_sqe_over(name: str, answer: int) -> None:
    ring = FakeRing(answer)
    with FakeContext(ring=ring) as ctx:
        assert ctx.run(name, ctx.ctx_addr, ctx.put(SQE), (3 << 32) | 64) == answer
    assert ring.asked == [("submit", SQE)]


@pytest.mark.parametrize("name", SUBMITS)
@pytest.mark.parametrize("length", [0, 63, 65, 1 << 31])
def test_submit_checks_its_length_where_the_abi_does(name: str, length: int) -> None:
    ring = FakeRing(1)
    with FakeContext(ring=ring) as ctx:
        assert ctx.run(name, ctx.ctx_addr, ctx.put(SQE), length) == -EINVAL
        assert ring.asked == []
        ctx.helper_length_checked = False
        assert ctx.run(name, ctx.ctx_addr, ctx.put(SQE), length) == 1


def test_submit_needs_64_readable_bytes_whatever_the_length() -> None:
    with FakeContext(ring=FakeRing(1), length_checked=False) as ctx:
        for sqe in (ctx.scratch.end - 63, 0, ctx.user.start, (1 << 64) - 64):
            with pytest.raises(MemoryFault):
                ctx.run("io_uring_submit", ctx.ctx_addr, sqe, 1)


@pytest.mark.parametrize("name", EMITS)
def test_emit_cuts_its_arguments(name: str) -> None:
    ring = FakeRing(-ENOMEM)
    with FakeContext(ring=ring) as ctx:
        result = ctx.run(
            name, ctx.ctx_addr, (9 << 32) | 2, (1 << 64) - 1, 0xFFFF_FFFE, (1 << 32) | 5
        )
    assert result == -ENOMEM
    assert ring.asked == [("emit", 2, (1 << 64) - 1, -2, 5)]


@pytest.mark.parametrize("name", REAPS)
def test_reap_copies_the_cqe(name: str) -> None:
    ring = FakeRing(CQE)
    with FakeContext(ring=ring) as ctx:
        out = ctx.put(b"\xee" * 24)
        assert ctx.run(name, ctx.ctx_addr, (1 << 32) | 1, out, (1 << 32) | 16) == 0
        assert ctx.get(24) == CQE + b"\xee" * 8
    assert ring.asked == [("reap", 1)]


@pytest.mark.parametrize("name", REAPS)
@pytest.mark.parametrize("answer", [-ENOENT, -EINVAL])
def test_failed_reap_zeroes_the_cqe(name: str, answer: int) -> None:
    with FakeContext(ring=FakeRing(answer)) as ctx:
        out = ctx.put(b"\xee" * 24)
        assert ctx.run(name, ctx.ctx_addr, 0, out, 16) == answer
        assert ctx.get(24) == bytes(16) + b"\xee" * 8


@pytest.mark.parametrize("length", [8, 15, 17, 32])
def test_reap_with_a_wrong_length_zeroes_as_much_as_it_says(length: int) -> None:
    ring = FakeRing(CQE)
    with FakeContext(ring=ring) as ctx:
        out = ctx.put(b"\xee" * 64)
        assert ctx.run("iouring_reap_cqe", ctx.ctx_addr, 0, out, length) == -EINVAL
        assert ctx.get(64) == bytes(length) + b"\xee" * (64 - length)
        assert ring.asked == [], "nothing is taken from the queue"
        ctx.helper_length_checked = False
        assert ctx.run("io_uring_reap_cqe", ctx.ctx_addr, 0, out, length) == 0


def test_reap_into_bad_memory_takes_nothing() -> None:
    ring = FakeRing(CQE)
    with FakeContext(ring=ring) as ctx:
        for out, length in ((ctx.scratch.end - 15, 16), (ctx.user.start, 16), (0, 0xFFFF_FFFF)):
            with pytest.raises(MemoryFault):
                ctx.run("iouring_reap_cqe", ctx.ctx_addr, 0, out, length)
    assert ring.asked == []


@pytest.mark.parametrize("name", [*SUBMITS, *EMITS, *REAPS])
def test_ring_helpers_need_the_context_and_a_ring(name: str) -> None:
    with FakeContext(ring=FakeRing(0)) as ctx:
        for wrong in (0, ctx.ctx_addr + 8, ctx.scratch.start):
            with pytest.raises(BadArgument) as caught:
                ctx.run(name, wrong, ctx.scratch.start, 64)
            assert caught.value.index == 1
        ctx.ring = None
        with pytest.raises(BadArgument, match="no ring"):
            ctx.run(name, ctx.ctx_addr, ctx.scratch.start, 64)


def test_requeue_hands_u32s_over() -> None:
    ring = FakeRing(2)
    with FakeContext(ring=ring) as ctx:
        answer = ctx.run("io_uring_requeue", ctx.ctx_addr, (1 << 32) | 1, (1 << 40) | 2, 1 << 32)
        assert answer == 2
        with pytest.raises(BadArgument):
            ctx.run("io_uring_requeue", ctx.ctx_addr + 8, 1, 2, 3)
    assert ring.asked == [("requeue", 1, 2, 0)]
