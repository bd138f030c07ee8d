"""What a ring of provided buffers must be like, on either backend."""

from __future__ import annotations

import errno
from typing import Final

from pybpfvm.errors import UnsupportedError
from pybpfvm.memory import AddressSpace
from pybpfvm.uring_backend.abi import (
    BUFFER_RING_ENTRY,
    MAX_BUFFER_RING,
    PBUF_RING_INC,
    PBUF_RING_MMAP,
)

_PAGE: Final = 4096


def check_ring(memory: AddressSpace, addr: int, entries: int, flags: int) -> int:
    """The errno that registering such a ring is refused with, or 0.

    UnsupportedError for a ring in the kernel's memory: programs have no mmap(2).
    """
    if flags & PBUF_RING_MMAP:
        raise UnsupportedError(
            "a buffer ring in the kernel's memory (IOU_PBUF_RING_MMAP)",
            remedy="put it into a block of user memory",
        )
    if flags & ~PBUF_RING_INC or not entries or entries & (entries - 1):
        return errno.EINVAL
    if entries >= MAX_BUFFER_RING:
        return errno.EINVAL
    if not addr:
        return errno.EFAULT
    if addr % _PAGE:
        return errno.EINVAL
    return 0 if memory.is_user(addr, entries * BUFFER_RING_ENTRY.size) else errno.EFAULT
