"""What iouring-x has, against the plain way of the third series, in turns on one ring."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from pybpfvm.session import Block, LoadedObject, Machine, Ring
from pybpfvm.session.hostring import BackendName
from pybpfvm.uring_backend.abi import FUTEX2_SIZE_U32, SQE_CQE_SKIP_SUCCESS, Op
from pybpfvm.uring_backend.contexts import BPF_CONTEXT
from pybpfvm.uring_backend.kernel import probe

Rows = list[tuple[str, float, str]]
Side = Callable[[], float]

_OBJECT = Path(__file__).parent / "programs" / "experiments" / "experiments.bpf.o"
_ROUNDS = 5
_TURNS = 8_000 * 50  # of the programs, in 50 runs
_RUNS = {"kernel": 20_000, "sim": 1_000}
_STATE = struct.Struct("<QQQII")
_WORD, _LEFT = 24, 28
_NEW = {"bytes": 0, "messages": 0, "sum": 0, "turns": 0, "left": 0}
_CONTRACT = {
    "programs": {
        "turns_by_pointer": {"user_data": "state"},
        "runs_by_pointer": {"user_data": "state"},
        "turns_by_atomic": {"user_data": "state"},
        "told_by_futex": {"user_data": "state"},
    },
    "blocks": {"state": {"size": _STATE.size, "pinned": True}},
}
_BUFFER, _MAP = 0, 1
_WORKERS = (1, 8, 64)
_DESK_CQ, _JOBS_CQ = 1, 2
_JOBS = 50


def run() -> Rows:
    """Nanoseconds of each way, medians of interleaved rounds, and their ratios."""
    refused = probe.available()
    backends: tuple[BackendName, ...] = ("sim",) if refused is not None else ("kernel", "sim")
    rows: Rows = []
    for backend in backends:
        rows += _contexts(backend)
        for workers in _WORKERS:
            rows += _desks(backend, workers)
        rows += _counters(backend)
        rows += _told(backend)
    return rows


def _rows(case: str, each: int, sides: dict[str, Side]) -> Rows:
    """Each side is compared with the last, the plain way; a round of each is to warm up."""
    for side in sides.values():
        side()
    taken = [{name: side() for name, side in sides.items()} for _ in range(_ROUNDS)]
    rows = [
        (f"{case}: {name}", median(one[name] for one in taken) / each * 1e9, "ns") for name in sides
    ]
    *ours, plain = sides
    for name in ours:
        ratio = median(one[plain] / one[name] for one in taken)
        rows.append((f"{case}: {plain} / {name}", ratio, "x"))
    return rows


@contextmanager
def _ring(backend: BackendName) -> Iterator[tuple[Ring, LoadedObject]]:
    with Machine() as machine:
        obj = machine.load(_OBJECT)
        with Ring(64, (64, 64, 64), backend=backend, abi=obj.profile, machine=machine) as ring:
            yield ring, obj


def _timed(ring: Ring, slot: int, user_data: int = 0, **fields: int) -> float:
    """Seconds that a request takes."""
    start = time.perf_counter()
    ring.get_sqe().prep_bpf(slot, user_data=user_data, **fields)
    ring.submit()
    cqe = ring.wait_cqe()
    taken = time.perf_counter() - start
    if cqe.res:
        raise AssertionError(f"the request ended with {cqe.res}")
    return taken


def _contexts(backend: BackendName) -> Rows:
    """State of a connection: that the request names, in a map, in user memory."""
    names = (
        "turns_by_context",
        "turns_by_lookup",
        "turns_by_copy",
        "runs_by_context",
        "runs_by_lookup",
        "runs_by_copy",
        "turns_by_pointer",
        "runs_by_pointer",
    )
    runs = _RUNS[backend]
    with _ring(backend) as (ring, obj):
        copied = ring.user.alloc(_STATE.size)
        shared = ring.user.alloc(_STATE.size, shared=True)
        ring.register_contexts([shared, obj.maps["states"]])
        ring.register_bpf([obj[name] for name in names], contract=_CONTRACT)

        def many(slot: int, block: Block, **fields: int) -> float:
            block.write(_STATE.pack(0, 0, 0, 0, runs))
            taken = _timed(ring, slot, block.addr, **fields)
            if block.u32(_LEFT):
                raise AssertionError(f"{block.u32(_LEFT)} of {runs} runs were not made")
            return taken

        def turns(slot: int, block: Block | None = None, **fields: int) -> float:
            if block is not None:
                block.write(bytes(_STATE.size))
            obj.maps["states"][0] = _NEW
            return _timed(ring, slot, 0 if block is None else block.addr, **fields)

        def looked_up() -> float:
            obj.maps["states"][0] = _NEW | {"left": runs}
            return _timed(ring, 4)

        return [
            *_rows(
                f"{backend}: state found and changed",
                _TURNS,
                {
                    "context": lambda: turns(0, op_flags=BPF_CONTEXT, buf_index=_MAP),
                    "look-up": lambda: turns(1),
                    "pointer": lambda: turns(6, shared),
                    "copies": lambda: turns(2, copied),
                },
            ),
            *_rows(
                f"{backend}: a run that changes its state after a NOP",
                runs,
                {
                    "context": lambda: many(3, shared, op_flags=BPF_CONTEXT, buf_index=_BUFFER),
                    "look-up": looked_up,
                    "pointer": lambda: many(7, shared),
                    "copies": lambda: many(5, copied),
                },
            ),
        ]


def _desks(backend: BackendName, workers: int) -> Rows:
    """Jobs, one at a time, for one of so many workers: handed over, or woken for by all."""
    with (
        _office(backend, "desk_worker", workers, "desk", _DESK_CQ) as desk,
        _office(backend, "herd_worker", workers, None, _JOBS_CQ) as herd,
    ):
        case = f"{backend}: a job for one of {workers} workers"
        rows = _rows(case, _JOBS, {"requeued": desk.round, "all woken": herd.round})
        return [
            *rows,
            (f"{case}: runs, requeued", desk.runs(), "each"),
            (f"{case}: runs, all woken", herd.runs(), "each"),
        ]


class _Office:
    """Workers on a ring, and the queue into which jobs come."""

    def __init__(self, ring: Ring, jobs_cq: int) -> None:
        self._ring = ring
        self._cq = jobs_cq

    def round(self) -> float:
        """Seconds that all jobs take."""
        start = time.perf_counter()
        for _ in range(_JOBS):
            self._ring.get_sqe().prep_nop(cq_idx=self._cq)
            self._ring.submit()
        return time.perf_counter() - start

    def runs(self) -> float:
        """Program runs of a job."""
        before = sum(self._ring.counts.runs.values())
        self.round()
        return (sum(self._ring.counts.runs.values()) - before) / _JOBS


@contextmanager
def _office(
    backend: BackendName, worker: str, workers: int, desk: str | None, jobs_cq: int
) -> Iterator[_Office]:
    with _ring(backend) as (ring, obj):
        ring.register_bpf([obj[worker], None if desk is None else obj[desk]])
        for _ in range(workers):
            ring.get_sqe().prep_bpf(0)
        ring.submit()
        if desk is not None:
            ring.get_sqe().prep_bpf(1)
            ring.submit()
        yield _Office(ring, jobs_cq)


def _counters(backend: BackendName) -> Rows:
    """A counter in user memory."""
    with _ring(backend) as (ring, obj):
        shared, copied = (ring.user.alloc(_STATE.size, shared=kind) for kind in (True, False))
        programs = [obj["turns_by_atomic"], obj["counts_by_copy"]]
        ring.register_bpf(programs, contract=_CONTRACT)

        def turns(slot: int, block: Block) -> float:
            block.write(bytes(_STATE.size))
            taken = _timed(ring, slot, block.addr)
            if block.u64() != _TURNS:
                raise AssertionError(f"{block.u64()} of {_TURNS} were counted")
            return taken

        return _rows(
            f"{backend}: a word of user memory counted up",
            _TURNS,
            {"atomic": lambda: turns(0, shared), "copies": lambda: turns(1, copied)},
        )


def _told(backend: BackendName) -> Rows:
    """The host tells a program of something, which answers."""
    with _ring(backend) as (ring, obj):
        block = ring.user.alloc(_STATE.size, shared=True)
        ring.register_bpf([obj["told_by_futex"], obj["told_by_cqe"]], contract=_CONTRACT)
        for slot in (0, 1):
            ring.get_sqe().prep_bpf(slot, user_data=block.addr)
        ring.submit()
        word = block.addr + _WORD
        wake = {"fd": FUTEX2_SIZE_U32, "addr": word, "off": 1, "addr3": 0xFFFF_0000}

        def by_futex() -> float:
            start = time.perf_counter()
            for number in range(1, _JOBS + 1):
                block.write(number.to_bytes(4, "little"), _WORD)
                ring.get_sqe().set(opcode=Op.FUTEX_WAKE, flags=SQE_CQE_SKIP_SUCCESS, **wake)
                ring.submit()
                _answered(ring, number)
            return time.perf_counter() - start

        def by_cqe() -> float:
            start = time.perf_counter()
            for number in range(1, _JOBS + 1):
                ring.get_sqe().prep_nop(user_data=number, cq_idx=1)
                ring.submit()
                _answered(ring, number)
            return time.perf_counter() - start

        case = f"{backend}: a program is told something, and answers"
        return _rows(case, _JOBS, {"futex": by_futex, "completion": by_cqe})


def _answered(ring: Ring, number: int) -> None:
    answer = ring.wait_cqe()
    if answer.user_data != number:
        raise AssertionError(f"{number} was answered with {answer.user_data}")
