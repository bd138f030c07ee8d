"""SEND, SENDMSG, RECV and RECVMSG: bytes between user memory and sockets.

One shot, or again and again (multishot), from and into blocks of the request's own, buffers that
are selected, or several of these at once (bundles). As in mainline a request that can not go on
keeps what it has transferred in `done_bytes` and waits for its socket.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pybpfvm.bits import U16, s32
from pybpfvm.memory import UserFault
from pybpfvm.uring_backend.abi import (
    CQE_F_BUF_MORE,
    CQE_F_MORE,
    CQE_F_SOCK_NONEMPTY,
    IOV_MAX,
    MAX_RW_COUNT,
    MSG_CMSG_CLOEXEC,
    MSG_DONTWAIT,
    MSG_MORE,
    MSG_NOSIGNAL,
    MSG_PEEK,
    MSG_TRUNC,
    MSG_WAITALL,
    MSGHDR,
    POLLIN,
    POLLOUT,
    RECV_MULTISHOT,
    RECV_POLL_BPF,
    RECVMSG_OUT,
    RECVSEND_BUNDLE,
    RECVSEND_POLL_FIRST,
    SEND_VECTORIZED,
    SOCK_DGRAM,
    SQE_BUFFER_SELECT,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.sim.request import Issue, Refused, Request
from pybpfvm.uring_backend.sim.rw import Blocks, check_half, gather, reachable, read_iovec, scatter
from pybpfvm.uring_backend.sim.sockets import Received, Socket

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Core

SOCKADDR_MAX: Final = 128  # struct sockaddr_storage
_INT_MAX: Final = (1 << 31) - 1
_BUNDLE: Final = 256  # buffers that one bundle may have
_LOOPS: Final = 32  # receives of a multishot request before it looks at the socket again
_SENT_FLAGS: Final = MSG_DONTWAIT | MSG_WAITALL | MSG_NOSIGNAL | MSG_MORE
_RECEIVED_FLAGS: Final = (
    MSG_DONTWAIT | MSG_WAITALL | MSG_NOSIGNAL | MSG_PEEK | MSG_TRUNC | MSG_CMSG_CLOEXEC
)
_SENDS: Final = frozenset({Op.SEND, Op.SENDMSG, Op.SEND_ZC, Op.SENDMSG_ZC})
_RECEIVES: Final = frozenset({Op.RECV, Op.RECVMSG})
_RETRY_FLAGS: Final = CQE_F_SOCK_NONEMPTY | CQE_F_MORE | CQE_F_BUF_MORE


def unsupported(sqe: Sqe) -> str:
    """What a transfer asks for that the simulated ring lacks; "" if nothing."""
    if sqe.opcode in _SENDS:
        unknown = sqe.op_flags & ~_SENT_FLAGS
    elif sqe.opcode in _RECEIVES:
        unknown = sqe.op_flags & ~_RECEIVED_FLAGS
    else:
        return ""
    if sqe.opcode == Op.RECV and sqe.ioprio & RECVSEND_BUNDLE and sqe.op_flags & MSG_WAITALL:
        return "RECV with IORING_RECVSEND_BUNDLE and MSG_WAITALL"
    return f"{Op(sqe.opcode).name} with message flags {unknown:#x}" if unknown else ""


def socket_of(core: Core, request: Request) -> Socket:
    """The request's socket; Refused(ENOTSOCK)."""
    node = core.file_of(request).node
    if not isinstance(node, Socket):
        raise Refused(errno.ENOTSOCK)
    return node


def read_address(core: Core, addr: int, size: int) -> bytes:
    """A sockaddr in user memory. Refused EINVAL, EFAULT."""
    if not 0 <= size <= SOCKADDR_MAX:
        raise Refused(errno.EINVAL)
    try:
        return core.memory.user_read(addr, size)
    except UserFault:
        raise Refused(errno.EFAULT) from None


@dataclass(frozen=True, slots=True)
class Header:
    """A struct msghdr at `at`, as far as it is read in advance. `address` is that of a send."""

    at: int
    name: int
    name_bytes: int
    address: bytes
    blocks: Blocks
    control: int
    control_bytes: int


