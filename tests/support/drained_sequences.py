"""Seeded sequences of requests that name one another or count CQEs, with links and drains, and
players for them: a plain ring of the kernel's, and a ring of the 2021 ABIs over a backend.

Both see the same SQEs, so what the ring above performs itself has to come to the same. Times are
far apart (1 ms or a minute), that no result depends on load.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from random import Random

from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.profiles import PROFILES
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op, Sqe
from pybpfvm.uring_backend.base import Backend
from pybpfvm.uring_backend.kernel.sysring import SysRing
from pybpfvm.uring_backend.ring import Ring
from tests.support.ring_programs import PythonRunner

SETTLE_NS = 30_000_000  # virtual time that a step gets
REST_NS = 12_000_000  # real time without a CQE after which a step is over
GRACE_NS = 3_000_000  # the same once all CQEs are there that another ring had
LIMIT_NS = 2_000_000_000  # real time after which a missing CQE is missing
_SHORT, _LONG = 0, 1  # what `addr` or `off` of a timespec says until it is resolved
_TIMES_NS = (1_000_000, 60 * 10**9)
_READER = 1 << 20  # the same for the descriptor of an empty pipe
_TIMED = frozenset({Op.TIMEOUT, Op.LINK_TIMEOUT})
_NAMING = frozenset({Op.TIMEOUT_REMOVE, Op.ASYNC_CANCEL, Op.POLL_REMOVE})
_UNKNOWN_FLAG = 1 << 7
_NEVER = 100  # more CQEs than a sequence has


@dataclass
class Sequence:
    """Submissions; user_data are numbers from 1 on."""

    seed: int
    steps: list[list[Sqe]] = field(default_factory=list)


@dataclass
class Outcome:
    """What one ring made of it: (user_data, res) in order, by step. (How many SQEs a submission
    consumes is left out: today it ends behind a chain whose last member is bad.)"""

    cqes: list[list[tuple[int, int]]] = field(default_factory=list)

    def results(self) -> dict[int, list[tuple[int, int]]]:
        """(step, res) by request."""
        found: dict[int, list[tuple[int, int]]] = {}
        for step, cqes in enumerate(self.cqes):
            for user_data, res in cqes:
                found.setdefault(user_data, []).append((step, res))
        return found


class Generator:
    """Makes one Sequence from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.sequence = Sequence(seed)
        self.last = 0
        self.named: set[int] = set()  # by requests of the submission
        self.before = 1  # the first user_data of the submission
        self.skips = self.random.random() < 0.25
        self.drains = not self.skips  # which are refused where a CQE was skipped

    def generate(self) -> Sequence:
        for _ in range(self.random.randint(1, 4)):
            step: list[Sqe] = []
            self.begin()
            for _ in range(self.random.choice((1, 1, 2, 3, 4))):
                step += self.chain()
            self.sequence.steps.append(step)
        if not self.skips and self.random.random() < 0.4:
            self.counting()  # (Linux 6.18 miscounts once a TIMEOUT has posted no CQE.)
        return self.sequence

    def begin(self) -> None:
        """Another submission."""
        self.before = self.last + 1
        self.named.clear()

    def counting(self) -> None:
        """A chain in which timeouts count, and then requests to be counted, one by one: which of
        those that end with one submission are counted is not ours to say."""
        self.begin()
        chain = [
            replace(sqe, addr=_LONG, off=self.random.randint(1, 2)) if sqe.off == _NEVER else sqe
            for sqe in self.chain()
        ]
        self.sequence.steps.append(chain)
        for _ in range(self.random.randint(1, 3)):
            self.last += 1
            self.sequence.steps.append([Sqe(Op.NOP, user_data=self.last)])

    def chain(self) -> list[Sqe]:
        random = self.random
        count = random.choice((1, 1, 1, 2, 2, 3, 4))
        # One that is refused before any other has made the kernel look what became of its drains
        # leaves it as it is: bookkeeping, not a rule.
        first = self.drains and self.last + 1 == self.before
        link = random.choice((abi.SQE_IO_LINK, abi.SQE_IO_LINK, abi.SQE_IO_HARDLINK))
        drained = self.drains and random.random() < 0.3
        chain = []
        for index in range(count):
            # Nor is the last one of a chain: it ends a submission today, and did not in 2021.
            may_be_bad = not first and (index < count - 1 or count == 1)
            sqe = self.request(may_be_bad=may_be_bad)
            flags = sqe.flags | (link if index < count - 1 else 0)
            if drained and random.random() < 0.6:
                flags |= abi.SQE_IO_DRAIN
            if self.skips and random.random() < 0.3:
                flags |= abi.SQE_CQE_SKIP_SUCCESS
            if may_be_bad and random.random() < 0.02:
                flags |= _UNKNOWN_FLAG
            chain.append(replace(sqe, flags=flags))
        return chain

    def request(self, *, may_be_bad: bool) -> Sqe:
        self.last += 1
        sqe = self.kind()
        while not may_be_bad and (sqe.ioprio or sqe.personality or sqe.opcode == 200):
            sqe = self.kind()
        if sqe.opcode in _NAMING:
            self.named.add(sqe.addr)
        return replace(sqe, user_data=self.last)

    def kind(self) -> Sqe:
        random = self.random
        what = random.random()
        # A request of an earlier submission that no other one of this names, or none. (Which comes
        # first depends on how chains take turns; one that a worker performs finds itself at work.)
        targets = [target for target in range(1, self.before) if target not in self.named]
        target = random.choice([*targets, 999])
        how_long = _LONG if random.random() < 0.7 else _SHORT
        if what < 0.2:
            return Sqe(Op.NOP)
        if what < 0.25:
            refused = [Sqe(200), Sqe(Op.NOP, personality=7)]
            if not self.skips:
                refused.append(Sqe(Op.NOP, ioprio=1))  # by what is below the ring
            return random.choice([*refused, Sqe(Op.FSYNC, fd=-1)])
        if what < 0.4:
            return Sqe(Op.TIMEOUT, addr=how_long, len=1)
        if what < 0.45:
            return Sqe(Op.TIMEOUT, addr=how_long, len=1, off=_NEVER)
        if what < 0.5:
            return Sqe(Op.POLL_ADD, fd=_READER, op_flags=abi.POLLIN)
        if what < 0.7:
            if random.random() < 0.4:
                return Sqe(
                    Op.TIMEOUT_REMOVE, addr=target, off=how_long, op_flags=abi.TIMEOUT_UPDATE
                )
            return Sqe(Op.TIMEOUT_REMOVE, addr=target)
        if what < 0.9:
            flags = random.choice((0, 0, 0, abi.ASYNC_CANCEL_ALL))
            return Sqe(Op.ASYNC_CANCEL, addr=target, op_flags=flags)
        if random.random() < 0.3:
            return Sqe(Op.POLL_REMOVE, addr=target, len=abi.POLL_UPDATE_EVENTS, op_flags=abi.POLLIN)
        return Sqe(Op.POLL_REMOVE, addr=target)


