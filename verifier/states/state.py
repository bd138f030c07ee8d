"""The state of a program at an instruction: frames of registers and stack, and references held.

A State is owned by one path and changed in place as the path goes on; `copy` makes the other arm
of a branch, or what is stored for pruning. Regs and Slots are shared, stacks until written to.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol, Self

from pybpfvm.isa.opcodes import FRAME_POINTER, REGISTERS
from pybpfvm.verifier.states.regstate import NOT_INIT, Pointer, Reg, RegType

if TYPE_CHECKING:
    from pybpfvm.program import MapSpec
    from pybpfvm.verifier.states.stack import Slot


@dataclass(frozen=True, slots=True)
class Callback:
    """Why a frame runs: a helper calls it again and again. `call` tells one call of the helper
    from others, `args` are r1 to r5 of each call of the function, `refs` what was held when it
    began. `rounds` counts the calls on this path before this one, `before` is the caller's state
    when this one began."""

    helper: str
    call: int
    args: tuple[Reg, ...]
    refs: tuple[tuple[int, int], ...]
    rounds: int = 0
    before: State | None = None


class Frame:
    """A function's registers and stack. `callsite` is the pc of the call, -1 for the main
    function; `entry` the pc where the function starts; `ident` tells one call of it from others.
    `rounds` counts its turns of loops that the kernel bounds for each call: those of may_goto.

    `stack` maps the offsets -8, -16, ... from r10 to what is in those 8 bytes; a slot that is
    missing was never written.
    """

    __slots__ = (
        "callback",
        "callsite",
        "entry",
        "ident",
        "number",
        "regs",
        "rounds",
        "shared",
        "stack",
    )

    def __init__(
        self,
        number: int,
        callsite: int,
        entry: int,
        callback: Callback | None = None,
        ident: int = 0,
    ) -> None:
        self.number = number
        self.callsite = callsite
        self.entry = entry
        self.callback = callback
        self.ident = ident
        self.rounds = 0
        self.regs: list[Reg] = [NOT_INIT] * REGISTERS
        self.regs[FRAME_POINTER] = Pointer(RegType.PTR_TO_STACK, -1, frame=number)
        self.stack: dict[int, Slot] = {}
        self.shared = False

    def copy(self) -> Frame:
        """An independent frame; the stack is copied when either is written to."""
        other = Frame.__new__(Frame)
        other.number = self.number
        other.callsite = self.callsite
        other.entry = self.entry
        other.callback = self.callback
        other.ident = self.ident
        other.rounds = self.rounds
        other.regs = self.regs.copy()
        other.stack = self.stack
        other.shared = self.shared = True
        return other

    def put(self, base: int, slot: Slot, *, whole: bool = False) -> None:
        """Replace the 8 bytes at `base` by a new slot. `whole`: nothing of the old one is left,
        so that nobody who reads the new one reads that."""
        if self.shared:
            self.stack = self.stack.copy()
            self.shared = False
        if not whole:
            old = self.stack.get(base)
            if old is not None:
                slot.before = old if old.stored else old.before
        self.stack[base] = slot


@dataclass(frozen=True, slots=True)
class Regions:
    """Regions of code that the program opened by calls and must close: how deep it is in RCU read
    sections and in those without preemption, and the ids of saved interrupt states, in order."""

    rcu: int = 0
    preempt: int = 0
    irqs: tuple[int, ...] = ()


NO_REGIONS = Regions()


class LockKind(Enum):
    """Kinds of locks: plain, resilient, resilient with interrupts off."""

    SPIN = "spin"
    RES = "res"
    RES_IRQ = "res_irq"


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock that is held: the one of the value with this `id` (0: the only one) of a map, or
    without one of the program's object with the `id`."""

    map: MapSpec | None
    map_index: int
    id: int
    kind: LockKind = LockKind.SPIN


class PathNotes(Protocol):
    """What an observer remembers of a path."""

    def covers(self, new: Self) -> bool:
        """Whether exploring on from here need not be done again for a path with notes `new`."""


class State:
    """All frames, the innermost last, the references held as (id, pc that acquired it), and the
    regions that are open. `locks` are those held, in the order in which they were taken.

    `certain`: every run of the program comes here (no branch on the way could go both ways).
    `speculative`: only a mispredicted branch leads here.
    `notes`: what an observer remembers of the path, a value that never changes; copies share it.
    """

    __slots__ = (
        "certain",
        "frame",
        "frames",
        "locks",
        "notes",
        "refs",
        "regions",
        "speculative",
    )

    def __init__(
        self,
        frames: list[Frame],
        refs: tuple[tuple[int, int], ...],
        certain: bool,
        regions: Regions = NO_REGIONS,
    ) -> None:
        self.frames = frames
        self.frame = frames[-1]
        self.refs = refs
        self.certain = certain
        self.regions = regions
        self.notes: PathNotes | None = None
        self.locks: tuple[Lock, ...] = ()
        self.speculative = False

    def copy(self) -> State:
        """An independent state."""
        frames = [frame.copy() for frame in self.frames]
        other = State(frames, self.refs, self.certain, self.regions)
        other.notes = self.notes
        other.locks = self.locks
        other.speculative = self.speculative
        return other

    def push(self, frame: Frame) -> None:
        """Enter a function."""
        self.frames.append(frame)
        self.frame = frame

    def pop(self) -> Frame:
        """Leave the innermost function and give its frame."""
        left = self.frames.pop()
        self.frame = self.frames[-1]
        return left
