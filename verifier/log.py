"""The classic verifier log: what was walked and what was known there, as Linux 6.18 prints it.

Level 1 is the path that led to an error: what other paths wrote is taken back when they end, so
of an accepted program only the statistics are left. Level 2 is every path, in the order in which
they were explored. docs/verifier-page.md lists what the kernel prints and we do not.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

from pybpfvm.errors import SourceLine
from pybpfvm.isa.disasm import format_insn
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import AtomicOp, Kind
from pybpfvm.listing import Names
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.mainline import MAINLINE_NAMES
from pybpfvm.program import BpfObject, Program
from pybpfvm.verifier.environment import Options, environment
from pybpfvm.verifier.notation import format_places
from pybpfvm.verifier.observe import Observer
from pybpfvm.verifier.refusal import Refused
from pybpfvm.verifier.states.regstate import Reg, RegType, same_reg
from pybpfvm.verifier.states.stack import SLOT_BYTES, Slot, same_slot
from pybpfvm.verifier.states.state import Frame, State
from pybpfvm.verifier.verdict import Accepted, Finding, Inconclusive, Verdict

LEVELS = (1, 2)
# The largest buffer that libbpf gives the kernel for a log.
DEFAULT_LOG_CHARS = (1 << 24) - 1

_LIMIT_INSNS = 1_000_000
# Where the kernel says in two lines what our messages say in one.
_SECOND = re.compile(r"; (?!0x)")
_CALLS = (Kind.CALL, Kind.CALL_LOCAL, Kind.CALL_KFUNC)
_LOADS = (Kind.LDX, Kind.LDSX, Kind.LOAD_ACQ)
# Where a state begins behind its instruction: this column, or a multiple of 8 further.
_COLUMN, _STEP, _GAP = 38, 8, 3


class _Text:
    """Pieces of text, of which the last ones are kept: at most `limit` characters.

    A position counts pieces, those that were dropped included.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: deque[str] = deque()
        self._chars = 0
        self._dropped = 0
        self.dropped_chars = 0

    @property
    def position(self) -> int:
        return self._dropped + len(self._pieces)

    def add(self, piece: str) -> None:
        self._pieces.append(piece)
        self._chars += len(piece)
        while self._chars > self._limit:
            gone = len(self._pieces.popleft())
            self._chars -= gone
            self.dropped_chars += gone
            self._dropped += 1

    def cut(self, position: int) -> None:
        """Take back what was added since `position`."""
        while self._pieces and self.position > position:
            self._chars -= len(self._pieces.pop())

    def __str__(self) -> str:
        return "".join(self._pieces)


@dataclass(slots=True)
class _Open:
    """An instruction whose line waits for what it did: the state before it."""

    pc: int
    insn: Insn
    frame: Frame
    regs: list[Reg]
    stack: dict[int, Slot]
    depth: int


