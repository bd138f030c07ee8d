"""Stored states, and loops that the kernel bounds: paths that end on a state they come from.

Where a loop can not run forever (may_goto, callbacks, iterators), a path that comes back to a
state that is still being explored ends there, if that state covers it in all its numbers. What
follows is explored once, from the older state; so which numbers and slots matter there is not
known when the path ends. Until it is, the states on the way are `unresolved`: later paths are
compared with all they hold, not just with what is known to matter. When the outermost state of
such a loop has been explored to the end, `resolve` carries what matters along the back edges
until nothing changes, and the states are like any others.

What bounds such a loop is one object: an iterator, a call of a helper, a call of a function that
has a may_goto. Each has a number; `Bounds` says how many turns it made. A path ends on a state it
comes from if the same object made more turns since (`went_on`), and if everything that bounds a
loop around it is still there (`keeps`): a loop that makes its iterator anew in each turn has no
end, though the states in it look alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pybpfvm.verifier.pruning.screen import Screen
from pybpfvm.verifier.states.regstate import Reg, RegType, mark_precise, unknown
from pybpfvm.verifier.states.stack import Slot, mark_read
from pybpfvm.verifier.states.state import Frame, State
from pybpfvm.verifier.usermemory.origin import derived, same_origin

_SCALAR = RegType.SCALAR_VALUE

# What bounds loops through a place: the objects' numbers, and how many turns each has made.
Bounds = Mapping[int, int]
NO_BOUNDS: Bounds = MappingProxyType({})


class Stored:
    """A state kept at a prune point. `pending`: paths below it that have not ended. `head`: of a
    loop that the state lies on and that is not resolved yet, the outermost state; with one, it is
    not known yet which numbers of the state matter. `bounds` are
    those of loops through it, `outer` the objects that bound the loops of the states it comes
    from, as far as they are still there. `screen` are the
    quick tests of an explored state, `differs` the register that last told
    a path from it, -1 for none."""

    __slots__ = (
        "bounds",
        "depth",
        "differs",
        "edges",
        "head",
        "hits",
        "linked",
        "members",
        "misses",
        "outer",
        "parent",
        "pending",
        "screen",
        "state",
    )

    def __init__(self, state: State, parent: Stored | None, bounds: Bounds) -> None:
        self.state = state
        self.bounds = bounds
        self.outer: frozenset[int] = frozenset()
        if parent is not None and (parent.outer or parent.bounds):
            self.outer = (parent.outer | parent.bounds.keys()) & _alive(state)
        self.linked: frozenset[int] | None = None
        self.parent = parent
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.pending = 1
        self.screen: Screen | None = None
        self.differs = -1
        self.hits = 0
        self.misses = 0
        self.head: Stored | None = None
        # Of a head: the loop's states, and the pairs (older state, what ended on it).
        self.members: list[Stored] = []
        self.edges: list[tuple[State, State]] = []

    def forget(self) -> None:
        """No state will be compared with this one again: of it only the bookkeeping is needed."""
        self.state = _FORGOTTEN
        self.screen = None


def went_on(old: Bounds, new: Bounds) -> bool:
    """Whether an object that bounds the loop through a place made a turn since the path was
    there with `old`."""
    return any(ident in new and new[ident] > turns for ident, turns in old.items())


def keeps(stored: Stored, state: State) -> bool:
    """Whether what bounds the loops around `stored` is in `state` still, and not something new
    in its place."""
    return not stored.outer or stored.outer <= _alive(state)


def _alive(state: State) -> frozenset[int]:
    """The numbers of all that may bound a loop: function calls, calls of helpers, iterators."""
    found = {frame.ident for frame in state.frames}
    found.update(frame.callback.call for frame in state.frames if frame.callback is not None)
    found.update(ident for ident, _ in state.refs)
    return frozenset(found)


_FORGOTTEN = State([Frame(0, -1, 0)], (), True)


def close(stored: Stored, state: State, parent: Stored | None) -> None:
    """A path in `state`, whose last stored state is `parent`, ends on `stored`: a state that it
    comes from, or one that lies on a loop with such a state."""
    head = stored.head or stored
    chain: list[Stored] = []
    one = parent
    while one is not None and one.depth >= head.depth:
        chain.append(one)
        if one.head is not None and one.head.depth < head.depth:
            head = one.head
        one = one.parent
    for one in (stored, *chain):
        _join(one, head)
    head.edges.append((stored.state, state.copy()))


def _join(stored: Stored, head: Stored) -> None:
    """Make `stored`, and the loop it was on, part of the loop of `head`."""
    old = stored.head
    if old is head:
        return
    if old is None:
        stored.head = head
        head.members.append(stored)
        return
    for member in old.members:
        member.head = head
    head.members += old.members
    head.edges += old.edges
    old.members, old.edges = [], []


def resolve(head: Stored) -> None:
    """Everything below `head`, the outermost state of a loop, was explored: what matters of an
    older state matters of what ended on it, and so of the states before that."""
    changed = True
    while changed:
        changed = False
        for old, new in head.edges:
            changed |= _carry(old, new)
    for member in head.members:
        member.head = None
    head.members, head.edges = [], []


def _carry(old: State, new: State) -> bool:
    changed = False
    for before, after in zip(old.frames, new.frames, strict=True):
        for number in range(10):
            changed |= _matters(before.regs[number], after.regs[number])
        for base, slot in before.stack.items():
            other = after.stack.get(base)
            if other is None:
                continue
            if slot.read and not other.read:
                mark_read(other)
                changed = True
            if slot.reg is not None and other.reg is not None:
                changed |= _matters(slot.reg, other.reg)
    return changed


def _matters(old: Reg, new: Reg) -> bool:
    if not old.precise or new.precise or new.type is not _SCALAR:
        return False
    mark_precise(new)
    return True


def widen(state: State, before: State) -> None:
    """Numbers that a turn of a loop changed become unknown, unless they are known to matter:
    so that the next turn begins in a state that covers all further ones."""
    for frame, old in zip(state.frames, before.frames, strict=True):
        for index in range(10):
            frame.regs[index] = _widened(old.regs[index], frame.regs[index])
        for base, slot in list(frame.stack.items()):
            known = old.stack.get(base)
            if slot.reg is None or known is None or known.reg is None:
                continue
            if slot.spilled != known.spilled:
                continue
            wide = _widened(known.reg, slot.reg)
            if wide is not slot.reg:
                frame.put(base, Slot(slot.kinds, wide, slot.spilled))


def _widened(old: Reg, new: Reg) -> Reg:
    if new is old or new.type is not _SCALAR or old.type is not new.type:
        return new
    if old.precise or new.precise:
        return new
    same = old.var == new.var and (old.id == 0) == (new.id == 0)
    if same and (new.origin is None or same_origin(old.origin, new.origin)):
        return new
    return forgotten(new)


def forgotten(reg: Reg) -> Reg:
    """An unknown number in place of `reg`, that comes from where `reg` does."""
    return unknown(reg.at) if reg.origin is None else derived(unknown(reg.at), reg.origin)
