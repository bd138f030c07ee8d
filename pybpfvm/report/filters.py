"""Filters of requests for people and machines: listings, problems, and who denied a request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pybpfvm.filters.cbpf import Insn, Kind, Mode, encode, text_of
from pybpfvm.filters.check import Problem
from pybpfvm.filters.context import opcode_name, told, word_name
from pybpfvm.filters.run import Ran, Step
from pybpfvm.filters.table import Filter, Verdict

_NUMBER_LIMIT = 1 << 16


def listing(insns: Sequence[Insn], opcode: int | None, kernel: str) -> Iterator[str]:
    """Instructions with their bytes, and what the words are that they load from the context of
    `opcode` (None: of any opcode)."""
    for index, insn in enumerate(insns):
        loaded = _loads(insn, opcode, kernel)
        text = f"l{index}: {text_of(insn, index)}"
        raw = encode([insn]).hex(" ", 2)
        yield f"{raw}  {text:28}{'; ' + loaded if loaded else ''}".rstrip()


def _loads(insn: Insn, opcode: int | None, kernel: str) -> str:
    spec = insn.spec
    if spec is None or spec.mode is not Mode.WORD or spec.name != "ld":
        return ""
    return word_name(insn.k, opcode, kernel) or ("" if opcode is None else "always 0")


def problem_line(problem: Problem, insns: Sequence[Insn], lines: Sequence[int]) -> str:
    """A problem with its place: the line of the text it was assembled from, where there is one."""
    if problem.index is None:
        return problem.reason
    place = f"line {lines[problem.index]}, " if lines else ""
    return f"{place}l{problem.index}: {text_of(insns[problem.index], problem.index)}: " + (
        problem.reason
    )


def problem_document(
    problem: Problem, insns: Sequence[Insn], lines: Sequence[int]
) -> dict[str, object]:
    """The same for machines."""
    index = problem.index
    return {
        "insn": index,
        "line": lines[index] if index is not None and lines else None,
        "text": None if index is None else text_of(insns[index], index),
        "reason": problem.reason,
        "remedy": problem.remedy,
    }


def verdict_lines(verdict: Verdict, kernel: str) -> Iterator[str]:
    """Whether the request goes on, which filters were asked, and what each of them did."""
    shown = ", ".join(
        f"{name} {number(value)}"
        for name, value in told(verdict.opcode, verdict.context, kernel).items()
    )
    request = opcode_name(verdict.opcode) + (f" ({shown})" if shown else "")
    if not verdict.asked:
        yield f"{request}: allowed, no filter is asked"
        return
    if verdict.allowed:
        yield f"{request}: allowed by {_count(len(verdict.asked))}"
    else:
        yield f"{request}: {verdict.reason}, -EACCES"
    for one, ran in verdict.asked:
        if ran is None:
            yield f"\n{one}: denies every request of an opcode without filter"
            continue
        yield f"\n{one}: {'denies' if ran.result == 0 else 'allows'} (returns {number(ran.result)})"
        for step in ran.steps:
            yield f"  {_step_line(step, one, verdict.opcode, kernel)}"
    if verdict.not_asked:
        names = ", ".join(str(one) for one in verdict.not_asked)
        yield f"\nnot asked, the first denial ends it: {names}"


def _count(count: int) -> str:
    return "its filter" if count == 1 else f"all {count} filters"


def _step_line(step: Step, one: Filter, opcode: int, kernel: str) -> str:
    assert one.program is not None
    insn = one.program[step.index]
    spec = insn.spec
    assert spec is not None
    text = f"l{step.index}: {text_of(insn, step.index)}"
    match spec.kind:
        case Kind.LOAD_A | Kind.ALU | Kind.NEG | Kind.TXA:
            told = f"A = {number(step.a)}"
        case Kind.LOAD_X | Kind.TAX:
            told = f"X = {number(step.x)}"
        case Kind.BRANCH:
            operand = step.x if spec.mode is Mode.X else insn.k
            holds = "yes" if step.taken else "no"
            told = f"{number(step.a)} {_SIGNS[spec.op]} {number(operand)}? {holds}"
        case Kind.STORE_A:
            told = f"M[{insn.k}] = {number(step.a)}"
        case Kind.STORE_X:
            told = f"M[{insn.k}] = {number(step.x)}"
        case _:
            told = ""
    loaded = _loads(insn, opcode, kernel)
    return f"{text:28}{told}{f'  ({loaded})' if loaded else ''}".rstrip()


_SIGNS = {"jeq": "==", "jgt": ">", "jge": ">=", "jset": "&"}


def number(value: int) -> str:
    """A word as people read it: small in decimal, large in hex."""
    return str(value) if value < _NUMBER_LIMIT else f"{value:#x}"


def verdict_document(verdict: Verdict, kernel: str) -> dict[str, object]:
    """The same for machines."""
    return {
        "opcode": opcode_name(verdict.opcode),
        "context": verdict.context.hex(),
        "fields": told(verdict.opcode, verdict.context, kernel),
        "allowed": verdict.allowed,
        "denied_by": None if verdict.denied_by is None else _named(verdict.denied_by),
        "asked": [_asked(one, ran) for one, ran in verdict.asked],
        "not_asked": [_named(one) for one in verdict.not_asked],
    }


def _named(one: Filter) -> dict[str, object]:
    return {"name": one.name, "on": one.scope.value, "sentinel": one.program is None}


def _asked(one: Filter, ran: Ran | None) -> dict[str, object]:
    steps = [] if ran is None else [{"insn": s.index, "a": s.a, "x": s.x} for s in ran.steps]
    return _named(one) | {"result": 0 if ran is None else ran.result, "steps": steps}
