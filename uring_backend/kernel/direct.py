"""Requests that compiled code puts into the real ring itself, and takes out of it.

The words here are what such code works on: where the real ring is, a table of the requests it has
in flight, a copy of what the guard would ask. While it runs (`lend` to `take_back`) the real ring,
the CQs of the ring above and this table are its own; before and after they are Python's, and a
direct request that is still in flight is a request like any other.

A direct request is one that the guard admits as it is: NOP, or a transfer between user memory and
a file of the world, with no flag but FIXED_FILE. Everything else takes the long way.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum

from pybpfvm.bits import U32
from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.cq import CQES_OFFSET, CompletionQueue
from pybpfvm.uring_backend.kernel.guard import Guard
from pybpfvm.uring_backend.kernel.sysring import SysRing
from pybpfvm.uring_backend.requests import DIRECT_TOKENS

SLOTS = 4096  # a direct request's token is DIRECT_TOKENS and the address of its slot
BATCH = 32  # direct requests are issued when so many have come together, or at the end of a run
_FDS = 1024
_BLOCKS = 16


class Word(IntEnum):
    """Index of a 64-bit word of the block that compiled code is given."""

    FD = 0  # of the real ring
    SQ_TAIL = 1  # addresses of u32 words of the real ring
    SQ_FLAGS = 2
    CQ_HEAD = 3
    CQ_TAIL = 4
    SQES = 5
    SQ_MASK = 6
    CQES = 7
    CQ_MASK = 8
    TAIL = 9  # of the real SQ, published when requests are issued
    PENDING = 10  # put into the SQ and not issued
    TABLE = 11  # address of the slots
    IN_FLIGHT = 12
    QUEUES = 13  # how many CQs the ring above has
    QUEUE_TABLE = 14
    FDS = 15  # address of a bitmap of descriptors that requests may use
    BLOCKS = 16  # address of (start, end) pairs of user memory; a zero pair ends them
    CTX = 17
    PROGRAM = 18  # address of its code
    BUDGET = 19  # instructions of one run
    USER_DATA = 20
    WAIT_VALUE = 21  # of r0, for "run again"; WAIT_BY_FIELDS: the context's fields alone decide
    CTX_PERSISTS = 22
    RUNS_LEFT = 23
    RUNS = 24
    EXECUTED = 25  # instructions of all runs
    R0 = 26  # of the last run
    STOP = 27  # a Stop, 0 while the loop goes on
    CHANGED = 28  # whether the run issued or completed a request, emitted or reaped a CQE
    IDLE = 29  # runs in a row that changed nothing
    LENGTH_CHECKED = 30
    WAIT_ARG = 31  # address of the io_uring_getevents_arg of waits


class Queue(IntEnum):
    """Index of a 64-bit word of a CQ's entry in the queue table."""

    HEADER = 0
    CQES = 1
    ENTRIES = 2
    MASK = 3
    TAIL = 4
    WATCHED = 5  # posting to it ends the loop
    TAIL_BEFORE = 6  # the tail, and the head in its header, when the queue was lent
    HEAD_BEFORE = 7


class Slot(IntEnum):
    """Index of a 64-bit word of a slot."""

    USER_DATA = 0
    QUEUE = 1  # address of its entry in the queue table; 0: the request is Python's by now
    OPCODE = 2  # and 1; 0: the slot is free
    UNUSED = 3


class Stop(IntEnum):
    """Why the loop ended."""

    DONE = 1  # the program did not ask to run again, or for something that is refused
    FOREIGN = 2  # the real ring holds a CQE of somebody else's, or has a backlog
    WATCHED = 3  # a CQE was posted to a queue that others look at
    FULL = 4  # there is no room for a CQE
    RUNS = 5  # so many runs were made
    STUCK = 6  # nothing is in flight
    INTERRUPTED = 7  # a wait ended without a CQE
    NO_CHANGE = 8  # runs in a row changed nothing


_WAIT_NS = 50_000_000  # of one sleep, after which Python looks around
LOOP_INSNS = 1 << 24  # a loop ends when its runs have executed more
WAIT_BY_FIELDS = (1 << 64) - 1
QUEUE_BYTES = 8 * len(Queue)
SLOT_BYTES = 8 * len(Slot)


