"""Setup, memory layout, mmap, registration: iouring-bpf-2021, sections 1.3 to 1.5."""

from __future__ import annotations

import errno
import struct

import pytest

from pybpfvm.errors import InputError, RingError, RingHang, UnsupportedError
from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.profiles import PROFILES
from pybpfvm.profiles.base import RingRules
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.ring import Ring
from pybpfvm.uring_backend.setup import check_setup, read_cq_sizes
from tests.support.fake_backend import FakeBackend
from tests.support.ring_bench import MakeBench
from tests.support.ring_programs import PythonRunner, Run, bpf, sqe


def rules(profile: str) -> RingRules:
    found = PROFILES[f"iouring-{profile}"].ring
    assert found is not None
    return found


def nothing(run: Run) -> int:
    return run.done()


def park(run: Run) -> int:
    if isinstance(run.reap(1), int):
        return run.wait(1, 1)
    return run.done()


@pytest.mark.parametrize(
    ("entries", "extra", "flags", "cq0", "sq", "cqs"),
    [
        (8, (128, 128), 0, None, 8, (16, 128, 128)),
        (1, (1,), 0, None, 1, (2, 1)),
        (5, (100, 129), 0, None, 8, (16, 128, 256)),
        (8, (), abi.SETUP_CQSIZE, 9, 8, (16,)),
        (8, (0xFFFF_FFFF,), abi.SETUP_CLAMP, None, 8, (16, 65536)),
        (1 << 31, (), abi.SETUP_CLAMP, None, 32768, (65536,)),
        (8, (), abi.SETUP_CLAMP | abi.SETUP_CQSIZE, 1 << 20, 8, (65536,)),
        (8, (8,) * 1024, 0, None, 8, (16, *[8] * 1024)),
        (8, (), abi.SETUP_SQPOLL | abi.SETUP_SQ_AFF, None, 8, (16,)),
    ],
)
def test_sizes(
    entries: int,
    extra: tuple[int, ...],
    flags: int,
    cq0: int | None,
    sq: int,
    cqs: tuple[int, ...],
) -> None:
    setup = check_setup(rules("v2"), entries, extra, flags, cq0)
    assert (setup.sq_entries, setup.cqs) == (sq, cqs)


@pytest.mark.parametrize(
    ("profile", "entries", "extra", "flags", "cq0"),
    [
        pytest.param("v2", 0, (), 0, None, id="no entries"),
        pytest.param("v2", -1, (), 0, None, id="negative entries"),
        pytest.param("v2", 1 << 31, (), 0, None, id="2^31 entries"),
        pytest.param("v2", 32769, (), 0, None, id="too many entries"),
        pytest.param("v2", 0, (), abi.SETUP_CLAMP, None, id="no entries, clamped"),
        pytest.param("v2", 8, (0,), 0, None, id="an empty extra CQ"),
        pytest.param("v2", 8, (0,), abi.SETUP_CLAMP, None, id="an empty extra CQ, clamped"),
        pytest.param("v2", 8, (65537,), 0, None, id="an extra CQ too large"),
        pytest.param("v2", 8, (0xFFFF_FFFF,), 0, None, id="multi_cq: size 2^32-1"),
        pytest.param("v2", 8, (8,) * 1025, 0, None, id="1025 extra CQs"),
        pytest.param("v2", 8, (), abi.SETUP_CQSIZE, 0, id="CQSIZE 0"),
        pytest.param("v2", 8, (), abi.SETUP_CQSIZE, 65537, id="CQSIZE too large"),
        pytest.param("v2", 8, (), abi.SETUP_CQSIZE, 4, id="CQSIZE below the SQ"),
        pytest.param("v2", 8, (), abi.SETUP_SQ_AFF, None, id="SQ_AFF alone"),
        pytest.param("v2", 8, (), abi.SETUP_SUBMIT_ALL, None, id="a flag of later kernels"),
        pytest.param("v1", 8, (8,), 0, None, id="v1 has no extra CQs"),
    ],
)
def test_refused_sizes(
    profile: str, entries: int, extra: tuple[int, ...], flags: int, cq0: int | None
) -> None:
    with pytest.raises(RingError) as caught:
        check_setup(rules(profile), entries, extra, flags, cq0)
    assert caught.value.errno == errno.EINVAL


