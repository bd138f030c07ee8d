"""ACCEPT, CONNECT, SEND, RECV, SHUTDOWN, SOCKET, BIND and LISTEN."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from pybpfvm.bits import U32, s32
from pybpfvm.memory import UserFault
from pybpfvm.uring_backend.abi import (
    ACCEPT_DONTWAIT,
    ACCEPT_MULTISHOT,
    ACCEPT_POLL_FIRST,
    AF_INET,
    CQE_F_SOCK_NONEMPTY,
    FILE_INDEX_ALLOC,
    MAX_RW_COUNT,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    MSG_PEEK,
    MSG_WAITALL,
    O_NONBLOCK,
    O_RDWR,
    POLLIN,
    POLLOUT,
    RECV_MULTISHOT,
    RECVSEND_BUNDLE,
    RECVSEND_POLL_FIRST,
    SEND_VECTORIZED,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOCKADDR_IN,
    SOCKLEN,
    SQE_BUFFER_SELECT,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.sim.descriptors import OpenFile
from pybpfvm.uring_backend.sim.names import install
from pybpfvm.uring_backend.sim.request import Issue, Refused, Request
from pybpfvm.uring_backend.sim.rw import check_half
from pybpfvm.uring_backend.sim.streams import Socket, SocketState

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Core

_LOOPBACK: Final = bytes((127, 0, 0, 1))
_ANY: Final = bytes(4)
_SOCKADDR_MAX: Final = 128
_IPPROTO_TCP: Final = 6
_SOMAXCONN: Final = 4096
_MSG_SUPPORTED: Final = MSG_DONTWAIT | MSG_WAITALL | MSG_NOSIGNAL | MSG_PEEK


def unsupported(sqe: Sqe) -> str:
    """What a networking SQE asks for that the simulated ring lacks; "" if nothing."""
    op = Op(sqe.opcode)
    if op in (Op.SEND, Op.RECV):
        if sqe.ioprio & RECVSEND_BUNDLE:
            return f"{op.name} with IORING_RECVSEND_BUNDLE"
        if sqe.op_flags & ~_MSG_SUPPORTED:
            return f"{op.name} with message flags {sqe.op_flags & ~_MSG_SUPPORTED:#x}"
        if op is Op.SEND and sqe.ioprio & SEND_VECTORIZED:
            return "SEND with IORING_SEND_VECTORIZED"
        if op is Op.SEND and sqe.off:
            return "SEND with a destination address"
    if op is Op.SOCKET:
        kind = sqe.off & 0xF
        if sqe.fd != AF_INET or kind != SOCK_STREAM or sqe.len not in (0, _IPPROTO_TCP):
            return f"SOCKET with domain {sqe.fd}, type {kind}, protocol {sqe.len}"
    return ""


def _socket_of(core: Core, request: Request) -> Socket:
    node = core.file_of(request).node
    if not isinstance(node, Socket):
        raise Refused(errno.ENOTSOCK)
    return node


def _sockaddr(core: Core, addr: int, size: int) -> bytes:
    if not 0 <= size <= _SOCKADDR_MAX:
        raise Refused(errno.EINVAL)
    try:
        return core.memory.user_read(addr, size)
    except UserFault:
        raise Refused(errno.EFAULT) from None


def _port_of(raw: bytes) -> int:
    """The port of a sockaddr_in on this machine. Refused as inet_stream_connect and bind do."""
    if len(raw) < SOCKADDR_IN.size:
        raise Refused(errno.EINVAL)
    family, port, host = SOCKADDR_IN.unpack_from(raw)
    if family != AF_INET:
        raise Refused(errno.EAFNOSUPPORT)
    if host not in (_LOOPBACK, _ANY):
        raise Refused(errno.ENETUNREACH)  # the simulated machine has a loopback device only
    return int.from_bytes(port, "big")


# --- connections ------------------------------------------------------------------------------


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

    def accept_one() -> int:
        listener = _socket_of(core, request)
        if not sqe.file_index:
            core.fds.free()  # without a descriptor the connection stays in the queue
        end = listener.accept()
        file = OpenFile(end, O_RDWR | sqe.op_flags & O_NONBLOCK).hold()
        try:
            if sqe.addr:
                _write_address(core, sqe, end.peer_port)
            return install(core, sqe.file_index, file)
        finally:
            file.drop()

    def issue() -> int | None:
        if not multishot:
            return _with_more_waiting(request, accept_one(), _socket_of(core, request))
        while True:
            result = accept_one()
            core.post(request, result, _nonempty(_socket_of(core, request)))

    return issue


def _nonempty(listener: Socket) -> int:
    return CQE_F_SOCK_NONEMPTY if listener.pending else 0


def _with_more_waiting(request: Request, result: int, listener: Socket) -> int:
    request.cqe_flags = _nonempty(listener)
    return result


def _write_address(core: Core, sqe: Sqe, port: int) -> None:
    raw = SOCKADDR_IN.pack(AF_INET, port.to_bytes(2, "big"), _LOOPBACK)
    try:
        (room,) = SOCKLEN.unpack(core.memory.user_read(sqe.off, SOCKLEN.size))
        if s32(room) < 0:
            raise Refused(errno.EINVAL)
        core.memory.user_write(sqe.addr, raw[:room])
        core.memory.user_write(sqe.off, SOCKLEN.pack(len(raw)))
    except UserFault:
        raise Refused(errno.EFAULT) from None


def prepare_connect(core: Core, request: Request) -> Issue:
    """CONNECT to a listener of this world; waits while its backlog is full."""
    sqe = request.sqe
    if sqe.len or sqe.buf_index or sqe.op_flags or sqe.file_index:
        raise Refused(errno.EINVAL)
    raw = _sockaddr(core, sqe.addr, s32(sqe.off & U32))
    request.wait_events = POLLOUT

    def issue() -> int | None:
        socket = _socket_of(core, request)
        port = _port_of(raw)
        if socket.state is not SocketState.FRESH:
            raise Refused(errno.EISCONN)
        listener = core.world.listener_at(port)
        if listener.full:
            core.arm_poll_on(request, listener.queue, retry)
            return None
        if not socket.port:
            socket.port = core.world.client_port()
        socket.connect_to(listener)
        return 0

    def retry(_: int) -> None:
        core.retry_later(request)

    return issue


def prepare_socket(core: Core, request: Request) -> Issue:
    """SOCKET: domain in Sqe.fd, type in Sqe.off, protocol in Sqe.len; TCP only."""
    sqe = request.sqe
    if sqe.addr or sqe.op_flags or sqe.buf_index:
        raise Refused(errno.EINVAL)
    flags = sqe.off & U32 & ~0xF
    if sqe.file_index and flags & SOCK_CLOEXEC:
        raise Refused(errno.EINVAL)
    if flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK):
        raise Refused(errno.EINVAL)

    def issue() -> int:
        file = OpenFile(Socket(), O_RDWR | flags & SOCK_NONBLOCK).hold()
        try:
            return install(core, sqe.file_index, file)
        finally:
            file.drop()

    return issue


def prepare_bind(core: Core, request: Request) -> Issue:
    """BIND to a loopback port (0: any)."""
    sqe = request.sqe
    if sqe.len or sqe.buf_index or sqe.op_flags or sqe.file_index:
        raise Refused(errno.EINVAL)
    raw = _sockaddr(core, sqe.addr, s32(sqe.off & U32))

    def issue() -> int:
        core.world.bind(_socket_of(core, request), _port_of(raw))
        return 0

    return issue


def prepare_listen(core: Core, request: Request) -> Issue:
    """LISTEN with the backlog of Sqe.len."""
    sqe = request.sqe
    if sqe.addr or sqe.buf_index or sqe.op_flags or sqe.file_index or sqe.off:
        raise Refused(errno.EINVAL)

    def issue() -> int:
        socket = _socket_of(core, request)
        if socket.state is SocketState.CONNECTED:
            raise Refused(errno.EINVAL)
        if not socket.port:
            core.world.bind(socket, 0)
        socket.listen(min(sqe.len, _SOMAXCONN))
        return 0

    return issue


def prepare_shutdown(core: Core, request: Request) -> Issue:
    """SHUTDOWN: how in Sqe.len."""
    sqe = request.sqe
    if sqe.off or sqe.addr or sqe.op_flags or sqe.buf_index or sqe.file_index:
        raise Refused(errno.EINVAL)
    request.through_worker = True

    def issue() -> int:
        _socket_of(core, request).shutdown(s32(sqe.len))
        return 0

    return issue


# --- transfer ---------------------------------------------------------------------------------


def prepare_send(core: Core, request: Request) -> Issue:
    """SEND: as much as the other side takes; with MSG_WAITALL everything, in several steps."""
    sqe = request.sqe
    if sqe.ioprio & ~(RECVSEND_POLL_FIRST | RECVSEND_BUNDLE):
        raise Refused(errno.EINVAL)
    selecting = bool(sqe.flags & SQE_BUFFER_SELECT)
    if not selecting:
        check_half([(sqe.addr, sqe.len)])
    wait_all = bool(sqe.op_flags & MSG_WAITALL)
    request.nowait = bool(sqe.op_flags & MSG_DONTWAIT)
    request.wait_events = POLLOUT

    def issue() -> int:
        socket = _socket_of(core, request)
        addr, size = sqe.addr, min(sqe.len, MAX_RW_COUNT)
        if selecting and request.buffer is None:
            core.groups.check_group(sqe.buf_index)
            addr, size = core.groups.select(request, size)
        elif request.buffer is not None:
            _, _, addr, size = request.buffer
        try:
            if not core.memory.is_user(addr, size):
                socket.send(b"")  # whether it can send at all comes first
                raise Refused(errno.EFAULT)
            data = core.memory.user_read(addr, size)[request.done_bytes :]
            request.done_bytes += socket.send(data)
        except Refused as refused:
            if request.done_bytes and refused.errno != errno.EAGAIN:
                request.fail()
                return request.done_bytes
            if not request.done_bytes:
                core.groups.put_back(request)
            raise
        if wait_all and request.done_bytes < size:
            raise Refused(errno.EAGAIN)
        request.cqe_flags = core.groups.consume(request)
        return request.done_bytes

    return issue


def prepare_recv(core: Core, request: Request) -> Issue:
    """RECV: what is there; with MSG_WAITALL all of Sqe.len; multishot until the stream ends."""
    sqe = request.sqe
    if sqe.off or sqe.ioprio & ~(RECVSEND_POLL_FIRST | RECV_MULTISHOT | RECVSEND_BUNDLE):
        raise Refused(errno.EINVAL)
    selecting = bool(sqe.flags & SQE_BUFFER_SELECT)
    if sqe.file_index:
        raise Refused(errno.EINVAL)
    if not selecting:
        check_half([(sqe.addr, sqe.len)])
    wait_all = bool(sqe.op_flags & MSG_WAITALL)
    multishot = bool(sqe.ioprio & RECV_MULTISHOT)
    if multishot and (not selecting or wait_all):
        raise Refused(errno.EINVAL)
    request.multishot = multishot
    request.nowait = bool(sqe.op_flags & MSG_DONTWAIT)
    request.wait_events = POLLIN
    keep = bool(sqe.op_flags & MSG_PEEK)

    def receive(socket: Socket) -> int:
        """One buffer's worth."""
        addr, size = sqe.addr, min(sqe.len, MAX_RW_COUNT)
        if selecting:
            addr, size = core.groups.select(request, size)
        try:
            if not core.memory.is_user(addr, size) and socket.peek(0):
                raise Refused(errno.EFAULT)  # which is noticed when there is something to copy
            data = socket.receive(size - request.done_bytes, keep=keep)
        except Refused:
            core.groups.put_back(request)
            raise
        if data:
            core.memory.user_write(addr + request.done_bytes, data)
        if not data:
            core.groups.put_back(request)
        request.cqe_flags = core.groups.consume(request)
        if socket.worth_reading:
            request.cqe_flags |= CQE_F_SOCK_NONEMPTY
        return len(data)

    def issue() -> int:
        socket = _socket_of(core, request)
        if multishot:
            while True:
                done = receive(socket)
                if not done:
                    return 0
                core.post(request, done, request.cqe_flags)
                request.cqe_flags = 0
                if not socket.poll() & POLLIN:  # no buffer is asked for before there is data
                    raise Refused(errno.EAGAIN)
        while True:
            try:
                done = receive(socket)
            except Refused as refused:
                if not request.done_bytes or refused.errno == errno.EAGAIN:
                    raise
                done = 0
            request.done_bytes += done
            if not wait_all or request.done_bytes >= sqe.len or not done:
                break
        if wait_all and request.done_bytes < sqe.len:
            request.fail()
        return request.done_bytes

    return issue
