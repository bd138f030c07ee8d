"""What is known of numbers after every instruction, compared with what the running kernel knows.

Where we knew more than the kernel, we would accept what it refuses. PYBPFVM_ORACLE_SCALARS is the
number of generated programs, PYBPFVM_ORACLE_SEED the first seed.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from pybpfvm import bpfsys
from pybpfvm.isa.codec import encode
from pybpfvm.verifier.domains import alu
from pybpfvm.verifier.domains.scalar import Scalar, is_subsumed_by
from pybpfvm.verifier.log import KernelLog
from pybpfvm.verifier.verdict import Accepted
from pybpfvm.verifier.verify import Options, verify
from tests.support.scalar_states import program, scalar, scalars
from tests.support.verifier_cases import program_of
from tests.support.verifier_logs import normalised, read

PROGRAMS = int(os.environ.get("PYBPFVM_ORACLE_SCALARS", "500"))
FIRST_SEED = int(os.environ.get("PYBPFVM_ORACLE_SEED", "0"))
# Of what both say of a number, how much must be the same; the rest we know less of.
LEAST_SAME = 0.995


@pytest.fixture(scope="module")
def kernel() -> None:
    reason = bpfsys.available()
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.kernel_bpf
def test_no_number_is_known_better_than_the_kernel_knows_it(kernel: None) -> None:
    counted, sharper = compared(range(FIRST_SEED, FIRST_SEED + PROGRAMS))
    print(dict(counted))
    assert not sharper, "\n".join(sharper[:5])
    assert counted["compared"] > 5 * PROGRAMS
    assert counted["same"] >= LEAST_SAME * counted["compared"], counted


@pytest.mark.kernel_bpf
def test_what_the_kernel_loses_does_not_stay_hidden(
    kernel: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, ours in (("KERNEL64", alu.TRANSFER64), ("KERNEL32", alu.TRANSFER32)):
        monkeypatch.setattr(alu, name, ours)
    _, sharper = compared(range(300))
    assert sharper


def compared(seeds: range) -> tuple[Counter[str], list[str]]:
    """How many numbers were compared and how many are the same; what we knew better, in text."""
    counted: Counter[str] = Counter()
    sharper = []
    for seed in seeds:
        text = program(seed)
        theirs, ours = logs(text)
        # From the first number that differs on, one follows from the other.
        for (pc, insn, said), (at, _, known) in zip(theirs, ours, strict=False):
            if pc != at:
                break
            counted["compared"] += len(said.keys() & known)
            differing = [name for name in said.keys() & known if said[name] != known[name]]
            counted["same"] += len(said.keys() & known) - len(differing)
            for name in differing:
                if is_subsumed_by(said[name], known[name]):
                    continue
                sharper.append(
                    f"seed {seed}, {pc}: {insn}: R{name} is {said[name]}, we say {known[name]}"
                )
            if differing:
                break
    return counted, sharper


def logs(text: str) -> tuple[list[tuple[int, str, dict[str, Scalar]]], ...]:
    """The numbers of the kernel's log, and of ours."""
    made, obj, profile = program_of(text, where="numbers", type_name="socket_filter", typed=False)
    with bpfsys.prog_load(
        encode(made.insns), prog_type=profile.prog_type, license="GPL", log_level=2
    ) as loaded:
        said = loaded.log
        accepted = loaded.accepted
    log = KernelLog(made, obj, profile, level=2)
    verdict = verify(made, obj, profile, options=Options(observer=log))
    assert accepted == isinstance(verdict, Accepted), f"{text}\n{said}"
    written = log.text(verdict)
    return tuple(list(scalars(normalised(read(one)))) for one in (said, written))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-8", {"smin": -8, "value": 2**64 - 8, "mask": 0}),
        ("scalar()", {"smin": -(2**63), "umax": 2**64 - 1, "mask": 2**64 - 1}),
        (
            "scalar(id=2,smin=umin=1,smax32=0x80000007,var_off=(0x1; 0xfe))",
            {"smin": 1, "umin": 1, "s32max": 7 - 2**31, "u32max": 2**32 - 1, "mask": 0xFE},
        ),
        (
            "scalar(smin=0xffffffff80000000,smax=0x7fffffff)",
            {"smin": -(2**31), "s32max": 2**31 - 1},
        ),
    ],
)
def test_numbers_are_read(text: str, expected: dict[str, int]) -> None:
    found = scalar(text)
    assert {name: getattr(found, name) for name in expected} == expected
