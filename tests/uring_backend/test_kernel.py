"""What only the kernel backend promises: nothing of the host is within a program's reach."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pybpfvm.errors import InputError, InternalError, UnsupportedError
from pybpfvm.memory import AddressSpace, Region, RegionKind
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op, Sqe
from pybpfvm.uring_backend.base import EXTERNAL, Completion, Event, Started
from pybpfvm.uring_backend.kernel import KernelBackend, probe, sysring
from pybpfvm.uring_backend.kernel.guard import SUPPORTED, TOKEN_LIMIT, confine
from pybpfvm.uring_backend.kernel.sysring import SysRing

pytestmark = pytest.mark.kernel_ring

_REFUSED = probe.available()
_LINK, _HARD, _DRAIN = abi.SQE_IO_LINK, abi.SQE_IO_HARDLINK, abi.SQE_IO_DRAIN
_SKIP = abi.SQE_CQE_SKIP_SUCCESS
_PATIENCE_NS = 5_000_000_000


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


_NOWHERE = abi.CURRENT_POSITION


class Bench:
    """A backend, its memory, and one block of user memory."""

    def __init__(self) -> None:
        self.memory = AddressSpace()
        self.block: Region = self.memory.alloc(1 << 16, RegionKind.USER, "block")
        self.backend = KernelBackend(self.memory)
        self.world = self.backend.world

    def put(self, data: bytes, offset: int = 0) -> int:
        self.memory.user_write(self.block.start + offset, data)
        return self.block.start + offset

    def submit(self, *sqes: Sqe) -> int:
        return self.backend.submit([sqe.pack() for sqe in sqes])

    def events(self, count: int) -> list[Event]:
        found = self.backend.poll()
        while len(found) < count and self.backend.wait(_PATIENCE_NS):
            found += self.backend.poll()
        assert len(found) == count, found
        return found

    def results(self, count: int) -> list[tuple[int, int]]:
        found = self.events(count)
        return [(e.token, e.res) for e in found if isinstance(e, Completion)]

    def result(self, sqe: Sqe) -> int:
        assert self.submit(replace(sqe, user_data=1)) == 1
        return self.results(1)[0][1]


@pytest.fixture
def bench() -> Iterator[Bench]:
    if _REFUSED is not None:
        pytest.skip(f"no io_uring: {_REFUSED}")
    made = Bench()
    yield made
    made.backend.close()
    made.memory.close()


# --- descriptors --------------------------------------------------------------------------------


def test_descriptors_of_the_host_are_refused(bench: Bench) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"secret")
    hidden = [0, 1, 2, reader, writer, bench.world.root_fd, bench.backend._ring.fd, -1, 1 << 30]
    for fd in hidden:
        buffer = {"addr": bench.block.start, "len": 6, "fd": fd}
        for op in (Op.READ, Op.WRITE, Op.RECV, Op.SEND):
            assert bench.result(Sqe(op, **buffer)) == -errno.EBADF
        for op in (Op.CLOSE, Op.FSYNC, Op.POLL_ADD, Op.SHUTDOWN, Op.ACCEPT, Op.FTRUNCATE):
            assert bench.result(Sqe(op, fd=fd)) == -errno.EBADF, op
        cancel = Sqe(Op.ASYNC_CANCEL, fd=fd, op_flags=abi.ASYNC_CANCEL_FD)
        assert bench.result(cancel) == -errno.EBADF
        nop = Sqe(Op.NOP, fd=fd, op_flags=abi.NOP_FILE)
        assert bench.result(nop) == -errno.EBADF
        if fd != -1:
            assert bench.backend.register_files([fd]) == -errno.EBADF
    assert os.read(reader, 6) == b"secret"
    os.close(reader)
    os.close(writer)


def test_descriptor_arrays_hold_no_descriptor_of_the_host(bench: Bench) -> None:
    assert bench.backend.register_files([-1, -1]) == 0
    addr = bench.put(abi.FD.pack(0))
    assert bench.result(Sqe(Op.FILES_UPDATE, addr=addr, len=1)) == -errno.EBADF
    fd = bench.world.open("made", os.O_CREAT | os.O_RDWR)
    addr = bench.put(abi.FD.pack(fd))
    update = Sqe(Op.FILES_UPDATE, addr=addr, len=1, off=abi.FILE_INDEX_ALLOC)
    assert bench.result(update) == 1
    (slot,) = abi.FD.unpack(bench.memory.user_read(addr, 4))
    assert slot in (0, 1)
    read = Sqe(Op.READ, abi.SQE_FIXED_FILE, fd=slot, addr=bench.block.start, len=4)
    assert bench.result(read) == 0


def test_a_closed_descriptor_is_the_hosts_again(bench: Bench) -> None:
    fd = bench.world.open("made", os.O_CREAT | os.O_RDWR)
    assert bench.result(Sqe(Op.CLOSE, fd=fd)) == 0
    again = os.open("/dev/zero", os.O_RDONLY)
    assert again == fd, "the test relies on the lowest free number"
    read = Sqe(Op.READ, fd=fd, addr=bench.block.start, len=4)
    assert bench.result(read) == -errno.EBADF
    with pytest.raises(InputError, match="not open"):
        bench.world.close(fd)
    os.close(again)


def timer(bench: Bench, at: int, milliseconds: int = 30, flags: int = _LINK) -> Sqe:
    addr = bench.put(abi.TIMESPEC.pack(0, milliseconds * 1_000_000), at)
    success = abi.TIMEOUT_ETIME_SUCCESS
    return Sqe(Op.TIMEOUT, flags, addr=addr, len=1, op_flags=success, user_data=2)


def steal(fd: int) -> tuple[list[int], bytes]:
    """What a host does meanwhile: descriptors of something secret, past the free number `fd`."""
    secret = b"the host's secret"
    reader, writer = os.pipe()
    opened = [reader, writer]
    while max(opened) < fd:
        opened.append(os.dup(reader))
    os.write(writer, secret)
    return opened, secret


def closed_by_host(bench: Bench, fd: int, *sqes: Sqe) -> int:
    count = bench.submit(*sqes)
    bench.world.close(fd)
    return count


CLOSINGS: dict[str, Callable[[Bench, int, Sqe], int]] = {
    "in the chain": lambda bench, fd, read: bench.submit(
        Sqe(Op.CLOSE, _LINK, fd=fd, user_data=1), timer(bench, 512), read
    ),
    "in the chain, which goes on after failures": lambda bench, fd, read: bench.submit(
        Sqe(Op.CLOSE, _HARD, fd=fd, user_data=1), timer(bench, 512, flags=_HARD), read
    ),
    "while a chain waits": lambda bench, fd, read: bench.submit(
        timer(bench, 512), read, Sqe(Op.CLOSE, fd=fd, user_data=1)
    ),
    "as a drain": lambda bench, fd, read: bench.submit(
        Sqe(Op.CLOSE, _DRAIN, fd=fd, user_data=1), timer(bench, 512), read
    ),
    "twice": lambda bench, fd, read: bench.submit(
        Sqe(Op.CLOSE, _HARD, fd=fd, user_data=1),
        Sqe(Op.CLOSE, _HARD, fd=fd, user_data=4),
        timer(bench, 512),
        read,
    ),
    "by the host": lambda bench, fd, read: closed_by_host(bench, fd, timer(bench, 512), read),
    "by the host, while a drain holds the read back": lambda bench, fd, read: closed_by_host(
        bench, fd, timer(bench, 512, flags=0), Sqe(Op.NOP, _DRAIN, user_data=1), read
    ),
}


@pytest.mark.parametrize("closing", CLOSINGS.values(), ids=CLOSINGS)
def test_a_number_that_waiting_requests_name_is_not_the_hosts_yet(
    bench: Bench, closing: Callable[[Bench, int, Sqe], int]
) -> None:
    """A request that waits for its turn is looked up when that comes."""
    fd = bench.world.open("made", os.O_CREAT | os.O_RDWR)
    read = Sqe(Op.READ, fd=fd, addr=bench.block.start, len=17, user_data=3)
    read = replace(read, off=_NOWHERE)
    count = closing(bench, fd, read)
    opened, secret = steal(fd)
    try:
        results = bench.results(count)
        assert dict(results)[3] == -errno.EBADF
        assert [res for token, res in results if token == 4] in ([], [-errno.EBADF])
        assert os.read(opened[0], 100) == secret
    finally:
        for other in opened:
            os.close(other)
    assert bench.backend.in_flight() == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_number_that_a_worker_may_look_up_is_not_the_hosts_yet(bench: Bench) -> None:
    """Whether it has done so by now nobody can tell."""
    reader, writer = bench.world.pipe()
    read = Sqe(Op.READ, abi.SQE_ASYNC, fd=reader, addr=bench.block.start, len=5, off=_NOWHERE)
    assert bench.submit(replace(read, user_data=9)) == 1
    time.sleep(0.02)  # it has: the read goes on
    assert bench.submit(Sqe(Op.CLOSE, fd=reader, user_data=2)) == 1
    assert bench.results(1) == [(2, 0)]
    assert bench.result(Sqe(Op.FSYNC, fd=reader)) == -errno.EBADF
    opened, _ = steal(reader)
    assert reader not in opened
    for fd in opened:
        os.close(fd)
    data = bench.put(b"hello", 64)
    assert bench.submit(Sqe(Op.WRITE, fd=writer, addr=data, len=5, off=_NOWHERE, user_data=3)) == 1
    assert sorted(bench.results(2)) == [(3, 5), (9, 5)]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reader)


def test_plain_closes_are_the_kernels(bench: Bench) -> None:
    """Nothing is played where nothing waits: one call for each."""
    fds = [bench.world.pipe()[0] for _ in range(3)]
    sqes = [Sqe(Op.CLOSE, fd=fd, user_data=fd) for fd in fds]
    assert bench.submit(*sqes, Sqe(Op.FSYNC, fd=fds[0], user_data=1)) == 4
    assert bench.results(4) == [*((fd, 0) for fd in fds), (1, -errno.EBADF)]
    assert bench.backend._flight._last_hidden == TOKEN_LIMIT


# --- drains -------------------------------------------------------------------------------------


def send_zc(bench: Bench, fd: int, token: int, flags: int = 0) -> Sqe:
    return Sqe(Op.SEND_ZC, flags, fd=fd, addr=bench.block.start, len=5, user_data=token)


def test_a_zero_copy_send_that_a_drain_holds_back_is_refused(bench: Bench) -> None:
    """On Linux it would wait for its own notification, for ever, and so would closing the ring."""
    fd, _ = bench.world.socketpair()
    zc, nop = send_zc(bench, fd, 1), Sqe(Op.NOP, user_data=2)
    drained, linked = replace(nop, flags=_DRAIN), replace(nop, flags=_LINK)
    for sqes in (
        [replace(zc, flags=_DRAIN)],
        [replace(zc, flags=_LINK), drained],
        [replace(nop, flags=_DRAIN | _LINK), zc],
        [drained, zc],
        [linked, replace(zc, flags=_LINK), drained],
    ):
        with pytest.raises(UnsupportedError, match="zero-copy send that a drain holds back"):
            bench.submit(*sqes)
    assert bench.backend.in_flight() == 0
    assert bench.submit(timer(bench, 512, flags=0), replace(drained, user_data=3)) == 2
    with pytest.raises(UnsupportedError, match="zero-copy"):
        bench.submit(zc)
    assert sorted(bench.results(2)) == [(2, -errno.ETIME), (3, 0)]


def test_a_zero_copy_send_after_a_drain(bench: Bench) -> None:
    fd, _ = bench.world.socketpair()
    refused = [(1, -errno.EOPNOTSUPP), (1, 0)]  # an AF_UNIX socket has no such thing
    assert bench.submit(send_zc(bench, fd, 1), Sqe(Op.NOP, _DRAIN, user_data=2)) == 2
    assert bench.results(3) == [*refused, (2, 0)]
    for _ in range(2):
        assert bench.submit(send_zc(bench, fd, 1)) == 1
        assert bench.results(2) == refused


# --- memory -------------------------------------------------------------------------------------


def foreign_addresses(bench: Bench) -> Iterator[tuple[str, int]]:
    program = bench.memory.alloc(4096, RegionKind.STACK, "stack")
    host = bench.memory.alloc(4096, RegionKind.HOST, "host")
    heap = ctypes.create_string_buffer(64)
    yield "NULL", 0
    yield "program memory", program.start
    yield "memory of the VM", host.start
    yield "the heap of the host", ctypes.addressof(heap)
    yield "a guard gap", bench.block.end
    yield "the last byte of a block and more", bench.block.end - 1
    yield "the byte before a block", bench.block.start - 1
    yield "the kernel", 0xFFFF_8880_0000_0000
    yield "a handle", bench.memory.handle("map")


def test_only_user_memory_is_read_or_written(bench: Bench) -> None:
    bench.world.add_file("full", b"x" * 64)
    fd = bench.world.open("full", os.O_RDWR)
    near, peer = bench.world.socketpair()
    peer.send(b"y" * 64)
    how = bench.put(b"full\0", 512)
    for what, addr in foreign_addresses(bench):
        for sqe in (
            Sqe(Op.READ, fd=fd, addr=addr, len=16),
            Sqe(Op.WRITE, fd=fd, addr=addr, len=16),
            Sqe(Op.RECV, fd=near, addr=addr, len=16),
            Sqe(Op.SEND, fd=near, addr=addr, len=16),
            Sqe(Op.READV, fd=fd, addr=addr, len=1),
            Sqe(Op.READV, fd=fd, addr=bench.put(abi.IOVEC.pack(addr, 16), 1024), len=1),
            Sqe(Op.WRITEV, fd=fd, addr=bench.put(abi.IOVEC.pack(addr, 16), 1024), len=1),
            Sqe(Op.STATX, fd=abi.AT_FDCWD, addr=how, off=addr, len=abi.STATX_BASIC_STATS),
            Sqe(Op.TIMEOUT, addr=addr, len=1),
            Sqe(Op.FILES_UPDATE, addr=addr, len=4),
            Sqe(Op.PROVIDE_BUFFERS, fd=1, addr=addr, len=16),
            Sqe(Op.CONNECT, fd=bench.world.socket(), addr=addr, off=16),
            Sqe(Op.OPENAT2, fd=abi.AT_FDCWD, addr=how, off=addr, len=24),
        ):
            wanted = -errno.ENXIO if sqe.opcode == Op.FILES_UPDATE else -errno.EFAULT
            assert bench.result(sqe) == wanted, (what, Op(sqe.opcode).name)
        assert bench.backend.register_buffers([(addr, 16)]) == -errno.EFAULT, what
        if what != "the last byte of a block and more":
            for sqe in (Sqe(Op.OPENAT, fd=abi.AT_FDCWD, addr=addr),):
                assert bench.result(sqe) == -errno.EFAULT, what
    assert peer.recv(100) is None, "something was sent from foreign memory"
    assert bench.world.file_data("full") == b"x" * 64


def test_the_peers_address_is_written_only_to_user_memory(bench: Bench) -> None:
    listener = bench.world.listen()
    length = bench.put(abi.SOCKLEN.pack(16), 64)
    stack = bench.memory.alloc(4096, RegionKind.STACK, "stack")
    for addr, length_at in ((stack.start, length), (bench.block.start, stack.start)):
        client = bench.world.connect(listener)
        assert bench.result(Sqe(Op.ACCEPT, fd=listener, addr=addr, off=length_at)) == -errno.EFAULT
        client.close()
    assert bench.memory.read(stack.start, 4096) == bytes(4096)


def test_iovecs_can_not_change_after_the_check(bench: Bench) -> None:
    """A request of the same batch overwrites the array with the address of program memory."""
    stack = bench.memory.alloc(4096, RegionKind.STACK, "stack")
    bench.world.add_file("evil", abi.IOVEC.pack(stack.start, 16))
    fd = bench.world.open("evil", os.O_RDONLY)
    target = bench.put(bytes(16), 256)
    array = bench.put(abi.IOVEC.pack(target, 16), 512)
    read = Sqe(Op.READ, fd=fd, addr=array, len=16, user_data=1)
    readv = Sqe(Op.READV, fd=fd, addr=array, len=1, user_data=2)
    assert bench.submit(read, readv) == 2
    assert bench.results(2) == [(1, 16), (2, 16)]
    assert bench.memory.read(stack.start, 4096) == bytes(4096)
    assert bench.memory.user_read(target, 16) == abi.IOVEC.pack(stack.start, 16)


def test_the_rings_memory_is_gone_before_user_memory_is() -> None:
    if _REFUSED is not None:
        pytest.skip(f"no io_uring: {_REFUSED}")
    made = Bench()
    reader, _ = made.world.pipe()
    assert made.submit(Sqe(Op.READ, fd=reader, addr=made.block.start, len=8, user_data=1)) == 1
    made.memory.close()  # not the backend
    assert made.backend.in_flight() == 0
    with pytest.raises(InputError, match="closed"):
        made.submit(Sqe(Op.NOP))


# --- paths and addresses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../../../../../../etc/passwd", "sub/../../../etc/passwd", "/proc/self/status",
     "link", "/link", "sub/../link", "up/etc/passwd", "/../../etc/passwd"],
)  # fmt: skip
def test_paths_stay_in_the_world(bench: Bench, path: str) -> None:
    bench.world.add_file("sub/file", b"")
    root = Path(f"/proc/self/fd/{bench.world.root_fd}")
    (root / "link").symlink_to("/etc/passwd")
    (root / "up").symlink_to("../../../..")
    addr = bench.put(path.encode() + b"\0")
    how = bench.put(abi.OPEN_HOW.pack(0, 0, 0), 1024)
    assert bench.result(Sqe(Op.OPENAT, fd=abi.AT_FDCWD, addr=addr)) == -errno.ENOENT
    assert bench.result(Sqe(Op.OPENAT2, fd=abi.AT_FDCWD, addr=addr, off=how, len=24)) < 0
    sub = bench.world.open("sub", os.O_RDONLY | os.O_DIRECTORY)
    assert bench.result(Sqe(Op.OPENAT, fd=sub, addr=addr)) == -errno.ENOENT
    if "link" not in path and "up" not in path:  # a symbolic link needs the host's help
        for op in (Op.STATX, Op.UNLINKAT, Op.MKDIRAT):
            off = bench.block.start + 4096 if op == Op.STATX else 0
            result = bench.result(Sqe(op, fd=abi.AT_FDCWD, addr=addr, off=off))
            assert result == -errno.ENOENT, op
        made = bench.put(b"new\0", 2048)
        for one, two in ((addr, made), (bench.put(b"sub/file\0", 3000), addr)):
            move = Sqe(Op.RENAMEAT, fd=abi.AT_FDCWD, len=abi.AT_FDCWD & 0xFFFFFFFF)
            assert bench.result(replace(move, addr=one, off=two)) == -errno.ENOENT


def test_symbolic_links_of_programs_stay_in_the_world(bench: Bench) -> None:
    if not bench.world.pinned:
        pytest.skip("symbolic links need CAP_SYS_ADMIN")
    target = Path("/proc/self/status")
    assert target.exists()
    here = abi.AT_FDCWD & 0xFFFFFFFF
    bench.world.add_file("a/b/c/file", b"")
    for number, text in enumerate(("/proc/self/status", "../../../../../../../proc/self/status")):
        link = bench.put(f"a/b/c/l{number}".encode() + b"\0", 1024)
        made = Sqe(Op.SYMLINKAT, fd=abi.AT_FDCWD, addr=bench.put(text.encode() + b"\0"), off=link)
        assert bench.result(made) == 0
        top = bench.put(f"l{number}".encode() + b"\0", 2048)
        # Fewer directories above it: the relative one would now leave even a deeper root.
        move = Sqe(Op.RENAMEAT, fd=abi.AT_FDCWD, len=here, addr=link, off=top)
        assert bench.result(move) == 0
        answer = bench.block.start + 4096
        value = bench.put(b"user.x\0", 3072)
        for sqe in (
            Sqe(Op.OPENAT, fd=abi.AT_FDCWD, addr=top),
            Sqe(Op.STATX, fd=abi.AT_FDCWD, addr=top, off=answer),
            Sqe(Op.GETXATTR, addr=value, off=answer, len=8, addr3=top),
            Sqe(
                Op.LINKAT,
                fd=abi.AT_FDCWD,
                len=here,
                addr=top,
                off=bench.put(b"stolen\0", 5120),
                op_flags=abi.AT_SYMLINK_FOLLOW,
            ),
        ):
            assert bench.result(sqe) == -errno.ENOENT, sqe
        with pytest.raises(InputError):
            bench.world.file_data(f"l{number}")


def test_children_of_the_host_are_not_waited_for(bench: Bench) -> None:
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 3"], {})
    waiting = Sqe(Op.WAITID, fd=pid, len=abi.P_PID, file_index=abi.WEXITED)
    assert bench.result(waiting) == -errno.ECHILD
    with pytest.raises(UnsupportedError, match="WAITID of anything"):
        bench.submit(replace(waiting, len=abi.P_ALL))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3


def test_second_descriptors_are_checked(bench: Bench) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"secret")
    ours, theirs = bench.world.pipe(), bench.world.epoll()
    splice = Sqe(Op.SPLICE, fd=ours[1], off=_NOWHERE, addr=_NOWHERE, len=6, file_index=reader)
    assert bench.result(splice) == -errno.EBADF
    assert bench.result(Sqe(Op.TEE, fd=ours[1], len=6, file_index=reader)) == -errno.EBADF
    event = bench.put(abi.EPOLL_EVENT.pack(1, 0))
    watch = Sqe(Op.EPOLL_CTL, fd=theirs, len=abi.EPOLL_CTL_ADD, off=reader, addr=event)
    assert bench.result(watch) == -errno.EBADF
    message = Sqe(Op.MSG_RING, fd=bench.backend._ring.fd, off=1)
    assert bench.result(message) == -errno.EBADF
    assert os.read(reader, 6) == b"secret"
    os.close(reader)
    os.close(writer)


def test_memory_advice_that_changes_content_is_refused(bench: Bench) -> None:
    for advice in (4, 8, 9, 100, 101):  # DONTNEED, FREE, REMOVE, HWPOISON, SOFT_OFFLINE
        with pytest.raises(UnsupportedError, match=f"MADVISE with advice {advice}"):
            bench.submit(Sqe(Op.MADVISE, addr=bench.block.start, len=4096, op_flags=advice))


def test_confined_paths() -> None:
    for path, wanted in {
        b"a/b": b"a/b",
        b"/a": b"a",
        b"//a//b/": b"a//b/",
        b"..": b".",
        b"/": b".",
        b"": b"",
        b"../a": b"a",
        b"a/../../b": b"a/../b",
        b"./../a": b"./a",
    }.items():
        assert confine(path) == wanted, path


def test_connect_reaches_only_the_world(bench: Bench) -> None:
    with socket.socket() as host:
        host.bind(("127.0.0.1", 0))
        host.listen()
        host.setblocking(False)
        port = host.getsockname()[1].to_bytes(2, "big")
        for raw in (b"\x7f\0\0\1", b"\0\0\0\0", b"\x7f\0\0\2"):
            addr = bench.put(abi.SOCKADDR_IN.pack(abi.AF_INET, port, raw))
            assert (
                bench.result(Sqe(Op.CONNECT, fd=bench.world.socket(), addr=addr, off=16))
                == -errno.ECONNREFUSED
            )
            fast = Sqe(Op.SEND, fd=bench.world.socket(), addr=addr, len=4, off=addr, file_index=16)
            msg_fastopen = 0x2000_0000 | abi.MSG_NOSIGNAL
            assert bench.result(replace(fast, op_flags=msg_fastopen)) < 0
        with pytest.raises(BlockingIOError):
            host.accept()
    listener = bench.world.listen()
    addr = bench.put(bench.world.address(listener))
    assert bench.result(Sqe(Op.CONNECT, fd=bench.world.socket(), addr=addr, off=16)) == 0
    bench.world.close(listener)
    assert (
        bench.result(Sqe(Op.CONNECT, fd=bench.world.socket(), addr=addr, off=16))
        == -errno.ECONNREFUSED
    )
    for domain, kind in ((16, 3), (17, 3), (10, 1), (2, 3), (1, 3)):
        with pytest.raises(UnsupportedError, match=f"SOCKET with domain {domain}"):
            bench.submit(Sqe(Op.SOCKET, fd=domain, off=kind))


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_given_back_is_not_the_worlds(bench: Bench, kind: int) -> None:
    """A socket whose port the kernel chose loses it when it is shut down, or disconnected."""
    stream = kind == socket.SOCK_STREAM
    fd = bench.world.listen() if stream else bench.world.datagrams()
    address = bench.world.address(fd)
    unspecified = bench.put(bytes(16))
    bench.result(
        Sqe(Op.SHUTDOWN, fd=fd, len=abi.SHUT_RDWR)
        if stream
        else Sqe(Op.CONNECT, fd=fd, addr=unspecified, off=16)
    )
    with socket.socket(socket.AF_INET, kind) as taker:
        taker.bind(("127.0.0.1", int.from_bytes(address[2:4], "big")))
        if stream:
            taker.listen()
        taker.setblocking(False)
        addr = bench.put(address, 64)
        client = bench.world.socket(kind=kind)
        if stream:
            connect = Sqe(Op.CONNECT, fd=client, addr=addr, off=16)
            assert bench.result(connect) == -errno.ECONNREFUSED
        else:
            send = Sqe(Op.SEND, fd=client, addr=bench.block.start, len=5, off=addr, file_index=16)
            bench.result(send)
            with pytest.raises(BlockingIOError):
                taker.recv(5)


def test_opcodes_that_reach_further_are_refused(bench: Bench) -> None:
    for op in set(Op) - SUPPORTED:
        with pytest.raises(UnsupportedError, match=op.name):
            bench.submit(Sqe(Op.NOP, user_data=1), Sqe(op, user_data=2))
    assert bench.backend.poll() == [], "the NOP before it was consumed"
    assert bench.result(Sqe(200)) == -errno.EINVAL


# --- external requests, order and the rest of the protocol ---------------------------------------


def test_a_lone_external_request_costs_later_requests_nothing(bench: Bench) -> None:
    bench.submit(Sqe(EXTERNAL, user_data=1), Sqe(Op.NOP, user_data=2))
    assert bench.events(2) == [Started(1), Completion(2, 0, 0)]
    bench.submit(Sqe(EXTERNAL, user_data=3), Sqe(Op.NOP, user_data=4, flags=_DRAIN))
    assert bench.events(1) == [Started(3)]
    assert not bench.backend.can_progress()
    assert not bench.backend.wait(_PATIENCE_NS), "it waited for what can not come"
    bench.backend.finish(3)
    assert not bench.backend.wait(1_000_000)
    bench.backend.finish(1)
    assert bench.results(1) == [(4, 0)]
    with pytest.raises(InternalError, match="external"):
        bench.backend.finish(1)


def test_cancelling_everything_leaves_external_requests_alone(bench: Bench) -> None:
    reader, _ = bench.world.pipe()
    buffer = bench.block.start
    bench.submit(Sqe(EXTERNAL, user_data=1, flags=_LINK), Sqe(Op.NOP, user_data=2))
    bench.submit(Sqe(Op.READ, fd=reader, addr=buffer, len=4, user_data=3))
    assert bench.events(1) == [Started(1)]
    every = abi.ASYNC_CANCEL_ANY | abi.ASYNC_CANCEL_ALL
    bench.submit(Sqe(Op.ASYNC_CANCEL, op_flags=every, user_data=4))
    assert sorted(bench.results(2)) == [(3, -errno.ECANCELED), (4, 1)]
    by_opcode = abi.ASYNC_CANCEL_OP | abi.ASYNC_CANCEL_ALL
    bench.submit(Sqe(Op.ASYNC_CANCEL, op_flags=by_opcode, len=Op.READ, user_data=5))
    assert bench.results(1) == [(5, 0)]
    bench.backend.finish(1)
    assert bench.results(1) == [(2, 0)]


def test_an_external_request_given_up_before_its_turn(bench: Bench) -> None:
    reader, writer = bench.world.pipe()
    read = Sqe(Op.READ, _LINK, fd=reader, addr=bench.block.start, len=1, user_data=1)
    bench.submit(read, Sqe(EXTERNAL, _LINK, user_data=2), Sqe(Op.NOP, user_data=3))
    bench.backend.cancel_external(2)
    write = Sqe(Op.WRITE, fd=writer, addr=bench.block.start, len=1, user_data=4)
    bench.submit(write)
    assert sorted(bench.results(3)) == [(1, 1), (3, -errno.ECANCELED), (4, 1)]
    assert bench.backend.in_flight() == 0


def test_batches_larger_than_the_ring(bench: Bench) -> None:
    small = KernelBackend(bench.memory, entries=4)
    batch = [Sqe(Op.NOP, user_data=token).pack() for token in range(1, 101)]
    assert small.submit(batch) == 100
    assert small.poll() == [Completion(token, 0, 0) for token in range(1, 101)]
    chain = [Sqe(Op.NOP, _LINK, user_data=token).pack() for token in range(1, 30)]
    with pytest.raises(InputError, match="chain of 29"):
        small.submit(chain)
    bad = [*batch[:20], Sqe(Op.NOP, 0x80, user_data=500).pack(), *batch[20:]]
    assert small.submit(bad) == 21
    assert len(small.poll()) == 21
    small.close()


def test_waiting_sleeps_and_can_be_interrupted(bench: Bench) -> None:
    reader, _ = bench.world.pipe()
    bench.submit(Sqe(Op.READ, fd=reader, addr=bench.block.start, len=1, user_data=1))
    rings: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda *_: rings.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        cpu, wall = time.process_time(), time.monotonic()
        assert not bench.backend.wait(150_000_000)
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert time.monotonic() - wall >= 0.15, "a signal ended the wait"
        assert len(rings) > 2
        assert time.process_time() - cpu < 0.075, "it was busy waiting"
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(KeyboardInterrupt):
            bench.backend.wait(None)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_absolute_timeouts_use_the_clock_of_the_backend(bench: Bench) -> None:
    due = bench.backend.now_ns() + 5_000_000
    addr = bench.put(abi.TIMESPEC.pack(*divmod(due, 10**9)))
    sqe = Sqe(Op.TIMEOUT, addr=addr, len=1, op_flags=abi.TIMEOUT_ABS)
    assert bench.result(sqe) == -errno.ETIME
    assert due <= bench.backend.now_ns() < due + 1_000_000_000


# --- giving everything back -----------------------------------------------------------------------


def test_nothing_is_left_open() -> None:
    if _REFUSED is not None:
        pytest.skip(f"no io_uring: {_REFUSED}")
    fds = open_fds()
    for how in ("backend", "memory", "with"):
        made = Bench()
        world, block = made.world, made.block.start
        world.add_file("sub/file", b"data")
        made.put(b"sub/file\0")
        listener = world.listen()
        near, _ = world.socketpair()
        reader, _ = world.pipe()
        world.connect(listener)
        made.put(abi.TIMESPEC.pack(1000, 0), 64)
        made.put(abi.SOCKADDR_IN.pack(abi.AF_INET, b"\0\1", b"\x7f\0\0\1"), 128)
        made.submit(
            Sqe(Op.OPENAT, _SKIP, fd=abi.AT_FDCWD, addr=block, user_data=1),
            Sqe(Op.ACCEPT, fd=listener, ioprio=abi.ACCEPT_MULTISHOT, user_data=2),
            Sqe(Op.RECV, _LINK, fd=near, addr=block, len=8, user_data=3),
            Sqe(EXTERNAL, _LINK, user_data=4),
            Sqe(Op.NOP, user_data=5),
            Sqe(EXTERNAL, _LINK, user_data=6),
            Sqe(Op.READ, fd=reader, addr=block, len=1, user_data=7),
            Sqe(Op.TIMEOUT, addr=block + 64, len=1, user_data=8),
            Sqe(Op.POLL_ADD, fd=near, op_flags=1, user_data=9),
            Sqe(Op.READ, abi.SQE_ASYNC, fd=reader, addr=block, len=1, user_data=10),
            Sqe(Op.CONNECT, fd=world.socket(), addr=block + 128, off=16, user_data=11),
            Sqe(Op.OPENAT, fd=abi.AT_FDCWD, addr=block, user_data=12),
        )
        made.backend.poll()
        directory = world._directory
        if how == "with":
            with made.backend:
                pass
        elif how == "backend":
            made.backend.close()
        made.memory.close()
        made.backend.close()
        assert open_fds() == fds, how
        assert not directory.exists()


def test_a_drain_that_will_never_run_does_not_hold_up_closing(bench: Bench) -> None:
    reader, _ = bench.world.pipe()
    read = Sqe(Op.READ, fd=reader, addr=bench.block.start, len=1, user_data=1)
    drained = [
        replace(read, user_data=token, flags=_DRAIN if token % 2 else 0) for token in range(2, 12)
    ]
    bench.submit(read, *drained, Sqe(EXTERNAL, _DRAIN, user_data=12))
    start = time.monotonic()
    bench.backend.close()
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSYS, "has no io_uring"),
        (errno.EPERM, "forbidden|switched off"),
        (errno.ENOMEM, "RLIMIT_MEMLOCK"),
        (errno.EMFILE, "descriptor"),
        (errno.EINVAL, "size"),
        (errno.EIO, "EIO"),
    ],
)
def test_a_refused_ring_is_explained(
    monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    monkeypatch.setattr(sysring, "setup", lambda entries, params: -number)
    fds = open_fds()
    with AddressSpace() as memory, pytest.raises(InputError, match=said) as caught:
        KernelBackend(memory)
    assert caught.value.remedy
    assert open_fds() == fds
    assert probe.available() is not None
    assert probe.probe().reason is not None


def test_a_ring_switched_off_names_the_sysctl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysring, "disabled_setting", lambda: 2)
    assert "kernel.io_uring_disabled = 2" in str(sysring.setup_error(errno.EPERM))


def test_probe_tells_what_the_kernel_has() -> None:
    if _REFUSED is not None:
        pytest.skip(f"no io_uring: {_REFUSED}")
    found = probe.probe()
    assert found.reason is None
    assert found.features & abi.FEAT_NODROP
    assert {Op.NOP, Op.READ, Op.OPENAT2} <= found.opcodes
    assert set(found.missing) == SUPPORTED - found.opcodes


# --- the hidden machinery does not show --------------------------------------------------------


class Plain:
    """A ring without guard, tokens or played flags, driven with the same SQEs."""

    def __init__(self) -> None:
        self.ring = SysRing(64)

    def play(self, sqes: list[bytes], count: int) -> list[tuple[int, int, int]]:
        """Wait for `count` completions, and a while for more."""
        quiet_ns = 2_000_000
        self.ring.submit(sqes)
        found = self.ring.reap()
        while len(found) < count and self.ring.wait(_PATIENCE_NS) == 0:
            found += self.ring.reap()
        while self.ring.wait(quiet_ns) == 0:
            found += self.ring.reap()
        return [(token, res, flags) for token, res, flags in found]


def make_chain(chance: random.Random, bench: Bench, first: int, fd: int) -> list[Sqe]:
    timespec = bench.block.start
    missing = bench.block.start + 64
    makers: list[Callable[[], Sqe]] = [
        lambda: Sqe(Op.NOP),
        lambda: Sqe(Op.NOP, op_flags=abi.NOP_INJECT_RESULT, len=5),
        lambda: Sqe(Op.NOP, op_flags=abi.NOP_INJECT_RESULT, len=0xFFFF_FFF0),
        lambda: Sqe(Op.NOP, op_flags=1 << 30),
        lambda: Sqe(Op.NOP, ioprio=1),
        lambda: Sqe(Op.READ, fd=fd, addr=bench.block.start + 256, len=chance.choice((4, 8))),
        lambda: Sqe(Op.READ, fd=-1, addr=bench.block.start + 256, len=4),
        lambda: Sqe(Op.FSYNC, fd=fd),
        lambda: Sqe(Op.FSYNC, fd=fd, off=1 << 63),
        lambda: Sqe(Op.FALLOCATE, fd=fd, addr=0),
        lambda: Sqe(Op.STATX, fd=-1, addr=missing, off=bench.block.start + 512, len=7),
        lambda: Sqe(Op.LINK_TIMEOUT, addr=timespec, len=1),
        lambda: Sqe(Op.TIMEOUT, addr=timespec + 16, len=1),
        lambda: Sqe(Op.TIMEOUT, addr=timespec + 16, len=1, op_flags=abi.TIMEOUT_ETIME_SUCCESS),
        lambda: Sqe(Op.POLL_ADD, fd=fd, op_flags=1, len=abi.POLL_ADD_MULTI),
    ]
    chain = []
    length = chance.randint(1, 4)
    for position in range(length):
        sqe = chance.choice(makers)()
        flags = _SKIP if chance.random() < 0.5 else 0
        if position < length - 1:
            flags |= chance.choice((_LINK, _LINK, _HARD))
        chain.append(replace(sqe, flags=flags, user_data=first + position))
    if chain[-1].opcode == Op.POLL_ADD and not chain[-1].flags & _SKIP:
        chain[-1] = replace(chain[-1], len=0)  # else it stays
    return chain


def test_skipped_completions_are_those_that_the_kernel_skips(bench: Bench) -> None:
    """The flag is played by the backend; here is the kernel's own word on the same chains."""
    bench.world.add_file("four", b"four")
    fd = bench.world.open("four", os.O_RDWR)
    bench.put(abi.TIMESPEC.pack(1000, 0) + abi.TIMESPEC.pack(0, 300_000))
    bench.put(b"missing\0", 64)
    seed = int(os.environ.get("PYBPFVM_RING_SEED", "1"))
    chance = random.Random(seed)
    plain = Plain()
    compared = 0
    for number in range(int(os.environ.get("PYBPFVM_SKIP_CHAINS", "300"))):
        chain = [sqe.pack() for sqe in make_chain(chance, bench, 1, fd)]
        bench.backend.submit(chain)
        ours = []
        while bench.backend.in_flight() or bench.backend.wait(0):
            bench.backend.wait(_PATIENCE_NS)
            ours += [(e.token, e.res, e.flags) for e in bench.backend.poll()
                     if isinstance(e, Completion)]  # fmt: skip
        theirs = plain.play(chain, len(ours))
        shown = [Sqe.unpack(raw) for raw in chain]
        assert sorted(ours) == sorted(theirs), f"seed {seed}, chain {number}: {shown}"
        compared += len(chain)
    plain.ring.close()
    assert compared > 300


