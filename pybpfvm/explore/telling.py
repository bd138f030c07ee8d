"""A report as lines of text, and as a JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict

from pybpfvm.explore.findings import Found, Size
from pybpfvm.explore.search import Report
from pybpfvm.scenario.schedule import Answer
from pybpfvm.uring_backend.choices import Point, Race


def summary(report: Report) -> str:
    """What was explored, and how far."""
    rate = report.schedules / report.seconds if report.seconds else 0.0
    were = "1 schedule" if report.schedules == 1 else f"{report.schedules:,} schedules"
    text = f"{were} by {report.strategy} in {report.seconds:.1f} s ({rate:,.0f}/s)"
    if report.different is not None and report.different < report.schedules:
        text += f", {report.different:,} of them different"
    if report.strategy == "dfs":
        text += f"; {_reach(report)}"
        if report.saved:
            text += f"; the reduction left out {report.saved:,} branches"
        if not report.reduced:
            text += "; nothing was reduced"
    return text


def _reach(report: Report) -> str:
    longest = f"the longest had {report.longest} actions"
    if not report.exhaustive:
        why = f" (stopped by {report.stopped_by})" if report.stopped_by else ""
        bound = "" if report.deviations is None else f", up to {report.deviations} deviations"
        return f"not exhaustive{why}{bound}, {longest}"
    if report.depth is not None and report.longest > report.depth:
        return f"exhaustive to a depth of {report.depth} actions, {longest}"
    return f"exhaustive: every order, {longest}"


def story(found: Found, requests: Mapping[int, str]) -> Iterator[str]:
    """A finding in a few lines; `requests` are names of requests by token."""
    shown = found.shown
    place = f" at {shown.place}" if shown.place else ""
    first, *rest = shown.text.splitlines()
    for kind in ("hang", shown.kind):  # which a live-lock is
        first = first.removeprefix(f"{kind}: ")
    yield f"{shown.kind}{place}: {first}"
    yield from (f"  {line}" for line in rest)
    if found.given:
        yield f"  shown by the schedule that was given, after {found.seconds:.2f} s"
    else:
        usual = found.tries == 1 and not found.found_with.picks
        tries = "the usual schedule" if usual else f"schedule {found.tries:,}"
        yield f"  found by {tries}, after {found.seconds:.2f} s"
    if not found.answers:
        yield "  in the usual order"
    for at, answer in found.answers:
        yield f"  {at}: {_told(answer, requests)}"
    if found.sizes is not None and found.sizes[0] != found.sizes[1]:
        yield f"  made smaller: {_shrunk(*found.sizes)}"
    if found.schedule.without:
        steps = ", ".join(map(str, found.schedule.without))
        yield f"  steps that it does not take: {steps}"
    for one in found.also:
        yield f"  also {one.kind}" + (f" at {one.place}" if one.place else "")


def _shrunk(before: Size, after: Size) -> str:
    """What there is less of, before and now."""
    names = {
        "answers": "answers",
        "faults": "faults",
        "steps": "steps",
        "data_bytes": "bytes of data",
        "events": "events",
    }
    sizes = ((getattr(before, key), getattr(after, key), name) for key, name in names.items())
    return ", ".join(f"{old:,} {name} to {new:,}" for old, new, name in sizes if old != new)


def _told(answer: Answer, requests: Mapping[int, str]) -> str:
    """An answer, with requests by what they are."""
    text = str(answer)
    if answer.point in (Point.RUN, Point.NEXT, Point.RACE):
        of = (one.token if isinstance(one, Race) else one for one in answer.options)
        tokens = {token for token in of if isinstance(token, int) and token > 0}
        for token in sorted(tokens, reverse=True):
            name = requests.get(token)
            if name:
                text = text.replace(f"request {token}", f"request {token} ({name})")
    elif answer.point is Point.HARM:
        text = f"a request meets {text}"
    return text


def document(scenario: str, report: Report, replays: Mapping[int, str]) -> dict[str, object]:
    """The body of the JSON document; `replays` are command lines, by number of the finding."""
    return {
        "scenario": scenario,
        "exit_code": report.exit_code,
        "strategy": report.strategy,
        "schedules": report.schedules,
        "exhaustive": report.exhaustive,
        "different": report.different,
        "depth": report.depth,
        "deviations": report.deviations,
        "longest": report.longest,
        "reduced": report.reduced,
        "saved": report.saved,
        "questions": report.questions,
        "uncontrolled": report.uncontrolled,
        "unended": report.unended,
        "interrupted": report.interrupted,
        "stopped_by": report.stopped_by,
        "findings": [
            {
                "kind": found.shown.kind,
                "place": found.shown.place,
                "text": found.shown.text,
                "schedule": str(found.schedule),
                "found_with": str(found.found_with),
                "tries": found.tries,
                "sizes": None if found.sizes is None else [asdict(one) for one in found.sizes],
                "answers": [{"question": at, "text": str(one)} for at, one in found.answers],
                "also": [{"kind": one.kind, "place": one.place} for one in found.also],
                "replay": replays[index],
            }
            for index, found in enumerate(report.found)
        ],
    }
