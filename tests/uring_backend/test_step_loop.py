"""The native loop of programs that drive a ring from inside an enter, against Python's: the same
programs, the same outcome.

Each scenario runs looped on the kernel's ring by both releases of the ABI, interpreted on the
kernel's ring, and interpreted on the simulated one. data/loops/steps.bpf.c has the programs;
examples/build.sh compiles it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pybpfvm.errors import RingError, RingHang, Trap, TrapKind, UnsupportedError
from pybpfvm.jit.engine import JitEngine
from pybpfvm.maps.array import ArrayMap
from pybpfvm.session import Block, LoadedObject, LoopRing, Machine
from pybpfvm.session.hostring import BackendName
from pybpfvm.session.loopring import LOOP_FLAGS, _Stepper
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op, Sqe
from pybpfvm.uring_backend.kernel import direct, steps
from pybpfvm.uring_backend.kernel.world import KernelWorld
from pybpfvm.uring_backend.loop.attach import Link
from pybpfvm.uring_backend.loop.budgets import LoopBudgets
from pybpfvm.uring_backend.loop.ring import LoopRing as CoreRing
from pybpfvm.uring_backend.settings import CLOCK_BOOTTIME
from pybpfvm.verifier.verdict import Accepted
from tests.support.session_ring import need_backend

pytestmark = pytest.mark.kernel_ring

_COMPILING = ("jit", "llvm") if find_spec("llvmlite") is not None else ("jit",)
STEPS = Path(__file__).resolve().parents[1] / "data" / "loops" / "steps.bpf.o"
SQ_ENTRIES, CQ_ENTRIES = 8, 16
END, PUT, SUBMIT, POKE_CQ, POKE_SQ, PEEK_CQ, REAP, WAIT, ANSWER, SHOW = range(10)
HEAD, TAIL, ZERO = range(3)
_OP = struct.Struct("<IIII64s")
_OPS, _LOG = 512, 2048
_MEM_BYTES = _OPS * _OP.size + 8 * _LOG
_DEFER = abi.SETUP_SINGLE_ISSUER | abi.SETUP_DEFER_TASKRUN
# Rewound, by head and tail, through an index array; batches that go on behind a bad request.
RELEASES = ("loop-7.1", "loop-7.2")
RINGS = {
    "rewind": LOOP_FLAGS,
    "queue": _DEFER | abi.SETUP_NO_SQARRAY,
    "array": _DEFER,
    "all": LOOP_FLAGS | abi.SETUP_SUBMIT_ALL,
    "array, all": _DEFER | abi.SETUP_SUBMIT_ALL,
}
SQ_HEAD_AT, SQ_TAIL_AT, CQ_HEAD_AT, CQ_TAIL_AT, SQ_FLAGS_AT, ARRAY_AT = 0, 4, 8, 12, 36, 320


def op(what: int, a: int = 0, b: int = 0, c: int = 0, sqe: Sqe | None = None) -> bytes:
    """One thing that `scripted` does."""
    return _OP.pack(what, a, b, c, bytes(64) if sqe is None else sqe.pack())


@dataclass
class Table:
    """A ring with one of the programs on it, for one scenario."""

    ring: LoopRing
    obj: LoadedObject
    mem: Block
    link: Link
    seen: list[object] = field(default_factory=list)

    @property
    def looped(self) -> int:
        """How many runs the native loop has made."""
        native = self.ring.core.native
        return 0 if native is None else native.looped

    def number(self, name: str) -> int:
        """A global of the programs."""
        value = self.obj.globals[name]
        assert isinstance(value, int)
        return value

    def script(self, *ops: bytes) -> None:
        """What `scripted` does next."""
        self.mem.write(b"".join(ops).ljust(_OPS * _OP.size, b"\0"))
        self.obj.globals["at"] = 0

    def note(self, call: Callable[..., object], *args: object) -> None:
        """Note what the call returns or raises."""
        try:
            self.seen.append(call(*args))
        except (RingError, RingHang, Trap, UnsupportedError) as stop:
            self.seen.append(f"{type(stop).__name__}: {stop}")

    def outcome(self) -> dict[str, object]:
        """Everything that can be seen."""
        core = self.ring.core
        return {
            "seen": self.seen,
            "steps": core.steps,
            "state": core.state(),
            "words": core.queues.words,
            "counts": self.ring.counts.copy(),
            "in flight": core.in_flight(),
            "log": struct.unpack(f"<{_LOG}Q", self.mem.read(8 * _LOG, _OPS * _OP.size)),
            "globals": {name: self.obj.globals[name] for name in _GLOBALS},
            "region": self.ring.machine.memory.read(core.queues.cq.address, 4096),
            "CQEs": [(cqe.user_data, cqe.res, cqe.flags) for cqe in self.ring.reap()],
        }


_GLOBALS = ("at", "logged", "steps", "left", "in_flight", "reaped")
Scenario = Callable[[Table], object]


@cache
def loaded(release: str) -> tuple[Machine, LoadedObject]:
    """Once for all tests: programs are verified once."""
    machine = Machine()
    return machine, machine.load(STEPS, abi=release, constants={"sq_entries": SQ_ENTRIES})


@contextmanager
def looping(name: str, *, mem: bool = True, **options: Any) -> Iterator[Table]:
    """A ring with the program on it, everything at its beginning; on the kernel's without more."""
    need_backend(options.setdefault("backend", "kernel"))
    machine, obj = loaded(options.setdefault("abi", RELEASES[-1]))
    for each in (*_GLOBALS, "depth", "turns", "found", "address"):
        obj.globals[each] = 0
    with LoopRing(SQ_ENTRIES, cq_entries=CQ_ENTRIES, machine=machine, **options) as ring:
        block = ring.register_mem(_MEM_BYTES) if mem else ring.user.alloc(8)
        with ring.attach(obj, f"{name}_ops") as link:
            table = Table(ring, obj, block, link)
            yield table
    table.mem.free()


