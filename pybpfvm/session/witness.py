"""Inputs that prove a program unsafe: found by a search, given as a value, replayed exactly.

The search runs the program in the sandbox along the path that the verifier failed on. Where a run
leaves that path, the branch says which number would have kept it there, and the expression of that
number over the inputs says which input to change (`symbols`). Where it arrives, the inputs behind
the refused instruction's operands get the values that break the rule. Guesses come last. The same
program and limits give the same witness.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from random import Random

from pybpfvm.bits import U32, U64
from pybpfvm.errors import InputError, Trap, TrapKind
from pybpfvm.image import Image
from pybpfvm.isa.codec import pcs, target_pc
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind as InsnKind
from pybpfvm.isa.semantics import CONCRETE_JMP
from pybpfvm.profiles.base import CtxHolds, Profile
from pybpfvm.program import BpfObject, MapSpec, MapType, Program
from pybpfvm.session.answers import FAILS, Answer, is_user_read, results_of
from pybpfvm.session.sandbox import Asked, Inputs, Outcome, Script, run
from pybpfvm.session.shadow import Arrival, Branch, Shadow, Sought
from pybpfvm.session.symbols import Assignment, Source, solutions, sources
from pybpfvm.session.witness_text import describe
from pybpfvm.verifier.environment import Options
from pybpfvm.verifier.explaining.causes import Paths, failing_paths
from pybpfvm.verifier.explaining.failing_path import FailingPath
from pybpfvm.verifier.states.regstate import RegType
from pybpfvm.verifier.verdict import Finding, Kind, Rejected, Rule, Verdict, Witness

MAX_RUNS = 120
MAX_SECONDS = 3.0
_PACKET_BYTES = (64, 0, 1, 200)  # shown to the program, to begin with
_MAX_SHOWN = 1500
_MAX_FLIPS = 24
_SHORT_RUN = 1 << 13
_SEEDS = 8
_MAX_REPAIRS = 12  # in a row, before the queue has its turn

_BAD_MEMORY = frozenset(
    {
        TrapKind.OUT_OF_BOUNDS,
        TrapKind.READ_ONLY,
        TrapKind.USER_MEMORY,
        TrapKind.NULL,
        TrapKind.NOT_MEMORY,
    }
)
_BAD_ARGUMENT = _BAD_MEMORY | {TrapKind.BAD_HELPER_ARG}


@dataclass(frozen=True, slots=True)
class Proof:
    """What shows that breaking a rule does harm: one of `traps`, at the refused instruction, or
    anywhere once that was executed (`later`)."""

    traps: frozenset[TrapKind]
    later: bool = False


# Rules that protect programs from what the sandbox can show. All others forbid.
PROOFS: Mapping[Rule, Proof] = {
    Rule.UNINIT_REG: Proof(frozenset({TrapKind.UNINIT_REGISTER})),
    Rule.STACK_UNINIT: Proof(frozenset({TrapKind.UNINIT_STACK})),
    Rule.NOT_A_POINTER: Proof(_BAD_ARGUMENT),
    Rule.POSSIBLY_NULL: Proof(_BAD_ARGUMENT),
    Rule.STACK_ACCESS: Proof(_BAD_ARGUMENT),
    Rule.MAP_VALUE_ACCESS: Proof(_BAD_ARGUMENT),
    Rule.MEM_ACCESS: Proof(_BAD_ARGUMENT),
    Rule.PACKET_ACCESS: Proof(_BAD_ARGUMENT),
    Rule.HELPER_ARG: Proof(_BAD_ARGUMENT),
    Rule.RELEASE_UNOWNED: Proof(_BAD_ARGUMENT),
    # The sum does no harm; the access through it does.
    Rule.POINTER_BOUNDS: Proof(_BAD_ARGUMENT, later=True),
    Rule.POINTER_ARITH: Proof(_BAD_ARGUMENT, later=True),
    Rule.REFERENCE_LEAK: Proof(frozenset({TrapKind.HELD})),
    Rule.LOCK: Proof(frozenset({TrapKind.HELD})),
    Rule.INFINITE_LOOP: Proof(frozenset({TrapKind.BUDGET})),
    Rule.RECURSION: Proof(frozenset({TrapKind.STACK_DEPTH}), later=True),
    Rule.BAD_JUMP: Proof(frozenset({TrapKind.BAD_PC})),
    Rule.FALL_THROUGH: Proof(frozenset({TrapKind.BAD_PC})),
    Rule.CTX_ACCESS: Proof(frozenset({TrapKind.CTX_ACCESS})),
    Rule.READ_ONLY: Proof(frozenset({TrapKind.READ_ONLY})),
}
# What a claim of harm comes down to where the kernel forbids and no trap can show anything.
FORBIDDEN = frozenset(
    {
        Rule.UNREACHABLE,
        Rule.ILLEGAL_INSN,
        Rule.FRAME_POINTER,
        Rule.RETURN_VALUE,
        Rule.MISALIGNED,
        Rule.UNKNOWN_HELPER,
        Rule.HELPER_NOT_ALLOWED,
        Rule.LOCK,
        Rule.CTX_ACCESS,
        Rule.READ_ONLY,
    }
)
# What the sandbox has: on paths with other pointers it could show only what is not so.
_MODELLED = frozenset(
    {
        RegType.NOT_INIT,
        RegType.SCALAR_VALUE,
        RegType.PTR_TO_CTX,
        RegType.CONST_PTR_TO_MAP,
        RegType.PTR_TO_MAP_VALUE,
        RegType.PTR_TO_MAP_VALUE_OR_NULL,
        RegType.MAP_PTR_OR_NULL,
        RegType.PTR_TO_MAP_KEY,
        RegType.PTR_TO_STACK,
        RegType.PTR_TO_PACKET,
        RegType.PTR_TO_PACKET_META,
        RegType.PTR_TO_PACKET_END,
        RegType.PTR_TO_RINGBUF_MEM,
        RegType.PTR_TO_RINGBUF_MEM_OR_NULL,
        RegType.PTR_TO_FUNC,
    }
)


def with_witness(
    program: Program,
    obj: BpfObject,
    profile: Profile,
    verdict: Verdict,
    options: Options,
    *,
    paths: Paths | None = None,
    max_runs: int = MAX_RUNS,
    max_seconds: float = MAX_SECONDS,
) -> Verdict:
    """The same verdict; what inputs prove is called unsafe and carries them, nothing else is.

    `options` and `paths` as for `causes.explained`. At most `max_runs` runs for each error, and
    `max_seconds` of this process's time for all of them.
    """
    if not isinstance(verdict, Rejected):
        return verdict
    if paths is None:
        paths = failing_paths(program, obj, profile, verdict, options)
    deadline = time.process_time() + max_seconds
    errors = tuple(
        _judged(
            error,
            find(
                program,
                obj,
                profile,
                error,
                paths.get((error.rule, error.pc)),
                max_runs=max_runs,
                deadline=deadline,
            ),
        )
        for error in verdict.errors
    )
    return replace(verdict, errors=errors)


def _judged(error: Finding, witness: Witness | None) -> Finding:
    if witness is not None:
        return replace(error, kind=Kind.UNSAFE, witness=witness)
    if error.kind is not Kind.UNSAFE:
        return error
    return replace(error, kind=Kind.POLICY if error.rule in FORBIDDEN else Kind.UNPROVEN)


def find(
    program: Program,
    obj: BpfObject,
    profile: Profile,
    error: Finding,
    path: FailingPath | None,
    *,
    max_runs: int = MAX_RUNS,
    deadline: float | None = None,
) -> Witness | None:
    """Inputs that break the rule of `error`, None if none are found. Only errors that may be
    harmful are looked at: the kernel's policies need no proof."""
    proof = PROOFS.get(error.rule)
    if proof is None or error.kind not in (Kind.UNSAFE, Kind.UNPROVEN):
        return None
    if program.replaces is not None:  # its inputs are what callers give
        return None
    if path is not None and not modelled(path):
        return None
    search = _Search(program, obj, profile, error, path, proof)
    try:
        return search.run(max_runs, deadline)
    except InputError:  # a type that is not run, a map that is not made here
        return None


