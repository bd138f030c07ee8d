"""`fuzz verifier`: generated programs, judged, and what is accepted held to it.

Oracles: judging ends in a verdict; a program that is accepted does not trap, and whatever it
computes lies inside what was claimed; the running kernel accepts it too, if it is asked. Coverage:
the rules that refuse, by instruction, and what instructions meet in their registers.
"""

from __future__ import annotations

import re
import traceback
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from pybpfvm import bpfsys
from pybpfvm.errors import InputError, UnsupportedError
from pybpfvm.fuzz import program_inputs
from pybpfvm.fuzz.claims import Checker, Claims, NoCounterpart, claims
from pybpfvm.fuzz.kernel_verdicts import (
    KERNEL,
    Comparison,
    KernelVerdict,
    KernelVerifier,
    compared,
)
from pybpfvm.fuzz.program_inputs import STYLES, Choice, ProgramInput, read
from pybpfvm.fuzz.target import NO_INPUT, OneByOne, Problem, Tried
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.table import SPECS
from pybpfvm.session.kernel_journal import Journal, default_path
from pybpfvm.verifier.verdict import LINTS, Accepted, Inconclusive, Rejected, Rule, Verdict

BUDGET_INSNS = 20_000
_ALL_PATHS_INSNS = 4_000  # paths double at every branch
_ALL_PATHS_SHARE = 4  # one program in so many is also explored without pruning
_RUNS = 3

_RULES = frozenset(rule.value for rule in Rule if rule not in LINTS) - {Rule.BUDGET.value}
_OPCODES = frozenset(SPECS)


class VerifierTarget(OneByOne):
    """Programs of `choice`. `against_kernel`: each is loaded into the running kernel too, with a
    journal at `journal`. Raises UnsupportedError where no kernel can be asked."""

    name = "verifier"

    def __init__(
        self,
        choice: Choice | None = None,
        *,
        against_kernel: bool = False,
        journal: Path | None = None,
        budget_insns: int = BUDGET_INSNS,
    ) -> None:
        self.known: Mapping[str, frozenset[str]] = {"rules": _RULES, "opcodes": _OPCODES}
        self.notes: list[str] = []
        self._choice = choice or Choice()
        self._budget = budget_insns
        self._kernels: dict[str, KernelVerifier] = {}
        self._journal: Path | None = None
        if against_kernel:
            reason = bpfsys.available()
            if reason is not None:
                raise UnsupportedError("the running kernel's verifier", where=reason)
            self._journal = journal or default_path()
        else:
            self.notes.append("the running kernel was not asked (--against kernel)")

    def fresh(self, seed: int) -> bytes:
        return self._choice.program(seed).data()

    def mutated(self, data: bytes, seed: int) -> bytes:
        return program_inputs.mutated(data, seed)

    def smaller(self, data: bytes) -> Iterator[bytes]:
        return program_inputs.smaller(data)

    def files(self, data: bytes) -> Mapping[str, bytes]:
        return program_inputs.files(data)

    def run(self, data: bytes) -> Tried:
        try:
            made = read(data)
        except InputError:
            return Tried(NO_INPUT)
        obj = made.object()
        program = obj.programs[0]
        try:
            claimed = claims(program, obj, made.profile, all_paths=False, budget_insns=self._budget)
        except InputError as error:
            return Tried("refused input", features=frozenset({("input", _nameless(str(error)))}))
        except Exception as error:
            return self._crashed(made, error)
        verdict = claimed.verdict
        problem = self._unsound(made, claimed, data) if isinstance(verdict, Accepted) else None
        hits = {
            "rules": frozenset(_rules(verdict)),
            "opcodes": frozenset(insn.spec.mnemonic for insn in made.insns),
        }
        if problem is None and self._journal is not None:
            comparison, problem = self._kernels_word(made, verdict)
            hits[KERNEL] = frozenset({comparison.value} if comparison else ())
        return Tried(
            _outcome(verdict),
            isinstance(verdict, Accepted),
            frozenset(_features(made, claimed)),
            hits,
            problem,
        )

    def _crashed(self, made: ProgramInput, error: Exception) -> Tried:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.name}"
        details = "".join(traceback.format_exception(error))
        return Tried(
            "crash",
            problem=Problem(
                f"crash/{type(error).__name__}/{place}",
                f"the verifier ended with {type(error).__name__} in {place}: {error}",
                f"{made.listing()}\n\n{details}",
            ),
        )

    def _unsound(self, made: ProgramInput, claimed: Claims, data: bytes) -> Problem | None:
        """What runs of an accepted program show against the verdict."""
        if not made.runnable:
            return None
        problem = _ran(made, claimed)
        if problem is None and zlib.crc32(data) % _ALL_PATHS_SHARE == 0:
            whole = claims(
                claimed.program,
                claimed.object,
                made.profile,
                all_paths=True,
                budget_insns=_ALL_PATHS_INSNS,
            )
            if isinstance(whole.verdict, Accepted):
                problem = _ran(made, whole)
        return problem

    def _kernels_word(
        self, made: ProgramInput, ours: Verdict
    ) -> tuple[Comparison | None, Problem | None]:
        """How the verdict stands to the running kernel's, if it has one, and what is wrong."""
        said = self._kernel(made.style).judge(
            made.insns, made.profile, section=made.profile.own_section
        )
        if said is None:
            return None, None
        comparison = compared(said, ours)
        if comparison is not Comparison.LOOSER:
            return comparison, None
        return comparison, Problem(
            f"kernel-refuses/{_nameless(said.message)}",
            f"accepted, and the running kernel refuses it: {said.message}",
            _kernel_details(made, said),
        )

    def _kernel(self, style: str) -> KernelVerifier:
        found = self._kernels.get(style)
        if found is None:
            journal = None if self._journal is None else Journal(self._journal)
            found = self._kernels[style] = KernelVerifier(STYLES[style], journal)
        return found

    def close(self) -> None:
        for kernel in self._kernels.values():
            kernel.close()
        self._kernels.clear()


