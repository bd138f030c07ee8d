"""What is set up once for runs of one scenario: its object in a machine, and the engines.

A scenario that runs again and again, in many orders, is loaded, verified and compiled once; between
runs maps get their first content back, and memory its first addresses.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from pybpfvm.btf.types import Btf
from pybpfvm.errors import InputError, InternalError
from pybpfvm.loader.kconfig import Kconfig
from pybpfvm.maps.rewind import rewinder
from pybpfvm.profiles import profile_named
from pybpfvm.scenario.live import Live, placed
from pybpfvm.scenario.model import Field, Ref, RingSetup, Scenario
from pybpfvm.scenario.names import check_names
from pybpfvm.session import Machine
from pybpfvm.session.engines import Kept
from pybpfvm.session.loopring import LOOP_FLAGS
from pybpfvm.session.values import Value
from pybpfvm.uring_backend.abi import SETUP_CQSIZE
from pybpfvm.uring_backend.loop.memory import ring_layout
from pybpfvm.uring_backend.loop.setup import check_setup


class Stage:
    """The object of `scenario`, loaded; a context manager that frees everything.

    `object_path` and `abi` replace the scenario's; `helpers`, `btf` and `kconfig` are those of
    Machine.load. InputError for an object that can not be used, or that the scenario does not fit.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        object_path: str | os.PathLike[str] | None = None,
        abi: str | None = None,
        helpers: Mapping[int, str] | None = None,
        btf: Btf | None = None,
        kconfig: Kconfig | None = None,
    ) -> None:
        self.live: Live | None = None  # of the run that is going on
        self.kept: Kept | None = None  # from run to run, if there may be several
        self._rewinders: list[Callable[[], None]] = []
        self.machine = Machine()
        try:
            profile = _abi(scenario, abi)
            with placed(scenario, scenario.path):
                self.object = self.machine.load(
                    object_path if object_path is not None else scenario.object,
                    abi=profile,
                    helpers=helpers,
                    btf=btf,
                    kconfig=kconfig,
                    constants=_constants(scenario),
                    replace=scenario.replace,
                )
                _ = self.object.profile
            check_names(scenario, self.object)
        except BaseException:
            self.machine.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def keep(self) -> bool:
        """Before the first run: make ready for several. False where that is not possible: rings of
        a loop, and maps that nothing brings back to how they were."""
        rewinders = [rewinder(live) for live in self.object.image.maps.values()]
        if self.object.profile.loop is not None or None in rewinders:
            return False
        self._rewinders = [one for one in rewinders if one is not None]
        self.kept = Kept()
        self.machine.memory.recycle()
        return True

    def rewind(self) -> None:
        """The ring of a run is closed: free its blocks, give maps their first content."""
        if self.kept is None:
            raise InternalError("a stage that is not kept is used again")
        if self.live is not None:
            for block in self.live.blocks.values():
                block.free()
            self.live = None
        for rewind in self._rewinders:
            rewind()

    def close(self) -> None:
        """Free everything; the ring must be closed before."""
        for engine in self.kept.engines.values() if self.kept is not None else ():
            engine.close()
        self.machine.close()


def loop_flags(setup: RingSetup) -> int:
    """io_uring_setup's flags for the ring of a loop."""
    return LOOP_FLAGS if setup.flags is None else setup.flags


def _constants(scenario: Scenario) -> Mapping[str, Value]:
    """What the object's constants are: known before there is a ring, whose numbers they may be."""
    setup = scenario.ring

    def value(given: Field) -> Value:
        match given:
            case Ref():
                flags = loop_flags(setup) | (SETUP_CQSIZE if setup.cq0_entries else 0)
                layout = ring_layout(check_setup(setup.entries, flags, setup.cq0_entries or 0))
                if given.name not in layout:
                    raise InputError(f"{given.name} is not known when an object is loaded")
                return layout[given.name] + given.offset
            case tuple():
                return [value(item) for item in given]
            case Mapping():
                return {name: value(item) for name, item in given.items()}
            case _:
                return given

    found = {}
    for name, given in scenario.constants.items():
        with placed(scenario, f"{scenario.path}: constants.{name}"):
            found[name] = value(given)
    return found


def _abi(scenario: Scenario, abi: str | None) -> str | None:
    """The profile's name that decides. Raises InputError with the place that gave a wrong one."""
    if abi is None and scenario.abi is not None:
        profile_named(scenario.abi, f"{scenario.path}: abi")
        return scenario.abi
    if abi is not None:
        profile_named(abi)
    return abi
