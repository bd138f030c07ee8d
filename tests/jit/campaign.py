"""`make oracle-engines`: generated programs on the interpreter and on compiled code, and hostile
ones on compiled code alone with an eye on the process; ends in tables.

PYBPFVM_ENGINES programs are compared (1000000), from seed PYBPFVM_ENGINES_SEED (0), with the checks
EXACT, and with NONE or PAGES as far as those promise; then PYBPFVM_ENGINES_HOSTILE programs
(100000) run in this process. Differences are written to PYBPFVM_ENGINES_DIR (build/engines); the
exit status is 1 if there was any, or if the process is not as it was.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from pybpfvm.isa.table import TABLE
from pybpfvm.jit.cpu import unsupported
from pybpfvm.jit.options import Checks
from pybpfvm.program import Program
from tests.jit.agreement import compared, interpreter, outcome
from tests.jit.hostile import Watched
from tests.support.engine_programs import FAMILIES, generate
from tests.support.evidence import keep

PROGRESS_SECONDS = 10
PROGRAMS = 32  # of a case
KEPT, KEPT_HOSTILE = 1_000_000, 100_000  # campaigns of at least so many programs are evidence
_SHOWN = 20


@dataclass
class Pairs:
    """Which instructions were emitted right behind which."""

    seen: set[tuple[str, str]] = field(default_factory=set)

    def add(self, program: Program) -> None:
        """Count a program."""
        self.seen.update(pairwise([insn.spec.mnemonic for insn in program.insns]))

    @property
    def all(self) -> int:
        """How many there could be."""
        return len(TABLE) ** 2

    def missing(self) -> list[tuple[str, str]]:
        """Those never seen."""
        names = [spec.mnemonic for spec in TABLE]
        return [(a, b) for a in names for b in names if (a, b) not in self.seen]


@dataclass
class Tally:
    """What a campaign counted: programs, runs compared by checks, ends by kind, differences."""

    programs: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    compared: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    families: Counter[str] = field(default_factory=Counter)
    pairs: Pairs = field(default_factory=Pairs)
    differences: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Programs a second."""
        return self.programs / self.seconds if self.seconds else 0.0

    def table(self) -> str:
        """The closing table."""
        missing = self.pairs.missing()
        rows = [
            f"{self.programs} programs in {self.seconds:.0f} s: {self.rate:.0f} a second, "
            f"{self.programs / max(self.cpu_seconds, 0.1):.0f} a second of processor time",
            *(f"{count:10} runs compared, checks {name}" for name, count in self.compared.items()),
            *(f"{count:10} runs ended with {name}" for name, count in self.ends.most_common()),
            f"{len(self.pairs.seen):10} of {self.pairs.all} pairs of instructions emitted",
            *(f"{'':10} never {a}, {b}" for a, b in missing[:_SHOWN]),
            f"{len(self.differences):10} differences",
        ]
        return "\n".join(rows)


def agreement(programs: int, first: int, save: Path | None, *, progress: bool = False) -> Tally:
    """Compare so many programs, from the seed `first` on, a case of each family by turns."""
    tally = Tally()
    begun = shown = time.monotonic()
    cpu_begun = time.process_time()
    seed = first
    while tally.programs < programs:
        family = FAMILIES[seed % len(FAMILIES)]
        case = generate(seed, family, PROGRAMS)
        wanted = outcome(case, interpreter)
        for end in wanted.ends:
            tally.ends[end[0] if isinstance(end[0], str) else end[0].name] += 1  # type: ignore[attr-defined]
        other = Checks.NONE if case.tidy and seed % 2 else Checks.PAGES
        for checks in (Checks.EXACT, other):
            count, difference = compared(case, checks, wanted)
            tally.compared[checks.name] += count
            if difference is not None:
                tally.differences.append(difference)
                _write(save, f"{seed}-{checks.name}", difference)
        for program in case.object.programs:
            tally.pairs.add(program)
        tally.programs += PROGRAMS
        tally.families[family] += PROGRAMS
        seed += 1
        tally.seconds = time.monotonic() - begun
        tally.cpu_seconds = time.process_time() - cpu_begun
        if progress and time.monotonic() - shown > PROGRESS_SECONDS:
            shown = time.monotonic()
            print(
                f"{tally.programs} of {programs} programs, {tally.rate:.0f} a second, "
                f"{len(tally.differences)} differences",
                flush=True,
            )
    return tally


def _write(save: Path | None, name: str, text: str) -> None:
    print(text, flush=True)
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        (save / f"{name}.txt").write_text(text + "\n", encoding="utf-8")


def hostile(programs: int, first: int, *, progress: bool = False) -> tuple[Watched, float]:
    """Run so many hostile programs, half with each of the checks; what was watched, seconds."""
    begun = shown = time.monotonic()
    watched = Watched()
    seed = first
    while watched.programs < programs:
        for checks in (Checks.EXACT, Checks.PAGES):
            watched.run(seed, checks)
            seed += 1
        if progress and time.monotonic() - shown > PROGRESS_SECONDS:
            shown = time.monotonic()
            print(f"{watched.programs} of {programs} hostile programs", flush=True)
    watched.finish()
    return watched, time.monotonic() - begun


def figures(tally: Tally, watched: Watched) -> list[tuple[str, str]]:
    """The rows that a campaign keeps."""
    compared_runs = ", ".join(f"{count:,} {name}" for name, count in tally.compared.items())
    traps = sum(count for name, count in tally.ends.items() if name not in ("r0", "refused"))
    return [
        (
            "generated programs, compiled and interpreted: results, memory, traps, helper calls",
            f"{tally.programs:,}: {len(tally.differences)} differences ({tally.rate:.0f} a second)",
        ),
        ("runs compared, by checks", compared_runs),
        ("of the interpreter's runs, those that trapped", f"{traps:,}"),
        (
            "pairs of instructions emitted one behind the other",
            f"{len(tally.pairs.seen):,} of {tally.pairs.all:,}",
        ),
        (
            "hostile programs compiled and run in one process",
            f"{watched.programs:,}: {len(watched.wrong)} traces left in it",
        ),
    ]


def main() -> int:
    """The campaign that the environment asks for."""
    reason = unsupported()
    if reason is not None:
        print(f"skipped: {reason}")
        return 0
    first = int(os.environ.get("PYBPFVM_ENGINES_SEED", "0"))
    count = int(os.environ.get("PYBPFVM_ENGINES", "1000000"))
    hostile_count = int(os.environ.get("PYBPFVM_ENGINES_HOSTILE", "100000"))
    where = Path(os.environ.get("PYBPFVM_ENGINES_DIR", "build/engines"))
    tally = agreement(count, first, where, progress=True)
    print(tally.table())
    watched, seconds = hostile(hostile_count, first, progress=True)
    print(f"{watched.programs} hostile programs in {seconds:.0f} s")
    print(watched.table())
    if first == 0 and count >= KEPT and hostile_count >= KEPT_HOSTILE:
        print(f"kept in {keep('engines', 'make oracle-engines', figures(tally, watched))}")
    return 1 if tally.differences or watched.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
