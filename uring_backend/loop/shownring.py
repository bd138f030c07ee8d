"""The ring's struct as programs see it, where they can look into it: a few of its numbers."""

from __future__ import annotations

import ctypes

from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.profiles.upstream_types import CTX_FIELDS
from pybpfvm.uring_backend.loop.memory import LoopMemory
from pybpfvm.uring_backend.loop.setup import LoopSetup

_PLACES = {field: offset for field, _, offset in CTX_FIELDS}


class ShownRing:
    """A `struct name` of `size` bytes, which programs can not write; `queues` are the ring's."""

    def __init__(self, memory: AddressSpace, name: str, size: int, queues: LoopMemory) -> None:
        self._memory = memory
        self._queues = queues
        self._region = memory.alloc(size, RegionKind.RING, f"struct {name}", writable=False)
        self.start = self._region.start

    def fill(self, setup: LoopSetup, clock: int) -> None:
        """Let programs see what the ring was set up as, and its clock."""
        self._put("flags", setup.flags)
        self._put("sq_entries", setup.sq_entries)
        self._put("cq_entries", setup.cq_entries)
        self._put("clockid", clock)
        self.show_queues()

    def show_queues(self) -> None:
        """Let programs see how far the queues are: the kernel's own copies, which the regions may
        contradict. To be called before a program sees what has changed."""
        self._put("cached_sq_head", self._queues.sq_head)
        self._put("cached_cq_tail", self._queues.cq.tail)

    def _put(self, field: str, number: int) -> None:
        self._memory.write(self.start + _PLACES[field], number.to_bytes(4, "little"))

    def addr(self, field: str) -> int:
        """The true address of a field, where it can be written."""
        view = self._memory.view(self._region)
        return ctypes.addressof(ctypes.c_char.from_buffer(view)) + _PLACES[field]

    def free(self) -> None:
        """Give its memory back."""
        self._memory.free(self._region)
