"""Seeded sessions of a host with a ring of today's kernels, through its shared memory: what it puts
into the SQ, what it calls, how it rests; and two rings that play them.

Between two actions the host rests for longer than any timeout, so nothing races: what is not in
the CQ then waits for a call. Everything that the memory shows is observed after each action.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol

from pybpfvm.bits import align_up
from pybpfvm.errors import RingError
from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.profiles import PROFILES
from pybpfvm.profiles.base import Region
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Cqe, Op, Sqe
from pybpfvm.uring_backend.cq import cq_bytes
from pybpfvm.uring_backend.kernel import sysring
from pybpfvm.uring_backend.loop.attach import RingTable
from pybpfvm.uring_backend.loop.ring import LoopRing
from pybpfvm.uring_backend.sim import SimBackend

SQ_ENTRIES: Final = 8
_LATE_TASK_WORK: Final = abi.SETUP_DEFER_TASKRUN | abi.SETUP_COOP_TASKRUN
REST_NS: Final = 4_000_000
_TIMEOUT_NS: Final = 200_000
_BAD_INDEX: Final = 77
_REGISTER_ENABLE_RINGS: Final = 12
_SOME: Final = (
    abi.SETUP_SUBMIT_ALL,
    abi.SETUP_SINGLE_ISSUER,
    abi.SETUP_NO_SQARRAY,
    abi.SETUP_R_DISABLED,
    abi.SETUP_COOP_TASKRUN,
    abi.SETUP_SQE128,
    abi.SETUP_CQE32,
)


@dataclass(frozen=True)
class Action:
    """A method of a host, and its numbers."""

    what: str
    numbers: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.what}{self.numbers}"


@dataclass(frozen=True)
class Session:
    flags: int
    cq_entries: int
    actions: tuple[Action, ...]
    ordered: bool


def generate(seed: int) -> Session:
    """A session from a seed."""
    random = Random(seed)
    flags = abi.SETUP_CQSIZE | sum(flag for flag in _SOME if random.random() < 0.2)
    if random.random() < 0.5:
        flags |= abi.SETUP_DEFER_TASKRUN | abi.SETUP_SINGLE_ISSUER
        flags &= ~abi.SETUP_COOP_TASKRUN
    if flags & (abi.SETUP_DEFER_TASKRUN | abi.SETUP_COOP_TASKRUN) and random.random() < 0.5:
        flags |= abi.SETUP_TASKRUN_FLAG
    # What is done by workers races, so then a call does not both submit and collect, and CQEs are
    # compared as a set. Which bad SQE ends a batch is not known here, nor how often the kernel
    # wants to be called for a chain with DEFER_TASKRUN: docs/sim-kernel-differences.md
    trouble = random.choice(("workers", "workers", "bad", "bad", "misplaced"))
    workers = trouble == "workers"
    kinds = _INLINE + {"workers": _BY_WORKERS, "bad": _BAD + _SILENT, "misplaced": _SILENT}[trouble]
    if trouble == "bad" and random.random() < 0.3:
        flags |= abi.SETUP_IOPOLL  # which refuses timeouts and polls
    if flags & abi.SETUP_CQE32 or trouble == "bad":
        kinds += _BIG
    links = _LINKS if workers and not flags & _LATE_TASK_WORK else (0,)
    actions = []
    for _ in range(random.randint(6, 20)):
        what = random.choices(
            ("put", "enter", "reap", "signal", "elsewhere", "enable", "misplace", "resize"),
            (50, 25, 0 if workers else 12, 8, 3, 4, 5 * (trouble == "misplaced"), 3),
        )[0]
        if what == "put":
            numbers: tuple[int, ...] = (random.choice(kinds), random.choice(links))
        elif what == "enter":
            gets = abi.ENTER_GETEVENTS if random.random() < 0.5 else 0
            least = random.choice((0, 0, 1, 2)) if gets else random.choice((0, 0, 3))
            odd = 1 << 20 if random.random() < 0.03 else 0
            most = 0 if workers and gets else random.choice((0, 1, 2, 3, 8, 8, 8, 20))
            numbers = (most, least, gets | odd)
        elif what == "elsewhere":
            # What a thread submits does not survive it, so it only tries.
            numbers = (random.choice((0, 1, 2) if flags & abi.SETUP_SINGLE_ISSUER else (0, 2)),)
        elif what == "resize":
            numbers = (random.choice((0, 1, 4, 8, 16, 30)), random.choice((0, 0, 2, 8, 16, 33)))
        else:
            numbers = (random.choice((1, 3, 20)),) if what == "reap" else ()
        actions.append(Action(what, numbers))
    return Session(flags, random.choice((8, 16)), tuple(actions), ordered=not workers)


_LINKS: Final = (0, 0, 0, 0, abi.SQE_IO_LINK, abi.SQE_IO_HARDLINK)


def _nop(result: int = 0) -> Sqe:
    flags = abi.NOP_INJECT_RESULT if result else 0
    return Sqe(Op.NOP, len=result & 0xFFFF_FFFF, op_flags=flags)


# Requests by number; `event` is an eventfd, `time` the address of a timespec.
_KINDS: Final[tuple[Callable[[int, int], Sqe], ...]] = (
    lambda event, time: _nop(),
    lambda event, time: _nop(7),
    lambda event, time: _nop(-5),
    lambda event, time: Sqe(Op.NOP, ioprio=1),
    lambda event, time: Sqe(200),
    lambda event, time: Sqe(Op.NOP, abi.SQE_ASYNC),
    lambda event, time: Sqe(Op.NOP, abi.SQE_CQE_SKIP_SUCCESS),
    lambda event, time: Sqe(Op.TIMEOUT, addr=time, len=1),
    lambda event, time: Sqe(Op.TIMEOUT, addr=time, len=1),
    lambda event, time: Sqe(Op.POLL_ADD, fd=event, op_flags=abi.POLLIN),
    lambda event, time: Sqe(Op.POLL_ADD, fd=event, op_flags=abi.POLLIN),
    lambda event, time: Sqe(Op.POLL_ADD, fd=event, op_flags=abi.POLLOUT),
    lambda event, time: Sqe(Op.NOP, off=3, addr=4, op_flags=abi.NOP_CQE32),
)


_BAD: Final = (3, 4)
_BY_WORKERS: Final = (5,)
_SILENT: Final = (6,)
_BIG: Final = (12, 12)  # refused without CQE32
_INLINE: Final = tuple(set(range(len(_KINDS))) - {*_BAD, *_BY_WORKERS, *_SILENT, *_BIG})


class Host(Protocol):
    """A ring as the host sees it. Results are those of system calls: 0 or more, or -errno."""

    def put(self, sqe: Sqe) -> None:
        """Into the SQ's memory, and the tail behind it; nothing when it is full."""

    def misplace(self) -> None:
        """The same with an index that names no SQE."""

    def enter(self, to_submit: int, min_complete: int, flags: int) -> int:
        """io_uring_enter."""

    def enable(self) -> int:
        """IORING_REGISTER_ENABLE_RINGS."""

    def resize(self, entries: int, cq_entries: int) -> int:
        """IORING_REGISTER_RESIZE_RINGS; `cq_entries` 0: as many as follow from `entries`."""

    def signal(self) -> None:
        """The eventfd gets 1."""

    def rest(self, time_ns: int = REST_NS) -> None:
        """The process does something else."""

    def seen(self) -> dict[str, int]:
        """The header words of both queues."""

    def reap(self, most: int) -> list[Cqe]:
        """CQEs, taken."""


