"""One case on one engine after the other, each in a world of its own at the same addresses, and
what they did compared: results, traps, memory, helper calls, lines logged, ring requests.

`outcome` runs a case; `differences` compares two engines as far as they promise to agree.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from operator import is_
from types import TracebackType

from pybpfvm.engine import RunEnvironment
from pybpfvm.errors import InputError, Trap, TrapKind
from pybpfvm.events import Event, HelperCalled
from pybpfvm.fuzz.raw_programs import BY_NUMBER, POINTERS, Case, generate
from pybpfvm.fuzz.visible import insn
from pybpfvm.image import Image
from pybpfvm.isa.disasm import format_program
from pybpfvm.isa.opcodes import Kind, Pseudo
from pybpfvm.jit.engine import JitEngine
from pybpfvm.jit.options import Checks
from pybpfvm.maps.base import BpfMap, MapError
from pybpfvm.maps.live import LiveMap
from pybpfvm.maps.ringbuf import RingbufMap
from pybpfvm.memory import FRAME_STRIDE, Region, RegionKind
from pybpfvm.program import Program
from pybpfvm.vm.interp import Interpreter
from pybpfvm.vm.step import Step

Engine = Interpreter | JitEngine
Making = Callable[[Image, RunEnvironment], Engine]

CANARY = b"canary.."
_NOTHING = Program("nothing", "generated", (insn("mov64_k"), insn("exit")))
# Traps that engines without checks promise too, and those with pages.
_UNCHECKED_TRAPS = frozenset(
    {TrapKind.BUDGET, TrapKind.BAD_PC, TrapKind.BAD_INSN, TrapKind.BAD_HELPER, TrapKind.UNSUPPORTED}
)


def interpreter(image: Image, environment: RunEnvironment) -> Engine:
    """The reference."""
    return Interpreter(image, BY_NUMBER, environment)


class _Sharing(Interpreter):
    """Takes the steps of programs that an interpreter before prepared, and leaves its own.

    `kept` is for images alike: the same maps at the same addresses. Handles of functions depend on
    the other programs, so those that have some are always prepared anew.
    """

    kept: dict[int, tuple[Program, list[Step]]]

    def _steps_of(self, program: Program) -> list[Step]:
        found = self._prepared.get(id(program)) or self.kept.get(id(program))
        if found is not None:
            return found[1]
        steps = super()._steps_of(program)
        if not any(i.spec.kind is Kind.LDDW and i.src == Pseudo.FUNC for i in program.insns):
            self.kept[id(program)] = program, steps
        return steps


def interpreters() -> Making:
    """The reference, for one run of a case after the other: each prepares what is new to it."""
    kept: dict[object, dict[int, tuple[Program, list[Step]]]] = {}

    def make(image: Image, environment: RunEnvironment) -> Engine:
        engine = _Sharing(image, BY_NUMBER, environment)
        where = [
            (live.handle, live.lookup(bytes(live.spec.key_size), 0)) for live in _values(image)
        ]
        engine.kept = kept.setdefault((image.memory.base, *where), {})
        return engine

    return make


def _values(image: Image) -> list[BpfMap]:
    return [image.maps[name] for name in _NAMED]


def compiler(checks: Checks) -> Making:
    """The JIT with these checks."""

    def make(image: Image, environment: RunEnvironment) -> Engine:
        return JitEngine(image, BY_NUMBER, environment, checks=checks)

    return make


class FakeRing:
    """A RingPort that answers from what it is asked, and notes it."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def bpf_submit(self, sqe: bytes) -> int:
        """-1, 0 or 1, by the SQE's opcode."""
        self.calls.append(("submit", sqe))
        return sqe[0] % 3 - 1

    def bpf_emit(self, cq_idx: int, user_data: int, res: int, flags: int) -> int:
        """0 or -1, by the result's last bit."""
        self.calls.append(("emit", cq_idx, user_data, res, flags))
        return -(res & 1)

    def bpf_reap(self, cq_idx: int) -> bytes | int:
        """16 bytes that count on from call to call, or -2 from odd queues."""
        self.calls.append(("reap", cq_idx))
        return -2 if cq_idx & 1 else bytes(range(len(self.calls) % 200, 16 + len(self.calls) % 200))

    def bpf_requeue(self, source: int, target: int, most: int) -> int:
        """-1, 0 or 1, by the target."""
        self.calls.append(("requeue", source, target, most))
        return target % 3 - 1


