"""Text to the tree that `expr.lark` describes, within bounds."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken

from pybpfvm.expr.mistake import Mistake
from pybpfvm.expr.value import FORMATS

MAX_CHARS = 4096
MAX_DEPTH = 100  # operators inside one another; a sum of 100 terms has so many

Node = Tree[Token] | Token
Span = tuple[int, int]

_FORMAT = re.compile(rf"\s*/([{FORMATS}])(?=[\s(])")
_SLASH = re.compile(r"\s*/(\w*)")
_ASSIGNMENT = "a condition compares with ==; nothing can be assigned"


def parse(text: str) -> tuple[Tree[Token], str]:
    """(tree, format letter or ""). Raises Mistake."""
    if len(text) > MAX_CHARS:
        raise Mistake((0, 1), f"{len(text)} characters, {MAX_CHARS} at most")
    if not text.strip():
        raise Mistake((0, 1), "an expression is needed", "e.g. r0 != 0, or cq[0].ready > 1")
    format_, begin = "", 0
    found = _FORMAT.match(text)
    if found is not None:
        format_, begin = found[1], found.end()
    elif (slash := _SLASH.match(text)) is not None:
        raise Mistake(
            slash.span(), f"no format is called {slash[1]!r}", f"one of {' '.join(FORMATS)}: /x r0"
        )
    try:
        tree = _parser().parse(" " * begin + text[begin:])
    except UnexpectedInput as error:
        raise _mistake(error, text) from None
    _check_depth(tree)
    inner = tree.children[0]
    if isinstance(inner, Token):
        raise AssertionError(f"a bare token: {inner!r}")
    return inner, format_


@cache
def _parser() -> Lark:
    grammar = Path(__file__).with_name("expr.lark").read_text()
    return Lark(grammar, parser="lalr", propagate_positions=True, maybe_placeholders=True)


def span_of(node: Node) -> Span:
    """The characters [start, end) that a node is of."""
    if isinstance(node, Token):
        return node.start_pos or 0, node.end_pos or 0
    return getattr(node.meta, "start_pos", 0), getattr(node.meta, "end_pos", 0)


def _check_depth(tree: Tree[Token]) -> None:
    level: list[Node] = [tree]
    for _ in range(MAX_DEPTH + 1):
        level = [child for node in level if isinstance(node, Tree) for child in node.children]
        if not level:
            return
    deepest = next((one for one in level if one is not None), tree)
    raise Mistake(
        span_of(deepest), f"operators nested more than {MAX_DEPTH} deep", "split the expression"
    )


def _mistake(error: UnexpectedInput, text: str) -> Mistake:
    end = len(text.rstrip())
    if isinstance(error, UnexpectedEOF) or (
        isinstance(error, UnexpectedToken) and error.token.type == "$END"
    ):
        return Mistake((end, end + 1), "the expression ends too early", _opened(text))
    start = error.pos_in_stream or 0
    if isinstance(error, UnexpectedToken):
        token = error.token
        return Mistake(
            (start, start + max(len(token), 1)), f"{str(token)!r} can not stand here", _hint(token)
        )
    assert isinstance(error, UnexpectedCharacters)
    found = text[start : start + 1]
    remedy = {"'": "a character is 'a' or '\\n'", '"': "the text has no end"}.get(found, "")
    if found == "=":
        remedy = _ASSIGNMENT
    return Mistake((start, start + 1), f"{found!r} can not stand here", remedy)


def _hint(token: Token) -> str:
    if token == "=":
        return _ASSIGNMENT
    if token.type in ("NAME", "NUMBER", "CHARACTER", "STRING", "MACHINE"):
        return "an operator is missing before it"
    return ""


def _opened(text: str) -> str:
    for opening, closing in ("()", "[]", "{}"):
        if text.count(opening) > text.count(closing):
            return f"{closing!r} is missing"
    return ""
