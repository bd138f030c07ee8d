"""A run of a program as its memory accesses and its helpers see it, whatever the engine.

What depends on the ABI and not on the engine stands here once: the rules of the context, context
fields that stand for packet pointers, packet loads, what a helper may ask for, traps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pybpfvm.engine import RunEnvironment
from pybpfvm.errors import Trap, TrapKind
from pybpfvm.helpers.context import BadArgument, LoopPort, RingPort, UserPort
from pybpfvm.image import FunctionRef, Image, ProgramRef
from pybpfvm.isa.disasm import format_insn
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind
from pybpfvm.isa.semantics import CONCRETE_ATOMIC
from pybpfvm.maps.base import BpfMap
from pybpfvm.memory import MemoryFault, Region, RegionKind
from pybpfvm.profiles.base import CtxHolds, Profile
from pybpfvm.profiles.ctxaccess import ctx_violation
from pybpfvm.program import Program

_POINTERS = (CtxHolds.DATA, CtxHolds.DATA_END, CtxHolds.DATA_META)


class Stop(Exception):
    """The instruction being executed can not be: becomes a Trap with its place."""

    def __init__(self, kind: TrapKind, detail: str = "", addr: int | None = None) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail
        self.addr = addr


STOPS = (MemoryFault, BadArgument, Stop)


def trap_of(
    stop: MemoryFault | BadArgument | Stop,
    program: Program,
    pc: int,
    insn: Insn,
    regs: tuple[int, ...],
    insns: int,
    profile: Profile | None,
) -> Trap:
    """The trap at `insn`, which is at `pc`; `regs` before it, `insns` executed with it. `profile`
    names the helper that it calls."""
    helpers = profile.helpers if profile is not None and insn.spec.kind is Kind.CALL else {}
    kind, detail, addr, size, region = TrapKind.BAD_HELPER_ARG, str(stop), None, 0, ""
    if isinstance(stop, MemoryFault):
        kind, detail, addr, size, region = stop.kind, "", stop.addr, stop.size, stop.region
    elif isinstance(stop, Stop):
        kind, detail, addr = stop.kind, stop.detail, stop.addr
    return Trap(
        kind,
        detail,
        pc=pc,
        program=program.name,
        insn=format_insn(insn, pc, style="kernel", resolve=lambda one, _: helpers.get(one.imm)),
        addr=addr,
        size=size,
        region=region,
        source=program.line_at(pc),
        regs=regs,
        insns=insns,
    )


class RunContext:
    """Implements HelperContext but for `call`, which is an engine's."""

    def __init__(
        self,
        image: Image,
        environment: RunEnvironment,
        ctx_addr: int,
        packet: Region | None,
    ) -> None:
        self.image = image
        self.memory = image.memory
        self.environment = environment
        self.ctx_addr = ctx_addr
        self.packet = packet

    # Memory, as the program's own instructions reach it.

    def load(self, addr: int, size: int) -> int:
        """Zero-extended value at `addr`. Raises MemoryFault, Stop(CTX_ACCESS)."""
        region, view, offset = self.memory.check(addr, size, write=False)
        if region.kind is RegionKind.CTX:
            self._check_ctx(addr, size, store=False, plain=True)
            pointer = self._packet_pointer(addr - self.ctx_addr, size)
            if pointer is not None:
                return pointer
        return int.from_bytes(view[offset : offset + size], self.memory.byteorder)

    def store(self, addr: int, size: int, value: int, *, plain: bool) -> None:
        """Store the low bytes of `value`; `plain`: by BPF_STX. Raises as `load`."""
        region, view, offset = self.memory.check(addr, size, write=True)
        if region.kind is RegionKind.CTX:
            self._check_ctx(addr, size, store=True, plain=plain)
        low = value & ((1 << 8 * size) - 1)
        view[offset : offset + size] = low.to_bytes(size, self.memory.byteorder)

    def atomic(self, insn: Insn, addr: int, src: int, r0: int) -> int:
        """Perform an atomic read-modify-write; the old value. Raises as `load`, and MISALIGNED."""
        size = insn.spec.size
        assert size is not None
        self.aligned(addr, size)
        old = self.load(addr, size)
        value = CONCRETE_ATOMIC[insn.spec.op](old, src, r0, 8 * size)  # type: ignore[index]
        self.store(addr, size, value, plain=False)
        return old

    def aligned(self, addr: int, size: int) -> int:
        """`addr`. Raises Stop(MISALIGNED) if it is no multiple of `size`."""
        if addr % size:
            raise Stop(TrapKind.MISALIGNED, f"an access of {size} bytes", addr)
        return addr

    def _check_ctx(self, addr: int, size: int, *, store: bool, plain: bool) -> None:
        environment = self.environment
        if environment.profile is None:
            return
        reason = ctx_violation(
            environment.profile,
            addr - self.ctx_addr,
            size,
            store=store,
            plain=plain,
            strict=environment.strict_ctx,
        )
        if reason is not None:
            raise Stop(TrapKind.CTX_ACCESS, reason, addr)

    def _packet_pointer(self, offset: int, size: int) -> int | None:
        """What a load from a context field that stands for a pointer gives; None for others.

        Such fields are 32 bits wide and give 64, as when a kernel rewrites the load.
        """
        profile, packet = self.environment.profile, self.packet
        if profile is None or profile.packet is None:
            return None
        named = profile.ctx_field_named(offset, size, store=False)
        if named is None:
            return None
        if named.holds is CtxHolds.KERNEL_OBJECT:
            raise Stop(TrapKind.UNSUPPORTED, f"{profile.ctx_name}.{named.name}")
        if packet is None or named.holds not in _POINTERS:
            return None
        return packet.end if named.holds is CtxHolds.DATA_END else packet.start

    def load_packet(self, offset: int, size: int, r6: int) -> int | None:
        """LD_ABS and LD_IND at a signed offset; None outside the packet, which ends the function
        with r0 = 0, as in Linux. Raises Stop. RFC 9669, section 5.5."""
        packet = self.packet
        if packet is None:
            raise Stop(TrapKind.UNSUPPORTED, "packet access in a program that has no packet")
        if r6 != self.ctx_addr:
            raise Stop(TrapKind.CTX_ACCESS, "packet access without the context pointer in r6")
        if _LINK_LAYER <= offset < _NETWORK:
            raise Stop(TrapKind.UNSUPPORTED, "packet access relative to the link-layer header")
        if _NETWORK <= offset < 0:
            profile = self.environment.profile
            rules = profile.packet if profile is not None else None
            offset += (rules.network_offset if rules is not None else 0) - _NETWORK
        if offset < 0 or offset + size > packet.size:
            return None
        return int.from_bytes(self.memory.read(packet.start + offset, size), "big")

    def check_return(self, r0: int) -> None:
        """Raises Stop(BAD_RETURN) for what the ring's ABI does not allow.

        Ordinary programs that return something else are not loaded; here all may be tried.
        """
        profile = self.environment.profile
        if profile is None or profile.ring is None or profile.returns is None:
            return
        low, high = profile.returns
        if not low <= r0 <= high:
            raise Stop(TrapKind.BAD_RETURN, f"{r0} is not between {low} and {high}")

    # Calls.

    def check_context_arguments(self, numbers: Sequence[int], args: Sequence[int]) -> None:
        """Raises BadArgument unless the arguments with these numbers are the context pointer."""
        for number in numbers:
            if args[number - 1] != self.ctx_addr:
                raise BadArgument(number, f"{args[number - 1]:#x} is not the context pointer")

    def tail_target(self, target: object) -> Program:
        """The program that a tail call leads to: `target` is what program arrays hold."""
        if isinstance(target, int):
            target = self.memory.resolve(target)
        if not isinstance(target, ProgramRef):
            raise Stop(TrapKind.BAD_HELPER_ARG, "tail call to something that is not a program")
        if not self._owns(target.program):
            raise Stop(TrapKind.BAD_HELPER_ARG, "tail call to a program of another object")
        return target.program

    def _owns(self, program: Program) -> bool:
        """Whether the program is of this image: handles of others' can be guessed."""
        return self.image.programs.get(program.name) is program

    def function_at(self, handle: int) -> FunctionRef:
        """The subprogram with that handle, argument 2 of a helper. Raises BadArgument."""
        target = self.memory.resolve(handle)
        if not isinstance(target, FunctionRef):
            raise BadArgument(2, f"{handle:#x} is not a function")
        if not self._owns(target.program):
            raise BadArgument(2, f"{handle:#x} is a function of another object")
        return target

    # HelperContext.

    @property
    def ring(self) -> RingPort | None:
        """The ring of BPF requests."""
        return self.environment.ring

    @property
    def user_memory(self) -> UserPort:
        """User memory."""
        user = self.environment.user
        return self.memory if user is None else user

    @property
    def loop(self) -> LoopPort | None:
        """The ring that the program drives."""
        return self.environment.loop

    @property
    def helper_length_checked(self) -> bool:
        """Whether the ABI's ring helpers check their length argument at run time."""
        profile = self.environment.profile
        return profile is not None and profile.ring is not None and profile.ring.length_checked

    @property
    def cpu(self) -> int:
        """The CPU the program runs on."""
        return self.environment.cpu

    def map_at(self, addr: int, index: int) -> BpfMap:
        """The map with handle `addr`, argument number `index`. Raises BadArgument."""
        target = self.memory.resolve(addr)
        if target is None or isinstance(target, FunctionRef | ProgramRef):
            raise BadArgument(index, f"{addr:#x} is not a map")
        return cast(BpfMap, target)

    def now_ns(self) -> int:
        """The environment's clock."""
        return self.environment.now_ns()

    def event_ns(self) -> int:
        """The time that events bear."""
        environment = self.environment
        return environment.now_ns() if environment.event_ns is None else environment.event_ns()

    def random_u32(self) -> int:
        """The environment's random source."""
        return self.environment.random_u32()

    def log(self, text: str) -> None:
        """One line of trace output."""
        self.environment.log(text)

    def call(self, function: int, args: Sequence[int]) -> int:
        """Call back the subprogram with handle `function`; its r0. Raises BadArgument, Trap."""
        raise NotImplementedError


# Offsets of packet loads from here on, below 0, count from the network header; those below them,
# down to the second, from the link-layer header.
_NETWORK = -0x100000
_LINK_LAYER = -0x200000

__all__ = ["STOPS", "RunContext", "Stop", "trap_of"]
