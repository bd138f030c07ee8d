"""The extra checks of abi/iouring-bpf-2021, section 4.6, row by row, and the rules next to them.

Names follow the rows. `rows.bpf.c` has the programs; what they saw is in their map `out`.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from pybpfvm.errors import LoadRejected, RingError, RingHang, Trap, TrapKind
from pybpfvm.events import CqePosted
from pybpfvm.profiles import profile_named
from pybpfvm.profiles.base import SectionRule
from pybpfvm.session import Budgets
from pybpfvm.session.hostring import BackendName
from pybpfvm.uring_backend.abi import (
    SQ_CQ_OVERFLOW,
    SQE_ASYNC,
    SQE_BUFFER_SELECT,
    SQE_CQE_SKIP_SUCCESS,
    SQE_FIXED_FILE,
    SQE_IO_HARDLINK,
    SQE_IO_LINK,
    Op,
    Sqe,
)
from pybpfvm.verifier.loadcheck import check_load
from tests.support.session_ring import SIM_AND_KERNEL, Desk, desk

HERE = Path(__file__).parent
ABIS = {"v2": "iouring-v2", "v3": "iouring-v3"}
MORE_ABIS = {**ABIS, "v2-futex": "iouring-v2-futex", "v3base": "iouring-v3base"}
EINVAL, EFAULT, ENOENT, ENOMEM = -errno.EINVAL, -errno.EFAULT, -errno.ENOENT, -errno.ENOMEM
ECANCELED, EOPNOTSUPP = -errno.ECANCELED, -errno.EOPNOTSUPP
SMALL = Budgets(max_runs=2_000, livelock_runs=500, idle_timeout_ns=300_000_000)


def u64(value: int) -> int:
    """How an array of u64 shows a negative result."""
    return value & 0xFFFF_FFFF_FFFF_FFFF


def rows(version: str, backend: BackendName = "sim") -> AbstractContextManager[Desk]:
    return desk(HERE / f"rows.{version}.bpf.o", MORE_ABIS[version], backend, budgets=SMALL)


@pytest.fixture(params=SIM_AND_KERNEL)
def backend(request: pytest.FixtureRequest) -> BackendName:
    name: BackendName = request.param
    return name


@pytest.fixture(params=ABIS)
def version(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def row(version: str, backend: BackendName) -> Iterator[Desk]:
    with rows(version, backend) as found:
        yield found


def run_one(found: Desk, program: str, user_data: int = 7, **fields: int) -> None:
    """Register `program` alone and submit one request for it."""
    found.register(program)
    assert found.submit_bpf(0, user_data, **fields) == 1


# --- the request itself -----------------------------------------------------------------------


def test_index_100_with_4_programs(row: Desk) -> None:
    row.register(*["count_run"] * 4)
    row.submit_bpf(100, 1)
    row.submit_bpf(4, 2)
    assert row.cqes(2) == [(1, EFAULT), (2, EFAULT)]
    assert row.array("out", 0, 1) == [0]


def test_nothing_registered(row: Desk) -> None:
    row.submit_bpf(0, 1)
    assert row.cqes(1) == [(1, EFAULT)]


def test_empty_slot(row: Desk) -> None:
    row.register("count_run", None, "count_run")
    row.submit_bpf(1, 1)
    row.submit_bpf(2, 2)
    assert row.cqes(2) == [(1, EFAULT), (2, 0)]


def test_only_the_low_half_of_the_index_counts(row: Desk) -> None:
    row.register("count_run")
    row.submit_bpf(1 << 32, 1)
    assert row.cqes(1) == [(1, 0)]


@pytest.mark.parametrize("field", ["len", "addr", "ioprio", "op_flags"])
def test_fields_that_must_be_zero(row: Desk, field: str) -> None:
    row.register("count_run")
    row.submit_bpf(0, 1, **{field: 1})
    assert row.cqes(1) == [(1, EINVAL)]
    assert row.array("out", 0, 1) == [0]


@pytest.mark.parametrize(
    ("field", "value"), [("fd", 77), ("buf_index", 5), ("file_index", 3), ("pad", 9)]
)
def test_fields_that_are_ignored(row: Desk, field: str, value: int) -> None:
    row.register("count_run")
    row.submit_bpf(0, 1, **{field: value})
    assert row.cqes(1) == [(1, 0)]


def test_flags(row: Desk, version: str) -> None:
    row.register("count_run")
    for flags in (SQE_FIXED_FILE, SQE_BUFFER_SELECT, SQE_ASYNC, 1 << 7):
        row.submit_bpf(0, flags, flags=flags)
    assert dict(row.cqes(4)) == {
        SQE_FIXED_FILE: EINVAL,
        SQE_BUFFER_SELECT: EOPNOTSUPP,
        SQE_ASYNC: 0,
        1 << 7: EINVAL,
    }
    row.submit_bpf(0, 50, flags=SQE_CQE_SKIP_SUCCESS)
    row.submit_bpf(0, 51)
    wanted = [(51, 0)] if version == "v3" else [(50, EINVAL), (51, 0)]
    assert row.cqes(len(wanted)) == wanted
    assert row.left() == []


def test_cq_idx_3_with_3_cqs(row: Desk) -> None:
    row.register("count_run")
    row.submit_bpf(0, 1, cq_idx=3)
    row.ring.get_sqe().prep_nop(user_data=2, cq_idx=9)
    row.ring.submit()
    row.submit_bpf(0, 3, cq_idx=2)
    assert row.cqes(2) == [(1, EINVAL), (2, EINVAL)]
    assert row.cqes(1, cq=2) == [(3, 0)]
    assert row.array("out", 0, 1) == [1]


def test_a_bad_sqe_ends_the_submission(row: Desk) -> None:
    row.register("count_run")
    row.ring.get_sqe().prep_nop(user_data=1)
    row.ring.get_sqe().prep_bpf(9, user_data=2)
    row.ring.get_sqe().prep_nop(user_data=3)
    assert row.ring.submit() == 2
    assert row.cqes(2) == [(1, 0), (2, EFAULT)]


# --- registering ---------------------------------------------------------------------------------


def refusal(call: object, *args: object) -> int:
    assert callable(call)
    with pytest.raises(RingError) as caught:
        call(*args)
    return caught.value.errno


def test_registering_twice_none_too_many(row: Desk) -> None:
    program = row.obj["count_run"]
    ring = row.ring
    assert refusal(ring.register_bpf, []) == errno.EINVAL
    assert refusal(ring.register_bpf, [program] * 101) == errno.EINVAL
    assert refusal(ring.unregister_bpf) == errno.ENXIO
    ring.register_bpf([program] * 100)
    assert refusal(ring.register_bpf, [program]) == errno.EBUSY
    row.submit_bpf(99, 1)
    assert row.cqes(1) == [(1, 0)]
    ring.unregister_bpf()
    assert refusal(ring.unregister_bpf) == errno.ENXIO
    row.submit_bpf(0, 2)
    assert row.cqes(1) == [(2, EFAULT)]
    ring.register_bpf([program])
    row.submit_bpf(0, 3)
    assert row.cqes(1) == [(3, 0)]


def test_unregistering_under_a_parked_request_hangs(row: Desk) -> None:
    run_one(row, "wait_for_nothing")
    with pytest.raises(RingHang):
        row.ring.unregister_bpf()


# --- reap and emit ---------------------------------------------------------------------------

REAPS = {
    "reap_empty": {"v2": ENOENT, "v3": ENOENT},
    "reap_bad_cq": {"v2": EINVAL, "v3": EINVAL},
}


@pytest.mark.parametrize("program", REAPS)
def test_failed_reap_zeroes_out(row: Desk, version: str, program: str) -> None:
    run_one(row, program)
    assert row.cqes(1) == [(7, 0)]
    everything = u64(-1)
    assert row.array("out", 0, 4) == [u64(REAPS[program][version]), 0, 0, everything]


def test_reap_of_a_wrong_length(row: Desk, version: str) -> None:
    run_one(row, "reap_len_32")
    row.cqes(1)
    answer, user_data, res_and_flags, after = row.array("out", 0, 4)
    if version == "v2":
        assert (answer, user_data, res_and_flags) == (u64(EINVAL), 0, 0)
        assert row.left(1) == [(77, 7)]
    else:
        assert (answer, user_data, res_and_flags) == (0, 77, 7)
        assert row.left(1) == []
    assert after in (0, u64(-1))  # nobody says what happens beyond the 16 bytes


def test_failed_reap_stored(row: Desk) -> None:
    run_one(row, "failed_reap_stored")
    row.cqes(1)
    assert row.array("out", 0, 1) == [18446744073709551614]


def test_emit_to_cq_9(row: Desk) -> None:
    run_one(row, "emit_bad_cq")
    assert row.cqes(1) == [(7, 0)]
    assert row.array("out", 0, 1) == [u64(EINVAL)]


def test_emit_129_times(row: Desk) -> None:
    run_one(row, "emit_129")
    assert row.cqes(1) == [(7, 0)]
    assert row.array("out", 0, 2) == [128, u64(ENOMEM)]
    assert row.ring.cq_overflow == 1
    assert row.left(1) == [(number, number) for number in range(128)]


def test_emit_17_times_to_the_main_cq(row: Desk) -> None:
    run_one(row, "emit_17_main")
    ring = row.ring
    assert row.array("out", 0, 1) == [17]
    assert ring.core.sq_flags & SQ_CQ_OVERFLOW
    assert ring.ready() == 16
    assert ring.cq_overflow == 0
    first = [row.ring.core.reap(0) for _ in range(3)]
    assert [cqe.user_data for cqe in first if cqe] == [100, 101, 102]
    ring.submit()  # an enter: the backlog moves in
    assert not ring.core.sq_flags & SQ_CQ_OVERFLOW
    assert row.left() == [*((100 + n, n) for n in range(3, 17)), (7, 0)]


def test_emit_passes_everything_through(row: Desk) -> None:
    run_one(row, "emit_verbatim")
    emitted = row.ring.wait_cqe(10_000_000_000)
    assert (emitted.user_data, emitted.res, emitted.flags) == (0x1122334455667788, -5, 0x80000001)
    assert row.array("out", 0, 4) == [0, 0x1122334455667788, u64(-5), 0x80000001]


# --- waiting ----------------------------------------------------------------------------------


def test_wait_idx_out_of_range(row: Desk) -> None:
    run_one(row, "wait_bad_cq")
    assert row.cqes(1) == [(7, EINVAL)]
    assert row.array("out", 0, 1) == [1]


@pytest.mark.parametrize("version", MORE_ABIS)
def test_wait_for_none(version: str, backend: BackendName) -> None:
    with rows(version, backend) as row:
        run_one(row, "wait_for_none")
        assert row.cqes(1) == [(7, EINVAL if version == "v3" else 0)]
        assert row.array("out", 0, 1) == [1]


def test_wait_fields_between_runs(row: Desk, version: str) -> None:
    run_one(row, "ctx_between_runs")
    assert row.cqes(1) == [(7, 0)]
    assert row.array("out", 0, 3) == ([2, 1, 1] if version == "v3" else [2, 0, 0])


def test_wait_for_nothing_is_a_hang_that_says_who_waits(row: Desk) -> None:
    run_one(row, "wait_for_nothing")
    with pytest.raises(RingHang) as caught:
        row.ring.wait_cqe()
    assert "wait_for_nothing" in str(caught.value)
    assert row.array("out", 0, 1) == [1]


def test_waiting_without_reaping_is_a_live_lock(row: Desk) -> None:
    row.register("wait_without_reaping")
    with pytest.raises(RingHang) as caught:
        row.complete(0, 7)
    assert "wait_without_reaping" in str(caught.value)


def test_endless_self_resubmission_is_a_hang(row: Desk) -> None:
    row.register("resubmit")
    with pytest.raises(RingHang) as caught:
        row.complete(0, 0)
    assert "resubmit" in str(caught.value)


def test_closing_a_ring_with_a_parked_request(row: Desk) -> None:
    run_one(row, "wait_for_nothing", user_data=70)
    row.ring.close()
    posted = [(e.user_data, e.res) for e in row.events if isinstance(e, CqePosted)]
    assert posted == [(70, -errno.EAGAIN)]


# --- submitting from a program ------------------------------------------------------------------


def test_nop_then_reap_of_its_cq(row: Desk) -> None:
    run_one(row, "nop_then_reap")
    assert row.cqes(1) == [(7, 0)]
    assert row.array("out", 0, 2) == [1, u64(ENOENT)]
    assert row.left(1) == [(8, 0)]


def test_32_inline_completions_flush_the_deferral(row: Desk) -> None:
    run_one(row, "nops_33_then_reap")
    assert row.cqes(1) == [(7, 0)]
    assert row.array("out", 0, 2) == [0, 1000]
    assert row.left(1) == [(1000 + n, 0) for n in range(1, 33)]


def test_submit_of_63_bytes(row: Desk, version: str) -> None:
    """v3 does not look at the length: it reads 64 bytes, and they are there."""
    run_one(row, "submit_len_63")
    assert row.cqes(1) == [(7, 0)]
    wanted = (EINVAL, []) if version == "v2" else (1, [(8, 0)])
    assert row.array("out", 0, 1) == [u64(wanted[0])]
    assert row.left(1) == wanted[1]


@pytest.mark.parametrize(
    ("sqe", "error"),
    [
        (Sqe(244, user_data=5, addr3=1), EINVAL),
        (Sqe(Op.NOP, user_data=5, addr3=1, flags=1 << 7), EINVAL),
        (Sqe(37, user_data=5, addr3=1, off=50), EFAULT),
        (Sqe(37, user_data=5, addr3=1, len=1), EINVAL),
    ],
)
def test_a_bad_sqe_from_a_program(row: Desk, sqe: Sqe, error: int) -> None:
    block = row.ring.user.alloc(sqe.pack(), "sqe")
    run_one(row, "submit_user_sqe", block.addr)
    assert row.cqes(1) == [(block.addr, 0)]
    assert row.array("out", 0, 2) == [0, 1]
    assert row.left(1) == [(5, error)]


def test_a_bad_cq_from_a_program_goes_to_the_main_one(row: Desk) -> None:
    block = row.ring.user.alloc(Sqe(Op.NOP, user_data=5, addr3=40).pack(), "sqe")
    run_one(row, "submit_user_sqe", block.addr)
    assert row.cqes(2) == [(5, EINVAL), (block.addr, 0)]
    assert row.array("out", 0, 1) == [0]


def test_an_asynchronous_failure_is_no_bad_sqe(row: Desk) -> None:
    read = Sqe(Op.READ, fd=9999, user_data=5, addr3=1, addr=8, len=1)
    block = row.ring.user.alloc(read.pack(), "sqe")
    run_one(row, "submit_user_sqe", block.addr)
    assert row.cqes(1) == [(block.addr, 0)]
    assert row.cqes(1, cq=1) == [(5, -errno.EBADF)]
    assert row.array("out", 0, 1) == [1]


@pytest.mark.parametrize("version", MORE_ABIS)
def test_a_bad_sqe_in_an_open_chain(version: str, backend: BackendName) -> None:
    """v2 cancels the chain at once and answers 0; v3 keeps it as a failed member."""
    with rows(version, backend) as row:
        run_one(row, "bad_sqe_in_chain")
        assert row.cqes(1) == [(7, 0)]
        answers = row.array("out", 0, 3)
        found = dict(row.left(1))
        if version in ("v2", "v2-futex"):
            assert answers == [1, 0, 1]
            assert found == {1: ECANCELED, 2: EINVAL, 3: 0}
        else:
            assert answers == [1, 1, 1]
            assert found == {1: ECANCELED, 2: EINVAL, 3: ECANCELED}


def test_user_memory_that_is_not_there(row: Desk) -> None:
    run_one(row, "user_fault")
    assert row.cqes(1) == [(7, 0)]
    assert row.array("out", 0, 3) == [u64(EFAULT), 0, u64(EFAULT)]


# --- links ---------------------------------------------------------------------------------------


def test_bpf_that_fails_by_its_wait_does_not_break_a_link(row: Desk) -> None:
    row.register("wait_bad_cq")
    row.ring.get_sqe().prep_bpf(0, user_data=1, flags=SQE_IO_LINK)
    row.ring.get_sqe().prep_nop(user_data=2)
    assert row.ring.submit() == 2
    assert row.cqes(2) == [(1, EINVAL), (2, 0)]


@pytest.mark.parametrize(
    ("link", "answer", "count"), [(SQE_IO_LINK, ECANCELED, 0), (SQE_IO_HARDLINK, 0, 1)]
)
def test_short_read_then_bpf(row: Desk, link: int, answer: int, count: int) -> None:
    ring = row.ring
    row.register("count_run")
    ring.world.add_file("short", b"abc")
    buffer = ring.user.alloc(16, "buffer")
    fd = ring.world.open("short", os.O_RDONLY)
    ring.get_sqe().prep_read(fd, buffer.addr, 16, 0, user_data=1, cq_idx=1, flags=link)
    ring.get_sqe().prep_bpf(0, user_data=2, cq_idx=2)
    assert ring.submit() == 2
    assert row.cqes(1, cq=1) == [(1, 3)]
    assert row.cqes(1, cq=2) == [(2, answer)]
    assert row.array("out", 0, 1) == [count]
    assert buffer.read(3) == b"abc"


# --- loading --------------------------------------------------------------------------------------

LOADS = {
    "fine": (0, 0),
    "return_one": (errno.EINVAL, 0),
    "return_two": (errno.EINVAL, errno.EINVAL),
    "return_unknown": (errno.EINVAL, errno.EINVAL),
    "wide_store": (errno.EACCES, errno.EACCES),
    "narrow_load": (errno.EACCES, errno.EACCES),
    "write_user_data": (0, errno.EACCES),
    "beyond_ctx": (errno.EACCES, errno.EACCES),
    "unknown_helper": (errno.EINVAL, errno.EINVAL),
}


@pytest.mark.parametrize("program", LOADS)
def test_load_checks(version: str, program: str) -> None:
    wanted = LOADS[program][version == "v3"]
    with desk(HERE / f"load_checks.{version}.bpf.o", ABIS[version]) as found:
        if not wanted:
            found.register(program)
            return
        with pytest.raises(LoadRejected) as caught:
            found.register(program)
        assert caught.value.errno == wanted
        assert program in str(caught.value)


def test_an_unproven_return_value_traps_when_it_is_wrong(version: str) -> None:
    with desk(HERE / f"load_checks.{version}.bpf.o", ABIS[version], verify=False) as found:
        found.register("return_unknown")
        zero = found.ring.user.alloc(struct.pack("<I", 0), "zero")
        found.submit_bpf(0, zero.addr)
        assert found.cqes(1) == [(zero.addr, 0)]
        word = found.ring.user.alloc(struct.pack("<I", 1234), "word")
        with pytest.raises(Trap) as caught:
            found.complete(0, word.addr)
        assert caught.value.kind is TrapKind.BAD_RETURN


def test_wide_store_in_lenient_mode_is_two_stores(version: str) -> None:
    """The store sets wait_nr 1 and wait_idx 0; what v2 makes of it is a wait on CQ 0."""
    path = HERE / f"load_checks.{version}.bpf.o"
    with desk(path, ABIS[version], strict_ctx=False, budgets=SMALL) as found:
        found.register("wide_store")
        found.submit_bpf(0, 7)
        if version == "v2":
            with pytest.raises(RingHang):
                found.ring.wait_cqe()
        else:
            assert found.cqes(1) == [(7, 0)]


def test_v3_programs_must_be_sleepable() -> None:
    """The section prefix makes every v3 program sleepable, so the rule is asked directly."""
    with desk(HERE / "load_checks.v3.bpf.o", "iouring-v3") as found:
        facts = found.obj["fine"].facts
        profile = replace(profile_named("iouring-v3"), sections=(SectionRule("iouring"),))
        with pytest.raises(LoadRejected) as caught:
            check_load(facts, profile)
        assert caught.value.errno == errno.EINVAL


def test_v2_programs_that_are_not_sleepable(backend: BackendName) -> None:
    with desk(HERE / "not_sleepable.v2.bpf.o", "iouring-v2", backend) as found:
        for program in ("submits", "copies"):
            with pytest.raises(LoadRejected) as caught:
                found.register(program)
            assert caught.value.errno == errno.EINVAL
        found.register("emits")
        found.submit_bpf(0, 1)
        assert found.cqes(2) == [(7, 8), (1, 0)]
        assert found.array("out", 0, 1) == [1]
