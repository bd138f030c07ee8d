"""What is inside of values, and behind pointers."""

from __future__ import annotations

from difflib import get_close_matches
from itertools import chain, islice

from pybpfvm.bits import U64 as MASK
from pybpfvm.btf.types import Member
from pybpfvm.expr.ctype import CType, Shape, ctype
from pybpfvm.expr.mistake import Mistake
from pybpfvm.expr.node import (
    Node,
    Numbers,
    computed,
    in_memory,
    numbers,
    part,
    require_number,
)
from pybpfvm.expr.parse import Span
from pybpfvm.expr.scope import Scope
from pybpfvm.expr.value import bitfield, size_or_none, wrapped

_MOST_NAMES = 200
_SHOWN_NAMES = 12
_MAX_ANONYMOUS = 8  # anonymous structs in one another


def pointed(pointer: Node, span: Span, remedy: str, offset: Numbers | None = None) -> Node:
    """What a pointer points to, or the element `offset` behind it. Mistake for a number, which
    points to nothing in particular: `remedy` says how to cast it."""
    pointer = require_number(pointer, "points to nothing")
    if pointer.type.shape is not Shape.POINTER:
        raise Mistake(span, "a number points to nothing in particular", remedy)
    target, start = pointer.type.pointee(), numbers(pointer)
    if target.shape is Shape.NOTHING:
        what = f"what a {pointer.type.name} points to has no value"
        raise Mistake(span, what, "cast the pointer: *(u32 *)p")
    if offset is None:
        return in_memory(target, start, span)
    size, index = size_or_none(target) or 1, offset
    return in_memory(target, lambda scope: start(scope) + index(scope) * size & MASK, span)


def member_of(base: Node, name: str, span: Span) -> Node:
    """A member of a struct or union, also of an anonymous one inside."""
    found = find_member(base.type, name)
    if found is None:
        known = _member_names(base.type)
        close = get_close_matches(name, known, 1)
        shown = ", ".join(known[:_SHOWN_NAMES])
        remedy = f"did you mean {close[0]!r}?" if close else f"it has {shown}" if known else ""
        raise Mistake(span, f"{base.type.name} has no member {name!r}", remedy)
    member, bit_offset, inner = found
    if member.bitfield_bits:
        return _bitfield(base, bit_offset, member.bitfield_bits, inner, span)
    at = bit_offset // 8
    return part(base, inner, lambda _: at, span)


def _bitfield(base: Node, offset: int, bits: int, inner: CType, span: Span) -> Node:
    data, signed = base.data, inner.signed
    if data is None:
        raise Mistake(span, "it has no value")
    return computed(
        inner,
        span,
        lambda scope: wrapped(bitfield(data(scope), offset, bits, scope.byteorder), bits, signed),
    )


def element_of(base: Node, at: Numbers, span: Span) -> Node:
    """An element of an array, whose bounds are kept to where it has some."""
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


def find_member(
    type_: CType, name: str, base: int = 0, depth: int = 0
) -> tuple[Member, int, CType] | None:
    """(member, bit offset, type) of a member, also of an anonymous struct inside."""
    if type_.shape is not Shape.RECORD or depth > _MAX_ANONYMOUS:
        return None
    for member in type_.members():
        inner = ctype(type_.btf, member.type_id)
        if member.name == name:
            return member, base + member.bit_offset, inner
        if not member.name:
            found = find_member(inner, name, base + member.bit_offset, depth + 1)
            if found is not None:
                return found
    return None


def _member_names(type_: CType, depth: int = 0) -> list[str]:
    if type_.shape is not Shape.RECORD or depth > _MAX_ANONYMOUS:
        return []
    names = (
        [one.name] if one.name else _member_names(ctype(type_.btf, one.type_id), depth + 1)
        for one in type_.members()
    )
    return list(islice(chain.from_iterable(names), _MOST_NAMES))
