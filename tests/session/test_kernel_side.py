"""Asking the running kernel, and the journal that keeps a machine from going down twice."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pybpfvm import bpfsys
from pybpfvm.btf.types import (
    Btf,
    Datasec,
    Func,
    FuncLinkage,
    FuncProto,
    Int,
    Member,
    SectionVar,
    Struct,
)
from pybpfvm.cli import main
from pybpfvm.errors import InputError
from pybpfvm.isa.asm import assemble
from pybpfvm.profiles.btf_typed import btf_typed_profile
from pybpfvm.program import BpfObject, MapSpec, MapType, Program
from pybpfvm.session.against import RunningKernel, last_words, refused_pc
from pybpfvm.session.judged import Agreement, KernelSide, judged_program
from pybpfvm.session.judging import JudgeRequest, ObjectCases, judge_case, read_cases
from pybpfvm.session.kernel_journal import Journal
from pybpfvm.session.kernel_object import MAX_MAP_BYTES, KernelObject, without_externs
from pybpfvm.verifier.kernelobjects.attach import is_btf_typed
from pybpfvm.verifier.verdict import Accepted, Inconclusive, Rejected

ROOT = Path(__file__).parents[2]
MISTAKES = ROOT / "tests/ordinary/mistakes.bpf.o"
OBJECTS = sorted((ROOT / "tests/ordinary").glob("*.bpf.o"))
REQUEST = JudgeRequest()


@pytest.fixture
def kernel(tmp_path: Path) -> RunningKernel:
    reason = bpfsys.available()
    if reason is not None:
        pytest.skip(reason)
    return RunningKernel(tmp_path / "journal")


def sides(kernel: RunningKernel, found: ObjectCases) -> dict[str, KernelSide]:
    """The kernel's answer to each program of a known type."""
    return {
        case.program.name: kernel(found.obj, case.program, case.profile)
        for case in found.cases
        if case.profile is not None
    }


@pytest.mark.kernel_bpf
@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.name)
def test_our_verdicts_are_the_running_kernels(kernel: RunningKernel, path: Path) -> None:
    found = read_cases(path, REQUEST)
    for case in found.cases:
        verdict = judge_case(found.obj, case, REQUEST)
        if case.profile is None or isinstance(verdict, Inconclusive):
            continue
        side = kernel(found.obj, case.program, case.profile)
        if "EPERM" in side.message and is_btf_typed(case.profile):
            continue  # some machines let nobody attach to functions
        assert side.accepted is isinstance(verdict, Accepted), (case.program.name, side.log)
        if isinstance(verdict, Rejected) and side.pc is not None:
            assert side.pc in {error.pc for error in verdict.errors}


@pytest.mark.kernel_bpf
def test_an_address_of_the_kernel_is_a_number(kernel: RunningKernel) -> None:
    """`extern const void _stext`: programs may keep it, and not read through it."""
    found = read_cases(ROOT / "tests/loader/data/ksyms.o", REQUEST)
    if "addressed" in found.obj.left_out:
        pytest.skip(found.obj.left_out["addressed"])
    answers = sides(kernel, found)
    for case in found.cases:
        if case.program.name not in ("addressed", "addressed_read"):
            continue
        verdict = judge_case(found.obj, case, REQUEST)
        accepted = case.program.name == "addressed"
        assert answers[case.program.name].accepted is accepted
        assert isinstance(verdict, Accepted if accepted else Rejected)
        if isinstance(verdict, Rejected):
            assert verdict.errors[0].message == answers[case.program.name].message


@pytest.mark.kernel_bpf
def test_constants_are_the_kernels_too(kernel: RunningKernel) -> None:
    assert not sides(kernel, read_cases(MISTAKES, REQUEST))["depends"].accepted
    request = replace(REQUEST, constants={"limit": "7"})
    assert sides(kernel, read_cases(MISTAKES, request))["depends"].accepted


@pytest.mark.kernel_bpf
def test_a_refusal_has_place_message_and_log(kernel: RunningKernel) -> None:
    side = sides(kernel, read_cases(MISTAKES, REQUEST))["no_null_check"]
    assert side.accepted is False
    assert (side.pc, side.message) == (7, "R0 invalid mem access 'map_value_or_null'")
    assert side.message in side.log


@pytest.mark.kernel_bpf
def test_ring_programs_are_not_compared(kernel: RunningKernel) -> None:
    found = read_cases(ROOT / "examples/03_pingpong/prog.v3.bpf.o", REQUEST)
    side = sides(kernel, found)["player"]
    assert side.accepted is None
    assert side.message == "the running kernel has no BPF requests"


@pytest.mark.kernel_bpf
def test_programs_resolved_for_another_kernel_are_not_compared(kernel: RunningKernel) -> None:
    found = read_cases(ROOT / "examples/loop_nops/prog.bpf.o", replace(REQUEST, abi="loop-7.2"))
    (side,) = sides(kernel, found).values()
    assert side == KernelSide(None, "what the program calls is resolved for loop-7.2")


