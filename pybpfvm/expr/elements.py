"""Elements of maps by their keys, and the elements that any() and all() look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lark import Token, Tree

from pybpfvm.expr.ctype import BUILTIN, CQE, S64, U8, U16, U32, U64, CType, Shape, ctype
from pybpfvm.expr.literals import string
from pybpfvm.expr.members import find_member
from pybpfvm.expr.mistake import Mistake
from pybpfvm.expr.node import (
    Bytes,
    Node,
    Numbers,
    computed,
    constant,
    in_bytes,
    numbers,
    require_number,
)
from pybpfvm.expr.parse import Node as Tree_
from pybpfvm.expr.parse import Span, span_of
from pybpfvm.expr.rings import MapThing, QueueThing, Thing
from pybpfvm.expr.scope import Scope, Unreadable
from pybpfvm.source.info import DebugInfo

MAX_LOOP = 1 << 16  # elements that one evaluation looks at
Bind = Callable[[Tree_], Node]
_SCALARS = (Shape.NUMBER, Shape.POINTER)


def byte_array(size: int) -> CType:
    """The type of so many bytes."""
    return CType(Shape.ARRAY, size, False, BUILTIN, 0, U8, size)


def key_type(thing: MapThing, debug: DebugInfo | None) -> CType:
    """What BTF says of a map's keys, or what their size makes of them."""
    return _typed(thing.spec.btf_key_type_id, thing.spec.key_size, debug)


def value_type(thing: MapThing, debug: DebugInfo | None) -> CType:
    """The same of its values."""
    return _typed(thing.spec.btf_value_type_id, thing.spec.value_size, debug)


def _typed(type_id: int, size: int, debug: DebugInfo | None) -> CType:
    if type_id and debug is not None and debug.object.btf is not None:
        found = ctype(debug.object.btf, type_id)
        if found.shape is not Shape.NOTHING and found.size == size:
            return found
    return {1: U8, 2: U16, 4: U32, 8: U64}.get(size) or byte_array(size)


def element(thing: MapThing, type_: CType, key: Bytes, span: Span) -> Node:
    """The element with a key, of type `type_`."""
    name = thing.spec.name

    def data(scope: Scope) -> bytes:
        wanted = key(scope)
        found = _asked(scope, name, wanted, span)
        if found is None:
            shown = int.from_bytes(wanted, scope.byteorder) if len(wanted) <= 8 else wanted.hex()
            raise Mistake(
                span, f"{name} has no element with key {shown}", f"ask first: key in {name}"
            )
        return found

    def addr(scope: Scope) -> int:
        found = scope.element_addr(name, key(scope))
        if found is None:
            raise Mistake(span, "it lies nowhere in memory")
        return found

    return in_bytes(type_, data, span, addr)


def contains(thing: MapThing, key: Bytes, span: Span) -> Node:
    """Whether there is one."""
    name = thing.spec.name
    return computed(S64, span, lambda scope: int(_asked(scope, name, key(scope), span) is not None))


def _asked(scope: Scope, name: str, key: bytes, span: Span) -> bytes | None:
    try:
        return scope.element(name, key)
    except Unreadable as error:
        raise Mistake(span, str(error)) from None


def key_of(thing: MapThing, tree: Tree_, bind: Bind) -> Bytes:
    """A key from an expression: a number, what has as many bytes as keys have, a text."""
    size = thing.spec.key_size
    if isinstance(tree, Tree) and tree.data == "string":
        span = span_of(tree)
        data = string(str(tree.children[0]), span)
        if len(data) > size:
            raise Mistake(span, f"{len(data)} bytes for a key of {size}")
        padded = data.ljust(size, b"\0")
        return lambda _: padded
    node = bind(tree)
    if node.data is not None and node.type.size == size:
        return node.data
    if node.get is None:
        raise Mistake(node.span, f"{node.type.size} bytes for a key of {size}")
    if not size:
        raise Mistake(node.span, f"the map {thing.spec.name} has no keys")
    get, span = node.get, node.span
    return lambda scope: _packed(get(scope), size, scope, span)


def _packed(number: int, size: int, scope: Scope, span: Span) -> bytes:
    """A number, perhaps a negative one, as so many bytes."""
    high = 1 << (8 * size)
    if not -(high >> 1) <= number < high:
        raise Mistake(span, f"{number} does not fit {size} bytes")
    return (number % high).to_bytes(size, scope.byteorder)


