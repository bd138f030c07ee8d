"""The native loop of BPF requests against Python's: the same programs, the same outcome.

Each scenario runs looped on the kernel's ring, compiled by the JIT and by LLVM, interpreted on the
kernel's ring, and interpreted on the simulated one. data/loops/loops.bpf.c has the programs;
examples/build.sh compiles it.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pybpfvm.bits import U64
from pybpfvm.errors import RingHang, Trap
from pybpfvm.jit.engine import JitEngine
from pybpfvm.session import Block, Budgets, LoadedObject, Machine, Ring
from pybpfvm.session.hostring import BackendName
from pybpfvm.uring_backend.abi import SQE_IO_DRAIN, SQE_IO_LINK, Op, Sqe
from pybpfvm.uring_backend.kernel import direct
from pybpfvm.uring_backend.kernel import loop as kernel_loop
from pybpfvm.uring_backend.kernel.direct import Word
from pybpfvm.uring_backend.kernel.sysring import SysRing
from pybpfvm.uring_backend.kernel.world import KernelWorld
from tests.support.session_ring import need_backend, pair

pytestmark = pytest.mark.kernel_ring

DATA = Path(__file__).resolve().parents[1] / "data" / "loops"
PROFILES = ("v2", "v3")
_TIMEOUT_NS = 10_000_000_000
_HIGH_FD = 1500  # beyond the bitmap of loops
_LLVM = find_spec("llvmlite") is not None
_COMPILING = ("jit", "llvm") if _LLVM else ("jit",)


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """LLVM compiles each program once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYBPFVM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@dataclass
class Table:
    """A ring with the programs on it, for one scenario."""

    ring: Ring
    obj: LoadedObject
    seen: list[object] = field(default_factory=list)

    def args(self, *values: int) -> None:
        """Parameters of the programs."""
        for index, value in enumerate(values):
            self.obj.maps["args"][index] = value

    def submit(self, name: str, *others: str, user_data: int = 7) -> None:
        """Register the programs and submit a request for the first; note how that ended."""
        self.ring.register_bpf([self.obj[each] for each in (name, *others)])
        self.ring.get_sqe().prep_bpf(0, user_data=user_data)
        self.note(self.ring.submit)

    def note(self, call: Callable[..., object], *args: object) -> None:
        """Note what the call returns or raises."""
        try:
            self.seen.append(call(*args))
        except (RingHang, Trap) as stop:
            self.seen.append(f"{type(stop).__name__}: {stop}")

    def idle(self) -> None:
        """Let everything happen."""
        self.note(self.ring.run_until_idle, _TIMEOUT_NS)

    def outcome(self) -> dict[str, object]:
        """Everything that can be seen."""
        counts = self.ring.counts
        return {
            "seen": self.seen,
            "counts": [+counts.posted, +counts.reaped, +counts.dropped],
            "overflow": self.ring.cq_overflow,
            "SQ flags": self.ring.core.sq_flags,
            "out": [self.obj.maps["out"][index] for index in range(64)],
            "CQs": [
                [(cqe.user_data, cqe.res, cqe.flags) for cqe in self.ring.reap(cq)]
                for cq in range(4)
            ],
            "afterwards": self.afterwards(),
        }

    def afterwards(self) -> object:
        """What a last call does, and brings from a backlog of CQ 0."""
        self.note(self.ring.run_until_idle, 0)
        return self.seen[-1], [pair(cqe) for cqe in self.ring.reap()]

    @property
    def looped(self) -> int:
        """How many runs the native loop has made."""
        loop = self.ring.core._loop
        return 0 if loop is None else loop.looped


Scenario = Callable[[Table], object]


def played(
    scenario: Scenario,
    profile: str,
    backend: BackendName,
    engine: str,
    *,
    entries: Sequence[int] = (128, 128, 4),
    budgets: Budgets | None = None,
    budget_insns: int = 1_000_000,
    exact: bool = False,
) -> tuple[object, int]:
    """(outcome, runs made by the native loop); `exact`: runs and instructions belong to it."""
    machine, obj = loaded(profile)
    for name, size in (("args", 8), ("out", 64)):
        for index in range(size):
            obj.maps[name][index] = 0
    with Ring(
        8,
        entries,
        backend=backend,
        abi=obj.profile,
        engine=engine,
        budgets=budgets,
        budget_insns=budget_insns,
        machine=machine,
    ) as ring:
        table = Table(ring, obj)
        extra = scenario(table)
        if exact:
            extra = extra, ring.counts.runs, ring.counts.insns
        return {**table.outcome(), "extra": extra}, table.looped


