"""Rings set up, registered, closed and freed in every wrong way: defined, and nothing leaks."""

from __future__ import annotations

import ctypes
import errno
import os

import pytest

from pybpfvm.errors import InputError, LoadRejected, RingError, RingHang, Trap
from pybpfvm.events import Event
from pybpfvm.session import Machine, Ring
from pybpfvm.session.hostring import BackendName
from pybpfvm.session.sqe import timespec
from pybpfvm.uring_backend import abi
from tests.hostile.attack import ABI, EXIT, MAPS, object_of, raw_desk, wait_for
from tests.support.session_ring import SIM_AND_KERNEL, need_backend, pair

both = pytest.mark.parametrize("backend", SIM_AND_KERNEL)
HUGE = 1 << 31

# entries, extra CQs, flags, cq0_entries -> errno
REFUSED_SETUPS = [
    (0, (), 0, None, errno.EINVAL),
    (-1, (), 0, None, errno.EINVAL),
    (abi.MAX_SQ_ENTRIES + 1, (), 0, None, errno.EINVAL),
    (HUGE, (), 0, None, errno.EINVAL),
    (1 << 32, (), 0, None, errno.EINVAL),
    ((1 << 32) + 8, (), 0, None, errno.EINVAL),
    (1 << 64, (), 0, None, errno.EINVAL),
    (0, (), abi.SETUP_CLAMP, None, errno.EINVAL),
    (8, (0,), 0, None, errno.EINVAL),
    (8, (-1,), 0, None, errno.EINVAL),
    (8, (HUGE,), 0, None, errno.EINVAL),
    (8, (1 << 32,), 0, None, errno.EINVAL),
    (8, (abi.MAX_CQ_ENTRIES + 1,), 0, None, errno.EINVAL),
    (8, (16,) * 1025, 0, None, errno.EINVAL),
    (8, (), abi.SETUP_CQSIZE, 0, errno.EINVAL),
    (8, (), abi.SETUP_CQSIZE, 4, errno.EINVAL),
    (8, (), abi.SETUP_CQSIZE, HUGE, errno.EINVAL),
    (8, (), abi.SETUP_CQSIZE, -1, errno.EINVAL),
    (8, (), abi.SETUP_CQSIZE, None, errno.EINVAL),
    (8, (), HUGE, None, errno.EINVAL),
    (8, (), -1, None, errno.EINVAL),
    (8, (), 1 << 32, None, errno.EINVAL),
    (8, (), abi.SETUP_SQ_AFF, None, errno.EINVAL),
]


@both
@pytest.mark.parametrize(("entries", "cqs", "flags", "cq0", "number"), REFUSED_SETUPS)
def test_setups_that_are_refused(
    entries: int,
    cqs: tuple[int, ...],
    flags: int,
    cq0: int | None,
    number: int,
    backend: BackendName,
) -> None:
    need_backend(backend)
    with Machine() as machine:
        with pytest.raises((RingError, InputError)) as caught:
            Ring(
                entries,
                cqs,
                backend=backend,
                abi=ABI,
                flags=flags,
                cq0_entries=cq0,
                machine=machine,
            )
        assert caught.value.exit_code in (2, 3)
        assert "\n" not in str(caught.value)
        if isinstance(caught.value, RingError):
            assert caught.value.errno == number
        assert machine.memory.committed_bytes == 0


@both
@pytest.mark.parametrize("flags", [abi.SETUP_IOPOLL, abi.SETUP_SQPOLL, abi.SETUP_ATTACH_WQ])
def test_setups_that_need_what_is_not_there(flags: int, backend: BackendName) -> None:
    """Refused, or a ring that works as without the flag; never half of it."""
    need_backend(backend)
    with Machine() as machine:
        try:
            ring = Ring(8, backend=backend, abi=ABI, flags=flags, machine=machine)
        except (RingError, InputError) as error:
            refused = str(error)
        else:
            refused = ""
            with ring:
                ring.get_sqe().prep_nop(user_data=1)
                assert ring.submit() == 1
                assert pair(ring.wait_cqe()) in ((1, 0), (1, -errno.EINVAL))
        assert refused == "" or "\n" not in refused
        assert machine.memory.committed_bytes == 0


@both
def test_the_largest_setups_work(backend: BackendName) -> None:
    need_backend(backend)
    with Machine() as machine:
        with Ring(
            HUGE, (HUGE,), backend=backend, abi=ABI, flags=abi.SETUP_CLAMP, machine=machine
        ) as ring:
            assert ring.core.setup.sq_entries == abi.MAX_SQ_ENTRIES
            assert ring.ready(1) == 0
        assert machine.memory.committed_bytes == 0


