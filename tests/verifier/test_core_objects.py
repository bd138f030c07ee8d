"""The committed objects of ring programs: accepted for the ABI that they were built for, except
those that say what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybpfvm.loader import load
from pybpfvm.profiles import profile_named
from pybpfvm.verifier.verdict import Accepted, Kind, Rejected, Rule
from pybpfvm.verifier.verify import verify

ROOT = Path(__file__).parents[2]
FINE = sorted(
    [
        *ROOT.glob("examples/*/prog.v[23].bpf.o"),
        *(ROOT / "tests/acceptance").glob("tables.*.bpf.o"),
        *(ROOT / "tests/acceptance").glob("rows.*.bpf.o"),
        *(ROOT / "tests/acceptance").glob("submit_bad.*.bpf.o"),
    ]
)
_V2_RETURNS = {"return_one", "return_two", "return_unknown"}
REFUSED = {
    "v2": _V2_RETURNS | {"wide_store", "narrow_load", "beyond_ctx", "unknown_helper"},
    "v2-futex": _V2_RETURNS | {"wide_store", "narrow_load", "beyond_ctx", "unknown_helper"},
    "v3base": _V2_RETURNS | {"wide_store", "narrow_load", "beyond_ctx", "unknown_helper"},
    "v3": {"return_two", "return_unknown", "wide_store", "narrow_load", "beyond_ctx"}
    | {"unknown_helper", "write_user_data"},
}
RULES = {
    "return_one": Rule.RETURN_VALUE,
    "return_two": Rule.RETURN_VALUE,
    "return_unknown": Rule.RETURN_VALUE,
    "wide_store": Rule.CTX_ACCESS,
    "narrow_load": Rule.CTX_ACCESS,
    "beyond_ctx": Rule.CTX_ACCESS,
    "write_user_data": Rule.CTX_ACCESS,
    "unknown_helper": Rule.UNKNOWN_HELPER,
}


def _abi(path: Path) -> str:
    return path.name.split(".")[1]


@pytest.mark.parametrize("path", FINE, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_program_is_accepted(path: Path) -> None:
    obj = load(path)
    profile = profile_named(f"iouring-{_abi(path)}")
    assert obj.programs
    for program in obj.programs:
        verdict = verify(program, obj, profile)
        assert isinstance(verdict, Accepted), (program.name, verdict)
        assert verdict.stats.processed_insns >= len(program.insns) // 2


@pytest.mark.parametrize("abi", sorted(REFUSED))
def test_load_checks_are_refused_as_they_say(abi: str) -> None:
    obj = load(ROOT / f"tests/acceptance/load_checks.{abi}.bpf.o")
    profile = profile_named(f"iouring-{abi}")
    refused = {}
    for program in obj.programs:
        verdict = verify(program, obj, profile)
        if isinstance(verdict, Rejected):
            refused[program.name] = verdict.errors[0]
        else:
            assert isinstance(verdict, Accepted), verdict
    assert set(refused) == REFUSED[abi]
    for name, error in refused.items():
        assert error.rule is RULES[name], error
        assert error.kind is Kind.POLICY
        assert error.source is None or error.source.line > 0


def test_only_sleepable_programs_may_sleep() -> None:
    obj = load(ROOT / "tests/acceptance/not_sleepable.v2.bpf.o")
    profile = profile_named("iouring-v2")
    assert isinstance(verify(obj.program("emits"), obj, profile), Accepted)
    for name in ("submits", "copies"):
        verdict = verify(obj.program(name), obj, profile)
        assert isinstance(verdict, Rejected)
        assert verdict.errors[0].rule is Rule.HELPER_NOT_ALLOWED


def test_merged_stores_pass_where_the_context_is_not_strict() -> None:
    from pybpfvm.verifier.verify import Options

    obj = load(ROOT / "tests/acceptance/load_checks.v2.bpf.o")
    verdict = verify(
        obj.program("wide_store"),
        obj,
        profile_named("iouring-v2"),
        options=Options(strict_ctx=False),
    )
    assert isinstance(verdict, Accepted)