class KernelLog(Observer):
    """Writes the log of one verification; `text` ends it.

    At most `limit` characters are kept, the last ones, as the kernel does with a small buffer.
    """

    def __init__(
        self,
        program: Program,
        obj: BpfObject,
        profile: Profile,
        *,
        level: int = 2,
        limit: int = DEFAULT_LOG_CHARS,
    ) -> None:
        assert level in LEVELS, level
        self._all = level > 1
        self._limit = limit
        self._text = _Text(limit)
        env = environment(program, obj, profile, Options())
        self._program = program
        self._code = env.code
        self._functions = sorted(env.functions.items())
        self._globals = {start for start, sub in self._functions if sub.is_global and start}
        self._names = Names(obj, program, profile)
        self._prepared: dict[int, tuple[str, tuple[int, ...]]] = {}
        self._lines: dict[int, SourceLine | None] = {}
        self._shown: SourceLine | None = None
        self._open: _Open | None = None
        # The place that a path begins at is told with its first instruction, or with its end.
        self._origin: int | None = None
        self._entry = False
        self._returned = False
        self._marks: list[tuple[State, int]] = []
        self._floor = 0
        self._validated: int | None = None
        self._told: list[tuple[int, str]] = []
        self._stored: dict[int, int] = {}
        self._most_stored = 0
        if self._all:
            for number, (start, _) in enumerate(self._functions):
                self._text.add(f"func#{number} @{start}\n")

    # What the explorer tells.

    def resumed(self, origin: int, pc: int, state: State) -> None:
        self._end_line()
        if origin < 0:
            self._function_done()
            if pc in self._globals:
                self._validated = pc
                sub = dict(self._functions)[pc]
                self._text.add(f"Validating {sub.name}() func#{self._number(pc)}...\n")
            self._entry = True
            return
        mark = self._mark_of(state)
        if not self._all:
            self._text.cut(max(mark, self._floor))
        if not self._all and mark >= self._floor:
            self._text.add(" ")
            self._entry = True
        else:
            self._origin = origin

    def forked(self, pc: int, target: int, state: State) -> None:
        self._marks.append((state, self._text.position))

    def step(self, pc: int, state: State) -> None:
        self._arrive(pc, state)
        line = self._line(pc)
        if line is not None and not _same_line(line, self._shown):
            self._text.add(_source(line))
            self._shown = line
        text, _ = self._prepare(pc)
        self._text.add(text)
        frame = state.frame
        self._open = _Open(
            pc, self._code[pc], frame, frame.regs.copy(), dict(frame.stack), len(state.frames)
        )

    def stored(self, pc: int, state: State) -> None:
        count = self._stored.get(pc, 0)
        self._stored[pc] = count + 1
        self._most_stored = max(self._most_stored, count)

    def pruned(self, pc: int, state: State) -> None:
        self._most_stored = max(self._most_stored, self._stored.get(pc, 0))
        origin, self._entry = self._origin, False
        if origin is None:
            origin = self._close(pc, state)
        self._origin = None
        self._text.add(f"{pc}: safe\n" if origin is None else f"\nfrom {origin} to {pc}: safe\n")

    def ended(self, pc: int, state: State) -> None:
        self._end_line()

    def refused(self, pc: int, state: State, refused: Refused) -> None:
        if self._open is not None and self._open.pc == pc and not self._changed(pc, state):
            self._end_line()
        else:
            self._arrive(pc, state)
        self._message(refused.message)
        self._told.append((pc, refused.message))
        self._floor = self._text.position

    def text(self, verdict: Verdict) -> str:
        """The whole log, with the errors that were found before or after the exploration, and
        the statistics."""
        self._end_line()
        if isinstance(verdict, Accepted):
            self._function_done()
        if not self._all and not isinstance(verdict, Inconclusive):
            self._text.cut(self._floor)  # the paths since then were walked to their ends
        for finding in _findings(verdict):
            if (finding.pc, finding.message) not in self._told:
                self._message(finding.message)
        stats = verdict.stats
        self._text.add(
            f"processed {stats.processed_insns} insns (limit {_LIMIT_INSNS}) "
            f"max_states_per_insn {self._most_stored} total_states {stats.states} "
            f"peak_states {stats.peak_states} mark_read 0\n"
        )
        gone = self._text.dropped_chars
        note = ""
        if gone:
            note = f"[{gone} characters are missing here: the log is limited to {self._limit}]\n"
        return note + str(self._text)

    # Lines.

    def _message(self, message: str) -> None:
        for line in _SECOND.split(message):
            self._text.add(f"{_printable(line)}\n")

    def _arrive(self, pc: int, state: State) -> None:
        """Finish the line of what was before, and tell the state that a path begins with."""
        origin, self._origin = self._origin, None
        if origin is not None:
            places = _everything(state)
            self._text.add(f"\nfrom {origin} to {pc}:{places}\n{pc}:{places}\n")
        elif self._entry:
            self._text.add(f"{pc}:{_everything(state)}\n")
        else:
            back = self._close(pc, state)
            if back is not None:
                self._text.add(f"\nfrom {back} to {pc}:{_everything(state)}\n")
        self._entry = False

    def _close(self, pc: int, state: State) -> int | None:
        """Finish the line of the instruction before `pc`. If that was a return from a function,
        and all paths are told, the pc of it."""
        before, self._open = self._open, None
        if before is None:
            return None
        depth = len(state.frames)
        if depth > before.depth:
            caller, callee = state.frames[-2], state.frames[-1]
            self._text.add(
                f"\ncaller:\n {format_places(state, caller)}\n"
                f"callee:\n {format_places(state, callee)}\n{pc}:{_everything(state)}\n"
            )
            return None
        if depth < before.depth:
            left = format_places(state, before.frame)
            self._text.add(
                f"\nreturning from callee:\n {left}\nto caller at {pc}:\n{_everything(state)}\n"
            )
            return before.pc if self._all else None
        words = self._changes(before, state)
        if before.pc + 1 + before.insn.imm in self._globals and _is_local_call(before.insn):
            target = before.pc + 1 + before.insn.imm
            name = dict(self._functions)[target].name
            self._text.add(
                f"\nFunc#{self._number(target)} ('{name}') is global and assumed valid.\n"
                f"{pc}: {words}\n"
            )
        elif words:
            text, _ = self._prepare(before.pc)
            self._text.add(f"{' ' * _padding(len(text))}; {words}\n")
        else:
            self._text.add("\n")
        return None

    def _changed(self, pc: int, state: State) -> bool:
        """Whether the open instruction is done, and the refusal is of the next at the same pc."""
        before = self._open
        assert before is not None
        kinds = (Kind.GOTO, Kind.JUMP)
        return before.insn.spec.kind in kinds and self._loops_to_itself(before, pc)

    def _loops_to_itself(self, before: _Open, pc: int) -> bool:
        return before.pc + 1 + before.insn.off == pc

    def _end_line(self) -> None:
        if self._open is not None:
            self._text.add("\n")
            self._open = None

    def _function_done(self) -> None:
        if self._validated is not None:
            sub = dict(self._functions)[self._validated]
            self._text.add(
                f"Func#{self._number(self._validated)} ('{sub.name}') "
                "is safe for any args that match its prototype\n"
            )
            self._validated = None

    def _changes(self, before: _Open, state: State) -> str:
        """What the instruction read or wrote, as it is now."""
        frame = state.frame
        _, registers = self._prepare(before.pc)
        if before.insn.spec.kind in _CALLS:
            pairs = enumerate(zip(frame.regs, before.regs, strict=True))
            registers = tuple(index for index, (new, old) in pairs if not same_reg(new, old))
        slots = {
            base
            for base, slot in frame.stack.items()
            if not same_slot(slot, before.stack.get(base))
        }
        if before.insn.spec.kind in _LOADS:
            slots |= _loaded(before, frame)
        if not registers and not slots:
            return ""
        return format_places(state, frame, registers, slots)

    # What does not change.

    def _prepare(self, pc: int) -> tuple[str, tuple[int, ...]]:
        """The instruction's text, and the registers it names."""
        known = self._prepared.get(pc)
        if known is None:
            insn = self._code[pc]
            if insn.spec.kind is Kind.LDDW and insn.src:
                # The kernel prints addresses of its own here; the state says what it is.
                body = f"r{insn.dst} = 0x0"
            else:
                body = format_insn(insn, pc, style="kernel", resolve=self._name)
            text = f"{pc}: ({insn.spec.opcode:02x}) {body}"
            known = self._prepared[pc] = (text, _registers(insn))
        return known

    def _name(self, insn: Insn, pc: int) -> str | None:
        if insn.spec.kind is not Kind.CALL:
            return None
        name = self._names(insn, pc) or MAINLINE_NAMES.get(insn.imm)
        return name if name is None or name.startswith("bpf_") else f"bpf_{name}"

    def _line(self, pc: int) -> SourceLine | None:
        if pc not in self._lines:
            self._lines[pc] = self._program.line_at(pc)
        return self._lines[pc]

    def _number(self, start: int) -> int:
        return [first for first, _ in self._functions].index(start)

    def _mark_of(self, state: State) -> int:
        """Where the log was when `state` was put aside."""
        while self._marks:
            kept, position = self._marks.pop()
            if kept is state:
                return position
        return self._text.position