@both
def test_a_ring_that_does_not_fit_leaves_nothing(backend: BackendName) -> None:
    need_backend(backend)
    with Machine(limit_bytes=1 << 20) as machine:
        ring = Ring(32768, (65536,) * 4, backend=backend, abi=ABI, machine=machine)
        with pytest.raises(RingError) as caught:
            ring.submit()
        assert caught.value.errno == errno.ENOMEM
        ring.close()
        assert machine.memory.committed_bytes == 0


@both
def test_registration_is_refused(backend: BackendName) -> None:
    with raw_desk({"main": EXIT, "parked": "r6 = r1" + wait_for(1, 1)}, backend) as desk:
        ring, program = desk.ring, desk.obj["main"]
        for count, number in ((1, errno.EBUSY), (0, errno.EINVAL), (101, errno.EINVAL)):
            with pytest.raises(RingError) as caught:
                ring.register_bpf([program] * count)
            assert caught.value.errno == number
        ring.unregister_bpf()
        with pytest.raises(RingError) as caught:
            ring.unregister_bpf()
        assert caught.value.errno == errno.ENXIO
        for wrong in (None, program):
            with pytest.raises(RingError) as caught:
                ring.register_bpf([wrong] * 101)
            assert caught.value.errno == errno.EINVAL
        ring.register_bpf([program] * 99 + [None])
        assert desk.complete(98, 1) == [(1, 0)]
        for slot in (99, 100, 1 << 31, (1 << 64) - 1):
            assert desk.complete(slot, 2) == [(2, -errno.EFAULT)]


@both
def test_programs_of_other_types_and_rejected_ones(backend: BackendName) -> None:
    need_backend(backend)
    with Machine() as machine:
        other = machine.load(object_of("r0 = 0\nexit", section="socket"), abi="socket_filter")
        old = machine.load(object_of("r0 = 0\nexit", section="iouring/x"), abi="iouring-v2")
        with Ring(8, backend=backend, abi=ABI, machine=machine) as ring:
            for program in (other["main"], old["main"]):
                with pytest.raises(RingError) as caught:
                    ring.register_bpf([program])
                assert caught.value.errno == errno.EINVAL
            bad = machine.load(object_of("call 9999\nr0 = 0\nexit"), abi=ABI)
            with pytest.raises(LoadRejected) as rejected:
                ring.register_bpf([bad["main"]])
            assert rejected.value.errno == errno.EINVAL
            assert "9999" in str(rejected.value)


@both
def test_unregistering_while_parked_hangs_and_waking_still_works(backend: BackendName) -> None:
    with raw_desk({"parked": "r6 = r1" + wait_for(1, 1), "main": EXIT}, backend) as desk:
        desk.submit_bpf(0, 5)
        with pytest.raises(RingHang) as caught:
            desk.ring.unregister_bpf()
        assert "request 1 (parked) waits for 1 CQE on CQ 1" in str(caught.value)
        # The registration stands: another program still runs.
        assert desk.complete(1, 6) == [(6, 0)]


@both
def test_use_after_close(backend: BackendName) -> None:
    with raw_desk(EXIT, backend) as desk:
        ring = desk.ring
        block = ring.user.alloc(8)
        ring.close()
        ring.close()
        uses = (
            lambda: ring.get_sqe(),
            lambda: ring.submit(),
            lambda: ring.wait_cqe(),
            lambda: ring.reap(),
            lambda: ring.peek_cqe(),
            lambda: ring.ready(),
            lambda: ring.run_until_idle(),
            lambda: ring.cq_overflow,
            lambda: ring.register_bpf([desk.obj["main"]]),
            lambda: ring.unregister_bpf(),
            lambda: ring.register_files([1]),
            lambda: ring.register_buffers([block]),
        )
        for use in uses:
            with pytest.raises((RingError, InputError), match="the ring is closed"):
                use()


@both
def test_a_machine_closed_before_its_ring(backend: BackendName) -> None:
    need_backend(backend)
    machine = Machine()
    obj = machine.load(object_of("r6 = r1" + wait_for(1, 1)), abi=ABI)
    ring = Ring(8, (16,), backend=backend, abi=ABI, machine=machine)
    ring.register_bpf([obj["main"]])
    block = ring.user.alloc(64)
    reader, _ = ring.world.pipe()
    ring.get_sqe().prep_bpf(0)
    ring.get_sqe().prep_read(reader, block.addr, 64, 0, user_data=2)
    ring.submit()
    machine.close()
    for use in (ring.submit, ring.wait_cqe, lambda: ring.user.alloc(1), lambda: block.read()):
        with pytest.raises((RingError, InputError)) as caught:
            use()
        assert "closed" in str(caught.value)
    for late in (lambda: obj["main"].run(), lambda: machine.load(object_of(EXIT, MAPS), abi=ABI)):
        with pytest.raises(InputError, match="closed"):
            late()
    ring.close()
    machine.close()