Seen = tuple[str, object, dict[str, int]]


def play(
    session: Session, host: Host, event: int, timespec: int, rest_ns: int = REST_NS
) -> list[Seen]:
    """What each action came to, and what the memory showed after it and a rest."""
    seen: list[Seen] = []
    for number, action in enumerate(session.actions):
        result: object = None
        if action.what == "put":
            kind, link = action.numbers
            sqe = _KINDS[kind](event, timespec)
            fields = {name: getattr(sqe, name) for name in Sqe.__slots__}
            fields |= {"flags": sqe.flags | link, "user_data": number + 1}
            host.put(Sqe(**fields))
        elif action.what == "elsewhere":
            calls: tuple[Callable[[], int], ...] = (
                lambda: host.enter(0, 0, abi.ENTER_GETEVENTS),
                lambda: host.enter(2, 0, 0),
                lambda: host.resize(16, 0),
            )
            result = _in_a_thread(calls[action.numbers[0]])
        else:
            result = getattr(host, action.what)(*action.numbers)
        host.rest(rest_ns)
        seen.append((str(action), result, host.seen()))
    rest = host.reap(100)
    seen.append(("the rest", rest if session.ordered else sorted(rest, key=Cqe.pack), host.seen()))
    return seen


def _in_a_thread(call: Callable[[], int]) -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


