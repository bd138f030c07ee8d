"""Expressions bound to where they are asked: closures with a C type.

Arithmetic is C's with an `int` of 64 bits: what is narrower keeps its value, and only operands of
64 unsigned bits (registers, addresses, u64) make an operation unsigned. Results wrap at 64 bits.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace

from pybpfvm.bits import U64 as MASK
from pybpfvm.bits import s64
from pybpfvm.expr.ctype import S64, TEXT, U64, CType, Shape
from pybpfvm.expr.mistake import Mistake
from pybpfvm.expr.parse import Span
from pybpfvm.expr.scope import Scope, Unreadable
from pybpfvm.expr.value import Value, size_or_none, value_of, wrapped

MAX_READ_BYTES = 1 << 16
Numbers = Callable[[Scope], int]
Bytes = Callable[[Scope], bytes]


@dataclass(frozen=True, slots=True)
class Node:
    """A value of `type`. `get` is of numbers and pointers, `data` of structs and arrays, `string`
    of texts. `addr` is where it lies, if it is somewhere. `sliced`: parts are cut from `data`,
    which need not lie anywhere. `constant` is a number that is known. `of_helper`: the text names
    a helper, and is compared with or without the bpf_ that C has before it."""

    type: CType
    span: Span
    get: Numbers | None = None
    data: Bytes | None = None
    string: Callable[[Scope], str] | None = None
    addr: Numbers | None = None
    sliced: bool = False
    constant: int | None = None
    of_helper: bool = False

    def value(self, scope: Scope) -> Value:
        """What it is now."""
        order = scope.byteorder
        if self.string is not None:
            return Value(TEXT, string=self.string(scope), byteorder=order, scope=scope)
        addr = None
        if self.addr is not None:
            try:
                addr = self.addr(scope)
            except Mistake:
                if not self.sliced:
                    raise
        if self.get is not None:
            return Value(self.type, int(self.get(scope)), addr=addr, byteorder=order, scope=scope)
        if self.data is None:
            raise Mistake(self.span, "this has no value", "a member or element of it may have")
        return value_of(self.type, self.data(scope), addr, order, scope)


def constant(value: int, span: Span, type_: CType | None = None) -> Node:
    """A number that is known."""
    if type_ is None:
        type_ = S64 if -(1 << 63) <= value < 1 << 63 else U64
    return Node(type_, span, get=lambda _: value, constant=value)


def computed(type_: CType, span: Span, get: Numbers) -> Node:
    """A number or pointer that lies nowhere."""
    return Node(type_, span, get=get)


def in_memory(type_: CType, addr: Numbers, span: Span, known_addr: int | None = None) -> Node:
    """What lies at an address. `known_addr`: the one that it always has."""
    size, signed = type_.size, type_.signed

    def get(scope: Scope) -> int:
        try:
            data = scope.read(addr(scope), size)
        except Unreadable as error:
            raise Mistake(span, str(error)) from None
        return int.from_bytes(data, scope.byteorder, signed=signed)

    def data(scope: Scope) -> bytes:
        if size > MAX_READ_BYTES:
            raise Mistake(span, f"{size} bytes, {MAX_READ_BYTES} at most", "take elements of it")
        try:
            return scope.read(addr(scope), size)
        except Unreadable as error:
            raise Mistake(span, str(error)) from None

    def known(scope: Scope) -> int:
        try:
            data = scope.read(known_addr or 0, size)
        except Unreadable as error:
            raise Mistake(span, str(error)) from None
        return int.from_bytes(data, scope.byteorder, signed=signed)

    if type_.shape in (Shape.NUMBER, Shape.POINTER):
        return Node(type_, span, get=get if known_addr is None else known, addr=addr)
    if type_.shape in (Shape.RECORD, Shape.ARRAY):
        return Node(type_, span, data=data, addr=addr)
    return Node(type_, span, addr=addr)


def in_bytes(type_: CType, data: Bytes, span: Span, addr: Numbers | None = None) -> Node:
    """What some bytes are, which may lie at an address."""
    if type_.shape not in (Shape.NUMBER, Shape.POINTER):
        return Node(type_, span, data=data, addr=addr, sliced=True)
    size, signed = type_.size, type_.signed

    def get(scope: Scope) -> int:
        return int.from_bytes(data(scope)[:size], scope.byteorder, signed=signed)

    return Node(type_, span, get=get, addr=addr, sliced=True)


def part(base: Node, inner: CType, offset: Numbers, span: Span) -> Node:
    """The part of a struct or array that begins at a byte offset of it."""
    addr = base.addr
    where = None if addr is None else (lambda scope: addr(scope) + offset(scope) & MASK)
    if where is not None and not base.sliced:
        return in_memory(inner, where, span)
    whole, size = base.data, inner.size
    if whole is None:
        raise Mistake(span, f"{base.type.name} has no parts")
    data = whole

    def cut(scope: Scope) -> bytes:
        start = offset(scope)
        return data(scope)[start : start + size]

    return in_bytes(inner, cut, span, where)


# --- arithmetic -----------------------------------------------------------------------------------


def numbers(node: Node) -> Numbers:
    """What gives the number that a node is known to be."""
    assert node.get is not None, f"{node.type} is no number"
    return node.get


def require_number(node: Node, what: str) -> Node:
    """The node, an array as the pointer to its first element; Mistake for what is no number."""
    if node.type.shape is Shape.ARRAY:
        return decayed(node)
    if node.get is None:
        raise Mistake(node.span, f"{node.type.shape.value} ({node.type.name}) {what}")
    return node


def decayed(node: Node) -> Node:
    """An array as the pointer to its first element."""
    if node.addr is None:
        raise Mistake(node.span, "the array lies nowhere in memory")
    return computed(node.type.pointee().pointer(), node.span, node.addr)


def truth(node: Node) -> Callable[[Scope], bool]:
    """Whether it is not zero."""
    if node.type.shape is Shape.TEXT or node.type.shape is Shape.RECORD:
        raise Mistake(node.span, f"{node.type.shape.value} is no condition", "compare it")
    get = numbers(require_number(node, "is no condition"))
    return lambda scope: get(scope) != 0


def _is_unsigned(node: Node) -> bool:
    return node.type.size == 8 and not node.type.signed


def _may_be_negative(node: Node) -> bool:
    if node.constant is not None:
        return node.constant < 0
    return node.type.signed


_BITWISE: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "&": operator.and_,
    "|": operator.or_,
    "^": operator.xor,
}
_COMPARES: dict[str, Callable[[int, int], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def binary(sign: str, left: Node, right: Node, span: Span) -> Node:
    """An arithmetic operator between two values."""
    left = require_number(left, f"can not stand beside {sign}")
    right = require_number(right, f"can not stand beside {sign}")
    if sign in "+-" and Shape.POINTER in (left.type.shape, right.type.shape):
        return _pointer_sum(sign, left, right, span)
    if sign in ("<<", ">>"):
        return _shift(sign, left, right, span)
    a, b = numbers(left), numbers(right)
    unsigned = _is_unsigned(left) or _is_unsigned(right)
    type_ = U64 if unsigned else S64
    if sign in ("/", "%"):
        return _division(sign, type_, a, b, span)
    apply = _BITWISE[sign]
    if left.constant is not None and right.constant is not None:
        result = apply(left.constant, right.constant)
        return constant(result & MASK if unsigned else s64(result), span, type_)
    if unsigned:
        return computed(type_, span, lambda scope: apply(a(scope), b(scope)) & MASK)
    return computed(type_, span, lambda scope: s64(apply(a(scope), b(scope))))


def _pointer_sum(sign: str, left: Node, right: Node, span: Span) -> Node:
    a, b = numbers(left), numbers(right)
    both = left.type.shape is right.type.shape
    if both and sign == "+":
        raise Mistake(span, "two pointers can not be added")
    if not both and left.type.shape is not Shape.POINTER and sign == "-":
        raise Mistake(span, "a pointer can not be taken from a number")
    pointer = left.type if left.type.shape is Shape.POINTER else right.type
    size = size_or_none(pointer.pointee()) or 1
    if both:
        return computed(S64, span, lambda scope: _truncated(s64(a(scope) - b(scope)), size))
    if left.type.shape is not Shape.POINTER:
        return computed(pointer, span, lambda scope: a(scope) * size + b(scope) & MASK)
    if sign == "+":
        return computed(pointer, span, lambda scope: a(scope) + b(scope) * size & MASK)
    return computed(pointer, span, lambda scope: a(scope) - b(scope) * size & MASK)


def _truncated(left: int, right: int) -> int:
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


def _division(sign: str, type_: CType, a: Numbers, b: Numbers, span: Span) -> Node:
    unsigned, remainder = not type_.signed, sign == "%"

    def divide(scope: Scope) -> int:
        left, right = a(scope), b(scope)
        if unsigned:
            left, right = left & MASK, right & MASK
        if not right:
            raise Mistake(span, "division by zero", f"ask whether it is 0 first: x && y {sign} x")
        quotient = _truncated(left, right)
        result = left - quotient * right if remainder else quotient
        return result & MASK if unsigned else s64(result)

    return computed(type_, span, divide)


def _shift(sign: str, left: Node, right: Node, span: Span) -> Node:
    a, b = numbers(left), numbers(right)
    unsigned = _is_unsigned(left)

    def shift(scope: Scope) -> int:
        value, count = a(scope), b(scope)
        if not 0 <= count < 64:
            raise Mistake(right.span, f"a shift of 64 bits by {count}", "0 to 63 is possible")
        result = value << count if sign == "<<" else value >> count
        return result & MASK if unsigned else s64(result)

    return computed(U64 if unsigned else S64, span, shift)


def compare(sign: str, left: Node, right: Node, span: Span) -> Node:
    """A comparison: 0 or 1."""
    apply = _COMPARES[sign]
    ours, theirs = _text_of(left), _text_of(right)
    if ours is not None and theirs is not None and TEXT in (left.type, right.type):
        if left.of_helper or right.of_helper:
            ours, theirs = _without_prefix(ours), _without_prefix(theirs)
        return _compare_texts(sign, ours, theirs, span)
    left = require_number(left, f"can not stand beside {sign}")
    right = require_number(right, f"can not stand beside {sign}")
    a, b, k = numbers(left), numbers(right), right.constant
    if _is_unsigned(left) or _is_unsigned(right):
        if _may_be_negative(left):
            signed = a
            a = lambda scope: signed(scope) & MASK  # noqa: E731
        if _may_be_negative(right):
            other = b
            k = None if k is None else k & MASK
            b = lambda scope: other(scope) & MASK  # noqa: E731
    if k is not None:
        return Node(S64, span, get=lambda scope: apply(a(scope), k))
    return Node(S64, span, get=lambda scope: apply(a(scope), b(scope)))


def _text_of(node: Node) -> Callable[[Scope], bytes] | None:
    """The bytes of a text, or of an array of characters up to its NUL."""
    string, data = node.string, node.data
    if string is not None:
        return lambda scope: string(scope).encode("utf-8", "surrogateescape")
    if node.type.shape is Shape.ARRAY and node.type.pointee().size == 1 and data is not None:
        return lambda scope: data(scope).split(b"\0", 1)[0]
    return None


def _without_prefix(text: Bytes) -> Bytes:
    return lambda scope: text(scope).removeprefix(b"bpf_")


def _compare_texts(sign: str, a: Bytes, b: Bytes, span: Span) -> Node:
    if sign not in ("==", "!="):
        raise Mistake(span, "texts are equal or not, and have no order", "use == or !=")
    wanted = sign == "=="
    return Node(S64, span, get=lambda scope: (a(scope) == b(scope)) is wanted)


def converted(node: Node, type_: CType, span: Span) -> Node:
    """A cast to a number or pointer."""
    source = require_number(node, "can not be cast")
    get = numbers(source)
    bits, signed = 8 * type_.size, type_.signed
    if type_.is_bool():
        if source.constant is not None:
            return constant(int(source.constant != 0), span, type_)
        return computed(type_, span, lambda scope: int(get(scope) != 0))
    if source.constant is not None:
        return constant(wrapped(source.constant, bits, signed), span, type_)
    if type_.size == 8 and not signed:
        return computed(type_, span, lambda scope: get(scope) & MASK)
    return computed(type_, span, lambda scope: wrapped(get(scope), bits, signed))


def elsewhere(node: Node, span: Span) -> Node:
    """The same as another part of the text."""
    return replace(node, span=span)
