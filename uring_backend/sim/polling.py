"""POLL_ADD and POLL_REMOVE: waiting for a file's readiness, once or again and again."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from pybpfvm.uring_backend.abi import (
    POLL_ADD_MULTI,
    POLL_UPDATE_EVENTS,
    POLL_UPDATE_USER_DATA,
    POLLERR,
    POLLHUP,
    POLLNVAL,
    POLLRDHUP,
    Op,
)
from pybpfvm.uring_backend.sim.request import Issue, Refused, Request, State

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Core

_ALWAYS: Final = POLLERR | POLLHUP | POLLNVAL | POLLRDHUP
_EVENT_BITS: Final = 0xFFFF


def prepare_poll_add(core: Core, request: Request) -> Issue:
    """POLL_ADD: the events that hold, of those in Sqe.op_flags."""
    sqe = request.sqe
    if sqe.buf_index or sqe.off or sqe.addr or sqe.len & ~POLL_ADD_MULTI:
        raise Refused(errno.EINVAL)
    if sqe.len & POLL_ADD_MULTI and request.skip_cqe:
        raise Refused(errno.EINVAL)
    request.multishot = bool(sqe.len & POLL_ADD_MULTI)
    request.wait_events = sqe.op_flags & _EVENT_BITS | _ALWAYS

    def issue() -> int | None:
        events = _ready(core, request)
        node = core.file_of(request).node
        if node.queue is None:
            return events if events else -errno.EINVAL
        if events and not request.multishot:
            return events
        core.arm_poll(request, lambda reported: _woken(core, request, reported))
        if events:
            _woken(core, request, 0)
        return None

    return issue


def _ready(core: Core, request: Request) -> int:
    return core.file_of(request).node.poll() & request.wait_events


def _woken(core: Core, request: Request, reported: int) -> None:
    """The file changed. `reported`: the events the waker names (0: look yourself)."""
    if reported and not reported & request.wait_events:
        return
    if request.woken:
        request.woken_events = 0  # several changes at once: look for oneself
        return
    request.woken = True
    request.woken_events = reported
    core.later(lambda: _report(core, request))


def _report(core: Core, request: Request) -> None:
    if request.state is not State.POLLED:
        return
    request.woken = False
    events = request.woken_events & request.wait_events or _ready(core, request)
    if not events:
        return
    if request.multishot:
        core.post(request, events)
    else:
        core.complete(request, events)


def prepare_poll_remove(core: Core, request: Request) -> Issue:
    """POLL_REMOVE: end, or change, the POLL_ADD whose token is Sqe.addr.

    An update keeps the request as it was: one shot or many (POLL_ADD_MULTI has no effect here).
    """
    sqe = request.sqe
    flags = sqe.len
    if sqe.buf_index or sqe.file_index:
        raise Refused(errno.EINVAL)
    if flags & ~(POLL_UPDATE_EVENTS | POLL_UPDATE_USER_DATA | POLL_ADD_MULTI):
        raise Refused(errno.EINVAL)
    if flags == POLL_ADD_MULTI:
        raise Refused(errno.EINVAL)
    if sqe.off and not flags & POLL_UPDATE_USER_DATA:
        raise Refused(errno.EINVAL)
    if sqe.op_flags and not flags & POLL_UPDATE_EVENTS:
        raise Refused(errno.EINVAL)

    def issue() -> int:
        target = core.live.get(sqe.addr)
        if target is None or target.sqe.opcode != Op.POLL_ADD or target.state is not State.POLLED:
            return -errno.ENOENT
        if not flags & (POLL_UPDATE_EVENTS | POLL_UPDATE_USER_DATA):
            core.cancel_later(target)
            return 0
        if flags & POLL_UPDATE_EVENTS:
            target.wait_events = sqe.op_flags & _EVENT_BITS | _ALWAYS
        if flags & POLL_UPDATE_USER_DATA:
            core.rename(target, sqe.off)
        if _ready(core, target):
            _woken(core, target, 0)
        return 0

    return issue
