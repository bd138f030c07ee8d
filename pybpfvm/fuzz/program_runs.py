"""`fuzz engine OBJ`: one program of an object on changed inputs, on the JIT, with edge coverage.

An input is bytes in a fixed order: 8 of choices, the context, user memory, the values of maps, and
what is left is the packet. Programs of ring ABIs find their user memory at `ctx.user_data`, and a
ring whose answers come from the choices. Memory, maps and globals are as the object has them before
each run, but for what the input says.

Oracles: an accepted program does not trap; every input that covers something new does the same in
the interpreter; the caller's invariant holds.
"""

from __future__ import annotations

import ctypes
import errno
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from random import Random
from typing import Any

from pybpfvm.engine import RunEnvironment
from pybpfvm.errors import InputError, NotAccepted, Trap, TrapKind, UnsupportedError
from pybpfvm.fuzz.guards import guards
from pybpfvm.fuzz.mutation import change_in_place, mutate
from pybpfvm.fuzz.target import Problem, Target, Tried, Turn, without_chunks
from pybpfvm.helpers.context import HelperContext
from pybpfvm.helpers.proto import Helper
from pybpfvm.image import Image
from pybpfvm.isa.opcodes import Kind
from pybpfvm.jit.engine import JitEngine
from pybpfvm.jit.options import Checks
from pybpfvm.maps.array import ArrayMap
from pybpfvm.memory import Region, RegionKind
from pybpfvm.outline import outline_of
from pybpfvm.profiles.base import CtxHolds, Profile
from pybpfvm.program import BPF_F_RDONLY_PROG
from pybpfvm.recording import EDGE_MAP_BYTES, NOTHING, Recording, block_number
from pybpfvm.session.engines import jit_refusal
from pybpfvm.session.objects import LoadedObject
from pybpfvm.verifier.verdict import Accepted, Rejected
from pybpfvm.vm.interp import Interpreter

CHOICE_BYTES = 8
USER_BYTES = 256
PACKET_BYTES = 1 << 11
_NO_PACKET = bytes(PACKET_BYTES)
BUDGET_INSNS = 1 << 16
_TURN = 256  # executions of a turn
_LEAST_PACKET = 15
_AT_START = 0x10  # of the first byte of choices
_SCAN_ALL = 64  # once in so many executions all of the map is looked at
_MOST_PAIRS = 4096  # above it, edges are only found when all is looked at
_MOST_GUARDS = 5  # that a report tells of
_MAP_BYTES = 1 << 12  # of a map, what the input says

# What an invariant is shown, and what it says of it: "" or True is fine, anything else is not.
Invariant = Callable[["Execution"], "str | bool | None"]


@dataclass(frozen=True, slots=True)
class Execution:
    """A run that ended by itself: `r0`, instructions, and what it left of context, packet, user
    memory; `maps` gives the bytes of a map's values by name."""

    r0: int
    insns: int
    ctx: bytes
    packet: bytes
    user: bytes
    maps: Mapping[str, bytes]


class _Ring:
    """A ring that takes what it is given, mostly; `choices` decide."""

    def __init__(self) -> None:
        self.choices = 0
        self.calls = 0

    def begin(self, choices: int) -> None:
        """A run begins."""
        self.choices, self.calls = choices, 0

    def _next(self) -> int:
        self.calls += 1
        return zlib.crc32(self.choices.to_bytes(8, "little") + self.calls.to_bytes(4, "little"))

    def bpf_submit(self, sqe: bytes) -> int:
        """1, or an error one time in eight."""
        chosen = self._next()
        return 1 if chosen & 7 else -errno.EBUSY

    def bpf_emit(self, cq_idx: int, user_data: int, res: int, flags: int) -> int:
        """0, or an error one time in eight."""
        return 0 if self._next() & 7 else -errno.ENOMEM

    def bpf_reap(self, cq_idx: int) -> bytes | int:
        """A CQE of any content, or none every second time."""
        chosen = self._next()
        if chosen & 1:
            return -errno.ENOENT
        return struct.pack("<QiI", chosen, (chosen >> 8 & 0xFFF) - 64, chosen >> 28)

    def bpf_requeue(self, source: int, target: int, most: int) -> int:
        """Some of them."""
        return min(most, self._next() & 3)


