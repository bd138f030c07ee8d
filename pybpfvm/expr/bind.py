"""An expression's tree becomes closures, for a scope and a place in a program.

What a name stands for is decided here, in this order: a name that any() or all() gives; what C knows
at the pc (locals, parameters, globals, enum constants); maps and blocks of user memory; registers,
the ring and the event; constants of the kernel. `$name` passes over C.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import chain, islice

from lark import Token, Tree

from pybpfvm.bits import U64 as MASK
from pybpfvm.btf.types import Member
from pybpfvm.expr.ctype import (
    BUILTIN,
    CHAR,
    CQE,
    S64,
    SQE,
    TEXT,
    U8,
    U16,
    U32,
    U64,
    CType,
    Shape,
    ctype,
    integer_type,
)
from pybpfvm.expr.mistake import Mistake
from pybpfvm.expr.names import constants, enumerators, named_type, type_names, variables
from pybpfvm.expr.node import (
    Bytes,
    Node,
    Numbers,
    binary,
    compare,
    computed,
    constant,
    converted,
    elsewhere,
    in_bytes,
    in_memory,
    part,
    require_number,
    truth,
)
from pybpfvm.expr.parse import Node as Tree_
from pybpfvm.expr.parse import Span, span_of
from pybpfvm.expr.rings import (
    KINDS,
    REMEDIES,
    MapThing,
    QueuesThing,
    QueueThing,
    RingThing,
    SqThing,
    Thing,
)
from pybpfvm.expr.scope import CQ_FIELDS, RING_FIELDS, SQ_FIELDS, Scope, Unreadable
from pybpfvm.expr.value import bitfield, size_or_none, wrapped
from pybpfvm.isa.opcodes import REGISTERS
from pybpfvm.source.info import Local
from pybpfvm.source.location import Absent, InMemory, InRegister, IsValue, Location, Pieces

MAX_LOOP = 1 << 16  # elements that one evaluation looks at
_REGISTERS = {f"r{index}": index for index in range(REGISTERS)}
_MOMENT = ("cqe", "sqe", "helper", "ret")
_MACHINE = (*_REGISTERS, "pc", "cq", "sq", *RING_FIELDS, *_MOMENT)
_FUNCTIONS = ("len", "runs", "ring", "block", "map", "any", "all")
_DIGITS = re.compile(r"(0[xX][0-9a-fA-F]+|0[bB][01]+|0[0-7]*|[1-9][0-9]*)([uU]?[lL]{0,2}|[lL]{1,2}[uU])")
_SIMPLE_ESCAPES = {
    "n": 10, "t": 9, "r": 13, "a": 7, "b": 8, "f": 12, "v": 11, "e": 27,
    "\\": 92, "'": 39, '"': 34, "?": 63,
}  # fmt: skip


@dataclass(slots=True)
class _Cell:
    """What a name of any() or all() is just now."""

    node: Node
    data: bytes = b""
    number: int = 0


@dataclass(slots=True)
class Quantified:
    """An any() or all(): which, and the names it gives."""

    every: bool
    names: dict[str, _Cell]


@dataclass(slots=True)
class Binder:
    """`scope` is asked for names now, never for values. `needs`: what must be there for a value:
    "regs", "cqe", "sqe", "helper", "ret"."""

    scope: Scope
    text: str
    budget: list[int]
    needs: set[str] = field(default_factory=set)
    quantified: dict[int, Quantified] = field(default_factory=dict)
    _given: list[dict[str, _Cell]] = field(default_factory=list)

    def node(self, tree: Tree_) -> Node:
        """The value that a tree stands for. Raises Mistake."""
        found = self.thing(tree)
        if isinstance(found, Node):
            return found
        kind = type(found)
        raise Mistake(span_of(tree), f"{KINDS[kind]} has no value", REMEDIES[kind])

    def thing(self, tree: Tree_) -> Thing:
        """The same, or what is no value by itself."""
        assert isinstance(tree, Tree)
        return _RULES[str(tree.data)](self, tree, span_of(tree))

    # --- literals and names -------------------------------------------------------------------

    def _number(self, tree: Tree[Token], span: Span) -> Node:
        digits = str(tree.children[0]).replace("'", "")
        found = _DIGITS.fullmatch(digits)
        if found is None:
            raise Mistake(span, f"{digits!r} is no integer", "10, 0x1f, 0b11, 017, 10u and 10ull are")
        text = found[1]
        octal = len(text) > 1 and text[0] == "0" and text[1].isdigit()
        value = int(text, 8 if octal else 0)
        if value > MASK:
            raise Mistake(span, "more than 64 bits")
        return constant(value, span, U64 if "u" in found[2].lower() else None)

    def _character(self, tree: Tree[Token], span: Span) -> Node:
        data = self._unescaped(str(tree.children[0])[1:-1], span)
        if len(data) != 1:
            raise Mistake(span, "not one character of one byte", "a text has quotes like these: \"")
        return constant(wrapped(data[0], 8, True), span, CHAR)

    def _string(self, tree: Tree[Token], span: Span) -> Node:
        data = self._bytes_of(tree.children[0], span)
        text = data.decode("utf-8", "surrogateescape")
        return Node(TEXT, span, string=lambda _: text)

    def _bytes_of(self, token: Tree_, span: Span) -> bytes:
        return self._unescaped(str(token).removeprefix("b")[1:-1], span)

    def _unescaped(self, text: str, span: Span) -> bytes:
        out, at = bytearray(), 0
        while at < len(text):
            if text[at] != "\\":
                out += text[at].encode("utf-8", "surrogatepass")
                at += 1
                continue
            match = re.match(r"x([0-9a-fA-F]{1,2})|([0-7]{1,3})|(.)", text[at + 1 :], re.DOTALL)
            assert match is not None
            at += 1 + match.end()
            if match[1] is not None or match[2] is not None:
                number = int(match[1], 16) if match[1] is not None else int(match[2], 8)
                if number > 255:
                    raise Mistake(span, f"\\{match[2]} is more than a byte")
                out.append(number)
            elif match[3] in _SIMPLE_ESCAPES:
                out.append(_SIMPLE_ESCAPES[match[3]])
            else:
                raise Mistake(span, f"\\{match[3]} stands for nothing", "a backslash is \\\\")
        return bytes(out)

    def _name(self, tree: Tree[Token], span: Span) -> Thing:
        name = str(tree.children[0])
        for given in reversed(self._given):
            if name in given:
                return elsewhere(given[name].node, span)
        for find in (self._local, self._global, self._enumerator, self._map, self._block):
            found = find(name, span)
            if found is not None:
                return found
        found = self._machine_word(name, span)
        if found is None:
            raise Mistake(span, f"nothing is called {name!r} here", self._like(name))
        return found

    def _machine(self, tree: Tree[Token], span: Span) -> Thing:
        name = str(tree.children[0])[1:]
        found = self._machine_word(name, span)
        if found is None:
            close = get_close_matches(name, _MACHINE, 1)
            raise Mistake(
                span,
                f"no register, ring word or event is called ${name}",
                f"did you mean ${close[0]}?" if close else f"known: {', '.join(_MACHINE[11:])}",
            )
        return found

    def _machine_word(self, name: str, span: Span) -> Thing | None:
        if name in _REGISTERS:
            self.needs.add("regs")
            index = _REGISTERS[name]
            return computed(U64, span, lambda scope: scope.regs[index])  # type: ignore[index]
        if name == "pc":
            self.needs.add("regs")
            return computed(U64, span, lambda scope: scope.pc)
        ring = RingThing(span)
        if name == "cq":
            return QueuesThing(ring, span)
        if name == "sq":
            return SqThing(ring, span)
        if name in RING_FIELDS:
            return ring.word(name, span)
        if name in _MOMENT:
            self.needs.add(name)
            return self._of_moment(name, span)
        number = self.scope.constants.get(name, constants().get(name))
        return None if number is None else constant(number, span)

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
            return computed(U64, span, number)
        if name == "helper":
            return Node(TEXT, span, string=helper)
        type_ = CQE if name == "cqe" else SQE
        size = type_.size
        return in_bytes(type_, entry, span)

    def _like(self, name: str) -> str:
        known = {*self._known()}
        close = get_close_matches(name, known, 1)
        if close:
            return f"did you mean {close[0]!r}?"
        scope = self.scope
        if scope.debug is not None and scope.program is not None and scope.debug.why_no_dwarf:
            return f"local variables are not known: {scope.debug.why_no_dwarf}"
        if scope.debug is not None and not scope.debug.type_tables:
            return "the object was compiled without -g: it has no names"
        return ""

    def _known(self) -> Iterator[str]:
        scope = self.scope
        if scope.debug is not None:
            yield from variables(scope.debug)
            yield from enumerators(scope.debug)
            if scope.program is not None:
                yield from (one.name for one in scope.debug.variables(scope.program, scope.pc))
        yield from scope.maps()
        yield from scope.block_names()
        yield from scope.constants
        yield from constants()
        yield from (*_MACHINE, *_FUNCTIONS)

    # --- what C knows ---------------------------------------------------------------------------

    def _global(self, name: str, span: Span) -> Node | None:
        debug = self.scope.debug
        if debug is None or debug.object.btf is None:
            return None
        place = variables(debug).get(name)
        if place is None:
            return None
        section, offset, type_id = place
        addr = self.scope.data_address(section, offset)
        if addr is None:
            raise Mistake(span, f"{name} is in {section}, which has no memory")
        variable = debug.object.btf.type(type_id)
        type_ = ctype(debug.object.btf, getattr(variable, "type_id", type_id))
        return in_memory(type_, lambda _: addr, span, known_addr=addr)

    def _enumerator(self, name: str, span: Span) -> Node | None:
        debug = self.scope.debug
        found = None if debug is None else enumerators(debug).get(name)
        if found is None:
            return None
        value, table, type_id = found
        type_ = ctype(table, type_id)
        return constant(value, span, type_ if type_.shape is Shape.NUMBER else None)

    def _map(self, name: str, span: Span) -> MapThing | None:
        spec = self.scope.maps().get(name)
        return None if spec is None else MapThing(spec, span)

    def _block(self, name: str, span: Span) -> Node | None:
        found = self.scope.block(name)
        if found is None:
            return None
        addr, size = found
        return in_memory(_byte_array(size), lambda _: addr, span, known_addr=addr)

    def _local(self, name: str, span: Span) -> Node | None:
        scope = self.scope
        if scope.debug is None or scope.program is None:
            return None
        named = (one for one in scope.debug.variables(scope.program, scope.pc) if one.name == name)
        local = next(named, None)
        return None if local is None else self._of_local(local, span)

    def _of_local(self, local: Local, span: Span) -> Node:
        """A local variable. What stays in one register or place is read at once."""
        scope, type_ = self.scope, ctype(local.btf, local.type_id)
        debug, program, pc = scope.debug, scope.program, scope.pc
        assert debug is not None and program is not None
        self.needs.add("regs")
        if local.ops == ():
            raise Mistake(
                span,
                f"{local.name} is optimised out at {program.name}+{pc}",
                "another line of the function may still have it, or compile it as volatile",
            )
        if local.ops is not None and len(local.ops) == 1:
            op, args = local.ops[0]
            if op in ("DW_OP_fbreg", "DW_OP_breg10"):
                offset = args[0] - debug.frame_bytes(program, pc)
                return in_memory(type_, _frame_address(offset), span)
            if op.startswith("DW_OP_reg") and type_.shape in (Shape.NUMBER, Shape.POINTER):
                return self._in_register(int(op.removeprefix("DW_OP_reg")), type_, span)
        located = self._located(local, span)
        if local.ops is None or local.ops[-1][0] in ("DW_OP_piece", "DW_OP_stack_value"):
            return in_bytes(type_, _gathered(local, type_, located, span), span)

        def addr(scope: Scope) -> int:
            place = located(scope)
            if not isinstance(place, InMemory):
                raise Mistake(span, f"{local.name} lies nowhere in memory")
            return place.addr

        if local.ops[0][0].startswith("DW_OP_reg"):
            return in_bytes(type_, _gathered(local, type_, located, span), span)
        return in_memory(type_, addr, span)

    def _located(self, local: Local, span: Span) -> Callable[[Scope], Location]:
        debug, program, pc = self.scope.debug, self.scope.program, self.scope.pc
        assert debug is not None and program is not None

        def located(scope: Scope) -> Location:
            def read(addr: int, size: int) -> int | None:
                try:
                    return int.from_bytes(scope.read(addr, size), scope.byteorder)
                except Unreadable:
                    return None

            place = debug.locate(local, program, pc, scope.regs or (), read, scope.data_address)
            if isinstance(place, Absent):
                raise Mistake(span, f"{local.name} is {place.reason}")
            return place

        return located

    def _in_register(self, index: int, type_: CType, span: Span) -> Node:
        if index >= REGISTERS:
            raise Mistake(span, f"it is in register {index}, which BPF has not")
        if type_.size == 8 and not type_.signed:
            return computed(type_, span, lambda scope: scope.regs[index])  # type: ignore[index]
        bits, signed = 8 * type_.size, type_.signed
        return computed(
            type_,
            span,
            lambda scope: wrapped(scope.regs[index], bits, signed),  # type: ignore[index]
        )

    # --- operators ------------------------------------------------------------------------------

    def _binary(self, tree: Tree[Token], span: Span) -> Node:
        left, sign, right = tree.children
        return binary(str(sign), self.node(left), self.node(right), span)

    def _compare(self, tree: Tree[Token], span: Span) -> Node:
        left, sign, right = tree.children
        return compare(str(sign), self.node(left), self.node(right), span)

    def _and(self, tree: Tree[Token], span: Span) -> Node:
        left, right = (truth(self.node(child)) for child in tree.children)
        return computed(S64, span, lambda scope: 1 if left(scope) and right(scope) else 0)

    def _or(self, tree: Tree[Token], span: Span) -> Node:
        left, right = (truth(self.node(child)) for child in tree.children)
        return computed(S64, span, lambda scope: 1 if left(scope) or right(scope) else 0)

    def _not(self, tree: Tree[Token], span: Span) -> Node:
        inner = truth(self.node(tree.children[0]))
        return computed(S64, span, lambda scope: 0 if inner(scope) else 1)

    def _negate(self, tree: Tree[Token], span: Span) -> Node:
        return binary("-", constant(0, span), self._plain(tree), span)

    def _invert(self, tree: Tree[Token], span: Span) -> Node:
        return binary("^", self._plain(tree), constant(-1, span), span)

    def _plus(self, tree: Tree[Token], span: Span) -> Node:
        return binary("+", constant(0, span), self._plain(tree), span)

    def _plain(self, tree: Tree[Token]) -> Node:
        node = require_number(self.node(tree.children[-1]), "has no sign")
        if node.type.shape is Shape.POINTER:
            raise Mistake(node.span, "a pointer has no sign", "cast it to u64")
        return node

    def _conditional(self, tree: Tree[Token], span: Span) -> Node:
        condition, yes, no = tree.children
        asked = truth(self.node(condition))
        first, second = self.node(yes), self.node(no)
        a = require_number(first, "can not stand here").get
        b = require_number(second, "can not stand here").get
        assert a is not None and b is not None
        kinds = {first.type.shape, second.type.shape}
        type_ = first.type if Shape.POINTER in kinds or first.type == second.type else S64
        if U64 in (first.type, second.type) and Shape.POINTER not in kinds:
            return computed(U64, span, lambda scope: (a if asked(scope) else b)(scope) & MASK)
        return computed(type_, span, lambda scope: (a if asked(scope) else b)(scope))

    def _deref(self, tree: Tree[Token], span: Span) -> Node:
        pointer = require_number(self.node(tree.children[-1]), "points to nothing")
        if pointer.type.shape is not Shape.POINTER or pointer.get is None:
            raise Mistake(
                span, "a number points to nothing in particular", "say to what: *(u64 *)r1"
            )
        return self._pointed(pointer, pointer.get, span)

    def _pointed(self, pointer: Node, addr: Numbers, span: Span) -> Node:
        target = pointer.type.pointee()
        if target.shape is Shape.NOTHING:
            what = target.name
            raise Mistake(
                span, f"what {what} * points to has no value", "cast the pointer: *(u32 *)p"
            )
        return in_memory(target, addr, span)

    def _address(self, tree: Tree[Token], span: Span) -> Node:
        inner = self.node(tree.children[-1])
        if inner.addr is None:
            raise Mistake(span, "it lies nowhere in memory")
        return computed(inner.type.pointer(), span, inner.addr)

    def _cast(self, tree: Tree[Token], span: Span) -> Node:
        return self._cast_to(self._type(tree.children[0]), self.node(tree.children[1]), span)

    def _named_cast(self, tree: Tree[Token], span: Span) -> Node:
        token = tree.children[0]
        return self._cast_to(self._pointer_of_name(token), self.node(tree.children[1]), span)

    def _cast_to(self, type_: CType, inner: Node, span: Span) -> Node:
        if type_.shape not in (Shape.NUMBER, Shape.POINTER):
            raise Mistake(
                span, f"nothing can be cast to {type_.name}", "cast to an integer or a pointer"
            )
        return converted(inner, type_, span)

    def _size_of_value(self, tree: Tree[Token], span: Span) -> Node:
        return self._size_of(self.node(tree.children[0]).type, span)

    def _size_of_type(self, tree: Tree[Token], span: Span) -> Node:
        return self._size_of(self._type(tree.children[0]), span)

    def _size_of_named(self, tree: Tree[Token], span: Span) -> Node:
        return self._size_of(self._pointer_of_name(tree.children[0]), span)

    def _size_of(self, type_: CType, span: Span) -> Node:
        size = size_or_none(type_)
        if size is None:
            raise Mistake(span, f"{type_.name} has no size")
        return constant(size, span, U64)

    def _type(self, tree: Tree_) -> CType:
        assert isinstance(tree, Tree)
        named, *stars = tree.children
        assert isinstance(named, Tree)
        span = span_of(named)
        words = [str(one) for one in named.children]
        if named.data == "words":
            found = integer_type(words)
            if found is None:
                raise Mistake(span, f"no type is called {' '.join(words)!r}", "u32 and long are")
        else:
            found = self._tagged(str(named.data), words[0], span)
        for _ in stars:
            found = found.pointer()
        return found

    def _tagged(self, kind: str, name: str, span: Span) -> CType:
        found = named_type(self.scope.debug, kind, name)
        if found is None and kind == "struct" and name in ("io_uring_cqe", "io_uring_sqe"):
            return CQE if name == "io_uring_cqe" else SQE
        if found is None:
            close = get_close_matches(name, type_names(self.scope.debug, kind), 1)
            raise Mistake(
                span,
                f"the object has no {kind or 'type'} {name}".replace("  ", " "),
                f"did you mean {close[0]!r}?" if close else "",
            )
        return found

    def _pointer_of_name(self, token: Tree_) -> CType:
        inner = str(token).strip("() \t\r\n")
        name, stars = inner.split("*", 1)[0].strip(), inner.count("*")
        found = integer_type([name]) or self._tagged("", name, span_of(token))
        for _ in range(stars):
            found = found.pointer()
        return found

    # --- parts ----------------------------------------------------------------------------------

    def _member(self, tree: Tree[Token], span: Span) -> Thing:
        base, name = self.thing(tree.children[0]), str(tree.children[1])
        if isinstance(base, Node):
            if base.type.shape is Shape.POINTER:
                raise Mistake(span, "a pointer has no members", f"what it points to has: ->{name}")
            return self._member_of(base, name, span)
        if isinstance(base, RingThing):
            if name == "cq":
                return QueuesThing(base, span)
            if name == "sq":
                return SqThing(base, span)
            self._require(name, (*RING_FIELDS, "cq", "sq"), base, tree)
            return base.word(name, span)
        if isinstance(base, QueueThing):
            self._require(name, CQ_FIELDS, base, tree)
            return base.field(name, span)
        if isinstance(base, SqThing):
            self._require(name, SQ_FIELDS, base, tree)
            return base.field(name, span)
        raise Mistake(span, f"{KINDS[type(base)]} has no {name!r}", REMEDIES[type(base)])

    def _require(self, name: str, known: Iterable[str], base: Thing, tree: Tree[Token]) -> None:
        if name not in known:
            raise Mistake(
                span_of(tree.children[1]),
                f"{KINDS[type(base)]} has no {name!r}",
                f"it has {', '.join(known)}",
            )

    def _arrow(self, tree: Tree[Token], span: Span) -> Node:
        pointer, name = self.node(tree.children[0]), str(tree.children[1])
        if pointer.type.shape is Shape.RECORD:
            raise Mistake(span, "it is a struct, no pointer to one", f"write .{name}")
        pointer = require_number(pointer, "points to nothing")
        if pointer.type.shape is not Shape.POINTER or pointer.get is None:
            raise Mistake(
                span, "a number points to nothing in particular", "cast it: ((struct x *)r1)->field"
            )
        return self._member_of(self._pointed(pointer, pointer.get, span), name, span)

    def _member_of(self, base: Node, name: str, span: Span) -> Node:
        found = _find_member(base.type, name)
        if found is None:
            known = _member_names(base.type)
            close = get_close_matches(name, known, 1)
            remedy = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known[:12])}"
            if not known:
                remedy = ""
            raise Mistake(span, f"{base.type.name} has no member {name!r}", remedy)
        member, bit_offset, inner = found
        if member.bitfield_bits:
            return self._bitfield(base, bit_offset, member.bitfield_bits, inner, span)
        at = bit_offset // 8
        return part(base, inner, lambda _: at, span)

    def _bitfield(self, base: Node, offset: int, bits: int, inner: CType, span: Span) -> Node:
        data = base.data
        if data is None:
            raise Mistake(span, "it has no value")
        signed = inner.signed
        return computed(
            inner,
            span,
            lambda scope: wrapped(
                bitfield(data(scope), offset, bits, scope.byteorder), bits, signed
            ),
        )

    def _index(self, tree: Tree[Token], span: Span) -> Thing:
        base = self.thing(tree.children[0])
        if isinstance(base, MapThing):
            return self._element(base, self._key(base, tree.children[1]), span)
        index = require_number(self.node(tree.children[1]), "is no index")
        at = index.get
        assert at is not None
        if isinstance(base, QueuesThing):
            return QueueThing(base.ring, at, span)
        if isinstance(base, QueueThing):
            return base.cqe(at, span)
        if not isinstance(base, Node):
            raise Mistake(span, f"{KINDS[type(base)]} has no elements", REMEDIES[type(base)])
        if base.type.shape is Shape.ARRAY:
            return self._array_element(base, at, span)
        pointer = require_number(base, "has no elements")
        if pointer.type.shape is not Shape.POINTER or pointer.get is None:
            raise Mistake(span, "a number has no elements", "cast it: ((u32 *)r1)[0]")
        start, size = pointer.get, size_or_none(pointer.type.pointee()) or 1
        return self._pointed(pointer, lambda scope: start(scope) + at(scope) * size & MASK, span)

    def _array_element(self, base: Node, at: Numbers, span: Span) -> Node:
        inner, count = base.type.pointee(), base.type.count
        size = inner.size
        if inner.shape is Shape.NOTHING:
            raise Mistake(span, f"{inner.name} has no value")

        def offset(scope: Scope) -> int:
            index = at(scope)
            if count and not 0 <= index < count:
                raise Mistake(span, f"element {index} of {count}")
            return index * size

        return part(base, inner, offset, span)

    # --- maps -----------------------------------------------------------------------------------

    def _index_fields(self, tree: Tree[Token], span: Span) -> Thing:
        base = self.thing(tree.children[0])
        if not isinstance(base, MapThing):
            raise Mistake(span, "only the key of a map is written in braces")
        fields = tree.children[1]
        assert isinstance(fields, Tree)
        return self._element(base, self._key_of_fields(base, fields), span)

    def _key_type(self, thing: MapThing) -> CType:
        return self._typed(thing.spec.btf_key_type_id, thing.spec.key_size)

    def _typed(self, type_id: int, size: int) -> CType:
        """A key's or value's type: BTF's, or what its size makes of it."""
        debug = self.scope.debug
        if type_id and debug is not None and debug.object.btf is not None:
            found = ctype(debug.object.btf, type_id)
            if found.shape is not Shape.NOTHING and found.size == size:
                return found
        return {1: U8, 2: U16, 4: U32, 8: U64}.get(size) or _byte_array(size)

    def _key(self, thing: MapThing, tree: Tree_) -> Bytes:
        size, order = thing.spec.key_size, self.scope.byteorder
        if isinstance(tree, Tree) and tree.data == "string":
            data = self._bytes_of(tree.children[0], span_of(tree))
            if len(data) > size:
                raise Mistake(span_of(tree), f"{len(data)} bytes for a key of {size}")
            padded = data.ljust(size, b"\0")
            return lambda _: padded
        node = self.node(tree)
        span, data_of, get = node.span, node.data, node.get
        if data_of is not None and node.type.size == size:
            return data_of
        if get is None:
            raise Mistake(span, f"{node.type.size} bytes for a key of {size}")
        if not size:
            raise Mistake(span, f"the map {thing.spec.name} has no keys")
        low, high, modulus = -(1 << (8 * size - 1)), 1 << (8 * size), 1 << (8 * size)

        def key(scope: Scope) -> bytes:
            number = get(scope)
            if not low <= number < high:
                raise Mistake(span, f"{number} does not fit a key of {size} bytes")
            return (number % modulus).to_bytes(size, order)

        return key

    def _key_of_fields(self, thing: MapThing, fields: Tree[Token]) -> Bytes:
        """`{1, 2}` by position, `{.a = 1}` by name; what is left out is zero."""
        type_ = self._key_type(thing)
        names = [member.name for member in type_.members()]
        if type_.shape is not Shape.RECORD:
            raise Mistake(span_of(fields), f"the keys of {thing.spec.name} are no structs")
        parts: list[tuple[int, int, Numbers, Span]] = []
        for index, one in enumerate(fields.children):
            assert isinstance(one, Tree)
            tree: Tree_ = one
            if one.data == "named_field":
                name, tree = str(one.children[0]), one.children[1]
            elif index < len(names):
                name = names[index]
            else:
                raise Mistake(span_of(one), f"{type_.name} has {len(names)} members")
            found = _find_member(type_, name)
            if found is None or found[0].bitfield_bits or found[2].shape not in _SCALARS:
                raise Mistake(
                    span_of(one), f"{type_.name} has no number {name!r}", f"it has {', '.join(names)}"
                )
            _, bit_offset, inner = found
            get = require_number(self.node(tree), "is no number").get
            assert get is not None
            parts.append((bit_offset // 8, inner.size, get, span_of(one)))
        size, order = thing.spec.key_size, self.scope.byteorder

        def key(scope: Scope) -> bytes:
            out = bytearray(size)
            for at, width, get, span in parts:
                number = get(scope)
                if not -(1 << (8 * width - 1)) <= number < 1 << (8 * width):
                    raise Mistake(span, f"{number} does not fit {width} bytes")
                out[at : at + width] = (number % (1 << (8 * width))).to_bytes(width, order)
            return bytes(out)

        return key

    def _element(self, thing: MapThing, key: Bytes, span: Span) -> Node:
        name = thing.spec.name
        type_ = self._typed(thing.spec.btf_value_type_id, thing.spec.value_size)

        def data(scope: Scope) -> bytes:
            wanted = key(scope)
            try:
                found = scope.element(name, wanted)
            except Unreadable as error:
                raise Mistake(span, str(error)) from None
            if found is None:
                shown = int.from_bytes(wanted, scope.byteorder) if len(wanted) <= 8 else wanted.hex()
                raise Mistake(
                    span, f"{name} has no element with key {shown}", f"ask first: key in {name}"
                )
            return found.data

        def addr(scope: Scope) -> int:
            try:
                found = scope.element(name, key(scope))
            except Unreadable as error:
                raise Mistake(span, str(error)) from None
            if found is None or found.addr is None:
                raise Mistake(span, "it lies nowhere in memory")
            return found.addr

        return in_bytes(type_, data, span, addr)

    def _contains(self, tree: Tree[Token], span: Span) -> Node:
        thing = self.thing(tree.children[1])
        if not isinstance(thing, MapThing):
            raise Mistake(span_of(tree.children[1]), "only maps have keys")
        key, name = self._key(thing, tree.children[0]), thing.spec.name

        def get(scope: Scope) -> int:
            try:
                return int(scope.element(name, key(scope)) is not None)
            except Unreadable as error:
                raise Mistake(span, str(error)) from None

        return computed(S64, span, get)

    def _walk(self, scope: Scope, name: str, span: Span) -> Iterator[bytes]:
        try:
            yield from self._counted(iter(scope.keys(name)), span)
        except Unreadable as error:
            raise Mistake(span, str(error)) from None

    def _counted(self, items: Iterator[bytes], span: Span) -> Iterator[bytes]:
        """The items, as long as the budget of the evaluation lasts."""
        budget = self.budget
        for item in items:
            budget[0] -= 1
            if budget[0] < 0:
                raise Mistake(span, f"more than {MAX_LOOP:,} elements to look at")
            yield item

    # --- functions --------------------------------------------------------------------------------

    def _call(self, tree: Tree[Token], span: Span) -> Thing:
        name, arguments = str(tree.children[0]), tree.children[1]
        given = list(arguments.children) if isinstance(arguments, Tree) else []
        if name not in _FUNCTIONS or name in ("any", "all"):
            close = get_close_matches(name, _FUNCTIONS, 1)
            remedy = f"did you mean {close[0]}?" if close else f"there are {', '.join(_FUNCTIONS)}"
            if name in ("any", "all"):
                remedy = f"{name}(c.res < 0 for c in cq[0])"
            raise Mistake(span, f"{name} can not be called so", remedy)
        if len(given) != 1:
            raise Mistake(span, f"{name} takes one argument, not {len(given)}")
        if name == "len":
            return self._length(given[0], span)
        text = given[0]
        if not (isinstance(text, Tree) and text.data == "string"):
            raise Mistake(span_of(text), f"{name} takes a name in quotes", f'{name}("name")')
        word = self._bytes_of(text.children[0], span_of(text)).decode("utf-8", "replace")
        if name == "runs":
            return RingThing(span).runs(word, span)
        if name == "ring":
            return RingThing(span, word)
        found = self._block(word, span) if name == "block" else self._map(word, span)
        if found is None:
            known = self.scope.block_names() if name == "block" else self.scope.maps()
            close = get_close_matches(word, list(known), 1)
            raise Mistake(
                span_of(text),
                f"no {name} is called {word!r}",
                f"did you mean {close[0]!r}?" if close else "",
            )
        return found

    def _length(self, tree: Tree_, span: Span) -> Node:
        thing = self.thing(tree)
        if isinstance(thing, MapThing):
            name = thing.spec.name
            return computed(U64, span, lambda scope: sum(1 for _ in self._walk(scope, name, span)))
        if isinstance(thing, QueueThing):
            return thing.field("ready", span)
        if isinstance(thing, QueuesThing):
            view = thing.ring.view
            return computed(U64, span, lambda scope: view(scope).cqs())
        if isinstance(thing, SqThing):
            return thing.field("ready", span)
        if isinstance(thing, Node) and thing.type.shape is Shape.ARRAY:
            return constant(thing.type.count, span, U64)
        raise Mistake(span, "it has no length", "maps, queues and arrays have one")

    def _quantified(self, tree: Tree[Token], span: Span) -> Node:
        word, condition, first, second, source = tree.children
        if str(word) not in ("any", "all"):
            raise Mistake(span, f"{word} can not be called so", "any(...) and all(...) can")
        names = [str(first)] if second is None else [str(first), str(second)]
        cells, items = self._source(self.thing(source), len(names), span_of(source))
        given = dict(zip(names, cells, strict=True))
        self._given.append(given)
        try:
            asked = truth(self.node(condition))
        finally:
            self._given.pop()
        every = str(word) == "all"
        self.quantified[id(tree)] = Quantified(every, given)

        def get(scope: Scope) -> int:
            for _ in items(scope):
                if asked(scope) is not every:
                    return int(not every)
            return int(every)

        return computed(S64, span, get)

    def _source(
        self, thing: Thing, count: int, span: Span
    ) -> tuple[list[_Cell], Callable[[Scope], Iterator[bytes]]]:
        """The names' cells, and an iterator that fills them for each element."""
        number = _number_cell(span)
        if isinstance(thing, MapThing):
            key = _data_cell(self._key_type(thing), span)
            value = _data_cell(
                self._typed(thing.spec.btf_value_type_id, thing.spec.value_size), span
            )
            name = thing.spec.name

            def of_map(scope: Scope) -> Iterator[bytes]:
                for item in self._walk(scope, name, span):
                    found = scope.element(name, item) if count == 2 else None
                    key.data = item
                    if found is not None:
                        value.data = found.data
                    elif count == 2:
                        continue  # it went while we looked
                    yield item

            return [key, value][:count], of_map
        if isinstance(thing, QueueThing):
            queue, cqe = thing, _data_cell(CQE, span)

            def of_queue(scope: Scope) -> Iterator[bytes]:
                view, index = queue.located(scope)
                held = (view.cqe(index, ahead) for ahead in range(view.cq(index, "ready")))
                present = (one for one in held if one is not None)
                for at, raw in enumerate(self._counted(present, span)):
                    number.number, cqe.data = at, raw.ljust(CQE.size, b"\0")
                    yield raw

            return ([cqe] if count == 1 else [number, cqe]), of_queue
        if isinstance(thing, Node) and thing.type.shape is Shape.ARRAY and thing.data is not None:
            inner, whole, elements = thing.type.pointee(), thing.data, thing.type.count
            element = _data_cell(inner, span)

            def of_array(scope: Scope) -> Iterator[bytes]:
                data, size = whole(scope), inner.size
                cut = (data[at * size : (at + 1) * size] for at in range(elements))
                for at, raw in enumerate(self._counted(cut, span)):
                    number.number, element.data = at, raw
                    yield raw

            return ([element] if count == 1 else [number, element]), of_array
        raise Mistake(span, "it has no elements to look at", "maps, CQs and arrays have")


_SCALARS = (Shape.NUMBER, Shape.POINTER)


def _byte_array(size: int) -> CType:
    return CType(Shape.ARRAY, size, False, BUILTIN, 0, U8, size)


def _frame_address(offset: int) -> Numbers:
    def addr(scope: Scope) -> int:
        regs = scope.regs
        assert regs is not None
        return regs[10] + offset & MASK

    return addr


def _gathered(
    local: Local, type_: CType, located: Callable[[Scope], Location], span: Span
) -> Bytes:
    """The bytes of a variable from wherever its parts are."""
    size = type_.size

    def simple(place: Location, count: int, scope: Scope) -> bytes:
        match place:
            case InRegister():
                assert scope.regs is not None
                word = scope.regs[place.index]
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


def _find_member(
    type_: CType, name: str, base: int = 0, depth: int = 0
) -> tuple[Member, int, CType] | None:
    """(member, bit offset, type) of a member, also of an anonymous struct inside."""
    if type_.shape is not Shape.RECORD or depth > 8:
        return None
    for member in type_.members():
        inner = ctype(type_.btf, member.type_id)
        if member.name == name:
            return member, base + member.bit_offset, inner
        if not member.name:
            found = _find_member(inner, name, base + member.bit_offset, depth + 1)
            if found is not None:
                return found
    return None


def _member_names(type_: CType) -> list[str]:
    if type_.shape is not Shape.RECORD:
        return []
    inner = (
        [one.name] if one.name else _member_names(ctype(type_.btf, one.type_id))
        for one in type_.members()
    )
    return list(islice(chain.from_iterable(inner), 200))


def _data_cell(type_: CType, span: Span) -> _Cell:
    cell = _Cell(constant(0, span))
    cell.node = in_bytes(type_, lambda _: cell.data, span)
    return cell


def _number_cell(span: Span) -> _Cell:
    cell = _Cell(constant(0, span))
    cell.node = computed(U64, span, lambda _: cell.number)
    return cell


_RULES: dict[str, Callable[[Binder, Tree[Token], Span], Thing]] = {
    "number": Binder._number,
    "character": Binder._character,
    "string": Binder._string,
    "name": Binder._name,
    "machine": Binder._machine,
    "conditional": Binder._conditional,
    "or_": Binder._or,
    "and_": Binder._and,
    "not_": Binder._not,
    "binary": Binder._binary,
    "compare": Binder._compare,
    "contains": Binder._contains,
    "negate": Binder._negate,
    "plus": Binder._plus,
    "invert": Binder._invert,
    "deref": Binder._deref,
    "address": Binder._address,
    "cast": Binder._cast,
    "named_cast": Binder._named_cast,
    "size_of_value": Binder._size_of_value,
    "size_of_type": Binder._size_of_type,
    "size_of_named": Binder._size_of_named,
    "member": Binder._member,
    "arrow": Binder._arrow,
    "index": Binder._index,
    "index_fields": Binder._index_fields,
    "call": Binder._call,
    "quantified": Binder._quantified,
}
