"""A ring with Python functions as programs, over whichever backend; see the fixture make_bench."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pytest

from pybpfvm.errors import PybpfvmError
from pybpfvm.events import Event
from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.uring_backend.abi import NOTICED, Op
from pybpfvm.uring_backend.base import Backend
from pybpfvm.uring_backend.bpf import Budgets
from pybpfvm.uring_backend.ring import Ring
from tests.support.fake_backend import FakeBackend
from tests.support.ring_programs import Program, PythonRunner, sqe

on_every_backend = pytest.mark.parametrize(
    "backend_name",
    ["fake", "sim", pytest.param("kernel", marks=pytest.mark.kernel_ring)],
)


@dataclass
class Bench:
    """A ring, its runner, what it reported, and user memory to point SQEs at."""

    ring: Ring
    runner: PythonRunner
    backend: Backend
    memory: AddressSpace
    events: list[Event] = field(default_factory=list)

    @property
    def fake(self) -> FakeBackend:
        """The backend, where a test asks for what only the fake one tells."""
        assert isinstance(self.backend, FakeBackend)
        return self.backend

    def user(self, data: bytes) -> int:
        """Address of user memory that holds `data`."""
        region = self.memory.alloc(len(data), RegionKind.USER, "test data")
        self.memory.user_write(region.start, data)
        return region.start

    def timespec(self, ms: float) -> int:
        """Address of a timespec of so many milliseconds."""
        return self.user(struct.pack("<qq", *divmod(int(ms * 1e6), 10**9)))

    def timeout(self, ms: float, *, user_data: int = 0, cq: int = 0, off: int = 0) -> bytes:
        """A TIMEOUT SQE, counting `off` CQEs."""
        addr = self.timespec(ms)
        return sqe(Op.TIMEOUT, addr=addr, len=1, off=off, user_data=user_data, cq=cq)

    def submit(self, *sqes: bytes) -> int:
        """Queue and submit."""
        for raw in sqes:
            self.ring.queue(raw)
        return self.ring.submit()

    def cqes(self, cq: int = 0) -> list[tuple[int, int]]:
        """(user_data, res) of everything in a CQ, reaped."""
        found = []
        while (cqe := self.ring.reap(cq)) is not None:
            found.append((cqe.user_data, cqe.res))
        return found


class MakeBench(Protocol):
    """Makes a ring of a profile (short name) with these programs registered in order."""

    def __call__(
        self,
        profile: str,
        *programs: Program,
        cq_entries: Sequence[int] | None = None,
        entries: int = 8,
        flags: int = 0,
        cq0_entries: int | None = None,
        budgets: Budgets | None = None,
        register: bool = True,
    ) -> Bench: ...


def make_backend(name: str, memory: AddressSpace, flags: int = 0) -> Backend:
    """A backend for a ring with these set-up flags, or a skipped test with the reason."""
    flags &= NOTICED
    if name == "fake":
        return FakeBackend(memory)
    if name == "sim":
        from pybpfvm.uring_backend.sim import SimBackend

        return SimBackend(memory, seed=1, flags=flags)
    kernel = pytest.importorskip("pybpfvm.uring_backend.kernel")
    try:
        backend: Backend = kernel.KernelBackend(memory, flags=flags)
    except (PybpfvmError, OSError, AttributeError) as error:
        pytest.skip(f"no io_uring here: {error}")
    return backend
