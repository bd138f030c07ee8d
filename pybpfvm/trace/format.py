"""The file of a recording: records in compressed chunks, each with its lengths and a checksum.

    magic   8 bytes   "\\x93pybpfvm"
    u16     version of the format (VERSION)
    chunks  u32 bytes of its data as they stand here, u32 bytes of them decompressed,
            u32 crc32 of those 8 bytes and the data; then the data: zlib over records in msgpack

All numbers are little-endian. A chunk holds whole records. From version 3 on it begins with one
that sets something up (SET_UP) if it has any, and a STATE has a chunk of its own: who looks at the
first record of each knows where these are. Who reads takes what is whole: the first chunk that is
not ends the recording, and `damage` says why and where.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO

from pybpfvm.errors import InputError
from pybpfvm.trace.records import Kind

MAGIC = b"\x93pybpfvm"
VERSION = 3
# 1 had no SQES, and no checksum of what runs handed over; 2 no STATE.
_READ_VERSIONS = (1, 2, 3)

_START = struct.Struct("<8sH")
_HEAD = struct.Struct("<II")
_CRC = struct.Struct("<I")
_HEAD_BYTES = _HEAD.size + _CRC.size
_CHUNK_BYTES = 1 << 18  # after so many of records a chunk is written
_FLUSH_S = 0.25  # or after so long
MAX_CHUNK_BYTES = 1 << 26  # of one with a large record, decompressed
_MAX_ITEMS = 1 << 14  # of an array or a table in a record
# In memory an array or a table costs some fifty times what it may cost in the file: chunks that are
# larger than those that whole records fill may have so many, and so many items in all of them.
_LARGE_CHUNK_BYTES = 1 << 20
MAX_ARRAYS = 1 << 20
_MAX_ALL_ITEMS = 1 << 22
_KEPT_CHUNKS = 4
_PEEK_BYTES = 1024  # more than the tables of Huffman codes that stand first
_ARRAY = 0x90  # how one of less than 16 items begins, of how many in the low bits

# Records of what states say nothing of: objects, rings, engines.
SET_UP = frozenset({Kind.HEADER, Kind.LOAD, Kind.RING, Kind.ENGINE})

Record = Sequence[Any]


class TraceWriter:
    """Writes records to a new file as they come. OSError becomes InputError that names the file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import msgpack

        self.path = os.fspath(path)
        self.bytes = 0  # in the file so far
        self._sets_up = False  # what is in the buffer begins with that
        # use_bin_type keeps text and bytes apart; what is no UTF-8 in a name goes there and back.
        self._pack = msgpack.Packer(unicode_errors="surrogateescape").pack
        self._buffer = bytearray()
        self._due = 0.0
        try:
            self._file: BinaryIO = open(self.path, "wb")  # noqa: SIM115
        except OSError as error:
            raise self._failed(error) from None
        self._put(_START.pack(MAGIC, VERSION))

    def add(self, record: Record) -> None:
        """Append a record. Raises InputError when the file can not be written."""
        self._buffer += self._pack(record)
        if len(self._buffer) >= _CHUNK_BYTES:
            self.flush()

    def place(self, record: Record) -> None:
        """As `add`, for kinds that have a place in their chunk."""
        kind = record[0]
        sets_up = kind in SET_UP
        if kind == Kind.STATE or (sets_up and not self._sets_up):
            self.flush()
            self._sets_up = sets_up
        self.add(record)
        if kind == Kind.STATE:
            self.flush()

    def breathe(self) -> None:
        """Write what is there, if the last chunk is some time ago."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _FLUSH_S
            self.flush()

    def flush(self) -> None:
        """Write what is there."""
        if not self._buffer:
            return
        if len(self._buffer) > MAX_CHUNK_BYTES:
            raise InputError(f"a record of {len(self._buffer)} bytes", where=self.path)
        data = zlib.compress(self._buffer, 1)
        head = _HEAD.pack(len(data), len(self._buffer))
        self._buffer.clear()
        self._sets_up = False
        self._put(head + _CRC.pack(zlib.crc32(data, zlib.crc32(head))) + data)

    def close(self) -> None:
        """Write the rest; twice is fine."""
        if self._file.closed:
            return
        try:
            self.flush()
        finally:
            self._file.close()

    def _put(self, data: bytes) -> None:
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from None
        self.bytes += len(data)

    def _failed(self, error: OSError) -> InputError:
        return InputError(
            f"the recording can not be written: {error.strerror or error}",
            where=self.path,
            remedy="record to a place with room that you may write to",
        )


class TraceFile:
    """A recording to read: `chunks` are what is whole, `damage` why the file ends there (None: it
    ends by itself). A context manager.

    Raises InputError for a file that is no recording, or of a version that is not known.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.damage: InputError | None = None
        self.chunks: list[tuple[int, int, int]] = []  # (where its data is, bytes, decompressed)
        self._kept: dict[int, list[Record]] = {}
        self.version = VERSION
        try:
            self._file: BinaryIO = open(self.path, "rb")  # noqa: SIM115
        except OSError as error:
            raise InputError(
                f"{error.strerror or error}", where=self.path, remedy="name a recording"
            ) from None
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._check_start()
            self._find_chunks()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> TraceFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; twice is fine."""
        self._file.close()

    @property
    def size_bytes(self) -> int:
        """The file's size."""
        return self._size

    def _read(self, at: int, size: int) -> bytes:
        try:
            self._file.seek(at)
            return self._file.read(size)
        except OSError as error:
            raise InputError(f"{error.strerror or error}", where=self.path) from None

    def _check_start(self) -> None:
        start = self._read(0, _START.size)
        if len(start) < _START.size or not start.startswith(MAGIC):
            raise InputError(
                "this is no recording of pybpfvm",
                where=self.path,
                remedy="make one with: pybpfvm run FILE --record NAME",
            )
        version = _START.unpack(start)[1]
        if version not in _READ_VERSIONS:
            known = f"{_READ_VERSIONS[0]} to {_READ_VERSIONS[-1]}"
            raise InputError(
                f"format version {version}, where this pybpfvm reads versions {known}",
                where=self.path,
                remedy="use the version of pybpfvm that recorded it, or record again",
            )
        self.version = version

    def _find_chunks(self) -> None:
        at = _START.size
        while at < self._size:
            head = self._read(at, _HEAD_BYTES)
            if len(head) < _HEAD_BYTES:
                self._end(at, "the file is cut off in the head of a chunk")
                return
            packed, unpacked = _HEAD.unpack_from(head)
            if packed > self._size - at - _HEAD_BYTES:
                self._end(at, "the file is cut off, or damaged, in a chunk")
                return
            if unpacked > MAX_CHUNK_BYTES:
                self._end(at, f"a chunk of {unpacked} bytes")
                return
            self.chunks.append((at + _HEAD_BYTES, packed, unpacked))
            at += _HEAD_BYTES + packed

    def _end(self, at: int, reason: str) -> None:
        self.damage = InputError(
            f"at byte {at}: {reason}",
            where=self.path,
            remedy="what is before it can be used; record again for the rest",
        )

    def check(self) -> None:
        """Look at the checksums of all chunks: the first one that is wrong is damage."""
        for number, (at, packed, _) in enumerate(self.chunks):
            if not self._is_whole(
                self._read(at - _HEAD_BYTES, _HEAD_BYTES), self._read(at, packed)
            ):
                self._end(at - _HEAD_BYTES, "the checksum of a chunk is wrong")
                del self.chunks[number:]
                return

    @staticmethod
    def _is_whole(head: bytes, data: bytes) -> bool:
        crc = _CRC.unpack_from(head, _HEAD.size)[0]
        return bool(zlib.crc32(data, zlib.crc32(head[: _HEAD.size])) == crc)

    def begins_with(self, chunk: int) -> int | None:
        """Of what kind the first record of a chunk is; None where that is not plain."""
        at, packed, _ = self.chunks[chunk]
        try:
            start = zlib.decompressobj().decompress(self._read(at, min(packed, _PEEK_BYTES)), 2)
        except zlib.error:
            return None
        return start[1] if len(start) == 2 and start[0] & 0xF0 == _ARRAY else None

    def records(self, chunk: int) -> Sequence[Record]:
        """The records of a chunk, decoded; none, and none of the chunks behind it, when it is
        damaged."""
        if chunk in self._kept:
            return self._kept[chunk]
        if chunk >= len(self.chunks):
            return ()
        at, packed, unpacked = self.chunks[chunk]
        try:
            found = self._decoded(at, packed, unpacked)
        except InputError as error:
            self._end(at - _HEAD_BYTES, error.reason)
            del self.chunks[chunk:]
            return ()
        while len(self._kept) >= _KEPT_CHUNKS:
            del self._kept[next(iter(self._kept))]
        self._kept[chunk] = found
        return found

    def _decoded(self, at: int, packed: int, unpacked: int) -> list[Record]:
        import msgpack

        head = self._read(at - _HEAD_BYTES, _HEAD_BYTES)
        data = self._read(at, packed)
        if not self._is_whole(head, data):
            raise InputError("the checksum of a chunk is wrong")
        try:
            raw = zlib.decompressobj().decompress(data, unpacked + 1)
        except zlib.error as error:
            raise InputError(f"a chunk can not be decompressed: {error}") from None
        if len(raw) != unpacked:
            raise InputError(f"a chunk of {unpacked} bytes has others")
        counting = Counting() if unpacked > _LARGE_CHUNK_BYTES else None
        unpacker = msgpack.Unpacker(
            raw=False,
            use_list=False,
            strict_map_key=False,
            unicode_errors="surrogateescape",
            max_buffer_size=max(unpacked, 1),
            max_array_len=_MAX_ITEMS,
            max_map_len=_MAX_ITEMS,
            list_hook=counting and counting.array,
            object_hook=counting and counting.table,
        )
        try:
            unpacker.feed(raw)
            found: list[Record] = list(islice(unpacker, _CHUNK_BYTES))
            if unpacker.tell() != unpacked:
                raise ValueError("the last record is cut off, or there are too many")
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
            raise InputError(f"a chunk holds no records: {error}") from None
        if not found:
            raise InputError("a chunk holds no records: it is empty")
        return found

    def all_records(self, chunk: int = 0, index: int = 0) -> Iterator[tuple[int, int, Record]]:
        """(chunk, index in it, record) from there on."""
        while records := self.records(chunk):
            for number in range(index, len(records)):
                yield chunk, number, records[number]
            chunk, index = chunk + 1, 0


class Counting:
    """Holds what is unpacked to what it may cost in memory. Raises ValueError for more."""

    def __init__(self) -> None:
        self._arrays = self._items = 0

    def array(self, found: Sequence[Any]) -> Sequence[Any]:
        """One more array."""
        self._count(len(found))
        return found

    def table(self, found: dict[Any, Any]) -> dict[Any, Any]:
        """One more table: it costs what arrays do."""
        self._count(len(found))
        return found

    def _count(self, items: int) -> None:
        self._arrays += 1
        self._items += items
        if self._arrays > MAX_ARRAYS or self._items > _MAX_ALL_ITEMS:
            raise ValueError("it has too many parts")


__all__ = ["MAGIC", "VERSION", "Record", "TraceFile", "TraceWriter"]
