"""libubpf as an engine: a peer to compare ours with. Same programs, maps and helpers.

Programs that were verified run as what its compiler makes, without any check and without a budget.
All others run in its interpreter: it asks us about each access outside context and stack, and
keeps the budget. It counts nothing for us (RunResult.insns is 0) and tells no pc.

What it has no word for is refused by name: tail calls, callbacks, packets, packet loads, may_goto,
kfuncs, hooks. Rules of the context's fields do not hold; r2 is the size of the context at entry;
a subprogram's frame is not blank. Helpers are given small numbers, and `lddw` of a map loads the
address or handle that it has here; nothing else is changed in a program.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from pybpfvm.bits import U64
from pybpfvm.engine import DEFAULT_BUDGET_INSNS, Hook, RunEnvironment, RunResult, trust_nobody
from pybpfvm.errors import InputError, InternalError, Trap, TrapKind, UnsupportedError
from pybpfvm.events import HelperCalled
from pybpfvm.helpers.proto import ArgType, Helper
from pybpfvm.image import Image
from pybpfvm.isa.codec import encode, pcs
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import MAX_FRAMES, STACK_BYTES, Kind, Pseudo
from pybpfvm.memory import MemoryFault, Region, RegionKind
from pybpfvm.outline import context_arguments, refusal
from pybpfvm.peers.library import (
    BOUNDS_CHECK,
    COMPILED,
    ERROR_PRINT,
    EXTENDED_JIT_MODE,
    HELPER,
    MAX_HELPERS,
    library,
    taken,
)
from pybpfvm.program import Program
from pybpfvm.recording import Recorded
from pybpfvm.runcontext import STOPS, RunContext, Stop

_UNKNOWN = frozenset(
    {
        *(Kind.MAY_GOTO, Kind.LD_ABS, Kind.LD_IND, Kind.LOAD_ACQ, Kind.STORE_REL),
        *(Kind.ADDR_SPACE_CAST, Kind.CALL_KFUNC),
    }
)
_MAX_LIMIT = (1 << 32) - 1
_NOWHERE = -1


@dataclass(slots=True)
class _Loaded:
    """A program in a VM of libubpf; `kept` is what C has pointers to. `run` is its compiled code,
    None where the interpreter runs it."""

    program: Program
    vm: int
    kept: list[object] = field(default_factory=list)
    run: Callable[[int, int, int, int], int] | None = None


class UbpfEngine(RunContext):
    """Runs the programs of `image` in libubpf; an Engine, and its own helpers' context.

    Programs that `trusted` names are compiled. Raises InputError where there is no libubpf.
    """

    def __init__(
        self,
        image: Image,
        helpers: Mapping[int, Helper],
        environment: RunEnvironment,
        *,
        trusted: Callable[[Program], bool] = trust_nobody,
    ) -> None:
        super().__init__(image, environment, 0, None)
        self.hook: Hook | None = None
        self._helpers = helpers
        self._trusted = trusted
        self._ubpf = library()
        self._loaded: dict[int, _Loaded] = {}
        self._stack: Region | None = None
        self._running = False
        self._stopped: BaseException | None = None
        self._said = ""

    @property
    def recorded(self) -> Recorded | None:
        """None: libubpf records nothing."""
        return None

    def kept_registers(self) -> bytes | None:
        """None: libubpf does not say."""
        return None

    def run(
        self,
        program: Program,
        ctx_addr: int,
        *,
        budget_insns: int = DEFAULT_BUDGET_INSNS,
        packet: Region | None = None,
    ) -> RunResult:
        """Run `program` with r1 = `ctx_addr` until it exits: see Engine.run.

        Raises UnsupportedError for what libubpf does not have.
        """
        if self._running:
            raise InternalError("an engine runs one program at a time")
        if self.hook is not None:
            raise _unsupported("watching each instruction", program)
        if packet is not None:
            raise _unsupported("programs that run on a packet", program)
        loaded = self._loaded.get(id(program))
        if loaded is None:
            loaded = self._loaded[id(program)] = self._load(program)
        stack = self.make_stack()
        self.memory.write(stack.start, bytes(stack.size))
        self.ctx_addr = ctx_addr
        self._stopped, self._said = None, ""
        self._running = True
        try:
            where = ctx_addr, self._context_bytes(ctx_addr), stack.start, stack.size
            if loaded.run is not None:
                r0 = loaded.run(*where)
            else:
                r0 = self._interpret(loaded, where, budget_insns)
            self._leave(program)
            try:
                self.check_return(r0)
            except Stop as stop:
                raise self._trap(stop, program) from None
        finally:
            self._running = False
        return RunResult(r0, 0)

    def make_stack(self) -> Region:
        """Have the stack that runs need, which comes with the first run otherwise."""
        if self._stack is None:
            self._stack = self.memory.alloc(MAX_FRAMES * STACK_BYTES, RegionKind.STACK, "stack")
        return self._stack

    def close(self) -> None:
        """Give everything back; twice is fine."""
        loaded, self._loaded = self._loaded, {}
        for one in loaded.values():
            self._ubpf.ubpf_destroy(one.vm)
        stack, self._stack = self._stack, None
        if stack is not None:
            self.memory.free(stack)

    def __enter__(self) -> UbpfEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- running ----------------------------------------------------------------------------

    def _context_bytes(self, ctx_addr: int) -> int:
        try:
            region, _, offset = self.memory.check(ctx_addr, 1, write=False)
        except MemoryFault:
            return 0
        return region.size - offset

    def _interpret(
        self, loaded: _Loaded, where: tuple[int, int, int, int], budget_insns: int
    ) -> int:
        limit = min(budget_insns, _MAX_LIMIT)
        self._ubpf.ubpf_set_instruction_limit(loaded.vm, limit, None)
        ctx, ctx_bytes, stack, stack_bytes = where
        r0 = ctypes.c_uint64()
        failed = self._ubpf.ubpf_exec_ex(
            loaded.vm, ctx, ctx_bytes, ctypes.byref(r0), stack, stack_bytes
        )
        if failed and self._stopped is None:
            kind = TrapKind.BUDGET if "limit" in self._said.lower() else TrapKind.BAD_INSN
            self._stopped = Stop(kind, f"libubpf: {self._said}")
        return r0.value

    def _leave(self, program: Program) -> None:
        """Raise for what stopped the run, if something did."""
        stopped, self._stopped = self._stopped, None
        if stopped is None:
            return
        if isinstance(stopped, STOPS):
            raise self._trap(stopped, program) from stopped
        raise stopped

    def _trap(self, stop: BaseException, program: Program) -> Trap:
        if isinstance(stop, MemoryFault):
            return Trap(
                stop.kind,
                program=program.name,
                addr=stop.addr,
                size=stop.size,
                region=stop.region,
            )
        kind, detail = TrapKind.BAD_HELPER_ARG, str(stop)
        if isinstance(stop, Stop):
            kind, detail = stop.kind, stop.detail
        return Trap(kind, detail, program=program.name)

    def _may_access(self, _: object, addr: int, size: int) -> bool:
        """libubpf asks whether a program may read and write there."""
        if self._stopped is not None:
            return False
        try:
            self.memory.check(addr, size, write=True)
        except MemoryFault as fault:
            self._stopped = fault
            return False
        return True

    def _say(self, _: object, text: bytes | None) -> int:
        self._said = (text or b"").decode("utf-8", "replace").strip()
        return 0

    # --- loading ----------------------------------------------------------------------------

    def _load(self, program: Program) -> _Loaded:
        trusted = self._trusted(program)
        self._refuse(program, trusted=trusted)
        ubpf = self._ubpf
        vm = ubpf.ubpf_create()
        if not vm:
            raise InputError("libubpf makes no VM", where="engine ubpf")
        loaded = _Loaded(program, vm)
        try:
            said = ERROR_PRINT(self._say)
            loaded.kept.append(said)
            ubpf.ubpf_set_error_print(vm, said)
            ubpf.ubpf_toggle_bounds_check(vm, not trusted)
            if not trusted:
                asked = BOUNDS_CHECK(self._may_access)
                loaded.kept.append(asked)
                ubpf.ubpf_register_data_bounds_check(vm, None, asked)
            indexes = self._register(loaded, checked=not trusted)
            self._put_in(loaded, indexes, compiled=trusted)
        except BaseException:
            ubpf.ubpf_destroy(vm)
            raise
        return loaded

    def _put_in(self, loaded: _Loaded, indexes: Mapping[int, int], *, compiled: bool) -> None:
        program = loaded.program
        code = encode(
            [
                self._given(program, pc, insn, indexes)
                for pc, insn in zip(pcs(program.insns), program.insns, strict=True)
            ]
        )
        message = ctypes.c_void_p()
        if self._ubpf.ubpf_load(loaded.vm, code, len(code), ctypes.byref(message)):
            raise _unsupported(f"libubpf does not load it: {taken(message)}", program)
        if not compiled:
            return
        made = self._ubpf.ubpf_compile_ex(loaded.vm, ctypes.byref(message), EXTENDED_JIT_MODE)
        if not made:
            raise _unsupported(f"libubpf does not compile it: {taken(message)}", program)
        loaded.run = COMPILED(made)

    def _given(self, program: Program, pc: int, insn: Insn, indexes: Mapping[int, int]) -> Insn:
        """The instruction as libubpf gets it."""
        if insn.spec.kind is Kind.CALL:
            return replace(insn, imm=indexes[insn.imm])
        if insn.spec.kind is Kind.LDDW:
            return replace(insn, src=0, imm=self.image.constant(program, pc, insn) & U64)
        return insn

    def _register(self, loaded: _Loaded, *, checked: bool) -> Mapping[int, int]:
        """Register what the program calls; the index of each helper by its number."""
        calls = (insn.imm for insn in loaded.program.insns if insn.spec.kind is Kind.CALL)
        numbers = sorted(set(calls))
        if len(numbers) > MAX_HELPERS:
            raise _unsupported(f"more than {MAX_HELPERS} helpers", loaded.program)
        for index, number in enumerate(numbers):
            helper = self._helpers[number]
            called = HELPER(self._called(helper, checked=checked))
            loaded.kept.append(called)
            self._ubpf.ubpf_register(loaded.vm, index, helper.name.encode(), called)
        return {number: index for index, number in enumerate(numbers)}

    def _called(self, helper: Helper, *, checked: bool) -> Callable[..., int]:
        """What C calls for a helper. Nothing can be raised through it: a run that was stopped
        goes on, without helpers and memory, until libubpf ends it."""
        impl = helper.impl
        assert impl is not None
        numbers = context_arguments(helper) if checked else ()
        shown = len(helper.args)

        def call(*args: int) -> int:
            if self._stopped is not None:
                return 0
            try:
                self.check_context_arguments(numbers, args)
                result = impl(self, *args) & U64
                environment = self.environment
                if environment.observer is not None and environment.tells(helper.name):
                    now = self.event_ns()
                    event = HelperCalled(now, helper.name, _NOWHERE, args[:shown], result)
                    environment.observer(event)
            except BaseException as stopped:
                self._stopped = stopped
                return 0
            return result

        return call

    def _refuse(self, program: Program, *, trusted: bool) -> None:
        """Raises UnsupportedError for the first thing that libubpf has no word for."""
        profile = self.environment.profile
        if profile is not None and profile.packet is not None:
            raise _unsupported("programs that run on a packet", program)
        if not trusted and any(live.spec.frozen for live in self.image.maps.values()):
            # It asks whether an access is allowed without saying whether it writes.
            raise _unsupported("constants (.rodata) of a program that was not verified", program)
        for pc, insn in zip(pcs(program.insns), program.insns, strict=True):
            what = self._missing(insn)
            if what is not None:
                raise _unsupported(what, program, pc)

    def _missing(self, insn: Insn) -> str | None:
        kind = insn.spec.kind
        if kind in _UNKNOWN:
            return kind.value
        if kind is Kind.LDDW and insn.src == Pseudo.FUNC:
            return "callbacks"
        refused = refusal(insn, self._helpers)
        if refused is not None:
            return refused[1]
        if kind is not Kind.CALL:
            return None
        helper = self._helpers[insn.imm]
        calls_back = ArgType.PTR_TO_FUNC in helper.args
        return f"helper {helper.name}" if helper.name == "tail_call" or calls_back else None


def _unsupported(feature: str, program: Program, pc: int | None = None) -> UnsupportedError:
    where = f"engine ubpf: {program.name}"
    return UnsupportedError(
        feature,
        where=where if pc is None else f"{where}+{pc}",
        remedy="choose --engine auto",
    )
