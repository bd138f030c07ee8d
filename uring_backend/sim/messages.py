"""MSG_RING: a CQE, or a registered file, for another simulated ring (or this one)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pybpfvm.bits import s32
from pybpfvm.uring_backend.abi import (
    FILE_INDEX_ALLOC,
    MSG_DATA,
    MSG_RING_CQE_SKIP,
    MSG_RING_FLAGS_PASS,
    MSG_SEND_FD,
)
from pybpfvm.uring_backend.sim.descriptors import Node
from pybpfvm.uring_backend.sim.request import Issue, Refused, Request

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Core


class RingNode(Node):
    """A descriptor of a ring."""

    mode = 0o600
    is_ring = True

    def __init__(self, core: Core) -> None:
        self.core = core


def prepare_msg_ring(core: Core, request: Request) -> Issue:
    """MSG_RING to Sqe.fd: the kind in Sqe.addr, user_data in Sqe.off, result in Sqe.len."""
    sqe = request.sqe
    if sqe.buf_index or sqe.personality:
        raise Refused(errno.EINVAL)
    flags = sqe.op_flags
    if flags & ~(MSG_RING_CQE_SKIP | MSG_RING_FLAGS_PASS):
        raise Refused(errno.EINVAL)

    def issue() -> int:
        node = core.file_of(request).node
        if not isinstance(node, RingNode):
            raise Refused(errno.EBADFD)
        if sqe.addr == MSG_DATA:
            return send_data(node.core)
        if sqe.addr == MSG_SEND_FD:
            return send_file(node.core)
        raise Refused(errno.EINVAL)

    def send_data(target: Core) -> int:
        passes = flags & MSG_RING_FLAGS_PASS
        if sqe.addr3 or flags & MSG_RING_CQE_SKIP or (sqe.file_index and not passes):
            raise Refused(errno.EINVAL)
        target.deliver(sqe.off, s32(sqe.len), sqe.file_index if passes else 0)
        return 0

    def send_file(target: Core) -> int:
        if sqe.len or target is core:
            raise Refused(errno.EINVAL)
        file = core.slots.get(sqe.addr3)
        if not sqe.file_index:
            raise Refused(errno.EINVAL)
        alloc = sqe.file_index == FILE_INDEX_ALLOC
        slot = target.slots.alloc() if alloc else sqe.file_index - 1
        target.slots.install(slot, file)
        result = slot if alloc else 0
        if not flags & MSG_RING_CQE_SKIP:
            target.deliver(sqe.off, result, 0)
        return result

    return issue
