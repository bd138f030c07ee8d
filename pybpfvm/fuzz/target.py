"""What can be fuzzed: a target makes inputs from seeds, tries them, and says what it saw.

An input is bytes, whatever the target: a file of a corpus, what a fuzzer of another make hands
over. The same bytes are always tried in the same way, so that a file repeats what it showed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Problem:
    """An input for which an oracle did not hold.

    `bucket` is what such problems have in common (`trap/OUT_OF_BOUNDS/ldxw`): one of each is kept.
    `message` is a line, `details` the evidence.
    """

    bucket: str
    message: str
    details: str = ""


NO_INPUT = "no input"  # the outcome of bytes that are none of the target's inputs


@dataclass(frozen=True, slots=True)
class Tried:
    """What trying one input showed.

    `outcome` is a word or two ("accepted", "refused"); `accepted` None where nothing judges.
    `features` are what coverage counts: an input with a new one is worth keeping. `hits` are names
    of things exercised, by what they are names of: see Target.known.
    """

    outcome: str
    accepted: bool | None = None
    features: frozenset[object] = frozenset()
    hits: Mapping[str, frozenset[str]] = field(default_factory=dict)
    problem: Problem | None = None
    executions: int = 1


@dataclass(frozen=True, slots=True)
class Turn:
    """What a target did with one seed: the inputs that are worth a look with what they showed, and
    the executions, by outcome, of all that are not among them."""

    tried: Sequence[tuple[bytes, Tried]]
    others: Mapping[str, int] = field(default_factory=dict)


# Is shown each input before it is tried.
Before = Callable[[bytes | bytearray], None]


class Target(Protocol):
    """Something to fuzz."""

    name: str  # as the command line calls it
    known: Mapping[str, frozenset[str]]  # "rules": all that could be hit, ...
    notes: list[str]  # what a report must say of how it was tried
    shard_seeds: int = 256  # seeds that keep a process busy for a second or two
    seed_executions: int = 1  # what a seed comes to, about
    before: Before | None = None  # to be called with what `turn` tries; None: nobody looks

    def begin(self) -> None:
        """Forget what earlier seeds have shown: what comes is as of a new target."""

    def turn(self, seed: int, corpus: Sequence[bytes], most: int) -> Turn:
        """Try what comes of this seed and of inputs that were worth keeping, up to `most`
        executions. The same arguments give the same."""

    def run(self, data: bytes) -> Tried:
        """Try one input; anything may be given."""

    def mutated(self, data: bytes, seed: int) -> bytes:
        """Another input, from this one."""

    def smaller(self, data: bytes) -> Iterator[bytes]:
        """Inputs with less in them, from the boldest cut to the smallest."""

    def files(self, data: bytes) -> Mapping[str, bytes]:
        """The input for people and other tools, by file name."""

    def advice(self, never: Mapping[str, Sequence[str]]) -> Sequence[str]:
        """What a report says of names of `known` that nothing hit: what would get there."""
        return ()

    def close(self) -> None:
        """Give back what it holds."""


class OneByOne:
    """A turn for targets that try one input with each seed, and keep nothing between them. They
    have `fresh` beside the rest.

    `from_corpus` is the share of inputs that are changed ones of the corpus, once there is one.
    """

    from_corpus = 0.5
    shard_seeds: int = 256
    seed_executions: int = 1
    before: Before | None = None

    def begin(self) -> None:
        """See Target."""

    def fresh(self, seed: int) -> bytes:
        """The input of a seed."""
        raise NotImplementedError

    def mutated(self, data: bytes, seed: int) -> bytes:
        """See Target."""
        raise NotImplementedError

    def run(self, data: bytes) -> Tried:
        """See Target."""
        raise NotImplementedError

    def smaller(self, data: bytes) -> Iterator[bytes]:
        """See Target."""
        raise NotImplementedError

    def files(self, data: bytes) -> Mapping[str, bytes]:
        """See Target."""
        raise NotImplementedError

    def turn(self, seed: int, corpus: Sequence[bytes], most: int) -> Turn:
        """See Target."""
        random = Random(f"turn {seed}")
        if corpus and random.random() < self.from_corpus:
            data = self.mutated(random.choice(corpus), seed)
        else:
            data = self.fresh(seed)
        if self.before is not None:
            self.before(data)
        return Turn([(data, self.run(data))])

    def advice(self, never: Mapping[str, Sequence[str]]) -> Sequence[str]:
        """See Target."""
        return ()

    def close(self) -> None:
        """See Target."""


def without_chunks(count: int) -> Iterator[tuple[int, int]]:
    """(start, end) of the parts of a list of `count` that may be left out, half of it first."""
    size = count // 2
    while size >= 1:
        for start in range(0, count, size):
            yield start, min(start + size, count)
        size //= 2
