"""Judging by several processes: the same results, whoever is faster and whatever ends."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from pybpfvm.profiles.base import Profile
from pybpfvm.program import BpfObject, Program
from pybpfvm.session.judged import JudgedObject, KernelSide
from pybpfvm.session.judging import JudgeRequest, Recorder
from pybpfvm.session.object_judge import Assignment
from pybpfvm.session.workers import WorkerFailed, judge_all
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.verdict import Inconclusive, Kind, Rejected, Verdict

ROOT = Path(__file__).parents[2]
MISTAKES = str(ROOT / "tests/ordinary/mistakes.bpf.o")
PARSE = str(ROOT / "tests/ordinary/parse.bpf.o")
PATHS = [MISTAKES, PARSE, "/nonexistent.o", PARSE]
REQUEST = JudgeRequest()
PLAIN = Assignment(REQUEST)


def untimed(objects: tuple[JudgedObject, ...]) -> list[JudgedObject]:
    return [
        replace(one, programs=tuple(replace(p, seconds=0.0) for p in one.programs))
        for one in objects
    ]


@pytest.mark.parametrize("jobs", [2, 5])
def test_processes_give_what_one_gives(jobs: int) -> None:
    counted: list[tuple[int, int]] = []
    shared = judge_all(PATHS, PLAIN, jobs=jobs, progress=lambda *at: counted.append(at))
    assert untimed(shared) == untimed(judge_all(PATHS, PLAIN))
    assert [done for done, _ in counted] == list(range(1, 12))
    assert counted[-1] == (11, 11)
    assert all(one.complete for one in shared)


def test_nothing_to_judge() -> None:
    assert judge_all([], PLAIN) == judge_all([], PLAIN, jobs=2) == ()


class Counting(Recorder):
    """How many instructions were stepped over."""

    def __init__(self) -> None:
        self.steps = 0

    def step(self, pc: int, state: State) -> None:
        self.steps += 1

    def recorded(self, verdict: Verdict) -> object:
        return self.steps


def counting(program: Program, obj: BpfObject, profile: Profile, request: JudgeRequest) -> Recorder:
    return Counting()


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_a_format_records_comes_back(jobs: int) -> None:
    (one,) = judge_all([PARSE], replace(PLAIN, recorder_of=counting), jobs=jobs)
    for program in one.programs:
        assert program.recorded == program.verdict.stats.processed_insns > 0


def killed(obj: BpfObject, program: Program, profile: Profile) -> KernelSide:
    if program.name == "no_bound":
        os.kill(os.getpid(), signal.SIGKILL)
    return KernelSide(None, "not asked")


def test_a_process_that_is_killed_costs_one_verdict() -> None:
    (one,) = judge_all([MISTAKES], replace(PLAIN, ask_kernel=killed), jobs=2)
    assert one.complete
    lost = {p.name: p.verdict for p in one.programs if isinstance(p.verdict, Inconclusive)}
    assert set(lost) == {"no_bound", "other"}
    assert isinstance(lost["no_bound"], Inconclusive)
    assert lost["no_bound"].finding.kind is Kind.LIMIT
    assert "signal 9" in lost["no_bound"].finding.reason


def broken(obj: BpfObject, program: Program, profile: Profile) -> KernelSide:
    raise RuntimeError("a bug")


def test_a_bug_in_a_worker_is_told_with_its_traceback() -> None:
    with pytest.raises(WorkerFailed, match="RuntimeError: a bug") as found:
        judge_all([MISTAKES], replace(PLAIN, ask_kernel=broken), jobs=2)
    assert "in broken" in found.value.__notes__[0]


def interrupting(obj: BpfObject, program: Program, profile: Profile) -> KernelSide:
    if program.name == "no_packet_check":
        raise KeyboardInterrupt
    return KernelSide(None)


def test_what_was_judged_before_an_interrupt_is_kept() -> None:
    one, two = judge_all([MISTAKES, PARSE], replace(PLAIN, ask_kernel=interrupting))
    names = [program.name for program in one.programs]
    assert names == ["no_null_check", "no_bound", "no_packet_check"]
    # What came when its verdict was there, and the kernel being asked, leaves it that.
    assert [program.interrupted for program in one.programs] == [False, False, True]
    assert isinstance(one.programs[-1].verdict, Rejected)
    assert (one.complete, one.exit_code) == (False, 130)
    assert (two.programs, two.complete, two.exit_code) == ((), False, 130)


class Stopping(Recorder):
    """Ctrl-C comes before the tenth instruction."""

    def __init__(self) -> None:
        self.steps = 0

    def step(self, pc: int, state: State) -> None:
        self.steps += 1
        if self.steps == 10:
            signal.raise_signal(signal.SIGINT)

    def recorded(self, verdict: Verdict) -> object:
        return self.steps


def stopping(program: Program, obj: BpfObject, profile: Profile, request: JudgeRequest) -> Recorder:
    return Stopping()


def test_a_program_that_is_interrupted_has_its_statistics() -> None:
    (one,) = judge_all([PARSE], replace(PLAIN, recorder_of=stopping))
    assert (one.complete, one.exit_code, len(one.programs)) == (False, 130, 1)
    (judged,) = one.programs
    assert one.sha256
    assert isinstance(judged.verdict, Inconclusive)
    assert judged.verdict.finding.message == "interrupted"
    assert judged.interrupted
    assert isinstance(judged.recorded, int)
    assert judged.recorded > 10
    assert judged.verdict.stats.processed_insns == judged.recorded
