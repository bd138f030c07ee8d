"""The loop of a program that drives a ring from inside io_uring_enter, done by compiled code over
the kernel's ring: what is Python's part.

Before: lend it ring, queues and context. After: take them back. In between, for what compiled code
does not do itself: both, around Python's way of doing it. The loop it makes is that of
`loop.entering`; it ends behind a run of the program, and the rest of that turn is Python's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pybpfvm.bits import U32
from pybpfvm.uring_backend.cq import CompletionQueue
from pybpfvm.uring_backend.kernel.backend import KernelBackend
from pybpfvm.uring_backend.kernel.direct import TURN_NS, Care, Direct, Stop, Word
from pybpfvm.uring_backend.turns import SLICE_NS

if TYPE_CHECKING:
    from pybpfvm.uring_backend.loop.ring import LoopRing

# (program, as the runner numbers it) -> address of its code, None where it can not be run so
Address = Callable[[int], int | None]
# Of one sleep, and of a turn while there is no other thread: then Python looks around. Its part of
# a turn costs what several hundred NOPs do.
_SLEEP_NS = 50_000_000
_PROGRAM = 0  # there is one only
_REGIONS = (
    (Word.REGION_0, Word.REGION_0_BYTES),
    (Word.REGION_1, Word.REGION_1_BYTES),
    (Word.REGION_2, Word.REGION_2_BYTES),
)


class KernelSteps:
    """The loop of one ring, and the DirectRequests (see requests) of its programs.

    `enter` runs the loop's code, `address` finds the program's; `owner` is who gave both. `looped`
    counts the runs that loops have made, `code` names the source of the loop.

    Before a run of the program `prepare` says what it may use up; afterwards `runs` have been made,
    the state of the ring was `before` ahead of the last one (or another than it is now, if that has
    changed something), `quiet` steps in a row before it had changed nothing. `asleep`: it asked to
    wait, and that has begun.
    """

    code = "step"

    def __init__(self, ring: LoopRing, backend: KernelBackend) -> None:
        self.looped = 0
        self.owner: object = None
        self.enter: Callable[[], None]
        self.address: Address = _nowhere
        self.runs = 1
        self.quiet, self.asleep = 0, False
        self.before = ring.state()
        self.direct: Direct = backend.direct(1)
        self._ring = ring
        self._backend = backend
        self._most = 0
        self._submitted_to = 0  # Word.TAIL when the ring was lent
        backend.let(self)

    def prepare(self, most: int, quiet: int) -> None:
        """The program is about to run, `most` times at the most; `quiet` steps in a row have
        changed nothing."""
        self._most, self.quiet = most, quiet
        self.runs, self.asleep = 1, False
        self.before = self._ring.state()

    def run(self, name: str, ctx_addr: int, budget_insns: int) -> tuple[int, int] | None:
        """Run the program once or more: r0 and the instructions of the last run, which the caller
        counts. None: it has to be run the ordinary way. Raises what a run raises."""
        words, ring = self.direct.words, self._ring
        words[Word.CTX] = ctx_addr
        address = self.address(_PROGRAM)
        if address is None or ring.needs_python:
            return None
        words[Word.PROGRAM] = address
        words[Word.BUDGET] = budget_insns
        words[Word.WAIT_INDEX] = ring.params.start + ring.rules.wait_index_at
        words[Word.REWINDS] = ring.setup.rewinds
        words[Word.SUBMITS_ALL] = ring.setup.submits_all
        words[Word.ENTRIES] = ring.setup.sq_entries
        words[Word.SHOWN_HEAD] = ring.shown("cached_sq_head")
        words[Word.SHOWN_TAIL] = ring.shown("cached_cq_tail")
        words[Word.RUNS_LEFT] = self._most
        words[Word.IDLE], words[Word.MOST_IDLE] = self.quiet, ring.budgets.livelock_steps
        words[Word.ASLEEP] = 0
        self.show_regions()
        alone = threading.active_count() == 1
        ends = ring.budgets.end_ns is not None
        sleep_ns = _SLEEP_NS if alone else SLICE_NS
        with self.direct.turn((), sleep_ns, _SLEEP_NS if alone and not ends else TURN_NS):
            self._lend()
            try:
                if words[Word.STOP]:
                    return None
                self.enter()
            except BaseException:
                self.runs = words[Word.RUNS] + 1
                ring.ran(name, words[Word.ALL_INSNS], words[Word.RUNS])
                raise
            finally:
                self.looped += words[Word.RUNS]
                self._take_back()
        self.runs = words[Word.RUNS]
        ring.ran(name, words[Word.ALL_INSNS] - words[Word.INSNS], self.runs - 1)
        self.quiet = words[Word.IDLE]
        self.asleep = bool(words[Word.ASLEEP])
        if self.runs > 1:
            changed = words[Word.CHANGES] != words[Word.SEEN]
            posted, token, _, _ = ring.state()
            self.before = posted - changed, token, words[Word.HELD_BEFORE], 0
        return words[Word.R0], words[Word.INSNS]

    def show_regions(self) -> None:
        """Where the ring's regions are: one may be registered while compiled code sleeps."""
        words, queues = self.direct.words, self._ring.queues
        for id_, (start, size) in enumerate(_REGIONS):
            kind = self._ring.rules.regions.get(id_)
            region = queues.region(kind) if kind is not None else None
            words[start] = region.start if region is not None else 0
            words[size] = region.size if region is not None else 0
        words[Word.SQ_REGION], words[Word.CQ_REGION] = queues.sq_addr, queues.cq.address
        words[Word.ARRAY] = queues.array_addr

    def look_up(self) -> None:
        """Let a loop that runs end soon: somebody else has something for Python to do."""
        self.direct.words[Word.STOP] = Stop.FOREIGN

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """Within a run: ring and queues are Python's for a while."""
        self._take_back()
        before = self._ring.state()
        try:
            yield
        finally:
            words = self.direct.words
            words[Word.CHANGES] += before != self._ring.state()
            words[Word.STOP] = 0
            self._lend()

    def sync(self) -> None:
        """Within a run, interrupted: take in what has completed."""
        self._ring.take_in()

    def _lend(self) -> None:
        ring, words = self._ring, self.direct.words
        self.direct.lend([ring.queues.cq])
        self._submitted_to = words[Word.TAIL]
        words[Word.HEAD] = ring.queues.sq_head
        words[Word.ROOM] = max(ring.room(), 0) + self.direct.in_flight()
        words[Word.CARE] = Care.HELD if ring.queues.backlog else 0
        if not self._backend.undisturbed:
            words[Word.CARE] |= Care.PYTHONS
        if words[Word.CARE] or ring.needs_python:
            self.look_up()

    def _take_back(self) -> None:
        words, ring = self.direct.words, self._ring
        self.direct.take_back([ring.queues.cq], self._changed)
        ring.queues.sq_head = words[Word.HEAD]
        submitted = (words[Word.TAIL] - self._submitted_to) & U32
        self._submitted_to = words[Word.TAIL]
        ring.submitted(submitted)

    def _changed(self, _: CompletionQueue, posted: int, __: int, ___: int) -> None:
        self._ring.posted(posted)

    # --- DirectRequests -------------------------------------------------------------------------

    def in_flight(self) -> int:
        """See DirectRequests.in_flight."""
        return self.direct.in_flight()

    def claim(self, token: int) -> None:
        """See DirectRequests.claim."""
        claimed = self.direct.claim(token)
        self._ring.adopt(token, claimed.user_data, claimed.opcode)
        self._backend.adopt(token, claimed.opcode)

    def claim_all(self) -> None:
        """See DirectRequests.claim_all."""
        for claimed in self.direct.claim_all():
            self._ring.adopt(claimed.token, claimed.user_data, claimed.opcode)
            self._backend.adopt(claimed.token, claimed.opcode)

    def release(self, token: int) -> bool:
        """See DirectRequests.release."""
        self.direct.release(token)
        return False

    def close(self) -> None:
        """Give the tables back. Nothing may be in flight."""
        self._backend.let(None)
        self.direct.close()


def _nowhere(_: int) -> int | None:
    return None
