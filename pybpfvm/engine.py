"""What every engine takes and gives: the contract that interpreter and compilers share.

Registers. At entry r1 is the context pointer, r10 the end of the frame's 512 bytes, everything
else 0; a function that names r10 starts with its frame zeroed, the program's own and each
subprogram's; one that does not leaves it alone. (A kernel forbids programs to read what they did
not write; we define it.) A helper call leaves its result in r0 and 0 in
r1 to r5; so does the return of a subprogram, which also gives the caller back its r6 to r10.

Counting. Every executed instruction counts one, `lddw` too, callbacks' included; helpers count as
the call. An engine stops with Trap(BUDGET) before the first instruction above the budget.

Tail calls. The called program takes the place of the frame that called; the 34th of a run fails
with -ELOOP and execution goes on, as in the kernel. may_goto falls through to its loop
`MAY_GOTO_ITERATIONS` times a run, then leaves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Protocol

from pybpfvm.events import Observer
from pybpfvm.helpers.context import LoopPort, RingPort, UserPort
from pybpfvm.image import Image
from pybpfvm.memory import Region
from pybpfvm.profiles.base import Profile
from pybpfvm.program import Program
from pybpfvm.recording import Recorded

DEFAULT_BUDGET_INSNS = 1 << 24

# (program, pc, r0..r10, frames above the program's own), called before the instruction.
Hook = Callable[[Program, int, tuple[int, ...], int], None]


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run that ended by itself: `r0`, unsigned 64-bit, and `insns` executed."""

    r0: int
    insns: int


@dataclass(frozen=True, slots=True)
class PausedFrame:
    """A function that is being executed, and the `pc` in `program` at which it goes on; where a
    helper called back, the helper's.

    `regs` are r0 to r10, but for callers r0 to r5 are 0: they get back the others only. `astray`:
    behind `pc` control leaves the program, and why that is so.
    """

    program: Program
    pc: int
    regs: tuple[int, ...]
    astray: str | None = None


@dataclass(frozen=True, slots=True)
class Paused:
    """A run before its next instruction; what is not here is memory, maps and the environment.

    `frames` from the outermost to that which executes; `insns` have been executed. `called_back`
    is None, or the run is in a function that a helper called back, and so many instructions had
    been executed before the call of that helper (the outermost such). Then it can not be resumed:
    what is left of the helper is not here.
    """

    frames: tuple[PausedFrame, ...]
    insns: int
    may_goto_left: int
    tail_calls_left: int
    ctx_addr: int
    packet: Region | None
    called_back: int | None = None

    @property
    def resumable(self) -> bool:
        """Whether an interpreter can go on from here."""
        return self.called_back is None


def _nowhere(_: str) -> None:
    """Where trace output goes by default."""


def _seeded_u32() -> Callable[[], int]:
    return partial(Random(0).getrandbits, 32)


@dataclass(frozen=True, slots=True)
class RunEnvironment:
    """What surrounds the runs of an engine: the ABI and the sources of everything from outside.

    `profile` decides context accesses and return values (None: ordinary program, any). `ring` is
    the ring of BPF requests, `loop` the one that a program drives from inside an enter. `now_ns`
    and `random_u32` answer the helpers of those names; the default random source is seeded with
    0. `event_ns` is the clock of events, where that is not the programs'. `user` is how helpers
    reach user memory, where that is not the address space itself: compiled code then copies nothing
    by itself. `cpu` is the CPU programs believe to run on. `log` gets the lines of
    bpf_trace_printk, `observer` a HelperCalled for each call of a helper that is `heard` (None: of
    any); of others compiled code may do without Python. `may_goto_turns` is how often a run
    goes on at may_goto, MAY_GOTO_ITERATIONS by default: kernels that bound loops by time may end
    them earlier.
    """

    profile: Profile | None = None
    strict_ctx: bool = True
    ring: RingPort | None = None
    loop: LoopPort | None = None
    now_ns: Callable[[], int] = time.monotonic_ns
    random_u32: Callable[[], int] = field(default_factory=_seeded_u32)
    event_ns: Callable[[], int] | None = None
    user: UserPort | None = None
    cpu: int = 0
    log: Callable[[str], None] = _nowhere
    observer: Observer | None = None
    heard: frozenset[str] | None = None
    may_goto_turns: int | None = None

    def tells(self, helper: str) -> bool:
        """Whether somebody is told of calls of that helper."""
        return self.observer is not None and (self.heard is None or helper in self.heard)


class PausingEngine(Protocol):
    """An engine that can stop between two instructions."""

    environment: RunEnvironment

    def run_to(
        self, program: Program, ctx_addr: int, insns: int, *, packet: Region | None = None
    ) -> Paused | RunResult:
        """As Engine.run, but pause when `insns` have been executed and there is a next one.

        Nothing is promised of what such runs leave in `recorded`.
        """

    def resume_to(self, paused: Paused, insns: int) -> Paused | RunResult:
        """Go on with a run that any engine on the same frames paused, as `run_to` would have:
        counts are those of all of it. Memory, maps and the environment must be as they were left.
        InternalError if it is not resumable; compiled code goes on at the start of a block only.
        """


def trust_nobody(_: Program) -> bool:
    """For engines that are told which programs were verified: none was."""
    return False


class Engine(Protocol):
    """Runs programs of one image. One run at a time."""

    image: Image
    hook: Hook | None
    environment: RunEnvironment

    @property
    def recorded(self) -> Recorded | None:
        """What runs left behind, if the engine was made to record anything: see recording.py."""

    def run(
        self,
        program: Program,
        ctx_addr: int,
        *,
        budget_insns: int = DEFAULT_BUDGET_INSNS,
        packet: Region | None = None,
    ) -> RunResult:
        """Run `program` with r1 = `ctx_addr` until it exits.

        `packet` is what LD_ABS and LD_IND read. Raises Trap for what the program must not do,
        InputError for a program that can not be prepared (a map that is not there).
        """

    def kept_registers(self) -> bytes | None:
        """r6 to r9 of the program that calls a helper just now, 8 bytes each as the machine has
        them; None where compiled code does not tell."""

    def close(self) -> None:
        """Give the stack back; twice is fine."""
