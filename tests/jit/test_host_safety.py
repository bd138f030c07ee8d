"""What a reviewer once got through: programs that left their object or their frames, processes,
threads and collections that met compiled code at a bad moment."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from pybpfvm.engine import Engine, RunEnvironment
from pybpfvm.errors import InputError, InternalError, Trap, TrapKind
from pybpfvm.helpers.context import HelperContext
from pybpfvm.helpers.proto import Helper, RetType
from pybpfvm.helpers.table import HELPERS
from pybpfvm.image import Image
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.codec import pcs
from pybpfvm.jit.engine import JitEngine
from pybpfvm.jit.options import Checks
from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.outline import Outline
from pybpfvm.profiles import profile_named
from pybpfvm.program import BpfObject, MapSpec, MapType, Program, Subprog
from pybpfvm.session.engines import jit_refusal
from pybpfvm.vm.interp import Interpreter
from tests.jit.test_faults import Bench

pytestmark = pytest.mark.skipif(jit_refusal() is not None, reason=str(jit_refusal()))

_TAIL_CALL, _LOOP, _SLEEP = 12, 181, 1000
_MARK = b"\xff" * 4096


def _sleep(ctx: HelperContext, _1: int, _2: int, _3: int, _4: int, _5: int) -> int:
    time.sleep(0.3)
    return 0


HELPERS_BY_NUMBER = {
    _TAIL_CALL: HELPERS["tail_call"],
    _LOOP: HELPERS["loop"],
    _SLEEP: Helper("sleep", (), RetType.INTEGER, _sleep, "Lets other threads run."),
}

Make = Callable[[Image], Engine]


def _interp(image: Image) -> Engine:
    return Interpreter(image, HELPERS_BY_NUMBER, RunEnvironment())


def _jit(checks: Checks) -> Make:
    def make(image: Image) -> Engine:
        return JitEngine(image, HELPERS_BY_NUMBER, RunEnvironment(), checks=checks)

    return make


ENGINES = [
    pytest.param(_interp, id="interp"),
    pytest.param(_jit(Checks.EXACT), id="sandboxed"),
    pytest.param(_jit(Checks.PAGES), id="paged"),
    pytest.param(_jit(Checks.NONE), id="verified"),
]


@pytest.fixture
def memory() -> Iterator[AddressSpace]:
    with AddressSpace() as made:
        yield made


def program(name: str, text: str, maps: Mapping[str, int] | None = None) -> Program:
    insns = assemble(text, maps=maps)
    starts = pcs(insns)
    functions = Outline(Program(name, "test", insns)).functions
    ends = [*functions[1:], starts[-1] + insns[-1].slots]
    subs = tuple(Subprog(f"{name}{a}", a, b) for a, b in zip(functions, ends, strict=True))
    return Program(name, "test", insns, subs)


def _trap(engine: Engine, called: Program, memory: AddressSpace) -> Trap:
    ctx = memory.alloc(8, RegionKind.CTX, "context")
    others = [memory.alloc(4096, RegionKind.RING, f"neighbour {n}") for n in range(8)]
    for other in others:
        memory.write(other.start, _MARK)
    with pytest.raises(Trap) as caught:
        engine.run(called, ctx.start, budget_insns=10_000)
    assert all(memory.read(other.start, 4096) == _MARK for other in others)
    return caught.value


@pytest.mark.parametrize("make", ENGINES)
def test_no_tail_call_into_another_object(make: Make, memory: AddressSpace) -> None:
    """The handle of its program array can be guessed, and its functions save other registers."""
    spec = MapSpec("jmp", MapType.PROG_ARRAY, 4, 4, 1, slots={0: "other"})
    other = program("other", "r0 = 7\nexit")
    foreign = Image(BpfObject("foreign", "", (other,), (spec,)), memory)
    text = f"""
        call f
        exit
    f:  r6 = 0x41414141 ll
        r2 = {foreign.maps["jmp"].handle:#x} ll
        r3 = 0
        call {_TAIL_CALL}
        exit
    """
    image = Image(BpfObject("hostile", "", (program("p", text),), ()), memory)
    trap = _trap(make(image), image.programs["p"], memory)
    assert trap.kind is TrapKind.BAD_HELPER_ARG
    assert "another object" in trap.detail


def _nested(levels: int, last: str) -> str:
    """A program that calls so many functions into one another."""
    calls = "".join(f"f{n}: call f{n + 1}\nexit\n" for n in range(1, levels))
    return f"r6 = r1\ncall f1\nexit\n{calls}f{levels}: {last}\n"


@pytest.mark.parametrize("make", ENGINES)
def test_tail_calls_do_not_make_more_frames_than_there_are(
    make: Make, memory: AddressSpace
) -> None:
    spec = MapSpec("jmp", MapType.PROG_ARRAY, 4, 4, 1, slots={0: "second"})
    leave = f"r1 = r6\nr2 = map[jmp] ll\nr3 = 0\ncall {_TAIL_CALL}\nexit"
    first = Program("first", "test", assemble(_nested(5, leave), maps={"jmp": 0}))
    second = program("second", _nested(7, "*(u64 *)(r10 - 8) = 1\nr0 = 0\nexit"))
    image = Image(BpfObject("deep", "", (first, second), (spec,)), memory)
    assert _trap(make(image), first, memory).kind is TrapKind.STACK_DEPTH


@pytest.mark.parametrize("make", ENGINES)
def test_a_function_named_elsewhere_counts_its_frames(make: Make, memory: AddressSpace) -> None:
    """One program of the object names it, another has it called back from seven frames deep."""
    inner = "".join(f"f{n}: call f{n + 1}\nr0 = 0\nexit\n" for n in range(7))
    naming = program(
        "naming", f"r0 = func f0 ll\nexit\n{inner}f7: *(u64 *)(r10 - 8) = 1\nr0 = 0\nexit"
    )
    handle = memory.base + 0x10000  # the first that is given out
    back = f"r1 = 1\nr2 = {handle:#x} ll\nr3 = 0\nr4 = 0\ncall {_LOOP}\nexit"
    calling = program("calling", _nested(6, back))
    image = Image(BpfObject("two", "", (naming, calling), ()), memory)
    engine = make(image)
    ctx = memory.alloc(8, RegionKind.CTX, "context")
    assert engine.run(naming, ctx.start).r0 == handle
    assert _trap(engine, calling, memory).kind is TrapKind.STACK_DEPTH


def test_one_thread_at_a_time(memory: AddressSpace) -> None:
    image = Image(BpfObject("p", "", (program("p", f"call {_SLEEP}\nexit"),), ()), memory)
    ctx = memory.alloc(8, RegionKind.CTX, "context")
    with JitEngine(image, HELPERS_BY_NUMBER, RunEnvironment()) as engine:
        first = threading.Thread(target=engine.run, args=(image.programs["p"], ctx.start))
        first.start()
        time.sleep(0.1)
        with pytest.raises(InternalError, match="one program at a time"):
            engine.run(image.programs["p"], ctx.start)
        with pytest.raises(InternalError, match="closed while it runs"):
            memory.close()
        with pytest.raises(InternalError, match="closed while it runs"):
            memory.close()  # as refused as the first time
        first.join()
        assert engine.run(image.programs["p"], ctx.start).r0 == 0


def test_parent_and_child_fault_at_the_same_time() -> None:
    parent = Bench()
    assert parent.trap() == "NULL"
    child = os.fork()
    end = time.monotonic() + 0.5
    if child == 0:
        failed = 1
        try:
            mine = Bench()
            while time.monotonic() < end:
                assert mine.trap() == "NULL"
                assert mine.run("good") == 1000
            failed = 0
        finally:
            os._exit(failed)
    while time.monotonic() < end:
        assert parent.trap() == "NULL"
        assert parent.run("good") == 1000
    assert os.waitpid(child, 0)[1] == 0
    parent.close()


def test_engines_that_nobody_closes() -> None:
    """The collector takes them apart in any order; freed memory is overwritten to show it."""
    code = """
import gc
from pybpfvm.engine import RunEnvironment
from pybpfvm.image import Image
from pybpfvm.isa.asm import assemble
from pybpfvm.jit.engine import JitEngine
from pybpfvm.memory import RegionKind
from pybpfvm.program import BpfObject, Program
for _ in range(10):
    programs = tuple(Program(f"p{n}", "x", assemble("r0 = 1\\nexit")) for n in range(9))
    image = Image(BpfObject("o", "", programs, ()))
    ctx = image.memory.alloc(8, RegionKind.CTX, "context")
    engine = JitEngine(image, {}, RunEnvironment())
    for program in programs:
        engine.run(program, ctx.start)
    del engine, image
    gc.collect()
print("survived")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONMALLOC": "malloc", "MALLOC_PERTURB_": "2"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "survived\n"), done.stderr


def test_a_second_context_is_judged_anew(memory: AddressSpace) -> None:
    """What the first run's context allows says nothing of another region that was context."""
    code = "r2 = *(u64 *)(r1 + 0)\nr2 = *(u64 *)(r2 + 0)\nr0 = 0\nexit"
    image = Image(BpfObject("p", "", (program("p", code),), ()), memory)
    environment = RunEnvironment(profile=profile_named("iouring-v3"))
    contexts = [memory.alloc(16, RegionKind.CTX, f"context {n}") for n in range(2)]
    seen = []
    for engine in (
        Interpreter(image, {}, environment),
        JitEngine(image, {}, environment),
    ):
        for mine, named in ((0, 0), (1, 0)):
            memory.write(contexts[mine].start, contexts[named].start.to_bytes(8, "little"))
            try:
                seen.append(str(engine.run(image.programs["p"], contexts[mine].start)))
            except Trap as trap:
                seen.append(trap.kind.name)
    assert seen[:2] == seen[2:]
    assert seen[1] == "CTX_ACCESS"


def test_a_refused_engine_leaves_nothing() -> None:
    with AddressSpace(limit_bytes=5 * 4096) as memory:
        image = Image(BpfObject("p", "", (program("p", "r0 = 0\nexit"),), ()), memory)
        for _ in range(3):
            with pytest.raises(InputError, match="exceed the memory limit"):
                JitEngine(image, {}, RunEnvironment())
            assert memory.regions() == []
            assert memory._on_free == []
