"""Which fault a request of the simulated ring meets: by plan, or drawn from the seed.

A fault is decided when a request is tried for the first time, once its file is known, so that it
never hides an error that the kernel would have found first, and is one that such a file can have
(`chances`). What was injected is kept as a plan:
with it the same run happens again without any drawing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import copy
from random import Random
from typing import Final

from pybpfvm.uring_backend.abi import Op
from pybpfvm.uring_backend.choices import Chooser
from pybpfvm.uring_backend.faults import (
    ERRNO,
    LATE,
    LEGAL,
    RESET,
    SHORT,
    AtRequest,
    Fails,
    Faults,
    Harm,
    Late,
    Missed,
    Odds,
    Reset,
    Short,
    kinds_of,
)
from pybpfvm.uring_backend.sim.chances import Chances

_LATE_NS: Final = (1_000, 5_000_000)
_CHOSEN_LATE_NS: Final = 20_000
_OWN_STREAM: Final = 0xFA17  # keeps these draws apart from the ring's own


class Injector:
    """Decides for a ring, and those beside it; `injected` is what came of it, in order, `rates`
    what may be drawn.

    `told` is called with the token of a request and its fault. With a `chooser` nothing is drawn.
    """

    def __init__(self, faults: Faults, seed: int, chooser: Chooser | None = None) -> None:
        self._chooser = chooser
        self.injected: list[AtRequest] = []
        self.told: Callable[[int, AtRequest], None] = lambda token, fault: None
        self._plan = [fault for fault in faults.plan if isinstance(fault, AtRequest)]
        self._planned = {(fault.op, fault.nth): fault.harm for fault in self._plan}
        self._counts: Counter[Op] = Counter()
        self._random = Random(seed << 16 | _OWN_STREAM)
        self.rates = _switched_on(faults.odds, self._random)
        self._chosen = () if faults.odds is None else faults.odds.chosen

    def beside(self) -> Injector:
        """The same for a ring beside this one: requests of both are counted together, and only
        `told` is its own."""
        return copy(self)

    def at(self, op: Op, token: int, possible: Chances) -> Harm | None:
        """What comes to the next request of opcode `op`, of what is `possible` for it."""
        self._counts[op] += 1
        nth = self._counts[op]
        harm = self._planned.get((op, nth))
        if harm is None and self._chooser is not None:
            harm = self._certain(op, possible) or _asked(self._chooser, op, token, possible)
        elif harm is None:
            harm = self._draw(op, possible)
        if harm is None or not _comes(harm, possible):
            return None
        fault = AtRequest(op, nth, harm)
        self.injected.append(fault)
        self.told(token, fault)
        return harm

    def missed(self) -> list[Missed]:
        """What of the plan did not come so far."""
        came = set(self.injected)
        return [Missed(fault, self._why_not(fault)) for fault in self._plan if fault not in came]

    def _why_not(self, fault: AtRequest) -> str:
        tried = self._counts[fault.op]
        if tried < fault.nth:
            return f"{fault.op.name} requests tried: {tried}"
        if self._planned[fault.op, fault.nth] != fault.harm:
            return f"{fault.op.name}#{fault.nth}={self._planned[fault.op, fault.nth]} replaces it"
        if isinstance(fault.harm, Reset):
            return "that request has no TCP connection"
        if isinstance(fault.harm, Short):
            return "that request wants no more than that, or all or nothing"
        return "no kernel does that to such a file"

    def _certain(self, op: Op, possible: Chances) -> Harm | None:
        """What comes to every request of the opcode."""
        for chosen in self._chosen:
            if chosen.op == op and chosen.rate >= 1 and _comes(chosen.harm, possible):
                return chosen.harm
        return None

    def _draw(self, op: Op, possible: Chances) -> Harm | None:
        random, size = self._random, possible.size
        for chosen in self._chosen:
            if chosen.op == op and random.random() < chosen.rate and _comes(chosen.harm, possible):
                return chosen.harm
        for kind in kinds_of(op):
            rate = self.rates.get((op, kind), 0.0)
            if not rate or random.random() >= rate:
                continue
            if kind == ERRNO and possible.errors:
                return Fails(random.choice(sorted(possible.errors)))
            if kind == RESET and possible.reset:
                return Reset()
            if kind == LATE and possible.late:
                return Late(random.randint(*_LATE_NS))
            if kind == SHORT and size > 1:
                return Short(random.choice((1, size // 2, size - 1, random.randint(1, size - 1))))
        return None


def _asked(chooser: Chooser, op: Op, token: int, possible: Chances) -> Harm | None:
    """What a chooser lets come to a request: being late is no fault, all else is one of those."""
    harms: list[Harm | None] = [None]
    if possible.late:
        harms.append(Late(_CHOSEN_LATE_NS))
    if chooser.faults_left:
        harms += [Fails(number) for number in sorted(possible.errors) if number in LEGAL[op]]
        if SHORT in kinds_of(op) and possible.size > 1:
            harms += [Short(most) for most in sorted({1, possible.size // 2, possible.size - 1})]
        if possible.reset:
            harms.append(Reset())
    return harms[chooser.harm(token, harms)] if len(harms) > 1 else None


def _comes(harm: Harm, possible: Chances) -> bool:
    match harm:
        case Fails():
            return harm.errno in possible.errors
        case Short():
            return harm.most_bytes < possible.size
        case Late():
            return possible.late
        case Reset():
            return possible.reset


def _switched_on(odds: Odds | None, random: Random) -> dict[tuple[Op, str], float]:
    """The rates of this run: in a swarm, each kind of fault is on in about every fourth run, and
    then its rate is one of a few, so that runs differ in what they are full of."""
    if odds is None:
        return {}
    if not odds.swarm:
        return dict(odds.rates)
    rates = {}
    for key in odds.rates:
        if random.random() < odds.rates[key]:
            rates[key] = random.choice((0.02, 0.1, 0.5))
    return rates