@cache
def loaded(profile: str) -> tuple[Machine, LoadedObject]:
    """Once for all tests: programs are verified once."""
    machine = Machine()
    return machine, machine.load(DATA / f"loops.{profile}.bpf.o", abi=f"iouring-{profile}")


def compare(
    scenario: Scenario,
    profile: str,
    *,
    least: int = 1,
    sim: bool = True,
    entries: Sequence[int] = (128, 128, 4),
    budgets: Budgets | None = None,
    budget_insns: int = 1_000_000,
    exact: bool = False,
) -> dict[str, object]:
    """The outcome, which must not depend on who runs the loop; that made `least` runs at least."""
    need_backend("kernel")

    def play(backend: BackendName, engine: str) -> tuple[object, int]:
        return played(
            scenario,
            profile,
            backend,
            engine,
            entries=entries,
            budgets=budgets,
            budget_insns=budget_insns,
            exact=exact,
        )

    ordinary, none = play("kernel", "interp")
    assert none == 0
    for engine in _COMPILING:
        looped, runs = play("kernel", engine)
        assert runs >= least, f"the native loop of {engine} made {runs} runs"
        assert looped == ordinary, engine
    if sim:
        assert ordinary == play("sim", "interp")[0]
    assert isinstance(ordinary, dict)
    return ordinary


@pytest.mark.skipif(not _LLVM, reason="the extra llvm is not installed: only the JIT loops here")
def test_loops_of_llvm_run_on_its_code() -> None:
    with looping("v3", engine="llvm") as table:
        table.args(1, 100, 1)
        table.submit("nops")
        table.idle()
        assert table.looped >= 99
        engine = next(iter(table.ring._runner._engines.values()))
        assert isinstance(engine, JitEngine)
        assert engine._loops is not None
        unit = engine._loops.unit(table.obj["nops"].executable)
        assert type(unit).__name__ == "LlvmUnit"


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("depth", [1, 32, 40])
def test_nops(profile: str, depth: int) -> None:
    def scenario(table: Table) -> None:
        table.args(depth, 100, 1)
        table.submit("nops")

    outcome = compare(scenario, profile, least=99, exact=True)
    out = outcome["out"]
    assert isinstance(out, list)
    assert out[:2] == [101, 100 * depth]


def test_more_requests_than_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "SLOTS", 8)

    def scenario(table: Table) -> None:
        table.args(32, 100, 1)
        table.submit("nops")

    compare(scenario, "v3", least=50, exact=True)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("block", [512, 65536])
