"""What is in a recording, without what is in its runs: found in one pass over the file; or, where
it has states, from these, its beginning and its end, and of the rest when someone looks at it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any, overload

from pybpfvm.errors import InputError
from pybpfvm.events import CqePosted, CqeReaped, RunStarted
from pybpfvm.trace.format import SET_UP, Record, TraceFile
from pybpfvm.trace.records import (
    Ask,
    Kind,
    check_event,
    event_number,
    field_of,
    items,
    kind_of,
    made_event,
)
from pybpfvm.trace.standing import STATE_TYPES, Rings, State
from pybpfvm.uring_backend.abi import SQE_BYTES

Place = tuple[int, int]  # a chunk, and the number of a record in it


@dataclass(slots=True)
class RunEntry:
    """A run, by what was recorded of it.

    `ring` is the number of the ring (0: none), `request` that of the request (0: a ring's loop),
    `first_insn` how many instructions were executed before it, `insns` by it. The times are the
    ring's clock in ns, 0 outside rings. `how` is None where it returned `r0`; else what ended it:
    ("trap" or "left", kind, program, pc, in words). `whole`: the recording has its end.
    """

    number: int
    program: str
    engine: int
    ring: int
    ctx_addr: int
    packet: tuple[int, int] | None
    budget_insns: int
    first_insn: int
    since: Place  # the first record after the run before
    start: Place  # its RUN
    request: int = 0
    started_ns: int = 0
    r0: int = 0
    insns: int = 0
    how: tuple[str, str, str, int, str] | None = None
    digest: tuple[int, Sequence[Sequence[int]], Sequence[Any]] | None = None
    whole: bool = False
    handed: int | None = None  # see Handed; None where the recording does not say
    registers: int | None = None  # the same
    prints: int = 0  # how often it printed
    queues: tuple[str, str] | None = None  # where events and the ring's counters differ: both


@dataclass(slots=True)
class EngineEntry:
    """An engine: the number of its object and ring, what it runs outside rings, where its memory
    begins, and its environment."""

    number: int
    obj: int
    ring: int
    program: str
    place: Place
    cpu: int
    strict_ctx: bool
    may_goto_turns: int | None
    loop: int | None


@dataclass(slots=True)
class Index:
    """All of a recording. `closed`: it has its last record; `recorded_ns` is how long it took."""

    header: Mapping[str, Any] = field(default_factory=dict)
    objects: list[Mapping[str, Any]] = field(default_factory=list)
    engines: dict[int, EngineEntry] = field(default_factory=dict)
    rings: list[Mapping[str, Any]] = field(default_factory=list)
    runs: Sequence[RunEntry] = ()
    states: dict[int, Place] = field(default_factory=dict)  # by the run that comes next
    followed: set[int] = field(default_factory=set)
    events: int = 0
    completions: int = 0
    insns: int = 0
    digests: int = 0
    closed: bool = False
    recorded_ns: int = 0
    end: Place = (0, 0)  # behind the last record
    segments: list[Segment] = field(default_factory=lambda: [Segment(0, 0, 0)])

    def run_at(self, insn: int) -> int:
        """The last run that begins when so many instructions were executed, or less; -1: none."""
        at = bisect_right(self.segments, insn, key=lambda one: one.first_insn) - 1
        first = self.segments[at].first_run
        behind = [one.first_run for one in self.segments[at + 1 : at + 2]]
        upto = min(*behind, len(self.runs)) if behind else len(self.runs)
        return bisect_right(self.runs, insn, first, upto, key=lambda entry: entry.first_insn) - 1


@dataclass(frozen=True, slots=True)
class Segment:
    """The runs from one state to the next: the number of the first, the instructions before it,
    and the chunk that it begins with."""

    first_run: int
    first_insn: int
    chunk: int


def read_index(
    file: TraceFile,
    progress: Callable[[int, int], None] | None = None,
    *,
    lazily: bool = False,
) -> Index:
    """The index of a file. A record that is none ends it, as damage does. `progress` is told
    (chunks read, all of them). `lazily`: where the recording has states, runs are read when they
    are looked at, and what is wrong with one of their records is an InputError then; checksums are
    looked at now. Raises InputError where not even the beginning can be read."""
    if lazily:
        file.check()
        segments = _segments(file)
        if len(segments) > 1:
            return _between_states(file, segments)
    return _read_all(file, progress)


def _read_all(file: TraceFile, progress: Callable[[int, int], None] | None) -> Index:
    found = Index()
    reader = _Reader(found, rings=Rings())
    _read_on(file, reader, 0, progress)
    return found


def _read_on(
    file: TraceFile,
    reader: _Reader,
    chunk: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Read all chunks from one on."""
    found = reader.index
    while records := file.records(chunk):
        try:
            reader.read_chunk(chunk, records)
        except (InputError, TypeError, ValueError, LookupError, OverflowError) as error:
            reason = error.reason if isinstance(error, InputError) else str(error)
            if not found.header:
                raise InputError(reason, where=file.path, remedy="record again") from None
            file.damage = InputError(
                f"chunk {chunk}, record {reader.number}: {reason}",
                where=file.path,
                remedy="what is before it can be used; record again for the rest",
            )
            if reader.number:
                found.end = chunk, reader.number
            break
        chunk += 1
        found.end = chunk - 1, len(records)
        if progress is not None:
            progress(chunk, len(file.chunks))
    if not found.header:
        raise file.damage or InputError(
            "the recording is empty", where=file.path, remedy="record again"
        )
    if not found.closed and file.damage is None:
        file.damage = InputError(
            "the recording has no end: whoever made it was stopped",
            where=file.path,
            remedy="what is there can be used",
        )


def _segments(file: TraceFile) -> list[Segment]:
    """One for each state, and one before; only that where states contradict one another, or count
    more runs than have room in the file."""
    found = [Segment(0, 0, 0)]
    try:
        for chunk in range(1, len(file.chunks)):
            if file.begins_with(chunk) == Kind.STATE:
                record = items(file.records(chunk)[0], *STATE_TYPES)
                found.append(Segment(record[1], record[2], chunk))
    except (InputError, LookupError):
        return found[:1]
    for one, behind in pairwise(found):
        size = sum(unpacked for _, _, unpacked in file.chunks[one.chunk : behind.chunk])
        runs = behind.first_run - one.first_run
        if not 0 < runs <= size // _LEAST_RUN_BYTES or behind.first_insn < one.first_insn:
            return found[:1]
    return found


def _between_states(file: TraceFile, segments: Sequence[Segment]) -> Index:
    """The index of a file with states. What sets something up is read, what is before the first
    state, and what is behind the last one."""
    last = segments[-1]
    index = Index(segments=list(segments))
    index.states = {one.first_run: (one.chunk, 0) for one in segments[1:]}
    reader = _Reader(index)
    try:
        for chunk in range(last.chunk):
            if file.begins_with(chunk) in SET_UP:
                for record in file.records(chunk):
                    if record[0] in SET_UP:
                        reader.read(record)
        index.runs = runs = _Runs(file, index)
        for number in (0, last.first_run - 1):  # the counts in the last state are what is there
            runs[number]
        for one in segments[1:]:
            index.followed |= State.of(file.records(one.chunk)[0]).followed()
    except (InputError, TypeError, ValueError, LookupError, OverflowError):
        return _read_all(file, None)
    reader = _Reader(index, file.records(last.chunk)[0])
    _read_on(file, reader, last.chunk)
    runs.ends_with(reader.runs)
    return index


class _Runs(Sequence[RunEntry]):
    """The runs of a file with states, read by segments."""

    def __init__(self, file: TraceFile, index: Index) -> None:
        self._file = file
        self._index = index
        self._firsts = [one.first_run for one in index.segments]
        self._count = self._firsts[-1]
        self._last: list[RunEntry] = []
        self._read: dict[int, list[RunEntry]] = {}

    def ends_with(self, runs: list[RunEntry]) -> None:
        """These are those of the last segment."""
        self._last = runs
        self._count = self._firsts[-1] + len(runs)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> RunEntry: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[RunEntry]: ...
    def __getitem__(self, at: int | slice) -> RunEntry | Sequence[RunEntry]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(self._count))]
        number = at + self._count if at < 0 else at
        if not 0 <= number < self._count:
            raise IndexError(at)
        segment = bisect_right(self._firsts, number) - 1
        return self._segment(segment)[number - self._firsts[segment]]

    def _segment(self, number: int) -> list[RunEntry]:
        if number == len(self._firsts) - 1:
            return self._last
        found = self._read.get(number)
        if found is None:
            while len(self._read) >= _MOST_SEGMENTS:
                del self._read[next(iter(self._read))]
            found = self._read[number] = self._read_segment(number)
        return found

    def _read_segment(self, number: int) -> list[RunEntry]:
        one, behind = self._index.segments[number : number + 2]
        if number:
            own = Index(header=self._index.header, engines=dict(self._index.engines))
            own.objects, own.rings = list(self._index.objects), list(self._index.rings)
            reader = _Reader(own, self._file.records(one.chunk)[0])
        else:
            reader = _Reader(Index())
        for chunk in range(one.chunk, behind.chunk):
            try:
                reader.read_chunk(chunk, self._file.records(chunk))
            except (InputError, TypeError, ValueError, LookupError, OverflowError) as error:
                reason = error.reason if isinstance(error, InputError) else str(error)
                raise self._wrong(f"chunk {chunk}, record {reader.number}: {reason}") from None
        own, counts = reader.index, self._file.records(behind.chunk)[0][1:5]
        now = (one.first_run + len(reader.runs), own.insns, own.events, own.digests)
        if now != counts:
            raise self._wrong(f"chunk {behind.chunk}: {_miscounted(counts, now)}")
        self._index.followed |= reader.index.followed
        return reader.runs

    def _wrong(self, reason: str) -> InputError:
        remedy = "replay it: what is before that can be used"
        return InputError(reason, where=self._file.path, remedy=remedy)