@pytest.mark.kernel_bpf
def test_maps_that_would_eat_the_machine_are_not_made(kernel: RunningKernel) -> None:
    found = read_cases(MISTAKES, REQUEST)
    huge = MapSpec("huge", MapType.HASH, 8, 1 << 20, MAX_MAP_BYTES >> 19)
    obj = replace(found.obj, maps=(*found.obj.maps, huge))
    with pytest.raises(InputError, match="more than 256"):
        KernelObject(obj)
    (side,) = {*sides(kernel, replace(found, obj=obj)).values()}
    assert side.accepted is None
    assert "MiB" in side.message


@pytest.mark.kernel_bpf
def test_a_map_that_the_kernel_refuses_is_said(kernel: RunningKernel) -> None:
    found = read_cases(MISTAKES, REQUEST)
    wrong = MapSpec("wrong", MapType.ARRAY, 8, 8, 1)  # keys of arrays have 4 bytes
    obj = replace(found.obj, maps=(*found.obj.maps, wrong))
    (side,) = {*sides(kernel, replace(found, obj=obj)).values()}
    assert side == KernelSide(None, "it does not make the object's maps: BPF_MAP_CREATE: EINVAL")


@pytest.mark.kernel_bpf
def test_what_a_run_did_not_survive_is_never_loaded_again(
    tmp_path: Path, kernel: RunningKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read_cases(MISTAKES, REQUEST)
    case = next(case for case in found.cases if case.program.name == "fine")
    assert case.profile is not None

    def dies(*_: object, **__: object) -> None:
        raise SystemExit("the machine goes down")

    with monkeypatch.context() as patched:
        patched.setattr(KernelObject, "load", dies)
        with pytest.raises(SystemExit):
            kernel(found.obj, case.program, case.profile)
    kernel.close()
    later = RunningKernel(tmp_path / "journal")
    assert later(found.obj, case.program, case.profile).accepted is None
    other = next(case for case in found.cases if case.program.name == "no_bound")
    assert other.profile is not None
    assert later(found.obj, other.program, other.profile).accepted is False


@pytest.mark.kernel_bpf
def test_the_command_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if bpfsys.available() is not None:
        pytest.skip(str(bpfsys.available()))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert main(
        ["verify", "--against", "kernel", "-j", "2", "--format", "json", *map(str, OBJECTS)]
    )
    documents = json.loads(capsys.readouterr().out)
    programs = [program for one in documents for program in one["programs"]]
    agreements = {program["running_kernel"]["agreement"] for program in programs}
    assert agreements <= {"agreed", "undecided", "not-compared"}
    assert "agreed" in agreements
    assert (tmp_path / "pybpfvm/kernel-journal").read_text().count("ok ") >= 10


def test_a_journal_that_can_not_be_written_is_an_input_error(tmp_path: Path) -> None:
    reason = bpfsys.available()
    if reason is not None:
        pytest.skip(reason)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="journal"):
        RunningKernel(tmp_path / "file/journal")


@pytest.mark.parametrize(
    ("accepted", "verdict", "agreement", "code"),
    [
        (True, "fine", Agreement.AGREED, 0),
        (False, "fine", Agreement.LOOSER, 1),
        (True, "no_bound", Agreement.STRICTER, 1),
        (False, "no_bound", Agreement.AGREED, 1),
        (None, "fine", Agreement.NOT_COMPARED, 0),
    ],
)
def test_a_disagreement_is_exit_1(
    accepted: bool | None, verdict: str, agreement: Agreement, code: int
) -> None:
    found = read_cases(MISTAKES, REQUEST)
    case = next(case for case in found.cases if case.program.name == verdict)
    ours = judge_case(found.obj, case, REQUEST)
    judged = judged_program(
        case.program, found.obj, case.profile, ours, kernel=KernelSide(accepted)
    )
    assert (judged.agreement, judged.exit_code) == (agreement, code)


# Of fentry, fexit and LSM programs: what the kernel says when the machine lets nobody attach them.
ATTACHED = [
    (errno.EPERM, "processed 2 insns (limit 1000000)\n", None, "lets nobody attach"),
    (errno.EPERM, "0: (b7) r0 = 0\nnot allowed for programs like this\n", False, "not allowed"),
    (524, "", False, "ENOTSUPP"),
]


@pytest.mark.kernel_bpf
@pytest.mark.parametrize(("number", "log", "accepted", "message"), ATTACHED)
def test_what_the_machine_forbids_is_no_verdict(
    kernel: RunningKernel,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    log: str,
    accepted: bool | None,
    message: str,
) -> None:
    def load(*_: object, **__: object) -> bpfsys.LoadResult:
        return bpfsys.LoadResult(None, number, log)

    monkeypatch.setattr(KernelObject, "load", load)
    code = assemble("r0 = 0\nexit", where="trivial")
    program = Program("trivial", "fentry/do_nanosleep", code, license="GPL")
    profile = btf_typed_profile(program.section)
    assert profile is not None
    side = kernel(BpfObject("trivial", "", (program,), ()), program, profile)
    assert side.accepted is accepted
    assert message in side.message