@dataclass
class Outcome:
    """What the runs of a case did. `ends`: by run, how it ended; `memories`: a checksum of each
    region after it; `noted`: everything else in order; `regs` of traps by run; `broken`: how many
    runs of `ends` there are before the first trap that engines without checks do not promise."""

    ends: list[tuple[object, ...]] = field(default_factory=list)
    memories: list[tuple[tuple[int, int], ...]] = field(default_factory=list)
    noted: list[list[object]] = field(default_factory=list)
    regs: list[tuple[int, ...]] = field(default_factory=list)
    maps: list[object] = field(default_factory=list)
    broken: int | None = None


class World:
    """An image of the case with its memory and one engine. A context manager."""

    def __init__(self, case: Case, make: Making) -> None:
        self.case = case
        self.image = Image(case.object, cpus=2)
        memory = self.image.memory
        self.ctx = memory.alloc(len(case.ctx), RegionKind.CTX, "ctx")
        memory.write(self.ctx.start, case.ctx)
        self.packet: Region | None = None
        if case.packet is not None:
            self.packet = memory.alloc(len(case.packet), RegionKind.PACKET, "packet")
            memory.write(self.packet.start, case.packet)
        self.user = memory.alloc(4096, RegionKind.USER, "user")
        self.canary = memory.alloc(8192, RegionKind.HOST, "canary")
        for region in (self.user, self.canary):
            memory.write(region.start, CANARY * (region.size // len(CANARY)))
        self.noted: list[object] = []
        self._regions: list[Region] = []
        self._views: list[memoryview] = []
        self._starts: list[int] = []
        self._clock = count(1000, 7)
        self.ring = FakeRing()
        environment = RunEnvironment(
            profile=case.profile,
            strict_ctx=case.strict_ctx,
            ring=self.ring if case.ring else None,
            now_ns=lambda: next(self._clock),
            log=self.noted.append,
            observer=self._note if case.observed else None,
            may_goto_turns=case.turns,
            cpu=1,
        )
        self.engine = make(self.image, environment)
        self._fill_pointers()
        # The interpreter takes its stack at the first run: where a compiler took it, then.
        self.engine.run(_NOTHING, self.ctx.start)
        self.noted.clear()

    def _note(self, event: Event) -> None:
        assert isinstance(event, HelperCalled)
        self.noted.append(event)

    def _fill_pointers(self) -> None:
        memory = self.image.memory
        base, ctx, user = memory.base, self.ctx, self.user
        packet = self.packet or ctx
        jumps = self.image.maps.get("jumps")
        ends = [(region.start, region.end) for region in (ctx, packet, user, self.canary)]
        values = [memory.region_at(self.image.maps[name].lookup(bytes(4), 0)) for name in _NAMED]
        ends += [(region.start, region.end) for region in values if region is not None]
        found = [addr for pair in ends for addr in pair]
        frame = ctx.start + 0x20000  # about where frames are
        found += [
            0,
            self.image.maps["values"].handle,
            jumps.handle if jumps is not None else base + 0x10000,
            base,
            base - 8,
            base + (1 << 31),
            base + (1 << 32) - 4,
            base + (1 << 32),
            ctx.start + (1 << 32),
            ctx.start - (1 << 32),
            ctx.start & 0xFFFF_FFFF,
            ctx.start | 0xFFFF_FFFF << 32,
            frame - frame % FRAME_STRIDE,
            self.canary.start - base & 0xFFFF_FFFF,
            (1 << 63) + ctx.start,
            (1 << 64) - 8,
        ]
        chosen = (found * POINTERS)[:POINTERS]
        packed = b"".join((addr & (1 << 64) - 1).to_bytes(8, "little") for addr in chosen)
        self.image.maps["pointers"].host_update(bytes(4), packed)

    def run(self) -> Outcome:
        """Run the programs of the case in order."""
        outcome = Outcome()
        for number, budget in self.case.runs:
            self.run_one(outcome, self.case.object.programs[number], budget)
        outcome.maps = [_contents(live) for live in self.image.maps.values()]
        outcome.maps.append(self.ring.calls)
        return outcome

    def run_one(self, outcome: Outcome, program: Program, budget: int) -> None:
        """Run one program and note what it did."""
        if self.case.hooked:
            self.engine.hook = self._hook
        try:
            result = self.engine.run(
                program, self.ctx.start, budget_insns=budget, packet=self.packet
            )
            outcome.ends.append(("r0", result.r0, result.insns))
            outcome.regs.append(())
        except Trap as trap:
            outcome.ends.append(
                (
                    trap.kind,
                    trap.program,
                    trap.pc,
                    trap.addr,
                    trap.size,
                    trap.insns,
                    trap.detail,
                    trap.insn,
                    trap.region,
                )
            )
            outcome.regs.append(trap.regs)
            if outcome.broken is None and trap.kind not in _UNCHECKED_TRAPS:
                outcome.broken = len(outcome.ends) - 1
        except InputError as error:
            outcome.ends.append(("refused", str(error)))
            outcome.regs.append(())
        outcome.memories.append(self.memory())
        outcome.noted.append(list(self.noted))
        self.noted.clear()

    def _hook(self, program: Program, pc: int, regs: tuple[int, ...], depth: int) -> None:
        self.noted.append((program.name, pc, regs, depth))

    def memory(self) -> tuple[tuple[int, int], ...]:
        """A checksum of each region but for what engines keep for themselves."""
        memory = self.image.memory
        regions = memory.regions()
        if len(regions) != len(self._regions) or not all(map(is_, regions, self._regions)):
            self._regions = regions
            seen = [r for r in regions if r.kind is not RegionKind.HOST or r is self.canary]
            self._starts = [region.start for region in seen]
            self._views = [memory.view(region) for region in seen]
        return tuple(zip(self._starts, map(zlib.crc32, self._views), strict=True))

    def close(self) -> None:
        """Give everything back."""
        self._views.clear()
        self.engine.close()
        self.image.close()

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


_NAMED = ("values", "fixed", "odd", "pointers")


def _contents(live: object) -> object:
    """The elements of a map, in order."""
    if isinstance(live, RingbufMap):
        return live.drain()
    try:
        return list(live.elements(0)) if isinstance(live, LiveMap) else None
    except MapError as error:
        return error.errno


def outcome(case: Case, make: Making) -> Outcome:
    """What the case does on an engine."""
    with World(case, make) as world:
        return world.run()


def settled(case: Case, reference: Making = interpreter) -> tuple[Case, Outcome]:
    """The case without the runs that trap as engines without checks need not, and what it does."""
    done = outcome(case, reference)
    while done.broken is not None:
        ends = zip(case.runs, done.ends, strict=True)
        case = replace(case, runs=tuple(run for run, end in ends if _promised(end)))
        done = outcome(case, reference)
    return case, done


def _promised(end: tuple[object, ...]) -> bool:
    return not isinstance(end[0], TrapKind) or end[0] in _UNCHECKED_TRAPS


def compared(
    case: Case, checks: Checks, wanted: Outcome, reference: Making = interpreter
) -> tuple[int, str | None]:
    """How many runs of the JIT with these checks were compared with the reference's, and the first
    difference."""
    if checks is Checks.NONE and not case.tidy:
        return 0, None
    if checks is not Checks.EXACT and wanted.broken is not None:
        case, wanted = settled(case, reference)
    runs = len(case.runs)
    if runs == 0:
        return 0, None
    return runs, difference(case, wanted, outcome(case, compiler(checks)), checks)


def difference(case: Case, wanted: Outcome, got: Outcome, checks: Checks) -> str | None:
    """What the first difference is, with the program."""
    runs = len(case.runs)
    for number in range(runs):
        for what, ours, theirs in (
            ("end", wanted.ends[number], got.ends[number]),
            ("calls", wanted.noted[number], got.noted[number]),
            ("memory", wanted.memories[number], got.memories[number]),
            ("registers", wanted.regs[number], got.regs[number]),
        ):
            if what in ("calls", "registers") and checks is Checks.NONE and _seen(case, what):
                continue
            if ours != theirs:
                return _report(case, checks, number, what, ours, theirs)
    if wanted.maps != got.maps:
        return _report(case, checks, runs - 1, "maps", wanted.maps, got.maps)
    return None


def _seen(case: Case, what: str) -> bool:
    """Whether clobbered registers show: r1 to r5 behind calls are nobody's business."""
    return what == "registers" or case.hooked


def _report(case: Case, checks: Checks, number: int, what: str, wanted: object, got: object) -> str:
    program, budget = case.object.programs[case.runs[number][0]], case.runs[number][1]
    return "\n".join(
        (
            f"seed {case.seed} family {case.family} run {number} budget {budget} "
            f"checks {checks.name}: {what}",
            f"  interpreter {_short(wanted)}",
            f"  compiled    {_short(got)}",
            *format_program(program.insns, style="kernel"),
        )
    )


def _short(value: object) -> str:
    return str(value)[:1500]


@contextmanager
def world(seed: int, family: str, make: Making, programs: int = 16) -> Iterator[World]:
    """The world of a generated case."""
    with World(generate(seed, family, programs), make) as made:
        yield made
