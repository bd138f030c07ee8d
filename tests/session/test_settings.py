"""What hosts ask of rings and tell them, on both backends; restrictions as the running kernel's."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable
from dataclasses import asdict
from random import Random

import pytest

from pybpfvm.errors import RingError
from pybpfvm.session import Ring
from pybpfvm.session.hostring import BackendName, HostRing
from pybpfvm.session.loopring import LoopRing
from pybpfvm.session.sqe import SqeBuilder
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op, Register, Sqe
from pybpfvm.uring_backend.kernel.probe import available
from pybpfvm.uring_backend.kernel.sysring import SysRing
from pybpfvm.uring_backend.restrictions import MAX_ROWS, REGISTER_BPF, Restrict, Row
from pybpfvm.uring_backend.settings import CLOCK_BOOTTIME
from tests.support.seeded import each_seed
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

MakeRing = Callable[[BackendName, int], HostRing]


def ring_of_x(backend: BackendName, flags: int) -> HostRing:
    """A ring that has the opcodes of mainline."""
    return Ring(16, backend=backend, flags=flags, abi="iouring-x")


def ring_with_a_loop(backend: BackendName, flags: int) -> HostRing:
    return LoopRing(16, backend=backend, flags=flags)


BOTH_KINDS = pytest.mark.parametrize("make", [ring_of_x, ring_with_a_loop])
BACKENDS = pytest.mark.parametrize("backend", SIM_AND_KERNEL)


def refused(call: Callable[[], object]) -> int:
    with pytest.raises(RingError) as caught:
        call()
    return caught.value.errno


@BOTH_KINDS
@BACKENDS
def test_personalities_of_requests(make: MakeRing, backend: BackendName) -> None:
    need_backend(backend)
    with make(backend, 0) as ring:
        first, second = ring.register_personality(), ring.register_personality()
        ring.unregister_personality(first)
        for number, result in ((first, -errno.EINVAL), (second, 0), (9, -errno.EINVAL)):
            ring.get_sqe().prep_nop(user_data=number, personality=number)
            ring.submit()
            cqe = ring.wait_cqe(10**9)
            assert (cqe.user_data, cqe.res) == (number, result)
        assert refused(lambda: ring.unregister_personality(first)) == errno.EINVAL


@BOTH_KINDS
@BACKENDS
def test_the_rest(make: MakeRing, backend: BackendName) -> None:
    need_backend(backend)
    with make(backend, 0) as ring, make(backend, 0) as other:
        assert {Op.NOP, Op.READ, Op.SEND_ZC} <= ring.probe()
        assert ring.query().request_opcodes > max(ring.probe())
        ring.register_iowq_aff([0])
        ring.unregister_iowq_aff()
        before = ring.register_iowq_max_workers(2, 3)
        assert ring.register_iowq_max_workers(*before) == (2, 3)
        number = ring.register_ring_fd()
        ring.unregister_ring_fd(number)
        ring.register_clock(CLOCK_BOOTTIME)
        assert refused(lambda: ring.register_clock(5)) == errno.EINVAL
        fd = ring.ring_fd(other)
        ring.register_sync_msg(SqeBuilder(None).set(opcode=Op.MSG_RING, fd=fd, len=7, off=99))
        cqe = other.wait_cqe(10**9)
        assert (cqe.user_data, cqe.res) == (99, 7)


@BACKENDS
def test_eventfd_of_workers(backend: BackendName) -> None:
    need_backend(backend)
    with Ring(8, backend=backend) as ring:
        fd, block = ring.world.eventfd(), ring.user.alloc(8)
        ring.register_eventfd_async(fd)
        assert refused(lambda: ring.register_eventfd(fd)) == errno.EBUSY
        assert refused(lambda: ring.register_eventfd_async(fd)) == errno.EBUSY
        for flags in (0, abi.SQE_ASYNC, abi.SQE_ASYNC):
            ring.get_sqe().prep_nop(user_data=1, flags=flags)
            ring.submit()
            ring.wait_cqe(10**9)
        ring.unregister_eventfd()
        assert refused(ring.unregister_eventfd) == errno.ENXIO
        ring.get_sqe().prep_read(fd, block.addr, 8, 0)
        ring.submit()
        ring.wait_cqe(10**9)
        assert block.read(8) == struct.pack("<Q", 2)


@BOTH_KINDS
@BACKENDS
def test_what_a_restricted_ring_takes(make: MakeRing, backend: BackendName) -> None:
    need_backend(backend)
    with make(backend, abi.SETUP_R_DISABLED) as ring:
        fd, block = ring.world.pipe()[0], ring.user.alloc(8)
        ring.register_files([fd])
        ring.register_restrictions(sqe_ops=[Op.NOP], register_ops=[Register.FILES])
        assert refused(lambda: ring.register_restrictions()) == errno.EBUSY
        ring.get_sqe().prep_nop(user_data=1)
        assert refused(ring.submit) == errno.EBADFD
        ring.register_buffers([block])  # nothing is restricted yet
        ring.enable()
        assert refused(ring.enable) == errno.EACCES
        assert refused(lambda: ring.register_buffers([block])) == errno.EACCES
        assert refused(ring.register_personality) == errno.EACCES
        assert refused(ring.probe) == errno.EACCES
        assert refused(lambda: ring.register_files([fd])) == errno.EBUSY
        ring.get_sqe().prep_nop(user_data=2)
        ring.get_sqe().prep_read(fd, block.addr, 8, 0, user_data=3)
        ring.submit()
        results = {(cqe.user_data, cqe.res) for cqe in ring.reap()}
        assert {(2, 0), (3, -errno.EACCES)} <= results
    with make(backend, 0) as ring:
        assert refused(lambda: ring.register_restrictions(sqe_ops=[0])) == errno.EBADFD
        assert refused(ring.enable) == errno.EBADFD


def test_programs_of_a_restricted_ring() -> None:
    with Ring(8, flags=abi.SETUP_R_DISABLED) as ring:
        ring.register_restrictions(sqe_ops=[Op.NOP], register_ops=[REGISTER_BPF])
        ring.enable()
        ring.register_bpf([None])
        assert refused(ring.unregister_bpf) == errno.EACCES


# --- the same sequences on the running kernel's ring ---------------------------------------------


@pytest.mark.kernel_ring
@BOTH_KINDS
@BACKENDS
def test_restrictions_are_the_kernels(make: MakeRing, backend: BackendName) -> None:
    reason = available()
    if reason is not None:
        pytest.skip(f"no io_uring: {reason}")
    each_seed("PYBPFVM_LIMITS", lambda seed: compare(make, backend, seed), count=150, seconds=4)


def compare(make: MakeRing, backend: BackendName, seed: int) -> list[str]:
    random = Random(seed)
    rows = some_rows(random)
    most = 3 if make is ring_with_a_loop else 1  # a chain of a 2021 ring fails before it is read
    batches = [some_chain(random, most) for _ in range(random.randint(1, 6))]
    theirs = kernels(rows, batches)
    with make(backend, abi.SETUP_R_DISABLED) as ring:
        ours = played(ring, rows, batches)
    return [] if ours == theirs else [f"{rows}, {batches}", f"ours {ours}", f"kernel {theirs}"]


def some_rows(random: Random) -> list[Row]:
    rows: list[Row] = [
        (
            random.choice((1, 1, 1, 1, 0, 2, 3, 2, 4)) if random.random() < 0.5 else 1,
            random.choice((0, 0, 0, 1, 4, 16, 20, 22, 8, 24, 64)),
        )
        for _ in range(random.choice((0, 1, 2, 3, 5)))
    ]
    if random.random() < 0.05:
        rows += [(1, 62)] * random.choice((MAX_ROWS - len(rows), MAX_ROWS))
    if random.random() < 0.1:
        rows.append(random.choice(((1, 63), (1, 200), (0, 35), (0, 36), (9, 0))))
    return rows


def some_chain(random: Random, most: int) -> list[Sqe]:
    """A request, or a chain of several; what they do can be done at once, or by a worker."""
    count = min(random.choice((1, 1, 2, 3)), most)
    link = random.choice((abi.SQE_IO_LINK, abi.SQE_IO_LINK, abi.SQE_IO_HARDLINK))
    chain = []
    for token in range(1, count + 1):
        flags = link if token < count else 0
        flags |= random.choice((0, 0, 0, abi.SQE_ASYNC, abi.SQE_IO_DRAIN, 0x80, 32))
        odd = random.choice(({}, {}, {}, {"ioprio": 1}, {"personality": 3}))
        op = random.choice((0, 0, 0, Op.READ, Op.READV, Op.FADVISE, 200))
        chain.append(Sqe(op, flags, user_data=token, **odd))
    return chain


def kernels(rows: list[Row], batches: list[list[Sqe]]) -> list[object]:
    data = b"".join(struct.pack("<HBB12x", kind, number, 0) for kind, number in rows)
    buffer = ctypes.create_string_buffer(data, len(data) + 1)
    with SysRing(16, flags=abi.SETUP_R_DISABLED) as ring:
        address = ctypes.addressof(buffer)
        found: list[object] = [ring.register(Register.RESTRICTIONS, address, len(rows))]
        found.append(ring.register(Register.ENABLE_RINGS, 0, 0))
        for batch in batches:
            consumed = ring.submit([sqe.pack() for sqe in batch])
            cqes = ring.reap()
            while len(cqes) < consumed and ring.wait(50_000_000) == 0:
                cqes += ring.reap()
            found.append((consumed, sorted((token, res) for token, res, _ in cqes)))
        found.append(ring.register(Register.PERSONALITY, 0, 0))
    return found


def played(ring: HostRing, rows: list[Row], batches: list[list[Sqe]]) -> list[object]:
    found: list[object] = [number(lambda: ring._restrict(rows)), number(ring.enable)]
    for batch in batches:
        for sqe in batch:
            ring.get_sqe().set(**asdict(sqe))
        consumed = ring.submit()
        ring.run_until_idle(50_000_000)
        cqes = ring.reap()
        found.append((consumed, sorted((cqe.user_data, cqe.res) for cqe in cqes)))
    found.append(number(ring.register_personality))
    return found


def number(call: Callable[[], int | None]) -> int:
    try:
        return call() or 0
    except RingError as error:
        return -error.errno


def test_kinds_of_rows() -> None:
    assert [kind.value for kind in Restrict] == [0, 1, 2, 3]
