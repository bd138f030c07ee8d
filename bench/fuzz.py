"""How fast `fuzz` is: executions a second of each target, of a core that is busy with nothing else.

Seconds are of processor time. Programs that are run on changed inputs are small ones: one that
reads numbers of its context, one that parses a packet, and the first example, which copies user
memory and uses a ring.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pybpfvm
from pybpfvm.fuzz.campaign import Budget, Campaign
from pybpfvm.fuzz.engine import EngineTarget
from pybpfvm.fuzz.loader import LoaderTarget
from pybpfvm.fuzz.program_inputs import Choice
from pybpfvm.fuzz.program_runs import ProgramTarget
from pybpfvm.fuzz.ring import RingTarget
from pybpfvm.fuzz.target import Target
from pybpfvm.fuzz.verifier import VerifierTarget
from pybpfvm.image import Image
from pybpfvm.isa.asm import assemble
from pybpfvm.profiles import PROFILES
from pybpfvm.profiles.detect import Detection
from pybpfvm.program import BpfObject, Program
from pybpfvm.session.engines import jit_refusal
from pybpfvm.session.objects import LoadedObject
from pybpfvm.verifier.verify import Options, verify

Row = tuple[str, float, str]

_SECONDS = 4.0
_JUDGED = 1_000
_HELLO = Path(__file__).parents[1] / "examples/01_hello/prog.v3.bpf.o"
_PROGRAMS = {
    "syscall": (
        "r0 = 0\nr2 = *(u32 *)(r1 + 0)\nif r2 > 100 goto +3\nr3 = *(u32 *)(r1 + 4)\n"
        "if r3 == 7 goto +1\nr0 = 1\nexit"
    ),
    "xdp": (
        "r2 = *(u32 *)(r1 + 0)\nr3 = *(u32 *)(r1 + 4)\nr4 = r2\nr4 += 14\n"
        "if r4 > r3 goto +4\nr5 = *(u16 *)(r2 + 12)\nif r5 != 8 goto +2\nr0 = 1\nexit\n"
        "r0 = 2\nexit"
    ),
}


def run() -> list[Row]:
    """All rows; those of compiled code only where the JIT can run."""
    rows = [*_judging(), _rate("verifier", partial(VerifierTarget, Choice(("near",))))]
    rows.append(_rate("loader", LoaderTarget))
    rows.append(_rate("ring, sequences", RingTarget))
    refused = jit_refusal()
    if refused is not None:
        print(f"programs skipped: {refused}")
        return rows
    rows.append(_rate("engine, generated", EngineTarget))
    for name in (*_PROGRAMS, "example 01_hello"):
        for coverage in (True, False):
            what = f"engine, {name}, {'with' if coverage else 'without'} coverage"
            rows.append(_rate(what, partial(_program, name, coverage)))
    return rows


def _program(name: str, coverage: bool) -> Target:
    if name not in _PROGRAMS:
        return ProgramTarget(pybpfvm.load(_HELLO, abi="iouring-v3"), coverage=coverage)
    profile = PROFILES[name]
    made = Program("small", name, assemble(_PROGRAMS[name]), license="GPL")
    image = Image(BpfObject("small.o", "", (made,), (), license="GPL"))
    obj = LoadedObject(image, profile, Detection(profile, (profile,), ()))
    return ProgramTarget(obj, coverage=coverage)


def _rate(name: str, make: Callable[[], Target], seconds: float = _SECONDS) -> Row:
    target = make()
    try:
        campaign = Campaign(target, shrink_seconds=0)
        start = time.process_time()
        report = campaign.run(Budget(seconds))
        took = time.process_time() - start
    finally:
        target.close()
    return name, report.executions / took, "executions/s"


def _judging() -> Iterator[Row]:
    """Generated programs made, and judged, without anything else."""
    choice = Choice(("near",))
    start = time.process_time()
    inputs = [choice.program(seed) for seed in range(_JUDGED)]
    yield "programs made", _JUDGED / (time.process_time() - start), "programs/s"
    objects = [(one.object(), one.profile) for one in inputs]
    options = Options(budget_insns=20_000)
    start = time.process_time()
    for obj, profile in objects:
        verify(obj.programs[0], obj, profile, options=options)
    yield "programs judged", _JUDGED / (time.process_time() - start), "programs/s"
