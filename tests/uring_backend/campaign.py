"""`make oracle-ring`: generated request sequences on the simulated ring and on the kernel's.

PYBPFVM_ORACLE_RING sequences (50000), from seed PYBPFVM_ORACLE_RING_SEED (1): four of five are of
requests of all kinds , one of sockets and buffer rings
. What is done is noted in a journal in PYBPFVM_ORACLE_RING_DIR
(build/ring), so a campaign may be stopped and goes on there, as long as the code is the same.
Sequences that ended differently are written there too, each played anew on fresh rings: those
that differ again are told apart from those that did once. The exit status is 1 if there was any
of either.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pybpfvm.fuzz import network_sequences
from pybpfvm.fuzz.ring_agreement import compare, compare_network
from pybpfvm.fuzz.ring_sequences import Generator
from pybpfvm.uring_backend.abi import OP_LAST, Op
from pybpfvm.uring_backend.kernel.probe import available
from tests.support.evidence import keep
from tests.support.journal import Chunk, Found, Journal, code_of

PROGRESS_SECONDS = 10
SEQUENCES = 50  # of a chunk
KEPT = 50_000  # campaigns of at least so many sequences are evidence
AGAIN = 3  # times that a sequence which ended differently is played anew
_REQUESTS, _NETWORK = "requests", "network"
# What the outcome depends on: both backends, what they play, and the comparison.
_CODE = (
    *("uring_backend/*.py", "uring_backend/sim/*.py", "uring_backend/kernel/*.py"),
    *(f"pybpfvm/fuzz/{name}*.py" for name in ("ring_", "network_sequences")),
    "tests/support/journal.py",
    "tests/uring_backend/campaign.py",
)


@dataclass
class Tally:
    """What a campaign counted. `differences`: words by seed; `passing`: those that differed once,
    and not when they were played anew."""

    sequences: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    differences: dict[str, str] = field(default_factory=dict)
    passing: dict[str, str] = field(default_factory=dict)

    def table(self) -> str:
        """The closing table."""
        rows = [f"{count:10} sequences of {kind}" for kind, count in self.sequences.items()]
        rows += [f"{count:10} {name}" for name, count in self.requests.most_common()]
        rows.append(f"{len(self.differences):10} differed each time: {', '.join(self.differences)}")
        rows.append(f"{len(self.passing):10} differed once: {', '.join(self.passing)}")
        return "\n".join(rows)


def chunks(sequences: int, first: int) -> list[Chunk]:
    """All of a campaign, a chunk of sockets behind four of requests."""
    whole = []
    for number, at in enumerate(range(0, sequences, SEQUENCES)):
        kind = _NETWORK if number % 5 == 4 else _REQUESTS
        whole.append(Chunk(kind, first + at, min(SEQUENCES, sequences - at)))
    return whole


_COMPARE: dict[str, Callable[[int], list[str]]] = {
    _REQUESTS: compare,
    _NETWORK: compare_network,
}


def run_chunk(chunk: Chunk) -> Found:
    """Do a chunk: what the journal keeps of it."""
    compare = _COMPARE[chunk.kind]
    requests: Counter[str] = Counter()
    differences: dict[str, str] = {}
    passing: dict[str, str] = {}
    for seed in range(chunk.first, chunk.first + chunk.count):
        requests.update(_names(chunk.kind, seed))
        found = compare(seed)
        if found:
            again = [compare(seed) for _ in range(AGAIN)]
            where = differences if all(again) else passing
            where[f"{chunk.kind}-{seed}"] = "\n".join(found)
    return {
        "sequences": chunk.count,
        "requests": requests,
        "differences": differences,
        "passing": passing,
    }


def _names(kind: str, seed: int) -> Iterable[str]:
    """What the sequence asks for: opcodes, or steps of a connection."""
    if kind == _NETWORK:
        return (f"step {step.what}" for step in network_sequences.generate(seed)[1])
    steps = Generator(seed).sequence().steps
    specs = (spec for step in steps for spec in step.specs)
    return (Op(spec.op).name if spec.op < OP_LAST else "unknown or external" for spec in specs)


def tally(journal: Journal, done: Iterable[Chunk]) -> Tally:
    """What those of the chunks that were done counted together."""
    total = Tally()
    for chunk in done:
        if not journal.left(chunk):
            found = journal.found(chunk)
            total.sequences[chunk.kind] += chunk.count
            total.requests += Counter(found["requests"])  # type: ignore[call-overload]
            total.differences.update(found["differences"])  # type: ignore[call-overload]
            total.passing.update(found["passing"])  # type: ignore[call-overload]
    return total


def figures(total: Tally) -> list[tuple[str, str]]:
    """The rows that a campaign keeps."""
    count = sum(total.sequences.values())
    opcodes = [name for name in total.requests if " " not in name]
    requests = sum(total.requests[name] for name in opcodes)
    return [
        (
            "generated request sequences, on the simulated ring and the kernel's: results, order, "
            "memory, files",
            f"{count:,}: {len(total.differences)} differed, "
            f"{len(total.passing)} more once, but not when played anew",
        ),
        ("of them with sockets and buffer rings", f"{total.sequences[_NETWORK]:,}"),
        ("requests in the others", f"{requests:,} of {len(opcodes)} opcodes"),
    ]


def main() -> int:
    """The campaign that the environment asks for."""
    reason = available()
    if reason is not None:
        print(f"skipped: no io_uring: {reason}")
        return 0
    first = int(os.environ.get("PYBPFVM_ORACLE_RING_SEED", "1"))
    count = int(os.environ.get("PYBPFVM_ORACLE_RING", str(KEPT)))
    where = Path(os.environ.get("PYBPFVM_ORACLE_RING_DIR", "build/ring"))
    journal = Journal(where / "journal.jsonl", {"code": code_of(_CODE), "sequences": SEQUENCES})
    whole = chunks(count, first)
    left = [chunk for chunk in whole if journal.left(chunk)]
    print(f"{len(whole) - len(left)} of {len(whole)} chunks done before", flush=True)
    shown = time.monotonic()
    for number, chunk in enumerate(left, 1):
        found = run_chunk(chunk)
        journal.add(chunk, found)
        for kind in ("differences", "passing"):
            for name, text in dict(found[kind]).items():  # type: ignore[call-overload]
                print(f"{kind}: {name}\n{text}", flush=True)
                (where / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
        if time.monotonic() - shown > PROGRESS_SECONDS:
            shown = time.monotonic()
            print(f"{number} of {len(left)} chunks", flush=True)
    total = tally(journal, whole)
    print(total.table())
    if sum(total.sequences.values()) >= KEPT:
        print(f"kept in {keep('ring', 'make oracle-ring', figures(total))}")
    return 1 if total.differences or total.passing else 0


if __name__ == "__main__":
    sys.exit(main())
