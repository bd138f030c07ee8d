"""A timeline on a terminal: time goes to the right, a line for each lane and each request.

It needs no colour: what happens is told by the character. A column is one event or more, or a
span of time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pybpfvm.report.account import result
from pybpfvm.report.paint import Paint
from pybpfvm.report.timeline import At, Cqe, Request, Run, Timeline
from pybpfvm.report.words import count, printable

_LABEL = 22
_LEAST_COLUMNS = 20
_MOST_COLUMNS = 400
_FIRST_REQUESTS, _LAST_REQUESTS = 30, 10
_MOST_WAITING = 20
_MOST_PROGRAMS = 20

_RUNS, _FLIES, _PARKED, _BEHIND, _WAITS, _OPEN, _FAULT = "█", "─", "┈", ".", "░", "▷", "✗"
_STEP, _NOTE, _LOST = "▾", "!", "x"
_LEGEND = (
    f"{_RUNS} runs",
    f"{_FLIES} in flight",
    f"{_PARKED} waits for CQEs",
    f"{_BEHIND} behind its chain",
    "┤ ends (its result)",
    f"{_OPEN} still there at the end",
    f"{_FAULT} fault",
    f"host: {_STEP} step, {_WAITS} waits, {_NOTE} note",
    f"CQ: the most CQEs it held, + ten or more, {_LOST} one was lost",
)
_STYLES = {
    _RUNS: ("cyan",),
    _PARKED: ("yellow",),
    _WAITS: ("yellow",),
    _FAULT: ("bold", "red"),
    _LOST: ("bold", "red"),
    _NOTE: ("bold", "red"),
    _OPEN: ("bold", "yellow"),
}


@dataclass(frozen=True, slots=True)
class _Scale:
    """Where a place goes: which of `columns`, by step or by time."""

    columns: int
    last: int
    by_time: bool

    def at(self, place: At) -> int:
        value = place.time_ns if self.by_time else place.step
        if self.last < self.columns:
            return min(value, self.columns - 1)
        return min(value * self.columns // (self.last + 1), self.columns - 1)


def lines(
    picture: Timeline, width: int, paint: Paint, *, by_time: bool | None = None
) -> Iterator[str]:
    """The picture in `width` characters. `by_time` None: where the clock is a real one."""
    if by_time is None:
        by_time = not picture.setting.virtual
    room = min(max(width - _LABEL - 1, _LEAST_COLUMNS), _MOST_COLUMNS)
    last = picture.end.time_ns if by_time else picture.end.step
    scale = _Scale(min(room, last + 1), last, by_time)
    unit = f"{(last + 1) / scale.columns / 1e6:.3g} ms" if by_time else _events(last, scale)
    yield paint(f"Timeline of {count(picture.steps, 'event')}", "bold") + (
        f", {picture.end.time_ns / 1e6:.3f} ms; a column is {unit}"
    )
    if not picture.steps:
        return
    yield _row("ms", _axis(picture, scale), Paint(False))
    yield from _lanes(picture, scale, paint)
    yield paint("requests", "bold")
    yield from _requests(picture, scale, room, paint)
    for line in _legend(width):
        yield paint(line, "dim")
    if picture.missing:
        parts = ", ".join(f"{number:,} {kind}" for kind, number in picture.left_out.items())
        yield f"left out of the middle: {parts}"
    if picture.setting.stopped:
        yield paint(printable(picture.setting.stopped.splitlines()[0]), "bold", "red")
    if picture.waiting:
        yield paint("At the end", "bold")
        for waiting in picture.waiting[:_MOST_WAITING]:
            yield f"  {printable(waiting.who)} {waiting.text}"
        if len(picture.waiting) > _MOST_WAITING:
            yield f"  and {len(picture.waiting) - _MOST_WAITING:,} more"


def _legend(width: int) -> Iterator[str]:
    line = ""
    for entry in _LEGEND:
        if line and len(line) + 3 + len(entry) > width:
            yield line
            line = ""
        line += f"   {entry}" if line else entry
    yield line


def _events(last: int, scale: _Scale) -> str:
    each = (last + 1) / scale.columns
    return "an event" if each <= 1 else f"{each:.3g} events"


def _row(label: str, cells: Iterable[str], paint: Paint) -> str:
    shown = printable(label)
    if len(shown) > _LABEL:
        shown = shown[: _LABEL - 1] + "…"
    painted: list[str] = []
    style: tuple[str, ...] = ()
    piece = ""
    for cell in cells:
        wanted = _STYLES.get(cell, ())
        if wanted != style:
            painted.append(paint(piece, *style) if style else piece)
            piece, style = "", wanted
        piece += cell
    painted.append(paint(piece, *style) if style else piece)
    return f"{shown:<{_LABEL}} {''.join(painted)}".rstrip()


def _axis(picture: Timeline, scale: _Scale) -> list[str]:
    """Times, where there is room for them: of the first event of a column."""
    cells = [" "] * scale.columns
    firsts: dict[int, int] = {}
    for place in _places(picture):
        column = scale.at(place)
        firsts[column] = min(firsts.get(column, place.time_ns), place.time_ns)
    free, shown = 0, ""
    for column, time_ns in sorted(firsts.items()):
        text = f"{time_ns / 1e6:.3f}"
        if column >= free and text != shown and column + len(text) < scale.columns:
            cells[column : column + len(text) + 1] = [*"╵", *text]
            free, shown = column + len(text) + 3, text
    return cells[: scale.columns]


def _places(picture: Timeline) -> Iterator[At]:
    for item in picture.items():
        for name in ("at", "begin", "entered", "started", "end"):
            place = getattr(item, name, None)
            if place is not None:
                yield place


def _lanes(picture: Timeline, scale: _Scale, paint: Paint) -> Iterator[str]:
    programs = [lane.name for lane in picture.lanes if lane.kind == "program"]
    runs: dict[str, list[Run]] = {name: [] for name in programs}
    for run in picture.runs:
        runs[run.program].append(run)
    cqes: dict[int, list[Cqe]] = {}
    for cqe in picture.cqes:
        cqes.setdefault(cqe.cq, []).append(cqe)
    for lane in picture.lanes:
        if lane.kind == "host":
            yield _row("host", _host(picture, scale), paint)
        elif lane.kind == "program" and lane.name in programs[:_MOST_PROGRAMS]:
            cells = [" "] * scale.columns
            _draw_runs(cells, scale, runs[lane.name], picture.end)
            yield _row(f"▶ {lane.name}", cells, paint)
        elif lane.kind == "cq":
            sizes = picture.setting.cq_entries
            size = f" of {sizes[lane.cq]}" if lane.cq < len(sizes) else ""
            yield _row(f"{lane.name}{size}", _depths(cqes.get(lane.cq, ()), scale), paint)
    if len(programs) > _MOST_PROGRAMS:
        yield f"… and {len(programs) - _MOST_PROGRAMS:,} more programs"


def _fill(cells: list[str], scale: _Scale, begin: At, end: At | None, mark: str, last: At) -> None:
    for column in range(scale.at(begin), scale.at(end or last) + 1):
        cells[column] = mark


def _draw_runs(cells: list[str], scale: _Scale, runs: Iterable[Run], last: At) -> None:
    for run in runs:
        _fill(cells, scale, run.begin, run.end, _RUNS, last)
        if run.fault:
            cells[scale.at(run.end or last)] = _FAULT


def _host(picture: Timeline, scale: _Scale) -> list[str]:
    cells = [" "] * scale.columns
    for wait in picture.host_waits:
        _fill(cells, scale, wait.begin, wait.end, _WAITS, picture.end)
        if wait.end is None:
            cells[-1] = _OPEN
    for mark in picture.marks:
        column = scale.at(mark.at)
        if cells[column] != _NOTE:
            cells[column] = _STEP if mark.kind == "step" else _NOTE
    return cells


def _depths(cqes: Sequence[Cqe], scale: _Scale) -> list[str]:
    """The most CQEs that were held in each column."""
    changes: list[tuple[int, int, int]] = []  # step, column, held from then on
    lost: set[int] = set()
    for cqe in cqes:
        if cqe.fate == "dropped":
            lost.add(scale.at(cqe.begin))
        if cqe.entered is not None:
            changes.append((cqe.entered.step, scale.at(cqe.entered), cqe.held))
        if cqe.end is not None:
            changes.append((cqe.end.step, scale.at(cqe.end), cqe.left))
    changes.sort()
    cells: list[str] = []
    held = place = 0
    for column in range(scale.columns):
        most = held
        while place < len(changes) and changes[place][1] <= column:
            held = changes[place][2]
            most = max(most, held)
            place += 1
        cells.append(_LOST if column in lost else _depth(most))
    return cells


def _depth(held: int) -> str:
    return "·" if held == 0 else str(held) if held < 10 else "+"


def _requests(picture: Timeline, scale: _Scale, room: int, paint: Paint) -> Iterator[str]:
    of: dict[int, list[Run]] = {}
    for run in picture.runs:
        of.setdefault(run.request, []).append(run)
    requests = picture.requests
    skipped = len(requests) - _FIRST_REQUESTS - _LAST_REQUESTS
    shown = requests if skipped <= 1 else (*requests[:_FIRST_REQUESTS], *requests[-_LAST_REQUESTS:])
    parks: dict[int, list[tuple[At, At | None]]] = {one.number: [] for one in shown}
    for park in picture.parks:
        if park.request in parks:
            parks[park.request].append((park.begin, park.end))
    for place, one in enumerate(shown):
        if skipped > 1 and place == _FIRST_REQUESTS:
            yield f"… {skipped:,} more requests …"
        runs = of.get(one.number, [])
        yield _request(picture, scale, room, one, runs, parks[one.number], paint)


def _request(
    picture: Timeline,
    scale: _Scale,
    room: int,
    one: Request,
    runs: Sequence[Run],
    parks: Sequence[tuple[At, At | None]],
    paint: Paint,
) -> str:
    cells = [" "] * scale.columns
    _fill(cells, scale, one.begin, one.end, _FLIES, picture.end)
    if one.behind:
        _fill(cells, scale, one.begin, one.started or one.end, _BEHIND, picture.end)
    for begin, end in parks:
        _fill(cells, scale, begin, end, _PARKED, picture.end)
    _draw_runs(cells, scale, runs, picture.end)
    if one.end is None:
        cells[-1] = _OPEN
    else:
        column = scale.at(one.end)
        if cells[column] != _FAULT:
            cells[column] = "┤"
        text = "no CQE" if one.quiet else result(one.res or 0)
        text = f" {text}"
        if column + 1 + len(text) <= room:
            cells[column + 1 :] = list(text)
        elif column - len(text) > scale.at(one.begin):
            cells[column - len(text) : column] = list(text)
    return _row(request_label(picture, one, runs), cells, paint)


def request_label(picture: Timeline, one: Request, runs: Sequence[Run]) -> str:
    """`2 WRITE by writer`, `1 BPF writer`, of several rings with the ring's name before it."""
    name = picture.setting.opcodes.get(one.opcode, f"opcode {one.opcode}")
    whose = runs[0].program if runs else f"by {one.origin}"
    ring = f"{one.ring} " if one.ring else ""
    return f"{ring}{one.number} {name} {whose}"
