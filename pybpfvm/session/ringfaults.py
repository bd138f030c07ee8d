"""Faults around one ring: those of requests, which the simulated ring injects, and what the user
side does to shared memory and queues between program runs, which happens in this process and so
works over both backends.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Final, TypeVar

from pybpfvm.errors import InputError, RingError
from pybpfvm.events import Noted
from pybpfvm.uring_backend.bpf import Budgets
from pybpfvm.uring_backend.faults import (
    SWARM_RATE,
    AtRequest,
    Fault,
    Faults,
    Missed,
    Odds,
    SmallBacklog,
    UserReaps,
    UserWrites,
    parse_faults,
)
from pybpfvm.uring_backend.loop.budgets import LoopBudgets
from pybpfvm.uring_backend.sim.injector import Injector

if TYPE_CHECKING:
    from pybpfvm.events import Observer
    from pybpfvm.session.hostring import HostRing
    from pybpfvm.session.user import Block
    from pybpfvm.uring_backend.choices import Chooser

_WIDTHS: Final = (1, 2, 4, 8)
_CHOSEN_BYTES: Final = 64  # of each shared block, what a chooser may have written to
_CHOSEN_WORDS: Final = (bytes(4), b"\xff" * 4)
_OWN_STREAM: Final = 0x05E8
_BACKLOG_STREAM: Final = 0xB10C
_Budgets = TypeVar("_Budgets", Budgets, LoopBudgets)


def _drawn_backlog(odds: Odds | None, seed: int) -> SmallBacklog | None:
    """How little memory for overflown CQEs the seed leaves, in a swarm that switches that on."""
    if odds is None or not odds.swarm:
        return None
    random = Random(seed << 16 | _BACKLOG_STREAM)
    if random.random() >= SWARM_RATE:
        return None
    return SmallBacklog(random.choice((0, 1, 4, 16)))


class _Runs:
    """How many runs of programs there were."""

    def __init__(self) -> None:
        self.count = 0


class RingFaults:
    """What `faults` mean for `ring`, and those beside it. `injector` decides about requests, None
    when none is meant; `idle`: the user side will never do anything between runs."""

    def __init__(
        self,
        ring: HostRing,
        faults: Faults | str | None,
        seed: int,
        observer: Observer | None,
        chooser: Chooser | None = None,
    ) -> None:
        if isinstance(faults, str):
            faults = parse_faults(faults)
        faults = faults or Faults()
        odds = faults.odds
        self._ring = ring
        self._rings = [ring]  # with those beside it
        self._observer = observer
        self._backlogs = [fault for fault in faults.plan if isinstance(fault, SmallBacklog)]
        draws = chooser is None and not self._backlogs
        self._drawn = _drawn_backlog(odds, seed) if draws else None
        self._done: list[UserWrites | UserReaps] = []
        self._runs = _Runs()
        self._planned: dict[int, list[UserWrites | UserReaps]] = {}
        for fault in faults.plan:
            if isinstance(fault, UserWrites | UserReaps):
                self._planned.setdefault(fault.nth, []).append(fault)
        self._random = Random(seed << 16 | _OWN_STREAM)
        self._shared = odds.shared if odds is not None else ()
        self._reaped = odds.reaped if odds is not None else ()
        shares = bool(self._shared or self._reaped)
        self._rate = odds.user_rate if odds is not None and shares else 0.0
        if odds is not None and odds.swarm and self._random.random() < 0.5:
            self._rate = 0.0
        self._chooser = chooser if shares else None
        self.idle = not self._planned and not self._rate and self._chooser is None
        self.injector: Injector | None = None
        if (
            chooser is not None
            or odds is not None
            or any(isinstance(fault, AtRequest) for fault in faults.plan)
        ):
            self.injector = Injector(faults, seed, chooser)
            self.injector.told = self._tell

    def beside(self, ring: HostRing, observer: Observer | None) -> RingFaults:
        """The same for a ring beside this one: requests and runs of both are counted together, and
        each has as little backlog."""
        other = copy(self)
        other._ring, other._observer = ring, observer
        other._rings.append(ring)
        if self.injector is not None:
            other.injector = self.injector.beside()
            other.injector.told = other._tell
        return other

    @property
    def injected(self) -> tuple[Fault, ...]:
        """The faults that came so far, as a plan that makes them come again."""
        requests = self.injector.injected if self.injector is not None else []
        lost = any(ring.counts.dropped[0] for ring in self._rings)
        drawn = () if self._drawn is None or not lost else (self._drawn,)
        return (*self._backlogs, *drawn, *requests, *self._done)

    @property
    def missed(self) -> tuple[Missed, ...]:
        """What of the plan did not come so far, and why."""
        found = [] if self.injector is None else self.injector.missed()
        if self._backlogs and not any(ring.counts.dropped[0] for ring in self._rings):
            found += [Missed(fault, "CQ 0 lost no CQE") for fault in self._backlogs]
        came = set(self._done)
        for fault in (fault for faults in self._planned.values() for fault in faults):
            if fault in came:
                continue
            late = self._runs.count < fault.nth
            why = f"program runs: {self._runs.count}" if late else "the queue was empty"
            found.append(Missed(fault, why))
        return tuple(found)

    def limited(self, budgets: _Budgets) -> _Budgets:
        """The ring's budgets, with as little backlog as a fault leaves it."""
        backlog = self._backlogs[-1] if self._backlogs else self._drawn
        if backlog is None:
            return budgets
        return replace(budgets, backlog_entries=backlog.entries)

    def before_run(self) -> None:
        """A program is about to run. Raises InputError for a block or CQ that there is not."""
        if self.idle:
            return
        self._runs.count += 1
        for fault in self._planned.get(self._runs.count, ()):
            self._do(fault)
        if self._chooser is not None:
            self._do_chosen(self._chooser)
            return
        if self._shared and self._random.random() < self._rate:
            self._do(self._some_write())
        if self._reaped and self._random.random() < self._rate:
            self._do(UserReaps(self._runs.count, self._random.choice(self._reaped)))

    def _do_chosen(self, chooser: Chooser) -> None:
        """What a chooser has the user side do, of a little."""
        if not chooser.faults_left:
            return
        acts: list[UserWrites | UserReaps | None] = [None]
        acts += [UserReaps(self._runs.count, cq) for cq in self._reaped]
        for name in self._shared:
            for offset in range(0, min(self._block(name).size, _CHOSEN_BYTES) - 3, 4):
                acts += [UserWrites(self._runs.count, name, offset, word) for word in _CHOSEN_WORDS]
        if len(acts) > 1 and (act := acts[chooser.user(acts)]) is not None:
            self._do(act)

    def _some_write(self) -> UserWrites:
        random = self._random
        name = random.choice(self._shared)
        block = self._block(name)
        width = random.choice([width for width in _WIDTHS if width <= block.size])
        offset = random.randrange(0, block.size - width + 1, width)
        top = (1 << 8 * width) - 1
        old = int.from_bytes(block.read(width, offset), "little")
        value = random.choice((0, 1, top, top >> 1, old ^ 1 << random.randrange(8 * width)))
        return UserWrites(self._runs.count, name, offset, value.to_bytes(width, "little"))

    def _do(self, fault: UserWrites | UserReaps) -> None:
        try:
            if isinstance(fault, UserWrites):
                self._block(fault.block).write(fault.data, fault.offset)
            else:
                if self._ring.reap_one(fault.cq) is None:
                    return  # the user side found nothing
        except (InputError, RingError) as error:
            raise InputError(error.reason, where=f"faults: {fault}") from None
        self._done.append(fault)
        self._tell(None, fault)

    def _block(self, name: str) -> Block:
        return self._ring.user.named(name)

    def _tell(self, request: int | None, fault: Fault) -> None:
        if self._observer is not None:
            now = self._ring.backend.now_ns()
            self._observer(Noted(now, "fault", str(fault), request))
