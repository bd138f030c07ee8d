"""Proofs with z3 that the numeric domains miss no result: `make prove`.

Each claim runs the domains' own functions on symbolic operands (see `symbolic`) at 64 bits, or at
the widest of a few smaller words for which the proof ends in the time given. What comes out wider
than the tests enumerate is a proof for every operand of that width. `sync` is left out of the
transfers and refinements, and replaced by one that hands its views through: that it keeps the
members of all views is proved of its steps below, and enumerated as a whole in `test_scalar`.
"""

from __future__ import annotations

import argparse
import operator
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import z3

from pybpfvm.isa.opcodes import AluOp, JmpOp
from pybpfvm.isa.semantics import CONCRETE_ALU
from pybpfvm.verifier.domains import alu, branch, interval, scalar, tnum
from pybpfvm.verifier.domains.scalar import Scalar
from pybpfvm.verifier.domains.word import SIGN32, SIGN64, SPAN64, U32
from tests.support.evidence import keep
from tests.verifier.domains.symbolic import GaveUp, Path, Word

# A `Word`, which the domains take for an int.
Symbol = Any
# A claim gets a prover of some width, makes its operands and says what must hold.
Claim = Callable[["Prover"], bool]


class Prover:
    """Symbolic operands of one width, and whether a claim about them holds on every path."""

    def __init__(self, width: int, deadline: float, *, products: bool = True) -> None:
        self.width = width
        self.full = (1 << width) - 1
        self.half = self.full >> 1
        # Twice the width holds every product and shift; the rest is room for sums and signs.
        self.path = Path((2 * width if products else width) + 4, [], deadline)
        self._count = 0

    def number(self, low: int, high: int) -> Symbol:
        """Any integer from `low` to `high`."""
        self._count += 1
        term = z3.BitVec(f"n{self._count}", self.path.bits)
        self.path.solver.add(term >= low, term <= high)
        return Word(self.path, term)

    def assume(self, *terms: Any) -> None:
        self.path.solver.add(*terms)

    def word(self) -> Symbol:
        return self.number(0, self.full)

    def signed(self, word: Symbol, full: int | None = None) -> Symbol:
        sign = ((full or self.full) >> 1) + 1
        return (word ^ sign) - sign

    def tnum(self, member: Symbol) -> tuple[Symbol, Symbol]:
        mask = self.word()
        return member & ~mask, mask

    def interval(self, member: Symbol) -> tuple[Symbol, Symbol, Symbol, Symbol]:
        smin, smax = (self.number(-self.half - 1, self.half) for _ in range(2))
        umin, umax = self.word(), self.word()
        value = self.signed(member)
        self.assume(within(member, umin, umax), within(value, smin, smax))
        return smin, smax, umin, umax

    def scalar(self, member: Symbol) -> Scalar:
        """Any Scalar of 64 bits that has this member, in step or not."""
        low = member & U32
        low_ends = [self.number(-SIGN32, SIGN32 - 1) for _ in range(2)]
        low_ends += [self.number(0, U32) for _ in range(2)]
        self.assume(within(self.signed(low, U32), *low_ends[:2]), within(low, *low_ends[2:]))
        return Scalar(*self.tnum(member), *self.interval(member), *low_ends)

    def always(self, run: Callable[[], Any]) -> bool:
        """Whether the term that `run` returns holds on every path through it."""
        assert self.path.possible(z3.BoolVal(True)), "no operand meets the assumptions"
        return all(self.path.follows(term) for term in self.path.explore(run))


def _term(number: Any, like: Symbol) -> Any:
    return number.term if isinstance(number, Word) else z3.BitVecVal(number, like.path.bits)


def within(word: Symbol, low: Any, high: Any) -> Any:
    return z3.And(_term(low, word) <= word.term, word.term <= _term(high, word))


def in_tnum(word: Symbol, pair: tuple[Any, Any]) -> Any:
    value, mask = (_term(part, word) for part in pair)
    return z3.And((value ^ word.term) & ~mask == 0, value & mask == 0)


def in_interval(prover: Prover, word: Symbol, found: interval.Interval) -> Any:
    return z3.And(within(word, *found[2:]), within(prover.signed(word), *found[:2]))


def in_scalar(prover: Prover, word: Symbol, found: Scalar) -> Any:
    low = word & U32
    return z3.And(
        in_tnum(word, (found.value, found.mask)),
        within(word, found.umin, found.umax),
        within(prover.signed(word), found.smin, found.smax),
        within(low, found.u32min, found.u32max),
        within(prover.signed(low, U32), found.s32min, found.s32max),
    )


