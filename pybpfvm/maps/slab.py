"""Element slots for maps that grow: nothing until used, reused after release."""

from __future__ import annotations

from collections.abc import Sequence
from errno import ENOMEM

from pybpfvm.errors import InputError
from pybpfvm.maps.base import MapError, MapState
from pybpfvm.memory import PAGE, AddressSpace, RegionKind

_FIRST_CHUNK = PAGE
_LARGEST_CHUNK = 1 << 20


class Slab:
    """Slots of `slot_bytes` in regions that double from one page to 1 MiB (or one slot).

    At most `most` slots are ever live, so no chunk is larger than what is still missing. A
    released slot keeps its content and is the next to be handed out: a program that holds a
    pointer to a deleted element sees the old bytes until then, as with a kernel's free list.
    """

    def __init__(
        self, memory: AddressSpace, name: str, slot_bytes: int, most: int, *, writable: bool
    ) -> None:
        self._memory = memory
        self._name = name
        self._slot_bytes = slot_bytes
        self._missing = self._most = most
        self._writable = writable
        self._chunk_bytes = _FIRST_CHUNK
        self._free: list[int] = []

    def take(self) -> int:
        """Address of a slot with unspecified content.

        Raises MapError(ENOMEM) when the address space's limit is reached.
        """
        if not self._free:
            self._grow()
        return self._free.pop()

    def release(self, addr: int) -> None:
        """Give a slot back."""
        self._free.append(addr)

    def state(self) -> MapState:
        """Which slots are free, and how it goes on."""
        return self._missing, self._chunk_bytes, tuple(self._free)

    def restore(self, state: MapState) -> None:
        """Hand out again what was handed out next then; its regions are those of then."""
        self._missing, self._chunk_bytes, free = state
        self._free = list(free)

    def accepts(self, state: MapState, used: Sequence[int]) -> bool:
        """Whether that can be its state while these slots are taken: each is one, and once."""
        missing, chunk_bytes, free = state
        slots = (*free, *used)
        return (
            all(type(one) is int for one in (missing, chunk_bytes, *slots))
            and 0 <= missing <= self._most - len(slots)
            and _FIRST_CHUNK <= chunk_bytes <= _LARGEST_CHUNK
            and len(set(slots)) == len(slots)
            and all(map(self._is_slot, slots))
        )

    def _is_slot(self, addr: int) -> bool:
        region = self._memory.region_at(addr)
        return (
            region is not None
            and region.kind is RegionKind.MAP_VALUE
            and region.name == self._name
            and region.writable == self._writable
            and addr + self._slot_bytes <= region.end
            and (addr - region.start) % self._slot_bytes == 0
        )

    def _grow(self) -> None:
        count = max(1, min(self._missing, self._chunk_bytes // self._slot_bytes))
        try:
            region = self._memory.alloc(
                count * self._slot_bytes,
                RegionKind.MAP_VALUE,
                self._name,
                writable=self._writable,
            )
        except InputError as error:
            raise MapError(ENOMEM, str(error)) from error
        self._missing -= count
        self._chunk_bytes = min(2 * self._chunk_bytes, _LARGEST_CHUNK)
        step = self._slot_bytes
        self._free.extend(range(region.start + (count - 1) * step, region.start - 1, -step))
