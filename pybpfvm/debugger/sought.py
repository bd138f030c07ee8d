"""What moves look for: lines, instructions, calls, CQEs, breakpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pybpfvm.debugger.breakpoints import Breakpoint
from pybpfvm.debugger.history import History, Told
from pybpfvm.debugger.lines import Lines
from pybpfvm.debugger.position import Position
from pybpfvm.debugger.scope import RecordedScope
from pybpfvm.debugger.search import Here, Places, Sought
from pybpfvm.events import CqePosted
from pybpfvm.expr.mistake import ExpressionError
from pybpfvm.expr.scope import Moment, moment_of
from pybpfvm.isa.codec import pcs, target_pc
from pybpfvm.isa.opcodes import Kind
from pybpfvm.program import Program

_CALLS = frozenset({Kind.CALL, Kind.CALL_KFUNC})
_WRITES = frozenset({Kind.ST, Kind.STX, Kind.ATOMIC, Kind.STORE_REL}) | _CALLS
_LEAVES = frozenset({Kind.CALL_LOCAL, Kind.EXIT})
_NOWHERE: Places = {}


@dataclass(slots=True)
class CodePlaces:
    """Pcs of all programs, by what their instructions do; each set is made once.

    `calls` of helpers; `around_calls` these and what follows them; `changes` and `tellings`
    around what may change memory, and what rings tell.
    """

    programs: Sequence[Program]
    _known: dict[str, Places] = field(default_factory=dict)

    def calls(self) -> Places:
        """Each call of a helper."""
        return self._of("calls", lambda pc, behind, _: (pc,))

    def around_calls(self) -> Places:
        """Each call of a helper, and what follows."""
        return self._of("around", lambda pc, behind, _: (pc, behind))

    def _of(self, name: str, at: Callable[[int, int, Kind], Iterable[int]]) -> Places:
        if name not in self._known:
            self._known[name] = {
                program.name: frozenset(
                    place
                    for pc, insn in zip(pcs(program.insns), program.insns, strict=True)
                    if insn.spec.kind in _CALLS
                    for place in at(pc, pc + insn.slots, insn.spec.kind)
                )
                for program in self.programs
            }
        return self._known[name]

    def changes(self) -> Places:
        """Where memory is for the first or for the last time as it is: stores and calls, and what
        follows them; where functions begin, with a zeroed frame, and where they end."""
        return self._edges("changes", _WRITES)

    def tellings(self) -> Places:
        """The same of rings, which programs change by calls only."""
        return self._edges("tellings", _CALLS)

    def _edges(self, name: str, kinds: frozenset[Kind]) -> Places:
        if name not in self._known:
            found = {}
            for program in self.programs:
                places = {0, *(sub.start for sub in program.subprogs)}
                for pc, insn in zip(pcs(program.insns), program.insns, strict=True):
                    if insn.spec.kind in kinds:
                        places |= {pc, pc + insn.slots}
                    elif insn.spec.kind in _LEAVES:
                        places.add(pc)
                found[program.name] = frozenset(places)
            self._known[name] = found
        return self._known[name]


class LineSteps(Sought):
    """Where a line begins: any ("step"), or of a frame that is no deeper than `logical`."""

    def __init__(self, lines: Callable[[int], Lines], logical: int | None) -> None:
        self._lines = lines
        self.logical = logical
        self._before: object = None

    def places(self, run: int) -> Places | None:
        """Anywhere."""
        return None

    def at_start(self, run: int) -> bool:
        """As elsewhere."""
        return False

    def start(self, here: Here) -> None:
        """The move begins here."""
        self._before = self._key(here)

    def prime(self, here: Here) -> None:
        """Remember the line."""
        self._before = self._key(here)

    def _key(self, here: Here) -> object:
        assert here.program is not None
        spot = self._lines(here.run).spot(here.program, here.pc)
        line = None if spot.line is None else (spot.line.file, spot.line.line)
        if spot.line is None:
            line = ("", here.pc)
        return here.run, here.depth, spot.functions, line

    def holds(self, here: Here) -> bool:
        """Whether a line begins that is none of the instruction before."""
        assert here.program is not None
        spot = self._lines(here.run).spot(here.program, here.pc)
        before, self._before = self._before, self._key(here)
        if not spot.begins or (before == self._before and here.insns):
            return False
        return self.logical is None or here.depth + spot.inlined <= self.logical


class Shallower(Sought):
    """Where the frame is less deep than `logical`, inlined functions counted."""

    def __init__(self, lines: Callable[[int], Lines], logical: int) -> None:
        self._lines = lines
        self._logical = logical

    def places(self, run: int) -> Places | None:
        """Anywhere."""
        return None

    def at_start(self, run: int) -> bool:
        """As elsewhere."""
        return False

    def holds(self, here: Here) -> bool:
        """Whether it is."""
        assert here.program is not None
        spot = self._lines(here.run).spot(here.program, here.pc)
        return here.depth + spot.inlined < self._logical


class NoDeeper(Sought):
    """Any instruction of a frame that is no deeper than `depth`."""

    def __init__(self, depth: int) -> None:
        self._depth = depth

    def places(self, run: int) -> Places | None:
        """Anywhere."""
        return None

    def at_start(self, run: int) -> bool:
        """As elsewhere."""
        return False

    def holds(self, here: Here) -> bool:
        """Whether it is."""
        return here.depth <= self._depth


class HelperCalls(Sought):
    """Each call of a helper."""

    def __init__(self, code: CodePlaces) -> None:
        self._code = code

    def places(self, run: int) -> Places | None:
        """The calls."""
        return self._code.calls()

    def at_start(self, run: int) -> bool:
        """As elsewhere."""
        return False

    def holds(self, here: Here) -> bool:
        """There."""
        return here.program is not None and here.pc in self._code.calls()[here.program.name]


class CqeSteps(Sought):
    """Behind each CQE that is posted."""

    def __init__(self, history: History, code: CodePlaces) -> None:
        self._history = history
        self._code = code

    def places(self, run: int) -> Places | None:
        """Around calls, where there are CQEs."""
        return self._code.around_calls() if self._history.has_cqes(run) else _NOWHERE

    def at_start(self, run: int) -> bool:
        """Where there are CQEs from between runs."""
        return any(isinstance(one.event, CqePosted) for one in self._history.told_before(run))

    def holds(self, here: Here) -> bool:
        """Whether one has been posted."""
        return any(isinstance(one.event, CqePosted) for one in here.events)


@dataclass(frozen=True, slots=True)
class Match:
    """A breakpoint that is met: what is told there of what happened, and of data the bytes before
    and now."""

    breakpoint: Breakpoint
    moment: Moment | None = None
    change: tuple[bytes | None, bytes | None] | None = None


class Returns:
    """Which call of a helper has just returned where an instruction comes next. `called` gives the
    calls of a program, by pc."""

    def __init__(self, called: Callable[[int, Program], Mapping[int, str]]) -> None:
        self._called = called
        self._behind: dict[int, tuple[Mapping[int, tuple[int, str]], frozenset[int]]] = {}
        self._last: tuple[int, int, int] | None = None  # run, instructions and pc

    def seen(self, here: Here) -> None:
        """This instruction is executed."""
        self._last = here.run, here.insns, here.pc

    def of(self, here: Here) -> tuple[int, Moment] | None:
        """(the pc of the call, its name and what it returned)."""
        program = here.program
        if program is None or here.regs is None:
            return None
        known = self._behind.get(id(program))
        if known is None:
            calls = self._called(here.run, program)
            behind = {pc + 1: (pc, name) for pc, name in calls.items()}
            jumps = frozenset(_jumped_to(program))
            known = self._behind[id(program)] = behind, jumps
        found = known[0].get(here.pc)
        if found is None:
            return None
        # Where jumps lead, too, it takes a look at what was executed.
        if here.pc in known[1] and self._last != (here.run, here.insns - 1, found[0]):
            return None
        return found[0], Moment(helper=found[1], ret=here.regs[0])


def _jumped_to(program: Program) -> Iterator[int]:
    yield from (sub.start for sub in program.subprogs)
    for pc, insn in zip(pcs(program.insns), program.insns, strict=True):
        target = target_pc(insn, pc)
        if target is not None:
            yield target


class Breakpoints(Sought):
    """The breakpoints that are enabled; `matched` are those that were met where it held."""

    def __init__(
        self,
        history: History,
        code: CodePlaces,
        breakpoints: Sequence[Breakpoint],
        scope: Callable[[int], RecordedScope],
        returns: Returns,
        fire: Callable[[Match, Here], bool] | None,
    ) -> None:
        self._history = history
        self._code = code
        self._all = breakpoints
        self._scope = scope
        self._returns = returns
        self._fire = fire
        self.matched: list[Match] = []
        self._kinds = {one.kind for one in breakpoints}
        self._values: dict[int, bytes | None] = {}
        self._watched = [one for one in breakpoints if one.kind == "data"]
        self._static = self._joined()

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(self._all)

    def _joined(self) -> dict[str, frozenset[int]]:
        found: dict[str, frozenset[int]] = {}
        for one in self._all:
            for name, places in one.places.items():
                # A call is one slot long; it is shown, too, for what comes behind it.
                behind = {pc + 1 for pc in places} if one.behind else frozenset[int]()
                found[name] = found.get(name, frozenset()) | places | behind
        return found

    def start(self) -> None:
        """The move begins where the history is: what is watched has its values there."""
        for one in self._watched:
            self._values[one.id] = self._history.memory.look(one.addr, one.size)

    def places(self, run: int) -> Places | None:
        """Where breakpoints are."""
        if self._watched:
            return None
        found = dict(self._static)
        if "cqe" in self._kinds and self._history.has_cqes(run):
            for name, places in self._code.around_calls().items():
                found[name] = found.get(name, frozenset()) | places
        if "trap" in self._kinds:
            how = self._history.runs[run].how
            if how is not None and how[0] == "trap":
                found[how[2]] = found.get(how[2], frozenset()) | {how[3]}
        return {name: places for name, places in found.items() if places}

    def at_start(self, run: int) -> bool:
        """Whether one may be met that is no place of code."""
        if self._watched:
            return True
        if run < len(self._history.runs) and "start" in self._kinds:
            program = self._history.runs[run].program
            if any(one.kind == "start" and one.program in ("", program) for one in self._all):
                return True
        return "cqe" in self._kinds and any(
            isinstance(one.event, CqePosted) for one in self._history.told_before(run)
        )

    def prime(self, here: Here) -> None:
        """Remember what is watched, and what is called."""
        self.start()
        self._returns.seen(here)

    def behind_run(self, run: int) -> None:
        """What is watched had its values then."""
        if self._watched:
            before = Position(run - 1, self._history.length(run - 1)) if run else Position(0, 0)
            self._history.at(before)
            self.start()

    def holds(self, here: Here) -> bool:
        """Whether one is met that ends the move."""
        matched = [found for one in self._all for found in self._matches(one, here)]
        self._returns.seen(here)
        if self._fire is not None:
            matched = [found for found in matched if self._fire(found, here)]
        if matched:
            self.matched = matched
        return bool(matched)

    def _matches(self, one: Breakpoint, here: Here) -> Iterator[Match]:
        """It, if it is met."""
        found = Match(one)
        match one.kind:
            case "cqe":
                for told in here.events:
                    found = Match(one, moment_of(told.event))
                    if _is_of(one, told) and self._is(found, here):
                        yield found
                        return
                return
            case "start":
                if here.insns or here.program is None:
                    return
                if one.program not in ("", self._history.runs[here.run].program):
                    return
            case "data":
                now = self._history.memory.look(one.addr, one.size)
                before = self._values.get(one.id, now)
                self._values[one.id] = now
                if now == before:
                    return
                found = Match(one, change=(before, now))
            case "trap":
                run = here.run
                runs = self._history.runs
                trapped = here.program is not None and runs[run].how is not None
                if not trapped or here.position != self._history.last(run):
                    return
                how = runs[run].how
                if how is None or how[0] != "trap":
                    return
            case _:
                program = here.program
                if program is None:
                    return
                pc = here.pc
                if one.behind:
                    returned = self._returns.of(here)
                    if returned is None:
                        return
                    pc, moment = returned
                    found = Match(one, moment)
                if pc not in one.places.get(program.name, ()):
                    return
        if self._is(found, here):
            yield found

    def _is(self, found: Match, here: Here) -> bool:
        """Whether its condition holds."""
        one = found.breakpoint
        if one.compiled is None:
            return True
        scope = placed(self._scope(here.run), here, found.moment)
        try:
            return one.compiled.holds(scope)
        except ExpressionError as error:
            one.failed = str(error)
            return False


def _is_of(one: Breakpoint, told: Told) -> bool:
    event = told.event
    return (
        isinstance(event, CqePosted)
        and one.cq in (None, event.cq)
        and one.ring in (None, told.ring)
    )


def placed(scope: RecordedScope, here: Here, moment: Moment | None) -> RecordedScope:
    """The scope, as it is there."""
    scope.program, scope.pc, scope.regs, scope.moment = here.program, here.pc, here.regs, moment
    return scope


class Either(Sought):
    """One of two; each is asked."""

    def __init__(self, one: Sought, other: Sought) -> None:
        self.one, self.other = one, other
        self.by_one = self.by_other = False

    def places(self, run: int) -> Places | None:
        """Of both."""
        mine, others = self.one.places(run), self.other.places(run)
        if mine is None or others is None:
            return None
        names = {*mine, *others}
        none: frozenset[int] = frozenset()
        return {name: mine.get(name, none) | others.get(name, none) for name in names}

    def at_start(self, run: int) -> bool:
        """Of both."""
        return self.one.at_start(run) or self.other.at_start(run)

    def prime(self, here: Here) -> None:
        """Both."""
        self.one.prime(here)
        self.other.prime(here)

    def behind_run(self, run: int) -> None:
        """Both."""
        self.one.behind_run(run)
        self.other.behind_run(run)

    def holds(self, here: Here) -> bool:
        """Of one."""
        mine, others = self.one.holds(here), self.other.holds(here)
        if mine or others:
            self.by_one, self.by_other = mine, others
        return mine or others


__all__ = [
    "Breakpoints",
    "CodePlaces",
    "CqeSteps",
    "Either",
    "HelperCalls",
    "LineSteps",
    "Match",
    "NoDeeper",
    "Returns",
    "Shallower",
    "placed",
]
