"""Requests of every opcode with pointers to nowhere and with descriptors that are not theirs.

The tables of uring_backend/abi.py say which fields of which opcode are pointers and descriptors;
the requests here are made from them. What matters most: the process that runs the ring keeps its
memory and its files.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pybpfvm.errors import UnsupportedError
from pybpfvm.session import Block, Machine, Ring
from pybpfvm.session.hostring import BackendName
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import OPS, FdUse, Op, Sqe, Target
from pybpfvm.uring_backend.kernel.guard import SUPPORTED
from tests.hostile.attack import ABI, BUDGETS
from tests.support.session_ring import SIM_AND_KERNEL, need_backend, pair

PATTERN = b"\xa5" * 4096
both = pytest.mark.parametrize("backend", SIM_AND_KERNEL)
# The prototype ends where its own opcode, 37, begins.
OPCODES = sorted(op for op in SUPPORTED if op < 37)
_BIT_63 = 1 << 63
_PEERS: list[object] = []
_MSGHDR = struct.Struct("<QI4xQQQQI4x")


@pytest.fixture
def ring(backend: BackendName) -> Iterator[Ring]:
    need_backend(backend)
    with Machine() as machine:
        start = machine.memory.committed_bytes
        with Ring(32, (16,), backend=backend, abi=ABI, budgets=BUDGETS, machine=machine) as made:
            yield made
        blocks = [r for r in machine.memory.regions() if r.kind.value == "user memory"]
        used = sum((region.size + 4095) & ~4095 for region in blocks)
        assert machine.memory.committed_bytes - start == used


class Host:
    """Memory and an open file of the host process that no request may touch."""

    def __init__(self, folder: Path) -> None:
        self.buffer = ctypes.create_string_buffer(PATTERN, len(PATTERN))
        self.path = folder / "foreign"
        self.path.write_bytes(PATTERN)
        self.fd = os.open(self.path, os.O_RDWR)
        self.pipe = os.pipe()

    @property
    def addr(self) -> int:
        return ctypes.addressof(self.buffer)

    def check(self) -> None:
        assert self.buffer.raw == PATTERN
        assert self.path.read_bytes() == PATTERN
        assert os.lseek(self.fd, 0, os.SEEK_CUR) == 0
        for fd in (self.fd, *self.pipe):
            os.fstat(fd)
        os.set_blocking(self.pipe[0], False)
        with pytest.raises(BlockingIOError):
            os.read(self.pipe[0], 1)

    def close(self) -> None:
        for fd in (self.fd, *self.pipe):
            os.close(fd)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.check()
    made.close()


def outcome(ring: Ring, sqe: Sqe, patience_ns: int = 5_000_000) -> list[int]:
    """The results of one request; what waits for the outside longer is cancelled."""
    builder = ring.get_sqe()
    builder.sqe = sqe
    ring.submit()
    if not ring.ready():
        ring.run_until_idle(patience_ns)
    if not ring.ready():
        ring.get_sqe().prep_cancel(sqe.user_data, user_data=999)
        ring.submit()
        ring.run_until_idle(100_000_000)
    return [res for user_data, res in map(pair, ring.reap()) if user_data == sqe.user_data]


def ring_fds() -> set[int]:
    """Descriptors of this process that are io_urings."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if "io_uring" in os.readlink(f"/proc/self/fd/{name}"):
                found.add(int(name))
        except OSError:
            continue
    return found


def working_fd(ring: Ring, opcode: int) -> int:
    """A descriptor with which the opcode could succeed."""
    world = ring.world
    if opcode in (Op.SEND, Op.RECV, Op.SHUTDOWN):
        fd, peer = world.socketpair()
        peer.send(bytes(64))
        _PEERS.append(peer)  # it would close with the last reference
        return fd
    if opcode == Op.ACCEPT:
        return world.listen()
    if opcode == Op.CONNECT:
        return world.socket()
    world.add_file("file", bytes(64))
    return world.open("file", os.O_RDWR)