def test_copy(profile: str, block: int) -> None:
    def scenario(table: Table) -> bytes:
        world = table.ring.world
        content = bytes(range(256)) * (block * 10 // 256) + b"tail"
        world.add_file("in", content)
        world.add_file("out", b"")
        buffer = table.ring.user.alloc(block)
        fds = world.open("in", os.O_RDONLY), world.open("out", os.O_WRONLY)
        table.args(*fds, buffer.addr, block, 11)
        table.submit("copy")
        table.idle()
        assert world.file_data("out") == content
        table.args(0, 0, 0)  # what differs from ring to ring
        return world.file_data("out") + buffer.read()

    compare(scenario, profile, least=2)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("cancelled", [3, 30, 1000])
def test_sockets(profile: str, cancelled: int) -> None:
    def scenario(table: Table) -> object:
        world = table.ring.world
        (fd, peer), (silent, _) = world.socketpair(), world.socketpair()
        sent = bytes(range(1, 201)) * 4
        assert peer.send(sent) == len(sent)
        buffer = table.ring.user.alloc(16)
        table.args(40, fd, silent, buffer.addr, cancelled)
        table.submit("sockets")
        table.seen.append(table.ring.wait_cqe().res)
        for index in range(1, 4):
            table.obj.maps["args"][index] = 0  # what differs from ring to ring
        received = b""
        while part := peer.recv(4096):
            received += part
        return received, buffer.read(), table.ring.core.backend.in_flight()

    outcome = compare(scenario, profile, least=20)
    out, extra = outcome["out"], outcome["extra"]
    assert isinstance(out, list)
    assert isinstance(extra, tuple)
    assert out[1] == 120
    assert len(extra[0]) == sum(run & 7 for run in range(41)) + 2 * (8 + 8 + 8)
    assert extra[2] == (cancelled == 1000)


_END, _SUBMIT, _REAP, _EMIT, _WAIT = range(5)
_STEP = struct.Struct("<II64s")


def _script(random: Random, fd: int, silent: int, buffer: int) -> Iterator[bytes]:
    """Steps for `scripted`: requests that end at once, requests that wait for data that never
    comes, the cancelling of those; what compiled code issues and what it does not."""
    silents: list[int] = []
    linked = False
    for number in range(1, 200):
        kind = random.choice(["nop"] * 5 + ["send", "recv", "silent", "cancel", "slow", "link"])
        cq = random.choice([1, 1, 1, 2])
        if linked:
            kind = "nop"  # ends the chain
        sqe = {"user_data": number, "addr3": cq}
        if kind == "send":
            sqe |= {"opcode": Op.SEND, "fd": fd, "addr": buffer, "len": number % 5}
        elif kind == "recv":
            sqe |= {"opcode": Op.RECV, "fd": fd, "addr": buffer, "len": 1}
        elif kind == "silent":
            sqe |= {"opcode": Op.RECV, "fd": silent, "addr": buffer, "len": 1}
            silents.append(number)
        elif kind == "cancel" and silents:
            target = silents.pop(random.randrange(len(silents)))
            sqe |= {"opcode": Op.ASYNC_CANCEL, "addr": target}
        elif kind == "slow":
            sqe |= {"opcode": Op.SEND, "fd": fd, "addr": buffer, "len": 1, "op_flags": 0x40}
        elif kind == "link":
            sqe |= {"flags": SQE_IO_LINK}
        linked = kind == "link"
        yield _STEP.pack(_SUBMIT, 0, Sqe(**{"opcode": 0, **sqe}).pack())
        while random.random() < 0.3:
            yield _STEP.pack(_REAP, random.choice([1, 1, 2, 0]), bytes(64))
        if not linked and (number < 4 or random.random() < 0.06):
            yield _STEP.pack(_EMIT, 1, Sqe(0, user_data=number + 1000).pack())
            yield _STEP.pack(_WAIT, 1, Sqe(0, len=1).pack())


@pytest.mark.parametrize("seed", range(int(os.environ.get("PYBPFVM_LOOP_SCRIPTS", "12"))))
def test_scripts(seed: int) -> None:
    def scenario(table: Table) -> object:
        world = table.ring.world
        (fd, peer), (silent, _) = world.socketpair(), world.socketpair()
        assert peer.send(bytes(range(200))) == 200
        buffer = table.ring.user.alloc(16)
        steps = list(_script(Random(seed), fd, silent, buffer.addr))[:255]
        for index in range(256):
            table.obj.maps["script"][index] = steps[index] if index < len(steps) else bytes(72)
        table.submit("scripted")
        table.seen.append(table.ring.wait_cqe().res)
        received = b""
        while part := peer.recv(4096):
            received += part
        return received, buffer.read(), table.ring.core.backend.in_flight()

    compare(scenario, "v3", least=2, entries=(512, 512, 4))


@pytest.mark.parametrize("seed", range(6))
def test_completions_spread_over_small_queues(seed: int) -> None:
    """One intake fills several, some of which overflow while others go on."""
    random = Random(seed)
    steps: list[bytes] = []
    while len(steps) < 250:
        for _ in range(random.choice([1, 3, 9, 20])):
            cq = random.choice([0, 1, 1, 2, 2, 3, 3])
            steps.append(_STEP.pack(_SUBMIT, 0, Sqe(0, user_data=len(steps), addr3=cq).pack()))
        for _ in range(random.choice([0, 2, 9])):
            steps.append(_STEP.pack(_REAP, random.randrange(4), bytes(64)))
        steps.append(_STEP.pack(_EMIT, 1, Sqe(0, user_data=len(steps)).pack()))
        steps.append(_STEP.pack(_WAIT, 1, Sqe(0, len=1).pack()))

    def scenario(table: Table) -> None:
        for index in range(256):
            step = steps[index] if index < min(len(steps), 255) else bytes(_STEP.size)
            table.obj.maps["script"][index] = step
        table.submit("scripted")

    outcome = compare(scenario, "v3", least=2, entries=(8, 4, 8))
    assert isinstance(outcome["overflow"], int)
    assert outcome["overflow"] > 10


def test_what_a_drain_holds_back_is_known_to_python() -> None:
    """Its descriptors must not become anybody else's before the kernel looks them up."""
    with looping("v3") as table:
        (fd, _), (silent, _) = (table.ring.world.socketpair() for _ in range(2))
        buffer = table.ring.user.alloc(16).addr
        wait = [
            _STEP.pack(_EMIT, 1, Sqe(0, user_data=1).pack()),
            _STEP.pack(_WAIT, 1, Sqe(0, len=1).pack()),
        ]
        requests = [
            Sqe(Op.RECV, fd=silent, addr=buffer, len=1, addr3=1),
            Sqe(Op.NOP, flags=SQE_IO_DRAIN, addr3=1),
            Sqe(Op.SEND, fd=fd, addr=buffer, len=1, addr3=1),
        ]
        submits = [_STEP.pack(_SUBMIT, 0, sqe.pack()) for sqe in requests]
        steps = [*wait, *wait, *submits, *wait]
        for index in range(256):
            step = steps[index] if index < len(steps) else bytes(_STEP.size)
            table.obj.maps["script"][index] = step
        table.submit("scripted")
        loop = table.ring.core._loop
        assert loop is not None
        assert loop.looped >= 2
        assert table.ring.core.backend.in_flight() == 3
        claimed = [token for token in table.ring.core._submitter.table.live if token >> 61]
        assert len(claimed) == 1, "only the RECV was compiled code's"


@pytest.mark.parametrize("profile", PROFILES)
def test_a_queue_that_nobody_reaps_goes_over(profile: str) -> None:
    def scenario(table: Table) -> None:
        table.args(30, 5)
        table.submit("sink")

    outcome = compare(scenario, profile, least=29, entries=(16, 8, 4), exact=True)
    assert outcome["overflow"] == 30 * 6 - 8


@pytest.mark.parametrize("profile", PROFILES)
def test_the_main_queue_goes_over(profile: str) -> None:
    def scenario(table: Table) -> None:
        table.args(20)
        table.submit("main_queue")

    outcome = compare(scenario, profile, least=5)
    assert outcome["SQ flags"] == 2


@pytest.mark.parametrize("profile", PROFILES)
def test_chains(profile: str) -> None:
    def scenario(table: Table) -> None:
        table.args(12)
        table.submit("chains")
        table.idle()

    compare(scenario, profile, least=3)


@pytest.mark.parametrize("engine", ["jit", "interp"])
@pytest.mark.parametrize("profile", PROFILES)
def test_completions_of_a_run_are_posted_at_its_end(profile: str, engine: str) -> None:
    """None of a run's own NOPs is there to be reaped in it, whoever runs it. (How many of its
    timeouts have ended when it looks is a matter of time: the rest is not compared.)"""
    with looping(profile, engine=engine) as table:
        spec = table.ring.user.alloc(struct.pack("<qq", 0, 2_000_000))
        table.args(8, spec.addr)
        table.submit("mixed")
        table.idle()
        assert _out(table, 0) == 9
        assert _out(table, 1) == 16
        assert _out(table, 3) & 0xFFFF_FFFF == -2 * 2 * 8 & 0xFFFF_FFFF
        assert (table.looped > 0) == (engine == "jit")


@pytest.mark.parametrize("profile", PROFILES)
def test_requests_are_made_before_memory_is_looked_at(profile: str) -> None:
    def scenario(table: Table) -> bytes:
        table.ring.world.add_file("data", bytes(range(250)))
        buffer = table.ring.user.alloc(16)
        table.args(20, table.ring.world.open("data", os.O_RDONLY), buffer.addr)
        table.submit("same_buffer")
        table.idle()
        table.args(0, 0, 0)
        return buffer.read()

    compare(scenario, profile, least=19)


@pytest.mark.parametrize("profile", PROFILES)
def test_refusals(profile: str) -> None:
    def scenario(table: Table) -> bytes:
        table.ring.world.add_file("data", bytes(range(256)))
        buffer = table.ring.user.alloc(64)
        table.args(16, table.ring.world.open("data", os.O_RDONLY), buffer.addr, 64)
        table.submit("refused")
        table.idle()
        table.args(0, 0, 0)
        return buffer.read()

    compare(scenario, profile, sim=False)


@pytest.mark.parametrize("profile", PROFILES)
def test_two_programs(profile: str) -> None:
    def scenario(table: Table) -> None:
        table.args(20, 1)
        table.submit("host", "guest")

    compare(scenario, profile, least=10)


@pytest.mark.parametrize("profile", PROFILES)
def test_more_than_are_held_back(profile: str) -> None:
    def scenario(table: Table) -> None:
        table.args(20)
        table.submit("many")

    compare(scenario, profile, least=15)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("insns", [1 << 25, 3000])
@pytest.mark.parametrize("moves", [0, 50, 200])
@pytest.mark.parametrize("busy", [0, 1])
def test_live_locks(profile: str, moves: int, busy: int, insns: int) -> None:
    def scenario(table: Table) -> None:
        table.args(moves, busy)
        table.submit("stuck")

    budgets = Budgets(livelock_runs=1000, livelock_insns=insns, max_runs=20_000)
    outcome = compare(scenario, profile, least=20, budgets=budgets)
    assert "live-lock" in str(outcome["seen"])


@pytest.mark.parametrize("profile", PROFILES)
def test_budget_of_runs(profile: str) -> None:
    def scenario(table: Table) -> None:
        table.args(1, 1_000_000, 1)
        table.submit("nops")
        table.note(table.ring.run_until_idle, 0)

    outcome = compare(scenario, profile, least=1400, budgets=Budgets(max_runs=1500))
    assert "1,500 program runs" in str(outcome["seen"])


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("wait", [(0, 1), (1, 9), (1000, 1), (1, 2), (20, 1)])
def test_waits(profile: str, wait: tuple[int, int]) -> None:
    def scenario(table: Table) -> None:
        table.args(*wait, 10)
        table.submit("waits")
        table.note(table.ring.wait_cqe, _TIMEOUT_NS) if wait[1] > 4 else table.idle()

    compare(scenario, profile, least=9)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_trap_in_a_loop(profile: str) -> None:
    def scenario(table: Table) -> None:
        table.args(30)
        table.submit("spends")
        table.idle()

    outcome = compare(scenario, profile, least=29, budget_insns=3000, exact=True)
    assert "Trap" in str(outcome["seen"])


@pytest.mark.parametrize("profile", PROFILES)
def test_helpers_that_read_user_memory_see_what_requests_wrote(profile: str) -> None:
    def scenario(table: Table) -> None:
        table.ring.world.add_file("data", bytes(range(250)))
        buffer = table.ring.user.alloc(8)
        table.args(20, table.ring.world.open("data", os.O_RDONLY), buffer.addr)
        table.submit("peeks")
        table.idle()
        table.args(0, 0, 0)

    out = compare(scenario, profile, least=19)["out"]
    assert isinstance(out, list)
    wanted = [int.from_bytes(range(8 * run, 8 * run + 8), "little") for run in range(1, 21)]
    assert out[9:29] == wanted


@pytest.mark.parametrize("profile", PROFILES)
def test_a_helper_called_from_many_places(profile: str) -> None:
    def scenario(table: Table) -> int:
        table.args(3)
        table.submit("talks")
        return len(table.ring.trace)

    assert compare(scenario, profile, least=3)["extra"] == 3 * 270


@contextmanager
def looping(profile: str, **options: Any) -> Iterator[Table]:
    """A ring of its own on which programs loop."""
    need_backend("kernel")
    machine, obj = loaded(profile)
    for index in range(64):
        obj.maps["out"][index] = 0
    with Ring(
        8, (128, 128, 4), backend="kernel", abi=obj.profile, machine=machine, **options
    ) as ring:
        yield Table(ring, obj)


def _out(table: Table, index: int) -> int:
    value = table.obj.maps["out"][index]
    assert isinstance(value, int)
    return value


def _accounted(table: Table) -> bool:
    """Whether every NOP of `nops` that was accepted has come back, once."""
    return _out(table, 1) + table.ring.ready(1) == _out(table, 3)


@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals need this thread"
)
@pytest.mark.parametrize("depth", [1, 33])
def test_signals_end_loops_and_lose_nothing(depth: int) -> None:
    random = Random(3)
    looped = 0
    for _ in range(25):
        budgets = Budgets(max_runs=1 << 40)
        with looping("v3", budgets=budgets) as table:
            table.args(depth, 3, 1)
            table.submit("nops")  # compiles
            table.ring.reap()
            table.args(depth, 1 << 40, 1)
            ready = table.looped
            began = time.monotonic()
            table.ring.get_sqe().prep_bpf(0)
            delay = 0.001 + random.random() / 30
            timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it may come before the call
                timer.start()
                table.ring.submit()
                timer.join()
            assert time.monotonic() - began < 5
            looped += table.looped > ready
            assert not table.ring.ready(0)  # its request is where it was, if it was submitted
            table.args(depth, 0, 1)
            table.ring.submit()
            assert table.ring.wait_cqe().res == 0
            backend = table.ring.core.backend
            while backend.in_flight() and time.monotonic() - began < 10:
                backend.wait(1_000_000)
                table.ring.core._submitter.drain()
            assert _accounted(table)
            assert backend.in_flight() == 0
    assert looped > 5


