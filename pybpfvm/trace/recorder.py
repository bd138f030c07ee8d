"""Recording what happens to a machine: the objects, the runs of their programs, and what others do.

A machine has one, which waits until a ring, or a run outside rings, wants a recording. Until then
it keeps what hosts do to the maps of objects whose programs have not run: that much of an object's
past belongs to its recording. What programs did before it began is not known any more, so they can
not be recorded then.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pybpfvm.engine import DEFAULT_BUDGET_INSNS, Engine, Hook, RunEnvironment, RunResult
from pybpfvm.errors import InputError, Trap
from pybpfvm.events import Event, Noted, Observer
from pybpfvm.image import FunctionRef, Image, ProgramRef
from pybpfvm.inputfile import read_input_file
from pybpfvm.maps.base import BpfMap
from pybpfvm.maps.live import LiveMap
from pybpfvm.memory import AddressSpace, Region
from pybpfvm.program import Program
from pybpfvm.recording import Recorded
from pybpfvm.trace.asking import RecordedLoop, RecordedRing, RecordedUser, recorded_value
from pybpfvm.trace.digest import Handed, digest
from pybpfvm.trace.following import Changes, Following
from pybpfvm.trace.objects import object_record
from pybpfvm.trace.records import REGION_KINDS, WORLD_KINDS, Ask, Kind, Op, event_record

if TYPE_CHECKING:
    from pybpfvm.trace.format import Record, TraceWriter
    from pybpfvm.trace.standing import Standing
    from pybpfvm.uring_backend.counts import Counts
    from pybpfvm.uring_backend.sq import SqView

# Regions that neither objects nor engines nor programs make.
_KEPT_OPERATIONS = 10_000
_KEPT_BYTES = 1 << 20
_MAX_OBJECT_BYTES = 1 << 26
# A digest is due when so much was executed as it costs a small part of: bytes that it may look at
# for each run, and instructions for each byte.
_BYTES_A_RUN = 1024
_INSNS_A_BYTE = 8
_DIGEST_BYTES = 8192
_MOST_SQES = 4096
# The same for a state, which is made, written and compressed: for each of its bytes so many.
_STATE_BYTES = 1 << 22
_STATE_FACTOR = 32
_MOST_TOLD = 128  # events that rings are to show yet
# Plain numbers, as each record is asked: kinds up to HANDLE are of what comes and goes.
_RARE, _SQES = int(Kind.HANDLE), int(Kind.SQES)
_T = TypeVar("_T")


@dataclass(slots=True)
class _Loaded:
    """An object of the machine, and what hosts did to its maps; None: programs did, too."""

    image: weakref.ref[Image]
    source: str | os.PathLike[str] | bytes
    place: tuple[int, int]
    abi: str | None
    helpers: Mapping[int, str]
    cpus: int
    operations: list[Record] | None = field(default_factory=list)
    kept_bytes: int = 0
    number: int | None = None  # in the recording that is being made


class Recorder:
    """That of one machine. `following` is the memory that is kept up to date, None while nothing
    is recorded."""

    def __init__(self, memory: AddressSpace) -> None:
        self.following: Following | None = None
        self.memory = weakref.proxy(memory)
        self._objects: list[_Loaded] = []
        self._images: list[Image] = []
        self._writer: TraceWriter | None = None
        self._writing = threading.Lock()
        self._one_run = threading.RLock()
        self._rings: list[weakref.ref[_Counting]] = []
        self._queued: dict[int, tuple[int, int, int]] = {}  # head, tail, dropped of SQs as told
        self.handed = Handed()
        self._engines = 0
        self._runs = self._insns = self._earned = 0
        self._owed = self._start_ns = 0
        self._since_state = self._state_bytes = 0
        self._standing: Standing  # of the recording that is being made
        self._quiet = False
        self._at_work = -1  # the number of the object that is loaded or run

    # --- beginning and end ------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether a recording is being made."""
        return self._writer is not None

    @property
    def path(self) -> str | None:
        """Where it is made."""
        return None if self._writer is None else self._writer.path

    def start(self, path: str | os.PathLike[str], version: str, options: Mapping[str, Any]) -> None:
        """Begin a recording; `version` (of pybpfvm) and `options` are told, and decide nothing.

        Raises InputError where one is being made, and for a file that can not be written.
        """
        from pybpfvm.trace.format import TraceWriter
        from pybpfvm.trace.standing import Standing

        if self._writer is not None:
            raise InputError(
                f"the machine is being recorded to {self._writer.path}",
                where=os.fspath(path),
                remedy="close the ring that records first, or use a machine of its own",
            )
        self._writer = TraceWriter(path)
        self.following = Following()
        self._standing = Standing()
        self._images, self._rings, self._queued = [], [], {}
        self._engines = self._runs = self._insns = self._owed = 0
        self._earned = _DIGEST_BYTES
        self._since_state = self._state_bytes = 0
        self._start_ns = time.perf_counter_ns()
        memory = self.memory
        header = {
            "version": version,
            "base": memory.base,
            "limit_bytes": memory.limit_bytes,
            "options": dict(options),
        }
        self.put((Kind.HEADER, header))
        memory.watcher = self
        for region in memory.regions():
            self.came(region)
        for loaded in self._objects:
            image = loaded.image()
            if image is not None and loaded.operations is not None:
                self._record_object(loaded, image)

    def stop(self) -> None:
        """End the recording, if one is being made; twice is fine."""
        self.tell_queues()
        writer, self._writer = self._writer, None
        if writer is None:
            return
        self.following = None
        for loaded in self._objects:
            if loaded.number is not None:
                loaded.operations = loaded.number = None
        self._images = []
        with suppress_dead():
            self.memory.watcher = None
        try:
            elapsed_ns = time.perf_counter_ns() - self._start_ns
            writer.add((Kind.CLOSED, self._runs, self._insns, elapsed_ns))
        finally:
            writer.close()

    def put(self, record: Record, event: Event | None = None) -> None:
        """Append to the recording, if one is being made; `event` is what it is the record of.
        Raises InputError as TraceWriter."""
        with self._writing:
            writer = self._writer
            if writer is None:
                return
            add = writer.add
            if event is not None:
                told = self._standing.told
                told.append((record[1], event))
                if len(told) > _MOST_TOLD:
                    self._standing.fold()
            elif record[0] <= _RARE or record[0] == _SQES:
                self._standing.note(record)
                add = writer.place
            try:
                add(record)
            except InputError:
                self._give_up()
                raise

    def _put_state(self, following: Following) -> None:
        """Append what a replay has by now, first in its chunk, unless that is more than states
        tell."""
        with self._writing:
            if self._writer is None or not self._all_recorded():
                return
            queues = tuple(_queues(ring()) for ring in self._rings)
            counts = self._runs, self._insns, queues
            state = self._standing.state(self.memory, self._images, following, *counts)
            if state is None:
                return
            try:
                self._writer.flush()
                before = self._writer.bytes
                self._writer.place(state)
            except InputError:
                self._give_up()
                raise
            self._state_bytes = self._writer.bytes - before

    def _all_recorded(self) -> bool:
        """Whether all objects are in the recording that are in memory."""
        return all(one.number is not None for one in self._objects if one.image() is not None)

    def flush(self) -> None:
        """Have in the file what was recorded until now."""
        self.tell_queues()
        with self._writing:
            if self._writer is not None:
                self._writer.flush()

    def _give_up(self) -> None:
        """Nothing can be written any more: nothing more is recorded."""
        writer, self._writer = self._writer, None
        self.following = None
        if writer is not None:
            with suppress_dead():
                self.memory.watcher = None

    # --- objects and their maps -------------------------------------------------------------

    def loaded(
        self,
        image: Image,
        source: str | os.PathLike[str] | bytes,
        place: tuple[int, int],
        abi: str | None,
        helpers: Mapping[int, str],
        cpus: int,
    ) -> None:
        """An object was loaded, whose memory began at `place`."""
        self._objects = [one for one in self._objects if one.image() is not None]
        loaded = _Loaded(weakref.ref(image), source, place, abi, dict(helpers), cpus)
        self._objects.append(loaded)
        if self._writer is not None:
            self._record_object(loaded, image)

    def _record_object(self, loaded: _Loaded, image: Image) -> None:
        loaded.number = len(self._images)
        self._images.append(image)
        record = {
            **object_record(image.object, _file_of(image, loaded.source)),
            "abi": loaded.abi,
            "helpers": dict(loaded.helpers),
            "cpus": loaded.cpus,
            "place": loaded.place,
        }
        self.put((Kind.LOAD, record))
        self._at_work = loaded.number
        for addr, target in image.handles():
            self.named(addr, target)
        for operation in loaded.operations or ():
            self.put((operation[0], loaded.number, *operation[1:]))
        loaded.operations = []

    def _of(self, image: Image) -> _Loaded | None:
        return next((one for one in self._objects if one.image() is image), None)

    @contextmanager
    def operation(
        self, image: Image, live: BpfMap, op: Op, key: bytes = b"", value: bytes = b""
    ) -> Iterator[None]:
        """A host does this to a map; one that is refused is none."""
        place = self.memory.place
        yield
        loaded = self._of(image)
        if loaded is None:
            return
        name = live.spec.name
        if loaded.number is not None:
            self.put((Kind.MAP, loaded.number, name, op, bytes(key), bytes(value), place))
        elif loaded.operations is not None:
            loaded.operations.append((Kind.MAP, name, op, bytes(key), bytes(value), place))
            loaded.kept_bytes += len(key) + len(value)
            if len(loaded.operations) > _KEPT_OPERATIONS or loaded.kept_bytes > _KEPT_BYTES:
                loaded.operations = None

    # --- memory: a Watcher ------------------------------------------------------------------

    def came(self, region: Region) -> None:
        """A region is there."""
        following = self.following
        if following is None or region.kind not in WORLD_KINDS:
            return
        followed = following.follow(region, self.memory.view(region))
        kind = REGION_KINDS[region.kind]
        self.put(
            (Kind.CAME, region.start, region.size, kind, region.name, region.writable, followed)
        )

    def went(self, region: Region) -> None:
        """A region is no more."""
        if self.following is not None and region.kind in WORLD_KINDS:
            self.put((Kind.WENT, region.start))
            self.following.forget(region)

    def named(self, addr: int, target: object) -> None:
        """A handle stands for something."""
        match target:
            case FunctionRef():
                self._name(addr, "function", target.program, target.pc)
            case ProgramRef():
                self._name(addr, "program", target.program, 0)
            case str():
                self.put((Kind.HANDLE, addr, self._at_work, "kernel", target, 0))
            case LiveMap():
                pass  # its object makes it
            case _:
                self.put((Kind.HANDLE, addr, -1, "ring", "", 0))

    def _name(self, addr: int, what: str, program: Program, pc: int) -> None:
        for number, image in enumerate(self._images):
            if image.programs.get(program.name) is program:
                self.put((Kind.HANDLE, addr, number, what, program.name, pc))

    # --- rings and runs ---------------------------------------------------------------------

    def ring(self, options: Mapping[str, Any], ring: _Counting, *, looks: bool) -> int:
        """A ring was made: its number, from 1 on. `looks`: its programs may look into its
        memory."""
        self._rings.append(weakref.ref(ring))
        if looks and self.following is not None:
            self.following.rings = True
        self.put((Kind.RING, len(self._rings), dict(options)))
        return len(self._rings)

    def observer(self, ring: int, given: Observer | None) -> Observer:
        """Who is told of a ring's events: the recording, and `given`."""

        def see(event: Event) -> None:
            record = None if self._quiet else event_record(ring, event)
            if record is not None:
                self.put(record, event)
            if given is not None:
                given(event)

        return see

    def tell_queues(self) -> None:
        """Note what is in SQs, where that is not what it was."""
        if self._writer is None:
            return
        for number, known in enumerate(self._rings, 1):
            ring = known()
            queue = None if ring is None else ring.sq_view()
            if queue is None:
                continue
            try:
                now = queue.head, queue.tail, queue.dropped
                if self._queued.get(number) == now:
                    continue
                fetched = map(queue.fetch, range(min(queue.ready(), _MOST_SQES)))
                sqes = tuple(one or b"" for one in fetched)
            except ValueError:  # another thread closes the ring: its memory was released
                continue
            self._queued[number] = now
            self.put((Kind.SQES, number, *now, sqes))

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """What rings tell here is not of what is recorded: whoever looks takes what is there."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def ends(self, ring: int, time_ns: int, kind: str, text: str) -> None:
        """Note how it ended, for whoever opens the recording: `kind` "stopped" or "failed"."""
        event = Noted(time_ns, kind, text)
        record = event_record(ring, event)
        if record is not None:
            self.put(record, event)

    def engine(
        self,
        image: Image,
        environment: RunEnvironment,
        make: Callable[[RunEnvironment], Engine],
        *,
        ring: int = 0,
        program: str = "",
    ) -> Engine:
        """The engine that `make` makes in an environment, recorded if a recording is being made.
        `ring` is the number of the ring whose programs it runs, `program` what it runs outside any.

        Raises InputError where the object has a past that nobody knows.
        """
        loaded = self._of(image)
        if self._writer is None or loaded is None:
            if loaded is not None:
                loaded.operations = None
            return make(environment)
        if loaded.number is None:
            raise InputError(
                "its programs ran before the recording began",
                where=image.object.path,
                remedy="load the object again for each recording",
            )
        place = self.memory.place
        self._engines += 1
        number = self._engines
        engine = make(self.around(environment))
        handle = None if environment.loop is None else environment.loop.handle
        self.put(
            (
                Kind.ENGINE,
                number,
                loaded.number,
                ring,
                program,
                place,
                environment.cpu,
                environment.strict_ctx,
                environment.may_goto_turns,
                handle,
            )
        )
        return RecordedEngine(self, engine, environment, number, loaded.number)

    def around(self, environment: RunEnvironment) -> RunEnvironment:
        """The environment, with all that it answers noted."""
        ring, loop, log = environment.ring, environment.loop, environment.log

        def noted_log(text: str) -> None:
            log(text)
            self.handed.asked()
            self.put((Kind.ASKED, Ask.LOG, (text,), 0, ()))

        return replace(
            environment,
            ring=None if ring is None else RecordedRing(self, ring),
            loop=None if loop is None else RecordedLoop(self, loop),
            now_ns=recorded_value(self, Ask.CLOCK, environment.now_ns),
            event_ns=environment.event_ns or environment.now_ns,
            random_u32=recorded_value(self, Ask.RANDOM, environment.random_u32),
            user=RecordedUser(self, self.memory),
            log=noted_log,
        )

    def asked(self, ask: Ask, call: Callable[..., _T], *args: Any) -> _T:
        """What `call` answers, noted; what it raises, too."""
        following = self.following
        if following is None:
            return call(*args)
        self.handed.asked()
        following.before_answer()
        answer = None
        try:
            answer = call(*args)
        finally:
            self.put((Kind.ASKED, ask, args, answer, following.after_answer()))
        return answer

    @contextmanager
    def run(
        self,
        engine: int,
        obj: int,
        program: Program,
        ctx_addr: int,
        packet: Region | None,
        budget_insns: int,
        kept: Callable[[], bytes | None],
    ) -> Iterator[_Run]:
        """A run of the program; whoever runs it tells how it ended. `kept`: see Engine."""
        with self._one_run:
            ended = _Run()
            self._at_work = obj
            following = self.following
            if following is None:
                yield ended
                return
            self.tell_queues()
            self.handed = Handed(kept)
            seen = None if packet is None else (packet.start, packet.size)
            place, changes = self.memory.place, following.before_run()
            self.put((Kind.RUN, engine, program.name, ctx_addr, seen, budget_insns, place, changes))
            with self._writing:
                if self._writer is not None:
                    self._writer.breathe()
            try:
                yield ended
            except Trap as trap:
                ended.insns = trap.insns
                ended.how = ("trap", trap.kind.name, trap.program, trap.pc, trap.summary)
                raise
            except BaseException as error:
                ended.how = ("left", type(error).__name__, "", 0, str(error)[:1000])
                raise
            finally:
                self._ended(ended, following)

    def _ended(self, ended: _Run, following: Following) -> None:
        following.after_run()
        self._runs += 1
        self._insns += ended.insns
        self._earned += _BYTES_A_RUN + ended.insns // _INSNS_A_BYTE
        found = None
        if self._earned >= self._owed and ended.how is None:
            seen = digest(following.copies(), self._images)
            self._earned, self._owed = 0, seen.size + _DIGEST_BYTES
            queues = tuple(_queues(ring()) for ring in self._rings)
            found = (seen.memory, seen.maps, queues)
            self._standing.digests += 1
        handed = self.handed
        end = ended.r0, ended.insns, ended.how, found, handed.crc, handed.registers
        self.put((Kind.END, *end))
        self._since_state += _BYTES_A_RUN + ended.insns // _INSNS_A_BYTE
        due = max(_STATE_BYTES, _STATE_FACTOR * self._state_bytes)
        if self._since_state >= due and ended.how is None:
            self._since_state = 0
            self._put_state(following)


@dataclass(slots=True)
class _Run:
    """How a run ended."""

    r0: int = 0
    insns: int = 0
    how: tuple[str, str, str, int, str] | None = None


class _Counting(Protocol):
    """A ring."""

    @property
    def counts_so_far(self) -> Counts:
        """Runs, instructions and CQEs so far."""

    def sq_view(self) -> SqView | None:
        """Its SQ, None where there is none by now."""


def _queues(ring: _Counting | None) -> tuple[tuple[int, int, int, int], ...] | None:
    """(CQ, posted, reaped, dropped) of a ring's queues; None where the ring is gone."""
    if ring is None:
        return None
    counts = ring.counts_so_far
    known = sorted({*counts.posted, *counts.reaped, *counts.dropped})
    return tuple((cq, counts.posted[cq], counts.reaped[cq], counts.dropped[cq]) for cq in known)


