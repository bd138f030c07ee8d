"""When a state need not be explored: one that was explored already covers it.

`covers(old, new)`: every run in `new` is one that exploring `old` has considered. Numbers of
`old` on which nothing hung (not `precise`) are not compared, see `regstate`; those on which
something did are marked precise in `new` too once the comparison succeeds. The same goes for
stack slots that nothing read.
"""

from __future__ import annotations

from enum import Enum

from pybpfvm.verifier.domains.scalar import Scalar, is_subsumed_by, truncate
from pybpfvm.verifier.pruning.liveness import Liveness
from pybpfvm.verifier.states.regstate import (
    PACKET_TYPES,
    Reg,
    RegType,
    is_null,
    mark_precise,
    scalar,
)
from pybpfvm.verifier.states.stack import (
    EMPTY,
    INVALID,
    MISC,
    SPILL,
    ZERO,
    Slot,
    StackObject,
    is_plain,
    mark_read,
)
from pybpfvm.verifier.states.state import Frame, Regions, State
from pybpfvm.verifier.usermemory.origin import Origin, covers_copied, covers_origin


class Compare(Enum):
    """How to compare numbers."""

    EXPLORED = "precise numbers of an explored state must cover the new ones"
    ALL = "all numbers must be covered, whether known to matter or not"
    EXACT = "the states must be equal"


_EXPLORED, _EXACT = Compare.EXPLORED, Compare.EXACT
_SCALAR, _NOT_INIT, _STACK = RegType.SCALAR_VALUE, RegType.NOT_INIT, RegType.PTR_TO_STACK
_NULL = Scalar.const(0)
_ANYTHING = scalar(Scalar.UNKNOWN, -1)
_UNTOLD = bytes([INVALID, MISC])  # bytes of which nothing is known


class Matters:
    """What of a state decides which others it covers: live registers and, once it is `explored`,
    the slots that were read. With the number of the frame, the innermost one's first."""

    __slots__ = ("registers", "slots")

    def __init__(self, live: Liveness, pc: int, state: State, *, explored: bool) -> None:
        self.registers: list[tuple[int, int, Reg]] = []
        self.slots: list[tuple[int, int, Slot]] = []
        for index in range(len(state.frames) - 1, -1, -1):
            frame = state.frames[index]
            self.registers += [
                (index, number, frame.regs[number])
                for number in live_registers(live, pc, state, index)
                if not explored or frame.regs[number].type is not _NOT_INIT
            ]
            self.slots += [
                (index, base, slot)
                for base, slot in frame.stack.items()
                if not explored or slot.read or not is_plain(slot)
            ]


