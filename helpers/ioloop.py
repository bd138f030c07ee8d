"""Kernel functions of programs that drive a ring, perform its requests or gate its polls.

abi/iouring-bpf-upstream, sections 3, 7, 8 and 9.2.
"""

from __future__ import annotations

from errno import EINVAL
from struct import Struct
from typing import Final

from pybpfvm.bits import u32
from pybpfvm.helpers.context import BadArgument, HelperContext, LoopPort
from pybpfvm.helpers.iouring import CQE_BYTES, SQE_BYTES
from pybpfvm.helpers.proto import ArgType, Helper, RetType

_SOCKET_STATE: Final = Struct("<IIII")  # inq, rcvbuf, rmem_alloc, mss
_BUFFER_BYTES: Final = 16


def _loop(ctx: HelperContext) -> LoopPort:
    if ctx.loop is None:
        raise BadArgument(1, "the program is on no ring")
    return ctx.loop


def _ring(ctx: HelperContext, ring: int) -> LoopPort:
    if ctx.loop is None:
        raise BadArgument(1, "the program does not run inside an enter: it has no ring")
    if ring != ctx.loop.handle:
        raise BadArgument(1, f"{ring:#x} is not the ring")
    return ctx.loop


def submit(ctx: HelperContext, ring: int, count: int, _3: int, _4: int, _5: int) -> int:
    """How many SQEs were consumed, or -errno."""
    return _ring(ctx, ring).submit_sqes(u32(count))


def region(ctx: HelperContext, ring: int, region_id: int, size: int, _4: int, _5: int) -> int:
    """The region's address, or NULL."""
    return _ring(ctx, ring).region_addr(u32(region_id), size)


def queue(ctx: HelperContext, ring: int, sqe: int, size: int, _4: int, _5: int) -> int:
    """0, or -EINVAL."""
    return _ring(ctx, ring).queue_sqe(ctx.memory.program_read(sqe, min(u32(size), 2 * SQE_BYTES)))


def post(ctx: HelperContext, ring: int, user_data: int, res: int, flags: int, _5: int) -> int:
    """0, or -ENOMEM."""
    return _ring(ctx, ring).post_cqe(user_data, u32(res), u32(flags))


def cqe(ctx: HelperContext, ring: int, index: int, _3: int, _4: int, _5: int) -> int:
    """The CQE's address."""
    return _ring(ctx, ring).cqe_addr(u32(index))


def next_cqe(ctx: HelperContext, ring: int, _2: int, _3: int, _4: int, _5: int) -> int:
    """The CQE's address, or NULL."""
    return _ring(ctx, ring).next_cqe_addr()


def copy_cqe(ctx: HelperContext, ring: int, out: int, _3: int, _4: int, _5: int) -> int:
    """0, or -EINVAL and zeros."""
    ctx.memory.check(out, CQE_BYTES, write=True)
    addr = _ring(ctx, ring).next_cqe_addr()
    found = ctx.memory.read(addr, CQE_BYTES) if addr else bytes(CQE_BYTES)
    ctx.memory.program_write(out, found)
    return 0 if addr else -EINVAL


def wait_params(ctx: HelperContext, ring: int, count: int, _3: int, _4: int, _5: int) -> int:
    """0."""
    _ring(ctx, ring).wait_for(u32(count))
    return 0


def xor_buffer(ctx: HelperContext, ring: int, index: int, size: int, _4: int, _5: int) -> int:
    """The XOR of the bytes, 0 for any error."""
    return _ring(ctx, ring).xor_buffer(u32(index), size)


def set_result(ctx: HelperContext, data: int, res: int, _3: int, _4: int, _5: int) -> int:
    """0."""
    if not _loop(ctx).set_result(data, u32(res)):
        raise BadArgument(1, f"{data:#x} is no request's data")
    return 0


def memcpy(ctx: HelperContext, data: int, dst: int, src: int, _4: int, _5: int) -> int:
    """How many bytes were copied, or -errno."""
    buffers = (ctx.memory.program_read(at, _BUFFER_BYTES) for at in (dst, src))
    copied = _loop(ctx).copy_buffers(data, *buffers)
    if copied is None:
        raise BadArgument(1, f"{data:#x} is no request's data")
    return copied


def socket_state(ctx: HelperContext, event: int, out: int, size: int, _4: int, _5: int) -> int:
    """0, or -errno; -EINVAL for another size than the numbers have."""
    found = _loop(ctx).socket_state(event)
    if found is None:
        raise BadArgument(1, f"{event:#x} is no event")
    ctx.memory.check(out, u32(size), write=True)
    if isinstance(found, int):
        return found
    if u32(size) != _SOCKET_STATE.size:
        return -EINVAL
    state = _SOCKET_STATE.pack(found.inq, found.rcvbuf, found.rmem_alloc, found.mss)
    ctx.memory.program_write(out, state)
    return 0