def test_other_threads_serve_a_loop_that_sleeps() -> None:
    """Reads of a pipe that a thread of Python fills, now and then."""
    block, blocks = 16, 40
    with looping("v3") as table:
        world = table.ring.world
        read_end, write_end = os.pipe()
        assert isinstance(world, KernelWorld)
        world.adopt(read_end)
        world.add_file("out", b"")
        target = world.open("out", os.O_WRONLY)
        buffer = table.ring.user.alloc(block)
        table.args(read_end, target, buffer.addr, block, blocks)

        def serve() -> None:
            for number in range(blocks):
                os.write(write_end, bytes([number]) * block)
                if number % 4 == 0:
                    time.sleep(0.002)

        server = threading.Thread(target=serve)
        began = time.monotonic()
        table.submit("copy")
        assert time.monotonic() - began < 2, "submit waits for nothing"
        server.start()
        table.ring.wait_cqe(_TIMEOUT_NS)
        server.join()
        os.close(write_end)
        assert table.looped > 10
        assert world.file_data("out") == b"".join(bytes([n]) * block for n in range(blocks))


def test_submit_does_not_wait() -> None:
    with looping("v3") as table:
        read_end, write_end = os.pipe()
        assert isinstance(table.ring.world, KernelWorld)
        table.ring.world.adopt(read_end)
        buffer = table.ring.user.alloc(16)
        table.args(read_end, 0, buffer.addr, 16, 1000)
        table.submit("copy")  # compiles
        for _ in range(3):
            began = time.monotonic()
            assert not table.ring.run_until_idle(1_000_000)
            assert time.monotonic() - began < 1
        with pytest.raises(TimeoutError):
            table.ring.wait_cqe(1_000_000)
        os.close(write_end)
        table.ring.wait_cqe(_TIMEOUT_NS)


