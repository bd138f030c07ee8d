"""Groups of buffers that reads and receives choose from."""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING, Final

from pybpfvm.memory import AddressSpace
from pybpfvm.uring_backend.abi import CQE_BUFFER_SHIFT, CQE_F_BUFFER, Op
from pybpfvm.uring_backend.bufferrings import check_ring
from pybpfvm.uring_backend.sim.bufferring import BufferRing
from pybpfvm.uring_backend.sim.request import Issue, Refused, Request
from pybpfvm.uring_backend.sim.selection import Chosen

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Core

_MAX_IDS: Final = 1 << 16
_KEEP: Final = frozenset({Op.READ, Op.READV})
_MAX_PROVIDED: Final = 1 << 20  # in all groups: the kernel's limit is its memory


class Provided:
    """A group made by PROVIDE_BUFFERS: used in the order in which they were given."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[int, int, int]] = deque()

    def choose_one(self, size: int) -> Chosen:
        """The first buffer, taken out: all of it for `size` 0, else as much. Refused ENOBUFS."""
        if not self.waiting:
            raise Refused(errno.ENOBUFS)
        whole = self.waiting.popleft()
        length = whole[2] if size == 0 else min(size, whole[2])
        return Chosen(self, [(*whole[:2], length)], emptied=not self.waiting, whole=whole)

    def choose(self, size: int, most: int) -> Chosen:
        """As `choose_one`: such a group gives one buffer at a time, whatever `most` says."""
        return self.choose_one(size)

    def put_back(self, chosen: Chosen) -> None:
        """A transfer that moved nothing gives back, as the first, what it had chosen."""
        self.waiting.appendleft(chosen.whole)

    def use(self, chosen: Chosen, size: int) -> int:
        """Of `chosen`, `size` bytes were used: the CQE's flags of it, for which this has none."""
        return 0

    @property
    def empty(self) -> bool:
        """Whether there is no buffer to choose."""
        return not self.waiting


