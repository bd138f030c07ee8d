"""Global functions with tagged parameters: the running kernel confirms, then we are judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybpfvm.loader import load
from pybpfvm.profiles import PROFILES
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.btf_typed import BTF_TYPED
from pybpfvm.program import Program
from pybpfvm.verifier.environment import KernelRules
from pybpfvm.verifier.verdict import Inconclusive, Rule
from pybpfvm.verifier.verify import Options, verify
from tests.support.object_verdicts import broken_rule, kernel_accepts

OBJECT = load(Path(__file__).parent / "data" / "tagged.bpf.o")
TRACING = next(one for one in BTF_TYPED if one.name == "tracing")
# None: accepted.
EXPECTED = {
    "gives_argument": None,
    "gives_current": None,
    "gives_null": Rule.HELPER_ARG,
    "gives_context": Rule.HELPER_ARG,
    "gives_number": Rule.HELPER_ARG,
    "gives_stack": Rule.HELPER_ARG,
    "gives_inside": Rule.HELPER_ARG,
    "gives_walked": Rule.TRUST,
    "gives_walked_in_rcu": Rule.TRUST,
    "gives_parent": Rule.TRUST,
    "gives_stale": Rule.TRUST,
    "gives_released": Rule.HELPER_ARG,
    "to_untagged": Rule.READ_ONLY,
    "to_one_that_leaks": Rule.REFERENCE_LEAK,
    "gives_held": None,
    "gives_held_unasked": Rule.POSSIBLY_NULL,
    "gives_held_to_one_that_asks": None,
    "gives_null_to_one_that_asks": None,
    "to_one_that_asks_not": Rule.POSSIBLY_NULL,
    "to_tags_that_exclude": Rule.HELPER_ARG,
    "to_one_that_holds": None,
    "to_one_that_lets_go": Rule.RELEASE_UNOWNED,
    "to_own_flavour": None,
    "to_unknown": Rule.BTF_ACCESS,
    "to_one_that_writes": Rule.READ_ONLY,
    "handed_on": None,
    "null_handed_on": Rule.POSSIBLY_NULL,
    "untrusted_argument": None,
    "untrusted_null": None,
    "untrusted_number": None,
    "untrusted_stack": None,
    "untrusted_int": None,
    "untrusted_void": None,
    "untrusted_written": Rule.READ_ONLY,
    "untrusted_trusted": Rule.HELPER_ARG,
    "gives_another_struct": Rule.HELPER_ARG,
    "gives_current_in_xdp": None,
    "gives_a_lookup": None,
    "gives_a_lookup_unasked": Rule.POSSIBLY_NULL,
    "gives_packet": None,
    "gives_unchecked_packet": Rule.PACKET_ACCESS,
    "gives_packet_to_one_that_moves_it": Rule.PACKET_ACCESS,
    "gives_stack_to_one_that_moves_it": None,
    "gives_a_small_lookup": Rule.MAP_VALUE_ACCESS,
    "of_one_that_returns_nothing": Rule.HELPER_ARG,
    "of_one_that_returns_a_pointer": Rule.HELPER_ARG,
    "to_one_that_takes_anything": Rule.HELPER_ARG,
}
# The kernel takes pointers that a walk through structs gave for ones that the function may rely on
# and hold: what RCU protects, whose last reference may be gone, and what may be gone itself. It
# lets a function that moves the packet have a pointer into it, as one to memory.
LOOSER_KERNEL = {
    *("gives_stale", "gives_walked", "gives_walked_in_rcu", "gives_parent"),
    "gives_packet_to_one_that_moves_it",
}


def _profile(program: Program) -> Profile:
    return TRACING if program.section.startswith("tp_btf") else PROFILES["xdp"]


def test_the_object_has_these_programs() -> None:
    assert {program.name for program in OBJECT.programs} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_verdict(name: str) -> None:
    program = OBJECT.program(name)
    assert broken_rule(OBJECT, program, _profile(program)) is EXPECTED[name]


@pytest.mark.kernel_bpf
def test_the_kernel_says_the_same() -> None:
    wanted = {name for name, rule in EXPECTED.items() if rule is None or name in LOOSER_KERNEL}
    assert kernel_accepts(OBJECT, _profile) == wanted


def test_what_older_kernels_make_of_untrusted_is_not_guessed() -> None:
    program = OBJECT.program("untrusted_argument")
    options = Options(rules=KernelRules((6, 16)))
    verdict = verify(program, OBJECT, TRACING, options=options)
    assert isinstance(verdict, Inconclusive)
    assert "untrusted" in verdict.finding.feature
