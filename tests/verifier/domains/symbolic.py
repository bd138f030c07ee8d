"""Integers that z3 reasons about: they run the domains' own source, one path at a time.

A `Word` behaves like a Python int, as a bit-vector so wide that nothing the code computes wraps.
Where the code asks for a truth value, the run takes one answer that the path so far allows and
notes the other; `explore` runs the function again until no answer is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import z3


class GaveUp(Exception):
    """The solver or the clock ended before the proof did."""


class Path:
    """The answers of one run, and what they imply."""

    def __init__(self, bits: int, assumptions: list[Any], deadline: float) -> None:
        self.bits = bits
        self.deadline = deadline
        self.solver = z3.SolverFor("QF_BV")
        self.solver.add(*assumptions)
        self.answers: list[bool] = []
        self.open: list[list[bool]] = [[]]
        self.taken = 0

    def possible(self, condition: Any) -> bool:
        left_ms = int((self.deadline - time.monotonic()) * 1000)
        if left_ms <= 0:
            raise GaveUp
        self.solver.set("timeout", left_ms)
        answer = self.solver.check(condition)
        if answer == z3.unknown:
            raise GaveUp
        return bool(answer == z3.sat)

    def follows(self, term: Any) -> bool:
        """Whether `term` holds wherever this path goes: each of its parts, with a fresh solver."""
        if z3.is_and(term):
            return all(self.follows(part) for part in term.children())
        left_ms = int((self.deadline - time.monotonic()) * 1000)
        if left_ms <= 0:
            raise GaveUp
        steps = ("simplify", "propagate-values", "solve-eqs", "simplify", "bit-blast", "sat")
        solver = z3.Then(*steps).solver()
        solver.set("timeout", left_ms)
        solver.add(*self.solver.assertions(), z3.Not(term))
        answer = solver.check()
        if answer == z3.unknown:
            raise GaveUp
        return bool(answer == z3.unsat)

    def decide(self, condition: Any) -> bool:
        if self.taken < len(self.answers):
            answer = self.answers[self.taken]
        else:
            answer = self.possible(condition)
            if answer and self.possible(z3.Not(condition)):
                self.open.append([*self.answers, False])
            self.answers.append(answer)
        self.taken += 1
        self.solver.add(condition if answer else z3.Not(condition))
        return answer

    def explore(self, run: Callable[[], Any]) -> Iterator[Any]:
        """What `run` returns on each path; during the iteration the solver knows the path."""
        while self.open:
            self.answers, self.taken = self.open.pop(), 0
            self.solver.push()
            yield run()
            self.solver.pop()


class Condition:
    """A comparison; asking whether it is true picks the path."""

    def __init__(self, path: Path, term: Any) -> None:
        self.path = path
        self.term = term

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return self.path.decide(self.term)

    def __eq__(self, other: object) -> bool:
        return bool(self) == bool(other)


def _zero(path: Path) -> Any:
    return z3.BitVecVal(0, path.bits)


class Word:
    """An integer of at most `path.bits` bits, with its sign."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, path: Path, term: Any) -> None:
        self.path = path
        self.term = term

    def _term(self, other: Any) -> Any:
        return other.term if isinstance(other, Word) else z3.BitVecVal(other, self.path.bits)

    def _word(self, term: Any) -> Word:
        return Word(self.path, term)

    def __add__(self, other: Any) -> Word:
        return self._word(self.term + self._term(other))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Word:
        return self._word(self.term - self._term(other))

    def __rsub__(self, other: Any) -> Word:
        return self._word(self._term(other) - self.term)

    def __mul__(self, other: Any) -> Word:
        return self._word(self.term * self._term(other))

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Word:
        if isinstance(other, int) and other & (other - 1) == 0:
            return self >> (other.bit_length() - 1)
        # Other divisors occur where both numbers are at least 0.
        return self._word(z3.UDiv(self.term, self._term(other)))

    def __rfloordiv__(self, other: int) -> Word:
        return self._word(z3.UDiv(self._term(other), self.term))

    def __mod__(self, other: Any) -> Word:
        return self._word(z3.URem(self.term, self._term(other)))

    def __and__(self, other: Any) -> Word:
        return self._word(self.term & self._term(other))

    __rand__ = __and__

    def __or__(self, other: Any) -> Word:
        return self._word(self.term | self._term(other))

    __ror__ = __or__

    def __xor__(self, other: Any) -> Word:
        return self._word(self.term ^ self._term(other))

    __rxor__ = __xor__

    def __lshift__(self, count: Any) -> Word:
        return self._word(self.term << self._term(count))

    def __rlshift__(self, number: int) -> Word:
        return self._word(self._term(number) << self.term)

    def __rshift__(self, count: Any) -> Word:
        return self._word(self.term >> self._term(count))

    def __rrshift__(self, number: int) -> Word:
        return self._word(self._term(number) >> self.term)

    def __invert__(self) -> Word:
        return self._word(~self.term)

    def __neg__(self) -> Word:
        return self._word(-self.term)

    def __abs__(self) -> Word:
        return self._word(z3.If(self.term < 0, -self.term, self.term))

    def __lt__(self, other: Any) -> Condition:
        return Condition(self.path, self.term < self._term(other))

    def __le__(self, other: Any) -> Condition:
        return Condition(self.path, self.term <= self._term(other))

    def __gt__(self, other: Any) -> Condition:
        return Condition(self.path, self.term > self._term(other))

    def __ge__(self, other: Any) -> Condition:
        return Condition(self.path, self.term >= self._term(other))

    def __eq__(self, other: object) -> Condition:  # type: ignore[override]
        return Condition(self.path, self.term == self._term(other))

    def __ne__(self, other: object) -> Condition:  # type: ignore[override]
        return Condition(self.path, self.term != self._term(other))

    def __bool__(self) -> bool:
        return self.path.decide(self.term != 0)

    def bit_count(self) -> Word:
        """Of a number that is at least 0."""
        count = _zero(self.path)
        for bit in range(self.path.bits - 1):
            more = z3.ZeroExt(self.path.bits - 1, z3.Extract(bit, bit, self.term))
            count = count + more
        return self._word(count)

    def bit_length(self) -> Word:
        """Of a number that is at least 0."""
        length = _zero(self.path)
        for bit in range(self.path.bits - 1):
            length = z3.If(
                z3.Extract(bit, bit, self.term) == 1, z3.BitVecVal(bit + 1, self.path.bits), length
            )
        return self._word(length)