# The journal.


def test_a_load_under_way_elsewhere_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    code = (
        "import sys, time, pathlib; from pybpfvm.session.kernel_journal import Journal; "
        "Journal(pathlib.Path(sys.argv[1])).begin('aa', 1, b'x'); print('begun', flush=True); "
        "time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"begun\n"
        first = Journal(path)
        assert not first.lost
        first.begin("bb", 1, b"y")
        first.survived("bb")
        first.close()
        other.kill()
    # Its process is gone and the load never came back.
    second = Journal(path)
    second.close()
    assert second.lost == {"aa"}


def test_another_boot_makes_a_load_lost(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text(f"try aa 1 95 another-boot {os.getppid()}:1\n")
    journal = Journal(path)
    journal.close()
    assert journal.lost == {"aa"}


def test_what_is_settled_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text("try aa 1 95 boot 1:1\n" + "try bb 1 95 boot 1:1\nok bb\n" * 1000)
    Journal(path).close()
    assert path.read_text() == "try aa 1 95 boot 1:1\n"


# What logs say.


def test_last_words_and_places() -> None:
    log = "func#0 @0\n0: R1=ctx() R10=fp0\n; return value[0]; @ x.c:22\n"
    log += "7: (79) r0 = *(u64 *)(r0 +0)\n"
    log += "R0 invalid mem access 'map_value_or_null'\nprocessed 7 insns (limit 1000000)\n"
    assert last_words(log) == "R0 invalid mem access 'map_value_or_null'"
    assert refused_pc(log) == 7
    assert last_words("") == ""


@pytest.mark.kernel_bpf
def test_a_map_refused_with_its_types_is_not_made_without(kernel: RunningKernel) -> None:
    found = read_cases(MISTAKES, REQUEST)
    btf = Btf.of(
        [
            Int("int", 4, 32),
            Struct("bpf_spin_lock", 4, (Member("val", 1, 0),)),
            Struct("value", 8, (Member("lock", 2, 0), Member("n", 1, 32))),
        ]
    )
    wrong = MapSpec("wrong", MapType.LRU_HASH, 4, 8, 8, btf_key_type_id=1, btf_value_type_id=3)
    obj = replace(found.obj, maps=(wrong,), btf=btf)
    (side,) = {*sides(kernel, replace(found, obj=obj)).values()}
    assert side.accepted is None
    assert side.message.startswith("it does not make the object's maps: BPF_MAP_CREATE: E")


@pytest.mark.kernel_bpf
def test_types_of_maps_that_take_none_are_left_out(kernel: RunningKernel) -> None:
    btf = Btf.of([Int("int", 4, 32)])
    typed = MapSpec("m", MapType.HASH, 4, 4, 8, btf_key_type_id=1, btf_value_type_id=1)
    maps = [
        replace(
            typed, name=type_.name, type=type_, key_size=key_size, btf_key_type_id=key_size // 4
        )
        for type_, key_size in (
            (MapType.QUEUE, 0),
            (MapType.PERF_EVENT_ARRAY, 4),
            (MapType.DEVMAP, 4),
            (MapType.SOCKHASH, 4),
            (MapType.ARRAY_OF_MAPS, 4),
        )
    ]
    with KernelObject(BpfObject("x", "", (), tuple(maps), btf=btf)) as made:
        assert len(made.maps) == len(maps)


@pytest.mark.kernel_bpf
def test_fields_in_btf_that_the_kernel_does_not_take_are_not_compared(
    kernel: RunningKernel,
) -> None:
    found = read_cases(MISTAKES, REQUEST)
    btf = Btf.of(
        [
            Int("int", 4, 32),
            Struct("bpf_spin_lock", 4, (Member("val", 1, 0),)),
            Struct("value", 8, (Member("lock", 2, 0), Member("n", 1, 32))),
            Struct("no name", 4),  # the kernel refuses names with blanks
        ]
    )
    locked = MapSpec("locked", MapType.HASH, 4, 8, 8, btf_key_type_id=1, btf_value_type_id=3)
    plain = replace(locked, btf_value_type_id=0, btf_key_type_id=0)
    others = [replace(m, btf_key_type_id=0, btf_value_type_id=0) for m in found.obj.maps]
    for spec, compared in ((locked, False), (plain, True)):
        obj = replace(found.obj, maps=(spec, *others), btf=btf)
        side = next(iter(sides(kernel, replace(found, obj=obj)).values()))
        assert (side.accepted is not None) is compared, side.message
        assert ("fields of map 'locked'" in side.message) is not compared


def test_what_the_loader_resolved_is_not_told_to_the_kernel() -> None:
    types = Btf.of(
        [
            Int("int", 4, 32),
            FuncProto(1),
            Func("called", 2, FuncLinkage.EXTERN),
            Datasec(".ksyms", 0, (SectionVar(3, 0, 0),)),
            Func("main", 2, FuncLinkage.GLOBAL),
        ]
    )
    kept = [type(found) for _, found in without_externs(types)]
    assert kept == [Int, FuncProto, Int, Int, Func]
