"""Types by the names that casts and sizeof give them."""

from __future__ import annotations

from difflib import get_close_matches

from lark import Tree

from pybpfvm.btf.types import BtfKind
from pybpfvm.expr.ctype import CQE, SQE, CType, ctype, integer_type
from pybpfvm.expr.mistake import Mistake
from pybpfvm.expr.parse import Node as Tree_
from pybpfvm.expr.parse import Span, span_of
from pybpfvm.source.info import DebugInfo

_KINDS = {
    "struct": (BtfKind.STRUCT,),
    "union": (BtfKind.UNION,),
    "enum": (BtfKind.ENUM, BtfKind.ENUM64),
    "": (BtfKind.TYPEDEF, BtfKind.INT),
}
_KNOWN = {"io_uring_cqe": CQE, "io_uring_sqe": SQE}


def type_of(tree: Tree_, debug: DebugInfo | None) -> CType:
    """What stands in the parentheses of a cast. Raises Mistake."""
    assert isinstance(tree, Tree)
    named, *stars = tree.children
    assert isinstance(named, Tree)
    span, words = span_of(named), [str(one) for one in named.children]
    if named.data == "words":
        found = integer_type(words)
        if found is None:
            raise Mistake(span, f"no type is called {' '.join(words)!r}", "u32 and long are")
    else:
        found = _named(str(named.data), words[0], debug, span)
    return _pointed_to(found, len(stars))


def pointer_of_name(token: Tree_, debug: DebugInfo | None) -> CType:
    """`(name *)`: a pointer to what a typedef, or a word of C, stands for."""
    inner = str(token).strip("() \t\r\n")
    name = inner.split("*", 1)[0].strip()
    found = integer_type([name]) or _named("", name, debug, span_of(token))
    return _pointed_to(found, inner.count("*"))


def _pointed_to(type_: CType, stars: int) -> CType:
    for _ in range(stars):
        type_ = type_.pointer()
    return type_


def _named(kind: str, name: str, debug: DebugInfo | None, span: Span) -> CType:
    tables = () if debug is None else debug.type_tables()
    names: set[str] = set()
    for table in tables:
        found = table.find(name, *_KINDS[kind])
        if found is not None:
            return ctype(table, found)
        names |= {table.name(one) for one in table.ids_of(*_KINDS[kind])} - {""}
    if kind == "struct" and name in _KNOWN:
        return _KNOWN[name]
    close = get_close_matches(name, names, 1)
    remedy = f"did you mean {close[0]!r}?" if close else ""
    raise Mistake(span, f"the object has no {kind or 'type'} {name}", remedy)
