"""SEND_ZC and SENDMSG_ZC: sends with two CQEs, the second when the memory is free again.

On loopback the kernel copies after all, and says so when it is asked (REPORT_USAGE).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from pybpfvm.uring_backend.abi import (
    MSG_WAITALL,
    NOTIF_USAGE_ZC_COPIED,
    POLLOUT,
    RECVSEND_FIXED_BUF,
    RECVSEND_POLL_FIRST,
    SEND_VECTORIZED,
    SEND_ZC_REPORT_USAGE,
    Op,
)
from pybpfvm.uring_backend.sim.request import Issue, Refused, Request
from pybpfvm.uring_backend.sim.transfers import (
    look_first,
    outgoing,
    send_blocks,
    socket_of,
    wait_as_asked,
)

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Core

_FLAGS: Final = RECVSEND_POLL_FIRST | RECVSEND_FIXED_BUF | SEND_ZC_REPORT_USAGE | SEND_VECTORIZED
_NO_RESULT: Final = 0
_COPIED: Final = NOTIF_USAGE_ZC_COPIED - (1 << 32)  # as the signed result of a CQE


def prepare_send_zc(core: Core, request: Request) -> Issue:
    """SEND_ZC and SENDMSG_ZC. Once the notification is there, even a refused SQE has both CQEs."""
    sqe = request.sqe
    if sqe.pad or sqe.addr3 or request.skip_cqe:
        raise Refused(errno.EINVAL)
    request.notification = _COPIED if sqe.ioprio & SEND_ZC_REPORT_USAGE else _NO_RESULT
    if sqe.ioprio & ~_FLAGS:
        request.notification = _NO_RESULT
        raise Refused(errno.EINVAL)
    fixed = bool(sqe.ioprio & RECVSEND_FIXED_BUF)
    vectorized = sqe.opcode == Op.SENDMSG_ZC or bool(sqe.ioprio & SEND_VECTORIZED)
    message = outgoing(core, sqe, fixed=fixed and not vectorized)
    wait_as_asked(request, POLLOUT)
    whole = bool(sqe.op_flags & MSG_WAITALL)
    request.size_bytes = 0 if whole else sum(size for _, size in message.blocks)

    def issue() -> int:
        socket = socket_of(core, request)
        if not socket.zero_copy:
            raise Refused(errno.EOPNOTSUPP)
        look_first(request)
        if fixed:
            for addr, size in message.blocks:
                request.use(core.buffers.find(sqe.buf_index, addr, size))
        send_blocks(core, request, socket, message.address, message.blocks, whole=whole)
        return request.done_bytes

    return issue
