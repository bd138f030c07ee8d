"""An expression's tree becomes closures, for a scope and a place in a program."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from lark import Token, Tree

from pybpfvm.bits import U64 as MASK
from pybpfvm.expr.ctype import S64, TEXT, U64, CType, Shape
from pybpfvm.expr.elements import (
    Cell,
    Loops,
    Quantified,
    contains,
    element,
    key_of,
    key_of_fields,
    key_type,
    value_type,
)
from pybpfvm.expr.literals import character, number, string
from pybpfvm.expr.members import element_of, member_of, pointed
from pybpfvm.expr.mistake import Mistake
from pybpfvm.expr.node import (
    Node,
    binary,
    compare,
    computed,
    constant,
    converted,
    elsewhere,
    numbers,
    require_number,
    truth,
)
from pybpfvm.expr.parse import Node as Tree_
from pybpfvm.expr.parse import Span, span_of
from pybpfvm.expr.resolver import FUNCTIONS, Resolver
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
from pybpfvm.expr.scope import CQ_FIELDS, RING_FIELDS, SQ_FIELDS, Scope
from pybpfvm.expr.typenames import pointer_of_name, type_of
from pybpfvm.expr.value import size_or_none


@dataclass(slots=True)
class Binder:
    """`scope` is asked for names now, never for values. `needs`: what must be there for a value:
    "regs", "cqe", "sqe", "helper", "ret". `looks`: at what it looks besides, "ring" and "memory".
    `quantified` are the any() and all(), by their tree."""

    scope: Scope
    loops: Loops
    needs: set[str] = field(default_factory=set)
    looks: set[str] = field(default_factory=set)
    quantified: dict[int, Quantified] = field(default_factory=dict)
    _given: list[Mapping[str, Cell]] = field(default_factory=list)
    _names: Resolver = field(init=False)

    def __post_init__(self) -> None:
        self._names = Resolver(self.scope, self.needs, self.looks)

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
        return number(str(tree.children[0]), span)

    def _character(self, tree: Tree[Token], span: Span) -> Node:
        return character(str(tree.children[0]), span)

    def _string(self, tree: Tree[Token], span: Span) -> Node:
        text = string(str(tree.children[0]), span).decode("utf-8", "surrogateescape")
        return Node(TEXT, span, string=lambda _: text)

    def _name(self, tree: Tree[Token], span: Span) -> Thing:
        name = str(tree.children[0])
        for given in reversed(self._given):
            if name in given:
                return elsewhere(given[name].node, span)
        return self._names.find(name, span)

    def _machine(self, tree: Tree[Token], span: Span) -> Thing:
        return self._names.machine(str(tree.children[0])[1:], span)

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
        first = require_number(first, "can not stand here")
        second = require_number(second, "can not stand here")
        a, b = numbers(first), numbers(second)
        kinds = {first.type.shape, second.type.shape}
        type_ = first.type if Shape.POINTER in kinds or first.type == second.type else S64
        if U64 in (first.type, second.type) and Shape.POINTER not in kinds:
            return computed(U64, span, lambda scope: (a if asked(scope) else b)(scope) & MASK)
        return computed(type_, span, lambda scope: (a if asked(scope) else b)(scope))

    def _deref(self, tree: Tree[Token], span: Span) -> Node:
        self.looks.add("memory")
        return pointed(self.node(tree.children[-1]), span, "say to what: *(u64 *)r1")

    def _address(self, tree: Tree[Token], span: Span) -> Node:
        inner = self.node(tree.children[-1])
        if inner.addr is None:
            raise Mistake(span, "it lies nowhere in memory")
        return computed(inner.type.pointer(), span, inner.addr)

    def _cast(self, tree: Tree[Token], span: Span) -> Node:
        return self._cast_to(
            type_of(tree.children[0], self.scope.debug), self.node(tree.children[1]), span
        )

    def _named_cast(self, tree: Tree[Token], span: Span) -> Node:
        type_ = pointer_of_name(tree.children[0], self.scope.debug)
        return self._cast_to(type_, self.node(tree.children[1]), span)

    def _cast_to(self, type_: CType, inner: Node, span: Span) -> Node:
        if type_.shape not in (Shape.NUMBER, Shape.POINTER):
            raise Mistake(
                span, f"nothing can be cast to {type_.name}", "cast to an integer or a pointer"
            )
        return converted(inner, type_, span)

    def _size_of_value(self, tree: Tree[Token], span: Span) -> Node:
        return self._size_of(self.node(tree.children[0]).type, span)

    def _size_of_type(self, tree: Tree[Token], span: Span) -> Node:
        return self._size_of(type_of(tree.children[0], self.scope.debug), span)

    def _size_of_named(self, tree: Tree[Token], span: Span) -> Node:
        return self._size_of(pointer_of_name(tree.children[0], self.scope.debug), span)

    def _size_of(self, type_: CType, span: Span) -> Node:
        size = size_or_none(type_)
        if size is None:
            raise Mistake(span, f"{type_.name} has no size")
        return constant(size, span, U64)

    # --- parts ----------------------------------------------------------------------------------

    def _member(self, tree: Tree[Token], span: Span) -> Thing:
        base, name = self.thing(tree.children[0]), str(tree.children[1])
        if isinstance(base, Node):
            if base.type.shape is Shape.POINTER:
                raise Mistake(span, "a pointer has no members", f"what it points to has: ->{name}")
            return member_of(base, name, span)
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
        self.looks.add("memory")
        target = pointed(pointer, span, "cast it: ((struct x *)r1)->field")
        return member_of(target, name, span)

    def _index(self, tree: Tree[Token], span: Span) -> Thing:
        base, inner = self.thing(tree.children[0]), tree.children[1]
        if isinstance(base, MapThing):
            key = key_of(base, inner, self.node)
            return element(base, value_type(base, self.scope.debug), key, span)
        at = numbers(require_number(self.node(inner), "is no index"))
        if isinstance(base, QueuesThing):
            return QueueThing(base.ring, at, span)
        if isinstance(base, QueueThing):
            return base.cqe(at, span)
        if not isinstance(base, Node):
            raise Mistake(span, f"{KINDS[type(base)]} has no elements", REMEDIES[type(base)])
        if base.type.shape is Shape.ARRAY:
            return element_of(base, at, span)
        self.looks.add("memory")
        return pointed(base, span, "cast it: ((u32 *)r1)[0]", at)

    def _index_fields(self, tree: Tree[Token], span: Span) -> Thing:
        base, fields = self.thing(tree.children[0]), tree.children[1]
        if not isinstance(base, MapThing):
            raise Mistake(span, "only the key of a map is written in braces")
        assert isinstance(fields, Tree)
        debug = self.scope.debug
        key = key_of_fields(base, key_type(base, debug), fields, self.node)
        return element(base, value_type(base, debug), key, span)

    def _contains(self, tree: Tree[Token], span: Span) -> Node:
        thing = self.thing(tree.children[1])
        if not isinstance(thing, MapThing):
            raise Mistake(span_of(tree.children[1]), "only maps have keys")
        return contains(thing, key_of(thing, tree.children[0], self.node), span)

    # --- functions --------------------------------------------------------------------------------

    def _call(self, tree: Tree[Token], span: Span) -> Thing:
        name, arguments = str(tree.children[0]), tree.children[1]
        given = list(arguments.children) if isinstance(arguments, Tree) else []
        if name not in FUNCTIONS or name in ("any", "all"):
            close = get_close_matches(name, FUNCTIONS, 1)
            remedy = f"did you mean {close[0]}?" if close else f"there are {', '.join(FUNCTIONS)}"
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
        word = string(str(text.children[0]), span_of(text)).decode("utf-8", "replace")
        if name in ("runs", "ring"):
            self.looks.add("ring")
            return RingThing(span).runs(word, span) if name == "runs" else RingThing(span, word)
        found = self._names.block(word, span) if name == "block" else self._names.map(word, span)
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
            name, loops = thing.spec.name, self.loops
            return computed(U64, span, lambda scope: sum(1 for _ in loops.keys(scope, name, span)))
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
        debug, place = self.scope.debug, span_of(source)
        cells, items = self.loops.over(self.thing(source), len(names), debug, place)
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
