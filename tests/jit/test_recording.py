"""What runs leave behind when asked: edges, counts and traces, the same from both engines."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pybpfvm.engine import DEFAULT_BUDGET_INSNS, Engine, RunEnvironment
from pybpfvm.errors import InputError, Trap, TrapKind
from pybpfvm.fuzz.visible import VALUES_MAP, generate
from pybpfvm.helpers.proto import Helper
from pybpfvm.image import Image
from pybpfvm.jit.engine import JitEngine
from pybpfvm.jit.options import Checks
from pybpfvm.jit.recorder import RUN, Recorder
from pybpfvm.memory import RegionKind
from pybpfvm.profiles import PROFILES
from pybpfvm.program import BpfObject, MapSpec, MapType, Subprog
from pybpfvm.recording import (
    EDGE_MAP_BYTES,
    MAX_TRACE,
    NOTHING,
    Executed,
    Recorded,
    Recording,
    block_number,
)
from pybpfvm.session import Machine as Session
from pybpfvm.session.engines import jit_refusal, make_engine
from pybpfvm.vm.interp import Interpreter
from tests.support.vm import BASE_HELPERS, Machine

REFUSED = jit_refusal()
pytestmark = pytest.mark.skipif(REFUSED is not None, reason=str(REFUSED))

ALL = Recording(edges=True, counts=True, trace=100)
VALUES = MapSpec("values", MapType.ARRAY, key_size=4, value_size=64, max_entries=4)
PROGS = MapSpec("progs", MapType.PROG_ARRAY, 4, 4, 2, slots={0: "other"})

Making = Callable[[Image, Mapping[int, Helper], RunEnvironment, Recording], Engine]


def _interp(
    image: Image, helpers: Mapping[int, Helper], environment: RunEnvironment, record: Recording
) -> Engine:
    return Interpreter(image, helpers, environment, record=record)


def _jit(checks: Checks) -> Making:
    def make(
        image: Image, helpers: Mapping[int, Helper], environment: RunEnvironment, record: Recording
    ) -> Engine:
        return JitEngine(image, helpers, environment, checks=checks, record=record)

    return make


@dataclass
class Left:
    """What runs of a case left, and how they ended: r0 or the trap's kind and pc, and insns."""

    edges: bytes
    counts: dict[str, dict[int, int]]
    trace: Sequence[Executed]
    ends: list[tuple[object, ...]] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    """A program in assembly, what surrounds it, and the budgets of its runs."""

    text: str
    others: Mapping[str, str] = field(default_factory=dict)
    maps: Sequence[MapSpec] = ()
    subprogs: Sequence[Subprog] = ()
    budgets: Sequence[int] = (DEFAULT_BUDGET_INSNS,)
    ctx: bytes = bytes(16)
    packet: bytes | None = None
    profile: str | None = None

    def left(self, make: Making, record: Recording = ALL) -> Left:
        """Run it."""
        profile = PROFILES[self.profile] if self.profile else None
        environment = RunEnvironment(profile=profile)
        with Machine(
            self.text,
            others=self.others,
            maps=self.maps,
            subprogs=self.subprogs,
            ctx=self.ctx,
            packet=self.packet,
            environment=environment,
        ) as machine:
            engine = make(machine.image, BASE_HELPERS, environment, record)
            ends = []
            for budget in self.budgets:
                ends.append(
                    _end(
                        lambda budget=budget: engine.run(  # type: ignore[misc]
                            machine.program,
                            machine.ctx_region.start,
                            budget_insns=budget,
                            packet=machine.packet_region,
                        )
                    )
                )
            left = _left(engine)
            left.ends = ends
            engine.close()
        return left


def _end(run: Callable[[], object]) -> tuple[object, ...]:
    try:
        done = run()
    except Trap as trap:
        return trap.kind, trap.program, trap.pc, trap.insns
    return done.r0, done.insns  # type: ignore[attr-defined]


def _recorded(engine: Engine) -> Recorded:
    recorded = engine.recorded
    assert recorded is not None
    return recorded


def _left(engine: Engine) -> Left:
    recorded = _recorded(engine)
    counts = {name: dict(by_pc) for name, by_pc in recorded.counts.items()}
    return Left(recorded.edges, counts, list(recorded.trace))


def _insns(left: Left) -> int:
    """Instructions of all runs, as they were counted."""
    return sum(end[-1] for end in left.ends)  # type: ignore[misc]


def _sum(left: Left) -> int:
    return sum(sum(by_pc.values()) for by_pc in left.counts.values())


