"""A run that pauses after any number of instructions, compiled or interpreted, is in the same
state, and goes on from there as if it had not paused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from random import Random

import pytest

from pybpfvm.engine import Paused, RunEnvironment, RunResult
from pybpfvm.errors import InputError, InternalError, Trap
from pybpfvm.fuzz.agreement import FakeRing, World
from pybpfvm.fuzz.raw_programs import BY_NUMBER, FAMILIES, NUMBERS, Case, generate
from pybpfvm.image import Image, ImageSnapshot
from pybpfvm.isa.opcodes import MAX_FRAMES, STACK_BYTES
from pybpfvm.jit.engine import JitEngine
from pybpfvm.memory import FRAME_STRIDE, Region
from pybpfvm.program import Program
from pybpfvm.vm.interp import Interpreter
from tests.jit.test_host_safety import program as program_of

# How a run ended: what it returned or why it trapped, instructions executed, more of the trap.
End = tuple[object, int, *tuple[object, ...]]


def ended(run: Callable[[], Paused | RunResult]) -> Paused | End:
    try:
        found = run()
    except Trap as trap:
        where = trap.program, trap.pc, trap.addr, trap.size, trap.regs
        return trap.kind, trap.insns, trap.detail, *where
    except InputError as error:
        return "refused", 0, str(error)
    return found if isinstance(found, Paused) else (found.r0, found.insns)


class Both:
    """Compiler and interpreter on the same image and frames, and a place to begin again from."""

    def __init__(self, image: Image, case: Case, ctx: int, packet: Region | None) -> None:
        self.image, self.case, self.ctx, self.packet = image, case, ctx, packet
        frames = image.memory.alloc_frames(MAX_FRAMES, STACK_BYTES)
        environment = self.environment()
        self.jit = JitEngine(image, BY_NUMBER, environment, stack=frames)
        self.interp = Interpreter(image, BY_NUMBER, environment, stack=frames)
        self.start = image.snapshot()

    def environment(self) -> RunEnvironment:
        clock = count(1000, 7)
        self.ring = FakeRing()
        return RunEnvironment(
            profile=self.case.profile,
            strict_ctx=self.case.strict_ctx,
            ring=self.ring if self.case.ring else None,
            now_ns=lambda: next(clock),
            may_goto_turns=self.case.turns,
            cpu=1,
        )

    def begin(self) -> None:
        """As at the start."""
        self.image.restore(self.start)
        self.jit.environment = self.interp.environment = self.environment()

    def now(self) -> tuple[ImageSnapshot, list[tuple[object, ...]]]:
        return self.image.snapshot(), self.ring.calls

    def to(self, engine: JitEngine | Interpreter, program: Program, insns: int) -> Paused | End:
        return ended(lambda: engine.run_to(program, self.ctx, insns, packet=self.packet))

    def on(self, paused: Paused, budget: int) -> Paused | End:
        return ended(lambda: self.interp.resume(paused, budget_insns=budget))

    def straight(self, program: Program, budget: int) -> End:
        run = self.interp.run
        end = ended(lambda: run(program, self.ctx, budget_insns=budget, packet=self.packet))
        assert not isinstance(end, Paused)
        return end

    def close(self) -> None:
        self.jit.close()
        self.interp.close()


@contextmanager
def both(case: Case) -> Iterator[Both]:
    case = replace(case, hooked=False, observed=False)
    with World(
        case, lambda image, environment: Interpreter(image, BY_NUMBER, environment)
    ) as world:
        made = Both(world.image, case, world.ctx.start, world.packet)
        yield made
        made.close()


def check(made: Both, program: Program, budget: int, points: list[int]) -> tuple[int, int, int]:
    """Pause at each of these points; how often that was in a run, how often in a callback, and how
    often compiled code could go on from there."""
    made.begin()
    end = made.straight(program, budget)
    after = made.now()
    paused_at = called_back = taken_up = 0
    for insns in points:
        made.begin()
        wanted = made.to(made.interp, program, insns)
        state = made.now()
        made.begin()
        found = made.to(made.jit, program, insns)
        assert found == wanted
        assert made.now() == state
        if not isinstance(found, Paused):
            assert found == end
            continue
        assert found.insns == insns
        paused_at += 1
        if not found.resumable:
            called_back += 1
            with pytest.raises(InternalError):
                made.interp.resume(found)
            made.begin()
            assert found.called_back is not None
            assert found.called_back < insns
            again = made.to(made.jit, program, found.called_back)
            assert isinstance(again, Paused)
            assert again.resumable
            assert again.frames == found.frames[: len(again.frames) - 1] + again.frames[-1:]
            found = again
        taken_up += check_further(made, program, found)
        made.begin()
        again = made.to(made.jit, program, found.insns)
        assert again == found
        assert made.on(found, budget) == end
        assert made.now() == after
    return paused_at, called_back, taken_up


def check_further(made: Both, program: Program, paused: Paused) -> bool:
    """Whether the compiled code could go on; to the same state as that of one who never paused."""
    insns = paused.insns + 23
    try:
        found = ended(lambda: made.jit.resume_to(paused, insns))
    except InternalError:
        return False
    state = made.now()
    made.begin()
    assert found == made.to(made.interp, program, insns)
    assert state == made.now()
    return True


@pytest.mark.parametrize("family", FAMILIES)
def test_every_point_of_short_runs(family: str) -> None:
    paused_at = taken_up = 0
    for seed in range(2):
        case = generate(seed, family, programs=3)
        with both(case) as made:
            for number in range(3):
                program = made.image.programs[case.object.programs[number].name]
                counts = check(made, program, 400, [*range(45)])
                paused_at += counts[0]
                taken_up += counts[2]
    assert paused_at > 60
    assert taken_up > 3


@pytest.mark.parametrize("family", ["branches", "calls", "helpers", "hostile"])
def test_some_points_of_others(family: str) -> None:
    random = Random(family)
    paused_at = 0
    for seed in range(40, 48):
        case = generate(seed, family, programs=4)
        with both(case) as made:
            for program in case.object.programs[:4]:
                program = made.image.programs[program.name]
                made.begin()
                insns = made.straight(program, 399)[1]
                points = [random.randint(0, insns) for _ in range(5)]
                paused_at += check(made, program, 399, points)[0]
    assert paused_at > 100


def made_of(text: str) -> Case:
    base = generate(0, "straight", programs=1)
    return replace(base, object=replace(base.object, programs=(program_of("made", text),)))


_NESTED = f"""
    r6 = 61
    r7 = 71
    r1 = 5
    call outer
    r0 += r6
    exit
