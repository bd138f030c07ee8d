"""Where a number stopped being within the bounds that a check asks for, and where to bound it.

The bounds are carried backwards along a causal chain: what the result of an addition, a shift or
a product must be says what its operand must have been.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import AluOp, Operand
from pybpfvm.verifier.domains.scalar import Scalar
from pybpfvm.verifier.domains.word import U32
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.explaining.narration import name_of, number_text, operation_text, range_text
from pybpfvm.verifier.explaining.slicing import How, Link, Place
from pybpfvm.verifier.states.regstate import Reg, RegType


@dataclass(frozen=True, slots=True)
class Need:
    """What a check asks for: that `culprit` (or what was added to it, if it is a pointer) lies
    between `low` and `high`. `what` it is."""

    low: int
    high: int
    culprit: Reg
    what: str = "offset"


@dataclass(frozen=True, slots=True)
class Lost:
    """The link after which the number was out of bounds, in a sentence."""

    link: Link
    note: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Where a number can be bounded: after the instruction of `link`, its place must lie between
    `low` and `high`."""

    link: Link
    place: Place
    low: int
    high: int


def lost_bound(env: Environment, links: Sequence[Link], need: Need | None) -> Lost | None:
    """The instruction that took the number out of its bounds; None if it never was inside."""
    if need is None:
        return None
    for link, low, high in _backwards(env, links, need):
        was, now = link.before, link.after
        if link.how is not How.COMPUTED or was is None or now is None:
            continue
        if was.type is not RegType.SCALAR_VALUE and link.other is not None:
            was = link.other if link.other.type is RegType.SCALAR_VALUE else was
        if was.type is not RegType.SCALAR_VALUE or now.type is not RegType.SCALAR_VALUE:
            continue
        if _within(was, low, high) and not _within(now, low, high):
            return Lost(link, _note(env, link, was, now, low, high))
    return None


def comparison(
    env: Environment, links: Sequence[Link], need: Need, lost: Lost | None
) -> Comparison | None:
    """The earliest place where a comparison keeps the number in bounds, not before its bounds are
    lost; None if there is none, because the number is a constant or no bound there would do."""
    best: Comparison | None = None
    for link, low, high in _backwards(env, links, need):
        now = link.after
        if now is None or now.type is not RegType.SCALAR_VALUE or high < max(low, 0):
            continue
        if now.var.mask:
            best = Comparison(link, link.place, max(low, 0), high)
        if lost is not None and link is lost.link:
            break
    return best


def _backwards(
    env: Environment, links: Sequence[Link], need: Need
) -> Iterator[tuple[Link, int, int]]:
    """The links, last first, each with the bounds of what it left."""
    low, high = need.low, need.high
    for link in reversed(links):
        yield link, low, high
        if link.how is How.COMPUTED:
            before = _operand_bounds(env.code[link.pc], link, low, high)
            if before is None:
                return
            low, high = before


def _operand_bounds(insn: Insn, link: Link, low: int, high: int) -> tuple[int, int] | None:
    """The bounds of the followed operand that put the result of arithmetic within bounds; None if
    that is not for one operand to say."""
    op = insn.spec.op
    register = insn.spec.operand is Operand.X
    second = register and link.source is not None and link.source != link.place
    known = link.before if second else link.other
    if not register:
        var = Scalar.const(insn.imm)
    elif known is not None:
        var = known.var
    else:
        return None
    pointer = link.after is not None and link.after.type is not RegType.SCALAR_VALUE
    if pointer and not second and not var.mask:
        return low, high  # a constant moves the pointer's fixed offset, not its variable one
    if op is AluOp.ADD:
        if var.smax - var.smin > U32:
            return None
        return low - var.smin, high - var.smax
    if var.mask or second:
        return None
    if op is AluOp.SUB:
        return low + var.smin, high + var.smin
    by = var.value
    if op is AluOp.MUL and 0 < by <= U32:
        return -(-low // by), high // by
    if op is AluOp.LSH and by < insn.spec.width:
        return -(-low >> by), high >> by
    if op is AluOp.RSH and by < insn.spec.width and low <= 0 <= high:
        return 0, (high << by) | ((1 << by) - 1)
    return None


def _within(reg: Reg, low: int, high: int) -> bool:
    return low <= reg.var.smin and reg.var.smax <= high


def _note(env: Environment, link: Link, was: Reg, now: Reg, low: int, high: int) -> str:
    name = name_of(link.place)
    phrase = operation_text(env, link)
    if now.var.smax > high and now.var.smin >= low:
        had = f"it was at most {number_text(was.var.smax)}"
        return f"{name} lost its upper bound here: {had} before {phrase}"
    if now.var.smax <= high:
        had = f"it was at least {number_text(was.var.smin)}"
        return f"{name} lost its lower bound here: {had} before {phrase}"
    had = f"it was {range_text(was.var)}"
    return f"{name} lost its bounds here: {had} before {phrase}"
