"""The ring as hosts use it; names follow liburing, so that C hosts read across."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Any

from pybpfvm.engine import DEFAULT_BUDGET_INSNS, Engine, RunEnvironment
from pybpfvm.errors import (
    InputError,
    RingError,
    RingHang,
    Trap,
)
from pybpfvm.events import Observer
from pybpfvm.filters.table import Task
from pybpfvm.maps.array import ArrayMap
from pybpfvm.profiles import profile_named
from pybpfvm.profiles.base import Profile
from pybpfvm.program import BPF_F_RDONLY_PROG, BPF_F_WRONLY_PROG, MapType, Program
from pybpfvm.session.engines import Kept, prepare
from pybpfvm.session.hostring import BackendName, HostRing, make_backend
from pybpfvm.session.machine import Machine
from pybpfvm.session.objects import LoadedObject, LoadedProgram, MapView
from pybpfvm.session.registering import blame_verifier, require_accepted
from pybpfvm.session.sqe import SqeBuilder
from pybpfvm.session.user import Block
from pybpfvm.uring_backend.abi import Cqe
from pybpfvm.uring_backend.base import Backend
from pybpfvm.uring_backend.bpf import Budgets
from pybpfvm.uring_backend.choices import Chooser
from pybpfvm.uring_backend.contexts import Context
from pybpfvm.uring_backend.counts import Counts
from pybpfvm.uring_backend.faults import Faults
from pybpfvm.uring_backend.kernel.loop import KernelLoop
from pybpfvm.uring_backend.restrictions import Row
from pybpfvm.uring_backend.ring import Ring as CoreRing
from pybpfvm.uring_backend.setup import check_setup
from pybpfvm.uring_backend.sq import SqView
from pybpfvm.verifier.loadcheck import check_load
from pybpfvm.verifier.usermemory.contract import Contract

_DEFAULT_ABI = "iouring-v3"


class Ring(HostRing):
    """An io_uring with BPF requests; a context manager.

    `cq_entries` are the sizes of the extra CQs (1, 2, ...). `abi` is a profile's name; without
    it, the one of the first registered program. Programs are verified when they are registered;
    `verify=False` registers them as they are, to run sandboxed. `engine` is what executes them:
    "auto" (the JIT where it can run), "interp", "jit", "llvm" (extra llvm) or "ubpf" (a libubpf of
    the system's; docs/engines.md). `seed` decides everything in `sim`, and the programs' random
    numbers on both backends. `faults` are what requests (in `sim`) and programs meet, as values or
    text of `uring_backend.faults`. `task` is whose filters of requests the ring begins with
    (docs/filters.md). `record` is a file to record to, `name` what the ring is called there
    (docs/debugging.md). `chooser` (in `sim`) decides the order of what is free; what is `kept` was
    made for an earlier ring with the same programs, and is left for the next. `observer` is told
    of what happens, and of calls of the helpers that are `heard` (None: all). Budgets:
    `budget_insns` for each run of a program, the rest in `Budgets`.
    `beside` is another ring of the same thread, with the same backend: the two share files, sockets
    and descriptors, clock and faults, and while the host waits on one, programs run on both.
    """

    def __init__(
        self,
        entries: int = 8,
        cq_entries: Sequence[int] = (),
        *,
        backend: BackendName = "sim",
        seed: int = 0,
        abi: str | Profile | None = None,
        verify: bool = True,
        strict_ctx: bool = True,
        engine: str = "auto",
        flags: int = 0,
        cq0_entries: int | None = None,
        observer: Observer | None = None,
        heard: frozenset[str] | None = None,
        budgets: Budgets | None = None,
        budget_insns: int = DEFAULT_BUDGET_INSNS,
        log: Callable[[str], None] | None = None,
        faults: Faults | str | None = None,
        machine: Machine | None = None,
        task: Task | None = None,
        beside: Ring | None = None,
        chooser: Chooser | None = None,
        kept: Kept | None = None,
        record: str | os.PathLike[str] | None = None,
        name: str = "",
    ) -> None:
        _require_sizes(cq_entries)
        super().__init__(
            seed=seed,
            verify=verify,
            engine=engine,
            observer=observer,
            heard=heard,
            budget_insns=budget_insns,
            log=log,
            faults=faults,
            machine=machine,
            task=task,
            flags=flags,
            beside=beside,
            chooser=chooser,
            record=record,
            name=name,
            options={
                "backend": backend,
                "entries": entries,
                "cq_entries": (cq0_entries or 2 * entries, *cq_entries),
            },
        )
        self._beside = beside
        self._profile = profile_named(abi) if isinstance(abi, str) else abi
        rules = (self._profile or profile_named(_DEFAULT_ABI)).ring
        if rules is None:
            raise InputError(
                f"profile {abi} has no ring", where="abi", remedy="choose an iouring profile"
            )
        check_setup(rules, entries, cq_entries, flags, cq0_entries)
        self.strict_ctx = strict_ctx
        self._entries, self._cq_entries = entries, tuple(cq_entries)
        self._flags, self._cq0_entries = flags, cq0_entries
        self._budgets = self._faults.limited(budgets or Budgets())
        self.backend: Backend = make_backend(
            backend,
            self.machine.memory,
            seed,
            self._faults.injector,
            flags,
            None if beside is None else beside.backend,
            chooser=chooser,
        )
        self._core: CoreRing | None = None
        self._making = threading.RLock()  # of it
        self._kept = kept
        self._runner = _Runner(self, kept)
        self._pending: list[SqeBuilder] = []

    @property
    def profile(self) -> Profile:
        """The ring's ABI."""
        return self.core.profile

    @property
    def core(self) -> CoreRing:
        """The ring itself; made at first use, when its ABI is known."""
        if self._closed:
            raise RingError(errno.ENXIO, "the ring is closed")
        if self._core is None:
            with self._making:
                self._make_core()
        assert self._core is not None
        return self._core

    def _make_core(self) -> None:
        if self._core is not None:
            return
        self._core = CoreRing(
            self._profile or profile_named(_DEFAULT_ABI),
            self.machine.memory,
            self.backend,
            self._entries,
            self._cq_entries,
            flags=self._flags,
            cq0_entries=self._cq0_entries,
            runner=self._runner,
            observer=self._observer,
            budgets=self._budgets,
            restrictions=self._restrictions,
            chooser=self._chooser,
            beside=self._core_beside(),
        )
        self._put_filters()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._making:  # so that the ring is not made meanwhile
            if self._core is None:
                yield
                return
        with self._core.turns:
            yield

    def _core_beside(self) -> CoreRing | None:
        """That of the ring beside this one, while that is open."""
        beside = self._beside
        return None if beside is None or beside._closed else beside.core

    def _put_filters(self) -> None:
        if self._core is not None and self._filters:
            self._core.put_filter(self)

    # --- programs ---------------------------------------------------------------------------

    def register_bpf(
        self,
        programs: Sequence[LoadedProgram | None],
        *,
        contract: str | Mapping[str, Any] | None = None,
    ) -> None:
        """IORING_REGISTER_BPF; None leaves a slot empty. `contract` (docs/contracts.md) is what the
        host promises: programs are verified by it, and on a ring of iouring-x the ring keeps to it
        what it says of pinned blocks.

        Raises LoadRejected for a program its kernel would not load, UnsupportedError for one that
        the verifier can not decide on, RingError when registering is refused.
        """
        numbers: list[int | None] = []
        user_bytes: list[int] = []
        for program in programs:
            user_bytes.append(0)
            if program is None:
                numbers.append(None)
                continue
            if not isinstance(program, LoadedProgram):
                raise InputError(
                    f"register_bpf takes programs, not {program!r}", remedy='e.g. [obj["name"]]'
                )
            profile = program.owner.profile
            if profile.ring is None:
                raise RingError(
                    errno.EINVAL, f"{program.name} is a {profile.name} program, not a BPF request"
                )
            if self._profile is None and self._core is None:
                self._profile = profile
            promised = self._promised(program, contract)
            block = None if promised is None else promised.pinned_block(program.name)
            user_bytes[-1] = 0 if block is None else block.size
            known = None
            if self._kept is not None:
                known = self._kept.accepted(program.owner, program.name, contract)
            unchecked = bool(known)
            if self.verify and known is None:
                check_load(
                    program.facts,
                    profile,
                    strict_ctx=self.strict_ctx,
                    source_at=program.program.line_at,
                )
                unchecked = require_accepted(program, strict_ctx=self.strict_ctx, contract=promised)
                if self._kept is not None:
                    self._kept.accept(program.owner, program.name, contract, unchecked)
            prepare(self.engine, program.owner.image)
            numbers.append(self._runner.add(program, unchecked=unchecked))
        self.core.register_bpf(numbers, user_bytes)

    def _promised(
        self, program: LoadedProgram, contract: str | Mapping[str, Any] | None
    ) -> Contract | None:
        """The contract, as it is for the object of the program."""
        if contract is None:
            return None
        from pybpfvm.verifier.usermemory.contract_parse import parse_contract

        return parse_contract(contract, program.owner.object)

    def unregister_bpf(self) -> None:
        """IORING_UNREGISTER_BPF."""
        self.core.unregister_bpf()

    def register_contexts(self, contexts: Sequence[MapView | Block]) -> None:
        """What requests of iouring-x may name as context, by position: array maps, whose elements
        are named, and shared blocks of user memory (docs/abi-x.md). Raises RingError."""
        self.core.register_contexts([self._context(one, n) for n, one in enumerate(contexts)])

    def _context(self, one: MapView | Block, index: int) -> Context:
        if isinstance(one, Block):
            return Context(one.addr, one.size)
        live = one.live
        if not isinstance(live, ArrayMap) or live.spec.type != MapType.ARRAY:
            raise RingError(errno.EINVAL, f"context {index}: {live.spec.name} is no array map")
        one_way = live.spec.flags & (BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG)
        if live.spec.frozen or one_way or one.has_kernel_fields():
            raise RingError(
                errno.EINVAL, f"context {index}: not all of {live.spec.name} is for programs"
            )
        return Context(live.region.start, live.spec.value_size, live.stride, live.spec.max_entries)

    def unregister_contexts(self) -> None:
        """Take `register_contexts` back. Raises RingError."""
        self.core.unregister_contexts()

    def _restrict(self, rows: Sequence[Row]) -> None:
        self.core.register_restrictions(rows)

    def enable(self) -> None:
        """IORING_REGISTER_ENABLE_RINGS: until then a ring with SETUP_R_DISABLED takes what is
        registered, and can not be entered. Raises RingError EBADFD."""
        self.core.enable()

    def register_eventfd(self, fd: int) -> None:
        """IORING_REGISTER_EVENTFD: an eventfd of the world counts CQEs. Raises RingError."""
        self.core.register_eventfd(fd)

    def register_eventfd_async(self, fd: int) -> None:
        """IORING_REGISTER_EVENTFD_ASYNC: it counts what workers of the kernel end, never what
        programs post. Raises RingError."""
        self.core.register_eventfd_async(fd)

    def unregister_eventfd(self) -> None:
        """IORING_UNREGISTER_EVENTFD. Raises RingError."""
        self.core.unregister_eventfd()

    def environment(self, owner: LoadedObject) -> RunEnvironment:
        """What runs of `owner`'s programs on this ring see around them."""
        return RunEnvironment(
            profile=owner.profile,
            strict_ctx=self.strict_ctx,
            ring=self.core,
            now_ns=self.backend.now_ns,
            random_u32=self.random_u32,
            log=self._log,
            observer=self._given_observer,
            heard=self._heard,
        )

    # --- requests ---------------------------------------------------------------------------

    def get_sqe(self) -> SqeBuilder:
        """The next free submission entry; RingError EBUSY when the SQ is full."""
        core = self.core
        if len(self._pending) + core.sq.ready() >= core.setup.sq_entries:
            raise RingError(
                errno.EBUSY, f"the SQ is full with {core.setup.sq_entries} SQEs: submit first"
            )
        rules = core.profile.ring
        assert rules is not None
        self._pending.append(SqeBuilder(rules.bpf_opcode))
        return self._pending[-1]

    def submit(self, wait_nr: int = 0) -> int:
        """Submit all entries and run what is due; how many were consumed.

        Raises Trap for a program that faults and RingHang for a ring that can not go on.
        """
        pending, self._pending = self._pending, []
        for builder in pending:
            self.core.queue(builder.pack())
        return self.core.submit(wait_nr)

    def sq_view(self) -> SqView | None:
        """The SQ, None before the ring is used and when it is closed."""
        return None if self._core is None or self._closed else self._core.sq

    # --- completions ------------------------------------------------------------------------

    def wait_cqe(self, timeout_ns: int | None = None, cq: int = 0) -> Cqe:
        """The next CQE of a queue, reaped; programs run meanwhile.

        Raises TimeoutError after `timeout_ns` of the ring's clock, RingHang when none can come.
        """
        if self.core.wait_cqes(1, timeout_ns, cq) == 0:
            raise TimeoutError(f"no CQE on CQ {cq} within {timeout_ns} ns")
        cqe = self.core.reap(cq)
        assert cqe is not None
        return cqe

    def peek_cqe(self, cq: int = 0) -> Cqe | None:
        """The next CQE of a queue, left where it is; None when there is none."""
        return self.core.peek(cq)

    def reap(self, cq: int = 0) -> list[Cqe]:
        """All CQEs that a queue holds, reaped."""
        core = self.core
        # Where a host moved the head past the tail, there is no end to what "is held".
        return list(islice(iter(lambda: core.reap(cq), None), core.cq_entries(cq)))

    def reap_one(self, cq: int = 0) -> Cqe | None:
        """The oldest CQE of a queue, reaped; None when there is none."""
        return self.core.reap(cq)

    def newest(self, cq: int = 0) -> Cqe | None:
        """The CQE that was written last to a queue, reaped or not; None if there was none."""
        raw = self.core.cqs.queues[cq].newest()
        return None if raw is None else Cqe.unpack(raw)

    def cq_entries(self, cq: int = 0) -> int:
        """How many CQEs a queue can hold."""
        return self.core.cq_entries(cq)

    def ready(self, cq: int = 0) -> int:
        """How many CQEs a queue holds."""
        return self.core.ready(cq)

    def run_until_idle(self, timeout_ns: int | None = None) -> bool:
        """Let everything that can happen happen; False when `timeout_ns` ended it earlier."""
        return self.core.run_until_idle(timeout_ns)

    @property
    def counts(self) -> Counts:
        """Runs, instructions and CQEs so far."""
        return self.core.counts

    @property
    def counts_so_far(self) -> Counts:
        """`counts`, without making anything for it."""
        return Counts() if self._core is None else self._core.counts

    @property
    def cq_overflow(self) -> int:
        """CQEs lost so far."""
        return self.core.cq_overflow

    def close(self) -> None:
        """Cancel everything and give it back; twice is fine."""
        if self._closed:
            return
        self.machine.recorder.tell_queues()
        try:
            if self._core is not None:
                self._core.close()
            else:
                self.backend.close()
        finally:
            self._closed = True
            self._runner.close()
            self._end_recording()


def _require_sizes(cq_entries: object) -> None:
    """Raise unless these are sizes of CQs, one by one."""
    if isinstance(cq_entries, int):
        raise InputError(
            f"a list of sizes is needed, not {cq_entries!r}",
            where="cq_entries",
            remedy=f"[{cq_entries}] adds one CQ",
        )
    if not isinstance(cq_entries, Sequence) or not all(isinstance(n, int) for n in cq_entries):
        raise InputError(
            f"a list of sizes is needed, not {cq_entries!r}",
            where="cq_entries",
            remedy="e.g. [128, 16]",
        )


class _Runner:
    """Executes a ring's programs: one engine per object, programs by number."""

    def __init__(self, ring: Ring, kept: Kept | None) -> None:
        self._ring = ring
        self._kept = kept
        self._programs: list[LoadedProgram] = []
        self._names: list[str] = []
        self._unchecked: set[int] = set()  # those that the verifier answers for
        self._engines: dict[int, Engine] = {}
        self._executed = 0
        self._loop: KernelLoop | None = None

    def add(self, program: LoadedProgram, *, unchecked: bool) -> int:
        self._programs.append(program)
        self._names.append(program.name)
        number = len(self._programs) - 1
        if unchecked:
            self._unchecked.add(number)
        return number

    def check(self, program: int) -> int:
        if not 0 <= program < len(self._programs):
            return errno.EBADF
        profile = self._programs[program].owner.profile
        ring_profile = self._ring.profile
        same = profile.prog_type == ring_profile.prog_type and profile.ring is not None
        return 0 if same else errno.EINVAL

    def name(self, program: int) -> str:
        return self._names[program]

    def run(self, program: int, ctx_addr: int) -> int:
        loaded = self._programs[program]
        owner = loaded.owner
        engine = self._engines.get(id(owner))
        if engine is None:
            engine = self._engine_for(owner)
            self._engines[id(owner)] = engine
            self._offer_loop(engine, owner)
        self._ring._faults.before_run()
        try:
            done = engine.run(loaded.executable, ctx_addr, budget_insns=self._ring._budget_insns)
        except Trap as trap:
            self._executed = trap.insns
            if program in self._unchecked:
                blame_verifier(loaded.name, trap)
            raise
        self._executed = done.insns
        return done.r0

    def _engine_for(self, owner: LoadedObject) -> Engine:
        environment = self._ring.environment(owner)

        def make() -> Engine:
            return owner.make_engine(
                self._ring.engine,
                environment,
                owner.profile,
                trusted=self._trusts,
                ring=self._ring.number,
            )

        if self._kept is None:
            return make()
        return self._kept.engine(id(owner), self._ring.machine.memory, environment, make)

    def _offer_loop(self, engine: Engine, owner: LoadedObject) -> None:
        """Let compiled code loop over the ring by itself, where both can."""
        if self._ring.engine not in ("auto", "jit", "llvm") or len(self._engines) > 1:
            return
        if not self._ring._faults.idle:
            return
        from pybpfvm.jit.engine import SLICE_INSNS, JitEngine

        if not isinstance(engine, JitEngine) or self._ring._budget_insns > SLICE_INSNS:
            return
        self._loop = self._ring.core.make_loop(self._ring._budget_insns)
        if self._loop is not None:
            with suppress(InputError):  # no memory for its code
                engine.make_loop(self._loop, partial(self._loops, owner), self._ring._budget_insns)

    def _loops(self, owner: LoadedObject, number: int) -> Program | None:
        """The program with that number, if it may run in a loop."""
        loaded = self._programs[number]
        return loaded.executable if number in self._unchecked and loaded.owner is owner else None

    def _trusts(self, program: Program) -> bool:
        """Whether the program needs no checks: a tail call may lead to one that does."""
        return any(self._programs[number].executable is program for number in self._unchecked)

    def executed(self) -> int:
        return self._executed

    def close(self) -> None:
        if self._kept is None:
            for engine in self._engines.values():
                engine.close()
        self._engines.clear()


__all__ = ["Ring", "RingHang"]
