"""What a replay came to, as text and as a JSON document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from pybpfvm.report.words import count
from pybpfvm.trace.replay import Divergence, Replay


def lines(replay: Replay, found: Divergence | None, took_ns: int | None) -> Iterator[str]:
    """Line by line; `took_ns` is how long the replay took, None to say nothing of times."""
    index, totals = replay.index, replay.totals
    objects = ", ".join(str(one.object.path) for one in replay.objects) or "no object"
    yield f"{replay.file.path}: {objects}  (recorded by pybpfvm {index.header.get('version')})"
    counts = Counter(entry.program for entry in replay.runs)
    runs = ", ".join(f"{name} {number}" for name, number in counts.items()) or "none"
    rings = f"{count(index.completions, 'CQE')} on {count(len(index.rings), 'ring')}"
    insns = count(index.insns, "instruction")
    yield f"runs: {runs}; {insns}; {rings if index.rings else 'no ring'}"
    last = replay.runs[-1] if replay.runs else None
    if last is not None and last.how is not None:
        yield f"the last run, of {last.program}, was stopped: {last.how[4]}"
    if took_ns is not None:
        yield f"recorded in {index.recorded_ns / 1e6:.1f} ms, replayed in {took_ns / 1e6:.1f} ms"
    done = (
        f"{count(totals.runs, 'run')}, {count(totals.insns, 'instruction')}, "
        f"{count(totals.digests, 'digest')} of memory, maps and rings"
    )
    if found is None:
        yield f"replayed: {done}: all the same"
        return
    yield f"replayed: {done}: the same"
    yield f"DIVERGED at run {found.run}, of {found.program}: {found.what}"
    yield f"  in the recording: {found.then}"
    yield f"  now:              {found.now}"


def document(replay: Replay, found: Divergence | None, took_ns: int | None) -> Mapping[str, object]:
    """The body of pybpfvm.replay/1."""
    index, totals, damage = replay.index, replay.totals, replay.damage
    return {
        "recording": replay.file.path,
        "recorder": str(index.header.get("version")),
        "bytes": replay.file.size_bytes,
        "objects": [
            {"path": one.object.path, "sha256": one.object.sha256} for one in replay.objects
        ],
        "rings": len(index.rings),
        "completions": index.completions,
        "recorded": {"runs": len(index.runs), "insns": index.insns, "digests": index.digests},
        "replayed": {"runs": totals.runs, "insns": totals.insns, "digests": totals.digests},
        "damage": None if damage is None else str(damage),
        "divergence": None
        if found is None
        else {
            "run": found.run,
            "program": found.program,
            "what": found.what,
            "then": found.then,
            "now": found.now,
        },
        "recorded_ns": None if took_ns is None else index.recorded_ns,
        "replayed_ns": took_ns,
    }
