"""Helpers that compiled code calls as machine code, where it is known what they are asked for.

They check nothing: the caller has looked whether the key may be read. What they are not made for
stays with the implementation in Python, which is also what they are tested against.
"""

from __future__ import annotations

import struct

from pybpfvm.jit.bytecode import Bytecode, assembled
from pybpfvm.jit.state import State
from pybpfvm.jit.thunks import Thunks
from pybpfvm.jit.unit import Unit
from pybpfvm.maps.array import ArrayMap
from pybpfvm.maps.hash import HashMap
from pybpfvm.maps.hashindex import MULTIPLIER
from pybpfvm.memory import PAGE, AddressSpace, RegionKind
from pybpfvm.program import MapType

# The functions of maps.s that are called from outside.
ENTRIES = ("array_lookup", "hash_lookup")
_ARRAY = struct.Struct("<QQQ")


def assembled_maps() -> bytes:
    """The instructions of maps.s as bytes."""
    return assembled(("maps",), ENTRIES, {"MULTIPLIER": MULTIPLIER})


class Natives:
    """Those of one engine."""

    def __init__(self, memory: AddressSpace, state: State, thunks: Thunks) -> None:
        self._memory = memory
        self._code = Bytecode("maps", ENTRIES, state, thunks)
        self.unit: Unit = self._code.unit
        self._region = memory.alloc(PAGE, RegionKind.HOST, "maps as compiled code sees them")
        self._known: dict[int, int] = {}

    def lookup(self, handle: int) -> tuple[int, int, int] | None:
        """For bpf_map_lookup_elem on the map with this handle: what to pass in its place, the
        address of the function, and the bytes of a key. None where there is none."""
        found = self._memory.resolve(handle)
        if isinstance(found, HashMap):
            index = found.index()
            if index is None:
                return None
            return index.descriptor, self._code.entries["hash_lookup"], found.spec.key_size
        if not isinstance(found, ArrayMap) or found.spec.type != MapType.ARRAY:
            return None
        if handle not in self._known:
            at = self._region.start + _ARRAY.size * len(self._known)
            if at + _ARRAY.size > self._region.end:
                return None
            packed = _ARRAY.pack(found.spec.max_entries, found.stride, found.region.start)
            self._memory.write(at, packed)
            self._known[handle] = at
        return self._known[handle], self._code.entries["array_lookup"], found.spec.key_size

    def entry(self, address: int) -> str:
        """The name of the function at an address that `lookup` gave."""
        return next(name for name, at in self._code.entries.items() if at == address)

    def close(self) -> None:
        """Give everything back."""
        self._code.close()
        self._memory.free(self._region)
