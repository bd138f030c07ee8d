"""What expressions see at a position of a recording."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pybpfvm.debugger.history import History
from pybpfvm.memory import RegionKind
from pybpfvm.session.objects import LoadedObject
from pybpfvm.session.scope import LiveScope
from pybpfvm.session.user import Block
from pybpfvm.source.info import DebugInfo
from pybpfvm.trace.ringstate import RingState

_OF_USERS = frozenset({RegionKind.USER, RegionKind.SHARED, RegionKind.CTX, RegionKind.PACKET})


class RecordedScope(LiveScope):
    """The scope of `obj` where `history` is; `program`, `pc`, `regs` and `moment` are for whoever
    knows them to set."""

    def __init__(self, history: History, obj: LoadedObject, debug: DebugInfo) -> None:
        super().__init__(obj, {}, _Blocks(history), debug)
        self.rings = _Rings(history)


class _Rings(Mapping[str, RingState]):
    """The rings, as they are when they are asked."""

    def __init__(self, history: History) -> None:
        self._history = history

    def __getitem__(self, name: str) -> RingState:
        return {one.name: one for one in self._history.rings().values()}[name]

    def __iter__(self) -> Iterator[str]:
        return iter([one.name for one in self._history.rings().values()])

    def __len__(self) -> int:
        return len(self._history.replay.index.rings)


class _Blocks(Mapping[str, Block]):
    """Blocks of user memory that there are now, by name; of several the last one."""

    def __init__(self, history: History) -> None:
        self._memory = history.memory

    def _all(self) -> dict[str, Block]:
        return {
            one.name: Block(self._memory, one)
            for one in self._memory.regions()
            if one.kind in _OF_USERS
        }

    def __getitem__(self, name: str) -> Block:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())
