"""What every engine makes of a program's code before it runs it: its functions and blocks, which
jumps leave it, which instructions it refuses. Said once, so that engines stop for the same
reasons and count the same.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping

from pybpfvm.errors import TrapKind
from pybpfvm.helpers.proto import ArgType, Helper
from pybpfvm.isa.codec import target_pc
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import (
    FRAME_POINTER,
    MAX_FRAMES,
    STACK_BYTES,
    AtomicOp,
    Kind,
    Pseudo,
)
from pybpfvm.isa.semantics import FETCHES
from pybpfvm.program import Program

# Why an instruction is not executed: the kind of trap, and what to say.
Refusal = tuple[TrapKind, str]

_WRITES_DST = frozenset({Kind.ALU, Kind.LDX, Kind.LDSX, Kind.LOAD_ACQ, Kind.LDDW})
_NOT_EXECUTABLE = frozenset({Kind.ADDR_SPACE_CAST, Kind.CALL_KFUNC})
_LOADS = frozenset({Kind.LDX, Kind.LDSX})
_ACCESSES = _LOADS | {Kind.ST, Kind.STX}
_LEAVES_R0 = frozenset({Kind.CALL, Kind.LD_ABS, Kind.LD_IND})
_JUMPS = frozenset({Kind.GOTO, Kind.JUMP, Kind.MAY_GOTO})
_BREAKS = _JUMPS | {Kind.EXIT, Kind.CALL_LOCAL, Kind.LD_ABS, Kind.LD_IND}
_BREAKS_OR_NAMES = _BREAKS | {Kind.CALL, Kind.LDDW}


class Outline:
    """`starts`: the pc of each instruction; `functions`: the pcs where functions begin (those
    that the object names, and whatever is called), ascending; `framed`: those of them that name
    r10, so begin with a zeroed frame. `main_is_called`: the program calls its own first function.
    """

    def __init__(self, program: Program) -> None:
        self._insns = program.insns
        self.starts: list[int] = []
        self._breaks: list[tuple[int, Insn]] = []  # what may end a block: jumps, calls, exits
        self._names_function = False  # others may call what it names, from however deep
        self.main_is_called = False
        found = {0, *(sub.start for sub in program.subprogs)}
        self._named: list[tuple[int, Insn]] = []  # what names r10
        pc = 0
        for insn in program.insns:
            self.starts.append(pc)
            if insn.dst == FRAME_POINTER or insn.src == FRAME_POINTER:
                self._named.append((pc, insn))
            kind = insn.spec.kind
            if kind in _BREAKS_OR_NAMES:
                if kind is not Kind.LDDW:
                    self._breaks.append((pc, insn))
                elif insn.src == Pseudo.FUNC:
                    self._names_function = True
                if kind is Kind.CALL_LOCAL or kind is Kind.LDDW:
                    target = target_pc(insn, pc)
                    if target is not None:
                        found.add(target)
                        self.main_is_called |= target == 0
            pc += 2 if kind is Kind.LDDW else 1
        self._valid = frozenset(self.starts)
        self.functions = sorted(found & self._valid)
        self.framed = frozenset(self.function(pc) for pc, _ in self._named)

    def calls(self) -> dict[int, set[int]]:
        """The functions that each function calls, by where they begin."""
        found: dict[int, set[int]] = {pc: set() for pc in self.functions}
        for pc, insn in self._breaks:
            if insn.spec.kind is Kind.CALL_LOCAL:
                found[self.function(pc)].add(pc + 1 + insn.imm)
        return found

    def frameless(self) -> frozenset[int]:
        """The functions that name no frame and call nothing, helpers included."""
        calling = {
            self.function(pc)
            for pc, insn in self._breaks
            if insn.spec.kind in (Kind.CALL, Kind.CALL_LOCAL)
        }
        return frozenset(self.functions) - calling - self.framed

    def frame_bytes(self, function: int) -> int:
        """How many bytes below r10 the function that begins there can reach, where it is known to
        keep to its frame: all, unless it uses r10 for nothing but loads and stores."""
        reach = 0
        for pc, insn in self._named:
            if self.function(pc) != function:
                continue
            base = insn.src if insn.spec.kind in _LOADS else insn.dst
            holds = insn.spec.kind is Kind.STX and insn.src == FRAME_POINTER
            if insn.spec.kind not in _ACCESSES or base != FRAME_POINTER or holds:
                return STACK_BYTES
            reach = max(reach, -insn.off)
        return min(reach, STACK_BYTES)

    def loop_heads(self) -> set[int]:
        """The pcs that jumps lead back to."""
        return {
            pc + 1 + insn.off
            for pc, insn in self._breaks
            if insn.off < 0 and insn.spec.kind in _JUMPS
        }

    def stays_shallow(self, helpers: Mapping[int, Helper]) -> bool:
        """Whether no run of the program can need more than MAX_FRAMES frames, as its code shows:
        no function calls itself, nothing calls back, no other program takes its place."""
        if self._names_function:
            return False
        for _, insn in self._breaks:
            if insn.spec.kind is Kind.CALL and runs_others(helpers.get(insn.imm)):
                return False
        calls = self.calls()
        level = {0}  # the functions that so many calls lead to
        for _ in range(MAX_FRAMES):
            level = {callee for function in level for callee in calls.get(function, ())}
            if not level:
                return True
        return False

    def function(self, pc: int) -> int:
        """Where the function begins that `pc` is in."""
        return self.functions[bisect_right(self.functions, pc) - 1]

    def astray(self, pc: int, target: int, *, is_call: bool = False) -> str | None:
        """Why control may not go from `pc` to `target`, None if it may."""
        if target not in self._valid:
            return f"pc {target} is no instruction"
        if is_call or len(self.functions) == 1 or self.function(target) == self.function(pc):
            return None
        return f"pc {target} is another function"

    def blocks(self, helpers: Mapping[int, Helper]) -> dict[int, int]:
        """The pcs at which basic blocks begin, with the index of the last instruction of each.

        A block ends where something else may run before what follows, or where the program may
        leave: jumps, local calls, helpers that call back or away, packet loads.
        """
        leaders = set(self.functions)
        for pc, insn in self._breaks:
            kind = insn.spec.kind
            if kind is not Kind.CALL:
                leaders.add(pc + 1)
                if kind in _JUMPS:
                    leaders.add(pc + 1 + insn.off)
            elif runs_others(helpers.get(insn.imm)):
                leaders.add(pc + 1)
        begun = sorted(leaders & self._valid)
        ends = [bisect_left(self.starts, pc) - 1 for pc in begun[1:]]
        return dict(zip(begun, [*ends, len(self.starts) - 1], strict=False))


_KEPT = 256
_outlines: dict[int, tuple[Program, Outline]] = {}


def outline_of(program: Program) -> Outline:
    """The program's outline; of those asked for last it is kept, for engines that compare."""
    found = _outlines.get(id(program))
    if found is None:
        found = program, Outline(program)
        if len(_outlines) >= _KEPT:
            _outlines.clear()
        _outlines[id(program)] = found
    return found[1]