def test_drains_are_refused_after_a_skip_as_the_kernel_does(bench: Bench) -> None:
    skip, drain = Sqe(Op.NOP, _SKIP, user_data=1), Sqe(Op.NOP, _DRAIN, user_data=2)
    both = Sqe(Op.NOP, _SKIP | _DRAIN, user_data=3)
    for batches in (
        [[drain], [skip], [replace(drain, user_data=5)]],  # the first may be late
        [[skip, drain]],
        [[both]],
        [[drain, skip, replace(drain, user_data=4)]],
    ):
        plain, backend = Plain(), KernelBackend(bench.memory)
        for batch in batches:
            sqes = [sqe.pack() for sqe in batch]
            backend.submit(sqes)
            ours = []
            while backend.wait(50_000_000):
                ours += [(e.token, e.res, 0) for e in backend.poll() if isinstance(e, Completion)]
            theirs = plain.play(sqes, len(ours))
            assert ours == theirs
        backend.close()
        plain.ring.close()


def test_entries_of_two_sizes_find_their_places() -> None:
    """In a small CQ that ends in the middle of large ones, but never overflows: there Linux 6.18
    lets ordinary ones overtake large ones that wait."""
    try:
        ring = SysRing(8, flags=abi.SETUP_CQE_MIXED)
    except InputError as refusal:
        pytest.skip(str(refusal))
    chance = random.Random(1)
    with ring:
        for _ in range(300):
            wide = [chance.random() < 0.6 for _ in range(chance.randint(1, 6))]
            for token, large in enumerate(wide):
                flags = abi.NOP_CQE32 if large else 0
                sqe = Sqe(Op.NOP, op_flags=flags, off=token, addr=7, user_data=token)
                assert ring.submit([sqe.pack()]) == 1
            assert ring.reap() == [
                (token, 0, abi.CQE_F_32, token, 7) if large else (token, 0, 0, 0, 0)
                for token, large in enumerate(wide)
            ]
