"""Programs that take the place of another program's function: freplace, BPF_PROG_TYPE_EXT.

replacing.bpf.c says by a program's name what becomes of it: `ok_`, `no_` or `un_`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pybpfvm import bpfsys
from pybpfvm.btf.types import BtfKind
from pybpfvm.cli import main
from pybpfvm.errors import InputError, UnsupportedError
from pybpfvm.objectfile import read_object
from pybpfvm.program import BpfObject, Program
from pybpfvm.session import LoopRing, Machine, Ring
from pybpfvm.session.against import RunningKernel
from pybpfvm.session.hostring import BackendName
from pybpfvm.session.judging import JudgeRequest, case_of, judge_case, read_cases
from pybpfvm.session.replacing import Target
from pybpfvm.verifier.verdict import Accepted, Inconclusive, Rejected, Rule, Verdict
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

HERE = Path(__file__).parent
TARGET = HERE / "replaced.bpf.o"
RINGS = HERE.parent / "data" / "replacing"
FRAME = bytes(64)

# What each is refused by, and the words that say it.
REFUSED = {
    "no_args": (Rule.ATTACH_TARGET, "no_args() has 1 args while policy() has 2 args"),
    "no_context": (
        Rule.ATTACH_TARGET,
        "arg0 in no_context() (struct __sk_buff *) doesn't match policy() (struct xdp_md *)",
    ),
    "no_size": (Rule.ATTACH_TARGET, "arg1 in no_size() has size 8 while policy() has 4"),
    "no_kind": (Rule.ATTACH_TARGET, "arg0 in no_kind() is INT int while policy() has PTR"),
    "no_field": (Rule.CTX_ACCESS, "off=64"),
    "no_pointer": (Rule.NOT_A_POINTER, "scalar"),
    "no_move": (Rule.ATTACH_TARGET, "changes packet data, while original does not"),
    "no_null_check": (Rule.POSSIBLY_NULL, "mem_or_null"),
    "no_name": (Rule.ATTACH_TARGET, "(struct others *) doesn't match weigh()"),
    "no_number": (Rule.ATTACH_TARGET, "arg0 in no_number() is not a pointer to context"),
    "no_trust": (Rule.ATTACH_TARGET, "callers of weigh() may give NULL"),
    "no_tag": (Rule.ATTACH_TARGET, "arg0 in no_tag() is the context, in weigh() memory"),
    "no_odd": (Rule.ATTACH_TARGET, "Cannot replace static functions"),
    "no_static": (Rule.ATTACH_TARGET, "Cannot replace static functions"),
    "no_allow": (Rule.RETURN_VALUE, "should have been in [0, 1]"),
    "no_allow_packet": (Rule.PACKET_ACCESS, "invalid access to packet"),
    "no_larger": (Rule.ATTACH_TARGET, "points to 24 bytes, callers of weigh() give 16"),
}
UNDECIDED = {
    "un_tail_call": "tail calls",
    "un_nothing": "replacing nothing()",
    "un_named": "does not say which",
}
# The program whose function it is: policy() is in two.
OWNERS = {"trim": "shorten", "allow": "gate", "odd": "odd"}


def verdicts(path: Path, target: Path = TARGET) -> Iterator[tuple[str, Verdict]]:
    """Each program of an object with its verdict, for the program that has its function."""
    targets = read_object(target)
    for program in read_object(path).programs:
        function = program.section.partition("/")[2]
        owner = OWNERS.get(function, "judge") if target == TARGET else ""
        request = JudgeRequest(target=Target(targets, owner))
        found = read_cases(path, request)
        case = next(one for one in found.cases if one.program.name == program.name)
        yield program.name, judge_case(found.obj, case, request)


@pytest.mark.parametrize("name", ["replacing.bpf.o", "widened.bpf.o"])
def test_verdicts(name: str) -> None:
    told = 0
    for program, verdict in verdicts(HERE / name):
        told += 1
        if program.startswith("ok_"):
            assert isinstance(verdict, Accepted), program
        elif program.startswith("un_"):
            assert isinstance(verdict, Inconclusive), program
            assert UNDECIDED[program] in verdict.finding.feature
        else:
            assert isinstance(verdict, Rejected), program
            rule, words = REFUSED[program]
            assert (verdict.errors[0].rule, words in verdict.errors[0].message) == (rule, True)
            assert verdict.errors[0].witness is None
    assert told == {"replacing.bpf.o": 26, "widened.bpf.o": 1}[name]


def test_what_may_throw_is_not_decided() -> None:
    obj = read_object(HERE / "throwing.bpf.o")
    if obj.left_out:
        pytest.skip(f"no kernel's BTF with exceptions here: {obj.left_out}")
    ((_, verdict),) = verdicts(HERE / "throwing.bpf.o")
    assert isinstance(verdict, Inconclusive)
    assert "exceptions in programs that replace functions" in verdict.finding.feature


def judged(program: Program, obj: BpfObject, target: Target) -> Verdict:
    """A program that nobody compiled so."""
    request = JudgeRequest(target=target)
    return judge_case(obj, case_of(obj, program, request), request)


def test_both_need_types() -> None:
    obj, target = read_object(HERE / "replacing.bpf.o"), read_object(TARGET)
    program = obj.program("ok_policy")
    for ours, theirs, words in (
        (replace(obj, btf=None), target, "Program extension requires BTF"),
        (obj, replace(target, btf=None), "the target of policy() has no BTF"),
    ):
        verdict = judged(program, ours, Target(theirs, "judge"))
        assert isinstance(verdict, Rejected)
        assert words in verdict.errors[0].message


def test_a_type_that_is_no_functions() -> None:
    obj, target = read_object(HERE / "replacing.bpf.o"), read_object(TARGET)
    program = obj.program("ok_next")
    (main,) = program.subprogs
    assert obj.btf is not None
    number = obj.btf.find("int", BtfKind.INT)
    assert number is not None
    strange = replace(program, subprogs=(replace(main, btf_type_id=number),))
    verdict = judged(strange, obj, Target(target, "judge"))
    assert isinstance(verdict, Inconclusive)
    assert "whose type is not known" in verdict.finding.feature


@pytest.mark.kernel_bpf
def test_verdicts_are_the_running_kernels(tmp_path: Path) -> None:
    reason = bpfsys.available()
    if reason is not None:
        pytest.skip(reason)
    kernel = RunningKernel(tmp_path / "journal")
    targets = read_object(TARGET)
    compared = 0
    for name, verdict in verdicts(HERE / "replacing.bpf.o"):
        # What kernels do not compare is refused here alone.
        if isinstance(verdict, Inconclusive) or name == "no_trust":
            continue
        request = JudgeRequest(target=Target(targets, "judge"))
        found = read_cases(HERE / "replacing.bpf.o", request)
        case = next(one for one in found.cases if one.program.name == name)
        if case.profile is None:
            continue
        side = kernel(found.obj, case.program, case.profile)
        if "EPERM" in side.message:
            pytest.skip(side.message)
        assert side.accepted is isinstance(verdict, Accepted), (name, side.log)
        compared += 1
    assert compared > 10


def test_without_the_program_that_has_the_function(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(HERE / "replacing.bpf.o"), "--prog", "ok_policy"]) == 3
    told = capsys.readouterr().out
    assert "replacing policy() without the program that has it" in told
    assert "--target OBJ" in told
    command = ["verify", str(HERE / "replacing.bpf.o"), "--prog", "ok_policy", "--target"]
    assert main([*command, str(TARGET)]) == 3
    assert "with one of judge, another" in " ".join(capsys.readouterr().out.split())
    assert main([*command, f"{TARGET}:judge"]) == 0
    assert main([*command, f"{TARGET}:nobody"]) == 2
    assert "no program is called 'nobody'" in capsys.readouterr().err


def by(name: str) -> str:
    return f"{HERE / 'replacing.bpf.o'}:{name}"


@pytest.mark.parametrize("engine", ["interp", "auto"])
def test_a_run_calls_what_took_the_place(engine: str) -> None:
    with Machine() as machine:
        plain = machine.load(TARGET)
        assert plain["judge"].run(data=FRAME, engine=engine).retval == 1 + 1 + 120 + 1001 + 1
        replaced = machine.load(TARGET, replace={"policy": by("ok_policy")})
        for name, result in (("judge", 3 + 120 + 1001 + 1), ("another", 15)):
            assert replaced[name].run(data=FRAME, engine=engine).retval == result
            assert isinstance(replaced[name].verdict(), Accepted)
        # Variables of one name in two objects are two.
        assert replaced.globals["calls"] == 0
        assert replaced.maps["ok_policy.bss"][0] == 14
        both = machine.load(TARGET, replace={"policy": by("ok_policy"), "weigh": by("ok_weigh")})
        assert both["judge"].run(data=FRAME, engine=engine).retval == 3 + 80 + 1001 + 1
        whole = machine.load(TARGET, replace={"judge": by("ok_judge")})
        assert whole["judge"].run(data=FRAME, engine=engine).retval == 1


def test_lines_and_functions_are_those_of_what_took_the_place() -> None:
    with Machine() as machine:
        program = machine.load(TARGET, replace={"policy": by("ok_policy")})["judge"].program
    names = {sub.name: sub for sub in program.subprogs}
    assert set(names) == {"judge", "policy", "tripled", "weigh", "next", "hidden"}
    assert program.slots == max(sub.end for sub in program.subprogs)
    line = program.line_at(names["policy"].start)
    assert line is not None
    assert line.file.endswith("replacing.bpf.c")
    assert (names["policy"].is_global, names["tripled"].is_global) == (True, False)


@pytest.mark.parametrize(
    ("function", "name", "error", "words"),
    [
        ("weigh", "no_null_check", InputError, "refuses no_null_check in the place of weigh()"),
        ("policy", "un_tail_call", UnsupportedError, "tail calls"),
        ("nothing", "un_nothing", UnsupportedError, "replacing nothing()"),
        ("weigh", "ok_policy", InputError, "no programs called ok_policy replace weigh()"),
    ],
)
def test_what_does_not_take_the_place(
    function: str, name: str, error: type[Exception], words: str
) -> None:
    with Machine() as machine, pytest.raises(error) as caught:
        machine.load(TARGET, replace={function: by(name)})
    assert words in str(caught.value)


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", str(TARGET), "--prog", "judge", "--data", FRAME.hex(), "--replace"]
    assert main([*command, f"policy={by('ok_policy')}"]) == 0
    assert "returned 1125" in capsys.readouterr().out
    assert main([*command, "policy"]) == 2
    assert "not FUNCTION=OBJ" in capsys.readouterr().err
    assert main([*command, f"weigh={HERE / 'replacing.bpf.o'}"]) == 2
    assert "3 programs replace" not in capsys.readouterr().err


# --- rings ----------------------------------------------------------------------------------------


def test_verdicts_of_functions_of_ring_programs() -> None:
    found = dict(verdicts(RINGS / "depth.bpf.o", RINGS / "nops.bpf.o"))
    assert isinstance(found["four"], Accepted)
    assert isinstance(found["twice"], Accepted)
    whole = found["un_whole"]
    assert isinstance(whole, Inconclusive)
    assert "replacing a whole loop-7.2 program" in whole.finding.feature
    found = dict(verdicts(RINGS / "depth.bpf.o", RINGS / "request.v3.bpf.o"))
    assert isinstance(found["twice"], Accepted)
    sleeps = found["un_sleeps"]
    assert isinstance(sleeps, Inconclusive)
    assert "which may sleep" in sleeps.finding.feature


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_another_depth_of_a_loop(backend: BackendName, tmp_path: Path) -> None:
    need_backend(backend)
    with Machine() as machine:
        replaced = {"depth": str(RINGS / "depth.bpf.o")}
        obj = machine.load(RINGS / "nops.bpf.o", abi="loop-7.2", replace=replaced)
        obj.globals["to_run"] = 100
        with LoopRing(8, backend=backend, machine=machine) as ring, ring.attach(obj):
            assert ring.enter() == 0
        assert (obj.globals["to_run"], obj.globals["steps"]) == (0, 26)
    scenario = tmp_path / "nops.toml"
    scenario.write_text(
        f'object = "{RINGS / "nops.bpf.o"}"\nabi = "loop-7.2"\nglobals.to_run = 100\n'
        f'replace.depth = "{RINGS / "depth.bpf.o"}"\nring = {{ entries = 8 }}\n'
        "steps = [{ enter = { flags = 1 } }]\nexpect.globals = { to_run = 0, steps = 26 }\n"
    )
    assert main(["run", str(scenario), "--backend", backend, "--quiet"]) == 0


def test_another_answer_of_a_request() -> None:
    with Machine() as machine:
        replaced = {"told": f"{RINGS / 'depth.bpf.o'}:twice"}
        obj = machine.load(RINGS / "request.v3.bpf.o", abi="iouring-v3", replace=replaced)
        with Ring(8, cq_entries=[16], abi="iouring-v3", machine=machine) as ring:
            ring.register_bpf([obj["posts"]])
            ring.get_sqe().prep_bpf(0, user_data=21)
            ring.submit()
            assert ring.wait_cqe().user_data == 42
