"""Programs that replace a function of another program (BPF_PROG_TYPE_EXT, section freplace/NAME):
which function of which program that is, and an object in which it has happened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pybpfvm.errors import InputError, UnsupportedError
from pybpfvm.loader.splice import spliced
from pybpfvm.objectfile import detect_abi, read_object
from pybpfvm.profiles.detect import Detection
from pybpfvm.profiles.sections import SECTIONS
from pybpfvm.program import BpfObject, Program, Replaced

if TYPE_CHECKING:  # to run a program takes no verifier
    from pybpfvm.session.judging import JudgeRequest


@dataclass(frozen=True, slots=True)
class Target:
    """The object whose functions are replaced. `program` says in which of its programs; without,
    in the one that has the function."""

    obj: BpfObject
    program: str = ""

    def __post_init__(self) -> None:
        if self.program and self.program not in {one.name for one in self.obj.programs}:
            known = ", ".join(one.name for one in self.obj.programs) or "it has none"
            raise InputError(
                f"no program is called {self.program!r}",
                where=self.obj.path,
                remedy=f"programs: {known}",
            )

    @property
    def detection(self) -> Detection:
        """Which ABI the object was built for."""
        return detect_abi(self.obj)


def replaces_function(program: Program) -> bool:
    """Whether the program's section says that it replaces a function."""
    return any(rule.covers(program.section) for rule in SECTIONS["ext"])


def with_target(program: Program, target: Target | None) -> Program:
    """The program, with what it replaces. UnsupportedError if that is not known, or not there."""
    function = program.section.partition("/")[2]
    if not function:
        raise UnsupportedError(
            "a program that replaces a function, whose section does not say which",
            remedy='name it: SEC("freplace/function")',
        )
    if target is None:
        raise UnsupportedError(
            f"replacing {function}() without the program that has it",
            remedy="give its object with --target OBJ",
        )
    wanted = [one for one in target.obj.programs if target.program in ("", one.name)]
    found = [
        Replaced(target.obj, one, sub)
        for one in wanted
        for sub in one.subprogs
        if sub.name == function
    ]
    if not found:
        raise UnsupportedError(
            f"replacing {function}(), which {target.program or target.obj.path} does not have",
            remedy="functions that are inlined, or never called, are not there",
        )
    if len(found) > 1:
        names = ", ".join(one.program.name for one in found)
        raise UnsupportedError(
            f"replacing {function}(), which several programs have",
            remedy=f"say in which: --target OBJ:PROGRAM with one of {names}",
        )
    return replace(program, replaces=found[0])


def with_replaced(
    obj: BpfObject, replacements: Mapping[str, str], request: JudgeRequest
) -> BpfObject:
    """`obj` with functions exchanged, in each program that has them, for programs of other objects:
    by name of the function, the path of an object, or PATH:PROGRAM where several of its programs
    could replace it.

    Raises InputError for what is not there, and for what the verifier does not accept in the place
    of the function; `request` says how it judges.
    """
    for function, named in replacements.items():
        path, name = split_program(named)
        other = read_object(path, btf=request.btf, kconfig=request.kconfig, abi=request.abi)
        by = _replacement(other, function, name)
        owners = [one.name for one in obj.programs if function in {s.name for s in one.subprogs}]
        for owner in owners or [""]:
            _check_accepted(other, with_target(by, Target(obj, owner)), request)
        obj = spliced(obj, function, other, by)
    return obj


def split_program(text: str) -> tuple[str, str]:
    """(path of an object, program) of PATH or PATH:PROGRAM; "" for no program."""
    path, colon, name = text.rpartition(":")
    named = colon and name.isidentifier() and not os.path.exists(text)
    return (path, name) if named else (text, "")


def _replacement(other: BpfObject, function: str, name: str) -> Program:
    """The program of an object that is for the function."""
    fitting = [one for one in other.programs if one.section == f"freplace/{function}"]
    found = [one for one in fitting if name in ("", one.name)]
    if len(found) == 1:
        return found[0]
    listed = fitting or other.programs
    known = ", ".join(f"{one.name} ({one.section})" for one in listed) or "it has none"
    raise InputError(
        f"{len(found) or 'no'} programs{f' called {name}' if name else ''} replace {function}()",
        where=other.path,
        remedy=f"say which, as PATH:PROGRAM; programs: {known}",
    )


def _check_accepted(other: BpfObject, by: Program, request: JudgeRequest) -> None:
    from pybpfvm.session.judging import case_of, judge_case
    from pybpfvm.verifier.verdict import Inconclusive, Rejected

    assert by.replaces is not None
    request = replace(request, target=Target(by.replaces.obj, by.replaces.program.name))
    verdict = judge_case(other, case_of(other, by, request), request)
    if isinstance(verdict, Rejected):
        raise InputError(
            f"the verifier refuses {by.name} in the place of {by.replaces.function.name}(): "
            f"{verdict.errors[0].message}",
            where=other.path,
            remedy=f"pybpfvm verify {other.path} --target {by.replaces.obj.path} says why",
        )
    if isinstance(verdict, Inconclusive):
        raise UnsupportedError(verdict.finding.feature or verdict.finding.message, where=other.path)