def test_flags_that_are_not_played_say_so() -> None:
    with pytest.raises(UnsupportedError):
        check_setup(rules("v2"), 8, (), abi.SETUP_ATTACH_WQ)


@pytest.mark.parametrize(
    ("nr_cq", "at", "error"),
    [
        (1, 0, errno.EINVAL),
        (0, 64, errno.EINVAL),
        (5, 1, errno.EFAULT),
        (1 << 31, 64, errno.EINVAL),
        (1025, 64, errno.EINVAL),
    ],
)
def test_setup_words_of_multi_cq(nr_cq: int, at: int, error: int) -> None:
    with AddressSpace() as memory, pytest.raises(RingError) as caught:
        read_cq_sizes(memory, nr_cq, at)
    assert caught.value.errno == error


def test_setup_words_that_are_fine() -> None:
    with AddressSpace() as memory:
        region = memory.alloc(8, RegionKind.USER, "cq_sizes")
        memory.user_write(region.start, struct.pack("<II", 128, 7))
        assert read_cq_sizes(memory, 2, region.start) == (128, 7)
        assert read_cq_sizes(memory, 0, 0) == ()
        with pytest.raises(RingError) as caught:
            read_cq_sizes(memory, 3, region.start)  # the third word lies outside
    assert caught.value.errno == errno.EFAULT


def test_rings_too_large_for_the_memory_limit() -> None:
    with AddressSpace(limit_bytes=1 << 20) as memory:
        for size in (65536, 1):
            memory.limit_bytes = 1 << 20 if size > 1 else 12 << 10
            before = memory.committed_bytes
            with pytest.raises(RingError) as caught:
                Ring(
                    PROFILES["iouring-v2"],
                    memory,
                    FakeBackend(memory),
                    8,
                    (size, size),
                    runner=PythonRunner(memory),
                )
            assert caught.value.errno == errno.ENOMEM
            assert memory.committed_bytes == before


def test_a_profile_without_a_ring() -> None:
    with AddressSpace() as memory, pytest.raises(InputError, match="has no ring"):
        Ring(
            PROFILES["socket_filter"],
            memory,
            FakeBackend(memory),
            8,
            runner=PythonRunner(memory),
        )


# --- memory -----------------------------------------------------------------------------------


def test_multi_cq_mappings(make_bench: MakeBench) -> None:
    ring = make_bench("v2", cq_entries=(128,)).ring
    first, stride = 0x1200000, 0x100000
    extra = 64 + 128 * 16
    assert ring.mmap(first + stride, extra) not in (0, ring.mmap(0, 64))
    assert ring.mmap(first, 64) == ring.mmap(0, 64) == ring.mmap(0x8000000, 64)
    assert ring.mmap(0x10000000, 8 * 64) == ring.next_sqe()
    for offset in (
        first + 2 * stride,
        first + stride // 2,
        first - 100,
        first - stride,
        64,
        -stride,
        1 << 40,
    ):
        with pytest.raises(RingError) as caught:
            ring.mmap(offset, extra)
        assert caught.value.errno == errno.EINVAL
    for length in (0, 4097):
        with pytest.raises(RingError):
            ring.mmap(first + stride, length)
    assert ring.mmap(first + stride, 4096)


def test_fixed_mmap_offsets_hide_two_queues(make_bench: MakeBench) -> None:
    ring = make_bench("v2", cq_entries=(8,) * 240).ring
    first, stride = 0x1200000, 0x100000
    assert ring.mmap(first + 110 * stride, 64) == ring.mmap(0, 64)
    assert ring.mmap(first + 238 * stride, 64) == ring.mmap(0x10000000, 64)
    assert ring.mmap(first + 239 * stride, 64)