def modelled(path: FailingPath) -> bool:
    """Whether the sandbox has everything that the path's registers point to."""
    return all(reg.type in _MODELLED for step in path.steps for reg in step.state.frame.regs)


def replay(program: Program, obj: BpfObject, profile: Profile, witness: Witness) -> Trap | None:
    """Run the program on the witness: the trap, None if there is none (then it is no witness)."""
    inputs = _inputs(witness)
    sought = _sought(TrapKind(witness.trap), witness.pc)
    watch = partial(Shadow, program, profile, sought, witness.pc)
    return run(program, obj, profile, inputs, watch=watch).trap


def _inputs(witness: Witness) -> Inputs:
    filled = dict(witness.filled)
    answers = tuple(
        Answer(name, result, filled.get(number, b""))
        for number, (name, result) in enumerate(witness.results)
    )
    return Inputs(witness.ctx, witness.packet, witness.maps, answers, witness.seed)


def _sought(kind: TrapKind, pc: int) -> Sought:
    return Sought(
        uninit=kind is TrapKind.UNINIT_REGISTER,
        uninit_stack=kind is TrapKind.UNINIT_STACK,
        held=kind is TrapKind.HELD,
        loop_pc=pc if kind is TrapKind.BUDGET else -1,
    )


@dataclass(frozen=True, slots=True)
class _Tried:
    """A run that was made."""

    inputs: Inputs
    outcome: Outcome
    shadow: Shadow
    progress: int