class OurHost:
    """A ring as played here, over the simulated one."""

    def __init__(self, session: Session, stack: ExitStack) -> None:
        memory = stack.enter_context(AddressSpace())
        backend = SimBackend(memory, flags=session.flags)
        rules = PROFILES["loop-7.2"].loop
        assert rules is not None
        self.event = backend.world.eventfd()
        block = memory.alloc(4096, RegionKind.USER, "timespec")
        memory.user_write(block.start, abi.TIMESPEC.pack(0, _TIMEOUT_NS))
        self.timespec = block.start
        self._backend, self._memory = backend, memory
        self.ring = stack.enter_context(
            LoopRing(
                rules,
                memory,
                backend,
                SQ_ENTRIES,
                flags=session.flags,
                cq_entries=session.cq_entries,
                table=RingTable(),
            )
        )

    def put(self, sqe: Sqe) -> None:
        addr = self.ring.queues.next_sqe(0)
        if addr is not None:
            self._memory.write(addr, sqe.pack())
            self.ring.publish()

    def misplace(self) -> None:
        queues = self.ring.queues
        if queues.next_sqe(0) is not None:
            region = queues.region(Region.CQ)
            if queues.array_at and region is not None:
                slot = queues.words["sq_tail"] % self.ring.setup.sq_entries
                at = region.start + queues.array_at + slot * 4
                self._memory.write(at, _BAD_INDEX.to_bytes(4, "little"))
            self.ring.publish()

    def enter(self, to_submit: int, min_complete: int, flags: int) -> int:
        return _number(lambda: self.ring.enter(to_submit, min_complete, flags))

    def enable(self) -> int:
        def enable() -> int:
            self.ring.enable()
            return 0

        return _number(enable)

    def resize(self, entries: int, cq_entries: int) -> int:
        def resize() -> int:
            self.ring.resize(entries, cq_entries)
            return 0

        return _number(resize)

    def signal(self) -> None:
        self._backend.world.signal(self.event)

    def rest(self, time_ns: int = REST_NS) -> None:
        self.ring.rest(time_ns)

    def seen(self) -> dict[str, int]:
        return self.ring.queues.words

    def reap(self, most: int) -> list[Cqe]:
        found: list[Cqe] = []
        while len(found) < most and (cqe := self.ring.reap()) is not None:
            found.append(cqe)
        return found


def _number(call: Callable[[], int]) -> int:
    try:
        return call()
    except RingError as error:
        return -error.errno


