"""The event stream made into a timeline, within a budget."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from heapq import heappop, heappush
from typing import TypeVar

from pybpfvm.errors import InternalError
from pybpfvm.events import (
    CqePosted,
    CqeReaped,
    Event,
    HelperCalled,
    HostWaits,
    HostWoke,
    Noted,
    OfRing,
    Parked,
    RequestEnded,
    RequestStarted,
    RunEnded,
    RunFaulted,
    RunStarted,
    SqeIssued,
    Woken,
)
from pybpfvm.report.timeline import (
    USER,
    Arrow,
    At,
    Budget,
    Call,
    Cqe,
    HostWait,
    Item,
    Lane,
    Mark,
    Park,
    Request,
    Run,
    Setting,
    Timeline,
    Waiting,
    begin_of,
)

_One = TypeVar("_One", bound=Item)


def timeline(
    events: Iterable[Event],
    setting: Setting | None = None,
    *,
    start_ns: int = 0,
    budget: Budget | None = None,
) -> Timeline:
    """The picture of a whole stream of events."""
    builder = TimelineBuilder(budget)
    for event in events:
        builder(event)
    return builder.finish(setting or Setting(), start_ns=start_ns)


class TimelineBuilder:
    """An observer that keeps what a timeline will show, within its budget.

    `rings`: how many CQs the rings have, by name, where there are several.
    """

    def __init__(
        self, budget: Budget | None = None, rings: Mapping[str, int] | None = None
    ) -> None:
        cqs = [(ring, cq) for ring, count in (rings or {}).items() for cq in range(count)]
        self._flat = {one: number for number, one in enumerate(cqs)}
        self._ring = ""
        self._budget = budget or Budget()
        self._kept: dict[int, Item] = {}  # by id; those of the middle are taken out again
        self._left_out: Counter[str] = Counter()
        self._gap: tuple[At, At] | None = None
        self._steps = 0
        self._next_id = 0
        self._now = At(0, 0)
        self._live: dict[int, int] = {}  # request -> id
        self._ended: tuple[int, int] = (0, 0)  # the request that ended last, with its id
        self._chains: dict[int, int] = {}  # chain -> its newest request, until that ends
        self._followers: dict[int, int] = {}  # request -> the one behind it in its chain
        self._parked: dict[int, int] = {}
        self._run: int | None = None
        self._host_wait: int | None = None
        self._held: dict[int, deque[tuple[int, int, int]]] = {}  # cq -> (id, user_data, res)
        self._backlog: dict[int, deque[int]] = {}  # by CQ: of each ring, the first has one
        self._newest: dict[int, int] = {}  # cq -> the CQE that entered it last
        self._programs: dict[str, None] = {}
        self._cqs: set[int] = {0}

    def __call__(self, event: Event) -> None:
        # Clocks of several processors may disagree by a little: a picture's time never goes back.
        at = self._now = At(self._steps, max(event.time_ns, self._now.time_ns))
        self._steps += 1
        self._ring = ""
        if isinstance(event, OfRing):
            self._ring = event.ring
            event = self._numbered(event.ring, event.event)
        match event:
            case OfRing():
                raise InternalError("a ring in a ring")
            case SqeIssued():
                self._issue(event, at)
            case RequestStarted():
                self._start(event.request, at)
            case RequestEnded():
                self._end(event, at)
            case RunStarted():
                number, program = event.request, event.program
                self._programs[program] = None
                run = Run(self._id(), program, at, number, event.run, event.slot)
                self._run = self._keep(run)
            case HelperCalled():
                call = Call(
                    self._id(), at, self._run, event.helper, event.pc, event.args, event.result
                )
                self._keep(call)
            case RunEnded():
                self._end_run(event, at)
            case RunFaulted():
                if (one := self._get(self._run, Run)) is not None:
                    self._kept[one.id] = replace(
                        one,
                        end=at,
                        insns=event.insns,
                        fault=event.reason,
                        fault_program=event.program,
                        fault_pc=event.pc,
                    )
                self._run = None
            case CqePosted():
                self._post(event, at)
            case CqeReaped():
                self._reap(event, at)
            case Parked():
                park = Park(self._id(), event.request, event.program, at, event.cq, event.wanted)
                self._parked[event.request] = self._keep(park)
                self._cqs.add(event.cq)
            case Woken():
                if (one_ := self._get(self._parked.pop(event.request, None), Park)) is not None:
                    by = self._newest.get(event.cq)
                    self._kept[one_.id] = replace(one_, end=at, held=event.held, woken_by=by)
            case Noted(kind="requeue"):
                parked = self._parked.pop(event.request or 0, None)
                if (moved := self._get(parked, Park)) is not None:
                    self._kept[moved.id] = replace(moved, end=at)
            case HostWaits():
                wait = HostWait(self._id(), at, event.cq, event.wanted)
                self._host_wait = self._keep(wait)
            case HostWoke():
                if (wait_ := self._get(self._host_wait, HostWait)) is not None:
                    self._kept[wait_.id] = replace(wait_, end=at, held=event.held, late=event.late)
                self._host_wait = None
            case Noted():
                mark = Mark(self._id(), at, event.kind, event.text, event.request, event.cq)
                self._keep(mark)

    def _numbered(self, ring: str, event: Event) -> Event:
        """The event with CQs numbered one ring after the other."""

        def flat(cq: int) -> int:
            return self._flat.setdefault((ring, cq), len(self._flat))

        match event:
            case SqeIssued() | CqePosted() | CqeReaped() | Parked() | Woken():
                return replace(event, cq=flat(event.cq))
            case HostWaits() | HostWoke():
                return replace(event, cq=flat(event.cq))
            case RunEnded() if event.wait_cq is not None:
                return replace(event, wait_cq=flat(event.wait_cq))
            case Noted() if event.cq is not None:
                return replace(event, cq=flat(event.cq))
            case _:
                return event

    # --- keeping ----------------------------------------------------------------------------

    def _id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _keep(self, item: Item) -> int:
        head, tail = self._budget.head, self._budget.tail
        self._kept[item.id] = item
        if item.id > head + tail:
            gone = self._kept.pop(item.id - tail)
            self._left_out[_KINDS[type(gone)]] += 1
            begin = begin_of(gone)
            self._gap = (begin if self._gap is None else self._gap[0], begin)
        return item.id

    def _get(self, id_: int | None, kind: type[_One]) -> _One | None:
        """The item if it was kept."""
        item = None if id_ is None else self._kept.get(id_)
        return item if isinstance(item, kind) else None

    # --- requests ---------------------------------------------------------------------------

    def _issue(self, event: SqeIssued, at: At) -> None:
        before = self._chains.get(event.chain, 0) if event.chain else 0
        if event.chain:
            self._chains[event.chain] = event.request
        if before:
            self._followers[before] = event.request
        self._cqs.add(event.cq)
        request = Request(
            self._id(),
            event.request,
            at,
            event.opcode,
            event.user_data,
            event.cq,
            event.flags,
            event.origin,
            event.sqe,
            by=None if event.origin == USER else self._run,
            chain=event.chain,
            behind=before,
            ring=self._ring,
        )
        self._live[event.request] = self._keep(request)

    def _start(self, number: int, at: At) -> None:
        one = self._get(self._live.get(number), Request)
        if one is not None and one.started is None:
            self._kept[one.id] = replace(one, started=at)

    def _end(self, event: RequestEnded, at: At) -> None:
        id_ = self._live.pop(event.request, None)
        self._ended = (event.request, id_ or 0)
        one = self._get(id_, Request)
        if one is not None:
            self._kept[one.id] = replace(
                one, end=at, res=event.res, cqe_flags=event.flags, quiet=event.quiet
            )
            if self._chains.get(one.chain) == event.request:
                del self._chains[one.chain]
        follower = self._followers.pop(event.request, None)
        if follower is not None:
            self._start(follower, at)

    # --- runs -------------------------------------------------------------------------------

    def _end_run(self, event: RunEnded, at: At) -> None:
        if (one := self._get(self._run, Run)) is not None:
            self._kept[one.id] = replace(
                one,
                end=at,
                result=event.result,
                insns=event.insns,
                wait_cq=event.wait_cq,
                wait_nr=event.wait_nr,
                refused=event.refused,
            )
        self._run = None

    # --- CQEs -------------------------------------------------------------------------------

    def _post(self, event: CqePosted, at: At) -> None:
        cq = event.cq
        self._cqs.add(cq)
        backlog = self._backlog.setdefault(cq, deque())
        if event.fate == "posted" and backlog:
            # While there is a backlog, nothing enters CQ 0 but the oldest of it.
            one = self._get(id_ := backlog.popleft(), Cqe)
            held = self._enter(cq, id_, event)
            if one is not None:
                self._kept[id_] = replace(one, entered=at, held=held)
            return
        id_ = self._id()
        held, entered = 0, None
        if event.fate == "posted":
            held, entered = self._enter(cq, id_, event), at
        elif event.fate == "backlog":
            backlog.append(id_)
        source = self._run
        if event.request is not None:
            number, ended = self._ended
            source = self._live.get(event.request, ended if number == event.request else None)
            if (request := self._get(source, Request)) is not None:
                self._kept[request.id] = replace(request, cqes=request.cqes + 1)
        self._keep(
            Cqe(
                id_,
                cq,
                at,
                event.user_data,
                event.res,
                event.flags,
                event.fate,
                event.origin,
                event.request,
                source or None,
                entered,
                held,
            )
        )

    def _enter(self, cq: int, id_: int, event: CqePosted) -> int:
        """The CQE is in its queue; how many that holds."""
        queue = self._held.setdefault(cq, deque())
        queue.append((id_, event.user_data, event.res))
        self._newest[cq] = id_
        return len(queue)

    def _reap(self, event: CqeReaped, at: At) -> None:
        queue = self._held.setdefault(event.cq, deque())
        while queue:
            id_, user_data, res = queue.popleft()
            if (user_data, res) == (event.user_data, event.res):
                break
            # A host that moved the head itself took this one: nobody told when.
        else:
            return
        if (one := self._get(id_, Cqe)) is not None:
            to = None if event.by == USER else self._run
            self._kept[id_] = replace(one, end=at, left=len(queue), reaper=event.by, to=to)

    # --- the end ----------------------------------------------------------------------------

    def finish(self, setting: Setting, *, start_ns: int = 0) -> Timeline:
        """The timeline of what was seen. Times count from `start_ns`; what is earlier is at 0."""
        items = [_shifted(item, start_ns) for item in self._kept.values()] if start_ns else None
        items = list(self._kept.values()) if items is None else items
        end = _moved(At(max(self._steps - 1, 0), self._now.time_ns), start_ns)
        requests = _of(items, Request)
        cqs = max(len(setting.cq_entries), len(self._flat), max(self._cqs) + 1)
        names = {number: f"{ring} CQ {cq}" for (ring, cq), number in self._flat.items()}
        lanes = [Lane("host", "host")]
        lanes += (Lane("program", name) for name in self._programs)
        lanes += (Lane("cq", names.get(cq, f"CQ {cq}"), cq) for cq in range(cqs))
        lanes.append(Lane("requests", "requests"))
        gap = self._gap and (_moved(self._gap[0], start_ns), _moved(self._gap[1], start_ns))
        held = {cq: len(queue) for cq, queue in self._held.items()}
        drawn = Timeline(
            setting,
            self._steps,
            end,
            requests,
            _of(items, Run),
            _of(items, Call),
            _of(items, Park),
            _of(items, HostWait),
            _of(items, Cqe),
            _of(items, Mark),
            tuple(lanes),
            _rows(requests, end),
            tuple(_arrows(items)),
            (),
            dict(self._left_out),
            gap,
        )
        return replace(drawn, waiting=tuple(_waiting(items, held, drawn)))


_KINDS: Mapping[type[Item], str] = {
    Request: "requests",
    Run: "runs",
    Call: "helper calls",
    Park: "waits",
    HostWait: "waits",
    Cqe: "CQEs",
    Mark: "notes",
}


def _of(items: Iterable[Item], kind: type[_One]) -> tuple[_One, ...]:
    return tuple(item for item in items if isinstance(item, kind))


def _moved(at: At, start_ns: int) -> At:
    return At(at.step, max(at.time_ns - start_ns, 0))


def _shifted(item: Item, start_ns: int) -> Item:
    def moved(at: At | None) -> At | None:
        return None if at is None else _moved(at, start_ns)

    match item:
        case Call() | Mark():
            return replace(item, at=_moved(item.at, start_ns))
        case Request():
            return replace(
                item,
                begin=_moved(item.begin, start_ns),
                started=moved(item.started),
                end=moved(item.end),
            )
        case Cqe():
            return replace(
                item,
                begin=_moved(item.begin, start_ns),
                entered=moved(item.entered),
                end=moved(item.end),
            )
        case _:
            return replace(item, begin=_moved(item.begin, start_ns), end=moved(item.end))


def _rows(requests: Iterable[Request], end: At) -> dict[int, int]:
    """Each request in the first row that is free when it begins."""
    free: list[int] = []
    busy: list[tuple[int, int]] = []  # (last step, row)
    rows: dict[int, int] = {}
    count = 0
    for request in requests:
        while busy and busy[0][0] < request.begin.step:
            heappush(free, heappop(busy)[1])
        if free:
            row = heappop(free)
        else:
            row, count = count, count + 1
        rows[request.id] = row
        heappush(busy, ((request.end or At(end.step + 1, 0)).step, row))
    return rows


def _arrows(items: Iterable[Item]) -> Iterator[Arrow]:
    kept = {item.id: item for item in items}
    numbers = {item.number: item.id for item in kept.values() if isinstance(item, Request)}

    def led(kind: str, at: At | None, source: int | None, target: int) -> Iterator[Arrow]:
        if at is not None and source is not None and source in kept and target in kept:
            yield Arrow(kind, at, source, target)

    for item in kept.values():
        match item:
            case Request():
                yield from led("submits", item.begin, item.by, item.id)
                if item.behind:
                    yield from led("links", item.started, numbers.get(item.behind), item.id)
            case Cqe():
                kind = "emits" if item.request is None else "completes"
                yield from led(kind, item.begin, item.source, item.id)
                if item.to is not None:
                    yield from led("reaps", item.end, item.id, item.to)
            case Park():
                yield from led("wakes", item.end, item.woken_by, item.id)
            case _:
                pass


def _waiting(items: Iterable[Item], held: Mapping[int, int], drawn: Timeline) -> Iterator[Waiting]:
    """The host first, then parked requests, then those in flight."""
    setting = drawn.setting
    parked: set[int] = set()
    flight: list[Waiting] = []
    parks: list[Waiting] = []
    for item in items:
        match item:
            case HostWait(end=None):
                text = "until no request is in flight"
                if item.wanted:
                    text = _cqes_missing(item.wanted, item.cq, held, drawn)
                yield Waiting(item.id, "the host", f"waits {text}")
            case Park(end=None):
                parked.add(item.request)
                text = _cqes_missing(item.wanted, item.cq, held, drawn)
                who = f"request {item.request} ({item.program})"
                parks.append(Waiting(item.id, who, f"waits {text}"))
            case Request(end=None):
                name = setting.opcodes.get(item.opcode, f"opcode {item.opcode}")
                behind = item.behind and item.started is None
                text = f"waits for its turn behind request {item.behind}" if behind else ""
                flight.append(
                    Waiting(item.id, f"request {item.number} ({name})", text or "is in flight")
                )
            case _:
                pass
    yield from parks
    numbers = {one.id: one.number for one in items if isinstance(one, Request)}
    yield from (one for one in flight if numbers[one.id] not in parked)


def _cqes_missing(wanted: int, cq: int, held: Mapping[int, int], drawn: Timeline) -> str:
    many, name = "s" if wanted != 1 else "", drawn.cq_name(cq)
    text = f"for {wanted} CQE{many} on {name}, which holds {held.get(cq, 0)}"
    sizes = drawn.setting.cq_entries
    if cq < len(sizes) and wanted > sizes[cq]:
        text += f" and can never hold more than {sizes[cq]}"
    return text