class FirstRuns(Sequence[RunEntry]):
    """So many of the runs."""

    def __init__(self, runs: Sequence[RunEntry], count: int) -> None:
        self._runs = runs
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> RunEntry: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[RunEntry]: ...
    def __getitem__(self, at: int | slice) -> RunEntry | Sequence[RunEntry]:
        if isinstance(at, slice):
            return [self._runs[one] for one in range(*at.indices(self._count))]
        return self._runs[range(self._count)[at]]


class _Reader:
    """Reads one chunk after the other into an index. `number` is that of the record, in its chunk,
    which is read or could not be; `runs` are those that were found. It begins at a state, or at the
    beginning of the recording; then it holds states to what `rings` come to, if they are given."""

    def __init__(
        self, index: Index, state: Record | None = None, rings: Rings | None = None
    ) -> None:
        self.number = 0
        self.index = self._index = index
        self.runs: list[RunEntry] = []
        self._since: Place = (0, 0)
        self._first_run = 0
        self._begins_at: Record | None = state
        self._rings = rings
        self._open: RunEntry | None = None
        self._started: tuple[int, int] | None = None  # request and time
        self._queues: defaultdict[int, Counter[tuple[int, str]]] = defaultdict(Counter)

        if state is None:
            index.runs = self.runs
            return
        _, self._first_run, index.insns, index.events, index.digests, queues, *_ = state
        for number, counted in enumerate(queues, 1):
            for cq, posted, reaped, dropped in counted or ():
                counts = {"posted": posted, "reaped": reaped, "dropped": dropped}
                self._queues[number].update({(cq, what): n for what, n in counts.items()})
                index.completions += posted

    def read_chunk(self, chunk: int, records: Sequence[Record]) -> None:
        """Raises InputError, TypeError, ValueError, LookupError, OverflowError for a record that is
        none."""
        index, rings = self._index, self._rings
        events = 0
        try:
            for self.number, record in enumerate(records):
                kind = record[0]
                # Nearly all records are of these four kinds.
                if kind == _EVENT and index.header:
                    _, ring, number, fields = items(record, int, int, tuple)
                    events += 1
                    check_event(number, fields)
                    if number in _COUNTED_EVENTS:
                        self._event(ring, number, fields)
                    if rings is not None:
                        rings[ring].apply(made_event(number, fields))
                elif kind == _ASKED and self._open is not None:
                    if changes := items(record, int, tuple, _ANSWER, tuple)[4]:
                        _changes(changes)
                    if record[1] == _LOG:
                        self._open.prints += 1
                elif kind == _RUN and index.header and not index.closed:
                    self._run((chunk, self.number), record)
                elif kind == _END and index.header and not index.closed:
                    self._end((chunk, self.number), record)
                elif kind == _STATE and index.header and not index.closed:
                    self._state((chunk, self.number), record)
                else:
                    self.read(record)
        finally:
            index.events += events

    def _state(self, place: Place, record: Record) -> None:
        counts = items(record, *STATE_TYPES)[1:5]
        index, runs = self._index, self._first_run + len(self.runs)
        if self._begins_at is not None:
            self._begins_at = None
            self._since = place[0], 0
            return
        now = (runs, index.insns, index.events, index.digests)
        if place[1] or self._open is not None or counts != now:
            raise InputError(_miscounted(counts, now))
        if self._rings is not None and State.of(record).rings != self._rings.packed():
            raise InputError("a state of rings that told something else")
        self._since = place
        index.states[runs] = place
        index.segments.append(Segment(runs, index.insns, place[0]))

    def read(self, record: Record) -> None:
        """Read a record that is not of a run. Raises as `read_chunk`."""
        index = self._index
        kind = kind_of(record)
        if (kind is Kind.HEADER) == bool(index.header) or index.closed:
            raise InputError(f"a record {kind.name} out of place")
        match kind:
            case Kind.HEADER:
                header = items(record, dict)[1]
                for name in ("base", "limit_bytes"):
                    if not isinstance(header.get(name), int):
                        raise InputError(f"a header without {name}")
                index.header = header
            case Kind.LOAD:
                index.objects.append(items(record, dict)[1])
            case Kind.RING:
                options = items(record, int, dict)[2]
                if not isinstance(options.get("name", ""), str):
                    raise InputError(f"a ring called {options['name']!r:.60}")
                index.rings.append(options)
                if self._rings is not None:
                    self._rings.made(record)
            case Kind.ENGINE:
                self._engine(record)
            case Kind.CAME:
                items(record, int, int, int, str, bool, bool)
                if record[6]:
                    index.followed.add(record[1])
            case Kind.WENT:
                items(record, int)
            case Kind.HANDLE:
                items(record, int, int, str, str, int)
            case Kind.MAP:
                items(record, int, str, int, bytes, bytes, tuple)
                _pair(record[6])
            case Kind.READ:
                items(record, int, bytes)
                self._need_run()
            case Kind.SQES:
                for one in items(record, int, int, int, int, tuple)[5]:
                    if not isinstance(one, bytes) or len(one) not in (0, SQE_BYTES):
                        raise InputError(f"an SQE {one!r:.60}")
                if self._rings is not None:
                    self._rings.queued(record)
            case Kind.CLOSED:
                _, _, _, index.recorded_ns = items(record, int, int, int)
                index.closed = True
            case _:
                raise InputError(f"a record {kind.name} out of place")

    def _need_run(self) -> None:
        if self._open is None:
            raise InputError("what a program asks for, and no run")

    def _engine(self, record: Record) -> None:
        items(record, int, int, int, str, tuple, int, bool, _INT_OR_NONE, _INT_OR_NONE)
        entry = EngineEntry(*record[1:])
        _pair(entry.place)
        if not 0 <= entry.obj < len(self._index.objects) or entry.cpu < 0:
            raise InputError(f"engine {entry.number} of object {entry.obj}")
        self._index.engines[entry.number] = entry

    def _run(self, place: Place, record: Record) -> None:
        items(record, int, str, int, (tuple, type(None)), int, tuple, tuple)
        _, engine, program, ctx_addr, packet, budget, at, changes = record
        index = self._index
        if engine not in index.engines or self._open is not None:
            raise InputError(f"a run of engine {engine}")
        _pair(at)
        _changes(changes)
        if packet is not None:
            _pair(packet)
        ring = index.engines[engine].ring
        entry = RunEntry(
            self._first_run + len(self.runs), program, engine, ring, ctx_addr, packet, budget,
            index.insns, self._since, place,
        )  # fmt: skip
        if self._started is not None:
            entry.request, entry.started_ns = self._started
            self._started = None
        self.runs.append(entry)
        self._open = entry

    def _end(self, place: Place, record: Record) -> None:
        handed = (int, _INT_OR_NONE)[: max(len(record) - _END_ITEMS, 0)]
        items(record, int, int, (tuple, type(None)), (tuple, type(None)), *handed)
        self._need_run()
        entry = self._open
        assert entry is not None
        _, entry.r0, entry.insns, how, found, *more = record
        entry.handed, entry.registers, *_ = *more, None, None
        if how is not None:
            if [type(one) for one in how] != [str, str, str, int, str]:
                raise InputError(f"a run that ended by {how!r:.60}")
            entry.how = how
        if found is not None:
            memory, maps, queues = found
            if not all(isinstance(one, int) for one in (memory, *chain(*maps))):
                raise InputError(f"a digest {found!r:.60}")
            entry.digest = memory, maps, queues
            entry.queues = self._compared(queues)
            self._index.digests += 1
        entry.whole = True
        self._index.insns += entry.insns
        self._open = None
        self._since = place[0], place[1] + 1

    def _event(self, ring: int, number: int, fields: tuple[Any, ...]) -> None:
        if number == _POSTED:
            fate = fields[_POSTED_FATE]
            self._queues[ring][fields[_POSTED_CQ], fate] += 1
            self._index.completions += fate == "posted"
        elif number == _REAPED:
            self._queues[ring][fields[_REAPED_CQ], "reaped"] += 1
        elif number == _STARTED:
            self._started = fields[_STARTED_REQUEST], fields[0]

    def _compared(self, queues: Sequence[Any]) -> tuple[str, str] | None:
        """What the rings counted and what their events come to, where these differ."""
        for number, counted in enumerate(queues, 1):
            events = self._queues[number]
            for cq, posted, reaped, dropped in counted or ():
                told = events[cq, "posted"], events[cq, "reaped"], events[cq, "dropped"]
                if told != (posted, reaped, dropped):
                    where = f"ring {number}, CQ {cq}: (posted, reaped, dropped)"
                    return f"{where} {(posted, reaped, dropped)}", str(told)
        return None


