"""Arenas in an object of clang's: the running kernel confirms, then we are judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybpfvm.isa.opcodes import Kind as InsnKind
from pybpfvm.isa.opcodes import Pseudo
from pybpfvm.loader import load
from pybpfvm.profiles import PROFILES
from pybpfvm.profiles.base import Profile
from pybpfvm.program import Program
from pybpfvm.verifier.environment import KernelRules
from pybpfvm.verifier.verdict import Accepted, Inconclusive, Rejected, Rule
from pybpfvm.verifier.verify import Options, verify
from tests.support.object_verdicts import broken_rule, kernel_accepts
from tests.support.verifier_cases import program_of

OBJECT = load(Path(__file__).parent / "data" / "arena.bpf.o")
# None: accepted.
EXPECTED = {
    "counts": None,
    "walks": None,
    "passes_a_number": None,
    "passes_stack": None,
    "passes_the_context": Rule.HELPER_ARG,
    "into_untagged": Rule.HELPER_ARG,
    "makes": None,
    "gives_back": None,
}
BEFORE_ARENAS, ASKED_OF_NOBODY = KernelRules((6, 8)), KernelRules((6, 12))


def _profile(program: Program) -> Profile:
    return PROFILES["syscall" if program.section == "syscall" else "xdp"]


def test_variables_in_an_arena_are_places_in_the_map() -> None:
    (arena,) = OBJECT.maps
    named = {
        insn.imm
        for program in OBJECT.programs
        for insn in program.insns
        if insn.spec.kind is InsnKind.LDDW and insn.src == Pseudo.MAP_IDX_VALUE
    }
    assert arena.name == "pages"
    assert named == {0, 8 << 32}  # total, first: both of map 0
    assert OBJECT.unsupported == ()


@pytest.mark.parametrize("name", EXPECTED)
def test_verdict(name: str) -> None:
    program = OBJECT.program(name)
    assert broken_rule(OBJECT, program, _profile(program)) is EXPECTED[name]


@pytest.mark.kernel_bpf
def test_the_kernel_says_the_same() -> None:
    wanted = {name for name, rule in EXPECTED.items() if rule is None}
    assert kernel_accepts(OBJECT, _profile) == wanted


def test_kernels_before_6_9_have_no_arenas() -> None:
    program = OBJECT.program("counts")
    verdict = verify(program, OBJECT, PROFILES["xdp"], options=Options(rules=BEFORE_ARENAS))
    assert isinstance(verdict, Rejected)
    assert verdict.errors[0].rule is Rule.ARENA


@pytest.mark.parametrize(
    "line", ["lock *(u64 *)(r6 + 0) += r6", "r1 = *(s32 *)(r6 + 0)", "r1 = *(u64 *)(r6 + 0)"]
)
def test_what_older_kernels_do_on_arenas_is_decided_where_it_is_known(line: str) -> None:
    text = f"r6 = map[arena][0]+0 ll\nr6 = addr_space_cast(r6, 0, 1)\n{line}\nr0 = 0\nexit"
    program, obj, profile = program_of(text, where="case")
    verdict = verify(program, obj, profile, options=Options(rules=ASKED_OF_NOBODY))
    if "u64 *)(r6 + 0)" in line and "lock" not in line:
        assert isinstance(verdict, Accepted)
    else:
        assert isinstance(verdict, Inconclusive)
        assert "arena" in verdict.finding.feature
