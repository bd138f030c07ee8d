"""What recorder and replay compare: checksums of memory and maps now and then, and for each run
one of what it handed over, and one of registers.

What it handed over: of each access to user memory by a helper its kind, address and size, and of
what was written the bytes; in order. Registers: r6 to r9 at each of these, and where a helper asks
the world, in 16 bits, as no checksum gets smaller by compressing it; its arguments stand in the
recording, and r0 at the end. Code of LLVM's has no such registers, and no engine but the
interpreter says what is in r1 to r5 behind the arguments of a helper: they are in no checksum.
"""

from __future__ import annotations

import struct
import zlib
from binascii import crc_hqx
from collections.abc import Callable, Iterable, Sequence
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
    """The checksums of one run, so far. `kept` gives its registers (Engine.kept_registers); once it
    does not, their checksum is None."""

    __slots__ = ("_kept", "crc", "registers")

    def __init__(self, kept: Callable[[], bytes | None] | None = None) -> None:
        self._kept = kept
        self.crc = 0
        self.registers: int | None = None if kept is None else 0

    def asked(self) -> None:
        """A helper asks the world something."""
        if self.registers is not None and self._kept is not None:
            now = self._kept()
            self.registers = None if now is None else crc_hqx(now, self.registers)

    def access(self, kind: int, addr: int, size: int, data: bytes = b"") -> None:
        """A helper reads or writes user memory."""
        self.asked()
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
