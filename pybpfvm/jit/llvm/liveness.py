"""Which registers code still reads: what functions take, and what Python is shown where it is
asked. And how much fuel must be there where it is checked.

A set of registers is a mask, bit n for r<n>; r10 is no part of it. Backward data flow over basic
blocks, as in any compiler's book; over all functions until nothing changes, for a local call reads
what its function reads.

Fuel is checked where a function begins, where a jump back leads, and behind what spends fuel that
nobody can tell: between two checks code goes forward only, and the longest way is known. Functions
that only go forward, as do those they call, need no checks of their own: they are part of the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pybpfvm.helpers.proto import ArgType, Helper
from pybpfvm.isa.codec import target_pc
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import AtomicOp, Kind, Operand
from pybpfvm.isa.semantics import FETCHES
from pybpfvm.jit.emitted import arguments_used
from pybpfvm.jit.llvm.arithmetic import SETS
from pybpfvm.outline import Outline, refusal
from pybpfvm.program import Program

_R0, _R6, _ALL = 1, 1 << 6, 0x3FF
_ARGUMENTS = 0b111110
_CALL_WRITES = _ARGUMENTS | _R0
_LONGEST = 1 << 12  # a way so long is cut by a check
_ENDS = frozenset({Kind.EXIT, Kind.GOTO})
_JUMPS = frozenset({Kind.JUMP, Kind.GOTO, Kind.MAY_GOTO})
_LOADS = frozenset({Kind.LDX, Kind.LDSX, Kind.LOAD_ACQ})
_STORES = frozenset({Kind.STX, Kind.STORE_REL})
_PACKET = frozenset({Kind.LD_ABS, Kind.LD_IND})

# (registers read, registers written)
_Effect = tuple[int, int]


@dataclass(slots=True)
class Block:
    """Instructions `first` to `last`, from `pc` on; `leads` are the pcs of the blocks behind,
    `ways_out` how many ways lead out of the program. `need`: the fuel that must be there, if it is
    checked here, for all that may come before the next check; else 0."""

    pc: int
    first: int
    last: int
    leads: tuple[int, ...]
    ways_out: int = 0
    behind: int = 0  # registers live at its end
    need: int = 0


class Liveness:
    """`blocks` in order; `before[i]`: the registers live before instruction i; `entry`: by the pc
    of a function, those it takes from its caller."""

    def __init__(self, program: Program, outline: Outline, helpers: Mapping[int, Helper]) -> None:
        self._insns = program.insns
        self._outline = outline
        self._helpers = helpers
        self.entry = dict.fromkeys(outline.functions, 0)
        self.blocks: list[Block] = []
        first = 0
        for pc, last in outline.blocks(helpers).items():
            ways = self._ways(last)
            leads = tuple(to for to in ways if outline.astray(outline.starts[last], to) is None)
            self.blocks.append(Block(pc, first, last, leads, len(ways) - len(leads)))
            first = last + 1
        self._plan_checks()
        self._effects = [self._effect(insn) for insn in program.insns]
        self._calls = {
            index: target
            for index, (pc, insn) in enumerate(zip(outline.starts, program.insns, strict=True))
            if insn.spec.kind is Kind.CALL_LOCAL and (target := target_pc(insn, pc)) in self.entry
        }
        self.before = [0] * len(program.insns)
        self._live = {block.pc: 0 for block in self.blocks}
        while self._pass():
            pass

    def _ways(self, last: int) -> tuple[int, ...]:
        """The pcs that may follow a block whose last instruction this is."""
        insn, pc = self._insns[last], self._outline.starts[last]
        if refusal(insn, self._helpers) is not None:
            return ()
        kind = insn.spec.kind
        found = [] if kind in _ENDS else [pc + insn.slots]
        if kind in _JUMPS:
            found.append(pc + 1 + insn.off)
        if kind is Kind.CALL_LOCAL and self._outline.astray(pc, pc + 1 + insn.imm, is_call=True):
            found.append(-1)
        return tuple(found)

    def _plan_checks(self) -> None:
        """Set the need of all blocks that check."""
        functions = self._outline.functions
        entered = {0}  # from elsewhere, so with a check
        for pc, insn in zip(self._outline.starts, self._insns, strict=True):
            target = target_pc(insn, pc) if insn.spec.kind is Kind.LDDW else None
            if target is not None:
                entered.add(target)
        blocks: dict[int, list[Block]] = {}
        for block in self.blocks:
            if block.pc in self.entry:
                own = blocks[block.pc] = []
            own.append(block)
        longest: dict[int, int | None] = {}

        def plan(start: int) -> int | None:
            """The most that a call of the function takes, None for one that checks."""
            if start not in longest:
                longest[start] = None  # as long as it is not known: recursion checks
                most = self._plan_function(blocks[start], plan)
                if start not in entered and most is not None and most <= _LONGEST:
                    longest[start] = most
                else:
                    blocks[start][0].need = self._needs[start]
            return longest[start]

        self._needs: dict[int, int] = {}
        for start in functions:
            plan(start)

    def _plan_function(self, blocks: list[Block], plan: Callable[[int], int | None]) -> int | None:
        """The most that a call takes, None if checks beside that at its beginning are made."""
        checked: set[int] = set()
        spent: dict[int, int] = {}
        for block in blocks:
            checked.update(to for to in block.leads if to <= block.pc)
            most = self._spent(block, plan)
            if most is None:
                checked.update(block.leads)
            spent[block.pc] = most or 0
        ahead: dict[int, int] = {}  # by pc of a block the fuel for it and what comes unchecked
        for block in reversed(blocks):
            behind = [0 if to in checked else ahead[to] for to in block.leads]
            count = block.last - block.first + 1 + spent[block.pc]
            ahead[block.pc] = count + max([min(block.ways_out, 1), *behind])
            if block.pc in checked:
                block.need = ahead[block.pc]
        self._needs[blocks[0].pc] = ahead[blocks[0].pc]
        away = any(self._leaves(self._insns[block.last]) for block in blocks)
        return None if checked or away else ahead[blocks[0].pc]

    def _spent(self, block: Block, plan: Callable[[int], int | None]) -> int | None:
        """The most that is spent elsewhere between the block and those behind, None: unknown."""
        insn = self._insns[block.last]
        if insn.spec.kind is Kind.CALL_LOCAL:
            target = self._outline.starts[block.last] + 1 + insn.imm
            return plan(target) if target in self.entry else 0
        return None if self._leaves(insn) else 0

    def _leaves(self, insn: Insn) -> bool:
        """Whether a helper runs code that is not the program's next."""
        helper = self._helpers.get(insn.imm) if insn.spec.kind is Kind.CALL else None
        if helper is None or helper.impl is None:
            return False
        return helper.name == "tail_call" or ArgType.PTR_TO_FUNC in helper.args

    def _pass(self) -> bool:
        """Once over all blocks, last ones first; whether anything changed at the start of one."""
        changed = False
        before, effects, calls = self.before, self._effects, self._calls
        for block in reversed(self.blocks):
            live = 0
            for pc in block.leads:
                live |= self._live[pc]
            block.behind = live
            for index in range(block.last, block.first - 1, -1):
                reads, writes = effects[index]
                live = live & ~writes | reads
                if index in calls:
                    live |= self.entry[calls[index]]
                before[index] = live
            if live != self._live[block.pc]:
                self._live[block.pc] = live
                changed = True
                if block.pc in self.entry:
                    self.entry[block.pc] = live
        return changed

    def _effect(self, insn: Insn) -> _Effect:
        """What the instruction does to registers, but for what the function reads that it calls.
        One that is refused ends everything: it writes all."""
        spec = insn.spec
        kind = spec.kind
        dst, src = 1 << insn.dst & _ALL, 1 << insn.src & _ALL
        operand = src if spec.operand is Operand.X else 0
        if refusal(insn, self._helpers) is not None:
            effect = 0, _ALL
        elif kind is Kind.ALU:
            effect = operand | (0 if spec.op in SETS else dst), dst
        elif kind is Kind.JUMP:
            effect = dst | operand, 0
        elif kind in _LOADS:
            effect = src, dst
        elif kind is Kind.ST:
            effect = dst, 0
        elif kind in _STORES:
            effect = dst | src, 0
        elif kind is Kind.ATOMIC and spec.op is AtomicOp.CMPXCHG:
            effect = dst | src | _R0, _R0
        elif kind is Kind.ATOMIC:
            effect = dst | src, src if spec.op in FETCHES else 0
        elif kind is Kind.LDDW:
            effect = 0, dst
        elif kind is Kind.EXIT:
            effect = _R0, 0
        elif kind is Kind.CALL:
            effect = _helper_reads(self._helpers[insn.imm]), _CALL_WRITES
        elif kind is Kind.CALL_LOCAL:
            effect = 0, _CALL_WRITES
        elif kind in _PACKET:
            effect = _R6 | (src if kind is Kind.LD_IND else 0), _CALL_WRITES
        else:
            effect = 0, 0
        return effect


def _helper_reads(helper: Helper) -> int:
    if helper.name == "tail_call":
        return _ARGUMENTS
    if ArgType.PTR_TO_FUNC in helper.args:
        return _ALL  # the function it calls sees them
    return (2 << arguments_used(helper)) - 2
