"""Random hosts and programs: whatever they do, no request is lost, doubled or left behind.

RING_SEEDS=first:last runs other seeds; a failure names its seed.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from pybpfvm.errors import RingHang, Trap, TrapKind
from pybpfvm.events import CqePosted, Event, RunEnded, RunStarted, SqeIssued
from pybpfvm.memory import RegionKind
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op
from pybpfvm.uring_backend.bpf import Budgets
from tests.support.ring_bench import Bench, MakeBench
from tests.support.ring_programs import BPF, RING_PROFILES, Run, bpf, sqe

_first, _, _last = os.environ.get("RING_SEEDS", "0:60").partition(":")
SEEDS = range(int(_first), int(_last or int(_first) + 1))
EMITTED = 1 << 32  # user_data from here on belongs to emitted CQEs
BUDGETS = Budgets(max_runs=300, livelock_runs=60, live_requests=60, backlog_entries=20)


class Chaos:
    """Random SQEs with a user_data of their own, and a random program."""

    def __init__(self, seed: int, profile: str) -> None:
        self.random = Random(seed)
        self.v1 = profile == "v1"
        self.skips = profile in ("v3base", "v3", "x")
        self.next_user_data = 0
        self.next_emitted = EMITTED
        self.skippable: set[int] = set()
        self.refused: set[int] = set()
        self.timespecs: list[int] = []

    def any_sqe(self) -> bytes:
        """Mostly good requests of every kind the ring treats specially, some bad."""
        random = self.random
        self.next_user_data += 1
        user_data = self.next_user_data
        flags = 0
        if random.random() < 0.25:
            flags |= random.choice((abi.SQE_IO_LINK, abi.SQE_IO_HARDLINK))
        if self.skips and random.random() < 0.1:
            flags |= abi.SQE_CQE_SKIP_SUCCESS
            self.skippable.add(user_data)
        cq = random.choice((0, 0, 1, 2, 7)) if random.random() < 0.98 else 999
        kind = random.randrange(10)
        older = random.randrange(user_data)
        if kind <= 2:
            return bpf(random.choice((0, 0, 0, 1, 5)), user_data=user_data, cq=cq, flags=flags)
        if kind <= 4:
            return sqe(user_data=user_data, cq=cq, flags=flags)
        if kind <= 6:
            timespec = random.choice(self.timespecs)
            off = random.choice((0, 0, 1, 3))
            return sqe(
                Op.TIMEOUT, addr=timespec, len=1, off=off, user_data=user_data, cq=cq, flags=flags
            )
        if kind == 7:
            how = random.choice((0, abi.ASYNC_CANCEL_ALL))
            return sqe(
                Op.ASYNC_CANCEL, addr=older, op_flags=how, user_data=user_data, cq=cq, flags=flags
            )
        if kind == 8:
            return sqe(Op.TIMEOUT_REMOVE, addr=older, user_data=user_data, cq=cq, flags=flags)
        return sqe(random.choice((0, 200)), ioprio=1, user_data=user_data, cq=cq, flags=flags)

    def program(self, run: Run) -> int:
        """A few random helper calls, then the end, a wait or a fault."""
        random = self.random
        for _ in range(random.randrange(4)):
            what = random.randrange(3)
            if what == 0:
                raw = self.any_sqe()
                if run.submit(raw) < 0:
                    self.refused.add(abi.Sqe.unpack(raw).user_data)
            elif what == 1 and not self.v1:
                self.next_emitted += 1
                run.emit(random.randrange(4), self.next_emitted)
            elif not self.v1:
                run.reap(random.randrange(4))
        if random.random() < 0.05:
            raise Trap(TrapKind.NULL)
        if random.random() < 0.5:
            return run.done()
        return run.wait(random.randrange(4), random.choice((0, 1, 2, 2, 9)))


def play(bench: Bench, chaos: Chaos) -> None:
    """A random host, until it closes the ring."""
    random = chaos.random
    chaos.timespecs = [bench.timespec(ms) for ms in (0.1, 1, 2, 60_000)]
    for _ in range(25):
        try:
            what = random.randrange(6)
            if what <= 2:
                room = bench.ring.sq.entries - bench.ring.sq.ready()
                bench.submit(*[chaos.any_sqe() for _ in range(min(room, random.randrange(5)))])
            elif what == 3:
                bench.cqes(random.randrange(len(bench.ring.cqs)))
            elif what == 4:
                timeout_ns = random.choice((0, 1_500_000, 3_000_000))
                cq = random.randrange(len(bench.ring.cqs))
                bench.ring.wait_cqes(random.randrange(3), timeout_ns, cq)
            else:
                bench.ring.run_until_idle(timeout_ns=500_000)
        except (RingHang, Trap):
            pass


def check(events: list[Event], chaos: Chaos) -> None:
    issued = Counter(e.user_data for e in events if isinstance(e, SqeIssued))
    runs: Counter[int] = Counter()
    fates: dict[int, list[str]] = {}
    for event in events:
        if isinstance(event, CqePosted) and event.user_data < EMITTED:
            fates.setdefault(event.user_data, []).append(event.fate)
        elif isinstance(event, RunStarted):
            runs[event.request] += 1
            assert event.run == runs[event.request]
        elif isinstance(event, RunEnded):
            assert event.run == runs[event.request]
    assert all(count == 1 for count in issued.values()), "an SQE was issued twice"
    silenced = _silenced(events, set(fates))
    for user_data in issued:
        fate = fates.pop(user_data, [])
        if not fate:
            may_be = chaos.skippable | chaos.refused | silenced
            assert user_data in may_be, f"request {user_data} got no CQE"
        else:
            assert fate in (["posted"], ["dropped"], ["backlog"], ["backlog", "posted"]), fate
    assert not fates, f"CQEs of nobody: {fates}"


def _silenced(events: list[Event], told: set[int]) -> set[int]:
    """Requests, not of programs, behind one of their chain that has the skip flag and failed: it
    was told of. They may have been cancelled with it."""
    found: set[int] = set()
    broken: set[int] = set()
    for event in events:
        if isinstance(event, SqeIssued) and event.chain:
            if event.chain in broken and event.opcode != BPF:
                found.add(event.user_data)
            if event.flags & abi.SQE_CQE_SKIP_SUCCESS and event.user_data in told:
                broken.add(event.chain)
    return found


@pytest.mark.parametrize(
    "backend_name", ["sim", pytest.param("kernel", marks=pytest.mark.kernel_ring)]
)
@pytest.mark.parametrize("name", RING_PROFILES)
def test_chaos(make_bench: MakeBench, name: str, backend_name: str) -> None:
    profile = name.removeprefix("iouring-")
    for seed in SEEDS if backend_name == "sim" else SEEDS[::6]:
        chaos = Chaos(seed, profile)
        extra = () if chaos.v1 else (4, 8, 2)
        bench = make_bench(
            profile, chaos.program, entries=8, cq_entries=extra, budgets=BUDGETS, register=False
        )
        bench.ring.register_bpf([0, None])
        try:
            play(bench, chaos)
            bench.ring.close()
            check(bench.events, chaos)
        except BaseException as error:
            error.add_note(f"RING_SEEDS={seed}, {name} on {backend_name}")
            raise
        assert {region.kind for region in bench.memory.regions()} == {RegionKind.USER}


@pytest.mark.parametrize("name", RING_PROFILES)
def test_chaos_in_virtual_time_repeats_itself(make_bench: MakeBench, name: str) -> None:
    profile = name.removeprefix("iouring-")
    for seed in SEEDS[:10]:
        accounts = []
        for _ in range(2):
            chaos = Chaos(seed, profile)
            extra = () if chaos.v1 else (4, 8, 2)
            bench = make_bench(
                profile, chaos.program, cq_entries=extra, budgets=BUDGETS, register=False
            )
            bench.ring.register_bpf([0, None])
            play(bench, chaos)
            bench.ring.close()
            # The SQEs themselves have addresses, and every ring has its memory elsewhere.
            accounts.append(
                [replace(e, sqe=b"") if isinstance(e, SqeIssued) else e for e in bench.events]
            )
        assert accounts[0] == accounts[1], f"RING_SEEDS={seed}"


@pytest.fixture
def backend_name() -> str:
    return "sim"
