"""What was stored on the stack, store by store.

The verifier's own stack forgets small numbers that are not stored at a multiple of 8 bytes, as
the kernel's does: nothing unsafe hangs on them. Most fields of an SQE are such numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from pybpfvm.verifier.states.regstate import Reg, RegType


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """`size` bytes at r10 + `off` of frame number `frame` are the low ones of `reg`."""

    frame: int
    off: int
    size: int
    reg: Reg

    def same_as(self, other: Stored) -> bool:
        """Whether both stand for one number, or neither for one that is known."""
        return (self.frame, self.off, self.size) == (other.frame, other.off, other.size) and (
            self.reg.var.mask == other.reg.var.mask
            and (bool(self.reg.var.mask) or self.reg.var.value == other.reg.var.value)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Stores:
    """All that is known, newest first: where two overlap, the newer one counts."""

    all: tuple[Stored, ...] = ()

    def with_(self, new: Stored) -> Stores:
        """After one more store."""
        end = new.off + new.size
        kept = tuple(
            one
            for one in self.all
            if one.frame != new.frame or one.off < new.off or one.off + one.size > end
        )
        return Stores((new, *kept))

    def unknown(self, frame: int) -> Stores:
        """After a store anywhere in the frame."""
        return Stores(tuple(one for one in self.all if one.frame != frame))

    def above(self, frame: int) -> Stores:
        """What is left when the frame with this number ends."""
        kept = tuple(one for one in self.all if one.frame < frame)
        return self if len(kept) == len(self.all) else Stores(kept)

    def same_as(self, other: Stores) -> bool:
        """Whether both tell the same."""
        return self is other or (
            len(self.all) == len(other.all)
            and all(one.same_as(new) for one, new in zip(self.all, other.all, strict=True))
        )

    def number(self, frame: int, off: int, size: int) -> Reg | None:
        """The number that was stored as exactly these bytes."""
        for one in self.all:
            if one.frame == frame and one.off < off + size and off < one.off + one.size:
                exact = (one.off, one.size) == (off, size)
                return one.reg if exact and one.reg.type is RegType.SCALAR_VALUE else None
        return None

    def value(self, frame: int, off: int, size: int) -> int | None:
        """What is in these bytes, little-endian; None if some of it is not known."""
        result = 0
        for at in range(off, off + size):
            byte = self._byte(frame, at)
            if byte is None:
                return None
            result |= byte << (8 * (at - off))
        return result

    def _byte(self, frame: int, at: int) -> int | None:
        for one in self.all:
            if one.frame == frame and one.off <= at < one.off + one.size:
                shift = 8 * (at - one.off)
                known = one.reg.type is RegType.SCALAR_VALUE
                if not known or one.reg.var.mask >> shift & 0xFF:
                    return None
                return one.reg.var.value >> shift & 0xFF
        return None


NOTHING_STORED = Stores()
