"""What a ring is to its host, whatever its ABI: a context manager over a backend, with a machine's
memory, a way to run programs, and a seed."""

from __future__ import annotations

import errno
import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from pybpfvm.errors import InputError, RingError
from pybpfvm.events import Observer
from pybpfvm.filters.table import FilterTable, Registration, Scope, Task
from pybpfvm.memory import AddressSpace
from pybpfvm.profiles.base import Profile
from pybpfvm.session.machine import Machine, default_machine
from pybpfvm.session.ringfaults import RingFaults
from pybpfvm.session.sqe import SqeBuilder
from pybpfvm.session.user import Block, UserMemory
from pybpfvm.uring_backend.abi import (
    NOTICED,
    PBUF_RING_INC,
    REGISTER_BPF_FILTER,
    SETUP_R_DISABLED,
    Cqe,
    Register,
)
from pybpfvm.uring_backend.base import Backend, World
from pybpfvm.uring_backend.choices import Chooser
from pybpfvm.uring_backend.counts import Counts
from pybpfvm.uring_backend.faults import Fault, Faults, Missed
from pybpfvm.uring_backend.restrictions import Restrict, Restrictions, Row
from pybpfvm.uring_backend.settings import Capabilities, Settings
from pybpfvm.uring_backend.sq import SqView

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.injector import Injector

BackendName = Literal["sim", "kernel", "liburing"]
_MOST_LINKED = 1024  # where a program queues its requests one by one


def make_backend(
    name: str,
    memory: AddressSpace,
    seed: int,
    injector: Injector | None = None,
    setup_flags: int = 0,
    beside: Backend | None = None,
    *,
    apart: bool = False,
    chooser: Chooser | None = None,
    most: int = _MOST_LINKED,
) -> Backend:
    """The backend called `name`; InputError when it can not be had.

    `injector` gives requests faults, in `sim` only. `setup_flags`: the ring's, of which requests
    notice some. `beside`: another of this name, whose world and clock it shares; `apart`: and what
    comes to that one does not end a wait for this one. `chooser` is for `sim`, too. No chain
    of requests is longer than `most`.
    """
    flags = setup_flags & NOTICED
    if name == "sim":
        from pybpfvm.uring_backend.sim import SimBackend

        if not isinstance(beside, SimBackend | None):
            raise _not_beside(name, beside)
        return SimBackend(
            memory,
            seed=seed,
            injector=injector,
            flags=flags,
            beside=beside,
            apart=apart,
            chooser=chooser,
        )
    if chooser is not None:
        raise InputError(
            "the kernel decides the order of what happens on its ring",
            where="schedule",
            remedy="use the sim backend",
        )
    if injector is not None:
        raise InputError(
            "requests on the kernel's ring meet no faults but its own",
            where="faults",
            remedy="use the sim backend, or only what the user side does: run#N=..., backlog=N",
        )
    if name == "kernel":
        from pybpfvm.uring_backend.kernel.backend import KernelBackend, entries_for

        if not isinstance(beside, KernelBackend | None):
            raise _not_beside(name, beside)
        return KernelBackend(memory, entries=entries_for(most), flags=flags, beside=beside)
    if name == "liburing":
        from pybpfvm.uring_backend.kernel.backend import KernelBackend, entries_for
        from pybpfvm.uring_backend.kernel.libring import LibRing

        if not isinstance(beside, KernelBackend | None):
            raise _not_beside(name, beside)
        return KernelBackend(
            memory, entries=entries_for(most), make_ring=LibRing, flags=flags, beside=beside
        )
    names = " or ".join(get_args(BackendName))
    raise InputError(f"no backend is called {name!r}", where="backend", remedy=names)


def _not_beside(name: str, beside: Backend) -> InputError:
    return InputError(
        f"a ring of {name} is not beside one of {beside.name}",
        where="beside",
        remedy="give both the same backend",
    )


def _require_alike(machine: Machine, faults: object, beside: HostRing) -> None:
    """Raise unless a ring with these can be beside that one."""
    if machine is not beside.machine:
        raise InputError("rings beside one another are of one machine", where="machine")
    if faults is not None:
        raise InputError(
            "rings beside one another meet the same faults",
            where="faults",
            remedy="give them to the first",
        )


