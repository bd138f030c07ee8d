"""Pointers to what the kernel shows of sockets, flows and tracepoint buffers.

The verifier knows these structures by itself, without BTF: which of their bytes may be read is a
layout in `pybpfvm.profiles.contexts`. Nothing may be added to a pointer to a socket.
"""

from __future__ import annotations

from collections.abc import Mapping

from pybpfvm.profiles import contexts
from pybpfvm.profiles.base import CtxPointer
from pybpfvm.profiles.contexts import Fields
from pybpfvm.verifier.refusal import forbidden
from pybpfvm.verifier.states.regstate import Reg, RegType
from pybpfvm.verifier.verdict import Rule

SOCKETS: Mapping[RegType, Fields] = {
    RegType.PTR_TO_SOCK_COMMON: contexts.SOCK_COMMON,
    RegType.PTR_TO_SOCKET: contexts.SOCKET,
    RegType.PTR_TO_TCP_SOCK: contexts.TCP_SOCK,
    RegType.PTR_TO_XDP_SOCK: contexts.XDP_SOCK,
}
# Pointers that the kernel's verifier knows by itself, to memory that helpers do not take.
KERNEL_MEMORY = frozenset({*SOCKETS, RegType.PTR_TO_FLOW_KEYS, RegType.PTR_TO_TP_BUFFER})

# What loading a context field that stands for a kernel object gives; None: needs BTF.
FROM_CONTEXT: Mapping[CtxPointer, RegType | None] = {
    CtxPointer.SOCK_COMMON_OR_NULL: RegType.PTR_TO_SOCK_COMMON_OR_NULL,
    CtxPointer.SOCKET: RegType.PTR_TO_SOCKET,
    CtxPointer.SOCKET_OR_NULL: RegType.PTR_TO_SOCKET_OR_NULL,
    CtxPointer.FLOW_KEYS: RegType.PTR_TO_FLOW_KEYS,
    CtxPointer.TP_BUFFER: RegType.PTR_TO_TP_BUFFER,
    CtxPointer.KERNEL_STRUCT: None,
}


def check_kernel_memory(reg: Reg, number: int, off: int, size: int, *, store: bool) -> None:
    """`size` bytes at the register + `off` may be loaded, or stored to."""
    fields = SOCKETS.get(reg.type)
    if fields is not None:
        _check_socket(reg, number, off, size, fields, store=store)
    elif reg.type is RegType.PTR_TO_FLOW_KEYS:
        _check_flow_keys(reg, off, size)
    else:
        _check_buffer(reg, number, off, size)


def _check_socket(
    reg: Reg, number: int, off: int, size: int, fields: Fields, *, store: bool
) -> None:
    name = reg.type.value
    if store:
        raise forbidden(
            Rule.READ_ONLY,
            f"R{number} cannot write into {name}",
            reason="sockets are read through these pointers, and changed by helpers",
            culprit=reg,
        )
    if not any(one.named_by(off, size, store=False) for one in fields):
        raise forbidden(
            Rule.MEM_ACCESS,
            f"R{number} invalid {name} access off={off} size={size}",
            reason=f"no field of a {name} is read like this",
            suggestion="fields: " + ", ".join(f"{f.name}@{f.offset}:{f.size}" for f in fields),
            culprit=reg,
        )


def _check_flow_keys(reg: Reg, off: int, size: int) -> None:
    at = reg.off + off
    if reg.var.mask or at < 0 or at + size > contexts.FLOW_KEYS_BYTES:
        raise forbidden(
            Rule.MEM_ACCESS,
            f"invalid access to flow keys off={at} size={size}",
            reason=f"struct bpf_flow_keys has {contexts.FLOW_KEYS_BYTES} bytes",
            culprit=reg,
        )


def _check_buffer(reg: Reg, number: int, off: int, size: int) -> None:
    """How large the buffer is shows when the program is attached, where the kernel looks again."""
    if reg.var.mask or off + reg.off < 0:
        raise forbidden(
            Rule.MEM_ACCESS,
            f"R{number} invalid tracepoint buffer access: off={reg.off + off}, size={size}",
            reason="a tracepoint's buffer is accessed at constant offsets from its beginning",
            culprit=reg,
        )
