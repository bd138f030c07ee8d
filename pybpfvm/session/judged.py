"""What judging leaves behind, for reports: small values that cross from process to process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from pybpfvm.errors import SourceLine
from pybpfvm.facts import program_facts
from pybpfvm.isa.codec import pcs
from pybpfvm.isa.disasm import format_insn
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind as InsnKind
from pybpfvm.listing import Names
from pybpfvm.profiles.base import CtxField, CtxHolds, Profile
from pybpfvm.profiles.mainline import MAINLINE_NAMES
from pybpfvm.program import BpfObject, Program
from pybpfvm.verifier.verdict import Accepted, Finding, Inconclusive, Rejected, Verdict

# Instructions shown before and after the one that a finding is about.
_AROUND = 3

EXIT_REJECTED = 1
EXIT_UNREADABLE = 2
EXIT_INCONCLUSIVE = 3
EXIT_INTERRUPTED = 130


class Agreement(Enum):
    """How a verdict stands to the running kernel's."""

    AGREED = "agreed"
    STRICTER = "we refuse what the kernel accepts"
    LOOSER = "we accept what the kernel refuses"
    UNDECIDED = "we decided nothing"
    NOT_COMPARED = "not compared"


@dataclass(frozen=True, slots=True)
class KernelSide:
    """The running kernel's answer to a program: `accepted` is None where it was not asked, and
    `message` says why. `pc` is the instruction that its log ends at."""

    accepted: bool | None
    message: str = ""
    errno: int = 0
    pc: int | None = None
    log: str = ""


@dataclass(frozen=True, slots=True)
class JudgedProgram:
    """A program with its verdict. `abi` is "" where its type is not known.

    `insns` are the texts, by pc, of the instructions that findings name and of those around them.
    `recorded` is what the recorder of a format kept, None without one. `interrupted`: judging ended
    here, with what was known by then. `ctx_fields` are those of the context, where a witness needs
    them, `ctx_read` the names of those that the program reads and the host gives. `near`
    has, by pc, a line of the program's own file for findings in a header's function.
    """

    name: str
    section: str
    abi: str
    verdict: Verdict
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    insns: Mapping[int, str] = field(default_factory=dict)
    recorded: object = None
    kernel: KernelSide | None = None
    interrupted: bool = False
    ctx_fields: tuple[CtxField, ...] = ()
    ctx_read: frozenset[str] = frozenset()
    near: Mapping[int, SourceLine] = field(default_factory=dict)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The errors, or why nothing was decided; none of an accepted program."""
        if isinstance(self.verdict, Rejected):
            return self.verdict.errors
        if isinstance(self.verdict, Inconclusive):
            return (self.verdict.finding,)
        return ()

    @property
    def agreement(self) -> Agreement | None:
        """How the verdict stands to the kernel's; None if it was not asked for."""
        if self.kernel is None:
            return None
        if self.kernel.accepted is None:
            return Agreement.NOT_COMPARED
        if isinstance(self.verdict, Inconclusive):
            return Agreement.UNDECIDED
        accepted = isinstance(self.verdict, Accepted)
        if accepted == self.kernel.accepted:
            return Agreement.AGREED
        return Agreement.LOOSER if accepted else Agreement.STRICTER

    @property
    def exit_code(self) -> int:
        """What the command line returns for it alone."""
        if self.agreement in (Agreement.STRICTER, Agreement.LOOSER):
            return EXIT_REJECTED
        if isinstance(self.verdict, Rejected):
            return EXIT_REJECTED
        return EXIT_INCONCLUSIVE if isinstance(self.verdict, Inconclusive) else 0


