"""Machine code between LLVM's functions and the JIT's thunks.

From LLVM's side a thunk follows preserve_most or the C convention: all general registers come
back but r11, and rax where there is a result. From the JIT's side its callout and helper thunks
find the window's base in r12. In between the machine's registers lie on the native stack, where
Python finds what a stack map names: sixteen of them by their DWARF numbers, then the return
address. When Python raises, the stack is left before anyone asks what was there, so its innermost
part is copied first.
"""

from __future__ import annotations

from pybpfvm.isa.opcodes import FRAME_POINTER
from pybpfvm.jit.pages import Pages, code_area
from pybpfvm.jit.state import Slot, State
from pybpfvm.jit.thunks import BASE, BPF, FUEL, SAVED, call_slot, load, store
from pybpfvm.jit.x86 import (
    ADD,
    BE,
    CMP,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
    RAX,
    RBP,
    RBX,
    RCX,
    RDI,
    RDX,
    RET,
    RSI,
    RSP,
    SUB,
    Assembler,
    B,
    call_reg,
    group,
    jump_reg,
    mov_imm,
    pop,
    push,
    rr,
)
from pybpfvm.memory import AddressSpace, RegionKind

# Registers by their DWARF numbers.
_BY_NUMBER = (RAX, RDX, RCX, RBX, RSI, RDI, RBP, RSP, R8, R9, R10, R11, R12, R13, R14, R15)
RETURN = len(_BY_NUMBER)  # the word behind them: the return address
_COPIED = 1 << 14  # bytes of the stack; what one function keeps there is far less
_REP_MOVSB = b"\xf3\xa4"


class LlvmThunks:
    """The thunks of one engine. `words` are the addresses that every unit has in its table."""

    def __init__(self, state: State, memory: AddressSpace) -> None:
        self._memory = memory
        self._copy = memory.alloc(_COPIED, RegionKind.HOST, "native stack")
        self.copy = self._copy.start
        asm = Assembler()
        slots = [Slot.CALLOUT, *(Slot.HELPER + count for count in range(6))]
        for slot in slots:
            asm.label(f"to {slot}")
            self._thunk(asm, state, call_slot(state.disp(slot)))
        asm.label("to machine code")
        self._thunk(asm, state, call_reg(R11))
        asm.label("into the JIT")
        self._into_jit(asm, state)
        asm.label("leave with an error")
        self._leave(asm, state)
        self.pages: Pages = code_area().place(asm.finish())
        labels = [*(f"to {slot}" for slot in slots), "to machine code"]
        self.words = [self.pages.start + asm.offset(label) for label in labels]
        state.words[Slot.LEAVE_ERROR] = self.pages.start + asm.offset("leave with an error")
        self.into_jit = self.pages.start + asm.offset("into the JIT")

    def holds(self, address: int) -> bool:
        """Whether the address lies in these thunks."""
        return 0 <= address - self.pages.start < self.pages.span

    def close(self) -> None:
        """Give the pages back."""
        code_area().release(self.pages)
        self._memory.free(self._copy)

    def _leave(self, asm: Assembler, state: State) -> None:
        """Python has raised: copy the stack from NATIVE on, if it is a place on the stack that
        this entry is about to leave; then leave as the JIT does."""
        asm(load(RSI, state.disp(Slot.NATIVE)), rr(CMP, RSI, RSP))
        asm.jump("leave", B)
        asm(load(RCX, state.disp(Slot.SAVED_RSP)), rr(SUB, RCX, RSI))
        asm.jump("leave", BE)
        asm(group(CMP, RCX, _COPIED))
        asm.jump("copy", BE)
        asm(mov_imm(RCX, _COPIED))
        asm.label("copy")
        asm(mov_imm(RDI, self.copy), _REP_MOVSB)
        asm.label("leave")
        asm(mov_imm(RAX, state.words[Slot.LEAVE_ERROR]), jump_reg(RAX))

    def _thunk(self, asm: Assembler, state: State, call: bytes) -> None:
        """Keep all registers and `call` the JIT's thunk, or its machine code; the result."""
        for reg in reversed(_BY_NUMBER):
            asm(push(reg))
        asm(mov_imm(BASE, state.base), store(state.disp(Slot.NATIVE), RSP))
        asm(call, group(ADD, RSP, 8))
        for reg in _BY_NUMBER[1:]:
            asm(group(ADD, RSP, 8) if reg == RSP else pop(reg))
        asm(RET)

    def _into_jit(self, asm: Assembler, state: State) -> None:
        """A function of LLVM's kind that runs code of the JIT's: the address in TARGET, with the
        registers and the fuel of the state, but 0 in r0."""
        for reg in SAVED:
            asm(push(reg))
        asm(mov_imm(BASE, state.base))
        for number in range(1, FRAME_POINTER + 1):
            asm(load(BPF[number], state.disp(Slot.REGS + number)))
        asm(load(FUEL, state.disp(Slot.FUEL)), mov_imm(RAX, 0))
        asm(call_slot(state.disp(Slot.TARGET)), store(state.disp(Slot.FUEL), FUEL))
        for reg in reversed(SAVED):
            asm(pop(reg))
        asm(RET)
