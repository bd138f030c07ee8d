"""What kernels 7.1 and 7.2 load of programs with a loop: abi/iouring-bpf-upstream, 3.2, 3.4, 5.9.

Names in the source say which: `no_` is refused, `ok_` its accepted twin.
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pybpfvm.session import LoadedObject, Machine
from pybpfvm.verifier.errnos import errno_of
from pybpfvm.verifier.verdict import Accepted, Rejected, Rule

HERE = Path(__file__).parent
ABIS = ("loop-7.1", "loop-7.2")
# The rule that each is refused by.
REFUSED = {
    "no_size_variable": Rule.KFUNC_ARG,
    "no_null_check": Rule.POSSIBLY_NULL,
    "no_byte_at_size": Rule.MEM_ACCESS,
    "no_byte_before": Rule.MEM_ACCESS,
    "no_index_without_mask": Rule.MEM_ACCESS,
    "no_size_0_write": Rule.READ_ONLY,
    "no_size_0_second_byte": Rule.MEM_ACCESS,
    "no_pointer_kept": Rule.NOT_A_POINTER,
    "no_helper_memory": Rule.MEM_ACCESS,
    "no_params_8": Rule.BTF_ACCESS,
    "no_params_at_4": Rule.BTF_ACCESS,
    "no_params_across": Rule.BTF_ACCESS,
    "no_params_before": Rule.BTF_ACCESS,
    "no_args_write": Rule.CTX_ACCESS,
    "no_args_third": Rule.CTX_ACCESS,
    "no_args_half": Rule.CTX_ACCESS,
    "no_ring_is_no_number": Rule.KFUNC_ARG,
    "no_ring_is_not_params": Rule.KFUNC_ARG,
    "no_ring_is_no_region": Rule.KFUNC_ARG,
    "no_ring_is_no_variable": Rule.KFUNC_ARG,
    "no_ring_is_no_stack": Rule.KFUNC_ARG,
    "no_size_huge": Rule.MEM_ACCESS,
    "no_size_of_32_zeros": Rule.MEM_ACCESS,
    "no_global_ring_as_params": Rule.HELPER_ARG,
    "no_global_null": Rule.HELPER_ARG,
    "no_global_params_as_memory": Rule.READ_ONLY,
    "no_global_region_small": Rule.MEM_ACCESS,
    "no_submit_unless_sleepable": Rule.KFUNC_NOT_ALLOWED,
    "no_loop_unbounded": Rule.INFINITE_LOOP,
    "no_weak_reached": Rule.UNKNOWN_HELPER,
}
ACCEPTED = [
    "ok_size_constant",
    "ok_last_byte",
    "ok_masked_index",
    "ok_size_0_read",
    "ok_size_huge",
    "ok_global_params",
    "ok_global_region",
    "ok_second_checked_first",
    "ok_after_submit",
    "ok_atomic",
    "ok_pointer_stored",
    "ok_helper_memory",
    "ok_subprogram",
    "ok_params_1",
    "ok_params_2",
    "ok_params_4",
    "ok_params_read",
    "ok_region_unless_sleepable",
    "ok_loop_bounded",
    "ok_returns_5",
    "ok_returns_anything",
    "ok_weak_switched_off",
]


@pytest.fixture(params=ABIS)
def obj(request: pytest.FixtureRequest) -> LoadedObject:
    return Machine().load(HERE / "loop_load.bpf.o", abi=request.param)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(obj: LoadedObject, name: str) -> None:
    verdict = obj[name].verdict()
    assert isinstance(verdict, Rejected)
    assert verdict.errors[0].rule is REFUSED[name]


@pytest.mark.parametrize("name", ["no_size_0_write", "no_size_0_second_byte"])
def test_a_region_of_size_0_is_called_empty(obj: LoadedObject, name: str) -> None:
    verdict = obj[name].verdict()
    assert isinstance(verdict, Rejected)
    error = verdict.errors[0]
    assert error.reason.startswith("the memory is empty: bpf_io_uring_get_region is asked for 0")
    assert error.suggestion.startswith("ask for as many bytes at line ")


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(obj: LoadedObject, name: str) -> None:
    assert isinstance(obj[name].verdict(), Accepted)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("no_size_variable", errno.EINVAL),
        ("no_params_8", errno.EACCES),
        ("no_params_at_4", errno.EACCES),
        ("no_ring_write", errno.EACCES),
        ("no_submit_unless_sleepable", errno.EACCES),
    ],
)
def test_the_errno_of_the_load(obj: LoadedObject, name: str, number: int) -> None:
    verdict = obj[name].verdict()
    assert isinstance(verdict, Rejected)
    assert errno_of(verdict.errors[0].rule) == number


def test_only_7_1_shows_the_ring() -> None:
    with Machine() as machine:
        shown, opaque = (machine.load(HERE / "loop_load.bpf.o", abi=abi) for abi in ABIS)
        assert isinstance(shown["ring_read"].verdict(), Accepted)
        verdict = opaque["ring_read"].verdict()
        assert isinstance(verdict, Rejected)
        assert verdict.errors[0].rule is Rule.BTF_ACCESS


def test_the_licence_must_be_compatible_with_the_gpl() -> None:
    with Machine() as machine:
        obj = machine.load(HERE / "loop_licence.bpf.o", abi="loop-7.2")
        assert isinstance(obj["stops"].verdict(), Rejected)


def test_a_suggested_way_out_stops_the_loop() -> None:
    """What `return 0` means to the ring is to go on."""
    with Machine() as machine:
        obj = machine.load(HERE / "loop_load.bpf.o", abi="loop-7.2")
        for name in ("no_null_check", "no_index_without_mask"):
            verdict = obj[name].verdict()
            assert isinstance(verdict, Rejected)
            assert ") return 1;`" in verdict.errors[0].suggestion
