"""What recording costs, by engine and program, and how large recordings are.

The ring program is ping-pong: 56 instructions for each CQE. The computing one goes over
a packet, outside any ring. Rounds without a recording, with an observer and with a recording take
turns; an observer is what a ring's loop in compiled code does without, as under a recording.
Seconds are the processor's.
"""

from __future__ import annotations

import os
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from pybpfvm.engine import DEFAULT_BUDGET_INSNS
from pybpfvm.events import Event
from pybpfvm.session import Budgets, Machine, Ring
from pybpfvm.session.hostring import BackendName
from pybpfvm.trace.replay import Replay
from pybpfvm.uring_backend.kernel import probe

_ROOT = Path(__file__).parents[1]
_PINGPONG = _ROOT / "examples" / "03_pingpong" / "prog.v3.bpf.o"
_NUMBERS = _ROOT / "bench" / "programs" / "numbers.bpf.o"
_ROUNDS = 3
_RALLIES = 1_000
_NO_END = 1 << 40
_PACKETS = {"jit": 500, "interp": 5}
_PACKET = bytes(range(12)) + b"\x08\x00" + bytes(i * 7 & 255 for i in range(1400))
_ENGINES = ("jit", "interp")

Rows = list[tuple[str, float, str]]
# Seconds, for (recorded to, observed).
_Round = Callable[[Path | None, bool], float]


def run() -> Rows:
    """Ratios of time, bytes a million instructions and a CQE, and how fast it is replayed."""
    refused = probe.available()
    backends: list[BackendName] = ["sim"]
    if refused is None:
        backends.append("kernel")
    else:
        print(f"the kernel's ring is left out: {refused}")
    rows: Rows = []
    for engine in _ENGINES:
        for backend in backends:
            rows += _measured(f"ping-pong on {backend}, {engine}", pingpong(engine, backend))
        rows += _measured(f"a packet's digest, {engine}", _digest(engine))
    return rows


def _measured(name: str, once: _Round) -> Rows:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.bpftrace"
        times: dict[str, list[float]] = {"plain": [], "observed": [], "recorded": []}
        for _ in range(_ROUNDS):
            times["plain"].append(once(None, False))
            times["observed"].append(once(None, True))
            times["recorded"].append(once(path, False))
        plain, observed, recorded = (median(times[kind]) for kind in times)
        size = os.path.getsize(path)
        start = time.process_time()
        with Replay(path, engine="jit") as replay:
            opened = time.process_time() - start
            found = replay.rest()
            assert found is None, found
            assert replay.damage is None
            index = replay.index
        replayed = time.process_time() - start
    rows = [
        (f"{name}: without a recording", 1e3 * plain, "ms"),
        (f"{name}: recorded", 1e3 * recorded, "ms"),
        (f"{name}: recorded / without", recorded / plain, "x"),
        (f"{name}: recorded / observed", recorded / observed, "x"),
        (f"{name}: bytes a million instructions", size / index.insns * 1e6, "B"),
        (f"{name}: opened", 1e3 * opened, "ms"),
        (f"{name}: replayed on the JIT / recorded", replayed / recorded, "x"),
    ]
    if index.completions:
        rows.insert(5, (f"{name}: bytes a CQE", size / index.completions, "B"))
    return rows


def _ignore(_: Event) -> None:
    """An observer that is in nobody's way."""


def pingpong(engine: str, backend: BackendName, rallies: int = _RALLIES) -> _Round:
    """Rounds of so many rallies, of 56 instructions and a CQE each."""

    def once(path: Path | None, observed: bool) -> float:
        with Machine() as machine:
            obj = machine.load(_PINGPONG)
            with Ring(
                8,
                [16, 16],
                backend=backend,
                engine=engine,
                machine=machine,
                budgets=Budgets(
                    max_runs=10 * rallies, livelock_runs=10 * rallies, livelock_insns=_NO_END
                ),
                observer=_ignore if observed else None,
                record=path,
            ) as ring:
                ring.register_bpf([obj["player"]])
                for own, peer in ((1, 2), (2, 1)):
                    block = ring.user.alloc(struct.pack("<IIII", own, peer, rallies, 0))
                    ring.get_sqe().prep_bpf(0, user_data=block.addr)
                ring.get_sqe().prep_nop(cq_idx=1)
                start = time.process_time()
                ring.submit()
                ring.wait_cqe()
                ring.wait_cqe()
                return time.process_time() - start

    return once


def _digest(engine: str) -> _Round:
    def once(path: Path | None, observed: bool) -> float:
        with Machine() as machine:
            program = machine.load(_NUMBERS)["digest"]
            if path is not None:
                machine.record(path)
            start = time.process_time()
            program.run(
                data=_PACKET,
                repeat=_PACKETS[engine],
                engine=engine,
                observer=_ignore if observed else None,
                budget_insns=DEFAULT_BUDGET_INSNS,
            )
            return time.process_time() - start

    return once
