"""Registered files and buffers with tags: a CQE tells when a tagged one is used no more."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from pybpfvm.memory import AddressSpace
from pybpfvm.uring_backend.abi import REGISTER_FILES_SKIP
from pybpfvm.uring_backend.sim.descriptors import MAX_SLOTS, FdTable, OpenFile
from pybpfvm.uring_backend.sim.request import Refused

_MAX_BUFFERS: Final = 1 << 14
_MAX_BUFFER_BYTES: Final = 1 << 30

T = TypeVar("T")
Tell = Callable[[int], None]
"""Posts the CQE of a tag."""


class Resource:
    """What a slot refers to. It is given up when its slot has something else and no request
    uses it any more."""

    __slots__ = ("_tell", "tag", "users")

    def __init__(self, tag: int, tell: Tell) -> None:
        self.tag = tag
        self.users = 1
        self._tell = tell

    def use(self) -> None:
        """Somebody uses it."""
        self.users += 1

    def drop(self) -> None:
        """Somebody does so no more."""
        self.users -= 1
        if not self.users:
            self.released()
            if self.tag:
                self._tell(self.tag)

    def released(self) -> None:
        """Nobody uses it."""


class RegisteredFile(Resource):
    """A file in a slot."""

    __slots__ = ("file",)

    def __init__(self, file: OpenFile, tag: int, tell: Tell) -> None:
        super().__init__(tag, tell)
        self.file = file.hold()

    def released(self) -> None:
        self.file.drop()


class Buffer(Resource):
    """A block of user memory in a slot."""

    __slots__ = ("addr", "size")

    def __init__(self, addr: int, size: int, tag: int, tell: Tell) -> None:
        super().__init__(tag, tell)
        self.addr = addr
        self.size = size


class SlotTable:
    """Registered files: IORING_REGISTER_FILES and everything that works on its table."""

    def __init__(self, fds: FdTable, tell: Tell) -> None:
        self._fds = fds
        self._tell = tell
        self._slots: list[RegisteredFile | None] | None = None
        self._range = (0, 0)  # where free slots are looked for
        self._hint = 0

    def register(self, fds: Sequence[int], tags: Sequence[int] = ()) -> int:
        """0 or -errno; -1 leaves a slot empty."""
        if self._slots is not None:
            return -errno.EBUSY
        if not fds:
            return -errno.EINVAL
        if len(fds) > MAX_SLOTS:
            return -errno.EMFILE
        slots: list[RegisteredFile | None] = []
        try:
            for fd, tag in _tagged(fds, tags):
                if fd == -1 and tag:
                    raise Refused(errno.EINVAL)
                file = None if fd == -1 else self._file(fd)
                slots.append(None if file is None else RegisteredFile(file, tag, self._tell))
        except Refused as refused:
            for slot in slots:
                if slot:
                    slot.tag = 0
                    slot.drop()
            return -refused.errno
        self._slots = slots
        self._range = (0, len(slots))
        self._hint = 0
        return 0

    def unregister(self) -> int:
        """0, or -ENXIO when there is no table."""
        if self._slots is None:
            return -errno.ENXIO
        slots, self._slots = self._slots, None
        for slot in reversed(slots):
            if slot:
                slot.drop()
        return 0

    def update(self, start: int, fds: Sequence[int], tags: Sequence[int] = ()) -> int:
        """Number of slots changed, or -errno when none was; -1 empties, -2 leaves alone."""
        if self._slots is None:
            return -errno.ENXIO
        if start + len(fds) > len(self._slots):
            return -errno.EINVAL
        for done, (fd, tag) in enumerate(_tagged(fds, tags)):
            if tag and fd in (-1, REGISTER_FILES_SKIP):
                return done or -errno.EINVAL
            if fd == REGISTER_FILES_SKIP:
                continue
            self._put(start + done, None)  # a slot is emptied even if its new file is no good
            try:
                if fd != -1:
                    self._put(start + done, self._file(fd), tag)
            except Refused as refused:
                return done or -refused.errno
        return len(fds)

    def _file(self, fd: int) -> OpenFile:
        """The file to be registered; a ring can not be."""
        file = self._fds.get(fd)
        if file.node.is_ring:
            raise Refused(errno.EBADF)
        return file

    def _put(self, slot: int, file: OpenFile | None, tag: int = 0) -> None:
        assert self._slots is not None
        old = self._slots[slot]
        made = None if file is None else RegisteredFile(file, tag, self._tell)
        self._slots[slot] = made
        if old or file:
            self._hint = slot if file is None else slot + 1
        if old:
            old.drop()

    def find(self, slot: int) -> RegisteredFile:
        """What a slot holds; Refused(EBADF)."""
        if self._slots is not None and 0 <= slot < len(self._slots):
            found = self._slots[slot]
            if found is not None:
                return found
        raise Refused(errno.EBADF)

    def get(self, slot: int) -> OpenFile:
        """The file in a slot; Refused(EBADF)."""
        return self.find(slot).file

    def set_range(self, start: int, count: int) -> int:
        """Where `alloc` looks: 0 or -errno."""
        if start + count > len(self._slots or ()):
            return -errno.EINVAL
        self._range = (start, start + count)
        self._hint = start
        return 0

    def check_slot(self, slot: int) -> None:
        """Refused unless `install` may put a file there (any state of the slot will do)."""
        if self._slots is None:
            raise Refused(errno.ENXIO)
        if slot >= len(self._slots):
            raise Refused(errno.EINVAL)

    def check_range(self, start: int, count: int) -> None:
        """Refused unless slots [start, start + count) exist."""
        if self._slots is None:
            raise Refused(errno.ENXIO)
        if start + count > len(self._slots):
            raise Refused(errno.EINVAL)

    @property
    def exists(self) -> bool:
        """Whether there is a table."""
        return self._slots is not None

    def install(self, slot: int, file: OpenFile) -> None:
        """Put a file into a slot, replacing what was there."""
        self.check_slot(slot)
        hint = self._hint
        taken = self._slots is not None and self._slots[slot] is not None
        self._put(slot, file)
        if taken:
            self._hint = hint

    def alloc(self) -> int:
        """An empty slot: from the one after the last change on, then from the beginning.
        Refused(ENFILE) when there is none (also without a table)."""
        first, end = self._range
        slots = self._slots or []
        start = min(max(self._hint, first), end)
        places: list[int] = [*range(start, end), *range(first, start)]
        for slot in places:
            if slot < len(slots) and slots[slot] is None:
                return slot
        raise Refused(errno.ENFILE)

    def remove(self, slot: int) -> None:
        """Empty a slot: Refused ENXIO without a table, EINVAL outside it, EBADF if empty."""
        self.check_slot(slot)
        self.get(slot)
        self._put(slot, None)


class RegisteredBuffers:
    """The table of IORING_REGISTER_BUFFERS."""

    def __init__(self, memory: AddressSpace, tell: Tell) -> None:
        self._memory = memory
        self._tell = tell
        self._table: list[Buffer | None] | None = None

    def register(self, buffers: Sequence[tuple[int, int]], tags: Sequence[int] = ()) -> int:
        """0 or -errno; (0, 0) leaves a slot empty."""
        if self._table is not None:
            return -errno.EBUSY
        if not buffers or len(buffers) > _MAX_BUFFERS:
            return -errno.EINVAL
        try:
            self._table = [
                self._made(addr, size, tag) for (addr, size), tag in _tagged(buffers, tags)
            ]
        except Refused as refused:
            return -refused.errno
        return 0

    def update(
        self, start: int, buffers: Sequence[tuple[int, int]], tags: Sequence[int] = ()
    ) -> int:
        """Number of slots changed, or -errno when none was."""
        if self._table is None:
            return -errno.ENXIO
        if start + len(buffers) > len(self._table):
            return -errno.EINVAL
        for done, ((addr, size), tag) in enumerate(_tagged(buffers, tags)):
            try:
                made = self._made(addr, size, tag)
            except Refused as refused:
                return done or -refused.errno
            old, self._table[start + done] = self._table[start + done], made
            if old:
                old.drop()
        return len(buffers)

    def _made(self, addr: int, size: int, tag: int) -> Buffer | None:
        if (addr, size) == (0, 0):
            if tag:
                raise Refused(errno.EINVAL)
            return None
        if not addr or not 0 < size <= _MAX_BUFFER_BYTES or not self._memory.is_user(addr, size):
            raise Refused(errno.EFAULT)
        return Buffer(addr, size, tag, self._tell)

    def unregister(self) -> int:
        """0, or -ENXIO when there is no table."""
        if self._table is None:
            return -errno.ENXIO
        table, self._table = self._table, None
        for buffer in reversed(table):
            if buffer:
                buffer.drop()
        return 0

    def clone(
        self, source: RegisteredBuffers, start: int, target: int, count: int, *, replace: bool
    ) -> int:
        """IORING_REGISTER_CLONE_BUFFERS: 0 or -errno. `count` 0 means all of them."""
        if self._table is not None and not replace:
            return -errno.EBUSY
        if not count and (start or target):
            return -errno.EINVAL
        theirs = source._table
        if theirs is None:
            return -errno.ENXIO
        count = count or len(theirs)
        if count > len(theirs):
            return -errno.EINVAL
        if start + count > len(theirs):
            return -errno.EOVERFLOW
        taken = theirs[start : start + count]
        table: list[Buffer | None] = list(self._table or ())
        table += [None] * (target + count - len(table))
        for index, buffer in enumerate(taken, target):
            old = table[index]
            table[index] = buffer and Buffer(buffer.addr, buffer.size, 0, self._tell)
            if old:
                old.drop()
        self._table = table
        return 0

    def find(self, index: int, addr: int, size: int) -> Buffer:
        """Buffer `index`, if it holds [addr, addr + size); else Refused(EFAULT)."""
        buffer = self.at(index)
        if addr < buffer.addr or addr + size > buffer.addr + buffer.size:
            raise Refused(errno.EFAULT)
        return buffer

    def at(self, index: int) -> Buffer:
        """Buffer `index`; Refused(EFAULT) if there is none."""
        buffer = self._table[index] if self._table and index < len(self._table) else None
        if buffer is None:
            raise Refused(errno.EFAULT)
        return buffer

    def place(self, index: int) -> tuple[int, int] | None:
        """(address, bytes) of buffer `index`, None if there is none."""
        try:
            buffer = self.at(index)
        except Refused:
            return None
        return buffer.addr, buffer.size


def _tagged(items: Sequence[T], tags: Sequence[int]) -> list[tuple[T, int]]:
    return [(item, tags[at] if at < len(tags) else 0) for at, item in enumerate(items)]