class ProgramTarget(Target):
    """The program `name` of a loaded object (None: its only one).

    `invariant` is asked after every run; `helpers` are Python functions in the place of helpers,
    by name, called with the arguments r1 to r5: their result is r0. `unverified`: run it though
    the verifier does not accept it; then its traps are findings all the same. `coverage` False:
    no edges, every input counts the same. InputError for what can not be run, NotAccepted.
    """

    name = "engine"
    seed_executions = _TURN

    def __init__(
        self,
        obj: LoadedObject,
        name: str | None = None,
        *,
        invariant: Invariant | None = None,
        helpers: Mapping[str, Callable[[int, int, int, int, int], int]] | None = None,
        unverified: bool = False,
        coverage: bool = True,
        budget_insns: int = BUDGET_INSNS,
    ) -> None:
        loaded = obj[name or _only(obj)]
        self._where = f"{obj.object.path}: {loaded.name}"
        self.profile = profile = loaded.profile
        self.verdict = verdict = loaded.verdict()
        _check(profile, self._where)
        if not isinstance(verdict, Accepted) and not unverified:
            raise NotAccepted(
                "the verifier does not accept the program",
                where=self._where,
                remedy="`pybpfvm verify` says why; --no-verify fuzzes it all the same",
                rejected=isinstance(verdict, Rejected),
            )
        self.notes: list[str] = []
        if not isinstance(verdict, Accepted):
            self.notes.append("the verifier does not accept the program: it ran sandboxed")
        self._invariant = invariant
        self._budget = budget_insns
        self._ring = _Ring()
        self.helpers = rows = _own(loaded.helpers(), helpers or {})
        environment = RunEnvironment(
            profile=profile,
            ring=self._ring if profile.ring is not None else None,
            now_ns=lambda: self._ring.choices,
            random_u32=lambda: self._ring._next(),
            may_goto_turns=100,
        )
        self._program = loaded.program.name
        self._image = Image(obj.object)
        self._place = _Place(self._image, profile)
        self._jit = JitEngine(
            self._image,
            rows,
            environment,
            checks=Checks.EXACT,
            record=Recording(edges=True) if coverage else NOTHING,
        )
        self._edges = _Edges(self._jit, self._image, self._program, rows) if coverage else None
        self._other = Image(obj.object)
        self._other_place = _Place(self._other, profile)
        self._interpreter = Interpreter(self._other, rows, environment)
        self._seen: set[tuple[int, ...]] = set()
        self._counted = 0
        program = self._image.programs[self._program]
        # What the program compares with and masks by is what inputs should have in them.
        imms = {one.imm for one in program.insns if one.spec.kind in (Kind.JUMP, Kind.ALU)}
        self._words = tuple(sorted(imms - {0}))
        self._mnemonics = dict(
            zip(outline_of(program).starts, (one.spec.mnemonic for one in program.insns))
        )
        self.known: Mapping[str, frozenset[str]] = {
            "instructions": frozenset(self._called(pc) for pc in self._mnemonics)
        }

    def _called(self, pc: int) -> str:
        """An instruction as reports name it."""
        line = self._image.programs[self._program].line_at(pc)
        return f"{pc:5} {self._mnemonics[pc]}" + (f" ({line.file}:{line.line})" if line else "")

    # --- running -----------------------------------------------------------------------------

    def begin(self) -> None:
        self._seen.clear()
        self._counted = 0
        if self._edges is not None:
            self._edges.begin()

    def turn(self, seed: int, corpus: Sequence[bytes], most: int) -> Turn:
        random = Random(seed)
        base = bytes(self._place.size) if not corpus else random.choice(corpus)
        if not corpus or random.random() < 0.05:
            base = random.randbytes(self._place.size + random.randrange(128))
        other = random.choice(corpus) if corpus and random.random() < 0.2 else None
        tried: list[tuple[bytes, Tried]] = []
        others: Counter[str] = Counter()
        for number in range(min(_TURN, most)):
            data = bytearray(base)
            for _ in range(1 + int(random.random() * random.random() * 5)):
                change_in_place(random, data, self._words)
            if number & 7 == 1:
                data[0] ^= _AT_START
            elif number & 7 == 5 and self.profile.packet is not None:
                data = self._resized(random, data)
            if number & 31 == 31:
                data = bytearray(mutate(bytes(data), seed + number, len(base) + 64))
            elif other is not None and number & 7 == 7 and len(other) > CHOICE_BYTES:
                at = random.randrange(len(other))
                data[at:] = other[at:]
            outcome, problem, new = self._execute(data)
            if problem is not None or new:
                input_ = bytes(data)
                tried.append((input_, self._looked_at(input_, outcome, problem, new)))
            else:
                others[outcome] += 1
        return Turn(tried, others)

    def _resized(self, random: Random, data: bytearray) -> bytearray:
        """With a packet of another length."""
        most = PACKET_BYTES if random.random() < 0.1 else 128
        length = self._place.size + int(random.random() * most)
        return data[:length] + random.randbytes(max(0, length - len(data)))

    def run(self, data: bytes) -> Tried:
        self._seen.clear()  # what it covers counts, whether that is new or not
        outcome, problem, new = self._execute(data)
        return self._looked_at(data, outcome, problem, new)

    def _execute(self, data: bytes | bytearray) -> tuple[str, Problem | None, frozenset[object]]:
        """One run on the JIT: how it ended, what is wrong, and what is covered if that is new."""
        place, edges = self._place, self._edges
        if self.before is not None:
            self.before(data)
        place.put(data)
        self._ring.begin(place.choices)
        trap: Trap | None = None
        r0 = insns = 0
        try:
            done = self._jit.run(
                self._image.programs[self._program],
                place.ctx.start,
                budget_insns=self._budget,
                packet=place.packet,
            )
            r0, insns = done.r0, done.insns
        except Trap as caught:
            trap = caught
        new: frozenset[object] = frozenset()
        if edges is not None:
            self._counted += 1
            counts = edges.taken(everything=self._counted % _SCAN_ALL == 0)
            if counts not in self._seen:
                self._seen.add(counts)
                new = edges.features(counts)
        if trap is not None:
            return trap.kind.name, self._trapped(trap), new
        if self._invariant is not None:
            problem = self._judge(Execution(r0, insns, *place.left()))
            if problem is not None:
                return "invariant broken", problem, new
        return "returned", None, new

    def _judge(self, execution: Execution) -> Problem | None:
        assert self._invariant is not None
        try:
            said = self._invariant(execution)
        except AssertionError as error:
            said = str(error) or "an assertion does not hold"
        if said is None or said is True or said == "":
            return None
        words = said if isinstance(said, str) else "it does not hold"
        return Problem(f"invariant/{words[:60]}", f"the invariant: {words}", str(execution))

    def _trapped(self, trap: Trap) -> Problem | None:
        if trap.kind is TrapKind.BUDGET:
            return None  # a long run is an outcome, not a fault
        if trap.kind is TrapKind.UNSUPPORTED:
            return None
        accepted = isinstance(self.verdict, Accepted)
        what = "accepted-and-traps" if accepted else "trap"
        at = self._mnemonics.get(trap.pc, "")
        return Problem(
            f"{what}/{trap.kind.name}/{at}-{trap.pc}",
            f"{'an accepted program' if accepted else 'the program'} traps: {trap}",
        )

    def _looked_at(
        self, data: bytes, outcome: str, problem: Problem | None, new: frozenset[object]
    ) -> Tried:
        """What an input showed that is worth a look: the interpreter gives its word too."""
        hits, difference = self._interpreted(data, outcome)
        return Tried(
            outcome,
            features=new,
            hits={"instructions": frozenset(map(self._called, hits))},
            problem=problem or difference,
        )

    def _interpreted(self, data: bytes, outcome: str) -> tuple[set[int], Problem | None]:
        """The pcs that the interpreter executes, and where it differs from the JIT."""
        place, other = self._place, self._other_place
        place.put(data)
        self._ring.begin(place.choices)
        ours = self._ended(self._jit, self._image, place)
        if self._edges is not None:
            self._edges.clear()
        pcs: set[int] = set()
        wanted = self._program

        def hook(program: Any, pc: int, regs: tuple[int, ...], depth: int) -> None:
            if program.name == wanted:
                pcs.add(pc)

        other.put(data)
        self._ring.begin(other.choices)
        self._interpreter.hook = hook
        theirs = self._ended(self._interpreter, self._other, other)
        if ours == theirs:
            return pcs, None
        at = next(number for number, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1])
        what = ("end", "instructions", "context", "packet", "user memory", "maps")[at]
        details = f"jit:         {ours[at]}\ninterpreter: {theirs[at]}"
        return pcs, Problem(
            f"engines-differ/{what}", f"jit and interpreter differ: {what}", details
        )

    def _ended(self, engine: Any, image: Image, place: _Place) -> tuple[object, ...]:
        """How a run on the input that was put ends, and what it leaves; addresses are relative."""
        try:
            done = engine.run(
                image.programs[self._program],
                place.ctx.start,
                budget_insns=self._budget,
                packet=place.packet,
            )
            # Pointers differ from machine to machine.
            end: object = place.relative(done.r0)
            insns = done.insns
        except Trap as trap:
            end, insns = (trap.kind, trap.pc), trap.insns
        return end, insns, *place.left_relative()

    def mutated(self, data: bytes, seed: int) -> bytes:
        return mutate(data, seed, self._place.size + PACKET_BYTES)

    def smaller(self, data: bytes) -> Iterator[bytes]:
        for start, end in without_chunks(len(data)):
            yield data[:start] + bytes(end - start) + data[end:]
        fixed = self._place.size
        for start, end in without_chunks(max(0, len(data) - fixed)):
            yield data[: fixed + start] + data[fixed + end :]

    def files(self, data: bytes) -> Mapping[str, bytes]:
        return {f"{name}.bin": part for name, part in self._place.parts(data).items() if part}

    def advice(self, never: Mapping[str, Sequence[str]]) -> Sequence[str]:
        gone = set(never.get("instructions", ()))
        program = self._image.programs[self._program]
        executed = {pc for pc in self._mnemonics if self._called(pc) not in gone}
        found = guards(program, executed)[:_MOST_GUARDS] if executed else []
        if not found:
            return ()
        where = ", ".join(
            f"{name} at {start}" for name, start in self._place.layout() if name != "choices"
        )
        return (
            *(f"went one way only: {guard}" for guard in found),
            "an input that goes the other way can be given in a folder, --corpus DIR: "
            f"choices are its first {CHOICE_BYTES} bytes, {where}",
        )

    def close(self) -> None:
        self._jit.close()
        self._interpreter.close()
        self._place.release()
        self._other_place.release()
        self._image.close()
        self._other.close()

    @property
    def size(self) -> int:
        """Bytes of an input before the packet."""
        return self._place.size


