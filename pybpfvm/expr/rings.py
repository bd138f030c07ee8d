"""What stands for a ring, its queues and maps in an expression: no values, but made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pybpfvm.bits import U32
from pybpfvm.expr.ctype import CQE, U64
from pybpfvm.expr.mistake import Mistake
from pybpfvm.expr.node import Node, Numbers, computed, in_bytes
from pybpfvm.expr.parse import Span
from pybpfvm.expr.scope import CQ_FIELDS, RING_FIELDS, SQ_FIELDS, RingView, Scope, Unreadable
from pybpfvm.program import MapSpec

_CQE_BYTES = CQE.size


@dataclass(frozen=True, slots=True)
class RingThing:
    """A ring: the first one, or that called `name`."""

    span: Span
    name: str | None = None

    @property
    def view(self) -> Callable[[Scope], RingView]:
        """Which it is now."""
        name, span = self.name, self.span

        def first(scope: Scope) -> RingView:
            for ring in scope.rings.values():
                return ring
            raise Mistake(span, "there is no ring here")

        def named(scope: Scope) -> RingView:
            ring = scope.rings.get(name or "")
            if ring is None:
                known = ", ".join(scope.rings) or "there is none"
                raise Mistake(span, f"no ring is called {name!r}", f"rings: {known}")
            return ring

        return first if name is None else named

    def word(self, field: str, span: Span) -> Node:
        """One of RING_FIELDS."""
        view = self.view
        return _told(span, lambda scope: view(scope).word(field))

    def runs(self, program: str, span: Span) -> Node:
        """How often a program ran."""
        view = self.view

        def get(scope: Scope) -> int:
            count = view(scope).runs(program)
            if count is None:
                raise Mistake(span, f"no program of the ring is called {program!r}")
            return count

        return computed(U64, span, get)


@dataclass(frozen=True, slots=True)
class QueuesThing:
    """All CQs of a ring."""

    ring: RingThing
    span: Span


@dataclass(frozen=True, slots=True)
class QueueThing:
    """One CQ of a ring."""

    ring: RingThing
    index: Numbers
    span: Span

    def located(self, scope: Scope) -> tuple[RingView, int]:
        """The ring and the CQ's number; Mistake if it has no such CQ."""
        view, index = self.ring.view(scope), self.index(scope)
        count = view.cqs()
        if not 0 <= index < count:
            having = "CQ 0 only" if count == 1 else f"CQs 0 to {count - 1}"
            raise Mistake(self.span, f"CQ {index} of a ring that has {having}")
        return view, index

    def field(self, name: str, span: Span) -> Node:
        """One of CQ_FIELDS."""
        located = self.located

        def get(scope: Scope) -> int:
            view, index = located(scope)
            return view.cq(index, name)

        return _told(span, get)

    def cqe(self, ahead: Numbers, span: Span) -> Node:
        """The CQE so many places behind the oldest."""
        located = self.located

        def data(scope: Scope) -> bytes:
            (view, index), places = located(scope), ahead(scope)
            found = view.cqe(index, places) if 0 <= places <= U32 else None
            if found is None:
                held = view.cq(index, "ready")
                raise Mistake(span, f"CQE {places} of CQ {index}, which holds {held}")
            return found.ljust(_CQE_BYTES, b"\0")

        return in_bytes(CQE, data, span)


@dataclass(frozen=True, slots=True)
class SqThing:
    """The SQ of a ring."""

    ring: RingThing
    span: Span

    def field(self, name: str, span: Span) -> Node:
        """One of SQ_FIELDS."""
        view = self.ring.view
        return _told(span, lambda scope: view(scope).sq(name))


def _told(span: Span, ask: Callable[[Scope], int]) -> Node:
    """What a ring says of itself; what it does not say is a Mistake."""

    def get(scope: Scope) -> int:
        try:
            return ask(scope)
        except Unreadable as error:
            raise Mistake(span, str(error)) from None

    return computed(U64, span, get)


@dataclass(frozen=True, slots=True)
class MapThing:
    """A map of the object."""

    spec: MapSpec
    span: Span


Thing = Node | RingThing | QueuesThing | QueueThing | SqThing | MapThing

REMEDIES: dict[type[object], str] = {
    RingThing: f"one of {', '.join(RING_FIELDS)}, cq and sq of it has one",
    QueuesThing: "one of them is cq[0]",
    QueueThing: f"{', '.join(f'.{name}' for name in CQ_FIELDS)} of it have one",
    SqThing: f"{', '.join(f'.{name}' for name in SQ_FIELDS)} of it have one",
    MapThing: "an element has one: name[key]; or len(name)",
}
KINDS: dict[type[object], str] = {
    RingThing: "a ring",
    QueuesThing: "all CQs of the ring",
    QueueThing: "a CQ",
    SqThing: "the SQ",
    MapThing: "a map",
}
