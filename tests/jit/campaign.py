"""`make oracle-engines`: generated programs on the interpreter and on compiled code, and hostile
ones on compiled code alone with an eye on the process; ends in tables.

PYBPFVM_ENGINES programs are compared (1000000), from seed PYBPFVM_ENGINES_SEED (0), with the checks
EXACT, and with NONE or PAGES as far as those promise; then PYBPFVM_ENGINES_HOSTILE programs
(100000) run, many in a process. One in PYBPFVM_ENGINES_LLVM (50) of those that are compared runs on
the engine llvm too: it takes ten times as long, or more. PYBPFVM_ENGINES_WORKERS processes (2) do
chunks of it. PYBPFVM_ENGINES_PART=llvm does that part alone, PYBPFVM_ENGINES_PART=jit all but that;
what each found is evidence of its own. What is done is noted in a journal in PYBPFVM_ENGINES_DIR
(build/engines), so a campaign may be stopped and goes on there, as long as the code is the same.
Differences are written there too; the exit status is 1 if there was any, or if a process was not
as before.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from pybpfvm.fuzz.agreement import Making, Outcome, compared, interpreters, outcome
from pybpfvm.fuzz.raw_programs import FAMILIES, Case, generate
from pybpfvm.isa.table import TABLE
from pybpfvm.jit.cpu import unsupported
from pybpfvm.jit.options import Checks
from pybpfvm.program import Program
from tests.jit.hostile import Watched
from tests.support import journal
from tests.support.evidence import keep
from tests.support.journal import Chunk, Found, code_of

PROGRESS_SECONDS = 10
PROGRAMS = 32  # of a case
CASES = 50  # of a chunk
HOSTILE = 100_000  # hostile programs of a chunk, which is one process
# Campaigns of at least so many programs are evidence.
KEPT, KEPT_HOSTILE, KEPT_LLVM = 1_000_000, 100_000, 10_000
_SHOWN = 20
_COLLECTED = 25  # cases between collections of garbage
# What the outcome depends on: engines, what they run, and the comparison.
_CODE = (
    "pybpfvm/*.py",
    *(
        f"{folder}/**/*.{kind}"
        for folder in (
            *("pybpfvm/jit", "pybpfvm/vm", "pybpfvm/isa", "pybpfvm/maps", "pybpfvm/profiles"),
            *("helpers", "pybpfvm/fuzz", "tests/jit", "tests/support"),
        )
        for kind in ("py", "bin")
    ),
)

# Runs compared with the reference's, and the first difference.
Comparing = Callable[[Case, Checks, Outcome, Making], tuple[int, str | None]]

_NAMES = [spec.mnemonic for spec in TABLE]
_NUMBERS = {name: number for number, name in enumerate(_NAMES)}


@dataclass
class Pairs:
    """Which instructions were emitted right behind which: pairs of numbers of their rows."""

    seen: set[int] = field(default_factory=set)

    def add(self, program: Program) -> None:
        """Count a program."""
        numbers = [_NUMBERS[insn.spec.mnemonic] for insn in program.insns]
        self.seen.update([a * len(TABLE) + b for a, b in pairwise(numbers)])

    @property
    def all(self) -> int:
        """How many there could be."""
        return len(TABLE) ** 2

    def missing(self) -> list[tuple[str, str]]:
        """Those never seen."""
        pairs = (divmod(pair, len(TABLE)) for pair in range(self.all) if pair not in self.seen)
        return [(_NAMES[a], _NAMES[b]) for a, b in pairs]

    def packed(self) -> str:
        """One bit for each, as text."""
        return f"{sum(1 << pair for pair in self.seen):x}"

    @classmethod
    def unpacked(cls, text: str) -> Pairs:
        """What `packed` made."""
        bits = int(text, 16)
        return cls({pair for pair in range(bits.bit_length()) if bits >> pair & 1})


@dataclass
class Tally:
    """What agreement counted: programs, runs compared by checks, ends by kind; differences by
    name."""

    programs: int = 0
    cpu_seconds: float = 0.0
    compared: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    pairs: Pairs = field(default_factory=Pairs)
    differences: dict[str, str] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Programs a second of processor time."""
        return self.programs / self.cpu_seconds if self.cpu_seconds else 0.0

    def add(self, other: Tally) -> None:
        """Count what another one counted."""
        self.programs += other.programs
        self.cpu_seconds += other.cpu_seconds
        self.compared += other.compared
        self.ends += other.ends
        self.pairs.seen |= other.pairs.seen
        self.differences |= other.differences

    def table(self) -> str:
        """The closing table."""
        missing = self.pairs.missing()
        rows = [
            f"{self.programs} programs, {self.rate:.0f} a second of processor time",
            *(f"{count:10} runs compared, checks {name}" for name, count in self.compared.items()),
            *(f"{count:10} runs ended with {name}" for name, count in self.ends.most_common()),
            f"{len(self.pairs.seen):10} of {self.pairs.all} pairs of instructions emitted",
            *(f"{'':10} never {a}, {b}" for a, b in missing[:_SHOWN]),
            f"{len(self.differences):10} differences",
        ]
        return "\n".join(rows)


