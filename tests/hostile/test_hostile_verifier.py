"""Programs and types made to exhaust the verifier: each ends in a verdict, in bounded time.

Here they are small enough for every run. PYBPFVM_HOSTILE_VERIFIER=1 makes them as large as the
kernel loads (a million instructions, 100,000 functions or types) and prints what each took; every
one runs in a process of its own, whose memory is bounded.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pybpfvm.btf.types import (
    Btf,
    Const,
    Func,
    FuncLinkage,
    FuncProto,
    Int,
    Member,
    Param,
    Ptr,
    Struct,
    Typedef,
)
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.table import SPECS
from pybpfvm.profiles import profile_named
from pybpfvm.program import BpfObject, MapSpec, MapType, Program, Subprog
from pybpfvm.verifier.verdict import Accepted, Inconclusive, Kind, Rejected, Rule, Verdict
from pybpfvm.verifier.verify import MAX_ERRORS, Options, verify

LARGE = os.environ.get("PYBPFVM_HOSTILE_VERIFIER", "") not in ("", "0")
PROFILE = profile_named("socket_filter")
# CPU time, on a slow machine; a program that is quadratic in its size needs hours.
SECONDS = 400 if LARGE else 20
LARGE_MIB = 1_500
ROOT = Path(__file__).parents[2]

_MOV = Insn(SPECS["mov64_k"])
_EXIT = Insn(SPECS["exit"])
_LOAD = Insn(SPECS["ldxw"], dst=1, src=1)


def _jump(off: int, imm: int = 0) -> Insn:
    return Insn(SPECS["jeq64_k"], dst=1, off=off, imm=imm)


def _call(distance: int) -> Insn:
    return Insn(SPECS["call_local"], src=1, imm=distance)


def judge(
    insns: list[Insn] | tuple[Insn, ...],
    *,
    btf: Btf | None = None,
    subprogs: tuple[Subprog, ...] = (),
    maps: tuple[MapSpec, ...] = (),
    options: Options | None = None,
) -> Verdict:
    program = Program("main", "socket", tuple(insns), subprogs=subprogs, license="GPL")
    obj = BpfObject("text", "", (program,), maps, btf=btf)
    return verify(program, obj, PROFILE, options=options or Options(all_errors=True))


def straight(n: int) -> Verdict:
    return judge([_MOV] * (n - 1) + [_EXIT])


def branches(n: int) -> Verdict:
    """Every instruction may go two ways, to the same place."""
    return judge([_LOAD, *[_jump(0)] * (n - 3), _MOV, _EXIT])


def table(n: int) -> Verdict:
    """A switch of many cases, each a place of its own."""
    cases = min(n // 3, 32_000)
    jumps = [_jump(cases + at + 1, at) for at in range(cases)]
    bodies = [one for _ in range(cases + 1) for one in (_MOV, _EXIT)]
    return judge([_LOAD, *jumps, *bodies])


def diamonds(n: int) -> Verdict:
    """Paths double at every test of another byte, and each path counts apart."""
    text = "r6 = r1\n r7 = 0\n"
    for at in range(min(n, 64)):
        text += f"r1 = *(u32 *)(r6 + {at % 4 * 4})\n if r1 == {at} goto +1\n r7 += {1 << at % 30}\n"
    text += "r7 &= 7\n r1 = r10\n r1 += -8\n r1 += r7\n *(u8 *)(r1 + 0) = 1\n r0 = 0\n exit"
    return judge(assemble(text), options=Options(budget_insns=n))


def pending(n: int) -> Verdict:
    """More branches wait than may."""
    return judge([_LOAD, *[_jump(1, at & 0x7FFF) for at in range(n - 4)], _MOV, _MOV, _EXIT])


def unreachable(n: int) -> Verdict:
    goto = Insn(SPECS["goto"], off=1)
    return judge([one for _ in range(n // 2 - 1) for one in (goto, _MOV)] + [_MOV, _EXIT])


def into_lddw(n: int) -> Verdict:
    constant = Insn(SPECS["lddw"], dst=2)
    return judge(
        [_LOAD, *[one for _ in range(n // 4) for one in (_jump(1), constant)], _MOV, _EXIT]
    )


def out_of_range(n: int) -> Verdict:
    return judge([_LOAD, *[_jump(-32_768)] * (n - 3), _MOV, _EXIT])


def irreducible(n: int) -> Verdict:
    """Loops that are entered in their middle, each into the one before."""
    body = []
    for at in range(n // 4):
        back = -7 if at else 0
        body += [_jump(1, at), _MOV, Insn(SPECS["add64_k"], dst=2, imm=1), _jump(back, at + 1)]
    two = Insn(SPECS["mov64_k"], dst=2)
    return judge([_LOAD, two, *body, _MOV, _EXIT], options=Options(budget_insns=4 * n))


def endless(n: int) -> Verdict:
    """A loop around everything."""
    body = [_MOV] * min(n - 4, 32_000)
    return judge([_LOAD, *body, _jump(-len(body) - 1), _MOV, _EXIT])


def many_functions(n: int) -> Verdict:
    calls = [_call(n - at - 1 + 2 + 2 * at) for at in range(n)]
    return judge([*calls, _MOV, _EXIT, *[_MOV, _EXIT] * n])


def call_chain(n: int) -> Verdict:
    """Every function calls the next."""
    return judge([*[_call(1), _EXIT] * n, _MOV, _EXIT])


def recursion(n: int) -> Verdict:
    """The last of a chain of functions calls the first."""
    start = [_call(1), _EXIT]
    return judge([*start, *[_call(1), _EXIT] * n, _call(-2 * n - 1), _EXIT])


def global_functions(n: int) -> Verdict:
    btf = Btf.of([Int("int", 4, 32), FuncProto(1, ()), Func("f", 2, FuncLinkage.GLOBAL)])
    calls = [_call(n - at - 1 + 2 + 2 * at) for at in range(n)]
    first = n + 2
    subprogs = tuple(
        Subprog(f"f{at}", first + 2 * at, first + 2 * at + 2, is_global=True, btf_type_id=3)
        for at in range(n)
    )
    return judge([*calls, _MOV, _EXIT, *[_MOV, _EXIT] * n], btf=btf, subprogs=subprogs)


def _with_parameter(types: list[Any], parameter: int) -> Verdict:
    """A call of a global function whose parameter has that type."""
    proto = len(types) + 1
    btf = Btf.of(
        [*types, FuncProto(1, (Param("x", parameter),)), Func("f", proto, FuncLinkage.GLOBAL)]
    )
    two = Insn(SPECS["mov64_k"], dst=1)
    sub = Subprog("f", 3, 5, is_global=True, btf_type_id=proto + 1)
    return judge([two, _call(1), _EXIT, _MOV, _EXIT], btf=btf, subprogs=(sub,))


def typedefs(n: int) -> Verdict:
    chain = [Typedef(f"t{at}", at + 1) for at in range(n)]
    return _with_parameter([Int("int", 4, 32), *chain], n + 1)


def typedef_circle(n: int) -> Verdict:
    chain = [Typedef(f"t{at}", at + 3 if at < n - 1 else 2) for at in range(n)]
    return _with_parameter([Int("int", 4, 32), *chain], 2)


def pointers(n: int) -> Verdict:
    chain = [Ptr(at + 1) if at % 2 else Const(at + 1) for at in range(n)]
    return _with_parameter([Int("int", 4, 32), *chain], n + 1)


def _with_value(types: list[Any], value: int) -> Verdict:
    """A lookup in a map whose values have that type."""
    spec = MapSpec("m", MapType.ARRAY, 4, 8, 1, btf_key_type_id=1, btf_value_type_id=value)
    text = (
        "*(u32 *)(r10 - 4) = 0\n r2 = r10\n r2 += -4\n r1 = map[m] ll\n call lookup\n r0 = 0\n exit"
    )
    insns = assemble(text, calls={"lookup": 1}, maps={"m": 0})
    return judge(insns, btf=Btf.of(types), maps=(spec,))


def structs(n: int) -> Verdict:
    chain = [Struct(f"s{at}", 8, (Member("m", at + 1, 0),)) for at in range(n)]
    return _with_value([Int("long", 8, 64), *chain], n + 1)


def struct_circle(n: int) -> Verdict:
    chain = [Struct(f"s{at}", 8, (Member("m", at + 3 if at < n - 1 else 2, 0),)) for at in range(n)]
    return _with_value([Int("long", 8, 64), *chain], 2)


def value_typedefs(n: int) -> Verdict:
    chain = [Typedef(f"t{at}", at + 3 if at < n - 1 else 2) for at in range(n)]
    return _with_value([Int("long", 8, 64), *chain], 2)


def accepted(verdict: Verdict) -> bool:
    return isinstance(verdict, Accepted)


def broken(rule: Rule) -> Callable[[Verdict], bool]:
    return lambda verdict: isinstance(verdict, Rejected) and verdict.errors[0].rule is rule


def over_budget(verdict: Verdict) -> bool:
    return isinstance(verdict, Inconclusive) and verdict.finding.kind is Kind.LIMIT


def any_verdict(verdict: Verdict) -> bool:
    return isinstance(verdict, (Accepted, Rejected, Inconclusive))


def either(*tests: Callable[[Verdict], bool]) -> Callable[[Verdict], bool]:
    return lambda verdict: any(test(verdict) for test in tests)


# Name: what makes it, small and large size, the verdict.
ATTACKS: dict[str, tuple[Callable[[int], Verdict], int, int, Callable[[Verdict], bool]]] = {
    "straight": (straight, 20_000, 1_000_000, accepted),
    "branches": (branches, 3_000, 1_000_000, either(accepted, over_budget)),
    "table": (table, 6_000, 96_000, either(accepted, broken(Rule.BUDGET))),
    "diamonds": (diamonds, 20_000, 1_000_000, over_budget),
    "pending": (pending, 20_000, 1_000_000, either(broken(Rule.BUDGET), over_budget)),
    "unreachable": (unreachable, 20_000, 1_000_000, broken(Rule.UNREACHABLE)),
    "into lddw": (into_lddw, 20_000, 1_000_000, broken(Rule.BAD_JUMP)),
    "out of range": (out_of_range, 20_000, 1_000_000, broken(Rule.BAD_JUMP)),
    "irreducible": (irreducible, 4_000, 200_000, any_verdict),
    "endless": (endless, 10_000, 1_000_000, broken(Rule.INFINITE_LOOP)),
    "many functions": (many_functions, 2_000, 100_000, accepted),
    "call chain": (call_chain, 5_000, 100_000, broken(Rule.CALL_DEPTH)),
    "recursion": (recursion, 5_000, 100_000, broken(Rule.RECURSION)),
    "global functions": (global_functions, 2_000, 100_000, accepted),
    "typedefs": (typedefs, 5_000, 100_000, any_verdict),
    "typedef circle": (typedef_circle, 5_000, 100_000, any_verdict),
    "pointers": (pointers, 5_000, 100_000, any_verdict),
    "structs": (structs, 5_000, 100_000, any_verdict),
    "struct circle": (struct_circle, 5_000, 100_000, any_verdict),
    "value typedefs": (value_typedefs, 5_000, 100_000, any_verdict),
}


def attack(name: str, size: int) -> str:
    """Make it, judge it; what the verdict was and what it took."""
    make, *_, expected = ATTACKS[name]
    start = time.process_time()
    verdict = make(size)
    seconds = time.process_time() - start
    assert expected(verdict), (type(verdict), getattr(verdict, "finding", None))
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    assert seconds < SECONDS, f"{name}: {seconds:.0f} s"
    return f"{name}, {size}: {type(verdict).__name__}, {seconds:.1f} s CPU, {mib} MiB"


@pytest.mark.skipif(LARGE, reason="the large ones are asked for")
@pytest.mark.parametrize("name", ATTACKS)
def test_ends_in_a_verdict(name: str) -> None:
    attack(name, ATTACKS[name][1])


@pytest.mark.timeout(10 * SECONDS)
@pytest.mark.skipif(not LARGE, reason="PYBPFVM_HOSTILE_VERIFIER=1 asks for the large ones")
@pytest.mark.parametrize("name", ATTACKS)
def test_ends_in_a_verdict_at_full_size(name: str) -> None:
    size = ATTACKS[name][2]
    code = f"from {__name__} import attack; print(attack({name!r}, {size}))"
    limit = LARGE_MIB << 20

    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=10 * SECONDS,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout.strip())


LOOP = """
  r6 = *(u32 *)(r1 + 0)
  r1 = 0
  r6 += 3
  if r6 == 7 goto +0
  r1 += 1
  if r1 != 60000 goto -4
  r0 = 0
  exit