class Host:
    """What a sequence needs besides a ring: times in user memory, a pipe that stays empty."""

    def __init__(self, memory: AddressSpace) -> None:
        self._region = memory.alloc(64, RegionKind.USER, "times")
        self.reader = -1
        for at, time_ns in enumerate(_TIMES_NS):
            raw = abi.TIMESPEC.pack(*divmod(time_ns, 10**9))
            memory.user_write(self._region.start + 16 * at, raw)

    def pack(self, sqe: Sqe) -> bytes:
        if sqe.opcode in _TIMED:
            sqe = replace(sqe, addr=self._region.start + 16 * sqe.addr)
        elif sqe.opcode == Op.TIMEOUT_REMOVE and sqe.op_flags & abi.TIMEOUT_UPDATE:
            sqe = replace(sqe, off=self._region.start + 16 * sqe.off)
        return replace(sqe, fd=self.reader if sqe.fd == _READER else sqe.fd).pack()


def play_plain(sequence: Sequence, rest_ns: int = REST_NS) -> Outcome:
    """On a ring of the kernel's."""
    outcome = Outcome()
    with ExitStack() as stack:
        memory = stack.enter_context(AddressSpace())
        host = Host(memory)
        host.reader, writer = os.pipe()
        stack.callback(os.close, host.reader)
        stack.callback(os.close, writer)
        ring = stack.enter_context(SysRing(64, cq_entries=256))
        for step in sequence.steps:
            left = [host.pack(sqe) for sqe in step]
            while left:
                del left[: ring.submit(left)]
            cqes: list[tuple[int, int]] = []
            while ring.wait(rest_ns) >= 0 and (reaped := ring.reap()):
                cqes += [(user_data, res) for user_data, res, *_ in reaped]
            outcome.cqes.append(cqes)
        ring.sync_cancel_all(REST_NS)
    return outcome


def play_on(
    sequence: Sequence, make: Callable[[AddressSpace], Backend], expected: Outcome
) -> Outcome:
    """On a ring of v3 over a backend. `expected`: what there was on another one."""
    outcome = Outcome()
    with ExitStack() as stack:
        memory = stack.enter_context(AddressSpace())
        host = Host(memory)
        backend = make(memory)
        runner = PythonRunner(memory)
        ring = Ring(PROFILES["iouring-v3"], memory, backend, 64, (), cq0_entries=256, runner=runner)
        stack.callback(ring.close)
        runner.ring = ring
        host.reader, _ = backend.world.pipe()
        for step, theirs in zip(sequence.steps, expected.cqes, strict=True):
            for sqe in step:
                ring.queue(host.pack(sqe))
            ring.submit()
            while ring.sq.ready():
                ring.submit()
            if backend.name == "sim":
                ring.run_until_idle(timeout_ns=SETTLE_NS)
            else:
                end = time.monotonic_ns() + LIMIT_NS
                while ring.ready() < len(theirs) and time.monotonic_ns() < end:
                    ring.run_until_idle(timeout_ns=GRACE_NS)
                ring.run_until_idle(timeout_ns=GRACE_NS)
            cqes: list[tuple[int, int]] = []
            while (cqe := ring.reap()) is not None:
                cqes.append((cqe.user_data, cqe.res))
            outcome.cqes.append(cqes)
    return outcome
