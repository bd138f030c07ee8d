"""Copies that may fail: from user memory, to user memory, from what may not be memory at all.

A destination counts as initialised afterwards, so each failing read zeroes all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EFAULT

from pybpfvm.helpers.context import HelperContext
from pybpfvm.helpers.proto import ArgType, Helper, RetType
from pybpfvm.memory import AddressSpace, MemoryFault, UserFault

_Reader = Callable[[HelperContext, int, int], bytes]


def _read_user(ctx: HelperContext, addr: int, size: int) -> bytes:
    return ctx.user_memory.user_read(addr, size)


def _read_kernel(ctx: HelperContext, addr: int, size: int) -> bytes:
    """Program memory is all the kernel memory there is."""
    try:
        return ctx.memory.program_read(addr, size)
    except MemoryFault as fault:
        raise UserFault(str(fault)) from fault


def zero(memory: AddressSpace, addr: int, size: int) -> None:
    """Zero a destination of the program; MemoryFault before anything is written."""
    if size:
        _, view, offset = memory.check(addr, size, write=True)
        view[offset : offset + size] = bytes(size)


def _copy(ctx: HelperContext, dst: int, size: int, src: int, read: _Reader) -> int:
    size &= 0xFFFF_FFFF
    memory = ctx.memory
    if size == 0:
        return 0
    memory.check(dst, size, write=True)
    try:
        data = read(ctx, src, size)
    except UserFault:
        zero(memory, dst, size)
        return -EFAULT
    memory.program_write(dst, data)
    return 0


def _copy_string(ctx: HelperContext, dst: int, size: int, src: int, read: _Reader) -> int:
    """At most `size` bytes with the NUL, which a truncated string gets too; their number."""
    size &= 0xFFFF_FFFF
    memory = ctx.memory
    if size == 0:
        return 0
    memory.check(dst, size, write=True)
    text = bytearray()
    try:
        while len(text) < size and not text.endswith(b"\0"):
            text += _up_to_nul(ctx, src + len(text), size - len(text), read)
    except UserFault:
        zero(memory, dst, size)
        return -EFAULT
    text[-1] = 0
    memory.program_write(dst, bytes(text))
    return len(text)


def _up_to_nul(ctx: HelperContext, addr: int, limit: int, read: _Reader) -> bytes:
    """Bytes at `addr` up to and with the first NUL, at most `limit`, of the region there."""
    region = ctx.memory.region_at(addr)
    if region is None:
        raise UserFault(ctx.memory.explain(addr))
    data = read(ctx, addr, min(limit, region.end - addr))
    end = data.find(b"\0")
    return data if end < 0 else data[: end + 1]


def probe_read_user(ctx: HelperContext, dst: int, size: int, src: int, _4: int, _5: int) -> int:
    """0, or -EFAULT with dst zeroed. Also copy_from_user: nothing has to be paged in here."""
    return _copy(ctx, dst, size, src, _read_user)


def probe_read_kernel(ctx: HelperContext, dst: int, size: int, src: int, _4: int, _5: int) -> int:
    """0, or -EFAULT with dst zeroed; only program memory can be read."""
    return _copy(ctx, dst, size, src, _read_kernel)


def probe_read_user_str(ctx: HelperContext, dst: int, size: int, src: int, _4: int, _5: int) -> int:
    """Length of the copied string with its NUL, or -EFAULT with dst zeroed."""
    return _copy_string(ctx, dst, size, src, _read_user)


def probe_read_kernel_str(
    ctx: HelperContext, dst: int, size: int, src: int, _4: int, _5: int
) -> int:
    """As probe_read_user_str, from program memory."""
    return _copy_string(ctx, dst, size, src, _read_kernel)


def copy_to_user(ctx: HelperContext, dst: int, src: int, size: int, _4: int, _5: int) -> int:
    """0, or -EFAULT (what fits before the fault is written)."""
    data = ctx.memory.program_read(src, size & 0xFFFF_FFFF)
    try:
        ctx.user_memory.user_write(dst, data)
    except UserFault:
        return -EFAULT
    return 0


_READ = (ArgType.PTR_TO_UNINIT_MEM, ArgType.CONST_SIZE_OR_ZERO, ArgType.ANYTHING)

ROWS = (
    Helper(
        "copy_from_user",
        _READ,
        RetType.INTEGER,
        probe_read_user,
        "Copy from user memory, zeroing all of dst on a fault.",
        sleeps=True,
    ),
    Helper(
        "bpf_copy_to_user",
        (ArgType.ANYTHING, ArgType.PTR_TO_MEM, ArgType.CONST_SIZE_OR_ZERO),
        RetType.INTEGER,
        copy_to_user,
        "Copy to user memory. iouring-bpf-2021, section 2.4 (d).",
        sleeps=True,
    ),
    Helper(
        "probe_read_user",
        _READ,
        RetType.INTEGER,
        probe_read_user,
        "Copy from user memory without sleeping.",
        gpl_only=True,
    ),
    Helper(
        "probe_read_kernel",
        _READ,
        RetType.INTEGER,
        probe_read_kernel,
        "Copy from kernel memory.",
        gpl_only=True,
    ),
    Helper(
        "probe_read_user_str",
        _READ,
        RetType.INTEGER,
        probe_read_user_str,
        "Copy a string from user memory.",
        gpl_only=True,
        length=True,
    ),
    Helper(
        "probe_read_kernel_str",
        _READ,
        RetType.INTEGER,
        probe_read_kernel_str,
        "Copy a string from kernel memory.",
        gpl_only=True,
        length=True,
    ),
)