@both
def test_closing_with_everything_in_flight(backend: BackendName) -> None:
    programs = {"main": EXIT, "parked": "r6 = r1" + wait_for(1, 1)}
    with raw_desk(programs, backend) as desk:
        ring = desk.ring
        reader, _ = ring.world.pipe()
        fd, _ = ring.world.socketpair()
        listening = ring.world.listen()
        block = ring.user.alloc(64)
        ring.register_buffers([block])
        far = ring.user.alloc(timespec(3_600_000_000_000))
        ring.get_sqe().prep_bpf(1, user_data=1)
        ring.get_sqe().prep_read(reader, block.addr, 64, 0, user_data=2, flags=abi.SQE_ASYNC)
        ring.get_sqe().prep_recv(fd, block.addr, 64, user_data=3, flags=abi.SQE_IO_LINK)
        ring.get_sqe().prep_bpf(0, user_data=4)
        ring.get_sqe().prep_accept(listening, user_data=5)
        ring.get_sqe().prep_timeout(far.addr, user_data=6)
        ring.get_sqe().prep_poll_add(reader, abi.POLLIN, user_data=7, flags=abi.SQE_IO_HARDLINK)
        ring.get_sqe().prep_bpf(0, user_data=8, flags=abi.SQE_IO_DRAIN)
        assert ring.submit() == 8
        ring.close()
        assert block.read() == bytes(64)


@both
def test_a_freed_block_is_not_written_to(backend: BackendName) -> None:
    """The block goes while a request will write to it: nobody else's memory changes."""
    need_backend(backend)
    foreign = ctypes.create_string_buffer(b"\xa5" * 65536, 65536)
    with Machine() as machine, Ring(8, backend=backend, abi=ABI, machine=machine) as ring:
        fd, peer = ring.world.socketpair()
        block = ring.user.alloc(4096)
        ring.get_sqe().prep_recv(fd, block.addr, 4096, user_data=1)
        ring.submit()
        block.free()
        # What comes after it, and enough to use up any address that would be given out again.
        others = [ring.user.alloc(b"\x5a" * 4096) for _ in range(64)]
        assert block.addr not in [other.addr for other in others]
        peer.send(b"!" * 4096)
        cqe = ring.wait_cqe(2_000_000_000)
        assert pair(cqe) == (1, -errno.EFAULT)
        assert all(other.read() == b"\x5a" * 4096 for other in others)
        assert foreign.raw == b"\xa5" * 65536
        with pytest.raises(InputError, match="freed"):
            block.read()
        with pytest.raises(InputError, match="freed"):
            block.write(b"x")
        with pytest.raises(InputError, match="freed"):
            block.free()
        peer.close()


class ObserverFailedError(Exception):
    """What an observer of the host raises."""


@both
@pytest.mark.parametrize("at", range(8))
def test_an_exception_in_an_observer_reaches_the_host(at: int, backend: BackendName) -> None:
    """It is the host's own, passes unchanged, and the ring can be used or closed afterwards."""
    seen: list[Event] = []

    def observer(event: Event) -> None:
        seen.append(event)
        if len(seen) == at + 1:
            raise ObserverFailedError(at)

    with raw_desk(EXIT, backend, observer=observer) as desk:
        failures = 0
        for user_data in range(4):
            try:
                desk.submit_bpf(0, user_data)
                desk.ring.run_until_idle()
            except ObserverFailedError:
                failures += 1
        assert failures == 1
        got = [user_data for user_data, _ in desk.left()]
        assert got == sorted(set(got))
        assert got[-1] == 3


@both
def test_a_trap_in_a_scenario_of_two_rings_leaves_the_other(backend: BackendName) -> None:
    with raw_desk(EXIT, backend) as good, raw_desk("r0 = *(u64 *)(r1 + 64)\nexit", backend) as bad:
        with pytest.raises(Trap):
            bad.submit_bpf(0)
        assert good.complete(0, 1) == [(1, 0)]


@both
def test_a_descriptor_closed_by_the_host(backend: BackendName) -> None:
    """The request gets -EBADF, the host one error for closing it again."""
    need_backend(backend)
    with Machine() as machine, Ring(8, backend=backend, abi=ABI, machine=machine) as ring:
        ring.world.add_file("f", b"data")
        fd = ring.world.open("f", os.O_RDONLY)
        block = ring.user.alloc(4)
        ring.world.close(fd)
        ring.get_sqe().prep_read(fd, block.addr, 4, 0, user_data=1)
        ring.submit()
        assert pair(ring.wait_cqe()) == (1, -errno.EBADF)
        with pytest.raises(InputError):
            ring.world.close(fd)
