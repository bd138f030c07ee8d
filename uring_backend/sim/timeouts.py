"""TIMEOUT, TIMEOUT_REMOVE and LINK_TIMEOUT: their fields."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pybpfvm.memory import UserFault
from pybpfvm.uring_backend.abi import (
    LINK_TIMEOUT_UPDATE,
    SQE_BUFFER_SELECT,
    SQE_FIXED_FILE,
    TIMEOUT_ABS,
    TIMEOUT_BOOTTIME,
    TIMEOUT_ETIME_SUCCESS,
    TIMEOUT_MULTISHOT,
    TIMEOUT_REALTIME,
    TIMEOUT_UPDATE,
    TIMESPEC,
    Op,
)
from pybpfvm.uring_backend.sim.clock import NS_PER_S
from pybpfvm.uring_backend.sim.request import Issue, Refused, Request

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Core

_CLOCKS = TIMEOUT_BOOTTIME | TIMEOUT_REALTIME


def _duration_ns(core: Core, addr: int) -> int:
    """The timespec at `addr`; Refused EFAULT, EINVAL if negative. Seconds and ns just add up."""
    try:
        seconds, nanoseconds = TIMESPEC.unpack(core.memory.user_read(addr, TIMESPEC.size))
    except UserFault:
        raise Refused(errno.EFAULT) from None
    if seconds < 0 or nanoseconds < 0:
        raise Refused(errno.EINVAL)
    return int(seconds) * NS_PER_S + int(nanoseconds)


def _checked(core: Core, request: Request, allowed: int) -> tuple[int, int]:
    """(flags, duration) of a TIMEOUT or LINK_TIMEOUT."""
    sqe = request.sqe
    flags = sqe.op_flags
    if sqe.buf_index or sqe.len != 1 or sqe.file_index or sqe.addr3 or sqe.pad:
        raise Refused(errno.EINVAL)
    if flags & ~allowed or flags & _CLOCKS == _CLOCKS:
        raise Refused(errno.EINVAL)
    if flags & TIMEOUT_MULTISHOT and flags & TIMEOUT_ABS:
        raise Refused(errno.EINVAL)
    return flags, _duration_ns(core, sqe.addr)


_FLAGS = TIMEOUT_ABS | _CLOCKS | TIMEOUT_ETIME_SUCCESS | TIMEOUT_MULTISHOT


def prepare_timeout(core: Core, request: Request) -> Issue:
    """TIMEOUT: -ETIME when time is up, 0 when Sqe.off completions came first."""
    flags, duration = _checked(core, request, _FLAGS)

    def issue() -> None:
        core.timers.start(request, flags, duration)

    return issue


def prepare_link_timeout(core: Core, request: Request) -> Issue:
    """LINK_TIMEOUT: guards the request before it in the chain."""
    if request.sqe.off:
        raise Refused(errno.EINVAL)
    flags, duration = _checked(core, request, _FLAGS)
    guarded = core.chain_tail()
    if guarded is None or guarded.sqe.opcode == Op.LINK_TIMEOUT:
        raise Refused(errno.EINVAL)
    guarded.link_timeout = request
    core.timers.prepare_linked(request, flags, duration)

    def issue() -> int:
        return -errno.ECANCELED  # its turn never comes: it ends with the request it guards

    return issue


def prepare_timeout_remove(core: Core, request: Request) -> Issue:
    """TIMEOUT_REMOVE: cancel (or restart) the timeout whose token is Sqe.addr."""
    sqe = request.sqe
    flags = sqe.op_flags
    if sqe.flags & (SQE_FIXED_FILE | SQE_BUFFER_SELECT):
        raise Refused(errno.EINVAL)
    if sqe.buf_index or sqe.len or sqe.file_index or sqe.addr3 or sqe.pad:
        raise Refused(errno.EINVAL)
    duration = 0
    if flags & (TIMEOUT_UPDATE | LINK_TIMEOUT_UPDATE):
        if flags & ~(TIMEOUT_UPDATE | LINK_TIMEOUT_UPDATE | TIMEOUT_ABS):
            raise Refused(errno.EINVAL)
        duration = _duration_ns(core, sqe.off)
    elif flags:
        raise Refused(errno.EINVAL)
    timers = core.timers
    update = flags & TIMEOUT_UPDATE  # LINK_TIMEOUT_UPDATE alone removes, as mainline has it
    searched = timers.linked if update and flags & LINK_TIMEOUT_UPDATE else timers.armed

    def issue() -> int:
        target = next((other for other in searched if other.token == sqe.addr), None)
        if target is None:
            return -errno.ENOENT
        if update:
            timers.update(target, flags, duration)
        else:
            timers.remove(target)
        return 0

    return issue
