"""Where a number came from, as far as user space is concerned.

A number that user space chose looks like any other to the rules of the kernel. What it is shows
in its `origin`: the request's `user_data`, bytes copied from user memory, a completion. Origins
change no verdict by themselves. They explain refusals, they tell a contract which copies concern
it (`usermem`), and the lints what is done with a completion.

An origin stays with a number through moves, spills and branches. Adding to it is followed in
`off`; whatever else is computed from it keeps only the source.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from pybpfvm.isa.opcodes import AluOp
from pybpfvm.verifier.domains.alu import alu
from pybpfvm.verifier.domains.scalar import Scalar
from pybpfvm.verifier.states.regstate import Reg, RegType, Shift, scalar
from pybpfvm.verifier.states.stack import SLOT_BYTES, Slot
from pybpfvm.verifier.states.state import Frame, State
from pybpfvm.verifier.usermemory.contract import Block

_SCALAR = RegType.SCALAR_VALUE


class Source(Enum):
    """Where a number came from; the value completes "it is ..."."""

    USER_DATA = "the request's user_data"
    COPIED = "bytes copied from user memory"
    SHARED = "bytes of a map that user space writes"
    CQE_USER_DATA = "the user_data of a completion"
    CQE_RES = "the res of a completion"
    CQE = "part of a completion"
    RESULT = "the result of a helper"


# Sources whose numbers are used as addresses of user memory.
ADDRESSES = frozenset({Source.USER_DATA, Source.COPIED, Source.SHARED, Source.CQE_USER_DATA})

# Sources whose numbers may be negative errnos.
ERRNOS = frozenset({Source.CQE_RES, Source.RESULT})


class Status(Enum):
    """What is known of the call that a number or its bytes came from."""

    UNTESTED = "its result was not tested"
    GOOD = "it succeeded"
    FAILED = "it failed"


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """Where a number came from: the instruction at pc `at` loaded or copied it.

    `off`: what was added since, None once something else was computed. `key` is equal for numbers
    that were read from the same place. `block` is what a contract says the number points to, `name`
    how the contract calls the number. `call` and `status` are those of the helper. `no_errno`: what
    it was computed from was known not to be negative, so however little is known of the result,
    it holds no errno.
    """

    source: Source
    at: int
    key: tuple[object, ...]
    off: Reg | None
    block: Block | None = None
    name: str = ""
    call: int = 0
    status: Status = Status.GOOD
    no_errno: bool = False

    @property
    def text(self) -> str:
        """For messages: "the request's user_data"."""
        where = f" (read at instruction {self.at})" if self.at >= 0 else ""
        return f"{self.source.value}{where}"


class Traced(Reg):
    """A number that remembers where it came from."""

    __slots__ = ("origin",)

    origin: Origin

    def __init__(self, reg: Reg, origin: Origin) -> None:
        Reg.__init__(self, reg.type, reg.var, reg.at, reg.deps, reg.id, reg.shift)
        self.origin = origin

    def like(self, var: Scalar, deps: tuple[Reg, ...], id: int, shift: Shift | None) -> Reg:
        return Traced(Reg(self.type, var, self.at, deps, id, shift), self.origin)


@dataclass(frozen=True, slots=True, eq=False)
class Copied:
    """Bytes that one call of a helper put on the stack, from `low` (relative to r10), `size` of
    them: a completion if `cqe`, user memory at `addr` + `addr_off` otherwise (None: not known)."""

    at: int
    call: int
    low: int
    size: int
    cqe: bool
    addr: Origin | None = None
    addr_off: int | None = None
    status: Status = Status.UNTESTED


class CopiedSlot(Slot):
    """A stack slot, some bytes of which a helper put there."""

    __slots__ = ("copied",)

    copied: Copied

    def __init__(self, kinds: bytes, copied: Copied) -> None:
        Slot.__init__(self, kinds)
        self.copied = copied


_NOTHING_ADDED = scalar(Scalar.const(0), -1)


def fresh(
    reg: Reg,
    source: Source,
    key: tuple[object, ...],
    *,
    block: Block | None = None,
    name: str = "",
    copied: Copied | None = None,
    call: int = 0,
    status: Status = Status.GOOD,
) -> Reg:
    """`reg`, which was just read from `source`, or from what was `copied` from there."""
    at = reg.at
    if copied is not None:
        at, call, status = copied.at, copied.call, copied.status
    return Traced(reg, Origin(source, at, key, _NOTHING_ADDED, block, name, call, status))


def derived(reg: Reg, origin: Origin) -> Reg:
    """`reg`, computed from a number of this origin in a way that is not followed."""
    if reg.origin is not None or reg.type is not _SCALAR:
        return reg
    return Traced(reg, origin if origin.off is None else replace(origin, off=None))


def carried(op: AluOp, width: int, a: Reg, b: Reg, result: Reg) -> Reg:
    """`result` = `a` op `b`, with what is known of where it came from."""
    if result.origin is not None or result.type is not _SCALAR:
        return result
    first, second = a.origin, b.origin
    if first is None or (second is not None and second.block and not first.block):
        if second is None:
            return result
        origin, other, own = second, a, b
    else:
        origin, other, own = first, b, a
    no_errno = _no_errno(own) and (other.origin is None or _no_errno(other))
    if origin.no_errno is not no_errno:
        origin = replace(origin, no_errno=no_errno)
    moves = width == 64 and (op is AluOp.ADD or (op is AluOp.SUB and origin is first))
    if not moves or origin.off is None:
        return derived(result, origin)
    total = alu(op, 64, origin.off.var, other.var)
    off = scalar(total, result.at, (origin.off, other))
    return Traced(result, replace(origin, off=off))


def _no_errno(reg: Reg) -> bool:
    """Whether the number is no negative errno, nor was computed from one. Both widths are asked:
    on the way of sign extension by two shifts, the low half of an errno is 0."""
    origin = reg.origin
    if origin is None or origin.no_errno or origin.source not in ERRNOS:
        return True
    return reg.var.s32min >= 0 and reg.var.smin >= 0


def put_copied(frame: Frame, copied: Copied) -> None:
    """The bytes of a copy are on the stack of `frame`."""
    end = copied.low + copied.size
    for base in range(copied.low & -SLOT_BYTES, end, SLOT_BYTES):
        old = frame.stack.get(base)
        if old is not None and old.reg is None:
            frame.put(base, CopiedSlot(old.kinds, copied))


def learned(state: State, reg: Reg) -> None:
    """A branch told more of a helper's result: so it did of the bytes that the helper gave."""
    origin = reg.origin
    assert origin is not None
    if origin.source is not Source.RESULT or origin.off is None:
        return
    var = reg.var
    if var.s32min >= 0:
        status = Status.GOOD
    elif var.s32max < 0:
        status = Status.FAILED
    else:
        return
    call = origin.call
    known: Copied | None = None
    told: Copied | None = None
    for frame in state.frames:
        for index, held in enumerate(frame.regs):
            other = held.origin
            if other is not None and other.call == call and other.status is not status:
                frame.regs[index] = Traced(held, replace(other, status=status))
        for base, slot in list(frame.stack.items()):
            copied = slot.copied
            if copied is not None and copied.call == call and copied.status is not status:
                if told is None or copied is not known:
                    known, told = copied, replace(copied, status=status)
                frame.put(base, CopiedSlot(slot.kinds, told))


