"""Which shards a campaign consists of. That depends on its options and on the results of shards
before, never on who does them, how many at a time, or in which order they come back.

Shard n takes its corpus from what was merged of the shards up to n - AHEAD, in their order; beside
it comes what it finds itself. So AHEAD of them can be under way, and nobody waits for the slowest
of a round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pybpfvm.fuzz.campaign.shard import Kind, Result, Shard

AHEAD: Final = 8
_RAMP: Final = 6  # the first shards are small, halved so often: early finds are soon shared
_INPUTS: Final = 256  # of a shard that tries those there are


class Plan:
    """Shards for `inputs`, then for seeds from `first` on: `seeds` in each, which come to about
    `per_seed` executions. `count` executions in all; None: without end."""

    def __init__(
        self,
        inputs: Sequence[bytes],
        first: int,
        seeds: int,
        per_seed: int,
        *,
        count: int | None = None,
        ahead: int = AHEAD,
    ) -> None:
        self.corpus: list[bytes] = []  # inputs that covered something new
        self.merged = 0  # shards merged: all before this number
        self._first = first
        self._seeds = seeds
        self._per_seed = per_seed
        self._count = count
        self._ahead = ahead
        self._chunks = [tuple(inputs[at : at + _INPUTS]) for at in range(0, len(inputs), _INPUTS)]
        self._next = 0  # the number of the next shard
        self._ends = [first]  # where the seeds of each shard end
        self._most: list[int] = []  # executions that each shard of seeds may come to
        self._waiting: dict[int, Result] = {}
        self._features: dict[int, int] = {}  # when each was covered: after so many shards
        self._sizes = [0]  # of the corpus, after so many shards
        self._executions = [0]  # likewise

    def next(self) -> Shard | None:
        """The next shard; None where the results of others must come first, or there is none."""
        number = self._next
        if number < len(self._chunks):
            self._next += 1
            return Shard(Kind.INPUTS, number, self._first, inputs=self._chunks[number])
        place = number - len(self._chunks)
        base = max(len(self._chunks), number + 1 - self._ahead)
        if self.merged < base:
            return None
        seeds = max(1, self._seeds >> max(0, _RAMP - place // self._ahead))
        most = seeds * self._per_seed
        if self._count is not None:
            left = self._left(base)
            if left <= 0 and self.merged == number:
                left = self._left(number)
            if left <= 0:
                return None
            most = min(most, left)
            seeds = -(-most // self._per_seed)
        first = self._ends[-1]
        self._ends.append(first + seeds)
        self._most.append(most)
        self._next += 1
        corpus = tuple(self.corpus[: self._sizes[base]])
        known = frozenset(one for one, after in self._features.items() if after <= base)
        return Shard(Kind.SEEDS, number, first, seeds, most, corpus=corpus, known=known)

    def _left(self, base: int) -> int:
        """Executions left, as known when the shards before `base` were done."""
        assert self._count is not None
        begun = base - len(self._chunks)
        return self._count - self._executions[base] - sum(self._most[begun:])

    def done(self, result: Result) -> list[bytes]:
        """Take in what a whole shard came to; the inputs that are new in the corpus by it, or by
        others that waited for it."""
        if result.number < self.merged:
            return []
        self._waiting[result.number] = result
        added: list[bytes] = []
        while (one := self._waiting.pop(self.merged, None)) is not None:
            self.merged += 1
            new = self._new(one)
            self.corpus += new
            added += new
            self._sizes.append(len(self.corpus))
            self._executions.append(self._executions[-1] + one.executions)
        return added

    def ended(self, result: Result) -> list[bytes]:
        """The inputs of a shard that was ended early which are worth keeping. Nothing comes after
        that."""
        return self._new(result)

    def _new(self, result: Result) -> list[bytes]:
        found: list[bytes] = []
        for data, features in result.kept:
            new = [feature for feature in features if feature not in self._features]
            if new:
                self._features.update(dict.fromkeys(new, self.merged))
                found.append(data)
        return found
