"""What --kernel changes: the same program by the rules of several kernels."""

from __future__ import annotations

import pytest

from pybpfvm.isa.asm import assemble
from pybpfvm.profiles import PROFILES
from pybpfvm.program import BpfObject, MapSpec, MapType, Program
from pybpfvm.session.judging import JudgeRequest, Policy, judge
from pybpfvm.verifier.environment import RULES_618
from pybpfvm.verifier.kernels import DEFAULT_KERNEL, KERNELS, NOTES
from pybpfvm.verifier.verdict import Accepted, Kind, Rejected, Rule, Verdict
from tests.support.verifier_cases import corpus

COUNTS = MapSpec("counts", MapType.ARRAY, 4, 8, 4)
PROFILE = PROFILES["socket_filter"]


def verdict(code: str, kernel: str, policy: Policy = Policy.KERNEL) -> Verdict:
    insns = assemble(code, maps={"counts": 0})
    program = Program("test", "socket", insns, license="GPL")
    obj = BpfObject("test.o", "", (program,), (COUNTS,), license="GPL")
    return judge(program, obj, PROFILE, JudgeRequest(kernel=kernel, policy=policy))


UNWRITTEN_STACK = "r0 = *(u64 *)(r10 - 8)\nr0 = 0\nexit"
CONSTANT_LOOKUP = """
    r1 = 1
    *(u32 *)(r10 - 8) = r1
    r2 = r10
    r2 += -8
    r1 = map[counts]
    call 1
    r0 = *(u64 *)(r0 + 0)
    exit
"""
SIGNED_DIVISION = "r0 = 9\nr0 s/= 2\nr0 = 0\nexit"
SIGNED_LOAD = "*(u64 *)(r10 - 8) = 1\nr0 = *(s8 *)(r10 - 8)\nr0 = 0\nexit"
LOAD_ACQUIRE = "*(u64 *)(r10 - 8) = 1\nr1 = load_acquire((u64 *)(r10 - 8))\nr0 = 0\nexit"
STRNCMP = "r0 = 0\ncall 208\nr0 = 0\nexit"
LONG_AGO = "r0 = 0\ncall 7\nr0 = 0\nexit"

# code, the first kernel of ours that takes it, the rule that the others refuse it by
CASES = [
    (UNWRITTEN_STACK, "6.12", Rule.STACK_UNINIT),
    (CONSTANT_LOOKUP, "6.18", Rule.POSSIBLY_NULL),
    (SIGNED_DIVISION, "6.12", Rule.ILLEGAL_INSN),
    (SIGNED_LOAD, "6.12", Rule.ILLEGAL_INSN),
    (LOAD_ACQUIRE, "6.18", Rule.ILLEGAL_INSN),
    (LONG_AGO, "5.15", None),
]


@pytest.mark.parametrize(("code", "first", "rule"), CASES, ids=lambda v: str(v)[:24])
def test_a_kernel_takes_what_it_knows(code: str, first: str, rule: Rule | None) -> None:
    names = list(KERNELS)
    for name in names:
        found = verdict(code, name)
        if names.index(name) >= names.index(first):
            assert isinstance(found, Accepted), name
        else:
            assert isinstance(found, Rejected), name
            assert {error.rule for error in found.errors} == {rule}


def test_a_helper_that_came_later_says_with_which_kernel() -> None:
    found = verdict(STRNCMP, "5.15")
    assert isinstance(found, Rejected)
    (error,) = found.errors
    assert error.rule is Rule.UNKNOWN_HELPER
    assert error.kind is Kind.POLICY
    assert "came with 5.16" in error.reason
    later = verdict(STRNCMP, "6.1")
    assert not (isinstance(later, Rejected) and "came with" in later.errors[0].reason)


def test_every_kernel_says_what_it_changes() -> None:
    assert list(NOTES) == list(KERNELS)
    assert KERNELS[DEFAULT_KERNEL] == RULES_618
    assert all(f"{a}.{b}" == name for name, rules in KERNELS.items() for a, b in [rules.version])


# 1000 / [1, 8] is at least 125: the kernel follows no division, so the index has no bounds there.
DIVIDED = """
    call 7
    r6 = r0
    r6 &= 7
    r6 += 1
    *(u32 *)(r10 - 4) = 0
    r2 = r10
    r2 += -4
    r1 = map[counts]
    call 1
    if r0 == 0 goto out
    r6 /= 9
    r0 += r6
    r0 = *(u8 *)(r0 + 7)
out:
    r0 = 0
    exit
"""


def test_strict_accepts_what_is_proved_here_and_warns_where_the_kernel_would_not() -> None:
    kernel = verdict(DIVIDED, "6.18")
    assert isinstance(kernel, Rejected)
    strict = verdict(DIVIDED, "6.18", Policy.STRICT)
    assert isinstance(strict, Accepted)
    (warning,) = strict.warnings
    assert (warning.rule, warning.pc) == (kernel.errors[0].rule, kernel.errors[0].pc)
    assert warning.kind is Kind.LINT
    assert "the kernel would refuse" in warning.reason


# Cases of the corpus that are safe, and whose proof the kernel loses.
LOST = (
    "scalars: and loses the upper end of a signed range",
    "scalars: and of two signed ranges loses both",
    "scalars: 32-bit and loses the upper end of a signed range",
    "scalars: a sign extended from 32 bits forgets the 32-bit range",
    "scalars: a sign extended from 8 bits follows no 32-bit range",
    "scalars: a number of which a sign was extended is another, negative as it may be",
    "scalars: a 32-bit product that wraps has no range",
    "scalars: a product knows its bits by the first factor",
    "scalars: a low half of zeroes does not raise the lower end to the next one",
    "scalars: a low half does not lower the upper end to the one before",
    "scalars: a shift by 32 bits forgets the largest low half",
    "scalars: a negative low half says nothing of a short word that is shifted",
    "scalars: a signed end is forgotten when an unsigned one follows",
    "scalars: a byte of a spilled number follows no 32-bit range",
    "scalars: 16 bits in little-endian order follow no 32-bit range",
    "stack: a byte of a 32-bit range comes back as any signed byte",
    "stack: bits of a number are lost when its half comes back signed",
    "branches: a bit of several that were tested is not known to be the one",
    "branches: a bit tested with a register that is no constant is not known",
    "branches: registers that share no bit are tested on both arms",
    "branches: numbers that are equal do not share 32-bit ranges",
)


@pytest.mark.parametrize("name", LOST)
def test_strict_keeps_what_the_kernel_loses_of_numbers(name: str) -> None:
    (case,) = (case for case in corpus() if case.id == name)
    program, obj, profile = case.program, case.object, case.profile
    assert isinstance(judge(program, obj, profile, JudgeRequest()), Rejected)
    strict = judge(program, obj, profile, JudgeRequest(policy=Policy.STRICT))
    assert isinstance(strict, Accepted)
    assert [warning.kind for warning in strict.warnings] == [Kind.LINT]


def test_strict_accepts_nothing_that_may_be_unsafe() -> None:
    code = DIVIDED.replace("(r0 + 7)", "(r0 + 8)")
    assert isinstance(verdict(code, "6.18", Policy.STRICT), Rejected)