class _Place:
    """Where an input goes in a machine: fixed regions, written before each run.

    `size` is that of everything before the packet. Values of array maps (globals too) are put back
    from what the object has; other maps through a snapshot of the machine, which takes longer.
    """

    def __init__(self, image: Image, profile: Profile) -> None:
        memory = image.memory
        self._image = image
        self.ctx = memory.alloc(max(1, profile.ctx_bytes), RegionKind.CTX, "context")
        self._ctx = memory.view(self.ctx)
        self._ctx_bytes = profile.ctx_bytes
        self._ring = profile.ring is not None
        self.user: Region | None = None
        self._user = memoryview(b"")
        if self._ring:
            self.user = memory.alloc(USER_BYTES, RegionKind.USER, "user memory")
            self._user = memory.view(self.user)
        # What no host gives.
        self._filled = [
            (one.offset, one.size, one.default)
            for one in profile.ctx_fields
            if one.holds is not CtxHolds.GIVEN
        ]
        self._holds = {one.offset: one.holds for one in profile.ctx_fields}
        self._user_data = next(
            (one.offset for one in profile.ctx_fields if one.name == "user_data"), None
        )
        self.packet: Region | None = None
        self._packets: Region | None = None
        self._data = memoryview(b"")
        self._hidden = self._first = 0
        self._protocol_offsets: list[tuple[int, int, CtxHolds]] = []
        if profile.packet is not None:
            self._packets = memory.alloc(
                PACKET_BYTES, RegionKind.PACKET, "data", writable=profile.packet.writable
            )
            self._data = memory.view(self._packets)
            self._hidden = profile.packet.hidden_bytes
            self._protocol_offsets = [
                (one.offset, one.size, one.holds)
                for one in profile.ctx_fields
                if one.holds in (CtxHolds.LENGTH, CtxHolds.PROTOCOL, CtxHolds.PACKET_TYPE)
            ]
        self._arrays: list[tuple[str, memoryview, bytes, int]] = []
        self._slow = False
        for name, live in image.maps.items():
            if isinstance(live, ArrayMap):
                for region in live.regions:
                    view = memory.view(region)
                    fixed = live.spec.flags & BPF_F_RDONLY_PROG
                    given = 0 if fixed else min(len(view), _MAP_BYTES)
                    self._arrays.append((name, view, bytes(view), given))
            else:
                self._slow = True
        self._snapshot = image.snapshot() if self._slow else None
        self._ranges = [
            (region.start, region.end, number) for number, region in enumerate(memory.regions())
        ]
        given_bytes = sum(given for *_, given in self._arrays)
        self.size = CHOICE_BYTES + self._ctx_bytes + len(self._user) + given_bytes
        self.choices = 0

    def put(self, data: bytes | bytearray) -> None:
        """Have everything as the input says; what it does not say is 0, or as in the object."""
        if self._snapshot is not None:
            self._image.restore(self._snapshot)
        at = CHOICE_BYTES
        self.choices = int.from_bytes(data[:at], "little")
        if len(data) < self.size:
            data = bytes(data).ljust(self.size, b"\0")
        if self._ctx_bytes:
            self._ctx[:] = data[at : at + self._ctx_bytes]
            at += self._ctx_bytes
            for offset, size, _ in self._filled:
                self._ctx[offset : offset + size] = bytes(size)
        if self.user is not None:
            self._user[:] = data[at : at + USER_BYTES]
            at += USER_BYTES
            if self._user_data is not None and self.choices & 15:
                # One time in sixteen user_data is any number, as the input has it.
                field = self._user_data
                self._ctx[field : field + 8] = self.user.start.to_bytes(8, "little")
        for _, view, initial, given in self._arrays:
            if given == len(view):
                view[:] = data[at : at + given]
            else:
                view[:] = initial
                view[:given] = data[at : at + given]
            at += given
        if self._packets is not None:
            self._put_packet(bytes(data[at : at + PACKET_BYTES]))

    def _put_packet(self, frame: bytes) -> None:
        assert self._packets is not None
        frame = frame.ljust(_LEAST_PACKET, b"\0")
        shown = frame[self._hidden :]
        # It ends where the memory ends, or begins where that begins: what is beside it traps.
        first = 0 if self.choices & _AT_START else self._packets.size - len(shown)
        self._first = first
        self._data[:] = _NO_PACKET  # a program that is not accepted may read behind what is shown
        self._data[first : first + len(shown)] = shown
        if self.packet is None or (self.packet.start, self.packet.size) != (
            self._packets.start + first,
            len(shown),
        ):
            self.packet = replace(self._packets, start=self._packets.start + first, size=len(shown))
        for offset, size, holds in self._protocol_offsets:
            value = 0
            if holds is CtxHolds.LENGTH:
                value = len(shown)
            elif holds is CtxHolds.PROTOCOL:
                value = int.from_bytes(frame[12:14], "little")
            self._ctx[offset : offset + size] = value.to_bytes(size, "little")

    def left(self) -> tuple[bytes, bytes, bytes, dict[str, bytes]]:
        """Context, packet, user memory and maps as a run left them."""
        packet = b""
        if self.packet is not None:
            packet = bytes(self._data[self._first : self._first + self.packet.size])
        maps: dict[str, bytes] = {}
        for name, view, *_ in self._arrays:
            maps[name] = maps.get(name, b"") + bytes(view)
        return bytes(self._ctx), packet, bytes(self._user), maps

    def left_relative(self) -> tuple[object, ...]:
        """The same with addresses of this machine made relative."""
        ctx, packet, user, maps = self.left()
        everything = (ctx, packet, user, *maps.values())
        words = [self._words(part) for part in everything]
        return words[0], words[1], words[2], tuple(words[3:])

    def _words(self, part: bytes) -> tuple[object, ...]:
        whole = len(part) & ~7
        found = struct.unpack(f"<{whole // 8}Q", part[:whole])
        return (*map(self.relative, found), part[whole:])

    def relative(self, word: int) -> object:
        """A word, or which region it points into and where."""
        for start, end, number in self._ranges:
            if start <= word < end:
                return number, word - start
        return word

    def layout(self) -> list[tuple[str, int]]:
        """The parts that inputs have, by name, and where each begins."""
        at, found = 0, []
        for name, part in self.parts(b"").items():
            if part or (name == "packet" and self._packets is not None):
                found.append((name, at))
            at += len(part)
        return found

    def parts(self, data: bytes) -> dict[str, bytes]:
        """The parts of an input, by name."""
        data = data.ljust(self.size, b"\0")
        at = CHOICE_BYTES
        found = {"choices": data[:at], "ctx": data[at : at + self._ctx_bytes]}
        at += self._ctx_bytes
        found["user"] = data[at : at + len(self._user)]
        at += len(self._user)
        for name, _, _, given in self._arrays:
            found[f"map-{name.strip('.').replace('/', '-')}"] = data[at : at + given]
            at += given
        found["packet"] = data[at:] if self._packets is not None else b""
        return found

    def release(self) -> None:
        """Let go of the memory."""
        self._arrays.clear()
        self._ctx = self._user = self._data = memoryview(b"")


