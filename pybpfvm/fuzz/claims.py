"""What the verifier claims of a program, held against runs of it.

Every state the verifier steps over is recorded; then the program runs in the interpreter, and
before each instruction there must be a recorded state of that pc that all registers, and all
stack the frames are said to hold, lie inside of at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from random import Random

from pybpfvm.bits import U64
from pybpfvm.engine import RunEnvironment
from pybpfvm.errors import Trap, TrapKind
from pybpfvm.events import Event, HelperCalled
from pybpfvm.fuzz.visible import word
from pybpfvm.image import Image
from pybpfvm.isa.disasm import format_program
from pybpfvm.memory import RegionKind
from pybpfvm.profiles.base import CtxHolds, Profile
from pybpfvm.program import BpfObject, MapType, Program
from pybpfvm.session.objects import helpers_of
from pybpfvm.session.testrun import run_program
from pybpfvm.verifier.domains.scalar import contains, truncate
from pybpfvm.verifier.environment import environment
from pybpfvm.verifier.explore import Explorer
from pybpfvm.verifier.observe import Observer
from pybpfvm.verifier.pruning.liveness import Liveness
from pybpfvm.verifier.resources.fields import fields_of
from pybpfvm.verifier.states.regstate import Reg, RegType
from pybpfvm.verifier.states.stack import SPILL, ZERO, Slot
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.verdict import Accepted, Verdict
from pybpfvm.verifier.verify import Options, verify
from pybpfvm.vm.interp import Interpreter

_OR_NULL = frozenset(
    (RegType.PTR_TO_MAP_VALUE_OR_NULL, RegType.PTR_TO_RINGBUF_MEM_OR_NULL, RegType.MAP_PTR_OR_NULL)
)
_FROM_HELPERS = _OR_NULL | {RegType.PTR_TO_MAP_VALUE, RegType.PTR_TO_RINGBUF_MEM}
_RUN_BUDGET_INSNS = 1 << 21
_TURNS = 200


class NoCounterpart(AssertionError):
    """A claim of something that no run here has."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state as it was before an instruction: the innermost frame's registers, all stacks."""

    regs: tuple[Reg, ...]
    stacks: tuple[dict[int, Slot], ...]


@dataclass
class Claims:
    """Verdict and recorded states of a program. `all_paths`: nothing was pruned, so that every
    register's claim holds; otherwise only of registers that are live, and of numbers on which
    safety hung (`precise`): pruning rests on the others not mattering."""

    program: Program
    object: BpfObject
    profile: Profile
    verdict: Verdict
    states: dict[int, list[Snapshot]]
    all_paths: bool
    live: Callable[[int], tuple[int, ...]]


def claims(
    program: Program, obj: BpfObject, profile: Profile, *, all_paths: bool, budget_insns: int
) -> Claims:
    """Verify the program and keep every state."""
    profile = profile.for_section(program.section)
    states: dict[int, list[Snapshot]] = defaultdict(list)

    class Record(Observer):
        def step(self, pc: int, state: State) -> None:
            stacks = tuple(dict(frame.stack) for frame in state.frames)
            states[pc].append(Snapshot(tuple(state.frame.regs), stacks))

    options = Options(budget_insns=budget_insns, observer=Record())
    with _unpruned() if all_paths else _as_is():
        verdict = verify(program, obj, profile, options=options)
    live: Callable[[int], tuple[int, ...]] = _nothing_live
    if isinstance(verdict, Accepted):  # others may have no sound control flow to look at
        live = Liveness(environment(program, obj, profile, options)).at
    return Claims(program, obj, profile, verdict, states, all_paths, live)


def _nothing_live(_: int) -> tuple[int, ...]:
    return ()


@contextmanager
def _unpruned() -> Iterator[None]:
    """The explorer goes on at every prune point and stores nothing."""
    visit = Explorer._visit
    Explorer._visit = lambda self, pc, state: True  # type: ignore[method-assign]
    try:
        yield
    finally:
        Explorer._visit = visit  # type: ignore[method-assign]


@contextmanager
def _as_is() -> Iterator[None]:
    yield