def test_v1_has_no_queue_offsets(make_bench: MakeBench) -> None:
    ring = make_bench("v1").ring
    assert ring.mmap(0, 64)
    with pytest.raises(RingError):
        ring.mmap(0x1200000, 64)


def test_layout_seen_through_the_mapping(make_bench: MakeBench) -> None:
    bench = make_bench("v2", cq_entries=(64,))
    ring, memory = bench.ring, bench.memory
    assert bench.submit(sqe(user_data=7), sqe(user_data=2, cq=1)) == 2
    main = struct.unpack("<12I", memory.read(ring.mmap(0, 64), 48))
    assert main == (2, 2, 0, 1, 7, 15, 8, 16, 0, 0, 0, 0)
    assert memory.read(ring.mmap(0, 64) + 64, 16) == struct.pack("<QiI", 7, 0, 0)
    extra = ring.mmap(0x1300000, 64)
    words = struct.unpack("<12I", memory.read(extra, 48))
    assert words == (0, 0, 0, 1, 0, 63, 0, 64, 0, 0, 0, 0)
    assert memory.read(extra + 64, 16) == struct.pack("<QiI", 2, 0, 0)
    memory.write(extra + 8, struct.pack("<I", 1))  # userspace moves the head
    assert ring.ready(1) == 0


def test_userspace_may_fill_the_sq_by_itself(make_bench: MakeBench) -> None:
    bench = make_bench("v2", entries=4)
    ring, memory = bench.ring, bench.memory
    main, sqes = ring.mmap(0, 64), ring.mmap(0x10000000, 256)
    array = ring.sq_array_offset
    memory.write(sqes + 3 * 64, sqe(user_data=33))
    memory.write(sqes + 1 * 64, sqe(user_data=11))
    memory.write(main + array, struct.pack("<IIII", 3, 1, 9, 0))
    memory.write(main + 4, struct.pack("<I", 3))
    assert ring.enter(3) == 2
    assert bench.cqes() == [(33, 0), (11, 0)]
    assert struct.unpack("<I", memory.read(main + 32, 4)) == (1,)  # sq_dropped: index 9
    assert ring.enter(1) == 0
    memory.write(main + 4, struct.pack("<I", 0xFFFF_0000))  # a wild tail is bounded by the size
    assert ring.enter(0xFFFF_FFFF) <= 4


def test_a_full_sq(make_bench: MakeBench) -> None:
    bench = make_bench("v2", entries=2)
    bench.ring.queue(sqe())
    bench.ring.queue(sqe())
    assert bench.ring.next_sqe() is None
    with pytest.raises(RingError) as caught:
        bench.ring.queue(sqe())
    assert caught.value.errno == errno.EBUSY
    assert bench.ring.submit() == 2
    assert bench.ring.next_sqe() is not None
    with pytest.raises(InputError):
        bench.ring.queue(bytes(63))


def test_a_ring_gives_its_memory_back() -> None:
    with AddressSpace() as memory:
        for _ in range(3):
            backend = FakeBackend(memory)
            runner = PythonRunner(memory)
            with Ring(PROFILES["iouring-v2"], memory, backend, 8, (8, 8), runner=runner) as ring:
                assert memory.committed_bytes > 0
                ring.close()
            assert memory.committed_bytes == 0
            assert memory.regions() == []
            assert backend.closed == 1


# --- registration -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("programs", "error"),
    [
        ([], errno.EINVAL),
        ([0] * 101, errno.EINVAL),
        ([0, 1000], errno.EBADF),
        ([0, 1001], errno.EINVAL),
        ([-2], errno.EBADF),
    ],
)
def test_refused_registrations(
    make_bench: MakeBench, programs: list[int | None], error: int
) -> None:
    bench = make_bench("v2", nothing, register=False)
    with pytest.raises(RingError) as caught:
        bench.ring.register_bpf(programs)
    assert caught.value.errno == error
    bench.ring.register_bpf([0])  # nothing stayed behind