def sane(ring: Ring, opcode: Op, block: Block) -> Sqe:
    """A request of this opcode that is right but for its descriptor: pointers lead to `block`."""
    fields = {pointer.field: block.addr for pointer in OPS[opcode].pointers}
    sqe = Sqe(opcode, len=16, user_data=77, **fields)
    match opcode:
        case Op.READV | Op.WRITEV:
            vector = ring.user.alloc(abi.IOVEC.pack(block.addr, 16) * 4)
            return replace(sqe, addr=vector.addr, len=4)
        case Op.TIMEOUT | Op.LINK_TIMEOUT:
            return replace(sqe, len=1)
        case Op.TIMEOUT_REMOVE:
            return replace(sqe, len=0, addr=5, op_flags=abi.TIMEOUT_UPDATE)
        case Op.ACCEPT:
            room = ring.user.alloc(abi.SOCKLEN.pack(16))
            return replace(sqe, len=0, off=room.addr)
        case Op.CONNECT:
            return replace(sqe, len=0, off=16)
        case Op.SEND:
            return replace(sqe, off=0)
        case Op.SENDMSG | Op.RECVMSG:
            vector = ring.user.alloc(abi.IOVEC.pack(block.addr, 16))
            header = ring.user.alloc(_MSGHDR.pack(0, 0, vector.addr, 1, 0, 0, 0))
            return replace(sqe, addr=header.addr, len=1)
        case Op.OPENAT2:
            return replace(sqe, len=24, off=ring.user.alloc(24).addr)
        case Op.FALLOCATE:
            return replace(sqe, len=0, addr=16)
        case Op.FSYNC | Op.POLL_ADD | Op.CLOSE | Op.SHUTDOWN | Op.UNLINKAT:
            return replace(sqe, len=0)
        case _:
            return sqe


def nowhere(ring: Ring, host: Host) -> dict[str, int]:
    """Addresses that are no user memory, by what they are."""
    ring.core  # noqa: B018 - makes the ring, whose memory is one of the places
    memory = ring.machine.memory
    block = ring.user.alloc(8)
    regions = {region.kind.value: region.start for region in memory.regions()}
    return {
        "null": 0,
        "one": 1,
        "first page": 4095,
        "host": host.addr,
        "python": id(host),
        "library": ctypes.cast(ctypes.CDLL(None).read, ctypes.c_void_p).value or 0,
        "window": memory.base,
        "user window": memory.user_base,
        "ring memory": regions["ring memory"],
        "past the block": block.addr + 4096,
        "last byte": block.addr + block.size - 1,
        "kernel": 0xFFFF_8880_0000_0000,
        "2^63": _BIT_63,
        "2^64-1": (1 << 64) - 1,
        "non-canonical": 1 << 47,
    }


# Where an address is wrong in another way than that nothing is there.
FAULTS: dict[int, tuple[int, ...]] = {}


@both
@pytest.mark.parametrize(
    "opcode", [op for op in OPCODES if OPS[op].pointers], ids=lambda op: op.name
)
def test_pointers_to_nowhere(opcode: Op, ring: Ring, host: Host) -> None:
    """-EFAULT for each pointer of the opcode, in turn, to each kind of nowhere."""
    places = nowhere(ring, host)
    info = OPS[opcode]
    ring.register_buffers([ring.user.alloc(64)])
    ring.register_files([-1] * 32)
    ring.world.add_file("x", bytes(64))
    fd = working_fd(ring, opcode) if info.fd is FdUse.FILE else abi.AT_FDCWD
    fd = 1 if opcode == Op.PROVIDE_BUFFERS else fd
    good = ring.user.alloc(b"x\0" + bytes(4094))
    for pointer in info.pointers:
        if pointer.target is Target.OPAQUE:
            continue
        for name, addr in places.items():
            sqe = replace(sane(ring, opcode, good), fd=fd, **{pointer.field: addr})
            if opcode == Op.ACCEPT:
                ring.world.connect(fd)
            results = outcome(ring, sqe)
            what = f"{pointer.field} {name}: {results}"
            assert len(results) == 1, what
            if pointer.nullable and addr == 0:
                continue  # absent: the request may do its work
            allowed = set(FAULTS.get(opcode, (-errno.EFAULT,)))
            if pointer.target is Target.STRING and name == "last byte":
                allowed.add(-errno.ENOENT)  # a whole string, and empty
            assert results[0] in allowed, what


def foreign(ring: Ring, host: Host) -> list[int]:
    """Descriptors that are none of the requests': the process's own, the ring's, none at all."""
    ring.core  # noqa: B018 - makes the ring
    open_ones = {0, 1, 2, host.fd, *host.pipe} | ring_fds()
    return [*sorted(open_ones), -1, -2, -99, 1 << 15, (1 << 31) - 1, -(1 << 31)]