def _concrete(op: AluOp, prover: Prover, x: Symbol, y: Symbol) -> Symbol:
    """The reference semantics with its choices as terms, so that it does not split paths."""
    full = prover.full
    if op in (AluOp.DIV, AluOp.MOD):
        zero = _term(0, x) if op is AluOp.DIV else x.term
        done = (x // y if op is AluOp.DIV else x % y).term
        return Word(x.path, z3.If(y.term == 0, zero, done))
    if op in (AluOp.SDIV, AluOp.SMOD):
        sx, sy = prover.signed(x), prover.signed(y)
        if op is AluOp.SDIV:
            size = (abs(sx) // abs(sy)).term
            done = z3.If((sx.term < 0) == (sy.term < 0), size, -size)
            return Word(x.path, z3.If(y.term == 0, _term(0, x), done)) & full
        size = (abs(sx) % abs(sy)).term
        done = z3.If(sx.term < 0, -size, size)
        return Word(x.path, z3.If(y.term == 0, x.term, done)) & full
    if op is AluOp.ADD:
        return (x + y) & full
    if op is AluOp.SUB:
        return (x - y) & full
    if op is AluOp.MUL:
        return (x * y) & full
    if op is AluOp.AND:
        return x & y
    if op is AluOp.OR:
        return x | y
    if op is AluOp.XOR:
        return x ^ y
    count = y & (prover.width - 1)
    if op is AluOp.LSH:
        return (x << count) & full
    return (x >> count) if op is AluOp.RSH else (prover.signed(x) >> count) & full


def _tnum_binary(op: AluOp, operation: Callable[..., Any]) -> Claim:
    def claim(prover: Prover) -> bool:
        x, y = prover.word(), prover.word()
        a, b = prover.tnum(x), prover.tnum(y)
        result = _concrete(op, prover, x, y)
        return prover.always(lambda: in_tnum(result, operation(*a, *b, prover.full)))

    return claim


def _tnum_shift(op: AluOp) -> Claim:
    def claim(prover: Prover) -> bool:
        x, count = prover.word(), prover.number(0, prover.width - 1)
        value, mask = prover.tnum(x)
        result = _concrete(op, prover, x, count)
        if op is AluOp.RSH:
            return prover.always(lambda: in_tnum(result, tnum.rshift(value, mask, count)))
        shift = tnum.lshift if op is AluOp.LSH else tnum.arshift
        return prover.always(lambda: in_tnum(result, shift(value, mask, count, prover.full)))

    return claim


def _tnum_set_operation(name: str) -> Claim:
    def claim(prover: Prover) -> bool:
        x = prover.word()
        a = prover.tnum(x)
        low = (1 << prover.width // 2) - 1
        if name == "cast":
            return prover.always(lambda: in_tnum(x & low, tnum.cast(*a, low)))
        if name == "sign_extend":
            extended = prover.signed(x & low, low) & prover.full
            return prover.always(lambda: in_tnum(extended, tnum.sign_extend(*a, low, prover.full)))
        if name == "from_range":
            first, last = prover.word(), prover.word()
            prover.assume(within(x, first, last))
            return prover.always(lambda: in_tnum(x, tnum.from_range(first, last)))
        if name == "intersect":
            b = prover.tnum(x)
            return prover.always(lambda: _or_false(tnum.intersect(*a, *b), x))
        b = prover.tnum(prover.word())
        if name == "union":
            return prover.always(lambda: in_tnum(x, tnum.union(*a, *b)))
        return prover.always(lambda: in_tnum(x, b) if tnum.is_subset(*a, *b) else z3.BoolVal(True))

    return claim


def _or_false(pair: Any, word: Symbol) -> Any:
    return z3.BoolVal(False) if pair is None else in_tnum(word, pair)


def _interval_binary(op: AluOp, operation: Callable[..., Any]) -> Claim:
    def claim(prover: Prover) -> bool:
        x, y = prover.word(), prover.word()
        a, b = prover.interval(x), prover.interval(y)
        result = _concrete(op, prover, x, y)
        return prover.always(lambda: in_interval(prover, result, operation(a, b, prover.full)))

    return claim


def _interval_shift(op: AluOp, operation: Callable[..., Any]) -> Claim:
    def claim(prover: Prover) -> bool:
        x, count = prover.word(), prover.number(0, prover.width - 1)
        least, most = (prover.number(0, prover.width - 1) for _ in range(2))
        prover.assume(within(count, least, most))
        a = prover.interval(x)
        result = _concrete(op, prover, x, count)
        return prover.always(
            lambda: in_interval(prover, result, operation(a, least, most, prover.full))
        )

    return claim


def _low_bits(prover: Prover) -> bool:
    x = prover.number(-prover.full, prover.full)
    low, high = (prover.number(-prover.full, prover.full) for _ in range(2))
    prover.assume(within(x, low, high))
    field = (1 << prover.width // 2) - 1
    half = (field >> 1) + 1

    def run() -> Any:
        smin, smax, umin, umax = interval.low_bits(low, high, field)
        word = x & field
        return z3.And(within(word, umin, umax), within((word ^ half) - half, smin, smax))

    return prover.always(run)


def _cross(prover: Prover) -> bool:
    x = prover.word()
    a = prover.interval(x)

    def run() -> Any:
        found = scalar._cross(*a, SIGN64, SPAN64)
        return z3.BoolVal(False) if found is None else in_interval(prover, x, found)

    return prover.always(run)


def _with_low(ends: Callable[..., Any]) -> Claim:
    def claim(prover: Prover) -> bool:
        x = prover.word()
        a = prover.scalar(x)

        def run() -> Any:
            found = ends(a.smin, a.smax, a.umin, a.umax, a.s32min, a.s32max, a.u32min, a.u32max)
            return in_interval(prover, x, found)

        return prover.always(run)

    return claim


def _hand_through(*views: Any) -> Scalar:
    return Scalar(*views)


def _hand_small_through(value: Any, mask: Any, low: Any, high: Any) -> Scalar:
    return Scalar(value, mask, low, high, low, high, low, high, low, high)


def _as_it_is(found: Scalar) -> Scalar:
    return found


def _without_sync(prover: Prover, run: Callable[[], Any]) -> bool:
    with (
        patch.object(alu, "sync", _hand_through),
        patch.object(alu, "sync_small", _hand_small_through),
        patch.object(alu, "sharpened", _as_it_is),
        patch.object(branch, "sharpened", _as_it_is),
        patch.object(branch, "sync", _hand_through),
        patch.object(branch, "sync_small", _hand_small_through),
        patch.object(scalar, "sync", _hand_through),
    ):
        return prover.always(run)


def _transfer(op: AluOp, width: int, *, as_kernel: bool = False) -> Claim:
    def claim(prover: Prover) -> bool:
        x, y = prover.word(), prover.word()
        a, b = prover.scalar(x), prover.scalar(y)
        if op in (AluOp.LSH, AluOp.RSH, AluOp.ARSH):
            b.mask = 0
            prover.assume((b.value == y).term)
        return _without_sync(
            prover,
            lambda: in_scalar(
                prover,
                CONCRETE_ALU[op](x, y, width),
                alu.alu(op, width, a, b, as_kernel=as_kernel),
            ),
        )

    return claim


def _holds(op: JmpOp, prover: Prover, x: Symbol, y: Symbol, width: int) -> bool:
    """The condition of the reference semantics, which compares with methods of int itself."""
    if width == 32:
        x, y = x & U32, y & U32
    if op is JmpOp.JSET:
        return bool(x & y)
    if op.value.startswith("js"):
        full = U32 if width == 32 else None
        x, y = prover.signed(x, full), prover.signed(y, full)
    return bool(getattr(operator, op.value.removeprefix("j").removeprefix("s"))(x, y))


def _refinement(op: JmpOp, width: int, *, as_kernel: bool = False) -> Claim:
    def claim(prover: Prover) -> bool:
        x, y = prover.word(), prover.word()
        a, b = prover.scalar(x), prover.scalar(y)

        def run() -> Any:
            arms = branch.arms_of(op, width, as_kernel=as_kernel, forgets=as_kernel)
            arm = arms[0 if _holds(op, prover, x, y, width) else 1](a, b)
            if arm is None:
                return z3.BoolVal(False)
            return z3.And(in_scalar(prover, x, arm[0]), in_scalar(prover, y, arm[1]))

        return _without_sync(prover, run)

    return claim


_BITWISE = (AluOp.AND, AluOp.OR, AluOp.XOR)
_ANY = (64, 32, 16, 8, 6, 4)
_FULL_ONLY = (64,)

_TNUM = {
    AluOp.ADD: tnum.add,
    AluOp.SUB: tnum.sub,
    AluOp.MUL: tnum.mul,
    AluOp.AND: tnum.and_,
    AluOp.OR: tnum.or_,
    AluOp.XOR: tnum.xor,
    AluOp.DIV: alu._div_tnum,
    AluOp.MOD: alu._mod_tnum,
    AluOp.SMOD: alu._smod_tnum,
}
_INTERVAL = {
    AluOp.ADD: interval.add,
    AluOp.SUB: interval.sub,
    AluOp.MUL: interval.mul,
    AluOp.AND: interval.and_,
    AluOp.OR: interval.or_,
    AluOp.XOR: interval.xor,
    AluOp.DIV: interval.div,
    AluOp.MOD: interval.mod,
    AluOp.SDIV: interval.sdiv,
    AluOp.SMOD: interval.smod,
}
_SHIFT = {AluOp.LSH: interval.lsh, AluOp.RSH: interval.rsh, AluOp.ARSH: interval.arsh}
_SET_OPERATIONS = ("intersect", "union", "is_subset", "from_range", "cast", "sign_extend")
_TRANSFERS = (AluOp.ADD, AluOp.SUB, AluOp.NEG, *_BITWISE, *_SHIFT)

CLAIMS: dict[str, tuple[Claim, tuple[int, ...]]] = {
    **{f"tnum {op.value}": (_tnum_binary(op, run), _ANY) for op, run in _TNUM.items()},
    **{f"tnum {op.value}": (_tnum_shift(op), _ANY) for op in _SHIFT},
    **{f"tnum {name}": (_tnum_set_operation(name), _ANY) for name in _SET_OPERATIONS},
    **{f"range {op.value}": (_interval_binary(op, run), _ANY) for op, run in _INTERVAL.items()},
    **{f"range {op.value}": (_interval_shift(op, run), _ANY) for op, run in _SHIFT.items()},
    "range low bits": (_low_bits, _ANY),
    "sync: signed with unsigned": (_cross, _FULL_ONLY),
    "sync: word with low half": (_with_low(scalar._with_low), _FULL_ONLY),
    "sharpened: word with low half": (_with_low(scalar._all_with_low), _FULL_ONLY),
    "kernel's tnum mul": (_tnum_binary(AluOp.MUL, tnum.mul_in_order), _ANY),
    "kernel's range mul": (_interval_binary(AluOp.MUL, interval.mul_unless_wraps), _ANY),
    "kernel's range and": (_interval_binary(AluOp.AND, interval.and_unsigned), _ANY),
    **{
        f"kernel's transfer {op.value}{width}": (_transfer(op, width, as_kernel=True), _FULL_ONLY)
        for op in (AluOp.AND, AluOp.LSH)
        for width in (64, 32)
    },
    **{
        f"kernel's branch jset{width}": (
            _refinement(JmpOp.JSET, width, as_kernel=True),
            _FULL_ONLY,
        )
        for width in (64, 32)
    },
    **{
        f"transfer {op.value}{width}": (_transfer(op, width), _FULL_ONLY)
        for op in _TRANSFERS
        for width in (64, 32)
    },
    **{
        f"branch {op.value}{width}": (_refinement(op, width), _FULL_ONLY)
        for op in JmpOp
        for width in (64, 32)
    },
}


def prove(
    claim: Claim, widths: tuple[int, ...], seconds: float, *, products: bool
) -> tuple[str, float]:
    """What to say of a claim, and the seconds of the attempt that decided it."""
    start = time.monotonic()
    for width in widths:
        start = time.monotonic()
        try:
            holds = claim(Prover(width, start + seconds, products=products))
        except GaveUp:
            continue
        taken = time.monotonic() - start
        return f"{'proved' if holds else 'REFUTED'} at {width} bits", taken
    return "timed out", time.monotonic() - start


def _proved(log: str) -> dict[str, tuple[str, float]]:
    """What an earlier run, of the same code, printed of the claims that it proved."""
    with open(log, encoding="ascii") as file:
        found = re.findall(r"^(.{30}) (proved at \d+ bits) +([\d.]+) s$", file.read(), re.M)
    return {name.rstrip(): (answer, float(taken)) for name, answer, taken in found}


def _makes_products(name: str) -> bool:
    """Whether the claim's numbers may grow to twice the width."""
    return any(word in name for word in ("mul", "sh"))


def main() -> int:
    """Print one line for each claim; 1 if any was refuted."""
    parser = argparse.ArgumentParser(prog="prove", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="for each claim and width")
    parser.add_argument("--only", default="", help="claims whose name contains this")
    parser.add_argument("--again", metavar="LOG", help="but those proved there")
    args = parser.parse_args()
    before = _proved(args.again) if args.again else {}
    answers: Counter[str] = Counter()
    for name, (claim, widths) in CLAIMS.items():
        if args.only in name:
            if name in before:
                answer, taken = before[name]
            else:
                answer, taken = prove(claim, widths, args.seconds, products=_makes_products(name))
            answers[answer.partition(" at ")[0]] += 1
            print(f"{name:30} {answer:22} {taken:7.1f} s", flush=True)
    if not args.only:
        proved = f"{answers['proved']} of {len(CLAIMS)} claims; {answers['REFUTED']} refuted"
        keep("prove", "make prove", [("operators of the numeric domains proved with z3", proved)])
    return 1 if answers["REFUTED"] else 0


if __name__ == "__main__":
    sys.exit(main())