def test_registration_life(make_bench: MakeBench) -> None:
    bench = make_bench("v2", nothing, register=False)
    ring = bench.ring
    with pytest.raises(RingError) as caught:
        ring.unregister_bpf()
    assert caught.value.errno == errno.ENXIO
    ring.register_bpf([0] * 99 + [-1])
    with pytest.raises(RingError) as caught:
        ring.register_bpf([0])
    assert caught.value.errno == errno.EBUSY
    bench.submit(bpf(98, user_data=1))
    bench.submit(bpf(99, user_data=2))
    bench.submit(bpf(100, user_data=3))
    assert bench.cqes() == [(1, 0), (2, -errno.EFAULT), (3, -errno.EFAULT)]
    ring.unregister_bpf()
    bench.submit(bpf(0, user_data=4))
    assert bench.cqes() == [(4, -errno.EFAULT)]
    with pytest.raises(RingError) as caught:
        ring.unregister_bpf()
    assert caught.value.errno == errno.ENXIO


def test_registration_waits_for_requests_in_flight(make_bench: MakeBench) -> None:
    bench = make_bench("v2", nothing, register=False)
    timeout = sqe(abi.Op.TIMEOUT, addr=bench.user(struct.pack("<qq", 3, 0)), len=1, user_data=9)
    bench.submit(timeout)
    bench.ring.register_bpf([0])
    assert bench.backend.now_ns() == 3 * 10**9
    assert bench.cqes() == [(9, -errno.ETIME)]


def test_unregistering_under_a_parked_request_is_a_hang(make_bench: MakeBench) -> None:
    bench = make_bench("v2", park)
    bench.submit(bpf(0, user_data=5))
    with pytest.raises(RingHang) as caught:
        bench.ring.unregister_bpf()
    assert caught.value.waiters[1:] == ("request 1 (park) waits for 1 CQE on CQ 1, which holds 0",)
    bench.submit(sqe(cq=1))  # the ring still works, and this wakes the request
    assert bench.cqes() == [(5, 0)]
    bench.ring.unregister_bpf()


def test_unregistering_ends_a_woken_request_with_eagain(make_bench: MakeBench) -> None:
    bench = make_bench("v2", park)
    timeout = sqe(abi.Op.TIMEOUT, addr=bench.user(struct.pack("<qq", 1, 0)), len=1, cq=1)
    bench.submit(bpf(0, user_data=5), timeout)
    bench.ring.unregister_bpf()
    assert bench.cqes() == [(5, -errno.EAGAIN)]
    assert bench.runner.runs == 1


def test_files_and_buffers_go_to_the_backend(make_bench: MakeBench) -> None:
    ring = make_bench("v2").ring
    ring.register_files([3, -1])
    assert ring.update_files(1, [4]) == 1
    with pytest.raises(RingError) as caught:
        ring.register_files([5])
    assert caught.value.errno == errno.EBUSY
    ring.unregister_files()
    with pytest.raises(RingError) as caught:
        ring.unregister_files()
    assert caught.value.errno == errno.ENXIO
    ring.register_buffers([])
    with pytest.raises(RingError):
        ring.unregister_buffers()


def test_a_closed_ring_refuses_everything(make_bench: MakeBench) -> None:
    ring = make_bench("v2").ring
    ring.close()
    ring.close()
    for call in (
        ring.submit,
        ring.unregister_bpf,
        ring.next_sqe,
        ring.ready,
        ring.reap,
        ring.wait_cqes,
        ring.unregister_files,
        lambda: ring.mmap(0, 64),
        lambda: ring.sq_flags,
        lambda: ring.cq_overflow,
    ):
        with pytest.raises(RingError) as caught:
            call()
        assert caught.value.errno == errno.ENXIO