_END_ITEMS = 5  # of version 1; 2 has one more, 3 two
# Plain numbers: an enumeration costs more to look at than the record.
_EVENT, _ASKED, _RUN, _END, _STATE = map(
    int, (Kind.EVENT, Kind.ASKED, Kind.RUN, Kind.END, Kind.STATE)
)
_MOST_SEGMENTS = 8  # whose runs are kept
_LEAST_RUN_BYTES = 15  # of its RUN and its END: a byte for each of their items, and one for each
_LOG = int(Ask.LOG)
_INT_OR_NONE = (int, type(None))
_ANSWER = (int, bytes, tuple, type(None))
# Events are told apart by their numbers: making them of all would take most of the time.
_POSTED, _REAPED = event_number(CqePosted), event_number(CqeReaped)
_STARTED = event_number(RunStarted)
_COUNTED_EVENTS = {_POSTED, _REAPED, _STARTED}
_POSTED_CQ, _POSTED_FATE = field_of(CqePosted, "cq"), field_of(CqePosted, "fate")
_REAPED_CQ, _STARTED_REQUEST = field_of(CqeReaped, "cq"), field_of(RunStarted, "request")


def _miscounted(counts: Sequence[int], now: Sequence[int]) -> str:
    return f"a state of {counts} runs, instructions, events, digests after {now}"


def _pair(value: Any) -> None:
    if len(value) != 2 or not isinstance(value[0], int) or not isinstance(value[1], int):
        raise InputError(f"{value!r:.60}, where two numbers stand")


def _changes(changes: tuple[Any, ...]) -> None:
    for one in changes:
        if (
            not isinstance(one, tuple)
            or len(one) != 2
            or not isinstance(one[0], int)
            or not isinstance(one[1], bytes)
        ):
            raise InputError(f"{one!r:.60}, where an address and bytes stand")
