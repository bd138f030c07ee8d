"""What the JIT costs beside the instructions themselves: compiling, entering, helpers, faults,
instrumentation.

Every figure is the median of the fastest quarter of many small measurements, as in `bench.engines`.
Compiling takes too long to be undisturbed: there, CPU time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from bench.engines import undisturbed
from bench.sides import PROGRAMS, EngineSide, Missing, jit_engine, syscall_profile
from pybpfvm.engine import RunEnvironment
from pybpfvm.errors import Trap
from pybpfvm.helpers.context import HelperContext
from pybpfvm.helpers.proto import ArgType, Helper, RetType
from pybpfvm.image import Image
from pybpfvm.isa.asm import assemble
from pybpfvm.jit.engine import JitEngine
from pybpfvm.jit.options import Checks
from pybpfvm.jit.state import Slot
from pybpfvm.memory import RegionKind
from pybpfvm.program import BpfObject, MapSpec, MapType, Program
from pybpfvm.recording import Recording
from pybpfvm.session.engines import jit_refusal
from pybpfvm.session.objects import helpers_of

Row = tuple[str, float, str]

_SIZES = (100, 1_000, 10_000)
_COMPILED_INSNS = 30_000  # about so many per size and way of checking
_REPEATS = 15
_CALLS = 1_000
_PLENTY = 1 << 40

# One branch in six instructions, loads, stores, a helper in twelve: what compilers of BPF emit.
_PIECE = (
    "r0 += r6\nr1 = r0\nr1 <<= 3\n*(u64 *)(r10 - 8) = r1\nr2 = *(u64 *)(r10 - 8)\n"
    "if r2 == 7 goto +0\nr6 ^= r2\nr6 *= 17\n*(u32 *)(r10 - 16) = r6\nr3 = *(u8 *)(r10 - 15)\n"
    "if w3 > 9 goto +0\ncall 14\n"
)
_ARRAY, _HASH = "counts", "table"

_NOTHING = 9_999


def _does_nothing(_: HelperContext, _1: int, _2: int, _3: int, _4: int, _5: int) -> int:
    return 0


# The least that a helper in Python can cost.
_nothing = Helper("nothing", (ArgType.ANYTHING,) * 2, RetType.INTEGER, _does_nothing, "")

# A loop of `r6` turns around what is measured; without anything it is the loop itself.
_LOOP = "r6 = {turns}\n{before}{body}r6 += -1\nif r6 != 0 goto -{back}\nexit"


def run() -> list[Row]:
    """All rows; none, and the reason printed, where the JIT can not run."""
    refused = jit_refusal()
    if refused is not None:
        print(f"skipped: {refused}")
        return []
    return [*_compiling(), *_entering(), *_helpers(), *_faults(), *_instrumentation()]


def _engine(image: Image, checks: Checks, *, counted: bool = True) -> JitEngine:
    profile = syscall_profile()
    environment = RunEnvironment(profile=profile)
    helpers = {**helpers_of(profile), _NOTHING: _nothing}
    return JitEngine(image, helpers, environment, checks=checks, counted=counted)


def _image(*programs: Program) -> Image:
    maps = (
        MapSpec(_ARRAY, MapType.ARRAY, 4, 8, 16),
        MapSpec(_HASH, MapType.HASH, 8, 8, 16),
    )
    return Image(BpfObject("bench", "", programs, maps))


def _program(text: str) -> Program:
    return Program("made", "syscall", assemble(text))


def _ns(call: Callable[[], object], times: int = _CALLS) -> float:
    """Nanoseconds of a call."""

    def once() -> float:
        start = time.perf_counter_ns()
        for _ in range(times):
            call()
        return times / (time.perf_counter_ns() - start)

    return 1 / undisturbed([once() for _ in range(_REPEATS)])


def _compiling() -> Iterator[Row]:
    ways: tuple[tuple[str, Checks, bool], ...] = (
        ("verified", Checks.NONE, False),
        ("sandboxed", Checks.EXACT, True),
        ("paged", Checks.PAGES, True),
    )
    for name, checks, counted in ways:
        for size in _SIZES:
            pieces = size // 12
            text = "r6 = 1\nr0 = 0\n" + _PIECE * pieces + "r0 = 0\n" * (size - 12 * pieces - 3)
            insns = assemble(text + "exit")
            times = []
            for _ in range(max(3, _COMPILED_INSNS // size)):
                # An engine compiles a program once: a new one each time.
                with _image() as image, _engine(image, checks, counted=counted) as engine:
                    start = time.thread_time()
                    engine.unit(Program("made", "syscall", insns))
                    times.append(1 / (time.thread_time() - start))
            took = 1e6 / undisturbed(times)
            yield f"compile {len(insns):,} instructions, {name}", took / 1e3, "ms"
            yield f"compile {len(insns):,} instructions, {name}, each", took / len(insns), "us"


def _entering() -> Iterator[Row]:
    program = _program("r0 = 0\nexit")

    def nothing(_: int) -> int | None:
        return 0

    with _image(program) as image, _engine(image, Checks.NONE) as engine:
        ctx = image.memory.alloc(8, RegionKind.CTX, "ctx").start
        engine.run(program, ctx)
        _, enter = engine._prepared(program)
        engine._state.words[Slot.FUEL] = _PLENTY
        yield "a Python function of one argument", _ns(partial(nothing, ctx)), "ns"
        yield "enter compiled code", _ns(partial(enter, ctx)), "ns"
        yield "Engine.run of two instructions", _ns(partial(engine.run, program, ctx)), "ns"


def _loop_ns(checks: Checks, before: str = "", body: str = "", *, counted: bool = False) -> float:
    """Nanoseconds of one turn of a loop over `body`."""
    turns = 20_000
    back = (body.count("\n") or 0) + body.count(" ll\n") + 2
    text = _LOOP.format(turns=turns, before=before, body=body, back=back)
    program = _program(text)
    with _image(program) as image, _engine(image, checks, counted=counted) as engine:
        ctx = image.memory.alloc(8, RegionKind.CTX, "ctx").start
        image.maps[_HASH].host_update(bytes(8), bytes(8))
        run = partial(engine.run, program, ctx, budget_insns=_PLENTY)
        run()
        return _ns(run, 1) / turns


def _helpers() -> Iterator[Row]:
    """Cost of a call: a loop with it less the loop without. Those that become native show here."""
    key = "*(u64 *)(r10 - 8) = 0\n"
    lookup = "r2 = r10\nr2 += -8\nr1 = map[{map}] ll\ncall 1\n"
    measured = (
        ("in Python, two arguments", "", f"call {_NOTHING}\n"),
        ("get_prandom_u32()", "", "call 7\n"),
        ("get_current_pid_tgid()", "", "call 14\n"),
        ("map_lookup_elem(array)", key, lookup.format(map=0)),
        ("map_lookup_elem(hash)", key, lookup.format(map=1)),
    )
    empty = _loop_ns(Checks.NONE)
    for name, before, body in measured:
        for way, checks in (("verified", Checks.NONE), ("sandboxed", Checks.EXACT)):
            took = _loop_ns(checks, before, body, counted=checks is not Checks.NONE)
            yield f"helper {name}, {way}", max(0.0, took - empty), "ns"


def _faults() -> Iterator[Row]:
    program = _program("r2 = *(u64 *)(r1 + 16384)\nexit")
    for name, checks in (("paged", Checks.PAGES), ("sandboxed", Checks.EXACT)):
        with _image(program) as image, _engine(image, checks) as engine:
            ctx = image.memory.alloc(8, RegionKind.CTX, "ctx").start

            def trap(
                engine: JitEngine = engine, program: Program = program, ctx: int = ctx
            ) -> None:
                try:
                    engine.run(program, ctx)
                except Trap:
                    return
                raise AssertionError("no fault")

            trap()
            if checks is Checks.PAGES:
                _, enter = engine._prepared(program)
                engine._state.words[Slot.FUEL] = _PLENTY
                yield "fault: signal and back to Python", _ns(partial(enter, ctx), 100) / 1e3, "us"
            yield f"fault: a Trap with its place, {name}", _ns(trap, 100) / 1e3, "us"


RECORDINGS = {
    "edges": Recording(edges=True),
    "counts": Recording(counts=True),
    "trace": Recording(trace=1 << 12),
}


def _instrumentation() -> Iterator[Row]:
    """Times with instrumentation as multiples of those without, in turn, program by program."""
    from bench.engines import slowdowns

    plain = "jit, verified, counted"
    made = {plain: jit_engine(checks=Checks.NONE)}
    for name, record in RECORDINGS.items():
        made[name] = jit_engine(checks=Checks.NONE, record=record)
    sides = []
    for name, make in made.items():
        try:
            sides.append(EngineSide(name, make))
        except Missing as missing:
            print(f"{name}: skipped: {missing}")
    try:
        for program in PROGRAMS[:5]:
            for name, ratio in slowdowns(sides, program).items():
                yield f"recording {name}, {program}", ratio, "x"
    finally:
        for side in sides:
            side.close()
