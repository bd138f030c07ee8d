"""Moments of a run: any of them, in any order, and what is seen between two."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from random import Random

import pytest

from pybpfvm.engine import Paused, RunEnvironment, RunResult
from pybpfvm.errors import Trap, TrapKind
from pybpfvm.fuzz.raw_programs import BY_NUMBER, NUMBERS
from pybpfvm.image import Image
from pybpfvm.isa.opcodes import MAX_FRAMES, STACK_BYTES
from pybpfvm.memory import RegionKind
from pybpfvm.program import BpfObject, MapSpec, MapType, Program
from pybpfvm.session import moments
from pybpfvm.session.moments import Moment, Moments, Watch
from pybpfvm.vm.interp import Interpreter
from tests.jit.test_host_safety import program as program_of

# Counts in a map under changing keys, from a loop, a local function and a callback; asks the clock.
_TEXT = f"""
    r6 = r1
    r7 = 0
again:
    r1 = r7
    call note
    r7 += 1
    if r7 != 12 goto again
    r1 = 5
    r2 = func back ll
    r3 = r10
    r4 = 0
    call {NUMBERS["loop"]}
    r0 = *(u64 *)(r6 + 0)
    exit
note:
    *(u64 *)(r10 - 16) = r1
    call {NUMBERS["ktime_get_ns"]}
    *(u64 *)(r10 - 8) = r0
    r1 = *(u64 *)(r10 - 16)
    r1 &= 7
    *(u32 *)(r10 - 16) = r1
    r1 = map[seen] ll
    r2 = r10
    r2 += -16
    r3 = r10
    r3 += -8
    r4 = 0
    call {NUMBERS["map_update_elem"]}
    exit
back:
    r6 = r2
    r1 += 100
    call note
    r0 = 0
    exit
"""
_SEEN = MapSpec("seen", MapType.LRU_HASH, 4, 8, 5)
_LOST = "r0 = 3\nr1 = 0\nr0 = *(u64 *)(r1 + 0)\nexit"
_FOREVER = "r0 += 1\ngoto -2"
_NAMES = {"made": _TEXT, "lost": _LOST, "forever": _FOREVER}


_PROGRAMS = tuple(program_of(name, text, {"seen": 0}) for name, text in _NAMES.items())
# What is told before an instruction: executed so far, program, pc, registers, depth.
_Told = tuple[int, str, int, tuple[int, ...], int]


class Made:
    """Moments of one program, and the same run interpreted step by step beside them."""

    def __init__(self, image: Image, name: str, budget: int) -> None:
        self.image = image
        self.program = image.programs[name]
        self.ctx = image.memory.alloc(8, RegionKind.CTX, "ctx")
        image.memory.write(self.ctx.start, bytes(range(8)))
        self.stack = image.memory.alloc_frames(MAX_FRAMES, STACK_BYTES)
        self.start = image.snapshot()
        self.budget = budget
        self.marks: list[object] = []
        self.moments = Moments(
            image,
            self.start,
            self.program,
            self.ctx.start,
            self.environment,
            mark=lambda: self.time,
            helpers=BY_NUMBER,
            stack=self.stack,
            budget_insns=budget,
        )

    def environment(self, mark: object) -> RunEnvironment:
        """The clock goes on from a mark, which is a time."""
        assert mark is None or isinstance(mark, int)
        self.marks.append(mark)
        self.time = mark or 5
        return RunEnvironment(now_ns=self.now)

    def now(self) -> int:
        self.time += 3
        return self.time

    def story(self) -> list[_Told]:
        """Every instruction of the run, by an interpreter that does nothing else."""
        seen: list[_Told] = []
        self.image.restore(self.start)
        with Interpreter(self.image, BY_NUMBER, self.environment(None), stack=self.stack) as engine:
            engine.hook = lambda p, pc, regs, depth: seen.append(
                (len(seen), p.name, pc, regs, depth)
            )
            with suppress(Trap):
                engine.run(self.program, self.ctx.start, budget_insns=self.budget)
        return seen


@contextmanager
def made(name: str, budget: int = 10_000) -> Iterator[Made]:
    with Image(BpfObject("moments", "", _PROGRAMS, (_SEEN,))) as image:
        one = Made(image, name, budget)
        with one.moments:
            yield one


@pytest.fixture(params=["near", "far"])
def near(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward by the interpreter where it is not far, or always anew."""
    if request.param == "far":
        monkeypatch.setattr(moments, "_NEAR", -1)


