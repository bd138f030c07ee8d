"""An instruction in a state, as a lint looks at it: what it is, and what memory holds there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pybpfvm.isa.insn import Insn
from pybpfvm.profiles.base import Profile, RingRules
from pybpfvm.verifier.lints.notes import Notes, Span
from pybpfvm.verifier.states.regstate import Reg, RegType
from pybpfvm.verifier.states.state import Frame, State
from pybpfvm.verifier.usermemory.contract import MAX_CQS, Contract, ProgramPromise
from pybpfvm.verifier.verdict import Rule

# Keeps a warning: rule, pc, message, reason, suggestion.
Report = Callable[[Rule, int, str, str, str], None]


@dataclass(slots=True)
class Site:
    """The instruction at `pc` is about to be executed in `state`. `helper` is the name of what it
    calls, or ""."""

    profile: Profile
    contract: Contract | None
    promise: ProgramPromise
    pc: int
    insn: Insn
    state: State
    helper: str
    code: Mapping[int, Insn]
    report: Report

    @property
    def regs(self) -> list[Reg]:
        """The registers of the frame that executes it, by number."""
        return self.state.frame.regs

    @property
    def ring(self) -> RingRules:
        """The rules of the program's ring."""
        assert self.profile.ring is not None
        return self.profile.ring

    @property
    def notes(self) -> Notes:
        """What the lints have noted on the way to this state; may be set."""
        return notes_of(self.state)

    @notes.setter
    def notes(self, notes: Notes) -> None:
        self.state.notes = notes

    @property
    def cqs(self) -> int:
        """How many CQs the ring has at most."""
        declared = () if self.contract is None else self.contract.cq_entries
        return len(declared) or MAX_CQS

    def warn(self, rule: Rule, message: str, reason: str, suggestion: str) -> None:
        """Keep a warning of this instruction, if a run can come here at all."""
        self.warn_at(self.pc, rule, message, reason, suggestion)

    def warn_at(self, pc: int, rule: Rule, message: str, reason: str, suggestion: str) -> None:
        """Keep a warning, if a run can come here at all."""
        if not self.notes.impossible:
            self.report(rule, pc, message, reason, suggestion)

    def check_cq(self, what: str, span: Span) -> None:
        """A CQ index that no CQ of the ring has."""
        low, high = span
        if low < self.cqs:
            return
        shown = str(low) if low == high else f"{low} or more"
        self.warn(
            Rule.CQ_INDEX,
            f"{what} is {shown}, and the ring has {self.cqs} CQs",
            "the request or the call fails with -EINVAL, whatever else it says",
            f"use an index from 0 to {self.cqs - 1}, or create the ring with more CQs",
        )


def notes_of(state: State) -> Notes:
    """What is remembered of the path to a state."""
    assert isinstance(state.notes, Notes)
    return state.notes


def u32_span(reg: Reg) -> Span:
    """The low 32 bits of a number."""
    return reg.var.u32min, reg.var.u32max


def only(span: Span) -> int | None:
    """The value of a span of one."""
    return span[0] if span[0] == span[1] else None


def stack_place(state: State, reg: Reg) -> tuple[Frame, int] | None:
    """The frame and offset that a pointer to the stack points to, if it is known."""
    if reg.type is not RegType.PTR_TO_STACK or reg.var.mask:
        return None
    return state.frames[reg.frame], reg.off + reg.var.smin
