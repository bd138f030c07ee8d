"""The one reserved address range in which everything a program may touch lives.

Two neighbouring 4 GiB windows are reserved without access and committed piecewise:

    base                    base + 2 GiB           base + 4 GiB                      base + 8 GiB
    │ program memory ...     │ (never committed)    │ (never committed) user memory ... │
    └──────── window of the program ───────────────┴──────── window of the user ───────┘
      stack ctx map values rings, guard gaps           only above +6 GiB

A pointer is a true address, so an SQE that names user memory can go to the real kernel untouched,
and its low 32 bits are its offset in its window, so an engine may sandbox with
base + zero-extended low half. User memory only ever lies at offsets above 2 GiB, program memory
only below: a plain load through a user pointer cannot alias program memory, whatever the engine.

Below `base` lies a private range for what engines and rings keep for themselves (RegionKind.HOST):
base + zero-extended low half never reaches it, base + a signed 32-bit displacement does.

Everything is a region between guard gaps. Read-only regions are mapped twice: read-only where the
program sees them, writable for us elsewhere, so that engines without checks can not write there.
Handles are addresses that are never committed and stand for an object (a map, a function): they
can be passed around and compared, not read.

A snapshot is everything that programs and hosts see of it; what engines and rings keep for
themselves is left alone by taking one and by going back to it.
"""

from __future__ import annotations

import ctypes
import mmap as _mmap
import os
import threading
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Protocol

from pybpfvm.bits import align_up
from pybpfvm.errors import InputError, InternalError, TrapKind
from pybpfvm.pagecopies import Pages, copied, put_back

_WINDOW = 1 << 32
_HALF = 1 << 31
_PRIVATE = 1 << 30
PAGE = _mmap.PAGESIZE
_GUARD = PAGE
FRAME_STRIDE = PAGE + _GUARD  # from one stack frame to the next
_HANDLE_START = 0x10000  # below this offset nothing ever lives, so NULL + small offset faults
_HANDLE_END = 0x1000000

_libc = ctypes.CDLL(None, use_errno=True)
_mmap_call = _libc.mmap
_mmap_call.restype = ctypes.c_void_p
_mmap_call.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_munmap_call = _libc.munmap
_munmap_call.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_MAP_FIXED_NOREPLACE = 0x100000
# Far from where systems put programs, libraries and stacks, in 47-bit address spaces.
_PREFERRED = 0x2000_0000_0000
_PREFERRED_SLOTS = 8
_SLOT = 3 * _WINDOW
_HIGHEST = (1 << 47) - 3 * _WINDOW
_PROT_NONE = 0
_FAILED = ctypes.c_void_p(-1).value


class RegionKind(Enum):
    """What a region holds; the value is how messages call it."""

    STACK = "stack"
    CTX = "context"
    MAP_VALUE = "map value"
    PACKET = "packet"
    RING = "ring memory"
    RINGBUF = "ring buffer record"
    HOST = "host memory"  # ours: never reachable by a program
    USER = "user memory"
    SHARED = "shared memory"  # user memory that programs reach, too


@dataclass(frozen=True, slots=True)
class Region:
    """`size` bytes at `start`; `writable` says whether the program may store there.

    `owner` is the object that allocated the region, where helpers must find it from an address
    (ring buffer records); it takes no part in comparisons.
    """

    start: int
    size: int
    kind: RegionKind
    name: str
    writable: bool = True
    owner: object = field(default=None, compare=False, repr=False)

    @property
    def end(self) -> int:
        """First address after the region."""
        return self.start + self.size


class MemoryFault(Exception):
    """A program's access that no region allows. Engines turn it into a Trap with a pc."""

    def __init__(self, kind: TrapKind, addr: int, size: int, region: str) -> None:
        super().__init__(f"{kind.value}: {addr:#x} size {size} ({region})")
        self.kind = kind
        self.addr = addr
        self.size = size
        self.region = region


class UserFault(Exception):
    """A user-memory copy that met an address outside user memory (-EFAULT to the caller)."""


USER_KINDS = frozenset({RegionKind.USER, RegionKind.SHARED})


# What `_Ranges` has left: the next fresh address, and (start, bytes) freed.
_FreeState = tuple[int, tuple[tuple[int, int], ...]]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class MemorySnapshot:
    """The regions of an address space at `base` but for HOST ones, their bytes beside them, and
    what it would have given out next. Snapshots share the pages that did not change between them.
    """

    base: int
    regions: tuple[Region, ...]
    contents: tuple[Pages, ...]
    program_range: _FreeState
    user_range: _FreeState
    handles: Mapping[int, object]
    next_handle: int


# (region, its end, its bytes, may the program read, may it write)
_Entry = tuple[Region, int, memoryview, bool, bool]


