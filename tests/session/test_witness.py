"""Witnesses: inputs that make the sandbox trap where the verifier said; each replays exactly.

PYBPFVM_WITNESS_PROGRAMS is the number of generated programs.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest

from pybpfvm.errors import TrapKind
from pybpfvm.fuzz.claims import listing
from pybpfvm.fuzz.typed_programs import Generated, generate
from pybpfvm.helpers.table import HELPERS
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.opcodes import Kind as InsnKind
from pybpfvm.profiles import PROFILES
from pybpfvm.session.judged import judged_program
from pybpfvm.session.witness import (
    FORBIDDEN,
    PROOFS,
    describe,
    modelled,
    replay,
    with_witness,
)
from pybpfvm.session.witness_text import context_text, context_values
from pybpfvm.verifier.explaining.causes import failing_paths
from pybpfvm.verifier.privileges.privilege import ALL
from pybpfvm.verifier.verdict import Finding, Kind, Rejected, Rule, Statistics, Witness
from pybpfvm.verifier.verify import Options, verify
from tests.support.verifier_cases import Case, corpus

PROGRAMS = int(os.environ.get("PYBPFVM_WITNESS_PROGRAMS", "120"))
OPTIONS = Options(budget_insns=20_000)

# Unsafe cases that no inputs of one run can show, and why.
_BEYOND = {
    "the last instruction is a conditional jump": "nothing leads to it: forbidden, not harmful",
    "null check of another lookup counts for nothing": "someone else would have to insert between",
    "pointer loaded from a map value is a number": "someone else would have to change the value",
    "atomic addition on a spilled pointer": "the sum happens to be inside the value",
    "32-bit range check proves nothing": "the packet would have to lie across a 4 GiB boundary",
    "zero on one path, stored at a place that is not known": "two random numbers must fit at once",
    "metadata checked against the packet's end proves nothing": "runs here have no metadata",
    "what the loop changed is used behind it": "takes more turns than the sandbox allows",
    "the inner loop spoils the index of the outer one": "takes more turns than the sandbox allows",
    "A27: reference kept over runs of a callback": "it is refused before any run leaks",
}


def _runs_here(case: Case) -> bool:
    """Whether the sandbox has what the program calls and points to: no kernel objects."""
    for insn in case.program.insns:
        helper = HELPERS.get(case.profile.helpers.get(insn.imm, ""))
        if insn.spec.kind is InsnKind.CALL_KFUNC or (
            insn.spec.kind is InsnKind.CALL and helper is not None and helper.impl is None
        ):
            return False
    verdict = verify(case.program, case.object, case.profile, options=OPTIONS)
    if not isinstance(verdict, Rejected):
        return True
    paths = failing_paths(case.program, case.object, case.profile, verdict, OPTIONS)
    return all(modelled(path) for path in paths.values())


def _witnessed(made: Case | Generated, max_runs: int = 120) -> Finding | None:
    """The first error with what was found out; None if it is not one that could be harmful."""
    options = replace(OPTIONS, caps=getattr(made, "caps", ALL))
    verdict = verify(made.program, made.object, made.profile, options=options)
    if not isinstance(verdict, Rejected):
        return None
    verdict = replace(verdict, errors=verdict.errors[:1])
    found = with_witness(
        made.program, made.object, made.profile, verdict, options, max_runs=max_runs
    )
    assert isinstance(found, Rejected)
    (error,) = found.errors
    assert (error.kind is Kind.UNSAFE) == (error.witness is not None)
    if error.witness is None:
        return error
    trap = replay(made.program, made.object, made.profile, error.witness)
    where = f"{error.message} at {error.pc}\n{error.witness}\n{listing(made.program)}"
    assert trap is not None, where
    assert (trap.kind.value, trap.pc) == (error.witness.trap, error.witness.pc), where
    proof = PROOFS[error.rule]
    assert trap.kind in proof.traps, where
    assert proof.later or trap.pc == error.pc, where
    assert describe(error.witness), where
    return error


def _could_be_shown(case: Case) -> bool:
    shown = case.expected.kind is Kind.UNSAFE and case.caps == ALL and case.runnable
    return shown and _runs_here(case)


@cache
def _unsafe() -> tuple[Case, ...]:
    return tuple(case for case in corpus() if _could_be_shown(case))


def test_every_unsafe_case_has_a_witness() -> None:
    missing = []
    for case in _unsafe():
        if case.name in _BEYOND:
            continue
        error = _witnessed(case)
        if error is None or error.witness is None:
            missing.append(f"{case.id}: {error.message if error is not None else 'not rejected'}")
    assert not missing, "\n".join(missing)
    assert len(_unsafe()) >= 140


def test_the_cases_that_can_not_be_shown_are_cases() -> None:
    assert set(_BEYOND) <= {case.name for case in _unsafe()}
    assert len(_BEYOND) < len(_unsafe()) / 12


def test_what_is_unproven_and_not_unsafe_has_none() -> None:
    for case in corpus():
        if case.expected.kind is Kind.UNPROVEN:
            error = _witnessed(case, max_runs=30)
            assert error is None or error.witness is None, f"{case.id}: {error}"


def test_generated_programs() -> None:
    found: Counter[bool] = Counter()
    for seed in range(PROGRAMS):
        error = _witnessed(generate(seed), max_runs=40)
        if error is not None and error.kind in (Kind.UNSAFE, Kind.UNPROVEN):
            found[error.witness is not None] += 1
    print(f"{found[True]} of {found.total()} errors that could be harmful have a witness")
    assert found[True] >= found.total() * 0.6


def test_the_same_search_gives_the_same_witness() -> None:
    for seed in range(20):
        one, other = _witnessed(generate(seed), 20), _witnessed(generate(seed), 20)
        assert one == other


@pytest.mark.parametrize("rule", Rule)
def test_claims_without_a_witness_come_down(rule: Rule) -> None:
    case = next(case for case in corpus() if case.expected.verdict == "accept")
    claimed = Rejected(Statistics(), (Finding(rule, Kind.UNSAFE, 0, "claimed"),))
    found = with_witness(
        case.program, case.object, case.profile, claimed, OPTIONS, paths={}, max_runs=1
    )
    assert isinstance(found, Rejected)
    expected = Kind.POLICY if rule in FORBIDDEN else Kind.UNPROVEN
    assert (found.errors[0].kind, found.errors[0].witness) == (expected, None)


def test_the_kernels_policies_need_no_proof() -> None:
    case = next(case for case in corpus() if case.expected.kind is Kind.POLICY)
    error = _witnessed(case)
    assert error is not None
    assert (error.kind, error.witness) == (Kind.POLICY, None)


def _assembled(name: str, text: str, profile: str) -> Case:
    base = next(case for case in corpus() if case.profile.name == profile)
    numbers = {helper: number for number, helper in PROFILES[profile].helpers.items()}
    maps = {spec.name: index for index, spec in enumerate(base.object.maps)}
    insns = assemble(text, where=name, calls=numbers, maps=maps)
    program = replace(base.program, insns=insns, subprogs=())
    return replace(
        base, name=name, program=program, object=replace(base.object, programs=(program,))
    )


_INPUTS = {
    "user memory": (
        "iouring-v3",
        """
          r3 = *(u64 *)(r1 + 0)
          r1 = r10
          r1 += -8
          r2 = 8
          call copy_from_user
          r1 = *(u64 *)(r10 - 8)
          if r1 != 0x1234 goto out
          r1 = *(u64 *)(r1 + 0)
        out:
          r0 = 0
          exit
        """,
        "bpf_copy_from_user finds 34 12 and 6 zero bytes at user address",
    ),
    "random number, shifted and masked": (
        "socket_filter",
        """
          call get_prandom_u32
          r0 >>= 3
          r0 ^= 0x55
          r0 &= 0xffff
          if r0 != 0x3210 goto out
          r1 = 8
          r1 = *(u64 *)(r1 + 0)
        out:
          r0 = 0
          exit
        """,
        "bpf_get_prandom_u32 returns",
    ),
    "no room for a record": (
        "socket_filter",
        """
          r1 = map[ring] ll
          r2 = 32
          r3 = 0
          call ringbuf_reserve
          *(u64 *)(r0 + 0) = 1
          r1 = r0
          r2 = 0
          call ringbuf_submit
          r0 = 0
          exit
        """,
        "bpf_ringbuf_reserve fails",
    ),
    "two loads of the packet and a short one": (
        "xdp",
        """
          r0 = 0
          r2 = *(u32 *)(r1 + 0)
          r3 = *(u32 *)(r1 + 4)
          r4 = r2
          r4 += 16
          if r4 > r3 goto out
          r5 = *(u16 *)(r2 + 12)
          r5 = be16 r5
          if r5 != 0x800 goto out
          r5 = *(u8 *)(r2 + 14)
          if r5 s< 0x45 goto out
          r5 = *(u8 *)(r2 + 16)
        out:
          exit
        """,
        "packet of 16 bytes: 00 00 00 00 00 00 00 00 00 00 00 00 08 00 45",
    ),
    "a sum of two inputs": (
        "iouring-v3",
        """
          r2 = *(u64 *)(r1 + 0)
          r3 = r2
          r3 *= 7
          r3 += 3
          if r3 != 0x4c goto out
          r4 = r10
          r4 += r2
          r4 = *(u8 *)(r4 + 0)
        out:
          r0 = 0
          exit
        """,
        "context: user_data = 0x",
    ),
}


@pytest.mark.parametrize("name", _INPUTS)
def test_inputs_are_found_and_told(name: str) -> None:
    profile, text, told = _INPUTS[name]
    error = _witnessed(_assembled(name, text, profile))
    assert error is not None
    assert error.witness is not None, error
    lines = describe(error.witness, PROFILES[profile].ctx_fields)
    assert any(told in line for line in lines), lines


def test_a_context_is_told_by_the_names_of_its_fields() -> None:
    fields = PROFILES["iouring-v3"].ctx_fields
    first, second = fields[0], fields[1]
    size = first.size + second.size
    assert (first.offset, second.offset) == (0, first.size)
    ctx = (7).to_bytes(first.size, "little") + (1 << 20).to_bytes(second.size, "little")
    named = f"{first.name} = 7, {second.name} = 0x100000"
    assert context_text(ctx, fields) == named
    assert context_text(ctx[: first.size] + bytes(second.size), fields) == f"{first.name} = 7"
    assert context_text(ctx + b"\1\2", fields[:2]) == f"{named}, at offset {size}: 01 02"
    assert context_text(b"\0\5", ()) == "at offset 1: 05"


def test_fields_that_the_program_reads_are_told_when_they_are_zero() -> None:
    case = _assembled("reads", "r1 = *(u64 *)(r1 + 0)\n r0 = *(u64 *)(r1 + 0)\n exit", "iouring-v3")
    error = _witnessed(case)
    assert error is not None
    assert error.witness is not None
    verdict = Rejected(Statistics(), (error,))
    judged = judged_program(case.program, case.object, case.profile, verdict)
    assert not any(error.witness.ctx)
    told = describe(error.witness, judged.ctx_fields, judged.ctx_read)
    assert told == ("context: user_data = 0",)
    named = dict(context_values(error.witness.ctx, judged.ctx_fields))
    assert named == {"user_data": 0, "wait_nr": 0, "wait_idx": 0}


def test_inputs_that_are_no_witness_do_not_trap() -> None:
    case = next(one for one in corpus() if one.expected.verdict == "accept" and one.runnable)
    nothing = Witness(TrapKind.NULL.value, packet=bytes(64) if case.profile.packet else b"", pc=0)
    assert replay(case.program, case.object, case.profile, nothing) is None
