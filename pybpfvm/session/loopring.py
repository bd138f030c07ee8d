"""Rings driven by a program from inside io_uring_enter, as hosts use them: the upstream ABI.

obj = pybpfvm.load("prog.bpf.o", abi="loop-7.2", constants={"sq_entries": 8})
with pybpfvm.LoopRing(8, flags=LOOP_FLAGS, backend="sim") as ring:
    obj.globals["to_run"] = 1000
    with ring.attach(obj, "nops"):
        ring.enter()
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from pybpfvm.btf.types import Btf, BtfKind, Member, Struct
from pybpfvm.engine import DEFAULT_BUDGET_INSNS, Engine, RunEnvironment
from pybpfvm.errors import (
    InputError,
    LoadRejected,
    PybpfvmError,
    RingError,
    RingHang,
    Trap,
    UnsupportedError,
)
from pybpfvm.events import Observer, RunEnded, RunFaulted, RunStarted
from pybpfvm.filters.table import Task
from pybpfvm.memory import RegionKind
from pybpfvm.profiles import profile_named
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.loop_upstream import kernel_btf_of
from pybpfvm.program import Program, StructOps
from pybpfvm.session.engines import Kept
from pybpfvm.session.hostring import BackendName, HostRing, make_backend
from pybpfvm.session.machine import Machine
from pybpfvm.session.objects import LoadedObject, LoadedProgram
from pybpfvm.session.registering import blame_verifier, require_accepted
from pybpfvm.session.sqe import SqeBuilder
from pybpfvm.session.user import Block
from pybpfvm.uring_backend.abi import (
    ENTER_GETEVENTS,
    SETUP_CQSIZE,
    SETUP_DEFER_TASKRUN,
    SETUP_NO_SQARRAY,
    SETUP_SINGLE_ISSUER,
    SETUP_SQ_REWIND,
    Cqe,
)
from pybpfvm.uring_backend.choices import Chooser
from pybpfvm.uring_backend.counts import Counts
from pybpfvm.uring_backend.faults import Faults
from pybpfvm.uring_backend.loop.attach import Link, OpsValue
from pybpfvm.uring_backend.loop.budgets import LoopBudgets
from pybpfvm.uring_backend.loop.memory import ring_layout
from pybpfvm.uring_backend.loop.ring import LoopRing as CoreRing
from pybpfvm.uring_backend.restrictions import Row
from pybpfvm.uring_backend.sq import SqView

# What the simplest programs ask for: one thread, no index array, every batch from SQE 0.
LOOP_FLAGS = SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN | SETUP_NO_SQARRAY | SETUP_SQ_REWIND
_DEFAULT_ABI = "loop-7.2"
_CTX = struct.Struct("<QQ")


class LoopRing(HostRing):
    """An io_uring whose `enter` runs a program; a context manager.

    `flags` and `cq_entries` are io_uring_setup's (SETUP_CQSIZE is added when `cq_entries` is
    given); `flags` None: what the ABI's simplest programs need (`flags_for`).
    `backend`, `seed`, `verify`, `engine`, `faults`, `budget_insns`, `task`, `record`, `name`,
    `observer`, `heard`, `chooser` and `kept` are those of Ring. `beside` is, too, but programs run
    only on the ring that is entered.
    `fd` is its descriptor, which goes into structs of callbacks; `attach` puts it there.
    """

    def __init__(
        self,
        entries: int = 8,
        *,
        flags: int | None = None,
        cq_entries: int = 0,
        backend: BackendName = "sim",
        seed: int = 0,
        abi: str | Profile = _DEFAULT_ABI,
        verify: bool = True,
        engine: str = "auto",
        observer: Observer | None = None,
        heard: frozenset[str] | None = None,
        budgets: LoopBudgets | None = None,
        budget_insns: int = DEFAULT_BUDGET_INSNS,
        log: Callable[[str], None] | None = None,
        faults: Faults | str | None = None,
        machine: Machine | None = None,
        task: Task | None = None,
        beside: LoopRing | None = None,
        chooser: Chooser | None = None,
        kept: Kept | None = None,
        record: str | os.PathLike[str] | None = None,
        name: str = "",
    ) -> None:
        self._profile = profile_named(abi) if isinstance(abi, str) else abi
        if flags is None:
            flags = flags_for(self._profile)
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
                "cq_entries": (cq_entries or 2 * entries,),
                "loop": True,
            },
        )
        if self.profile.loop is None:
            raise InputError(
                f"programs of {self.profile.name} drive no ring from inside an enter",
                where="abi",
                remedy="choose loop-7.1 or loop-7.2",
            )
        self._kept = kept
        self._links: list[Link] = []
        self._steppers: list[_Stepper] = []
        self._pending: list[SqeBuilder] = []
        memory = self.machine.memory
        operation = self.profile.loop.operation
        self._operation = None if operation is None else operation.opcode
        self.backend = make_backend(
            backend,
            memory,
            seed,
            self._faults.injector,
            flags,
            None if beside is None else beside.backend,
            apart=True,
            chooser=chooser,
            most=entries,
        )
        self.core: CoreRing = CoreRing(
            self.profile.loop,
            memory,
            self.backend,
            entries,
            flags=flags | (SETUP_CQSIZE if cq_entries else 0),
            cq_entries=cq_entries,
            table=self.machine.rings,
            observer=self._observer,
            budgets=self._faults.limited(budgets or LoopBudgets()),
            restrictions=self._restrictions,
            beside=None if beside is None else beside.core,
        )
        self._put_filters()

    def _put_filters(self) -> None:
        if self._filters:
            self.core.put_filter(self)

    @property
    def profile(self) -> Profile:
        """The ring's ABI."""
        return self._profile

    @property
    def fd(self) -> int:
        """Its descriptor."""
        return self.core.fd

    @property
    def layout(self) -> Mapping[str, int]:
        """What io_uring_setup reports: sizes, and the offsets of the CQ region by `sq_NAME` and
        `cq_NAME` (abi/iouring-bpf-upstream, section 3.3)."""
        return {**ring_layout(self.core.setup), "ring_fd": self.fd}

    def register_mem(self, content: bytes | int, name: str = "MEM region") -> Block:
        """IORING_REGISTER_MEM_REGION: memory that the host, requests and the program share."""
        size = content if isinstance(content, int) else len(content)
        region = self.machine.memory.alloc(size, RegionKind.SHARED, name)
        self.core.register_mem(region)
        block = Block(self.machine.memory, region)
        self.user.share(block, name)
        if not isinstance(content, int):
            block.write(content)
        return block

    def at(self, delay_ns: int, action: Callable[[], None]) -> None:
        """Let `action` happen when so much of the ring's clock has passed, while `enter` sleeps or
        when the next one comes. It may use what is the host's, and call this again."""
        self.core.at(delay_ns, action)

    def now_ns(self) -> int:
        """The ring's clock, in ns: the backend's, and what was slept through without it."""
        return self.core.now_ns()

    def _restrict(self, rows: Sequence[Row]) -> None:
        self.core.register_restrictions(rows)

    def enable(self) -> None:
        """IORING_REGISTER_ENABLE_RINGS."""
        self.core.enable()

    def register_eventfd(self, fd: int) -> None:
        """IORING_REGISTER_EVENTFD: an eventfd of the world counts CQEs. Raises RingError."""
        self.core.register_eventfd(fd)

    def unregister_eventfd(self) -> None:
        """IORING_UNREGISTER_EVENTFD. Raises RingError."""
        self.core.unregister_eventfd()

    def register_clock(self, clock: int) -> None:
        """As on any ring; programs of loop-7.1 see which it is."""
        super().register_clock(clock)
        self.core.register_clock(clock)

    def resize(self, entries: int, cq_entries: int = 0, *, clamp: bool = False) -> None:
        """IORING_REGISTER_RESIZE_RINGS: other sizes (`cq_entries` 0: twice `entries`), at other
        addresses. RingError EINVAL without DEFER_TASKRUN, EOVERFLOW for less than what waits.
        On the kernel's ring a chain of requests may still be twice as long as the first SQ at most
        (128 at least)."""
        self.core.resize(entries, cq_entries, clamp=clamp)

    # --- programs ---------------------------------------------------------------------------

    def attach(
        self, obj: LoadedObject, name: str | None = None, *, ring_fd: int | None = None
    ) -> Link:
        """Put the callbacks `name` of an object (its only ones without) onto this ring; where the
        ABI has no structs of callbacks, the program of that name.

        `ring_fd` is what stands in the struct, this ring's descriptor without. Raises LoadRejected
        for a program that its kernel would not load, UnsupportedError for one that the verifier
        can not decide on, RingError where attaching is refused.
        """
        if obj.profile != self.profile:
            raise InputError(
                f"the object is loaded as {obj.profile.name}, the ring is of {self.profile.name}",
                where=obj.object.path,
                remedy="give load and LoopRing the same abi=, and load no helpers=",
            )
        if obj.target is not None:
            raise InputError(
                "the object was loaded for a kernel of your own (btf=), which this ring is not",
                where=obj.object.path,
                remedy="load it without btf=; `pybpfvm verify --btf` judges it for that kernel",
            )
        if obj.object.big_endian:
            raise UnsupportedError(
                "programs of big-endian objects on a ring, which is little-endian here",
                where=obj.object.path,
                remedy="compile it for this machine: clang -target bpf",
            )
        rules = self.profile.loop
        assert rules is not None
        name = _callbacks(obj, name)
        fd = self.fd if ring_fd is None else ring_fd
        if not rules.of_structs:
            value = OpsValue(self._stepper(obj, name, fd), fd)
        else:
            variable = obj.struct_ops[name]
            numbers = _numbers(obj, variable, self.profile)
            called = dict(variable.programs)
            step = called.pop(rules.callback, None)
            value = OpsValue(
                None if step is None else self._stepper(obj, step, fd),
                fd,
                priv=numbers.get(rules.own, 0),
                map=obj.ops_map(name),
                calls={member: self._stepper(obj, one, fd) for member, one in called.items()},
                number=numbers.get("id", 0),
            )
        link = self.machine.rings.attach(value)
        self._links.append(link)
        return link

    def operation_number(self, obj: LoadedObject, name: str) -> int:
        """Which operation the callbacks `name` of an object are."""
        return _numbers(obj, obj.struct_ops[name], self.profile).get("id", 0)

    def _stepper(self, obj: LoadedObject, name: str, fd: int) -> _Stepper:
        """What runs the program `name` on the ring behind `fd`."""
        program = obj[name]
        known = None if self._kept is None else self._kept.accepted(obj, name, None)
        unchecked = bool(known)
        if self.verify and known is None:
            unchecked = require_accepted(program, strict_ctx=True)
            if self._kept is not None:
                self._kept.accept(obj, name, None, unchecked)
        core = self.machine.rings.ring(fd) or self.core
        key = len(self._steppers), name
        stepper = _Stepper(self, core, program, self._kept, key, unchecked=unchecked)
        self._steppers.append(stepper)
        return stepper

    def environment(self, core: CoreRing) -> RunEnvironment:
        """What runs of programs on the ring `core` see around them."""
        return RunEnvironment(
            profile=self.profile,
            loop=core,
            now_ns=core.now_ns,
            random_u32=self.random_u32,
            log=self._log,
            observer=self._given_observer,
            heard=self._heard,
        )

    # --- requests and completions -------------------------------------------------------------

    def get_sqe(self) -> SqeBuilder:
        """The next free submission entry."""
        self._pending.append(SqeBuilder(None, self._operation))
        return self._pending[-1]

    def submit(self) -> int:
        """What a library's submit does: fill the SQ and enter. With a program on the ring the
        result is 0, whatever was submitted."""
        pending, self._pending = self._pending, []
        for builder in pending:
            self.core.queue(builder.pack())
        return self.core.submit()

    def enter(
        self,
        to_submit: int = 0,
        min_complete: int = 0,
        flags: int = 0,
        timeout_ns: int | None = None,
    ) -> int:
        """io_uring_enter; see uring_backend.loop.ring."""
        return self.core.enter(to_submit, min_complete, flags, timeout_ns)

    def sq_view(self) -> SqView | None:
        """The SQ, None when the ring is closed."""
        return None if self._closed else self.core.queues

    def wait_cqe(self, timeout_ns: int | None = None, cq: int = 0) -> Cqe:
        """The next CQE, reaped: enters until there is one, as libraries do.

        A program's loop knows no timeout; one that stops and leaves everything as it was will go
        on so. Raises TimeoutError after `timeout_ns` of the ring's clock, RingHang when none can
        come, RingError as `enter`.
        """
        core = self.core
        while (cqe := self.reap_one(cq)) is None:
            before = core.state()
            try:
                core.enter(0, 1, ENTER_GETEVENTS, timeout_ns)
            except RingError as error:
                if error.errno == errno.ETIME:
                    raise TimeoutError(f"no CQE within {timeout_ns} ns") from None
                raise
            if core.state() == before and core.peek() is None:
                raise RingHang("the program stops and leaves no CQE for who waits for one", ())
        return cqe

    def run_until_idle(self, timeout_ns: int | None = None) -> bool:
        """Let time pass outside any enter until nothing can happen any more; False when
        `timeout_ns` ended it earlier. CQEs come with the next enter, no program runs."""
        return self.core.idle(timeout_ns)

    @property
    def counts(self) -> Counts:
        """Runs, instructions and CQEs so far."""
        return self.core.counts

    @property
    def counts_so_far(self) -> Counts:
        """`counts`, as far as the observer was told."""
        return self.core.counts_told

    @property
    def cq_overflow(self) -> int:
        """CQEs lost so far."""
        return self.core.queues.words["cq_overflow"]

    def peek_cqe(self) -> Cqe | None:
        """The oldest CQE; it stays."""
        return self.core.peek()

    def reap_one(self, cq: int = 0) -> Cqe | None:
        """The oldest CQE, taken; None when there is none."""
        self._only_cq(cq)
        return self.core.reap()

    def reap(self, cq: int = 0) -> list[Cqe]:
        """All CQEs there are, taken."""
        found: list[Cqe] = []
        most = self.cq_entries(cq)
        while len(found) < most and (cqe := self.core.reap()) is not None:
            found.append(cqe)
        return found

    def newest(self, cq: int = 0) -> Cqe | None:
        """The CQE that was written last, reaped or not; None if there was none."""
        self._only_cq(cq)
        raw = self.core.queues.cq.newest()
        return None if raw is None else Cqe.unpack(raw)

    def cq_entries(self, cq: int = 0) -> int:
        """How many CQEs the CQ can hold."""
        self._only_cq(cq)
        return self.core.setup.cq_entries

    def _only_cq(self, cq: int) -> None:
        if cq:
            raise RingError(errno.EINVAL, f"CQ {cq} of a ring with one")

    def close(self) -> None:
        """Give everything back; twice is fine."""
        self.machine.recorder.tell_queues()
        self._closed = True
        if self.core.operations is not None:
            self.core.close()  # else links would wait for its requests
        for link in self._links:
            link.destroy()
        self.core.close()
        for stepper in self._steppers:
            stepper.close()
        self._end_recording()