_READ = 22
_READ_FIXED = 4
_FIXED_FILE = 1
_BLOCK = b"8 bytes."


@contextmanager
def during_a_sleep(
    monkeypatch: pytest.MonkeyPatch,
    *,
    fd: int | None = None,
    flags: int = 0,
    opcode: int = _READ,
    fixed: bool = False,
) -> Iterator[tuple[Table, Block, int, int, Callable[[Callable[[], object]], int]]]:
    """(table, buffer, read end, write end, play) around a program that reads a pipe for ever.

    `play` waits in a loop that does not look up for long; another thread feeds it and calls what
    it is given while the loop sleeps, then feeds it twice more: the last result of a read. A pipe
    is `fd` if that is given (it must be free); `fixed`: file and buffer are registered, as 0.
    """
    with looping("v3") as table, ExitStack() as after:
        ring = table.ring
        world = ring.world
        assert isinstance(world, KernelWorld)
        read_end, write_end = os.pipe()
        if fd is not None:
            os.dup2(read_end, fd)
            os.close(read_end)
            read_end = fd
        world.adopt(read_end)
        after.callback(os.close, write_end)
        buffer = ring.user.alloc(8)
        if fixed:
            ring.core.register_files([read_end])
            ring.core.register_buffers([(buffer.addr, 8)])
        named = 0 if flags & _FIXED_FILE else read_end
        table.args(named, flags, opcode, buffer.addr, 1000, 0)
        os.write(write_end, _BLOCK)
        table.submit("transfers")  # compiles
        monkeypatch.setattr(kernel_loop, "TURN_NS", 5_000_000_000)
        monkeypatch.setattr(kernel_loop, "_SLEEP_NS", 5_000_000_000)

        def play(change: Callable[[], object]) -> int:
            def feed() -> None:
                for _ in range(10):
                    before = _out(table, 0)
                    os.write(write_end, _BLOCK)
                    limit = time.monotonic() + 5
                    while _out(table, 0) == before and time.monotonic() < limit:
                        time.sleep(0.0005)
                change()
                with suppress(BrokenPipeError):
                    for _ in range(2):
                        os.write(write_end, _BLOCK)
                        time.sleep(0.005)

            server = threading.Thread(target=feed)
            server.start()
            with suppress(TimeoutError):
                ring.wait_cqe(500_000_000)
            server.join()
            assert table.looped > 10
            return (_out(table, 1) & 0xFFFF_FFFF ^ 1 << 31) - (1 << 31)

        yield table, buffer, read_end, write_end, play


