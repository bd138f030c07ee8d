"""The verifier's entry point: `verify(program, obj, profile)` gives a verdict."""

from __future__ import annotations

import time
from itertools import chain, islice

from pybpfvm.collection import no_collection
from pybpfvm.profiles.base import Profile, Sleepable
from pybpfvm.profiles.detect import matching_section
from pybpfvm.program import BpfObject, Program
from pybpfvm.verifier import structure
from pybpfvm.verifier.arena import refused_arenas
from pybpfvm.verifier.environment import MAX_ERRORS, Environment, Options, environment
from pybpfvm.verifier.exceptioncallback import check_callback
from pybpfvm.verifier.explore import Explorer
from pybpfvm.verifier.globals import entries
from pybpfvm.verifier.newer import newer_code
from pybpfvm.verifier.prepared import Prepared
from pybpfvm.verifier.privileges.capabilities import capability_errors, speculation_feature
from pybpfvm.verifier.refusal import Refused
from pybpfvm.verifier.replacing import check_replacement
from pybpfvm.verifier.resources.deferred import Deferred
from pybpfvm.verifier.resources.fields import refused_maps
from pybpfvm.verifier.verdict import (
    Accepted,
    Finding,
    Inconclusive,
    Interrupted,
    Kind,
    Rejected,
    Rule,
    Statistics,
    Verdict,
    cut_short,
)

__all__ = ["MAX_ERRORS", "Options", "verify"]

_DEFAULT = Options()


def verify(
    program: Program, obj: BpfObject, profile: Profile, *, options: Options = _DEFAULT
) -> Verdict:
    """Decide whether `program` of `obj` is safe under the rules of `profile`.

    Rejected with the first error (all independent ones if `options.all_errors`), Inconclusive if
    the program uses what this verifier can not judge or the budget runs out. Raises nothing for
    what a program contains; Interrupted, a KeyboardInterrupt, after Ctrl-C while it explores.
    """
    env = environment(program, obj, profile, options)
    insns = program.slots
    errors = (
        capability_errors(env)
        or _sleepable_errors(env)
        or _placed_errors(env)
        or tuple(islice(structure.code_errors(env), MAX_ERRORS))
        or _map_errors(env)
    )
    errors = errors or tuple(newer_code(env))
    unknown = next((one for one in errors if one.kind is Kind.UNSUPPORTED), None)
    if unknown is not None:
        return Inconclusive(Statistics(insns=insns), unknown)
    if errors:
        kept = errors if options.all_errors else errors[:1]
        return Rejected(Statistics(insns=insns), kept)
    # Exploring makes no cycles but one knot that it unties itself: looking takes a third of it.
    with no_collection():
        verdict = _explored(env, insns)
    feature = speculation_feature(env)
    if feature and isinstance(verdict, Accepted):
        return _unsupported(verdict.stats, feature)
    return verdict


def _explored(env: Environment, insns: int) -> Verdict:
    """The verdict on a program whose control flow is sound: its main function's, and that of
    each global function that it calls, or that catches what it throws, and of each callback that is
    run later."""
    processed = states = peak_states = 0
    found: list[Finding] = []
    undecided: Finding | None = None
    tail_calls: set[int] = set()
    prepared = Prepared(env)
    until = time.monotonic() + env.options.budget_seconds
    work: list[tuple[int, Deferred | None]] = [(entry, None) for entry in entries(env)]
    sleepable = env.sleepable
    known = 0
    for entry, later in work:
        env.sleepable = sleepable if later is None else later.sleepable
        explorer = Explorer(env, entry, processed, prepared, until=until, later=later)
        interrupted = False
        try:
            explorer.run()
        except KeyboardInterrupt:
            interrupted = True
        work += [(one.entry, one) for one in islice(env.deferred, known, None)]
        known = len(env.deferred)
        processed = explorer.processed
        states += explorer.states
        peak_states = max(peak_states, explorer.peak_states)
        tail_calls |= explorer.tail_calls
        found += explorer.errors
        undecided = undecided or explorer.inconclusive
        if interrupted or ((found or undecided) and not env.options.all_errors):
            break
    env.sleepable = sleepable
    deepest = structure.deepest_stack(env)
    stats = Statistics(insns, processed, states, peak_states, deepest)
    warnings = tuple(env.warnings.values())
    if interrupted:
        line = env.program.line_at(explorer.looked_at)
        unknown = cut_short(stats, explorer.looked_at, line)
        raise Interrupted(Rejected(stats, tuple(found), warnings) if found else unknown)
    if found:
        return Rejected(stats, tuple(found), warnings)
    if undecided is not None:
        return Inconclusive(stats, undecided, warnings)
    deep = tuple(structure.stack_errors(env, frozenset(tail_calls)))
    return Rejected(stats, deep, warnings) if deep else Accepted(stats, warnings, env.probes)


def _map_errors(env: Environment) -> tuple[Finding, ...]:
    """Maps that can not be made, or not be used by programs of the type."""
    refused = chain(refused_maps(env), refused_arenas(env))
    return tuple(_finding(env, pc, why) for pc, why in refused)


def _placed_errors(env: Environment) -> tuple[Finding, ...]:
    """Whether the program's exception callback can be one, and the program what it replaces."""
    try:
        check_callback(env)
        check_replacement(env)
    except Refused as refused:
        return (_finding(env, 0, refused),)
    return ()


def _finding(env: Environment, pc: int, refused: Refused) -> Finding:
    return Finding(
        refused.rule,
        refused.kind,
        pc,
        refused.message,
        refused.reason,
        refused.suggestion,
        env.program.line_at(pc),
        feature=refused.feature,
    )


def _sleepable_errors(env: Environment) -> tuple[Finding, ...]:
    """Whether programs of the profile must, or can not, be sleepable."""
    profile = env.profile
    section = matching_section(profile, env.program.section)
    says_so = section is not None and section.sleepable
    gate = f"{profile.loop.ops}/{profile.loop.gate}" if profile.loop and profile.loop.gate else ""
    if gate and says_so and env.program.attach_to == gate:
        message = f"programs of {gate} can not be sleepable"
    elif profile.sleepable is Sleepable.NEVER and says_so:
        message = f"programs of {profile.name} can not be sleepable"
    elif profile.sleepable is Sleepable.REQUIRED and section is not None and not says_so:
        message = f"programs of {profile.name} must be sleepable"
    else:
        return ()
    finding = Finding(
        Rule.HELPER_NOT_ALLOWED,
        Kind.POLICY,
        0,
        message,
        reason=f"section {env.program.section!r} decides it",
        source=env.program.line_at(0),
    )
    return (finding,)


def _unsupported(stats: Statistics, feature: str) -> Inconclusive:
    finding = Finding(
        Rule.UNSUPPORTED,
        Kind.UNSUPPORTED,
        0,
        f"unsupported: {feature}",
        reason="this verifier has no rules for it yet",
        feature=feature,
    )
    return Inconclusive(stats, finding)