class _Search:
    """The search for one error's witness."""

    def __init__(
        self,
        program: Program,
        obj: BpfObject,
        profile: Profile,
        error: Finding,
        path: FailingPath | None,
        proof: Proof,
    ) -> None:
        self.program, self.obj, self.profile = program, obj, profile
        self.error, self.proof = error, proof
        self.path = path.pcs if path is not None else ()
        self.code: Mapping[int, Insn] = dict(zip(pcs(program.insns), program.insns, strict=True))
        self.maps: Mapping[str, MapSpec] = {spec.name: spec for spec in obj.maps}
        kinds = proof.traps
        sought = Sought()
        for kind in (
            TrapKind.UNINIT_REGISTER,
            TrapKind.UNINIT_STACK,
            TrapKind.HELD,
            TrapKind.BUDGET,
        ):
            if kind in kinds:
                sought = _sought(kind, error.pc)
        # Runs that go astray are cut short; those that are to show a loop use up its fuel first.
        self._budget_insns = max(_SHORT_RUN, 4 * len(self.path))
        if sought.loop_pc >= 0:
            self._budget_insns = 2 * sought.fuel
        self._watch = partial(Shadow, program, profile, sought, error.pc)
        self._hints = _hints(path)
        self._queue: list[tuple[int, int, int, Inputs]] = []
        self._repairs: list[tuple[int, Inputs]] = []  # to be tried at once, the last first
        self._order = count()
        self._seen: set[Inputs] = set()
        self._tried: set[Inputs] = set()
        self._runs = 0

    def run(self, max_runs: int, deadline: float | None) -> Witness | None:
        """Look for inputs; None when the budget is used up."""
        for inputs in self._first():
            self._push(0, 0, inputs)
        in_a_row = 0
        while (self._queue or self._repairs) and self._runs < max_runs:
            if deadline is not None and time.process_time() > deadline:
                return None
            if self._repairs and (in_a_row < _MAX_REPAIRS or not self._queue):
                cost, inputs = self._repairs.pop()
                in_a_row += 1
            else:
                self._repairs.clear()
                _, cost, _, inputs = heapq.heappop(self._queue)
                in_a_row = 0
            if inputs in self._tried:
                continue
            self._tried.add(inputs)
            tried = self._try(inputs)
            exact = self._again(tried) if self._proves(tried) else None
            if exact is not None:
                return self._witness(self._smaller(exact))
            repairs: list[tuple[int, Inputs]] = []
            for more, one in self._changes(tried):
                self._push(tried.progress, cost + more, one)
                if more <= 1 and len(repairs) < _MAX_REPAIRS:
                    repairs.append((cost + more, one))
            self._repairs += reversed(repairs)
        return None

    def _push(self, progress: int, cost: int, inputs: Inputs) -> None:
        if inputs not in self._seen:
            self._seen.add(inputs)
            rank = cost - min(progress, 1 << 16) * 4
            heapq.heappush(self._queue, (rank, cost, next(self._order), inputs))

    def _first(self) -> Iterator[Inputs]:
        """What to begin with: zeros, packets of several lengths, then random inputs."""
        rules = self.profile.packet
        hidden = rules.hidden_bytes if rules is not None else 0
        sizes = _PACKET_BYTES if rules is not None else (0,)
        given = rules is None and all(
            one.holds is CtxHolds.GIVEN for one in self.profile.ctx_fields
        )
        size = self.profile.ctx_bytes if given else 0
        for shown in sizes:
            yield Inputs(ctx=bytes(size), packet=bytes(hidden + shown) if rules else b"")
        for seed in range(1, 1 + _SEEDS):
            random = Random(seed)
            packet = random.randbytes(hidden + random.choice(sizes)) if rules else b""
            maps = tuple(self._random_elements(random))
            yield Inputs(random.randbytes(size), packet, maps, seed=seed)

    def _random_elements(self, random: Random) -> Iterator[tuple[str, bytes, bytes]]:
        for spec in self.maps.values():
            if spec.type in (MapType.ARRAY, MapType.HASH, MapType.LRU_HASH) and not spec.frozen:
                for number in range(min(spec.max_entries, 2)):
                    key = number.to_bytes(max(spec.key_size, 1), "little")[: spec.key_size]
                    yield spec.name, key, random.randbytes(min(spec.value_size, 4096))

    # Runs.

    def _try(self, inputs: Inputs) -> _Tried:
        self._runs += 1
        shadows: list[Shadow] = []

        def watch(image: Image, script: Script) -> Shadow:
            shadows.append(self._watch(image, script))
            return shadows[0]

        outcome = run(
            self.program,
            self.obj,
            self.profile,
            inputs,
            watch=watch,
            budget_insns=self._budget_insns,
        )
        trace, progress = shadows[0].trace, 0
        for wanted, went in zip(self.path, trace, strict=False):
            if wanted != went:
                break
            progress += 1
        return _Tried(inputs, outcome, shadows[0], progress)

    def _proves(self, tried: _Tried) -> bool:
        trap = tried.outcome.trap
        if trap is None or trap.kind not in self.proof.traps:
            return False
        if trap.program != self.program.name:
            return False
        if self.proof.later:
            return bool(tried.shadow.arrivals)
        return trap.pc == self.error.pc

    def _witness(self, tried: _Tried) -> Witness:
        trap, asked = tried.outcome.trap, tried.outcome.asked
        assert trap is not None
        return Witness(
            trap.kind.value,
            tried.inputs.ctx,
            tried.inputs.packet,
            tried.inputs.maps,
            tuple(
                (one.source, one.answer.data) for one in asked if is_user_read(one.answer.helper)
            ),
            tuple((one.answer.helper, one.answer.result) for one in asked),
            filled=tuple(
                (number, one.answer.data) for number, one in enumerate(asked) if one.answer.data
            ),
            pc=trap.pc,
        )

    def _again(self, tried: _Tried) -> _Tried | None:
        """The run repeated with all its answers written down; None if that proves nothing."""
        again = self._try(replace(_exact(tried), seed=0))
        return again if self._proves(again) else None

    def _smaller(self, tried: _Tried) -> _Tried:
        """The same with what does not matter taken away, as far as a few runs can tell."""
        inputs = tried.inputs
        candidates = [replace(inputs, ctx=bytes(len(inputs.ctx)))]
        candidates += [replace(inputs, packet=bytes(len(inputs.packet)))]
        for name, key, value in inputs.maps:
            candidates.append(inputs.with_element(name, key, None))
            candidates.append(inputs.with_element(name, key, bytes(len(value))))
        for number, answer in enumerate(inputs.answers[:_MAX_FLIPS]):
            zeros = Answer(answer.helper, 0, bytes(len(answer.data)))
            candidates.append(inputs.with_answer(number, zeros))
        for candidate in candidates:
            merged = _merged(tried.inputs, inputs, candidate)
            if merged == tried.inputs:
                continue
            again = self._try(merged)
            if self._proves(again):
                tried = replace(again, inputs=_exact(again))
        return tried

    # What to try next.

    def _changes(self, tried: _Tried) -> Iterator[tuple[int, Inputs]]:
        """Other inputs, each with what it costs: the less likely it is to help, the more."""
        inputs, shadow = _exact(tried), tried.shadow
        for arrival in shadow.arrivals[:4]:
            for cost, assignment in self._at_goal(arrival):
                yield cost, self._applied(inputs, tried, assignment)
        branches = shadow.branches
        left = next((one for one in branches if one.index == tried.progress - 1), None)
        if left is not None and tried.progress < len(self.path):
            wanted = self.path[tried.progress] != left.pc + 1
            for assignment in self._turned(left, taken=wanted):
                yield 1, self._applied(inputs, tried, assignment)
        elif not shadow.arrivals or tried.progress < len(self.path):
            for branch in reversed(branches[-_MAX_FLIPS:]):
                for assignment in self._turned(branch, taken=not self._went(branch)):
                    yield 6, self._applied(inputs, tried, assignment)

    def _went(self, branch: Branch) -> bool:
        return CONCRETE_JMP[branch.op](branch.left_value, branch.right_value, branch.width)

    def _turned(self, branch: Branch, *, taken: bool) -> Iterator[Assignment]:
        """Inputs that should make the branch be taken, or not."""
        holds = CONCRETE_JMP[branch.op]
        left, right = branch.left_value, branch.right_value
        for symbol, current, other, swapped in (
            (branch.left, left, right, False),
            (branch.right, right, left, True),
        ):
            if symbol is None:
                continue
            for target in _near(other, current, branch.width):
                a, b = (other, target) if swapped else (target, other)
                if holds(a, b, branch.width) == taken:
                    yield from solutions(symbol, target)

    def _at_goal(self, arrival: Arrival) -> Iterator[tuple[int, Assignment]]:
        """Inputs that should make the instruction do harm."""
        insn = self.code[self.error.pc]
        for number in _operands(insn):
            symbol = arrival.symbols[number]
            if symbol is None:
                continue
            start, end = arrival.spans[number]
            targets = list(self._hints)
            if end:
                targets = [end, start - 1, end + 4095, end - 1, end - 7, start - 4096, *targets]
                targets += [start + hint for hint in self._hints]
            for target in dict.fromkeys((*targets, *_EXTREMES)):
                for assignment in solutions(symbol, target & U64):
                    yield 2, assignment
            for source in sources(symbol):
                for value in (*self._hints, *_EXTREMES):
                    if source.space != "length" or value <= _MAX_SHOWN:
                        yield 3, (source, value & U64)
        if self.profile.packet is not None:
            for shown in (*range(16), 20, 34, 54):
                yield 4, (Source("length"), shown)

    def _applied(self, inputs: Inputs, tried: _Tried, assignment: Assignment) -> Inputs:
        source, value = assignment
        match source.space:
            case "ctx":
                return replace(inputs, ctx=_patched(inputs.ctx, source, value))
            case "packet":
                hidden = self.profile.packet.hidden_bytes if self.profile.packet else 0
                moved = replace(source, offset=source.offset + hidden)
                return replace(inputs, packet=_patched(inputs.packet, moved, value))
            case "length":
                return self._resized(inputs, value - source.offset)
            case "map" | "present":
                return self._element(inputs, source, value)
            case _:
                return _answered(inputs, tried.outcome.asked, source, value)

    def _resized(self, inputs: Inputs, shown: int) -> Inputs:
        if self.profile.packet is None:
            return inputs
        size = self.profile.packet.hidden_bytes + max(0, min(shown, _MAX_SHOWN))
        return replace(inputs, packet=inputs.packet[:size].ljust(size, b"\0"))

    def _element(self, inputs: Inputs, source: Source, value: int) -> Inputs:
        spec = self.maps.get(source.name)
        if spec is None or spec.frozen:
            return inputs
        held = next((v for n, k, v in inputs.maps if (n, k) == (source.name, source.key)), None)
        if source.space == "present":
            kept = held if held is not None else bytes(spec.value_size)
            return inputs.with_element(source.name, source.key, kept if value else None)
        if held is None:
            held = (spec.data or b"").ljust(spec.value_size, b"\0")
        return inputs.with_element(source.name, source.key, _patched(held, source, value))