def covers_origin(old: Origin | None, new: Origin | None) -> bool:
    """Whether what was found out about numbers of origin `old` goes for those of `new`, up to
    what was added to them."""
    if old is new:
        return True
    if new is None:
        return old is None or old.block is None
    if old is None or (old.off is not None and new.off is None):
        return False
    if old.no_errno and not new.no_errno:
        return False
    same = old.source is new.source and old.block is new.block and old.status is new.status
    return same and (old.source in _OF_CALLS or old.key == new.key)


def same_origin(old: Origin | None, new: Origin | None) -> bool:
    """Whether numbers of these origins came from one place, and were added the same to."""
    if old is new:
        return True
    if old is None or new is None or not covers_origin(old, new):
        return False
    if old.off is None or new.off is None:
        return old.off is new.off
    return old.off.var == new.off.var


# Sources of which every call of a helper is one of its own.
_OF_CALLS = frozenset({Source.CQE, Source.CQE_RES, Source.CQE_USER_DATA, Source.RESULT})


def covers_copied(old: Copied | None, new: Copied | None) -> bool:
    """The same for bytes on the stack."""
    if old is new:
        return True
    if new is None:
        return old is None or old.addr is None or old.addr.block is None
    if old is None:
        return False
    return (
        old.cqe is new.cqe
        and old.status is new.status
        and (old.low, old.size, old.addr_off) == (new.low, new.size, new.addr_off)
        and covers_origin(old.addr, new.addr)
    )