class _Ranges:
    """Free addresses of one window: fresh ones first, then the oldest freed that are enough."""

    def __init__(self, start: int, end: int) -> None:
        self.fresh = start
        self._end = end
        self._freed: list[tuple[int, int]] = []  # (start, bytes), in the order they were freed
        self._ahead: list[tuple[int, int]] = []  # the same, not free among the fresh ones; by start

    def take(self, span: int) -> int | None:
        """The start of `span` free bytes, None if there are none."""
        while self._ahead and self.fresh + span > self._ahead[0][0]:
            start, taken = self._ahead.pop(0)
            if self.fresh < start:
                self._freed.append((self.fresh, start - self.fresh))
            self.fresh = max(self.fresh, start + taken)
        if self.fresh + span <= self._end:
            start = self.fresh
            self.fresh += span
            return start
        found = self._from_freed(span)
        if found is None and self._freed:
            self._merge()
            found = self._from_freed(span)
        return found

    def give(self, start: int, span: int) -> None:
        """Take back what `take` gave."""
        if (start, span) in self._ahead:
            self._ahead.remove((start, span))
        else:
            self._freed.append((start, span))

    def state(self) -> _FreeState:
        """What is free, for `restore`."""
        return self.fresh, tuple(self._freed)

    def restore(self, state: _FreeState, taken: Sequence[tuple[int, int]] = ()) -> None:
        """Have free again what was, but for what is `taken`: (start, bytes), by start."""
        self.fresh = state[0]
        self._ahead = [(start, span) for start, span in taken if start >= self.fresh]
        self._freed = []
        for start, free in state[1]:
            for at, span in taken:
                if start <= at < start + free:
                    if start < at:
                        self._freed.append((start, at - start))
                    free -= at + span - start
                    start = at + span
            if free:
                self._freed.append((start, free))

    def _from_freed(self, span: int) -> int | None:
        for index, (start, free) in enumerate(self._freed):
            if free >= span:
                del self._freed[index]
                if free > span:
                    self._freed.append((start + span, free - span))
                return start
        return None

    def _merge(self) -> None:
        """Join neighbours, and what borders on the fresh addresses with them."""
        merged: list[tuple[int, int]] = []
        for start, span in sorted(self._freed):
            if merged and sum(merged[-1]) == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + span)
            else:
                merged.append((start, span))
        if merged and sum(merged[-1]) == self.fresh:
            start, span = merged.pop()
            merged.append((start, span + self._end - self.fresh))
            self.fresh = self._end
        self._freed = merged


def _map(start: int, span: int, protection: int) -> bool:
    """Give the pages new, zeroed content and this protection; False if the system refuses."""
    flags = _mmap.MAP_PRIVATE | _mmap.MAP_ANONYMOUS | _MAP_FIXED | _MAP_NORESERVE
    return bool(_mmap_call(start, span, protection, flags, -1, 0) == start)


_READ_WRITE = _mmap.PROT_READ | _mmap.PROT_WRITE


def _map_twice(start: int, span: int) -> int | None:
    """Map the same new, zeroed pages read-only at `start` and writable elsewhere; where that is,
    None if the system refuses."""
    try:
        fd = os.memfd_create("pybpfvm read-only", os.MFD_CLOEXEC)
    except OSError:
        return None
    try:
        os.ftruncate(fd, span)
        twin: int | None = _mmap_call(None, span, _READ_WRITE, _mmap.MAP_SHARED, fd, 0)
        if twin is None or twin == _FAILED:
            return None
        flags = _mmap.MAP_SHARED | _MAP_FIXED
        if _mmap_call(start, span, _mmap.PROT_READ, flags, fd, 0) != start:
            _munmap_call(twin, span)
            return None
        return twin
    except OSError:
        return None
    finally:
        os.close(fd)


def _reserve_at(base: int) -> None:
    """The private range and two windows without access, at this base. InputError if it is taken."""
    what, reserved = f"base {base:#x}", _PRIVATE + 2 * _WINDOW
    if base % _WINDOW or not _WINDOW <= base <= _HIGHEST:
        raise InputError(
            "no address space begins here",
            where=what,
            remedy="take a multiple of 4 GiB, below 128 TiB",
        )
    addr = _claim(base - _PRIVATE, reserved, _MAP_FIXED_NOREPLACE)
    if addr == base - _PRIVATE:
        return
    if addr is not None:
        _munmap_call(addr, reserved)
    raise InputError(
        "these addresses are taken, or refused by the system",
        where=what,
        remedy="close the machine that has them, use another process, or raise ulimit -v",
    )