class _Stepper:
    """Runs the callback of one program on a ring; `unchecked`: the verifier answers for it."""

    def __init__(
        self,
        ring: LoopRing,
        core: CoreRing,
        program: LoadedProgram,
        kept: Kept | None,
        key: object,
        *,
        unchecked: bool,
    ) -> None:
        self._ring = ring
        self._kept = kept
        self._core = core
        self.name = program.name
        self._program = program.executable
        self._unchecked = unchecked
        memory = ring.machine.memory
        self._ctx = memory.alloc(_CTX.size, RegionKind.CTX, f"arguments of {program.name}")
        memory.write(self._ctx.start, _CTX.pack(core.handle, core.params.start))
        self._context = self._ctx.start if core.rules.of_structs else core.handle
        self._runs = 0
        self._offered = False
        environment = ring.environment(core)

        def make() -> Engine:
            return program.owner.make_engine(
                ring.engine,
                environment,
                ring.profile,
                trusted=self._trusts,
                ring=ring.number,
            )

        self._engine = make() if kept is None else kept.engine(key, memory, environment, make)
        self._compile()

    def _trusts(self, program: Program) -> bool:
        return self._unchecked and program is self._program

    def _compile(self) -> None:
        """As a kernel does when it loads a program: no time of the first enter is for that."""
        if self._ring.engine == "interp":
            return
        from pybpfvm.jit.engine import JitEngine

        if isinstance(self._engine, JitEngine):
            with suppress(PybpfvmError):  # the first run tells
                self._engine.unit(self._program)

    def call(self, *args: int) -> int:
        memory = self._ring.machine.memory
        for index, value in enumerate(args):
            memory.write(self._ctx.start + 8 * index, value.to_bytes(8, "little"))
        return self._run()

    def step(self) -> int:
        r0 = self._run()
        if not self._offered:
            self._offer_loop()
        return r0

    def _run(self) -> int:
        core, name, observer = self._core, self.name, self._ring._observer
        loop = core.native if core.native is not None and core.native.owner is self else None
        self._runs += 1
        self._ring._faults.before_run()
        if observer is not None:
            observer(RunStarted(core.now_ns(), 0, name, 0, self._runs, 0))
        outer = core.running(name)
        budget = self._ring._budget_insns
        try:
            done = loop.run(name, self._context, budget) if loop is not None else None
            if done is None:
                ran = self._engine.run(self._program, self._context, budget_insns=budget)
                done = ran.r0, ran.insns
        except Trap as trap:
            core.ran(name, trap.insns)
            if observer is not None:
                now = core.now_ns()
                observer(RunFaulted(now, 0, name, self._runs, trap.pc, trap.summary, trap.insns))
            if self._unchecked:
                blame_verifier(name, trap)
            raise
        finally:
            core.running(outer)
        r0, insns = done
        core.ran(name, insns)
        if observer is not None:
            now = core.now_ns()
            observer(RunEnded(now, 0, name, self._runs, r0, insns, None, 0))
        return r0

    def _offer_loop(self) -> None:
        """Let compiled code make the loop by itself from the next run on, where it can."""
        self._offered = True
        ring, engine = self._ring, self._engine
        if ring.engine not in ("auto", "jit", "llvm") or not self._unchecked:
            return
        if ring._observer is not None or not ring._faults.idle:
            return
        from pybpfvm.jit.engine import SLICE_INSNS, JitEngine

        if not isinstance(engine, JitEngine) or ring._budget_insns > SLICE_INSNS:
            return
        loop = self._core.make_native()
        if loop is not None:
            with suppress(InputError):  # no memory for its code
                engine.make_loop(loop, lambda _: self._program, ring._budget_insns)
                loop.owner = self

    def close(self) -> None:
        if self._kept is None:
            self._engine.close()
        memory = self._ring.machine.memory
        if not memory.closed:
            memory.free(self._ctx)


