"""Any moment of a run: the state after any number of instructions, and what happens between two.

A run is executed again from a snapshot of its beginning, or of a moment that was kept: compiled
code covers the distance and pauses at the exact instruction, the interpreter shows instructions one
by one from there. Where a moment lies in a function that a helper called back, it goes on from the
call of that helper.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace

from pybpfvm.engine import (
    DEFAULT_BUDGET_INSNS,
    Paused,
    PausingEngine,
    RunEnvironment,
    RunResult,
)
from pybpfvm.errors import Trap, TrapKind
from pybpfvm.helpers.proto import Helper
from pybpfvm.image import Image, ImageSnapshot
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.opcodes import Kind, Pseudo
from pybpfvm.memory import Region
from pybpfvm.outline import outline_of, runs_others
from pybpfvm.program import Program
from pybpfvm.session.engines import jit_refusal
from pybpfvm.vm.interp import Interpreter

# What a moment is: before an instruction, or the end of the run.
Moment = Paused | RunResult | Trap
# (instructions executed before it, program, pc, r0..r10, frames above the program's own), told
# before the instruction; True to stop there.
Watch = Callable[[int, Program, int, tuple[int, ...], int], bool]

_MOST_TRAPPING = 32
_SHORT = 500  # compiled code is not worth its while
_NEAR = 20_000  # the interpreter goes so far in about the time that beginning anew takes


@dataclass(frozen=True, slots=True)
class _Kept:
    """A moment with all that it takes to go on from it."""

    paused: Paused
    image: ImageSnapshot
    mark: object

    def executed(self) -> int:
        """The instructions before it."""
        return self.paused.insns


class MomentEngines:
    """What executes the runs of one image on the frames `stack`: an interpreter, and compiled code
    where there is some. Several Moments may share them, one after the other."""

    def __init__(
        self,
        image: Image,
        helpers: Mapping[int, Helper],
        environment: RunEnvironment,
        stack: Sequence[Region],
    ) -> None:
        self.helpers = helpers
        self.near = Interpreter(image, helpers, environment, stack=stack)
        self.far: PausingEngine = self.near
        self._closing = [self.near.close]
        if not image.object.big_endian and jit_refusal() is None:
            from pybpfvm.jit.engine import JitEngine

            jit = JitEngine(image, helpers, environment, stack=stack)
            self.far = jit
            self._closing.append(jit.close)
        self._traps: dict[tuple[int, frozenset[int]], tuple[Program, Program]] = {}

    def trapping(self, program: Program, pcs: frozenset[int]) -> Program | None:
        """The program, with instructions at `pcs` that trap; None where its code also runs from
        elsewhere (tail calls, callbacks), or no compiled code would gain anything."""
        if self.far is self.near:
            return None
        known = self._traps.get((id(program), pcs))
        if known is None:
            if _runs_from_elsewhere(program, self.helpers):
                return None
            if len(self._traps) >= _MOST_TRAPPING:
                self._traps.clear()
            known = program, _trapping(program, pcs)
            self._traps[id(program), pcs] = known
        return known[1]

    def close(self) -> None:
        """Give the engines back; twice is fine."""
        for close in self._closing:
            close()


def _runs_from_elsewhere(program: Program, helpers: Mapping[int, Helper]) -> bool:
    return any(
        (insn.spec.kind is Kind.CALL and runs_others(helpers.get(insn.imm)))
        or (insn.spec.kind is Kind.LDDW and insn.src == Pseudo.FUNC)
        for insn in program.insns
    )


def _trapping(program: Program, pcs: frozenset[int]) -> Program:
    wide, narrow = assemble("r10 = 0 ll\nr10 = 0")
    insns, pc = [], 0
    for insn in program.insns:
        stands_in = wide if insn.spec.kind is Kind.LDDW else narrow
        insns.append(stands_in if pc in pcs else insn)
        pc += insn.slots
    return replace(program, insns=tuple(insns))


class Moments:
    """The moments of one run of `program`. A context manager that gives its engines back.

    `start` is the image when the run began: its context, its packet and the frames `stack` were
    there. `environment` makes what surrounds the run, anew each time: it must give the answers of
    the first time again, from where `mark` said they were (None: the first); what it changes
    outside of memory and maps is its own business. `engines` are those of others to share.
    Memory and maps are those of the moment asked for last, to be looked at only.
    """

    def __init__(
        self,
        image: Image,
        start: ImageSnapshot,
        program: Program,
        ctx_addr: int,
        environment: Callable[[object], RunEnvironment],
        *,
        mark: Callable[[], object] | None = None,
        helpers: Mapping[int, Helper],
        stack: Sequence[Region],
        packet: Region | None = None,
        budget_insns: int = DEFAULT_BUDGET_INSNS,
        engines: MomentEngines | None = None,
    ) -> None:
        self.image = image
        self.program = program
        self._start = start
        self._ctx_addr = ctx_addr
        self._packet = packet
        self._environment = environment
        self._mark = mark
        self._kept: list[_Kept] = []  # by instructions executed
        self._blocks: dict[int, Container[int]] = {}  # where they begin, by identity of programs
        self._helpers = helpers
        self.budget_insns = budget_insns
        self._own = engines is None
        self._engines = engines or MomentEngines(image, helpers, environment(None), stack)
        self._interp, self._far = self._engines.near, self._engines.far
        self._here: Moment | None = None

    def at(self, insns: int) -> Moment:
        """The run when `insns` instructions have been executed; its end if it has no more.

        Raises InputError for a program that can not be prepared.
        """
        if insns > self.budget_insns:
            return self._end()
        here, self._here = self._here, None
        if isinstance(here, Paused) and here.resumable and 0 <= insns - here.insns <= _NEAR:
            self._here = self._go_on(here, insns)
        else:
            self._here = self._reach(insns)
        return self._here

    def keep(self, insns: int) -> bool:
        """Keep a snapshot of the moment at `insns`, or soon after it: those behind are reached from
        there. False if compiled code can go on nowhere near, or there is no `mark`."""
        here = self.at(insns)
        if isinstance(here, Paused) and here.called_back is not None:
            here = self.at(here.called_back)
        if not isinstance(here, Paused) or self._mark is None:
            return False
        low = len(here.frames) - 1

        def goes_on(_: int, program: Program, pc: int, regs: tuple[int, ...], depth: int) -> bool:
            nonlocal low  # deeper than that may be in a callback
            low = min(low, depth)
            return depth == low and pc in self._blocks_of(program)

        found = self.walk(here.insns, here.insns + _NEAR, goes_on)
        if not isinstance(found, Paused) or not found.resumable:
            return False
        last = found.frames[-1]
        if last.astray is not None or last.pc not in self._blocks_of(last.program):
            return False
        insort(self._kept, _Kept(found, self.image.snapshot(), self._mark()), key=_Kept.executed)
        return True

    def _blocks_of(self, program: Program) -> Container[int]:
        if id(program) not in self._blocks:
            self._blocks[id(program)] = outline_of(program).blocks(self._helpers)
        return self._blocks[id(program)]

    def walk(self, first: int, last: int, watch: Watch) -> Moment:
        """Tell `watch` each instruction that is executed when at least `first` and less than `last`
        have been. The moment where it stopped: at `last`, the end, or where `watch` said so."""
        here = self.at(first)
        if isinstance(here, Paused) and here.called_back is not None:
            here = self.at(here.called_back)
        if not isinstance(here, Paused):
            return here
        executed = here.insns

        def hook(program: Program, pc: int, regs: tuple[int, ...], depth: int) -> None:
            nonlocal executed
            if executed >= first and watch(executed, program, pc, regs, depth):
                raise _Seen
            executed += 1

        self._here = None
        self._interp.hook = hook
        try:
            if last > self.budget_insns:
                found = self._finish(here)
            else:
                found = self._go_on(here, last)
        except _Seen:
            return self.at(executed)
        finally:
            self._interp.hook = None
        self._here = found
        return found

    def hunt(self, first: int, last: int, places: Mapping[str, frozenset[int]]) -> int | None:
        """How many instructions have been executed where the run comes to one of `places` (pcs by
        program) next, at least `first` and less than `last`; None if it does not."""

        def there(_: int, program: Program, pc: int, regs: tuple[int, ...], depth: int) -> bool:
            return pc in places.get(program.name, ())

        while last - first > _SHORT:
            here = self.at(first)
            if not isinstance(here, Paused):
                return None
            own = here.frames[-1].program
            trapping = None
            if here.resumable and all(one.program is own for one in here.frames):
                trapping = self._engines.trapping(own, places.get(own.name, frozenset()))
            if trapping is None:
                break
            end = min(last, first + _NEAR)
            passed = self._first(first, end, self._enterable(there))
            if passed is None:
                first = end
                continue
            here = self.at(passed)
            assert isinstance(here, Paused)
            if there(passed, own, here.frames[-1].pc, (), 0):
                return passed
            return self._hunted(here, last, trapping)
        return self._first(first, last, there) if first < last else None

    def _hunted(self, here: Paused, last: int, trapping: Program) -> int | None:
        """As `hunt`, by compiled code from the start of a block on."""
        frames = tuple(replace(one, program=trapping) for one in here.frames)
        self._here = None
        try:
            self._far.resume_to(replace(here, frames=frames), last)
        except Trap as trap:
            if trap.kind is TrapKind.BAD_INSN and trap.insns <= last:
                own = here.frames[-1].program
                index = bisect_right(outline_of(own).starts, trap.pc) - 1
                if own.insns[index] is not trapping.insns[index]:
                    return trap.insns - 1
        return None

    def _enterable(self, there: Watch) -> Watch:
        """Whether it is there, or where compiled code can go on."""

        def watch(n: int, program: Program, pc: int, regs: tuple[int, ...], depth: int) -> bool:
            return there(n, program, pc, regs, depth) or pc in self._blocks_of(program)

        return watch

    def _first(self, first: int, last: int, watch: Watch) -> int | None:
        """The first instruction of these where `watch` is true."""
        found: list[int] = []

        def stop(n: int, program: Program, pc: int, regs: tuple[int, ...], depth: int) -> bool:
            if watch(n, program, pc, regs, depth):
                found.append(n)
                return True
            return False

        self.walk(first, last, stop)
        return found[0] if found else None

    def _reach(self, insns: int) -> Moment:
        """The moment, from the last before it of which there is a snapshot."""
        place = bisect_right(self._kept, insns, key=_Kept.executed)
        kept = self._kept[place - 1] if place else None
        self.image.restore(kept.image if kept else self._start)
        around = self._environment(kept.mark if kept else None)
        self._far.environment = self._interp.environment = around
        if kept is not None:
            return _ended(lambda: self._far.resume_to(kept.paused, insns))
        program, ctx_addr, packet = self.program, self._ctx_addr, self._packet
        return _ended(lambda: self._far.run_to(program, ctx_addr, insns, packet=packet))

    def _go_on(self, here: Paused, insns: int) -> Moment:
        return _ended(lambda: self._interp.resume_to(here, insns))

    def _finish(self, here: Paused) -> Moment:
        return _ended(lambda: self._interp.resume(here, budget_insns=self.budget_insns))

    def _end(self) -> Moment:
        """The end of the run, be it that of its budget."""
        here = self.at(self.budget_insns)
        if isinstance(here, Paused) and here.called_back is not None:
            here = self.at(here.called_back)
        if isinstance(here, Paused):
            self._here = None
            self._here = here = self._finish(here)
        return here

    def close(self) -> None:
        """Give the engines back; twice is fine. The image and its frames stay."""
        if self._own:
            self._engines.close()

    def forget(self) -> None:
        """Others have changed memory and maps: the next moment is reached anew."""
        self._here = None

    def __enter__(self) -> Moments:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _ended(run: Callable[[], Moment]) -> Moment:
    """What `run` gives; a trap is an end like others."""
    try:
        return run()
    except Trap as trap:
        return trap


class _Seen(Exception):
    """The watch wants to stop here."""


__all__ = ["Moment", "MomentEngines", "Moments", "Watch"]
