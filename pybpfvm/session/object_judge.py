"""Judging the programs of one object, one by one, into values for reports."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from pybpfvm.errors import InputError
from pybpfvm.profiles.base import Profile
from pybpfvm.program import BpfObject, Program
from pybpfvm.session.judged import JudgedObject, JudgedProgram, KernelSide, judged_program
from pybpfvm.session.judging import (
    Case,
    JudgeRequest,
    ObjectCases,
    RecorderOf,
    judge_case,
    read_cases,
)
from pybpfvm.verifier.verdict import (
    Finding,
    Inconclusive,
    Interrupted,
    Kind,
    Rule,
    Statistics,
    cut_short,
)

# The running kernel's answer to a program.
AskKernel = Callable[[BpfObject, Program, Profile], KernelSide]


@dataclass(frozen=True, slots=True)
class Assignment:
    """What is asked of every object: `only` names programs (all without), `contract` is the text
    of a contract and where it is from, `recorder_of` makes what keeps an exploration for a
    format, `ask_kernel` asks the running kernel."""

    request: JudgeRequest
    only: tuple[str, ...] = ()
    contract: tuple[str, str] | None = None
    recorder_of: RecorderOf | None = None
    ask_kernel: AskKernel | None = None


class ObjectJudge:
    """An object that has been read. `programs` are to be judged, by index."""

    def __init__(self, path: str | os.PathLike[str], assignment: Assignment) -> None:
        """Raises InputError for an object that can not be used, or has no such program."""
        self._assignment = assignment
        self._path = os.fspath(path)
        self._found = read_cases(path, assignment.request)
        self._request = assignment.request
        if assignment.contract is not None:
            from pybpfvm.verifier.usermemory.contract_parse import parse_contract

            text, where = assignment.contract
            contract = parse_contract(text, self._found.obj, where=where)
            self._request = replace(assignment.request, contract=contract)
        self._cases = _chosen(self._path, self._found, assignment.only)

    @property
    def names(self) -> tuple[str, ...]:
        """The programs there are to judge."""
        return tuple(case if isinstance(case, str) else case.program.name for case in self._cases)

    @property
    def header(self) -> JudgedObject:
        """The object without its programs."""
        request, found = self._request, self._found
        abi = request.program_type or request.abi or ""
        if not abi and found.detection.profile is not None:
            abi = found.detection.profile.name
        left_out = {
            f"program {name} is left out: {why}" for name, why in found.obj.left_out.items()
        }
        notes = tuple(line for line in found.obj.unsupported if line not in left_out)
        return JudgedObject(self._path, request.kernel, found.obj.sha256, abi, notes=notes)

    def judge(self, index: int) -> JudgedProgram:
        """The verdict on a program; after Ctrl-C, what is known by then."""
        case = self._cases[index]
        if isinstance(case, str):
            return _left_out(case, self._found.obj.left_out[case])
        obj, work = self._found.obj, self._assignment
        recorder = None
        if work.recorder_of is not None and case.profile is not None:
            recorder = work.recorder_of(case.program, obj, case.profile, self._request)
        start = time.perf_counter()
        interrupted = False
        try:
            verdict = judge_case(obj, case, self._request, observer=recorder)
        except Interrupted as stopped:
            verdict, interrupted = stopped.verdict, True
        except KeyboardInterrupt:
            verdict, interrupted = cut_short(Statistics(insns=case.program.slots)), True
        seconds = time.perf_counter() - start
        kernel = None
        if work.ask_kernel is not None and not interrupted:
            try:
                kernel = self._ask(work.ask_kernel, case)
            except KeyboardInterrupt:
                kernel, interrupted = KernelSide(None, "interrupted"), True
        return judged_program(
            case.program,
            obj,
            case.profile,
            verdict,
            seconds=seconds,
            notes=_notes(case),
            recorded=None if recorder is None else recorder.recorded(verdict),
            kernel=kernel,
            interrupted=interrupted,
        )

    def _ask(self, ask_kernel: AskKernel, case: Case) -> KernelSide:
        if case.profile is None:
            return KernelSide(None, "the program's type is not known")
        return ask_kernel(self._found.obj, case.program, case.profile)


def unusable(path: str, kernel: str, error: InputError) -> JudgedObject:
    """What is said of an object that can not be read."""
    return JudgedObject(path, kernel, error=str(error), error_code=error.exit_code)


def _chosen(path: str, found: ObjectCases, only: tuple[str, ...]) -> tuple[Case | str, ...]:
    """The cases to judge; a program that the loader left out is its name."""
    everything: dict[str, Case | str] = {case.program.name: case for case in found.cases}
    everything.update((name, name) for name in found.obj.left_out)
    if not everything:
        raise InputError("the object has no programs", where=path)
    for name in only:
        if name not in everything:
            known = ", ".join(everything)
            raise InputError(
                f"no program is called {name!r}", where=path, remedy=f"programs: {known}"
            )
    return tuple(everything[name] for name in everything if not only or name in only)


def _notes(case: Case) -> tuple[str, ...]:
    if len(case.profiles) < 2:
        return ()
    names = " and ".join(profile.name for profile in case.profiles)
    return (f"the ABI is ambiguous: judged as {names}",)


def _left_out(name: str, why: str) -> JudgedProgram:
    finding = Finding(
        Rule.UNSUPPORTED,
        Kind.UNSUPPORTED,
        0,
        f"unsupported: {why}",
        reason="the loader has to leave out programs that it can not link",
        feature=why,
    )
    return JudgedProgram(name, "", "", Inconclusive(Statistics(), finding))