def _reserve() -> int:
    """The private range and two windows without access, where they were the last time if that is
    free: a program sees addresses, so a run is the same run only at the same place. The base of
    the windows; InputError where none are left."""
    reserved = _PRIVATE + 2 * _WINDOW
    for slot in range(_PREFERRED_SLOTS):
        wanted = _PREFERRED + slot * _SLOT - _PRIVATE
        addr = _claim(wanted, reserved, _MAP_FIXED_NOREPLACE)
        if addr == wanted:
            return wanted + _PRIVATE
        if addr is not None:  # a kernel that takes the address for a hint only
            _munmap_call(addr, reserved)
    span = reserved + _WINDOW
    addr = _claim(None, span, 0)
    if addr is None:
        raise InputError(
            "cannot reserve 13 GiB of address space",
            remedy="raise the address-space limit (ulimit -v unlimited)",
        )
    base = align_up(addr + _PRIVATE, _WINDOW)
    if base - _PRIVATE > addr:
        _munmap_call(addr, base - _PRIVATE - addr)
    _munmap_call(base + 2 * _WINDOW, addr + span - base - 2 * _WINDOW)
    return base


def _claim(wanted: int | None, span: int, flags: int) -> int | None:
    flags |= _mmap.MAP_PRIVATE | _mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    addr: int | None = _mmap_call(wanted, span, _PROT_NONE, flags, -1, 0)
    return None if addr is None or addr == _FAILED else addr


class Watcher(Protocol):
    """Whoever is told which regions and handles there are: recordings."""

    def came(self, region: Region) -> None:
        """The region is there, zeroed."""

    def went(self, region: Region) -> None:
        """The region is no more."""

    def named(self, addr: int, target: object) -> None:
        """The handle `addr` stands for `target`."""


