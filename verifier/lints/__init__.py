"""Lints of ring programs: what no kernel refuses and is probably a bug all the same.

`with_lints` adds their warnings to a verdict and never changes it otherwise. Each lint is a rule
of kind LINT; docs/lints.md lists them by the rows of the catalogue that they come from. They watch
an exploration of their own, which keeps paths apart that the verdict need not tell apart: by what
the program did to its queues so far, and by where its numbers came from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.loop_upstream import kernel_btf_of
from pybpfvm.program import BpfObject, Program
from pybpfvm.verifier.environment import Options, default_rules
from pybpfvm.verifier.verdict import Finding, Inconclusive, Kind, Rule, Verdict
from pybpfvm.verifier.verify import verify

if TYPE_CHECKING:
    from pybpfvm.verifier.lints.watching import Watching

__all__ = ["lint", "with_lints"]

# Instructions that keeping all paths apart may take; beyond, fewer are kept apart.
_FINE_INSNS = 10_000
_COARSE_TIMES, _COARSE_INSNS = 3, 20_000


def lint(
    program: Program,
    obj: BpfObject,
    profile: Profile,
    options: Options,
    *,
    processed_insns: int = 0,
) -> tuple[Finding, ...]:
    """The warnings on a program, by pc; none for programs that have nothing to do with a ring.

    `processed_insns` is what deciding on it took. This takes a few times that at most: what is
    not seen by then is not warned of.
    """
    if (profile.ring is None and profile.loop is None) or program.big_endian:
        return ()
    watcher = _watcher(program, obj, profile, options)
    if watcher is None:
        return ()
    most = min(options.budget_insns, _COARSE_TIMES * processed_insns + _COARSE_INSNS)
    found: dict[tuple[Rule, int], Finding] = {}
    fine = [(False, min(most, _FINE_INSNS))] if processed_insns <= _FINE_INSNS // 2 else []
    for coarse, budget_insns in (*fine, (True, most)):
        watching = watcher(coarse)
        verdict = verify(
            program,
            obj,
            profile,
            options=replace(
                options,
                observer=watching,
                by_origin=True,
                all_errors=True,
                budget_insns=budget_insns,
                rules=replace(options.rules or default_rules(profile), lookup_never_null=True),
            ),
        )
        finished = not (isinstance(verdict, Inconclusive) and verdict.finding.kind is Kind.LIMIT)
        for one in watching.warnings(finished=finished):
            found.setdefault((one.rule, one.pc), one)
        if finished:
            break
    return tuple(found.values())


def _watcher(
    program: Program, obj: BpfObject, profile: Profile, options: Options
) -> Callable[[bool], Watching] | None:
    """What makes the observer for one exploration; None where nothing is watched. Most programs are
    ordinary ones: what watches rings is not imported for them."""
    if profile.ring is not None:
        from pybpfvm.verifier.lints.watch import Lints

        return lambda coarse: Lints(program, obj, profile, options.contract, coarse=coarse)
    from pybpfvm.verifier.lints.loops import LoopLints, loop_rules

    kernel = options.target_btf or kernel_btf_of(profile)
    if loop_rules(profile, program) is None or kernel is None:
        return None
    return lambda coarse: LoopLints(program, profile, kernel, options.ring, coarse=coarse)


def with_lints(
    program: Program, obj: BpfObject, profile: Profile, verdict: Verdict, options: Options
) -> Verdict:
    """`verdict` with the warnings on the program added to those that it has, but for those that
    the contract knows of."""
    found = lint(program, obj, profile, options, processed_insns=verdict.stats.processed_insns)
    contract = options.contract
    allowed = {} if contract is None else contract.of(program.name).allow
    kept = tuple(one for one in (*verdict.warnings, *found) if one.rule not in allowed)
    return replace(verdict, warnings=tuple(sorted(kept, key=_place)))


def _place(finding: Finding) -> tuple[int, str]:
    return finding.pc, finding.rule.value
