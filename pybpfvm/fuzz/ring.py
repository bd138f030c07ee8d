"""`fuzz ring`: generated request sequences on the simulated ring and on the running kernel's.

An input is a line: `requests 17` or `network 17`, with the numbers of the steps that are left out
behind `without`. Oracles: both rings make the same of a sequence, three times of three; where
there is no io_uring, the simulated one makes the same of it twice, and completes in the order that
mainline promises. Coverage: which request ends with which error, as the simulated ring plays it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random

from pybpfvm.errors import InputError, errno_name
from pybpfvm.fuzz.network_sequences import generate as generate_network
from pybpfvm.fuzz.ring_agreement import compare_sequence, compare_steps, differing, name
from pybpfvm.fuzz.ring_sequences import Generator, Outcome, Sequence, disorder, play_on
from pybpfvm.fuzz.target import NO_INPUT, OneByOne, Problem, Tried, without_chunks
from pybpfvm.uring_backend.abi import OP_LAST, Op
from pybpfvm.uring_backend.kernel.probe import available
from pybpfvm.uring_backend.sim import SimBackend

_LINE = re.compile(r"(requests|network) (\d{1,18})( without( \d{1,4}){1,200})?\n?")
_AGAIN = 2  # times that a sequence which differed is played anew: what passes is a race
_NETWORK_SHARE = 5


@dataclass(frozen=True, slots=True)
class SequenceInput:
    """An input that was read."""

    kind: str
    seed: int
    without: frozenset[int] = frozenset()

    def data(self) -> bytes:
        """As an input."""
        left_out = "".join(f" {number}" for number in sorted(self.without))
        return f"{self.kind} {self.seed}{' without' * bool(left_out)}{left_out}\n".encode()

    def requests(self) -> Sequence:
        """The requests without the steps that are left out."""
        sequence = Generator(self.seed).sequence()
        kept = [step for at, step in enumerate(sequence.steps) if at not in self.without]
        return replace(sequence, steps=kept)


def read(data: bytes) -> SequenceInput:
    """The sequence of an input. Raises InputError for what is none."""
    found = _LINE.fullmatch(data.decode("ascii", "replace"))
    if found is None:
        raise InputError("no sequence", where="input", remedy="see docs/fuzzing.md")
    left_out = (found[3] or "").split()[1:]
    return SequenceInput(found[1], int(found[2]), frozenset(map(int, left_out)))


class RingTarget(OneByOne):
    """Sequences of requests, one in five of sockets; `kernel` False: without the kernel's ring."""

    name = "ring"
    shard_seeds = 128

    def __init__(self, *, kernel: bool = True) -> None:
        known = frozenset(op.name for op in Op if op < OP_LAST)
        self.known: Mapping[str, frozenset[str]] = {"requests": known}
        self.notes: list[str] = []
        reason = available() if kernel else "it was not to be used (--backend sim)"
        self._kernel = reason is None
        if reason is not None:
            self.notes.append(f"nothing was played on the kernel's ring: {reason}")

    def fresh(self, seed: int) -> bytes:
        network = seed % _NETWORK_SHARE == 0 and self._kernel
        return SequenceInput("network" if network else "requests", seed).data()

    def mutated(self, data: bytes, seed: int) -> bytes:
        try:
            made = read(data)
        except InputError:
            return self.fresh(seed)
        random = Random(f"mutated {seed}")
        without = made.without ^ {random.randrange(8)}
        return replace(made, without=frozenset(without)).data()

    def run(self, data: bytes) -> Tried:
        try:
            made = read(data)
        except InputError:
            return Tried(NO_INPUT)
        if made.kind == "network":
            return self._network(made)
        sequence = made.requests()
        played = _simulated(sequence)
        found = self._differences(sequence, played)
        ops = {spec.token: spec.op for step in sequence.steps for spec in step.specs}
        names = {token: Op(op).name for token, op in ops.items() if op < OP_LAST}
        ends = {
            (names.get(token, ops[token]), _end(result), bool(flags))
            for token, result, flags in played.events
        }
        return Tried(
            "different" if found else "alike",
            features=frozenset(ends),
            hits={"requests": frozenset(names.values())},
            problem=_problem(found) if found else None,
        )

    def _differences(self, sequence: Sequence, played: Outcome) -> list[str]:
        if self._kernel:
            found = compare_sequence(sequence)
            again = bool(found) and all(compare_sequence(sequence) for _ in range(_AGAIN))
            return found if again else []
        return [
            *differing(sequence, played, _simulated(sequence)),
            *(f"sim: {text}" for text in disorder(sequence, played)),
        ]

    def _network(self, made: SequenceInput) -> Tried:
        kind, steps = generate_network(made.seed)
        kept = [step for at, step in enumerate(steps) if at not in made.without]
        if not self._kernel:
            return Tried("not played: no kernel")
        found = compare_steps(made.seed, kind, kept)
        if found and not all(compare_steps(made.seed, kind, kept) for _ in range(_AGAIN)):
            found = []
        features = frozenset((kind, step.what) for step in kept)
        return Tried(
            "different" if found else "alike",
            features=features,
            problem=_problem(found[-1:], found) if found else None,
        )

    def smaller(self, data: bytes) -> Iterator[bytes]:
        try:
            made = read(data)
        except InputError:
            return
        if made.kind == "network":
            count = len(generate_network(made.seed)[1])
        else:
            count = len(Generator(made.seed).sequence().steps)
        left = [at for at in range(count) if at not in made.without]
        for start, end in without_chunks(len(left)):
            yield replace(made, without=made.without | set(left[start:end])).data()

    def files(self, data: bytes) -> Mapping[str, bytes]:
        try:
            made = read(data)
        except InputError:
            return {}
        if made.kind == "network":
            kind, steps = generate_network(made.seed)
            rows = [kind, *(f"{at}: {step}" for at, step in enumerate(steps))]
        else:
            rows = []
            for at, step in enumerate(made.requests().steps):
                rows.append(f"step {at}: host {[what for what, _ in step.host]}")
                rows += [
                    "  " + " -> ".join(name(spec) for spec in unit.specs) for unit in step.units
                ]
        return {"sequence.txt": "\n".join((*rows, "")).encode()}


def _simulated(sequence: Sequence) -> Outcome:
    seed = sequence.seed
    return play_on(sequence, lambda memory: SimBackend(memory, seed=seed), None)


def _end(result: object) -> str:
    if not isinstance(result, int):
        return str(result)
    return errno_name(result) if result < 0 else "0" if result == 0 else "more"


def _problem(found: list[str], details: list[str] | None = None) -> Problem:
    """`READ of ...` counts with other READs that differ in the same results."""
    first = found[0]
    request = re.match(r"\d+:([A-Z_0-9]+)", first)
    where = request[1] if request else first.partition(":")[0]
    results = re.findall(r"(sim|kernel) (-E[A-Z0-9]+|nothing|\d+)", first)
    said = ",".join("n" if word.isdigit() else word for _, word in results[:2])
    message = f"the rings differ: {first[:300]}"
    return Problem(f"rings-differ/{where}/{said}", message, "\n".join(details or found))