class RecordedEngine:
    """An Engine whose runs are recorded."""

    def __init__(
        self,
        recorder: Recorder,
        engine: Engine,
        environment: RunEnvironment,
        number: int,
        obj: int,
    ) -> None:
        self._recorder = recorder
        self._engine = engine
        self._environment = environment
        self._number = number
        self._object = obj
        self.image = engine.image

    @property
    def hook(self) -> Hook | None:
        """The engine's."""
        return self._engine.hook

    @hook.setter
    def hook(self, hook: Hook | None) -> None:
        self._engine.hook = hook

    @property
    def environment(self) -> RunEnvironment:
        """The environment, without what notes its answers."""
        return self._environment

    @environment.setter
    def environment(self, environment: RunEnvironment) -> None:
        if environment is not self._environment:
            self._environment = environment
            self._engine.environment = self._recorder.around(environment)

    @property
    def recorded(self) -> Recorded | None:
        """The engine's."""
        return self._engine.recorded

    def run(
        self,
        program: Program,
        ctx_addr: int,
        *,
        budget_insns: int = DEFAULT_BUDGET_INSNS,
        packet: Region | None = None,
    ) -> RunResult:
        """As the engine runs it."""
        recorder, number, kept = self._recorder, self._number, self._engine.kept_registers
        how = number, self._object, program, ctx_addr, packet, budget_insns, kept
        with recorder.run(*how) as ended:
            done = self._engine.run(program, ctx_addr, budget_insns=budget_insns, packet=packet)
            ended.r0, ended.insns = done.r0, done.insns
        return done

    def kept_registers(self) -> bytes | None:
        """The engine's."""
        return self._engine.kept_registers()

    def close(self) -> None:
        """Give the engine back."""
        self._engine.close()


@contextmanager
def suppress_dead() -> Iterator[None]:
    """The machine may be gone already."""
    with suppress(ReferenceError):
        yield


def _file_of(image: Image, source: str | os.PathLike[str] | bytes) -> bytes:
    """The file that the object was loaded from. InputError when it is another by now."""
    path = image.object.path
    data = (
        bytes(source)
        if isinstance(source, bytes)
        else read_input_file(os.fspath(source), _MAX_OBJECT_BYTES)
    )
    if hashlib.sha256(data).hexdigest() != image.object.sha256:
        raise InputError(
            "the file has changed since it was loaded", where=path, remedy="load it again"
        )
    return data


__all__ = ["Changes", "RecordedEngine", "Recorder"]
