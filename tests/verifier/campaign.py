"""`make oracle`: generated programs judged by the running kernel and by us, ending in a table.

PYBPFVM_ORACLE_VERIFIER programs (20000), from seed PYBPFVM_ORACLE_SEED (0). Programs that we
accept and the kernel refuses are written to PYBPFVM_ORACLE_DIR (build/oracle) with the kernel's
log, the journal of loads beside them; the exit status is 1 if there was any.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path

from pybpfvm import bpfsys
from pybpfvm.fuzz.claims import Checker, claims
from pybpfvm.fuzz.kernel_verdicts import (
    Comparison,
    KernelVerdict,
    KernelVerifier,
    compared,
    same_place,
)
from pybpfvm.fuzz.typed_programs import MAPS, Generated, generate
from pybpfvm.isa.codec import encode
from pybpfvm.isa.disasm import format_program
from pybpfvm.session.kernel_journal import Journal
from pybpfvm.verifier.privileges.privilege import ALL, Capabilities
from pybpfvm.verifier.verdict import Inconclusive, Rejected, Verdict
from pybpfvm.verifier.verify import Options, verify
from tests.support.evidence import keep

PROGRESS_SECONDS = 10
# The kernel gives up after a million instructions; programs that reach it are rare and slow.
BUDGET_INSNS = 200_000
KEPT = 20_000  # campaigns of at least so many programs are evidence


@dataclass
class Tally:
    """What a campaign counted."""

    all: Counter[Comparison] = field(default_factory=Counter)
    by_type: dict[str, Counter[Comparison]] = field(default_factory=lambda: defaultdict(Counter))
    by_feature: dict[str, Counter[Comparison]] = field(default_factory=lambda: defaultdict(Counter))
    accepted: int = 0
    places: Counter[bool] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, int] = field(default_factory=dict)
    looser: list[str] = field(default_factory=list)

    def add(self, made: Generated, kernel: KernelVerdict, ours: Verdict) -> Comparison:
        """Count one program."""
        outcome = compared(kernel, ours)
        self.all[outcome] += 1
        self.by_type[made.profile.name][outcome] += 1
        for feature in made.features:
            self.by_feature[feature][outcome] += 1
        self.accepted += kernel.accepted
        place = same_place(kernel, ours)
        if place is not None:
            self.places[place] += 1
        if outcome is not Comparison.AGREED:
            reason = f"{outcome.value}: {_reason(kernel, ours)}"
            self.reasons[reason] += 1
            self.examples.setdefault(reason, made.seed)
        return outcome

    def table(self) -> str:
        """The counts, by program type and by feature."""
        head = f"{'':24}" + "".join(f"{one.value:>14}" for one in Comparison) + f"{'agreed':>10}"
        rows = [head, _row("all", self.all), ""]
        rows += [_row(name, counts) for name, counts in sorted(self.by_type.items())]
        rows += ["", *(_row(name, counts) for name, counts in sorted(self.by_feature.items()))]
        total = sum(self.all.values())
        same = self.places[True]
        rows += [
            "",
            f"the kernel accepted {self.accepted} of {total}; "
            f"of {same + self.places[False]} refusals with a place, {same} at the same instruction",
        ]
        rows += [
            f"{count:6} {reason} (seed {self.examples[reason]})"
            for reason, count in self.reasons.most_common(30)
        ]
        return "\n".join(rows)


def _row(name: str, counts: Counter[Comparison]) -> str:
    total = sum(counts.values())
    share = counts[Comparison.AGREED] / total if total else 1
    return f"{name:24}" + "".join(f"{counts[one]:14}" for one in Comparison) + f"{share:10.2%}"


def _reason(kernel: KernelVerdict, ours: Verdict) -> str:
    """What the side that refused said, without numbers, so that like counts with like."""
    if isinstance(ours, Rejected):
        return re.sub(r"-?\b(0x)?[0-9a-f]*\d[0-9a-f]*\b", "N", ours.errors[0].message)[:100]
    if isinstance(ours, Inconclusive):
        return ours.finding.message[:100]
    return re.sub(r"-?\b(0x)?[0-9a-f]*\d[0-9a-f]*\b", "N", kernel.message)[:100]


def evidence(made: Generated, runs: int = 20) -> str:
    """Whether runs on random inputs trap or leave what we claimed: tells a wrong acceptance from
    one that is only sharper, or more lenient, than the kernel's."""
    if made.seed % 2 or not made.profile.runs:
        return "not run: it may need a kernel's objects"
    claimed = claims(
        made.program, made.object, made.profile, all_paths=False, budget_insns=BUDGET_INSNS
    )
    checker = Checker(claimed)
    for seed in range(runs):
        checker.run(seed)
        if checker.trap is not None:
            return f"UNSOUND: run {seed} traps: {checker.trap}"
        if checker.wrong:
            return f"UNSOUND: run {seed}: {checker.wrong[0]}"
    return f"{runs} runs without a trap, inside what was claimed"


