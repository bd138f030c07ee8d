"""Rings of the 2021 ABIs with entries of twice the size: SETUP_SQE128 and SETUP_CQE32.

The kernels of the time knew neither. What is tested is what mainline's rings do, and that every CQ
of a ring has CQEs of the same size.
"""

from __future__ import annotations

import struct

import pytest

from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Cqe
from pybpfvm.uring_backend.kernel.probe import available
from pybpfvm.uring_backend.kernel.sysring import SysRing
from tests.support.ring_bench import Bench, MakeBench
from tests.support.ring_programs import Run, bpf, sqe

BOTH = abi.SETUP_SQE128 | abi.SETUP_CQE32
EXTRA = (0x1234_5678_9ABC_DEF0, 7)

pytestmark = [
    pytest.mark.parametrize(
        "backend_name", ["sim", pytest.param("kernel", marks=pytest.mark.kernel_ring)]
    )
]


def big(user_data: int, cq: int = 0) -> bytes:
    """A NOP whose CQE has a second half."""
    first, second = EXTRA
    return sqe(off=first, addr=second, op_flags=abi.NOP_CQE32, user_data=user_data, cq=cq)


def taken(bench: Bench, cq: int) -> list[Cqe]:
    found = []
    while (cqe := bench.ring.reap(cq)) is not None:
        found.append(cqe)
    return found


@pytest.mark.parametrize("profile", ["v1", "v2", "v3"])
def test_the_second_half_comes_to_the_queue_that_was_named(
    make_bench: MakeBench, profile: str
) -> None:
    extra = () if profile == "v1" else (8, 2)
    bench = make_bench(profile, flags=BOTH, cq_entries=extra)
    for cq in range(len(extra) + 1):
        for turn in range(10):  # more than the queues hold
            number = 100 * cq + turn
            assert bench.submit(big(number, cq), sqe(user_data=number + 50, cq=cq)) == 2
            bench.ring.wait_cqes(2, cq=cq)
            peeked = bench.ring.peek(cq)
            assert taken(bench, cq) == [Cqe(number, 0, 0, EXTRA), Cqe(number + 50, 0)]
            assert peeked == Cqe(number, 0, 0, EXTRA)


def test_without_cqe32_there_is_none(make_bench: MakeBench) -> None:
    bench = make_bench("v3", flags=abi.SETUP_SQE128)
    assert bench.submit(big(1), sqe(user_data=2)) == 1  # a bad SQE ends the batch
    assert bench.ring.submit() == 1
    assert bench.cqes() == [(1, -22), (2, 0)]


def test_what_programs_emit_and_reap_has_16_bytes(make_bench: MakeBench) -> None:
    reaped: list[object] = []

    def program(run: Run) -> int:
        reaped.append(run.reap(1))
        assert run.emit(2, 5, -6, 7) == 0
        assert run.submit(big(8, cq=2)) == 1
        return run.done()

    bench = make_bench("v3", program, flags=BOTH, cq_entries=(4, 4))
    bench.submit(big(3, cq=1))
    bench.ring.wait_cqes(1, cq=1)
    bench.submit(bpf(0, user_data=9))
    bench.ring.wait_cqes(2, cq=2)
    assert reaped == [Cqe(3, 0)]
    assert taken(bench, 2) == [Cqe(5, -6, 7), Cqe(8, 0, 0, EXTRA)]
    assert taken(bench, 0) == [Cqe(9, 0)]


def test_a_backlog_keeps_it(make_bench: MakeBench) -> None:
    bench = make_bench("v3", flags=BOTH, entries=2, cq_entries=(2,))  # CQ 0 has 4
    for number in range(6):
        assert bench.submit(big(number)) == 1
    bench.ring.run_until_idle()
    assert bench.ring.sq_flags & abi.SQ_CQ_OVERFLOW
    found = taken(bench, 0)
    bench.ring.submit()
    found += taken(bench, 0)
    assert found == [Cqe(number, 0, 0, EXTRA) for number in range(6)]
    for number in range(3):
        bench.submit(big(number, cq=1))
    bench.ring.run_until_idle()
    assert taken(bench, 1) == [Cqe(number, 0, 0, EXTRA) for number in range(2)]
    assert bench.ring.cq_overflow == 1


def test_memory_is_laid_out_as_the_kernel_does(make_bench: MakeBench) -> None:
    bench = make_bench("v2", flags=BOTH, entries=4, cq_entries=(16,))
    ring, memory = bench.ring, bench.memory
    main, sqes, extra = ring.mmap(0, 64), ring.mmap(0x10000000, 4 * 128), ring.mmap(0x1300000, 640)
    first, second = ring.next_sqe(), ring.next_sqe()
    assert (first, second) == (sqes, sqes + 128)
    memory.write(sqes, big(1) + b"\xff" * 64)  # whose second half nobody reads
    memory.write(sqes + 128, big(2, cq=1))
    memory.write(sqes + 256, b"\xff" * 128)
    assert ring.submit() == 2
    assert ring.next_sqe() == sqes + 256
    assert memory.read(sqes + 256, 128) == bytes(128)
    wanted = [struct.pack("<QiIQQ", number, 0, 0, *EXTRA) for number in (1, 2)]
    assert [memory.read(at + 64, 32) for at in (main, extra)] == wanted
    if reason := available():
        pytest.skip(f"the index array is compared with the kernel's: no io_uring: {reason}")
    with SysRing(4, flags=BOTH) as real:
        assert ring.sq_array_offset == 4 * real.sq_array
        assert real.cqes_at == 64


def test_nobody_loops_over_it_in_compiled_code(make_bench: MakeBench) -> None:
    plain = make_bench("v3", flags=0)
    plain.ring._observer = None  # who looks on keeps compiled code away as well
    assert (plain.ring.make_loop(1) is not None) == (plain.backend.name == "kernel")
    for flags in (abi.SETUP_SQE128, abi.SETUP_CQE32):
        bench = make_bench("v3", flags=flags)
        bench.ring._observer = None
        assert bench.ring.make_loop(1) is None
