"""The reference interpreter: the oracle that every other engine is compared with.

It is meant to be read: programs are prepared once (`prepare`), then `Run.execute` is a plain loop
over handlers (`operations`) whose arithmetic is the tables of `pybpfvm.isa.semantics`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence

from pybpfvm.engine import DEFAULT_BUDGET_INSNS, Hook, Paused, RunEnvironment, RunResult
from pybpfvm.errors import InternalError
from pybpfvm.helpers.proto import Helper
from pybpfvm.image import Image
from pybpfvm.isa.opcodes import MAX_FRAMES, STACK_BYTES
from pybpfvm.memory import Region
from pybpfvm.program import Program
from pybpfvm.recording import NOTHING, Recorded, Recording
from pybpfvm.vm.prepare import prepare
from pybpfvm.vm.recorder import Recorder
from pybpfvm.vm.run import PauseReached, Run
from pybpfvm.vm.step import Step

_KEPT = struct.Struct("<4Q")


class Interpreter:
    """Runs the programs of `image`; an Engine. A context manager that gives its stack back.

    `helpers` are the helpers by the numbers that programs call. `hook`, if set, is called before
    each instruction, `record` is what runs leave in `recorded`; without them there is no cost.
    `stack` are the frames, of AddressSpace.alloc_frames, if it is to share another's.
    """

    def __init__(
        self,
        image: Image,
        helpers: Mapping[int, Helper],
        environment: RunEnvironment,
        *,
        record: Recording = NOTHING,
        stack: Sequence[Region] | None = None,
    ) -> None:
        self.image = image
        self.environment = environment
        self.hook: Hook | None = None
        self._helpers = helpers
        self._recorder = Recorder(record) if record != NOTHING else None
        # Keyed by identity, with the program kept alive: programs hold mappings, so no hash.
        self._prepared: dict[int, tuple[Program, list[Step]]] = {}
        self._own_stack: list[Region] = []
        self._stack: Sequence[Region] = stack or ()
        self._running = False
        self._run_now: Run | None = None

    def run(
        self,
        program: Program,
        ctx_addr: int,
        *,
        budget_insns: int = DEFAULT_BUDGET_INSNS,
        packet: Region | None = None,
    ) -> RunResult:
        """Run `program` with r1 = `ctx_addr` until it exits: see Engine.run."""
        run = self._run(ctx_addr, budget_insns, packet)
        return self._executed(run, lambda: run.begin(program))

    def run_to(
        self, program: Program, ctx_addr: int, insns: int, *, packet: Region | None = None
    ) -> Paused | RunResult:
        """Pause when `insns` have been executed: see PausingEngine."""
        run = self._run(ctx_addr, insns, packet, pauses=True)
        try:
            return self._executed(run, lambda: run.begin(program))
        except PauseReached as reached:
            return reached.paused

    def resume(self, paused: Paused, *, budget_insns: int = DEFAULT_BUDGET_INSNS) -> RunResult:
        """Go on with a run that any engine on the same frames paused, as `run` would have: counts
        and the budget are those of all of it. Memory, maps and the environment must be as they
        were left. InternalError if it is not resumable."""
        run = self._run(paused.ctx_addr, budget_insns, paused.packet)
        return self._executed(run, lambda: _resumed(run, paused))

    def resume_to(self, paused: Paused, insns: int) -> Paused | RunResult:
        """As `resume`, but pause when `insns` have been executed, from the start of the run on."""
        run = self._run(paused.ctx_addr, insns, paused.packet, pauses=True)
        try:
            return self._executed(run, lambda: _resumed(run, paused))
        except PauseReached as reached:
            return reached.paused

    def _run(
        self, ctx_addr: int, budget_insns: int, packet: Region | None, *, pauses: bool = False
    ) -> Run:
        if self._running:
            raise InternalError("an interpreter runs one program at a time")
        self.make_stack()
        if self._recorder is not None:
            self._recorder.run_begins()
        return Run(
            self._steps_of,
            self.image,
            self._stack,
            self.environment,
            ctx_addr,
            budget_insns,
            packet,
            self.hook,
            self._recorder,
            pauses=pauses,
        )

    def kept_registers(self) -> bytes | None:
        """r6 to r9: see Engine."""
        return None if self._run_now is None else _KEPT.pack(*self._run_now.regs[6:10])

    def _executed(self, run: Run, begin: Callable[[], int]) -> RunResult:
        self._running = True
        self._run_now = run
        try:
            run.execute(begin())
        finally:
            self._running = False
        return RunResult(run.regs[0], run.executed)

    def make_stack(self) -> None:
        """Have the frames that runs need, which come with the first run otherwise."""
        if not self._stack:
            self._stack = self._own_stack = self.image.memory.alloc_frames(MAX_FRAMES, STACK_BYTES)

    @property
    def recorded(self) -> Recorded | None:
        """What runs left: see Engine.recorded."""
        return self._recorder

    def close(self) -> None:
        """Give the stack back; twice is fine."""
        stack, self._own_stack = self._own_stack, []
        self._stack = ()
        for region in stack:
            self.image.memory.free(region)

    def __enter__(self) -> Interpreter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _steps_of(self, program: Program) -> list[Step]:
        found = self._prepared.get(id(program))
        if found is None:
            found = (program, prepare(program, self.image, self._helpers))
            self._prepared[id(program)] = found
            if self._recorder is not None:
                self._recorder.number(program, found[1], self._helpers)
        return found[1]


def _resumed(run: Run, paused: Paused) -> int:
    if not paused.resumable:
        raise InternalError("a run that a helper called back is to be resumed")
    return run.take_up(paused)