class AddressSpace:
    """Reserved range of one loaded image; a context manager that gives everything back.

    `load`/`store` are the program's own accesses (checked, little- or big-endian by
    `byteorder`); `read`/`write` are the VM's (any region but user memory, permissions ignored);
    `user_read`/`user_write` are the fault-safe copies to and from user memory.
    """

    def __init__(self, *, limit_bytes: int = 1 << 30, base: int | None = None) -> None:
        """`base`: where the windows lie, for a run that is to see the addresses of another.
        InputError if something else lies there."""
        self.byteorder: Literal["little", "big"] = "little"
        self.limit_bytes = limit_bytes
        self.committed_bytes = 0
        if base is not None:
            _reserve_at(base)
        self.base: int = _reserve() if base is None else base
        self.user_base = self.base + _WINDOW
        # By address: where regions start, and beside each its entry.
        self._starts: list[int] = []
        self._entries: list[_Entry] = []
        # What each region's view looks at: dead once the view and all slices of it are gone.
        self._buffers: dict[int, weakref.ref[ctypes.Array[ctypes.c_ubyte]]] = {}
        self._private_range = _Ranges(self.base - _PRIVATE, self.base)
        self._program_range = _Ranges(self.base + _HANDLE_END, self.base + _HALF)
        self._user_range = _Ranges(self.user_base + _HALF, self.user_base + _WINDOW)
        self._handles: dict[int, object] = {}
        self._next_handle = self.base + _HANDLE_START
        self._closed = False
        self.watcher: Watcher | None = None
        self.changes = 0  # grows with each region that comes or goes
        self._before_close: list[Callable[[], None]] = []
        self._on_free: list[Callable[[RegionKind], None]] = []
        self._pins: dict[int, int] = {}  # by where regions start: how often each is pinned
        self._pinning = threading.Lock()
        # Where read-only regions are writable for us, and how long that is.
        self._twins: dict[int, tuple[int, int]] = {}
        # Where regions were whose pages are left to slices, and how long they are.
        self._left: dict[int, int] = {}
        # What was taken or restored, the last one last.
        self._snapshots: list[weakref.ref[MemorySnapshot]] = []
        # Where regions lie that going back leaves alone; whether those that come are such.
        self._lasting: set[int] = set()
        self._lasts = False

    def __enter__(self) -> AddressSpace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()

    @property
    def closed(self) -> bool:
        """Whether everything was given back."""
        return self._closed

    def before_close(self, action: Callable[[], None]) -> None:
        """Have `close` call `action` first: for whoever lets the kernel write to user memory."""
        self._before_close.append(action)

    def forget_before_close(self, action: Callable[[], None]) -> None:
        """Take `before_close` back; unknown actions are ignored."""
        if action in self._before_close:
            self._before_close.remove(action)

    def on_free(self, action: Callable[[RegionKind], None]) -> None:
        """Have `free` call `action` with what was freed: for engines that remember where regions
        are."""
        self._on_free.append(action)

    def forget_on_free(self, action: Callable[[RegionKind], None]) -> None:
        """Take `on_free` back."""
        self._on_free.remove(action)

    def close(self) -> None:
        """Unmap everything. Accesses afterwards fault; closing twice is fine.

        While someone holds a slice of a region's bytes the range stays reserved: a stale slice
        must not reach memory that has become someone else's.
        """
        if self._closed:
            return
        while self._before_close:
            action = self._before_close[-1]
            action()  # who refuses stays, and so does everything
            self.forget_before_close(action)
        self._closed = True
        for entry in self._entries:
            entry[2].release()
        self._entries.clear()
        self._starts.clear()
        self.committed_bytes = 0
        if all(buffer() is None for buffer in self._buffers.values()):
            _munmap_call(self.base - _PRIVATE, _PRIVATE + 2 * _WINDOW)
            for twin, span in self._twins.values():
                _munmap_call(twin, span)
            self._twins.clear()

    @contextmanager
    def lasting(self) -> Iterator[None]:
        """Regions that come inside outlast going back to earlier snapshots: frames of an engine
        that is to go on, in the main."""
        self._lasts = True
        try:
            yield
        finally:
            self._lasts = False

    def alloc(
        self,
        size: int,
        kind: RegionKind,
        name: str,
        *,
        writable: bool = True,
        owner: object = None,
    ) -> Region:
        """A zeroed region of `size` bytes (at least 1), page-aligned, between guard gaps.

        Addresses of freed regions are given out again only when no fresh ones are left, so a
        stale pointer faults rather than reads something else. Raises InputError when the region
        would exceed `limit_bytes`, the system refuses it, or the address space is closed.
        """
        if size < 1:
            raise InputError(f"a region of {size} bytes", where=name, remedy="ask for 1 or more")
        span = align_up(size, PAGE)
        start = self._take(span, span + _GUARD, kind, name)
        try:
            return self._establish(start, size, kind, name, writable=writable, owner=owner)
        except InputError:
            self._ranges_of(kind).give(start, span + _GUARD)
            raise

    def alloc_at(
        self, start: int, size: int, kind: RegionKind, name: str, *, writable: bool = True
    ) -> Region:
        """A zeroed region where a recording had it. `place` says where others come: this takes
        nothing from the addresses that `alloc` gives out.

        Raises InputError where that is no place for it, else as `alloc`.
        """
        span = align_up(max(size, 1), PAGE)
        low, high = self._bounds_of(kind)
        inside = low <= start and start + span + _GUARD <= high and start % PAGE == 0
        index = bisect_left(self._starts, start)
        below = self._entries[index - 1][1] if index else 0
        above = self._starts[index] if index < len(self._starts) else high
        if size < 1 or not inside or below > start or above < start + span:
            raise InputError(f"{size} bytes at {start:#x}, which is no free place", where=name)
        if self._closed or self.committed_bytes + span > self.limit_bytes:
            raise InputError(f"{size} bytes exceed the memory limit", where=name)
        return self._establish(start, size, kind, name, writable=writable)

    def _bounds_of(self, kind: RegionKind) -> tuple[int, int]:
        """From where to where regions of a kind lie."""
        if kind is RegionKind.USER:
            return self.user_base + _HALF, self.user_base + _WINDOW
        if kind is RegionKind.HOST:
            return self.base - _PRIVATE, self.base
        return self.base + _HANDLE_END, self.base + _HALF

    @property
    def place(self) -> tuple[int, int]:
        """Where the next new program memory comes to lie, and the next handle."""
        return self._program_range.fresh, self._next_handle

    @place.setter
    def place(self, place: tuple[int, int]) -> None:
        """Go on there, as a recording did. Raises InputError for what can not be."""
        start, handle = place
        low, high = self._bounds_of(RegionKind.STACK)
        first = self.base + _HANDLE_START
        if not low <= start <= high or start % PAGE:
            raise InputError(f"program memory at {start:#x}, where none can be")
        if not first <= handle <= self.base + _HANDLE_END or handle % 8:
            raise InputError(f"a handle at {handle:#x}, where none can be")
        self._program_range.fresh = start
        self._next_handle = handle

    def alloc_frames(self, count: int, size: int) -> list[Region]:
        """Regions for `count` stack frames of up to a page, each FRAME_STRIDE above the last."""
        start = self._take(count * PAGE, count * FRAME_STRIDE, RegionKind.STACK, "stack")
        frames: list[Region] = []
        try:
            for depth in range(count):
                at = start + depth * FRAME_STRIDE
                frames.append(self._establish(at, size, RegionKind.STACK, f"frame {depth}"))
        except InputError:
            for frame in frames:
                self.free(frame)
            used = len(frames) * FRAME_STRIDE
            self._program_range.give(start + used, count * FRAME_STRIDE - used)
            raise
        return frames

    def _take(self, committed: int, span: int, kind: RegionKind, name: str) -> int:
        """`span` free addresses for regions that will commit so many bytes."""
        if self._closed:
            raise InputError("the machine is closed", where=name)
        fits = self.committed_bytes + committed <= self.limit_bytes
        start = self._ranges_of(kind).take(span) if fits else None
        if start is None:
            raise InputError(
                f"{committed} bytes of {kind.value} exceed the memory limit of {self.limit_bytes}",
                where=name,
                remedy="use smaller maps or blocks, or raise the limit",
            )
        return start

    def _establish(
        self,
        start: int,
        size: int,
        kind: RegionKind,
        name: str,
        *,
        writable: bool = True,
        owner: object = None,
    ) -> Region:
        """Commit a region at an address that was taken for it. InputError where something lies:
        `place` can lead there."""
        region = Region(start, size, kind, name, writable, owner)
        index = bisect_left(self._starts, start)
        below = self._entries[index - 1][1] if index else start
        above = self._starts[index] if index < len(self._starts) else start + size
        if below > start or above < start + size:
            raise InputError(f"{size} bytes at {start:#x}, which is no free place", where=name)
        self._map_region(region)
        self._enter(region)
        if self._lasts and kind is not RegionKind.HOST:
            self._lasting.add(start)
        if self.watcher is not None:
            self.watcher.came(region)
        return region

    def _map_region(self, region: Region) -> None:
        """Give the region new, zeroed pages."""
        start, span = region.start, align_up(region.size, PAGE)
        ours: int | None = start
        if not region.writable and region.kind is not RegionKind.USER:
            ours = _map_twice(start, span)
        elif not _map(start, span, _READ_WRITE):
            ours = None
        if ours is None:
            raise InputError(
                f"the system refuses {region.size} bytes after {len(self._starts)} regions",
                where=region.name,
                remedy="use fewer maps or blocks, or raise vm.max_map_count",
            )
        if ours != start:
            self._twins[start] = (ours, span)

    def _enter(self, region: Region) -> None:
        """The region, which has its pages, is there from now on."""
        start, kind = region.start, region.kind
        self.committed_bytes += align_up(region.size, PAGE)
        self.changes += 1
        readable = kind not in (RegionKind.USER, RegionKind.HOST)
        index = bisect_right(self._starts, start)
        entry = (region, region.end, self._bytes(region), readable, readable and region.writable)
        self._starts.insert(index, start)
        self._entries.insert(index, entry)

    def _bytes(self, region: Region) -> memoryview:
        """The region's pages, as those see them who hold slices of them."""
        start = region.start
        buffer = self._buffers[start]() if start in self._buffers else None
        if buffer is None:
            ours = self._twins[start][0] if start in self._twins else start
            buffer = (ctypes.c_ubyte * region.size).from_address(ours)
            self._buffers[start] = weakref.ref(buffer)
        return memoryview(buffer).cast("B")

    def free(self, *regions: Region) -> None:
        """Take these regions out of existence, one after the other.

        While someone holds a slice of its bytes, its pages stay for that slice alone (until
        `close`): a stale slice must not crash the process, nor see what comes there next.
        After `close`, which gave everything back, this does nothing. InputError while it is pinned.
        """
        if self._closed:
            return
        gone: dict[int, int] = {}
        try:
            for region in regions:
                if self._withdraw(region):
                    gone[region.start] = align_up(region.size, PAGE)
        finally:
            self._unmap(gone)
            for region in regions:
                if region.start in gone:
                    self._ranges_of(region.kind).give(region.start, gone[region.start] + _GUARD)

    def _withdraw(self, region: Region) -> bool:
        """Let nobody find the region any more; whether no slice looks at its pages."""
        what = f"{region.kind.value} {region.name}"
        with self._pinning:
            index = bisect_left(self._starts, region.start)
            if index == len(self._starts) or self._entries[index][0] is not region:
                raise InternalError(f"{what} is freed, but does not exist")
            if region.start in self._pins:
                raise InputError(
                    f"{what} is pinned: programs of a ring may access it",
                    where=region.name,
                    remedy="unregister it when its requests are over, or close the ring",
                )
            entry = self._entries[index]
            entry[2].release()
            self._leave(index)
        for action in self._on_free:
            action(region.kind)
        if self.watcher is not None:
            self.watcher.went(region)
        if self._buffers[region.start]() is None:
            return True
        self._left[region.start] = align_up(region.size, PAGE)
        return False

    def _leave(self, index: int) -> None:
        """The region, whose bytes were released, is there no more."""
        self.committed_bytes -= align_up(self._entries[index][0].size, PAGE)
        self.changes += 1
        self._lasting.discard(self._starts[index])
        del self._starts[index], self._entries[index]

    def _unmap(self, spans: Mapping[int, int]) -> None:
        """Give pages back that no slice looks at: how many bytes, by where they start."""
        joined: list[tuple[int, int]] = []
        for start in sorted(spans):
            del self._buffers[start]
            if start in self._twins:
                _munmap_call(*self._twins.pop(start))
            first = start
            if joined and sum(joined[-1]) + _GUARD == start:  # one call for neighbours
                first, _ = joined.pop()
            joined.append((first, start + spans[start] - first))
        for start, span in joined:
            if not _map(start, span, _PROT_NONE):
                raise InternalError(f"unmapping {span} bytes at {start:#x} failed")

    def snapshot(self) -> MemorySnapshot:
        """What regions there are but for HOST ones, their bytes, and what would be given out next.

        It costs a look at all bytes, and memory for the pages that differ from the snapshot that
        was taken or restored last. InputError after `close`.
        """
        if self._closed:
            raise InputError("the machine is closed", where="snapshot")
        latest = self._latest()
        known: dict[int, Pages] = {}
        if latest is not None:
            known = {id(r): c for r, c in zip(latest.regions, latest.contents, strict=True)}
        seen = [entry for entry in self._entries if entry[0].kind is not RegionKind.HOST]
        taken = MemorySnapshot(
            self.base,
            tuple(entry[0] for entry in seen),
            tuple(copied(entry[2], known.get(id(entry[0]))) for entry in seen),
            self._program_range.state(),
            self._user_range.state(),
            dict(self._handles),
            self._next_handle,
        )
        self._snapshots.append(weakref.ref(taken))
        return taken

    def _latest(self) -> MemorySnapshot | None:
        """The snapshot that was taken or restored last, of those that someone has."""
        while self._snapshots:
            found = self._snapshots[-1]()
            if found is not None:
                return found
            self._snapshots.pop()
        return None

    def restore(self, snapshot: MemorySnapshot) -> None:
        """Have again what `snapshot` found: the same regions with the same bytes, and the addresses
        and handles next that came next then. HOST regions and pins stay as they are. What is
        `lasting` stays, too, zeroed if it came since, and what comes next goes around it.

        InputError, and nothing changes, where a region came since that is pinned, or that someone
        holds a slice of.
        """
        if self._closed or snapshot.base != self.base:
            raise InputError("the snapshot's machine is closed", where="restore")
        with self._pinning:
            before = {id(region) for region in snapshot.regions}
            came = [
                entry[0]
                for entry in self._entries
                if entry[0].kind is not RegionKind.HOST and id(entry[0]) not in before
            ]
            going = [region for region in came if region.start not in self._lasting]
            stays = [region for region in came if region.start in self._lasting]
            self._require_apart(stays, snapshot)
            self._let_go(going, snapshot)
            present = {id(entry[0]) for entry in self._entries}
            for region in snapshot.regions:
                if id(region) not in present:
                    self._come_back(region)
            lasting = [one for one in self.regions() if one.start in self._lasting]
            taken = [(one.start, align_up(one.size, PAGE) + _GUARD) for one in lasting]
            self._program_range.restore(snapshot.program_range, taken)
            self._user_range.restore(snapshot.user_range)
            self._handles = dict(snapshot.handles)
            self._next_handle = snapshot.next_handle
            views = (entry[2] for entry in self._entries if id(entry[0]) in before)
            for view, pages in zip(views, snapshot.contents, strict=True):
                put_back(view, pages)
            for region in stays:
                self.write(region.start, bytes(region.size))
            others = [ref for ref in self._snapshots if ref() is not snapshot]
            self._snapshots = [*others, weakref.ref(snapshot)]
        for kind in {region.kind for region in going}:
            for action in self._on_free:
                action(kind)

    def _require_apart(self, stays: Sequence[Region], snapshot: MemorySnapshot) -> None:
        """Raise InputError where what stays lies where a region comes back."""
        for one in stays:
            for region in snapshot.regions:
                if one.start < region.end and region.start < one.end:
                    raise InputError(
                        f"{one.name} at {one.start:#x} came after the snapshot, and is in use",
                        where="restore",
                        remedy=f"close its engine: {region.name} comes back there",
                    )

    def _let_go(self, going: list[Region], snapshot: MemorySnapshot) -> None:
        """Take these regions out of existence, and pages left to slices that are gone."""
        indices = [bisect_left(self._starts, region.start) for region in going]
        for index in indices:
            self._entries[index][2].release()
        coming = {r.start for r in snapshot.regions} - {r.start for r in going}
        spans = {r.start: align_up(r.size, PAGE) for r in going}
        left = {at: span for at, span in self._left.items() if at >= self.base and at not in coming}
        held = [at for at in (*spans, *left) if self._buffers[at]() is not None]
        pinned = [at for at in spans if at in self._pins]
        if held or pinned:
            for region, index in zip(going, indices, strict=True):
                entry = self._entries[index]
                self._entries[index] = (region, entry[1], self._bytes(region), *entry[3:])
            at, why = (*((at, "is held") for at in held), *((at, "is pinned") for at in pinned))[0]
            raise InputError(
                f"memory at {at:#x}, which came after the snapshot, {why}",
                where="restore",
                remedy="let go of slices of its bytes, and unregister it from rings",
            )
        for index in reversed(indices):
            self._leave(index)
        self._unmap(spans | left)
        for at in left:
            del self._left[at]

    def _come_back(self, region: Region) -> None:
        """A region that was freed is there again, with the pages that slices still hold."""
        start = region.start
        span = self._left.pop(start, None)
        if span is not None and self._buffers[start]() is None:
            self._unmap({start: span})
            span = None
        if span is None:
            self._map_region(region)
        self._enter(region)

    def pin_at(self, addr: int, size: int, kinds: Container[RegionKind]) -> Region | None:
        """Keep the region that holds `size` bytes at `addr` until `unpin` was called as often;
        None where there is none of these kinds."""
        with self._pinning:  # another thread may free it
            found = self._find(addr, size)
            if found is None or found[0].kind not in kinds:
                return None
            self._pins[found[0].start] = self._pins.get(found[0].start, 0) + 1
            return found[0]

    def unpin(self, region: Region) -> None:
        """Take one `pin_at` back."""
        with self._pinning:
            self._pins[region.start] -= 1
            if not self._pins[region.start]:
                del self._pins[region.start]

    def _ranges_of(self, kind: RegionKind) -> _Ranges:
        if kind is RegionKind.USER:
            return self._user_range
        return self._private_range if kind is RegionKind.HOST else self._program_range

    def handle(self, target: object) -> int:
        """An address that stands for `target` and can not be accessed."""
        addr = self._next_handle
        self._next_handle += 8
        if self._next_handle > self.base + _HANDLE_END:
            raise InputError("more than two million handles", remedy="use fewer maps")
        self._handles[addr] = target
        if self.watcher is not None:
            self.watcher.named(addr, target)
        return addr

    def resolve(self, addr: int) -> object | None:
        """What `handle` gave `addr` for, or None."""
        return self._handles.get(addr)

    def regions(self) -> list[Region]:
        """All regions, by address."""
        return [entry[0] for entry in self._entries]

    def region_at(self, addr: int) -> Region | None:
        """The region that holds `addr`, or None."""
        found = self._find(addr, 1)
        return found[0] if found else None

    def _find(self, addr: int, size: int) -> tuple[Region, memoryview] | None:
        index = bisect_right(self._starts, addr) - 1
        if index < 0:
            return None
        region, end, view, _, _ = self._entries[index]
        return (region, view) if addr + size <= end else None

    def explain(self, addr: int) -> str:
        """Where `addr` lies, for messages: the region it is in, or the nearest one below."""
        if self.base <= addr < self.base + _HANDLE_END and addr in self._handles:
            return f"handle of {self._handles[addr]}"
        index = bisect_right(self._starts, addr) - 1
        if index < 0:
            return "below every region"
        region = self._entries[index][0]
        offset = addr - region.start
        if region.kind is RegionKind.HOST:  # which programs know nothing of
            return "below every region"
        if offset < region.size:
            return f"{region.kind.value} {region.name}+{offset}"
        if offset - region.size >= _WINDOW:
            return "above every region"
        return f"{offset - region.size} bytes past the end of {region.kind.value} {region.name}"

    def check(self, addr: int, size: int, *, write: bool) -> tuple[Region, memoryview, int]:
        """The region, its bytes and the offset of a program's access; raises MemoryFault."""
        index = bisect_right(self._starts, addr) - 1
        if index >= 0:
            region, end, view, readable, writable = self._entries[index]
            if addr + size <= end and (writable if write else readable):
                return region, view, addr - region.start
        raise self._fault(addr, size)

    def _fault(self, addr: int, size: int) -> MemoryFault:
        """Why the access is refused: no region holds it, or one that does not allow it."""
        found = self._find(addr, size)
        if found is None or found[0].kind is RegionKind.HOST:
            if addr < _HANDLE_START:
                kind = TrapKind.NULL
            elif addr in self._handles:
                kind = TrapKind.NOT_MEMORY
            else:
                kind = TrapKind.OUT_OF_BOUNDS
        elif found[0].kind is RegionKind.USER:
            kind = TrapKind.USER_MEMORY
        else:
            kind = TrapKind.READ_ONLY
        return MemoryFault(kind, addr, size, self.explain(addr))

    def load(self, addr: int, size: int) -> int:
        """The program reads `size` bytes at `addr`, zero-extended. Raises MemoryFault."""
        _, view, offset = self.check(addr, size, write=False)
        return int.from_bytes(view[offset : offset + size], self.byteorder)

    def store(self, addr: int, size: int, value: int) -> None:
        """The program writes the low `size` bytes of `value` at `addr`. Raises MemoryFault."""
        _, view, offset = self.check(addr, size, write=True)
        value &= (1 << (8 * size)) - 1
        view[offset : offset + size] = value.to_bytes(size, self.byteorder)

    def program_read(self, addr: int, size: int) -> bytes:
        """Bytes that a helper reads on the program's behalf (0 bytes anywhere is fine)."""
        if size == 0:
            return b""
        _, view, offset = self.check(addr, size, write=False)
        return bytes(view[offset : offset + size])

    def program_write(self, addr: int, data: bytes) -> None:
        """Bytes that a helper writes on the program's behalf."""
        if data:
            _, view, offset = self.check(addr, len(data), write=True)
            view[offset : offset + len(data)] = data

    def read(self, addr: int, size: int) -> bytes:
        """The VM reads its own structures. An address outside every region is our bug."""
        found = self._find(addr, size)
        if found is None:
            raise InternalError(f"read of {size} bytes at {addr:#x}: {self.explain(addr)}")
        offset = addr - found[0].start
        return bytes(found[1][offset : offset + size])

    def look(self, addr: int, size: int) -> bytes | None:
        """What a person who looks at programs and user memory reads; None where none of theirs
        is."""
        found = self._find(addr, size)
        if found is None or found[0].kind is RegionKind.HOST:
            return None
        offset = addr - found[0].start
        return bytes(found[1][offset : offset + size])

    def write(self, addr: int, data: bytes) -> None:
        """The VM writes its own structures. An address outside every region is our bug."""
        found = self._find(addr, len(data))
        if found is None:
            raise InternalError(f"write of {len(data)} bytes at {addr:#x}: {self.explain(addr)}")
        offset = addr - found[0].start
        found[1][offset : offset + len(data)] = data

    def view(self, region: Region) -> memoryview:
        """The live bytes of a region. It must not be kept beyond the region's life."""
        found = self._find(region.start, region.size)
        if found is None or found[0] is not region:
            raise InternalError(f"bytes of {region.kind.value} {region.name}, which was freed")
        return found[1]

    def is_user(self, addr: int, size: int) -> bool:
        """Whether one block of user memory holds all of [addr, addr + size)."""
        if size == 0:
            return True
        found = self._find(addr, size)
        return found is not None and found[0].kind in USER_KINDS

    def user_read(self, addr: int, size: int) -> bytes:
        """Copy from user memory; raises UserFault unless one block holds all of it."""
        if size == 0:
            return b""
        found = self._find(addr, size)
        if found is None or found[0].kind not in USER_KINDS:
            raise UserFault(f"{size} bytes at {addr:#x}: {self.explain(addr)}")
        offset = addr - found[0].start
        return bytes(found[1][offset : offset + size])

    def user_write(self, addr: int, data: bytes) -> None:
        """Copy to user memory.

        Raises UserFault unless all of it fits; the bytes before the fault are written, as the
        kernel's copy does.
        """
        if not data:
            return
        found = self._find(addr, 1)
        if found is None or found[0].kind not in USER_KINDS:
            raise UserFault(f"{len(data)} bytes at {addr:#x}: {self.explain(addr)}")
        offset = addr - found[0].start
        fits = min(len(data), found[0].size - offset)
        found[1][offset : offset + fits] = data[:fits]
        if fits < len(data):
            raise UserFault(f"{len(data)} bytes at {addr:#x}: {self.explain(addr + fits)}")

    def user_cstring(self, addr: int, limit: int = 4096) -> bytes:
        """A NUL-terminated user string without its NUL; UserFault if it runs out of its block."""
        found = self._find(addr, 1)
        if found is None or found[0].kind not in USER_KINDS:
            raise UserFault(f"string at {addr:#x}: {self.explain(addr)}")
        offset = addr - found[0].start
        raw = bytes(found[1][offset : offset + limit])
        end = raw.find(b"\0")
        if end < 0:
            raise UserFault(f"string at {addr:#x} is not terminated")
        return raw[:end]
