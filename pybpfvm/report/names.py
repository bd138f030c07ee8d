"""Names for the words programs pass around: user blocks, map values, stack slots, handles."""

from __future__ import annotations

from collections.abc import Iterator

from pybpfvm.image import FunctionRef, ProgramRef
from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.objectfile import global_variables
from pybpfvm.program import BpfObject
from pybpfvm.report.account import plain_number


class AddressNames:
    """Turns a 64-bit word into `&block+4`, a map's name, or a plain number; addresses in the
    data sections of `obj` into `&variable`, where its BTF tells."""

    def __init__(self, memory: AddressSpace, obj: BpfObject | None = None) -> None:
        self._memory = memory
        self._variables: dict[str, list[tuple[int, int, str]]] = {}
        for section, variable in _places(obj):
            self._variables.setdefault(section, []).append(variable)

    def __call__(self, word: int) -> str:
        target = self._memory.resolve(word)
        if target is not None:
            return _target_name(target)
        region = self._memory.region_at(word)
        if region is None:
            return plain_number(word)
        offset = word - region.start
        if region.kind is RegionKind.STACK:
            return f"&{region.name}-{region.size - offset}".replace("frame 0", "fp")
        name = region.name
        if region.kind is RegionKind.MAP_VALUE:
            for start, size, variable in self._variables.get(name, ()):
                if start <= offset < start + size:
                    name, offset = variable, offset - start
                    break
        return f"&{name}" + (f"+{offset}" if offset else "")


def _places(obj: BpfObject | None) -> Iterator[tuple[str, tuple[int, int, str]]]:
    """(map of a data section, (offset, size, variable)) of each global variable."""
    if obj is not None:
        for variable, (section, offset, size, _) in global_variables(obj):
            yield section, (offset, size, variable)


def _target_name(target: object) -> str:
    if isinstance(target, FunctionRef):
        return next(
            (sub.name for sub in target.program.subprogs if sub.start == target.pc), "function"
        )
    if isinstance(target, ProgramRef):
        return target.program.name
    spec = getattr(target, "spec", None)
    return spec.name if spec is not None else str(target)
