"""The timeline: laws of its model on real runs, what is drawn of them, and its bounds."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from pybpfvm.cli import main
from pybpfvm.events import (
    CqePosted,
    CqeReaped,
    Event,
    HelperCalled,
    Noted,
    OfRing,
    RequestEnded,
    RequestStarted,
    RunEnded,
    RunFaulted,
    RunStarted,
    SqeIssued,
)
from pybpfvm.report import timeline_html, timeline_text
from pybpfvm.report.paint import Paint
from pybpfvm.report.timeline import At, Budget, Call, Mark, Setting, Timeline, begin_of
from pybpfvm.report.timeline_builder import timeline
from pybpfvm.scenario import parse, parse_bytes, run_scenario
from pybpfvm.session import Machine
from pybpfvm.session.hostring import BackendName
from pybpfvm.uring_backend.abi import CQE_F_MORE, SQE_IO_LINK
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

ROOT = Path(__file__).parents[2]
_LONG = "07_batch_writer"  # 650,000 events: most of them would be left out
EXAMPLES = sorted(
    path.parent.name
    for path in (ROOT / "examples").glob("*/scenario.toml")
    if path.parent.name != _LONG
)
HANG = """
object = "rows.v3.bpf.o"
abi = "iouring-v3"
programs = ["wait_for_nothing"]
[ring]
cq_entries = [16, 16]
[[steps]]
submit = [{ prog = "wait_for_nothing" }, { op = "timeout", addr = { block = "ts" }, len = 1 }]
[[steps]]
wait = 2
[user.ts]
timespec_ns = 20_000_000
"""


def played(example: str, backend: BackendName = "sim", seed: int = 0) -> list[Event]:
    events: list[Event] = []
    scenario = parse(str(ROOT / "examples" / example / "scenario.toml"))
    run_scenario(scenario, backend=backend, seed=seed, observer=events.append)
    return events


def text(picture: Timeline, width: int = 100) -> list[str]:
    return list(timeline_text.lines(picture, width, Paint(False)))


def line(picture: Timeline, label: str) -> str:
    (found,) = (one for one in text(picture) if one.startswith(label))
    return found[23:]


def of_rings(events: list[Event], picture: Timeline) -> list[Event]:
    """The events; those of several rings with the numbers that their CQs have in the picture."""
    numbers = {lane.name: lane.cq for lane in picture.lanes if lane.kind == "cq"}
    found = []
    for event in events:
        if isinstance(event, OfRing):
            ring, event = event.ring, event.event
            if isinstance(event, CqePosted | CqeReaped):
                event = replace(event, cq=numbers[f"{ring} CQ {event.cq}"])
        found.append(event)
    return found


def check_laws(events: list[Event], picture: Timeline) -> None:
    """What holds of every picture from which nothing was left out."""
    events = of_rings(events, picture)
    assert picture.steps == len(events)
    assert picture.missing == 0
    assert picture.gap is None
    ends = {e.request: e for e in events if isinstance(e, RequestEnded)}
    issued = [e.request for e in events if isinstance(e, SqeIssued)]
    assert [one.number for one in picture.requests] == issued
    for one in picture.requests:
        assert (one.end is None) == (one.number not in ends), "an end, or in flight"
        assert one.end is None or one.res == ends[one.number].res
    flying = {one.number for one in picture.requests if one.end is None}
    waiting = " ".join(f"{one.who} {one.text}" for one in picture.waiting)
    assert all(f"request {number} " in waiting for number in flying)
    # Places are those of events, in order.
    last = At(0, 0)
    for item in picture.items():
        places = [begin_of(item)]
        places += (
            place
            for name in ("entered", "started", "end")
            if (place := getattr(item, name, None)) is not None
        )
        assert places == sorted(places)
        assert [place.time_ns for place in places] == sorted(place.time_ns for place in places)
        assert all(0 <= place.step < len(events) for place in places)
        last = max(last, *places)
    assert last <= picture.end
    # Queues hold what was posted to them and not reaped.
    held: Counter[int] = Counter()
    by_step = {cqe.entered.step: cqe for cqe in picture.cqes if cqe.entered is not None}
    reaped = {cqe.end.step: cqe for cqe in picture.cqes if cqe.end is not None}
    for step, event in enumerate(events):
        if isinstance(event, CqePosted) and event.fate == "posted":
            held[event.cq] += 1
            cqe = by_step.pop(step)
            told = (cqe.cq, cqe.user_data, cqe.res, cqe.request, cqe.held)
            assert told == (event.cq, event.user_data, event.res, event.request, held[event.cq])
        elif isinstance(event, CqeReaped):
            held[event.cq] -= 1
            cqe = reaped.pop(step)
            told_ = (cqe.cq, cqe.user_data, cqe.res, cqe.reaper, cqe.left)
            assert told_ == (event.cq, event.user_data, event.res, event.by, held[event.cq])
    assert not by_step
    assert not reaped
    # A completed request has the CQEs that it was told to have, and they come from it.
    kept = {item.id: item for item in picture.items()}
    of = Counter(cqe.source for cqe in picture.cqes if cqe.request is not None)
    for one in picture.requests:
        assert one.cqes == of[one.id]
        assert one.end is None or one.quiet or one.cqes > 0
    completes = [arrow for arrow in picture.arrows if arrow.kind == "completes"]
    assert len(completes) == sum(of.values())
    for arrow in picture.arrows:
        assert arrow.source in kept
        assert arrow.target in kept
    # Runs follow one another, and helper calls lie in their run.
    before = -1
    for run in picture.runs:
        assert run.begin.step > before
        assert run.end is not None
        before = run.end.step
    runs = {run.id: run for run in picture.runs}
    for call in picture.calls:
        run = runs[call.run or 0]
        assert run.end is not None
        assert run.begin.step < call.at.step < run.end.step
    # No two requests share a place.
    free: dict[int, int] = {}
    for one in picture.requests:
        row = picture.rows[one.id]
        assert one.begin.step > free.get(row, -1)
        free[row] = len(events) if one.end is None else one.end.step


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_laws_hold_of_every_example(example: str, backend: BackendName) -> None:
    need_backend(backend)
    events = played(example, backend, seed=3)
    check_laws(events, timeline(events))


def test_the_same_seed_gives_the_same_page(tmp_path: Path) -> None:
    """Though each ring has its memory elsewhere: words that are addresses are named."""
    example = str(ROOT / "examples/04_write_file/scenario.toml")
    pages = []
    with ExitStack() as others:
        for name in ("a.html", "b.html"):
            target = tmp_path / name
            assert main(["run", example, "--seed", "5", "--timeline", str(target)]) == 0
            pages.append(target.read_bytes())
            others.enter_context(Machine())  # in the place of the memory that was there
    assert pages[0] == pages[1]
    assert b"addr \\u0026buffer+16384" in pages[0]


def test_the_ticker_as_text(tmp_path: Path) -> None:
    """Written again by: pybpfvm run examples/02_ticker/scenario.toml --timeline FILE.txt"""
    target = tmp_path / "ticker.txt"
    assert (
        main(["run", str(ROOT / "examples/02_ticker/scenario.toml"), "--timeline", str(target)])
        == 0
    )
    golden = Path(__file__).with_name("data") / "ticker.timeline.txt"
    assert target.read_text() == golden.read_text()


def hang() -> Timeline:
    events: list[Event] = []
    scenario = parse_bytes(HANG.encode(), "hang.toml", ROOT / "tests/acceptance")
    outcome = run_scenario(scenario, observer=events.append)
    picture = timeline(
        events, Setting(stopped=str(outcome.stopped), cq_entries=(16, 16, 16), opcodes={37: "BPF"})
    )
    check_laws(events, picture)
    return picture


def test_a_hang_says_who_waits_for_what() -> None:
    picture = hang()
    told = [f"{one.who} {one.text}" for one in picture.waiting]
    assert told == [
        "the host waits for 1 CQE on CQ 0, which holds 0",
        "request 1 (wait_for_nothing) waits for 1 CQE on CQ 1, which holds 0",
    ]
    assert [wait.end is None for wait in picture.host_waits] == [False, True]
    (park,) = picture.parks
    assert (park.cq, park.wanted, park.end) == (1, 1, None)
    lines = text(picture)
    assert "hang: nothing in flight can complete" in lines
    assert f"  {told[1]}" in lines
    assert line(picture, "host").endswith("▷")
    assert line(picture, "1 BPF wait_for_nothing").endswith("┈▷")
    page = timeline_html.render(picture)
    before = page[: page.index('<script type="application/json"')]
    button = f'<button class="link" data-item="{park.id}">request 1 (wait_for_nothing)</button>'
    assert f"{button} waits for 1 CQE on CQ 1, which holds 0" in before


def test_a_member_of_a_chain_waits_for_the_one_before() -> None:
    def sqe(number: int, flags: int) -> SqeIssued:
        return SqeIssued(0, number, 0, 0, 0, flags, "user", b"", 1)

    def over(number: int, time_ns: int, res: int = 0) -> list[Event]:
        return [
            RequestEnded(time_ns, number, res, 0, False),
            CqePosted(time_ns, 0, 0, res, 0, "posted", "user", number),
        ]

    events = [sqe(1, SQE_IO_LINK), sqe(2, SQE_IO_LINK), sqe(3, 0), *over(1, 5), *over(2, 9)]
    picture = timeline(events)
    check_laws(events, picture)
    one, two, three = picture.requests
    assert [request.behind for request in picture.requests] == [0, 1, 2]
    assert (one.started, two.started, three.started) == (None, At(3, 5), At(5, 9))
    links = [(a.source, a.target) for a in picture.arrows if a.kind == "links"]
    assert links == [(one.id, two.id), (two.id, three.id)]
    assert "..." in line(picture, "3 opcode 0")
    cut = timeline(events[:3])
    assert [waiting.text for waiting in cut.waiting] == [
        "is in flight",
        "waits for its turn behind request 1",
        "waits for its turn behind request 2",
    ]


def test_faults_losses_and_notes_are_drawn() -> None:
    events: list[Event] = [
        Noted(0, "step", "steps[0]: submit 1"),
        SqeIssued(0, 1, 37, 0, 0, 0, "user"),
        RequestStarted(0, 1),
        Noted(1, "fault", "READ of request 1 came up short", request=1),
        RunStarted(2, 1, "p", 0, 1, 0),
        CqePosted(2, 1, 5, 0, 0, "dropped", "p"),
        RunFaulted(3, 1, "p", 1, 12, "why", 40),
        RequestEnded(3, 1, -125, 0, False),
        CqePosted(3, 0, 0, -125, 0, "posted", "user", 1),
    ]
    picture = timeline(events)
    check_laws(events, picture)
    assert line(picture, "host") == "▾  !"
    assert line(picture, "▶ p") == "    ██✗"
    assert line(picture, "CQ 1") == "·····x···"
    assert line(picture, "1 opcode 37 p").endswith("┤ -ECANCELED")
    assert [mark.text for mark in picture.marks] == [
        "steps[0]: submit 1",
        "READ of request 1 came up short",
    ]
    (run,) = picture.runs
    assert (run.fault, run.fault_pc, run.insns) == ("why", 12, 40)


def test_a_backlog_and_a_multishot() -> None:
    events: list[Event] = [
        SqeIssued(0, 1, 13, 7, 0, 0, "user"),
        CqePosted(1, 0, 7, 4, CQE_F_MORE, "posted", "user", 1),
        CqePosted(2, 0, 7, 5, CQE_F_MORE, "backlog", "user", 1),
        CqeReaped(3, 0, 7, 4, CQE_F_MORE, "user"),
        CqePosted(4, 0, 7, 5, CQE_F_MORE, "posted", "user", 1),
        RequestEnded(5, 1, -125, 0, False),
        CqePosted(5, 0, 7, -125, 0, "posted", "user", 1),
    ]
    picture = timeline(events)
    check_laws(events, picture)
    (one,) = picture.requests
    assert one.cqes == 3
    late = picture.cqes[1]
    assert (late.fate, late.begin, late.entered) == ("backlog", At(2, 2), At(4, 4))


def test_times_count_from_the_start_and_never_go_back() -> None:
    events: list[Event] = [
        Noted(400, "step", "steps[0]: before the clock starts"),
        SqeIssued(1_000, 1, 0, 0, 0, 0, "user"),
        RequestEnded(990, 1, 0, 0, False),  # another processor's clock
        CqePosted(1_500, 0, 0, 0, 0, "posted", "user", 1),
    ]
    picture = timeline(events, start_ns=900)
    (one,) = picture.requests
    assert (one.begin, one.end) == (At(1, 100), At(2, 100))
    assert picture.marks[0].at == At(0, 0)
    assert picture.end == At(3, 600)


def many(runs: int) -> list[Event]:
    events: list[Event] = [SqeIssued(0, 1, 37, 0, 0, 0, "user"), RequestStarted(0, 1)]
    for number in range(1, runs + 1):
        events.append(RunStarted(number, 1, "p", 0, number, 0))
        events += (HelperCalled(number, "probe", 3, (), 0) for _ in range(3))
        events.append(RunEnded(number, 1, "p", number, 0, 9, None, 0))
    events += (
        RequestEnded(runs, 1, 0, 0, False),
        CqePosted(runs, 0, 0, 0, 0, "posted", "user", 1),
    )
    return events


def test_long_runs_are_bounded_and_say_so() -> None:
    events = many(500)
    whole = timeline(events)
    picture = timeline(events, budget=Budget(head=40, tail=20))
    kept = sorted(item.id for item in picture.items())
    assert kept == [*range(1, 41), *range(1_983, 2_003)]
    assert picture.left_out == {
        "helper calls": len(whole.calls) - len(picture.calls),
        "runs": len(whole.runs) - len(picture.runs),
    }
    assert len(kept) + picture.missing == len(list(whole.items())) == 2_002
    (one,) = picture.requests
    assert one.end is not None, "what began early still ends"
    assert picture.gap is not None
    beginnings = [begin_of(item).step for item in picture.items()]
    assert not [step for step in beginnings if picture.gap[0].step <= step <= picture.gap[1].step]
    left_out = "eft out of the middle: 1,456 helper calls, 486 runs"
    assert f"l{left_out}" in text(picture)
    assert f"L{left_out}." in timeline_html.render(picture)


def test_a_page_of_as_many_items_as_are_kept_stays_small() -> None:
    picture = timeline(many(25_000))
    assert picture.missing > 0
    page = timeline_html.render(picture)
    assert len(page) < 8 << 20
    assert max(map(len, text(picture))) <= 140


def test_the_terminals_picture_fits_it_and_has_no_colour_unless_wanted() -> None:
    events = played("06_accept_recv")
    picture = timeline(events)
    for width in (60, 80, 132):
        for one in timeline_text.lines(picture, width, Paint(False)):
            assert len(one) <= width or one.startswith("Timeline")
            assert "\x1b" not in one
    coloured = list(timeline_text.lines(picture, 80, Paint(True)))
    assert any("\x1b[36m█" in one for one in coloured)


def test_an_empty_run_has_an_empty_picture() -> None:
    picture = timeline([])
    assert text(picture) == ["Timeline of 0 events, 0.000 ms; a column is an event"]
    assert '"requests":[]' in timeline_html.render(picture)


def test_begin_of_knows_every_kind() -> None:
    at = At(3, 4)
    assert begin_of(Call(1, at, None, "h", 0, (), 0)) == at
    assert begin_of(Mark(1, at, "step", "", None, None)) == at
