"""Variables as a tree that clients unfold: each node that has something inside gets a number, good
until the next move."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pybpfvm.expr.ctype import Shape
from pybpfvm.expr.value import MAX_TEXT, Value

MOST = 10_000  # children that are told at once


@dataclass(frozen=True, slots=True)
class Shown:
    """A variable. `inside` gives what it consists of, of which there are `count`, by number where
    `indexed`. `memory` is an address that it is of or leads to, `place` the (address, bytes) that
    it lies in, `evaluate` an expression for it."""

    name: str
    value: str
    type: str = ""
    inside: Callable[[], Iterator[Shown]] | None = None
    count: int = 0
    indexed: bool = False
    memory: int | None = None
    place: tuple[int, int] | None = None
    evaluate: str = ""
    kind: str = "data"


class Tree:
    """The variables that a client was told of."""

    def __init__(self) -> None:
        self._nodes: dict[int, Shown] = {}
        self._next = 1

    def clear(self) -> None:
        """Numbers given until now stand for nothing any more, and are not given again."""
        self._nodes.clear()

    def reference(self, node: Shown) -> int:
        """A number for what is inside of it; 0 if nothing is."""
        if node.inside is None:
            return 0
        number, self._next = self._next, self._next + 1
        self._nodes[number] = node
        return number

    def node(self, reference: int) -> Shown | None:
        """What a number stands for."""
        return self._nodes.get(reference)

    def child(self, reference: int, name: str) -> Shown | None:
        """What is called so inside of a node."""
        node = self._nodes.get(reference)
        if node is None or node.inside is None:
            return None
        return next((one for one in node.inside() if one.name == name), None)

    def children(self, node: Shown, start: int, count: int, hexadecimal: bool) -> list[Any]:
        """What is inside of a node, `count` (0: all) from number `start` on."""
        assert node.inside is not None
        most = min(count or MOST, MOST)
        return [
            self.message(one, hexadecimal)
            for one in islice(node.inside(), max(start, 0), max(start, 0) + most)
        ]

    def message(self, node: Shown, hexadecimal: bool = False) -> dict[str, Any]:
        """The variable as messages hold it."""
        found: dict[str, Any] = {
            "name": node.name,
            "value": _in_hex(node.value) if hexadecimal else node.value,
            "variablesReference": self.reference(node),
            "presentationHint": {"kind": node.kind, "attributes": ["readOnly"]},
        }
        if node.type:
            found["type"] = node.type
        if node.evaluate:
            found["evaluateName"] = node.evaluate
        if node.inside is not None and node.count:
            found["indexedVariables" if node.indexed else "namedVariables"] = node.count
        if node.memory is not None:
            found["memoryReference"] = f"{node.memory:#x}"
        return found


def _in_hex(text: str) -> str:
    """A decimal number in hexadecimal; anything else as it is."""
    sign = text[:1] == "-"
    digits = text[sign:]
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
        return text
    return f"{'-' if sign else ''}{int(digits):#x}"


def of_value(name: str, value: Value, evaluate: str = "", format: str = "") -> Shown:
    """A variable for what an expression came to; structs and arrays can be unfolded, and so can
    what pointers point to."""
    inside: Callable[[], Iterator[Shown]] | None = None
    count = 0
    shape = value.type.shape
    if shape is Shape.RECORD:
        count = len(value.type.members())
        inside = lambda: _members(value, evaluate, format)  # noqa: E731
    elif shape is Shape.ARRAY:
        count = value.type.count
        inside = lambda: _members(value, evaluate, format)  # noqa: E731
    memory = value.number if shape is Shape.POINTER else value.addr
    return Shown(
        name,
        value.text(format)[:MAX_TEXT],
        _type_name(value),
        inside if count else None,
        count,
        shape is Shape.ARRAY,
        memory or None,
        None if value.addr is None else (value.addr, value.type.size),
        evaluate,
    )


def _type_name(value: Value) -> str:
    name = value.type.name
    return f"{name}[{value.type.count}]" if value.type.shape is Shape.ARRAY else name


def _members(value: Value, evaluate: str, format: str) -> Iterator[Shown]:
    record = value.type.shape is Shape.RECORD
    for number, (name, child) in enumerate(value.children()):
        path = ""
        if evaluate and name:
            path = f"({evaluate}).{name}" if record else f"({evaluate}){name}"
        yield of_value(name or f"(unnamed {number})", child, path, format)


def text_rows(data: bytes, addr: int) -> Iterator[Shown]:
    """Bytes, 16 to a row."""
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield Shown(
            f"+{at:#x}", f"{row.hex(' ')}  {text}", memory=addr + at, place=(addr + at, len(row))
        )


def group(name: str, children: Sequence[Shown], value: str = "") -> Shown:
    """A node of those."""
    return Shown(
        name,
        value,
        inside=(lambda: iter(children)) if children else None,
        count=len(children),
        kind="virtual",
    )
