"""SimBackend: mainline io_uring without a kernel. One seed decides everything.

No threads, no machine clock, no real files: time is virtual and moves only in `wait`. What may
complete in more than one order on a real machine (work handed to workers) does so by latencies
drawn from the seed; the same seed and the same calls give the same completions.

Where mainline leaves freedom, this ring chooses: file reads and writes, opening an existing file,
closing and socket transfers that need not wait complete inside `submit`; FSYNC, FALLOCATE,
FTRUNCATE, STATX, SHUTDOWN, operations on names, opens that may create or truncate, and everything
with IOSQE_ASYNC or behind a drain go through a worker. A woken request runs at the next call of
`submit`, `poll` or `wait`.

Differences from mainline 6.18 that are known, besides what the tables of opcodes lack:
- A worker never blocks: what would block there waits for its file like everything else, so it
  can be cancelled (0) where a blocked worker gives -EALREADY, or wins a race it would lose.
- A transfer from or to one block of memory that is not user memory as a whole is -EFAULT;
  a vectored one stops before the first bad block.
- Pipes and sockets hold a fixed number of bytes, whatever the size of the pieces.
- Everyone is root, the umask is 022, O_DIRECT asks for no alignment; sockets are joined by
  a network of their own (`network`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pybpfvm.errors import InputError, UnsupportedError
from pybpfvm.memory import AddressSpace
from pybpfvm.uring_backend.abi import O_RDWR, Sqe
from pybpfvm.uring_backend.base import Backend, Denied, Event, PollGate
from pybpfvm.uring_backend.choices import Chooser
from pybpfvm.uring_backend.sim.cancel import sync_cancel
from pybpfvm.uring_backend.sim.clock import NEVER, Clock
from pybpfvm.uring_backend.sim.core import Core
from pybpfvm.uring_backend.sim.descriptors import FdTable, OpenFile
from pybpfvm.uring_backend.sim.injector import Injector
from pybpfvm.uring_backend.sim.messages import RingNode
from pybpfvm.uring_backend.sim.opcodes import PREPARE, unsupported
from pybpfvm.uring_backend.sim.settings import SimSettings
from pybpfvm.uring_backend.sim.vfs import DEFAULT_LIMIT_BYTES
from pybpfvm.uring_backend.sim.world import SimWorld


class SimBackend:
    """The `sim` backend (see base.Backend). `disk_bytes` bounds the content of all files;
    `injector` decides which requests meet faults, `chooser` what else may come in another order;
    `flags` as of base.Backend. `beside` is another whose clock, descriptors and world this one
    shares; the last of them to close closes these. Waiting ends with an event of either, unless
    they are `apart`."""

    name = "sim"

    def __init__(
        self,
        memory: AddressSpace,
        *,
        seed: int = 0,
        disk_bytes: int = DEFAULT_LIMIT_BYTES,
        injector: Injector | None = None,
        flags: int = 0,
        beside: SimBackend | None = None,
        apart: bool = False,
        chooser: Chooser | None = None,
    ) -> None:
        self.seed = seed
        self._memory = memory
        if beside is None:
            self._clock = Clock()
            self._fds = FdTable()
            self.world = SimWorld(self._fds, self._clock, disk_bytes, seed=seed)
        else:
            self._clock, self._fds, self.world = beside._clock, beside._fds, beside.world
        self._cores: list[Core] = [] if beside is None else beside._cores  # of this clock
        self._core = Core(
            memory, self._fds, self._clock, self.world, PREPARE, seed, injector, chooser
        )
        self._core.setup_flags = flags
        self.settings = SimSettings(self._core)
        self._cores.append(self._core)
        self._awaited = [self._core] if apart else self._cores
        self._closed = False

    def __enter__(self) -> SimBackend:
        return self

    def __exit__(self, *_: object) -> Literal[False]:
        self.close()
        return False

    def now_ns(self) -> int:
        """Virtual nanoseconds since the backend was made."""
        return self._clock.now_ns

    def submit(self, sqes: Sequence[bytes]) -> int:
        """Issue SQEs as one io_uring_enter would; how many were consumed.

        UnsupportedError, with nothing consumed, for an opcode that mainline has and `sim` lacks.
        """
        entries = [Sqe.unpack(raw) for raw in sqes]
        for sqe in entries:
            denied = self._core.denied is not None and self._core.denied(sqe.user_data)
            if feature := unsupported(sqe, self._memory):
                if denied and sqe.opcode in PREPARE:
                    continue  # prepared, and never performed
                raise UnsupportedError(
                    f"{feature} in the simulated ring",
                    remedy="docs/sim-kernel-differences.md lists what it lacks, and the kernel's",
                )
        return self._core.submit(entries)

    def submit_aside(self, sqe: bytes) -> None:
        """Issue one SQE that has no place among the others."""
        self._core.submit_aside(Sqe.unpack(sqe))

    def poll(self) -> list[Event]:
        """What has happened since the last call, in order."""
        self._core.run()
        events = list(self._core.outbox)
        self._core.outbox.clear()
        return events

    def wait(self, timeout_ns: int | None) -> bool:
        """Move virtual time to the next event; see base.Backend."""
        clock = self._clock
        end = NEVER if timeout_ns is None else min(clock.now_ns + timeout_ns, NEVER)
        while not self._run_all():
            if clock.next_ns() is None or not clock.advance(end):
                return False
        return True

    def let_happen(self) -> None:
        """The host is about to take a step: what a chooser wants to happen before it does."""
        while self._clock.let_happen():
            for core in self._cores:
                core.run()

    def _run_all(self) -> bool:
        """Let rings do what is due; whether one that is awaited has an event."""
        for core in self._awaited:
            core.run()
        return any(core.outbox for core in self._awaited)

    def can_progress(self) -> bool:
        """Whether an event is unreported, queued, or set on the clock."""
        return any(core.busy() for core in self._awaited)

    def finish(self, token: int, *, failed: bool = False) -> None:
        """End an external request."""
        self._core.finish_external(token, failed=failed)

    def cancel_external(self, token: int) -> None:
        """Forget an external request that has not started."""
        self._core.forget_external(token)

    def filter_requests(self, denied: Denied) -> None:
        """Ask `denied` when a request was prepared."""
        self._core.denied = denied

    def gate_polls(self, gate: PollGate | None) -> None:
        """Ask `gate` whether a wake counts, of receives that want it."""
        self._core.gate = gate

    def buffer_at(self, index: int) -> tuple[int, int] | None:
        """(address, bytes) of a registered buffer, None if there is none."""
        return self._core.buffers.place(index)

    def register_files(self, fds: Sequence[int], tags: Sequence[int] = ()) -> int:
        """IORING_REGISTER_FILES: 0 or -errno."""
        return self._core.slots.register(fds, tags)

    def update_files(self, offset: int, fds: Sequence[int], tags: Sequence[int] = ()) -> int:
        """IORING_REGISTER_FILES_UPDATE: number updated or -errno."""
        return self._core.slots.update(offset, fds, tags)

    def unregister_files(self) -> int:
        """0 or -errno."""
        return self._core.slots.unregister()

    def file_alloc_range(self, offset: int, count: int) -> int:
        """IORING_REGISTER_FILE_ALLOC_RANGE: 0 or -errno."""
        return self._core.slots.set_range(offset, count)

    def register_buffers(self, buffers: Sequence[tuple[int, int]], tags: Sequence[int] = ()) -> int:
        """IORING_REGISTER_BUFFERS: 0 or -errno."""
        return self._core.buffers.register(buffers, tags)

    def update_buffers(
        self, offset: int, buffers: Sequence[tuple[int, int]], tags: Sequence[int] = ()
    ) -> int:
        """IORING_REGISTER_BUFFERS_UPDATE: number updated or -errno."""
        return self._core.buffers.update(offset, buffers, tags)

    def unregister_buffers(self) -> int:
        """0 or -errno."""
        return self._core.buffers.unregister()

    def register_buffer_ring(self, addr: int, entries: int, group: int, flags: int = 0) -> int:
        """IORING_REGISTER_PBUF_RING: 0 or -errno."""
        return self._core.groups.register_ring(addr, entries, group, flags)

    def unregister_buffer_ring(self, group: int) -> int:
        """0 or -errno."""
        return self._core.groups.unregister_ring(group)

    def buffer_ring_head(self, group: int) -> int:
        """IORING_REGISTER_PBUF_STATUS: buffers used up, modulo 2**16, or -errno."""
        return self._core.groups.ring_head(group)

    def clone_buffers(
        self,
        source: Backend,
        offset: int = 0,
        target: int = 0,
        count: int = 0,
        *,
        replace: bool = False,
    ) -> int:
        """IORING_REGISTER_CLONE_BUFFERS: 0 or -errno."""
        if not isinstance(source, SimBackend):
            raise InputError("a simulated ring takes buffers of simulated rings only")
        buffers = source._core.buffers
        return self._core.buffers.clone(buffers, offset, target, count, replace=replace)

    def sync_cancel(
        self,
        token: int = 0,
        *,
        fd: int = -1,
        flags: int = 0,
        opcode: int = 0,
        timeout_ns: int | None = None,
    ) -> int:
        """IORING_REGISTER_SYNC_CANCEL: like the result of an ASYNC_CANCEL."""
        return sync_cancel(self._core, flags, token, fd, opcode, timeout_ns)

    def ring_fd(self, other: Backend) -> int:
        """An fd of another simulated ring, or of this one, for MSG_RING."""
        if not isinstance(other, SimBackend):
            raise InputError("a simulated ring sends messages to simulated rings only")
        return self._fds.install(OpenFile(RingNode(other._core), O_RDWR))

    def in_flight(self) -> int:
        """Requests submitted and not completed."""
        return len(self._core.live) + len(self._core.notifying)

    def holds(self, token: int) -> bool:
        """Whether the request is one of these."""
        return token in self._core.live or token in self._core.notifying

    def close(self) -> None:
        """Drop everything in flight and close every descriptor; twice is fine."""
        if self._closed:
            return
        self._closed = True
        self.settings.close()
        self._core.close()
        self._cores.remove(self._core)
        if not self._cores:
            self._clock.clear()
            self._fds.close_all()