def test_a_descriptor_closed_during_a_sleep_is_no_longer_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its number is the process's own by then."""
    with during_a_sleep(monkeypatch) as (table, buffer, read_end, _, play):
        ours, writer = os.pipe()
        os.write(writer, b"SECRET!!")

        def change() -> None:
            table.ring.world.close(read_end)
            os.dup2(ours, read_end)

        assert play(change) == -errno.EBADF
        assert buffer.read() == _BLOCK
        assert os.read(ours, 8) == b"SECRET!!"
        for fd in (ours, writer, read_end):
            os.close(fd)


def test_a_block_freed_during_a_sleep_is_no_longer_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by requests, nor by the user copies of compiled code."""
    with during_a_sleep(monkeypatch) as (table, buffer, _, _, play):
        assert play(buffer.free) == -errno.EFAULT
        assert _out(table, 2) == -errno.EFAULT & U64


def test_what_is_given_up_while_a_loop_is_in_python() -> None:
    """A block that is freed then is not in the table any more when compiled code goes on; to
    close a descriptor takes until pending requests, which may name it, are issued."""
    with looping("v3") as table:
        table.args(3, 2, 1)
        table.submit("nops")
        loop = table.ring.core._loop
        assert loop is not None
        direct = loop.direct
        block, fd = table.ring.user.alloc(8), table.ring.world.socket()
        with direct.turn({0}, 0):
            assert block.addr in direct._blocks.starts()
            block.free()
            assert block.addr not in direct._blocks.starts()
            direct.words[Word.TAIL] += 1
            closer = threading.Thread(target=table.ring.world.close, args=(fd,))
            closer.start()
            closer.join(0.05)
            assert closer.is_alive()
            os.fstat(fd)
            direct.words[Word.TAIL] -= 1
            closer.join()
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)


@pytest.mark.parametrize("opcode", [_READ, _READ_FIXED])
def test_registered_files_and_buffers_in_loops(
    monkeypatch: pytest.MonkeyPatch, opcode: int
) -> None:
    """The ring has its own hold on them: closing the descriptor changes nothing, taking them
    back does."""
    options: dict[str, Any] = {"flags": _FIXED_FILE, "opcode": opcode, "fixed": True}
    with during_a_sleep(monkeypatch, **options) as (table, buffer, read_end, _, play):
        assert play(lambda: table.ring.world.close(read_end)) == 8
        assert buffer.read() == _BLOCK
    with during_a_sleep(monkeypatch, **options) as (table, _, _, _, play):
        assert play(table.ring.core.unregister_files) == -errno.EBADF


def test_a_descriptor_beyond_those_that_loops_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the long way, until it is closed."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= _HIGH_FD:
        pytest.skip(f"descriptors end before {_HIGH_FD}")
    with during_a_sleep(monkeypatch, fd=_HIGH_FD) as (table, _, read_end, _, play):
        assert play(lambda: None) == 8
        assert play(lambda: table.ring.world.close(read_end)) == -errno.EBADF


def test_a_wait_ends_in_time_though_its_loop_is_served() -> None:
    with looping("v3") as table:
        read_end, write_end = table.ring.world.pipe()
        buffer = table.ring.user.alloc(8)
        table.args(read_end, 0, _READ, buffer.addr, 1 << 40, 0)
        os.write(write_end, _BLOCK)
        table.submit("transfers")  # compiles
        enough = threading.Event()

        def serve() -> None:
            limit = time.monotonic() + 5
            while not enough.is_set() and time.monotonic() < limit:
                os.write(write_end, _BLOCK)
                time.sleep(0.001)

        server = threading.Thread(target=serve)
        server.start()
        for timeout_ns in (100_000_000, 1_000_000, 30_000_000):
            before = table.looped
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                table.ring.wait_cqe(timeout_ns)
            assert timeout_ns / 1e9 <= time.monotonic() - began < timeout_ns / 1e9 + 1
            assert table.looped > before or timeout_ns < 2_000_000
        enough.set()
        server.join()


@pytest.mark.parametrize("engine", ["jit", "interp"])
@pytest.mark.parametrize("timeout_ns", [1_000_000, 100_000_000])
def test_a_wait_ends_in_time_though_programs_run_and_run(engine: str, timeout_ns: int) -> None:
    with looping("v3", engine=engine, budgets=Budgets(max_runs=1 << 40)) as table:
        table.args(4, 3, 1)
        table.submit("nops")  # compiles
        table.ring.reap()
        table.args(4, 1 << 40, 1)
        core = table.ring.core
        entry = table.ring.get_sqe()
        entry.prep_bpf(0)
        core.queue(entry.pack())
        assert core._submitter.take(core.sq, core.sq.publish()) == 1  # to run when the host waits
        for _ in range(3):
            before = _out(table, 0)
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                table.ring.wait_cqe(timeout_ns)
            assert time.monotonic() - began < timeout_ns / 1e9 + 2
            assert _out(table, 0) > before
        began = time.monotonic()
        assert not table.ring.run_until_idle(timeout_ns)
        assert time.monotonic() - began < timeout_ns / 1e9 + 2


def test_a_wait_ends_when_its_queue_has_enough_though_the_loop_is_served() -> None:
    """The program goes on at once with CQ 1 when it posts to CQ 0, for which the host waits."""
    with looping("v3") as table:
        read_end, write_end = table.ring.world.pipe()
        buffer = table.ring.user.alloc(8)
        table.args(read_end, 0, _READ, buffer.addr, 1 << 40, 40)
        os.write(write_end, _BLOCK)
        table.submit("transfers")  # compiles
        enough = threading.Event()

        def serve() -> None:
            os.write(write_end, 60 * _BLOCK)
            limit = time.monotonic() + 5
            while not enough.is_set() and time.monotonic() < limit:
                os.write(write_end, _BLOCK)
                time.sleep(0.001)

        server = threading.Thread(target=serve)
        server.start()
        began = time.monotonic()
        assert table.ring.wait_cqe().user_data == 5
        assert time.monotonic() - began < 3
        enough.set()
        server.join()


def test_closing_a_ring_with_a_loop_s_requests_in_flight() -> None:
    for end in ("close", "unregister"):
        with looping("v3") as table:
            read_end, write_end = table.ring.world.pipe()
            buffer = table.ring.user.alloc(8)
            table.args(read_end, 0, _READ, buffer.addr, 1000)
            os.write(write_end, _BLOCK)
            table.submit("transfers")
            with pytest.raises(TimeoutError):
                table.ring.wait_cqe(20_000_000)
            backend = table.ring.core.backend
            assert table.looped > 0
            assert backend.in_flight() == 2  # the program's, and its read
            if end == "unregister":
                os.write(write_end, _BLOCK)
                table.ring.core.unregister_bpf()  # what runs no more has ended
                assert [pair(cqe) for cqe in table.ring.reap()] == [(7, -errno.EAGAIN)]
                assert backend.in_flight() == 0
        assert backend.in_flight() == 0


def test_what_the_kernel_does_not_take_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """io_uring_enter fails, for compiled code and for Python: the requests are -EAGAIN."""

    def refuse(ring: SysRing, tail: int, count: int) -> int:
        ring.words[ring.sq_tail] = tail
        return count

    with looping("v3") as table:
        table.args(3, 2, 1)
        table.submit("nops")
        table.ring.reap()
        loop = table.ring.core._loop
        assert loop is not None
        for index in range(64):
            table.obj.maps["out"][index] = 0
        monkeypatch.setattr(SysRing, "register_ring", lambda _: 1 << 20)
        monkeypatch.setattr(SysRing, "publish", refuse)
        table.ring.get_sqe().prep_bpf(0)
        table.ring.submit()
        monkeypatch.undo()
        table.ring.run_until_idle(_TIMEOUT_NS)
        assert _accounted(table)
        assert _out(table, 1) == 6
        assert _out(table, 2) & 0xFFFF_FFFF == -6 * errno.EAGAIN & 0xFFFF_FFFF
        assert table.ring.core.backend.in_flight() == 0


def test_more_blocks_than_the_loop_knows() -> None:
    """The others take the long way; a block that was freed is -EFAULT."""
    with looping("v3") as table:
        table.ring.world.add_file("data", bytes(range(250)))
        fd = table.ring.world.open("data", os.O_RDONLY)
        blocks = [table.ring.user.alloc(16) for _ in range(40)]
        for block in (blocks[0], blocks[-1]):
            table.args(5, fd, block.addr)
            table.obj.maps["out"][0] = 0
            table.submit("same_buffer") if block is blocks[0] else table.ring.get_sqe().prep_bpf(0)
            table.ring.submit()
            table.idle()
            assert block.read(8) == bytes(range(40, 48))
        blocks[0].free()
        table.args(5, fd, blocks[0].addr)
        table.obj.maps["out"][0] = table.obj.maps["out"][2] = 0
        table.ring.get_sqe().prep_bpf(0)
        table.ring.submit()
        table.idle()
        assert _out(table, 2) & 0xFFFF_FFFF == -10 * errno.EFAULT & 0xFFFF_FFFF