class KernelHost:
    """A ring of the running kernel's."""

    def __init__(self, session: Session, stack: ExitStack) -> None:
        self.ring = stack.enter_context(
            sysring.SysRing(SQ_ENTRIES, cq_entries=session.cq_entries, flags=session.flags)
        )
        self._sqe_bytes = abi.sqe_bytes(session.flags)
        self._cqe_bytes = abi.cqe_bytes(session.flags)
        self.event = os.eventfd(0, os.EFD_CLOEXEC)
        stack.callback(os.close, self.event)
        self._timespec = ctypes.create_string_buffer(abi.TIMESPEC.pack(0, _TIMEOUT_NS))
        self.timespec = ctypes.addressof(self._timespec)

    def put(self, sqe: Sqe, index: int | None = None) -> None:
        ring, words = self.ring, self.ring.words
        tail = words[ring.sq_tail]
        if (tail - words[ring.sq_head]) & 0xFFFF_FFFF >= ring.sq_entries:
            return
        slot = tail & ring.sq_mask
        at = slot * self._sqe_bytes
        ring.sqes[at : at + abi.SQE_BYTES] = sqe.pack()
        if ring.sq_array:
            words[ring.sq_array + slot] = slot if index is None else index
        words[ring.sq_tail] = (tail + 1) & 0xFFFF_FFFF

    def misplace(self) -> None:
        self.put(Sqe(Op.NOP), _BAD_INDEX)

    def enter(self, to_submit: int, min_complete: int, flags: int) -> int:
        return sysring.enter(self.ring.fd, to_submit, min_complete, flags)

    def enable(self) -> int:
        return self.ring.register(_REGISTER_ENABLE_RINGS, 0, 0)

    def resize(self, entries: int, cq_entries: int) -> int:
        params = ctypes.create_string_buffer(abi.SETUP_PARAMS_BYTES)
        flags = abi.SETUP_CQSIZE if cq_entries else 0
        struct.pack_into("<III", params, 0, entries, cq_entries, flags)
        done = self.ring.register(abi.Register.RESIZE_RINGS, ctypes.addressof(params), 1)
        if done == 0:
            self._map(params.raw)
        return done

    def _map(self, params: bytes) -> None:
        """The memory of a ring that has been resized."""
        ring = self.ring
        ring.sq_entries, ring.cq_entries, *_ = struct.unpack_from("<II", params)
        cq_off = struct.unpack_from("<10I", params, 80)
        array = align_up(cq_bytes(ring.cq_entries, self._cqe_bytes), 64)  # 6.18 does not tell
        span = array + 4 * ring.sq_entries if ring.sq_array else array
        self._maps = [
            mmap.mmap(ring.fd, span, offset=abi.OFF_SQ_RING),
            mmap.mmap(ring.fd, self._sqe_bytes * ring.sq_entries, offset=abi.OFF_SQES),
        ]
        ring.ring, ring.sqes = (memoryview(area) for area in self._maps)
        ring.words = ring.ring[: span & ~3].cast("I")
        ring.sq_mask, ring.cq_mask = ring.sq_entries - 1, ring.cq_entries - 1
        ring.cqes_at = cq_off[5]
        if ring.sq_array:
            ring.sq_array = array // 4
            for index in range(ring.sq_entries):
                ring.words[ring.sq_array + index] = index

    def signal(self) -> None:
        os.eventfd_write(self.event, 1)

    def rest(self, time_ns: int = REST_NS) -> None:
        time.sleep(time_ns / 1e9)

    def seen(self) -> dict[str, int]:
        ring, words = self.ring, self.ring.words
        at = {
            "sq_head": ring.sq_head,
            "sq_tail": ring.sq_tail,
            "cq_head": ring.cq_head,
            "cq_tail": ring.cq_tail,
            "sq_dropped": ring.sq_dropped,
            "sq_flags": ring.sq_flags,
            "cq_overflow": ring.cq_overflow,
        }
        return {name: words[index] for name, index in at.items()}

    def reap(self, most: int) -> list[Cqe]:
        ring, words, size = self.ring, self.ring.words, self._cqe_bytes
        found: list[Cqe] = []
        while len(found) < most and words[ring.cq_head] != words[ring.cq_tail]:
            at = ring.cqes_at + (words[ring.cq_head] & ring.cq_mask) * size
            found.append(Cqe.unpack(ring.ring[at : at + size]))
            words[ring.cq_head] = (words[ring.cq_head] + 1) & 0xFFFF_FFFF
        return found
