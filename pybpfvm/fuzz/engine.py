"""`fuzz engine`: generated programs on the interpreter and on compiled code.

An input says which case, which of its runs, and which programs of it are others:

    case hostile 17 16        family, seed, programs generated
    run 3 400                 only these runs, of program 3 with a budget of 400 instructions
    code 3 b700000000000000   program 3 is this one instead

Oracles: every run ends alike everywhere, with the same memory, maps, helper calls and registers,
as far as the checks promise; no engine ends otherwise than with a result, a Trap or an InputError.
Coverage: pairs of instructions emitted one behind the other, and which instruction traps how.
"""

from __future__ import annotations

import traceback
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from random import Random

from pybpfvm.errors import InputError, TrapKind, UnsupportedError
from pybpfvm.fuzz.agreement import Outcome, compared, interpreters, outcome
from pybpfvm.fuzz.lines import subprogs_of
from pybpfvm.fuzz.program_inputs import damage_insns, encodable, smaller_insns
from pybpfvm.fuzz.raw_programs import FAMILIES, Case, generate
from pybpfvm.fuzz.target import NO_INPUT, OneByOne, Problem, Tried, without_chunks
from pybpfvm.isa.codec import decode, encode
from pybpfvm.isa.disasm import format_program
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.table import SPECS
from pybpfvm.jit.options import Checks
from pybpfvm.program import Program
from pybpfvm.session.engines import jit_refusal

PROGRAMS = 8  # of a case
LLVM_SHARE = 50  # one case in so many runs on LLVM's code too, which takes long to compile
_MOST_PROGRAMS = 64
_MOST_RUNS = 256
_MOST_INSNS = 4096
_MOST_BUDGET = 1 << 16

_TRAPS = frozenset(kind.name for kind in TrapKind)


@dataclass(frozen=True, slots=True)
class CaseInput:
    """An input that was read. `runs` None: those of the case. `codes` are by program number."""

    family: str
    seed: int
    programs: int
    runs: tuple[tuple[int, int], ...] | None = None
    codes: tuple[tuple[int, tuple[Insn, ...]], ...] = ()

    def data(self) -> bytes:
        """As an input."""
        lines = [f"case {self.family} {self.seed} {self.programs}"]
        lines += [f"run {number} {budget}" for number, budget in self.runs or ()]
        lines += [f"code {number} {encode(insns).hex()}" for number, insns in self.codes]
        return "\n".join((*lines, "")).encode()

    def case(self) -> Case:
        """The case that it describes."""
        case = generate(self.seed, self.family, self.programs)
        if self.runs is not None:
            count = len(case.object.programs)
            case = replace(case, runs=tuple(run for run in self.runs if run[0] < count))
        if self.codes:
            programs = list(case.object.programs)
            for number, insns in self.codes:
                if number < len(programs):
                    programs[number] = _other(programs[number], insns)
            # What is not generated keeps no promise that engines without checks rely on.
            obj = replace(case.object, programs=tuple(programs))
            case = replace(case, object=obj, tidy=False)
        return case


def _other(program: Program, insns: tuple[Insn, ...]) -> Program:
    subprogs = subprogs_of(insns) if program.subprogs else ()
    return replace(program, insns=insns, subprogs=subprogs)


def read(data: bytes) -> CaseInput:
    """The case of an input. Raises InputError for what is none."""
    try:
        head, *rest = data.decode("ascii").splitlines()
        word, family, seed, programs = head.split()
        if word != "case" or family not in FAMILIES:
            raise ValueError
        made = CaseInput(family, int(seed), min(max(int(programs), 1), _MOST_PROGRAMS))
        runs: list[tuple[int, int]] = []
        codes: dict[int, tuple[Insn, ...]] = {}
        for line in rest[: _MOST_RUNS + _MOST_PROGRAMS]:
            what, first, second = line.split()
            number = int(first)
            if number < 0:
                raise ValueError
            if what == "run":
                runs.append((number, min(max(int(second), 0), _MOST_BUDGET)))
            elif what == "code" and second:
                codes[number] = decode(bytes.fromhex(second)[: 8 * _MOST_INSNS])
            else:
                raise ValueError
    except ValueError:
        raise InputError("no case", where="input", remedy="see docs/fuzzing.md") from None
    return replace(made, runs=tuple(runs) or None, codes=tuple(sorted(codes.items())))