def flags_for(profile: Profile) -> int:
    """Set-up flags of a ring for simple programs of the ABI: LOOP_FLAGS, or what lets programs
    perform requests."""
    loop = profile.loop
    if loop is None or loop.operation is None:
        return LOOP_FLAGS
    return loop.operation.setup_flag


def _callbacks(obj: LoadedObject, name: str | None) -> str:
    found = obj.callbacks
    if name is None and len(found) == 1:
        return found[0]
    if name is None or name not in found:
        known = ", ".join(found) or "it has none"
        what = "which of its callbacks?" if name is None else f"no callbacks are called {name!r}"
        raise InputError(what, where=obj.object.path, remedy=f"there are: {known}")
    return name


def _numbers(obj: LoadedObject, variable: StructOps, profile: Profile) -> dict[str, int]:
    """What the struct says of members that are no programs, by name. LoadRejected for one that the
    kernel has as another type, and one that it does not have, unless it is zero."""
    kernel, btf = kernel_btf_of(profile), obj.object.btf
    assert kernel is not None
    assert btf is not None
    theirs = kernel.find(variable.struct, BtfKind.STRUCT)
    assert theirs is not None
    known = {member.name: member.type_id for member in _members(kernel, theirs)}
    numbers: dict[str, int] = {}
    for member in _members(btf, variable.type_id):
        at = member.bit_offset // 8
        value = int.from_bytes(variable.data[at : at + btf.size(member.type_id)], "little")
        if member.name in known:
            numbers[member.name] = value
            one, two = btf.resolve(member.type_id), kernel.resolve(known[member.name])
            if btf.kind(one) is not kernel.kind(two) or btf.size(one) != kernel.size(two):
                raise LoadRejected(
                    errno.EOPNOTSUPP,
                    f"{variable.name}.{member.name} is of another type or size in the kernel",
                    where=obj.object.path,
                )
        elif value or member.name in variable.programs:
            raise LoadRejected(
                errno.EOPNOTSUPP,
                f"{variable.name}.{member.name} is set, which the kernel does not know",
                where=obj.object.path,
            )
    return numbers


def _members(btf: Btf, type_id: int) -> tuple[Member, ...]:
    struct = btf.type(btf.resolve(type_id))
    assert isinstance(struct, Struct)
    return struct.members
