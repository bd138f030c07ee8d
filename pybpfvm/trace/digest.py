"""What recorder and replay compare: checksums of memory and maps now and then, and for each run
one of what it handed over.

That is: of each access to user memory by a helper its kind, address and size, and of what was
written the bytes; in order. Of the registers of a run that is all that each engine shows where a
helper asks the world, besides the arguments of ring helpers and prints, which stand in the
recording, and r0 at the end: compiled code keeps the others to itself, and looks into maps without
a call.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pybpfvm.bits import U64
from pybpfvm.image import Image


@dataclass(frozen=True, slots=True)
class Digest:
    """crc32 of the memory that is followed, in order of addresses, and of each map by object, in
    the object's order; `size` is how many bytes that were."""

    memory: int
    maps: tuple[tuple[int, ...], ...]
    size: int


_ACCESS = struct.Struct("<BQQ")
READS, READS_TEXT, WRITES = range(3)


class Handed:
    """The checksum of one run, so far."""

    __slots__ = ("crc",)

    def __init__(self) -> None:
        self.crc = 0

    def access(self, kind: int, addr: int, size: int, data: bytes = b"") -> None:
        """A helper reads or writes user memory."""
        head = _ACCESS.pack(kind, addr & U64, size & U64)
        self.crc = zlib.crc32(data, zlib.crc32(head, self.crc))


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
