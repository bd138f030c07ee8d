"""URING_CMD on sockets: what is unread and unsent, and socket options.

The option's level and name are in the two halves of Sqe.addr, its length in Sqe.file_index and
the address of its value in Sqe.addr3.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from pybpfvm.bits import U32, s32
from pybpfvm.memory import UserFault
from pybpfvm.uring_backend.abi import (
    SOCKET_OP_GETSOCKOPT,
    SOCKET_OP_SETSOCKOPT,
    SOCKET_OP_SIOCINQ,
    SOCKET_OP_SIOCOUTQ,
    SOL_SOCKET,
    SQE_BUFFER_SELECT,
)
from pybpfvm.uring_backend.sim.request import Issue, Refused, Request
from pybpfvm.uring_backend.sim.sockets import Socket
from pybpfvm.uring_backend.socketoptions import option_of

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Core


_INT_BYTES: Final = 4


def prepare_uring_cmd(core: Core, request: Request) -> Issue:
    """URING_CMD: a SOCKET_URING_OP_* on a socket; no other file takes commands."""
    sqe = request.sqe
    if sqe.off >> 32 or sqe.op_flags or sqe.flags & SQE_BUFFER_SELECT:
        raise Refused(errno.EINVAL)
    level, name = option_of(sqe)
    size = s32(sqe.file_index)

    def issue() -> int:
        socket = core.file_of(request).node
        if core.polls or not isinstance(socket, Socket):
            raise Refused(errno.EOPNOTSUPP)
        try:
            match sqe.off & U32:
                case command if command == SOCKET_OP_SIOCINQ:
                    return socket.unread()
                case command if command == SOCKET_OP_SIOCOUTQ:
                    return socket.unsent()
                case command if command == SOCKET_OP_GETSOCKOPT:
                    if level != SOL_SOCKET:
                        raise Refused(errno.EOPNOTSUPP)
                    if size < 0:
                        raise Refused(errno.EINVAL)
                    value = socket.get_option(name)[:size]
                    core.memory.user_write(sqe.addr3, value)
                    return len(value)
                case command if command == SOCKET_OP_SETSOCKOPT:
                    if size < 0:
                        raise Refused(errno.EINVAL)
                    if level == SOL_SOCKET and size < _INT_BYTES:
                        raise Refused(errno.EINVAL)  # before it is read
                    socket.set_option(level, name, core.memory.user_read(sqe.addr3, min(size, 16)))
                    return 0
        except UserFault:
            raise Refused(errno.EFAULT) from None
        raise Refused(errno.EOPNOTSUPP)

    return issue