def agreement(cases: int, first: int, comparing: Comparing = compared) -> Tally:
    """Compare the programs of so many cases, from the seed `first` on, a family by turns."""
    tally = Tally()
    begun = time.process_time()
    with _collecting_seldom():
        for number, seed in enumerate(range(first, first + cases)):
            family = FAMILIES[seed % len(FAMILIES)]
            case = generate(seed, family, PROGRAMS)
            if comparing is not compared:  # what is watched runs on the JIT's templates
                case = replace(case, hooked=False)
            reference = interpreters()
            wanted = outcome(case, reference)
            for end in wanted.ends:
                tally.ends[end[0] if isinstance(end[0], str) else end[0].name] += 1  # type: ignore[attr-defined]
            other = Checks.NONE if case.tidy and seed % 2 else Checks.PAGES
            for checks in (Checks.EXACT, other):
                count, difference = comparing(case, checks, wanted, reference)
                tally.compared[checks.name] += count
                if difference is not None:
                    tally.differences[f"{seed}-{checks.name}"] = difference
            for program in case.object.programs:
                tally.pairs.add(program)
            tally.programs += PROGRAMS
            if number % _COLLECTED == 0:
                gc.collect()
    tally.cpu_seconds = time.process_time() - begun
    return tally


class _collecting_seldom:
    """Within it garbage is only collected on request, and what there was before is none."""

    def __enter__(self) -> None:
        gc.collect()
        gc.freeze()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        gc.enable()
        gc.unfreeze()


def hostile(programs: int, first: int) -> Watched:
    """Run so many hostile programs, half with each of the checks; what was watched."""
    watched = Watched()
    seed = first
    while watched.programs < programs:
        for checks in (Checks.EXACT, Checks.PAGES):
            watched.run(seed, checks)
            seed += 1
    watched.finish()
    return watched


# --- chunks, and the journal of them ---------------------------------------------------------