def _exact(tried: _Tried) -> Inputs:
    """The inputs with every answer that was made up written down."""
    return replace(tried.inputs, answers=tuple(one.answer for one in tried.outcome.asked))


def _merged(current: Inputs, before: Inputs, candidate: Inputs) -> Inputs:
    """`current`, with what `candidate` changes in `before`."""
    changed = {
        name: getattr(candidate, name)
        for name in ("ctx", "packet")
        if getattr(candidate, name) != getattr(before, name)
    }
    result = replace(current, **changed)
    if candidate.maps != before.maps:
        new = {one[:2]: one[2] for one in candidate.maps}
        for name, key, value in before.maps:
            if new.get((name, key)) != value:
                result = result.with_element(name, key, new.get((name, key)))
    for number, answer in enumerate(candidate.answers):
        if answer != before.answers[number] and number < len(result.answers):
            result = result.with_answer(number, answer)
    return result


def _patched(data: bytes, source: Source, value: int) -> bytes:
    content = bytearray(data.ljust(source.offset + source.size, b"\0"))
    low = value & ((1 << 8 * source.size) - 1)
    content[source.offset : source.offset + source.size] = low.to_bytes(source.size, "little")
    return bytes(content)


def _answered(inputs: Inputs, asked: tuple[Asked, ...], source: Source, value: int) -> Inputs:
    if source.number >= len(inputs.answers):
        return inputs
    old = inputs.answers[source.number]
    if source.space == "answer":
        new = replace(old, data=_patched(old.data, source, value), result=0)
    elif results_of(old.helper) != (0, FAILS):
        signed = (
            value - (1 << 64)
            if value >> 63 and old.helper in ("submit", "emit", "requeue")
            else value
        )
        new = replace(old, result=signed)
    else:
        # What is left of failing is the result 0, but for reserving: there NULL is the failure.
        fails = (value == 0) is (old.helper == "ringbuf_reserve")
        new = replace(old, result=FAILS if fails else 0)
    return inputs.with_answer(source.number, new)


