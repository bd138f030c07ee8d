"""Global functions with pointer parameters: the running kernel confirms, then we are judged."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pybpfvm import bpfsys
from pybpfvm.loader.object import load
from pybpfvm.loader.target import kernel_btf
from pybpfvm.profiles import PROFILES
from pybpfvm.session.judging import JudgeRequest, judge_case, read_cases
from pybpfvm.session.kernel_object import KernelObject
from pybpfvm.verifier.verdict import Accepted, Inconclusive, Rejected, Rule
from pybpfvm.verifier.verify import verify

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
    "number": Rule.UNSUPPORTED,
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


# Objects of the kernel's, as such parameters, by the running kernel's BTF.
TRUSTED = Path(__file__).parent / "data" / "trusted.bpf.o"
REFUSED = {
    "no_null": Rule.HELPER_ARG,
    "no_number": Rule.HELPER_ARG,
    "no_stack": Rule.HELPER_ARG,
    "no_offset": Rule.HELPER_ARG,
    "no_check": Rule.POSSIBLY_NULL,
    "no_leak": Rule.REFERENCE_LEAK,
    "no_release": Rule.RELEASE_UNOWNED,
    "no_plain": Rule.READ_ONLY,
    "no_stranger": Rule.HELPER_ARG,
    "no_released": Rule.HELPER_ARG,
    "no_acquired_unchecked": Rule.POSSIBLY_NULL,
    "no_void": Rule.HELPER_ARG,
    "no_pointer": Rule.HELPER_ARG,
    "no_void_parameter": Rule.HELPER_ARG,
    "no_maybe_null_small": Rule.MAP_VALUE_ACCESS,
}


def test_the_object_has_these_programs() -> None:
    assert {program.name for program in OBJECT.programs} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_verdict(name: str) -> None:
    verdict = verify(OBJECT.program(name), OBJECT, XDP)
    rule = EXPECTED[name]
    if rule is None:
        assert isinstance(verdict, Accepted)
    elif rule is Rule.UNSUPPORTED:
        assert isinstance(verdict, Inconclusive)
    else:
        assert isinstance(verdict, Rejected)
        assert verdict.errors[0].rule is rule


def test_an_sqe_that_a_global_function_got_may_be_submitted() -> None:
    """Only iouring-x has memory that changes while a helper reads it."""
    obj = load(OBJECT_WITH_SQE)
    assert isinstance(verify(obj.programs[0], obj, PROFILES["iouring-v3"]), Accepted)


@pytest.mark.kernel_bpf
def test_the_kernel_says_the_same() -> None:
    reason = bpfsys.available()
    if reason is not None:
        pytest.skip(reason)
    with KernelObject(OBJECT) as kernel:
        for name, rule in EXPECTED.items():
            with kernel.load(OBJECT.program(name), XDP) as loaded:
                assert loaded.accepted == (rule is None or name in LOOSER_KERNEL), name


def test_objects_of_the_kernel_as_parameters() -> None:
    if kernel_btf() is None:
        pytest.skip("the running kernel shows no BTF")
    request = JudgeRequest(witness_runs=0)
    found = read_cases(TRUSTED, request)
    for case in found.cases:
        name = case.program.name
        verdict = judge_case(found.obj, case, request)
        if name.startswith("ok_"):
            assert isinstance(verdict, Accepted), name
        else:
            assert isinstance(verdict, Rejected), name
            assert verdict.errors[0].rule is REFUSED[name], name


@pytest.mark.kernel_bpf
def test_the_kernel_says_the_same_of_them() -> None:
    reason = bpfsys.available()
    if reason is not None:
        pytest.skip(reason)
    found = read_cases(TRUSTED, JudgeRequest())
    with KernelObject(found.obj) as kernel:
        for case in found.cases:
            assert case.profile is not None
            with kernel.load(case.program, case.profile) as loaded:
                if loaded.errno == errno.EPERM:
                    pytest.skip("this machine lets nobody attach to functions")
                assert loaded.accepted == case.program.name.startswith("ok_"), case.program.name