def played(
    scenario: Scenario, name: str, backend: BackendName, engine: str, **options: Any
) -> tuple[dict[str, object], int]:
    """(outcome, runs made by the native loop)."""
    with looping(name, backend=backend, engine=engine, **options) as table:
        extra = scenario(table)
        return {**table.outcome(), "extra": extra}, table.looped


def compare(
    scenario: Scenario,
    name: str,
    *,
    least: int = 1,
    sim: bool = True,
    releases: tuple[str, ...] = RELEASES,
    **options: Any,
) -> dict[str, object]:
    """The outcome, which must not depend on who runs the loop, nor on the ABI's release; that made
    `least` runs at least."""

    def play(backend: BackendName, engine: str, release: str) -> tuple[dict[str, object], int]:
        return played(scenario, name, backend, engine, abi=release, **options)

    ordinary, none = play("kernel", "interp", releases[-1])
    assert none == 0
    for engine, release in product(_COMPILING, releases):
        looped, runs = play("kernel", engine, release)
        assert runs >= least, f"the native loop of {engine} made {runs} runs by {release}"
        assert looped == ordinary, (engine, release)
    if sim:
        assert _hangs(ordinary) == _hangs(play("sim", "interp", releases[0])[0])
    return ordinary


def _hangs(outcome: dict[str, object]) -> dict[str, object]:
    """The simulated ring knows more of why a ring hangs: there are no outsiders."""
    seen = outcome["seen"]
    assert isinstance(seen, list)
    return {
        **outcome,
        "seen": [re.sub("^(RingHang).*", r"\1", str(one), flags=re.DOTALL) for one in seen],
    }


