"""A scenario on its stage, played in one order after the other, and how it is to be explored."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from pybpfvm.btf.types import Btf
from pybpfvm.errors import InputError, RingHang
from pybpfvm.events import Observer
from pybpfvm.explore.findings import Shown, shown_by
from pybpfvm.explore.footprints import Footprints
from pybpfvm.explore.strategies import OutOfTime
from pybpfvm.interrupts import uninterrupted
from pybpfvm.loader.kconfig import Kconfig
from pybpfvm.memory import RegionKind
from pybpfvm.scenario import Live, Outcome, Scenario, run_scenario
from pybpfvm.scenario.schedule import Player
from pybpfvm.scenario.stage import Stage
from pybpfvm.scenario.watching import Checks
from pybpfvm.session import Budgets

_LIVELOCK_RUNS: Final = 1_000
DEFAULT_SCHEDULES: Final = 1_000
DEFAULT_SECONDS: Final = 60.0
DEFAULT_RUNS: Final = 10_000
_EVER_NS: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Options:
    """How to explore. `faults` may be chosen in one schedule, `schedules` and `seconds` are used at
    the most; `depth` and `deviations` bound dfs. `everything`: go on after a finding. `reduce`:
    leave out orders that only change places of independent actions. More than `budget_runs` of
    programs in one step are a hang."""

    strategy: str = "dfs"
    schedules: int = DEFAULT_SCHEDULES
    seconds: float = DEFAULT_SECONDS
    seed: int = 0
    faults: int = 0
    depth: int | None = None
    deviations: int | None = None
    everything: bool = False
    reduce: bool = True
    shrink: bool = True
    events: bool = True  # False: only what needs no events is checked, which is faster
    object_path: str | None = None
    abi: str | None = None
    helpers: Mapping[int, str] | None = None
    btf: Btf | None = None
    kconfig: Kconfig | None = None
    verify: bool = True
    engine: str = "auto"
    budget_runs: int = DEFAULT_RUNS


class Table:
    """A scenario on its stage: plays one schedule after the other."""

    def __init__(self, scenario: Scenario, options: Options) -> None:
        self.scenario = scenario
        self.options = options
        self.left: int | None = None  # how many requests usually are in flight at the end
        self._stage = Stage(
            scenario,
            object_path=options.object_path,
            abi=options.abi,
            helpers=options.helpers,
            btf=options.btf,
            kconfig=options.kconfig,
        )
        self._stage.keep()
        self.state = 0
        self.runs = 0  # of programs, in what was played last
        self._budgets = replace(
            Budgets(),
            max_runs=options.budget_runs,
            livelock_runs=_LIVELOCK_RUNS,
            fruitless_runs=_LIVELOCK_RUNS,
            wall_ns=_EVER_NS,  # what is found must not depend on the machine's speed
        )
        self._end = math.inf

    def ends_after(self, seconds: float) -> None:
        """From now on plays end after so many seconds in all; never earlier than was said."""
        end = time.monotonic() + seconds
        if self._end is math.inf or end > self._end:
            self._end = end
            end_ns = None if math.isinf(end) else int(end * 1e9)
            self._budgets = replace(self._budgets, end_ns=end_ns)

    def close(self) -> None:
        """Free everything."""
        self._stage.close()

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def footprints(self) -> Footprints:
        """An observer of what actions touch, for programs of this object."""
        return Footprints(self._stage.object.object, self._stage.object.profile)

    def play(
        self,
        player: Player,
        *,
        scenario: Scenario | None = None,
        observer: Observer | None = None,
        heard: frozenset[str] | None = None,
        on_start: Callable[[Live], None] | None = None,
        on_end: Callable[[Live], None] | None = None,
        state: bool = False,
    ) -> Outcome:
        """One run; `state`: note a hash of what is there at the end, the clock apart. Raises
        OutOfTime when the time ends it."""
        options, began = self.options, time.monotonic()

        def ends(live: Live) -> None:
            player.over = True
            if state:
                self.state = hash(tuple(_state(live)))
            if on_end is not None:
                on_end(live)

        try:
            # All of it is one call: to make signals wait, and not to, takes time each time.
            outcome = uninterrupted(run_scenario)(
                scenario or self.scenario,
                seed=options.seed,
                verify=options.verify,
                engine=options.engine,
                budgets=self._budgets,
                observer=observer,
                heard=heard,
                on_start=on_start,
                on_end=ends,
                chooser=player,
                checks=Checks(self.left, events=options.events),
                stage=self._stage,
            )
        finally:
            player.over = True
        self.runs = sum(outcome.runs.values())
        if isinstance(outcome.stopped, RingHang) and outcome.stopped.by_clock:
            raise OutOfTime(self.runs, time.monotonic() - began)
        return outcome

    def shown(
        self,
        player: Player,
        scenario: Scenario | None = None,
        *,
        observer: Observer | None = None,
    ) -> tuple[Shown, ...]:
        """Play, and say what that showed."""
        outcome = self.play(player, scenario=scenario, observer=observer)
        return shown_by(outcome, self.scenario.path, faulty=player.faulty)


def _state(live: Live) -> list[object]:
    memory = live.ring.machine.memory
    found: list[object] = [block.read() for block in live.blocks.values()]
    for name, view in live.object.maps.items():
        try:
            found += [(name, str(key), str(value)) for key, value in view.items()]
        except InputError:
            found.append(name)
    # What engines have for themselves comes when they compile.
    found.append(sum(r.size for r in memory.regions() if r.kind is not RegionKind.HOST))
    for name, ring in live.rings.items():
        found += [(name, cq, posted) for cq, posted in sorted(ring.counts.posted.items())]
    return found
