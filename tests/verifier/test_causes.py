"""Causal paths: what they name is on the failing path, and begins with a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from pybpfvm.fuzz.claims import listing
from pybpfvm.fuzz.typed_programs import Generated, generate
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.opcodes import Kind as InsnKind
from pybpfvm.profiles import profile_named
from pybpfvm.program import BpfObject, Program
from pybpfvm.verifier.environment import Environment, environment
from pybpfvm.verifier.explaining.causes import (
    MAX_PATH_STEPS,
    Cause,
    cause_of,
    explained,
    failing_paths,
)
from pybpfvm.verifier.explaining.failing_path import PathRecorder
from pybpfvm.verifier.explaining.slicing import How, Link, Register, held, same, written_registers
from pybpfvm.verifier.privileges.privilege import ALL
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.verdict import Finding, Rejected
from pybpfvm.verifier.verify import Options, verify
from tests.support.verifier_cases import Case, corpus

GENERATED = 150
OPTIONS = Options(budget_insns=5_000, all_errors=True)
# How a history may begin: with something that comes from outside, or was never there.
_SOURCES = frozenset(
    {
        How.ENTRY,
        How.NEVER,
        How.CONSTANT,
        How.LOADED,
        How.RESULT,
        How.CLOBBERED,
        How.HELPER_WROTE,
        How.GIVEN,
        How.STORED,  # a constant
    }
)


def _rejected(made: Case | Generated) -> Rejected | None:
    options = replace(OPTIONS, caps=getattr(made, "caps", ALL))
    verdict = verify(made.program, made.object, made.profile, options=options)
    return verdict if isinstance(verdict, Rejected) else None


def _explained(made: Case | Generated, verdict: Rejected) -> Rejected:
    options = replace(OPTIONS, caps=getattr(made, "caps", ALL))
    found = explained(made.program, made.object, made.profile, verdict, options)
    assert isinstance(found, Rejected)
    return found


def _case(name: str) -> Case:
    return next(case for case in corpus() if case.name == name)


def _first(name: str) -> Finding:
    case = _case(name)
    verdict = _rejected(case)
    assert verdict is not None
    return _explained(case, verdict).errors[0]


def _check(made: Case | Generated) -> int:
    """Check everything that must hold of the explanation; the number of errors."""
    verdict = _rejected(made)
    if verdict is None:
        return 0
    said = _explained(made, verdict)
    assert said.stats == verdict.stats
    assert said.errors[0].rule is verdict.errors[0].rule
    keys = [(error.rule, error.pc) for error in verdict.errors]
    assert [key for key in keys if key in {(e.rule, e.pc) for e in said.errors}] == [
        (error.rule, error.pc) for error in said.errors
    ]
    paths = failing_paths(made.program, made.object, made.profile, verdict, OPTIONS)
    env = environment(made.program, made.object, made.profile, OPTIONS)
    for error in said.errors:
        where = f"{error.rule.value} at {error.pc}\n{listing(made.program)}"
        assert error.reason, where
        assert error.suggestion, where
        assert len(error.path) <= MAX_PATH_STEPS, where
        pcs = [step.pc for step in error.path]
        assert len(set(pcs)) == len(pcs), where
        assert all(
            step.note and step.source == made.program.line_at(step.pc) for step in error.path
        )
        path = paths.get((error.rule, error.pc))
        if path is None:
            continue
        assert path.pcs[-1] == error.pc, where
        assert set(pcs) <= set(path.pcs), where
        cause = cause_of(env, path)
        if cause is not None:
            _check_links(env, cause, [step.state for step in path.steps], path.pcs, where)
    return len(said.errors)


def _check_links(
    env: Environment, cause: Cause, states: Sequence[State], pcs: Sequence[int], where: str
) -> None:
    assert cause.links[0].how in _SOURCES, (cause.links[0].how, where)
    indexes = [link.index for link in cause.links]
    assert indexes == sorted(set(indexes)), where
    for link in cause.links:
        if link.index < 0:
            continue
        assert link.pc in pcs, where
        assert _changes(env, link, states, pcs), (link, where)


def _changes(env: Environment, link: Link, states: Sequence[State], pcs: Sequence[int]) -> bool:
    """Whether the instruction writes the place, or the states around it say different things."""
    insn = env.code[pcs[link.index]]
    before, after = states[link.index], states[link.index + 1]
    if len(before.frames) != len(after.frames):
        return True  # a call or a return: registers change hands
    if isinstance(link.place, Register):
        if link.place.number in written_registers(insn):
            return True
    elif insn.spec.kind in (InsnKind.ST, InsnKind.STX, InsnKind.ATOMIC, InsnKind.CALL):
        return True
    return not same(held(before, link.place), held(after, link.place))


def test_every_rejected_case_is_explained() -> None:
    assert sum(_check(case) for case in corpus()) >= 200


def test_generated_programs_are_explained() -> None:
    assert sum(_check(generate(seed)) for seed in range(GENERATED)) >= GENERATED * 0.3


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("map value dereferenced before the null check", "what bpf_map_lookup_elem returned"),
        ("register that was never written", "nothing writes it after"),
        ("argument registers are lost after the call", "ends the life of r1 to r5"),
        ("A25: a subprogram moves the packet, the caller's pointer is dead", "may move the packet"),
        ("submitted twice", "bpf_ringbuf_submit releases"),
        ("user_data dereferenced", "user_data): any 64-bit number, as user space chose"),
        ("A14: a variable read of stack partly not written, kernels of 2021", "r10-16"),
    ],
)
def test_notes(name: str, note: str) -> None:
    error = _first(name)
    assert any(note in step.note for step in error.path), error.path


def test_the_place_where_a_bound_was_lost_is_named() -> None:
    error = _first("A7: 32-bit modulo by zero leaves the low half, not zero")
    lost = "r7 lost its bounds here: it was a number from 0 to 255 before the remainder by r8 (0)"
    assert lost in error.reason
    assert (error.path[-1].pc, error.path[-1].note) == (16, lost)


def test_a_comparison_that_leaves_too_much_is_named_with_the_right_limit() -> None:
    error = _first("off by one: >= instead of >")
    assert "the comparison at instruction 14 lets a number from 0 to 57 pass" in error.reason
    assert "`if (r7 >= 57) return 0;`" in error.suggestion


def test_limits_are_carried_back_over_arithmetic() -> None:
    """r7 << 3 indexes 64 bytes: r7 must be at most 7, which the suggestion says."""
    from pybpfvm.isa.asm import assemble

    base = _case("off by one: >= instead of >")
    text = """
      *(u64 *)(r10 - 8) = 0
      r2 = r10
      r2 += -8
      r1 = map[table] ll
      call map_lookup_elem
      if r0 == 0 goto out
      r7 = *(u32 *)(r0 + 0)
      r7 <<= 3
      r7 += 8
      r0 += r7
      r0 = *(u64 *)(r0 + 0)
    out:
      r0 = 0
      exit
    """
    maps = {spec.name: index for index, spec in enumerate(base.object.maps)}
    insns = assemble(text, calls={"map_lookup_elem": 1}, maps=maps)
    case = replace(base, program=replace(base.program, insns=insns, subprogs=()))
    verdict = _rejected(case)
    assert verdict is not None
    error = _explained(case, verdict).errors[0]
    assert error.suggestion.startswith("`if (r7 >= 7) return 0;`"), error.suggestion


def test_a_bad_register_that_is_used_again_is_one_error() -> None:
    base = _case("map value dereferenced before the null check")
    twice = _case("arithmetic before the null check")
    for case in (base, twice):
        verdict = _rejected(case)
        assert verdict is not None
        assert len(_explained(case, verdict).errors) == 1


def test_verdicts_that_are_no_rejections_stay_as_they_are() -> None:
    case = next(case for case in corpus() if case.expected.verdict == "accept")
    verdict = verify(case.program, case.object, case.profile, options=OPTIONS)
    assert explained(case.program, case.object, case.profile, verdict, OPTIONS) is verdict


def test_long_paths_are_cut_and_still_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    from pybpfvm.verifier.explaining import failing_path

    monkeypatch.setattr(failing_path, "KEPT_STEPS", 10)
    case = _case("off by one: >= instead of >")
    verdict = _rejected(case)
    assert verdict is not None
    paths = failing_paths(case.program, case.object, case.profile, verdict, OPTIONS)
    (path,) = paths.values()
    assert 2 <= len(path.steps) <= 10
    assert _explained(case, verdict).errors[0].path


def test_no_more_is_explored_than_leads_to_the_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes first; that the paths after it are fine was found out before."""
    steps: list[int] = []
    told = PathRecorder.step

    def step(recorder: PathRecorder, pc: int, state: State) -> None:
        steps.append(pc)
        told(recorder, pc, state)

    monkeypatch.setattr(PathRecorder, "step", step)
    diamonds = "r1 = *(u32 *)(r6 + 0)\nif r1 > 3 goto +1\nr7 += 1\n" * 12
    code = assemble(
        "r6 = r1\nr7 = 0\nr2 = *(u32 *)(r1 + 0)\nif r2 > 5 goto +2\n"
        f"r0 = *(u64 *)(r10 + 8)\nexit\n{diamonds}r0 = r7\nexit"
    )
    program = Program("main", "socket", code, license="GPL")
    obj, profile = BpfObject("text", "", (program,), ()), profile_named("socket_filter")
    verdict = verify(program, obj, profile, options=OPTIONS)
    assert isinstance(verdict, Rejected)
    assert verdict.stats.processed_insns > 50
    paths = failing_paths(program, obj, profile, verdict, OPTIONS)
    assert [path.pcs for path in paths.values()] == [(0, 1, 2, 3, 4)]
    assert steps == [0, 1, 2, 3, 4]