LOOP = "r0 = 0\nr1 = {turns}\nl:\nr0 += r1\nr1 -= 1\nif r1 != 0 goto l\nexit"
CALLS = """
  r6 = 3
  l:
  r1 = r6
  call f
  r6 -= 1
  if r6 != 0 goto l
  exit
  f:
  r6 = r1
  r6 *= 2
  if r6 > 4 goto g
  r1 += 1
  call h
  g:
  r0 = r6
  exit
  h:
  r0 = r1
  exit
"""
CALLBACK = """
  r1 = {turns}
  r2 = func f
  r3 = 7
  r4 = 0
  call loop
  r6 = r0
  r0 = r6
  exit
  f:
  r6 = r1
  r6 += r2
  {body}
  r0 = 0
  exit
"""
TAIL_CALL = "r6 = r1\nr7 = 5\nr1 = r6\nr2 = map[progs]\nr3 = {slot}\ncall tail_call\nr0 = 7\nexit"
SELF = "r9 = 3\nr2 = map[progs]\nr3 = 0\ncall tail_call\nr0 = 9\nexit"
STRAIGHT = "\n".join(["r1 = 1", *["r1 += r1"] * 99, "r0 = r1", "exit"])
ATOMICS = """
  r1 = 5
  *(u64 *)(r10 - 8) = 7
  r1 = atomic_fetch_add((u64 *)(r10 - 8), r1)
  r0 = 12
  r2 = 99
  r0 = cmpxchg_64(r10 - 8, r0, r2)
  lock *(u64 *)(r10 - 8) += r1
  r3 = load_acquire((u64 *)(r10 - 8))
  store_release((u32 *)(r10 - 16), r3)
  r4 = *(s16 *)(r10 - 8)
  exit
"""
DEEP = "call f\nexit\nf:\ncall f\nexit"


def _callback(turns: int, body: str = "", **options: object) -> Case:
    text = CALLBACK.format(turns=turns, body=body)
    subprogs = (Subprog("main", 0, 9), Subprog("f", 9, 9 + text.count("\n", text.index("f:")) - 2))
    return Case(text, subprogs=subprogs, **options)  # type: ignore[arg-type]