def _kernel_details(made: ProgramInput, said: KernelVerdict) -> str:
    return f"{made.listing()}\n\nkernel: errno {said.errno} at {said.pc}\n{said.log}"


def _ran(made: ProgramInput, claimed: Claims) -> Problem | None:
    """What some runs on inputs of the program's seed show."""
    checker = Checker(claimed)
    for run in range(_RUNS):
        seed = made.seed * _RUNS + run
        try:
            checker.run(seed)
        except NoCounterpart:
            return None
        if checker.trap is not None:
            trap = checker.trap
            at = _mnemonic_at(made.insns, trap.pc)
            return Problem(
                f"accepted-and-traps/{trap.kind.name}/{at}",
                f"accepted, and run {run} traps: {trap}",
                made.listing(),
            )
        if checker.wrong:
            pc = int(checker.wrong[0].split(",")[0].removeprefix("pc "))
            at = _mnemonic_at(made.insns, pc)
            return Problem(
                f"outside-what-is-claimed/{at}",
                f"accepted, and run {run} has impossible values before pc {pc}",
                f"{checker.wrong[0]}\n\n{made.listing()}",
            )
    return None


def _mnemonic_at(insns: tuple[Insn, ...], wanted: int) -> str:
    pc = 0
    for insn in insns:
        if pc == wanted:
            return insn.spec.mnemonic
        pc += insn.slots
    return "end"


def _outcome(verdict: Verdict) -> str:
    if isinstance(verdict, Accepted):
        return "accepted"
    if isinstance(verdict, Rejected):
        return "rejected"
    return f"inconclusive ({verdict.finding.kind.value})"


def _rules(verdict: Verdict) -> Iterator[str]:
    if isinstance(verdict, Rejected):
        yield from (error.rule.value for error in verdict.errors)
    elif isinstance(verdict, Inconclusive):
        yield verdict.finding.rule.value


def _features(made: ProgramInput, claimed: Claims) -> Iterator[object]:
    """Which rule refused which instruction and what it said; what instructions met."""
    verdict = claimed.verdict
    by_pc: dict[int, Insn] = {}
    pc = 0
    for insn in made.insns:
        by_pc[pc] = insn
        pc += insn.slots
    if isinstance(verdict, Rejected):
        first = verdict.errors[0]
        at = by_pc.get(first.pc)
        yield first.rule.value, at.spec.mnemonic if at else "", _nameless(first.message)
    for pc, snapshots in claimed.states.items():
        insn = by_pc[pc]
        regs = snapshots[0].regs
        number = insn.imm if insn.spec.kind.name == "CALL" else 0
        yield insn.spec.mnemonic, regs[insn.dst].type.name, regs[insn.src % 11].type.name, number


def _nameless(message: str) -> str:
    """A message without its numbers, so that like counts with like."""
    return re.sub(r"-?\b(0x)?[0-9a-f]*\d[0-9a-f]*\b", "N", message)[:100]