class _Edges:
    """The edge map of an engine: which places of it a program can reach, and their counts."""

    def __init__(
        self, engine: JitEngine, image: Image, name: str, helpers: Mapping[int, Helper]
    ) -> None:
        assert engine._recorder is not None
        self._map = engine._recorder._edges
        self._addr = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        outline = outline_of(image.programs[name])
        numbers = [block_number(name, pc) for pc in outline.blocks(helpers)]
        pairs = {(one >> 1) ^ two for one in numbers for two in numbers}
        pairs |= set(numbers)  # the first block of a run: nothing was before it
        self._expected = sorted(pairs) if len(pairs) <= _MOST_PAIRS else []
        self._indices: list[int] = []
        self.begin()

    def begin(self) -> None:
        """Know only of edges that are expected, and of none that was taken."""
        self._indices = list(self._expected)
        self._take()
        self.clear()

    def _take(self) -> None:
        padded = [*self._indices, 0, 0][: max(2, len(self._indices))]
        self._get = itemgetter(*padded)

    def taken(self, *, everything: bool) -> tuple[int, ...]:
        """The counts of the edges of the run that ended, which are forgotten then."""
        counts: tuple[int, ...] = self._get(self._map)
        if everything or not self._indices:
            counted = len(bytes(self._map).translate(None, b"\0"))
            if counted != sum(map(bool, counts[: len(self._indices)])):
                self._look_at_all()
                counts = self._get(self._map)
        ctypes.memset(self._addr, 0, EDGE_MAP_BYTES)
        return counts

    def _look_at_all(self) -> None:
        """Learn of edges that nobody expected: returns, callbacks, other programs."""
        known = set(self._indices)
        self._indices += [
            at for at, count in enumerate(bytes(self._map)) if count and at not in known
        ]
        self._take()

    def clear(self) -> None:
        """Forget what was counted."""
        ctypes.memset(self._addr, 0, EDGE_MAP_BYTES)

    def features(self, counts: tuple[int, ...]) -> frozenset[object]:
        """Edges with how often they were taken, in AFL's classes."""
        return frozenset(
            (index, _class_of(count)) for index, count in zip(self._indices, counts) if count
        )