def _near(other: int, current: int, width: int) -> tuple[int, ...]:
    """Numbers that a comparison with `other` may turn on."""
    mask = U64 if width == 64 else U32
    keep = current & ~mask
    found = [other, other + 1, other - 1, ~other, 0, 1, mask >> 1, (mask >> 1) + 1, mask]
    return tuple(dict.fromkeys(keep | one & mask for one in found))


_EXTREMES = (
    0,
    1,
    U64,
    1 << 31,
    (1 << 31) - 1,
    U32,
    1 << 32,
    1 << 63,
    (1 << 63) - 1,
    4096,
    1 << 20,
    (1 << 29) - 1,
    1 << 28,
    -4096,
)


def _hints(path: FailingPath | None) -> tuple[int, ...]:
    """Numbers from the refusal: the culprit's bounds, and what it must not exceed."""
    if path is None or path.refused.culprit is None:
        return ()
    var = path.refused.culprit.var
    found = [var.umax, var.smin, var.smax, var.umin]
    for reg in path.steps[-1].state.frame.regs[:6]:
        if reg.type is RegType.SCALAR_VALUE and reg.var.mask:
            found += [reg.var.umax, reg.var.smin]
    if path.refused.bounds is not None:
        low, high = path.refused.bounds
        found = [high + 1, low - 1, *found, high + 8, high + 64]
    return tuple(dict.fromkeys(found))


def _operands(insn: Insn) -> tuple[int, ...]:
    kind = insn.spec.kind
    if kind is InsnKind.CALL:
        return (1, 2, 3, 4, 5)
    if kind in (InsnKind.LDX, InsnKind.LDSX, InsnKind.LOAD_ACQ):
        return (insn.src,)
    if kind is InsnKind.ST:
        return (insn.dst,)
    if target_pc(insn, 0) is not None or kind is InsnKind.EXIT:
        return ()
    return (insn.dst, insn.src)


__all__ = ["FORBIDDEN", "PROOFS", "Proof", "describe", "find", "replay", "with_witness"]
