"""A plain io_uring of the running kernel: three system calls and the shared memory of the rings.

Nothing here knows of tokens, guards or BPF: it is what a C program has before liburing, for one
thread. Results of calls are the kernel's (0 or more, or -errno); only the set-up raises.

The rings are shared memory without atomics in Python. That is enough on the submission side,
where every tail store is followed by io_uring_enter, and on the completion side on x86 (loads
keep their order) and wherever the CQ is read after an enter.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import struct
import weakref
from collections.abc import Sequence

from pybpfvm.errors import InputError, RingError, errno_name
from pybpfvm.uring_backend import abi

# One number on every architecture that took up system calls after 5.1 with the common table.
_NR_SETUP = 425
_NR_ENTER = 426
_NR_REGISTER = 427
_MACHINES = ("x86_64", "aarch64", "riscv64")

_PARAMS = struct.Struct("<7I 4x4x4x 10I 10I")
_RSRC_UPDATE = struct.Struct("<IIQ")  # struct io_uring_rsrc_update
_ANY_PLACE = 0xFFFFFFFF
_FEATURES_NEEDED = abi.FEAT_SINGLE_MMAP | abi.FEAT_NODROP | abi.FEAT_EXT_ARG

_libc = ctypes.CDLL(None, use_errno=True)
_long = ctypes.c_long
_syscall = _libc["syscall"]  # an object of our own: argtypes set here concern nobody else
_syscall.restype = ctypes.c_long
_syscall.argtypes = (_long, _long, _long, _long, _long, ctypes.c_void_p, ctypes.c_size_t)


class SysRing:
    """A ring of `entries` submission entries (rounded up by the kernel), made and mapped.

    `cq_entries` 0 means the kernel's default. Raises InputError with reason and remedy when the
    kernel refuses or lacks what the backend needs. Use by one thread, and not across fork.
    """

    def __init__(self, entries: int, *, cq_entries: int = 0, flags: int = 0) -> None:
        if cq_entries:
            flags |= abi.SETUP_CQSIZE
        params = ctypes.create_string_buffer(abi.SETUP_PARAMS_BYTES)
        struct.pack_into("<III", params, 0, 0, cq_entries, flags | abi.SETUP_CLAMP)
        fd = setup(entries, ctypes.addressof(params))
        if fd < 0:
            raise setup_error(-fd)
        self.fd = fd
        fields = _PARAMS.unpack(params.raw)
        self.sq_entries: int = fields[0]
        self.cq_entries: int = fields[1]
        self.features: int = fields[5]
        sq_off, cq_off = fields[7:17], fields[17:27]
        missing = _FEATURES_NEEDED & ~self.features
        if missing:
            os.close(fd)
            raise InputError(
                f"io_uring of this kernel lacks feature bits {missing:#x}",
                remedy="use Linux 6.1 or later, or the simulated ring",
            )
        cqe_bytes, sqe_bytes = abi.cqe_bytes(flags), abi.sqe_bytes(flags)
        span = max(sq_off[6] + 4 * self.sq_entries, cq_off[5] + cqe_bytes * self.cq_entries)
        try:
            self._ring_map = _map(fd, span, abi.OFF_SQ_RING)
            self._sqe_map = _map(fd, sqe_bytes * self.sq_entries, abi.OFF_SQES)
        except OSError as error:
            os.close(fd)
            raise setup_error(error.errno or errno.ENOMEM) from error
        self.ring = memoryview(self._ring_map)
        self.words = self.ring[: span & ~3].cast("I")
        self.sqes = memoryview(self._sqe_map)
        # Indices into `words`.
        self.sq_head, self.sq_tail = sq_off[0] // 4, sq_off[1] // 4
        self.sq_flags, self.sq_dropped = sq_off[4] // 4, sq_off[5] // 4
        self.cq_head, self.cq_tail = cq_off[0] // 4, cq_off[1] // 4
        self.cq_overflow = cq_off[4] // 4
        self.sq_mask = self.words[sq_off[2] // 4]
        self.cq_mask = self.words[cq_off[2] // 4]
        self.cqes_at: int = cq_off[5]
        self._cqe = abi.BIG_CQE if flags & abi.SETUP_CQE32 else _CQE
        self._mixed = bool(flags & abi.SETUP_CQE_MIXED)
        self._sqe_bytes = sqe_bytes
        self.sq_array = 0 if flags & abi.SETUP_NO_SQARRAY else sq_off[6] // 4
        if self.sq_array:
            for index in range(self.sq_entries):  # entry i always uses SQE i
                self.words[self.sq_array + index] = index
        # struct io_uring_getevents_arg, then the timespec it points to.
        self._wait_arg = ctypes.create_string_buffer(abi.GETEVENTS_ARG.size + abi.TIMESPEC.size)
        self._wait_arg_at = ctypes.addressof(self._wait_arg)
        abi.GETEVENTS_ARG.pack_into(
            self._wait_arg, 0, 0, 0, 0, self._wait_arg_at + abi.GETEVENTS_ARG.size
        )
        self._closed = False
        self._release = weakref.finalize(
            self,
            _give_back,
            fd,
            (self.words, self.ring, self.sqes),
            (self._ring_map, self._sqe_map),
        )
        self._release.atexit = False  # owners may still close it then; the process ends anyway

    def __enter__(self) -> SysRing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Unmap and close; twice is fine. Does not wait for requests in flight."""
        self._closed = True
        self._release()

    def submit(self, sqes: Sequence[bytes]) -> int:
        """Put up to `sq_entries` SQEs in the SQ and enter once; consumed, or -errno.

        What the kernel did not consume is taken out of the SQ again.
        """
        words, mask, area, stride = self.words, self.sq_mask, self.sqes, self._sqe_bytes
        tail = words[self.sq_tail]
        for sqe in sqes:
            at = (tail & mask) * stride
            area[at : at + 64] = sqe
            tail = (tail + 1) & 0xFFFFFFFF
        words[self.sq_tail] = tail
        consumed = enter(self.fd, len(sqes), 0, 0)
        if consumed != len(sqes):
            words[self.sq_tail] = words[self.sq_head]
        return consumed

    def publish(self, tail: int, count: int) -> int:
        """Issue the `count` SQEs that somebody else put before `tail`; how many are left."""
        self.words[self.sq_tail] = tail
        while count:  # each call consumes one at least, if it consumes any
            consumed = enter(self.fd, count, 0, 0)
            if consumed <= 0:
                break
            count -= min(consumed, count)
        return count

    def unpublish(self, count: int) -> None:
        """Take the last `count` SQEs out of the SQ again."""
        self.words[self.sq_tail] = (self.words[self.sq_tail] - count) & 0xFFFFFFFF

    def wait(self, timeout_ns: int | None) -> int:
        """Sleep until the CQ has an entry: 0, -ETIME, -EINTR, or another -errno.

        Also moves a backlog of overflown CQEs into the CQ.
        """
        if timeout_ns is None:
            return enter(self.fd, 0, 1, abi.ENTER_GETEVENTS)
        seconds, nanoseconds = divmod(max(timeout_ns, 0), 1_000_000_000)
        abi.TIMESPEC.pack_into(
            self._wait_arg, abi.GETEVENTS_ARG.size, min(seconds, 1 << 40), nanoseconds
        )
        flags = abi.ENTER_GETEVENTS | abi.ENTER_EXT_ARG
        return enter(self.fd, 0, 1, flags, self._wait_arg_at, abi.GETEVENTS_ARG.size)

    def flush(self) -> int:
        """Run pending completions and move an overflow backlog into the CQ, without waiting."""
        return enter(self.fd, 0, 0, abi.ENTER_GETEVENTS)

    def pending(self) -> bool:
        """Whether the CQ holds an entry."""
        return bool(self.words[self.cq_head] != self.words[self.cq_tail])

    def reap(self) -> list[tuple[int, ...]]:
        """(user_data, res, flags) of every entry in the CQ, which is emptied; see Transport."""
        words = self.words
        head, tail = words[self.cq_head], words[self.cq_tail]
        if head == tail and not words[self.sq_flags] & abi.SQ_CQ_OVERFLOW:
            return []
        found: list[tuple[int, ...]] = []
        unpack, stride = self._cqe.unpack_from, self._cqe.size
        ring, base, mask = self.ring, self.cqes_at, self.cq_mask
        while True:
            while head != tail:
                if self._mixed:
                    head = self._take_mixed(head, found)
                    if (tail - head) & 0xFFFFFFFF > self.cq_entries:
                        raise RingError(errno.EOVERFLOW, "a CQE of two sizes ends beyond the CQ")
                    continue
                found.append(unpack(ring, base + (head & mask) * stride))
                head = (head + 1) & 0xFFFFFFFF
            words[self.cq_head] = head
            if not words[self.sq_flags] & abi.SQ_CQ_OVERFLOW:
                return found
            self.flush()
            tail = words[self.cq_tail]
            if head == tail:
                return found

    def _take_mixed(self, head: int, found: list[tuple[int, ...]]) -> int:
        """Add the entry at `head`, which has one place or two; the head behind it."""
        at = self.cqes_at + (head & self.cq_mask) * abi.CQE_BYTES
        user_data, res, flags = _CQE.unpack_from(self.ring, at)
        if flags & abi.CQE_F_32:
            found.append(abi.BIG_CQE.unpack_from(self.ring, at))
            return (head + 2) & 0xFFFFFFFF
        if not flags & abi.CQE_F_SKIP:
            found.append((user_data, res, flags, *abi.NO_EXTRA))
        return (head + 1) & 0xFFFFFFFF

    def register(self, opcode: int, arg: int, count: int) -> int:
        """io_uring_register(2) on this ring; `arg` is an address or 0."""
        return register(self.fd, opcode, arg, count)

    def register_ring(self) -> int | None:
        """Let this thread name the ring by a number of its own in io_uring_enter, which is quicker
        than by a descriptor; None where that is refused. Until `unregister_ring`, same thread."""
        update = ctypes.create_string_buffer(_RSRC_UPDATE.pack(_ANY_PLACE, 0, self.fd))
        done = self.register(abi.REGISTER_RING_FDS, ctypes.addressof(update), 1)
        found: tuple[int, ...] = _RSRC_UPDATE.unpack(update.raw[: _RSRC_UPDATE.size])
        return found[0] if done == 1 else None

    def unregister_ring(self, number: int) -> None:
        """The number of this thread means nothing any more."""
        update = ctypes.create_string_buffer(_RSRC_UPDATE.pack(number, 0, 0))
        self.register(abi.UNREGISTER_RING_FDS, ctypes.addressof(update), 1)

    def sync_cancel_all(self, timeout_ns: int) -> int:
        """Cancel whatever is running and wait until it is gone; number cancelled or -errno.

        Requests that wait for their turn (links, drain) are not found before it comes.
        """
        flags = abi.ASYNC_CANCEL_ALL | abi.ASYNC_CANCEL_ANY
        seconds, nanoseconds = divmod(timeout_ns, 1_000_000_000)
        arg = ctypes.create_string_buffer(
            struct.pack("<QiIqq32x", 0, -1, flags, seconds, nanoseconds)
        )
        return register(self.fd, abi.REGISTER_SYNC_CANCEL, ctypes.addressof(arg), 1)


