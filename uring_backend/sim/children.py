"""Child processes as far as WAITID sees them: numbers that end when the host says so."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from pybpfvm.uring_backend.abi import (
    CLD_EXITED,
    CLD_KILLED,
    P_ALL,
    P_PID,
    SIGCHLD,
    WAITID_OPTIONS,
    WEXITED,
    WNOHANG,
    WNOWAIT,
    WSTATES,
    Sqe,
)
from pybpfvm.uring_backend.sim.request import Issue, Refused, Request

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Core

_FIRST_PID: Final = 1000
_HEAD: Final = struct.Struct("<iii")  # signo, errno, code
_TAIL: Final = struct.Struct("<iIi")  # pid, uid, status
_TAIL_AT: Final = 16


class Children:
    """The children of one world. `status` is None while a child runs, then its exit code, or
    minus the signal that ended it."""

    def __init__(self) -> None:
        self._status: dict[int, int | None] = {}
        self._waiting: dict[Request, Core] = {}
        self._next = _FIRST_PID

    def start(self) -> int:
        """A new child's number."""
        pid, self._next = self._next, self._next + 1
        self._status[pid] = None
        return pid

    def end(self, pid: int, status: int) -> bool:
        """A child ends; False if there is none such that runs."""
        if self._status.get(pid, 0) is not None:
            return False
        self._status[pid] = status
        for request, core in list(self._waiting.items()):
            core.later(lambda core=core, request=request: core.try_parked(request))  # type: ignore[misc]
        return True

    def known(self, which: int, number: int) -> bool:
        """Whether there is anybody to wait for."""
        return number in self._status if which == P_PID else bool(self._status)

    def ended(self, which: int, number: int, *, keep: bool) -> tuple[int, int] | None:
        """(number, status) of a child that has ended, and is forgotten unless `keep`."""
        for pid, status in self._status.items():
            if status is not None and (which == P_ALL or pid == number):
                if not keep:
                    del self._status[pid]
                return pid, status
        return None

    def wait(self, request: Request, core: Core) -> None:
        """Have `request` tried again when a child ends."""
        self._waiting[request] = core

    def forget(self, request: Request) -> None:
        """`request` waits no more."""
        self._waiting.pop(request, None)


def unsupported(sqe: Sqe) -> str:
    """What a WAITID asks for that the simulated world lacks; "" if nothing."""
    return "" if sqe.len in (P_ALL, P_PID) or sqe.len > _P_LAST else "WAITID of groups and pidfds"


_P_LAST: Final = 3


def prepare_waitid(core: Core, request: Request) -> Issue:
    """WAITID: Sqe.fd of kind Sqe.len, options in Sqe.file_index, siginfo to Sqe.off."""
    sqe = request.sqe
    if sqe.addr or sqe.buf_index or sqe.addr3 or sqe.op_flags:
        raise Refused(errno.EINVAL)
    options, which = sqe.file_index, sqe.len
    children = core.world.children

    def issue() -> int | None:
        if options & ~WAITID_OPTIONS or not options & WSTATES or which > _P_LAST:
            raise Refused(errno.EINVAL)
        if which == P_PID and sqe.fd <= 0:
            raise Refused(errno.EINVAL)
        if not children.known(which, sqe.fd):
            raise Refused(errno.ECHILD)
        found = None
        if options & WEXITED:
            found = children.ended(which, sqe.fd, keep=bool(options & WNOWAIT))
        if found is None and not options & WNOHANG:
            children.wait(request, core)
            core.park(request, lambda: children.forget(request))
            return None
        children.forget(request)
        return _tell(core, sqe.off, found)

    return issue


def _tell(core: Core, addr: int, found: tuple[int, int] | None) -> int:
    if not addr:
        return 0
    if not core.memory.is_user(addr, _TAIL_AT + _TAIL.size):
        raise Refused(errno.EFAULT)
    head, tail = _HEAD.pack(0, 0, 0), _TAIL.pack(0, 0, 0)
    if found is not None:
        pid, status = found
        head = _HEAD.pack(SIGCHLD, 0, CLD_EXITED if status >= 0 else CLD_KILLED)
        tail = _TAIL.pack(pid, 0, abs(status))
    core.memory.user_write(addr, head)
    core.memory.user_write(addr + _TAIL_AT, tail)
    return 0
