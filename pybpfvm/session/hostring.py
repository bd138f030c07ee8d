"""What a ring is to its host, whatever its ABI: a context manager over a backend, with a machine's
memory, a way to run programs, and a seed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, get_args

from pybpfvm.errors import InputError
from pybpfvm.events import Observer
from pybpfvm.filters.table import FilterTable, Registration, Scope, Task
from pybpfvm.memory import AddressSpace
from pybpfvm.session.machine import Machine, default_machine
from pybpfvm.session.user import UserMemory
from pybpfvm.uring_backend.base import Backend, World

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.injector import Injector

BackendName = Literal["sim", "kernel", "liburing"]


def make_backend(
    name: str, memory: AddressSpace, seed: int, injector: Injector | None = None
) -> Backend:
    """The backend called `name`; InputError when it can not be had.

    `injector` gives requests faults, in `sim` only.
    """
    if name == "sim":
        from pybpfvm.uring_backend.sim import SimBackend

        return SimBackend(memory, seed=seed, injector=injector)
    if injector is not None:
        raise InputError(
            "requests on the kernel's ring meet no faults but its own",
            where="faults",
            remedy="use the sim backend, or only what the user side does: run#N=..., backlog=N",
        )
    if name == "kernel":
        from pybpfvm.uring_backend.kernel import KernelBackend

        return KernelBackend(memory)
    if name == "liburing":
        from pybpfvm.uring_backend.kernel import KernelBackend
        from pybpfvm.uring_backend.kernel.libring import LibRing

        return KernelBackend(memory, make_ring=LibRing)
    names = " or ".join(get_args(BackendName))
    raise InputError(f"no backend is called {name!r}", where="backend", remedy=names)


class HostRing(ABC):
    """`verify`: programs are judged before they get onto the ring; else they run sandboxed.
    `engine` executes them, `trace` has what they print, unless `log` takes it. `task` makes the
    ring: its filters of requests are the first that the ring has."""

    backend: Backend

    def __init__(
        self,
        *,
        seed: int,
        verify: bool,
        engine: str,
        observer: Observer | None,
        budget_insns: int,
        log: Callable[[str], None] | None,
        machine: Machine | None,
        task: Task | None,
    ) -> None:
        self.machine = machine if machine is not None else default_machine()
        self.verify = verify
        self.engine = engine
        self.trace: list[str] = []
        self._log = log if log is not None else self.trace.append
        self._observer = observer
        self._budget_insns = budget_insns
        self._random = Random(seed)
        self._filters = FilterTable() if task is None else task.table

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    @property
    def user(self) -> UserMemory:
        """User memory: `ring.user.alloc(content)`."""
        return self.machine.user

    @property
    def world(self) -> World:
        """Files and sockets that requests can reach."""
        return self.backend.world

    def random_u32(self) -> int:
        """What programs get as random numbers: from the seed."""
        return self._random.getrandbits(32)

    @property
    def filters(self) -> FilterTable:
        """The filters of requests that hold on this ring."""
        return self._filters

    def register_filter(self, wanted: Registration) -> int:
        """IORING_REGISTER_BPF_FILTER on this ring: the kernel's pdu_size. Raises RingError."""
        self._filters, size = self._filters.register(wanted, Scope.RING)
        self._put_filters()
        return size

    def denial(self, sqe: bytes) -> str:
        """By which filter this SQE is denied, "" if by none (see RequestFilter)."""
        return self._filters.judge_sqe(sqe, self.machine.memory).reason

    @abstractmethod
    def _put_filters(self) -> None:
        """Let the ring's requests pass `denial`, if there are filters."""

    @abstractmethod
    def close(self) -> None:
        """Cancel everything and give it back; twice is fine."""
