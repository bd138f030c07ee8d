"""What the lints remember of a path: values that never change, compared when paths meet."""

from __future__ import annotations

from dataclasses import dataclass

from pybpfvm.verifier.lints.stores import NOTHING_STORED, Stores

Span = tuple[int, int]  # least and greatest value
ANY_U32: Span = (0, (1 << 32) - 1)


@dataclass(frozen=True, slots=True)
class Checked:
    """A branch looked at user bytes: `size` of them at `offset` from where `key` points, which
    the instruction at `at` had fetched."""

    key: tuple[object, ...]
    offset: int
    size: int
    at: int


@dataclass(frozen=True, slots=True)
class Flight:
    """A request that may still use a buffer: bytes [low, high) from where `key` points."""

    key: tuple[object, ...]
    low: int
    high: int
    writes: bool
    at: int


@dataclass(frozen=True, slots=True)
class Notes:
    """`persisted`: something was changed that the next run sees. `reaped`: CQs that were reaped
    from, None among them for one that is not known. `wait_nr` and `wait_idx`: what was last
    written to the context, None if nothing; `word`: its `futex` was written. `chain`: pc of the
    submission that left a link open, -1 if none is. `impossible`: the path took an arm that no run
    takes, and proves nothing. `stores`: what is on the stack. `coarse`: paths that differ in
    `persisted` and `stores` alone are not kept apart."""

    persisted: bool = False
    reaped: frozenset[int | None] = frozenset()
    wait_nr: Span | None = None
    wait_idx: Span | None = None
    chain: int = -1
    word: bool = False
    impossible: bool = False
    coarse: bool = False
    checked: frozenset[Checked] = frozenset()
    flights: frozenset[Flight] = frozenset()
    stores: Stores = NOTHING_STORED

    def covers(self, new: Notes) -> bool:
        """Whether no lint has more to say of a path with the notes `new`."""
        if self is new:
            return True
        return (
            (self.coarse or self.persisted <= new.persisted)
            and (self.coarse or self.stores.same_as(new.stores))
            and self.impossible <= new.impossible
            and self.reaped <= new.reaped
            and (self.wait_nr, self.wait_idx, self.chain) == (new.wait_nr, new.wait_idx, new.chain)
            and self.word is new.word
            and self.checked >= new.checked
            and self.flights >= new.flights
        )
