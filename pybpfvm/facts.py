"""What is plain from a program's code without verifying it: constants, and the context pointer.

One forward pass to a fixed point tracks, per register and 8-byte stack slot, whether it holds
the context pointer plus a constant, one of a few constants, or anything. It decides nothing
about safety; ABI detection and load checks read its findings, and it says "unknown" whenever a
value is not plainly one of these.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pybpfvm.bits import U32, U64, sign_extend
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import FRAME_POINTER, REGISTERS, AluOp, Kind, Operand, Pseudo
from pybpfvm.isa.semantics import CONCRETE_ALU
from pybpfvm.profiles.detect import CallSite, CtxAccess, ProgramFacts
from pybpfvm.program import Program

_MAX_CONSTANTS = 8


@dataclass(frozen=True, slots=True)
class _Ctx:
    """The context pointer plus `offset`."""

    offset: int


_Value = _Ctx | frozenset[int] | None  # None: anything else


@dataclass(slots=True)
class _State:
    regs: list[_Value]
    stack: dict[int, _Value] = field(default_factory=dict)

    def copy(self) -> _State:
        return _State(list(self.regs), dict(self.stack))

    def join(self, other: _State) -> bool:
        """Widen this state so that it covers `other` too; whether that changed it."""
        changed = False
        for index, (mine, theirs) in enumerate(zip(self.regs, other.regs, strict=True)):
            joined = _join(mine, theirs)
            if joined != mine:
                self.regs[index] = joined
                changed = True
        for slot in list(self.stack):
            joined = _join(self.stack[slot], other.stack.get(slot))
            if joined is None:
                del self.stack[slot]
                changed = True
            elif joined != self.stack[slot]:
                self.stack[slot] = joined
                changed = True
        return changed


def _join(a: _Value, b: _Value) -> _Value:
    if a == b:
        return a
    if isinstance(a, frozenset) and isinstance(b, frozenset):
        both = a | b
        return both if len(both) <= _MAX_CONSTANTS else None
    return None


def program_facts(program: Program) -> ProgramFacts:
    """Calls, context accesses and return values of `program`."""
    return _Flow(program).facts()


class _Flow:
    """The fixed point. Every state can only widen, and each value at most `_MAX_CONSTANTS` + 1
    times, so the worklist ends. States are kept where paths begin or meet (`leaders`)."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.code: dict[int, Insn] = {}
        pc = 0
        for insn in program.insns:
            self.code[pc] = insn
            pc += insn.slots
        self.functions = sorted({0, *(sub.start for sub in program.subprogs)})
        self.leaders = set(_leaders(self.code))
        self.states: dict[int, _State] = {}
        self.returns: dict[int, tuple[_Value, bool]] = {}  # function -> (r0, seen)
        self.callers: dict[int, set[int]] = {}  # function -> leaders of the blocks that call it
        self.calls: list[CallSite] = []
        self.accesses: list[CtxAccess] = []

    def facts(self) -> ProgramFacts:
        entry: list[_Value] = [None] * REGISTERS
        entry[1] = _Ctx(0)
        self.states[0] = _State(entry)
        work = [0]
        while work:
            leader = work.pop()
            for target, reached in self._follow(leader, work):
                known = self.states.get(target)
                if known is None:
                    self.states[target] = reached.copy()
                    work.append(target)
                elif known.join(reached):
                    work.append(target)
        for leader in sorted(self.states):
            for _ in self._follow(leader, None):
                pass
        returned, seen = self.returns.get(0, (None, False))
        return ProgramFacts(
            self.program.name,
            self.program.section,
            tuple(self.calls),
            tuple(self.accesses),
            returned if seen and isinstance(returned, frozenset) else None,
        )

    def _follow(self, leader: int, work: list[int] | None) -> Iterator[tuple[int, _State]]:
        """Where the straight code from `leader` on goes, and in which state. While there is
        `work` to do, callers of functions that return something new are added to it; without it
        nothing changes any more, and what is found is kept."""
        state = self.states[leader].copy()
        pc = leader
        while True:
            insn = self.code.get(pc)
            if insn is None:
                return
            if work is None:
                self._look(pc, insn, state)
            kind = insn.spec.kind
            after = pc + insn.slots
            if kind is Kind.EXIT:
                if self._note_return(pc, state.regs[0]) and work is not None:
                    work.extend(self.callers.get(self._function_of(pc), ()))
                return
            if kind is Kind.GOTO:
                yield after + insn.off, state
                return
            if kind in (Kind.JUMP, Kind.MAY_GOTO):
                yield after + insn.off, state
                yield after, state
                return
            if kind is Kind.CALL_LOCAL:
                yield from self._call_local(leader, insn, state, after)
                return
            if kind is Kind.LDDW and insn.src == Pseudo.FUNC:
                # A callback: its arguments are anything.
                yield pc + 1 + sign_extend(insn.imm & U32, 32), _State([None] * REGISTERS)
            self._transfer(insn, state)
            if after in self.leaders:
                yield after, state
                return
            pc = after

    def _function_of(self, pc: int) -> int:
        return self.functions[bisect_right(self.functions, pc) - 1]

    def _note_return(self, pc: int, value: _Value) -> bool:
        function = self._function_of(pc)
        old, seen = self.returns.get(function, (None, False))
        new = _join(old, value) if seen else value
        self.returns[function] = (new, True)
        return not seen or new != old

    def _call_local(
        self, leader: int, insn: Insn, state: _State, after: int
    ) -> Iterator[tuple[int, _State]]:
        target = after + insn.imm
        self.callers.setdefault(self._function_of(target), set()).add(leader)
        yield target, _State([None, *state.regs[1:6], *[None] * (REGISTERS - 6)])
        returned, seen = self.returns.get(target, (None, False))
        if seen:
            state.regs[0:6] = [returned, *[None] * 5]
            yield after, state

    def _transfer(self, insn: Insn, state: _State) -> None:
        spec, regs = insn.spec, state.regs
        match spec.kind:
            case Kind.ALU:
                regs[insn.dst] = self._alu(insn, regs)
            case Kind.LDDW:
                regs[insn.dst] = frozenset({insn.imm}) if insn.src == Pseudo.NONE else None
            case Kind.LDX | Kind.LDSX | Kind.LOAD_ACQ:
                whole = spec.size == 8 and insn.src == FRAME_POINTER and spec.kind is Kind.LDX
                regs[insn.dst] = state.stack.get(insn.off) if whole else None
            case Kind.ST | Kind.STX | Kind.STORE_REL | Kind.ATOMIC:
                self._store(insn, state)
            case Kind.CALL | Kind.CALL_KFUNC:
                # A helper may write through any stack pointer it is given.
                regs[0:6] = [None] * 6
                state.stack = {k: v for k, v in state.stack.items() if isinstance(v, _Ctx)}
            case Kind.LD_ABS | Kind.LD_IND:
                regs[0:6] = [None] * 6
            case _:
                regs[insn.dst] = None

    def _store(self, insn: Insn, state: _State) -> None:
        if insn.spec.kind is Kind.ATOMIC:
            for reg in (0, insn.src):
                state.regs[reg] = None
        if insn.dst != FRAME_POINTER:
            # It may go to the stack through a copy of r10: constants are forgotten. A context
            # pointer there could only be overwritten by a program that then fails to verify.
            state.stack = {k: v for k, v in state.stack.items() if isinstance(v, _Ctx)}
            return
        size = int(insn.spec.size or 8)
        for slot in list(state.stack):
            if slot < insn.off + size and insn.off < slot + 8:
                del state.stack[slot]
        if size == 8 and insn.spec.kind is Kind.STX:
            value = state.regs[insn.src]
            if value is not None:
                state.stack[insn.off] = value

    def _alu(self, insn: Insn, regs: list[_Value]) -> _Value:
        op, width = insn.spec.op, insn.spec.width
        assert isinstance(op, AluOp)
        right: _Value
        if insn.spec.operand is Operand.X:
            right = regs[insn.src]
        else:
            right = frozenset({insn.imm & U64})
        left = regs[insn.dst]
        if op is AluOp.MOV:
            left = frozenset({0})
            if isinstance(right, _Ctx):
                return right if width == 64 else None
        if isinstance(left, _Ctx):
            if width == 64 and isinstance(right, frozenset) and len(right) == 1:
                (amount,) = right
                step = sign_extend(amount, 64)
                if op is AluOp.ADD:
                    return _Ctx(left.offset + step)
                if op is AluOp.SUB:
                    return _Ctx(left.offset - step)
            return None
        if op is AluOp.NEG or op.name.startswith(("LE", "BE", "BSWAP")):
            right = frozenset({0})
        if not isinstance(left, frozenset) or not isinstance(right, frozenset):
            return None
        meaning = CONCRETE_ALU[op]
        results = frozenset(meaning(a, b, width) & U64 for a in left for b in right)
        return results if len(results) <= _MAX_CONSTANTS else None

    def _look(self, pc: int, insn: Insn, state: _State) -> None:
        """Keep what the instruction calls, or accesses of the context."""
        regs = state.regs
        if insn.spec.kind is Kind.CALL:
            first = regs[1]
            ctx_first = None if first is None else isinstance(first, _Ctx)
            known = tuple(v if isinstance(v, frozenset) else None for v in regs[2:6])
            self.calls.append(CallSite(pc, insn.imm, ctx_first, known))
            return
        form = _FORMS.get(insn.spec.kind)
        if form is None:
            return
        pointer = regs[insn.src if form == "load" else insn.dst]
        if isinstance(pointer, _Ctx):
            stored: _Value = None
            if form == "store":
                stored = regs[insn.src]
            elif form == "store_imm":
                stored = frozenset({insn.imm & U64})
            value = stored if isinstance(stored, frozenset) else None
            offset = pointer.offset + insn.off
            self.accesses.append(CtxAccess(pc, offset, int(insn.spec.size or 0), form, value))


_FORMS = {
    Kind.LDX: "load",
    Kind.LDSX: "load",
    Kind.LOAD_ACQ: "load",
    Kind.STX: "store",
    Kind.STORE_REL: "atomic",
    Kind.ST: "store_imm",
    Kind.ATOMIC: "atomic",
}


def _leaders(code: Mapping[int, Insn]) -> Iterator[int]:
    """Where paths begin or meet."""
    for pc, insn in code.items():
        kind = insn.spec.kind
        after = pc + insn.slots
        if kind in (Kind.JUMP, Kind.MAY_GOTO, Kind.GOTO):
            yield after + insn.off
            yield after
        elif kind is Kind.CALL_LOCAL:
            yield after + insn.imm
            yield after
        elif kind is Kind.LDDW and insn.src == Pseudo.FUNC:
            yield pc + 1 + sign_extend(insn.imm & U32, 32)