def runs_others(helper: Helper | None) -> bool:
    """Whether a call of the helper may run other code of the program, or another program."""
    return helper is not None and (helper.name == "tail_call" or ArgType.PTR_TO_FUNC in helper.args)


def written(insn: Insn) -> int | None:
    """The register that `insn` names to be written, r0 of calls aside."""
    if insn.spec.kind in _WRITES_DST:
        return insn.dst
    return insn.src if insn.spec.op in FETCHES else None


def changed(insn: Insn) -> int | None:
    """The register whose value is what the instruction is for: the one it names to be written,
    r0 of helper calls, packet loads and compare-and-exchange; None if there is none."""
    if insn.spec.kind in _LEAVES_R0 or insn.spec.op is AtomicOp.CMPXCHG:
        return 0
    return written(insn)


# Of instructions that do not name r10, only such may be refused.
REFUSABLE = _NOT_EXECUTABLE | {Kind.CALL}


def refusal(insn: Insn, helpers: Mapping[int, Helper]) -> Refusal | None:
    """Why no engine executes the instruction, None if they do."""
    kind = insn.spec.kind
    if FRAME_POINTER in (insn.dst, insn.src) and written(insn) == FRAME_POINTER:
        return TrapKind.BAD_INSN, "the frame pointer r10 is read-only"
    if kind in _NOT_EXECUTABLE:
        return TrapKind.UNSUPPORTED, kind.value
    if kind is Kind.CALL:
        helper = helpers.get(insn.imm)
        if helper is None and insn.imm < 0:
            return TrapKind.UNSUPPORTED, f"the kernel's function {-insn.imm}"
        if helper is None:
            return TrapKind.BAD_HELPER, f"helper {insn.imm}"
        if helper.impl is None:
            return TrapKind.UNSUPPORTED, f"helper {helper.name}"
    return None


def context_arguments(helper: Helper) -> tuple[int, ...]:
    """The numbers (from 1) of the arguments that must be the context pointer."""
    return tuple(n for n, kind in enumerate(helper.args, 1) if kind is ArgType.PTR_TO_CTX)
