"""Where control goes: functions and their frames, jumps, local calls, exits.

The frames of a program lie FRAME_STRIDE apart; a local call moves r10 by that much and uses the
native stack for its return address and for the callee's registers, nothing else.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import cache

from pybpfvm.bits import align_up
from pybpfvm.errors import TrapKind
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import STACK_BYTES, JmpOp
from pybpfvm.jit.accounting import Accounting
from pybpfvm.jit.cpu import HAS_AVX
from pybpfvm.jit.emitted import Ask
from pybpfvm.jit.state import Slot
from pybpfvm.jit.templates import CONDITION, compare
from pybpfvm.jit.thunks import BASE, BPF, store
from pybpfvm.jit.x86 import (
    ADD,
    CMP,
    R11,
    RBP,
    RET,
    SUB,
    E,
    group,
    imm32,
    mov_imm,
    nops,
    pop,
    push,
    rm,
    s8,
)
from pybpfvm.memory import FRAME_STRIDE
from pybpfvm.outline import written

_CALLEE_SAVED = (6, 7, 8, 9)
# Loops and functions begin at such a multiple, as instructions are kept decoded by lines: one that
# lies across two where it could lie in one has been seen to take 1.7 times as long.
LINE = 64
NO_ARGUMENTS = b"".join(mov_imm(BPF[number], 0) for number in range(1, 6))


class Flow(Accounting):
    """Emits what moves control. `_saved` are the registers that the function must give back,
    `_shallow`: no call can go too deep, `_frameless` are functions without frames."""

    _saved: tuple[int, ...] = ()
    _shallow = False
    _frameless: frozenset[int] = frozenset()

    def _jump(self, insn: Insn) -> None:
        assert isinstance(insn.spec.op, JmpOp)
        self._code.data += compare(insn)
        self._branch(insn, CONDITION[insn.spec.op])

    def _branch(self, insn: Insn, condition: int | None) -> None:
        """To the instruction's target, on the condition if there is one."""
        target = self._pc + 1 + insn.off
        data = self._code.data
        astray = self._outline.astray(self._pc, target)
        if astray is None and self._build.record.edges:
            self._recorded_branch(target, condition)
            return
        if astray is None and target in self._bound:
            self._backward(self._bound[target], condition)
            return
        data += b"\xe9" if condition is None else bytes((0x0F, 0x80 | condition))
        at = len(data)
        data += bytes(4)
        if astray is None:
            self._jumps.append((at, target))
            return
        pc, index = self._pc, self._index

        def late() -> None:
            self._pc, self._index = pc, index
            self._land(at)
            self._way_out(astray)

        self._late.append(late)

    def _recorded_branch(self, target: int, condition: int | None) -> None:
        """The same where edges are recorded: what belongs to this edge lies on it."""
        data = self._code.data
        at = None if condition is None else self._jump_late(condition ^ 1)
        first = bisect_left(self._outline.starts, target)
        self._come_to(first, self._last_of[target], self._edge_to(target))
        if target in self._bound:
            self._backward(self._bound[target], None)
        else:
            self._jumps.append((len(data) + 1, target))
            data += b"\xe9" + bytes(4)
        if at is not None:
            self._land(at)

    def _backward(self, offset: int, condition: int | None) -> None:
        data = self._code.data
        short = offset - len(data) - 2
        if s8(short):
            data += bytes((0xEB if condition is None else 0x70 | condition, short & 0xFF))
        elif condition is None:
            self._jump_to(offset)
        else:
            data += bytes((0x0F, 0x80 | condition)) + imm32(offset - len(data) - 6)

    def _goto(self, insn: Insn) -> None:
        self._branch(insn, None)

    def _may_goto(self, insn: Insn) -> None:
        turns = self._state.disp(Slot.MAY_GOTO)
        self._code.data += rm(0x83, 7, BASE, turns) + b"\0"
        self._branch(insn, E)
        self._code.data += rm(0xFF, 1, BASE, turns)

    def _leave_function(self) -> bytes:
        return b"".join(pop(BPF[number]) for number in reversed(self._saved)) + RET

    def _exit(self, _: Insn) -> None:
        data = self._code.data
        self._leave_block()
        if self._build.check_return and bisect_right(self._outline.functions, self._pc) == 1:
            data += b"\x4c\x8d\x1d" + imm32(-7)  # lea r11, [rip]: this instruction
            data += store(self._state.disp(Slot.EXIT_PC), R11)
            for number, reg in enumerate(BPF):  # for the trap, if the value is not allowed
                data += store(self._state.disp(Slot.REGS + number), reg)
        data += self._leave_function()

    def _call_local(self, insn: Insn) -> None:
        data = self._code.data
        if not self._shallow:  # also where the verifier has been: it counts no tail calls
            data += rm(CMP, RBP, BASE, self._state.disp(Slot.LAST_FRAME))
            site = self._site(Ask.REFUSE, why=(TrapKind.STACK_DEPTH, ""))
            self._asked.append((self._jump_late(E), site, b"", None))
        self._leave_block()
        target = self._pc + 1 + insn.imm
        # Nobody can see the frame of a function that names none and calls nothing.
        moves = self._checked or target not in self._frameless
        if moves:
            data += group(ADD, RBP, FRAME_STRIDE)
        data += b"\xe8"
        called = len(data)
        data += bytes(4)
        self._code.returns[self._index] = len(data)
        astray = self._outline.astray(self._pc, target, is_call=True)
        if astray is None:
            self._calls.append((called, target))
        else:
            pc, index = self._pc, self._index

            def late() -> None:
                self._pc, self._index = pc, index
                self._land(called)
                self._way_out(astray)

            self._late.append(late)
        if moves:
            data += group(SUB, RBP, FRAME_STRIDE)
        if self._checked:
            data += NO_ARGUMENTS

    def _begin_function(self, pc: int) -> None:
        data = self._code.data
        if data and pc:
            data += nops(-len(data) % LINE)
        self._code.entries[pc] = len(data)
        self._saved = self._code.saved[pc] = self._to_save(pc)
        for number in self._saved:
            data += push(BPF[number])
        if pc == 0:
            self._code.tail = len(data)
        if pc in self._outline.framed:
            # A program that was verified sees of its frame what it names. Others may see more: what
            # lies beside another's frame, or is left of one.
            data += _blank(STACK_BYTES if self._checked else self._outline.frame_bytes(pc))

    def _to_save(self, pc: int) -> tuple[int, ...]:
        """The registers that the function must give back: those of r6 to r9 that it writes."""
        if self._build.uniform:
            return _CALLEE_SAVED
        if pc == 0 and not self._outline.main_is_called:
            return ()  # nothing of ours calls it, and the way in keeps what C wants back
        first = bisect_left(self._outline.starts, pc)
        place = bisect_right(self._outline.functions, pc)
        behind = self._outline.functions[place:]
        last = bisect_left(self._outline.starts, behind[0]) if behind else None
        changed = {written(insn) for insn in self._program.insns[first:last]}
        return tuple(number for number in _CALLEE_SAVED if number in changed)


@cache
def _blank(size: int) -> bytes:
    """Zero the `size` bytes below r10, and up to 31 more of the frame: 32 at a time where the
    processor can."""
    if HAS_AVX:
        code = b"\xc5\xf8\x57\xc0"  # vxorps xmm0, xmm0, xmm0, which clears all of ymm0
        for off in range(-align_up(size, 32), 0, 32):
            code += b"\xc5\xfc\x11" + rm(0, 0, RBP, off, False)[1:]  # vmovups [rbp + off], ymm0
        return code + b"\xc5\xf8\x77"  # vzeroupper
    code = b"\x0f\x57\xc0"  # xorps xmm0, xmm0
    for off in range(-align_up(size, 16), 0, 16):
        code += b"\x0f\x11" + rm(0, 0, RBP, off, False)[1:]  # movups [rbp + off], xmm0
    return code