def key_of_fields(thing: MapThing, type_: CType, fields: Tree[Token], bind: Bind) -> Bytes:
    """`{1, 2}` by position, `{.a = 1}` by name; what is left out is zero."""
    names = [member.name for member in type_.members()]
    if type_.shape is not Shape.RECORD:
        raise Mistake(span_of(fields), f"the keys of {thing.spec.name} are no structs")
    parts: list[tuple[int, int, Numbers, Span]] = []
    for index, one in enumerate(fields.children):
        assert isinstance(one, Tree)
        span, tree = span_of(one), one
        if one.data == "named_field":
            name, value = str(one.children[0]), one.children[1]
            assert isinstance(value, Tree)
            tree = value
        elif index < len(names):
            name = names[index]
        else:
            raise Mistake(span, f"{type_.name} has {len(names)} members")
        found = find_member(type_, name)
        if found is None or found[0].bitfield_bits or found[2].shape not in _SCALARS:
            known = ", ".join(names)
            raise Mistake(span, f"{type_.name} has no number {name!r}", f"it has {known}")
        get = numbers(require_number(bind(tree), "is no number"))
        parts.append((found[1] // 8, found[2].size, get, span))
    size = thing.spec.key_size

    def key(scope: Scope) -> bytes:
        out = bytearray(size)
        for at, width, get, span in parts:
            out[at : at + width] = _packed(get(scope), width, scope, span)
        return bytes(out)

    return key


# --- any() and all() ------------------------------------------------------------------------------


@dataclass(slots=True)
class Cell:
    """What a name of any() or all() is just now."""

    node: Node
    data: bytes = b""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Quantified:
    """An any() or all() (`every`), and the names that it gives."""

    every: bool
    names: dict[str, Cell]


class Loops:
    """The loops of an expression. `left` is how many elements more an evaluation may look at."""

    def __init__(self) -> None:
        self.left = MAX_LOOP

    def counted(self, items: Iterator[bytes], span: Span) -> Iterator[bytes]:
        """The items, as long as there are some left."""
        for item in items:
            self.left -= 1
            if self.left < 0:
                raise Mistake(span, f"more than {MAX_LOOP:,} elements to look at")
            yield item

    def keys(self, scope: Scope, name: str, span: Span) -> Iterator[bytes]:
        """The keys of a map."""
        try:
            yield from self.counted(iter(scope.keys(name)), span)
        except Unreadable as error:
            raise Mistake(span, str(error)) from None

    def over(
        self, thing: Thing, count: int, debug: DebugInfo | None, span: Span
    ) -> tuple[list[Cell], Callable[[Scope], Iterator[bytes]]]:
        """Cells for `count` names, and what fills them with one element after the other."""
        if isinstance(thing, MapThing):
            key = _data_cell(key_type(thing, debug), span)
            if count == 1:
                return [key], self._keys_into(thing.spec.name, key, span)
            value = _data_cell(value_type(thing, debug), span)
            return [key, value], self._elements_into(thing.spec.name, key, value, span)
        if isinstance(thing, QueueThing):
            index, cqe = _number_cell(span), _data_cell(CQE, span)
            cells = [cqe] if count == 1 else [index, cqe]
            return cells, self._items_into(_cqes(thing), index, cqe, span)
        if isinstance(thing, Node) and thing.type.shape is Shape.ARRAY and thing.data is not None:
            index, item = _number_cell(span), _data_cell(thing.type.pointee(), span)
            cells = [item] if count == 1 else [index, item]
            return cells, self._items_into(_items(thing, thing.data), index, item, span)
        raise Mistake(span, "it has no elements to look at", "maps, CQs and arrays have")

    def _keys_into(self, name: str, key: Cell, span: Span) -> Callable[[Scope], Iterator[bytes]]:
        def walk(scope: Scope) -> Iterator[bytes]:
            for item in self.keys(scope, name, span):
                key.data = item
                yield item

        return walk

    def _elements_into(
        self, name: str, key: Cell, value: Cell, span: Span
    ) -> Callable[[Scope], Iterator[bytes]]:
        def walk(scope: Scope) -> Iterator[bytes]:
            for item in self.keys(scope, name, span):
                found = _asked(scope, name, item, span)
                if found is not None:
                    key.data, value.data = item, found
                    yield item

        return walk

    def _items_into(
        self, items: Callable[[Scope], Iterator[bytes]], index: Cell, item: Cell, span: Span
    ) -> Callable[[Scope], Iterator[bytes]]:
        def walk(scope: Scope) -> Iterator[bytes]:
            for at, data in enumerate(self.counted(items(scope), span)):
                index.number, item.data = at, data
                yield data

        return walk


def _cqes(queue: QueueThing) -> Callable[[Scope], Iterator[bytes]]:
    def cqes(scope: Scope) -> Iterator[bytes]:
        view, index = queue.located(scope)
        ahead = 0
        while (raw := view.cqe(index, ahead)) is not None:
            yield raw.ljust(CQE.size, b"\0")
            ahead += 1

    return cqes


def _items(node: Node, data: Bytes) -> Callable[[Scope], Iterator[bytes]]:
    size, count = node.type.pointee().size, node.type.count

    def items(scope: Scope) -> Iterator[bytes]:
        whole = data(scope)
        return (whole[at * size : (at + 1) * size] for at in range(count))

    return items


def _data_cell(type_: CType, span: Span) -> Cell:
    cell = Cell(constant(0, span))
    cell.node = in_bytes(type_, lambda _: cell.data, span)
    return cell


def _number_cell(span: Span) -> Cell:
    cell = Cell(constant(0, span))
    cell.node = computed(U64, span, lambda _: cell.number)
    return cell
