"""What a campaign of the fuzzer found, for people and machines, and its line on stderr."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from pybpfvm.fuzz.campaign import Campaign, Report
from pybpfvm.fuzz.campaign.workers import Working
from pybpfvm.fuzz.findings import Finding
from pybpfvm.fuzz.kernel_verdicts import KERNEL
from pybpfvm.report.progress import Progress, on_stderr, short_number

_WIDTH = 100


class FuzzProgress:
    """The status line of a campaign, on terminals only; a context around it."""

    def __init__(self, campaign: Campaign) -> None:
        self._progress: Progress = on_stderr()
        self._campaign = campaign
        self._progress.text = self.text  # type: ignore[method-assign]

    def text(self) -> str:
        """What it would say now: a line, and one for each worker if there are any."""
        one, report, working = self._campaign, self._campaign.report, self._campaign.workers.working
        executions = sum(worker.executions for worker in working)
        rate = executions / max(one.seconds, 1e-9)
        covered = max([len(report.features), *(worker.covered for worker in working)])
        rows = [
            f"{executions:,} executions, {short_number(rate)}/s, "
            f"{covered:,} features, corpus {len(one.corpus.entries):,}, "
            f"{report.buckets} findings, {one.seconds:.0f} s"
        ]
        if one.workers.jobs:
            rows += map(_working, working)
        return "\n".join(rows)

    def __enter__(self) -> FuzzProgress:
        self._progress.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _working(one: Working) -> str:
    """What a worker does and has done."""
    covered = f", {one.covered:,} features" if one.covered else ""
    return (
        f"  {one.name}: {one.executions:,} executions, {one.shards} shards, "
        f"{one.findings} findings{covered}  {one.doing}"
    )


def lines(report: Report) -> Iterator[str]:
    """The report as text."""
    yield f"fuzz {report.target}: {_seeds(report)}, {report.elapsed:.1f} s"
    if report.jobs:
        yield f"  {report.jobs} processes, which worked for {report.seconds:.1f} s"
    counted = report.outcomes.most_common()
    ends = ", ".join(f"{count:,} {outcome}" for outcome, count in counted)
    yield f"  {report.executions:,} executions, {short_number(report.rate)} a second: {ends}"
    share = report.accept_rate
    if share is not None:
        yield f"  accepted: {share:.1%} of what was judged"
    yield (
        f"  coverage: {len(report.features):,} features; "
        f"corpus: {report.corpus:,} inputs, {report.added:,} of them new"
    )
    for what, known in report.known.items():
        never = report.never(what)
        yield f"  {what}: {len(known) - len(never)} of {len(known)} hit"
        if never:
            yield from _wrapped(f"never: {', '.join(name.strip() for name in never)}", "    ")
    if KERNEL in report.hits:
        counts = ", ".join(f"{count:,} {how}" for how, count in sorted(report.hits[KERNEL].items()))
        yield f"  beside the running kernel: {counts}"
    for note in report.notes:
        yield from _wrapped(f"note: {note}", "  ")
    if report.interrupted:
        yield "  interrupted: this is what there was by then"
    if not report.findings:
        yield "  nothing was found"
        return
    yield f"  {len(report.findings)} found:"
    for found in report.findings.values():
        yield from finding_lines(found)


def finding_lines(found: Finding) -> Iterator[str]:
    """One finding as text."""
    inputs = "1 input" if found.count == 1 else f"{found.count:,} inputs"
    yield (
        f"    {found.problem.bucket}: {inputs}, first with seed {found.seed} "
        f"after {found.executions:,} executions, {found.seconds:.1f} s"
    )
    yield from _wrapped(found.problem.message, "      ")
    if found.data != found.first:
        yield f"      made smaller: {len(found.first)} to {len(found.data)} bytes"
    if found.folder is not None:
        yield f"      saved in {found.folder}"
        yield f"      repeat: {found.command}"


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_on_hyphens=False,
    )


def _seeds(report: Report) -> str:
    ranges = [(one.first, one.first + one.count - 1) for one in report.shards if one.count]
    return "seeds " + ", ".join(f"{first} to {last}" for first, last in ranges) if ranges else "-"


def document(report: Report) -> dict[str, object]:
    """The report for machines: pybpfvm.fuzz/1 without its schema."""
    return {
        "target": report.target,
        "shards": [
            {
                "first": one.first,
                "count": one.count,
                "seconds": one.seconds,
                "executions": one.executions,
            }
            for one in report.shards
        ],
        "seconds": report.seconds,
        "elapsed": report.elapsed,
        "jobs": report.jobs,
        "executions": report.executions,
        "rate": report.rate,
        "accept_rate": report.accept_rate,
        "outcomes": dict(report.outcomes),
        "features": len(report.features),
        "corpus": report.corpus,
        "added": report.added,
        "hits": {what: dict(report.hits.get(what, {})) for what in report.known},
        "never": {what: report.never(what) for what in report.known},
        "kernel": dict(report.hits.get(KERNEL, {})),
        "notes": list(report.notes),
        "interrupted": report.interrupted,
        "findings": [_finding(found) for found in report.findings.values()],
    }


def _finding(found: Finding) -> dict[str, object]:
    return {
        "bucket": found.problem.bucket,
        "message": found.problem.message,
        "count": found.count,
        "seed": found.seed,
        "executions": found.executions,
        "seconds": found.seconds,
        "input_bytes": len(found.data),
        "first_bytes": len(found.first),
        "folder": None if found.folder is None else str(found.folder),
        "command": found.command,
    }
