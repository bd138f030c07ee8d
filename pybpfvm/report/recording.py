"""What the HTML page keeps of an exploration: steps with their states, and the tree of paths.

All is bounded. Of a long exploration the first steps are kept and the last ones before each
error, so that what led to it can be seen; the page says how many are missing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pybpfvm.cfg import Cfg
from pybpfvm.cfg.svg import svg
from pybpfvm.errors import InputError, SourceLine
from pybpfvm.isa.codec import pcs, target_pc
from pybpfvm.isa.disasm import format_insn
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind
from pybpfvm.listing import Names
from pybpfvm.profiles.base import Profile
from pybpfvm.program import BpfObject, Program
from pybpfvm.session.judging import JudgeRequest, Recorder
from pybpfvm.verifier.notation import format_reg, format_slot
from pybpfvm.verifier.refusal import Refused
from pybpfvm.verifier.states.regstate import Reg, RegType
from pybpfvm.verifier.states.stack import Slot
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.verdict import Verdict

FIRST_STEPS = 4_000
LAST_STEPS = 1_000  # before an error
MOST_PATHS = 2_000
MOST_INSNS = 6_000
MOST_BLOCKS = 250  # in the picture of the control flow
_MOST_TEXT = 400

EXIT, COVERED, REFUSED, CUT = "exit", "covered", "refused", "cut"


@dataclass(slots=True)
class Path:
    """A path: it begins at `pc` because the step number `fork` of path `parent` went both ways
    (-1: at a function's start). `end` says how it ended, at `end_pc`; `steps` counts all."""

    parent: int
    fork: int
    pc: int
    end: str = CUT
    end_pc: int = -1
    steps: int = 0


@dataclass(frozen=True, slots=True)
class ListedInsn:
    """An instruction: its text, the index of its C line (-1: none), the registers it reads and
    the name of the function that begins here, "" if none does."""

    pc: int
    text: str
    line: int
    reads: tuple[int, ...]
    function: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """The state before the instruction at `pc`, the `number`-th that the explorer looked at.

    `changes` are places (`r1`, `fp-8`, `1:r1` in frame 1; indices of `Recording.places`) and
    their values (indices of `Recording.values`, -1: gone); since the step before on the same
    path or, where `whole`, since nothing was known.
    """

    number: int
    path: int
    pc: int
    depth: int
    whole: bool
    changes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Recording:
    """What one program's part of the page is made from. Plain data."""

    insns: tuple[ListedInsn, ...] = ()
    hidden_insns: int = 0
    lines: tuple[SourceLine, ...] = ()
    steps: tuple[Step, ...] = ()
    all_steps: int = 0
    paths: tuple[Path, ...] = ()
    all_paths: int = 0
    places: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    visits: Mapping[int, int] = field(default_factory=dict)
    errors: tuple[tuple[int, int], ...] = ()  # pc and number of the last step before it
    picture: str = ""  # SVG
    no_picture: str = ""  # why there is none


@dataclass(frozen=True, slots=True)
class _Kept:
    """A step as it was: registers never change once built, so references are enough."""

    number: int
    path: int
    pc: int
    frames: tuple[tuple[int, tuple[Reg, ...], dict[int, Slot]], ...]
    refs: tuple[int, ...]


class PageRecorder(Recorder):
    """Records one verification."""

    def __init__(self, program: Program, obj: BpfObject, profile: Profile) -> None:
        self._program = program
        self._names = Names(obj, program, profile)
        self._first: list[_Kept] = []
        self._last: deque[_Kept] = deque(maxlen=LAST_STEPS)
        self._before_errors: dict[int, _Kept] = {}
        self._number = 0
        self._paths: list[Path] = []
        self._all_paths = 0
        self._path = -1  # of those kept
        self._aside: list[tuple[State, int, int]] = []
        self._visits: dict[int, int] = {}
        self._errors: list[tuple[int, int]] = []

    def resumed(self, origin: int, pc: int, state: State) -> None:
        parent = fork = -1
        while origin >= 0 and self._aside:
            kept, parent, fork = self._aside.pop()
            if kept is state:
                break
        self._all_paths += 1
        self._path = -1
        if len(self._paths) < MOST_PATHS:
            self._path = len(self._paths)
            self._paths.append(Path(parent, fork, pc))

    def forked(self, pc: int, target: int, state: State) -> None:
        self._aside.append((state, self._path, self._number - 1))

    def step(self, pc: int, state: State) -> None:
        self._visits[pc] = self._visits.get(pc, 0) + 1
        kept = _Kept(
            self._number,
            self._path,
            pc,
            tuple((f.number, tuple(f.regs), dict(f.stack)) for f in state.frames),
            tuple(ref[0] for ref in state.refs),
        )
        self._number += 1
        if self._path >= 0:
            self._paths[self._path].steps += 1
        if len(self._first) < FIRST_STEPS:
            self._first.append(kept)
        else:
            self._last.append(kept)

    def pruned(self, pc: int, state: State) -> None:
        self._end(COVERED, pc)

    def ended(self, pc: int, state: State) -> None:
        self._end(EXIT, pc)

    def refused(self, pc: int, state: State, refused: Refused) -> None:
        self._end(REFUSED, pc)
        self._errors.append((pc, self._number - 1))
        for kept in self._last:
            if len(self._before_errors) < 2 * LAST_STEPS:
                self._before_errors[kept.number] = kept

    def _end(self, how: str, pc: int) -> None:
        if self._path >= 0:
            self._paths[self._path].end = how
            self._paths[self._path].end_pc = pc

    def recorded(self, verdict: Verdict) -> Recording:
        listed, lines, hidden = _listing(self._program, self._names)
        picture, no_picture = _picture(self._program, self._names)
        tail = self._before_errors or {kept.number: kept for kept in self._last}
        words = _Words()
        steps = tuple(words.steps([*self._first, *(tail[n] for n in sorted(tail))]))
        return Recording(
            listed,
            hidden,
            lines,
            steps,
            self._number,
            tuple(self._paths),
            self._all_paths,
            tuple(words.places),
            tuple(words.values),
            {pc: count for pc, count in self._visits.items() if pc <= listed[-1].pc},
            tuple(self._errors),
            picture,
            no_picture,
        )


def recorder(
    program: Program, obj: BpfObject, profile: Profile, request: JudgeRequest
) -> PageRecorder:
    """What records `program` for the page."""
    return PageRecorder(program, obj, profile)


class _Words:
    """Places and values by number, each written once."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self.values: dict[str, int] = {}

    def steps(self, kept: list[_Kept]) -> Iterator[Step]:
        last: dict[int, tuple[int, dict[str, object]]] = {}
        for one in kept:
            now = dict(_objects(one))
            number, known = last.get(one.path, (-2, {}))
            whole = number != one.number - 1
            before = {} if whole else known
            changes = [
                (self._place(place), self._value(value, place))
                for place, value in now.items()
                if before.get(place) != value
            ]
            changes += [(self._place(place), -1) for place in before if place not in now]
            last[one.path] = (one.number, now)
            yield Step(one.number, one.path, one.pc, len(one.frames) - 1, whole, tuple(changes))

    def _place(self, name: str) -> int:
        return self.places.setdefault(name, len(self.places))

    def _value(self, value: object, place: str) -> int:
        frame = int(place.partition(":")[0]) if ":" in place else 0
        if isinstance(value, Reg):
            text = format_reg(value, frame)
        elif isinstance(value, Slot):
            text = format_slot(value, frame)
        else:
            text = str(value)
        if len(text) > _MOST_TEXT:
            text = text[: _MOST_TEXT - 1] + "…"
        return self.values.setdefault(text, len(self.values)) if text else -1


def _objects(kept: _Kept) -> Iterator[tuple[str, object]]:
    """The places of a state and what they hold, as it is kept: Reg, Slot or text."""
    for number, regs, stack in kept.frames:
        prefix = f"{number}:" if number else ""
        for index, reg in enumerate(regs):
            if reg.type is not RegType.NOT_INIT:
                yield f"{prefix}r{index}", reg
        for base in sorted(stack, reverse=True):
            if any(stack[base].kinds):
                yield f"{prefix}fp{base}", stack[base]
    if kept.refs:
        yield "refs", ",".join(map(str, kept.refs))


def _listing(
    program: Program, names: Names
) -> tuple[tuple[ListedInsn, ...], tuple[SourceLine, ...], int]:
    lines: dict[SourceLine, int] = {}
    functions = {sub.start: sub.name for sub in program.subprogs}
    listed = []
    line = -1
    for pc, insn in list(zip(pcs(program.insns), program.insns, strict=True))[:MOST_INSNS]:
        if pc in functions:
            line = -1
        source = program.lines.get(pc)
        if source is not None:
            same = SourceLine(source.file, source.line, 0, source.text)
            line = lines.setdefault(same, len(lines))
        text = format_insn(insn, pc, resolve=names)
        if insn.spec.kind in (Kind.JUMP, Kind.GOTO, Kind.MAY_GOTO):
            text += f" → {target_pc(insn, pc)}"
        listed.append(ListedInsn(pc, text, line, _reads(insn), functions.get(pc, "")))
    return tuple(listed), tuple(lines), len(program.insns) - len(listed)


def _reads(insn: Insn) -> tuple[int, ...]:
    """The registers whose values go into what an instruction writes."""
    fields, kind = insn.spec.fields, insn.spec.kind
    if kind is Kind.LDDW:
        return ()
    if kind in (Kind.CALL, Kind.CALL_KFUNC, Kind.CALL_LOCAL):
        return (1, 2, 3, 4, 5)
    writes_only = insn.spec.mnemonic.startswith(("mov", "ldx", "load"))
    named = {insn.src} if "src" in fields else set()
    if "dst" in fields and not writes_only:
        named.add(insn.dst)
    return tuple(sorted(named))


def _picture(program: Program, names: Names) -> tuple[str, str]:
    """The control flow as SVG, or why there is no picture."""
    try:
        cfg = Cfg(program, resolve=names)
        if len(cfg.blocks) > MOST_BLOCKS:
            return "", f"{len(cfg.blocks):,} blocks are too many for this page"
        return svg([cfg]), ""
    except InputError as error:
        return "", error.reason
