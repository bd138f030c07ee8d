"""A real ring by way of liburing, for people who want the library itself in the path.

The library is the system's liburing-ffi (2.4 or newer, which has what is inline in C as functions),
or the one inside the PyPI package `liburing`, or whatever PYBPFVM_LIBURING names. `struct io_uring`
stays the library's own: only its ring_fd is read, and checked to be a ring.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import struct
import weakref
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from pybpfvm.errors import InputError
from pybpfvm.sharedlibrary import Prototypes, opened
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.kernel.sysring import setup_error

VARIABLE = "PYBPFVM_LIBURING"
_RING_BYTES = 1024  # struct io_uring has 216 in liburing 2.x
_RING_FD_AT = 196
_PARAMS = struct.Struct("<7I")
_CQE = struct.Struct("<QiI")
_BATCH = 256
_DEFUSED = (1 << 64) - 2  # user_data of NOPs that stand for nothing; no token is so large

_INT, _UINT, _PTR = ctypes.c_int, ctypes.c_uint, ctypes.c_void_p
_FUNCTIONS: Prototypes = {
    "io_uring_queue_init_params": (_INT, (_UINT, _PTR, _PTR)),
    "io_uring_queue_exit": (None, (_PTR,)),
    "io_uring_get_sqe": (_PTR, (_PTR,)),
    "io_uring_submit": (_INT, (_PTR,)),
    "io_uring_wait_cqe_timeout": (_INT, (_PTR, _PTR, _PTR)),
    "io_uring_peek_batch_cqe": (_UINT, (_PTR, _PTR, _UINT)),
    "io_uring_cq_advance": (None, (_PTR, _UINT)),
    "io_uring_cq_has_overflow": (ctypes.c_bool, (_PTR,)),
    "io_uring_get_events": (_INT, (_PTR,)),
    "io_uring_sq_ready": (_UINT, (_PTR,)),
    "io_uring_register": (_INT, (_UINT, _UINT, _PTR, _UINT)),
}


def found() -> str | None:
    """The library that would be used: a path, or a name that the loader knows. None: none."""
    named = os.environ.get(VARIABLE)
    if named:
        return named
    spec = find_spec("liburing")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        inside = Path(folder, "liburing.so")
        if inside.exists():
            return str(inside)
    return ctypes.util.find_library("uring-ffi")


def library() -> ctypes.CDLL:
    """liburing, its functions declared. Raises InputError."""
    name = found()
    if name is None:
        raise InputError(
            "there is no liburing with functions to call here",
            where="backend liburing",
            remedy="install the extra `liburing` (pip install 'pybpfvm[liburing]') or liburing-ffi "
            f"2.4 or newer, or let {VARIABLE} name the file",
        )
    return opened(
        name,
        _FUNCTIONS,
        where="backend liburing",
        unreadable=f"let {VARIABLE} name a liburing-ffi",
        too_old="use liburing-ffi of liburing 2.4 or newer: liburing itself has only what is not "
        "inline in C",
    )


class LibRing:
    """A Transport over liburing: a ring of `entries` submission entries (rounded up by the kernel).

    Raises InputError when there is no library, or the kernel refuses. Use by one thread.
    """

    def __init__(self, entries: int, *, cq_entries: int = 0, flags: int = 0) -> None:
        self._lib = lib = library()
        if flags & abi.SETUP_CQE_MIXED:
            raise InputError(
                "CQEs of two sizes in one queue, of which not every liburing knows",
                where="backend liburing",
                remedy="use the backend kernel, or leave CQE_MIXED out",
            )
        if cq_entries:
            flags |= abi.SETUP_CQSIZE
        params = ctypes.create_string_buffer(abi.SETUP_PARAMS_BYTES)
        struct.pack_into("<III", params, 0, 0, cq_entries, flags | abi.SETUP_CLAMP)
        self._ring = ctypes.create_string_buffer(_RING_BYTES)
        result = lib.io_uring_queue_init_params(entries, self._ring, params)
        if result < 0:
            raise setup_error(-result)
        fields = _PARAMS.unpack_from(params.raw)
        self.sq_entries: int = fields[0]
        self.cq_entries: int = fields[1]
        self.features: int = fields[5]
        self.fd: int = struct.unpack_from("<i", self._ring, _RING_FD_AT)[0]
        self._cqe = abi.BIG_CQE if flags & abi.SETUP_CQE32 else _CQE
        self._cqes = (ctypes.c_void_p * _BATCH)()
        self._timespec = ctypes.create_string_buffer(abi.TIMESPEC.size)
        self._one = ctypes.c_void_p()
        self._closed = False
        self._release = weakref.finalize(self, lib.io_uring_queue_exit, self._ring)
        self._release.atexit = False
        if not _is_ring(self.fd):
            self.close()
            raise InputError(
                "the library's struct io_uring is not as in liburing 2.x",
                where="backend liburing",
                remedy="use liburing 2.4 or a later 2.x, or the backend kernel",
            )

    def close(self) -> None:
        """io_uring_queue_exit; twice is fine."""
        self._closed = True
        self._release()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def submit(self, sqes: Sequence[bytes]) -> int:
        """Put up to `sq_entries` SQEs in the SQ and submit; consumed, or -errno.

        What the kernel leaves in the SQ can not be taken back through the library: it becomes NOPs,
        whose CQEs nobody sees.
        """
        lib, ring = self._lib, self._ring
        placed: list[int] = []
        for sqe in sqes:
            at = lib.io_uring_get_sqe(ring)
            if not at:
                break
            ctypes.memmove(at, sqe, abi.SQE_BYTES)
            placed.append(at)
        consumed: int = lib.io_uring_submit(ring)
        left = lib.io_uring_sq_ready(ring)
        if left:
            self._defuse(placed[-left:])
        return consumed

    def _defuse(self, places: list[int]) -> None:
        """Let the SQEs at these addresses, which the kernel did not take, do nothing."""
        blank = abi.Sqe(abi.Op.NOP, user_data=_DEFUSED).pack()
        for at in places:
            ctypes.memmove(at, blank, abi.SQE_BYTES)
        self._lib.io_uring_submit(self._ring)

    def wait(self, timeout_ns: int | None) -> int:
        """Sleep until the CQ has an entry: 0, -ETIME, -EINTR, or another -errno."""
        at = None
        if timeout_ns is not None:
            seconds, nanoseconds = divmod(max(timeout_ns, 0), 1_000_000_000)
            abi.TIMESPEC.pack_into(self._timespec, 0, min(seconds, 1 << 40), nanoseconds)
            at = ctypes.addressof(self._timespec)
        result: int = self._lib.io_uring_wait_cqe_timeout(
            self._ring, ctypes.addressof(self._one), at
        )
        return result

    def reap(self) -> list[tuple[int, ...]]:
        """(user_data, res, flags) of every CQE there is; see Transport."""
        lib, ring, cqes = self._lib, self._ring, self._cqes
        found: list[tuple[int, ...]] = []
        while True:
            count = lib.io_uring_peek_batch_cqe(ring, cqes, _BATCH)
            if not count:
                if not lib.io_uring_cq_has_overflow(ring) or lib.io_uring_get_events(ring) < 0:
                    return found
                if not lib.io_uring_peek_batch_cqe(ring, cqes, 1):
                    return found
                continue
            for at in filter(None, cqes[:count]):
                entry = self._cqe.unpack(ctypes.string_at(at, self._cqe.size))
                if entry[0] != _DEFUSED:
                    found.append(entry)
            lib.io_uring_cq_advance(ring, count)

    def register(self, opcode: int, arg: int, count: int) -> int:
        """io_uring_register(2) on this ring; `arg` is an address or 0."""
        result: int = self._lib.io_uring_register(self.fd, opcode, arg, count)
        return result

    def sync_cancel_all(self, timeout_ns: int) -> int:
        """Cancel whatever is running and wait until it is gone; number cancelled or -errno."""
        seconds, nanoseconds = divmod(timeout_ns, 1_000_000_000)
        flags = abi.ASYNC_CANCEL_ALL | abi.ASYNC_CANCEL_ANY
        arg = ctypes.create_string_buffer(
            struct.pack("<QiIqq32x", 0, -1, flags, seconds, nanoseconds)
        )
        return self.register(abi.REGISTER_SYNC_CANCEL, ctypes.addressof(arg), 1)


def _is_ring(fd: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[io_uring]"
    except OSError:
        return False


def available() -> InputError | None:
    """None when a ring can be made through liburing, otherwise why not."""
    try:
        LibRing(2).close()
    except InputError as error:
        return error
    return None
