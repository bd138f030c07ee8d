"""Rings that are looked at when they are closed, in place of those that examples and scenarios
make: nothing in flight, nothing counted wrongly, their memory given back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import pybpfvm.examples.loops
import pybpfvm.scenario.rings
import pybpfvm.session
from pybpfvm.events import Event, Observer
from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.session import LoadedProgram, LoopRing, Ring
from pybpfvm.session.hostring import HostRing
from pybpfvm.session.registering import require_accepted
from pybpfvm.uring_backend.base import Backend
from pybpfvm.uring_backend.conditions import Conditions
from pybpfvm.uring_backend.kernel.backend import KernelBackend
from pybpfvm.verifier.usermemory.contract import Contract
from tests.soak.ledger import Ledger

# What rings and engines take for themselves; maps and user blocks are objects' and hosts'.
_OF_RINGS = frozenset({RegionKind.RING, RegionKind.CTX, RegionKind.STACK, RegionKind.HOST})
_STUCK_TURNS = 2000


class Stuck(TimeoutError):
    """A host waits for what its program does not do any more."""


@dataclass
class Watch:
    """What rings of a job are given, and what they leave. `observed` ones keep a ledger; others
    leave compiled code alone with the kernel's ring. `hosted`: a host takes turns with them, and
    would wait for ever."""

    observed: bool = True
    faults: str | None = None
    seed: int = 0
    conditions: Conditions | None = None
    hosted: bool = False
    rings: int = 0
    looped: int = 0  # of them, those that compiled code drove by itself
    issued: int = 0
    posted: int = 0
    cut: int = 0  # requests that closing a ring ended
    faults_met: int = 0
    wrong: list[str] = field(default_factory=list)
    _open: Counter[int] = field(default_factory=Counter)
    _regions: dict[int, int] = field(default_factory=dict)

    def weather(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Seed and faults for a ring with these options; one beside another meets that one's."""
        beside = options.get("beside") is not None
        faults = None if beside else self.faults or options.get("faults")
        return {"seed": self.seed, "faults": faults}

    def opened(self, ring: HostRing, before: int) -> None:
        """A ring was made in a machine that had so many regions of rings."""
        self.rings += 1
        memory = id(ring.machine.memory)
        if not self._open[memory]:
            self._regions[memory] = before
        self._open[memory] += 1
        _look_inside(self, ring.backend)
        network = ring.world.network
        if network is not None and self.conditions is not None:
            network.set(self.conditions)

    def closed(self, ring: HostRing) -> None:
        """It is closed: the last one of a machine leaves it as it was."""
        memory = ring.machine.memory
        self._open[id(memory)] -= 1
        if not self._open[id(memory)] and not memory.closed:
            left = regions(memory) - self._regions[id(memory)]
            if left:
                self.wrong.append(f"{left} regions of a closed ring are left")

    def audit(self, ledger: Ledger) -> None:
        """What a ledger says at the end."""
        self.issued += ledger.issued
        self.faults_met += ledger.faults
        self.wrong += ledger.closing()


def regions(memory: AddressSpace) -> int:
    """How many regions rings and engines have in a machine."""
    return sum(entry[0].kind in _OF_RINGS for entry in memory._entries)


def _observer(watch: Watch, ledger: Ledger, given: Observer | None) -> Observer | None:
    if not watch.observed:
        return given
    if given is None:
        return ledger
    both = given

    def see(event: Event) -> None:
        ledger(event)
        both(event)

    return see


def _watched(watch: Watch) -> type[Ring]:
    class WatchedRing(Ring):
        def __init__(self, *args: Any, observer: Observer | None = None, **options: Any) -> None:
            self.ledger = Ledger()
            self._idle_turns, self._seen = 0, -1
            options |= watch.weather(options)
            observer = _observer(watch, self.ledger, observer)
            machine = options.get("machine") or pybpfvm.session.machine.default_machine()
            before = regions(machine.memory)
            super().__init__(*args, observer=observer, **options)
            watch.opened(self, before)

        def run_until_idle(self, timeout_ns: int | None = None) -> bool:
            idle = super().run_until_idle(timeout_ns)
            done = self.counts.insns + self.counts.posted.total()
            self._idle_turns = self._idle_turns + 1 if done == self._seen else 0
            self._seen = done
            if watch.hosted and self._idle_turns > _STUCK_TURNS:
                raise Stuck(f"nothing ran for {_STUCK_TURNS} turns")
            return idle

        def close(self) -> None:
            if self._closed:
                return
            core = self._core
            held = [] if core is None else [core.ready(cq) for cq in range(len(core.cqs))]
            if core is not None:
                watch.wrong += _balance(core.counts.posted, core.counts.reaped, held)
                watch.cut += len(core._submitter.table.live)
            super().close()
            if core is not None:
                table = core._submitter.table
                watch.looped += core._loop is not None
                watch.posted += core.counts.posted.total()
                left = len(table.live) + len(table._by_user_data)
                if left:
                    watch.wrong.append(f"a closed ring still knows {left} requests")
                if watch.observed and self.ledger.posted != +core.counts.posted:
                    watch.wrong.append(
                        f"CQEs told {self.ledger.posted}, counted {core.counts.posted}"
                    )
            _given_back(watch, self.backend)
            watch.audit(self.ledger)
            watch.closed(self)

    return WatchedRing


