"""Executable memory: one reserved range of the process, committed a unit at a time, never both
writable and executable.

A unit's pages are private, written while they are readable and writable, then made readable and
executable. A forked child has its own copies. The range is what the fault handler knows as ours.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from pybpfvm.bits import align_up
from pybpfvm.errors import InputError

_AREA_BYTES = 1 << 30
_PAGE = mmap.PAGESIZE
_NONE, _RW, _RX = 0, mmap.PROT_READ | mmap.PROT_WRITE, mmap.PROT_READ | mmap.PROT_EXEC
_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
_FIXED = 0x10
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc["mmap"]  # objects of our own: argtypes set here concern nobody else
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_mprotect = _libc["mprotect"]
_mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_madvise = _libc["madvise"]
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_DONTNEED = 4


@dataclass(frozen=True, slots=True)
class Pages:
    """`span` bytes of code at `start`."""

    start: int
    span: int


class CodeArea:
    """The process's executable pages; `place` and `release` from any thread."""

    def __init__(self) -> None:
        start = _mmap(None, _AREA_BYTES, _NONE, _FLAGS, -1, 0)
        if start is None or start == _FAILED:
            raise InputError(
                "cannot reserve address space for compiled code",
                where="jit",
                remedy="raise the address-space limit (ulimit -v), or use --engine interp",
            )
        self.start: int = start
        self.end = start + _AREA_BYTES
        self._next = start
        self._free: dict[int, list[int]] = {}  # starts by span
        self._lock = threading.Lock()

    def place(self, code: bytes | bytearray, outward: Sequence[tuple[int, int]] = ()) -> Pages:
        """Put the code on pages of its own and make them executable.

        `outward` are the offsets of rel32s with the addresses in this area that they lead to:
        they are put into a bytearray, too.
        Raises InputError where the system refuses that, or the area is full.
        """
        span = align_up(len(code), _PAGE)
        with self._lock:
            spare = self._free.get(span)
            if spare:
                start = spare.pop()
            elif self._next + span <= self.end:
                start, self._next = self._next, self._next + span
            else:
                raise InputError("1 GiB of compiled code", where="jit", remedy="close engines")
        pages = Pages(start, span)
        if _mprotect(start, span, _RW) != 0:
            raise self._refused(pages)
        placed = code if isinstance(code, bytearray) else bytearray(code)
        for at, target in outward:
            placed[at : at + 4] = (target - start - at - 4).to_bytes(4, "little", signed=True)
        ctypes.memmove(start, bytes(placed), len(placed))
        if _mprotect(start, span, _RX) != 0:
            raise self._refused(pages)
        return pages

    def _refused(self, pages: Pages) -> InputError:
        """Why the pages, which are given back, can not be executable."""
        number = ctypes.get_errno()
        self.release(pages)
        return InputError(
            f"the system refuses executable memory: {os.strerror(number)}",
            where="jit",
            remedy="allow it (SELinux execmem, seccomp profile), or use --engine interp",
        )

    def release(self, pages: Pages) -> None:
        """Give pages back; nothing may run there any more."""
        _mprotect(pages.start, pages.span, _NONE)
        _madvise(pages.start, pages.span, _DONTNEED)
        with self._lock:
            self._free.setdefault(pages.span, []).append(pages.start)


_area: CodeArea | None = None
_area_lock = threading.Lock()


def code_area() -> CodeArea:
    """The area, made at first use."""
    global _area
    with _area_lock:
        if _area is None:
            _area = CodeArea()
        return _area