CASES = {
    "a loop": Case(LOOP.format(turns=1000)),
    "straight": Case(STRAIGHT),
    "straight, out of fuel in the middle": Case(STRAIGHT, budgets=range(104)),
    "a loop, out of fuel everywhere": Case(LOOP.format(turns=9), budgets=range(40)),
    "lddw": Case("r0 = 0x1122334455667788 ll\nr1 = 7 ll\nexit", budgets=(1, 2, 3)),
    "functions": Case(CALLS),
    "functions, out of fuel everywhere": Case(CALLS, budgets=range(60)),
    "too deep": Case(DEEP),
    "atomics": Case(ATOMICS),
    "callbacks": _callback(5),
    "callbacks, out of fuel everywhere": _callback(3, budgets=range(30)),
    "a trap in a callback": _callback(5, "r1 = *(u64 *)(r0 + 8)\nr1 += 1"),
    "a callback returns what it must not": _callback(5, "r0 = 3\nexit"),
    "no callback": Case("r1 = 5\nr2 = 77\nr3 = 0\nr4 = 0\ncall loop\nexit"),
    "a tail call": Case(
        TAIL_CALL.format(slot=0), others={"other": "r0 = 41\nr0 += 1\nexit"}, maps=(PROGS,)
    ),
    "a tail call to nothing": Case(
        TAIL_CALL.format(slot=1), others={"other": "exit"}, maps=(PROGS,)
    ),
    "34 tail calls": Case(TAIL_CALL.format(slot=0), others={"other": SELF}, maps=(PROGS,)),
    "tail calls, out of fuel everywhere": Case(
        TAIL_CALL.format(slot=0), others={"other": SELF}, maps=(PROGS,), budgets=range(40)
    ),
    "a tail call by what is no map": Case(TAIL_CALL.replace("map[progs]", "7").format(slot=0)),
    "a helper": Case("r6 = 3\ncall get_smp_processor_id\nr0 += 7\nr6 = r0\nexit"),
    "a helper that refuses its arguments": Case(
        "r6 = 3\nr6 += 1\nr1 = 5\nr2 = 8\ncall map_lookup_elem\nr0 += 7\nr6 = r0\nexit"
    ),
    "a load through NULL": Case("r6 = 3\nr1 = *(u64 *)(r0 + 8)\nr1 += 1\nr6 += 7\nexit"),
    "a store beside the frame": Case("r6 = 3\n*(u64 *)(r10 - 520) = r6\nr6 += 7\nexit"),
    "misaligned": Case("r6 = 3\nr1 = r10\nlock *(u64 *)(r10 - 12) += r6\nr6 += 7\nexit"),
    "accesses let in": Case(
        "r6 = map[values][0]+0\nr7 = 3\nl:\n*(u64 *)(r6 + 8) = r7\nr1 = *(u32 *)(r6 + 8)\nr7 -= 1\n"
        "if r7 != 0 goto l\nr0 = r1\nexit",
        maps=(VALUES,),
    ),
    "a trap in a block that is jumped to": Case(
        "r6 = 3\nif r6 == 3 goto a\nexit\na:\nr6 = 4\nr1 = *(u64 *)(r0 + 8)\nr1 += 1\nexit",
        budgets=range(7),
    ),
    "no such helper": Case("r6 = 3\ncall 9999\nr6 += 7\nexit"),
    "the frame pointer written": Case("r6 = 3\nr10 += 8\nr6 += 7\nexit"),
    "into nothing": Case("r6 = 3\nr6 += 1\nif r6 == 4 goto +77\nexit"),
    "into nothing at once": Case("goto +77\nexit", budgets=range(4)),
    "into another function": Case("r6 = 3\ncall f\nexit\nf:\nr0 = 1\ngoto -4"),
    "a call of nothing": Case("r6 = 3\nr6 += 1\ncall +77\nexit", budgets=range(6)),
    "off the end": Case("r6 = 3\nr6 += 1"),
    "may_goto": Case("r0 = 0\nl:\nmay_goto +2\nr0 += 1\ngoto l\nexit", budgets=(9, 100_000)),
    "packet loads": Case(
        "r6 = r1\nr0 = *(u8 *)skb[3]\nr7 = r0\nr0 = *(u16 *)skb[2]\nexit", packet=b"abcd"
    ),
    "a packet load outside": Case("r6 = r1\nr0 = *(u8 *)skb[9]\nr7 = r0\nexit", packet=b"abcd"),
    "a packet load outside, in a function": Case(
        "r6 = r1\ncall f\nr8 = r0\nexit\nf:\nr6 = r1\nr7 = 1\nr0 = *(u8 *)skb[9]\nr7 = r0\nexit",
        packet=b"abcd",
    ),
    "no packet": Case("r6 = r1\nr0 = *(u8 *)skb[9]\nr7 = r0\nexit"),
}


@pytest.mark.parametrize("checks", Checks)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_engines_record_alike(case: Case, checks: Checks) -> None:
    theirs = case.left(_interp)
    kinds = {end[0] for end in theirs.ends}
    if checks is Checks.NONE and kinds & _CHECKED:
        pytest.skip("ends in what only checked code stops")
    if checks is Checks.PAGES and TrapKind.OUT_OF_BOUNDS in kinds:
        pytest.skip("ends in what pages do not stop")
    ours = case.left(_jit(checks))
    assert ours.ends == theirs.ends
    assert ours.counts == theirs.counts
    assert ours.trace == theirs.trace
    assert ours.edges == theirs.edges


_CHECKED = frozenset(
    {TrapKind.OUT_OF_BOUNDS, TrapKind.NULL, TrapKind.MISALIGNED, TrapKind.STACK_DEPTH}
)


