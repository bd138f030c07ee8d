"""What only the simulated ring promises: one seed, virtual time, exact hangs, bounded memory."""

from __future__ import annotations

import errno
import random
import tracemalloc
from collections.abc import Iterator

import pytest

from pybpfvm.errors import InputError, InternalError, UnsupportedError
from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.uring_backend.abi import (
    AT_FDCWD,
    CURRENT_POSITION,
    O_APPEND,
    O_CREAT,
    O_RDONLY,
    O_RDWR,
    OP_LAST,
    OPS,
    RENAME_EXCHANGE,
    SQE_ASYNC,
    SQE_IO_DRAIN,
    SQE_IO_LINK,
    STATX,
    TIMEOUT_MULTISHOT,
    TIMESPEC,
    Cqe,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.base import EXTERNAL, Completion, Event
from pybpfvm.uring_backend.sim import SimBackend
from pybpfvm.uring_backend.sim.clock import Clock
from pybpfvm.uring_backend.sim.descriptors import MAX_FDS
from pybpfvm.uring_backend.sim.opcodes import PREPARE

MS = 1_000_000


class Ring:
    """A simulated ring with a block of user memory."""

    def __init__(self, memory: AddressSpace, seed: int = 0, disk_bytes: int = 1 << 20) -> None:
        self.memory = memory
        self.backend = SimBackend(memory, seed=seed, disk_bytes=disk_bytes)
        self.world = self.backend.world
        self.block = memory.alloc(1 << 16, RegionKind.USER, "test").start

    def submit(self, *sqes: Sqe) -> int:
        return self.backend.submit([sqe.pack() for sqe in sqes])

    def everything(self) -> list[Event]:
        """All events until nothing can happen any more."""
        events = self.backend.poll()
        while self.backend.wait(None):
            events += self.backend.poll()
        return events

    def result(self, sqe: Sqe) -> int:
        self.submit(sqe)
        (event,) = self.everything()
        assert isinstance(event, Completion)
        return event.res

    def put(self, data: bytes, offset: int = 0) -> int:
        self.memory.user_write(self.block + offset, data)
        return self.block + offset

    def timeout(self, token: int, time_ns: int, *, flags: int = 0, on: int = 0) -> Sqe:
        addr = self.put(TIMESPEC.pack(*divmod(time_ns, 1000 * MS)), 32768 + token * 16)
        return Sqe(Op.TIMEOUT, on, addr=addr, len=1, op_flags=flags, user_data=token)


@pytest.fixture
def ring() -> Iterator[Ring]:
    with AddressSpace() as memory:
        ring = Ring(memory)
        yield ring
        ring.backend.close()


def nop(token: int, flags: int = 0) -> Sqe:
    return Sqe(Op.NOP, flags, user_data=token)


# --- the ABI ----------------------------------------------------------------------------------


def test_entries_survive_a_round_trip() -> None:
    rng = random.Random(1)
    for _ in range(200):
        raw = rng.randbytes(64)
        assert Sqe.unpack(raw).pack() == raw
        assert Cqe.unpack(raw[:16]).pack() == raw[:16]


def test_every_opcode_is_described() -> None:
    assert set(OPS) == set(Op)
    assert sorted(Op) == list(range(OP_LAST))
    assert Sqe.unpack(bytes(48) + b"\x34\x12" + bytes(14)).cq_idx == 0x1234


# --- determinism ------------------------------------------------------------------------------


def scenario(seed: int) -> tuple[list[Event], int]:
    with AddressSpace() as memory:
        ring = Ring(memory, seed)
        ring.world.add_file("f", bytes(100))
        fd = ring.world.open("f", O_RDWR)
        rng = random.Random(5)
        for token in range(1, 60):
            flags = rng.choice((0, SQE_ASYNC, SQE_ASYNC, SQE_IO_LINK))
            op = rng.choice((Op.NOP, Op.READ, Op.WRITE, Op.FSYNC))
            length = 0 if op is Op.FSYNC else 16
            if op is Op.NOP:
                ring.submit(nop(token, flags))
            elif op is Op.FSYNC:
                ring.submit(Sqe(op, flags, fd=fd, user_data=token))
            else:
                ring.submit(Sqe(op, flags, fd=fd, addr=ring.block, len=length, user_data=token))
        events = ring.everything()
        now = ring.backend.now_ns()
        ring.backend.close()
        return events, now


def test_one_seed_decides_everything() -> None:
    assert scenario(3) == scenario(3)
    assert len({tuple(scenario(seed)[0]) for seed in range(6)}) > 1, "latencies do not vary"


def test_workers_write_to_one_file_in_order(ring: Ring) -> None:
    fd = ring.world.open("log", O_RDWR | O_CREAT | O_APPEND)
    for token in range(50):
        addr = ring.put(bytes([token]), token)
        ring.submit(Sqe(Op.WRITE, SQE_ASYNC, fd=fd, addr=addr, len=1, user_data=token))
    ring.everything()
    assert ring.world.file_data("log") == bytes(range(50))


# --- virtual time -----------------------------------------------------------------------------


def test_time_moves_only_while_waiting(ring: Ring) -> None:
    ring.submit(ring.timeout(1, 3600 * 1000 * MS))
    assert ring.backend.now_ns() == 0
    assert not ring.backend.wait(1000)
    assert ring.backend.now_ns() == 1000
    assert ring.backend.wait(None)
    assert ring.backend.now_ns() == 3600 * 1000 * MS
    assert ring.backend.poll() == [Completion(1, -errno.ETIME, 0)]


def test_a_far_timeout_does_not_overflow(ring: Ring) -> None:
    addr = ring.put(TIMESPEC.pack((1 << 63) - 1, (1 << 63) - 1))
    ring.submit(Sqe(Op.TIMEOUT, addr=addr, len=1, user_data=1))
    assert ring.backend.wait(None)
    assert ring.backend.now_ns() == (1 << 63) - 1


def test_cancelled_alarms_do_not_pile_up() -> None:
    clock = Clock()
    keep = clock.at(10, lambda: None)
    for _ in range(100_000):
        clock.cancel(clock.at(1 << 40, lambda: None))
    assert len(clock._queue) < 1000
    assert clock.next_ns() == 10
    assert clock.cancel(keep)
    assert not clock.cancel(keep)
    assert clock.next_ns() is None


def test_alarms_of_one_moment_ring_in_order() -> None:
    clock = Clock()
    rung: list[int] = []
    for number in range(5):
        clock.at(7, lambda number=number: rung.append(number))  # type: ignore[misc]
    while clock.advance(7):
        pass
    assert rung == [0, 1, 2, 3, 4]


# --- hangs ------------------------------------------------------------------------------------


def test_a_receive_from_an_idle_peer_is_no_progress(ring: Ring) -> None:
    fd, peer = ring.world.socketpair()
    ring.submit(Sqe(Op.RECV, fd=fd, addr=ring.block, len=4, user_data=1))
    assert not ring.backend.can_progress()
    assert not ring.backend.wait(None)
    assert ring.backend.in_flight() == 1
    peer.send(b"now")
    assert ring.backend.can_progress()
    assert ring.backend.wait(None)
    assert ring.backend.poll() == [Completion(1, 3, 0)]
    assert not ring.backend.can_progress()


def test_a_timeout_and_a_worker_are_progress(ring: Ring) -> None:
    ring.submit(ring.timeout(1, MS))
    assert ring.backend.can_progress()
    ring.everything()
    ring.submit(nop(2, SQE_ASYNC))
    assert ring.backend.can_progress()
    ring.everything()
    assert not ring.backend.can_progress()


def test_a_drain_behind_a_stuck_request_is_a_hang(ring: Ring) -> None:
    fd, _ = ring.world.socketpair()
    ring.submit(
        Sqe(Op.RECV, fd=fd, addr=ring.block, len=4, user_data=1), nop(2, SQE_IO_DRAIN), nop(3)
    )
    assert not ring.backend.can_progress()
    assert ring.everything() == []
    assert ring.backend.in_flight() == 3


def test_unreported_events_are_progress(ring: Ring) -> None:
    ring.submit(nop(1))
    assert ring.backend.can_progress()


# --- external requests ------------------------------------------------------------------------


def test_a_forgotten_external_request_never_starts(ring: Ring) -> None:
    fd, peer = ring.world.socketpair()
    receive = Sqe(Op.RECV, SQE_IO_LINK, fd=fd, addr=ring.block, len=4, user_data=1)
    ring.submit(receive, Sqe(EXTERNAL, SQE_IO_LINK, user_data=2), nop(3))
    ring.backend.cancel_external(2)
    assert ring.everything() == [Completion(3, -errno.ECANCELED, 0)]
    peer.send(b"data")
    assert ring.everything() == [Completion(1, 4, 0)]
    assert ring.backend.in_flight() == 0


@pytest.mark.parametrize("waited", [0, 1])
def test_a_forgotten_draining_external_request_lets_others_pass(ring: Ring, waited: int) -> None:
    ring.submit(
        ring.timeout(1, MS), Sqe(EXTERNAL, SQE_IO_DRAIN, user_data=2), nop(3, SQE_IO_LINK), nop(4)
    )
    events: list[Event] = []
    if waited:  # now it is in the hands of a worker
        ring.backend.wait(None)
        events += ring.backend.poll()
    ring.backend.cancel_external(2)
    events += ring.everything()
    tokens = [event.token for event in events if isinstance(event, Completion)]
    assert tokens == [1, 3, 4]
    assert ring.backend.in_flight() == 0


def test_misuse_of_external_requests_is_our_bug(ring: Ring) -> None:
    ring.submit(Sqe(EXTERNAL, user_data=1))
    with pytest.raises(InternalError):
        ring.backend.finish(2)
    ring.backend.poll()
    with pytest.raises(InternalError):
        ring.backend.cancel_external(1)
    ring.backend.finish(1)
    with pytest.raises(InternalError):
        ring.backend.finish(1)
    ring.submit(ring.timeout(7, MS))
    with pytest.raises(InternalError):
        ring.submit(nop(7))


# --- what it lacks ----------------------------------------------------------------------------


@pytest.mark.parametrize("op", sorted(set(Op) - set(PREPARE)))
def test_a_missing_opcode_is_named_and_nothing_is_consumed(ring: Ring, op: Op) -> None:
    with pytest.raises(UnsupportedError, match=op.name) as caught:
        ring.submit(nop(1), Sqe(op, user_data=2))
    assert "use the kernel backend" not in str(caught.value)  # it has none of these either
    assert ring.backend.in_flight() == 0
    assert ring.submit(nop(1)) == 1
    assert ring.everything() == [Completion(1, 0, 0)]


# --- bounded memory ---------------------------------------------------------------------------


def test_a_sparse_file_takes_no_memory(ring: Ring) -> None:
    fd = ring.world.open("f", O_RDWR | O_CREAT)
    addr = ring.put(b"x")
    offset = (1 << 62) + 5
    tracemalloc.start()
    assert ring.result(Sqe(Op.WRITE, fd=fd, addr=addr, len=1, off=offset, user_data=1)) == 1
    read = Sqe(Op.READ, fd=fd, addr=addr, len=100, off=offset - 50, user_data=1)
    assert ring.result(read) == 51
    assert ring.memory.user_read(addr, 51) == bytes(50) + b"x"
    assert ring.result(Sqe(Op.FTRUNCATE, fd=fd, off=1 << 60, user_data=1)) == 0
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    with pytest.raises(InputError, match="hole"):
        ring.world.file_data("f")


def test_the_disk_is_full_at_its_limit(ring: Ring) -> None:
    fd = ring.world.open("f", O_RDWR | O_CREAT)
    write = Sqe(Op.WRITE, fd=fd, addr=ring.block, len=1 << 16, off=CURRENT_POSITION, user_data=1)
    results = [ring.result(write) for _ in range(18)]
    assert results == [1 << 16] * 16 + [-errno.ENOSPC] * 2
    fill = Sqe(Op.FALLOCATE, fd=fd, addr=1 << 62, user_data=1)
    assert ring.result(fill) == -errno.ENOSPC
    with pytest.raises(InputError, match="ENOSPC"):
        ring.world.add_file("g", b"x")
    assert ring.result(Sqe(Op.FTRUNCATE, fd=fd, off=0, user_data=1)) == 0
    assert ring.result(write) == 1 << 16


def test_an_unlinked_file_lives_until_it_is_closed(ring: Ring) -> None:
    ring.world.add_file("f", bytes(4096))
    fd = ring.world.open("f", O_RDONLY)
    addr = ring.put(ring.world.path("f") + b"\0")
    unlink = Sqe(Op.UNLINKAT, fd=AT_FDCWD, addr=addr, user_data=1)
    used = ring.world.vfs.used_bytes
    assert ring.result(unlink) == 0
    assert ring.result(unlink) == -errno.ENOENT
    assert ring.result(Sqe(Op.READ, fd=fd, addr=ring.block, len=9, user_data=1)) == 9
    assert ring.world.vfs.used_bytes == used
    ring.world.close(fd)
    assert ring.world.vfs.used_bytes == used - 4096


def test_descriptors_run_out(ring: Ring) -> None:
    ring.world.add_file("f", b"")
    for _ in range(MAX_FDS - 3):
        ring.world.open("f", O_RDONLY)
    with pytest.raises(InputError, match="EMFILE"):
        ring.world.open("f", O_RDONLY)
    addr = ring.put(b"f\0")
    assert ring.result(Sqe(Op.OPENAT, fd=AT_FDCWD, addr=addr, user_data=1)) == -errno.EMFILE


def test_a_repeating_timeout_of_no_length_does_not_hang(ring: Ring) -> None:
    ring.submit(ring.timeout(1, 0, flags=TIMEOUT_MULTISHOT))
    for _ in range(100):
        assert ring.backend.wait(None)
        assert len(ring.backend.poll()) == 1


# --- names ------------------------------------------------------------------------------------


def test_renaming_keeps_the_tree_a_tree(ring: Ring) -> None:
    for name in ("a/b/f", "c/g"):
        ring.world.add_file(name, name.encode())

    def rename(old: str, new: str, flags: int = 0) -> int:
        source, target = ring.put(old.encode() + b"\0"), ring.put(new.encode() + b"\0", 5000)
        return ring.result(
            Sqe(
                Op.RENAMEAT,
                fd=AT_FDCWD,
                addr=source,
                off=target,
                len=AT_FDCWD & 0xFFFFFFFF,
                op_flags=flags,
                user_data=1,
            )
        )

    assert rename("a", "a/b/x") == -errno.EINVAL
    assert rename("a/b/f", "a") == -errno.ENOTEMPTY
    assert rename("a", "c") == -errno.ENOTEMPTY
    assert rename("a", "c/g", RENAME_EXCHANGE) == 0
    assert ring.world.file_data("a") == b"c/g"
    assert ring.world.file_data("c/g/b/f") == b"a/b/f"
    assert rename("c/g/b", "b") == 0
    assert rename("c", "b/c") == 0
    assert ring.world.file_data("b/f") == b"a/b/f"


def test_statx_tells_virtual_times(ring: Ring) -> None:
    ring.submit(ring.timeout(1, 5000 * MS))
    ring.everything()
    ring.world.add_file("f", b"12345")
    addr = ring.put(b"f\0")
    out = ring.block + 256
    assert ring.result(Sqe(Op.STATX, fd=AT_FDCWD, addr=addr, off=out, len=0xFFF, user_data=1)) == 0
    fields = STATX.unpack(ring.memory.user_read(out, 256))
    assert fields[6] == 0o100644
    assert fields[8] == 5
    assert fields[11:13] == (1_600_000_005, 0)


# --- the end ----------------------------------------------------------------------------------


def test_close_gives_every_descriptor_back(ring: Ring) -> None:
    fd, peer = ring.world.socketpair()
    ring.backend.register_files([fd])
    ring.submit(Sqe(Op.RECV, fd=fd, addr=ring.block, len=4, user_data=1), ring.timeout(2, MS))
    ring.backend.close()
    assert peer.recv(10) == b"", "the other end saw the socket go"
    assert ring.backend.in_flight() == 0
    assert not ring.backend.can_progress()
    ring.backend.close()


@pytest.mark.parametrize("seed", range(40))
def test_random_submissions_never_crash(seed: int) -> None:
    """Any 64 bytes: a defined completion or UnsupportedError, and the counts add up."""
    rng = random.Random(seed)
    with AddressSpace() as memory:
        ring = Ring(memory, seed)
        ring.world.add_file("f", b"0123456789")
        fds = [ring.world.open("f", O_RDWR), *ring.world.pipe(), ring.world.listen()]
        fds.append(ring.world.socketpair()[0])
        ring.backend.register_files([*fds, -1])
        ring.put(b"f\0")
        words = [0, 1, 2, 16, 64, 4096, (1 << 32) - 1, (1 << 64) - 1, 1 << 63, ring.block]
        for token in range(1, 150):
            sqe = Sqe(
                opcode=rng.choice(sorted(PREPARE)),
                flags=rng.choice((0, 0, 0, rng.randrange(128))),
                ioprio=rng.choice((0, 0, rng.randrange(8))),
                fd=rng.choice([*fds, 0, 1, -1, AT_FDCWD]),
                off=rng.choice(words),
                addr=rng.choice([ring.block, ring.block, rng.choice(words)]),
                len=rng.choice((0, 1, 5, 24, 100, 0xFFFFFFFF)),
                op_flags=rng.choice((0, 0, 1, 2, rng.randrange(1 << 16))),
                user_data=token << 20,
                buf_index=rng.choice((0, 0, 0, 1)),
                file_index=rng.choice((0, 0, 0, 1, 6, 0xFFFFFFFF)),
            )
            try:
                ring.submit(sqe)
            except UnsupportedError:
                continue
            ring.backend.wait(rng.choice((0, 100_000)))
            for event in ring.backend.poll():
                assert isinstance(event, Completion)
        ring.backend.close()
        assert ring.backend.in_flight() == 0
