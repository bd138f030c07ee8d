"""ACCEPT, CONNECT, SHUTDOWN, SOCKET, BIND and LISTEN."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from pybpfvm.bits import U32, s32
from pybpfvm.memory import AddressSpace, UserFault
from pybpfvm.uring_backend.abi import (
    ACCEPT_DONTWAIT,
    ACCEPT_MULTISHOT,
    ACCEPT_POLL_FIRST,
    CQE_F_SOCK_NONEMPTY,
    FILE_INDEX_ALLOC,
    O_NONBLOCK,
    O_RDWR,
    POLLIN,
    POLLOUT,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCKLEN,
    Sqe,
)
from pybpfvm.uring_backend.addresses import unsupported_socket
from pybpfvm.uring_backend.control import unsupported_control
from pybpfvm.uring_backend.sim import transfers
from pybpfvm.uring_backend.sim.descriptors import OpenFile
from pybpfvm.uring_backend.sim.names import install
from pybpfvm.uring_backend.sim.request import Issue, Refused, Request
from pybpfvm.uring_backend.sim.sockets import Socket
from pybpfvm.uring_backend.sim.transfers import look_first, read_address, socket_of
from pybpfvm.uring_backend.socketoptions import unsupported_option

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Core

_SOMAXCONN: Final = 4096


def unsupported(sqe: Sqe, memory: AddressSpace) -> str:
    """What a networking SQE asks for that the simulated ring lacks; "" if nothing."""
    found = transfers.unsupported(sqe) or unsupported_control(sqe, memory)
    return found or unsupported_option(sqe) or unsupported_socket(sqe, memory)


def prepare_accept(core: Core, request: Request) -> Issue:
    """ACCEPT: a new descriptor or slot; the other end's address goes to Sqe.addr if given."""
    sqe = request.sqe
    if sqe.len or sqe.buf_index:
        raise Refused(errno.EINVAL)
    if sqe.ioprio & ~(ACCEPT_MULTISHOT | ACCEPT_DONTWAIT | ACCEPT_POLL_FIRST):
        raise Refused(errno.EINVAL)
    multishot = bool(sqe.ioprio & ACCEPT_MULTISHOT)
    if sqe.file_index:
        if sqe.op_flags & SOCK_CLOEXEC:
            raise Refused(errno.EINVAL)
        if multishot and sqe.file_index != FILE_INDEX_ALLOC:
            raise Refused(errno.EINVAL)
    if sqe.op_flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK):
        raise Refused(errno.EINVAL)
    request.nowait = bool(sqe.ioprio & ACCEPT_DONTWAIT)
    request.wait_events = POLLIN
    request.multishot = multishot
    request.looks_first = bool(sqe.ioprio & ACCEPT_POLL_FIRST)

    def accept_one() -> int:
        listener = socket_of(core, request)
        look_first(request)
        if not sqe.file_index:
            core.fds.free()  # without a descriptor the connection stays in the queue
        try:
            end = listener.accept()
        except Refused as refused:
            if refused.errno == errno.EAGAIN and listener.shut_in and not request.nowait:
                raise Refused(errno.EINVAL) from None  # as a worker, which blocks, finds out
            raise
        file = OpenFile(end, O_RDWR | sqe.op_flags & O_NONBLOCK).hold()
        try:
            if sqe.addr:
                _write_address(core, sqe, end.peer_address())
            return install(core, sqe.file_index, file)
        finally:
            file.drop()

    def issue() -> int | None:
        if not multishot:
            return _with_more_waiting(request, accept_one(), socket_of(core, request))
        while True:
            result = accept_one()
            core.post(request, result, _nonempty(socket_of(core, request)))

    return issue


def _nonempty(listener: Socket) -> int:
    return CQE_F_SOCK_NONEMPTY if listener.pending else 0


def _with_more_waiting(request: Request, result: int, listener: Socket) -> int:
    request.cqe_flags = _nonempty(listener)
    return result


def _write_address(core: Core, sqe: Sqe, address: bytes) -> None:
    try:
        (room,) = SOCKLEN.unpack(core.memory.user_read(sqe.off, SOCKLEN.size))
        if s32(room) < 0:
            raise Refused(errno.EINVAL)
        core.memory.user_write(sqe.addr, address[:room])
        core.memory.user_write(sqe.off, SOCKLEN.pack(len(address)))
    except UserFault:
        raise Refused(errno.EFAULT) from None


def prepare_connect(core: Core, request: Request) -> Issue:
    """CONNECT: waits while the listener's backlog is full, and for the network."""
    sqe = request.sqe
    if sqe.len or sqe.buf_index or sqe.op_flags or sqe.file_index:
        raise Refused(errno.EINVAL)
    address = read_address(core, sqe.addr, s32(sqe.off & U32))
    request.wait_events = POLLOUT
    begun = False

    def issue() -> int | None:
        nonlocal begun
        socket = socket_of(core, request)
        if begun:
            socket.connected()
            return 0
        try:
            begun = True
            if socket.connect(address):
                return 0
        except Refused as refused:
            begun = False
            if refused.errno != errno.EAGAIN:
                raise
            core.arm_poll_on(request, socket.queue_of(address), retry)
            return None
        raise Refused(errno.EAGAIN)

    def retry(_: int) -> None:
        core.retry_later(request)

    return issue


def prepare_socket(core: Core, request: Request) -> Issue:
    """SOCKET: domain in Sqe.fd, type in Sqe.off, protocol in Sqe.len."""
    sqe = request.sqe
    if sqe.addr or sqe.op_flags or sqe.buf_index:
        raise Refused(errno.EINVAL)
    flags = sqe.off & U32 & ~0xF
    if sqe.file_index and flags & SOCK_CLOEXEC:
        raise Refused(errno.EINVAL)
    if flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK):
        raise Refused(errno.EINVAL)

    def issue() -> int:
        node = core.world.make_socket(sqe.fd, sqe.off & 0xF)
        file = OpenFile(node, O_RDWR | flags & SOCK_NONBLOCK).hold()
        request.errors_pass = bool(sqe.file_index)  # that there is no slot
        try:
            return install(core, sqe.file_index, file)
        finally:
            file.drop()

    return issue


def prepare_bind(core: Core, request: Request) -> Issue:
    """BIND to a loopback port (0: any), or an abstract name."""
    sqe = request.sqe
    if sqe.len or sqe.buf_index or sqe.op_flags or sqe.file_index:
        raise Refused(errno.EINVAL)
    address = read_address(core, sqe.addr, s32(sqe.off & U32))

    def issue() -> int:
        socket_of(core, request).bind(address)
        return 0

    return issue


def prepare_listen(core: Core, request: Request) -> Issue:
    """LISTEN with the backlog of Sqe.len."""
    sqe = request.sqe
    if sqe.addr or sqe.buf_index or sqe.op_flags or sqe.file_index or sqe.off:
        raise Refused(errno.EINVAL)

    def issue() -> int:
        socket_of(core, request).listen(min(sqe.len, _SOMAXCONN))
        return 0

    return issue


def prepare_shutdown(core: Core, request: Request) -> Issue:
    """SHUTDOWN: how in Sqe.len."""
    sqe = request.sqe
    if sqe.off or sqe.addr or sqe.op_flags or sqe.buf_index or sqe.file_index:
        raise Refused(errno.EINVAL)
    request.through_worker = True

    def issue() -> int:
        socket_of(core, request).shutdown(s32(sqe.len))
        return 0

    return issue
