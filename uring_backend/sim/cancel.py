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
    """Cancel a request if its state allows: 0, -EALREADY (a worker has it) or -ENOENT.

    Requests in chains or behind drains that have not had their turn, linked timeouts and external
    requests can not be found.
    """
    if request.state is State.WORKER or request is core.working:
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
    by_token = flags & ASYNC_CANCEL_USERDATA or not flags & (
        ASYNC_CANCEL_FD | ASYNC_CANCEL_OP | ASYNC_CANCEL_ANY
    )

    def matches(other: Request, file: OpenFile | None) -> bool:
        if flags & ASYNC_CANCEL_ANY:
            return True
        if file is not None and other.file is not file:
            return False
        if flags & ASYNC_CANCEL_OP and other.sqe.opcode != sqe.len:
            return False
        return not by_token or other.token == sqe.addr

    def issue() -> int:
        file: OpenFile | None = None
        if flags & ASYNC_CANCEL_FD:
            fixed = flags & ASYNC_CANCEL_FD_FIXED or sqe.flags & SQE_FIXED_FILE
            file = (core.slots if fixed else core.fds).get(sqe.fd)
        found = [other for other in _candidates(core) if matches(other, file)]
        if flags & (ASYNC_CANCEL_ALL | ASYNC_CANCEL_ANY):  # ANY means all of them, too
            found = [other for other in found if other is not request]
            number = _count(found)
            for other in found:
                cancel_one(core, other)
            return number
        return cancel_one(core, found[0]) if found else -errno.ENOENT

    return issue
