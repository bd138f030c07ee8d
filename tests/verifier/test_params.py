"""Global functions with pointer parameters: the running kernel confirms, then we are judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybpfvm.loader.object import load
from pybpfvm.profiles import PROFILES
from pybpfvm.verifier.verdict import Accepted, Rule
from pybpfvm.verifier.verify import verify
from tests.support.object_verdicts import broken_rule, kernel_accepts

OBJECT = load(Path(__file__).parent / "data" / "params.bpf.o", target_btf=lambda _: None)
OBJECT_WITH_SQE = Path(__file__).parent / "data" / "sqe_param.bpf.o"
XDP = PROFILES["xdp"]
# None: accepted.
EXPECTED = {
    "fits": None,
    "null": None,
    "no_check": Rule.POSSIBLY_NULL,
    "too_far": Rule.MEM_ACCESS,
    "small": Rule.STACK_ACCESS,
    "never_null": None,
    "null_to_nonnull": Rule.POSSIBLY_NULL,
    "number": Rule.PACKET_ACCESS,
    "array": None,
    "array_too_far": Rule.MEM_ACCESS,
    "array_small": Rule.STACK_ACCESS,
    "pointer": None,
    "with_ctx": None,
    "not_ctx": Rule.HELPER_ARG,
}
# The kernel takes the number 0 for memory that the function, by its tag, does not compare with 0:
# running that program dereferences NULL.
LOOSER_KERNEL = {"null_to_nonnull"}


def test_the_object_has_these_programs() -> None:
    assert {program.name for program in OBJECT.programs} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_verdict(name: str) -> None:
    program = OBJECT.program(name)
    assert broken_rule(OBJECT, program, XDP) is EXPECTED[name]


def test_an_sqe_that_a_global_function_got_may_be_submitted() -> None:
    """Only iouring-x has memory that changes while a helper reads it."""
    obj = load(OBJECT_WITH_SQE)
    assert isinstance(verify(obj.programs[0], obj, PROFILES["iouring-v3"]), Accepted)


@pytest.mark.kernel_bpf
def test_the_kernel_says_the_same() -> None:
    wanted = {name for name, rule in EXPECTED.items() if rule is None or name in LOOSER_KERNEL}
    assert kernel_accepts(OBJECT, lambda _: XDP) == wanted
