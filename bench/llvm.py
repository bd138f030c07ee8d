"""What compiling through LLVM costs, by size and way of checking, and what the cache saves.

CPU time, the least of a few: the parts are emitting IR, LLVM, and linking onto pages.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from bench.sides import syscall_profile
from pybpfvm.engine import RunEnvironment
from pybpfvm.image import Image
from pybpfvm.isa.asm import assemble
from pybpfvm.jit.options import Checks
from pybpfvm.program import BpfObject, Program
from pybpfvm.session.engines import jit_refusal
from pybpfvm.session.objects import helpers_of

Row = tuple[str, float, str]

_SIZES = (100, 1_000, 10_000)
_REPEATS = 3
# One branch in six instructions, loads, stores through pointers, a helper in twelve.
_PIECE = (
    "r7 += r8\nr2 = *(u32 *)(r6 + 4)\nr8 ^= r2\nr7 <<= 3\nif r8 > {} goto +1\nr8 *= 17\n"
    "*(u64 *)(r10 - 8) = r7\nr3 = *(u8 *)(r10 - 7)\nr7 -= r3\n*(u32 *)(r6 + 8) = r8\n"
    "if w3 > 9 goto +0\ncall 14\n"
)
_WAYS = (
    ("verified", Checks.NONE, False),
    ("verified, counted", Checks.NONE, True),
    ("sandboxed", Checks.EXACT, True),
    ("paged", Checks.PAGES, False),
)


def run() -> list[Row]:
    """All rows; none, and the reason printed, where llvmlite is missing."""
    if find_spec("llvmlite") is None or jit_refusal() is not None:
        print(f"skipped: {jit_refusal() or 'the extra llvm is not installed'}")
        return []
    return [*_compiling(), *_cached()]


def program(insns: int) -> Program:
    """A program of about so many instructions."""
    pieces = "".join(_PIECE.format(number) for number in range(insns // 12))
    rest = "r7 += 1\n" * (insns % 12)
    return Program(
        "made", "syscall", assemble(f"r6 = r1\nr7 = 1\nr8 = 2\n{pieces}{rest}r0 = r7\nexit")
    )


def _seconds(made: Program, checks: Checks, *, counted: bool, folder: Path | None = None) -> float:
    from pybpfvm.jit.llvm.cache import ObjectCache
    from pybpfvm.jit.llvm.engine import LlvmEngine

    helpers = helpers_of(syscall_profile())
    cache = ObjectCache(folder) if folder is not None else None
    with (
        Image(BpfObject("bench", "", (made,), ())) as image,
        LlvmEngine(
            image, helpers, RunEnvironment(), checks=checks, counted=counted, cache=cache
        ) as engine,
    ):
        start = time.thread_time()
        engine.unit(made)
        return time.thread_time() - start


def _compiling() -> Iterator[Row]:
    for name, checks, counted in _WAYS:
        for size in _SIZES:
            made = program(size)
            least = min(_seconds(made, checks, counted=counted) for _ in range(_REPEATS))
            each = 1e6 * least / len(made.insns)
            yield f"LLVM, {len(made.insns):,} instructions, {name}", 1e3 * least, "ms"
            yield f"LLVM, {len(made.insns):,} instructions, {name}, each", each, "us"


def _cached() -> Iterator[Row]:
    made = program(1_000)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        times = [_seconds(made, Checks.NONE, counted=True, folder=place) for _ in range(4)]
    yield "LLVM, 1,000 instructions, verified, counted, from the cache", 1e3 * min(times[1:]), "ms"