def setup(entries: int, params: int) -> int:
    """io_uring_setup(2): an fd or -errno. `entries` is taken modulo 2**32, as the kernel does."""
    if platform.machine() not in _MACHINES:
        return -errno.ENOSYS
    result: int = _syscall(_NR_SETUP, entries & 0xFFFFFFFF, params, 0, 0, None, 0)
    return result if result >= 0 else -ctypes.get_errno()


def enter(
    fd: int, to_submit: int, min_complete: int, flags: int, arg: int | None = None, size: int = 0
) -> int:
    """io_uring_enter(2): SQEs consumed or -errno."""
    result: int = _syscall(_NR_ENTER, fd, to_submit, min_complete, flags, arg, size)
    return result if result >= 0 else -ctypes.get_errno()


def register(fd: int, opcode: int, arg: int, count: int) -> int:
    """io_uring_register(2): the result or -errno."""
    result: int = _syscall(_NR_REGISTER, fd, opcode, arg, count, None, 0)
    return result if result >= 0 else -ctypes.get_errno()


def setup_error(number: int) -> InputError:
    """The refusal of io_uring_setup (`number`: errno) in words, with what to do about it."""
    simulated = "use the simulated ring"
    if number == errno.ENOSYS:
        reason = "this kernel, or the sandbox around this process, has no io_uring"
        remedy = f"use Linux 6.1 or later outside gVisor-like sandboxes, or {simulated}"
    elif number in (errno.EPERM, errno.EACCES):
        setting = disabled_setting()
        if setting:
            reason = f"io_uring is switched off (kernel.io_uring_disabled = {setting})"
            remedy = f"set that sysctl to 0 as root, or {simulated}"
        else:
            reason = "io_uring is forbidden to this process, probably by a seccomp profile"
            remedy = f"allow io_uring in the container's seccomp profile, or {simulated}"
    elif number == errno.ENOMEM:
        reason = "the kernel has no memory for an io_uring, or RLIMIT_MEMLOCK is too small"
        remedy = f"raise the limit (ulimit -l), close other rings, or {simulated}"
    elif number in (errno.EMFILE, errno.ENFILE):
        reason = "no file descriptor is left for an io_uring"
        remedy = "raise the limit (ulimit -n) or close files"
    elif number == errno.EINVAL:
        reason = "the kernel does not accept this size or these flags for an io_uring"
        remedy = f"use 1 to {abi.MAX_SQ_ENTRIES} entries, or {simulated}"
    else:
        reason, remedy = f"io_uring_setup: {errno_name(number)}", simulated
    return InputError(reason, where="io_uring", remedy=remedy)


def disabled_setting() -> int:
    """kernel.io_uring_disabled: 0 allowed, 1 only the privileged, 2 nobody (0 when unknown)."""
    try:
        with open("/proc/sys/kernel/io_uring_disabled", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


_CQE = struct.Struct("<QiI")


def _map(fd: int, size: int, offset: int) -> mmap.mmap:
    flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
    return mmap.mmap(fd, size, flags, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset)


def _give_back(fd: int, views: Sequence[memoryview], maps: Sequence[mmap.mmap]) -> None:
    for view in views:
        view.release()
    for area in maps:
        area.close()
    os.close(fd)
