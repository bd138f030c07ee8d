"""Local variables and parameters: from registers, the frame, or pieces of both."""

from __future__ import annotations

from collections.abc import Callable

from pybpfvm.bits import U64 as MASK
from pybpfvm.expr.ctype import CType, Shape, ctype
from pybpfvm.expr.mistake import Mistake
from pybpfvm.expr.node import Bytes, Node, Numbers, computed, in_bytes, in_memory
from pybpfvm.expr.parse import Span
from pybpfvm.expr.scope import Scope, Unreadable
from pybpfvm.expr.value import wrapped
from pybpfvm.isa.opcodes import FRAME_POINTER, REGISTERS
from pybpfvm.program import Program
from pybpfvm.source.info import DebugInfo, Local
from pybpfvm.source.location import (
    Absent,
    InMemory,
    InRegister,
    IsValue,
    Location,
    Pieces,
    from_frame_pointer,
)

_Located = Callable[[Scope], Location]
_FRAME = ("DW_OP_fbreg", f"DW_OP_breg{FRAME_POINTER}")


def variable(local: Local, debug: DebugInfo, program: Program, pc: int, span: Span) -> Node:
    """A variable at `pc`. What is in one register, or in the frame, is read at once; for the rest
    its description is worked through each time. Mistake for what is optimised out there."""
    type_, ops = ctype(local.btf, local.type_id), local.ops
    if ops == ():
        raise Mistake(
            span,
            f"{local.name} is optimised out at {program.name}+{pc}",
            "another line of the function may still have it, or make it volatile",
        )
    if ops is not None and len(ops) == 1:
        name, args = ops[0]
        if name in _FRAME:
            offset = from_frame_pointer(args[0], debug.frame_bytes(program, pc))
            return in_memory(type_, _frame_address(offset), span)
        if name.startswith("DW_OP_reg") and type_.shape in (Shape.NUMBER, Shape.POINTER):
            return _in_register(int(name.removeprefix("DW_OP_reg")), type_, span)
    located = _locator(local, debug, program, pc, span)
    in_pieces = ops is None or ops[-1][0] in ("DW_OP_piece", "DW_OP_stack_value")
    if in_pieces or (ops is not None and ops[0][0].startswith("DW_OP_reg")):
        return in_bytes(type_, _gathered(local, type_, located, span), span)

    def addr(scope: Scope) -> int:
        place = located(scope)
        if not isinstance(place, InMemory):
            raise Mistake(span, f"{local.name} lies nowhere in memory")
        return place.addr

    return in_memory(type_, addr, span)


def _frame_address(offset: int) -> Numbers:
    def addr(scope: Scope) -> int:
        regs = scope.regs
        assert regs is not None
        return regs[FRAME_POINTER] + offset & MASK

    return addr


def _in_register(index: int, type_: CType, span: Span) -> Node:
    if index >= REGISTERS:
        raise Mistake(span, f"it is in register {index}, which BPF has not")
    word = register(index)
    if type_.size == 8 and not type_.signed:
        return computed(type_, span, word)
    bits, signed = 8 * type_.size, type_.signed
    return computed(type_, span, lambda scope: wrapped(word(scope), bits, signed))


def register(index: int) -> Numbers:
    """A register of the scope, which is known to have some."""
    return lambda scope: scope.regs[index]  # type: ignore[index]


def _locator(local: Local, debug: DebugInfo, program: Program, pc: int, span: Span) -> _Located:
    def located(scope: Scope) -> Location:
        def read(addr: int, size: int) -> int | None:
            try:
                return int.from_bytes(scope.read(addr, size), scope.byteorder)
            except Unreadable:
                return None

        place = debug.locate(local, program, pc, scope.regs or (), read, scope.data_address)
        if isinstance(place, Absent):
            raise Mistake(span, f"{local.name} is not to be had: {place.reason}")
        return place

    return located


def _gathered(local: Local, type_: CType, located: _Located, span: Span) -> Bytes:
    """The bytes of a variable from wherever its parts are."""
    size = type_.size

    def simple(place: Location, count: int, scope: Scope) -> bytes:
        match place:
            case InRegister():
                word = register(place.index)(scope)
            case IsValue():
                word = place.value
            case InMemory():
                try:
                    return scope.read(place.addr, count)
                except Unreadable as error:
                    raise Mistake(span, str(error)) from None
            case _:
                raise Mistake(span, f"a part of {local.name} is optimised out")
        data = word.to_bytes(8, scope.byteorder)
        return (data[:count] if scope.byteorder == "little" else data[-count:]).ljust(count, b"\0")

    def gather(scope: Scope) -> bytes:
        place = located(scope)
        if isinstance(place, Pieces):
            return b"".join(simple(one, count, scope) for one, count in place.parts)[:size]
        return simple(place, size, scope)

    return gather
