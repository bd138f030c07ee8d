"""What going to a moment of a run costs: executing up to it, the pause, memory there and back.

Each figure is the median of the fastest quarter of several measurements, as in `bench.engines`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from random import Random

from bench.engines import undisturbed
from bench.sides import syscall_profile
from pybpfvm.engine import Paused, RunEnvironment
from pybpfvm.image import Image
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.opcodes import MAX_FRAMES, STACK_BYTES
from pybpfvm.memory import PAGE, RegionKind
from pybpfvm.profiles.base import Profile
from pybpfvm.program import BpfObject, MapSpec, MapType, Program
from pybpfvm.session.engines import jit_refusal
from pybpfvm.session.moments import Moments
from pybpfvm.session.objects import helpers_of

Row = tuple[str, float, str]

_MIB = 1 << 20
_BIG = 32  # MiB of the map that is copied
_FAR = 10_000_000
_SHOWN = 20_000
_REPEATS = 15
_PROGRAMS = {
    "arithmetic": "r0 += r6\nr0 ^= 91\nr6 += 1\ngoto -4",
    "half memory": "*(u64 *)(r10 - 8) = r6\nr2 = *(u64 *)(r10 - 8)\nr0 += r2\nr6 += 1\ngoto -5",
    "helper in Python, one in a hundred": "call 5\n" + "r6 += 1\n" * 98 + "goto -100",
}


def run() -> list[Row]:
    """All rows; those of going far only where the JIT can run."""
    refused = jit_refusal()
    if refused is not None:
        print(f"seeking skipped: {refused}")
        return [*_copying()]
    return [*_seeking(), *_copying()]


def _ms(call: Callable[[], object]) -> float:
    def once() -> float:
        start = time.perf_counter()
        call()
        return 1 / (time.perf_counter() - start)

    return 1e3 / undisturbed([once() for _ in range(_REPEATS)])


def _around(profile: Profile, _: object) -> RunEnvironment:
    return RunEnvironment(profile=profile)


def _seeking() -> Iterator[Row]:
    for name, text in _PROGRAMS.items():
        program = Program("made", "syscall", assemble(text))
        with Image(BpfObject("bench", "", (program,), ())) as image:
            ctx = image.memory.alloc(8, RegionKind.CTX, "ctx")
            stack = image.memory.alloc_frames(MAX_FRAMES, STACK_BYTES)
            profile = syscall_profile()
            with Moments(
                image,
                image.snapshot(),
                image.programs["made"],
                ctx.start,
                partial(_around, profile),
                mark=lambda: None,
                helpers=helpers_of(profile),
                stack=stack,
                budget_insns=2 * _FAR,
            ) as moments:
                backwards = iter(range(_FAR, 0, -1))

                def seek(moments: Moments = moments, points: Iterator[int] = backwards) -> None:
                    if not isinstance(moments.at(next(points)), Paused):
                        raise AssertionError("the run has ended")

                yield f"step back after 10^7 instructions, {name}", _ms(seek), "ms"
                if not moments.keep(_FAR - 100_000):
                    raise AssertionError("a moment could not be kept")
                what = "step back after 10^7 instructions, 10^5 of them behind one that is kept"
                yield f"{what}, {name}", _ms(seek), "ms"
                if name == "arithmetic":
                    yield from _near(moments)


def _near(moments: Moments) -> Iterator[Row]:
    points = iter(range(400, 0, -1))
    yield "step back after 400 instructions", _ms(lambda: moments.at(next(points))) * 1e3, "us"
    ahead = _ms(lambda: moments.walk(0, _SHOWN, lambda *_: False))
    yield "show each instruction", ahead / _SHOWN * 1e6, "ns"


def _copying() -> Iterator[Row]:
    spec = MapSpec("big", MapType.ARRAY, 4, _MIB, _BIG)
    with Image(BpfObject("bench", "", (), (spec,))) as image:
        memory = image.memory
        (region,) = memory.regions()
        view = memory.view(region)
        kept = []

        def touch(share: int) -> None:
            for page in range(0, region.size, share * PAGE):
                view[page] = view[page] + 1 & 255

        def timed(what: Callable[[], object], before: Callable[[], object]) -> float:
            speeds = []
            for _ in range(_REPEATS):
                before()
                start = time.perf_counter()
                kept.append(what())
                speeds.append(1 / (time.perf_counter() - start))
                del kept[1:-1]
            return 1e3 / undisturbed(speeds) / _BIG

        empty = timed(image.snapshot, kept.clear)
        view[:] = Random(1).randbytes(len(view))
        yield "snapshot of memory that nobody wrote to, per MiB", empty, "ms"
        yield "first snapshot, per MiB", timed(image.snapshot, kept.clear), "ms"
        some = timed(image.snapshot, lambda: touch(64))
        yield "snapshot, one page in 64 written, per MiB", some, "ms"
        yield "snapshot, nothing written, per MiB", timed(image.snapshot, lambda: None), "ms"
        taken = image.snapshot()

        def restore() -> None:
            image.restore(taken)

        yield "restore, nothing written, per MiB", timed(restore, lambda: None), "ms"
        yield "restore, one page in 64 written, per MiB", timed(restore, lambda: touch(64)), "ms"
        yield "restore, all written, per MiB", timed(restore, lambda: touch(1)), "ms"
        yield "copy of bytes, per MiB", timed(lambda: bytes(view), lambda: None), "ms"
