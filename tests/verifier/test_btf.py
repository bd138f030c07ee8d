"""Programs on kernel objects: generated ones judged as the running kernel does, and objects whose
calls name kernel functions. PYBPFVM_ORACLE_SEED is the first seed."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from pybpfvm import bpfsys
from pybpfvm.btf.types import Btf, BtfKind, FuncProto, Ptr, Struct
from pybpfvm.fuzz.kernel_verdicts import Comparison, KernelVerifier, compared, same_place
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.codec import encode
from pybpfvm.isa.opcodes import Kind as InsnKind
from pybpfvm.loader.object import load
from pybpfvm.loader.target import kernel_btf
from pybpfvm.profiles.btf_typed import btf_typed_profile
from pybpfvm.program import BpfObject, Program, Subprog
from pybpfvm.session.kernel_journal import Journal
from pybpfvm.verifier.kernelobjects import btfwalk
from pybpfvm.verifier.verdict import Accepted, Inconclusive, Kind, Rejected, Rule, Verdict
from pybpfvm.verifier.verify import Options, verify
from tests.support.btf_programs import Made, generate
from tests.support.kernel_types import Variant

PROGRAMS = int(os.environ.get("PYBPFVM_BTF_PROGRAMS", "200"))
FIRST_SEED = int(os.environ.get("PYBPFVM_ORACLE_SEED", "1000"))
DATA = Path(__file__).parent / "data"


@pytest.fixture
def btf() -> Btf:
    reason = bpfsys.available()
    found = kernel_btf()
    if reason is not None or found is None:
        pytest.skip(reason or "the kernel does not show its BTF")
    return found


def _judged(made: Made) -> Verdict:
    return verify(made.program, made.object, made.profile, options=Options(budget_insns=50_000))


@pytest.mark.kernel_bpf
def test_nothing_is_accepted_that_the_kernel_refuses(btf: Btf, tmp_path: Path) -> None:
    counted: Counter[object] = Counter()
    with KernelVerifier((), Journal(tmp_path / "journal")) as kernel:
        for seed in range(FIRST_SEED, FIRST_SEED + PROGRAMS):
            made = generate(seed, btf)
            said = kernel.judge(made.program.insns, made.profile, section=made.program.section)
            assert said is not None
            ours = _judged(made)
            relation = compared(said, ours)
            assert relation is not Comparison.LOOSER, f"seed {seed}: {said.message}\n{made.text}"
            counted[relation] += 1
            counted["accepted"] += said.accepted
            counted[same_place(said, ours)] += 1
    assert counted[Comparison.AGREED] >= 0.97 * PROGRAMS, counted
    assert 0.2 < counted["accepted"] / PROGRAMS < 0.7
    assert counted[True] >= 0.97 * (counted[True] + counted[False]), counted


@pytest.mark.kernel_bpf
def test_a_verifier_that_trusts_every_offset_is_noticed(
    btf: Btf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def walk(*_: object) -> btfwalk.Reached:
        return btfwalk.Reached()

    monkeypatch.setattr(btfwalk, "walk", walk)
    looser = 0
    with KernelVerifier(()) as kernel:
        for seed in range(100):
            made = generate(seed, btf)
            said = kernel.judge(made.program.insns, made.profile, section=made.program.section)
            assert said is not None
            looser += compared(said, _judged(made)) is Comparison.LOOSER
    assert looser


@pytest.mark.kernel_bpf
def test_an_object_calls_kernel_functions_by_name(btf: Btf) -> None:
    obj = load(DATA / "kfuncs.bpf.o")
    verdicts = {}
    for program in obj.programs:
        profile = btf_typed_profile(program.section)
        assert profile is not None
        verdicts[program.name] = verify(program, obj, profile)
    calls = [i for i in obj.program("good").insns if i.spec.kind is InsnKind.CALL_KFUNC]
    assert [btf.name(call.imm) for call in calls] == ["bpf_task_from_pid", "bpf_task_release"]
    assert isinstance(verdicts["good"], Accepted)
    leaks, weak = verdicts["leaks"], verdicts["weak"]
    assert isinstance(leaks, Rejected)
    assert leaks.errors[0].rule is Rule.REFERENCE_LEAK
    assert isinstance(weak, Rejected)
    assert weak.errors[0].rule is Rule.UNKNOWN_HELPER


def test_no_target_btf_is_no_verdict() -> None:
    obj = load(DATA / "kfuncs.bpf.o", target_btf=lambda _: None)
    assert [program.name for program in obj.programs] == ["weak"]
    assert "program good is left out: it uses extern function bpf_task_from_pid" in "\n".join(
        obj.unsupported
    )


def test_a_target_without_the_tracepoint_has_nothing_to_attach_to() -> None:
    program = load(DATA / "kfuncs.bpf.o", target_btf=lambda _: None).program("weak")
    obj = load(DATA / "kfuncs.bpf.o", target_btf=lambda _: None)
    profile = btf_typed_profile(program.section)
    assert profile is not None
    verdict = verify(program, obj, profile, options=Options(target_btf=Btf.of(())))
    assert isinstance(verdict, Rejected)
    assert (verdict.errors[0].rule, verdict.errors[0].kind) == (Rule.ATTACH_TARGET, Kind.POLICY)


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("fentry.s/bpf_fentry_test1", "bpf_fentry_test1"),
        ("fexit.s/bpf_fentry_test1", "bpf_fentry_test1"),
        ("lsm.s/file_open", "bpf_lsm_file_open"),
    ],
)
def test_whether_a_target_may_sleep_is_not_guessed(section: str, name: str) -> None:
    if kernel_btf() is None:
        pytest.skip("the running kernel shows no BTF")
    insns = assemble("r0 = 0\nexit", where="returns 0")
    for awake, kind in ((section.replace(".s/", "/"), Accepted), (section, Inconclusive)):
        profile = btf_typed_profile(awake)
        assert profile is not None
        program = Program("target", awake, insns, license="GPL")
        verdict = verify(program, BpfObject("target", "", (program,), ()), profile)
        assert isinstance(verdict, kind), awake
    assert isinstance(verdict, Inconclusive)
    assert verdict.finding.feature == f"whether {name} may sleep, as a sleepable program needs"


def _members_for_programs(btf: Btf, struct: str) -> dict[str, bool]:
    """Names of the struct's functions, and whether they return nothing."""
    found = btf.type(btf.find(struct, BtfKind.STRUCT) or 0)
    assert isinstance(found, Struct)
    members = {}
    for member in found.members:
        pointer = btf.type(btf.resolve(member.type_id))
        proto = btf.type(btf.resolve(pointer.type_id)) if isinstance(pointer, Ptr) else None
        if isinstance(proto, FuncProto):
            members[member.name] = not proto.return_id
    return members


