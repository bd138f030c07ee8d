"""Abstract AF_UNIX names: those that requests use, and the host's that stand for them.

The host's namespace is everybody's, so a name there is unique to the world that bound it.
"""

from __future__ import annotations

import itertools
import os
from typing import Final

from pybpfvm.uring_backend import abi

_FAMILY: Final = abi.AF_UNIX.to_bytes(2, "little")
_SOCKADDR_UN_BYTES: Final = 110
_worlds = itertools.count(1)


class UnixNames:
    """The names of one world."""

    def __init__(self) -> None:
        self._prefix = _FAMILY + f"\0pybpfvm-{os.getpid()}-{next(_worlds)}-".encode()
        self._real: dict[bytes, bytes] = {}
        self._shown: dict[bytes, bytes] = {}

    def __bool__(self) -> bool:
        return bool(self._real)

    def real(self, address: bytes, *, make: bool = False) -> bytes:
        """The host's address for one of requests; one that nobody has, unless it is to be made."""
        if not 2 < len(address) <= _SOCKADDR_UN_BYTES:
            return address  # none of the world's, and refused
        found = self._real.get(address)
        if found is None:
            found = self._prefix + (str(len(self._real)).encode() if make else b"nobody")
            if make:
                self._real[address] = found
                self._shown[found] = address
        return found

    def shown(self, address: bytes) -> bytes:
        """What requests see of an address of the host."""
        return self._shown.get(address, address)
