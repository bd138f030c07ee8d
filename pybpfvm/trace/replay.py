"""Running a recording again: on the same addresses, with the same answers, and held to doing the
same.

`Replay` is driven run by run. All that replaying changes is the address space, the maps, and
`cursor`: whoever has put the first two back to where they were before run k sets it to k.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from pybpfvm.engine import Engine, RunEnvironment, RunResult
from pybpfvm.errors import InputError, InternalError, Trap
from pybpfvm.events import Event, Observer
from pybpfvm.image import Image
from pybpfvm.maps.base import MapError
from pybpfvm.maps.ringbuf import RingbufMap
from pybpfvm.memory import AddressSpace, Region, RegionKind
from pybpfvm.objectfile import detect_abi
from pybpfvm.profiles import profile_named, with_helpers
from pybpfvm.program import Program
from pybpfvm.session.engines import make_engine
from pybpfvm.session.objects import LoadedObject, helpers_of
from pybpfvm.trace.answering import Answers, BrokenOff, Cut, Diverged, LoopAnswers, put
from pybpfvm.trace.digest import digest
from pybpfvm.trace.format import Record, TraceFile
from pybpfvm.trace.index import EngineEntry, Index, RunEntry, read_index
from pybpfvm.trace.objects import recorded_object
from pybpfvm.trace.records import KIND_OF_REGION, WORLD_KINDS, Ask, Kind, Op, event_of
from pybpfvm.trace.standing import State, differences, enter

__all__ = ["Divergence", "Prepared", "Replay", "Totals"]

_MAX_CPUS = 4096
_MOST_BYTES = 1 << 32  # what the windows of a machine can hold


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first step at which a replay is not what was recorded: run `run` (from 0) of `program`,
    `what` differs: `then` in the recording, `now` in the replay."""

    run: int
    program: str
    what: str
    then: str
    now: str

    def __str__(self) -> str:
        return f"run {self.run} of {self.program}: {self.what}: {self.then} then, {self.now} now"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that may begin: call `run`, or an engine with these and `environment`; then
    `Replay.finish`."""

    entry: RunEntry
    engine: Engine
    program: Program
    ctx_addr: int
    packet: Region | None
    budget_insns: int
    environment: RunEnvironment
    answers: Answers

    def run(self, engine: Engine) -> RunResult | Trap | BrokenOff | Cut | Diverged:
        """Run it whole on an engine, such as its own: how it ended."""
        self.answers.run_by(engine.kept_registers)
        try:
            return engine.run(
                self.program, self.ctx_addr, budget_insns=self.budget_insns, packet=self.packet
            )
        except (Trap, BrokenOff, Cut, Diverged) as stop:
            return stop


@dataclass(slots=True)
class Totals:
    """What was replayed."""

    runs: int = 0
    insns: int = 0
    digests: int = 0


class Replay:
    """A recording, and the machine that it is replayed on; a context manager.

    `engine` is what executes programs: "auto", "interp", "jit", as for rings. None is trusted, so
    all run with checks: a recording may come from anywhere. `observer` hears calls of helpers.
    `runs` are all runs, `index` is what else is known; `damage` says why a recording that is cut
    off, or damaged, ends early (None: it does not).

    Raises InputError for what can not be replayed: no recording, another version, addresses that
    are taken, an ABI that is not known here.

    `progress` is told (done, all) while the recording is opened, which has to read it once; but if
    it may be read `lazily`: see read_index.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        engine: str = "auto",
        observer: Observer | None = None,
        progress: Callable[[int, int], None] | None = None,
        lazily: bool = False,
    ) -> None:
        self.cursor = 0
        self.totals = Totals()
        self.objects: list[LoadedObject] = []
        self._engines: dict[int, Engine] = {}
        self._environments: dict[int, RunEnvironment] = {}
        self.stacks: dict[int, Sequence[Region]] = {}  # the frames of each engine, by its number
        self._time_ns = 0
        self._began = -1  # the run whose answers are at hand
        self._observer = observer
        self._choice = engine
        self.file = TraceFile(path)
        self.memory: AddressSpace | None = None
        try:
            self.index: Index = read_index(self.file, progress, lazily=lazily)
            self._build()
        except BaseException:
            self.close()
            raise

    @property
    def runs(self) -> Sequence[RunEntry]:
        """All runs, in order."""
        return self.index.runs

    @property
    def damage(self) -> InputError | None:
        """Why the recording ends early."""
        return self.file.damage

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give everything back; twice is fine."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()
        if self.memory is not None:
            self.memory.close()
        self.file.close()

    # --- the machine ------------------------------------------------------------------------

    def _build(self) -> None:
        header = self.index.header
        memory = AddressSpace(
            base=header["base"], limit_bytes=min(header["limit_bytes"], _MOST_BYTES)
        )
        self.memory = self._memory = memory
        self._answers = Answers(memory, self._apply)
        # Objects and engines are there from the beginning, each where it was: what a run finds of
        # memory depends on where things are, not on when they came.
        for number, record in enumerate(self.index.objects):
            try:
                self.objects.append(self._load(record))
            except (KeyError, TypeError, ValueError) as error:
                reason = f"object {number} can not be read: {error!r}"
                raise InputError(reason, where=self.file.path, remedy="record again") from None
            except InputError as error:
                raise error.inside(self.file.path) from None
        for entry in self.index.engines.values():
            try:
                self._make_engine(entry)
            except InputError as error:
                raise error.inside(self.file.path) from None

    def _load(self, record: Mapping[str, Any]) -> LoadedObject:
        memory = self._memory
        obj = recorded_object(record)
        profile = None
        if record["abi"] is not None:
            profile = profile_named(record["abi"])
            if record["helpers"]:
                profile = with_helpers(profile, record["helpers"])
        if not 1 <= record["cpus"] <= _MAX_CPUS:
            raise InputError(f"an object for {record['cpus']} CPUs")
        memory.place = record["place"]
        return LoadedObject(Image(obj, memory, cpus=record["cpus"]), profile, detect_abi(obj))

    def _make_engine(self, entry: EngineEntry) -> None:
        loaded = self.objects[entry.obj]
        profile = loaded[entry.program].profile if entry.program else loaded.profile
        answers = self._answers
        loop = None if entry.loop is None else LoopAnswers(answers, entry.loop)
        environment = RunEnvironment(
            profile=profile,
            strict_ctx=entry.strict_ctx,
            ring=answers if entry.ring and loop is None else None,
            loop=loop,
            now_ns=answers.now_ns,
            event_ns=lambda: self._time_ns,
            random_u32=answers.random_u32,
            user=answers.user,
            cpu=entry.cpu,
            log=answers.log,
            observer=self._observer,
            may_goto_turns=entry.may_goto_turns,
        )
        self._memory.place = entry.place
        self._environments[entry.number] = environment
        before = {one.start for one in self._memory.regions()}
        self._engines[entry.number] = make_engine(
            self._choice, loaded.image, helpers_of(profile), environment
        )
        self.stacks[entry.number] = [
            one
            for one in self._memory.regions()
            if one.kind is RegionKind.STACK and one.start not in before
        ]

    # --- run by run -------------------------------------------------------------------------

    def prepare(self, number: int) -> Prepared:
        """Bring memory and maps to where they were when run `number` began, which is the next:
        `cursor`. Raises InputError for a recording that contradicts itself."""
        if number != self.cursor:
            raise InternalError(f"run {number} is prepared where {self.cursor} comes next")
        entry = self.runs[number]
        with _told(self.file.path, number):
            for record in self._between(entry):
                self._apply(record)
            run = self.file.records(entry.start[0])[entry.start[1]]
            inside = list(self._inside(entry))
            self._memory.place = run[6]
            for addr, data in run[7]:
                put(self._memory, addr, data)
            for record in inside:  # compiled code knows them from the start
                if record[0] == Kind.HANDLE:
                    self._apply(record)
            left = entry.how is not None and entry.how[0] == "left"
            self._answers.begin(inside, whole=entry.whole and not left)
            self._began = number
            engine = self._engines[entry.engine]
            program = engine.image.programs.get(entry.program)
            if program is None:
                raise InputError(f"there is no program {entry.program}")
            packet = None
            if entry.packet is not None:
                found = self._memory.region_at(entry.packet[0])
                if found is None or not 0 <= entry.packet[1] <= found.size:
                    raise InputError("the packet is not there")
                packet = replace(found, size=entry.packet[1])
        self._time_ns = entry.started_ns
        return Prepared(
            entry,
            engine,
            program,
            entry.ctx_addr,
            packet,
            entry.budget_insns,
            self._environments[entry.engine],
            self._answers,
        )

    def finish(
        self, number: int, ended: RunResult | Trap | BrokenOff | Cut | Diverged
    ) -> Divergence | None:
        """Compare how run `number` ended with how it did then, and memory and maps where there is
        a digest; the next run is the next."""
        entry = self.runs[number]
        try:
            with _told(self.file.path, number):
                self._finish(entry, ended)
                if number + 1 in self.index.states:
                    self._compare_state(self._state(number + 1))
        except Diverged as found:
            return Divergence(number, entry.program, found.what, found.then, found.now)
        self.cursor = number + 1
        self.totals.runs += 1
        self.totals.insns += entry.insns
        return None

    def _finish(
        self, entry: RunEntry, ended: RunResult | Trap | BrokenOff | Cut | Diverged
    ) -> None:
        if isinstance(ended, Diverged):
            raise ended
        if not entry.whole or (entry.how is not None and entry.how[0] == "left"):
            self._answers.leave()
            return
        self._answers.end()
        handed = self._answers.handed
        if handed is not None and entry.handed is not None and handed.crc != entry.handed:
            what = "the checksum of what it read and wrote of user memory"
            raise Diverged(what, f"{entry.handed:08x}", f"{handed.crc:08x}")
        ours, theirs = handed and handed.registers, entry.registers
        if ours is not None and theirs is not None and ours != theirs:
            raise Diverged("the checksum of r6 to r9 where it asks", f"{theirs:04x}", f"{ours:04x}")
        then, now = _end_then(entry), _end_now(ended)
        if then != now:
            raise Diverged("how the run ends", then, now)
        if entry.queues is not None:
            raise Diverged("the queues of rings", *entry.queues)
        if entry.digest is not None:
            self._compare(entry)

    def _state(self, number: int) -> State:
        chunk, index = self.index.states[number]
        return State.of(self.file.records(chunk)[index])

    def rings_at(self, number: int) -> Mapping[int, Any]:
        """The rings by number, as RingState.become takes them, where the recording has a state."""
        return self._state(number).rings

    def _compare_state(self, state: State) -> None:
        images = [loaded.image for loaded in self.objects]
        for what, then, now in differences(self._memory, images, state):
            raise Diverged(what, then, now)

    def enter(self, number: int) -> None:
        """Have memory and maps where the recording says that they were before run `number` was
        prepared, which `index.states` has; they have to be as they were in the beginning. Raises
        InputError where that can not be; then they are somewhere between."""
        with _told(self.file.path, number):
            state = self._state(number)
            for handle in state.handles:
                self._name(*handle)
            enter(self._memory, [loaded.image for loaded in self.objects], state)
        self.cursor = number

    def _compare(self, entry: RunEntry) -> None:
        assert entry.digest is not None
        memory, maps, _ = entry.digest
        followed = [
            self._memory.view(region)
            for region in self._memory.regions()
            if region.start in self.index.followed
        ]
        images = [loaded.image for loaded in self.objects[: len(maps)]]
        now = digest(followed, images)
        self.totals.digests += 1
        if now.memory != memory:
            raise Diverged("the digest of memory", f"{memory:08x}", f"{now.memory:08x}")
        for image, theirs, ours in zip(images, maps, now.maps, strict=True):
            names = tuple(image.maps)
            if len(theirs) != len(ours):
                raise InputError(f"{len(theirs)} digests for {len(ours)} maps")
            for name, one, other in zip(names, theirs, ours, strict=True):
                if one != other:
                    raise Diverged(f"the digest of map {name}", f"{one:08x}", f"{other:08x}")

    def again(self, number: int, answered: int = 0) -> RunEnvironment:
        """The environment of run `number`, which was prepared before, for running it again in the
        memory and maps of then; so many of its answers have been given."""
        entry = self.runs[number]
        self.cursor = number
        self._time_ns = entry.started_ns
        if self._began != number:
            left = entry.how is not None and entry.how[0] == "left"
            self._answers.begin(list(self._inside(entry)), whole=entry.whole and not left)
            self._began = number
        self._answers.go_on(answered)
        return self._environments[entry.engine]

    @property
    def answered(self) -> int:
        """How many of the records within the run have been used so far: for `again`."""
        return self._answers.answered

    @property
    def told(self) -> int:
        """How many of them stand before the end of the last answer that the run was given: what
        rings told by now is among these."""
        return self._answers.told

    def step(self) -> Divergence | None:
        """Replay the next run. Raises IndexError after the last."""
        number = self.cursor
        prepared = self.prepare(number)
        with _told(self.file.path, number):
            ended = prepared.run(prepared.engine)
        return self.finish(number, ended)

    def rest(self, after_each: Callable[[int], None] | None = None) -> Divergence | None:
        """Replay all runs that are left, up to the first divergence. `after_each` is told the
        instructions of each run when it has ended."""
        while self.cursor < len(self.runs):
            found = self.step()
            if found is not None:
                return found
            if after_each is not None:
                after_each(self.runs[self.cursor - 1].insns)
        return None

    # --- records ----------------------------------------------------------------------------

    def prints(self, number: int) -> Iterator[tuple[int, str]]:
        """What run `number` printed: (which of the records within it that is, the text)."""
        for place, record in enumerate(self.inside(number)):
            if record[0] == Kind.ASKED and record[1] == Ask.LOG:
                yield place, str(record[2][0]) if record[2] else ""

    def events_before(self, number: int) -> Iterator[Event]:
        """What rings told between run `number` and the one before."""
        return _events(self.between(number))

    def events_in(self, number: int) -> Iterator[Event]:
        """What rings told during run `number`."""
        return _events(self.inside(number))

    def events_after(self) -> Iterator[Event]:
        """What rings told after the last run."""
        return _events(self.after_all())

    def between(self, number: int) -> Iterator[Record]:
        """The records between run `number` and the one before."""
        return self._between(self.runs[number])

    def inside(self, number: int) -> Iterator[Record]:
        """The records within run `number`, in order."""
        return self._inside(self.runs[number])

    def after_all(self) -> Iterator[Record]:
        """The records after the last run."""
        return self._after(self.runs[-1]) if self.runs else self._records((0, 0))

    def _records(self, place: tuple[int, int]) -> Iterator[Record]:
        for chunk, number, record in self.file.all_records(*place):
            if (chunk, number) >= self.index.end:
                return
            yield record

    def _between(self, entry: RunEntry) -> Iterator[Record]:
        for record in self._records(entry.since):
            if record[0] == Kind.RUN:
                return
            yield record

    def _inside(self, entry: RunEntry) -> Iterator[Record]:
        for record in self._records((entry.start[0], entry.start[1] + 1)):
            if record[0] == Kind.END:
                return
            yield record

    def _after(self, entry: RunEntry) -> Iterator[Record]:
        ended = False
        for record in self._records((entry.start[0], entry.start[1] + 1)):
            if ended:
                yield record
            ended = ended or record[0] == Kind.END

    def _apply(self, record: Record) -> None:
        """Do what others than programs did. Raises InputError for what can not be."""
        memory = self._memory
        match record[0]:
            case Kind.CAME:
                _, start, size, kind, name, writable, _ = record
                if kind not in KIND_OF_REGION:
                    raise InputError(f"a region of unknown kind {kind}")
                memory.alloc_at(start, size, KIND_OF_REGION[kind], name, writable=writable)
            case Kind.WENT:
                region = memory.region_at(record[1])
                known = region is not None and region.kind in WORLD_KINDS
                if region is None or region.start != record[1] or not known:
                    raise InputError(f"no region at {record[1]:#x}")
                memory.free(region)
            case Kind.HANDLE:
                self._name(*record[1:])
            case Kind.MAP:
                self._operate(*record[1:])
            case _:
                pass  # events, and what stands there from the beginning

    def _name(self, addr: int, number: int, what: str, name: str, pc: int) -> None:
        memory = self._memory
        if memory.resolve(addr) is not None:
            return
        memory.place = memory.place[0], addr
        if what == "ring":
            found = memory.handle("a ring")
        else:
            image = self._image(number)
            if what == "kernel":
                found = image.kernel_function(name)
            elif name not in image.programs:
                raise InputError(f"there is no program {name}")
            elif what == "program":
                found = image.program_handle(name)
            else:
                found = image.function_handle(image.programs[name], pc)
        if found != addr:
            raise InputError(f"the handle of {name} is {found:#x}, and was {addr:#x}")

    def _image(self, number: int) -> Image:
        if not 0 <= number < len(self.objects):
            raise InputError(f"there is no object {number}")
        return self.objects[number].image

    def _operate(
        self, number: int, name: str, op: int, key: bytes, value: bytes, place: tuple[int, int]
    ) -> None:
        live = self._image(number).maps.get(name)
        if live is None:
            raise InputError(f"there is no map {name}")
        self._memory.place = place
        try:
            if op == Op.UPDATE:
                live.host_update(key, value)
            elif op == Op.DELETE:
                live.host_delete(key)
            elif op == Op.DRAIN and isinstance(live, RingbufMap):
                live.drain()
            else:
                raise InputError(f"operation {op} on map {name}")
        except MapError as error:
            raise InputError(f"map {name}: {error.reason}") from None


class _told:
    """An InputError in here is of this run of the recording."""

    def __init__(self, path: str, number: int) -> None:
        self._place = f"{path}: run {number}"

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, InputError):
            raise error.inside(self._place) from None


def _events(records: Iterator[Record]) -> Iterator[Event]:
    return (event_of(one) for one in records if one[0] == Kind.EVENT)


def _end_then(entry: RunEntry) -> str:
    if entry.how is None:
        return f"returns {entry.r0:#x} after {entry.insns} instructions"
    _, kind, program, pc, _ = entry.how
    return _trap(kind, program, pc, entry.insns)


def _trap(kind: str, program: str, pc: int, insns: int) -> str:
    return f"trap {kind.lower().replace('_', '-')} at {program}+{pc} after {insns} instructions"


def _end_now(ended: RunResult | Trap | BrokenOff | Cut) -> str:
    match ended:
        case RunResult():
            return f"returns {ended.r0:#x} after {ended.insns} instructions"
        case Trap():
            return _trap(ended.kind.name, ended.program, ended.pc, ended.insns)
        case _:
            return "broken off"
