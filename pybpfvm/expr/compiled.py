"""An expression that is parsed once and asked often."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lark import Token, Tree

from pybpfvm.expr.bind import Binder
from pybpfvm.expr.ctype import Shape
from pybpfvm.expr.elements import MAX_LOOP, Loops, Quantified
from pybpfvm.expr.mistake import Mistake
from pybpfvm.expr.node import Node, truth
from pybpfvm.expr.parse import Node as Tree_
from pybpfvm.expr.parse import parse, span_of
from pybpfvm.expr.scope import Scope
from pybpfvm.expr.value import Value

MAX_PLACES = 4096  # pcs whose names are kept resolved
MAX_PARTS = 24
_LITERALS = frozenset({"number", "character", "string", "size_of_type", "size_of_named"})
_LOGIC = frozenset({"or_", "and_", "not_", "conditional"})


@dataclass(frozen=True, slots=True)
class _Bound:
    """The expression at one place of a program."""

    node: Node
    holds: Callable[[Scope], bool] | None  # None: it is no condition
    needs_regs: bool
    depends: frozenset[str]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an expression, and what it is (or why it is nothing)."""

    text: str
    value: str

    def __str__(self) -> str:
        return f"{self.text} = {self.value}"


class Compiled:
    """One expression, for one scope: its names are resolved once for each pc it is asked at.

    `text` is as it was given, `format` its format letter or "". `needs` says what must be there
    for it to have a value: "regs", "cqe", "sqe", "helper" and "ret"; `looks` at what it looks
    besides: "ring", and "memory" of programs, of the user or in maps.
    """

    def __init__(self, text: str, scope: Scope) -> None:
        self.text = text
        self._loops = Loops()
        self._bound: dict[tuple[str, int] | None, _Bound] = {}
        try:
            self._tree, self.format = parse(text)
            binder = self._bind(scope)
        except Mistake as mistake:
            raise mistake.of(text) from None
        self.needs, self.looks = frozenset(binder.needs), frozenset(binder.looks)

    def __repr__(self) -> str:
        return f"<Compiled {self.text!r}>"

    def evaluate(self, scope: Scope) -> Value:
        """What it is now. Raises ExpressionError."""
        try:
            bound = self._at(scope)
            self._loops.left = MAX_LOOP
            return bound.node.value(scope)
        except Mistake as mistake:
            raise mistake.of(self.text) from None

    def holds(self, scope: Scope) -> bool:
        """Whether it is not zero now. Raises ExpressionError, also where it can be no condition."""
        try:
            bound = self._at(scope)
            if bound.holds is None:
                truth(bound.node)
                raise AssertionError("a condition that is none")
            self._loops.left = MAX_LOOP
            return bound.holds(scope)
        except Mistake as mistake:
            raise mistake.of(self.text) from None

    def depends(self, scope: Scope) -> frozenset[str]:
        """What its value at the scope's pc is of, and of nothing else: of `needs` and `looks`.
        Raises ExpressionError where its names stand for nothing."""
        try:
            bound = self._bound_at(scope)
        except Mistake as mistake:
            raise mistake.of(self.text) from None
        return bound.depends

    def check_condition(self) -> None:
        """Raise ExpressionError if it can be no condition: a struct, a text."""
        for bound in self._bound.values():
            try:
                truth(bound.node)
            except Mistake as mistake:
                raise mistake.of(self.text) from None

    def text_of(self, scope: Scope) -> str:
        """Its value, as its format letter or its type says."""
        return self.evaluate(scope).text(self.format)

    def parts(self, scope: Scope) -> tuple[Part, ...]:
        """What it compares, with values: what a failed condition is explained by."""
        found: dict[str, Part] = {}
        for tree in self._leaves(self._tree):
            if len(found) == MAX_PARTS:
                break
            part = self._part(tree, scope)
            found.setdefault(part.text, part)
        return tuple(found.values())

    # --- places -----------------------------------------------------------------------------------

    def _bound_at(self, scope: Scope) -> _Bound:
        program = scope.program
        key = None if program is None else (program.name, scope.pc)
        bound = self._bound.get(key)
        if bound is None:
            self._bind(scope)
            bound = self._bound[key]
        return bound

    def _at(self, scope: Scope) -> _Bound:
        bound = self._bound_at(scope)
        if bound.needs_regs and scope.regs is None:
            start, end = span_of(self._tree)
            raise Mistake(
                (start, end), "there are no registers here", "only a program that runs has some"
            )
        return bound

    def _bind(self, scope: Scope) -> Binder:
        binder = Binder(scope, self._loops)
        node = binder.node(self._tree)
        condition = None
        if node.type.shape in (Shape.NUMBER, Shape.POINTER, Shape.ARRAY):
            try:
                condition = truth(node)
            except Mistake:
                condition = None
        if len(self._bound) >= MAX_PLACES:
            self._bound.clear()
        program = scope.program
        key = None if program is None else (program.name, scope.pc)
        depends = frozenset(binder.needs | binder.looks)
        self._bound[key] = _Bound(node, condition, "regs" in binder.needs, depends)
        return binder

    # --- parts ------------------------------------------------------------------------------------

    def _leaves(self, tree: Tree_) -> Iterator[Tree[Token]]:
        """What stands between logic and comparisons, literals left out."""
        if not isinstance(tree, Tree) or tree.data in _LITERALS:
            return
        if tree.data in _LOGIC:
            for child in tree.children:
                yield from self._leaves(child)
        elif tree.data == "compare":
            for child in (tree.children[0], tree.children[2]):
                yield from self._leaves(child)
        elif tree.data == "contains":
            yield from self._leaves(tree.children[0])
        else:
            yield tree

    def _part(self, tree: Tree[Token], scope: Scope) -> Part:
        start, end = span_of(tree)
        text = " ".join(self.text[start:end].split())
        binder = Binder(scope, self._loops)
        try:
            node = binder.node(tree)
            self._loops.left = MAX_LOOP
            value = node.value(scope)
            shown = value.text(self.format)
            quantified = binder.quantified.get(id(tree))
            if quantified is not None:
                shown = _of_quantified(quantified, value, scope)
        except Mistake as mistake:
            return Part(text, f"({mistake.reason})")
        return Part(text, shown)


def _of_quantified(one: Quantified, value: Value, scope: Scope) -> str:
    """false, with the element that decided if one did."""
    answer = "true" if value.number else "false"
    if bool(value.number) is one.every:
        return answer
    given = (f"{name} = {cell.node.value(scope).text()}" for name, cell in one.names.items())
    return f"{answer} for {', '.join(given)}"


def compile_expression(text: str, scope: Scope) -> Compiled:
    """The expression in `text`, for `scope`. Raises ExpressionError for what is none, and for names
    that stand for nothing at the scope's pc."""
    return Compiled(text, scope)
