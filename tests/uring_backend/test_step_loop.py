"""The native loop of programs that drive a ring from inside an enter, against Python's: the same
programs, the same outcome.

Each scenario runs looped on the kernel's ring, interpreted on the kernel's ring, and interpreted on
the simulated one. data/loops/steps.bpf.c has the programs; examples/build.sh compiles it.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random

import pytest

from pybpfvm.errors import RingError, RingHang, Trap, UnsupportedError
from pybpfvm.session import Block, LoadedObject, LoopRing, Machine
from pybpfvm.session.hostring import BackendName
from pybpfvm.session.loopring import LOOP_FLAGS
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op, Sqe
from pybpfvm.uring_backend.loop.ring import LoopBudgets
from tests.support.session_ring import need_backend

pytestmark = pytest.mark.kernel_ring

STEPS = Path(__file__).resolve().parents[1] / "data" / "loops" / "steps.bpf.o"
SQ_ENTRIES, CQ_ENTRIES = 8, 16
END, PUT, SUBMIT, POKE_CQ, POKE_SQ, PEEK_CQ, REAP, WAIT, ANSWER = range(9)
HEAD, TAIL, ZERO = range(3)
_OP = struct.Struct("<IIII64s")
_OPS, _LOG = 512, 2048
_MEM_BYTES = _OPS * _OP.size + 8 * _LOG
_DEFER = abi.SETUP_SINGLE_ISSUER | abi.SETUP_DEFER_TASKRUN
# Rewound, by head and tail, through an index array; batches that go on behind a bad request.
RINGS = {
    "rewind": LOOP_FLAGS,
    "queue": _DEFER | abi.SETUP_NO_SQARRAY,
    "array": _DEFER,
    "all": LOOP_FLAGS | abi.SETUP_SUBMIT_ALL,
    "array, all": _DEFER | abi.SETUP_SUBMIT_ALL,
}
SQ_TAIL_AT, CQ_HEAD_AT, SQ_FLAGS_AT, ARRAY_AT = 4, 8, 36, 320


def op(what: int, a: int = 0, b: int = 0, c: int = 0, sqe: Sqe | None = None) -> bytes:
    """One thing that `scripted` does."""
    return _OP.pack(what, a, b, c, bytes(64) if sqe is None else sqe.pack())


@dataclass
class Table:
    """A ring with one of the programs on it, for one scenario."""

    ring: LoopRing
    obj: LoadedObject
    mem: Block
    seen: list[object] = field(default_factory=list)

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
def loaded() -> tuple[Machine, LoadedObject]:
    """Once for all tests: programs are verified once."""
    machine = Machine()
    return machine, machine.load(STEPS, abi="loop-7.2", constants={"sq_entries": SQ_ENTRIES})


def played(
    scenario: Scenario,
    name: str,
    backend: BackendName,
    engine: str,
    flags: int = LOOP_FLAGS,
    budgets: LoopBudgets | None = None,
    budget_insns: int = 1_000_000,
) -> tuple[dict[str, object], int]:
    """(outcome, runs made by the native loop)."""
    machine, obj = loaded()
    for each in (*_GLOBALS, "depth", "turns"):
        obj.globals[each] = 0
    with LoopRing(
        SQ_ENTRIES,
        cq_entries=CQ_ENTRIES,
        flags=flags,
        backend=backend,
        engine=engine,
        machine=machine,
        budgets=budgets,
        budget_insns=budget_insns,
    ) as ring:
        mem = ring.register_mem(_MEM_BYTES)
        table = Table(ring, obj, mem)
        with ring.attach(obj, f"{name}_ops"):
            extra = scenario(table)
        outcome = {**table.outcome(), "extra": extra}
        looped = ring.core.native.looped if ring.core.native is not None else 0
    mem.free()
    return outcome, looped


def compare(
    scenario: Scenario,
    name: str,
    *,
    least: int = 1,
    sim: bool = True,
    flags: int = LOOP_FLAGS,
    budgets: LoopBudgets | None = None,
    budget_insns: int = 1_000_000,
) -> dict[str, object]:
    """The outcome, which must not depend on who runs the loop; that made `least` runs at least."""
    need_backend("kernel")

    def play(backend: BackendName, engine: str) -> tuple[dict[str, object], int]:
        return played(scenario, name, backend, engine, flags, budgets, budget_insns)

    looped, runs = play("kernel", "jit")
    assert runs >= least, f"the native loop made {runs} runs"
    ordinary, none = play("kernel", "interp")
    assert none == 0
    assert looped == ordinary
    if sim:
        assert _hangs(looped) == _hangs(play("sim", "interp")[0])
    return looped


def _hangs(outcome: dict[str, object]) -> dict[str, object]:
    """The simulated ring knows more of why a ring hangs: there are no outsiders."""
    seen = outcome["seen"]
    assert isinstance(seen, list)
    return {
        **outcome,
        "seen": [re.sub("^(RingHang).*", r"\1", str(one), flags=re.DOTALL) for one in seen],
    }


@pytest.mark.parametrize("depth", [1, 8])
def test_nops(depth: int) -> None:
    def scenario(table: Table) -> None:
        table.obj.globals["depth"], table.obj.globals["left"] = depth, 1000
        table.note(table.ring.enter)

    outcome = compare(scenario, "nops", least=1000 // depth - 1)
    assert outcome["seen"] == [0]


@dataclass
class Files:
    """What requests of a script are about."""

    fd: int  # a socket with 200 bytes to receive, whose peer takes what is sent
    silent: int  # a socket to which nobody sends
    file: int  # 250 bytes
    buffer: int  # 16 bytes of user memory


class Script:
    """A generated script: what compiled code does and what it leaves to Python, in all orders.

    `hostile`: it also writes where it should not.
    """

    def __init__(self, seed: int, files: Files, flags: int, *, hostile: bool) -> None:
        self._random = Random(seed)
        self._files = files
        self._rewinds = bool(flags & abi.SETUP_SQ_REWIND)
        self._hostile = hostile
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
            case "recv":
                fields |= {"opcode": Op.RECV, "fd": files.fd, "addr": files.buffer, "len": 1}
            case "silent":
                fields |= {"opcode": Op.RECV, "fd": files.silent, "addr": files.buffer, "len": 1}
                self._silents.append(self._number)
            case "cancel":
                target = self._silents.pop() if self._silents else 5000
                fields |= {"opcode": Op.ASYNC_CANCEL, "addr": target}
            case "slow":
                flags = abi.MSG_NOSIGNAL
                fields |= {"opcode": Op.SEND, "fd": files.fd, "addr": files.buffer, "len": 1}
                fields["op_flags"] = flags
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
            yield from self.batch()
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


def _scenario(seed: int, flags: int, *, hostile: bool) -> Scenario:
    def scenario(table: Table) -> object:
        world = table.ring.world
        (fd, peer), (silent, kept) = world.socketpair(), world.socketpair()
        assert peer.send(bytes(range(200))) == 200
        world.add_file("data", bytes(range(250)))
        buffer = table.ring.user.alloc(16)
        files = Files(fd, silent, world.open("data", os.O_RDONLY), buffer.addr)
        script = Script(seed, files, flags, hostile=hostile).ops()
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


_SCRIPTS = int(os.environ.get("PYBPFVM_LOOP_SCRIPTS", "12"))
_IDLE_NS = 20_000_000
# Room for everything, and for little.
BUDGETS = {
    "wide": LoopBudgets(idle_timeout_ns=_IDLE_NS),
    "narrow": LoopBudgets(idle_timeout_ns=_IDLE_NS, backlog_entries=3, live_requests=6),
}


@pytest.mark.parametrize("flags", RINGS.values(), ids=RINGS)
@pytest.mark.parametrize("budgets", BUDGETS.values(), ids=BUDGETS)
@pytest.mark.parametrize("seed", range(_SCRIPTS))
def test_scripts(seed: int, budgets: LoopBudgets, flags: int) -> None:
    compare(_scenario(seed, flags, hostile=False), "scripted", flags=flags, budgets=budgets)


@pytest.mark.parametrize("flags", RINGS.values(), ids=RINGS)
@pytest.mark.parametrize("budgets", BUDGETS.values(), ids=BUDGETS)
@pytest.mark.parametrize("seed", range(_SCRIPTS))
def test_hostile_scripts(seed: int, budgets: LoopBudgets, flags: int) -> None:
    """Not against the simulated ring, which has not all that a request comes to when it is
    overwritten."""
    scenario = _scenario(seed, flags, hostile=True)
    compare(scenario, "scripted", flags=flags, budgets=budgets, least=0, sim=False)
