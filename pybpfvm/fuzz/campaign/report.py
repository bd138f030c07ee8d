"""What a campaign found: the results of its shards as one. Which came first, or twice, does not
change it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pybpfvm.fuzz.campaign.shard import Kind, Result
from pybpfvm.fuzz.findings import Finding


@dataclass(frozen=True, slots=True)
class Part:
    """Seeds `first` to `first + count - 1`, and what they came to; `seconds` is the time of the
    processes that did them."""

    first: int
    count: int
    seconds: float
    executions: int


@dataclass
class Report:
    """What a campaign on `target` found. `hits` and `known` are by what they are names of ("rules",
    "opcodes"); `corpus` inputs there are, of which `added` are new. `elapsed` is wall time of this
    process, `jobs` how many others worked for it (0: it did the work itself)."""

    target: str
    known: Mapping[str, frozenset[str]] = field(default_factory=dict)
    features: set[int] = field(default_factory=set)
    hits: dict[str, Counter[str]] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    corpus: int = 0
    added: int = 0
    judged: int = 0
    accepted: int = 0
    jobs: int = 0
    elapsed: float = 0.0
    interrupted: bool = False
    notes: tuple[str, ...] = ()
    saved: dict[str, Finding] = field(default_factory=dict)  # by bucket, with their places
    _parts: dict[str, tuple[int, Part]] = field(default_factory=dict)
    _found: dict[str, tuple[int, Finding]] = field(default_factory=dict)
    _small: dict[str, Finding] = field(default_factory=dict)

    def add(self, result: Result) -> bool:
        """Take the result of a shard in; False if that was done before, which changes nothing."""
        if result.kind is Kind.SHRINK:
            self._small.update((one.problem.bucket, one) for one in result.findings)
            return True
        if result.name in self._parts:
            return False
        part = Part(result.first, result.seeds, result.seconds, result.executions)
        self._parts[result.name] = result.number, part
        self.outcomes.update(result.outcomes)
        self.judged += result.judged
        self.accepted += result.accepted
        for what, counts in result.hits.items():
            self.hits.setdefault(what, Counter()).update(counts)
        for _, features in result.kept:
            self.features |= features
        for found in result.findings:
            self._take(result.number, found)
        return True

    def _take(self, number: int, found: Finding) -> None:
        bucket = found.problem.bucket
        before, kept = self._found.get(bucket, (number, None))
        if kept is not None:
            first = kept if before < number else found
            found = replace(first, count=kept.count + found.count)
        self._found[bucket] = min(before, number), found

    @property
    def findings(self) -> dict[str, Finding]:
        """One of each bucket, in the order of their shards, as small as it was made. Executions
        and seconds are those of all shards before it too."""
        found: dict[str, Finding] = {}
        for bucket, (number, one) in sorted(self._found.items(), key=lambda item: item[1][0]):
            before = [part for at, part in self._parts.values() if at < number]
            one = replace(
                one,
                executions=one.executions + sum(part.executions for part in before),
                seconds=one.seconds + sum(part.seconds for part in before),
            )
            if bucket in self.saved:
                place = self.saved[bucket]
                one = replace(one, folder=place.folder, command=place.command)
            small = self._small.get(bucket)
            if small is not None and small.first == one.first:
                one = replace(
                    one,
                    problem=small.problem,
                    data=small.data,
                    files=small.files,
                    shrink_tries=small.shrink_tries,
                )
            found[bucket] = one
        return found

    @property
    def buckets(self) -> int:
        """How many findings there are."""
        return len(self._found)

    @property
    def shards(self) -> list[Part]:
        """What was done, as few ranges of seeds as that comes to."""
        parts: list[Part] = []
        for _, one in sorted(self._parts.values(), key=lambda part: part[0]):
            last = parts[-1] if parts else None
            if last is not None and last.first + last.count == one.first:
                count, seconds = last.count + one.count, last.seconds + one.seconds
                parts[-1] = Part(last.first, count, seconds, last.executions + one.executions)
            else:
                parts.append(one)
        return parts

    @property
    def executions(self) -> int:
        """Inputs tried."""
        return self.outcomes.total()

    @property
    def seconds(self) -> float:
        """Time that the shards took together."""
        return sum(part.seconds for _, part in self._parts.values())

    @property
    def rate(self) -> float:
        """Executions a second, of one process."""
        return self.executions / self.seconds if self.seconds else 0.0

    @property
    def accept_rate(self) -> float | None:
        """The share of the judged inputs that was accepted; None if nothing judges."""
        return self.accepted / self.judged if self.judged else None

    def never(self, what: str) -> list[str]:
        """The names of a kind that nothing hit, in order."""
        return sorted(self.known[what] - set(self.hits.get(what, ())))

    @property
    def exit_code(self) -> int:
        """0: nothing was found, 1: something was, 130: Ctrl-C came first."""
        return 130 if self.interrupted else 1 if self._found else 0