outer:
    r6 = r1
    r8 = 82
    r1 = 3
    r2 = func back ll
    r3 = r10
    r4 = 0
    call {NUMBERS["loop"]}
    r0 += r8
    exit
back:
    r9 = r1
    *(u64 *)(r10 - 8) = r9
    call deepest
    r0 = 0
    exit
deepest:
    r7 = 74
    r0 = r7
    exit
"""


def test_frames_through_calls_and_callbacks() -> None:
    with both(made_of(_NESTED)) as made:
        program = made.image.programs["made"]
        assert check(made, program, 400, [*range(60)])[:2] == (39, 3 * 8)
        made.begin()
        inner = made.to(made.jit, program, 15)
        assert isinstance(inner, Paused)
        assert [frame.pc for frame in inner.frames] == [4, 13, 19, 22]
        assert inner.called_back == 10
        assert [frame.regs[6:10] for frame in inner.frames] == [
            (61, 71, 0, 0),
            (5, 71, 82, 0),
            (5, 71, 82, 0),
            (5, 74, 82, 0),
        ]
        r10 = [frame.regs[10] for frame in inner.frames]
        assert [addr - r10[0] for addr in r10] == [FRAME_STRIDE * depth for depth in range(4)]


_TWICE_BACK = f"""
    r6 = 6
    r7 = 2
again:
    r1 = 2
    r2 = func outer ll
    r3 = r10
    r4 = 0
    call {NUMBERS["loop"]}
    r7 += -1
    if r7 != 0 goto again
    exit
outer:
    r6 = r1
    r8 = 8
    r1 = 2
    r2 = func inner ll
    r3 = r10
    r4 = 0
    call {NUMBERS["loop"]}
    r0 = 0
    exit
inner:
    r9 = 9
    call deepest
    r0 = 0
    exit
deepest:
    r6 = r1
    exit
"""


def test_callbacks_of_callbacks_begin_at_the_first_call() -> None:
    """Twice the outermost helper is called, twice it calls back, twice each of these does."""
    with both(made_of(_TWICE_BACK)) as made:
        program = made.image.programs["made"]
        once = 7 + 2 * 6 + 2  # of outer
        turn = 7 + 2 * once
        paused_at, called_back, _ = check(made, program, 400, [*range(120)])
        assert (paused_at, called_back) == (2 + 2 * turn + 1, 2 * 2 * once)
        seen = [made.to(made.jit, program, insns) for insns in range(2 + 2 * turn)]
        assert {one.called_back for one in seen if isinstance(one, Paused)} == {None, 6, 6 + turn}
        assert max(len(one.frames) for one in seen if isinstance(one, Paused)) == 4


def test_the_engine_of_llvm_pauses_in_code_of_the_jit() -> None:
    pytest.importorskip("llvmlite")
    from pybpfvm.jit.llvm.engine import LlvmEngine

    with both(made_of(_NESTED)) as made:
        program = made.image.programs["made"]
        made.begin()
        end = made.straight(program, 400)
        wanted = made.to(made.interp, program, 15)
        assert isinstance(wanted, Paused)
        with LlvmEngine(made.image, BY_NUMBER, made.environment(), cache=None) as llvm:
            for _ in range(2):
                ran = llvm.run(program, made.ctx)
                assert (ran.r0, ran.insns) == end
                found = llvm.run_to(program, made.ctx, 15)
                assert isinstance(found, Paused)
                assert found.called_back == wanted.called_back
                for ours, theirs in zip(found.frames, wanted.frames, strict=True):
                    assert (ours.pc, ours.regs[6:10]) == (theirs.pc, theirs.regs[6:10])


def test_where_control_leaves_the_program() -> None:
    """A function whose last instruction is a call, and one that runs into the next."""
    text = "r6 = 1\ncall f\nf: r0 = 2\nif r6 == 1 goto g\nexit\ng: call h\nh: r1 = 1\nexit"
    with both(made_of(text)) as made:
        program = made.image.programs["made"]
        assert check(made, program, 400, [*range(12)])[:2] == (8, 0)


def test_budgets_are_those_of_the_whole_run() -> None:
    with both(made_of("r0 = 1\nr0 += 1\ngoto -2")) as made:
        program = made.image.programs["made"]
        paused = made.to(made.jit, program, 100_001)
        assert isinstance(paused, Paused)
        (frame,) = paused.frames
        assert (frame.pc, frame.regs[0], paused.insns) == (1, 1 + 50_000, 100_001)
        further = made.interp.resume_to(paused, 100_010)
        assert isinstance(further, Paused)
        assert further.insns == 100_010
        with pytest.raises(Trap, match="100100 instructions"):
            made.interp.resume(further, budget_insns=100_100)