def _everything(state: State) -> str:
    return f" {format_places(state, state.frame)}"


def _findings(verdict: Verdict) -> tuple[Finding, ...]:
    if isinstance(verdict, Accepted):
        return ()
    return (verdict.finding,) if isinstance(verdict, Inconclusive) else verdict.errors


def _registers(insn: Insn) -> tuple[int, ...]:
    spec = insn.spec
    named = {insn.dst} if "dst" in spec.fields else set()
    if "src" in spec.fields and spec.kind is not Kind.LDDW:
        named.add(insn.src)
    if spec.op is AtomicOp.CMPXCHG or spec.kind in (Kind.LD_ABS, Kind.LD_IND):
        named.add(0)
    return tuple(sorted(named))


def _loaded(before: _Open, frame: Frame) -> set[int]:
    """The slots of its own frame that a load read."""
    pointer = before.regs[before.insn.src]
    if pointer.type is not RegType.PTR_TO_STACK or pointer.frame != frame.number:
        return set()
    if pointer.var.mask:
        return set()
    off = pointer.off + pointer.var.smin + before.insn.off
    size = int(before.insn.spec.size or SLOT_BYTES)
    return set(range(off & -SLOT_BYTES, off + size, SLOT_BYTES))


def _is_local_call(insn: Insn) -> bool:
    return insn.spec.kind is Kind.CALL_LOCAL


def _padding(width: int) -> int:
    column = _COLUMN
    while column < width + _GAP:
        column += _STEP
    return column - width


def _same_line(line: SourceLine, shown: SourceLine | None) -> bool:
    return shown is not None and (line.file, line.line) == (shown.file, shown.line)


@lru_cache(maxsize=1 << 10)
def _source(line: SourceLine) -> str:
    return f"; {_printable(line.text.strip())} @ {_printable(_name(line.file))}:{line.line}\n"


def _name(path: str) -> str:
    return PurePosixPath(path).name or path


def _printable(text: str) -> str:
    """Text of the object, kept on one line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "?" for c in text)
