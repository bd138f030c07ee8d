"""READ, WRITE and their vectored, fixed-buffer and multishot forms, and NOP."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pybpfvm.bits import s32, s64
from pybpfvm.memory import UserFault
from pybpfvm.uring_backend.abi import (
    CQE_F_32,
    CURRENT_POSITION,
    IOV_MAX,
    IOVEC,
    MAX_OFFSET,
    MAX_RW_COUNT,
    NOP_CQE32,
    NOP_FILE,
    NOP_FIXED_BUFFER,
    NOP_FIXED_FILE,
    NOP_INJECT_RESULT,
    NOP_TW,
    O_DIRECT,
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLOUT,
    RWF_APPEND,
    RWF_DSYNC,
    RWF_HIPRI,
    RWF_NOAPPEND,
    RWF_NOWAIT,
    RWF_SYNC,
    SETUP_CQE32,
    SETUP_CQE_MIXED,
    SQE_BUFFER_SELECT,
    Op,
)
from pybpfvm.uring_backend.sim.descriptors import is_socket
from pybpfvm.uring_backend.sim.request import Issue, Refused, Request
from pybpfvm.uring_backend.sim.vfs import Directory, RegularFile

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Core

Blocks = Sequence[tuple[int, int]]
"""(address, length) of the pieces of user memory that a transfer fills or empties, in order."""

_RWF: Final = RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND | RWF_NOAPPEND
_NOP_FLAGS: Final = NOP_INJECT_RESULT | NOP_FILE | NOP_FIXED_FILE | NOP_FIXED_BUFFER | NOP_TW
_WRITES: Final = frozenset({Op.WRITE, Op.WRITEV, Op.WRITE_FIXED, Op.WRITEV_FIXED})
_VECTORS: Final = frozenset({Op.READV, Op.WRITEV, Op.READV_FIXED, Op.WRITEV_FIXED})
_FIXED: Final = frozenset({Op.READ_FIXED, Op.WRITE_FIXED, Op.READV_FIXED, Op.WRITEV_FIXED})
_PRIORITY_CLASSES: Final = 4  # ioprio: class in the upper three bits; 0 none .. 3 idle
_PRIORITY_LEVEL: Final = 7  # its lower three bits; no class has none


def prepare_nop(core: Core, request: Request) -> Issue:
    """NOP: 0, or the result that Sqe.len injects. NOP_CQE32: Sqe.off and addr are the second half
    of its CQE."""
    sqe = request.sqe
    halves = core.setup_flags & (SETUP_CQE32 | SETUP_CQE_MIXED)
    known = _NOP_FLAGS | NOP_CQE32 if halves else _NOP_FLAGS
    if sqe.op_flags & ~known:
        raise Refused(errno.EINVAL)

    def issue() -> int | None:
        if sqe.op_flags & NOP_CQE32:
            request.extra = sqe.off, sqe.addr
            if halves & SETUP_CQE_MIXED:
                request.cqe_flags |= CQE_F_32
        if sqe.op_flags & NOP_FILE:
            fixed = sqe.op_flags & NOP_FIXED_FILE
            if fixed:
                request.use(core.slots.find(sqe.fd))
            else:
                core.fds.get(sqe.fd)
        if sqe.op_flags & NOP_FIXED_BUFFER:
            request.use(core.buffers.at(sqe.buf_index))
        result = s32(sqe.len) if sqe.op_flags & NOP_INJECT_RESULT else 0
        if sqe.op_flags & NOP_TW:
            core.later(lambda: core.complete(request, result))
            return None
        return result

    return issue


def read_iovec(core: Core, addr: int, count: int) -> Blocks:
    """The iovec array at `addr`, cut to what one transfer may move. Refused EINVAL, EFAULT."""
    if count > IOV_MAX:
        raise Refused(errno.EINVAL)
    try:
        raw = core.memory.user_read(addr, count * IOVEC.size)
    except UserFault:
        raise Refused(errno.EFAULT) from None
    blocks: list[tuple[int, int]] = []
    room = MAX_RW_COUNT
    for base, length in IOVEC.iter_unpack(raw):
        if s64(length) < 0:
            raise Refused(errno.EINVAL)
        blocks.append((base, min(length, room)))
        room -= min(length, room)
    return blocks


def check_half(blocks: Blocks) -> None:
    """Refused(EFAULT) for addresses in the kernel's half: seen before anything is tried."""
    if any(addr >> 63 for addr, _ in blocks):
        raise Refused(errno.EFAULT)


def reachable(core: Core, blocks: Blocks) -> int:
    """How many bytes come before the first block that is not user memory."""
    size = 0
    for addr, length in blocks:
        if not core.memory.is_user(addr, length):
            break
        size += length
    return size


def scatter(core: Core, blocks: Blocks, data: bytes) -> None:
    """Put data into user memory, block after block."""
    done = 0
    for addr, size in blocks:
        core.memory.user_write(addr, data[done : done + size])
        done += size
        if done >= len(data):
            break


def gather(core: Core, blocks: Blocks) -> bytes:
    """The bytes of all blocks up to the first that is not user memory."""
    data = bytearray()
    for addr, size in blocks:
        if not core.memory.is_user(addr, size):
            break
        data += core.memory.user_read(addr, size)
    return bytes(data)


