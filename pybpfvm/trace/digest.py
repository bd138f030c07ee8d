"""What recorder and replay compare: checksums of memory and maps."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pybpfvm.image import Image


@dataclass(frozen=True, slots=True)
class Digest:
    """crc32 of the memory that is followed, in order of addresses, and of each map by object, in
    the object's order; `size` is how many bytes that were."""

    memory: int
    maps: tuple[tuple[int, ...], ...]
    size: int


def digest(memory: Iterable[bytes | bytearray | memoryview], images: Sequence[Image]) -> Digest:
    """That of these parts of memory and these objects' maps."""
    found, size = _crc(memory)
    maps = []
    for image in images:
        crcs = []
        for live in image.maps.values():
            crc, more = _crc(live.content())
            crcs.append(crc)
            size += more
        maps.append(tuple(crcs))
    return Digest(found, tuple(maps), size)


def _crc(parts: Iterable[bytes | bytearray | memoryview]) -> tuple[int, int]:
    found = size = 0
    for part in parts:
        found = zlib.crc32(part, found)
        size += len(part)
    return found, size
