"""The stack of a frame, byte by byte: what was written, what a load gives back.

Eight bytes are a `Slot`. A register stored at the slot's start is remembered as it was (a spill);
of other writes only that the bytes are initialised, or 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pybpfvm.isa.opcodes import AluOp
from pybpfvm.verifier.domains.alu import kernel_low_field, transfer_of
from pybpfvm.verifier.domains.scalar import Scalar, load_result, truncate
from pybpfvm.verifier.states.regstate import Reg, RegType, is_null, mark_precise, same_reg, scalar
from pybpfvm.verifier.states.state import Frame

if TYPE_CHECKING:
    from pybpfvm.verifier.usermemory.origin import Copied

# Kinds of bytes.
INVALID, SPILL, MISC, ZERO, OBJECT = range(5)

SLOT_BYTES = 8

_SCALAR = RegType.SCALAR_VALUE
_EXTENDING = {1: AluOp.MOVSX8, 2: AluOp.MOVSX16, 4: AluOp.MOVSX32}


class Slot:
    """Eight bytes: a kind each, lowest address first; `reg` is what the SPILL bytes hold the low
    bytes of. SPILL bytes are the first `spilled` of the slot.

    `read`: something was made of the bytes, or of a slot that kept some of them, since they were
    written or a state with them was stored. `before` is the slot of the last stored state that
    bytes of this one come from; `stored`: a stored state has this slot. A stored state's slots
    that were not read when it is explored can hold anything.
    """

    __slots__ = ("before", "kinds", "read", "reg", "spilled", "stored")

    copied: Copied | None = None  # what put the bytes there, if it was a copy of user space's
    object: StackObject | None = None  # what of the kernel's the bytes are, if they are OBJECT

    def __init__(self, kinds: bytes, reg: Reg | None = None, spilled: int = 0) -> None:
        self.kinds = kinds
        self.reg = reg
        self.spilled = spilled
        self.before: Slot | None = None
        self.read = False
        self.stored = False


@dataclass(frozen=True, slots=True)
class StackObject:
    """An object of the kernel's in stack slots: `name` as the kernel's messages have it, `ref_id`
    of what must be released (0 if nothing), `id` of its own."""

    name: str
    ref_id: int
    id: int = 0

    def text(self) -> str:
        """The kernel log's notation; "" for a part of an object that was shown."""
        return self.name

    def outside_rcu(self) -> StackObject:
        """The object once an RCU read section has ended."""
        return self

    def alike(self, new: StackObject, *, exact: bool) -> bool:
        """Whether exploring on with this object covers exploring with `new`, but for their
        references. `exact`: nothing happened to the object in between."""
        return replace(self, ref_id=0, id=0) == replace(new, ref_id=0, id=0)


class ObjectSlot(Slot):
    """Eight bytes of such an object."""

    __slots__ = ("object",)

    object: StackObject | None

    def __init__(self, object: StackObject) -> None:
        Slot.__init__(self, _OBJECT)
        self.object = object


_OBJECT = bytes([OBJECT] * 8)
_NOTHING = bytes([INVALID] * 8)
_SPILLED = bytes([SPILL] * 8)
EMPTY = Slot(_NOTHING)
_AS_DATA = bytes.maketrans(bytes([SPILL, OBJECT]), bytes([MISC, MISC]))
_PLAIN = bytes([INVALID, SPILL, MISC, ZERO])


def _without_spill(kinds: bytes) -> bytearray:
    """What is left of a slot that is partly overwritten: data, whatever it was."""
    return bytearray(kinds.translate(_AS_DATA))


def mark_read(slot: Slot) -> None:
    """Note that exploration drew on the slot, and so on what its bytes come from."""
    one: Slot | None = slot
    while one is not None and not one.read:
        one.read = True
        one = one.before


def is_plain(slot: Slot) -> bool:
    """Whether the slot holds data only: nothing that a rule may ask for without reading it."""
    return not slot.kinds.strip(_PLAIN)


def note_read(frame: Frame, off: int, size: int) -> None:
    """`size` bytes at `off` are about to be looked at."""
    slots = frame.stack
    for base in range(off & -SLOT_BYTES, off + size, SLOT_BYTES):
        slot = slots.get(base)
        if slot is not None and not slot.read:
            mark_read(slot)


def spill(frame: Frame, off: int, size: int, value: Reg) -> None:
    """Store the low `size` bytes of `value` at a multiple of 8, so that a load gives it back.

    A number that does not fit loses its identity with others: what is stored is another number.
    What is known of it is kept whole, and cut when it is loaded.
    """
    if size == SLOT_BYTES:
        frame.put(off, Slot(_SPILLED, value, 8), whole=True)
        return
    if value.var.umax >> (size * 8):
        value = scalar(value.var, value.at, (value,))
    old = frame.stack.get(off, EMPTY)
    rest = _without_spill(old.kinds)
    frame.put(off, Slot(_SPILLED[:size] + bytes(rest[size:]), value, size))


