"""Requests that compiled code puts into the real ring itself, and takes out of it.

The words here are what such code works on: where the real ring is, a table of the requests it has
in flight, a copy of what the guard would ask. While it runs (`lend` to `take_back`) the real ring,
the CQs of the ring above and this table are its own; before and after they are Python's. A direct
request that is then still in flight stays one, until somebody has to know it (`claim`): from
there on it is a request like any other.

A direct request is one that the guard admits as it is: NOP, or a transfer between user memory and
a file or socket of the world, with no flag but FIXED_FILE. Everything else takes the long way.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from pybpfvm.bits import U32, align_up
from pybpfvm.errors import InternalError
from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.cq import CQES_OFFSET, CompletionQueue
from pybpfvm.uring_backend.kernel.sysring import SysRing
from pybpfvm.uring_backend.kernel.world import KernelWorld
from pybpfvm.uring_backend.requests import DIRECT_TOKENS
from pybpfvm.userblocks import TABLE_BYTES, UserBlocks

SLOTS = 2048  # requests at a time. A direct request's token: DIRECT_TOKENS and its slot's address.
BATCH = 32  # direct requests are issued when so many have come together, or at the end of a run
LOOK_RUNS = 64  # after so many runs, a power of two, the loop looks at the clock
_FDS = 1024


class Word(IntEnum):
    """Index of a 64-bit word of the block that compiled code is given; what it needs for every
    request comes first, so lies together."""

    # Tails of the real SQ: counts of requests, modulo 2**32.
    TAIL = 0  # so many were put there,
    ISSUED = 1  # issued,
    TAKEN = 2  # put there before completions were last posted: from there on batches count,
    DONE_TO = 3  # TAIL less those in flight
    CARE = 4  # Care: what submit and reap look at first
    STOP = 5  # a Stop, 0 while the loop goes on
    CHANGES = 6  # grows with requests issued and completed
    MOVED = 7  # a CQE was emitted or reaped
    SQES = 8  # addresses in the real ring, and masks
    SQ_MASK = 9
    CQES = 10
    CQ_MASK = 11
    FREE = 12  # address of the first free slot, 0: there is none
    QUEUES = 13  # how many CQs the ring above has
    QUEUE_TABLE = 14
    CQ_HEAD = 15  # addresses of u32 words of the real ring
    CQ_TAIL = 16
    SQ_TAIL = 17
    FD = 18  # the real ring: its descriptor, or the number that this thread has for it
    FDS = 19  # address of a bitmap of descriptors that requests may use
    BLOCKS = 20  # address of (start, end) pairs of user memory; a zero pair ends them
    CTX = 21
    PROGRAM = 22  # address of its code
    BUDGET = 23  # instructions of one run
    USER_DATA = 24
    WAIT_VALUE = 25  # of r0, for "run again"; WAIT_BY_FIELDS: the context's fields alone decide
    CTX_PERSISTS = 26
    RUNS_LEFT = 27
    RUNS = 28
    INSNS = 29  # of the last run
    R0 = 30  # of the last run
    SEEN = 31  # CHANGES after the last run but this one
    LOOKS = 32  # runs until the loop looks at the clock
    DEADLINE = 33  # of CLOCK_MONOTONIC, when the loop ends
    MAY_SLEEP = 34
    WAIT_ARG = 35  # address of the io_uring_getevents_arg of waits
    MEASURED = 36  # whether Queue.MOST and LEAST are since the last change of CHANGES
    IDLE = 37  # runs in a row that changed nothing,
    IDLE_INSNS = 38  # what they executed,
    MOST_IDLE = 39  # and how much of either ends the loop
    MOST_IDLE_INSNS = 40
    ENTER_FLAGS = 41  # what FD is, for io_uring_enter
    ALL_INSNS = 42  # of all runs of the loop
    TAKE_TO = 43  # tail of the real CQ when taking in began

    # Of programs that drive a ring from inside io_uring_enter only (see steps).
    WAIT_INDEX = 44  # address of the u32 that says for which tail of the CQ the program waits
    REGION_0 = 45  # addresses of the regions by their ids, and sizes; 0: there is none
    REGION_0_BYTES = 46
    REGION_1 = 47
    REGION_1_BYTES = 48
    REGION_2 = 49
    REGION_2_BYTES = 50
    SQ_REGION = 51  # two of these once more
    CQ_REGION = 52
    ARRAY = 53  # address of the SQ's index array, 0: there is none
    ENTRIES = 54  # of the SQ
    HEAD = 55  # of the SQ: the kernel's own copy
    REWINDS = 56  # SETUP_SQ_REWIND
    SUBMITS_ALL = 57  # SETUP_SUBMIT_ALL
    ROOM = 58  # so many requests may be in flight here
    ASKED = 59  # of the submission under way: how many SQEs the program wants submitted,
    TAIL_BEFORE = 60  # TAIL before it
    HELD_BEFORE = 61  # CQEs in the CQ before the last run
    ASLEEP = 62  # the last run asked to wait, and that has begun
    SHOWN_HEAD = 63  # addresses of u32 words where the program sees HEAD and the CQ's tail,
    SHOWN_TAIL = 64  # 0: it does not
    FIRST_CQ = 65  # the entry in the queue table of the only CQ, 0: there may be more
    AHEAD = 66  # of the submission: TAIL less the place in the program's queue,
    SQE_AT = 67  # the address there of the SQE that is copied,
    PIECE_END = 68  # and where those end that lie side by side


class Care(IntFlag):
    """What is not plain about submit and reap."""

    CHECKED = 1  # their length argument is looked at
    HELD = 2  # completions wait in Python for the end of the run, and others come after them
    PYTHONS = 4  # for the rest of the run submit is Python's, and so is emit to a watched CQ


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
    MOST = 8  # CQEs that it held at the end of a run, for the detection of live-locks
    LEAST = 9
    DROPPED = 10  # CQEs for which there was no room, since the queue was lent


class Slot(IntEnum):
    """Index of a 64-bit word of a slot."""

    USER_DATA = 0  # of a free slot: the address of the next free one
    PLACE = 1  # the address of the CQ's entry in the queue table. 0: the slot is free; negative:
    #            the request is Python's by now
    NUMBER = 2  # opcode << OPCODE_SHIFT, and Word.TAIL before the request


class Stop(IntEnum):
    """Why the loop ended."""

    DONE = 1  # the program did not ask to run again, or for something that is refused
    FOREIGN = 2  # Python has something to do: the real ring holds a CQE of its own, say
    WATCHED = 3  # a CQE was posted to a queue that others look at
    FULL = 4  # there is no room for a CQE
    RUNS = 5  # so many runs were made
    STUCK = 6  # nothing is in flight
    INTERRUPTED = 7  # a wait ended without a CQE, or was none; not all requests were issued
    NO_CHANGE = 8  # runs in a row changed nothing


TURN_NS = 10_000_000  # of a loop, after which signals and other threads get their turn
_ISSUE_LIMIT_S = 1.0  # that a run takes to issue what it submitted, at the most
_LOOK_S = 0.0001
WAIT_BY_FIELDS = (1 << 64) - 1
OPCODE_SHIFT = 32
_PYTHONS = 1 << 63
QUEUE_SHIFT = 7
QUEUE_BYTES = 1 << QUEUE_SHIFT
_LINE = 64  # bytes of a cache line, at which tables begin
QUEUES_AT = align_up(8 * len(Word), _LINE)  # where the queue table begins behind the words
_QUEUE_WORDS = QUEUE_BYTES // 8
_SLOT_WORDS = len(Slot)
SLOT_BYTES = 8 * _SLOT_WORDS


@dataclass(frozen=True, slots=True)
class Claimed:
    """A direct request in flight, for Python."""

    token: int
    opcode: int
    user_data: int
    cq: int


class Direct:
    """The tables for one ring over one kernel backend, in private memory until `close`."""

    def __init__(self, memory: AddressSpace, ring: SysRing, world: KernelWorld, cqs: int) -> None:
        self._memory = memory
        self._ring = ring
        self._world = world
        self._cqs = cqs
        sizes = (
            QUEUES_AT,
            QUEUE_BYTES * cqs,
            SLOT_BYTES * SLOTS,
            _FDS // 8,
            TABLE_BYTES,
        )
        self._region = memory.alloc(sum(sizes), RegionKind.HOST, "direct requests")
        self.addr = self._region.start
        view = memory.view(self._region)
        self.words = view[: sizes[0]].cast("Q")
        at = sizes[0]
        self._queues = view[at : at + sizes[1]].cast("Q")
        queue_table, at = self.addr + at, at + sizes[1]
        self._slots = view[at : at + sizes[2]].cast("Q")
        self._table, at = self.addr + at, at + sizes[2]
        self._fds = view[at : at + sizes[3]]
        fds, at = self.addr + at, at + sizes[3]
        self._blocks = UserBlocks(memory, view[at : at + sizes[4]])
        blocks = self.addr + at
        words = self.words
        ring_addr = _address(ring.ring)
        for word, index in (
            (Word.SQ_TAIL, ring.sq_tail),
            (Word.CQ_HEAD, ring.cq_head),
            (Word.CQ_TAIL, ring.cq_tail),
        ):
            words[word] = ring_addr + 4 * index
        words[Word.SQES] = _address(ring.sqes)
        words[Word.SQ_MASK] = ring.sq_mask
        words[Word.CQES] = ring_addr + ring.cqes_at
        words[Word.CQ_MASK] = ring.cq_mask
        words[Word.QUEUES] = cqs
        words[Word.QUEUE_TABLE] = queue_table
        words[Word.FIRST_CQ] = queue_table if cqs == 1 else 0
        words[Word.FDS] = fds
        words[Word.BLOCKS] = blocks
        self._wait_arg = _wait_arg()
        words[Word.WAIT_ARG] = ctypes.addressof(self._wait_arg)
        for index in reversed(range(SLOTS)):
            self._free(index)
        self._thread: int | None = None  # which one has its `turn`
        self._marked: set[int] = set()  # the descriptors that _fds has, and larger ones
        self._lock = threading.RLock()  # of these: others than that thread clear them
        world.on_disown(self._disowned)

    @contextmanager
    def turn(
        self, watched: Container[int], sleep_ns: int, turn_ns: int = TURN_NS
    ) -> Iterator[None]:
        """Compiled code may run within. Posting to `watched` CQs ends its loop, as does the end
        of its turn; within that it may sleep for so long at a time, 0: not at all."""
        number = self._ring.register_ring()
        try:
            self._begin(number, watched, sleep_ns, turn_ns)
            yield
        finally:
            self._thread = None
            self._blocks.follow = False
            if number is not None:
                self._ring.unregister_ring(number)

    def _begin(
        self, number: int | None, watched: Container[int], sleep_ns: int, turn_ns: int
    ) -> None:
        self._thread = threading.get_ident()
        words = self.words
        words[Word.FD] = self._ring.fd if number is None else number
        words[Word.ENTER_FLAGS] = 0 if number is None else abi.ENTER_REGISTERED_RING
        words[Word.STOP] = words[Word.RUNS] = words[Word.CHANGES] = words[Word.SEEN] = 0
        words[Word.MOVED] = words[Word.ALL_INSNS] = 0
        words[Word.CARE] &= Care.CHECKED
        words[Word.MAY_SLEEP] = sleep_ns > 0
        words[Word.LOOKS] = LOOK_RUNS
        words[Word.DEADLINE] = time.monotonic_ns() + turn_ns
        abi.TIMESPEC.pack_into(self._wait_arg, abi.GETEVENTS_ARG.size, 0, sleep_ns)
        for index in range(self._cqs):
            self._queues[_QUEUE_WORDS * index + Queue.WATCHED] = index in watched
        with self._lock:
            owned = set(self._world.owned)
            for fd in owned ^ self._marked:
                if fd < _FDS:
                    self._fds[fd >> 3] ^= 1 << (fd & 7)
            self._marked = owned
        self._blocks.follow = True
        self._blocks.refresh()

    def _disowned(self, fd: int) -> None:
        """Another thread may close a descriptor meanwhile, whose number is then anybody's.

        Compiled code may be in a helper in Python, with requests pending that name it: they have
        to be issued first.
        """
        if not 0 <= fd < _FDS:
            return
        with self._lock:
            self._fds[fd >> 3] &= ~(1 << (fd & 7))
            self._marked.discard(fd)
        words = self.words
        limit = time.monotonic() + _ISSUE_LIMIT_S
        while (
            self._thread not in (None, threading.get_ident())
            and words[Word.TAIL] != words[Word.ISSUED]
            and time.monotonic() < limit
        ):
            time.sleep(_LOOK_S)

    def lend(self, queues: Sequence[CompletionQueue], kept: int = 0) -> None:
        """Give the real ring and the queues to compiled code, in the middle of a run that keeps so
        many completions for its end, or (0) between runs."""
        words = self.words
        tail = self._ring.words[self._ring.sq_tail]
        words[Word.DONE_TO] = (tail - self.in_flight()) & U32
        words[Word.TAIL] = words[Word.ISSUED] = tail
        words[Word.TAKEN] = (tail - kept) & U32
        for queue in queues:
            at = _QUEUE_WORDS * queue.index
            self._queues[at + Queue.HEADER] = queue.address
            self._queues[at + Queue.CQES] = queue.address + CQES_OFFSET
            self._queues[at + Queue.ENTRIES] = queue.entries
            self._queues[at + Queue.MASK] = queue.entries - 1
            self._queues[at + Queue.TAIL] = self._queues[at + Queue.TAIL_BEFORE] = queue.tail
            self._queues[at + Queue.HEAD_BEFORE] = queue.head
            self._queues[at + Queue.DROPPED] = 0
            queue.lent, queue.reaped = True, 0

    def take_back(
        self,
        queues: Sequence[CompletionQueue],
        changed: Callable[[CompletionQueue, int, int, int], None],
    ) -> None:
        """Take the queues back; `changed` is told of each that did how many CQEs were posted to
        it, reaped from it and dropped. What an exception breaks off can be done again."""
        for queue in queues:
            if not queue.lent:
                continue
            at = _QUEUE_WORDS * queue.index
            queue.tail = self._queues[at + Queue.TAIL]
            posted = (queue.tail - self._queues[at + Queue.TAIL_BEFORE]) & U32
            reaped = (queue.head - self._queues[at + Queue.HEAD_BEFORE] - queue.reaped) & U32
            dropped = self._queues[at + Queue.DROPPED]
            queue.lent = False
            if posted or reaped or dropped:
                changed(queue, posted, reaped, dropped)

    def issue(self) -> int:
        """Issue what is pending, as far as the kernel takes it; how many requests it did not."""
        words = self.words
        pending = (words[Word.TAIL] - words[Word.ISSUED]) & U32
        if not pending:
            return 0
        left = self._ring.publish(words[Word.TAIL], pending)
        words[Word.ISSUED] = (words[Word.TAIL] - left) & U32
        return left

    def take_from_ring(self) -> list[Claimed]:
        """What is pending will never be issued: these requests, oldest first."""
        words = self.words
        pending = (words[Word.TAIL] - words[Word.ISSUED]) & U32
        self._ring.unpublish(pending)
        issued = words[Word.ISSUED]
        taken = [
            self.claim(self._token(index))
            for index in self._unclaimed()
            if (self._slots[_SLOT_WORDS * index + Slot.NUMBER] - issued) & U32 < pending
        ]
        words[Word.TAIL] = issued
        words[Word.DONE_TO] = (words[Word.DONE_TO] - pending) & U32
        return taken

    def in_flight(self) -> int:
        """How many requests were submitted, are not completed, and nobody claimed."""
        return (self.words[Word.TAIL] - self.words[Word.DONE_TO]) & U32

    def claim(self, token: int) -> Claimed:
        """A request in flight that is Python's from now on."""
        words, at = self.words, self._at(token)
        place = self._slots[at + Slot.PLACE]
        if not place or place & _PYTHONS:
            raise InternalError(f"{token:#x} is no request of compiled code")
        self._slots[at + Slot.PLACE] = place | _PYTHONS
        words[Word.DONE_TO] = (words[Word.DONE_TO] + 1) & U32
        opcode = self._slots[at + Slot.NUMBER] >> OPCODE_SHIFT
        cq = (place - words[Word.QUEUE_TABLE]) // QUEUE_BYTES
        return Claimed(token, opcode, self._slots[at], cq)

    def claim_all(self) -> list[Claimed]:
        """All requests in flight, oldest first, which are Python's from now on."""
        if not self.in_flight():
            return []
        return [self.claim(self._token(index)) for index in self._unclaimed()]

    def release(self, token: int) -> None:
        """A claimed request is over."""
        self._free(self._at(token) // _SLOT_WORDS)

    def since(self, token: int, number: int) -> bool:
        """Whether the request was submitted when Word.TAIL was `number`, or later."""
        mine = self._slots[self._at(token) + Slot.NUMBER]
        return (mine - number) & U32 < (self.words[Word.TAIL] - number) & U32

    def _unclaimed(self) -> list[int]:
        """Indices of slots with requests that nobody claimed, oldest first."""
        places = self._slots[Slot.PLACE :: _SLOT_WORDS].tolist()
        numbers, tail = self._slots[Slot.NUMBER :: _SLOT_WORDS], self.words[Word.TAIL]
        found = [index for index, place in enumerate(places) if 0 < place < _PYTHONS]
        return sorted(found, key=lambda index: (numbers[index] - tail) & U32)

    def _token(self, index: int) -> int:
        return DIRECT_TOKENS | self._table + SLOT_BYTES * index

    def _at(self, token: int) -> int:
        """Index of a slot's first word."""
        at, rest = divmod((token & ~DIRECT_TOKENS) - self._table, SLOT_BYTES)
        if rest or not 0 <= at < SLOTS:
            raise InternalError(f"{token:#x} is no request of compiled code")
        return at * _SLOT_WORDS

    def _free(self, index: int) -> None:
        at = _SLOT_WORDS * index
        self._slots[at + Slot.PLACE] = 0
        self._slots[at] = self.words[Word.FREE]
        self.words[Word.FREE] = self._table + SLOT_BYTES * index

    def close(self) -> None:
        """Give the memory back."""
        self._blocks.close()
        self._world.forget_on_disown(self._disowned)
        for view in (self.words, self._queues, self._slots, self._fds):
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
    return made