@pytest.mark.usefixtures("near")
def test_moments_in_any_order() -> None:
    with made("made") as one:
        story = one.story()
        assert len(story) > 250
        at = {}
        for insns in range(len(story)):
            moment = one.moments.at(insns)
            assert isinstance(moment, Paused)
            last = moment.frames[-1]
            assert (insns, last.program.name, last.pc, last.regs) == story[insns][:4]
            assert len(moment.frames) - 1 == story[insns][4]
            at[insns] = moment, one.image.snapshot()
        assert one.moments.at(len(story)) == RunResult(0x0706_0504_0302_0100, len(story))
        assert sum(not moment.resumable for moment, _ in at.values()) > 80
        for insns in Random(3).sample(range(len(story)), 60):
            moment = one.moments.at(insns)
            assert (moment, one.image.snapshot()) == at[insns]


def teller(seen: list[_Told]) -> Watch:
    def watch(insns: int, program: Program, pc: int, regs: tuple[int, ...], depth: int) -> bool:
        seen.append((insns, program.name, pc, regs, depth))
        return False

    return watch


def test_moments_that_are_kept() -> None:
    with made("made") as one:
        length = len(one.story())
        wanted = [(one.moments.at(insns), one.image.snapshot()) for insns in range(length + 1)]
        kept = []
        for insns in (0, 33, 34, 120, 180, 201, length - 4, 60):
            if one.moments.keep(insns):
                kept.append(insns)
        assert len(kept) >= 7
        assert not one.moments.keep(length)
        at = [found.paused.insns for found in one.moments._kept]
        assert at == sorted(at)
        assert all(any(0 <= there - insns < 120 for there in at) for insns in kept)
        one.marks.clear()
        for insns in Random(5).sample(range(length + 1), length):
            assert (one.moments.at(insns), one.image.snapshot()) == wanted[insns]
        assert len(one.marks) > 100  # not all by the interpreter
        assert len(set(one.marks)) >= 6


def test_each_instruction_between_two() -> None:
    with made("made") as one:
        story = one.story()
        after = one.moments.at(10_000), one.image.snapshot()
        for first, last in ((0, 10_000), (7, 8), (30, 30), (100, 230), (240, 260), (9_000, 9_001)):
            seen: list[_Told] = []
            moment = one.moments.walk(first, last, teller(seen))
            assert seen == story[first:last]
            now = moment, one.image.snapshot()
            assert now == (after if last >= len(story) else (one.moments.at(last), now[1]))


def test_a_watch_stops() -> None:
    with made("made") as one:
        story = one.story()
        calls = [n for n, _, pc, *_ in story if pc == story[3][2]]
        assert len(calls) == 12
        found: list[int] = []
        at = 0
        while True:
            moment = one.moments.walk(at, 10_000, lambda n, p, pc, r, d: pc == story[3][2])
            if not isinstance(moment, Paused):
                break
            assert moment.frames[-1].pc == story[3][2]
            found.append(moment.insns)
            at = moment.insns + 1
        assert found == calls


def test_ends_are_moments_too() -> None:
    with made("lost") as one:
        end = one.moments.at(50)
        assert isinstance(end, Trap)
        assert (end.kind, end.insns) == (TrapKind.NULL, 3)
        before = one.moments.at(2)
        assert isinstance(before, Paused)
        assert before.frames[-1].regs[0] == 3
        assert one.moments.walk(0, 9, lambda *_: False).__class__ is Trap
    with made("forever", budget=1_000_000) as one:
        whole = one.moments.at(1_000_000)
        assert isinstance(whole, Paused)
        assert whole.frames[-1].regs[0] == 500_000
        for end in (one.moments.at(1_000_001), _last(one.moments)):
            assert isinstance(end, Trap)
            assert (end.kind, end.insns) == (TrapKind.BUDGET, 1_000_000)


def _last(moments: Moments) -> Moment:
    return moments.walk(999_990, 2_000_000, lambda *_: False)
