"""Objects that libbpf's static linker made, which `bpftool gen object` calls: of one object the
same again, of two what each says of the other's names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pybpfvm.cli import main
from pybpfvm.loader import load
from pybpfvm.loader.kconfig import parse_kconfig
from pybpfvm.objectfile import detect_abi, global_variables
from pybpfvm.program import BpfObject, Program
from pybpfvm.session import LoopRing, Machine
from pybpfvm.session.hostring import BackendName
from pybpfvm.session.judging import JudgeRequest, judge_case, read_cases
from pybpfvm.verifier.verdict import Accepted, Rejected
from tests.support import libbpf_oracle
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

pytestmark = pytest.mark.skipif(
    libbpf_oracle.unavailable() is not None, reason=f"{libbpf_oracle.unavailable()}"
)
ROOT = Path(__file__).resolve().parents[2]
OBJECTS = sorted(
    path
    for folder in ("examples", "tests", "bench")
    for path in (ROOT / folder).rglob("*.o")
    if "nodebug" not in path.name and ".be." not in path.name
)
# Whose verdicts are compared, too.
JUDGED = sorted(
    [*ROOT.glob("tests/data/dialects/*.bpf.o"), *ROOT.glob("examples/loop_*/prog.bpf.o")]
)
PAIR = tuple(ROOT / f"tests/data/linking/{name}.bpf.o" for name in ("one", "two"))
HZ = 250


def linked(folder: Path, *paths: Path) -> Path:
    made = folder / "linked.bpf.o"
    assert libbpf_oracle.gen_object(str(made), *map(str, paths)) == ""
    return made


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_object_that_was_linked_is_the_same(path: Path, tmp_path: Path) -> None:
    raw, made = load(path), load(linked(tmp_path, path))
    assert [program.insns for program in raw.programs] == [p.insns for p in made.programs]
    assert [_known(program) for program in raw.programs] == [_known(p) for p in made.programs]
    assert _callbacks(raw) == _callbacks(made)
    assert (raw.left_out, raw.unsupported) == (made.left_out, made.unsupported)
    assert _places(raw) == _places(made)
    assert _maps(raw) == _maps(made)
    assert detect_abi(raw) == detect_abi(made)


@pytest.mark.parametrize("path", JUDGED, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_is_judged_as_it_was(path: Path, tmp_path: Path) -> None:
    assert _verdicts(path) == _verdicts(linked(tmp_path, path))


def test_objects_without_types_are_not_linked(tmp_path: Path) -> None:
    """What is left out above, but for the other byte order."""
    bare = list((ROOT / "tests").rglob("*nodebug.bpf.o"))
    assert bare
    for path in bare:
        assert "BTF" in libbpf_oracle.gen_object(str(tmp_path / "linked"), str(path))


def test_it_is_verified_and_runs_from_one_command(tmp_path: Path) -> None:
    made = str(linked(tmp_path, ROOT / "examples/loop_nops/prog.bpf.o"))
    assert main(["verify", made]) == 0
    assert main(["run", made, "--abi", "loop-7.2", "--set", "to_run=1000", "--json"]) == 0


# --- two that become one ------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "missing"), [(PAIR[0], "weigh"), (PAIR[1], "counts")])
def test_one_of_two_lacks_what_the_other_has(path: Path, missing: str) -> None:
    obj = load(path)
    assert not obj.programs
    (reason,) = obj.left_out.values()
    assert missing in reason


def test_two_objects_say_what_the_other_lacks(tmp_path: Path) -> None:
    obj = load(linked(tmp_path, *PAIR), kconfig=parse_kconfig(f"CONFIG_HZ={HZ}", "test"))
    assert [program.name for program in obj.programs] == ["step_one", "step_two"]
    assert {one.name: one.programs for one in obj.struct_ops} == {
        "first": {"loop_step": "step_one"},
        "second": {"loop_step": "step_two"},
    }
    assert not obj.left_out
    # Each had a map and variables of its own under one name; what is weak in one is there once.
    assert [spec.name for spec in obj.maps if spec.section == ".maps"] == [
        "counts",
        "shared",
        "own",
        "own_2",
    ]
    names = [name for name, _ in global_variables(obj)]
    assert names == ["total", "turns", "limit", "turns_2", "entries", "odd", "odd_2", "flag"]
    assert [profile.name for profile in detect_abi(obj).candidates] == ["loop-7.1", "loop-7.2"]


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
@pytest.mark.parametrize("engine", ["interp", "auto"])
def test_programs_of_both_run_on_the_same_data(
    backend: BackendName, engine: str, tmp_path: Path
) -> None:
    """What each sum is made of stands beside it in the sources."""
    need_backend(backend)
    kconfig = parse_kconfig(f"CONFIG_HZ={HZ}", "test")
    with Machine() as machine:
        obj = machine.load(linked(tmp_path, *PAIR), abi="loop-7.2", kconfig=kconfig)
        with LoopRing(8, backend=backend, engine=engine, machine=machine) as ring:
            for name in ("first", "second"):
                with ring.attach(obj, name):
                    ring.enter()
            assert [cqe.user_data for cqe in ring.reap()] == [5 + 32]
        numbers = {name: obj.globals[name] for name in ("total", "limit", "turns", "turns_2")}
        assert numbers == {"total": 5 + 32 + 38, "limit": 7, "turns": 101, "turns_2": 204}
        assert obj.globals["odd_2"] == [19, 23]
        assert [obj.maps["counts"][at] for at in range(4)] == [102, 4 * 202, 3 * 204, 50 + 52]
        assert obj.maps["shared"][0] == 26
        assert [obj.maps["own"][at] for at in range(2)] == [32, HZ]
        assert [obj.maps["own_2"][at] for at in range(2)] == [38, HZ + 1]


@pytest.mark.parametrize("abi", ["loop-7.1", "loop-7.2"])
def test_programs_of_both_are_judged(abi: str, tmp_path: Path) -> None:
    request = JudgeRequest(abi=abi, kconfig=parse_kconfig(f"CONFIG_HZ={HZ}", "test"))
    found = read_cases(linked(tmp_path, *PAIR), request)
    assert len(found.cases) == 2
    for case in found.cases:
        assert isinstance(judge_case(found.obj, case, request), Accepted)


def test_the_weak_value_is_where_the_strong_one_is_not(tmp_path: Path) -> None:
    """libbpf's linker leaves the type information's place of `limit` at the weak one."""
    with Machine() as machine:
        kconfig = parse_kconfig(f"CONFIG_HZ={HZ}", "test")
        obj = machine.load(linked(tmp_path, *PAIR), abi="loop-7.2", kconfig=kconfig)
        assert obj.globals["limit"] == 7
        obj.globals["limit"] = 9
        with LoopRing(8, machine=machine) as ring, ring.attach(obj, "first"):
            ring.enter()
        assert obj.maps["own"][0] == 9 + 17 + 8


def _known(program: Program) -> tuple[object, ...]:
    """But for the numbers of types."""
    functions = [replace(sub, btf_type_id=0) for sub in program.subprogs]
    return program.name, program.section, functions, program.attach_to, program.license


def _callbacks(obj: BpfObject) -> set[tuple[str, str, bytes, bool, tuple[tuple[str, str], ...]]]:
    """The variables of .struct_ops, but for the numbers of their types."""
    return {
        (one.name, one.struct, one.data, one.link, tuple(one.programs.items()))
        for one in obj.struct_ops
    }


def _places(obj: BpfObject) -> dict[str, tuple[str, int, int]]:
    return {name: place[:3] for name, place in global_variables(obj)}


def _maps(obj: BpfObject) -> list[object]:
    """But for the numbers of their types."""
    return [
        replace(
            spec,
            btf_key_type_id=0,
            btf_value_type_id=0,
            inner=spec.inner and replace(spec.inner, btf_key_type_id=0, btf_value_type_id=0),
        )
        for spec in obj.maps
    ]


def _verdicts(path: Path) -> list[tuple[str, str, tuple[str, ...]]]:
    """Of each program: its name, the kind of its verdict, and the rules that it names."""
    found = read_cases(path, JudgeRequest())
    told = []
    for case in found.cases:
        verdict = judge_case(found.obj, case, JudgeRequest())
        named = verdict.errors if isinstance(verdict, Rejected) else ()
        named = verdict.warnings if isinstance(verdict, Accepted) else named
        rules = tuple(sorted(one.rule.value for one in named))
        told.append((case.program.name, type(verdict).__name__, rules))
    return told