def socket_peek(ctx: HelperContext, event: int, out: int, size: int, _4: int, _5: int) -> int:
    """How many bytes there were, or -errno."""
    found = _loop(ctx).socket_peek(event, u32(size))
    if found is None:
        raise BadArgument(1, f"{event:#x} is no event")
    ctx.memory.check(out, u32(size), write=True)
    if isinstance(found, int):
        return found
    ctx.memory.program_write(out, found)
    return len(found)


ROWS = (
    Helper(
        "io_uring_submit_sqes",
        (ArgType.PTR_TO_BTF_ID, ArgType.ANYTHING),
        RetType.INTEGER,
        submit,
        "Submit entries of the SQ. iouring-bpf-upstream, section 3.1.",
        sleeps=True,
    ),
    Helper(
        "io_uring_get_region",
        (ArgType.PTR_TO_BTF_ID, ArgType.ANYTHING, ArgType.ANYTHING),
        RetType.PTR_TO_MEM_OR_BTF_ID_OR_NULL,
        region,
        "Memory of the ring. iouring-bpf-upstream, section 3.2.",
    ),
    Helper(
        "io_uring_queue_sqe",
        (ArgType.PTR_TO_BTF_ID, ArgType.PTR_TO_MEM, ArgType.CONST_SIZE),
        RetType.INTEGER,
        queue,
        "Put an entry into the SQ. iouring-bpf-upstream, section 7.",
    ),
    Helper(
        "io_uring_post_cqe",
        (ArgType.PTR_TO_BTF_ID, *[ArgType.ANYTHING] * 3),
        RetType.INTEGER,
        post,
        "Post a CQE of one's own. iouring-bpf-upstream, section 7.",
    ),
    Helper(
        "io_uring_get_cqe",
        (ArgType.PTR_TO_BTF_ID, ArgType.ANYTHING),
        RetType.PTR_TO_BTF_ID,
        cqe,
        "The CQE of an index. iouring-bpf-upstream, section 7.",
    ),
    Helper(
        "io_uring_extract_next_cqe",
        (ArgType.PTR_TO_BTF_ID,),
        RetType.PTR_TO_BTF_ID_OR_NULL,
        next_cqe,
        "Take the oldest CQE. iouring-bpf-upstream, section 7.",
    ),
    Helper(
        "io_uring_copy_cqe",
        (ArgType.PTR_TO_CTX, ArgType.PTR_TO_BTF_ID),
        RetType.INTEGER,
        copy_cqe,
        "Copy the oldest CQE and take it. iouring-bpf-upstream, section 7.",
    ),
    Helper(
        "io_uring_get_cqe2",
        (ArgType.PTR_TO_CTX,),
        RetType.PTR_TO_BTF_ID_OR_NULL,
        next_cqe,
        "Take the oldest CQE. iouring-bpf-upstream, section 7.",
    ),
    Helper(
        "io_uring_set_wait_params",
        (ArgType.PTR_TO_CTX, ArgType.ANYTHING),
        RetType.INTEGER,
        wait_params,
        "How many CQEs to wait for. iouring-bpf-upstream, section 7.",
    ),
    Helper(
        "io_uring_sock_state",
        (ArgType.PTR_TO_BTF_ID, ArgType.PTR_TO_UNINIT_MEM, ArgType.CONST_SIZE),
        RetType.INTEGER,
        socket_state,
        "What a socket holds. iouring-bpf-upstream, section 9.2.",
    ),
    Helper(
        "io_uring_sock_peek",
        (ArgType.PTR_TO_BTF_ID, ArgType.PTR_TO_UNINIT_MEM, ArgType.CONST_SIZE),
        RetType.INTEGER,
        socket_peek,
        "Look at what a socket holds. iouring-bpf-upstream, section 9.2.",
    ),
    Helper(
        "io_uring_xor_regbuf",
        (ArgType.PTR_TO_BTF_ID, ArgType.ANYTHING, ArgType.ANYTHING),
        RetType.INTEGER,
        xor_buffer,
        "The XOR of a registered buffer's bytes. iouring-bpf-upstream, section 9.2.",
        sleeps=True,
    ),
    Helper(
        "uring_bpf_set_result",
        (ArgType.PTR_TO_BTF_ID, ArgType.ANYTHING),
        RetType.VOID,
        set_result,
        "What the request's CQE will say. iouring-bpf-upstream, section 8.1.",
    ),
    Helper(
        "uring_bpf_memcpy",
        (ArgType.PTR_TO_BTF_ID, ArgType.PTR_TO_BTF_ID, ArgType.PTR_TO_BTF_ID),
        RetType.INTEGER,
        memcpy,
        "Copy between buffers of user memory. iouring-bpf-upstream, section 8.3.",
    ),
)