def write(frame: Frame, off: int, size: int, kind: int) -> None:
    """Make `size` bytes at `off` MISC or ZERO. They may reach over several slots."""
    end = off + size
    base = off & -SLOT_BYTES
    while base < end:
        first, last = max(off, base) - base, min(end - base, SLOT_BYTES)
        if last - first == SLOT_BYTES:
            frame.put(base, Slot(bytes([kind]) * SLOT_BYTES), whole=True)
        else:
            kinds = _without_spill(frame.stack.get(base, EMPTY).kinds)
            kinds[first:last] = bytes([kind]) * (last - first)
            frame.put(base, Slot(bytes(kinds)))
        base += SLOT_BYTES


def write_somewhere(frame: Frame, low: int, high: int, *, zero: bool, trust: bool) -> None:
    """Some bytes between `low` and `high` (exclusive) were written, no one knows which.

    Spills there are lost. Bytes that were 0 stay so if 0 was written. Bytes never written stay
    uninitialised, unless `trust` (programs that may read such bytes anyway).
    """
    for base in range(low & -SLOT_BYTES, high, SLOT_BYTES):
        old = frame.stack.get(base, EMPTY)
        if old.reg is not None and is_null(old.reg):
            mark_precise(old.reg)
            kinds = bytearray(ZERO if kind == SPILL else kind for kind in old.kinds)
        else:
            kinds = _without_spill(old.kinds)
        for index in range(max(low, base) - base, min(high - base, SLOT_BYTES)):
            if kinds[index] == ZERO and zero:
                continue
            if kinds[index] != INVALID or trust:
                kinds[index] = MISC
        frame.put(base, Slot(bytes(kinds)))


def first_invalid(frame: Frame, off: int, size: int) -> int | None:
    """Index of the first of `size` bytes at `off` that was never written, None if all were."""
    end = off + size
    for base in range(off & -SLOT_BYTES, end, SLOT_BYTES):
        kinds = frame.stack.get(base, EMPTY).kinds
        at = kinds.find(INVALID, max(off - base, 0), min(end - base, SLOT_BYTES))
        if at >= 0:
            return base + at - off
    return None


def first_object(frame: Frame, off: int, size: int) -> int | None:
    """Index of the first of `size` bytes at `off` that is an object's, None if there is none."""
    for base in range(off & -SLOT_BYTES, off + size, SLOT_BYTES):
        slot = frame.stack.get(base)
        if slot is not None and slot.object is not None:
            return max(base - off, 0)
    return None


def spilled_pointer(frame: Frame, off: int, size: int) -> Reg | None:
    """A pointer of which bytes lie among `size` bytes at `off`, if there is one."""
    for base in range(off & -SLOT_BYTES, off + size, SLOT_BYTES):
        slot = frame.stack.get(base)
        if slot is not None and slot.reg is not None and slot.reg.type is not _SCALAR:
            return slot.reg
    return None


def read(
    frame: Frame, off: int, size: int, *, signed: bool, at: int, little: bool, as_kernel: bool
) -> Reg:
    """What a load of `size` initialised bytes inside one slot gives. The slot's register as it
    was if all of it is read; its low bytes if they are a number's; 0 for zeroes. `as_kernel`: of
    part of a number no more is known than kernels know."""
    base, index = off & -SLOT_BYTES, off & 7
    slot = frame.stack.get(base, EMPTY)
    kinds = slot.kinds[index : index + size]
    held = slot.reg
    if held is not None and kinds[0] == SPILL:
        if size == SLOT_BYTES and slot.spilled == SLOT_BYTES:
            return held
        number = held.type is _SCALAR
        if number and index == 0 and size <= slot.spilled and little:
            if not signed and size == slot.spilled and not held.var.umax >> (size * 8):
                return held
            if signed:
                extend = transfer_of(_EXTENDING[size], 64, as_kernel=as_kernel)
                var = extend(held.var, held.var)
            elif as_kernel and size < 4:
                var = kernel_low_field(held.var, size * 8)
            else:
                var = truncate(held.var, size, False)
            return held if var is held.var else scalar(var, at, (held,))
        if number and is_null(held) and kinds.count(SPILL) + kinds.count(ZERO) == size:
            return scalar(Scalar.const(0), at, (held,))
    elif kinds.count(ZERO) == size:
        return scalar(Scalar.const(0), at)
    return scalar(load_result(size, signed), at)


def same_slot(one: Slot, other: Slot | None) -> bool:
    """Whether nothing wrote to the slot `other` until it was `one`, as `same_reg`."""
    if one is other:
        return True
    if other is None or one.kinds != other.kinds or one.copied is not other.copied:
        return False
    if one.object != other.object:
        return False
    if one.reg is None or other.reg is None:
        return one.reg is other.reg and one.stored
    return same_reg(one.reg, other.reg)
