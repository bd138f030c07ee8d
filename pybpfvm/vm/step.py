"""An instruction made ready: operands resolved, neighbours known, its handler looked up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pybpfvm.isa.insn import Insn

if TYPE_CHECKING:
    from pybpfvm.vm.run import Run

# Executes a step and says where to go on: an index into the steps, or LEAVE.
Handler = Callable[["Run", "Step"], int]
LEAVE = -1


class Step:
    """One instruction at its pc. A list of steps is indexed by pc, so an `lddw` leaves a hole;
    behind the program's end lie the places where control would leave it, one per way out.
    """

    __slots__ = (
        "block",
        "dst",
        "framed",
        "handler",
        "imm",
        "insn",
        "meaning",
        "next",
        "off",
        "pc",
        "place",
        "src",
        "target",
        "width",
    )

    def __init__(self, handler: Handler, insn: Insn, pc: int) -> None:
        self.handler = handler
        self.insn = insn
        self.pc = pc
        self.dst = insn.dst
        self.src = insn.src
        self.off = insn.off
        self.imm = 0  # the immediate operand as an unsigned 64-bit word
        self.width = 0  # bits of an operation, bytes of a memory access
        self.next = LEAVE  # index of the step behind
        self.target = LEAVE  # index of the step that a jump or local call leads to
        self.framed = False  # whether a function starts here that has its frame zeroed
        self.place = 0  # number of the instruction, and of the block that begins here: for those
        self.block: int | None = None  # who record
        self.meaning: Any = None  # what else the handler needs, see `prepare`
