"""Rings over every backend at hand, driven by Python functions as programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from pybpfvm.events import Event
from pybpfvm.memory import AddressSpace
from pybpfvm.profiles import PROFILES
from pybpfvm.uring_backend.bpf import Budgets
from pybpfvm.uring_backend.ring import Ring
from tests.support.ring_bench import Bench, MakeBench, make_backend
from tests.support.ring_programs import Program, PythonRunner


@pytest.fixture
def backend_name() -> str:
    """Overridden by `on_every_backend`."""
    return "fake"


@pytest.fixture
def make_bench(backend_name: str) -> Iterator[MakeBench]:
    closers: list[Callable[[], None]] = []

    def make(
        profile: str,
        *programs: Program,
        cq_entries: Sequence[int] | None = None,
        entries: int = 8,
        flags: int = 0,
        cq0_entries: int | None = None,
        budgets: Budgets | None = None,
        register: bool = True,
    ) -> Bench:
        abi = PROFILES[f"iouring-{profile}"]
        if cq_entries is None:
            cq_entries = (128, 128) if abi.ring is not None and abi.ring.extra_cqs else ()
        memory = AddressSpace()
        closers.append(memory.close)
        backend = make_backend(backend_name, memory, flags)
        runner = PythonRunner(memory, *programs)
        events: list[Event] = []
        ring = Ring(
            abi,
            memory,
            backend,
            entries,
            cq_entries,
            flags=flags,
            cq0_entries=cq0_entries,
            runner=runner,
            observer=events.append,
            budgets=budgets,
        )
        closers.append(ring.close)
        runner.ring = ring
        if programs and register:
            ring.register_bpf(range(len(programs)))
        return Bench(ring, runner, backend, memory, events)

    yield make
    for close in reversed(closers):
        close()
