"""A recording as something that can be looked at anywhere: any position, from the nearest snapshot
before it.

    with History("t.bpftrace") as history:
        stopped = history.at(Position(3, 17))

Memory and maps are those of the position asked for last, to be looked at only. Runs before it are
replayed by whole runs, the rest by `pybpfvm.session.moments`.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Self

from pybpfvm.debugger.position import Position
from pybpfvm.engine import Paused, RunEnvironment, RunResult
from pybpfvm.errors import InputError, PybpfvmError, Trap, TrapKind
from pybpfvm.events import CqePosted, Event
from pybpfvm.image import ImageSnapshot
from pybpfvm.memory import AddressSpace
from pybpfvm.program import Program
from pybpfvm.report.words import printable
from pybpfvm.session.moments import Moment, MomentEngines, Moments, Watch
from pybpfvm.session.objects import LoadedObject, helpers_of
from pybpfvm.trace.answering import BrokenOff, Cut, Diverged
from pybpfvm.trace.format import Record
from pybpfvm.trace.index import FirstRuns, RunEntry
from pybpfvm.trace.records import Kind, event_of
from pybpfvm.trace.replay import Divergence, Prepared, Replay
from pybpfvm.trace.ringstate import RingState, SqState

# After so much work a snapshot is taken: no position takes longer than that to reach.
_SNAPSHOT_S = 0.2
_MOST_SNAPSHOTS = 256
_MOST_RUNS = 64  # whose moments are kept
_FAR_INSNS = 4_000_000  # within a run, a moment is kept about so often at first
_MOST_KEPT = 64
_FOLDED_RUNS = 256  # ring states are kept every so many runs

Progress = Callable[[int, int], None]


class Unreachable(PybpfvmError):
    """The recording can not be replayed up to there: it diverges, for the reason given."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Stopped:
    """The state at a position. `moment` is None where no run is: at the very end."""

    position: Position
    moment: Moment | None

    @property
    def paused(self) -> Paused | None:
        """The frames, where a program is about to execute an instruction."""
        return self.moment if isinstance(self.moment, Paused) else None


@dataclass(frozen=True, slots=True)
class Told:
    """What ring number `ring` told. `position` is where it has just happened; `place` its number
    among the records within the run, -1 if it was before the run."""

    ring: int
    event: Event
    run: int
    place: int