@dataclass
class Checker:
    """Runs a program and compares. `checked` counts comparisons of an instruction."""

    claims: Claims
    checked: int = 0
    wrong: list[str] = field(default_factory=list)
    trap: Trap | None = None

    def run(self, seed: int) -> None:
        """One run on random inputs; a Trap other than for what does not exist here is kept."""
        random = Random(seed)
        claims = self.claims
        self.wrong.clear()
        self.trap = None
        self._last: dict[int, int] = {}
        self._results: list[int] = []
        with Image(claims.object) as image:
            self._image, self._memory = image, image.memory
            _fill_maps(image, random)
            for live in image.maps.values():
                if live.spec.type == MapType.ARRAY and live.spec.max_entries == 1:
                    self._results.append(live.lookup(bytes(live.spec.key_size), 0))
            environment_ = RunEnvironment(
                profile=claims.profile,
                now_ns=lambda: word(random) >> 1,
                random_u32=lambda: word(random) & 0xFFFF_FFFF,
                observer=self._observe,
                may_goto_turns=_TURNS,  # few, so that such loops end soon
            )
            self._run(image, environment_, random)

    def _run(self, image: Image, env: RunEnvironment, random: Random) -> None:
        claims = self.claims
        ctx = data = b""
        if claims.profile.packet is not None:
            data = random.randbytes(random.choice((15, 24, 40, 64, 200)))
        elif all(f.holds is CtxHolds.GIVEN for f in claims.profile.ctx_fields):
            ctx = random.randbytes(claims.profile.ctx_bytes)
        self._first = True
        with Interpreter(image, helpers_of(claims.profile), env) as engine:
            engine.hook = self._before
            try:
                run_program(
                    engine,
                    claims.profile,
                    claims.program,
                    ctx,
                    data,
                    repeat=1,
                    budget_insns=_RUN_BUDGET_INSNS,
                )
            except Trap as trap:
                if trap.kind is not TrapKind.UNSUPPORTED:
                    self.trap = trap

    def _observe(self, event: Event) -> None:
        if isinstance(event, HelperCalled) and event.result:
            self._results.append(event.result)

    def _before(self, program: Program, pc: int, regs: tuple[int, ...], depth: int) -> None:
        if self.wrong:
            return
        if self._first:
            self._first = False
            regions = self._memory.regions()
            self._ctx = regs[1]
            self._packets = [r for r in regions if r.kind is RegionKind.PACKET]
            stacks = sorted(
                (r for r in regions if r.kind is RegionKind.STACK), key=lambda r: r.name
            )
            self._stack_ends = [region.end for region in stacks]
        self.checked += 1
        recorded = self.claims.states.get(pc, [])
        # Loops come back in the order they were explored in: look on from the last state.
        start = self._last.get(pc, 0)
        order = chain(range(start, len(recorded)), range(start))
        found = next((at for at in order if self._inside(recorded[at], pc, regs, depth)), None)
        if found is not None:
            self._last[pc] = found
        else:
            shown = " ".join(f"r{number}={value:#x}" for number, value in enumerate(regs))
            self.wrong.append(
                f"pc {pc}, frame {depth}: {shown}\nin none of {len(recorded)} states: "
                + "; ".join(_shown(snapshot) for snapshot in recorded[:4])
            )

    def _inside(self, snapshot: Snapshot, pc: int, regs: tuple[int, ...], depth: int) -> bool:
        if len(snapshot.stacks) != depth + 1:
            return False
        numbers = range(11) if self.claims.all_paths else self.claims.live(pc)
        return all(self._holds(snapshot.regs[n], regs[n]) for n in numbers) and (
            not self.claims.all_paths or self._stacks_hold(snapshot)
        )

    def _holds(self, reg: Reg, value: int) -> bool:
        """Whether `value` is one that the abstract register may have."""
        kind = reg.type
        if kind is RegType.NOT_INIT:
            return True
        if kind is RegType.SCALAR_VALUE:
            return (not self.claims.all_paths and not reg.precise) or contains(reg.var, value)
        if kind is RegType.PTR_TO_MAP_KEY:
            return True  # the helper's own copy: runs do not tell where it lies
        if kind is RegType.PTR_TO_BTF_ID_OR_NULL:
            return value == 0  # no kernel's object is here: the pointers of map values are NULL
        if kind is RegType.PTR_TO_BTF_ID:
            return False
        if value == 0 and kind in _OR_NULL:
            return True
        return any(
            contains(reg.var, (value - base - reg.off) & U64) for base in self._bases(reg, kind)
        )

    def _bases(self, reg: Reg, kind: RegType) -> list[int]:
        if kind is RegType.PTR_TO_CTX:
            return [self._ctx]
        if kind is RegType.PTR_TO_STACK:
            return [self._stack_ends[reg.frame]]
        if kind in (RegType.PTR_TO_PACKET, RegType.PTR_TO_PACKET_META):
            return [packet.start for packet in self._packets]
        if kind is RegType.PTR_TO_PACKET_END:
            # The region is one byte longer than an empty packet.
            return [packet.end for packet in self._packets]
        if kind is RegType.CONST_PTR_TO_MAP and reg.map is not None:
            return [self._image.maps[reg.map.name].handle]
        if kind is RegType.PTR_TO_FUNC:
            return [self._image.function_handle(self.claims.program, reg.subprog)]
        if kind in _FROM_HELPERS:
            return self._results
        raise NoCounterpart(f"no concrete counterpart of {kind}")

    def _stacks_hold(self, snapshot: Snapshot) -> bool:
        return all(
            self._slot_holds(slot, end + base)
            for stack, end in zip(snapshot.stacks, self._stack_ends, strict=False)
            for base, slot in stack.items()
        )

    def _slot_holds(self, slot: Slot, addr: int) -> bool:
        content = self._memory.read(addr, 8)
        if any(kind == ZERO and byte for kind, byte in zip(slot.kinds, content, strict=True)):
            return False
        held = slot.reg
        if held is None or slot.kinds[0] != SPILL:
            return True
        value = int.from_bytes(content[: slot.spilled], "little")
        if slot.spilled == 8:
            return self._holds(held, value)
        return contains(truncate(held.var, slot.spilled, False), value)


def _fill_maps(image: Image, random: Random) -> None:
    """Random elements, some of them missing."""
    for live in image.maps.values():
        spec = live.spec
        if spec.type not in (MapType.ARRAY, MapType.HASH):
            continue
        for key in range(min(spec.max_entries, 6)):
            if spec.type == MapType.ARRAY or random.random() < 0.8:
                words = [word(random).to_bytes(8, "little") for _ in range(spec.value_size // 8)]
                value = bytearray(b"".join(words).ljust(spec.value_size, b"\1"))
                # What is in values without their BTF nobody can tell, and no program that uses them
                # is accepted.
                btf = image.object.btf
                for special in fields_of(btf, spec) if btf is not None else ():
                    value[special.offset : special.offset + special.size] = bytes(special.size)
                live.host_update(key.to_bytes(spec.key_size, "little"), bytes(value))


def _shown(snapshot: Snapshot) -> str:
    held = ((number, reg) for number, reg in enumerate(snapshot.regs))
    return " ".join(f"r{n}={reg!r}" for n, reg in held if reg.type is not RegType.NOT_INIT)


def listing(program: Program) -> str:
    """The program in text, for failures."""
    return "\n".join(format_program(program.insns, style="kernel"))
