"""Programs that wait for a futex: a word of user memory that host or programs change and wake."""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass, field

import pytest

from pybpfvm.errors import RingHang
from pybpfvm.events import CqePosted, RunEnded
from pybpfvm.memory import RegionKind
from pybpfvm.uring_backend.abi import FUTEX2_SIZE_U32, Op, Sqe
from tests.support.ring_bench import Bench, MakeBench
from tests.support.ring_programs import Run, bpf

EAGAIN, EFAULT, EINVAL = -errno.EAGAIN, -errno.EFAULT, -errno.EINVAL
ON_WORD = 2
ANYBODY = 0xFFFF_0000  # the low 16 bits are cq_idx
# The fake backend knows no futexes.
on_both = pytest.mark.parametrize(
    "backend_name", ["sim", pytest.param("kernel", marks=pytest.mark.kernel_ring)]
)


def futex(run: Run) -> tuple[int, int, int]:
    """(address, value, result) as the context holds them."""
    word, value, res = struct.unpack("<QIi", run.memory.read(run.ctx_addr + 40, 16))
    return word, value, res


def wait_for(run: Run, word: int, value: int) -> int:
    run.memory.write(run.ctx_addr + 40, struct.pack("<QI", word, value))
    return ON_WORD


def wake(word: int, most: int = 1, cq: int = 0) -> bytes:
    return Sqe(
        Op.FUTEX_WAKE, fd=FUTEX2_SIZE_U32, addr=word, off=most, addr3=ANYBODY | cq, user_data=99
    ).pack()


@dataclass
class Waiters:
    """A program whose requests wait for the word at their `user_data` to be something else than
    `value`, once, and note what came of it; `word` is a new one."""

    bench: Bench = field(init=False)
    results: list[int] = field(default_factory=list)
    value: int = 0

    def on(self, make_bench: MakeBench, kind: RegionKind = RegionKind.USER) -> int:
        self.bench = make_bench("x", self.wait)
        return self.bench.memory.alloc(8, kind, "word").start

    def wait(self, run: Run) -> int:
        word, _, res = futex(run)
        if not word:
            return wait_for(run, run.user_data, self.value)
        self.results.append(res)
        return run.done()

    def settle(self) -> None:
        self.bench.ring.wait_cqes(99, 50_000_000)


@on_both
@pytest.mark.parametrize("kind", [RegionKind.USER, RegionKind.SHARED])
def test_a_wake_up_runs_it_again(make_bench: MakeBench, kind: RegionKind) -> None:
    waiters = Waiters()
    word = waiters.on(make_bench, kind)
    bench = waiters.bench
    bench.submit(bpf(0, user_data=word), bpf(0, user_data=word), bpf(0, user_data=word))
    waiters.settle()
    assert waiters.results == []
    bench.submit(wake(word))
    waiters.settle()
    assert waiters.results == [0]
    bench.submit(wake(word, 5))
    waiters.settle()
    assert waiters.results == [0, 0, 0]
    assert sorted(bench.cqes()) == sorted([(99, 1), (99, 2), *[(word, 0)] * 3])


@on_both
def test_a_word_that_holds_something_else_is_not_waited_for(make_bench: MakeBench) -> None:
    waiters = Waiters(value=7)
    word = waiters.on(make_bench)
    waiters.bench.submit(bpf(0, user_data=word))
    waiters.settle()
    assert waiters.results == [EAGAIN]
    assert waiters.bench.cqes() == [(word, 0)]


@on_both
@pytest.mark.parametrize(("offset", "res"), [(1, EINVAL), (1 << 33, EFAULT)])
def test_what_is_no_word_is_told(make_bench: MakeBench, offset: int, res: int) -> None:
    waiters = Waiters()
    word = waiters.on(make_bench)
    waiters.bench.submit(bpf(0, user_data=word + offset))
    waiters.settle()
    assert waiters.results == [res]
    assert waiters.bench.cqes() == [(word + offset, 0)]


@on_both
def test_a_program_wakes_others(make_bench: MakeBench) -> None:
    waiters = Waiters()

    def waker(run: Run) -> int:
        assert run.submit(wake(word, 2, cq=1)) == 1
        return run.done()

    bench = make_bench("x", waiters.wait, waker)
    waiters.bench = bench
    word = bench.memory.alloc(8, RegionKind.USER, "word").start
    bench.submit(bpf(0, user_data=word), bpf(0, user_data=word))
    waiters.settle()
    bench.submit(bpf(1))
    waiters.settle()
    assert waiters.results == [0, 0]
    assert bench.cqes(1) == [(99, 2)]


@on_both
def test_closing_ends_who_waits(make_bench: MakeBench) -> None:
    waiters = Waiters()
    word = waiters.on(make_bench)
    bench = waiters.bench
    bench.submit(bpf(0, user_data=word), bpf(0, user_data=word))
    waiters.settle()
    del bench.events[:]
    bench.ring.close()
    posted = [(e.user_data, e.res) for e in bench.events if isinstance(e, CqePosted)]
    assert posted == [(word, EAGAIN)] * 2
    assert waiters.results == []


@pytest.mark.parametrize("backend_name", ["sim"])
def test_who_is_never_woken_is_named(make_bench: MakeBench) -> None:
    waiters = Waiters()
    word = waiters.on(make_bench)
    waiters.bench.submit(bpf(0, user_data=word))
    with pytest.raises(RingHang, match=f"waits for a wake-up at {word:#x}"):
        waiters.bench.ring.wait_cqes(1)
    ended = [e for e in waiters.bench.events if isinstance(e, RunEnded)]
    assert [e.on_word for e in ended] == [True]


@pytest.mark.parametrize("backend_name", ["sim"])
def test_other_abis_wait_for_no_word(make_bench: MakeBench) -> None:
    bench = make_bench("v3", lambda run: ON_WORD)
    bench.submit(bpf(0, user_data=5))
    assert bench.cqes() == [(5, 0)]


@on_both
def test_the_fields_keep_their_values_while_it_waits_for_cqes(make_bench: MakeBench) -> None:
    seen: list[tuple[int, int, int]] = []

    def program(run: Run) -> int:
        seen.append(futex(run))
        if len(seen) > 1:
            return run.done()
        wait_for(run, 0x1234, 7)
        run.submit(Sqe(Op.NOP).pack()[:48] + b"\1\0" + bytes(14))  # its CQE goes to CQ 1
        return run.wait(1, 1)

    bench = make_bench("x", program)
    bench.submit(bpf(0))
    bench.ring.wait_cqes(1, 50_000_000)
    assert seen == [(0, 0, 0), (0x1234, 7, 0)]