@pytest.mark.kernel_bpf
@pytest.mark.parametrize(
    "code",
    [
        "exit",
        "r0 = 0\nexit",
        "r0 = r1\nexit",
        "r0 = *(u64 *)(r1 + 0)\nexit",
        "call f\nexit\nf: exit",
    ],
    ids=["left alone", "a number", "the context", "an argument", "by a function"],
)
def test_what_callbacks_leave_in_r0_is_judged_as_by_the_kernel(btf: Btf, code: str) -> None:
    """Those that return nothing need not set it."""
    struct = "tcp_congestion_ops"
    profile = btf_typed_profile("struct_ops/")
    assert profile is not None
    insns = assemble(code)
    kinds = set()
    for member, void in _members_for_programs(btf, struct).items():
        section = f"struct_ops/{struct}/{member}"
        with Variant(profile, section).load(encode(insns)) as loaded:
            theirs = loaded.accepted
        slots = sum(insn.slots for insn in insns)
        functions = (Subprog(member, 0, slots, True),)
        program = Program(member, section, insns, functions, license="GPL")
        verdict = verify(program, BpfObject("made", "GPL", (program,), ()), profile)
        assert isinstance(verdict, Accepted if theirs else Rejected), member
        kinds.add((void, theirs))
    assert (True, True) in kinds
    assert (False, "r0 = " in code) in kinds
