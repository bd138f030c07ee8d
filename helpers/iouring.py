"""Helpers of BPF requests: submit, emit, reap. abi/iouring-bpf-2021, section 2.4.

The second and the third posting name them differently and check lengths or do not; what they do
is one implementation each, the ring of the profile does the rest.
"""

from __future__ import annotations

from errno import EINVAL

from pybpfvm.bits import s32, u32
from pybpfvm.helpers.context import BadArgument, HelperContext, RingPort
from pybpfvm.helpers.probe import zero
from pybpfvm.helpers.proto import ArgType, Helper, RetType

SQE_BYTES = 64
CQE_BYTES = 16


def _ring(ctx: HelperContext, prog_ctx: int) -> RingPort:
    if ctx.ring is None:
        raise BadArgument(1, "the program does not run as a BPF request: it has no ring")
    if prog_ctx != ctx.ctx_addr:
        raise BadArgument(1, f"{prog_ctx:#x} is not the context pointer")
    return ctx.ring


def submit(ctx: HelperContext, prog_ctx: int, sqe: int, length: int, _4: int, _5: int) -> int:
    """What the ring says of the SQE: 1, 0 or -errno; -EINVAL where the length is checked."""
    ring = _ring(ctx, prog_ctx)
    if ctx.helper_length_checked and u32(length) != SQE_BYTES:
        return -EINVAL
    return ring.bpf_submit(ctx.memory.program_read(sqe, SQE_BYTES))


def emit(
    ctx: HelperContext, prog_ctx: int, cq_idx: int, user_data: int, res: int, flags: int
) -> int:
    """0, -EINVAL or -ENOMEM. Arguments are cut to u32, u64, s32 and u32."""
    ring = _ring(ctx, prog_ctx)
    return ring.bpf_emit(u32(cq_idx), user_data, s32(res), u32(flags))


def reap(ctx: HelperContext, prog_ctx: int, cq_idx: int, out: int, length: int, _5: int) -> int:
    """0 and the CQE in `out`; -EINVAL or -ENOENT and zeroes.

    `out` counts as initialised afterwards, whatever the result: a wrong length, where it is
    checked, zeroes as many bytes as it says, so never beyond what the program vouched for.
    """
    ring = _ring(ctx, prog_ctx)
    if ctx.helper_length_checked and u32(length) != CQE_BYTES:
        zero(ctx.memory, out, u32(length))
        return -EINVAL
    ctx.memory.check(out, CQE_BYTES, write=True)
    found = ring.bpf_reap(u32(cq_idx))
    if isinstance(found, int):
        zero(ctx.memory, out, CQE_BYTES)
        return found
    ctx.memory.program_write(out, found)
    return 0


def requeue(ctx: HelperContext, prog_ctx: int, source: int, target: int, most: int, _5: int) -> int:
    """How many requests wait elsewhere from now on, or -EINVAL. Arguments are cut to u32."""
    return _ring(ctx, prog_ctx).bpf_requeue(u32(source), u32(target), u32(most))


def _rows(submit_name: str, emit_name: str, reap_name: str) -> tuple[Helper, ...]:
    ctx = ArgType.PTR_TO_CTX
    anything = ArgType.ANYTHING
    return (
        # Profiles whose programs can never sleep (v1) offer it all the same.
        Helper(
            submit_name,
            (ctx, ArgType.PTR_TO_MEM, ArgType.CONST_SIZE),
            RetType.INTEGER,
            submit,
            "Submit an SQE. iouring-bpf-2021, section 2.4 (a).",
            sleeps=True,
        ),
        Helper(
            emit_name,
            (ctx, anything, anything, anything, anything),
            RetType.INTEGER,
            emit,
            "Post a CQE. iouring-bpf-2021, section 2.4 (b).",
        ),
        Helper(
            reap_name,
            (ctx, anything, ArgType.PTR_TO_UNINIT_MEM, ArgType.CONST_SIZE),
            RetType.INTEGER,
            reap,
            "Take the oldest CQE of a queue. iouring-bpf-2021, section 2.4 (c).",
        ),
    )


ROWS = (
    *_rows("iouring_queue_sqe", "iouring_emit_cqe", "iouring_reap_cqe"),
    *_rows("io_uring_submit", "io_uring_emit_cqe", "io_uring_reap_cqe"),
    Helper(
        "io_uring_requeue",
        (ArgType.PTR_TO_CTX, ArgType.ANYTHING, ArgType.ANYTHING, ArgType.ANYTHING),
        RetType.INTEGER,
        requeue,
        "Let requests that wait on a queue wait elsewhere. docs/abi-x.md.",
    ),
)