def description(made: Generated, kernel: KernelVerdict) -> str:
    """A program in text and bytes, with what the kernel said."""
    return "\n".join(
        (
            f"seed {made.seed}, {made.profile.name}, damage: {made.damage or 'none'}",
            f"features: {', '.join(sorted(made.features))}",
            evidence(made),
            *format_program(made.program.insns, style="kernel"),
            "",
            f"bytes: {encode(made.program.insns).hex()}",
            "",
            f"kernel: errno {kernel.errno} at {kernel.pc}",
            kernel.log,
        )
    )


def campaign(
    seeds: range,
    journal: Path | None = None,
    save: Path | None = None,
    *,
    budget_insns: int = BUDGET_INSNS,
    progress: bool = False,
    caps: Capabilities = ALL,
    types: Container[str] | None = None,
) -> Tally:
    """Judge the programs of `seeds` on both sides; what we accept and the kernel does not is
    kept in `Tally.looser` and written to `save`. `caps` are the loader's; programs of other
    `types` are left out."""
    tally = Tally()
    options = Options(budget_insns=budget_insns, caps=caps)
    shown = time.monotonic()
    with KernelVerifier(MAPS, None if journal is None else Journal(journal)) as kernel:
        for seed in seeds:
            # Every second program is of any type, with what that has of its own.
            made = generate(seed, all_types=bool(seed % 2))
            if types is not None and made.profile.name not in types:
                continue
            said = kernel.judge(
                made.program.insns, made.profile, section=made.program.section, caps=caps
            )
            if said is None:
                continue
            ours = verify(made.program, made.object, made.profile, options=options)
            outcome = tally.add(made, said, ours)
            if outcome is Comparison.LOOSER:
                text = description(made, said)
                tally.looser.append(text)
                if save is not None:
                    save.mkdir(parents=True, exist_ok=True)
                    (save / f"looser-{seed}.txt").write_text(text, encoding="utf-8")
                    print(text, flush=True)
            if progress and time.monotonic() - shown > PROGRESS_SECONDS:
                shown = time.monotonic()
                print(f"{seed - seeds.start + 1} of {len(seeds)}: {dict(tally.all)}", flush=True)
        if kernel.skipped:
            print(f"{kernel.skipped} programs left out: an earlier run did not survive them")
    return tally


def figures(tally: Tally) -> list[tuple[str, str]]:
    """The rows that a campaign keeps."""
    total = sum(tally.all.values())
    agreed = tally.all[Comparison.AGREED]
    return [
        (
            f"generated programs of {len(tally.by_type)} types, verdict compared with the kernel's",
            f"{total:,}: {agreed:,} agreed ({agreed / total:.3%}), "
            f"{tally.all[Comparison.STRICTER]} we stricter, "
            f"{tally.all[Comparison.LOOSER]} we looser, "
            f"{tally.all[Comparison.INCONCLUSIVE]} inconclusive",
        ),
        ("of them accepted by the kernel", f"{tally.accepted:,}"),
        (
            "refusals at the same instruction",
            f"{tally.places[True] / max(sum(tally.places.values()), 1):.2%}",
        ),
    ]


def tables(tally: Tally) -> dict[str, dict[str, dict[str, int]]]:
    """The counts by program type and by feature."""
    by = {"By program type": tally.by_type, "By feature": tally.by_feature}
    return {
        title: {
            name: {one.value: counts[one] for one in Comparison}
            for name, counts in sorted(rows.items())
        }
        for title, rows in by.items()
    }


def main() -> int:
    """The campaign that the environment asks for."""
    reason = bpfsys.available()
    if reason is not None:
        print(f"skipped: {reason}")
        return 0
    first = int(os.environ.get("PYBPFVM_ORACLE_SEED", "0"))
    count = int(os.environ.get("PYBPFVM_ORACLE_VERIFIER", "20000"))
    where = Path(os.environ.get("PYBPFVM_ORACLE_DIR", "build/oracle"))
    tally = campaign(range(first, first + count), where / "journal", where, progress=True)
    print(tally.table())
    if first == 0 and count >= KEPT:
        kept = keep("oracle", "make oracle", figures(tally), tables=tables(tally))
        print(f"kept in {kept}")
    return 1 if tally.looser else 0


if __name__ == "__main__":
    sys.exit(main())