class History:
    """A recording of `path`; `engine` executes whole runs. A context manager.

    `diverged` says where it can not be replayed any further, `progress` is told (done, all) of long
    work. Raises InputError as Replay does.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        engine: str = "auto",
        progress: Progress | None = None,
    ) -> None:
        self.replay = Replay(path, engine=engine, progress=progress, lazily=True)
        self.diverged: Divergence | None = None
        self.progress = progress
        self.interrupted = False
        self._going_back = False  # which nobody interrupts
        self._engines: dict[int, MomentEngines] = {}
        self._snapshots: dict[int, tuple[ImageSnapshot, ...]] = {}
        self._moments: dict[int, Moments] = {}
        self._current: int | None = None  # the run that memory and maps are within
        self._lengths: dict[int, int] = {}
        self._marked: dict[int, int] = {}  # run -> how far moments of it were kept
        self._folded: dict[int, dict[int, RingState]] = {}
        self._near_folded: list[int] = []
        self._inside_told: tuple[int, list[Told]] = (-1, [])
        self._rings_at: tuple[tuple[int, int], dict[int, RingState]] = ((-1, -1), {})
        self._stopped: Stopped | None = None
        self._worked_s = 0.0  # since the last snapshot
        self._states = sorted(self.replay.index.states)  # at which runs one can begin
        self._runs: Sequence[RunEntry] = self.replay.runs
        self._snapshots[0] = self._taken()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give everything back; twice is fine."""
        for moments in self._moments.values():
            moments.close()
        for engines in self._engines.values():
            engines.close()
        self._moments.clear()
        self._engines.clear()
        self.replay.close()

    # --- what there is ------------------------------------------------------------------------

    @property
    def runs(self) -> Sequence[RunEntry]:
        """All runs that can be looked at."""
        return self._runs

    @property
    def memory(self) -> AddressSpace:
        """As it is at the position asked for last."""
        assert self.replay.memory is not None
        return self.replay.memory

    @property
    def start(self) -> Position:
        """Before everything."""
        return Position(0, 0)

    @property
    def end(self) -> Position:
        """Behind everything."""
        return Position(len(self.runs), 0)

    @property
    def insns(self) -> int:
        """The instructions of all runs."""
        return self.number_of(self.end)

    def number_of(self, position: Position) -> int:
        """How many instructions have been executed before it, in all runs."""
        if position.run < len(self.replay.runs):
            return self.replay.runs[position.run].first_insn + position.insns
        return self.replay.index.insns

    def position_of(self, number: int) -> Position:
        """Where so many instructions have been executed in all runs; the end if there are less."""
        runs = self.runs
        if number >= self.insns:
            return self.end
        at = self.replay.index.run_at(number)
        return Position(at, max(number, 0) - runs[at].first_insn) if runs else self.end

    def length(self, run: int) -> int:
        """The instructions of a run. Where the recording does not say, because the run was broken
        off, it is executed to find out."""
        entry = self.runs[run]
        if entry.whole and (entry.how is None or entry.how[0] == "trap"):
            return entry.insns
        if run not in self._lengths:
            self._lengths[run] = self._found_length(run)
        return self._lengths[run]

    def last(self, run: int) -> Position:
        """The last position of a run with an instruction to execute: of one that trapped, the one
        that did."""
        entry = self.runs[run]
        budget = entry.how is not None and entry.how[1] == TrapKind.BUDGET.name
        length = self.length(run)
        broken = entry.how is not None and entry.how[0] == "left"
        return Position(run, length if budget or broken or not entry.whole else max(length - 1, 0))

    def fault(self) -> Position | None:
        """Where the last run was stopped by a fault, None if it was not."""
        runs = self.runs
        if runs and runs[-1].how is not None and runs[-1].how[0] == "trap":
            return self.last(len(runs) - 1)
        return None

    def after(self, position: Position) -> Position | None:
        """The next one; None at the end."""
        if position.run >= len(self.runs):
            return None
        if position.insns < self.length(position.run):
            return Position(position.run, position.insns + 1)
        return Position(position.run + 1, 0)

    def before(self, position: Position) -> Position | None:
        """The one before; None at the start."""
        if position.insns:
            return Position(position.run, position.insns - 1)
        if not position.run:
            return None
        return Position(position.run - 1, self.length(position.run - 1))

    # --- going there --------------------------------------------------------------------------

    def at(self, position: Position) -> Stopped:
        """The state at a position; one that there is not is an InputError. Raises Unreachable where
        the recording can not be replayed so far."""
        runs = len(self.runs)
        if position == self.end:
            self._enter_end()
            self._stopped = Stopped(position, None)
            return self._stopped
        if not 0 <= position.run < runs or not 0 <= position.insns <= self.length(position.run):
            raise InputError(
                f"the recording has no position {position}", where=self.replay.file.path
            )
        moments = self.moments(position.run)
        self._stopped = Stopped(position, self._moment(moments, position))
        return self._stopped

    def back_at(self, position: Position) -> Stopped:
        """The state at a position where one was, after work that was broken off anywhere, perhaps
        in the middle of a run. Whoever interrupts this waits: a snapshot is near."""
        self.interrupted, self._going_back = False, True
        try:
            self._restore(max(one for one in self._snapshots if one <= position.run))
            return self.at(position)
        finally:
            self.interrupted = self._going_back = False

    def interrupt(self) -> bool:
        """Have work end soon; whether somebody asked for that before, and it did not."""
        before = self.interrupted and not self._going_back
        self.interrupted = True
        return before

    def _moment(self, moments: Moments, position: Position) -> Moment:
        self._keep_up_to(moments, position)
        try:
            return moments.at(position.insns)
        except (BrokenOff, Cut, Diverged):
            moments.forget()
            return moments.at(position.insns - 1) if position.insns else moments.at(0)

    def moments(self, run: int) -> Moments:
        """The moments of a run, with memory and maps within it."""
        self._enter(run)
        return self._moments[run]

    def object_of(self, run: int) -> LoadedObject | None:
        """The object whose program a run is of; the last run's for one that there is not."""
        if not self.replay.runs:
            return self.replay.objects[0] if self.replay.objects else None
        entry = self.replay.runs[min(run, len(self.replay.runs) - 1)]
        return self.replay.objects[self.replay.index.engines[entry.engine].obj]

    def _taken(self) -> tuple[ImageSnapshot, ...]:
        return tuple(loaded.image.snapshot() for loaded in self.replay.objects)

    def _restore(self, run: int) -> None:
        for loaded, taken in zip(self.replay.objects, self._snapshots[run], strict=True):
            loaded.image.restore(taken)
        self.replay.cursor = run
        self._current = None
        self._worked_s = 0.0

    def _enter_end(self) -> None:
        if self._current is not None or self.replay.cursor != len(self.runs):
            self._whole_runs_to(len(self.runs))

    def _enter(self, run: int) -> None:
        if self._current == run:
            return
        if run in self._moments:
            self._moments[run].forget()
            self.replay.again(run)
            self._current = run
            return
        self._whole_runs_to(run)
        prepared = self.replay.prepare(run)
        entry = prepared.entry
        engines = self._engines_of(prepared)
        image = prepared.engine.image
        self._moments[run] = Moments(
            image,
            image.snapshot(),
            prepared.program,
            prepared.ctx_addr,
            partial(self._around, run),
            mark=lambda: self.replay.answered,
            helpers=engines.helpers,
            stack=self.replay.stacks[entry.engine],
            packet=prepared.packet,
            budget_insns=prepared.budget_insns,
            engines=engines,
        )
        self._current = run
        if len(self._moments) > _MOST_RUNS:
            oldest = next(one for one in self._moments if one not in self._marked or one != run)
            self._moments.pop(oldest).close()
            self._marked.pop(oldest, None)

    def _engines_of(self, prepared: Prepared) -> MomentEngines:
        number = prepared.entry.engine
        engines = self._engines.get(number)
        if engines is None:
            around = prepared.environment
            assert around.profile is not None
            helpers, stack = helpers_of(around.profile), self.replay.stacks[number]
            image = prepared.engine.image
            engines = self._engines[number] = MomentEngines(image, helpers, around, stack)
        return engines

    def _around(self, run: int, mark: object) -> RunEnvironment:
        return self.replay.again(run, mark if isinstance(mark, int) else 0)

    def _whole_runs_to(self, run: int) -> None:
        """Memory and maps are as they were before run `run` was prepared."""
        if self._current is None and self.replay.cursor == run:
            return
        nearest = self._nearest(run)
        current = self._current
        if current is not None and nearest <= current < run:
            self._leave(current)
        elif current is not None or not nearest <= self.replay.cursor <= run:
            self._restore(nearest)
        first = self.replay.cursor
        while self.replay.cursor < run:
            self.stop_if_interrupted()
            since = time.perf_counter()
            found = self.replay.step()
            if found is not None:
                self._diverges(found)
            kept = self._keep_if_due(since)
            if kept and self.progress is not None:
                self.progress(self.replay.cursor - first, run - first)
            if _is_near(self.replay.cursor, first, run):
                self._snapshot_here()

    def _nearest(self, run: int) -> int:
        """The last run, up to this one, at which there is a snapshot, which a state may become."""
        nearest = max(one for one in self._snapshots if one <= run)
        behind = bisect_right(self._states, run)
        if behind and self._states[behind - 1] > max(nearest, self._cursor_before(run)):
            nearest = self._states[behind - 1]
            self._restore(0)
            if not self._can_enter(nearest):
                self._distrust()
                return 0
            self._snapshots[nearest] = self._taken()
        return nearest

    def _can_enter(self, run: int) -> bool:
        try:
            self.replay.enter(run)
        except InputError:
            return False
        return True

    def _cursor_before(self, run: int) -> int:
        """Where memory and maps are, if that is before a run, or at it; else -1."""
        here = self.replay.cursor if self._current is None else self._current
        return here if here <= run else -1

    def _distrust(self) -> None:
        """Begin at no state of the recording any more: each position is reached from the start."""
        self._states = []
        self._snapshots = {0: self._snapshots[0]}
        for moments in self._moments.values():
            moments.close()
        self._moments.clear()
        self._marked.clear()
        self._restore(0)

    def _keep_if_due(self, since: float) -> bool:
        """Take a snapshot behind a run that was replayed since then, if one is due."""
        self._worked_s += time.perf_counter() - since
        due = self._worked_s >= _SNAPSHOT_S
        if due:
            self._worked_s = 0.0
            self._snapshot_here()
        return due

    def _snapshot_here(self) -> None:
        cursor = self.replay.cursor
        if cursor not in self._snapshots:
            self._snapshots[cursor] = self._taken()
            if len(self._snapshots) > _MOST_SNAPSHOTS:
                for one in sorted(self._snapshots)[1::2]:
                    del self._snapshots[one]

    def _leave(self, run: int) -> None:
        """Go behind a run that memory and maps are within."""
        moments = self._moments[run]
        ended: RunResult | Trap | BrokenOff | Cut | Diverged
        try:
            moment = moments.at(self.length(run))
            if isinstance(moment, Paused):
                moment = moments.at(moments.budget_insns + 1)
            assert not isinstance(moment, Paused)
            ended = moment
        except (BrokenOff, Cut, Diverged) as stop:
            ended = stop
        moments.forget()
        self._current = None
        self.replay.cursor = run
        found = self.replay.finish(run, ended)
        if found is not None:
            self._diverges(found)

    def _diverges(self, found: Divergence) -> None:
        """The run that was to be gone behind is another. Raises Unreachable, unless it is as it was
        when replayed from the start, not from a state in the recording."""
        self._current = None
        if self._states:
            self._distrust()
            self._whole_runs_to(found.run + 1)
            return
        self.diverged = found
        self._runs = FirstRuns(self.replay.runs, found.run)
        self._restore(max(one for one in self._snapshots if one <= found.run))
        raise Unreachable(f"the replay is another from here on: {found}")

    def stop_if_interrupted(self) -> None:
        """Raises Interrupted when someone wants that."""
        if self.interrupted and not self._going_back:
            raise Interrupted

    def _found_length(self, run: int) -> int:
        """How many instructions of a run that was broken off were executed whole."""
        executed = 0

        def count(insns: int, *_: object) -> bool:
            nonlocal executed
            executed = insns
            return False

        moments = self.moments(run)
        try:
            moments.walk(0, moments.budget_insns, count)
            executed += 1
        except (BrokenOff, Cut, Diverged):
            pass
        moments.forget()
        return executed

    def _keep_up_to(self, moments: Moments, position: Position) -> None:
        """Keep moments before a far position, so that going back from it is not far."""
        run, wanted = position
        marked = self._marked.get(run, 0)
        step = max(_FAR_INSNS, self.length(run) // _MOST_KEPT)
        while marked + step < wanted:
            self.stop_if_interrupted()
            marked += step
            self._marked[run] = marked
            if self.progress is not None:
                self.progress(marked, wanted)
            if not moments.keep(marked):
                moments.forget()

    # --- what rings told ----------------------------------------------------------------------

    def told_before(self, run: int) -> Iterator[Told]:
        """What rings told between a run and the one before; after the last one for their number."""
        for record in self._between(run):
            if record[0] == Kind.EVENT:
                yield Told(record[1], event_of(record), run, -1)

    def _between(self, run: int) -> Iterator[Record]:
        replay = self.replay
        return replay.between(run) if run < len(replay.runs) else replay.after_all()

    def told_in(self, run: int) -> Sequence[Told]:
        """What rings told within a run."""
        if self._inside_told[0] != run:
            found = [
                Told(record[1], event_of(record), run, place)
                for place, record in enumerate(self.replay.inside(run))
                if record[0] == Kind.EVENT
            ]
            self._inside_told = run, found
        return self._inside_told[1]

    @cached_property
    def ring_names(self) -> Sequence[str]:
        """What rings are called, from number 1 on: as the recording says, or ring1, ring2, ..."""
        given = [printable(options.get("name", "")) for options in self.replay.index.rings]
        numbered = [f"ring{number}" for number in range(1, len(given) + 1)]
        return [
            name if name and given.count(name) == 1 and name not in numbered else number
            for name, number in zip(given, numbered, strict=True)
        ]

    def ring_name(self, number: int) -> str:
        """That of one, which the recording need not have told of."""
        known = 1 <= number <= len(self.ring_names)
        return self.ring_names[number - 1] if known else f"ring{number}"

    def ring_title(self, number: int) -> str:
        """The same in a sentence."""
        name = self.ring_name(number)
        return f"ring {number}" if name == f"ring{number}" else name

    def rings(self) -> Mapping[int, RingState]:
        """The rings at the position asked for last, by number from 1."""
        stopped = self._stopped
        run = stopped.position.run if stopped is not None else 0
        known = self.replay.told if self._current == run else -1
        if self._rings_at[0] == (run, known):
            return self._rings_at[1]
        states = self._rings_before(run)
        if self._current == run:
            for told in self.told_in(run):
                if told.place < known:
                    self._ring(states, told.ring).apply(told.event)
        self._rings_at = (run, known), states
        return states

    def _rings_before(self, run: int) -> dict[int, RingState]:
        """When a run begins."""
        if not self._folded:
            made = {
                number: RingState.made(self.ring_name(number), options)
                for number, options in enumerate(self.replay.index.rings, 1)
            }
            self._folded[-1] = made
        nearest = max(one for one in self._folded if one <= run)
        behind = bisect_right(self._states, run)
        if behind and self._states[behind - 1] > nearest:
            nearest = self._states[behind - 1]
            self._fold_from(nearest)
        states = {number: state.copy() for number, state in self._folded[nearest].items()}
        for one in range(nearest + 1, run + 1):
            if one > 0:
                for record in self.replay.inside(one - 1):
                    self._fold(states, record)
            for record in self._between(one):
                self._fold(states, record)
            if one % _FOLDED_RUNS == 0 or one == run or _is_near(one, nearest, run):
                self._folded[one] = {number: state.copy() for number, state in states.items()}
        self._forget_folded(nearest, run)
        return states

    def _fold_from(self, run: int) -> None:
        """Have the rings when a run begins, at which the recording has a state."""
        states = {number: state.copy() for number, state in self._folded[-1].items()}
        for number, packed in self.replay.rings_at(run).items():
            self._ring(states, number).become(packed)
        for record in self._between(run):
            self._fold(states, record)
        self._folded[run] = states

    def _forget_folded(self, nearest: int, run: int) -> None:
        """Keep ring states every so many runs, and those near before this one."""
        for one in self._near_folded:
            passed = one > run or one < run - _FOLDED_RUNS or one == nearest == run - 1
            if passed:
                del self._folded[one]
        self._near_folded = [one for one in self._folded if one > 0 and one % _FOLDED_RUNS]

    def _ring(self, states: dict[int, RingState], number: int) -> RingState:
        return states.setdefault(number, RingState(self.ring_name(number)))

    def _fold(self, states: dict[int, RingState], record: Record) -> None:
        if record[0] == Kind.EVENT:
            self._ring(states, record[1]).apply(event_of(record))
        elif record[0] == Kind.SQES:
            _, number, head, tail, dropped, sqes = record
            self._ring(states, number).queue = SqState(head, tail, dropped, deque(sqes))

    def all_told(self, run: int) -> Iterator[Told]:
        """What rings told before a run and within it; for the number of runs, after the last."""
        yield from self.told_before(run)
        if run < len(self.runs):
            yield from self.told_in(run)

    def ring_states(self, run: int) -> Iterator[Mapping[str, RingState]]:
        """The rings by name when a run begins, and after each thing that they told within it: the
        same objects, changed. For the number of runs: at the end."""
        states = self._rings_before(run)
        yield {one.name: one for one in states.values()}
        if run < len(self.runs):
            for told in self.told_in(run):
                self._ring(states, told.ring).apply(told.event)
                yield {one.name: one for one in states.values()}

    def has_cqes(self, run: int) -> bool:
        """Whether CQEs were posted within a run."""
        return any(isinstance(told.event, CqePosted) for told in self.told_in(run))

    def walk(self, run: int, first: int, last: int, watch: Watch) -> None:
        """Tell `watch` the instructions of a run from `first` on, before `last`: see Moments.walk.
        Where the run was broken off, that is the end."""
        moments = self.moments(run)
        self._keep_up_to(moments, Position(run, first))

        def watched(n: int, program: Program, pc: int, regs: tuple[int, ...], depth: int) -> bool:
            self.stop_if_interrupted()
            return watch(n, program, pc, regs, depth)

        self._stopped = Stopped(Position(run, first), None)
        try:
            moments.walk(first, last, watched)
        except (BrokenOff, Cut, Diverged):
            moments.forget()
        except Interrupted:
            moments.forget()
            raise

    def sweep(self, run: int, watch: Watch) -> None:
        """Tell `watch` all instructions of a run, until it wants no more, and be behind it then. No
        moment of it is kept: this is for many runs, one after the other."""
        self._whole_runs_to(run)
        since = time.perf_counter()
        prepared = self.replay.prepare(run)
        near = self._engines_of(prepared).near
        executed = 0
        wanted = True

        def hook(program: Program, pc: int, regs: tuple[int, ...], depth: int) -> None:
            nonlocal executed, wanted
            if wanted:
                wanted = not watch(executed, program, pc, regs, depth)
                executed += 1

        self._current = run
        self._stopped = Stopped(Position(run, 0), None)
        near.environment, near.hook = prepared.environment, hook
        try:
            ended = prepared.run(near)
        except BaseException:
            self._restore(max(one for one in self._snapshots if one <= run))
            raise
        finally:
            near.hook = None
        self._current = None
        found = self.replay.finish(run, ended)
        if found is not None:
            self._diverges(found)
        self._keep_if_due(since)

    def hunt(
        self, run: int, first: int, last: int, places: Mapping[str, frozenset[int]]
    ) -> int | None:
        """As Moments.hunt."""
        moments = self.moments(run)
        self._keep_up_to(moments, Position(run, first))
        try:
            return moments.hunt(first, last, places)
        except (BrokenOff, Cut, Diverged):
            moments.forget()
            return None


class Interrupted(Exception):
    """Someone wants the work to end."""


def _is_near(run: int, first: int, last: int) -> bool:
    """Whether what is known at this run is kept on the way from one to another: the nearer to the
    last the more, for whoever goes back from there run by run."""
    left = last - run
    return left & left - 1 == 0 and 0 < left < (last - first) // 2


__all__ = ["History", "Interrupted", "Progress", "Stopped", "Told", "Unreachable"]
