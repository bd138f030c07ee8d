"""Judging programs: the verifier's verdict, and what is added to it for people.

`judge` decides on one program whose profile is known. `read_case` loads an object and finds out
by which profile each of its programs is judged; a program of a type that is not known gets an
Inconclusive that names it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

from pybpfvm.btf.types import Btf
from pybpfvm.errors import InputError, UnsupportedError
from pybpfvm.isa.opcodes import Kind as InsnKind
from pybpfvm.loader.kconfig import Kconfig
from pybpfvm.objectfile import abi_unknown, check_abi, detect_abi, read_object
from pybpfvm.profiles import profile_named, with_helpers
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.btf_typed import btf_typed_profile
from pybpfvm.profiles.detect import Detection
from pybpfvm.profiles.ordinary import profile_of_section, unsupported_type
from pybpfvm.program import BpfObject, Program
from pybpfvm.session.constants import with_constants
from pybpfvm.session.replacing import Target, replaces_function, with_target
from pybpfvm.verifier.environment import (
    DEFAULT_BUDGET_SECONDS,
    DEFAULT_BUDGET_STATES,
    KernelRules,
    Options,
    default_rules,
)
from pybpfvm.verifier.kernels import DEFAULT_KERNEL, KERNELS
from pybpfvm.verifier.lints import with_lints
from pybpfvm.verifier.log import DEFAULT_LOG_CHARS
from pybpfvm.verifier.observe import Observer
from pybpfvm.verifier.privileges.privilege import ALL, Capabilities
from pybpfvm.verifier.usermemory.contract import Contract
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
from pybpfvm.verifier.verify import verify

if TYPE_CHECKING:
    from pybpfvm.uring_backend.loop.shape import RingShape

DEFAULT_BUDGET_INSNS = 1_000_000
DEFAULT_WITNESS_RUNS = 120


class Recorder(Observer):
    """An observer that keeps what a format shows of an exploration."""

    def recorded(self, verdict: Verdict) -> object:
        """What was kept, once judging has ended. It must pickle, and hold no state."""
        raise NotImplementedError


class Policy(Enum):
    """Whose judgement counts."""

    KERNEL = "kernel"  # the verdict that the kernel would give
    STRICT = "strict"  # what is sound is accepted, also where the kernel loses the fact


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """How to judge; the same for every program of every object that is asked about.

    `kernel` is a key of `KERNELS`. `abi` names a profile, detected without; `program_type` too,
    for objects of ordinary types, and takes precedence. `helpers` gives helper numbers other
    meanings; `btf` is what CO-RE is resolved against, `kconfig` the configuration that externs are
    of. `constants` are values of variables in .rodata, as text. `contract` says what is promised of
    user memory. `all_errors`: go on after
    the first error. `strict_ctx` as in `ctxaccess.ctx_violation`. A log is written at `log_level`
    (the kernel's: 1 the path to an error, 2 every path) and keeps its last `log_chars` characters.
    The three budgets are those of `Options`. For each error, at most `witness_runs` runs look for
    inputs that show its harm.
    `caps` are those of the loader. `ring` is the ring that programs with a loop are for, `target`
    what programs that replace functions (freplace) are for.
    """

    kernel: str = DEFAULT_KERNEL
    policy: Policy = Policy.KERNEL
    abi: str | None = None
    program_type: str | None = None
    helpers: Mapping[int, str] = field(default_factory=dict)
    btf: Btf | None = None
    kconfig: Kconfig | None = None
    constants: Mapping[str, str] = field(default_factory=dict)
    budget_insns: int = DEFAULT_BUDGET_INSNS
    budget_states: int = DEFAULT_BUDGET_STATES
    budget_seconds: float = DEFAULT_BUDGET_SECONDS
    witness_runs: int = DEFAULT_WITNESS_RUNS
    all_errors: bool = True
    strict_ctx: bool = True
    contract: Contract | None = None
    log_level: int = 1
    log_chars: int = DEFAULT_LOG_CHARS
    caps: Capabilities = ALL
    ring: RingShape | None = None
    target: Target | None = None

    @property
    def rules(self) -> KernelRules:
        """The rules of `kernel`; InputError for one that is not known."""
        if self.kernel not in KERNELS:
            raise InputError(
                f"no rules are known for kernel {self.kernel!r}",
                where="kernel",
                remedy=f"known: {', '.join(KERNELS)}",
            )
        return KERNELS[self.kernel]


# Makes the recorder of one program.
RecorderOf = Callable[[Program, BpfObject, Profile, JudgeRequest], Recorder]


@dataclass(frozen=True, slots=True)
class Case:
    """A program to be judged by the rules of each of `profiles`: several where its ABI is
    ambiguous, none where its type is not known (then `unknown` says why)."""

    program: Program
    profiles: tuple[Profile, ...]
    unknown: Finding | None = None

    @property
    def profile(self) -> Profile | None:
        """The profile whose verdict is given."""
        return self.profiles[-1] if self.profiles else None


@dataclass(frozen=True, slots=True)
class ObjectCases:
    """An object with its programs to be judged, in its order."""

    obj: BpfObject
    detection: Detection
    cases: tuple[Case, ...]


def judge(
    program: Program,
    obj: BpfObject,
    profile: Profile,
    request: JudgeRequest,
    *,
    observer: Observer | None = None,
) -> Verdict:
    """The verdict on `program` of `obj` by the rules of `profile`. `observer` hears the
    exploration. Raises nothing for what a program contains, and Interrupted after Ctrl-C once it
    is being explored."""
    options = Options(
        budget_insns=request.budget_insns,
        budget_states=request.budget_states,
        budget_seconds=request.budget_seconds,
        all_errors=request.all_errors,
        strict_ctx=request.strict_ctx,
        observer=observer,
        rules=request.rules if profile.ring is None else None,
        target_btf=request.btf,
        contract=request.contract,
        caps=request.caps,
        ring=request.ring,
    )
    verdict = verify(program, obj, profile, options=options)
    if request.policy is Policy.STRICT and _only_unproven(verdict):
        verdict = _by_our_own_rules(program, obj, profile, options, verdict)
    try:
        # Here meet the parts that add to a verdict: lints, causes, witnesses, in this order.
        verdict = with_lints(program, obj, profile, verdict, options)
        if isinstance(verdict, Rejected):
            # Most programs are accepted: what explains refusals is not imported for them.
            from pybpfvm.session.witness import with_witness
            from pybpfvm.verifier.explaining.causes import explained, failing_paths

            paths = failing_paths(program, obj, profile, verdict, options)
            verdict = explained(program, obj, profile, verdict, options, paths=paths)
            runs = request.witness_runs
            verdict = with_witness(
                program, obj, profile, verdict, options, paths=paths, max_runs=runs
            )
    except KeyboardInterrupt:
        raise Interrupted(verdict) from None
    return verdict


def _only_unproven(verdict: Verdict) -> bool:
    """Whether nothing but lost facts speaks against the program."""
    return isinstance(verdict, Rejected) and all(
        error.kind is Kind.UNPROVEN for error in verdict.errors
    )


def _by_our_own_rules(
    program: Program, obj: BpfObject, profile: Profile, options: Options, refused: Verdict
) -> Verdict:
    """The verdict where more is followed than the kernel follows; if that accepts, it warns that
    the kernel would not. `refused` is the verdict by the kernel's rules."""
    assert isinstance(refused, Rejected)
    rules = options.rules or default_rules(profile)
    own = replace(options, rules=replace(rules, tracks_all=True), observer=None)
    verdict = verify(program, obj, profile, options=own)
    if not isinstance(verdict, Accepted):
        return refused
    notes = tuple(
        replace(
            error,
            kind=Kind.LINT,
            reason=f"the kernel would refuse the program here. {error.reason}".strip(),
        )
        for error in refused.errors
    )
    return replace(verdict, warnings=(*verdict.warnings, *notes))


def judge_case(
    obj: BpfObject, case: Case, request: JudgeRequest, *, observer: Observer | None = None
) -> Verdict:
    """As `judge`, for whatever is known of the program's type.

    Where its ABI is ambiguous, the verdict that all candidates agree on; Inconclusive if they
    differ, or if no type is known.
    """
    program = case.program
    if case.profile is None:
        assert case.unknown is not None
        return Inconclusive(Statistics(insns=program.slots), case.unknown)
    verdict = judge(program, obj, case.profile, request, observer=observer)
    try:
        others = [judge(program, obj, profile, request) for profile in case.profiles[:-1]]
    except KeyboardInterrupt:
        raise Interrupted(cut_short(verdict.stats)) from None
    if all(type(other) is type(verdict) for other in others):
        return verdict
    names = " or ".join(profile.name for profile in case.profiles)
    found = _unsupported(
        program,
        f"a verdict that is the same for {names}",
        f"the ABI is ambiguous: it could be {names}, and they differ on this program",
        f"say which, e.g. --abi {case.profile.name}",
    )
    return Inconclusive(verdict.stats, found)


def read_cases(source: str | os.PathLike[str] | bytes, request: JudgeRequest) -> ObjectCases:
    """Load an object, give its constants their values, and choose the profile of each of its
    programs. Raises InputError."""
    obj = with_constants(
        read_object(source, btf=request.btf, kconfig=request.kconfig, abi=request.abi),
        request.constants,
    )
    detection = detect_abi(obj)
    if request.abi and not request.program_type:
        check_abi(obj, detection, profile_named(request.abi))
    return ObjectCases(
        obj, detection, tuple(_case(obj, detection, program, request) for program in obj.programs)
    )


def loops_alike(
    source: str | os.PathLike[str] | bytes, request: JudgeRequest, *, refusals: bool = False
) -> tuple[Profile, ...]:
    """The ABIs that an object with the loop of a ring fits, oldest first, where its runs are the
    same by all of them: these differ in the ring's struct that kernels show at most, it is the same
    code on each, and every program is accepted by each (so none looks into what one does not show),
    or, with `refusals`, rejected for the same (so it does not run). Where that does not hold, or
    there is no choice, none. Raises InputError."""
    profiles = detect_abi(read_object(source, btf=request.btf, kconfig=request.kconfig)).candidates
    if len(profiles) < 2 or not _run_alike(profiles):
        return ()
    codes = []
    for profile in profiles:
        asked = replace(request, abi=profile.name, witness_runs=0)
        found = read_cases(source, asked)
        refused: list[tuple[str, str]] = []
        for case in found.cases:
            verdict = judge_case(found.obj, case, asked)
            if isinstance(verdict, Rejected) and refusals:
                refused.append((case.program.name, verdict.errors[0].message))
            elif not isinstance(verdict, Accepted):
                return ()
        codes.append((refused, [(program.name, program.insns) for program in found.obj.programs]))
    return profiles if all(code == codes[0] for code in codes) else ()


def _run_alike(profiles: Sequence[Profile]) -> bool:
    """Whether they are of loops, and one but for their names and what is shown of the ring."""
    shown = [
        replace(one, name="", title="", loop=replace(one.loop, ctx="", ctx_bytes=0))
        for one in profiles
        if one.loop is not None
    ]
    return len(shown) == len(profiles) and all(one == shown[0] for one in shown)


def case_of(obj: BpfObject, program: Program, request: JudgeRequest) -> Case:
    """A program of an object that is loaded, by the profile that it is judged by."""
    return _case(obj, detect_abi(obj), program, request)


def _case(obj: BpfObject, detection: Detection, program: Program, request: JudgeRequest) -> Case:
    if replaces_function(program):
        try:
            program = with_target(program, request.target)
        except UnsupportedError as error:
            where = f"section {program.section!r} says that the program replaces a function"
            found = _unsupported(program, error.feature, where, error.remedy)
            return Case(program, (), found)
        assert program.replaces is not None
        assert request.target is not None
        return replace(
            _case(request.target.obj, request.target.detection, program.replaces.program, request),
            program=program,
        )
    if program.is_callback and obj.btf is None:
        reason = "its BTF says which callback of which struct a program is"
        feature = "callbacks (struct_ops) of an object without BTF"
        return Case(program, (), _unsupported(program, feature, reason, "compile it with -g"))
    own = profile_of_section(program.section) or btf_typed_profile(program.section)
    if request.program_type:
        profiles: tuple[Profile, ...] = (profile_named(request.program_type, "type"),)
    elif request.abi:
        profiles = (profile_named(request.abi, "abi"),)
    else:
        profiles = detection.candidates
    if own is not None and any(one.loop is not None for one in profiles):
        fitting = tuple(one for one in profiles if _is_for(one, program))
        if not fitting and _calls_kernel(program):
            feature = f"functions of the kernel called by {own.name} programs of a ring's object"
            reason = f"they are resolved for {profiles[-1].name}"
            return Case(program, (), _unsupported(program, feature, reason, ""))
        profiles = fitting or (own,)
    elif not profiles and own is not None:
        profiles = (own,)
    if profiles:
        return Case(program, tuple(with_helpers(one, request.helpers) for one in profiles))
    return Case(program, (), _unknown_type(obj, detection, program))


def _is_for(profile: Profile, program: Program) -> bool:
    """Whether the profile can be the program's, by its section, and by the struct that names it."""
    if profile.section_rule(program.section) is None:
        return False
    struct = program.attach_to.partition("/")[0]
    return profile.loop is None or not struct or struct == profile.loop.ops


def _calls_kernel(program: Program) -> bool:
    return any(insn.spec.kind is InsnKind.CALL_KFUNC for insn in program.insns)


def _unknown_type(obj: BpfObject, detection: Detection, program: Program) -> Finding:
    """Why nothing can be said about a program: its type is not supported, or not known."""
    kind = unsupported_type(program.section)
    if kind is not None:
        reason = f"section {program.section!r} says that the program is of this type"
        return _unsupported(program, f"programs of type {kind}", reason, "")
    error = abi_unknown(obj, detection)
    feature = f"the program type of section {program.section!r}"
    return _unsupported(program, feature, error.reason, "say what it is with --type or --abi")


def _unsupported(program: Program, feature: str, reason: str, suggestion: str) -> Finding:
    return Finding(
        Rule.UNSUPPORTED,
        Kind.UNSUPPORTED,
        0,
        f"unsupported: {feature}",
        reason=reason,
        suggestion=suggestion,
        source=program.line_at(0),
        feature=feature,
    )