class HostRing(ABC):
    """`verify`: programs are judged before they get onto the ring; else they run sandboxed.
    `engine` executes them, `trace` has what they print, unless `log` takes it. `faults` are what
    requests (in `sim`) and programs meet, as values or text of `uring_backend.faults`. `task`
    makes the ring: its filters of requests are the first that the ring has. `beside` is a ring
    whose machine and faults this one shares. `record` is the file to which all that happens on its
    machine is recorded until the ring is closed, `name` what recordings call this ring. `chooser`
    (in `sim`) decides what the seed would. `heard` are the helpers of whose calls the observer is
    told (None: all), `observer` of everything else."""

    backend: Backend

    def __init__(
        self,
        *,
        seed: int,
        verify: bool,
        engine: str,
        observer: Observer | None,
        heard: frozenset[str] | None,
        budget_insns: int,
        log: Callable[[str], None] | None,
        faults: Faults | str | None,
        machine: Machine | None,
        task: Task | None,
        flags: int,
        record: str | os.PathLike[str] | None,
        name: str,
        options: Mapping[str, Any],
        chooser: Chooser | None = None,
        beside: HostRing | None = None,
    ) -> None:
        if machine is None:
            machine = default_machine() if beside is None else beside.machine
        self.machine: Machine = machine
        self.verify = verify
        self.engine = engine
        self.trace: list[str] = []
        self._log = log if log is not None else self.trace.append
        # Engines tell of calls of helpers, which a replay makes anew: recordings do without.
        self._given_observer, self._heard = observer, heard
        recorder = self.machine.recorder
        how = {"seed": seed, "engine": engine, "budget_insns": budget_insns, **options}
        if name:
            how["name"] = name
        self.recording = None if record is None else os.fspath(record)
        self._recording_ends: Callable[[], object] | None = None
        if record is not None:
            self.machine.record(record, how)
            self._recording_ends = weakref.finalize(self, recorder.stop)
        self.number = 0  # in the recording
        if recorder.active:
            looks = not verify or "loop" in options
            self.number = recorder.ring(how, self, looks=looks)
            observer = recorder.observer(self.number, observer)
        self._observer = observer
        self._budget_insns = budget_insns
        self._random = Random(seed)
        self._filters = FilterTable() if task is None else task.table
        self._chooser = chooser
        if beside is None:
            self._faults = RingFaults(self, faults, seed, observer, chooser)
        else:
            _require_alike(self.machine, faults, beside)
            self._faults = beside._faults.beside(self, observer)
        self._restrictions = Restrictions(disabled=bool(flags & SETUP_R_DISABLED))
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if exc is not None and self.number and not self._closed:
            interrupted = isinstance(exc, KeyboardInterrupt)
            text = "interrupted" if interrupted else f"{type(exc).__name__}: {exc}"
            self.machine.recorder.ends(self.number, self.now_ns(), "stopped", text[:1000])
        self.close()

    @property
    def user(self) -> UserMemory:
        """User memory: `ring.user.alloc(content)`."""
        return self.machine.user

    @property
    def world(self) -> World:
        """Files and sockets that requests can reach."""
        return self.backend.world

    def before_step(self) -> None:
        """The host is about to do something: what a chooser wants to happen before it does."""
        if self._chooser is not None:
            from pybpfvm.uring_backend.sim import SimBackend

            assert isinstance(self.backend, SimBackend)
            self.backend.let_happen()

    def now_ns(self) -> int:
        """The ring's clock, in ns: virtual in `sim`."""
        return self.backend.now_ns()

    def random_u32(self) -> int:
        """What programs get as random numbers: from the seed."""
        return self._random.getrandbits(32)

    @property
    def injected(self) -> tuple[Fault, ...]:
        """The faults that came so far: `plan_text` of them, as `faults`, makes them come again."""
        return self._faults.injected

    @property
    def missed_faults(self) -> tuple[Missed, ...]:
        """What of a plan of `faults` did not come so far, and why."""
        return self._faults.missed

    def filters(self) -> FilterTable:
        """The filters of requests that hold on this ring."""
        return self._filters

    def register_filter(self, wanted: Registration) -> int:
        """IORING_REGISTER_BPF_FILTER on this ring: the kernel's pdu_size. Raises RingError."""
        with self._turn():
            self._restrictions.command(REGISTER_BPF_FILTER)
            self._filters, size = self._filters.register(wanted, Scope.RING)
            self._put_filters()
            return size

    def denial(self, sqe: bytes) -> str:
        """By which filter this SQE is denied, "" if by none (see RequestFilter)."""
        return self._filters.judge_sqe(sqe, self.machine.memory).reason

    @abstractmethod
    def _put_filters(self) -> None:
        """Let the ring's requests pass `denial`, if there are filters."""

    # --- registration -----------------------------------------------------------------------

    def register_files(self, fds: Sequence[int]) -> None:
        """IORING_REGISTER_FILES; -1 leaves a slot empty. Raises RingError."""
        with self._turn():
            self._restrictions.command(Register.FILES)
            self._registered("register_files", self.backend.register_files(fds))

    def register_buffers(self, blocks: Sequence[Block]) -> None:
        """IORING_REGISTER_BUFFERS. Raises RingError."""
        pairs = [(block.addr, block.size) for block in blocks]
        with self._turn():
            self._restrictions.command(Register.BUFFERS)
            self._registered("register_buffers", self.backend.register_buffers(pairs))

    def register_buffer_ring(
        self, ring: Block, entries: int, group: int, *, incremental: bool = False
    ) -> None:
        """IORING_REGISTER_PBUF_RING: `ring` holds so many entries of 16 bytes. Raises RingError."""
        flags = PBUF_RING_INC if incremental else 0
        with self._turn():
            self._restrictions.command(Register.PBUF_RING)
            result = self.backend.register_buffer_ring(ring.addr, entries, group, flags)
            self._registered("register_buffer_ring", result)

    def _turn(self) -> AbstractContextManager[object]:
        """Around a call: other threads' calls come before or behind it, where they may be made."""
        return nullcontext()

    def ring_fd(self, other: HostRing) -> int:
        """An fd of another ring, or of this one, for MSG_RING requests of this ring: their CQEs
        come to its CQ 0. InputError when the two have different backends."""
        with self._turn():
            self._check_open()
            return self.backend.ring_fd(other.backend)

    def register_restrictions(
        self,
        *,
        sqe_ops: Iterable[int] = (),
        register_ops: Iterable[int] = (),
        sqe_flags_allowed: int = 0,
        sqe_flags_required: int = 0,
    ) -> None:
        """IORING_REGISTER_RESTRICTIONS of a ring made with SETUP_R_DISABLED: what requests may be,
        and what may be registered, from `enable` on; everything else is -EACCES. Raises RingError
        EBADFD, EBUSY, EINVAL."""
        rows = [(Restrict.SQE_OP, op) for op in sqe_ops]
        rows += [(Restrict.REGISTER_OP, op) for op in register_ops]
        rows.append((Restrict.SQE_FLAGS_ALLOWED, sqe_flags_allowed))
        rows.append((Restrict.SQE_FLAGS_REQUIRED, sqe_flags_required))
        self._restrict(rows)

    @abstractmethod
    def _restrict(self, rows: Sequence[Row]) -> None:
        """The same, by rows."""

    @abstractmethod
    def enable(self) -> None:
        """IORING_REGISTER_ENABLE_RINGS. Raises RingError EBADFD."""

    # --- what the ring is asked and told about itself -----------------------------------------

    def probe(self) -> frozenset[int]:
        """IORING_REGISTER_PROBE: the opcodes that the backend performs; the ring's ABI may have
        fewer. Raises RingError."""
        with self._settings(Register.PROBE) as settings:
            return settings.probe()

    def query(self) -> Capabilities:
        """IORING_REGISTER_QUERY: what the kernel has; of Linux 6.18 in `sim`. Raises RingError
        EINVAL on kernels before that."""
        with self._settings() as settings:
            found = settings.query()
        if isinstance(found, int):
            raise RingError(-found, "this kernel knows no IORING_REGISTER_QUERY")
        return found

    def register_personality(self) -> int:
        """IORING_REGISTER_PERSONALITY: a number for SQEs, of the credentials that this process has
        now. Raises RingError."""
        with self._settings(Register.PERSONALITY) as settings:
            return self._registered("register_personality", settings.register_personality())

    def unregister_personality(self, number: int) -> None:
        """IORING_UNREGISTER_PERSONALITY. Raises RingError EINVAL."""
        with self._settings(Register.UNREGISTER_PERSONALITY) as settings:
            self._registered("unregister_personality", settings.unregister_personality(number))

    def register_iowq_aff(self, cpus: Iterable[int]) -> None:
        """IORING_REGISTER_IOWQ_AFF: the processors that workers run on. Raises RingError."""
        with self._settings(Register.IOWQ_AFF) as settings:
            self._registered("register_iowq_aff", settings.register_iowq_aff(cpus))

    def unregister_iowq_aff(self) -> None:
        """IORING_UNREGISTER_IOWQ_AFF: any processors. Raises RingError."""
        with self._settings(Register.UNREGISTER_IOWQ_AFF) as settings:
            self._registered("unregister_iowq_aff", settings.unregister_iowq_aff())

    def register_iowq_max_workers(self, bounded: int = 0, unbounded: int = 0) -> tuple[int, int]:
        """IORING_REGISTER_IOWQ_MAX_WORKERS (0: as before): the numbers until now, which are those
        of all rings of this thread. Raises RingError."""
        with self._settings(Register.IOWQ_MAX_WORKERS) as settings:
            found = settings.iowq_max_workers(bounded, unbounded)
        if isinstance(found, int):
            raise RingError(-found, "register_iowq_max_workers was refused")
        return found

    def register_ring_fd(self) -> int:
        """IORING_REGISTER_RING_FDS: a number by which this thread may name the ring. Raises
        RingError."""
        with self._settings(Register.RING_FDS) as settings:
            return self._registered("register_ring_fd", settings.register_ring_fd())

    def unregister_ring_fd(self, number: int) -> None:
        """IORING_UNREGISTER_RING_FDS. Raises RingError."""
        with self._settings(Register.UNREGISTER_RING_FDS) as settings:
            self._registered("unregister_ring_fd", settings.unregister_ring_fd(number))

    def register_clock(self, clock: int) -> None:
        """IORING_REGISTER_CLOCK: settings.CLOCK_MONOTONIC or CLOCK_BOOTTIME times waits for CQEs.
        Raises RingError EINVAL."""
        with self._settings(Register.CLOCK) as settings:
            self._registered("register_clock", settings.register_clock(clock))

    def register_sync_msg(self, sqe: SqeBuilder) -> None:
        """IORING_REGISTER_SEND_MSG_RING: deliver the data of a MSG_RING request now, which no ring
        performs; `ring_fd` gives its descriptor. Raises RingError."""
        with self._settings() as settings:
            self._registered("register_sync_msg", settings.sync_message(sqe.pack()))

    @contextmanager
    def _settings(self, command: Register | None = None) -> Iterator[Settings]:
        """In a turn, to give this command (None: one that is never restricted)."""
        with self._turn():
            self._check_open()
            if command is not None:
                self._restrictions.command(command)
            yield self.backend.settings

    def _check_open(self) -> None:
        if self._closed:
            raise RingError(errno.ENXIO, "the ring is closed")

    def _registered(self, what: str, result: int) -> int:
        self._check_open()
        if result < 0:
            raise RingError(-result, f"{what} was refused")
        return result

    # --- what rings of every ABI do -----------------------------------------------------------

    @property
    @abstractmethod
    def profile(self) -> Profile:
        """The ring's ABI."""

    @abstractmethod
    def get_sqe(self) -> SqeBuilder:
        """The next free submission entry."""

    @abstractmethod
    def submit(self) -> int:
        """Submit all entries and run what is due; how many were consumed."""

    @abstractmethod
    def wait_cqe(self, timeout_ns: int | None = None, cq: int = 0) -> Cqe:
        """The next CQE of a queue, reaped; programs run meanwhile."""

    @abstractmethod
    def reap(self, cq: int = 0) -> list[Cqe]:
        """All CQEs that a queue holds, reaped."""

    @abstractmethod
    def reap_one(self, cq: int = 0) -> Cqe | None:
        """The oldest CQE of a queue, reaped; None when there is none."""

    @abstractmethod
    def newest(self, cq: int = 0) -> Cqe | None:
        """The CQE that was written last to a queue, reaped or not; None if there was none."""

    @abstractmethod
    def cq_entries(self, cq: int = 0) -> int:
        """How many CQEs a queue can hold."""

    @abstractmethod
    def run_until_idle(self, timeout_ns: int | None = None) -> bool:
        """Let everything that can happen happen; False when `timeout_ns` ended it earlier."""

    @property
    @abstractmethod
    def counts(self) -> Counts:
        """Runs, instructions and CQEs so far."""

    @property
    @abstractmethod
    def cq_overflow(self) -> int:
        """CQEs lost so far."""

    @property
    @abstractmethod
    def counts_so_far(self) -> Counts:
        """`counts`, as far as the observer was told, without making anything for it."""

    @abstractmethod
    def sq_view(self) -> SqView | None:
        """The SQ, None where there is none: the ring was never used, or is closed."""

    def _end_recording(self) -> None:
        """The ring is closed: so is the recording that it began."""
        if self._recording_ends is not None:
            self._recording_ends()

    @abstractmethod
    def close(self) -> None:
        """Cancel everything and give it back; twice is fine."""
