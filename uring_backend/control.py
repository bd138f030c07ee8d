"""Control data of messages that requests send: none is carried, on either backend."""

from __future__ import annotations

from pybpfvm.memory import AddressSpace, UserFault
from pybpfvm.uring_backend.abi import CMSG, MSGHDR, SCM_RIGHTS, SOL_SOCKET, Op, Sqe

_SENDS = frozenset({Op.SENDMSG, Op.SENDMSG_ZC})


def unsupported_control(sqe: Sqe, memory: AddressSpace) -> str:
    """What an SQE sends besides data, in words; "" when nothing.

    Descriptors of SCM_RIGHTS would have to be followed to whoever receives them; the rest is
    about the host (credentials, routing, time stamps).
    """
    if sqe.opcode not in _SENDS:
        return ""
    try:
        _, _, _, _, control, size, _ = MSGHDR.unpack(memory.user_read(sqe.addr, MSGHDR.size))
        if not control or not size:
            return ""
        raw = memory.user_read(control, min(size, CMSG.size))
    except UserFault:
        return ""  # -EFAULT
    name = Op(sqe.opcode).name
    if len(raw) == CMSG.size and CMSG.unpack(raw)[1:] == (SOL_SOCKET, SCM_RIGHTS):
        return f"{name} with SCM_RIGHTS"
    return f"{name} with control data"