WITH_FILE = [op for op in OPCODES if OPS[op].fd in (FdUse.FILE, FdUse.DIRECTORY)]


@both
@pytest.mark.parametrize("opcode", [*WITH_FILE, Op.CLOSE], ids=lambda op: op.name)
def test_descriptors_of_others(opcode: Op, ring: Ring, host: Host) -> None:
    """-EBADF, and the file, the pipe and the terminal of the process are as before."""
    text = ring.user.alloc(b"x\0" + b"HOSTILE!" * 200)
    ring.register_buffers([text])
    for fd in foreign(ring, host):
        sqe = replace(sane(ring, opcode, text), fd=fd)
        if opcode == Op.RENAMEAT:
            sqe = replace(sqe, len=fd & 0xFFFF_FFFF)
        results = outcome(ring, sqe, patience_ns=5_000_000_000)
        assert results == [-errno.EBADF], f"fd {fd}: {results}"
        host.check()


@both
def test_descriptors_of_others_are_not_registered(ring: Ring, host: Host) -> None:
    for fd in foreign(ring, host):
        if fd == -1:
            continue  # an empty slot
        assert ring.core.backend.register_files([fd]) == -errno.EBADF
    ring.register_files([-1, -1])
    for fd in foreign(ring, host):
        if fd in (-1, -2):  # empties the slot, leaves it alone
            continue
        array = ring.user.alloc(fd.to_bytes(4, "little", signed=True))
        sqe = Sqe(Op.FILES_UPDATE, addr=array.addr, len=1, user_data=77)
        assert outcome(ring, sqe) == [-errno.EBADF], fd
        write = Sqe(Op.WRITE, flags=abi.SQE_FIXED_FILE, fd=0, addr=array.addr, len=4, user_data=77)
        assert outcome(ring, write) == [-errno.EBADF], fd


@both
def test_slots_beyond_the_table(ring: Ring, host: Host) -> None:
    ring.register_files([-1])
    block = ring.user.alloc(16)
    for slot in (0, 1, 1 << 20, (1 << 31) - 1, -1, -(1 << 31)):
        for op in (Op.READ, Op.WRITE):
            sqe = Sqe(op, flags=1, fd=slot, addr=block.addr, len=16, user_data=77)
            assert outcome(ring, sqe) == [-errno.EBADF], slot


@both
def test_paths_stay_in_the_world(ring: Ring, host: Host, tmp_path: Path) -> None:
    """A path of the host, however written, names nothing of the host."""
    root = "/".join([".."] * 40)
    paths = [str(host.path), root + str(host.path), f"/proc/self/fd/{host.fd}", "/etc/passwd"]
    paths += [f"/proc/{os.getpid()}/root/etc/passwd", "/dev/null", "../" * 9 + "etc/passwd"]
    for path in paths:
        text = ring.user.alloc(path.encode() + b"\0")
        for flags in (os.O_RDONLY, os.O_RDWR | os.O_TRUNC):
            sqe = Sqe(Op.OPENAT, fd=abi.AT_FDCWD, addr=text.addr, op_flags=flags, user_data=77)
            assert outcome(ring, sqe) == [-errno.ENOENT], path
        sqe = Sqe(Op.UNLINKAT, fd=abi.AT_FDCWD, addr=text.addr, user_data=77)
        assert outcome(ring, sqe) == [-errno.ENOENT], path


@both
@pytest.mark.parametrize("opcode", [*range(64, 256, 17), 254, 255])
def test_opcodes_that_do_not_exist(opcode: int, ring: Ring, host: Host) -> None:
    assert outcome(ring, Sqe(opcode, fd=host.fd, addr=host.addr, len=16, user_data=77)) == [-22]


@both
@pytest.mark.parametrize("opcode", sorted(set(Op) - set(OPCODES)), ids=lambda op: op.name)
def test_opcodes_that_are_not_performed(opcode: Op, ring: Ring, host: Host) -> None:
    """The prototype knows fewer opcodes than Linux 6.18: whatever comes, it is defined."""
    sqe = Sqe(opcode, fd=host.fd, addr=host.addr, len=16, user_data=77)
    if opcode >= 37:
        assert outcome(ring, sqe) == [-errno.EINVAL]
    else:
        with pytest.raises(UnsupportedError, match=opcode.name) as caught:
            outcome(ring, sqe)
        assert caught.value.exit_code == 3
