"""Where numbers and pointers of a path came from, as far as the lints of loops must know.

The verifier forgets the history of a number of which nothing is known, and heads and tails of
rings are such numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

Place = tuple[int, int]  # frame, and a register (0 to 10) or an offset on the stack (below 0)


@dataclass(frozen=True, slots=True)
class Value:
    """What the instruction at `root` gave last, plus `off`. `via`: the additions on the way."""

    root: int
    off: int = 0
    via: frozenset[int] = frozenset()

    def same_root(self, other: Value | None) -> bool:
        """Whether both are the same value but for a constant."""
        return other is not None and self.root == other.root


@dataclass(frozen=True, slots=True)
class Values:
    """What is known of each place; and `published`, the CQ's head as memory has it."""

    at: Mapping[Place, Value] = field(default_factory=dict)
    published: Value | None = None

    def get(self, place: Place) -> Value | None:
        """What the place holds, None if that is not known."""
        return self.at.get(place)

    def put(self, place: Place, value: Value | None) -> Values:
        """The place holds this now; None: nothing that is known."""
        if self.at.get(place) == value:
            return self
        kept = {other: one for other, one in self.at.items() if other != place}
        if value is not None:
            kept[place] = value
        return replace(self, at=kept)

    def made(self, place: Place, pc: int) -> Values:
        """The instruction at `pc` gave the place a new value: what it gave before has no name any
        more."""
        kept = {other: one for other, one in self.at.items() if other != place and one.root != pc}
        kept[place] = Value(pc)
        published = self.published
        if published is not None and published.root == pc:
            published = None
        return Values(kept, published)

    def added(self, place: Place, number: int, pc: int) -> Values:
        """The instruction at `pc` added a number. The second time on a path makes a new value, or
        loops would make them without end."""
        value = self.at.get(place)
        if value is None:
            return self
        if pc in value.via or pc == value.root:
            return self.made(place, pc)
        return self.put(place, Value(value.root, value.off + number, value.via | {pc}))

    def without(self, frame: int, numbers: range) -> Values:
        """What is left when these registers, or bytes of the stack, have been overwritten."""
        kept = {
            other: one
            for other, one in self.at.items()
            if other[0] != frame or other[1] not in numbers
        }
        return self if len(kept) == len(self.at) else replace(self, at=kept)

    def ended(self, frame: int, *, called: bool) -> Values:
        """The frame ends; `called`: its result goes to r0 of who called it."""
        result = self.at.get((frame, 0))
        kept = {other: one for other, one in self.at.items() if other[0] < frame}
        left = replace(self, at=kept)
        return left.put((frame - 1, 0), result) if called else left


NOTHING_KNOWN = Values()