def llvm_chunks(programs: int, share: int, first: int) -> list[Chunk]:
    """The rounds of families, one in `share`, that the engine llvm does too."""
    size = len(FAMILIES)
    rounds = -(-programs // (PROGRAMS * size))
    return [Chunk("llvm", first + size * number, size) for number in range(0, rounds, share)]


def chunks(programs: int, hostile_programs: int, first: int) -> list[Chunk]:
    """All of a campaign but what the engine llvm does."""
    cases = -(-programs // PROGRAMS)
    agreeing = [
        Chunk("agreement", seed, min(CASES, first + cases - seed))
        for seed in range(first, first + cases, CASES)
    ]
    # A hostile case has 24 runs, each counted; chunks begin where no other can end.
    count = -(-hostile_programs // HOSTILE)
    return agreeing + [Chunk("hostile", first + HOSTILE * n, HOSTILE) for n in range(count)]


def run_chunk(chunk: Chunk) -> Found:
    """Do a chunk: what the journal keeps of it."""
    if chunk.kind != "hostile":
        tally = agreement(chunk.count, chunk.first, _comparing(chunk.kind))
        return {
            "programs": tally.programs,
            "cpu_seconds": tally.cpu_seconds,
            "compared": tally.compared,
            "ends": tally.ends,
            "pairs": tally.pairs.packed(),
            "differences": tally.differences,
        }
    watched = hostile(chunk.count, chunk.first)
    return {"programs": watched.programs, "ends": watched.ends, "wrong": watched.wrong}


def _comparing(kind: str) -> Comparing:
    if kind == "agreement":
        return compared
    from pybpfvm.fuzz.agreement_llvm import compared as compared_llvm

    return compared_llvm


@cache
def fingerprint() -> str:
    """Names the code that a campaign is about."""
    return code_of(_CODE)


class Journal(journal.Journal):
    """The journal of such a campaign."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, {"code": fingerprint(), "programs": PROGRAMS})

    def tally(self, done: Iterable[Chunk], kind: str = "agreement") -> Tally:
        """What those of them of a kind that were done counted together."""
        total = Tally()
        for chunk in done:
            if chunk.kind == kind and not self.left(chunk):
                found = dict(self.found(chunk))
                pairs = Pairs.unpacked(str(found.pop("pairs")))
                counters = {name: Counter(found.pop(name)) for name in ("compared", "ends")}  # type: ignore[call-overload]
                total.add(Tally(pairs=pairs, **counters, **found))  # type: ignore[arg-type]
        return total

    def watched(self, done: Iterable[Chunk]) -> tuple[int, Counter[str], list[str]]:
        """Hostile programs, how they ended, and what they left behind."""
        programs, ends, wrong = 0, Counter[str](), list[str]()
        for chunk in done:
            if chunk.kind == "hostile" and not self.left(chunk):
                found = self.found(chunk)
                programs += found["programs"]  # type: ignore[operator]
                ends += Counter(found["ends"])  # type: ignore[call-overload]
                wrong += found["wrong"]  # type: ignore[arg-type]
        return programs, ends, wrong


def _done(left: list[Chunk], workers: int) -> Iterator[tuple[Chunk, Found]]:
    """Do the chunks in so many processes, and give each as it is done.

    A process that dies ends the campaign, with the chunks named that may have killed it.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting: dict[Future[Found], Chunk] = {}
        todo = iter(left)
        try:
            while True:
                while len(waiting) < workers and (chunk := next(todo, None)) is not None:
                    waiting[pool.submit(run_chunk, chunk)] = chunk
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    yield waiting.pop(future), result
        except BrokenProcessPool:
            print(f"a process died in one of {sorted(map(str, waiting.values()))}", flush=True)
            raise


def figures(tally: Tally, hostile_programs: int, wrong: list[str]) -> list[tuple[str, str]]:
    """The rows that a campaign keeps."""
    return [
        _agreed("generated programs, compiled and interpreted", tally),
        ("runs compared, by checks", _runs(tally)),
        ("of the interpreter's runs, those that trapped", f"{_traps(tally):,}"),
        (
            "pairs of instructions emitted one behind the other",
            f"{len(tally.pairs.seen):,} of {tally.pairs.all:,}",
        ),
        (
            f"hostile programs compiled and run, {HOSTILE:,} to a process",
            f"{hostile_programs:,}: {len(wrong)} traces left in it",
        ),
    ]


def llvm_figures(tally: Tally) -> list[tuple[str, str]]:
    """The rows that the part of the engine llvm keeps."""
    return [
        _agreed("generated programs, compiled by LLVM and interpreted", tally),
        (
            "runs compared, by checks; of the interpreter's, those that trapped",
            f"{_runs(tally)}; {_traps(tally):,}",
        ),
    ]


def _agreed(what: str, tally: Tally) -> tuple[str, str]:
    return (
        f"{what}: results, memory, traps, helper calls",
        f"{tally.programs:,}: {len(tally.differences)} differences "
        f"({tally.rate:.0f} a second of processor time)",
    )


def _runs(tally: Tally) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in tally.compared.items())


def _traps(tally: Tally) -> int:
    return sum(count for name, count in tally.ends.items() if name not in ("r0", "refused"))


def main() -> int:
    """The campaign that the environment asks for."""
    reason = unsupported()
    if reason is not None:
        print(f"skipped: {reason}")
        return 0
    first = int(os.environ.get("PYBPFVM_ENGINES_SEED", "0"))
    count = int(os.environ.get("PYBPFVM_ENGINES", str(1_000_000)))
    hostile_count = int(os.environ.get("PYBPFVM_ENGINES_HOSTILE", str(100_000)))
    share = int(os.environ.get("PYBPFVM_ENGINES_LLVM", "50"))
    part = os.environ.get("PYBPFVM_ENGINES_PART", "")
    if part not in ("", "jit", "llvm"):
        print(f"PYBPFVM_ENGINES_PART is {part!r}: jit, llvm, or nothing for both")
        return 2
    workers = int(os.environ.get("PYBPFVM_ENGINES_WORKERS", str(min(2, os.cpu_count() or 1))))
    where = Path(os.environ.get("PYBPFVM_ENGINES_DIR", "build/engines"))
    done = Journal(where / "journal.jsonl")
    whole = chunks(count, hostile_count, first) if part != "llvm" else []
    if part != "jit":
        if find_spec("llvmlite") is not None:
            whole += llvm_chunks(count, share, first)
        else:
            print("nothing runs on the engine llvm: llvmlite is not installed", flush=True)
    left = [chunk for chunk in whole if done.left(chunk)]
    print(f"{len(whole) - len(left)} of {len(whole)} chunks done before", flush=True)
    shown = time.monotonic()
    for number, (chunk, found) in enumerate(_done(left, workers) if left else (), 1):
        done.add(chunk, found)
        for name, text in dict(found.get("differences", ())).items():  # type: ignore[call-overload]
            print(text, flush=True)
            (where / f"{chunk.kind}-{name}.txt").write_text(text + "\n", encoding="utf-8")
        if time.monotonic() - shown > PROGRESS_SECONDS:
            shown = time.monotonic()
            print(f"{number} of {len(left)} chunks", flush=True)
    tally, by_llvm = done.tally(whole), done.tally(whole, "llvm")
    hostile_programs, ends, wrong = done.watched(whole)
    if part != "llvm":
        print(tally.table())
        print(f"{hostile_programs} hostile programs")
        print("\n".join(f"{number:10} ended with {name}" for name, number in ends.most_common()))
        print("\n".join((f"{len(wrong):10} traces left", *wrong[:_SHOWN])))
    if by_llvm.programs:
        print(f"on the engine llvm: {by_llvm.table()}")
    if first == 0 and tally.programs >= KEPT and hostile_programs >= KEPT_HOSTILE:
        rows = figures(tally, hostile_programs, wrong)
        print(f"kept in {keep('engines', 'make oracle-engines', rows)}")
    if first == 0 and by_llvm.programs >= KEPT_LLVM:
        rows = llvm_figures(by_llvm)
        print(f"kept in {keep('engines_llvm', 'make oracle-engines', rows)}")
    return 1 if tally.differences or by_llvm.differences or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
