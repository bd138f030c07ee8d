"""A bounded buffer of bytes."""

from __future__ import annotations

from typing import Final

from pybpfvm.uring_backend.abi import (
    POLLIN,
    POLLOUT,
    POLLRDNORM,
    POLLWRNORM,
)

_IN: Final = POLLIN | POLLRDNORM
_OUT: Final = POLLOUT | POLLWRNORM


class Bytes:
    """A bounded first-in-first-out buffer."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._data = bytearray()

    def __len__(self) -> int:
        return len(self._data)

    @property
    def room(self) -> int:
        """Bytes that still fit."""
        return self.capacity - len(self._data)

    def put(self, data: bytes) -> int:
        """Take as much as fits: how much."""
        taken = min(len(data), self.room)
        self._data += data[:taken]
        return taken

    def get(self, size: int, *, keep: bool = False) -> bytes:
        """Up to `size` bytes; `keep` leaves them in."""
        data = bytes(self._data[:size])
        if not keep:
            del self._data[:size]
        return data

    def clear(self) -> None:
        """Throw everything away."""
        self._data.clear()