def read_header(core: Core, at: int, *, sending: bool, selecting: bool = False) -> Header:
    """Refused EFAULT, EINVAL, EMSGSIZE as sendmsg(2) and recvmsg(2) do.

    Where a buffer will be selected one block at most says how long it may be.
    """
    try:
        raw = core.memory.user_read(at, MSGHDR.size)
    except UserFault:
        raise Refused(errno.EFAULT) from None
    name, name_bytes, iov, count, control, control_bytes, _ = MSGHDR.unpack(raw)
    name_bytes = s32(name_bytes) if name else 0
    if name_bytes < 0:
        raise Refused(errno.EINVAL)
    name_bytes = min(name_bytes, SOCKADDR_MAX)
    address = b""
    if sending and name_bytes:
        address = read_address(core, name, name_bytes)
    if count > IOV_MAX:
        raise Refused(errno.EMSGSIZE)
    if selecting:
        if count > 1:
            raise Refused(errno.EINVAL)
        blocks = read_iovec(core, iov, count)
    else:
        blocks = read_iovec(core, iov, count)
        check_half(blocks)
    return Header(at, name, name_bytes, address, blocks, control, control_bytes)


def _behind(blocks: Blocks, done: int) -> Blocks:
    """What is left of blocks after their first `done` bytes."""
    left: list[tuple[int, int]] = []
    for addr, size in blocks:
        skipped = min(done, size)
        done -= skipped
        left.append((addr + skipped, size - skipped))
    return left


def _first(blocks: Blocks, most: int) -> Blocks:
    """The blocks up to so many bytes."""
    kept: list[tuple[int, int]] = []
    for addr, size in blocks:
        kept.append((addr, min(size, most)))
        most -= kept[-1][1]
    return kept


def _size(blocks: Blocks) -> int:
    return sum(size for _, size in blocks)


# --- sending ----------------------------------------------------------------------------------