def _class_of(count: int) -> int:
    """1, 2, 3, 4-7, 8-15, 16-31, 32-127, 128 and more."""
    if count < 4:
        return count
    return 4 if count < 8 else 8 if count < 16 else 16 if count < 32 else 32 if count < 128 else 128


def _only(obj: LoadedObject) -> str:
    names = list(obj.programs)
    if len(names) != 1:
        raise InputError(
            f"the object has {len(names)} programs",
            where=obj.object.path,
            remedy=f"name one with --prog: {', '.join(names)}",
        )
    return names[0]


def _check(profile: Profile, where: str) -> None:
    reason = jit_refusal()
    if reason is not None:
        raise UnsupportedError("the JIT", where=reason)
    if not profile.runs:
        raise UnsupportedError(f"programs of type {profile.title}", where=where)
    if profile.loop is not None:
        raise InputError(
            "the program drives a ring from inside an enter, and outside there is none",
            where=where,
            remedy="fuzz its schedules instead: pybpfvm explore",
        )


def _own(
    rows: Mapping[int, Helper],
    functions: Mapping[str, Callable[[int, int, int, int, int], int]],
) -> Mapping[int, Helper]:
    """The helpers, with some that the caller answers for."""
    unknown = set(functions) - {row.name for row in rows.values()}
    if unknown:
        raise InputError(f"no helper is called {sorted(unknown)[0]!r}", where="helpers")

    def asked(function: Callable[[int, int, int, int, int], int]) -> Any:
        def impl(ctx: HelperContext, a: int, b: int, c: int, d: int, e: int) -> int:
            return function(a, b, c, d, e)

        return impl

    return {
        number: replace(row, impl=asked(functions[row.name]), steady=False)
        if row.name in functions
        else row
        for number, row in rows.items()
    }
