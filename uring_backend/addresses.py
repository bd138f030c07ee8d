"""Which sockets and addresses requests may use, on either backend.

AF_INET over loopback, TCP and UDP; AF_UNIX of all kinds, unnamed or with abstract names. Path
names, autobinding and other families are unsupported by name.
"""

from __future__ import annotations

from typing import Final

from pybpfvm.bits import U32
from pybpfvm.memory import AddressSpace, UserFault
from pybpfvm.uring_backend.abi import (
    AF_INET,
    AF_UNIX,
    MSGHDR,
    SOCK_DGRAM,
    SOCK_SEQPACKET,
    SOCK_STREAM,
    SOL_TCP,
    SOL_UDP,
    Op,
    Sqe,
)

SOCKADDR_MAX: Final = 128
_SOCK_TYPE: Final = 0xF
_INET: Final = {SOCK_STREAM: (0, SOL_TCP), SOCK_DGRAM: (0, SOL_UDP)}
_UNIX: Final = frozenset({SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET})


def socket_refusal(domain: int, kind: int, protocol: int) -> str:
    """In words what a socket(2) asks for that neither backend has; "" if nothing."""
    if domain == AF_INET and protocol in _INET.get(kind, ()):
        return ""
    if domain == AF_UNIX and kind in _UNIX and protocol in (0, AF_UNIX):
        return ""
    return f"domain {domain}, type {kind}, protocol {protocol}"


def unsupported_socket(sqe: Sqe, memory: AddressSpace) -> str:
    """What an SQE names that neither backend has: a family of sockets, or a kind of address."""
    if sqe.opcode == Op.SOCKET:
        refusal = socket_refusal(sqe.fd, sqe.off & _SOCK_TYPE, sqe.len)
        return f"SOCKET with {refusal}" if refusal else ""
    try:
        address = _address(sqe, memory)
    except UserFault:
        return ""  # -EFAULT
    if int.from_bytes(address[:2], "little") != AF_UNIX:
        return ""
    if sqe.opcode == Op.BIND and len(address) == 2:
        return "BIND of an AF_UNIX socket without a name"
    if len(address) > 2 and address[2]:
        return f"{Op(sqe.opcode).name} with an AF_UNIX path (use an abstract name)"
    return ""


def _address(sqe: Sqe, memory: AddressSpace) -> bytes:
    if sqe.opcode in (Op.BIND, Op.CONNECT):
        at, size = sqe.addr, sqe.off & U32
    elif sqe.opcode in (Op.SEND, Op.SEND_ZC):
        at, size = sqe.off, sqe.file_index & 0xFFFF
    elif sqe.opcode in (Op.SENDMSG, Op.SENDMSG_ZC):
        at, size, *_ = MSGHDR.unpack(memory.user_read(sqe.addr, MSGHDR.size))
    else:
        return b""
    return memory.user_read(at, size) if at and size <= SOCKADDR_MAX else b""