def prepare_send(core: Core, request: Request) -> Issue:
    """SEND and SENDMSG: as much as the other side takes; with MSG_WAITALL everything."""
    sqe = request.sqe
    if sqe.ioprio & ~(RECVSEND_POLL_FIRST | RECVSEND_BUNDLE | SEND_VECTORIZED):
        raise Refused(errno.EINVAL)
    selecting = bool(sqe.flags & SQE_BUFFER_SELECT)
    bundle = bool(sqe.ioprio & RECVSEND_BUNDLE)
    if bundle and sqe.opcode == Op.SENDMSG:
        raise Refused(errno.EINVAL)
    message = outgoing(core, sqe, selecting=selecting)
    wait_as_asked(request, POLLOUT)
    whole = bundle or bool(sqe.op_flags & MSG_WAITALL)
    request.size_bytes = 0 if selecting or whole else _size(message.blocks)
    blocks = message.blocks
    wanted = sqe.len

    def issue() -> int:
        nonlocal blocks, wanted
        socket = socket_of(core, request)
        look_first(request)
        while True:
            if selecting and request.buffer is None:
                core.groups.take(request, wanted, _BUNDLE if bundle else 1)
            emptied = False
            if request.buffer is not None:
                blocks, emptied = request.buffer.blocks, request.buffer.emptied
            send_blocks(core, request, socket, message.address, blocks, whole=whole)
            done = request.done_bytes
            request.cqe_flags = core.groups.consume(request, done)
            if not bundle or emptied or not done or request.was_polled:
                return done
            core.post(request, done, request.cqe_flags)
            blocks = []
            wanted = request.done_bytes = request.cqe_flags = 0

    return issue


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What a request sends: blocks, and to whom (b"": to whom it is connected)."""

    blocks: Blocks
    address: bytes


def outgoing(core: Core, sqe: Sqe, *, selecting: bool = False, fixed: bool = False) -> Outgoing:
    """Read what a send points to. `fixed`: its blocks are looked at later."""
    if sqe.opcode in (Op.SENDMSG, Op.SENDMSG_ZC):
        if sqe.off or sqe.file_index:
            raise Refused(errno.EINVAL)
        header = read_header(core, sqe.addr, sending=True)
        return Outgoing(header.blocks, header.address)
    if sqe.file_index >> 16:
        raise Refused(errno.EINVAL)
    address = read_address(core, sqe.off, sqe.file_index & U16) if sqe.off else b""
    if selecting or fixed:
        return Outgoing([(sqe.addr, sqe.len)], address)
    if sqe.ioprio & SEND_VECTORIZED:
        blocks = read_iovec(core, sqe.addr, sqe.len)
    else:
        blocks = [(sqe.addr, min(sqe.len, MAX_RW_COUNT))]
    check_half(blocks)
    return Outgoing(blocks, address)


def send_blocks(
    core: Core, request: Request, socket: Socket, address: bytes, blocks: Blocks, *, whole: bool
) -> None:
    """Send, and count in `done_bytes`; Refused(EAGAIN) when there is more to do later.

    What is refused after a part was sent is not told: the part is the result, and a failure.
    """
    left = _behind(blocks, request.done_bytes)
    more = bool(request.sqe.op_flags & MSG_MORE)
    try:
        if reachable(core, left) < _size(left):
            socket.refuse_to_send(address)  # whether it can send at all comes first
            raise Refused(errno.EFAULT)
        data = gather(core, left)
        if not whole and not socket.keeps_boundaries:
            data = data[: request.most_bytes]
        request.done_bytes += socket.send(data, address, more=more)
        if not whole or request.done_bytes >= _size(blocks) or socket.kind == SOCK_DGRAM:
            if whole and request.done_bytes < _size(blocks):
                request.fail()
            return
        raise Refused(errno.EAGAIN)
    except Refused as refused:
        if refused.errno == errno.EAGAIN and not request.nowait:
            raise
        request.fail()
        if not request.done_bytes:
            request.cqe_flags = core.groups.consume(request, 0)
            raise


# --- receiving --------------------------------------------------------------------------------


def prepare_recv(core: Core, request: Request) -> Issue:
    """RECV and RECVMSG: what is there; with MSG_WAITALL all; multishot until the end."""
    sqe = request.sqe
    request.gated = core.gate is not None and sqe.opcode == Op.RECV
    known = RECVSEND_POLL_FIRST | RECV_MULTISHOT | RECVSEND_BUNDLE
    if sqe.off or sqe.ioprio & ~(known | (RECV_POLL_BPF if request.gated else 0)):
        raise Refused(errno.EINVAL)
    request.gated &= bool(sqe.ioprio & RECV_POLL_BPF)
    selecting = bool(sqe.flags & SQE_BUFFER_SELECT)
    multishot = bool(sqe.ioprio & RECV_MULTISHOT)
    messages = sqe.opcode == Op.RECVMSG
    if multishot and (not selecting or sqe.op_flags & MSG_WAITALL):
        raise Refused(errno.EINVAL)
    if sqe.file_index and (messages or not multishot):
        raise Refused(errno.EINVAL)
    if sqe.ioprio & RECVSEND_BUNDLE and messages:
        raise Refused(errno.EINVAL)
    header: Header | None = None
    if messages:
        header = read_header(core, sqe.addr, sending=False, selecting=selecting)
        if multishot and header.control_bytes > _INT_MAX:
            raise Refused(errno.EOVERFLOW)
        blocks = header.blocks
    else:
        blocks = [(sqe.addr, min(sqe.len, MAX_RW_COUNT))]
        if not selecting:
            check_half(blocks)
    request.multishot = multishot
    whole = bool(sqe.op_flags & MSG_WAITALL)
    request.size_bytes = 0 if selecting or whole else _size(blocks)
    wait_as_asked(request, POLLIN)
    return _Receiver(core, request, header, blocks).issue


class _Receiver:
    """A RECV or RECVMSG at work."""

    def __init__(self, core: Core, request: Request, header: Header | None, blocks: Blocks) -> None:
        sqe = request.sqe
        self._core = core
        self._request = request
        self._header = header
        self._blocks = blocks
        self._flags = sqe.op_flags
        self._selecting = bool(sqe.flags & SQE_BUFFER_SELECT)
        self._bundle = bool(sqe.ioprio & RECVSEND_BUNDLE) and self._selecting
        # With room for control data mainline asks once.
        with_control = header is not None and header.control_bytes
        self._whole = bool(sqe.op_flags & MSG_WAITALL) and not with_control
        self._asked = blocks[0][1] if blocks else 0  # of a selected buffer, 0: all of it
        self._wanted = self._asked  # the same, of the next one
        self._left = sqe.file_index  # bytes until a multishot RECV ends by itself; 0: it does not
        self._emptied = False  # a bundle took the last buffer there was, if only to wait
        self._partial = False  # a bundle left a buffer that is too large, if only to wait
        self._capped = False  # a bundle filled all that one round is to have
        self._got: Received | None = None  # a part of what must be complete
        self._waiting = -1  # bytes that wait in the socket, as the last receive said

    def issue(self) -> int:
        """One try. A multishot request goes on until there is nothing more."""
        request = self._request
        socket = socket_of(self._core, request)
        look_first(request)
        try:
            if request.multishot:
                return self._again_and_again(socket)
            return self._once(socket)
        except Refused as refused:
            again = refused.errno == errno.EAGAIN
            if again and socket.ends_when_blocking and socket.shut_in and not request.nowait:
                return 0
            if request.done_bytes and (not again or request.nowait):
                request.fail()
                if self._header is not None and self._got is not None:
                    self._tell(self._header, self._got)
                request.cqe_flags = self._core.groups.consume(request, request.done_bytes)
                return request.done_bytes
            raise

    # --- once -----------------------------------------------------------------------------------

    def _once(self, socket: Socket) -> int:
        request, groups = self._request, self._core.groups
        if self._bundle:
            done, _ = self._bundled(socket)
            return done
        while True:
            if self._selecting and request.buffer is None:
                groups.select(request, self._wanted)
            blocks = self._blocks if request.buffer is None else request.buffer.blocks
            size = _size(blocks)
            got = self._take(socket, _behind(blocks, request.done_bytes))
            request.done_bytes += got.size
            short = self._whole and request.done_bytes < size
            if not short or not got.size or socket.kind == SOCK_DGRAM:
                break
            if request.nowait:
                request.fail()
                used = groups.consume(request, request.done_bytes)
                if self._header is not None:
                    self._tell(self._header, got)
                request.cqe_flags = used & ~CQE_F_BUF_MORE
                return request.done_bytes
            groups.hold(request)
            self._got = got
        if short or (self._flags & MSG_WAITALL and got.flags & MSG_TRUNC):
            request.fail()
        if not request.done_bytes:
            groups.put_back(request)
        if self._header is not None:
            self._tell(self._header, got)
        in_worker = request is self._core.working
        used = groups.read_into(request, request.done_bytes, in_worker=in_worker)
        request.cqe_flags = used | _nonempty(got)
        return request.done_bytes

    def _take(self, socket: Socket, blocks: Blocks) -> Received:
        """Receive into blocks. What was selected is put back when nothing can be received."""
        core, request = self._core, self._request
        if not socket.keeps_boundaries:
            blocks = _first(blocks, request.most_bytes)
        size = _size(blocks)
        try:
            near = reachable(core, blocks)
            # Noticed when there is something to copy there.
            if near < size and len(socket.receive(size, MSG_PEEK).data) > near:
                if socket.keeps_boundaries and not self._flags & MSG_PEEK:
                    socket.receive(size)  # the message is lost
                raise Refused(errno.EFAULT)
            got = socket.receive(size, self._flags)
        except Refused:
            if not request.done_bytes:
                self._remember_length()
                core.groups.put_back(request)
            raise
        if got.data:
            scatter(core, blocks, got.data)
        return got

    def _remember_length(self) -> None:
        """A RECV that selected one buffer and waits: whichever it selects then, it takes no more
        than that one was long."""
        chosen = self._request.buffer
        if self._header is None and chosen is not None and len(chosen.buffers) == 1:
            self._wanted = chosen.buffers[0][2]

    def _tell(self, header: Header, got: Received) -> None:
        """Fill in the msghdr: the sender, its length, flags, no control data."""
        memory = self._core.memory
        try:
            if header.name:
                (room,) = (s32(int.from_bytes(memory.user_read(header.at + 8, 4), "little")),)
                if room < 0:
                    raise Refused(errno.EINVAL)
                memory.user_write(header.name, got.address[:room])
                memory.user_write(header.at + 8, len(got.address).to_bytes(4, "little"))
            flags = got.flags | self._flags & MSG_CMSG_CLOEXEC
            memory.user_write(header.at + 48, flags.to_bytes(4, "little"))
            memory.user_write(header.at + 40, bytes(8))
        except UserFault:
            raise Refused(errno.EFAULT) from None

    # --- again and again ------------------------------------------------------------------------

    def _again_and_again(self, socket: Socket) -> int:
        core, request = self._core, self._request
        loops = 0
        while True:
            if self._header is not None:
                done, ended, waiting = self._message(socket, self._header)
            else:
                if self._bundle:
                    done, ended = self._bundled(socket)
                else:
                    got = self._take(socket, [core.groups.select(request, self._wanted)])
                    done, ended = got.size, got.size == 0
                    if ended:
                        core.groups.put_back(request)
                    request.cqe_flags = core.groups.consume(request, done) | _nonempty(got)
                    self._waiting = _count(got)
                waiting = self._waiting
                if self._left:
                    self._left = max(self._left - done, 0)
                    ended |= not self._left
            if ended:
                return done
            core.post(request, done, request.cqe_flags)
            request.cqe_flags = request.done_bytes = 0
            self._partial = False
            # A length is for the first message only.
            self._wanted = self._asked if self._header is None else 0
            loops += 1
            pause = self._capped or loops > _LOOPS
            if waiting:  # else what caps this round caps the next one, too, as on 6.18
                self._capped = False
            if pause or waiting == 0:  # no buffer is asked for before there is data
                # What waits already is not looked at anew: an end that is there wakes nobody.
                request.looks_first = pause or not request.was_polled
                raise Refused(errno.EAGAIN)

    def _message(self, socket: Socket, header: Header) -> tuple[int, bool, int]:
        """One message into a buffer, behind a struct io_uring_recvmsg_out, the sender and room
        for control data: (result, whether it was the last, bytes that wait)."""
        core, request = self._core, self._request
        addr, size = core.groups.select(request, self._wanted)
        head = RECVMSG_OUT.size + header.name_bytes + header.control_bytes
        if size < head:
            core.groups.put_back(request)
            raise Refused(errno.EFAULT)
        got = self._take(socket, [(addr + head, size - head)])
        flags = got.flags | self._flags & MSG_CMSG_CLOEXEC
        name = got.address[: header.name_bytes]
        told = len(got.address) if header.name_bytes else 0
        out = RECVMSG_OUT.pack(told, 0, got.size, flags)
        try:
            core.memory.user_write(addr, out + name)
        except UserFault:
            core.groups.put_back(request)
            raise Refused(errno.EFAULT) from None
        used = head + min(got.size, size - head)
        request.cqe_flags = core.groups.consume(request, used) | _nonempty(got)
        return used, got.size == 0, _count(got)

    # --- bundles --------------------------------------------------------------------------------

    def _bundled(self, socket: Socket) -> tuple[int, bool]:
        """Into as many buffers as are known to be needed; once more if that was too little.

        (bytes, whether it is over). How much waits is known after the first receive only, so
        without a length that one gets one buffer.
        """
        core, request = self._core, self._request
        wanted = self._wanted
        done = flags = 0
        retried = False
        while True:
            limit = wanted or (self._waiting if self._waiting > 1 else 0)
            if self._left:
                limit = min(limit or self._left, self._left)
            try:
                chosen = core.groups.select_many(request, limit, _BUNDLE if limit else 1)
            except Refused:
                if not retried:
                    raise
                request.fail()
                request.cqe_flags = flags
                return done, True
            self._emptied |= chosen.emptied
            self._partial |= chosen.partial
            blocks = chosen.blocks
            got = self._take(socket, blocks)
            self._waiting = _count(got)
            if not got.size:
                core.groups.put_back(request)
                request.cqe_flags = flags | _nonempty(got)
                return done, True
            done += got.size
            now = core.groups.consume(request, got.size) | _nonempty(got)
            if retried:
                now = flags | now & _RETRY_FLAGS
            request.cqe_flags = now
            if self._emptied:
                return done, True
            self._capped |= request.multishot and 0 < self._asked <= done
            full = len(got.data) == _size(blocks)  # what MSG_TRUNC throws away fills nothing
            last = 0 < self._left <= done
            if retried or last or self._partial or self._capped or self._waiting <= 1 or not full:
                return done, False
            flags, retried, wanted = now & ~_RETRY_FLAGS, True, self._waiting


def wait_as_asked(request: Request, events: int) -> None:
    """Wait for `events`, not at all with MSG_DONTWAIT, before the first try with POLL_FIRST."""
    request.wait_events = events
    request.nowait = bool(request.sqe.op_flags & MSG_DONTWAIT)
    request.looks_first = bool(request.sqe.ioprio & RECVSEND_POLL_FIRST)


def look_first(request: Request) -> None:
    """RECVSEND_POLL_FIRST: wait for the socket before the first try."""
    if request.looks_first:
        raise Refused(errno.EAGAIN)


def _count(got: Received) -> int:
    return -1 if got.waiting is None else got.waiting


def _nonempty(got: Received) -> int:
    return CQE_F_SOCK_NONEMPTY if _count(got) > 0 else 0
