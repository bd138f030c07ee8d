"""The simulated ring: requests a second, what one in flight takes, how fast its clock runs.

Requests of a host and of a BPF program are those of the parts `ring` and `loops`, here beside the
same over the kernel's ring (left out where there is none). Requests in flight are measured in
processes of their own: memory is what the process has more of it then, for each. How many seconds
pass in a simulation for one outside depends on what happens in them. Seconds outside are those of
the processor's time, of which other work on the machine takes nothing.
"""

from __future__ import annotations

import gc
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from bench.ring import backend_round, compare
from bench.ringloops import bpf_on
from pybpfvm.memory import PAGE, AddressSpace
from pybpfvm.session import Budgets, Machine, Ring, timespec
from pybpfvm.session.hostring import BackendName
from pybpfvm.uring_backend.abi import POLLIN, Op, Sqe
from pybpfvm.uring_backend.conditions import Conditions
from pybpfvm.uring_backend.kernel import KernelBackend, probe
from pybpfvm.uring_backend.sim import SimBackend

_EXAMPLES = Path(__file__).parents[1] / "examples"
_ROUNDS = 5
_DEPTHS = (1, 32)
_OF_A_PROGRAM = 5_000  # requests of a round
_MS = 1_000_000
_CLIENTS = (1, 32, 1000)
_MESSAGES = 3_200  # all clients together
_PACE_NS = 10 * _MS
_LATENCY_NS = _MS
_MESSAGE = bytes(range(64))

_now = time.process_time

Rows = list[tuple[str, float, str]]


def run() -> Rows:
    """Requests a second, bytes for each in flight, simulated seconds for a real one."""
    refused = probe.available()
    if refused is not None:
        print(f"the kernel's ring is left out: {refused}")
    rows = _requests(kernel=refused is None)
    rows += _of_a_program(kernel=refused is None)
    for kind in _FLYING:
        rows += _in_flight(kind)
    rows += ticking()
    for clients in _CLIENTS:
        rows += echoing(clients)
    return rows


# --- requests a second --------------------------------------------------------------------------


def _beside(case: str, sim: float, kernel: float | None) -> Rows:
    rows = [(f"{case}: sim", sim, "k/s")]
    if kernel is not None:
        rows.append((f"{case}: kernel", kernel, "k/s"))
        rows.append((f"{case}: sim / kernel", sim / kernel, "x"))
    return rows


def _requests(*, kernel: bool) -> Rows:
    rows: Rows = []
    with AddressSpace() as memory, SimBackend(memory) as sim:
        for depth in _DEPTHS:
            ours = partial(backend_round, sim, [Sqe(Op.NOP)] * depth, _now)
            case = f"NOP of a host, depth {depth}"
            if not kernel:
                rows += _beside(case, median(ours() for _ in range(_ROUNDS)), None)
                continue
            with AddressSpace() as real, KernelBackend(real) as backend:
                theirs = partial(backend_round, backend, [Sqe(Op.NOP)] * depth, _now)
                rows += _beside(case, *compare(ours, theirs))
    return rows


def _of_a_program(*, kernel: bool) -> Rows:
    def speed(backend: BackendName, depth: int, count: int) -> float:
        with bpf_on(backend, "requests", 4096 * depth) as program:
            job = {"depth": depth, "from": -1}
            program.round(**job, left=64 * depth)  # compiles
            times = []
            for _ in range(_ROUNDS):
                start = _now()
                program.round(**job, left=count)
                times.append(_now() - start)
        return count / median(times) / 1e3

    rows: Rows = []
    for depth in _DEPTHS:
        sim = speed("sim", depth, _OF_A_PROGRAM)
        theirs = speed("kernel", depth, 20 * _OF_A_PROGRAM) if kernel else None
        rows += _beside(f"NOP of a BPF program, depth {depth}", sim, theirs)
    return rows


# --- requests in flight -------------------------------------------------------------------------


def _timeouts(ring: Ring) -> tuple[Sqe, Sqe]:
    """A request that waits for a second, and one that lets them end: none is needed."""
    addr = ring.user.alloc(timespec(1_000_000_000)).addr
    return Sqe(Op.TIMEOUT, addr=addr, len=1), Sqe(Op.NOP)


def _polls(ring: Ring) -> tuple[Sqe, Sqe]:
    """A request that waits for an empty pipe, and one that writes to it."""
    reader, writer = ring.world.pipe()
    addr = ring.user.alloc(b"x").addr
    return Sqe(Op.POLL_ADD, fd=reader, op_flags=POLLIN), Sqe(Op.WRITE, fd=writer, addr=addr, len=1)