@dataclass(frozen=True, slots=True)
class JudgedObject:
    """An object with its judged programs, in its order.

    `kernel` is the version whose rules counted. `error` says why the object can not be used, ""
    if it can; `error_code` is the exit code for that. `complete` is False when judging was
    interrupted.
    """

    path: str
    kernel: str
    sha256: str = ""
    abi: str = ""
    programs: tuple[JudgedProgram, ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""
    error_code: int = EXIT_UNREADABLE
    complete: bool = True

    @property
    def exit_code(self) -> int:
        """The worst of its programs'; 2 if it can not be used, 130 if judging was interrupted."""
        if not self.complete:
            return EXIT_INTERRUPTED
        own = [program.exit_code for program in self.programs]
        return worst([*own, self.error_code] if self.error else own)


# What matters more comes first: that not all was judged, input that nobody could judge, then a
# refusal, then a doubt.
_WORST = (EXIT_INTERRUPTED, EXIT_UNREADABLE, EXIT_REJECTED, EXIT_INCONCLUSIVE)


def worst(codes: list[int]) -> int:
    """The exit code that stands for all of `codes`."""
    return next((code for code in _WORST if code in codes), max(codes, default=0))


def judged_program(
    program: Program,
    obj: BpfObject,
    profile: Profile | None,
    verdict: Verdict,
    *,
    seconds: float = 0.0,
    notes: tuple[str, ...] = (),
    recorded: object = None,
    kernel: KernelSide | None = None,
    interrupted: bool = False,
) -> JudgedProgram:
    """A program and its verdict as a value for reports."""
    result = JudgedProgram(
        program.name,
        program.section,
        profile.name if profile is not None else "",
        verdict,
        seconds,
        notes,
        recorded=recorded,
        kernel=kernel,
        interrupted=interrupted,
    )
    named: set[int] = set()
    for finding in (*result.findings, *verdict.warnings):
        named.add(finding.pc)
        named.update(step.pc for step in finding.path)
    told = any(found.witness is not None for found in result.findings)
    fields = profile.ctx_fields if profile is not None and told else ()
    read = _read_fields(program, fields)
    at = [finding.pc for finding in (*result.findings, *verdict.warnings)]
    near = {pc: line for pc in at if (line := _near(program, pc)) is not None}
    insns = _texts(program, obj, profile, named)
    return replace(result, insns=insns, ctx_fields=fields, ctx_read=read, near=near)


def _read_fields(program: Program, fields: tuple[CtxField, ...]) -> frozenset[str]:
    """Those of `fields` that the host gives and an instruction of the program loads."""
    given = [one for one in fields if one.holds is CtxHolds.GIVEN]
    loads = [one for one in program_facts(program).ctx if one.form == "load"] if given else []
    return frozenset(
        one.name
        for one in given
        if any(one.named_by(load.offset, load.size, store=False) for load in loads)
    )


def _near(program: Program, pc: int) -> SourceLine | None:
    """A line of the program's own file, if that of `pc` is in another."""
    exact, own = program.line_at(pc), program.own_line_at(pc)
    return None if exact is None or own is None or exact.file == own.file else own


class _Names(Names):
    """Names of helpers that a program's type does not have, too, where mainline has them."""

    def __init__(self, obj: BpfObject, program: Program, profile: Profile | None) -> None:
        super().__init__(obj, program, profile)
        self._others = MAINLINE_NAMES if profile is None or profile.ring is None else {}

    def __call__(self, insn: Insn, pc: int) -> str | None:
        found = super().__call__(insn, pc)
        if found is None and insn.spec.kind is InsnKind.CALL:
            return self._others.get(insn.imm)
        return found


def _texts(
    program: Program, obj: BpfObject, profile: Profile | None, named: set[int]
) -> dict[int, str]:
    """Instructions at and around the pcs `named`, as text by pc."""
    if not named:
        return {}
    names = _Names(obj, program, profile)
    places = list(zip(pcs(program.insns), program.insns, strict=True))
    shown: set[int] = set()
    for index, (pc, _) in enumerate(places):
        if pc in named:
            shown.update(range(max(0, index - _AROUND), min(len(places), index + _AROUND + 1)))
    return {
        places[index][0]: format_insn(places[index][1], places[index][0], resolve=names)
        for index in sorted(shown)
    }
