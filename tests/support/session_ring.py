"""Rings through the public API, for tests that run on both backends and several ABIs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pybpfvm.events import Event
from pybpfvm.session import Budgets, Cqe, LoadedObject, LoadedProgram, Machine, Ring
from pybpfvm.session.hostring import BackendName

SIM_AND_KERNEL: list[object] = ["sim", pytest.param("kernel", marks=pytest.mark.kernel_ring)]


def need_backend(name: str) -> None:
    """Skip the test, with the reason, where the running kernel has no ring for us."""
    if name == "kernel":
        from pybpfvm.uring_backend.kernel.probe import available

        reason = available()
        if reason is not None:
            pytest.skip(f"no io_uring here: {reason}")
    if name == "liburing":
        from pybpfvm.uring_backend.kernel.libring import available as through_library

        reason = through_library()
        if reason is not None:
            pytest.skip(f"no liburing here: {reason}")


@dataclass
class Desk:
    """An object on a ring of its own; `events` is everything that happened."""

    ring: Ring
    obj: LoadedObject
    events: list[Event] = field(default_factory=list)

    def register(self, *names: str | None) -> None:
        """Register programs by name, None for an empty slot."""
        programs: list[LoadedProgram | None] = [n if n is None else self.obj[n] for n in names]
        self.ring.register_bpf(programs)

    def submit_bpf(self, index: int, user_data: int = 0, **fields: int) -> int:
        """Submit one BPF request; what submit returned."""
        self.ring.get_sqe().prep_bpf(index, user_data=user_data, **fields)
        return self.ring.submit()

    def complete(self, index: int, user_data: int) -> list[tuple[int, int]]:
        """Submit one BPF request and wait for a CQE."""
        self.submit_bpf(index, user_data)
        return self.cqes(1)

    def cqes(self, count: int, cq: int = 0) -> list[tuple[int, int]]:
        """The next `count` CQEs of a queue as (user_data, res), waited for 10 s each."""
        return [pair(self.ring.wait_cqe(10_000_000_000, cq)) for _ in range(count)]

    def left(self, cq: int = 0) -> list[tuple[int, int]]:
        """What a queue still holds as (user_data, res), reaped."""
        return [pair(cqe) for cqe in self.ring.reap(cq)]

    def array(self, name: str, first: int = 0, last: int = 10) -> list[object]:
        """Elements of an array map."""
        return [self.obj.maps[name][index] for index in range(first, last)]


def pair(cqe: Cqe) -> tuple[int, int]:
    """(user_data, res)"""
    return cqe.user_data, cqe.res


@contextmanager
def desk(
    path: Path,
    abi: str,
    backend: BackendName = "sim",
    *,
    cq_entries: Sequence[int] = (128, 128),
    verify: bool = True,
    strict_ctx: bool = True,
    budgets: Budgets | None = None,
) -> Iterator[Desk]:
    """A machine with the object at `path` and a ring of 8 entries, given back at the end."""
    need_backend(backend)
    events: list[Event] = []
    with Machine() as machine:
        obj = machine.load(path, abi=abi)
        with Ring(
            8,
            cq_entries,
            backend=backend,
            abi=obj.profile,
            seed=1,
            verify=verify,
            strict_ctx=strict_ctx,
            budgets=budgets,
            observer=events.append,
            machine=machine,
        ) as ring:
            yield Desk(ring, obj, events)