"""


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (Options(budget_insns=5_000), "--budget-insns"),
        (Options(budget_states=1_000), "--budget-states"),
        (Options(budget_seconds=0.0), "--budget-seconds"),
    ],
)
def test_each_budget_ends_in_a_verdict_that_names_it(options: Options, named: str) -> None:
    insns = [_LOAD, *[_jump(1, at) for at in range(7_000)], _MOV, _MOV, _EXIT]
    verdict = judge(insns, options=options)
    assert isinstance(verdict, Inconclusive), verdict
    finding = verdict.finding
    assert (finding.rule, finding.kind) == (Rule.BUDGET, Kind.LIMIT)
    assert named in finding.suggestion, finding


def test_a_report_has_a_bounded_number_of_errors() -> None:
    verdict = out_of_range(5_000)
    assert isinstance(verdict, Rejected)
    assert len(verdict.errors) == MAX_ERRORS
    bad = Insn(SPECS["ldxdw"], dst=2, src=3)
    tests = [Insn(SPECS["jgt64_k"], dst=1, off=1, imm=at) for at in range(400)]
    leaks = [one for test in tests for one in (test, bad)]
    verdict = judge([_LOAD, *leaks, _MOV, _EXIT])
    assert isinstance(verdict, Rejected)
    assert len(verdict.errors) == MAX_ERRORS


def test_states_that_are_dropped_free_memory() -> None:
    """A loop of many turns keeps a bounded number of states to compare with."""
    verdict = judge(assemble(LOOP.replace("60000", "20000")))
    assert isinstance(verdict, Accepted)
    assert verdict.stats.peak_states < 1_000 < verdict.stats.states
