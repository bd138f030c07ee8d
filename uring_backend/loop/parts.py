"""What a ring with a loop consists of, and what is known of it at any time."""

from __future__ import annotations

import errno
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from pybpfvm.errors import RingError
from pybpfvm.events import Observer
from pybpfvm.memory import AddressSpace
from pybpfvm.profiles.base import LoopRules
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.base import Backend, Wake
from pybpfvm.uring_backend.counts import Counts
from pybpfvm.uring_backend.loop.attach import OpsValue, RingTable
from pybpfvm.uring_backend.loop.budgets import LoopBudgets
from pybpfvm.uring_backend.loop.memory import LoopMemory
from pybpfvm.uring_backend.loop.operations import Operations
from pybpfvm.uring_backend.loop.parameters import Parameters
from pybpfvm.uring_backend.loop.posts import Posts
from pybpfvm.uring_backend.loop.requests import Requests
from pybpfvm.uring_backend.loop.ringtime import RingTime
from pybpfvm.uring_backend.loop.setup import LoopSetup, check_setup
from pybpfvm.uring_backend.loop.shownring import ShownRing
from pybpfvm.uring_backend.requests import Tokens
from pybpfvm.uring_backend.restrictions import Restrictions
from pybpfvm.uring_backend.settings import CLOCK_MONOTONIC

if TYPE_CHECKING:
    from pybpfvm.uring_backend.kernel.steps import KernelSteps

_THREAD_IDLE_MS = 1000


class RingParts(ABC):
    """The parts of one ring, made as ring.LoopRing says, and its state: `_signals` are pending, it
    is `_inside` an enter, `_submitter` is the thread that may enter it (None: not decided yet),
    a kernel's thread sleeps from `_thread_sleeps_ns` on."""

    fd: int

    def __init__(
        self,
        rules: LoopRules,
        memory: AddressSpace,
        backend: Backend,
        entries: int,
        *,
        flags: int = 0,
        cq_entries: int = 0,
        sq_thread_idle_ms: int = 0,
        table: RingTable,
        observer: Observer | None = None,
        budgets: LoopBudgets | None = None,
        restrictions: Restrictions | None = None,
        beside: RingParts | None = None,
    ) -> None:
        self.rules = rules
        operation = rules.operation
        own_flag = operation.setup_flag if operation is not None else 0
        self.setup: LoopSetup = check_setup(entries, flags & ~own_flag, cq_entries)
        self.backend = backend
        self.time = RingTime(backend)
        self.memory = memory
        self.attached: OpsValue | None = None
        self.steps = 0  # calls of the program, over all enters
        self.budgets: LoopBudgets = budgets or LoopBudgets()
        self.queues = LoopMemory(memory, self.setup, self.budgets.backlog_entries)
        self.posts = Posts(self.queues, self.now_ns, observer)
        self._observer = observer
        self._table = table
        self.operations: Operations | None = None
        if operation is not None:
            self.operations = Operations(
                operation,
                memory,
                backend,
                {} if own_flag else table.operations,
                table.requests,
                allowed=not own_flag or bool(flags & own_flag),
            )
        self._event = _Event()
        self._event_handle = memory.handle(self._event) if rules.gate else 0
        self._clock = CLOCK_MONOTONIC
        self._shown: ShownRing | None = None
        if rules.ctx_bytes:
            self._shown = ShownRing(memory, rules.ctx, rules.ctx_bytes, self.queues)
            self._shown.fill(self.setup, self._clock)
        # What stands for the ring: its struct where programs can look into it.
        self.handle = memory.handle(self) if self._shown is None else self._shown.start
        self._parameters = Parameters(rules, memory, self.queues, self.now_ns)
        self.params = self._parameters.region
        disabled = bool(self.setup.flags & abi.SETUP_R_DISABLED)
        self.restrictions = restrictions or Restrictions(disabled=disabled)
        self._submitter = None if disabled else threading.get_ident()
        self.requests: Requests = Requests(
            self.setup,
            backend,
            self.queues,
            self.posts,
            self.restrictions,
            self.operations,
            tokens=Tokens() if beside is None else beside.requests.tokens,
            most=self.budgets.live_requests,
            now_ns=self.now_ns,
            observer=observer,
        )
        self._thread_idle_ns = (sq_thread_idle_ms or _THREAD_IDLE_MS) * 1_000_000
        self._thread_sleeps_ns = backend.now_ns()  # it falls asleep before there is work
        self._pending_sqes = 0
        self._signals = 0
        self._inside = False
        self._closed = False
        self._begin()

    @abstractmethod
    def _begin(self) -> None:
        """All parts are there: the ring is one that others can find, by its `fd`."""

    def __str__(self) -> str:
        return "ring"

    def shown(self, field: str) -> int:
        """The true address, where it can be written, of a field of the ring's struct that programs
        see; 0 if they see none."""
        return 0 if self._shown is None else self._shown.addr(field)

    def show_queues(self) -> None:
        """As ShownRing, where programs see something."""
        if self._shown is not None:
            self._shown.show_queues()

    def now_ns(self) -> int:
        """The ring's clock: see RingTime."""
        return self.time.now_ns()

    def look_up(self) -> None:
        """Let compiled code that loops here, if any does, come back behind this run."""
        if self.native is not None:
            self.native.look_up()

    @property
    def native(self) -> KernelSteps | None:
        """What lets compiled code make the loop, if anything does."""
        return self.requests.native

    @property
    def driven(self) -> bool:
        """Whether a program is there that enters call."""
        return self.attached is not None and self.attached.step is not None

    def state(self) -> tuple[int, int, int, int]:
        """What changes when a step gets anywhere: completions, requests, what is taken."""
        queues = self.queues
        return self.posts.number, self.requests.tokens.next, queues.cq.count(), queues.backlog

    @property
    def counts(self) -> Counts:
        """Runs, instructions and CQEs so far; what left the CQ counts as reaped, whoever moved its
        head."""
        return self.posts.counts(self.setup.cq_entries)

    @property
    def counts_told(self) -> Counts:
        """The same, as far as an observer was told: of CQEs whose leaving is still to be told, it
        says that they are there."""
        return self.posts.counts_told()

    def ran(self, name: str, insns: int, runs: int = 1) -> None:
        """Runs of the program of this name, of so many instructions."""
        self.posts.ran(name, insns, runs)

    def in_flight(self) -> int:
        """Requests submitted and not completed."""
        return self.requests.in_flight()

    def room(self) -> int:
        """How many requests more may be in flight."""
        return self.requests.room()

    def _check_open(self) -> None:
        if self._closed:
            raise RingError(errno.EBADF, "the ring is closed")


class _Event:
    """What a program of a poll gate is asked about, while it is asked."""

    def __init__(self) -> None:
        self.wake: Wake | None = None

    def __str__(self) -> str:
        return "event"