def prepare_read_write(core: Core, request: Request) -> Issue:
    """READ, WRITE, each also as V, _FIXED and V_FIXED."""
    sqe = request.sqe
    op = Op(sqe.opcode)
    writing = op in _WRITES
    selecting = bool(sqe.flags & SQE_BUFFER_SELECT)
    priority = sqe.ioprio >> 13
    levelled = not priority and sqe.ioprio & _PRIORITY_LEVEL
    if priority >= _PRIORITY_CLASSES or levelled or sqe.pad:
        raise Refused(errno.EINVAL)
    vector: Blocks | None = None
    if op in _VECTORS:
        if selecting and sqe.len != 1:
            raise Refused(errno.EINVAL)
        vector = read_iovec(core, sqe.addr, sqe.len)
    if not selecting and op not in _FIXED:
        check_half(vector if vector is not None else [(sqe.addr, sqe.len)])
    request.size_bytes = sqe.len if vector is None else sum(size for _, size in vector)
    request.wait_events = POLLOUT if writing else POLLIN
    request.nowait = bool(sqe.op_flags & RWF_NOWAIT)

    wanted = sqe.len if vector is None else request.size_bytes  # of a selected buffer, 0: all

    def blocks() -> Blocks:
        nonlocal wanted
        if selecting and request.buffer is not None:  # it has waited with it
            return request.buffer.blocks
        if selecting:
            block = core.groups.select(request, wanted)
            if not request.multishot:  # after a wait it takes no more, whichever it selects then
                wanted = block[1]
            return [block]
        if vector is not None:
            return vector
        return [(sqe.addr, min(sqe.len, MAX_RW_COUNT))]

    def issue() -> int:
        file = core.file_of(request)
        if op in _FIXED:
            request.use(core.buffers.at(sqe.buf_index))
            for addr, length in [(sqe.addr, sqe.len)] if vector is None else vector:
                if vector is not None and not length:
                    raise Refused(errno.EFAULT)
                request.use(core.buffers.find(sqe.buf_index, addr, length))
        chosen = blocks()
        if not (file.writable if writing else file.readable):
            raise Refused(errno.EBADF)
        if sqe.op_flags & ~_RWF or (sqe.op_flags & RWF_HIPRI and not core.polls):
            raise Refused(errno.EOPNOTSUPP if sqe.op_flags & ~_RWF else errno.EINVAL)
        if request.nowait and isinstance(file.node, Directory):
            raise Refused(errno.EOPNOTSUPP)
        if sqe.op_flags & RWF_APPEND and sqe.op_flags & RWF_NOAPPEND:
            raise Refused(errno.EINVAL)
        return transfer(chosen)

    def transfer(chosen: Blocks) -> int:
        size = sum(length for _, length in chosen)
        near = min(reachable(core, chosen), request.most_bytes)
        file = core.file_of(request)
        node = file.node
        if core.polls and not (file.flags & O_DIRECT and isinstance(node, RegularFile)):
            raise Refused(errno.EOPNOTSUPP)
        offset = 0
        at = 0 if sqe.off == CURRENT_POSITION else s64(sqe.off)
        if not node.seekable and (at < 0 or at + size > MAX_OFFSET):
            raise Refused(errno.EINVAL)
        if at and is_socket(node):
            raise Refused(errno.ESPIPE)
        if node.seekable:
            offset = file.offset if sqe.off == CURRENT_POSITION else s64(sqe.off)
            if offset < 0 or offset + size > MAX_OFFSET:
                raise Refused(errno.EINVAL)
            append = file.append and not sqe.op_flags & RWF_NOAPPEND
            if writing and size and (append or sqe.op_flags & RWF_APPEND):
                offset = node.size()
        if isinstance(node, Directory):
            start = 0 if sqe.off == CURRENT_POSITION else s64(sqe.off)
            if start < 0 or start + size > MAX_OFFSET:
                raise Refused(errno.EINVAL)
            if not size:
                return 0  # it is found out only when there is something to read
        if size and not near:  # nothing can be moved; a read at the end has nothing to move
            if writing or node.peek(offset):
                raise Refused(errno.EFAULT)
            done = 0
        elif writing:
            done = node.write(gather(core, chosen)[:near], offset)
        else:
            data = node.read(near, offset)
            scatter(core, chosen, data)
            done = len(data)
        if node.seekable and sqe.off == CURRENT_POSITION:
            file.offset = offset + done
        if done != size:
            request.fail()  # a short transfer breaks a soft link
        in_worker = request is core.working
        request.cqe_flags = core.groups.read_into(request, done, in_worker=in_worker)
        return done

    return issue


def prepare_read_multishot(core: Core, request: Request) -> Issue:
    """READ_MULTISHOT: a CQE for each piece that a file has, into buffers of the group."""
    sqe = request.sqe
    if not sqe.flags & SQE_BUFFER_SELECT:
        raise Refused(errno.EINVAL)
    once = prepare_read_write(core, request)
    if sqe.addr or sqe.len:
        raise Refused(errno.EINVAL)
    request.multishot = True

    def issue() -> int | None:
        if core.file_of(request).node.queue is None:
            raise Refused(errno.EBADFD)
        while True:
            try:
                result = once()
            except Refused:
                core.groups.put_back(request)
                raise
            assert result is not None
            request.failed = False  # a piece is never short
            if not result:
                return 0
            core.post(request, result, request.cqe_flags)
            request.cqe_flags = 0
            if not core.file_of(request).node.poll() & (POLLIN | POLLERR | POLLHUP):
                raise Refused(errno.EAGAIN)  # no buffer is looked for before there is data

    return issue
