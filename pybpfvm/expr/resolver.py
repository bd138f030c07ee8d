"""What a name in an expression stands for: C's, the object's, the machine's or the kernel's.

It is looked for in this order: what C knows at the pc (locals, parameters, globals, enum
constants); maps and blocks of user memory; registers, the ring and the event; constants of the
kernel. `$name` passes over all but the last two.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from pybpfvm.btf.types import Btf
from pybpfvm.expr.ctype import CQE, S64, SQE, TEXT, U64, Shape, ctype
from pybpfvm.expr.elements import byte_array
from pybpfvm.expr.mistake import Mistake
from pybpfvm.expr.names import constants, enumerators, variables
from pybpfvm.expr.node import Node, computed, constant, in_bytes, in_memory
from pybpfvm.expr.parse import Span
from pybpfvm.expr.rings import MapThing, QueuesThing, RingThing, SqThing, Thing
from pybpfvm.expr.scope import RING_FIELDS, Scope
from pybpfvm.expr.value import wrapped
from pybpfvm.expr.variables import register, variable
from pybpfvm.isa.opcodes import REGISTERS

FUNCTIONS = ("len", "runs", "ring", "block", "map", "any", "all")
_REGISTERS = {f"r{index}": index for index in range(REGISTERS)}
_MOMENT = ("cqe", "sqe", "helper", "ret")
_WORDS = ("pc", "ring", "cq", "sq", *RING_FIELDS, *_MOMENT)


class Resolver:
    """Names in `scope`. What must be there for their values is added to `needs`, "ring" or "memory"
    to `looks` where they are of these."""

    def __init__(self, scope: Scope, needs: set[str], looks: set[str]) -> None:
        self._scope = scope
        self._needs = needs
        self._looks = looks

    def find(self, name: str, span: Span) -> Thing:
        """What a name stands for. Raises Mistake."""
        found: Thing | None
        for find in (self._local, self._global, self._enumerator, self.map, self.block):
            found = find(name, span)
            if found is not None:
                return found
        found = self._machine_word(name, span) or self._rare_enumerator(name, span)
        if found is None:
            raise Mistake(span, f"nothing is called {name!r} here", self._like(name))
        return found

    def machine(self, name: str, span: Span) -> Thing:
        """What `$name` stands for. Raises Mistake."""
        found = self._machine_word(name, span)
        if found is None:
            close = get_close_matches(name, (*_REGISTERS, *_WORDS), 1)
            raise Mistake(
                span,
                f"no register, ring word or event is called ${name}",
                f"did you mean ${close[0]}?" if close else f"known: {', '.join(_WORDS)}",
            )
        return found

    def _machine_word(self, name: str, span: Span) -> Thing | None:
        if name in _REGISTERS:
            self._needs.add("regs")
            return computed(U64, span, register(_REGISTERS[name]))
        if name == "pc":
            self._needs.add("regs")
            return computed(U64, span, lambda scope: scope.pc)
        of_ring = self._of_ring(name, span)
        if of_ring is not None:
            self._looks.add("ring")
            return of_ring
        if name in _MOMENT:
            self._needs.add(name)
            return self._of_moment(name, span)
        number = self._scope.constants.get(name, constants().get(name))
        return None if number is None else constant(number, span)

    def _of_ring(self, name: str, span: Span) -> Thing | None:
        ring = RingThing(span)
        match name:
            case "ring":
                return ring
            case "cq":
                return QueuesThing(ring, span)
            case "sq":
                return SqThing(ring, span)
            case _:
                return ring.word(name, span) if name in RING_FIELDS else None

    def _of_moment(self, name: str, span: Span) -> Node:
        def missing() -> Mistake:
            return Mistake(span, f"no {name} here", f"only an event with one has {name}")

        def number(scope: Scope) -> int:
            moment = scope.moment
            if moment is None or moment.ret is None:
                raise missing()
            return moment.ret

        def helper(scope: Scope) -> str:
            moment = scope.moment
            if moment is None or moment.helper is None:
                raise missing()
            return moment.helper

        def entry(scope: Scope) -> bytes:
            moment = scope.moment
            found = None if moment is None else moment.cqe if name == "cqe" else moment.sqe
            if found is None:
                raise missing()
            return found.ljust(size, b"\0")

        if name == "ret":
            return computed(S64, span, lambda scope: wrapped(number(scope), 64, True))
        if name == "helper":
            return Node(TEXT, span, string=helper, of_helper=True)
        type_ = CQE if name == "cqe" else SQE
        size = type_.size
        return in_bytes(type_, entry, span)

    def _like(self, name: str) -> str:
        known = {*self._known()}
        close = get_close_matches(name, known, 1)
        if close:
            return f"did you mean {close[0]!r}?"
        scope = self._scope
        if scope.debug is not None and scope.program is not None and scope.debug.why_no_dwarf:
            return f"local variables are not known: {scope.debug.why_no_dwarf}"
        if scope.debug is not None and scope.debug.object.btf is None:
            return "the object was compiled without -g: it has no names"
        if name == "globals" and scope.debug is not None:
            return "a global variable goes by its name alone"
        if scope.program is None:
            return "no program is running here, whose variables there would be"
        return ""

    def _known(self) -> Iterator[str]:
        scope = self._scope
        if scope.debug is not None:
            yield from variables(scope.debug)
            for table in scope.debug.type_tables():
                yield from enumerators(table)
            if scope.program is not None:
                yield from (one.name for one in scope.debug.variables(scope.program, scope.pc))
        yield from scope.maps()
        yield from scope.block_names()
        yield from scope.constants
        yield from constants()
        yield from (*_REGISTERS, *_WORDS, *FUNCTIONS)

    # --- what C knows ---------------------------------------------------------------------------

    def _global(self, name: str, span: Span) -> Node | None:
        debug = self._scope.debug
        if debug is None or debug.object.btf is None:
            return None
        place = variables(debug).get(name)
        if place is None:
            return None
        section, offset, type_id = place
        addr = self._scope.data_address(section, offset)
        if addr is None:
            raise Mistake(span, f"{name} is in {section}, which has no memory")
        self._looks.add("memory")
        type_ = ctype(debug.object.btf, type_id)
        return in_memory(type_, lambda _: addr, span, known_addr=addr)

    def _enumerator(self, name: str, span: Span) -> Node | None:
        """A constant of an enum that BTF has."""
        debug = self._scope.debug
        btf = None if debug is None else debug.object.btf
        return None if btf is None else self._enumerator_of(btf, name, span)

    def _rare_enumerator(self, name: str, span: Span) -> Node | None:
        """One that only DWARF has, which takes longer to read."""
        debug = self._scope.debug
        dwarf = None if debug is None else debug.dwarf
        return None if dwarf is None else self._enumerator_of(dwarf.btf, name, span)

    def _enumerator_of(self, table: Btf, name: str, span: Span) -> Node | None:
        found = enumerators(table).get(name)
        if found is None:
            return None
        value, type_id = found
        type_ = ctype(table, type_id)
        return constant(value, span, type_ if type_.shape is Shape.NUMBER else None)

    def map(self, name: str, span: Span) -> MapThing | None:
        """A map of the object."""
        spec = self._scope.maps().get(name)
        if spec is None:
            return None
        self._looks.add("memory")
        return MapThing(spec, span)

    def block(self, name: str, span: Span) -> Node | None:
        """A block of user memory, as an array of bytes."""
        found = self._scope.block(name)
        if found is None:
            return None
        self._looks.add("memory")
        addr, size = found
        return in_memory(byte_array(size), lambda _: addr, span, known_addr=addr)

    def _local(self, name: str, span: Span) -> Node | None:
        scope = self._scope
        if scope.debug is None or scope.program is None:
            return None
        named = (one for one in scope.debug.variables(scope.program, scope.pc) if one.name == name)
        local = next(named, None)
        if local is None:
            return None
        self._needs.add("regs")
        return variable(local, scope.debug, scope.program, scope.pc, span)
