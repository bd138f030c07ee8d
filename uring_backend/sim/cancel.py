"""Cancelling requests in flight: ASYNC_CANCEL and everything that works like it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pybpfvm.uring_backend.abi import (
    ASYNC_CANCEL_ALL,
    ASYNC_CANCEL_ANY,
    ASYNC_CANCEL_FD,
    ASYNC_CANCEL_FD_FIXED,
    ASYNC_CANCEL_OP,
    ASYNC_CANCEL_USERDATA,
    SQE_BUFFER_SELECT,
    SQE_FIXED_FILE,
    Op,
)
from pybpfvm.uring_backend.sim.clock import NEVER
from pybpfvm.uring_backend.sim.descriptors import OpenFile
from pybpfvm.uring_backend.sim.request import Issue, Refused, Request, State

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Core

_FLAGS = (
    ASYNC_CANCEL_ALL
    | ASYNC_CANCEL_FD
    | ASYNC_CANCEL_ANY
    | ASYNC_CANCEL_FD_FIXED
    | ASYNC_CANCEL_USERDATA
    | ASYNC_CANCEL_OP
)


def cancel_one(core: Core, request: Request) -> int:
    """Cancel a request if its state allows: 0, -EALREADY (a worker is at it) or -ENOENT.

    Requests in chains or behind drains that have not had their turn, linked timeouts and external
    requests can not be found.
    """
    if request.state is State.WORKER or request is core.working:
        if core.takes_back(request):
            return 0
        core.interrupt(request)
        return -errno.EALREADY
    if request.state is State.POLLED:
        core.cancel_later(request)
        return 0
    if request.state is State.PARKED:
        core.cancel_later(request)
        return 1  # mainline counts here
    if request in core.timers.armed:
        core.timers.remove(request)
        return 0
    return -errno.ENOENT


def _candidates(core: Core) -> list[Request]:
    """Where mainline looks, in its order: workers, files waited for, children, futexes, timeouts.

    A cancellation that a worker performs finds itself, unless it is for all there are.
    """
    workers = [request for request in core.live.values() if request.state is State.WORKER]
    if core.working is not None:
        workers.append(core.working)
    parked = sorted(core.parked, key=_is_futex)
    return [*workers, *core.polled, *parked, *core.timers.armed]


def _is_futex(request: Request) -> bool:
    return request.sqe.opcode != Op.WAITID


def _count(found: list[Request]) -> int:
    """How many were found as mainline counts: all children as one, and all futexes."""
    kinds = {_is_futex(other) for other in found if other.state is State.PARKED}
    return sum(other.state is not State.PARKED for other in found) + len(kinds)


def prepare_async_cancel(core: Core, request: Request) -> Issue:
    """ASYNC_CANCEL: by token, descriptor, opcode or any, one (0) or all (their number)."""
    sqe = request.sqe
    flags = sqe.op_flags
    if sqe.flags & SQE_BUFFER_SELECT or sqe.off or sqe.file_index or flags & ~_FLAGS:
        raise Refused(errno.EINVAL)
    if flags & ASYNC_CANCEL_ANY and flags & (ASYNC_CANCEL_FD | ASYNC_CANCEL_OP):
        raise Refused(errno.EINVAL)
    if sqe.flags & SQE_FIXED_FILE:
        flags |= ASYNC_CANCEL_FD_FIXED
    return lambda: cancel_matching(core, flags, sqe.addr, sqe.fd, sqe.len, but=request)


def cancel_matching(
    core: Core, flags: int, token: int, fd: int, opcode: int, *, but: Request | None = None
) -> int:
    """Cancel one request (0), or with ALL or ANY all (their number), other than `but`."""
    file: OpenFile | None = None
    if flags & ASYNC_CANCEL_FD:
        file = (core.slots if flags & ASYNC_CANCEL_FD_FIXED else core.fds).get(fd)
    by_token = flags & ASYNC_CANCEL_USERDATA or not flags & (
        ASYNC_CANCEL_FD | ASYNC_CANCEL_OP | ASYNC_CANCEL_ANY
    )

    def matches(other: Request) -> bool:
        if flags & ASYNC_CANCEL_ANY:
            return True
        if file is not None and other.file is not file:
            return False
        if flags & ASYNC_CANCEL_OP and other.sqe.opcode != opcode:
            return False
        return not by_token or other.token == token

    found = [other for other in _candidates(core) if matches(other)]
    if flags & (ASYNC_CANCEL_ALL | ASYNC_CANCEL_ANY):  # ANY means all of them, too
        found = [other for other in found if other is not but]
        number = _count(found)
        for other in found:
            cancel_one(core, other)
        return number
    return cancel_one(core, found[0]) if found else -errno.ENOENT


def sync_cancel(
    core: Core, flags: int, token: int, fd: int, opcode: int, timeout_ns: int | None
) -> int:
    """IORING_REGISTER_SYNC_CANCEL: like ASYNC_CANCEL, but waits for a worker to finish."""
    if flags & ~_FLAGS:
        return -errno.EINVAL
    end = NEVER if timeout_ns is None else min(core.clock.now_ns + timeout_ns, NEVER)
    result, waited = -errno.ENOENT, False
    while True:
        try:
            result = cancel_matching(core, flags, token, fd, opcode)
        except Refused as refused:
            return -refused.errno
        core.run()
        if result != -errno.EALREADY:
            return 0 if waited and (result == -errno.ENOENT or result > 0) else result
        waited = True
        if core.clock.next_ns() is None or not core.clock.advance(end):
            return -errno.ETIME
        core.run()