class EngineTarget(OneByOne):
    """Cases of `families` on the JIT, and on LLVM where it is there. Raises UnsupportedError where
    the JIT can not run."""

    name = "engine"
    from_corpus = 0.2  # a changed program mostly traps before it has done much
    shard_seeds = 32
    seed_executions = 36

    def __init__(self, families: Sequence[str] = FAMILIES, *, programs: int = PROGRAMS) -> None:
        reason = jit_refusal()
        if reason is not None:
            raise UnsupportedError("the JIT", where=reason)
        for family in families:
            if family not in FAMILIES:
                raise InputError(
                    f"no family is called {family!r}", remedy=", ".join(sorted(FAMILIES))
                )
        self.known: Mapping[str, frozenset[str]] = {"opcodes": frozenset(SPECS), "traps": _TRAPS}
        self.notes: list[str] = []
        self._families = tuple(families)
        self._programs = programs
        self._reference = interpreters()
        self._llvm = find_spec("llvmlite") is not None
        if not self._llvm:
            self.notes.append("nothing ran on the engine llvm: llvmlite is not installed")

    def fresh(self, seed: int) -> bytes:
        family = self._families[seed % len(self._families)]
        return CaseInput(family, seed, self._programs).data()

    def mutated(self, data: bytes, seed: int) -> bytes:
        try:
            made = read(data)
        except InputError:
            return self.fresh(seed)
        random = Random(f"mutated {seed}")
        number = random.randrange(made.programs)
        program = made.case().object.programs[number]
        changed = damage_insns(random, encodable(program.insns))
        if changed is None:
            return data
        codes = dict(made.codes) | {number: changed}
        return replace(made, codes=tuple(sorted(codes.items()))).data()

    def run(self, data: bytes) -> Tried:
        try:
            case = read(data).case()
        except InputError:
            return Tried(NO_INPUT)
        if not case.runs:
            return Tried("no runs")
        try:
            wanted = outcome(case, self._reference)
            problem, runs = self._differs(case, wanted, zlib.crc32(data))
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(last.filename).name}:{last.name}"
            details = "".join(traceback.format_exception(error))
            message = f"an engine ended with {type(error).__name__} in {place}: {error}"
            bucket = f"crash/{type(error).__name__}/{place}"
            return Tried("crash", problem=Problem(bucket, message, f"{_listing(case)}\n{details}"))
        used = [case.object.programs[number] for number in sorted({one for one, _ in case.runs})]
        names = [[insn.spec.mnemonic for insn in program.insns] for program in used]
        ends = {(str(getattr(end[0], "name", end[0])), _mnemonic(end)) for end in wanted.ends}
        return Tried(
            "different" if problem else "alike",
            features=frozenset(ends | {pair for row in names for pair in pairwise(row)}),
            hits={
                "opcodes": frozenset(name for row in names for name in row),
                "traps": frozenset(name for name, _ in ends) & _TRAPS,
            },
            problem=problem,
            executions=len(wanted.ends) + runs,
        )

    def _differs(self, case: Case, wanted: Outcome, number: int) -> tuple[Problem | None, int]:
        """The first difference, and how many runs were compared."""
        other = Checks.NONE if case.tidy and number % 2 else Checks.PAGES
        total = 0
        for checks in (Checks.EXACT, other):
            runs, found = compared(case, checks, wanted, self._reference)
            total += runs
            if found is not None:
                return _problem("jit", found), total
        if self._llvm and number % LLVM_SHARE == 0:
            from pybpfvm.fuzz.agreement_llvm import compared as compared_llvm

            # What is watched runs on the JIT's templates.
            plain = replace(case, hooked=False)
            runs, found = compared_llvm(
                plain, Checks.EXACT, outcome(plain, self._reference), self._reference
            )
            total += runs
            if found is not None:
                return _problem("llvm", found), total
        return None, total

    def smaller(self, data: bytes) -> Iterator[bytes]:
        try:
            made = read(data)
        except InputError:
            return
        case = made.case()
        runs = case.runs
        for start, end in without_chunks(len(runs)):
            if len(runs) > end - start:
                yield replace(made, runs=(*runs[:start], *runs[end:])).data()
        codes = dict(made.codes)
        for number in sorted({one for one, _ in runs}):
            for insns in smaller_insns(encodable(case.object.programs[number].insns)):
                changed = tuple(sorted((codes | {number: insns}).items()))
                yield replace(made, runs=runs, codes=changed).data()

    def files(self, data: bytes) -> Mapping[str, bytes]:
        try:
            case = read(data).case()
        except InputError:
            return {}
        made = {"programs.txt": _listing(case).encode()}
        for number in sorted({one for one, _ in case.runs}):
            program = case.object.programs[number]
            made[f"{program.name}.bin"] = encode(encodable(program.insns))
        return made


def _problem(engine: str, found: str) -> Problem:
    head, ours, theirs, *_ = found.splitlines()
    what = head.rpartition(": ")[2]
    checks = head.partition(" checks ")[2].partition(":")[0]
    kind = ""
    if what == "end":
        kind = f"/{_end(ours)}-{_end(theirs)}"
    return Problem(f"{engine}-differs/{what}{kind}/{checks}", f"{engine}: {head}", found)


def _end(line: str) -> str:
    """`OUT_OF_BOUNDS` of a line that shows how a run ended."""
    for kind in TrapKind:
        if f"TrapKind.{kind.name}:" in line:
            return kind.name
    return "refused" if "'refused'" in line else "r0"


def _mnemonic(end: tuple[object, ...]) -> str:
    """Of the instruction that trapped; "" for other ends."""
    return str(end[7]).split(" ")[0] if isinstance(end[0], TrapKind) else ""


def _listing(case: Case) -> str:
    rows = [f"maps: {', '.join(str(spec) for spec in case.object.maps)}"]
    for number, budget in case.runs:
        rows.append(f"\nprogram {number}, budget {budget}:")
        rows += format_program(case.object.programs[number].insns, style="kernel")
    return "\n".join((*rows, ""))
