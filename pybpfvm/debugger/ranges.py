"""What the verifier knew of registers, to stand beside what they hold.

The verifier explores a program once, before any of it is shown. Of all states that it followed to
an instruction, what they say of a register is joined. A path that it did not follow to its end,
because a state that it had seen covers it, may bring numbers outside: the verifier did not need
them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pybpfvm.isa.opcodes import REGISTERS
from pybpfvm.profiles.base import Profile
from pybpfvm.program import BpfObject, Program
from pybpfvm.verifier.domains.scalar import Scalar, join
from pybpfvm.verifier.environment import Options
from pybpfvm.verifier.notation import format_reg
from pybpfvm.verifier.observe import Observer
from pybpfvm.verifier.refusal import Refused
from pybpfvm.verifier.states.regstate import Reg, RegType
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.verdict import Inconclusive
from pybpfvm.verifier.verify import verify

_BUDGET_INSNS = 100_000
_BUDGET_SECONDS = 1.0
_MOST_POINTERS = 3  # of different kinds; then there is no point in naming them
_IDS = re.compile(r"\b(id|ref_obj_id)=\d+([+-]\d+)?,?")


@dataclass(slots=True)
class _Known:
    """Of one register before one instruction."""

    scalar: Scalar | None = None
    pointers: set[str] = field(default_factory=set)
    unwritten: bool = False

    def add(self, reg: Reg, frame: int) -> None:
        if reg.type is RegType.NOT_INIT:
            self.unwritten = True
        elif reg.type is RegType.SCALAR_VALUE:
            self.scalar = reg.var if self.scalar is None else join(self.scalar, reg.var)
        elif len(self.pointers) <= _MOST_POINTERS:
            self.pointers.add(_IDS.sub("", format_reg(reg, frame)).replace("()", ""))

    def text(self) -> str:
        found = sorted(self.pointers)
        if len(found) > _MOST_POINTERS:
            found = ["pointers of several kinds"]
        if self.scalar is not None:
            found.insert(0, format_reg(Reg(RegType.SCALAR_VALUE, self.scalar, -1)))
        if self.unwritten and found:
            found.append("not readable")
        return " or ".join(found)


class Ranges:
    """What the verifier knew of the registers of one program; `why_none` says why that is nothing,
    "" if it is something."""

    def __init__(self, program: Program, obj: BpfObject, profile: Profile) -> None:
        self._known: dict[int, tuple[_Known, ...]] = {}
        watch = _Watch(self._known)
        options = Options(
            budget_insns=_BUDGET_INSNS,
            budget_seconds=_BUDGET_SECONDS,
            all_errors=True,
            observer=watch,
        )
        verdict = verify(program, obj, profile, options=options)
        self.why_none = ""
        if isinstance(verdict, Inconclusive):
            self.why_none = "the verifier did not get through the program in time, or can not"
            self._known.clear()

    def at(self, pc: int) -> tuple[str, ...]:
        """What was known of r0 to r10 before the instruction at `pc`, in the notation of the
        kernel's log; "" for a register of which nothing is, an empty tuple where the verifier never
        came."""
        return tuple(one.text() for one in self._known.get(pc, ()))


class _Watch(Observer):
    def __init__(self, known: dict[int, tuple[_Known, ...]]) -> None:
        self._known = known

    def step(self, pc: int, state: State) -> None:
        self._add(pc, state)

    def pruned(self, pc: int, state: State) -> None:
        self._add(pc, state)

    def refused(self, pc: int, state: State, refused: Refused) -> None:
        self._add(pc, state)

    def _add(self, pc: int, state: State) -> None:
        here = self._known.get(pc)
        if here is None:
            here = self._known[pc] = tuple(_Known() for _ in range(REGISTERS))
        frame = state.frames[-1]
        for known, reg in zip(here, frame.regs, strict=False):
            known.add(reg, frame.number)
