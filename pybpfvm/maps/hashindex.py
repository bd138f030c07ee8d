"""A hash map's elements where compiled code finds them: an open-addressing table in memory.

    entry   u64 hash (0: empty, 2: deleted, else odd)   u64 address of the value   key, padded to 8

The map keeps it in step; Python itself looks elements up in its dict. `descriptor` is the address
of the words (mask, first entry, bytes of an entry, bytes of a key, seed) that stand for it.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterable, Mapping

from pybpfvm.bits import U64, align_up
from pybpfvm.memory import AddressSpace, Region, RegionKind

# Of this process: who could know it could choose keys that all collide.
SEED = secrets.randbits(64)
MULTIPLIER = 0xFF51_AFD7_ED55_8CCD
MOST_ENTRIES = 1 << 16

_HEAD = struct.Struct("<QQ")
_DESCRIPTOR = struct.Struct("<QQQQQ")
_EMPTY, _DELETED = 0, 2


def hash_of(key: bytes) -> int:
    """The hash of a key: 8 bytes at a time, then 4, then single ones. Odd."""
    found, at = SEED, 0
    while at < len(key):
        left = len(key) - at
        step = 8 if left >= 8 else 4 if left >= 4 else 1
        found = ((found ^ int.from_bytes(key[at : at + step], "little")) * MULTIPLIER) & U64
        found ^= found >> 32
        at += step
    return found | 1


class HashIndex:
    """The table for at most `most` keys of `key_bytes`, in private memory as long as the map."""

    def __init__(
        self, memory: AddressSpace, key_bytes: int, most: int, items: Iterable[tuple[bytes, int]]
    ) -> None:
        self._memory = memory
        self._key_bytes = key_bytes
        self._entry_bytes = _HEAD.size + align_up(key_bytes, 8)
        capacity = 1 << (2 * most).bit_length()
        self._mask = capacity - 1
        self._table: Region = memory.alloc(
            capacity * self._entry_bytes, RegionKind.HOST, "hash index"
        )
        self._view = memory.view(self._table)
        self._words: Region = memory.alloc(_DESCRIPTOR.size, RegionKind.HOST, "hash index")
        memory.write(
            self._words.start,
            _DESCRIPTOR.pack(self._mask, self._table.start, self._entry_bytes, key_bytes, SEED),
        )
        self._places: dict[bytes, int] = {}
        self._used = 0  # entries that are not empty
        for key, addr in items:
            self.put(key, addr)

    @property
    def descriptor(self) -> int:
        """Address of the words that stand for the table."""
        return self._words.start

    def put(self, key: bytes, addr: int) -> None:
        """The key's value lies at `addr` from now on."""
        place = self._places.get(key)
        hashed = hash_of(key)
        if place is None:
            if 4 * (self._used + 1) > 3 * (self._mask + 1):
                self._clean()
            place = self._free_place(hashed)
            at = place * self._entry_bytes + _HEAD.size
            self._view[at : at + len(key)] = key
            self._places[key] = place
        _HEAD.pack_into(self._view, place * self._entry_bytes, hashed, addr)

    def remove(self, key: bytes) -> None:
        """The key is gone."""
        place = self._places.pop(key)
        _HEAD.pack_into(self._view, place * self._entry_bytes, _DELETED, 0)

    def become(self, before: Mapping[bytes, int], now: Mapping[bytes, int]) -> None:
        """It has the keys of `before`, beside each where its value lies; have those of `now`."""
        for key in before.keys() - now.keys():
            self.remove(key)
        for key, addr in now.items():
            if before.get(key) != addr:
                self.put(key, addr)

    def _free_place(self, hashed: int) -> int:
        place = (hashed >> 8) & self._mask
        while True:
            found = _HEAD.unpack_from(self._view, place * self._entry_bytes)[0]
            if found == _EMPTY:
                self._used += 1
                return place
            if found == _DELETED:
                return place
            place = (place + 1) & self._mask

    def _clean(self) -> None:
        """Put all entries anew, so that deleted ones are empty again."""
        kept = [
            (key, _HEAD.unpack_from(self._view, place * self._entry_bytes)[1])
            for key, place in self._places.items()
        ]
        self._view[:] = bytes(len(self._view))
        self._places.clear()
        self._used = 0
        for key, addr in kept:
            self.put(key, addr)