def _in_flight(kind: str) -> Rows:
    _, counts = _FLYING[kind]
    rows: Rows = []
    for count in counts:
        command = [sys.executable, "-m", "bench.simulated", kind, str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        each, begun, ended = map(float, done.stdout.split())
        case = f"{count:,} {kind} in flight"
        if count >= _SEEN:
            rows.append((f"{case}: memory", each, "bytes each"))
        rows.append((f"{case}: begun", begun / 1e3, "k/s"))
        rows.append((f"{case}: ended", ended / 1e3, "k/s"))
    return rows


def fly(kind: str, count: int) -> None:
    """Print bytes for each of so many requests in flight, and how many a second began and ended,
    until the host had their CQEs."""
    prepare, _ = _FLYING[kind]
    budgets = Budgets(live_requests=2 * count, backlog_entries=2 * count)
    with Machine() as machine, Ring(_BATCH, machine=machine, budgets=budgets) as ring:
        waiting, ender = prepare(ring)
        head, tail = waiting.pack()[:32], waiting.pack()[40:]
        ring.submit()
        gc.collect()
        before, start = _resident_bytes(), _now()
        for first in range(0, count, _BATCH):
            for number in range(first, first + _BATCH):
                ring.core.queue(head + number.to_bytes(8, "little") + tail)
            ring.submit()
        begun, after = _now(), _resident_bytes()
        assert ring.backend.in_flight() == count
        ring.core.queue(ender.pack())
        ring.submit()
        left = count + 1
        while left:
            ring.core.wait_cqes(min(left, _BATCH))
            left -= len(ring.reap())
        ended = _now()
    print((after - before) / count, count / (begun - start), count / (ended - begun))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE


_BATCH = 1_000
_SEEN = 100_000  # fewer hide in memory that the process has anyway
_FLYING: dict[str, tuple[Callable[[Ring], tuple[Sqe, Sqe]], tuple[int, ...]]] = {
    "timeouts": (_timeouts, (1_000, 100_000, 1_000_000)),
    "polls": (_polls, (1_000, 100_000)),
}


# --- the clock ------------------------------------------------------------------------------------


@contextmanager
def _example(name: str, program: str, cq_entries: int) -> Iterator[Ring]:
    with Machine() as machine:
        obj = machine.load(_EXAMPLES / name / "prog.v3.bpf.o", abi="iouring-v3")
        with Ring(64, (cq_entries,), abi=obj.profile, machine=machine) as ring:
            ring.register_bpf([obj[program]])
            yield ring


def _clock(ring: Ring, work: Callable[[], None]) -> float:
    """Simulated seconds for a real one."""
    start, simulated = _now(), ring.now_ns()
    work()
    return (ring.now_ns() - simulated) / 1e9 / (_now() - start)


def ticking(ticks: int = 3_000) -> Rows:
    """A program that a timer wakes; the host takes a CQE for each tick."""
    rows: Rows = []
    for period_ns, name in ((_MS, "every millisecond"), (1000 * _MS, "every second")):
        with _example("02_ticker", "ticker", 16) as ring:
            order = ring.user.alloc(timespec(period_ns) + struct.pack("<II", ticks, 0))
            ring.get_sqe().prep_bpf(0, user_data=order.addr)
            ring.submit()

            speed = _clock(ring, partial(_take, ring, ticks))
        rows.append((f"a program that runs {name}", speed, "simulated s / s"))
    return rows


def _take(ring: Ring, count: int) -> None:
    for _ in range(count):
        ring.wait_cqe()


def echoing(clients: int, messages: int = _MESSAGES) -> Rows:
    """The echo server; each client says something every 10 ms, over links of 1 ms."""
    with _example("21_echo", "echo", 2048) as ring:
        assert ring.world.network is not None
        ring.world.network.set(Conditions(latency_ns=_LATENCY_NS))
        listener = ring.world.listen(4096)
        buffers = ring.user.alloc(1 << 20)
        job = ring.user.alloc(struct.pack("<QiIQ", buffers.addr, listener, 1024, clients))
        pace = ring.user.alloc(timespec(_PACE_NS))
        ring.get_sqe().prep_bpf(0, user_data=job.addr)
        ring.submit()
        people = [ring.world.connect(listener) for _ in range(clients)]
        heard = 0

        def turn() -> None:
            nonlocal heard
            for one in people:
                one.send(_MESSAGE)
            ring.get_sqe().prep_timeout(pace.addr)
            ring.submit()
            ring.wait_cqe()
            for one in people:
                heard += len(one.recv(len(_MESSAGE)) or b"")

        def work() -> None:
            for _ in range(messages // clients):
                turn()

        turn()
        heard = 0
        speed = _clock(ring, work)
        assert heard == messages // clients * clients * len(_MESSAGE)
    return [
        (f"echo server, 100 messages a second from each of {clients}", speed, "simulated s / s")
    ]


if __name__ == "__main__":
    fly(sys.argv[1], int(sys.argv[2]))
