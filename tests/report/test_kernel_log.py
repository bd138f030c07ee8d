"""`--format log`: logs as text, alone and several."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybpfvm.cli import main
from pybpfvm.isa.asm import assemble
from pybpfvm.profiles import PROFILES
from pybpfvm.program import BpfObject, Program
from pybpfvm.report import kernel_log
from pybpfvm.report.formats import Report
from pybpfvm.session.judged import JudgedObject, JudgedProgram, judged_program
from pybpfvm.session.judging import JudgeRequest, judge
from tests.support.verifier_logs import read

EXAMPLE = Path(__file__).parents[2] / "examples" / "01_hello" / "prog.v3.bpf.o"
GOOD = "r0 = 0\nexit"
BAD = "r7 = *(u32 *)(r1 + 0)\nif r7 == 0 goto +2\nr0 = 0\nexit\nr0 = r3\nexit"


def logged(name: str, text: str, **request: int) -> JudgedProgram:
    asked = JudgeRequest(**request)  # type: ignore[arg-type]
    profile = PROFILES["socket_filter"]
    program = Program(name, "socket", assemble(text), license="GPL")
    obj = BpfObject("test.o", "", (program,), ())
    recorder = kernel_log.recorder(program, obj, profile, asked)
    verdict = judge(program, obj, profile, asked, observer=recorder)
    return judged_program(program, obj, profile, verdict, recorded=recorder.recorded(verdict))


def rendered(*programs: JudgedProgram, error: str = "") -> str:
    one = JudgedObject("test.o", "6.18", programs=programs, error=error)
    return kernel_log.render(Report((one,), JudgeRequest()))


def test_one_log_stands_alone() -> None:
    text = rendered(logged("bad", BAD))
    assert text.startswith("0: R1=ctx() R10=fp0\n")
    assert "R3 !read_ok\nprocessed " in text
    assert [entry.kind for entry in read(text)][-2:] == ["message", "processed"]


def test_after_the_first_error_other_paths_are_followed_and_taken_back() -> None:
    assert rendered(logged("bad", BAD)) == rendered(logged("bad", BAD, all_errors=False))


def test_several_logs_are_set_apart_and_names_stay_on_their_line() -> None:
    text = rendered(logged("good", GOOD), logged("b\nad", BAD), error="no such map")
    lines = text.splitlines()
    assert lines[0] == "test.o: no such map"
    assert lines[1] == "prog 'good': -- BEGIN PROG LOAD LOG --"
    assert "prog 'b?ad': -- BEGIN PROG LOAD LOG --" in lines
    assert lines[-1] == "-- END PROG LOAD LOG --"


def test_level_2_has_every_path() -> None:
    assert "3: (95) exit\n\nfrom 1 to 4: " in rendered(logged("bad", BAD, log_level=2))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["verify", "--format", "log", "--log-level", "2", "--log-chars", "600", str(EXAMPLE)])
    text = capsys.readouterr().out
    assert "characters are missing here: the log is limited to 600]" in text
    assert "processed " in text
    assert len(text) < 3_000