class Comparison:
    """One comparison of two states: `ids` of the old one and theirs in the new one. `linked` are
    the old one's `linked_ids`, None to find them when they are needed. `exact`: a number that
    matters covers itself only."""

    __slots__ = (
        "_exact",
        "_live",
        "_origins",
        "_uninit",
        "ids",
        "linked",
        "marks",
        "mode",
        "pc",
        "read",
        "state",
        "taken",
    )

    def __init__(
        self,
        live: Liveness,
        mode: Compare,
        linked: frozenset[int] | None,
        *,
        uninit_stack: bool,
        origins: bool = False,
        exact: bool = False,
    ) -> None:
        self._exact = exact
        self._origins = origins
        self._live = live
        self.linked = linked
        self.mode = mode
        self._uninit = uninit_stack
        self.ids: dict[int, int] = {}
        self.taken: set[int] = set()
        self.marks: list[Reg] = []
        self.read: list[Slot] = []

    def covers(self, pc: int, old: State, new: State, matters: Matters | None = None) -> bool:
        """Whether exploring `old` from `pc` covers `new`. `matters`: what of an explored state
        does, if it was found before."""
        if len(old.frames) != len(new.frames) or len(old.refs) != len(new.refs):
            return False
        if (old.regions is not new.regions or old.regions.irqs) and not self._regions(
            old.regions, new.regions
        ):
            return False
        if old.locks or new.locks:
            if len(old.locks) != len(new.locks):
                return False
            for held, other in zip(old.locks, new.locks, strict=True):
                if (
                    held.map is not other.map
                    or held.map_index != other.map_index
                    or held.kind is not other.kind
                    or not self._same_id(held.id, other.id)
                ):
                    return False
        self.pc, self.state = pc, old
        for old_frame, new_frame in zip(old.frames, new.frames, strict=True):
            if old_frame.callsite != new_frame.callsite or old_frame.entry != new_frame.entry:
                return False
            if old_frame.callback is not None and not self._callback(old_frame, new_frame):
                return False
        if old.refs:
            for (old_id, old_pc), (new_id, new_pc) in zip(old.refs, new.refs, strict=True):
                if old_pc != new_pc or not self._same_id(old_id, new_id):
                    return False
        if matters is None:
            matters = Matters(self._live, pc, old, explored=self.mode is _EXPLORED)
        if not self._registers(matters, new) or not self._slots(matters, new):
            return False
        if self.mode is _EXACT:
            for old_frame, new_frame in zip(old.frames, new.frames, strict=True):
                if new_frame.stack.keys() - old_frame.stack.keys():
                    return False
        for reg in self.marks:
            mark_precise(reg)
        for slot in self.read:
            mark_read(slot)
        return True

    def _registers(self, matters: Matters, new: State) -> bool:
        frames = new.frames
        unmarked = self.mode is _EXPLORED and not self._origins
        for index, number, old in matters.registers:
            reg = frames[index].regs[number]
            if reg is old and not (old.id or old.ref_id or old.owner):
                continue  # only identities depend on what other registers hold
            if unmarked and old.type is _SCALAR and not old.precise:
                if reg.type is not _SCALAR:
                    return False
            elif not self._reg(old, reg):
                return False
        return True

    def _slots(self, matters: Matters, new: State) -> bool:
        frames = new.frames
        explored = self.mode is _EXPLORED
        for index, base, slot in matters.slots:
            other = frames[index].stack.get(base, EMPTY)
            held = slot.reg
            if (
                other is slot
                and slot.object is None
                and (held is None or not (held.id or held.ref_id or held.owner))
            ):
                continue
            if not self._slot(slot, other):
                return False
            if explored and not other.read:
                self.read.append(other)
        return True

    def _regions(self, old: Regions, new: Regions) -> bool:
        """Whether the same regions are open."""
        return (
            old.rcu == new.rcu
            and old.preempt == new.preempt
            and len(old.irqs) == len(new.irqs)
            and all(map(self._same_id, old.irqs, new.irqs))
        )

    def _callback(self, old: Frame, new: Frame) -> bool:
        """The arguments with which a helper will call the function again."""
        assert old.callback is not None, "one call made both"
        assert new.callback is not None, "one call made both"
        return all(
            self._reg(a, b) for a, b in zip(old.callback.args, new.callback.args, strict=True)
        )

    def _same_id(self, old: int, new: int) -> bool:
        """Whether the old id can stand for the new one, and for it alone."""
        if old == 0 or new == 0:
            return old == new
        known = self.ids.get(old)
        if known is not None:
            return known == new
        if new in self.taken:
            return False
        self.ids[old] = new
        self.taken.add(new)
        return True

    def _reg(self, old: Reg, new: Reg) -> bool:
        kind = old.type
        if kind is _NOT_INIT:
            return self.mode is not _EXACT or new.type is kind
        if new.type is not kind:
            return False
        if kind is _SCALAR:
            return self._scalar(old, new)
        if new is old:
            return (
                self._same_id(old.id, old.id)
                and self._same_id(old.ref_id, old.ref_id)
                and self._same_id(old.owner, old.owner)
            )
        if (
            old.off != new.off
            or old.map is not new.map
            or old.map_index != new.map_index
            or old.mem_size != new.mem_size
            or old.frame != new.frame
            or old.buffer != new.buffer
            or old.subprog != new.subprog
            or old.btf_id != new.btf_id
            or old.trust != new.trust
        ):
            return False
        if self.mode is _EXACT or kind is _STACK:
            if old.var != new.var or old.range != new.range:
                return False
        elif not is_subsumed_by(new.var, old.var):
            return False
        if kind in PACKET_TYPES and new.range < old.range:
            return False
        return (
            self._same_id(old.id, new.id)
            and self._same_id(old.ref_id, new.ref_id)
            and self._same_id(old.owner, new.owner)
        )

    def _scalar(self, old: Reg, new: Reg) -> bool:
        mode = self.mode
        if self._origins and not self._origin(old.origin, new.origin):
            return False
        if mode is _EXACT:
            if old.var != new.var:
                return False
        elif mode is _EXPLORED and not old.precise:
            return True
        elif not is_subsumed_by(new.var, old.var) or (self._exact and old.var != new.var):
            return False
        if (
            old.id
            and self._is_linked(old.id)
            and (old.shift != new.shift or not self._same_id(old.id, new.id))
        ):
            return False
        if old.precise and old is not new and mode is not _EXACT:
            self.marks.append(new)
        return True

    def _origin(self, old: Origin | None, new: Origin | None) -> bool:
        """Whether what was found out of numbers of one origin goes for those of the other."""
        if not covers_origin(old, new):
            return False
        if old is new or old is None or new is None or old.off is None or new.off is None:
            return True
        return self._scalar(old.off, new.off)

    def _filled(self, slot: Slot, size: int) -> Reg | None:
        """What a fill of `size` bytes finds in the slot; None if that is no register."""
        reg = slot.reg
        if reg is not None:
            if slot.spilled == size:
                return reg
            if reg.type is not _SCALAR:
                return None
            if slot.spilled > size:
                return scalar(truncate(reg.var, size, False), reg.at, (reg,))
        kinds = slot.kinds[:size]
        if kinds.count(ZERO) == size:
            return scalar(_NULL, -1)
        return _ANYTHING if self._uninit or INVALID not in kinds else None

    def _is_linked(self, id: int) -> bool:
        if self.linked is None:
            explored = self.mode is _EXPLORED
            self.linked = linked_ids(self.state, self.pc, self._live if explored else None)
        return id in self.linked

    def _object(self, old: StackObject | None, new: StackObject | None, kinds: bytes) -> bool:
        """Whether the same kind of object of the kernel's is in the slots; bytes of which nothing
        is known, `kinds`, stand for anything."""
        if old is None or new is None:
            return old is new or (old is None and not any(kinds))
        return (
            old.alike(new, exact=self.mode is _EXACT)
            and self._same_id(old.ref_id, new.ref_id)
            and self._same_id(old.id, new.id)
        )

    def _any_number(self, old: Slot, new: Slot) -> bool:
        """Whether a number on which nothing hung was spilled, and a fill finds a number now."""
        held, number = old.reg, new.reg
        return (
            self.mode is _EXPLORED
            and held is not None
            and number is not None
            and not held.precise
            and held.type is _SCALAR
            and number.type is _SCALAR
            and new.spilled >= old.spilled
            and not self._origins
        )

    def _slot(self, old: Slot, new: Slot) -> bool:
        if (old.object is not None or new.object is not None) and not self._object(
            old.object, new.object, old.kinds
        ):
            return False
        if self.mode is _EXACT:
            return (
                old.kinds == new.kinds
                and old.spilled == new.spilled
                and (old.reg is None or (new.reg is not None and self._reg(old.reg, new.reg)))
            )
        if self._origins and not covers_copied(old.copied, new.copied):
            return False
        held = old.reg
        if held is not None and not self._any_number(old, new):
            filled = self._filled(new, old.spilled)
            if filled is None or not self._reg(held, filled):
                return False
        if old.kinds == new.kinds:
            return True
        if self._uninit and not old.kinds[old.spilled :].strip(_UNTOLD):
            return True
        for one, other in zip(old.kinds[old.spilled :], new.kinds[old.spilled :], strict=True):
            if one == other and one != SPILL:
                continue
            if one == INVALID or (one == MISC and self._uninit):
                continue
            if one == MISC and other != INVALID:
                if other == SPILL and new.reg is not None and new.reg.type is not _SCALAR:
                    return False
                continue
            if one == ZERO and other == SPILL and new.reg is not None and is_null(new.reg):
                self.marks.append(new.reg)
                continue
            return False
        return True


def live_registers(live: Liveness, pc: int, state: State, index: int) -> tuple[int, ...]:
    """Registers of frame `index` that may still be read, when the innermost frame is at `pc`."""
    if index == len(state.frames) - 1:
        return live.at(pc)
    return live.across(state.frames[index + 1].callsite)


def linked_ids(state: State, pc: int, live: Liveness | None) -> frozenset[int]:
    """Ids that more than one number of the state has. An id that one number has alone links it
    to nothing: exploring the state can not have drawn on it. With `live`, the state was explored:
    only what may be read, or was, counts."""
    once: set[int] = set()
    often: set[int] = set()
    for index, frame in enumerate(state.frames):
        numbers = range(10) if live is None else live_registers(live, pc, state, index)
        held = [frame.regs[number] for number in numbers]
        held += [
            slot.reg
            for slot in frame.stack.values()
            if slot.reg is not None and (live is None or slot.read)
        ]
        if frame.callback is not None:
            held += frame.callback.args
        for reg in held:
            if reg.id and reg.type is _SCALAR:
                (often if reg.id in once else once).add(reg.id)
    return frozenset(often)
