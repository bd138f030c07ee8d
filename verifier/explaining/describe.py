"""What is known of a register, in words for someone who has never read a verifier log."""

from __future__ import annotations

from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind
from pybpfvm.verifier.domains.scalar import Scalar
from pybpfvm.verifier.domains.word import S64_MAX, S64_MIN, U32, U64
from pybpfvm.verifier.explaining.narration import bytes_text
from pybpfvm.verifier.states.regstate import Reg, RegType
from pybpfvm.verifier.states.state import State

_PLACES = {
    RegType.PTR_TO_STACK: "the stack frame",
    RegType.PTR_TO_CTX: "the context",
    RegType.PTR_TO_ARENA: "the arena",
    RegType.PTR_TO_PACKET: "the packet",
    RegType.PTR_TO_PACKET_META: "the packet's metadata",
    RegType.PTR_TO_PACKET_END: "the end of the packet",
    RegType.PTR_TO_MAP_KEY: "a map key",
    RegType.PTR_TO_RINGBUF_MEM: "a ring-buffer record",
    RegType.PTR_TO_RINGBUF_MEM_OR_NULL: "a ring-buffer record",
    RegType.PTR_TO_FUNC: "a function",
    RegType.PTR_TO_MEM: "memory",
    RegType.PTR_TO_MEM_OR_NULL: "memory",
}
_LOADS = frozenset({Kind.LDX, Kind.LDSX, Kind.LOAD_ACQ})
_MAYBE = " or NULL (not compared with NULL yet)"


def read_registers(insn: Insn) -> tuple[int, ...]:
    """The registers that an instruction uses: those whose state explains why it is refused."""
    kind = insn.spec.kind
    if kind is Kind.EXIT:
        return (0,)
    if kind in (Kind.CALL, Kind.CALL_LOCAL):
        return (1, 2, 3, 4, 5)
    if kind in _LOADS:
        return (insn.src,)
    used = [getattr(insn, name) for name in ("dst", "src") if name in insn.spec.fields]
    return tuple(dict.fromkeys(used))


def registers(state: State, insn: Insn | None) -> tuple[tuple[str, str], ...]:
    """(register, what is known of it) of those that `insn` uses; of a call's, those that hold
    something. None for the place of an error that is no instruction."""
    if insn is None:
        return ()
    regs = state.frame.regs
    numbers = read_registers(insn)
    if insn.spec.kind in (Kind.CALL, Kind.CALL_LOCAL):
        numbers = tuple(one for one in numbers if regs[one].type is not RegType.NOT_INIT)
    return tuple((f"r{number}", described(regs[number])) for number in numbers)


def described(reg: Reg) -> str:
    """One register in words."""
    if reg.type is RegType.NOT_INIT:
        return (
            "not initialised"
            if reg.at < 0
            else f"nothing: the call at instruction {reg.at} used it up"
        )
    if reg.type is RegType.SCALAR_VALUE:
        return _number(reg.var)
    if reg.type in (RegType.CONST_PTR_TO_MAP, RegType.MAP_PTR_OR_NULL):
        name = reg.map.name if reg.map is not None else "?"
        return f"map {name}" + (_MAYBE if reg.type is RegType.MAP_PTR_OR_NULL else "")
    if reg.type in (RegType.PTR_TO_MAP_VALUE, RegType.PTR_TO_MAP_VALUE_OR_NULL):
        name = reg.map.name if reg.map is not None else "?"
        size = reg.map.value_size if reg.map is not None else 0
        place = f"a value of map {name} ({size} bytes)"
    else:
        place = _PLACES.get(reg.type, f"a {reg.type.value}")
    text = f"pointer to {place}{_offset(reg)}"
    if reg.type in (RegType.PTR_TO_PACKET, RegType.PTR_TO_PACKET_META):
        text += f", {reg.range} bytes checked against its end" if reg.range else ", not checked"
    elif reg.mem_size:
        text += f", {bytes_text(reg.mem_size)}"
    return text + (_MAYBE if reg.type.value.endswith("_or_null") else "")


def _offset(reg: Reg) -> str:
    text = ""
    if reg.off:
        text = f" {'+' if reg.off > 0 else '-'} {abs(reg.off)}"
    if reg.var.mask or reg.var.value:
        text += f" + {_number(reg.var)}"
    return text


def _number(var: Scalar) -> str:
    if not var.mask:
        value = var.value if var.value <= S64_MAX else var.value - (1 << 64)
        return f"the number {value}"
    if var.umin == 0 and var.umax == U64 and var.smin == S64_MIN and var.smax == S64_MAX:
        return "any 64-bit number" + _alignment(var)
    if var.umin == 0 and var.umax == U32 and var.mask & U32 == U32:
        return "any 32-bit number"
    if var.smin < 0:
        return f"a number from {var.smin} to {var.smax}" + _alignment(var)
    return f"a number from {var.umin} to {var.umax}" + _alignment(var)


def _alignment(var: Scalar) -> str:
    """The power of two that the number is known to be a multiple of, if any."""
    low = (var.mask | var.value) & -(var.mask | var.value)
    return f", a multiple of {low}" if low > 1 else ""
