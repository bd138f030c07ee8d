"""What every map is: the same operations for helpers and for the host, with the kernel's errno."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from pybpfvm.program import MapSpec

# What a map type keeps of itself: its own business.
MapState = tuple[Any, ...]


class MapError(Exception):
    """An operation was refused: `errno` (positive) as bpf(2) or the helper would return."""

    def __init__(self, errno: int, reason: str) -> None:
        super().__init__(reason)
        self.errno = errno
        self.reason = reason


class BpfMap(Protocol):
    """A live map. Values that programs point into live in the image's AddressSpace.

    The `host_` methods are what bpf(2) commands do (whole per-CPU vectors, frozen and
    read/write-only rules of the syscall side); the others are what helpers do on one CPU.
    Keys and values are exactly key_size / value_size bytes.
    """

    spec: MapSpec
    handle: int

    def lookup(self, key: bytes, cpu: int) -> int:
        """Address of the value, or 0."""

    def update(self, key: bytes, value: bytes, flags: int, cpu: int) -> None:
        """BPF_ANY 0, BPF_NOEXIST 1, BPF_EXIST 2. Raises MapError."""

    def delete(self, key: bytes) -> None:
        """Raises MapError."""

    def host_lookup(self, key: bytes) -> bytes:
        """The value (per-CPU maps: all CPUs, each rounded up to 8 bytes). Raises MapError."""

    def host_update(self, key: bytes, value: bytes, flags: int = 0) -> None:
        """Raises MapError."""

    def host_delete(self, key: bytes) -> None:
        """Raises MapError."""

    def next_key(self, key: bytes | None) -> bytes:
        """The key after `key` (first one for None or a key that is not there); MapError(ENOENT)
        after the last."""

    def content(self) -> Iterator[bytes | memoryview]:
        """Everything that the map holds: for checksums."""

    def freeze(self) -> None:
        """BPF_MAP_FREEZE: the host may write no more. Raises MapError."""

    def state(self) -> MapState:
        """All that the map is beside the bytes in memory; what is done to the map later does not
        change it."""

    def restore(self, state: MapState) -> None:
        """Be again what `state` was taken of. Memory is what it was then, already."""

    def accepts(self, state: MapState) -> bool:
        """Whether a state of unknown origin is one that such a map can be in, where memory is as it
        is now. May raise TypeError, ValueError, AttributeError, LookupError or OverflowError, too,
        for what is none at all."""