@pytest.mark.parametrize("depth", [1, 7, 8])
def test_nops(depth: int) -> None:
    """Seven at a time: some lie at both ends of the real SQ."""

    def scenario(table: Table) -> None:
        table.obj.globals["depth"], table.obj.globals["left"] = depth, 1000
        table.note(table.ring.enter)

    outcome = compare(scenario, "nops", least=1000 // depth - 1)
    assert outcome["seen"] == [0]


def test_in_71_a_loop_may_look_into_the_ring() -> None:
    """Of its struct there are numbers only, none of which leads anywhere."""

    def scenario(table: Table) -> None:
        table.obj.globals["left"] = 1000
        table.note(table.ring.enter)

    outcome = compare(scenario, "looks", least=1000 // SQ_ENTRIES - 1, releases=RELEASES[:1])
    assert outcome["seen"] == [0]
    assert outcome["steps"] == 1000 // SQ_ENTRIES + 1


@pytest.mark.parametrize("engine", ["interp", *_COMPILING])
@pytest.mark.parametrize("release", RELEASES)
def test_what_only_kernels_can_look_through_is_checked(release: str, engine: str) -> None:
    """A pointer in a map value may be stale, or no pointer: it is accepted, as kernels do, which
    catch the fault. Without checks a program could read all of this process so."""
    ours = ctypes.create_string_buffer(b"SECRET!!")
    with looping("keeps", engine=engine, abi=release) as table:
        table.obj.maps["pointers"][0] = bytes(8)
        verdict = table.obj["keeps"].verdict()
        assert isinstance(verdict, Accepted)
        assert verdict.probes
        assert table.ring.enter() == 0
        assert table.number("found") == 0
        pointers = table.obj.maps["pointers"].live
        assert isinstance(pointers, ArrayMap)
        pointers.memory.write(pointers.region.start, ctypes.addressof(ours).to_bytes(8, "little"))
        table.obj.globals["steps"] = 0
        with pytest.raises(Trap) as caught:
            table.ring.enter()
        assert caught.value.kind is TrapKind.OUT_OF_BOUNDS
        assert table.number("found") == 0
        assert table.looped == 0


@pytest.mark.parametrize("engine", ["interp", *_COMPILING])
@pytest.mark.parametrize("release", RELEASES)
def test_no_update_puts_a_number_where_a_pointer_is(release: str, engine: str) -> None:
    ours = ctypes.create_string_buffer(b"SECRET!!")
    with looping("keeps", engine=engine, abi=release) as table:
        pointers = table.obj.maps["pointers"]
        assert isinstance(pointers.live, ArrayMap)
        table.obj.globals["address"] = ctypes.addressof(ours)
        assert table.ring.enter() == 0  # each step forges it anew
        assert table.number("steps") == 4
        assert table.number("found") == 0
        start = pointers.live.region.start
        assert pointers.live.memory.read(start, 8) == bytes(8)
        table.obj.globals["address"], table.obj.globals["steps"] = 0, 0
        assert table.ring.enter() == 0  # keeps the pointer that it was given
        kept = pointers.live.memory.read(start, 8)
        assert kept != bytes(8)
        assert pointers.live.host_lookup(bytes(4)) == bytes(8)
        pointers[0] = ctypes.addressof(ours).to_bytes(8, "little")
        assert pointers.live.memory.read(start, 8) == bytes(8)


@pytest.mark.parametrize("engine", _COMPILING)
def test_loops_are_compiled_for_memory_that_others_write_to(engine: str) -> None:
    """LLVM would load a value again behind its test, or not at all in a loop that polls."""
    with looping("nops", engine=engine) as table:
        table.obj.globals["depth"], table.obj.globals["left"] = 1, 100
        table.ring.enter()
        assert table.looped > 0
        native = table.ring.core.native
        assert native is not None
        assert isinstance(native.owner, _Stepper)
        compiled = native.owner._engine
        assert isinstance(compiled, JitEngine)
        assert compiled._loops is not None
        assert all(unit.build.shares for unit in compiled._loops._units.values())
        assert compiled._loops._units


@dataclass
class Files:
    """What requests of a script are about."""

    fd: int  # a socket with 200 bytes to receive, whose peer takes what is sent
    silent: int  # a socket to which nobody sends
    file: int  # 250 bytes
    buffer: int  # 16 bytes of user memory


class Script:
    """A generated script: what compiled code does and what it leaves to Python, in all orders.

    `hostile`: it also writes where it should not. `shows`: it looks into the ring (by 7.1).
    """

    def __init__(
        self, seed: int, files: Files, flags: int, *, hostile: bool, shows: bool = False
    ) -> None:
        self._random = Random(seed)
        self._files = files
        self._rewinds = bool(flags & abi.SETUP_SQ_REWIND)
        self._hostile = hostile
        self._shows = shows
        self._number = 0
        self._tail = 0
        self._silents: list[int] = []

    def sqe(self) -> Sqe:
        """One more request."""
        random, files = self._random, self._files
        self._number += 1
        kinds = ["nop"] * 6 + ["read"] * 3 + ["send", "recv", "silent", "cancel", "slow", "fixed"]
        kinds += ["foreign", "fault", "bad", "skip", "attributes", "opcode", "refused"]
        fields = {"user_data": self._number}
        match random.choice(kinds):
            case "nop":
                fields |= {"opcode": Op.NOP, "flags": random.choice([0, 0, 0, abi.SQE_FIXED_FILE])}
            case "read":
                off = random.choice([0, 240, 245, 250, 300, (1 << 64) - 2])
                fields |= {"opcode": Op.READ, "fd": files.file, "addr": files.buffer, "off": off}
                fields["len"] = random.choice([0, 1, 16])
            case "send":
                fields |= {"opcode": Op.SEND, "fd": files.fd, "addr": files.buffer, "len": 3}
                fields["op_flags"] = random.choice([0, abi.MSG_NOSIGNAL])
            case "recv":
                fields |= {"opcode": Op.RECV, "fd": files.fd, "addr": files.buffer, "len": 1}
            case "silent":
                fields |= {"opcode": Op.RECV, "fd": files.silent, "addr": files.buffer, "len": 1}
                self._silents.append(self._number)
            case "cancel":
                target = self._silents.pop() if self._silents else 5000
                fields |= {"opcode": Op.ASYNC_CANCEL, "addr": target}
            case "slow":
                fields |= {"opcode": Op.SEND, "fd": files.fd, "addr": files.buffer, "len": 1}
                fields["op_flags"] = abi.MSG_DONTWAIT
            case "fixed":
                fields |= {"opcode": Op.READ, "flags": abi.SQE_FIXED_FILE, "fd": 3}
                fields |= {"addr": files.buffer, "len": 1}
            case "foreign":
                fd = random.choice([0, 1, -1, 1 << 20])
                fields |= {"opcode": Op.READ, "fd": fd, "addr": files.buffer, "len": 1}
            case "fault":
                addr = files.buffer + random.choice([1, 1 << 20, -1, -files.buffer])
                fields |= {"opcode": Op.READ, "fd": files.file, "addr": addr, "len": 16}
            case "bad":
                fields |= {"opcode": Op.NOP} | random.choice([{"ioprio": 1}, {"flags": 0x80}])
            case "skip":
                fields |= {"opcode": Op.NOP, "flags": abi.SQE_CQE_SKIP_SUCCESS}
            case "attributes":
                fields |= {"opcode": Op.READ, "fd": files.file, "addr": files.buffer, "pad": 1}
            case "refused":  # plain, and the kernel does not prepare it
                fields |= {"opcode": Op.RECV, "fd": files.fd, "addr": files.buffer, "len": 1}
                fields["file_index"] = 1
            case "opcode":
                fields |= {"opcode": random.choice([200, 255])}
        return Sqe(**fields)

    def batch(self) -> Iterator[bytes]:
        """Requests, and their submission."""
        random = self._random
        sqes = [self.sqe() for _ in range(random.choice([1, 1, 1, 2, 3, 5, 7]))]
        count = len(sqes)
        for place, sqe in enumerate(sqes):
            yield op(PUT, place if self._rewinds else self._tail + place, sqe=sqe)
        if not self._rewinds:
            self._tail += count
            yield op(POKE_CQ, SQ_TAIL_AT, count, 1)
        more = random.choice([0, 0, 0, 0, -1, 1, 5, 0xFFFF_FFF0])
        yield op(SUBMIT, (count + more) & 0xFFFF_FFFF)

    def poke(self) -> bytes:
        """A write to where a program should not write."""
        random = self._random
        value = random.choice([0, 1, 7, 16, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
        if random.random() < 0.2:
            return op(POKE_SQ, 4 * random.randrange(128), value)
        if random.random() < 0.3:
            return op(POKE_CQ, ARRAY_AT + 4 * random.randrange(8), random.choice([value, 3]))
        return op(POKE_CQ, 4 * random.randrange(20), value, random.choice([0, 1]))

    def ops(self) -> Iterator[bytes]:
        """All of it."""
        random = self._random
        while True:
            if self._shows:
                yield op(SHOW)
            yield from self.batch()
            if self._shows:
                yield op(SHOW)
            while random.random() < 0.5:
                yield op(REAP, random.choice([1, 4, 40]), CQ_ENTRIES - 1)
            if random.random() < 0.2:
                yield op(PEEK_CQ, random.choice([0, 4, 8, 12, 32, 36, 44]))
            if self._hostile and random.random() < 0.3:
                yield self.poke()
            if random.random() < 0.6:
                more = random.choice([0, 0, 1, 1, 2, 0x8000_0000])
                yield op(WAIT, random.choice([HEAD, TAIL, TAIL, ZERO]), more)
            elif random.random() < 0.1:
                yield op(ANSWER, random.choice([1, 1, 1, 2, 0xFFFF_FFFF]))


def _scenario(seed: int, flags: int, *, hostile: bool, shows: bool = False) -> Scenario:
    def scenario(table: Table) -> object:
        world = table.ring.world
        (fd, peer), (silent, kept) = world.socketpair(), world.socketpair()
        assert peer.send(bytes(range(200))) == 200
        world.add_file("data", bytes(range(250)))
        buffer = table.ring.user.alloc(16)
        files = Files(fd, silent, world.open("data", os.O_RDONLY), buffer.addr)
        script = Script(seed, files, flags, hostile=hostile, shows=shows).ops()
        table.script(*(next(script) for _ in range(_OPS - 1)))
        for _ in range(8):
            table.note(table.ring.enter)
        received = b""
        while part := peer.recv(4096):
            received += part
        table.mem.write(bytes(_OPS * _OP.size))  # what differs from ring to ring
        kept.close()
        return received, buffer.read()

    return scenario


_SCRIPTS = int(os.environ.get("PYBPFVM_LOOP_SCRIPTS", "20"))
_IDLE_NS = 20_000_000
# Room for everything, and for little.
BUDGETS = {
    "wide": LoopBudgets(idle_timeout_ns=_IDLE_NS),
    "narrow": LoopBudgets(idle_timeout_ns=_IDLE_NS, backlog_entries=3, live_requests=6),
}


def _kind(seed: int) -> tuple[int, LoopBudgets]:
    """Set-up flags and budgets of a script."""
    return list(RINGS.values())[seed % len(RINGS)], list(BUDGETS.values())[seed // len(RINGS) % 2]


@pytest.mark.parametrize("seed", range(_SCRIPTS))
def test_scripts(seed: int) -> None:
    flags, budgets = _kind(seed)
    compare(_scenario(seed, flags, hostile=False), "scripted", flags=flags, budgets=budgets)


@pytest.mark.parametrize("seed", range(_SCRIPTS))
def test_hostile_scripts(seed: int) -> None:
    """Not against the simulated ring, which has not all that a request comes to when it is
    overwritten."""
    flags, budgets = _kind(seed)
    scenario = _scenario(seed, flags, hostile=True)
    compare(scenario, "scripted", flags=flags, budgets=budgets, least=0, sim=False)


@pytest.mark.parametrize("seed", range(_SCRIPTS))
def test_scripts_that_look_into_the_ring(seed: int) -> None:
    """At every turn, and behind every submission."""
    flags, budgets = _kind(seed)
    hostile = seed % 4 == 3
    compare(
        _scenario(seed, flags, hostile=hostile, shows=True),
        "shows",
        flags=flags,
        budgets=budgets,
        least=0 if hostile else 1,
        sim=not hostile,
        releases=RELEASES[:1],
    )


@pytest.mark.parametrize("mode", RINGS)
def test_the_kernels_own_copies_of_heads_and_tails_are_seen(mode: str) -> None:
    """They are what the regions say, until the program writes there. Where SQEs are rewound there
    is no head."""
    sqes = [op(PUT, place, sqe=Sqe(Op.NOP, user_data=place)) for place in range(5)]
    later = Sqe(Op.TIMEOUT, user_data=9, len=1)
    rewinds = bool(RINGS[mode] & abi.SETUP_SQ_REWIND)

    def scenario(table: Table) -> None:
        timeout = table.ring.user.alloc(struct.pack("<QQ", 0, 1_000_000))
        table.ring.register_clock(CLOCK_BOOTTIME)
        table.script(
            *(op(SHOW), *sqes[:3], op(POKE_CQ, SQ_TAIL_AT, 3), op(SUBMIT, 3), op(SHOW)),
            *(op(POKE_CQ, SQ_HEAD_AT, 77), op(POKE_CQ, CQ_TAIL_AT, 88), op(SHOW)),
            op(PUT, 0 if rewinds else 3, sqe=replace(later, addr=timeout.addr)),
            *(op(POKE_CQ, SQ_TAIL_AT, 4), op(SUBMIT, 1), op(SHOW), op(WAIT, ZERO, 4), op(SHOW)),
        )
        table.note(table.ring.enter)
        table.mem.write(bytes(_OPS * _OP.size))  # with an address that differs

    outcome = compare(scenario, "shows", flags=RINGS[mode], releases=RELEASES[:1])
    assert outcome["seen"] == [0]
    log = outcome["log"]
    assert isinstance(log, tuple)

    def shown(cq_tail: int, sq_head: int) -> tuple[int, int]:
        return cq_tail << 32 | (0 if rewinds else sq_head), CLOCK_BOOTTIME << 32

    expected = (0, *shown(0, 0), 3, 3 << 32 | (0 if rewinds else 3), *shown(3, 3), *shown(3, 3))
    assert log[: len(expected)] == expected
    submitted, *rest = log[len(expected) : len(expected) + 7]
    assert submitted == 1
    assert tuple(rest[1:3]) == shown(3, 4)
    assert rest[3] == 4  # the index that it waited for
    assert tuple(rest[4:6]) == shown(4, 4)


# What a NOP may have that makes it one of those that the guard, or Python, has to look at.
_NOT_PLAIN = {
    "flags": {"flags": 0x80},
    "ioprio": {"ioprio": 1},
    "op_flags": {"op_flags": abi.NOP_FILE, "fd": 0},
    "personality": {"personality": 9},
    "attributes": {"pad": 1},
}


def _five_nops(odd: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> Scenario:
    """Five, twice; the last time one is odd. It notes what Python submitted."""
    submit = CoreRing.submit_sqes
    plain = [Sqe(Op.NOP, fd=place, user_data=place) for place in range(5)]
    sqes = [*plain[:2], replace(plain[2], **odd), *plain[3:]]

    def scenario(table: Table) -> object:
        asked: list[int] = []

        def submit_sqes(self: CoreRing, count: int) -> int:
            asked.append(count)
            return submit(self, count)

        monkeypatch.setattr(CoreRing, "submit_sqes", submit_sqes)
        for batch in (plain, sqes):
            puts = [op(PUT, place, sqe=sqe) for place, sqe in enumerate(batch)]
            table.script(*puts, op(SUBMIT, 5), op(WAIT, TAIL, 0), op(REAP, 40, CQ_ENTRIES - 1))
            table.note(table.ring.enter)
        return asked

    return scenario


@pytest.mark.parametrize("field", _NOT_PLAIN)
def test_a_nop_that_is_not_plain_is_looked_at(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code issues no NOP with more to it, even where the kernel would say the same."""
    scenario = _five_nops(_NOT_PLAIN[field], monkeypatch)
    assert compare(scenario, "scripted", sim=False, least=2)["extra"] == [5, 5]


def test_plain_nops_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even with numbers where a NOP has none."""
    odd = {"fd": -1, "off": 1, "addr": 2, "len": 3, "buf_index": 4, "file_index": 5, "addr3": 6}
    for engine in _COMPILING:
        scenario = _five_nops(odd, monkeypatch)
        outcome, _ = played(scenario, "scripted", "kernel", engine)
        assert outcome["extra"] == [5]


def test_more_requests_than_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "SLOTS", 4)

    def scenario(table: Table) -> None:
        table.obj.globals["depth"], table.obj.globals["left"] = 8, 1000
        table.note(table.ring.enter)

    compare(scenario, "nops", least=100)


@pytest.mark.parametrize("most", [1, 2, 100, 1500])
def test_budget_of_steps(most: int) -> None:
    def scenario(table: Table) -> None:
        table.obj.globals["depth"], table.obj.globals["left"] = 1, 1_000_000
        for _ in range(3):
            table.note(table.ring.enter)

    outcome = compare(scenario, "nops", least=most - 1, budgets=LoopBudgets(max_steps=most))
    assert f"the budget of {most:,} steps" in str(outcome["seen"])
    assert outcome["steps"] == 3 * most


@pytest.mark.parametrize("turns", [0, 1, 50, 200])
def test_live_locks(turns: int) -> None:
    def scenario(table: Table) -> None:
        table.obj.globals["turns"] = turns
        for _ in range(2):
            table.note(table.ring.enter)

    outcome = compare(scenario, "idles", least=190, budgets=LoopBudgets(livelock_steps=100))
    assert "100 steps in a row changed nothing" in str(outcome["seen"])


def test_a_trap_in_a_loop() -> None:
    def scenario(table: Table) -> None:
        table.obj.globals["turns"] = 10
        for _ in range(2):
            table.note(table.ring.enter)

    outcome = compare(scenario, "spends", least=40, budget_insns=3000)
    assert "Trap" in str(outcome["seen"])


def test_wall_time() -> None:
    need_backend("kernel")
    budgets = LoopBudgets(max_steps=1 << 40, wall_ns=500_000_000)
    with looping("nops", budgets=budgets) as table:
        table.obj.globals["depth"], table.obj.globals["left"] = 1, (1 << 32) - 1
        began = time.monotonic()
        with pytest.raises(RingHang, match=r"did not stop within 0\.5 s"):
            table.ring.enter()
        assert time.monotonic() - began < 5
        assert table.looped > 100


def test_a_wait_that_takes_longer_than_a_turn() -> None:
    """One step waits for two reads, the second of which ends long after the first."""

    def scenario(table: Table) -> None:
        assert isinstance(table.ring.world, KernelWorld)
        pipes = [os.pipe() for _ in range(2)]
        reads = []
        for number, (read_end, _) in enumerate(pipes):
            table.ring.world.adopt(read_end)
            buffer = table.ring.user.alloc(8)
            reads.append(Sqe(Op.READ, fd=read_end, addr=buffer.addr, len=8, user_data=number))
        puts = [op(PUT, place, sqe=sqe) for place, sqe in enumerate(reads)]
        reaps = [op(REAP, 2, CQ_ENTRIES - 1)]
        table.script(op(WAIT, TAIL, 0), *puts, op(SUBMIT, 2), op(WAIT, ZERO, 2), *reaps)

        def feed() -> None:
            while table.number("steps") < 2:
                time.sleep(0.001)
            for _, write_end in pipes:
                time.sleep(0.1)
                os.write(write_end, _BLOCK)
                os.close(write_end)

        feeder = threading.Thread(target=feed)
        feeder.start()
        table.note(table.ring.enter)
        feeder.join()
        table.mem.write(bytes(_OPS * _OP.size))  # what differs from ring to ring

    outcome = compare(scenario, "scripted", sim=False)
    assert outcome["steps"] == 3


def test_rings_of_other_sizes_and_programs_one_after_the_other() -> None:
    """Each loops where its ring is by then."""
    with looping("nops") as table:
        ring, obj = table.ring, table.obj
        for entries, cq_entries in ((8, 16), (32, 32), (8, 8)):
            before = table.looped
            obj.globals["depth"], obj.globals["left"] = 8, 800
            ring.resize(entries, cq_entries)
            assert ring.enter() == 0
            assert table.looped >= before + 100
            assert ring.core.queues.words["cq_tail"] == table.number("reaped")
        table.link.destroy()
        with ring.attach(obj, "idles_ops"), pytest.raises(RingHang):
            ring.enter()
        looped = table.looped
        assert looped > 5000
        with ring.attach(obj, "nops_ops"):
            obj.globals["left"] = 800
            assert ring.enter() == 0
        assert table.looped >= looped + 99


@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals need this thread"
)
@pytest.mark.parametrize("depth", [1, 8])
def test_signals_end_loops_and_lose_nothing(depth: int) -> None:
    random = Random(3)
    with looping("nops", budgets=LoopBudgets(max_steps=1 << 40)) as table:
        counts = table.obj.globals
        looped = 0
        for _ in range(15):
            counts["depth"], counts["left"] = depth, (1 << 32) - 1
            ready, began = table.looped, time.monotonic()
            delay = 0.001 + random.random() / 30
            timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it may come before the call
                timer.start()
                table.ring.enter()
                timer.join()
            assert time.monotonic() - began < 5
            looped += table.looped > ready
            counts["left"] = 0
            assert table.ring.enter() == 0
            core = table.ring.core
            assert core.in_flight() == table.ring.backend.in_flight() == 0
            words = core.queues.words
            assert words["cq_head"] == words["cq_tail"] == table.number("reaped")
            assert table.ring.counts.posted[0] == table.number("reaped")
            assert table.ring.counts.runs["nops"] == core.steps == table.number("steps")
        assert looped > 5


@dataclass
class Pipe:
    """What `transfers` reads, 8 bytes at a time; `buffer` is where to."""

    buffer: Block
    read_end: int
    write_end: int


_BLOCK = b"8 bytes."


@contextmanager
def during_a_sleep(
    monkeypatch: pytest.MonkeyPatch, *, mem: bool = True
) -> Iterator[tuple[Table, Pipe, Callable[[Callable[[], object]], object]]]:
    """(table, pipe, play) around a program that reads a pipe for ever.

    `play` enters a loop that does not look up for long; another thread feeds it and calls what it
    is given while the loop sleeps, then feeds it twice more, and at last ends it: what the enter
    came to.
    """
    with looping("transfers", mem=mem) as table, ExitStack() as after:
        ring, counts = table.ring, table.obj.globals
        read_end, write_end = os.pipe()
        assert isinstance(ring.world, KernelWorld)
        ring.world.adopt(read_end)
        after.callback(os.close, write_end)
        pipe = Pipe(ring.user.alloc(8), read_end, write_end)
        counts["fd"], counts["opcode"], counts["flags"] = read_end, Op.READ, 0
        counts["buffer"], counts["result"] = pipe.buffer.addr, 0
        monkeypatch.setattr(steps, "TURN_NS", 5_000_000_000)
        monkeypatch.setattr(steps, "_SLEEP_NS", 5_000_000_000)

        def play(change: Callable[[], object]) -> object:
            def feed() -> None:
                for _ in range(10):
                    before = counts["reaped"]
                    os.write(write_end, _BLOCK)
                    limit = time.monotonic() + 5
                    while counts["reaped"] == before and time.monotonic() < limit:
                        time.sleep(0.0005)
                change()
                for _ in range(2):
                    os.write(write_end, _BLOCK)
                    time.sleep(0.005)
                ring.core.signal()
                os.write(write_end, _BLOCK)

            server = threading.Thread(target=feed)
            server.start()
            try:
                return ring.enter()
            except RingError as error:
                return -error.errno
            finally:
                server.join()
                assert table.looped > 5

        yield table, pipe, play


def test_other_threads_serve_a_loop_that_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    with during_a_sleep(monkeypatch) as (table, pipe, play):
        assert play(lambda: None) == -errno.EINTR
        assert table.obj.globals["result"] == 8
        assert table.number("reaped") >= 12
        assert pipe.buffer.read() == _BLOCK


def test_a_descriptor_closed_during_a_sleep_is_no_longer_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its number is the process's own by then."""
    with during_a_sleep(monkeypatch) as (table, pipe, play):
        ours, writer = os.pipe()
        os.write(writer, b"SECRET!!")

        def change() -> None:
            table.ring.world.close(pipe.read_end)
            os.dup2(ours, pipe.read_end)

        monkeypatch.setattr(os, "write", _ignoring_broken_pipes(os.write))
        assert play(change) == 0
        assert table.obj.globals["result"] == -errno.EBADF
        assert pipe.buffer.read() == _BLOCK
        assert os.read(ours, 8) == b"SECRET!!"
        for fd in (ours, writer, pipe.read_end):
            os.close(fd)


def _ignoring_broken_pipes(write: Callable[[int, bytes], int]) -> Callable[[int, bytes], int]:
    def call(fd: int, data: bytes) -> int:
        with suppress(BrokenPipeError):
            return write(fd, data)
        return 0

    return call


def test_a_block_freed_during_a_sleep_is_no_longer_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with during_a_sleep(monkeypatch) as (table, pipe, play):
        assert play(pipe.buffer.free) == 0
        assert table.obj.globals["result"] == -errno.EFAULT


def test_a_program_detached_during_a_sleep_is_not_called_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with during_a_sleep(monkeypatch) as (table, _, play):
        at_the_end: list[object] = []

        def change() -> None:
            time.sleep(0.01)
            at_the_end.append(table.obj.globals["steps"])
            table.link.destroy()

        assert play(change) == -errno.EFAULT
        assert at_the_end == [table.obj.globals["steps"]]


def test_a_region_registered_during_a_sleep_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with during_a_sleep(monkeypatch, mem=False) as (table, _, play):
        before: list[object] = []

        def change() -> None:
            before.append(table.obj.globals["found"])
            table.mem = table.ring.register_mem(4096)

        assert play(change) == -errno.EINTR
        assert before == [0]
        assert table.obj.globals["found"] == 1
