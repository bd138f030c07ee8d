"""Slices of dynptrs, as kfuncs give them: memory of the dynptr, or of a buffer it was copied to.

A slice of the packet is lost when the packet moves. One that can be written may lie in the
caller's buffer on the stack: then a store through it changes that buffer, whatever is in it by
now. Kernels do not notice that; here the buffer's bytes are unknown after the store, and the
slice is gone with the buffer's frame.
"""

from __future__ import annotations

from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.jumps import places
from pybpfvm.verifier.refusal import unsupported
from pybpfvm.verifier.resources.dynptr import Dynptr
from pybpfvm.verifier.states import stack
from pybpfvm.verifier.states.regstate import (
    PACKET_TYPES,
    Pointer,
    Reg,
    RegType,
    Trust,
    is_null,
    unknown,
)
from pybpfvm.verifier.states.state import State


def made(
    env: Environment, dynptr: Dynptr, buffer: Reg, size_bytes: int, pc: int, *, writable: bool
) -> Pointer:
    """What a kfunc gives: a slice, or NULL. `buffer` is the argument, as it was before the call."""
    trust = Trust.SLICE if writable else Trust.SLICE | Trust.RDONLY
    if dynptr.packet or buffer.type in PACKET_TYPES:
        trust |= Trust.PACKET
    at = 0
    if buffer.type is RegType.PTR_TO_STACK:
        if not env.options.caps.perfmon:
            raise unsupported("slices in a buffer on the stack, for loaders without CAP_PERFMON")
        if writable and buffer.var.mask:
            raise unsupported("slices that may lie in a buffer at a variable offset")
        at = buffer.off + buffer.var.smin
        env.lends_stack = True
    elif not is_null(buffer) and buffer.type is not RegType.PTR_TO_MAP_VALUE:
        raise unsupported(f"slices that may lie in a buffer of type {buffer.type.value}")
    return Pointer(
        RegType.PTR_TO_MEM_OR_NULL,
        pc,
        id=env.new_id(),
        ref_id=dynptr.ref_id,
        mem_size=size_bytes,
        trust=trust,
        buffer=at,
        frame=buffer.frame if at else 0,
    )


def stored_through(env: Environment, state: State, pointer: Reg) -> None:
    """Something was stored through a pointer to memory, which may be a slice."""
    if pointer.buffer:
        frame, low = state.frames[pointer.frame], pointer.buffer
        high = low + pointer.mem_size
        stack.write_somewhere(frame, low, high, zero=False, trust=env.rules.uninit_stack)


def forget_frame(state: State, number: int, pc: int) -> None:
    """The frame ended: slices that may lie in it are numbers now."""
    for frame in state.frames:
        for put, reg in places(frame):
            if reg.buffer and reg.frame == number:
                put(unknown(pc))