def _watched_loop(watch: Watch) -> type[LoopRing]:
    class WatchedLoopRing(LoopRing):
        def __init__(self, *args: Any, observer: Observer | None = None, **options: Any) -> None:
            self.ledger = Ledger()
            options |= watch.weather(options)
            observer = _observer(watch, self.ledger, observer)
            before = regions(options["machine"].memory)
            super().__init__(*args, observer=observer, **options)
            watch.opened(self, before)

        def close(self) -> None:
            if self._closed:
                return
            core, counts, ledger = self.core, self.counts, self.ledger
            watch.wrong += _balance(counts.posted, counts.reaped, [core.queues.cq.count()])
            watch.posted += counts.posted.total()
            if watch.observed:
                core.posts.tell_reaped()
                # Such a ring tells nothing of what it cancels: until then the two agree.
                known = set(core.requests.live)
                if set(ledger.live) != known:
                    watch.wrong.append(f"under way {set(ledger.live)}, known {known}")
                watch.cut += len(ledger.live)
                ledger.live.clear()
            super().close()
            _given_back(watch, self.backend)
            watch.audit(ledger)
            watch.closed(self)

    return WatchedLoopRing


def _balance(posted: Counter[int], reaped: Counter[int], held: list[int]) -> list[str]:
    """CQEs that came are those that went and those that are there."""
    return [
        f"CQ {cq}: {posted[cq]} CQEs came, {reaped[cq]} went, {there} are there"
        for cq, there in enumerate(held)
        if posted[cq] != reaped[cq] + there
    ]


def _look_inside(watch: Watch, backend: Backend) -> None:
    """Have a kernel's backend tell what is still in flight when it gives its ring back: requests
    of compiled code, too."""
    if not isinstance(backend, KernelBackend):
        return
    cancel = backend._cancel_everything

    def cancelling() -> None:
        cancel()
        left = backend.in_flight()
        if left:
            watch.wrong.append(f"{left} requests are in flight in a ring that is given back")

    backend._cancel_everything = cancelling  # type: ignore[method-assign]


def _given_back(watch: Watch, backend: Backend) -> None:
    if isinstance(backend, KernelBackend):
        if backend.world.owned and not backend._sharing:
            watch.wrong.append(f"descriptors {backend.world.owned} of a closed ring are open")
    elif backend.in_flight():
        watch.wrong.append(f"{backend.in_flight()} requests of a closed ring are in flight")


_accepted: set[tuple[str, str, str]] = set()  # programs that the verifier has accepted before


def _once_accepted(
    program: LoadedProgram, *, strict_ctx: bool, contract: Contract | None = None
) -> None:
    """What registering asks of the verifier, asked once in a process; a contract each time."""
    owner = program.owner
    key = owner.object.path, program.name, owner.profile.name
    if contract is not None:
        require_accepted(program, strict_ctx=strict_ctx, contract=contract)
    elif key not in _accepted:
        require_accepted(program, strict_ctx=strict_ctx)
        _accepted.add(key)


@contextmanager
def watching(watch: Watch, *, judged: bool = True) -> Iterator[None]:
    """Within it, scenarios and hosts that are loaded then make watched rings; with `judged` their
    programs are verified each time, else when they are new."""
    makers: list[tuple[Any, str, Callable[[Watch], type]]] = [
        (pybpfvm.session, "Ring", _watched),
        (pybpfvm.session, "LoopRing", _watched_loop),
        (pybpfvm.scenario.rings, "Ring", _watched),
        (pybpfvm.scenario.rings, "LoopRing", _watched_loop),
        (pybpfvm.examples.loops, "LoopRing", _watched_loop),
    ]
    with ExitStack() as stack:
        for module, name, make in makers:
            stack.enter_context(patch.object(module, name, make(watch)))
        for where in () if judged else ("ring", "loopring"):
            target = f"pybpfvm.session.{where}.require_accepted"
            stack.enter_context(patch(target, _once_accepted))
        yield
