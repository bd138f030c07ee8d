"""A timeline as one page that needs nothing else: drawn on a canvas by the page's own script.

What waits at the end, and the counts, are plain HTML. Items are rows of numbers that point into
tables of places and texts: words that are addresses have become names, so that the same run gives
the same page wherever its memory lay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from pybpfvm.bits import s32
from pybpfvm.errors import SourceLine
from pybpfvm.report.account import AddressNamer, helper_call, plain_number, result
from pybpfvm.report.htmlpage import asset, document, text_of
from pybpfvm.report.timeline import At, Call, Request, Run, Timeline
from pybpfvm.report.words import count, file_of, printable
from pybpfvm.uring_backend.abi import SQE_BYTES, Sqe

SourceOf = Callable[[str, int], SourceLine | None]

_SQE_FLAGS = (
    "FIXED_FILE",
    "IO_DRAIN",
    "IO_LINK",
    "IO_HARDLINK",
    "ASYNC",
    "BUFFER_SELECT",
    "CQE_SKIP_SUCCESS",
)
_CQE_FLAGS = ("BUFFER", "MORE", "SOCK_NONEMPTY", "NOTIF", "BUF_MORE")
_FATES = ("posted", "backlog", "dropped")
_ADDRESSES = frozenset(("addr", "off"))
_MOST_WAITING = 200
_GO = (
    ("out", "−", "zoom out (-)"),
    ("in", "+", "zoom in (+)"),
    ("fit", "all", "everything (0)"),
    ("previous", "◂", "item before (k)"),
    ("next", "▸", "next item (j)"),
    ("cause", "◂ cause", "what led to it ([)"),
    ("effect", "effect ▸", "what it led to (])"),
)
_LEGEND = (
    ("run", "program runs"),
    ("flight", "request in flight"),
    ("park", "waits for CQEs"),
    ("behind", "behind its chain"),
    ("host", "host waits"),
    ("depth", "CQEs held"),
    ("fault", "✗ trap, lost CQE; ◆ fault, note"),
)


def render(
    picture: Timeline,
    name_addr: AddressNamer = plain_number,
    source: SourceOf = lambda program, pc: None,
) -> str:
    """The page. `source` gives the C line of a pc of a program."""
    style = asset("page.css") + asset("timeline.css")
    data = _Data(picture, name_addr, source).document()
    body = "\n".join((_header(picture), _main(), f"<footer>{_FOOTER}</footer>"))
    title = picture.setting.title or "a run"
    return document(f"{title} · pybpfvm timeline", style, asset("timeline.js"), body, data)


# What stands on the page without its script.


def _header(picture: Timeline) -> str:
    setting = picture.setting
    parts = [part for part in (setting.object, setting.abi) if part]
    where = "simulated ring" if setting.virtual else "the running kernel's ring"
    seed = f", seed {setting.seed}" if setting.seed is not None else ""
    parts.append(f"{where}{seed}")
    if setting.engine:
        parts.append(f"engine {setting.engine}")
    clock = "virtual time" if setting.virtual else "real time"
    what = (
        f"{count(picture.steps, 'event')} in {picture.end.time_ns / 1e6:.3f} ms of {clock}: "
        f"{count(len(picture.requests), 'request')}, {count(len(picture.runs), 'program run')}, "
        f"{count(len(picture.calls), 'helper call')}, {count(len(picture.cqes), 'CQE')}"
    )
    lines = [
        f"<header><h1>{text_of(setting.title or 'Timeline')}</h1>",
        f'<p class="soft">{" · ".join(text_of(part) for part in parts)}</p><p>{what}</p>',
    ]
    if picture.missing:
        left = ", ".join(f"{number:,} {kind}" for kind, number in picture.left_out.items())
        lines.append(
            f'<p class="left-out">Left out of the middle: {left}. Shown: first and last.</p>'
        )
    if setting.stopped:
        first = setting.stopped.splitlines()[0]
        lines.append(f'<p class="stopped">{text_of(first)}</p>')
    if picture.waiting:
        lines.append('<details class="waiting" open><summary>Still there at the end</summary><ul>')
        for one in picture.waiting[:_MOST_WAITING]:
            button = f'<button class="link" data-item="{one.id}">{text_of(one.who)}</button>'
            lines.append(f"<li>{button} {text_of(one.text)}</li>")
        if len(picture.waiting) > _MOST_WAITING:
            lines.append(f"<li>and {len(picture.waiting) - _MOST_WAITING:,} more</li>")
        lines.append("</ul></details>")
    lines.append(_counts(picture))
    return "\n".join((*lines, "</header>"))


def _counts(picture: Timeline) -> str:
    """The queues and the programs in numbers."""
    posted = Counter(cqe.cq for cqe in picture.cqes if cqe.entered is not None)
    reaped = Counter(cqe.cq for cqe in picture.cqes if cqe.end is not None)
    lost = Counter(cqe.cq for cqe in picture.cqes if cqe.fate == "dropped")
    runs = Counter(run.program for run in picture.runs)
    parts = [
        f"{lane.name}: {posted[lane.cq]} posted, {reaped[lane.cq]} reaped, {lost[lane.cq]} lost"
        for lane in picture.lanes
        if lane.kind == "cq"
    ]
    parts += (f"{name}: {count(number, 'run')}" for name, number in runs.items())
    listed = "".join(f"<li>{text_of(part)}</li>" for part in parts)
    return f'<details class="counts"><summary>In numbers</summary><ul>{listed}</ul></details>'


def _main() -> str:
    buttons = "".join(
        f'<button data-go="{go}" title="{title}" aria-label="{title}">{text}</button>'
        for go, text, title in _GO
    )
    legend = "".join(
        f'<li><span class="key {name}" aria-hidden="true"></span>{text}</li>'
        for name, text in _LEGEND
    )
    return (
        '<main><div class="bar" role="toolbar" aria-label="timeline">'
        f"{buttons}"
        '<button data-go="axis" title="one column an event, or true to time (t)"></button>'
        '<label class="check"><input type="checkbox" id="arrows"> arrows</label>'
        '<label class="find">find <input id="find" type="search" '
        'placeholder="request 3, writer, EINVAL …" autocomplete="off"></label>'
        '<span class="where" id="where" role="status"></span></div>'
        f'<ul class="legend">{legend}</ul>'
        '<div class="view" id="view" tabindex="0" role="application" '
        'aria-label="timeline: j and k go through its items, plus and minus zoom" '
        'aria-describedby="keys"><div class="room" id="room">'
        '<canvas id="picture" aria-hidden="true"></canvas></div></div>'
        '<section class="details" id="details" aria-live="polite" aria-label="details">'
        '<p class="soft">Click something, or press j.</p></section>'
        "<noscript><p>The picture needs scripts; the lists above do not.</p></noscript></main>"
    )


_FOOTER = (
    '<span id="keys">Keys: <kbd>+</kbd> <kbd>-</kbd> zoom, <kbd>←</kbd> <kbd>→</kbd> <kbd>↑</kbd> '
    "<kbd>↓</kbd> move, <kbd>0</kbd> everything, <kbd>j</kbd> <kbd>k</kbd> next and previous item, "
    "<kbd>[</kbd> <kbd>]</kbd> cause and effect, <kbd>z</kbd> zoom to it, <kbd>t</kbd> events or "
    "time, <kbd>a</kbd> arrows, <kbd>/</kbd> find, <kbd>Esc</kbd> nothing selected. Wheel zooms, "
    "drag moves.</span> Made by pybpfvm; this file needs nothing else."
)


# What the script draws.


class _Data:
    """Items as rows of numbers."""

    def __init__(self, picture: Timeline, name_addr: AddressNamer, source: SourceOf) -> None:
        self._picture = picture
        self._name = name_addr
        self._source = source
        self._texts: dict[str, int] = {"": 0}
        self._names: dict[int, int] = {}
        self._lines: dict[tuple[str, int], int] = {}
        ats = sorted(set(_places(picture)))
        self._places = {at: index for index, at in enumerate(ats)}
        self._ats = ats

    def document(self) -> dict[str, object]:
        """Everything, JSON-able."""
        picture = self._picture
        programs = {run.id: run.program for run in picture.runs}
        rows = {
            "requests": [self._request(one) for one in picture.requests],
            "runs": [self._run(one) for one in picture.runs],
            "calls": [self._call(one, programs.get(one.run or 0, "")) for one in picture.calls],
            "parks": [
                [
                    one.id,
                    one.request,
                    self._text(one.program),
                    self._place(one.begin),
                    self._place(one.end),
                    one.cq,
                    one.wanted,
                    one.held,
                    one.woken_by or 0,
                ]
                for one in picture.parks
            ],
            "hosts": [
                [
                    one.id,
                    self._place(one.begin),
                    self._place(one.end),
                    one.cq,
                    one.wanted,
                    one.held,
                    int(one.late),
                ]
                for one in picture.host_waits
            ],
            "cqes": [
                [
                    one.id,
                    one.cq,
                    self._place(one.begin),
                    self._place(one.entered),
                    self._place(one.end),
                    one.held,
                    one.left,
                    self._named(one.user_data),
                    self._text(result(one.res)),
                    self._text(_flags(one.flags, _CQE_FLAGS)),
                    _FATES.index(one.fate),
                    self._text(one.origin),
                    -1 if one.request is None else one.request,
                    one.source or 0,
                    self._text(one.reaper),
                ]
                for one in picture.cqes
            ],
            "marks": [
                [
                    one.id,
                    self._place(one.at),
                    self._text(one.kind),
                    self._text(one.text),
                    -1 if one.request is None else one.request,
                    -1 if one.cq is None else one.cq,
                ]
                for one in picture.marks
            ],
        }
        kinds = sorted({arrow.kind for arrow in picture.arrows})
        arrows = [
            [kinds.index(arrow.kind), self._places[arrow.at], arrow.source, arrow.target]
            for arrow in picture.arrows
        ]
        steps, times = _differences(self._ats)
        gap = picture.gap
        return {
            "virtual": picture.setting.virtual,
            "steps": steps,
            "times": times,
            "end": self._places[picture.end],
            "gap": None if gap is None else [self._places[gap[0]], self._places[gap[1]]],
            "sizes": picture.setting.cq_entries,
            "lanes": [[lane.kind, self._text(lane.name), lane.cq] for lane in picture.lanes],
            "arrowKinds": kinds,
            "arrows": arrows,
            **rows,
            "texts": list(self._texts),
        }

    def _text(self, text: str) -> int:
        return self._texts.setdefault(printable(text), len(self._texts))

    def _named(self, word: int) -> int:
        if word not in self._names:
            self._names[word] = self._text(self._name(word))
        return self._names[word]

    def _place(self, at: At | None) -> int:
        return -1 if at is None else self._places[at]

    def _line(self, program: str, pc: int) -> int:
        """`file.c:12: code`, by program and pc."""
        key = program, pc
        if key not in self._lines:
            line = self._source(program, pc) if program and pc >= 0 else None
            text = "" if line is None else f"{file_of(line)}:{line.line}: {line.text.strip()}"
            self._lines[key] = self._text(text)
        return self._lines[key]

    def _request(self, one: Request) -> list[int]:
        opcode = self._picture.setting.opcodes.get(one.opcode, f"opcode {one.opcode}")
        outcome = "" if one.end is None else result(one.res or 0)
        return [
            one.id,
            self._picture.rows[one.id],
            one.number,
            self._place(one.begin),
            self._place(one.started),
            self._place(one.end),
            self._text(opcode),
            self._text(one.origin),
            one.by or 0,
            one.cq,
            self._named(one.user_data),
            self._text(_flags(one.flags, _SQE_FLAGS)),
            self._text(self._fields(one)),
            one.chain,
            one.behind,
            self._text(outcome),
            int(one.quiet),
            one.cqes,
            self._text(one.ring),
        ]

    def _fields(self, one: Request) -> str:
        """Fields of the SQE that say something; words that may be addresses are named."""
        if len(one.sqe) != SQE_BYTES:
            return ""
        sqe = Sqe.unpack(one.sqe)
        parts = []
        for name in ("ioprio", "fd", "off", "addr", "len", "op_flags", "buf_index", "personality"):
            value = getattr(sqe, name)
            if value != (-1 if name == "fd" else 0):
                text = self._name(value) if name in _ADDRESSES else str(value)
                parts.append(f"{name} {text}")
        if sqe.file_index:
            parts.append(f"file_index {sqe.file_index}")
        return ", ".join(parts)

    def _run(self, one: Run) -> list[int]:
        if one.fault:
            text = f"faulted at +{one.fault_pc} of {one.fault_program}: {one.fault}"
        elif one.result is None:
            text = ""
        else:
            text = f"returned {s32(one.result)}: "
            if one.wait_cq is None:
                text += "done"
            else:
                asked = f"{count(one.wait_nr, 'CQE')} on {self._picture.cq_name(one.wait_cq)}"
                text += f"run again after {asked}"
                if one.refused:
                    text = f"asks to wait for {asked}, but {one.refused}: -EINVAL"
        return [
            one.id,
            self._text(one.program),
            self._place(one.begin),
            self._place(one.end),
            one.request,
            one.number,
            one.slot,
            one.insns,
            self._text(text),
            int(bool(one.fault)),
            self._line(one.fault_program, one.fault_pc) if one.fault else 0,
        ]

    def _call(self, one: Call, program: str) -> list[int]:
        text = helper_call(one.helper, one.args, one.result, self._name)
        return [
            one.id,
            one.run or 0,
            self._places[one.at],
            self._text(text),
            self._line(program, one.pc),
        ]


def _places(picture: Timeline) -> Iterator[At]:
    yield picture.end
    yield from picture.gap or ()
    for item in picture.items():
        for name in ("at", "begin", "entered", "started", "end"):
            place = getattr(item, name, None)
            if place is not None:
                yield place
    yield from (arrow.at for arrow in picture.arrows)


def _differences(ats: list[At]) -> tuple[list[int], list[int]]:
    """Steps and times of places, each as what is added to the one before."""
    before = At(0, 0)
    steps, times = [], []
    for at in ats:
        steps.append(at.step - before.step)
        times.append(at.time_ns - before.time_ns)
        before = at
    return steps, times


def _flags(flags: int, names: tuple[str, ...]) -> str:
    """Names of the bits, and what is left as a number."""
    parts = [name for bit, name in enumerate(names) if flags >> bit & 1]
    rest = flags >> len(names) << len(names)
    if rest:
        parts.append(f"{rest:#x}")
    return " | ".join(parts)