@pytest.mark.parametrize("make", [_interp, _jit(Checks.EXACT)], ids=["interp", "jit"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_counts_and_traces_add_up_to_what_runs_count(case: Case, make: Making) -> None:
    left = case.left(make, Recording(counts=True, trace=MAX_TRACE))
    assert _sum(left) == len(left.trace) == _insns(left)
    last = len(case.left(make).trace)
    assert case.left(make).trace == left.trace[len(left.trace) - last :]
    for name, by_pc in left.counts.items():
        for pc, count in by_pc.items():
            assert count == sum(one[:2] == (name, pc) for one in left.trace)


PROGRAMS = 150


@pytest.mark.parametrize("checks", Checks)
def test_engines_record_generated_programs_alike(checks: Checks) -> None:
    for seed in range(PROGRAMS):
        ours, theirs = _generated(seed, _jit(checks)), _generated(seed, _interp)
        assert ours == theirs, f"seed {seed}"
        assert _sum(ours) == _insns(ours)


def _generated(seed: int, make: Making) -> Left:
    generated = generate(seed)
    program = generated.program
    image = Image(BpfObject("generated.o", "", (program,), (VALUES_MAP,)), cpus=1)
    ctx = image.memory.alloc(16, RegionKind.CTX, "ctx")
    engine = make(image, BASE_HELPERS, RunEnvironment(), ALL)
    live = image.maps["values"]
    ends = []
    for budget in (DEFAULT_BUDGET_INSNS, seed, 7 * seed, DEFAULT_BUDGET_INSNS):
        live.update((0).to_bytes(4, "little"), generated.value, 0, 0)
        ends.append(_end(lambda budget=budget: engine.run(program, ctx.start, budget_insns=budget)))  # type: ignore[misc]
    left = _left(engine)
    left.ends = ends
    engine.close()
    image.close()
    return left


# What the words mean: said once by hand.

MAKERS = pytest.mark.parametrize("make", [_interp, _jit(Checks.EXACT)], ids=["interp", "jit"])


@MAKERS
def test_edges_join_blocks(make: Making) -> None:
    left = Case(LOOP.format(turns=3)).left(make)
    first, loop, end = (block_number("main", pc) for pc in (0, 2, 5))
    expected = bytearray(EDGE_MAP_BYTES)
    for before, block in ((0, first), (first, loop), (loop, loop), (loop, loop), (loop, end)):
        expected[before >> 1 ^ block] += 1
    assert left.edges == expected


@MAKERS
def test_counters_of_edges_wrap_around(make: Making) -> None:
    left = Case(LOOP.format(turns=1 + 256 + 5)).left(make)
    loop = block_number("main", 2)
    assert left.edges[loop >> 1 ^ loop] == 5


@MAKERS
def test_runs_add_up_until_reset(make: Making) -> None:
    with Machine("r0 = 1\nexit") as machine:
        engine = make(machine.image, BASE_HELPERS, machine.environment, ALL)
        recorded = _recorded(engine)
        for _ in range(2):
            engine.run(machine.program, machine.ctx_region.start)
        assert recorded.counts == {"main": {0: 2, 1: 2}}
        assert recorded.trace == [("main", 0, 1), ("main", 1, 0)] * 2
        assert recorded.edges[block_number("main", 0)] == 2
        recorded.reset()
        assert (recorded.counts, list(recorded.trace)) == ({}, [])
        assert recorded.edges == bytes(EDGE_MAP_BYTES)
        engine.run(machine.program, machine.ctx_region.start)
        assert recorded.counts == {"main": {0: 1, 1: 1}}
        engine.close()


@MAKERS
def test_a_trace_shows_what_instructions_left(make: Making) -> None:
    text = "r1 = 5\nw1 = -1\n*(u64 *)(r10 - 8) = r1\nr2 = *(u8 *)(r10 - 8)\nr0 = *(u64 *)(r0 + 1)"
    left = Case(text + "\nexit").left(make)
    values = [5, 0xFFFF_FFFF, 0, 0xFF, 0]
    assert left.trace == [("main", pc, value) for pc, value in enumerate(values)]


@MAKERS
def test_callbacks_come_before_the_call_that_made_them(make: Making) -> None:
    left = _callback(2).left(make)
    pcs = [one.pc for one in left.trace]
    assert pcs == [0, 1, 3, 4, 9, 10, 11, 12, 9, 10, 11, 12, 5, 6, 7, 8]
    assert left.trace[12] == ("main", 5, 2)


@MAKERS
@pytest.mark.parametrize("size", [1, 2, RUN - 1, RUN, RUN + 1, 3 * RUN + 5])
def test_a_trace_is_as_long_as_asked(make: Making, size: int) -> None:
    for text in (STRAIGHT, LOOP.format(turns=99)):
        case = Case(text, budgets=(DEFAULT_BUDGET_INSNS, 50, DEFAULT_BUDGET_INSNS))
        whole = case.left(make, Recording(trace=MAX_TRACE)).trace
        assert case.left(make, Recording(trace=size)).trace == whole[-size:]


@MAKERS
def test_a_return_value_refused_is_recorded_once(make: Making) -> None:
    profile = next(one for one in PROFILES.values() if one.ring is not None and one.returns)
    case = Case("r0 = 12345\nexit", profile=profile.name, ctx=bytes(profile.ctx_bytes))
    left = case.left(make)
    assert left.ends == [(TrapKind.BAD_RETURN, "main", 1, 2)]
    assert left.trace == [("main", 0, 12345), ("main", 1, 0)]
    assert left.counts == {"main": {0: 1, 1: 1}}


def test_hooks_see_recorded_runs() -> None:
    for make in (_interp, _jit(Checks.EXACT)):
        with Machine("r0 = 1\nr0 += 1\nexit") as machine:
            engine = make(machine.image, BASE_HELPERS, machine.environment, ALL)
            seen: list[int] = []
            engine.hook = lambda program, pc, regs, depth: seen.append(pc)  # noqa: B023
            engine.run(machine.program, machine.ctx_region.start)
            assert seen == [one.pc for one in _recorded(engine).trace] == [0, 1, 2]
            engine.close()


def test_block_numbers_are_the_same_in_every_process() -> None:
    ask = "from pybpfvm.recording import block_number as n; print(n('main', 0), n('f', 7))"
    told = subprocess.run(
        [sys.executable, "-c", ask], env={"PYTHONHASHSEED": "77"}, capture_output=True, check=True
    )
    assert told.stdout.split() == [b"%d" % block_number("main", 0), b"%d" % block_number("f", 7)]
    assert len({block_number("main", pc) for pc in range(300)}) > 295


# Off.


@pytest.mark.parametrize("checks", Checks)
def test_code_that_records_nothing_is_the_code_without(
    checks: Checks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of code that counts and traces when those pieces are empty; edges also change
    where jumps lead, so of them the next test."""
    record = Recording(counts=True, trace=100)
    for case in CASES.values():
        off = _code(case, checks, NOTHING)
        with monkeypatch.context() as patch:
            for name in ("count_block", "record"):
                patch.setattr(f"pybpfvm.jit.recorder.Recorder.{name}", lambda *_: b"")
            patch.setattr("pybpfvm.jit.emit.Emitter._take_room", lambda *_: None)
            assert _code(case, checks, record) == off
        assert len(_code(case, checks, record)) > len(off)


def test_off_is_the_program_and_its_fuel() -> None:
    off = _code(Case(LOOP.format(turns=9)), Checks.NONE, NOTHING)
    expected = (
        "4983e902 0f82{l} 33c0 bf09000000 {nops} 4983e903 0f82{l} 4803c7 4883ef01 4885ff 75ea"
    )
    pattern = expected.replace(" ", "").replace("{l}", "[0-9a-f]{8}").replace("{nops}", "(..)*?")
    assert re.search(pattern + "4983e901" + "0f82[0-9a-f]{8}" + "c3", off.hex())


def _code(case: Case, checks: Checks, record: Recording) -> bytes:
    with Machine(case.text, others=case.others, maps=case.maps, subprogs=case.subprogs) as machine:
        engine = JitEngine(
            machine.image, BASE_HELPERS, RunEnvironment(), checks=checks, record=record
        )
        if record == NOTHING:  # what comes behind lies where it does beside one that records
            Recorder(Recording(trace=100), machine.image.memory, engine._state)
        code = bytes(engine.unit(machine.program).code.data)
        engine.close()
    return code


def test_engines_that_record_nothing_have_nothing_to_show() -> None:
    with Machine("exit") as machine:
        before = machine.image.memory.committed_bytes
        for choice in ("interp", "jit"):
            engine = make_engine(choice, machine.image, BASE_HELPERS, RunEnvironment())
            assert engine.recorded is None
            engine.close()
        engine = make_engine("jit", machine.image, BASE_HELPERS, RunEnvironment(), record=ALL)
        assert engine.recorded is not None
        engine.run(machine.program, machine.ctx_region.start)
        engine.close()
        assert machine.image.memory.committed_bytes == before


@pytest.mark.parametrize("length", [-1, MAX_TRACE + 1])
def test_a_trace_has_bounds(length: int) -> None:
    with pytest.raises(InputError):
        Recording(trace=length)


# Host API.


def test_runs_of_loaded_programs_are_recorded() -> None:
    frame = bytes(12) + b"\x08\0\x45\0" + bytes(30)
    path = Path(__file__).parents[1] / "ordinary" / "missing.bpf.o"
    found: list[tuple[bytes, Mapping[str, Mapping[int, int]]]] = []
    for engine in ("interp", "jit"):
        with Session() as machine:
            loaded = machine.load(path)
            program = loaded["past_the_end"]
            assert loaded.recorded is None
            with pytest.raises(Trap) as caught:
                program.run(data=frame, engine=engine, record=ALL)
            assert loaded.recorded is not None
            trap = caught.value
            assert loaded.recorded.trace[-1] == (trap.program, trap.pc, 0)
            found.append((loaded.recorded.edges, loaded.recorded.counts))
            with pytest.raises(Trap):
                program.run(data=frame, engine=engine)
            assert loaded.recorded is None
    assert found[0] == found[1]
