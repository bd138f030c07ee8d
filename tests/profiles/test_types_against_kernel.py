"""What profiles say of program types is what the running kernel answers: context accesses, return
values, helpers. PYBPFVM_ORACLE_TYPES=all asks for every byte of every context."""

from __future__ import annotations

import os
from itertools import groupby

import pytest

from pybpfvm import bpfsys
from pybpfvm.helpers.table import HELPERS
from pybpfvm.isa.codec import encode
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind
from pybpfvm.isa.table import SPECS
from pybpfvm.profiles.availability import KERNEL, offered
from pybpfvm.profiles.mainline import MAINLINE_NAMES, NUMBERS
from tests.support.ctx_probe import accesses, kernel_answers, our_answer
from tests.support.kernel_types import Variant, answer, btf_variants, offered_helpers, variants

EVERYTHING = os.environ.get("PYBPFVM_ORACLE_TYPES") == "all"
VARIANTS = variants()
_REASON = bpfsys.available()
_RUNNING = ".".join(os.uname().release.split("-")[0].split(".")[:2])

pytestmark = [
    pytest.mark.kernel_bpf,
    pytest.mark.skipif(_REASON is not None, reason=f"bpf(2): {_REASON}"),
    pytest.mark.skipif(_RUNNING != KERNEL, reason=f"the tables are of {KERNEL}, not {_RUNNING}"),
]


def _key(variant: Variant) -> str:
    return repr(variant.profile.ctx_fields)


# Types and attach types that describe the same context are asked about once, unless for all.
_CONTEXTS = (
    VARIANTS
    if EVERYTHING
    else tuple(next(same) for _, same in groupby(sorted(VARIANTS, key=_key), _key))
)


@pytest.mark.parametrize("variant", _CONTEXTS, ids=lambda variant: variant.id)
def test_context_accesses(variant: Variant) -> None:
    asked = list(accesses(variant.profile, EVERYTHING))
    theirs = kernel_answers(variant, asked)
    wrong = {}
    for access, said in theirs.items():
        ours = our_answer(variant, access)
        if ours == "unsupported":
            # Nothing is decided of pointers that BTF types; all else is.
            assert said.startswith("trusted_ptr"), access
        elif ours != said:
            wrong[access] = (ours, said)
    assert sum(bool(said) for said in theirs.values()) >= 2
    assert wrong == {}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.id)
def test_return_values(variant: Variant) -> None:
    low, high = variant.profile.returns or (-(1 << 31), (1 << 31) - 1)
    for value in {low - 1, low, 0, 1, 2, high, high + 1}:
        lddw = Insn(SPECS["lddw"], imm=value & ((1 << 64) - 1))
        with variant.load(encode((lddw, Insn(SPECS["exit"])))) as loaded:
            allowed = variant.profile.returns is None or low <= value <= high
            assert loaded.accepted == allowed, value


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.id)
def test_old_packet_loads(variant: Variant) -> None:
    insns = (
        Insn(SPECS["mov64_x"], dst=6, src=1),
        Insn(SPECS["ld_abs_b"]),
        Insn(SPECS["mov64_k"], imm=1),
        Insn(SPECS["exit"]),
    )
    assert insns[1].spec.kind is Kind.LD_ABS
    with variant.load(encode(insns)) as loaded:
        assert loaded.accepted == variant.profile.packet_loads


def test_helpers_offered() -> None:
    wrong = {}
    for variant in (*VARIANTS, *btf_variants()):
        profile = variant.profile
        theirs = offered_helpers(variant)
        ours = frozenset(offered(profile.name, profile.attach_type))
        if ours != theirs:
            wrong[variant.id] = (sorted(ours - theirs), sorted(theirs - ours))
        assert {NUMBERS[name]: name for name in ours} == dict(profile.helpers)
    assert wrong == {}


def test_helpers_for_gpl_programs_only() -> None:
    wrong = []
    for variant in VARIANTS:
        profile = variant.profile
        for number, name in profile.helpers.items():
            refused = "GPL-restricted" in answer(variant, number, license="MIT")
            if refused != HELPERS[name].needs_gpl(profile.name, profile.attach_type):
                wrong.append((variant.id, name, refused))
    assert wrong == []


def test_helpers_that_sleep() -> None:
    wrong = []
    for variant in VARIANTS:
        if variant.profile.name == "syscall":
            continue
        for number, name in variant.profile.helpers.items():
            if ("might sleep" in answer(variant, number)) != HELPERS[name].sleeps:
                wrong.append((variant.id, name))
    assert wrong == []


def test_every_number_is_asked_about() -> None:
    assert set(MAINLINE_NAMES) == set(range(212))
    assert len({variant.id for variant in VARIANTS}) == len(VARIANTS) >= 50
