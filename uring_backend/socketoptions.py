"""The socket options that requests may get and set, on either backend.

Others are about the host (devices, marks, filters), add control data to messages, or change how
much a socket holds, which the two backends count differently.
"""

from __future__ import annotations

from typing import Final

from pybpfvm.bits import U32
from pybpfvm.uring_backend.abi import (
    SO_ACCEPTCONN,
    SO_BROADCAST,
    SO_DOMAIN,
    SO_ERROR,
    SO_KEEPALIVE,
    SO_LINGER,
    SO_PROTOCOL,
    SO_REUSEADDR,
    SO_TYPE,
    SOCKET_OP_GETSOCKOPT,
    SOCKET_OP_SETSOCKOPT,
    SOL_SOCKET,
    SOL_TCP,
    TCP_CORK,
    TCP_NODELAY,
    TCP_QUICKACK,
    Op,
    Sqe,
)

_SET: Final = {
    SOL_SOCKET: frozenset({SO_REUSEADDR, SO_KEEPALIVE, SO_BROADCAST, SO_LINGER}),
    SOL_TCP: frozenset({TCP_NODELAY, TCP_CORK, TCP_QUICKACK}),
}
_GOT: Final = _SET[SOL_SOCKET] | {SO_TYPE, SO_ERROR, SO_ACCEPTCONN, SO_PROTOCOL, SO_DOMAIN}


def option_of(sqe: Sqe) -> tuple[int, int]:
    """(level, name) that a URING_CMD names."""
    return sqe.addr & U32, sqe.addr >> 32


def unsupported_option(sqe: Sqe) -> str:
    """The option that a URING_CMD must not get or set, in words; "" if there is none."""
    if sqe.opcode != Op.URING_CMD:
        return ""
    level, name = option_of(sqe)
    command = sqe.off & U32
    if command == SOCKET_OP_GETSOCKOPT and level == SOL_SOCKET and name not in _GOT:
        return f"URING_CMD for socket option {name} of level {level}"
    if command == SOCKET_OP_SETSOCKOPT and name not in _SET.get(level, ()):
        return f"URING_CMD for socket option {name} of level {level}"
    return ""