class Direct:
    """The tables for one ring over one kernel backend, in private memory until `close`."""

    def __init__(self, memory: AddressSpace, ring: SysRing, guard: Guard, cqs: int) -> None:
        self._memory = memory
        self._ring = ring
        self._guard = guard
        self._cqs = cqs
        sizes = (
            8 * len(Word),
            QUEUE_BYTES * cqs,
            SLOT_BYTES * SLOTS,
            _FDS // 8,
            16 * (_BLOCKS + 1),
        )
        self._region = memory.alloc(sum(sizes), RegionKind.HOST, "direct requests")
        self.addr = self._region.start
        view = memory.view(self._region)
        self.words = view[: sizes[0]].cast("Q")
        at = sizes[0]
        self._queues = view[at : at + sizes[1]].cast("Q")
        queue_table, at = self.addr + at, at + sizes[1]
        self._slots = view[at : at + sizes[2]].cast("Q")
        slot_table, at = self.addr + at, at + sizes[2]
        self._fds = view[at : at + sizes[3]]
        fds, at = self.addr + at, at + sizes[3]
        self._blocks = view[at : at + sizes[4]].cast("Q")
        blocks = self.addr + at
        words = self.words
        ring_addr = _address(ring.ring)
        for word, index in (
            (Word.SQ_TAIL, ring.sq_tail),
            (Word.SQ_FLAGS, ring.sq_flags),
            (Word.CQ_HEAD, ring.cq_head),
            (Word.CQ_TAIL, ring.cq_tail),
        ):
            words[word] = ring_addr + 4 * index
        words[Word.FD] = ring.fd
        words[Word.SQES] = _address(ring.sqes)
        words[Word.SQ_MASK] = ring.sq_mask
        words[Word.CQES] = ring_addr + ring.cqes_at
        words[Word.CQ_MASK] = ring.cq_mask
        words[Word.TABLE] = slot_table
        words[Word.QUEUES] = cqs
        words[Word.QUEUE_TABLE] = queue_table
        words[Word.FDS] = fds
        words[Word.BLOCKS] = blocks
        self._wait_arg = _wait_arg()
        words[Word.WAIT_ARG] = ctypes.addressof(self._wait_arg)

    def begin(self, watched: Callable[[int], bool]) -> None:
        """Compiled code is about to start; `watched` says of which CQs posting ends its loop."""
        words = self.words
        words[Word.STOP] = words[Word.RUNS] = words[Word.EXECUTED] = words[Word.IDLE] = 0
        for index in range(self._cqs):
            self._queues[len(Queue) * index + Queue.WATCHED] = watched(index)
        self._fds[:] = bytes(_FDS // 8)
        for fd in self._guard.owned:
            if fd < _FDS:
                self._fds[fd >> 3] |= 1 << (fd & 7)
        blocks = [r for r in self._memory.regions() if r.kind is RegionKind.USER][:_BLOCKS]
        for index, region in enumerate(blocks):
            self._blocks[2 * index] = region.start
            self._blocks[2 * index + 1] = region.end
        self._blocks[2 * len(blocks)] = self._blocks[2 * len(blocks) + 1] = 0

    def lend(self, queues: Sequence[CompletionQueue]) -> None:
        """Give the real ring and the queues to compiled code."""
        self.words[Word.TAIL] = self._ring.words[self._ring.sq_tail]
        for queue in queues:
            at = len(Queue) * queue.index
            self._queues[at + Queue.HEADER] = queue.address
            self._queues[at + Queue.CQES] = queue.address + CQES_OFFSET
            self._queues[at + Queue.ENTRIES] = queue.entries
            self._queues[at + Queue.MASK] = queue.entries - 1
            self._queues[at + Queue.TAIL] = self._queues[at + Queue.TAIL_BEFORE] = queue.tail
            self._queues[at + Queue.HEAD_BEFORE] = queue.head

    def take_back(
        self, queues: Sequence[CompletionQueue]
    ) -> Iterator[tuple[CompletionQueue, int, int]]:
        """Take them back, all requests issued: each queue that changed, with how many CQEs were
        posted to it and reaped from it."""
        words = self.words
        if words[Word.PENDING]:
            self._ring.publish(words[Word.TAIL], words[Word.PENDING])
            words[Word.PENDING] = 0
        for queue in queues:
            at = len(Queue) * queue.index
            queue.tail = self._queues[at + Queue.TAIL]
            posted = (queue.tail - self._queues[at + Queue.TAIL_BEFORE]) & U32
            reaped = (queue.head - self._queues[at + Queue.HEAD_BEFORE]) & U32
            if posted or reaped:
                yield queue, posted, reaped

    def adopt(self) -> Iterator[tuple[int, int, int, int]]:
        """(token, opcode, user_data, CQ) of each request in flight, which is Python's from now."""
        slots, width = self._slots, len(Slot)
        slot = 0
        while self.words[Word.IN_FLIGHT]:
            at = width * slot
            slot += 1
            queue = slots[at + Slot.QUEUE]
            if slots[at + Slot.OPCODE] and queue:
                slots[at + Slot.QUEUE] = 0
                self.words[Word.IN_FLIGHT] -= 1
                token = DIRECT_TOKENS | self.words[Word.TABLE] + 8 * at
                cq = (queue - self.words[Word.QUEUE_TABLE]) // QUEUE_BYTES
                yield token, slots[at + Slot.OPCODE] - 1, slots[at], cq

    def release(self, token: int) -> None:
        """An adopted request is over."""
        at = ((token & ~DIRECT_TOKENS) - self.words[Word.TABLE]) >> 3
        self._slots[at + Slot.OPCODE] = 0

    def close(self) -> None:
        """Give the memory back."""
        for view in (self.words, self._queues, self._slots, self._fds, self._blocks):
            view.release()
        if not self._memory.closed:
            self._memory.free(self._region)


def _address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def _wait_arg() -> ctypes.Array[ctypes.c_char]:
    """An io_uring_getevents_arg, and the timespec that it points to."""
    size = abi.GETEVENTS_ARG.size
    made = ctypes.create_string_buffer(size + abi.TIMESPEC.size)
    abi.GETEVENTS_ARG.pack_into(made, 0, 0, 0, 0, ctypes.addressof(made) + size)
    abi.TIMESPEC.pack_into(made, size, 0, _WAIT_NS)
    return made