class BufferGroups:
    """Groups of buffers that requests select from, by their ids."""

    def __init__(self, memory: AddressSpace) -> None:
        self._memory = memory
        self._groups: dict[int, Provided | BufferRing] = {}

    # --- PROVIDE_BUFFERS and REMOVE_BUFFERS -----------------------------------------------------

    def provide(self, group: int, first_id: int, addr: int, length: int, count: int) -> None:
        """Add consecutive buffers. Refused EINVAL (a ring), EOVERFLOW, ENOMEM (too many)."""
        provided = self._groups.setdefault(group, Provided())
        if not isinstance(provided, Provided):
            raise Refused(errno.EINVAL)
        if len(provided.waiting) + count > _MAX_IDS:
            raise Refused(errno.EOVERFLOW)
        if sum(len(g.waiting) for g in self._all_provided()) + count > _MAX_PROVIDED:
            raise Refused(errno.ENOMEM)
        for index in range(count):
            provided.waiting.append((first_id + index, addr + index * length, length))

    def _all_provided(self) -> list[Provided]:
        return [group for group in self._groups.values() if isinstance(group, Provided)]

    def remove(self, group: int, count: int) -> int:
        """Take up to `count` away: how many. Refused ENOENT, EINVAL (a ring)."""
        provided = self._group(group)
        if not isinstance(provided, Provided):
            raise Refused(errno.EINVAL)
        done = min(count, len(provided.waiting))
        for _ in range(done):
            provided.waiting.popleft()
        return done

    def _group(self, group: int) -> Provided | BufferRing:
        found = self._groups.get(group)
        if found is None:
            raise Refused(errno.ENOENT)
        return found

    # --- IORING_REGISTER_PBUF_RING --------------------------------------------------------------

    def register_ring(self, addr: int, entries: int, group: int, flags: int) -> int:
        """0 or -errno."""
        refused = check_ring(self._memory, addr, entries, flags)
        if refused:
            return -refused
        old = self._groups.get(group)
        if old is not None and not (isinstance(old, Provided) and old.empty):
            return -errno.EEXIST
        self._groups[group] = BufferRing(self._memory, addr, entries, flags)
        return 0

    def unregister_ring(self, group: int) -> int:
        """0, -ENOENT, or -EINVAL when the group is no ring."""
        ring = self._groups.get(group)
        if ring is None:
            return -errno.ENOENT
        if not isinstance(ring, BufferRing):
            return -errno.EINVAL
        del self._groups[group]
        return 0

    def ring_head(self, group: int) -> int:
        """How many buffers of a ring are used up, modulo 2**16; or -errno."""
        ring = self._groups.get(group)
        if ring is None:
            return -errno.ENOENT
        return ring.head if isinstance(ring, BufferRing) else -errno.EINVAL

    # --- selection ------------------------------------------------------------------------------

    def select(self, request: Request, size: int) -> tuple[int, int]:
        """(address, length) of the next buffer for a request that wants `size` bytes.

        0 means the whole buffer. Refused(ENOBUFS) when there is none, or no such group.
        """
        group = self._groups.get(request.sqe.buf_index)
        if group is None:
            raise Refused(errno.ENOBUFS)
        request.buffer = group.choose_one(size)
        return request.buffer.blocks[0]

    def select_many(self, request: Request, size: int, most: int) -> Chosen:
        """Up to `most` buffers for `size` bytes. Refused ENOENT for an unknown group, ENOBUFS."""
        request.buffer = self._group(request.sqe.buf_index).choose(size, most)
        return request.buffer

    def take(self, request: Request, size: int, most: int) -> None:
        """Select for a send: what is selected is used up, whatever becomes of it."""
        group = self._group(request.sqe.buf_index)
        # As much as is wanted is known for rings only.
        wanted = size if isinstance(group, BufferRing) else 0
        request.buffer = chosen = group.choose(wanted, most)
        chosen.flags = group.use(chosen, sum(length for _, length in chosen.blocks))
        chosen.held = True

    def wait(self, request: Request) -> None:
        """The request waits for its file: a READ keeps what it took from PROVIDE_BUFFERS until it
        is over, and names it even when it is cancelled; all else is put back."""
        chosen = request.buffer
        if (
            chosen is not None
            and request.sqe.opcode in _KEEP
            and isinstance(chosen.group, Provided)
        ):
            self.hold(request)
        else:
            self.put_back(request)

    def put_back(self, request: Request) -> None:
        """The selected buffer was not used after all."""
        if request.buffer is not None and not request.buffer.held:
            request.buffer.group.put_back(request.buffer)
            request.buffer = None

    def spend(self, request: Request, *, in_worker: bool) -> int:
        """A request failed with a buffer in hand, if any: the CQE flags. It is used up, unless that
        is left until the end."""
        chosen = request.buffer
        at_end = self._used_at_end(request, in_worker=in_worker)
        if chosen is not None and isinstance(chosen.group, BufferRing) and at_end:
            self.put_back(request)
            return 0
        return self.read_into(request, 0, in_worker=in_worker)

    def read_into(self, request: Request, size: int, *, in_worker: bool) -> int:
        """`size` bytes were read or received into the selected buffer: the CQE flags that name it;
        0 if none was selected. All that was selected is used up, unless that is left until the
        end."""
        chosen = request.buffer
        if chosen is not None and not self._used_at_end(request, in_worker=in_worker):
            size = sum(length for _, length in chosen.blocks)
        return self.consume(request, size)

    def _used_at_end(self, request: Request, *, in_worker: bool) -> bool:
        """Whether how much of a ring's buffer is used up is decided at the end, not when it is
        selected: by a file that could have the request wait, unless a worker performs it."""
        return request.file is not None and request.file.node.queue is not None and not in_worker

    def hold(self, request: Request) -> None:
        """The request waits with its buffer in hand: what has been filled by now is used up, what
        comes later is not counted."""
        chosen = request.buffer
        if chosen is not None and not chosen.held:
            chosen.group.use(chosen, request.done_bytes)
            chosen.held = True

    def consume(self, request: Request, size: int) -> int:
        """`size` bytes went through the selected buffer: the CQE flags that name it; 0 if none
        was selected."""
        chosen = request.buffer
        if chosen is None:
            return 0
        request.buffer = None
        more = chosen.flags if chosen.held else chosen.group.use(chosen, size)
        return CQE_F_BUFFER | chosen.buffers[0][0] << CQE_BUFFER_SHIFT | more


def prepare_provide(core: Core, request: Request) -> Issue:
    """PROVIDE_BUFFERS: Sqe.fd buffers of Sqe.len bytes at Sqe.addr, ids from Sqe.off."""
    sqe = request.sqe
    count, first_id = sqe.fd, sqe.off
    if sqe.op_flags or sqe.file_index:
        raise Refused(errno.EINVAL)
    if not 0 < count <= _MAX_IDS:
        raise Refused(errno.E2BIG)
    if not sqe.len:
        raise Refused(errno.EINVAL)
    if not core.memory.is_user(sqe.addr, sqe.len * count):
        raise Refused(errno.EFAULT)
    if first_id >= _MAX_IDS:
        raise Refused(errno.E2BIG)
    if first_id + count > _MAX_IDS:
        raise Refused(errno.EINVAL)

    def issue() -> int:
        core.groups.provide(sqe.buf_index, first_id, sqe.addr, sqe.len, count)
        return 0

    return issue


def prepare_remove(core: Core, request: Request) -> Issue:
    """REMOVE_BUFFERS: up to Sqe.fd buffers of a group; their number."""
    sqe = request.sqe
    if sqe.op_flags or sqe.addr or sqe.len or sqe.off or sqe.file_index:
        raise Refused(errno.EINVAL)
    if not 0 < sqe.fd <= _MAX_IDS:
        raise Refused(errno.EINVAL)
    return lambda: core.groups.remove(sqe.buf_index, sqe.fd)
